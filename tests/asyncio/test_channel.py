"""nodecompat.asyncio.channel: coroutines, cancelled at any point, on asyncio's loop and uvloop."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from nodecompat import environment
from nodecompat.asyncio import channel as module
from nodecompat.asyncio.channel import Channel, connect_parent
from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    IncompleteMessage,
    MessageError,
    MessageTooLarge,
    NotForked,
    ProtocolError,
)
from tests.asyncio.conftest import Run
from tests.support import (
    BIG,
    Background,
    Peer,
    connection_and_peer,
    is_open,
    messages_of,
    raw_child,
)

NODE_HANDLE = b'{"cmd":"NODE_HANDLE","type":"dgram.Socket","msg":"with"}\n'


@asynccontextmanager
async def pair(**bounds: int) -> AsyncIterator[tuple[Channel, Peer]]:
    with connection_and_peer(**bounds) as (connection, peer):
        channel = Channel(connection)
        try:
            yield channel, peer
        finally:
            # Let the loop forget the descriptor before it is closed.
            if connection.before_close is not None and not connection.closed:
                connection.abort()


async def spin(times: int = 3) -> None:
    """Let everybody else run."""
    for _ in range(times):
        await asyncio.sleep(0)


async def until(condition: Any, what: str) -> None:
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail(f"never happened: {what}")


async def in_thread(call: Any) -> Any:
    """A call that blocks, beside the loop."""
    background = Background(call)
    await until(lambda: not background.running, f"the end of {call}")
    return background.result()


def start(coroutine: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


# -------------------------------------------------------------------------------------- sending


def test_message_is_out_when_send_returns(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            await channel.send({"a": 1})
            assert not peer.at_end()
            assert peer.read_message() == {"a": 1}

    run(main())


def test_order_of_calls_is_order_of_arrival(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            await channel.send(1)
            await channel.send_many([2, 3])
            await channel.send_many([])
            await channel.send(4)
            assert peer.read_messages(4) == [1, 2, 3, 4]

    run(main())


def test_tasks_send_in_the_order_of_their_calls(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            tasks = [start(channel.send([number, BIG])) for number in range(5)]
            tasks.append(start(channel.send_many([[5, ""], [6, ""]])))
            received = await in_thread(lambda: peer.read_messages(7))
            await asyncio.gather(*tasks)
            assert [number for number, _ in received] == list(range(7))

    run(main())


@pytest.mark.parametrize("many", [False, True])
def test_send_waits_until_the_peer_reads(run: Run, many: bool) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            task = start(channel.send_many([BIG]) if many else channel.send(BIG))
            await spin()
            assert not task.done()
            assert await in_thread(peer.read_message) == BIG
            await task

    run(main())


def test_what_arrives_while_send_waits_is_kept(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            task = start(channel.send(BIG))
            await spin()
            await in_thread(lambda: peer.write(BIG, BIG))
            assert await in_thread(peer.read_message) == BIG
            await task
            assert [await channel.recv(), await channel.recv()] == [BIG, BIG]

    run(main())


def test_send_fails_when_the_peer_goes(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            task = start(channel.send(BIG))
            await spin()
            peer.close()
            with pytest.raises(ChannelClosed):
                await task
            assert not channel.connected
            with pytest.raises(ChannelClosed):
                await channel.send(1)

    run(main())


def test_message_that_cannot_go_is_refused_and_the_channel_stays(run: Run) -> None:
    async def main() -> None:
        async with pair(max_message_size=100) as (channel, peer):
            with pytest.raises(MessageError):
                await channel.send({"a": object()})
            with pytest.raises(MessageError):
                await channel.send_many([1, object()])
            with pytest.raises(MessageTooLarge):
                await channel.send("x" * 100)
            await channel.send("after")
            assert peer.read_message() == "after"

    run(main())


def test_sender_is_done_when_another_send_wrote_its_rest(run: Run) -> None:
    """The kernel has all of it; the peer may well wait for what this task does next."""

    async def main() -> None:
        async with pair() as (channel, peer):
            filled = peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            first = start(channel.send("x" * (filled + 20_000)))
            await spin()
            while channel._connection.unsent > 10_000:
                peer.read_bytes(4096)
                channel._connection.flush()
            # Enough room for all that waits, and too little for the kernel to call it writable.
            sends: list[asyncio.Task[Any]] = []
            while not sends or channel._connection.unsent:
                peer.read_bytes(4096)
                sends.append(start(channel.send("y")))
                await spin()
            async with asyncio.timeout(5):
                await asyncio.gather(first, *sends)

    run(main())


# ------------------------------------------------------------------------------------ receiving


def test_recv_waits_for_a_message(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            task = start(channel.recv())
            await spin()
            assert not task.done()
            peer.write("now")
            assert await task == "now"

    run(main())


def test_recv_gives_messages_in_order_whatever_the_pieces(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            for piece in (b'1\n"gr\xc3', b'\xbcn"\n[', b"3]\n{}", b"\n"):
                peer.write_bytes(piece)
                await spin()
            assert [await channel.recv() for _ in range(4)] == [1, "grün", [3], {}]

    run(main())


def test_recv_times_out_and_loses_nothing(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write_bytes(b'"ha')
            with pytest.raises(TimeoutError):
                await channel.recv(timeout=0.02)
            peer.write_bytes(b'lf"\n')
            assert await channel.recv(timeout=5) == "half"

    run(main())


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_timeout_of_nothing_takes_what_is_there(run: Run, timeout: float) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            with pytest.raises(TimeoutError):
                await channel.recv(timeout=timeout)
            peer.write("there", "and there")
            assert await channel.recv(timeout=timeout) == "there"
            assert await channel.recv(timeout=timeout) == "and there"

    run(main())


@pytest.mark.parametrize("timeout", [1e6, 3e6, 1e10, float("inf")])
def test_timeout_may_be_as_long_as_one_likes(run: Run, timeout: float) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            task = start(channel.recv(timeout=timeout))
            await spin()
            peer.write("now")
            assert await task == "now"

    run(main())


def test_bound_of_what_waits_makes_the_peer_wait(run: Run) -> None:
    async def main() -> None:
        async with pair(max_queued=1000) as (channel, peer):
            writer = Background(lambda: peer.write(*[BIG] * 3))
            assert await channel.recv() == BIG
            await spin()
            assert writer.running
            assert [await channel.recv(), await channel.recv()] == [BIG, BIG]
            await until(lambda: not writer.running, "the end of the writer")
            writer.result()

    run(main())


def test_reading_goes_on_once_all_was_taken_whatever_is_awaited_then(run: Run) -> None:
    """The peer may have to get something through before it does what is waited for."""

    async def main() -> None:
        async with pair(max_queued=100) as (channel, peer):
            peer.write("x" * 200)
            await until(lambda: channel._connection.inbox, "the first message")
            assert await channel.recv() == "x" * 200
            peer.write("y" * 200)
            await until(lambda: channel._connection.inbox, "the second message")

    run(main())


def test_iteration_gives_all_messages_and_stops(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write(1, None, 3)
            peer.close()
            assert [message async for message in channel] == [1, None, 3]
            assert [message async for message in channel] == []

    run(main())


def test_messages_are_kept_past_the_end(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write(1, 2)
            peer.close()
            await until(lambda: channel.fileno() == -1, "the end")
            assert [await channel.recv(), await channel.recv()] == [1, 2]
            for timeout in (None, 5):
                with pytest.raises(ChannelClosed):
                    await channel.recv(timeout)

    run(main())


def test_violation_of_the_protocol_ends_the_channel(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write(1)
            peer.write_bytes(b"nonsense\n")
            assert await channel.recv() == 1
            with pytest.raises(ProtocolError, match="nonsense"):
                await channel.recv()
            with pytest.raises(ChannelClosed) as caught:
                await channel.recv()
            assert isinstance(caught.value.__cause__, ProtocolError)
            assert peer.read_to_end() == b""

    run(main())


def test_violation_of_the_protocol_is_raised_by_iteration(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write(1)
            peer.write_bytes(b"nonsense\n")
            received: list[Any] = []
            with pytest.raises(ProtocolError):
                async for message in channel:
                    received.append(message)
            assert received == [1]

    run(main())


def test_message_past_the_bound_ends_the_channel(run: Run) -> None:
    async def main() -> None:
        async with pair(max_message_size=100) as (channel, peer):
            peer.write(1, "x" * 100)
            assert await channel.recv() == 1
            with pytest.raises(MessageTooLarge):
                await channel.recv()
            assert channel.fileno() == -1

    run(main())


def test_half_a_message_at_the_end_is_raised_by_recv(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write_bytes(b'1\n{"half":')
            peer.close()
            assert await channel.recv() == 1
            with pytest.raises(IncompleteMessage, match='"half":'):
                await channel.recv()
            with pytest.raises(ChannelClosed):
                await channel.recv()

    run(main())


def test_half_a_message_at_the_end_is_logged_by_iteration(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write_bytes(b'1\n{"half":')
            peer.close()
            assert [message async for message in channel] == [1]

    run(main())
    (record,) = (each for each in caplog.records if each.name == "nodecompat")
    assert record.levelno == logging.WARNING
    assert '"half":' in record.getMessage()


def test_half_a_message_is_still_raised_by_recv_after_an_iteration(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write_bytes(b'1\n{"half":')
            peer.close()
            assert [message async for message in channel] == [1]
            with pytest.raises(IncompleteMessage):
                await channel.recv()

    run(main())


def test_handle_is_the_receiver_s(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                peer.write("plain")
                peer.write_bytes(NODE_HANDLE, sock.fileno())
                assert await channel.recv_with_handle() == ("plain", None)
                message, handle = await channel.recv_with_handle()
                assert handle is not None
                with handle:
                    assert message == "with"
                    assert os.fstat(handle.fileno()).st_ino == os.fstat(sock.fileno()).st_ino
            assert peer.read_message() == {"cmd": "NODE_HANDLE_ACK"}

    run(main())


def test_handle_that_nobody_takes_is_closed_with_a_warning(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                peer.write_bytes(NODE_HANDLE * 2, sock.fileno(), sock.fileno())
            with pytest.warns(ResourceWarning, match="not taken"):
                assert await channel.recv() == "with"
            with pytest.warns(ResourceWarning, match="not taken"):
                assert await anext(channel) == "with"

    run(main())


def test_each_message_goes_to_one_of_several_tasks(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):

            async def receive() -> list[int]:
                return [message async for message in channel]

            tasks = [start(receive()) for _ in range(4)]
            for number in range(200):
                peer.write(*range(number * 10, number * 10 + 10))
                await spin(1)
            peer.close()
            parts = await asyncio.gather(*tasks)
            assert sorted(number for part in parts for number in part) == list(range(2000))
            assert all(part == sorted(part) for part in parts)

    run(main())


# ----------------------------------------------------------------------------------- cancelling


def test_cancelled_recv_loses_nothing(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            task = start(channel.recv())
            await spin()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            peer.write("now")
            assert await channel.recv() == "now"

    run(main())


def test_recv_that_is_cancelled_when_its_message_is_there_leaves_it_to_another(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            first, second = start(channel.recv()), start(channel.recv())
            await spin()
            peer.write("now")
            # The loop has seen the message, and has woken the first one; it has not run yet.
            channel._on_readable()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert await second == "now"

    run(main())


def test_cancelled_send_goes_out_whole_and_in_its_place(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            task = start(channel.send(BIG))
            await spin()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            after = start(channel.send("after"))
            assert await in_thread(lambda: peer.read_messages(2)) == [BIG, "after"]
            await after

    run(main())


def test_cancelled_send_does_not_take_others_with_it(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            tasks = [start(channel.send([number, BIG])) for number in range(3)]
            await spin()
            tasks[1].cancel()
            received = await in_thread(lambda: peer.read_messages(3))
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [number for number, _ in received] == [0, 1, 2]
            assert [type(result) for result in results] == [
                type(None),
                asyncio.CancelledError,
                type(None),
            ]

    run(main())


def test_cancelled_disconnect_loses_nothing(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            sender = start(channel.send(BIG))
            await spin()
            leaver = start(channel.disconnect())
            await spin()
            leaver.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaver
            assert not channel.connected
            assert messages_of(await in_thread(peer.read_to_end)) == [BIG]
            await sender
            await until(lambda: channel.fileno() == -1, "the end")

    run(main())


def test_leaving_that_is_cancelled_closes_the_channel(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):

            async def leave() -> None:
                async with channel:
                    start(channel.send(BIG)).add_done_callback(lambda done: done.exception())
                    await spin()

            task = start(leave())
            await spin(10)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await in_thread(peer.read_to_end)
            await until(lambda: channel.fileno() == -1, "the end")

    run(main())


@pytest.mark.parametrize("seed", range(8))
def test_storm_of_cancelled_receivers_loses_and_reorders_nothing(run: Run, seed: int) -> None:
    async def main() -> None:
        choose = random.Random(seed)
        async with pair(max_queued=choose.choice([100, 10_000, 2**28])) as (channel, peer):
            count = 400
            received: list[int] = []

            async def receive() -> None:
                while True:
                    if choose.random() < 0.3:
                        try:
                            received.append((await channel.recv(choose.random() * 0.002))[0])
                        except TimeoutError:
                            continue
                    else:
                        received.append((await channel.recv())[0])
                    if choose.random() < 0.3:
                        await asyncio.sleep(0)

            def write() -> None:
                for number in range(count):
                    peer.write([number, "x" * choose.choice([0, 10, 3000])])

            writer = Background(write)
            tasks = [start(receive()) for _ in range(3)]

            async def storm() -> None:
                while len(received) < count:
                    await asyncio.sleep(choose.choice([0, 0, 0.0005]))
                    index = choose.randrange(len(tasks))
                    tasks[index].cancel()
                    if choose.random() < 0.5:
                        await asyncio.wait([tasks[index]])
                    tasks.append(start(receive()))
                    dead = tasks.pop(index)
                    dead.add_done_callback(lambda done: done.cancelled() or done.exception())

            await storm()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}
            writer.result()
            assert received == list(range(count))

    run(main())


@pytest.mark.parametrize("seed", range(8))
def test_storm_of_cancelled_senders_loses_and_reorders_nothing(run: Run, seed: int) -> None:
    async def main() -> None:
        choose = random.Random(seed)
        async with pair() as (channel, peer):
            reader = Background(peer.read_all_messages)
            count = 300
            tasks: list[asyncio.Task[Any]] = []

            async def send(number: int) -> None:
                sending = [number, "x" * choose.choice([0, 100, 50_000, 300_000])]
                if choose.random() < 0.5:
                    await channel.send(sending)
                else:
                    await channel.send_many([sending])

            for number in range(count):
                task = start(send(number))
                tasks.append(task)
                # It has called send by then: from here on it cannot be taken back.
                await spin(1)
                if choose.random() < 0.3:
                    choose.choice(tasks).cancel()
                if choose.random() < 0.1:
                    await asyncio.sleep(0.001)
            await asyncio.gather(*tasks, return_exceptions=True)
            await channel.disconnect()
            await until(lambda: not reader.running, "the end of the reader")
            assert [number for number, _ in reader.result()] == list(range(count))

    run(main())


# ------------------------------------------------------------------------------------- the end


def test_disconnect_closes(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            fd = channel.fileno()
            assert channel.connected
            await channel.send("last")
            await channel.disconnect()
            assert not channel.connected
            assert channel.fileno() == -1
            assert not is_open(fd)
            assert peer.read_all_messages() == ["last"]
            with pytest.raises(AlreadyDisconnected):
                await channel.disconnect()
            with pytest.raises(ChannelClosed):
                await channel.send(1)
            with pytest.raises(ChannelClosed):
                await channel.send_many([1])

    run(main())


def test_disconnect_keeps_what_was_read(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            peer.write(1, 2)
            assert await channel.recv() == 1
            await channel.disconnect()
            assert [message async for message in channel] == [2]

    run(main())


def test_disconnect_waits_for_what_was_sent(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            sender = start(channel.send(BIG))
            await spin()
            leaver = start(channel.disconnect())
            await spin()
            assert not leaver.done()
            assert not channel.connected
            assert messages_of(await in_thread(peer.read_to_end)) == [BIG]
            await asyncio.gather(sender, leaver)

    run(main())


def test_disconnect_gives_up_a_peer_that_never_reads(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISCONNECT_LIMIT", 0.05)

    async def main() -> None:
        async with pair() as (channel, _):
            sender = start(channel.send(BIG))
            await spin()
            with pytest.warns(RuntimeWarning, match="bytes were not sent before the disconnect"):
                await channel.disconnect()
            with pytest.raises(ChannelClosed):
                await sender
            assert channel.fileno() == -1

    run(main())


@pytest.mark.parametrize("who", ["we", "the peer"])
def test_end_ends_every_recv(run: Run, who: str) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            tasks = [start(channel.recv()) for _ in range(3)]
            await spin()
            if who == "we":
                await channel.disconnect()
            else:
                peer.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {ChannelClosed}

    run(main())


def test_context_manager_disconnects(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            async with channel as entered:
                assert entered is channel
                await channel.send("last")
            assert peer.read_all_messages() == ["last"]

    run(main())


def test_context_manager_lets_errors_through_and_disconnects(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            with pytest.raises(LookupError):
                async with channel:
                    raise LookupError
            assert peer.read_to_end() == b""

    run(main())


@pytest.mark.parametrize("how", ["disconnected", "peer gone", "peer gone and noticed in a send"])
def test_context_manager_ends_whatever_has_happened(run: Run, how: str) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            async with channel:
                if how == "disconnected":
                    await channel.disconnect()
                else:
                    peer.close()
                    with pytest.raises(ChannelClosed):
                        await (channel.recv() if how == "peer gone" else channel.send(1))
            assert channel.fileno() == -1

    run(main())


def test_repr_says_state_and_descriptor(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, _):
            assert repr(channel) == (
                f"<nodecompat.asyncio.channel.Channel connected fd={channel.fileno()}>"
            )
            await channel.disconnect()
            assert repr(channel) == "<nodecompat.asyncio.channel.Channel disconnected fd=-1>"
            assert channel.serialization == "json"

    run(main())


def test_descriptor_that_fails_ends_the_channel(run: Run) -> None:
    async def main() -> None:
        async with pair() as (channel, peer):
            other = socket.socketpair()
            # Not a stream any more: what reads from it now fails.
            with other[0], other[1], socket.socket() as listener:
                listener.listen()
                os.dup2(listener.fileno(), channel.fileno())
                peer.close()
                with pytest.raises(ChannelClosed):
                    await channel.send(1)

    run(main())


# --------------------------------------------------------------------------------- the loop ends


# Nobody has disconnected the channel: it is closed when it goes away.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_loop_that_is_closed_early_loses_no_descriptor(run: Run) -> None:
    near, far = socket.socketpair()
    fd = near.detach()
    with Peer(far) as peer:

        async def main() -> None:
            channel = Channel(_connection(fd))
            tasks = [start(channel.recv()) for _ in range(2)]
            await spin()
            assert not any(task.done() for task in tasks)

        run(main())
        gc.collect()
        assert not is_open(fd)
        assert peer.read_to_end() == b""


def test_channel_may_be_left_to_end_after_its_loop(run: Run) -> None:
    channels: list[Channel] = []
    with connection_and_peer() as (connection, peer):

        async def main() -> None:
            channels.append(Channel(connection))
            start(channels[0].send(BIG))
            await spin()

        run(main())
        peer.close()
        while connection.read():
            pass
        assert connection.closed


def _connection(fd: int) -> Any:
    from nodecompat.connection import Connection
    from nodecompat.protocol.channel import ChannelProtocol
    from nodecompat.transport.unix import UnixTransport

    return Connection(UnixTransport.from_fd(fd), ChannelProtocol())


EXIT = """
    import asyncio, gc, sys
    import uvloop
    from nodecompat.asyncio import connect_parent

    async def main():
        parent = await connect_parent()
        for number in range(3):
            asyncio.ensure_future(parent.send([number, "x" * 1_000_000]))
        await asyncio.sleep(0)
        {last}

    try:
        {loop}.run(main())
    finally:
        gc.collect()
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("last", "status"),
    [("pass", 0), ("sys.exit(3)", 3), ("raise LookupError", 1)],
    ids=["end", "exit", "error"],
)
def test_exit_writes_what_is_still_queued(loop: str, last: str, status: int) -> None:
    with raw_child(EXIT.format(loop=loop, last=last)) as child:
        # It cannot have ended before this reads.
        received = child.peer.read_all_messages()
        assert child.wait() == status, child.stderr()
        assert received == [[number, BIG] for number in range(3)]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_exit_during_a_disconnect_writes_what_is_still_queued(loop: str) -> None:
    last = "asyncio.ensure_future(parent.disconnect()); await asyncio.sleep(0)"
    with raw_child(EXIT.format(loop=loop, last=last)) as child:
        received = child.peer.read_all_messages()
        assert child.wait() == 0
        assert "atexit" not in child.stderr()
        assert received == [[number, BIG] for number in range(3)]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_exit_does_not_fail_when_the_parent_goes_meanwhile(loop: str) -> None:
    with raw_child(EXIT.format(loop=loop, last="pass")) as child:
        child.peer.read_bytes(10)
        child.peer.close()
        assert child.wait() == 0
        # The tasks that nobody awaited may well be told of.
        assert "atexit" not in child.stderr()


ONLY_WRITES = """
    import asyncio, {loop}
    from nodecompat.asyncio import connect_parent
    async def main():
        async with connect_parent(max_queued=2**30) as parent:
            for number in range(20):
                await parent.send([number, "x" * 400_000])
            received = [(await parent.recv())[0] for _ in range(20)]
            assert received == list(range(20)), received
            await parent.send("done")
    {loop}.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_two_sides_that_only_write_do_not_hang_each_other(run: Run, loop: str) -> None:
    with raw_child(ONLY_WRITES.format(loop=loop)) as child:

        async def main() -> None:
            async with Channel(child.take_connection()) as channel:
                for number in range(20):
                    await channel.send([number, "y" * 400_000])
                assert [(await channel.recv())[0] for _ in range(20)] == list(range(20))
                assert await channel.recv() == "done"

        run(main())
        assert child.wait() == 0, child.stderr()


# ------------------------------------------------------------------------------ to the parent


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    near, far = socket.socketpair()
    monkeypatch.setattr(environment, "_taken", False)
    monkeypatch.setenv("NODE_CHANNEL_FD", str(near.detach()))
    with Peer(far) as peer:
        yield peer


def test_channel_to_the_parent_in_a_block(run: Run, forked: Peer) -> None:
    async def main() -> None:
        async with connect_parent() as parent:
            forked.write("hello")
            await parent.send([await parent.recv()])
            assert forked.read_message() == ["hello"]
        assert forked.read_to_end() == b""

    run(main())


def test_channel_to_the_parent_awaited(run: Run, forked: Peer) -> None:
    async def main() -> None:
        parent = await connect_parent()
        await parent.send("hello")
        assert forked.read_message() == "hello"
        await parent.disconnect()

    run(main())


def test_nothing_is_taken_before_it_is_awaited(run: Run, forked: Peer) -> None:
    opening = connect_parent()
    assert "NODE_CHANNEL_FD" in os.environ

    async def main() -> None:
        async with opening:
            assert "NODE_CHANNEL_FD" not in os.environ
            with pytest.raises(NotForked, match="already in use"):
                await connect_parent()

    run(main())


def test_bounds_of_the_channel_to_the_parent(run: Run, forked: Peer) -> None:
    async def main() -> None:
        async with connect_parent(max_message_size=10, max_queued=20) as parent:
            with pytest.raises(MessageTooLarge):
                await parent.send("x" * 10)
            forked.write("x" * 10)
            with pytest.raises(MessageTooLarge):
                await parent.recv()

    run(main())


def test_without_a_parent_there_is_no_channel(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_CHANNEL_FD", raising=False)

    async def main() -> None:
        with pytest.raises(NotForked):
            await connect_parent()
        with pytest.raises(NotForked):
            async with connect_parent():
                pytest.fail("there is no parent")

    run(main())
