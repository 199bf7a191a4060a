"""The blocking channel.

Several threads may wait at once. One of them, the leader, polls for all and does the reading and
writing that the poll allows; the others wait until it tells them that something has changed. So
there is no hidden thread, and whichever thread waits, reading goes on while writing cannot.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, cast

from nodecompat.connection import DEFAULT_MAX_QUEUED, Connection, Question, connect_to_parent
from nodecompat.errors import ChannelClosed
from nodecompat.protocol.channel import DEFAULT_MAX_MESSAGE_SIZE
from nodecompat.protocol.events import Message
from nodecompat.transport.wakeup import Wakeup

__all__ = ["Channel", "connect_parent"]

DISCONNECT_LIMIT: Final = 10.0
"""Seconds that ``disconnect`` waits for the rest of the output, and for handles on their way."""


LONGEST_WAIT: Final = 3600.0
"""Seconds of one poll: longer times are waited in several, as the system's own limit is lower."""

SHORT_WAIT: Final = 0.05
"""Seconds of one poll where no other thread can end it."""


class Channel:
    """A channel to a Node process (or any program that speaks its protocol), with blocking calls.

    Iterate over it for the messages; it ends when the peer disconnects or dies. As a context
    manager it disconnects at the end. Safe for use from several threads at once.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox = connection.inbox
        self._lock = connection.lock
        # A lock of our own, which has all that a Condition asks of one.
        self._changed = threading.Condition(cast(Any, self._lock))
        self._polling = False
        self._leader = 0
        self._polled_for = 0
        self._poller = select.poll()
        self._registered: dict[int, int] = {}
        self._wakeup: Wakeup | None = None
        # Weakly: without a cycle a child that nobody has any more is told of at once.
        connection.on_socket_closed = partial(_call, weakref.WeakMethod(self._socket_closed))
        # It may be another thread's call that finds the end.
        connection.before_close = partial(_call, weakref.WeakMethod(self._wake))

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
        """The channel's descriptor, for ``select`` and the like; -1 once it is closed.

        It is readable when bytes arrive, which is not the same as a whole message being there.
        """
        return self._connection.fileno()

    # ---------------------------------------------------------------------------------- sending

    def send(
        self,
        message: Any,
        handle: socket.socket | None = None,
        *,
        keep_open: bool = False,
        handle_type: str | None = None,
    ) -> None:
        """Send a message; returns once the kernel has all of it.

        While the peer does not read, this blocks, and what arrives meanwhile is kept for ``recv``.
        With a ``handle``, a socket that listens, is connected, or is UDP, it returns once the peer
        has acknowledged it; a connected stream socket is closed here then, unless ``keep_open``.
        ``handle_type`` asks for a type by Node's name, where a socket can be several
        (``net.Native``, ``dgram.Native``, ``net.BoundSocket``). Raises ChannelClosed, MessageError
        (names the value that cannot go), MessageTooLarge; InvalidHandle before anything is sent,
        HandleNotReceived. Follows ``process.send`` and ``subprocess.send``.
        """
        with self._lock:
            connection = self._connection
            if handle is None:
                send_id = connection.send(message)
                if connection.written < send_id:
                    self._finish_send(send_id)
            else:
                self._finish_send(
                    connection.send_handle(message, handle, keep_open=keep_open, wanted=handle_type)
                )

    def _send_counted(
        self, message: Any, handle: socket.socket, key: str, delivered: Callable[[], None]
    ) -> None:
        """As ``send``, with a connection that a socket list counts; for ``Server``."""
        with self._lock:
            connection = self._connection
            self._finish_send(
                connection.send_handle(
                    message, handle, wanted="net.Socket", key=key, delivered=delivered
                )
            )

    def _socket_count(self, key: str, timeout: float | None) -> int:
        """How many sockets of a list are open at the peer, 0 when it has gone; for ``Server``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if not self._connection.connected:
                return 0
            question = self._connection.ask_socket_count(key)
            self._wait_for_answer(question, deadline)
            return question.count

    def _wait_sockets_closed(self, key: str, timeout: float | None) -> None:
        """Wait until no socket of a list is open at the peer, or it has gone; for ``Server``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            if self._connection.connected:
                self._wait_for_answer(self._connection.ask_sockets_closed(key), deadline)

    def _wait_for_answer(self, question: Question, deadline: float | None) -> None:
        try:
            self._wait(lambda: question.done, deadline)
        finally:
            question.abandoned = True

    def send_many(self, messages: Iterable[Any]) -> None:
        """Send several messages in as few writes as possible; returns once the kernel has them all.

        All or nothing: when one of them cannot go (see ``send``), none does.
        """
        # Taken outside the lock: the iterable may come from this channel, or take its time.
        taken = list(messages)
        with self._lock:
            send_id = self._connection.send_many(taken)
            if send_id:
                self._finish_send(send_id)

    def _finish_send(self, send_id: int) -> None:
        """Wait until a send has ended, and raise its error. Called with the lock held."""
        connection = self._connection
        try:
            self._wait(lambda: connection.settled(send_id), None)
            connection.result(send_id)
        except BaseException:
            connection.forget(send_id)
            raise

    # -------------------------------------------------------------------------------- receiving

    def recv(self, timeout: float | None = None) -> Any:
        """The next message; waits for it, at most ``timeout`` seconds (None: without a limit).

        Raises ChannelClosed when no more will come, TimeoutError, and ProtocolError or
        MessageTooLarge when the peer broke the protocol. A handle that came with the message is
        closed, with a ResourceWarning: ``recv_with_handle`` takes it.
        """
        try:
            received = self._inbox.popleft()
        except IndexError:
            received = self._next(timeout)
        if received[1] is not None:
            self._connection.drop_handle(received)
        return received[0]

    def recv_with_handle(self, timeout: float | None = None) -> tuple[Any, socket.socket | None]:
        """The next message and the handle that came with it, or None; otherwise as ``recv``.

        The handle is a ``socket.socket``, which is the caller's from here on.
        """
        try:
            received = self._inbox.popleft()
        except IndexError:
            received = self._next(timeout)
        return received[0], self._connection.take_handle(received)

    def __iter__(self) -> Iterator[Any]:
        """The messages, until the peer disconnects or dies; raises when it breaks the protocol."""
        return self

    def __next__(self) -> Any:
        try:
            return self.recv()
        except ChannelClosed:
            self._connection.end_of_iteration()
            raise StopIteration from None

    def _next(self, timeout: float | None) -> Message:
        deadline = None if timeout is None else time.monotonic() + timeout
        inbox = self._inbox
        with self._lock:
            connection = self._connection
            while True:
                self._wait(lambda: bool(inbox) or connection.closed, deadline)
                # recv takes what is there without the lock: another thread may have been quicker.
                with contextlib.suppress(IndexError):
                    return inbox.popleft()
                if connection.closed:
                    raise connection.end()

    # ----------------------------------------------------------------------------------- ending

    def disconnect(self) -> None:
        """Close the channel after everything that was sent; messages can no longer be sent.

        What arrived before stays for ``recv``. Raises AlreadyDisconnected when either side has
        disconnected before. Follows ``process.disconnect``.
        """
        with self._lock:
            connection = self._connection
            connection.disconnect()
            self._close_within(DISCONNECT_LIMIT)

    def _close_within(self, limit: float) -> None:
        """Wait until the connection is closed; after ``limit`` seconds give up what is unsent."""
        connection = self._connection
        try:
            self._wait(lambda: connection.closed, time.monotonic() + limit)
        except TimeoutError:
            warnings.warn(
                connection.unsent_warning(limit, "disconnect"),
                RuntimeWarning,
                stacklevel=3,
            )
        finally:
            if not connection.closed:
                connection.abort()
            self._closed()

    def _socket_closed(self) -> None:
        """A socket that the peer counts was closed, on any thread, perhaps by the GC."""
        # The GC may have come while this very thread holds the lock: then the next call reports it.
        if self._lock.acquire_unless_held(timeout=0.1):
            try:
                self._connection.report_closed_sockets()
                if self._connection.unsent:
                    self._wake()
            finally:
                self._lock.release()
        else:
            self._wake()

    def _closed(self) -> None:
        """The channel is closed: let go of what was only needed to wait for it."""
        self._changed.notify_all()
        if self._wakeup is not None:
            if self._polling:
                self._wakeup.set()
            else:
                self._wakeup.close()
                self._wakeup = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        connection = self._connection
        if not connection.closed:
            connection.leave()
        self._close_within(DISCONNECT_LIMIT)

    def __del__(self) -> None:
        wakeup = self.__dict__.get("_wakeup")
        if wakeup is not None:
            wakeup.close()

    def __repr__(self) -> str:
        state = "connected" if self.connected else "disconnected"
        return f"<{type(self).__module__}.{type(self).__qualname__} {state} fd={self.fileno()}>"

    # ---------------------------------------------------------------------------------- waiting

    def _wait(self, ready: Callable[[], bool], deadline: float | None) -> None:
        """Do the channel's input and output until ``ready``; TimeoutError past the deadline.

        Called with the lock held, which is let go while nothing can be done.
        """
        # A signal handler may have interrupted this thread in its poll.
        nested = self._polling and self._leader == threading.get_ident()
        try:
            self._wait_until(ready, deadline)
        finally:
            if nested:
                # What it has read may be what the interrupted call waits for.
                self._wake()

    def _wait_until(self, ready: Callable[[], bool], deadline: float | None) -> None:
        looked = False
        while True:
            # Before the question, as it writes: what this thread waits for may be done with that.
            self._connection.attend()
            if ready():
                return
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                # One look is always taken: a timeout of 0 asks for what is there.
                if looked or self._polling:
                    raise TimeoutError("timed out")
                remaining = 0
            looked = True
            step = None if remaining is None else min(remaining, LONGEST_WAIT)
            # A signal handler leads as well, although the thread that it interrupted does.
            if self._polling and self._leader != threading.get_ident():
                if self._wanted_events() & ~self._polled_for:
                    self._wake()
                self._changed.wait(step)
            else:
                self._lead(step)

    def _lead(self, remaining: float | None) -> None:
        """Poll once for all threads, and do what the poll allows."""
        outer = self._polling
        poller = self._prepare_poll()
        self._polling = True
        self._leader = threading.get_ident()
        if self._wakeup is None and not self._connection.closed:
            remaining = SHORT_WAIT if remaining is None else min(remaining, SHORT_WAIT)
        self._lock.release()
        try:
            polled = poller.poll(None if remaining is None else remaining * 1000)
        finally:
            self._take_lock_back()
            self._polling = outer
            # Also when a signal handler raised: somebody else has to lead now.
            self._changed.notify_all()
        connection = self._connection
        for fd, events in polled:
            if fd == connection.fileno():
                if events & select.POLLOUT:
                    connection.flush()
                if events & ~select.POLLOUT:
                    connection.read()
            elif self._wakeup is not None and fd == self._wakeup.fileno():
                self._wakeup.clear()
            else:
                self._extra_ready()
        if connection.closed:
            self._closed()

    def _take_lock_back(self) -> None:
        """Take the lock whatever signal handlers raise meanwhile; raise that afterwards."""
        interruption: BaseException | None = None
        while True:
            try:
                self._lock.acquire()
                break
            except BaseException as error:
                interruption = error
        if interruption is not None:
            raise interruption

    def _prepare_poll(self) -> select.poll:
        connection = self._connection
        wanted = self._extra_fds()
        events = 0
        if not connection.closed:
            events = self._wanted_events()
            wanted[connection.fileno()] = events
            if self._wakeup is None:
                # Without a descriptor left for it the wait is cut into short ones.
                with contextlib.suppress(OSError):
                    self._wakeup = Wakeup()
            if self._wakeup is not None:
                wanted[self._wakeup.fileno()] = select.POLLIN
        self._polled_for = events
        if wanted != self._registered or self._polling:
            # A new one each time: one that is in use (see _wait) cannot be used again meanwhile.
            self._poller = select.poll()
            for fd, mask in wanted.items():
                self._poller.register(fd, mask)
            self._registered = wanted
        return self._poller

    def _wanted_events(self) -> int:
        """What the connection is to be polled for."""
        connection = self._connection
        events = select.POLLIN if connection.wants_read else 0
        return events | select.POLLOUT if connection.unsent else events

    def _wake(self) -> None:
        """Make a leader that is in its poll look again."""
        if self._polling and self._wakeup is not None:
            self._wakeup.set()

    def _extra_fds(self) -> dict[int, int]:
        """What else to poll for; a child adds its process."""
        return {}

    def _extra_ready(self) -> None:
        """One of ``_extra_fds`` is ready."""


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    alive = method()
    if alive is not None:
        alive()


def connect_parent(
    *,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    max_queued: int = DEFAULT_MAX_QUEUED,
) -> Channel:
    """The channel to the Node process that started this one with ``fork`` or an ``ipc`` stdio.

    ``max_message_size`` bounds a message and ``max_queued`` what may wait for ``recv``, in bytes on
    the wire. Raises NotForked when there is no such channel, HandshakeError when what the parent
    left is unusable. The variables it came in are removed from ``os.environ``.
    """
    return Channel(connect_to_parent(max_message_size=max_message_size, max_queued=max_queued))
