"""Rounds that interleave, failures that are shown, processes that end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.figures import Sample
from benchmarks.runner import MeasurementError, measure, run_process, run_workload
from benchmarks.workloads import BASELINE, PEERS, Pairing, Peer, Workload

_WORK = Workload("work", "work", "message", 1, 0, ("sync", "asyncio"), ("sync",))
_ORDER = ["node-node", "node-sync", "node-asyncio", "sync-node"]


class _Clock:
    """Stands in for measuring: each measurement takes one second more than the one before."""

    def __init__(self, fails: str = "", in_turn: int = 0) -> None:
        self.order: list[str] = []
        self._fails = fails
        self._in_turn = in_turn

    def __call__(self, workload: Workload, pairing: Pairing) -> Sample:
        name = f"{pairing.parent.name}-{pairing.child.name}"
        self.order.append(name)
        if name == self._fails and self.order.count(name) > self._in_turn:
            raise MeasurementError("no luck")
        return Sample(float(len(self.order)), 1.0, 1.0, "parent", "child")


def _no_progress() -> None:
    pass


def test_the_rounds_go_a_b_a_b_after_one_that_does_not_count() -> None:
    clock = _Clock()
    outcome = run_workload(_WORK, 2, clock, _no_progress)
    assert clock.order == _ORDER * 3
    assert outcome.failures == []
    # Measurements 5 and 9 are Node's, 6 and 10 the first pairing's.
    assert outcome.figures[0].seconds.low == 6.0
    assert outcome.figures[0].seconds.high == 10.0
    assert outcome.figures[0].speed.low == 5 / 6


def test_the_baseline_is_measured_once_a_round() -> None:
    clock = _Clock()
    run_workload(_WORK, 3, clock, _no_progress)
    assert clock.order.count("node-node") == 4


def test_progress_is_told_of_every_measurement() -> None:
    told: list[None] = []
    clock = _Clock()
    run_workload(_WORK, 2, clock, lambda: told.append(None))
    assert len(told) == len(clock.order)


@pytest.mark.parametrize("in_turn", [0, 1, 2])
def test_what_fails_is_reported_and_the_others_go_on(in_turn: int) -> None:
    clock = _Clock("node-asyncio", in_turn)
    outcome = run_workload(_WORK, 2, clock, _no_progress)
    assert [(each.pairing.child.name, each.reason) for each in outcome.failures] == [
        ("asyncio", "no luck")
    ]
    assert [each.pairing.subject.name for each in outcome.figures] == ["sync", "sync"]
    assert clock.order.count("node-asyncio") == in_turn + 1


@pytest.mark.parametrize("in_turn", [0, 2])
def test_without_a_baseline_there_are_no_figures(in_turn: int) -> None:
    outcome = run_workload(_WORK, 2, _Clock("node-node", in_turn), _no_progress)
    assert outcome.figures == []
    assert [each.pairing for each in outcome.failures] == [BASELINE]


def test_output_is_what_the_command_printed() -> None:
    assert run_process([sys.executable, "-c", "print('a result')"], 30.0).strip() == "a result"


def test_a_command_that_fails_is_reported_with_what_it_said() -> None:
    code = "import sys; sys.exit('the reason')"
    with pytest.raises(MeasurementError, match=r"ended with 1:\nthe reason"):
        run_process([sys.executable, "-c", code], 30.0)


def test_a_command_that_says_nothing_is_reported_by_its_status() -> None:
    with pytest.raises(MeasurementError, match=r"^ended with 3$"):
        run_process([sys.executable, "-c", "raise SystemExit(3)"], 30.0)


def test_the_end_of_a_long_error_is_shown() -> None:
    code = "import sys; sys.exit('x' * 100_000 + ' the reason')"
    with pytest.raises(MeasurementError) as caught:
        run_process([sys.executable, "-c", code], 30.0)
    assert str(caught.value).endswith("x the reason")
    assert len(str(caught.value)) < 3000


def test_a_command_past_its_limit_ends_with_all_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, pathlib, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(sleep)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "print('half done', file=sys.stderr, flush=True)\n"
        "child.wait()\n"
    )
    with pytest.raises(MeasurementError, match=r"took more than 2 s:\nhalf done"):
        run_process([sys.executable, "-c", code], 2.0)
    assert _ended(int((tmp_path / "pid").read_text()))


def test_a_child_that_its_parent_left_behind_ends(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, pathlib\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "null = subprocess.DEVNULL\n"
        "child = subprocess.Popen(sleep, stdout=null, stderr=null)\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "child.returncode = 0\n"
    )
    run_process([sys.executable, "-c", code], 30.0)
    assert _ended(int((tmp_path / "pid").read_text()))


def _ended(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        # Nobody may be there to reap it; a zombie has ended.
        return process.status() == psutil.STATUS_ZOMBIE or bool(
            psutil.wait_procs([process], timeout=10)[0]
        )
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_a_command_on_one_core_leaves_the_harness_its_own() -> None:
    # In a process of its own: what another test left behind would hide the difference.
    code = (
        "import os, sys\n"
        "from benchmarks.runner import run_process\n"
        "before = os.sched_getaffinity(0)\n"
        "count = 'import os; print(len(os.sched_getaffinity(0)))'\n"
        "print(run_process([sys.executable, '-c', count], 30.0, one_core=True).strip())\n"
        "print(os.sched_getaffinity(0) == before)\n"
    )
    assert run_process([sys.executable, "-c", code], 60.0).split() == ["1", "True"]


@pytest.mark.parametrize("printed", ["", "no JSON", "[]", '{"seconds": 1}'])
def test_a_parent_that_prints_no_result_is_reported(tmp_path: Path, printed: str) -> None:
    parent = tmp_path / "parent.py"
    parent.write_text(f"print({printed!r})")
    pairing = Pairing(Peer("odd", "python", parent), PEERS["node"], "parent")
    with pytest.raises(MeasurementError, match="printed no result"):
        measure(_WORK, pairing, {"node": "node", "python": sys.executable}, 30.0)


def test_a_peer_that_is_no_parent_is_refused() -> None:
    pairing = Pairing(Peer("odd", "python"), PEERS["node"], "parent")
    with pytest.raises(ValueError, match="odd has no program for a parent"):
        measure(_WORK, pairing, {"node": "node", "python": sys.executable}, 30.0)


def test_a_work_that_the_child_does_not_know_is_shown(node: str) -> None:
    with pytest.raises(MeasurementError, match=r'child\.cjs has no work named "work"'):
        measure(_WORK, BASELINE, {"node": node, "python": sys.executable}, 30.0)


def test_the_error_of_a_child_that_dies_is_shown(node: str, tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text("raise SystemExit('the child gave up')")
    pairing = Pairing(PEERS["node"], Peer("odd", "python", child=child), "child")
    with pytest.raises(MeasurementError) as caught:
        measure(_WORK, pairing, {"node": node, "python": sys.executable}, 30.0)
    assert "the child gave up" in str(caught.value)
    assert "the child ended (code 1, signal null)" in str(caught.value)
