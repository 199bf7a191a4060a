"""Every error that nodecompat raises on purpose.

The tree; in brackets the standard class that each one also is, and Node's ``code``::

    NodeIPCError
    ├── NotForked              [ConnectionError]   this process has no channel to a parent
    │   └── HandshakeError     [ValueError]        the parent's variables name no usable channel
    ├── NodeNotFound           [FileNotFoundError] no Node executable
    ├── SpawnError             [OSError]           a child could not be started (ENOENT, EACCES, …)
    │   ├── ProgramNotFound    [FileNotFoundError]
    │   └── ProgramForbidden   [PermissionError]
    ├── ChannelClosed          [ConnectionError]   ERR_IPC_CHANNEL_CLOSED
    │   └── IncompleteMessage  (a ProtocolError too) the peer died in the middle of a message
    ├── AlreadyDisconnected    [ConnectionError]   ERR_IPC_DISCONNECTED
    ├── InvalidHandle          [TypeError]         ERR_INVALID_HANDLE_TYPE
    ├── HandleNotReceived      [ConnectionError]   the peer did not take a handle
    ├── MessageError           [TypeError, ValueError] ERR_INVALID_ARG_TYPE
    ├── MessageTooLarge        [ValueError]        a message past the channel's bound
    └── ProtocolError          [ValueError]        what the peer sent is not the protocol

Anything else that comes out of nodecompat is a bug, or an ``OSError`` of the operating system.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import ClassVar

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
]


class NodeIPCError(Exception):
    """Base of all errors of this package; ``code`` is Node's ``error.code`` where Node has one."""

    code: ClassVar[str | None] = None


class NotForked(NodeIPCError, ConnectionError):
    """This process was not started with an IPC channel, or its channel is already in use."""


class HandshakeError(NotForked, ValueError):
    """The parent's environment variables do not name a usable channel; names variable and value."""


class NodeNotFound(NodeIPCError, FileNotFoundError):
    """No Node executable was found; the message says where it was looked for and how to get one."""


class SpawnError(NodeIPCError, OSError):
    """A child could not be started; ``errno`` and ``filename`` as in any ``OSError``.

    Follows the ``error`` event of Node's ``ChildProcess`` (``spawn PROGRAM ENOENT``).
    """

    @staticmethod
    def from_errno(number: int, filename: str, detail: str = "") -> SpawnError:
        """The most exact SpawnError for an errno value; ``detail`` says more about the cause."""
        text = f"spawn {_errno.errorcode.get(number, number)}: {os.strerror(number)}"
        if detail:
            text = f"{text} ({detail})"
        if number in (_errno.ENOENT, _errno.ENOTDIR):
            return ProgramNotFound(number, text, filename)
        if number in (_errno.EACCES, _errno.EPERM):
            return ProgramForbidden(number, text, filename)
        return SpawnError(number, text, filename)


class ProgramNotFound(SpawnError, FileNotFoundError):
    """The program, its interpreter or the working directory does not exist."""


class ProgramForbidden(SpawnError, PermissionError):
    """The program is not executable for this user, or is a directory."""


class ChannelClosed(NodeIPCError, ConnectionError):
    """The channel has ended: one side disconnected or died, and all that arrived was read."""

    code = "ERR_IPC_CHANNEL_CLOSED"


class AlreadyDisconnected(NodeIPCError, ConnectionError):
    """``disconnect()`` on a channel that is already disconnected."""

    code = "ERR_IPC_DISCONNECTED"


class InvalidHandle(NodeIPCError, TypeError):
    """The object cannot travel over the channel: not a socket, closed, or TLS on top."""

    code = "ERR_INVALID_HANDLE_TYPE"


class HandleNotReceived(NodeIPCError, ConnectionError):
    """The peer did not get the handle: refused every transmission, or left before taking it."""


class MessageError(NodeIPCError, TypeError, ValueError):
    """A value that the channel's serialization cannot carry; ``path`` leads to it from the root."""

    code = "ERR_INVALID_ARG_TYPE"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[MessageError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class MessageTooLarge(NodeIPCError, ValueError):
    """A message past the channel's ``max_message_size`` (bytes on the wire), sent or received."""


class ProtocolError(NodeIPCError, ValueError):
    """What the peer sent is not Node's protocol; the message shows the start of it."""


class IncompleteMessage(ProtocolError, ChannelClosed):
    """The stream ended in the middle of a message: the peer died while it wrote it."""
