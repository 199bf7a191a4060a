"""Sends a buffer, and uses it for something else meanwhile: advanced_reuse.py BYTES."""

import sys

from nodecompat import process

size = int(sys.argv[1])
data = bytearray(b"a" * size)
process.send(data)
data[:] = b"b" * size
process.send(data)
data[:] = b"c" * size
# Nor does the channel keep its owner from making it longer or shorter.
data.clear()
process.wait()
