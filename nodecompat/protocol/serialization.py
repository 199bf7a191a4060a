"""The two serializations of a channel: how its frames are cut, written and read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from nodecompat.errors import MessageError, MessageTooLarge
from nodecompat.protocol import json_codec
from nodecompat.protocol.framing import Framer, LengthFramer, LineFramer
from nodecompat.protocol.js_types import undefined

__all__ = ["Frame", "Serialization", "frame_size", "owned", "serialization"]

Frame = bytes | tuple[bytes | memoryview, ...]
"""What goes on the wire for one message; in parts where a large buffer would else be copied."""


_MAX_LENGTH: Final = 2**32 - 1


class Serialization(NamedTuple):
    """One of Node's two serialization modes."""

    name: str
    framer: Callable[[int], Framer[Any]]
    """Makes a framer with a bound on the size of a message."""
    encode: Callable[[Any], Frame]
    """A whole frame; raises MessageError."""
    decode_many: Callable[[list[Any], Callable[[Any], object]], None]
    """Hands the values of frames over in order; raises ProtocolError at the first bad one."""


def serialization(name: str) -> Serialization:
    """The mode of that name: ``json`` or ``advanced``; ValueError for any other."""
    if name == "json":
        return Serialization(name, LineFramer, json_codec.encode, json_codec.decode_many)
    if name == "advanced":
        return _advanced()
    raise ValueError(f"serialization={name!r}: expected 'json' or 'advanced'")


def _advanced() -> Serialization:
    # Imported here: a JSON channel starts without it.
    from nodecompat.protocol import v8_codec

    def encode(message: Any) -> Frame:
        if message is undefined:
            raise MessageError("message", "undefined cannot be a message")
        payload = v8_codec.encode(message)
        if isinstance(payload, bytes):
            return len(payload).to_bytes(4, "big") + payload
        size = frame_size(payload)
        if size > _MAX_LENGTH:
            raise MessageTooLarge(
                f"the message takes {size} bytes; the most in advanced mode is {_MAX_LENGTH}"
            )
        return size.to_bytes(4, "big"), *payload

    def decode_many(frames: list[bytes | memoryview], into: Callable[[Any], object]) -> None:
        for frame in frames:
            into(v8_codec.decode(frame))

    return Serialization("advanced", LengthFramer, encode, decode_many)


def owned(frame: Frame) -> Frame:
    """The same frame, without memory that its sender could still change."""
    if isinstance(frame, bytes):
        return frame
    return tuple(
        part if isinstance(part, bytes) or isinstance(part.obj, bytes) else bytes(part)
        for part in frame
    )


def frame_size(frame: Frame) -> int:
    """How many bytes a frame takes on the wire."""
    if isinstance(frame, bytes):
        return len(frame)
    # len() of a memoryview counts items, not bytes.
    return sum(memoryview(part).nbytes for part in frame)
