"""Many children at once."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import psutil
import pytest

from tests.integration.support import AsyncioParent

CHILDREN = 200


@pytest.mark.timeout(120)
def test_200_children_at_once_leave_no_descriptor_task_thread_or_child(
    node: str, asyncio_parent: AsyncioParent, fixtures_dir: Path
) -> None:
    threads = threading.active_count()
    descriptors = set(os.listdir("/proc/self/fd"))
    tasks: set[int] = set()
    alive = 0

    async def talk(number: int, all_up: asyncio.Barrier) -> None:
        nonlocal alive
        async with asyncio_parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            await child.send({"up?": number})
            assert await child.recv() == {"up?": number}
            if await all_up.wait() == 0:
                alive = len(psutil.Process().children())
            await all_up.wait()
            await child.send(["bye", number])
            assert await child.recv() == ["bye", number]
        assert child.exit_code == 0

    async def scenario() -> None:
        all_up = asyncio.Barrier(CHILDREN)
        await asyncio.gather(*(talk(number, all_up) for number in range(CHILDREN)))
        tasks.update(map(id, asyncio.all_tasks() - {asyncio.current_task()}))

    asyncio_parent.run(scenario(), limit=110)
    assert alive == CHILDREN
    assert tasks == set()
    assert threading.active_count() == threads
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert psutil.Process().children() == []
