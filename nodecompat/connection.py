"""One end of a channel that never waits: a protocol and a transport, joined.

All that the ways in (``sync``, ``asyncio``, ``process``) have in common. What they have apart is
how they wait until the descriptor is readable or writable, and whom they wake then.
"""

from __future__ import annotations

import atexit
import os
import select
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from nodecompat.environment import take_parent_channel
from nodecompat.errors import (
    ChannelClosed,
    HandleNotReceived,
    IncompleteMessage,
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
    SocketCount,
    SocketsClosed,
)
from nodecompat.transport.handles import OutgoingHandle, handle_type
from nodecompat.transport.unix import UnixTransport

__all__ = [
    "DEFAULT_MAX_QUEUED",
    "EXIT_FLUSH_LIMIT",
    "Connection",
    "Question",
    "connect_to_parent",
    "log_incomplete",
]

DEFAULT_MAX_QUEUED: Final = 2**28
"""Bytes that may wait for ``recv`` before reading stops and the peer has to wait."""

EXIT_FLUSH_LIMIT: Final = 10.0
"""Seconds without progress after which an exiting interpreter gives up what is unsent."""


def _nothing() -> None:
    """What happens where nobody asked to be called."""


class Question:
    """What the peer was asked about a socket list; ``done`` once it has answered, or has gone.

    ``count`` is the number of sockets that are open there: 0 in the answer to "tell me when none
    is", and from a peer that has gone.
    """

    __slots__ = ("_answer", "abandoned", "count", "done", "key")

    def __init__(self, key: str, answer: type[SocketCount] | type[SocketsClosed]) -> None:
        self.key = key
        self._answer = answer
        self.count = 0
        self.done = False
        self.abandoned = False
        """Whether nobody waits for the answer any more; it may still come."""

    def take(self, event: SocketCount | SocketsClosed) -> bool:
        """Take an answer, if it is the one to this question."""
        if type(event) is not self._answer or event.key != self.key:
            return False
        if isinstance(event, SocketCount):
            self.count = event.number
        self.done = True
        return True


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
        # True from before the kernel is asked until its answer is in the books. Found True by a
        # later call, it tells that an exception (a signal handler's, say) came in between.
        self._in_io = False
        self.inbox: deque[Message] = deque()
        self.closed = False
        self.error: NodeIPCError | None = None
        self.before_close: Callable[[], None] | None = None
        """Called once, while the descriptor is still open: whoever watches it stops."""
        self.on_socket_closed: Callable[[], object] = _nothing
        """Called when a socket that the peer counts was closed, on whatever thread that was; what
        it leads to is done by ``report_closed_sockets``."""
        self._questions: list[Question] = []
        self._closed_sockets: deque[str] = deque()
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
    def queued_sends(self) -> int:
        """How many sends wait until the peer has taken a handle."""
        return self._protocol.queued_sends

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
        return self._protocol.awaiting_ack or not all(
            question.abandoned for question in self._questions
        )

    def fileno(self) -> int:
        """The channel's descriptor, -1 once it is closed."""
        return self._transport.fileno()

    # ---------------------------------------------------------------------------------- sending

    def send(self, message: Any) -> int:
        """Accept a message, write what the kernel takes of it; returns its id for ``settled``."""
        self._check_open()
        send_id = self._protocol.send(message)
        self._transport.enqueue(self._protocol.data_to_send())
        self.flush()
        return send_id

    def send_handle(
        self,
        message: Any,
        handle: Any,
        *,
        keep_open: bool = False,
        wanted: str | None = None,
        key: str | None = None,
        delivered: Callable[[], None] | None = None,
    ) -> int:
        """As ``send``, with a handle; settled once the peer has acknowledged it.

        A connected stream socket is closed then, unless ``keep_open``. ``wanted`` asks for one of
        Node's types by name, ``key`` names the socket list that counts the socket. ``delivered`` is
        called when the peer has a socket that moved, before it is closed here. Raises InvalidHandle
        as well.
        """
        self._check_open()
        kind = handle_type(handle, wanted)
        moves = kind.moves and not keep_open
        outgoing = OutgoingHandle(handle, moves=moves, on_delivery=delivered)
        try:
            info = HandleInfo(
                kind.name, key if kind.name == "net.Socket" else None, kind.dgram_type
            )
            send_id = self._protocol.send(message, outgoing, info, keep_open=not moves)
        except BaseException:
            outgoing.release(delivered=False)
            raise
        self._waiting_for_ack.add(send_id)
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

    def own(self) -> None:
        """Copy large buffers of what is not written yet: their owners go on before it is."""
        self._transport.own()
        self._protocol.own()

    def forget(self, send_id: int) -> None:
        """Nobody will ask for the outcome of a send any more (it was cancelled, say)."""
        self.own()
        self._waiting_for_ack.discard(send_id)
        self._settled.pop(send_id, None)

    def flush(self) -> None:
        """Write as much as the kernel takes."""
        if self._in_io:
            self._fail_interrupted()
        while self._transport.unsent:
            self._in_io = True
            try:
                self._transport.flush()
                self._in_io = False
                break
            except HandleNotReceived as error:
                self._protocol.handle_failed(error)
                self._dispatch()
            except ConnectionError:
                self._in_io = False
                # The peer is gone. What it sent before is still to be read, up to the end.
                self._write_failed = True
                self._transport.discard()
            except OSError as error:
                self._in_io = False
                self._fail(error)
                return
        if self._transport.unsent or self._protocol.awaiting_ack:
            _unfinished.add(self)
        else:
            _unfinished.discard(self)
        if self._ending and not self._transport.unsent and not self.closed:
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
        self._in_io = False
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
        deadline = time.monotonic() + EXIT_FLUSH_LIMIT
        before = self._progress()
        while not self.closed and (self._transport.unsent or self._protocol.awaiting_ack):
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                text = self.unsent_warning(EXIT_FLUSH_LIMIT, "exit")
                warnings.warn(text, RuntimeWarning, stacklevel=2)
                return
            poller = select.poll()
            writing = select.POLLOUT if self._transport.unsent else 0
            reading = select.POLLIN if self.wants_read else 0
            poller.register(self.fileno(), writing | reading)
            poller.poll(remaining * 1000)
            # A peer that is blocked in a write of its own reads on once that has gone through.
            self.read()
            self.flush()
            if self._progress() != before:
                deadline = time.monotonic() + EXIT_FLUSH_LIMIT
                before = self._progress()

    def unsent_warning(self, limit: float, before: str) -> str:
        """What to say when the peer has kept the rest from being sent for ``limit`` seconds."""
        if not self._protocol.awaiting_ack:
            return (
                f"the peer took no data for {limit} s: {self._transport.unsent} bytes "
                f"were not sent before the {before}"
            )
        return (
            f"the peer did not take a handle for {limit} s: {self._transport.unsent} bytes and "
            f"{self._protocol.queued_sends} messages behind it were not sent before the {before}"
        )

    def _progress(self) -> tuple[int, int, bool]:
        """What changes when the peer takes something."""
        protocol = self._protocol
        return self._transport.unsent, protocol.queued_sends, protocol.awaiting_ack

    def _check_open(self) -> None:
        if self._in_io:
            self._fail_interrupted()
        if self._write_failed or self.closed:
            raise ChannelClosed("cannot send: the channel is closed") from self.error

    # -------------------------------------------------------------------------------- receiving

    def read(self) -> bool:
        """One read, and all that follows from it; False when there was nothing to read."""
        if self.closed:
            return False
        self.attend()
        if self.closed:
            return True
        self._in_io = True
        try:
            received = self._transport.read()
        except OSError as error:
            self._in_io = False
            # Not the peer's doing: somebody closed our descriptor, say.
            self._fail(error)
            return True
        if received is None:
            self._in_io = False
            return False
        data, handles = received
        if data:
            if not self.inbox:
                self._queued = 0
            if not self._ending:
                self._queued += len(data)
            self._protocol.handles_written = self._transport.handles_written
            self._protocol.receive_data(data, handles)
        else:
            # Nobody is left to read what was not written yet.
            self._transport.discard()
            self._protocol.receive_eof()
        self._dispatch()
        self.flush()
        return True

    def take_handle(self, message: Message) -> socket.socket | None:
        """The handle of a message as a socket, which is the caller's from here on, or None."""
        if message.handle is None:
            return None
        key = message.info.key if message.info is not None else None
        on_close = None if key is None else partial(self._socket_closed, key)
        taken: socket.socket = message.handle.to_socket(on_close)
        return taken

    def drop_handle(self, message: Message) -> None:
        """Close the handle of a message that was asked for without it, with a ResourceWarning."""
        try:
            message.handle.close_untaken()
        finally:
            if message.info is not None and message.info.key is not None:
                self._socket_closed(message.info.key)

    def _socket_closed(self, key: str) -> None:
        """A socket of a list was closed; called from any thread, at any time, also by the GC."""
        # In a copy that os.fork made the channel is the parent's, and so is the socket.
        if self._pid == os.getpid():
            self._closed_sockets.append(key)
            self.on_socket_closed()

    def attend(self) -> None:
        """What has to be seen to before every wait: afterwards, look whether there is one to do."""
        if self._in_io:
            self._fail_interrupted()
        if self._closed_sockets:
            self.report_closed_sockets()

    def report_closed_sockets(self) -> None:
        """Answer the peer's questions about sockets that were closed meanwhile."""
        if not self._closed_sockets or self._pid != os.getpid():
            return
        while self._closed_sockets:
            self._protocol.socket_closed(self._closed_sockets.popleft())
        self._transport.enqueue(self._protocol.data_to_send())
        self.flush()

    def ask_socket_count(self, key: str) -> Question:
        """Ask the peer how many sockets of a list are open there."""
        self._check_open()
        self._protocol.ask_socket_count(key)
        return self._ask(Question(key, SocketCount))

    def ask_sockets_closed(self, key: str) -> Question:
        """Ask the peer to say when no socket of a list is open there any more."""
        self._check_open()
        self._protocol.ask_sockets_closed(key)
        return self._ask(Question(key, SocketsClosed))

    def _ask(self, question: Question) -> Question:
        self._questions.append(question)
        self._transport.enqueue(self._protocol.data_to_send())
        self.flush()
        return question

    def _answered(self, event: SocketCount | SocketsClosed) -> None:
        for question in self._questions:
            if question.take(event):
                self._questions.remove(question)
                return

    def _fail(self, error: OSError) -> None:
        """The descriptor does not work any more: the channel ends here."""
        failure = ChannelClosed(f"the channel failed: {error}")
        failure.__cause__ = error
        self._end_with(failure)

    def _fail_interrupted(self) -> None:
        """Bytes were lost, or would go twice: nothing can go on from here."""
        self._in_io = False
        if not self.closed:
            self._end_with(
                ChannelClosed(
                    "the channel failed: an exception interrupted an earlier call while it read or "
                    "wrote"
                )
            )

    def _end_with(self, failure: ChannelClosed) -> None:
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
        self._in_io = True
        inbox = self.inbox
        failure: OSError | None = None
        for event in self._protocol.events():
            if type(event) is Message:
                inbox.append(event)
            elif isinstance(event, InternalMessage):
                # None of those that reach this place are of use to anyone yet.
                if event.handle is not None:
                    event.handle.close()
                    if event.info is not None and event.info.key is not None:
                        self._protocol.socket_closed(event.info.key)
            elif isinstance(event, Sent):
                self._settle(event.id, None)
            elif isinstance(event, SendFailed):
                self._settle(event.id, event.error)
            elif isinstance(event, HandleReleased):
                try:
                    event.handle.release(event.delivered)
                except OSError as error:
                    # Its owner has closed it behind our back. The rest has to happen all the same.
                    failure = failure or error
            elif isinstance(event, (SocketCount, SocketsClosed)):
                self._answered(event)
            elif isinstance(event, Disconnected):
                self._ending = True
                self._end_error = event.error
                if event.error is not None:
                    self._transport.discard()
        outgoing = self._protocol.data_to_send()
        if outgoing:
            self._transport.enqueue(outgoing)
        self._in_io = False
        if failure is not None:
            raise failure

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
        for question in self._questions:
            question.done = True
        self._questions.clear()
        _unfinished.discard(self)


# --------------------------------------------------------------------------------------- exiting

_unfinished: set[Connection] = set()
"""The connections with output or handles on their way: kept alive for the exit."""


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
