"""Sends numbered messages on a second thread, which outlives the main one: thread.py COUNT."""

import asyncio
import sys
import threading

from nodecompat.asyncio import connect_parent

count = int(sys.argv[1])


async def main() -> None:
    parent = await connect_parent()
    threading.main_thread().join()
    for number in range(count):
        await parent.send(number)


threading.Thread(target=asyncio.run, args=[main()]).start()
