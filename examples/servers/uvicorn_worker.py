import asyncio
from typing import Any

import uvicorn

from nodecompat.asyncio import connect_parent


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"Hello from uvicorn\n"})


async def main() -> None:
    async with connect_parent() as parent:
        _, listener = await parent.recv_with_handle()
        assert listener is not None
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await parent.send("ready")
        async for _ in parent:  # until the parent disconnects
            pass
        server.should_exit = True
        await serving


asyncio.run(main())
