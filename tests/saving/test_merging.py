from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.saving import merging
from flask_sessionsql.sessions import Encoded

Data = dict[Any, Any]

_serializer = MsgpackSerializer()


def same(one: Any, other: Any) -> bool:
    """Equal and of the same type, as the stored bytes are compared."""
    return _serializer.encode(one) == _serializer.encode(other)


def merge(*sides: Data) -> Data:
    """A merge of what is encoded, decoded."""
    merged = merging.merge(
        *({key: _serializer.encode(data[key]) for key in data} for data in sides)
    )
    return {key: _serializer.decode(Encoded(merged[key])) for key in merged}


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "expected"),
    [
        # Nobody changed anything.
        ({}, {}, {}, {}),
        ({"a": 1}, {"a": 1}, {"a": 1}, {"a": 1}),
        # One side only.
        ({}, {"a": 1}, {}, {"a": 1}),
        ({}, {}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {}, {"a": 1}, {}),
        ({"a": 1}, {"a": 1}, {}, {}),
        # Both, at different keys.
        ({}, {"a": 1}, {"b": 2}, {"b": 2, "a": 1}),
        ({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "b": 2}, {"a": 2, "b": 2}),
        ({"a": 1, "b": 1}, {"a": 1}, {"b": 1}, {}),
        ({"a": 1}, {"a": 1, "b": 2}, {}, {"b": 2}),
        ({"a": 1}, {}, {"a": 1, "b": 2}, {"b": 2}),
        # Both, at the same key: the one that is saved last.
        ({}, {"a": 1}, {"a": 2}, {"a": 1}),
        ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 2}),
        ({"a": 1}, {}, {"a": 3}, {}),
        ({"a": 1}, {"a": 2}, {}, {"a": 2}),
        ({"a": 1}, {}, {}, {}),
        # Values are never mixed.
        ({"a": [1]}, {"a": [1, 2]}, {"a": [1, 3]}, {"a": [1, 2]}),
        ({"a": {"x": 1}}, {"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"y": 2}}),
        # None is a value, not an absence.
        ({"a": None}, {}, {"a": None}, {}),
        ({}, {"a": None}, {}, {"a": None}),
        ({"a": None}, {"a": None}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": None}, {"a": 1}, {"a": None}),
    ],
)
def test_both_changes_are_kept(
    base: Data, mine: Data, theirs: Data, expected: Data
) -> None:
    """What this request set or deleted is taken from it, everything else from the
    other one; no argument is changed.
    """
    before = copy.deepcopy((base, mine, theirs))
    merged = merge(base, mine, theirs)
    assert expected == merged
    assert list(expected) == list(merged)
    assert before == (base, mine, theirs)
    assert merged is not theirs


@pytest.mark.parametrize(
    ("before", "now"),
    [(1, True), (1, 1.0), (0, False), (0.0, -0.0), ([1], [True]), ("b", b"b")],
)
def test_an_equal_value_of_another_type_is_a_change(before: Any, now: Any) -> None:
    """1 and True are equal, and are not the same."""
    merged = merge({"a": before}, {"a": now}, {"a": "theirs"})
    assert type(now) is type(merged["a"])
    assert str(now) == str(merged["a"])


def test_what_is_the_same_is_no_change() -> None:
    """A value that has the same bytes is taken from the other request."""
    nan = float("nan")
    assert {"a": 5} == merge({"a": nan}, {"a": nan}, {"a": 5})
    assert {"a": 5} == merge({"a": {1, 2}}, {"a": {2, 1}}, {"a": 5})


def test_the_order_is_theirs_and_then_mine() -> None:
    """Keys stand in the order of what is stored, this request's new ones last."""
    merged = merge(
        {"a": 1, "b": 1}, {"z": 1, "b": 2, "a": 1, "y": 1}, {"b": 1, "x": 1, "a": 1}
    )
    assert ["b", "x", "a", "z", "y"] == list(merged)


def test_values_are_taken_as_they_are() -> None:
    """No value is copied."""
    mine, theirs = b"mine", b"theirs"
    merged = merging.merge({}, {"mine": mine}, {"theirs": theirs})
    assert mine is merged["mine"]
    assert theirs is merged["theirs"]


KEYS = st.sampled_from("abcdef")
VALUES = st.one_of(
    st.integers(0, 2), st.booleans(), st.none(), st.lists(st.integers(0, 1), max_size=2)
)
SESSIONS = st.dictionaries(KEYS, VALUES)
ABSENT = object()


def changed(base: Data, data: Data) -> set[Any]:
    """The keys that were set, changed or deleted."""
    return {
        key
        for key in base.keys() | data.keys()
        if (key in base) != (key in data) or not same(base[key], data[key])
    }


@settings(deadline=None)
@given(SESSIONS, SESSIONS, SESSIONS)
def test_no_change_of_either_side_is_lost(base: Data, mine: Data, theirs: Data) -> None:
    """A key that one side alone touched is as that side left it; one that both
    touched is as this request left it; one that nobody touched is as it was.
    """
    merged = merge(base, mine, theirs)
    assert merged.keys() <= mine.keys() | theirs.keys()
    for key in "abcdef":
        winner = mine if key in changed(base, mine) else theirs
        expected, got = winner.get(key, ABSENT), merged.get(key, ABSENT)
        assert expected is got or same(expected, got)
        if key not in changed(base, mine) | changed(base, theirs):
            assert (key in base) == (key in merged)


@settings(deadline=None)
@given(SESSIONS, SESSIONS)
def test_one_side_alone_is_that_side(base: Data, data: Data) -> None:
    """Where only one request changed something, the result is what it has."""
    assert same(data, merge(base, base, data))
    assert data == merge(base, data, base)
    assert changed(data, merge(base, data, base)) == set()


@settings(deadline=None)
@given(SESSIONS, SESSIONS, SESSIONS)
def test_merging_again_changes_nothing(base: Data, mine: Data, theirs: Data) -> None:
    """A merge that is repeated over its own result, because a write had to be tried
    again, gives the same.
    """
    merged = merge(base, mine, theirs)
    assert same(merged, merge(base, mine, merged))


@settings(deadline=None)
@given(SESSIONS, st.lists(SESSIONS, min_size=2, max_size=5))
def test_requests_that_touch_different_keys_all_win(
    base: Data, requests: list[Data]
) -> None:
    """However many requests save one after another, each key that only one of them
    touched is as that one left it.
    """
    stored = base
    for data in requests:
        stored = merge(base, data, stored)
    for key in "abcdef":
        touched_by = [data for data in requests if key in changed(base, data)]
        if len(touched_by) == 1:
            assert (key in touched_by[0]) == (key in stored)
            assert key not in stored or same(touched_by[0][key], stored[key])
