"""What the tests of channels share: a far end of bytes, calls with a limit, a look at leaks."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Generic, Self, TypeVar

import psutil
import pytest

import nodecompat
from nodecompat.connection import Connection
from nodecompat.protocol.channel import DEFAULT_MAX_MESSAGE_SIZE, ChannelProtocol
from nodecompat.protocol.serialization import Frame
from nodecompat.transport.unix import UnixTransport, channel_pair

LIMIT: Final = 20.0
"""Seconds after which an event that has to come is taken for one that never will."""

BIG: Final = "x" * 1_000_000
"""More than a socket's buffer holds: who sends it waits until the peer reads."""

T = TypeVar("T")


# ------------------------------------------------------------------------------------- the peer


class Peer:
    """The far end of a channel, as a test plays it: it writes and reads bytes."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(LIMIT)
        self.sock = sock
        self.count = 0
        """How many bytes were read."""
        self._unread = b""

    def write(self, *messages: Any) -> None:
        self.write_bytes(lines(*messages))

    def write_bytes(self, data: bytes, *fds: int) -> None:
        if fds:
            sent = socket.send_fds(self.sock, [data], fds)
            data = data[sent:]
        self.sock.sendall(data)

    def write_what_fits(self, data: bytes) -> int:
        """Write what the kernel takes without waiting; how much that was."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while count < len(data):
                count += self.sock.send(data[count:], socket.MSG_DONTWAIT)
        return count

    def read_bytes(self, most: int = 65536) -> bytes:
        """What one read gives; no bytes at the end of the stream."""
        data, self._unread = self._unread, b""
        if not data:
            with contextlib.suppress(ConnectionResetError):
                data = self.sock.recv(most)
            self.count += len(data)
        return data

    def read_message(self) -> Any:
        parts: list[bytes] = []
        while True:
            data = self.read_bytes()
            assert data, f"the stream ended in {b''.join(parts)[:80]!r}"
            line, newline, rest = data.partition(b"\n")
            parts.append(line)
            if newline:
                self._unread = rest
                return json.loads(b"".join(parts))

    def read_messages(self, count: int) -> list[Any]:
        return [self.read_message() for _ in range(count)]

    def read_to_end(self) -> bytes:
        parts: list[bytes] = []
        while data := self.read_bytes():
            parts.append(data)
        return b"".join(parts)

    def read_all_messages(self) -> list[Any]:
        return messages_of(self.read_to_end())

    def at_end(self) -> bool:
        """Whether nothing is left to read, for now or for good."""
        return not self._unread and not select.select([self.sock], [], [], 0)[0]

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_one_piece(frame: Frame) -> bytes:
    """A frame as it is on the wire."""
    return frame if isinstance(frame, bytes) else b"".join(frame)


def lines(*messages: Any) -> bytes:
    """Messages as they are on the wire."""
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


def messages_of(data: bytes) -> list[Any]:
    """The messages in what was on the wire, which must end with a whole one."""
    assert data.endswith(b"\n") or not data, f"half a message at the end: {data[-80:]!r}"
    return [json.loads(line) for line in data.splitlines()]


@contextlib.contextmanager
def connection_and_peer(
    *, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE, max_queued: int = 2**28
) -> Iterator[tuple[Connection, Peer]]:
    near, far = channel_pair()
    connection = Connection(
        UnixTransport(near),
        ChannelProtocol(max_message_size=max_message_size),
        max_queued=max_queued,
    )
    with Peer(far) as peer:
        try:
            yield connection, peer
        finally:
            if not connection.closed:
                connection.before_close = None
                connection.abort()


# -------------------------------------------------------------------------------------- waiting


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.001)


class Background(Generic[T]):
    """A call in a thread of its own; ``result`` returns or raises what it did."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, limit: float = LIMIT) -> T:
        self._thread.join(limit)
        assert not self._thread.is_alive(), f"{self._call} hangs"
        if self._error is not None:
            raise self._error
        return self._result[0]

    def until_blocked(self) -> Self:
        until_blocked(self._thread)
        return self


def until_blocked(thread: threading.Thread) -> None:
    """Wait until a thread seems to wait for something itself: it stays where it is for a while.

    Only to let a test meet the case that it is about; its outcome must not depend on it.
    """
    deadline = time.monotonic() + LIMIT
    before = None
    same = 0
    while same < 20:
        assert time.monotonic() < deadline, "the thread never came to rest"
        time.sleep(0.002)
        frame = sys._current_frames().get(thread.ident or 0)
        place = None if frame is None else (id(frame), frame.f_lasti)
        same = same + 1 if place == before and place is not None else 0
        before = place
        if not thread.is_alive():
            return


def until_idle(pid: int) -> None:
    """Wait until another process seems to wait for something; as ``until_blocked``."""
    process = psutil.Process(pid)
    deadline = time.monotonic() + LIMIT
    same = 0
    while same < 20:
        assert time.monotonic() < deadline, "the process never came to rest"
        time.sleep(0.002)
        same = same + 1 if process.status() == psutil.STATUS_SLEEPING else 0


# ------------------------------------------------------------------------------------- children

BARE_PYTHON: Final = ("-I", "-S", "-c")
"""Arguments of a Python that starts fast and has nothing but its standard library."""

_BARE_PRELUDE: Final = """
import json, os, signal, socket, sys, time
def send(*messages):
    data = b"".join(json.dumps(message).encode() + b"\\n" for message in messages)
    while data:
        data = data[os.write(3, data):]
def until_end():
    try:
        while os.read(3, 65536):
            pass
    except ConnectionResetError:
        pass
"""


def bare(code: str, *args: str) -> list[str]:
    """Arguments for ``sys.executable``: a program with ``send``, ``until_end`` on descriptor 3."""
    return [*BARE_PYTHON, _BARE_PRELUDE + textwrap.dedent(code), *args]


class RawChild:
    """A Python program with nodecompat and a channel, whose parent is the test."""

    def __init__(self, process: subprocess.Popen[bytes], peer: Peer) -> None:
        self.process = process
        self.peer = peer

    def take_connection(self) -> Connection:
        """The channel to it, as the other end of a pair of equals."""
        transport = UnixTransport.from_fd(self.peer.sock.detach())
        return Connection(transport, ChannelProtocol(), max_queued=2**30)

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(LIMIT)

    def stderr(self) -> str:
        """All that it wrote to stderr, once it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()


@contextlib.contextmanager
def raw_child(code: str, **env: str) -> Iterator[RawChild]:
    """Start a Python program whose channel is in our hands; it is killed at the end."""
    near, far = socket.socketpair()
    with Peer(near) as peer, far:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            pass_fds=[far.fileno()],
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(nodecompat.__file__).parents[1]),
                "NODE_CHANNEL_FD": str(far.fileno()),
                **env,
            },
        )
        with process:
            far.close()
            try:
                yield RawChild(process, peer)
            finally:
                process.kill()


# ---------------------------------------------------------------------------------------- leaks


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a descriptor, a child process or a thread."""
    failed = request.session.testsfailed
    before = _held()
    children = set(psutil.Process().children())
    yield
    # The traceback of a failed test keeps what the test had: that is no leak.
    if request.session.testsfailed != failed:
        for child in set(psutil.Process().children()) - children:
            child.kill()
    else:
        deadline = time.monotonic() + 5.0
        while (left := _held() - before) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert not left, f"the test left {', '.join(sorted(left))}"


def _held() -> set[str]:
    gc.collect()
    held = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    held |= {f"child {child.pid} {child.status()}" for child in psutil.Process().children()}
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            held.add(f"descriptor {name} {os.readlink(f'/proc/self/fd/{name}')}")
    return held


def open_fds() -> set[int]:
    """The descriptors of this process."""
    found: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            os.fstat(int(name))
            found.add(int(name))
    return found


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
