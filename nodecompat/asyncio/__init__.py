"""Node's IPC channel for services: coroutines, on any asyncio event loop."""

from nodecompat.asyncio.channel import Channel, connect_parent
from nodecompat.asyncio.process import Child, fork, spawn

__all__ = ["Channel", "Child", "connect_parent", "fork", "spawn"]
