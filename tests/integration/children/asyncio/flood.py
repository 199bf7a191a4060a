"""The Python side of js-fixtures/flood.cjs: flood.py COUNT."""

import asyncio
import sys

from nodecompat.asyncio import Channel, connect_parent

count = int(sys.argv[1])


async def send_all(parent: Channel) -> None:
    for n in range(count):
        await parent.send({"n": n})


async def receive_all(parent: Channel) -> None:
    wrong: list[int] = []
    received = 0
    async for message in parent:
        if "report" in message:
            continue
        if message["n"] != received:
            wrong.append(message["n"])
        received += 1
        if received == count:
            await parent.send({"report": {"received": received, "wrong": wrong[:10]}})


async def main() -> None:
    async with connect_parent() as parent:
        await asyncio.gather(send_all(parent), receive_all(parent))


asyncio.run(main())
