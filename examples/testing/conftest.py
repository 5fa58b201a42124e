"""Fixtures: each test finds the tables empty, and nobody logged in.

The tests run on a SQLite file. To run them on PostgreSQL, name a database in whose
place others may be created::

    $ TEST_DATABASE_URL=postgresql+psycopg://postgres@127.0.0.1/shop pytest -n 4
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from shop import create_app, db, sessions

from flask_sessionsql.testing import log_in


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database that nobody else uses. With pytest-xdist each worker
    has one.
    """
    server = os.environ.get("TEST_DATABASE_URL")
    if server is None:
        yield f"sqlite:///{tmp_path_factory.mktemp('database') / 'test.db'}"
        return
    url = sa.make_url(server)
    name = f"{url.database}_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    quoted = admin.dialect.identifier_preparer.quote(name)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {quoted}"))
        connection.execute(sa.text(f"CREATE DATABASE {quoted}"))
    yield url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {quoted}"))


@pytest.fixture(scope="session")
def app(database_url: str) -> Iterator[Flask]:
    """The application, with its tables."""
    app = create_app(
        TESTING=True,
        SQLALCHEMY_DATABASE_URI=database_url,
        # The sessions in memory, where they wait for no transaction of a test's.
        SQLALCHEMY_BINDS={"sessions": "sqlite://"},
        SESSION_SQLALCHEMY_BIND_KEY="sessions",
    )
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            begin_as_others_do(db.engine)
        # Committed before the first test begins.
        db.create_all()
    yield app
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def begin_as_others_do(engine: sa.Engine) -> None:
    """Let SQLite's driver begin transactions when SQLAlchemy does: by itself it begins
    none before a savepoint, and there would be nothing to roll back.
    """

    @sa.event.listens_for(engine, "connect")
    def connect(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")


@pytest.fixture(autouse=True)
def nothing_stays(app: Flask) -> Iterator[None]:
    """Roll back what a test has written, committed or not, and end its sessions."""
    with app.app_context():
        engines: Any = db.engines
    engine = engines[None]
    with engine.connect() as connection:
        transaction = connection.begin()
        # A view that commits, commits to here; one that rolls back, rolls back to here.
        connection.begin_nested()
        engines[None] = connection
        yield
        engines[None] = engine
        transaction.rollback()
    with app.app_context():
        sessions.revoke_all()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A visitor's browser."""
    return app.test_client()


@pytest.fixture
def ann(app: Flask) -> FlaskClient:
    """The browser of a user who is logged in."""
    client = app.test_client()
    log_in(client, "ann")
    return client
