"""nodecompat.launch: every kind of stdio, options and their errors, and a child as a process."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from nodecompat.errors import ProgramNotFound, SpawnError
from nodecompat.launch import (
    ChildProcess,
    Launched,
    Stdio,
    check_timeout,
    fork_command,
    fork_stdio,
    launch,
    signal_number,
)
from tests.support import Peer, bare, is_open, open_fds, until
from tests.support import nothing_left as nothing_left

IPC_ONLY: list[Stdio] = ["ignore", "ignore", "inherit", "ipc"]


class Child(ChildProcess):
    """A child as both flavours have it, without a channel that waits."""

    def __init__(self, launched: Launched) -> None:
        super().__init__(launched, signal.SIGTERM)
        self.launched = launched

    def wait(self) -> int | None:
        until(lambda: self._process.poll() is not None, "the end of the child")
        return self.exit_code

    def recv(self) -> Any:
        connection = self.launched.connection
        until(lambda: connection.inbox or (connection.read() and False), "a message")
        return connection.inbox.popleft()[0]

    def stream(self, index: int) -> int:
        fd = self.launched.streams[index]
        assert fd is not None
        return fd


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _options(**changed: Any) -> Any:
    return {
        "cwd": None,
        "env": None,
        "serialization": "json",
        "detached": False,
        "uid": None,
        "gid": None,
        "max_message_size": 2**20,
        "max_queued": 2**20,
    } | changed


def _launch(
    stack: ExitStack,
    args: list[str],
    stdio: Any = IPC_ONLY,
    *,
    command: str = sys.executable,
    **options: Any,
) -> Child:
    child = Child(launch(command, args, stdio, **_options(**options)))

    def end() -> None:
        child.kill("SIGKILL")
        child.wait()
        child._process.close()
        child.launched.connection.abort()
        for index in range(len(child.launched.streams)):
            fd = child.launched.take_stream(index)
            if fd is not None:
                os.close(fd)

    stack.callback(end)
    return child


# What a child finds at its descriptors, told over the channel, which is at argv[1].
REPORT = """
import json, os, stat, sys
channel = int(sys.argv[1])
def kind(fd):
    try:
        status = os.fstat(fd)
    except OSError:
        return "closed"
    if stat.S_ISFIFO(status.st_mode):
        return "pipe"
    if stat.S_ISSOCK(status.st_mode):
        return "socket"
    if stat.S_ISCHR(status.st_mode):
        return "null" if status.st_rdev == os.stat("/dev/null").st_rdev else "device"
    return "file"
report = [kind(fd) for fd in range(8)]
os.write(channel, json.dumps(report).encode() + b"\\n")
"""


def _report(stack: ExitStack, stdio: list[Stdio]) -> list[str]:
    """The kinds of the child's descriptors 0 to 7."""
    channel = next(index for index, entry in enumerate(stdio) if entry == "ipc")
    child = _launch(stack, bare(REPORT, str(channel)), stdio)
    report: list[str] = child.recv()
    assert child.wait() == 0
    return report


def _wrong(value: object) -> Any:
    """A value that the type checker is not to see."""
    return value


def _stdio(entries: dict[int, Stdio]) -> list[Stdio]:
    """A list with these entries, and nothing at all other places."""
    stdio: list[Stdio] = ["ignore"] * (max(entries) + 1)
    for index, entry in entries.items():
        stdio[index] = entry
    return stdio


# ---------------------------------------------------------------------------------------- stdio


@pytest.mark.parametrize("index", range(6))
def test_channel_may_be_at_any_index(stack: ExitStack, index: int) -> None:
    report = _report(stack, _stdio({5: "ignore", index: "ipc"}))
    expected = ["null", "null", "null", "closed", "closed", "closed", "closed", "closed"]
    expected[index] = "socket"
    assert report == expected


@pytest.mark.parametrize("index", range(6))
def test_child_is_told_where_its_channel_is(stack: ExitStack, index: int) -> None:
    code = """
        fd = int(os.environ["NODE_CHANNEL_FD"])
        mode = os.environ["NODE_CHANNEL_SERIALIZATION_MODE"]
        os.write(fd, json.dumps([fd, mode]).encode() + b"\\n")
    """
    assert _launch(stack, bare(code), _stdio({index: "ipc"})).recv() == [index, "json"]


def test_every_kind_of_entry(stack: ExitStack, tmp_path: Path) -> None:
    file = stack.enter_context((tmp_path / "file").open("wb"))
    sock = stack.enter_context(socket.socket())
    report = _report(
        stack, ["pipe", file, sock.fileno(), "ipc", "ignore", "pipe", None, "overlapped"]
    )
    assert report == ["pipe", "file", "socket", "socket", "closed", "socket", "closed", "socket"]


def test_missing_entries_and_none_are_pipes_below_three(stack: ExitStack) -> None:
    assert _report(stack, ["ipc"])[:4] == ["socket", "pipe", "pipe", "closed"]
    assert _report(stack, [None, None, None, "ipc", None])[:5] == [
        "pipe",
        "pipe",
        "pipe",
        "socket",
        "closed",
    ]


def test_inherited_entry_is_ours_of_that_number(stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket())
    fds = (0, 1, 2, sock.fileno())
    child = _launch(
        stack,
        bare(f"send([os.fstat(fd).st_ino for fd in {fds}])"),
        _stdio({3: "ipc", **dict.fromkeys(fds, "inherit")}),
    )
    assert child.recv() == [os.fstat(fd).st_ino for fd in fds]


def test_pipes_carry_data_in_their_direction(stack: ExitStack) -> None:
    code = """
        word = sys.stdin.readline()
        print("out", word, end="", flush=True)
        print("err", word, end="", file=sys.stderr, flush=True)
        with socket.socket(fileno=4) as both:
            both.sendall(b"back " + both.recv(100))
    """
    child = _launch(stack, bare(code), ["pipe", "pipe", "pipe", "ipc", "pipe"])
    assert child.launched.streams[3] is None
    os.write(child.stream(0), b"word\n")
    assert os.read(child.stream(1), 100) == b"out word\n"
    assert os.read(child.stream(2), 100) == b"err word\n"
    with Peer(socket.socket(fileno=child.launched.take_stream(4))) as both:
        both.write_bytes(b"there")
        assert both.read_to_end() == b"back there"
    assert child.wait() == 0
    assert os.read(child.stream(1), 100) == b""


def test_our_ends_are_not_inherited(stack: ExitStack) -> None:
    child = _launch(stack, bare("until_end()"), ["pipe", "pipe", "pipe", "ipc", "pipe"])
    ours = [*child.launched.streams, child.launched.connection.fileno()]
    assert not any(os.get_inheritable(fd) for fd in ours if fd is not None)


def test_child_s_ends_are_closed_here(stack: ExitStack) -> None:
    before = open_fds()
    child = _launch(stack, bare("until_end()"), ["pipe", "pipe", "pipe", "ipc", "pipe"])
    ours = {fd for fd in child.launched.streams if fd is not None}
    ours |= {child.launched.connection.fileno(), child._process.pidfd}
    assert open_fds() - before == ours


def test_descriptors_may_cross(stack: ExitStack) -> None:
    """An entry may name a number that is another entry's place."""
    one, two = (stack.enter_context(socket.socket()).fileno() for _ in range(2))
    places = (0, 1, one, two)
    child = _launch(
        stack,
        bare(f"send([os.fstat(fd).st_ino for fd in {places}])"),
        _stdio({0: two, 1: one, 2: "inherit", 3: "ipc", one: two, two: one}),
    )
    assert child.recv() == [os.fstat(fd).st_ino for fd in (two, one, two, one)]
    # Ours stay as they were.
    assert all(is_open(fd) for fd in (one, two))


def test_several_children_with_crossing_numbers_at_once(stack: ExitStack) -> None:
    children: list[Child] = []
    for index in range(5):
        # Each one's channel lies where our end of an earlier one does.
        stdio = _stdio({4 + 2 * index: "ipc"})
        code = """
            fd = int(os.environ["NODE_CHANNEL_FD"])
            os.write(fd, json.dumps(sys.argv[1]).encode() + b"\\n")
            data = os.read(fd, 100)
            assert os.read(fd, 100) == b""
            os._exit(int(data))
        """
        children.append(_launch(stack, bare(code, str(index)), stdio))
    for index, child in enumerate(children):
        assert child.recv() == str(index)
        child.launched.connection.send(index)
    for index, child in enumerate(children):
        # Its end comes only if no other child has the descriptor as well.
        child.launched.connection.disconnect()
        assert child.wait() == index


@pytest.mark.parametrize("word", ["pipe", "inherit", "ignore", "overlapped"])
def test_word_stands_for_three_streams_and_a_channel(word: str) -> None:
    assert fork_stdio(word, silent=False) == [word, word, word, "ipc"]


def test_silent_counts_only_without_stdio() -> None:
    assert fork_stdio(None, silent=True) == ["pipe", "pipe", "pipe", "ipc"]
    assert fork_stdio(None, silent=False) == ["inherit", "inherit", "inherit", "ipc"]
    assert fork_stdio("ignore", silent=True) == ["ignore", "ignore", "ignore", "ipc"]
    assert fork_stdio(("ipc",), silent=True) == ["ipc", None, None]


@pytest.mark.parametrize(
    ("stdio", "message"),
    [
        ("ipc", "expected one of pipe, inherit, ignore"),
        ("nonsense", "expected one of pipe, inherit, ignore"),
        ([], "ERR_CHILD_PROCESS_IPC_REQUIRED"),
        (["pipe", "pipe", "pipe"], "ERR_CHILD_PROCESS_IPC_REQUIRED"),
        (["ipc", "pipe", "pipe", "ipc"], "ERR_IPC_ONE_PIPE"),
        (["pipe", "nonsense", "pipe", "ipc"], r"stdio\[1\]='nonsense'"),
    ],
)
def test_wrong_stdio_is_named(stack: ExitStack, stdio: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _launch(stack, [], stdio)


@pytest.mark.parametrize("entry", [object(), b"pipe", 1.5])
def test_entry_of_a_wrong_type_is_named(stack: ExitStack, entry: Any) -> None:
    with pytest.raises(TypeError, match=r"stdio\[1\]=.*neither a keyword, a descriptor"):
        _launch(stack, [], ["pipe", entry, "pipe", "ipc"])


@pytest.mark.parametrize(("index", "entry"), [(999, "inherit"), (4, 999), (4, -1)])
def test_descriptor_that_is_not_open_is_named(stack: ExitStack, index: int, entry: Stdio) -> None:
    with pytest.raises(SpawnError, match=rf"stdio\[{index}\]=") as caught:
        _launch(stack, [], _stdio({3: "ipc", index: entry}))
    assert caught.value.errno == errno.EBADF


def test_closed_descriptor_is_refused_although_its_number_is_the_next_to_be_given(
    stack: ExitStack,
) -> None:
    """Or the child would get our end of its own channel."""
    stale = os.dup(2)
    os.close(stale)
    with pytest.raises(SpawnError) as caught:
        _launch(stack, bare("until_end()"), ["ignore", "ignore", stale, "ipc"])
    assert caught.value.errno == errno.EBADF


# -------------------------------------------------------------------------------------- options


def test_command_of_fork_is_program_options_module_arguments() -> None:
    found = fork_command("module.py", ["a", "b"], sys.executable, ["-u", "-O"])
    assert found == (sys.executable, ["-u", "-O", "module.py", "a", "b"])


def test_paths_are_welcome_wherever_a_string_is() -> None:
    found = fork_command(Path("module.py"), [Path("a")], Path("/bin/python"), [Path("b")])  # type: ignore[list-item]
    assert found == ("/bin/python", ["b", "module.py", "a"])


def test_fork_without_a_program_runs_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODECOMPAT_NODE", sys.executable)
    assert fork_command("module.js", (), None, ()) == (sys.executable, ["module.js"])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fork_command(_wrong(b"m"), (), "x", ()), TypeError, "module: expected a string"),
        (lambda: fork_command("m\0", (), "x", ()), ValueError, "module: must not contain null"),
        (
            lambda: fork_command("m", _wrong([1]), "x", ()),
            TypeError,
            r"args\[0\]: expected a string",
        ),
        (lambda: fork_command("m", ["a", "\0"], "x", ()), ValueError, r"args\[1\]: must not"),
        (lambda: fork_command("m", "abc", "x", ()), TypeError, "args: expected a list of strings"),
        (lambda: fork_command("m", _wrong(b"abc"), "x", ()), TypeError, "args: expected a list"),
        (lambda: fork_command("m", (), "x", "-u"), TypeError, "exec_argv: expected a list"),
        (
            lambda: fork_command("m", (), "x", _wrong([None])),
            TypeError,
            r"exec_argv\[0\]: expected",
        ),
    ],
)
def test_wrong_argument_of_fork_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"command": ""}, ValueError, "command: cannot be empty"),
        ({"command": "a\0b"}, ValueError, "command: must not contain null"),
        ({"args": [1]}, TypeError, r"args\[0\]: expected a string"),
        ({"cwd": "a\0b"}, ValueError, "cwd: must not contain null"),
        ({"env": {1: "a"}}, TypeError, "env: expected a string"),
        ({"env": {"A": 1}}, TypeError, r"env\['A'\]: expected a string, not int"),
        ({"env": {"A": "\0"}}, ValueError, r"env\['A'\]: must not contain null"),
        ({"env": {"A=B": "c"}}, ValueError, "env: 'A=B' cannot be the name"),
        ({"env": {"": "c"}}, ValueError, "env: '' cannot be the name"),
        ({"serialization": "binary"}, ValueError, "serialization='binary'"),
        ({"max_message_size": 0}, ValueError, "max_message_size=0"),
        ({"max_queued": 0}, ValueError, "max_queued=0"),
    ],
)
def test_wrong_option_is_named_and_starts_nothing(
    stack: ExitStack, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _launch(stack, changed.pop("args", []), **changed)


@pytest.mark.parametrize("cwd", [None, "/"])
def test_missing_program_leaves_nothing(stack: ExitStack, cwd: str | None) -> None:
    before = open_fds()
    with pytest.raises(ProgramNotFound) as caught:
        _launch(stack, [], ["pipe", "pipe", "pipe", "ipc", "pipe"], command="/nowhere/it", cwd=cwd)
    assert caught.value.filename == "/nowhere/it"
    assert open_fds() == before


ENVIRONMENT = "send(dict(os.environ))"


@pytest.mark.parametrize("cwd", [None, "/"])
def test_given_environment_is_the_whole_one(stack: ExitStack, cwd: str | None) -> None:
    env = {"ONE": "1", "NODE_UNIQUE_ID": "kept", "NODE_CHANNEL_FD": "9", "LC_ALL": "C.UTF-8"}
    child = _launch(stack, bare(ENVIRONMENT), env=env, cwd=cwd)
    assert child.recv() == env | {
        "NODE_CHANNEL_FD": "3",
        "NODE_CHANNEL_SERIALIZATION_MODE": "json",
    }


def test_own_environment_goes_on_without_what_is_ours_alone(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_UNIQUE_ID", "1")
    monkeypatch.setenv("NODE_CHANNEL_FD", "99")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    expected = dict(os.environ) | {
        "NODE_CHANNEL_FD": "3",
        "NODE_CHANNEL_SERIALIZATION_MODE": "json",
    }
    del expected["NODE_UNIQUE_ID"]
    assert _launch(stack, bare(ENVIRONMENT)).recv() == expected
    assert os.environ["NODE_CHANNEL_FD"] == "99"


def test_working_directory_may_be_a_path(stack: ExitStack, tmp_path: Path) -> None:
    assert _launch(stack, bare("send(os.getcwd())"), cwd=tmp_path).recv() == str(tmp_path)


def test_detached_child_has_a_session_of_its_own(stack: ExitStack) -> None:
    child = _launch(stack, bare("send(os.getsid(0)); until_end()"), detached=True)
    assert child.recv() == child.pid != os.getsid(0)


def test_stream_is_taken_once(stack: ExitStack) -> None:
    child = _launch(stack, bare("until_end()"), ["ignore", "pipe", "inherit", "ipc"])
    fd = child.launched.take_stream(1)
    assert fd is not None
    assert child.launched.take_stream(1) is None
    assert child.launched.take_stream(0) is None
    assert child.launched.take_stream(99) is None
    os.close(fd)


def test_abandoned_child_is_gone_with_all_that_was_ours(stack: ExitStack) -> None:
    before = open_fds()
    stdio: list[Stdio] = ["pipe", "pipe", "inherit", "ipc"]
    launched = launch(sys.executable, bare("until_end(); time.sleep(600)"), stdio, **_options())
    launched.abandon()
    assert open_fds() == before
    ended = launched.process.poll()
    assert ended is not None
    assert ended.signal == signal.SIGKILL


# ------------------------------------------------------------------------------ signals, timeouts


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("SIGTERM", signal.SIGTERM),
        ("SIGKILL", signal.SIGKILL),
        (signal.SIGINT, signal.SIGINT),
        (9, 9),
        (0, 0),
        (signal.SIGRTMIN + 1, signal.SIGRTMIN + 1),
    ],
)
def test_signal_by_name_or_number(value: str | int, number: int) -> None:
    assert signal_number(value) == number


@pytest.mark.parametrize("value", ["TERM", "sigterm", "SIGNONSENSE", "SIG_DFL", "", -1, 999, None])
def test_unknown_signal_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=f"{value!r} is not a signal"):
        signal_number(value)


@pytest.mark.parametrize("value", [None, 0, 0.5, 10])
def test_timeout_is_seconds_or_none(value: float | None) -> None:
    check_timeout("timeout", value)


@pytest.mark.parametrize("value", [-1, -0.1, float("nan"), "5"])
def test_wrong_timeout_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"close_timeout=.*expected seconds"):
        check_timeout("close_timeout", value)


# --------------------------------------------------------------------------------- the process


def test_child_says_what_was_started(stack: ExitStack) -> None:
    child = _launch(stack, bare("until_end()"))
    assert child.spawnfile == sys.executable
    assert child.spawnargs == [sys.executable, *bare("until_end()")]
    assert is_open(child._process.pidfd)


def test_running_child_has_no_exit_status(stack: ExitStack) -> None:
    child = _launch(stack, bare("until_end()"))
    assert (child.exit_code, child.signal_code, child.killed) == (None, None, False)
    assert child.kill(0)
    assert not child.killed


@pytest.mark.parametrize("code", [0, 3, 255])
def test_exit_status_is_the_program_s(stack: ExitStack, code: int) -> None:
    child = _launch(stack, bare(f"os._exit({code})"))
    assert child.wait() == code
    assert (child.exit_code, child.signal_code) == (code, None)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGKILL", signal.SIGUSR1])
def test_signal_that_ended_it_is_named(stack: ExitStack, number: str | int) -> None:
    child = _launch(stack, bare("until_end()"))
    assert child.kill(number)
    assert child.killed
    assert child.wait() is None
    assert child.signal_code == (number if isinstance(number, str) else "SIGUSR1")


def test_signal_without_a_name_has_its_number(stack: ExitStack) -> None:
    child = _launch(stack, bare("until_end()"))
    assert child.kill(signal.SIGRTMIN + 3)
    child.wait()
    assert child.signal_code == f"SIG{signal.SIGRTMIN + 3}"


def test_kill_after_the_end_is_false_and_changes_nothing(stack: ExitStack) -> None:
    child = _launch(stack, bare(""))
    pid = child.pid
    assert child.wait() == 0
    assert not child.kill()
    assert not child.kill(0)
    assert not child.killed
    assert child.pid == pid


def test_unknown_signal_is_refused_also_after_the_end(stack: ExitStack) -> None:
    child = _launch(stack, bare(""))
    child.wait()
    with pytest.raises(ValueError, match="'SIGNOTHING' is not a signal"):
        child.kill("SIGNOTHING")


@pytest.mark.parametrize("name", ["exit_code", "signal_code"])
def test_looking_at_the_status_notices_the_end(stack: ExitStack, name: str) -> None:
    child = _launch(stack, bare("os.kill(os.getpid(), signal.SIGKILL)"))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert getattr(child, name) == {"exit_code": None, "signal_code": "SIGKILL"}[name]
