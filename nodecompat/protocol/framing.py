"""Bytes into frames: where one message ends and the next begins.

A framer takes the stream in whatever pieces it arrives and gives whole frames. It never looks at a
byte twice, keeps what is incomplete as the pieces that came, and joins them once, so that a frame
costs time and memory linear in its size.
"""

from __future__ import annotations

from typing import Protocol

from nodecompat.errors import IncompleteMessage, MessageTooLarge

__all__ = ["FrameTooLarge", "Framer", "LengthFramer", "LineFramer", "excerpt"]

_EXCERPT = 80


def excerpt(data: bytes) -> str:
    """The start of what a peer sent, short enough for an error message."""
    if len(data) <= _EXCERPT:
        return repr(data)
    return f"{data[:_EXCERPT]!r}… ({len(data)} bytes)"


class Framer(Protocol):
    """What the channel asks of a framer."""

    def feed(self, data: bytes) -> list[bytes]:
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
    MessageTooLarge as soon as the length is known, before memory is taken.
    """

    __slots__ = ("_max_size", "_parts", "_wanted", "pending")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._parts: list[bytes] = []
        self._wanted = 0
        self.pending = 0

    def feed(self, data: bytes) -> list[bytes]:
        frames: list[bytes] = []
        if self.pending:
            if self.pending + len(data) < self._wanted:
                self._parts.append(data)
                self.pending += len(data)
                return frames
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts = []
        at = 0
        total = len(data)
        wanted = 0
        while total - at >= 4:
            wanted = int.from_bytes(data[at : at + 4], "big") + 4
            if wanted > self._max_size:
                self.pending = self._wanted = 0
                raise _too_large(str(wanted), self._max_size, frames)
            if total - at < wanted:
                break
            frames.append(data[at + 4 : at + wanted])
            at += wanted
            wanted = 0
        self.pending = total - at
        if self.pending:
            self._parts.append(data[at:] if at else data)
            # Without its whole length a frame wants at least that.
            self._wanted = wanted or 4
        return frames

    def incomplete(self) -> IncompleteMessage | None:
        if not self.pending:
            return None
        start = b"".join(self._parts)
        expected = f"{self._wanted} bytes" if self.pending >= 4 else "its length"
        return IncompleteMessage(
            f"the channel ended in the middle of a message: {excerpt(start)} of {expected}"
        )


class FrameTooLarge(MessageTooLarge):
    """MessageTooLarge of the receiving side, with the frames that were complete before it."""

    def __init__(self, message: str, frames: list[bytes]) -> None:
        super().__init__(message)
        self.frames = frames

    def __reduce__(self) -> tuple[type[FrameTooLarge], tuple[str, list[bytes]]]:
        return type(self), (str(self), self.frames)


def _too_large(size: str, max_size: int, frames: list[bytes]) -> FrameTooLarge:
    return FrameTooLarge(
        f"the peer sent a message of {size} bytes; this channel's max_message_size is {max_size}",
        frames,
    )
