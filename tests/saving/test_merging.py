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


def merge_all(*sides: Data) -> tuple[Data, tuple[Any, ...]]:
    """A merge of what is encoded, decoded, and the keys that were overwritten."""
    base, mine, theirs = (
        {key: _serializer.encode(data[key]) for key in data} for data in sides
    )
    found, overwritten = merging.merge(base, mine, theirs, _serializer)
    return {key: _serializer.decode(Encoded(found[key])) for key in found}, overwritten


def merge(*sides: Data) -> Data:
    return merge_all(*sides)[0]


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
    """No value is decoded, nor copied, where one side alone has changed it."""
    mine, theirs = b"mine", b"theirs"
    merged, _ = merging.merge({}, {"mine": mine}, {"theirs": theirs}, _serializer)
    assert mine is merged["mine"]
    assert theirs is merged["theirs"]


A, B, C = ({"name": name, "number": 1} for name in "abc")


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "expected"),
    [
        # Lists: what each appended, theirs first.
        ([], [1], [2], [2, 1]),
        (None, [1], [2], [2, 1]),
        ([0], [0, 1], [0, 2, 3], [0, 2, 3, 1]),
        ([A], [A, B], [A, C], [A, C, B]),
        ([A], [A, B], [A, B], [A, B, B]),
        (None, [A], [A], [A, A]),
        ({"x": [0]}, {"x": [0, 1]}, {"x": [0, 1]}, {"x": [0, 1, 1]}),
        ([1, 2], [], [], []),
        ([1, 2], [2], [2], [2]),
        ({"x": 1}, {"x": 2}, {"x": 2}, {"x": 2}),
        ((1,), (2,), (2,), (2,)),
        ([True], [True, 1], [True, 2], [True, 2, 1]),
        # One has taken all, and the other one has appended.
        ([1, 2], [], [1, 2, 3], [3]),
        ([1, 2], [1, 2, 3], [], [3]),
        ([1, 2], None, [1, 2, 3], [3]),
        ([1, 2], [1, 2, 3], None, [3]),
        # Dictionaries, as deep as they go.
        ({}, {"x": 1}, {"y": 2}, {"y": 2, "x": 1}),
        (None, {"x": 1}, {"y": 2}, {"y": 2, "x": 1}),
        ({"x": 1, "y": 1}, {"y": 1}, {"x": 1, "y": 2}, {"y": 2}),
        (
            {"x": {"y": [0]}},
            {"x": {"y": [0, 1]}},
            {"x": {"y": [0, 2]}},
            {"x": {"y": [0, 2, 1]}},
        ),
        ({1: [0], (2,): 1}, {1: [0, 1], (2,): 1}, {1: [0, 2]}, {1: [0, 2, 1]}),
        # Sets, by element.
        ({1}, {1, 2}, {1, 3}, {1, 2, 3}),
        ({1, 2}, {2}, {1, 2, 3}, {2, 3}),
        (None, {1}, {2}, {1, 2}),
        (frozenset({1}), frozenset({1, 2}), frozenset(), frozenset({2})),
    ],
    ids=repr,
)
def test_both_changes_to_one_value_are_kept(
    base: Any, mine: Any, theirs: Any, expected: Any
) -> None:
    """As far as its kind says how. ``None`` stands for a key that is not there."""
    sides = [{} if each is None else {"a": each} for each in (base, mine, theirs)]
    before = copy.deepcopy(sides)
    merged, overwritten = merge_all(*sides)
    assert same(merged["a"], expected)
    assert overwritten == ()
    assert before == sides


@pytest.mark.parametrize(
    ("base", "mine", "theirs"),
    [
        (1, 2, 3),
        (1, None, 3),
        (1, 2, None),
        (None, 2, 3),
        ([1, 2], [2, 1], [1, 2, 3]),
        ([1, 2], [1], [1, 2, 3]),
        ([1], [], [2]),
        ([1], [1, 2], {"x": 1}),
        ([1], (1, 2), [1, 3]),
        (None, [1], {2}),
        ({"x": 1}, {"x": 2}, {"x": 3}),
        ({"x": {"y": 1}}, {"x": {"y": 2}}, {"x": {}}),
        ({"x": 1}, None, {"x": 2}),
        ((1,), (1, 2), (1, 3)),
        ({1}, {2}, frozenset({3})),
    ],
    ids=repr,
)
def test_a_value_that_has_to_give_way_is_named(
    base: Any, mine: Any, theirs: Any
) -> None:
    """It is as the one has it who is saved last, and its key is told of; those beside
    it are not.
    """
    sides = [{} if each is None else {"a": each} for each in (base, mine, theirs)]
    sides[1] |= {"mine": 1}
    sides[2] |= {"theirs": 1}
    merged, overwritten = merge_all(*sides)
    assert same(merged.get("a"), mine)
    assert overwritten == ("a",)
    assert {"mine": 1, "theirs": 1}.items() <= merged.items()


def test_a_damaged_value_gives_way() -> None:
    """What cannot be read cannot be merged."""
    mine = {"a": _serializer.encode([1])}
    assert merging.merge({}, mine, {"a": b"\xc1"}, _serializer) == (mine, ("a",))


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
    touched is as this request left it, or holds what each has put into it; one that
    nobody touched is as it was.
    """
    merged, overwritten = merge_all(base, mine, theirs)
    assert merged.keys() <= mine.keys() | theirs.keys()
    for key in "abcdef":
        winner = mine if key in changed(base, mine) else theirs
        expected, got = winner.get(key, ABSENT), merged.get(key, ABSENT)
        both = key in changed(base, mine) & changed(base, theirs) & {*merged}
        if both and key not in overwritten and isinstance(got, list):
            before = base.get(key)
            length = len(before) if isinstance(before, list) else 0
            for side in (mine, theirs):
                added = side.get(key, [])[length:]
                assert all(got.count(each) >= added.count(each) for each in added)
        else:
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
