"""Descriptors with an owner, and what Node calls them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final, NamedTuple, SupportsIndex, cast, final

from nodecompat.errors import InvalidHandle, ProtocolError

__all__ = [
    "Handle",
    "HandleType",
    "OutgoingHandle",
    "TrackedSocket",
    "connection_key",
    "handle_type",
    "track",
]

_FOREVER: Final = 2_147_483.0
"""The longest timeout that Python's sockets take, in seconds: 24 days."""


@final
class Handle:
    """A descriptor that came from the peer and has exactly one owner, who takes or closes it."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, or -1 once it was taken or closed."""
        return self._fd

    def detach(self) -> int:
        """Take the descriptor: the caller owns it from here on. ValueError when it is gone."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            raise ValueError("the handle was already taken or closed")
        return fd

    def to_socket(self, on_close: Callable[[], object] | None = None) -> socket.socket:
        """The handle as a ``socket.socket``, which owns it; the kernel tells family and type.

        It blocks, as a new Python socket does. Where the peer shares it and has made it
        non-blocking, which Node does, that flag stays as it is for the peer's sake, and the
        blocking is a timeout of 24 days. ``on_close`` is called once, when the socket is closed.
        Raises ProtocolError for a descriptor that is no socket.
        """
        fd = self.detach()
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise ProtocolError("the peer sent a descriptor that is not a socket")
            sock = TrackedSocket(fileno=fd) if on_close else socket.socket(fileno=fd)
        except BaseException:
            os.close(fd)
            if on_close:
                on_close()
            raise
        if isinstance(sock, TrackedSocket):
            sock.on_close = on_close
        if not os.get_blocking(fd):
            sock.settimeout(_FOREVER)
        return sock

    def close(self) -> None:
        """Close the descriptor, if it is still here."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def release(self, delivered: bool) -> None:
        """The channel is done with it."""
        self.close()

    def close_untaken(self) -> None:
        """Close the descriptor of a handle that nobody took, with a ResourceWarning."""
        if self._fd >= 0:
            try:
                warnings.warn(
                    f"a handle that the peer sent was not taken: closing descriptor {self._fd}",
                    ResourceWarning,
                    stacklevel=4,
                    source=self,
                )
            finally:
                self.close()

    def __del__(self) -> None:
        self.close_untaken()

    def __repr__(self) -> str:
        return f"<Handle fd={self._fd}>" if self._fd >= 0 else "<Handle closed>"


class TrackedSocket(socket.socket):
    """A socket that says when it is closed, so that its sender can count the open ones."""

    on_close: Callable[[], object] | None = None

    def _report(self) -> None:
        on_close, self.on_close = self.on_close, None
        if on_close is not None:
            on_close()

    def close(self) -> None:
        """Close the socket; reported once its descriptor and files made from it are gone."""
        super().close()
        if self.fileno() < 0:
            self._report()

    def detach(self) -> int:
        """Give up the descriptor, which counts as closed: whoever takes it is not seen here."""
        fd = super().detach()
        self._report()
        return fd

    def __del__(self) -> None:
        try:
            if self.fileno() >= 0:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            # A warning may be an error.
            super().close()
            self._report()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        # As multiprocessing does for the plain class: the other process has a plain socket.
        from multiprocessing import reduction

        duplicate = reduction.DupFd(self.fileno())
        return _unpickled, (duplicate, self.family, self.type, self.proto)


def _unpickled(duplicate: Any, family: int, kind: int, proto: int) -> socket.socket:
    return socket.socket(family, kind, proto, fileno=duplicate.detach())


def track(sock: socket.socket, on_close: Callable[[], object]) -> TrackedSocket:
    """The same socket as one that says when it is closed; ``sock`` itself is empty then."""
    timeout = sock.gettimeout()
    tracked = TrackedSocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
    tracked.settimeout(timeout)
    tracked.on_close = on_close
    return tracked


def connection_key(sock: socket.socket) -> str:
    """What Node calls the socket list of a server: its family, address and port.

    Raises ValueError for a socket that does not listen.
    """
    if _stream_state(sock) != "listening":
        raise ValueError(f"a server's socket has to listen: {sock!r}")
    if sock.family == socket.AF_UNIX:
        return f"-1:{sock.getsockname()}:-1"
    address, port = sock.getsockname()[:2]
    return f"{6 if sock.family == socket.AF_INET6 else 4}:{address}:{port}"


class HandleType(NamedTuple):
    """What Node calls a socket, and whether its sender closes it once the peer has it."""

    name: str
    dgram_type: str | None
    moves: bool


_STREAM_TYPES: Final = frozenset({"net.Server", "net.Socket", "net.Native", "net.BoundSocket"})
_DGRAM_TYPES: Final = frozenset({"dgram.Socket", "dgram.Native"})


def handle_type(handle: Any, wanted: str | None = None) -> HandleType:
    """Node's type for a socket; ``wanted`` asks for one by name, where a socket can be several.

    Raises InvalidHandle for what cannot travel: no socket, closed, TLS on top, a family or type
    that Node does not know, a stream socket that is neither connected nor listening.
    """
    sock = _checked(handle)
    family, kind = sock.family, sock.type
    if kind == socket.SOCK_DGRAM and family in (socket.AF_INET, socket.AF_INET6):
        name = wanted or "dgram.Socket"
        if name not in _DGRAM_TYPES:
            raise InvalidHandle(f"handle_type={name!r}: {handle!r} is a datagram socket")
        dgram_type = "udp4" if family == socket.AF_INET else "udp6"
        return HandleType(name, dgram_type if name == "dgram.Socket" else None, moves=False)
    if kind != socket.SOCK_STREAM or family not in (
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_UNIX,
    ):
        raise InvalidHandle(f"Node has no handle for a socket of this family and type: {handle!r}")
    if wanted is not None and wanted not in _STREAM_TYPES:
        raise InvalidHandle(f"handle_type={wanted!r}: {handle!r} is a stream socket")
    state = _stream_state(sock)
    if wanted == "net.Native":
        return HandleType(wanted, None, moves=False)
    if state == "bound" and wanted == "net.Socket":
        return HandleType(wanted, None, moves=True)
    if state == "bound":
        if wanted != "net.BoundSocket":
            raise InvalidHandle(
                f"{handle!r} is neither connected nor listening. A connection that the other side "
                "has reset goes with handle_type='net.Socket', a bound socket with "
                "'net.BoundSocket' to Node 26 and later"
            )
        if family == socket.AF_UNIX:
            raise InvalidHandle(f"net.BoundSocket: {handle!r} is not a TCP socket")
        return HandleType(wanted, None, moves=True)
    name = "net.Server" if state == "listening" else "net.Socket"
    if wanted not in (None, name):
        raise InvalidHandle(f"handle_type={wanted!r}: {handle!r} is a {state} socket ({name})")
    return HandleType(name, None, moves=state == "connected")


def _checked(handle: Any) -> socket.socket:
    if not isinstance(handle, socket.socket) and not _is_transport_socket(handle):
        kind = type(handle)
        raise InvalidHandle(
            f"a handle is a socket.socket, not {kind.__module__}.{kind.__qualname__}"
        )
    # Not imported for this: without it nobody can have made such a socket.
    ssl = sys.modules.get("ssl")
    if ssl is not None and isinstance(handle, ssl.SSLSocket):
        raise InvalidHandle(f"a TLS socket cannot travel, its keys would stay behind: {handle!r}")
    if handle.fileno() < 0:
        raise InvalidHandle("the socket is closed")
    return cast(socket.socket, handle)


def _is_transport_socket(handle: Any) -> bool:
    """Whether it is what asyncio shows of a transport's socket: ``server.sockets`` has such."""
    # Not imported for this: without it nobody can have such a socket.
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(handle, asyncio.trsock.TransportSocket)


def _stream_state(sock: socket.socket) -> str:
    """``listening``, ``connected``, or ``bound``, which is all the rest."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "listening"
    try:
        sock.getpeername()
    except OSError:
        return "bound"
    return "connected"


@final
class OutgoingHandle:
    """A socket on its way: a descriptor of its own, until the peer has it."""

    __slots__ = ("_fd", "_on_delivery", "_sock")

    def __init__(
        self,
        sock: socket.socket,
        *,
        moves: bool,
        on_delivery: Callable[[], None] | None = None,
    ) -> None:
        # Before what can fail: __del__ looks at both.
        self._fd = -1
        self._on_delivery = on_delivery
        self._sock: socket.socket | None = None
        if moves and not isinstance(sock, socket.socket):
            raise InvalidHandle(
                f"{sock!r} is a connection that an asyncio transport goes on using: send a socket "
                "of your own, or share it with keep_open=True"
            )
        # The caller may do with its socket what it likes meanwhile.
        self._fd = os.dup(sock.fileno())
        self._sock = sock if moves else None
        # The transport will take away the blocking, on which Node hangs. That flag belongs to the
        # socket, not to the descriptor: where this side goes on using it, it keeps blocking by way
        # of a timeout.
        if not moves and os.get_blocking(self._fd):
            sock.settimeout(_FOREVER)

    def fileno(self) -> int:
        """The descriptor to send, -1 once it is released."""
        return self._fd

    def release(self, delivered: bool) -> None:
        """The channel is done with it; a socket that moved is closed here as well."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        sock, self._sock = self._sock, None
        if sock is not None:
            if delivered:
                if self._on_delivery is not None:
                    self._on_delivery()
                sock.close()
            elif (
                sock.fileno() >= 0
                and sock.gettimeout() is None
                and not os.get_blocking(sock.fileno())
            ):
                # It stays here after all, and was a blocking one. It was written, so the peer may
                # have it all the same.
                sock.settimeout(_FOREVER)

    def __del__(self) -> None:
        # One whose making was interrupted has nothing.
        if hasattr(self, "_sock"):
            self.release(delivered=False)
