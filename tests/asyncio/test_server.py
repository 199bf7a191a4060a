"""The server for asyncio: it hands connections to children and knows how many are open anywhere."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import pytest

from nodecompat.asyncio import Server
from nodecompat.asyncio.channel import Channel
from nodecompat.connection import Connection
from nodecompat.errors import ChannelClosed, HandleNotReceived, InvalidHandle, MessageError
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.handle_support import HandlePeer, Pair, at_end, still_joined, tcp_server
from tests.handle_support import same_descriptors as same_descriptors
from tests.handle_support import stack as stack
from tests.support import LIMIT, Background, is_open

T = TypeVar("T")


class Child(NamedTuple):
    """Both ends of the channel to a child that the test plays."""

    channel: Channel
    peer: HandlePeer


class Parent:
    """A program with a server, which hands what is connected to children."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        sock = stack.enter_context(tcp_server(stack))
        self.address = sock.getsockname()
        self.key = f"4:127.0.0.1:{self.address[1]}"
        self.server = Server(sock)

    def child(self) -> Child:
        near, far = channel_pair()
        connection = Connection(UnixTransport(near), ChannelProtocol())
        channel = Channel(connection)
        self._stack.callback(lambda: None if connection.closed else connection.abort())
        return Child(channel, self._stack.enter_context(HandlePeer(far)))

    async def connect(self) -> Pair:
        """A new connection: the server's end and the client's."""
        client = self._stack.enter_context(socket.create_connection(self.address, LIMIT))
        sock, address = await self.server.accept()
        assert address == client.getsockname()
        return Pair(self._stack.enter_context(sock), client)

    async def hand_over(self, child: Child) -> socket.socket:
        """A new connection that goes to the child; the client's end."""
        pair = await self.connect()
        handing = await _started(self.server.hand_over(child.channel, "yours", pair.near))
        child.peer.close_handle()
        child.peer.ack()
        await handing
        return pair.far

    def asked(self, child: Child, cmd: str) -> None:
        """The next that the child reads is this question."""
        assert child.peer.read_message() == {"cmd": cmd, "key": self.key}

    def answer_count(self, child: Child, count: int) -> None:
        self.asked(child, "NODE_SOCKET_GET_COUNT")
        child.peer.write({"cmd": "NODE_SOCKET_COUNT", "key": self.key, "count": count})

    def answer_closed(self, child: Child) -> None:
        child.peer.write({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": self.key})


def in_a_parent(play: Callable[[Parent], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a coroutine with a parent."""

    def test() -> None:
        async def main() -> None:
            with ExitStack() as stack:
                parent = Parent(stack)
                async with parent.server, asyncio.timeout(LIMIT):
                    await play(parent)

        asyncio.run(main())

    test.__name__ = getattr(play, "__name__", "")
    test.__doc__ = play.__doc__
    return test


def _watch_for_other_threads(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Which calls of ``call_soon`` come from other threads, from now on; they do no harm."""
    unsafe: list[str] = []
    owner = threading.get_ident()
    call_soon = loop.call_soon

    def watched(callback: Any, *args: Any, **options: Any) -> asyncio.Handle:
        if threading.get_ident() == owner:
            return call_soon(callback, *args, **options)
        unsafe.append(f"call_soon({callback})")
        return loop.call_soon_threadsafe(callback, *args, **options)

    setattr(loop, "call_soon", watched)  # noqa: B010
    return unsafe


async def _started(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has come to the place where it waits for others."""
    task = asyncio.create_task(call)
    await _a_few_turns()
    return task


async def _a_few_turns() -> None:
    """Let every task go on that can."""
    for _ in range(10):
        await asyncio.sleep(0)


# ------------------------------------------------------------------------------------------ here


@in_a_parent
async def test_accept_gives_a_connection_that_does_not_block(parent: Parent) -> None:
    pair = await parent.connect()
    assert pair.near.gettimeout() == 0.0
    pair.near.setblocking(True)
    assert still_joined(pair)


@in_a_parent
async def test_accepting_waits_for_a_connection(parent: Parent) -> None:
    accepting = await _started(parent.server.accept())
    assert not accepting.done()
    with socket.create_connection(parent.address):
        sock, _ = await accepting
        sock.close()


@in_a_parent
async def test_connections_count_until_they_are_closed(parent: Parent) -> None:
    assert await parent.server.connections() == 0
    socks = [(await parent.connect()).near for _ in range(2)]
    assert await parent.server.connections() == 2
    socks[0].close()
    assert await parent.server.connections() == 1
    _, writer = await asyncio.open_connection(sock=socks[1])
    assert await parent.server.connections() == 1
    writer.close()
    await writer.wait_closed()
    assert await parent.server.connections() == 0


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@in_a_parent
async def test_forgotten_connection_is_closed_and_counts_no_more(parent: Parent) -> None:
    with socket.create_connection(parent.address):
        sock, _ = await parent.server.accept()
        fd = sock.fileno()
        del sock
        gc.collect()
        assert await parent.server.connections() == 0
        assert not is_open(fd)


@in_a_parent
async def test_close_stops_accepting_and_waits_for_the_connections_here(parent: Parent) -> None:
    pairs = [await parent.connect() for _ in range(2)]
    closing = await _started(parent.server.close())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(parent.address)
    pairs[0].near.close()
    await _a_few_turns()
    assert not closing.done()
    pairs[1].near.close()
    await closing


@in_a_parent
async def test_close_without_connections_returns(parent: Parent) -> None:
    await parent.server.close()
    await parent.server.close()
    assert parent.server.sock.fileno() == -1


@in_a_parent
async def test_close_may_be_cancelled_and_asked_for_again(parent: Parent) -> None:
    pair = await parent.connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await parent.server.close()
    assert parent.server.sock.fileno() == -1
    closing = await _started(parent.server.close())
    assert not closing.done()
    pair.near.close()
    await closing


@in_a_parent
async def test_close_notices_a_connection_that_another_thread_closes(parent: Parent) -> None:
    """It may lie in the hands of a thread pool; the loop has nothing else to do meanwhile."""
    pair = await parent.connect()
    closing = await _started(parent.server.close())
    unsafe = _watch_for_other_threads(asyncio.get_running_loop())
    Background(pair.near.close).result()
    await closing
    # Such a call does not wake the loop: it would have slept on until something else does.
    assert unsafe == []


@in_a_parent
async def test_close_ends_an_accept_that_waits(parent: Parent) -> None:
    """Else whoever accepts in a loop hangs, and its watch on the descriptor outlives that."""
    accepting = await _started(parent.server.accept())
    await parent.server.close()
    ended, _ = await asyncio.wait([accepting], timeout=1.0)
    accepting.cancel()
    await asyncio.wait([accepting])
    assert ended, "accept went on waiting on a closed server"


@in_a_parent
async def test_accept_that_is_cancelled_as_the_server_closes_is_cancelled(parent: Parent) -> None:
    accepting = await _started(parent.server.accept())
    accepting.cancel()
    await parent.server.close()
    await asyncio.wait([accepting])
    assert accepting.cancelled()


@in_a_parent
async def test_end_of_a_with_block_ends_an_accept_that_waits(parent: Parent) -> None:
    async with parent.server:
        accepting = await _started(parent.server.accept())
    with pytest.raises(OSError, match="the server is closed"):
        await accepting
    # The loop no longer watches that descriptor, which is now another socket's.
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        reading = await _started(asyncio.get_running_loop().sock_recv(near, 5))
        far.sendall(b"hello")
        assert await reading == b"hello"


@in_a_parent
async def test_accept_on_a_closed_server_says_so(parent: Parent) -> None:
    accepting = await _started(parent.server.accept())
    await parent.server.close()
    for call in (accepting, parent.server.accept()):
        with pytest.raises(OSError, match="the server is closed"):
            await call


@pytest.mark.parametrize("turns", range(6))
def test_connection_that_comes_as_accept_is_cancelled_is_the_next_ones(turns: int) -> None:
    async def play(parent: Parent) -> None:
        await _cancel_after(parent, turns)

    in_a_parent(play)()


async def _cancel_after(parent: Parent, turns: int) -> None:
    accepting = await _started(parent.server.accept())
    with socket.create_connection(parent.address, LIMIT) as client:
        # One of these is between its coming and its being taken.
        for _ in range(turns):
            await asyncio.sleep(0)
        accepting.cancel()
        await asyncio.wait([accepting])
        sock, address = await (parent.server.accept() if accepting.cancelled() else accepting)
        with sock:
            assert address == client.getsockname()


@pytest.mark.parametrize("bound", [False, True])
def test_socket_that_does_not_listen_is_refused(bound: bool, stack: ExitStack) -> None:
    sock = stack.enter_context(socket.socket())
    if bound:
        sock.bind(("127.0.0.1", 0))

    async def main() -> None:
        with pytest.raises(ValueError, match="has to listen: <socket"):
            Server(sock)

    asyncio.run(main())
    assert sock.getblocking()


@in_a_parent
async def test_child_that_has_gone_is_forgotten(parent: Parent) -> None:
    gone, here = parent.child(), parent.child()
    await parent.hand_over(gone)
    gone.peer.close()
    await _until(lambda: not gone.channel.connected)
    await parent.hand_over(here)
    assert parent.server._live_children() == [here.channel]
    assert parent.server._children == [here.channel]


@in_a_parent
async def test_end_of_a_with_block_closes_the_listener_and_no_connection(parent: Parent) -> None:
    async with parent.server:
        pair = await parent.connect()
    assert parent.server.sock.fileno() == -1
    pair.near.setblocking(True)
    assert still_joined(pair)


# ------------------------------------------------------------------------------------- children


@in_a_parent
async def test_handed_over_connection_travels_with_the_servers_key(parent: Parent) -> None:
    child = parent.child()
    pair = await parent.connect()
    handing = await _started(parent.server.hand_over(child.channel, {"for": "you"}, pair.near))
    message, arrived = child.peer.read_handle()
    assert message == {
        "cmd": "NODE_HANDLE",
        "type": "net.Socket",
        "msg": {"for": "you"},
        "key": parent.key,
    }
    assert not handing.done()
    assert pair.near.fileno() >= 0
    child.peer.ack()
    await handing

    assert pair.near.fileno() == -1
    with arrived:
        arrived.setblocking(True)
        assert still_joined(Pair(arrived, pair.far))


@in_a_parent
async def test_connections_are_counted_here_and_there(parent: Parent) -> None:
    children = [parent.child(), parent.child(), parent.child()]
    await parent.connect()
    for child in children[:2]:
        await parent.hand_over(child)
    await parent.hand_over(children[0])

    counting = await _started(parent.server.connections())
    parent.answer_count(children[0], 2)
    parent.answer_count(children[1], 1)
    assert await counting == 4
    assert all(child.peer.at_end() for child in children)


@in_a_parent
async def test_connection_that_no_child_took_still_counts_here(parent: Parent) -> None:
    child = parent.child()
    pair = await parent.connect()
    handing = await _started(parent.server.hand_over(child.channel, "yours", pair.near))
    for _ in range(4):
        child.peer.close_handle()
        child.peer.nack()
        await _until(lambda: handing.done() or not child.peer.at_end())
    with pytest.raises(HandleNotReceived):
        await handing

    counting = await _started(parent.server.connections())
    # Whether the child is asked does not matter.
    if not counting.done():
        parent.answer_count(child, 0)
    assert await counting == 1
    pair.near.setblocking(True)
    assert still_joined(pair)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@in_a_parent
async def test_hand_over_to_a_child_that_has_gone_fails_and_keeps_the_connection(
    parent: Parent,
) -> None:
    child = parent.child()
    child.peer.close()
    pair = await parent.connect()
    for _ in range(2):
        with pytest.raises((HandleNotReceived, ChannelClosed)):
            await parent.server.hand_over(child.channel, "yours", pair.near)
    assert await parent.server.connections() == 1


@in_a_parent
async def test_hand_over_of_what_cannot_travel_is_refused(parent: Parent) -> None:
    child = parent.child()
    pair = await parent.connect()
    pair.near.close()
    with pytest.raises(InvalidHandle):
        await parent.server.hand_over(child.channel, "yours", pair.near)
    assert child.peer.at_end()


@in_a_parent
async def test_child_that_has_gone_has_no_connections(parent: Parent) -> None:
    gone, alive = parent.child(), parent.child()
    await parent.hand_over(gone)
    await parent.hand_over(alive)
    gone.peer.close()
    counting = await _started(parent.server.connections())
    parent.answer_count(alive, 1)
    assert await counting == 1


@in_a_parent
async def test_child_that_goes_instead_of_answering_has_no_connections(parent: Parent) -> None:
    child = parent.child()
    await parent.hand_over(child)
    counting = await _started(parent.server.connections())
    parent.asked(child, "NODE_SOCKET_GET_COUNT")
    child.peer.close()
    assert await counting == 0


@in_a_parent
async def test_late_answer_is_not_the_next_ones(parent: Parent) -> None:
    child = parent.child()
    await parent.hand_over(child)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await parent.server.connections()
    # Whether the first was asked for depends on how soon it was cancelled.
    counting = await _started(parent.server.connections())
    parent.asked(child, "NODE_SOCKET_GET_COUNT")
    questions = 1
    while not child.peer.at_end():
        parent.asked(child, "NODE_SOCKET_GET_COUNT")
        questions += 1
    for number in range(questions):
        count = 2 if number == questions - 1 else 7
        child.peer.write({"cmd": "NODE_SOCKET_COUNT", "key": parent.key, "count": count})
    assert await counting == 2


@in_a_parent
async def test_close_waits_for_the_children(parent: Parent) -> None:
    children = [parent.child(), parent.child()]
    for child in children:
        await parent.hand_over(child)
    closing = await _started(parent.server.close())
    for child in children:
        parent.asked(child, "NODE_SOCKET_NOTIFY_CLOSE")
        await _a_few_turns()
        assert not closing.done()
        parent.answer_closed(child)
    await closing


@in_a_parent
async def test_close_waits_for_children_and_connections_here(parent: Parent) -> None:
    child = parent.child()
    pair = await parent.connect()
    await parent.hand_over(child)
    closing = await _started(parent.server.close())
    assert child.peer.at_end()
    pair.near.close()
    await _until_answered(parent, child)
    await closing


@in_a_parent
async def test_close_waits_for_a_connection_that_goes_to_a_child_meanwhile(parent: Parent) -> None:
    child, late = parent.child(), parent.child()
    await parent.hand_over(child)
    kept = await parent.connect()
    await parent.hand_over(child)
    closing = await _started(parent.server.close())
    handing = await _started(parent.server.hand_over(late.channel, "yours", kept.near))
    late.peer.close_handle()
    late.peer.ack()
    await handing
    await _until_answered(parent, child)
    await _a_few_turns()
    assert not closing.done()
    await _until_answered(parent, late)
    await closing


async def _until_answered(parent: Parent, child: Child) -> None:
    """Play a child that is asked whether its connections are closed, and says so."""
    await asyncio.to_thread(parent.asked, child, "NODE_SOCKET_NOTIFY_CLOSE")
    parent.answer_closed(child)


@pytest.mark.parametrize("what", ["reset", "no message"])
def test_child_that_got_nothing_is_not_asked(what: str) -> None:
    """A Node that never got a connection of a list does not answer questions about it."""

    async def play(parent: Parent) -> None:
        child = parent.child()
        pair = await parent.connect()
        if what == "reset":
            linger = struct.pack("ii", 1, 0)
            pair.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            pair.far.close()
            handing = await _started(parent.server.hand_over(child.channel, "dead", pair.near))
            for _ in range(4):
                await asyncio.to_thread(child.peer.close_handle)
                child.peer.nack()
            with pytest.raises(HandleNotReceived):
                await handing
        else:
            with pytest.raises(MessageError):
                await parent.server.hand_over(child.channel, print, pair.near)
        pair.near.close()
        assert await parent.server.connections() == 0
        await parent.server.close()
        assert child.peer.at_end()

    in_a_parent(play)()


@in_a_parent
async def test_cancelled_hand_over_that_arrives_all_the_same_is_asked_about(
    parent: Parent,
) -> None:
    child = parent.child()
    pair = await parent.connect()
    handing = await _started(parent.server.hand_over(child.channel, "yours", pair.near))
    handing.cancel()
    await asyncio.wait([handing])
    child.peer.close_handle()
    child.peer.ack()
    await _until(lambda: pair.near.fileno() < 0)
    closing = await _started(parent.server.close())
    await _until_answered(parent, child)
    await closing


@in_a_parent
async def test_close_does_not_wait_for_a_child_that_goes(parent: Parent) -> None:
    gone, going = parent.child(), parent.child()
    for child in (gone, going):
        await parent.hand_over(child)
    gone.peer.close()
    closing = await _started(parent.server.close())
    parent.asked(going, "NODE_SOCKET_NOTIFY_CLOSE")
    going.peer.close()
    await closing


@in_a_parent
async def test_close_waits_for_a_connection_that_is_on_its_way_to_a_child(parent: Parent) -> None:
    """The child has it then, and has not been asked about any before."""
    child = parent.child()
    pair = await parent.connect()
    handing = await _started(parent.server.hand_over(child.channel, "yours", pair.near))
    child.peer.close_handle()
    closing = await _started(parent.server.close())
    child.peer.ack()
    await handing
    await _a_few_turns()

    # Looked at before the question: that never comes where it has ended.
    assert not closing.done(), "closed while a child had a connection open"
    parent.asked(child, "NODE_SOCKET_NOTIFY_CLOSE")
    parent.answer_closed(child)
    await closing


@in_a_parent
async def test_connection_on_its_way_to_a_child_counts_once(parent: Parent) -> None:
    child = parent.child()
    await parent.hand_over(child)
    pair = await parent.connect()
    handing = await _started(parent.server.hand_over(child.channel, "yours", pair.near))
    child.peer.close_handle()
    counting = await _started(parent.server.connections())
    assert child.peer.at_end()
    child.peer.ack()
    await handing
    parent.answer_count(child, 2)
    assert await counting == 2


@in_a_parent
async def test_real_child_counts_and_closes(parent: Parent) -> None:
    """Both ends are ours: what one asks the other answers."""
    connections = [Connection(UnixTransport(end), ChannelProtocol()) for end in channel_pair()]
    near, far = map(Channel, connections)

    async def serve() -> list[str]:
        """Take all, then close them one by one at the parent's word."""
        taken: list[socket.socket] = []
        said: list[str] = []
        while True:
            message, handle = await far.recv_with_handle()
            said.append(message)
            if handle is not None:
                taken.append(handle)
            elif message == "close":
                taken.pop().close()
                await far.send("closed")
            else:
                return said

    pairs = [await parent.connect() for _ in range(3)]
    async with near, far:
        serving = await _started(serve())
        for pair in pairs:
            await parent.server.hand_over(near, "yours", pair.near)
        assert await parent.server.connections() == 3
        await near.send("close")
        assert await near.recv() == "closed"
        assert await parent.server.connections() == 2
        closing = await _started(parent.server.close())
        assert not closing.done()
        await near.send_many(["close", "close", "end"])
        await closing
        assert await serving == ["yours"] * 3 + ["close"] * 3 + ["end"]
    assert all(at_end(pair.far) for pair in pairs)
