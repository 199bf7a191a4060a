"""Runs: two peers in a folder of their own, under a time limit, and what came of it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import psutil

from conformance.cases import ROLES, Role
from conformance.deviations import Deviation, find
from conformance.documents import Json
from conformance.match import Mismatch, compare, normal_observation, shown
from conformance.matrix import Run
from conformance.plan import Plans, write_plans
from conformance.values import WrongValue

__all__ = ["UNEXPECTED", "Outcome", "Result", "Runner"]

Outcome: TypeAlias = Literal[
    "pass", "fail", "expected-failure", "unexpected-pass", "not-applicable"
]
UNEXPECTED: tuple[Outcome, ...] = ("fail", "unexpected-pass")

# A peer's status when it does not know a step.
_UNSUPPORTED_STATUS = 3
# What two peers print is for reading: the end of it says why they failed.
_OUTPUT_KEPT = 20_000
# A process that has closed its output is about to end, but a busy machine takes its time.
_GRACE = 2.0


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run. `mismatch` is the side and the first observation that did not fit."""

    run: Run
    outcome: Outcome
    reason: str | None
    seconds: float
    actual: dict[Role, list[Json]]
    mismatch: tuple[Role, Mismatch] | None
    output: str
    folder: Path | None

    @property
    def unexpected(self) -> bool:
        return self.outcome in UNEXPECTED


@dataclass(slots=True)
class _Ended:
    """How the processes of a run ended: `left` are those that were killed."""

    status: int | None
    timed_out: bool
    left: list[str]
    output: str


class Runner:
    """Does runs, up to `jobs` side by side. `keep` is a folder that the runs' folders stay in."""

    def __init__(
        self,
        deviations: Sequence[Deviation] = (),
        *,
        jobs: int = 1,
        limit_factor: float = 1.0,
        keep: Path | None = None,
    ) -> None:
        self._deviations = deviations
        self._jobs = jobs
        self._limit_factor = limit_factor
        self._keep = keep
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._stopped = False

    def run_all(
        self, runs: Sequence[Run], told: Callable[[Result], None] = lambda _: None
    ) -> list[Result]:
        """Do all `runs`, and return their results in the same order.

        `told` has each result as it comes, in this thread. An exception, also KeyboardInterrupt,
        ends the processes of all runs.
        """
        results: dict[int, Result] = {}
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                futures = {pool.submit(self.run, run): at for at, run in enumerate(runs)}
                for future in as_completed(futures):
                    results[futures[future]] = result = future.result()
                    told(result)
            except BaseException:
                self._stop()
                pool.shutdown(cancel_futures=True)
                raise
        return [results[at] for at in range(len(runs))]

    def run(self, run: Run) -> Result:
        """Do one run."""
        nothing: dict[Role, list[Json]] = {"parent": [], "child": []}
        if run.not_applicable is not None:
            return Result(run, "not-applicable", run.not_applicable, 0.0, nothing, None, "", None)
        began = time.monotonic()
        if self._keep is not None:
            folder = Path(tempfile.mkdtemp(prefix=_folder_name(run), dir=self._keep))
            return self._in(folder, run, began, folder)
        with tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True) as scratch:
            return self._in(Path(scratch), run, began, None)

    def _in(self, folder: Path, run: Run, began: float, kept: Path | None) -> Result:
        plans = write_plans(run, folder)
        limit = run.case.limit * self._limit_factor
        try:
            ended = self._processes(plans, folder, limit)
        except OSError as error:
            problem = f"{plans.command[0]} cannot be started: {error.strerror or error}"
            ended = _Ended(None, False, [], "")
            return self._result(run, began, ended, {"parent": [], "child": []}, [problem], kept)
        problems: list[str] = []
        actual: dict[Role, list[Json]] = {"parent": [], "child": []}
        for role in ROLES:
            try:
                actual[role] = list(_report(plans.reports[role]))
            except _WrongReport as error:
                actual[role] = error.before
                problems.append(f"the {role}'s report is wrong: {error}")
        if kept is not None:
            (kept / "output.txt").write_text(ended.output, encoding="utf-8")
        if ended.timed_out:
            problems.append(f"it did not end within {limit:g} s")
        if ended.left:
            what = "still running" if ended.timed_out else "left over after the end"
            problems.append(f"{what}: {', '.join(ended.left)}")
        if not ended.timed_out and (wrong := _wrong_status(run, ended.status)) is not None:
            problems.append(wrong)
        return self._result(run, began, ended, actual, problems, kept)

    def _result(
        self,
        run: Run,
        began: float,
        ended: _Ended,
        actual: dict[Role, list[Json]],
        problems: list[str],
        kept: Path | None,
    ) -> Result:
        def made(outcome: Outcome, reason: str | None) -> Result:
            seconds = round(time.monotonic() - began, 3)
            return Result(run, outcome, reason, seconds, actual, mismatch, ended.output, kept)

        mismatch: tuple[Role, Mismatch] | None = None
        for role in ROLES:
            for observation in actual[role]:
                if isinstance(observation, dict) and "unsupported" in observation:
                    name = run.player(role).name
                    step = shown(observation["unsupported"])
                    return made("not-applicable", f"the peer of {name} does not know {step}")
        # What the tested side observed says more.
        order: list[Role] = ["parent", "child"] if run.subject != "child" else ["child", "parent"]
        for role in order:
            found = compare(run.case.side(role).sees, actual[role])
            if found is not None:
                mismatch = mismatch or (role, found)
                problems.append(f"{role}: {found.text}")
        deviation = find(self._deviations, run.case.id, run.mode, run.parent.name, run.child.name)
        if problems:
            if deviation is not None:
                return made("expected-failure", deviation.reason)
            return made("fail", "; ".join(problems))
        if deviation is not None:
            return made("unexpected-pass", f"it passes in spite of {deviation.where}")
        return made("pass", None)

    def _processes(self, plans: Plans, folder: Path, limit: float) -> _Ended:
        deadline = time.monotonic() + limit
        with self._lock:
            if self._stopped:
                raise InterruptedError("the suite was stopped")
            process = subprocess.Popen(
                plans.command,
                cwd=folder,
                env=plans.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # Its own process group, to find and end whatever it starts.
                start_new_session=True,
            )
            self._groups.add(process.pid)
        group = process.pid
        try:
            with process:
                # Both peers hold this pipe: its end is the end of both.
                assert process.stdout is not None
                output, closed = _read_until(process.stdout.fileno(), deadline)
                status: int | None = None
                try:
                    status = process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    closed = False
                until = min(deadline, time.monotonic() + _GRACE) if closed else 0.0
                left = _left_over(group, until)
                _kill_group(group)
                process.wait()
        finally:
            _kill_group(group)
            with self._lock:
                self._groups.discard(group)
        return _Ended(status, not closed, left, output)

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for group in self._groups:
                _kill_group(group)


def _folder_name(run: Run) -> str:
    return f"{run.case.id.replace('/', '.')}-{run.parent.name}-{run.child.name}-{run.mode}-"


def _read_until(descriptor: int, deadline: float) -> tuple[str, bool]:
    """What can be read until the end or the deadline, the last part of it, and whether it ended."""
    data = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                ended = False
                break
            if not (chunk := os.read(descriptor, 65536)):
                ended = True
                break
            data += chunk
            if len(data) > 2 * _OUTPUT_KEPT:
                del data[:-_OUTPUT_KEPT]
    return data[-_OUTPUT_KEPT:].decode("utf-8", "replace"), ended


def _left_over(group: int, until: float) -> list[str]:
    """The processes of a group that still run at that time, described."""
    pause = 0.001
    while True:
        found = list(_members(group))
        left = until - time.monotonic()
        if not found or left <= 0:
            return found
        time.sleep(min(pause, left))
        pause = min(pause * 2, 0.1)


def _members(group: int) -> Iterator[str]:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return
    except PermissionError:
        # macOS says so of a group that has only zombies.
        return
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) != group or process.status() == psutil.STATUS_ZOMBIE:
                continue
            yield f"{process.pid} ({' '.join(process.cmdline())[:200]})"
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # It has ended, or only zombies are left of it.
        return


class _WrongReport(Exception):
    def __init__(self, text: str, before: list[Json]) -> None:
        super().__init__(text)
        self.before = before


def _report(path: Path) -> list[Json]:
    """The observations in a report, in normal form. Raises _WrongReport."""
    found: list[Json] = []
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return found
    *lines, rest = data.split(b"\n")
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            observation = json.loads(line)
        except (ValueError, RecursionError) as error:
            text = line[:200].decode("utf-8", "replace")
            raise _WrongReport(f"line {number} is not JSON ({error}): {text!r}", found) from error
        if isinstance(observation, dict) and "unsupported" in observation:
            found.append(observation)
            continue
        try:
            found.append(normal_observation(observation))
        except WrongValue as error:
            place = "".join(f"[{key!r}]" for key in error.place)
            raise _WrongReport(
                f"line {number}{', at ' + place if place else ''}: {error}: {shown(observation)}",
                found,
            ) from error
    if rest:
        raise _WrongReport(f"line {len(lines) + 1} has no end", found)
    return found


def _wrong_status(run: Run, status: int | None) -> str | None:
    """What is wrong with the parent's status, which no observation shows."""
    allowed = {0}
    for step in run.case.parent.steps:
        match step:
            case {"exit": int(code)}:
                allowed = {code}
            case {"die": str(name)}:
                allowed = {-_signal_number(name)}
    if status in allowed or status is None:
        return None
    if status < 0:
        return f"the parent's peer was ended by {signal.Signals(-status).name}"
    return f"the parent's peer ended with status {status}"


def _signal_number(name: str) -> int:
    try:
        return signal.Signals[name].value
    except KeyError:
        return 0
