"""Whose a session is, and the token that changes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask, flash, get_flashed_messages, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_sessionsql import (
    SessionConflictError,
    SessionRefused,
    SessionRotated,
    SessionValueError,
    session_ended,
    session_refused,
    session_rotated,
)
from flask_sessionsql import session as typed_session
from flask_sessionsql.formats.tokens import line_ids, row_id
from flask_sessionsql.saving.records import GRACE
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, at_once, statements_on, store_of, told_by
from tests.integration.helpers import (
    add_views,
    arrives,
    browser_with,
    cookie,
    during,
    regenerate,
    rows,
    same_browser,
    token,
    visit,
)

KEY = "a key"


pytestmark = pytest.mark.usefixtures("clock")


@contextmanager
def writes(app: Flask) -> Iterator[list[str]]:
    """The first words of the statements that write."""
    seen: list[str] = []
    with statements_on(store_of(app).engine) as statements:
        yield seen
    verbs = [text.split()[0] for text in statements]
    seen += [verb for verb in verbs if verb != "SELECT"]


# The column.


def test_the_user_is_mirrored_at_every_save(make_app: MakeApp, app: Flask) -> None:
    """Whatever key tells it and whatever type it has, as text; without the key, or
    with nobody in it, there is none.
    """
    uri = app.config["SQLALCHEMY_DATABASE_URI"]
    app = add_views(make_app(uri, SESSION_USER_KEY="member"))
    client = app.test_client()

    def become(value: object) -> Callable[[], str]:
        def view() -> str:
            session["member"] = value
            session["_user_id"] = "somebody else"
            return "ok"

        return view

    def leave() -> str:
        del session["member"]
        return "ok"

    for value, expected in [
        ("ann", "ann"),
        (5, "5"),
        (0, "0"),
        (None, None),
        ("", None),
        (False, None),
        ("é🦀" * 127 + "x", "é🦀" * 127 + "x"),
        ("ann ", "ann "),
    ]:
        visit(client, become(value))
        assert rows(app)[0].user_id == expected
    visit(client, leave)
    assert rows(app)[0].user_id is None
    client.get("/set/a/1")
    assert rows(app)[0].user_id is None
    assert len(rows(app)) == 1


@pytest.mark.parametrize("user", ["x" * 256, "a\0b", "\ud800"])
def test_a_user_that_no_column_holds_is_refused(
    app: Flask, client: FlaskClient, user: str
) -> None:
    """Nobody is logged in as half a user; the session stays as it was."""
    client.get("/set/basket/tea")

    def login() -> str:
        session["_user_id"] = user
        return "ok"

    with pytest.raises(SessionValueError, match=r"'_user_id'.*at most 255 characters"):
        visit(client, login)
    assert client.get("/all").json == {"basket": "tea"}
    assert rows(app)[0].user_id is None


# The token.


def test_a_login_moves_the_session_in_one_statement(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """To a new token, with its data and its handle; it begins anew, since nobody was
    logged in before; the old token is dead; the row knows where it was.
    """
    client.get("/set/basket/tea")
    old, before = token(client), rows(app)[0]
    clock.now += 100
    with writes(app) as seen, told_by(session_rotated, app) as told:
        response = client.get("/set/_user_id/ann")
    assert seen == ["UPDATE"]
    (after,) = rows(app)
    assert token(client) in str(cookie(response))
    assert token(client) != old
    assert after.id == row_id(KEY, token(client))
    assert before.id == row_id(KEY, old)
    assert [after.previous_id] == line_ids([KEY], old)
    assert after.handle == before.handle
    assert after.created_at == before.created_at + 100
    assert client.get("/all").json == {"basket": "tea", "_user_id": "ann"}
    assert browser_with(app, old).get("/all").json == {}
    assert told == [SessionRotated(after.handle, "ann", None)]


def test_another_user_and_a_logout_move_it_too(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """In one statement each; it began when the first of them logged in, and so it
    does not begin anew.
    """
    client.get("/set/_user_id/ann")
    begun, tokens = rows(app)[0], [token(client)]
    for path in ("/set/_user_id/bob", "/pop/_user_id", "/set/_user_id/bob"):
        client.get("/set/basket/tea")
        before = rows(app)[0]
        clock.now += 100
        with writes(app) as seen:
            client.get(path)
        assert seen == ["UPDATE"]
        (after,) = rows(app)
        again = path == "/set/_user_id/bob" and before.user_id is None
        assert after.created_at == begun.created_at + (300 if again else 0)
        assert after.handle == begun.handle
        assert [after.previous_id] == line_ids([KEY], tokens[0])
        tokens.append(token(client))
    assert len(set(tokens)) == 4
    for old in tokens[:-1]:
        assert browser_with(app, old).get("/all").json == {}


def test_the_same_user_stays_where_it_is(app: Flask, client: FlaskClient) -> None:
    """Neither a value of another type nor another login of the same user moves it."""
    client.get("/set/_user_id/5")
    before = token(client)

    def login() -> str:
        session["_user_id"] = 5
        return "ok"

    assert cookie(visit(client, login)) is None
    client.get("/set/basket/tea")
    assert token(client) == before
    assert rows(app)[0].previous_id is None


# Requests with the old token.


@pytest.mark.parametrize("path", ["/set/_user_id/ann", "/restart/1"])
@pytest.mark.parametrize("late", ["read", "write", "regenerate", "clear"])
def test_a_request_under_way_gets_nothing(
    app: Flask, client: FlaskClient, path: str, late: str
) -> None:
    """Loaded before the session moved and saved after it: no cookie, nothing of the
    new session, nothing stored.
    """
    client.get("/set/basket/tea")
    tab = same_browser(client)

    def view() -> str:
        if late == "write":
            session["late"] = 1
        elif late == "regenerate":
            typed_session.regenerate()
        elif late == "clear":
            session.clear()
        return repr(dict(session))

    response = during(tab, view, lambda: client.get(path))
    assert cookie(response) is None
    assert "ann" not in response.text
    assert "late" not in repr(client.get("/all").json)
    assert client.get("/all").json != {}
    assert len(rows(app)) == 1


@pytest.mark.parametrize("path", ["/set/_user_id/ann", "/restart/1", "/clear"])
def test_a_login_under_way_is_no_accident(
    app: Flask, client: FlaskClient, path: str
) -> None:
    """Whatever another request has made of the visitor's session: who is told "welcome"
    is logged in, with the basket; what the other request has stored stays.
    """
    client.get("/set/basket/tea")
    tab = same_browser(client)

    def view() -> str:
        session["_user_id"] = "bob"
        return "welcome"

    assert during(tab, view, lambda: client.get(path)).text == "welcome"
    assert tab.get("/all").json == {"basket": "tea", "_user_id": "bob"}
    left = {
        "/set/_user_id/ann": {"basket": "tea", "_user_id": "ann"},
        "/restart/1": {"value": "1"},
        "/clear": {},
    }
    assert client.get("/all").json == left[path]


def moved(app: Flask, client: FlaskClient) -> FlaskClient:
    """A tab that did not get the cookie of a login."""
    client.get("/set/basket/tea")
    tab = same_browser(client)
    client.get("/set/_user_id/ann")
    return tab


def test_a_late_reader_meets_an_empty_session(app: Flask, client: FlaskClient) -> None:
    """It comes with the old token after the login; it sets and clears no cookie."""
    tab = moved(app, client)
    response = tab.get("/all")
    assert (response.json, cookie(response)) == ({}, None)
    assert client.get("/get/_user_id").text == "'ann'"


def test_a_late_writer_begins_no_session(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """Its cookie would take the place of the login's. What it writes is dropped, and
    told of, for as long as the session was used within ten seconds.
    """
    tab = moved(app, client)
    clock.now += GRACE - 1
    with told_by(session_refused, app) as told:
        response = tab.get("/set/csrf_token/1")
    assert (response.status_code, cookie(response)) == (200, None)
    assert [row.user_id for row in rows(app)] == ["ann"]
    assert told == [SessionRefused(None, None, "ended")]
    clock.now += 1
    assert cookie(tab.get("/set/csrf_token/1")) is not None
    assert tab.get("/all").json == {"csrf_token": "1"}
    assert client.get("/all").json == {"basket": "tea", "_user_id": "ann"}


@pytest.mark.parametrize("way", ["regenerate", "restart"])
def test_a_late_writer_is_known_after_every_move(
    app: Flask, client: FlaskClient, way: str
) -> None:
    """After session.regenerate(), and after session.clear() with something new."""
    client.get("/set/basket/tea")
    tab = same_browser(client)
    if way == "regenerate":
        visit(client, regenerate)
    else:
        client.get("/restart/1")
    assert cookie(tab.get("/set/csrf_token/1")) is None
    assert len(rows(app)) == 1
    assert client.get("/all").json != {}


def test_a_writer_with_a_token_of_nowhere_begins_a_session(
    app: Flask, client: FlaskClient
) -> None:
    """One that no session ever had, or that was ended, is not late."""
    client.get("/set/_user_id/ann")
    ended = app.test_client()
    ended.get("/set/a/1")
    stale = token(ended)
    ended.get("/clear")
    for value in (stale, "x" * 43):
        browser = browser_with(app, value)
        assert cookie(browser.get("/set/a/2")) is not None
        assert browser.get("/all").json == {"a": "2"}


def test_a_login_with_the_old_token_begins_a_session(
    app: Flask, client: FlaskClient
) -> None:
    """The answer to the one before may have been lost: nobody is locked out."""
    tab = moved(app, client)
    assert cookie(tab.get("/set/_user_id/ann")) is not None
    assert tab.get("/all").json == {"_user_id": "ann"}
    assert client.get("/all").json == {"basket": "tea", "_user_id": "ann"}


def tabs_of(client: FlaskClient, *steps: str) -> list[FlaskClient]:
    """One tab a step, which got no cookie from that step on."""
    tabs = []
    for step in steps:
        tabs.append(same_browser(client))
        if step == "regenerate":
            visit(client, regenerate)
        else:
            client.get(step)
    return tabs


LOGOUTS = ["clear", "pop", "clear, with a message", "pop, with a message"]


def log_out(way: str) -> str:
    """A view that logs out in this way."""
    if way.startswith("clear"):
        session.clear()
    else:
        session.pop("_user_id", None)
    if way.endswith("message"):
        flash("Bye.")
    return "You are logged out."


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("way", LOGOUTS)
def test_a_logout_with_an_earlier_token_holds(
    app: Flask, client: FlaskClient, way: str, late: int
) -> None:
    """It is one, two or three changes of token late: the browser is logged out, told so
    and keeps what the logout has left for the next page.
    """
    client.get("/set/_user_id/ann")
    tab = tabs_of(client, "regenerate", "regenerate", "regenerate")[late]

    with told_by(session_ended, app) as told:
        assert cookie(visit(tab, lambda: log_out(way))) is not None
    assert client.get("/all").json == {}
    assert [(event.user_id, event.reason) for event in told] == [("ann", "cleared")]
    left = visit(tab, lambda: get_flashed_messages()).json
    assert left == (["Bye."] if "message" in way else [])


def test_a_logout_with_an_earlier_token_ends_what_is_nobodys(
    app: Flask, client: FlaskClient
) -> None:
    """Of a visitor, or after another tab has taken the user out; but not by asking only
    for the user to go.
    """
    client.get("/set/basket/tea")
    first, second, third = tabs_of(
        client, "regenerate", "/set/_user_id/ann", "/pop/_user_id"
    )
    for tab in (first, second, third):
        assert cookie(tab.get("/pop/_user_id")) is None
    assert client.get("/all").json == {"basket": "tea"}
    assert cookie(second.get("/clear")) is not None
    assert client.get("/all").json == {}


@pytest.mark.parametrize("way", LOGOUTS)
def test_a_logout_with_an_earlier_token_leaves_another_user(
    app: Flask, client: FlaskClient, way: str
) -> None:
    """A visitor's token ends nothing of the user that the visitor has become, nor does
    that of the user before.
    """
    client.get("/set/basket/tea")
    tabs = tabs_of(
        client, "regenerate", "/set/_user_id/ann", "/set/_user_id/bob", "regenerate"
    )
    for tab in tabs[:3]:
        assert arrives(client, visit(tab, lambda: log_out(way))).status_code == 200
        assert client.get("/get/_user_id").text == "'bob'"
    visit(tabs[3], lambda: log_out(way))
    assert client.get("/all").json == {}


def test_a_logout_with_a_token_that_is_made_up_ends_nothing(
    app: Flask, client: FlaskClient
) -> None:
    """Of the line of a session, but with another seal, or with no marks at all."""
    client.get("/set/_user_id/ann")
    (tab,) = tabs_of(client, "regenerate")
    other = "A" if token(tab)[-1] != "A" else "B"
    for made_up in (token(tab)[:-1] + other, "x" * 43, "x" * 22):
        assert cookie(browser_with(app, made_up).get("/clear")) is None
    assert client.get("/get/_user_id").text == "'ann'"
    tab.get("/clear")
    assert client.get("/all").json == {}


def test_a_logout_with_an_earlier_token_is_repeated_until_it_holds(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session moves once more, just before it would be ended. One that moves each
    time is given up, and the page is an error.
    """
    client.get("/set/_user_id/ann")
    (tab,) = tabs_of(client, "regenerate")
    store, moves = store_of(app), [1]
    delete = store.delete

    def delete_late(*args: Any, **kwargs: Any) -> bool:
        if moves:
            moves.pop()
            visit(client, regenerate)
        return delete(*args, **kwargs)

    monkeypatch.setattr(store, "delete", delete_late)
    with told_by(session_ended, app) as told:
        assert cookie(tab.get("/clear")) is not None
    assert (len(told), client.get("/all").json) == (1, {})

    client.get("/set/_user_id/ann")
    (tab,) = tabs_of(client, "regenerate")
    monkeypatch.setattr(store, "delete", lambda *args, **kwargs: False)
    with pytest.raises(SessionConflictError, match="late logout"):
        tab.get("/clear")


# Writers that are late.


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("seconds", [0, 3600])
def test_a_late_writer_logs_nobody_out(
    app: Flask, client: FlaskClient, clock: Clock, late: int, seconds: int
) -> None:
    """It came one, two or three changes of token ago, and takes its time: the browser
    that gets its answer last has the session that it had.
    """
    client.get("/set/basket/tea")

    def late_view() -> str:
        # The request has begun, and its session is not read yet.
        outcome: list[Any] = at_once([move])
        assert not isinstance(outcome[0], Exception), outcome
        clock.now += seconds
        session["csrf_token"] = "1"
        return "ok"

    def move() -> None:
        tabs_of(client, *["/set/_user_id/ann", "regenerate", "/restart/1"][: late + 1])

    response = visit(same_browser(client), late_view)
    assert arrives(client, response).status_code == 200
    expected = [{"basket": "tea", "_user_id": "ann"}] * 2 + [{"value": "1"}]
    assert client.get("/all").json == expected[late]


def test_a_late_writer_leaves_a_login_after_the_session_had_expired(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """Two tabs come with one token that opens nothing any more; one logs in, and the
    browser stays so.
    """
    client.get("/set/a/1")
    clock.now += 32 * 24 * 3600
    tab = same_browser(client)
    client.get("/set/_user_id/ann")
    arrives(client, tab.get("/set/csrf_token/1"))
    assert client.get("/all").json == {"_user_id": "ann"}


# On demand.


def test_regenerate_moves_the_session(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """In one statement: a new token; data, handle, user and beginning stay; the old
    token is dead.
    """
    client.get("/set/_user_id/ann")
    old, before = token(client), rows(app)[0]
    clock.now += 100
    with writes(app) as seen:
        response = visit(client, regenerate)
    assert seen == ["UPDATE"]
    (after,) = rows(app)
    assert token(client) in str(cookie(response))
    assert after.id == row_id(KEY, token(client)) != before.id
    assert [after.previous_id] == line_ids([KEY], old)
    kept = ("handle", "user_id", "created_at", "data")
    assert [getattr(after, name) for name in kept] == [
        getattr(before, name) for name in kept
    ]
    assert browser_with(app, old).get("/all").json == {}
    assert client.get("/all").json == {"_user_id": "ann"}


def test_regenerate_holds_for_one_request(app: Flask, client: FlaskClient) -> None:
    """The next one keeps its token."""
    client.get("/set/a/1")
    visit(client, regenerate)
    assert cookie(client.get("/set/a/2")) is None


def test_regenerate_goes_with_everything_else(app: Flask, client: FlaskClient) -> None:
    """With a change, with a login, with session.clear(), and with what empties it."""
    client.get("/set/a/1")
    tokens = [token(client)]

    def go(change: Callable[[], object]) -> TestResponse:
        def view() -> str:
            change()
            typed_session.regenerate()
            return "ok"

        with writes(app) as seen:
            response = visit(client, view)
        assert len(seen) == 1
        return response

    handle = rows(app)[0].handle
    for change, expected in [
        (lambda: session.update(b=2), {"a": "1", "b": 2}),
        (lambda: session.update(_user_id="ann"), {"a": "1", "b": 2, "_user_id": "ann"}),
    ]:
        go(change)
        assert client.get("/all").json == expected
        assert [handle] == [row.handle for row in rows(app)]
        tokens.append(token(client))

    def restart() -> None:
        session.clear()
        session["c"] = 3

    go(restart)
    assert client.get("/all").json == {"c": 3}
    assert [handle] != [row.handle for row in rows(app)]
    tokens.append(token(client))
    assert len(set(tokens)) == 4
    response = go(lambda: session.pop("c"))
    assert "Max-Age=0" in str(cookie(response))
    assert rows(app) == []


def test_regenerate_stores_no_empty_session(app: Flask, client: FlaskClient) -> None:
    """There is nothing to move."""
    with writes(app) as seen:
        response = visit(client, regenerate)
    assert seen == []
    assert cookie(response) is None
    assert rows(app) == []


def test_regenerate_keeps_what_others_write_meanwhile(
    app: Flask, client: FlaskClient
) -> None:
    """The key that another request has written comes along to the new token, even if
    this one writes nothing, or the same.
    """
    client.get("/set/a/1")
    tab = same_browser(client)
    old = token(client)
    during(client, regenerate, lambda: tab.get("/set/b/2"))
    assert token(client) != old
    assert client.get("/all").json == {"a": "1", "b": "2"}
    tab = same_browser(client)
    old = token(client)

    def both() -> str:
        session["c"] = "3"
        return regenerate()

    during(client, both, lambda: tab.get("/set/c/3"))
    assert token(client) != old
    assert client.get("/all").json == {"a": "1", "b": "2", "c": "3"}
    assert len(rows(app)) == 1
    assert tab.get("/all").json == {}


def test_of_two_that_regenerate_one_moves_the_session(
    app: Flask, client: FlaskClient
) -> None:
    """Six at once: one gets the new token, the others no cookie; nobody is logged
    out.
    """
    client.get("/set/_user_id/ann")
    tabs = [same_browser(client) for _ in range(6)]
    app.extensions["view"] = regenerate

    def job(tab: FlaskClient) -> Callable[[], str | None]:
        return lambda: cookie(tab.get("/run"))

    answers = at_once([job(tab) for tab in tabs])
    winners = [n for n, answer in enumerate(answers) if answer is not None]
    assert len(winners) == 1
    assert tabs[winners[0]].get("/all").json == {"_user_id": "ann"}
    assert len(rows(app)) == 1


# What the row says of the user.


def test_another_user_key_reaches_sessions_that_are_only_read(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """The next use brings ``user_id`` up to date, so that lists and ends find the
    session. That is no login: neither the token nor the absolute lifetime begins anew,
    and no limit refuses it.
    """
    before = add_views(make_app(database_uri, SESSION_USER_KEY="nobody"))
    client = before.test_client()
    client.get("/set/user/ann")
    assert [None] == [row.user_id for row in rows(before)]
    settings = {"SESSION_MAX_PER_USER": 1, "SESSION_MAX_PER_USER_POLICY": "refuse"}
    if database_uri == "sqlite://":  # which no two applications share
        after = before
        records = after.session_interface.records  # type: ignore[attr-defined]
        changed = replace(records._config, user_key="user", max_per_user=1)
        records._config = records.planner._config = changed
    else:
        after = add_views(make_app(database_uri, SESSION_USER_KEY="user", **settings))
    clock.now += 5
    same = same_browser(client, after)
    response = same.get("/get/user")
    assert ("'ann'", None) == (response.text, cookie(response))
    [row] = rows(after)
    assert ("ann", clock.now - 5) == (row.user_id, row.created_at)
    assert "'ann'" == same.get("/get/user").text
    assert [row.version] == [each.version for each in rows(after)]


def test_a_user_of_another_key_who_cannot_be_one_is_nobody(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """What happens to stand under the new key does not fail requests that read."""
    uri = make_database("sqlite-file")
    client = add_views(make_app(uri)).test_client()
    client.get(f"/set/user/{'x' * 300}")
    after = add_views(make_app(uri, SESSION_USER_KEY="user"))
    same = same_browser(client, after)
    assert 200 == same.get("/get/user").status_code
    assert [None] == [row.user_id for row in rows(after)]


def test_what_comes_after_clear_is_another_session(
    app: Flask, client: FlaskClient
) -> None:
    """Nothing is known of it before it is stored: not the handle of the one before."""
    client.get("/set/_user_id/ann")
    before = rows(app)[0].handle

    def view() -> list[Any]:
        known = [typed_session.handle, typed_session.new]
        session.clear()
        session["_user_id"] = "bob"
        return [
            *known,
            typed_session.handle,
            typed_session.new,
            typed_session.expires_at,
        ]

    assert [before, False, None, True, None] == visit(client, view).json


def test_a_write_after_another_user_key_is_no_login(
    make_app: MakeApp, make_database: MakeDatabase, clock: Clock
) -> None:
    """The user was there before the column said so: the token and the start stay, and
    no limit is asked.
    """
    uri = make_database("sqlite-file")
    for name in ("1", "2"):
        client = add_views(make_app(uri, SESSION_USER_KEY="nobody")).test_client()
        client.get(f"/set/user/ann?{name}")
    after = add_views(
        make_app(
            uri,
            SESSION_USER_KEY="user",
            SESSION_MAX_PER_USER=1,
            SESSION_MAX_PER_USER_POLICY="refuse",
        )
    )
    begun = clock.now
    clock.now += 5
    same = same_browser(client, after)
    response = same.get("/set/a/1")
    assert (200, None) == (response.status_code, cookie(response))
    assert {"user": "ann", "a": "1"} == same.get("/all").json
    assert {begun} == {row.created_at for row in rows(after)}
