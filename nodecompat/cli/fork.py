"""``nodecompat fork``: a channel for the shell, JSON lines in and JSON lines out."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, TypeVar

import click

from nodecompat import asyncio as ipc
from nodecompat.errors import (
    ChannelClosed,
    MessageError,
    MessageTooLarge,
    NodeNotFound,
    ProgramNotFound,
    ProtocolError,
    SpawnError,
)
from nodecompat.protocol import json_codec

__all__ = ["fork"]

_LINGER: Final = 1.0
_LINGER_FIRST: Final = 10.0
_GRACE: Final = 5.0
_LAST_WORDS: Final = 1.0
_CHUNK: Final = 65536

_T = TypeVar("_T")


@click.command(context_settings={"allow_interspersed_args": False})
@click.option(
    "--serialization",
    type=click.Choice(["json", "advanced"]),
    default="json",
    show_default=True,
    help="What the channel carries. stdin and stdout are JSON either way.",
)
@click.option(
    "--exec-path",
    metavar="PATH",
    help="What runs PROGRAM. Default: Node, and this Python for a .py program.",
)
@click.option(
    "--linger",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to wait for another message once stdin has ended; inf for as long as the child "
    f"wants. Default: {_LINGER:g}, and {_LINGER_FIRST:g} as long as the child sent nothing at all.",
)
@click.argument("program")
@click.argument("arguments", metavar="[ARG]...", nargs=-1, type=click.UNPROCESSED)
def fork(
    program: str,
    arguments: tuple[str, ...],
    serialization: str,
    exec_path: str | None,
    linger: float | None,
) -> int:
    """Start PROGRAM with an IPC channel.

    Each line of JSON on stdin becomes a message, each message a line of JSON on stdout. What the
    child itself writes, on its stdout too, goes to stderr. All that follows PROGRAM is the
    child's: the options of this command come before it.

    \b
        echo '{"a": 1}' | nodecompat fork worker.js

    A channel has no half-closed state, so the end of stdin does not disconnect at once: answers
    could not arrive any more. It disconnects when no message came for the --linger time, and
    then waits for the child to end. When the child disconnects or ends earlier, what is left of
    stdin is not sent.

    A line that is not JSON is named on stderr and left out, the rest is sent. Empty lines are
    left out too. SIGINT and SIGTERM are passed on to the child; the second one, or a child that
    is still there 5 seconds later, makes it SIGKILL.

    Exit status: the child's; 128+N when signal N ended it; 1 when that would be 0 but a line or a
    message was left out, or when the child wrote to the channel what is no message; 126 or 127
    when PROGRAM could not be started; 141 when nobody reads stdout any more.
    """
    if linger is not None and math.isnan(linger):
        raise click.BadParameter("nan is not a time.", param_hint="'--linger'")
    if sys.stdout is None:
        raise click.ClickException("stdout is closed: there is nowhere to print messages to.")
    if exec_path is None and program.endswith(".py"):
        exec_path = sys.executable
    session = _Session(_LINGER if linger is None else linger, linger)
    return asyncio.run(session.run(program, arguments, serialization, exec_path))


def _complain(text: str) -> None:
    if sys.stderr is not None:
        _write(sys.stderr.fileno(), f"nodecompat fork: {text}\n".encode(errors="backslashreplace"))


def _signal_number(name: str) -> int:
    try:
        return signal.Signals[name]
    except KeyError:
        # A real-time signal has no name of its own: SIG40.
        return int(name.removeprefix("SIG"))


class _Session:
    """One child, from its start to the exit status."""

    def __init__(self, linger: float, linger_first: float | None) -> None:
        self._linger = linger
        self._linger_first = _LINGER_FIRST if linger_first is None else linger_first
        self._signals: asyncio.Queue[str] = asyncio.Queue()
        self._arrived = asyncio.Event()
        self._any_arrived = False
        self._printing = False
        self._left_out = False
        self._status: int | None = None

    async def run(
        self, program: str, arguments: tuple[str, ...], serialization: str, exec_path: str | None
    ) -> int:
        with self._caught_signals():
            try:
                child = await ipc.fork(
                    program,
                    arguments,
                    exec_path=exec_path,
                    serialization=serialization,
                    stdio=["ignore", 2, 2, "ipc"],
                )
            except (NodeNotFound, ProgramNotFound) as error:
                _complain(str(error))
                return 127
            except SpawnError as error:
                _complain(str(error))
                return 126
            except ValueError as error:
                _complain(str(error))
                return 2
            async with child:
                await self._converse(child)
                return self._exit_status(child)

    def _exit_status(self, child: ipc.Child) -> int:
        if self._status is not None:
            return self._status
        if child.signal_code is not None:
            return 128 + _signal_number(child.signal_code)
        return child.exit_code or (1 if self._left_out else 0)

    async def _converse(self, child: ipc.Child) -> None:
        async with asyncio.TaskGroup() as group:
            printer = group.create_task(self._print_messages(child))
            feeder = group.create_task(self._feed(child))
            ender = group.create_task(self._end_when_told(child, printer))
            await asyncio.wait((printer,))
            feeder.cancel()
            await child.wait()
            ender.cancel()

    # ------------------------------------------------------------------ messages to stdout

    async def _print_messages(self, child: ipc.Child) -> None:
        call = _DaemonThread()
        try:
            async for message in child:
                line = self._line(message)
                self._printing = True
                try:
                    await call(functools.partial(_write, sys.stdout.fileno(), line))
                except OSError as error:
                    if not isinstance(error, BrokenPipeError):
                        _complain(f"stdout cannot be written: {error}")
                    self._give_up(141 if isinstance(error, BrokenPipeError) else 1)
                    return
                self._printing = False
                self._any_arrived = True
                self._arrived.set()
        except (ProtocolError, MessageTooLarge) as error:
            _complain(str(error))
            self._give_up(1)

    def _line(self, message: Any) -> bytes:
        try:
            return json_codec.encode(message)
        except MessageError as error:
            self._left_out = True
            _complain(f"a message that JSON cannot carry is not printed: {error}")
            return b""

    def _give_up(self, status: int) -> None:
        self._status = status
        self._signals.put_nowait("SIGTERM")

    # ------------------------------------------------------------------ stdin to messages

    async def _feed(self, child: ipc.Child) -> None:
        number = 0
        try:
            async for line in _stdin_lines():
                number += 1
                if not line.strip():
                    continue
                try:
                    message = _parse(line)
                except ValueError as error:
                    self._leave_out(number, error)
                    continue
                try:
                    await child.send(message)
                except (MessageError, MessageTooLarge) as error:
                    self._leave_out(number, error)
                except ChannelClosed as error:
                    _complain(f"line {number} of stdin and what follows are not sent: {error}")
                    return
        except OSError as error:
            self._left_out = True
            _complain(f"stdin cannot be read after line {number}: {error}")
        await self._wait_for_silence()
        if child.connected:
            await child.disconnect()

    def _leave_out(self, number: int, error: ValueError) -> None:
        self._left_out = True
        _complain(f"line {number} of stdin is not sent: {error}")

    async def _wait_for_silence(self) -> None:
        while True:
            self._arrived.clear()
            limit = self._linger if self._any_arrived else self._linger_first
            try:
                async with asyncio.timeout(None if math.isinf(limit) else limit):
                    await self._arrived.wait()
            except TimeoutError:
                # While a slow reader of stdout keeps us, messages may wait behind the one in hand.
                if not self._printing:
                    return
                await self._arrived.wait()

    # ------------------------------------------------------------------ signals

    async def _end_when_told(self, child: ipc.Child, printer: asyncio.Task[None]) -> None:
        child.kill(await self._signals.get())
        exited = asyncio.create_task(child.wait())
        again = asyncio.create_task(self._signals.get())
        try:
            await asyncio.wait((exited, again), timeout=_GRACE, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                child.kill("SIGKILL")
            await exited
            # What the child said last is printed, unless nobody reads it.
            await asyncio.wait((printer,), timeout=_LAST_WORDS)
            printer.cancel()
        finally:
            exited.cancel()
            again.cancel()

    @contextlib.contextmanager
    def _caught_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        # signal.signal and not loop.add_signal_handler, which Windows does not have.
        def caught(number: int, _frame: object) -> None:
            loop.call_soon_threadsafe(self._signals.put_nowait, signal.Signals(number).name)

        before = {
            number: signal.signal(number, caught) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# ---------------------------------------------------------------------- stdin and stdout


class _DaemonThread:
    """Makes blocking calls on a thread of its own, which the end of the program does not wait for.

    The threads of an executor are waited for, and one that reads a terminal may never return.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    def __call__(self, function: Callable[[], _T]) -> asyncio.Future[_T]:
        future: asyncio.Future[_T] = self._loop.create_future()
        self._calls.put((function, future))
        return future

    def _work(self) -> None:
        while True:
            function, future = self._calls.get()
            result: Any = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                # The loop is closed: the program is ending and nobody waits for this.
                return


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


# Descriptors, not sys.stdin.buffer and sys.stdout.buffer: a thread that waits inside one of those
# holds its lock, and the interpreter cannot end then.


# They may be non-blocking all the same: the flag belongs to all who hold a pipe, and a Node that
# has it as its stdout sets it (with `2>&1` the child has ours).


def _write(fd: int, data: bytes) -> None:
    with memoryview(data) as view:
        at = 0
        while at < len(view):
            try:
                at += os.write(fd, view[at:])
            except BlockingIOError:
                select.select((), (fd,), ())


def _read(fd: int) -> bytes:
    while True:
        try:
            return os.read(fd, _CHUNK)
        except BlockingIOError:
            select.select((fd,), (), ())


async def _stdin_lines() -> AsyncIterator[bytes]:
    # Python has no sys.stdin when descriptor 0 was closed: it may be anything's by now.
    stdin: Any = sys.stdin
    if stdin is None:
        return
    call = _DaemonThread()
    parts: list[bytes] = []
    while chunk := await call(functools.partial(_read, stdin.fileno())):
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            parts.append(line)
            yield b"".join(parts)
            parts.clear()
        parts.append(rest)
    if last := b"".join(parts):
        yield last


def _parse(line: bytes) -> Any:
    # The codec reads bytes that are no UTF-8 as Node does, as U+FFFD: here they are a mistake.
    line.decode()
    try:
        return json_codec.decode(line)
    except ProtocolError as error:
        raise ValueError(str(error).removeprefix("the peer sent ")) from None
