"""What is measured, between whom, and what we aim at: new measurements are added to these tables.

A work has a name that every parent and child knows. A peer is a program on either side. A pairing
is a parent and a child; the pairing of Node with itself is measured in every round, and is what the
others are compared with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

__all__ = [
    "BASELINE",
    "GOALS",
    "PEERS",
    "WORKLOADS",
    "Goal",
    "Interpreter",
    "Pairing",
    "Peer",
    "Role",
    "Workload",
]

Role = Literal["child", "parent"]
Interpreter = Literal["node", "python"]

_FOLDER: Final = Path(__file__).resolve().parent
_CHUNK: Final = 16  # large_text repeats a piece of this size.


@dataclass(frozen=True)
class Peer:
    """A program that can be a parent, a child, or both; ``work`` is added to the first message."""

    name: str
    interpreter: Interpreter
    parent: Path | None = None
    child: Path | None = None
    exec_argv: tuple[str, ...] = ()
    work: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Pairing:
    """Who is whose child; ``role`` is the side that is compared with Node's."""

    parent: Peer
    child: Peer
    role: Role
    serialization: str = "json"

    @property
    def subject(self) -> Peer:
        """The peer that is measured."""
        return self.child if self.role == "child" else self.parent


@dataclass(frozen=True)
class Workload:
    """One kind of work.

    ``count`` is how many ``unit`` are measured in a round, after ``warmup`` of them in the same
    processes; ``size`` is that of a large message, in characters. ``children`` and ``parents`` name
    the peers that do it with Node on the other side. ``one_core`` keeps both processes on one core
    where the platform can.
    """

    name: str
    title: str
    unit: str
    count: int
    warmup: int
    children: tuple[str, ...]
    parents: tuple[str, ...]
    size: int = 0
    one_core: bool = False

    def scaled(self, scale: float) -> Workload:
        """The same with a fraction of the work: fewer messages, or a shorter large one."""
        if self.size:
            return replace(self, size=max(_CHUNK, round(self.size * scale / _CHUNK) * _CHUNK))
        return replace(
            self,
            count=max(1, round(self.count * scale)),
            warmup=max(1, round(self.warmup * scale)) if self.warmup else 0,
        )

    def pairings(self) -> list[Pairing]:
        """Everything that is compared with the baseline in a round, in order."""
        node = PEERS["node"]
        return [
            *(Pairing(node, PEERS[name], "child") for name in self.children),
            *(Pairing(PEERS[name], node, "parent") for name in self.parents),
        ]

    def job(self, pairing: Pairing, interpreters: Mapping[Interpreter, str]) -> dict[str, Any]:
        """What the parent is told."""
        child = pairing.child
        if child.child is None:
            raise ValueError(f"{child.name} has no program for a child")
        return {
            "work": {"work": self.name, "size": self.size, **pairing.subject.work},
            "count": self.count,
            "warmup": self.warmup,
            "child": {
                "module": str(child.child),
                "execPath": interpreters[child.interpreter],
                "execArgv": list(child.exec_argv),
            },
            "serialization": pairing.serialization,
        }


def _python(name: str) -> Peer:
    parent = _FOLDER / "parents" / f"{name}_parent.py"
    child = _FOLDER / "children" / f"{name}_child.py"
    return Peer(name, "python", parent if parent.exists() else None, child)


_NODE: Final = Peer("node", "node", _FOLDER / "parent.cjs", _FOLDER / "child.cjs")

PEERS: Final = {
    peer.name: peer
    for peer in (
        _NODE,
        replace(_NODE, name="node, paced", work={"paced": True}),
        _python("sync"),
        _python("asyncio"),
        _python("process"),
    )
}

BASELINE: Final = Pairing(_NODE, _NODE, "child")

_ALL: Final = ("sync", "asyncio", "process")
_LOOPLESS: Final = ("sync", "asyncio")

WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("start", "fork to first message", "start", 3, 1, _ALL, _LOOPLESS),
        # The two sides take turns. On two cores that measures how fast the kernel wakes an idle
        # one, and whether it happens to choose two; on one core it measures the programs.
        Workload(
            "round-trip", "round trip", "round trip", 5000, 1000, _ALL, _LOOPLESS, one_core=True
        ),
        Workload("round-trip-free", "round trip", "round trip", 3000, 500, _ALL, _LOOPLESS),
        Workload(
            "child-to-parent",
            "child to parent, one send each",
            "message",
            30_000,
            6000,
            (*_ALL, "node, paced"),
            _LOOPLESS,
        ),
        Workload(
            "child-to-parent-many",
            "child to parent, send_many",
            "message",
            30_000,
            6000,
            _LOOPLESS,
            (),
        ),
        Workload(
            "parent-to-child",
            "parent to child, one send each",
            "message",
            30_000,
            6000,
            _ALL,
            (*_LOOPLESS, "node, paced"),
        ),
        Workload(
            "parent-to-child-many",
            "parent to child, send_many",
            "message",
            30_000,
            6000,
            (),
            _LOOPLESS,
        ),
        Workload(
            "large-echo", "echo of a 64 MiB string", "echo", 1, 0, _ALL, _LOOPLESS, size=64 * 2**20
        ),
        # Each one waits until the one before is acknowledged: the sides take turns here, too.
        Workload(
            "handles-to-parent",
            "sockets to the parent",
            "handle",
            3000,
            500,
            _ALL,
            _LOOPLESS,
            one_core=True,
        ),
        Workload(
            "handles-to-child",
            "sockets to the child",
            "handle",
            3000,
            500,
            _ALL,
            _LOOPLESS,
            one_core=True,
        ),
    )
}


@dataclass(frozen=True)
class Goal:
    """What we aim at, in times Node's figure: how fast, and how little processor time."""

    speed: float
    cpu: float | None = None


GOALS: Final[Mapping[tuple[str, Role, str], Goal]] = {
    ("round-trip", "child", "sync"): Goal(2.0),
    ("round-trip", "child", "asyncio"): Goal(1 / 0.75),
    ("child-to-parent", "child", "sync"): Goal(1.3),
    ("child-to-parent", "child", "asyncio"): Goal(1.2),
    ("child-to-parent-many", "child", "sync"): Goal(3.0),
    ("child-to-parent-many", "child", "asyncio"): Goal(3.0),
    ("parent-to-child", "child", "sync"): Goal(1.2, cpu=2.0),
    ("parent-to-child", "child", "asyncio"): Goal(1.2, cpu=2.0),
    ("large-echo", "child", "sync"): Goal(2.0),
    ("large-echo", "child", "asyncio"): Goal(2.0),
    ("handles-to-parent", "child", "sync"): Goal(1.2),
    ("handles-to-parent", "child", "asyncio"): Goal(1.2),
    ("handles-to-child", "child", "sync"): Goal(1.2),
    ("handles-to-child", "child", "asyncio"): Goal(1.2),
}
