"""Handles on the blocking channel: who waits, who is woken, and whose descriptor it is."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest

from nodecompat.connection import Connection
from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandleNotReceived,
    InvalidHandle,
    ProtocolError,
)
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.sync.channel import Channel
from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.handle_support import (
    ACK,
    KEY,
    HandlePeer,
    Pair,
    at_end,
    connection_and_handle_peer,
    handle_line,
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
from tests.support import BIG, LIMIT, Background, is_open, messages_of

Both = tuple[Channel, HandlePeer]


@pytest.fixture
def both() -> Iterator[Both]:
    with connection_and_handle_peer() as (connection, peer):
        channel = Channel(connection)
        yield channel, peer
        _end(channel, connection)


def _end(channel: Channel, connection: Connection) -> None:
    """Let go of a channel in whatever state it is, without waiting for anything."""
    if not connection.closed:
        connection.abort()
    with channel:
        pass


def _sending(
    channel: Channel, message: Any, sock: socket.socket, **options: Any
) -> Background[None]:
    """A thread that sends a handle, and is at the place where it waits for the peer."""
    return Background(lambda: channel.send(message, sock, **options)).until_blocked()


# -------------------------------------------------------------------------------------- sending


def test_send_returns_when_the_peer_has_the_handle(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    sending = _sending(channel, "message", pair.near)
    message, arrived = peer.read_handle()
    assert message == {"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": "message"}
    assert sending.running
    assert pair.near.fileno() >= 0

    peer.ack()
    sending.result()

    assert pair.near.fileno() == -1
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


def test_socket_that_is_kept_open_stays(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    sending = _sending(channel, "message", pair.near, keep_open=True)
    peer.close_handle()
    peer.ack()
    sending.result()

    assert still_joined(pair)


def test_type_may_be_asked_for(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    sending = _sending(channel, "message", udp_socket(stack), handle_type="dgram.Native")
    assert peer.close_handle() == {"cmd": "NODE_HANDLE", "type": "dgram.Native", "msg": "message"}
    peer.ack()
    sending.result()


def test_what_cannot_travel_is_refused_before_anything_is_written(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    handle: Any = open_file(stack)
    with pytest.raises(InvalidHandle):
        channel.send("message", handle)
    with pytest.raises(InvalidHandle):
        channel.send("message", udp_socket(stack), handle_type="net.Native")

    assert peer.at_end()
    channel.send("goes on")
    assert peer.read_message() == "goes on"


def test_sends_of_other_threads_wait_behind_a_handle(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    sending = [
        _sending(channel, "first", udp_socket(stack)),
        Background(lambda: channel.send("plain")).until_blocked(),
        Background(lambda: channel.send_many(["one", "two"])).until_blocked(),
        _sending(channel, "second", udp_socket(stack)),
    ]
    assert peer.close_handle()["msg"] == "first"
    assert peer.at_end()
    assert all(each.running for each in sending)

    peer.ack()
    assert peer.read_messages(3) == ["plain", "one", "two"]
    assert peer.close_handle()["msg"] == "second"
    for each in sending[:3]:
        each.result()
    assert sending[3].running
    peer.ack()
    sending[3].result()


def test_our_acknowledgement_goes_out_while_a_handle_of_ours_waits_for_its_own(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    sending = _sending(channel, "ours", udp_socket(stack))
    peer.close_handle()
    peer.send_handle("theirs", udp_socket(stack))
    assert peer.read_message() == ACK
    assert sending.running
    peer.ack()
    sending.result()

    message, handle = channel.recv_with_handle(LIMIT)
    assert message == "theirs"
    assert handle is not None
    handle.close()


def test_messages_can_be_received_while_a_handle_waits(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    sending = _sending(channel, "message", udp_socket(stack))
    peer.close_handle()
    for number in range(3):
        peer.write(number)
        assert channel.recv(LIMIT) == number
    assert sending.running
    peer.ack()
    sending.result()


def test_sender_is_woken_when_another_thread_reads_its_acknowledgement(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    receiving = Background(channel.recv).until_blocked()
    sending = _sending(channel, "message", udp_socket(stack))
    peer.close_handle()
    peer.ack()
    sending.result()
    assert receiving.running
    peer.write("done")
    assert receiving.result() == "done"


def test_refused_handle_goes_again(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    sending = _sending(channel, "message", pair.near)
    peer.close_handle()
    peer.nack()
    _, arrived = peer.read_handle()
    peer.ack()
    sending.result()
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


def test_handle_that_is_always_refused_raises_and_the_next_message_goes_on(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    sending = _sending(channel, "message", pair.near)
    for _ in range(4):
        peer.close_handle()
        peer.nack()
    with pytest.raises(HandleNotReceived, match="in 4 transmissions"):
        sending.result()

    assert pair.near.getblocking()
    assert still_joined(pair)
    channel.send("next")
    assert peer.read_message() == "next"
    assert channel.connected


def test_end_of_the_peer_fails_every_send_that_waits(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    in_flight = _sending(channel, "in flight", pair.near)
    plain = Background(lambda: channel.send("plain")).until_blocked()
    queued = _sending(channel, "queued", udp_socket(stack))
    peer.close()
    with pytest.raises(HandleNotReceived, match="before the peer took the handle"):
        in_flight.result()
    with pytest.raises(HandleNotReceived):
        queued.result()
    with pytest.raises(ChannelClosed):
        plain.result()

    assert still_joined(pair)
    assert pair.near.getblocking()


def test_handle_is_not_sent_to_a_peer_that_is_gone(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    peer.close()
    pair = tcp_pair(stack)
    # The first may find out by writing, the second knows.
    for _ in range(2):
        with pytest.raises((HandleNotReceived, ChannelClosed)):
            channel.send("message", pair.near)
        assert still_joined(pair)


def test_peer_that_breaks_the_protocol_fails_the_send(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    sending = _sending(channel, "message", udp_socket(stack))
    peer.write_bytes(b"no json\n")
    with pytest.raises(HandleNotReceived):
        sending.result()
    with pytest.raises(ProtocolError, match="no json"):
        channel.recv()


def test_large_message_takes_its_descriptor_along_once(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    sending = _sending(channel, BIG, udp_socket(stack))
    assert peer.close_handle()["msg"] == BIG
    assert peer.fds == []
    peer.ack()
    sending.result()


# ------------------------------------------------------------------------------------ receiving


def test_handle_is_received_with_its_message(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    pair = unix_pair(stack)
    peer.write("before")
    peer.send_handle({"take": "it"}, pair.near)
    peer.write("after")

    assert channel.recv_with_handle(LIMIT) == ("before", None)
    message, handle = channel.recv_with_handle(LIMIT)
    assert message == {"take": "it"}
    assert handle is not None
    with handle:
        assert handle.gettimeout() is None
        assert same_socket(handle.fileno(), pair.near.fileno())
    assert channel.recv_with_handle(LIMIT) == ("after", None)


def test_receiving_with_a_handle_has_a_limit_and_an_end(both: Both) -> None:
    channel, peer = both
    with pytest.raises(TimeoutError):
        channel.recv_with_handle(0)
    peer.close()
    with pytest.raises(ChannelClosed):
        channel.recv_with_handle(LIMIT)


def test_handle_that_the_caller_does_not_take_is_closed_and_blamed_on_the_caller(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    peer.send_handle("message", pair.near)
    pair.near.close()
    with pytest.warns(ResourceWarning, match="was not taken") as caught:
        assert channel.recv(LIMIT) == "message"

    assert at_end(pair.far)
    assert [warning.filename for warning in caught] == [__file__]


def test_handle_that_an_iteration_does_not_take_is_closed(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    peer.write("before")
    peer.send_handle("with", pair.near)
    peer.write("after")
    pair.near.close()
    peer.close()
    with pytest.warns(ResourceWarning, match="was not taken"):
        assert list(channel) == ["before", "with", "after"]

    assert at_end(pair.far)


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_handle_is_closed_also_where_the_warning_is_an_error(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    peer.send_handle("with", pair.near)
    peer.write("after")
    pair.near.close()
    with pytest.raises(ResourceWarning):
        channel.recv(LIMIT)

    assert at_end(pair.far)
    assert channel.recv(LIMIT) == "after"


def test_descriptor_that_is_no_socket_is_an_error_and_the_channel_goes_on(both: Both) -> None:
    channel, peer = both
    read, write = os.pipe()
    os.close(write)
    peer.write_bytes(handle_line("pipe"), read)
    os.close(read)
    peer.write("after")
    with pytest.raises(ProtocolError, match="descriptor that is not a socket"):
        channel.recv_with_handle(LIMIT)

    assert channel.recv(LIMIT) == "after"
    channel.send("goes on")
    assert peer.read_messages(2) == [ACK, "goes on"]


# ------------------------------------------------------------------------------------------ end


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodecompat.sync.channel.DISCONNECT_LIMIT", 0.05)


@pytest.mark.usefixtures("short_limit")
def test_disconnect_gives_up_a_handle_that_nobody_acknowledges(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    pair = tcp_pair(stack)
    sending = _sending(channel, "message", pair.near)
    queued = Background(lambda: channel.send("queued")).until_blocked()
    with pytest.warns(RuntimeWarning, match=r"for 0\.05 s"):
        channel.disconnect()

    with pytest.raises(HandleNotReceived):
        sending.result()
    with pytest.raises(ChannelClosed):
        queued.result()
    assert still_joined(pair)
    assert channel.fileno() == -1
    peer.close_handle()
    assert peer.read_to_end() == b""


@pytest.mark.usefixtures("short_limit")
def test_end_of_a_with_block_gives_up_a_handle_that_nobody_acknowledges(
    both: Both, stack: ExitStack
) -> None:
    channel, _ = both
    with pytest.warns(RuntimeWarning, match=r"for 0\.05 s"), channel:
        sending = _sending(channel, "message", udp_socket(stack))
    with pytest.raises(HandleNotReceived):
        sending.result()


@pytest.mark.parametrize("how", ["disconnect", "with"])
def test_disconnect_waits_until_the_queue_has_gone_out(
    how: str, both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    sending = [
        _sending(channel, "first", udp_socket(stack)),
        Background(lambda: channel.send("plain")).until_blocked(),
        _sending(channel, "second", udp_socket(stack)),
        Background(lambda: channel.send("last")).until_blocked(),
    ]

    def leave() -> None:
        if how == "disconnect":
            channel.disconnect()
        else:
            with channel:
                pass

    leaving = Background(leave).until_blocked()
    assert not channel.connected
    with pytest.raises(ChannelClosed):
        channel.send("refused")
    with pytest.raises(ChannelClosed):
        channel.send("refused", udp_socket(stack))
    with pytest.raises(AlreadyDisconnected):
        channel.disconnect()

    assert peer.close_handle()["msg"] == "first"
    peer.ack()
    assert peer.read_message() == "plain"
    assert peer.close_handle()["msg"] == "second"
    assert leaving.running
    peer.ack()
    assert peer.read_all_messages() == ["last"]
    leaving.result()
    for each in sending:
        each.result()


# ------------------------------------------------------------------------------------- two peers


@pytest.fixture
def joined() -> Iterator[tuple[Channel, Channel]]:
    """The two ends of one channel."""
    connections = [Connection(UnixTransport(end), ChannelProtocol()) for end in channel_pair()]
    channels = [Channel(connection) for connection in connections]
    yield channels[0], channels[1]
    for channel, connection in zip(channels, connections, strict=True):
        _end(channel, connection)


_COUNT = 200


def _hand_over_many(channel: Channel) -> None:
    for number in range(_COUNT):
        near, far = socket.socketpair()
        with far:
            channel.send(number, near)
            assert near.fileno() == -1
            far.sendall(b"%d" % number)
        channel.send(f"after {number}")


def _take_many(channel: Channel) -> None:
    for number in range(_COUNT):
        message, handle = channel.recv_with_handle(LIMIT)
        assert message == number
        assert handle is not None
        with handle, handle.makefile("rb") as file:
            assert file.read() == b"%d" % number
        assert channel.recv_with_handle(LIMIT) == (f"after {number}", None)


def test_two_peers_hand_over_sockets_to_each_other_at_full_speed(
    joined: tuple[Channel, Channel],
) -> None:
    calls = [Background(partial(_hand_over_many, c)) for c in joined]
    calls += [Background(partial(_take_many, c)) for c in joined]
    for call in calls:
        call.result()


def test_two_peers_that_receive_only_afterwards_do_not_wait_for_each_other(
    joined: tuple[Channel, Channel],
) -> None:
    """Each acknowledges what the other sends while it waits to be acknowledged itself."""

    def hand_over_and_take(channel: Channel) -> None:
        _hand_over_many(channel)
        _take_many(channel)

    for call in [Background(partial(hand_over_and_take, c)) for c in joined]:
        call.result()


# --------------------------------------------------------------------------------- socket lists

_GET_COUNT = {"cmd": "NODE_SOCKET_GET_COUNT", "key": KEY}
_NOTIFY_CLOSE = {"cmd": "NODE_SOCKET_NOTIFY_CLOSE", "key": KEY}
_ALL_CLOSED = {"cmd": "NODE_SOCKET_ALL_CLOSED", "key": KEY}


def _counted(channel: Channel, peer: HandlePeer, sock: socket.socket) -> socket.socket:
    """A socket that the peer counts, whose peer has asked to be told of its end."""
    peer.send_handle("counted", sock, key=KEY)
    peer.write(_NOTIFY_CLOSE, "asked")
    message, handle = channel.recv_with_handle(LIMIT)
    assert message == "counted"
    assert handle is not None
    assert channel.recv(LIMIT) == "asked"
    assert peer.read_message() == ACK
    assert peer.at_end()
    return handle


def _close(sock: socket.socket) -> None:
    sock.close()


def _leave(sock: socket.socket) -> None:
    with sock:
        pass


def _detach(sock: socket.socket) -> None:
    os.close(sock.detach())


def _close_last_file(sock: socket.socket) -> None:
    file = sock.makefile("rwb")
    sock.close()
    file.close()


def _close_elsewhere(sock: socket.socket) -> None:
    Background(sock.close).result()


_ENDS = [_close, _leave, _detach, _close_last_file, _close_elsewhere]


@pytest.mark.parametrize("end", _ENDS)
def test_end_of_a_counted_socket_is_told_at_once(
    end: Callable[[socket.socket], None], both: Both, stack: ExitStack
) -> None:
    """Nobody needs to call anything else for it."""
    channel, peer = both
    end(_counted(channel, peer, tcp_pair(stack).near))
    assert peer.read_message() == _ALL_CLOSED


@pytest.mark.parametrize("end", _ENDS)
def test_end_of_a_counted_socket_is_told_while_another_thread_waits(
    end: Callable[[socket.socket], None], both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    sock = _counted(channel, peer, tcp_pair(stack).near)
    receiving = Background(channel.recv).until_blocked()
    end(sock)
    assert peer.read_message() == _ALL_CLOSED
    peer.write("done")
    assert receiving.result() == "done"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_counted_socket_that_is_forgotten_is_told_of_and_closed(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    sock = _counted(channel, peer, tcp_pair(stack).near)
    fd = sock.fileno()
    del sock
    gc.collect()
    assert peer.read_message() == _ALL_CLOSED
    assert not is_open(fd)


def test_open_file_of_a_counted_socket_keeps_it_counted(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    sock = _counted(channel, peer, tcp_pair(stack).near)
    file = sock.makefile("rb")
    sock.close()
    peer.write(_GET_COUNT, "asked")
    assert channel.recv(LIMIT) == "asked"
    assert peer.read_message() == {"cmd": "NODE_SOCKET_COUNT", "key": KEY, "count": 1}
    file.close()
    assert peer.read_message() == _ALL_CLOSED


def test_counted_socket_that_is_closed_in_the_middle_of_a_call_is_told_of(
    both: Both, stack: ExitStack
) -> None:
    """As the garbage collector may: the thread that closes it is inside the channel."""
    channel, peer = both
    sock = _counted(channel, peer, tcp_pair(stack).near)

    with channel._lock:
        sock.close()
    receiving = Background(channel.recv).until_blocked()
    peer.sock.settimeout(2)
    try:
        assert peer.read_message() == _ALL_CLOSED
    finally:
        peer.write("done")
        receiving.result()


def _fill(channel: Channel) -> int:
    """Fill the channel's buffer behind its back; how much went in."""
    count = 0
    with socket.socket(fileno=os.dup(channel.fileno())) as same, suppress(BlockingIOError):
        while True:
            count += same.send(b" " * 1000, socket.MSG_DONTWAIT)
    return count


def test_answer_that_does_not_fit_is_written_by_the_thread_that_waits(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    sock = _counted(channel, peer, tcp_pair(stack).near)
    receiving = Background(channel.recv).until_blocked()
    filling = _fill(channel)
    sock.close()
    data = b""
    while not data.endswith(b"}\n"):
        data += peer.read_bytes()
    assert data[:filling] == b" " * filling
    assert messages_of(data[filling:]) == [_ALL_CLOSED]
    peer.write("done")
    assert receiving.result() == "done"


def test_counted_socket_may_be_closed_after_the_channel(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    sock = _counted(channel, peer, tcp_pair(stack).near)
    peer.close()
    with pytest.raises(ChannelClosed):
        channel.recv(LIMIT)
    sock.close()
    with pytest.raises(ChannelClosed):
        channel.recv(LIMIT)


def test_counted_socket_that_the_caller_does_not_take_counts_as_closed(
    both: Both, stack: ExitStack
) -> None:
    channel, peer = both
    peer.send_handle("counted", tcp_pair(stack).near, key=KEY)
    peer.write(_NOTIFY_CLOSE)
    with pytest.warns(ResourceWarning, match="was not taken"):
        assert channel.recv(LIMIT) == "counted"
    with pytest.raises(TimeoutError):
        channel.recv(0)
    assert peer.read_messages(2) == [ACK, _ALL_CLOSED]


def test_many_counted_sockets_are_closed_on_many_threads(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    socks: list[socket.socket] = []
    for number in range(40):
        peer.send_handle(number, udp_socket(stack), key=KEY)
        handle = channel.recv_with_handle(LIMIT)[1]
        assert handle is not None
        socks.append(handle)
    peer.write(_NOTIFY_CLOSE, "asked")
    assert channel.recv(LIMIT) == "asked"
    assert peer.read_messages(40) == [ACK] * 40

    start = threading.Barrier(4)

    def close_some(first: int) -> None:
        start.wait(LIMIT)
        for sock in socks[first::4]:
            sock.close()

    for call in [Background(partial(close_some, n)) for n in range(4)]:
        call.result()
    assert peer.read_message() == _ALL_CLOSED
    assert peer.at_end()


def test_server_that_stays_may_go_to_the_same_peer_again(both: Both, stack: ExitStack) -> None:
    channel, peer = both
    server = tcp_server(stack)
    for number in range(2):
        sending = _sending(channel, number, server)
        assert peer.close_handle()["type"] == "net.Server"
        peer.ack()
        sending.result()
    waiting = Background(server.accept).until_blocked()
    client = stack.enter_context(socket.create_connection(server.getsockname()))
    accepted, _ = waiting.result()
    with accepted:
        assert still_joined(Pair(accepted, client))
