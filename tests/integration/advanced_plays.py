"""What Python does in the tests of advanced mode, on whichever side and in whichever way in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from tests.v8_cases import CASES, same

_CASES: Final = {case.id: case for case in CASES}


def answer(message: Any) -> list[Any]:
    """The answer of a child of js-fixtures/advanced-values.cjs."""
    id, value = message
    case = _CASES[id]
    expected = case.make()
    problem = None if same(value, expected) else f"arrived as {value!r}, expected {expected!r}"
    return [id, problem] if case.one_way else [id, problem, value, expected]


def made(size: int) -> bytes:
    """The Buffer of js-fixtures/advanced-large.cjs, of a multiple of 4096 bytes."""
    data = bytearray(size)
    for at in range(0, size, 4096):
        data[at : at + 4] = at.to_bytes(4, "little")
    return bytes(data)


def peak_memory() -> int:
    """The most memory that this process had at once, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024
