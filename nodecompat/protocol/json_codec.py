"""JSON with JavaScript's semantics: what ``JSON.stringify`` writes and ``JSON.parse`` reads.

orjson does the work. It differs from JavaScript in a few places; each has a way of its own here:

- reading: lone surrogates, bytes that are no UTF-8 (JavaScript has U+FFFD there) and numbers past a
  double's range go to the standard library's parser; nesting past the parsers' limits goes to
  an iterative one; numbers whose Python type orjson chooses by their spelling (``1.0``, ``1e3``,
  ``9007199254740993``) are given the type of their value;
- writing: what orjson refuses (lone surrogates, deep nesting, big integers, keys that are
  no strings, ``undefined``) goes to an iterative writer, which also knows the path to a value
  that cannot be sent.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from json.encoder import encode_basestring
from numbers import Integral, Real
from typing import Any, Final, cast

import orjson

from nodecompat.errors import MessageError, ProtocolError
from nodecompat.protocol.framing import excerpt
from nodecompat.protocol.js_types import MAX_SAFE_INTEGER, undefined
from nodecompat.protocol.paths import index_step, path, property_name, property_step, type_name

__all__ = ["MAX_DEPTH", "decode", "decode_many", "encode"]

MAX_DEPTH: Final = 10_000
"""How deep arrays and objects may nest, in both directions."""

_OPTIONS: Final = (
    orjson.OPT_APPEND_NEWLINE | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
)


# --------------------------------------------------------------------------------------- reading

# Digits and points become 0, exponents e, all else a space: one pass that finds long numbers, whole
# or fractions that round to an integer, and exponents.
_SKETCH: Final = bytes(
    0x30 if code in b"0123456789." else 0x65 if code in b"eE" else 0x20 for code in range(256)
)
_LONG_NUMBER: Final = b"0" * 16
_NEGATIVE_ZERO_TOKEN: Final = re.compile(rb"-0[,\]}\s]")


def decode_many(frames: list[bytes], into: Callable[[Any], object]) -> None:
    """Decode frames in order and hand each value to ``into``.

    Raises ProtocolError at the first frame that is not JSON; the values before it were handed over.
    """
    # orjson chooses int or float by a number's spelling. Where no number in these frames can be
    # spelt so that this matters, which a look at the bytes tells, its values stand as they are.
    text = frames[0] if len(frames) == 1 else b"\n".join(frames)
    odd = b".0" in text or b"-0" in text
    if not odd:
        sketch = text.translate(_SKETCH)
        odd = _LONG_NUMBER in sketch or b"0e" in sketch
    loads = orjson.loads
    for frame in frames:
        try:
            value = loads(frame)
        except orjson.JSONDecodeError:
            into(_decode_slowly(frame))
            continue
        into(_numbers_by_value(value, frame) if odd else value)


def decode(frame: bytes) -> Any:
    """The value of one frame; raises ProtocolError when it is not JSON."""
    values: list[Any] = []
    decode_many([frame], values.append)
    return values[0]


def _float(value: float) -> int | float:
    """The Python value of a JavaScript number that has a double's value."""
    if value.is_integer() and -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
        integer = int(value)
        # Only a float can carry JavaScript's negative zero.
        return integer if integer or str(value)[0] != "-" else value
    return value


def _parse_int(text: str) -> int | float:
    return int(text) if len(text) < 16 and text != "-0" else _float(float(text))


def _parse_float(text: str) -> int | float:
    return _float(float(text))


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_STANDARD: Final = json.JSONDecoder(
    parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant
)


def _decode_slowly(frame: bytes) -> Any:
    # Node decodes the stream as UTF-8 before it parses, and puts U+FFFD where that fails.
    text = frame.decode("utf-8", "replace")
    try:
        return _STANDARD.decode(text)
    except RecursionError:
        return _decode_deep(text, frame)
    except ValueError as error:
        raise _not_json(frame, error) from None


def _not_json(frame: bytes, error: Exception) -> ProtocolError:
    if frame[:1] == b"\x02":
        return ProtocolError(
            f"the peer sent {excerpt(frame)}: a private frame of Bun, "
            "which speaks its own protocol when it takes the other side for Bun"
        )
    if not frame:
        return ProtocolError("the peer sent an empty line, which is not JSON")
    return ProtocolError(f"the peer sent a line that is not JSON: {excerpt(frame)}: {error}")


def _numbers_by_value(value: Any, frame: bytes) -> Any:
    """Give the numbers in a value that orjson made the types that their values ask for."""
    if b"-0" in frame and _NEGATIVE_ZERO_TOKEN.search(frame + b" "):
        # orjson reads -0 as the integer 0: its sign is lost.
        return _decode_slowly(frame)
    kind = type(value)
    if kind is float:
        return _float(value)
    if kind is int:
        return value if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER else float(value)
    if kind is not list and kind is not dict:
        return value
    stack: list[Any] = [value]
    while stack:
        container: Any = stack.pop()
        changed: list[tuple[Any, Any]] = []
        for key, item in container.items() if type(container) is dict else enumerate(container):
            kind = type(item)
            if kind is float:
                if item.is_integer():
                    changed.append((key, _float(item)))
            elif kind is int:
                if not -MAX_SAFE_INTEGER <= item <= MAX_SAFE_INTEGER:
                    changed.append((key, float(item)))
            elif kind is list or kind is dict:
                stack.append(item)
        for key, number in changed:
            container[key] = number
    return value


# The C function where there is one; the standard library has no public name for it.
_scan_string: Final[Callable[[str, int, bool], tuple[str, int]]] = vars(json.decoder)["scanstring"]
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_SCALAR: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_CONSTANTS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}


def _decode_deep(text: str, frame: bytes) -> Any:
    """Parse JSON without recursion, for nesting past the other parsers' limits."""
    try:
        return _DeepParser(text).parse()
    except ValueError as error:
        raise _not_json(frame, error) from None


class _DeepParser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def _skip(self) -> str:
        """Move to the next token and give its first character, '' at the end."""
        match = _SPACE.match(self._text, self._at)
        if match:
            self._at = match.end()
        return self._text[self._at : self._at + 1]

    def _error(self, expected: str) -> ValueError:
        return ValueError(f"expected {expected} at character {self._at}")

    def _string(self) -> str:
        if self._skip() != '"':
            raise self._error("a string")
        value, self._at = _scan_string(self._text, self._at + 1, True)
        return value

    def _key(self) -> str:
        key = self._string()
        if self._skip() != ":":
            raise self._error("':'")
        self._at += 1
        return key

    def _scalar(self) -> Any:
        match = _SCALAR.match(self._text, self._at)
        if match is None:
            raise self._error("a value")
        self._at = match.end()
        token = match.group()
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        return _parse_int(token) if token.lstrip("-").isdecimal() else _parse_float(token)

    def parse(self) -> Any:
        stack: list[list[Any] | dict[str, Any]] = []
        keys: list[str] = []
        while True:
            # One value; a container that is not empty is entered.
            first = self._skip()
            value: Any
            if first in ("[", "{") and first:
                self._at += 1
                if len(stack) >= MAX_DEPTH:
                    raise ValueError(f"nested more than {MAX_DEPTH} deep")
                opened: list[Any] | dict[str, Any] = [] if first == "[" else {}
                if self._skip() == ("]" if first == "[" else "}"):
                    self._at += 1
                    value = opened
                else:
                    stack.append(opened)
                    if first == "{":
                        keys.append(self._key())
                    continue
            elif first == '"':
                value = self._string()
            else:
                value = self._scalar()
            # It belongs to the innermost open container, which may end here, and so on outwards.
            while stack:
                inner = stack[-1]
                if isinstance(inner, list):
                    inner.append(value)
                    close = "]"
                else:
                    inner[keys.pop()] = value
                    close = "}"
                after = self._skip()
                self._at += 1
                if after == ",":
                    if close == "}":
                        keys.append(self._key())
                    break
                if after != close:
                    self._at -= 1
                    raise self._error(f"',' or '{close}'")
                value = stack.pop()
            else:
                if self._skip():
                    raise self._error("the end")
                return value


# --------------------------------------------------------------------------------------- writing

_NEGATIVE_ZERO: Final = re.compile(rb"-0\.0(?![0-9])")


def encode(message: Any) -> bytes:
    r"""One frame, with its ``\n``, that JavaScript reads as ``message``.

    Raises MessageError, which names the path to the value, for what JSON cannot carry.
    """
    try:
        frame = orjson.dumps(message, _plain, _OPTIONS)
    except orjson.JSONEncodeError:
        # Written outside the handler: what orjson said is not what the caller is to read.
        frame = b""
    # JSON.stringify(-0) is "0". A match may as well be inside a string: the writer knows.
    if not frame or (b"-0.0" in frame and _NEGATIVE_ZERO.search(frame)):
        return _Writer().write(message)
    return frame


def iso_string(value: datetime.datetime) -> str:
    """``Date.prototype.toISOString``: UTC, milliseconds. A naive datetime is local time."""
    moment = value.astimezone(datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z".rjust(24, "0")


def _plain(value: Any) -> Any:
    """A value of a type that has a JSON form, as that form; TypeError for all others.

    Both writers ask it, so that a value has the same form whichever way it goes.
    """
    if isinstance(value, (bytes, bytearray)):
        return {"type": "Buffer", "data": list(value)}
    if isinstance(value, datetime.datetime):
        return iso_string(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and hasattr(type(value), "__float__") and _is_float_like(value):
        return float(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        # A scalar of numpy's, which knows its Python value.
        return cast(Any, value).item()
    try:
        view = memoryview(cast(Any, value))
    except TypeError:
        raise TypeError(f"{type_name(value)} cannot be sent as JSON") from None
    with view:
        if view.format not in _TYPED_ARRAY_FORMATS:
            raise TypeError(
                f"{type_name(value)} with items of format {view.format!r}: "
                "JavaScript has no typed array of that kind"
            )
        # JSON.stringify writes a typed array as an object with its indices as keys.
        items: memoryview[Any] = memoryview(view.tobytes()).cast(cast(Any, view.format))
        return {str(index): item for index, item in enumerate(items)}


_TYPED_ARRAY_FORMATS: Final = frozenset("bBhHiIlLqQfd")


def _is_float_like(value: Any) -> bool:
    # Decimal and Fraction would silently lose what they are used for.
    return type(value).__module__ not in ("decimal", "_decimal", "fractions")


_END: Final = object()
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _escape_surrogate(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _string(text: str) -> str:
    quoted = encode_basestring(text)
    return quoted if quoted.isascii() else _SURROGATE.sub(_escape_surrogate, quoted)


class _Frame:
    """One container that is being written."""

    __slots__ = ("close", "first", "identity", "items", "key")

    def __init__(self, items: Iterator[tuple[Any, Any]], close: str, identity: int) -> None:
        self.items = items
        self.close = close
        self.identity = identity
        self.first = True
        self.key: Any = None


class _Writer:
    """Writes any depth without recursion, and knows where it is."""

    def __init__(self) -> None:
        self._stack: list[_Frame] = []
        self._open: dict[int, int] = {}
        self._out: list[str] = []

    def write(self, message: Any) -> bytes:
        if message is undefined:
            raise MessageError("message", "undefined cannot be a message")
        out = self._out
        value = message
        while True:
            opened = self._value(value)
            if opened is not None:
                self._stack.append(opened)
                out.append("{" if opened.close == "}" else "[")
            if not self._next():
                out.append("\n")
                return "".join(out).encode()
            value = self._pending

    def _next(self) -> bool:
        """Move to the next value to write; False when all is written."""
        out = self._out
        while self._stack:
            frame = self._stack[-1]
            entry: Any = next(frame.items, _END)
            if entry is _END:
                out.append(frame.close)
                self._stack.pop()
                del self._open[frame.identity]
                continue
            frame.key, self._pending = entry
            if frame.close == "}":
                if self._pending is undefined:
                    continue
                key = self._key(frame.key)
                out.append(f"{key}:" if frame.first else f",{key}:")
            elif not frame.first:
                out.append(",")
            frame.first = False
            return True
        return False

    def _value(self, value: Any) -> _Frame | None:
        """Write a scalar, or give the frame of a container that is now to be written."""
        # The containers that stand for a value (a dataclass's dict, a tuple's list) are new ones:
        # only the value itself can tell a cycle.
        original = value
        for _ in range(4):
            text = self._scalar(value)
            if text is not None:
                self._out.append(text)
                return None
            if isinstance(value, (dict, list)):
                return self._enter(value, original)
            try:
                value = _plain(value)
            except TypeError as error:
                raise MessageError(self.path(), str(error)) from None
            except Exception as error:
                raise MessageError(self.path(), f"{type_name(original)}: {error}") from error
        raise MessageError(self.path(), f"{type_name(original)} cannot be sent as JSON")

    def _scalar(self, value: Any) -> str | None:
        if value is None or value is undefined:
            return "null"
        if value is True:
            return "true"
        if value is False:
            return "false"
        if isinstance(value, str):
            return _string(value)
        if isinstance(value, enum.Enum):
            return None
        if isinstance(value, int):
            return self._integer(value)
        if isinstance(value, float):
            if value != value or value in (float("inf"), float("-inf")):
                return "null"
            return float.__repr__(value) if value else "0"
        return None

    def _integer(self, value: int) -> str:
        try:
            return int.__repr__(value)
        except ValueError as error:
            raise MessageError(self.path(), f"an integer is too large: {error}") from None

    def _enter(self, value: dict[Any, Any] | list[Any], original: Any) -> _Frame:
        if len(self._stack) >= MAX_DEPTH:
            raise MessageError(self.path(), f"nested more than {MAX_DEPTH} deep")
        identity = id(original)
        if identity in self._open:
            outer = self.path(self._open[identity])
            raise MessageError(self.path(), f"a circular reference to {outer}")
        self._open[identity] = len(self._stack)
        if isinstance(value, dict):
            return _Frame(iter(value.items()), "}", identity)
        return _Frame(iter(enumerate(value)), "]", identity)

    def _key(self, key: Any) -> str:
        try:
            return _string(property_name(key))
        except (TypeError, ValueError) as error:
            # The path leads to the object: the key is what is wrong.
            self._stack[-1].key = None
            raise MessageError(self.path(), str(error)) from None

    def path(self, depth: int | None = None) -> str:
        """Where the writer is, as JavaScript would write it: ``message.users[3].name``."""
        steps: list[str] = []
        for frame in self._stack[:depth]:
            if frame.close == "]":
                steps.append(index_step(frame.key))
            elif frame.key is not None:
                steps.append(property_step(frame.key))
        return path(steps)
