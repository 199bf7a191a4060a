"""What `python -m conformance run` shows: progress, failures, and a table at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from conformance.cases import ROLES
from conformance.match import shown
from conformance.runner import Outcome, Result

__all__ = ["Told", "progress", "show_failures", "show_summary", "show_table"]

_AROUND = 3


class Told(Protocol):
    """Takes each result as it comes."""

    def __call__(self, result: Result) -> None: ...


@contextmanager
def progress(console: Console, total: int) -> Iterator[Told]:
    """A bar while the runs are done. Where there is no terminal, a line for each bad result."""
    counts: Counter[Outcome] = Counter()
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)

        def told(result: Result) -> None:
            counts[result.outcome] += 1
            if result.unexpected:
                bar.console.print(
                    f"[red]{result.outcome.upper()}[/] {escape(str(result.run))}", highlight=False
                )
            bad = counts["fail"] + counts["unexpected-pass"]
            said = f"[red]{bad} unexpected[/] " if bad else ""
            bar.update(task, advance=1, description=f"{said}{escape(result.run.case.area)}")

        yield told


def show_failures(console: Console, results: Iterable[Result]) -> None:
    """Each unexpected result, with expected against actual."""
    for result in results:
        if result.unexpected:
            for line in _failure(result):
                console.print(line, soft_wrap=True)


def _failure(result: Result) -> Iterator[Text]:
    run = result.run
    yield Text()
    yield Text(f"{result.outcome.upper()} {run}", style="bold red")
    yield Text(f"  {run.case.requirement} ({run.case.level}; {run.case.source})")
    yield Text(f"  {result.reason}", style="yellow")
    if result.mismatch is not None:
        side, found = result.mismatch
        observed = result.actual[side]
        yield Text(f"  expected of the {side}, {run.player(side).name}:")
        for item in run.case.side(side).sees:
            yield Text(f"    {shown(item)}")
        yield Text("  observed:")
        first = max(0, found.index - _AROUND)
        if first:
            yield Text(f"    … {first} before", style="dim")
        for at, item in enumerate(observed[first : found.index + _AROUND + 1], first):
            here = at == found.index
            yield Text(f"  {'→' if here else ' '} {shown(item)}", style="red" if here else "")
        after = len(observed) - (found.index + _AROUND + 1)
        if after > 0:
            yield Text(f"    … {after} more", style="dim")
        if found.index >= len(observed):
            yield Text("  → nothing more", style="red")
    if result.output.strip():
        yield Text("  output:")
        for line in result.output.rstrip().splitlines()[-20:]:
            yield Text(f"    {line}", style="dim")
    if result.folder is not None:
        yield Text(f"  kept in {result.folder}")


def show_table(console: Console, results: Sequence[Result]) -> None:
    """Implementation x area: how many runs were as expected, of how many."""
    areas = list(dict.fromkeys(result.run.case.area for result in results))
    cells: dict[str, dict[str, Counter[Outcome]]] = {}
    for result in results:
        for row in _rows(result):
            cells.setdefault(row, {}).setdefault(result.run.case.area, Counter())[
                result.outcome
            ] += 1
    table = Table(pad_edge=False)
    table.add_column("")
    for area in areas:
        table.add_column(area, justify="right", overflow="fold")
    for row, columns in sorted(cells.items()):
        table.add_row(Text(row), *(_cell(columns.get(area, Counter())) for area in areas))
    console.print()
    console.print(table)


def _rows(result: Result) -> Iterator[str]:
    run = result.run
    if run.parent is run.child:
        yield f"{run.parent.name} with itself"
        return
    for role in ROLES:
        if run.subject in (role, "both"):
            yield f"{run.player(role).name} as {role}"


def _cell(counts: Counter[Outcome]) -> Text:
    ran = sum(counts.values()) - counts["not-applicable"]
    if not ran:
        return Text("-", style="dim")
    bad = counts["fail"] + counts["unexpected-pass"]
    if bad:
        return Text(f"{ran - bad}/{ran}", style="bold red")
    known = counts["expected-failure"]
    return Text(
        f"{ran - known}+{known}" if known else str(ran), style="yellow" if known else "green"
    )


def show_summary(console: Console, results: Sequence[Result], seconds: float) -> None:
    """One line: how many of which outcome, and how long it took."""
    counts = Counter(result.outcome for result in results)
    names: dict[Outcome, tuple[str, str]] = {
        "fail": ("failed", "red"),
        "unexpected-pass": ("passed unexpectedly", "red"),
        "pass": ("passed", "green"),
        "expected-failure": ("failed as expected", "yellow"),
        "not-applicable": ("not applicable", "dim"),
    }
    line = Text(", ").join(
        Text(f"{counts[outcome]} {words}", style=style)
        for outcome, (words, style) in names.items()
        if counts[outcome]
    )
    console.print(line, Text(f"in {seconds:.1f} s"), highlight=False)
