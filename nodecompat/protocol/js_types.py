"""JavaScript values that Python has no type for.

Each says in its docstring what it stands for. They are what ``decode`` of the V8 codec gives where
a plain Python value would lose something, and what a program may send to have exactly that value
arrive on the other side.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from reprlib import recursive_repr
from typing import Any, Final, TypeVar, final

__all__ = [
    "MAX_SAFE_INTEGER",
    "ArrayBuffer",
    "BigInt",
    "Boxed",
    "DataView",
    "Float16Array",
    "JSArray",
    "JSDate",
    "JSError",
    "JSKey",
    "Map",
    "RegExp",
    "SparseArray",
    "Uint8ClampedArray",
    "Undefined",
    "undefined",
]

_K = TypeVar("_K")
_V = TypeVar("_V")
_T = TypeVar("_T")

MAX_SAFE_INTEGER: Final = 2**53 - 1
"""``Number.MAX_SAFE_INTEGER``: beyond it a JavaScript number is not an exact integer."""


@final
class Undefined:
    """The type of ``undefined``: one value, falsy, equal to itself alone."""

    __slots__ = ()
    _instance: Undefined | None = None

    def __new__(cls) -> Undefined:
        if cls._instance is None:
            cls._instance = super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "undefined"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "undefined"


undefined: Final = Undefined()


# ----------------------------------------------------------------------------- primitives, boxes


class BigInt(int):
    """A bigint: an ``int`` in every respect, but sent as a bigint however small it is.

    What is computed from it is a plain ``int``.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"BigInt({int.__repr__(self)})"

    __str__ = int.__repr__


@dataclass(frozen=True, slots=True)
class Boxed:
    """A primitive in an object, such as ``new Number(5)``; ``value`` is the primitive.

    Raises TypeError for a value that cannot be boxed.
    """

    value: bool | int | float | str

    def __post_init__(self) -> None:
        if not isinstance(self.value, (bool, int, float, str)):
            raise TypeError(f"a {type(self.value).__name__} is no primitive that can be boxed")

    def __repr__(self) -> str:
        return f"Boxed({self.value!r})"

    def __str__(self) -> str:
        return str(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __float__(self) -> float:
        return float(self.value)

    # In Python True == 1 == 1.0; new Boolean(true) and new Number(1) are different things.

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Boxed):
            return NotImplemented
        return _is_same(self.value, other.value)

    def __hash__(self) -> int:
        return hash((Boxed, _token(self.value)))


@dataclass(frozen=True, slots=True)
class JSDate:
    """A Date that ``datetime`` cannot hold: invalid, or before the year 1 or after 9999.

    ``milliseconds`` counts from 1970, as ``Date.prototype.getTime`` does; NaN is an invalid Date.
    """

    milliseconds: float

    @property
    def valid(self) -> bool:
        """Whether this is a point in time at all."""
        return self.milliseconds == self.milliseconds

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JSDate):
            return NotImplemented
        if not self.valid:
            return not other.valid
        return self.milliseconds == other.milliseconds

    def __hash__(self) -> int:
        return hash((JSDate, self.milliseconds if self.valid else None))


_REGEXP_FLAGS: Final = "dgimsuvy"
# Classes and escapes are matched so that what stands in them is left alone.
_NAMED_GROUP: Final = re.compile(
    r"\[(?:\\.|[^\]\\])*\]|\\k<(?P<back>\w+)>|\\.|(?P<group>\(\?<(?![=!]))", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class RegExp:
    """A regular expression: its source, and its flags in the order of the alphabet.

    Raises ValueError for flags that JavaScript does not have.
    """

    source: str
    flags: str = ""

    def __post_init__(self) -> None:
        flags = "".join(sorted(self.flags))
        if any(flag not in _REGEXP_FLAGS for flag in flags) or len(set(flags)) != len(flags):
            raise ValueError(f"{self.flags!r} are no flags of a JavaScript regular expression")
        if "u" in flags and "v" in flags:
            raise ValueError("the flags u and v exclude each other")
        object.__setattr__(self, "flags", flags)
        if not self.source:
            # What JavaScript makes of none, since // is no expression there.
            object.__setattr__(self, "source", "(?:)")

    def __str__(self) -> str:
        return f"/{self.source}/{self.flags}"

    def compile(self) -> re.Pattern[str]:
        """The same as a pattern of Python's, as far as the two languages agree.

        Named groups are rewritten, the flags i, m and s kept; d, g and y say how JavaScript
        searches and have no effect, nor have u and v. Raises ``re.error`` for what Python lacks.
        """
        flags = 0
        for flag, meaning in (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL)):
            if flag in self.flags:
                flags |= meaning
        return re.compile(_NAMED_GROUP.sub(_python_group, self.source), flags)


def _python_group(match: re.Match[str]) -> str:
    if match["back"]:
        return f"(?P={match['back']})"
    return "(?P<" if match["group"] else match[0]


# ------------------------------------------------------------------------------------ containers


def _token(value: Any) -> Any:
    """What a primitive is told by as a JavaScript key, or None for everything else.

    Whoever sends numbers can choose those whose hashes collide, once they are past the modulus of
    Python's hash; text is safe from that.
    """
    kind: type = type(value)
    if kind is BigInt:
        return kind, (hex(value) if value.bit_length() > 60 else int(value))
    if kind is int or kind is float:
        return float, ("NaN" if value != value else value)
    if kind is bool or kind is str:
        return kind, value
    return None


def _is_same(one: Any, other: Any) -> bool:
    token = _token(one)
    return one is other if token is None else bool(token == _token(other))


@final
class JSKey:
    """A key of a Map or member of a Set that could not stand in a ``dict`` or ``set`` itself.

    JavaScript tells keys apart by identity where they are objects, and 1 from true where they are
    not. So an array or object as a key, which has no hash here, is wrapped in this, and so is each
    of several keys that Python holds for equal, such as 1 and True. ``value`` is the key proper.
    Two are equal when JavaScript would hold their values for the same key.
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"JSKey({self.value!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, JSKey):
            return NotImplemented
        return _is_same(self.value, other.value)

    def __hash__(self) -> int:
        token = _token(self.value)
        return hash((JSKey, id(self.value) if token is None else token))

    def __reduce__(self) -> tuple[type[JSKey], tuple[Any]]:
        return JSKey, (self.value,)


class Map(dict[_K, _V]):
    """A Map: a ``dict``, but sent as a Map and not as an object, with keys of any type.

    Keys that a ``dict`` cannot hold, or not beside each other, are wrapped in JSKey.
    """

    __slots__ = ()

    @recursive_repr("Map(...)")
    def __repr__(self) -> str:
        return f"Map({dict.__repr__(self)})"

    def copy(self) -> Map[_K, _V]:
        """A shallow copy, as ``dict.copy`` makes."""
        return Map(self)


class JSArray(list[_T]):
    """An array with more to it than its elements: a ``list`` that remembers holes and properties.

    ``holes`` has the indices of the holes, where the list itself has ``undefined``; an index at
    which something else is put is a hole no more. ``properties`` are those that are no elements.
    Equal to a list with the same elements, and to a JSArray when all three are the same.
    """

    __slots__ = ("holes", "properties")

    def __init__(
        self,
        elements: Iterable[_T] = (),
        *,
        holes: Iterable[int] = (),
        properties: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> None:
        super().__init__(elements)
        self.holes: set[int] = set(holes)
        self.properties: dict[str, Any] = dict(properties)

    @recursive_repr("JSArray(...)")
    def __repr__(self) -> str:
        parts = [list.__repr__(self)]
        if self.holes:
            parts.append(f"holes={sorted(self.holes)}")
        if self.properties:
            parts.append(f"properties={self.properties!r}")
        return f"JSArray({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, JSArray) and not (
            self.holes == other.holes and self.properties == other.properties
        ):
            return False
        return list.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __copy__(self) -> JSArray[_T]:
        return self.copy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        # An array may be in itself: its elements come after it.
        return type(self), (), (self.holes, self.properties), iter(self)

    def __setstate__(self, state: tuple[set[int], dict[str, Any]]) -> None:
        self.holes, self.properties = state

    def copy(self) -> JSArray[_T]:
        """A shallow copy, holes and properties included."""
        return JSArray(self, holes=self.holes, properties=self.properties)


class SparseArray(dict[int, _V]):
    """An array with too many holes to be a ``list``: its elements by index.

    ``length`` is the array's, ``properties`` are those that are no elements.
    """

    __slots__ = ("length", "properties")

    def __init__(
        self,
        length: int = 0,
        elements: Mapping[int, _V] | Iterable[tuple[int, _V]] = (),
        *,
        properties: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
    ) -> None:
        super().__init__(elements)
        self.length = length
        self.properties: dict[str, Any] = dict(properties)

    @recursive_repr("SparseArray(...)")
    def __repr__(self) -> str:
        parts = [str(self.length), dict.__repr__(self)]
        if self.properties:
            parts.append(f"properties={self.properties!r}")
        return f"SparseArray({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        # To a dict, or it would be equal to the elements alone.
        return (
            isinstance(other, SparseArray)
            and self.length == other.length
            and self.properties == other.properties
            and dict.__eq__(self, other)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __copy__(self) -> SparseArray[_V]:
        return self.copy()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (self.length,), self.properties, None, iter(self.items())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.properties = state

    def copy(self) -> SparseArray[_V]:
        """A shallow copy, length and properties included."""
        return SparseArray(self.length, self, properties=self.properties)


# ----------------------------------------------------------------------------------------- bytes


class _Bytes(bytearray):
    # A bytearray is what these are to Python: bytes that can be changed, compared, unpacked with
    # struct, and handed to whatever takes a buffer.

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({bytes(self)!r})"

    __str__ = __repr__


class ArrayBuffer(_Bytes):
    """An ArrayBuffer: a ``bytearray``, but sent as an ArrayBuffer and not as a Buffer.

    ``max_byte_length`` is that of a resizable one, in bytes, and None for all others.
    """

    __slots__ = ("max_byte_length",)

    def __init__(
        self, data: bytes | bytearray | memoryview | int = b"", max_byte_length: int | None = None
    ) -> None:
        super().__init__(data)
        self.max_byte_length = max_byte_length

    def __repr__(self) -> str:
        if self.max_byte_length is None:
            return super().__repr__()
        return f"ArrayBuffer({bytes(self)!r}, max_byte_length={self.max_byte_length})"

    __str__ = __repr__

    def __reduce_ex__(self, protocol: Any) -> Any:
        return type(self), (bytes(self), self.max_byte_length)


class DataView(_Bytes):
    """A DataView: a ``bytearray``, for ``struct.unpack_from`` and ``pack_into``."""

    __slots__ = ()


class Uint8ClampedArray(_Bytes):
    """A Uint8ClampedArray, which ``memoryview`` has no format for: a ``bytearray``."""

    __slots__ = ()


class Float16Array(_Bytes):
    """A Float16Array, which ``memoryview`` cannot read: a ``bytearray`` of two bytes an item."""

    __slots__ = ()

    def tolist(self) -> list[float]:
        """The numbers in it."""
        return list(struct.unpack(f"<{len(self) // 2}e", self))


# ---------------------------------------------------------------------------------------- errors


_ABSENT: Final = object()


class JSError(Exception):
    """An Error of JavaScript's; it can be raised, and compares by identity like any exception.

    ``name`` is one of Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError and
    URIError: V8's format carries no other, nor properties such as ``code``. ``stack`` is None
    where there is none, ``cause`` ``undefined``.
    """

    name: str
    stack: str | None = None
    cause: Any = undefined

    # An Error without a message, or without a cause, is not one with an empty one. What is not
    # there is not in self.args, or not in vars(self): so pickle and copy keep it as it is.

    def __init__(
        self,
        message: str | None = None,
        *,
        name: str = "Error",
        stack: str | None = None,
        cause: Any = _ABSENT,
    ) -> None:
        super().__init__(*(() if message is None else (message,)))
        self.name = name
        if stack is not None:
            self.stack = stack
        if cause is not _ABSENT:
            self.cause = cause
            if isinstance(cause, BaseException):
                self.__cause__ = cause

    @property
    def message(self) -> str:
        """The message, "" where there is none."""
        return self.args[0] if self.args else ""

    def __str__(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name

    @recursive_repr("JSError(...)")
    def __repr__(self) -> str:
        parts = [repr(each) for each in self.args]
        if self.name != "Error":
            parts.append(f"name={self.name!r}")
        if "cause" in vars(self):
            parts.append(f"cause={self.cause!r}")
        return f"JSError({', '.join(parts)})"
