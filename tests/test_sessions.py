from __future__ import annotations

import collections
import copy
import math
import re
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest
from flask import Flask
from flask import session as flask_session
from flask.sessions import SessionMixin
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment
from markupsafe import Markup
from werkzeug.local import LocalProxy

from flask_sessionsql import (
    ServerSideSession,
    SessionStoreUnavailableError,
    sessions,
)
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.sessions import (
    EXPIRY_KEY,
    LABEL_KEY,
    LIFETIME_KEY,
    Encoded,
    SessionFacts,
    session,
)

from .conftest import MakeApp
from .helpers import at_once
from .pages import page

FACTS = SessionFacts(
    "f00d",
    datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC),
)
END = datetime(2030, 3, 17, 18, 46, 40, tzinfo=UTC)

#: Some data whose order is neither that of the keys nor that of the values.
DATA = {"b": 1, "a": [2, {"c": 3}], 7: None, ("t", 1): {"x"}, None: "none"}


class Stored:
    """A source whose store is a dictionary."""

    def __init__(
        self, data: Mapping[Any, Any] | None = None, *, failure: Exception | None = None
    ) -> None:
        self.stored = None if data is None else copy.deepcopy(dict(data))
        self.failure = failure
        self.reads = 0

    def read(self) -> dict[Any, Any]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return copy.deepcopy(self.stored or {})

    def decode(self, encoded: Encoded) -> Any:
        raise AssertionError("nothing here is encoded")

    def differs(self, data: Mapping[Any, Any]) -> bool:
        before = self.stored or {}
        # As of bytes: the order counts.
        return list(data.items()) != list(before.items())

    def facts(self) -> SessionFacts | None:
        return None if self.stored is None else FACTS

    def ends_at(self, session: ServerSideSession) -> datetime:
        return END


def session_of(
    data: Mapping[Any, Any] | None = None, *, permanent: bool = True
) -> ServerSideSession:
    return ServerSideSession(Stored(data), permanent=permanent)


def reads_of(session: ServerSideSession) -> int:
    assert isinstance(session._source, Stored)
    return session._source.reads


class HasKeys:
    """Something that update() takes, though it is no mapping."""

    def keys(self) -> list[str]:
        return ["k", "b"]

    def __getitem__(self, key: str) -> str:
        return key * 2


class Boom:
    """A key that is hashable and equal to nothing else."""


def ior(target: Any, other: Any) -> Any:
    before = target
    target |= other
    assert target is before, "the name is bound to another object"
    return None


def delete(target: Any, key: Any) -> None:
    del target[key]


def put(target: Any, key: Any, value: Any) -> None:
    target[key] = value


def grows_while_iterated(target: Any, of: Callable[[Any], Iterator[Any]]) -> Any:
    iterator = of(target)
    target["grown"] = 1
    return next(iterator)


Operation = Callable[[Any], Any]

#: What only looks.
READING: dict[str, Operation] = {
    "getitem": lambda d: d["a"],
    "getitem of None": lambda d: d[None],
    "getitem of a tuple": lambda d: d["t", 1],
    "getitem of a missing key": lambda d: d["missing"],
    "getitem of an unhashable key": lambda d: d[[]],
    "get": lambda d: d.get("a"),
    "get missing": lambda d: d.get("missing"),
    "get default": lambda d: d.get("missing", 5),
    "get an unhashable key": lambda d: d.get([]),
    "contains": lambda d: "a" in d,
    "contains not": lambda d: "missing" in d,
    "contains None": lambda d: None in d,
    "contains unhashable": lambda d: [] in d,
    "len": len,
    "bool": bool,
    "iter": lambda d: list(iter(d)),
    "reversed": lambda d: list(reversed(d)),
    "list": list,
    "tuple": tuple,
    "set": set,
    "dict": dict,
    "sorted": lambda d: sorted(d, key=str),
    "splat": lambda d: {**d},
    "call": lambda d: dict(**{k: v for k, v in d.items() if isinstance(k, str)}),
    "unpack": lambda d: [*d],
    "eq itself": lambda d: d == d,
    "eq": lambda d: d == DATA,
    "eq reflected": lambda d: DATA == d,
    "eq other": lambda d: d == {"a": 1},
    "eq OrderedDict": lambda d: d == collections.OrderedDict(DATA),
    "eq mapping proxy": lambda d: d == types.MappingProxyType(DATA),
    "eq no mapping": lambda d: d == [1],
    "eq None": lambda d: d == None,  # noqa: E711 - the operator
    "ne": lambda d: d != DATA,
    "ne reflected": lambda d: DATA != d,
    "ne other": lambda d: d != {"a": 1},
    "ne no mapping": lambda d: d != 3,
    "lt": lambda d: d < {},
    "hash": hash,
    "or": lambda d: d | {"a": 0, "z": 1},
    "or empty": lambda d: d | {},
    "or OrderedDict": lambda d: dict(d | collections.OrderedDict(z=1)),
    "or no mapping": lambda d: d | [("z", 1)],
    "or None": lambda d: d | None,
    "ror": lambda d: {"a": 0, "z": 1} | d,
    "ror no mapping": lambda d: [("z", 1)] | d,
    "and": lambda d: d & {},
    "add": lambda d: d + {},
    "copy": lambda d: d.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "deepcopy in a list": lambda d: copy.deepcopy([d, d]),
    "fromkeys": lambda d: d.fromkeys("ab", 5),
    "fromkeys without value": lambda d: d.fromkeys([1, 2]),
    "fromkeys of what is no iterable": lambda d: d.fromkeys(5),
    "keys": lambda d: list(d.keys()),
    "values": lambda d: list(d.values()),
    "items": lambda d: list(d.items()),
    "reversed keys": lambda d: list(reversed(d.keys())),
    "reversed values": lambda d: list(reversed(d.values())),
    "reversed items": lambda d: list(reversed(d.items())),
    "len keys": lambda d: (len(d.keys()), len(d.values()), len(d.items())),
    "keys mapping": lambda d: dict(d.keys().mapping),
    "keys and": lambda d: d.keys() & {"a", "z"},
    "keys or": lambda d: d.keys() | {"z"},
    "keys minus": lambda d: d.keys() - {"a"},
    "keys xor": lambda d: d.keys() ^ {"a", "z"},
    "keys rand": lambda d: {"a", "z"} & d.keys(),
    "keys le": lambda d: d.keys() <= set(DATA),
    "keys gt": lambda d: d.keys() > {"a"},
    "keys eq": lambda d: d.keys() == set(DATA),
    "keys contains": lambda d: ("a" in d.keys(), "z" in d.keys()),  # noqa: SIM118
    "keys isdisjoint": lambda d: d.keys().isdisjoint({"a"}),
    "values contains": lambda d: (1 in d.values(), 9 in d.values()),
    "items contains": lambda d: (("b", 1) in d.items(), ("b", 2) in d.items()),
    "items eq": lambda d: d.items() == DATA.items(),
    "items and": lambda d: d.items() & {("b", 1)},
    "items isdisjoint": lambda d: d.items().isdisjoint({("b", 1)}),
    "keys of a stranger": lambda d: Boom() in d,
    "str.format_map": lambda d: "{b}".format_map(d),
    "percent": lambda d: "%(b)s" % d,  # noqa: UP031 - the operator
    "mapping pattern": lambda d: matched(d),
    "isinstance Mapping": lambda d: isinstance(d, Mapping),
}

#: What changes it.
WRITING: dict[str, Operation] = {
    "setitem": lambda d: put(d, "z", 1),
    "setitem again": lambda d: put(d, "b", 9),
    "setitem unhashable": lambda d: put(d, [], 1),
    "setitem of a stranger": lambda d: put(d, 1.5, Boom),
    "delitem": lambda d: delete(d, "b"),
    "delitem of a missing key": lambda d: delete(d, "missing"),
    "delitem of an unhashable key": lambda d: delete(d, {}),
    "pop": lambda d: d.pop("b"),
    "pop None": lambda d: d.pop(None),
    "pop missing": lambda d: d.pop("missing"),
    "pop default": lambda d: d.pop("missing", 5),
    "pop default None": lambda d: d.pop("missing", None),
    "pop default unused": lambda d: d.pop("b", 5),
    # CPython does not look at the key while the dict is empty.
    "pop unhashable": lambda d: d.setdefault(0) or d.pop([], 5),
    "pop without a key": lambda d: d.pop(),
    "popitem": lambda d: d.popitem(),
    "popitem all": lambda d: [d.popitem() for _ in DATA],
    "popitem too many": lambda d: [d.popitem() for _ in range(len(DATA) + 1)],
    "popitem with an argument": lambda d: d.popitem("a"),
    "setdefault": lambda d: d.setdefault("z", []).append(1),
    "setdefault there": lambda d: d.setdefault("b", 9),
    "setdefault there and None": lambda d: d.setdefault(7, 9),
    "setdefault None": lambda d: d.setdefault("z"),
    "setdefault unhashable": lambda d: d.setdefault([], 1),
    "update": lambda d: d.update({"b": 2, "z": 3}),
    "update nothing": lambda d: d.update(),
    "update keywords": lambda d: d.update(b=2, z=3),
    "update keyword self": lambda d: d.update(self=1, other=2, key=3),
    "update both": lambda d: d.update({"b": 2, "z": 3}, z=4),
    "update pairs": lambda d: d.update([("b", 2), ["z", 3]]),
    "update generator": lambda d: d.update((k, 1) for k in "bz"),
    "update texts": lambda d: d.update(["bx", "zy"]),
    "update keys method": lambda d: d.update(HasKeys()),
    "update itself": lambda d: d.update(d),
    "update too long a pair": lambda d: d.update([("z", 1), ("b", 2, 3)]),
    "update no pair": lambda d: d.update([5]),
    "update number": lambda d: d.update(5),
    "update None": lambda d: d.update(None),
    "update two": lambda d: d.update({}, {}),
    "update unhashable": lambda d: d.update([([], 1)]),
    "ior": lambda d: ior(d, {"b": 2, "z": 3}),
    "ior pairs": lambda d: ior(d, [("b", 2), ("z", 3)]),
    "ior itself": lambda d: ior(d, d),
    "ior number": lambda d: ior(d, 5),
    "ior None": lambda d: ior(d, None),
    "clear": lambda d: d.clear(),
    "clear and write": lambda d: (d.clear(), d.update(new=1)),
    "nested": lambda d: d["a"][1].update(c=4),
    "reinsert": lambda d: put(d, "b", d.pop("b")),
    "view sees writes": lambda d: seen_through_views(d),
    "grows while iterated": lambda d: grows_while_iterated(d, iter),
    "grows while reversed": lambda d: grows_while_iterated(d, reversed),
    "grows while items are iterated": lambda d: grows_while_iterated(
        d, lambda d: iter(d.items())
    ),
    "the copy is shallow": lambda d: d.copy()["a"].append("shared"),
    "the deep copy is deep": lambda d: copy.deepcopy(d)["a"].append("own"),
    "the copy is another": lambda d: d.copy().clear(),
    "the union is another": lambda d: (d | {}).clear(),
}


def matched(target: Any) -> Any:
    match target:
        case {"b": found, **rest}:
            return found, rest
    return None


def seen_through_views(target: Any) -> Any:
    keys, values, items = target.keys(), target.values(), target.items()
    target["z"] = 26
    del target["b"]
    return list(keys), list(values), list(items)


def outcome(operation: Operation, target: Any) -> Any:
    """The result, with its type, or the kind of the error."""
    try:
        result = operation(target)
    except (TypeError, ValueError, LookupError, RuntimeError) as error:
        # The same words as well, where they name the key.
        return type(error), error.args if isinstance(error, KeyError) else ()
    return type(result), result


@pytest.mark.parametrize("name", [*READING, *WRITING])
@pytest.mark.parametrize("data", [DATA, {}], ids=["full", "empty"])
def test_it_does_what_a_dict_does(name: str, data: dict[Any, Any]) -> None:
    """Each method and operator has the result, the error and the effect it has on
    a dict.
    """
    operation = READING.get(name) or WRITING[name]
    model, session = copy.deepcopy(data), session_of(data)
    expected = outcome(operation, model)
    got = outcome(operation, session)
    assert expected == got
    assert list(model.items()) == list(session.items())


@pytest.mark.parametrize("name", READING)
def test_looking_changes_nothing(name: str) -> None:
    """What only looks leaves the session unmodified, and no copy of it is tied to
    it.
    """
    session = session_of(DATA)
    outcome(READING[name], session)
    assert not session.modified
    assert session == DATA


def test_no_method_of_dict_was_forgotten() -> None:
    """A session has every method and operator that a dict has."""
    missing = set(dir(dict)) - set(dir(ServerSideSession))
    assert {"__getstate__"} >= missing


def test_copies_are_plain_dicts() -> None:
    """copy(), copy.copy(), deepcopy, | give plain dicts, which are not
    tied to the session.
    """
    session = session_of(DATA)
    copies = [
        session.copy(),
        copy.copy(session),
        copy.deepcopy(session),
        session | {},
        {} | session,
    ]
    for each in copies:
        assert type(each) is dict
        assert each == DATA
        each.clear()
    assert session == DATA


def test_deepcopy_keeps_what_is_shared() -> None:
    """copy.deepcopy copies an object that stands twice once, as it does in a dict."""
    session = session_of()
    session["one"] = session["two"] = []
    twin = copy.deepcopy(session)
    assert twin["one"] is twin["two"]
    assert twin["one"] is not session["one"]


def test_sessions_compare_by_their_data() -> None:
    """Two sessions are equal if their data are, also behind a proxy."""
    one, same, other = session_of(DATA), session_of(DATA), session_of({"a": 1})
    assert one == same
    assert one != other
    proxy = LocalProxy(lambda: same)
    assert one == proxy
    assert proxy == one


def test_union_of_two_sessions() -> None:
    """| takes another session, and the right one wins."""
    one, other = session_of({"a": 1, "b": 1}), session_of({"b": 2})
    assert {"a": 1, "b": 2} == one | other
    assert ["a", "b"] == list(one | other)
    one |= other
    assert {"a": 1, "b": 2} == dict(one)


def test_popitem_takes_the_last() -> None:
    """popitem() is last in, first out."""
    session = session_of({"a": 1, "b": 2})
    session["c"] = 3
    session["a"] = 4
    assert [("c", 3), ("b", 2), ("a", 4)] == [session.popitem() for _ in range(3)]
    with pytest.raises(KeyError):
        session.popitem()


# A random sequence of operations.

KEYS = st.sampled_from(["a", "b", "c", "d", 1, 1.0, True, None, ("e",), b"a"])
VALUES = st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=2))
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=3)


def _step(
    name: str, *arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    return st.tuples(st.just(name), st.tuples(*arguments))


STEPS: st.SearchStrategy[tuple[str, tuple[Any, ...]]] = st.one_of(
    _step("__setitem__", KEYS, VALUES),
    _step("__delitem__", KEYS),
    _step("__getitem__", KEYS),
    _step("__contains__", KEYS),
    _step("__len__"),
    _step("get", KEYS),
    _step("get", KEYS, VALUES),
    _step("pop", KEYS),
    _step("pop", KEYS, VALUES),
    _step("popitem"),
    _step("setdefault", KEYS),
    _step("setdefault", KEYS, VALUES),
    _step("update", PAIRS),
    _step("update", PAIRS.map(dict)),
    _step("__or__", PAIRS.map(dict)),
    _step("__ror__", PAIRS.map(dict)),
    _step("copy"),
    _step("clear"),
    _step("append", KEYS, st.integers(0, 3)),
)


def _take(target: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    arguments = copy.deepcopy(arguments)
    if name == "append":  # a change inside a value
        value = target.get(arguments[0])
        return value.append(arguments[1]) if isinstance(value, list) else None
    return getattr(target, name)(*arguments)


@settings(deadline=None)
@given(start=PAIRS.map(dict), steps=st.lists(STEPS, max_size=20))
def test_any_sequence_of_operations(
    start: dict[Any, Any], steps: list[tuple[str, tuple[Any, ...]]]
) -> None:
    """After any sequence of operations a session holds what a dict would, in the
    same order, and is modified if and only if that differs from what was stored.
    """
    model, session = copy.deepcopy(start), session_of(start)
    for name, arguments in steps:

        def step(target: Any, name: str = name, arguments: Any = arguments) -> Any:
            return _take(target, name, arguments)

        expected, got = outcome(step, model), outcome(step, session)
        assert expected == got
        assert list(model.items()) == list(session.items())
        assert [*map(type, model)] == [*map(type, session)]
        assert session.modified == (list(model.items()) != list(start.items()))
    assert reads_of(session) <= 1


# Laziness.

TOUCHES: dict[str, Operation] = {
    "getitem": lambda s: s.get("a") or s["b"],
    "setitem": lambda s: put(s, "a", 1),
    "delitem": lambda s: delete(s, "b"),
    "contains": lambda s: "a" in s,
    "iter": iter,
    "reversed": reversed,
    "len": len,
    "bool": bool,
    "eq": lambda s: s == {},
    "eq session": lambda s: s == session_of(),
    "ne": lambda s: s != {},
    "or": lambda s: s | {},
    "ror": lambda s: {} | s,
    "get": lambda s: s.get("a"),
    "keys": lambda s: s.keys(),
    "values": lambda s: s.values(),
    "items": lambda s: s.items(),
    "pop": lambda s: s.pop("a", None),
    "popitem": lambda s: s.popitem(),
    "setdefault": lambda s: s.setdefault("a", 1),
    "update": lambda s: s.update(a=1),
    "ior": lambda s: ior(s, {"a": 1}),
    "clear": lambda s: s.clear(),
    "copy": lambda s: s.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "new": lambda s: s.new,
    "permanent": lambda s: s.permanent,
    "set permanent": lambda s: setattr(s, "permanent", False),
    "set the key of permanent": lambda s: put(s, "_permanent", False),
    "stored form": lambda s: s._stored_form(),
    "handle": lambda s: s.handle,
    "created_at": lambda s: s.created_at,
    "expires_at": lambda s: s.expires_at,
    "set_expiry": lambda s: s.set_expiry(None),
    "set_lifetime": lambda s: s.set_lifetime(None),
    "label": lambda s: s.label,
    "set label": lambda s: setattr(s, "label", None),
    "regenerate": lambda s: s.regenerate(),
}

NO_TOUCHES: dict[str, Operation] = {
    "make": lambda s: None,
    "repr": repr,
    "str": str,
    "loaded": lambda s: s._loaded,
    "modified": lambda s: s.modified,
    "set modified": lambda s: setattr(s, "modified", True),
    "accessed": lambda s: s.accessed,
    "counts as use": lambda s: s.counts_as_use,
    "set counts as use": lambda s: setattr(s, "counts_as_use", False),
    "set accessed": lambda s: setattr(s, "accessed", True),
    "cleared": lambda s: s._cleared,
    "regenerated": lambda s: s._regenerated,
    "permanent changed": lambda s: s._permanent_changed,
    "can differ": lambda s: s._can_differ,
    "failure": lambda s: s._failure,
    "isinstance": lambda s: isinstance(s, (SessionMixin, Mapping)),
    "is": lambda s: s is None,
    "fromkeys": lambda s: s.fromkeys("a"),
    "update nothing": lambda s: s.update(),
    "or no mapping": lambda s: s.__or__(1),
}


@pytest.mark.parametrize("name", TOUCHES)
def test_the_first_touch_reads(name: str) -> None:
    """Every single way to look at a session or to change it reads it, once; nothing
    after that reads it again.
    """
    session = session_of({"b": 1})
    assert not session._loaded
    TOUCHES[name](session)
    assert session._loaded
    assert 1 == reads_of(session)
    for touch in (*READING.values(), *WRITING.values()):
        outcome(touch, session)
    assert 1 == reads_of(session)


@pytest.mark.parametrize("name", NO_TOUCHES)
def test_what_is_no_touch_reads_nothing(name: str) -> None:
    """Printing a session, and asking for its state, reads nothing."""
    session = session_of({"b": 1})
    NO_TOUCHES[name](session)
    assert not session._loaded
    assert 0 == reads_of(session)


def test_every_method_was_tried_alone() -> None:
    """No method of a session is missing from the tables above."""
    tried = {*TOUCHES, *NO_TOUCHES}
    public = {name for name in vars(ServerSideSession) if not name.startswith("_")}
    assert {name.replace("_", " ") for name in public} <= {
        name.replace("_", " ") for name in tried
    }


def test_the_names_that_a_template_finds_are_documented() -> None:
    """All other keys of the application's are found by ``session.name`` in Jinja."""
    listed = re.findall(r"^   - ``(\w+)``$", page("explanations/values"), re.M)
    found = session_of({"a": 1})
    assert sorted(name for name in dir(found) if name[0] != "_") == listed
    keys = ["source", "loaded", "cleared", "failure", "regenerated", "settle", "record"]
    keys += [name[1:] for name in dir(found) if re.match("_[a-z]", name)]
    found.update({key: f"the key {key}" for key in keys if key not in listed})
    for key in keys:
        if key not in listed:
            shown = Environment().from_string("{{ session.%s }}" % key)  # noqa: UP031
            assert f"the key {key}" == shown.render(session=found)


# Threads.


class Slow(Stored):
    """A source that takes its time, and is asked by nobody else meanwhile."""

    def read(self) -> dict[Any, Any]:
        time.sleep(0.2)
        return super().read()


def four_at_once(use: Callable[[int], object]) -> list[Any]:
    """What four threads get that begin at the same moment."""
    barrier = threading.Barrier(4)

    def job(number: int) -> object:
        barrier.wait(30)
        return use(number)

    return at_once([partial(job, number) for number in range(4)])


@pytest.mark.parametrize("name", TOUCHES)
def test_threads_wait_for_the_one_that_reads(name: str) -> None:
    """None of them meets an empty session, whatever it does first."""
    session = ServerSideSession(Slow({"a": 1, "b": 2}))

    def use(number: int) -> bool:
        with suppress(KeyError):  # of what another one has taken out
            TOUCHES[name](session)
        return "b" in session._mapping() or name in {"delitem", "clear", "popitem"}

    assert [True] * 4 == four_at_once(use)
    assert 1 == reads_of(session)


def test_threads_share_what_they_change() -> None:
    """They write in the same dictionary, and append to the same list."""
    session = ServerSideSession(Slow({"a": 1}))

    def use(number: int) -> None:
        session[str(number)] = number
        session.setdefault("list", []).append(number)

    four_at_once(use)
    form = session._stored_form()
    assert [0, 1, 2, 3] == sorted(form.pop("list"))
    assert {"a": 1, "0": 0, "1": 1, "2": 2, "3": 3} == form


@pytest.mark.parametrize(
    "get",
    [lambda s: s["basket"], lambda s: dict(s.items())["basket"]],
    ids=["item", "items"],
)
def test_threads_decode_a_value_once(get: Operation) -> None:
    """What one of them appends to it, the others have."""

    class SlowSplit(Split):
        def decode(self, encoded: Encoded) -> Any:
            time.sleep(0.05)
            return super().decode(encoded)

    session = ServerSideSession(SlowSplit({"basket": []}))
    four_at_once(lambda number: get(session).append(number))
    assert [0, 1, 2, 3] == sorted(session["basket"])


def test_threads_meet_one_damaged_value() -> None:
    """It is told of once; to all of them the session is an empty one."""

    class Damaged(Split):
        def decode(self, encoded: Encoded) -> Any:
            time.sleep(0.1)
            self.decoded.append(encoded)
            raise LookupError

    source = Damaged({"basket": []})
    session = ServerSideSession(source)
    assert [None] * 4 == four_at_once(lambda number: session.get("basket"))
    assert 1 == len(source.decoded)


def test_a_value_that_is_set_while_it_is_decoded_stays() -> None:
    """The thread that decodes does not put the old value back."""

    class SlowSplit(Split):
        def decode(self, encoded: Encoded) -> Any:
            decodes.set()
            time.sleep(0.1)
            return super().decode(encoded)

    def change() -> None:
        assert decodes.wait(30)
        session["basket"] = ["new"]

    decodes = threading.Event()
    session = ServerSideSession(SlowSplit({"basket": ["old"]}))
    at_once([lambda: session["basket"], change])
    assert ["new"] == session["basket"]


def test_threads_meet_one_failure() -> None:
    """None of them takes it for an empty session."""
    failure = SessionStoreUnavailableError("The database is away.")

    class Failing(Slow):
        def read(self) -> dict[Any, Any]:
            super().read()
            raise failure

    session = ServerSideSession(Failing())
    found = four_at_once(lambda number: session.get("a"))
    assert [failure] * 4 == found
    # From then on it is an empty one, so that a page can be made.
    assert session.get("a") is None


@pytest.mark.parametrize(
    "use",
    [lambda s: s.get("a"), lambda s: put(s, "a", 2), lambda s: s.setdefault("b", 3)],
    ids=["read", "write", "setdefault"],
)
def test_no_thread_waits_for_ever(
    use: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one that reads waits for a lock that the other one has."""
    monkeypatch.setattr(sessions, "_PATIENCE", 0.05)
    begins, has_given_up = threading.Event(), threading.Event()

    class Stuck(Stored):
        def read(self) -> dict[Any, Any]:
            begins.set()
            assert has_given_up.wait(30)
            return super().read()

    def other() -> object:
        assert begins.wait(30)
        try:
            return use(session)
        finally:
            has_given_up.set()

    session = ServerSideSession(Stuck({"a": 1}))
    found = at_once([lambda: session["a"], other])
    assert 1 == found[0]
    assert isinstance(found[1], TimeoutError)
    assert {"a": 1} == session._stored_form()


# State.


def test_modified_says_whether_something_differs() -> None:
    """modified is true while the session differs from what is stored, and false
    again when the change is taken back.
    """
    session = session_of({"n": 1, "cart": ["tea"]})
    assert not session.modified
    session["n"] = 1
    assert not session.modified
    session["n"] = 2
    assert session.modified
    session["n"] = 1
    assert not session.modified
    session["cart"].append("milk")
    assert session.modified
    session["cart"].pop()
    assert not session.modified


def test_setting_modified_does_nothing() -> None:
    """modified can be set, as Flask's documentation tells, and nothing comes of it."""
    session = session_of({"a": 1})
    session.modified = True
    assert not session.modified
    session["a"] = 2
    session.modified = False
    assert session.modified


def test_new_says_whether_it_is_stored() -> None:
    """new is true until the session is stored, whatever stands in it, and cannot be
    set.
    """
    assert session_of().new
    assert not session_of({}).new
    session = session_of()
    session["a"] = 1
    assert session.new
    with pytest.raises(AttributeError, match=r"session\.new cannot be set"):
        session.new = False
    assert session.new


@pytest.mark.parametrize("default", [True, False])
def test_permanent_is_the_default_unless_set(default: bool) -> None:
    """permanent is SESSION_PERMANENT until the application sets it."""
    session = session_of(permanent=default)
    assert default is session.permanent
    assert not session._permanent_changed
    session.permanent = not default
    assert session.permanent is not default
    assert session._permanent_changed


@pytest.mark.parametrize("default", [True, False])
def test_setting_the_usual_permanent_stores_nothing(default: bool) -> None:
    """An application that sets permanent to what it is in every request modifies no
    session by it.
    """
    session = session_of({"a": 1}, permanent=default)
    session.permanent = default
    assert {"a": 1} == session._stored_form()
    assert not session._permanent_changed
    assert not session.modified


def test_permanent_is_stored_where_it_is_unusual() -> None:
    """permanent set to other than the default is stored with the session, and is
    not changed when it is read back.
    """
    session = session_of({"a": 1})
    session.permanent = False
    assert {"a": 1, "_permanent": False} == session._stored_form()
    assert session.modified
    again = session_of(session._stored_form())
    assert again.permanent is False
    assert not again._permanent_changed
    assert not again.modified
    again.permanent = True
    assert again._permanent_changed
    assert {"a": 1} == again._stored_form()


@pytest.mark.parametrize(
    ("given", "expected"), [(0, False), ("", False), (None, False)]
)
def test_permanent_is_a_bool(given: Any, expected: bool) -> None:
    """permanent is a bool, whatever it is set to."""
    session = session_of()
    session.permanent = given
    assert session.permanent is expected
    assert {"_permanent": expected} == session._stored_form()
    session.permanent = "yes"  # type: ignore[assignment]
    assert session.permanent is True


@pytest.mark.parametrize(
    "write",
    [
        lambda s: put(s, "_permanent", False),
        lambda s: s.update({"_permanent": False}),
        lambda s: s.update([("_permanent", False)]),
        lambda s: s.update(_permanent=False),
        lambda s: ior(s, {"_permanent": False}),
        lambda s: s.setdefault("_permanent", False),
        lambda s: setattr(s, "permanent", False),
    ],
)
def test_the_key_of_permanent_is_the_attribute(write: Operation) -> None:
    """Writing Flask's own key "_permanent" in any way sets permanent, and is no
    key.
    """
    session = session_of({"a": 1})
    write(session)
    assert session.permanent is False
    assert session._permanent_changed
    assert ["a"] == list(session)
    assert "_permanent" not in session
    assert session.get("_permanent") is None
    assert session.pop("_permanent", "absent") == "absent"
    assert {"a": 1} == session.copy() == dict(session)
    assert 1 == len(session)


def test_the_stored_key_of_permanent_is_no_key() -> None:
    """ "_permanent" in what was read never shows among the keys."""
    session = session_of({"_permanent": False, "a": 1})
    assert ["a"] == list(session)
    assert [("a", 1)] == list(session.items())
    assert session == {"a": 1}
    assert session.permanent is False
    assert not session._permanent_changed
    with pytest.raises(KeyError, match="_permanent"):
        session["_permanent"]
    with pytest.raises(KeyError, match="_permanent"):
        del session["_permanent"]


def test_a_session_with_nothing_but_permanent_is_empty() -> None:
    """Setting permanent does not make an empty session one with content."""
    session = session_of()
    session.permanent = False
    assert not session
    assert 0 == len(session)


def test_clear_ends_the_session() -> None:
    """clear() empties the session, resets permanent and is remembered until it is
    stored.
    """
    session = session_of({"a": 1, "_permanent": False})
    assert not session._cleared
    session.clear()
    assert session._cleared
    assert not session
    assert session.permanent is True
    assert {} == session._stored_form()
    session["b"] = 2
    assert session._cleared
    session._settle({"b": 2})
    assert not session._cleared


@pytest.mark.parametrize(
    "empty",
    [lambda s: s.pop("a"), lambda s: s.popitem(), lambda s: delete(s, "a")],
)
def test_taking_the_last_key_is_no_clear(empty: Operation) -> None:
    """Emptying a session key by key does not count as clear()."""
    session = session_of({"a": 1})
    empty(session)
    assert not session
    assert not session._cleared
    assert session.modified


def test_settle_takes_over_what_was_stored() -> None:
    """After settle() the session holds what was stored, another request's keys
    included, and nothing is left to be saved.
    """
    source = Stored({"a": 1})
    session = ServerSideSession(source)
    session["b"] = 2
    session.permanent = False
    stored = {"a": 1, "theirs": 3, "b": 2, "_permanent": False}
    source.stored = dict(stored)
    session._settle(stored)
    assert {"a": 1, "theirs": 3, "b": 2} == dict(session)
    assert session.permanent is False
    assert not session._permanent_changed
    assert not session.modified
    assert "_permanent" in stored
    session["c"] = 4
    assert "c" not in stored
    assert 1 == source.reads


def test_stored_form_is_a_copy() -> None:
    """Changing what stored_form() gave changes no session."""
    session = session_of({"a": 1})
    for permanent in (True, False):
        session.permanent = permanent
        session._stored_form().clear()
        assert session == {"a": 1}


@pytest.mark.parametrize("spell", [repr, str, "{}".format])
def test_repr_shows_no_data(spell: Callable[[object], str]) -> None:
    """The repr of a session has neither keys nor values, and reads nothing."""
    session = session_of({"password": "hunter2"})
    assert "<ServerSideSession (not loaded)>" == spell(session)
    assert 0 == reads_of(session)
    assert session["password"] == "hunter2"
    assert "<ServerSideSession (1 keys)>" == spell(session)


@pytest.mark.parametrize("name", TOUCHES)
def test_a_failure_is_raised_once(name: str) -> None:
    """The first touch gives the error with which reading failed; from then on the
    session is an empty one that remembers it, and nothing is read again.
    """
    failure = SessionStoreUnavailableError("it is down")
    source = Stored({"a": 1}, failure=failure)
    session = ServerSideSession(source)
    assert session._failure is None
    with pytest.raises(SessionStoreUnavailableError) as caught:
        TOUCHES[name](session)
    assert failure is caught.value
    assert failure is session._failure
    assert session._loaded
    assert {} == dict(session)
    assert session.permanent is True
    session["flash"] = "Sorry"
    assert session["flash"] == "Sorry"
    assert failure is session._failure
    assert 1 == source.reads


def test_an_interruption_is_no_failure() -> None:
    """An exit in the middle of reading is not kept as the session's failure: the
    next touch reads again.
    """

    class Interrupted(Stored):
        def read(self) -> dict[Any, Any]:
            data = super().read()
            if self.reads == 1:
                raise KeyboardInterrupt
            return data

    session = ServerSideSession(Interrupted({"a": 1}))
    with pytest.raises(KeyboardInterrupt):
        len(session)
    assert session._failure is None
    assert not session._loaded
    assert session == {"a": 1}


# What a session of ours has besides.


def test_what_the_row_says() -> None:
    """The handle and the times are the row's, in UTC; None where nothing is stored."""
    session = session_of({"a": 1})
    assert not session.new
    assert "f00d" == session.handle
    assert datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC) == session.created_at
    assert datetime(2030, 3, 17, 18, 46, 40, tzinfo=UTC) == session.expires_at
    session = session_of()
    found = session.new, session.handle, session.created_at, session.expires_at
    assert (True, None, None, None) == found


def test_new_cannot_be_set() -> None:
    """It says whether the session is stored; setting it is an error that says so."""
    with pytest.raises(AttributeError, match="says whether the session is not stored"):
        session_of().new = True


def test_regenerate_is_asked_for_once() -> None:
    """It is noted until the session is saved, which it asks for if it is stored."""
    session = session_of({"a": 1})
    assert not session._regenerated
    session.regenerate()
    assert session._regenerated
    assert session.modified
    session._settle({"a": 1})
    assert not session._regenerated
    assert not session.modified
    new = session_of()
    new.regenerate()
    assert not new.modified


def test_an_end_is_stored_and_not_shown() -> None:
    """It is kept with the data, for as long as the session is not cleared, and does not
    show among it.
    """
    now = datetime.now(UTC)
    session = session_of({"a": 1})
    session.set_expiry(now + timedelta(hours=1))
    assert ["a"] == list(session)
    assert session.modified
    stored = session._stored_form()
    assert math.ceil((now + timedelta(hours=1)).timestamp()) == stored.pop(EXPIRY_KEY)
    assert {"a": 1} == stored
    session.set_expiry(None)
    assert {"a": 1} == session._stored_form()
    session.set_expiry(timedelta(hours=1))
    session.clear()
    assert {} == session._stored_form()


@pytest.mark.parametrize("when", [5, 1.5, "tomorrow", date(2100, 1, 1), True, b""])
def test_an_end_of_the_wrong_type(when: Any) -> None:
    """It is an error that says what was given and what it takes."""
    with pytest.raises(TypeError, match=re.escape(repr(when))) as caught:
        session_of().set_expiry(when)
    assert "It takes a datetime with a time zone, a timedelta, or None" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("when", "why"),
    [
        (datetime(2100, 1, 1), "has no time zone"),
        (datetime(1000, 1, 1, tzinfo=UTC), "in the past"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), "in the past"),
        (timedelta(0), "in the past"),
        (timedelta(microseconds=-1), "in the past"),
        (timedelta.min, "in the past"),
    ],
    ids=["naive", "past", "first", "now", "a moment ago", "long ago"],
)
def test_an_end_that_cannot_be(when: datetime | timedelta, why: str) -> None:
    """One without a time zone, or one in the past, is an error that says so, and leaves
    the session's as it was.
    """
    session = session_of({"a": 1})
    session.set_expiry(timedelta(hours=1))
    before = session._stored_form()
    with pytest.raises(ValueError, match=why):
        session.set_expiry(when)
    assert before == session._stored_form()


@pytest.mark.parametrize(
    "when",
    [
        timedelta.max,
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    ],
    ids=["timedelta", "datetime", "elsewhere"],
)
def test_an_end_in_the_farthest_future(when: datetime | timedelta) -> None:
    """It is as good as none."""
    session = session_of({"a": 1})
    session.set_expiry(when)
    assert {"a": 1, EXPIRY_KEY: 253370764800} == session._stored_form()


def test_the_place_of_the_end_cannot_be_written() -> None:
    """The key is refused, with what to do instead."""
    with pytest.raises(ValueError, match=r"Use session\.set_expiry\(\)"):
        session_of()[EXPIRY_KEY] = 5
    with pytest.raises(ValueError, match=r"Use session\.set_lifetime\(\)"):
        session_of().update({LIFETIME_KEY: 5})
    with pytest.raises(ValueError, match=r"Use session\.label, or another key"):
        session_of().setdefault(LABEL_KEY, "Work laptop")


# A lifetime of its own.


def test_a_lifetime_is_in_whole_seconds() -> None:
    """It is rounded up, so that no lifetime is none."""
    session = session_of({"a": 1})
    session.set_lifetime(timedelta(seconds=59, microseconds=1))
    assert {"a": 1, LIFETIME_KEY: 60} == session._stored_form()
    session.set_lifetime(None)
    assert {"a": 1} == session._stored_form()


@pytest.mark.parametrize("lifetime", [5, 1.5, "1 day", True, datetime.max, b""])
def test_a_lifetime_of_the_wrong_type(lifetime: Any) -> None:
    """It is an error that says what was given and what it takes."""
    session = session_of({"a": 1})
    with pytest.raises(TypeError, match=r"given .*takes a timedelta, or None"):
        session.set_lifetime(lifetime)
    assert {"a": 1} == session._stored_form()


@pytest.mark.parametrize(
    "lifetime", [timedelta(0), timedelta(-1), timedelta.max, timedelta(days=36601)]
)
def test_a_lifetime_that_cannot_be(lifetime: timedelta) -> None:
    """As of PERMANENT_SESSION_LIFETIME: above 0, and at most a hundred years."""
    session = session_of({"a": 1})
    with pytest.raises(ValueError, match=r"above 0, at most 100 years.*clear\(\)"):
        session.set_lifetime(lifetime)
    assert {"a": 1} == session._stored_form()


# A label.


@pytest.mark.parametrize(
    "label",
    [
        "Work laptop",
        "x" * 255,
        "\N{BEETLE}" * 255,
        "K\xe4fer\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}",
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}",
        Markup("<b>"),
        " ",
    ],
)
def test_a_label_is_a_line_of_text(label: str) -> None:
    """It is stored as it is, as plain text."""
    session = session_of({"a": 1})
    session.label = label
    assert label == session.label
    assert {"a": 1, LABEL_KEY: label} == session._stored_form()
    assert str is type(session.label)


@pytest.mark.parametrize("nothing", [None, "", Markup("")])
def test_a_label_that_is_removed(nothing: str | None) -> None:
    """By ``None``, and by what a form sends where nothing was put in."""
    session = session_of({"a": 1, LABEL_KEY: "Work laptop"})
    assert "Work laptop" == session.label
    assert ["a"] == list(session)
    session.label = nothing
    assert session.label is None
    assert {"a": 1} == session._stored_form()


@pytest.mark.parametrize("label", [5, 0, b"Work laptop", ["Work laptop"], False])
def test_a_label_of_the_wrong_type(label: Any) -> None:
    """It is an error that says of which type it was and what it takes, and not what was
    given; the label stays.
    """
    session = session_of({LABEL_KEY: "old"})
    expected = f"of type {type(label).__name__}. It takes a str, or None to remove it."
    with pytest.raises(TypeError, match=re.escape(expected)) as caught:
        session.label = label
    assert "Work" not in sent_of(caught.value)
    assert "old" == session.label


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("Work" * 64, "256 characters. It takes at most 255"),
        ("Work" * 500, "2,000 characters"),
        *(
            (f"Work{each}laptop", "control characters, such as NUL")
            for each in ("\0", "\n", "\t", "\x1b", "\x85", "\x7f", "\u2028", "\u2029")
        ),
        ("Work\udc80", "surrogates"),
    ],
)
def test_a_label_that_cannot_be(label: str, told: str) -> None:
    """It is an error that says why, and not what was given, nor do the frames that it
    has passed; the label stays.
    """
    session = session_of({LABEL_KEY: "old"})
    with pytest.raises(ValueError, match=told) as caught:
        session.label = label
    assert "Work" not in sent_of(caught.value)
    assert "old" == session.label


def sent_of(error: Exception) -> str:
    """What an error reporter sends, but for the test's own frame."""
    trace, sent = error.__traceback__, [repr(error)]
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            sent.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    return " ".join(sent)


# Behind flask.session.


def test_the_typed_session_is_flask_s_session() -> None:
    """The same object, under another type."""
    assert flask_session is session


@pytest.fixture
def shop(make_app: MakeApp) -> Flask:
    return make_app("sqlite://")


def test_flask_session_is_the_session(shop: Flask) -> None:
    """Behind flask.session stands a ServerSideSession, which Flask takes for a
    session and for a mapping.
    """
    with shop.test_request_context():
        behind = flask_session._get_current_object()  # type: ignore[attr-defined]
        assert isinstance(behind, ServerSideSession)
        assert isinstance(flask_session, SessionMixin)
        assert not behind._loaded
        assert "<ServerSideSession (not loaded)>" == repr(flask_session)
        assert not flask_session
        assert behind._loaded


# The statement looks at the proxy's own type, which says that it is no mapping.
@pytest.mark.parametrize(
    "name", [name for name in (*READING, *WRITING) if name != "mapping pattern"]
)
def test_flask_session_does_what_a_dict_does(shop: Flask, name: str) -> None:
    """Every method and operator works through flask.session as on a dict."""
    operation = READING.get(name) or WRITING[name]
    model = copy.deepcopy(DATA)
    with shop.test_request_context():
        flask_session.update(copy.deepcopy(DATA))  # type: ignore[arg-type]
        expected, got = outcome(operation, model), outcome(operation, flask_session)
        assert expected == got
        assert list(model.items()) == list(flask_session.items())


def test_the_attributes_work_through_flask_session(shop: Flask) -> None:
    """new, modified, permanent and accessed can be used through flask.session."""
    with shop.test_request_context():
        assert flask_session.new
        assert not flask_session.modified
        flask_session["a"] = 1
        assert flask_session.modified
        flask_session.modified = True
        flask_session.permanent = False
        assert not flask_session.permanent
        assert flask_session.accessed


# What is decoded.


class Split:
    """A source that gives a stored session key by key, and counts what is decoded."""

    def __init__(self, data: Mapping[Any, Any]) -> None:
        self.serializer = MsgpackSerializer()
        self.payload = self.serializer.dumps(data)
        self.decoded: list[Any] = []

    def read(self) -> dict[Any, Any]:
        data = self.serializer.split(self.payload)
        hidden = data.keys() & {"_permanent"}
        return data | {key: self.serializer.decode(data[key]) for key in hidden}

    def decode(self, encoded: Encoded) -> Any:
        value = self.serializer.decode(encoded)
        self.decoded.append(value)
        return value

    def differs(self, data: Mapping[Any, Any]) -> bool:
        return self.serializer.dumps(data) != self.payload

    def facts(self) -> SessionFacts | None:
        return FACTS

    def ends_at(self, session: ServerSideSession) -> datetime:
        return END


BASKET = {"name": "ann", "basket": [["tea", 1], ["milk", 2]], "seen": 7}


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda s: s["name"], ["ann"]),
        (lambda s: s.get("seen"), [7]),
        (lambda s: s.get("nothing"), []),
        (lambda s: "basket" in s, []),
        (lambda s: len(s), []),
        (lambda s: list(s), []),
        (lambda s: list(reversed(s)), []),
        (lambda s: list(s.keys()), []),
        (lambda s: s.handle, []),
        (lambda s: s.permanent, []),
        (lambda s: s.modified, []),
        (lambda s: s._stored_form(), []),
        (lambda s: s.__setitem__("seen", 8), []),
        (lambda s: s.pop("seen"), [7]),
        (lambda s: s.clear(), []),
        (lambda s: s["basket"].append(["jam", 1]), [[["tea", 1], ["milk", 2]]]),
        (lambda s: list(s.values()), [*BASKET.values()]),
        (lambda s: list(s.items()), [*BASKET.values()]),
        (lambda s: s.copy(), [*BASKET.values()]),
        (lambda s: s == {}, [*BASKET.values()]),
        (lambda s: s | {}, [*BASKET.values()]),
        (lambda s: dict(s), [*BASKET.values()]),
        (lambda s: copy.deepcopy(s), [*BASKET.values()]),
        (lambda s: s.popitem(), [*BASKET.values()]),
    ],
    ids=range(24),
)
def test_what_is_asked_for_is_decoded(
    use: Callable[[ServerSideSession], object], expected: list[Any]
) -> None:
    """And nothing else, whatever else the session holds."""
    source = Split(BASKET)
    session = ServerSideSession(source)
    before = copy.deepcopy(expected)
    use(session)
    assert len(before) == len(source.decoded)
    for value in source.decoded:
        assert type(value) in (str, int, list)


def test_what_can_change_is_decoded_once() -> None:
    """The list that was handed out is the session's, and so is what happens to it."""
    session = ServerSideSession(Split(BASKET))
    basket = session["basket"]
    assert basket is session["basket"] is session.get("basket")
    assert basket is dict(session.items())["basket"]
    basket.append(["jam", 1])
    assert session.modified
    assert ["jam", 1] in session["basket"]


def test_a_session_that_cannot_be_decoded_is_empty() -> None:
    """From then on, and whoever asks is told no error but that of an empty session."""

    class Damaged(Split):
        def decode(self, encoded: Encoded) -> Any:
            raise LookupError

    for use in (
        lambda s: s.get("name"),
        lambda s: s.pop("name", None),
        lambda s: list(s.items()),
        lambda s: s.copy(),
        lambda s: s == BASKET,
    ):
        session = ServerSideSession(Damaged({"_permanent": False, **BASKET}))
        assert not session.permanent
        assert not use(session)
        assert (len(session), session.permanent, [*session]) == (0, True, [])
        session["new"] = 1
        assert {"new": 1} == session._stored_form()
    with pytest.raises(KeyError):
        ServerSideSession(Damaged(BASKET))["name"]


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["a", "b", "c", "_user_id", 7])


def _change_inside(session: Any, key: Any, value: Any) -> None:
    """As a view does with whatever stands there."""
    inner = session.get(key)
    if isinstance(inner, list):
        inner.append(value)
    elif isinstance(inner, dict):
        inner["new"] = value


DEEDS: dict[str, Callable[[Any, Any, Any], object]] = {
    "get": lambda s, key, value: s.get(key),
    "in": lambda s, key, value: key in s,
    "set": lambda s, key, value: s.__setitem__(key, value),
    "set again": lambda s, key, value: key in s and s.__setitem__(key, s[key]),
    "set equal": lambda s, key, value: (
        key in s and s.__setitem__(key, copy.deepcopy(s[key]))
    ),
    "pop": lambda s, key, value: s.pop(key, None),
    "setdefault": lambda s, key, value: s.setdefault(key, value),
    "update": lambda s, key, value: s.update({key: value}),
    "inside": _change_inside,
    "popitem": lambda s, key, value: s and s.popitem(),
    "items": lambda s, key, value: list(s.items()),
    "copy": lambda s, key, value: s.copy(),
}


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(NAMES, VALUES, max_size=5),
    st.lists(st.tuples(st.sampled_from([*DEEDS]), NAMES, VALUES), max_size=8),
)
def test_what_is_stored_is_what_a_dictionary_would_be(
    data: dict[Any, Any], steps: list[tuple[str, Any, Any]]
) -> None:
    """Whatever is read and written in whatever order, the bytes are those of a plain
    dictionary to which the same was done.
    """
    serializer, plain = MsgpackSerializer(), copy.deepcopy(data)
    session = ServerSideSession(Split(data))
    for step, key, value in steps:
        DEEDS[step](session, key, copy.deepcopy(value))
        DEEDS[step](plain, key, copy.deepcopy(value))
    expected = serializer.dumps(plain)
    assert expected == serializer.dumps(session._stored_form())
    assert session.modified == (expected != serializer.dumps(data))
    assert plain == session


def test_a_key_that_notes_how_a_session_came() -> None:
    """It is not the application's to set."""
    with pytest.raises(ValueError, match="Use another key"):
        session_of()["_sessionsql_adopted"] = True
