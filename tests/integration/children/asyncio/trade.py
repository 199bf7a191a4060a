"""Sends a string that takes long before it reads one, then the length of the other: trade.py N."""

import asyncio
import sys

from nodecompat.asyncio import connect_parent


async def main() -> None:
    async with connect_parent() as parent:
        await parent.send("c" * int(sys.argv[1]))
        await parent.send(len(await parent.recv()))


asyncio.run(main())
