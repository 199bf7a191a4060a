"""Advanced mode between Python and real Node, in both roles."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import re
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from nodecompat import ChannelClosed, IncompleteMessage, MessageError, ProtocolError, undefined
from nodecompat.protocol.serialization import serialization
from tests.integration import handle_plays
from tests.integration.handle_plays import KINDS, Blocking, Talker, Waiting
from tests.integration.support import (
    ENDED,
    PARENTS,
    AsyncioParent,
    MiB,
    Parent,
    Way,
    base64_of,
    environment,
    major,
    options,
    run,
)
from tests.support import in_one_piece, until
from tests.v8_cases import CASES, Case, same

COUNT: Final = 10_000
LARGE: Final = 256 * MiB

_encode = serialization("advanced").encode


def _wire(*messages: Any) -> bytes:
    return b"".join(in_one_piece(_encode(message)) for message in messages)


def _as_parent(fixtures_dir: Path, program: str, *arguments: str) -> list[str]:
    """The arguments of a Node that runs one of its programs as a parent in advanced mode."""
    return [str(fixtures_dir / "advanced-parent.cjs"), program, *arguments]


# ---------------------------------------------------------------------------------------- values


def _both_ways(number: int) -> list[Case]:
    """The values that a Node both sends and reads."""
    cases = [case for case in CASES if max(case.since, case.sent_since) <= number]
    assert len(cases) > 150
    return cases


def test_every_value_goes_from_a_node_parent_to_a_python_child_and_back(
    node: str, way_or_uvloop: Way, fixtures_dir: Path, tmp_path: Path
) -> None:
    cases = _both_ways(major(node))
    described = [
        {"id": case.id, "js": case.js, "check": case.check, "back": not case.one_way}
        for case in cases
    ]
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(described))
    done = run(
        node,
        *_as_parent(fixtures_dir, "advanced-values.cjs", str(path)),
        *way_or_uvloop.command("advanced_values.py"),
    )
    assert done.node == {"sent": len(cases), "answered": len(cases), "wrong": []}


def test_every_value_goes_from_a_python_parent_to_a_node_child(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    number = major(node)
    cases = [case for case in CASES if case.since <= number and not case.one_way]
    assert len(cases) > 150

    async def scenario() -> None:
        async with _checking(parent_or_uvloop, node, fixtures_dir) as child:
            for case in cases:
                await child.send([case.id, case.js, case.check, case.make()])
                id, problem, _ = await child.recv()
                assert (id, problem) == (case.id, None)

    parent_or_uvloop.run(scenario())


def test_every_value_goes_from_a_node_child_to_a_python_parent(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    cases = [case for case in CASES if case.sent_since <= major(node)]
    assert len(cases) > 150

    async def scenario() -> None:
        async with _checking(parent_or_uvloop, node, fixtures_dir) as child:
            assert child.serialization == "advanced"
            for case in cases:
                await child.send([case.id, case.js])
                id, _, value = await child.recv()
                assert id == case.id
                assert same(value, case.make()), case.id

    parent_or_uvloop.run(scenario())


def _checking(parent: Parent, node: str, fixtures_dir: Path) -> Any:
    # Before 22 Node warns of what it then does.
    return parent.fork(
        fixtures_dir / "v8-check.cjs",
        exec_path=node,
        exec_argv=["--no-warnings"],
        serialization="advanced",
    )


def test_every_value_may_be_a_message_and_comes_back(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    # Node itself refuses to send these, though they may arrive: see test_v8_against_node.
    bigints = [case.id for case in CASES if case.id.startswith("bigint ")]
    cases = [
        case
        for case in _both_ways(major(node))
        if not case.one_way and case.id not in ("undefined", *bigints)
    ]

    async def send_all(child: Any) -> None:
        for case in cases:
            await child.send(case.make())

    async def receive_all(child: Any) -> None:
        for case in cases:
            assert same(await child.recv(), case.make()), case.id

    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "echo.cjs", exec_path=node, serialization="advanced"
        ) as child:
            await parent_or_uvloop.at_once(send_all(child), receive_all(child))

    parent_or_uvloop.run(scenario())


def test_what_json_carries_goes_through_a_python_child_unchanged(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        *_as_parent(fixtures_dir, "echo-check.cjs", "assorted"),
        *way.command("echo.py"),
    )
    assert done.node["different"] == []
    assert done.node["echoed"] == done.node["sent"] > 2900


def test_what_cannot_go_is_refused_and_the_channel_goes_on(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "echo.cjs", exec_path=node, serialization="advanced"
        ) as child:
            with pytest.raises(MessageError, match=r"^message\.users\[1\]\.callback: .*function"):
                await child.send({"users": [1, {"callback": lambda: None}]})
            with pytest.raises(MessageError, match=r"^message: undefined"):
                await child.send(undefined)
            await child.send({"still": {"here"}})
            assert await child.recv() == {"still": {"here"}}

    parent_or_uvloop.run(scenario())


# ----------------------------------------------------------------------------------------- handles


def _talker(parent: Parent, child: Any) -> Talker:
    return Blocking(child._child) if parent.name == "sync" else Waiting(child)


def test_every_kind_of_handle_travels_between_a_node_parent_and_a_python_child(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        *_as_parent(fixtures_dir, "handles-kinds.cjs", json.dumps({"give": list(KINDS)})),
        *way_or_uvloop.command("handles_play.py", "kinds", json.dumps(list(KINDS))),
    )
    _check_kinds(done.node["given"], "python")
    _check_kinds(done.node["taken"], "node")


def test_every_kind_of_handle_travels_between_a_python_parent_and_a_node_child(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-kinds.cjs",
            [json.dumps({"give": list(KINDS)})],
            exec_path=node,
            serialization="advanced",
        ) as child:
            channel = _talker(parent_or_uvloop, child)
            _check_kinds(await handle_plays.give(channel, KINDS), "node")
            await handle_plays.take(channel)
            _check_kinds(await child.recv(), "python")

    parent_or_uvloop.run(scenario())


def _check_kinds(given: dict[str, Any], taker: str) -> None:
    """Each handle arrived, and it is the taker who answered on it."""
    assert list(given) == list(KINDS)
    for kind, seen in given.items():
        assert seen["got"], kind
        assert f"{taker}: ping\n" in seen["answer"], kind


ROUND: Final = 200


def test_handles_travel_amid_messages_between_a_node_parent_and_a_python_child(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        *_as_parent(fixtures_dir, "handles-many.cjs", json.dumps({"rounds": [20, ROUND]})),
        *way_or_uvloop.command("handles_play.py", "many", json.dumps([20, ROUND])),
    )
    _check_many(done.node)


def test_handles_travel_amid_messages_between_a_python_parent_and_a_node_child(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-many.cjs",
            [json.dumps({"rounds": [20, ROUND]})],
            exec_path=node,
            serialization="advanced",
        ) as child:
            channel = _talker(parent_or_uvloop, child)
            _check_many(await handle_plays.many(channel, [20, ROUND]))

    parent_or_uvloop.run(scenario())


def _check_many(seen: dict[str, Any]) -> None:
    complete: list[Any] = [
        {"received": count, "answered": count, "wrong": []} for count in (20, ROUND)
    ]
    assert seen["rounds"] == complete
    assert seen["peer"] == complete


def test_node_counts_the_connections_that_a_child_holds(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        *_as_parent(fixtures_dir, "handles-counted.cjs"),
        *way.command("handles_play.py", "hold"),
    )
    assert done.node == {
        "connections": [3, 3, 2, 1],
        "order": ["pong", "told to close", "server closed"],
        "left": 0,
    }


# ------------------------------------------------------------------------------------------ floods


def test_a_child_floods_and_is_flooded(node: str, way_or_uvloop: Way, fixtures_dir: Path) -> None:
    done = run(
        node,
        *_as_parent(fixtures_dir, "flood.cjs", str(COUNT)),
        *way_or_uvloop.command("flood.py", str(COUNT)),
    )
    assert done.node == {
        "received": COUNT,
        "wrong": [],
        "peer": {"received": COUNT, "wrong": []},
    }


def test_a_parent_floods_and_is_flooded(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def send_all(child: Any) -> None:
        for n in range(COUNT):
            await child.send({"n": n})

    async def receive_all(child: Any) -> None:
        received = 0
        reports: list[Any] = []
        while received < COUNT or not reports:
            message = await child.recv()
            if "report" in message:
                reports.append(message["report"])
            else:
                assert message == {"n": received}
                received += 1
        assert reports == [{"received": COUNT, "wrong": []}]

    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "flood.cjs", [str(COUNT)], exec_path=node, serialization="advanced"
        ) as child:
            await parent_or_uvloop.at_once(send_all(child), receive_all(child))

    parent_or_uvloop.run(scenario())


# --------------------------------------------------------------------------- bytes in many writes

_MESSAGES: Final[list[Any]] = [
    {"a": [1, None, "h\xe9\u20ac"], "b": {1, 2}},
    b"0123456789",
    "",
    {"n": -1.5},
]


@contextlib.contextmanager
def _raw_parent(node: str, module: Path) -> Iterator[socket.socket]:
    """A Node child whose channel is a bare socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30)
        variables = {
            "NODE_CHANNEL_FD": str(theirs.fileno()),
            "NODE_CHANNEL_SERIALIZATION_MODE": "advanced",
        }
        with subprocess.Popen(
            [node, str(module)],
            pass_fds=[theirs.fileno()],
            env={**environment(), **variables},
        ) as process:
            theirs.close()
            try:
                yield ours
            finally:
                ours.close()
                process.kill()


def _unread(sock: socket.socket) -> int:
    """What the other end has not read yet."""
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
    assert isinstance(count, int)
    return count


def _echoed(node: str, fixtures_dir: Path, pieces: list[bytes], expected: list[Any]) -> None:
    """Write pieces, each once the one before it was read; what comes back must be the messages."""
    with _raw_parent(node, fixtures_dir / "echo.cjs") as sock:
        for piece in pieces:
            sock.sendall(piece)
            until(lambda: not _unread(sock), "Node reads")
        with sock.makefile("rb") as file:
            for message in expected:
                size = int.from_bytes(file.read(4), "big")
                assert same(_decoded(file.read(size)), message)


def _decoded(payload: bytes) -> Any:
    values: list[Any] = []
    serialization("advanced").decode_many([payload], values.append)
    (value,) = values
    return value


def test_node_takes_a_message_in_many_writes(node: str, fixtures_dir: Path) -> None:
    # Never within the length itself, though: see below.
    pieces: list[bytes] = []
    for message in _MESSAGES:
        data = _wire(message)
        pieces += [data[:4], *(bytes([byte]) for byte in data[4:])]
    _echoed(node, fixtures_dir, pieces, _MESSAGES)


def test_node_takes_a_length_in_two_writes(node: str, fixtures_dir: Path) -> None:
    if major(node) < 20:
        pytest.skip("Node 16.20 and 18.20 wait for ever behind half a length, a bug of theirs")
    for cut in (1, 2, 3):
        pieces: list[bytes] = []
        for message in _MESSAGES:
            data = _wire(message)
            pieces += [data[:cut], data[cut:]]
        _echoed(node, fixtures_dir, pieces, _MESSAGES)


def test_a_parent_takes_messages_in_many_writes(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    writes = base64_of(*(bytes([byte]) for byte in _wire(*_MESSAGES)))

    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "raw.cjs", writes, exec_path=node, serialization="advanced"
        ) as child:
            for message in _MESSAGES:
                assert same(await child.recv(), message)

    parent_or_uvloop.run(scenario())


def test_a_child_takes_messages_in_many_writes(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    messages = ["h\xe9\u20ac", {"a": [1, None, -2.5]}, "", True]
    writes = base64_of(*(bytes([byte]) for byte in _wire(*messages)))
    done = run(
        node,
        *_as_parent(fixtures_dir, "record.cjs", options(raw=writes, disconnectAfter=0)),
        *way_or_uvloop.command("record.py"),
    )
    assert done.python == {**ENDED, "messages": messages}


# ---------------------------------------------------------------------------- wrong bytes, deaths

GARBAGE: Final[list[tuple[bytes, str]]] = [
    (b"\0\0\0\x08[1,2,3]\n", "at byte 0"),
    (b"\0\0\0\0", "it ends too early, at byte 0"),
    (b'\0\0\0\x06\xff\x0d"\x05ab', "at byte"),
    (b"\0\0\0\x04\xff\x0f00", "something after its value, at byte 3"),
    (b"\xff\xff\xff\xff", "max_message_size"),
]


@pytest.mark.parametrize(("garbage", "complaint"), GARBAGE)
def test_garbage_of_a_parent_is_a_clear_error_that_closes_the_channel(
    node: str, way: Way, fixtures_dir: Path, garbage: bytes, complaint: str
) -> None:
    done = run(
        node,
        *_as_parent(
            fixtures_dir,
            "record.cjs",
            options(send=["before"], raw=base64_of(garbage + _wire("after"))),
        ),
        *way.command("record.py"),
    )
    text = done.python.pop("text")
    assert complaint in text
    assert len(text) < 500
    error = "FrameTooLarge" if "max_message_size" in complaint else "ProtocolError"
    assert done.python == {**ENDED, "messages": ["before"], "error": error}
    assert done.node["events"] == [["disconnect"], ["exit", 0, None]]


@pytest.mark.parametrize(("garbage", "complaint"), GARBAGE[:-1])
def test_garbage_of_a_child_is_a_clear_error_that_closes_the_channel(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path, garbage: bytes, complaint: str
) -> None:
    writes = base64_of(_wire("before") + garbage + _wire("after"))

    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "raw.cjs", writes, exec_path=node, serialization="advanced"
        ) as child:
            assert await child.recv() == "before"
            with pytest.raises(ProtocolError, match=re.escape(complaint)):
                await child.recv()
            assert (child.connected, child.fileno()) == (False, -1)
            with pytest.raises(ChannelClosed):
                await child.recv()
            # The child sees the channel close, and ends.
            assert await child.wait() == 0

    parent_or_uvloop.run(scenario())


_CUT: Final = _wire({"text": "x" * 1000})


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 20, len(_CUT) - 1])
def test_a_child_that_dies_in_the_middle_of_a_message_is_noticed(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path, cut: int
) -> None:
    play = options(raw=base64_of(_wire("whole"), _CUT[:cut]), die=True)

    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "record.cjs", [play], exec_path=node, serialization="advanced"
        ) as child:
            assert await child.recv() == "whole"
            with pytest.raises(IncompleteMessage, match="in the middle of a message"):
                await child.recv()
            with pytest.raises(ChannelClosed):
                await child.recv()
            await child.wait()
            assert child.signal_code == "SIGKILL"

    parent_or_uvloop.run(scenario())


def test_a_parent_that_dies_in_the_middle_of_a_message_is_noticed(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        *_as_parent(
            fixtures_dir,
            "record.cjs",
            options(send=["whole"], raw=base64_of(_CUT[:20]), die=True),
        ),
        *way.command("record.py"),
        stderr=True,
    )
    assert done.returncode == -9
    assert done.python == {**ENDED, "messages": ["whole"]}
    assert "the channel ended in the middle of a message" in done.stderr


# ------------------------------------------------------------------------------------ large buffers


def test_a_buffer_may_be_used_again_once_process_send_has_returned(
    node: str, fixtures_dir: Path
) -> None:
    size = 4 * MiB
    done = run(
        node,
        *_as_parent(fixtures_dir, "advanced-letters.cjs", "2"),
        *Way("process").command("advanced_reuse.py", str(size)),
    )
    assert done.node == [[size, [ord("a")]], [size, [ord("b")]]]


def test_a_buffer_may_be_used_again_once_its_send_was_cancelled(
    node: str, asyncio_parent: AsyncioParent, fixtures_dir: Path
) -> None:
    size = 4 * MiB
    data = bytearray(b"a" * size)

    async def scenario() -> None:
        async with asyncio_parent.fork(
            fixtures_dir / "advanced-letters.cjs",
            ["1"],
            exec_path=node,
            serialization="advanced",
        ) as child:
            child.kill("SIGSTOP")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await child.send(data)
            try:
                data[:] = b"b" * size
                data.clear()
            finally:
                child.kill("SIGCONT")
            assert await child.recv() == [[size, [ord("a")]]]

    asyncio_parent.run(scenario())


@pytest.fixture
def one_recent_node(node: str) -> str:
    """A Node for what is slow: the first that is tested and does not take minutes itself."""
    # Before 20 Node copies all that it has of a message with each read.
    if major(node) < 20:
        pytest.skip("this Node takes a time that grows with the square of a message's size")
    if _chosen.setdefault("node", node) != node:
        pytest.skip("one Node will do")
    return node


_chosen: Final[dict[str, str]] = {}

slow = pytest.mark.timeout(120)


@slow
def test_a_child_echoes_256_mib_in_less_than_three_times_the_memory(
    one_recent_node: str, way: Way, fixtures_dir: Path
) -> None:
    done = run(
        one_recent_node,
        *_as_parent(fixtures_dir, "advanced-large.cjs", str(LARGE)),
        *way.command("advanced_large.py"),
    )
    assert done.node["same"] is True
    assert LARGE < done.node["memory"] < 3 * LARGE


@slow
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_parent_gets_256_mib_back_in_less_than_three_times_the_memory(
    one_recent_node: str, fixtures_dir: Path, kind: str
) -> None:
    done = run(
        sys.executable,
        PARENTS / kind / "advanced_large.py",
        one_recent_node,
        fixtures_dir / "advanced-large.cjs",
        str(LARGE),
    )
    assert done.python["same"] is True
    assert LARGE < done.python["memory"] < 3 * LARGE
