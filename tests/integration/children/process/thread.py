"""Sends numbered messages on a second thread, which outlives the main one: thread.py COUNT."""

import sys
import threading

from nodecompat import process

count = int(sys.argv[1])


def send_all() -> None:
    threading.main_thread().join()
    for number in range(count):
        process.send(number)


threading.Thread(target=send_all).start()
