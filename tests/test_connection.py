"""nodecompat.connection: a protocol on a transport, seen between two waits."""

from __future__ import annotations

import gc
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from nodecompat import connection as module
from nodecompat import environment
from nodecompat.connection import Connection, connect_to_parent
from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandshakeError,
    IncompleteMessage,
    MessageError,
    MessageTooLarge,
    NotForked,
    ProtocolError,
)
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.support import BIG, Background, Peer, connection_and_peer, is_open, lines, messages_of
from tests.support import nothing_left as nothing_left

Pair = tuple[Connection, Peer]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with connection_and_peer() as made:
        yield made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _handle(stack: ExitStack) -> int:
    """The descriptor of a socket that may travel."""
    return stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)).fileno()


def _inbox(connection: Connection) -> list[object]:
    while connection.read():
        pass
    return [message for message, _, _ in connection.inbox]


NODE_HANDLE = b'{"cmd":"NODE_HANDLE","type":"dgram.Socket","msg":%s}\n'


# -------------------------------------------------------------------------------------- sending


def test_send_is_written_at_once(pair: Pair) -> None:
    connection, peer = pair
    send_id = connection.send({"a": 1})
    assert connection.settled(send_id)
    assert connection.written == send_id
    connection.result(send_id)
    assert peer.read_message() == {"a": 1}


def test_ids_grow_with_the_sends(pair: Pair) -> None:
    connection, _ = pair
    first = connection.send(1)
    assert connection.send_many([2, 3]) > first
    assert connection.send_many([]) == 0
    assert connection.send(4) == connection.written


def test_send_many_is_one_write(pair: Pair) -> None:
    connection, peer = pair
    connection.send_many(range(1000))
    assert messages_of(peer.read_bytes()) == list(range(1000))


def test_what_the_kernel_does_not_take_waits(pair: Pair) -> None:
    connection, peer = pair
    first, second = connection.send(BIG), connection.send("next")
    assert connection.unsent > 0
    assert not connection.settled(first)
    assert not connection.settled(second)
    received = b""
    while connection.unsent:
        received += peer.read_bytes()
        connection.flush()
    assert connection.settled(first)
    assert connection.settled(second)
    connection.result(first)
    connection.disconnect()
    assert messages_of(received + peer.read_to_end()) == [BIG, "next"]


@pytest.mark.parametrize("many", [False, True])
def test_message_that_cannot_go_changes_nothing(pair: Pair, many: bool) -> None:
    connection, peer = pair
    with pytest.raises(MessageError):
        _ = connection.send_many([1, object()]) if many else connection.send(object())
    connection.send("after")
    connection.disconnect()
    assert peer.read_all_messages() == ["after"]


def test_bound_counts_for_what_is_sent() -> None:
    with connection_and_peer(max_message_size=100) as (connection, peer):
        with pytest.raises(MessageTooLarge, match="max_message_size is 100"):
            connection.send("x" * 100)
        with pytest.raises(MessageTooLarge):
            connection.send_many([1, "x" * 100])
        connection.send("x" * 90)
        connection.disconnect()
        assert peer.read_all_messages() == ["x" * 90]


def test_send_to_a_peer_that_is_gone_fails(pair: Pair) -> None:
    connection, peer = pair
    peer.write("last words")
    peer.close()
    send_id = connection.send("into the void")
    assert connection.settled(send_id)
    with pytest.raises(ChannelClosed, match="closed before the message was sent"):
        connection.result(send_id)
    assert not connection.connected
    with pytest.raises(ChannelClosed, match="cannot send"):
        connection.send("again")
    with pytest.raises(ChannelClosed, match="cannot send"):
        connection.send_many(["again"])
    # What it had sent before is still to be had.
    assert _inbox(connection) == ["last words"]
    assert connection.closed
    assert connection.error is None


def test_waiting_sends_fail_when_the_peer_goes(pair: Pair) -> None:
    connection, peer = pair
    ids = [connection.send(BIG), connection.send("next")]
    peer.close()
    while connection.read():
        pass
    for send_id in ids:
        assert connection.settled(send_id)
        with pytest.raises(ChannelClosed):
            connection.result(send_id)
    assert connection.unsent == 0


def test_forgotten_send_is_written_all_the_same(pair: Pair) -> None:
    connection, peer = pair
    connection.forget(connection.send(BIG))
    received = peer.read_bytes()
    connection.disconnect()
    while not connection.closed:
        received += peer.read_bytes()
        connection.flush()
    assert messages_of(received + peer.read_to_end()) == [BIG]


# ------------------------------------------------------------------------------------ receiving


def test_nothing_to_read_is_told(pair: Pair) -> None:
    connection, _ = pair
    assert not connection.read()
    assert not connection.inbox


def test_messages_come_in_order_whatever_the_reads(pair: Pair) -> None:
    connection, peer = pair
    for piece in (b"1\n2\n[", b"3]", b"\n", b'"gr\xc3', b'\xbcn"\n{"a"', b":4}\n"):
        peer.write_bytes(piece)
        connection.read()
    assert _inbox(connection) == [1, 2, [3], "grün", {"a": 4}]


def test_internal_messages_are_not_for_the_user(pair: Pair) -> None:
    connection, peer = pair
    peer.write({"cmd": "NODE_SOMETHING"}, {"cmd": "NODE_"}, {"cmd": "other"})
    assert _inbox(connection) == [{"cmd": "NODE_"}, {"cmd": "other"}]


def test_handle_comes_with_its_message_and_is_acknowledged(pair: Pair, stack: ExitStack) -> None:
    connection, peer = pair
    peer.write("plain")
    peer.write_bytes(NODE_HANDLE % b'"with"', _handle(stack))
    connection.read()
    plain, with_handle = connection.inbox
    assert plain[:2] == ("plain", None)
    assert with_handle.message == "with"
    with with_handle.handle.to_socket() as received:
        assert received.type == socket.SOCK_DGRAM
    assert peer.read_message() == {"cmd": "NODE_HANDLE_ACK"}


def test_handle_that_got_lost_is_refused(pair: Pair) -> None:
    connection, peer = pair
    peer.write_bytes(NODE_HANDLE % b'"with"')
    connection.read()
    assert not connection.inbox
    assert peer.read_message() == {"cmd": "NODE_HANDLE_NACK"}


def test_handle_that_belongs_to_no_message_is_closed(pair: Pair, stack: ExitStack) -> None:
    connection, peer = pair
    before = set(os.listdir("/proc/self/fd"))
    peer.write_bytes(b'"plain"\n', _handle(stack))
    after = set(os.listdir("/proc/self/fd"))
    assert _inbox(connection) == ["plain"]
    assert len(set(os.listdir("/proc/self/fd")) - before) == len(after - before)


def test_handle_of_an_internal_message_is_closed_and_acknowledged(
    pair: Pair, stack: ExitStack
) -> None:
    connection, peer = pair
    inner = b'{"cmd":"NODE_CLUSTER","act":"newconn"}'
    peer.write_bytes(NODE_HANDLE % inner, _handle(stack))
    before = len(os.listdir("/proc/self/fd"))
    assert _inbox(connection) == []
    assert len(os.listdir("/proc/self/fd")) == before
    assert peer.read_message() == {"cmd": "NODE_HANDLE_ACK"}


def test_answer_waits_its_turn_while_the_peer_does_not_read(pair: Pair, stack: ExitStack) -> None:
    connection, peer = pair
    send_id = connection.send(BIG)
    peer.write_bytes(NODE_HANDLE % b'"with"', _handle(stack))
    connection.read()
    connection.inbox.popleft().handle.close()
    received = b""
    connection.disconnect()
    while not connection.closed:
        received += peer.read_bytes()
        connection.flush()
    assert messages_of(received + peer.read_to_end()) == [BIG, {"cmd": "NODE_HANDLE_ACK"}]
    connection.result(send_id)


# -------------------------------------------------------------------------------------- bounds


def test_reading_stops_past_the_bound_until_all_was_taken() -> None:
    with connection_and_peer(max_queued=100) as (connection, peer):
        assert connection.wants_read
        peer.write("x" * 50)
        connection.read()
        assert connection.wants_read
        peer.write("y" * 50)
        connection.read()
        assert not connection.wants_read
        connection.inbox.popleft()
        assert not connection.wants_read
        connection.inbox.popleft()
        assert connection.wants_read


def test_bound_counts_what_waits_and_not_what_was_taken() -> None:
    with connection_and_peer(max_queued=100) as (connection, peer):
        for _ in range(10):
            peer.write("x" * 50)
            connection.read()
            assert connection.wants_read
            connection.inbox.clear()


def test_message_larger_than_the_bound_is_read_to_its_end() -> None:
    with connection_and_peer(max_queued=10) as (connection, peer):
        peer.write_bytes(b'"' + b"x" * 100)
        connection.read()
        assert connection.wants_read
        peer.write_bytes(b'"\n')
        connection.read()
        assert _inbox(connection) == ["x" * 100]


@pytest.mark.parametrize("value", [0, -1])
def test_bound_of_nothing_is_refused(value: int) -> None:
    near, far = channel_pair()
    with near, far, pytest.raises(ValueError, match=f"max_queued={value}"):
        Connection(UnixTransport(near), ChannelProtocol(), max_queued=value)


# ------------------------------------------------------------------------------------- the end


def test_new_connection_is_open(pair: Pair) -> None:
    connection, _ = pair
    assert connection.connected
    assert not connection.closed
    assert connection.serialization == "json"
    assert is_open(connection.fileno())


def test_disconnect_closes_after_what_was_sent(pair: Pair) -> None:
    connection, peer = pair
    fd = connection.fileno()
    connection.send("last")
    connection.disconnect()
    assert not connection.connected
    assert connection.closed
    assert connection.error is None
    assert connection.fileno() == -1
    assert not is_open(fd)
    assert peer.read_all_messages() == ["last"]
    assert not connection.read()
    assert not connection.wants_read


def test_disconnect_waits_for_what_is_unsent(pair: Pair) -> None:
    connection, peer = pair
    send_id = connection.send(BIG)
    connection.disconnect()
    assert not connection.connected
    assert not connection.closed
    with pytest.raises(ChannelClosed):
        connection.send("later")
    received = b""
    while not connection.closed:
        received += peer.read_bytes()
        connection.flush()
    connection.result(send_id)
    assert messages_of(received + peer.read_to_end()) == [BIG]


def test_second_disconnect_is_an_error(pair: Pair) -> None:
    connection, _ = pair
    connection.disconnect()
    with pytest.raises(AlreadyDisconnected):
        connection.disconnect()


def test_disconnect_after_the_peer_went_is_an_error(pair: Pair) -> None:
    connection, peer = pair
    peer.close()
    connection.read()
    with pytest.raises(AlreadyDisconnected):
        connection.disconnect()


def test_peer_that_goes_during_a_disconnect_ends_it(pair: Pair) -> None:
    connection, peer = pair
    send_id = connection.send(BIG)
    connection.disconnect()
    peer.close()
    while connection.read():
        pass
    assert connection.closed
    with pytest.raises(ChannelClosed):
        connection.result(send_id)


def test_messages_that_come_during_a_disconnect_are_dropped(pair: Pair) -> None:
    connection, peer = pair
    peer.write("before")
    connection.read()
    connection.send(BIG)
    connection.disconnect()
    peer.write("too late")
    assert _inbox(connection) == ["before"]


def test_end_keeps_the_messages_before_it(pair: Pair) -> None:
    connection, peer = pair
    peer.write(1, 2)
    peer.close()
    assert _inbox(connection) == [1, 2]
    assert connection.closed
    assert connection.error is None
    assert isinstance(connection.end(), ChannelClosed)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"nonsense\n3\n", ProtocolError),
        (b"\n3\n", ProtocolError),
        (b"\x02bun\n3\n", ProtocolError),
        (b'"' + b"x" * 1000 + b'"\n3\n', MessageTooLarge),
        (b'"' + b"x" * 1000, MessageTooLarge),
    ],
    ids=["no-json", "empty", "bun", "large", "large-half"],
)
def test_violation_ends_the_channel_after_what_came_before(
    data: bytes, error: type[Exception]
) -> None:
    with connection_and_peer(max_message_size=500) as (connection, peer):
        peer.write(1, 2)
        peer.write_bytes(data)
        assert _inbox(connection) == [1, 2]
        assert connection.closed
        assert isinstance(connection.error, error)
        assert peer.read_to_end() == b""


def test_violation_gives_up_what_is_unsent(pair: Pair) -> None:
    connection, peer = pair
    send_id = connection.send(BIG)
    peer.write_bytes(b"nonsense\n")
    connection.read()
    assert connection.closed
    with pytest.raises(ChannelClosed) as caught:
        connection.result(send_id)
    assert isinstance(caught.value.__cause__, ProtocolError)
    with pytest.raises(ChannelClosed) as caught:
        connection.send("later")
    assert isinstance(caught.value.__cause__, ProtocolError)


def test_half_a_message_at_the_end_is_reported(pair: Pair) -> None:
    connection, peer = pair
    peer.write_bytes(b'1\n{"half":')
    peer.close()
    assert _inbox(connection) == [1]
    assert isinstance(connection.error, IncompleteMessage)
    assert '{"half":' in str(connection.error)


def test_error_is_given_once_and_is_the_cause_from_then_on(pair: Pair) -> None:
    connection, peer = pair
    peer.write_bytes(b"nonsense\n")
    connection.read()
    first, second, third = connection.end(), connection.end(), connection.end()
    assert isinstance(first, ProtocolError)
    assert first is connection.error
    for later in (second, third):
        assert type(later) is ChannelClosed
        assert later.__cause__ is first


def test_iteration_ends_in_silence_at_an_ordinary_end(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    connection, peer = pair
    peer.close()
    connection.read()
    connection.end_of_iteration()
    assert not caplog.records


def test_iteration_ends_with_a_warning_after_half_a_message(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    connection, peer = pair
    peer.write_bytes(b'{"half":')
    peer.close()
    assert _inbox(connection) == []
    connection.end_of_iteration()
    (record,) = caplog.records
    assert record.name == "nodecompat"
    assert record.levelno == logging.WARNING
    assert '{"half":' in record.getMessage()


def test_iteration_raises_what_broke_the_channel(pair: Pair) -> None:
    connection, peer = pair
    peer.write_bytes(b"nonsense\n")
    connection.read()
    with pytest.raises(ProtocolError):
        connection.end_of_iteration()


def test_leave_disconnects_in_whatever_state_the_channel_is(pair: Pair) -> None:
    connection, peer = pair
    connection.send(BIG)
    connection.leave()
    assert not connection.connected
    connection.leave()
    assert not connection.closed
    received = b""
    while not connection.closed:
        received += peer.read_bytes()
        connection.flush()
    assert messages_of(received + peer.read_to_end()) == [BIG]


def test_leave_closes_at_once_when_the_peer_is_gone(pair: Pair) -> None:
    connection, peer = pair
    peer.close()
    connection.send("into the void")
    connection.leave()
    assert connection.closed


def test_abort_closes_at_once_and_gives_up_what_is_unsent(pair: Pair) -> None:
    connection, peer = pair
    send_id = connection.send(BIG)
    connection.abort()
    assert connection.closed
    assert isinstance(connection.error, ChannelClosed)
    with pytest.raises(ChannelClosed):
        connection.result(send_id)
    assert b"\n" not in peer.read_to_end()


def test_abort_ends_a_disconnect_that_waits(pair: Pair) -> None:
    connection, _ = pair
    connection.send(BIG)
    connection.disconnect()
    connection.abort()
    assert connection.closed


def test_who_watches_is_told_once_before_the_descriptor_goes(pair: Pair) -> None:
    connection, peer = pair
    told: list[bool] = []
    connection.before_close = lambda: told.append(is_open(connection.fileno()))
    peer.close()
    connection.read()
    connection.abort()
    assert told == [True]


def test_descriptor_that_fails_ends_the_channel(pair: Pair) -> None:
    """A program that closes descriptors it does not own, say."""
    connection, _ = pair
    os.close(connection.fileno())
    connection.read()
    assert connection.closed
    assert not connection.connected
    assert isinstance(connection.error, ChannelClosed)
    assert isinstance(connection.error.__cause__, OSError)


def test_descriptor_that_fails_in_a_write_ends_the_channel(pair: Pair) -> None:
    connection, _ = pair
    os.close(connection.fileno())
    send_id = connection.send("into the void")
    assert connection.closed
    with pytest.raises(ChannelClosed):
        connection.result(send_id)


# ----------------------------------------------------------------------------------- the exit


def test_exit_writes_what_was_accepted(pair: Pair) -> None:
    connection, peer = pair
    connection.send(BIG)
    connection.send("last")
    reader = Background(lambda: peer.read_messages(2))
    connection.flush_before_exit()
    assert connection.unsent == 0
    assert reader.result() == [BIG, "last"]


def test_exit_reads_on_so_that_a_peer_that_only_writes_gets_through(pair: Pair) -> None:
    connection, peer = pair
    connection.send(BIG)

    def write_then_read() -> list[object]:
        peer.write_bytes(lines(BIG) * 3)
        return peer.read_messages(1)

    other = Background(write_then_read).until_blocked()
    connection.flush_before_exit()
    assert other.result() == [BIG]


def test_exit_does_not_wait_for_a_peer_that_is_gone(pair: Pair) -> None:
    connection, peer = pair
    connection.send(BIG)
    peer.close()
    connection.flush_before_exit()
    assert connection.unsent == 0


def test_exit_ends_when_the_peer_breaks_the_protocol(pair: Pair) -> None:
    connection, peer = pair
    connection.send(BIG)
    peer.write_bytes(b"nonsense\n")
    connection.flush_before_exit()
    assert connection.closed


def test_exit_gives_up_a_peer_that_does_not_read_with_a_warning(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, _ = pair
    monkeypatch.setattr(module, "EXIT_FLUSH_LIMIT", 0.05)
    connection.send(BIG)
    unsent = connection.unsent
    with pytest.warns(RuntimeWarning, match=f"{unsent} bytes were not sent before the exit"):
        connection.flush_before_exit()


def test_exit_of_a_peer_that_floods_past_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXIT_FLUSH_LIMIT", 0.2)
    with connection_and_peer(max_queued=1) as (connection, peer):
        connection.send(BIG)
        peer.write(1)
        connection.read()
        assert not connection.wants_read
        peer.write_what_fits(lines(2) * 1000)
        with pytest.warns(RuntimeWarning, match="not sent before the exit"):
            connection.flush_before_exit()


def test_exit_of_a_copy_made_by_fork_writes_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, peer = pair
    connection.send(BIG)
    unsent = connection.unsent
    peer.read_bytes(100_000)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    connection.flush_before_exit()
    assert connection.unsent == unsent


def test_exit_does_not_hang_behind_a_thread_that_holds_the_lock(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, _ = pair
    monkeypatch.setattr(module, "EXIT_FLUSH_LIMIT", 0.05)
    with connection.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Background(connection.flush_before_exit).result()


def test_exit_finishes_every_connection_that_has_something_to_write() -> None:
    with connection_and_peer() as (one, one_peer), connection_and_peer() as (two, two_peer):
        one.send(BIG)
        two.send(BIG)
        readers = [Background(lambda p=p: p.read_messages(1)) for p in (one_peer, two_peer)]  # type: ignore[misc]
        module._flush_at_exit()
        assert [reader.result() for reader in readers] == [[BIG], [BIG]]


# Nobody has disconnected it: it is closed when it goes away.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_exit_finishes_a_connection_that_everybody_has_forgotten() -> None:
    near, far = channel_pair()
    with Peer(far) as peer:
        Connection(UnixTransport(near), ChannelProtocol()).send(BIG)
        del near
        gc.collect()
        reader = Background(lambda: peer.read_messages(1))
        module._flush_at_exit()
        assert reader.result() == [BIG]


def test_exit_goes_on_with_the_others_after_one_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EXIT_FLUSH_LIMIT", 0.05)
    with ExitStack() as stack:
        pairs = [stack.enter_context(connection_and_peer()) for _ in range(4)]
        for connection, _ in pairs:
            connection.send(BIG)
        # Only the last one's peer reads; the warnings about the others are errors here.
        (_, peer) = pairs[-1]
        reader = Background(lambda: peer.read_messages(1))
        with pytest.raises((RuntimeWarning, BaseExceptionGroup)):
            module._flush_at_exit()
        assert reader.result(2) == [BIG]


# ------------------------------------------------------------------------------ to the parent


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """The parent of a process that has a channel and has not taken it yet."""
    near, far = socket.socketpair()
    monkeypatch.setattr(environment, "_taken", False)
    monkeypatch.setenv("NODE_CHANNEL_FD", str(near.detach()))
    monkeypatch.setenv("NODE_CHANNEL_SERIALIZATION_MODE", "json")
    with Peer(far) as peer:
        yield peer


def test_connection_to_the_parent(forked: Peer) -> None:
    connection = connect_to_parent()
    connection.send("hello")
    assert forked.read_message() == "hello"
    connection.disconnect()


def test_bounds_of_the_connection_to_the_parent(forked: Peer) -> None:
    connection = connect_to_parent(max_message_size=10, max_queued=5)
    with pytest.raises(MessageTooLarge):
        connection.send("x" * 10)
    forked.write(12345)
    connection.read()
    assert not connection.wants_read
    connection.disconnect()


def test_without_a_parent_there_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_CHANNEL_FD", raising=False)
    with pytest.raises(NotForked):
        connect_to_parent()


@pytest.mark.parametrize("option", ["max_message_size", "max_queued"])
def test_wrong_bound_closes_the_channel(forked: Peer, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}=0"):
        connect_to_parent(**{option: 0})
    assert forked.read_to_end() == b""


def test_unknown_serialization_closes_the_channel(
    forked: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_CHANNEL_SERIALIZATION_MODE", "nonsense")
    with pytest.raises(HandshakeError):
        connect_to_parent()
    assert forked.read_to_end() == b""
