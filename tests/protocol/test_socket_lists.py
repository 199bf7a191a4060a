"""Socket lists: as a child we count and answer, as a parent we ask.

A core without a socket; a handle is any object.
"""

from __future__ import annotations

from typing import Any

import pytest

from nodecompat.errors import ChannelClosed
from nodecompat.protocol.channel import ChannelProtocol
from nodecompat.protocol.events import (
    Event,
    HandleInfo,
    HandleReleased,
    InternalMessage,
    Message,
    Outgoing,
    Sent,
    SocketCount,
    SocketsClosed,
)
from tests.handle_support import ACK, KEY, NACK, handle_line
from tests.support import lines, messages_of

_OTHER = "4:127.0.0.1:81"

_GET_COUNT = {"cmd": "NODE_SOCKET_GET_COUNT", "key": KEY}
_NOTIFY_CLOSE = {"cmd": "NODE_SOCKET_NOTIFY_CLOSE", "key": KEY}
_ALL_CLOSED = {"cmd": "NODE_SOCKET_ALL_CLOSED", "key": KEY}


def _count(number: Any, key: str = KEY) -> dict[str, Any]:
    return {"cmd": "NODE_SOCKET_COUNT", "key": key, "count": number}


def _received(channel: ChannelProtocol, *messages: Any) -> list[Event]:
    channel.receive_data(lines(*messages))
    return channel.events()


def _written(channel: ChannelProtocol) -> list[Any]:
    return messages_of(b"".join(_bytes(outgoing) for outgoing in channel.data_to_send()))


def _bytes(outgoing: Outgoing) -> bytes:
    assert isinstance(outgoing.data, bytes)
    return outgoing.data


def _answers(channel: ChannelProtocol, *questions: Any) -> list[Any]:
    """What a channel writes when it is asked this, which the user must not see."""
    assert _received(channel, *questions) == []
    return _written(channel)


def _channel_with_sockets(*keys: str | None) -> ChannelProtocol:
    """A channel that has received sockets of these lists."""
    channel = ChannelProtocol()
    for key in keys:
        more = {} if key is None else {"key": key}
        channel.receive_data(handle_line("socket", **more), [object()])
    assert len(channel.events()) == len(keys)
    assert _written(channel) == [ACK] * len(keys)
    return channel


def _channel_with_handle_in_flight() -> ChannelProtocol:
    channel = ChannelProtocol()
    channel.send("with handle", "handle", HandleInfo("net.Server"))
    channel.data_to_send()
    return channel


# ------------------------------------------------------------------------------------ the child


def test_a_list_that_nothing_came_from_has_no_sockets() -> None:
    assert _answers(ChannelProtocol(), _GET_COUNT) == [_count(0)]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_sockets_of_a_list_are_counted(number: int) -> None:
    channel = _channel_with_sockets(*[KEY] * number)

    assert _answers(channel, _GET_COUNT) == [_count(number)]


def test_every_list_has_its_own_count() -> None:
    channel = _channel_with_sockets(KEY, _OTHER, KEY)
    channel.socket_closed(_OTHER)

    assert _answers(channel, _GET_COUNT, {**_GET_COUNT, "key": _OTHER}) == [
        _count(2),
        _count(0, _OTHER),
    ]


def test_a_handle_without_a_key_counts_nowhere() -> None:
    channel = _channel_with_sockets(None)

    assert _answers(channel, _GET_COUNT) == [_count(0)]


def test_the_key_of_a_socket_comes_with_it() -> None:
    channel = ChannelProtocol()
    channel.receive_data(handle_line("socket", key=KEY), ["handle"])

    assert channel.events() == [Message("socket", "handle", HandleInfo("net.Socket", KEY))]


def test_a_socket_whose_descriptor_was_lost_counts_once_when_it_is_sent_again() -> None:
    channel = ChannelProtocol()
    channel.receive_data(handle_line("socket", key=KEY))
    assert _written(channel) == [NACK]
    assert _answers(channel, _GET_COUNT) == [_count(0)]

    channel.receive_data(handle_line("socket", key=KEY), ["handle"])
    channel.events()
    assert _written(channel) == [ACK]
    assert _answers(channel, _GET_COUNT) == [_count(1)]


def test_a_closed_socket_counts_no_more() -> None:
    channel = _channel_with_sockets(KEY, KEY)

    channel.socket_closed(KEY)
    assert _answers(channel, _GET_COUNT) == [_count(1)]
    channel.socket_closed(KEY)
    assert _answers(channel, _GET_COUNT) == [_count(0)]


def test_closing_alone_is_not_told_to_anybody() -> None:
    channel = _channel_with_sockets(KEY)

    channel.socket_closed(KEY)

    assert _written(channel) == []
    assert channel.events() == []


def test_a_socket_too_many_closed_does_not_make_the_count_negative() -> None:
    channel = _channel_with_sockets()
    channel.socket_closed(KEY)

    channel.receive_data(handle_line("socket", key=KEY), ["handle"])
    channel.events()
    channel.data_to_send()

    assert _answers(channel, _GET_COUNT) == [_count(1)]


def test_an_empty_list_is_closed_at_once() -> None:
    assert _answers(ChannelProtocol(), _NOTIFY_CLOSE) == [_ALL_CLOSED]


def test_a_list_is_closed_when_its_last_socket_is() -> None:
    channel = _channel_with_sockets(KEY, KEY, _OTHER)
    assert _answers(channel, _NOTIFY_CLOSE) == []

    channel.socket_closed(KEY)
    assert _written(channel) == []
    channel.socket_closed(KEY)
    assert _written(channel) == [_ALL_CLOSED]


def test_the_last_socket_of_another_list_closes_only_that_one() -> None:
    channel = _channel_with_sockets(KEY, _OTHER)
    assert _answers(channel, _NOTIFY_CLOSE) == []

    channel.socket_closed(_OTHER)

    assert _written(channel) == []


def test_every_question_gets_its_answer() -> None:
    channel = _channel_with_sockets(KEY)
    assert _answers(channel, _NOTIFY_CLOSE, _NOTIFY_CLOSE, _GET_COUNT) == [_count(1)]

    channel.socket_closed(KEY)

    assert _written(channel) == [_ALL_CLOSED, _ALL_CLOSED]


def test_a_question_is_answered_once() -> None:
    channel = _channel_with_sockets(KEY)
    _answers(channel, _NOTIFY_CLOSE)
    channel.socket_closed(KEY)
    assert _written(channel) == [_ALL_CLOSED]

    channel.receive_data(handle_line("another", key=KEY), ["handle"])
    channel.events()
    channel.data_to_send()
    channel.socket_closed(KEY)

    assert _written(channel) == []


def test_a_list_may_be_closed_and_used_again() -> None:
    channel = _channel_with_sockets(KEY)
    channel.socket_closed(KEY)
    assert _answers(channel, _NOTIFY_CLOSE) == [_ALL_CLOSED]

    channel.receive_data(handle_line("again", key=KEY), ["handle"])
    channel.events()
    assert _written(channel) == [ACK]
    assert _answers(channel, _NOTIFY_CLOSE) == []
    channel.socket_closed(KEY)
    assert _written(channel) == [_ALL_CLOSED]


def test_a_socket_that_comes_while_somebody_waits_for_the_end_is_waited_for_too() -> None:
    channel = _channel_with_sockets(KEY)
    _answers(channel, _NOTIFY_CLOSE)
    channel.receive_data(handle_line("late", key=KEY), ["handle"])
    channel.events()
    assert _written(channel) == [ACK]

    channel.socket_closed(KEY)
    assert _written(channel) == []
    channel.socket_closed(KEY)
    assert _written(channel) == [_ALL_CLOSED]


def test_an_answer_waits_its_turn_behind_a_handle() -> None:
    channel = _channel_with_handle_in_flight()
    channel.send("plain")

    assert _answers(channel, _GET_COUNT) == []

    assert _received(channel, ACK) == [Sent(1), HandleReleased("handle", delivered=True)]
    assert _written(channel) == ["plain", _count(0)]


def test_a_queued_answer_says_what_was_so_when_the_question_came() -> None:
    channel = _channel_with_handle_in_flight()
    channel.receive_data(handle_line("socket", key=KEY), ["received"])
    channel.events()
    assert _written(channel) == [ACK]
    _answers(channel, _GET_COUNT)
    channel.socket_closed(KEY)

    _received(channel, ACK)

    assert _written(channel) == [_count(1)]


def test_nobody_is_answered_after_a_disconnect() -> None:
    channel = _channel_with_sockets(KEY)
    _answers(channel, _NOTIFY_CLOSE)
    channel.disconnect()

    channel.socket_closed(KEY)
    channel.receive_data(lines(_GET_COUNT))

    assert _written(channel) == []


def test_nobody_is_answered_while_the_last_handles_go_out() -> None:
    channel = _channel_with_handle_in_flight()
    channel.disconnect()

    assert _answers(channel, _GET_COUNT, _NOTIFY_CLOSE) == []
    _received(channel, ACK)

    assert _written(channel) == []


@pytest.mark.parametrize("key", [None, 7, ["4"], {"a": 1}, "missing"])
@pytest.mark.parametrize(
    "cmd",
    [
        "NODE_SOCKET_GET_COUNT",
        "NODE_SOCKET_COUNT",
        "NODE_SOCKET_NOTIFY_CLOSE",
        "NODE_SOCKET_ALL_CLOSED",
    ],
)
def test_what_names_no_list_is_ignored(cmd: str, key: Any) -> None:
    message = {"cmd": cmd} if key == "missing" else {"cmd": cmd, "key": key}
    channel = ChannelProtocol()

    # Those that a channel has no use for are given away as such, and are no user's.
    assert _received(channel, message) == [InternalMessage(message)]
    assert _written(channel) == []


@pytest.mark.parametrize("key", [None, 7, ["4"]])
def test_a_socket_whose_key_is_no_text_counts_nowhere(key: Any) -> None:
    channel = ChannelProtocol()
    channel.receive_data(handle_line("socket", key=key), ["handle"])

    assert channel.events() == [Message("socket", "handle", HandleInfo("net.Socket"))]


# ----------------------------------------------------------------------------------- the parent


def test_a_counted_socket_travels_with_its_key() -> None:
    channel = ChannelProtocol()
    channel.send("socket", "handle", HandleInfo("net.Socket", KEY))

    assert _written(channel) == [
        {"cmd": "NODE_HANDLE", "type": "net.Socket", "msg": "socket", "key": KEY}
    ]


def test_the_number_of_sockets_can_be_asked_for() -> None:
    channel = ChannelProtocol()

    channel.ask_socket_count(KEY)

    assert _written(channel) == [_GET_COUNT]
    assert _received(channel, _count(3)) == [SocketCount(KEY, 3)]


def test_the_end_of_a_list_can_be_asked_for() -> None:
    channel = ChannelProtocol()

    channel.ask_sockets_closed(KEY)

    assert _written(channel) == [_NOTIFY_CLOSE]
    assert _received(channel, _ALL_CLOSED) == [SocketsClosed(KEY)]


@pytest.mark.parametrize("number", [None, "3", [3], {}, 1.5])
def test_a_count_that_is_no_number_is_none(number: Any) -> None:
    assert _received(ChannelProtocol(), _count(number)) == [SocketCount(KEY, 0)]


def test_an_answer_without_its_count_is_none() -> None:
    answer = {"cmd": "NODE_SOCKET_COUNT", "key": KEY}

    assert _received(ChannelProtocol(), answer) == [SocketCount(KEY, 0)]


def test_a_question_waits_its_turn_behind_a_handle() -> None:
    channel = _channel_with_handle_in_flight()

    channel.ask_socket_count(KEY)
    channel.ask_sockets_closed(KEY)
    channel.send("later")

    assert _written(channel) == []
    _received(channel, ACK)
    assert _written(channel) == [_GET_COUNT, _NOTIFY_CLOSE, "later"]


@pytest.mark.parametrize("ask", ["ask_socket_count", "ask_sockets_closed"])
@pytest.mark.parametrize("end", ["disconnect", "receive_eof"])
def test_nothing_can_be_asked_after_the_end(ask: str, end: str) -> None:
    channel = ChannelProtocol()
    getattr(channel, end)()

    with pytest.raises(ChannelClosed, match="cannot ask"):
        getattr(channel, ask)(KEY)

    assert _written(channel) == []


def test_nothing_can_be_asked_while_the_last_handles_go_out() -> None:
    channel = _channel_with_handle_in_flight()
    channel.disconnect()

    with pytest.raises(ChannelClosed, match="cannot ask"):
        channel.ask_socket_count(KEY)

    _received(channel, ACK)
    assert _written(channel) == []


def test_two_cores_agree_on_the_life_of_a_socket() -> None:
    parent, child = ChannelProtocol(), ChannelProtocol()
    parent.send("socket", "handle", HandleInfo("net.Socket", KEY))
    parent.ask_socket_count(KEY)
    parent.ask_sockets_closed(KEY)

    def exchange() -> list[Event]:
        """All that the parent hears of, once both have nothing more to say."""
        heard: list[Event] = []
        while outgoing := [*parent.data_to_send()]:
            for each in outgoing:
                child.receive_data(_bytes(each), [] if each.handle is None else [each.handle])
            for back in child.data_to_send():
                parent.receive_data(_bytes(back))
            heard += parent.events()
        for back in child.data_to_send():
            parent.receive_data(_bytes(back))
        return heard + parent.events()

    assert exchange() == [
        Sent(1),
        HandleReleased("handle", delivered=True),
        SocketCount(KEY, 1),
    ]
    child.socket_closed(KEY)
    assert exchange() == [SocketsClosed(KEY)]
    assert parent.data_to_send() == child.data_to_send() == []
