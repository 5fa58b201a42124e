"""Two browsers, each with requests that overlap, against a plain model."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import MakeApp
from tests.helpers import on, store_of
from tests.integration.helpers import rows

USER = "_user_id"
KEYS = st.sampled_from([*"abcdef"])
NUMBERS = st.lists(st.integers(0, 2), max_size=2)
VALUES = st.one_of(
    st.integers(0, 3),
    st.booleans(),
    NUMBERS,
    st.dictionaries(st.sampled_from(["x", "y"]), NUMBERS, max_size=2),
)
DATA = st.dictionaries(KEYS, VALUES, min_size=1)
LOGINS = st.fixed_dictionaries({USER: st.integers(1, 2)})
CHANGES = st.one_of(
    st.tuples(st.just("update"), st.one_of(DATA, DATA, LOGINS)),
    st.tuples(st.just("append"), KEYS),
    st.tuples(st.just("append inside"), KEYS),
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("pop"), st.one_of(KEYS, st.just(USER))),
    st.tuples(st.just("clear"), st.none()),
)
INDEXES = st.integers(0, 3)


def both(base: Any, mine: Any, theirs: Any) -> Any:
    """What comes of one value that two requests have changed; ``None`` is none."""
    if repr(mine) == repr(base):
        return copy.deepcopy(theirs)
    if repr(theirs) == repr(base):
        return copy.deepcopy(mine)
    kinds = {type(each) for each in (base, mine, theirs) if each is not None}
    if kinds == {dict} and mine is not None and theirs is not None:
        base, merged = base or {}, copy.deepcopy(theirs)
        for key in {**base, **mine}:
            value = both(base.get(key), mine.get(key), theirs.get(key))
            merged.pop(key, None) if value is None else merged.update({key: value})
        return merged
    if kinds == {list}:
        length = len(base or [])
        kept = [
            side[length:]
            for side in (theirs, mine)
            if side and repr(side[:length]) == repr(base or [])
        ]
        # Appended by both; or all of it taken by one, and appended to by the other.
        if len(kept) == 2:
            return (base or []) + kept[0] + kept[1]
        if kept and not (mine and theirs):
            return kept[0]
    return copy.deepcopy(mine)


@dataclass
class Request:
    """A request under way: the real session, and what the model knows of it."""

    browser: int
    transaction: AbstractContextManager[Any]
    session: Any
    loaded: int | None
    line: int | None
    base: dict[str, Any]
    mine: dict[str, Any] = field(default_factory=dict)
    cleared: bool = False


class Browsers(RuleBasedStateMachine):
    """What sessions should hold, whoever writes when.

    The model is a dictionary of live sessions; a browser's cookie names one of them,
    or one that is gone, or none. A session that moves to a new token has a new number
    and stays in its line.
    """

    def __init__(self, app: Flask) -> None:
        super().__init__()
        self.app = app
        self.clients = [app.test_client(), app.test_client()]
        self.cookies: list[int | None] = [None, None]
        self.live: dict[int, dict[str, Any]] = {}
        self.lines: dict[int, int] = {}
        self.requests: list[Request] = []
        self.numbers = itertools.count()
        rows(app)
        store = store_of(app)
        with store.engine.connect() as connection:
            connection.execute(sa.delete(store.table))

    # What happens.

    @initialize(data=st.lists(DATA, min_size=2, max_size=2))
    def first_visits(self, data: list[dict[str, Any]]) -> None:
        for browser in (0, 1):
            self.begin(browser)
            self.change(0, ("update", data[browser]))
            self.finish(0)

    @precondition(lambda self: len(self.requests) < 4)
    @rule(browser=st.integers(0, 1), looks=st.booleans())
    def begin(self, browser: int, looks: bool = False) -> None:
        """A request begins, and looks at the whole of its session or not."""
        transaction = self.clients[browser].session_transaction()
        session = transaction.__enter__()
        loaded = self.cookies[browser]
        if loaded not in self.live:
            loaded = None
        base = {} if loaded is None else copy.deepcopy(self.live[loaded])
        assert sorted(session) == sorted(base)
        assert not looks or dict(session) == base
        line = None if loaded is None else self.lines[loaded]
        mine = copy.deepcopy(base)
        self.requests.append(
            Request(browser, transaction, session, loaded, line, base, mine)
        )

    @precondition(lambda self: self.requests)
    @rule(index=INDEXES, change=CHANGES)
    def change(self, index: int, change: tuple[str, Any]) -> None:
        request = self.requests[index % len(self.requests)]
        kind, value = change
        request.cleared |= kind == "clear"
        for mapping in (request.session, request.mine):
            if kind == "update":
                mapping.update(copy.deepcopy(value))
            elif kind == "pop":
                mapping.pop(value, None)
            elif kind == "clear":
                mapping.clear()
            elif kind == "append":
                if isinstance(mapping.get(value), list):
                    mapping[value].append(9)
            elif kind == "append inside":
                if isinstance(mapping.get(value), dict):
                    mapping[value].setdefault("x", []).append(9)
            else:
                assert repr(request.mine.get(value)) == repr(mapping.get(value))

    @precondition(lambda self: self.requests)
    @rule(index=INDEXES)
    def finish(self, index: int) -> None:
        request = self.requests.pop(index % len(self.requests))
        request.transaction.__exit__(None, None, None)
        self._model_finish(request)
        self._check()

    @precondition(lambda self: len(self.requests) < 3)
    @rule(
        browser=st.integers(0, 1),
        changes=st.lists(
            st.lists(CHANGES, min_size=1, max_size=3), min_size=2, max_size=2
        ),
    )
    def overlap(self, browser: int, changes: list[list[tuple[str, Any]]]) -> None:
        """Two requests of one browser that meet, which chance alone seldom brings."""
        for some in changes:
            self.begin(browser)
            for change in some:
                self.change(len(self.requests) - 1, change)
        self.finish(len(self.requests) - 1)
        self.finish(len(self.requests) - 1)

    # What should come of it.

    def _model_finish(self, request: Request) -> None:
        number, mine = request.loaded, request.mine
        if number is None:
            if mine:
                self._begin_session(request.browser, mine)
        elif number not in self.live:
            self._finish_late(request)
        elif request.cleared and not mine:
            del self.live[number]
            self.cookies[request.browser] = None
        elif request.cleared:
            del self.live[number]
            self._begin_session(request.browser, mine)
        else:
            self._merge(request, number)

    def _finish_late(self, request: Request) -> None:
        """Another request has ended the session, or moved it to a new token."""
        mine, before = request.mine, request.base.get(USER)
        user = mine.get(USER)
        logs_out = request.cleared or before not in (None, user)
        moved = [
            number
            for number, data in self.live.items()
            if logs_out
            and self.lines[number] == request.line
            and data.get(USER) in (None, before)
        ]
        for number in moved:  # an end holds
            del self.live[number]
        # The same user after session.clear() may be a change of token made by hand, and
        # must not bring back what was ended.
        is_login = user not in (None, before)
        if is_login or (moved and mine):  # a login is no accident
            self._begin_session(request.browser, mine)
        elif moved:
            self.cookies[request.browser] = None

    def _begin_session(
        self, browser: int, data: dict[str, Any], line: int | None = None
    ) -> None:
        number = next(self.numbers)
        self.live[number] = data
        self.lines[number] = number if line is None else line
        self.cookies[browser] = number

    def _merge(self, request: Request, number: int) -> None:
        theirs = self.live[number]
        user = theirs.get(USER)
        # In their order, as that of new keys is seen.
        for key in {**request.base, **request.mine}:
            sides = (each.get(key) for each in (request.base, request.mine, theirs))
            value = both(*sides)
            if value is None:
                theirs.pop(key, None)
            else:
                theirs[key] = value
        if not theirs:
            del self.live[number]
            self.cookies[request.browser] = None
        elif theirs.get(USER) != user:
            del self.live[number]
            self._begin_session(request.browser, theirs, self.lines[number])

    def _check(self) -> None:
        """Each browser sees its session, and nothing else is stored."""
        for client, cookie in zip(self.clients, self.cookies, strict=True):
            expected = {} if cookie is None else self.live.get(cookie, {})
            with client.session_transaction() as session:
                assert repr(sorted(expected.items())) == repr(sorted(session.items()))

        assert len(self.live) == len(rows(self.app))

    def teardown(self) -> None:
        for request in self.requests:
            request.transaction.__exit__(None, None, None)


@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql"))
def test_two_browsers_against_a_model(
    make_app: MakeApp, make_database: Callable[[str], str], backend: str
) -> None:
    """Whatever two browsers do, and however their requests overlap: each sees what
    the model says, and nothing else is stored.
    """
    app = make_app(make_database(backend))
    run_state_machine_as_test(
        lambda: Browsers(app),  # type: ignore[arg-type]
        settings=settings(
            max_examples=30,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
