"""nodecompat.transport.unix: bytes and descriptors, in order, without ever waiting."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from nodecompat.transport.unix import UnixTransport, channel_pair
from tests.support import Background, Peer, is_open
from tests.support import nothing_left as nothing_left


class Chunk(NamedTuple):
    data: bytes
    handle: socket.socket | None = None
    id: int = 0


@pytest.fixture
def pair() -> Iterator[tuple[UnixTransport, Peer]]:
    near, far = channel_pair()
    transport = UnixTransport(near)
    with Peer(far) as peer:
        yield transport, peer
    transport.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _handle(stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


def _receive(peer: Peer, size: int = 65536) -> tuple[bytes, list[int]]:
    data, fds, _, _ = socket.recv_fds(peer.sock, size, 16)
    return data, fds


def _same(fd: int, sock: socket.socket) -> bool:
    return os.fstat(fd).st_ino == os.fstat(sock.fileno()).st_ino


def _fill(transport: UnixTransport, peer: Peer) -> int:
    """Write until the kernel takes no more; returns how much is unsent."""
    transport.enqueue([Chunk(b"f" * 1_000_000)])
    assert not transport.flush()
    return transport.unsent


# -------------------------------------------------------------------------------------- reading


def test_nothing_there_is_told_at_once(pair: tuple[UnixTransport, Peer]) -> None:
    transport, _ = pair
    assert transport.read() is None


def test_read_gives_what_arrived(pair: tuple[UnixTransport, Peer]) -> None:
    transport, peer = pair
    peer.write_bytes(b"one")
    peer.write_bytes(b"two")
    assert transport.read() == (b"onetwo", [])
    assert transport.read() is None


def test_end_of_stream_is_no_bytes_after_all_that_was_sent(
    pair: tuple[UnixTransport, Peer],
) -> None:
    transport, peer = pair
    peer.write_bytes(b"last")
    peer.close()
    assert transport.read() == (b"last", [])
    assert transport.read() == (b"", [])
    assert transport.read() == (b"", [])


def test_reset_is_the_end_of_the_stream(pair: tuple[UnixTransport, Peer]) -> None:
    transport, peer = pair
    peer.write_bytes(b"last")
    transport.enqueue([Chunk(b"never read")])
    transport.flush()
    # What the kernel calls a reset: it ends with data that it did not read.
    peer.close()
    assert transport.read() == (b"last", [])
    assert transport.read() == (b"", [])


def test_descriptors_come_with_their_bytes_and_are_not_inherited(
    pair: tuple[UnixTransport, Peer], stack: ExitStack
) -> None:
    transport, peer = pair
    first, second = _handle(stack), _handle(stack)
    peer.write_bytes(b"plain ")
    peer.write_bytes(b"with", first.fileno(), second.fileno())
    peer.write_bytes(b"later")
    received = transport.read()
    assert received is not None
    data, handles = received
    # Linux glues earlier plain bytes to the read that carries a descriptor, never later ones.
    assert data == b"plain with"
    assert transport.read() == (b"later", [])
    assert len(handles) == 2
    for handle, sent in zip(handles, (first, second), strict=True):
        with handle.to_socket() as sock:
            assert _same(sock.fileno(), sent)
            assert not sock.get_inheritable()


def test_as_many_descriptors_as_the_kernel_passes_arrive(
    pair: tuple[UnixTransport, Peer], stack: ExitStack
) -> None:
    transport, peer = pair
    peer.write_bytes(b"x", *[_handle(stack).fileno()] * 253)
    received = transport.read()
    assert received is not None
    assert len(received[1]) == 253
    for handle in received[1]:
        handle.close()


# -------------------------------------------------------------------------------------- writing


def test_what_is_enqueued_is_written_in_order(pair: tuple[UnixTransport, Peer]) -> None:
    transport, peer = pair
    transport.enqueue([Chunk(b"one ", id=1)])
    assert (transport.unsent, transport.written) == (4, 0)
    transport.enqueue([Chunk(b"two ", id=2), Chunk(b"ack ", id=0), Chunk(b"three", id=3)])
    assert transport.flush()
    assert (transport.unsent, transport.written) == (0, 3)
    assert peer.read_bytes() == b"one two ack three"


def test_flush_of_nothing_is_done(pair: tuple[UnixTransport, Peer]) -> None:
    assert pair[0].flush()


def test_full_buffer_is_told_at_once_and_the_rest_goes_later(
    pair: tuple[UnixTransport, Peer],
) -> None:
    transport, peer = pair
    transport.enqueue([Chunk(b"a" * 1_000_000, id=1), Chunk(b"b" * 10, id=2)])
    assert not transport.flush()
    assert 0 < transport.unsent < 1_000_010
    assert transport.written == 0
    received = b""
    while not transport.flush():
        received += peer.read_bytes()
    transport.close()
    assert received + peer.read_to_end() == b"a" * 1_000_000 + b"b" * 10
    assert transport.written == 2


def test_more_chunks_than_one_write_takes_arrive_in_order(
    pair: tuple[UnixTransport, Peer],
) -> None:
    transport, peer = pair
    chunks = [Chunk(b"%d," % number, id=number) for number in range(1, 3001)]
    transport.enqueue(chunks)
    assert transport.flush()
    assert transport.written == 3000
    transport.close()
    assert peer.read_to_end() == b"".join(chunk.data for chunk in chunks)


@pytest.mark.parametrize("seed", range(10))
def test_any_sizes_arrive_whole_while_the_peer_reads_in_any_pieces(
    pair: tuple[UnixTransport, Peer], seed: int
) -> None:
    transport, peer = pair
    choose = random.Random(seed)
    sizes = [choose.choice([1, 10, 5000, 150_000, 400_000]) for _ in range(30)]
    expected = b""
    received = b""
    for number, size in enumerate(sizes, 1):
        data = b"%c" % choose.randrange(256) * size
        expected += data
        transport.enqueue([Chunk(data, id=number)])
        transport.flush()
        if choose.random() < 0.5 and len(received) < len(expected) - transport.unsent:
            received += peer.read_bytes(choose.choice([10, 4000, 300_000]))
        assert transport.unsent >= 0
    while not transport.flush():
        received += peer.read_bytes()
    assert transport.unsent == 0
    assert transport.written == len(sizes)
    transport.close()
    assert received + peer.read_to_end() == expected


def test_descriptor_goes_with_the_first_byte_of_its_chunk(
    pair: tuple[UnixTransport, Peer], stack: ExitStack
) -> None:
    transport, peer = pair
    handle = _handle(stack)
    transport.enqueue(
        [Chunk(b"plain "), Chunk(b"with", handle, 7), Chunk(b" after "), Chunk(b"end", id=8)]
    )
    assert transport.flush()
    assert transport.written == 8
    data, fds = _receive(peer)
    assert (data, len(fds)) == (b"plain with", 1)
    stack.callback(os.close, fds[0])
    assert _same(fds[0], handle)
    assert _receive(peer) == (b" after end", [])


def test_rest_of_a_partial_write_goes_without_the_descriptor(
    pair: tuple[UnixTransport, Peer], stack: ExitStack
) -> None:
    transport, peer = pair
    transport.enqueue([Chunk(b"h" * 1_000_000, _handle(stack), 1), Chunk(b"next", id=2)])
    assert not transport.flush()
    received = b""
    arrived: list[int] = []
    done = False
    while not done:
        done = transport.flush()
        data, fds = _receive(peer)
        received += data
        arrived += fds
    transport.close()
    received += peer.read_to_end()
    for fd in arrived:
        os.close(fd)
    assert received == b"h" * 1_000_000 + b"next"
    assert len(arrived) == 1


def test_descriptor_waits_while_the_buffer_is_full(
    pair: tuple[UnixTransport, Peer], stack: ExitStack
) -> None:
    transport, peer = pair
    unsent = _fill(transport, peer)
    transport.enqueue([Chunk(b"with", _handle(stack), 2)])
    assert not transport.flush()
    assert transport.unsent == unsent + 4
    arrived: list[int] = []
    done = False
    while not done:
        done = transport.flush()
        arrived += _receive(peer)[1]
    transport.close()
    while True:
        data, fds = _receive(peer)
        arrived += fds
        if not data:
            break
    for fd in arrived:
        os.close(fd)
    assert len(arrived) == 1


def test_write_to_a_peer_that_is_gone_raises(pair: tuple[UnixTransport, Peer]) -> None:
    transport, peer = pair
    peer.close()
    transport.enqueue([Chunk(b"data", id=1)])
    with pytest.raises(BrokenPipeError):
        transport.flush()
    assert transport.written == 0


# ------------------------------------------------------------------------------------------ end


def test_discard_forgets_what_waits(pair: tuple[UnixTransport, Peer]) -> None:
    transport, peer = pair
    _fill(transport, peer)
    transport.discard()
    assert transport.unsent == 0
    assert transport.flush()
    transport.close()
    assert set(peer.read_to_end()) == {ord("f")}


def test_close_closes_the_descriptor(pair: tuple[UnixTransport, Peer]) -> None:
    transport, peer = pair
    fd = transport.fileno()
    _fill(transport, peer)
    transport.close()
    assert not is_open(fd)
    assert transport.fileno() == -1
    assert transport.unsent == 0


def test_transport_on_a_descriptor_owns_it() -> None:
    near, far = socket.socketpair()
    fd = near.detach()
    with Peer(far) as peer:
        transport = UnixTransport.from_fd(fd)
        assert transport.fileno() == fd
        peer.write_bytes(b"data")
        assert transport.read() == (b"data", [])
        transport.close()
        assert not is_open(fd)


@pytest.mark.parametrize("blocking", [True, False])
def test_blocking_mode_is_left_as_it_was(blocking: bool) -> None:
    """It belongs to every process that has this end."""
    near, far = channel_pair()
    near.setblocking(blocking)
    with near, far:
        transport = UnixTransport(near)
        assert transport.read() is None
        transport.enqueue([Chunk(b"data")])
        transport.flush()
        assert os.get_blocking(near.fileno()) is blocking


def test_default_timeout_of_the_program_does_not_make_it_wait() -> None:
    socket.setdefaulttimeout(600)
    try:
        near, far = channel_pair()
        with far:
            transport = UnixTransport(near)
            assert Background(transport.read).result() is None
            transport.close()
    finally:
        socket.setdefaulttimeout(None)


def test_pair_is_two_ends_that_are_not_inherited() -> None:
    near, far = channel_pair()
    with near, far:
        for sock in (near, far):
            assert sock.family == socket.AF_UNIX
            assert sock.type == socket.SOCK_STREAM
            assert not sock.get_inheritable()
        near.send(b"there")
        assert far.recv(10) == b"there"
