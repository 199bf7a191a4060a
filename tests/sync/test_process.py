"""nodecompat.sync.process: children with a channel, from their start to the very end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from nodecompat.errors import ChannelClosed, NodeNotFound, ProgramNotFound, ProtocolError
from nodecompat.sync import fork, spawn
from nodecompat.sync import process as module
from nodecompat.sync.process import Child
from nodecompat.transport.spawn import Process
from tests.support import (
    BIG,
    Background,
    bare,
    is_open,
    open_fds,
    until,
    until_blocked,
)
from tests.support import nothing_left as nothing_left

ECHO = """
    import contextlib
    with contextlib.suppress(ConnectionError), socket.socket(fileno=3) as channel:
        while data := channel.recv(65536):
            channel.sendall(data)
"""

STUBBORN = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    send("ready")
    while True:
        time.sleep(600)
"""


def _spawn(code: str, **options: Any) -> Child:
    return spawn(sys.executable, bare(code), **options)


@pytest.fixture
def no_pidfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot tell the end of a process on a descriptor."""
    monkeypatch.delattr(os, "pidfd_open", raising=False)


# Every test of the end runs on both kinds of system.
both_systems = pytest.mark.parametrize("pidfd", [True, False], ids=["pidfd", "no-pidfd"])


@pytest.fixture(autouse=True)
def system(request: pytest.FixtureRequest) -> None:
    if "pidfd" in request.fixturenames and not request.getfixturevalue("pidfd"):
        request.getfixturevalue("no_pidfd")


# -------------------------------------------------------------------------------------- talking


def test_child_and_parent_talk() -> None:
    with _spawn(ECHO) as child:
        child.send({"hello": "world"})
        assert child.recv() == {"hello": "world"}
        assert child.connected
        assert child.serialization == "json"
    assert child.exit_code == 0


def test_fork_runs_a_module_with_its_arguments(tmp_path: Path) -> None:
    module = tmp_path / "worker.py"
    module.write_text(
        "import json, os, sys\nos.write(3, json.dumps([sys.flags.optimize, *sys.argv]).encode())\n"
        "os.write(3, b'\\n')\n"
    )
    with fork(module, ["a", "b"], exec_path=sys.executable, exec_argv=["-I", "-O"]) as child:
        assert child.recv() == [1, str(module), "a", "b"]


def test_fork_of_a_python_child_of_ours(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "from nodecompat.sync import connect_parent\n"
        "with connect_parent() as parent:\n"
        "    for message in parent:\n"
        "        parent.send({'echo': message})\n"
    )
    root = str(Path(module.__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    with fork(worker, exec_path=sys.executable, env=env) as child:
        for number in range(100):
            child.send(number)
        assert [child.recv()["echo"] for _ in range(100)] == list(range(100))
    assert child.exit_code == 0


def test_fork_needs_a_node_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODECOMPAT_NODE", "/nowhere/node")
    with pytest.raises(NodeNotFound):
        fork("worker.js")


def test_silent_fork_has_pipes(tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("print(input())\n")
    with fork(worker, exec_path=sys.executable, silent=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"word\n")
        assert child.stdout.read() == b"word\n"


def test_bounds_are_those_of_the_channel() -> None:
    with _spawn("send('x' * 200); until_end()", max_message_size=100) as child:
        with pytest.raises(ValueError, match="max_message_size is 100"):
            child.send("x" * 100)
        with pytest.raises(ValueError, match="max_message_size is 100"):
            child.recv()


def test_child_that_breaks_the_protocol_ends_the_channel() -> None:
    with _spawn("send(1); os.write(3, b'nonsense\\n'); until_end()") as child:
        assert child.recv() == 1
        with pytest.raises(ProtocolError):
            child.recv()
        assert child.wait() == 0


def test_messages_of_a_child_that_ended_are_kept() -> None:
    with _spawn("send(*range(5)); sys.exit(4)") as child:
        assert child.wait() == 4
        assert list(child) == [0, 1, 2, 3, 4]
        assert not child.connected


# -------------------------------------------------------------------------------------- streams


def test_streams_are_files_where_they_are_pipes() -> None:
    code = """
        print("out", sys.stdin.read(), flush=True)
        print("err", file=sys.stderr, flush=True)
        os.write(4, b"both")
    """
    with _spawn(code, stdio=["pipe", "pipe", "pipe", "ipc", "pipe", "ignore"]) as child:
        stdin, stdout, stderr, channel, both, nothing = child.stdio
        assert (child.stdin, child.stdout, child.stderr) == (stdin, stdout, stderr)
        assert channel is nothing is None
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        assert isinstance(both, socket.socket)
        child.stdin.write(b"word")
        child.stdin.close()
        assert child.stdout.read() == b"out word\n"
        assert child.stderr.read() == b"err\n"
        assert both.recv(100) == b"both"
    for stream in (child.stdin, child.stdout, child.stderr):
        assert stream.closed
    assert both.fileno() == -1


def test_streams_are_none_where_they_are_no_pipes() -> None:
    with _spawn("until_end()") as child:
        assert child.stdio == [None] * 4
        assert (child.stdin, child.stdout, child.stderr) == (None, None, None)


def test_stdin_of_a_child_that_closed_it_does_not_fail_the_end() -> None:
    with _spawn("os.close(0); send(1); until_end()", stdio=["pipe", "inherit", 2, "ipc"]) as child:
        assert child.recv() == 1
        assert child.stdin is not None
        with pytest.raises(BrokenPipeError):
            child.stdin.write(b"nobody reads this")


# ----------------------------------------------------------------------------- waiting, signals


@both_systems
@pytest.mark.parametrize(("code", "status"), [("", 0), ("sys.exit(3)", 3), ("os._exit(255)", 255)])
def test_wait_gives_the_exit_status(pidfd: bool, code: str, status: int) -> None:
    with _spawn(code) as child:
        assert child.wait() == status
        assert child.wait() == status
        assert child.exit_code == status
        assert child.signal_code is None


@both_systems
def test_wait_times_out_and_leaves_the_child(pidfd: bool) -> None:
    with _spawn(ECHO) as child:
        with pytest.raises(TimeoutError):
            child.wait(timeout=0.02)
        child.send("still there")
        assert child.recv() == "still there"


@both_systems
def test_wait_of_no_time_tells_whether_it_has_ended(pidfd: bool) -> None:
    with _spawn("until_end()") as child:
        with pytest.raises(TimeoutError):
            child.wait(timeout=0)
        child.kill("SIGKILL")
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert child.wait(timeout=0) is None


@both_systems
def test_wait_reads_on_so_that_the_child_can_end(pidfd: bool) -> None:
    with _spawn(f"send(*['x' * {len(BIG)}] * 3)") as child:
        assert child.wait() == 0
        assert list(child) == [BIG] * 3


@both_systems
def test_several_threads_may_wait_and_receive(pidfd: bool) -> None:
    with _spawn("os.read(3, 100); until_end(); sys.exit(6)") as child:
        receivers = [Background(lambda: list(child)) for _ in range(2)]
        waiters = [Background(child.wait) for _ in range(3)]
        for receiver in receivers:
            receiver.until_blocked()
        for waiter in waiters:
            waiter.until_blocked()
        child.send(1)
        child.disconnect()
        assert [waiter.result() for waiter in waiters] == [6, 6, 6]
        assert [receiver.result() for receiver in receivers] == [[], []]


def test_pidfd_is_given_back_although_another_thread_was_in_recv() -> None:
    with _spawn("until_end(); os.read(0, 1)", stdio=["pipe", "inherit", 2, "ipc"]) as child:
        pidfd = child._process.pidfd
        receiver = Background(child.recv).until_blocked()
        waiter = Background(child.wait).until_blocked()
        child.kill("SIGKILL")
        assert waiter.result() is None
        with pytest.raises(ChannelClosed):
            receiver.result()
        assert child.wait() is None
        assert not is_open(pidfd)


def test_channel_lasts_as_long_as_a_grandchild_has_it() -> None:
    code = """
        os.set_inheritable(3, True)
        send(os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600"))
    """
    with _spawn(code) as child:
        grandchild = child.recv()
        assert child.wait() == 0
        with pytest.raises(TimeoutError):
            child.recv(timeout=0.05)
        os.kill(grandchild, signal.SIGKILL)
        with pytest.raises(ChannelClosed):
            child.recv(timeout=10)


@both_systems
@pytest.mark.parametrize("number", ["SIGTERM", signal.SIGKILL])
def test_signal_that_ended_the_child(pidfd: bool, number: str | int) -> None:
    with _spawn("until_end()") as child:
        assert child.kill(number)
        assert child.killed
        assert child.wait() is None
        assert child.exit_code is None
        assert child.signal_code == ("SIGTERM" if number == "SIGTERM" else "SIGKILL")
        assert not child.kill(number)


# -------------------------------------------------------------------------------------- timeout


@both_systems
def test_timeout_ends_the_child(pidfd: bool) -> None:
    with _spawn("until_end(); time.sleep(600)", timeout=0.1) as child:
        assert child.wait() is None
        assert child.signal_code == "SIGTERM"
        assert child.killed


def test_timeout_ends_the_child_whatever_the_program_does_meanwhile() -> None:
    with _spawn("time.sleep(600)", timeout=0.1) as child:
        until(lambda: child.exit_code is None and child.signal_code, "the end of the child")


def test_timeout_sends_the_kill_signal() -> None:
    with _spawn("time.sleep(600)", timeout=0.1, kill_signal="SIGUSR2") as child:
        assert child.wait() is None
        assert child.signal_code == "SIGUSR2"


def test_timeout_does_not_touch_a_child_that_ends_before() -> None:
    with _spawn("", timeout=600) as child:
        assert child.wait() == 0
    assert not child.killed
    until(lambda: threading.active_count() == 1, "the end of the timer's thread")


@pytest.mark.parametrize("timeout", [None, 0])
def test_no_timeout_is_none_or_zero_as_in_node(timeout: int | None) -> None:
    with _spawn(ECHO, timeout=timeout) as child:
        child.send(1)
        assert child.recv() == 1
    assert child.exit_code == 0


def test_timeout_without_an_end_is_none(recwarn: pytest.WarningsRecorder) -> None:
    with _spawn(ECHO, timeout=float("inf")) as child:
        child.send(1)
        assert child.recv() == 1
    assert child.exit_code == 0
    assert not recwarn.list


@pytest.mark.parametrize(
    "options",
    [{"timeout": -1}, {"close_timeout": -1}, {"kill_signal": "SIGNOTHING"}, {"timeout": "1"}],
)
def test_wrong_option_starts_nothing(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options.values())).__str__()):
        _spawn("", **options)
    assert not psutil.Process().children()


def test_missing_program_leaves_nothing() -> None:
    before = open_fds()
    with pytest.raises(ProgramNotFound):
        spawn("/nowhere/program", stdio=["pipe", "pipe", "pipe", "ipc"])
    assert open_fds() == before


# ------------------------------------------------------------------------- the end of the block


@both_systems
def test_leaving_disconnects_and_waits(pidfd: bool) -> None:
    with _spawn("until_end(); sys.exit(9)") as child:
        pass
    assert child.exit_code == 9
    assert not child.killed
    assert not psutil.pid_exists(child.pid)
    assert child._process.pidfd == -1


@both_systems
def test_child_that_ignores_the_end_gets_the_kill_signal(pidfd: bool) -> None:
    with _spawn("time.sleep(600)", close_timeout=0.05) as child:
        pass
    assert child.signal_code == "SIGTERM"
    assert not psutil.pid_exists(child.pid)


@both_systems
def test_child_that_ignores_the_kill_signal_as_well_is_killed(pidfd: bool) -> None:
    with _spawn(STUBBORN, close_timeout=0.05) as child:
        assert child.recv() == "ready"
    assert child.signal_code == "SIGKILL"
    assert not psutil.pid_exists(child.pid)


@both_systems
@pytest.mark.parametrize("code", [STUBBORN, "send('ready'); until_end(); time.sleep(600)"])
def test_no_time_at_all_ends_the_child_at_once(pidfd: bool, code: str) -> None:
    with _spawn(code, close_timeout=0) as child:
        assert child.recv() == "ready"
    assert child.exit_code is None
    assert child.signal_code is not None
    assert not psutil.pid_exists(child.pid)


def test_close_timeout_of_none_waits_as_long_as_it_takes() -> None:
    with _spawn("until_end(); time.sleep(0.2)", close_timeout=None) as child:
        pass
    assert child.exit_code == 0


def test_leaving_with_an_error_ends_the_child_too() -> None:
    with pytest.raises(LookupError), _spawn("until_end()") as child:
        raise LookupError
    assert child.exit_code == 0
    assert not psutil.pid_exists(child.pid)


def test_leaving_after_the_child_ended_or_the_channel_was_closed() -> None:
    with _spawn("") as child:
        child.wait()
    with _spawn("until_end()") as child:
        child.disconnect()
    assert child.exit_code == 0
    with _spawn("") as child:
        with pytest.raises(ChannelClosed):
            child.recv()
        with pytest.raises(ChannelClosed):
            child.send(1)


def test_child_that_does_not_read_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodecompat.sync.channel.DISCONNECT_LIMIT", 0.05)
    with (
        pytest.warns(RuntimeWarning, match="not sent before the disconnect"),
        _spawn("send('ready'); time.sleep(600)", close_timeout=0.05) as child,
    ):
        assert child.recv() == "ready"
        sender = Background(lambda: child.send(BIG)).until_blocked()
    with pytest.raises(ChannelClosed):
        sender.result()
    assert child.signal_code == "SIGTERM"


def test_child_is_ended_also_when_the_warning_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nodecompat.sync.channel.DISCONNECT_LIMIT", 0.05)
    senders: list[Background[None]] = []
    with (
        pytest.raises(RuntimeWarning),
        _spawn("send('ready'); time.sleep(600)", close_timeout=0.05) as child,
    ):
        assert child.recv() == "ready"
        senders.append(Background(lambda: child.send(BIG)).until_blocked())
    with pytest.raises(ChannelClosed):
        senders[0].result()
    assert child.signal_code == "SIGTERM"


def test_child_that_even_sigkill_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    child = _spawn("until_end(); time.sleep(600)", close_timeout=0.01)
    with monkeypatch.context() as patch:
        # One that hangs in the kernel.
        patch.setattr(Process, "kill", lambda *_: True)
        patch.setattr(module, "CLOSE_TIMEOUT", 0.01)
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=f"process {child.pid} did not end after SIGKILL"):
            child.__exit__(None, None, None)
        assert time.monotonic() - started < 60
    child.kill("SIGKILL")
    child.wait()


def test_child_may_be_used_without_a_block() -> None:
    child = _spawn(ECHO)
    child.send(1)
    assert child.recv() == 1
    child.disconnect()
    assert child.wait() == 0
    assert child.fileno() == -1


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_child_that_nobody_waits_for_is_told_and_reaped_later() -> None:
    child = _spawn("until_end()")
    pid = child.pid
    # It is to be there still when nobody has it any more.
    os.kill(pid, signal.SIGSTOP)
    with pytest.warns(ResourceWarning):
        child.disconnect()
        del child
    os.kill(pid, signal.SIGKILL)
    os.kill(pid, signal.SIGCONT)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with _spawn("until_end()"):
        assert not psutil.pid_exists(pid)


def test_several_children_at_once_end_each_on_its_own() -> None:
    with _spawn(ECHO) as one, _spawn(ECHO) as two, _spawn(ECHO) as three:
        for child in (one, two, three):
            child.send(child.pid)
        two.disconnect()
        # Only if no other child has the descriptor does its end come.
        assert two.wait() == 0
        assert one.recv() == one.pid
        assert three.recv() == three.pid


def test_many_threads_start_children_at_once() -> None:
    def run(number: int) -> Any:
        with _spawn(
            f"send({number}); sys.exit({number})", cwd="/" if number % 2 else None
        ) as child:
            return child.recv(), child.wait()

    threads = [Background(lambda n=n: run(n)) for n in range(8)]  # type: ignore[misc]
    assert [thread.result() for thread in threads] == [(n, n) for n in range(8)]


def test_repr_says_process_and_program() -> None:
    with _spawn("until_end()") as child:
        assert repr(child) == (
            f"<nodecompat.sync.process.Child connected fd={child.fileno()} "
            f"pid={child.pid} {sys.executable!r}>"
        )


def test_failure_after_the_start_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(child: Child, index: int, fd: int) -> IO[bytes]:
        os.close(fd)
        raise OSError("no more memory, say")

    monkeypatch.setattr(Child, "_open_stream", fail)
    with pytest.raises(OSError, match="no more memory"):
        _spawn("until_end(); time.sleep(600)", stdio=["pipe", "pipe", "pipe", "ipc"])


# -------------------------------------------------------------------------------------- signals


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    class_of_signal = signal.SIGUSR1
    armed = True

    def handler(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    signal.signal(class_of_signal, handler)
    yield lambda: os.kill(os.getpid(), class_of_signal)
    armed = False


def test_ctrl_c_in_wait_leaves_the_child_usable(interrupt: Callable[[], None]) -> None:
    with _spawn(ECHO) as child:

        def when_blocked() -> None:
            until_blocked(threading.main_thread())
            interrupt()

        helper = Background(when_blocked)
        with pytest.raises(KeyboardInterrupt):
            child.wait()
        helper.result()
        child.send(1)
        assert child.recv() == 1
