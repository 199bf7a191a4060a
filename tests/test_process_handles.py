"""nodecompat.process with handles, and exits while a handle is on its way.

The program under test is a child; the test is its parent, and plays it by the byte.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from tests.handle_support import (
    ACK,
    KEY,
    HandlePeer,
    handle_line,
    tcp_pair,
    tcp_server,
    udp_socket,
    unix_pair,
)
from tests.handle_support import same_descriptors as same_descriptors
from tests.handle_support import stack as stack
from tests.support import LIMIT, RawChild, raw_child, until_idle

_PRELUDE: Final = """
import os, socket, sys, threading
import nodecompat
from nodecompat import process

def made():
    # A socket whose other end has said something and is gone.
    near, far = socket.socketpair()
    far.sendall(b"from the child")
    far.close()
    return near

reports = []

def report(error):
    reports.append(error and type(error).__name__)
"""


class Program(HandlePeer):
    """A program, which its parent's end of the channel stands for."""

    def __init__(self, child: RawChild) -> None:
        super().__init__(child.peer.sock)
        self._child = child
        self.acknowledged = 0

    def read_replies(self, count: int) -> list[Any]:
        """The next messages, leaving out the acknowledgements between them, which are counted."""
        replies: list[Any] = []
        while len(replies) < count:
            message = self.read_message()
            if message == ACK:
                self.acknowledged += 1
            else:
                replies.append(message)
        return replies

    def read_made(self, message: Any) -> socket.socket:
        """What ``made`` made in the program, with its message."""
        received, sock = self.read_handle()
        assert received == {"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": message}
        return sock

    def signal(self, number: int) -> None:
        self._child.process.send_signal(number)

    def until_idle(self) -> None:
        until_idle(self._child.process.pid)

    def read_stderr_line(self) -> str:
        assert self._child.process.stderr is not None
        return self._child.process.stderr.readline().decode()

    def ended(self) -> tuple[int, str]:
        """Its exit status and what it wrote to stderr, once it has ended."""
        return self._child.wait(), self._child.stderr()


@contextlib.contextmanager
def program(code: str) -> Iterator[Program]:
    with raw_child(_PRELUDE + textwrap.dedent(code)) as child, Program(child) as peer:
        yield peer


def _says(sock: socket.socket) -> bytes:
    """All that comes out of a socket that the program made; it is closed."""
    with sock, sock.makefile("rb") as file:
        sock.settimeout(LIMIT)
        return file.read()


# ------------------------------------------------------------------------------------ receiving


def test_listener_gets_the_message_and_its_socket(stack: ExitStack) -> None:
    code = """
        def receive(message, handle):
            if handle is None:
                process.send([message, None])
            else:
                with handle:
                    handle.sendall(b"served")
                    process.send([message, handle.gettimeout()])

        process.on("message", receive)
        process.wait()
    """
    pair = unix_pair(stack)
    with program(code) as child:
        child.write("plain")
        child.send_handle("with", pair.near)
        child.write("after")
        pair.near.close()
        assert child.read_replies(3) == [["plain", None], ["with", None], ["after", None]]
        assert child.acknowledged == 1
        assert pair.far.recv(100) == b"served"
        child.close()
        assert child.ended() == (0, "")


def test_handle_is_acknowledged_before_there_is_a_listener(stack: ExitStack) -> None:
    code = """
        import signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        assert process.connected
        signal.sigwait([signal.SIGUSR1])
        process.on("message", lambda message, handle: process.send([message, handle.fileno() > 2]))
        process.wait()
    """
    with program(code) as child:
        child.send_handle("early", udp_socket(stack))
        assert child.read_message() == ACK
        child.signal(signal.SIGUSR1)
        assert child.read_message() == ["early", True]
        child.close()
        assert child.ended()[0] == 0


def test_descriptor_that_is_no_socket_is_reported_and_the_channel_goes_on() -> None:
    code = """
        process.on("message", lambda message, handle: process.send([message, handle]))
        try:
            process.wait()
        except nodecompat.ProtocolError as error:
            process.send(str(error))
        process.wait()
    """
    read, write = os.pipe()
    with program(code) as child:
        child.write_bytes(handle_line("pipe"), read)
        os.close(read)
        assert child.read_replies(1) == ["the peer sent a descriptor that is not a socket"]
        with pytest.raises(BrokenPipeError):
            os.write(write, b"x")
        os.close(write)
        child.write("after")
        assert child.read_replies(1) == [["after", None]]
        child.close()
        status, stderr = child.ended()
        assert status == 0
        assert "ProtocolError: the peer sent a descriptor that is not a socket" in stderr


def test_socket_that_a_listener_does_not_take_is_closed(stack: ExitStack) -> None:
    code = """
        process.on("message", lambda message, handle: None)
        process.wait()
    """
    pair = tcp_pair(stack)
    with program(code) as child:
        child.send_handle("ignored", pair.near)
        pair.near.close()
        assert pair.far.recv(1) == b""
        child.close()
        assert child.ended()[0] == 0


# -------------------------------------------------------------------------------------- sending


def test_callback_is_called_when_the_peer_has_the_handle() -> None:
    code = """
        near = made()
        process.send("with", near, callback=report)
        process.send("behind", callback=lambda error: process.send([*reports, near.fileno()]))
        process.wait()
    """
    with program(code) as child:
        sock = child.read_made("with")
        assert child.at_end()
        child.ack()
        assert child.read_messages(2) == ["behind", [None, -1]]
        assert _says(sock) == b"from the child"
        child.close()
        assert child.ended() == (0, "")


def test_callback_gets_the_error_of_a_handle_that_is_always_refused() -> None:
    code = """
        def last(error):
            process.send([*reports, near.recv(100).decode()])

        near = made()
        process.send("with", near, callback=report)
        process.send("behind", callback=last)
        process.wait()
    """
    with program(code) as child:
        for _ in range(4):
            child.read_made("with").close()
            child.nack()
        assert child.read_messages(2) == ["behind", ["HandleNotReceived", "from the child"]]
        child.close()
        assert child.ended() == (0, "")


def test_handle_that_is_always_refused_is_reported_without_a_callback_too() -> None:
    """Node warns then (SentHandleNotReceivedWarning)."""
    code = """
        process.send("with", made())
        process.send("behind")
        try:
            process.wait()
        except nodecompat.HandleNotReceived:
            pass
    """
    with program(code) as child:
        for _ in range(4):
            child.read_made("with").close()
            child.nack()
        assert child.read_message() == "behind"
        child.close()
        status, stderr = child.ended()
        assert status == 0
        assert "did not receive the handle" in stderr


def test_callback_gets_the_error_of_a_handle_whose_peer_goes() -> None:
    code = """
        near = made()
        process.send("with", near, callback=report)
        process.send("behind", callback=report)
        print("sent", file=sys.stderr, flush=True)
        process.on("disconnect", lambda: reports.append("end"))
        process.wait()
        print(reports, near.recv(100), file=sys.stderr)
    """
    with program(code) as child:
        child.read_made("with").close()
        assert child.read_stderr_line() == "sent\n"
        child.close()
        assert child.ended() == (
            0,
            "['HandleNotReceived', 'ChannelClosed', 'end'] b'from the child'\n",
        )


def test_socket_that_is_kept_open_stays() -> None:
    code = """
        def last(error):
            process.send([*reports, near.recv(100).decode()])

        near = made()
        process.send("with", near, keep_open=True, callback=report)
        process.send("behind", callback=last)
        process.wait()
    """
    with program(code) as child:
        child.read_made("with").close()
        child.ack()
        assert child.read_messages(2) == ["behind", [None, "from the child"]]
        child.close()
        assert child.ended() == (0, "")


def test_type_may_be_asked_for() -> None:
    with program('process.send("with", made(), handle_type="net.Native")') as child:
        assert child.close_handle()["type"] == "net.Native"
        child.ack()
        assert child.read_to_end() == b""
        assert child.ended()[0] == 0


def test_what_cannot_travel_is_refused_at_once() -> None:
    code = """
        for handle in (sys.stdin, socket.socket()):
            try:
                process.send("with", handle, callback=report)
            except nodecompat.InvalidHandle as error:
                process.send(error.code)
        process.disconnect()
        process.wait()
    """
    with program(code) as child:
        assert child.read_all_messages() == ["ERR_INVALID_HANDLE_TYPE"] * 2
        assert child.ended()[0] == 0


def test_listener_may_send_back_what_it_got(stack: ExitStack) -> None:
    code = """
        process.on("message", lambda message, handle: process.send(message, handle))
        process.wait()
    """
    server, udp, pair = tcp_server(stack), udp_socket(stack), tcp_pair(stack)
    with program(code) as child:
        for name, sock in [("tcp", server), ("udp", udp), ("socket", pair.near)]:
            child.send_handle(name, sock)
            assert child.read_message() == ACK
            message, back = child.read_handle()
            child.ack()
            with back:
                assert message["msg"] == name
                assert back.getsockname() == sock.getsockname()
        child.close()
        assert child.ended()[0] == 0


def test_sends_that_nobody_asks_about_leave_nothing_behind() -> None:
    code = """
        def receive(message, handle):
            connection = process._process._connection
            process.send(len(connection._settled) + len(connection._waiting_for_ack))

        for number in range(50):
            process.send("with", made())
        process.on("message", receive)
        process.wait()
    """
    with program(code) as child:
        for _ in range(50):
            child.read_made("with").close()
            child.ack()
        child.write("how many?")
        assert child.read_message() == 0
        child.close()
        assert child.ended() == (0, "")


def test_send_tells_of_a_queue_behind_a_handle_as_node_does() -> None:
    code = """
        told = [process.send("first", made()), process.send(1), process.send(2), process.send(3)]
        print(told, file=sys.stderr, flush=True)
        process.disconnect()
        process.wait()
    """
    with program(code) as child:
        child.read_made("first").close()
        assert child.read_stderr_line() == "[True, True, False, False]\n"
        child.ack()
        assert child.read_all_messages() == [1, 2, 3]
        assert child.ended() == (0, "")


def test_disconnect_lets_the_queue_go_out_first() -> None:
    code = """
        process.send("first", made())
        process.send("behind")
        process.send("second", made())
        process.send("last")
        process.disconnect()
        assert not process.connected
        try:
            process.send("refused", made())
        except nodecompat.ChannelClosed:
            pass
        process.wait()
    """
    with program(code) as child:
        child.read_made("first").close()
        assert child.at_end()
        child.ack()
        assert child.read_message() == "behind"
        child.read_made("second").close()
        child.ack()
        assert child.read_all_messages() == ["last"]
        assert child.ended() == (0, "")


# --------------------------------------------------------------------------------- socket lists

_GET_COUNT = {"cmd": "NODE_SOCKET_GET_COUNT", "key": KEY}
_NOTIFY_CLOSE = {"cmd": "NODE_SOCKET_NOTIFY_CLOSE", "key": KEY}
_ALL_CLOSED = {"cmd": "NODE_SOCKET_ALL_CLOSED", "key": KEY}


@pytest.mark.parametrize(
    "end",
    [
        "handle.close()",
        "os.close(handle.detach())",
        "file = handle.makefile('rb'); handle.close(); file.close()",
        "thread = threading.Thread(target=handle.close); thread.start(); thread.join()",
        "threading.Thread(target=later, args=[handle]).start()",
    ],
)
def test_end_of_a_counted_socket_is_told(end: str, stack: ExitStack) -> None:
    code = f"""
        asked = threading.Event()

        def later(handle):
            # The thread of the listeners has gone to sleep by then, most likely.
            asked.wait()
            handle.close()

        def receive(message, handle):
            if handle is None:
                asked.set()
            else:
                {end}

        process.on("message", receive)
        process.wait()
    """
    with program(code) as child:
        child.send_handle("counted", tcp_pair(stack).near, key=KEY)
        child.write(_NOTIFY_CLOSE, "asked")
        assert child.read_messages(2) == [ACK, _ALL_CLOSED]
        child.close()
        assert child.ended() == (0, "")


def test_counted_socket_counts_while_the_program_has_it(stack: ExitStack) -> None:
    code = """
        kept = []

        def receive(message, handle):
            if handle is not None:
                kept.append(handle)
            else:
                kept.pop().close()

        process.on("message", receive)
        process.wait()
    """
    with program(code) as child:
        for number in range(2):
            child.send_handle(number, tcp_pair(stack).near, key=KEY)
        child.write(_GET_COUNT, _NOTIFY_CLOSE)
        assert child.read_messages(3) == [
            ACK,
            ACK,
            {"cmd": "NODE_SOCKET_COUNT", "key": KEY, "count": 2},
        ]
        child.write("close one")
        child.write("close the other")
        assert child.read_message() == _ALL_CLOSED
        child.close()
        assert child.ended() == (0, "")


# -------------------------------------------------------------------------------------- exiting


def test_exit_waits_until_the_peer_has_the_handle_and_what_is_queued_behind_it() -> None:
    code = """
        process.send("first", made())
        process.send("behind")
        process.send("second", made())
        process.send("last")
    """
    with program(code) as child:
        first = child.read_made("first")
        assert child.at_end()
        child.ack()
        assert child.read_message() == "behind"
        second = child.read_made("second")
        child.ack()
        assert child.read_all_messages() == ["last"]
        assert child.ended() == (0, "")
        assert _says(first) == _says(second) == b"from the child"


def test_exit_sends_a_refused_handle_again() -> None:
    with program('process.send("with", made())') as child:
        child.read_made("with").close()
        child.nack()
        sock = child.read_made("with")
        child.ack()
        assert child.read_to_end() == b""
        assert child.ended() == (0, "")
        assert _says(sock) == b"from the child"


def test_exit_hands_over_with_a_message_larger_than_the_buffer() -> None:
    with program('process.send("x" * 1_000_000, made()); process.send("last")') as child:
        sock = child.read_made("x" * 1_000_000)
        child.ack()
        assert child.read_all_messages() == ["last"]
        assert child.ended() == (0, "")
        assert _says(sock) == b"from the child"


def test_exit_acknowledges_what_comes_meanwhile(stack: ExitStack) -> None:
    """A peer that hands over at the same time waits for us as we for it."""
    with program('process.send("ours", made())') as child:
        child.read_made("ours").close()
        child.send_handle("theirs", udp_socket(stack))
        assert child.read_message() == ACK
        child.ack()
        assert child.read_to_end() == b""
        assert child.ended()[0] == 0


def test_exit_gives_up_a_peer_that_never_acknowledges() -> None:
    code = """
        import nodecompat.connection
        nodecompat.connection.EXIT_FLUSH_LIMIT = 0.1
        process.send("with", made())
        process.send("behind")
    """
    with program(code) as child:
        child.read_made("with").close()
        status, stderr = child.ended()
        assert status == 0
        assert "RuntimeWarning" in stderr
        assert "1 messages behind it were not sent" in stderr
        assert child.read_to_end() == b""


def test_exit_ends_with_a_peer_that_goes() -> None:
    code = """
        process.send("with", made())
        process.send("behind")
        print("sent", file=sys.stderr, flush=True)
    """
    with program(code) as child:
        child.read_made("with").close()
        assert child.read_stderr_line() == "sent\n"
        child.close()
        assert child.ended()[0] == 0


def test_exit_of_a_program_that_was_interrupted_in_a_blocking_send_still_hands_over() -> None:
    code = """
        from nodecompat.sync import connect_parent

        parent = connect_parent()
        try:
            parent.send("with", made())
        except KeyboardInterrupt:
            pass
    """
    with program(code) as child:
        sock = child.read_made("with")
        child.until_idle()
        child.signal(signal.SIGINT)
        child.until_idle()
        child.write("still there")
        child.ack()
        assert child.read_to_end() == b""
        assert child.ended() == (0, "")
        assert _says(sock) == b"from the child"
