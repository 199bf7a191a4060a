"""Sequences of observations against their patterns."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.match import compare, normal_observation
from conformance.values import WrongValue

_ENDS = {"unordered": [{"exit": 0}, "disconnect"]}


@pytest.mark.parametrize(
    ("expected", "actual", "fits"),
    [
        ([], [], True),
        ([{"message": 1}], [{"message": 1}], True),
        ([{"message": 1}], [{"message": 1}, "disconnect"], False),
        ([_ENDS], ["disconnect", {"exit": 0}], True),
        ([_ENDS], [{"exit": 0}, "disconnect"], True),
        ([_ENDS], ["disconnect", "disconnect"], False),
        ([{"maybe": {"said": "a"}}, {"said": "a"}], [{"said": "a"}], True),
        ([{"maybe": {"said": "a"}}, {"said": "a"}], [{"said": "a"}] * 2, True),
        ([{"maybe": {"said": "a"}}, {"said": "a"}], [{"said": "a"}] * 3, False),
        # The first branch fits the beginning, the second one all.
        ([{"any_of": [[{"said": "a"}], [{"said": "a"}, "disconnect"]]}],
         [{"said": "a"}, "disconnect"], True),
        ([{"any_of": [[], ["disconnect"]]}], [], True),
        ([{"unordered": [{"maybe": {"said": "a"}}, "disconnect"]}], ["disconnect"], True),
        ([{"unordered": [{"any_of": [[{"said": "a"}, {"said": "b"}], []]}, "disconnect"]}],
         ["disconnect", {"said": "a"}, {"said": "b"}], True),
        ([{"threw": {"$": "any"}}], [{"threw": "ERR_X"}], True),
        ([{"message": 1}], [{"message": True}], False),
        ([{"message": 1}], [{"message": 1, "handle": "udp4"}], False),
    ],
)  # fmt: skip
def test_fits(expected: list[Any], actual: list[Any], fits: bool) -> None:
    assert (compare(expected, actual) is None) is fits


def test_the_first_observation_that_does_not_fit() -> None:
    found = compare([{"message": 1}, {"message": 2}], [{"message": 1}, {"message": 3}])
    assert found is not None
    assert found.index == 1
    assert found.text == 'observation 2 of 2: expected {"message": 2}, got {"message": 3}'


def test_nothing_more_came() -> None:
    found = compare([{"message": 1}, _ENDS], [{"message": 1}])
    assert found is not None
    assert found.index == 1
    assert found.text.startswith("after 1 observation: expected ")
    assert '{"exit": 0}' in found.text
    assert '"disconnect"' in found.text


def test_more_came_than_expected() -> None:
    found = compare(["disconnect"], ["disconnect", {"message": 1}])
    assert found is not None
    assert (found.index, found.text) == (
        1,
        'observation 2 of 2: expected the end, got {"message": 1}',
    )


def test_large_observations_say_where_they_differ() -> None:
    expected, actual = {"a": ["x" * 200, 1]}, {"a": ["x" * 200, 2]}
    found = compare([{"message": expected}], [{"message": actual}])
    assert found is not None
    assert found.text.endswith("they differ at message['a'][1]: expected 1, got 2")


def test_many_unordered_take_no_time_to_speak_of() -> None:
    items = [{"said": str(at)} for at in range(12)]
    assert compare([{"unordered": items}], items[::-1]) is None


def test_normal_form_reaches_into_patterns() -> None:
    written = {"any_of": [[{"message": 1.0}], [{"maybe": {"message": {"$": "any"}}}]]}
    assert normal_observation(written, wildcards=True) == {
        "any_of": [[{"message": 1}], [{"maybe": {"message": {"$": "any"}}}]]
    }
    with pytest.raises(WrongValue) as caught:
        normal_observation({"unordered": ["end", {"message": {"$": "no"}}]}, wildcards=True)
    assert caught.value.place == ("unordered", 1, "message", "$")


def test_frames_are_bytes() -> None:
    assert normal_observation({"frame": "FF0f"}) == normal_observation({"frame": "ff0F"})
    with pytest.raises(WrongValue):
        normal_observation({"frame": "f"})
