"""The child of js-fixtures/backpressure.cjs: does not read until a line comes on stdin.

Prints how many messages came, and the numbers of those that were out of order.
"""

import asyncio
import json
import sys

from nodecompat.asyncio import connect_parent


async def main() -> None:
    # The event loop reads, but no more than this many bytes ahead.
    async with connect_parent(max_queued=2**16) as parent:
        await parent.send("connected")
        await asyncio.to_thread(sys.stdin.readline)
        numbers = [message["n"] async for message in parent]
    wrong = [n for index, n in enumerate(numbers) if n != index]
    print(json.dumps({"python": {"received": len(numbers), "wrong": wrong}}))


asyncio.run(main())
