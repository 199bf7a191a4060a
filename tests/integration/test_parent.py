"""A Python parent of real Node children: Node's options, and how the channel and the child end."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nodecompat.sync
from nodecompat import (
    AlreadyDisconnected,
    ChannelClosed,
    IncompleteMessage,
    ProgramNotFound,
)
from nodecompat.transport.spawn import Process
from tests.integration.support import (
    CHILDREN,
    PARENTS,
    AsyncioParent,
    MiB,
    Parent,
    environment,
    read,
    run,
)

# --------------------------------------------------------------------------------------- options


def test_fork_passes_arguments_and_starts_in_a_folder(
    node: str, parent: Parent, fixtures_dir: Path, tmp_path: Path
) -> None:
    arguments = ["one", "", "two words", "--three", "Straße\n", '"quoted"']

    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "about.cjs", arguments, exec_path=node, cwd=tmp_path, silent=True
        ) as child:
            about = await child.recv()
            assert about["args"] == arguments
            assert about["cwd"] == str(tmp_path.resolve())
            assert about["pid"] == child.pid
            assert about["fd"] == 3

    parent.run(scenario())


def test_env_replaces_the_environment_and_node_keeps_the_channel_out_of_it(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "about.cjs", exec_path=node, env={"ONLY": "ça"}, silent=True
        ) as child:
            assert (await child.recv())["env"] == {"ONLY": "ça"}

    parent.run(scenario())


def test_exec_argv_comes_before_the_module(node: str, parent: Parent, fixtures_dir: Path) -> None:
    async def about(*exec_argv: str) -> Any:
        async with parent.fork(
            fixtures_dir / "about.cjs", exec_path=node, exec_argv=exec_argv, silent=True
        ) as child:
            return await child.recv()

    async def scenario() -> None:
        plain = await about()
        assert (plain["execArgv"], plain["preloaded"]) == ([], None)
        changed = await about("--stack-size=300", "-r", str(fixtures_dir / "preload.cjs"))
        assert changed["preloaded"] == "preload.cjs"
        assert 0 < changed["stackLimit"] < plain["stackLimit"] / 2

    parent.run(scenario())


def test_a_silent_child_writes_to_pipes(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "about.cjs", exec_path=node, silent=True
        ) as child:
            await child.recv()
            await child.disconnect()
            assert await read(child.stdout) == b"on stdout\n"
            assert await read(child.stderr) == b"on stderr\n"
            assert await child.wait() == 0

    parent_or_uvloop.run(scenario())


def test_spawn_opens_pipes_on_every_side_of_the_channel(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.spawn(
            node,
            [str(fixtures_dir / "pipes.cjs")],
            stdio=["pipe", "pipe", "pipe", "ipc", "pipe"],
        ) as child:
            child.stdin.write(b"abc")  # type: ignore[union-attr]
            assert await read(child.stdout, 3) == b"abc"
            assert await read(child.stderr, 3) == b"cba"
            fourth: Any = child.stdio[4]
            fourth.setblocking(True)
            fourth.sendall(b"shout")
            assert fourth.recv(5) == b"SHOUT"
            assert child.stdio[3] is None

    parent_or_uvloop.run(scenario())


def test_the_channel_may_be_at_another_index(node: str, parent: Parent, fixtures_dir: Path) -> None:
    async def scenario() -> None:
        async with parent.spawn(
            node,
            [str(fixtures_dir / "about.cjs")],
            stdio=["ignore", "ignore", "ignore", None, "ignore", "ipc"],
        ) as child:
            assert (await child.recv())["fd"] == 5

    parent.run(scenario())


def test_a_file_may_be_the_childs_stdout(
    node: str, parent: Parent, fixtures_dir: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        with (tmp_path / "out").open("w") as out:
            async with parent.fork(
                fixtures_dir / "about.cjs", exec_path=node, stdio=["ignore", out, "ignore", "ipc"]
            ) as child:
                await child.recv()
        assert (tmp_path / "out").read_text() == "on stdout\n"

    parent.run(scenario())


@pytest.mark.parametrize("detached", [True, False])
def test_a_detached_child_leads_its_own_session(
    node: str, parent: Parent, fixtures_dir: Path, detached: bool
) -> None:
    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "echo.cjs", exec_path=node, detached=detached
        ) as child:
            assert (os.getsid(child.pid) == child.pid) is detached
            assert (os.getpgid(child.pid) == child.pid) is detached

    parent.run(scenario())


def test_a_program_that_does_not_exist_is_an_error_that_names_it(
    parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        with pytest.raises(ProgramNotFound, match="ENOENT") as caught:
            async with parent.fork(fixtures_dir / "echo.cjs", exec_path="/nowhere/node"):
                pytest.fail("it started")
        assert caught.value.filename == "/nowhere/node"

    parent.run(scenario())


def test_a_child_does_not_get_the_channel_of_another(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with (
            parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as first,
            parent.fork(fixtures_dir / "echo.cjs", exec_path=node),
        ):
            # A copy of the first channel in the second child would keep it open now.
            await first.disconnect()
            assert await first.wait() == 0

    parent.run(scenario())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_child_does_not_get_what_its_stdio_does_not_name(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        with inheritable_pipe() as pipe:
            async with parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
                await child.send("up?")
                assert await child.recv() == "up?"
                assert pipe not in [
                    os.readlink(each) for each in Path(f"/proc/{child.pid}/fd").iterdir()
                ]

    @contextmanager
    def inheritable_pipe() -> Iterator[str]:
        fds = os.pipe()
        try:
            for fd in fds:
                os.set_inheritable(fd, True)
            yield os.readlink(f"/proc/self/fd/{fds[0]}")
        finally:
            for fd in fds:
                os.close(fd)

    parent.run(scenario())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_child_starts_with_no_signal_ignored_or_blocked(
    parent: Parent, tmp_path: Path, elsewhere: bool
) -> None:
    # As libuv starts its children. A job of a shell, or of nohup, ignores some of them itself.
    async def scenario() -> None:
        with ignored(signal.SIGUSR2), blocked(signal.SIGUSR1):
            async with parent.spawn(
                "grep",
                ["-E", "^Sig(Blk|Ign)", "/proc/self/status"],
                stdio=["ignore", "pipe", "inherit", "ipc"],
                cwd=tmp_path if elsewhere else None,
            ) as child:
                lines = (await read(child.stdout)).decode().splitlines()
        masks = {name: int(mask, 16) for name, mask in (line.split(":") for line in lines)}
        # The C library keeps 32 and 33, the first past these, for itself.
        ordinary = 2**31 - 1
        assert {name: mask & ordinary for name, mask in masks.items()} == {"SigBlk": 0, "SigIgn": 0}

    @contextmanager
    def ignored(number: signal.Signals) -> Iterator[None]:
        before = signal.signal(number, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(number, before)

    @contextmanager
    def blocked(number: signal.Signals) -> Iterator[None]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    parent.run(scenario())


# ------------------------------------------------------------------------------------------ ends


@pytest.mark.parametrize(
    ("how", "code", "signal_code"),
    [
        ("exit:0", 0, None),
        ("exit:42", 42, None),
        ("disconnect", 0, None),
        ("throw", 1, None),
        ("signal:SIGTERM", None, "SIGTERM"),
        ("signal:SIGKILL", None, "SIGKILL"),
    ],
)
def test_a_child_that_ends_by_itself_ends_the_messages_and_tells_how(
    node: str,
    parent_or_uvloop: Parent,
    fixtures_dir: Path,
    how: str,
    code: int | None,
    signal_code: str | None,
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "ends.cjs", [how], exec_path=node, stdio=["ignore"] * 3 + ["ipc"]
        ) as child:
            assert [number async for number in child] == [0, 1, 2]
            assert not child.connected
            assert await child.wait() == code
            assert (child.exit_code, child.signal_code) == (code, signal_code)
            assert not child.killed
            assert child.kill() is False

    parent_or_uvloop.run(scenario())


def test_a_child_may_disconnect_and_live_on(node: str, parent: Parent, fixtures_dir: Path) -> None:
    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "ends.cjs",
            ["disconnect:linger"],
            exec_path=node,
            stdio=["pipe", "inherit", "inherit", "ipc"],
        ) as child:
            assert [number async for number in child] == [0, 1, 2]
            with pytest.raises(ChannelClosed):
                await child.send("too late")
            with pytest.raises(AlreadyDisconnected):
                await child.disconnect()
            assert child.exit_code is None
            child.stdin.close()  # type: ignore[union-attr]
            assert await child.wait() == 0

    parent.run(scenario())


def test_a_child_that_dies_in_the_middle_of_a_message_ends_the_iteration(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "ends.cjs", [f"large:{64 * MiB}"], exec_path=node
        ) as child:
            assert [number async for number in child] == [0, 1, 2]
            # The half is told of: in the log now, and by the next call that asks for a message.
            assert "the channel ended in the middle of a message" in caplog.text
            with pytest.raises(IncompleteMessage, match="in the middle of a message: b'\"xxx"):
                await child.recv()
            with pytest.raises(ChannelClosed, match="no more messages"):
                await child.recv()
            assert await child.wait() is None
            assert child.signal_code == "SIGKILL"

    parent_or_uvloop.run(scenario())


def test_recv_tells_of_a_message_that_was_cut_off(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "ends.cjs", [f"large:{64 * MiB}"], exec_path=node
        ) as child:
            assert [await child.recv() for _ in range(3)] == [0, 1, 2]
            with pytest.raises(IncompleteMessage, match="in the middle of a message: b'\"xxx"):
                await child.recv()
            with pytest.raises(ChannelClosed, match="no more messages"):
                await child.recv()

    parent.run(scenario())


def test_a_send_to_a_child_that_is_killed_meanwhile_fails(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def send(child: Any) -> None:
        with pytest.raises(ChannelClosed):
            await child.send("x" * 64 * MiB)

    async def kill(child: Any) -> None:
        child.kill("SIGKILL")

    async def scenario() -> None:
        async with parent_or_uvloop.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            child.kill("SIGSTOP")
            await parent_or_uvloop.at_once(send(child), kill(child))
            assert await child.wait() is None
            assert (child.signal_code, child.killed) == ("SIGKILL", True)

    parent_or_uvloop.run(scenario())


@pytest.mark.timeout(15)
def test_a_wait_ends_for_a_child_that_ends_between_two_looks_at_it(
    node: str, fixtures_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the blocking kind looks more than once: first whether to wait, then for what.
    with nodecompat.sync.fork(
        fixtures_dir / "ends.cjs", ["disconnect"], exec_path=node, close_timeout=0
    ) as child:
        assert list(child) == [0, 1, 2]
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        look, looks = Process.poll, itertools.count()
        monkeypatch.setattr(Process, "poll", lambda self: look(self) if next(looks) else None)
        assert child.wait() == 0


def test_kill_ends_a_child_by_a_signal_of_ones_choice(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        for given, name in ((None, "SIGTERM"), ("SIGINT", "SIGINT"), (1, "SIGHUP")):
            async with parent.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
                # Node sets its signals up while it starts.
                await child.send("up?")
                assert await child.recv() == "up?"
                assert child.kill(0) is True
                assert not child.killed
                assert (child.kill() if given is None else child.kill(given)) is True
                assert await child.wait() is None
                assert (child.exit_code, child.signal_code) == (None, name)
                assert child.killed

    parent.run(scenario())


def test_a_timeout_ends_a_child_with_the_kill_signal(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "echo.cjs", exec_path=node, timeout=0.01, kill_signal="SIGUSR2"
        ) as child:
            assert await child.wait() is None
            assert child.signal_code == "SIGUSR2"
            assert child.killed

    parent_or_uvloop.run(scenario())


def test_leaving_ends_a_child_that_ignores_the_disconnect_and_sigterm(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "stubborn.cjs", exec_path=node, close_timeout=0.05
        ) as child:
            assert await child.recv() == "ready"
        assert child.signal_code == "SIGKILL"

    parent_or_uvloop.run(scenario())


def test_leaving_after_an_error_ends_the_child_and_raises_it(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    children: list[Any] = []

    async def scenario() -> None:
        async with parent_or_uvloop.fork(fixtures_dir / "echo.cjs", exec_path=node) as child:
            children.append(child)
            raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        parent_or_uvloop.run(scenario())
    assert children[0].exit_code == 0


def test_a_parent_killed_in_the_middle_of_a_message_ends_the_channel(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    # The Node child kills its parent at the third message, while that writes the fourth.
    done = run(
        sys.executable,
        PARENTS / parent.name / "large.py",
        node,
        fixtures_dir / "record.cjs",
        '{"killAfter": 3}',
        str(64 * MiB),
    )
    assert done.returncode == -9
    assert done.node["events"] == [["message", 0], ["message", 1], ["message", 2], ["disconnect"]]


def test_leaving_that_is_cancelled_leaves_no_child(
    node: str, asyncio_parent: AsyncioParent, fixtures_dir: Path
) -> None:
    async def use(leaving: asyncio.Event) -> None:
        async with asyncio_parent.fork(fixtures_dir / "stubborn.cjs", exec_path=node) as child:
            assert await child.recv() == "ready"
            leaving.set()

    async def scenario() -> None:
        leaving = asyncio.Event()
        user = asyncio.create_task(use(leaving))
        await leaving.wait()
        user.cancel()
        with pytest.raises(asyncio.CancelledError):
            await user

    asyncio_parent.run(scenario())


# ------------------------------------------------------------------------- Python on both sides


@pytest.mark.parametrize("way", ["sync", "asyncio", "process"])
def test_a_python_child_of_a_python_parent(parent_or_uvloop: Parent, way: str) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            CHILDREN / way / "echo.py", exec_path=sys.executable, env=environment()
        ) as child:
            for message in ["hello", {"a": [1, 2.5, None]}, "\ud800", "x" * MiB]:
                await child.send(message)
                assert await child.recv() == message
            await child.disconnect()
            assert await child.wait() == 0

    parent_or_uvloop.run(scenario())


@pytest.mark.parametrize("way", ["sync", "asyncio", "process"])
def test_two_that_both_send_before_they_read_do_not_wait_for_each_other(
    parent_or_uvloop: Parent, way: str
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            CHILDREN / way / "trade.py",
            [str(4 * MiB)],
            exec_path=sys.executable,
            env=environment(),
        ) as child:
            await child.send("p" * 4 * MiB)
            assert await child.recv() == "c" * 4 * MiB
            assert await child.recv() == 4 * MiB

    parent_or_uvloop.run(scenario())
