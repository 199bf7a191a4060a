"""A listening socket whose connections go to children, for coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

from nodecompat.asyncio.channel import Channel
from nodecompat.transport.handles import connection_key, track

__all__ = ["Server"]


_Accepting: TypeAlias = "asyncio.Future[tuple[socket.socket, Any]]"


class Server:
    """Accepts connections, hands them to children, and knows how many are still open anywhere.

    For a parent that distributes connections and wants to end in an orderly way. A parent that
    sends children the listening socket itself, or connections that it does not count, needs none.
    Owns the socket. Follows ``net.Server`` with ``getConnections`` and ``close`` in Node, for
    sockets sent with ``subprocess.send``.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._key = connection_key(sock)
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        # One entry a connection: it may be closed on any thread, also by the garbage collector.
        self._own: set[object] = set()
        self._accepting: set[_Accepting] = set()
        self._left: list[_Accepting] = []
        self._empty = asyncio.Event()
        self._empty.set()
        self._channels: list[Channel] = []

    @property
    def sock(self) -> socket.socket:
        """The listening socket."""
        return self._sock

    async def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, non-blocking, and its address; it counts until it is closed."""
        if self._sock.fileno() < 0:
            raise _closed_error()
        accepting = (
            self._left.pop()
            if self._left
            else asyncio.ensure_future(self._loop.sock_accept(self._sock))
        )
        self._accepting.add(accepting)
        try:
            # To cancel it could lose a connection that has just come: the next call takes it over.
            sock, address = await asyncio.shield(accepting)
        except asyncio.CancelledError:
            if accepting not in self._accepting:
                raise _closed_error() from None
            self._left.append(accepting)
            raise
        finally:
            self._accepting.discard(accepting)
        entry = object()
        self._own.add(entry)
        self._empty.clear()
        return track(sock, partial(self._closed, entry)), address

    def _closed(self, entry: object) -> None:
        self._own.discard(entry)
        # A loop that is closed has nobody who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if not self._own:
            self._empty.set()

    def _stop(self) -> None:
        """Accept no more."""
        accepting = [*self._accepting, *self._left]
        self._accepting.clear()
        self._left.clear()
        for each in accepting:
            if not each.cancel() and each.exception() is None:
                each.result()[0].close()
        self._sock.close()

    async def hand_over(self, child: Channel, message: Any, sock: socket.socket) -> None:
        """Send a connection of this server to a child; else as ``child.send(message, sock)``."""
        # Those that have gone hold nothing any more.
        self._channels = [channel for channel in self._channels if channel.connected]
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
        return len(self._own) + sum(counts)

    async def close(self) -> None:
        """Stop accepting, and wait until every connection is closed, here and in all children.

        Follows ``server.close``.
        """
        self._stop()
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
        self._stop()


def _closed_error() -> OSError:
    return OSError(errno.EBADF, "the server is closed")
