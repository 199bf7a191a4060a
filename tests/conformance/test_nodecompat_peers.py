"""The conformance suite's peers for nodecompat: small plans, each way in against Node's peer."""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from conformance.peers._common import build, describe

_TOP = Path(__file__).parents[2]
_LIMIT = 40.0

Steps = list[Any]


# ---------------------------------------------------------------------------------------- the stage


class Way(NamedTuple):
    """A way in of nodecompat in one role. "Me" is its peer, "other" the peer on the other side."""

    name: str
    role: str

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(_TOP / f"conformance/peers/nodecompat_{self.name}.py")]

    def __str__(self) -> str:
        return f"{self.name}-{self.role}"


_PARENTS: Final = [Way("sync", "parent"), Way("asyncio", "parent")]
_CHILDREN: Final = [Way("sync", "child"), Way("asyncio", "child"), Way("process", "child")]

every_way = pytest.mark.parametrize("way", [*_PARENTS, *_CHILDREN], ids=str)
every_parent = pytest.mark.parametrize("way", _PARENTS, ids=str)
every_child = pytest.mark.parametrize("way", _CHILDREN, ids=str)
both_modes = pytest.mark.parametrize("mode", ["json", "advanced"])


class Seen(NamedTuple):
    """What both sides reported, without the end of the child, and how they ended."""

    me: list[Any]
    other: list[Any]
    status: int | str
    """My exit status; for a child what the parent observed."""
    stderr: str


class Stage:
    """Plays plans in a folder."""

    def __init__(self, folder: Path, node: str) -> None:
        self.folder = folder
        self.node_peer = [node, str(_TOP / "js-fixtures/conformance-peer.cjs")]

    def play(
        self,
        way: Way,
        me: Steps,
        other: Steps,
        mode: str = "json",
        *,
        how: str = "spawn",
        counterpart: list[str] | None = None,
    ) -> Seen:
        others = counterpart or self.node_peer
        parent, child = (way.command, others) if way.role == "parent" else (others, way.command)
        steps = {"parent": me, "child": other}
        if way.role == "child":
            steps = {"parent": other, "child": me}
        child_plan = self.plan("child", mode, steps["child"])
        start: dict[str, Any] = {"how": how, "env": {"EXTRA": "1"}}
        if how == "fork":
            start |= {"exec_path": child[0], "exec_argv": [], "module": child[1]}
            start["args"] = [str(child_plan)]
        else:
            start |= {"command": child[0], "args": [*child[1:], str(child_plan)]}
        plan = self.plan("parent", mode, steps["parent"], start)
        done = self.run(*parent, plan)
        reports = {"parent": self.report("parent"), "child": self.report("child")}
        exits = [each for each in reports["parent"] if "exit" in each and each != "disconnect"]
        for each in exits:
            reports["parent"].remove(each)
        status: Any = done.returncode
        if way.role == "child":
            assert len(exits) == 1, done.stderr
            status = exits[0]["exit"]
        mine, others_report = reports[way.role], reports[_other(way.role)]
        return Seen(mine, others_report, status, done.stderr)

    def plan(self, role: str, mode: str, steps: Steps, start: dict[str, Any] | None = None) -> Path:
        path = self.folder / f"{role}.json"
        report = self.folder / f"{role}.jsonl"
        plan = {"role": role, "mode": mode, "steps": steps, "report": str(report)}
        path.write_text(json.dumps(plan if start is None else {**plan, "start": start}))
        return path

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        # No channel of whoever runs the tests.
        env = {name: text for name, text in os.environ.items() if not name.startswith("NODE_")}
        with subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            cwd=self.folder,
            # A group of their own, so that all can be ended.
            start_new_session=True,
        ) as process:
            try:
                _, stderr = process.communicate(timeout=_LIMIT)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(command, process.returncode, stderr=stderr)

    @contextmanager
    def child_of_ours(
        self, way: Way, steps: Steps
    ) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
        """The peer as a child whose channel is in our hands; it is killed at the end."""
        near, far = socket.socketpair()
        with near, far:
            near.settimeout(_LIMIT)
            fd = far.fileno()
            with subprocess.Popen(
                [*way.command, self.plan("child", "json", steps)],
                pass_fds=[fd],
                env={**os.environ, "NODE_CHANNEL_FD": str(fd)},
            ) as process:
                far.close()
                try:
                    yield process, near
                finally:
                    process.kill()

    def report(self, role: str) -> list[Any]:
        path = self.folder / f"{role}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _other(role: str) -> str:
    return "child" if role == "parent" else "parent"


@pytest.fixture
def stage(tmp_path: Path, node: str) -> Stage:
    return Stage(tmp_path, node)


def message(value: Any, handle: str | None = None) -> Any:
    return {"message": value} if handle is None else {"message": value, "handle": handle}


def well(seen: Seen, me: list[Any], other: list[Any]) -> None:
    """Both sides observed that, and nothing went wrong."""
    assert seen.me == me, seen.stderr
    assert seen.other == other, seen.stderr
    assert seen.status == 0, seen.stderr


def well_in_any_order(seen: Seen, me: list[Any], other: list[Any]) -> None:
    """As ``well``, where the ends of a connection and of the channel do not wait for each other."""
    well(seen._replace(me=_sorted(seen.me), other=_sorted(seen.other)), _sorted(me), _sorted(other))


def _sorted(observations: list[Any]) -> list[Any]:
    return sorted(observations, key=json.dumps)


# ------------------------------------------------------------------------------------------- values

_BOTH: Final[list[Any]] = [
    None, True, False, 0, 1, -5, 0.5, 1e300, "", "text", "grüße \U0001f600", [], [1, [2, "x"]], {},
    {"a": {"b": [None]}}, {"z": 1, "a": 2}, {"$": "string", "units": [0xD83D]},
    {"$": "object", "entries": [["$", 1], ["b", 2]]},
    {"$": "object", "entries": [[{"$": "string", "units": [0xDC00, 97]}, 1]]},
]  # fmt: skip

_ADVANCED: Final[list[Any]] = [
    {"u": {"$": "undefined"}, "after": 1},
    [{"$": "undefined"}, {"$": "hole"}, 3, {"$": "hole"}],
    *[[{"$": "number", "is": each}] for each in ("-0", "NaN", "Infinity", "-Infinity")],
    [{"$": "bigint", "is": "-123456789012345678901234567890"}, {"$": "bigint", "is": "7"}],
    {"$": "date", "ms": 0},
    {"$": "date", "ms": 1714564800123},
    {"$": "date", "ms": -62198755200000},
    {"$": "date", "ms": None},
    {"$": "regexp", "source": "a+", "flags": "gi"},
    {"$": "map", "entries": [[1, "a"], [True, "b"], ["k", [1]], [{"o": 1}, None]]},
    {"$": "set", "items": [1, 2, "a"]},
    {"$": "buffer", "hex": "00ff"},
    {"$": "buffer", "hex": ""},
    {"$": "arraybuffer", "hex": "00ff10"},
    *[
        {"$": "view", "type": f"{name}Array", "hex": "0102030405060708"}
        for name in (
            "Int8", "Uint8", "Uint8Clamped", "Int16", "Uint16", "Int32", "Uint32", "Float32",
            "Float64", "BigInt64", "BigUint64",
        )
    ],
    {"$": "view", "type": "Float64Array", "hex": ""},
    {"$": "view", "type": "DataView", "hex": "0102"},
    {"$": "error", "name": "TypeError", "message": "m"},
    {"$": "error", "name": "Error", "message": "", "cause": {"why": 1}},
    {"$": "boxed", "of": 1},
    {"$": "boxed", "of": "s"},
    {"$": "boxed", "of": True},
    {"$": "boxed", "of": {"$": "bigint", "is": "5"}},
    {"$": "array", "length": 3, "items": {"1": "x"}, "properties": {"k": "v"}},
    {"$": "array", "length": 200000, "items": {"5": "a", "199999": [1]}},
    {"a": {"$": "def", "id": 1, "of": [1]}, "b": {"$": "ref", "id": 1}},
    {"$": "def", "id": 1, "of": {"me": {"$": "ref", "id": 1}}},
    {"$": "def", "id": 1, "of": [{"$": "ref", "id": 1}, {"$": "hole"}]},
    {"$": "def", "id": 1, "of": {"$": "map", "entries": [["me", {"$": "ref", "id": 1}]]}},
    {"$": "def", "id": 1, "of": {"$": "set", "items": [{"$": "ref", "id": 1}]}},
    [{"$": "def", "id": 1, "of": {"$": "date", "ms": 5}}, {"$": "ref", "id": 1}],
    [{"$": "def", "id": 1, "of": {"$": "buffer", "hex": "0001"}}, {"$": "ref", "id": 1}],
]  # fmt: skip


@every_way
@both_modes
def test_values_go_and_come(stage: Stage, way: Way, mode: str) -> None:
    values = _BOTH + (_ADVANCED if mode == "advanced" else [])
    steps: Steps = [{"send": value} for value in values]
    steps.append({"wait": {"messages": len(values)}})
    expected = [message(value) for value in values]
    seen = stage.play(way, [*steps, {"wait": "disconnect"}], [*steps, "disconnect"], mode)
    well(seen, [*expected, "disconnect"], [*expected, "disconnect"])


@every_way
def test_values_that_json_changes(stage: Stage, way: Way) -> None:
    sent = [
        [{"$": "undefined"}, {"$": "hole"}],
        {"a": {"$": "undefined"}, "b": {"$": "number", "is": "NaN"}},
        {"$": "date", "ms": 0},
        {"$": "buffer", "hex": "6162"},
        {"$": "view", "type": "Float64Array", "hex": "000000000000e03f"},
    ]
    seen = stage.play(
        way, [{"send": each} for each in sent], [{"wait": {"messages": 5}}, "disconnect"]
    )
    got = [
        [None, None],
        {"b": None},
        "1970-01-01T00:00:00.000Z",
        {"type": "Buffer", "data": [97, 98]},
        {"0": 0.5},
    ]
    well(seen, ["disconnect"], [*map(message, got), "disconnect"])


@every_way
def test_numbers_are_those_of_javascript(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"send": [2**53 + 1, 10**20, 1.0]}],
        [{"wait": {"messages": 1}}, "disconnect"],
        "advanced",
    )
    well(seen, ["disconnect"], [message([2**53, 10**20, 1]), "disconnect"])


@every_way
def test_long_values_are_digests(stage: Stage, way: Way) -> None:
    values: Steps = [
        {"$": "repeat", "of": "é", "times": 1001},
        {"$": "repeat", "of": "\U0001f600", "times": 501},
        {"$": "string", "units": [0xD800] * 1001},
        {"$": "buffer", "hex": "00ff", "repeat": 501},
        {"$": "view", "type": "Uint16Array", "hex": "00ff", "repeat": 501},
        {"$": "repeat", "of": "x", "times": 1000},
    ]
    steps: Steps = [{"send": value} for value in values]
    steps.append({"wait": {"messages": 6}})
    seen = stage.play(way, [*steps, {"wait": "disconnect"}], [*steps, "disconnect"], "advanced")
    well(seen, seen.other, seen.other)
    lengths = [1001, 1002, 1001, 1002, 1002]
    data = [
        ("é" * 1001).encode(), ("\U0001f600" * 501).encode(), b"\xed\xa0\x80" * 1001,
        b"\x00\xff" * 501, b"\x00\xff" * 501,
    ]  # fmt: skip
    digests = [
        {
            "$": "digest",
            "of": "string" if index < 3 else "buffer",
            "length": lengths[index],
            "sha256": hashlib.sha256(each).hexdigest(),
        }
        for index, each in enumerate(data)
    ]
    assert seen.me[:5] == [message(each) for each in digests]
    assert seen.me[5:] == [message("x" * 1000), "disconnect"]


def _comes_as_it_goes(spec: Any) -> bool:
    """Whether nodecompat has one type for it in both directions."""
    text = json.dumps(spec)
    return '"view"' not in text and '"set"' not in text


@pytest.mark.parametrize(
    "spec", [each for each in [*_BOTH, *_ADVANCED] if _comes_as_it_goes(each)], ids=json.dumps
)
def test_value_is_described_as_it_was_written(spec: Any) -> None:
    assert describe(build(spec)) == spec


# ----------------------------------------------------------------------------- messages and the end


@every_way
@pytest.mark.parametrize("how", ["spawn", "fork"])
@both_modes
def test_messages_both_ways(stage: Stage, way: Way, mode: str, how: str) -> None:
    seen = stage.play(
        way,
        [{"send": {"a": 1}}, {"wait": {"messages": 1}}, "disconnect"],
        [{"wait": {"messages": 1}}, {"send": "back"}],
        mode,
        how=how,
    )
    well(seen, [message("back"), "disconnect"], [message({"a": 1}), "disconnect"])


@pytest.mark.parametrize("parent", _PARENTS, ids=str)
@every_child
def test_nodecompat_on_both_sides(stage: Stage, way: Way, parent: Way) -> None:
    seen = stage.play(
        way,
        [{"open": {"name": "c", "kind": "unix-connection"}}, {"send": 1, "handle": "c"},
         {"write": "c-far", "text": "hello"}, {"close": "c-far"}],
        [{"wait": {"messages": 1}}, {"read": "in1"}, "disconnect"],
        counterpart=parent.command,
    )  # fmt: skip
    well(
        seen,
        ["disconnect"],
        [message(1, "unix-connection"), {"read": {"in1": "hello"}}, "disconnect"],
    )


@every_way
def test_steps_go_on_where_they_waited(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"wait": {"messages": 1}}, {"say": "one"}, {"wait": {"messages": 3}}, {"say": "three"},
         {"wait": "disconnect"}, {"say": "over"}],
        [{"send": {"$": "n"}, "times": 4}, "disconnect"],
    )  # fmt: skip
    expected = [
        message(0), {"said": "one"}, message(1), message(2), {"said": "three"}, message(3),
        "disconnect", {"said": "over"},
    ]  # fmt: skip
    well(seen, expected, ["disconnect"])


@every_way
def test_counting(stage: Stage, way: Way) -> None:
    steps: Steps = [
        "count",
        {"send": {"$": "n"}, "times": 20},
        {"send": "x"},
        {"send": {"n": 20}},
        {"send": {"n": 22}},
        {"send": {"n": 21, "more": 1}},
        {"send": 21},
        {"wait": {"messages": 25}},
    ]
    expected = [
        {"counted": 20}, message("x"), {"counted": 21}, message({"n": 22}),
        message({"n": 21, "more": 1}), {"counted": 22}, "disconnect",
    ]  # fmt: skip
    seen = stage.play(way, [*steps, "disconnect"], [*steps, {"wait": "disconnect"}])
    well(seen, expected, expected)


@every_way
def test_count_is_told_before_an_exit(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        ["count", {"wait": {"messages": 2}}, {"exit": 0}],
        [{"send": {"$": "n"}, "times": 2}, {"wait": "disconnect"}],
    )
    well(seen, [{"counted": 2}], ["disconnect"])


@every_way
def test_callbacks(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"send": 1, "callback": "a"}, {"wait": {"sent": "a"}},
         {"send": {"$": "n"}, "times": 3, "callback": "b"}, {"wait": {"sent": "b"}},
         "disconnect", {"wait": "disconnect"},
         {"send": 2, "callback": "c"}, {"wait": {"sent": "c"}}],
        [{"wait": {"messages": 4}}],
    )  # fmt: skip
    failed = {"sent": "c", "error": "ERR_IPC_CHANNEL_CLOSED"}
    well(
        seen,
        [{"sent": "a"}, {"sent": "b"}, "disconnect", failed],
        [*map(message, [1, 0, 1, 2]), "disconnect"],
    )


@every_way
def test_what_calls_raise(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"send": {"$": "undefined"}}, {"send": {"$": "undefined"}, "callback": "never"},
         {"send": "goes on"}, {"wait": {"messages": 1}}, "disconnect", {"wait": "disconnect"},
         {"send": 1}, "disconnect"],
        [{"wait": {"messages": 1}}, {"send": 1}],
    )  # fmt: skip
    threw = [{"threw": "ERR_INVALID_ARG_TYPE"}] * 2
    after = [{"threw": "ERR_IPC_CHANNEL_CLOSED"}, {"threw": "ERR_IPC_DISCONNECTED"}]
    well(seen, [*threw, message(1), "disconnect", *after], [message("goes on"), "disconnect"])


@every_child
def test_child_ends_with_a_status(stage: Stage, way: Way) -> None:
    seen = stage.play(way, [{"send": 1}, {"exit": 7}], [{"wait": "exit"}, {"say": "gone"}])
    assert seen.status == 7
    assert seen.me == []
    assert [each for each in seen.other if each != "disconnect"] == [message(1), {"said": "gone"}]


@every_parent
@pytest.mark.parametrize(("step", "outcome"), [({"exit": 7}, 7), ({"die": "SIGINT"}, "SIGINT")])
def test_parent_observes_the_end_of_its_child(
    stage: Stage, way: Way, step: Any, outcome: Any
) -> None:
    seen = stage.play(way, [{"wait": "exit"}, {"say": "gone"}], [{"send": 1}, step])
    report = stage.report("parent")
    assert report[0] == message(1)
    assert sorted(map(str, report[1:])) == sorted(
        map(str, ["disconnect", {"exit": outcome}, {"said": "gone"}])
    )
    assert report.index({"exit": outcome}) < report.index({"said": "gone"})
    assert seen.status == 0


@every_parent
def test_messages_of_a_child_come_before_its_exit(stage: Stage, way: Way) -> None:
    # As much as the kernel keeps; and busy, so that all of it and the exit are there at once.
    send = {"send": {"$": "repeat", "of": "x", "times": 1000}, "times": 60, "callback": "all"}
    seen = stage.play(
        way,
        [{"wait": {"messages": 1}}, {"busy": 700}, {"wait": "exit"}],
        [{"send": 1}, send, {"wait": {"sent": "all"}}, {"exit": 0}],
    )
    assert seen.me == [message(1), *[message("x" * 1000)] * 60, "disconnect"]
    assert {"exit": 0} in stage.report("parent")[61:]


@every_parent
def test_parent_ends_with_a_status(stage: Stage, way: Way) -> None:
    seen = stage.play(way, [{"wait": {"messages": 1}}, {"exit": 7}], [{"send": 1}])
    assert (seen.me, seen.status) == ([message(1)], 7)


@every_way
def test_end_of_a_script(stage: Stage, way: Way) -> None:
    other: Steps = [{"wait": {"messages": 1}}, {"say": "got"}, {"wait": "disconnect"}]
    seen = stage.play(way, [{"send": "last"}, "end", {"say": "never"}], other)
    assert (seen.me, seen.status) == ([], 0), seen.stderr
    if way.role == "child":
        assert seen.other == [message("last"), {"said": "got"}, "disconnect"]


@every_child
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL", "SIGPIPE"])
def test_child_dies(stage: Stage, way: Way, name: str) -> None:
    seen = stage.play(way, [{"say": "now"}, {"die": name}], [{"wait": "exit"}])
    assert (seen.me, seen.other, seen.status) == ([{"said": "now"}], ["disconnect"], name)


@every_parent
def test_kill(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way, [{"wait": {"messages": 1}}, {"kill": "SIGKILL"}, {"wait": "exit"}], [{"send": 1}]
    )
    assert seen.me == [message(1), "disconnect"]
    assert {"exit": "SIGKILL"} in stage.report("parent")


@every_way
def test_busy_reads_nothing(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"send": "busy"}, {"busy": 300}, {"say": "awake"}, {"wait": {"messages": 1}},
         "disconnect"],
        [{"wait": {"messages": 1}}, {"send": "while busy"}],
    )  # fmt: skip
    well(
        seen,
        [{"said": "awake"}, message("while busy"), "disconnect"],
        [message("busy"), "disconnect"],
    )


@every_way
def test_what_it_tells(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"tell": "connected"}, {"tell": "channel"}, {"tell": "env"}, {"tell": "inherited"},
         "disconnect", {"wait": "disconnect"}, {"tell": "connected"}, {"tell": "channel"}],
        [],
    )  # fmt: skip
    before: list[Any] = [
        {"is": {"connected": True}}, {"is": {"channel": True}}, {"is": {"env": []}},
        {"is": {"inherited": []}},
    ]  # fmt: skip
    after = [{"is": {"connected": False}}, {"is": {"channel": False}}]
    well(seen, [*before, "disconnect", *after], ["disconnect"])


def test_variables_that_are_there_are_told(stage: Stage) -> None:
    plan = stage.plan(
        "parent",
        "json",
        [{"tell": "env"}, {"tell": "inherited"}],
        {"how": "spawn", "command": sys.executable, "args": ["-c", ""], "env": {}},
    )
    variables = {"NODE_CHANNEL_SERIALIZATION_MODE": "json", "NODE_UNIQUE_ID": "1"}
    subprocess.run(
        [*_PARENTS[0].command, plan], check=True, timeout=_LIMIT, env={**os.environ, **variables}
    )
    names = list(variables)
    assert stage.report("parent")[:2] == [{"is": {"env": names}}, {"is": {"inherited": names}}]


@every_parent
def test_environment_of_the_child(stage: Stage, way: Way) -> None:
    code = "import os, sys; sys.exit(int(os.environ['EXTRA']) + 40)"
    seen = stage.play(way, [], [], counterpart=[sys.executable, "-c", code])
    assert seen.me == ["disconnect"]
    assert {"exit": 41} in stage.report("parent")


# ------------------------------------------------------------------------------------------ errors


@every_parent
def test_error_of_a_channel_as_the_parent(stage: Stage, way: Way) -> None:
    code = "import os; os.write(int(os.environ['NODE_CHANNEL_FD']), b'1\\nnonsense\\n')"
    seen = stage.play(way, [], [], counterpart=[sys.executable, "-c", code])
    assert seen.me == [message(1), {"error": "ProtocolError"}, "disconnect"]


@every_parent
def test_half_a_message_is_an_ordinary_end(stage: Stage, way: Way) -> None:
    code = "import os; os.write(int(os.environ['NODE_CHANNEL_FD']), b'1\\n[2,')"
    seen = stage.play(way, [], [], counterpart=[sys.executable, "-c", code])
    assert seen.me == [message(1), "disconnect"]


@every_child
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"1\nnonsense\n", [message(1), {"error": "ProtocolError"}, "disconnect"]),
        (b"1\n[2,", [message(1), "disconnect"]),
    ],
)
def test_error_of_a_channel_as_the_child(
    stage: Stage, way: Way, data: bytes, expected: list[Any]
) -> None:
    with stage.child_of_ours(way, []) as (process, channel):
        channel.sendall(data)
        channel.shutdown(socket.SHUT_WR)
        assert process.wait(_LIMIT) == 0
    assert stage.report("child") == expected


@every_child
@pytest.mark.parametrize("label", [None, "given"])
def test_handle_that_nobody_takes(stage: Stage, way: Way, label: str | None) -> None:
    send: dict[str, Any] = {"send": 1, "handle": "c"}
    expected: dict[str, str] = {"error": "HandleNotReceived"}
    if label is not None:
        send["callback"] = label
        expected = {"sent": label, "error": "HandleNotReceived"}
    elif way.name != "process":
        # There it is the call that raises.
        expected = {"threw": "HandleNotReceived"}
    steps: Steps = [{"open": {"name": "c", "kind": "tcp-connection"}}, send, {"wait": "disconnect"}]
    with stage.child_of_ours(way, steps) as (process, channel):
        assert channel.recv(1)
        channel.shutdown(socket.SHUT_RDWR)
        assert process.wait(_LIMIT) == 0
    assert sorted(stage.report("child"), key=str) == sorted(["disconnect", expected], key=str)


@every_child
def test_busy_leaves_all_in_the_kernel(stage: Stage, way: Way) -> None:
    steps: Steps = [{"send": "busy"}, {"busy": 1500}, {"send": "awake"}]
    with stage.child_of_ours(way, steps) as (process, channel):
        assert channel.recv(100) == b'"busy"\n'
        # Of Node's own, so that no listener has to run before the next is read.
        channel.sendall((b'{"cmd":"NODE_NOTHING","text":"' + b"x" * 2**20 + b'"}\n') * 16)
        # Much more than the kernel keeps: it reads again, so it has said that it is awake.
        assert select.select([channel], [], [], 0)[0]
        assert channel.recv(100) == b'"awake"\n'
        channel.shutdown(socket.SHUT_WR)
        assert process.wait(_LIMIT) == 0


@every_way
@pytest.mark.parametrize("step", [{"fly": 1}, {"send": {"$": "temporal"}}], ids=json.dumps)
def test_unknown_step(stage: Stage, way: Way, step: Any) -> None:
    _ends_as_unsupported(stage, way, step)


@pytest.mark.parametrize(
    "step",
    [
        {"send": 1, "compress": True},
        {"wait": "a while"},
        {"wait": "exit"},
        {"tell": "fortune"},
        {"kill": "SIGTERM"},
        {"open": {"name": "a", "kind": "pipe"}},
        {"open": {"name": "a", "kind": "tcp-server", "sort": 1}},
        {"send": {"$": "view", "type": "Int4Array", "hex": ""}},
    ],
    ids=json.dumps,
)
def test_unknown_part_of_a_step(stage: Stage, step: Any) -> None:
    _ends_as_unsupported(stage, Way("process", "child"), step)


def _ends_as_unsupported(stage: Stage, way: Way, step: Any) -> None:
    seen = stage.play(way, [{"say": 1}, step, {"say": 2}], [])
    assert seen.status == 3
    assert seen.me[-1] == {"unsupported": step}
    assert {"said": 2} not in seen.me


@every_way
def test_waiting_for_what_will_not_come(stage: Stage, way: Way) -> None:
    seen = stage.play(way, [{"wait": {"messages": 2}}], [{"send": 1}, "disconnect"])
    assert (seen.me, seen.status) == ([message(1), "disconnect"], 4)
    assert "waited for 2 messages, but the channel ended after 1" in seen.stderr


@pytest.mark.parametrize("way", [*_PARENTS, _CHILDREN[2]], ids=str)
def test_wrong_plan(stage: Stage, way: Way) -> None:
    path = stage.folder / "wrong.json"
    for content, text in [
        ("{", "no JSON"),
        ("[]", "no plan"),
        ('{"role": "child", "mode": "xml", "steps": [], "report": "r"}', "mode: 'xml' is none of"),
        ('{"role": "parent", "mode": "json", "steps": [], "report": "r"}', "start.how"),
    ]:
        path.write_text(content)
        done = stage.run(*way.command, path)
        assert (done.returncode, text in done.stderr) == (4, True), done.stderr
    assert stage.run(*way.command).returncode == 4


def test_process_is_for_children(stage: Stage) -> None:
    plan = stage.plan("parent", "json", [], {"how": "spawn", "command": "true", "args": []})
    done = stage.run(*Way("process", "parent").command, plan)
    assert done.returncode == 4
    assert "for children only" in done.stderr


# ----------------------------------------------------------------------------------------- handles

_SERVERS: Final = ["tcp-server", "unix-server", "net.Native-server"]
_CONNECTIONS: Final = ["tcp-connection", "unix-connection", "net.Native-connection"]
_DATAGRAMS: Final = ["udp4", "udp6", "dgram.Native"]


def _in_python(kind: str) -> str:
    """What it comes as: a plain socket, whatever it was sent as."""
    kind = "udp4" if kind == "dgram.Native" else kind
    return kind.replace("net.Native", "tcp")


# Who has read the text is the one that disconnects.


def _take(kind: str) -> Steps:
    steps: Steps = [{"wait": {"messages": 1}}, {"send": "ready"}]
    if kind in _SERVERS:
        return [*steps, {"serve": "in1", "reply": "hello"}, {"close": "in1"}]
    return [*steps, {"read": "in1"}, {"close": "in1"}, "disconnect"]


def _taken(kind: str, comes_as: str) -> list[Any]:
    used = {"served": "in1"} if kind in _SERVERS else {"read": {"in1": "hello"}}
    return [message(kind, comes_as), used, "disconnect"]


def _give(kind: str) -> Steps:
    steps: Steps = [{"open": {"name": "h", "kind": kind}}, {"send": kind, "handle": "h"}]
    # What this side has closed only the other can accept, and read.
    steps += [{"wait": {"messages": 1}}, {"close": "h"}]
    if kind in _SERVERS:
        return [*steps, {"dial": "h"}, "disconnect"]
    return [*steps, {"write": "h-far", "text": "hello"}, {"close": "h-far"}]


def _given(kind: str) -> list[Any]:
    read = [{"read": {"h": "hello"}}] if kind in _SERVERS else []
    return [message("ready"), *read, "disconnect"]


@every_way
@pytest.mark.parametrize("kind", [*_SERVERS, *_CONNECTIONS, *_DATAGRAMS])
def test_handle_given(stage: Stage, way: Way, kind: str) -> None:
    seen = stage.play(way, _give(kind), _take(kind))
    well_in_any_order(seen, _given(kind), _taken(kind, kind))


@every_way
@pytest.mark.parametrize("kind", [*_SERVERS, *_CONNECTIONS, *_DATAGRAMS])
def test_handle_taken(stage: Stage, way: Way, kind: str) -> None:
    seen = stage.play(way, _take(kind), _give(kind), "advanced")
    well_in_any_order(seen, _taken(kind, _in_python(kind)), _given(kind))


@every_way
def test_datagrams_are_answered(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"wait": {"messages": 1}}, {"send": 2}, {"read": "in1"}, {"write": "in1", "text": "pong"},
         {"close": "in1"}, {"wait": "disconnect"}],
        [{"open": {"name": "h", "kind": "udp4"}}, {"send": 1, "handle": "h"},
         {"wait": {"messages": 1}}, {"close": "h"}, {"write": "h-far", "text": "ping"},
         {"read": "h-far"}, "disconnect"],
    )  # fmt: skip
    well(
        seen,
        [message(1, "udp4"), {"read": {"in1": "ping"}}, "disconnect"],
        [message(2), {"read": {"h-far": "pong"}}, "disconnect"],
    )


@every_way
def test_messages_behind_handles_and_two_of_them(stage: Stage, way: Way) -> None:
    steps: Steps = [
        {"open": {"name": "a", "kind": "tcp-connection"}},
        {"open": {"name": "b", "kind": "udp4"}},
        {"send": 1, "handle": "a"},
        {"send": 2},
        {"send": 3, "handle": "b"},
        {"wait": {"messages": 3}},
    ]
    expected = [message(1, "tcp-connection"), message(2), message(3, "udp4"), "disconnect"]
    seen = stage.play(way, [*steps, "disconnect"], [*steps, {"wait": "disconnect"}])
    well(seen, expected, expected)


@every_way
def test_connection_stays_open_or_not(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"open": {"name": "c", "kind": "tcp-connection"}},
         {"send": 1, "handle": "c", "keep_open": True},
         {"write": "c", "text": "still here"}, {"close": "c"}, {"read": "c-far"},
         {"open": {"name": "d", "kind": "tcp-connection"}},
         {"send": 2, "handle": "d", "callback": "taken"}, {"wait": {"sent": "taken"}},
         {"send": 3, "handle": "d"}, "disconnect"],
        [{"wait": {"messages": 1}}, {"close": "in1"}],
    )  # fmt: skip
    well(
        seen,
        [{"read": {"c-far": "still here"}}, {"sent": "taken"},
         {"threw": "ERR_INVALID_HANDLE_TYPE"}, "disconnect"],
        [message(1, "tcp-connection"), message(2, "tcp-connection"), "disconnect"],
    )  # fmt: skip


@every_way
def test_errors_of_sockets_are_observed(stage: Stage, way: Way) -> None:
    seen = stage.play(
        way,
        [{"open": {"name": "s", "kind": "tcp-server"}}, {"close": "s"}, {"dial": "s"},
         {"serve": "s", "reply": ""}, "disconnect"],
        [],
    )  # fmt: skip
    well(seen, [{"threw": "ECONNREFUSED"}, {"threw": "EBADF"}, "disconnect"], ["disconnect"])


@every_way
def test_descriptors(stage: Stage, way: Way) -> None:
    mine: Steps = [
        "mark_fds",
        {"open": {"name": "c", "kind": "unix-connection"}},
        {"send": 1, "handle": "c"},
        "check_fds",
        {"close": "c-far"},
        "check_fds",
        {"wait": {"messages": 1}},
        "check_fds",
        {"close": "in1"},
        "check_fds",
        "disconnect",
        {"wait": "disconnect"},
        "check_fds",
    ]
    other: Steps = [
        {"open": {"name": "s", "kind": "tcp-server"}},
        {"wait": {"messages": 1}},
        {"wait": {"messages": 2}},
        {"send": 2, "handle": "s"},
    ]
    mine.insert(6, {"send": "go on"})
    seen = stage.play(way, mine, other)
    zero, one = {"fds": 0}, {"fds": 1}
    assert seen.status == 0, seen.stderr
    assert seen.me == [one, zero, message(2, "tcp-server"), one, zero, "disconnect", zero]


@every_parent
def test_counted_connections(stage: Stage, way: Way) -> None:
    mine: Steps = [
        {"open": {"name": "s", "kind": "tcp-server", "counted": True}},
        {"open": {"name": "a", "kind": "tcp-accepted", "of": "s"}},
        {"open": {"name": "b", "kind": "tcp-accepted", "of": "s"}},
        {"connections": "s"},
        {"send": 1, "handle": "a"},
        {"connections": "s"},
        {"close": "b"},
        {"connections": "s"},
        {"send": "close it"},
        {"wait": {"messages": 1}},
        {"connections": "s"},
        {"close": "s"},
        "disconnect",
    ]
    other = [{"wait": {"messages": 2}}, {"close": "in1"}, {"send": "closed"}]
    seen = stage.play(way, mine, other)
    counts = [{"is": {"connections": number}} for number in (2, 2, 1)]
    well(
        seen,
        [*counts, message("closed"), {"is": {"connections": 0}}, "disconnect"],
        [message(1, "tcp-connection"), message("close it"), "disconnect"],
    )


@every_parent
def test_counted_server_serves_and_travels(stage: Stage, way: Way) -> None:
    mine: Steps = [
        {"open": {"name": "s", "kind": "tcp-server", "counted": True}},
        {"send": 1, "handle": "s"},
        {"wait": {"messages": 1}},
        {"serve": "s", "reply": "mine"},
        {"connections": "s"},
        {"wait": "disconnect"},
    ]
    other = [
        {"wait": {"messages": 1}}, {"close": "in1"}, {"send": 2}, {"dial": "in1"}, "disconnect",
    ]  # fmt: skip
    seen = stage.play(way, mine, other)
    well_in_any_order(
        seen,
        [message(2), {"served": "s"}, {"is": {"connections": 0}}, "disconnect"],
        [message(1, "tcp-server"), {"read": {"in1": "mine"}}, "disconnect"],
    )


def test_process_counts_nothing(stage: Stage) -> None:
    step = {"open": {"name": "s", "kind": "tcp-server", "counted": True}}
    seen = stage.play(Way("process", "child"), [step], [])
    assert (seen.me[-1], seen.status) == ({"unsupported": step}, 3)


def test_long_folder_has_no_unix_sockets(stage: Stage) -> None:
    stage.folder = stage.folder / ("long" * 30)
    stage.folder.mkdir()
    seen = stage.play(
        _PARENTS[0],
        [{"open": {"name": "s", "kind": "unix-server"}}, {"send": 1, "handle": "s"},
         {"wait": {"messages": 1}}, {"dial": "s"}, "disconnect"],
        [{"wait": {"messages": 1}}, {"send": 2}, {"serve": "in1", "reply": "far"}],
    )  # fmt: skip
    well_in_any_order(
        seen,
        [message(2), {"read": {"s": "far"}}, "disconnect"],
        [message(1, "unix-server"), {"served": "in1"}, "disconnect"],
    )


@every_child
def test_observations_are_written_at_once(stage: Stage, way: Way) -> None:
    steps: Steps = [{"wait": {"messages": 1}}, {"send": "look"}]
    with stage.child_of_ours(way, steps) as (_, channel):
        channel.sendall(b"1\n")
        assert channel.recv(100) == b'"look"\n'
        assert stage.report("child") == [message(1)]
