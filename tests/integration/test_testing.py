"""Tests of applications, with ``flask_sessionsql.testing``: on each database, beside
requests, under clocks that stand still.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import freezegun
import pytest
import sqlalchemy as sa
import time_machine
from flask import Flask, current_app, session
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, fresh_login_required
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import (
    Session,
    SessionLimitError,
    SessionStoreUnavailableError,
    session_created,
    session_ended,
    session_merged,
    session_rotated,
)
from flask_sessionsql.storage.database import transaction
from flask_sessionsql.testing import (
    database_down,
    expire,
    log_in,
    revoke,
    session_transaction,
)
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, locked_file, on, statements_on, store_of, told_by
from tests.integration.helpers import (
    add_views,
    browser_with,
    regenerate,
    rows,
    same_browser,
    token,
    visit,
)

HOUR = timedelta(hours=1)


# Logging in, reading and changing.


def test_a_client_that_is_logged_in_is_so_in_its_next_request(
    app: Flask, client: FlaskClient
) -> None:
    """The session is stored, is the user's, and opens with the client's cookie."""
    with told_by(session_created, app) as events:
        log_in(client, "ann", theme="dark")
    assert ["ann"] == [event.user_id for event in events]
    assert ["ann"] == [row.user_id for row in rows(app)]
    assert {"_user_id": "ann", "theme": "dark"} == client.get("/all").json
    with app.app_context():
        assert 1 == len(Session().user_sessions("ann"))


def test_a_login_keeps_what_the_visitor_had_and_changes_the_token(
    app: Flask, client: FlaskClient
) -> None:
    """As a page's login: who had the visitor's token is not logged in."""
    client.get("/set/basket/tea")
    visitor = token(client)
    with told_by(session_rotated, app) as events:
        log_in(client, "ann")
        log_in(client, "bob")
    assert [(None, "ann"), ("ann", "bob")] == [
        (event.previous_user_id, event.user_id) for event in events
    ]
    assert "'tea'" == client.get("/get/basket").text
    assert "None" == browser_with(app, visitor).get("/get/_user_id").text
    assert 1 == len(rows(app))


def test_changes_are_merged_with_those_of_requests(
    app: Flask, client: FlaskClient
) -> None:
    """A request that is made within the block loses nothing, and the block neither."""
    log_in(client, "ann")
    with told_by(session_merged, app) as events, session_transaction(client) as opened:
        opened["basket"] = ["tea"]
        client.get("/set/theme/dark")
    assert 1 == len(events)
    assert {"_user_id": "ann", "basket": ["tea"], "theme": "dark"} == (
        client.get("/all").json
    )


def test_the_cookie_follows(app: Flask, client: FlaskClient) -> None:
    """Whatever becomes of the session in the block becomes of the client's cookie."""
    with session_transaction(client) as opened:
        opened["basket"] = ["tea"]
    before = token(client)
    with session_transaction(client) as opened:
        opened.regenerate()
    assert before != token(client)
    assert "['tea']" == client.get("/get/basket").text
    with session_transaction(client) as opened:
        opened.set_lifetime(HOUR)
        assert opened.expires_at is not None
        left = opened.expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= HOUR
    with session_transaction(client) as opened:
        opened.clear()
    assert client.get_cookie("session") is None
    assert [] == rows(app)


def test_reading_changes_nothing(app: Flask, client: FlaskClient) -> None:
    """Neither does a block that leaves the session alone, which runs no SQL."""
    log_in(client, "ann")
    before = rows(app)
    with session_transaction(client) as opened:
        assert "ann" == opened["_user_id"]
    with statements_on(store_of(app).engine) as seen, session_transaction(client):
        pass
    assert [] == seen
    assert before == rows(app)


def test_it_works_within_a_preserved_context(app: Flask, client: FlaskClient) -> None:
    """As in a test that looks at ``flask.session`` after a request."""
    with client:
        client.get("/set/basket/tea")
        log_in(client, "ann")
        with session_transaction(client) as opened:
            assert {"basket": "tea", "_user_id": "ann"} == dict(opened)
        assert "'ann'" == client.get("/get/_user_id").text
        assert "ann" == session["_user_id"]
        revoke(client)
        assert "None" == client.get("/get/_user_id").text


def test_flasks_own_way_works_beside_ours(app: Flask, client: FlaskClient) -> None:
    """They are one session of one client."""
    log_in(client, "ann")
    with client.session_transaction() as opened:
        assert "ann" == opened["_user_id"]
        opened["theme"] = "dark"
    with session_transaction(client) as typed:
        assert "dark" == typed["theme"]
    assert 1 == len(rows(app))


def test_limits_hold(make_app: MakeApp, database_uri: str) -> None:
    """A login that is one too many ends the oldest session, or raises."""
    app = add_views(make_app(database_uri, SESSION_MAX_PER_USER=1))
    first, second = app.test_client(), app.test_client()
    log_in(first, "ann")
    log_in(second, "ann")
    assert "None" == first.get("/get/_user_id").text
    assert "'ann'" == second.get("/get/_user_id").text

    refusing = make_app(
        database_uri,
        SESSION_MAX_PER_USER=1,
        SESSION_MAX_PER_USER_POLICY="refuse",
    )
    # A database in memory is another one, in which the first of them may log in.
    logins = [refusing.test_client() for _ in range(2)]
    if database_uri == "sqlite://":
        log_in(logins.pop(), "ann")
    with pytest.raises(SessionLimitError):
        log_in(logins.pop(), "ann")


# Flask-Login.


class User(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name


@pytest.mark.parametrize("protection", ["basic", "strong"])
def test_a_login_is_fresh_for_flask_login(make_app: MakeApp, protection: str) -> None:
    """And stays so: Flask-Login sees the browser that has logged in."""
    app = make_app("sqlite://", SESSION_PROTECTION=protection, SESSION_PERMANENT=False)
    LoginManager(app).user_loader(User)

    @app.get("/password")
    @fresh_login_required  # type: ignore[untyped-decorator]
    def password() -> str:
        return "ok"

    client = app.test_client()
    log_in(client, User("ann"))
    assert [200, 200] == [client.get("/password").status_code for _ in range(2)]
    log_in(client, User("ann"), _fresh=False)
    assert 401 == client.get("/password").status_code


def test_another_key_has_nothing_of_flask_logins(make_app: MakeApp) -> None:
    """Where SESSION_USER_KEY is the application's own, so is what is beside it."""
    app = make_app("sqlite://", SESSION_USER_KEY="user")
    LoginManager(app).user_loader(User)
    client = app.test_client()
    log_in(client, 42)
    with session_transaction(client) as opened:
        assert {"user": 42} == dict(opened)


# Ends.


@pytest.mark.parametrize("end", [expire, revoke])
def test_a_session_that_is_over_is_over_for_everybody(
    app: Flask, client: FlaskClient, end: Callable[[FlaskClient], None]
) -> None:
    """The client and whoever shares its cookie find an empty session; others keep
    theirs. The client keeps the cookie, as a browser does.
    """
    other = app.test_client()
    log_in(client, "ann")
    log_in(other, "ann")
    tab = same_browser(client)
    end(client)
    assert client.get_cookie("session") is not None
    assert {} == client.get("/all").json
    assert {} == tab.get("/all").json
    assert "'ann'" == other.get("/get/_user_id").text
    log_in(client, "ann")
    assert "'ann'" == client.get("/get/_user_id").text


@pytest.mark.parametrize("end", [expire, revoke])
def test_an_end_stays_the_end(
    app: Flask, client: FlaskClient, end: Callable[[FlaskClient], None]
) -> None:
    """A request that is under way does not bring the session back."""
    log_in(client, "ann")
    tab = same_browser(client)

    def slow() -> str:
        session["theme"] = "dark"
        end(tab)
        return "ok"

    visit(client, slow)
    assert {} == client.get("/all").json


def test_an_end_elsewhere_is_told(app: Flask, client: FlaskClient) -> None:
    """As ``flask sessions revoke`` tells it."""
    log_in(client, "ann")
    with told_by(session_ended, app) as events:
        revoke(client)
    assert [("ann", "revoked")] == [(event.user_id, event.reason) for event in events]
    assert [] == rows(app)


def test_an_idle_session_was_not_used_since(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """Its times are those of a session that nobody has used for its lifetime; its row
    is there until the purge takes it.
    """
    app = make_app(database_uri, PERMANENT_SESSION_LIFETIME=HOUR)
    client, now = app.test_client(), int(clock.now)
    log_in(client, "ann")
    clock.now += 60
    expire(client)
    [row] = rows(app)
    assert (now + 60, now - 3600 + 60) == (row.expires_at, row.last_used_at)
    assert row.last_used_at == row.created_at
    assert (
        "Deleted 1" in app.test_cli_runner().invoke(args=["sessions", "purge"]).output
    )
    assert [] == rows(app)


def test_an_absolute_end_comes_however_much_the_session_is_used(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """The session began as long ago as the setting says, and was used just now."""
    app = add_views(make_app(database_uri, SESSION_ABSOLUTE_LIFETIME=2 * HOUR))
    client, now = app.test_client(), int(clock.now)
    log_in(client, "ann")
    expire(client, "absolute")
    [row] = rows(app)
    assert (now - 7200, now, now) == (row.created_at, row.last_used_at, row.expires_at)
    assert {} == client.get("/all").json


def test_looking_for_the_session_is_no_use_of_it(
    make_app: MakeApp, clock: Clock
) -> None:
    """Ending it does not move its end on first."""
    app = make_app("sqlite://", SESSION_REFRESH_INTERVAL=0)
    client, began = app.test_client(), int(clock.now)
    log_in(client, "ann")
    lifetime = app.permanent_session_lifetime.total_seconds()
    clock.now += 100
    expire(client)
    assert began + 100 - lifetime == rows(app)[0].last_used_at


# Clocks that stand still.

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def frozen() -> AbstractContextManager[Any]:
    return cast(AbstractContextManager[Any], freezegun.freeze_time(NOON))


def travelling() -> AbstractContextManager[Any]:
    return time_machine.travel(NOON, tick=False)


def let_pass(clock: Any, passed: timedelta) -> None:
    if hasattr(clock, "tick"):
        clock.tick(passed)
    else:
        clock.shift(passed)


@pytest.mark.parametrize("stand_still", [frozen, travelling])
def test_clocks_that_stand_still_work(
    make_app: MakeApp,
    database_uri: str,
    stand_still: Callable[[], AbstractContextManager[Any]],
) -> None:
    """A session ends when the clock that the test moves says so, and no second before;
    everything else works as well under such a clock.
    """
    app = add_views(
        make_app(
            database_uri,
            PERMANENT_SESSION_LIFETIME=HOUR,
            SESSION_ABSOLUTE_LIFETIME=3 * HOUR,
            SESSION_REFRESH_INTERVAL=0,
        )
    )
    client = app.test_client()
    with stand_still() as clock:
        log_in(client, "ann")
        with session_transaction(client) as opened:
            assert (NOON, NOON + HOUR) == (opened.created_at, opened.expires_at)
        for _ in range(3):
            let_pass(clock, HOUR - timedelta(seconds=1))
            assert "'ann'" == client.get("/get/_user_id").text
        let_pass(clock, timedelta(seconds=2))
        assert "'ann'" == client.get("/get/_user_id").text
        let_pass(clock, timedelta(seconds=1))
        assert "None" == client.get("/get/_user_id").text

        log_in(client, "bob")
        let_pass(clock, HOUR)
        assert "None" == client.get("/get/_user_id").text
        log_in(client, "bob")
        expire(client)
        assert "None" == client.get("/get/_user_id").text
        log_in(client, "bob")
        revoke(client)
        assert "None" == client.get("/get/_user_id").text
        with database_down(app):
            assert 503 == client.get("/get/_user_id").status_code
        assert 200 == client.get("/get/_user_id").status_code
    log_in(client, "bob")
    assert "'bob'" == client.get("/get/_user_id").text


# Databases that fail.


def test_a_database_that_is_down_is_a_503(app: Flask, client: FlaskClient) -> None:
    """For whoever touches the session, and for nobody else; afterwards everything is
    there.
    """
    log_in(client, "ann")
    other = app.test_client()
    with database_down(app):
        failed = client.get("/get/_user_id")
        assert (503, "10") == (failed.status_code, failed.headers["Retry-After"])
        assert 503 == other.get("/set/basket/tea").status_code
        assert 200 == client.get("/").status_code
    assert "'ann'" == client.get("/get/_user_id").text
    assert "ok" == other.get("/set/basket/tea").text


def test_it_is_in_the_log_as_an_outage(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It says that a test wants it so, for those who look why their test fails."""
    log_in(client, "ann")
    with caplog.at_level(logging.WARNING, "flask_sessionsql"):
        with database_down(app):
            client.get("/get/_user_id")
        client.get("/get/_user_id")
    assert [
        ("ERROR", "cannot be reached, because a test uses"),
        ("WARNING", "works again"),
    ] == [
        (record.levelname, text)
        for record, text in zip(
            caplog.records,
            ("cannot be reached, because a test uses", "works again"),
            strict=True,
        )
        if text in record.getMessage()
    ]


def test_a_database_that_was_never_used_can_be_down(
    app: Flask, client: FlaskClient
) -> None:
    """As where a server starts before its database does."""
    with database_down(app):
        assert 503 == client.get("/set/basket/tea").status_code
    assert "ok" == client.get("/set/basket/tea").text
    assert "'tea'" == client.get("/get/basket").text


def test_a_database_can_be_read_only(app: Flask, client: FlaskClient) -> None:
    """Pages that read their session work, and those that change it are a 503."""
    log_in(client, "ann")
    new = app.test_client()
    with database_down(app, read_only=True):
        assert "'ann'" == client.get("/get/_user_id").text
        assert 503 == client.get("/set/basket/tea").status_code
        assert 503 == client.get("/clear").status_code
        assert 503 == visit(client, regenerate).status_code
        assert 503 == new.get("/set/basket/tea").status_code
    assert {"_user_id": "ann"} == client.get("/all").json


def test_calls_raise_while_it_is_down(app: Flask, client: FlaskClient) -> None:
    """A test must not go on as if its session were stored."""
    log_in(client, "ann")
    with database_down(app):
        for call in (lambda c: log_in(c, "bob"), expire, revoke):
            with pytest.raises(SessionStoreUnavailableError):
                call(client)
        with app.app_context(), pytest.raises(SessionStoreUnavailableError):
            Session().revoke_user("ann")
    with database_down(app, read_only=True):
        for call in (lambda c: log_in(c, "bob"), expire, revoke):
            with pytest.raises(SessionStoreUnavailableError):
                call(client)
    assert "'ann'" == client.get("/get/_user_id").text


def test_it_can_go_down_within_a_transaction(app: Flask, client: FlaskClient) -> None:
    """As where another thread's statements run meanwhile: they are rolled back, and
    what was stored stays, in memory, too.
    """
    log_in(client, "ann")
    database = store_of(app).database

    def work(connection: sa.Connection) -> None:
        with transaction(connection):
            connection.execute(sa.delete(database.table))
            stack.enter_context(database_down(app))
            connection.execute(sa.select(database.table))

    with ExitStack() as stack, pytest.raises(SessionStoreUnavailableError):
        database.run(work)
    assert "'ann'" == client.get("/get/_user_id").text


def test_it_works_again_after_an_error(app: Flask, client: FlaskClient) -> None:
    """A test that fails leaves the database as it was to the next one. Statements take
    the way again that they took.
    """

    def fail() -> None:
        with database_down(app), database_down(app, read_only=True):
            client.get("/get/_user_id")
            raise AssertionError

    direct = store_of(app).database._direct
    was_open = direct.is_open()
    with pytest.raises(AssertionError):
        fail()
    log_in(client, "ann")
    assert "'ann'" == client.get("/get/_user_id").text
    assert was_open == direct.is_open()


def test_the_applications_own_statements_work(
    make_app: MakeApp, shared_database_uri: str
) -> None:
    """Only the sessions' fail, and those of this application."""
    db = SQLAlchemy()
    app = add_views(make_app(shared_database_uri, before=db.init_app))
    other = add_views(make_app(shared_database_uri))
    with database_down(app):
        with app.app_context():
            assert 1 == db.session.scalar(sa.text("SELECT 1"))
        assert 503 == app.test_client().get("/set/a/1").status_code
        assert "ok" == other.test_client().get("/set/a/1").text


# SQLite files that the test itself has locked.


CALLS: dict[str, Callable[[FlaskClient], None]] = {
    "log_in": lambda client: log_in(client, "bob"),
    "expire": expire,
    "revoke": revoke,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("uri", on("sqlite-file"))
def test_a_lock_of_the_tests_own_is_an_error(
    make_app: MakeApp, make_database: MakeDatabase, uri: str, call: str
) -> None:
    """It would be waited for in vain, and a change put off is one that the next request
    does not see. The error says what to do.
    """
    db = SQLAlchemy()
    app = add_views(make_app(make_database(uri), before=db.init_app))
    client = app.test_client()
    log_in(client, "ann")
    with app.app_context():
        db.session.execute(sa.text("CREATE TABLE goods (name TEXT)"))
        db.session.execute(sa.text("INSERT INTO goods VALUES ('tea')"))
        with pytest.raises(RuntimeError, match="A transaction of this test locks"):
            CALLS[call](client)
        db.session.commit()
        assert "'ann'" == client.get("/get/_user_id").text
        CALLS[call](client)
        assert "'ann'" != client.get("/get/_user_id").text


@pytest.mark.parametrize("uri", on("sqlite-file"))
def test_anothers_lock_is_waited_for_in_vain(
    make_app: MakeApp, make_database: MakeDatabase, uri: str
) -> None:
    """As in a request, it is a database that cannot be used."""
    app = make_app(
        make_database(uri),
        SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"timeout": 0.1}},
    )
    client = app.test_client()
    log_in(client, "ann")
    locked = locked_file(app.config["SQLALCHEMY_DATABASE_URI"])
    with locked, pytest.raises(SessionStoreUnavailableError):
        log_in(client, "bob")


def test_contexts_of_other_applications_are_no_matter(make_app: MakeApp) -> None:
    """A test may have pushed that of another one, which has no such database."""
    app, other = make_app("sqlite://", before=SQLAlchemy().init_app), Flask("other")
    client = app.test_client()
    with other.app_context():
        log_in(client, "ann")
        revoke(client)
        assert current_app == other


# The fixtures that the documentation shows.

EXAMPLE = Path(__file__).parents[2] / "examples" / "testing"
IN_MEMORY = (
    '        SQLALCHEMY_BINDS={"sessions": "sqlite://"},\n'
    '        SESSION_SQLALCHEMY_BIND_KEY="sessions",\n'
)


@pytest.mark.parametrize(
    ("backend", "workers", "in_memory"),
    on(
        ("sqlite-file", 2, True),
        ("postgresql", 2, True),
        ("postgresql", 0, False),
    ),
)
def test_the_documented_fixtures_work(
    make_empty_database: MakeDatabase,
    tmp_path: Path,
    backend: str,
    workers: int,
    in_memory: bool,
) -> None:
    """The conftest.py of the page "Testing an application", copied as a whole: no test
    finds what another one has left, and no worker what another one writes. On
    PostgreSQL the sessions may be beside everything else.
    """
    folder = tmp_path / "tests"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    if not in_memory:
        conftest = folder / "conftest.py"
        text = conftest.read_text(encoding="utf-8")
        assert IN_MEMORY in text
        conftest.write_text(text.replace(IN_MEMORY, ""), encoding="utf-8")
    # Not what this very run tells of itself.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    if backend == "postgresql":
        environ["TEST_DATABASE_URL"] = make_empty_database(backend)
    options = [
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        f"--numprocesses={workers}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", "."],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "8 passed" in done.stdout
