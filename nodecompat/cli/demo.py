"""``nodecompat demo``: the main job on real processes, on the screen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import click
from rich.console import Console

from nodecompat import __version__
from nodecompat import asyncio as async_ipc
from nodecompat import sync as sync_ipc
from nodecompat.cli.demo_advanced import send_rich_values
from nodecompat.cli.demo_handles import hand_over_each_way
from nodecompat.cli.programs import (
    CHILD_JS,
    CHILD_PY,
    PARENT_JS,
    child_env,
    chosen_node,
    kill_group,
    node_version,
    python_version,
    readable,
)
from nodecompat.cli.stage import Failed, Screen, Stage, expect, forked
from nodecompat.errors import NodeIPCError, NodeNotFound

__all__ = ["demo"]

_ROUND_TRIPS: Final = 1000
_CHILDREN: Final = 4
_PRIMES_BELOW: Final = (400_000, 33_860)
_STDERR_SHOWN: Final = 4000


@click.command()
@click.option("--exec-path", metavar="PATH", help="The Node to use. Default: as fork() finds it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="The time that each part may take.",
)
def demo(exec_path: str | None, timeout: float) -> int:
    """Show messages between real Node and Python processes.

    Starts them, shows who says what to whom, and checks every answer. Exit status: 0, or 1 if any
    part failed.
    """
    screen = Screen(Console(markup=False, highlight=False, emoji=False))
    began = time.monotonic()
    try:
        node = chosen_node(exec_path).path
    except NodeNotFound as error:
        raise click.ClickException(str(error)) from error
    failed: list[str] = []
    for number, part in enumerate(_PARTS, 1):
        screen.title(f"{number}. {part.title}")
        if not _play(part, screen, node, timeout):
            failed.append(str(number))
    try:
        version = node_version(node, timeout=timeout)
    except RuntimeError as error:
        version = f"(version unknown: {error})"
    screen.title("Result")
    if failed:
        screen.bad(f"{len(failed)} of {len(_PARTS)} parts failed: {', '.join(failed)}")
    else:
        screen.good(f"all {len(_PARTS)} parts passed")
    screen.note(f"Node {version}, {python_version()}, nodecompat {__version__}")
    screen.note(f"{time.monotonic() - began:.2f} s in all")
    return 1 if failed else 0


@dataclass(frozen=True)
class _Part:
    title: str
    play: Callable[[Stage], None]


def _play(part: _Part, screen: Screen, node: str, limit: float) -> bool:
    began = time.monotonic()
    with tempfile.TemporaryFile() as stderr:
        stage = Stage(screen, node, limit, stderr)
        try:
            part.play(stage)
            # A program that was ended at the last moment may still have looked well.
            if stage.expired:
                raise TimeoutError
        except Exception as error:
            if stage.expired or type(error) is TimeoutError:
                screen.bad(f"failed: not done within {limit:g} s")
            elif isinstance(error, (Failed, NodeIPCError, OSError)):
                screen.bad(f"failed: {error}")
            else:
                screen.bad("failed: this is a bug in nodecompat")
                screen.output(traceback.format_exc())
            stderr.seek(0)
            wrote = readable(stderr.read())
            if wrote.strip():
                screen.note("the programs wrote:")
                screen.output(wrote[-_STDERR_SHOWN:])
            return False
    screen.good(f"passed in {time.monotonic() - began:.2f} s")
    return True


# ---------------------------------------------------------------------- a Node parent


def _node_parent(stage: Stage) -> None:
    process = subprocess.Popen(
        [stage.node, PARENT_JS, sys.executable, CHILD_PY],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stage.stderr,
        env=child_env(),
        # A group of their own, so that parent and child can be ended together.
        start_new_session=True,
    )
    assert process.stdout is not None
    done = False
    try:
        with stage.limited(lambda: _end(process)):
            for line in process.stdout:
                done = _show_report(stage.screen, line) or done
            status = process.wait()
    except BaseException:
        _end(process)
        process.wait()
        raise
    finally:
        process.stdout.close()
    if status != 0 or not done:
        raise Failed(f"the Node parent ended with status {status} before all was said")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        kill_group(process.pid)


def _show_report(screen: Screen, line: bytes) -> bool:
    """Show one line of what parent.cjs reports; true for the last one."""
    try:
        report = json.loads(line)
        event = report["event"]
    except (ValueError, TypeError, KeyError) as error:
        raise Failed(f"the Node parent printed what is no report: {line[:200]!r}") from error
    match event:
        case "forked":
            screen.note(f"Node forked Python, pid {report['pid']}")
        case "sent":
            screen.sent("Node", "Python", report["message"])
        case "received":
            screen.received("Node", "Python", report["message"])
        case "note":
            screen.note(report["text"])
        case "failed":
            raise Failed(f"the Node parent says: {report['why']}")
    return bool(event == "done")


# ---------------------------------------------------------------------- a Python parent


@contextlib.contextmanager
def _node_child(stage: Stage) -> Iterator[sync_ipc.Child]:
    """A Node child that has introduced itself."""
    with forked(stage, CHILD_JS) as child:
        introduced = _ask(stage, child, {"do": "introduce"})
        expect("the pid that the child tells", introduced["pid"], child.pid)
        yield child


def _ask(stage: Stage, child: sync_ipc.Child, message: Any) -> Any:
    child.send(message)
    stage.screen.sent("Python", "Node", message)
    reply = child.recv()
    stage.screen.received("Python", "Node", reply)
    return reply


def _python_parent(stage: Stage) -> None:
    with _node_child(stage) as child:
        words = ["zebra", "ähre", "Apfel"]
        words_sorted = _ask(stage, child, {"do": "sort", "words": words, "locale": "de"})
        expect("the sorted words", words_sorted, ["ähre", "Apfel", "zebra"])

        value: dict[str, object] = {
            "text": "Grüße, 世界 🐍",
            "nested": [None, True, -0.5, {"empty": []}],
        }
        expect("the echo", _ask(stage, child, {"do": "echo", "value": value}), value)

        child.send_many({"do": "echo", "value": number} for number in range(_ROUND_TRIPS))
        numbers = [child.recv() for _ in range(_ROUND_TRIPS)]
        expect("the numbers, in order", numbers, list(range(_ROUND_TRIPS)))
        stage.screen.note(f"{_ROUND_TRIPS} more messages there and back, in order")


def _several_children(stage: Stage) -> None:
    asyncio.run(_count_primes(stage))


async def _count_primes(stage: Stage) -> None:
    below, count = _PRIMES_BELOW
    share = below // _CHILDREN

    async def count_share(index: int) -> int:
        name = f"Node {index + 1}"
        question = {"do": "primes", "from": index * share, "below": (index + 1) * share}
        async with async_ipc.fork(CHILD_JS, exec_path=stage.node, stdio=stage.stdio) as child:
            try:
                await child.send(question)
                stage.screen.sent("Python", name, question)
                async for message in child:
                    stage.screen.received("Python", name, message)
                    if "primes" in message:
                        return int(message["primes"])
            except BaseException:
                # Out of time, or another child has failed: leaving would wait for this one.
                child.kill("SIGKILL")
                raise
        raise Failed(f"{name} disconnected before it had counted")

    try:
        async with asyncio.timeout(stage.limit), asyncio.TaskGroup() as group:
            tasks = [group.create_task(count_share(index)) for index in range(_CHILDREN)]
    except ExceptionGroup as failures:
        # The first to fail made the group cancel the others.
        raise failures.exceptions[0] from None
    counts = [task.result() for task in tasks]
    expect(f"the number of primes below {below}", sum(counts), count)
    stage.screen.note(f"{' + '.join(map(str, counts))} = {count} primes below {below}")


_PARTS: Final = (
    _Part("A Node parent with a Python child, JSON", _node_parent),
    _Part("A Python parent with a Node child, JSON", _python_parent),
    _Part(f"An asyncio parent with {_CHILDREN} Node children at once", _several_children),
    _Part("A server and a connection handed each way", hand_over_each_way),
    _Part("What JSON cannot carry, in advanced mode", send_rich_values),
)
