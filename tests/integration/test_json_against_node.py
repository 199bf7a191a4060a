"""The JSON codec against JSON.parse and JSON.stringify of a real Node: each test asks it once."""

from __future__ import annotations

import array
import dataclasses
import datetime
import json
import math
import random
import struct
import subprocess
from typing import Any

import pytest

from nodecompat.errors import ProtocolError
from nodecompat.protocol.js_types import MAX_SAFE_INTEGER, undefined
from nodecompat.protocol.json_codec import MAX_DEPTH, decode, encode

# Reads {frames, expressions} and answers with what each is to Node. A value is described without
# loss: numbers as the bytes of a double, strings as those of UTF-16. A frame takes the way that it
# takes in a channel, through a StringDecoder.
_NODE_PROGRAM = r"""
'use strict';
const { StringDecoder } = require('string_decoder');
const utf16 = (text) => Buffer.from(text, 'utf16le').toString('hex');
function described(value) {
  if (typeof value === 'number') {
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleBE(value);
    return ['number', bytes.toString('hex')];
  }
  if (typeof value === 'string') return ['string', utf16(value)];
  if (Array.isArray(value)) return ['array', value.map(described)];
  if (value === null || typeof value !== 'object') return value;
  return ['object', Object.keys(value).map((key) => [utf16(key), described(value[key])]).sort()];
}
function parsed(frame) {
  const text = new StringDecoder('utf8').write(Buffer.from(`${frame}0a`, 'hex'));
  try {
    return described(JSON.parse(text.split('\n')[0]));
  } catch (error) {
    if (error instanceof SyntaxError) return 'refused';
    throw error;
  }
}
function written(expression) {
  const text = JSON.stringify(eval(`(${expression})`));
  return [Buffer.from(text).toString('hex'), described(JSON.parse(text))];
}
function depth(frame) {
  let value = JSON.parse(Buffer.from(frame, 'hex').toString());
  let count = 0;
  for (; Array.isArray(value); value = value[0]) count += 1;
  return count;
}
const asked = JSON.parse(require('fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify({
  parsed: asked.frames.map(parsed),
  written: asked.expressions.map(written),
  depths: asked.deep.map(depth),
}));
"""


class _Answer:
    """What Node made of frames (its description, or 'refused') and of JavaScript expressions."""

    def __init__(self, node: str, **asked: list[str]) -> None:
        done = subprocess.run(
            [node, "-e", _NODE_PROGRAM],
            input=json.dumps({"frames": [], "expressions": [], "deep": [], **asked}),
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        self.parsed: list[Any] = answer["parsed"]
        self.written = [(bytes.fromhex(text), value) for text, value in answer["written"]]
        self.depths: list[int] = answer["depths"]


def _described(value: Any) -> Any:
    """A value in the words of the program above."""
    match value:
        case None | bool():
            return value
        case int():
            assert abs(value) <= MAX_SAFE_INTEGER
            return ["number", struct.pack(">d", value).hex()]
        case float():
            safe = value.is_integer() and abs(value) <= MAX_SAFE_INTEGER
            assert not safe or str(value) == "-0.0", f"{value} is to be an int"
            return ["number", struct.pack(">d", value).hex()]
        case str():
            return ["string", _utf16(value)]
        case list():
            return ["array", [_described(item) for item in value]]
        case dict():
            return [
                "object",
                sorted([_utf16(key), _described(item)] for key, item in value.items()),
            ]
    raise AssertionError(f"JSON gave a {type(value)}")


def _utf16(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").hex()


def _read(frame: bytes) -> Any:
    try:
        return _described(decode(frame))
    except ProtocolError:
        return "refused"


def _check_reading(node: str, frames: list[bytes]) -> None:
    answer = _Answer(node, frames=[frame.hex() for frame in frames])
    for frame, theirs in zip(frames, answer.parsed, strict=True):
        assert _read(frame) == theirs, frame


_FRAMES = [
    *b"0 -0 -0.0 -0e9 1.0 1e3 1E+3 150e-1 0.1 1e400 -1e400 5e-324 1e-400 -1e-400".split(),
    *b"9007199254740991 9007199254740992 9007199254740993 9007199254740993.5".split(),
    *b"123456789012345.999 123456789012345678 -9007199254740992".split(),
    b"9" * 400, b"0." + b"3" * 400, b"1" + b"0" * 400 + b"e-400",
    *b"01 - 1. .5 +1 1e 0x1 NaN Infinity -Infinity undefined nul 'a'".split(),
    rb'"\ud800"', rb'"\udc00\ud800"', rb'"\ud83d\ude00"', rb'"\uD83D\uDE00\ud83d"',
    rb'{"\udfff":1}', rb'"\u0000\b\f\n\r\t\/\\\""', rb'"\x41"', rb'"\u00e"',
    b'"\t"', b'"\x7f"', b'"\0"', '"\u2028\u2029\ufeff😀"'.encode(),
    "\ufeff1".encode(), "\u00a01".encode(), b" \t\r1\r", b"\x0b1",
    b'"\xff"', b'"\xc3"', b'"\xe2\x82"', b'"\xe2\x82a"', b'"\xf0\x9f\x98"', b'"\x80\xbf"',
    b'"\xf0\x9f\x98\xf0\x9f\x98\x80"', b'"\xc0\xaf"', b'"\xe0\x80\xaf"', b'"\xed\xa0\x80"',
    b'"\xed\xa0\xbd\xed\xb8\x80"', b'"\xf4\x90\x80\x80"', b'"\xf8\x88\x80\x80\x80"', b"\xff",
    b'{"\xff":1,"\xfe":2}', b'{"a":1,"b":2,"a":-0}', b'{"2":1,"1":2,"":3}',
    b'{"__proto__":{"a":1},"constructor":2}', b"", b" ", b"{}", b"[", b"[1,]", b'{"a":}',
    b"[1 2]", b'{"a":1,}', b"1 2", b"\x02\x01",
]  # fmt: skip


def test_what_node_parses_we_read_alike(node: str) -> None:
    _check_reading(node, _FRAMES)


def test_what_node_parses_inside_a_container_we_read_alike(node: str) -> None:
    _check_reading(node, [b'{"a":[' + frame + b',"\\ud800",1.5]}' for frame in _FRAMES])


def test_random_texts_are_json_to_both_or_to_neither(node: str) -> None:
    chosen = random.Random(1)
    tokens = [bytes([byte]) for byte in b'[]{}:,"\\ -+.eE019a\xc3\xa9']
    tokens += [b"true", b"null", b'"a":', rb"\ud83d", b"[1,", b"]}"]
    frames = [b"".join(chosen.choices(tokens, k=chosen.randint(1, 7))) for _ in range(5000)]

    _check_reading(node, frames)

    assert sum(_read(frame) != "refused" for frame in frames) > 100


@dataclasses.dataclass
class _Point:
    x: int
    label: Any = undefined


_MIDNIGHT = datetime.datetime(2020, 2, 29, 23, 59, 59, 999999, datetime.UTC)

# What a value is in JavaScript.
_SAME: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "true"),
    (0, "0"),
    (-0.0, "-0"),
    ([-0.0, "-0.0"], "[-0, '-0.0']"),
    ([math.nan, math.inf, -math.inf], "[NaN, Infinity, -Infinity]"),
    (1e21, "1e21"),
    (5e-324, "5e-324"),
    (1.7976931348623157e308, "Number.MAX_VALUE"),
    (MAX_SAFE_INTEGER, "Number.MAX_SAFE_INTEGER"),
    (2**53 + 1, "2 ** 53"),
    (2**80, "2 ** 80"),
    ("\u2028\0\x7f\ud800\n", r"'\u2028\0\x7f\ud800\n'"),
    ("\ud83d\ude00", "'\\u{1f600}'"),
    ({"\udfff": "\ud800"}, r"{'\udfff': '\ud800'}"),
    ([undefined, [undefined]], "[undefined, [undefined]]"),
    ({"a": undefined, "b": [None]}, "{a: undefined, b: [null]}"),
    ((1, (2, ())), "[1, [2, []]]"),
    (b"\x00\xff", "Buffer.from([0, 255])"),
    ({"a": bytearray(b"a")}, "{a: Buffer.from('a')}"),
    (memoryview(b"ab"), "new Uint8Array([97, 98])"),
    (array.array("h", [-1, 300]), "new Int16Array([-1, 300])"),
    (array.array("d", [1.5, math.nan]), "new Float64Array([1.5, NaN])"),
    (_MIDNIGHT, "new Date(Date.UTC(2020, 1, 29, 23, 59, 59, 999))"),
    (datetime.datetime(1, 1, 1, tzinfo=datetime.UTC), "new Date('0001-01-01T00:00:00Z')"),
    ({2: 1, 1.5: 2, None: 3, True: 4}, "{2: 1, 1.5: 2, null: 3, true: 4}"),
    ({"1": "first", 1: "second"}, "{1: 'second'}"),
    ({math.nan: 1, math.inf: 2, -0.0: 3}, "{NaN: 1, Infinity: 2, 0: 3}"),
    ({-math.inf: 1}, "{[-Infinity]: 1}"),
    ([_Point(1), _Point(2, _Point(3))], "[{x: 1}, {x: 2, label: {x: 3}}]"),
]  # fmt: skip


def test_what_we_write_is_to_node_what_its_own_stringify_writes(node: str) -> None:
    answer = _Answer(
        node,
        frames=[encode(value).hex() for value, _ in _SAME],
        expressions=[expression for _, expression in _SAME],
    )
    for (_, expression), ours, (_, theirs) in zip(
        _SAME, answer.parsed, answer.written, strict=True
    ):
        assert ours == theirs, expression


def test_what_node_stringifies_we_read_as_it_does(node: str) -> None:
    expressions = [expression for _, expression in _SAME]

    for expression, (text, theirs) in zip(
        expressions, _Answer(node, expressions=expressions).written, strict=True
    ):
        assert _read(text) == theirs, expression


def _doubles(number: int) -> list[float]:
    chosen = random.Random(2)
    raw = [struct.unpack(">d", chosen.randbytes(8))[0] for _ in range(number)]
    near = [chosen.randint(-(10**6), 10**6) * 10.0 ** chosen.randint(-12, 24) for _ in raw]
    return [double for double in (*raw, *near) if math.isfinite(double)]


def _javascript(double: float) -> str:
    return f"Buffer.from('{struct.pack('>d', double).hex()}', 'hex').readDoubleBE(0)"


def test_a_double_is_the_same_double_on_both_sides(node: str) -> None:
    doubles = _doubles(1000)
    # JSON.stringify writes -0 as 0.
    expected = [_described(int(each) if each == 0 else decode(encode(each))) for each in doubles]
    assert [struct.unpack(">d", bytes.fromhex(bits))[0] for _, bits in expected] == doubles

    answer = _Answer(
        node,
        frames=[encode(double).hex() for double in doubles],
        expressions=[_javascript(double) for double in doubles],
    )

    assert answer.parsed == expected
    assert [_read(text) for text, _ in answer.written] == expected


def test_a_number_as_a_key_is_the_property_that_node_names_so(node: str) -> None:
    doubles = _doubles(300)
    answer = _Answer(
        node,
        frames=[encode({double: 1}).hex() for double in doubles],
        expressions=[f"{{[{_javascript(double)}]: 1}}" for double in doubles],
    )
    for double, ours, (_, theirs) in zip(doubles, answer.parsed, answer.written, strict=True):
        assert ours == theirs, double


@pytest.mark.parametrize("depth", [255, 5000, MAX_DEPTH])
def test_node_reads_what_we_nest(node: str, depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]

    assert _Answer(node, deep=[encode(value).hex()]).depths == [depth]
