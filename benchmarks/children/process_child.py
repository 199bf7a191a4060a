"""The child of one measurement, on nodecompat.process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


PLAYS: dict[str, Callable[[int, Done], None]] = {
    "echo": echo,
    "produce": produce,
    "produce_many": produce,
    "consume": consume,
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
