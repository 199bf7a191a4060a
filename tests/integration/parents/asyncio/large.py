"""A parent: sends 0, 1, 2 and then a long string: large.py NODE PROGRAM ARG CHARACTERS."""

import asyncio
import sys

from nodecompat.asyncio import fork

node, program, argument, size = sys.argv[1:]


async def main() -> None:
    async with fork(program, [argument], exec_path=node) as child:
        await child.send_many([0, 1, 2])
        await child.send("x" * int(size))


asyncio.run(main())
