"""Names of properties and places in messages, as JavaScript writes them."""

from __future__ import annotations

import enum
import math
import uuid
from typing import Any

import pytest

from nodecompat.protocol.paths import (
    index_step,
    number_name,
    path,
    property_name,
    property_step,
    type_name,
)


class _Kind(enum.Enum):
    WORD = "word"
    NUMBER = 7
    LIST = (1,)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "0"),
        (-5, "-5"),
        (2**70, "1180591620717411303424"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (-1.5, "-1.5"),
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (0.1, "0.1"),
        (0.00001, "0.00001"),
        (-0.0000015, "-0.0000015"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-10, "1.5e-10"),
        (5e-324, "5e-324"),
        (2.0**53, "9007199254740992"),
        (9194486752298348.0, "9194486752298348"),
        (1e16, "10000000000000000"),
        (1.2345678901234568e20, "123456789012345680000"),
        (1e21, "1e+21"),
        (-1.5e300, "-1.5e+300"),
    ],
)
def test_a_number_is_the_name_that_string_gives_it(number: int | float, name: str) -> None:
    assert number_name(number) == name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a", "a"),
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (1, "1"),
        (1.5, "1.5"),
        (_Kind.WORD, "word"),
        (_Kind.NUMBER, "7"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_key_that_has_a_form_as_a_string_has_it(key: Any, name: str) -> None:
    assert property_name(key) == name


@pytest.mark.parametrize("key", [(1, 2), b"a", _Kind.LIST, frozenset[int]()])
def test_any_other_key_is_refused(key: Any) -> None:
    with pytest.raises(TypeError, match=r"the key .* is a .*, not a string"):
        property_name(key)


def test_a_path_is_what_javascript_would_write() -> None:
    steps = [
        property_step("users"),
        index_step(3),
        property_step("a b"),
        property_step(""),
        property_step(7),
        property_step("name"),
    ]
    assert path(steps) == "message.users[3]['a b'][''][7].name"
    assert path([]) == "message"


def test_a_long_path_is_shortened_in_the_middle() -> None:
    assert path([index_step(number) for number in range(23)]).count("[") == 23
    shortened = path([index_step(number) for number in range(1000)])
    assert shortened.startswith("message[0][1]")
    assert "[10]…(981 levels)…[992]" in shortened
    assert shortened.endswith("[999]")


def test_a_type_is_named_with_its_module_unless_it_is_built_in() -> None:
    assert type_name(1) == "int"
    assert type_name(_Kind.WORD).endswith(".test_paths._Kind")
