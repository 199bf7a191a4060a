"""The parent of one measurement, on nodecompat.sync: ``sync_parent.py JOB``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import handles
from benchmarks.plays import (
    PARENT_WORKS,
    PlayError,
    Result,
    Stopwatch,
    check_echo,
    check_exit,
    check_id,
    check_ready,
    check_report,
    large_text,
    play_of,
    small_message,
)
from nodecompat.errors import NodeIPCError
from nodecompat.sync import Child, fork

Play = Callable[[Child, int, dict[str, Any]], None]


def round_trip(child: Child, count: int, work: dict[str, Any]) -> None:
    for id in range(count):
        child.send(small_message(id))
        check_id(child.recv(), id)


def take(child: Child, count: int, work: dict[str, Any]) -> None:
    for id, message in enumerate(child):
        check_id(message, id)
        if id + 1 == count:
            return


def give(child: Child, count: int, work: dict[str, Any]) -> None:
    for id in range(count):
        child.send(small_message(id))


def give_many(child: Child, count: int, work: dict[str, Any]) -> None:
    child.send_many(small_message(id) for id in range(count))


def large_echo(child: Child, count: int, work: dict[str, Any]) -> None:
    text = large_text(work["size"])
    for _ in range(count):
        child.send(text)
        check_echo(child.recv(), text)


def take_handles(child: Child, count: int, work: dict[str, Any]) -> None:
    handles.take_handles(child, count)


def give_handles(child: Child, count: int, work: dict[str, Any]) -> None:
    handles.give_handles(child, count)


PLAYS: dict[str, Play] = {
    "round_trip": round_trip,
    "take": take,
    "give": give,
    "give_many": give_many,
    "large_echo": large_echo,
    "take_handles": take_handles,
    "give_handles": give_handles,
}


@contextmanager
def forked(job: dict[str, Any]) -> Iterator[Child]:
    with fork(
        job["child"]["module"],
        exec_path=job["child"]["execPath"],
        exec_argv=job["child"]["execArgv"],
        serialization=job["serialization"],
        stdio=["ignore", "inherit", "inherit", "ipc"],
    ) as child:
        child.send(job["work"])
        yield child
        child.disconnect()
        check_exit(child.wait())


def measure_start(job: dict[str, Any], result: Result) -> None:
    for turn in range(job["warmup"] + job["count"]):
        stopwatch = Stopwatch()
        with forked(job) as child:
            ready = check_ready(child.recv())
            took = stopwatch.read()
        result.child_is(ready)
        if turn >= job["warmup"]:
            result.add(took, ready["cpu"])


def measure_runs(job: dict[str, Any], play: Play, result: Result) -> None:
    work = job["work"]

    def run(child: Child, count: int) -> dict[str, Any]:
        child.send({"run": count})
        play(child, count, work)
        return check_report(child.recv())

    with forked(job) as child:
        result.child_is(check_ready(child.recv()))
        if job["warmup"]:
            run(child, job["warmup"])
        large_text(work["size"])
        stopwatch = Stopwatch()
        report = run(child, job["count"])
        result.add(stopwatch.read(), report["cpu"])


def main() -> None:
    job = json.loads(sys.argv[1])
    result = Result("sync")
    try:
        name = play_of(PARENT_WORKS, "sync_parent.py", job["work"]["work"])
        if name:
            measure_runs(job, PLAYS[name], result)
        else:
            measure_start(job, result)
    except (PlayError, NodeIPCError) as error:
        sys.exit(f"sync_parent.py: {type(error).__name__}: {error}")
    result.print()


if __name__ == "__main__":
    main()
