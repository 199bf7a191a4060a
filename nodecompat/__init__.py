"""Node.js's child-process IPC channel for Python, on both ends.

The ways in are ``nodecompat.sync``, ``nodecompat.asyncio`` and ``nodecompat.process``; here are the
names that they share.
"""

from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandleNotReceived,
    HandshakeError,
    IncompleteMessage,
    InvalidHandle,
    MessageError,
    MessageTooLarge,
    NodeIPCError,
    NodeNotFound,
    NotForked,
    ProgramForbidden,
    ProgramNotFound,
    ProtocolError,
    SpawnError,
)
from nodecompat.protocol.js_types import Undefined, undefined

__all__ = [
    "AlreadyDisconnected",
    "ChannelClosed",
    "HandleNotReceived",
    "HandshakeError",
    "IncompleteMessage",
    "InvalidHandle",
    "MessageError",
    "MessageTooLarge",
    "NodeIPCError",
    "NodeNotFound",
    "NotForked",
    "ProgramForbidden",
    "ProgramNotFound",
    "ProtocolError",
    "SpawnError",
    "Undefined",
    "undefined",
]

__version__ = "0.1.0.dev0"
