"""The life of a session on each driver: what its user and its operator see.

What a driver takes and gives as bytes, and how it says what is wrong, is its own. The
keys in the table are what HMAC makes of them: bytes that are no UTF-8.
"""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session, SessionConfigError, session_ended
from flask_sessionsql.storage.purging import purge_batch
from tests.conftest import MakeApp
from tests.helpers import Clock, at_once, store_of, told_by
from tests.integration.helpers import (
    add_views,
    during,
    regenerate,
    rows,
    same_browser,
    visit,
)
from tests.storage.helpers import kill_connections

SESSIONS = Session()


@pytest.fixture
def make_driven(make_app: MakeApp, driver_uri: str) -> Any:
    """Makes an application on the driver's empty database."""

    def make(**config: Any) -> Flask:
        return add_views(make_app(driver_uri, **config))

    return make


@pytest.fixture
def app(make_driven: Any) -> Flask:
    driven: Flask = make_driven()
    return driven


def browsers(app: Flask, user: str, count: int) -> list[FlaskClient]:
    """So many browsers of a user's."""
    found = [app.test_client() for _ in range(count)]
    for browser in found:
        assert browser.get(f"/set/_user_id/{user}").status_code == 200
    return found


def users_of(found: list[FlaskClient]) -> list[str]:
    """Who is logged in, in each of them."""
    return [browser.get("/get/_user_id").text for browser in found]


def test_a_session_begins_changes_and_ends(app: Flask) -> None:
    """The first use makes the table; every byte of a value comes back; a login moves
    the session, and a logout ends it.
    """
    client = app.test_client()
    value = bytes(range(256)) * 300

    def store() -> str:
        session.update(value=value, text="é\N{GRINNING FACE}")
        return "ok"

    assert visit(client, store).status_code == 200
    assert visit(client, lambda: str(session["value"] == value)).text == "True"
    old = same_browser(client)
    assert client.get("/set/_user_id/ann").status_code == 200
    assert client.get("/get/text").text == repr("é\N{GRINNING FACE}")
    assert old.get("/get/text").text == "None"
    left = same_browser(client)
    assert client.get("/clear").status_code == 200
    assert left.get("/all").json == {}
    assert rows(app) == []


def test_requests_at_once_keep_what_each_has_put_in(app: Flask) -> None:
    """None of them is lost, and no request fails."""
    client = app.test_client()
    client.get("/set/a/1")

    def put(name: str) -> int:
        return same_browser(client).get(f"/set/{name}/x").status_code

    assert at_once([partial(put, f"key{n}") for n in range(6)]) == [200] * 6
    expected = {"a": "1", **{f"key{n}": "x" for n in range(6)}}
    assert client.get("/all").json == expected


def test_an_ended_session_stays_ended(app: Flask) -> None:
    """A request that is under way when its user is thrown out brings nothing back."""
    client = app.test_client()
    client.get("/set/_user_id/ann")

    def throw_out() -> None:
        with app.app_context():
            assert SESSIONS.revoke_user("ann") == 1

    def put() -> str:
        session["cart"] = "tea"
        return "ok"

    during(client, put, throw_out)
    assert client.get("/all").json == {}
    assert rows(app) == []


@pytest.mark.parametrize("count", [1, 3])
def test_ends_are_told_as_often_as_they_happen(app: Flask, count: int) -> None:
    """revoke_user(), revoke() and revoke_all(): what they return, what is told, and who
    is logged in afterwards.
    """
    anns, bens = browsers(app, "ann", count), browsers(app, "ben", 2)
    visitor = app.test_client()
    visitor.get("/set/cart/tea")
    with app.app_context(), told_by(session_ended, app) as told:
        assert SESSIONS.revoke_user("ann") == count
        assert [event.user_id for event in told] == ["ann"] * count
        listed = SESSIONS.user_sessions("ben")
        assert len(listed) == 2
        assert SESSIONS.revoke(listed[0].handle, user="ben")
        assert not SESSIONS.revoke(listed[0].handle, user="ben")
        assert len(told) == count + 1
    assert users_of(anns) == ["None"] * count
    assert sorted(users_of(bens)) == ["'ben'", "None"]
    with app.app_context():
        assert SESSIONS.revoke_all() == 2
    assert users_of(bens) == ["None"] * 2
    assert visitor.get("/all").json == {}


def test_a_login_too_many_ends_the_oldest(make_driven: Any, clock: Clock) -> None:
    """And no other, also where several come at once."""
    app = make_driven(SESSION_MAX_PER_USER=2)
    with told_by(session_ended, app) as told:
        first = browsers(app, "ann", 1)
        clock.now += 1
        browsers(app, "ann", 2)
        assert users_of(first) == ["None"]
        assert [event.reason for event in told] == ["limit"]
    clock.now += 1
    results = at_once([partial(browsers, app, "ann", 1) for _ in range(4)])
    found = [browser for result in results for browser in result]
    assert sorted(users_of(found)) == ["'ann'"] * 2 + ["None"] * 2


def test_a_logout_with_a_token_of_before(app: Flask) -> None:
    """It ends the session where it has moved to: the columns that hold keys are
    compared as bytes.
    """
    client = app.test_client()
    client.get("/set/_user_id/ann")
    late = same_browser(client)

    def log_out() -> str:
        session.clear()
        return "ok"

    during(late, log_out, lambda: visit(client, regenerate))
    assert client.get("/get/_user_id").text == "None"


def test_the_operators_commands(app: Flask, clock: Clock) -> None:
    """check finds nothing wrong with the table; purge deletes what has expired, as many
    as it says; list, show and stats tell what there is.
    """
    browsers(app, "ann", 3)
    clock.now += 32 * 24 * 3600
    [ben] = browsers(app, "ben", 1)
    run = app.test_cli_runner().invoke
    assert "database" not in run(args=["sessions", "check"]).output
    assert "flask_sessionsql" not in run(args=["sessions", "check"]).output
    purged = run(args=["sessions", "purge", "--batch-size=2", "--pause=0"])
    assert purged.output == "Deleted 3 expired sessions.\n"
    assert len(rows(app)) == 1
    listed = run(args=["sessions", "list"]).output.splitlines()
    assert len(listed) == 2
    handle = listed[1].split()[0]
    assert "ben" in run(args=["sessions", "show", handle]).output
    assert "Live sessions:        1" in run(args=["sessions", "stats"]).output
    ended = run(args=["sessions", "revoke", "--user", "ben"])
    assert ended.output == "Ended 1 session.\n"
    assert users_of([ben]) == ["None"]


def test_the_purge_after_a_response(make_driven: Any, clock: Clock) -> None:
    """Rows that have expired go, and those that live on stay."""
    app = make_driven(SESSION_PURGE_INTERVAL=1)
    client = app.test_client()
    client.get("/set/a/1").close()
    assert len(rows(app)) == 1
    clock.now += 32 * 24 * 3600
    with app.app_context():
        assert purge_batch(store_of(app).database, int(clock.now), 10).deleted == 1
    assert rows(app) == []


def test_a_table_that_is_dropped(app: Flask) -> None:
    """It is made again, for who reads and for who writes; nobody meets an error."""
    client = app.test_client()
    client.get("/set/a/1")
    store = store_of(app)
    for visit_ in ("/get/a", "/set/a/2"):
        store.table.drop(store.engine)
        assert client.get(visit_).status_code == 200
    assert client.get("/get/a").text == "'2'"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_connections_that_are_lost(app: Flask) -> None:
    """Nobody meets an error, whatever is done first: reading, writing, ending all."""
    client = app.test_client()
    client.get("/set/a/1")
    for path in ("/get/a", "/set/a/2"):
        kill_connections(store_of(app))
        assert client.get(path).status_code == 200
    kill_connections(store_of(app))
    with app.app_context():
        assert SESSIONS.revoke_all() == 1
    gc.collect()  # pg8000 does not close the sockets of connections that were lost


def test_a_server_that_is_not_there(make_app: MakeApp, driver_uri: str) -> None:
    """A 503 for who touches the session, and no other page is any worse for it."""
    away = sa.make_url(driver_uri).set(port=1)
    client = add_views(make_app(away.render_as_string(False))).test_client()
    assert client.get("/set/a/1").status_code == 503
    assert client.get("/").status_code == 200


def test_a_database_that_is_not_there(make_app: MakeApp, driver_uri: str) -> None:
    """Likewise: it may come back, as after a restore."""
    away = sa.make_url(driver_uri).set(database="not_there")
    client = add_views(make_app(away.render_as_string(False))).test_client()
    assert client.get("/set/a/1").status_code == 503


def test_a_shared_connection_that_is_in_use(make_app: MakeApp, driver_uri: str) -> None:
    """A 'creator' gives the sessions the connection on which the application has begun
    something: they refuse it, whatever the driver says of it, and the application can
    still undo what it has done.
    """
    plain = sa.create_engine(driver_uri, poolclass=sa.NullPool)
    with plain.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE note (x INT)")
        connection.commit()
    one: Any = plain.raw_connection()
    shared = one.driver_connection

    def before(app: Flask) -> None:
        options = {"creator": lambda: shared, "pool_size": 1}
        app.config["SQLALCHEMY_ENGINE_OPTIONS"] = options
        SQLAlchemy(app)

    client = add_views(make_app(driver_uri, before)).test_client()
    cursor = shared.cursor()
    for _ in range(2):
        cursor.execute("INSERT INTO note VALUES (1)")
        with pytest.raises(SessionConfigError, match="is in a transaction"):
            client.get("/set/a/1")
        shared.rollback()
        cursor.execute("SELECT count(*) FROM note")
        assert cursor.fetchone()[0] == 0
        shared.rollback()
        assert client.get("/set/a/1").status_code == 200
    cursor.close()


def test_an_error_of_the_table_shows_no_row(make_driven: Any) -> None:
    """A column of somebody else's without a default: PostgreSQL shows the row that it
    refuses, and the error does not.
    """
    app = make_driven(SESSION_RECORD_CLIENT=True)
    app.test_client().get("/set/a/1")
    with app.app_context():
        SESSIONS.revoke_all()
    store = store_of(app)
    with store.engine.connect() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE flask_sessionsql ADD tenant INT NOT NULL CHECK (tenant > 5)"
        )
    client = app.test_client()
    with pytest.raises(sa.exc.DBAPIError) as caught:
        client.get("/set/_user_id/annabella")
    for shown in (str(caught.value), repr(caught.value.orig)):
        assert "tenant" in shown
        assert "annabella" not in shown
        assert "127.0.0.1" not in shown
    store.table.drop(store.engine)  # others would keep it


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_connection_that_is_lost_while_the_table_is_made(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no right that is missing: a 503, and the next request makes the table."""
    store = store_of(app)
    create = store.table.create

    def killed(connection: sa.Connection, **options: Any) -> None:
        monkeypatch.setattr(store.table, "create", create)
        kill_connections(store)
        create(connection, **options)

    monkeypatch.setattr(store.table, "create", killed)
    client = app.test_client()
    assert client.get("/set/a/1").status_code == 503
    assert client.get("/set/a/1").status_code == 200
    gc.collect()
