"""The blocking server: it hands connections to children and knows how many are open anywhere."""

from __future__ import annotations

import gc
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from nodecompat.connection import Connection
from nodecompat.errors import ChannelClosed, HandleNotReceived, InvalidHandle
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.sync import Server
from nodecompat.sync.channel import Channel
from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.handle_support import HandlePeer, Pair, at_end, still_joined, tcp_server
from tests.handle_support import same_descriptors as same_descriptors
from tests.handle_support import stack as stack
from tests.support import LIMIT, Background, is_open


class Child(NamedTuple):
    """Both ends of the channel to a child that the test plays."""

    channel: Channel
    peer: HandlePeer


class ListeningServer(Server):
    """A server that remembers what its list is called."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.key = f"4:127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def make_child(stack: ExitStack) -> Callable[[], Child]:
    def make() -> Child:
        near, far = channel_pair()
        connection = Connection(UnixTransport(near), ChannelProtocol())
        channel = Channel(connection)

        def end() -> None:
            if not connection.closed:
                connection.abort()
            with channel:
                pass

        stack.callback(end)
        return Child(channel, stack.enter_context(HandlePeer(far)))

    return make


@pytest.fixture
def child(make_child: Callable[[], Child]) -> Child:
    return make_child()


@pytest.fixture
def server(stack: ExitStack) -> Iterator[ListeningServer]:
    sock = tcp_server(stack)
    sock.settimeout(LIMIT)
    with ListeningServer(sock) as made:
        yield made


def _connect(server: ListeningServer, stack: ExitStack) -> Pair:
    """A new connection: the server's end and the client's."""
    client = socket.create_connection(server.sock.getsockname(), LIMIT)
    stack.enter_context(client)
    return Pair(stack.enter_context(server.accept()[0]), client)


def _hand_over(server: ListeningServer, child: Child, stack: ExitStack) -> socket.socket:
    """A new connection that goes to the child; the client's end."""
    pair = _connect(server, stack)
    handing = Background(lambda: server.hand_over(child.channel, "yours", pair.near))
    child.peer.close_handle()
    child.peer.ack()
    handing.result()
    return pair.far


def _asked(child: Child, server: ListeningServer, cmd: str) -> None:
    """The next that the child reads is this question."""
    assert child.peer.read_message() == {"cmd": cmd, "key": server.key}


def _answer_count(child: Child, server: ListeningServer, count: int) -> None:
    _asked(child, server, "NODE_SOCKET_GET_COUNT")
    child.peer.write({"cmd": "NODE_SOCKET_COUNT", "key": server.key, "count": count})


def _answer_closed(child: Child, server: ListeningServer) -> None:
    child.peer.write({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": server.key})


# ------------------------------------------------------------------------------------------ here


def test_accept_gives_a_connection_and_its_address(
    server: ListeningServer, stack: ExitStack
) -> None:
    client = stack.enter_context(socket.create_connection(server.sock.getsockname(), LIMIT))
    sock, address = server.accept()
    with sock:
        assert address == client.getsockname()
        assert sock.gettimeout() is None
        assert still_joined(Pair(sock, client))


def test_new_server_has_no_connections(server: ListeningServer) -> None:
    assert server.connections() == 0


def test_connections_count_until_they_are_closed(server: ListeningServer, stack: ExitStack) -> None:
    socks = [_connect(server, stack).near for _ in range(3)]
    assert server.connections() == 3
    socks[0].close()
    assert server.connections() == 2
    file = socks[1].makefile("rb")
    socks[1].close()
    assert server.connections() == 2
    file.close()
    assert server.connections() == 1
    Background(socks[2].close).result()
    assert server.connections() == 0


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_forgotten_connection_is_closed_and_counts_no_more(
    server: ListeningServer, stack: ExitStack
) -> None:
    stack.enter_context(socket.create_connection(server.sock.getsockname(), LIMIT))
    sock, _ = server.accept()
    fd = sock.fileno()
    del sock
    gc.collect()
    assert server.connections() == 0
    assert not is_open(fd)


def test_end_of_a_with_block_closes_the_listener_and_no_connection(
    server: ListeningServer, stack: ExitStack
) -> None:
    with server:
        pair = _connect(server, stack)
    assert server.sock.fileno() == -1
    assert still_joined(pair)


def test_close_stops_accepting_and_waits_for_the_connections_here(
    server: ListeningServer, stack: ExitStack
) -> None:
    pairs = [_connect(server, stack) for _ in range(2)]
    address = server.sock.getsockname()
    closing = Background(server.close).until_blocked()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    pairs[0].near.close()
    assert closing.until_blocked().running
    pairs[1].near.close()
    closing.result()


def test_close_without_connections_returns_at_once(server: ListeningServer) -> None:
    server.close()
    server.close()
    assert server.sock.fileno() == -1


def test_close_has_a_limit(server: ListeningServer, stack: ExitStack) -> None:
    pair = _connect(server, stack)
    with pytest.raises(TimeoutError, match="1 connections are still open here"):
        server.close(0)
    assert server.sock.fileno() == -1
    assert still_joined(pair)
    pair.near.close()
    server.close(0)


# ------------------------------------------------------------------------------------- children


def test_handed_over_connection_travels_with_the_servers_key(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    pair = _connect(server, stack)
    handing = Background(lambda: server.hand_over(child.channel, {"for": "you"}, pair.near))
    message, arrived = child.peer.read_handle()
    assert message == {
        "cmd": "NODE_HANDLE",
        "type": "net.Socket",
        "msg": {"for": "you"},
        "key": server.key,
    }
    assert handing.until_blocked().running
    assert pair.near.fileno() >= 0
    child.peer.ack()
    handing.result()

    assert pair.near.fileno() == -1
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


def test_unix_server_names_its_list_as_node_does(child: Child, stack: ExitStack) -> None:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"{folder}/server")
    sock.listen()
    with Server(sock) as server:
        client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        client.connect(f"{folder}/server")
        accepted, _ = server.accept()
        handing = Background(lambda: server.hand_over(child.channel, "yours", accepted))
        assert child.peer.close_handle()["key"] == f"-1:{folder}/server:-1"
        child.peer.ack()
        handing.result()


def test_connections_are_counted_here_and_there(
    server: ListeningServer, make_child: Callable[[], Child], stack: ExitStack
) -> None:
    children = [make_child(), make_child(), make_child()]
    _connect(server, stack)
    for child in children[:2]:
        _hand_over(server, child, stack)
    _hand_over(server, children[0], stack)

    counting = Background(server.connections)
    _answer_count(children[0], server, 2)
    _answer_count(children[1], server, 1)
    assert counting.result() == 4
    # Nobody is asked twice, and one that got nothing not at all.
    assert all(child.peer.at_end() for child in children)


def test_connection_that_no_child_took_still_counts_here(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    pair = _connect(server, stack)
    handing = Background(lambda: server.hand_over(child.channel, "yours", pair.near))
    for _ in range(4):
        child.peer.close_handle()
        child.peer.nack()
    with pytest.raises(HandleNotReceived):
        handing.result()

    assert still_joined(pair)
    counting = Background(server.connections)
    # Whether the child is asked does not matter.
    if not counting.until_blocked().running:
        assert counting.result() == 1
    else:
        _answer_count(child, server, 0)
        assert counting.result() == 1


def test_hand_over_to_a_child_that_has_gone_fails_and_keeps_the_connection(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    child.peer.close()
    pair = _connect(server, stack)
    for _ in range(2):
        with pytest.raises((HandleNotReceived, ChannelClosed)):
            server.hand_over(child.channel, "yours", pair.near)
    assert still_joined(pair)
    assert server.connections() == 1


def test_hand_over_of_what_cannot_travel_is_refused(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    pair = _connect(server, stack)
    pair.near.close()
    with pytest.raises(InvalidHandle):
        server.hand_over(child.channel, "yours", pair.near)
    assert child.peer.at_end()


def test_child_that_has_gone_has_no_connections(
    server: ListeningServer, make_child: Callable[[], Child], stack: ExitStack
) -> None:
    gone, alive = make_child(), make_child()
    _hand_over(server, gone, stack)
    _hand_over(server, alive, stack)
    gone.peer.close()

    counting = Background(server.connections)
    _answer_count(alive, server, 1)
    assert counting.result() == 1


def test_child_that_goes_instead_of_answering_has_no_connections(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    _hand_over(server, child, stack)
    counting = Background(server.connections)
    _asked(child, server, "NODE_SOCKET_GET_COUNT")
    child.peer.close()
    assert counting.result() == 0


def test_count_has_a_limit_and_a_late_answer_is_not_the_next_ones(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    _hand_over(server, child, stack)
    with pytest.raises(TimeoutError):
        server.connections(timeout=0)
    counting = Background(server.connections)
    _answer_count(child, server, 7)
    _answer_count(child, server, 2)
    assert counting.result() == 2


def test_close_waits_for_the_children(
    server: ListeningServer, make_child: Callable[[], Child], stack: ExitStack
) -> None:
    children = [make_child(), make_child()]
    for child in children:
        _hand_over(server, child, stack)
    closing = Background(server.close)
    for child in children:
        _asked(child, server, "NODE_SOCKET_NOTIFY_CLOSE")
        assert closing.until_blocked().running
        _answer_closed(child, server)
    closing.result()


def test_close_waits_for_children_and_connections_here(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    pair = _connect(server, stack)
    _hand_over(server, child, stack)
    closing = Background(server.close).until_blocked()
    assert child.peer.at_end()
    pair.near.close()
    _asked(child, server, "NODE_SOCKET_NOTIFY_CLOSE")
    _answer_closed(child, server)
    closing.result()


def test_close_waits_for_a_connection_that_goes_to_a_child_meanwhile(
    server: ListeningServer, make_child: Callable[[], Child], stack: ExitStack
) -> None:
    child, late = make_child(), make_child()
    _hand_over(server, child, stack)
    kept = _connect(server, stack)
    closing = Background(server.close).until_blocked()
    handing = Background(lambda: server.hand_over(late.channel, "yours", kept.near))
    late.peer.close_handle()
    late.peer.ack()
    handing.result()
    for each in (child, late):
        _asked(each, server, "NODE_SOCKET_NOTIFY_CLOSE")
        assert closing.running
        _answer_closed(each, server)
    closing.result()


def test_child_that_refused_its_connection_is_not_asked(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    """A Node that never got a connection of a list does not answer questions about it."""
    pair = _connect(server, stack)
    pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    pair.far.close()
    handing = Background(lambda: server.hand_over(child.channel, "dead", pair.near))
    for _ in range(4):
        child.peer.close_handle()
        child.peer.nack()
    with pytest.raises(HandleNotReceived):
        handing.result()
    pair.near.close()
    assert server.connections() == 0
    server.close()
    assert child.peer.at_end()


def test_close_does_not_wait_for_a_child_that_goes(
    server: ListeningServer, make_child: Callable[[], Child], stack: ExitStack
) -> None:
    gone, going = make_child(), make_child()
    for child in (gone, going):
        _hand_over(server, child, stack)
    gone.peer.close()
    closing = Background(server.close)
    _asked(going, server, "NODE_SOCKET_NOTIFY_CLOSE")
    going.peer.close()
    closing.result()


def test_close_gives_up_a_child_that_does_not_answer_at_its_limit(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    _hand_over(server, child, stack)
    with pytest.raises(TimeoutError):
        server.close(0)
    _asked(child, server, "NODE_SOCKET_NOTIFY_CLOSE")
    assert server.sock.fileno() == -1


def test_close_waits_for_a_connection_that_is_on_its_way_to_a_child(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    """The child has it then, and has not been asked about any before."""
    pair = _connect(server, stack)
    handing = Background(lambda: server.hand_over(child.channel, "yours", pair.near))
    child.peer.close_handle()
    closing = Background(server.close).until_blocked()
    child.peer.ack()
    handing.result()

    # Looked at before the question: that never comes where it has ended.
    assert closing.until_blocked().running, "closed while a child had a connection open"
    _asked(child, server, "NODE_SOCKET_NOTIFY_CLOSE")
    _answer_closed(child, server)
    closing.result()


def test_connection_on_its_way_to_a_child_counts_once(
    server: ListeningServer, child: Child, stack: ExitStack
) -> None:
    _hand_over(server, child, stack)
    pair = _connect(server, stack)
    handing = Background(lambda: server.hand_over(child.channel, "yours", pair.near))
    child.peer.close_handle()
    counting = Background(server.connections).until_blocked()
    assert child.peer.at_end()
    child.peer.ack()
    handing.result()
    _answer_count(child, server, 2)
    assert counting.result() == 2


def test_real_child_counts_and_closes(server: ListeningServer, stack: ExitStack) -> None:
    """Both ends are ours: what one asks the other answers."""
    connections = [Connection(UnixTransport(end), ChannelProtocol()) for end in channel_pair()]
    parent, child = (stack.enter_context(Channel(each)) for each in connections)
    pairs = [_connect(server, stack) for _ in range(3)]

    def serve() -> list[str]:
        """Take all, then close them one by one at the parent's word."""
        taken: list[socket.socket] = []
        said: list[str] = []
        while True:
            message, handle = child.recv_with_handle(LIMIT)
            said.append(message)
            if handle is not None:
                taken.append(handle)
            elif message == "close":
                taken.pop().close()
                child.send("closed")
            else:
                return said

    serving = Background(serve)
    for pair in pairs:
        server.hand_over(parent, "yours", pair.near)
    assert server.connections(LIMIT) == 3
    parent.send("close")
    assert parent.recv(LIMIT) == "closed"
    assert server.connections(LIMIT) == 2
    closing = Background(server.close).until_blocked()
    assert closing.running
    parent.send_many(["close", "close", "end"])
    closing.result()
    assert serving.result() == ["yours"] * 3 + ["close"] * 3 + ["end"]
    assert all(at_end(pair.far) for pair in pairs)


@pytest.mark.parametrize("bound", [False, True])
def test_socket_that_does_not_listen_is_refused(bound: bool, stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket())
    if bound:
        sock.bind(("127.0.0.1", 0))
    with pytest.raises(ValueError, match="has to listen: <socket"):
        Server(sock)
