"""The conformance suite's JavaScript peer: small plans, Node on both sides."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

_PEER = Path(__file__).parents[2] / "js-fixtures/conformance-peer.cjs"
_LIMIT = 40.0

Steps = list[Any]

both_modes = pytest.mark.parametrize("mode", ["json", "advanced"])


# ---------------------------------------------------------------------------------------- the stage


class Seen(NamedTuple):
    """What both sides reported, and how the parent ended."""

    parent: list[Any]
    child: list[Any]
    status: int
    stderr: str


class Stage:
    """Plays plans in a folder."""

    def __init__(self, folder: Path, node: str) -> None:
        self.folder = folder
        self.command = [node, str(_PEER)]

    def play(
        self,
        parent: Steps,
        child: Steps,
        mode: str = "json",
        *,
        how: str = "spawn",
        env: dict[str, str] | None = None,
        parent_env: dict[str, str] | None = None,
    ) -> Seen:
        for report in self.folder.glob("*.jsonl"):
            report.unlink()
        child_plan = str(self.plan("child", mode, child))
        start: dict[str, Any] = {"how": how, "env": env or {}}
        if how == "fork":
            start |= {"exec_path": self.command[0], "exec_argv": [], "module": str(_PEER)}
            start["args"] = [child_plan]
        else:
            start |= {"command": self.command[0], "args": [str(_PEER), child_plan]}
        done = self.run(self.plan("parent", mode, parent, start), parent_env or {})
        return Seen(self.report("parent"), self.report("child"), done.returncode, done.stderr)

    def plan(self, role: str, mode: str, steps: Steps, start: dict[str, Any] | None = None) -> Path:
        path = self.folder / f"{role}.json"
        plan = {"role": role, "mode": mode, "steps": steps, "report": f"{self.folder}/{role}.jsonl"}
        path.write_text(json.dumps(plan if start is None else {**plan, "start": start}))
        return path

    def run(self, plan: Path, env: dict[str, str], *fds: int) -> subprocess.CompletedProcess[str]:
        # No channel of whoever runs the tests.
        clean = {name: text for name, text in os.environ.items() if not name.startswith("NODE_")}
        with subprocess.Popen(
            [*self.command, plan],
            stderr=subprocess.PIPE,
            text=True,
            env={**clean, "TMPDIR": str(self.folder), **env},
            pass_fds=fds,
            # A group of their own, so that all can be ended.
            start_new_session=True,
        ) as process:
            try:
                _, stderr = process.communicate(timeout=_LIMIT)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(self.command, process.returncode, stderr=stderr)

    def report(self, role: str) -> list[Any]:
        path = self.folder / f"{role}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stage(node: str) -> Iterator[Stage]:
    # Not tmp_path: the path of a Unix-domain socket has to be short.
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        yield Stage(Path(folder), node)


def message(value: Any, handle: str | None = None) -> Any:
    return {"message": value} if handle is None else {"message": value, "handle": handle}


def ended(status: int | str = 0) -> list[Any]:
    """The end of the child and that of the channel, which come in either order."""
    return [{"exit": status}, "disconnect"]


def well(seen: Seen, parent: list[Any], child: list[Any], exit: int | str = 0) -> None:
    """Both sides observed that and the end, in order, and nothing went wrong."""
    last = [each for each in seen.parent if each in ended(exit)]
    assert [each for each in seen.parent if each not in last] == parent, seen.stderr
    assert sorted(last, key=str) == sorted(ended(exit), key=str), seen
    assert seen.child == child, seen.stderr
    assert seen.status == 0, seen.stderr


# ------------------------------------------------------------------------------------------- values

_BOTH: Final[list[Any]] = [
    None, True, False, 0, -5, 0.5, 1e300, "", "grüße \U0001f600", [], [1, [2, "x"]], {},
    {"a": {"b": [None]}}, {"z": 1, "a": 2}, {"$": "string", "units": [0xD83D]},
    {"$": "object", "entries": [["1", 1], ["$", 1], ["__proto__", {"x": 1}]]},
    {"$": "object", "entries": [[{"$": "string", "units": [0xDC00, 97]}, 1]]},
]  # fmt: skip

_ADVANCED: Final[list[Any]] = [
    {"u": {"$": "undefined"}, "after": 1},
    [{"$": "undefined"}, {"$": "hole"}, 3, {"$": "hole"}],
    *[{"$": "number", "is": each} for each in ("-0", "NaN", "Infinity", "-Infinity")],
    [{"$": "bigint", "is": "-123456789012345678901234567890"}],
    {"$": "date", "ms": 1714564800123},
    {"$": "date", "ms": None},
    {"$": "regexp", "source": "a+", "flags": "gi"},
    {"$": "map", "entries": [[1, "a"], [{"o": 1}, {"$": "map", "entries": []}]]},
    {"$": "set", "items": [1, "a", [2]]},
    {"$": "buffer", "hex": "00ff"},
    {"$": "buffer", "hex": ""},
    {"$": "arraybuffer", "hex": "00ff10"},
    *[
        {"$": "view", "type": f"{name}Array", "hex": "0102030405060708"}
        for name in ("Int8", "Uint8", "Uint8Clamped", "Int16", "Uint16", "Int32", "Uint32",
                     "Float32", "Float64")
    ],
    {"$": "view", "type": "DataView", "hex": "0102"},
    {"$": "error", "name": "TypeError", "message": "m"},
    {"$": "error", "name": "Error", "message": ""},
    {"$": "boxed", "of": 1},
    {"$": "boxed", "of": "s"},
    {"$": "boxed", "of": False},
    {"$": "boxed", "of": {"$": "bigint", "is": "5"}},
    {"$": "array", "length": 3, "items": {"1": "x"}, "properties": {"k": "v"}},
    {"$": "array", "length": 200000, "items": {"5": "a", "199999": [1]}},
    {"a": {"$": "def", "id": 1, "of": [1]}, "b": {"$": "ref", "id": 1}},
    {"$": "def", "id": 1, "of": {"me": {"$": "ref", "id": 1}}},
    [
        {"$": "def", "id": 1, "of": {"$": "map", "entries": [["me", {"$": "ref", "id": 1}]]}},
        {"$": "def", "id": 2, "of": {"$": "set", "items": [{"$": "ref", "id": 2}]}},
        {"$": "def", "id": 3, "of": {"$": "date", "ms": 5}},
        {"$": "ref", "id": 3},
    ],
]  # fmt: skip


@both_modes
def test_values_go_and_come(stage: Stage, mode: str) -> None:
    values = _BOTH + (_ADVANCED if mode == "advanced" else [])
    steps: Steps = [{"send": value} for value in values]
    steps.append({"wait": {"messages": len(values)}})
    expected = [message(value) for value in values]
    seen = stage.play(steps, [*steps, "disconnect"], mode)
    well(seen, expected, [*expected, "disconnect"])


def test_values_that_json_changes(stage: Stage) -> None:
    sent: Steps = [
        [{"$": "undefined"}, {"$": "hole"}, {"$": "number", "is": "NaN"}],
        {"a": {"$": "undefined"}, "b": {"$": "number", "is": "-0"}},
        {"$": "date", "ms": 0},
        {"$": "buffer", "hex": "6162", "repeat": 2},
        {"$": "view", "type": "Float64Array", "hex": "000000000000e03f"},
        {"$": "map", "entries": []},
        {"$": "object", "entries": [["b", 1], ["2", 2], ["1", 1]]},
        {"$": "array", "length": 2, "items": {"0": 1}, "properties": {"k": 1}},
        [{"$": "def", "id": 1, "of": [7]}, {"$": "ref", "id": 1}],
        {"$": "error", "name": "Own", "message": "m"},
        {"$": "boxed", "of": "s"},
        {"$": "undefined"},
        {"$": "bigint", "is": "1"},
    ]
    got: list[Any] = [
        [None, None, None],
        {"b": 0},
        "1970-01-01T00:00:00.000Z",
        {"type": "Buffer", "data": [97, 98, 97, 98]},
        {"0": 0.5},
        {},
        {"1": 1, "2": 2, "b": 1},
        [1, None],
        [[7], [7]],
        {},
        "s",
    ]
    seen = stage.play(
        [{"send": each} for each in sent], [{"wait": {"messages": len(got)}}, "disconnect"]
    )
    refused = [{"threw": "ERR_MISSING_ARGS"}, {"threw": "ERR_INVALID_ARG_TYPE"}]
    well(seen, refused, [*map(message, got), "disconnect"])
    assert list(seen.child[6]["message"]) == ["1", "2", "b"]


def test_long_values_are_digests(stage: Stage) -> None:
    values: Steps = [
        {"$": "repeat", "of": "é", "times": 1001},
        {"$": "repeat", "of": "\U0001f600", "times": 501},
        {"$": "repeat", "of": {"$": "string", "units": [97, 0xD800]}, "times": 501},
        {"$": "string", "units": [0xDFFF] * 1001},
        {"$": "buffer", "hex": "00ff", "repeat": 501},
        {"$": "arraybuffer", "hex": "01", "repeat": 1001},
        {"$": "view", "type": "Uint16Array", "hex": "00ff", "repeat": 501},
        {"$": "repeat", "of": "x", "times": 1000},
        {"$": "buffer", "hex": "61", "repeat": 1000},
    ]
    seen = stage.play(
        [{"send": each} for each in values],
        [{"wait": {"messages": len(values)}}, "disconnect"],
        "advanced",
    )
    digests = [
        message({
            "$": "digest", "of": of, "length": length, "sha256": hashlib.sha256(data).hexdigest(),
        })
        for of, length, data in (
            ("string", 1001, "é".encode() * 1001),
            ("string", 1002, "\U0001f600".encode() * 501),
            ("string", 1002, b"a\xed\xa0\x80" * 501),
            ("string", 1001, b"\xed\xbf\xbf" * 1001),
            ("buffer", 1002, b"\x00\xff" * 501),
            ("buffer", 1001, b"\x01" * 1001),
            ("buffer", 1002, b"\x00\xff" * 501),
        )
    ]  # fmt: skip
    whole = [message("x" * 1000), message({"$": "buffer", "hex": "61" * 1000})]
    well(seen, [], [*digests, *whole, "disconnect"])


# ----------------------------------------------------------------------------- messages and the end


@pytest.mark.parametrize("how", ["spawn", "fork"])
@both_modes
def test_both_ways_to_start(stage: Stage, mode: str, how: str) -> None:
    seen = stage.play(
        [{"send": {"a": 1}}, {"wait": {"messages": 1}}, "disconnect"],
        [{"wait": {"messages": 1}}, {"send": "back"}],
        mode,
        how=how,
    )
    well(seen, [message("back")], [message({"a": 1}), "disconnect"])
    assert seen.parent[:2] == [message("back"), "disconnect"]


def test_steps_go_on_as_soon_as_it_was_observed(stage: Stage) -> None:
    seen = stage.play(
        [{"send": {"$": "n"}, "times": 3}, {"wait": "disconnect"}, {"say": "over"},
         {"wait": "exit"}, {"say": "ended"}],
        [{"wait": {"messages": 1}}, {"say": "one"}, {"wait": {"messages": 3}}, {"say": "three"},
         "disconnect", {"wait": "disconnect"}, {"say": "alone"}],
    )  # fmt: skip
    # Messages that come in one piece must not get in between.
    assert seen.child == [
        message(0), {"said": "one"}, message(1), message(2), {"said": "three"}, "disconnect",
        {"said": "alone"},
    ]  # fmt: skip
    assert seen.parent.index("disconnect") < seen.parent.index({"said": "over"})
    assert seen.parent[-1] == {"said": "ended"}
    assert seen.status == 0, seen.stderr


def test_callbacks(stage: Stage) -> None:
    seen = stage.play(
        [{"send": {"n": {"$": "n"}}, "times": 3, "callback": "all"}, {"wait": {"sent": "all"}},
         {"say": "done"}, "disconnect", {"send": 1, "callback": "late"}, {"send": 2}, "disconnect"],
        [],
    )  # fmt: skip
    late = {"sent": "late", "error": "ERR_IPC_CHANNEL_CLOSED"}
    assert seen.parent[:3] == [{"sent": "all"}, {"said": "done"}, {"error": "ERR_IPC_DISCONNECTED"}]
    # Before the peer ends, whatever comes first.
    assert late in seen.parent
    assert {"error": "ERR_IPC_CHANNEL_CLOSED"} in seen.parent
    assert len(seen.parent) == 7, seen
    assert seen.child == [message({"n": n}) for n in range(3)] + ["disconnect"]


def test_exit_ends_at_once(stage: Stage) -> None:
    seen = stage.play([{"wait": "exit"}], [{"say": "now"}, {"exit": 7}, {"say": "never"}])
    well(seen, [], [{"said": "now"}], 7)
    seen = stage.play([{"wait": {"messages": 1}}, {"exit": 5}], [{"send": "ready"}])
    assert (seen.status, seen.parent) == (5, [message("ready")])


def test_die(stage: Stage) -> None:
    seen = stage.play([], [{"die": "SIGKILL"}, {"say": "never"}])
    well(seen, [], [], "SIGKILL")


def test_kill(stage: Stage) -> None:
    seen = stage.play([{"wait": {"messages": 1}}, {"kill": "SIGTERM"}], [{"send": "ready"}])
    well(seen, [message("ready")], [], "SIGTERM")


def test_end_keeps_nothing_alive(stage: Stage) -> None:
    # Nobody disconnects: a child that listens would stay for ever.
    seen = stage.play([{"send": "unheard"}], [{"say": "last"}, "end", {"say": "never"}])
    well(seen, [], [{"said": "last"}])


def test_end_of_a_parent(stage: Stage) -> None:
    seen = stage.play(["end"], [{"send": "unheard"}, "disconnect"])
    assert (seen.parent, seen.child, seen.status) == ([], ["disconnect"], 0), seen.stderr


def test_child_stays_until_the_end_of_the_channel(stage: Stage) -> None:
    seen = stage.play(
        [{"wait": {"messages": 1}}, {"send": "later"}, "disconnect"], [{"send": "played"}]
    )
    well(seen, [message("played")], [message("later"), "disconnect"])


def test_busy_blocks(stage: Stage) -> None:
    before = time.monotonic()
    seen = stage.play(
        [{"send": "meanwhile"}], [{"busy": 700}, {"say": "awake"}, {"wait": {"messages": 1}},
                                  "disconnect"],
    )  # fmt: skip
    well(seen, [], [{"said": "awake"}, message("meanwhile"), "disconnect"])
    assert time.monotonic() - before >= 0.7


def test_counting(stage: Stage) -> None:
    seen = stage.play(
        [{"send": {"$": "n"}, "times": 500}, {"send": {"n": 500}}, {"send": "x"}, {"send": 501},
         {"send": 501}, {"send": {"n": 502, "more": 1}}, {"send": 502}, {"wait": {"messages": 1}},
         {"send": 503}],
        ["count", {"wait": {"messages": 506}}, {"say": "all"}, {"send": 0},
         {"wait": {"messages": 507}}, {"exit": 0}],
    )  # fmt: skip
    well(
        seen,
        # A side that was not told to count does not.
        [message(0)],
        [{"counted": 501}, message("x"), {"counted": 502}, message(501),
         message({"n": 502, "more": 1}), {"counted": 503}, {"said": "all"}, {"counted": 504}],
    )  # fmt: skip


def test_counted_before_the_end(stage: Stage) -> None:
    seen = stage.play(
        ["count", {"wait": {"messages": 2}}, {"die": "SIGKILL"}],
        [{"send": {"$": "n"}, "times": 2}],
    )
    assert (seen.parent, seen.status) == ([{"counted": 2}], -signal.SIGKILL)
    assert seen.child == ["disconnect"]


def test_what_there_is_to_tell(stage: Stage) -> None:
    names = ("connected", "channel", "env", "inherited")
    steps: Steps = [{"tell": name} for name in names]
    # Without NODE_CHANNEL_FD beside it Node leaves it where it is.
    left = "NODE_CHANNEL_SERIALIZATION_MODE"
    seen = stage.play(
        [*steps, {"wait": "exit"}, {"wait": "disconnect"}, *steps[:2]],
        [*steps, "disconnect", *steps[:2]],
        parent_env={left: "json"},
    )
    told = [{"is": {"connected": True}}, {"is": {"channel": True}}]
    over = [{"is": {"connected": False}}, {"is": {"channel": False}}]
    assert seen.parent[:4] == [*told, {"is": {"env": [left]}}, {"is": {"inherited": [left]}}]
    assert seen.parent[6:] == over
    # Node lets go of the channel a little later than it says so.
    child = [*told, {"is": {"env": []}}, {"is": {"inherited": []}}, over[0]]
    assert seen.child[:5] == child
    assert seen.child[5] in [told[1], over[1]]
    assert seen.child[6:] == ["disconnect"]
    assert seen.status == 0, seen.stderr


def test_environment_is_added_to(stage: Stage) -> None:
    seen = stage.play([], ["disconnect"], env={"NODE_OPTIONS": "--require=./not-there.cjs"})
    assert {"exit": 1} in seen.parent
    assert seen.child == []
    assert "not-there.cjs" in seen.stderr


# ------------------------------------------------------------------------------------------ handles

_READY: Final[Any] = {"wait": {"messages": 1}}


@both_modes
@pytest.mark.parametrize("kind", ["tcp-server", "unix-server", "net.Native-server"])
def test_servers(stage: Stage, kind: str, mode: str) -> None:
    seen = stage.play(
        [{"open": {"name": "s", "kind": kind}}, {"send": "take", "handle": "s"}, _READY,
         # Whoever listens may accept: only the child is to.
         {"close": "s"}, {"dial": "s"}, {"send": "again"}, {"dial": "s"},
         {"wait": {"messages": 2}}, {"dial": "s"}, {"send": "end"}],
        [_READY, {"send": "have"}, {"serve": "in1", "reply": "hello"},
         {"serve": "in1", "reply": {"$": "repeat", "of": "x", "times": 1001}},
         {"wait": {"messages": 2}}, {"close": "in1"}, {"send": "closed"}, {"wait": {"messages": 3}},
         "disconnect"],
        mode,
    )  # fmt: skip
    digest = {
        "$": "digest", "of": "string", "length": 1001,
        "sha256": hashlib.sha256(b"x" * 1001).hexdigest(),
    }  # fmt: skip
    read = [each for each in seen.parent if "read" in each]
    assert read == [{"read": {"s": "hello"}}, {"read": {"s": digest}}]
    assert [each for each in seen.parent if "threw" in each] == [{"threw": "ECONNREFUSED"}]
    served = {"served": "in1"}
    assert [each for each in seen.child if each != message("again")] == [
        message("take", kind), served, served, message("end"), "disconnect",
    ]  # fmt: skip
    assert seen.status == 0, seen.stderr
    assert not list(stage.folder.glob("sockets-*"))


@both_modes
@pytest.mark.parametrize("kind", ["tcp-connection", "unix-connection", "net.Native-connection"])
def test_connections(stage: Stage, kind: str, mode: str) -> None:
    seen = stage.play(
        [{"open": {"name": "c", "kind": kind}}, {"send": "out", "handle": "c"}, _READY,
         {"close": "c"}, {"write": "c-far", "text": "to the child"}, {"close": "c-far"},
         {"open": {"name": "d", "kind": kind}}, {"send": "in", "handle": "d"},
         {"wait": {"messages": 2}}, {"close": "d"}, {"read": "d-far"}, {"close": "d-far"},
         "disconnect"],
        [_READY, {"send": "have"}, {"read": "in1"}, {"close": "in1"}, {"wait": {"messages": 2}},
         {"write": "in2", "text": "to the parent"}, {"close": "in2"}, {"send": "done"}],
        mode,
    )  # fmt: skip
    read = {"read": {"d-far": "to the parent"}}
    well(seen, [message("have"), message("done"), read], seen.child)
    read = {"read": {"in1": "to the child"}}
    # The child reads while the next message comes.
    assert [each for each in seen.child if each != read] == [
        message("out", kind), message("in", kind), "disconnect",
    ]  # fmt: skip
    assert read in seen.child


@both_modes
@pytest.mark.parametrize("kind", ["udp4", "udp6", "dgram.Native"])
def test_datagrams(stage: Stage, kind: str, mode: str) -> None:
    if kind == "udp6":
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
                probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
    seen = stage.play(
        [{"open": {"name": "u", "kind": kind}}, {"send": "take", "handle": "u"}, _READY,
         {"close": "u"}, {"write": "u-far", "text": "to"}, {"read": "u-far"}, {"close": "u-far"},
         "disconnect"],
        [_READY, {"send": "have"}, {"write": "in1", "text": "to whom?"}, {"read": "in1"},
         {"write": "in1", "text": "fro"}, {"close": "in1"}],
        mode,
    )  # fmt: skip
    well(
        seen,
        [message("have"), {"read": {"u-far": "fro"}}],
        [message("take", kind), {"threw": "NoAddress"}, {"read": {"in1": "to"}}, "disconnect"],
    )


def test_handles_go_on_to_others(stage: Stage) -> None:
    seen = stage.play(
        [{"open": {"name": "u", "kind": "udp4"}}, {"send": 1, "handle": "u"}, {"close": "u"},
         _READY, {"write": "u-far", "text": "back again"}, {"read": "in1"}, {"wait": "exit"}],
        [_READY, {"send": 2, "handle": "in1", "callback": "gone"}, {"wait": {"sent": "gone"}},
         {"close": "in1"}, "disconnect"],
    )  # fmt: skip
    assert seen.parent[0] == message(2, "udp4")
    assert {"read": {"in1": "back again"}} in seen.parent
    assert {"sent": "gone"} in seen.child
    assert seen.status == 0, seen.stderr


@pytest.mark.parametrize("keep_open", [True, False])
def test_keeping_a_connection_open(stage: Stage, keep_open: bool) -> None:
    beside = {"keep_open": True} if keep_open else {}
    seen = stage.play(
        [{"open": {"name": "c", "kind": "tcp-connection"}}, {"send": 1, "handle": "c", **beside},
         {"write": "c", "text": "still mine"}, {"close": "c"}, _READY, {"read": "c-far"},
         "disconnect"],
        [_READY, {"close": "in1"}, {"send": "closed"}],
    )  # fmt: skip
    text = "still mine" if keep_open else ""
    read = {"read": {"c-far": text}}
    threw = [each for each in seen.parent if "threw" in each]
    assert [each for each in seen.parent if each not in [*ended(), *threw]] == [
        message("closed"), read,
    ]  # fmt: skip
    assert len(threw) == (0 if keep_open else 1)
    assert seen.status == 0, seen.stderr


def test_connections_of_a_server_are_counted(stage: Stage) -> None:
    server = {"name": "s", "kind": "tcp-server", "counted": True}
    seen = stage.play(
        [{"open": server}, {"open": {"name": "a", "kind": "tcp-accepted", "of": "s"}},
         {"open": {"name": "b", "kind": "tcp-accepted", "of": "s"}},
         {"connections": "s"}, {"send": 1, "handle": "a"}, {"wait": {"messages": 1}},
         {"close": "b"}, {"connections": "s"},
         {"send": "close"}, {"wait": {"messages": 2}}, {"connections": "s"}, "disconnect"],
        [_READY, {"send": "have"}, {"wait": {"messages": 2}}, {"close": "in1"}, {"send": "closed"}],
    )  # fmt: skip
    counts = [{"is": {"connections": number}} for number in (2, 1, 0)]
    well(
        seen,
        [counts[0], message("have"), counts[1], message("closed"), counts[2]],
        [message(1, "tcp-connection"), message("close"), "disconnect"],
    )


def test_descriptors_are_counted(stage: Stage) -> None:
    server = {"open": {"name": "s", "kind": "tcp-server"}}
    seen = stage.play(
        [_READY, "mark_fds", server, "check_fds", {"close": "s"}, "check_fds", "disconnect"],
        ["mark_fds", {"send": "marked"}, {"wait": "disconnect"}, "check_fds"],
    )
    fds = [{"fds": 1}, {"fds": 0}]
    well(seen, [message("marked"), *fds], ["disconnect", {"fds": 0}])


def test_handles_that_are_not_there(stage: Stage) -> None:
    steps: Steps = [
        {"send": 1, "handle": "in1"}, {"read": "in1"}, {"close": "in1"}, {"dial": "in1"},
        {"write": "in1", "text": "x"}, {"serve": "in1", "reply": "x"}, {"connections": "in1"},
        {"open": {"name": "u", "kind": "udp4"}}, {"dial": "u"},
    ]  # fmt: skip
    seen = stage.play([*steps, "disconnect"], [])
    well(seen, [{"threw": "NoSuchHandle"}] * 8, ["disconnect"])


# ------------------------------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    "step",
    [
        "dance",
        {"dance": 1},
        {"bytes": {"text": "x"}},
        {"kill": "SIGTERM"},
        {"wait": "exit"},
        {"wait": {"lines": 1}},
        {"tell": "weather"},
        {"say": "x", "loudly": True},
        {"open": {"name": "f", "kind": "file"}},
        {"open": {"name": "s", "kind": "tcp-server", "colour": "red"}},
        {"send": {"$": "view", "type": "Float128Array", "hex": ""}},
    ],
    ids=str,
)
def test_steps_that_it_does_not_know(stage: Stage, step: Any) -> None:
    seen = stage.play([], [{"say": "before"}, step, {"say": "after"}])
    well(seen, [], [{"said": "before"}, {"unsupported": step}], 3)


@pytest.mark.parametrize(
    "value, text",
    [
        ({"$": "colour"}, "no value is called {$: colour}"),
        ({"$": "ref", "id": 4}, "{$: ref, id: 4} comes before its def"),
        ({"$": "buffer", "hex": "0g"}, "not hex: 0g"),
    ],
)
def test_values_that_mean_nothing(stage: Stage, value: Any, text: str) -> None:
    seen = stage.play([], [{"send": value}, {"say": "after"}])
    well(seen, [], [], 4)
    assert text in seen.stderr


def test_messages_that_never_come(stage: Stage) -> None:
    seen = stage.play([{"wait": {"messages": 2}}], [{"send": 1}, "disconnect"])
    assert (seen.parent, seen.status) == ([message(1), *seen.parent[1:]], 4)
    assert "waited for 2 messages, but the channel ended after 1" in seen.stderr


def test_program_that_is_not_there(stage: Stage) -> None:
    start = {"how": "spawn", "command": "/not/there", "args": [], "env": {}}
    done = stage.run(stage.plan("parent", "json", [], start), {})
    assert (done.returncode, stage.report("parent")) == (4, [{"error": "ENOENT"}])
    assert "/not/there" in done.stderr


def test_wrong_plans(stage: Stage) -> None:
    done = stage.run(stage.folder / "nothing.json", {})
    assert done.returncode == 4
    assert "nothing.json" in done.stderr
    done = stage.run(stage.plan("child", "json", []), {})
    assert done.returncode == 4
    assert "this process has no channel" in done.stderr
    done = stage.run(stage.plan("parent", "json", [], {"how": "guess"}), {})
    assert done.returncode == 4
    assert "start.how is guess" in done.stderr


def test_what_the_implementation_throws_by_itself(stage: Stage) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.sendall(b"no json\n")
        done = stage.run(
            stage.plan("child", "json", []), {"NODE_CHANNEL_FD": str(far.fileno())}, far.fileno()
        )
    assert (done.returncode, stage.report("child")) == (1, [{"error": "SyntaxError"}])
    assert "no json" in done.stderr or "SyntaxError" in done.stderr
