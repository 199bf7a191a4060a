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
from nodecompat.protocol.js_types import (
    ArrayBuffer,
    BigInt,
    Boxed,
    DataView,
    Float16Array,
    JSArray,
    JSDate,
    JSError,
    JSKey,
    Map,
    RegExp,
    SparseArray,
    Uint8ClampedArray,
    Undefined,
    undefined,
)

__all__ = [
    "AlreadyDisconnected",
    "ArrayBuffer",
    "BigInt",
    "Boxed",
    "ChannelClosed",
    "DataView",
    "Float16Array",
    "HandleNotReceived",
    "HandshakeError",
    "IncompleteMessage",
    "InvalidHandle",
    "JSArray",
    "JSDate",
    "JSError",
    "JSKey",
    "Map",
    "MessageError",
    "MessageTooLarge",
    "NodeIPCError",
    "NodeNotFound",
    "NotForked",
    "ProgramForbidden",
    "ProgramNotFound",
    "ProtocolError",
    "RegExp",
    "SparseArray",
    "SpawnError",
    "Uint8ClampedArray",
    "Undefined",
    "undefined",
]

__version__ = "0.1.0.dev0"
