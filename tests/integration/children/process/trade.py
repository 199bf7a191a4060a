"""Sends a string that takes long before it reads one, then the length of the other: trade.py N."""

import sys

from nodecompat import process

process.send("c" * int(sys.argv[1]))
process.on("message", lambda message, handle: process.send(len(message)))
process.wait()
