"""Sends a Buffer back, and how much memory that took: js-fixtures/advanced-large.cjs."""

import asyncio

from nodecompat.asyncio import connect_parent
from tests.integration.advanced_plays import peak_memory


async def main() -> None:
    async with connect_parent() as parent:
        before = peak_memory()
        await parent.send(await parent.recv())
        await parent.send({"memory": peak_memory() - before})
        async for _ in parent:
            raise AssertionError("another message")


asyncio.run(main())
