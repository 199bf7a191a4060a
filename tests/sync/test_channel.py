"""nodecompat.sync.channel: blocking calls, from one thread and from several."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import FrameType
from typing import Any

import pytest

from nodecompat import environment
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
from nodecompat.sync import channel as module
from nodecompat.sync.channel import Channel, connect_parent
from tests.support import (
    BIG,
    Background,
    Peer,
    RawChild,
    connection_and_peer,
    is_open,
    lines,
    messages_of,
    raw_child,
    until,
    until_blocked,
    until_idle,
)
from tests.support import nothing_left as nothing_left

Pair = tuple[Channel, Peer]

NODE_HANDLE = b'{"cmd":"NODE_HANDLE","type":"dgram.Socket","msg":"with"}\n'


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _each(call: Callable[[Any], object], values: Iterable[Any]) -> None:
    for value in values:
        call(value)


def _pair(stack: ExitStack, **bounds: int) -> Pair:
    connection, peer = stack.enter_context(connection_and_peer(**bounds))
    channel = Channel(connection)
    stack.callback(channel.__exit__, None, None, None)
    stack.callback(peer.close)
    return channel, peer


@pytest.fixture
def pair(stack: ExitStack) -> Pair:
    return _pair(stack)


# -------------------------------------------------------------------------------------- sending


def test_message_is_out_when_send_returns(pair: Pair) -> None:
    channel, peer = pair
    channel.send({"a": 1})
    assert not peer.at_end()
    assert peer.read_message() == {"a": 1}


def test_order_of_calls_is_order_of_arrival(pair: Pair) -> None:
    channel, peer = pair
    channel.send(1)
    channel.send_many([2, 3])
    channel.send_many([])
    channel.send(4)
    assert peer.read_messages(4) == [1, 2, 3, 4]


@pytest.mark.parametrize("many", [False, True])
def test_send_blocks_until_the_peer_reads(pair: Pair, many: bool) -> None:
    channel, peer = pair
    sender = Background(lambda: channel.send_many([BIG]) if many else channel.send(BIG))
    sender.until_blocked()
    assert sender.running
    assert peer.read_message() == BIG
    sender.result()


def test_what_arrives_while_send_blocks_is_kept(pair: Pair) -> None:
    channel, peer = pair
    sender = Background(lambda: channel.send(BIG)).until_blocked()
    # More than fits into the socket: it gets through only if it is read meanwhile.
    peer.write(BIG, BIG)
    assert peer.read_message() == BIG
    sender.result()
    assert [channel.recv(), channel.recv()] == [BIG, BIG]


def test_send_fails_when_the_peer_goes(pair: Pair) -> None:
    channel, peer = pair
    sender = Background(lambda: channel.send(BIG)).until_blocked()
    peer.close()
    with pytest.raises(ChannelClosed):
        sender.result()
    assert not channel.connected
    with pytest.raises(ChannelClosed):
        channel.send(1)


def test_message_that_cannot_go_is_refused_and_the_channel_stays(pair: Pair) -> None:
    channel, peer = pair
    with pytest.raises(MessageError):
        channel.send({"a": object()})
    with pytest.raises(MessageError):
        channel.send_many([1, object()])
    channel.send("after")
    assert peer.read_message() == "after"


def test_message_past_the_bound_is_refused(stack: ExitStack) -> None:
    channel, peer = _pair(stack, max_message_size=100)
    with pytest.raises(MessageTooLarge):
        channel.send("x" * 100)
    channel.send("after")
    assert peer.read_message() == "after"


def test_messages_of_send_many_may_come_from_the_channel_itself(pair: Pair) -> None:
    """``channel.send_many({"echo": message} for message in channel)`` must not hang."""
    channel, peer = pair
    sender = Background(lambda: channel.send_many([m] for m in channel))
    sender.until_blocked()
    peer.write(1, 2)
    peer.sock.shutdown(socket.SHUT_WR)
    # The peer has ended: nothing can be sent any more, and the call ends.
    with pytest.raises(ChannelClosed):
        sender.result(5)


def test_other_threads_go_on_while_send_many_asks_for_its_messages(pair: Pair) -> None:
    channel, peer = pair
    go = threading.Event()

    def slowly() -> Iterator[int]:
        assert go.wait(10)
        yield 1

    sender = Background(lambda: channel.send_many(slowly())).until_blocked()
    try:
        Background(lambda: channel.send("first")).result(5)
    finally:
        go.set()
    sender.result()
    assert peer.read_messages(2) == ["first", 1]


# ------------------------------------------------------------------------------------ receiving


def test_recv_waits_for_a_message(pair: Pair) -> None:
    channel, peer = pair
    receiver = Background(channel.recv).until_blocked()
    assert receiver.running
    peer.write("now")
    assert receiver.result() == "now"


def test_recv_gives_messages_in_order_whatever_the_pieces(pair: Pair) -> None:
    channel, peer = pair
    receiver = Background(lambda: [channel.recv() for _ in range(4)])
    for piece in (b'1\n"gr\xc3', b'\xbcn"\n[', b"3]\n{}", b"\n"):
        peer.write_bytes(piece)
    assert receiver.result() == [1, "grün", [3], {}]


def test_recv_times_out_and_loses_nothing(pair: Pair) -> None:
    channel, peer = pair
    peer.write_bytes(b'"ha')
    with pytest.raises(TimeoutError):
        channel.recv(timeout=0.02)
    peer.write_bytes(b'lf"\n')
    assert channel.recv(timeout=5) == "half"


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_timeout_of_nothing_takes_what_is_there(pair: Pair, timeout: float) -> None:
    channel, peer = pair
    with pytest.raises(TimeoutError):
        channel.recv(timeout=timeout)
    peer.write("there", "and there")
    assert channel.recv(timeout=timeout) == "there"
    assert channel.recv(timeout=timeout) == "and there"


@pytest.mark.parametrize("timeout", [1e6, 3e6, 1e10, float("inf")])
def test_timeout_may_be_as_long_as_one_likes(pair: Pair, timeout: float) -> None:
    channel, peer = pair
    receiver = Background(lambda: channel.recv(timeout=timeout)).until_blocked()
    peer.write("now")
    assert receiver.result() == "now"


def test_bound_of_what_waits_makes_the_peer_wait(stack: ExitStack) -> None:
    channel, peer = _pair(stack, max_queued=1000)
    sender = Background(lambda: peer.write(*[BIG] * 3)).until_blocked()
    assert channel.recv() == BIG
    sender.until_blocked()
    assert sender.running
    assert [channel.recv(), channel.recv()] == [BIG, BIG]
    sender.result()


def test_iteration_gives_all_messages_and_stops(pair: Pair) -> None:
    channel, peer = pair
    peer.write(1, None, 3)
    peer.close()
    assert list(channel) == [1, None, 3]
    assert list(channel) == []


def test_messages_are_kept_past_the_end(pair: Pair) -> None:
    channel, peer = pair
    peer.write(1, 2)
    peer.close()
    with pytest.raises(ChannelClosed):
        while True:
            channel.send(BIG)
    assert [channel.recv(), channel.recv()] == [1, 2]
    with pytest.raises(ChannelClosed):
        channel.recv()
    with pytest.raises(ChannelClosed):
        channel.recv(timeout=5)


def test_violation_of_the_protocol_ends_the_channel(pair: Pair) -> None:
    channel, peer = pair
    peer.write(1)
    peer.write_bytes(b"nonsense\n")
    assert channel.recv() == 1
    with pytest.raises(ProtocolError, match="nonsense"):
        channel.recv()
    assert not channel.connected
    with pytest.raises(ChannelClosed) as caught:
        channel.recv()
    assert isinstance(caught.value.__cause__, ProtocolError)
    assert peer.read_to_end() == b""


def test_violation_of_the_protocol_is_raised_by_iteration(pair: Pair) -> None:
    channel, peer = pair
    peer.write(1)
    peer.write_bytes(b"nonsense\n")
    received: list[Any] = []
    with pytest.raises(ProtocolError):
        received.extend(channel)
    assert received == [1]


def test_message_past_the_bound_ends_the_channel(stack: ExitStack) -> None:
    channel, peer = _pair(stack, max_message_size=100)
    peer.write(1, "x" * 100)
    assert channel.recv() == 1
    with pytest.raises(MessageTooLarge):
        channel.recv()
    assert channel.fileno() == -1


def test_half_a_message_at_the_end_is_raised_by_recv(pair: Pair) -> None:
    channel, peer = pair
    peer.write_bytes(b'1\n{"half":')
    peer.close()
    assert channel.recv() == 1
    with pytest.raises(IncompleteMessage, match='"half":'):
        channel.recv()
    with pytest.raises(ChannelClosed):
        channel.recv()


def test_half_a_message_at_the_end_is_logged_by_iteration(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    channel, peer = pair
    peer.write_bytes(b'1\n{"half":')
    peer.close()
    assert list(channel) == [1]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("nodecompat", logging.WARNING)
    assert '"half":' in record.getMessage()


def test_half_a_message_is_still_raised_by_recv_after_an_iteration(pair: Pair) -> None:
    channel, peer = pair
    peer.write_bytes(b'1\n{"half":')
    peer.close()
    assert list(channel) == [1]
    with pytest.raises(IncompleteMessage):
        channel.recv()


def test_handle_is_the_receiver_s(pair: Pair, stack: ExitStack) -> None:
    channel, peer = pair
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.write("plain")
    peer.write_bytes(NODE_HANDLE, sock.fileno())
    assert channel.recv_with_handle() == ("plain", None)
    message, handle = channel.recv_with_handle()
    assert handle is not None
    with handle:
        assert message == "with"
        assert os.fstat(handle.fileno()).st_ino == os.fstat(sock.fileno()).st_ino
    assert peer.read_message() == {"cmd": "NODE_HANDLE_ACK"}


def test_handle_that_nobody_takes_is_closed_with_a_warning(pair: Pair, stack: ExitStack) -> None:
    channel, peer = pair
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    peer.write_bytes(NODE_HANDLE * 2, sock.fileno(), sock.fileno())
    with pytest.warns(ResourceWarning, match="not taken"):
        assert channel.recv() == "with"
    with pytest.warns(ResourceWarning, match="not taken"):
        assert next(channel) == "with"


def test_recv_with_handle_waits_and_times_out_as_recv(pair: Pair) -> None:
    channel, peer = pair
    with pytest.raises(TimeoutError):
        channel.recv_with_handle(timeout=0.01)
    receiver = Background(channel.recv_with_handle).until_blocked()
    peer.write(1)
    assert receiver.result() == (1, None)
    peer.close()
    with pytest.raises(ChannelClosed):
        channel.recv_with_handle()


# ------------------------------------------------------------------------------------- the end


def test_disconnect_closes(pair: Pair) -> None:
    channel, peer = pair
    fd = channel.fileno()
    assert channel.connected
    channel.send("last")
    channel.disconnect()
    assert not channel.connected
    assert channel.fileno() == -1
    assert not is_open(fd)
    assert peer.read_all_messages() == ["last"]
    with pytest.raises(AlreadyDisconnected):
        channel.disconnect()
    with pytest.raises(ChannelClosed):
        channel.send(1)
    with pytest.raises(ChannelClosed):
        channel.send_many([1])


def test_disconnect_keeps_what_was_read(pair: Pair) -> None:
    channel, peer = pair
    peer.write(1, 2)
    assert channel.recv() == 1
    channel.disconnect()
    assert list(channel) == [2]


def test_disconnect_waits_for_what_was_sent(pair: Pair) -> None:
    channel, peer = pair
    sender = Background(lambda: channel.send(BIG)).until_blocked()
    leaver = Background(channel.disconnect).until_blocked()
    assert leaver.running
    assert not channel.connected
    assert peer.read_all_messages() == [BIG]
    sender.result()
    leaver.result()


def test_disconnect_gives_up_a_peer_that_never_reads(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = pair
    monkeypatch.setattr(module, "DISCONNECT_LIMIT", 0.05)
    sender = Background(lambda: channel.send(BIG)).until_blocked()
    with pytest.warns(RuntimeWarning, match="bytes were not sent before the disconnect"):
        channel.disconnect()
    with pytest.raises(ChannelClosed):
        sender.result()
    assert channel.fileno() == -1


@pytest.mark.parametrize("receivers", [1, 3])
def test_disconnect_from_another_thread_ends_recv(pair: Pair, receivers: int) -> None:
    channel, _ = pair
    threads = [Background(channel.recv).until_blocked() for _ in range(receivers)]
    channel.disconnect()
    for thread in threads:
        with pytest.raises(ChannelClosed):
            thread.result()


def test_end_of_the_peer_ends_every_recv(pair: Pair) -> None:
    channel, peer = pair
    threads = [Background(channel.recv).until_blocked() for _ in range(3)]
    peer.close()
    for thread in threads:
        with pytest.raises(ChannelClosed):
            thread.result()


def test_context_manager_disconnects(pair: Pair) -> None:
    channel, peer = pair
    with channel as entered:
        assert entered is channel
        channel.send("last")
    assert not channel.connected
    assert peer.read_all_messages() == ["last"]


def test_context_manager_lets_errors_through_and_disconnects(pair: Pair) -> None:
    channel, peer = pair
    with pytest.raises(LookupError), channel:
        raise LookupError
    assert peer.read_to_end() == b""


@pytest.mark.parametrize("how", ["disconnected", "peer gone", "peer gone and noticed in a send"])
def test_context_manager_ends_whatever_has_happened(pair: Pair, how: str) -> None:
    channel, peer = pair
    with channel:
        if how == "disconnected":
            channel.disconnect()
        else:
            peer.close()
            with pytest.raises(ChannelClosed):
                if how == "peer gone":
                    channel.recv()
                else:
                    channel.send(1)
    assert channel.fileno() == -1


def test_dropped_channel_closes_what_it_made(pair: Pair) -> None:
    channel, _ = pair
    with pytest.raises(TimeoutError):
        channel.recv(timeout=0.01)
    del channel


def test_repr_says_state_and_descriptor(pair: Pair) -> None:
    channel, _ = pair
    assert repr(channel) == (f"<nodecompat.sync.channel.Channel connected fd={channel.fileno()}>")
    channel.disconnect()
    assert repr(channel) == "<nodecompat.sync.channel.Channel disconnected fd=-1>"
    assert channel.serialization == "json"


# -------------------------------------------------------------------------------- many threads


def test_each_message_goes_to_one_of_several_threads(pair: Pair) -> None:
    channel, peer = pair
    threads = [Background(lambda: list(channel)) for _ in range(4)]
    count = 20_000
    for start in range(0, count, 100):
        peer.write(*range(start, start + 100))
    peer.close()
    received = [thread.result() for thread in threads]
    assert sorted(number for part in received for number in part) == list(range(count))
    # Each thread got its part in order.
    assert all(part == sorted(part) for part in received)


def test_threads_that_send_keep_each_its_order(pair: Pair) -> None:
    channel, peer = pair
    count = 300

    def send(thread: int) -> None:
        for number in range(count):
            # Some larger than the buffer, so that senders wait in the middle of a message.
            filler = "x" * (400_000 if number % 50 == 0 else 100)
            if number % 3:
                channel.send([thread, number, filler])
            else:
                channel.send_many([[thread, number, filler]])

    reader = Background(peer.read_all_messages)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(send, thread) for thread in range(4)]:
            done.result()
    channel.disconnect()
    received = reader.result()
    for thread in range(4):
        assert [number for of, number, _ in received if of == thread] == list(range(count))


def test_threads_may_send_and_receive_at_once(pair: Pair) -> None:
    channel, peer = pair
    count = 4000
    echoes = [Background(lambda: _each(lambda m: channel.send([m]), channel)) for _ in range(4)]
    reader = Background(lambda: peer.read_messages(count))
    for number in range(count):
        peer.write([number, "x" * (number % 2000)])
    received = reader.result()
    peer.close()
    for echo in echoes:
        echo.result()
    assert sorted(message[0][0] for message in received) == list(range(count))


def test_thread_that_stops_waiting_hands_over_to_another(pair: Pair) -> None:
    channel, peer = pair
    leaving = Background(lambda: channel.recv(timeout=0.3)).until_blocked()
    staying = [Background(channel.recv).until_blocked() for _ in range(2)]
    with pytest.raises(TimeoutError):
        leaving.result()
    peer.write(1, 2)
    assert sorted(thread.result() for thread in staying) == [1, 2]


def test_thread_that_got_its_message_hands_over_to_another(pair: Pair) -> None:
    channel, peer = pair
    threads = [Background(channel.recv).until_blocked() for _ in range(3)]
    for number in range(3):
        peer.write(number)
    assert sorted(thread.result() for thread in threads) == [0, 1, 2]


def test_sender_gets_on_while_another_thread_receives(pair: Pair) -> None:
    channel, peer = pair
    receiver = Background(channel.recv).until_blocked()
    sender = Background(lambda: channel.send(BIG)).until_blocked()
    assert peer.read_message() == BIG
    sender.result()
    peer.write("now")
    assert receiver.result() == "now"


def test_receiver_gets_on_while_another_thread_sends(pair: Pair) -> None:
    channel, peer = pair
    sender = Background(lambda: channel.send(BIG)).until_blocked()
    receiver = Background(channel.recv).until_blocked()
    peer.write("now")
    assert receiver.result() == "now"
    assert peer.read_message() == BIG
    sender.result()


@pytest.mark.parametrize("receiving", [False, True], ids=["alone", "beside-a-receiver"])
def test_sender_is_done_when_another_thread_s_send_wrote_its_rest(
    pair: Pair, receiving: bool
) -> None:
    """The kernel has all of it; the peer may well wait for what this thread does next."""
    channel, peer = pair
    filled = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    receiver = Background(channel.recv).until_blocked() if receiving else None
    first = Background(lambda: channel.send("x" * (filled + 20_000))).until_blocked()
    while channel._connection.unsent > 10_000:
        peer.read_bytes(4096)
        first.until_blocked()
    # Enough room for all that waits, and too little for the kernel to call it writable.
    while channel._connection.unsent:
        peer.read_bytes(4096)
        Background(lambda: channel.send_many(["y"])).result(5)
    try:
        first.result(5)
    finally:
        peer.close()
        if receiver is not None:
            with pytest.raises(ChannelClosed):
                receiver.result()


# -------------------------------------------------------------------------------------- signals


class Interrupt(Exception):
    """What the tests' signal handler raises."""


BLOCKING = ("_wait", "_lead", "_take_lock_back", "wait", "acquire", "_acquire_restore")
"""The functions in which a thread waits: for the poll, for another thread, for the lock."""


class Interrupter:
    """Signals to the main thread, whose handler raises Interrupt, once each, where that waits."""

    def __init__(self) -> None:
        self._armed = False
        # It stays in place for good: a signal may still be on its way when the test is over.
        signal.signal(signal.SIGUSR1, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Anywhere else it would hit the test, or a message that recv has in its hand.
        if self._armed and frame is not None and frame.f_code.co_name in BLOCKING:
            while frame is not None:
                if frame.f_code.co_filename == module.__file__ and frame.f_code.co_name == "_wait":
                    self._armed = False
                    raise Interrupt
                frame = frame.f_back

    def send(self) -> None:
        self._armed = True
        os.kill(os.getpid(), signal.SIGUSR1)

    def until_raised(self) -> None:
        """Interrupt the main thread in its wait, which it has reached or will reach soon."""
        self._armed = True
        while self._armed:
            until_blocked(threading.main_thread())
            os.kill(os.getpid(), signal.SIGUSR1)

    def stop(self) -> None:
        self._armed = False


@pytest.fixture
def interrupt() -> Iterator[Interrupter]:
    interrupter = Interrupter()
    yield interrupter
    interrupter.stop()


def test_signal_ends_recv_and_leaves_the_channel_usable(pair: Pair, interrupt: Interrupter) -> None:
    channel, peer = pair
    helper = Background(interrupt.until_raised)
    with pytest.raises(Interrupt):
        channel.recv()
    helper.result()
    peer.write("now")
    assert channel.recv(timeout=5) == "now"


def test_signal_ends_send_and_the_message_goes_whole_in_its_place(
    pair: Pair, interrupt: Interrupter
) -> None:
    channel, peer = pair
    helper = Background(interrupt.until_raised)
    with pytest.raises(Interrupt):
        channel.send(BIG)
    helper.result()
    sender = Background(lambda: channel.send("next"))
    assert peer.read_messages(2) == [BIG, "next"]
    sender.result()


def test_signal_in_one_thread_lets_the_others_go_on(pair: Pair, interrupt: Interrupter) -> None:
    channel, peer = pair

    def others_then_interrupt() -> list[Background[Any]]:
        until_blocked(threading.main_thread())
        started = [Background(channel.recv).until_blocked() for _ in range(2)]
        interrupt.until_raised()
        return started

    helper = Background(others_then_interrupt)
    with pytest.raises(Interrupt):
        channel.recv()
    peer.write(1, 2)
    assert sorted(thread.result() for thread in helper.result()) == [1, 2]


def test_signal_in_a_thread_that_follows_leaves_the_channel_usable(
    pair: Pair, interrupt: Interrupter
) -> None:
    channel, peer = pair
    leader = Background(channel.recv).until_blocked()
    helper = Background(interrupt.until_raised)
    with pytest.raises(Interrupt):
        channel.recv()
    helper.result()
    peer.write(1, 2)
    assert {leader.result(), channel.recv(timeout=5)} == {1, 2}


HANDLER_THAT_READS = """
    import signal, socket, sys
    from nodecompat.sync import connect_parent
    parent = connect_parent()
    pairs = [socket.socketpair() for _ in range(2)]

    def handler(number, frame):
        parent.send("from the handler", pairs[0][0])

    signal.signal(signal.SIGUSR1, handler)
    parent.send("ready")
"""


def _ack_what_the_handler_sent(child: RawChild, *more: Any) -> None:
    """Wait until the program waits, signal it, and answer the handler's handle."""
    until_idle(child.process.pid)
    os.kill(child.process.pid, signal.SIGUSR1)
    assert child.peer.read_message()["msg"] == "from the handler"
    # Both in one read, which is that of the call in the handler.
    child.peer.write({"cmd": "NODE_HANDLE_ACK"}, *more)


def test_message_that_a_signal_handler_reads_is_there_for_the_call_it_interrupted() -> None:
    code = HANDLER_THAT_READS + "    parent.send(['got', parent.recv()])\n"
    with raw_child(code) as child:
        assert child.peer.read_message() == "ready"
        _ack_what_the_handler_sent(child, "for recv")
        child.peer.sock.settimeout(10)
        assert child.peer.read_message() == ["got", "for recv"]


def test_acknowledgement_that_a_signal_handler_reads_is_for_the_send_it_interrupted() -> None:
    code = HANDLER_THAT_READS + "    parent.send('mine', pairs[1][0])\n    parent.send('done')\n"
    with raw_child(code) as child:
        assert child.peer.read_message() == "ready"
        assert child.peer.read_message()["msg"] == "mine"
        until_idle(child.process.pid)
        os.kill(child.process.pid, signal.SIGUSR1)
        # The handler's handle waits for this one to be taken, and reads that for it.
        until_idle(child.process.pid)
        child.peer.sock.settimeout(10)
        child.peer.write({"cmd": "NODE_HANDLE_ACK"})
        assert child.peer.read_message()["msg"] == "from the handler"
        child.peer.write({"cmd": "NODE_HANDLE_ACK"})
        assert child.peer.read_message() == "done"


def _wait_for_the_end(channel: Channel) -> None:
    with channel._lock:
        channel._wait(lambda: not channel.connected, None)


def test_thread_that_needs_to_read_wakes_one_that_polls_for_nothing(stack: ExitStack) -> None:
    """As one in child.wait() does, once as much has come as may wait."""
    channel, peer = _pair(stack, max_queued=10)
    peer.write("more than ten bytes", "next")
    leader = Background(lambda: _wait_for_the_end(channel))
    until(lambda: len(channel._inbox) == 2, "the messages")
    leader.until_blocked()
    sock, other = socket.socketpair()
    with sock, other:
        sending = Background(lambda: channel.send("with", sock))
        assert peer.read_message()["msg"] == "with"
        peer.write({"cmd": "NODE_HANDLE_ACK"})
        sending.result()
    assert [channel.recv(), channel.recv()] == ["more than ten bytes", "next"]
    receiving = Background(channel.recv).until_blocked()
    peer.write("last")
    assert receiving.result() == "last"
    peer.close()
    leader.result()


def test_waiting_without_a_descriptor_for_waking_still_works(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError(errno.EMFILE, "no descriptor is left")

    monkeypatch.setattr(module, "Wakeup", refuse)
    channel, peer = pair
    receiving = Background(channel.recv).until_blocked()
    # The thread that waits has to notice by itself that there is something to write.
    sending = Background(lambda: channel.send(BIG)).until_blocked()
    assert peer.read_message() == BIG
    sending.result()
    peer.write("came")
    assert receiving.result() == "came"


def test_storm_of_signals_loses_nothing(pair: Pair, interrupt: Interrupter) -> None:
    channel, peer = pair
    count = 300
    stop = threading.Event()
    choose = random.Random(1)

    def storm() -> None:
        while not stop.wait(choose.random() * 0.004):
            interrupt.send()

    def write() -> None:
        for number in range(count):
            peer.write([number, "x" * choose.choice([1, 1000, 100_000])])

    received: list[Any] = []
    interrupted = 0
    writer = Background(write)
    interrupting = Background(storm)
    try:
        while len(received) < count:
            try:
                received.append(channel.recv(timeout=10))
            except Interrupt:
                interrupted += 1
    finally:
        stop.set()
    interrupting.result()
    writer.result()
    assert [number for number, _ in received] == list(range(count))
    assert interrupted


SIGNAL_HANDLER = """
    import os, signal, sys, threading
    from nodecompat.sync import connect_parent
    parent = connect_parent()

    def handler(number, frame):
        try:
            parent.send("bye")
        except RuntimeError as error:
            # A clear refusal is as good: it is the hang that would be wrong.
            print(error, file=sys.stderr)
            os._exit(7)
        sys.exit(5)

    signal.signal(signal.SIGUSR1, handler)
    parent.send("ready")
"""


def test_signal_handler_may_send_while_recv_waits() -> None:
    with raw_child(SIGNAL_HANDLER + "    parent.recv()\n") as child:
        assert child.peer.read_message() == "ready"
        until_idle(child.process.pid)
        os.kill(child.process.pid, signal.SIGUSR1)
        assert child.peer.read_all_messages() == ["bye"]
        assert child.wait() == 5


def test_signal_handler_may_send_more_than_fits_while_recv_waits() -> None:
    code = SIGNAL_HANDLER.replace('"bye"', '"bye" * 300_000')
    with raw_child(code + "    parent.recv()\n") as child:
        assert child.peer.read_message() == "ready"
        until_idle(child.process.pid)
        os.kill(child.process.pid, signal.SIGUSR1)
        child.peer.sock.settimeout(5)
        received = child.peer.read_to_end()
        assert child.wait() in (5, 7)
        assert child.process.returncode == 7 or messages_of(received) == ["bye" * 300_000]


@pytest.mark.parametrize("attempt", range(3))
def test_signal_handler_that_sends_in_the_middle_of_a_send_does_not_hang(attempt: int) -> None:
    """A worker that says goodbye from its SIGTERM handler is almost always in a send then."""
    code = SIGNAL_HANDLER + (
        "    message = {str(i): [i] * 50 for i in range(5)}\n"
        "    while True:\n"
        "        parent.send(message)\n"
    )
    with raw_child(code) as child:
        child.peer.sock.settimeout(5)
        # Read all the time: it is in the middle of a send then, and not before a full buffer.
        reader = Background(child.peer.read_all_messages)
        until(lambda: child.peer.count > 100_000, "the first 100 KB")
        os.kill(child.process.pid, signal.SIGUSR1)
        received = reader.result()
        assert child.wait() in (5, 7)
        assert child.process.returncode == 7 or received[-1] == "bye"


# ------------------------------------------------------------------------- two Python processes

ONLY_WRITES = """
    import sys
    from nodecompat.sync import connect_parent
    with connect_parent(max_queued=2**30) as parent:
        for number in range(20):
            parent.send([number, "x" * 400_000])
        received = [parent.recv()[0] for _ in range(20)]
        assert received == list(range(20)), received
        parent.send("done")
"""


def test_two_sides_that_only_write_do_not_hang_each_other() -> None:
    with raw_child(ONLY_WRITES) as child:
        with Channel(child.take_connection()) as channel:
            Background(
                lambda: _each(lambda number: channel.send([number, "y" * 400_000]), range(20))
            ).result()
            assert [channel.recv()[0] for _ in range(20)] == list(range(20))
            assert channel.recv() == "done"
        assert child.wait() == 0, child.stderr()


# ------------------------------------------------------------------------------ to the parent


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    near, far = socket.socketpair()
    monkeypatch.setattr(environment, "_taken", False)
    monkeypatch.setenv("NODE_CHANNEL_FD", str(near.detach()))
    with Peer(far) as peer:
        yield peer


def test_channel_to_the_parent(forked: Peer) -> None:
    with connect_parent() as parent:
        forked.write("hello")
        parent.send([parent.recv()])
        assert forked.read_message() == ["hello"]
    assert forked.read_to_end() == b""


def test_bounds_of_the_channel_to_the_parent(forked: Peer) -> None:
    with connect_parent(max_message_size=10, max_queued=20) as parent:
        with pytest.raises(MessageTooLarge):
            parent.send("x" * 10)
        forked.write("x" * 10)
        with pytest.raises(MessageTooLarge):
            parent.recv()


def test_second_channel_to_the_parent_is_refused(forked: Peer) -> None:
    with connect_parent(), pytest.raises(NotForked, match="already in use"):
        connect_parent()


def test_without_a_parent_there_is_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_CHANNEL_FD", raising=False)
    with pytest.raises(NotForked) as caught:
        connect_parent()
    assert not isinstance(caught.value, HandshakeError)


# -------------------------------------------------------------------------------------- exiting


def test_exit_writes_a_message_whose_send_was_interrupted() -> None:
    code = """
        import os, signal, sys
        from nodecompat.sync import connect_parent
        parent = connect_parent()
        def handler(number, frame):
            raise KeyboardInterrupt
        signal.signal(signal.SIGUSR1, handler)
        print("ready", file=sys.stderr, flush=True)
        parent.send("x" * 1_000_000)
    """
    with raw_child(code) as child:
        assert child.process.stderr is not None
        assert child.process.stderr.readline() == b"ready\n"
        until_idle(child.process.pid)
        os.kill(child.process.pid, signal.SIGUSR1)
        assert child.peer.read_all_messages() == [BIG]


def test_exit_writes_what_another_thread_is_sending() -> None:
    code = """
        import threading
        from nodecompat.sync import connect_parent
        from tests.support import until_blocked
        parent = connect_parent()
        thread = threading.Thread(target=lambda: parent.send("x" * 1_000_000), daemon=True)
        thread.start()
        until_blocked(thread)
    """
    with raw_child(code) as child:
        assert child.peer.read_all_messages() == [BIG]
        assert child.wait() == 0, child.stderr()


def test_lines_are_what_the_far_end_writes() -> None:
    """The helper that these tests rest on."""
    assert lines(1, "a") == b'1\n"a"\n'
    with pytest.raises(AssertionError, match="half a message"):
        messages_of(b"1\n2")
