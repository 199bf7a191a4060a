"""The plans of a run: what each peer is told, as the README's section "A peer" describes it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

from conformance.cases import ROLES, Role
from conformance.documents import Json
from conformance.matrix import Run

__all__ = ["Plans", "write_plans"]

# What a run must not inherit: this process may be a child with a channel itself.
_NOT_INHERITED = (
    "NODE_CHANNEL_FD",
    "NODE_CHANNEL_SERIALIZATION_MODE",
    "NODE_OPTIONS",
    "NODE_UNIQUE_ID",
)


class Plans(NamedTuple):
    """How to start a run, and where its reports will be."""

    command: list[str]
    env: dict[str, str]
    reports: dict[Role, Path]


def write_plans(run: Run, folder: Path) -> Plans:
    """Write both plans of `run` into `folder`, an existing one."""
    paths = {role: folder / f"{role}.json" for role in ROLES}
    reports: dict[Role, Path] = {role: folder / f"{role}.jsonl" for role in ROLES}
    for role in ROLES:
        plan: dict[str, Json] = {
            "role": role,
            "mode": run.mode,
            "steps": list(run.case.side(role).steps),
            "report": str(reports[role]),
        }
        if role == "parent":
            plan["start"] = _start(run, str(paths["child"]))
        paths[role].write_text(json.dumps(plan), encoding="utf-8")
    env = {key: text for key, text in os.environ.items() if key not in _NOT_INHERITED}
    env.update(run.parent.env)
    # What a peer leaves behind goes with the run.
    env["TMPDIR"] = str(folder)
    return Plans([*run.parent.command, str(paths["parent"])], env, reports)


def _start(run: Run, plan: str) -> dict[str, Json]:
    child = run.child
    env = {**dict(child.env), **run.case.env}
    if run.case.start == "fork" and child.fork is not None:
        return {
            "how": "fork",
            "module": child.fork.module,
            "args": [plan],
            "exec_path": child.fork.exec_path,
            "exec_argv": list(child.fork.exec_argv),
            "env": env,
        }
    command, *args = child.command
    return {"how": "spawn", "command": command, "args": [*args, plan], "env": env}
