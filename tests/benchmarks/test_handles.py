"""The works on handles: what is handed over, what is taken, and what a wrong one leads to."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import nodecompat.asyncio.channel
import nodecompat.sync.channel
from benchmarks.handles import (
    connection,
    give_handles,
    give_handles_async,
    take_handle,
    take_handles,
    take_handles_async,
)
from benchmarks.plays import PlayError, small_message
from benchmarks.runner import MeasurementError, run_process
from benchmarks.workloads import PEERS
from nodecompat.connection import Connection
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.handle_support import same_descriptors as same_descriptors
from tests.handle_support import stack as stack
from tests.handle_support import tcp_pair
from tests.support import LIMIT, Background

_HANDLES_CJS = Path(__file__).parents[2] / "benchmarks" / "handles.cjs"
_COUNT = 5


@contextmanager
def _joined() -> Iterator[tuple[Connection, Connection]]:
    near, far = (Connection(UnixTransport(end), ChannelProtocol()) for end in channel_pair())
    try:
        yield near, far
    finally:
        for each in (near, far):
            if not each.closed:
                each.abort()


def test_a_connection_is_joined_while_it_is_used_and_leaves_nothing() -> None:
    with connection() as sock:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_a_handle_that_is_taken_is_closed(stack: ExitStack) -> None:
    sock = tcp_pair(stack).near
    take_handle(small_message(3), sock, 3)
    assert sock.fileno() == -1


def test_a_handle_with_the_wrong_message_is_an_error_and_closed(stack: ExitStack) -> None:
    sock = tcp_pair(stack).near
    with pytest.raises(PlayError, match=r"expected message 4, got .*'id': 3"):
        take_handle(small_message(3), sock, 4)
    assert sock.fileno() == -1


def test_a_message_without_a_handle_is_an_error() -> None:
    with pytest.raises(PlayError, match=r"expected a handle with .*'id': 3"):
        take_handle(small_message(3), None, 3)


def test_every_handle_is_given_and_taken_on_the_blocking_channel() -> None:
    with _joined() as (near, far):
        giving = Background(lambda: give_handles(nodecompat.sync.channel.Channel(near), _COUNT))
        taker = nodecompat.sync.channel.Channel(far)
        take_handles(taker, _COUNT)
        giving.result()
        with pytest.raises(TimeoutError):
            taker.recv(timeout=0)


def test_every_handle_is_given_and_taken_on_asyncio() -> None:
    async def main() -> None:
        with _joined() as (near, far):
            taker = nodecompat.asyncio.channel.Channel(far)
            async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
                giver = nodecompat.asyncio.channel.Channel(near)
                group.create_task(give_handles_async(giver, _COUNT))
                group.create_task(take_handles_async(taker, _COUNT))
            with pytest.raises(TimeoutError):
                await taker.recv(timeout=0)

    asyncio.run(main())


# ------------------------------------------------------------------------------ Node's programs

# Stands in for a process to hand over to: what it was sent goes to stdout, one line each.
_GIVE = """
const handles = require(process.argv[1]);
const left = JSON.parse(process.argv[2]);
let waiting = 0;
const peer = {
  send(message, socket, options, callback) {
    waiting += 1;
    console.log(JSON.stringify([message, socket.remoteAddress, options, waiting]));
    setImmediate(() => {
      waiting -= 1;
      callback(left.length === 1 ? new Error(left[0]) : null);
    });
  },
};
handles.giveHandles(peer, 3, (id) => id, () => console.log(JSON.stringify("done")));
"""
_SENT = [[id, "127.0.0.1", {"keepOpen": True}, 1] for id in range(3)]


def _run_give(node: str, errors: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [node, "-e", _GIVE, str(_HANDLES_CJS), json.dumps(errors)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def test_node_gives_one_connection_each_time_after_the_one_before(node: str) -> None:
    # It ends by itself, so it has closed what it listened and connected with.
    ran = _run_give(node, [])
    assert ran.stderr == ""
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [*_SENT, "done"]


def test_node_stops_at_a_handle_that_cannot_be_given(node: str) -> None:
    ran = _run_give(node, ["no luck"])
    assert ran.returncode != 0
    assert "Error: no luck" in ran.stderr
    assert [json.loads(line) for line in ran.stdout.splitlines()] == _SENT[:1]


# The other side of a work on handles that sends messages alone.
_BARE_CHILD = """
process.once("message", (work) => {
  process.once("message", () => process.send({ id: 0 }));
  process.send({ ready: work.work, runtime: "bare", cpu: 0 });
});
"""
_BARE_PARENT = """
const { fork } = require("child_process");
const [program, execPath] = process.argv.slice(2);
const child = fork(program, [], { execPath, stdio: ["ignore", "inherit", "inherit", "ipc"] });
child.once("message", () => {
  child.send({ run: 1 });
  child.send({ id: 0 });
});
child.on("message", (message) => message.report && child.disconnect());
child.once("exit", (code) => process.exit(code === 0 ? 0 : 1));
child.send({ work: "handles-to-child", size: 0 });
"""
_MISSED = r"expected a (socket|handle) with .*id.*0"


@pytest.mark.parametrize("name", ["node", "sync", "asyncio"])
def test_a_parent_refuses_a_message_without_a_handle(node: str, name: str, tmp_path: Path) -> None:
    child = tmp_path / "bare_child.cjs"
    child.write_text(_BARE_CHILD, encoding="utf-8")
    job: dict[str, Any] = {
        "work": {"work": "handles-to-parent", "size": 0},
        "count": 1,
        "warmup": 0,
        "child": {"module": str(child), "execPath": node, "execArgv": []},
        "serialization": "json",
    }
    peer = PEERS[name]
    with pytest.raises(MeasurementError, match=_MISSED):
        run_process([_interpreter(name, node), str(peer.parent), json.dumps(job)], LIMIT)


@pytest.mark.parametrize("name", ["node", "sync", "asyncio", "process"])
def test_a_child_refuses_a_message_without_a_handle(node: str, name: str, tmp_path: Path) -> None:
    parent = tmp_path / "bare_parent.cjs"
    parent.write_text(_BARE_PARENT, encoding="utf-8")
    command = [node, str(parent), str(PEERS[name].child), _interpreter(name, node)]
    with pytest.raises(MeasurementError, match=_MISSED):
        run_process(command, LIMIT)


def _interpreter(name: str, node: str) -> str:
    return node if PEERS[name].interpreter == "node" else sys.executable
