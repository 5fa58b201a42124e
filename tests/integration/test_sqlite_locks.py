"""A SQLite file has one lock for all. Who holds it decides what a session waits for."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session, SessionCreated, session_created
from flask_sessionsql.exceptions import SessionStoreBusyError
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, locked_file
from tests.integration.helpers import add_views, locked_for_a_while, rows, token, visit

SESSIONS = Session()


@pytest.fixture
def db() -> SQLAlchemy:
    return SQLAlchemy()


@pytest.fixture
def app(make_app: MakeApp, make_database: MakeDatabase, db: SQLAlchemy) -> Flask:
    return make_shop(make_app, make_database, db)


def make_shop(
    make_app: MakeApp, make_database: MakeDatabase, db: SQLAlchemy, **config: object
) -> Flask:
    app = make_app(make_database("sqlite-file"), db.init_app, **config)
    with app.app_context():
        db.session.execute(sa.text("CREATE TABLE note (text TEXT)"))
        db.session.commit()
    return add_views(app)


def read_something(db: SQLAlchemy) -> None:
    """As every request of a user does whom Flask-Login loads."""
    assert db.session.scalars(sa.text("SELECT text FROM note")).all() == []
    assert db.session().in_transaction()


def test_who_has_only_read_waits_to_end_a_session(app: Flask, db: SQLAlchemy) -> None:
    """Another's lock is no reason to refuse: this request holds none."""
    client = app.test_client()
    client.get("/set/_user_id/ann")

    def view() -> str:
        read_something(db)
        return str(SESSIONS.revoke_user("ann"))

    with locked_for_a_while(app):
        assert visit(client, view).text == "1"
    assert rows(app) == []


def test_who_has_only_read_waits_to_save(app: Flask, db: SQLAlchemy) -> None:
    """The session is in the table before the response is made, and not after it."""
    client = app.test_client()
    stored: list[int] = []

    @app.teardown_request
    def look(error: BaseException | None) -> None:
        stored.append(len(rows(app)))

    def view() -> str:
        read_something(db)
        session["a"] = 1
        return "ok"

    rows(app)
    with locked_for_a_while(app):
        assert visit(client, view).status_code == 200
    assert stored == [1]


def test_a_connection_that_is_gone_holds_no_lock(app: Flask, db: SQLAlchemy) -> None:
    """Its transaction went with it."""
    client = app.test_client()
    client.get("/set/_user_id/ann")

    def view() -> str:
        db.session.execute(sa.text("INSERT INTO note VALUES ('lost')"))
        db.session.connection().invalidate()
        return str(SESSIONS.revoke_user("ann"))

    assert visit(client, view).text == "1"


def test_a_transaction_that_cannot_be_looked_into_may_hold_it(
    app: Flask, db: SQLAlchemy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should SQLAlchemy not tell what a transaction has done, nothing waits for it."""
    client = app.test_client()
    client.get("/set/_user_id/ann")
    monkeypatch.setattr("sqlalchemy.orm.Session.get_transaction", lambda _: object())

    def view() -> str:
        read_something(db)
        with pytest.raises(SessionStoreBusyError, match="503"):
            SESSIONS.revoke_user("ann")
        return "ok"

    with locked_file(app.config["SQLALCHEMY_DATABASE_URI"]):
        assert visit(client, view).text == "ok"
    assert len(rows(app)) == 1


def test_a_login_that_is_refused_after_its_response(
    make_app: MakeApp,
    make_database: MakeDatabase,
    db: SQLAlchemy,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the view's own work locked the file, the refusal comes late: the token that
    has left opens nothing, the log says so, and the view's work is kept.
    """
    caplog.set_level(logging.INFO, "flask_sessionsql")
    app = make_shop(
        make_app,
        make_database,
        db,
        SESSION_MAX_PER_USER=1,
        SESSION_MAX_PER_USER_POLICY="refuse",
    )
    app.test_client().get("/set/_user_id/ann")
    client = app.test_client()

    def log_in(text: str) -> str:
        db.session.execute(sa.text("INSERT INTO note VALUES (:text)"), {"text": text})
        session["_user_id"] = "ann"
        return "ok"

    assert visit(client, partial(log_in, "kept")).status_code == 200
    assert "A login was refused after its response" in caplog.text
    assert token(client) not in caplog.text
    assert client.get("/all").json == {}
    assert len(rows(app)) == 1


def test_what_a_receiver_begins_after_the_response_is_cleaned_up(
    app: Flask, db: SQLAlchemy
) -> None:
    """A write that was put off is told of when the application's session is removed
    already. What the receiver then begins and leaves keeps nobody from the file.
    """
    told: list[SessionCreated] = []

    def note(sender: Flask, event: SessionCreated) -> None:
        told.append(event)
        db.session.execute(sa.text("INSERT INTO note VALUES ('audit')"))

    def view() -> str:
        db.session.execute(sa.text("INSERT INTO note VALUES ('unfinished')"))
        session["a"] = 1
        return "ok"

    with session_created.connected_to(note, app):
        visit(app.test_client(), view)
    assert len(told) == 1
    other = sa.create_engine(
        app.config["SQLALCHEMY_DATABASE_URI"], connect_args={"timeout": 0.1}
    )
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        notes = connection.exec_driver_sql("SELECT count(*) FROM note").scalar()
        connection.rollback()
    other.dispose()
    assert notes == 0


# A file of the sessions alone.


def mode_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        [mode] = connection.execute("PRAGMA journal_mode").fetchone()
    return str(mode)


def test_readers_do_not_wait_for_a_writer(make_app: MakeApp, tmp_path: Path) -> None:
    """In a file that has the sessions alone, a page comes while another process is
    writing, and has what was stored before.
    """
    path = tmp_path / "sessions.db"
    client = add_views(make_app(f"sqlite:///{path}")).test_client()
    client.get("/set/a/1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM flask_sessionsql")
        assert client.get("/all").json == {"a": "1"}


def test_writers_do_not_wait_for_a_reader(make_app: MakeApp, tmp_path: Path) -> None:
    """A backup that reads the file, say, keeps no request from storing its session."""
    path = tmp_path / "sessions.db"
    app = add_views(make_app(f"sqlite:///{path}"))
    client = app.test_client()
    client.get("/set/a/1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        assert len(other.execute("SELECT * FROM flask_sessionsql").fetchall()) == 1
        assert client.get("/set/a/2").status_code == 200
    assert client.get("/all").json == {"a": "2"}


@pytest.mark.parametrize("mode", ["ro", "immutable"])
def test_files_that_are_read_only(mode: str, make_app: MakeApp, tmp_path: Path) -> None:
    """They are read, and no byte of them changes; who would store something in one is
    told that the service is unavailable.
    """
    first, path = tmp_path / "sessions.db", tmp_path / "copy.db"
    writer = add_views(make_app(f"sqlite:///{first}")).test_client()
    writer.get("/set/a/1")
    with closing(sqlite3.connect(first)) as connection:
        connection.execute("VACUUM INTO ?", [str(path)])
    before = path.read_bytes()
    options = {"ro": "mode=ro", "immutable": "immutable=1"}[mode]
    app = add_views(make_app(f"sqlite:///file:{path}?{options}&uri=true"))
    client = app.test_client()
    client.set_cookie("session", token(writer))
    assert client.get("/all").json == {"a": "1"}
    assert client.get("/set/b/2").status_code == 503
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.glob("copy.db*")] == ["copy.db"]


def test_the_mode_of_an_application_s_file_is_its_own(
    app: Flask, make_app: MakeApp, tmp_path: Path
) -> None:
    """Where the application has a SQLAlchemy object, its file stays as it is."""
    app.test_client().get("/set/a/1")
    path = Path(sa.make_url(app.config["SQLALCHEMY_DATABASE_URI"]).database or "")
    assert mode_of(path) == "delete"
    alone = tmp_path / "alone.db"
    add_views(make_app(f"sqlite:///{alone}")).test_client().get("/set/a/1")
    assert mode_of(alone) == "wal"


# What several requests put off.


def hold_the_lock(db: SQLAlchemy) -> None:
    db.session.execute(sa.text("INSERT INTO note VALUES ('unfinished')"))


def test_what_is_put_off_is_written_in_order(app: Flask, db: SQLAlchemy) -> None:
    """Of three requests in one context, as a test has them, the last one's value stays,
    and each one's keys.
    """
    client = app.test_client()
    client.get("/set/a/0")
    for last in ("1", "2", "3"):
        with app.app_context():
            hold_the_lock(db)
            for value in ("one", "two", "three", last):
                client.get(f"/set/a/{value}")
                client.get(f"/set/{value}/kept")
        stored = client.get("/all").json
        assert stored is not None
        assert stored["a"] == last
        assert {"one", "two", "three", last} <= {*stored}


def test_use_is_noted_when_the_lock_is_gone(
    app: Flask, db: SQLAlchemy, clock: Clock
) -> None:
    """Of a session that a view has only read, though it holds the lock meanwhile."""
    client = app.test_client()
    client.get("/set/a/1")
    [before] = rows(app)
    clock.now += 24 * 3600

    def view() -> str:
        hold_the_lock(db)
        return str(session["a"])

    assert visit(client, view).text == "1"
    [after] = rows(app)
    assert after.last_used_at - before.last_used_at == 24 * 3600
    assert after.expires_at - before.expires_at == 24 * 3600


def test_what_is_put_off_is_tried_each(
    app: Flask, db: SQLAlchemy, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the first of three cannot be written, the others are, the error is met, and
    nothing of it comes back in another context.
    """
    clients = [app.test_client() for _ in range(3)]
    for client in clients[:2]:
        client.get("/set/a/0")
    refused = [row.handle for row in rows(app)]
    clients[2].get("/set/a/0")
    with app.app_context():
        names = ", ".join(f"'{handle}'" for handle in refused)
        db.session.execute(
            sa.text(
                "CREATE TRIGGER refuse BEFORE UPDATE ON flask_sessionsql"
                f" WHEN old.handle IN ({names})"
                " BEGIN SELECT RAISE(ABORT, 'refused by the trigger'); END"
            )
        )
        db.session.commit()

    def visit_all() -> None:
        with app.app_context():
            hold_the_lock(db)
            for client in clients:
                client.get("/set/a/1")

    with pytest.raises(sa.exc.IntegrityError, match="refused by the trigger"):
        visit_all()
    assert "Another session was not stored" in caplog.text
    with app.app_context():
        pass
    stored = [client.get("/all").json for client in clients]
    assert stored == [{"a": "0"}, {"a": "0"}, {"a": "1"}]
