"""V8's serialization format, as Node writes and reads it on a channel with ``'advanced'``.

Follows ``value-serializer.cc`` of V8 and ``internal/child_process/serialization`` of Node (since 26
``node_ipc_serdes.cc``), versions 13 to 16 of the format. A frame here is the payload of one
message: V8's header and one value, without the length that goes before it on the wire.

A value is a tag and what the tag asks for. A container is its tag, then the values in it one after
the other (keys and values alternate), then an end tag with a count. So both directions are one loop
over a flat sequence of values and a stack of open containers: no recursion, whatever the depth.
Every object has a number, counted from 0 in the order of their beginnings; a second mention of the
same object is its number.

Numbers are in little-endian order, which is that of every machine that Node has releases for but
s390x.
"""

from __future__ import annotations

import array
import dataclasses
import datetime
import enum
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import count
from math import trunc
from numbers import Integral, Real
from struct import Struct
from struct import error as struct_error
from typing import Any, Final, NamedTuple, TypeAlias, cast

from nodecompat.errors import MessageError, ProtocolError
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
from nodecompat.protocol.paths import (
    index_step,
    path,
    property_name,
    property_step,
    type_name,
)

__all__ = ["LARGE_BUFFER", "MAX_DEPTH", "decode", "encode"]

MAX_DEPTH: Final = 10_000
"""How deep containers may nest, in both directions. Node's own limit is its stack: near 3,500."""

LARGE_BUFFER: Final = 65_536
"""From so many bytes on, a buffer is not copied where that can be avoided."""

_OLDEST: Final = 13
_NEWEST_READ: Final = 16
_NEWEST_WRITTEN: Final = 15

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MAX_TIME: Final = 8.64e15
_FIRST_TIME: Final = (datetime.datetime.min.replace(tzinfo=datetime.UTC) - _EPOCH) // (
    _MILLISECOND := datetime.timedelta(milliseconds=1)
)
_LAST_TIME: Final = (datetime.datetime.max.replace(tzinfo=datetime.UTC) - _EPOCH) // _MILLISECOND

# V8's String::kMaxLength, and BigInt::kMaxLengthBits.
_MAX_STRING: Final = 2**29 - 24
_MAX_BIGINT_BITS: Final = 2**30
_MAX_LENGTH: Final = 2**32 - 1

_DOUBLE: Final = Struct("<d")
_TAGGED_DOUBLE: Final = Struct("<cd")

# By the numbers that Node gives them; DataView, Buffer and what memoryview lacks stand elsewhere.
_VIEW_FORMATS: Final = {
    0: "b",
    1: "B",
    3: "h",
    4: "H",
    5: "i",
    6: "I",
    7: "f",
    8: "d",
    11: "q",
    12: "Q",
}
_VIEW_TYPES: Final[dict[int, type[bytearray]]] = {
    2: Uint8ClampedArray,
    9: DataView,
    13: Float16Array,
}
_BUFFER: Final = 10

# The letters of V8's own views, which Node does not write, but reads.
_NATIVE_VIEWS: Final = {
    ord(letter): number
    for letter, number in zip("bBCwWdDfF?qQh", (*range(10), 11, 12, 13), strict=True)
}

_ERROR_NAMES: Final = {
    ord("E"): "EvalError",
    ord("R"): "RangeError",
    ord("F"): "ReferenceError",
    ord("S"): "SyntaxError",
    ord("T"): "TypeError",
    ord("U"): "URIError",
}

# The bits of JSRegExp's flags.
_FLAGS: Final = {"g": 1, "i": 2, "m": 4, "y": 8, "u": 16, "s": 32, "d": 128, "v": 256}


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


# --------------------------------------------------------------------------------------- writing

_HEADERS: Final = {
    version: bytes((0xFF, version)) for version in range(_OLDEST, _NEWEST_WRITTEN + 1)
}

Frame: TypeAlias = "bytes | tuple[bytes | memoryview, ...]"


def encode(value: Any, *, version: int = 13) -> Frame:
    """The frame that JavaScript reads as ``value``, in parts where something in it is large.

    The parts share the memory of the buffers that they stand for: write them before those change.
    Every Node since 12 reads version 13 (the default), those since 18 also 14 and 15; what a Node
    lacks altogether, such as ``error.cause`` before 16, it does not read either way. Raises
    MessageError, which names the path to the value, for what cannot go.
    """
    header = _HEADERS.get(version)
    if header is None:
        raise ValueError(
            f"version={version!r}: must be from {_OLDEST} to {_NEWEST_WRITTEN}, which Node reads"
        )
    return _Writer(header).write(value)


_SMALL_INTEGERS: Final = tuple(b"I" + _varint(number << 1) for number in range(1024))
_ONE_BYTE: Final = tuple(b'"' + _varint(size) for size in range(128))
_OBJECT_ENDS: Final = tuple(b"{" + _varint(size) for size in range(128))


def _array_tags(size: int) -> tuple[bytes, bytes]:
    length = _varint(size)
    return b"A" + length, b"$\x00" + length


_ARRAY_TAGS: Final = tuple(map(_array_tags, range(128)))
_TOO_DEEP: Final = f"nested more than {MAX_DEPTH} deep"

# The names of properties recur from message to message.
_names: dict[Any, bytes] = {}
_MAX_NAMES: Final = 2048


class _Refused(Exception):
    """A value that cannot go; ``inside`` is whether it is the container's fault, not the item's."""

    def __init__(self, reason: str, *, inside: bool = False) -> None:
        super().__init__(reason)
        self.inside = inside


class _Container(NamedTuple):
    """What is to be written next: ``(key, value)`` pairs, then ``end``.

    ``keyed`` says that the keys are written as well. ``source`` is what the user put there; None
    stands for one that he does not know of, which is no step of a path.
    """

    items: Iterator[tuple[Any, Any]]
    keyed: bool
    end: bytes
    source: Any


_Handler: TypeAlias = "Callable[[_Writer, Any], _Container | None]"


class _Writer:
    """Writes one frame."""

    __slots__ = ("checked", "counted", "held", "large", "numbers", "out", "size")

    def __init__(self, header: bytes) -> None:
        self.out: list[bytes | memoryview] = [header]
        # The number of every object, by its identity.
        self.numbers: dict[int, int] = {}
        # What was made on the way, and where large buffers stand.
        self.held: list[Any] = []
        self.large: list[int] = []
        # The dicts whose keys are known to make different names.
        self.checked: set[int] = set()
        # How many parts were counted, and their size.
        self.counted = 0
        self.size = 0

    def write(self, message: Any) -> Frame:
        out = self.out
        numbers = self.numbers
        known = _names.get
        stack: list[tuple[Iterator[tuple[Any, Any]], bool, bytes, Any, Any]] = []
        # The container that is being written; see _Container.
        items: Iterator[tuple[Any, Any]] = iter(((None, message),))
        keyed = False
        end = b""
        source: Any = None
        key: Any = None
        try:
            while True:
                for key, item in items:
                    if keyed:
                        out.append(known(key) or self.name(key, source))
                    kind = type(item)
                    if kind is str:
                        if item.isascii() and len(item) < 128:
                            out.append(_ONE_BYTE[len(item)] + item.encode())
                        else:
                            self.string(item)
                    elif kind is int:
                        if 0 <= item < 1024:
                            out.append(_SMALL_INTEGERS[item])
                        else:
                            self.integer(item)
                    elif kind is float:
                        out.append(_TAGGED_DOUBLE.pack(b"N", item))
                    elif item is None:
                        out.append(b"0")
                    elif kind is bool:
                        out.append(b"T" if item else b"F")
                    elif kind is dict:
                        identity = id(item)
                        if identity in numbers:
                            out.append(b"^" + _varint(numbers[identity]))
                            continue
                        if len(stack) >= MAX_DEPTH:
                            raise _Refused(_TOO_DEEP)
                        numbers[identity] = len(numbers)
                        out.append(b"o")
                        stack.append((items, keyed, end, source, key))
                        items = iter(item.items())
                        keyed = True
                        size = len(item)
                        end = _OBJECT_ENDS[size] if size < 128 else b"{" + _varint(size)
                        source = item
                        break
                    elif kind is list:
                        identity = id(item)
                        if identity in numbers:
                            out.append(b"^" + _varint(numbers[identity]))
                            continue
                        if len(stack) >= MAX_DEPTH:
                            raise _Refused(_TOO_DEEP)
                        numbers[identity] = len(numbers)
                        stack.append((items, keyed, end, source, key))
                        items = enumerate(item)
                        keyed = False
                        size = len(item)
                        if size < 128:
                            begin, end = _ARRAY_TAGS[size]
                        else:
                            begin, end = _array_tags(size)
                        out.append(begin)
                        source = item
                        break
                    else:
                        opened = self.other(item, _HANDLERS.get(kind))
                        if opened is None:
                            continue
                        if len(stack) >= MAX_DEPTH:
                            raise _Refused(_TOO_DEEP)
                        stack.append((items, keyed, end, source, key))
                        items, keyed, end, source = opened
                        break
                else:
                    out.append(end)
                    if not stack:
                        return self.frame() if self.large else b"".join(out)
                    items, keyed, end, source, key = stack.pop()
        except _Refused as refusal:
            steps = [*((outer[3], outer[4]) for outer in stack), (source, key)]
            if refusal.inside:
                steps.pop()
            raise MessageError(_where(steps), str(refusal)) from refusal.__cause__
        except RecursionError:
            # Whoever called had no stack left for the next call; there is none of ours.
            raise
        except RuntimeError as error:
            # What Python says of a dict or set that was changed meanwhile.
            steps = [(outer[3], outer[4]) for outer in stack]
            raise MessageError(_where(steps), str(error)) from error

    def frame(self) -> Frame:
        """The parts, where there are large buffers."""
        out = self.out
        parts: list[bytes | memoryview] = []
        start = 0
        for index in self.large:
            parts += b"".join(out[start:index]), out[index]
            start = index + 1
        parts.append(b"".join(out[start:]))
        return tuple(part for part in parts if len(part))

    # -------------------------------------------------------------------------------- primitives

    def string(self, text: str) -> None:
        out = self.out
        size = len(text)
        if size > _MAX_STRING // 2 and size + sum(char > "\uffff" for char in text) > _MAX_STRING:
            raise _Refused(f"a string of {size} characters is longer than one can be in JavaScript")
        # An exception would take longer than this.
        data = text.encode("latin-1", "ignore")
        if len(data) == size:
            out.append(b'"' + _varint(size))
        else:
            data = text.encode("utf-16-le", "surrogatepass")
            length = _varint(len(data))
            # V8 keeps the characters at even offsets. Each part is counted once.
            self.size += sum(map(len, out[self.counted :]))
            self.counted = len(out)
            out.append((b"c" if (self.size + 1 + len(length)) % 2 == 0 else b"\x00c") + length)
        if len(data) >= LARGE_BUFFER:
            self.large.append(len(out))
        out.append(data)

    def integer(self, number: int) -> None:
        if -(2**31) <= number < 2**31:
            zigzag = number << 1 if number >= 0 else ~(number << 1)
            if zigzag < 0x80:
                data = bytes((_INT32, zigzag))
            elif zigzag < 0x4000:
                data = bytes((_INT32, zigzag & 0x7F | 0x80, zigzag >> 7))
            elif zigzag < 0x200000:
                data = bytes(
                    (_INT32, zigzag & 0x7F | 0x80, zigzag >> 7 & 0x7F | 0x80, zigzag >> 14)
                )
            else:
                data = b"I" + _varint(zigzag)
            self.out.append(data)
        elif -MAX_SAFE_INTEGER <= number <= MAX_SAFE_INTEGER:
            self.out.append(_TAGGED_DOUBLE.pack(b"N", number))
        else:
            self.bigint(b"Z", number)

    def bigint(self, tag: bytes, number: int) -> None:
        bits = number.bit_length()
        if bits > _MAX_BIGINT_BITS:
            raise _Refused(f"an integer of {bits} bits is larger than a bigint can be")
        size = (bits + 63) // 64 * 8
        self.out.append(tag + _varint(size << 1 | (number < 0)))
        self.out.append(abs(number).to_bytes(size, "little"))

    def name(self, key: Any, source: Any) -> bytes:
        """The name of a property, in V8's form."""
        if type(key) is not str:
            return self.odd_name(key, source)
        index = _index(key)
        if index is not None:
            # What may be an index is one, and those are numbers in V8.
            self.integer(index)
            return b""
        if len(key) < 128 and key.isascii():
            data = _ONE_BYTE[len(key)] + key.encode()
            if len(_names) >= _MAX_NAMES:
                _names.clear()
            _names[key] = data
            return data
        self.string(key)
        return b""

    def odd_name(self, key: Any, source: Any) -> bytes:
        # Two keys that become one property would make a frame that V8 refuses.
        if id(source) not in self.checked:
            self.checked.add(id(source))
            names: dict[str, Any] = {}
            for each in source:
                name = _property_name(each)
                if name in names:
                    raise _Refused(
                        f"the keys {names[name]!r} and {each!r} are one property in JavaScript",
                        inside=True,
                    )
                names[name] = each
        return self.name(_property_name(key), source)

    # ----------------------------------------------------------------------------------- objects

    def other(self, item: Any, handler: _Handler | None) -> _Container | None:
        """Write a value of any type that the loop does not know, or begin it."""
        try:
            return (handler or _resolve(type(item)))(self, item)
        except (_Refused, MemoryError, RecursionError):
            raise
        except Exception as error:
            # Code of the user's: a property of a dataclass, the str() of an exception.
            raise _Refused(f"{type_name(item)}: {type(error).__name__}: {error}") from error

    def mentioned(self, item: Any) -> bool:
        """Whether an object was written before, and is now mentioned; if not, it is from now on."""
        number = self.numbers.get(id(item))
        if number is None:
            self.numbers[id(item)] = len(self.numbers)
            return False
        self.out.append(b"^" + _varint(number))
        return True

    def hold(self, item: Any) -> None:
        """Keep what was made on the way, so that its identity does not come up a second time."""
        self.held.append(item)

    def unmentioned(self) -> None:
        """Count an object that is not to be mentioned again."""
        self.numbers[-1 - len(self.numbers)] = len(self.numbers)

    def buffer(self, head: bytes, data: Any, tail: bytes = b"") -> None:
        """Write a buffer: its length, between what goes before and after it, and its bytes."""
        view = memoryview(data)
        size = view.nbytes
        if size > _MAX_LENGTH:
            raise _Refused(f"a buffer of {size} bytes is larger than one can be in a message")
        self.out.append(head + _varint(size) + tail)
        if size < LARGE_BUFFER:
            self.out.append(view.tobytes())
        else:
            self.large.append(len(self.out))
            self.out.append(data if type(data) is bytes else _as_bytes(view))


def _as_bytes(view: memoryview) -> memoryview | bytes:
    try:
        return view.cast("B")
    except (TypeError, ValueError):
        # Not contiguous, or of a format that memoryview does not know, such as a half float.
        return view.tobytes()


def _index(name: str) -> int | None:
    """The index that a property's name is, if it is one."""
    if len(name) > 10 or not name.isdecimal() or not name.isascii():
        return None
    index = int(name)
    return index if index < _MAX_LENGTH and (name[0] != "0" or name == "0") else None


def _property_name(key: Any) -> str:
    try:
        return property_name(key)
    except (TypeError, ValueError) as error:
        raise _Refused(str(error), inside=True) from None


def _where(steps: list[tuple[Any, Any]]) -> str:
    return path([_step(source, key) for source, key in steps if source is not None])


def _step(source: Any, key: Any) -> str:
    if isinstance(source, Map):
        return f".get({key!r})"
    if isinstance(source, (list, tuple, SparseArray)):
        index = key if isinstance(key, int) else _index(key)
        return property_step(key) if index is None else index_step(index)
    return property_step(key)


def _stand_in(writer: _Writer, value: Any) -> _Container:
    """A value that is written in the place of another."""
    writer.hold(value)
    return _Container(iter(((None, value),)), False, b"", None)


def _write_undefined(writer: _Writer, item: Any) -> None:
    writer.out.append(b"_")


def _write_str(writer: _Writer, item: str) -> None:
    writer.string(str.__str__(item))


def _write_int(writer: _Writer, item: int) -> None:
    writer.integer(int(item))


def _write_bigint(writer: _Writer, item: BigInt) -> None:
    writer.bigint(b"Z", item)


def _write_float(writer: _Writer, item: float) -> None:
    writer.out.append(_TAGGED_DOUBLE.pack(b"N", item))


def _write_boxed(writer: _Writer, item: Boxed) -> None:
    if writer.mentioned(item):
        return
    value = item.value
    if isinstance(value, bool):
        writer.out.append(b"y" if value else b"x")
    elif isinstance(value, str):
        writer.out.append(b"s")
        writer.string(value)
    elif isinstance(value, BigInt) or (isinstance(value, int) and abs(value) > MAX_SAFE_INTEGER):
        writer.bigint(b"z", value)
    else:
        writer.out.append(_TAGGED_DOUBLE.pack(b"n", value))


def _write_datetime(writer: _Writer, item: datetime.datetime) -> None:
    if not writer.mentioned(item):
        # A naive datetime is local time, as everywhere in Python.
        moment = item if item.tzinfo is not None else item.astimezone()
        writer.out.append(_TAGGED_DOUBLE.pack(b"D", (moment - _EPOCH) // _MILLISECOND))


def _write_date(writer: _Writer, item: JSDate) -> None:
    if not writer.mentioned(item):
        writer.out.append(_TAGGED_DOUBLE.pack(b"D", item.milliseconds))


def _write_iso(writer: _Writer, item: datetime.date | datetime.time) -> None:
    writer.string(item.isoformat())


def _write_uuid(writer: _Writer, item: uuid.UUID) -> None:
    writer.string(str(item))


def _write_regexp(writer: _Writer, item: RegExp) -> None:
    if not writer.mentioned(item):
        writer.out.append(b"R")
        writer.string(item.source)
        writer.out.append(_varint(sum(map(_FLAGS.__getitem__, item.flags))))


def _write_key(writer: _Writer, item: JSKey) -> _Container:
    return _stand_in(writer, item.value)


def _write_enum(writer: _Writer, item: enum.Enum) -> _Container:
    return _stand_in(writer, item.value)


def _write_integral(writer: _Writer, item: Integral) -> None:
    writer.integer(int(item))


def _write_real(writer: _Writer, item: Real) -> None:
    writer.out.append(_TAGGED_DOUBLE.pack(b"N", float(item)))


# containers


def _write_object(writer: _Writer, item: Mapping[Any, Any]) -> _Container | None:
    return None if writer.mentioned(item) else _object(writer, dict(item.items()))


def _write_dataclass(writer: _Writer, item: Any) -> _Container | None:
    if writer.mentioned(item):
        return None
    fields = dataclasses.fields(item)
    return _object(writer, {field.name: getattr(item, field.name) for field in fields})


def _object(writer: _Writer, properties: dict[Any, Any]) -> _Container:
    writer.hold(properties)
    writer.out.append(b"o")
    return _Container(iter(properties.items()), True, b"{" + _varint(len(properties)), properties)


def _write_list(writer: _Writer, item: list[Any]) -> _Container | None:
    if writer.mentioned(item):
        return None
    elements = list(item)
    writer.hold(elements)
    return _array(writer, elements)


def _write_tuple(writer: _Writer, item: tuple[Any, ...]) -> _Container | None:
    if not item:
        # There is one empty tuple in all of Python: it says nothing of what is shared.
        writer.unmentioned()
    elif writer.mentioned(item):
        return None
    return _array(writer, item)


def _array(writer: _Writer, elements: list[Any] | tuple[Any, ...]) -> _Container:
    length = _varint(len(elements))
    writer.out.append(b"A" + length)
    return _Container(enumerate(elements), False, b"$\x00" + length, elements)


def _write_js_array(writer: _Writer, item: JSArray[Any]) -> _Container | None:
    if writer.mentioned(item):
        return None
    properties = _properties(item.properties)
    holes = {hole for hole in item.holes if 0 <= hole < len(item) and item[hole] is undefined}
    if holes:
        # As V8 does: what has holes is written by index.
        present = {index: each for index, each in enumerate(item) if index not in holes}
        return _by_index(writer, item, len(item), present, properties)
    elements: list[tuple[Any, Any]] = list(enumerate(item))
    for name, value in properties.items():
        # Names are strings like any other.
        elements += (name, name), (name, value)
    writer.hold(elements)
    length = _varint(len(item))
    writer.out.append(b"A" + length)
    return _Container(iter(elements), False, b"$" + _varint(len(properties)) + length, item)


def _write_sparse_array(writer: _Writer, item: SparseArray[Any]) -> _Container | None:
    if writer.mentioned(item):
        return None
    length = item.length
    if not 0 <= length <= _MAX_LENGTH:
        raise _Refused(f"a length of {length} is none that an array can have")
    for index in item:
        if not (isinstance(index, int) and 0 <= index < length):
            raise _Refused(f"{index!r} is no index in an array with a length of {length}")
    present = {index: item[index] for index in sorted(item)}
    return _by_index(writer, item, length, present, _properties(item.properties))


def _properties(given: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of an array, which may be no elements."""
    properties: dict[str, Any] = {}
    for key, value in given.items():
        name = _property_name(key)
        if name == "length" or _index(name) is not None or name in properties:
            raise _Refused(f"the property {name!r} is an element, the length, or there twice")
        properties[name] = value
    return properties


def _by_index(
    writer: _Writer,
    source: JSArray[Any] | SparseArray[Any],
    length: int,
    elements: dict[int, Any],
    properties: dict[str, Any],
) -> _Container:
    pairs = [(str(index), value) for index, value in elements.items()]
    pairs += properties.items()
    writer.hold(pairs)
    counts = _varint(len(pairs)) + _varint(length)
    writer.out.append(b"a" + _varint(length))
    return _Container(iter(pairs), True, b"@" + counts, source)


def _write_map(writer: _Writer, item: Map[Any, Any]) -> _Container | None:
    if writer.mentioned(item):
        return None
    writer.out.append(b";")
    return _Container(_entries(item), False, b":" + _varint(2 * len(item)), item)


def _entries(item: Map[Any, Any]) -> Iterator[tuple[Any, Any]]:
    for key, value in item.items():
        key = key.value if type(key) is JSKey else key
        yield key, key
        yield key, value


def _write_set(writer: _Writer, item: AbstractSet[Any]) -> _Container | None:
    members = [each.value if type(each) is JSKey else each for each in item]
    if not members and isinstance(item, frozenset):
        # Of the empty one there is only one, too.
        writer.unmentioned()
    elif writer.mentioned(item):
        return None
    writer.hold(members)
    writer.out.append(b"'")
    return _Container(enumerate(members), False, b"," + _varint(len(members)), members)


# buffers


def _write_bytes(writer: _Writer, item: bytes | bytearray) -> None:
    if len(item) < 2 and type(item) is bytes:
        # One of those that Python has once.
        writer.unmentioned()
    elif writer.mentioned(item):
        return
    writer.buffer(_view_head(_BUFFER), item)


def _write_array_buffer(writer: _Writer, item: ArrayBuffer) -> None:
    if writer.mentioned(item):
        return
    limit = item.max_byte_length
    if limit is None:
        writer.buffer(b"B", item)
        return
    if not len(item) <= limit <= _MAX_LENGTH:
        raise _Refused(f"an ArrayBuffer of {len(item)} bytes has a max_byte_length of {limit}")
    writer.buffer(b"~", item, _varint(limit))


def _write_data_view(writer: _Writer, item: DataView) -> None:
    if not writer.mentioned(item):
        writer.buffer(_view_head(9), item)


def _write_clamped(writer: _Writer, item: Uint8ClampedArray) -> None:
    if not writer.mentioned(item):
        writer.buffer(_view_head(2), item)


def _write_half_floats(writer: _Writer, item: Float16Array) -> None:
    if len(item) % 2:
        raise _Refused(f"a Float16Array of {len(item)} bytes, which is an odd number")
    if not writer.mentioned(item):
        writer.buffer(_view_head(13), item)


def _view_head(number: int) -> bytes:
    return bytes((0x5C, 0, number))


_SIGNED: Final = {1: 0, 2: 3, 4: 5, 8: 11}
_UNSIGNED: Final = {1: 1, 2: 4, 4: 6, 8: 12}
_FLOATS: Final = {2: 13, 4: 7, 8: 8}


def _write_view(writer: _Writer, item: Any) -> None:
    """A typed array, for anything with a buffer whose items have a fitting format."""
    view = memoryview(item)
    order, letter = view.format[:-1], view.format[-1:]
    if letter in "bhilqn":
        number = _SIGNED.get(view.itemsize)
    elif letter in "BHILQN":
        number = _UNSIGNED.get(view.itemsize)
    else:
        number = _FLOATS.get(view.itemsize) if letter in "efd" else None
    if number is None or len(order) > 1:
        raise _Refused(
            f"{type_name(item)} with items of the format {view.format!r}: "
            "there is no typed array of those"
        )
    if view.ndim != 1:
        raise _Refused(
            f"{type_name(item)} with {view.ndim} dimensions: typed arrays have one; "
            "send it flat, and its shape beside it"
        )
    # Node before 16 has no numbers for these two. Its V8 reads them in V8's own form, which is an
    # ArrayBuffer and a view of that, and so does every later one.
    native = number in (11, 12) and writer.out[0] == _HEADERS[_OLDEST]
    if native and id(item) not in writer.numbers:
        writer.unmentioned()
    if writer.mentioned(item):
        return
    data: Any = item
    if order in (">", "!") and sys.byteorder == "little" and view.itemsize > 1:
        swapped = array.array({2: "H", 4: "I", 8: "Q"}[view.itemsize], view.tobytes())
        swapped.byteswap()
        data = swapped
        writer.hold(data)
    if not native:
        writer.buffer(_view_head(number), data)
        return
    writer.buffer(b"B", data)
    writer.out.append((b"Vq\x00" if number == 11 else b"VQ\x00") + _varint(view.nbytes))


# errors


def _write_error(writer: _Writer, item: BaseException) -> _Container | None:
    if writer.mentioned(item):
        return None
    cause: Any
    if isinstance(item, JSError):
        name, stack = item.name, item.stack
        message = item.message if item.args else None
        has_cause, cause = "cause" in vars(item), item.cause
    else:
        name, message, stack = _error_name(item), str(item), None
        has_cause, cause = False, None
    if stack is None:
        stack = _stack(item, name, message)
    if not has_cause and item.__cause__ is not None:
        has_cause, cause = True, item.__cause__
    out = writer.out
    # The one order that every Node reads: those up to 20 take any, those since 22 only this.
    out.append(b"r" + _ERROR_TAGS.get(name, b""))
    if message is not None:
        out.append(b"m")
        writer.string(message)
    out.append(b"s")
    writer.string(stack)
    if not has_cause:
        out.append(b".")
        return None
    out.append(b"c")
    return _Container(iter((("cause", cause),)), False, b".", item)


_ERROR_TAGS: Final = {name: bytes((tag,)) for tag, name in _ERROR_NAMES.items()}

_ERROR_KINDS: Final = (
    (TypeError, "TypeError"),
    (SyntaxError, "SyntaxError"),
    (NameError, "ReferenceError"),
    (OverflowError, "RangeError"),
    (IndexError, "RangeError"),
)


def _error_name(error: BaseException) -> str:
    for kind, name in _ERROR_KINDS:
        if isinstance(error, kind):
            return name
    return "Error"


def _stack(error: BaseException, name: str, message: str | None) -> str:
    """The traceback, below a first line as in JavaScript, which names the type."""
    if not isinstance(error, JSError):
        name = type(error).__qualname__
    first = f"{name}: {message}" if message else name
    if error.__traceback__ is None:
        return first
    return "\n".join((first, "".join(traceback.format_exception(error)).rstrip("\n")))


def _resolve(kind: type) -> _Handler:
    """How a value of a type is written that is not itself in the table."""
    # An IntEnum is an int to Python, but its value may be sent otherwise.
    if issubclass(kind, enum.Enum):
        return _write_enum
    for base in kind.__mro__:
        handler = _HANDLERS.get(base)
        if handler is not None:
            return handler
    if dataclasses.is_dataclass(kind):
        return _write_dataclass
    if issubclass(kind, Mapping):
        return _write_object
    if issubclass(kind, AbstractSet):
        return _write_set
    if issubclass(kind, Integral):
        return _write_integral
    # Decimal and Fraction would silently lose what they are used for.
    if issubclass(kind, Real) and kind.__module__ not in ("decimal", "_decimal", "fractions"):
        return _write_real
    return _write_unknown


def _write_unknown(writer: _Writer, item: Any) -> None:
    try:
        view = memoryview(item)
    except (TypeError, ValueError, BufferError):
        raise _Refused(f"{type_name(item)} cannot be sent") from None
    # Scalars of numpy have buffers, too.
    dtype: Any = getattr(item, "dtype", None)
    if view.ndim == 0 and view.format == "?":
        writer.out.append(b"T" if item else b"F")
    elif getattr(dtype, "kind", "") in ("m", "M"):
        raise _Refused(f"{type_name(item)} cannot be sent")
    else:
        _write_view(writer, item)


_HANDLERS: Final[dict[type, _Handler]] = {
    type(undefined): _write_undefined,
    str: _write_str,
    int: _write_int,
    BigInt: _write_bigint,
    float: _write_float,
    Boxed: _write_boxed,
    datetime.datetime: _write_datetime,
    datetime.date: _write_iso,
    datetime.time: _write_iso,
    JSDate: _write_date,
    uuid.UUID: _write_uuid,
    RegExp: _write_regexp,
    JSKey: _write_key,
    dict: _write_object,
    list: _write_list,
    tuple: _write_tuple,
    JSArray: _write_js_array,
    SparseArray: _write_sparse_array,
    Map: _write_map,
    set: _write_set,
    frozenset: _write_set,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    ArrayBuffer: _write_array_buffer,
    DataView: _write_data_view,
    Uint8ClampedArray: _write_clamped,
    Float16Array: _write_half_floats,
    memoryview: _write_view,
    array.array: _write_view,
    BaseException: _write_error,
}


# --------------------------------------------------------------------------------------- reading

_HOLE: Final = object()
_HOST: Final = object()
_ZIGZAG: Final = tuple(number >> 1 ^ -(number & 1) for number in range(128))
_CONSTANTS: Final = {0x30: None, 0x54: True, 0x46: False, 0x5F: undefined}

# Tags, where a number in the code would say nothing.
_STRING: Final = 0x22
_INT32: Final = 0x49
_OBJECT: Final = 0x6F
_OBJECT_END: Final = 0x7B
_DENSE_ARRAY: Final = 0x41
_DENSE_ARRAY_END: Final = 0x24
_SPARSE_ARRAY: Final = 0x61
_NUMBER: Final = 0x4E
_TWO_BYTE_STRING: Final = 0x63
_UTF8_STRING: Final = 0x53
_HOST_OBJECT: Final = 0x5C
_VIEW: Final = 0x56
_MAP: Final = 0x3B
_SET: Final = 0x27
_ERROR: Final = 0x72
_HOLE_TAG: Final = 0x2D
# No tag: a dense array in which a hole was read.
_HOLEY_ARRAY: Final = 0x141

# Larger frames are not held a second time as text.
_MAX_TEXT: Final = 2**20

# So many holes a message may have besides one for each of its bytes, before its arrays become
# SparseArrays: a few bytes can ask for 2**32.
_MAX_HOLES: Final = 2**16


def decode(frame: bytes | bytearray | memoryview) -> Any:
    """The value of one frame.

    A typed array is a read-only memoryview, which shares the memory of a large frame where that
    cannot change. Raises ProtocolError, with the offset, for what is not V8's format.
    """
    kinds: _Kinds = {}
    reader = _Reader(frame, kinds)
    value = reader.read()
    if reader.again:
        # An array turned out to be no plain list after something in it had mentioned it. Now that
        # it is known, it is what it has to be from its beginning.
        value = _Reader(frame, kinds).read()
    return value


_Kinds: TypeAlias = "dict[int, type[JSArray[Any] | SparseArray[Any]]]"


class _Unreadable(Exception):
    """What is wrong with a frame, at the offset where the reader is."""


class _Text:
    """The text of a frame that is too large to be held twice."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data

    def __getitem__(self, part: slice) -> str:
        return str(self._data[part], "latin-1")


class _Reader:
    """Reads one frame."""

    __slots__ = (
        "again",
        "data",
        "holes",
        "kinds",
        "mentioned",
        "objects",
        "size",
        "text",
        "version",
    )

    def __init__(self, frame: bytes | bytearray | memoryview, kinds: _Kinds) -> None:
        data = frame if type(frame) is bytes else memoryview(frame).cast("B")
        size = self.size = len(data)
        self.data: bytes | memoryview
        self.text: str | _Text
        if size > _MAX_TEXT:
            self.data = data
            self.text = _Text(data)
        else:
            self.data = whole = data if type(data) is bytes else bytes(data)
            # One call, and strings are slices.
            self.text = whole.decode("latin-1")
        # Every object by its number.
        self.objects: list[Any] = []
        # The numbers of those that were mentioned, and what some are known to be beforehand.
        self.mentioned: set[int] = set()
        self.kinds = kinds
        self.again = False
        self.holes = _MAX_HOLES + size

    def read(self) -> Any:
        data = self.data
        text = self.text
        objects = self.objects
        kinds = self.kinds
        stack: list[tuple[int, Any, list[Any], Any, int, int]] = []
        # The container that is open: its tag, what it becomes, what was read of it (an object's
        # properties go to it at once), the name that an object's next value has, the number of any
        # other, and how long an array says it is.
        kind = 0
        target: Any = None
        items: list[Any] = []
        key: Any = None
        number = 0
        length = 0
        value: Any
        at = 0
        try:
            if data[0] != 0xFF or not _OLDEST <= data[1] <= _NEWEST_READ:
                raise _Unreadable(_bad_header(data))
            self.version = data[1]
            at = 2
            while True:
                tag = data[at]
                if tag == _STRING:
                    size = data[at + 1]
                    start = at + 2
                    if size >= 0x80:
                        size, start = _read_varint(data, at + 1)
                    at = start + size
                    value = text[start:at]
                elif tag == _INT32:
                    zigzag = data[at + 1]
                    if zigzag < 0x80:
                        at += 2
                        value = _ZIGZAG[zigzag]
                    else:
                        digit = data[at + 2]
                        if digit < 0x80:
                            at += 3
                            zigzag += (digit << 7) - 0x80
                        else:
                            zigzag, at = _read_varint(data, at + 1)
                        value = (zigzag >> 1 & 0x7FFFFFFF) ^ -(zigzag & 1)
                elif tag == _OBJECT:
                    if len(stack) >= MAX_DEPTH:
                        raise _Unreadable(_TOO_DEEP)
                    stack.append((kind, target, items, key, number, length))
                    at += 1
                    kind = _OBJECT
                    target = {}
                    key = None
                    objects.append(target)
                    continue
                elif tag == _OBJECT_END:
                    if kind != _OBJECT or key is not None:
                        raise _Unreadable("the end of an object that is not open")
                    size = data[at + 1]
                    end = at + 2
                    if size >= 0x80:
                        size, end = _read_varint(data, at + 1)
                    if len(target) != size:
                        raise _Unreadable(
                            f"the end of an object with {size} properties, of which "
                            f"{len(target)} different ones were read"
                        )
                    at = end
                    value = target
                    kind, target, items, key, number, length = stack.pop()
                elif tag == _DENSE_ARRAY:
                    size = data[at + 1]
                    start = at + 2
                    if size >= 0x80:
                        size, start = _read_varint(data, at + 1)
                    # Each element takes a byte at least.
                    if size > self.size - start:
                        raise _Unreadable(
                            f"an array of {size} elements, with {self.size - start} bytes left"
                        )
                    if len(stack) >= MAX_DEPTH:
                        raise _Unreadable(_TOO_DEEP)
                    stack.append((kind, target, items, key, number, length))
                    at = start
                    kind = _DENSE_ARRAY
                    length = size
                    number = len(objects)
                    target = kinds[number]() if number in kinds else []
                    items = target
                    objects.append(target)
                    continue
                elif tag == _DENSE_ARRAY_END:
                    if kind == _DENSE_ARRAY and len(items) == length:
                        if length < 0x80 and data[at + 1] == 0 and data[at + 2] == length:
                            at += 3
                        else:
                            at = self.counts(at + 1, 0, length)
                        value = target
                    elif kind in (_DENSE_ARRAY, _HOLEY_ARRAY):
                        at = self.dense_array_end(at + 1, target, number, length)
                        value = objects[number]
                    else:
                        raise _Unreadable("the end of an array that is not open")
                    kind, target, items, key, number, length = stack.pop()
                elif kind == _ERROR and items:
                    # After the cause, tags are an Error's again.
                    if len(items) != 1:
                        raise _Unreadable("an Error with several causes")
                    target.cause = items.pop()
                    if isinstance(target.cause, BaseException):
                        target.__cause__ = target.cause
                    at, ended = self.error(at, target)
                    if not ended:
                        continue
                    value = target
                    kind, target, items, key, number, length = stack.pop()
                elif tag == _NUMBER:
                    value = _DOUBLE.unpack_from(data, at + 1)[0]
                    at += 9
                    if value.is_integer():
                        value = _number(value)
                elif tag in _CONSTANTS:
                    value = _CONSTANTS[tag]
                    at += 1
                elif tag == _HOST_OBJECT and data[at + 1] == 1:
                    # Some native object: its own properties follow, as an object of its own.
                    if data[at + 2] != _OBJECT:
                        raise _Unreadable("a host object without properties")
                    objects.append(_HOST)
                    at += 2
                    continue
                elif tag in _READERS:
                    value, at = _READERS[tag](self, at + 1)
                elif tag in _BEGINNINGS:
                    if len(stack) >= MAX_DEPTH:
                        raise _Unreadable(_TOO_DEEP)
                    size, start = (
                        _read_varint(data, at + 1) if tag == _SPARSE_ARRAY else (0, at + 1)
                    )
                    if size > _MAX_LENGTH:
                        raise _Unreadable(f"an array with a length of {size}")
                    stack.append((kind, target, items, key, number, length))
                    at = start
                    kind = tag
                    number = len(objects)
                    target = (kinds[number] if number in kinds else _BEGINNINGS[tag])()
                    items = []
                    length = size
                    objects.append(target)
                    if tag != _ERROR:
                        continue
                    at, ended = self.error(at, target)
                    if not ended:
                        continue
                    value = target
                    kind, target, items, key, number, length = stack.pop()
                elif tag == _HOLE_TAG:
                    if kind not in (_DENSE_ARRAY, _HOLEY_ARRAY) or len(items) >= length:
                        raise _Unreadable("a hole outside of an array")
                    kind = _HOLEY_ARRAY
                    value = _HOLE
                    at += 1
                elif kind and tag == _ENDS.get(kind):
                    at = self.end(kind, at + 1, target, items, number, length)
                    value = objects[number]
                    kind, target, items, key, number, length = stack.pop()
                elif tag == 0:
                    # Padding.
                    at += 1
                    continue
                else:
                    raise _Unreadable(_unknown(tag))
                # A value was read: it goes into the container.
                if kind != _OBJECT:
                    items.append(value)
                    if not kind:
                        if at == self.size:
                            return value
                        if at < self.size:
                            raise _Unreadable("something after its value")
                elif key is not None:
                    target[key] = value
                    key = None
                elif type(value) is str:
                    key = value
                else:
                    key = _name_of(value)
        except (IndexError, struct_error):
            problem = "it ends too early"
            at = min(at, self.size)
        except _Unreadable as error:
            problem = str(error)
        raise ProtocolError(
            f"the peer sent {self.size} bytes that are not V8's format: {problem}, at byte {at}: "
            + (bytes(data[at : at + 16]).hex(" ") or "the end")
        )

    # ---------------------------------------------------------------------------------- the rest

    def take(self, at: int, size: int) -> int:
        """The offset after ``size`` bytes, if there are so many."""
        if size > self.size - at:
            raise _Unreadable(f"something of {size} bytes, with {max(self.size - at, 0)} left")
        return at + size

    def string(self, at: int) -> tuple[str, int]:
        """A string where nothing else may be."""
        data = self.data
        while data[at] == 0:
            at += 1
        tag = data[at]
        if tag == _STRING:
            size, at = _read_varint(data, at + 1)
            end = self.take(at, size)
            return self.text[at:end], end
        if tag == _TWO_BYTE_STRING:
            return _read_two_byte(self, at + 1)
        if tag == _UTF8_STRING:
            return _read_utf8(self, at + 1)
        raise _Unreadable(f"no string where one must be, but the tag {tag:#04x}")

    def error(self, at: int, target: JSError) -> tuple[int, bool]:
        """Read an Error up to its cause or its end; True for its end."""
        while True:
            tag = self.data[at]
            at += 1
            if tag == 0x6D:
                message, at = self.string(at)
                target.args = (message,)
            elif tag == 0x73:
                target.stack, at = self.string(at)
            elif tag in _ERROR_NAMES:
                target.name = _ERROR_NAMES[tag]
            elif tag == 0x63:
                return at, False
            elif tag == 0x2E:
                return at, True
            else:
                raise _Unreadable(f"an Error with the unknown tag {tag:#04x}")

    def end(
        self, kind: int, at: int, target: Any, items: list[Any], number: int, length: int
    ) -> int:
        """End any container but an object or a dense array."""
        if kind == _SPARSE_ARRAY:
            at = self.counts(at, len(items), length)
            self.sparse_array_end(target, items, number, length)
            return at
        size, at = _read_varint(self.data, at)
        if len(items) != size or (kind == _MAP and size % 2):
            raise _Unreadable(
                f"the end of a Map or Set with {size} keys and values, of which {len(items)} "
                "were read"
            )
        if kind == _SET:
            keys = items
            try:
                if not _has_chosen_hashes(keys):
                    target.update(keys)
            except (TypeError, ValueError):
                target.clear()
            if len(target) != len(keys):
                target.clear()
                target.update(_js_keys(keys))
            return at
        keys = items[::2]
        values = items[1::2]
        try:
            if not _has_chosen_hashes(keys):
                target.update(zip(keys, values, strict=True))
        except (TypeError, ValueError):
            target.clear()
        if len(target) != len(keys):
            target.clear()
            target.update(zip(_js_keys(keys), values, strict=True))
        return at

    def counts(self, at: int, parts: int, length: int) -> int:
        """Check the counts at the end of an array, of whose properties ``parts`` were read.

        Names and values are a part each.
        """
        size, at = _read_varint(self.data, at)
        again, at = _read_varint(self.data, at)
        if size * 2 != parts or again != length:
            rest = " and a name without its value" if parts % 2 else ""
            raise _Unreadable(
                f"the end of an array with {size} properties and a length of {again}, where "
                f"{parts // 2}{rest} were read, and {length} said"
            )
        return at

    def dense_array_end(self, at: int, target: list[Any], number: int, length: int) -> int:
        if len(target) < length:
            raise _Unreadable(
                f"the end of an array of {length} elements, of which {len(target)} were read"
            )
        at = self.counts(at, len(target) - length, length)
        elements, properties = _array_properties(target[length:], length)
        del target[length:]
        for index, value in elements.items():
            target[index] = value
        holes = {index for index, value in enumerate(target) if value is _HOLE}
        for hole in holes:
            target[hole] = undefined
        if holes or properties:
            self.js_array(target, target, number, holes, properties)
        return at

    def sparse_array_end(self, target: Any, items: list[Any], number: int, length: int) -> None:
        if len(items) == 2 * length and _are_indices(items[::2]):
            # To V8, an array that had holes once is sparse for good.
            target += items[1::2]
            return
        elements, properties = _array_properties(items, length)
        missing = length - len(elements)
        if missing > self.holes:
            if not isinstance(target, SparseArray):
                target = SparseArray()
                self.turned_out(number, target)
            target.length = length
            target.update(elements)
            target.properties = properties
            return
        self.holes -= missing
        values = [undefined] * length
        for index, value in elements.items():
            values[index] = value
        if not missing and not properties:
            target += values
            return
        holes = set(range(length)).difference(elements) if missing else set()
        self.js_array(target, values, number, holes, properties)

    def js_array(
        self,
        target: Any,
        elements: list[Any],
        number: int,
        holes: set[int],
        properties: dict[str, Any],
    ) -> None:
        if isinstance(target, JSArray):
            if target is not elements:
                target += elements
        else:
            target = JSArray(elements)
            self.turned_out(number, target)
        target.holes = holes
        target.properties = properties

    def turned_out(self, number: int, value: JSArray[Any] | SparseArray[Any]) -> None:
        """Put another value in the place of one that has its number already."""
        self.objects[number] = value
        if number in self.mentioned:
            self.kinds[number] = type(value)
            self.again = True

    def view(self, type_number: int, at: int, end: int) -> Any:
        """A typed array, DataView or Buffer, as Node numbers them, of bytes of the frame."""
        data = self.data
        if type_number == _BUFFER:
            return bytes(data[at:end])
        if type_number in _VIEW_TYPES:
            if type_number == 13 and (end - at) % 2:
                raise _Unreadable(f"a Float16Array of {end - at} bytes")
            return _VIEW_TYPES[type_number](memoryview(data)[at:end])
        if type_number not in _VIEW_FORMATS:
            raise _Unreadable(f"a view of the unknown type {type_number}")
        view = memoryview(data)[at:end]
        if end - at < LARGE_BUFFER or not view.readonly:
            # A small one would keep the whole frame alive.
            view = memoryview(bytes(view))
        return _cast(view, type_number)


def _cast(view: memoryview, type_number: int) -> memoryview:
    try:
        return cast(memoryview, cast(Any, view).cast(_VIEW_FORMATS[type_number]))
    except TypeError:
        raise _Unreadable(
            f"a typed array of {len(view)} bytes, which is no multiple of its item size"
        ) from None


def _bad_header(data: bytes | memoryview) -> str:
    if data[0] != 0xFF:
        return "it does not begin with V8's header (Bun, for one, has a format of its own)"
    return f"version {data[1]}, which is not one from {_OLDEST} to {_NEWEST_READ}"


def _number(value: float) -> int | float:
    """The Python value of a whole number: an int, but not for what only a double can be."""
    if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER and (value or str(value)[0] != "-"):
        return int(value)
    return value


def _read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    number = data[at]
    at += 1
    if number < 0x80:
        return number, at
    number &= 0x7F
    for shift in range(7, 70, 7):
        digit = data[at]
        at += 1
        number |= (digit & 0x7F) << shift
        if digit < 0x80:
            return number, at
    raise _Unreadable("a number of more than 64 bits")


def _name_of(key: Any) -> str:
    """The name that a key in a frame is."""
    kind: type = type(key)
    if kind is str:
        return cast(str, key)
    if kind is int or kind is float:
        return property_name(key)
    raise _Unreadable(f"the name of a property is a {kind.__name__}")


def _array_properties(items: list[Any], length: int) -> tuple[dict[int, Any], dict[str, Any]]:
    """What stands beside the elements of an array: elements by index, and properties."""
    elements: dict[int, Any] = {}
    properties: dict[str, Any] = {}
    pairs = iter(items)
    for key, value in zip(pairs, pairs, strict=True):
        name = _name_of(key)
        index = _index(name)
        if index is None:
            properties[name] = value
        elif index < length:
            elements[index] = value
        else:
            raise _Unreadable(f"the element {index} of an array with a length of {length}")
    if len(elements) + len(properties) != len(items) // 2:
        raise _Unreadable("an array with a property that is there twice")
    return elements, properties


def _are_indices(keys: list[Any]) -> bool:
    return all(type(key) is int and key == index for key, index in zip(keys, count()))


# A dict compares keys one by one where their hashes are the same, and past this Python's hash of
# an integer can be chosen by whoever sends it.
_CHOSEN_HASH_BITS: Final = 60
_MAX_CHOSEN_HASHES: Final = 64


def _has_chosen_hashes(keys: list[Any]) -> bool:
    return len(keys) > _MAX_CHOSEN_HASHES and (
        sum(type(key) is BigInt and key.bit_length() > _CHOSEN_HASH_BITS for key in keys)
        > _MAX_CHOSEN_HASHES
    )


def _js_keys(keys: list[Any]) -> list[Any]:
    """The same keys, in a JSKey where a dict or set cannot hold them as they are."""
    wrap_large = _has_chosen_hashes(keys)
    times: dict[Any, int] = {}
    for key in keys:
        if not (wrap_large and type(key) is BigInt):
            try:
                times[key] = times.get(key, 0) + 1
            except (TypeError, ValueError):
                # Of memoryviews, only some have a hash.
                continue
    result: list[Any] = []
    for key in keys:
        try:
            wrap = (wrap_large and type(key) is BigInt) or times[key] > 1
        except (TypeError, ValueError):
            wrap = True
        result.append(JSKey(key) if wrap else key)
    return result


# What reads the rest of a value after its tag, and gives the value and the next offset.
_ValueReader: TypeAlias = Callable[[_Reader, int], tuple[Any, int]]


def _read_uint32(reader: _Reader, at: int) -> tuple[int, int]:
    number, at = _read_varint(reader.data, at)
    return number & 0xFFFFFFFF, at


def _read_bigint(reader: _Reader, at: int) -> tuple[BigInt, int]:
    bits, at = _read_varint(reader.data, at)
    end = reader.take(at, bits >> 1)
    number = int.from_bytes(reader.data[at:end], "little")
    return BigInt(-number if bits & 1 else number), end


def _read_two_byte(reader: _Reader, at: int) -> tuple[str, int]:
    size, at = _read_varint(reader.data, at)
    end = reader.take(at, size)
    if size % 2:
        raise _Unreadable(f"a two-byte string of {size} bytes")
    return str(reader.data[at:end], "utf-16-le", "surrogatepass"), end


def _read_utf8(reader: _Reader, at: int) -> tuple[str, int]:
    size, at = _read_varint(reader.data, at)
    end = reader.take(at, size)
    # V8 has U+FFFD in the place of what is no UTF-8.
    return str(reader.data[at:end], "utf-8", "replace"), end


def _read_reference(reader: _Reader, at: int) -> tuple[Any, int]:
    number, at = _read_varint(reader.data, at)
    objects = reader.objects
    if number < len(objects) and objects[number] is _HOST:
        # The object that stands for it comes next.
        number += 1
    if number >= len(objects):
        raise _Unreadable(f"a reference to object {number} of {len(objects)}")
    reader.mentioned.add(number)
    value = objects[number]
    return _view_of(reader, at, value) if isinstance(value, ArrayBuffer) else (value, at)


def _read_date(reader: _Reader, at: int) -> tuple[datetime.datetime | JSDate, int]:
    time: float = _DOUBLE.unpack_from(reader.data, at)[0]
    date: datetime.datetime | JSDate
    if not -_MAX_TIME <= time <= _MAX_TIME:
        date = JSDate(float("nan"))
    elif _FIRST_TIME <= (time := trunc(time)) <= _LAST_TIME:
        date = _EPOCH + datetime.timedelta(milliseconds=time)
    else:
        date = JSDate(float(time))
    reader.objects.append(date)
    return date, at + 8


def _boxed(reader: _Reader, value: bool | int | float | str) -> Boxed:
    boxed = Boxed(value)
    reader.objects.append(boxed)
    return boxed


def _read_true_object(reader: _Reader, at: int) -> tuple[Boxed, int]:
    return _boxed(reader, True), at


def _read_false_object(reader: _Reader, at: int) -> tuple[Boxed, int]:
    return _boxed(reader, False), at


def _read_number_object(reader: _Reader, at: int) -> tuple[Boxed, int]:
    number: float = _DOUBLE.unpack_from(reader.data, at)[0]
    return _boxed(reader, _number(number) if number.is_integer() else number), at + 8


def _read_bigint_object(reader: _Reader, at: int) -> tuple[Boxed, int]:
    number, at = _read_bigint(reader, at)
    return _boxed(reader, number), at


def _read_string_object(reader: _Reader, at: int) -> tuple[Boxed, int]:
    text, at = reader.string(at)
    return _boxed(reader, text), at


def _read_regexp(reader: _Reader, at: int) -> tuple[RegExp, int]:
    source, at = reader.string(at)
    bits, at = _read_varint(reader.data, at)
    flags = "".join(flag for flag, bit in _FLAGS.items() if bits & bit)
    if bits & ~sum(_FLAGS.values()) or ("u" in flags and "v" in flags):
        raise _Unreadable(f"a RegExp with the flags {bits:#x}")
    regexp = RegExp(source, flags)
    reader.objects.append(regexp)
    return regexp, at


def _read_array_buffer(reader: _Reader, at: int) -> tuple[Any, int]:
    size, at = _read_varint(reader.data, at)
    return _array_buffer(reader, at, size, None)


def _read_resizable_array_buffer(reader: _Reader, at: int) -> tuple[Any, int]:
    size, at = _read_varint(reader.data, at)
    limit, at = _read_varint(reader.data, at)
    if size > limit:
        raise _Unreadable(f"an ArrayBuffer of {size} bytes that may have {limit}")
    return _array_buffer(reader, at, size, limit)


def _array_buffer(reader: _Reader, at: int, size: int, limit: int | None) -> tuple[Any, int]:
    end = reader.take(at, size)
    buffer = ArrayBuffer(memoryview(reader.data)[at:end], limit)
    reader.objects.append(buffer)
    return _view_of(reader, end, buffer)


def _view_of(reader: _Reader, at: int, buffer: ArrayBuffer) -> tuple[Any, int]:
    """The view of an ArrayBuffer that comes right after it, or else the ArrayBuffer."""
    data = reader.data
    if at >= reader.size or data[at] != _VIEW:
        return buffer, at
    letter, at = _read_varint(data, at + 1)
    start, at = _read_varint(data, at)
    size, at = _read_varint(data, at)
    if reader.version >= 14:
        # Flags of resizable ArrayBuffers: whether the view grows with it.
        _, at = _read_varint(data, at)
    number = _NATIVE_VIEWS.get(letter)
    if number is None:
        raise _Unreadable(f"a view of the unknown type {letter:#x}")
    if start + size > len(buffer):
        raise _Unreadable(f"a view of bytes {start} to {start + size} of {len(buffer)}")
    view: Any = memoryview(buffer).toreadonly()[start : start + size]
    view = _VIEW_TYPES[number](view) if number in _VIEW_TYPES else _cast(view, number)
    reader.objects.append(view)
    return view, at


def _read_host_object(reader: _Reader, at: int) -> tuple[Any, int]:
    data = reader.data
    kind, at = _read_varint(data, at)
    if kind != 0:
        raise _Unreadable(f"a host object of the unknown kind {kind}")
    number, at = _read_varint(data, at)
    size, at = _read_varint(data, at)
    end = reader.take(at, size)
    view = reader.view(number, at, end)
    reader.objects.append(view)
    return view, end


_READERS: Final[dict[int, _ValueReader]] = {
    ord(tag): reader
    for tag, reader in {
        "U": _read_uint32,
        "Z": _read_bigint,
        "c": _read_two_byte,
        "S": _read_utf8,
        "^": _read_reference,
        "D": _read_date,
        "y": _read_true_object,
        "x": _read_false_object,
        "n": _read_number_object,
        "z": _read_bigint_object,
        "s": _read_string_object,
        "R": _read_regexp,
        "B": _read_array_buffer,
        "~": _read_resizable_array_buffer,
        "\\": _read_host_object,
    }.items()
}

_BEGINNINGS: Final[dict[int, Callable[[], Any]]] = {
    _SPARSE_ARRAY: list,
    _MAP: Map,
    _SET: set,
    _ERROR: JSError,
}
_ENDS: Final = {_SPARSE_ARRAY: ord("@"), _MAP: ord(":"), _SET: ord(",")}

_REFUSED_TAGS: Final = {
    ord("t"): "an ArrayBuffer that was transferred",
    ord("u"): "a SharedArrayBuffer",
    ord("p"): "an object shared between threads",
    ord("w"): "a WebAssembly.Module",
    ord("m"): "a WebAssembly.Memory",
}


def _unknown(tag: int) -> str:
    if tag in _REFUSED_TAGS:
        return f"{_REFUSED_TAGS[tag]}, which cannot leave its process"
    return f"the unknown tag {tag:#04x}, or one that has no place here"
