"""The channel for asyncio: descriptors watched by the event loop, writes tried at once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from nodecompat.connection import DEFAULT_MAX_QUEUED, Connection, Question, connect_to_parent
from nodecompat.errors import ChannelClosed
from nodecompat.protocol.channel import DEFAULT_MAX_MESSAGE_SIZE
from nodecompat.protocol.events import Message

__all__ = ["Channel", "Opening", "connect_parent"]

DISCONNECT_LIMIT: Final = 10.0
"""Seconds that ``disconnect`` waits for the rest of the output, and for handles on their way."""


class Channel:
    """A channel to a Node process (or any program that speaks its protocol), for coroutines.

    Iterate over it for the messages; it ends when the peer disconnects or dies. As a context
    manager it disconnects at the end. To be used from the event loop that it was made in.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.inbox
        self._loop = asyncio.get_running_loop()
        self._fd = connection.fileno()
        self._reading = False
        self._writing = False
        self._receivers: deque[asyncio.Future[None]] = deque()
        self._senders: dict[asyncio.Future[None], int] = {}
        self._askers: dict[asyncio.Future[None], Question] = {}
        self._ended: asyncio.Future[None] | None = None
        connection.before_close = self._unwatch
        connection.on_socket_closed = self._socket_closed
        self._update()

    # ------------------------------------------------------------------------------------ state

    @property
    def connected(self) -> bool:
        """Whether messages can be sent: False once either side has disconnected."""
        return self._connection.connected

    @property
    def serialization(self) -> str:
        """``json`` or ``advanced``."""
        return self._connection.serialization

    def fileno(self) -> int:
        """The channel's descriptor; -1 once it is closed. The event loop watches it."""
        return self._connection.fileno()

    # ---------------------------------------------------------------------------------- sending

    async def send(
        self,
        message: Any,
        handle: socket.socket | None = None,
        *,
        keep_open: bool = False,
        handle_type: str | None = None,
    ) -> None:
        """Send a message; returns once the kernel has all of it.

        While the peer does not read, this waits. Cancelling the wait does not take the message
        back: it goes out whole, in its place. With a ``handle``, a socket that listens, is
        connected, or is UDP, it returns once the peer has acknowledged it; a connected stream
        socket is closed here then, unless ``keep_open``. ``handle_type`` asks for a type by Node's
        name, where a socket can be several (``net.Native``, ``dgram.Native``,
        ``net.BoundSocket``). Raises ChannelClosed, MessageError (names the value that cannot go),
        MessageTooLarge; InvalidHandle before anything is sent, HandleNotReceived. Follows
        ``process.send`` and ``subprocess.send``.
        """
        connection = self._connection
        if handle is None:
            send_id = connection.send(message)
            if connection.written < send_id:
                await self._finish_send(send_id)
            elif self._senders:
                # It has written what others wait for.
                self._update()
        else:
            await self._finish_send(
                connection.send_handle(message, handle, keep_open=keep_open, wanted=handle_type)
            )

    async def _send_counted(
        self, message: Any, handle: socket.socket, key: str, delivered: Callable[[], None]
    ) -> None:
        """As ``send``, with a connection that a socket list counts; for ``Server``."""
        connection = self._connection
        await self._finish_send(
            connection.send_handle(
                message, handle, wanted="net.Socket", key=key, delivered=delivered
            )
        )

    async def _socket_count(self, key: str) -> int:
        """How many sockets of a list are open at the peer, 0 when it has gone; for ``Server``."""
        if not self._connection.connected:
            return 0
        return await self._answer(self._connection.ask_socket_count(key))

    async def _wait_sockets_closed(self, key: str) -> None:
        """Wait until no socket of a list is open at the peer, or it has gone; for ``Server``."""
        if self._connection.connected:
            await self._answer(self._connection.ask_sockets_closed(key))

    async def _answer(self, question: Question) -> int:
        self._update()
        try:
            while not question.done:
                waiter = self._loop.create_future()
                self._askers[waiter] = question
                try:
                    await waiter
                finally:
                    del self._askers[waiter]
        finally:
            question.abandoned = True
        return question.count

    async def send_many(self, messages: Iterable[Any]) -> None:
        """Send several messages in as few writes as possible; returns once the kernel has them all.

        All or nothing: when one of them cannot go (see ``send``), none does.
        """
        send_id = self._connection.send_many(messages)
        if send_id:
            await self._finish_send(send_id)

    async def _finish_send(self, send_id: int) -> None:
        """Wait until a send has ended, and raise its error."""
        connection = self._connection
        self._update()
        try:
            while not connection.settled(send_id):
                waiter = self._loop.create_future()
                self._senders[waiter] = send_id
                try:
                    await waiter
                finally:
                    del self._senders[waiter]
            connection.result(send_id)
        finally:
            connection.forget(send_id)

    # -------------------------------------------------------------------------------- receiving

    async def recv(self, timeout: float | None = None) -> Any:
        """The next message; waits for it, at most ``timeout`` seconds (None: without a limit).

        Raises ChannelClosed when no more will come, TimeoutError, and ProtocolError or
        MessageTooLarge when the peer broke the protocol. A handle that came with the message is
        closed, with a ResourceWarning: ``recv_with_handle`` takes it. Cancelling it loses nothing.
        """
        received = self._take() if self._inbox else await self._next(timeout)
        if received[1] is not None:
            self._connection.drop_handle(received)
        return received[0]

    async def recv_with_handle(
        self, timeout: float | None = None
    ) -> tuple[Any, socket.socket | None]:
        """The next message and the handle that came with it, or None; otherwise as ``recv``.

        The handle is a ``socket.socket``, which is the caller's from here on.
        """
        received = self._take() if self._inbox else await self._next(timeout)
        return received[0], self._connection.take_handle(received)

    def __aiter__(self) -> Self:
        """The messages, until the peer disconnects or dies; raises when it breaks the protocol."""
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.recv()
        except ChannelClosed:
            self._connection.end_of_iteration()
            raise StopAsyncIteration from None

    async def _next(self, timeout: float | None) -> Message:
        if timeout is None:
            await self._message_or_end()
        else:
            if timeout <= 0:
                # One look is always taken: a timeout of 0 asks for what is there.
                self._on_readable()
            async with asyncio.timeout(timeout):
                await self._message_or_end()
        # No await between the look and the taking: a cancelled task has taken nothing.
        return self._take()

    def _take(self) -> Message:
        received = self._inbox.popleft()
        if not self._reading and not self._inbox:
            # Reading had stopped at its bound; the peer may need it for what is awaited next.
            self._update()
        return received

    async def _message_or_end(self) -> None:
        connection = self._connection
        while not self._inbox:
            if connection.closed:
                raise connection.end()
            # All that was read has been taken: reading may have stopped at its bound.
            self._update()
            waiter = self._loop.create_future()
            self._receivers.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in self._receivers:
                    self._receivers.remove(waiter)
                # It may have been woken for a message, which another receiver can have now.
                self._wake_receivers()
                raise

    # ----------------------------------------------------------------------------------- ending

    async def disconnect(self) -> None:
        """Close the channel after everything that was sent; messages can no longer be sent.

        What arrived before stays for ``recv``. Raises AlreadyDisconnected when either side has
        disconnected before. Follows ``process.disconnect``.
        """
        self._connection.disconnect()
        try:
            await self._closed()
        except asyncio.CancelledError:
            # It goes on without anybody who waits, within the same limit.
            self._loop.call_later(DISCONNECT_LIMIT, self._give_up)
            raise
        finally:
            self._update()

    def _give_up(self) -> None:
        if not self._connection.closed:
            self._connection.abort()
        self._update()

    async def _closed(self) -> None:
        """Wait until the connection is closed; after a limit give up what is unsent."""
        connection = self._connection
        self._update()
        if connection.closed:
            return
        if self._ended is None:
            self._ended = self._loop.create_future()
        try:
            async with asyncio.timeout(DISCONNECT_LIMIT):
                await asyncio.shield(self._ended)
        except TimeoutError:
            text = connection.unsent_warning(DISCONNECT_LIMIT, "disconnect")
            self._give_up()
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if not self._connection.closed:
                self._connection.leave()
            await self._closed()
        finally:
            # Also when it is cancelled: whoever leaves the block is done with the channel.
            self._give_up()

    def __repr__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"<{type(self).__module__}.{type(self).__qualname__} {state} fd={self.fileno()}>"

    # ------------------------------------------------------------------------------ event loop

    def _on_readable(self) -> None:
        self._connection.read()
        self._update()

    def _on_writable(self) -> None:
        self._connection.flush()
        self._update()

    def _update(self) -> None:
        """Watch for what the connection waits for, and wake whoever waited for what happened."""
        connection = self._connection
        reading = connection.wants_read
        if reading != self._reading and not connection.closed:
            self._reading = reading
            if reading:
                self._loop.add_reader(self._fd, self._on_readable)
            else:
                self._loop.remove_reader(self._fd)
        writing = connection.unsent > 0
        if writing != self._writing and not connection.closed:
            self._writing = writing
            if writing:
                self._loop.add_writer(self._fd, self._on_writable)
            else:
                self._loop.remove_writer(self._fd)
        if self._receivers and (self._inbox or connection.closed):
            self._wake_receivers()
        if self._senders:
            for waiter, send_id in self._senders.items():
                if not waiter.done() and connection.settled(send_id):
                    waiter.set_result(None)
        for waiter, question in self._askers.items():
            if question.done and not waiter.done():
                waiter.set_result(None)
        if connection.closed and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _socket_closed(self) -> None:
        """A socket that the peer counts was closed, on any thread, perhaps by the GC."""
        # A loop that is closed has nobody who asks, either.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._report_closed_sockets)

    def _report_closed_sockets(self) -> None:
        self._connection.report_closed_sockets()
        self._update()

    def _unwatch(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
        if self._writing:
            self._loop.remove_writer(self._fd)
        self._reading = self._writing = False

    def _wake_receivers(self) -> None:
        count = len(self._receivers) if self._connection.closed else len(self._inbox)
        while count and self._receivers:
            waiter = self._receivers.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1


OpenedT = TypeVar("OpenedT", bound=Channel)


class Opening(Generic[OpenedT]):
    """What opens a channel: ``await`` it, or use it in ``async with``, once."""

    def __init__(self, open_channel: Callable[[], Awaitable[OpenedT]]) -> None:
        self._open = open_channel
        self._opened: OpenedT | None = None

    def __await__(self) -> Generator[Any, None, OpenedT]:
        return self._open().__await__()

    async def __aenter__(self) -> OpenedT:
        self._opened = await self._open()
        return await self._opened.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._opened is not None
        await self._opened.__aexit__(kind, error, traceback)


def connect_parent(
    *,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    max_queued: int = DEFAULT_MAX_QUEUED,
) -> Opening[Channel]:
    """The channel to the Node process that started this one with ``fork`` or an ``ipc`` stdio.

    ``await`` it or use it in ``async with``. ``max_message_size`` bounds a message and
    ``max_queued`` what may wait for ``recv``, in bytes on the wire. Raises NotForked when there is
    no such channel, HandshakeError when what the parent left is unusable. The variables it came in
    are removed from ``os.environ``.
    """

    async def open_channel() -> Channel:
        return Channel(connect_to_parent(max_message_size=max_message_size, max_queued=max_queued))

    return Opening(open_channel)
