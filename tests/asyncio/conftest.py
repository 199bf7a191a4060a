"""The loops that every test of coroutines runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import pytest
import uvloop

from tests.support import LIMIT
from tests.support import nothing_left as nothing_left

T = TypeVar("T")

# The first loop opens a pipe that the process keeps; it is no test's leak.
uvloop.new_event_loop().close()


class Run(Protocol):
    """Run a coroutine on a loop of its own, within a limit."""

    def __call__(self, main: Coroutine[Any, Any, T]) -> T: ...


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    async def limited(main: Coroutine[Any, Any, T]) -> T:
        async with asyncio.timeout(LIMIT):
            return await main

    def run_on_loop(main: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(limited(main))

    return run_on_loop
