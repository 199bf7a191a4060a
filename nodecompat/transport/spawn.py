"""Starting a process with a descriptor table of our choice, and seeing how it ends.

``subprocess`` can place descriptors at 0, 1 and 2 only; Node places them at any index.
``posix_spawn`` can, and does it without a fork of this process. What it cannot do (a working
directory, a user, a group) is done by a small launcher, in the new process, before the program.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from nodecompat.errors import SpawnError

__all__ = ["Exit", "Process", "spawn_process"]

# As libuv: a program starts with no signal ignored and none blocked, whatever this process does.
_SIGNALS_TO_RESTORE: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})

# Runs in the new process: sets what posix_spawn cannot, then becomes the program. What fails goes
# to the report descriptor, which closes by itself when the program starts.
_LAUNCHER: Final = """
import json, os, signal, sys
report, spec = int(sys.argv[1]), json.loads(sys.argv[2])
os.set_inheritable(report, False)
stage = "cwd"
try:
    if spec["cwd"] is not None:
        os.chdir(os.fsencode(spec["cwd"]))
    stage = "gid"
    if spec["gid"] is not None:
        if os.geteuid() == 0:
            os.setgroups([spec["gid"]])
        os.setgid(spec["gid"])
    stage = "uid"
    if spec["uid"] is not None:
        if os.geteuid() == 0 and spec["gid"] is None:
            os.setgroups([])
        os.setuid(spec["uid"])
    stage = "program"
    for name in ("SIGPIPE", "SIGXFSZ"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if spec["LC_CTYPE"] is None:
        os.environ.pop("LC_CTYPE", None)
    else:
        os.environ["LC_CTYPE"] = spec["LC_CTYPE"]
    argv = [os.fsencode(argument) for argument in sys.argv[3:]]
    failure = None
    for path in spec["paths"]:
        path = os.fsencode(path)
        try:
            if os.path.isdir(path):
                raise IsADirectoryError(13, "is a directory")
            os.execv(path, argv)
        except OSError as error:
            if error.errno == 8:
                os.execv("/bin/sh", [b"sh", path] + argv[1:])
            if failure is None or error.errno not in (2, 20):
                failure = error
    raise failure
except OSError as error:
    os.write(report, json.dumps([stage, error.errno]).encode())
    os._exit(127)
"""


LAUNCHER_LIMIT: Final = 10.0
"""Seconds that the launcher may take to end after it has said why it failed."""


class Exit(NamedTuple):
    """How a process ended: by a status or by a signal, never both."""

    code: int | None
    signal: int | None


class Process:
    """A child process: one owner of its pid, so that no signal ever reaches a stranger.

    Safe for use from several threads at once. ``close`` gives up the pidfd; the status stays.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exit: Exit | None = None
        self._lock = threading.Lock()
        self._pidfd = -1
        if hasattr(os, "pidfd_open"):
            # Without one (an old kernel, a sandbox) the front ends look at poll() now and then.
            with contextlib.suppress(OSError):
                self._pidfd = os.pidfd_open(pid)

    @property
    def pidfd(self) -> int:
        """A descriptor that is readable from the process's end on; -1 where there is none."""
        return self._pidfd

    def poll(self) -> Exit | None:
        """How the process ended, or None while it runs. Reaps it."""
        with self._lock:
            if self._exit is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:
                    # SIGCHLD is ignored, or somebody else waits for every child.
                    warnings.warn(
                        f"the exit status of process {self.pid} was taken by someone else; "
                        "reporting 255",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    self._exit = Exit(255, None)
                else:
                    if pid == 0:
                        return None
                    if os.WIFSIGNALED(status):
                        self._exit = Exit(None, os.WTERMSIG(status))
                    else:
                        self._exit = Exit(os.waitstatus_to_exitcode(status), None)
            return self._exit

    def kill(self, number: int) -> bool:
        """Send a signal; False when the process has ended."""
        if self.poll() is not None:
            return False
        with self._lock:
            # The process is not reaped while the lock is held: the pid is still its own.
            if self._exit is not None:
                return False
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return False
            return True

    def close(self) -> None:
        """Close the pidfd."""
        with self._lock:
            fd, self._pidfd = self._pidfd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def ended(self) -> bool:
        """Whether the end was seen; unlike ``poll`` it does not look."""
        return self._exit is not None

    def reap(self, limit: float = LAUNCHER_LIMIT) -> None:
        """Wait for the end of a process that was killed, at most so many seconds."""
        deadline = time.monotonic() + limit
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)

    def __del__(self) -> None:
        if self._exit is None and self.poll() is None:
            warnings.warn(
                f"process {self.pid} still runs and nobody waits for it",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            _orphans.append(self.pid)
        self.close()


_orphans: Final[list[int]] = []
"""Processes that nobody waits for; they are reaped when the next one is started."""


def _reap_orphans() -> None:
    for pid in list(_orphans):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _orphans.remove(pid)


def spawn_process(
    file: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    descriptors: Mapping[int, int],
    *,
    cwd: str | None = None,
    uid: int | None = None,
    gid: int | None = None,
    detached: bool = False,
) -> Process:
    """Start ``file`` with exactly the given descriptors: child's number → one of ours.

    A name without a slash is looked for in the PATH of ``env``, as libuv does. ``detached`` makes
    the process the leader of a session of its own. Raises SpawnError; nothing is left behind then.
    """
    _check_id("uid", uid)
    _check_id("gid", gid)
    _reap_orphans()
    paths = _candidates(file, env)
    floor = max(descriptors, default=2) + 1
    copies: list[int] = []
    report_read = report_write = -1
    try:
        actions: list[tuple[int, ...]] = []
        for target, source in descriptors.items():
            # A copy above all targets: else one placement could overwrite the next one's source.
            copies.append(fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, max(floor, 3)))
            actions.append((os.POSIX_SPAWN_DUP2, copies[-1], target))
        if cwd is not None or uid is not None or gid is not None:
            report_read, report_write = os.pipe()
            copies.append(fcntl.fcntl(report_write, fcntl.F_DUPFD_CLOEXEC, floor))
            actions.append((os.POSIX_SPAWN_DUP2, copies[-1], floor))
            # Python itself may set LC_CTYPE when it starts in the C locale.
            locale = env.get("LC_CTYPE")
            spec = json.dumps(
                {"cwd": cwd, "uid": uid, "gid": gid, "paths": paths, "LC_CTYPE": locale}
            )
            argv = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(floor), spec, *argv]
            paths = [sys.executable]
            kept = {*descriptors, floor}
        else:
            kept = set(descriptors)
        actions += [(os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable_fds() if fd not in kept]
        pid = _posix_spawn(file, paths, argv, env, actions, detached)
    except BaseException as error:
        if report_read >= 0:
            os.close(report_read)
        if isinstance(error, OSError) and not isinstance(error, SpawnError):
            raise SpawnError.from_errno(error.errno or 0, file) from error
        raise
    finally:
        for fd in copies:
            os.close(fd)
        if report_write >= 0:
            os.close(report_write)
    process = Process(pid)
    if report_read >= 0:
        _check_launch(process, report_read, file, cwd, uid, gid)
    return process


def _check_id(name: str, value: int | None) -> None:
    if value is None:
        return
    if not isinstance(value, int):
        raise TypeError(f"{name}={value!r}: expected a number")
    # The largest one means "no change" to the system.
    if not 0 <= value < 2**32 - 1:
        raise ValueError(f"{name}={value!r}: no such id is possible")


def _candidates(file: str, env: Mapping[str, str]) -> list[str]:
    if "/" in file:
        return [file]
    path = env.get("PATH") or os.defpath
    return [os.path.join(folder or ".", file) for folder in path.split(":")]


def _inheritable_fds() -> list[int]:
    """Our descriptors above 2 that a new process would get without asking for them."""
    found: list[int] = []
    for name in os.listdir("/dev/fd"):
        fd = int(name)
        # The listing's own descriptor is gone by now, and others may go at any time.
        with contextlib.suppress(OSError):
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
    return found


def _posix_spawn(
    file: str,
    paths: Sequence[str],
    argv: Sequence[str],
    env: Mapping[str, str],
    actions: Sequence[tuple[int, ...]],
    detached: bool,
) -> int:
    def start(path: str, arguments: Sequence[str]) -> int:
        return os.posix_spawn(
            path,
            list(arguments),
            env,
            file_actions=actions,
            setsid=detached,
            setsigmask=(),
            setsigdef=_SIGNALS_TO_RESTORE,
        )

    failure: SpawnError | None = None
    for path in paths:
        if os.path.isdir(path):
            failure = SpawnError.from_errno(errno.EACCES, file, f"{path} is a directory")
            continue
        try:
            return start(path, argv)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                # execvp gives a script without a "#!" line to the shell; so does libuv.
                return start("/bin/sh", ["sh", path, *argv[1:]])
            number = error.errno or 0
            # As execvp: what was found and refused says more than what was not found.
            if failure is None or number not in (errno.ENOENT, errno.ENOTDIR):
                failure = SpawnError.from_errno(number, file)
            if number not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                break
    assert failure is not None
    raise failure


def _check_launch(
    process: Process, report: int, file: str, cwd: str | None, uid: int | None, gid: int | None
) -> None:
    """Read what the launcher says: nothing when the program started."""
    with open(report, "rb") as stream:
        text = stream.read()
    if not text:
        return
    stage, number = json.loads(text)
    process.reap(LAUNCHER_LIMIT)
    process.close()
    detail = {"cwd": f"cwd={cwd!r}", "uid": f"uid={uid}", "gid": f"gid={gid}", "program": ""}
    raise SpawnError.from_errno(number, cwd if stage == "cwd" and cwd else file, detail[stage])
