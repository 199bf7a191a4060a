"""Sends numbered messages, and then ends: burst.py COUNT HOW.

HOW: "plain", the end of the script; "disconnect" before it; "sys.exit", with 3; "exception", which
nobody catches.
"""

import sys

from nodecompat.sync import connect_parent

count, how = int(sys.argv[1]), sys.argv[2]

parent = connect_parent()
for number in range(count):
    parent.send(number)
if how == "disconnect":
    parent.disconnect()
if how == "sys.exit":
    sys.exit(3)
if how == "exception":
    raise RuntimeError("on purpose")
