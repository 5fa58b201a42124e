from __future__ import annotations

import ast
import collections
import dataclasses
import enum
import functools
import http
import json
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from flask.json.tag import TaggedJSONSerializer
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from msgspec.msgpack import Ext
from msgspec.msgpack import encode as msgpack

import flask_sessionsql
from flask_sessionsql import SessionValueError, UnreadableSessionError
from flask_sessionsql.formats import serializers
from flask_sessionsql.formats.serializers import (
    MAX_DEPTH,
    MsgpackSerializer,
    _encode,
    _is_plain,
    _pack,
    _pack_map,
    _RefusedError,
)

serializer = MsgpackSerializer()
dumps, loads = serializer.dumps, serializer.loads

OFFSETS = [
    UTC,
    timezone(timedelta(hours=5, minutes=30)),
    timezone(-timedelta(hours=3, minutes=30, seconds=52)),
    timezone(timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999)),
    timezone(-timedelta(seconds=1, microseconds=1)),
    timezone(timedelta(hours=1), "CET"),
    ZoneInfo("Europe/Paris"),
]

#: Values that come back, one or more of each type.
VALUES: list[Any] = [
    None,
    True,
    False,
    *(0, 1, -1, 127, 128, 2**31, -(2**63), 2**63, 2**64 - 1),
    *(2**64, -(2**63) - 1, 2**64 + 1, -(2**64), 10**4_400, -(10**4_400)),
    *(0.0, -0.0, 1.5, -1e308, 5e-324, math.inf, -math.inf, math.nan, 1.0),
    *(
        "",
        "tea",
        "ünï ☕",
        "\0",
        "\ud800",
        "a\udfffb",
        "\ud83d\ude00",
        "😀",
        "x" * 70_000,
    ),
    *(b"", b"\0\xff", b"x" * 70_000),
    *([], [1, [2, []]], [None, "1", 1, 1.0, True]),
    *({}, {"a": {"b": {}}}, {1: 2, "1": 3, b"1": 4, None: 5, 1.5: 6}),
    *((), (1,), (1, (2, ())), ([1], {"a": (1,)})),
    *(set(), {1, "1", b"1", None, 1.5, (1, frozenset({2}))}),
    *(frozenset(), frozenset({1, frozenset({frozenset()})})),
    *(datetime.min, datetime.max, datetime(2026, 11, 22, 1, 2, 3, 4)),
    *(datetime(2026, 11, 22, 1, 2, 3, 4, zone) for zone in OFFSETS),
    datetime(2026, 11, 22, fold=1),
    *(date.min, date.max, date(2026, 11, 22)),
    *(time.min, time.max, time(1, 2, 3, 4)),
    *(time(1, 2, 3, 4, zone) for zone in OFFSETS),
    *(timedelta.min, timedelta.max, timedelta(0), timedelta(-1, 2, 3)),
    *map(Decimal, ["0", "-0", "1.10", "1E+3", "-1E-28", "NaN", "-sNaN12", "-Infinity"]),
    Decimal("1." + "1" * 100),
    Decimal("9E+999999"),
    *(UUID(int=0), UUID("0b5e28ca-ff1f-4a4e-a5d9-0a3ac3bd4bd6")),
    *(Markup(""), Markup("<b>ü</b>"), Markup("\ud800")),
]

#: Dictionaries that look like what Flask writes instead of a value.
TAGGED = [
    {tag: value}
    for tag in (" di", " t", " b", " m", " u", " d", " di__", "__", "", " ")
    for value in (1, "x", [1], {" t": [1]}, None)
]


def shape(value: Any) -> Any:
    """What a value is, in a form in which equal means equal and of the same type."""
    kind = type(value)
    if kind is dict:
        return kind, tuple((shape(key), shape(item)) for key, item in value.items())
    if kind in {list, tuple}:
        return kind, tuple(shape(item) for item in value)
    if kind in {set, frozenset}:
        return kind, frozenset(shape(item) for item in value)
    if kind is float:
        return kind, value.hex()
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind in {datetime, time}:
        offset = value.utcoffset()
        return kind, value.replace(tzinfo=None, fold=0), offset
    return kind, value


def is_nan(value: Any) -> bool:
    return isinstance(value, (float, Decimal)) and Decimal(value).is_nan()


def hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def show(value: object) -> str:
    """A name for a case; the same in every process, so without addresses and order."""
    text = "" if isinstance(value, (int, set, frozenset)) else ascii(value)[:30]
    return f"{type(value).__name__} {text.partition(' at 0x')[0]}"


def nested(wrap: Callable[[Any], Any], depth: int, value: Any = 1) -> Any:
    for _ in range(depth):
        value = wrap(value)
    return value


# What comes back.


@pytest.mark.parametrize("value", VALUES, ids=show)
def test_a_value_comes_back(value: Any) -> None:
    """Each type comes back equal and of the same type, alone and inside each
    container.
    """
    data = {
        "alone": value,
        "list": [value],
        "tuple": (value, [value]),
        "dict": {"value": value},
        "in a dict with other keys": {(1,): value},
    }
    assert shape(data) == shape(loads(dumps(data)))


@pytest.mark.parametrize("value", [*filter(hashable, VALUES)], ids=show)
def test_a_hashable_value_comes_back_as_key_and_element(value: Any) -> None:
    """Whatever is hashable comes back as a key of the session, as a key inside it,
    and as an element of a set.
    """
    data = {
        value: "key",
        "nested": {value: "key", "other": {(value,): 1}},
        "set": {value},
        "frozenset": frozenset({value}),
    }
    assert shape(data) == shape(loads(dumps(data)))


def test_equal_means_equal() -> None:
    """What came back compares equal with ==, too, time zones included."""
    equal = {str(i): value for i, value in enumerate(VALUES) if not is_nan(value)}
    assert equal == loads(dumps(equal))


def test_a_repeated_hour_keeps_its_instant() -> None:
    """A time in the hour that the clock goes through twice comes back as the same
    instant, with its offset.
    """
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"))
    for moment, hours in ((first, 2), (first.replace(fold=1), 1)):
        back = loads(dumps({"at": moment}))["at"]
        assert timedelta(hours=hours) == back.utcoffset()
        assert moment.timestamp() == back.timestamp()


def test_the_order_of_keys_comes_back() -> None:
    """Dictionaries keep the order of their keys, whatever the keys are."""
    keys = ["b", (2,), "a", 1, None, date(2026, 1, 1)]
    data = {"plain": dict.fromkeys("bca"), "other": dict.fromkeys(keys)}
    back = loads(dumps(data))
    assert ["b", "c", "a"] == list(back["plain"])
    assert keys == list(back["other"])


def test_the_empty_session() -> None:
    """An empty session comes back."""
    assert {} == loads(dumps({}))


@pytest.mark.parametrize("data", TAGGED, ids=str)
def test_no_dictionary_is_mistaken_for_a_value(data: dict[str, Any]) -> None:
    """A dictionary with one key that looks like a tag of Flask's is a dictionary."""
    for each in (data, {"a": data}, {"a": [data, (data,)]}):
        assert shape(each) == shape(loads(dumps(each)))


@pytest.mark.parametrize("value", [*VALUES, *TAGGED], ids=show)
def test_whatever_flask_brings_back(value: Any) -> None:
    """What Flask's own session brings back equal and of the same type, comes back
    equal and of the same type here.
    """
    flask = TaggedJSONSerializer()
    for data in ({"a": value}, {"a": [value, (value,)]}, {"a": {" t": value}}):
        try:
            theirs = flask.loads(flask.dumps(data))
        except (TypeError, ValueError):
            continue
        if shape(data) == shape(theirs):
            assert shape(theirs) == shape(loads(dumps(data)))


@pytest.mark.parametrize(
    "value",
    [
        *(1, "x", None, [1], {"a": 1}, (1, 2), b"bytes", Markup("<b>"), UUID(int=5)),
        datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC),
    ],
    ids=show,
)
def test_what_flask_keeps_is_what_was_compared(value: Any) -> None:
    """Flask's own session does bring back the types that it says it does, so that
    the comparison above compares something.
    """
    flask = TaggedJSONSerializer()
    assert shape({"a": value}) == shape(flask.loads(flask.dumps({"a": value})))


# Random data.

zones: st.SearchStrategy[tzinfo | None] = st.one_of(
    st.none(),
    st.just(UTC),
    st.builds(
        timezone,
        # Python's fromisoformat takes an offset of less than a second for none.
        st.timedeltas(
            -timedelta(hours=23, minutes=59), timedelta(hours=23, minutes=59)
        ).filter(lambda offset: not -1 < offset.total_seconds() < 1),
    ),
    st.timezones(),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1]),
    st.floats(),
    st.text(),
    st.text(st.characters(categories=["Cs", "L"])),
    st.binary(),
    st.datetimes(timezones=zones, allow_imaginary=False),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(),
    st.uuids(),
    st.builds(Markup, st.text()),
)
elements = st.recursive(
    scalars.filter(hashable),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=5,
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(elements, inner, max_size=4),
        st.dictionaries(st.sampled_from([" t", " di", " b"]), inner, max_size=1),
        st.sets(elements, max_size=4),
        st.frozensets(elements, max_size=4),
    ),
    max_leaves=20,
)
sessions = st.dictionaries(elements, values, max_size=5)


@settings(deadline=None)
@given(sessions)
def test_any_session_comes_back(data: dict[Any, Any]) -> None:
    """Any session comes back equal and of the same types, however nested, and gives
    the same bytes again.
    """
    payload = dumps(data)
    back = loads(payload)
    assert shape(data) == shape(back)
    assert payload == dumps(back)


def slowly(data: dict[Any, Any]) -> bytes | None:
    """What ``dumps`` gives without its fast way; ``None`` for a refusal."""
    try:
        if not all(type(_pack(key, 1)) is str for key in data):
            return dumps({})[:1] + _encode(_pack_map(data, 0))
        parts = {key: _encode(_pack(value, 1)) for key, value in data.items()}
        return dumps({})[:1] + _encode(parts)
    except _RefusedError:
        return None


def quickly(data: dict[Any, Any]) -> bytes | None:
    try:
        return dumps(data)
    except SessionValueError:
        return None


nearly_plain_keys = st.one_of(
    st.text(max_size=3),
    st.text(max_size=3),
    st.text(max_size=3),
    st.sampled_from([None, True, 1, 1.5, -0.0, math.nan, b"k", 2**64, "\ud800", (1,)]),
)
#: What the fast way is for, and what only resembles it.
nearly_plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.binary(max_size=3),
        st.text(max_size=3),
        st.text(st.characters(categories=["Cs", "L"]), max_size=3),
        st.integers(),
        st.sampled_from(
            [2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 0.0, -0.0, math.nan]
        ),
        st.just(http.HTTPStatus.OK),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(collections.UserList[Any]),
        st.dictionaries(nearly_plain_keys, inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(
            collections.OrderedDict
        ),
        st.tuples(inner, st.integers(MAX_DEPTH - 3, MAX_DEPTH + 1)).map(
            lambda each: nested(lambda value: [value], each[1], each[0])
        ),
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(nearly_plain_keys, nearly_plain, max_size=4))
@example({"a": "\ud800"})
@example({"a": [{"b": ["x", {"\ud800": 1}]}]})
@example({"a": 2**64})
@example({"a": [-(2**63) - 1], 2**64: 1})
def test_both_ways_give_the_same_bytes(data: dict[Any, Any]) -> None:
    """The fast way for plain data never shows in what is stored, nor in what is
    refused.
    """
    assert quickly(data) == slowly(data)


@pytest.mark.parametrize("depth", range(MAX_DEPTH - 2, MAX_DEPTH + 2))
@pytest.mark.parametrize("inner", [[], {}, [1], {"a": 1}, 1, (1,)], ids=repr)
def test_both_ways_end_at_the_same_depth(depth: int, inner: Any) -> None:
    """To the level, in lists and in dictionaries."""
    for wrap in (lambda value: [value], lambda value: {"a": value, 1: None}):
        data = {"a": nested(wrap, depth, inner)}
        assert quickly(data) == slowly(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({}, True),
        ({"a": [1, {"b": [None, True, 1.5, b"x"]}]}, True),
        ({1: 1, None: 2, b"x": 3, 1.5: 4, False: 5}, True),
        ({"a": (1,)}, False),
        ({("a",): 1}, False),
        ({"a": [[(1,)]]}, False),
        ({"a": {"b": {1: {(): 1}}}}, False),
        ({"a": collections.OrderedDict()}, False),
        ({"a": http.HTTPStatus.OK}, False),
    ],
    ids=repr,
)
def test_what_is_plain(data: dict[Any, Any], expected: bool) -> None:
    """Most sessions are, and anything else takes the slow way."""
    assert _is_plain(data) is expected


class Form:
    """An object whose attributes a view keeps."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"size": (3, 4), "when": date(2026, 1, 1), "tags": {"a"}, "cost": Decimal(1)},
        {"inner": [(1,)]},
        {"plain": [1, {"a": "b"}], "too": None},
    ],
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"in": [value]}]])
def test_attributes_of_objects_keep_their_types(
    attributes: dict[str, Any], wrap: Callable[[Any], Any]
) -> None:
    """A view may keep ``vars(form)``, whose values stand with the object."""
    form = Form()
    for name, value in attributes.items():
        setattr(form, name, value)
    found = serializer.loads(serializer.dumps({"form": wrap(vars(form))}))
    assert repr(found) == repr({"form": wrap(attributes)})
    form.refused = object()  # type: ignore[attr-defined]
    with pytest.raises(SessionValueError):
        serializer.dumps({"form": wrap(vars(form))})


def test_what_is_refused_is_not_asked() -> None:
    """Nothing of an object runs that a session cannot keep, such as a lazy attribute of
    a row of the application's.
    """
    asked = []

    @dataclasses.dataclass
    class Product:
        name: str = "tea"

        def __getattribute__(self, name: str) -> Any:
            asked.append(name)
            return super().__getattribute__(name)

    product = Product()
    asked.clear()
    with pytest.raises(SessionValueError):
        serializer.dumps({"basket": [product]})
    assert "name" not in asked


def test_cycles_are_not_plain() -> None:
    """A list or a dictionary that contains itself is refused, and no endless loop."""
    items: list[Any] = []
    items.append(items)
    data: dict[str, Any] = {}
    data["a"] = {"b": data}
    twice: list[Any] = []
    twice += [twice, twice]
    often: list[Any] = []
    often += [often] * 1000
    for each in ({"a": items}, data, {"a": twice}, {"a": often}):
        assert quickly(each) is slowly(each) is None


@settings(deadline=None)
@given(sessions, sessions)
def test_bytes_are_equal_if_the_sessions_are(
    one: dict[Any, Any], other: dict[Any, Any]
) -> None:
    """Two sessions give the same bytes if and only if they are the same, types and
    order of keys included.
    """
    assert (shape(one) == shape(other)) == (dumps(one) == dumps(other))


@settings(deadline=None)
@given(st.lists(elements, max_size=8), st.randoms())
def test_sets_give_the_same_bytes_in_any_order(items: list[Any], random: Any) -> None:
    """A set gives the same bytes in whatever order its elements came in."""
    # Of equal elements, a set keeps the one that came first.
    items = list(dict.fromkeys(items))
    mixed = random.sample(items, len(items))
    for kind in (set, frozenset):
        assert dumps({"s": kind(items)}) == dumps({"s": kind(mixed)})


# Determinism.

_DUMP = """
import sys
from datetime import date
from flask_sessionsql.formats.serializers import MsgpackSerializer
words = {f"word {i}" for i in range(50)}
data = {
    "words": words,
    "frozen": frozenset(words),
    "dates": {date(2026, 1, day) for day in range(1, 30)},
    "mixed": {1, "1", b"1", None, 2.5, (1, "x"), frozenset({"a", "b", "c"})},
    "key": {frozenset({"a", "b", "c"}): 1},
}
print("in this order:", *words, file=sys.stderr)
sys.stdout.write(MsgpackSerializer().dumps(data).hex())
"""


def test_every_process_gives_the_same_bytes() -> None:
    """Processes whose hashes differ, and whose sets stand in different orders, give
    the same bytes.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _DUMP],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    (one, order), (other, other_order) = [each.communicate() for each in processes]
    assert [0, 0] == [each.returncode for each in processes]
    assert order != other_order
    assert one == other != b""


# Subclasses and objects with __html__.


class Color(enum.IntEnum):
    RED = 3
    FAR = 2**70


class Size(enum.StrEnum):
    SMALL = "small"


class Mood(str, enum.Enum):  # noqa: UP042 - whose str() is not its value
    GLAD = "glad"


class Access(enum.IntFlag):
    READ = 4
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


class Shouting(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


class Money(Decimal):
    def __str__(self) -> str:
        return f"{self:.2f} EUR"


class Moment(datetime):
    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "just now"


class Day(date):
    def isoformat(self) -> str:
        return "today"


class Clock(time):
    def isoformat(self, timespec: str = "auto") -> str:
        return "noon"


class Flagged(float):
    def __repr__(self) -> str:
        return "flagged"


class OwnMarkup(Markup):
    pass


def _subclass(base: type, *arguments: Any) -> Any:
    return type(f"Own{base.__name__.title()}", (base,), {})(*arguments)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Color.RED, 3),
        (Color.FAR, 2**70),
        (Access.READ | Access.WRITE, 6),
        (Size.SMALL, "small"),
        (Mood.GLAD, "glad"),
        (Shouting("ü"), "ü"),
        (Shouting("quiet"), "quiet"),
        (Flagged(1.5), 1.5),
        (_subclass(bytes, b"x"), b"x"),
        (Point(1, 2), (1, 2)),
        (_subclass(tuple, (1, 2)), (1, 2)),
        (_subclass(list, [1]), [1]),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (_subclass(set, {1}), {1}),
        (_subclass(frozenset, {1}), frozenset({1})),
        (Money("1.10"), Decimal("1.10")),
        (Moment(2026, 11, 22, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)),
        (Day(2026, 11, 22), date(2026, 11, 22)),
        (Clock(12), time(12)),
        (_subclass(timedelta, 1, 2, 3), timedelta(1, 2, 3)),
        (_subclass(UUID, "0" * 32), UUID(int=0)),
        (OwnMarkup("<b>"), Markup("<b>")),
    ],
    ids=show,
)
def test_subclasses_come_back_as_their_base(value: Any, expected: Any) -> None:
    """An instance of a subclass comes back as the type in the table, whatever the
    subclass makes of its own text; as a key, too.
    """
    data: dict[Any, Any] = {"a": value, "list": [value]}
    if hashable(value):
        data["keys"] = {value: 1, "other": 2}
        data["set"] = {value}
    back = loads(dumps(data))
    assert shape(expected) == shape(back["a"]) == shape(back["list"][0])
    if hashable(value):
        assert shape(expected) == shape(next(iter(back["keys"])))
        assert shape(expected) == shape(*back["set"])


class Widget:
    def __html__(self) -> str:
        return "<b>ü</b>"


class MarkedText(str):
    __slots__ = ()

    def __html__(self) -> str:
        return f"<i>{self[:]}</i>"


class MarkedDict(dict[str, int]):
    def __html__(self) -> str:
        return "<dl>"


def test_objects_with_html_come_back_as_markup() -> None:
    """An object with an __html__ method comes back as Markup, as from Flask's own
    session; a dictionary or list with one stays what it is.
    """
    data = {"a": Widget(), "b": MarkedText("x"), "c": MarkedDict(n=1)}
    expected = {"a": Markup("<b>ü</b>"), "b": Markup("<i>x</i>"), "c": {"n": 1}}
    assert shape(expected) == shape(loads(dumps(data)))
    flask = TaggedJSONSerializer()
    theirs = flask.loads(flask.dumps({"a": data["a"], "c": data["c"]}))
    assert {"a": expected["a"], "c": expected["c"]} == theirs


def test_a_class_with_html_is_an_object_with_it() -> None:
    """An __html__ that is no method makes no Markup."""
    with pytest.raises(SessionValueError):
        dumps({"a": _subclass(object).__class__})
    thing = _subclass(object)
    thing.__html__ = "text"
    with pytest.raises(SessionValueError):
        dumps({"a": thing})


# What is refused.


@dataclasses.dataclass(frozen=True)
class Cart:
    size: int = 1


class Plain(enum.Enum):
    ONE = 1


def function() -> None:
    """Some function."""


REFUSED: list[Any] = [
    object(),
    bytearray(b"x"),
    memoryview(b"x"),
    int,
    Cart,
    function,
    len,
    functools.partial(function),
    Cart(),
    1j,
    range(3),
    Fraction(1, 3),
    Plain.ONE,
    iter([1]),
    (item for item in "x"),
    MappingProxyType({}),
    collections.deque([1]),
    collections.UserDict(a=1),
    {}.keys(),
    Path("/tmp"),
    ValueError("x"),
    ...,
    NotImplemented,
    UTC,
    Ext(1, b"x"),
    threading.Lock(),
    ast,
]


@pytest.mark.parametrize("value", REFUSED, ids=show)
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda value: value, "session['cart']"),
        (lambda value: [1, value], "session['cart'][1]"),
        (lambda value: {"a": [(), (2, value)]}, "session['cart']['a'][1][1]"),
        (lambda value: {(1,): {None: value}}, "session['cart'][(1,)][None]"),
    ],
    ids=["alone", "list", "tuple", "dict"],
)
def test_a_refusal_says_where(
    value: Any, wrap: Callable[[Any], Any], path: str
) -> None:
    """What cannot be kept is refused with the session key, the place under it and
    the type, in attributes and in words.
    """
    data = {"fine": [1, 2], "cart": wrap(value), "later": object()}
    with pytest.raises(SessionValueError) as caught:
        dumps(data)
    error = caught.value
    assert isinstance(error, TypeError)
    assert "cart" == error.key
    assert path == error.path
    assert type(value) is error.value_type
    assert str(error).startswith(f"{path}: a value of type ")
    assert type(value).__qualname__ in str(error)
    assert "Store what it is made of" in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize("value", [*filter(hashable, REFUSED)], ids=show)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda value: {value},
        lambda value: frozenset({value}),
        lambda value: {value: 1},
        lambda value: {(1, value): 1},
        lambda value: {frozenset({value}): 1},
    ],
    ids=["set", "frozenset", "key", "tuple as key", "frozenset as key"],
)
def test_keys_and_elements_are_refused(value: Any, wrap: Callable[[Any], Any]) -> None:
    """What cannot be kept is refused as an element of a set and in a key, too."""
    with pytest.raises(SessionValueError) as caught:
        dumps({1: 1, "cart": wrap(value)})
    assert "cart" == caught.value.key
    assert caught.value.path.startswith("session['cart']")
    assert type(value) is caught.value.value_type
    assert type(value).__qualname__ in str(caught.value)


def test_a_key_of_the_session_is_refused() -> None:
    """A key that cannot be kept is named itself."""
    key = Cart(5)
    with pytest.raises(SessionValueError) as caught:
        dumps({key: 1})
    assert key is caught.value.key
    assert "session[Cart(size=5)]" == caught.value.path
    assert Cart is caught.value.value_type


def test_a_refusal_shows_no_value() -> None:
    """The message names types and keys, never a value."""

    class Secret:
        def __repr__(self) -> str:
            return "hunter2"

    with pytest.raises(SessionValueError) as caught:
        dumps({"other": "hunter2", "a": ["hunter2", Secret()], "b": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


def test_long_keys_are_shortened() -> None:
    """A refusal under a very long key has a message that can be read."""
    with pytest.raises(SessionValueError) as caught:
        dumps({"k" * 10_000: object()})
    assert 300 > len(str(caught.value))
    assert "k" * 10_000 == caught.value.key


def test_a_refused_session_leaves_nothing_behind() -> None:
    """After a refusal the same serializer goes on as if nothing had been."""
    before = dumps({"a": (1, {2})})
    with pytest.raises(SessionValueError):
        dumps({"a": (1, {2}), "b": object()})
    assert before == dumps({"a": (1, {2})})


def _cycles() -> dict[str, Any]:
    a_list: list[Any] = []
    a_list.append(a_list)
    a_dict: dict[str, Any] = {}
    a_dict["self"] = a_dict
    in_tuple: list[Any] = []
    in_tuple.append((in_tuple,))
    in_key: dict[Any, Any] = {}
    in_key[(1,)] = [in_key]
    return {"list": a_list, "dict": a_dict, "tuple": in_tuple, "key": in_key}


@pytest.mark.parametrize("name", [*_cycles()])
def test_what_contains_itself_is_refused(name: str) -> None:
    """A value that contains itself is refused, and the session that does."""
    with pytest.raises(SessionValueError, match="or contains itself") as caught:
        dumps({"ok": 1, name: _cycles()[name]})
    assert name == caught.value.key


def test_a_session_that_contains_itself_is_refused() -> None:
    """A session among its own values is refused."""
    data: dict[str, Any] = {}
    data["me"] = data
    with pytest.raises(SessionValueError, match="contains itself"):
        dumps(data)


# Depth. The session itself is the first level.

WRAPS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"k": value},
    "tuple": lambda value: (value,),
    "frozenset": lambda value: frozenset({value}),
    "dict with other keys": lambda value: {None: value, "\ud800": 1},
    "list in a tuple": lambda value: ([value], 1)[0],
}


def from_deep(frames: int, call: Callable[[], Any]) -> Any:
    """The result of a call that is so many frames down the stack."""
    return call() if frames == 0 else from_deep(frames - 1, call)


@pytest.mark.parametrize("name", WRAPS)
def test_nesting_up_to_the_limit_comes_back(name: str) -> None:
    """Values nested as deep as is allowed come back, also where a view has used much
    of Python's stack; one level more is refused.
    """
    wrap = WRAPS[name]
    deepest = {"a": nested(wrap, MAX_DEPTH - 1)}
    payload = dumps(deepest)
    # Comparing is not made for such depths, so it is done by bytes.
    assert payload == dumps(loads(payload))
    assert payload == from_deep(300, lambda: dumps(deepest))
    assert payload == dumps(from_deep(300, lambda: loads(payload)))
    with pytest.raises(
        SessionValueError, match=f"more than {MAX_DEPTH} levels deep"
    ) as caught:
        dumps({"a": nested(wrap, MAX_DEPTH)})
    assert "a" == caught.value.key


def test_nesting_in_keys_counts() -> None:
    """Tuples and frozensets in keys are nested as deep as values, and no deeper."""
    deepest = {nested(lambda value: (value,), MAX_DEPTH - 1): 1}
    assert deepest == loads(dumps(deepest))
    with pytest.raises(SessionValueError, match="deep"):
        dumps({nested(lambda value: (value,), MAX_DEPTH): 1})


def test_much_too_deep_is_refused_alike() -> None:
    """A value nested beyond Python's own limit is refused like any that is too deep."""
    with pytest.raises(SessionValueError, match="deep"):
        dumps({"a": nested(lambda value: [value], 100_000)})


# Bytes that are no session.

SAMPLE: dict[Any, Any] = {
    "list": [None, True, False, 0, -1, 2**40, 2**70, 1.5, "tea", "ü", b"\xff"],
    "dict": {"a": {"b": 1}, 2: 3},
    "map": {(1, 2): "x", None: "y"},
    "tuple": (1, ("x",)),
    "set": {1, 2},
    "frozenset": frozenset({"a"}),
    "text": "\ud800",
    "markup": Markup("<b>"),
    "uuid": UUID(int=7),
    "decimal": Decimal("1.10"),
    "datetime": datetime(2026, 11, 22, 1, 2, 3, 4, UTC),
    "date": date(2026, 11, 22),
    "time": time(1, 2, 3),
    "timedelta": timedelta(1, 2, 3),
}


def read_or_refuse(payload: bytes) -> dict[Any, Any] | None:
    """What stands in the payload; None if it is refused as it should be."""
    try:
        data = loads(payload)
    except UnreadableSessionError:
        return None
    assert type(data) is dict
    return data


def test_every_truncation_is_refused() -> None:
    """A payload that was cut off anywhere is refused."""
    payload = dumps(SAMPLE)
    read = [read_or_refuse(payload[:length]) for length in range(len(payload))]
    assert [None] * len(payload) == read


def test_every_flipped_byte_is_read_or_refused() -> None:
    """A payload with any one byte changed gives a dictionary or is refused."""
    payload = dumps(SAMPLE)
    refused = 0
    for position, byte in enumerate(payload):
        for other in {byte ^ 1 << bit for bit in range(8)} | {0, 0x91, 0xC7, 0xFF}:
            changed = bytearray(payload)
            changed[position] = other
            refused += read_or_refuse(bytes(changed)) is None
    assert refused > 1_000


def test_bytes_after_the_end_are_refused() -> None:
    """A payload with something after its end is refused."""
    for tail in (b"\0", b"\xc0", dumps(SAMPLE)):
        with pytest.raises(UnreadableSessionError):
            loads(dumps(SAMPLE) + tail)


class Canary:
    sang = False

    @classmethod
    def sing(cls) -> None:
        cls.sang = True

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return Canary.sing, ()


def test_pickles_are_never_executed() -> None:
    """A pickle in the table is refused, and not executed."""
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        blob = pickle.dumps({"a": Canary()}, protocol)
        for payload in (blob, b"\x01" + blob, b"\x01" + msgpack(Ext(1, blob))):
            with pytest.raises(UnreadableSessionError):
                loads(payload)
        with pytest.raises(UnreadableSessionError):
            loads(b"\x01" + msgpack({"a": blob}))
        hidden = {"a": blob, "b": blob.decode("latin-1")}
        assert hidden == loads(dumps(hidden))
    assert not Canary.sang
    pickle.loads(pickle.dumps(Canary()))
    assert Canary.sang


FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "format alone": b"\x01",
    "format 0": b"\x00\x80",
    "format 2": b"\x02" + dumps({"a": 1})[1:],
    "format 255": b"\xff\x80",
    "JSON": json.dumps({"a": 1}).encode(),
    "Flask's JSON": TaggedJSONSerializer().dumps({"a": (1,)}).encode(),
    "JSON after the format": b"\x01" + json.dumps({"a": 1}).encode(),
    "MessagePack without format": msgpack({"a": 1}),
    "text": "session".encode("utf-16"),
    "list": b"\x01" + msgpack([1]),
    "None": b"\x01\xc0",
    "number": b"\x01\x07",
    "text at the top": b"\x01" + msgpack("a"),
    "pairs at the top": b"\x01" + msgpack([["a", 1]]),
    "reserved byte": b"\x01\xc1",
    "timestamp": b"\x01" + msgpack(datetime.now(UTC)),
    **{f"extension {code}": b"\x01" + msgpack({"a": Ext(code, b"\x90")})
       for code in (-128, -2, -1, 0, 14, 127)},
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_bytes_are_refused(name: str) -> None:
    """What another program or another version wrote is refused."""
    with pytest.raises(UnreadableSessionError, match="The stored session"):
        loads(FOREIGN[name])


@pytest.mark.parametrize(
    ("code", "inner"),
    [
        (1, msgpack(1)),  # a tuple of nothing that has elements
        (1, msgpack({"a": 1})),
        (1, b""),
        (2, msgpack([[1]])),  # a set with a list in it
        (2, msgpack("ab")),
        (3, msgpack([{}])),
        (5, b"\xff\xfe"),
        (6, b"\xff"),
        (7, b"short"),
        (7, b"x" * 17),
        (8, b"twelve"),
        (8, "１".encode()),  # noqa: RUF001 - a digit, but none that we write
        (9, b"2026-13-01T00:00:00"),
        (9, b"\xff"),
        (10, b"tomorrow"),
        (11, b"25:00"),
        (12, msgpack([10**9, 0, 0])),
        (12, msgpack(["x"])),
        (12, msgpack([1] * 8)),
        (12, msgpack([None])),
        (13, msgpack([1])),  # a key without a value
        (13, msgpack([[], 1])),  # a list as key
        (13, msgpack({"a": 1})),
    ],
    ids=str,
)
def test_damaged_values_are_refused(code: int, inner: bytes) -> None:
    """A value whose bytes are not those of its type is refused, as value and as key."""
    damaged = Ext(code, inner)
    for data in (
        {"a": damaged},
        {"a": msgpack(damaged)},
        {"a": msgpack([damaged])},
        Ext(13, msgpack([damaged, 1])),
    ):
        with pytest.raises(UnreadableSessionError, match="damaged"):
            loads(b"\x01" + msgpack(data))


def _ext_bomb(levels: int) -> bytes:
    payload = b"\xc0"
    for _ in range(levels):
        array = b"\x91" + payload
        payload = b"\xc9" + len(array).to_bytes(4, "big") + b"\x01" + array
    return payload


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x91" * 10_000_000,
        b"\x81" * 10_000_000,
        b"\x81\xa1a" * 3_000_000,
        b"\x81\xa1a" + b"\xdc\x00\x01" * 3_000_000,
        b"\x81\xa1a" + _ext_bomb(5_000),
        b"\x81\xa1a\xdd\xff\xff\xff\xff",  # four thousand million elements
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1a\xdb\xff\xff\xff\xffx",
        b"\x81\xa1a\xc6\xff\xff\xff\xffx",
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01x",
        b"\x81\xa1a" + msgpack(Ext(1, b"\xdd\xff\xff\xff\xff")),
        b"\x81\xa1a" + msgpack(Ext(12, msgpack(["9" * 100_000]))),
    ],
    ids=lambda bomb: f"{bomb[:8].hex()} {len(bomb)}",
)
def test_bombs_are_refused(bomb: bytes) -> None:
    """Nesting without end and lengths that are lies are refused at once: no crash,
    and no memory for what is not there.
    """
    assert read_or_refuse(b"\x01" + bomb) is None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused(payload: bytes) -> None:
    """Any bytes give a dictionary or are refused, with and without the format."""
    read_or_refuse(payload)
    read_or_refuse(b"\x01" + payload)
    read_or_refuse(b"\x01\x81\xa1a" + payload)
    read_or_refuse(b"\x01" + msgpack({"a": payload}))


@settings(deadline=None)
@given(st.integers(-128, 127), st.one_of(st.binary(), values))
def test_random_extensions_are_read_or_refused(code: int, inner: Any) -> None:
    """Any bytes in any extension give a dictionary or are refused."""
    data = inner if isinstance(inner, bytes) else MsgpackSerializer().encode(inner)
    read_or_refuse(b"\x01" + msgpack({"a": Ext(code, data)}))
    read_or_refuse(b"\x01" + msgpack({"a": msgpack(Ext(code, data))}))


@settings(deadline=None)
@given(sessions, st.data())
def test_random_damage_is_read_or_refused(data: dict[Any, Any], draw: Any) -> None:
    """A session with a part cut out or replaced gives a dictionary or is refused."""
    payload = dumps(data)
    start = draw.draw(st.integers(0, len(payload)))
    end = draw.draw(st.integers(start, len(payload)))
    middle = draw.draw(st.binary(max_size=4))
    assume(payload[start:end] != middle)
    read_or_refuse(payload[:start] + middle + payload[end:])


def test_what_was_read_can_be_stored_or_is_refused() -> None:
    """Whatever was read from damaged bytes can be stored again, or is refused with
    the error for that.
    """
    payload = dumps(SAMPLE)
    for position in range(1, len(payload)):
        changed = bytearray(payload)
        changed[position] ^= 0x04
        data = read_or_refuse(bytes(changed))
        if data is not None:
            assert shape(data) == shape(loads(dumps(data)))


def test_an_unreadable_session_shows_no_data() -> None:
    """The error for damaged bytes says nothing of what stands in them."""
    with pytest.raises(UnreadableSessionError) as caught:
        loads(dumps({"password": "hunter2"})[:-1])
    assert "hunter" not in str(caught.value)
    assert "password" not in str(caught.value)


def _imports(source: str) -> Iterable[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_package_imports_nothing_that_executes_data() -> None:
    """No module of the package imports pickle or anything like it."""
    directory = Path(flask_sessionsql.__file__).parent
    modules = sorted(directory.rglob("*.py"))
    assert {"serializers.py", "store.py"} <= {path.name for path in modules}
    for path in modules:
        names = {name.partition(".")[0] for name in _imports(path.read_text("utf-8"))}
        assert not names & {
            *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "jsonpickle"),
            *("shelve", "marshal", "copyreg", "joblib", "yaml"),
        }, path.name


# Stored data of format 1, which every later version must read.

GOLDEN = bytes.fromhex(
    "01de0012a46e6f6e65c401c0a5626f6f6c73c40392c3c2a4696e7473c4309800ff7fcc80d380"
    "00000000000000cfffffffffffffffffc70904010000000000000000c70904ff7fffffffffff"
    "ffffa6666c6f617473c42594cb0000000000000000cb8000000000000000cb3ff80000000000"
    "00cb7ff0000000000000a57465787473c41294a0a3746561a5c3bce29895c70305eda080a562"
    "79746573c404c40200ffa464696374c41884a1618001a3696e74c0a46e6f6e65c4016ba56279"
    "746573a36d6170c419c7160d94d6019201a17801c70a0a323032362d31312d323202a5747570"
    "6c65c40ad7019201c70301920290a3736574c40ad7029401a161a162a163a966726f7a656e73"
    "6574c406c70303920102a66d61726b7570c40cc709063c623ec3bc3c2f623ea475756964c412"
    "d8070b5e28caff1f4a4ea5d90a3ac3bd4bd6a8646563696d616c73c41593d608312e3130c705"
    "082d31452b33c703084e614ea96461746574696d6573c45993c71a09323032362d31312d3232"
    "5430313a30323a30332e303030303034c71909323032362d31312d32325430313a30323a3033"
    "2b30303a3030c71c09323032362d31312d32325430303a30303a30302d30333a30303a3035a4"
    "64617465c40dc70a0a323032362d31312d3232a574696d6573c42492c70f0b30313a30323a30"
    "332e303030303034c70e0b30313a30303a30302b30303a3030a974696d6564656c7461c406d6"
    "0c93ff0203"
)
GOLDEN_DATA: dict[Any, Any] = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 127, 128, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1],
    "floats": [0.0, -0.0, 1.5, math.inf],
    "texts": ["", "tea", "ü☕", "\ud800"],
    "bytes": b"\x00\xff",
    "dict": {"a": {}, 1: "int", None: "none", b"k": "bytes"},
    "map": {(1, "x"): 1, date(2026, 11, 22): 2},
    "tuple": (1, (2, [])),
    "set": {"c", "a", "b", 1},
    "frozenset": frozenset({2, 1}),
    "markup": Markup("<b>ü</b>"),
    "uuid": UUID("0b5e28ca-ff1f-4a4e-a5d9-0a3ac3bd4bd6"),
    "decimals": [Decimal("1.10"), Decimal("-1E+3"), Decimal("NaN")],
    "datetimes": [
        datetime(2026, 11, 22, 1, 2, 3, 4),
        datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC),
        datetime(2026, 11, 22, tzinfo=timezone(-timedelta(hours=3, seconds=5))),
    ],
    "date": date(2026, 11, 22),
    "times": [time(1, 2, 3, 4), time(1, tzinfo=UTC)],
    "timedelta": timedelta(-1, 2, 3),
}
#: Where a key is no text.
GOLDEN_WHOLE = bytes.fromhex(
    "01c71a0d9407af61206e756d626572206173206b6579a3746561d5019101"
)
GOLDEN_WHOLE_DATA: dict[Any, Any] = {7: "a number as key", "tea": (1,)}


def test_stored_data_is_read_for_ever() -> None:
    """Bytes that the first version stored, with each type in them, are read as they
    were, and the same data gives the same bytes.
    """
    assert shape(GOLDEN_DATA) == shape(loads(GOLDEN))
    assert GOLDEN == dumps(GOLDEN_DATA)
    assert shape(GOLDEN_WHOLE_DATA) == shape(loads(GOLDEN_WHOLE))
    assert GOLDEN_WHOLE == dumps(GOLDEN_WHOLE_DATA)


def test_every_type_is_in_the_stored_data() -> None:
    """The stored data above has each extension in it."""
    from flask_sessionsql.formats import serializers

    seen = set()
    unpackers = dict(serializers._UNPACKERS)

    def spy(code: int) -> Callable[[memoryview], Any]:
        def unpack(data: memoryview) -> Any:
            seen.add(code)
            return unpackers[code](data)

        return unpack

    with pytest.MonkeyPatch.context() as patch:
        for code in unpackers:
            patch.setitem(serializers._UNPACKERS, code, spy(code))
        loads(GOLDEN)
    assert set(unpackers) == seen
    assert set(range(1, 14)) == seen


def test_half_of_a_surrogate_pair_in_a_key() -> None:
    """Out of a JSON body; such a session is encoded and decoded as a whole."""
    data = {"\ud800": (1,), "a": 1}
    assert shape(data) == shape(loads(dumps(data)))
    encoded = MsgpackSerializer().split(dumps({"a": (1,)}))
    assert dumps({"\ud800": 1, "a": (1,)}) == dumps({"\ud800": 1, **encoded})


def test_one_value_that_cannot_be_kept() -> None:
    """It is refused, too, with its type."""
    with pytest.raises(SessionValueError, match="type object") as caught:
        MsgpackSerializer().encode(object())
    assert object is caught.value.value_type
    for key in ("a", 7):
        with pytest.raises(SessionValueError):
            dumps({key: object()})


# Keys that were chosen so that looking them up takes long.

#: What is added to a number without changing its hash.
SAME_HASH = sys.hash_info.modulus
ALIKE: dict[str, Callable[[int], Any]] = {
    "numbers": lambda n: n * SAME_HASH,
    "negative": lambda n: -7 - n * SAME_HASH,
    "Decimal": lambda n: Decimal(n * SAME_HASH),
    "tuples": lambda n: (1, n * SAME_HASH),
    "tuples in tuples": lambda n: (((n * SAME_HASH,),),),
    "frozensets": lambda n: frozenset([n * SAME_HASH]),
}
COLLECTED: dict[str, Callable[[list[Any]], Any]] = {
    "dict": lambda keys: dict.fromkeys(keys, 1),
    "set": set,
    "frozenset": frozenset,
}


@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize("collected", COLLECTED)
def test_keys_of_one_hash_are_refused(kind: str, collected: str) -> None:
    """When they are stored, with what to do; and when they are loaded, before they are
    looked up.
    """
    some = COLLECTED[collected]([ALIKE[kind](n) for n in range(100)])
    serializer = MsgpackSerializer()
    assert serializer.loads(serializer.dumps({"a": some})) == {"a": some}
    many = COLLECTED[collected]([ALIKE[kind](n) for n in range(102)])
    with pytest.raises(SessionValueError, match=r"session\['a'\].*Store them as text"):
        serializer.dumps({"a": many})
    with mock.patch.object(serializers, "_MOST_ALIKE", 1000):
        stored = serializer.dumps({"a": many})
    with pytest.raises(UnreadableSessionError, match="damaged: ValueError"):
        serializer.loads(stored)


def test_keys_of_the_session_itself_are_refused_as_well() -> None:
    many = {n * SAME_HASH: n for n in range(102)}
    with pytest.raises(SessionValueError, match="Store them as text"):
        MsgpackSerializer().dumps(many)


@pytest.mark.parametrize(
    "value",
    [
        set(range(-10_000, 10_000)),
        dict.fromkeys(range(20_000)),
        {n << 32 for n in range(20_000)},
        {float(n) for n in range(20_000)},
        {UUID(int=n) for n in range(2_000)},
        {(n, -n) for n in range(2_000)},
        {2**64 - 1 - n * SAME_HASH for n in range(12)},
    ],
    ids=lambda value: f"{len(value)} {type(min(value)).__name__}",
)
def test_many_ordinary_keys_are_kept(value: Any) -> None:
    """However many there are."""
    serializer = MsgpackSerializer()
    assert serializer.loads(serializer.dumps({"a": value})) == {"a": value}
