"""Says goodbye, disconnects, and lives on until its stdin ends. Prints what calls say then."""

import json
import sys
from typing import Any

from nodecompat import NodeIPCError, process

process.send("goodbye")
process.disconnect()
seen: dict[str, Any] = {"connected": process.connected}
for name, call in {"send": lambda: process.send(1), "disconnect": process.disconnect}.items():
    try:
        call()
    except NodeIPCError as error:
        seen[name] = error.code
sys.stdin.read()
print(json.dumps({"python": seen}))
