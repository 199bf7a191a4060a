"""Values between Python and real Node, in both roles."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import random
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from nodecompat import MessageError
from tests.integration.support import MiB, Parent, Way, depth_of, major, nested, run, same


def test_a_child_echoes_assorted_values_unchanged(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(node, fixtures_dir / "echo-check.cjs", "assorted", *way_or_uvloop.command("echo.py"))
    assert done.node["different"] == []
    assert done.node["echoed"] == done.node["sent"] > 2900


def test_a_parent_gets_assorted_values_back_unchanged(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    values = _assorted()

    async def scenario() -> None:
        async with parent_or_uvloop.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            await parent_or_uvloop.at_once(child.send_many(values), check(child))

    async def check(child: Any) -> None:
        for value in values:
            echoed = await child.recv()
            assert same(echoed, value), f"{value!r} came back as {echoed!r}"

    parent_or_uvloop.run(scenario())


def test_a_child_echoes_64_mib(node: str, way: Way, fixtures_dir: Path) -> None:
    done = run(node, fixtures_dir / "echo-check.cjs", f"large:{64 * MiB}", *way.command("echo.py"))
    assert done.node == {"sent": 1, "echoed": 1, "different": []}


def test_a_parent_gets_64_mib_back(node: str, parent: Parent, fixtures_dir: Path) -> None:
    text = "0123456789abcde\n" * (4 * MiB)

    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            await child.send(text)
            assert await child.recv() == text

    parent.run(scenario())


def test_a_child_echoes_deep_nesting(node: str, way: Way, fixtures_dir: Path) -> None:
    deep = _deepest(node)
    done = run(node, fixtures_dir / "echo-check.cjs", f"deep:{deep}", *way.command("echo.py"))
    assert done.node == {"sent": 1, "echoed": 1, "different": []}


def test_deep_nesting_arrives_at_a_parent(node: str, parent: Parent, fixtures_dir: Path) -> None:
    deep = _deepest(node)

    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "deep.cjs", exec_path=node) as child:
            await child.send({"depth": deep})
            assert depth_of(await child.recv()) == deep

    parent.run(scenario())


def test_every_node_reads_nesting_5000_deep(node: str, parent: Parent, fixtures_dir: Path) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "deep.cjs", exec_path=node) as child:
            await child.send(nested(5000))
            assert await child.recv() == {"arrived": 5000}

    parent.run(scenario())


class _Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class _Point:
    x: int
    y: float


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        pytest.param(float("nan"), None, id="nan"),
        pytest.param([float("inf"), float("-inf"), -0.0], [None, None, 0], id="infinities"),
        pytest.param(1.0, 1, id="whole float"),
        pytest.param(2**53 + 1, float(2**53), id="unsafe integer"),
        pytest.param(10**400, None, id="integer past every double"),
        pytest.param(b"\x00\xff", {"type": "Buffer", "data": [0, 255]}, id="bytes"),
        pytest.param({"a": bytearray(b"z")}, {"a": {"type": "Buffer", "data": [122]}}, id="nested"),
        pytest.param(
            datetime.datetime(2024, 2, 29, 1, 2, 3, 456789, datetime.UTC),
            "2024-02-29T01:02:03.456Z",
            id="datetime",
        ),
        pytest.param((1, (2, ())), [1, [2, []]], id="tuples"),
        pytest.param(_Point(1, 2.5), {"x": 1, "y": 2.5}, id="dataclass"),
        pytest.param(_Colour.RED, "red", id="enum"),
        pytest.param(uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", id="uuid"),
        pytest.param({1: "a", 2.5: "b", None: "c"}, {"1": "a", "2.5": "b", "null": "c"}, id="keys"),
        pytest.param("\ud83d\ude00", "\U0001f600", id="surrogates that are a pair"),
        pytest.param("a\ud800b\udfff", "a\ud800b\udfff", id="lone surrogates"),
    ],
)
def test_python_values_arrive_as_javascript_would_send_them(
    node: str, parent: Parent, fixtures_dir: Path, sent: Any, arrives: Any
) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            await child.send(sent)
            assert same(await child.recv(), arrives)

    parent.run(scenario())


def test_javascript_values_arrive_as_json_has_them(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    expected: list[Any] = [
        [None, None, 0],
        {"type": "Buffer", "data": [0x68, 0xC3, 0xA9]},
        "2024-02-29T01:02:03.004Z",
        [None, None],
        {"b": 1},
        {},
        {"0": 1, "1": 2},
        {"made": "by toJSON"},
        7,
        float(2**53),
    ]

    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "specials.cjs", exec_path=node, serialization="json"
        ) as child:
            assert child.serialization == "json"
            assert same([message async for message in child], expected)

    parent.run(scenario())


def test_what_cannot_go_is_refused_and_the_channel_goes_on(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            with pytest.raises(MessageError, match=r"message\.users\[1\]: .*object"):
                await child.send({"users": [1, object()]})
            await child.send("still here")
            assert await child.recv() == "still here"

    parent.run(scenario())


def _deepest(node: str) -> int:
    """How deep this Node surely writes: before 26 its stack is the limit."""
    return 5000 if major(node) >= 26 else 1500


def _assorted() -> list[Any]:
    """Three thousand values that JSON carries without a loss, the same at each call."""
    choose = random.Random(20120)
    numbers: list[Any] = [0, 1, -1, 2**31, -(2**31), 2**53 - 1, 1 - 2**53]
    numbers += [0.5, -0.1, 1e21, 1e300, -1e-300, 5e-324, sys.float_info.max, 2.0**53, 2.0**70]
    strings = [
        "",
        "abc",
        "\0",
        "\n",
        '"',
        "\\",
        "\x7f",
        "é",
        "日本語",
        "\u2028",
        "\ufeff",
        "\uffff",
    ]
    strings += ["\U0001f600", "\U0010ffff", "\ud800", "x\udfffy", "NODE_", "-0.0", "1e3", "null"]
    # A key with a backslash makes JSON.parse of Node 24 and 26 take others for it that are
    # written with an escape (nodejs/node#63785).
    keys = [each for each in strings if "\\" not in each]
    keys += ["__proto__", "constructor", "toJSON", "10", "2", "length"]

    def scalar() -> Any:
        kind = choose.random()
        if kind < 0.2:
            return choose.randrange(-1000, 1000)
        if kind < 0.3:
            return choose.randrange(-(2**53) + 1, 2**53)
        if kind < 0.4:
            # A float with a fraction stays a float on both ways.
            return choose.randrange(10**6) + 0.5
        if kind < 0.6:
            return choose.choice(numbers)
        if kind < 0.7:
            # Surrogates have a block of their own; two of them could become a pair.
            return "".join(chr(choose.randrange(0xD800)) for _ in range(choose.randrange(12)))
        return choose.choice([*strings, True, False, None])

    def value(depth: int) -> Any:
        kind = choose.random()
        if not depth or kind < 0.3:
            return scalar()
        size = choose.randrange(5)
        if kind < 0.6:
            return [value(depth - 1) for _ in range(size)]
        return {choose.choice(keys): value(depth - 1) for _ in range(size)}

    edges: list[Any] = [
        None,
        True,
        False,
        [],
        {},
        [[]],
        [{}],
        {"cmd": "NODE_"},
        {"cmd": 1},
        list(range(5000)),
    ]
    return [
        *edges,
        *numbers,
        *strings,
        *({key: 1} for key in keys),
        *(value(5) for _ in range(2900)),
    ]
