"""The V8 codec and a real Node, on a channel of Node's own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from nodecompat.protocol.js_types import BigInt, Float16Array, JSError, undefined
from nodecompat.protocol.v8_codec import LARGE_BUFFER, decode, encode
from tests.v8_cases import CASES, Case, same
from tests.v8_strategies import values

_LIMIT = 30.0


class _Node:
    """A Node that runs v8-check.cjs, and this end of its channel."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.process = process
        self.channel = channel
        self.stream = channel.makefile("rb")

    def send(self, message: Any, version: int = 13) -> None:
        """Send a message, as encode makes it."""
        frame = encode(message, version=version)
        parts = [frame] if isinstance(frame, bytes) else frame
        self.channel.sendall(sum(map(len, parts)).to_bytes(4, "big"))
        for part in parts:
            self.channel.sendall(part)

    def receive(self) -> Any:
        """The next message; raises EOFError when Node has ended."""
        header = self.stream.read(4)
        if not header:
            raise EOFError
        return decode(self.stream.read(int.from_bytes(header, "big")))

    def ask(self, *message: Any, version: int = 13) -> Any:
        """What comes back of a value; fails when Node found it wrong."""
        self.send([*message], version)
        id, problem, value = self.receive()
        assert problem is None, f"{id}: {problem}"
        return value


@contextlib.contextmanager
def _running(node: str, fixtures_dir: Path) -> Iterator[_Node]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(_LIMIT)
        environment = {
            **os.environ,
            "NODE_CHANNEL_FD": str(theirs.fileno()),
            "NODE_CHANNEL_SERIALIZATION_MODE": "advanced",
        }
        with subprocess.Popen(
            [node, "--no-warnings", str(fixtures_dir / "v8-check.cjs")],
            env=environment,
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
        ) as process:
            theirs.close()
            running = _Node(process, ours)
            try:
                yield running
            finally:
                running.stream.close()
                # Node ends when its channel does.
                ours.close()
                process.kill()


@pytest.fixture
def major(node: str) -> int:
    """The number of the Node that is tested."""
    printed = subprocess.check_output([node, "--version"], text=True)
    return int(printed[1:].partition(".")[0])


def _header(major: int) -> list[int]:
    """The versions of the format that a Node reads."""
    return [13, 14, 15] if major >= 18 else [13]


def test_node_finds_equal_what_we_write(node: str, major: int, fixtures_dir: Path) -> None:
    with _running(node, fixtures_dir) as running:
        for version in _header(major):
            for case in _cases(lambda case: case.since <= major and not case.one_way):
                running.ask(case.id, case.js, case.check, case.make(), version=version)


def test_we_read_what_node_writes(node: str, major: int, fixtures_dir: Path) -> None:
    with _running(node, fixtures_dir) as running:
        for case in _cases(lambda case: case.sent_since <= major):
            assert same(running.ask(case.id, case.js), case.make()), case.id


def test_what_node_sends_back_is_what_we_sent(node: str, major: int, fixtures_dir: Path) -> None:
    with _running(node, fixtures_dir) as running:
        for case in _cases(lambda case: max(case.since, case.sent_since) <= major):
            value = case.make()
            assert same(running.ask(case.id, None, None, value), value), case.id


def _cases(wanted: Callable[[Case], bool]) -> list[Case]:
    cases = [case for case in CASES if wanted(case)]
    assert len(cases) > 150
    return cases


def test_any_value_comes_back_from_node(node: str, major: int, fixtures_dir: Path) -> None:
    with _running(node, fixtures_dir) as running:

        @settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
        @given(values(errors=major >= 18, sent_by_any_node=major < 24))
        def comes_back(value: Any) -> None:
            assert same(running.ask(None, None, None, value), value)

        comes_back()


def test_a_value_of_every_size_comes_back(node: str, fixtures_dir: Path) -> None:
    with _running(node, fixtures_dir) as running:
        for size in [*range(300), 16383, 16384, LARGE_BUFFER - 1, LARGE_BUFFER, 2**21, 2**22 + 1]:
            value = ["x" * size, "€" * (size % 5000), b"\0\xff" * size, [None] * min(size, 20000)]
            assert same(running.ask(None, None, None, value), value)


def test_a_value_may_be_a_message_of_its_own(node: str, fixtures_dir: Path) -> None:
    with _running(node, fixtures_dir) as running:
        # Node itself sends no undefined and no bigint, but takes both.
        for value in (undefined, BigInt(5), None, True, 1.5, "x", b"x", {1}):
            running.send(value)
            assert same(running.receive(), [None, None, value])


def test_what_is_sent_to_a_node_that_lacks_it_ends_it(
    node: str, major: int, fixtures_dir: Path
) -> None:
    # Nothing can be done about these: an older Node has no such value.
    for since, value in ((16, JSError("m", cause=1)), (24, Float16Array(b"\0\0"))):
        with _running(node, fixtures_dir) as running:
            running.send([1, None, None, value])
            if major >= since:
                assert running.receive()[1] is None
            else:
                with pytest.raises((EOFError, ConnectionError)):
                    running.receive()
                assert running.process.wait(_LIMIT) != 0


def test_before_18_node_cannot_read_a_reference_behind_an_error(
    node: str, major: int, fixtures_dir: Path
) -> None:
    # Its V8 counts Errors when it writes and not when it reads: not even its own bytes can it read.
    shared: list[int] = []
    with _running(node, fixtures_dir) as running:
        running.send([1, None, None, [JSError("m"), shared, shared]])
        if major >= 18:
            value = running.receive()[2]
            assert value[1] is value[2]
        else:
            with pytest.raises((EOFError, ConnectionError)):
                running.receive()


def test_an_exception_of_ours_is_an_error_there(node: str, fixtures_dir: Path) -> None:
    try:
        raise KeyError("lost")
    except KeyError as error:
        caught = error
    check = """v.error instanceof Error && v.error.message === "'lost'"
        && v.error.stack.startsWith("KeyError: 'lost'\\nTraceback (most recent call last):\\n")"""
    with _running(node, fixtures_dir) as running:
        running.ask(1, "v", check, {"error": caught})
