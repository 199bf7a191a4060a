"""Names of properties, types and places in a message, as error messages show them."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

__all__ = ["index_step", "number_name", "path", "property_name", "property_step", "type_name"]


def path(steps: Sequence[str]) -> str:
    """Where a value is, as JavaScript would write it: ``message.users[3].name``."""
    parts = ["message", *steps]
    if len(parts) > 24:
        parts[12:-8] = [f"…({len(parts) - 20} levels)…"]
    return "".join(parts)


def index_step(index: int) -> str:
    """The step into an element of an array."""
    return f"[{index}]"


def property_step(key: Any) -> str:
    """The step into a property of an object."""
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def property_name(key: Any) -> str:
    """The name of the property that a key of a ``dict`` becomes, as ``String(key)`` has it.

    Raises TypeError for a key that is neither a string nor has a form as one, ValueError for an
    integer of more digits than Python converts.
    """
    if isinstance(key, enum.Enum) and isinstance(key.value, (str, int, float)):
        key = key.value
    if isinstance(key, str):
        return str.__str__(key)
    if key is None:
        return "null"
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, (int, float)) and not isinstance(key, enum.Enum):
        return number_name(key)
    if isinstance(key, uuid.UUID):
        return str(key)
    raise TypeError(f"the key {key!r} is a {type_name(key)}, not a string")


def number_name(key: int | float) -> str:
    """``String(number)``: the name of the property that a number becomes."""
    if isinstance(key, int):
        try:
            return int.__repr__(key)
        except ValueError as error:
            raise ValueError(f"an integer is too large: {error}") from None
    if key != key:
        return "NaN"
    if key in (float("inf"), float("-inf")):
        return "Infinity" if key > 0 else "-Infinity"
    if not key:
        return "0"
    digits = float.__repr__(key).removesuffix(".0")
    if "e" not in digits:
        return digits
    # Python turns to exponents below 1e-4 and from 1e16 on, JavaScript below 1e-6 and from 1e21 on.
    if 1e-6 <= abs(key) < 1e21:
        return f"{Decimal(digits):f}"
    mantissa, _, exponent = digits.partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"


def type_name(value: Any) -> str:
    """The type of a value, with its module unless that is ``builtins``."""
    kind = type(value)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
