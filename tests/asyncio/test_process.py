"""nodecompat.asyncio.process: children of coroutines, from their start to the very end."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from nodecompat.asyncio import fork, spawn
from nodecompat.asyncio import process as module
from nodecompat.asyncio.channel import Opening
from nodecompat.asyncio.process import Child
from nodecompat.errors import ChannelClosed, NodeNotFound, ProgramNotFound
from nodecompat.transport.spawn import Process
from tests.asyncio.conftest import Run
from tests.support import BIG, bare, is_open, open_fds

T = TypeVar("T")

ECHO = """
    import contextlib
    with contextlib.suppress(ConnectionError), socket.socket(fileno=3) as channel:
        while data := channel.recv(65536):
            channel.sendall(data)
"""

STUBBORN = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    send("ready")
    while True:
        time.sleep(600)
"""


def _spawn(code: str, **options: Any) -> Opening[Child]:
    return spawn(sys.executable, bare(code), **options)


both_systems = pytest.mark.parametrize("pidfd", [True, False], ids=["pidfd", "no-pidfd"])


@pytest.fixture(autouse=True)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pidfds the end of a process has to be looked for now and then."""
    if "pidfd" in request.fixturenames and not request.getfixturevalue("pidfd"):
        monkeypatch.delattr(os, "pidfd_open", raising=False)


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


# -------------------------------------------------------------------------------------- talking


def test_child_and_parent_talk(run: Run) -> None:
    async def main() -> None:
        async with _spawn(ECHO) as child:
            await child.send({"hello": "world"})
            assert await child.recv() == {"hello": "world"}
            assert child.connected
        assert child.exit_code == 0

    run(main())


def test_child_may_be_awaited(run: Run) -> None:
    async def main() -> None:
        child = await _spawn(ECHO)
        await child.send(1)
        assert await child.recv() == 1
        await child.disconnect()
        assert await child.wait() == 0
        assert child.fileno() == -1

    run(main())


def test_nothing_starts_before_it_is_awaited(run: Run) -> None:
    async def main() -> None:
        before = _children()
        opening = _spawn(ECHO)
        await asyncio.sleep(0)
        assert _children() == before
        async with opening as child:
            assert psutil.pid_exists(child.pid)

    run(main())


@pytest.mark.parametrize("awaited", [False, True])
def test_fork_runs_a_module_with_its_arguments(run: Run, tmp_path: Path, awaited: bool) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, sys\nos.write(3, json.dumps([sys.flags.optimize, *sys.argv]).encode())\n"
        "os.write(3, b'\\n')\n"
    )

    async def main() -> None:
        opening = fork(worker, ["a", "b"], exec_path=sys.executable, exec_argv=["-I", "-O"])
        expected = [1, str(worker), "a", "b"]
        if awaited:
            child = await opening
            assert await child.recv() == expected
            assert await child.wait() == 0
            with pytest.raises(ChannelClosed):
                await child.recv()
        else:
            async with opening as child:
                assert await child.recv() == expected

    run(main())


def test_fork_of_a_python_child_of_ours(run: Run, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import asyncio\n"
        "from nodecompat.asyncio import connect_parent\n"
        "async def main():\n"
        "    async with connect_parent() as parent:\n"
        "        async for message in parent:\n"
        "            await parent.send({'echo': message})\n"
        "asyncio.run(main())\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}

    async def main() -> None:
        async with fork(worker, exec_path=sys.executable, env=env) as child:
            for number in range(100):
                await child.send(number)
            assert [(await child.recv())["echo"] for _ in range(100)] == list(range(100))
        assert child.exit_code == 0

    run(main())


def test_fork_needs_a_node_unless_told_otherwise(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODECOMPAT_NODE", "/nowhere/node")

    async def main() -> None:
        with pytest.raises(NodeNotFound):
            await fork("worker.js")

    run(main())


def test_messages_of_a_child_that_ended_are_kept(run: Run) -> None:
    async def main() -> None:
        async with _spawn("send(*range(5)); sys.exit(4)") as child:
            assert await child.wait() == 4
            assert [message async for message in child] == [0, 1, 2, 3, 4]

    run(main())


def test_bounds_are_those_of_the_channel(run: Run) -> None:
    async def main() -> None:
        async with _spawn("send('x' * 200); until_end()", max_message_size=100) as child:
            with pytest.raises(ValueError, match="max_message_size is 100"):
                await child.recv()

    run(main())


# -------------------------------------------------------------------------------------- streams


def test_streams_are_streams_where_they_are_pipes(run: Run) -> None:
    code = """
        print("out", sys.stdin.read(), flush=True)
        print("err", file=sys.stderr, flush=True)
        os.write(4, b"both")
    """

    async def main() -> None:
        stdio = ["pipe", "pipe", "pipe", "ipc", "pipe", "ignore"]
        async with _spawn(code, stdio=stdio) as child:
            stdin, stdout, stderr, channel, both, nothing = child.stdio
            assert (child.stdin, child.stdout, child.stderr) == (stdin, stdout, stderr)
            assert channel is nothing is None
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stderr is not None
            assert isinstance(both, socket.socket)
            child.stdin.write(b"word")
            await child.stdin.drain()
            child.stdin.close()
            await child.stdin.wait_closed()
            assert await child.stdout.read() == b"out word\n"
            assert await child.stderr.read() == b"err\n"
            assert not both.getblocking()
            loop = asyncio.get_running_loop()
            assert await loop.sock_recv(both, 100) == b"both"
        assert both.fileno() == -1

    before = open_fds()
    run(main())
    assert open_fds() == before


def test_streams_are_none_where_they_are_no_pipes(run: Run) -> None:
    async def main() -> None:
        async with _spawn("until_end()") as child:
            assert child.stdio == [None] * 4
            assert (child.stdin, child.stdout, child.stderr) == (None, None, None)

    run(main())


def test_child_that_closed_its_stdin_does_not_fail_the_end(run: Run) -> None:
    async def main() -> None:
        code = "os.close(0); send(1); until_end()"
        async with _spawn(code, stdio=["pipe", "inherit", "inherit", "ipc"]) as child:
            assert await child.recv() == 1
            assert child.stdin is not None
            child.stdin.write(b"nobody reads this")
            with pytest.raises(ConnectionError):
                while True:
                    await child.stdin.drain()
                    await asyncio.sleep(0.001)
                    child.stdin.write(b"nobody reads this")
        assert child.exit_code == 0

    run(main())


# ----------------------------------------------------------------------------- waiting, signals


@both_systems
@pytest.mark.parametrize(("code", "status"), [("", 0), ("sys.exit(3)", 3), ("os._exit(255)", 255)])
def test_wait_gives_the_exit_status(run: Run, pidfd: bool, code: str, status: int) -> None:
    async def main() -> None:
        async with _spawn(code) as child:
            assert await child.wait() == status
            assert await child.wait(timeout=0) == status
            assert (child.exit_code, child.signal_code) == (status, None)

    run(main())


@both_systems
def test_wait_times_out_and_leaves_the_child(run: Run, pidfd: bool) -> None:
    async def main() -> None:
        async with _spawn(ECHO) as child:
            for timeout in (0.02, 0):
                with pytest.raises(TimeoutError):
                    await child.wait(timeout)
            await child.send("still there")
            assert await child.recv() == "still there"

    run(main())


def test_wait_reads_on_so_that_the_child_can_end(run: Run) -> None:
    async def main() -> None:
        async with _spawn(f"send(*['x' * {len(BIG)}] * 3)") as child:
            assert await child.wait() == 0
            assert [message async for message in child] == [BIG] * 3

    run(main())


def test_wait_reads_on_after_the_bound_once_all_was_taken(run: Run) -> None:
    """Else the child, which still has something to say, never ends."""

    async def main() -> None:
        code = "\nfor number in range(40): send([number, 'x' * 1000])"
        async with _spawn(code, max_queued=5000) as child:
            numbers = [(await child.recv())[0]]
            while len(numbers) < 40:
                # All that is there, and not one more.
                while child._inbox:
                    numbers.append((await child.recv())[0])
                try:
                    await child.wait(timeout=0.2)
                except TimeoutError:
                    assert child._inbox, "it has stopped reading, and nothing is left to take"
            assert numbers == list(range(40))

    run(main())


@both_systems
def test_several_tasks_may_wait_and_one_be_cancelled(run: Run, pidfd: bool) -> None:
    async def main() -> None:
        async with _spawn("until_end(); sys.exit(6)") as child:
            tasks = [asyncio.create_task(child.wait()) for _ in range(3)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            await asyncio.sleep(0)
            await child.disconnect()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[0] == results[2] == 6
            assert isinstance(results[1], asyncio.CancelledError)

    run(main())


@both_systems
@pytest.mark.parametrize("number", ["SIGTERM", signal.SIGKILL])
def test_signal_that_ended_the_child(run: Run, pidfd: bool, number: str | int) -> None:
    async def main() -> None:
        async with _spawn("until_end()") as child:
            assert child.kill(number)
            assert child.killed
            assert await child.wait() is None
            assert child.signal_code == ("SIGTERM" if number == "SIGTERM" else "SIGKILL")
            assert not child.kill(number)

    run(main())


# -------------------------------------------------------------------------------------- timeout


@both_systems
def test_timeout_ends_the_child(run: Run, pidfd: bool) -> None:
    async def main() -> None:
        async with _spawn("time.sleep(600)", timeout=0.1, kill_signal="SIGUSR2") as child:
            assert await child.wait() is None
            assert child.signal_code == "SIGUSR2"
            assert child.killed

    run(main())


@pytest.mark.parametrize("timeout", [None, 0, 600, float("inf")])
def test_child_that_ends_before_the_timeout_is_left_alone(run: Run, timeout: float | None) -> None:
    async def main() -> None:
        async with _spawn(ECHO, timeout=timeout) as child:
            await child.send(1)
            assert await child.recv() == 1
        assert child.exit_code == 0
        assert not child.killed

    run(main())


@pytest.mark.parametrize(
    "options", [{"timeout": -1}, {"close_timeout": -1}, {"kill_signal": "SIGNOTHING"}]
)
def test_wrong_option_starts_nothing(run: Run, options: dict[str, Any]) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match=str(next(iter(options.values())))):
            await _spawn("", **options)

    run(main())


def test_missing_program_leaves_nothing(run: Run) -> None:
    async def main() -> None:
        before = open_fds()
        with pytest.raises(ProgramNotFound):
            await spawn("/nowhere/program", stdio=["pipe", "pipe", "pipe", "ipc"])
        with pytest.raises(ProgramNotFound):
            async with spawn("/nowhere/program"):
                pytest.fail("there is no such program")
        assert open_fds() == before

    run(main())


# ------------------------------------------------------------------------- the end of the block


@both_systems
def test_leaving_disconnects_and_waits(run: Run, pidfd: bool) -> None:
    async def main() -> None:
        async with _spawn("until_end(); sys.exit(9)") as child:
            pass
        assert child.exit_code == 9
        assert not child.killed
        assert not psutil.pid_exists(child.pid)
        assert child._process.pidfd == -1

    run(main())


@both_systems
def test_child_that_ignores_the_end_gets_the_kill_signal(run: Run, pidfd: bool) -> None:
    async def main() -> None:
        async with _spawn("time.sleep(600)", close_timeout=0.05) as child:
            pass
        assert child.signal_code == "SIGTERM"
        assert not psutil.pid_exists(child.pid)

    run(main())


@both_systems
def test_child_that_ignores_the_kill_signal_as_well_is_killed(run: Run, pidfd: bool) -> None:
    async def main() -> None:
        async with _spawn(STUBBORN, close_timeout=0.05) as child:
            assert await child.recv() == "ready"
        assert child.signal_code == "SIGKILL"
        assert not psutil.pid_exists(child.pid)

    run(main())


@both_systems
@pytest.mark.parametrize("code", [STUBBORN, "send('ready'); until_end(); time.sleep(600)"])
def test_no_time_at_all_ends_the_child_at_once(run: Run, pidfd: bool, code: str) -> None:
    async def main() -> None:
        async with _spawn(code, close_timeout=0) as child:
            assert await child.recv() == "ready"
        assert child.signal_code is not None
        assert not psutil.pid_exists(child.pid)

    run(main())


def test_close_timeout_of_none_waits_as_long_as_it_takes(run: Run) -> None:
    async def main() -> None:
        async with _spawn("until_end(); time.sleep(0.2)", close_timeout=None) as child:
            pass
        assert child.exit_code == 0

    run(main())


def test_leaving_with_an_error_ends_the_child_too(run: Run) -> None:
    async def main() -> None:
        started: list[Child] = []
        with pytest.raises(LookupError):
            async with _spawn("until_end()") as child:
                started.append(child)
                raise LookupError
        assert started[0].exit_code == 0
        assert not psutil.pid_exists(started[0].pid)

    run(main())


def test_leaving_after_the_child_ended_or_the_channel_was_closed(run: Run) -> None:
    async def main() -> None:
        async with _spawn("") as child:
            await child.wait()
        async with _spawn("until_end()") as child:
            await child.disconnect()
        assert child.exit_code == 0
        async with _spawn("") as child:
            with pytest.raises(ChannelClosed):
                await child.recv()

    run(main())


@pytest.mark.parametrize("strict", [False, True], ids=["warned", "warning-is-an-error"])
def test_child_that_does_not_read_is_ended_too(
    run: Run, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    monkeypatch.setattr("nodecompat.asyncio.channel.DISCONNECT_LIMIT", 0.05)

    async def main() -> None:
        expected = pytest.raises(RuntimeWarning) if strict else pytest.warns(RuntimeWarning)
        with expected:
            async with _spawn("send('ready'); time.sleep(600)", close_timeout=0.05) as child:
                assert await child.recv() == "ready"
                sender = asyncio.create_task(child.send(BIG))
                await asyncio.sleep(0)
        with pytest.raises(ChannelClosed):
            await sender
        assert child.signal_code == "SIGTERM"
        assert not psutil.pid_exists(child.pid)

    run(main())


def test_child_that_even_sigkill_does_not_end_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        child = await _spawn("until_end(); time.sleep(600)", close_timeout=0.01)
        with monkeypatch.context() as patch:
            # One that hangs in the kernel.
            patch.setattr(Process, "kill", lambda *_: True)
            patch.setattr(module, "CLOSE_TIMEOUT", 0.01)
            with pytest.raises(TimeoutError, match=f"process {child.pid} did not end"):
                await child.__aexit__(None, None, None)
        child.kill("SIGKILL")
        await child.wait()

    run(main())


def test_several_children_at_once_end_each_on_its_own(run: Run) -> None:
    async def main() -> None:
        async with _spawn(ECHO) as one, _spawn(ECHO) as two, _spawn(ECHO) as three:
            for child in (one, two, three):
                await child.send(child.pid)
            await two.disconnect()
            # Only if no other child has the descriptor does its end come.
            assert await two.wait() == 0
            assert await one.recv() == one.pid
            assert await three.recv() == three.pid

    run(main())


def test_repr_says_process_and_program(run: Run) -> None:
    async def main() -> None:
        async with _spawn("until_end()") as child:
            assert repr(child) == (
                f"<nodecompat.asyncio.process.Child connected fd={child.fileno()} "
                f"pid={child.pid} {sys.executable!r}>"
            )

    run(main())


# ----------------------------------------------------------------------------------- cancelling


def test_leaving_that_is_cancelled_ends_the_child_at_once(run: Run) -> None:
    async def main() -> None:
        started: list[Child] = []

        async def use() -> None:
            async with _spawn("send('ready'); until_end(); time.sleep(600)") as child:
                started.append(child)
                assert await child.recv() == "ready"
            pytest.fail("it was cancelled")

        task = asyncio.create_task(use())
        while not (started and not started[0].connected):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await started[0].wait(10) is None
        assert started[0].signal_code == "SIGKILL"
        assert not psutil.pid_exists(started[0].pid)

    run(main())


def test_program_that_is_cancelled_leaves_no_zombie(run: Run) -> None:
    """The loop ends at once then, and nobody else looks after the child."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with _spawn("send('ready'); until_end(); time.sleep(600)") as child:
            assert await child.recv() == "ready"
            # Ctrl-C during the end of the block.
            asyncio.get_running_loop().call_later(0.05, task.cancel)

    before = _children()
    with pytest.raises(asyncio.CancelledError):
        run(main())
    gc.collect()
    assert _children() == before


async def _cancelled_after(steps: int, start: Callable[[], Awaitable[T]]) -> T | None:
    """Cancel something in its so-manieth step; its result if it was quicker."""

    async def call() -> T:
        return await start()

    task = asyncio.create_task(call())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


@pytest.mark.parametrize("steps", range(1, 12))
def test_start_that_is_cancelled_leaves_nothing(run: Run, steps: int) -> None:
    async def main() -> None:
        stdio = ["pipe", "pipe", "pipe", "ipc", "pipe"]

        async def start() -> Child:
            return await _spawn("until_end(); time.sleep(600)", stdio=stdio)

        child = await _cancelled_after(steps, start)
        if child is not None:
            child.kill("SIGKILL")
            async with child:
                pass
        while _children() != children:
            await asyncio.sleep(0.001)

    children = _children()
    before = open_fds()
    run(main())
    gc.collect()
    assert open_fds() == before


@pytest.mark.parametrize("seed", range(4))
def test_storm_of_cancelled_waits_ends_as_it_should(run: Run, seed: int) -> None:
    async def main() -> None:
        choose = random.Random(seed)
        async with _spawn("until_end(); sys.exit(3)") as child:
            tasks = [asyncio.create_task(child.wait()) for _ in range(20)]
            for _ in range(30):
                await asyncio.sleep(0)
                choose.choice(tasks[1:]).cancel()
                if choose.random() < 0.2 and child.connected:
                    tasks.append(asyncio.create_task(child.disconnect()))
            if child.connected:
                await child.disconnect()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert results[0] == 3
            assert {3, None} >= {result for result in results if isinstance(result, int)}
            assert await child.wait() == 3

    run(main())


def test_failure_after_the_start_leaves_no_child(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(child: Child, fd: int) -> asyncio.StreamWriter:
        os.close(fd)
        raise OSError("no more memory, say")

    monkeypatch.setattr(Child, "_writer", fail)

    async def main() -> None:
        with pytest.raises(OSError, match="no more memory"):
            await _spawn("time.sleep(600)", stdio=["pipe", "pipe", "pipe", "ipc"])
        assert _children() == before

    before = _children()
    run(main())


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_loop_that_is_closed_early_loses_no_descriptor(run: Run) -> None:
    """The child that was left behind is told of, and can be reaped."""
    before = open_fds()
    children: list[Child] = []

    async def main() -> None:
        children.append(await _spawn("until_end(); time.sleep(600)", stdio=["pipe", 1, 2, "ipc"]))

    with pytest.warns(ResourceWarning):
        run(main())
        (child,) = children
        assert is_open(child._process.pidfd)
        child.kill("SIGKILL")
        child._process.reap()
        children.clear()
        del child
        gc.collect()
    assert open_fds() == before
