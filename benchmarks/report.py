"""The report: tables for the screen, and JSON."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figures import Figures
from benchmarks.runner import Failure
from benchmarks.workloads import Role

__all__ = ["about", "as_json", "duration", "print_failures", "print_figures"]

_TITLES: Final[dict[Role, str]] = {
    "child": "The child of a Node parent",
    "parent": "The parent of a Node child",
}
_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def duration(seconds: float) -> str:
    """Seconds in a unit that fits, with three figures."""
    factor, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    value = seconds / factor
    digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def print_figures(console: Console, figures: Iterable[Figures]) -> None:
    """One table for each role."""
    rows = list(figures)
    for role, title in _TITLES.items():
        own = [row for row in rows if row.pairing.role == role]
        if own:
            console.print(f"\n[bold]{title}[/], times as fast as Node in the same round")
            console.print("[dim]above 1 is better than Node; medians; times are for one unit[/]")
            console.print(_table(own))


def _table(rows: Sequence[Figures]) -> Table:
    table = Table(
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("work, peer", no_wrap=True)
    for name in ("ratio", "min-max", "time", "CPU", "CPU ratio", "goal"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for row in rows:
        if row.workload.name != last:
            last = row.workload.name
            table.add_row(f"[bold]{last}[/]")
            table.add_row(
                "  node",
                "1",
                "",
                duration(row.node_seconds.median),
                duration(row.node_cpu_seconds.median),
                "1",
            )
        table.add_row(
            f"  {escape(row.pairing.subject.name)}",
            f"[bold]{row.speed.median:.2f}[/]",
            f"{row.speed.low:.2f}-{row.speed.high:.2f}",
            duration(row.seconds.median),
            duration(row.cpu_seconds.median),
            "" if row.cpu is None else f"{row.cpu.median:.2f}",
            _goal(row),
        )
    return table


def _goal(row: Figures) -> str:
    goal = row.goal
    if goal is None:
        return ""
    text = f"{goal.speed:.3g}" if goal.cpu is None else f"{goal.speed:.3g}/{goal.cpu:.3g}"
    return f"[green]{text} ✓[/]" if row.reached else f"[red]{text} ✗[/]"


def print_failures(console: Console, failures: Iterable[Failure]) -> None:
    """What could not be measured."""
    for failure in failures:
        pairing = failure.pairing
        console.print(
            f"[red]failed[/] {failure.workload.name}, {escape(pairing.parent.name)} parent, "
            f"{escape(pairing.child.name)} child: {escape(failure.reason)}"
        )


def about(node: str, python: str, command_line: Sequence[str]) -> dict[str, Any]:
    """On what, when and how the figures were taken."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command_line": list(command_line),
        "node": node,
        "python": python,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cores": _cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def as_json(
    about: dict[str, Any],
    options: dict[str, Any],
    figures: Iterable[Figures],
    failures: Iterable[Failure],
) -> dict[str, Any]:
    """The whole report."""
    return {
        "about": about,
        "options": options,
        "results": [row.as_json() for row in figures],
        "failures": [
            {
                "work": failure.workload.name,
                "parent": failure.pairing.parent.name,
                "child": failure.pairing.child.name,
                "reason": failure.reason,
            }
            for failure in failures
        ],
    }
