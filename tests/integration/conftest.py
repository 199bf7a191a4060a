"""The kinds of Python children and parents that the tests run for."""

from __future__ import annotations

import pytest
import uvloop

from tests.integration.support import AsyncioParent, Parent, SyncParent, Way


@pytest.fixture(scope="session", autouse=True)
def first_uvloop() -> None:
    """The first loop of a process opens a pipe that libuv keeps for all: it is no test's leak."""
    uvloop.new_event_loop().close()


@pytest.fixture(params=["sync", "asyncio", "process"])
def way(request: pytest.FixtureRequest) -> Way:
    """The way in of the Python child."""
    return Way(request.param)


@pytest.fixture(params=["sync", "asyncio", "process", "uvloop"])
def way_or_uvloop(request: pytest.FixtureRequest) -> Way:
    """The same, and asyncio on uvloop."""
    return Way(request.param)


@pytest.fixture(params=["sync", "asyncio"])
def parent(request: pytest.FixtureRequest) -> Parent:
    """The kind of the Python parent, which is the process of the tests."""
    return SyncParent() if request.param == "sync" else AsyncioParent(request.param)


@pytest.fixture(params=["sync", "asyncio", "uvloop"])
def parent_or_uvloop(request: pytest.FixtureRequest) -> Parent:
    """The same, and asyncio on uvloop."""
    return SyncParent() if request.param == "sync" else AsyncioParent(request.param)


@pytest.fixture(params=["asyncio", "uvloop"])
def asyncio_parent(request: pytest.FixtureRequest) -> AsyncioParent:
    """A parent whose calls can be cancelled."""
    return AsyncioParent(request.param)
