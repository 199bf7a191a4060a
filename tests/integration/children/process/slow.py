"""The child of js-fixtures/backpressure.cjs --mute: does not read until a line comes on stdin.

Prints how many messages came, and the numbers of those that were out of order.
"""

import json
import sys

from nodecompat import process

# Nothing is read before the first use of the channel.
sys.stdin.readline()
numbers: list[int] = []
process.on("message", lambda message, handle: numbers.append(message["n"]))
process.wait()
wrong = [n for index, n in enumerate(numbers) if n != index]
print(json.dumps({"python": {"received": len(numbers), "wrong": wrong}}))
