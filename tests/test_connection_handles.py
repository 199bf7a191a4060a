"""nodecompat.connection: handles out and in, against a far end that the test plays by the byte.

A connection never waits, so nothing here needs a thread: the far end writes, the connection reads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from nodecompat.connection import Connection
from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandleNotReceived,
    InvalidHandle,
    MessageError,
    MessageTooLarge,
    NodeIPCError,
    ProtocolError,
)
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.protocol.events import Message, Outgoing
from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.handle_support import (
    ACK,
    KEY,
    NACK,
    HandlePeer,
    Pair,
    at_end,
    connection_and_handle_peer,
    handle_line,
    messages_in,
    open_device,
    open_file,
    read_all,
    same_socket,
    still_joined,
    tcp_pair,
    tcp_server,
    udp_socket,
    unix_pair,
)
from tests.handle_support import same_descriptors as same_descriptors
from tests.handle_support import stack as stack
from tests.support import BIG, is_open, lines, open_fds, raw_child

Both = tuple[Connection, HandlePeer]


@pytest.fixture
def both() -> Iterator[Both]:
    with connection_and_handle_peer() as made:
        yield made


def _small_buffer(connection: Connection) -> None:
    """Make the kernel take little at a time."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


def _let_it_write(connection: Connection, peer: HandlePeer, most: int = 65536) -> None:
    """Read at the far end until all is written; it can be read as messages afterwards."""
    data = b""
    while connection.unsent:
        data += peer.read_bytes(most)
        connection.flush()
    peer.push_back(data)


def _outcome(connection: Connection, send_id: int) -> NodeIPCError | None:
    """What became of a send, which must have ended."""
    assert connection.settled(send_id)
    try:
        connection.result(send_id)
    except NodeIPCError as error:
        return error
    return None


def _stays(pair: Pair) -> bool:
    """Whether a socket is here, works and blocks, for Python, as it did before it was sent."""
    return pair.near.fileno() >= 0 and pair.near.getblocking() and still_joined(pair)


# -------------------------------------------------------------------------------------- sending


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (tcp_server, {"type": "net.Server"}),
        (lambda stack: tcp_pair(stack).near, {"type": "net.Socket"}),
        (lambda stack: unix_pair(stack).near, {"type": "net.Socket"}),
        (udp_socket, {"type": "dgram.Socket", "dgramType": "udp4"}),
    ],
)
def test_handle_travels_with_the_message_that_names_its_type(
    make: Callable[[ExitStack], socket.socket],
    expected: dict[str, str],
    both: Both,
    stack: ExitStack,
) -> None:
    connection, peer = both
    sock = make(stack)

    connection.send_handle({"for": "you"}, sock)

    message, arrived = peer.read_handle()
    with arrived:
        assert message == {"cmd": "NODE_HANDLE", "msg": {"for": "you"}, **expected}
        assert same_socket(arrived.fileno(), sock.fileno())
        # A Node that gets a blocking one hangs.
        assert not os.get_blocking(arrived.fileno())


@pytest.mark.parametrize("wanted", ["net.Native", "net.BoundSocket"])
def test_type_that_was_asked_for_is_written(wanted: str, both: Both, stack: ExitStack) -> None:
    connection, peer = both
    sock = stack.enter_context(socket.socket())
    sock.bind(("127.0.0.1", 0))

    connection.send_handle("bound", sock, wanted=wanted)

    message = peer.close_handle()
    assert message["type"] == wanted


def test_key_is_written_for_a_connection_only(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    for sock, key in [(tcp_pair(stack).near, KEY), (udp_socket(stack), None)]:
        connection.send_handle("message", sock, key=KEY)
        message = peer.close_handle()
        assert message.get("key") == key
        peer.ack()
        read_all(connection)


def test_send_ends_with_the_acknowledgement(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    send_id = connection.send_handle("message", tcp_pair(stack).near)
    peer.close_handle()
    peer.write("something else")
    read_all(connection)
    assert not connection.settled(send_id)

    peer.ack()
    read_all(connection)

    assert _outcome(connection, send_id) is None
    assert messages_in(connection) == ["something else"]


def test_what_is_sent_behind_a_handle_waits_and_keeps_its_order(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    first = connection.send_handle("first", udp_socket(stack))
    later = [
        connection.send("a"),
        connection.send_many(["b", "c"]),
        connection.send_handle("second", udp_socket(stack)),
        connection.send("d"),
    ]
    assert peer.close_handle()["msg"] == "first"
    assert peer.at_end()
    assert not any(connection.settled(send_id) for send_id in [first, *later])

    peer.ack()
    read_all(connection)
    assert peer.read_messages(3) == ["a", "b", "c"]
    assert peer.close_handle()["msg"] == "second"
    assert peer.at_end()
    assert [connection.settled(send_id) for send_id in [first, *later]] == [True] * 3 + [False] * 2

    peer.ack()
    read_all(connection)
    assert peer.read_message() == "d"
    assert [_outcome(connection, send_id) for send_id in [first, *later]] == [None] * 5


def test_our_acknowledgement_does_not_wait_behind_a_handle_of_ours(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    connection.send_handle("ours", udp_socket(stack))
    connection.send("queued")
    peer.close_handle()

    peer.send_handle("theirs", udp_socket(stack))
    read_all(connection)

    assert peer.read_message() == ACK
    assert peer.at_end()
    connection.inbox.popleft().handle.close()


def test_our_refusal_does_not_wait_behind_a_handle_of_ours(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    connection.send_handle("ours", udp_socket(stack))
    connection.send("queued")
    peer.close_handle()

    peer.write_bytes(handle_line("theirs"))
    read_all(connection)

    assert peer.read_message() == NACK
    assert peer.at_end()


def test_answers_go_out_while_a_handle_waits_for_room_in_the_buffer(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    connection.send(BIG)
    connection.send_handle("ours", udp_socket(stack))
    peer.send_handle("theirs", udp_socket(stack))
    read_all(connection)

    _let_it_write(connection, peer)
    assert peer.read_message() == BIG
    assert peer.close_handle()["msg"] == "ours"
    assert peer.read_message() == ACK
    connection.inbox.popleft().handle.close()


def test_one_refusal_makes_it_go_again_with_its_descriptor(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    send_id = connection.send_handle("message", pair.near)
    first = peer.close_handle()

    peer.nack()
    read_all(connection)
    again, arrived = peer.read_handle()
    assert again == first
    assert not connection.settled(send_id)
    peer.ack()
    read_all(connection)

    assert _outcome(connection, send_id) is None
    with arrived:
        assert still_joined(Pair(arrived, pair.far))
    assert pair.near.fileno() == -1


@pytest.mark.parametrize("make", [tcp_server, udp_socket, lambda stack: tcp_pair(stack).near])
def test_handle_that_is_always_refused_goes_four_times_and_the_next_message_follows(
    make: Callable[[ExitStack], socket.socket], both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    sock = make(stack)
    send_id = connection.send_handle("message", sock)
    later = connection.send("later")
    for _ in range(4):
        assert not connection.settled(send_id)
        peer.close_handle()
        assert peer.at_end()
        peer.nack()
        read_all(connection)

    error = _outcome(connection, send_id)
    assert isinstance(error, HandleNotReceived)
    assert "did not receive the handle in 4 transmissions" in str(error)
    assert peer.read_message() == "later"
    assert peer.fds == []
    assert _outcome(connection, later) is None
    assert sock.fileno() >= 0


def test_socket_that_is_always_refused_stays_and_blocks_again(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    connection.send_handle("message", pair.near)
    for _ in range(4):
        peer.close_handle()
        peer.nack()
        read_all(connection)

    assert _stays(pair)


def test_refused_handle_does_not_use_up_the_next_ones_transmissions(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    connection.send_handle("first", udp_socket(stack))
    second = connection.send_handle("second", udp_socket(stack))
    for _ in range(4):
        assert peer.close_handle()["msg"] == "first"
        peer.nack()
        read_all(connection)
    for _ in range(3):
        assert peer.close_handle()["msg"] == "second"
        peer.nack()
        read_all(connection)
    assert peer.close_handle()["msg"] == "second"
    peer.ack()
    read_all(connection)

    assert _outcome(connection, second) is None


@pytest.mark.parametrize("answer", [ACK, NACK])
def test_answer_without_a_handle_in_flight_means_nothing(answer: Any, both: Both) -> None:
    connection, peer = both
    connection.send("before")
    peer.write(answer, answer)
    read_all(connection)
    connection.send("after")

    assert peer.read_messages(2) == ["before", "after"]
    assert messages_in(connection) == []
    assert connection.connected


def test_second_acknowledgement_means_nothing(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    send_id = connection.send_handle("message", udp_socket(stack))
    peer.close_handle()
    peer.write(ACK, ACK)
    read_all(connection)

    assert _outcome(connection, send_id) is None
    connection.send("after")
    assert peer.read_message() == "after"
    assert connection.connected


def test_acknowledgement_of_what_was_not_sent_yet_breaks_the_protocol(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    connection.send(BIG)
    connection.send_handle("message", tcp_pair(stack).near)
    assert connection.unsent

    peer.ack()
    read_all(connection)

    assert connection.closed
    assert isinstance(connection.error, ProtocolError)
    assert "acknowledged a handle that was not sent yet" in str(connection.error)


def test_send_that_was_acknowledged_before_it_was_written_fails_and_keeps_its_socket(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    connection.send(BIG)
    send_id = connection.send_handle("message", pair.near)
    assert connection.unsent

    peer.ack()
    read_all(connection)

    assert isinstance(_outcome(connection, send_id), HandleNotReceived)
    assert _stays(pair)


def test_second_acknowledgement_is_not_for_the_next_handle_that_was_not_written_yet(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    first = connection.send_handle("first", udp_socket(stack))
    second = connection.send_handle("second", pair.near)
    peer.close_handle()

    peer.write(ACK, ACK)
    read_all(connection)

    assert _outcome(connection, first) is None
    assert isinstance(_outcome(connection, second), HandleNotReceived)
    assert _stays(pair)


def test_refusal_of_what_was_not_sent_yet_breaks_the_protocol(both: Both, stack: ExitStack) -> None:
    """Else it would be sent twice, and be acknowledged twice."""
    connection, peer = both
    pair = tcp_pair(stack)
    connection.send(BIG)
    send_id = connection.send_handle("message", pair.near)
    assert connection.unsent

    peer.nack()
    read_all(connection)

    assert isinstance(connection.error, ProtocolError)
    assert isinstance(_outcome(connection, send_id), HandleNotReceived)
    assert _stays(pair)


# ------------------------------------------------------------------------------------ ownership


@pytest.mark.parametrize("make_pair", [tcp_pair, unix_pair])
def test_connected_socket_is_closed_here_only_when_the_peer_has_it(
    make_pair: Callable[[ExitStack], Pair], both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    pair = make_pair(stack)
    connection.send_handle("message", pair.near)
    _, arrived = peer.read_handle()
    assert pair.near.fileno() >= 0

    peer.ack()
    read_all(connection)

    assert pair.near.fileno() == -1
    with arrived:
        assert still_joined(Pair(arrived, pair.far))
    assert at_end(pair.far)


def test_socket_that_is_kept_open_stays_and_blocks_for_python(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    send_id = connection.send_handle("message", pair.near, keep_open=True)
    peer.close_handle()
    peer.ack()
    read_all(connection)

    assert _outcome(connection, send_id) is None
    assert still_joined(pair)
    assert pair.near.gettimeout() != 0.0
    assert not os.get_blocking(pair.near.fileno())


@pytest.mark.parametrize("make", [tcp_server, udp_socket])
def test_server_and_udp_socket_stay_open_and_block_for_python(
    make: Callable[[ExitStack], socket.socket], both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    sock = make(stack)
    connection.send_handle("message", sock)
    _, arrived = peer.read_handle()
    peer.ack()
    read_all(connection)

    with arrived:
        assert sock.fileno() >= 0
        assert sock.gettimeout() != 0.0
        assert not os.get_blocking(arrived.fileno())


def test_socket_may_be_closed_by_its_owner_while_it_waits(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    connection.send_handle("first", udp_socket(stack))
    pair = tcp_pair(stack)
    send_id = connection.send_handle("second", pair.near)
    pair.near.close()
    peer.close_handle()
    peer.ack()
    read_all(connection)
    _, arrived = peer.read_handle()
    peer.ack()
    read_all(connection)

    assert _outcome(connection, send_id) is None
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


def test_socket_that_stays_may_be_sent_again_and_again(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    server = tcp_server(stack)
    for number in range(3):
        connection.send_handle(number, server)
        message, arrived = peer.read_handle()
        with arrived:
            assert message["msg"] == number
            assert same_socket(arrived.fileno(), server.fileno())
        peer.ack()
        read_all(connection)


def test_socket_that_is_sent_twice_before_it_moves_arrives_twice(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    ids = [connection.send_handle(number, pair.near) for number in range(2)]
    for number in range(2):
        message, arrived = peer.read_handle()
        with arrived:
            assert message["msg"] == number
            assert still_joined(Pair(arrived, pair.far))
        peer.ack()
        read_all(connection)

    assert [_outcome(connection, send_id) for send_id in ids] == [None, None]
    assert at_end(pair.far)


def test_socket_that_has_moved_is_refused(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    connection.send_handle("first", pair.near)
    peer.close_handle()
    peer.ack()
    read_all(connection)

    with pytest.raises(InvalidHandle, match="the socket is closed"):
        connection.send_handle("second", pair.near)
    connection.send("goes on")
    assert peer.read_message() == "goes on"


def _tls(stack: ExitStack) -> socket.socket:
    context = ssl.create_default_context()
    return stack.enter_context(
        context.wrap_socket(
            tcp_pair(stack).near, server_hostname="x", do_handshake_on_connect=False
        )
    )


def _closed(stack: ExitStack) -> socket.socket:
    sock = udp_socket(stack)
    sock.close()
    return sock


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (_tls, None),
        (_closed, None),
        (open_file, None),
        (open_device, None),
        (lambda stack: stack.enter_context(socket.socket()), None),
        (lambda stack: stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)), None),
        (lambda stack: tcp_pair(stack).near, "dgram.Socket"),
        (udp_socket, "net.Native"),
    ],
)
def test_what_cannot_travel_is_refused_before_anything_is_written(
    make: Callable[[ExitStack], Any], wanted: str | None, both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    handle = make(stack)
    before = open_fds()

    with pytest.raises(InvalidHandle):
        connection.send_handle("message", handle, wanted=wanted)

    assert open_fds() == before
    assert peer.at_end()
    # Nothing counts as in flight.
    connection.send("goes on")
    assert peer.read_message() == "goes on"


@pytest.mark.parametrize(
    ("message", "error"), [({"a": object()}, MessageError), ("x" * 1000, MessageTooLarge)]
)
def test_message_that_cannot_go_leaves_its_socket_alone(
    message: Any, error: type[Exception], stack: ExitStack
) -> None:
    with connection_and_handle_peer(max_message_size=1000) as (connection, peer):
        pair = tcp_pair(stack)
        before = open_fds()

        with pytest.raises(error) as caught:
            connection.send_handle(message, pair.near)

        # Also while somebody keeps the error, and with it all that the call had.
        assert caught.tb
        assert open_fds() == before
        assert _stays(pair)
        connection.send("goes on")
        assert peer.read_message() == "goes on"


# ------------------------------------------------------------------------------- partial writes


@pytest.mark.parametrize("size", [1, 5_000, 300_000, 1_000_000])
def test_descriptor_goes_once_however_often_its_message_is_cut(
    size: int, both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    _small_buffer(connection)
    sock = udp_socket(stack)
    send_id = connection.send_handle("x" * size, sock)
    assert (connection.unsent > 0) is (size > 5_000)
    _let_it_write(connection, peer, 1000)

    message, arrived = peer.read_handle()
    with arrived:
        assert message["msg"] == "x" * size
        assert same_socket(arrived.fileno(), sock.fileno())
    assert peer.at_end()
    peer.ack()
    read_all(connection)
    assert _outcome(connection, send_id) is None


def test_handle_waits_with_its_message_while_the_buffer_is_full(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    connection.send(BIG)
    connection.send_handle("message", udp_socket(stack))
    _let_it_write(connection, peer)

    assert peer.read_message() == BIG
    assert peer.close_handle()["msg"] == "message"


def test_refused_large_message_goes_again_whole(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    connection.send_handle(BIG, udp_socket(stack))
    for answer in (NACK, ACK):
        _let_it_write(connection, peer)
        message = peer.close_handle()
        assert message["msg"] == BIG
        peer.write(answer)
        read_all(connection)
    assert peer.at_end()


class _Refusing(socket.socket):
    """A socket over which the kernel passes no descriptor, for a while."""

    refuses = True

    def sendmsg(self, *args: Any) -> Any:
        if self.refuses and args[1]:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        return super().sendmsg(*args)


@pytest.mark.parametrize("retransmission", [False, True])
def test_handle_that_the_kernel_refuses_fails_its_send_alone(
    retransmission: bool, stack: ExitStack
) -> None:
    near, far = channel_pair()
    refusing = _Refusing(fileno=near.detach())
    connection = Connection(UnixTransport(refusing), ChannelProtocol())
    peer = stack.enter_context(HandlePeer(far))
    pair = tcp_pair(stack)
    before = open_fds()

    if retransmission:
        refusing.refuses = False
    send_id = connection.send_handle("message", pair.near)
    if retransmission:
        later = connection.send("later")
        peer.close_handle()
        refusing.refuses = True
        peer.nack()
        read_all(connection)
    else:
        later = connection.send("later")

    error = _outcome(connection, send_id)
    assert isinstance(error, HandleNotReceived)
    assert "the handle could not be sent: [Errno" in str(error)
    assert open_fds() == before
    assert _stays(pair)
    assert peer.read_message() == "later"
    assert _outcome(connection, later) is None

    refusing.refuses = False
    connection.send_handle("now", pair.near)
    assert peer.close_handle()["msg"] == "now"
    connection.abort()


# A frame of the other serialization comes in parts; the transport knows no more of it.
_PARTS = (b"\0\1\2\3", memoryview(b"x" * 300_000), b"", memoryview(b"end"))


def test_descriptor_goes_once_with_a_message_in_parts(stack: ExitStack) -> None:
    near, far = channel_pair()
    transport = UnixTransport(near)
    peer = stack.enter_context(HandlePeer(far))
    sock = udp_socket(stack)
    transport.enqueue([Outgoing(b"before", None, 1), Outgoing(_PARTS, sock, 2)])
    transport.enqueue([Outgoing(b"after", None, 3)])
    data = b""
    while not transport.flush():
        assert transport.written < 2
        data += peer.read_bytes()
    assert transport.written == 3
    transport.close()

    assert data + peer.read_to_end() == b"before" + b"".join(_PARTS) + b"after"
    with peer.take() as arrived:
        assert same_socket(arrived.fileno(), sock.fileno())


def test_no_part_of_a_message_goes_whose_handle_the_kernel_refuses(stack: ExitStack) -> None:
    near, far = channel_pair()
    transport = UnixTransport(_Refusing(fileno=near.detach()))
    peer = stack.enter_context(HandlePeer(far))
    transport.enqueue([Outgoing(_PARTS, udp_socket(stack), 1), Outgoing(b"after", None, 2)])
    with pytest.raises(HandleNotReceived):
        transport.flush()

    assert transport.flush()
    assert (transport.unsent, transport.written) == (0, 2)
    transport.close()
    assert peer.read_to_end() == b"after"


# ------------------------------------------------------------------------------------------ end


def test_disconnect_lets_the_queue_go_out_and_then_closes(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    first = connection.send_handle("first", udp_socket(stack))
    between = connection.send("between")
    second = connection.send_handle("second", udp_socket(stack))
    last = connection.send("last")

    connection.disconnect()
    assert not connection.connected
    with pytest.raises(ChannelClosed):
        connection.send("refused")
    with pytest.raises(ChannelClosed):
        connection.send_handle("refused", udp_socket(stack))
    with pytest.raises(AlreadyDisconnected):
        connection.disconnect()

    assert peer.close_handle()["msg"] == "first"
    assert peer.at_end()
    peer.ack()
    read_all(connection)
    assert peer.read_message() == "between"
    assert peer.close_handle()["msg"] == "second"
    assert is_open(connection.fileno())
    peer.ack()
    read_all(connection)

    assert connection.closed
    assert peer.read_all_messages() == ["last"]
    assert [_outcome(connection, each) for each in (first, between, second, last)] == [None] * 4


def test_messages_and_handles_still_arrive_while_the_queue_goes_out(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    connection.send_handle("ours", udp_socket(stack))
    connection.disconnect()
    peer.close_handle()
    peer.write("late")
    peer.send_handle("later", udp_socket(stack))
    read_all(connection)

    assert messages_in(connection) == ["late", "later"]
    assert peer.read_message() == ACK
    connection.inbox[1].handle.close()


@pytest.mark.parametrize("disconnected", [False, True])
def test_end_of_the_peer_fails_what_waits_and_leaves_the_sockets_here(
    disconnected: bool, both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    pairs = [tcp_pair(stack), unix_pair(stack)]
    before = open_fds()
    in_flight = connection.send_handle("in flight", pairs[0].near)
    plain = connection.send("plain")
    queued = connection.send_handle("queued", pairs[1].near)
    if disconnected:
        connection.disconnect()

    peer.close()
    read_all(connection)

    assert connection.closed
    assert connection.error is None
    for send_id in (in_flight, queued):
        error = _outcome(connection, send_id)
        assert isinstance(error, HandleNotReceived)
        assert "before the peer took the handle" in str(error)
    assert isinstance(_outcome(connection, plain), ChannelClosed)
    assert open_fds() <= before
    assert all(_stays(pair) for pair in pairs)


def test_acknowledgement_before_the_end_counts(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    taken = connection.send_handle("taken", pair.near)
    lost = connection.send_handle("lost", udp_socket(stack))
    _, arrived = peer.read_handle()
    peer.ack()
    peer.sock.shutdown(socket.SHUT_WR)
    read_all(connection)

    assert _outcome(connection, taken) is None
    assert isinstance(_outcome(connection, lost), HandleNotReceived)
    assert pair.near.fileno() == -1
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


def test_abort_gives_up_what_waits(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    send_id = connection.send_handle("message", pair.near)
    peer.close_handle()

    connection.abort()

    assert isinstance(_outcome(connection, send_id), HandleNotReceived)
    assert _stays(pair)
    assert peer.read_to_end() == b""


def test_peer_that_breaks_the_protocol_fails_what_waits(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    send_id = connection.send_handle("message", pair.near)

    peer.write_bytes(b"no json\n")
    read_all(connection)

    assert isinstance(connection.error, ProtocolError)
    assert isinstance(_outcome(connection, send_id), HandleNotReceived)
    assert _stays(pair)


def test_forgotten_send_still_moves_its_socket(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    send_id = connection.send_handle("message", pair.near)
    connection.forget(send_id)
    peer.close_handle()
    peer.ack()
    read_all(connection)

    assert pair.near.fileno() == -1
    assert at_end(pair.far)


# ------------------------------------------------------------------------------------ receiving

_BEFORE = lines("one", {"two": 2})
_WITH = handle_line({"three": "drei €"})
_AFTER = lines("four")
_STREAM = ["one", {"two": 2}, {"three": "drei €"}, "four"]


def _only_third_has_it(connection: Connection, sock: socket.socket) -> bool:
    """Whether the whole stream arrived, and the handle with its third message."""
    assert messages_in(connection) == _STREAM
    handles = [message.handle for message in connection.inbox]
    assert [handle is not None for handle in handles] == [False, False, True, False]
    taken = connection.take_handle(connection.inbox[2])
    assert taken is not None
    with taken:
        return same_socket(taken.fileno(), sock.fileno())


def test_handle_in_the_middle_of_one_read_goes_to_its_line(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    peer.write_bytes(_BEFORE + _WITH + _AFTER, sock.fileno())

    assert connection.read()
    assert not connection.read()

    assert _only_third_has_it(connection, sock)
    assert peer.read_message() == ACK
    assert peer.at_end()


@pytest.mark.parametrize("at", range(1, len(_BEFORE)))
def test_handle_goes_to_its_line_wherever_the_plain_ones_before_it_are_cut(
    at: int, both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    peer.write_bytes(_BEFORE[:at])
    assert connection.read()
    # Linux glues these to the read that carries the descriptor.
    peer.write_bytes(_BEFORE[at:])
    peer.write_bytes(_WITH + _AFTER, sock.fileno())
    read_all(connection)

    assert _only_third_has_it(connection, sock)
    assert peer.read_message() == ACK


@pytest.mark.parametrize("at", range(1, len(_WITH + _AFTER)))
def test_handle_goes_to_its_line_wherever_that_or_the_next_is_cut(
    at: int, both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    peer.write_bytes(_BEFORE)
    peer.write_bytes((_WITH + _AFTER)[:at], sock.fileno())
    assert connection.read()
    peer.write_bytes((_WITH + _AFTER)[at:])
    read_all(connection)

    assert _only_third_has_it(connection, sock)
    assert peer.read_message() == ACK


def test_handle_goes_to_its_line_when_that_comes_byte_by_byte(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    peer.write_bytes(_BEFORE)
    peer.write_bytes(_WITH[:1], sock.fileno())
    for byte in _WITH[1:] + _AFTER:
        assert connection.read()
        assert messages_in(connection) in (_STREAM[:2], _STREAM[:3])
        peer.write_bytes(bytes([byte]))
    read_all(connection)

    assert _only_third_has_it(connection, sock)


def test_handle_of_a_line_that_takes_many_reads_arrives(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    line = handle_line("x" * 150_000)
    peer.write_bytes(line[:50_000], sock.fileno())
    for at in range(50_000, len(line), 50_000):
        assert connection.read()
        assert not connection.inbox
        peer.write_bytes(line[at : at + 50_000])
    read_all(connection)

    (message,) = connection.inbox
    assert message.message == "x" * 150_000
    taken = connection.take_handle(message)
    assert taken is not None
    with taken:
        assert same_socket(taken.fileno(), sock.fileno())


def test_several_handles_of_one_read_go_to_their_lines_in_order(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    socks = [udp_socket(stack) for _ in range(3)]
    data = lines("plain").join(handle_line(number) for number in range(3))
    peer.write_bytes(data, *[sock.fileno() for sock in socks])

    assert connection.read()

    received = list(connection.inbox)
    assert [message.message for message in received] == [0, "plain", 1, "plain", 2]
    taken = [stack.enter_context(sock) for sock in map(connection.take_handle, received) if sock]
    assert len(taken) == 3
    assert all(map(same_socket, [s.fileno() for s in taken], [s.fileno() for s in socks]))
    assert peer.read_messages(3) == [ACK] * 3


def _arrived_fds(connection: Connection, do: Callable[[], object]) -> set[int]:
    """The descriptors that a call has left open."""
    before = open_fds()
    do()
    read_all(connection)
    return open_fds() - before


def test_descriptor_of_a_plain_message_is_closed(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    left = _arrived_fds(connection, lambda: peer.write_bytes(lines("plain"), pair.near.fileno()))

    assert left == set()
    pair.near.close()
    assert at_end(pair.far)
    assert list(connection.inbox) == [Message("plain", None, None)]
    assert connection.connected


def test_descriptor_of_a_plain_message_does_not_go_to_a_later_line(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    peer.write_bytes(lines("plain"), udp_socket(stack).fileno())
    read_all(connection)
    peer.write_bytes(handle_line("its own was lost"))
    read_all(connection)

    assert messages_in(connection) == ["plain"]
    assert peer.read_message() == NACK


@pytest.mark.parametrize("cmd", ["NODE_HANDLE_ACK", "NODE_CLUSTER", "NODE_UNKNOWN"])
def test_descriptor_of_an_internal_message_is_closed(
    cmd: str, both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    left = _arrived_fds(connection, lambda: peer.write_bytes(lines({"cmd": cmd}), sock.fileno()))

    assert left == set()
    assert not connection.inbox
    assert connection.connected


def test_second_descriptor_of_a_message_is_closed(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    socks = [udp_socket(stack), udp_socket(stack)]
    left = _arrived_fds(
        connection,
        lambda: peer.write_bytes(handle_line("message"), *[sock.fileno() for sock in socks]),
    )

    assert len(left) == 1
    taken = connection.take_handle(connection.inbox[0])
    assert taken is not None
    with taken:
        assert same_socket(taken.fileno(), socks[0].fileno())


def test_descriptor_of_an_unfinished_message_is_closed_when_the_peer_ends(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    left = _arrived_fds(connection, lambda: peer.write_bytes(_WITH[:20], sock.fileno()))
    assert len(left) == 1

    peer.close()
    read_all(connection)

    assert not any(map(is_open, left))
    assert connection.closed


def test_handle_of_an_internal_message_is_closed(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    sock = udp_socket(stack)
    internal = {"cmd": "NODE_CLUSTER", "act": "newconn"}
    left = _arrived_fds(connection, lambda: peer.send_handle(internal, sock))

    assert left == set()
    assert not connection.inbox
    assert peer.read_message() == ACK


def test_message_without_its_descriptor_is_refused_and_not_delivered(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    peer.write_bytes(handle_line("lost") + lines("plain"))
    read_all(connection)
    assert peer.read_message() == NACK
    assert messages_in(connection) == ["plain"]

    sock = udp_socket(stack)
    peer.send_handle("lost", sock)
    read_all(connection)
    assert peer.read_message() == ACK
    assert messages_in(connection) == ["plain", "lost"]
    connection.inbox[1].handle.close()


def test_handle_is_acknowledged_before_anyone_takes_it(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    peer.send_handle("message", udp_socket(stack))
    assert connection.read()

    assert peer.read_message() == ACK
    connection.inbox[0].handle.close()


class _Watched(socket.socket):
    """A socket that looks at the descriptors that it received before anyone else can."""

    inheritable: list[bool]

    def recvmsg(self, *args: Any) -> Any:
        received = super().recvmsg(*args)
        for _, _, payload in received[1]:
            fds = memoryview(payload).cast("i")
            self.inheritable += [os.get_inheritable(fd) for fd in fds]
        return received


def test_received_descriptor_is_close_on_exec_from_the_first_moment(stack: ExitStack) -> None:
    near, far = channel_pair()
    watched = _Watched(fileno=near.detach())
    watched.inheritable = []
    connection = Connection(UnixTransport(watched), ChannelProtocol())
    with HandlePeer(far) as peer:
        peer.send_handle("message", udp_socket(stack))
        assert connection.read()
        assert watched.inheritable == [False]
        taken = connection.take_handle(connection.inbox.popleft())
        assert taken is not None
        with taken:
            assert fcntl.fcntl(taken, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        connection.abort()


def test_full_descriptor_table_is_answered_with_a_refusal(stack: ExitStack) -> None:
    """The kernel drops the descriptor then (MSG_CTRUNC), and only the sender has it still."""
    code = """
        import os, resource
        from nodecompat.sync import connect_parent

        with connect_parent() as parent:
            assert parent.recv() == "fill"
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            parent.send("look")  # The first wait opens what it needs for waiting.
            assert parent.recv() == "now"
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            parent.send("full")
            assert parent.recv() == "make room"
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            parent.send("room")
            message, handle = parent.recv_with_handle()
            with handle:
                parent.send([message, handle.getsockname()[1]])
            assert list(parent) == []
    """
    sock = udp_socket(stack)
    with raw_child(code) as child:
        peer = child.peer
        peer.write("fill")
        assert peer.read_message() == "look"
        peer.write("now")
        assert peer.read_message() == "full"
        for _ in range(2):
            peer.write_bytes(handle_line("yours"), sock.fileno())
            assert peer.read_message() == NACK
        peer.write("make room")
        assert peer.read_message() == "room"
        peer.write_bytes(handle_line("yours"), sock.fileno())
        assert peer.read_messages(2) == [ACK, ["yours", sock.getsockname()[1]]]
        peer.close()
        assert (child.wait(), child.stderr()) == (0, "")


# ------------------------------------------------------------------------------- in the hands of


def _taken(connection: Connection) -> socket.socket:
    sock = connection.take_handle(connection.inbox.popleft())
    assert sock is not None
    return sock


def test_blocking_socket_blocks(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    peer.send_handle("message", tcp_pair(stack).near)
    read_all(connection)
    with _taken(connection) as sock:
        assert sock.gettimeout() is None
        assert os.get_blocking(sock.fileno())


def test_non_blocking_socket_blocks_for_python_and_not_for_the_peer(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    server = tcp_server(stack)
    os.set_blocking(server.fileno(), False)
    peer.send_handle("message", server, type="net.Server")
    read_all(connection)
    with _taken(connection) as sock:
        assert sock.gettimeout()
        assert not os.get_blocking(server.fileno())
        client = stack.enter_context(socket.create_connection(sock.getsockname()))
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.gettimeout() is None
            assert still_joined(Pair(accepted, client))
        assert not os.get_blocking(server.fileno())


def test_taken_socket_is_of_the_kind_that_was_sent(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    for sent in (tcp_server(stack), unix_pair(stack).near, udp_socket(stack)):
        peer.send_handle("message", sent)
        read_all(connection)
        with _taken(connection) as sock:
            assert (sock.family, sock.type) == (sent.family, sent.type)
            assert sock.getsockname() == sent.getsockname()


def test_message_without_a_handle_has_none_to_take(both: Both) -> None:
    connection, peer = both
    peer.write("plain")
    read_all(connection)

    assert connection.take_handle(connection.inbox.popleft()) is None


def test_descriptor_that_is_no_socket_is_an_error_and_the_channel_goes_on(both: Both) -> None:
    connection, peer = both
    read, write = os.pipe()
    peer.write_bytes(handle_line("pipe"), read)
    os.close(read)
    peer.write("later")
    read_all(connection)
    assert peer.read_message() == ACK

    with pytest.raises(ProtocolError, match="descriptor that is not a socket"):
        connection.take_handle(connection.inbox.popleft())

    # It was closed: the pipe has no reader any more.
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)
    assert messages_in(connection) == ["later"]
    connection.send("goes on")
    assert peer.read_message() == "goes on"


def test_handle_that_is_not_wanted_is_closed_with_a_warning(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    peer.send_handle("message", pair.near)
    pair.near.close()
    read_all(connection)

    with pytest.warns(ResourceWarning, match="was not taken: closing descriptor"):
        connection.drop_handle(connection.inbox.popleft())

    assert at_end(pair.far)


def test_handles_that_arrived_before_the_end_can_be_taken_after_it(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    peer.send_handle("message", pair.near)
    pair.near.close()
    peer.close()
    read_all(connection)
    assert connection.closed

    with _taken(connection) as sock:
        assert still_joined(Pair(sock, pair.far))


# ----------------------------------------------------------------------------------- the bounds


def _reads(connection: Connection) -> bool:
    """Whether whoever waits is to wait for something to read too."""
    return connection.wants_read


def test_reading_goes_on_past_its_bound_while_an_acknowledgement_is_awaited(
    stack: ExitStack,
) -> None:
    with connection_and_handle_peer(max_queued=10) as (connection, peer):
        peer.write("more than ten bytes")
        read_all(connection)
        assert not _reads(connection)

        send_id = connection.send_handle("message", udp_socket(stack))
        assert _reads(connection)
        peer.close_handle()
        peer.ack()
        read_all(connection)

        assert connection.settled(send_id)
        assert not _reads(connection)


def test_reading_goes_on_past_its_bound_while_a_question_is_unanswered() -> None:
    """Nobody may be there to take the messages: it is the asker who waits."""
    with connection_and_handle_peer(max_queued=10) as (connection, peer):
        peer.write("more than ten bytes")
        read_all(connection)
        assert not _reads(connection)

        connection.ask_socket_count(KEY)

        assert _reads(connection)


# --------------------------------------------------------------------------------- socket lists

_GET_COUNT = {"cmd": "NODE_SOCKET_GET_COUNT", "key": KEY}
_NOTIFY_CLOSE = {"cmd": "NODE_SOCKET_NOTIFY_CLOSE", "key": KEY}
_ALL_CLOSED = {"cmd": "NODE_SOCKET_ALL_CLOSED", "key": KEY}


def _count_of(connection: Connection, peer: HandlePeer) -> int:
    """How many sockets of the list are open there, as the peer is told."""
    peer.write(_GET_COUNT)
    read_all(connection)
    answer = peer.read_message()
    assert (answer["cmd"], answer["key"]) == ("NODE_SOCKET_COUNT", KEY)
    count: int = answer["count"]
    return count


def _send_counted(connection: Connection, peer: HandlePeer, message: Any, fd: int) -> None:
    peer.write_bytes(handle_line(message, key=KEY), fd)
    read_all(connection)
    assert peer.read_message() == ACK


def test_counted_socket_counts_from_its_arrival_to_its_end(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    _send_counted(connection, peer, "socket", tcp_pair(stack).near.fileno())
    assert _count_of(connection, peer) == 1
    sock = _taken(connection)
    assert _count_of(connection, peer) == 1
    sock.close()
    connection.report_closed_sockets()
    assert _count_of(connection, peer) == 0


def test_end_of_the_last_socket_is_told_to_whoever_asked(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    for _ in range(2):
        _send_counted(connection, peer, "socket", tcp_pair(stack).near.fileno())
    peer.write(_NOTIFY_CLOSE)
    read_all(connection)
    for last in (False, True):
        assert peer.at_end()
        _taken(connection).close()
        connection.report_closed_sockets()
        assert peer.at_end() is not last
    assert peer.read_message() == _ALL_CLOSED


def test_closed_sockets_are_reported_before_the_peers_next_question(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    _send_counted(connection, peer, "socket", tcp_pair(stack).near.fileno())
    _taken(connection).close()

    assert _count_of(connection, peer) == 0


def test_whoever_waits_is_told_that_a_counted_socket_was_closed(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    told: list[None] = []
    connection.on_socket_closed = lambda: told.append(None)
    _send_counted(connection, peer, "socket", tcp_pair(stack).near.fileno())
    sock = _taken(connection)
    assert told == []
    sock.close()
    assert told == [None]


@pytest.mark.parametrize("how", ["dropped", "no socket", "internal"])
def test_counted_socket_that_nobody_gets_counts_as_closed(
    how: str, both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    if how == "dropped":
        _send_counted(connection, peer, "socket", tcp_pair(stack).near.fileno())
        with pytest.warns(ResourceWarning):
            connection.drop_handle(connection.inbox.popleft())
    elif how == "no socket":
        read, write = os.pipe()
        _send_counted(connection, peer, "pipe", read)
        os.close(read)
        os.close(write)
        with pytest.raises(ProtocolError):
            connection.take_handle(connection.inbox.popleft())
    else:
        fd = tcp_pair(stack).near.fileno()
        _send_counted(connection, peer, {"cmd": "NODE_CLUSTER"}, fd)

    assert _count_of(connection, peer) == 0


def test_counted_socket_may_be_closed_after_the_channel(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    _send_counted(connection, peer, "socket", tcp_pair(stack).near.fileno())
    sock = _taken(connection)
    peer.close()
    read_all(connection)
    assert connection.closed

    sock.close()
    connection.report_closed_sockets()

    assert connection.error is None


def test_answer_of_the_peer_is_for_the_question_about_that_list(both: Both) -> None:
    connection, peer = both
    other = KEY + "81"
    questions = [
        connection.ask_socket_count(KEY),
        connection.ask_sockets_closed(KEY),
        connection.ask_socket_count(other),
        connection.ask_socket_count(KEY),
    ]
    assert [each["key"] for each in peer.read_messages(4)] == [KEY, KEY, other, KEY]

    def answered(*answers: dict[str, Any]) -> list[bool]:
        peer.write(*answers)
        read_all(connection)
        return [question.done for question in questions]

    count = {"cmd": "NODE_SOCKET_COUNT"}
    assert answered({**count, "key": other, "count": 5}) == [False, False, True, False]
    assert answered({**count, "key": KEY, "count": 3}) == [True, False, True, False]
    assert answered(_ALL_CLOSED) == [True, True, True, False]
    assert answered({**count, "key": KEY, "count": 2}) == [True] * 4
    assert [question.count for question in questions] == [3, 0, 5, 2]


def test_answer_that_nobody_asked_for_means_nothing(both: Both) -> None:
    connection, peer = both
    peer.write(_ALL_CLOSED, {"cmd": "NODE_SOCKET_COUNT", "key": KEY, "count": 3}, "message")
    read_all(connection)

    assert messages_in(connection) == ["message"]


@pytest.mark.parametrize("end", ["peer", "abort"])
def test_end_of_the_channel_answers_every_question(end: str, both: Both) -> None:
    connection, peer = both
    questions = [connection.ask_socket_count(KEY), connection.ask_sockets_closed(KEY)]
    if end == "peer":
        peer.close()
        read_all(connection)
    else:
        connection.abort()

    assert [(question.done, question.count) for question in questions] == [(True, 0)] * 2


def test_nothing_can_be_asked_of_a_peer_that_is_gone(both: Both) -> None:
    connection, peer = both
    peer.close()
    read_all(connection)

    for ask in (connection.ask_socket_count, connection.ask_sockets_closed):
        with pytest.raises(ChannelClosed):
            ask(KEY)


# --------------------------------------------------------------------------- what breaks in between


def test_socket_that_the_peer_may_have_all_the_same_does_not_block_it(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    connection.send_handle("with", pair.near)
    _, arrived = peer.read_handle()
    with arrived:
        connection.abort()
        assert not os.get_blocking(arrived.fileno())
        assert _stays(pair)


def test_socket_that_is_made_blocking_while_it_waits_arrives_non_blocking(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    first, second = tcp_pair(stack), tcp_pair(stack)
    connection.send_handle("first", first.near)
    connection.send_handle("second", second.near, keep_open=True)
    second.near.setblocking(True)
    peer.close_handle()
    peer.ack()
    assert connection.read()
    _, arrived = peer.read_handle()
    with arrived:
        assert not os.get_blocking(arrived.fileno())


def test_refusals_in_one_read_break_the_protocol_and_not_the_next_handles(
    both: Both, stack: ExitStack
) -> None:
    connection, peer = both
    sends = [connection.send_handle(n, tcp_pair(stack).near) for n in range(3)]
    peer.close_handle()
    # The second is for a repetition that is not written yet.
    peer.nack()
    peer.nack()
    assert connection.read()
    assert connection.closed
    assert "refused a handle that was not sent yet" in str(connection.error)
    for send_id in sends:
        with pytest.raises(HandleNotReceived):
            connection.result(send_id)


def test_disconnect_ends_when_the_kernel_refuses_the_last_handle(
    both: Both, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, peer = both
    connection.send_handle("first", tcp_pair(stack).near)
    connection.send_handle("last", tcp_pair(stack).near)
    connection.disconnect()
    peer.close_handle()
    peer.ack()

    def refuse(fd: int, blocking: bool) -> None:
        raise OSError(errno.ETOOMANYREFS, "too many references")

    monkeypatch.setattr(os, "set_blocking", refuse)
    assert connection.read()
    assert connection.closed
    assert connection.error is None


def test_socket_whose_closing_fails_loses_no_message(both: Both, stack: ExitStack) -> None:
    connection, peer = both
    pair = tcp_pair(stack)
    connection.send_handle("with", pair.near)
    peer.close_handle()
    os.close(pair.near.fileno())
    peer.write({"cmd": "NODE_HANDLE_ACK"}, "after")
    with pytest.raises(OSError, match="Bad file descriptor"):
        connection.read()
    assert [message.message for message in connection.inbox] == ["after"]
    connection.send("goes on")
    assert peer.read_message() == "goes on"


class _Interruption(Exception):
    """What a signal handler raises."""


@pytest.mark.parametrize("where", ["read", "write"])
def test_interruption_between_the_kernel_and_the_books_ends_the_channel(
    where: str, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, peer = both

    def interrupt(*_: object) -> None:
        raise _Interruption

    if where == "read":
        monkeypatch.setattr(connection._protocol, "receive_data", interrupt)
        peer.write("lost")
        with pytest.raises(_Interruption):
            connection.read()
    else:
        monkeypatch.setattr(connection._transport, "_advance", interrupt)
        with pytest.raises(_Interruption):
            connection.send("once")
    monkeypatch.undo()
    connection.attend()
    assert connection.closed
    with pytest.raises(ChannelClosed, match="an exception interrupted an earlier call"):
        raise connection.end()
    with pytest.raises(ChannelClosed):
        connection.send("again")
    assert peer.read_all_messages() == (["once"] if where == "write" else [])


def test_copy_of_the_process_does_not_speak_for_it(both: Both, stack: ExitStack) -> None:
    """A fork has the socket and the unsent bytes too, but they are its parent's."""
    connection, peer = both
    _send_counted(connection, peer, "socket", tcp_pair(stack).near.fileno())
    taken = connection.take_handle(connection.inbox.popleft())
    assert taken is not None
    peer.write(_NOTIFY_CLOSE)
    assert connection.read()
    pid = os.fork()
    if not pid:
        taken.close()
        connection.attend()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert peer.at_end()
    taken.close()
    connection.attend()
    assert peer.read_message() == _ALL_CLOSED
