"""Node's IPC channel for scripts: calls that block, no hidden thread, safe from several threads."""

from nodecompat.sync.channel import Channel, connect_parent
from nodecompat.sync.process import Child, fork, spawn
from nodecompat.sync.server import Server

__all__ = ["Channel", "Child", "Server", "connect_parent", "fork", "spawn"]
