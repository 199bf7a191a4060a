"""A listening socket whose connections go to children, with blocking calls."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from types import TracebackType
from typing import Any, Self

from nodecompat.counting import CountedServer
from nodecompat.sync.channel import Channel

__all__ = ["Server"]


class Server(CountedServer[Channel]):
    """Accepts connections, hands them to children, and knows how many are still open anywhere.

    For a parent that distributes connections and wants to end in an orderly way. A parent that
    sends children the listening socket itself, or connections that it does not count, needs none.
    Owns the socket. Follows ``net.Server`` with ``getConnections`` and ``close`` in Node, for
    sockets sent with ``subprocess.send``. Safe for use from several threads at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._changed = threading.Condition(threading.RLock())

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection and its address, as ``socket.accept``; counted until closed."""
        sock, address = self._sock.accept()
        return self._count(sock), address

    def _connection_closed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def hand_over(self, child: Channel, message: Any, sock: socket.socket) -> None:
        """Send a connection of this server to a child; else as ``child.send(message, sock)``.

        Also one that its client has reset meanwhile, as Node does: the child finds out.
        """
        child._send_counted(message, sock, self._key, partial(self._delivered, child))

    def connections(self, timeout: float | None = None) -> int:
        """How many connections are open, here and in all children that got some.

        A child that has gone has none. At most ``timeout`` seconds for each child, then
        TimeoutError. Follows ``server.getConnections``.
        """
        there = sum(child._socket_count(self._key, timeout) for child in self._live_children())
        return len(self._own) + there

    def close(self, timeout: float | None = None) -> None:
        """Stop accepting, and wait until every connection is closed, here and in all children.

        At most ``timeout`` seconds, then TimeoutError; nothing is accepted any more also then.
        Follows ``server.close``.
        """
        self._sock.close()
        deadline = None if timeout is None else time.monotonic() + timeout
        asked = -1
        # As long as connections are handed over meanwhile, the children have to be asked again.
        while asked != len(self._deliveries):
            with self._changed:
                if not self._changed.wait_for(lambda: not self._own, _remaining(deadline)):
                    raise TimeoutError(f"{len(self._own)} connections are still open here")
            asked = len(self._deliveries)
            for child in self._live_children():
                child._wait_sockets_closed(self._key, _remaining(deadline))

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
