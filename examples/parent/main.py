import asyncio
from pathlib import Path

from nodecompat.asyncio import fork


async def main() -> None:
    async with fork(Path(__file__).with_name("worker.js")) as child:
        await child.send({"text": "Hello from Python"})
        print(await child.recv(timeout=10))  # {'slug': 'hello-from-python'}


asyncio.run(main())
