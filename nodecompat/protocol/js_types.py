"""JavaScript values that Python has no type for."""

from __future__ import annotations

from typing import Final, final

__all__ = ["MAX_SAFE_INTEGER", "Undefined", "undefined"]

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
