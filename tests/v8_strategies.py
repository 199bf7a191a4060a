"""Values as the V8 codec reads them, for property-based tests."""

from __future__ import annotations

import array
import datetime
import math
from typing import Any

from hypothesis import strategies as st

from nodecompat.protocol.js_types import (
    MAX_SAFE_INTEGER,
    ArrayBuffer,
    BigInt,
    Boxed,
    DataView,
    Float16Array,
    JSArray,
    JSDate,
    JSError,
    JSKey,
    Map,
    RegExp,
    SparseArray,
    Uint8ClampedArray,
    undefined,
)

__all__ = ["values"]


def _joined(text: str) -> str:
    """The same with surrogates that make a pair joined: JavaScript cannot tell them apart."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _is_index(name: str) -> bool:
    return name.isdecimal() and name.isascii() and str(int(name)) == name and int(name) < 2**32 - 1


def _in_order(properties: dict[str, Any]) -> dict[str, Any]:
    """The properties of an object in JavaScript's order."""
    indices = sorted((name for name in properties if _is_index(name)), key=int)
    names = [*indices, *(name for name in properties if not _is_index(name))]
    return {name: properties[name] for name in names}


_integers = st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
_floats = (
    st.floats()
    .filter(lambda number: not (number.is_integer() and abs(number) <= MAX_SAFE_INTEGER and number))
    .map(lambda number: -0.0 if number == 0 else number)
)
_bigints = st.integers().map(BigInt)
_texts = st.text(st.one_of(st.characters(), st.sampled_from("\ud800\udc00é€")), max_size=10).map(
    _joined
)
_names = st.one_of(
    st.sampled_from(["a", "b", "id", "", "0", "7", "01", "-1", "2147483648", "4294967295"]), _texts
)
_moments = st.datetimes(timezones=st.just(datetime.UTC)).map(
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
_regexps = st.builds(
    RegExp,
    st.sampled_from(["a+", "(?:)", "é", "€", r"\/", "[a-z]"]),
    st.sets(st.sampled_from("gimsuy")).map("".join),
)
_dates = st.sampled_from([math.nan, 8.64e15, -8.64e15, 253402300800000.0]).map(JSDate)
_bytes = st.binary(max_size=20)
_typed_arrays: st.SearchStrategy[Any] = st.one_of(
    st.builds(array.array, st.just("b"), st.lists(st.integers(-128, 127), max_size=4)),
    st.builds(array.array, st.just("B"), st.lists(st.integers(0, 255), max_size=4)),
    st.builds(array.array, st.just("h"), st.lists(st.integers(-(2**15), 2**15 - 1), max_size=4)),
    st.builds(array.array, st.just("I"), st.lists(st.integers(0, 2**32 - 1), max_size=4)),
    st.builds(array.array, st.just("f"), st.lists(st.floats(width=32), max_size=4)),
    st.builds(array.array, st.just("d"), st.lists(st.floats(), max_size=4)),
    st.builds(array.array, st.just("q"), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)),
    st.builds(array.array, st.just("Q"), st.lists(st.integers(0, 2**64 - 1), max_size=4)),
).map(lambda items: memoryview(items))
_primitives = st.one_of(
    st.none(), st.just(undefined), st.booleans(), _integers, _floats, _bigints, _texts
)
_boxes = st.one_of(st.booleans(), _integers, _floats, _bigints, _texts).map(Boxed)

# As keys: -0 is 0 there.
_key_values = st.one_of(
    st.none(),
    st.just(undefined),
    _integers,
    _floats.filter(bool),
    _texts,
    st.binary(min_size=2, max_size=5),
    _moments,
)


def _leaves(sent_by_any_node: bool) -> st.SearchStrategy[Any]:
    # Node before 16 reads typed arrays of bigints and sends none; before 24 it has no half floats.
    typed = _typed_arrays
    if sent_by_any_node:
        typed = typed.filter(lambda view: view.format not in "qQ")
    return st.one_of(
        _primitives,
        _boxes,
        _moments,
        _dates,
        _regexps,
        _bytes,
        typed,
        _bytes.map(ArrayBuffer),
        _bytes.map(DataView),
        _bytes.map(Uint8ClampedArray),
        *([] if sent_by_any_node else [st.binary(max_size=3).map(lambda b: Float16Array(b + b))]),
        *([] if sent_by_any_node else [st.builds(ArrayBuffer, _bytes, st.integers(20, 99))]),
    )


def _holey(elements: list[Any], holes: set[int]) -> JSArray[Any]:
    for hole in holes:
        elements.insert(hole, undefined)
    present = {hole for hole in holes if hole < len(elements) and elements[hole] is undefined}
    return JSArray(elements, holes=present)


def _containers(inner: st.SearchStrategy[Any], errors: bool) -> st.SearchStrategy[Any]:
    names = _names.filter(lambda name: not _is_index(name) and name != "length")
    properties = st.dictionaries(names, inner, min_size=1, max_size=2)
    kinds = st.sampled_from(["Error", "TypeError", "RangeError", "URIError"])
    return st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(_names, inner, max_size=4).map(_in_order),
        st.dictionaries(_key_values, inner, max_size=3).map(Map),
        st.lists(st.tuples(inner, inner), max_size=3).map(_map_by_identity),
        st.sets(_key_values, max_size=4),
        st.builds(_holey, st.lists(inner, max_size=3), st.just({0})),
        st.builds(JSArray, st.lists(inner, max_size=3), properties=properties),
        st.builds(
            SparseArray,
            st.integers(10**7, 2**32 - 1),
            st.dictionaries(st.integers(0, 10**7 - 1), inner, max_size=3).map(
                lambda elements: dict(sorted(elements.items()))
            ),
            properties=st.one_of(st.just({}), properties),
        ),
        *(
            [
                st.builds(JSError, st.one_of(st.none(), _texts), name=kinds, stack=_texts),
                st.builds(JSError, _texts, name=kinds, stack=_texts, cause=inner),
            ]
            if errors
            else []
        ),
        # The same object in two places.
        inner.map(lambda value: [value, {"again": value}]),
    )


def _map_by_identity(pairs: list[tuple[Any, Any]]) -> Map[Any, Any]:
    """A Map of those keys that only JSKey can hold."""
    return Map({JSKey(key): item for key, item in pairs if isinstance(key, (list, dict))})


def values(*, errors: bool = True, sent_by_any_node: bool = False) -> st.SearchStrategy[Any]:
    """Any value, as it is read; without what not every Node has, if so wished."""
    return st.recursive(
        _leaves(sent_by_any_node), lambda inner: _containers(inner, errors), max_leaves=12
    )
