"""Starting a child with a channel: everything that ``sync`` and ``asyncio`` do alike.

Follows ``fork`` and ``spawn`` in Node's ``child_process`` and ``getValidStdio`` in its
``internal/child_process``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, Final, Protocol

from nodecompat.connection import Connection
from nodecompat.environment import CHANNEL_FD, SERIALIZATION_MODE, UNIQUE_ID
from nodecompat.errors import SpawnError
from nodecompat.node import find_node
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.transport.spawn import Process, spawn_process
from nodecompat.transport.unix import UnixTransport, channel_pair

__all__ = [
    "ChildProcess",
    "HasFileno",
    "Launched",
    "Stdio",
    "StrPath",
    "check_timeout",
    "fork_command",
    "fork_stdio",
    "launch",
    "signal_number",
]

StrPath = str | os.PathLike[str]


class HasFileno(Protocol):
    """Anything with a descriptor: a file, a socket, a pipe."""

    def fileno(self) -> int: ...


Stdio = str | int | HasFileno | IO[Any] | None
"""An entry of ``stdio``: ``pipe``, ``inherit``, ``ignore``, ``ipc``, a descriptor, a file, None."""

ABANDON_LIMIT: Final = 5.0
"""Seconds that a child which is killed at its start may take to end."""

_SHORTHANDS: Final = ("pipe", "inherit", "ignore", "overlapped")


def fork_command(
    module: StrPath,
    args: Iterable[str],
    exec_path: StrPath | None,
    exec_argv: Iterable[str],
) -> tuple[str, list[str]]:
    """The program and arguments of ``fork``: ``exec_path *exec_argv module *args``."""
    program = os.fspath(exec_path) if exec_path is not None else find_node().path
    return program, [
        *_strings("exec_argv", exec_argv),
        _string("module", os.fspath(module)),
        *_strings("args", args),
    ]


def fork_stdio(stdio: str | Sequence[Stdio] | None, silent: bool) -> list[Stdio]:
    """The stdio list of ``fork``; ``silent`` counts only where ``stdio`` is not given."""
    if stdio is None:
        stdio = "pipe" if silent else "inherit"
    return _stdio_list(stdio)


def _stdio_list(stdio: str | Sequence[Stdio]) -> list[Stdio]:
    """A stdio list with the channel in it, and at least three entries."""
    if isinstance(stdio, str):
        if stdio not in _SHORTHANDS:
            raise ValueError(
                f"stdio={stdio!r}: expected one of {', '.join(_SHORTHANDS)}, or a list"
            )
        return [stdio, stdio, stdio, "ipc"]
    entries = list(stdio)
    channels = sum(1 for entry in entries if isinstance(entry, str) and entry == "ipc")
    if channels == 0:
        raise ValueError(
            f"stdio={entries!r}: needs an 'ipc' entry (ERR_CHILD_PROCESS_IPC_REQUIRED)"
        )
    if channels > 1:
        raise ValueError(f"stdio={entries!r}: a child can have one 'ipc' entry (ERR_IPC_ONE_PIPE)")
    while len(entries) < 3:
        entries.append(None)
    return entries


def signal_number(value: str | int) -> int:
    """The number of a signal given by name (``SIGTERM``) or number; ValueError for any other."""
    try:
        if isinstance(value, str):
            return signal.Signals[value].value
        # Real-time signals have numbers between the two that have names.
        if value == 0 or value in signal.valid_signals():
            return int(value)
        raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"{value!r} is not a signal") from None


def check_timeout(name: str, value: float | None) -> None:
    """Raise for what is not a number of seconds from 0 on, or None."""
    if value is not None and not (isinstance(value, (int, float)) and value >= 0):
        raise ValueError(f"{name}={value!r}: expected seconds, 0 or more, or None")


def _string(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a string, not {type(value).__name__} ({value!r})")
    if "\0" in value:
        raise ValueError(f"{name}: must not contain null bytes: {value!r}")
    return value


def _strings(name: str, values: Iterable[object]) -> list[str]:
    if isinstance(values, (str, bytes)):
        raise TypeError(f"{name}: expected a list of strings, not {values!r}")
    return [
        _string(f"{name}[{index}]", os.fspath(value) if isinstance(value, os.PathLike) else value)
        for index, value in enumerate(values)
    ]


def _environment(env: Mapping[str, str] | None, fd: int, serialization: str) -> dict[str, str]:
    if env is None:
        result = dict(os.environ)
        # Ours, if we are a child as well: another process must not take them for its own.
        result.pop(UNIQUE_ID, None)
    else:
        result = {}
        for key, value in env.items():
            name = _string("env", key)
            if not name or "=" in name:
                raise ValueError(f"env: {name!r} cannot be the name of a variable")
            result[name] = _string(f"env[{key!r}]", value)
    result[CHANNEL_FD] = str(fd)
    result[SERIALIZATION_MODE] = serialization
    return result


class Launched:
    """A child that was just started: its process, the connection to it, our ends of its pipes.

    ``streams[i]`` is our descriptor for stdio entry ``i`` where that is a pipe, else None.
    """

    def __init__(
        self,
        process: Process,
        connection: Connection,
        streams: list[int | None],
        arguments: list[str],
    ) -> None:
        self.process = process
        self.connection = connection
        self.streams = streams
        self.arguments = arguments

    def take_stream(self, index: int) -> int | None:
        """Our descriptor for a stdio entry; the caller owns it from here on."""
        if index >= len(self.streams):
            return None
        fd, self.streams[index] = self.streams[index], None
        return fd

    def abandon(self) -> None:
        """End the child at once and close everything: nobody will ever hold it."""
        self.process.kill(signal.SIGKILL)
        self.process.reap(ABANDON_LIMIT)
        self.process.close()
        self.connection.abort()
        for index in range(len(self.streams)):
            fd = self.take_stream(index)
            if fd is not None:
                os.close(fd)


def launch(
    command: StrPath,
    args: Iterable[str],
    stdio: str | Sequence[Stdio],
    *,
    cwd: StrPath | None,
    env: Mapping[str, str] | None,
    serialization: str,
    detached: bool,
    uid: int | None,
    gid: int | None,
    max_message_size: int,
    max_queued: int,
) -> Launched:
    """Start ``command`` with a channel at the ``ipc`` entry of ``stdio``.

    Raises SpawnError when it cannot be started, ValueError and TypeError for wrong options; no
    descriptor and no process is left behind then.
    """
    program = _string("command", os.fspath(command))
    if not program:
        raise ValueError("command: cannot be empty")
    arguments = [program, *_strings("args", args)]
    folder = None if cwd is None else _string("cwd", os.fspath(cwd))
    entries = _stdio_list(stdio)
    channel_index = next(i for i, entry in enumerate(entries) if _entry_kind(i, entry) == "ipc")
    environment = _environment(env, channel_index, serialization)
    protocol = ChannelProtocol(serialization, max_message_size=max_message_size)
    ours: list[int | None] = []
    # Looked at before any descriptor is made, which could get the number of a closed one.
    existing = {
        index: _existing_fd(index, entry)
        for index, entry in enumerate(entries)
        if _entry_kind(index, entry) in ("inherit", "fd")
    }
    with contextlib.ExitStack() as theirs, contextlib.ExitStack() as on_failure:
        descriptors: dict[int, int] = {}
        near, far = channel_pair()
        theirs.callback(far.close)
        on_failure.callback(near.close)
        connection = Connection(UnixTransport(near), protocol, max_queued=max_queued)
        for index, entry in enumerate(entries):
            our_fd: int | None = None
            kind = _entry_kind(index, entry)
            if kind == "ipc":
                descriptors[index] = far.fileno()
            elif kind == "pipe":
                our_fd, their_fd = _pipe(index)
                on_failure.callback(os.close, our_fd)
                theirs.callback(os.close, their_fd)
                descriptors[index] = their_fd
            elif kind == "ignore":
                if index < 3:
                    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                    theirs.callback(os.close, null)
                    descriptors[index] = null
            else:
                descriptors[index] = existing[index]
            ours.append(our_fd)
        process = spawn_process(
            program,
            arguments,
            environment,
            descriptors,
            cwd=folder,
            uid=uid,
            gid=gid,
            detached=detached,
        )
        on_failure.pop_all()
        return Launched(process, connection, ours, arguments)


def _entry_kind(index: int, entry: Stdio) -> str:
    if entry is None:
        return "pipe" if index < 3 else "ignore"
    if isinstance(entry, str):
        if entry == "overlapped":
            return "pipe"
        if entry not in ("pipe", "inherit", "ignore", "ipc"):
            raise ValueError(
                f"stdio[{index}]={entry!r}: expected 'pipe', 'inherit', 'ignore', 'ipc', "
                "a descriptor, or a file object"
            )
        return entry
    return "fd"


def _pipe(index: int) -> tuple[int, int]:
    """Our end and the child's end: one-way for the standard streams, two-way above them."""
    if index < 3:
        read, write = os.pipe()
        return (write, read) if index == 0 else (read, write)
    near, far = socket.socketpair()
    return near.detach(), far.detach()


def _existing_fd(index: int, entry: Stdio) -> int:
    where = f"stdio[{index}]={entry!r}"
    if isinstance(entry, str):
        fd = index
    elif isinstance(entry, int):
        fd = entry
    elif entry is not None and hasattr(entry, "fileno"):
        fd = entry.fileno()
    else:
        raise TypeError(f"{where}: neither a keyword, a descriptor, nor an object with fileno()")
    try:
        os.fstat(fd)
    except OSError as error:
        raise SpawnError.from_errno(error.errno or 0, "", f"{where}: descriptor {fd}") from None
    return fd


class ChildProcess:
    """What a child is besides a channel, in both flavours: a process that ends.

    Follows Node's ``ChildProcess``.
    """

    _process: Process
    _kill_signal: int

    def __init__(self, launched: Launched, kill_signal: int) -> None:
        self._process = launched.process
        self._kill_signal = kill_signal
        self.spawnargs = launched.arguments
        self.spawnfile = launched.arguments[0]
        self.killed = False
        """Whether ``kill`` sent a signal successfully; the child may still run."""

    @property
    def pid(self) -> int:
        """The child's process id; it stays after the end."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit status, None while the child runs and when a signal ended it."""
        ended = self._process.poll()
        return None if ended is None else ended.code

    @property
    def signal_code(self) -> str | None:
        """The name of the signal that ended the child (``SIGKILL``), else None."""
        ended = self._process.poll()
        if ended is None or ended.signal is None:
            return None
        try:
            return signal.Signals(ended.signal).name
        except ValueError:
            return f"SIG{ended.signal}"

    def kill(self, signal: str | int = "SIGTERM") -> bool:
        """Send a signal, by name or number; False when the child has already ended.

        Raises ValueError for an unknown signal, PermissionError when it may not be sent. Signal 0
        only asks whether the child is there. Follows ``subprocess.kill()`` in Node.
        """
        number = signal_number(signal)
        if not self._process.kill(number):
            return False
        if number != 0:
            self.killed = True
        return True
