"""The child of one measurement, on nodecompat.asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.handles import give_handles_async, take_handles_async
from benchmarks.plays import CHILD_WORKS, Stopwatch, ready, small_message, unknown_work
from nodecompat.asyncio import Channel, connect_parent


async def echo(parent: Channel, count: int) -> None:
    left = count
    async for message in parent:
        await parent.send(message)
        left -= 1
        if not left:
            return


async def produce(parent: Channel, count: int) -> None:
    for id in range(count):
        await parent.send(small_message(id))


async def produce_many(parent: Channel, count: int) -> None:
    await parent.send_many(small_message(id) for id in range(count))


async def consume(parent: Channel, count: int) -> None:
    left = count
    async for _ in parent:
        left -= 1
        if not left:
            return


PLAYS: dict[str, Callable[[Channel, int], Awaitable[None]]] = {
    "echo": echo,
    "produce": produce,
    "produce_many": produce_many,
    "consume": consume,
    "give_handles": give_handles_async,
    "take_handles": take_handles_async,
}


async def main() -> None:
    async with connect_parent() as parent:
        work: dict[str, Any] = await parent.recv()
        name = work["work"]
        if name not in CHILD_WORKS:
            await parent.send(unknown_work("asyncio_child.py", name))
            return
        await parent.send(ready(name, "asyncio"))
        async for message in parent:
            stopwatch = Stopwatch()
            await PLAYS[CHILD_WORKS[name]](parent, message["run"])
            await parent.send(stopwatch.report())


if __name__ == "__main__":
    asyncio.run(main())
