import asyncio

from nodecompat.asyncio import connect_parent


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\n\r\nHello from asyncio\n")
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    async with connect_parent() as parent:
        _, listener = await parent.recv_with_handle()
        async with await asyncio.start_server(answer, sock=listener):
            await parent.send("ready")
            async for _ in parent:  # until the parent disconnects
                pass


asyncio.run(main())
