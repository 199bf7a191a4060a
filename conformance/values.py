"""The values of messages: one normal form for what a case writes and what a peer observes.

The README's section "Values" says how a value is written. In the normal form whatever can be
written in two ways is written in one, long strings and bytes are digests, and the keys of every
`$` map are in one order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Final

from conformance.documents import Json, Place, close_to

__all__ = ["ANY", "DIGEST_FROM", "WrongValue", "difference", "digest", "normal"]

# Strings of more code units and bytes of more than this are digests in observations.
DIGEST_FROM: Final = 1000

ANY: Final = {"$": "any"}

_SAFE = 2**53
_NUMBERS = ("-0", "NaN", "Infinity", "-Infinity")
_VIEWS = {
    "Int8Array": 1,
    "Uint8Array": 1,
    "Uint8ClampedArray": 1,
    "Int16Array": 2,
    "Uint16Array": 2,
    "Int32Array": 4,
    "Uint32Array": 4,
    "Float16Array": 2,
    "Float32Array": 4,
    "Float64Array": 8,
    "BigInt64Array": 8,
    "BigUint64Array": 8,
    "DataView": 1,
}


class WrongValue(ValueError):
    """A value is not written as the README says; `place` is where inside it."""

    def __init__(self, place: Place, text: str) -> None:
        super().__init__(text)
        self.place = place


def normal(value: Json, *, wildcards: bool = False, repetition: bool = False) -> Json:
    """The normal form of a value, which can be written as JSON.

    `wildcards` allows `{$: any}`, `repetition` allows `{$: n}`. Raises WrongValue.
    """
    references = _References()
    references.count(value)
    return _Normal(wildcards, repetition, references).of(value, ())


def digest(kind: str, length: int, data: bytes) -> dict[str, Json]:
    """The digest of a string's UTF-8, or of bytes."""
    return {"$": "digest", "of": kind, "length": length, "sha256": hashlib.sha256(data).hexdigest()}


def difference(expected: Json, actual: Json, place: Place = ()) -> Place | None:
    """Where two normal forms first differ; None when they do not. `{$: any}` equals everything."""
    if expected == ANY:
        return None
    if type(expected) is not type(actual):
        return place
    match expected:
        case dict():
            for key, item in expected.items():
                if key not in actual:
                    return (*place, key)
                if (found := difference(item, actual[key], (*place, key))) is not None:
                    return found
            # Also the order of the keys, and those that were not expected.
            return None if list(expected) == list(actual) else place
        case list():
            for index, item in enumerate(expected[: len(actual)]):
                if (found := difference(item, actual[index], (*place, index))) is not None:
                    return found
            shorter = min(len(expected), len(actual))
            return None if len(expected) == len(actual) else (*place, shorter)
        case _:
            return None if expected == actual else place


class _References:
    """Which ids a value defines, and which are used: one that is not used says nothing."""

    def __init__(self) -> None:
        self.used: set[Json] = set()
        self.numbers: dict[Json, int] = {}

    def count(self, value: Json) -> None:
        match value:
            case dict():
                identifier = value.get("id")
                if value.get("$") == "ref" and isinstance(identifier, int):
                    self.used.add(identifier)
                for item in value.values():
                    self.count(item)
            case list():
                for item in value:
                    self.count(item)


class _Normal:
    def __init__(self, wildcards: bool, repetition: bool, references: _References) -> None:
        self._wildcards = wildcards
        self._repetition = repetition
        self._references = references
        self._forms: dict[str, Callable[[dict[str, Json], Place], Json]] = {
            "any": self._any,
            "n": self._n,
            "undefined": self._bare,
            "hole": self._hole,
            "number": self._number,
            "bigint": self._bigint,
            "string": self._string,
            "repeat": self._repeat,
            "date": self._date,
            "regexp": self._regexp,
            "map": self._map,
            "set": self._set,
            "buffer": self._bytes,
            "arraybuffer": self._bytes,
            "view": self._view,
            "error": self._error,
            "boxed": self._boxed,
            "object": self._object,
            "array": self._array,
            "def": self._def,
            "ref": self._ref,
            "digest": self._digest,
        }

    def of(self, value: Json, place: Place) -> Json:
        match value:
            case None | bool():
                return value
            case int() | float():
                return _plain_number(value)
            case str():
                return _text(value)
            case list():
                return _array(len(value), {str(i): v for i, v in self._items(value, place)}, None)
            case dict() if "$" in value:
                form = value["$"]
                if not isinstance(form, str) or form not in self._forms:
                    raise WrongValue(
                        (*place, "$"), f"unknown value {form!r}{close_to(str(form), self._forms)}"
                    )
                return self._forms[form](value, place)
            case dict():
                return {key: self.of(item, (*place, key)) for key, item in value.items()}
        raise WrongValue(place, f"{value!r} is no value")

    def _items(self, items: list[Json], place: Place) -> Iterator[tuple[int, Json]]:
        for index, item in enumerate(items):
            if isinstance(item, dict) and item.get("$") == "hole":
                _keys(item, (*place, index), ())
            else:
                yield index, self.of(item, (*place, index))

    def _any(self, value: dict[str, Json], place: Place) -> Json:
        if not self._wildcards:
            raise WrongValue(place, "{$: any} is for what is expected only")
        return self._bare(value, place)

    def _n(self, value: dict[str, Json], place: Place) -> Json:
        if not self._repetition:
            raise WrongValue(place, "{$: n} is for a message that is sent several times only")
        return self._bare(value, place)

    def _bare(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ())
        return {"$": value["$"]}

    def _hole(self, value: dict[str, Json], place: Place) -> Json:
        raise WrongValue(place, "a hole can be in a list only")

    def _number(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("is",))
        if value["is"] not in _NUMBERS:
            raise WrongValue((*place, "is"), f"expected one of {', '.join(_NUMBERS)}, in quotes")
        return {"$": "number", "is": value["is"]}

    def _bigint(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("is",))
        text = value["is"]
        if not isinstance(text, str) or not text.removeprefix("-").isdecimal():
            raise WrongValue((*place, "is"), "expected the digits of a bigint, in quotes")
        # int() and str() refuse more than 4,300 digits, of which a bigint may have more.
        digits = text.removeprefix("-").lstrip("0") or "0"
        sign = "-" if text.startswith("-") and digits != "0" else ""
        return {"$": "bigint", "is": sign + digits}

    def _string(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("units",))
        units = value["units"]
        if not isinstance(units, list) or not all(
            type(unit) is int and 0 <= unit <= 0xFFFF for unit in units
        ):
            raise WrongValue((*place, "units"), "expected a list of numbers from 0 to 65535")
        encoded = b"".join(unit.to_bytes(2, "little") for unit in units)
        return _text(encoded.decode("utf-16-le", "surrogatepass"))

    def _repeat(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("of", "times"))
        text, times = value["of"], value["times"]
        if not isinstance(text, str):
            raise WrongValue((*place, "of"), "expected a string")
        _number_from(times, 0, (*place, "times"))
        return _text(text * times)

    def _date(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("ms",))
        if value["ms"] is not None and type(value["ms"]) not in (int, float):
            raise WrongValue((*place, "ms"), "expected milliseconds, or null")
        return {"$": "date", "ms": self.of(value["ms"], (*place, "ms"))}

    def _regexp(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("source",), ("flags",))
        source = _string_in(value, "source", place)
        flags = _string_in(value, "flags", place) if "flags" in value else ""
        return {"$": "regexp", "source": source, "flags": "".join(sorted(flags))}

    def _map(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("entries",))
        entries = [
            [self.of(part, (*place, "entries", index, at)) for at, part in enumerate(pair)]
            for index, pair in enumerate(_pairs(value, place))
        ]
        return {"$": "map", "entries": entries}

    def _set(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("items",))
        items = _list_in(value, "items", place)
        return {
            "$": "set",
            "items": [self.of(item, (*place, "items", at)) for at, item in enumerate(items)],
        }

    def _bytes(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("hex",), ("repeat",))
        form, data = value["$"], _data(value, place)
        if len(data) > DIGEST_FROM:
            return digest("buffer", len(data), data)
        return {"$": form, "hex": data.hex()}

    def _view(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("type", "hex"), ("repeat",))
        kind = value["type"]
        if not isinstance(kind, str) or kind not in _VIEWS:
            raise WrongValue(
                (*place, "type"), f"unknown view {kind!r}{close_to(str(kind), _VIEWS)}"
            )
        data = _data(value, place)
        if len(data) % _VIEWS[kind]:
            raise WrongValue((*place, "hex"), f"{len(data)} bytes are no whole {kind}")
        if len(data) > DIGEST_FROM:
            return digest("buffer", len(data), data)
        return {"$": "view", "type": kind, "hex": data.hex()}

    def _error(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("name", "message"), ("cause", "stack"))
        result: dict[str, Json] = {
            "$": "error",
            "name": _text(_string_in(value, "name", place)),
            "message": self.of(value["message"], (*place, "message")),
        }
        if "cause" in value:
            result["cause"] = self.of(value["cause"], (*place, "cause"))
        return result

    def _boxed(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("of",))
        return {"$": "boxed", "of": self.of(value["of"], (*place, "of"))}

    def _object(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("entries",))
        result: dict[str, Json] = {}
        for index, (key, item) in enumerate(_pairs(value, place)):
            if isinstance(key, dict) and key.get("$") in ("string", "repeat"):
                key = _key(self.of(key, (*place, "entries", index, 0)))
            if not isinstance(key, str) or key in result:
                raise WrongValue(
                    (*place, "entries", index), "the key of an object is a string, and there once"
                )
            result[key] = self.of(item, (*place, "entries", index, 1))
        if "$" in result:
            return {"$": "object", "entries": [[key, item] for key, item in result.items()]}
        return result

    def _array(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("length",), ("items", "properties"))
        _number_from(value["length"], 0, (*place, "length"))
        items = _map_in(value, "items", place)
        for key in items:
            index = int(key) if key.isascii() and key.isdecimal() else -1
            if str(index) != key or index >= value["length"]:
                raise WrongValue(
                    (*place, "items", key), f"{key!r} is no index below {value['length']}"
                )
        ordered = sorted(items.items(), key=lambda each: int(each[0]))
        properties = _map_in(value, "properties", place)
        return _array(
            value["length"],
            {key: self.of(item, (*place, "items", key)) for key, item in ordered},
            {key: self.of(item, (*place, "properties", key)) for key, item in properties.items()},
        )

    def _def(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("id", "of"))
        identifier = value["id"]
        _number_from(identifier, 0, (*place, "id"))
        numbers = self._references.numbers
        if identifier in numbers:
            raise WrongValue((*place, "id"), f"{identifier} is defined twice")
        if identifier not in self._references.used:
            return self.of(value["of"], (*place, "of"))
        # In the order of their appearance, whatever numbers a peer gives them.
        number = numbers[identifier] = len(numbers) + 1
        return {"$": "def", "id": number, "of": self.of(value["of"], (*place, "of"))}

    def _ref(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("id",))
        identifier = value["id"]
        _number_from(identifier, 0, (*place, "id"))
        if identifier not in self._references.numbers:
            raise WrongValue((*place, "id"), f"{identifier} is not defined before this")
        return {"$": "ref", "id": self._references.numbers[identifier]}

    def _digest(self, value: dict[str, Json], place: Place) -> Json:
        _keys(value, place, ("of", "length", "sha256"))
        _number_from(value["length"], 0, (*place, "length"))
        return {
            "$": "digest",
            "of": _string_in(value, "of", place),
            "length": value["length"],
            "sha256": _string_in(value, "sha256", place),
        }


def _plain_number(value: int | float) -> Json:
    if isinstance(value, int):
        if -_SAFE <= value <= _SAFE:
            return value
        try:
            value = float(value)
        except OverflowError:
            value = math.inf if value > 0 else -math.inf
    if math.isnan(value):
        return {"$": "number", "is": "NaN"}
    if math.isinf(value):
        return {"$": "number", "is": "Infinity" if value > 0 else "-Infinity"}
    if value == 0 and math.copysign(1, value) < 0:
        return {"$": "number", "is": "-0"}
    return int(value) if value.is_integer() and abs(value) <= _SAFE else value


def _text(text: str) -> Json:
    # Pairs of surrogates that were written one by one are one character.
    encoded = text.encode("utf-16-le", "surrogatepass")
    text = encoded.decode("utf-16-le", "surrogatepass")
    length = len(encoded) // 2
    if length > DIGEST_FROM:
        return digest("string", length, text.encode("utf-8", "surrogatepass"))
    if any("\ud800" <= character <= "\udfff" for character in text):
        units = [int.from_bytes(encoded[at : at + 2], "little") for at in range(0, 2 * length, 2)]
        return {"$": "string", "units": units}
    return text


def _key(text: Json) -> Json:
    """A key in normal form as a Python string again; a digest has none."""
    if isinstance(text, dict) and text["$"] == "string":
        encoded = b"".join(unit.to_bytes(2, "little") for unit in text["units"])
        return encoded.decode("utf-16-le", "surrogatepass")
    return text


def _array(length: int, items: dict[str, Json], properties: dict[str, Json] | None) -> Json:
    if not properties and (len(items) == length or length <= DIGEST_FROM):
        return [items.get(str(index), {"$": "hole"}) for index in range(length)]
    result: dict[str, Json] = {"$": "array", "length": length, "items": items}
    if properties:
        result["properties"] = properties
    return result


def _keys(
    value: dict[str, Json], place: Place, required: tuple[str, ...], other: tuple[str, ...] = ()
) -> None:
    form = value["$"]
    for key in required:
        if key not in value:
            raise WrongValue(place, f"{{$: {form}}} needs the key {key!r}")
    for key in value:
        if key != "$" and key not in required and key not in other:
            raise WrongValue(
                (*place, key),
                f"unknown key {key!r} of {{$: {form}}}{close_to(key, (*required, *other))}",
            )


def _string_in(value: dict[str, Json], key: str, place: Place) -> str:
    if not isinstance(value[key], str):
        raise WrongValue((*place, key), "expected a string")
    text: str = value[key]
    return text


def _list_in(value: dict[str, Json], key: str, place: Place) -> list[Json]:
    if not isinstance(value[key], list):
        raise WrongValue((*place, key), "expected a list")
    items: list[Json] = value[key]
    return items


def _map_in(value: dict[str, Json], key: str, place: Place) -> dict[str, Json]:
    found = value.get(key, {})
    if not isinstance(found, dict):
        raise WrongValue((*place, key), "expected a map")
    return found


def _pairs(value: dict[str, Json], place: Place) -> list[list[Json]]:
    entries = _list_in(value, "entries", place)
    for index, pair in enumerate(entries):
        if not isinstance(pair, list) or len(pair) != 2:
            raise WrongValue((*place, "entries", index), "expected [KEY, VALUE]")
    return entries


def _number_from(value: Json, least: int, place: Place) -> None:
    if type(value) is not int or value < least:
        raise WrongValue(place, f"expected a whole number from {least} on")


def _data(value: dict[str, Json], place: Place) -> bytes:
    try:
        data = bytes.fromhex(_string_in(value, "hex", place))
    except ValueError as error:
        raise WrongValue((*place, "hex"), "expected bytes as hexadecimal digits") from error
    times = value.get("repeat", 1)
    _number_from(times, 0, (*place, "repeat"))
    return data * int(times)
