"""Prints the messages that came, how they ended, and what a call says after that.

With --late it first waits for a line on stdin.
"""

import asyncio
import json
import sys
from typing import Any

from nodecompat import NodeIPCError
from nodecompat.asyncio import connect_parent


async def main() -> None:
    parent = await connect_parent()
    if "--late" in sys.argv:
        await asyncio.to_thread(sys.stdin.readline)
    messages: list[Any] = []
    seen: dict[str, Any] = {"messages": messages, "error": None}
    try:
        async for message in parent:
            messages.append(message)
    except NodeIPCError as error:
        seen |= {"error": type(error).__name__, "text": str(error)}
    seen |= {"connected": parent.connected, "fd": parent.fileno()}
    try:
        await parent.send("too late")
    except NodeIPCError as error:
        seen["send"] = type(error).__name__
    print(json.dumps({"python": seen}))


asyncio.run(main())
