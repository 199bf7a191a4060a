"""What can happen on a channel, in the order in which it happened."""

from __future__ import annotations

from typing import Any, NamedTuple

from nodecompat.errors import NodeIPCError
from nodecompat.protocol.serialization import Frame

__all__ = [
    "Disconnected",
    "Event",
    "HandleInfo",
    "HandleReleased",
    "InternalMessage",
    "Message",
    "Outgoing",
    "SendFailed",
    "Sent",
    "SocketCount",
    "SocketsClosed",
]


class HandleInfo(NamedTuple):
    """What a NODE_HANDLE message says of its handle."""

    type: str
    """Node's type: ``net.Server``, ``net.Socket``, ``net.Native``, ``dgram.Socket``, …"""
    key: str | None = None
    """The sender's socket list that counts the socket, for a socket that a server accepted."""
    dgram_type: str | None = None
    """``udp4`` or ``udp6``, with type ``dgram.Socket``."""


class Message(NamedTuple):
    """A message for the user; with a handle, it is the user's from here on."""

    message: Any
    handle: Any = None
    info: HandleInfo | None = None


class InternalMessage(NamedTuple):
    """A ``NODE_`` message that the channel itself has no use for (a cluster's, say)."""

    message: dict[str, Any]
    handle: Any = None
    info: HandleInfo | None = None


class Sent(NamedTuple):
    """The peer acknowledged the handle of the send with this id."""

    id: int


class SendFailed(NamedTuple):
    """The send with this id will not happen, or its handle never arrived."""

    id: int
    error: NodeIPCError


class HandleReleased(NamedTuple):
    """The channel is done with a handle: whoever moves descriptors closes it.

    ``delivered`` says whether the peer has it; a received handle that nobody claimed is not.
    """

    handle: Any
    delivered: bool


class SocketCount(NamedTuple):
    """The peer's answer to ``ask_socket_count``: how many sockets of this list are open there."""

    key: str
    number: int


class SocketsClosed(NamedTuple):
    """The peer's answer to ``ask_sockets_closed``: no socket of this list is open there now."""

    key: str


class Disconnected(NamedTuple):
    """The last event of a channel. ``error`` is None when it ended as it should.

    What ``data_to_send`` still gives is to be written before the descriptor is closed.
    """

    error: NodeIPCError | None


Event = (
    Message
    | InternalMessage
    | Sent
    | SendFailed
    | HandleReleased
    | SocketCount
    | SocketsClosed
    | Disconnected
)


class Outgoing(NamedTuple):
    """Bytes to write. A handle travels with the first of them; the id is the send's, or 0."""

    data: Frame
    handle: Any
    id: int
