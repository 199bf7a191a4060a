"""JavaScript values that Python has no type for."""

from __future__ import annotations

import copy
import pickle

import pytest

import nodecompat
from nodecompat.protocol.js_types import MAX_SAFE_INTEGER, Undefined, undefined


def test_there_is_one_undefined() -> None:
    assert Undefined() is undefined
    assert nodecompat.undefined is undefined


def test_undefined_is_falsy() -> None:
    assert not undefined


def test_undefined_is_shown_as_javascript_names_it() -> None:
    assert repr(undefined) == str(undefined) == "undefined"


@pytest.mark.parametrize("other", [None, False, 0, "", "undefined", Undefined])
def test_undefined_equals_nothing_else(other: object) -> None:
    assert undefined != other


def test_undefined_serves_as_a_key() -> None:
    assert {undefined: 1}[Undefined()] == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_undefined_stays_the_one_when_pickled(protocol: int) -> None:
    assert pickle.loads(pickle.dumps([undefined], protocol))[0] is undefined


def test_undefined_stays_the_one_when_copied() -> None:
    assert copy.copy(undefined) is undefined
    assert copy.deepcopy([undefined])[0] is undefined


def test_undefined_takes_no_attributes() -> None:
    with pytest.raises(AttributeError):
        undefined.value = 1  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def test_every_integer_up_to_the_safe_one_is_exact_as_a_double() -> None:
    assert MAX_SAFE_INTEGER == 9007199254740991
    assert int(float(MAX_SAFE_INTEGER)) == MAX_SAFE_INTEGER
    assert int(float(MAX_SAFE_INTEGER + 2)) != MAX_SAFE_INTEGER + 2
