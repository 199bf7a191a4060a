"""The small types for JavaScript's values, as a Python programmer expects them to behave."""

from __future__ import annotations

import copy
import math
import pickle
import re
import struct
import traceback
from collections.abc import Callable
from typing import Any

import pytest

import nodecompat
from nodecompat.protocol import js_types
from nodecompat.protocol.js_types import (
    ArrayBuffer,
    BigInt,
    Boxed,
    DataView,
    Float16Array,
    JSArray,
    JSDate,
    JSError,
    JSKey,
    Map,
    RegExp,
    SparseArray,
    Uint8ClampedArray,
    undefined,
)
from tests.v8_cases import same

_VALUES: list[Any] = [
    BigInt(5),
    BigInt(-(2**70)),
    Boxed(True),
    Boxed("text"),
    Boxed(BigInt(1)),
    JSDate(math.nan),
    JSDate(8.64e15),
    RegExp("a(b)", "gi"),
    Map({"a": 1}),
    Map({1.5: [Map()]}),
    JSArray([1, undefined], holes=[1], properties={"a": [2]}),
    SparseArray(2**32 - 1, {5: "x"}, properties={"p": {}}),
    ArrayBuffer(b"abc"),
    ArrayBuffer(b"abc", 10),
    DataView(b"abc"),
    Uint8ClampedArray(b"abc"),
    Float16Array(b"\x00\x3e"),
    JSError(),
    JSError("broken"),
    JSError("", name="TypeError", stack="somewhere", cause=None),
    JSError("outer", cause=JSError("inner", name="RangeError")),
    {JSKey(True): 1},
    {JSKey(BigInt(1))},
]


def test_every_type_is_to_be_had_from_the_package() -> None:
    for name in set(js_types.__all__) - {"MAX_SAFE_INTEGER"}:
        assert getattr(nodecompat, name) is getattr(js_types, name)


@pytest.mark.parametrize("value", _VALUES, ids=repr)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_value_survives_pickling(value: Any, protocol: int) -> None:
    assert same(pickle.loads(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("value", _VALUES, ids=repr)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_value_survives_copying(value: Any, copied: Callable[[Any], Any]) -> None:
    assert same(copied(value), value)


def _cyclic_array() -> Any:
    array: JSArray[Any] = JSArray([1], holes=[5])
    array.append(array)
    array.properties["self"] = array
    return array


def _cyclic_sparse_array() -> Any:
    array: SparseArray[Any] = SparseArray(10**9)
    array[3] = array
    return array


def _cyclic_map() -> Any:
    value: Map[Any, Any] = Map()
    value["self"] = value
    return value


def _cyclic_error() -> Any:
    error = JSError("m")
    error.cause = error
    return error


_CYCLES = [_cyclic_array, _cyclic_sparse_array, _cyclic_map, _cyclic_error]


@pytest.mark.parametrize("make", _CYCLES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_value_in_itself_survives_copying(
    make: Callable[[], Any], copied: Callable[[Any], Any]
) -> None:
    assert same(copied(make()), make())


@pytest.mark.parametrize("make", _CYCLES)
def test_a_value_in_itself_can_be_printed(make: Callable[[], Any]) -> None:
    assert "..." in repr(make())


@pytest.mark.parametrize(
    "value",
    [each for each in _VALUES if type(each) not in (DataView, JSError, set, dict)],
    ids=repr,
)
def test_what_a_value_prints_makes_it_again(value: Any) -> None:
    names = {**vars(js_types), "nan": math.nan}
    assert same(eval(repr(value), names), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (BigInt(5), "5"),
        (Boxed("text"), "text"),
        (Boxed(1.5), "1.5"),
        (RegExp("a/b", "ig"), "/a/b/gi"),
        (JSError("broken", name="TypeError"), "TypeError: broken"),
        (JSError(name="URIError"), "URIError"),
        (f"{BigInt(255):x} {BigInt(7)}", "ff 7"),
    ],
)
def test_a_value_as_text(value: Any, text: str) -> None:
    assert str(value) == text


# --------------------------------------------------------------------------------------- numbers


def test_a_bigint_is_an_int() -> None:
    assert BigInt(5) == 5
    assert hash(BigInt(2**80)) == hash(2**80)
    assert type(BigInt(5) + 1) is int
    assert [10, 20, 30][BigInt(1)] == 20


def test_boxes_are_equal_when_what_they_hold_is_the_same_in_javascript() -> None:
    assert Boxed(1) == Boxed(1.0)
    assert Boxed(math.nan) == Boxed(math.nan)
    assert Boxed(1) != Boxed(True)
    assert Boxed(1) != Boxed(BigInt(1))
    assert Boxed("1") != Boxed(1)
    assert Boxed(1) != 1
    assert len({Boxed(1), Boxed(1.0), Boxed(True), Boxed(BigInt(1)), Boxed("1")}) == 4


def test_a_box_converts() -> None:
    assert int(Boxed("12")) == 12
    assert float(Boxed(BigInt(3))) == 3.0


@pytest.mark.parametrize("value", [None, undefined, [], b""])
def test_only_primitives_are_boxed(value: Any) -> None:
    with pytest.raises(TypeError, match="no primitive that can be boxed"):
        Boxed(value)


def test_dates_out_of_range_compare_by_time() -> None:
    assert JSDate(8.64e15) == JSDate(8.64e15)
    assert JSDate(1.0) != JSDate(2.0)
    assert JSDate(1.0) != 1.0
    assert JSDate(1.0).valid


def test_there_is_one_invalid_date() -> None:
    assert not JSDate(math.nan).valid
    assert JSDate(math.nan) == JSDate(-math.nan)
    assert JSDate(math.nan) != JSDate(0.0)
    assert len({JSDate(math.nan), JSDate(float("nan"))}) == 1


# --------------------------------------------------------------------------------------- regexps


def test_a_regexp_is_told_by_source_and_flags_in_any_order() -> None:
    assert RegExp("a", "yg") == RegExp("a", "gy")
    assert RegExp("a", "g") != RegExp("a")
    assert RegExp("a", "yg").flags == "gy"
    assert len({RegExp("a", "gi"), RegExp("a", "ig")}) == 1


def test_an_empty_regexp_is_what_javascript_makes_of_it() -> None:
    assert RegExp("").source == RegExp("(?:)").source == "(?:)"


@pytest.mark.parametrize("flags", ["x", "gg", "uv", "G", " "])
def test_a_regexp_has_only_the_flags_of_javascript(flags: str) -> None:
    with pytest.raises(ValueError, match="flags"):
        RegExp("a", flags)


@pytest.mark.parametrize(
    ("regexp", "pattern", "flags"),
    [
        (RegExp("a.b", "ims"), "a.b", re.IGNORECASE | re.MULTILINE | re.DOTALL),
        (RegExp("a", "dguy"), "a", 0),
        (RegExp(r"(?<year>\d+)-\k<year>"), r"(?P<year>\d+)-(?P=year)", 0),
        (RegExp(r"(?<=a)b(?<!c)"), r"(?<=a)b(?<!c)", 0),
        (RegExp(r"\(?<x"), r"\(?<x", 0),
        (RegExp(r"[(?<x>]\\\k<y>(?<y>)"), None, 0),
        (RegExp(r"[(?<x>]"), r"[(?<x>]", 0),
        (RegExp(r"[\](?<x>]"), r"[\](?<x>]", 0),
    ],
    ids=str,
)
def test_a_regexp_as_a_pattern_of_pythons(regexp: RegExp, pattern: str | None, flags: int) -> None:
    if pattern is None:
        with pytest.raises(re.error, match="unknown group name"):
            regexp.compile()
        return
    compiled = regexp.compile()
    assert compiled.pattern == pattern
    assert compiled.flags == flags | re.UNICODE


# ------------------------------------------------------------------------------------ containers


def test_a_map_is_a_dict() -> None:
    value: Map[Any, Any] = Map({"a": 1}, b=2)
    value["c"] = 3
    assert value == {"a": 1, "b": 2, "c": 3}
    assert type(value.copy()) is Map
    assert dict(**value) == {"a": 1, "b": 2, "c": 3}
    assert repr(value) == "Map({'a': 1, 'b': 2, 'c': 3})"


def test_keys_are_the_same_where_they_are_to_javascript() -> None:
    thing: list[int] = []
    assert JSKey(thing) == JSKey(thing)
    assert JSKey(thing) != JSKey([])
    assert JSKey(1) == JSKey(1.0)
    assert JSKey(math.nan) == JSKey(float("nan"))
    assert JSKey(True) != JSKey(1)
    assert JSKey(BigInt(1)) != JSKey(1)
    assert JSKey(BigInt(2**90)) == JSKey(BigInt(2**90))
    assert JSKey("a") == JSKey("a")
    assert JSKey("a") != "a"
    assert JSKey(None) == JSKey(None)
    assert {JSKey(thing): 1, JSKey([]): 2}[JSKey(thing)] == 1


def test_an_array_is_equal_to_a_list_with_its_elements() -> None:
    assert JSArray([1, undefined], holes=[1]) == [1, undefined]
    assert JSArray([1], properties={"a": 1}) == [1]
    assert JSArray([1]) != [2]
    assert JSArray([1, undefined], holes=[1]) != JSArray([1, undefined])
    assert JSArray([1], properties={"a": 1}) != JSArray([1], properties={"a": 2})
    assert JSArray([1], properties={"a": 1}) == JSArray([1], properties={"a": 1})


def test_an_array_is_copied_with_all_that_it_has() -> None:
    array = JSArray([1, undefined], holes=[1], properties={"a": 1})
    other = array.copy()
    other.append(2)
    other.holes.clear()
    other.properties.clear()
    assert repr(array) == "JSArray([1, undefined], holes=[1], properties={'a': 1})"


def test_a_sparse_array_is_told_by_elements_length_and_properties() -> None:
    array = SparseArray(100, {5: "a"}, properties={"p": 1})
    assert array == array.copy()
    assert array != SparseArray(101, {5: "a"}, properties={"p": 1})
    assert array != SparseArray(100, {5: "a"})
    assert array != SparseArray(100, {6: "a"}, properties={"p": 1})
    assert array != {5: "a"}
    assert repr(array) == "SparseArray(100, {5: 'a'}, properties={'p': 1})"


# ----------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("kind", [ArrayBuffer, DataView, Uint8ClampedArray, Float16Array])
def test_buffers_are_bytearrays(kind: type[bytearray]) -> None:
    buffer = kind(b"abcd")
    buffer[0] = 0x41
    assert buffer == b"Abcd"
    assert memoryview(buffer)[1] == 0x62
    assert struct.unpack_from("<H", buffer, 2) == (0x6463,)
    assert repr(buffer) == str(buffer) == f"{kind.__name__}(b'Abcd')"


def test_a_resizable_array_buffer_shows_its_limit() -> None:
    assert repr(ArrayBuffer(b"a", 10)) == "ArrayBuffer(b'a', max_byte_length=10)"
    assert ArrayBuffer(3) == b"\0\0\0"


def test_half_floats_are_read() -> None:
    assert Float16Array(b"\x00\x3e\x00\xc0").tolist() == [1.5, -2.0]


# ---------------------------------------------------------------------------------------- errors


def test_an_error_can_be_raised_and_shows_what_it_is() -> None:
    with pytest.raises(JSError, match=r"^TypeError: broken$") as caught:
        raise JSError("broken", name="TypeError")
    assert caught.value.message == "broken"


def test_an_error_without_a_message_or_a_cause_is_not_one_with_an_empty_one() -> None:
    assert JSError().args == ()
    assert JSError("").args == ("",)
    assert JSError().message == JSError("").message == ""
    assert JSError().cause is JSError(cause=undefined).cause is undefined
    assert "cause" not in vars(JSError())
    assert "cause" in vars(JSError(cause=undefined))


def test_errors_compare_by_identity_as_exceptions_do() -> None:
    error = JSError("m")
    assert error == error
    assert error != JSError("m")
    assert len({error, JSError("m")}) == 2


def test_an_errors_cause_is_shown_in_a_traceback() -> None:
    error = JSError("outer", cause=JSError("inner"))
    assert "Error: inner" in "".join(traceback.format_exception(error))
    assert repr(error) == "JSError('outer', cause=JSError('inner'))"


def test_a_cause_that_is_no_exception_is_kept_all_the_same() -> None:
    error = JSError("m", cause={"a": 1})
    assert error.cause == {"a": 1}
    assert error.__cause__ is None
