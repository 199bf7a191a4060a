"""The cases: one YAML file an area, checked against case.schema.json and by what it cannot say."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeAlias

from conformance.documents import (
    Document,
    DocumentError,
    Json,
    Place,
    close_to,
    load,
    schema_problems,
)
from conformance.match import normal_observation
from conformance.values import WrongValue, normal

__all__ = [
    "FOLDER",
    "MODES",
    "ROLES",
    "Case",
    "Mode",
    "Role",
    "Side",
    "load_cases",
    "load_file",
    "select",
]

Role: TypeAlias = Literal["parent", "child"]
Mode: TypeAlias = Literal["json", "advanced"]
ROLES: tuple[Role, ...] = ("parent", "child")
MODES: tuple[Mode, ...] = ("json", "advanced")

FOLDER = Path(__file__).parent / "cases"

_SCHEMA = Path(__file__).parent / "case.schema.json"

# Handles that come with a message get these names, in their order.
_RECEIVED = re.compile(r"in[1-9][0-9]*")

# The kinds that are made together with their other end.
_WITH_FAR_END = (
    "tcp-connection",
    "unix-connection",
    "net.Native-connection",
    "tcp-accepted",
    "udp4",
    "udp6",
    "dgram.Native",
)

# Keys that stand beside the first one, which the schema cannot say.
_BESIDE_STEPS = (
    "handle",
    "keep_open",
    "times",
    "callback",
    "reply",
    "text",
    "fds",
    "one_by_one",
)
_BESIDE_OBSERVATIONS = ("handle", "fds", "error")


@dataclass(frozen=True, slots=True)
class Side:
    """What one side does, and must observe: `sees` in normal form."""

    steps: tuple[Json, ...]
    sees: tuple[Json, ...]
    raw: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A case, as the README describes it."""

    id: str
    requirement: str
    source: str
    level: Literal["must", "should", "info"]
    modes: tuple[Mode, ...]
    node: str | None
    platforms: tuple[str, ...]
    start: Literal["spawn", "fork"]
    env: dict[str, str]
    parent: Side
    child: Side
    limit: float
    note: str | None
    where: str

    @property
    def area(self) -> str:
        return self.id.partition("/")[0]

    def side(self, role: Role) -> Side:
        return self.parent if role == "parent" else self.child

    def allows_node(self, major: int) -> bool:
        """Whether the case is for this major version of Node."""
        return all(_holds(major, condition) for condition in (self.node or "").split())


def _holds(major: int, condition: str) -> bool:
    operator = condition.rstrip("0123456789")
    bound = int(condition[len(operator) :])
    return {
        ">=": major >= bound,
        "<=": major <= bound,
        ">": major > bound,
        "<": major < bound,
        "=": major == bound,
    }[operator]


def load_cases(folder: Path = FOLDER) -> list[Case]:
    """The cases of every file in `folder`, in order. Raises DocumentError with all mistakes."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise DocumentError([f"{folder}: there is no case here: no file AREA.yaml"])
    cases: list[Case] = []
    problems: list[str] = []
    for path in files:
        try:
            cases += load_file(path)
        except DocumentError as error:
            problems += error.problems
    if problems:
        raise DocumentError(problems)
    return cases


def load_file(path: Path) -> list[Case]:
    """The cases of one file. Raises DocumentError with all mistakes in it."""
    problems: list[str] = []
    cases: list[Case] = []
    # An id names its file, so that those of two files cannot be the same.
    lines: dict[str, int] = {}
    for document in load(path):
        found = schema_problems(document, _schema())
        if not found:
            found = [document.says(*each) for each in _problems(document, lines)]
        if not found:
            cases.append(_case(document))
        problems += found
    if problems:
        raise DocumentError(problems)
    return cases


@functools.cache
def _schema() -> dict[str, Json]:
    schema: dict[str, Json] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def select(cases: Iterable[Case], selectors: Sequence[str]) -> list[Case]:
    """Those cases whose id or area is one of `selectors`, in which * stands for any text.

    Without selectors all of them. Raises ValueError for a selector that fits none.
    """
    cases = list(cases)
    for selector in selectors:
        if not any(_selected(case, selector) for case in cases):
            names = sorted({case.area for case in cases} | {case.id for case in cases})
            areas = sorted({case.area for case in cases})
            hint = close_to(selector, names)
            if "did you mean" not in hint:
                hint = f": the areas are {', '.join(areas)}"
            raise ValueError(f"no case is called {selector!r}{hint}")
    return [
        case
        for case in cases
        if not selectors or any(_selected(case, selector) for selector in selectors)
    ]


def _selected(case: Case, selector: str) -> bool:
    return case.area == selector or fnmatchcase(case.id, selector)


def _case(document: Document) -> Case:
    data = document.data
    return Case(
        id=data["id"],
        requirement=data["requirement"],
        source=data["source"],
        level=data["level"],
        modes=tuple(data.get("modes", MODES)),
        node=data.get("node"),
        platforms=tuple(data.get("platforms", ("linux", "darwin"))),
        start=data.get("start", "spawn"),
        env=data.get("env", {}),
        parent=_side(data["parent"]),
        child=_side(data["child"]),
        limit=data.get("limit", 10),
        note=data.get("note"),
        where=f"{document.path}:{document.lines[()]}",
    )


def _side(data: dict[str, Json]) -> Side:
    return Side(
        steps=tuple(data["do"]),
        sees=tuple(normal_observation(each, wildcards=True) for each in data["sees"]),
        raw=data.get("raw", False),
    )


def _problems(document: Document, lines: dict[str, int]) -> Iterator[tuple[Place, str]]:
    """What is wrong with a case that the schema has nothing against."""
    data = document.data
    identifier: str = data["id"]
    area = identifier.partition("/")[0]
    if area != document.path.stem:
        yield ("id",), f"{identifier!r} belongs into {area}.yaml, or is {document.path.stem}/…"
    if identifier in lines:
        yield ("id",), f"the id {identifier!r} is taken: by line {lines[identifier]}"
    lines.setdefault(identifier, document.lines["id",])
    raw = {role: bool(data[role].get("raw")) for role in ROLES}
    if all(raw.values()):
        yield (), "both sides are raw: that would test nobody"
    if raw["parent"] and data.get("start") == "fork":
        yield ("start",), "a raw parent starts its child in one way: leave this out"
    for role in ROLES:
        other = "child" if role == "parent" else "parent"
        gets_handles = any("handle" in step or "fds" in step for step in data[other]["do"])
        yield from _StepCheck(role, data[role]["do"], gets_handles).problems()
        yield from _sees_problems(role, data[role]["sees"])


class _StepCheck:
    """The steps of one side, in their order: each name is there before it is used."""

    def __init__(self, role: Role, steps: list[Json], gets_handles: bool) -> None:
        self._role = role
        self._steps = steps
        self._gets_handles = gets_handles
        self._opened: set[str] = set()
        self._labels: set[Json] = set()

    def problems(self) -> Iterator[tuple[Place, str]]:
        marked = False
        for index, step in enumerate(self._steps):
            place: Place = (self._role, "do", index)
            name = step if isinstance(step, str) else next(iter(step))
            if name == "mark_fds":
                marked = True
            elif name == "check_fds" and not marked:
                yield place, "check_fds needs mark_fds before it"
            if isinstance(step, str):
                continue
            if name in _BESIDE_STEPS:
                yield place, f"{name!r} is no step: is it {list(step)[1]!r}? Put that first"
                continue
            for where, text in self._of(name, step):
                yield (*place, *where), text

    def _of(self, name: str, step: dict[str, Json]) -> Iterator[tuple[Place, str]]:
        content: Json = step[name]
        sent = _label(step)
        match name:
            case "send":
                yield from _value_problems(content, (name,), repetition="times" in step)
                if "handle" in step:
                    yield from self._use(step["handle"], ("handle",))
                if "keep_open" in step and "handle" not in step:
                    yield ("keep_open",), "keep_open needs a handle"
                if "callback" in step:
                    if step["callback"] in self._labels:
                        yield ("callback",), f"the label {step['callback']!r} is taken"
                    self._labels.add(step["callback"])
            case "wait" if step["wait"] == "exit" and self._role == "child":
                yield (name,), "a child cannot wait for an exit: it is the parent that sees it"
            case "wait" if sent is not None and sent not in self._labels:
                yield (name,), f"no send before this has the callback {sent!r}"
            case "kill" if self._role == "child":
                yield (name,), "a child has nobody to kill: die ends itself"
            case "open":
                yield from self._open(content)
            case "connections" if self._role == "child":
                yield (name,), "the connections of a server are counted in the parent"
            case "serve" | "dial" | "write" | "read" | "close" | "connections":
                yield from self._use(content, (name,))
            case "bytes":
                yield from _data_problems(content, (name,))
                for at, handle in enumerate(step.get("fds", ())):
                    yield from self._use(handle, ("fds", at))

    def _open(self, content: dict[str, Json]) -> Iterator[tuple[Place, str]]:
        name, kind = content["name"], content["kind"]
        new = [name, f"{name}-far"] if kind in _WITH_FAR_END else [name]
        if _RECEIVED.fullmatch(name):
            yield ("open", "name"), f"{name} is the name of a handle that comes with a message"
        for each in new:
            if each in self._opened:
                yield ("open", "name"), f"{each!r} is there already"
        if kind == "tcp-accepted":
            if "of" not in content:
                yield ("open",), "tcp-accepted needs of: the server"
        elif "of" in content:
            yield ("open", "of"), "only tcp-accepted has a server"
        if "counted" in content and not kind.endswith("-server"):
            yield ("open", "counted"), "only a server can be counted"
        if "of" in content:
            yield from self._use(content["of"], ("open", "of"))
        self._opened.update(new)

    def _use(self, name: str, place: Place) -> Iterator[tuple[Place, str]]:
        if _RECEIVED.fullmatch(name):
            if not self._gets_handles:
                yield place, f"{name} never comes: the other side hands nothing over"
        elif name not in self._opened:
            later = any(
                isinstance(step, dict) and "open" in step and step["open"]["name"] == name
                for step in self._steps
            )
            yield (
                place,
                f"{name!r} is used before it is opened"
                if later
                else f"{name!r} is not opened{close_to(name, sorted(self._opened))}",
            )


def _label(step: dict[str, Json]) -> Json:
    """The label that a step waits for."""
    match step:
        case {"wait": {"sent": label}}:
            return label
    return None


def _value_problems(
    value: Json, place: Place, *, repetition: bool = False
) -> Iterator[tuple[Place, str]]:
    try:
        normal(value, repetition=repetition)
    except WrongValue as error:
        yield (*place, *error.place), str(error)


def _data_problems(data: Json, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(data, list):
        for index, piece in enumerate(data):
            yield from _data_problems(piece, (*place, index))
        return
    for index, value in enumerate(data.get("lines", ())):
        yield from _value_problems(value, (*place, "lines", index))
    text = data.get("text", "")
    if not isinstance(text, str):
        yield from _value_problems(text, (*place, "text"))
        if not isinstance(text, dict) or text.get("$") not in ("repeat", "string"):
            yield (*place, "text"), "expected a text"


def _sees_problems(role: Role, sees: list[Json]) -> Iterator[tuple[Place, str]]:
    for index, observation in enumerate(sees):
        place: Place = (role, "sees", index)
        try:
            normal_observation(observation, wildcards=True)
        except WrongValue as error:
            yield (*place, *error.place), str(error)
        for where, single in _single(observation, place):
            if not isinstance(single, dict):
                continue
            if "exit" in single and role == "child":
                yield (*where, "exit"), "a child observes no exit: it is the parent that does"
            if len(single) > 1 and next(iter(single)) in _BESIDE_OBSERVATIONS:
                yield where, f"{list(single)[1]!r} is to be the first key"


def _single(observation: Json, place: Place) -> Iterator[tuple[Place, Json]]:
    """The observations inside a pattern, or the one that is none."""
    match observation:
        case {"any_of": branches}:
            for at, branch in enumerate(branches):
                for index, item in enumerate(branch):
                    yield from _single(item, (*place, "any_of", at, index))
        case {"unordered": items}:
            for at, item in enumerate(items):
                yield from _single(item, (*place, "unordered", at))
        case {"maybe": inner}:
            yield from _single(inner, (*place, "maybe"))
        case _:
            yield place, observation
