"""From samples to the figures that are reported."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.workloads import GOALS, Goal, Pairing, Workload

__all__ = ["Figures", "Sample", "Spread", "compare"]


@dataclass(frozen=True)
class Sample:
    """One measurement: seconds and processor seconds for all of its units together."""

    seconds: float
    parent_cpu: float
    child_cpu: float
    parent: str
    child: str

    def cpu(self, pairing: Pairing) -> float:
        """The processor seconds of the side that is compared."""
        return self.child_cpu if pairing.role == "child" else self.parent_cpu


@dataclass(frozen=True)
class Spread:
    """The median of several values, and between what they lay."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of one value or more."""
        return cls(statistics.median(values), min(values), max(values))

    def as_json(self) -> dict[str, float]:
        """For the report in JSON."""
        return {"median": self.median, "min": self.low, "max": self.high}


@dataclass(frozen=True)
class Figures:
    """One row of the report.

    ``speed`` and ``cpu`` are ratios to Node in the same round, above 1 where the subject is faster
    or needs less processor time; all else is seconds for one unit of the work. ``cpu`` is None
    where the clock was too coarse for the work.
    """

    workload: Workload
    pairing: Pairing
    runtime: str
    speed: Spread
    seconds: Spread
    node_seconds: Spread
    cpu: Spread | None
    cpu_seconds: Spread
    node_cpu_seconds: Spread

    @property
    def goal(self) -> Goal | None:
        """What we aim at here."""
        return GOALS.get((self.workload.name, self.pairing.role, self.pairing.subject.name))

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        goal = self.goal
        if goal is None:
            return None
        if self.speed.median < goal.speed:
            return False
        return goal.cpu is None or (self.cpu is not None and self.cpu.median >= goal.cpu)

    def as_json(self) -> dict[str, Any]:
        """For the report in JSON."""
        goal = self.goal
        return {
            "work": self.workload.name,
            "unit": self.workload.unit,
            "count": self.workload.count,
            "size": self.workload.size,
            "role": self.pairing.role,
            "peer": self.pairing.subject.name,
            "runtime": self.runtime,
            "serialization": self.pairing.serialization,
            "times_as_fast_as_node": self.speed.as_json(),
            "seconds": self.seconds.as_json(),
            "node_seconds": self.node_seconds.as_json(),
            "times_less_cpu_than_node": None if self.cpu is None else self.cpu.as_json(),
            "cpu_seconds": self.cpu_seconds.as_json(),
            "node_cpu_seconds": self.node_cpu_seconds.as_json(),
            "goal": None if goal is None else {"speed": goal.speed, "cpu": goal.cpu},
            "reached": self.reached,
        }


def compare(
    workload: Workload, pairing: Pairing, rounds: Sequence[tuple[Sample, Sample]]
) -> Figures:
    """The figures of a pairing from (its sample, Node's sample) of each round."""
    if not rounds:
        raise ValueError(f"{workload.name}: no round was measured")

    def per_unit(values: Sequence[float]) -> Spread:
        return Spread.of([value / workload.count for value in values])

    cpu = [(own.cpu(pairing), node.cpu(pairing)) for own, node in rounds]
    own_sample = rounds[0][0]
    return Figures(
        workload=workload,
        pairing=pairing,
        runtime=own_sample.child if pairing.role == "child" else own_sample.parent,
        speed=Spread.of([node.seconds / own.seconds for own, node in rounds]),
        seconds=per_unit([own.seconds for own, _ in rounds]),
        node_seconds=per_unit([node.seconds for _, node in rounds]),
        cpu=Spread.of([node / own for own, node in cpu]) if all(own for own, _ in cpu) else None,
        cpu_seconds=per_unit([own for own, _ in cpu]),
        node_cpu_seconds=per_unit([node for _, node in cpu]),
    )
