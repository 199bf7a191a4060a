"""A parent: a Buffer goes there and back, and how much memory that took: NODE PROGRAM BYTES."""

import json
import sys

from nodecompat.sync import fork
from tests.integration.advanced_plays import made, peak_memory

node, program, size = sys.argv[1:]
before = peak_memory()
data = made(int(size))
with fork(program, [size], exec_path=node, serialization="advanced") as child:
    child.send({"data": data})
    del data
    message = child.recv()
    took = peak_memory() - before
    same = message["same"] and message["data"] == made(int(size))
print(json.dumps({"python": {"same": same, "memory": took}}))
