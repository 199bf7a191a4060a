import asyncio

from nodecompat import ChannelClosed
from nodecompat.asyncio import connect_parent


async def main() -> None:
    async with connect_parent() as parent:
        while True:
            try:
                message, sock = await parent.recv_with_handle()
            except ChannelClosed:
                return
            _, writer = await asyncio.open_connection(sock=sock)
            writer.write(f"Hello, {message['greet']}! This is Python.\n".encode())
            writer.close()
            await writer.wait_closed()


asyncio.run(main())
