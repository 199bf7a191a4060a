"""What the tests of handles share: sockets of every kind, and a far end that moves descriptors."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Any, Final, NamedTuple

import pytest

from nodecompat.connection import Connection
from nodecompat.protocol.channel import DEFAULT_MAX_MESSAGE_SIZE
from tests.support import LIMIT, Peer, connection_and_peer, lines

KEY: Final = "4:127.0.0.1:80"
"""A socket list of Node's, as the tests' peers name it."""

ACK: Final = {"cmd": "NODE_HANDLE_ACK"}
NACK: Final = {"cmd": "NODE_HANDLE_NACK"}


# -------------------------------------------------------------------------------------- sockets


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes at the end what a test makes."""
    with ExitStack() as made:
        yield made


class Pair(NamedTuple):
    """Both ends of a connection: one that travels, and one that shows what it still does."""

    near: socket.socket
    far: socket.socket


def tcp_pair(stack: ExitStack, family: socket.AddressFamily = socket.AF_INET) -> Pair:
    with tcp_server(stack, family) as server:
        far = stack.enter_context(socket.create_connection(server.getsockname()[:2], LIMIT))
        near, _ = server.accept()
    return Pair(stack.enter_context(near), far)


def unix_pair(stack: ExitStack) -> Pair:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    far.settimeout(LIMIT)
    return Pair(stack.enter_context(near), stack.enter_context(far))


def tcp_server(stack: ExitStack, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    host = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    return stack.enter_context(socket.create_server((host, 0), family=family))


def udp_socket(stack: ExitStack, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    return sock


def open_file(stack: ExitStack) -> IO[Any]:
    return stack.enter_context(open(__file__))


def open_device(stack: ExitStack) -> IO[Any]:
    return stack.enter_context(open(os.devnull, "rb", 0))


def needs_ipv6() -> None:
    """Skip a test where the machine has no IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def same_socket(one: int, other: int) -> bool:
    """Whether two descriptors are of one socket."""
    return os.path.sameopenfile(one, other)


def still_joined(pair: Pair) -> bool:
    """Whether what one end writes still comes out at the other, which was open all the time."""
    pair.far.sendall(b"ping")
    return pair.near.recv(4) == b"ping"


def at_end(sock: socket.socket) -> bool:
    """Whether nobody has the other end any more."""
    return sock.recv(1) == b""


@pytest.fixture(autouse=True)
def same_descriptors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a descriptor or a thread, or closes a descriptor that is not its."""
    failed = request.session.testsfailed
    before = _held()
    yield
    # The traceback of a failed test keeps what the test had, perhaps until another one fails.
    if request.session.testsfailed == failed:
        deadline = time.monotonic() + 5.0
        while True:
            held = _held()
            difference = held - before if failed else held ^ before
            if not difference or time.monotonic() > deadline:
                break
            gc.collect()
            time.sleep(0.005)
        assert not difference, f"the test left or closed {', '.join(sorted(difference))}"


def _held() -> set[str]:
    held = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is gone by now.
        with contextlib.suppress(FileNotFoundError):
            held.add(f"descriptor {name} {os.readlink(f'/proc/self/fd/{name}')}")
    return held


# ------------------------------------------------------------------------------------- the peer


class HandlePeer(Peer):
    """A far end that writes and reads descriptors too; it closes those that nobody took."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.fds: list[int] = []

    def read_bytes(self, most: int = 65536) -> bytes:
        data, self._unread = self._unread, b""
        if data:
            return data
        try:
            data, fds, _, _ = socket.recv_fds(self.sock, most, 16)
        except ConnectionResetError:
            return b""
        self.fds += fds
        return data

    def read_handle(self) -> tuple[dict[str, Any], socket.socket]:
        """The next message, which has to be one with a handle, and what came with it."""
        message = self.read_message()
        assert message.get("cmd") == "NODE_HANDLE", message
        return message, self.take()

    def close_handle(self) -> dict[str, Any]:
        """The next message, which has to be one with a handle; that is closed."""
        message, sock = self.read_handle()
        sock.close()
        return message

    def push_back(self, data: bytes) -> None:
        """Give back what was read, to be read again as messages."""
        self._unread = data + self._unread

    def take(self) -> socket.socket:
        """The one descriptor that came and was not taken; the caller's from here on."""
        assert len(self.fds) == 1, f"{len(self.fds)} descriptors came"
        return socket.socket(fileno=self.fds.pop())

    def send_handle(self, message: Any, sock: socket.socket, **more: Any) -> None:
        self.write_bytes(handle_line(message, **more), sock.fileno())

    def ack(self) -> None:
        self.write(ACK)

    def nack(self) -> None:
        self.write(NACK)

    def close(self) -> None:
        super().close()
        while self.fds:
            os.close(self.fds.pop())


def handle_line(message: Any, *, type: str = "net.Socket", **more: Any) -> bytes:
    """A message with a handle as it is on the wire."""
    return lines({"cmd": "NODE_HANDLE", "type": type, "msg": message, **more})


@contextlib.contextmanager
def connection_and_handle_peer(
    *, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE, max_queued: int = 2**28
) -> Iterator[tuple[Connection, HandlePeer]]:
    with (
        connection_and_peer(max_message_size=max_message_size, max_queued=max_queued) as (
            connection,
            plain,
        ),
        HandlePeer(plain.sock) as peer,
    ):
        yield connection, peer


def read_all(connection: Connection) -> None:
    """Let a connection read whatever has arrived."""
    while connection.read():
        pass


def messages_in(connection: Connection) -> list[Any]:
    """What arrived for the user, handles left out."""
    return [message.message for message in connection.inbox]
