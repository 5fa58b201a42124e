"""The application's connections are the application's: what it does with them, what its
listeners do to all of them, and how tests that roll everything back come to sessions.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from psycopg_pool import ConnectionPool

from flask_sessionsql import (
    Session,
    SessionConfigError,
    SessionTableError,
    SessionValueError,
)
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import (
    assert_sessions_work,
    at_once,
    configured,
    on,
    store_of,
    tables_in,
    wait_until,
)
from tests.integration.helpers import add_views, same_browser, visit
from tests.storage.helpers import kill_connections

SESSIONS = Session()


def make_notes(make_app: MakeApp, uri: str, **config: Any) -> tuple[Flask, SQLAlchemy]:
    """An application that has notes of its own, on an engine with these options."""
    db = SQLAlchemy()
    app = add_views(make_app(uri, before=db.init_app, **config))
    sa.Table("note", db.metadata, sa.Column("text", sa.String(20)))
    with app.app_context():
        db.create_all()

    @app.get("/undo")
    def undo() -> str:
        """Writes a note, uses the session meanwhile, and thinks better of it."""
        db.session.execute(sa.text("INSERT INTO note VALUES ('x')"))
        session["undone"] = session.get("undone", 0) + 1
        db.session.rollback()
        return "ok"

    @app.get("/notes")
    def notes() -> str:
        session["asked"] = True
        return str(db.session.scalar(sa.text("SELECT count(*) FROM note")))

    @app.get("/write")
    def write() -> str:
        session["written"] = session.get("written", 0) + 1
        db.session.execute(sa.text("INSERT INTO note VALUES ('x')"))
        db.session.commit()
        return "ok"

    return app, db


def assert_apart(app: Flask) -> None:
    """What the application undoes is undone, what it commits stays, and its sessions
    keep what they are given either way.
    """
    client = app.test_client()
    for path in ("/undo", "/notes", "/undo"):
        assert client.get(path).status_code == 200
    assert client.get("/notes").text == "0"
    assert client.get("/write").status_code == 200
    assert client.get("/notes").text == "1"
    assert client.get("/all").json == {"undone": 2, "asked": True, "written": 1}


# Connections that somebody else makes.


@pytest.mark.postgresql
@pytest.mark.parametrize("poolclass", [sa.NullPool, sa.QueuePool])
def test_connections_from_a_pool_of_the_driver_s(
    make_app: MakeApp, make_empty_database: MakeDatabase, poolclass: type[sa.Pool]
) -> None:
    """psycopg's own pool, which SQLAlchemy is told to take its connections from: the
    application goes on having transactions.
    """
    uri = make_empty_database("postgresql")
    address = sa.make_url(uri).set(drivername="postgresql").render_as_string(False)
    with ConnectionPool(address, min_size=1, max_size=2, close_returns=True) as pool:
        options = {"creator": pool.getconn, "poolclass": poolclass}
        app, db = make_notes(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=options)
        assert_apart(app)
        with app.app_context():
            SESSIONS.dispose()
            db.engine.dispose()
        with pool.connection() as connection:
            assert not connection.autocommit


@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql", "mariadb"))
def test_connections_that_the_application_makes(
    make_app: MakeApp, make_empty_database: MakeDatabase, backend: str
) -> None:
    """A 'creator' that makes a new one each time, as one does that fetches a token."""
    uri = make_empty_database(backend)
    plain = sa.create_engine(uri)
    made = []

    def creator() -> Any:
        [arguments, options] = plain.dialect.create_connect_args(plain.url)
        made.append(plain.dialect.connect(*arguments, **options))
        return made[-1]

    app, _ = make_notes(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS={"creator": creator})
    assert_apart(app)
    assert len(made) >= 2


@pytest.mark.sqlite_file
@pytest.mark.parametrize("poolclass", [sa.StaticPool, sa.AssertionPool])
def test_one_connection_for_everybody(
    make_app: MakeApp, tmp_path: Path, poolclass: type[sa.Pool]
) -> None:
    """It cannot be the sessions' as well: the error says what to set, and names no
    file.
    """
    with closing(sqlite3.connect(tmp_path / "app.db", check_same_thread=False)) as one:
        options = {"creator": lambda: one, "poolclass": poolclass}
        app = configured(
            "sqlite:///app.db", SQLALCHEMY_ENGINE_OPTIONS=options, TESTING=True
        )
        SQLAlchemy(app)
        Session(app)
        with pytest.raises(SessionConfigError, match="SESSION_SQLALCHEMY_BIND_KEY"):
            add_views(app).test_client().get("/set/a/1")
        one.execute("CREATE TABLE t (x)")  # it is open


@pytest.mark.sqlite_file
def test_a_connection_that_is_in_use(make_app: MakeApp, tmp_path: Path) -> None:
    """A 'creator' gives the one on which the application has begun something. That goes
    on undisturbed, and the request that wants its session says what is wrong.
    """
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path, check_same_thread=False)) as one:
        one.execute("CREATE TABLE t (x)")
        options = {"creator": lambda: one}
        app = add_views(
            make_app(
                f"sqlite:///{path}",
                before=lambda app: SQLAlchemy(app),
                SQLALCHEMY_ENGINE_OPTIONS=options,
            )
        )
        one.execute("INSERT INTO t VALUES (1)")
        assert one.in_transaction
        with pytest.raises(SessionConfigError, match="is in a transaction"):
            app.test_client().get("/set/a/1")
        assert one.in_transaction
        one.rollback()
        assert one.execute("SELECT count(*) FROM t").fetchone() == (0,)
        assert app.test_client().get("/set/a/1").status_code == 200
        one.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(SessionConfigError, match="is in a transaction"):
            app.test_client().get("/set/a/1")
        one.rollback()
        assert one.execute("SELECT count(*) FROM t").fetchone() == (0,)


# Listeners for all connections of all engines.


@contextmanager
def closing_engine(engine: sa.Engine) -> Iterator[sa.Engine]:
    yield engine
    engine.dispose()


@contextmanager
def on_all_engines(**listeners: Any) -> Iterator[None]:
    """Listeners on the class, as SQLAlchemy's documentation shows them."""
    for name, listener in listeners.items():
        sa.event.listen(sa.Engine, name, listener)
    yield
    for name, listener in listeners.items():
        sa.event.remove(sa.Engine, name, listener)


def begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def no_begin_by_itself(connection: Any, record: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.isolation_level = None


def begin_at_once(connection: Any, record: object, *proxy: object) -> None:
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")


LISTENERS: dict[str, dict[str, Any]] = {
    # SQLAlchemy's recipe for savepoints on SQLite.
    "recipe": {"connect": no_begin_by_itself, "begin": begin},
    "begin": {"begin": begin},
    "connect": {"connect": begin_at_once},
    "checkout": {"checkout": begin_at_once},
}


@pytest.mark.filterwarnings("ignore:there is already a transaction")
@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql", "mariadb"))
@pytest.mark.parametrize("listeners", LISTENERS)
def test_listeners_that_begin_transactions(
    make_app: MakeApp, make_empty_database: MakeDatabase, backend: str, listeners: str
) -> None:
    """Nothing is left open, lost or locked by it: what a request has stored, others
    find, and write, too; logins over the limit, lists, ends and the purge work.
    """
    uri = make_empty_database(backend)
    with on_all_engines(**LISTENERS[listeners]):
        app = add_views(make_app(uri, SESSION_MAX_PER_USER=1))
        assert_sessions_work(app)
        client, other = app.test_client(), app.test_client()
        for browser in (client, other):
            assert browser.get("/set/_user_id/ann").status_code == 200
        assert client.get("/get/_user_id").text == "None"
        assert other.get("/get/_user_id").text == "'ann'"
        assert at_once([partial(writes, other, n) for n in range(4)]) == [200] * 4
        with app.app_context():
            assert len(SESSIONS.user_sessions("ann")) == 1
            assert SESSIONS.revoke_user("ann") == 1
        assert other.get("/all").json == {}
        purged = app.test_cli_runner().invoke(args=["sessions", "purge"])
        assert purged.output == "Deleted 0 expired sessions.\n"
    with closing_engine(sa.create_engine(uri)) as engine, engine.begin() as connection:
        everything = sa.text("DELETE FROM flask_sessionsql")
        assert connection.execute(everything).rowcount == 1


def writes(browser: FlaskClient, number: int) -> int:
    return same_browser(browser).get(f"/set/key{number}/x").status_code


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has it from 3.12 on")
@pytest.mark.sqlite_file
@pytest.mark.parametrize("autocommit", [True, False])
def test_the_newer_transactions_of_sqlite3(
    make_app: MakeApp, tmp_path: Path, autocommit: bool
) -> None:
    """With autocommit=False the driver has a transaction open at any time, in which
    nothing of a session would ever be committed.
    """
    options = {"connect_args": {"autocommit": autocommit}}
    uri = f"sqlite:///{tmp_path / 'app.db'}"
    app = add_views(make_app(uri, SQLALCHEMY_ENGINE_OPTIONS=options))
    assert_sessions_work(app)
    with closing(sqlite3.connect(tmp_path / "app.db", timeout=0)) as other:
        other.execute("DELETE FROM flask_sessionsql")
        other.commit()


# Tests that roll everything back.


@pytest.fixture
def rolled_back(make_app: MakeApp, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes an application, and puts a connection with a transaction into the place of
    its engine, as fixtures do; what it is given runs within that.
    """
    needs_recipe = "sqlite" in request.node.nodeid.rpartition("::")[2]

    @contextmanager
    def make(uri: str, **config: Any) -> Iterator[tuple[Flask, SQLAlchemy]]:
        app, db = make_notes(make_app, uri, **config)
        with app.app_context():
            engine = db.engines[None]
            connection = engine.connect()
            transaction = connection.begin()
            db.engines[None] = connection  # type: ignore[index]
            db.session.configure(join_transaction_mode="create_savepoint")
            try:
                yield app, db
            finally:
                db.session.remove()
                transaction.rollback()
                connection.close()
                db.engines[None] = engine  # type: ignore[index]

    with on_all_engines(**LISTENERS["recipe"]) if needs_recipe else nullcontext():
        yield make


@pytest.mark.parametrize("backend", on("sqlite-memory", "postgresql", "mariadb"))
def test_a_connection_in_place_of_the_engine(
    rolled_back: Any, make_empty_database: MakeDatabase, backend: str
) -> None:
    """Sessions work as ever, and the rollback undoes what the application has done."""
    with rolled_back(make_empty_database(backend)) as (app, db):
        assert_sessions_work(app)
        client = app.test_client()
        assert client.get("/write").status_code == 200
        assert client.get("/notes").text == "1"
        assert client.get("/all").json == {"written": 1, "asked": True}
    with app.app_context():
        assert db.session.scalar(sa.text("SELECT count(*) FROM note")) == 0
        db.session.remove()


@pytest.mark.sqlite_file
def test_a_connection_in_place_of_the_engine_of_a_sqlite_file(
    rolled_back: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a SQLite file a transaction that has written keeps the sessions out until the
    test is over. The log says so at once, and where to read what to do; with sessions
    in a database of their own, it does not happen.
    """
    uri = f"sqlite:///{tmp_path / 'app.db'}"
    with rolled_back(uri) as (app, _):
        client = app.test_client()
        assert client.get("/write").status_code == 200
        [told] = [record for record in caplog.records if "SQLite" in record.message]
        assert told.levelname == "WARNING"
        assert "when the context ends" in told.message
        assert "the page about testing" in told.message
    caplog.clear()
    own = {
        "SQLALCHEMY_BINDS": {"sessions": "sqlite://"},
        "SESSION_SQLALCHEMY_BIND_KEY": "sessions",
    }
    with rolled_back(uri, **own) as (app, _):
        client = app.test_client()
        for _ in range(2):
            assert client.get("/write").status_code == 200
        assert client.get("/all").json == {"written": 2}
    assert not [record for record in caplog.records if "SQLite" in record.message]


@pytest.mark.sqlite_file
def test_a_view_of_its_own_context_is_not_warned_of(
    make_app: MakeApp, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a view has flushed and not committed is undone at the end of its request,
    and the session is there for the next one: nothing to be told.
    """
    app, db = make_notes(make_app, f"sqlite:///{tmp_path / 'app.db'}")
    client = app.test_client()

    def flush() -> str:
        db.session.execute(sa.text("INSERT INTO note VALUES ('x')"))
        session["cart"] = "tea"
        return "ok"

    client.get("/set/a/1")
    assert visit(client, flush).status_code == 200
    assert client.get("/get/cart").text == "'tea'"
    assert caplog.records == []


@pytest.mark.postgresql
def test_the_table_in_a_transaction_that_is_not_committed(
    make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """Within db.create_all() on a connection that is to be rolled back, the first use
    does not wait for ever: the error says what to do, also where a server that does not
    answer is not waited for as long.
    """
    db = SQLAlchemy()
    uri = make_empty_database("postgresql")
    app = add_views(make_app(uri, before=db.init_app, SESSION_DATABASE_TIMEOUT=2))
    with app.app_context(), db.engine.connect() as connection, connection.begin():
        db.metadata.create_all(connection)
        with pytest.raises(SessionTableError, match="another transaction") as caught:
            app.test_client().get("/set/a/1")
        assert "Commit" in str(caught.value)
    assert app.test_client().get("/set/a/1").status_code == 200


@pytest.mark.mariadb
def test_creating_the_table_leaves_no_shorter_wait(
    make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """On MariaDB the bound is the connection's: it is put back."""
    options = {"connect_args": {"init_command": "SET lock_wait_timeout = 1234"}}
    uri = make_empty_database("mariadb")
    app = make_app(uri, SQLALCHEMY_ENGINE_OPTIONS=options)
    assert_sessions_work(app)
    with store_of(app).engine.connect() as connection:
        wait = connection.exec_driver_sql("SELECT @@lock_wait_timeout").scalar_one()
    assert wait == 1234


# What the application's engine does.


@pytest.mark.postgresql
def test_a_schema_that_the_engine_translates(
    make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """The sessions are where the application's migrations have made the table."""
    uri = make_empty_database("postgresql")
    with closing_engine(sa.create_engine(uri)) as engine, engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA web")
    db = SQLAlchemy()
    options = {"execution_options": {"schema_translate_map": {None: "web"}}}
    app = make_app(
        uri,
        before=db.init_app,
        SQLALCHEMY_ENGINE_OPTIONS=options,
        SESSION_CREATE_TABLE=False,
        SESSION_MAX_PER_USER=1,
    )
    with app.app_context():
        db.create_all()
    client = add_views(app).test_client()
    assert client.get("/set/_user_id/ann").status_code == 200
    assert client.get("/get/_user_id").text == "'ann'"
    with app.app_context():
        assert SESSIONS.revoke_user("ann") == 1
    assert "web" not in app.test_cli_runner().invoke(args=["sessions", "check"]).output
    assert tables_in(uri) == set()


@pytest.mark.parametrize("by", ["engine", "call"])
@pytest.mark.postgresql
def test_a_database_that_is_to_be_dropped(
    make_app: MakeApp, make_empty_database: MakeDatabase, by: str
) -> None:
    """After db.engine.dispose(), or the sessions' own call, nobody is connected, and
    the next request is served all the same.
    """
    db = SQLAlchemy()
    uri = make_empty_database("postgresql")
    app = make_app(uri, before=db.init_app)
    assert_sessions_work(app)
    with app.app_context():
        db.session.execute(sa.text("SELECT 1"))
        db.session.remove()
        if by == "call":
            SESSIONS.dispose()
        db.engine.dispose()
    admin = sa.create_engine(uri, poolclass=sa.NullPool)
    others = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    def nobody() -> bool:
        with admin.connect() as connection:
            return bool(connection.scalar(others) == 0)

    wait_until(nobody, 10)
    assert app.test_client().get("/visits").text == "1"


# SQLite's files, and its memory.


@pytest.mark.sqlite_file
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "shared"])
@pytest.mark.parametrize("first", ["/get/a", "/set/b/2"])
def test_a_file_that_is_replaced(
    make_app: MakeApp, tmp_path: Path, alone: bool, first: str
) -> None:
    """Whoever puts another file in its place, as from a backup, has it used at once: by
    requests that read and by those that write.
    """
    path, other = tmp_path / "app.db", tmp_path / "other.db"

    def before(app: Flask) -> None:
        if not alone:
            SQLAlchemy(app)

    app = add_views(make_app(f"sqlite:///{path}", before=before))
    client = app.test_client()
    client.get("/set/a/old")
    with closing(sqlite3.connect(path)) as old, closing(sqlite3.connect(other)) as new:
        old.backup(new)
    client.get("/set/a/lost")
    for name in ("-wal", "-shm"):
        (tmp_path / f"app.db{name}").unlink(missing_ok=True)
    os.replace(other, path)
    assert client.get(first).status_code == 200
    assert client.get("/get/a").text == "'old'"
    assert client.get("/set/a/new").status_code == 200
    with closing(sqlite3.connect(path)) as found:
        rows = found.execute("SELECT count(*) FROM flask_sessionsql")
        assert rows.fetchone() == (1,)


@pytest.mark.sqlite_file
def test_a_file_that_is_deleted(make_app: MakeApp, tmp_path: Path) -> None:
    """Sessions begin anew in another one."""
    path = tmp_path / "app.db"
    app = add_views(make_app(f"sqlite:///{path}"))
    client = app.test_client()
    client.get("/set/a/1")
    for file in tmp_path.glob("app.db*"):
        file.unlink()
    assert client.get("/get/a").text == "None"
    assert client.get("/set/a/2").status_code == 200
    assert client.get("/get/a").text == "'2'"
    assert path.exists()


@pytest.mark.filterwarnings("ignore:Selection of the SingletonThreadPool")
@pytest.mark.sqlite_memory
@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:x?mode=memory&cache=shared&uri=true",
        "sqlite:///file::memory:?cache=shared&uri=true",
        "sqlite:///file:/x?vfs=memdb&uri=true",
    ],
)
def test_memory_that_an_address_names(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str
) -> None:
    """All threads have the same sessions."""
    monkeypatch.chdir(tmp_path)
    client = add_views(make_app(uri)).test_client()
    client.get("/set/a/1")
    assert at_once([partial(writes, client, n) for n in range(8)]) == [200] * 8
    expected = {"a": "1", **{f"key{n}": "x" for n in range(8)}}
    assert client.get("/all").json == expected
    assert list(tmp_path.glob("**/*x*")) == []


# Texts that a connection lacks.


@pytest.mark.parametrize(
    ("backend", "query"),
    on(
        ("mariadb", "charset=utf8"),
        ("mariadb", "charset=latin1"),
        ("postgresql", "client_encoding=latin1"),
    ),
)
def test_a_user_whose_name_cannot_be_kept(
    make_app: MakeApp,
    make_empty_database: MakeDatabase,
    backend: str,
    query: str,
) -> None:
    """It is the value that is refused, and says so; nobody else is taken for that user,
    and the connection is as good as before.
    """
    url = sa.make_url(make_empty_database(backend)).update_query_string(query)
    app = add_views(make_app(url.render_as_string(False)))
    ann, odd = app.test_client(), app.test_client()
    assert ann.get("/set/_user_id/ann").status_code == 200
    with pytest.raises(SessionValueError, match="utf8mb4") as caught:
        odd.get("/set/_user_id/ann\N{GRINNING FACE}")
    assert caught.value.key == "_user_id"
    assert "\N{GRINNING FACE}" not in str(caught.value)
    with app.app_context():
        assert SESSIONS.user_sessions("ann\N{GRINNING FACE}") == []
        assert SESSIONS.revoke_user("ann\N{GRINNING FACE}") == 0
        assert not SESSIONS.revoke("\N{GRINNING FACE}")
        assert len(SESSIONS.user_sessions("ann")) == 1
    assert ann.get("/get/_user_id").text == "'ann'"


@pytest.mark.mariadb
def test_a_server_that_is_not_strict(
    make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """It would leave out what the connection lacks, and store somebody else's name."""
    url = sa.make_url(make_empty_database("mariadb"))
    url = url.update_query_dict({"charset": "utf8"})
    options = {"connect_args": {"init_command": "SET SESSION sql_mode = ''"}}
    app = add_views(
        make_app(url.render_as_string(False), SQLALCHEMY_ENGINE_OPTIONS=options)
    )
    with pytest.raises(SessionValueError, match="utf8mb4"):
        app.test_client().get("/set/_user_id/ann\N{GRINNING FACE}")
    with app.app_context():
        assert SESSIONS.user_sessions("ann") == []


@pytest.mark.mariadb
def test_a_connection_that_is_lost_as_it_is_given_back(
    make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """Its place in the pool stays: those who come later are served."""
    uri = make_empty_database("mariadb")
    plain = sa.create_engine(uri)

    def creator() -> Any:
        [arguments, options] = plain.dialect.create_connect_args(plain.url)
        return plain.dialect.connect(*arguments, **options)

    options = {"creator": creator, "pool_size": 1, "max_overflow": 0}
    app, _ = make_notes(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=options)
    client = app.test_client()
    assert client.get("/set/a/1").status_code == 200
    store = store_of(app)
    lost: list[bool] = []

    def lose(connection: object, record: object) -> None:
        if not lost:
            lost.append(True)
            kill_connections(store)

    sa.event.listen(store.engine, "checkin", lose, insert=True)
    for value in ("2", "3"):
        assert client.get(f"/set/a/{value}").status_code == 200
        assert client.get("/get/a").text == repr(value)
    assert lost
