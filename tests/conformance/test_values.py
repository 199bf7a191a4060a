"""The normal form of values, and where two differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from conformance.values import ANY, WrongValue, difference, normal


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (1.0, 1),
        (2**53 + 1, 2**53),
        (1e21, 1e21),
        (-0.0, {"$": "number", "is": "-0"}),
        (float("nan"), {"$": "number", "is": "NaN"}),
        (10**400, {"$": "number", "is": "Infinity"}),
        (True, True),
        ({"$": "bigint", "is": "-007"}, {"$": "bigint", "is": "-7"}),
        ({"$": "string", "units": [97, 0xD83D, 0xDE00]}, "a\U0001f600"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ud800", {"$": "string", "units": [0xD800]}),
        ({"$": "repeat", "of": "ab", "times": 2}, "abab"),
        ({"$": "buffer", "hex": "00FF", "repeat": 2}, {"$": "buffer", "hex": "00ff00ff"}),
        (
            {"flags": "ig", "source": "a", "$": "regexp"},
            {"$": "regexp", "source": "a", "flags": "gi"},
        ),
        ([1, {"$": "hole"}], [1, {"$": "hole"}]),
        ({"$": "array", "length": 2, "items": {"1": 2, "0": 1}}, [1, 2]),
        ({"$": "array", "length": 2, "items": {"0": 1}}, [1, {"$": "hole"}]),
        (
            {"$": "array", "length": 1, "items": {"0": 1.0}, "properties": {"k": 2}},
            {"$": "array", "length": 1, "items": {"0": 1}, "properties": {"k": 2}},
        ),
        ({"$": "object", "entries": [["a", 1]]}, {"a": 1}),
        ({"$": "object", "entries": [["$", 1]]}, {"$": "object", "entries": [["$", 1]]}),
        ({"$": "def", "id": 9, "of": [1]}, [1]),
        (
            [{"$": "def", "id": 9, "of": {"a": {"$": "ref", "id": 9}}}],
            [{"$": "def", "id": 1, "of": {"a": {"$": "ref", "id": 1}}}],
        ),
        (
            {"$": "error", "name": "E", "message": "m", "stack": "at"},
            {"$": "error", "name": "E", "message": "m"},
        ),
    ],
    ids=repr,
)
def test_one_form(written: Any, expected: Any) -> None:
    found = normal(written)
    # As text: 1 and True, and the order of keys, are to differ.
    assert json.dumps(found) == json.dumps(expected)
    assert json.dumps(normal(found)) == json.dumps(found)


def test_strings_and_bytes_past_the_bound_are_digests() -> None:
    text = "\U0001f600" * 501
    assert normal("x" * 1000) == "x" * 1000
    assert normal(text) == {
        "$": "digest",
        "of": "string",
        "length": 1002,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    view = {"$": "view", "type": "Int8Array", "hex": "01", "repeat": 1001}
    assert normal(view) == normal({"$": "buffer", "hex": "01", "repeat": 1001})
    assert normal(view) == {
        "$": "digest",
        "of": "buffer",
        "length": 1001,
        "sha256": hashlib.sha256(b"\x01" * 1001).hexdigest(),
    }


@pytest.mark.parametrize(
    ("written", "place", "text"),
    [
        ({"a": [{"$": "dat", "ms": 0}]}, ("a", 0, "$"), "did you mean 'date'"),
        ({"$": "date", "ms": 0, "s": 1}, ("s",), "unknown key 's'"),
        ({"$": "date"}, (), "needs the key 'ms'"),
        ({"$": "any"}, (), "what is expected only"),
        ({"$": "n"}, (), "sent several times only"),
        ({"$": "hole"}, (), "in a list only"),
        ({"$": "ref", "id": 1}, ("id",), "not defined"),
        ({"$": "view", "type": "Int16Array", "hex": "00"}, ("hex",), "no whole Int16Array"),
        ({"$": "buffer", "hex": "0"}, ("hex",), "hexadecimal"),
        ({"$": "array", "length": 1, "items": {"1": 0}}, ("items", "1"), "no index below 1"),
    ],
)
def test_wrong_values_say_what_and_where(written: Any, place: tuple[Any, ...], text: str) -> None:
    with pytest.raises(WrongValue, match=text) as caught:
        normal(written)
    assert caught.value.place == place


@pytest.mark.parametrize(
    ("expected", "actual", "place"),
    [
        ([1, {"a": 2}], [1, {"a": 2}], None),
        ([1, {"a": 2}], [1, {"a": 3}], (1, "a")),
        (1, True, ()),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, ()),
        ({"a": 1}, {"a": 1, "b": 2}, ()),
        ({"a": 1}, {}, ("a",)),
        ([1], [1, 2], (1,)),
        ({"a": ANY}, {"a": [1, 2]}, None),
    ],
)
def test_difference(expected: Any, actual: Any, place: tuple[Any, ...] | None) -> None:
    assert difference(expected, actual) == place
