"""Whether what a side observed is what it had to observe, and where it is not.

Both are sequences of observations in normal form, `normal_observation`; the expected one may have
the patterns `any_of`, `unordered` and `maybe`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from conformance.documents import Json, Place
from conformance.values import DIGEST_FROM, WrongValue, difference, digest, normal

__all__ = ["PATTERNS", "Mismatch", "compare", "normal_observation", "shown"]

PATTERNS = ("any_of", "unordered", "maybe")

# An observation or a value longer than this is cut in texts.
_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first observation that does not fit: its index, and expected against actual."""

    index: int
    text: str


def normal_observation(observation: Json, *, wildcards: bool = False) -> Json:
    """The normal form of what a side observes or, with `wildcards`, must observe.

    Raises WrongValue.
    """
    if isinstance(observation, str):
        return observation
    if not isinstance(observation, dict) or not observation:
        raise WrongValue((), "an observation is a name or a map")
    name, *rest = observation
    content = observation[name]
    if wildcards and name in PATTERNS:
        return {name: _normal_pattern(name, content)}
    result: dict[str, Json] = {}
    for key in (name, *sorted(rest)):
        try:
            if key == "frame" and isinstance(observation[key], str):
                result[key] = _normal_frame(observation[key])
            else:
                result[key] = normal(observation[key], wildcards=wildcards)
        except WrongValue as error:
            raise WrongValue((key, *error.place), str(error)) from error
    return result


def _normal_pattern(name: str, content: Json) -> Json:
    def inner(item: Json, place: Place) -> Json:
        try:
            return normal_observation(item, wildcards=True)
        except WrongValue as error:
            raise WrongValue((name, *place, *error.place), str(error)) from error

    match name:
        case "any_of":
            return [
                [inner(item, (at, index)) for index, item in enumerate(sequence)]
                for at, sequence in enumerate(content)
            ]
        case "unordered":
            return [inner(item, (at,)) for at, item in enumerate(content)]
        case _:
            return inner(content, ())


def _normal_frame(text: str) -> Json:
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise WrongValue((), "a frame is written as hexadecimal digits") from error
    if len(data) > DIGEST_FROM:
        return digest("buffer", len(data), data)
    return {"$": "buffer", "hex": data.hex()}


def compare(expected: Sequence[Json], actual: Sequence[Json]) -> Mismatch | None:
    """None when `actual` is one of the sequences that `expected` stands for.

    Otherwise the furthest place that any way of reading `expected` leads to.
    """
    search = _Search(actual)
    ends = search.sequence(expected, frozenset([0]))
    if len(actual) in ends:
        return None
    return search.mismatch(ends)


class _Search:
    """All the ways of reading a pattern at once: from the positions where it may begin it leads
    to those where it may end. What was expected furthest on is kept for the mismatch."""

    def __init__(self, actual: Sequence[Json]) -> None:
        self._actual = actual
        self._furthest = -1
        self._wanted: list[Json] = []

    def sequence(self, items: Sequence[Json], starts: frozenset[int]) -> frozenset[int]:
        for item in items:
            starts = self._item(item, starts)
        return starts

    def _item(self, item: Json, starts: frozenset[int]) -> frozenset[int]:
        match item:
            case {"any_of": branches}:
                ends: frozenset[int] = frozenset()
                for branch in branches:
                    ends |= self.sequence(branch, starts)
                return ends
            case {"maybe": inner}:
                return starts | self._item(inner, starts)
            case {"unordered": items}:
                return self._unordered(items, starts)
            case _:
                return frozenset(start + 1 for start in starts if self._fits(item, start))

    def _unordered(self, items: list[Json], starts: frozenset[int]) -> frozenset[int]:
        # Which of the items are still to come, and where that may be.
        states = {frozenset(range(len(items))): starts}
        for _ in items:
            following: dict[frozenset[int], frozenset[int]] = {}
            for left, positions in states.items():
                for index in left:
                    if ends := self._item(items[index], positions):
                        rest = left - {index}
                        following[rest] = following.get(rest, frozenset()) | ends
            states = following
        return states.get(frozenset(), frozenset())

    def _fits(self, item: Json, position: int) -> bool:
        if position < len(self._actual) and difference(item, self._actual[position]) is None:
            return True
        if position > self._furthest:
            self._furthest = position
            self._wanted = []
        if position == self._furthest and item not in self._wanted:
            self._wanted.append(item)
        return False

    def mismatch(self, ends: frozenset[int]) -> Mismatch:
        ended = max(ends, default=-1)
        if ended > self._furthest:
            self._furthest, self._wanted = ended, []
        index, total = self._furthest, len(self._actual)
        wanted = [shown(item) for item in self._wanted]
        if index in ends:
            wanted.append("the end")
        expected = " or ".join(wanted)
        if index >= total:
            after = f"after {total} observations" if total != 1 else "after 1 observation"
            return Mismatch(index, f"{after}: expected {expected}, but there was nothing more")
        actual = self._actual[index]
        text = f"observation {index + 1} of {total}: expected {expected}, got {shown(actual)}"
        if len(self._wanted) == 1 and len(text) > 120:
            text += _where(self._wanted[0], actual)
        return Mismatch(index, text)


def _where(expected: Json, actual: Json) -> str:
    """Where two large observations differ, when both are of one name."""
    place = difference(expected, actual)
    if not place or len(place) < 2:
        return ""
    wanted, got = _at(expected, place), _at(actual, place)
    path = str(place[0]) + "".join(f"[{key!r}]" for key in place[1:])
    return f"; they differ at {path}: expected {wanted}, got {got}"


def _at(value: Json, place: Place) -> str:
    for key in place:
        try:
            value = value[key]
        except (KeyError, IndexError):
            return "nothing"
    return shown(value)


def shown(observation: Json) -> str:
    """An observation or a value as one line of JSON, cut where it is long."""
    text = json.dumps(observation, ensure_ascii=False)
    # Lone surrogates cannot be written to a terminal or a file.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
