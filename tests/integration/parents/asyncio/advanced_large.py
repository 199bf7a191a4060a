"""A parent: a Buffer goes there and back, and how much memory that took: NODE PROGRAM BYTES."""

import asyncio
import json
import sys

from nodecompat.asyncio import fork
from tests.integration.advanced_plays import made, peak_memory

node, program, size = sys.argv[1:]


async def main() -> None:
    before = peak_memory()
    data = made(int(size))
    async with fork(program, [size], exec_path=node, serialization="advanced") as child:
        await child.send({"data": data})
        del data
        message = await child.recv()
        took = peak_memory() - before
        same = message["same"] and message["data"] == made(int(size))
    print(json.dumps({"python": {"same": same, "memory": took}}))


asyncio.run(main())
