"""Sends 0, 1, 2 and then a string that takes long: large.py CHARACTERS."""

import sys

from nodecompat import process

for number in range(3):
    process.send(number)
process.send("x" * int(sys.argv[1]))
process.wait()
