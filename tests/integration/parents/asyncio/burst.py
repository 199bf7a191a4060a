"""A parent: sends numbered messages and ends without a word: burst.py NODE PROGRAM ARG COUNT."""

import asyncio
import sys

from nodecompat.asyncio import fork

node, program, argument, count = sys.argv[1:]


async def main() -> None:
    child = await fork(program, [argument], exec_path=node)
    for number in range(int(count)):
        await child.send(number)


asyncio.run(main())
