"""Sends numbered messages, and then ends: burst.py COUNT HOW.

HOW: "plain", the end of the script; "disconnect" before it; "sys.exit", with 3; "exception", which
nobody catches.
"""

import sys

from nodecompat import process

count, how = int(sys.argv[1]), sys.argv[2]

for number in range(count):
    process.send(number)
if how == "disconnect":
    process.disconnect()
if how == "sys.exit":
    sys.exit(3)
if how == "exception":
    raise RuntimeError("on purpose")
