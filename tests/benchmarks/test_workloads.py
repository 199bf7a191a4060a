"""The tables of what is measured: they hold together, and every program knows its part."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.children import asyncio_child, process_child, sync_child
from benchmarks.parents import asyncio_parent, sync_parent
from benchmarks.plays import CHILD_WORKS, PARENT_WORKS
from benchmarks.runner import measure
from benchmarks.workloads import BASELINE, GOALS, PEERS, WORKLOADS, Interpreter, Pairing, Workload

_SMALL = Workload("small", "small", "message", 1000, 200, ("sync",), ("asyncio",))
_LARGE = Workload("large", "large", "echo", 1, 0, ("sync",), (), size=64 * 2**20)


def test_scale_takes_a_fraction_of_the_messages() -> None:
    scaled = _SMALL.scaled(0.1)
    assert (scaled.count, scaled.warmup, scaled.name) == (100, 20, "small")


def test_scale_leaves_at_least_one_message() -> None:
    scaled = _SMALL.scaled(1e-9)
    assert (scaled.count, scaled.warmup) == (1, 1)


def test_scale_adds_no_warmup_where_there_is_none() -> None:
    assert Workload("w", "w", "start", 3, 0, (), ()).scaled(10).warmup == 0


def test_scale_shortens_a_large_message_and_keeps_their_number() -> None:
    scaled = _LARGE.scaled(0.5)
    assert (scaled.count, scaled.size) == (1, 32 * 2**20)


@pytest.mark.parametrize("scale", [1e-9, 0.00001, 0.3333])
def test_a_scaled_size_is_whole_pieces(scale: float) -> None:
    size = _LARGE.scaled(scale).size
    assert size > 0
    assert size % 16 == 0


def test_the_pairings_are_children_then_parents() -> None:
    assert [(each.parent.name, each.child.name, each.role) for each in _SMALL.pairings()] == [
        ("node", "sync", "child"),
        ("asyncio", "node", "parent"),
    ]


def test_a_job_says_all_that_a_parent_needs() -> None:
    pairing = _SMALL.pairings()[0]
    assert _SMALL.job(pairing, {"node": "/n", "python": "/p"}) == {
        "work": {"work": "small", "size": 0},
        "count": 1000,
        "warmup": 200,
        "child": {"module": str(PEERS["sync"].child), "execPath": "/p", "execArgv": []},
        "serialization": "json",
    }


def test_a_job_carries_what_the_subject_adds() -> None:
    paced = Pairing(PEERS["node"], PEERS["node, paced"], "child")
    assert _SMALL.job(paced, {"node": "/n", "python": "/p"})["work"]["paced"] is True
    assert "paced" not in _SMALL.job(BASELINE, {"node": "/n", "python": "/p"})["work"]


def test_a_peer_that_is_no_child_is_refused() -> None:
    pairing = Pairing(PEERS["node"], replace(PEERS["node"], child=None), "child")
    with pytest.raises(ValueError, match="node has no program for a child"):
        _SMALL.job(pairing, {"node": "/n", "python": "/p"})


def test_every_pairing_has_its_programs() -> None:
    for workload in WORKLOADS.values():
        for pairing in workload.pairings():
            assert pairing.parent.parent is not None
            assert pairing.parent.parent.is_file()
            assert pairing.child.child is not None
            assert pairing.child.child.is_file()


def test_every_goal_is_one_of_a_row() -> None:
    rows = {
        (workload.name, pairing.role, pairing.subject.name)
        for workload in WORKLOADS.values()
        for pairing in workload.pairings()
    }
    assert set(GOALS) <= rows


def test_every_python_program_plays_every_work() -> None:
    assert set(CHILD_WORKS) == set(PARENT_WORKS) == set(WORKLOADS)
    for child in (asyncio_child.PLAYS, process_child.PLAYS, sync_child.PLAYS):
        assert set(child) == set(CHILD_WORKS.values()) - {""}
    for parent in (asyncio_parent.PLAYS, sync_parent.PLAYS):
        assert set(parent) == set(PARENT_WORKS.values()) - {""}


@pytest.mark.parametrize("name", WORKLOADS)
def test_node_plays_every_work_with_itself(node: str, name: str) -> None:
    sample = measure(
        WORKLOADS[name].scaled(0.001), BASELINE, {"node": node, "python": sys.executable}, 30.0
    )
    assert sample.seconds > 0
    assert sample.parent.startswith("Node ")
    assert sample.child == sample.parent


@pytest.mark.parametrize("work", ["round-trip", "handles-to-parent", "handles-to-child"])
@pytest.mark.parametrize("name", ["sync", "asyncio", "process"])
def test_our_programs_play_with_node(node: str, name: str, work: str) -> None:
    interpreters: dict[Interpreter, str] = {"node": node, "python": sys.executable}
    workload = WORKLOADS[work].scaled(0.001)
    child = measure(workload, Pairing(PEERS["node"], PEERS[name], "child"), interpreters, 30.0)
    assert child.child.startswith(f"nodecompat.{name} ")
    if PEERS[name].parent is not None:
        pairing = Pairing(PEERS[name], PEERS["node"], "parent")
        parent = measure(workload, pairing, interpreters, 30.0)
        assert parent.parent.startswith(f"nodecompat.{name} ")


@pytest.mark.parametrize("program", ["plays.py", "children/sync_child.py"])
def test_what_is_measured_does_not_import_the_harness(program: str) -> None:
    root = Path(__file__).parents[2]
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(root)!r}); "
        f"runpy.run_path({str(root / 'benchmarks' / program)!r}, run_name='measured'); "
        "print(*sorted({'click', 'rich', 'statistics'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30
    )
    assert printed.stdout.split() == []
