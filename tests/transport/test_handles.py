"""nodecompat.transport.handles: a descriptor is taken once or closed, and never both."""

from __future__ import annotations

import os
import socket
import warnings

import pytest

from nodecompat.errors import ProtocolError
from nodecompat.transport.handles import Handle
from tests.support import is_open
from tests.support import nothing_left as nothing_left


@pytest.fixture
def fd() -> int:
    """A socket's descriptor, which the test has to close."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()


def test_detach_gives_the_descriptor_once(fd: int) -> None:
    handle = Handle(fd)
    assert handle.fileno() == fd
    assert handle.detach() == fd
    assert handle.fileno() == -1
    with pytest.raises(ValueError, match="already taken or closed"):
        handle.detach()
    os.close(fd)


def test_socket_is_of_the_kind_that_the_kernel_says(fd: int) -> None:
    handle = Handle(fd)
    with handle.to_socket() as sock:
        assert sock.fileno() == fd
        assert sock.family == socket.AF_INET
        assert sock.type == socket.SOCK_DGRAM
    with pytest.raises(ValueError, match="already taken or closed"):
        handle.to_socket()


def test_descriptor_that_is_no_socket_is_closed() -> None:
    read, write = os.pipe()
    os.close(write)
    handle = Handle(read)
    with pytest.raises(ProtocolError, match="not a socket"):
        handle.to_socket()
    assert not is_open(read)


def test_close_closes_once(fd: int) -> None:
    handle = Handle(fd)
    handle.close()
    assert not is_open(fd)
    # Somebody else may have the number by now.
    other = os.dup2(2, fd)
    handle.close()
    assert is_open(other)
    os.close(other)


def test_close_of_what_somebody_closed_before_is_no_error(fd: int) -> None:
    handle = Handle(fd)
    os.close(fd)
    handle.close()
    assert handle.fileno() == -1


def test_untaken_handle_is_closed_with_a_warning(fd: int) -> None:
    handle = Handle(fd)
    with pytest.warns(ResourceWarning, match=f"not taken: closing descriptor {fd}"):
        handle.close_untaken()
    assert not is_open(fd)


def test_untaken_handle_is_closed_also_when_the_warning_is_an_error(fd: int) -> None:
    handle = Handle(fd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ResourceWarning):
            handle.close_untaken()
    assert not is_open(fd)


def test_dropped_handle_is_closed_with_a_warning(fd: int) -> None:
    with pytest.warns(ResourceWarning, match="not taken"):
        Handle(fd)
    assert not is_open(fd)


def test_taken_and_closed_handles_are_dropped_in_silence(fd: int) -> None:
    taken = Handle(fd)
    with taken.to_socket():
        taken.close_untaken()
        del taken
    closed = Handle(os.dup(2))
    closed.close()
    closed.close_untaken()


def test_repr_says_what_is_left(fd: int) -> None:
    handle = Handle(fd)
    assert repr(handle) == f"<Handle fd={fd}>"
    handle.close()
    assert repr(handle) == "<Handle closed>"
