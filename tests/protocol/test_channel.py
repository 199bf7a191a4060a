"""One end of a channel: messages in order, handles exactly once, and how it ends.

Two cores are joined without a socket. A handle is any object.
"""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from nodecompat.errors import (
    AlreadyDisconnected,
    ChannelClosed,
    HandleNotReceived,
    IncompleteMessage,
    MessageError,
    MessageTooLarge,
    NodeIPCError,
    ProtocolError,
)
from nodecompat.protocol.channel import (
    _TRANSITIONS,
    DEFAULT_MAX_MESSAGE_SIZE,
    MAX_HANDLE_RETRANSMISSIONS,
    MAX_UNCLAIMED_HANDLES,
    ChannelProtocol,
    State,
    is_internal,
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
)
from nodecompat.protocol.js_types import undefined
from tests.support import in_one_piece

_SOCKET = HandleInfo("net.Socket")


def _line(value: Any) -> bytes:
    """A line as JSON.stringify writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


_ACK = _line({"cmd": "NODE_HANDLE_ACK"})
_NACK = _line({"cmd": "NODE_HANDLE_NACK"})


def _handle_line(message: Any, **more: Any) -> bytes:
    return _line({"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": message, **more})


def _received(
    channel: ChannelProtocol, data: bytes = b"", handles: Sequence[Any] = ()
) -> list[Event]:
    """What happens on a channel that reads this."""
    channel.receive_data(data, handles)
    return channel.events()


def _same(events: Sequence[object], expected: Sequence[object]) -> bool:
    """Whether the events are of the same kinds too: a named tuple equals any like tuple."""
    return [(type(event), event) for event in events] == [(type(each), each) for each in expected]


def _messages(events: Iterable[Event]) -> list[Any]:
    return [event.message for event in events if isinstance(event, Message)]


def _written(channel: ChannelProtocol) -> bytes:
    return b"".join(in_one_piece(outgoing.data) for outgoing in channel.data_to_send())


def _end(events: Sequence[Event]) -> NodeIPCError | None:
    """The error of the Disconnected that these events end with."""
    (end,) = (event for event in events if isinstance(event, Disconnected))
    assert events[-1] is end
    return end.error


def _with_handle_in_flight(handle: object = "handle", **options: Any) -> ChannelProtocol:
    """A channel that has sent a handle, with id 1, and awaits its acknowledgement."""
    channel = ChannelProtocol()
    channel.send("with handle", handle, _SOCKET, **options)
    channel.data_to_send()
    return channel


# --------------------------------------------------------------------------------- construction


def test_a_new_channel_is_open() -> None:
    channel = ChannelProtocol()

    assert channel.state is State.OPEN
    assert channel.connected
    assert not channel.awaiting_ack
    assert channel.queued_sends == 0
    assert channel.serialization == "json"
    assert channel.max_message_size == DEFAULT_MAX_MESSAGE_SIZE
    assert channel.events() == []
    assert channel.data_to_send() == []


def test_an_unknown_serialization_is_refused() -> None:
    with pytest.raises(ValueError, match="serialization='xml': expected 'json' or 'advanced'"):
        ChannelProtocol("xml")


@pytest.mark.parametrize("size", [0, -1])
def test_a_bound_below_one_byte_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"max_message_size={size}"):
        ChannelProtocol(max_message_size=size)
    assert ChannelProtocol(max_message_size=1).max_message_size == 1


# ------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("message", [None, True, 1, 1.5, "ä", [], [1, [2]], {}, {"a": {"b": None}}])
def test_a_message_is_what_was_sent(message: Any) -> None:
    sender, receiver = ChannelProtocol(), ChannelProtocol()
    sender.send(message)

    assert _same(_received(receiver, _written(sender)), [Message(message)])


def test_a_send_is_written_under_its_id() -> None:
    channel = ChannelProtocol()

    assert [channel.send("a"), channel.send({"b": 1})] == [1, 2]
    assert _same(
        channel.data_to_send(), [Outgoing(b'"a"\n', None, 1), Outgoing(b'{"b":1}\n', None, 2)]
    )
    assert channel.data_to_send() == []


def test_many_messages_go_in_one_piece_under_the_id_of_the_last() -> None:
    channel = ChannelProtocol()
    channel.send("first")

    assert channel.send_many(iter(["a", "b", "c"])) == 4
    assert channel.data_to_send()[1:] == [Outgoing(b'"a"\n"b"\n"c"\n', None, 4)]
    assert channel.send("next") == 5


def test_no_messages_at_all_are_nothing_to_send() -> None:
    channel = ChannelProtocol()

    assert channel.send_many([]) == 0
    assert channel.data_to_send() == []
    assert channel.send("a") == 1


def test_many_messages_go_all_or_not_at_all() -> None:
    channel = ChannelProtocol(max_message_size=10)

    with pytest.raises(MessageError):
        channel.send_many(["a", object()])
    with pytest.raises(MessageTooLarge):
        channel.send_many(["a", "b" * 10])

    assert channel.data_to_send() == []
    assert channel.send("a") == 1


def test_a_message_that_cannot_go_leaves_no_trace() -> None:
    channel = ChannelProtocol()

    with pytest.raises(MessageError, match=r"^message\.a: object cannot"):
        channel.send({"a": object()})
    with pytest.raises(MessageError):
        channel.send(undefined)

    assert channel.data_to_send() == []
    assert channel.send("a") == 1


def test_events_are_given_once() -> None:
    channel = ChannelProtocol()

    assert _same(_received(channel, b"1\n"), [Message(1)])
    assert channel.events() == []


def test_a_line_that_is_not_json_ends_the_channel_behind_the_messages_before_it() -> None:
    channel = ChannelProtocol()

    events = _received(channel, b'1\n2\noops\n3\n"rest')

    assert _messages(events) == [1, 2]
    error = _end(events)
    assert isinstance(error, ProtocolError)
    assert "oops" in str(error)
    assert channel.state is State.DISCONNECTED


def test_an_empty_line_ends_the_channel() -> None:
    assert "empty line" in str(_end(_received(ChannelProtocol(), b"\n")))


def test_a_frame_of_bun_ends_the_channel_and_is_named() -> None:
    assert "Bun" in str(_end(_received(ChannelProtocol(), b"\x02\x00\x00\x00\x05hello\n")))


def test_a_violation_takes_back_what_was_not_written_yet() -> None:
    channel = ChannelProtocol()
    channel.send("a")
    _received(channel, b"oops\n")

    assert channel.data_to_send() == []


# ------------------------------------------------------------------------------------ chunkings

_PLAIN = {"text": "ä€😀", "n": [1.5, None]}
_INNER = {"cmd": "NODE_CLUSTER", "act": "newconn"}
_STRAY = _line("plain with a handle")
_LINES: dict[bytes, list[Event]] = {
    # What happens when the line arrives; "handle" comes with its first byte.
    _line(_PLAIN): [Message(_PLAIN)],
    _handle_line("ä€"): [Message("ä€", "handle", _SOCKET)],
    _line({"cmd": "NODE_FUTURE"}): [InternalMessage({"cmd": "NODE_FUTURE"})],
    b'"\\ud800"\n': [Message("\ud800")],
    _handle_line(_INNER): [InternalMessage(_INNER, "handle", _SOCKET)],
    b"7\n": [Message(7)],
    _ACK + _NACK: [],
    _STRAY: [Message("plain with a handle"), HandleReleased("handle", delivered=False)],
}


def _check_chunking(lines: Sequence[bytes], cuts: Iterable[int]) -> None:
    channel = ChannelProtocol()
    data, expected, handles = b"", list[Event](), dict[int, str]()
    for line in lines:
        for event in _LINES[line]:
            if isinstance(event, (Message, InternalMessage, HandleReleased)) and event.handle:
                handles[len(data)] = f"handle {len(handles)}"
                event = event._replace(handle=handles[len(data)])
            expected.append(event)
        data += line

    events: list[Event] = []
    for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
        arriving = [handle for at, handle in handles.items() if start <= at < end]
        events += _received(channel, data[start:end], arriving)

    assert _same(events, expected)
    assert _written(channel) == _ACK * (len(handles) - lines.count(_STRAY))


# With a handle that belongs to no line only reads that end before the next handle line are real.
_LINES_WITHOUT_STRAY = [line for line in _LINES if line != _STRAY]


@pytest.mark.parametrize("number", [0, 1])
def test_a_stream_means_the_same_wherever_it_is_cut(number: int) -> None:
    lines = _LINES_WITHOUT_STRAY
    for cuts in itertools.combinations(range(1, len(b"".join(lines))), number):
        _check_chunking(lines, cuts)


def test_a_short_stream_means_the_same_wherever_it_is_cut_twice() -> None:
    lines = [b"7\n", _handle_line("ä€"), b"7\n"]
    for cuts in itertools.combinations(range(1, len(b"".join(lines))), 2):
        _check_chunking(lines, cuts)


def test_a_stream_means_the_same_byte_by_byte() -> None:
    lines = [*_LINES, *_LINES]
    _check_chunking(lines, range(1, len(b"".join(lines))))


@given(st.data())
def test_any_stream_means_the_same_in_any_pieces(data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from(_LINES_WITHOUT_STRAY)))
    cuts = st.lists(st.integers(0, len(b"".join(lines))), max_size=8)
    _check_chunking(lines, data.draw(cuts))


# ---------------------------------------------------------------------------- internal messages


@pytest.mark.parametrize(
    ("message", "internal"),
    [
        ({"cmd": "NODE_HANDLE"}, True),
        ({"cmd": "NODE_X"}, True),
        ({"cmd": "NODE_CLUSTER", "act": "online", "seq": 0}, True),
        ({"cmd": "NODE_"}, False),
        ({"cmd": "NODE"}, False),
        ({"cmd": "node_handle"}, False),
        ({"cmd": "xNODE_HANDLE"}, False),
        ({"cmd": ["NODE_HANDLE"]}, False),
        ({"cmd": {"cmd": "NODE_HANDLE"}}, False),
        ({"cmd": None}, False),
        ({"cmd": 123456}, False),
        ({"CMD": "NODE_HANDLE"}, False),
        ({"msg": {"cmd": "NODE_HANDLE"}}, False),
        ({}, False),
        ([{"cmd": "NODE_HANDLE"}], False),
        ("NODE_HANDLE", False),
        (["cmd"], False),
        ("cmd", False),
        (None, False),
    ],
)
def test_an_internal_message_is_an_object_whose_cmd_begins_with_node(
    message: Any, internal: bool
) -> None:
    events = _received(ChannelProtocol(), _line(message))

    assert is_internal(message) is internal
    assert _messages(events) == ([] if internal else [message])


def test_an_unknown_internal_message_is_no_message_and_gets_no_answer() -> None:
    channel = ChannelProtocol()
    unknown = {"cmd": "NODE_FUTURE", "a": [1]}

    assert _same(_received(channel, _line(unknown)), [InternalMessage(unknown)])
    assert channel.data_to_send() == []
    assert channel.connected


# ---------------------------------------------------------------------------- receiving handles


def test_a_handle_is_acknowledged_and_comes_with_its_message() -> None:
    channel = ChannelProtocol()
    line = _handle_line({"a": 1}, dgramType="udp4", key="list")

    events = _received(channel, line, ["handle"])

    info = HandleInfo("net.Socket", key="list", dgram_type="udp4")
    assert _same(events, [Message({"a": 1}, "handle", info)])
    assert _same(channel.data_to_send(), [Outgoing(_ACK, None, 0)])


def test_the_acknowledgement_is_on_its_way_before_anyone_can_see_the_message() -> None:
    sender, receiver = ChannelProtocol(), ChannelProtocol()
    sender.send("a", "handle", _SOCKET)
    receiver.receive_data(_written(sender), ["handle"])
    receiver.send("reply")

    assert _written(receiver) == _ACK + b'"reply"\n'


@pytest.mark.parametrize(
    ("more", "info"),
    [
        ({"type": "net.Native"}, HandleInfo("net.Native")),
        ({"type": 1, "key": 2, "dgramType": {}}, HandleInfo("")),
        ({"type": None}, HandleInfo("")),
    ],
)
def test_what_a_handle_message_says_wrongly_of_its_handle_is_left_out(
    more: dict[str, Any], info: HandleInfo
) -> None:
    line = _line({"cmd": "NODE_HANDLE", "msg": 1, **more})

    assert _same(_received(ChannelProtocol(), line, ["handle"]), [Message(1, "handle", info)])


def test_a_handle_message_without_msg_has_an_undefined_message() -> None:
    line = _line({"cmd": "NODE_HANDLE", "type": "net.Socket"})

    (event,) = _received(ChannelProtocol(), line, ["handle"])

    assert isinstance(event, Message)
    assert event.message is undefined
    assert event.handle == "handle"


def test_a_handle_message_may_carry_an_internal_message() -> None:
    events = _received(ChannelProtocol(), _handle_line(_INNER), ["handle"])

    assert _same(events, [InternalMessage(_INNER, "handle", _SOCKET)])


def test_a_handle_message_without_its_handle_is_asked_for_again() -> None:
    channel = ChannelProtocol()

    assert _received(channel, _handle_line("lost")) == []
    assert _same(channel.data_to_send(), [Outgoing(_NACK, None, 0)])


def test_a_handle_belongs_to_the_handle_line_behind_plain_ones_of_the_same_read() -> None:
    events = _received(ChannelProtocol(), b"1\n2\n" + _handle_line(3), ["handle"])

    assert _same(events, [Message(1), Message(2), Message(3, "handle", _SOCKET)])


def test_a_handle_that_came_with_a_whole_plain_line_is_released_at_once() -> None:
    events = _received(ChannelProtocol(), b"1\n", ["handle"])

    assert _same(events, [Message(1), HandleReleased("handle", delivered=False)])


def test_a_handle_waits_for_the_line_that_is_unfinished() -> None:
    channel = ChannelProtocol()
    line = _handle_line(2)

    assert _same(_received(channel, b"1\n" + line[:5], ["handle"]), [Message(1)])
    assert _received(channel, line[5:-1]) == []
    assert _same(_received(channel, line[-1:]), [Message(2, "handle", _SOCKET)])


def test_a_handle_is_released_when_the_line_that_was_unfinished_turns_out_plain() -> None:
    channel = ChannelProtocol()

    assert _received(channel, b"[1", ["handle"]) == []
    assert _received(channel, b",2") == []
    released = [Message([1, 2]), HandleReleased("handle", delivered=False)]
    assert _same(_received(channel, b"]\n[3"), released)


def test_a_released_handle_does_not_go_to_a_later_line() -> None:
    channel = ChannelProtocol()
    _received(channel, b"[1", ["stray"])

    events = _received(channel, b"]\n")

    assert _same(events, [Message([1]), HandleReleased("stray", delivered=False)])
    assert _received(channel, _handle_line(2)) == []
    assert _written(channel) == _NACK


def test_of_two_handles_with_one_line_the_second_is_released() -> None:
    events = _received(ChannelProtocol(), _handle_line(1), ["first", "second"])

    expected = [Message(1, "first", _SOCKET), HandleReleased("second", delivered=False)]
    assert _same(events, expected)


def test_handles_without_bytes_are_released() -> None:
    events = _received(ChannelProtocol(), b"", ["a", "b"])

    assert _same(
        events, [HandleReleased("a", delivered=False), HandleReleased("b", delivered=False)]
    )


def test_as_many_unclaimed_handles_as_the_bound_may_wait() -> None:
    channel = ChannelProtocol()
    handles = list(range(MAX_UNCLAIMED_HANDLES))

    assert _received(channel, b"[", handles) == []
    assert channel.connected


@pytest.mark.parametrize("together", [True, False])
def test_more_unclaimed_handles_end_the_channel_and_are_all_released(together: bool) -> None:
    channel = ChannelProtocol()
    handles = list(range(MAX_UNCLAIMED_HANDLES + 1))

    if together:
        events = _received(channel, b"[", handles)
    else:
        events = [event for handle in handles for event in _received(channel, b"[", [handle])]

    *released, end = events
    assert _same(released, [HandleReleased(handle, delivered=False) for handle in handles])
    assert isinstance(_end([end]), ProtocolError)
    assert f"more than {MAX_UNCLAIMED_HANDLES} descriptors" in str(_end([end]))


def test_any_number_of_handles_with_whole_lines_is_released_and_no_violation() -> None:
    channel = ChannelProtocol()

    events = _received(channel, b"1\n", list(range(MAX_UNCLAIMED_HANDLES + 1)))

    assert len(events) == 1 + MAX_UNCLAIMED_HANDLES + 1
    assert channel.connected


@pytest.mark.parametrize("rest", [b"oops\n", b"oops\n["])
def test_a_violation_releases_the_handles_that_nobody_claimed(rest: bytes) -> None:
    events = _received(ChannelProtocol(), _handle_line(1) + rest, ["taken", "a", "b"])

    *before, end = events
    assert _same(before, [
        Message(1, "taken", _SOCKET),
        HandleReleased("a", delivered=False),
        HandleReleased("b", delivered=False),
    ])  # fmt: skip
    assert isinstance(_end([end]), ProtocolError)


# ------------------------------------------------------------------------------ sending handles


def test_a_handle_travels_with_a_message_that_names_its_type() -> None:
    channel = ChannelProtocol()
    info = HandleInfo("dgram.Socket", key="list", dgram_type="udp6")

    assert channel.send({"a": 1}, "handle", info) == 1

    (outgoing,) = channel.data_to_send()
    assert (outgoing.handle, outgoing.id) == ("handle", 1)
    assert json.loads(in_one_piece(outgoing.data)) == {
        "cmd": "NODE_HANDLE",
        "type": "dgram.Socket",
        "msg": {"a": 1},
        "dgramType": "udp6",
        "key": "list",
    }
    assert channel.awaiting_ack


def test_what_is_not_known_of_a_handle_is_not_written() -> None:
    channel = ChannelProtocol()
    channel.send(1, "handle", _SOCKET)

    assert json.loads(_written(channel)) == {"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": 1}


def test_a_handle_needs_its_info() -> None:
    channel = ChannelProtocol()

    with pytest.raises(ValueError, match="HandleInfo"):
        channel.send(1, "handle")
    assert not channel.awaiting_ack


def test_a_message_that_cannot_go_leaves_its_handle_with_the_caller() -> None:
    channel = ChannelProtocol(max_message_size=80)

    with pytest.raises(MessageError):
        channel.send(object(), "handle", _SOCKET)
    with pytest.raises(MessageTooLarge):
        channel.send("a" * 80, "handle", _SOCKET)

    assert not channel.awaiting_ack
    assert channel.events() == []
    assert channel.send("a", "handle", _SOCKET) == 1


def test_undefined_cannot_be_a_message_with_a_handle_either() -> None:
    with pytest.raises(MessageError):
        ChannelProtocol().send(undefined, "handle", _SOCKET)


def test_the_path_to_a_bad_value_is_the_users_with_a_handle_too() -> None:
    with pytest.raises(MessageError) as caught:
        ChannelProtocol().send({"a": [object()]}, "handle", _SOCKET)

    assert caught.value.path == "message.a[0]"


def test_a_circle_is_named_by_the_users_path_with_a_handle_too() -> None:
    circular: dict[str, Any] = {}
    circular["a"] = {"b": circular}

    with pytest.raises(MessageError) as caught:
        ChannelProtocol().send(circular, "handle", _SOCKET)

    assert str(caught.value) == "message.a.b: a circular reference to message"


@pytest.mark.parametrize("keep_open", [False, True])
def test_an_acknowledged_handle_is_released_and_is_the_peers_unless_it_is_kept(
    keep_open: bool,
) -> None:
    channel = _with_handle_in_flight(keep_open=keep_open)

    events = _received(channel, _ACK)

    assert _same(events, [Sent(1), HandleReleased("handle", delivered=not keep_open)])
    assert not channel.awaiting_ack
    assert channel.data_to_send() == []


@pytest.mark.parametrize("answer", [_ACK, _NACK])
def test_an_answer_without_a_handle_in_flight_means_nothing(answer: bytes) -> None:
    channel = ChannelProtocol()
    channel.send("a")

    assert _received(channel, answer) == []
    assert _written(channel) == b'"a"\n'
    assert channel.connected


def test_a_second_acknowledgement_means_nothing() -> None:
    channel = _with_handle_in_flight()
    channel.send("a", "second", _SOCKET)

    first = _received(channel, _ACK + _ACK + _ACK)

    assert [event.id for event in first if isinstance(event, Sent)] == [1, 2]


def test_a_refused_handle_is_sent_three_times_more() -> None:
    channel = ChannelProtocol()
    channel.send("a", "handle", _SOCKET)
    (first,) = channel.data_to_send()

    for _ in range(MAX_HANDLE_RETRANSMISSIONS):
        assert _received(channel, _NACK) == []
        assert _same(channel.data_to_send(), [first])
        assert channel.awaiting_ack
    assert MAX_HANDLE_RETRANSMISSIONS == 3


def test_a_handle_that_is_refused_every_time_fails_and_the_channel_goes_on() -> None:
    channel = _with_handle_in_flight()
    channel.send("next")

    events = [event for _ in range(4) for event in _received(channel, _NACK)]

    failed, released = events
    assert isinstance(failed, SendFailed)
    assert failed.id == 1
    assert isinstance(failed.error, HandleNotReceived)
    assert "in 4 transmissions" in str(failed.error)
    assert _same([released], [HandleReleased("handle", delivered=False)])
    assert channel.data_to_send()[-1] == Outgoing(b'"next"\n', None, 2)
    assert channel.connected
    assert not channel.awaiting_ack


def test_a_handle_may_arrive_in_a_later_transmission() -> None:
    sender, receiver = ChannelProtocol(), ChannelProtocol()
    sender.send("a", "handle", _SOCKET)
    receiver.receive_data(_written(sender))
    sender.receive_data(_written(receiver))

    assert _same(_received(receiver, _written(sender), ["copy"]), [Message("a", "copy", _SOCKET)])
    assert Sent(1) in _received(sender, _written(receiver))


def test_every_handle_has_its_own_count_of_transmissions() -> None:
    channel = _with_handle_in_flight()
    channel.send("b", "second", _SOCKET)
    _received(channel, _NACK * 4)
    channel.data_to_send()

    assert _received(channel, _NACK * 3) == []
    assert [outgoing.handle for outgoing in channel.data_to_send()] == ["second"] * 3


# ------------------------------------------------------------------------------------ the queue


def test_sends_behind_an_unacknowledged_handle_wait_in_order() -> None:
    channel = _with_handle_in_flight()

    assert [channel.send("a"), channel.send_many(["b", "c"]), channel.send("d")] == [2, 4, 5]
    assert channel.queued_sends == 3
    assert channel.data_to_send() == []

    _received(channel, _ACK)

    assert channel.queued_sends == 0
    assert _same(channel.data_to_send(), [
        Outgoing(b'"a"\n', None, 2),
        Outgoing(b'"b"\n"c"\n', None, 4),
        Outgoing(b'"d"\n', None, 5),
    ])  # fmt: skip


def test_the_queue_goes_up_to_and_with_the_next_handle() -> None:
    channel = _with_handle_in_flight()
    channel.send("a")
    channel.send("b", "second", _SOCKET)
    channel.send("c")

    _received(channel, _ACK)

    assert [(each.id, each.handle) for each in channel.data_to_send()] == [(2, None), (3, "second")]
    assert channel.awaiting_ack
    assert channel.queued_sends == 1

    _received(channel, _ACK)

    assert [each.id for each in channel.data_to_send()] == [4]


def test_a_queued_handle_keeps_its_own_keep_open() -> None:
    channel = _with_handle_in_flight(keep_open=True)
    channel.send("a", "second", _SOCKET)
    channel.send("b", "third", _SOCKET, keep_open=True)

    events = _received(channel, _ACK * 3)

    assert [event for event in events if isinstance(event, HandleReleased)] == [
        HandleReleased("handle", delivered=False),
        HandleReleased("second", delivered=True),
        HandleReleased("third", delivered=False),
    ]


@pytest.mark.parametrize(("handles", "answer"), [(["theirs"], _ACK), ([], _NACK)])
def test_answers_never_wait_in_the_queue(handles: list[object], answer: bytes) -> None:
    channel = _with_handle_in_flight()
    channel.send("queued")

    channel.receive_data(_handle_line("a"), handles)

    assert _same(channel.data_to_send(), [Outgoing(answer, None, 0)])


def test_two_peers_that_send_handles_at_once_both_go_on() -> None:
    a, b = _with_handle_in_flight("a's"), _with_handle_in_flight("b's")
    a.receive_data(_handle_line("from b"), ["copy of b's"])
    b.receive_data(_handle_line("from a"), ["copy of a's"])
    to_a, to_b = _written(b), _written(a)

    assert Sent(1) in _received(a, to_a)
    assert Sent(1) in _received(b, to_b)


_sends = st.lists(st.sampled_from(["plain", "handle", "many"]), max_size=12)


@given(_sends, st.data())
def test_messages_arrive_in_the_order_of_the_sends(kinds: list[str], data: st.DataObject) -> None:
    sender, receiver = ChannelProtocol(), ChannelProtocol()
    numbers = itertools.count()
    arrived: list[Any] = []
    sent: list[int] = []

    def exchange() -> None:
        for outgoing in sender.data_to_send():
            handles = [] if outgoing.handle is None else [outgoing.handle]
            frame = in_one_piece(outgoing.data)
            cut = data.draw(st.integers(1, len(frame)))
            receiver.receive_data(frame[:cut], handles)
            receiver.receive_data(frame[cut:])
        arrived.extend(_messages(receiver.events()))
        sender.receive_data(_written(receiver))

    for kind in kinds:
        new = [next(numbers) for _ in range(3 if kind == "many" else 1)]
        sent += new
        if kind == "many":
            sender.send_many(new)
        else:
            handle = object() if kind == "handle" else None
            sender.send(new[0], handle, _SOCKET if handle else None)
        if data.draw(st.booleans()):
            exchange()
    while sender.awaiting_ack or sender.queued_sends:
        exchange()
    exchange()

    assert arrived == sent


# ------------------------------------------------------------------------------ max_message_size


def test_a_message_may_take_as_many_bytes_as_the_bound() -> None:
    sender, receiver = ChannelProtocol(max_message_size=8), ChannelProtocol(max_message_size=8)
    sender.send("12345")
    sender.send_many(["12345", "12345"])

    assert _messages(_received(receiver, _written(sender))) == ["12345"] * 3


@pytest.mark.parametrize("many", [False, True])
def test_a_message_past_the_bound_is_not_sent(many: bool) -> None:
    channel = ChannelProtocol(max_message_size=8)

    with pytest.raises(MessageTooLarge, match=r"takes 9 bytes.*max_message_size is 8"):
        channel.send_many(["123456"]) if many else channel.send("123456")

    assert channel.data_to_send() == []
    assert channel.connected


@pytest.mark.parametrize("pieces", [[b"1\n2\n123456789\n3\n"], [b"1\n2\n12345", b"6789"]])
def test_messages_before_one_past_the_bound_arrive_and_then_the_channel_fails(
    pieces: list[bytes],
) -> None:
    channel = ChannelProtocol(max_message_size=8)

    events = [event for piece in pieces for event in _received(channel, piece)]

    assert _messages(events) == [1, 2]
    error = _end(events)
    assert isinstance(error, MessageTooLarge)
    assert "max_message_size is 8" in str(error)
    assert channel.state is State.DISCONNECTED


def test_a_message_past_the_bound_releases_the_handles_that_came_with_it() -> None:
    channel = ChannelProtocol(max_message_size=8)
    events = [*_received(channel, b"[1", ["a"]), *_received(channel, b"23456789", ["b"])]

    *released, end = events
    assert {event.handle for event in released if isinstance(event, HandleReleased)} == {"a", "b"}
    assert len(released) == 2
    assert isinstance(_end([end]), MessageTooLarge)


def test_a_handle_message_before_one_past_the_bound_arrives_with_its_handle() -> None:
    channel = ChannelProtocol(max_message_size=80)

    events = _received(channel, _handle_line(1) + b"x" * 81, ["handle"])

    assert _same(events[:-1], [Message(1, "handle", _SOCKET)])
    assert isinstance(_end(events), MessageTooLarge)


def test_a_bad_line_before_one_past_the_bound_is_what_the_channel_fails_with() -> None:
    events = _received(ChannelProtocol(max_message_size=8), b"1\noops\n123456789\n")

    assert _messages(events) == [1]
    assert isinstance(_end(events), ProtocolError)


def test_the_error_of_a_message_past_the_bound_survives_a_pickle() -> None:
    error = _end(_received(ChannelProtocol(max_message_size=8), b"123456789"))

    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, MessageTooLarge)
    assert str(again) == str(error)


# ------------------------------------------------------------------------------------ the states


def _to_open() -> ChannelProtocol:
    return ChannelProtocol()


def _to_waiting() -> ChannelProtocol:
    return _with_handle_in_flight()


def _to_draining() -> ChannelProtocol:
    channel = _with_handle_in_flight()
    channel.disconnect()
    return channel


def _to_disconnected() -> ChannelProtocol:
    channel = ChannelProtocol()
    channel.disconnect()
    channel.events()
    return channel


def _receive(data: bytes) -> Callable[[ChannelProtocol], None]:
    return lambda channel: channel.receive_data(data)


_disconnect = ChannelProtocol.disconnect
_eof = ChannelProtocol.receive_eof
_violation = _receive(b"oops\n")


def _abort(channel: ChannelProtocol) -> None:
    channel.abort(ChannelClosed("because"))


@pytest.mark.parametrize(
    ("start", "action", "state"),
    [
        (_to_open, _disconnect, State.DISCONNECTED),
        (_to_open, _eof, State.DISCONNECTED),
        (_to_open, _violation, State.DISCONNECTED),
        (_to_open, _abort, State.DISCONNECTED),
        (_to_open, _receive(b"1\n"), State.OPEN),
        (_to_waiting, _disconnect, State.DRAINING),
        (_to_waiting, _eof, State.DISCONNECTED),
        (_to_waiting, _violation, State.DISCONNECTED),
        (_to_waiting, _abort, State.DISCONNECTED),
        (_to_waiting, _receive(_ACK), State.OPEN),
        (_to_draining, _receive(_ACK), State.DISCONNECTED),
        (_to_draining, _receive(_NACK * 3), State.DRAINING),
        (_to_draining, _receive(_NACK * 4), State.DISCONNECTED),
        (_to_draining, _receive(b"1\n"), State.DRAINING),
        (_to_draining, _eof, State.DISCONNECTED),
        (_to_draining, _violation, State.DISCONNECTED),
        (_to_draining, _abort, State.DISCONNECTED),
    ],
)
def test_what_happens_moves_the_channel_as_the_table_says(
    start: Callable[[], ChannelProtocol],
    action: Callable[[ChannelProtocol], None],
    state: State,
) -> None:
    channel = start()
    before = channel.state

    action(channel)

    assert channel.state is state
    assert channel.connected is (state is State.OPEN)
    ends = [event for event in channel.events() if isinstance(event, Disconnected)]
    assert len(ends) == (1 if state is State.DISCONNECTED else 0)
    moves = {(start, end) for (start, _), end in _TRANSITIONS.items()}
    assert state is before or (before, state) in moves


def test_nothing_leads_out_of_the_last_state() -> None:
    assert {start for start, _ in _TRANSITIONS} == set(State) - {State.DISCONNECTED}


@pytest.mark.parametrize("action", [_eof, _violation, _abort, _receive(b"1\n"), _receive(_ACK)])
def test_nothing_happens_on_a_channel_that_has_ended(
    action: Callable[[ChannelProtocol], None],
) -> None:
    channel = _to_disconnected()

    action(channel)

    assert channel.events() == []
    assert channel.data_to_send() == []
    assert channel.state is State.DISCONNECTED


def test_handles_that_come_after_the_end_are_released() -> None:
    events = _received(_to_disconnected(), _handle_line(1), ["a", "b"])

    assert _same(
        events, [HandleReleased("a", delivered=False), HandleReleased("b", delivered=False)]
    )


def test_a_disconnect_with_nothing_on_its_way_ends_the_channel_at_once() -> None:
    channel = ChannelProtocol()
    channel.send("last")

    channel.disconnect()

    assert not channel.connected
    assert _same(channel.events(), [Disconnected(None)])
    assert _written(channel) == b'"last"\n'


def test_a_disconnect_releases_the_handle_of_an_unfinished_line() -> None:
    channel = ChannelProtocol()
    channel.receive_data(b"[", ["handle"])

    channel.disconnect()

    expected = [HandleReleased("handle", delivered=False), Disconnected(None)]
    assert _same(channel.events(), expected)


def test_a_disconnect_lets_the_queue_go_out_first() -> None:
    channel = _with_handle_in_flight()
    channel.send("a")
    channel.send("b", "second", _SOCKET)
    channel.send("c")

    channel.disconnect()

    assert not channel.connected
    assert channel.events() == []
    first = _received(channel, _ACK)
    assert _same(first, [Sent(1), HandleReleased("handle", delivered=True)])
    assert [each.id for each in channel.data_to_send()] == [2, 3]
    assert channel.state is State.DRAINING
    second = _received(channel, _ACK)
    expected = [Sent(3), HandleReleased("second", delivered=True), Disconnected(None)]
    assert _same(second, expected)
    assert [each.id for each in channel.data_to_send()] == [4]


def test_messages_and_handles_still_arrive_while_the_queue_goes_out() -> None:
    channel = _to_draining()

    events = _received(channel, b"1\n" + _handle_line(2), ["theirs"])

    assert _same(events, [Message(1), Message(2, "theirs", _SOCKET)])
    assert _written(channel) == _ACK


def test_messages_behind_the_last_acknowledgement_of_the_same_read_still_arrive() -> None:
    events = _received(_to_draining(), b"1\n" + _ACK + b"2\n")

    assert _messages(events) == [1, 2]
    assert _end(events) is None


def test_a_handle_message_behind_the_last_acknowledgement_of_the_same_read_still_arrives() -> None:
    channel = _to_draining()

    events = _received(channel, _ACK + _handle_line(1), ["theirs"])

    assert _same(events[2:], [Message(1, "theirs", _SOCKET), Disconnected(None)])
    assert _written(channel) == _ACK


@pytest.mark.parametrize("rest", [b"oops\n", b"1\noops\n2\n"])
def test_a_violation_behind_the_last_acknowledgement_is_the_one_end(rest: bytes) -> None:
    events = _received(_to_draining(), _ACK + rest)

    assert isinstance(_end(events), ProtocolError)


def test_a_handle_behind_the_last_acknowledgement_is_not_lost() -> None:
    events = _received(_to_draining(), _ACK + _handle_line(1)[:-1], ["theirs"])

    assert HandleReleased("theirs", delivered=False) in events
    assert isinstance(events[-1], Disconnected)


@pytest.mark.parametrize("start", [_to_draining, _to_disconnected])
def test_nothing_can_be_sent_after_a_disconnect(start: Callable[[], ChannelProtocol]) -> None:
    channel = start()

    with pytest.raises(ChannelClosed):
        channel.send("a")
    with pytest.raises(ChannelClosed):
        channel.send("a", "handle", _SOCKET)
    with pytest.raises(ChannelClosed):
        channel.send_many([])
    assert channel.queued_sends == 0
    assert channel.data_to_send() == []


@pytest.mark.parametrize("start", [_to_draining, _to_disconnected])
def test_a_second_disconnect_is_an_error(start: Callable[[], ChannelProtocol]) -> None:
    channel = start()
    before = channel.state

    with pytest.raises(AlreadyDisconnected):
        channel.disconnect()
    assert channel.state is before
    assert channel.events() == []


# ------------------------------------------------------------------------------------ the end


def test_the_end_of_the_stream_is_the_end_of_the_channel() -> None:
    channel = ChannelProtocol()
    channel.receive_data(b"1\n2\n")
    channel.receive_eof()

    assert _same(channel.events(), [Message(1), Message(2), Disconnected(None)])


def test_half_a_message_at_the_end_is_reported() -> None:
    channel = ChannelProtocol()
    channel.receive_data(b'1\n{"ha')
    channel.receive_eof()

    events = channel.events()

    assert _messages(events) == [1]
    error = _end(events)
    assert isinstance(error, IncompleteMessage)
    assert '{"ha' in str(error)


def test_an_abort_gives_its_error_to_the_end() -> None:
    channel = ChannelProtocol()
    error = ChannelClosed("because")
    channel.abort(error)

    assert _end(channel.events()) is error


@pytest.mark.parametrize("action", [_eof, _violation, _abort])
@pytest.mark.parametrize("draining", [False, True])
def test_what_waits_when_the_channel_ends_fails_and_its_handles_are_released(
    action: Callable[[ChannelProtocol], None], draining: bool
) -> None:
    channel = _with_handle_in_flight("first")
    channel.send("a")
    channel.send("b", "second", _SOCKET, keep_open=True)
    channel.send_many(["c", "d"])
    channel.receive_data(b"", ())
    if draining:
        channel.disconnect()

    action(channel)

    *events, end = channel.events()
    failures = [event for event in events if isinstance(event, SendFailed)]
    assert [(each.id, type(each.error).__name__) for each in failures] == [
        (1, "HandleNotReceived"),
        (2, "ChannelClosed"),
        (3, "HandleNotReceived"),
        (5, "ChannelClosed"),
    ]
    released = [event for event in events if isinstance(event, HandleReleased)]
    assert released == [
        HandleReleased("first", delivered=False),
        HandleReleased("second", delivered=False),
    ]
    assert len(events) == len(failures) + len(released)
    assert isinstance(end, Disconnected)
    assert channel.data_to_send() == []
    assert channel.queued_sends == 0
    assert not channel.awaiting_ack


def test_the_end_releases_the_handle_of_an_unfinished_line() -> None:
    channel = ChannelProtocol()
    channel.receive_data(_handle_line(1)[:9], ["handle"])
    channel.receive_eof()

    released, end = channel.events()

    assert _same([released], [HandleReleased("handle", delivered=False)])
    assert isinstance(_end([end]), IncompleteMessage)


# ------------------------------------------------------------------------- handles exactly once

_RAW = [b"1\n", b"{", b"oops\n", b"\n", _ACK, _NACK, _handle_line(1), _handle_line(2)[:9]]


class _Books(NamedTuple):
    """The handles that went into a core and came out, and the same for the sends with a handle."""

    handles_in: list[object]
    handles_out: list[object]
    sends_in: list[int]
    sends_out: list[int]


class HandlesComeOutExactlyOnce(RuleBasedStateMachine):
    """Two cores, a lossy wire and a rude peer: a handle that went into a core comes out once.

    Comes out: with a message, or released. A handle on the wire is a new one for the receiver, as
    a descriptor is. The rules know nothing of the protocol.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cores = (ChannelProtocol(), ChannelProtocol())
        self.books = tuple(_Books([], [], [], []) for _ in self.cores)
        self.wires: tuple[list[Outgoing], list[Outgoing]] = ([], [])
        """What each core wrote and the other one has not read yet."""

    def _note(self, side: int) -> None:
        books = self.books[side]
        for event in self.cores[side].events():
            if isinstance(event, (Message, InternalMessage)):
                books.handles_out.extend([] if event.handle is None else [event.handle])
            elif isinstance(event, HandleReleased):
                books.handles_out.append(event.handle)
            elif isinstance(event, (Sent, SendFailed)) and event.id in books.sends_in:
                books.sends_out.append(event.id)
        self.wires[side].extend(self.cores[side].data_to_send())

    def _read(self, side: int, data: bytes, number: int) -> None:
        handles = [object() for _ in range(number)]
        self.books[side].handles_in.extend(handles)
        self.cores[side].receive_data(data, handles)
        self._note(side)

    @rule(side=st.integers(0, 1), keep_open=st.booleans())
    def send_handle(self, side: int, keep_open: bool) -> None:
        handle = object()
        try:
            number = self.cores[side].send("handle", handle, _SOCKET, keep_open=keep_open)
        except ChannelClosed:
            return
        self.books[side].handles_in.append(handle)
        self.books[side].sends_in.append(number)
        self._note(side)

    @rule(side=st.integers(0, 1))
    def send_plain(self, side: int) -> None:
        try:
            self.cores[side].send({"plain": "ä"})
        except ChannelClosed:
            return
        self._note(side)

    @precondition(lambda self: any(self.wires))
    @rule(data=st.data(), lost=st.booleans(), size=st.none() | st.integers(0, 60))
    def deliver(self, data: st.DataObject, lost: bool, size: int | None) -> None:
        """One end reads the next piece that the other wrote, or the start of it."""
        side = data.draw(st.sampled_from([side for side in (0, 1) if self.wires[side]]))
        frame, handle, number = self.wires[side].pop(0)
        piece = in_one_piece(frame)
        if size is not None and size < len(piece):
            self.wires[side].insert(0, Outgoing(piece[size:], None, number))
            piece = piece[:size]
        self._read(1 - side, piece, 0 if handle is None or lost else 1)

    @rule(side=st.integers(0, 1), data=st.sampled_from(_RAW), number=st.integers(0, 3))
    def misbehave(self, side: int, data: bytes, number: int) -> None:
        self._read(side, data, number)

    @rule(side=st.integers(0, 1))
    def flood(self, side: int) -> None:
        self._read(side, b"[", MAX_UNCLAIMED_HANDLES // 2 + 1)

    @rule(side=st.integers(0, 1))
    def disconnect(self, side: int) -> None:
        try:
            self.cores[side].disconnect()
        except AlreadyDisconnected:
            return
        self._note(side)

    @rule(side=st.integers(0, 1))
    def end_of_stream(self, side: int) -> None:
        self.cores[side].receive_eof()
        self._note(side)

    @invariant()
    def nothing_comes_out_that_did_not_go_in_or_twice(self) -> None:
        for books in self.books:
            for came, went in (
                (books.handles_out, books.handles_in),
                (books.sends_out, books.sends_in),
            ):
                assert set(came) <= set(went)
                assert len(set(came)) == len(came)

    def teardown(self) -> None:
        for side, books in enumerate(self.books):
            self.cores[side].receive_eof()
            self._note(side)
            assert set(books.handles_out) == set(books.handles_in)
            assert set(books.sends_out) == set(books.sends_in)
            assert len(books.handles_out) == len(books.handles_in)


test_a_handle_that_goes_into_a_core_comes_out_exactly_once = HandlesComeOutExactlyOnce.TestCase
