"""Waking a thread that is in ``poll``."""

from __future__ import annotations

import contextlib
import os
from typing import final

__all__ = ["Wakeup"]


@final
class Wakeup:
    """A descriptor that one thread polls and any other makes readable."""

    __slots__ = ("_read", "_write")

    def __init__(self) -> None:
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
            os.set_blocking(self._write, False)

    def fileno(self) -> int:
        """The descriptor to poll for readability."""
        return self._read

    def set(self) -> None:
        """Make the descriptor readable."""
        with contextlib.suppress(BlockingIOError):  # It is full of wake-ups already.
            os.write(self._write, (1).to_bytes(8, "little"))

    def clear(self) -> None:
        """Make the descriptor wait again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)

    def close(self) -> None:
        """Close it."""
        os.close(self._read)
        if self._write != self._read:
            os.close(self._write)
