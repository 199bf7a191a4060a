"""Bytes on the channel that no Node writes by itself, in both roles: odd ones, and wrong ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nodecompat import ChannelClosed, ProtocolError
from tests.integration.support import ENDED, Parent, Way, base64_of, options, run

ODD_BUT_SOUND = pytest.mark.parametrize(
    ("writes", "arrives"),
    [
        pytest.param([b'"\xff\xfe"\n'], "\ufffd\ufffd", id="no UTF-8 at all"),
        pytest.param([b'"\xc3"\n'], "\ufffd", id="a character cut off"),
        pytest.param([b'"\xe2\x82', b'\xac"\n'], "\u20ac", id="a character in two writes"),
        pytest.param([b'{"a":\r 1}\t\n'], {"a": 1}, id="white space"),
        pytest.param([b'"a\\u', b"d83d", b'\\ude00"\n'], "a\U0001f600", id="a pair of escapes"),
    ],
)


@ODD_BUT_SOUND
def test_odd_but_sound_bytes_of_a_parent_arrive(
    node: str, way: Way, fixtures_dir: Path, writes: list[bytes], arrives: Any
) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        options(raw=base64_of(*writes), disconnectAfter=0),
        *way.command("record.py"),
    )
    assert done.python == {**ENDED, "messages": [arrives]}


@ODD_BUT_SOUND
def test_node_itself_takes_odd_but_sound_bytes_so(
    node: str, fixtures_dir: Path, writes: list[bytes], arrives: Any
) -> None:
    record = fixtures_dir / "record.cjs"
    play = options(raw=base64_of(*writes), disconnectAfter=0)
    done = run(node, record, play, node, record, "{}")
    assert {"node": {"events": [["message", arrives], ["disconnect"]]}} in done.lines


@ODD_BUT_SOUND
def test_odd_but_sound_bytes_of_a_child_arrive(
    node: str, parent: Parent, fixtures_dir: Path, writes: list[bytes], arrives: Any
) -> None:
    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "raw.cjs", base64_of(*writes), exec_path=node
        ) as child:
            assert await child.recv() == arrives

    parent.run(scenario())


GARBAGE = pytest.mark.parametrize(
    ("garbage", "complaint"),
    [
        pytest.param(b"console.log\n", "a line that is not JSON: b'console.log'", id="text"),
        pytest.param(b"\n", "an empty line, which is not JSON", id="empty line"),
        pytest.param(b'{"a":1}}\n', "a line that is not JSON: b'{\"a\":1}}'", id="one too many"),
        pytest.param(b"undefined\n", "a line that is not JSON: b'undefined'", id="undefined"),
        pytest.param(b"\x02\x05\x00\x00\x00\n", "a private frame of Bun", id="bun"),
        pytest.param(b"\x00" * 1000 + b"\n", "(1000 bytes)", id="long"),
    ],
)


@GARBAGE
def test_garbage_of_a_parent_is_a_clear_error_that_closes_the_channel(
    node: str, way: Way, fixtures_dir: Path, garbage: bytes, complaint: str
) -> None:
    # Node stays connected: it is the child that closes, which Node sees as a disconnect.
    done = run(
        node,
        fixtures_dir / "record.cjs",
        options(send=["before"], raw=base64_of(garbage + b'"after"\n')),
        *way.command("record.py"),
    )
    text = done.python.pop("text")
    assert complaint in text
    assert len(text) < 500
    assert done.python == {**ENDED, "messages": ["before"], "error": "ProtocolError"}
    assert done.node["events"] == [["disconnect"], ["exit", 0, None]]


@GARBAGE
def test_garbage_of_a_child_is_a_clear_error_that_closes_the_channel(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path, garbage: bytes, complaint: str
) -> None:
    writes = base64_of(b'"bef', b'ore"\n' + garbage + b'"after"\n')

    async def scenario() -> None:
        async with parent_or_uvloop.fork(fixtures_dir / "raw.cjs", writes, exec_path=node) as child:
            received: list[Any] = []

            async def receive_all() -> None:
                async for message in child:
                    received.append(message)

            with pytest.raises(ProtocolError, match=re.escape(complaint)):
                await receive_all()
            assert received == ["before"]
            assert (child.connected, child.fileno()) == (False, -1)
            with pytest.raises(ChannelClosed):
                await child.recv()
            # The child sees the channel close, and ends.
            assert await child.wait() == 0

    parent_or_uvloop.run(scenario())
