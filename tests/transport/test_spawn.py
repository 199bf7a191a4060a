"""nodecompat.transport.spawn: a process with exactly what it was given, and how it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from nodecompat.errors import ProgramForbidden, ProgramNotFound, SpawnError
from nodecompat.transport.spawn import Exit, Process, spawn_process
from tests.support import BARE_PYTHON, Background, Peer, is_open, until
from tests.support import nothing_left as nothing_left

NOBODY = 65534

# Both ways a process starts: without and with the launcher.
LAUNCHES = [pytest.param(None, id="direct"), pytest.param("/", id="launcher")]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _wait(process: Process) -> Exit:
    """How it ends."""
    until(lambda: process.poll() is not None, f"the end of process {process.pid}")
    process.close()
    ended = process.poll()
    assert ended is not None
    return ended


def _end(process: Process) -> None:
    process.kill(signal.SIGKILL)
    _wait(process)


def _run(
    stack: ExitStack,
    file: str,
    *args: str,
    env: Mapping[str, str] | None = None,
    descriptors: Mapping[int, int] | None = None,
    **options: Any,
) -> tuple[str, Exit]:
    """Run a program to its end: what it wrote to stdout, and how it ended."""
    read, write = os.pipe()
    output = stack.enter_context(os.fdopen(read, "rb"))
    try:
        table = {0: 0, 1: write, 2: 2} | dict(descriptors or {})
        process = spawn_process(file, [file, *args], env or {}, table, **options)
    finally:
        os.close(write)
    stack.callback(_end, process)
    return Background(output.read).result().decode("utf-8", "surrogateescape"), _wait(process)


def _python(stack: ExitStack, code: str, *args: str, **options: Any) -> Any:
    """What a Python program prints as JSON."""
    text, ended = _run(stack, sys.executable, *BARE_PYTHON, code, *args, **options)
    assert ended == Exit(0, None)
    return json.loads(text)


def _script(path: Path, text: str, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return str(path)


# ---------------------------------------------------------------------------------- descriptors

# Those that are open in the new process, beside the one that lists them.
OPEN_FDS = """
import json, os
def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
print(json.dumps([fd for fd in range(1024) if is_open(fd)]))
"""


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_child_has_the_given_descriptors_and_no_other(stack: ExitStack, cwd: str | None) -> None:
    inheritable = stack.enter_context(socket.socket())
    inheritable.set_inheritable(True)
    ours = stack.enter_context(socket.socket())
    fds = _python(stack, OPEN_FDS, descriptors={3: ours.fileno(), 7: 2}, cwd=cwd)
    assert fds == [0, 1, 2, 3, 7]


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_descriptors_may_cross(stack: ExitStack, cwd: str | None) -> None:
    """The child's numbers are ours in another order, whatever ours are."""
    sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
    inodes = {sock.fileno(): os.fstat(sock.fileno()).st_ino for sock in sockets}
    # Onto the very numbers that the sources have here, in a ring, and onto low ones.
    fds = sorted(inodes)
    wanted = dict(zip(fds, [*fds[1:], fds[0]], strict=True)) | {3: fds[2], 4: fds[2]}
    code = (
        "import json, os, sys\n"
        "print(json.dumps({fd: os.fstat(int(fd)).st_ino for fd in sys.argv[1:]}))"
    )
    found = _python(stack, code, *map(str, wanted), descriptors=wanted, cwd=cwd)
    assert found == {str(target): inodes[source] for target, source in wanted.items()}


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_several_children_at_once_get_their_own(stack: ExitStack, cwd: str | None) -> None:
    peers: list[Peer] = []
    processes: list[Process] = []
    for number in range(4):
        near, far = socket.socketpair()
        peers.append(stack.enter_context(Peer(near)))
        code = "import os, sys; os.write(int(sys.argv[1]), sys.argv[2].encode())"
        target = 3 + number
        argv = [sys.executable, *BARE_PYTHON, code, str(target), f"child {number}"]
        with far:
            table = {0: 0, 1: 1, 2: 2, target: far.fileno()}
            processes.append(spawn_process(sys.executable, argv, {}, table, cwd=cwd))
    for number, (peer, process) in enumerate(zip(peers, processes, strict=True)):
        # Its end comes too: nobody else holds the other end open.
        assert peer.read_to_end() == b"child %d" % number
        assert _wait(process) == Exit(0, None)


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_closed_descriptor_is_refused(cwd: str | None) -> None:
    assert not is_open(1000)
    with pytest.raises(SpawnError) as caught:
        spawn_process("/bin/true", ["true"], {}, {0: 0, 3: 1000}, cwd=cwd)
    assert caught.value.errno == errno.EBADF


# ---------------------------------------------------------------------------------- environment


@pytest.mark.parametrize("cwd", LAUNCHES)
@pytest.mark.parametrize(
    "env",
    [
        {},
        {"ONE": "1", "EMPTY": "", "UTF8": "grün", "BYTES": "\udcff", "LINES": "a\nb=c"},
        {"PWD": "/nowhere", "OLDPWD": "/before", "SHLVL": "7", "_": "x"},
        {"LC_CTYPE": "C"},
        {"LC_CTYPE": "POSIX"},
        {"LC_CTYPE": "de_DE.UTF-8", "LANG": "C"},
        {"LC_ALL": "C"},
        {"LANG": "C", "PYTHONHOME": "/nowhere", "PYTHONCOERCECLOCALE": "warn"},
    ],
    ids=lambda env: ",".join(env) or "empty",
)
def test_environment_is_exactly_the_given_one(
    stack: ExitStack, cwd: str | None, env: dict[str, str]
) -> None:
    text, _ = _run(stack, "/bin/cat", "/proc/self/environ", env=env, cwd=cwd)
    assert set(text.split("\0")) - {""} == {f"{name}={value}" for name, value in env.items()}


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_arguments_arrive_as_they_are(stack: ExitStack, cwd: str | None) -> None:
    arguments = ["", "-c", "two words", "grün", "\udcff", "-I", "'\"$HOME"]
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    found = _python(stack, code, *arguments, cwd=cwd, env={"LC_ALL": "C.UTF-8"})
    assert found == arguments


# ------------------------------------------------------------------------------------- programs


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_name_is_looked_for_in_the_path_of_the_environment(
    stack: ExitStack, tmp_path: Path, cwd: str | None
) -> None:
    _script(tmp_path / "b" / "tool", "#!/bin/sh\necho b\n")
    _script(tmp_path / "c" / "tool", "#!/bin/sh\necho c\n")
    env = {"PATH": f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"}
    assert _run(stack, "tool", env=env, cwd=cwd) == ("b\n", Exit(0, None))


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_what_cannot_be_run_is_passed_over_in_the_path(
    stack: ExitStack, tmp_path: Path, cwd: str | None
) -> None:
    _script(tmp_path / "a" / "tool", "#!/bin/sh\necho a\n", 0o644)
    (tmp_path / "b" / "tool").mkdir(parents=True)
    _script(tmp_path / "file", "")
    _script(tmp_path / "c" / "tool", "#!/bin/sh\necho c\n")
    env = {"PATH": f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/file:{tmp_path}/c"}
    assert _run(stack, "tool", env=env, cwd=cwd) == ("c\n", Exit(0, None))


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_found_and_refused_says_more_than_not_found(tmp_path: Path, cwd: str | None) -> None:
    _script(tmp_path / "a" / "tool", "#!/bin/sh\n", 0o644)
    env = {"PATH": f"{tmp_path}/a:{tmp_path}/b"}
    with pytest.raises(ProgramForbidden) as caught:
        spawn_process("tool", ["tool"], env, {0: 0, 1: 1, 2: 2}, cwd=cwd)
    assert caught.value.errno == errno.EACCES
    assert caught.value.filename == "tool"


@pytest.mark.parametrize("env", [{}, {"PATH": ""}], ids=["none", "empty"])
def test_without_a_path_the_default_one_counts(stack: ExitStack, env: dict[str, str]) -> None:
    assert _run(stack, "echo", "there", env=env) == ("there\n", Exit(0, None))


def test_empty_entry_of_the_path_is_the_working_directory(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _script(tmp_path / "tool", "#!/bin/sh\necho here\n")
    assert _run(stack, "tool", env={"PATH": "/nowhere:"}, cwd=str(tmp_path))[0] == "here\n"
    monkeypatch.chdir(tmp_path)
    assert _run(stack, "tool", env={"PATH": ":/nowhere"})[0] == "here\n"


def test_relative_program_is_relative_to_the_new_directory(
    stack: ExitStack, tmp_path: Path
) -> None:
    _script(tmp_path / "bin" / "tool", "#!/bin/sh\necho here\n")
    assert _run(stack, "bin/tool", cwd=str(tmp_path))[0] == "here\n"


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_script_without_an_interpreter_line_goes_to_the_shell(
    stack: ExitStack, tmp_path: Path, cwd: str | None
) -> None:
    script = _script(tmp_path / "script", 'echo "$1 $2"; exit 3\n')
    assert _run(stack, script, "one", "two words", cwd=cwd) == ("one two words\n", Exit(3, None))


@pytest.mark.parametrize("cwd", LAUNCHES)
@pytest.mark.parametrize("file", ["/nowhere/program", "no-such-program"])
def test_missing_program_is_not_found(cwd: str | None, file: str) -> None:
    with pytest.raises(ProgramNotFound, match="ENOENT") as caught:
        spawn_process(file, [file], {}, {0: 0, 1: 1, 2: 2}, cwd=cwd)
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == file
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_missing_interpreter_is_not_found(tmp_path: Path, cwd: str | None) -> None:
    script = _script(tmp_path / "script", "#!/nowhere/interpreter\n")
    with pytest.raises(ProgramNotFound) as caught:
        spawn_process(script, [script], {}, {0: 0, 1: 1, 2: 2}, cwd=cwd)
    assert caught.value.filename == script


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_file_that_is_not_executable_is_forbidden(tmp_path: Path, cwd: str | None) -> None:
    script = _script(tmp_path / "script", "#!/bin/sh\n", 0o644)
    with pytest.raises(ProgramForbidden, match="EACCES") as caught:
        spawn_process(script, [script], {}, {0: 0, 1: 1, 2: 2}, cwd=cwd)
    assert caught.value.filename == script
    assert isinstance(caught.value, PermissionError)


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_directory_is_forbidden(tmp_path: Path, cwd: str | None) -> None:
    with pytest.raises(ProgramForbidden) as caught:
        spawn_process(str(tmp_path), [str(tmp_path)], {}, {0: 0, 1: 1, 2: 2}, cwd=cwd)
    assert caught.value.errno == errno.EACCES
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_other_errors_of_the_system_are_spawn_errors(cwd: str | None) -> None:
    with pytest.raises(SpawnError, match="E2BIG") as caught:
        spawn_process("/bin/true", ["true", "x" * 10_000_000], {}, {0: 0, 1: 1, 2: 2}, cwd=cwd)
    assert caught.value.errno == errno.E2BIG


def test_link_that_leads_to_itself_ends_the_search(tmp_path: Path) -> None:
    (tmp_path / "tool").symlink_to("tool")
    with pytest.raises(SpawnError, match="ELOOP"):
        spawn_process("tool", ["tool"], {"PATH": f"{tmp_path}:/bin"}, {0: 0, 1: 1, 2: 2})


# ------------------------------------------------------------------------- directory, user, group


def test_working_directory(stack: ExitStack, tmp_path: Path) -> None:
    folder = tmp_path / "gr\u00fcn \udcff"
    folder.mkdir()
    code = "import json, os; print(json.dumps(os.getcwd()))"
    assert _python(stack, code, cwd=str(folder), env={"LC_ALL": "C.UTF-8"}) == str(folder)
    assert os.getcwd() != str(folder)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_unusable_working_directory_is_named(tmp_path: Path, kind: str) -> None:
    folder = str(tmp_path / "folder")
    if kind == "file":
        _script(tmp_path / "folder", "")
    with pytest.raises(ProgramNotFound, match=r"cwd='.*folder'") as caught:
        spawn_process("/bin/true", ["true"], {}, {0: 0, 1: 1, 2: 2}, cwd=folder)
    assert caught.value.filename == folder
    assert caught.value.errno == (errno.ENOTDIR if kind == "file" else errno.ENOENT)


def _ids(stack: ExitStack, **options: Any) -> tuple[set[int], set[int], list[int]]:
    """The user and group ids that a process runs with, and its supplementary groups."""
    text, _ = _run(stack, "/bin/cat", "/proc/self/status", **options)
    status = dict(line.split(":", 1) for line in text.splitlines())
    users, groups, more = (
        [int(x) for x in status[name].split()] for name in ("Uid", "Gid", "Groups")
    )
    return set(users), set(groups), more


def test_own_user_and_group_can_be_asked_for(stack: ExitStack) -> None:
    uid, gid = os.getuid(), os.getgid()
    users, groups, _ = _ids(stack, uid=uid, gid=gid)
    assert (users, groups) == ({uid}, {gid})


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"uid": NOBODY, "gid": NOBODY}, ({NOBODY}, {NOBODY}, [NOBODY])),
        ({"uid": NOBODY}, ({NOBODY}, {os.getgid()}, [])),
        ({"gid": NOBODY}, ({os.getuid()}, {NOBODY}, [NOBODY])),
    ],
    ids=["both", "user", "group"],
)
def test_root_becomes_another_user_without_root_s_groups(
    stack: ExitStack, ids: dict[str, int], expected: tuple[set[int], set[int], list[int]]
) -> None:
    assert _ids(stack, **ids) == expected


@pytest.mark.skipif(os.getuid() == 0, reason="root can become anybody")
@pytest.mark.parametrize("option", ["uid", "gid"])
def test_becoming_somebody_else_is_refused(option: str) -> None:
    with pytest.raises(ProgramForbidden, match=f"{option}=0") as caught:
        spawn_process("/bin/true", ["true"], {}, {0: 0, 1: 1, 2: 2}, **{option: 0})  # type: ignore[arg-type]
    assert caught.value.errno == errno.EPERM


@pytest.mark.parametrize("option", ["uid", "gid"])
def test_impossible_id_is_named(option: str) -> None:
    with pytest.raises((SpawnError, ValueError), match=f"{option}=-1"):
        spawn_process("/bin/true", ["true"], {}, {0: 0, 1: 1, 2: 2}, **{option: -1})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["uid", "gid"])
@pytest.mark.parametrize("value", [-2, 2**32, "root"])
def test_id_that_no_system_has_starts_nothing(option: str, value: Any) -> None:
    started: list[Process] = []
    try:
        with pytest.raises((SpawnError, ValueError, TypeError), match=option):
            started.append(
                spawn_process("/bin/true", ["true"], {}, {0: 0, 1: 1, 2: 2}, **{option: value})
            )
    finally:
        for process in started:
            _wait(process)


# --------------------------------------------------------------------------- session and signals


@pytest.mark.parametrize("cwd", LAUNCHES)
@pytest.mark.parametrize("detached", [False, True])
def test_detached_process_leads_a_session_of_its_own(
    stack: ExitStack, cwd: str | None, detached: bool
) -> None:
    code = "import json, os; print(json.dumps([os.getpid(), os.getsid(0), os.getpgrp()]))"
    pid, session, group = _python(stack, code, cwd=cwd, detached=detached)
    ours = (os.getsid(0), os.getpgrp())
    assert (session, group) == ((pid, pid) if detached else ours)


@pytest.mark.parametrize("cwd", LAUNCHES)
def test_signals_that_python_ignores_have_their_default_again(
    stack: ExitStack, cwd: str | None
) -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    text, _ = _run(stack, "/bin/cat", "/proc/self/status", cwd=cwd)
    (ignored,) = (line.split()[1] for line in text.splitlines() if line.startswith("SigIgn:"))
    mask = int(ignored, 16)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        assert not mask & 1 << number - 1


# -------------------------------------------------------------------------------------- the end


def _sleeper(stack: ExitStack) -> Process:
    code = "import time; time.sleep(600)"
    argv = [sys.executable, *BARE_PYTHON, code]
    process = spawn_process(sys.executable, argv, {}, {0: 0, 1: 1, 2: 2})
    stack.callback(_end, process)
    return process


@pytest.mark.parametrize("code", [0, 1, 127, 255])
def test_exit_status(stack: ExitStack, code: int) -> None:
    _, ended = _run(stack, "/bin/sh", "-c", f"exit {code}")
    assert ended == Exit(code, None)


def test_signal_that_ended_it(stack: ExitStack) -> None:
    process = _sleeper(stack)
    assert process.poll() is None
    assert process.kill(signal.SIGINT)
    assert _wait(process) == Exit(None, signal.SIGINT)


def test_no_signal_is_sent_after_the_end(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    process = _sleeper(stack)
    process.kill(signal.SIGKILL)
    _wait(process)

    def kill(*_: int) -> None:
        pytest.fail("the number may be a stranger's by now")

    monkeypatch.setattr(os, "kill", kill)
    assert not process.kill(signal.SIGTERM)
    assert not process.kill(0)


def test_end_that_nobody_looked_at_is_noticed_by_kill(stack: ExitStack) -> None:
    process = _sleeper(stack)
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not process.kill(signal.SIGTERM)
    assert process.poll() == Exit(None, signal.SIGKILL)


def test_many_threads_may_look_and_kill(stack: ExitStack) -> None:
    process = _sleeper(stack)

    def look() -> Exit:
        while True:
            process.kill(signal.SIGKILL)
            ended = process.poll()
            if ended is not None:
                return ended

    threads = [Background(look) for _ in range(8)]
    assert {thread.result() for thread in threads} == {Exit(None, signal.SIGKILL)}


def test_status_that_somebody_else_took_is_reported_as_255(stack: ExitStack) -> None:
    process = _sleeper(stack)
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    with pytest.warns(RuntimeWarning, match=f"process {process.pid} was taken by someone else"):
        assert process.poll() == Exit(255, None)
    assert process.poll() == Exit(255, None)


def test_close_gives_up_the_pidfd_once(stack: ExitStack) -> None:
    process = _sleeper(stack)
    fd = process.pidfd
    assert fd >= 0
    assert not os.get_inheritable(fd)
    process.close()
    assert not is_open(fd)
    process.close()
    assert process.pidfd == -1


def test_system_without_pidfds_has_none(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def pidfd_open(pid: int) -> int:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    assert _sleeper(stack).pidfd == -1
    monkeypatch.delattr(os, "pidfd_open")
    assert _sleeper(stack).pidfd == -1


@pytest.mark.parametrize("file", ["/nowhere/program", "/bin/true"])
@pytest.mark.parametrize("cwd", [None, "/", "/nowhere"])
def test_what_cannot_be_started_leaves_no_zombie(file: str, cwd: str | None) -> None:
    before = psutil.Process().children()
    try:
        process = spawn_process(file, [file], {}, {0: 0, 1: 1, 2: 2}, cwd=cwd)
    except SpawnError:
        assert psutil.Process().children() == before
    else:
        assert _wait(process) == Exit(0, None)


def test_launcher_is_python_that_reads_nothing_of_the_user_s(
    stack: ExitStack, tmp_path: Path
) -> None:
    """Neither the environment nor the new directory can put code into it."""
    _script(tmp_path / "json.py", "raise SystemExit('wrong json')")
    _script(tmp_path / "sitecustomize.py", "raise SystemExit('wrong site')")
    env = {"PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "json.py")}
    text, ended = _run(stack, "/bin/echo", "there", env=env, cwd=str(tmp_path))
    assert (text, ended) == ("there\n", Exit(0, None))
