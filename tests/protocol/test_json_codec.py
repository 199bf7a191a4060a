"""JSON as JavaScript means it, both ways, whichever way through the codec a value takes."""

from __future__ import annotations

import array
import collections
import ctypes
import dataclasses
import datetime
import enum
import json
import math
import numbers
import re
import types
import typing
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nodecompat.errors import MessageError, ProtocolError
from nodecompat.protocol import json_codec
from nodecompat.protocol.js_types import MAX_SAFE_INTEGER, undefined
from nodecompat.protocol.json_codec import MAX_DEPTH, decode, decode_many, encode

_HUGE = 2**70
"""An integer that orjson refuses: a list that holds it is written by the slow writer."""

# Nested so deep, a text is past orjson's limit and the recursion limit of the standard library.
_ORJSON_DEPTH = 1024


def _by_stdlib(text: str) -> Any:
    return json_codec._STANDARD.decode(text)


def _by_iteration(text: str) -> Any:
    return json_codec._DeepParser(text).parse()


def _parsed(text: str) -> Any:
    """The value of a text, on which all three parsers agree."""
    value = decode(text.encode())
    # The repr tells 1 from 1.0 and True, and 0.0 from -0.0.
    assert repr(_by_stdlib(text)) == repr(value)
    assert repr(_by_iteration(text)) == repr(value)
    return value


def _written(value: Any) -> str:
    """The frame of a value, which both writers write alike."""
    frame = encode(value)
    slowly = encode([value, _HUGE])
    assert slowly.endswith(b",%d]\n" % _HUGE)
    assert repr(json.loads(slowly)[0]) == repr(json.loads(frame))
    assert frame.index(b"\n") == len(frame) - 1
    return frame[:-1].decode()


def _refusal(message: Any) -> MessageError:
    with pytest.raises(MessageError) as caught:
        encode(message)
    return caught.value


def _nested(depth: int, make: Callable[[Any], Any] = lambda value: [value]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = make(value)
    return value


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, (list, dict)):
        value = value[0] if isinstance(value, list) else value["a"]
        depth += 1
    return depth


# ------------------------------------------------------------------------------ reading: numbers

_NUMBERS: list[tuple[str, int | float]] = [
    ("0", 0),
    ("7", 7),
    ("-7", -7),
    ("1.5", 1.5),
    ("1.0", 1),
    ("-12.00", -12),
    ("1e3", 1000),
    ("1E3", 1000),
    ("1e+3", 1000),
    ("5e-1", 0.5),
    ("150e-1", 15),
    ("1.5e1", 15),
    ("-0", -0.0),
    ("-0.0", -0.0),
    ("-0e5", -0.0),
    ("0.0", 0),
    ("0e0", 0),
    ("9007199254740991", MAX_SAFE_INTEGER),
    ("-9007199254740991", -MAX_SAFE_INTEGER),
    ("9007199254740991.0", MAX_SAFE_INTEGER),
    ("9007199254740992", 2.0**53),
    ("-9007199254740992", -(2.0**53)),
    ("9007199254740993", 2.0**53),
    ("18446744073709551616", 2.0**64),
    ("1234567890123456", 1234567890123456),
    ("123456789012345.999", 123456789012346),
    ("1e21", 1e21),
    ("1e400", math.inf),
    ("-1e400", -math.inf),
    ("9" * 5000, math.inf),
    ("1e-400", 0),
    ("-1e-400", -0.0),
]


@pytest.mark.parametrize(("text", "number"), _NUMBERS)
@pytest.mark.parametrize(
    "around", ["%s", " %s\t", "[%s]", "[true,[%s ]]", '{"a":%s}', '[{"a":%s}]']
)
def test_a_number_is_an_int_when_it_is_a_safe_integer(
    text: str, number: float, around: str
) -> None:
    value = _parsed(around % text)
    while isinstance(value, (list, dict)):
        value = value[-1] if isinstance(value, list) else value["a"]

    assert repr(value) == repr(number)


_number_texts = st.from_regex(
    r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True, alphabet=None
)


@given(_number_texts)
def test_a_number_has_its_value_however_it_is_spelt(text: str) -> None:
    double = float(text)
    negative_zero = not double and math.copysign(1, double) < 0
    safe = double.is_integer() and abs(double) <= MAX_SAFE_INTEGER and not negative_zero

    assert repr(_parsed(text)) == repr(int(double) if safe else double)


@given(st.lists(_number_texts, min_size=2, max_size=4))
def test_a_number_has_its_value_whatever_came_with_it(texts: list[str]) -> None:
    together: list[Any] = []
    decode_many([text.encode() for text in texts], together.append)

    assert repr(together) == repr([decode(text.encode()) for text in texts])
    assert repr(decode(f"[{','.join(texts)}]".encode())) == repr(together)


@given(st.text(alphabet="01-.eE,]9 "))
def test_digits_in_a_string_stay(text: str) -> None:
    assert decode(encode([text, {text: text}])) == [text, {text: text}]
    assert decode(encode(text)) == text


@pytest.mark.parametrize("text", ["9007199254740993", "-0", "-0,", "a -0]", "1.0", "1e400"])
def test_a_number_in_a_string_stays(text: str) -> None:
    assert repr(_parsed(f'["{text}",1.0]')) == repr([text, 1])


# ------------------------------------------------------------------------------ reading: strings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\ud800"', "\ud800"),
        (r'"\udc00 \ud800"', "\udc00 \ud800"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\ude00\ud83d"', "\ude00\ud83d"),
        (r'"\ud83d\ud83d\ude00"', "\ud83d\U0001f600"),
        (r'{"\udfff":["\ud800"]}', {"\udfff": ["\ud800"]}),
        (r'"\u0000\b\f\n\r\t\/\\\""', '\0\b\f\n\r\t/\\"'),
        ('"\u2028\x7f\ufeff"', "\u2028\x7f\ufeff"),
    ],
)
def test_a_string_keeps_every_code_unit(text: str, value: Any) -> None:
    assert _parsed(text) == value


@pytest.mark.parametrize(
    ("frame", "value"),
    [
        (b'"\xff"', "\ufffd"),
        (b'"a\xc3"', "a\ufffd"),
        (b'"\xe2\x82"', "\ufffd"),
        (b'"\xf0\x9f\x98"', "\ufffd"),
        (b'"\xc0\xaf"', "\ufffd\ufffd"),
        (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
        (b'"\xf4\x90\x80\x80"', "\ufffd\ufffd\ufffd\ufffd"),
        (b'{"\xff":1.0}', {"\ufffd": 1}),
    ],
)
def test_bytes_that_are_no_utf8_become_the_replacement_character(frame: bytes, value: Any) -> None:
    assert repr(decode(frame)) == repr(value)


# --------------------------------------------------------------------------- reading: structure


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("true", True),
        ("false", False),
        ("[]", []),
        ("{}", {}),
        (' [ ] ', []),
        ('\t{ "a" : [ 1 , { } , [ ] ] , "b" : { "c" : 2 } }\r', {"a": [1, {}, []], "b": {"c": 2}}),
        ('{"a":1,"b":2,"a":3}', {"a": 3, "b": 2}),
        ('{"":"","__proto__":1}', {"": "", "__proto__": 1}),
    ],
)  # fmt: skip
def test_the_structure_is_what_the_text_says(text: str, value: Any) -> None:
    assert repr(_parsed(text)) == repr(value)


_NOT_JSON = [
    "nul", "nulll", "True", "undefined", "NaN", "Infinity", "-Infinity", "-", "+1", "01", "-01",
    "1.", ".5", "1e", "1e+", "0x1", "1 2", "1,", "'a'", '"a', '"\t"', '"\\x"', '"\\u12"',
    "[", "]", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1}", "{", "}", "{1:2}", '{"a"}', '{"a":}',
    '{"a" 1}', '{"a":1', '{"a":1,', '{"a":1,}', '{"a":1]', '{"a":1 "b":2}', "{a:1}", "\x0b1",
    "\ufeff1", "1\0",
]  # fmt: skip


@pytest.mark.parametrize("text", _NOT_JSON)
def test_what_is_not_json_is_refused_and_shown(text: str) -> None:
    frame = text.encode()

    with pytest.raises(ProtocolError, match=f"not JSON: {re.escape(repr(frame))}: "):
        decode(frame)
    with pytest.raises(ValueError, match=r"."):
        _by_iteration(text)


@pytest.mark.parametrize("text", _NOT_JSON)
def test_what_is_not_json_is_refused_however_deep_it_lies(text: str) -> None:
    around = MAX_DEPTH - 1

    with pytest.raises(ProtocolError, match="not JSON"):
        decode(b"[" * around + text.encode() + b"]" * around)


@given(st.text(alphabet='[]{}",:\\ \n-+.0123456789eEtrufalsn\u00e9'))
def test_the_parsers_refuse_the_same_texts(text: str) -> None:
    try:
        value = decode(text.encode())
    except ProtocolError:
        with pytest.raises(ValueError, match=r"."):
            _by_stdlib(text)
        with pytest.raises(ValueError, match=r"."):
            _by_iteration(text)
    else:
        assert repr(_parsed(text)) == repr(value)


def test_an_empty_line_is_named_as_one() -> None:
    with pytest.raises(ProtocolError, match="empty line"):
        decode(b"")


def test_a_private_frame_of_bun_names_bun() -> None:
    with pytest.raises(ProtocolError, match=r"\\x02hello.*Bun"):
        decode(b"\x02hello")


def test_a_long_line_that_is_not_json_is_shown_shortened() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(b"oops" * 1000)

    assert f"{b'oops' * 20!r}… (4000 bytes)" in str(caught.value)
    assert len(str(caught.value)) < 300


def test_the_values_before_the_first_bad_line_are_handed_over() -> None:
    values: list[Any] = []

    with pytest.raises(ProtocolError, match="oops"):
        decode_many([b"1.0", b'"\\ud800"', b"oops", b"4"], values.append)

    assert repr(values) == repr([1, "\ud800"])


# ------------------------------------------------------------------------------- reading: depth


@pytest.mark.parametrize("depth", [_ORJSON_DEPTH, _ORJSON_DEPTH + 1, 5000, MAX_DEPTH])
def test_deep_arrays_and_objects_arrive(depth: int) -> None:
    arrays = decode(b"[" * depth + b"1.0" + b"]" * depth)
    objects = decode(b'{"a":' * depth + b"-0" + b"}" * depth)

    assert _depth(arrays) == _depth(objects) == depth


@pytest.mark.parametrize(
    ("opening", "innermost", "closing"),
    [
        ("[", "1", "]"),
        ('{"a":', "1", "}"),
        pytest.param("[", "", "]", id="the innermost array is empty"),
    ],
)
def test_nesting_past_the_bound_is_refused(opening: str, innermost: str, closing: str) -> None:
    depth = MAX_DEPTH + 1
    text = opening * depth + innermost + closing * depth

    with pytest.raises(ProtocolError, match=f"nested more than {MAX_DEPTH} deep"):
        decode(text.encode())


# ------------------------------------------------------------------------------ writing: values


@dataclasses.dataclass
class _Point:
    x: int
    _hidden: str = "kept"
    label: Any = None


@dataclasses.dataclass(slots=True, frozen=True)
class _Slots:
    a: int
    _b: tuple[int, ...] = ()


class _Pair(typing.NamedTuple):
    left: int
    right: Any


class _Color(enum.Enum):
    RED = "red"
    BOTH = ("red", 1)


class _Number(enum.IntEnum):
    ONE = 1


class _Text(enum.StrEnum):
    A = "a"


class _Bits(enum.Flag):
    READ = 1
    WRITE = 2


class _Word(str):
    pass


class _Count(int):
    pass


class _Ratio(float):
    pass


@numbers.Integral.register
class _OwnInteger:
    def __int__(self) -> int:
        return 12


@numbers.Real.register
class _OwnReal:
    def __float__(self) -> float:
        return 0.5


class _NumpyScalar:
    """What numpy's bool_ and datetime64 have in common."""

    shape = ()

    def __init__(self, value: Any) -> None:
        self._value = value

    def item(self) -> Any:
        return self._value


_EAST = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ("ä\u2028\x7f\n", '"ä\u2028\x7f\\n"'),
        (_Word("w"), '"w"'),
        (0, "0"),
        (-1, "-1"),
        (2**53 + 1, "9007199254740993"),
        (2**64, "18446744073709551616"),
        (-(10**30), "-" + str(10**30)),
        (_Count(3), "3"),
        (1.5, "1.5"),
        (_Ratio(1.5), "1.5"),
        (1e-7, "1e-7"),
        (-0.0, "0"),
        ([-0.0, -0.05, "-0.0"], '[0,-0.05,"-0.0"]'),
        (_Ratio(-0.0), "0"),
        (math.nan, "null"),
        ([math.inf, -math.inf, _Ratio("nan")], "[null,null,null]"),
        ((), "[]"),
        ((1, (2,)), "[1,[2]]"),
        (_Pair(1, [2]), "[1,[2]]"),
        ([undefined, 1], "[null,1]"),
        ((undefined,), "[null]"),
        ({"a": undefined, "b": 1, "c": undefined, "d": 2}, '{"b":1,"d":2}'),
        ({"a": undefined}, "{}"),
        (_Point(1, label=undefined), '{"x":1,"_hidden":"kept"}'),
        (b"", '{"type":"Buffer","data":[]}'),
        (b"\x00\xff", '{"type":"Buffer","data":[0,255]}'),
        (bytearray(b"a"), '{"type":"Buffer","data":[97]}'),
        (memoryview(b"ab"), '{"0":97,"1":98}'),
        (memoryview(b"abcd")[::2], '{"0":97,"1":99}'),
        (memoryview(b"abcd").cast("B", (2, 2)), '{"0":97,"1":98,"2":99,"3":100}'),
        (array.array("h", [-1, 300]), '{"0":-1,"1":300}'),
        (array.array("d", [1.5, math.nan]), '{"0":1.5,"1":null}'),
        (_Point(1, label=[_Slots(2)]), '{"x":1,"_hidden":"kept","label":[{"a":2,"_b":[]}]}'),
        (_Slots(1, (2,)), '{"a":1,"_b":[2]}'),
        (_Color.RED, '"red"'),
        (_Color.BOTH, '["red",1]'),
        (_Number.ONE, "1"),
        (_Text.A, '"a"'),
        (_Bits.READ | _Bits.WRITE, "3"),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime.datetime(2020, 1, 2, 3, 4, 5, 678999, _EAST), '"2020-01-02T01:04:05.678Z"'),
        (datetime.datetime(33, 1, 1, tzinfo=datetime.UTC), '"0033-01-01T00:00:00.000Z"'),
        (datetime.datetime.fromtimestamp(1e9), '"2001-09-09T01:46:40.000Z"'),
        (datetime.date(2020, 1, 2), '"2020-01-02"'),
        (datetime.time(1, 2, 3), '"01:02:03"'),
        (types.MappingProxyType({"a": (1,)}), '{"a":[1]}'),
        (collections.OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (collections.UserDict({1: 2}), '{"1":2}'),
        (_OwnInteger(), "12"),
        (_OwnReal(), "0.5"),
        (_NumpyScalar(True), "true"),
        ([_NumpyScalar(_NumpyScalar(b"a"))], '[{"type":"Buffer","data":[97]}]'),
    ],
)  # fmt: skip
def test_a_value_is_written_as_javascript_reads_it(value: Any, text: str) -> None:
    assert repr(json.loads(_written(value))) == repr(json.loads(text))


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
def test_a_typed_array_is_written_with_its_indices_as_keys(code: str) -> None:
    assert json.loads(_written(array.array(code, [1, 2]))) == {"0": 1, "1": 2}


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("\ud800", r'"\ud800"'),
        ("ä\udfff\n", r'"ä\udfff\n"'),
        ("\ud83d\ude00", r'"\ud83d\ude00"'),
    ],
)
def test_lone_surrogates_are_written_as_escapes(text: str, escaped: str) -> None:
    assert _written(text) == escaped
    assert _written({text: [text]}) == f"{{{escaped}:[{escaped}]}}"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("a", "a"),
        ("\n", r"\n"),
        (_Word("w"), "w"),
        (1, "1"),
        (-(2**70), str(-(2**70))),
        (_Count(3), "3"),
        (True, "true"),
        (False, "false"),
        (None, "null"),
        (1.5, "1.5"),
        (1.0, "1"),
        (-0.0, "0"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
        (1e-7, "1e-7"),
        (0.0001, "0.0001"),
        (0.00001, "0.00001"),
        (1.5e-6, "0.0000015"),
        (123456789012345678901.0, "123456789012345680000"),
        (_Color.RED, "red"),
        (_Number.ONE, "1"),
        (_Text.A, "a"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_key_is_written_as_javascript_names_the_property(key: Any, text: str) -> None:
    assert _written({"first": 0, key: [{key: 1}]}) == f'{{"first":0,"{text}":[{{"{text}":1}}]}}'


def test_a_frame_ends_with_its_only_newline() -> None:
    assert encode({"a": ["\n", 1]}) == b'{"a":["\\n",1]}\n'
    assert encode({"a": ["\n", _HUGE]}) == b'{"a":["\\n",%d]}\n' % _HUGE


# --------------------------------------------------------------------------- writing: refusals


@dataclasses.dataclass
class _Unset:
    value: int = dataclasses.field(init=False)


class _Convertible:
    def __float__(self) -> float:
        return 0.5


class _Structure(ctypes.Structure):
    _fields_: typing.ClassVar = [("a", ctypes.c_int)]


_RELEASED = memoryview(b"released")
_RELEASED.release()


def _circular_list() -> Any:
    value: list[Any] = []
    value.append({"self": value})
    return {"a": value}


def _circular_dataclass() -> Any:
    value = _Point(1)
    value.label = (value,)
    return [value]


def _circular_mapping() -> Any:
    inner: dict[str, Any] = {}
    value = types.MappingProxyType(inner)
    inner["a"] = [value]
    return value


_VALUE_REFUSALS = [
    (lambda: undefined, "message", "undefined cannot be a message"),
    (lambda: {1, 2}, "message", "set cannot be sent as JSON"),
    (lambda: {"users": [1, {"name": object()}]}, "message.users[1].name", "object cannot"),
    (lambda: {"a b": {2: {None: 1j}}}, "message['a b'][2]", "complex cannot"),
    (lambda: {"1a": (len,)}, "message['1a'][0]", "builtin_function_or_method cannot"),
    (lambda: [_Point(1, label=Decimal(1))], "message[0].label", "decimal.Decimal cannot"),
    (lambda: [Fraction(1, 3)], "message[0]", "fractions.Fraction cannot"),
    (lambda: {"t": _Point}, "message.t", "type cannot"),
    (lambda: {"\ud800": object()}, r"message['\ud800']", "object cannot"),
    (lambda: [10**5000], "message[0]", "an integer is too large"),
    (lambda: [_Unset()], "message[0]", "has no attribute 'value'"),
    (lambda: {"m": _RELEASED}, "message.m", "memoryview: operation forbidden"),
    (lambda: [_Structure()], "message[0]", "JavaScript has no typed array of that kind"),
    (lambda: memoryview(b"a").cast("c"), "message", "memoryview with items of format 'c'"),
    (lambda: [_Convertible()], "message[0]", "_Convertible cannot be sent as JSON"),
    (lambda: [datetime.datetime.max.replace(tzinfo=datetime.timezone.min)],
     "message[0]", "datetime.datetime: date value out of range"),
    (lambda: {"a": {(1, 2): 3}}, "message.a", "the key (1, 2) is a tuple, not a string"),
    (lambda: [{"b": 1, b"b": 2}], "message[0]", "the key b'b' is a bytes, not a string"),
    (lambda: {_Color.BOTH: 1}, "message", "is a tests.protocol.test_json_codec._Color, not"),
    (_circular_list, "message.a[0].self", "a circular reference to message.a"),
    (_circular_dataclass, "message[0].label[0]", "a circular reference to message[0]"),
    (_circular_mapping, "message.a[0]", "a circular reference to message"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "path", "reason"), _VALUE_REFUSALS)
def test_what_json_cannot_carry_is_refused_with_the_path_to_it(
    make: Callable[[], Any], path: str, reason: str
) -> None:
    error = _refusal(make())

    assert error.path == path
    assert reason in error.reason


def test_a_key_that_is_too_large_an_integer_is_refused() -> None:
    assert "too large" in _refusal([{10**5000: 1}]).reason


def test_an_error_of_a_values_own_is_the_cause() -> None:
    assert isinstance(_refusal([_Unset()]).__cause__, AttributeError)


@pytest.mark.parametrize(
    ("depth", "path"),
    [
        (23, "message" + "[0]" * 23),
        (24, "message" + "[0]" * 11 + "…(5 levels)…" + "[0]" * 8),
        (100, "message" + "[0]" * 11 + "…(81 levels)…" + "[0]" * 8),
    ],
)
def test_a_long_path_is_shortened(depth: int, path: str) -> None:
    assert _refusal(_nested(depth, lambda value: [object() if value == 1 else value])).path == path


def test_a_shared_value_is_no_circle() -> None:
    shared = {"a": [1]}

    assert _written([shared, shared, {"b": shared}]) == '[{"a":[1]},{"a":[1]},{"b":{"a":[1]}}]'


def test_enums_in_enums_are_followed_only_so_far() -> None:
    one = enum.Enum("one", {"A": object()})
    two = enum.Enum("two", {"A": one.A})
    three = enum.Enum("three", {"A": two.A})
    four = enum.Enum("four", {"A": three.A})

    assert _refusal([four.A]).path == "message[0]"


# ------------------------------------------------------------------------------- writing: depth


@pytest.mark.parametrize("depth", [253, 254, 255, 256, 5000, MAX_DEPTH])
def test_deep_arrays_and_objects_go(depth: int) -> None:
    assert encode(_nested(depth)) == b"[" * depth + b"1" + b"]" * depth + b"\n"
    assert encode(_nested(depth, lambda value: {"a": value})) == (
        b'{"a":' * depth + b"1" + b"}" * depth + b"\n"
    )


def _check_that_orjson_bounds_tuples() -> None:
    """Fail where orjson would go on to write past its buffer, which ends the process."""
    try:
        orjson.dumps(_nested(300, lambda value: (value,)))
    except orjson.JSONEncodeError:
        return
    pytest.fail(f"orjson {orjson.__version__} has no bound for nested tuples: memory corruption")


@pytest.mark.parametrize(
    "make",
    [lambda value: [value], lambda value: (value,), lambda value: {"a": value}],
    ids=["lists", "tuples", "dicts"],
)
def test_nesting_past_the_bound_is_refused_by_the_writer(make: Callable[[Any], Any]) -> None:
    if isinstance(make(1), tuple):
        _check_that_orjson_bounds_tuples()

    error = _refusal(_nested(MAX_DEPTH + 1, make))

    assert error.reason == f"nested more than {MAX_DEPTH} deep"
    assert len(error.path) < 200


def test_what_the_writer_writes_the_reader_reads_down_to_the_bound() -> None:
    innermost_empty: Any = _nested(MAX_DEPTH - 1, lambda value: [[]] if value == 1 else [value])

    assert _depth_of_lists(decode(encode(innermost_empty))) == MAX_DEPTH


def _depth_of_lists(value: list[Any]) -> int:
    depth = 1
    while value:
        value = value[0]
        depth += 1
    return depth


# ----------------------------------------------------------------------------------- properties

_texts = st.text(st.characters())
_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**66), 2**66)
    | st.floats()
    | st.integers(-100, 100).map(float)
    | _texts
)
_json_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner) | st.dictionaries(_texts, inner),
)
_all_values = st.recursive(
    _scalars | st.just(undefined) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.builds(_Pair, st.integers(), inner)
        | st.builds(_Point, st.integers(), _texts, inner)
        | st.dictionaries(_texts | st.integers() | st.booleans() | st.none(), inner)
    ),
)


def _code_units(text: str) -> str:
    """A string as JavaScript has it: two surrogates that make a pair are one character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _number(value: float) -> int | float | None:
    try:
        double = float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
    if not isinstance(value, int) and not math.isfinite(double):
        return None
    return int(double) if double.is_integer() and abs(double) <= MAX_SAFE_INTEGER else double


def _after_a_round_trip(value: Any) -> Any:
    """What is left of a value by the rules of JSON.stringify and JSON.parse."""
    match value:
        case bool() | None:
            return value
        case int() | float():
            return _number(value)
        case str():
            return _code_units(value)
        case bytes():
            return {"type": "Buffer", "data": list(value)}
        case _Point():
            return _after_a_round_trip(vars(value))
        case dict():
            return {
                _code_units(key if isinstance(key, str) else json.dumps(key)): (
                    _after_a_round_trip(item)
                )
                for key, item in value.items()
                if item is not undefined
            }
        case _:
            return [None if item is undefined else _after_a_round_trip(item) for item in value]


@given(_json_values)
def test_a_json_value_comes_back_as_it_went(value: Any) -> None:
    assert repr(decode(encode(value))) == repr(_after_a_round_trip(value))


@given(_all_values)
def test_any_value_comes_back_as_json_leaves_it(value: Any) -> None:
    assume(value is not undefined)
    assert repr(decode(encode(value))) == repr(_after_a_round_trip(value))


@given(_all_values)
def test_both_writers_write_the_same(value: Any) -> None:
    assume(value is not undefined)
    assert repr(decode(encode([value, _HUGE]))[0]) == repr(decode(encode(value)))


@given(_json_values, st.booleans(), st.sampled_from([None, 1]))
def test_all_three_parsers_read_the_same(value: Any, ascii_only: bool, indent: int | None) -> None:
    finite = json.loads(json.dumps(_after_a_round_trip(value)), parse_constant=lambda _: None)
    text = json.dumps(finite, ensure_ascii=ascii_only, indent=indent)
    assume(ascii_only or not re.search("[\ud800-\udfff]", text))

    assert repr(_parsed(text)) == repr(finite)


def _float_bits() -> Iterator[float]:
    for exponent in range(-1074, 1024):
        yield 2.0**exponent
        yield math.nextafter(2.0**exponent, 0)


def test_every_power_of_two_and_its_neighbour_come_back() -> None:
    for double in _float_bits():
        assert decode(encode(double)) == double
        assert decode(encode([-double, _HUGE]))[0] == -double
