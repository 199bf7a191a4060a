"""results.json: everything about a whole run of the suite, for the report and for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from conformance.cases import ROLES
from conformance.documents import Json
from conformance.runner import Result

__all__ = ["as_json", "write_results"]


def as_json(
    results: Sequence[Result],
    *,
    started: datetime,
    seconds: float,
    versions: Mapping[str, str | None],
) -> dict[str, Json]:
    """The content of results.json. `versions` names every implementation that took part."""
    return {
        "suite": 1,
        "started": started.astimezone(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "machine": {
            "system": platform.system(),
            "release": platform.release(),
            "architecture": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
        "implementations": {name: {"version": text} for name, text in versions.items()},
        "runs": [_run(result) for result in results],
    }


def write_results(path: Path, content: dict[str, Json]) -> None:
    """Write results.json, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _run(result: Result) -> dict[str, Json]:
    run, case = result.run, result.run.case
    mismatch = None
    if result.mismatch is not None:
        side, found = result.mismatch
        mismatch = {"side": side, "index": found.index, "text": found.text}
    return {
        "case": case.id,
        "area": case.area,
        "level": case.level,
        "requirement": case.requirement,
        "source": case.source,
        "mode": run.mode,
        "parent": run.parent.name,
        "child": run.child.name,
        "subject": run.subject,
        "outcome": result.outcome,
        "reason": result.reason,
        "seconds": result.seconds,
        "expected": {role: list(case.side(role).sees) for role in ROLES},
        "actual": {role: result.actual[role] for role in ROLES},
        "mismatch": mismatch,
        # The child has the parent's stdout and stderr, so what it prints is among the parent's.
        "output": {"parent": result.output, "child": ""},
        "wire": None,
    }
