"""nodecompat.locks: one holder at a time, who is refused a second time, whatever interrupts it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, cast

import pytest

from nodecompat import locks
from nodecompat.locks import ChannelLock
from tests.support import Background
from tests.support import nothing_left as nothing_left


def _is_free(lock: ChannelLock) -> bool:
    """Whether another thread can have it now."""

    def take() -> bool:
        taken = lock.acquire(timeout=0.5)
        if taken:
            lock.release()
        return taken

    return Background(take).result()


def test_another_thread_waits_for_it() -> None:
    lock = ChannelLock()
    with lock:
        waiter = Background(lock.acquire).until_blocked()
        assert waiter.running
        assert not _is_free(lock)
    assert waiter.result() is True


def test_it_is_free_afterwards() -> None:
    lock = ChannelLock()
    with pytest.raises(LookupError), lock:
        raise LookupError
    assert _is_free(lock)
    assert lock.acquire(blocking=False)
    assert not Background(lambda: lock.acquire(blocking=False)).result()
    lock.release()
    assert _is_free(lock)


def test_its_holder_is_refused_and_keeps_it() -> None:
    lock = ChannelLock()
    with lock:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="interrupted another call on the same channel"):
                lock.acquire()
            with pytest.raises(RuntimeError), lock:
                pytest.fail("it has it already")
        assert not _is_free(lock)
    assert _is_free(lock)


def test_condition_waits_with_it() -> None:
    lock = ChannelLock()
    changed = threading.Condition(cast(Any, lock))
    told: list[str] = []

    def wait() -> None:
        with lock:
            while not told:
                changed.wait()
            told.append("heard")

    waiter = Background(wait).until_blocked()
    with lock:
        told.append("said")
        changed.notify_all()
    waiter.result()
    assert told == ["said", "heard"]
    assert _is_free(lock)


def test_condition_is_not_told_without_it() -> None:
    changed = threading.Condition(cast(Any, ChannelLock()))
    with pytest.raises(RuntimeError):
        changed.notify_all()
    with pytest.raises(RuntimeError):
        changed.wait()


class Interrupt(Exception):
    """What the signal handler raises."""


@pytest.fixture
def armed() -> Iterator[list[bool]]:
    """A handler that raises while the lock is being taken, as Ctrl-C may, until this is empty."""
    state = [True]

    def handler(number: int, frame: FrameType | None) -> None:
        while state and frame is not None:
            if frame.f_code.co_filename == locks.__file__ and frame.f_code.co_name == "acquire":
                raise Interrupt
            frame = frame.f_back

    signal.signal(signal.SIGUSR1, handler)
    yield state
    state.clear()


def test_signals_that_come_as_it_is_handed_over_leave_it_free(armed: list[bool]) -> None:
    lock = ChannelLock()
    rounds = 3000

    def use() -> None:
        for _ in range(rounds):
            with lock:
                # The other thread waits for the lock by now, gets it soon, and is interrupted.
                time.sleep(0.0002)
                os.kill(os.getpid(), signal.SIGUSR1)

    interrupted = 0
    other = Background(use)
    # Once the lock has leaked nobody comes in between, and this does not last long.
    for _ in range(100 * rounds):
        try:
            lock.acquire()
        except Interrupt:
            interrupted += 1
        else:
            lock.release()
        if not other.running:
            break
    armed.clear()
    assert _is_free(lock)
    other.result()
    assert interrupted
