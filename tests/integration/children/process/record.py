"""Prints the messages that came, how they ended, and what a call says after that.

With --late it first waits for a line on stdin.
"""

import json
import sys
from typing import Any

from nodecompat import NodeIPCError, process

messages: list[Any] = []
seen: dict[str, Any] = {"messages": messages, "error": None}


def on_error(error: Exception) -> None:
    seen.update(error=type(error).__name__, text=str(error))


process.on("error", on_error)
if "--late" in sys.argv:
    sys.stdin.readline()
process.on("message", lambda message, handle: messages.append(message))
process.wait()
seen |= {"connected": process.connected, "fd": process.channel.fd if process.channel else -1}
try:
    process.send("too late")
except NodeIPCError as error:
    seen["send"] = type(error).__name__
print(json.dumps({"python": seen}))
