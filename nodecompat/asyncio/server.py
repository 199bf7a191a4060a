"""A listening socket whose connections go to children, for coroutines."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType
from typing import Any, Self

from nodecompat.asyncio.channel import Channel
from nodecompat.transport.handles import connection_key, track

__all__ = ["Server"]


class Server:
    """Accepts connections, hands them to children, and knows how many are still open anywhere.

    For a parent that distributes connections and wants to end in an orderly way. A parent that
    sends children the listening socket itself, or connections that it does not count, needs none.
    Owns the socket. Follows ``net.Server`` with ``getConnections`` and ``close`` in Node, for
    sockets sent with ``subprocess.send``.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._key = connection_key(sock)
        self._loop = asyncio.get_running_loop()
        self._own = 0
        self._tasks: set[Any] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._channels: list[Channel] = []

    @property
    def sock(self) -> socket.socket:
        """The listening socket."""
        return self._sock

    async def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, non-blocking, and its address; it counts until it is closed."""
        task = asyncio.ensure_future(self._loop.sock_accept(self._sock))
        self._tasks.add(task)
        try:
            sock, address = await task
        except asyncio.CancelledError:
            if self._sock.fileno() < 0 and task.cancelled():
                raise OSError("closed") from None
            task.cancel()
            raise
        finally:
            self._tasks.discard(task)
        self._own += 1
        self._empty.clear()
        return track(sock, self._closed_one), address

    def _closed_one(self) -> None:
        self._own -= 1
        import contextlib

        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if not self._own:
            self._empty.set()

    async def hand_over(self, child: Channel, message: Any, sock: socket.socket) -> None:
        """Send a connection of this server to a child; else as ``child.send(message, sock)``."""
        if child not in self._channels:
            self._channels.append(child)
        await child._send_counted(message, sock, self._key)

    async def connections(self) -> int:
        """How many connections are open, here and in all children that got some.

        A child that has gone has none. Follows ``server.getConnections``.
        """
        counts = await asyncio.gather(
            *(channel._socket_count(self._key) for channel in self._channels)
        )
        return self._own + sum(counts)

    async def close(self) -> None:
        """Stop accepting, and wait until every connection is closed, here and in all children.

        Follows ``server.close``.
        """
        for task in self._tasks:
            task.cancel()
        self._sock.close()
        await asyncio.gather(
            *(channel._wait_sockets_closed(self._key) for channel in self._channels)
        )
        await self._empty.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sock.close()
