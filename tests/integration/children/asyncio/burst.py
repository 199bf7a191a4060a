"""Sends numbered messages, and then ends: burst.py COUNT HOW.

HOW: "plain", the end of the script; "disconnect" before it; "sys.exit", with 3; "exception", which
nobody catches.
"""

import asyncio
import sys

from nodecompat.asyncio import connect_parent

count, how = int(sys.argv[1]), sys.argv[2]


async def main() -> None:
    parent = await connect_parent()
    for number in range(count):
        await parent.send(number)
    if how == "disconnect":
        await parent.disconnect()
    if how == "sys.exit":
        sys.exit(3)
    if how == "exception":
        raise RuntimeError("on purpose")


asyncio.run(main())
