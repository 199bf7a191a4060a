"""Values of JavaScript's and what they are in Python, for everything that tests the V8 codec.

The expressions are evaluated by real Nodes, for the vectors in ``tests/data`` and in the
integration tests.
"""

from __future__ import annotations

import array
import datetime
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

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

__all__ = ["CASES", "Case", "same"]


@dataclass(frozen=True)
class Case:
    """A JavaScript expression and the Python value that it is.

    ``since`` is the first Node that can read such a value, ``sent_since`` the first that can send
    it.
    ``one_way`` says that what Node sends is not the whole value, so that it does not come back.
    ``check`` is an expression that must hold for the value ``v``, where deep equality says too
    little.
    """

    id: str
    js: str
    make: Callable[[], Any]
    since: int = 12
    sent_since: int = 12
    one_way: bool = False
    check: str = "true"


def _value(
    id: str,
    js: str,
    value: Any,
    since: int = 12,
    sent_since: int = 12,
    one_way: bool = False,
    check: str = "true",
) -> Case:
    return Case(id, js, lambda: value, since, max(since, sent_since), one_way, check)


def _typed(letter: str, items: list[Any]) -> memoryview:
    return memoryview(array.array(letter, items))


def _utc(year: int, *rest: int) -> datetime.datetime:
    return datetime.datetime(year, *rest, tzinfo=datetime.UTC)  # type: ignore[misc, arg-type]


_PRIMITIVES: Final = [
    _value("undefined", "undefined", undefined),
    _value("null", "null", None),
    _value("true", "true", True),
    _value("false", "false", False),
    *(
        _value(f"integer {number}", str(number), number)
        for number in (
            *(0, 1, -1, 63, 64, -64, -65, 127, 128, 1023, 1024, 8191, 8192, -8192, -8193),
            *(2**20, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**32 - 1, 2**32),
            *(2**53 - 1, -(2**53) + 1),
        )
    ),
    _value("integer past the safe ones", "2 ** 53", 2.0**53),
    _value("large double", "1e300", 1e300),
    _value("fraction", "-1.5", -1.5),
    _value("smallest double", "5e-324", 5e-324),
    _value("negative zero", "-0", -0.0, check="Object.is(v, -0)"),
    _value("NaN", "NaN", math.nan),
    _value("Infinity", "Infinity", math.inf),
    _value("-Infinity", "-Infinity", -math.inf),
    *(
        _value(f"bigint {number:#x}", f"{'-' if number < 0 else ''}{abs(number)}n", BigInt(number))
        for number in (0, 1, -1, 2**63, 2**64 - 1, 2**64, -(2**64), 2**128 + 1)
    ),
]

_STRINGS: Final = [
    _value("empty string", "''", ""),
    _value("string", "'hello'", "hello"),
    _value("string with a null character", r"'a\0b'", "a\0b"),
    _value("string of 127", "'x'.repeat(127)", "x" * 127),
    _value("string of 128", "'x'.repeat(128)", "x" * 128),
    _value("string of 20,000", "'xyz-'.repeat(5000)", "xyz-" * 5000),
    _value("Latin-1 string", r"'caf\xe9 \xff\x80'", "caf\xe9 \xff\x80"),
    _value("Latin-1 string of 200", r"'\xe9'.repeat(200)", "\xe9" * 200),
    _value("two-byte string", r"'\u20ac'", "\u20ac"),
    _value("two-byte string that is padded", r"['\u20ac', 'a', '\u20acb']", ["€", "a", "€b"]),
    _value("two-byte string of 64", r"'\u20ac'.repeat(64)", "€" * 64),
    _value("two-byte string of 100", r"['a', '\u20ac'.repeat(100)]", ["a", "€" * 100]),
    _value("astral string", r"'\u{1f600} and \u{10ffff}'", "\U0001f600 and \U0010ffff"),
    _value("lone high surrogate", r"'\ud800'", "\ud800"),
    _value("lone low surrogates", r"'a\udc00b\udfff'", "a\udc00b\udfff"),
    _value("surrogates in the wrong order", r"'\udc00\ud800'", "\udc00\ud800"),
]

_BOXES: Final = [
    _value("boxed true", "new Boolean(true)", Boxed(True)),
    _value("boxed false", "new Boolean(false)", Boxed(False)),
    _value("boxed integer", "new Number(5)", Boxed(5)),
    _value("boxed fraction", "new Number(-0.25)", Boxed(-0.25)),
    _value("boxed NaN", "new Number(NaN)", Boxed(math.nan)),
    _value("boxed negative zero", "new Number(-0)", Boxed(-0.0), check="Object.is(+v, -0)"),
    _value("boxed string", "new String('abc')", Boxed("abc")),
    _value("boxed two-byte string", r"new String('\u20ac\ud800')", Boxed("€\ud800")),
    _value("boxed bigint", "Object(-10n)", Boxed(BigInt(-10))),
]

_DATES: Final = [
    _value(
        "Date",
        "new Date(Date.UTC(2024, 1, 29, 12, 30, 15, 123))",
        _utc(2024, 2, 29, 12, 30, 15, 123000),
    ),
    _value("epoch", "new Date(0)", _utc(1970, 1, 1)),
    _value("Date before the epoch", "new Date(-1)", _utc(1969, 12, 31, 23, 59, 59, 999000)),
    _value("first Date of Python", "new Date(-62135596800000)", _utc(1, 1, 1)),
    _value(
        "last Date of Python", "new Date(253402300799999)", _utc(9999, 12, 31, 23, 59, 59, 999000)
    ),
    _value("Date too early for Python", "new Date(-62135596800001)", JSDate(-62135596800001.0)),
    _value("Date too late for Python", "new Date(253402300800000)", JSDate(253402300800000.0)),
    _value("first Date", "new Date(-8.64e15)", JSDate(-8.64e15)),
    _value("last Date", "new Date(8.64e15)", JSDate(8.64e15)),
    _value(
        "invalid Date",
        "new Date(NaN)",
        JSDate(math.nan),
        check="v instanceof Date && Number.isNaN(v.getTime())",
    ),
]

_REGEXPS: Final = [
    _value("RegExp", "/ab+c/", RegExp("ab+c")),
    *(_value(f"RegExp with {flag}", f"/x/{flag}", RegExp("x", flag)) for flag in "gimsuy"),
    _value("RegExp with d", "/x/d", RegExp("x", "d"), since=16),
    _value("RegExp with v", "/x/v", RegExp("x", "v"), since=20),
    _value(
        "RegExp with many", r"/\/(?<a>\u20ac)\k<a>/gimsuy", RegExp(r"\/(?<a>\u20ac)\k<a>", "gimsuy")
    ),
    _value("RegExp of a two-byte source", "new RegExp('\u20ac', 'g')", RegExp("€", "g")),
    _value("empty RegExp", "new RegExp('')", RegExp("(?:)")),
]


def _shared_key() -> Map[Any, Any]:
    key = {"k": 1}
    return Map({JSKey(key): key})


_COLLECTIONS: Final = [
    _value("empty Map", "new Map()", Map()),
    _value("Map", "new Map([['a', 1], ['b', {c: [2]}]])", Map({"a": 1, "b": {"c": [2]}})),
    _value(
        "Map with primitive keys",
        "new Map([[2, 'a'], [-1.5, 'b'], [null, 'c'], [undefined, 'd'], [true, 'e'], [9n, 'f']])",
        Map({2: "a", -1.5: "b", None: "c", undefined: "d", True: "e", BigInt(9): "f"}),
    ),
    _value("Map with a NaN key", "new Map([[NaN, 1]])", Map({math.nan: 1})),
    _value(
        "Map with keys that Python holds for equal",
        "new Map([[1, 'a'], [true, 'b'], [1n, 'c'], ['1', 'd'], [0, 'e'], [false, 'f']])",
        Map(
            {
                JSKey(1): "a",
                JSKey(True): "b",
                JSKey(BigInt(1)): "c",
                "1": "d",
                JSKey(0): "e",
                JSKey(False): "f",
            }
        ),
    ),
    _value(
        "Map with objects as keys",
        "new Map([[{a: 1}, 1], [{a: 1}, 2], [[], 3], [new Map(), 4]])",
        Map({JSKey({"a": 1}): 1, JSKey({"a": 1}): 2, JSKey([]): 3, JSKey(Map()): 4}),
    ),
    _value(
        "Map with equal Dates as keys",
        "new Map([[new Date(0), 1], [new Date(0), 2], [new Date(1), 3]])",
        Map(
            {
                JSKey(_utc(1970, 1, 1)): 1,
                JSKey(_utc(1970, 1, 1)): 2,
                _utc(1970, 1, 1, 0, 0, 0, 1000): 3,
            }
        ),
    ),
    Case(
        "Map whose key is its value",
        "(() => { const k = {k: 1}; return new Map([[k, k]]) })()",
        _shared_key,
        check="[...v][0][0] === [...v][0][1]",
    ),
    _value(
        "Map of 200",
        "new Map(Array.from({length: 200}, (_, i) => [i, i * 2]))",
        Map({i: 2 * i for i in range(200)}),
    ),
    _value("empty Set", "new Set()", set[Any]()),
    _value("Set", "new Set(['a', 2, null, -1.5])", {"a", 2, None, -1.5}),
    _value(
        "Set with keys that Python holds for equal",
        "new Set([1, true, 2])",
        {JSKey(1), JSKey(True), 2},
    ),
    _value("Set of Buffers", "new Set([Buffer.from('a'), Buffer.from('b')])", {b"a", b"b"}),
    _value(
        "Set of objects",
        "new Set([{}, {}, [1], new Set()])",
        {JSKey({}), JSKey({}), JSKey([1]), JSKey(set[Any]())},
    ),
    _value(
        "Set of 200",
        "new Set(Array.from({length: 200}, (_, i) => `${i}`))",
        {str(i) for i in range(200)},
    ),
]

_ARRAYS: Final = [
    _value("empty array", "[]", []),
    _value("array of integers", "[1, 2, 3]", [1, 2, 3]),
    _value("array of doubles", "[1.5, 2, -0]", [1.5, 2, -0.0]),
    _value(
        "array of anything",
        "['a', null, undefined, true, {}, []]",
        ["a", None, undefined, True, {}, []],
    ),
    _value("array of 200", "Array.from({length: 200}, (_, i) => i)", list(range(200))),
    _value("array that had holes", "new Array(3).fill(7)", [7, 7, 7]),
    _value("array of 200 that had holes", "new Array(200).fill('x')", ["x"] * 200),
    _value("array with a hole", "[1, , 3]", JSArray([1, undefined, 3], holes=[1])),
    _value(
        "array with a hole beside undefined",
        "[undefined, ,]",
        JSArray([undefined, undefined], holes=[1]),
    ),
    _value("array of holes", "new Array(3)", JSArray([undefined] * 3, holes=[0, 1, 2])),
    _value(
        "array with properties",
        "Object.assign([1, 2], {a: 1, b: [2]})",
        JSArray([1, 2], properties={"a": 1, "b": [2]}),
    ),
    _value(
        "empty array with a property", "Object.assign([], {a: 1})", JSArray([], properties={"a": 1})
    ),
    _value(
        "array with holes and properties",
        "Object.assign([1, , 'c'], {'-1': 0, '01': 1, x: {}})",
        JSArray([1, undefined, "c"], holes=[1], properties={"-1": 0, "01": 1, "x": {}}),
    ),
    _value(
        "sparse array",
        "Object.assign([], {5: 'a', 4294967294: 'b'})",
        SparseArray(2**32 - 1, {5: "a", 2**32 - 2: "b"}),
    ),
    _value(
        "sparse array with a property",
        "Object.assign(new Array(1e7), {p: 1})",
        SparseArray(10**7, properties={"p": 1}),
    ),
]

_OBJECTS: Final = [
    _value("empty object", "({})", {}),
    _value("object", "({a: 1, b: 'x', c: [1, 2, 3]})", {"a": 1, "b": "x", "c": [1, 2, 3]}),
    _value(
        "object with integer-like keys",
        "({b: 1, 10: 2, a: 3, 9: 4, '-1': 5, '01': 6,"
        " 2147483648: 7, 4294967294: 8, 4294967295: 9})",
        {
            "9": 4,
            "10": 2,
            "2147483648": 7,
            "4294967294": 8,
            "b": 1,
            "a": 3,
            "-1": 5,
            "01": 6,
            "4294967295": 9,
        },
    ),
    _value(
        "object with odd keys",
        r"({'': 1, '\xe9': 2, '\u20ac': 3, '\ud800': 4, ['x'.repeat(200)]: 5, ['__proto__']: 6})",
        {"": 1, "é": 2, "€": 3, "\ud800": 4, "x" * 200: 5, "__proto__": 6},
    ),
    _value("object with undefined", "({a: undefined, b: null})", {"a": undefined, "b": None}),
    _value(
        "object of 300",
        "Object.fromEntries(Array.from({length: 300}, (_, i) => ['k' + i, i]))",
        {f"k{i}": i for i in range(300)},
    ),
    _value(
        "instance",
        "new (class Point { constructor() { this.x = 1 } get y() { return 2 } })()",
        {"x": 1},
        one_way=True,
    ),
    _value(
        "object without a prototype",
        "Object.assign(Object.create(null), {a: 1})",
        {"a": 1},
        one_way=True,
    ),
    _value(
        "native object",
        "[Object.assign(require('crypto').createSecretKey(Buffer.from('x')), {a: 1, b: [2]}), 5]",
        [{"a": 1, "b": [2]}, 5],
        one_way=True,
    ),
]

_BUFFERS: Final = [
    _value("Buffer", "Buffer.from([0, 1, 127, 128, 255])", b"\x00\x01\x7f\x80\xff"),
    _value("empty Buffer", "Buffer.alloc(0)", b""),
    _value("Buffer that is part of another", "Buffer.from('abcdef').subarray(2, 4)", b"cd"),
    _value("large Buffer", "Buffer.alloc(70000, 'ab')", b"ab" * 35000),
    _value("ArrayBuffer", "new Uint8Array([1, 2, 3]).buffer", ArrayBuffer(b"\1\2\3")),
    _value("empty ArrayBuffer", "new ArrayBuffer(0)", ArrayBuffer()),
    _value(
        "resizable ArrayBuffer",
        "(() => { const b = new ArrayBuffer(2, {maxByteLength: 300});"
        " new Uint8Array(b).set([7, 8]); return b })()",
        ArrayBuffer(b"\7\x08", 300),
        since=20,
        check="v.resizable && v.maxByteLength === 300",
    ),
    _value(
        "DataView", "new DataView(new Uint8Array([1, 2, 3, 4]).buffer, 1, 2)", DataView(b"\2\3")
    ),
    _value("Int8Array", "new Int8Array([-128, 0, 127])", _typed("b", [-128, 0, 127])),
    _value("Uint8Array", "new Uint8Array([0, 255])", _typed("B", [0, 255])),
    _value("Uint8ClampedArray", "new Uint8ClampedArray([0, 255])", Uint8ClampedArray(b"\0\xff")),
    _value("Int16Array", "new Int16Array([-32768, 1])", _typed("h", [-32768, 1])),
    _value("Uint16Array", "new Uint16Array([65535, 1])", _typed("H", [65535, 1])),
    _value("Int32Array", "new Int32Array([-(2 ** 31), 1])", _typed("i", [-(2**31), 1])),
    _value("Uint32Array", "new Uint32Array([2 ** 32 - 1, 1])", _typed("I", [2**32 - 1, 1])),
    _value("Float32Array", "new Float32Array([1.5, -0])", _typed("f", [1.5, -0.0])),
    _value("Float64Array", "new Float64Array([1e300, NaN])", _typed("d", [1e300, math.nan])),
    _value(
        "BigInt64Array",
        "new BigInt64Array([-(2n ** 63n), 1n])",
        _typed("q", [-(2**63), 1]),
        sent_since=16,
    ),
    _value(
        "BigUint64Array",
        "new BigUint64Array([2n ** 64n - 1n])",
        _typed("Q", [2**64 - 1]),
        sent_since=16,
    ),
    _value(
        "Float16Array", "new Float16Array([1.5, -2])", Float16Array(b"\x00\x3e\x00\xc0"), since=24
    ),
    _value("empty typed array", "new Float64Array(0)", _typed("d", [])),
    _value(
        "typed array after an odd offset",
        "['a', new Int32Array([1, -1])]",
        ["a", _typed("i", [1, -1])],
    ),
    _value("large typed array", "new Int32Array(20000).fill(-5)", _typed("i", [-5] * 20000)),
]

_STACK: Final = "Error: m\n    at f (file.js:1:2)"


def _error(kind: str, options: str = "") -> str:
    # A stack of our own: that of a real Error has the paths of this machine.
    return f"Object.defineProperty(new {kind}('m'{options}), 'stack', {{value: {_STACK!r}}})"


def _caused_by_itself() -> JSError:
    error = JSError("m", stack=_STACK)
    error.cause = error
    return error


_ERRORS: Final = [
    *(
        _value(name, _error(name), JSError("m", name=name, stack=_STACK))
        for name in (
            *("Error", "EvalError", "RangeError", "ReferenceError", "SyntaxError", "TypeError"),
            "URIError",
        )
    ),
    _value(
        "Error without a message",
        f"Object.defineProperty(new Error(), 'stack', {{value: {_STACK!r}}})",
        JSError(stack=_STACK),
    ),
    _value(
        "Error with a two-byte message",
        f"Object.defineProperty(new Error('\u20ac'), 'stack', {{value: {_STACK!r}}})",
        JSError("€", stack=_STACK),
    ),
    _value(
        "Error with a name",
        f"Object.assign({_error('Error')}, {{name: 'RangeError'}})",
        JSError("m", name="RangeError", stack=_STACK),
        sent_since=14,
        one_way=True,
    ),
    _value(
        "Error with properties",
        f"Object.assign({_error('Error')}, {{code: 'ENOENT'}})",
        JSError("m", stack=_STACK),
        one_way=True,
    ),
    _value(
        "Error of a class",
        _error("(class Mine extends Error {})"),
        JSError("m", stack=_STACK),
        one_way=True,
    ),
    _value(
        "AggregateError",
        "Object.defineProperty(new AggregateError([1, {}], 'm'), 'stack', "
        f"{{value: {_STACK!r}}})",
        JSError("m", stack=_STACK),
        since=16,
        one_way=True,
    ),
    _value(
        "Error with a cause",
        _error("TypeError", ", {cause: {a: [1]}}"),
        JSError("m", name="TypeError", stack=_STACK, cause={"a": [1]}),
        since=18,
        check="v.cause.a[0] === 1",
    ),
    _value(
        "Error with undefined for a cause",
        _error("Error", ", {cause: undefined}"),
        JSError("m", stack=_STACK, cause=undefined),
        since=18,
        check="'cause' in v",
    ),
    _value(
        "Error with a chain of causes",
        _error("Error", ", {cause: " + _error("RangeError", ", {cause: 'x'}") + "}"),
        JSError("m", stack=_STACK, cause=JSError("m", name="RangeError", stack=_STACK, cause="x")),
        since=18,
        check="v.cause instanceof RangeError && v.cause.cause === 'x'",
    ),
    Case(
        "Error that is its own cause",
        f"(() => {{ const e = {_error('Error')};"
        " Object.defineProperty(e, 'cause', {value: e}); return e })()",
        _caused_by_itself,
        since=22,
        sent_since=22,
        check="v instanceof Error && v.message === 'm' && v.cause === v",
    ),
]


def _cycle(kind: type[Any]) -> Any:
    value: Any
    if kind is dict:
        value = {"a": 1}
        value["self"] = value
    elif kind is Map:
        value = Map()
        value[JSKey(value)] = value
    elif kind is set:
        value = set()
        value.add(JSKey(value))
    else:
        value = [1]
        value.append(value)
    return value


def _shared(value: Any) -> list[Any]:
    return [value, value, {"x": value}]


def _array_with_itself(array: JSArray[Any]) -> JSArray[Any]:
    array.properties["self"] = array
    array.properties["more"] = [array]
    return array


def _holey_with_itself() -> JSArray[Any]:
    array: JSArray[Any] = JSArray([1, undefined], holes=[1])
    array.append(array)
    return array


def _sparse_with_itself() -> SparseArray[Any]:
    array: SparseArray[Any] = SparseArray(10**7)
    array[5] = {"up": array}
    return array


def _mutual() -> list[Any]:
    one: dict[str, Any] = {}
    other: dict[str, Any] = {"one": one}
    one["other"] = other
    members: set[Any] = {JSKey(one)}
    return [one, other, members, Map({"members": members, "one": one})]


_GRAPHS: Final = [
    Case(
        "object in itself",
        "(() => { const o = {a: 1}; o.self = o; return o })()",
        lambda: _cycle(dict),
        check="v.self === v",
    ),
    Case(
        "array in itself",
        "(() => { const a = [1]; a.push(a); return a })()",
        lambda: _cycle(list),
        check="v[1] === v",
    ),
    Case(
        "Map in itself",
        "(() => { const m = new Map(); m.set(m, m); return m })()",
        lambda: _cycle(Map),
        check="v.get(v) === v",
    ),
    Case(
        "Set in itself",
        "(() => { const s = new Set(); s.add(s); return s })()",
        lambda: _cycle(set),
        check="v.has(v)",
    ),
    Case(
        "array with itself as a property",
        "(() => { const a = [1]; a.self = a; a.more = [a]; return a })()",
        lambda: _array_with_itself(JSArray([1])),
        check="v.self === v && v.more[0] === v",
    ),
    Case(
        "array with a hole in itself",
        "(() => { const a = [1, ,]; a.push(a); return a })()",
        _holey_with_itself,
        check="v[2] === v && !(1 in v)",
    ),
    Case(
        "sparse array in itself",
        "(() => { const a = new Array(1e7); a[5] = {up: a}; return a })()",
        _sparse_with_itself,
        check="v[5].up === v",
    ),
    Case(
        "shared object",
        "(() => { const o = {a: 1}; return [o, o, {x: o}] })()",
        lambda: _shared({"a": 1}),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared Buffer",
        "(() => { const o = Buffer.from('abc'); return [o, o, {x: o}] })()",
        lambda: _shared(b"abc"),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared Date",
        "(() => { const o = new Date(5); return [o, o, {x: o}] })()",
        lambda: _shared(_utc(1970, 1, 1, 0, 0, 0, 5000)),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared RegExp",
        "(() => { const o = /x/g; return [o, o, {x: o}] })()",
        lambda: _shared(RegExp("x", "g")),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared box",
        "(() => { const o = new String('s'); return [o, o, {x: o}] })()",
        lambda: _shared(Boxed("s")),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared typed array",
        "(() => { const o = new Int16Array([1]); return [o, o, {x: o}] })()",
        lambda: _shared(_typed("h", [1])),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared bigint array",
        "(() => { const o = new BigInt64Array([1n]); return [o, o, {x: o}] })()",
        lambda: _shared(_typed("q", [1])),
        sent_since=16,
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared array with a hole",
        "(() => { const o = [, 1]; return [o, o, {x: o}] })()",
        lambda: _shared(JSArray([undefined, 1], holes=[0])),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared Error",
        f"(() => {{ const o = {_error('Error')}; return [o, o, {{x: o}}] }})()",
        lambda: _shared(JSError("m", stack=_STACK)),
        # V8 before 10 counts Errors when it writes, but not when it reads.
        since=18,
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared Map",
        "(() => { const o = new Map([[{}, 1]]); return [o, o, {x: o}] })()",
        lambda: _shared(Map({JSKey({}): 1})),
        check="v[0] === v[1] && v[1] === v[2].x",
    ),
    Case(
        "shared native object",
        "(() => { const o = require('crypto').createSecretKey(Buffer.from('x'));"
        " o.a = 1; return [o, o, {x: o}] })()",
        lambda: _shared({"a": 1}),
        one_way=True,
    ),
    Case(
        "objects in each other",
        "(() => { const a = {}, b = {one: a}; a.other = b; const s = new Set([a]);"
        " return [a, b, s, new Map([['members', s], ['one', a]])] })()",
        _mutual,
        check="v[0].other === v[1] && v[1].one === v[0] && v[2].has(v[0])"
        " && v[3].get('members') === v[2] && v[3].get('one') === v[0]",
    ),
]

CASES: Final = [
    *_PRIMITIVES,
    *_STRINGS,
    *_BOXES,
    *_DATES,
    *_REGEXPS,
    *_COLLECTIONS,
    *_ARRAYS,
    *_OBJECTS,
    *_BUFFERS,
    *_ERRORS,
    *_GRAPHS,
]


def same(one: Any, other: Any, *, sharing: bool = True) -> bool:
    """Whether two values are of the same types, equal, and shared in the same places."""
    pairs: dict[tuple[int, int], tuple[Any, Any]] = {}
    known: tuple[dict[int, int], dict[int, int]] = ({}, {})
    stack = [(one, other)]
    while stack:
        left, right = stack.pop()
        if type(left) is not type(right):
            return False
        if isinstance(left, _PLAIN):
            if repr(left) != repr(right):
                return False
            continue
        # What is one object on one side is one on the other. Python has small bytes only once.
        if sharing and not (isinstance(left, bytes) and len(left) < 2):
            if known[0].setdefault(id(left), id(right)) != id(right):
                return False
            if known[1].setdefault(id(right), id(left)) != id(left):
                return False
            if (id(left), id(right)) in pairs:
                continue
            pairs[id(left), id(right)] = left, right
        parts = _parts(left), _parts(right)
        if parts[0][0] != parts[1][0] or len(parts[0][1]) != len(parts[1][1]):
            return False
        stack.extend(zip(*(part[1] for part in parts), strict=True))
    return True


_PLAIN: Final = (type(None), type(undefined), bool, int, float, str)


def _parts(value: Any) -> tuple[Any, list[Any]]:
    """What a value is compared by, and the values in it."""
    if isinstance(value, JSError):
        vars_ = vars(value)
        return (value.args, value.name, value.stack, "cause" in vars_), [
            *([value.cause] if "cause" in vars_ else [])
        ]
    if isinstance(value, JSArray):
        return (value.holes, list(value.properties)), [*value, *value.properties.values()]
    if isinstance(value, SparseArray):
        return (value.length, list(value), list(value.properties)), [
            *value.values(),
            *value.properties.values(),
        ]
    if isinstance(value, Map):
        return None, [part for pair in value.items() for part in pair]
    if isinstance(value, dict):
        return list(value), list(value.values())
    if isinstance(value, list):
        return None, value
    if isinstance(value, set):
        # The order of a set says nothing, so its members are brought into one.
        return None, sorted(value, key=_order)
    if isinstance(value, JSKey):
        return None, [value.value]
    if isinstance(value, memoryview):
        return (value.format, value.tobytes()), []
    if isinstance(value, Boxed):
        return type(value.value), [value.value]
    if isinstance(value, ArrayBuffer):
        return (bytes(value), value.max_byte_length), []
    return value, []


def _order(member: Any) -> str:
    value = member.value if isinstance(member, JSKey) else member
    return f"{type(member).__name__} {type(value).__name__} {value!r}"


if sys.byteorder != "little":
    raise RuntimeError("the vectors are of a little-endian machine")
