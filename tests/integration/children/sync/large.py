"""Sends 0, 1, 2 and then a string that takes long: large.py CHARACTERS."""

import sys

from nodecompat.sync import connect_parent

with connect_parent() as parent:
    parent.send_many([0, 1, 2])
    parent.send("x" * int(sys.argv[1]))
