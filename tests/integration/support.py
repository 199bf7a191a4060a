"""What the integration tests share: running programs, and one face for both kinds of parent."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, cast

import psutil
import pytest

import nodecompat
import nodecompat.asyncio
import nodecompat.sync
from nodecompat.asyncio import Child

HERE = Path(__file__).parent
CHILDREN = HERE / "children"
PARENTS = HERE / "parents"

# Below the limit of pytest-timeout: this one says what the processes printed so far.
LIMIT = 50.0

MiB = 2**20


def environment() -> dict[str, str]:
    """This process's environment, with the nodecompat that is tested also for Python children."""
    unwanted = ("NODE_OPTIONS", "NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE")
    kept = {name: value for name, value in os.environ.items() if name not in unwanted}
    package = Path(nodecompat.__file__).parent.parent
    return {**kept, "PYTHONPATH": os.pathsep.join([str(package), kept.get("PYTHONPATH", "")])}


# ------------------------------------------------------------------------------- Node is the parent


class Seen(NamedTuple):
    """What a Node program and a Python program printed as JSON, and how the first one ended."""

    node: Any
    python: Any
    lines: list[Any]
    returncode: int
    stderr: str


def run(*command: str | Path, stderr: bool = False) -> Seen:
    """Run a program and all that it starts to the end; no process of it may be left then.

    Nothing may be on stderr, a ResourceWarning of Python's neither, unless `stderr` says otherwise:
    a program that ends without a word has not closed its channel.
    """
    arguments = [str(each) for each in command]
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        # A group of their own: so that all can be ended, and a forgotten one be found.
        start_new_session=True,
    )
    try:
        printed, complaints = process.communicate(timeout=LIMIT)
        left = _left_in_group(process.pid)
    except subprocess.TimeoutExpired:
        _end_group(process)
        printed, complaints = process.communicate()
        pytest.fail(
            f"not over after {LIMIT} s: {arguments}\nstdout:\n{printed}\nstderr:\n{complaints}",
            pytrace=False,
        )
    finally:
        _end_group(process)
    assert not left, f"still running: {left}\n{complaints}"
    if not stderr:
        assert complaints == ""
    lines = [json.loads(line) for line in printed.splitlines()]
    said: dict[str, Any] = {"node": None, "python": None}
    for line in lines:
        said |= line
    return Seen(said["node"], said["python"], lines, process.returncode, complaints)


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _left_in_group(group: int) -> list[str]:
    """The processes of a group whose leader has ended, once they had a moment to end as well."""
    deadline = time.monotonic() + 5
    while True:
        left: list[str] = []
        for each in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(each.pid) == group and each.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(each.cmdline()))
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def options(**given: Any) -> str:
    """The options of js-fixtures/record.cjs."""
    return json.dumps(given)


ENDED = {"error": None, "connected": False, "fd": -1, "send": "ChannelClosed"}
"""What record.py says of a channel that came to an ordinary end, besides its messages."""


class Way:
    """One of the three ways in for a Python child: its programs under ``children``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def command(self, program: str, *arguments: str | Path) -> list[str]:
        """The command line of one of its programs."""
        folder = "asyncio" if self.name == "uvloop" else self.name
        first = [str(CHILDREN / "on_uvloop.py")] if self.name == "uvloop" else []
        path = CHILDREN / folder / program
        return [
            sys.executable,
            "-W",
            "always::ResourceWarning",
            *first,
            str(path),
            *map(str, arguments),
        ]


# ----------------------------------------------------------------------------- Python is the parent


class Parent(Protocol):
    """A kind of parent: a test is written once, as a coroutine, and run by each of them."""

    name: str

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        """Run a test to its end."""

    def fork(
        self, module: str | Path, args: list[str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Child]:
        """As ``nodecompat.asyncio.fork``."""
        ...

    def spawn(
        self, command: str | Path, args: list[str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Child]:
        """As ``nodecompat.asyncio.spawn``."""
        ...

    async def at_once(self, *parts: Coroutine[Any, Any, None]) -> None:
        """Run coroutines side by side."""


class AsyncioParent:
    """``nodecompat.asyncio``, on the loop of the standard library or on uvloop."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, scenario: Coroutine[Any, Any, None], limit: float = LIMIT) -> None:
        async def limited() -> None:
            async with asyncio.timeout(limit):
                await scenario
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not others, "the channel left tasks"

        make_loop = None
        if self.name == "uvloop":
            make_loop = pytest.importorskip("uvloop").new_event_loop
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(limited())

    def fork(
        self, module: str | Path, args: list[str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Child]:
        return nodecompat.asyncio.fork(module, args or [], **{"env": environment(), **options})

    def spawn(
        self, command: str | Path, args: list[str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Child]:
        return nodecompat.asyncio.spawn(command, args or [], **{"env": environment(), **options})

    async def at_once(self, *parts: Coroutine[Any, Any, None]) -> None:
        await asyncio.gather(*parts)


class SyncParent:
    """``nodecompat.sync``, behind coroutines that never wait: each blocks until it is done."""

    name = "sync"

    def run(self, scenario: Coroutine[Any, Any, None]) -> None:
        _finish(scenario)

    def fork(
        self, module: str | Path, args: list[str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Child]:
        options = {"env": environment(), **options}
        return _blocking(lambda: nodecompat.sync.fork(module, args or [], **options))

    def spawn(
        self, command: str | Path, args: list[str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[Child]:
        options = {"env": environment(), **options}
        return _blocking(lambda: nodecompat.sync.spawn(command, args or [], **options))

    async def at_once(self, *parts: Coroutine[Any, Any, None]) -> None:
        with ThreadPoolExecutor() as threads:
            for done in [threads.submit(_finish, part) for part in parts]:
                done.result()


def _finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("waited for an event loop")


@contextlib.asynccontextmanager
async def _blocking(start: Any) -> AsyncIterator[Child]:
    with start() as child:
        yield cast(Child, _Blocking(child))


class _Blocking:
    """A sync child with the methods of an asyncio one."""

    _WAITING = frozenset({"send", "send_many", "recv", "recv_with_handle", "wait", "disconnect"})

    def __init__(self, child: nodecompat.sync.Child) -> None:
        self._child = child

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._child, name)
        if name not in self._WAITING:
            return member

        async def call(*arguments: Any, **options: Any) -> Any:
            return member(*arguments, **options)

        return call

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._child)
        except StopIteration:
            raise StopAsyncIteration from None


async def read(stream: Any, size: int = -1) -> bytes:
    """Read from a child's stdout or stderr: its end, or `size` bytes."""
    got: bytes | Awaitable[bytes] = stream.read(size) if size < 0 else _exactly(stream, size)
    return await got if inspect.isawaitable(got) else got


def _exactly(stream: Any, size: int) -> Any:
    return stream.readexactly(size) if hasattr(stream, "readexactly") else stream.read(size)


# ------------------------------------------------------------------------------------------- values


def base64_of(*writes: bytes) -> list[str]:
    """Bytes as the arguments of the JavaScript programs that write them."""
    return [base64.b64encode(each).decode() for each in writes]


def nested(depth: int) -> Any:
    """Arrays and objects by turns, as in js-fixtures/values.cjs."""
    value: Any = [] if depth % 2 else {"end": True}
    for level in range(1, depth):
        value = [value] if level % 2 else {"a": value}
    return value


def depth_of(value: Any) -> int:
    """How deep such a value is; Python's own comparison would go too deep for its stack."""
    depth = 0
    while isinstance(value, (list, dict)):
        depth += 1
        value = (value[0] if value else None) if isinstance(value, list) else value.get("a")
    return depth


def major(node: str) -> int:
    """The major version of a Node."""
    done = subprocess.run([node, "--version"], capture_output=True, text=True, check=True)
    return int(done.stdout.lstrip("v").split(".")[0])


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, with the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)
