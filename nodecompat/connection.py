"""One end of a channel that never waits: a protocol and a transport, joined.

All that the ways in (``sync``, ``asyncio``, ``process``) have in common. What they have apart is
how they wait until the descriptor is readable or writable, and whom they wake then.
"""

from __future__ import annotations

import atexit
import os
import select
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from nodecompat.environment import take_parent_channel
from nodecompat.errors import (
    ChannelClosed,
    IncompleteMessage,
    InvalidHandle,
    NodeIPCError,
)
from nodecompat.locks import ChannelLock
from nodecompat.protocol.channel import DEFAULT_MAX_MESSAGE_SIZE, ChannelProtocol
from nodecompat.protocol.events import (
    Disconnected,
    HandleInfo,
    HandleReleased,
    InternalMessage,
    Message,
    SendFailed,
    Sent,
)
from nodecompat.transport.unix import UnixTransport

__all__ = [
    "DEFAULT_MAX_QUEUED",
    "EXIT_FLUSH_LIMIT",
    "Connection",
    "connect_to_parent",
    "log_incomplete",
]

DEFAULT_MAX_QUEUED: Final = 2**28
"""Bytes that may wait for ``recv`` before reading stops and the peer has to wait."""

EXIT_FLUSH_LIMIT: Final = 10.0
"""Seconds without progress after which an exiting interpreter gives up what is unsent."""


def log_incomplete(error: NodeIPCError) -> None:
    """Say in the log that the peer died in the middle of a message."""
    # Imported here: it takes longer than the rest of the module, and is rarely needed.
    import logging

    logging.getLogger("nodecompat").warning("%s", error)


class Connection:
    """A channel's state between two waits.

    ``inbox`` holds what arrived for the user. ``closed`` is True once the descriptor is closed and
    nothing more will come; ``error`` then says why, None for an ordinary end. Not safe for use from
    several threads at once.
    """

    def __init__(
        self,
        transport: UnixTransport,
        protocol: ChannelProtocol,
        *,
        max_queued: int = DEFAULT_MAX_QUEUED,
    ) -> None:
        if max_queued < 1:
            raise ValueError(f"max_queued={max_queued!r}: must be at least 1 byte")
        self._transport = transport
        self._protocol = protocol
        self._max_queued = max_queued
        self._queued = 0
        self._write_failed = False
        self._ending = False
        self._end_error: NodeIPCError | None = None
        self._error_was_raised = False
        self._incomplete_was_logged = False
        self._settled: dict[int, NodeIPCError | None] = {}
        self._waiting_for_ack: set[int] = set()
        self._pid = os.getpid()
        self.inbox: deque[Message] = deque()
        self.closed = False
        self.error: NodeIPCError | None = None
        self.before_close: Callable[[], None] | None = None
        """Called once, while the descriptor is still open: whoever watches it stops."""
        self.lock = ChannelLock()
        """For whoever uses the connection from several threads; the exit takes it too."""

    # ------------------------------------------------------------------------------------ state

    @property
    def connected(self) -> bool:
        """Whether messages can be sent."""
        return self._protocol.connected and not self._write_failed

    @property
    def serialization(self) -> str:
        """``json`` or ``advanced``."""
        return self._protocol.serialization

    @property
    def written(self) -> int:
        """The id of the last send whose bytes the kernel has."""
        return self._transport.written

    @property
    def unsent(self) -> int:
        """How many bytes wait to be written: while there are any, wait for writability too."""
        return self._transport.unsent

    @property
    def wants_read(self) -> bool:
        """Whether to wait for readability: not past the bound of what may wait for the user.

        Reading never stops while a handle is unsettled: its acknowledgement has to get through.
        """
        if self.closed:
            return False
        if self._queued < self._max_queued:
            return True
        if not self.inbox:
            self._queued = 0
            return True
        return self._protocol.awaiting_ack

    def fileno(self) -> int:
        """The channel's descriptor, -1 once it is closed."""
        return self._transport.fileno()

    # ---------------------------------------------------------------------------------- sending

    def send(
        self,
        message: Any,
        handle: Any = None,
        info: HandleInfo | None = None,
        *,
        keep_open: bool = False,
    ) -> int:
        """Accept a message, write what the kernel takes of it; returns its id for ``settled``."""
        if handle is not None:
            raise InvalidHandle("handles are not supported yet: send the message without one")
        self._check_open()
        send_id = self._protocol.send(message, handle, info, keep_open=keep_open)
        self._transport.enqueue(self._protocol.data_to_send())
        self.flush()
        return send_id

    def send_many(self, messages: Iterable[Any]) -> int:
        """Accept several messages; returns the id of the last one, 0 when there was none."""
        self._check_open()
        send_id = self._protocol.send_many(messages)
        self._transport.enqueue(self._protocol.data_to_send())
        self.flush()
        return send_id

    def settled(self, send_id: int) -> bool:
        """Whether a send has ended: written, with a handle acknowledged, or failed."""
        if send_id in self._settled:
            return True
        if send_id in self._waiting_for_ack:
            return self.closed
        return self._transport.written >= send_id or self.closed or self._write_failed

    def result(self, send_id: int) -> None:
        """The outcome of a settled send, once: returns, or raises what became of it."""
        if send_id in self._settled:
            self._waiting_for_ack.discard(send_id)
            error = self._settled.pop(send_id)
            if error is not None:
                raise error
        elif send_id in self._waiting_for_ack or self._transport.written < send_id:
            self._waiting_for_ack.discard(send_id)
            raise ChannelClosed("the channel closed before the message was sent") from self.error

    def forget(self, send_id: int) -> None:
        """Nobody will ask for the outcome of a send any more (it was cancelled, say)."""
        self._waiting_for_ack.discard(send_id)
        self._settled.pop(send_id, None)

    def flush(self) -> None:
        """Write as much as the kernel takes."""
        if self._transport.unsent:
            try:
                self._transport.flush()
            except ConnectionError:
                # The peer is gone. What it sent before is still to be read, up to the end.
                self._write_failed = True
                self._transport.discard()
            except OSError as error:
                self._fail(error)
                return
        if self._transport.unsent:
            _unfinished.add(self)
            return
        _unfinished.discard(self)
        if self._ending and not self.closed:
            self._close()

    def disconnect(self) -> None:
        """Take no new sends, write what was accepted, then close.

        Returns at once; ``closed`` tells when it is done. Raises AlreadyDisconnected.
        """
        self._protocol.disconnect()
        self._dispatch()
        self.flush()

    def leave(self) -> None:
        """As ``disconnect``, in whatever state the channel is."""
        if self._write_failed:
            self.abort()
        elif self._protocol.connected:
            self.disconnect()

    def abort(self) -> None:
        """Close now, and give up what is unsent."""
        self._protocol.abort(ChannelClosed("the channel was closed on this side"))
        self._dispatch()
        self._transport.discard()
        self.flush()

    def flush_before_exit(self) -> None:
        """Block until what was accepted is written, the peer is gone, or takes nothing any more.

        Gives up after EXIT_FLUSH_LIMIT seconds without progress, with a RuntimeWarning.
        """
        if self._pid != os.getpid():
            # A copy that os.fork made: the channel and what it has to send are the parent's.
            return
        if not self.lock.acquire(timeout=EXIT_FLUSH_LIMIT):
            return
        try:
            self._flush_before_exit()
        finally:
            self.lock.release()

    def _flush_before_exit(self) -> None:
        self.flush()
        while self._transport.unsent:
            before = self._transport.unsent
            poller = select.poll()
            poller.register(
                self.fileno(), select.POLLOUT | (select.POLLIN if self.wants_read else 0)
            )
            deadline = time.monotonic() + EXIT_FLUSH_LIMIT
            while self._transport.unsent == before:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    warnings.warn(
                        f"the peer takes no data: {before} bytes were not sent before the exit",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    return
                poller.poll(remaining * 1000)
                # A peer that is blocked in a write of its own reads on once that has gone through.
                self.read()
                self.flush()
                if not self.wants_read and self._transport.unsent:
                    poller.modify(self.fileno(), select.POLLOUT)

    def _check_open(self) -> None:
        if self._write_failed or self.closed:
            raise ChannelClosed("cannot send: the channel is closed") from self.error

    # -------------------------------------------------------------------------------- receiving

    def read(self) -> bool:
        """One read, and all that follows from it; False when there was nothing to read."""
        if self.closed:
            return False
        try:
            received = self._transport.read()
        except OSError as error:
            # Not the peer's doing: somebody closed our descriptor, say.
            self._fail(error)
            return True
        if received is None:
            return False
        data, handles = received
        if data:
            if not self.inbox:
                self._queued = 0
            if not self._ending:
                self._queued += len(data)
            self._protocol.receive_data(data, handles)
        else:
            # Nobody is left to read what was not written yet.
            self._transport.discard()
            self._protocol.receive_eof()
        self._dispatch()
        self.flush()
        return True

    def _fail(self, error: OSError) -> None:
        """The descriptor does not work any more: the channel ends here."""
        failure = ChannelClosed(f"the channel failed: {error}")
        failure.__cause__ = error
        self._transport.discard()
        self._protocol.abort(failure)
        self._dispatch()
        self._end_error = failure
        if not self.closed:
            self._close()

    def end(self) -> NodeIPCError:
        """The error for whoever asks for a message when no more will come.

        What ended the channel, once; ChannelClosed from then on.
        """
        error = self.error
        if error is None or self._error_was_raised:
            closed = ChannelClosed("the channel is closed: no more messages")
            closed.__cause__ = error
            return closed
        self._error_was_raised = True
        return error

    def end_of_iteration(self) -> None:
        """Raise what broke the channel, unless it was raised before; else an iteration ends here.

        A peer that died in the middle of a message has ended: the complete ones were all delivered.
        That is logged, once, and the next ``recv`` raises it.
        """
        error = self.error
        if isinstance(error, IncompleteMessage):
            self._error_was_raised = False
            if not self._incomplete_was_logged:
                self._incomplete_was_logged = True
                log_incomplete(error)
        elif error is not None and not self._error_was_raised:
            raise self.end()

    def _dispatch(self) -> None:
        """Act on what the protocol says."""
        inbox = self.inbox
        for event in self._protocol.events():
            if type(event) is Message:
                inbox.append(event)
            elif isinstance(event, InternalMessage):
                # None of those that reach this place are of use to anyone yet.
                if event.handle is not None:
                    event.handle.close()
            elif isinstance(event, Sent):
                self._settle(event.id, None)
            elif isinstance(event, SendFailed):
                self._settle(event.id, event.error)
            elif isinstance(event, HandleReleased):
                event.handle.close()
            elif isinstance(event, Disconnected):
                self._ending = True
                self._end_error = event.error
                if event.error is not None:
                    self._transport.discard()
        outgoing = self._protocol.data_to_send()
        if outgoing:
            self._transport.enqueue(outgoing)

    def _settle(self, send_id: int, error: NodeIPCError | None) -> None:
        if send_id in self._waiting_for_ack:
            self._settled[send_id] = error

    def _close(self) -> None:
        self.error = self._end_error
        if self.before_close is not None:
            self.before_close()
            self.before_close = None
        self.closed = True
        self._transport.close()
        _unfinished.discard(self)


# --------------------------------------------------------------------------------------- exiting

_unfinished: set[Connection] = set()
"""The connections with unsent output: kept alive for the exit, whoever else has forgotten them."""


def _flush_at_exit() -> None:
    """Write what was accepted before the interpreter ends, as long as the peer takes it."""
    failures: list[Exception] = []
    for connection in list(_unfinished):
        try:
            connection.flush_before_exit()
        except Exception as error:
            # The others have their own peers, which may well take what they get.
            failures.append(error)
    if failures:
        raise ExceptionGroup("not everything was sent before the exit", failures)


atexit.register(_flush_at_exit)


def connect_to_parent(
    *,
    max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    max_queued: int = DEFAULT_MAX_QUEUED,
) -> Connection:
    """The connection to the Node parent that started this process; raises NotForked without one."""
    channel = take_parent_channel()
    try:
        protocol = ChannelProtocol(channel.serialization, max_message_size=max_message_size)
    except BaseException:
        os.close(channel.fd)
        raise
    transport = UnixTransport.from_fd(channel.fd)
    try:
        return Connection(transport, protocol, max_queued=max_queued)
    except BaseException:
        transport.close()
        raise
