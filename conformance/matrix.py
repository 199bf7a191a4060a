"""Which runs there are: subject x role x counterpart x serialization mode."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from conformance.cases import MODES, ROLES, Case, Mode, Role
from conformance.implementations import RAW, Implementation

__all__ = ["Run", "Subject", "runs"]

Subject: TypeAlias = Literal["parent", "child", "both"]


@dataclass(frozen=True, slots=True)
class Run:
    """One case with one implementation as the parent and one as the child, in one mode.

    `not_applicable` says why there is nothing to run, if so.
    """

    case: Case
    parent: Implementation
    child: Implementation
    mode: Mode
    subject: Subject
    not_applicable: str | None

    def player(self, role: Role) -> Implementation:
        return self.parent if role == "parent" else self.child

    def __str__(self) -> str:
        return f"{self.case.id} [{self.parent.name} → {self.child.name}, {self.mode}]"


def runs(
    cases: Iterable[Case],
    subjects: Sequence[Implementation],
    counterparts: Sequence[Implementation],
    *,
    roles: Sequence[Role] = ROLES,
    itself: bool = False,
    modes: Sequence[Mode] = MODES,
) -> list[Run]:
    """Every case with each subject in each role, against each counterpart and, with `itself`,
    against itself. A run that two subjects ask for is there once, and tests both."""
    found: dict[tuple[str, str, str, Mode], Run] = {}
    for case in cases:
        for subject in subjects:
            for role in roles:
                if role not in subject.roles or case.side(role).raw:
                    continue
                other: Role = "child" if role == "parent" else "parent"
                partners: Iterable[Implementation]
                if case.side(other).raw:
                    partners = [RAW]
                else:
                    partners = [each for each in counterparts if other in each.roles]
                    if itself and other in subject.roles:
                        partners = [*partners, subject]
                for partner in partners:
                    parent, child = (subject, partner) if role == "parent" else (partner, subject)
                    for mode in modes:
                        if mode in case.modes:
                            _add(found, _run(case, parent, child, mode, role))
    return list(found.values())


def _add(found: dict[tuple[str, str, str, Mode], Run], run: Run) -> None:
    key = (run.case.id, run.parent.name, run.child.name, run.mode)
    if (same := found.get(key)) is None:
        found[key] = run
    elif same.subject != run.subject:
        found[key] = replace(same, subject="both")


def _run(case: Case, parent: Implementation, child: Implementation, mode: Mode, role: Role) -> Run:
    return Run(case, parent, child, mode, role, _not_applicable(case, parent, child, mode))


def _not_applicable(
    case: Case, parent: Implementation, child: Implementation, mode: Mode
) -> str | None:
    if sys.platform not in case.platforms:
        return f"the case is for {' and '.join(case.platforms)}"
    for each in (parent, child):
        if mode not in each.modes:
            return f"{each.name} does not speak {mode} mode with others"
        if each.node is not None and not case.allows_node(each.node):
            return f"the case is for Node {case.node}"
    if case.start == "fork" and child.fork is None:
        return f"{child.name} cannot be started with fork"
    return None
