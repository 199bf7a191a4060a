"""nodecompat.transport.handles: what Node calls a socket, and sockets on their way and counted."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import multiprocessing.resource_tracker
import os
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nodecompat.errors import InvalidHandle, ProtocolError
from nodecompat.transport.handles import (
    Handle,
    HandleType,
    OutgoingHandle,
    TrackedSocket,
    connection_key,
    handle_type,
    track,
)
from tests.handle_support import (
    Pair,
    at_end,
    needs_ipv6,
    open_device,
    open_file,
    same_socket,
    still_joined,
    tcp_pair,
    tcp_server,
    udp_socket,
    unix_pair,
)
from tests.handle_support import same_descriptors as same_descriptors
from tests.handle_support import stack as stack
from tests.support import LIMIT, Background, is_open

MakeSocket = Callable[[ExitStack], socket.socket]

_SERVER = HandleType("net.Server", None, moves=False)
_SOCKET = HandleType("net.Socket", None, moves=True)
_NATIVE = HandleType("net.Native", None, moves=False)
_BOUND = HandleType("net.BoundSocket", None, moves=True)


def _tcp_server(stack: ExitStack) -> socket.socket:
    return tcp_server(stack)


def _tcp6_server(stack: ExitStack) -> socket.socket:
    needs_ipv6()
    return tcp_server(stack, socket.AF_INET6)


def _unix_server(stack: ExitStack) -> socket.socket:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    sock.bind(f"{folder}/server")
    sock.listen()
    return sock


def _tcp_socket(stack: ExitStack) -> socket.socket:
    return tcp_pair(stack).near


def _tcp6_socket(stack: ExitStack) -> socket.socket:
    needs_ipv6()
    return tcp_pair(stack, socket.AF_INET6).near


def _unix_socket(stack: ExitStack) -> socket.socket:
    return unix_pair(stack).near


def _udp_socket(stack: ExitStack) -> socket.socket:
    return udp_socket(stack)


def _udp6_socket(stack: ExitStack) -> socket.socket:
    needs_ipv6()
    return udp_socket(stack, socket.AF_INET6)


def _connected_udp_socket(stack: ExitStack) -> socket.socket:
    sock = udp_socket(stack)
    sock.connect(udp_socket(stack).getsockname())
    return sock


def _new_socket(stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.socket())


def _bound_socket(stack: ExitStack) -> socket.socket:
    sock = _new_socket(stack)
    sock.bind(("127.0.0.1", 0))
    return sock


def _new_unix_socket(stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))


# ---------------------------------------------------------------------------------- Node's types


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_tcp_server, _SERVER),
        (_tcp6_server, _SERVER),
        (_unix_server, _SERVER),
        (_tcp_socket, _SOCKET),
        (_tcp6_socket, _SOCKET),
        (_unix_socket, _SOCKET),
        (_udp_socket, HandleType("dgram.Socket", "udp4", moves=False)),
        (_udp6_socket, HandleType("dgram.Socket", "udp6", moves=False)),
        (_connected_udp_socket, HandleType("dgram.Socket", "udp4", moves=False)),
    ],
)
def test_type_follows_from_the_socket(
    make: MakeSocket, expected: HandleType, stack: ExitStack
) -> None:
    assert handle_type(make(stack)) == expected


@pytest.mark.parametrize(
    ("make", "wanted", "expected"),
    [
        (_tcp_server, "net.Server", _SERVER),
        (_tcp_server, "net.Native", _NATIVE),
        (_tcp_socket, "net.Socket", _SOCKET),
        (_tcp_socket, "net.Native", _NATIVE),
        (_unix_server, "net.Native", _NATIVE),
        (_bound_socket, "net.Native", _NATIVE),
        (_bound_socket, "net.BoundSocket", _BOUND),
        (_udp_socket, "dgram.Socket", HandleType("dgram.Socket", "udp4", moves=False)),
        (_udp_socket, "dgram.Native", HandleType("dgram.Native", None, moves=False)),
        (_udp6_socket, "dgram.Native", HandleType("dgram.Native", None, moves=False)),
    ],
)
def test_type_may_be_asked_for(
    make: MakeSocket, wanted: str, expected: HandleType, stack: ExitStack
) -> None:
    assert handle_type(make(stack), wanted) == expected


@pytest.mark.parametrize(
    ("make", "wanted", "why"),
    [
        (_tcp_server, "net.Socket", r"handle_type='net.Socket': .* is a listening socket"),
        (_tcp_server, "net.BoundSocket", "is a listening socket"),
        (_tcp_socket, "net.Server", r"is a connected socket \(net.Socket\)"),
        (_tcp_socket, "net.BoundSocket", "is a connected socket"),
        (_tcp_socket, "dgram.Socket", "is a stream socket"),
        (_tcp_socket, "net.Pipe", r"handle_type='net.Pipe'"),
        (_tcp_socket, "", "handle_type=''"),
        (_bound_socket, "net.Server", "neither connected nor listening"),
        (_new_unix_socket, "net.BoundSocket", "is not a TCP socket"),
        (_udp_socket, "net.Socket", r"handle_type='net.Socket': .* is a datagram socket"),
        (_udp_socket, "net.Native", "is a datagram socket"),
        (_udp_socket, "udp4", "handle_type='udp4'"),
    ],
)
def test_type_that_the_socket_is_not_is_refused(
    make: MakeSocket, wanted: str, why: str, stack: ExitStack
) -> None:
    with pytest.raises(InvalidHandle, match=why):
        handle_type(make(stack), wanted)


@pytest.mark.parametrize("make", [_new_socket, _bound_socket, _new_unix_socket])
def test_stream_socket_that_does_nothing_yet_is_refused(make: MakeSocket, stack: ExitStack) -> None:
    with pytest.raises(InvalidHandle, match=r"neither connected nor listening.*net\.BoundSocket"):
        handle_type(make(stack))


def test_closed_socket_is_refused(stack: ExitStack) -> None:
    sock = _tcp_socket(stack)
    sock.close()
    with pytest.raises(InvalidHandle, match="the socket is closed"):
        handle_type(sock)


def test_tls_socket_is_refused(stack: ExitStack) -> None:
    context = ssl.create_default_context()
    pair = tcp_pair(stack)
    sock = stack.enter_context(
        context.wrap_socket(pair.near, server_hostname="x", do_handshake_on_connect=False)
    )
    with pytest.raises(InvalidHandle, match="a TLS socket cannot travel"):
        handle_type(sock)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET),
        (socket.AF_NETLINK, socket.SOCK_RAW),
        (socket.AF_NETLINK, socket.SOCK_DGRAM),
    ],
)
@pytest.mark.parametrize("wanted", [None, "net.Native", "dgram.Native"])
def test_socket_that_node_has_no_handle_for_is_refused(
    family: int, kind: int, wanted: str | None
) -> None:
    with (
        socket.socket(family, kind) as sock,
        pytest.raises(InvalidHandle, match="no handle for a socket of this family and type"),
    ):
        handle_type(sock, wanted)


def _object_with_fileno(stack: ExitStack) -> Any:
    class Odd:
        def fileno(self) -> int:
            return 2

    return Odd()


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (open_file, "_io.TextIOWrapper"),
        (open_device, "_io.FileIO"),
        (lambda stack: 2, "builtins.int"),
        (lambda stack: "socket", "builtins.str"),
        (lambda stack: Path("/"), r"pathlib\.\w+"),
        (_object_with_fileno, r"tests\.transport\.test_outgoing_handles\..*Odd"),
    ],
)
def test_what_is_no_socket_is_refused_by_its_name(
    make: Callable[[ExitStack], Any], kind: str, stack: ExitStack
) -> None:
    with pytest.raises(InvalidHandle, match=rf"^a handle is a socket\.socket, not {kind}$"):
        handle_type(make(stack))


def test_what_asyncio_shows_of_its_sockets_travels_unless_it_moves(stack: ExitStack) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            (listener,) = server.sockets
            kind = handle_type(listener)
            assert kind == HandleType("net.Server", None, moves=False)
            outgoing = OutgoingHandle(listener, moves=kind.moves)
            assert outgoing.fileno() >= 0
            outgoing.release(delivered=True)
            assert listener.fileno() >= 0
            _, writer = await asyncio.open_connection(*listener.getsockname())
            connection = writer.get_extra_info("socket")
            with pytest.raises(InvalidHandle, match="an asyncio transport goes on using"):
                OutgoingHandle(connection, moves=handle_type(connection).moves)
            outgoing = OutgoingHandle(connection, moves=False)
            outgoing.release(delivered=True)
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


def test_refusal_is_a_type_error_with_nodes_code() -> None:
    with pytest.raises(TypeError) as caught:
        handle_type(None)
    assert isinstance(caught.value, InvalidHandle)
    assert caught.value.code == "ERR_INVALID_HANDLE_TYPE"


def test_looking_at_a_socket_does_not_change_it(stack: ExitStack) -> None:
    for make in (_tcp_server, _tcp_socket, _udp_socket):
        sock = make(stack)
        handle_type(sock)
        assert sock.gettimeout() is None
        assert os.get_blocking(sock.fileno())


@pytest.mark.parametrize(("make", "number"), [(_tcp_server, 4), (_tcp6_server, 6)])
def test_list_of_a_tcp_server_is_named_after_its_address(
    make: MakeSocket, number: int, stack: ExitStack
) -> None:
    sock = make(stack)
    host, port = sock.getsockname()[:2]
    assert connection_key(sock) == f"{number}:{host}:{port}"


def test_list_of_a_unix_server_is_named_after_its_path(stack: ExitStack) -> None:
    sock = _unix_server(stack)
    assert connection_key(sock) == f"-1:{sock.getsockname()}:-1"


# --------------------------------------------------------------------------------- on their way


def test_socket_on_its_way_has_a_descriptor_of_its_own(stack: ExitStack) -> None:
    sock = _tcp_socket(stack)
    outgoing = OutgoingHandle(sock, moves=True)
    fd = outgoing.fileno()
    assert fd != sock.fileno()
    assert same_socket(fd, sock.fileno())
    assert not os.get_inheritable(fd)
    sock.close()
    assert is_open(fd)
    outgoing.release(delivered=True)
    assert not is_open(fd)
    assert outgoing.fileno() == -1


def test_socket_that_moves_blocks_until_it_is_written(stack: ExitStack) -> None:
    outgoing = OutgoingHandle(_tcp_socket(stack), moves=True)
    assert os.get_blocking(outgoing.fileno())
    outgoing.release(delivered=True)


def test_socket_that_moved_is_closed_here(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    outgoing = OutgoingHandle(pair.near, moves=True)
    assert pair.near.fileno() >= 0
    outgoing.release(delivered=True)
    assert pair.near.fileno() == -1
    assert at_end(pair.far)


def test_socket_that_did_not_arrive_stays_and_blocks_again(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    outgoing = OutgoingHandle(pair.near, moves=True)
    outgoing.release(delivered=False)
    assert os.get_blocking(pair.near.fileno())
    assert pair.near.gettimeout() is None
    assert still_joined(pair)


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_socket_that_did_not_block_does_not_block_after_a_failure_either(
    timeout: float, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    pair.near.settimeout(timeout)
    outgoing = OutgoingHandle(pair.near, moves=True)
    outgoing.release(delivered=False)
    assert pair.near.gettimeout() == timeout
    assert not os.get_blocking(pair.near.fileno())


@pytest.mark.parametrize("make", [_tcp_server, _unix_server, _udp_socket, _tcp_socket])
@pytest.mark.parametrize("delivered", [True, False])
def test_socket_that_stays_is_open_afterwards(
    make: MakeSocket, delivered: bool, stack: ExitStack
) -> None:
    sock = make(stack)
    outgoing = OutgoingHandle(sock, moves=False)
    fd = outgoing.fileno()
    outgoing.release(delivered)
    assert not is_open(fd)
    assert sock.fileno() >= 0
    assert not os.get_blocking(sock.fileno())


def test_socket_that_stays_keeps_blocking_for_python(stack: ExitStack) -> None:
    sock = udp_socket(stack)
    OutgoingHandle(sock, moves=False).release(delivered=True)
    waiting = Background(lambda: sock.recv(10)).until_blocked()
    assert waiting.running
    with udp_socket(stack) as other:
        other.sendto(b"come", sock.getsockname())
    assert waiting.result() == b"come"


def test_listener_that_stays_keeps_blocking_for_python(stack: ExitStack) -> None:
    server = tcp_server(stack)
    OutgoingHandle(server, moves=False).release(delivered=True)
    waiting = Background(server.accept).until_blocked()
    assert waiting.running
    client = stack.enter_context(socket.create_connection(server.getsockname()))
    accepted, _ = waiting.result()
    with accepted:
        assert accepted.gettimeout() is None
        assert os.get_blocking(accepted.fileno())
        assert still_joined(Pair(accepted, client))


@pytest.mark.parametrize("timeout", [0.0, 5.0])
def test_timeout_of_a_socket_that_stays_is_kept(timeout: float, stack: ExitStack) -> None:
    sock = udp_socket(stack)
    sock.settimeout(timeout)
    OutgoingHandle(sock, moves=False).release(delivered=True)
    assert sock.gettimeout() == timeout


@pytest.mark.parametrize("delivered", [True, False])
def test_socket_may_be_closed_by_its_owner_while_it_is_on_its_way(
    delivered: bool, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    outgoing = OutgoingHandle(pair.near, moves=True)
    pair.near.close()
    with socket.socket(fileno=os.dup(outgoing.fileno())) as copy:
        pair.far.sendall(b"there")
        assert copy.recv(5) == b"there"
    outgoing.release(delivered)
    assert pair.near.fileno() == -1


def test_second_release_does_nothing(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    outgoing = OutgoingHandle(pair.near, moves=True)
    fd = outgoing.fileno()
    outgoing.release(delivered=False)
    other = os.dup2(2, fd)
    outgoing.release(delivered=True)
    assert is_open(other)
    os.close(other)
    assert pair.near.fileno() >= 0


def test_forgotten_one_closes_its_descriptor_and_leaves_the_socket(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    outgoing = OutgoingHandle(pair.near, moves=True)
    fd = outgoing.fileno()
    del outgoing
    gc.collect()
    assert not is_open(fd)
    assert os.get_blocking(pair.near.fileno())
    assert still_joined(pair)


# -------------------------------------------------------------------------------------- counted


class _Closed:
    """Counts how often it is told of a close, and whether the descriptor was gone by then."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def _tracked(stack: ExitStack) -> tuple[TrackedSocket, socket.socket, _Closed]:
    pair = tcp_pair(stack)
    closed = _Closed()
    return stack.enter_context(track(pair.near, closed)), pair.far, closed


def test_counted_socket_is_the_same_socket(stack: ExitStack) -> None:
    pair = unix_pair(stack)
    fd = pair.near.fileno()
    with track(pair.near, _Closed()) as tracked:
        assert tracked.fileno() == fd
        assert pair.near.fileno() == -1
        assert (tracked.family, tracked.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
        assert still_joined(Pair(tracked, pair.far))


@pytest.mark.parametrize("timeout", [None, 0.0, 5.0])
def test_counted_socket_keeps_its_timeout(timeout: float | None, stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    pair.near.settimeout(timeout)
    with track(pair.near, _Closed()) as tracked:
        assert tracked.gettimeout() == timeout
        assert os.get_blocking(tracked.fileno()) is (timeout is None)


def test_close_is_told_once(stack: ExitStack) -> None:
    tracked, far, closed = _tracked(stack)
    assert closed.count == 0
    tracked.close()
    assert closed.count == 1
    assert at_end(far)
    tracked.close()
    del tracked
    gc.collect()
    assert closed.count == 1


def test_end_of_a_with_block_is_a_close(stack: ExitStack) -> None:
    tracked, _, closed = _tracked(stack)
    with tracked:
        assert closed.count == 0
    assert closed.count == 1


def test_detach_counts_as_a_close(stack: ExitStack) -> None:
    tracked, far, closed = _tracked(stack)
    fd = tracked.detach()
    assert closed.count == 1
    assert is_open(fd)
    with socket.socket(fileno=fd) as plain:
        assert still_joined(Pair(plain, far))
    tracked.close()
    assert closed.count == 1


def test_shutdown_is_no_close(stack: ExitStack) -> None:
    tracked, _, closed = _tracked(stack)
    tracked.shutdown(socket.SHUT_RDWR)
    assert closed.count == 0


def test_files_made_from_it_keep_it_open(stack: ExitStack) -> None:
    tracked, far, closed = _tracked(stack)
    reading, writing = tracked.makefile("rb"), tracked.makefile("wb")
    tracked.close()
    assert closed.count == 0
    writing.close()
    assert closed.count == 0
    far.sendall(b"line\n")
    assert reading.readline() == b"line\n"
    reading.close()
    assert closed.count == 1
    assert at_end(far)


def test_close_on_another_thread_is_told(stack: ExitStack) -> None:
    tracked, _, closed = _tracked(stack)
    Background(tracked.close).result()
    assert closed.count == 1


def _forget_one(stack: ExitStack) -> tuple[int, socket.socket, _Closed]:
    pair = tcp_pair(stack)
    closed = _Closed()
    tracked = track(pair.near, closed)
    return tracked.fileno(), pair.far, closed


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_forgotten_counted_socket_is_told_of_and_closed(stack: ExitStack) -> None:
    fd, far, closed = _forget_one(stack)
    gc.collect()
    assert closed.count == 1
    assert not is_open(fd)
    assert at_end(far)


def test_forgotten_counted_socket_is_warned_of_as_any_other(stack: ExitStack) -> None:
    with pytest.warns(ResourceWarning, match="unclosed"):
        _forget_one(stack)


def test_received_socket_may_be_counted(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    closed = _Closed()
    with Handle(pair.near.detach()).to_socket(closed) as sock:
        assert still_joined(Pair(sock, pair.far))
        assert closed.count == 0
    assert closed.count == 1


def test_descriptor_that_is_no_socket_counts_as_closed_at_once() -> None:
    read, write = os.pipe()
    os.close(write)
    closed = _Closed()
    with pytest.raises(ProtocolError, match="a descriptor that is not a socket"):
        Handle(read).to_socket(closed)
    assert not is_open(read)
    assert closed.count == 1


# ------------------------------------------------------------------------------------- received


def test_received_blocking_socket_blocks(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    with Handle(pair.near.detach()).to_socket() as sock:
        assert sock.gettimeout() is None
        assert os.get_blocking(sock.fileno())


@pytest.mark.parametrize("counted", [True, False])
def test_received_non_blocking_socket_blocks_for_python_only(
    counted: bool, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    os.set_blocking(pair.near.fileno(), False)
    with Handle(pair.near.detach()).to_socket(_Closed() if counted else None) as sock:
        waiting = Background(lambda: sock.recv(4)).until_blocked()
        assert waiting.running
        pair.far.sendall(b"here")
        assert waiting.result() == b"here"
        # Whoever shares it relies on the flag.
        assert not os.get_blocking(sock.fileno())


def test_received_non_blocking_listener_accepts_blocking_sockets(stack: ExitStack) -> None:
    server = tcp_server(stack)
    os.set_blocking(server.fileno(), False)
    with Handle(os.dup(server.fileno())).to_socket() as sock:
        waiting = Background(sock.accept).until_blocked()
        assert waiting.running
        client = stack.enter_context(socket.create_connection(server.getsockname()))
        accepted, _ = waiting.result()
        with accepted:
            assert accepted.gettimeout() is None
            assert still_joined(Pair(accepted, client))
        assert not os.get_blocking(server.fileno())


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_forgotten_counted_socket_is_told_of_where_warnings_are_errors(stack: ExitStack) -> None:
    told: list[str] = []
    sock = track(_tcp_socket(stack), lambda: told.append("closed"))
    fd = sock.fileno()
    del sock
    gc.collect()
    assert told == ["closed"]
    assert not is_open(fd)


@pytest.fixture(scope="module")
def resource_tracker() -> None:
    """The process that multiprocessing starts once, and its pipe, are no test's leak."""
    multiprocessing.resource_tracker.ensure_running()


@pytest.mark.usefixtures("resource_tracker")
def test_counted_socket_goes_to_another_process_as_a_plain_one_does(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    with track(pair.near, lambda: None) as sock:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_greet, args=(sock,))
        process.start()
        assert pair.far.recv(100) == b"hello"
        process.join(LIMIT)
    process.close()


def _greet(sock: socket.socket) -> None:
    assert type(sock) is socket.socket
    with sock:
        sock.sendall(b"hello")


def test_connection_that_was_reset_goes_if_its_type_is_named(stack: ExitStack) -> None:
    pair = tcp_pair(stack)
    pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.far.close()
    with pytest.raises(InvalidHandle, match="the other side has reset goes with"):
        handle_type(pair.near)
    assert handle_type(pair.near, "net.Socket") == HandleType("net.Socket", None, moves=True)
