"""A Python child of a real Node parent: how the channel begins and ends, for both sides."""

from __future__ import annotations

from pathlib import Path

from tests.integration.support import ENDED, MiB, Way, options, run


def test_node_sees_the_messages_then_disconnect_then_exit(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        "{}",
        *way_or_uvloop.command("burst.py", "3", "sys.exit"),
        stderr=True,
    )
    assert done.node["events"] == [
        ["message", 0],
        ["message", 1],
        ["message", 2],
        ["disconnect"],
        ["exit", 3, None],
    ]


def test_a_child_that_disconnects_may_live_on(node: str, way: Way, fixtures_dir: Path) -> None:
    # Its stdin ends once Node has seen the disconnect: it would not come at the exit alone.
    done = run(
        node, fixtures_dir / "record.cjs", options(go="disconnect"), *way.command("leave.py")
    )
    assert done.node["events"] == [["message", "goodbye"], ["disconnect"], ["exit", 0, None]]
    assert done.python == {
        "connected": False,
        "send": "ERR_IPC_CHANNEL_CLOSED",
        "disconnect": "ERR_IPC_DISCONNECTED",
    }


def test_a_parent_that_disconnects_ends_the_messages_of_its_child(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        options(send=[1, {"two": 2}, None], disconnectAfter=0),
        *way_or_uvloop.command("record.py"),
    )
    assert done.python == {**ENDED, "messages": [1, {"two": 2}, None]}
    assert done.node["events"] == [["disconnect"], ["exit", 0, None]]


def test_messages_from_before_the_child_listens_are_kept(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    # Also past the end of the channel: the child goes on after the parent has disconnected.
    done = run(
        node,
        fixtures_dir / "record.cjs",
        options(send=["early", "bird"], disconnectAfter=0, go="disconnect"),
        *way.command("record.py", "--late"),
    )
    assert done.python == {**ENDED, "messages": ["early", "bird"]}


def test_a_parent_that_exits_ends_the_channel(node: str, way: Way, fixtures_dir: Path) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        options(send=["last words"], exitAfter=0),
        *way.command("record.py"),
    )
    assert done.python == {**ENDED, "messages": ["last words"]}
    assert done.returncode == 0


def test_a_parent_killed_in_the_middle_of_a_message_ends_the_channel(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "record.cjs",
        options(send=[1, 2, 3], large=64 * MiB, die=True),
        *way.command("record.py"),
        stderr=True,
    )
    assert done.returncode == -9
    assert done.python == {**ENDED, "messages": [1, 2, 3]}
    assert "the channel ended in the middle of a message" in done.stderr


def test_a_child_killed_in_the_middle_of_a_message_ends_the_channel(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    # Killed at the third message, while the child waits for Node to take the fourth.
    done = run(
        node,
        fixtures_dir / "record.cjs",
        options(killAfter=3),
        *way.command("large.py", str(64 * MiB)),
    )
    assert done.node["events"] == [
        ["message", 0],
        ["message", 1],
        ["message", 2],
        ["disconnect"],
        ["exit", None, "SIGKILL"],
    ]


def test_a_node_grandchild_does_not_abort_and_does_not_hold_the_channel_open(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "family.cjs",
        *way_or_uvloop.command("grandchild.py", node, fixtures_dir / "grandchild.cjs"),
    )
    assert done.node == {
        "says": {"send": "undefined", "connected": "undefined", "variables": []},
        "aliveAtDisconnect": True,
        "exit": [0, None],
    }
