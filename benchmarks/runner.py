"""Running measurements: one parent process each, in rounds that go A B A B."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Figures, Sample, compare
from benchmarks.workloads import BASELINE, Interpreter, Pairing, Workload

__all__ = ["Failure", "MeasurementError", "Outcome", "measure", "run_process", "run_workload"]

_CHECKOUT: Final = Path(__file__).resolve().parents[1]
_SHOWN: Final = 2000

Measure = Callable[[Workload, Pairing], Sample]


class MeasurementError(Exception):
    """A measurement that gave no figure: says what ended it, and what it printed."""


@dataclass(frozen=True)
class Failure:
    """A pairing that could not be measured, and why."""

    workload: Workload
    pairing: Pairing
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What came of a work."""

    figures: list[Figures]
    failures: list[Failure]


def run_workload(
    workload: Workload, rounds: int, measure: Measure, progress: Callable[[], None]
) -> Outcome:
    """Measure Node and every pairing in turn, ``rounds`` times after a round that does not count.

    What fails once is not tried again. Calls ``progress`` after each measurement.
    """
    pairings = workload.pairings()
    taken: dict[int, list[tuple[Sample, Sample]]] = {index: [] for index in range(len(pairings))}
    failures: list[Failure] = []
    for turn in range(rounds + 1):
        try:
            node = measure(workload, BASELINE)
        except MeasurementError as error:
            return Outcome([], [*failures, Failure(workload, BASELINE, str(error))])
        progress()
        for index in list(taken):
            try:
                own = measure(workload, pairings[index])
            except MeasurementError as error:
                failures.append(Failure(workload, pairings[index], str(error)))
                del taken[index]
            else:
                if turn:
                    taken[index].append((own, node))
            progress()
    figures = [compare(workload, pairings[index], samples) for index, samples in taken.items()]
    return Outcome(figures, failures)


def measure(
    workload: Workload, pairing: Pairing, interpreters: Mapping[Interpreter, str], limit: float
) -> Sample:
    """One measurement in processes of its own; raises MeasurementError."""
    parent = pairing.parent
    if parent.parent is None:
        raise ValueError(f"{parent.name} has no program for a parent")
    command = [
        interpreters[parent.interpreter],
        *parent.exec_argv,
        str(parent.parent),
        json.dumps(workload.job(pairing, interpreters)),
    ]
    return _sample(run_process(command, limit, one_core=workload.one_core))


def run_process(command: Sequence[str], limit: float, *, one_core: bool = False) -> str:
    """What ``command`` prints; raises MeasurementError when it fails or takes ``limit`` seconds.

    Leaves nothing running: the command and all that it started are killed.
    """
    with _one_core() if one_core else contextlib.nullcontext():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        _, errors = process.communicate()
        raise MeasurementError(f"took more than {limit:g} s{_quoted(errors)}") from None
    finally:
        _kill(process)
        process.wait()
    if process.returncode:
        raise MeasurementError(f"ended with {process.returncode}{_quoted(errors)}")
    return output


@contextlib.contextmanager
def _one_core() -> Iterator[None]:
    """What is started in here stays on one core, where the platform can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    # The first core is the one that tends to serve the interrupts.
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    path = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{_CHECKOUT}{os.pathsep}{path}" if path else str(_CHECKOUT)
    return environment


def _kill(process: subprocess.Popen[str]) -> None:
    # The group, so that a child goes as well that its parent left behind.
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()


def _quoted(errors: str) -> str:
    text = errors.strip()
    if not text:
        return ""
    return f":\n{text}" if len(text) <= _SHOWN else f":\n... {text[-_SHOWN:]}"


def _sample(output: str) -> Sample:
    try:
        result: dict[str, Any] = json.loads(output)
        return Sample(
            seconds=result["seconds"],
            parent_cpu=result["parentCpu"],
            child_cpu=result["childCpu"],
            parent=result["parent"],
            child=result["child"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            f"printed no result ({type(error).__name__}: {error}){_quoted(output)}"
        ) from None
