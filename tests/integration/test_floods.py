"""Many messages: at once in both directions, right before an end, and past what the peer reads."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from nodecompat import ChannelClosed
from tests.integration.support import PARENTS, AsyncioParent, MiB, Parent, Way, options, run

COUNT = 100_000
BURST = 20_000


def counting(way: Way) -> str:
    """The options of a record.cjs that counts."""
    # The process way alone does not wait in its sends: it has to at its end, for a parent that
    # stops reading for a while.
    return options(count=True, busy=1000 if way.name == "process" else 0)


# Alone each takes seconds; not so beside other work on a small machine.
pytestmark = pytest.mark.timeout(120)


def test_a_child_floods_and_is_flooded(node: str, way_or_uvloop: Way, fixtures_dir: Path) -> None:
    done = run(
        node,
        fixtures_dir / "flood.cjs",
        str(COUNT),
        *way_or_uvloop.command("flood.py", str(COUNT)),
    )
    assert done.node == {
        "received": COUNT,
        "wrong": [],
        "peer": {"received": COUNT, "wrong": []},
    }


def test_a_parent_floods_and_is_flooded(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "flood.cjs", [str(COUNT)], exec_path=node
        ) as child:
            await parent_or_uvloop.at_once(send_all(child), receive_all(child))

    async def send_all(child: Any) -> None:
        for n in range(COUNT):
            await child.send({"n": n})

    async def receive_all(child: Any) -> None:
        received = 0
        reports: list[Any] = []
        while received < COUNT or not reports:
            message = await child.recv()
            if "report" in message:
                reports.append(message["report"])
            else:
                assert message == {"n": received}
                received += 1
        await child.send({"report": {}})
        await child.disconnect()
        with pytest.raises(ChannelClosed):
            await child.recv()
        assert reports == [{"received": COUNT, "wrong": []}]

    parent_or_uvloop.run(scenario())


@pytest.mark.parametrize(
    ("how", "code"), [("plain", 0), ("disconnect", 0), ("sys.exit", 3), ("exception", 1)]
)
def test_what_a_child_sent_right_before_its_end_arrives(
    node: str, way_or_uvloop: Way, fixtures_dir: Path, how: str, code: int
) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        counting(way_or_uvloop),
        *way_or_uvloop.command("burst.py", str(BURST), how),
        stderr=True,
    )
    assert done.node == {
        "received": BURST,
        "wrong": [],
        "events": [["disconnect"], ["exit", code, None]],
    }
    assert ("Traceback" in done.stderr) == (how == "exception")


def test_what_another_thread_sends_after_the_main_one_has_ended_arrives(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        counting(way),
        *way.command("thread.py", str(BURST)),
        stderr=True,
    )
    assert done.node == {
        "received": BURST,
        "wrong": [],
        "events": [["disconnect"], ["exit", 0, None]],
    }


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_what_a_parent_sent_right_before_its_end_arrives(
    node: str, fixtures_dir: Path, kind: str
) -> None:
    done = run(
        sys.executable,
        PARENTS / kind / "burst.py",
        node,
        fixtures_dir / "record.cjs",
        '{"count": true}',
        str(BURST),
    )
    assert done.returncode == 0
    assert done.node == {"received": BURST, "wrong": [], "events": [["disconnect"]]}


def test_what_a_node_child_sent_right_before_its_end_arrives(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "burst.cjs", [str(BURST)], exec_path=node) as child:
            # The end of the stream comes while nothing has been taken yet.
            assert await child.wait() == 0
            assert [number async for number in child] == list(range(BURST))

    parent.run(scenario())


def test_a_child_that_does_not_read_makes_nodes_send_return_false_and_loses_nothing(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    # The process way reads as soon as it is used, so it has to say nothing before.
    mute = ["--mute"] if way.name == "process" else []
    done = run(node, fixtures_dir / "backpressure.cjs", *mute, *way.command("slow.py"))
    # 128 KiB in Node's own queue, and before that what the kernel takes.
    assert done.node["sent"] == 1000
    assert 12 < done.node["full"] < 200
    assert done.node["written"] < 200
    assert done.python == {"received": 1000, "wrong": []}


def test_a_child_that_does_not_read_makes_send_wait_and_loses_nothing(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    messages = [{"n": n, "text": "x" * 10_000} for n in range(1000)]
    all_sent = threading.Event()

    async def send_all(child: Any) -> None:
        for message in messages:
            await child.send(message)
        all_sent.set()

    async def resume_and_receive_all(child: Any) -> None:
        # No more than a socket's buffer can go while the child is stopped, however long it is.
        # In asyncio nothing else runs during this wait: there send_all is already waiting.
        assert not all_sent.wait(0.2)
        child.kill("SIGCONT")
        assert [await child.recv() for _ in messages] == messages

    async def scenario() -> None:
        async with parent_or_uvloop.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            child.kill("SIGSTOP")
            await parent_or_uvloop.at_once(send_all(child), resume_and_receive_all(child))

    parent_or_uvloop.run(scenario())


def test_a_send_that_was_cancelled_half_way_goes_out_whole(
    node: str, asyncio_parent: AsyncioParent, fixtures_dir: Path
) -> None:
    text = "x" * (4 * MiB)

    async def scenario() -> None:
        async with asyncio_parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            child.kill("SIGSTOP")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await child.send(text)
            child.kill("SIGCONT")
            await child.send("after it")
            assert await child.recv() == text
            assert await child.recv() == "after it"

    asyncio_parent.run(scenario())


def test_sends_that_the_end_of_asyncio_run_cancels_go_out_whole(
    node: str, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        '{"count": true}',
        *Way("asyncio").command("abandon.py", "10"),
        stderr=True,
    )
    assert done.node == {
        "received": 10,
        "wrong": [],
        "events": [["disconnect"], ["exit", 0, None]],
    }
