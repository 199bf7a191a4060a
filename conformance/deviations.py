"""The known differences: deviations.yaml."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from conformance.cases import MODES, Case, Mode, Role
from conformance.documents import DocumentError, Json, close_to, load, schema_problems

__all__ = ["FILE", "Deviation", "find", "load_deviations"]

FILE = Path(__file__).parent / "deviations.yaml"

_SCHEMA = Path(__file__).parent / "deviations.schema.json"


@dataclass(frozen=True, slots=True)
class Deviation:
    """A difference of an implementation: the runs that it explains, and its reason."""

    implementations: tuple[str, ...]
    role: Role | None
    cases: tuple[str, ...]
    modes: tuple[Mode, ...]
    counterparts: tuple[str, ...]
    reason: str
    upstream: str | None
    where: str

    def explains(self, case: str, mode: Mode, parent: str, child: str) -> bool:
        """Whether a run of `case` between these two is expected to fail."""
        if mode not in self.modes or not _fits(case, self.cases):
            return False
        sides: list[tuple[Role, str, str]] = [("parent", parent, child), ("child", child, parent)]
        return any(
            self.role in (None, role)
            and _fits(name, self.implementations)
            and _fits(other, self.counterparts)
            for role, name, other in sides
        )


def load_deviations(
    path: Path, implementations: Iterable[str], cases: Iterable[Case]
) -> list[Deviation]:
    """The deviations of one file. Each must be of something there is. Raises DocumentError."""
    names = list(implementations)
    ids = [case.id for case in cases]
    found: list[Deviation] = []
    problems: list[str] = []
    for document in load(path):
        wrong = schema_problems(document, _schema())
        problems += wrong
        for index, entry in enumerate([] if wrong else document.data or ()):
            for key, known in (("impl", names), ("counterpart", names), ("cases", ids)):
                for pattern in _strings(entry.get(key, "*")):
                    if not any(fnmatchcase(name, pattern) for name in known):
                        what = "case" if key == "cases" else "implementation"
                        problems.append(
                            document.says(
                                (index, key),
                                f"no {what} is called {pattern!r}"
                                f"{close_to(pattern, known) if len(known) < 40 else ''}",
                            )
                        )
            found.append(
                Deviation(
                    implementations=_strings(entry["impl"]),
                    role=entry.get("role"),
                    cases=_strings(entry["cases"]),
                    modes=tuple(entry.get("modes", MODES)),
                    counterparts=_strings(entry.get("counterpart", "*")),
                    reason=entry["reason"],
                    upstream=entry.get("upstream"),
                    where=document.says((index,), "")[:-2],
                )
            )
    if problems:
        raise DocumentError(problems)
    return found


def find(
    deviations: Sequence[Deviation], case: str, mode: Mode, parent: str, child: str
) -> Deviation | None:
    """The first deviation that explains the failure of this run."""
    return next((each for each in deviations if each.explains(case, mode, parent, child)), None)


@functools.cache
def _schema() -> dict[str, Json]:
    schema: dict[str, Json] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def _strings(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
