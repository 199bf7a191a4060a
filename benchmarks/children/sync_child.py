"""The child of one measurement, on nodecompat.sync."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.handles import give_handles, take_handles
from benchmarks.plays import CHILD_WORKS, Stopwatch, ready, small_message, unknown_work
from nodecompat.sync import Channel, connect_parent


def echo(parent: Channel, count: int) -> None:
    left = count
    for message in parent:
        parent.send(message)
        left -= 1
        if not left:
            return


def produce(parent: Channel, count: int) -> None:
    for id in range(count):
        parent.send(small_message(id))


def produce_many(parent: Channel, count: int) -> None:
    parent.send_many(small_message(id) for id in range(count))


def consume(parent: Channel, count: int) -> None:
    left = count
    for _ in parent:
        left -= 1
        if not left:
            return


PLAYS: dict[str, Callable[[Channel, int], None]] = {
    "echo": echo,
    "produce": produce,
    "produce_many": produce_many,
    "consume": consume,
    "give_handles": give_handles,
    "take_handles": take_handles,
}


def main() -> None:
    with connect_parent() as parent:
        work: dict[str, Any] = parent.recv()
        name = work["work"]
        if name not in CHILD_WORKS:
            parent.send(unknown_work("sync_child.py", name))
            return
        parent.send(ready(name, "sync"))
        for message in parent:
            stopwatch = Stopwatch()
            PLAYS[CHILD_WORKS[name]](parent, message["run"])
            parent.send(stopwatch.report())


if __name__ == "__main__":
    main()
