"""nodecompat.transport.wakeup: readable when set, quiet when cleared, with and without eventfd."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from nodecompat.transport.wakeup import Wakeup
from tests.support import Background, is_open, open_fds
from tests.support import nothing_left as nothing_left


@pytest.fixture(params=["eventfd", "pipe"])
def wakeup(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wakeup]:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("this system has no eventfd")
    made = Wakeup()
    yield made
    if is_open(made.fileno()):
        made.close()


def _readable(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup.fileno()], [], [], 0)[0])


def test_is_readable_from_set_to_clear(wakeup: Wakeup) -> None:
    assert not _readable(wakeup)
    wakeup.set()
    assert _readable(wakeup)
    wakeup.clear()
    assert not _readable(wakeup)


def test_several_sets_need_one_clear(wakeup: Wakeup) -> None:
    for _ in range(100):
        wakeup.set()
    wakeup.clear()
    assert not _readable(wakeup)


def test_clear_of_what_is_not_set_returns(wakeup: Wakeup) -> None:
    wakeup.clear()
    wakeup.set()
    assert _readable(wakeup)


def test_set_never_blocks(wakeup: Wakeup) -> None:
    # More than a pipe holds.
    for _ in range(20_000):
        wakeup.set()
    assert _readable(wakeup)


def test_full_counter_does_not_block(wakeup: Wakeup) -> None:
    if wakeup._read == wakeup._write:
        os.write(wakeup._write, (2**64 - 2).to_bytes(8, "little"))
    wakeup.set()
    assert _readable(wakeup)


def test_wakes_a_thread_that_polls(wakeup: Wakeup) -> None:
    poller = select.poll()
    poller.register(wakeup.fileno(), select.POLLIN)
    thread = Background(poller.poll).until_blocked()
    wakeup.set()
    assert thread.result() == [(wakeup.fileno(), select.POLLIN)]


def test_descriptors_are_not_inherited_and_closed_at_the_end(wakeup: Wakeup) -> None:
    fds = {wakeup._read, wakeup._write}
    assert not any(os.get_inheritable(fd) for fd in fds)
    wakeup.close()
    assert not fds & open_fds()
