"""The command `python -m benchmarks`."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Final

try:
    import click
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
except ModuleNotFoundError as error:
    if error.name not in ("click", "rich"):
        raise
    sys.exit("python -m benchmarks needs the bench extra: pip install -e '.[bench]'")

from benchmarks import report
from benchmarks.figures import Figures
from benchmarks.runner import Failure, MeasurementError, measure, run_process, run_workload
from benchmarks.workloads import WORKLOADS, Interpreter
from nodecompat.errors import NodeNotFound
from nodecompat.node import find_node

_PYTHON_VERSIONS: Final = """
import importlib.metadata, platform, nodecompat.sync
python = platform.python_implementation() + " " + platform.python_version()
print(python + ", orjson " + importlib.metadata.version("orjson"))
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--node", metavar="PATH", help="The Node to compare with; else as `fork` finds it.")
@click.option("--python", metavar="PATH", help="The Python of our side; else this one.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(WORKLOADS)), help="Only this work; repeatable."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--scale",
    type=click.FloatRange(0, 100, min_open=True),
    default=1.0,
    show_default=True,
    help="The fraction of the work to do, for a quick look.",
)
@click.option(
    "--limit",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after which one measurement is ended.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the figures to this file, too.",
)
def main(
    node: str | None,
    python: str | None,
    only: tuple[str, ...],
    rounds: int,
    scale: float,
    limit: float,
    json_file: Path | None,
) -> None:
    """Measure the channel side by side with Node's own.

    README.md beside this program says what each row means. Ends with 1 when something could not be
    measured; a goal that is missed is no failure.
    """
    interpreters = _interpreters(node, python)
    about = report.about(
        _version(["--version"], interpreters["node"]),
        _version(["-c", _PYTHON_VERSIONS], interpreters["python"]),
        sys.argv,
    )
    console = Console()
    console.print(
        f"Node.js {about['node']}, {about['python']}\n{about['platform']}, "
        f"{about['cores']} cores, load {about['load']}",
        highlight=False,
    )
    workloads = [WORKLOADS[name].scaled(scale) for name in dict.fromkeys(only or WORKLOADS)]
    figures: list[Figures] = []
    failures: list[Failure] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        turns = sum(len(workload.pairings()) + 1 for workload in workloads) * (rounds + 1)
        task = progress.add_task("", total=turns)
        for workload in workloads:
            progress.update(task, description=workload.title)
            outcome = run_workload(
                workload,
                rounds,
                partial(measure, interpreters=interpreters, limit=limit),
                partial(progress.advance, task),
            )
            figures += outcome.figures
            failures += outcome.failures
    report.print_figures(console, figures)
    report.print_failures(console, failures)
    if json_file is not None:
        options = {"rounds": rounds, "scale": scale}
        text = json.dumps(report.as_json(about, options, figures, failures), indent=2)
        json_file.write_text(text + "\n", encoding="utf-8")
    if failures:
        sys.exit(1)


def _interpreters(node: str | None, python: str | None) -> dict[Interpreter, str]:
    try:
        return {"node": node or find_node().path, "python": python or sys.executable}
    except NodeNotFound as error:
        raise click.ClickException(str(error)) from None


def _version(arguments: list[str], interpreter: str) -> str:
    try:
        return run_process([interpreter, *arguments], 30.0).strip().removeprefix("v")
    except (OSError, MeasurementError) as error:
        raise click.ClickException(f"{interpreter} cannot be used: {error}") from None


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
