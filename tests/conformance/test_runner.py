"""Runs of fake peers: what each way of ending is called, and that nothing is left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from conformance.cases import Case, load_file
from conformance.deviations import Deviation
from conformance.implementations import Implementation
from conformance.matrix import Run, Subject, runs
from conformance.runner import Result, Runner

# A parent without a channel: it starts its child, waits for it, and reports what it is told to.
_PEER = """
import json, os, subprocess, sys, time
plan = json.load(open(sys.argv[-1]))
report = open(plan["report"], "ab", buffering=0)
def observe(what):
    report.write(json.dumps(what).encode() + b"\\n")
start = plan.get("start")
child = None
for step in plan["steps"]:
    match step:
        case {"say": text}: observe({"said": text})
        case {"wait": "exit"}:
            child = subprocess.Popen([start["command"], *start["args"]])
            observe({"exit": child.wait()})
        case "end": subprocess.Popen([start["command"], *start["args"]])
        case {"busy": ms}: time.sleep(ms / 1000)
        case {"exit": status}: os._exit(status)
        case {"tell": "env"}: observe({"is": {"env": [os.environ["TMPDIR"]]}})
        case {"die": _}: print("on purpose", flush=True); raise RuntimeError
        case "count": report.write(b"no JSON\\n")
        case _: observe({"unsupported": step}); os._exit(3)
"""

_CASE = """\
id: area/one
requirement: r
source: s
level: must
modes: [json]
limit: {limit}
parent: {{do: [{parent}], sees: [{parent_sees}]}}
child: {{do: [{child}], sees: [{child_sees}]}}
"""


@pytest.fixture
def fake(tmp_path: Path) -> Implementation:
    path = tmp_path / "peer.py"
    path.write_text(_PEER)
    return Implementation(
        name="fake",
        command=(sys.executable, str(path)),
        fork=None,
        roles=("parent", "child"),
        modes=("json",),
        node=None,
        env=(),
        version=(),
        problem=None,
    )


def _case(
    folder: Path,
    parent: str = "wait: exit",
    parent_sees: str = "exit: 0",
    child: str = "say: a",
    child_sees: str = "said: a",
    limit: float = 30,
) -> Case:
    path = folder / "area.yaml"
    path.write_text(
        _CASE.format(
            parent=parent,
            parent_sees=parent_sees,
            child=child,
            child_sees=child_sees,
            limit=limit,
        )
    )
    return load_file(path)[0]


def _result(case: Case, fake: Implementation, deviations: Sequence[Deviation] = ()) -> Result:
    run = Run(case, fake, fake, "json", "both", None)
    result = Runner(deviations).run(run)
    assert not [
        each
        for each in psutil.Process().children(recursive=True)
        if each.status() != psutil.STATUS_ZOMBIE
    ]
    return result


def test_pass(tmp_path: Path, fake: Implementation) -> None:
    result = _result(_case(tmp_path), fake)
    assert (result.outcome, result.reason) == ("pass", None)
    assert result.actual == {"parent": [{"exit": 0}], "child": [{"said": "a"}]}


def test_fail_shows_the_side_that_is_tested_first(tmp_path: Path, fake: Implementation) -> None:
    case = _case(tmp_path, parent_sees="exit: 1", child_sees="said: b")
    subjects: dict[Subject, str] = {"parent": "parent", "child": "child", "both": "parent"}
    for subject, side in subjects.items():
        result = Runner().run(Run(case, fake, fake, "json", subject, None))
        assert result.outcome == "fail"
        assert result.mismatch is not None
        assert result.mismatch[0] == side


def test_deviations(tmp_path: Path, fake: Implementation) -> None:
    known = Deviation(("fake",), None, ("area/*",), ("json",), ("*",), "because", None, "f:1")
    result = _result(_case(tmp_path, child_sees="said: b"), fake, [known])
    assert (result.outcome, result.reason) == ("expected-failure", "because")
    result = _result(_case(tmp_path), fake, [known])
    assert (result.outcome, result.unexpected) == ("unexpected-pass", True)


def test_an_unknown_step_is_not_applicable(tmp_path: Path, fake: Implementation) -> None:
    result = _result(_case(tmp_path, child="disconnect"), fake)
    assert result.outcome == "not-applicable"
    assert result.reason == 'the peer of fake does not know "disconnect"'


def test_time_limit_ends_both(tmp_path: Path, fake: Implementation) -> None:
    result = _result(_case(tmp_path, child="{say: a}, {busy: 100000}", limit=1), fake)
    assert result.outcome == "fail"
    assert result.reason is not None
    assert result.reason.startswith("it did not end within 1 s; still running: ")
    assert result.reason.count("peer.py") == 2


def test_a_child_left_over(tmp_path: Path, fake: Implementation) -> None:
    case = _case(tmp_path, "end", "", "{say: a}, {busy: 100000}", limit=2)
    result = _result(case, fake)
    assert result.outcome == "fail"
    assert result.reason is not None
    assert result.reason.count("peer.py") == 1


def test_a_peer_that_fails(tmp_path: Path, fake: Implementation) -> None:
    result = _result(_case(tmp_path, "count, {die: SIGKILL}", "", "say: a", ""), fake)
    assert result.outcome == "fail"
    assert result.reason is not None
    assert "the parent's report is wrong: line 1 is not JSON" in result.reason
    assert "the parent's peer ended with status 1" in result.reason
    assert "on purpose" in result.output
    assert "RuntimeError" in result.output


def test_the_status_that_a_step_asks_for(tmp_path: Path, fake: Implementation) -> None:
    assert _result(_case(tmp_path, "exit: 7", "", "say: a", ""), fake).outcome == "pass"


def test_a_program_that_cannot_be_started(tmp_path: Path, fake: Implementation) -> None:
    gone = replace(fake, command=(str(tmp_path / "gone"),))
    result = _result(_case(tmp_path), gone)
    assert result.outcome == "fail"
    assert "cannot be started" in str(result.reason)


def test_folders_go_or_are_kept(tmp_path: Path, fake: Implementation) -> None:
    case = _case(tmp_path, "tell: env", "is: {env: {$: any}}", "say: a", "")
    result = _result(case, fake)
    assert result.outcome == "pass"
    (observed,) = result.actual["parent"]
    assert not Path(observed["is"]["env"][0]).exists()
    keep = tmp_path / "keep"
    keep.mkdir()
    Runner(keep=keep).run(Run(case, fake, fake, "json", "both", None))
    (folder,) = keep.iterdir()
    assert {"parent.json", "child.json", "parent.jsonl"} <= {each.name for each in folder.iterdir()}


def test_side_by_side_and_in_order(tmp_path: Path, fake: Implementation) -> None:
    case = _case(tmp_path)
    planned = [
        Run(case, replace(fake, name=f"n{at}"), fake, "json", "both", None) for at in range(6)
    ]
    seen: list[Result] = []
    results = Runner(jobs=3).run_all(planned, seen.append)
    assert [result.run for result in results] == planned
    assert len(seen) == 6
    assert {result.outcome for result in results} == {"pass"}


def test_an_interrupt_ends_the_runs(tmp_path: Path, fake: Implementation) -> None:
    quick = Run(_case(tmp_path), fake, fake, "json", "both", None)
    hangs = Run(_case(tmp_path, child="busy: 900000", limit=900), fake, fake, "json", "both", None)

    def interrupt(_: Result) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runner(jobs=2).run_all([quick, hangs, hangs], interrupt)
    assert not [
        each
        for each in psutil.Process().children(recursive=True)
        if each.status() != psutil.STATUS_ZOMBIE
    ]


def test_matrix(tmp_path: Path, fake: Implementation) -> None:
    other = replace(fake, name="other", roles=("child",))
    node = replace(fake, name="node12", node=12)
    case = replace(_case(tmp_path), node=">=14")
    found = runs([case], [fake, other, node], [node], itself=True)
    assert {(run.parent.name, run.child.name, run.subject) for run in found} == {
        ("fake", "node12", "parent"),
        ("node12", "fake", "child"),
        ("fake", "fake", "both"),
        ("node12", "other", "child"),
        ("node12", "node12", "both"),
    }
    assert {run.not_applicable for run in found if "node12" in str(run)} == {
        "the case is for Node >=14"
    }
    raw = replace(case, node=None, child=replace(case.child, raw=True))
    assert [
        (run.parent.name, run.child.name, run.subject) for run in runs([raw], [fake, other], [node])
    ] == [("fake", "raw", "parent")]
    forked = replace(case, node=None, start="fork")
    (run, *_) = runs([forked], [fake], [node])
    assert run.not_applicable == "node12 cannot be started with fork"
