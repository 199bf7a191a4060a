"""The channel on Unix: a stream socket, with descriptors as SCM_RIGHTS.

Follows libuv's ``uv__read`` and ``uv__try_write``: a descriptor goes with the first byte of its
write, and what a partial write leaves goes without it.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

from nodecompat.errors import HandleNotReceived
from nodecompat.transport.handles import Handle

__all__ = ["UnixTransport", "channel_pair"]

_READ_SIZE: Final = 65536
_MAX_HANDLES: Final = 253  # SCM_MAX_FD: the kernel passes no more in one message.
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(_MAX_HANDLES * array.array("i").itemsize)
_MAX_BUFFERS: Final = 512  # Below IOV_MAX everywhere.
_CLOEXEC_AT_ONCE: Final = hasattr(socket, "MSG_CMSG_CLOEXEC")  # Not on macOS.
_RECV_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_SEND_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)


class _Chunk(Protocol):
    """What the transport needs of a piece of output."""

    @property
    def data(self) -> bytes | tuple[bytes | memoryview, ...]: ...
    @property
    def handle(self) -> _HasFileno | None: ...
    @property
    def id(self) -> int: ...


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


class _Pending:
    """A part of a chunk that is not wholly written; ``data`` shrinks.

    ``handle`` goes with the first byte of the first part; ``last`` marks the end of the chunk, and
    ``had_handle`` the end of one with a handle.
    """

    __slots__ = ("data", "had_handle", "handle", "id", "last")

    def __init__(
        self,
        data: bytes | memoryview,
        handle: _HasFileno | None,
        id: int,
        last: bool,
        had_handle: bool,
    ) -> None:
        self.data = data
        self.handle = handle
        self.id = id
        self.last = last
        self.had_handle = had_handle


class UnixTransport:
    """Moves bytes and descriptors over one end of a socket pair; it never waits.

    Owns the socket. Calls say "not now" instead of blocking, without touching the descriptor's
    blocking mode, which other processes may share. Not safe for use from several threads at once.
    """

    def __init__(self, sock: socket.socket) -> None:
        if sock.gettimeout() is not None:
            # Python would wait for readiness behind our back. The descriptor's own mode, which
            # setblocking changes too, is not ours to change.
            blocking = os.get_blocking(sock.fileno())
            sock.setblocking(True)
            os.set_blocking(sock.fileno(), blocking)
        self._sock = sock
        self._pending: deque[_Pending] = deque()
        self._shares_memory = False
        self.written = 0
        """The id of the last send whose bytes the kernel has, all of them."""
        self.unsent = 0
        """How many bytes wait to be written."""
        self.handles_written = 0
        """How often the kernel has got a handle and all of its message."""

    @classmethod
    def from_fd(cls, fd: int) -> UnixTransport:
        """The transport on a descriptor, which it owns from here on."""
        return cls(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd))

    def fileno(self) -> int:
        """The channel's descriptor, -1 once it is closed."""
        return self._sock.fileno()

    def read(self) -> tuple[bytes, list[Handle]] | None:
        """One read: bytes and the handles that came with them; None when there is nothing yet.

        No bytes mean the end of the stream. A peer that died with unread data in its buffer makes
        the kernel say ECONNRESET where it would otherwise say end: it is the same thing here.
        """
        try:
            data, ancillary, _, _ = self._sock.recvmsg(_READ_SIZE, _ANCILLARY_SIZE, _RECV_FLAGS)
        except BlockingIOError:
            return None
        except (ConnectionResetError, BrokenPipeError):
            return b"", []
        if not ancillary:
            return data, []
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if not _CLOEXEC_AT_ONCE:
            for fd in fds:
                os.set_inheritable(fd, False)
        return data, [Handle(fd) for fd in fds]

    def enqueue(self, chunks: Iterable[_Chunk]) -> None:
        """Take over what is to be written, behind what is already waiting."""
        for chunk in chunks:
            data = chunk.data
            if isinstance(data, bytes):
                self.unsent += len(data)
                handle = chunk.handle
                self._pending.append(_Pending(data, handle, chunk.id, True, handle is not None))
            else:
                self._enqueue_parts(data, chunk.handle, chunk.id)

    def _enqueue_parts(
        self, parts: tuple[bytes | memoryview, ...], handle: _HasFileno | None, id: int
    ) -> None:
        self._shares_memory = True
        last = len(parts) - 1
        with_handle = handle is not None
        for index, part in enumerate(parts):
            # As bytes: the length of any other view counts items.
            data = memoryview(part).cast("B")
            self.unsent += len(data)
            self._pending.append(
                _Pending(data, handle, id, index == last, with_handle and index == last)
            )
            handle = None

    def flush(self) -> bool:
        """Write as much as the kernel takes; True when nothing is left.

        Raises BrokenPipeError or ConnectionResetError when the peer is gone, HandleNotReceived when
        the kernel refuses the next handle, which is then forgotten with its message.
        """
        pending = self._pending
        while pending:
            first = pending[0]
            try:
                if first.handle is not None:
                    # Node hangs on one that blocks, and it may have been changed meanwhile.
                    os.set_blocking(first.handle.fileno(), False)
                    rights = [
                        (
                            socket.SOL_SOCKET,
                            socket.SCM_RIGHTS,
                            array.array("i", [first.handle.fileno()]),
                        )
                    ]
                    count = self._sock.sendmsg([first.data], rights, _SEND_FLAGS)
                    first.handle = None
                elif len(pending) == 1:
                    count = self._sock.send(first.data, _SEND_FLAGS)
                else:
                    count = self._sock.sendmsg(self._run_without_handles(), [], _SEND_FLAGS)
            except BlockingIOError:
                return False
            except ConnectionError:
                raise
            except OSError as error:
                if first.handle is None:
                    raise
                # The descriptor cannot go (ETOOMANYREFS, say), and not a byte of its message has.
                self._drop_first()
                raise HandleNotReceived(f"the handle could not be sent: {error}") from error
            self._advance(count)
        return True

    def _run_without_handles(self) -> list[bytes | memoryview]:
        buffers: list[bytes | memoryview] = []
        for chunk in self._pending:
            if chunk.handle is not None or len(buffers) == _MAX_BUFFERS:
                break
            buffers.append(chunk.data)
        return buffers

    def _advance(self, count: int) -> None:
        pending = self._pending
        self.unsent -= count
        while pending:
            first = pending[0]
            size = len(first.data)
            if count < size:
                if count:
                    first.data = memoryview(first.data)[count:]
                return
            count -= size
            pending.popleft()
            if first.id and first.last:
                self.written = first.id
            if first.had_handle:
                self.handles_written += 1

    def _drop_first(self) -> None:
        """Forget the first chunk, all its parts."""
        while self._pending:
            part = self._pending.popleft()
            self.unsent -= len(part.data)
            if part.last:
                return

    def own(self) -> None:
        """Copy what waits to be written, where its sender could still change it."""
        if not self._shares_memory:
            return
        self._shares_memory = False
        for part in self._pending:
            data = part.data
            if not isinstance(data, bytes) and not isinstance(data.obj, bytes):
                part.data = bytes(data)

    def discard(self) -> None:
        """Forget what waits to be written: there is nobody to read it."""
        self._pending.clear()
        self.unsent = 0

    def close(self) -> None:
        """Close the descriptor."""
        self.discard()
        # Somebody else may have closed the descriptor: it is gone either way.
        with contextlib.suppress(OSError):
            self._sock.close()


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel, neither of them inheritable."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
