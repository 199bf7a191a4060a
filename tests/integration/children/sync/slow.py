"""The child of js-fixtures/backpressure.cjs: does not read until a line comes on stdin.

Prints how many messages came, and the numbers of those that were out of order.
"""

import json
import sys

from nodecompat.sync import connect_parent

with connect_parent() as parent:
    parent.send("connected")
    # Nothing is read while no call waits for a message.
    sys.stdin.readline()
    numbers = [message["n"] for message in parent]
wrong = [n for index, n in enumerate(numbers) if n != index]
print(json.dumps({"python": {"received": len(numbers), "wrong": wrong}}))
