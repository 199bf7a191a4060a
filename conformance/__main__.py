"""The commands of `python -m conformance`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

try:
    import click
    import jsonschema as _jsonschema  # noqa: F401
    import psutil as _psutil  # noqa: F401
    import rich as _rich  # noqa: F401
    import yaml as _yaml  # noqa: F401
except ModuleNotFoundError:
    sys.exit("python -m conformance needs the test extra: pip install -e '.[test]'")

from rich.console import Console

from conformance import cases as case_files
from conformance import deviations as deviation_files
from conformance.cases import MODES, ROLES, Case, Mode, Role, load_cases, select
from conformance.deviations import load_deviations
from conformance.documents import DocumentError, close_to
from conformance.implementations import (
    Implementation,
    default_node,
    load_implementations,
    version_of,
)
from conformance.install import NAMES, InstallError, folder, install
from conformance.matrix import Run, runs
from conformance.results import as_json, write_results
from conformance.runner import Runner
from conformance.terminal import progress, show_failures, show_summary, show_table

# The implementations of the quick run, each in every role that it has.
_QUICK = ("nodecompat-sync", "nodecompat-asyncio", "nodecompat-process")
_SELF = "self"

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class _WrongInput(click.ClickException):
    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The conformance suite for Node's IPC channel."""


@main.command("install")
@click.argument("names", nargs=-1, type=click.Choice(NAMES), metavar="[NAME]...")
def install_command(names: tuple[str, ...]) -> None:
    """Install implementations from the npm registry: each NAME, else all.

    They go into .implementations/ at the top of the checkout, or into the folder that
    NODECOMPAT_IMPLEMENTATIONS names. What is installed already stays as it is.

    NAME is one of node12, node14, … node26, bun and deno.
    """
    failed: list[str] = []
    for name in dict.fromkeys(names or NAMES):
        try:
            found, new = install(name)
        except (InstallError, OSError) as error:
            click.echo(f"{name}: {error}", err=True)
            failed.append(name)
        else:
            click.echo(f"{name}: {'installed' if new else 'already installed:'} {found}")
    if failed:
        raise click.ClickException(f"not installed in {folder()}: {', '.join(failed)}")


@main.command("list")
@click.argument("selectors", nargs=-1, metavar="[SELECTOR]...")
@click.option("--cases", "where", type=_FOLDER, help="A folder of cases in place of the suite's.")
def list_command(selectors: tuple[str, ...], where: Path | None) -> None:
    """List cases: those whose id or area is a SELECTOR, else all. In it * stands for any text."""
    for case in _cases(where, selectors):
        limits = [*(["raw"] if case.parent.raw or case.child.raw else [])]
        if case.modes != MODES:
            limits.append("+".join(case.modes))
        if case.node is not None:
            limits.append(f"Node {case.node}")
        said = f" ({', '.join([case.level, *limits])})"
        click.echo(f"{case.id}{said}\n    {case.requirement}")


@main.command("run")
@click.argument("selectors", nargs=-1, metavar="[SELECTOR]...")
@click.option("--all", "whole", is_flag=True, help="The whole matrix, of all that is installed.")
@click.option("--impl", "names", multiple=True, metavar="NAME", help="What to test. Repeatable.")
@click.option("--role", type=click.Choice(ROLES), help="Test it in this role only.")
@click.option(
    "--counterpart",
    "others",
    multiple=True,
    metavar="NAME",
    help="What to test it against: node24 by default, else the Node there is; "
    f"{_SELF}: each against itself. Repeatable.",
)
@click.option("--mode", type=click.Choice(MODES), help="This serialization mode only.")
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="the number of CPUs",
    help="How many runs side by side.",
)
@click.option(
    "--results",
    "output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("results.json"),
    show_default=True,
    help="Where to write the results.",
)
@click.option(
    "--implementations", "files", type=_FILE, multiple=True, help="Describes more. Repeatable."
)
@click.option("--cases", "where", type=_FOLDER, help="A folder of cases in place of the suite's.")
@click.option("--deviations", "known", type=_FILE, help="In place of the suite's.")
@click.option(
    "--limit-factor",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    help="Multiplies every time limit, for a slow machine.",
)
@click.option(
    "--keep", type=_FOLDER, help="Keep the plans and reports of every run, in this folder."
)
def run_command(
    selectors: tuple[str, ...],
    whole: bool,
    names: tuple[str, ...],
    role: Role | None,
    others: tuple[str, ...],
    mode: Mode | None,
    jobs: int,
    output: Path,
    files: tuple[Path, ...],
    where: Path | None,
    known: Path | None,
    limit_factor: float,
    keep: Path | None,
) -> None:
    """Run cases: those whose id or area is a SELECTOR, else all. In it * stands for any text.

    Without --impl and --all it is the quick run: nodecompat in each role against one Node.

    Exits with 0 when every result was as expected, 1 when not, 2 for wrong input.
    """
    if whole and names:
        raise click.UsageError("--all and --impl exclude each other")
    every_case = _cases(where, ())
    try:
        there = load_implementations(files)
        # The suite's own deviations are about the suite's own cases.
        if known is None and where is None:
            known = deviation_files.FILE
        deviations = load_deviations(known, there, every_case) if known is not None else []
        cases = select(every_case, selectors)
        planned = _planned(cases, there, whole, names, role, others, mode)
    except (DocumentError, InstallError, ValueError) as error:
        raise _WrongInput(str(error)) from error
    if not planned:
        raise _WrongInput("there is nothing to run: no such case for this in this role and mode")
    taking_part = {each.name: each for run in planned for each in (run.parent, run.child)}
    try:
        versions = {name: version_of(each) for name, each in sorted(taking_part.items())}
    except InstallError as error:
        raise _WrongInput(str(error)) from error
    console = Console(soft_wrap=False)
    console.print(
        f"{len(planned)} runs of {len({run.case.id for run in planned})} cases: "
        + ", ".join(_titled(name, text) for name, text in versions.items()),
        highlight=False,
        soft_wrap=True,
    )
    started, began = datetime.now(UTC), time.monotonic()
    runner = Runner(deviations, jobs=jobs, limit_factor=limit_factor, keep=keep)
    with progress(console, len(planned)) as told:
        results = runner.run_all(planned, told)
    seconds = time.monotonic() - began
    try:
        write_results(output, as_json(results, started=started, seconds=seconds, versions=versions))
    except OSError as error:
        raise _WrongInput(f"{output} cannot be written: {error.strerror}") from error
    show_failures(console, results)
    show_table(console, results)
    show_summary(console, results, seconds)
    if any(result.unexpected for result in results):
        sys.exit(1)


def _cases(where: Path | None, selectors: tuple[str, ...]) -> list[Case]:
    try:
        return select(load_cases(where or case_files.FOLDER), selectors)
    except (DocumentError, ValueError) as error:
        raise _WrongInput(str(error)) from error


def _planned(
    cases: list[Case],
    there: dict[str, Implementation],
    whole: bool,
    names: tuple[str, ...],
    role: Role | None,
    others: tuple[str, ...],
    mode: Mode | None,
) -> list[Run]:
    if whole:
        subjects = [each for each in there.values() if each.problem is None]
    else:
        subjects = [_named(name, there) for name in names or _QUICK]
    wanted = [name for name in others if name != _SELF]
    counterparts = [_named(name, there) for name in wanted]
    needs_one = any(not (case.parent.raw or case.child.raw) for case in cases)
    if not others and needs_one:
        counterparts = [default_node(there)]
    return runs(
        cases,
        subjects,
        counterparts,
        roles=ROLES if role is None else (role,),
        itself=_SELF in others or (whole and not others),
        modes=MODES if mode is None else (mode,),
    )


def _named(name: str, there: dict[str, Implementation]) -> Implementation:
    found = there.get(name)
    if found is None:
        raise ValueError(f"no implementation is called {name!r}{close_to(name, there)}")
    if found.problem is not None:
        raise ValueError(f"{name}: {found.problem}")
    return found


def _titled(name: str, version: str | None) -> str:
    return name if version is None else f"{name} ({version})"


def _add_report() -> None:
    """Add what conformance/report/ has: its `command`, which reads results.json."""
    if importlib.util.find_spec("conformance.report") is not None:
        main.add_command(importlib.import_module("conformance.report").command)


_add_report()

if __name__ == "__main__":
    main(prog_name="python -m conformance")
