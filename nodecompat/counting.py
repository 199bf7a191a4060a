"""What the servers of ``sync`` and ``asyncio`` know of their connections."""

from __future__ import annotations

import socket
from functools import partial
from typing import Generic, Protocol, TypeVar

from nodecompat.transport.handles import TrackedSocket, connection_key, track

__all__ = ["CountedServer"]


class _Connected(Protocol):
    @property
    def connected(self) -> bool: ...


ChannelT = TypeVar("ChannelT", bound=_Connected)


class CountedServer(Generic[ChannelT]):
    """A listening socket, and where its connections are: here, or in children.

    What happens here may happen on any thread, and in the middle of anything, as the garbage
    collector closes connections too. So there are no numbers, which would have to be read and then
    written, but collections that change in one step.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._key = connection_key(sock)
        self._sock = sock
        self._own: set[object] = set()
        self._children: list[ChannelT] = []
        self._deliveries: list[None] = []

    @property
    def sock(self) -> socket.socket:
        """The listening socket."""
        return self._sock

    def _count(self, sock: socket.socket) -> TrackedSocket:
        """The same connection as one that counts until it is closed, here or in a child."""
        entry = object()
        self._own.add(entry)
        return track(sock, partial(self._closed, entry))

    def _closed(self, entry: object) -> None:
        self._own.discard(entry)
        self._connection_closed()

    def _connection_closed(self) -> None:
        """Wake whoever waits until no connection is open here."""
        raise NotImplementedError

    def _delivered(self, child: ChannelT) -> None:
        """A child has acknowledged a connection, which is still open here at this moment.

        Not before: a Node that never got one of a list does not answer questions about it.
        """
        if child not in self._children:
            self._children.append(child)
        self._deliveries.append(None)

    def _live_children(self) -> list[ChannelT]:
        """The children that got some. Those that have gone hold nothing any more."""
        for child in list(self._children):
            if not child.connected:
                self._children.remove(child)
        return list(self._children)
