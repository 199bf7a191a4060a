"""Sends numbered messages on a second thread, which outlives the main one: thread.py COUNT."""

import sys
import threading

from nodecompat.sync import connect_parent

count = int(sys.argv[1])
parent = connect_parent()


def send_all() -> None:
    threading.main_thread().join()
    for number in range(count):
        parent.send(number)


threading.Thread(target=send_all).start()
