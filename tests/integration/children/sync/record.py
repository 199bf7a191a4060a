"""Prints the messages that came, how they ended, and what a call says after that.

With --late it first waits for a line on stdin.
"""

import json
import sys
from typing import Any

from nodecompat import NodeIPCError
from nodecompat.sync import connect_parent

parent = connect_parent()
if "--late" in sys.argv:
    sys.stdin.readline()
messages: list[Any] = []
seen: dict[str, Any] = {"messages": messages, "error": None}
try:
    for message in parent:
        messages.append(message)
except NodeIPCError as error:
    seen |= {"error": type(error).__name__, "text": str(error)}
seen |= {"connected": parent.connected, "fd": parent.fileno()}
try:
    parent.send("too late")
except NodeIPCError as error:
    seen["send"] = type(error).__name__
print(json.dumps({"python": seen}))
