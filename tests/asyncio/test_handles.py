"""Handles on the channel for asyncio: who waits, who may be cancelled, whose descriptor it is."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest

from nodecompat.asyncio.channel import Channel
from nodecompat.connection import Connection
from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandleNotReceived,
    InvalidHandle,
    ProtocolError,
)
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.handle_support import (
    ACK,
    KEY,
    HandlePeer,
    Pair,
    at_end,
    connection_and_handle_peer,
    handle_line,
    open_file,
    same_socket,
    still_joined,
    tcp_pair,
    tcp_server,
    udp_socket,
    unix_pair,
)
from tests.handle_support import same_descriptors as same_descriptors
from tests.handle_support import stack as stack
from tests.support import BIG, LIMIT, Background, is_open, raw_child

T = TypeVar("T")

Play = Callable[[Channel, HandlePeer, ExitStack], Awaitable[None]]


def _run(play: Play, stack: ExitStack) -> None:
    async def main() -> None:
        with connection_and_handle_peer() as (connection, peer):
            async with asyncio.timeout(LIMIT):
                await play(Channel(connection), peer, stack)

    asyncio.run(main())


def on_a_channel(play: Play) -> Callable[[ExitStack], None]:
    """Make a test of a coroutine with a channel, its far end, and what closes its sockets."""

    def test(stack: ExitStack) -> None:
        _run(play, stack)

    test.__name__ = getattr(play, "__name__", "")
    test.__doc__ = play.__doc__
    return test


async def _started(call: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that has come to the first place where it waits."""
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    return task


async def _read(call: Callable[[], T]) -> T:
    """What the far end reads, when that may take something that the loop has to do first."""
    return await asyncio.to_thread(call)


# -------------------------------------------------------------------------------------- sending


@on_a_channel
async def test_send_returns_when_the_peer_has_the_handle(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    sending = await _started(channel.send("message", pair.near))
    message, arrived = peer.read_handle()
    assert message == {"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": "message"}
    assert not sending.done()
    assert pair.near.fileno() >= 0

    peer.ack()
    await sending

    assert pair.near.fileno() == -1
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


@on_a_channel
async def test_socket_that_is_kept_open_stays(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    sending = await _started(channel.send("message", pair.near, keep_open=True))
    peer.close_handle()
    peer.ack()
    await sending
    assert still_joined(pair)


@on_a_channel
async def test_type_may_be_asked_for(channel: Channel, peer: HandlePeer, stack: ExitStack) -> None:
    sending = await _started(channel.send("it", tcp_server(stack), handle_type="net.Native"))
    assert peer.close_handle() == {"cmd": "NODE_HANDLE", "type": "net.Native", "msg": "it"}
    peer.ack()
    await sending


@on_a_channel
async def test_what_cannot_travel_is_refused_before_anything_is_written(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    handle: Any = open_file(stack)
    with pytest.raises(InvalidHandle):
        await channel.send("message", handle)
    with pytest.raises(InvalidHandle):
        await channel.send("message", udp_socket(stack), handle_type="net.Native")
    assert peer.at_end()
    await channel.send("goes on")
    assert peer.read_message() == "goes on"


@on_a_channel
async def test_sends_behind_a_handle_wait_and_keep_their_order(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    sending = [
        await _started(channel.send("first", udp_socket(stack))),
        await _started(channel.send("plain")),
        await _started(channel.send_many(["one", "two"])),
        await _started(channel.send("second", udp_socket(stack))),
    ]
    assert peer.close_handle()["msg"] == "first"
    assert peer.at_end()
    assert not any(task.done() for task in sending)

    peer.ack()
    await asyncio.gather(*sending[:3])
    assert peer.read_messages(3) == ["plain", "one", "two"]
    assert peer.close_handle()["msg"] == "second"
    assert not sending[3].done()
    peer.ack()
    await sending[3]


@on_a_channel
async def test_our_acknowledgement_goes_out_while_a_handle_of_ours_waits_for_its_own(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    sending = await _started(channel.send("ours", udp_socket(stack)))
    peer.close_handle()
    peer.send_handle("theirs", udp_socket(stack))
    assert await _read(peer.read_message) == ACK
    assert not sending.done()
    message, handle = await channel.recv_with_handle()
    assert message == "theirs"
    assert handle is not None
    handle.close()
    peer.ack()
    await sending


@on_a_channel
async def test_refused_handle_goes_again(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    sending = await _started(channel.send("message", pair.near))
    peer.close_handle()
    peer.nack()
    _, arrived = await _read(peer.read_handle)
    peer.ack()
    await sending
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


@on_a_channel
async def test_handle_that_is_always_refused_raises_and_the_next_message_goes_on(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    sending = await _started(channel.send("message", pair.near))
    for _ in range(4):
        await _read(peer.close_handle)
        peer.nack()
    with pytest.raises(HandleNotReceived, match="in 4 transmissions"):
        await sending
    assert pair.near.getblocking()
    assert still_joined(pair)
    await channel.send("next")
    assert peer.read_message() == "next"


@on_a_channel
async def test_end_of_the_peer_fails_every_send_that_waits(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    in_flight = await _started(channel.send("in flight", pair.near))
    plain = await _started(channel.send("plain"))
    queued = await _started(channel.send("queued", udp_socket(stack)))
    peer.close()
    with pytest.raises(HandleNotReceived, match="before the peer took the handle"):
        await in_flight
    with pytest.raises(HandleNotReceived):
        await queued
    with pytest.raises(ChannelClosed):
        await plain
    assert pair.near.getblocking()
    assert still_joined(pair)


@on_a_channel
async def test_handle_is_not_sent_to_a_peer_that_is_gone(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    peer.close()
    pair = tcp_pair(stack)
    for _ in range(2):
        with pytest.raises((HandleNotReceived, ChannelClosed)):
            await channel.send("message", pair.near)
        assert still_joined(pair)


@on_a_channel
async def test_large_message_takes_its_descriptor_along_once(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    sending = await _started(channel.send(BIG, udp_socket(stack)))
    message = await _read(peer.close_handle)
    assert message["msg"] == BIG
    assert peer.fds == []
    peer.ack()
    await sending


# ----------------------------------------------------------------------------------- cancelling


@on_a_channel
async def test_send_to_a_peer_that_never_acknowledges_can_have_a_limit(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await channel.send("message", pair.near)
    assert pair.near.fileno() >= 0
    _, arrived = peer.read_handle()

    # It was only the waiting that ended.
    behind = await _started(channel.send("behind"))
    assert peer.at_end()
    peer.ack()
    await behind
    assert peer.read_message() == "behind"
    assert pair.near.fileno() == -1
    with arrived:
        assert still_joined(Pair(arrived, pair.far))


@on_a_channel
async def test_send_that_is_cancelled_in_the_queue_goes_out_in_its_place(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    first = await _started(channel.send("first", udp_socket(stack)))
    second = await _started(channel.send("second", pair.near))
    third = await _started(channel.send("third"))
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    peer.close_handle()
    peer.ack()
    await first
    assert peer.close_handle()["msg"] == "second"
    peer.ack()
    await third
    assert peer.read_message() == "third"
    assert at_end(pair.far)


@on_a_channel
async def test_cancelled_send_whose_handle_is_refused_leaves_the_socket(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    sending = await _started(channel.send("message", pair.near))
    sending.cancel()
    behind = await _started(channel.send("behind"))
    for _ in range(4):
        await _read(peer.close_handle)
        peer.nack()
    await behind
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert pair.near.getblocking()
    assert still_joined(pair)


@on_a_channel
async def test_cancelled_receiver_loses_no_handle(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    receiving = await _started(channel.recv_with_handle())
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    peer.send_handle("message", udp_socket(stack))
    message, handle = await channel.recv_with_handle()
    assert message == "message"
    assert handle is not None
    handle.close()


@on_a_channel
async def test_receiver_that_is_cancelled_when_its_handle_is_there_loses_it_not(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    receiving = await _started(channel.recv_with_handle())
    other = await _started(channel.recv_with_handle())
    peer.send_handle("message", udp_socket(stack))
    # What the loop calls: the first receiver is woken, and has not run yet.
    channel._on_readable()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    message, handle = await other
    assert message == "message"
    assert handle is not None
    handle.close()


# ------------------------------------------------------------------------------------ receiving


@on_a_channel
async def test_handle_is_received_with_its_message(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = unix_pair(stack)
    peer.write("before")
    peer.send_handle({"take": "it"}, pair.near)
    peer.write("after")
    assert await channel.recv_with_handle() == ("before", None)
    message, handle = await channel.recv_with_handle()
    assert message == {"take": "it"}
    assert handle is not None
    with handle:
        assert handle.gettimeout() is None
        assert same_socket(handle.fileno(), pair.near.fileno())
    assert await channel.recv_with_handle() == ("after", None)


@on_a_channel
async def test_receiving_with_a_handle_has_a_limit_and_an_end(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    with pytest.raises(TimeoutError):
        await channel.recv_with_handle(0)
    peer.close()
    with pytest.raises(ChannelClosed):
        await channel.recv_with_handle()


@on_a_channel
async def test_handle_that_the_caller_does_not_take_is_closed_and_blamed_on_the_caller(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    peer.send_handle("message", pair.near)
    pair.near.close()
    with pytest.warns(ResourceWarning, match="was not taken") as caught:
        assert await channel.recv() == "message"
    assert at_end(pair.far)
    assert [warning.filename for warning in caught] == [__file__]


@on_a_channel
async def test_handle_that_an_iteration_does_not_take_is_closed(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    pair = tcp_pair(stack)
    peer.write("before")
    peer.send_handle("with", pair.near)
    peer.write("after")
    pair.near.close()
    peer.close()
    with pytest.warns(ResourceWarning, match="was not taken"):
        assert [message async for message in channel] == ["before", "with", "after"]
    assert at_end(pair.far)


@on_a_channel
async def test_descriptor_that_is_no_socket_is_an_error_and_the_channel_goes_on(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    read, write = os.pipe()
    os.close(write)
    peer.write_bytes(handle_line("pipe"), read)
    os.close(read)
    peer.write("after")
    with pytest.raises(ProtocolError, match="descriptor that is not a socket"):
        await channel.recv_with_handle()
    assert await channel.recv() == "after"
    await channel.send("goes on")
    assert peer.read_messages(2) == [ACK, "goes on"]


@on_a_channel
async def test_received_listener_serves_for_asyncio(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    listening = tcp_server(stack)
    peer.send_handle("serve", listening, type="net.Server")
    _, handle = await channel.recv_with_handle()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, sock=handle):
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        writer.write(b"hello\n")
        assert await reader.read() == b"hello\n"
        writer.close()
        await writer.wait_closed()


# ------------------------------------------------------------------------------------------ end


@pytest.fixture
def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodecompat.asyncio.channel.DISCONNECT_LIMIT", 0.05)


@pytest.mark.usefixtures("short_limit")
@pytest.mark.parametrize("how", ["disconnect", "with"])
def test_disconnect_gives_up_a_handle_that_nobody_acknowledges(how: str, stack: ExitStack) -> None:
    async def play(channel: Channel, peer: HandlePeer, stack: ExitStack) -> None:
        pair = tcp_pair(stack)
        sending = await _started(channel.send("message", pair.near))
        queued = await _started(channel.send("queued"))
        with pytest.warns(RuntimeWarning, match=r"for 0\.05 s"):
            await _leave(channel, how)
        with pytest.raises(HandleNotReceived):
            await sending
        with pytest.raises(ChannelClosed):
            await queued
        assert still_joined(pair)
        assert channel.fileno() == -1
        peer.close_handle()
        assert peer.read_to_end() == b""

    _run(play, stack)


async def _leave(channel: Channel, how: str) -> None:
    if how == "disconnect":
        await channel.disconnect()
    else:
        async with channel:
            pass


@pytest.mark.parametrize("how", ["disconnect", "with"])
def test_disconnect_waits_until_the_queue_has_gone_out(how: str, stack: ExitStack) -> None:
    async def play(channel: Channel, peer: HandlePeer, stack: ExitStack) -> None:
        sending = [
            await _started(channel.send("first", udp_socket(stack))),
            await _started(channel.send("plain")),
            await _started(channel.send("second", udp_socket(stack))),
            await _started(channel.send("last")),
        ]
        leaving = await _started(_leave(channel, how))
        assert not channel.connected
        with pytest.raises(ChannelClosed):
            await channel.send("refused")
        with pytest.raises(ChannelClosed):
            await channel.send("refused", udp_socket(stack))
        with pytest.raises(AlreadyDisconnected):
            await channel.disconnect()

        assert peer.close_handle()["msg"] == "first"
        peer.ack()
        assert await _read(peer.read_message) == "plain"
        second = await _read(peer.close_handle)
        assert second["msg"] == "second"
        assert not leaving.done()
        peer.ack()
        assert await _read(peer.read_all_messages) == ["last"]
        await leaving
        await asyncio.gather(*sending)

    _run(play, stack)


def test_program_that_ends_with_a_cancelled_send_still_hands_over(stack: ExitStack) -> None:
    code = """
        import asyncio, socket
        from nodecompat.asyncio import connect_parent

        async def main():
            parent = await connect_parent()
            near, far = socket.socketpair()
            far.sendall(b"from the child")
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.gather(parent.send("with", near), parent.send("behind"))
            except TimeoutError:
                near.close()
                far.close()

        asyncio.run(main())
    """
    with raw_child(code) as child, HandlePeer(child.peer.sock) as peer:
        message, arrived = peer.read_handle()
        assert message["msg"] == "with"
        with arrived:
            peer.ack()
            assert peer.read_all_messages() == ["behind"]
            assert (child.wait(), child.stderr()) == (0, "")
            arrived.settimeout(LIMIT)
            assert arrived.recv(100) == b"from the child"


# ------------------------------------------------------------------------------------- two peers

_COUNT = 200


async def _hand_over_many(channel: Channel) -> None:
    for number in range(_COUNT):
        near, far = socket.socketpair()
        with far:
            await channel.send(number, near)
            assert near.fileno() == -1
            far.sendall(b"%d" % number)
        await channel.send(f"after {number}")


async def _take_many(channel: Channel) -> None:
    for number in range(_COUNT):
        message, handle = await channel.recv_with_handle()
        assert message == number
        assert handle is not None
        with handle:
            # Its sender closes the other end when it has heard that this one arrived.
            reader, writer = await asyncio.open_connection(sock=handle)
            assert await reader.read() == b"%d" % number
            writer.close()
            await writer.wait_closed()
        assert await channel.recv_with_handle() == (f"after {number}", None)


@pytest.mark.parametrize("together", [True, False], ids=["together", "receiving afterwards"])
def test_two_peers_hand_over_sockets_to_each_other_at_full_speed(together: bool) -> None:
    async def main() -> None:
        connections = [Connection(UnixTransport(end), ChannelProtocol()) for end in channel_pair()]
        channels = [Channel(connection) for connection in connections]
        sending = [_hand_over_many(channel) for channel in channels]
        async with asyncio.timeout(LIMIT):
            if together:
                await asyncio.gather(*sending, *map(_take_many, channels))
            else:
                await asyncio.gather(*sending)
                await asyncio.gather(*map(_take_many, channels))
        for connection in connections:
            connection.abort()

    asyncio.run(main())


# --------------------------------------------------------------------------------- socket lists

_GET_COUNT = {"cmd": "NODE_SOCKET_GET_COUNT", "key": KEY}
_NOTIFY_CLOSE = {"cmd": "NODE_SOCKET_NOTIFY_CLOSE", "key": KEY}
_ALL_CLOSED = {"cmd": "NODE_SOCKET_ALL_CLOSED", "key": KEY}


async def _counted(channel: Channel, peer: HandlePeer, sock: socket.socket) -> socket.socket:
    """A socket that the peer counts, whose peer has asked to be told of its end."""
    peer.send_handle("counted", sock, key=KEY)
    peer.write(_NOTIFY_CLOSE, "asked")
    message, handle = await channel.recv_with_handle()
    assert message == "counted"
    assert handle is not None
    assert await channel.recv() == "asked"
    assert peer.read_message() == ACK
    assert peer.at_end()
    return handle


async def _close(sock: socket.socket) -> None:
    sock.close()


async def _detach(sock: socket.socket) -> None:
    os.close(sock.detach())


async def _close_last_file(sock: socket.socket) -> None:
    file = sock.makefile("rwb")
    sock.close()
    file.close()


async def _close_elsewhere(sock: socket.socket) -> None:
    """A thread that the loop knows nothing of, and does not wait for."""
    Background(sock.close).result()


async def _close_stream(sock: socket.socket) -> None:
    _, writer = await asyncio.open_connection(sock=sock)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "end", [_close, _detach, _close_last_file, _close_elsewhere, _close_stream]
)
def test_end_of_a_counted_socket_is_told(
    end: Callable[[socket.socket], Awaitable[None]], stack: ExitStack
) -> None:
    async def play(channel: Channel, peer: HandlePeer, stack: ExitStack) -> None:
        sock = await _counted(channel, peer, tcp_pair(stack).near)
        await end(sock)
        assert await _read(peer.read_message) == _ALL_CLOSED

    _run(play, stack)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@on_a_channel
async def test_counted_socket_that_is_forgotten_is_told_of_and_closed(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    sock = await _counted(channel, peer, tcp_pair(stack).near)
    fd = sock.fileno()
    del sock
    gc.collect()
    assert await _read(peer.read_message) == _ALL_CLOSED
    assert not is_open(fd)


@on_a_channel
async def test_counted_socket_that_the_caller_does_not_take_counts_as_closed(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    peer.send_handle("counted", tcp_pair(stack).near, key=KEY)
    peer.write(_NOTIFY_CLOSE)
    with pytest.warns(ResourceWarning, match="was not taken"):
        assert await channel.recv() == "counted"
    assert await _read(lambda: peer.read_messages(2)) == [ACK, _ALL_CLOSED]


def test_socket_that_another_thread_closes_is_reported_by_the_loops(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is not safe for use from several."""
    threads: list[int] = []
    report = Connection.report_closed_sockets

    def watched(connection: Connection) -> None:
        threads.append(threading.get_ident())
        report(connection)

    monkeypatch.setattr(Connection, "report_closed_sockets", watched)

    async def play(channel: Channel, peer: HandlePeer, stack: ExitStack) -> None:
        sock = await _counted(channel, peer, tcp_pair(stack).near)
        Background(sock.close).result()
        assert await _read(peer.read_message) == _ALL_CLOSED

    _run(play, stack)
    assert set(threads) == {threading.get_ident()}


@on_a_channel
async def test_open_file_of_a_counted_socket_keeps_it_counted(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    sock = await _counted(channel, peer, tcp_pair(stack).near)
    file = sock.makefile("rb")
    sock.close()
    peer.write(_GET_COUNT, "asked")
    assert await channel.recv() == "asked"
    assert peer.read_message() == {"cmd": "NODE_SOCKET_COUNT", "key": KEY, "count": 1}
    file.close()
    assert await _read(peer.read_message) == _ALL_CLOSED


@on_a_channel
async def test_counted_socket_may_be_closed_after_the_channel(
    channel: Channel, peer: HandlePeer, stack: ExitStack
) -> None:
    sock = await _counted(channel, peer, tcp_pair(stack).near)
    peer.close()
    with pytest.raises(ChannelClosed):
        await channel.recv()
    sock.close()
    await asyncio.sleep(0)
    with pytest.raises(ChannelClosed):
        await channel.recv()


def test_counted_socket_may_be_closed_after_the_loop(stack: ExitStack) -> None:
    kept: list[socket.socket] = []

    async def play(channel: Channel, peer: HandlePeer, stack: ExitStack) -> None:
        kept.append(await _counted(channel, peer, tcp_pair(stack).near))

    _run(play, stack)
    kept[0].close()
    assert kept[0].fileno() == -1
