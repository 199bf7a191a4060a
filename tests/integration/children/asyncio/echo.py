"""Sends every message back."""

import asyncio

from nodecompat.asyncio import connect_parent


async def main() -> None:
    async with connect_parent() as parent:
        async for message in parent:
            await parent.send(message)


asyncio.run(main())
