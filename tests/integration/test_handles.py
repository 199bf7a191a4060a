"""Handles between Python and real Node: every kind, both ways, many at once, who closes what."""

from __future__ import annotations

import contextlib
import inspect
import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import nodecompat.asyncio
import nodecompat.sync
from nodecompat import ChannelClosed, HandleNotReceived, InvalidHandle
from tests.integration import handle_plays
from tests.integration.handle_plays import (
    KINDS,
    LARGE,
    Blocking,
    Talker,
    Waiting,
    connection,
    listener,
    read_all,
    take_numbers,
    tcp_pair,
)
from tests.integration.support import (
    Parent,
    Way,
    major,
    run,
)
from tests.support import Background, connection_and_peer, lines

MANY: Final = 2000
WARM_UP: Final = 20
"""Node opens some descriptors of its own for its first sockets."""


def talker(parent: Parent, child: Any) -> Talker:
    """The channel to a child, as the plays use it; for any kind of parent."""
    return Blocking(child._child) if parent.name == "sync" else Waiting(child)


async def result(value: Any) -> Any:
    """What a call returns, whether it blocks or is a coroutine."""
    return await value if inspect.isawaitable(value) else value


# ------------------------------------------------------------------------------------ every kind

NODE_KINDS: Final = (
    *KINDS,
    "socket-tcp-accepted",
    "socket-unix-accepted",
    "socket-twice",
)

_TYPES: Final = {
    "server": "Server",
    "native-server-tcp": "TCP",
    "native-server-unix": "Pipe",
    "native-socket-tcp": "TCP",
    "native-socket-unix": "Pipe",
    "native-udp4": "UDP",
    "bound": "BoundSocket",
}
"""What Node makes of a kind, or of those that begin so; of all others a Socket."""


def kinds_of(kinds: tuple[str, ...], node: str) -> list[str]:
    # An older Node has no net.BoundSocket, and dies of one.
    return [*kinds, *(["bound"] if major(node) >= 26 else [])]


def _family(kind: str) -> str:
    return "AF_UNIX" if "unix" in kind else "AF_INET6" if "udp6" in kind else "AF_INET"


def taken_by_python(kinds: list[str]) -> dict[str, Any]:
    """What handing over handles of these kinds to Python must give."""
    given: dict[str, Any] = {}
    for kind in kinds:
        got: dict[str, Any] = {
            "family": _family(kind),
            "type": "SOCK_DGRAM" if "udp" in kind else "SOCK_STREAM",
            "listening": "server" in kind or kind == "bound",
            "blocks": True,
            "inheritable": False,
            # The flag is shared: Node would hang if it were cleared.
            "nonBlocking": True,
        }
        given[kind] = {"got": _sized(kind, got), "answer": _answer(kind, "python")}
        if kind == "socket-twice":
            given["again"] = {"got": None}
    return given


def taken_by_node(kinds: list[str]) -> dict[str, Any]:
    """What handing over handles of these kinds to Node must give."""
    types = {
        kind: next((name for start, name in _TYPES.items() if kind.startswith(start)), "Socket")
        for kind in kinds
    }
    return {
        kind: {
            "got": _sized(kind, {"type": name, "nonBlocking": True}),
            "answer": _answer(kind, "node"),
        }
        for kind, name in types.items()
    }


def _sized(kind: str, got: dict[str, Any]) -> dict[str, Any]:
    return {**got, "characters": LARGE} if kind == "socket-large" else got


def _answer(kind: str, who: str) -> str:
    answer = f"{who}: ping\n"
    return f"from the giver\n{answer}still here\n" if kind == "socket-kept" else answer


def test_every_kind_travels_between_a_node_parent_and_a_python_child(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    to_python, to_node = kinds_of(NODE_KINDS, node), kinds_of(KINDS, node)
    done = run(
        node,
        fixtures_dir / "handles-kinds.cjs",
        json.dumps({"give": to_python}),
        *way_or_uvloop.command("handles_play.py", "kinds", json.dumps(to_node)),
    )
    assert done.node["given"] == taken_by_python(to_python)
    assert done.node["taken"] == taken_by_node(to_node)


def test_every_kind_travels_between_a_python_parent_and_a_node_child(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    to_node, to_python = kinds_of(KINDS, node), kinds_of(NODE_KINDS, node)

    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-kinds.cjs", [json.dumps({"give": to_python})], exec_path=node
        ) as child:
            channel = talker(parent_or_uvloop, child)
            assert await handle_plays.give(channel, to_node) == taken_by_node(to_node)
            await handle_plays.take(channel)
            assert await child.recv() == taken_by_python(to_python)

    parent_or_uvloop.run(scenario())


def test_every_kind_travels_between_python_and_python(parent_or_uvloop: Parent, way: Way) -> None:
    kinds = [*KINDS, "bound"]
    program, *arguments = way.command("handles_play.py", "kinds", json.dumps(kinds))

    async def scenario() -> None:
        async with parent_or_uvloop.spawn(program, arguments) as child:
            channel = talker(parent_or_uvloop, child)
            assert await handle_plays.give(channel, kinds) == taken_by_python(kinds)
            await handle_plays.take(channel)
            assert await child.recv() == taken_by_python(kinds)

    parent_or_uvloop.run(scenario())


def test_node_and_node_hand_over_every_kind_just_so(node: str, fixtures_dir: Path) -> None:
    # What the tests above compare with is what Node itself does.
    play = [str(fixtures_dir / "handles-kinds.cjs"), json.dumps({"give": list(KINDS)})]
    done = run(node, *play, node, *play)
    assert done.node == {
        "given": taken_by_node(list(KINDS)),
        "taken": taken_by_node(list(KINDS)),
    }


# ------------------------------------------------------------------------------------------- HTTP


def check_http(seen: dict[str, Any]) -> None:
    """Each side has answered, and each request was answered by the side that served it."""
    answers = seen["answers"]
    assert answers.keys() == {"node", "python"}
    assert min(answers.values()) >= handle_plays.ENOUGH
    assert sum(answers.values()) == seen["asked"]
    assert seen["served"] == answers


@pytest.mark.parametrize("opener", ["node", "python"])
def test_a_node_parent_and_a_python_child_serve_http_on_one_server(
    node: str, way_or_uvloop: Way, fixtures_dir: Path, opener: str
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-http.cjs",
        json.dumps({"opens": opener == "node"}),
        *way_or_uvloop.command("handles_play.py", "http", json.dumps(opener == "python")),
    )
    check_http(done.node)


@pytest.mark.parametrize("opener", ["node", "python"])
def test_a_python_parent_and_a_node_child_serve_http_on_one_server(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path, opener: str
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-http.cjs",
            [json.dumps({"opens": opener == "node"})],
            exec_path=node,
        ) as child:
            channel = talker(parent_or_uvloop, child)
            if opener == "python":
                check_http(await handle_plays.http_opening(channel))
            else:
                await handle_plays.http_joining(channel)
                check_http(await child.recv())

    parent_or_uvloop.run(scenario())


# ------------------------------------------------------------------------------------------- many


def check_many(seen: dict[str, Any], *rounds: int) -> None:
    """Everything arrived in order and was answered, and no descriptor is left on either side."""
    complete = [{"received": count, "answered": count, "wrong": []} for count in rounds]
    assert seen["rounds"] == complete
    assert seen["peer"] == complete
    for descriptors in (seen["descriptors"], seen["peerDescriptors"]):
        assert len(set(descriptors)) == 1, seen


# Alone each takes seconds; not so beside other work on a small machine.
@pytest.mark.timeout(120)
def test_a_node_parent_and_a_python_child_hand_each_other_thousands_of_sockets_at_once(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-many.cjs",
        json.dumps({"rounds": [WARM_UP, MANY]}),
        *way_or_uvloop.command("handles_play.py", "many", json.dumps([WARM_UP, MANY])),
    )
    check_many(done.node, WARM_UP, MANY)


@pytest.mark.timeout(120)
def test_a_python_parent_and_a_node_child_hand_each_other_thousands_of_sockets_at_once(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-many.cjs",
            [json.dumps({"rounds": [WARM_UP, MANY]})],
            exec_path=node,
        ) as child:
            channel = talker(parent_or_uvloop, child)
            check_many(await handle_plays.many(channel, [WARM_UP, MANY]), WARM_UP, MANY)

    parent_or_uvloop.run(scenario())


@pytest.mark.timeout(120)
def test_python_and_python_hand_each_other_thousands_of_sockets_at_once(
    parent_or_uvloop: Parent, way: Way
) -> None:
    rounds = [WARM_UP, MANY]
    program, *arguments = way.command("handles_play.py", "many", json.dumps(rounds))

    async def scenario() -> None:
        async with parent_or_uvloop.spawn(program, arguments) as child:
            channel = talker(parent_or_uvloop, child)
            check_many(await handle_plays.many(channel, rounds), *rounds)

    parent_or_uvloop.run(scenario())


BURST: Final = 200


@pytest.mark.parametrize("then", ["stays", "disconnects"])
def test_a_burst_of_bare_handles_from_a_node_parent_arrives_whole(
    node: str, way_or_uvloop: Way, fixtures_dir: Path, then: str
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-burst.cjs",
        json.dumps({"count": BURST, "disconnect": then == "disconnects"}),
        *way_or_uvloop.command("handles_play.py", "burst"),
    )
    assert done.python == {"taken": BURST, "wrong": []}
    assert done.node == {"answers": [str(n) for n in range(BURST)]}


def test_a_burst_of_bare_handles_from_a_node_child_arrives_whole(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-burst.cjs", [json.dumps({"count": BURST})], exec_path=node
        ) as child:
            taken = await take_numbers(talker(parent_or_uvloop, child))
            assert taken == {"taken": BURST, "wrong": []}
            assert await child.recv() == {"answers": [str(n) for n in range(BURST)]}

    parent_or_uvloop.run(scenario())


# ------------------------------------------------------------------------------------------- ends


def test_a_disconnect_waits_for_the_handles_that_are_on_their_way(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-take.cjs",
        *way_or_uvloop.command("handles_play.py", "leave", str(BURST)),
    )
    assert done.node == {"taken": BURST, "wrong": []}
    assert done.python == {"answers": [str(n) for n in range(BURST)]}


def test_an_exit_waits_for_the_handles_that_are_on_their_way(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-take.cjs",
        *way_or_uvloop.command("handles_play.py", "exit", str(BURST)),
    )
    assert done.node == {"taken": BURST, "wrong": []}


def test_a_child_without_descriptors_refuses_a_handle_and_takes_the_next(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-starved.cjs",
        *way_or_uvloop.command("handles_play.py", "starved"),
    )
    assert done.node == {"answers": ["", "1"], "warnings": ["SentHandleNotReceivedWarning"]}


def test_a_node_child_without_descriptors_refuses_a_handle_and_takes_the_next(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-hold.cjs", exec_path=node
        ) as child:
            await child.send("ping")
            assert await child.recv() == "pong"
            limits = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
            mine, theirs = socket.socketpair()
            with mine, theirs:
                with pytest.raises(HandleNotReceived, match="4 transmissions"):
                    await child.send({"hold": 0}, theirs)
                resource.prlimit(child.pid, resource.RLIMIT_NOFILE, limits)
                # It is still here, and whole.
                await child.send({"hold": 0}, theirs)
                assert await child.recv() == {"held": 0}
                await child.send({"close": 0})
                assert read_all(mine) == ""

    parent_or_uvloop.run(scenario())


def test_a_send_without_a_descriptor_to_spare_fails_alone(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "handles-hold.cjs", exec_path=node) as child:
            await child.send("ping")
            assert await child.recv() == "pong"
            mine, theirs = socket.socketpair()
            with mine, theirs:
                limits = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
                try:
                    with pytest.raises(OSError, match="Too many open files"):
                        await child.send({"hold": 0}, theirs)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                await child.send({"hold": 0}, theirs)
                assert await child.recv() == {"held": 0}
                await child.send({"close": 0})
                assert read_all(mine) == ""

    parent.run(scenario())


def test_a_socket_stays_here_when_its_taker_dies(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-hold.cjs", exec_path=node
        ) as child:
            await child.send("ping")
            assert await child.recv() == "pong"
            child.kill("SIGSTOP")
            mine, theirs = tcp_pair()

            async def send() -> None:
                with pytest.raises(HandleNotReceived):
                    await child.send({"hold": 0}, theirs)

            async def kill() -> None:
                child.kill("SIGKILL")

            await parent_or_uvloop.at_once(send(), kill())
            with theirs:
                theirs.sendall(b"not gone")
            assert read_all(mine) == "not gone"

    parent_or_uvloop.run(scenario())


def test_what_waits_behind_a_handle_fails_when_the_taker_dies(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent_or_uvloop.fork(
            fixtures_dir / "handles-hold.cjs", exec_path=node
        ) as child:
            await child.send("ping")
            assert await child.recv() == "pong"
            child.kill("SIGSTOP")

            async def send(handle: socket.socket | None, error: type[Exception]) -> None:
                with pytest.raises(error):
                    await child.send({"hold": 0}, handle)

            async def kill() -> None:
                child.kill("SIGKILL")

            pairs = [socket.socketpair() for _ in range(2)]
            await parent_or_uvloop.at_once(
                send(pairs[0][1], HandleNotReceived),
                send(pairs[1][1], HandleNotReceived),
                send(None, ChannelClosed),
                kill(),
            )
            for mine, theirs in pairs:
                theirs.close()
                assert read_all(mine) == ""

    parent_or_uvloop.run(scenario())


# ------------------------------------------------------------------------------------------ owners


def test_a_node_parent_counts_the_connections_that_its_python_child_has(
    node: str, way_or_uvloop: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-counted.cjs",
        *way_or_uvloop.command("handles_play.py", "hold"),
    )
    assert done.node == {
        # All three, two of them given away, one of those closed, its own closed.
        "connections": [3, 3, 2, 1],
        "order": ["pong", "told to close", "server closed"],
        "left": 0,
    }


def test_a_counted_connection_that_is_forgotten_is_closed_with_a_warning(
    node: str, way: Way, fixtures_dir: Path
) -> None:
    done = run(
        node,
        fixtures_dir / "handles-counted.cjs",
        *way.command("handles_play.py", "forget"),
        stderr=True,
    )
    # The clients see the end of their connections, or Node would not have ended.
    assert done.node["left"] == 0
    assert done.node["connections"] == [3, 3, 2, 1]
    assert done.stderr.count("ResourceWarning: unclosed") == 2


def test_node_itself_counts_connections_so(node: str, fixtures_dir: Path) -> None:
    done = run(node, fixtures_dir / "handles-counted.cjs", node, fixtures_dir / "handles-hold.cjs")
    assert done.node["connections"] == [3, 3, 2, 1]
    assert done.node["order"] == ["pong", "told to close", "server closed"]


def test_a_connection_that_is_closed_while_the_channel_is_busy_is_reported_too() -> None:
    with connection_and_peer() as (connection, peer):
        channel = nodecompat.sync.Channel(connection)
        mine, theirs = socket.socketpair()
        with mine, theirs:
            carrier = {"cmd": "NODE_HANDLE", "type": "net.Socket", "key": "list", "msg": "yours"}
            peer.write_bytes(lines(carrier), theirs.fileno())
            _, sock = channel.recv_with_handle()
            assert sock is not None
            assert peer.read_message() == {"cmd": "NODE_HANDLE_ACK"}
            peer.write({"cmd": "NODE_SOCKET_NOTIFY_CLOSE", "key": "list"}, "asked")
            assert channel.recv() == "asked"
            # Another thread has the channel for a while: it reads a large message, say.
            with connection.lock:
                Background(sock.close).result()
            # Nothing else happens on the channel, and somebody waits in it.
            waiting = Background(channel.recv)
            assert peer.read_message() == {"cmd": "NODE_SOCKET_ALL_CLOSED", "key": "list"}
            peer.write("done")
            assert waiting.result() == "done"


@contextlib.contextmanager
def counting_server(parent: Parent) -> Iterator[tuple[Any, Any]]:
    """A ``Server`` of the parent's flavour, and its address."""
    module: Any = nodecompat.sync if parent.name == "sync" else nodecompat.asyncio
    sock = listener()
    with sock:
        yield module.Server(sock), sock.getsockname()


def hand_over(parent: Parent, server: Any, child: Any, *arguments: Any) -> Any:
    return server.hand_over(child._child if parent.name == "sync" else child, *arguments)


@pytest.mark.parametrize("last", ["the child", "this side"])
def test_a_server_counts_the_connections_that_its_node_children_have(
    node: str, parent_or_uvloop: Parent, fixtures_dir: Path, last: str
) -> None:
    order: list[str] = []

    async def scenario() -> None:
        holder = fixtures_dir / "handles-hold.cjs"
        with counting_server(parent_or_uvloop) as (server, address):
            async with (
                parent_or_uvloop.fork(holder, exec_path=node) as first,
                parent_or_uvloop.fork(holder, exec_path=node) as second,
            ):
                clients: list[socket.socket] = []
                accepted: list[socket.socket] = []
                for _ in range(4):
                    clients.append(connection(socket.AF_INET, address))
                    accepted.append((await result(server.accept()))[0])
                for number, child in enumerate((first, first, second)):
                    message, sock = {"hold": number}, accepted[number]
                    await result(hand_over(parent_or_uvloop, server, child, message, sock))
                    assert sock.fileno() == -1
                    assert await child.recv() == {"held": number}
                assert await result(server.connections()) == 4
                await first.send({"close": 0})
                assert await first.recv() == {"closed": 0}
                assert await result(server.connections()) == 3
                # What a child has open goes with the child.
                await second.send("exit")
                await second.wait()
                assert await result(server.connections()) == 2

                async def close() -> None:
                    await result(server.close())
                    order.append("closed")

                async def child_closes() -> None:
                    order.append("the child")
                    await first.send({"close": 1})
                    assert await first.recv() == {"closed": 1}

                async def this_side_closes() -> None:
                    order.append("this side")
                    accepted[3].close()

                async def let_it_close() -> None:
                    steps = [child_closes, this_side_closes]
                    for step in steps if last == "this side" else reversed(steps):
                        await ping()
                        await step()

                async def ping() -> None:
                    # More than once: what one answer sets going is done at the next.
                    for _ in range(3):
                        await first.send("ping")
                        assert await first.recv() == "pong"

                await parent_or_uvloop.at_once(close(), let_it_close())
                for client in clients:
                    assert read_all(client) == ""

    parent_or_uvloop.run(scenario())
    assert order[1:] == [last, "closed"]


def test_a_socket_that_has_moved_cannot_be_sent_again(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "handles-hold.cjs", exec_path=node) as child:
            mine, theirs = tcp_pair()
            await child.send({"hold": 0}, theirs)
            with pytest.raises(InvalidHandle, match="closed"):
                await child.send({"hold": 1}, theirs)
            assert await child.recv() == {"held": 0}
            await child.send({"close": 0})
            assert read_all(mine) == ""

    parent.run(scenario())


def test_a_socket_that_is_kept_open_can_be_sent_again(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "handles-hold.cjs", exec_path=node) as child:
            mine, theirs = tcp_pair()
            with mine:
                for number in (0, 1):
                    await child.send({"hold": number}, theirs, keep_open=True)
                    assert await child.recv() == {"held": number}
                for number in (0, 1):
                    await child.send({"close": number})
                    assert await child.recv() == {"closed": number}
                # Both copies of the child are closed: the connection is there as long as ours is.
                theirs.sendall(b"here")
                theirs.close()
                assert read_all(mine) == "here"

    parent.run(scenario())


def test_a_handle_that_recv_does_not_take_is_closed_with_a_warning(
    node: str, parent: Parent, fixtures_dir: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(
            fixtures_dir / "handles-burst.cjs", [json.dumps({"count": 1})], exec_path=node
        ) as child:
            with pytest.warns(ResourceWarning, match="was not taken"):
                assert await child.recv() == {"n": 0}
            assert await child.recv() == "last"
            # Node's end of it sees the end of the connection, and no answer.
            assert await child.recv() == {"answers": [""]}

    parent.run(scenario())


def test_what_cannot_travel_is_refused_and_the_channel_goes_on(
    node: str, parent: Parent, fixtures_dir: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with parent.fork(fixtures_dir / "handles-hold.cjs", exec_path=node) as child:
            with (
                (tmp_path / "file").open("w") as file,
                socket.socket() as unconnected,
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram,
            ):
                things: list[Any] = [file, file.fileno(), unconnected, datagram]
                for thing in things:
                    with pytest.raises(InvalidHandle):
                        await child.send({"hold": 0}, thing)
            await child.send("ping")
            assert await child.recv() == "pong"

    parent.run(scenario())
