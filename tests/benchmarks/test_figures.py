"""From samples to ratios: above 1 is always better than Node."""

from __future__ import annotations

import pytest

from benchmarks.figures import Sample, Spread, compare
from benchmarks.workloads import BASELINE, PEERS, WORKLOADS, Pairing, Workload

_WORK = Workload("work", "work", "message", 100, 0, (), ())
_CHILD = Pairing(PEERS["node"], PEERS["sync"], "child")
_PARENT = Pairing(PEERS["sync"], PEERS["node"], "parent")


def _sample(seconds: float, parent_cpu: float = 1.0, child_cpu: float = 1.0) -> Sample:
    return Sample(seconds, parent_cpu, child_cpu, "a parent", "a child")


def test_a_spread_is_median_and_ends() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)


def test_the_ratio_is_how_many_times_as_fast_as_node() -> None:
    figures = compare(_WORK, _CHILD, [(_sample(1.0), _sample(2.0))])
    assert figures.speed == Spread(2.0, 2.0, 2.0)


def test_each_round_is_compared_with_node_in_the_same_round() -> None:
    rounds = [(_sample(1.0), _sample(2.0)), (_sample(10.0), _sample(20.0))]
    assert compare(_WORK, _CHILD, rounds).speed == Spread(2.0, 2.0, 2.0)


def test_times_are_for_one_unit() -> None:
    figures = compare(_WORK, _CHILD, [(_sample(1.0), _sample(2.0))])
    assert (figures.seconds.median, figures.node_seconds.median) == (0.01, 0.02)


@pytest.mark.parametrize(
    ("pairing", "ratio", "runtime"), [(_CHILD, 4.0, "a child"), (_PARENT, 0.5, "a parent")]
)
def test_processor_time_is_that_of_the_side_that_is_compared(
    pairing: Pairing, ratio: float, runtime: str
) -> None:
    own = _sample(1.0, parent_cpu=6.0, child_cpu=0.5)
    node = _sample(1.0, parent_cpu=3.0, child_cpu=2.0)
    figures = compare(_WORK, pairing, [(own, node)])
    assert figures.cpu == Spread(ratio, ratio, ratio)
    assert figures.runtime == runtime


def test_there_is_no_ratio_to_a_processor_time_of_zero() -> None:
    rounds = [(_sample(1.0), _sample(1.0)), (_sample(1.0, child_cpu=0.0), _sample(1.0))]
    figures = compare(_WORK, _CHILD, rounds)
    assert figures.cpu is None
    assert figures.as_json()["times_less_cpu_than_node"] is None


def test_no_round_is_an_error_that_names_the_work() -> None:
    with pytest.raises(ValueError, match="work: no round was measured"):
        compare(_WORK, _CHILD, [])


@pytest.mark.parametrize(
    ("seconds", "cpu", "reached"), [(1.0, 0.5, True), (1.9, 0.5, False), (1.0, 1.5, False)]
)
def test_a_goal_asks_for_speed_and_processor_time(
    seconds: float, cpu: float, reached: bool
) -> None:
    rounds = [(_sample(seconds, child_cpu=cpu), _sample(2.0, child_cpu=2.0))]
    assert compare(WORKLOADS["parent-to-child"], _CHILD, rounds).reached is reached


def test_a_goal_of_processor_time_is_missed_when_there_is_no_ratio() -> None:
    rounds = [(_sample(1.0, child_cpu=0.0), _sample(2.0, child_cpu=2.0))]
    assert compare(WORKLOADS["parent-to-child"], _CHILD, rounds).reached is False


def test_where_there_is_no_goal_none_is_reached() -> None:
    figures = compare(_WORK, BASELINE, [(_sample(1.0), _sample(2.0))])
    assert figures.reached is None
    assert figures.as_json()["goal"] is None


def test_json_names_the_work_the_peer_and_the_ratio() -> None:
    figures = compare(_WORK, _CHILD, [(_sample(1.0), _sample(2.0))])
    json = figures.as_json()
    assert {key: json[key] for key in ("work", "role", "peer", "count", "unit")} == {
        "work": "work",
        "role": "child",
        "peer": "sync",
        "count": 100,
        "unit": "message",
    }
    assert json["times_as_fast_as_node"] == {"median": 2.0, "min": 2.0, "max": 2.0}
