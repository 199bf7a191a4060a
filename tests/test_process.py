"""nodecompat.process: Node's `process`, listeners on one thread, an exit that loses nothing."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodecompat import environment, process
from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandshakeError,
    InvalidHandle,
    MessageError,
    NotForked,
    ProtocolError,
)
from tests.support import (
    BIG,
    Background,
    Peer,
    is_open,
    messages_of,
    raw_child,
    until,
    until_idle,
)
from tests.support import nothing_left as nothing_left

NODE_HANDLE = b'{"cmd":"NODE_HANDLE","type":"dgram.Socket","msg":"with"}\n'


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has used nothing yet, and has no channel."""
    monkeypatch.setattr(process, "_process", process._Process())
    monkeypatch.setattr(environment, "_taken", False)
    for name in ("NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def parent(fresh: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """The far end of the channel of a process that was forked."""
    near, far = socket.socketpair()
    fd = near.detach()
    monkeypatch.setenv("NODE_CHANNEL_FD", str(fd))
    with Peer(far) as peer:
        yield peer
    if process._process._opened:
        # The end of the peer ends the channel, and that ends the thread.
        until(lambda: process._process._thread is None, "the end of the thread")
    else:
        os.close(fd)


class Recorder:
    """A listener that remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads: set[str] = set()

    def __call__(self, *arguments: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.append(arguments[0] if arguments else "called")

    def until(self, count: int) -> list[Any]:
        until(lambda: len(self.calls) >= count, f"{count} calls")
        return self.calls


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What threading.excepthook was given."""
    errors: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    return errors


# ---------------------------------------------------------------------------- without a channel


def test_without_a_channel_nothing_is_connected() -> None:
    assert process.connected is False
    assert process.channel is None


@pytest.mark.parametrize("call", [lambda: process.send(1), process.disconnect])
def test_without_a_channel_sending_is_an_error(call: Callable[[], object]) -> None:
    for _ in range(2):
        with pytest.raises(NotForked, match="no channel to a parent"):
            call()


def test_without_a_channel_listeners_are_welcome_and_wait_returns() -> None:
    recorder = Recorder()
    for event in ("message", "disconnect", "error"):
        process.on(event, recorder)
    process.wait()
    process.wait(timeout=0)
    assert not recorder.calls
    assert threading.active_count() == 1


def test_unusable_channel_is_an_error_and_none_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NODE_CHANNEL_FD", "nonsense")
    with pytest.raises(HandshakeError):
        _ = process.connected
    assert process.connected is False
    with pytest.raises(NotForked):
        process.send(1)


def test_channel_that_somebody_else_has_taken_is_none(parent: Peer) -> None:
    from nodecompat.sync import connect_parent

    with connect_parent():
        assert process.connected is False
        with pytest.raises(NotForked, match="in use elsewhere"):
            process.send(1)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match=r"nodecompat\.process.*no attribute 'nothing'"):
        _ = process.nothing


# -------------------------------------------------------------------------------------- sending


def test_message_is_sent(parent: Peer) -> None:
    assert process.connected is True
    assert process.send({"a": 1}) is True
    assert parent.read_message() == {"a": 1}


def test_channel_is_shown(parent: Peer) -> None:
    channel = process.channel
    assert channel is not None
    assert channel.fd == channel.fileno() > 2
    assert is_open(channel.fd)
    assert channel.serialization == "json"
    process.disconnect()
    assert channel.fd == -1
    assert process.channel is None


def test_send_returns_false_from_128_kib_on(parent: Peer) -> None:
    # The kernel takes some; what counts is what it did not take.
    while process.send("x" * 1000):
        pass
    connection = process._process._connection
    assert connection is not None
    unsent = connection.unsent
    assert 128 * 1024 <= unsent < 128 * 1024 + 1100
    reader = Background(parent.read_all_messages)
    until(lambda: not connection.unsent, "the rest of the output")
    assert process.send("last") is True
    process.disconnect()
    assert reader.result()[-1] == "last"


def test_send_never_blocks_and_order_is_kept(parent: Peer) -> None:
    for number in range(20):
        process.send([number, BIG])
    assert [number for number, _ in parent.read_messages(20)] == list(range(20))


def test_send_refuses_what_cannot_go(parent: Peer) -> None:
    with pytest.raises(MessageError):
        process.send(object())
    with socket.socket() as sock, pytest.raises(InvalidHandle):
        process.send("with", sock)
    process.send("after")
    assert parent.read_message() == "after"


def test_callback_is_called_once_the_kernel_has_the_message(parent: Peer) -> None:
    recorder = Recorder()
    process.send(1, callback=recorder)
    assert recorder.until(1) == [None]
    process.send(BIG, callback=recorder)
    process.send(2, callback=recorder)
    assert recorder.calls == [None]
    assert parent.read_messages(3) == [1, BIG, 2]
    assert recorder.until(3) == [None, None, None]
    assert recorder.threads == {"nodecompat.process"}


def test_callback_gets_the_error_of_a_message_that_was_not_sent(parent: Peer) -> None:
    recorder = Recorder()
    process.send(BIG, callback=recorder)
    parent.close()
    (error,) = recorder.until(1)
    assert isinstance(error, ChannelClosed)


def test_send_after_the_end_raises_or_tells_the_callback(parent: Peer) -> None:
    process.disconnect()
    with pytest.raises(ChannelClosed):
        process.send(1)
    recorder = Recorder()
    assert process.send(1, callback=recorder) is False
    (error,) = recorder.until(1)
    assert isinstance(error, ChannelClosed)


def test_listener_may_send(parent: Peer) -> None:
    process.on("message", lambda message, handle: process.send({"echo": message}))
    parent.write(1, 2)
    assert parent.read_messages(2) == [{"echo": 1}, {"echo": 2}]


# ------------------------------------------------------------------------------------ listening


def test_messages_reach_the_listener_in_order(parent: Peer) -> None:
    recorder = Recorder()
    assert process.on("message", recorder) is recorder
    parent.write(*range(1000))
    assert recorder.until(1000) == list(range(1000))
    assert recorder.threads == {"nodecompat.process"}


def test_messages_before_the_first_listener_are_kept_for_it(parent: Peer) -> None:
    parent.write(1, 2)
    assert process.connected
    recorder = Recorder()
    process.on("message", recorder)
    assert recorder.until(2) == [1, 2]


def test_messages_are_kept_past_the_end(parent: Peer) -> None:
    parent.write(1, 2)
    assert process.connected
    parent.close()
    process.wait()
    assert not process.connected
    recorder = Recorder()
    process.on("message", recorder)
    assert recorder.until(2) == [1, 2]
    process.wait()


def test_once_hears_one_message_and_leaves_the_rest(parent: Peer) -> None:
    first, then = Recorder(), Recorder()
    process.once("message", first)
    parent.write(1, 2, 3)
    assert first.until(1) == [1]
    process.on("message", then)
    assert then.until(2) == [2, 3]
    assert first.calls == [1]


def test_every_listener_hears_every_message(parent: Peer) -> None:
    one, two = Recorder(), Recorder()
    heard: list[str] = []
    process.on("message", lambda *_: heard.append("one"))
    process.on("message", lambda *_: heard.append("two"))
    process.on("message", one)
    process.once("message", two)
    parent.write(1, 2)
    assert one.until(2) == [1, 2]
    assert two.calls == [1]
    assert heard == ["one", "two"] * 2


def test_off_takes_back_the_last_one_that_was_added(parent: Peer) -> None:
    heard: list[str] = []
    last = Recorder()

    def listener(*_: object) -> None:
        heard.append("listener")

    process.on("message", listener)
    process.on("message", lambda *_: heard.append("between"))
    process.on("message", listener)
    process.on("message", last)
    process.off("message", listener)
    process.off("message", print)
    parent.write(1)
    last.until(1)
    assert heard == ["listener", "between"]


def test_listener_may_take_itself_back(parent: Peer) -> None:
    recorder = Recorder()

    def listener(message: object, handle: object) -> None:
        recorder(message)
        process.off("message", listener)

    process.on("message", listener)
    parent.write(1, 2)
    recorder.until(1)
    process.on("message", recorder)
    assert recorder.until(2) == [1, 2]


@pytest.mark.parametrize("call", [process.on, process.once, process.off])
def test_unknown_event_is_named(call: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="event 'mesage': expected one of message"):
        call("mesage", print)


@pytest.mark.parametrize("call", [process.on, process.once])
def test_listener_that_cannot_be_called_is_named(call: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="'message' is not callable: 42"):
        call("message", 42)


def test_handle_comes_with_its_message(parent: Peer) -> None:
    received: list[socket.socket] = []
    process.on("message", lambda message, handle: received.append(handle))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        parent.write_bytes(NODE_HANDLE, sock.fileno())
        assert parent.read_message() == {"cmd": "NODE_HANDLE_ACK"}
        until(lambda: received, "the message")
        with received[0] as handle:
            assert os.fstat(handle.fileno()).st_ino == os.fstat(sock.fileno()).st_ino


def test_handle_that_is_no_socket_does_not_end_the_listening(
    parent: Peer, shown: list[BaseException | None]
) -> None:
    recorder = Recorder()
    process.on("message", recorder)
    read, write = os.pipe()
    parent.write_bytes(NODE_HANDLE, read)
    os.close(read)
    os.close(write)
    parent.write("after")
    until(lambda: "after" in recorder.calls, "the next message")


# ------------------------------------------------------------------------------------- the end


def test_disconnect_event_comes_once_and_after_the_messages(parent: Peer) -> None:
    events: list[Any] = []
    process.on("disconnect", lambda: events.append("disconnect"))
    process.on("message", lambda message, handle: events.append(message))
    parent.write(*range(100))
    parent.close()
    process.wait()
    assert events == [*range(100), "disconnect"]
    assert not process.connected


def test_own_disconnect_is_an_event_too(parent: Peer) -> None:
    recorder = Recorder()
    process.on("disconnect", recorder)
    process.disconnect()
    assert process.connected is False
    process.wait()
    assert recorder.calls == ["called"]
    assert parent.read_to_end() == b""
    with pytest.raises(AlreadyDisconnected):
        process.disconnect()


def test_disconnect_writes_what_was_sent_before(parent: Peer) -> None:
    for number in range(5):
        process.send([number, BIG])
    process.disconnect()
    assert process.connected is False
    assert [number for number, _ in parent.read_all_messages()] == list(range(5))
    process.wait()


def test_listener_may_disconnect(parent: Peer) -> None:
    process.on("message", lambda message, handle: process.disconnect())
    parent.write("stop")
    process.wait()
    assert parent.read_to_end() == b""


def test_disconnect_without_a_listener_for_messages_comes_all_the_same(parent: Peer) -> None:
    recorder = Recorder()
    process.on("disconnect", recorder)
    parent.write("nobody listens")
    parent.close()
    process.wait()
    assert recorder.calls == ["called"]


def test_wait_times_out(parent: Peer) -> None:
    with pytest.raises(TimeoutError):
        process.wait(timeout=0.01)
    with pytest.raises(TimeoutError):
        process.wait(timeout=0)


@pytest.mark.parametrize("timeout", [None, 1e10, float("inf")])
def test_wait_blocks_until_the_end_from_any_thread(parent: Peer, timeout: float | None) -> None:
    recorder = Recorder()
    process.on("message", recorder)
    waiters = [Background(lambda: process.wait(timeout)).until_blocked() for _ in range(2)]
    assert all(waiter.running for waiter in waiters)
    parent.write(1)
    parent.close()
    for waiter in waiters:
        waiter.result()
    assert recorder.calls == [1]


def test_wait_lasts_until_the_listeners_have_returned(parent: Peer) -> None:
    go = threading.Event()
    done: list[bool] = []
    process.on("disconnect", lambda: done.append(go.wait(10)))
    parent.close()
    waiter = Background(process.wait).until_blocked()
    assert waiter.running
    go.set()
    waiter.result()
    assert done == [True]


def test_violation_of_the_protocol_is_an_error_event(parent: Peer) -> None:
    events: list[Any] = []
    process.on("message", lambda message, handle: events.append(message))
    process.on("error", events.append)
    process.on("disconnect", lambda: events.append("disconnect"))
    parent.write(1)
    parent.write_bytes(b"nonsense\n")
    process.wait()
    assert events[0] == 1
    assert isinstance(events[1], ProtocolError)
    assert events[2] == "disconnect"


def test_violation_that_nobody_listens_for_is_raised_by_wait(
    parent: Peer, shown: list[BaseException | None]
) -> None:
    assert process.connected
    parent.write_bytes(b"nonsense\n")
    with pytest.raises(ProtocolError):
        process.wait()
    (error,) = shown
    assert isinstance(error, ProtocolError)
    process.wait()


def test_half_a_message_at_the_end_is_logged(
    parent: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    process.on("disconnect", recorder)
    process.on("error", recorder)
    parent.write_bytes(b'1\n{"half":')
    parent.close()
    process.wait()
    assert recorder.calls == ["called"]
    (record,) = (each for each in caplog.records if each.name == "nodecompat")
    assert record.levelno == logging.WARNING
    assert '"half":' in record.getMessage()


def test_log_handler_may_use_the_channel(parent: Peer) -> None:
    """One that sends the log to the parent must not hang when the end itself is logged."""

    class ToParent(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            states.append(process.connected)

    states: list[bool] = []
    handler = ToParent()
    logging.getLogger("nodecompat").addHandler(handler)
    try:
        assert process.connected
        parent.write_bytes(b'{"half":')
        parent.close()
        Background(process.wait).result(5)
    finally:
        logging.getLogger("nodecompat").removeHandler(handler)
    assert states == [False]


# ------------------------------------------------------------------------------------- failures


def test_exception_in_a_listener_is_shown_and_raised_by_wait(
    parent: Peer, shown: list[BaseException | None]
) -> None:
    recorder = Recorder()

    def fail(message: object, handle: object) -> None:
        raise LookupError(message)

    process.on("message", fail)
    process.on("message", recorder)
    parent.write(1)
    with pytest.raises(LookupError, match="1"):
        process.wait()
    # The others were called, and the next messages come as well.
    parent.write(2)
    assert recorder.until(2) == [1, 2]
    until(lambda: len(shown) == 2, "the second exception")
    with pytest.raises(LookupError, match="2"):
        process.wait()
    parent.close()
    process.wait()
    assert [str(error) for error in shown] == ["1", "2"]


def test_exception_of_a_listener_is_kept_for_wait(
    parent: Peer, shown: list[BaseException | None]
) -> None:
    process.on("disconnect", lambda: [][0])
    parent.close()
    until(lambda: shown, "the exception")
    with pytest.raises(IndexError):
        process.wait()
    process.wait()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_listener_may_end_the_program_through_wait(
    parent: Peer, shown: list[BaseException | None], kind: type[BaseException]
) -> None:
    def stop(*_: object) -> None:
        raise kind(3)

    process.on("message", stop)
    parent.write("stop")
    with pytest.raises(kind):
        process.wait()
    assert process.connected


def test_exception_in_a_callback_is_not_lost_either(
    parent: Peer, shown: list[BaseException | None]
) -> None:
    process.send(1, callback=lambda error: [][0])
    with pytest.raises(IndexError):
        process.wait()
    (error,) = shown
    assert isinstance(error, IndexError)
    recorder = Recorder()
    process.send(2, callback=recorder)
    assert recorder.until(1) == [None]


def test_excepthook_that_fails_does_not_stop_the_listening(
    parent: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()

    def hook(args: object) -> None:
        raise ValueError("the hook itself is broken")

    def fail(*_: object) -> None:
        raise LookupError

    process.on("message", fail)
    process.on("message", recorder)
    with monkeypatch.context() as patch:
        patch.setattr(threading, "excepthook", hook)
        parent.write(1, 2)
        until(lambda: recorder.calls == [1, 2] or not _thread_runs(), "both messages")
    assert recorder.calls == [1, 2]


def _thread_runs() -> bool:
    return any(thread.name == "nodecompat.process" for thread in threading.enumerate())


# ---------------------------------------------------------------------------------- many threads


def test_many_threads_may_send(parent: Peer) -> None:
    def send(thread: int) -> None:
        for number in range(500):
            process.send([thread, number, "x" * (number % 1000)])

    reader = Background(lambda: parent.read_messages(2000))
    for sender in [Background(lambda t=t: send(t)) for t in range(4)]:  # type: ignore[misc]
        sender.result()
    received = reader.result()
    for thread in range(4):
        assert [number for of, number, _ in received if of == thread] == list(range(500))


def test_first_use_in_many_threads_opens_one_channel(parent: Peer) -> None:
    threads = [Background(lambda: process.send("hello")) for _ in range(8)]
    assert {thread.result() for thread in threads} == {True}
    assert parent.read_messages(8) == ["hello"] * 8
    assert sum(thread.name == "nodecompat.process" for thread in threading.enumerate()) == 1


# ----------------------------------------------------------------------------- whole programs

SENDING = """
    import os, sys, threading
    from nodecompat import process
    for number in range(5):
        process.send([number, "x" * 1_000_000])
"""

EXPECTED = [[number, BIG] for number in range(5)]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('a reason')", 1),
        ("raise LookupError", 1),
        ("process.disconnect()", 0),
        ("process.on('message', print)", 0),
        ("process.disconnect(); sys.exit(3)", 3),
    ],
)
def test_exit_loses_no_message(end: str, status: int) -> None:
    with raw_child(f"{SENDING}    {end}\n") as child:
        # The rest cannot be on its way yet: the program is at its end, and waits for us.
        until_idle(child.process.pid)
        received = b""
        while data := child.peer.read_bytes(5000):
            received += data
        assert messages_of(received) == EXPECTED
        assert child.wait() == status, child.stderr()


def test_exit_by_a_signal_handler_loses_no_message() -> None:
    code = (
        "    import signal, time\n"
        "    signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))\n"
        + SENDING
        + "    process.wait()\n"
    )
    with raw_child(code) as child:
        until_idle(child.process.pid)
        child.process.send_signal(signal.SIGTERM)
        assert child.peer.read_all_messages() == EXPECTED
        assert child.wait() == 4, child.stderr()


def test_exit_reads_on_while_the_parent_only_writes() -> None:
    with raw_child(SENDING) as child:
        until_idle(child.process.pid)
        child.peer.write(*[BIG] * 3)
        assert child.peer.read_all_messages() == EXPECTED
        assert child.wait() == 0, child.stderr()


def test_exit_ends_when_the_parent_goes() -> None:
    with raw_child(SENDING) as child:
        until_idle(child.process.pid)
        child.peer.close()
        assert child.wait() == 0
        assert not child.stderr()


def test_copy_that_os_fork_made_leaves_the_messages_to_its_parent() -> None:
    code = SENDING + (
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        sys.exit(7)\n"
        "    _, status = os.waitpid(pid, 0)\n"
        "    sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    with raw_child(code) as child:
        # The copy ends by itself although nobody reads: it has nothing to write.
        until_idle(child.process.pid)
        assert child.peer.read_all_messages() == EXPECTED
        assert child.wait() == 7, child.stderr()


def test_program_that_waits_ends_with_its_parent() -> None:
    code = """
        from nodecompat import process
        process.on("message", lambda message, handle: process.send({"echo": message}))
        process.on("disconnect", lambda: print("over", flush=True))
        process.send("ready")
        process.wait()
    """
    with raw_child(code) as child:
        assert child.peer.read_message() == "ready"
        child.peer.write(1)
        assert child.peer.read_message() == {"echo": 1}
        child.peer.close()
        assert child.wait() == 0, child.stderr()


@pytest.mark.parametrize(
    ("statement", "status"), [("sys.exit(9)", 9), ("raise LookupError('why')", 1)]
)
def test_listener_ends_a_program_that_waits(statement: str, status: int) -> None:
    code = f"""
        import sys
        from nodecompat import process
        def listener(message, handle):
            process.send("last words")
            {statement}
        process.on("message", listener)
        process.wait()
    """
    with raw_child(code) as child:
        child.peer.write("go")
        assert child.peer.read_all_messages() == ["last words"]
        assert child.wait() == status
        if status == 1:
            assert "LookupError: why" in child.stderr()


def test_exit_while_a_listener_runs_loses_no_message() -> None:
    code = """
        import threading
        from nodecompat import process
        busy = threading.Event()
        def listener(message, handle):
            for number in range(5):
                process.send([number, "x" * 1_000_000])
            busy.set()
            threading.Event().wait()
        process.on("message", listener)
        busy.wait()
    """
    with raw_child(code) as child:
        child.peer.write("go")
        assert child.peer.read_all_messages() == EXPECTED
        assert child.wait() == 0, child.stderr()


def test_signal_handler_may_send_in_the_middle_of_a_send() -> None:
    """A worker that says goodbye from its SIGTERM handler is almost always in a send then."""
    code = """
        import os, signal, sys, time
        from nodecompat import process
        def handler(number, frame):
            try:
                process.send("bye")
            except RuntimeError as error:
                # A clear refusal is as good: it is the hang that would be wrong.
                os._exit(7)
            sys.exit(5)
        signal.signal(signal.SIGUSR1, handler)
        message = {str(i): [i] * 50 for i in range(5)}
        while True:
            if not process.send(message):
                time.sleep(0.001)
    """
    with raw_child(code) as child:
        child.peer.sock.settimeout(5)
        reader = Background(child.peer.read_to_end)
        until(lambda: child.peer.count > 100_000, "the first 100 KB")
        child.process.send_signal(signal.SIGUSR1)
        received = reader.result()
        assert child.wait() in (5, 7)
        assert child.process.returncode == 7 or messages_of(received)[-1] == "bye"
