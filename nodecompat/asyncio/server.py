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
from nodecompat.counting import CountedServer

__all__ = ["Server"]


_Accepting: TypeAlias = "asyncio.Future[tuple[socket.socket, Any]]"


class Server(CountedServer[Channel]):
    """Accepts connections, hands them to children, and knows how many are still open anywhere.

    For a parent that distributes connections and wants to end in an orderly way. A parent that
    sends children the listening socket itself, or connections that it does not count, needs none.
    Owns the socket. Follows ``net.Server`` with ``getConnections`` and ``close`` in Node, for
    sockets sent with ``subprocess.send``.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._accepting: set[_Accepting] = set()
        self._left: list[_Accepting] = []
        self._stopped = False
        self._empty = asyncio.Event()
        self._empty.set()

    async def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, non-blocking, and its address; it counts until it is closed.

        Raises OSError once the server is closed.
        """
        if self._stopped or self._sock.fileno() < 0:
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
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                raise _closed_error() from None
            if not self._stopped:
                self._left.append(accepting)
            raise
        finally:
            self._accepting.discard(accepting)
        self._empty.clear()
        return self._count(sock), address

    def _connection_closed(self) -> None:
        # A loop that is closed has nobody who waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        if not self._own:
            self._empty.set()

    async def _stop(self) -> None:
        """Accept no more, and close the listening socket."""
        self._stopped = True
        accepting = [*self._accepting, *self._left]
        self._left.clear()
        for each in accepting:
            each.cancel()
        try:
            # The loop watches the descriptor until they have ended.
            for result in await asyncio.gather(*accepting, return_exceptions=True):
                if not isinstance(result, BaseException):
                    result[0].close()
        finally:
            self._sock.close()

    async def hand_over(self, child: Channel, message: Any, sock: socket.socket) -> None:
        """Send a connection of this server to a child; else as ``child.send(message, sock)``.

        Also one that its client has reset meanwhile, as Node does: the child finds out.
        """
        await child._send_counted(message, sock, self._key, partial(self._delivered, child))

    async def connections(self) -> int:
        """How many connections are open, here and in all children that got some.

        A child that has gone has none. Follows ``server.getConnections``.
        """
        counts = await asyncio.gather(
            *(child._socket_count(self._key) for child in self._live_children())
        )
        return len(self._own) + sum(counts)

    async def close(self) -> None:
        """Stop accepting, and wait until every connection is closed, here and in all children.

        Follows ``server.close``.
        """
        await self._stop()
        asked = -1
        # As long as connections are handed over meanwhile, the children have to be asked again.
        while asked != len(self._deliveries):
            while self._own:
                self._empty.clear()
                await self._empty.wait()
            asked = len(self._deliveries)
            await asyncio.gather(
                *(child._wait_sockets_closed(self._key) for child in self._live_children())
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop()


def _closed_error() -> OSError:
    return OSError(errno.EBADF, "the server is closed")
