"""A listening socket whose connections go to children, with blocking calls."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from types import TracebackType
from typing import Any, Self

from nodecompat.sync.channel import Channel
from nodecompat.transport.handles import connection_key, track

__all__ = ["Server"]


class Server:
    """Accepts connections, hands them to children, and knows how many are still open anywhere.

    For a parent that distributes connections and wants to end in an orderly way. A parent that
    sends children the listening socket itself, or connections that it does not count, needs none.
    Owns the socket. Follows ``net.Server`` with ``getConnections`` and ``close`` in Node, for
    sockets sent with ``subprocess.send``. Safe for use from several threads at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._key = connection_key(sock)
        self._changed = threading.Condition(threading.RLock())
        # One entry a connection. Not a number: the garbage collector may close a connection in the
        # middle of an addition, on the same thread.
        self._own: set[object] = set()
        self._channels: list[Channel] = []

    @property
    def sock(self) -> socket.socket:
        """The listening socket."""
        return self._sock

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection and its address, as ``socket.accept``; counted until closed."""
        sock, address = self._sock.accept()
        entry = object()
        self._own.add(entry)
        return track(sock, partial(self._closed, entry)), address

    def _closed(self, entry: object) -> None:
        self._own.discard(entry)
        with self._changed:
            self._changed.notify_all()

    def hand_over(self, child: Channel, message: Any, sock: socket.socket) -> None:
        """Send a connection of this server to a child; else as ``child.send(message, sock)``."""
        with self._changed:
            # Those that have gone hold nothing any more.
            self._channels = [channel for channel in self._channels if channel.connected]
            if child not in self._channels:
                self._channels.append(child)
        child._send_counted(message, sock, self._key)

    def connections(self, timeout: float | None = None) -> int:
        """How many connections are open, here and in all children that got some.

        A child that has gone has none. At most ``timeout`` seconds for each child, then
        TimeoutError. Follows ``server.getConnections``.
        """
        with self._changed:
            channels = list(self._channels)
        there = sum(channel._socket_count(self._key, timeout) for channel in channels)
        return len(self._own) + there

    def close(self, timeout: float | None = None) -> None:
        """Stop accepting, and wait until every connection is closed, here and in all children.

        At most ``timeout`` seconds, then TimeoutError; nothing is accepted any more also then.
        Follows ``server.close``.
        """
        self._sock.close()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            channels = list(self._channels)
        for channel in channels:
            channel._wait_sockets_closed(self._key, _remaining(deadline))
        with self._changed:
            if not self._changed.wait_for(lambda: not self._own, _remaining(deadline)):
                raise TimeoutError(f"{len(self._own)} connections are still open here")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sock.close()


def _remaining(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())
