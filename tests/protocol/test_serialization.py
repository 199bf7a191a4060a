"""The two modes on a channel: what is on the wire, what arrives, and what is refused."""

from __future__ import annotations

import dataclasses
import enum
import math
import mmap
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodecompat.errors import (
    HandleNotReceived,
    IncompleteMessage,
    MessageError,
    MessageTooLarge,
    NodeIPCError,
    ProtocolError,
)
from nodecompat.protocol.channel import MAX_HANDLE_RETRANSMISSIONS, ChannelProtocol, State
from nodecompat.protocol.events import (
    Disconnected,
    Event,
    HandleInfo,
    HandleReleased,
    InternalMessage,
    Message,
    SendFailed,
    Sent,
    SocketCount,
    SocketsClosed,
)
from nodecompat.protocol.js_types import BigInt, JSKey, Map, undefined
from nodecompat.protocol.serialization import frame_size, serialization
from nodecompat.protocol.v8_codec import LARGE_BUFFER
from tests.support import in_one_piece
from tests.v8_cases import CASES, Case, same
from tests.v8_strategies import values

_SOCKET: Final = HandleInfo("net.Socket")
_KEY: Final = "6::::0"

MODES = pytest.mark.parametrize("mode", ["json", "advanced"])

# As Node 16 writes them, letter for letter; Nodes since 18 differ in the header alone.
_HANDLE: Final = bytes.fromhex(
    "00000043 ff0d 6f 2203636d64 220b4e4f44455f48414e444c45 220474797065"
    "220a6e65742e536f636b6574 22036d7367 6f 22016e 4902 7b01 22036b6579 2206363a3a3a3a30 7b04"
)
_DATAGRAM_HANDLE: Final = bytes.fromhex(
    "00000049 ff0d 6f 2203636d64 220b4e4f44455f48414e444c45 220474797065"
    "220c646772616d2e536f636b6574 22036d7367 6f 220175 4902 7b01"
    "2209646772616d54797065 220475647034 7b04"
)
_ACK: Final = bytes.fromhex("0000001b ff0d 6f 2203636d64 220f4e4f44455f48414e444c455f41434b 7b01")
_NACK: Final = bytes.fromhex(
    "0000001c ff0d 6f 2203636d64 22104e4f44455f48414e444c455f4e41434b 7b01"
)
_GET_COUNT: Final = bytes.fromhex(
    "0000002e ff0d 6f 2203636d64 22154e4f44455f534f434b45545f4745545f434f554e54"
    "22036b6579 2206363a3a3a3a30 7b02"
)
_COUNT: Final = bytes.fromhex(
    "00000033 ff0d 6f 2203636d64 22114e4f44455f534f434b45545f434f554e54"
    "22036b6579 2206363a3a3a3a30 2205636f756e74 4902 7b03"
)
_NOTIFY_CLOSE: Final = bytes.fromhex(
    "00000031 ff0d 6f 2203636d64 22184e4f44455f534f434b45545f4e4f544946595f434c4f5345"
    "22036b6579 2206363a3a3a3a30 7b02"
)
_ALL_CLOSED: Final = bytes.fromhex(
    "0000002f ff0d 6f 2203636d64 22164e4f44455f534f434b45545f414c4c5f434c4f534544"
    "22036b6579 2206363a3a3a3a30 7b02"
)

WRITERS = pytest.mark.parametrize(
    "as_written",
    [
        pytest.param(lambda frame: frame, id="node12"),
        pytest.param(lambda frame: frame[:5] + b"\x0f" + frame[6:], id="node18"),
    ],
)
"""How Nodes before 18, and since then, begin what they write."""


def _advanced(**options: Any) -> ChannelProtocol:
    return ChannelProtocol("advanced", **options)


def _wire(mode: str, *messages: Any) -> bytes:
    channel = ChannelProtocol(mode)
    for message in messages:
        channel.send(message)
    return _written(channel)


def _written(channel: ChannelProtocol) -> bytes:
    return b"".join(in_one_piece(outgoing.data) for outgoing in channel.data_to_send())


def _received(channel: ChannelProtocol, data: bytes, handles: Sequence[Any] = ()) -> list[Event]:
    channel.receive_data(data, handles)
    # A list of its own: an empty one is where the channel puts what comes later.
    return [*channel.events()]


def _messages(events: Iterable[Event]) -> list[Any]:
    assert all(type(event) is Message for event in events), events
    return [event.message for event in events if isinstance(event, Message)]


def _are(events: Sequence[object], expected: Sequence[object]) -> bool:
    """Whether the events are of the same kinds too: a named tuple equals any like tuple."""
    return [(type(event), event) for event in events] == [(type(each), each) for each in expected]


def _end(events: Sequence[Event]) -> NodeIPCError | None:
    (end,) = (event for event in events if isinstance(event, Disconnected))
    assert events[-1] is end
    return end.error


# -------------------------------------------------------------------------------- whole messages


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.id) for case in CASES if case.id != "undefined"]
)
def test_every_value_goes_through_a_channel(case: Case) -> None:
    (message,) = _messages(_received(_advanced(), _wire("advanced", case.make())))
    assert same(message, case.make())


# What is drawn here takes its time on a busy machine.
unhurried = settings(suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(values().filter(lambda value: value is not undefined))
def test_any_value_goes_through_a_channel(value: Any) -> None:
    (message,) = _messages(_received(_advanced(), _wire("advanced", value)))
    assert same(message, value)


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (
            {"a": 1, "b": "x", "c": [1, 2, 3]},
            "6f2201614902220162220178220163410349024904490624000 37b03",
        ),
        (None, "30"),
        (True, "54"),
        ("h\u20ac", "63046800ac20"),
        ("last", "22046c617374"),
        (b"ab", "5c000a026162"),
    ],
)
def test_a_message_is_its_length_a_header_and_its_value(message: Any, payload: str) -> None:
    data = bytes.fromhex("ff0d" + payload.replace(" ", ""))
    assert _wire("advanced", message) == len(data).to_bytes(4, "big") + data


def test_undefined_may_come_though_it_may_not_go() -> None:
    assert _are(_received(_advanced(), b"\0\0\0\3\xff\x0f_"), [Message(undefined)])


_SEVERAL: Final[list[Any]] = [
    {"a": [1, 2.5, None], "b": "h\xe9\u20ac"},
    "",
    {"10": {"cmd": "NODE_"}},
    -1,
    "\u20ac" * 70,
    [[], {}],
]


@MODES
def test_messages_are_the_same_wherever_the_stream_is_cut(mode: str) -> None:
    stream = _wire(mode, *_SEVERAL)
    for cut in range(len(stream) + 1):
        channel = ChannelProtocol(mode)
        events = _received(channel, stream[:cut]) + _received(channel, stream[cut:])
        assert _are(events, [Message(message) for message in _SEVERAL]), cut


@MODES
def test_messages_may_come_byte_by_byte(mode: str) -> None:
    channel = ChannelProtocol(mode)
    for byte in _wire(mode, *_SEVERAL):
        channel.receive_data(bytes([byte]))
    assert _are(channel.events(), [Message(message) for message in _SEVERAL])


@MODES
def test_many_messages_may_come_in_one_read(mode: str) -> None:
    messages = [{"n": n} for n in range(5000)]
    channel = ChannelProtocol(mode)
    channel.send_many(messages)
    assert _messages(_received(ChannelProtocol(mode), _written(channel))) == messages


@MODES
@given(st.data())
def test_messages_survive_any_chunking(mode: str, data: st.DataObject) -> None:
    stream = _wire(mode, *_SEVERAL)
    cuts = data.draw(st.lists(st.integers(0, len(stream))).map(sorted))
    channel = ChannelProtocol(mode)
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        channel.receive_data(stream[start:end])
    assert _messages(channel.events()) == _SEVERAL


@MODES
def test_send_many_writes_what_single_sends_do(mode: str) -> None:
    messages = [*_SEVERAL, "x" * LARGE_BUFFER, "small"]
    channel = ChannelProtocol(mode)
    channel.send_many(messages)
    (outgoing,) = channel.data_to_send()
    assert in_one_piece(outgoing.data) == _wire(mode, *messages)


# --------------------------------------------------------------------------------- large buffers


@pytest.mark.parametrize("before", [[], ["small"], ["small", b"x" * LARGE_BUFFER]])
def test_a_large_buffer_is_not_copied_on_its_way_out(before: list[Any]) -> None:
    large = bytes(LARGE_BUFFER)
    channel = _advanced()
    channel.send_many([*before, {"data": large, "after": 1}])
    (outgoing,) = channel.data_to_send()

    assert isinstance(outgoing.data, tuple)
    assert any(part is large for part in outgoing.data)
    assert frame_size(outgoing.data) == len(in_one_piece(outgoing.data))
    *_, last = _messages(_received(_advanced(), in_one_piece(outgoing.data)))
    assert last == {"data": large, "after": 1}


def test_the_size_of_a_frame_is_in_bytes() -> None:
    assert frame_size(b"abc") == 3
    assert frame_size((b"abc", memoryview(bytes(16)).cast("I"), b"")) == 19


def test_the_items_of_a_large_typed_array_are_not_taken_for_bytes() -> None:
    numbers = memoryview(bytes(8 * LARGE_BUFFER)).cast("d")
    channel = _advanced(max_message_size=8 * LARGE_BUFFER + 100)
    channel.send(numbers)
    (outgoing,) = channel.data_to_send()
    data = in_one_piece(outgoing.data)

    assert frame_size(outgoing.data) == len(data) == 4 + int.from_bytes(data[:4], "big")
    (message,) = _messages(_received(_advanced(), data))
    assert same(message, numbers)
    with pytest.raises(MessageTooLarge, match=f"{len(data)} bytes"):
        _advanced(max_message_size=len(data) - 1).send(numbers)


def test_a_message_past_what_the_length_can_say_is_refused() -> None:
    # None of this memory is ever touched.
    with mmap.mmap(-1, 2**31) as half, memoryview(half) as one, memoryview(half) as two:
        channel = _advanced(max_message_size=2**40)
        with pytest.raises(MessageTooLarge, match=f"{2**32 - 1}"):
            channel.send([one, two])
        assert channel.data_to_send() == []


# --------------------------------------------------------------------------- Node's own messages


def test_a_handle_goes_out_as_node_sends_it() -> None:
    channel = _advanced()
    channel.send({"n": 1}, "socket", HandleInfo("net.Socket", _KEY))
    channel.send("waits")
    (outgoing,) = channel.data_to_send()
    assert (outgoing.data, outgoing.handle) == (_HANDLE, "socket")

    assert _are(_received(channel, _ACK), [Sent(1), HandleReleased("socket", delivered=True)])
    assert _written(channel) == _wire("advanced", "waits")


def test_a_datagram_socket_goes_out_as_node_sends_it() -> None:
    channel = _advanced()
    channel.send({"u": 1}, "socket", HandleInfo("dgram.Socket", dgram_type="udp4"))
    assert _written(channel) == _DATAGRAM_HANDLE


@WRITERS
def test_a_handle_of_nodes_is_taken_and_acknowledged_as_node_does(
    as_written: Callable[[bytes], bytes],
) -> None:
    channel = _advanced()
    info = HandleInfo("net.Socket", _KEY)
    assert _are(
        _received(channel, as_written(_HANDLE), ["socket"]), [Message({"n": 1}, "socket", info)]
    )
    assert _written(channel) == _ACK

    info = HandleInfo("dgram.Socket", dgram_type="udp4")
    events = _received(channel, as_written(_DATAGRAM_HANDLE), ["socket"])
    assert _are(events, [Message({"u": 1}, "socket", info)])


def test_a_handle_that_got_lost_is_asked_for_again_as_node_does() -> None:
    channel = _advanced()
    assert _received(channel, _HANDLE) == []
    assert _written(channel) == _NACK


@WRITERS
def test_a_refused_handle_is_repeated_and_given_up(as_written: Callable[[bytes], bytes]) -> None:
    channel = _advanced()
    channel.send({"n": 1}, "socket", HandleInfo("net.Socket", _KEY))
    for _ in range(MAX_HANDLE_RETRANSMISSIONS):
        assert _written(channel) == _HANDLE
        assert _received(channel, as_written(_NACK)) == []
    assert _written(channel) == _HANDLE
    events = _received(channel, as_written(_NACK))
    failed, released = events
    assert isinstance(failed, SendFailed)
    assert isinstance(failed.error, HandleNotReceived)
    assert released == HandleReleased("socket", delivered=False)
    assert _written(channel) == b""


@pytest.mark.parametrize("cut", range(len(_HANDLE)))
def test_a_handle_belongs_to_its_frame_wherever_that_is_cut(cut: int) -> None:
    before, after = _wire("advanced", "one", "two"), _wire("advanced", "three")
    # As Linux gives it: what came before is glued to the read with the handle, nothing behind it.
    channel = _advanced()
    events = _received(channel, before + _HANDLE[: cut + 1], ["socket"])
    events += _received(channel, _HANDLE[cut + 1 :] + after)

    info = HandleInfo("net.Socket", _KEY)
    expected = [Message("one"), Message("two"), Message({"n": 1}, "socket", info), Message("three")]
    assert _are(events, expected)


def test_a_handle_of_no_frame_is_released() -> None:
    channel = _advanced()
    events = _received(channel, _wire("advanced", "plain"), ["socket"])
    assert _are(events, [Message("plain"), HandleReleased("socket", delivered=False)])


@WRITERS
def test_questions_of_socket_lists_are_answered_as_node_does(
    as_written: Callable[[bytes], bytes],
) -> None:
    channel = _advanced()
    _received(channel, as_written(_HANDLE), ["socket"])
    assert _written(channel) == _ACK

    assert _received(channel, as_written(_GET_COUNT)) == []
    assert _written(channel) == _COUNT
    assert _received(channel, as_written(_NOTIFY_CLOSE)) == []
    assert _written(channel) == b""
    channel.socket_closed(_KEY)
    assert _written(channel) == _ALL_CLOSED
    assert _received(channel, as_written(_NOTIFY_CLOSE)) == []
    assert _written(channel) == _ALL_CLOSED


@WRITERS
def test_socket_lists_are_asked_as_node_does(as_written: Callable[[bytes], bytes]) -> None:
    channel = _advanced()
    channel.ask_socket_count(_KEY)
    assert _written(channel) == _GET_COUNT
    channel.ask_sockets_closed(_KEY)
    assert _written(channel) == _NOTIFY_CLOSE
    events = _received(channel, as_written(_COUNT) + as_written(_ALL_CLOSED))
    assert _are(events, [SocketCount(_KEY, 1), SocketsClosed(_KEY)])


def test_a_handle_may_come_with_any_value() -> None:
    shared = [b"x" * LARGE_BUFFER]
    message = Map({"a": shared, "b": shared, 1: {1, 2}, JSKey([]): []})
    sender, receiver = _advanced(), _advanced()
    sender.send(message, "socket", _SOCKET)
    (outgoing,) = sender.data_to_send()

    (event,) = _received(receiver, in_one_piece(outgoing.data), ["socket"])
    assert isinstance(event, Message)
    assert same(event.message, message)
    assert event.handle == "socket"


def test_an_unknown_message_of_nodes_is_no_message() -> None:
    internal = {"cmd": "NODE_CLUSTER", "seq": 1, "act": "online"}
    events = _received(_advanced(), _wire("advanced", internal, "after"))
    assert _are(events, [InternalMessage(internal), Message("after")])


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"cmd": "NODE_"}, id="no longer than the prefix"),
        pytest.param({"cmd": "node_HANDLE_ACK"}, id="lower case"),
        pytest.param({"cmd": " NODE_HANDLE_ACK"}, id="not at the start"),
        pytest.param({"cmd": ["NODE_HANDLE_ACK"]}, id="array"),
        pytest.param({"cmd": b"NODE_HANDLE_ACK"}, id="Buffer"),
        pytest.param(Map({"cmd": "NODE_HANDLE_ACK"}), id="Map"),
        pytest.param([{"cmd": "NODE_HANDLE_ACK"}], id="in an array"),
        pytest.param({"cmd": undefined}, id="undefined"),
        pytest.param("NODE_HANDLE_ACK", id="string"),
        pytest.param({"NODE_HANDLE_ACK", "cmd"}, id="Set"),
    ],
)
def test_what_only_looks_like_a_message_of_nodes_is_an_ordinary_one(message: Any) -> None:
    channel = _advanced()
    channel.send("handle", "socket", _SOCKET)
    (event,) = _received(channel, _wire("advanced", message))
    assert type(event) is Message
    assert same(event.message, message)
    assert channel.awaiting_ack


@pytest.mark.parametrize("cmd", ["NODE_", "NODE_HANDLE_ACK"])
def test_a_map_that_comes_with_a_handle_is_no_message_of_nodes(cmd: str) -> None:
    message = Map({"cmd": cmd})
    sender, receiver = _advanced(), _advanced()
    sender.send(message, "socket", _SOCKET)
    events = _received(receiver, _written(sender), ["socket"])
    assert _are(events, [Message(message, "socket", _SOCKET)])


# ------------------------------------------------------------------------------------- the bound


@MODES
def test_the_bound_is_for_what_is_on_the_wire(mode: str) -> None:
    data = _wire(mode, "x" * 100)
    # What the other side may send is counted without the newline.
    size = len(data) - (mode == "json")

    assert _messages(_received(ChannelProtocol(mode, max_message_size=size), data)) == ["x" * 100]
    error = _end(_received(ChannelProtocol(mode, max_message_size=size - 1), data))
    assert isinstance(error, MessageTooLarge)

    ChannelProtocol(mode, max_message_size=len(data)).send("x" * 100)
    with pytest.raises(MessageTooLarge, match=f"{len(data)} bytes"):
        ChannelProtocol(mode, max_message_size=len(data) - 1).send("x" * 100)
    with pytest.raises(MessageTooLarge, match=f"{len(data)} bytes"):
        ChannelProtocol(mode, max_message_size=len(data) - 1).send_many(["x" * 100])


def test_a_length_past_the_bound_ends_the_channel_at_once() -> None:
    channel = _advanced(max_message_size=1000)
    events = _received(channel, _wire("advanced", "before") + b"\xff\xff\xff\xff", ["socket"])
    assert _are(events[:-1], [Message("before"), HandleReleased("socket", delivered=False)]), events
    error = _end(events)
    assert isinstance(error, MessageTooLarge)
    assert f"{2**32 + 3} bytes" in str(error)
    assert channel.state is State.DISCONNECTED


# -------------------------------------------------------------------------------- what cannot go


def _function() -> None: ...


_CANNOT_GO: Final[list[tuple[Any, str]]] = [
    ({"users": [1, 2, 3, {"callback": _function}]}, "message.users[3].callback"),
    (_function, "message"),
    ([_function], "message[0]"),
    ({"a b": {"c": object()}}, "message['a b'].c"),
    ({"a": ({"b": 1j},)}, "message.a[0].b"),
]


@MODES
@pytest.mark.parametrize(("message", "path"), _CANNOT_GO)
def test_what_cannot_go_is_named_with_its_path(mode: str, message: Any, path: str) -> None:
    channel = ChannelProtocol(mode)
    sends: list[Callable[[], int]] = [
        lambda: channel.send(message),
        lambda: channel.send_many(["fine", message]),
        lambda: channel.send(message, "socket", _SOCKET),
    ]
    for send in sends:
        with pytest.raises(MessageError) as caught:
            send()
        assert caught.value.path == path
        assert str(caught.value).startswith(f"{path}: ")
    assert channel.data_to_send() == []
    assert not channel.awaiting_ack


def test_what_cannot_go_inside_of_a_map_is_named_with_its_path() -> None:
    for handle, info in ((None, None), ("socket", _SOCKET)):
        with pytest.raises(MessageError) as caught:
            _advanced().send({"m": Map({"key": [_function]})}, handle, info)
        assert caught.value.path == "message.m.get('key')[0]"


@MODES
def test_undefined_is_no_message(mode: str) -> None:
    channel = ChannelProtocol(mode)
    sends: list[Callable[[], int]] = [
        lambda: channel.send(undefined),
        lambda: channel.send_many([1, undefined]),
        lambda: channel.send(undefined, "socket", _SOCKET),
    ]
    for send in sends:
        with pytest.raises(MessageError, match=r"^message: undefined cannot be a message$"):
            send()
    assert channel.data_to_send() == []


def test_undefined_goes_inside_of_a_message() -> None:
    message = {"a": undefined, "b": [undefined]}
    (arrived,) = _messages(_received(_advanced(), _wire("advanced", message)))
    assert same(arrived, message)


# --------------------------------------------------------------------- one value through both modes


class _Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class _Point:
    x: Any


def _joined(text: str) -> str:
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


_SAFE: Final = 2**53 - 1
_texts = st.text(st.one_of(st.characters(), st.sampled_from("\ud800\udc00é€"))).map(_joined)
_json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-_SAFE, _SAFE),
        # JSON has neither the negative zero nor NaN and the infinities.
        st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number or 0.0),
        st.integers(-50, 50).map(float),
        _texts,
        st.uuids(),
        st.just(_Colour.RED),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(_texts, inner, max_size=4),
        st.dictionaries(st.integers(-5, 2**40), inner, max_size=3),
        st.dictionaries(st.one_of(st.booleans(), st.none(), st.floats(2.5, 1e25)), inner),
        st.builds(_Point, inner),
    ),
    max_leaves=20,
)


@unhurried
@given(_json_values)
def test_a_value_that_json_can_carry_arrives_the_same_in_both_modes(value: Any) -> None:
    arrived = [
        message
        for mode in ("json", "advanced")
        for message in _messages(_received(ChannelProtocol(mode), _wire(mode, [value])))
    ]
    assert len(arrived) == 2
    assert same(*arrived, sharing=False), arrived
    # And it goes back just so.
    for mode in ("json", "advanced"):
        again = _messages(_received(ChannelProtocol(mode), _wire(mode, *arrived)))
        assert all(same(each, arrived[0], sharing=False) for each in again), mode


@pytest.mark.parametrize(
    ("value", "json", "advanced"),
    [
        (-0.0, 0, -0.0),
        (math.nan, None, math.nan),
        (2**53, float(2**53), BigInt(2**53)),
        (b"a", {"type": "Buffer", "data": [97]}, b"a"),
    ],
)
def test_what_json_cannot_carry_differs(value: Any, json: Any, advanced: Any) -> None:
    assert same(_messages(_received(_advanced(), _wire("advanced", value))), [advanced])
    assert same(_messages(_received(ChannelProtocol("json"), _wire("json", value))), [json])


# ------------------------------------------------------------------------------- wrong bytes, ends


def _framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


GARBAGE = pytest.mark.parametrize(
    ("payload", "offset", "complaint"),
    [
        pytest.param(b"", 0, "ends too early", id="empty"),
        pytest.param(b"\xff", 0, "ends too early", id="half a header"),
        pytest.param(b"\xff\x0d", 2, "ends too early", id="no value"),
        pytest.param(b'{"a":1}\n', 0, "V8's header", id="JSON"),
        pytest.param(b"\x02\x05\0\0\0", 0, "Bun", id="Bun"),
        pytest.param(b"\xff\x0c0", 0, "version 12", id="version 12"),
        pytest.param(b"\xff\x110", 0, "version 17", id="version 17"),
        pytest.param(b"\xff\x0d00", 3, "something after its value", id="two values"),
        pytest.param(b"\xff\x0d\x01", 2, "unknown tag 0x01", id="unknown tag"),
        pytest.param(b'\xff\x0d"\x05abc', 7, "ends too early", id="short string"),
        pytest.param(b"\xff\x0d\\\0\x0a\x7fab", 2, "127 bytes", id="short Buffer"),
        pytest.param(b"\xff\x0dA\xff\xff\xff\xff\x0f", 2, "4294967295 elements", id="huge array"),
        pytest.param(b"\xff\x0d^\x05", 2, "a reference to object 5", id="reference"),
        pytest.param(b"\xff\x0d" + b"o" * 10_001, 10_002, "deep", id="too deep"),
        pytest.param(b"\xff\x0do{\x01", 3, "0 different ones", id="missing property"),
    ],
)


@GARBAGE
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_bytes_that_are_not_v8s_format_end_the_channel(
    payload: bytes, offset: int, complaint: str, chunk: int
) -> None:
    channel = _advanced()
    stream = _wire("advanced", "one", "two") + _framed(payload) + _wire("advanced", "after")
    for start in range(0, len(stream), chunk):
        channel.receive_data(stream[start : start + chunk])
    events = channel.events()

    error = _end(events)
    assert _messages(events[:-1]) == ["one", "two"]
    assert type(error) is ProtocolError
    assert complaint in str(error)
    found = re.search(r"at byte (\d+)", str(error))
    assert found, error
    assert int(found[1]) == offset
    assert len(str(error)) < 500
    assert not channel.connected
    assert _received(channel, _wire("advanced", "later"), ["late"]) == [
        HandleReleased("late", delivered=False)
    ]


@GARBAGE
def test_handles_around_wrong_bytes_are_released(
    payload: bytes, offset: int, complaint: str
) -> None:
    channel = _advanced()
    channel.send("out", "sent", _SOCKET)
    channel.data_to_send()
    events = _received(channel, _framed(payload), ["came"])

    assert isinstance(_end(events), ProtocolError)
    released = [event.handle for event in events if isinstance(event, HandleReleased)]
    assert sorted(released) == ["came", "sent"]
    assert channel.data_to_send() == []


@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\x0d", b"\xff\x0fo", b"\xff\x0dA\x03"]))
def test_any_frame_is_a_message_or_ends_the_channel(rest: bytes, start: bytes) -> None:
    channel = _advanced()
    events = _received(channel, _framed(start + rest))
    if channel.connected:
        assert all(isinstance(event, (Message, InternalMessage)) for event in events)
    else:
        assert type(_end(events)) is ProtocolError


@MODES
def test_a_stream_that_ends_in_a_message_says_so(mode: str) -> None:
    messages = ["one", {"two": 2}]
    stream = _wire(mode, *messages)
    ends = {len(_wire(mode, *messages[:count])): count for count in range(3)}
    for cut in range(len(stream) + 1):
        channel = ChannelProtocol(mode)
        channel.receive_data(stream[:cut])
        channel.receive_eof()
        events = channel.events()
        error = _end(events)
        assert _messages(events[:-1]) == messages[: sum(end <= cut for end in ends) - 1]
        if cut in ends:
            assert error is None
        else:
            assert isinstance(error, IncompleteMessage), cut


# ------------------------------------------------------------------------------------- the modes


@MODES
def test_a_mode_has_its_name(mode: str) -> None:
    assert serialization(mode).name == mode
    assert ChannelProtocol(mode).serialization == mode


def test_there_are_two_modes() -> None:
    with pytest.raises(ValueError, match="serialization='bson': expected 'json' or 'advanced'"):
        serialization("bson")


def test_uuids_are_text_in_both_modes() -> None:
    value = uuid.UUID(int=1)
    for mode in ("json", "advanced"):
        assert _messages(_received(ChannelProtocol(mode), _wire(mode, value))) == [str(value)]
