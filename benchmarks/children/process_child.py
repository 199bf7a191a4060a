"""The child of one measurement, on nodecompat.process."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from benchmarks.handles import connection, take_handle
from benchmarks.plays import CHILD_WORKS, Stopwatch, ready, small_message, unknown_work
from nodecompat import process

Done = Callable[[], None]


def echo(count: int, done: Done) -> None:
    left = count

    def on_message(message: Any, handle: Any) -> None:
        nonlocal left
        process.send(message)
        left -= 1
        if not left:
            process.off("message", on_message)
            done()

    process.on("message", on_message)


def produce(count: int, done: Done) -> None:
    for id in range(count):
        process.send(small_message(id))
    done()


def consume(count: int, done: Done) -> None:
    left = count

    def on_message(message: Any, handle: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            process.off("message", on_message)
            done()

    process.on("message", on_message)


def give_handles(count: int, done: Done) -> None:
    stack = contextlib.ExitStack()
    sock = stack.enter_context(connection())
    ids = iter(range(count))

    # One at a time: each one that is queued holds a descriptor of its own.
    def more(error: Exception | None) -> None:
        id = next(ids, None)
        if error is None and id is not None:
            process.send(small_message(id), sock, keep_open=True, callback=more)
            return
        stack.close()
        if error is not None:
            raise error
        done()

    more(None)


def take_handles(count: int, done: Done) -> None:
    seen = 0

    def on_message(message: Any, handle: socket.socket | None) -> None:
        nonlocal seen
        take_handle(message, handle, seen)
        seen += 1
        if seen == count:
            process.off("message", on_message)
            done()

    process.on("message", on_message)


PLAYS: dict[str, Callable[[int, Done], None]] = {
    "echo": echo,
    "produce": produce,
    "produce_many": produce,
    "consume": consume,
    "give_handles": give_handles,
    "take_handles": take_handles,
}


def await_run(play: Callable[[int, Done], None]) -> None:
    def on_run(message: Any, handle: Any) -> None:
        stopwatch = Stopwatch()

        def done() -> None:
            await_run(play)
            process.send(stopwatch.report())

        play(message["run"], done)

    process.once("message", on_run)


def on_work(work: Any, handle: Any) -> None:
    name = work["work"]
    if name not in CHILD_WORKS:
        process.send(unknown_work("process_child.py", name))
        return
    if CHILD_WORKS[name]:
        await_run(PLAYS[CHILD_WORKS[name]])
    process.send(ready(name, "process"))


def main() -> None:
    process.once("message", on_work)
    process.wait()


if __name__ == "__main__":
    main()
