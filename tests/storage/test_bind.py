"""Where the sessions of an application are, whatever its SQLAlchemy object."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session, SessionConfigError, SessionTableError
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.storage.bind import SessionsBind
from tests.conftest import MakeApp
from tests.helpers import assert_sessions_work, close, configured, store_of, tables_in

TABLE = "flask_sessionsql"


def test_one_sqlalchemy_object_for_several_apps(tmp_path: Path) -> None:
    """Two applications, one ``db``, two databases: each has its sessions in its own."""
    db = SQLAlchemy()
    uris = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two")]
    apps = []
    for uri in uris:
        app = configured(uri, SESSION_SQLALCHEMY=db)
        db.init_app(app)
        Session(app)
        apps.append(app)
    for app in apps:
        assert_sessions_work(app)
    close(*apps)
    assert [tables_in(uri) for uri in uris] == [{TABLE}, {TABLE}]


@pytest.mark.parametrize("order", ["Session first", "SQLAlchemy first"])
@pytest.mark.parametrize("given", [True, False])
def test_create_all_creates_the_table(
    shared_database_uri: str, order: str, given: bool
) -> None:
    """The table stands in the metadata before any request, so ``db.create_all()`` and
    migrations see it.
    """
    db = SQLAlchemy()
    app = configured(
        shared_database_uri,
        SESSION_CREATE_TABLE=False,
        SESSION_SQLALCHEMY=db if given else None,
    )
    for extension in (Session(), db) if order == "Session first" else (db, Session()):
        extension.init_app(app)
    with app.app_context():
        db.create_all()
    assert_sessions_work(app)
    close(app)
    assert tables_in(shared_database_uri) == {TABLE}


def test_a_context_before_the_database_is_known(tmp_path: Path) -> None:
    """A context that is pushed between the two extensions does no harm."""
    app = configured(f"sqlite:///{tmp_path}/app.db")
    Session(app)
    with app.app_context():
        pass
    db = SQLAlchemy()
    db.init_app(app)
    with app.app_context():
        assert TABLE in db.metadata.tables
    assert_sessions_work(app)
    close(app)


def test_no_sqlalchemy_object_is_needed(database_uri: str) -> None:
    """The quickstart's case: an address and nothing more, and nothing is added to the
    application that a later ``db.init_app`` would trip over.
    """
    app = configured(database_uri)
    Session(app)
    assert_sessions_work(app)
    assert "sqlalchemy" not in app.extensions
    close(app)


def test_only_session_type_needs_to_be_set(make_app: MakeApp, tmp_path: Path) -> None:
    """Without an address the sessions are in a SQLite file in the instance folder."""
    app = make_app()
    assert_sessions_work(app)
    assert (tmp_path / "instance" / "sessions.db").exists()


def test_a_relative_file_is_in_the_instance_folder(
    make_app: MakeApp, tmp_path: Path
) -> None:
    """Addresses mean what they mean to Flask-SQLAlchemy."""
    assert_sessions_work(make_app("sqlite:///here.db"))
    assert (tmp_path / "instance" / "here.db").exists()


@pytest.mark.parametrize("with_db", [True, False])
def test_engine_options_apply(make_app: MakeApp, tmp_path: Path, with_db: bool) -> None:
    """SQLALCHEMY_ENGINE_OPTIONS are those of the sessions' engine too."""
    before = SQLAlchemy().init_app if with_db else lambda app: None
    app = make_app(
        f"sqlite:///{tmp_path}/app.db",
        before,
        SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 7, "max_overflow": 1},
    )
    assert_sessions_work(app)
    pool = store_of(app).engine.pool
    assert isinstance(pool, sa.QueuePool)
    assert pool.size() == 8


@pytest.mark.parametrize("with_db", [True, False])
def test_echo_applies(
    make_app: MakeApp, tmp_path: Path, with_db: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLALCHEMY_ECHO writes the sessions' statements to SQLAlchemy's log."""
    before = SQLAlchemy().init_app if with_db else lambda app: None
    app = make_app(f"sqlite:///{tmp_path}/app.db", before, SQLALCHEMY_ECHO=True)
    assert_sessions_work(app)
    assert f"INSERT INTO {TABLE}" in caplog.text


def test_another_bind_another_table(make_app: MakeApp, tmp_path: Path) -> None:
    """SESSION_SQLALCHEMY_BIND_KEY and _TABLE say where the rows are."""
    db = SQLAlchemy()
    uri = f"sqlite:///{tmp_path}/sessions.db"
    app = make_app(
        f"sqlite:///{tmp_path}/app.db",
        SQLALCHEMY_BINDS={"visits": uri},
        SESSION_SQLALCHEMY_BIND_KEY="visits",
        SESSION_SQLALCHEMY_TABLE="visitors",
    )
    db.init_app(app)
    with app.app_context():
        db.create_all()
    assert_sessions_work(app)
    assert tables_in(uri) == {"visitors"}
    assert "visitors" in db.metadatas["visits"].tables


def test_a_bind_without_a_sqlalchemy_object(make_app: MakeApp, tmp_path: Path) -> None:
    """Binds work without Flask-SQLAlchemy's object as well."""
    uri = f"sqlite:///{tmp_path}/sessions.db"
    app = make_app(
        SQLALCHEMY_BINDS={"visits": uri}, SESSION_SQLALCHEMY_BIND_KEY="visits"
    )
    assert_sessions_work(app)
    assert tables_in(uri) == {TABLE}


@pytest.mark.postgresql
def test_a_schema(make_app: MakeApp, make_database: Callable[[str], str]) -> None:
    """SESSION_SQLALCHEMY_SCHEMA names the schema of the table."""
    uri = make_database("postgresql")
    admin = sa.create_engine(uri, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text("CREATE SCHEMA web"))
    assert_sessions_work(make_app(uri, SESSION_SQLALCHEMY_SCHEMA="web"))
    names = sa.inspect(admin).get_table_names("web")
    admin.dispose()
    assert names == [TABLE]


def test_an_unknown_bind_is_an_error(make_app: MakeApp) -> None:
    """The message names the binds that there are."""
    with pytest.raises(SessionConfigError, match=r"\('a'\); got 'visits'"):
        make_app(
            "sqlite://",
            SESSION_SQLALCHEMY_BIND_KEY="visits",
            SQLALCHEMY_BINDS={"a": "sqlite://"},
        )


def test_a_bind_that_comes_too_late_is_an_error() -> None:
    """So is one that the SQLAlchemy object has not seen, at the first use."""
    app = configured("sqlite://", SESSION_SQLALCHEMY_BIND_KEY="visits")
    db = SQLAlchemy(app)
    app.config["SQLALCHEMY_BINDS"] = {"visits": "sqlite://"}
    Session(app)
    with pytest.raises(SessionConfigError, match=r"\(None\); got 'visits'"):
        store_of(app)
    with app.app_context():
        db.engine.dispose()


def test_a_sqlalchemy_object_of_other_applications_is_an_error() -> None:
    """The setting is named, and that its init_app was not called."""
    app = configured("sqlite://", SESSION_SQLALCHEMY=SQLAlchemy())
    Session(app)
    with pytest.raises(SessionConfigError, match=r"^SESSION_SQLALCHEMY: .*'init_app'"):
        store_of(app)


def test_a_table_of_the_application_is_not_taken(make_app: MakeApp) -> None:
    """A model of that name, without our columns, is an error at init_app."""
    db = SQLAlchemy()
    db.Table("sessions", sa.Column("id", sa.Integer, primary_key=True))
    with pytest.raises(SessionTableError, match=r"'sessions'.*handle.*an unused name"):
        make_app("sqlite://", db.init_app, SESSION_SQLALCHEMY_TABLE="sessions")


def test_something_else_called_sqlalchemy_is_not_used(make_app: MakeApp) -> None:
    """An extension of that name which is not Flask-SQLAlchemy's is left alone."""

    def before(app: Flask) -> None:
        app.extensions["sqlalchemy"] = object()

    app = make_app("sqlite://", before)
    assert_sessions_work(app)
    del app.extensions["sqlalchemy"]


def test_an_app_that_is_gone_leaves_no_connection(tmp_path: Path) -> None:
    """When an application is collected, the sessions' connections are closed."""
    app = configured(f"sqlite:///{tmp_path}/app.db")
    Session(app)
    assert_sessions_work(app)
    engine = store_of(app).engine
    used = engine.pool
    assert isinstance(used, sa.QueuePool)
    assert used.checkedin() == 1
    gone = weakref.ref(app)
    del app
    gc.collect()
    assert gone() is None
    assert used.checkedin() == 0
    engine.dispose()


def test_the_sessions_of_an_app_that_is_gone() -> None:
    """Whoever asks for them first then is told so."""
    app = configured("sqlite://")
    bind = SessionsBind(app, SessionConfig())
    del app
    gc.collect()
    with pytest.raises(RuntimeError, match="is gone"):
        bind.open_store()
