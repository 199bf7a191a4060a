"""What the Python parents and children play in the works on handles.

One connection is handed over again and again and kept open here, so that the handing over is
measured and not the connecting.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmarks.plays import PlayError, check_id, show, small_message

if TYPE_CHECKING:
    import nodecompat.asyncio
    import nodecompat.sync

__all__ = [
    "connection",
    "give_handles",
    "give_handles_async",
    "take_handle",
    "take_handles",
    "take_handles_async",
]


@contextlib.contextmanager
def connection() -> Iterator[socket.socket]:
    """A TCP connection to hand over; its other end is open as long."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
    ):
        far, _ = server.accept()
        with far:
            yield near


def take_handle(message: object, sock: socket.socket | None, id: int) -> None:
    """Check what came, and close the socket; PlayError when it is not what was to come."""
    if sock is None:
        raise PlayError(f"expected a handle with {show(message)}")
    with sock:
        check_id(message, id)


def give_handles(channel: nodecompat.sync.Channel, count: int) -> None:
    """Hand over ``count`` times, on ``nodecompat.sync``."""
    with connection() as sock:
        for id in range(count):
            channel.send(small_message(id), sock, keep_open=True)


def take_handles(channel: nodecompat.sync.Channel, count: int) -> None:
    """Take ``count`` handles, on ``nodecompat.sync``."""
    for id in range(count):
        take_handle(*channel.recv_with_handle(), id)


async def give_handles_async(channel: nodecompat.asyncio.Channel, count: int) -> None:
    """Hand over ``count`` times, on ``nodecompat.asyncio``."""
    with connection() as sock:
        for id in range(count):
            await channel.send(small_message(id), sock, keep_open=True)


async def take_handles_async(channel: nodecompat.asyncio.Channel, count: int) -> None:
    """Take ``count`` handles, on ``nodecompat.asyncio``."""
    for id in range(count):
        take_handle(*await channel.recv_with_handle(), id)
