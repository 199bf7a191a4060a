"""The tree of errors: what each one also is, its code, and that it survives a pickle."""

from __future__ import annotations

import builtins
import errno
import os
import pickle
import re

import pytest

import nodecompat
from nodecompat import errors
from nodecompat.errors import (
    MessageError,
    NodeIPCError,
    ProgramForbidden,
    ProgramNotFound,
    SpawnError,
)

_CLASSES: list[type[NodeIPCError]] = [getattr(errors, name) for name in errors.__all__]

_CODES = {
    "ChannelClosed": "ERR_IPC_CHANNEL_CLOSED",
    "IncompleteMessage": "ERR_IPC_CHANNEL_CLOSED",
    "AlreadyDisconnected": "ERR_IPC_DISCONNECTED",
    "InvalidHandle": "ERR_INVALID_HANDLE_TYPE",
    "MessageError": "ERR_INVALID_ARG_TYPE",
}


def _sample(kind: type[NodeIPCError]) -> NodeIPCError:
    if issubclass(kind, MessageError):
        return kind("message.a[0]", "set cannot be sent as JSON")
    if issubclass(kind, SpawnError):
        return kind(errno.ENOENT, "spawn ENOENT", "program")
    return kind("what happened")


def _drawn_tree() -> dict[str, tuple[str, list[str]]]:
    """Of each class in the docstring's drawing: the class it hangs from, and those in brackets."""
    tree: dict[str, tuple[str, list[str]]] = {}
    branch: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"    ([│ ├└─]*)(\w+)(?: +\[(.*?)\])?", line)
        if drawn:
            lines, name, also = drawn.groups()
            branch[len(lines)] = name
            parent = branch[len(lines) - 4] if lines else "Exception"
            tree[name] = (parent, also.split(", ") if also else [])
    return tree


def test_the_drawn_tree_has_every_error() -> None:
    assert sorted(_drawn_tree()) == sorted(errors.__all__)


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_error_is_what_the_tree_says(kind: type[NodeIPCError]) -> None:
    parent, also = _drawn_tree()[kind.__name__]
    known = {**vars(builtins), **vars(errors)}

    for name in (parent, *also):
        assert issubclass(kind, known[name]), name


def test_an_incomplete_message_is_a_protocol_error_and_the_end_of_the_channel() -> None:
    assert issubclass(errors.IncompleteMessage, errors.ProtocolError)
    assert issubclass(errors.IncompleteMessage, errors.ChannelClosed)


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_error_has_the_code_that_node_gives_it(kind: type[NodeIPCError]) -> None:
    assert _sample(kind).code == _CODES.get(kind.__name__)


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_error_is_public(kind: type[NodeIPCError]) -> None:
    assert getattr(nodecompat, kind.__name__) is kind
    assert kind.__name__ in nodecompat.__all__


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_error_survives_a_pickle(kind: type[NodeIPCError]) -> None:
    error = _sample(kind)

    again = pickle.loads(pickle.dumps(error))

    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_message_error_leads_to_the_value() -> None:
    error = MessageError("message.a[0]", "too deep")

    assert (error.path, error.reason) == ("message.a[0]", "too deep")
    assert str(error) == "message.a[0]: too deep"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOENT, ProgramNotFound),
        (errno.ENOTDIR, ProgramNotFound),
        (errno.EACCES, ProgramForbidden),
        (errno.EPERM, ProgramForbidden),
        (errno.ENOMEM, SpawnError),
    ],
)
def test_a_spawn_error_is_the_most_exact_one(number: int, kind: type[SpawnError]) -> None:
    error = SpawnError.from_errno(number, "program")

    assert type(error) is kind
    assert (error.errno, error.filename) == (number, "program")


def test_a_spawn_error_names_the_errno_as_node_does() -> None:
    assert "spawn ENOENT: No such file" in str(SpawnError.from_errno(errno.ENOENT, "program"))


def test_a_spawn_error_may_say_more() -> None:
    assert "(no interpreter)" in str(SpawnError.from_errno(errno.ENOENT, "p", "no interpreter"))
    assert "()" not in str(SpawnError.from_errno(errno.ENOENT, "p"))


def test_a_spawn_error_takes_a_number_without_a_name() -> None:
    error = SpawnError.from_errno(99999, "program")

    assert "spawn 99999" in str(error)
    assert os.strerror(99999) in str(error)
