"""The lock around a channel that several threads use."""

from __future__ import annotations

import threading
from typing import final

__all__ = ["ChannelLock"]


@final
class ChannelLock:
    """A lock that refuses its own holder, where a plain one would hang for ever.

    That happens when a signal handler uses a channel in whose call it has interrupted the same
    thread. Serves ``threading.Condition`` as well.
    """

    __slots__ = ("_held", "_lock")

    def __init__(self) -> None:
        # Reentrant, because only such a lock knows its holder from the very moment it is taken.
        self._lock = threading.RLock()
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As ``threading.Lock.acquire``; RuntimeError when this thread has the lock."""
        if not self._lock.acquire(blocking, timeout):
            return False
        if self._held:
            self._lock.release()
            raise RuntimeError(
                "this call has interrupted another call on the same channel, in the same thread "
                "(from a signal handler?): set a flag there, and send when the other call is over"
            )
        self._held = True
        return True

    def acquire_unless_held(self, timeout: float) -> bool:
        """Acquire it within ``timeout`` seconds; False after them, and where this thread has it."""
        if not self._lock.acquire(timeout=timeout):
            return False
        if self._held:
            self._lock.release()
            return False
        self._held = True
        return True

    def release(self) -> None:
        """As ``threading.Lock.release``."""
        self._held = False
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        # Asked by Condition, which would else try to take the lock to find out.
        return self._held
