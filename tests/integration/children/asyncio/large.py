"""Sends 0, 1, 2 and then a string that takes long: large.py CHARACTERS."""

import asyncio
import sys

from nodecompat.asyncio import connect_parent


async def main() -> None:
    async with connect_parent() as parent:
        await parent.send_many([0, 1, 2])
        await parent.send("x" * int(sys.argv[1]))


asyncio.run(main())
