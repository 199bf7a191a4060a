"""Node's ``process``, for code with no event loop of its own.

``send``, ``on``, ``connected`` and the others are what a Node child has on its ``process`` object.
Listeners are called on one background thread, in order. A program that has nothing else to do calls
``wait()`` after it has set its listeners, where Node would stay alive by itself.

The first use takes the channel out of the environment (see ``sync.connect_parent``). Without a
channel ``connected`` is False, ``channel`` is None, and listeners are never called.
"""

from __future__ import annotations

import select
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

from nodecompat.connection import Connection, connect_to_parent, log_incomplete
from nodecompat.errors import (
    ChannelClosed,
    HandshakeError,
    IncompleteMessage,
    NodeIPCError,
    NotForked,
    ProtocolError,
)
from nodecompat.locks import ChannelLock
from nodecompat.transport.wakeup import Wakeup

__all__ = ["Control", "channel", "connected", "disconnect", "off", "on", "once", "send", "wait"]

WRITE_HIGH_WATER: Final = 128 * 1024
"""Bytes that may wait to be written before ``send`` returns False: Node's number."""

LONGEST_WAIT: Final = 3600.0
"""Seconds of one look: longer times are waited in several, as the system's own limits are lower."""

_EVENTS: Final = ("message", "disconnect", "error")

Listener = Callable[..., object]
ListenerT = TypeVar("ListenerT", bound=Listener)


class Control:
    """The channel as ``process.channel`` shows it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def fd(self) -> int:
        """The channel's descriptor, -1 once it is closed."""
        return self._connection.fileno()

    @property
    def serialization(self) -> str:
        """``json`` or ``advanced``."""
        return self._connection.serialization

    def fileno(self) -> int:
        """The same as ``fd``."""
        return self.fd


class _Process:
    """The state behind the module's functions."""

    def __init__(self) -> None:
        self._lock = ChannelLock()
        # A lock of our own, which has all that a Condition asks of one.
        self._changed = threading.Condition(cast(Any, self._lock))
        self._opened = False
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None
        self._wakeup: Wakeup | None = None
        self._listeners: dict[str, list[tuple[Listener, bool]]] = {name: [] for name in _EVENTS}
        self._callbacks: deque[tuple[int, Callable[[Exception | None], object]]] = deque()
        self._failures: deque[tuple[Callable[[Exception | None], object], Exception]] = deque()
        self._disconnect_due = False
        self._error_due: NodeIPCError | None = None
        self._incomplete: NodeIPCError | None = None
        self._raised: BaseException | None = None

    # All that follow take the lock, except where they say that they are called with it.

    def _open(self) -> Connection | None:
        """The connection, opened at the first call; with the lock held."""
        if not self._opened:
            self._opened = True
            try:
                self._connection = connect_to_parent()
            except HandshakeError:
                raise
            except NotForked:
                return None
            # The same lock: what is unsent at the exit is written under it.
            self._connection.lock = self._lock
            self._connection.before_close = self._closing
            self._wakeup = Wakeup()
            self._connection.on_socket_closed = self._wakeup.set
            self._start()
        return self._connection

    def _closing(self) -> None:
        """The channel has ended; with the lock held."""
        connection = self._connection
        assert connection is not None
        self._disconnect_due = True
        if isinstance(connection.error, IncompleteMessage):
            # The end of a peer that died, which is no failure of this side.
            self._incomplete = connection.error
        else:
            self._error_due = connection.error

    def _start(self) -> None:
        """Make sure that the thread runs; with the lock held."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="nodecompat.process", daemon=True
            )
            self._thread.start()
        elif self._wakeup is not None:
            self._wakeup.set()

    @property
    def connected(self) -> bool:
        with self._lock:
            connection = self._open()
            return connection is not None and connection.connected

    @property
    def channel(self) -> Control | None:
        with self._lock:
            connection = self._open()
            return None if connection is None or connection.closed else Control(connection)

    def send(
        self,
        message: Any,
        handle: socket.socket | None,
        keep_open: bool,
        handle_type: str | None,
        callback: Callable[[Exception | None], object] | None,
    ) -> bool:
        with self._lock:
            connection = self._require()
            try:
                if handle is None:
                    send_id = connection.send(message)
                else:
                    send_id = connection.send_handle(
                        message, handle, keep_open=keep_open, wanted=handle_type
                    )
            except ChannelClosed as error:
                if callback is None:
                    raise
                self._failures.append((callback, error))
                self._start()
                return False
            if connection.unsent or connection.queued_sends:
                connection.own()
            if callback is None and handle is not None:
                callback = _raise_lost
            if callback is not None:
                self._callbacks.append((send_id, callback))
                self._start()
            elif connection.unsent:
                self._start()
            # As Node: behind a handle there is room for one.
            return connection.unsent < WRITE_HIGH_WATER and connection.queued_sends < 2

    def disconnect(self) -> None:
        with self._lock:
            self._require().disconnect()
            self._start()

    def _require(self) -> Connection:
        connection = self._open()
        if connection is None:
            raise NotForked(
                "this process has no channel to a parent: it was not started by "
                "child_process.fork(), or its channel is in use elsewhere"
            )
        return connection

    def add(self, event: str, listener: Listener, once: bool) -> None:
        if event not in _EVENTS:
            raise ValueError(f"event {event!r}: expected one of {', '.join(_EVENTS)}")
        if not callable(listener):
            raise TypeError(f"the listener for {event!r} is not callable: {listener!r}")
        with self._lock:
            self._listeners[event].append((listener, once))
            if self._open() is not None:
                self._start()

    def remove(self, event: str, listener: Listener) -> None:
        if event not in _EVENTS:
            raise ValueError(f"event {event!r}: expected one of {', '.join(_EVENTS)}")
        with self._lock:
            listeners = self._listeners[event]
            # As Node: the one that was added last.
            for index in range(len(listeners) - 1, -1, -1):
                if listeners[index][0] == listener:
                    del listeners[index]
                    return

    def wait(self, timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            connection = self._open()
            while True:
                if self._raised is not None:
                    raised, self._raised = self._raised, None
                    raise raised
                if connection is None or (connection.closed and self._thread is None):
                    return
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise TimeoutError("timed out")
                self._changed.wait(None if remaining is None else min(remaining, LONGEST_WAIT))

    # ------------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            # Not a listener's: those are reported where they are called.
            self._report(error)
            with self._lock:
                self._thread = None

    def _serve(self) -> None:
        while True:
            with self._lock:
                work = self._next_work()
                poller: select.poll | None = None
                if work is None:
                    if self._idle():
                        self._thread = None
                        self._changed.notify_all()
                        return
                    poller = self._poller()
            if work is not None:
                self._do(work)
            if poller is None:
                continue
            ready = poller.poll()
            with self._lock:
                self._do_io(ready)

    def _next_work(self) -> tuple[list[Listener], tuple[Any, ...]] | None:
        """Whom to call next, with what; with the lock held."""
        connection = self._connection
        assert connection is not None
        if self._failures:
            callback, error = self._failures.popleft()
            return [callback], (error,)
        if self._callbacks and connection.settled(self._callbacks[0][0]):
            send_id, callback = self._callbacks.popleft()
            try:
                connection.result(send_id)
            except NodeIPCError as error:
                return [callback], (error,)
            return [callback], (None,)
        if connection.inbox and self._listeners["message"]:
            message = connection.inbox.popleft()
            try:
                handle = connection.take_handle(message)
            except (ProtocolError, OSError) as error:
                return [_raiser(error)], (error,)
            return self._take_listeners("message"), (message.message, handle)
        if self._incomplete is not None:
            # Logged without the lock: a handler may use the channel.
            incomplete, self._incomplete = self._incomplete, None
            return [log_incomplete], (incomplete,)
        if self._error_due is not None:
            error_due, self._error_due = self._error_due, None
            listeners = self._take_listeners("error")
            return listeners or [_raiser(error_due)], (error_due,)
        # Only after the messages, unless nobody listens for those.
        if self._disconnect_due and self._listeners["disconnect"]:
            self._disconnect_due = False
            return self._take_listeners("disconnect"), ()
        return None

    def _take_listeners(self, event: str) -> list[Listener]:
        """The listeners of an event, without those that wanted it once; with the lock held."""
        listeners = self._listeners[event]
        self._listeners[event] = [entry for entry in listeners if not entry[1]]
        return [listener for listener, _ in listeners]

    def _do(self, work: tuple[list[Listener], tuple[Any, ...]]) -> None:
        listeners, arguments = work
        for listener in listeners:
            try:
                listener(*arguments)
            except BaseException as error:
                self._report(error)

    def _report(self, error: BaseException) -> None:
        """An exception of a listener: shown at once, and raised by ``wait``."""
        arguments = (type(error), error, error.__traceback__, threading.current_thread())
        try:
            threading.excepthook(threading.ExceptHookArgs(arguments))
        except Exception:
            # A hook that fails must not end the listening; both errors are shown.
            traceback.print_exc()
        if isinstance(error, SystemExit):
            # The hook is silent about this one, and a thread cannot end the program.
            print(
                f"nodecompat.process: a listener called sys.exit({error.code!r}); "
                "the program ends with it in process.wait()",
                file=sys.stderr,
            )
        with self._lock:
            if self._raised is None:
                self._raised = error
            self._changed.notify_all()

    def _idle(self) -> bool:
        """Whether nothing can happen any more without a new call; with the lock held."""
        connection = self._connection
        assert connection is not None
        if not connection.closed:
            return False
        if self._wakeup is not None:
            connection.on_socket_closed = lambda: None
            self._wakeup.close()
            self._wakeup = None
        return True

    def _poller(self) -> select.poll:
        """What to wait for; with the lock held."""
        connection = self._connection
        assert connection is not None
        assert self._wakeup is not None
        poller = select.poll()
        poller.register(self._wakeup.fileno(), select.POLLIN)
        events = select.POLLIN if connection.wants_read else 0
        if connection.unsent:
            events |= select.POLLOUT
        poller.register(connection.fileno(), events)
        return poller

    def _do_io(self, ready: list[tuple[int, int]]) -> None:
        """Do what the poll allows; with the lock held."""
        connection = self._connection
        assert connection is not None
        assert self._wakeup is not None
        for fd, events in ready:
            if fd == self._wakeup.fileno():
                self._wakeup.clear()
                connection.report_closed_sockets()
            elif fd == connection.fileno():
                if events & select.POLLOUT:
                    connection.flush()
                if events & ~select.POLLOUT:
                    connection.read()


_process: Final = _Process()


def _raise_lost(error: Exception | None) -> None:
    if error is not None:
        raise error


def _raiser(error: Exception) -> Listener:
    def raise_error(_: object) -> None:
        raise error

    return raise_error


connected: bool
"""Whether messages can be sent to the parent; False when there is no channel."""

channel: Control | None
"""The channel, None when there is none or it is closed."""


def __getattr__(name: str) -> Any:
    if name == "connected":
        return _process.connected
    if name == "channel":
        return _process.channel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def send(
    message: Any,
    handle: socket.socket | None = None,
    *,
    keep_open: bool = False,
    handle_type: str | None = None,
    callback: Callable[[Exception | None], object] | None = None,
) -> bool:
    """Queue a message for the parent; returns False where the caller had better wait.

    That is once 128 KiB wait to be written, or more than one send for a handle to be taken.

    It never blocks, and what it accepted is written before the interpreter exits. ``handle``,
    ``keep_open`` and ``handle_type`` are those of ``sync.Channel.send``. ``callback`` is called on
    the background thread, with None once the kernel has the message (the peer its handle), or with
    the error. Raises NotForked without a channel, ChannelClosed after the end (a ``callback`` gets
    that one instead), MessageError, MessageTooLarge, InvalidHandle. Follows ``process.send``.
    """
    return _process.send(message, handle, keep_open, handle_type, callback)


def disconnect() -> None:
    """Close the channel after everything that was sent.

    Raises AlreadyDisconnected when either side has disconnected before, NotForked without a
    channel. Follows ``process.disconnect``.
    """
    _process.disconnect()


def on(event: str, listener: ListenerT) -> ListenerT:
    """Call ``listener`` at each ``event``; returns it.

    ``message``: ``listener(message, handle)``, the handle a ``socket.socket`` or None. Messages
    that came before there was a listener are kept for the first one. ``disconnect``:
    ``listener()``, once, after the messages. ``error``: ``listener(error)``, when the parent broke
    the protocol. An exception in a listener goes to ``threading.excepthook`` and is raised by
    ``wait``. Follows ``process.on``.
    """
    _process.add(event, listener, once=False)
    return listener


def once(event: str, listener: ListenerT) -> ListenerT:
    """As ``on``, for the next event alone."""
    _process.add(event, listener, once=True)
    return listener


def off(event: str, listener: Listener) -> None:
    """Take back a listener that ``on`` or ``once`` set; unknown ones are ignored, as in Node."""
    _process.remove(event, listener)


def wait(timeout: float | None = None) -> None:
    """Block until the channel has ended and all listeners were called; at once without a channel.

    At most ``timeout`` seconds, then TimeoutError. Raises, at once, what a listener raised.
    """
    _process.wait(timeout)
