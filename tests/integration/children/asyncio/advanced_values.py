"""Says of each value whether it is right, and sends it back: js-fixtures/advanced-values.cjs."""

import asyncio

from nodecompat.asyncio import connect_parent
from tests.integration.advanced_plays import answer


async def main() -> None:
    async with connect_parent() as parent:
        async for message in parent:
            await parent.send(answer(message))


asyncio.run(main())
