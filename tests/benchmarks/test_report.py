"""What the report shows."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from benchmarks.figures import Sample, compare
from benchmarks.report import about, as_json, duration, print_failures, print_figures
from benchmarks.runner import Failure
from benchmarks.workloads import BASELINE, PEERS, WORKLOADS, Pairing

_CHILD = Pairing(PEERS["node"], PEERS["sync"], "child")
_PARENT = Pairing(PEERS["asyncio"], PEERS["node"], "parent")
_WORK = WORKLOADS["child-to-parent"].scaled(1)


def _sample(seconds: float) -> Sample:
    return Sample(seconds * _WORK.count, 1.0, 1.0, "parent", "child")


_FIGURES = [
    compare(_WORK, _CHILD, [(_sample(2e-6), _sample(5e-6))]),
    compare(_WORK, _PARENT, [(_sample(8e-6), _sample(4e-6))]),
]
_FAILURE = Failure(_WORK, _CHILD, "ended with 1:\n[bold]the reason[/]")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 µs"),
        (1e-7, "0.10 µs"),
        (1.234e-6, "1.23 µs"),
        (12.34e-6, "12.3 µs"),
        (99.96e-6, "100 µs"),
        (0.01, "10.0 ms"),
        (1.0, "1.00 s"),
        (1234.5, "1234 s"),
    ],
)
def test_a_duration_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def _printed(width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_figures(console, _FIGURES)
    print_failures(console, [_FAILURE])
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_tables_say_how_to_read_the_ratios() -> None:
    text = _printed()
    assert "The child of a Node parent, times as fast as Node in the same round" in text
    assert "above 1 is better than Node" in text


def test_each_row_has_its_ratio_and_times_beside_nodes() -> None:
    rows = [line.split() for line in _printed().splitlines()]
    assert ["node", "1", "5.00", "µs", "33.3", "µs", "1"] in rows
    assert ["sync", "2.50", "2.50-2.50", "2.00", "µs", "33.3", "µs", "1.00", "1.3", "✓"] in rows
    assert ["asyncio", "0.50", "0.50-0.50", "8.00", "µs", "33.3", "µs", "1.00"] in rows


def test_the_tables_fit_an_ordinary_terminal() -> None:
    assert "…" not in _printed()


def test_a_role_without_figures_has_no_table() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_figures(console, _FIGURES[:1])
    assert isinstance(console.file, io.StringIO)
    assert "parent of a Node child" not in console.file.getvalue()


def test_a_failure_shows_who_and_why_word_for_word() -> None:
    text = _printed()
    assert "failed child-to-parent, node parent, sync child: ended with 1:" in text
    assert "[bold]the reason[/]" in text


def test_the_json_is_the_whole_report() -> None:
    facts = about("22.1.0", "CPython 3.11", ["benchmarks", "--json", "x"])
    report = json.loads(json.dumps(as_json(facts, {"rounds": 5}, _FIGURES, [_FAILURE])))
    assert report["about"]["node"] == "22.1.0"
    assert report["about"]["command_line"] == ["benchmarks", "--json", "x"]
    assert {"date", "python", "platform", "machine", "cores", "load"} <= set(report["about"])
    assert report["options"] == {"rounds": 5}
    assert [each["peer"] for each in report["results"]] == ["sync", "asyncio"]
    assert report["failures"] == [
        {
            "work": "child-to-parent",
            "parent": "node",
            "child": "sync",
            "reason": _FAILURE.reason,
        }
    ]


def test_a_failed_baseline_is_shown_as_both_sides() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_failures(console, [Failure(_WORK, BASELINE, "no luck")])
    assert isinstance(console.file, io.StringIO)
    assert "node parent, node child: no luck" in console.file.getvalue()
