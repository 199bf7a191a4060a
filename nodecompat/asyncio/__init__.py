"""Node's IPC channel for services: coroutines, on any asyncio event loop."""

from nodecompat.asyncio.channel import Channel, connect_parent
from nodecompat.asyncio.process import Child, fork, spawn
from nodecompat.asyncio.server import Server

__all__ = ["Channel", "Child", "Server", "connect_parent", "fork", "spawn"]
