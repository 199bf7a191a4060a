"""One end of a channel, without any input or output.

``receive_data`` and ``receive_eof`` take what came in, ``events`` gives what it means,
``data_to_send`` what has to go out. Handles are opaque: they are passed through and named in
events, never used. Follows ``setupChannel`` in Node's ``internal/child_process``.

The states, and all that moves between them (``_TRANSITIONS``):

========================  ============================  ================================
state                     event                         next state
========================  ============================  ================================
OPEN                      disconnect, nothing waits     DISCONNECTED
OPEN                      disconnect, a handle waits    DRAINING
OPEN, DRAINING            end of stream, violation      DISCONNECTED
DRAINING                  the last handle is settled    DISCONNECTED
========================  ============================  ================================
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandleNotReceived,
    MessageError,
    MessageTooLarge,
    NodeIPCError,
    ProtocolError,
)
from nodecompat.protocol.events import (
    Disconnected,
    Event,
    HandleInfo,
    HandleReleased,
    InternalMessage,
    Message,
    Outgoing,
    SendFailed,
    Sent,
    SocketCount,
    SocketsClosed,
)
from nodecompat.protocol.framing import FrameTooLarge
from nodecompat.protocol.js_types import undefined
from nodecompat.protocol.serialization import Frame, frame_size, owned
from nodecompat.protocol.serialization import serialization as serialization_named

__all__ = ["DEFAULT_MAX_MESSAGE_SIZE", "ChannelProtocol", "State"]

DEFAULT_MAX_MESSAGE_SIZE: Final = 2**30
"""Bytes of one message on the wire: twice what a JavaScript string can hold."""

MAX_HANDLE_RETRANSMISSIONS: Final = 3
"""Node's number: after so many repetitions a handle counts as lost."""

MAX_UNCLAIMED_HANDLES: Final = 64
"""A well-behaved peer has one handle in flight; a hostile one could fill our descriptor table."""


class State(enum.Enum):
    """Where a channel is in its life."""

    OPEN = "open"
    DRAINING = "draining"
    DISCONNECTED = "disconnected"


class _Trigger(enum.Enum):
    DISCONNECT = "disconnect"
    DISCONNECT_WAITING = "disconnect while handles wait"
    SETTLED = "last handle settled"
    ENDED = "end of stream or violation"


_TRANSITIONS: Final[dict[tuple[State, _Trigger], State]] = {
    (State.OPEN, _Trigger.DISCONNECT): State.DISCONNECTED,
    (State.OPEN, _Trigger.DISCONNECT_WAITING): State.DRAINING,
    (State.OPEN, _Trigger.ENDED): State.DISCONNECTED,
    (State.DRAINING, _Trigger.SETTLED): State.DISCONNECTED,
    (State.DRAINING, _Trigger.ENDED): State.DISCONNECTED,
}


class _Queued(NamedTuple):
    """A send that waits for the acknowledgement of an earlier handle."""

    data: Frame
    handle: Any
    id: int
    keep_open: bool


class _InFlight:
    """The handle that was sent and not yet acknowledged."""

    __slots__ = ("retransmissions", "send")

    def __init__(self, send: _Queued) -> None:
        self.send = send
        self.retransmissions = 0


_new_message = tuple.__new__


def is_internal(message: Any) -> bool:
    """Whether a message is Node's own: an object whose ``cmd`` begins with ``NODE_`` and goes on.

    Follows ``isInternal`` in Node's ``internal/child_process``.
    """
    if type(message) is not dict:
        return False
    cmd = message.get("cmd")
    return isinstance(cmd, str) and len(cmd) > 5 and cmd.startswith("NODE_")


_SOCKET_LIST_COMMANDS: Final = frozenset(
    {
        "NODE_SOCKET_GET_COUNT",
        "NODE_SOCKET_COUNT",
        "NODE_SOCKET_NOTIFY_CLOSE",
        "NODE_SOCKET_ALL_CLOSED",
    }
)


class ChannelProtocol:
    """The protocol of one end of a channel.

    ``serialization`` is ``json`` or ``advanced``; ValueError for any other. ``max_message_size``
    bounds a message in bytes on the wire, both ways. Not safe for use from several threads at once:
    whoever waits for the channel also guards it.
    """

    serialization: str

    def __init__(
        self,
        serialization: str = "json",
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        mode = serialization_named(serialization)
        if max_message_size < 1:
            raise ValueError(f"max_message_size={max_message_size!r}: must be at least 1 byte")
        self.serialization = serialization
        self.max_message_size = max_message_size
        self._state = State.OPEN
        self._framer = mode.framer(max_message_size)
        self._encode = mode.encode
        self._decode_many = mode.decode_many
        self._events: list[Event] = []
        self._outgoing: list[Outgoing] = []
        self._last_id = 0
        self.handles_written: int | None = None
        """How often a handle was written, all of its message; None where nobody counts."""
        self._handles_transmitted = 0
        self._in_flight: _InFlight | None = None
        self._queue: deque[_Queued] = deque()
        self._drained = False
        self._shares_memory = False
        self._lines = 0
        self._unclaimed: deque[tuple[Any, int]] = deque()
        # Socket lists: open sockets that came from the peer, and its questions that wait for none.
        self._open_sockets: dict[str, int] = {}
        self._close_questions: dict[str, int] = {}

    # ------------------------------------------------------------------------------------ state

    @property
    def state(self) -> State:
        """Where the channel is in its life."""
        return self._state

    @property
    def connected(self) -> bool:
        """Whether messages can be sent: False from ``disconnect()`` on, as in Node."""
        return self._state is State.OPEN

    @property
    def awaiting_ack(self) -> bool:
        """Whether a handle is in flight, so that every later send waits in the queue."""
        return self._in_flight is not None

    @property
    def queued_sends(self) -> int:
        """How many sends wait for the acknowledgement of a handle."""
        return len(self._queue)

    def _move(self, trigger: _Trigger) -> None:
        self._state = _TRANSITIONS[self._state, trigger]

    # ---------------------------------------------------------------------------------- sending

    def send(
        self,
        message: Any,
        handle: Any = None,
        info: HandleInfo | None = None,
        *,
        keep_open: bool = False,
    ) -> int:
        """Queue a message; returns the id under which later events speak of this send.

        Ids grow in the order of the calls, which is the order on the wire. With a handle, ``info``
        says its type. Raises ChannelClosed after a disconnect, MessageError for a value that cannot
        go, MessageTooLarge; nothing is queued then.
        """
        if self._state is not State.OPEN:
            raise ChannelClosed("cannot send: the channel is closed")
        if handle is None:
            data = self._encode(message)
        else:
            if info is None:
                raise ValueError("a handle needs a HandleInfo")
            data = _encode_with_handle(self._encode, message, info)
        if (size := frame_size(data)) > self.max_message_size:
            raise MessageTooLarge(
                f"the message takes {size} bytes; "
                f"this channel's max_message_size is {self.max_message_size}"
            )
        self._last_id = send_id = self._last_id + 1
        if type(data) is tuple:
            self._shares_memory = True
        if self._in_flight is not None:
            self._queue.append(_Queued(data, handle, send_id, keep_open))
        elif handle is None:
            self._outgoing.append(Outgoing(data, None, send_id))
        else:
            self._transmit(_Queued(data, handle, send_id, keep_open))
        return send_id

    def send_many(self, messages: Iterable[Any]) -> int:
        """Queue several messages; returns the id of the last one (0 when there was none).

        All or nothing: when one of them raises (see ``send``), none is queued.
        """
        if self._state is not State.OPEN:
            raise ChannelClosed("cannot send: the channel is closed")
        encode = self._encode
        limit = self.max_message_size
        encoded = [encode(message) for message in messages]
        for data in encoded:
            if (size := frame_size(data)) > limit:
                raise MessageTooLarge(
                    f"a message takes {size} bytes; this channel's max_message_size is {limit}"
                )
        if not encoded:
            return 0
        self._last_id += len(encoded)
        send_id = self._last_id
        joined = _joined(encoded)
        if type(joined) is tuple:
            self._shares_memory = True
        if self._in_flight is not None:
            # One entry serves: nothing tells the messages of one call apart until they are written.
            self._queue.append(_Queued(joined, None, send_id, False))
        else:
            self._outgoing.append(Outgoing(joined, None, send_id))
        return send_id

    def disconnect(self) -> None:
        """Take no new sends; the channel ends when the handles on their way are settled.

        Raises AlreadyDisconnected the second time, and after the peer has gone.
        """
        if self._state is not State.OPEN:
            raise AlreadyDisconnected("the channel is already disconnected")
        if self._in_flight is not None:
            self._move(_Trigger.DISCONNECT_WAITING)
        else:
            self._move(_Trigger.DISCONNECT)
            self._finish(None)

    def own(self) -> None:
        """Copy what waits with or behind a handle, where its sender could still change it."""
        if not self._shares_memory:
            return
        self._shares_memory = False
        self._queue = deque(send._replace(data=owned(send.data)) for send in self._queue)
        if self._in_flight is not None:
            # It may have to be sent again.
            send = self._in_flight.send
            self._in_flight.send = send._replace(data=owned(send.data))

    def data_to_send(self) -> list[Outgoing]:
        """What is to be written now, in order; it is the caller's from here on."""
        outgoing = self._outgoing
        if outgoing:
            self._outgoing = []
        return outgoing

    def _transmit(self, send: _Queued) -> None:
        # Set before the bytes leave: an acknowledgement can come while they are still on the way.
        self._in_flight = _InFlight(send)
        self._transmit_once(send)

    def _transmit_once(self, send: _Queued) -> None:
        self._handles_transmitted += 1
        self._outgoing.append(Outgoing(send.data, send.handle, send.id))

    def _send_internal(self, message: dict[str, Any]) -> None:
        """Queue a message of the channel's own, which takes its turn like a user's."""
        data = self._encode(message)
        if self._in_flight is not None:
            self._queue.append(_Queued(data, None, 0, False))
        else:
            self._outgoing.append(Outgoing(data, None, 0))

    def handle_failed(self, error: NodeIPCError) -> None:
        """The handle in flight could not be written, and not a byte of its message was."""
        in_flight = self._in_flight
        if in_flight is not None:
            self._handles_transmitted -= 1
            self._settle_in_flight(in_flight.send, error)
            if self._drained:
                self._finish_drained()

    def _settle_in_flight(self, send: _Queued, error: NodeIPCError | None) -> None:
        if error is None:
            self._events.append(Sent(send.id))
        else:
            self._events.append(SendFailed(send.id, error))
        delivered = error is None and not send.keep_open
        self._events.append(HandleReleased(send.handle, delivered=delivered))
        self._drain_queue()

    def _drain_queue(self) -> None:
        """Send what waited, up to and with the next handle."""
        self._in_flight = None
        queue = self._queue
        while queue:
            send = queue.popleft()
            if send.handle is not None:
                self._transmit(send)
                return
            self._outgoing.append(Outgoing(send.data, None, send.id))
        self._drained = self._state is State.DRAINING

    def _finish_drained(self) -> None:
        self._drained = False
        if self._state is State.DRAINING:
            self._move(_Trigger.SETTLED)
            self._finish(None)

    # -------------------------------------------------------------------------------- receiving

    def receive_data(self, data: bytes, handles: Sequence[Any] = ()) -> None:
        """Take what one read gave: bytes, and the handles that came with them."""
        if self._state is State.DISCONNECTED:
            self._release(handles)
            return
        try:
            frames = self._framer.feed(data)
        except FrameTooLarge as error:
            self._take_frames(error.frames, handles)
            self._fail(error)
        else:
            self._take_frames(frames, handles)
        if self._drained:
            # Only now: what came in the same read as the last acknowledgement still counts.
            self._finish_drained()

    def _take_frames(self, frames: list[Any], handles: Sequence[Any]) -> None:
        self._lines += len(frames)
        if handles:
            # A descriptor comes with the first byte of its line, so the line that owns it began in
            # this read, and is at the latest the one that is unfinished now.
            self._unclaimed.extend((handle, self._lines) for handle in handles)
        if frames:
            self._receive_frames(frames)
        if self._unclaimed:
            self._release_unclaimed()

    def receive_eof(self) -> None:
        """The peer has disconnected or died. What is unfinished ends with an event each."""
        if self._state is not State.DISCONNECTED:
            self._end(self._framer.incomplete())

    def abort(self, error: NodeIPCError) -> None:
        """End the channel because of a failure outside the protocol."""
        if self._state is not State.DISCONNECTED:
            self._end(error)

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events = self._events
        if not events:
            return []
        self._events = []
        return events

    def _receive_frames(self, frames: list[Any]) -> None:
        values: list[Any] = []
        violation: ProtocolError | None = None
        try:
            self._decode_many(frames, values.append)
        except ProtocolError as error:
            violation = error
        append = self._events.append
        for value in values:
            if type(value) is dict and "cmd" in value and is_internal(value):
                self._receive_internal(value)
                if self._state is State.DISCONNECTED:
                    return
                append = self._events.append
            else:
                append(_new_message(Message, (value, None, None)))
        if violation is not None:
            self._fail(violation)

    def _receive_internal(self, message: dict[str, Any]) -> None:
        cmd = message["cmd"]
        if cmd == "NODE_HANDLE":
            self._receive_handle(message)
        elif cmd == "NODE_HANDLE_ACK":
            self._receive_ack()
        elif cmd == "NODE_HANDLE_NACK":
            self._receive_nack()
        elif cmd in _SOCKET_LIST_COMMANDS and isinstance(message.get("key"), str):
            self._receive_socket_list(cmd, message["key"], message)
        else:
            self._events.append(InternalMessage(message))

    def _receive_handle(self, message: dict[str, Any]) -> None:
        if not self._unclaimed:
            # The descriptor got lost on the way (MSG_CTRUNC): the sender repeats the message.
            self._outgoing.append(Outgoing(self._encode({"cmd": "NODE_HANDLE_NACK"}), None, 0))
            return
        handle, _ = self._unclaimed.popleft()
        # Node acknowledges before anyone sees the message. Neither answer ever queues.
        self._outgoing.append(Outgoing(self._encode({"cmd": "NODE_HANDLE_ACK"}), None, 0))
        info = HandleInfo(
            _text(message.get("type")) or "",
            _text(message.get("key")),
            _text(message.get("dgramType")),
        )
        if info.key is not None:
            self._open_sockets[info.key] = self._open_sockets.get(info.key, 0) + 1
        inner = message.get("msg", undefined)
        if is_internal(inner):
            self._events.append(InternalMessage(inner, handle, info))
        else:
            self._events.append(Message(inner, handle, info))

    def _receive_ack(self) -> None:
        in_flight = self._in_flight
        if in_flight is None:
            return
        if self._is_early("acknowledged"):
            return
        self._settle_in_flight(in_flight.send, None)

    def _is_early(self, did: str) -> bool:
        """Whether the peer answers a handle before all of it is written: no peer can."""
        written = self.handles_written
        if written is None or written >= self._handles_transmitted:
            return False
        self._fail(ProtocolError(f"the peer {did} a handle that was not sent yet"))
        return True

    def _receive_nack(self) -> None:
        in_flight = self._in_flight
        if in_flight is None:
            return
        send = in_flight.send
        if self._is_early("refused"):
            return
        if in_flight.retransmissions < MAX_HANDLE_RETRANSMISSIONS:
            in_flight.retransmissions += 1
            self._transmit_once(send)
            return
        error = HandleNotReceived(
            f"the peer did not receive the handle in {MAX_HANDLE_RETRANSMISSIONS + 1} transmissions"
        )
        self._settle_in_flight(send, error)

    # ----------------------------------------------------------------------------- socket lists

    def ask_socket_count(self, key: str) -> None:
        """Ask how many sockets of a list are open at the peer; SocketCount is the answer.

        Follows ``SocketListSend`` in Node's ``internal/socket_list``. Raises ChannelClosed.
        """
        self._ask("NODE_SOCKET_GET_COUNT", key)

    def ask_sockets_closed(self, key: str) -> None:
        """Ask to be told when no socket of a list is open at the peer; SocketsClosed is the answer.

        Raises ChannelClosed.
        """
        self._ask("NODE_SOCKET_NOTIFY_CLOSE", key)

    def _ask(self, cmd: str, key: str) -> None:
        if self._state is not State.OPEN:
            raise ChannelClosed("cannot ask: the channel is closed")
        self._send_internal({"cmd": cmd, "key": key})

    def socket_closed(self, key: str) -> None:
        """A socket that came from the peer with this key is closed here."""
        count = self._open_sockets.get(key, 0)
        if count > 1:
            self._open_sockets[key] = count - 1
            return
        self._open_sockets.pop(key, None)
        for _ in range(self._close_questions.pop(key, 0)):
            self._answer({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": key})

    def _receive_socket_list(self, cmd: str, key: str, message: dict[str, Any]) -> None:
        count = self._open_sockets.get(key, 0)
        if cmd == "NODE_SOCKET_GET_COUNT":
            self._answer({"cmd": "NODE_SOCKET_COUNT", "key": key, "count": count})
        elif cmd == "NODE_SOCKET_NOTIFY_CLOSE":
            if count:
                self._close_questions[key] = self._close_questions.get(key, 0) + 1
            else:
                self._answer({"cmd": "NODE_SOCKET_ALL_CLOSED", "key": key})
        elif cmd == "NODE_SOCKET_ALL_CLOSED":
            self._events.append(SocketsClosed(key))
        else:
            number = message.get("count")
            self._events.append(SocketCount(key, number if isinstance(number, int) else 0))

    def _answer(self, message: dict[str, Any]) -> None:
        # As Node: after a disconnect of ours there is nobody to answer.
        if self._state is State.OPEN:
            self._send_internal(message)

    # ------------------------------------------------------------------------------- descriptors

    def _release_unclaimed(self) -> None:
        unclaimed = self._unclaimed
        unfinished = self._lines if self._framer.pending else self._lines + 1
        while unclaimed and unclaimed[0][1] < unfinished:
            self._release([unclaimed.popleft()[0]])
        if len(unclaimed) > MAX_UNCLAIMED_HANDLES:
            self._fail(
                ProtocolError(
                    f"the peer sent more than {MAX_UNCLAIMED_HANDLES} descriptors "
                    "that belong to no message"
                )
            )

    # ----------------------------------------------------------------------------------- ending

    def _release(self, handles: Iterable[Any]) -> None:
        self._events.extend(HandleReleased(handle, delivered=False) for handle in handles)

    def _fail(self, error: NodeIPCError) -> None:
        """The peer broke the protocol: nothing it sends from here on can be trusted."""
        if self._state is not State.DISCONNECTED:
            self._end(error)

    def _end(self, error: NodeIPCError | None) -> None:
        self._move(_Trigger.ENDED)
        # The peer is gone, or is not to be talked to: nothing that waits will be written.
        self._outgoing.clear()
        in_flight, self._in_flight = self._in_flight, None
        waiting = [] if in_flight is None else [in_flight.send]
        waiting += self._queue
        self._queue.clear()
        for send in waiting:
            reason = "the channel closed before the message was sent"
            failure: NodeIPCError = ChannelClosed(reason)
            if send.handle is not None:
                failure = HandleNotReceived("the channel closed before the peer took the handle")
                self._release([send.handle])
            if send.id:
                self._events.append(SendFailed(send.id, failure))
        self._finish(error)

    def _finish(self, error: NodeIPCError | None) -> None:
        self._release(handle for handle, _ in self._unclaimed)
        self._unclaimed.clear()
        self._events.append(Disconnected(error))


def _encode_with_handle(encode: Callable[[Any], Frame], message: Any, info: HandleInfo) -> Frame:
    if message is undefined:
        # JSON would leave it out of the object around it.
        raise MessageError("message", "undefined cannot be a message")
    try:
        return encode(_handle_message(message, info))
    except MessageError as error:
        # The path that the caller knows begins at its own message.
        path = "message" + error.path.removeprefix("message.msg")
        reason = error.reason.replace("reference to message.msg", "reference to message")
        raise MessageError(path, reason) from None


def _handle_message(message: Any, info: HandleInfo) -> dict[str, Any]:
    wrapped: dict[str, Any] = {"cmd": "NODE_HANDLE", "type": info.type, "msg": message}
    if info.dgram_type is not None:
        wrapped["dgramType"] = info.dgram_type
    if info.key is not None:
        wrapped["key"] = info.key
    return wrapped


def _joined(frames: list[Frame]) -> Frame:
    """Several messages as one piece of output."""
    parts: list[bytes | memoryview] = []
    for frame in frames:
        if isinstance(frame, bytes):
            parts.append(frame)
        else:
            parts.extend(frame)
    if len(parts) == len(frames):
        return b"".join(parts)
    return tuple(parts)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
