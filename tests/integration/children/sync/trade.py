"""Sends a string that takes long before it reads one, then the length of the other: trade.py N."""

import sys

from nodecompat.sync import connect_parent

with connect_parent() as parent:
    parent.send("c" * int(sys.argv[1]))
    parent.send(len(parent.recv()))
