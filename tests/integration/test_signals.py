"""What requests tell of their sessions, and when."""

from __future__ import annotations

import re
import textwrap
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from werkzeug.serving import make_server

from flask_sessionsql import (
    SessionCreated,
    SessionEnded,
    SessionError,
    SessionMerged,
    SessionRefused,
    SessionRotated,
    SessionUnreadable,
    session,
    session_created,
    session_ended,
    session_merged,
    session_refused,
    session_rotated,
    session_unreadable,
)
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import store_of
from tests.integration.helpers import (
    Passing,
    add_views,
    regenerate,
    rows,
    same_browser,
    token,
    visit,
)
from tests.pages import page

SIGNALS = (
    *(session_created, session_rotated, session_merged, session_ended),
    *(session_refused, session_unreadable),
)


class Told:
    """What an application has told, and what was in its table at the time."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.events: list[Any] = []
        self.stored: list[set[str]] = []

    def receive(self, sender: Flask, event: Any) -> None:
        assert sender is self.app
        self.events.append(event)
        self.stored.append({row.handle for row in rows(self.app)})

    def take(self) -> list[Any]:
        """The events since the last time."""
        events, self.events = self.events, []
        self.stored = []
        return events


@pytest.fixture
def make_told() -> Iterator[Callable[[Flask], Told]]:
    listening = []

    def make(app: Flask) -> Told:
        told = Told(app)
        for signal in SIGNALS:
            signal.connect(told.receive, app)
        listening.append(told)
        return told

    yield make
    for told in listening:
        for signal in SIGNALS:
            signal.disconnect(told.receive, told.app)


@pytest.fixture
def told(app: Flask, make_told: Callable[[Flask], Told]) -> Told:
    return make_told(app)


def handle_of(app: Flask) -> str:
    [row] = rows(app)
    return str(row.handle)


def test_a_session_s_life_is_told(app: Flask, client: FlaskClient, told: Told) -> None:
    """Each event once, when the database has done it; nothing where nothing happens:
    an untouched session, one that is read, changed or saved as it was.
    """
    client.get("/set/a/1")
    handle = handle_of(app)
    assert [{handle}] == told.stored
    assert [SessionCreated(handle, None)] == told.take()
    for use in ("/", "/get/a", "/set/a/1", "/set/a/2"):
        client.get(use)
        assert [] == told.take()
    client.get("/set/_user_id/ann")
    assert [SessionRotated(handle, "ann", None)] == told.take()
    client.get("/set/_user_id/bob")
    assert [SessionRotated(handle, "bob", "ann")] == told.take()
    visit(client, regenerate)
    assert [SessionRotated(handle, "bob", "bob")] == told.take()
    client.get("/pop/_user_id")
    assert [SessionRotated(handle, None, "bob")] == told.take()
    client.get("/pop/a")
    assert [set()] == told.stored
    assert [SessionEnded(handle, None, "emptied")] == told.take()


def test_clear_is_told(app: Flask, client: FlaskClient, told: Told) -> None:
    """The end of one session, and then the beginning of the next, if there is one."""
    client.get("/set/_user_id/ann")
    old = handle_of(app)
    told.take()
    client.get("/restart/1")
    new = handle_of(app)
    assert [{new}, {new}] == told.stored
    expected = [SessionEnded(old, "ann", "cleared"), SessionCreated(new, None)]
    assert expected == told.take()
    client.get("/clear")
    assert [set()] == told.stored
    assert [SessionEnded(new, None, "cleared")] == told.take()
    client.get("/clear")
    assert [] == told.take()


def test_a_merge_is_told(app: Flask, client: FlaskClient, told: Told) -> None:
    """Once, with the session's handle; by the one that was saved last."""
    client.get("/set/_user_id/ann")
    other = same_browser(client)
    told.take()

    def view() -> str:
        session["mine"] = 1
        other.get("/set/theirs/1")
        assert [] == told.events
        return "ok"

    visit(client, view)
    assert [SessionMerged(handle_of(app), "ann")] == told.take()


def test_what_is_dropped_is_told(app: Flask, client: FlaskClient, told: Told) -> None:
    """Another request ended the session: what this one would have stored is refused."""
    client.get("/set/_user_id/ann")
    handle = handle_of(app)
    other = same_browser(client)
    told.take()

    def view() -> str:
        session["mine"] = 1
        other.get("/clear")
        return "ok"

    visit(client, view)
    expected = [
        SessionEnded(handle, "ann", "cleared"),
        SessionRefused(handle, "ann", "ended"),
    ]
    assert expected == told.take()


@pytest.mark.parametrize(("value", "reason"), [(object(), "value"), ("x" * 99, "size")])
def test_what_is_refused_is_told(
    make_app: MakeApp,
    database_uri: str,
    make_told: Callable[[Flask], Told],
    value: object,
    reason: Any,
) -> None:
    """A value that cannot be kept, and a session that is too large; of one that is
    stored and of one that is not.
    """
    app = add_views(make_app(database_uri, SESSION_MAX_BYTES=90))
    told, client = make_told(app), app.test_client()

    def view() -> str:
        session["secret key"] = value
        return "ok"

    with pytest.raises(SessionError):
        visit(client, view)
    assert [SessionRefused(None, None, reason)] == told.take()
    client.get("/set/_user_id/ann")
    told.take()
    with pytest.raises(SessionError):
        visit(client, view)
    assert [SessionRefused(handle_of(app), "ann", reason)] == told.take()


@pytest.mark.parametrize("policy", ["end-oldest", "refuse"])
def test_a_limit_is_told(
    make_app: MakeApp,
    database_uri: str,
    make_told: Callable[[Flask], Told],
    policy: str,
) -> None:
    """A login too many tells which session it has ended, or that it was refused."""
    settings = {"SESSION_MAX_PER_USER": 1, "SESSION_MAX_PER_USER_POLICY": policy}
    app = add_views(make_app(database_uri, **settings))
    told, second = make_told(app), app.test_client()
    app.test_client().get("/set/_user_id/ann")
    first = handle_of(app)
    told.take()
    response = second.get("/set/_user_id/ann")
    if policy == "refuse":
        assert 403 == response.status_code
        assert [SessionRefused(None, "ann", "limit")] == told.take()
    else:
        new = handle_of(app)
        assert {
            SessionCreated(new, "ann"),
            SessionEnded(first, "ann", "limit"),
        } == set(told.events)
        assert 2 == len(told.take())


def test_what_cannot_be_read_is_told(
    app: Flask, client: FlaskClient, told: Told
) -> None:
    """Once for each request that meets it, though it looks twice."""
    client.get("/set/_user_id/ann")
    handle = handle_of(app)
    told.take()
    store = store_of(app)
    with store.engine.connect() as connection:
        connection.execute(sa.update(store.table).values(data=b"\x09"))
    visit(client, lambda: f"{session.get('a')} {session.get('b')}")
    assert [SessionUnreadable(handle, "ann")] == told.take()


def test_a_conflict_without_end_is_told(
    app: Flask, client: FlaskClient, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that always gives way is refused."""
    client.get("/set/_user_id/ann")
    handle = handle_of(app)
    other = same_browser(client)
    told.take()
    monkeypatch.setattr("flask_sessionsql.saving.records.MAX_TRIES", 1)

    def view() -> str:
        session["mine"] = 1
        other.get("/set/theirs/1")
        return "ok"

    with pytest.raises(SessionError):
        visit(client, view)
    assert [SessionRefused(handle, "ann", "conflict")] == told.take()


def test_a_write_that_was_put_off_is_told_when_it_is_done(
    make_app: MakeApp, make_database: MakeDatabase, make_told: Callable[[Flask], Told]
) -> None:
    """A view that has flushed and not committed, on a SQLite file: nothing is told
    before the session is in the table.
    """
    db = SQLAlchemy()
    app = add_views(make_app(make_database("sqlite-file"), db.init_app))
    with app.app_context():
        db.session.execute(sa.text("CREATE TABLE note (text TEXT)"))
        db.session.commit()
    told, client = make_told(app), app.test_client()
    before: list[Any] = []

    @app.teardown_request
    def note(error: BaseException | None) -> None:
        before.append(list(told.events))

    client.get("/set/a/1")
    told.take()

    def view() -> str:
        db.session.execute(sa.text("INSERT INTO note VALUES ('flushed')"))
        session["_user_id"] = "ann"
        return "ok"

    before.clear()
    visit(client, view)
    assert [[]] == before
    assert [SessionRotated(handle_of(app), "ann", None)] == told.take()
    assert {"a": "1", "_user_id": "ann"} == client.get("/all").json


def test_a_receiver_that_fails_does_not_disturb_the_request(
    app: Flask, client: FlaskClient, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """The session is stored, the cookie set, and the others are told."""

    def fail(sender: Flask, event: SessionCreated) -> None:
        raise ZeroDivisionError

    with session_created.connected_to(fail, app):
        assert 200 == client.get("/set/a/1").status_code
    assert 1 == len(told.take())
    assert "A receiver of SessionCreated failed." in caplog.text
    assert {"a": "1"} == client.get("/all").json


def test_no_event_shows_a_token_or_a_value(
    app: Flask, client: FlaskClient, told: Told
) -> None:
    """Events may be logged as they are."""
    tokens = []
    for use in ("/set/a/hidden", "/set/_user_id/ann", "/restart/hidden"):
        client.get(use)
        tokens.append(token(client))
    shown = repr(told.take())
    assert "ann" in shown
    assert not [each for each in ("hidden", *tokens) if each in shown]


def recipe() -> str:
    """The code under "Counting for an operator", without the visits at its end."""
    code = page("reference/signals").split("Counting for an operator", 1)[1]
    code = code.split(".. testcode:: counters", 1)[1].split(".. testoutput::", 1)[0]
    return textwrap.dedent(code).partition("browser = ")[0]


def test_the_counters_of_the_documentation(
    make_database: MakeDatabase,
) -> None:
    """The documented code counts what happens over HTTP, and a scrape finds it."""
    code = recipe().replace("sqlite://", make_database("sqlite-file"))
    names: dict[str, Any] = {}
    exec(compile(code, "recipe", "exec"), names)
    app = names["app"]
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        jar = urllib.request.HTTPCookieProcessor(CookieJar())
        visitor = urllib.request.build_opener(jar)

        def get(path: str) -> str:
            url = f"http://127.0.0.1:{server.port}{path}"
            with visitor.open(url) as response:
                return str(response.read().decode())

        for path in ("/login", "/logout", "/login", "/login", "/logout", "/logout"):
            get(path)
        scraped = dict(
            re.findall(r"^sessions_total(\S+) (\S+)$", get("/metrics"), re.M)
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        store_of(app).dispose()
    expected = {
        '{event="created",reason=""}': "2.0",
        '{event="ended",reason="cleared"}': "2.0",
    }
    assert expected == scraped


def test_a_refusal_is_told_once(
    make_app: MakeApp, make_told: Callable[[Flask], Told]
) -> None:
    """Though the page for the error is saved, too."""
    app = add_views(make_app("sqlite://", TESTING=False, SESSION_MAX_BYTES=50))
    told = make_told(app)
    assert 500 == app.test_client().get(f"/set/a/{'x' * 100}").status_code
    assert [SessionRefused(None, None, "size")] == told.take()


def test_a_receiver_has_the_application_after_a_response(
    make_app: MakeApp,
    make_database: MakeDatabase,
    monkeypatch: pytest.MonkeyPatch,
    passing: Passing,
) -> None:
    """An audit log that is kept in the application's database hears of rows that are
    purged, too, when no request is there any more.
    """
    db = SQLAlchemy()
    uri = make_database("sqlite-file")
    app = add_views(make_app(uri, db.init_app, SESSION_PURGE_INTERVAL=1))
    monkeypatch.setattr("flask_sessionsql.storage.purging.random.random", lambda: 0.0)
    client = app.test_client()
    client.get("/set/a/1").close()
    store = store_of(app)
    with store.engine.connect() as connection:
        expired = sa.update(store.table).values(expires_at=1, purge_at=1)
        connection.execute(expired)
    noted: list[Any] = []

    def note(sender: Flask, event: SessionEnded) -> None:
        noted.append((event.reason, db.session.scalar(sa.text("SELECT 1"))))

    passing.now += 1
    with session_ended.connected_to(note, app):
        app.test_client().get("/set/b/2").close()
    assert [("expired", 1)] == noted
