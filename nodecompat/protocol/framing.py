"""Bytes into frames: where one message ends and the next begins.

A framer takes the stream in whatever pieces it arrives and gives whole frames. It never looks at a
byte twice, keeps what is incomplete as the pieces that came, and joins them once, so that a frame
costs time and memory linear in its size.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from nodecompat.errors import IncompleteMessage, MessageTooLarge

__all__ = ["FrameTooLarge", "Framer", "LengthFramer", "LineFramer", "excerpt"]

_EXCERPT = 80
_LENGTH_SIZE = 4


def excerpt(data: bytes | bytearray) -> str:
    """The start of what a peer sent, short enough for an error message."""
    start = repr(bytes(data[:_EXCERPT]))
    return start if len(data) <= _EXCERPT else f"{start}… ({len(data)} bytes)"


FrameT = TypeVar("FrameT")


class Framer(Protocol[FrameT]):
    """What the channel asks of a framer."""

    def feed(self, data: bytes) -> list[FrameT]:
        """The frames that ``data`` completes; raises MessageTooLarge past the bound."""
        ...

    @property
    def pending(self) -> int:
        """How many bytes of an unfinished frame are kept."""
        ...

    def incomplete(self) -> IncompleteMessage | None:
        """The error for a stream that ends here, or None where that is between two frames."""
        ...


class LineFramer:
    r"""Frames that end with ``\n``, as in Node's JSON mode; the ``\n`` is not part of the frame.

    ``max_size`` bounds a frame in bytes. Past it ``feed`` raises MessageTooLarge, before more
    memory is taken; frames that were complete before it are in the error's ``frames``.
    """

    __slots__ = ("_max_size", "_parts", "pending")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._parts: list[bytes] = []
        self.pending = 0

    def feed(self, data: bytes) -> list[bytes]:
        end = data.rfind(b"\n")
        if end < 0:
            self._parts.append(data)
            self.pending += len(data)
            if self.pending > self._max_size:
                raise self._too_large(self.pending, [])
            return []
        frames = data.split(b"\n")
        rest = frames.pop()
        if self._parts:
            self._parts.append(frames[0])
            frames[0] = b"".join(self._parts)
            self._parts = []
        self.pending = len(rest)
        if rest:
            self._parts.append(rest)
        # Frames that lie in this piece can pass the bound only if the whole piece does.
        if len(frames[0]) > self._max_size or len(data) > self._max_size:
            for index, frame in enumerate(frames):
                if len(frame) > self._max_size:
                    raise self._too_large(len(frame), frames[:index])
            if self.pending > self._max_size:
                raise self._too_large(self.pending, frames)
        return frames

    def incomplete(self) -> IncompleteMessage | None:
        if not self.pending:
            return None
        start = b"".join(self._parts)
        return IncompleteMessage(
            f"the channel ended in the middle of a message: {excerpt(start)} without its newline"
        )

    def _too_large(self, size: int, frames: list[bytes]) -> FrameTooLarge:
        self._parts = []
        self.pending = 0
        return _too_large(f"at least {size}", self._max_size, frames)


class LengthFramer:
    """Frames behind their length, four bytes big-endian and unsigned, as in Node's advanced mode.

    The length is not part of the frame, but counts for ``max_size``. Past that ``feed`` raises
    MessageTooLarge as soon as the length is known, before memory is taken. A frame that came in
    several pieces is a read-only memoryview of memory that is its own: a large one is never copied.
    """

    __slots__ = ("_kept", "_max_size", "_wanted")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._kept = bytearray()
        self._wanted = 0

    @property
    def pending(self) -> int:
        return len(self._kept)

    def feed(self, data: bytes) -> list[bytes | memoryview]:
        frames: list[bytes | memoryview] = []
        at = 0
        kept = self._kept
        if kept:
            missing = self._wanted - len(kept)
            if len(data) < missing:
                kept += data
                return frames
            self._kept = bytearray()
            if len(kept) < _LENGTH_SIZE:
                data = bytes(kept) + data
            else:
                kept += memoryview(data)[:missing]
                frames.append(memoryview(kept)[_LENGTH_SIZE:].toreadonly())
                at = missing
        total = len(data)
        # What a frame wants of which not even the length is there.
        wanted = _LENGTH_SIZE
        while total - at >= _LENGTH_SIZE:
            start = at + _LENGTH_SIZE
            wanted = int.from_bytes(data[at:start], "big") + _LENGTH_SIZE
            if wanted > self._max_size:
                raise _too_large(str(wanted), self._max_size, frames)
            if total - at < wanted:
                break
            at += wanted
            frames.append(data[start:at])
            wanted = _LENGTH_SIZE
        if at < total:
            self._kept += memoryview(data)[at:]
            self._wanted = wanted
        return frames

    def incomplete(self) -> IncompleteMessage | None:
        if not self._kept:
            return None
        expected = f"{self._wanted} bytes" if len(self._kept) >= _LENGTH_SIZE else "its length"
        return IncompleteMessage(
            f"the channel ended in the middle of a message: {excerpt(self._kept)} of {expected}"
        )


class FrameTooLarge(MessageTooLarge):
    """MessageTooLarge of the receiving side, with the frames that were complete before it."""

    def __init__(self, message: str, frames: list[Any]) -> None:
        super().__init__(message)
        self.frames = frames

    def __reduce__(self) -> tuple[type[FrameTooLarge], tuple[str, list[bytes]]]:
        return type(self), (str(self), [bytes(frame) for frame in self.frames])


def _too_large(size: str, max_size: int, frames: list[Any]) -> FrameTooLarge:
    return FrameTooLarge(
        f"the peer sent a message of {size} bytes; this channel's max_message_size is {max_size}",
        frames,
    )
