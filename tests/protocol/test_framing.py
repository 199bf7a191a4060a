"""Bytes into lines: any chunking, a bound, and no byte looked at again."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import combinations, pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodecompat.errors import IncompleteMessage, MessageTooLarge
from nodecompat.protocol.framing import Framer, FrameTooLarge, LineFramer, excerpt

_STREAM = '1\n\n"ä€😀"\n\n[2, "\\n"]\nrest'.encode()
_FRAMES = [b"1", b"", '"ä€😀"'.encode(), b"", b'[2, "\\n"]']


def _fed(framer: Framer, pieces: list[bytes]) -> list[bytes]:
    return [frame for piece in pieces for frame in framer.feed(piece)]


def _cut(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise((0, *cuts, len(data)))]


def _refused(framer: LineFramer, piece: bytes) -> FrameTooLarge:
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


def _work(framer: LineFramer, pieces: list[bytes]) -> tuple[int, int]:
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
