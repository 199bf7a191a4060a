"""What a Node parent leaves in the environment of its child.

Follows ``setupChildProcessIpcChannel`` in Node's ``internal/process/pre_execution``: the variables
are read once and removed at once, so that a grandchild does not take them for its own
(nodejs/node#39151).
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import MutableMapping
from typing import NamedTuple

from nodecompat.errors import HandshakeError, NotForked

__all__ = ["CHANNEL_FD", "SERIALIZATION_MODE", "UNIQUE_ID", "ParentChannel", "take_parent_channel"]

CHANNEL_FD = "NODE_CHANNEL_FD"
SERIALIZATION_MODE = "NODE_CHANNEL_SERIALIZATION_MODE"
UNIQUE_ID = "NODE_UNIQUE_ID"

_lock = threading.Lock()
_taken = False


class ParentChannel(NamedTuple):
    """The channel that the parent opened: its descriptor, serialization mode and cluster id."""

    fd: int
    serialization: str
    unique_id: str | None


def take_parent_channel(environ: MutableMapping[str, str] | None = None) -> ParentChannel:
    """Take the channel out of the environment: the caller owns the descriptor from here on.

    The three variables are gone afterwards, whatever happens, and the descriptor is close-on-exec.
    Raises NotForked when there is no channel (``NODE_CHANNEL_FD`` unset or empty) or when it was
    taken before, HandshakeError when a variable's value is unusable.
    """
    global _taken
    source: MutableMapping[str, str] = os.environ if environ is None else environ
    with _lock:
        fd_text = source.pop(CHANNEL_FD, "")
        mode = source.pop(SERIALIZATION_MODE, "")
        unique_id = source.pop(UNIQUE_ID, None)
        if not fd_text:
            if _taken and environ is None:
                raise NotForked(
                    "the channel to the parent is already in use: "
                    "this process connected to its parent before"
                )
            raise NotForked(
                f"{CHANNEL_FD} is not set: this process was not started with an IPC channel. "
                "Start it with child_process.fork() or with 'ipc' in the stdio of "
                "child_process.spawn()"
            )
        fd = _usable_fd(fd_text)
        os.set_inheritable(fd, False)
        if environ is None:
            _taken = True
    if mode not in ("", "json", "advanced"):
        os.close(fd)
        raise HandshakeError(f"{SERIALIZATION_MODE}={mode!r}: expected 'json' or 'advanced'")
    return ParentChannel(fd, mode or "json", unique_id)


def _usable_fd(text: str) -> int:
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    where = f"{CHANNEL_FD}={shown!r}"
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdecimal()) or len(digits) > 10 or int(digits) > 2**31 - 1:
        raise HandshakeError(f"{where}: not the number of a file descriptor")
    fd = int(digits)
    try:
        mode = os.fstat(fd).st_mode
    except OSError as error:
        raise HandshakeError(
            f"{where}: descriptor {fd} is not open in this process ({error.strerror}). "
            "A program in between may have closed it"
        ) from error
    if not stat.S_ISSOCK(mode):
        raise HandshakeError(f"{where}: descriptor {fd} is not a socket")
    # dup: a socket object owns its descriptor, and this one is only looked at.
    with socket.socket(fileno=os.dup(fd)) as probe:
        if probe.family != getattr(socket, "AF_UNIX", None):
            raise HandshakeError(f"{where}: descriptor {fd} is not a Unix-domain socket")
        if probe.type != socket.SOCK_STREAM:
            raise HandshakeError(f"{where}: descriptor {fd} is not a stream socket")
    return fd
