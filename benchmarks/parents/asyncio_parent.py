"""The parent of one measurement, on nodecompat.asyncio: ``asyncio_parent.py JOB``."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
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
from nodecompat.asyncio import Child, fork
from nodecompat.errors import NodeIPCError

Play = Callable[[Child, int, dict[str, Any]], Awaitable[None]]


async def round_trip(child: Child, count: int, work: dict[str, Any]) -> None:
    for id in range(count):
        await child.send(small_message(id))
        check_id(await child.recv(), id)


async def take(child: Child, count: int, work: dict[str, Any]) -> None:
    id = 0
    async for message in child:
        check_id(message, id)
        id += 1
        if id == count:
            return


async def give(child: Child, count: int, work: dict[str, Any]) -> None:
    for id in range(count):
        await child.send(small_message(id))


async def give_many(child: Child, count: int, work: dict[str, Any]) -> None:
    await child.send_many(small_message(id) for id in range(count))


async def large_echo(child: Child, count: int, work: dict[str, Any]) -> None:
    text = large_text(work["size"])
    for _ in range(count):
        await child.send(text)
        check_echo(await child.recv(), text)


async def take_handles(child: Child, count: int, work: dict[str, Any]) -> None:
    await handles.take_handles_async(child, count)


async def give_handles(child: Child, count: int, work: dict[str, Any]) -> None:
    await handles.give_handles_async(child, count)


PLAYS: dict[str, Play] = {
    "round_trip": round_trip,
    "take": take,
    "give": give,
    "give_many": give_many,
    "large_echo": large_echo,
    "take_handles": take_handles,
    "give_handles": give_handles,
}


@asynccontextmanager
async def forked(job: dict[str, Any]) -> AsyncIterator[Child]:
    async with fork(
        job["child"]["module"],
        exec_path=job["child"]["execPath"],
        exec_argv=job["child"]["execArgv"],
        serialization=job["serialization"],
        stdio=["ignore", "inherit", "inherit", "ipc"],
    ) as child:
        await child.send(job["work"])
        yield child
        await child.disconnect()
        check_exit(await child.wait())


async def measure_start(job: dict[str, Any], result: Result) -> None:
    for turn in range(job["warmup"] + job["count"]):
        stopwatch = Stopwatch()
        async with forked(job) as child:
            ready = check_ready(await child.recv())
            took = stopwatch.read()
        result.child_is(ready)
        if turn >= job["warmup"]:
            result.add(took, ready["cpu"])


async def measure_runs(job: dict[str, Any], play: Play, result: Result) -> None:
    work = job["work"]

    async def run(child: Child, count: int) -> dict[str, Any]:
        await child.send({"run": count})
        await play(child, count, work)
        return check_report(await child.recv())

    async with forked(job) as child:
        result.child_is(check_ready(await child.recv()))
        if job["warmup"]:
            await run(child, job["warmup"])
        large_text(work["size"])
        stopwatch = Stopwatch()
        report = await run(child, job["count"])
        result.add(stopwatch.read(), report["cpu"])


async def measure(job: dict[str, Any], result: Result) -> None:
    name = play_of(PARENT_WORKS, "asyncio_parent.py", job["work"]["work"])
    if name:
        await measure_runs(job, PLAYS[name], result)
    else:
        await measure_start(job, result)


def main() -> None:
    result = Result("asyncio")
    try:
        asyncio.run(measure(json.loads(sys.argv[1]), result))
    except (PlayError, NodeIPCError) as error:
        sys.exit(f"asyncio_parent.py: {type(error).__name__}: {error}")
    result.print()


if __name__ == "__main__":
    main()
