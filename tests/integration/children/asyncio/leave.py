"""Says goodbye, disconnects, and lives on until its stdin ends. Prints what calls say then."""

import asyncio
import json
import sys
from typing import Any

from nodecompat import NodeIPCError
from nodecompat.asyncio import connect_parent


async def main() -> None:
    parent = await connect_parent()
    await parent.send("goodbye")
    await parent.disconnect()
    seen: dict[str, Any] = {"connected": parent.connected}
    for name, call in {"send": lambda: parent.send(1), "disconnect": parent.disconnect}.items():
        try:
            await call()
        except NodeIPCError as error:
            seen[name] = error.code
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"python": seen}))


asyncio.run(main())
