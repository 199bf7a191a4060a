"""The Python side of js-fixtures/flood.cjs: flood.py COUNT."""

import sys
from typing import Any

from nodecompat import process

count = int(sys.argv[1])
wrong: list[int] = []
received = 0


def on_message(message: Any, handle: object) -> None:
    global received
    if "report" in message:
        return
    if message["n"] != received:
        wrong.append(message["n"])
    received += 1
    if received == count:
        process.send({"report": {"received": received, "wrong": wrong[:10]}})


process.on("message", on_message)
for n in range(count):
    process.send({"n": n})
process.wait()
