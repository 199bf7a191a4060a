"""The Python side of js-fixtures/flood.cjs: flood.py COUNT."""

import sys
import threading

from nodecompat.sync import Channel, connect_parent

count = int(sys.argv[1])


def send_all(parent: Channel) -> None:
    for n in range(count):
        parent.send({"n": n})


with connect_parent() as parent:
    # A thread of its own: this one has to read meanwhile.
    sender = threading.Thread(target=send_all, args=[parent])
    sender.start()
    wrong: list[int] = []
    received = 0
    for message in parent:
        if "report" in message:
            continue
        if message["n"] != received:
            wrong.append(message["n"])
        received += 1
        if received == count:
            parent.send({"report": {"received": received, "wrong": wrong[:10]}})
    sender.join()
