"""Bytes into frames: any chunking, a bound, and no byte looked at again."""

from __future__ import annotations

import sys
import tracemalloc
from collections import Counter
from itertools import combinations, pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodecompat.errors import IncompleteMessage, MessageTooLarge
from nodecompat.protocol.framing import Framer, FrameTooLarge, LengthFramer, LineFramer, excerpt

_STREAM = '1\n\n"ä€😀"\n\n[2, "\\n"]\nrest'.encode()
_FRAMES = [b"1", b"", '"ä€😀"'.encode(), b"", b'[2, "\\n"]']


def _fed(framer: Framer[Any], pieces: list[bytes]) -> list[bytes]:
    return [frame for piece in pieces for frame in framer.feed(piece)]


def _cut(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise((0, *cuts, len(data)))]


def _refused(framer: Framer[Any], piece: bytes) -> FrameTooLarge:
    with pytest.raises(FrameTooLarge) as caught:
        framer.feed(piece)
    return caught.value


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_frames_are_the_same_wherever_the_stream_is_cut(number: int) -> None:
    for cuts in combinations(range(len(_STREAM) + 1), number):
        framer = LineFramer(100)
        assert _fed(framer, _cut(_STREAM, cuts)) == _FRAMES, cuts
        assert framer.pending == len(b"rest")


def test_a_stream_may_come_byte_by_byte() -> None:
    assert _fed(LineFramer(100), [bytes([byte]) for byte in _STREAM]) == _FRAMES


@given(st.lists(st.text("a\n€").map(str.encode)))
def test_frames_are_what_lies_between_the_newlines(pieces: list[bytes]) -> None:
    framer = LineFramer(1000)
    *expected, rest = b"".join(pieces).split(b"\n")

    assert _fed(framer, pieces) == expected
    assert framer.pending == len(rest)


# ------------------------------------------------------------------------------------ the bound


@pytest.mark.parametrize(
    "pieces",
    [
        [b"1\n12345\n"],
        [b"1\n12345", b"\n"],
        [b"1", b"\n12", b"345", b"\n6"],
    ],
)
def test_a_frame_may_be_as_large_as_the_bound(pieces: list[bytes]) -> None:
    assert _fed(LineFramer(5), pieces) == [b"1", b"12345"]


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        pytest.param(b"", b"123456\n", id="whole"),
        pytest.param(b"123", b"456\n", id="in two pieces"),
        pytest.param(b"", b"123456", id="unfinished"),
        pytest.param(b"123", b"456", id="unfinished, in two pieces"),
    ],
)
def test_a_frame_past_the_bound_is_refused(before: bytes, piece: bytes) -> None:
    framer = LineFramer(5)
    assert framer.feed(before) == []

    error = _refused(framer, piece)

    assert isinstance(error, MessageTooLarge)
    assert "at least 6 bytes" in str(error)
    assert "max_message_size is 5" in str(error)


@pytest.mark.parametrize("last", [b"123456\n7\n", b"123456"])
def test_the_refusal_gives_the_frames_before_the_one_that_is_too_large(last: bytes) -> None:
    framer = LineFramer(5)
    framer.feed(b"a")

    assert _refused(framer, b"b\ncd\n\n" + last).frames == [b"ab", b"cd", b""]


def test_a_joined_frame_past_the_bound_hides_those_behind_it() -> None:
    framer = LineFramer(5)
    framer.feed(b"123")

    assert _refused(framer, b"456\n7\n").frames == []


def test_a_refusal_keeps_nothing() -> None:
    framer = LineFramer(5)
    framer.feed(b"123")
    _refused(framer, b"456\n7")

    assert framer.pending == 0
    assert framer.incomplete() is None
    assert framer.feed(b"8\n") == [b"8"]


def test_the_bound_is_for_a_frame_and_not_for_a_read() -> None:
    assert LineFramer(5).feed(b"1234\n" * 10) == [b"1234"] * 10


# --------------------------------------------------------------------------- the end of a stream


@pytest.mark.parametrize("pieces", [[], [b""], [b"1\n"], [b"1", b"2\n3\n", b""]])
def test_a_stream_may_end_between_two_frames(pieces: list[bytes]) -> None:
    framer = LineFramer(100)
    _fed(framer, pieces)

    assert framer.incomplete() is None


def test_half_a_frame_at_the_end_is_shown_from_its_start() -> None:
    framer = LineFramer(100)
    _fed(framer, [b'"whole"\n{"ha', b'lf":'])

    error = framer.incomplete()

    assert isinstance(error, IncompleteMessage)
    assert """b'{"half":' without its newline""" in str(error)


@pytest.mark.parametrize("length", [0, 80])
def test_what_is_short_is_shown_whole(length: int) -> None:
    assert excerpt(b"x" * length) == repr(b"x" * length)


def test_what_is_long_is_shown_shortened_with_its_length() -> None:
    assert excerpt(b"x" * 80 + b"y") == f"{b'x' * 80!r}… (81 bytes)"


# ---------------------------------------------------------------------------------- linear time


def _work(framer: Framer[Any], pieces: list[bytes]) -> tuple[int, int]:
    """Of all calls into C while the pieces are fed: bytes of the objects asked, and joins."""
    scanned = 0
    calls = Counter[str]()

    def profile(_frame: FrameType, event: str, function: Any) -> None:
        nonlocal scanned
        if event == "c_call":
            calls[function.__name__] += 1
            owner = function.__self__
            scanned += len(owner) if isinstance(owner, (bytes, bytearray)) else 0

    sys.setprofile(profile)
    try:
        for piece in pieces:
            framer.feed(piece)
    finally:
        sys.setprofile(None)
    return scanned, calls["join"]


def test_a_line_in_many_pieces_is_scanned_twice_at_most_and_joined_once() -> None:
    size, count = 1024, 1024
    pieces = [*[b"x" * size] * count, b"\n"]

    scanned, joins = _work(LineFramer(2**30), pieces)

    assert size * count < scanned <= 2 * (size * count + 1)
    assert joins == 1


class _Piece(bytes):
    """Bytes that notice when they are added to others, which copies what was kept before."""

    def __add__(self, other: object) -> bytes:
        raise AssertionError("pieces were concatenated one by one")

    __radd__ = __add__


def test_pieces_are_not_added_to_one_another() -> None:
    assert _fed(LineFramer(100), [_Piece(b"a"), _Piece(b"b"), _Piece(b"c\n")]) == [b"abc"]


# ------------------------------------------------------------------- frames behind their length


def _framed(*frames: bytes) -> bytes:
    return b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames)


# A length of 0, newlines, a length of two bytes, and frames that look like a length.
_LENGTH_FRAMES = [b"first", b"", b"\n\n", b"\0\0\0\2", b"x" * 259, b"", b"", b"\xff"]
_LENGTH_STREAM = _framed(*_LENGTH_FRAMES)
_SHORT_FRAMES = [b"ab", b"", b"\0\0\0\1", b"c"]
_UNFINISHED = b"\0\0\0\5rest"


def test_frames_behind_their_length_come_whole() -> None:
    framer = LengthFramer(1000)
    assert framer.feed(_LENGTH_STREAM) == _LENGTH_FRAMES
    assert framer.pending == 0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_frames_behind_their_length_are_the_same_wherever_the_stream_is_cut(
    number: int,
) -> None:
    frames, stream = {
        1: (_LENGTH_FRAMES, _LENGTH_STREAM),
        2: (_SHORT_FRAMES, _framed(*_SHORT_FRAMES)),
        3: (_SHORT_FRAMES, _framed(*_SHORT_FRAMES)),
    }[number]
    stream += _UNFINISHED
    for cuts in combinations(range(len(stream) + 1), number):
        framer = LengthFramer(1000)
        assert _fed(framer, _cut(stream, cuts)) == frames, cuts
        assert framer.pending == len(_UNFINISHED), cuts
        assert framer.feed(b"!") == [b"rest!"], cuts


def test_a_stream_of_lengths_may_come_byte_by_byte() -> None:
    framer = LengthFramer(1000)
    assert _fed(framer, [bytes([byte]) for byte in _LENGTH_STREAM]) == _LENGTH_FRAMES
    assert framer.pending == 0


def test_each_frame_comes_with_the_byte_that_completes_it() -> None:
    framer = LengthFramer(1000)
    for frame in _LENGTH_FRAMES:
        *before, last = (bytes([byte]) for byte in _framed(frame))
        assert _fed(framer, before) == []
        assert framer.pending == len(before)
        assert framer.feed(last) == [frame]


def test_no_data_changes_nothing() -> None:
    framer = LengthFramer(1000)
    for byte in _LENGTH_STREAM + _UNFINISHED:
        framer.feed(bytes([byte]))
        pending = framer.pending
        assert framer.feed(b"") == []
        assert framer.pending == pending
    assert framer.feed(b"!") == [b"rest!"]


@given(st.lists(st.binary(max_size=300)), st.data())
def test_frames_behind_their_length_survive_any_chunking(
    frames: list[bytes], data: st.DataObject
) -> None:
    stream = _framed(*frames)
    cuts = data.draw(st.lists(st.integers(0, len(stream))).map(sorted))
    framer = LengthFramer(1000)

    assert _fed(framer, _cut(stream, tuple(cuts))) == frames
    assert framer.pending == 0
    assert framer.incomplete() is None


@given(st.lists(st.binary(min_size=1, max_size=9)))
def test_any_bytes_are_frames_and_the_start_of_one(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    framer = LengthFramer(2**32 + 4)
    frames = _fed(framer, pieces)

    whole = _framed(*map(bytes, frames))
    assert stream.startswith(whole)
    rest = stream[len(whole) :]
    assert framer.pending == len(rest)
    assert len(rest) < 4 or len(rest) - 4 < int.from_bytes(rest[:4], "big")


# the bound


@pytest.mark.parametrize("size", [0, 1, 5])
def test_the_length_counts_for_the_bound(size: int) -> None:
    stream = _framed(b"x" * size)
    assert LengthFramer(size + 4).feed(stream) == [b"x" * size]
    error = _refused(LengthFramer(size + 3), stream)
    assert isinstance(error, MessageTooLarge)
    assert f"{size + 4} bytes" in str(error)
    assert f"max_message_size is {size + 3}" in str(error)


@pytest.mark.parametrize("length", [97, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("cut", range(5))
def test_a_frame_past_the_bound_is_refused_once_its_length_is_there(cut: int, length: int) -> None:
    framer = LengthFramer(100)
    data = length.to_bytes(4, "big")
    if cut < 4:
        # A part of the length says nothing.
        assert framer.feed(data[:cut]) == []

    error = _refused(framer, data[cut:] if cut < 4 else data)

    assert error.frames == []
    # A length is unsigned.
    assert f"{length + 4} bytes" in str(error)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_refusal_of_a_length_gives_the_frames_before_it(number: int) -> None:
    before = [b"a", b"", b"bcd"]
    stream = _framed(*before) + b"\0\0\1\0" + b"more"
    for cuts in combinations(range(len(_framed(*before)) + 4), number):
        framer = LengthFramer(100)
        *first, last = _cut(stream, cuts)
        got = _fed(framer, first)
        assert got + _refused(framer, last).frames == before, cuts


def test_the_refusal_of_a_length_keeps_nothing() -> None:
    framer = LengthFramer(10)
    framer.feed(_framed(b"a") + b"\0\0")
    _refused(framer, b"\1\0rest")

    assert framer.pending == 0
    assert framer.incomplete() is None
    assert framer.feed(_framed(b"b")) == [b"b"]


def test_many_frames_in_one_read_may_pass_the_bound_together() -> None:
    assert LengthFramer(8).feed(_framed(b"1234") * 100) == [b"1234"] * 100


@pytest.mark.parametrize("bound", [100, 2**32 + 3])
def test_a_length_takes_no_memory(bound: int) -> None:
    # Not even where so much would be allowed: the length may be a lie.
    framer = LengthFramer(bound)
    tracemalloc.start()
    try:
        if bound == 100:
            _refused(framer, b"\xff" * 4 + b"x" * 1000)
        else:
            framer.feed(b"\xff" * 4)
            framer.feed(b"x" * 1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


# the end of a stream


def test_a_stream_that_is_cut_is_incomplete_unless_between_two_frames() -> None:
    ends = {0}
    for frame in _LENGTH_FRAMES:
        ends.add(max(ends) + 4 + len(frame))
    for cut in range(len(_LENGTH_STREAM) + 1):
        framer = LengthFramer(1000)
        framer.feed(_LENGTH_STREAM[:cut])
        error = framer.incomplete()
        if cut in ends:
            assert error is None, cut
        else:
            assert isinstance(error, IncompleteMessage), cut
            start = max(end for end in ends if end < cut)
            assert excerpt(_LENGTH_STREAM[start:cut]) in str(error), cut


def test_half_a_frame_at_the_end_says_how_much_there_should_be() -> None:
    framer = LengthFramer(1000)
    _fed(framer, [_framed(b"whole") + b"\0\0", b"\1\0ha", b"lf"])

    text = str(framer.incomplete())

    assert str(4 + 256) in text
    assert r"b'\x00\x00\x01\x00half'" in text


# memory


def test_a_frame_in_many_pieces_is_held_once() -> None:
    size, count = 2**16, 256
    framer = LengthFramer(2**30)
    frames = []
    tracemalloc.start()
    try:
        framer.feed((size * count).to_bytes(4, "big"))
        for _ in range(count):
            # A piece of its own each time, as reads give them.
            frames += framer.feed(bytes(size))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert frames == [bytes(size * count)]
    assert size * count < peak < 1.5 * size * count


def test_a_frame_stays_as_it_is_while_others_come() -> None:
    framer = LengthFramer(100)
    frames = _fed(framer, _cut(_framed(b"abc", b"defg", b"hi"), (5, 6, 9, 13, 17)))
    assert frames == [b"abc", b"defg", b"hi"]
    assert [memoryview(frame).readonly for frame in frames] == [True] * 3
