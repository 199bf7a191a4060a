"""Says goodbye, disconnects, and lives on until its stdin ends. Prints what calls say then."""

import json
import sys
from typing import Any

from nodecompat import NodeIPCError
from nodecompat.sync import connect_parent

parent = connect_parent()
parent.send("goodbye")
parent.disconnect()
seen: dict[str, Any] = {"connected": parent.connected}
for name, call in {"send": lambda: parent.send(1), "disconnect": parent.disconnect}.items():
    try:
        call()
    except NodeIPCError as error:
        seen[name] = error.code
sys.stdin.read()
print(json.dumps({"python": seen}))
