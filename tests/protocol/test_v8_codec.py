"""V8's format, both ways: against what Nodes send, against another library, and against malice."""

from __future__ import annotations

import array
import collections
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import gc
import json
import math
import random
import sys
import threading
import tracemalloc
import types
import typing
import uuid
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import v8serialize
from hypothesis import example, given
from hypothesis import strategies as st
from v8serialize import jstypes

from nodecompat.errors import MessageError, ProtocolError
from nodecompat.protocol import v8_codec
from nodecompat.protocol.js_types import (
    MAX_SAFE_INTEGER,
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
from nodecompat.protocol.v8_codec import LARGE_BUFFER, MAX_DEPTH, decode
from tests.v8_cases import CASES, Case, same
from tests.v8_strategies import values

_FILE: Final = Path(__file__).parents[1] / "data" / "v8-vectors.json"
_VECTORS: Final[dict[str, dict[str, str]]] = json.loads(_FILE.read_text())["vectors"]
_CAPTURED: Final = [
    (case, bytes.fromhex(frame), f"{case.id} from Node {nodes.replace(' ', ',')}")
    for case in CASES
    for frame, nodes in _VECTORS.get(case.id, {}).items()
]
_FRAMES: Final = [pytest.param(case, frame, id=id) for case, frame, id in _CAPTURED]


def encode(value: Any, version: int = 13) -> bytes:
    """The whole frame of a value."""
    frame = v8_codec.encode(value, version=version)
    return frame if isinstance(frame, bytes) else b"".join(frame)


def _hex(text: str) -> bytes:
    return b"\xff\x0d" + bytes.fromhex(text)


# --------------------------------------------------------------------------- what real Nodes send


@pytest.mark.parametrize(("case", "frame"), _FRAMES)
def test_what_node_sends_is_read(case: Case, frame: bytes) -> None:
    assert same(decode(frame), [case.make()])


# Where our bytes are not Node's: either side reads both.
_WRITTEN_OTHERWISE: Final = {
    "Map with a NaN key": "in an array of doubles, V8 writes the integers as doubles, too",
    "array of doubles": "in an array of doubles, V8 writes the integers as doubles, too",
    "array of 200": "Node up to 18 counts what Array.from makes among the arrays with holes",
    "array that had holes": "to V8, what had holes once is sparse for good",
    "array of 200 that had holes": "to V8, what had holes once is sparse for good",
    "Set with keys that Python holds for equal": "a set of Python's has an order of its own",
    "Set": "a set of Python's has an order of its own",
    "Set of 200": "a set of Python's has an order of its own",
    "Set of Buffers": "a set of Python's has an order of its own",
    "Set of objects": "a set of Python's has an order of its own",
    "object with integer-like keys": "Node 18 holds some names in two bytes that need one",
    "array with holes and properties": "Node 18 holds some names in two bytes that need one",
    "native object": "its properties are an object to us",
    "shared native object": "its properties are an object to us",
    "BigInt64Array": "in version 13, written so that Node 12 and 14 read it",
    "BigUint64Array": "in version 13, written so that Node 12 and 14 read it",
    "shared bigint array": "in version 13, written so that Node 12 and 14 read it",
    "Error with a cause": "up to Node 20 the cause came first; since 22 it must come last",
    "Error with undefined for a cause": "up to Node 20 the cause came first",
    "Error with a chain of causes": "up to Node 20 the cause came first",
}


@pytest.mark.parametrize(
    ("case", "frame"),
    [
        pytest.param(case, frame, id=id)
        for case, frame, id in _CAPTURED
        if case.id not in _WRITTEN_OTHERWISE
    ],
)
def test_what_node_sends_is_written_byte_for_byte(case: Case, frame: bytes) -> None:
    assert encode(decode(frame), frame[1]).hex() == frame.hex()
    assert encode([case.make()], frame[1]).hex() == frame.hex()


def test_each_exception_is_a_case() -> None:
    assert set(_VECTORS).issuperset(_WRITTEN_OTHERWISE)


@pytest.mark.parametrize("version", [13, 14, 15])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_value_comes_back(case: Case, version: int) -> None:
    value = case.make()
    assert same(decode(encode(value, version)), value)


def test_every_node_is_in_the_vectors() -> None:
    assert list(json.loads(_FILE.read_text())["nodes"]) == [
        *("12", "14", "16", "18", "20", "22", "24", "26")
    ]


def test_a_case_is_as_strict_as_it_should_be() -> None:
    # What the tests above say is worth what this function tells apart.
    for one, other in [
        (1, 1.0),
        (1, True),
        (1, BigInt(1)),
        (0.0, -0.0),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ([[], []], [[]] * 2),
        (JSError("m"), JSError("m", cause=undefined)),
        (JSArray([undefined], holes=[0]), JSArray([undefined])),
        ({JSKey(1)}, {1}),
        (memoryview(b"ab"), memoryview(b"ab").cast("h")),
        (Map(), {}),
        (ArrayBuffer(b""), ArrayBuffer(b"", 0)),
    ]:
        assert not same(one, other)
        assert not same([one], [other])


# --------------------------------------------------------------------------------- versions, header


def test_the_default_is_the_oldest_version() -> None:
    assert v8_codec.encode(1) == bytes.fromhex("ff0d 4902")


@pytest.mark.parametrize("version", [0, 12, 16, 255, "15"])
def test_only_versions_that_node_reads_are_written(version: Any) -> None:
    with pytest.raises(ValueError, match=r"version=.*13 to 15"):
        encode(1, version)


@pytest.mark.parametrize("version", [13, 14, 15, 16])
def test_versions_13_to_16_are_read(version: int) -> None:
    assert decode(bytes([0xFF, version]) + bytes.fromhex("4902")) == 1


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ("ff0c4902", "version 12, which is not one from 13 to 16, at byte 0"),
        ("ff114902", "version 17"),
        ("ff8d004902", "version 141"),
        ("4902", "does not begin with V8's header"),
        ("", "it ends too early, at byte 0: the end"),
        ("ff", "it ends too early"),
        ("ff0d", "it ends too early, at byte 2: the end"),
    ],
)
def test_another_header_is_refused(frame: str, problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        decode(bytes.fromhex(frame))


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda frame: array.array("B", frame)]
)
def test_a_frame_may_be_any_bytes(kind: Callable[[bytes], Any]) -> None:
    value = {"a": ["x", "€", b"abc", {1.5}]}
    assert same(decode(kind(encode(value))), value)


# ------------------------------------------------------------------------------------- V8's details


@pytest.mark.parametrize(
    ("frame", "value"),
    [
        ("55 ffffffff0f", 2**32 - 1),
        ("49 ffffffff0f", -(2**31)),
        ("49 feffffff0f", 2**31 - 1),
        ("49 ffffffff7f", -(2**31)),
        ("55 ffffffff7f", 2**32 - 1),
        ("4e 0000000000000840", 3),
        ("4e 0000000000004043", 2.0**53),
        ("53 02 c3a9", "é"),
        ("53 03 eda080", "\ufffd\ufffd\ufffd"),
        ("00 00 63 02 ac20", "€"),
        ("63 02 ac20", "€"),
        ("63 04 3dd800de", "\U0001f600"),
        ("63 00", ""),
        ("5a 02 ff", BigInt(255)),
        ("5a 11 0000000000000000", BigInt(0)),
        ("7a 03 ff", Boxed(BigInt(-255))),
        ("44 000000000000e03f", datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)),
        ("44 000000000000f8bf", datetime.datetime.fromtimestamp(-0.001, datetime.UTC)),
        ("44 0000000000000000", datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)),
        ("44 000000000000e07f", JSDate(math.nan)),
        ("73 00 22 01 61", Boxed("a")),
        ("6f 49 02 54 7b 01", {"1": True}),
        ("6f 55 02 54 7b 01", {"2": True}),
        ("6f 4e 000000000000f83f 54 7b 01", {"1.5": True}),
        ("6f 53 01 61 54 7b 01", {"a": True}),
        ("41 02 00 54 00 46 00 24 00 02", [True, False]),
        ("41 01 2d 22 01 30 54 24 01 01", [True]),
        ("41 01 2d 49 00 54 24 01 01", [True]),
        ("61 02 49 02 54 40 01 02", JSArray([undefined, True], holes=[0])),
        ("61 02 22 01 30 54 22 01 31 46 40 02 02", [True, False]),
        ("61 02 49 02 54 49 00 46 40 02 02", [False, True]),
        ("42 03 010203", ArrayBuffer(b"\1\2\3")),
        ("42 04 01020304 56 42 01 02", memoryview(b"\2\3")),
        ("42 04 01020304 56 57 02 02", memoryview(b"\3\4").cast("H")),
        ("42 02 0102 56 3f 00 02", DataView(b"\1\2")),
        ("42 02 0102 56 43 00 02", Uint8ClampedArray(b"\1\2")),
        ("42 02 0102 56 68 00 02", Float16Array(b"\1\2")),
        ("72 2e", JSError()),
        ("61 01 49 03 54 40 01 01", JSArray([undefined], holes=[0], properties={"-2": True})),
        ("72 63 49 02 54 6d 22 01 61 2e", JSError("a", name="TypeError", cause=1)),
        ("72 63 49 02 63 49 04 2e", JSError(cause=2)),
        ("5c 01 6f 22 01 61 5e 00 7b 01", None),
    ],
)
def test_what_v8_reads_is_read(frame: str, value: Any) -> None:
    read = decode(_hex(frame))
    if value is None:
        # A native object in itself, which Node writes and does not read.
        assert read["a"] is read
        assert len(read) == 1
    else:
        assert same(read, value)


def test_an_array_buffer_is_shared_between_its_views() -> None:
    buffer, view, other = decode(
        _hex("41 03 42 02 0102 5e 01 56 42 00 01 5e 01 56 77 00 02 24 00 03")
    )
    buffer[0] = 9
    assert view.tolist() == [9]
    assert other.tolist() == [0x0209]


def test_views_have_flags_since_version_14() -> None:
    frame = "7e 02 08 0102 56 42 00 02 02"
    assert decode(b"\xff\x0e" + bytes.fromhex(frame)).tolist() == [1, 2]


def test_a_16_bit_string_begins_at_an_even_offset() -> None:
    for before in range(4):
        for text in ("€", "€" * 100, "€" * 10_000):
            frame = encode(["x" * before, text, text])
            assert decode(frame) == ["x" * before, text, text]
            start = frame.index(text.encode("utf-16-le"))
            assert start % 2 == 0
            assert frame.index(text.encode("utf-16-le"), start + 1) % 2 == 0


def test_large_integers_are_bigints() -> None:
    for number in (MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER):
        assert type(decode(encode(number))) is int
        assert type(decode(encode(BigInt(number)))) is BigInt
        beyond = number + (1 if number > 0 else -1)
        assert same(decode(encode(beyond)), BigInt(beyond))


@given(st.integers(), st.integers(0, 2**40))
def test_any_integer_keeps_its_value(number: int, small: int) -> None:
    assert decode(encode([number, small, -small])) == [number, small, -small]


# -------------------------------------------------------------------------------- Python's values


class _Color(enum.Enum):
    RED = "red"
    NESTED = ((1, 2), {"a": None})


class _Level(enum.IntEnum):
    LOW = 1


class _Word(enum.StrEnum):
    YES = "yes"


class _Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


@dataclasses.dataclass
class _Point:
    x: int
    y: Any


@dataclasses.dataclass
class _Derived(_Point):
    z: list[int]


class _Pair(typing.NamedTuple):
    one: int
    other: int


class _MyDict(dict[str, Any]):
    pass


class _MyList(list[Any]):
    pass


class _MyInt(int):
    pass


class _MyFloat(float):
    pass


class _MyStr(str):
    pass


class _MyBytes(bytes):
    pass


_ID: Final = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ((1, (2,)), [1, [2]]),
        ((), []),
        (_Pair(1, 2), [1, 2]),
        (_Color.RED, "red"),
        (_Color.NESTED, [[1, 2], {"a": None}]),
        (_Level.LOW, 1),
        (_Word.YES, "yes"),
        (_Bits.ONE | _Bits.TWO, 3),
        (_Point(1, _Point(2, "y")), {"x": 1, "y": {"x": 2, "y": "y"}}),
        (_Derived(1, 2, [3]), {"x": 1, "y": 2, "z": [3]}),
        (_ID, str(_ID)),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.time(1, 2, 3), "01:02:03"),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(int, a=1), {"a": 1}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.ChainMap({"a": 1}, {"b": 2}), {"b": 2, "a": 1}),
        (types.MappingProxyType({"a": 1}), {"a": 1}),
        (_MyDict(a=1), {"a": 1}),
        (_MyList([1]), [1]),
        (_MyInt(2**60), BigInt(2**60)),
        (_MyFloat(1.5), 1.5),
        (_MyStr("€"), "€"),
        (_MyBytes(b"abc"), b"abc"),
        (bytearray(b"abc"), b"abc"),
        (frozenset([1, 2]), {1, 2}),
        ({"a": 1}.keys(), {"a"}),
        (2**53 - 1, 2**53 - 1),
        (2**53, BigInt(2**53)),
        (1.0, 1),
        ({1: "a", 2.5: "b", None: "c"}, {"1": "a", "2.5": "b", "null": "c"}),
        ({False: 1, math.nan: 2, -math.inf: 3}, {"false": 1, "NaN": 2, "-Infinity": 3}),
        ({1e-7: 1, 0.00001: 2, 1e21: 3}, {"1e-7": 1, "0.00001": 2, "1e+21": 3}),
        ({1.2345678901234568e20: 4, 1.5e300: 5}, {"123456789012345680000": 4, "1.5e+300": 5}),
        ({_ID: 1, _Color.RED: 2, _Level.LOW: 3}, {str(_ID): 1, "red": 2, "1": 3}),
        ({_Word.YES: 1, _MyStr("x"): 2}, {"yes": 1, "x": 2}),
        (Map({1: JSKey(2), _Word.YES: 3}), Map({1: 2, "yes": 3})),
        (JSArray([1], holes=[0]), [1]),
        (JSArray([undefined], holes=[5]), [undefined]),
        (SparseArray(2), JSArray([undefined, undefined], holes=[0, 1])),
        (SparseArray(2, {1: "b", 0: "a"}), ["a", "b"]),
        (JSDate(0.0), datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)),
        (Boxed(2**60), Boxed(BigInt(2**60))),
    ],
    ids=repr,
)
def test_a_value_of_pythons_arrives_as(value: Any, arrives: Any) -> None:
    assert same(decode(encode([value])), [arrives])


def test_a_tuple_as_a_key_is_an_array() -> None:
    [(key, value)] = decode(encode(Map({(1, 2): "x"}))).items()
    assert same([key.value, value], [[1, 2], "x"])


def test_a_datetime_keeps_its_milliseconds_whatever_its_zone() -> None:
    zone = zoneinfo.ZoneInfo("America/New_York")
    moment = datetime.datetime(2024, 7, 1, 12, 0, 0, 123999, tzinfo=zone)
    expected = datetime.datetime(2024, 7, 1, 16, 0, 0, 123000, tzinfo=datetime.UTC)
    assert same(decode(encode(moment)), expected)


def test_a_naive_datetime_is_local_time() -> None:
    moment = datetime.datetime(2024, 7, 1, 12)
    assert decode(encode(moment)) == moment.astimezone()


@given(st.datetimes(timezones=st.timezones()))
def test_any_datetime_goes(moment: datetime.datetime) -> None:
    try:
        expected = moment.astimezone(datetime.UTC)
    except OverflowError:
        # Across the year 1 or 9999, where Python has no UTC for it.
        assert isinstance(decode(encode(moment)), JSDate)
    else:
        rounded = expected.replace(microsecond=expected.microsecond // 1000 * 1000)
        assert decode(encode(moment)) == rounded


# ---------------------------------------------------------------------------- buffers, typed arrays


@pytest.mark.parametrize(
    ("value", "letter", "items"),
    [
        (memoryview(b"ab"), "B", [97, 98]),
        (memoryview(bytearray(b"ab")), "B", [97, 98]),
        (memoryview(b"abcdef")[::2], "B", [97, 99, 101]),
        (memoryview(b"\1\0\2\0\3\0").cast("h")[::-1], "h", [3, 2, 1]),
        (array.array("b", [-1]), "b", [-1]),
        (array.array("B", [1]), "B", [1]),
        (array.array("h", [-1]), "h", [-1]),
        (array.array("H", [1]), "H", [1]),
        (array.array("i", [-1]), "i", [-1]),
        (array.array("I", [1]), "I", [1]),
        (array.array("q", [-1]), "q", [-1]),
        (array.array("Q", [1]), "Q", [1]),
        (array.array("f", [1.5]), "f", [1.5]),
        (array.array("d", [1.5]), "d", [1.5]),
        (array.array("l", [-1]), "q" if array.array("l").itemsize == 8 else "i", [-1]),
        ((ctypes.c_uint16 * 2)(1, 2), "H", [1, 2]),
        ((ctypes.c_int32.__ctype_be__ * 2)(1, -2), "i", [1, -2]),
        ((ctypes.c_double.__ctype_be__ * 1)(1.5), "d", [1.5]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("version", [13, 15])
def test_what_has_a_buffer_becomes_a_typed_array(
    value: Any, letter: str, items: list[Any], version: int
) -> None:
    read = decode(encode(["a", value], version))[1]
    assert isinstance(read, memoryview)
    assert (read.format, read.tolist()) == (letter, items)
    assert read.readonly


def test_arrays_and_scalars_of_numpy_go() -> None:
    numpy = pytest.importorskip("numpy")
    message = [
        numpy.arange(4, dtype="int16"),
        numpy.arange(4, dtype="int64"),
        numpy.arange(4, dtype=">f4"),
        numpy.array([1.5], dtype="float16"),
        numpy.arange(10, dtype="uint8")[::3],
        numpy.int64(5),
        numpy.float64(1.5),
        numpy.float32(0.5),
        numpy.bool_(True),
        numpy.str_("x"),
        numpy.uint64(2**64 - 1),
    ]
    read = decode(encode(message))
    assert [each.tolist() for each in read[:5]] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0.0, 1.0, 2.0, 3.0],
        [1.5],
        [0, 3, 6, 9],
    ]
    assert same(read[5:], [5, 1.5, 0.5, True, "x", BigInt(2**64 - 1)])
    assert numpy.asarray(read[0]).dtype == numpy.int16


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda numpy: numpy.zeros((2, 2)), "2 dimensions"),
        (lambda numpy: numpy.array(5), "0 dimensions"),
        (lambda numpy: numpy.array([True]), "format '\\?'"),
        (lambda numpy: numpy.array([1j]), "format 'Zd'"),
        (lambda numpy: numpy.array([object()]), "format 'O'"),
        (lambda numpy: numpy.array(["2024"], dtype="M8[s]"), "ndarray cannot be sent"),
        (lambda numpy: numpy.datetime64("2024"), "datetime64 cannot be sent"),
        (lambda numpy: numpy.zeros(2, dtype="i4,f8"), "no typed array"),
    ],
)
def test_what_numpy_has_and_javascript_has_not_is_refused(
    make: Callable[[Any], Any], problem: str
) -> None:
    with pytest.raises(MessageError, match=problem):
        encode(make(pytest.importorskip("numpy")))


def test_large_buffers_are_parts_that_share_their_memory() -> None:
    large = b"x" * LARGE_BUFFER
    changing = bytearray(LARGE_BUFFER)
    view = memoryview(array.array("d", [0.5] * 10_000))
    small = bytes(LARGE_BUFFER - 1)
    message = {"a": large, "b": [changing, "€", view], "c": small, "d": large}
    parts = v8_codec.encode(message)
    assert isinstance(parts, tuple)
    assert any(part is large for part in parts)
    assert sum(map(len, parts)) < 3 * LARGE_BUFFER + view.nbytes + 100
    before = b"".join(parts)
    assert same(decode(before), {**message, "b": [bytes(changing), "€", view]})
    changing[0] = 1
    assert same(decode(b"".join(parts)), {**message, "b": [bytes(changing), "€", view]})


def test_a_frame_of_one_large_buffer_holds_it_once() -> None:
    head, buffer = v8_codec.encode(b"x" * LARGE_BUFFER)
    assert head == bytes.fromhex("ff0d 5c 00 0a 808004")
    assert buffer == b"x" * LARGE_BUFFER
    assert isinstance(v8_codec.encode(b"x" * (LARGE_BUFFER - 1)), bytes)


def test_a_large_buffer_that_cannot_be_shared_is_copied() -> None:
    apart = memoryview(bytes(range(256)) * (LARGE_BUFFER // 64))[::2]
    assert same(decode(encode(apart)), memoryview(apart.tobytes()))
    swapped = (ctypes.c_uint32.__ctype_be__ * LARGE_BUFFER)(*range(LARGE_BUFFER))
    assert decode(encode(swapped)).tolist() == list(range(LARGE_BUFFER))
    half = pytest.importorskip("numpy").ones(LARGE_BUFFER, dtype="float16")
    assert decode(encode(half)).tolist() == [1.0] * LARGE_BUFFER


def test_a_large_typed_array_shares_the_memory_of_its_frame() -> None:
    large = memoryview(array.array("i", range(LARGE_BUFFER // 4)))
    frame = encode([large, memoryview(b"small")])
    read = decode(frame)
    assert same(read, [large, memoryview(b"small")])
    assert read[0].obj is frame
    assert read[1].obj is not frame


def _peak(work: Callable[[], Any]) -> int:
    """The most memory that was held at once, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        result = work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del result
    return peak


@pytest.mark.parametrize("value", [b"x", ArrayBuffer(b"x")], ids=repr)
def test_a_large_buffer_takes_its_own_size_once(value: Any) -> None:
    size = v8_codec._MAX_TEXT + LARGE_BUFFER
    large = type(value)(bytes(value) * size)
    assert _peak(lambda: v8_codec.encode([large, "text"])) < LARGE_BUFFER
    frame = encode([large, "text"])
    assert _peak(lambda: decode(frame)) < size + LARGE_BUFFER
    assert _peak(lambda: decode(memoryview(frame))) < size + LARGE_BUFFER
    received = memoryview(bytearray(frame))
    assert _peak(lambda: decode(received)) < size + LARGE_BUFFER


def test_what_is_read_does_not_change_with_its_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    large = memoryview(array.array("i", range(LARGE_BUFFER // 4)))
    message = [large, b"abc", ArrayBuffer(b"abc"), "text", DataView(b"abc")]
    for limit in (v8_codec._MAX_TEXT, 0):
        monkeypatch.setattr(v8_codec, "_MAX_TEXT", limit)
        frame = bytearray(encode(message))
        read = decode(memoryview(frame))
        frame[:] = bytes(len(frame))
        assert same(read, message)


@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_frame_too_large_to_be_held_as_text_is_read_the_same(
    kind: Callable[[bytes], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v8_codec, "_MAX_TEXT", 0)
    for case in CASES:
        value = case.make()
        assert same(decode(kind(encode(value))), value)


# ------------------------------------------------------------------------------------------ errors


def _raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (TypeError("m"), "TypeError"),
        (SyntaxError("m"), "SyntaxError"),
        (NameError("m"), "ReferenceError"),
        (OverflowError("m"), "RangeError"),
        (IndexError("m"), "RangeError"),
        (ValueError("m"), "Error"),
        (KeyboardInterrupt("m"), "Error"),
        (UnicodeError("m"), "Error"),
        (ExceptionGroup("m", [ValueError("x")]), "Error"),
        (JSError("m", name="URIError"), "URIError"),
        (JSError("m", name="Custom"), "Error"),
    ],
    ids=repr,
)
def test_an_exception_becomes_an_error(error: BaseException, name: str) -> None:
    read = decode(encode(error))
    assert type(read) is JSError
    assert read.name == name
    assert read.message == ("m" if isinstance(error, JSError) else str(error))
    assert "cause" not in vars(read)


def test_an_exceptions_stack_is_its_traceback_below_its_type_and_message() -> None:
    lines = decode(encode(_raised(ValueError("bad")))).stack.splitlines()
    assert lines[:2] == ["ValueError: bad", "Traceback (most recent call last):"]
    assert __file__ in lines[2]
    assert "_raised" in lines[2]
    assert lines[-1] == "ValueError: bad"


def test_an_exception_that_was_not_raised_has_no_traceback() -> None:
    assert decode(encode(KeyError("k"))).stack == "KeyError: 'k'"
    assert decode(encode(KeyError())).stack == "KeyError"


def test_the_cause_of_an_exception_goes_with_it() -> None:
    read = decode(encode(_raised(ValueError("outer"), KeyError("inner"))))
    assert read.cause.message == "'inner'"
    assert read.__cause__ is read.cause
    # What came up while another exception was handled is no cause.
    error = ValueError("m")
    error.__context__ = KeyError("k")
    assert "cause" not in vars(decode(encode(error)))


def test_an_error_of_javascripts_keeps_its_stack_when_it_is_raised_here() -> None:
    assert decode(encode(_raised(JSError("m", stack="far away")))).stack == "far away"
    lines = decode(encode(_raised(JSError("m", name="TypeError")))).stack.splitlines()
    assert lines[:2] == ["TypeError: m", "Traceback (most recent call last):"]


def test_errors_in_each_other() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    read = decode(encode([one, other]))
    assert read[0].cause is read[1]
    assert read[1].cause is read[0]


# -------------------------------------------------------------------------------------- references


@pytest.mark.parametrize(
    "shared",
    [
        *([], {}, [1], {"a": 1}, {1}, Map(), JSArray([1], properties={"a": 1}), (1,)),
        *(frozenset([1]), b"ab", bytearray(), memoryview(b""), _Point(1, 2), _MyDict(), _MyList()),
        *(
            RegExp("a"),
            Boxed(1),
            JSDate(8.64e15),
            ArrayBuffer(b"a", 2),
            DataView(),
            JSError("m"),
            Float16Array(),
            Uint8ClampedArray(),
        ),
        *(SparseArray(10), datetime.datetime.now(), array.array("q", [1]), ValueError("m")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("version", [13, 15])
def test_one_object_stays_one(shared: Any, version: int) -> None:
    read = decode(encode([shared, {"a": shared}, Map({"k": shared}), [1]], version))
    assert read[0] is read[1]["a"]
    assert read[0] is read[2]["k"]


def test_what_python_has_only_once_is_not_shared() -> None:
    # Changing the one array in Node would otherwise change the other.
    read = decode(encode([(), (), frozenset(), frozenset(), [5], b"", b"a", b"a", [5]]))
    assert read[0] is not read[1]
    assert read[2] is not read[3]
    assert b"\x5e" not in encode([(), (), b"", b"", b"a", b"a"])


def test_objects_made_on_the_way_are_not_taken_for_each_other() -> None:
    class Lazy(collections.UserDict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return [key]

    @dataclasses.dataclass
    class Fresh:
        n: int

        def __getattribute__(self, name: str) -> Any:
            value = object.__getattribute__(self, name)
            return [value] if name == "n" else value

    message = [Lazy({"a": 1, "b": 2}), Lazy({"c": 3}), *(Fresh(n) for n in range(100))]
    gc.collect()
    assert same(
        decode(encode(message)),
        [{"a": ["a"], "b": ["b"]}, {"c": ["c"]}, *({"n": [n]} for n in range(100))],
    )


# ----------------------------------------------------------------------------------- what cannot go


class _Broken(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("no text")


class _Lazy(collections.UserDict[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise LookupError("gone")


def _function() -> None: ...


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (_function, "message: function cannot be sent"),
        ({"users": [0, 1, 2, {"callback": _function}]}, "message.users[3].callback: function"),
        ({"a b": {1: {"": object()}}}, "message['a b'][1]['']: object cannot be sent"),
        ([(1, [{2, (object,)}])], "message[0][1][0]["),
        (Map({"key": {"x": _function}}), "message.get('key').x: function"),
        (Map({(1, 2, _function): 1}), "[2]: function cannot be sent"),
        ({"a": _Point(1, [object()])}, "message.a.y[0]: object"),
        ({"a": _Color}, "message.a: enum.EnumType cannot be sent"),
        ([JSError("m", cause=[_function])], "message[0].cause[0]: function"),
        (JSArray([1], properties={"p": object()}), "message.p: object"),
        (JSArray([1, object()], holes=[0]), "message[1]: object"),
        (JSArray([undefined, object()], holes=[0]), "message[1]: object"),
        (SparseArray(10, {5: object()}), "message[5]: object"),
        ({"a": JSKey([1, object()])}, "message.a[1]: object"),
        ([decimal.Decimal(1)], "message[0]: decimal.Decimal cannot be sent"),
        ([fractions.Fraction(1)], "message[0]: fractions.Fraction cannot be sent"),
        ([1j], "message[0]: complex cannot be sent"),
        ([datetime.timedelta(1)], "message[0]: datetime.timedelta cannot be sent"),
        ([iter([])], "message[0]: list_iterator cannot be sent"),
        ({"a": {(1, 2): 3}}, "message.a: the key (1, 2) is a tuple, not a string"),
        ({"a": {1: 0, "1": 0}}, "message.a: the keys 1 and '1' are one property"),
        ({"a": {None: 0, "b": 0, "null": 0}}, "message.a: the keys None and 'null' are one"),
        ([array.array("u", "ab")], "message[0]: array.array with items of the format 'w'"),
        ([memoryview(b"abcd").cast("B", (2, 2))], "message[0]: memoryview with 2 dimensions"),
        ([memoryview(b"ab").cast("c")], "message[0]: memoryview with items of the format 'c'"),
        ([Float16Array(b"abc")], "message[0]: a Float16Array of 3 bytes"),
        ([ArrayBuffer(b"abc", 2)], "message[0]: an ArrayBuffer of 3 bytes has a max_byte_length"),
        ([SparseArray(2, {2: 1})], "message[0]: 2 is no index in an array with a length of 2"),
        ([SparseArray(2**32)], "message[0]: a length of 4294967296"),
        ([JSArray(properties={"0": 1})], "message[0]: the property '0' is an element"),
        ([_Broken()], "_Broken: ZeroDivisionError: no text"),
        ({"a": _Lazy(b=1)}, "_Lazy: LookupError: gone"),
        ([2 ** (2**30)], "message[0]: an integer of 1073741825 bits"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_cannot_go_is_named_with_its_place(message: Any, problem: str) -> None:
    with pytest.raises(MessageError) as caught:
        encode(message)
    assert problem in str(caught.value)


def test_the_exception_behind_a_refusal_is_its_cause() -> None:
    with pytest.raises(MessageError) as caught:
        encode([_Broken()])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_string_longer_than_javascript_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v8_codec, "_MAX_STRING", 300)
    assert decode(encode(["x" * 300, "€" * 300, "\U0001f600" * 150]))
    for text in ("x" * 301, "€" * 301, "\U0001f600" * 151):
        with pytest.raises(MessageError, match=r"message\[0\]: a string of \d+ characters"):
            encode([text])


def test_a_buffer_longer_than_a_length_says_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v8_codec, "_MAX_LENGTH", 300)
    assert encode(bytes(300))
    with pytest.raises(MessageError, match="a buffer of 301 bytes"):
        encode(bytes(301))


def test_a_dict_that_changes_meanwhile_is_refused() -> None:
    message: dict[str, Any] = {"list": [{"a": 1}]}

    @dataclasses.dataclass
    class Meddler:
        n: int

        def __getattribute__(self, name: str) -> Any:
            message["list"][0]["more"] = 2
            return object.__getattribute__(self, name)

    message["list"][0] = {"meddler": Meddler(1)}
    with pytest.raises(MessageError, match=r"^message.list\[0\]: dictionary changed size"):
        encode(message)


# ------------------------------------------------------------------------------------------- depth


def _deep_list(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def _deep_dict(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def _deep_map(depth: int) -> Any:
    value: Any = Map()
    for _ in range(depth - 1):
        value = Map({1: value})
    return value


def _deep_key(depth: int) -> Any:
    value: Any = set()
    for _ in range(depth - 1):
        value = {JSKey(value)}
    return value


def _deep_cause(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = JSError("m", cause=value)
    return value


def _deep_sparse(depth: int) -> Any:
    value: Any = JSArray([undefined], holes=[0])
    for _ in range(depth - 1):
        value = JSArray([undefined, value], holes=[0])
    return value


def _deep_array_with_properties(depth: int) -> Any:
    value: Any = JSArray(properties={"a": 1})
    for _ in range(depth - 1):
        value = JSArray(properties={"a": value})
    return value


_DEEP = [
    _deep_list,
    _deep_dict,
    _deep_map,
    _deep_key,
    _deep_cause,
    _deep_sparse,
    _deep_array_with_properties,
]


@pytest.mark.parametrize("make", _DEEP)
def test_nesting_is_as_deep_as_the_limit(make: Callable[[int], Any]) -> None:
    value = make(MAX_DEPTH)
    frame = encode(value)
    read = decode(frame)
    assert encode(read) == frame


@pytest.mark.parametrize("make", _DEEP)
def test_nesting_past_the_limit_is_refused(make: Callable[[int], Any]) -> None:
    with pytest.raises(MessageError, match=r"…\(\d+ levels\)….*nested more than 10000 deep"):
        encode(make(MAX_DEPTH + 1))


@pytest.mark.parametrize("make", _DEEP)
def test_reading_past_the_limit_is_refused(
    make: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(v8_codec, "MAX_DEPTH", MAX_DEPTH + 1)
    frame = encode(make(MAX_DEPTH + 1))
    monkeypatch.setattr(v8_codec, "MAX_DEPTH", MAX_DEPTH)
    with pytest.raises(ProtocolError, match="nested more than 10000 deep"):
        decode(frame)


def test_a_cycle_made_anew_at_every_step_meets_the_limit() -> None:
    class Endless(collections.UserDict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            return Endless(a=1)

    with pytest.raises(MessageError, match="nested more than 10000 deep"):
        encode(Endless(a=1))


def test_there_need_not_be_any_stack_left() -> None:
    frame = encode(_deep_list(5000))
    results: list[Any] = []

    def at_the_bottom(left: int) -> None:
        if left:
            at_the_bottom(left - 1)
        else:
            results.append(encode(decode(frame)) == frame)

    limit = sys.getrecursionlimit()
    depth = 0
    current: types.FrameType | None = sys._getframe()
    while current is not None:
        depth += 1
        current = current.f_back
    at_the_bottom(limit - depth - 20)
    assert results == [True]


# ------------------------------------------------------------------------------ what cannot be read


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ("51", "the unknown tag 0x51, or one that has no place here, at byte 2: 51"),
        ("2d", "a hole outside of an array"),
        ("7b 00", "the end of an object that is not open"),
        ("24 00 00", "the end of an array that is not open"),
        ("3a 00", "unknown tag 0x3a"),
        ("49 02 49 04", "something after its value, at byte 4: 49 04"),
        ("6f 7b 00 00", "something after its value, at byte 5: 00"),
        ("6f 22 01 61 7b 01", "the end of an object that is not open, at byte 6"),
        ("6f 22 01 61 54 7b 02", "an object with 2 properties, of which 1 different"),
        ("6f 22 01 61 54 22 01 61 54 7b 02", "2 properties, of which 1 different"),
        ("6f 49 02 54 22 01 31 54 7b 02", "2 properties, of which 1 different"),
        ("6f 30 54 7b 01", "the name of a property is a NoneType, at byte 4"),
        ("6f 54 54 7b 01", "the name of a property is a bool"),
        ("6f 5a 00 54 7b 01", "the name of a property is a BigInt"),
        ("6f 6f 7b 00 54 7b 01", "the name of a property is a dict"),
        ("6f 24 00 00", "the end of an array that is not open"),
        ("41 02 54 24 00 02", "the end of an array of 2 elements, of which 1 were read"),
        ("41 01 54 24 00 02", "a length of 2, where 0 were read, and 1 said"),
        ("41 01 54 22 01 61 54 24 00 01", "0 properties and a length of 1, where 1 were read"),
        ("41 01 54 54 24 00 01", "where 0 and a name without its value were read"),
        ("41 01 54 49 02 54 24 01 01", "the element 1 of an array with a length of 1"),
        ("41 01 54 22 01 61 54 22 01 61 54 24 02 01", "a property that is there twice"),
        ("41 01 2d 2d 24 00 01", "a hole outside of an array, at byte 5"),
        ("41 ffffffff0f", "an array of 4294967295 elements, with 0 bytes left"),
        ("61 03 49 00 54 40 01 04", "the end of an array with 1 properties and a length of 4"),
        ("61 03 49 00 54 40 02 03", "where 1 were read"),
        ("61 03 49 06 54 40 01 03", "the element 3 of an array with a length of 3"),
        ("61 03 54 54 40 01 03", "the name of a property is a bool"),
        ("61 ffffffff1f 40 00 ffffffff1f", "an array with a length of 8589934591"),
        ("3b 54 3a 01", "the end of a Map or Set with 1 keys and values, of which 1"),
        ("3b 54 54 3a 01", "1 keys and values, of which 2 were read"),
        ("27 54 2c 02", "2 keys and values, of which 1"),
        ("27 54 3a 01", "unknown tag 0x3a"),
        ("5e 00", "a reference to object 0 of 0, at byte 2"),
        ("41 01 5e 01 24 00 01", "a reference to object 1 of 1"),
        ("5c 01 54", "a host object without properties"),
        ("5c 02", "a host object of the unknown kind 2"),
        ("5c 00 0e 00", "a view of the unknown type 14"),
        ("5c 00 0a 04 010203", "something of 4 bytes, with 3 left, at byte 2"),
        ("5c 00 0a ffffffffffffffff7f", "with 0 left"),
        ("5c 00 03 03 010203", "a typed array of 3 bytes, which is no multiple"),
        ("5c 00 0d 03 010203", "a Float16Array of 3 bytes"),
        ("42 03 0102", "something of 3 bytes, with 2 left"),
        ("7e 03 02 010203", "an ArrayBuffer of 3 bytes that may have 2"),
        ("42 02 0102 56 58 00 02", "a view of the unknown type 0x58"),
        ("42 02 0102 56 42 01 02", "a view of bytes 1 to 3 of 2"),
        ("42 02 0102 56 77 00 01", "a typed array of 1 bytes"),
        ("56 42 00 01", "unknown tag 0x56"),
        ("22 05 61", "it ends too early, at byte 5: the end"),
        ("22", "it ends too early, at byte 2: 22"),
        ("41 01 22 05 61", "it ends too early"),
        ("49 ffffffffffffffffffff01", "a number of more than 64 bits"),
        ("63 03 616263", "a two-byte string of 3 bytes"),
        ("63 04 6162", "something of 4 bytes, with 2 left"),
        ("53 04 6162", "something of 4 bytes"),
        ("4e 00", "it ends too early, at byte 2"),
        ("44 00", "it ends too early, at byte 2"),
        ("6e 00", "it ends too early, at byte 2"),
        ("5a 20 00", "something of 16 bytes, with 1 left"),
        ("73 49 02", "no string where one must be, but the tag 0x49, at byte 2"),
        ("73 22 05 61", "something of 5 bytes, with 1 left"),
        ("52 22 01 61 40", "a RegExp with the flags 0x40"),
        ("52 22 01 61 9004", "a RegExp with the flags 0x210"),
        ("52 22 01 61 9002", "a RegExp with the flags 0x110"),
        ("72 61", "an Error with the unknown tag 0x61"),
        ("72 6d 49 02 2e", "no string where one must be"),
        ("72 63 49 02 49 02 2e", "unknown tag 0x49|several causes"),
        ("72 63", "it ends too early"),
        ("75 00", "a SharedArrayBuffer, which cannot leave its process"),
        ("74 00", "an ArrayBuffer that was transferred"),
        ("6d 00", "a WebAssembly.Memory"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_offset(frame: str, problem: str) -> None:
    with pytest.raises(
        ProtocolError, match=rf"bytes that are not V8's format: .*({problem})"
    ) as caught:
        decode(_hex(frame))
    assert ", at byte " in str(caught.value)


@pytest.mark.parametrize(("case", "frame"), _FRAMES)
def test_a_frame_that_is_cut_off_is_refused(case: Case, frame: bytes) -> None:
    step = max(1, len(frame) // 200)
    for end in range(0, len(frame), step):
        with pytest.raises(ProtocolError):
            decode(frame[:end])


def _outcome(frame: bytes) -> None:
    try:
        value = decode(frame)
    except ProtocolError:
        return
    # What was read can be written.
    v8_codec.encode(value)


@given(st.binary(max_size=200))
@example(b"\xff\x0d" + b"\x41\x01" * 100)
def test_random_bytes_do_no_harm(data: bytes) -> None:
    _outcome(data)
    _outcome(b"\xff\x0d" + data)


_TAGS: Final = b"\"cSINUZTF_0-^oaA{$@D;:',BV~\\rRnsxyz.m.?"


@given(
    st.lists(
        st.one_of(st.sampled_from(_TAGS), st.integers(0, 4), st.integers(0, 255), st.just(0x22)),
        max_size=60,
    )
)
def test_random_tags_do_no_harm(data: list[int]) -> None:
    _outcome(b"\xff\x0d" + bytes(data))


def _mutations(frame: bytes, source: random.Random) -> Iterator[bytes]:
    for _ in range(20):
        changed = bytearray(frame)
        for _ in range(source.randint(1, 3)):
            at = source.randrange(2, len(changed))
            match source.randrange(4):
                case 0:
                    changed[at] = source.choice(_TAGS)
                case 1:
                    changed[at] = source.randrange(256)
                case 2:
                    del changed[at : at + source.randint(1, 4)]
                case _:
                    changed[at:at] = source.choice([b"\xff\xff\xff\xff\x0f", b"\x5e\x00", b"\x2d"])
            if len(changed) < 4:
                break
        yield bytes(changed)


@pytest.mark.parametrize(("case", "frame"), _FRAMES)
def test_a_frame_that_was_tampered_with_does_no_harm(case: Case, frame: bytes) -> None:
    for changed in _mutations(frame, random.Random(case.id)):
        _outcome(changed)


@pytest.mark.parametrize(
    "frame",
    [
        "41 ffffffff07",
        "61 ffffffff0f 40 00 ffffffff0f",
        "5c 00 0a ffffffff0f",
        "42 ffffffff0f",
        "7e 00 ffffffff0f",
        "5a ffffffff0f",
        "22 ffffffff0f",
        "63 feffffff0f",
    ],
)
def test_a_length_takes_no_memory_before_it_is_checked(frame: str) -> None:
    assert _peak(lambda: _outcome(_hex(frame))) < 2**20


def test_holes_take_no_more_memory_than_a_message_may() -> None:
    # Eight bytes for each of these arrays, which would have 60 million holes.
    count, length = 1000, bytes.fromhex("e0d403")
    frame = (
        _hex("41 e807")
        + (b"\x61" + length + b"\x40\x00" + length) * count
        + bytes.fromhex("24 00 e807")
    )
    read = decode(frame)
    assert len(read) == count
    assert sum(len(each) for each in read if isinstance(each, list)) <= v8_codec._MAX_HOLES + len(
        frame
    )
    assert len(read[0]) == 60_000
    assert same(read[-1], SparseArray(60_000))


def test_the_holes_of_a_sensible_message_make_lists() -> None:
    array = JSArray([undefined] * 50_000, holes=range(50_000))
    assert same(decode(encode([array])), [array])


@pytest.mark.parametrize("kind", [Map, set])
def test_keys_whose_hashes_were_chosen_do_not_meet_in_a_dict(kind: type[Any]) -> None:
    # Each a multiple of the modulus of Python's hash, which makes it 0.
    keys = [BigInt(number * (2**61 - 1)) for number in range(1, 20_000)]
    assert {hash(key) for key in keys} == {0}
    value: Any = [JSKey(key) for key in keys]
    assert len({hash(key) for key in value}) > 19_000
    frame = encode(Map.fromkeys(value)) if kind is Map else encode(set(value))
    read = decode(frame)
    assert len(read) == len(keys)
    assert set(read) == set(value)
    few = Map.fromkeys(keys[:10])
    assert same(decode(encode(few)), few)


# ------------------------------------------------------------------------------------- any value


@given(values())
def test_any_value_comes_back(value: Any) -> None:
    for version in (13, 15):
        assert same(decode(encode(value, version)), value)


@given(
    st.recursive(
        st.one_of(
            st.none(),
            st.integers(),
            st.floats(),
            st.text(),
            st.binary(max_size=5),
            st.complex_numbers(),
            st.decimals(),
            st.timedeltas(),
            st.sampled_from([_Color.RED, _function, object(), type, _ID, ..., ValueError("x")]),
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.tuples(inner, inner),
            st.builds(_Point, st.integers(), inner),
            st.builds(JSArray, st.lists(inner, max_size=3), holes=st.sets(st.integers(0, 3))),
            st.dictionaries(
                st.one_of(st.text(max_size=2), st.integers(0, 3), st.floats(), st.none()),
                inner,
                max_size=3,
            ),
        ),
        max_leaves=8,
    )
)
def test_whatever_is_sent_goes_or_is_refused(value: Any) -> None:
    try:
        frame = encode(value)
    except MessageError:
        return
    decode(frame)


def test_several_threads_write_at_once() -> None:
    # They share the table of names.
    failures: list[Any] = []

    def work(thread: int) -> None:
        for number in range(300):
            value = {f"name{thread}-{number}-{i}": i for i in range(20)}
            if decode(encode(value)) != value:
                failures.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ---------------------------------------------------------------------------------- second opinion

# v8serialize reads and writes what Node's v8 module does, in types of its own. Left out is where
# the two differ for a reason:
# - Buffers and typed arrays: on a channel, Node puts a number before those, which it does not know;
# - Dates, which it computes with as floats, and refuses where they are invalid;
# - lone surrogates, which it refuses;
# - what only an object of its own can show: holes, properties of arrays, keys by identity.
# Besides, it calls a URIError a UriError, takes equal values for the same object, and writes
# references that are one too low after a RegExp.

# Without digits: what may be an index comes first in an object.
_SHARED_NAMES: Final = st.text("abé€\0 ", max_size=5)
_SHARED_KEYS: Final = st.one_of(st.text(max_size=5), st.integers(2, 2**53 - 1), st.none())
_SHARED: Final = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.just(undefined),
        st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER),
        st.integers(2**60).map(BigInt),
        st.sampled_from([1.5, -0.25, 1e300, 5e-324, math.inf]),
        st.text(max_size=10),
        st.sampled_from([Boxed(True), Boxed(2.5), Boxed("é"), Boxed(BigInt(7))]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_SHARED_NAMES, inner, max_size=4),
        st.dictionaries(_SHARED_KEYS, inner, max_size=4).map(Map),
        st.sets(_SHARED_KEYS, max_size=4),
    ),
    max_leaves=10,
)


def _ours(value: Any) -> Any:
    """What v8serialize has read, as we would have."""
    if value is jstypes.JSUndefined:
        return undefined
    if isinstance(value, jstypes.JSMap):
        return Map({_ours(key): _ours(item) for key, item in value.items()})
    if isinstance(value, jstypes.JSArray):
        return [_ours(item) for item in value.array]
    if isinstance(value, jstypes.JSObject):
        return {str(key): _ours(item) for key, item in value.items()}
    if isinstance(value, jstypes.JSSet):
        return {_ours(item) for item in value}
    if isinstance(value, jstypes.JSPrimitiveObject):
        return Boxed(_ours(value.value))
    if isinstance(value, jstypes.JSBigInt):
        return BigInt(value)
    return value


@given(_SHARED)
def test_v8serialize_reads_what_we_write(value: Any) -> None:
    theirs = v8serialize.loads(encode(value), js_primitive_objects=True)
    assert same(_ours(theirs), value, sharing=False)


@given(_SHARED)
def test_we_read_what_v8serialize_writes(value: Any) -> None:
    theirs = v8serialize.loads(encode(value), js_primitive_objects=True)
    frame = v8serialize.dumps(theirs, v8_version="12.4")
    assert same(decode(frame), value, sharing=False)


@pytest.mark.parametrize("name", ["Error", "RangeError", "TypeError"])
def test_v8serialize_has_the_same_errors(name: str) -> None:
    error = JSError("m", name=name, stack="s", cause=None)
    theirs = v8serialize.loads(encode(error, 15))
    assert isinstance(theirs, jstypes.JSError)
    assert (theirs.name, theirs.message, theirs.stack) == (name, "m", "s")
    assert same(
        decode(v8serialize.dumps(jstypes.JSError("m", name=name, stack="s"))),
        JSError("m", name=name, stack="s"),
    )
