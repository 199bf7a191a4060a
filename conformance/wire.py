"""Exact bytes and descriptors on a channel: what the raw peer and the relay share.

Both are started very often, so this has nothing but the standard library, and little of that.
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import signal
import socket
import sys
from typing import Final, NamedTuple

__all__ = [
    "LIMIT",
    "ChildWatch",
    "Piece",
    "Receiver",
    "WireLog",
    "close_all",
    "exit_of",
    "inherit_nothing",
    "ready",
    "send",
    "start_child",
    "take_channel",
    "untaken",
]

LIMIT: Final = 120.0
"""Seconds that anything may take. The runner's limit comes first, unless the runner has gone."""

# What the kernel allows in one message.
_MOST_FDS = 253
_CONTROL = socket.CMSG_SPACE(_MOST_FDS * array.array("i").itemsize)
_NO_SIGNAL: int = getattr(socket, "MSG_NOSIGNAL", 0)
_CLOEXEC: int = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

# Of a read or a write, the log keeps so many bytes.
_LOGGED = 4096


class Piece(NamedTuple):
    """Bytes that came, and the descriptors that came with the first of them."""

    data: bytes
    fds: list[int]


class Receiver:
    """Reads a channel, and knows which byte brought the descriptors.

    One read of Linux's also has bytes that were written before those with the descriptors.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def receive(self, most: int = 65536) -> list[Piece]:
        """What has come, up to so many bytes; nothing at the end of the stream.

        Raises BlockingIOError when nothing has come, OSError when descriptors were lost.
        """
        try:
            if sys.platform != "linux":
                # Elsewhere a read ends before bytes with descriptors.
                return _pieces([self._read(most)])
            return self._receive(most)
        except ConnectionResetError:
            # The other side closed before it had read all.
            return []

    def _receive(self, most: int) -> list[Piece]:
        data, control, flags, _ = self._sock.recvmsg(
            most, _CONTROL, socket.MSG_DONTWAIT | socket.MSG_PEEK | _CLOEXEC
        )
        count = len(data)
        if not control and not flags & socket.MSG_CTRUNC:
            return _pieces([self._read(count)]) if count else []
        close_all(_fds_in(control))
        # Somewhere in these bytes: which one it is only reading them one by one tells.
        before = bytearray()
        while len(before) < count:
            byte, fds = self._read(1)
            if fds:
                rest = count - len(before) - 1
                try:
                    more = self._read(rest).data if rest else b""
                except BaseException:
                    close_all(fds)
                    raise
                return _pieces([Piece(bytes(before), []), Piece(byte + more, fds)])
            before += byte
        return _pieces([Piece(bytes(before), [])])

    def _read(self, most: int) -> Piece:
        data, control, flags, _ = self._sock.recvmsg(most, _CONTROL, socket.MSG_DONTWAIT | _CLOEXEC)
        fds = _fds_in(control)
        if flags & socket.MSG_CTRUNC:
            close_all(fds)
            raise OSError(errno.EMFILE, "descriptors were lost on the way: too many are open here")
        if not _CLOEXEC:
            for fd in fds:
                os.set_inheritable(fd, False)
        return Piece(data, fds)


def _pieces(pieces: list[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece.data]


def _fds_in(control: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds = array.array("i")
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            found += fds
    return found


def close_all(fds: list[int]) -> None:
    """Close descriptors, and forget them."""
    while fds:
        os.close(fds.pop())


def send(sock: socket.socket, data: bytes | memoryview, fds: list[int]) -> int:
    """Write once, without waiting, and the descriptors with the first byte; how much was taken.

    Raises BlockingIOError when nothing was, and OSError.
    """
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    return sock.sendmsg([data], control, socket.MSG_DONTWAIT | _NO_SIGNAL)


def untaken(sock: socket.socket) -> bool:
    """Whether the other side has not read all that was written to a channel.

    False on systems that do not tell.
    """
    if sys.platform == "linux":
        from fcntl import ioctl
        from termios import TIOCOUTQ

        # How much memory it takes: not how many bytes, but 0 when there are none.
        return ioctl(sock.fileno(), TIOCOUTQ, bytes(4)) != bytes(4)
    if sys.platform == "darwin":
        so_nwrite = 0x1024
        return sock.getsockopt(socket.SOL_SOCKET, so_nwrite) != 0
    return False


# ------------------------------------------------------------------------------------------ the log


class WireLog:
    """A file with what was on the wire, a line of JSON for each piece.

    ``{"from": "parent", "text": "…", "fds": 0}``, with ``hex`` in the place of ``text`` for what is
    no UTF-8 and in advanced mode. ``more: N`` says that so many bytes behind these were left out,
    ``end: true`` that this side writes no more.
    """

    def __init__(self, path: str, *, advanced: bool) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._advanced = advanced

    def add(self, sender: str, data: bytes | memoryview, fds: int) -> None:
        """These bytes of that role's were on the wire, with so many descriptors."""
        entry: dict[str, object] = {"from": sender}
        shown = bytes(data[:_LOGGED])
        try:
            entry["text"] = None if self._advanced else shown.decode()
        except UnicodeDecodeError:
            entry["text"] = None
        if entry["text"] is None:
            del entry["text"]
            entry["hex"] = shown.hex()
        entry["fds"] = fds
        if len(data) > len(shown):
            entry["more"] = len(data) - len(shown)
        self._write(entry)

    def end(self, sender: str) -> None:
        """That role writes no more."""
        self._write({"from": sender, "text": "", "fds": 0, "end": True})

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, entry: dict[str, object]) -> None:
        line = json.dumps(entry).encode() + b"\n"
        if os.write(self._fd, line) != len(line):
            raise OSError(errno.EIO, "the wire log could not be written in one piece")


# --------------------------------------------------------------------------------------- the family


def take_channel() -> tuple[socket.socket, int]:
    """The channel that the parent gave this process, and the number of its descriptor.

    Takes it out of the environment, as Node does (lib/internal/process/pre_execution.js,
    setupChildProcessIpcChannel). Raises OSError and ValueError, which name the variable.
    """
    text = os.environ.pop("NODE_CHANNEL_FD", "")
    os.environ.pop("NODE_CHANNEL_SERIALIZATION_MODE", None)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"NODE_CHANNEL_FD is {text!r}: this process has no channel")
    fd = int(text)
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise OSError(error.errno, f"NODE_CHANNEL_FD is {fd}: {error.strerror}") from error
    sock.set_inheritable(False)
    return sock, fd


def inherit_nothing() -> None:
    """Let no child have a descriptor from 3 on, as node::InitializeOncePerProcess does."""
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        try:
            if fd > 2:
                os.set_inheritable(fd, False)
        except OSError as error:
            # The listing's own.
            if error.errno != errno.EBADF:
                raise


def start_child(
    command: str, args: list[str], env: dict[str, str], sock: socket.socket, fd: int
) -> int:
    """Start a program with a channel as its descriptor `fd`, as libuv's uv_spawn does.

    Returns the number of its process. Every signal does there what it does by default, and none is
    blocked. Raises OSError.
    """
    with socket.fromfd(sock.fileno(), sock.family, sock.type) as other:
        # Not every system makes a descriptor inheritable that is put in its own place.
        source = other if sock.fileno() == fd else sock
        return os.posix_spawnp(
            command,
            [command, *args],
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, source.fileno(), fd)],
            setsigmask=[],
            setsigdef=set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP},
        )


def exit_of(status: int) -> int | str:
    """How a process ended, from what waitpid says: its status, or the name of its signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else signal.Signals(-code).name


class ChildWatch:
    """A descriptor that can be read when a child has ended, or another signal has come."""

    def __init__(self) -> None:
        self.fd, self._write_end = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._write_end, False)
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def look(self, pid: int) -> int | None:
        """What waitpid says of this child, if it has ended."""
        while True:
            try:
                if not os.read(self.fd, 512):
                    break
            except BlockingIOError:
                break
        found, status = os.waitpid(pid, os.WNOHANG)
        return status if found else None


def ready(wanted: dict[int, int], timeout: float) -> dict[int, int]:
    """Which of these descriptors are ready for what, after so many seconds at most."""
    poll = select.poll()
    for fd, events in wanted.items():
        poll.register(fd, events)
    return dict(poll.poll(max(0, int(timeout * 1000 + 0.999))))
