"""Starts to send large numbered messages, and ends before the sends do: abandon.py COUNT."""

import asyncio
import gc
import sys

from nodecompat.asyncio import connect_parent

count = int(sys.argv[1])


async def main() -> None:
    parent = await connect_parent()
    text = "x" * 1_000_000
    sends = [asyncio.create_task(parent.send({"n": n, "text": text})) for n in range(count)]
    # All of them begin now; what the kernel does not take at once is left to the event loop.
    await asyncio.sleep(0)
    assert not sends[-1].done()


asyncio.run(main())
# Nothing in this program holds the channel any more.
gc.collect()
