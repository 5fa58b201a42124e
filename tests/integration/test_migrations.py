"""The table by migrations: Flask-Migrate and Alembic, on real databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask_migrate
import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import FlaskSQLAlchemySessionInterface, SessionTableError
from flask_sessionsql.commands.checks import check_all
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.formats.tokens import row_id
from flask_sessionsql.storage.purging import purge_batch
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import SHARED_BACKENDS, MakeApp, MakeDatabase
from tests.documentation.source import block
from tests.helpers import on, store_of
from tests.integration.helpers import add_views, browser_with, visit

pytestmark = pytest.mark.filterwarnings(
    # Said by what Flask-Migrate generates.
    "ignore:'get_engine' is deprecated:DeprecationWarning"
)

TABLE = "flask_sessionsql"
FIRST = ["id", "handle", "user_id", "data", "version", "created_at", "expires_at"]
LATER = [
    *("last_used_at", "address", "user_agent", "previous_id", "purge_at"),
    "label",
]

#: Makes an application with Flask-Migrate, and its folder of migrations.
MakeMigrated = Callable[..., Flask]


@pytest.fixture(params=SHARED_BACKENDS)
def database(
    request: pytest.FixtureRequest, make_empty_database: MakeDatabase
) -> Iterator[str]:
    """The address of an empty database, which is empty again in the end: other tests
    may find the table there, and take it for what it should be.
    """
    yield make_empty_database(request.param)
    make_empty_database(request.param)


@pytest.fixture
def make_migrated(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> MakeMigrated:
    # It would configure the logs of the whole process, which other tests look at.
    monkeypatch.setattr("logging.config.fileConfig", lambda *args, **kwargs: None)
    folder = tmp_path / "migrations"

    def make(
        uri: str, multidb: bool = False, schemas: bool = False, **config: Any
    ) -> Flask:
        def before(app: Flask) -> None:
            db = SQLAlchemy(app)
            flask_migrate.Migrate(app, db, str(folder), include_schemas=schemas)

        app = make_app(uri, before, SESSION_CREATE_TABLE=False, **config)
        with app.app_context():
            flask_migrate.init(multidb=multidb)
        return add_views(app)

    return make


def run(app: Flask, command: Callable[..., object], **options: Any) -> None:
    """A command of ``flask db``."""
    # Left there by the command before, which would have been another process.
    app.extensions["migrate"].configure_args.pop("process_revision_directives", None)
    with app.app_context():
        command(**options)


def migrations(app: Flask) -> list[Path]:
    folder = Path(app.extensions["migrate"].directory)
    return sorted((folder / "versions").glob("*.py"))


def finds_nothing_to_migrate(app: Flask) -> bool:
    """Whether ``flask db migrate`` sees the table as it should be, and so do we."""
    before = migrations(app)
    run(app, flask_migrate.migrate)
    interface = app.session_interface
    assert isinstance(interface, FlaskSQLAlchemySessionInterface)
    found = [f for f in check_all(app, interface) if TABLE in f.subject]
    return (before, []) == (migrations(app), found)


def write_migration(app: Flask, body: str) -> None:
    """What ``flask db revision`` begins, with ``body`` for what it does."""
    run(app, flask_migrate.revision)
    [path] = migrations(app)
    head, _, _ = path.read_text().partition("def upgrade")
    path.write_text(f"{head}\n{body}")


#: The migrations that the documentation gives.
WHOLE = block("guides/migrations", '"""Create the table of the sessions."""')
ADDING = block(
    "guides/migrations", '"""Add the later columns to the table of the sessions."""'
)


def inspect(app: Flask) -> sa.Inspector:
    return sa.inspect(store_of(app).engine)


def keeps_sessions(app: Flask) -> bool:
    browser = app.test_client()
    assert "ok" == browser.get("/set/key/value").text
    return "'value'" == browser.get("/get/key").text


def test_generated(database: str, make_migrated: MakeMigrated) -> None:
    """``flask db migrate`` and ``flask db upgrade`` make the table with its indexes, as
    it should be; the next ``migrate`` finds no difference, sessions are kept there, and
    ``flask db downgrade`` drops it.
    """
    app = make_migrated(database)
    run(app, flask_migrate.migrate)
    run(app, flask_migrate.upgrade)

    assert finds_nothing_to_migrate(app)
    assert keeps_sessions(app)
    assert [["handle"], ["previous_id"], ["purge_at"], ["user_id"]] == sorted(
        index["column_names"] for index in inspect(app).get_indexes(TABLE)
    )

    run(app, flask_migrate.downgrade)
    assert ["alembic_version"] == inspect(app).get_table_names()
    with pytest.raises(SessionTableError, match="SESSION_CREATE_TABLE is off"):
        app.test_client().get("/set/key/value")


@pytest.mark.parametrize("database", on("postgresql"), indirect=True)
def test_generated_in_a_bind(
    database: str, make_migrated: MakeMigrated, tmp_path: Path
) -> None:
    """With ``flask db init --multidb``, the table of a ``SESSION_SQLALCHEMY_BIND_KEY``
    is made in its bind, and in no other.
    """
    other = f"sqlite:///{tmp_path / 'other.db'}"
    app = make_migrated(
        other,
        multidb=True,
        SQLALCHEMY_BINDS={"web": database},
        SESSION_SQLALCHEMY_BIND_KEY="web",
    )
    run(app, flask_migrate.migrate)
    run(app, flask_migrate.upgrade)

    assert finds_nothing_to_migrate(app)
    assert keeps_sessions(app)
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
        assert ["alembic_version"] == sa.inspect(engine).get_table_names()
    run(app, flask_migrate.downgrade)
    assert ["alembic_version"] == inspect(app).get_table_names()


@pytest.mark.parametrize("database", on("postgresql"), indirect=True)
def test_generated_in_a_schema(database: str, make_migrated: MakeMigrated) -> None:
    """With ``include_schemas``, the table is made in ``SESSION_SQLALCHEMY_SCHEMA``."""
    app = make_migrated(database, schemas=True, SESSION_SQLALCHEMY_SCHEMA="web")
    with store_of(app).engine.connect() as connection:
        connection.execute(sa.schema.CreateSchema("web"))
    run(app, flask_migrate.migrate)
    run(app, flask_migrate.upgrade)

    assert finds_nothing_to_migrate(app)
    assert keeps_sessions(app)
    assert [TABLE] == inspect(app).get_table_names("web")
    run(app, flask_migrate.downgrade)
    assert [] == inspect(app).get_table_names("web")


def test_by_hand(database: str, make_migrated: MakeMigrated) -> None:
    """The migration that the documentation gives makes the table as it should be, and
    drops it again.
    """
    app = make_migrated(database)
    write_migration(app, WHOLE)
    run(app, flask_migrate.upgrade)

    assert finds_nothing_to_migrate(app)
    assert keeps_sessions(app)
    run(app, flask_migrate.downgrade)
    assert ["alembic_version"] == inspect(app).get_table_names()


class FirstForm:
    """The table before it had the later columns, and the code that wrote it."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        full = sessions_table(sa.MetaData(), TABLE)
        columns = [full.columns[name]._copy() for name in FIRST]
        self.table = sa.Table(TABLE, sa.MetaData(), *columns)
        for name in ("handle", "user_id", "expires_at"):
            sa.Index(f"ix_{TABLE}_{name}", self.table.columns[name])

    def create(self) -> None:
        with self.engine.begin() as connection:
            self.table.create(connection)

    def store(self, number: int, expires_at: int = 2**33) -> str:
        """A session of somebody; its token."""
        token = f"{number:043}"
        row = {
            "id": row_id("a key", token),
            "handle": f"{number:016x}",
            "user_id": f"user {number}" if number % 2 else None,
            "data": MsgpackSerializer().dumps({"number": number}),
            "version": 1,
            "created_at": 1_700_000_000,
            "expires_at": expires_at,
        }
        with self.engine.begin() as connection:
            connection.execute(self.table.insert(), row)
        return token


def number_in(app: Flask, token: str) -> object:
    """What the session of a token has, which this request changes besides."""
    browser = browser_with(app, token)
    browser.get("/set/seen/yes")
    numbers: list[object] = []

    def view() -> str:
        numbers.append((session.get("number"), session.get("seen")))
        return "ok"

    visit(browser, view)
    return numbers


@pytest.mark.parametrize(
    ("database", "by_hand"),
    on(
        ("sqlite-file", True),
        ("postgresql", True),
        ("mariadb", True),
        ("mariadb", False),
        ("postgresql", False),
    ),
    indirect=["database"],
)
def test_later_columns(
    database: str, by_hand: bool, make_migrated: MakeMigrated
) -> None:
    """A live table of the first form gets the later columns by the documented migration
    or by a generated one. Until then, the error names them. Each session survives, the
    version before can store sessions during the deployment, and the way back is open.
    """
    app = make_migrated(database)
    first = FirstForm(store_of(app).engine)
    first.create()
    tokens = [first.store(number) for number in range(1, 6)]

    with pytest.raises(SessionTableError, match=", ".join(LATER)) as caught:
        number_in(app, tokens[0])
    assert "run the migration that adds them" in str(caught.value)
    if by_hand:
        write_migration(app, ADDING)
    else:
        run(app, flask_migrate.migrate)
    run(app, flask_migrate.upgrade)
    tokens.append(first.store(6))  # by a process that is still of the version before

    for number, token in enumerate(tokens, 1):
        assert [(number, "yes")] == number_in(app, token)
    assert finds_nothing_to_migrate(app)
    tokens.append(first.store(7))
    first.store(8, expires_at=1_700_000_001)
    batch = purge_batch(store_of(app).database, 1_700_000_001, 100)
    assert (2, 1) == (batch.seen, batch.deleted)

    run(app, flask_migrate.downgrade)
    columns = [column["name"] for column in inspect(app).get_columns(TABLE)]
    assert FIRST == columns
    tokens.append(first.store(9))
    with first.engine.connect() as connection:
        rows = connection.execute(sa.select(first.table.c.handle)).all()
    assert len(tokens) == len(rows)
