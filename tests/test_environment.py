"""nodecompat.environment: what a parent leaves, good and bad, and that it is gone afterwards."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodecompat import environment
from nodecompat.environment import take_parent_channel
from nodecompat.errors import HandshakeError, NotForked
from tests.support import Background, is_open
from tests.support import nothing_left as nothing_left

NAMES = ("NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID")


@pytest.fixture
def fd() -> Iterator[int]:
    """One end of a channel, inheritable as a parent leaves it."""
    near, far = socket.socketpair()
    number = near.detach()
    os.set_inheritable(number, True)
    with far:
        yield number
        if is_open(number):
            os.close(number)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """``os.environ`` of a process that has taken nothing yet."""
    monkeypatch.setattr(environment, "_taken", False)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def _error(environ: dict[str, str]) -> HandshakeError:
    """What is raised for unusable variables, which are gone all the same."""
    environ |= {"NODE_UNIQUE_ID": "1", "OTHER": "stays"}
    with pytest.raises(HandshakeError) as caught:
        take_parent_channel(environ)
    assert environ == {"OTHER": "stays"}
    return caught.value


def test_channel_is_taken_out_of_the_environment(fd: int) -> None:
    environ = {
        "NODE_CHANNEL_FD": str(fd),
        "NODE_CHANNEL_SERIALIZATION_MODE": "advanced",
        "NODE_UNIQUE_ID": "7",
        "OTHER": "stays",
    }
    assert take_parent_channel(environ) == (fd, "advanced", "7")
    assert environ == {"OTHER": "stays"}


@pytest.mark.parametrize("mode", [{}, {"NODE_CHANNEL_SERIALIZATION_MODE": "json"}])
def test_serialization_is_json_unless_told_otherwise(fd: int, mode: dict[str, str]) -> None:
    channel = take_parent_channel({"NODE_CHANNEL_FD": str(fd), **mode})
    assert channel.serialization == "json"
    assert channel.unique_id is None


def test_descriptor_is_not_inherited_any_more(fd: int) -> None:
    assert os.get_inheritable(fd)
    take_parent_channel({"NODE_CHANNEL_FD": str(fd)})
    assert not os.get_inheritable(fd)


@pytest.mark.parametrize("variables", [{}, {"NODE_CHANNEL_FD": ""}])
def test_no_channel_is_not_forked(variables: dict[str, str]) -> None:
    environ = {
        **variables,
        "NODE_CHANNEL_SERIALIZATION_MODE": "nonsense",
        "NODE_UNIQUE_ID": "1",
        "OTHER": "stays",
    }
    with pytest.raises(NotForked, match=r"NODE_CHANNEL_FD is not set.*fork\(\)") as caught:
        take_parent_channel(environ)
    assert not isinstance(caught.value, HandshakeError)
    assert environ == {"OTHER": "stays"}


@pytest.mark.parametrize(
    "text",
    [
        "three",
        "3.0",
        "3.5",
        "-1",
        "+3",
        " 3",
        "3\n",
        "3,4",
        "0x3",
        "\u0663",
        "\u00b3",
        "1_0",
        "2147483648",
        "9" * 30,
        "9" * 5000,
        pytest.param("0" * 30 + "9" * 30, id="zeros-then-huge"),
        pytest.param("0" * 5000 + "9" * 30, id="five-thousand-zeros"),
    ],
)
def test_what_is_no_descriptor_number_is_named(text: str) -> None:
    error = _error({"NODE_CHANNEL_FD": text})
    assert "NODE_CHANNEL_FD=" in str(error)
    assert repr(text)[:20] in str(error)
    assert "not the number of a file descriptor" in str(error)
    assert isinstance(error, ValueError)
    assert isinstance(error, ConnectionError)


def test_closed_descriptor_is_named(fd: int) -> None:
    os.close(fd)
    error = _error({"NODE_CHANNEL_FD": str(fd)})
    assert f"NODE_CHANNEL_FD='{fd}'" in str(error)
    assert "not open" in str(error)


def _file(folder: Path, stack: ExitStack) -> int:
    return stack.enter_context((folder / "file").open("wb")).fileno()


def _pipe(_: Path, stack: ExitStack) -> int:
    read, write = os.pipe()
    stack.callback(os.close, read)
    stack.callback(os.close, write)
    return write


def _socket(family: socket.AddressFamily, kind: socket.SocketKind) -> Callable[..., int]:
    def make(_: Path, stack: ExitStack) -> int:
        return stack.enter_context(socket.socket(family, kind)).fileno()

    return make


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(_file, "is not a socket", id="regular-file"),
        pytest.param(_pipe, "is not a socket", id="pipe"),
        pytest.param(
            _socket(socket.AF_UNIX, socket.SOCK_DGRAM), "is not a stream socket", id="datagram"
        ),
        pytest.param(
            _socket(socket.AF_UNIX, socket.SOCK_SEQPACKET), "is not a stream socket", id="seqpacket"
        ),
        pytest.param(
            _socket(socket.AF_INET, socket.SOCK_STREAM), "is not a Unix-domain socket", id="tcp"
        ),
    ],
)
def test_descriptor_of_another_kind_is_named_and_left_alone(
    tmp_path: Path, make: Callable[[Path, ExitStack], int], reason: str
) -> None:
    with ExitStack() as stack:
        number = make(tmp_path, stack)
        error = _error({"NODE_CHANNEL_FD": str(number)})
        assert f"NODE_CHANNEL_FD='{number}'" in str(error)
        assert reason in str(error)
        # It was never ours: a file of the program, perhaps.
        assert is_open(number)


@pytest.mark.parametrize("mode", ["JSON", "structured", "json ", "0"])
def test_unknown_serialization_is_named_and_the_channel_closed(fd: int, mode: str) -> None:
    error = _error({"NODE_CHANNEL_FD": str(fd), "NODE_CHANNEL_SERIALIZATION_MODE": mode})
    assert f"NODE_CHANNEL_SERIALIZATION_MODE={mode!r}" in str(error)
    assert "'json' or 'advanced'" in str(error)
    assert not is_open(fd)


@pytest.mark.usefixtures("environ")
def test_second_call_says_that_the_channel_is_in_use(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_CHANNEL_FD", str(fd))
    monkeypatch.setenv("NODE_UNIQUE_ID", "1")
    assert take_parent_channel().fd == fd
    assert not os.environ.keys() & set(NAMES)
    with pytest.raises(NotForked, match="already in use"):
        take_parent_channel()
    assert is_open(fd)


@pytest.mark.usefixtures("environ")
def test_environment_of_somebody_else_does_not_count_as_ours(fd: int) -> None:
    take_parent_channel({"NODE_CHANNEL_FD": str(fd)})
    with pytest.raises(NotForked, match="is not set"):
        take_parent_channel()


@pytest.mark.usefixtures("environ")
def test_one_of_several_threads_gets_the_channel(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_CHANNEL_FD", str(fd))

    def take() -> int | None:
        try:
            return take_parent_channel().fd
        except NotForked:
            return None

    threads = [Background(take) for _ in range(8)]
    assert sorted(thread.result() or 0 for thread in threads) == [0] * 7 + [fd]
