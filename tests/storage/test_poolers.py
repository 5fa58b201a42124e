"""A pooler is noticed, and what fails because of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql.storage import poolers
from flask_sessionsql.storage.connections import ONLY_IN_TRANSACTIONS
from tests.conftest import MakeDatabase
from tests.throwaway import pgbouncer

pytestmark = pytest.mark.postgresql

DRIVERS = ["psycopg", "psycopg2", "pg8000"]


@pytest.fixture
def database(make_database: MakeDatabase) -> sa.URL:
    return sa.make_url(make_database("postgresql"))


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """Each of PostgreSQL's drivers that is installed."""
    pytest.importorskip(request.param)
    return f"postgresql+{request.param}"


def connections_to(url: sa.URL | str, **options: Any) -> Iterator[Any]:
    """Several of the driver's connections, one after the other."""
    engine = sa.create_engine(
        url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool, **options
    )
    for _ in range(3):
        with engine.connect() as connection:
            yield connection.connection.dbapi_connection


@pytest.mark.parametrize("pool_mode", ["session", "transaction", "statement"])
def test_pgbouncer_is_noticed(database: sa.URL, driver: str, pool_mode: str) -> None:
    """On each connection, in each of its modes."""
    with pgbouncer(database.render_as_string(False), pool_mode=pool_mode) as uri:
        url = sa.make_url(uri).set(drivername=driver)
        options = {} if driver.endswith("pg8000") else {"use_native_hstore": False}
        for connection in connections_to(url, **options):
            assert poolers.is_pooled(connection)


def test_a_server_is_no_pooler(database: sa.URL, driver: str) -> None:
    """By an address, and by a socket in a folder."""
    url = database.set(drivername=driver)
    for connection in connections_to(url):
        assert not poolers.is_pooled(connection)
        with_cursor = connection.cursor()
        with_cursor.execute("SHOW unix_socket_directories")
        folders = with_cursor.fetchone()[0].split(", ")
        with_cursor.close()
    for folder in folders:
        file = Path(folder) / f".s.PGSQL.{database.port or 5432}"
        if file.exists():
            place: dict[str, Any] = {"host": folder}
            if driver.endswith("pg8000"):
                place = {"unix_sock": str(file)}
            nowhere = url.set(host=None, port=None)
            for connection in connections_to(nowhere, connect_args=place):
                assert not poolers.is_pooled(connection)


def test_what_does_not_say_its_process() -> None:
    """A connection that an application has wrapped is taken for a server's."""
    assert not poolers.is_pooled(object())


def test_what_is_prepared(database: sa.URL) -> None:
    """Nothing behind a pooler; by the server itself, and as the application has said,
    as ever.
    """
    with pgbouncer(database.render_as_string(False)) as uri:
        for url, args, expected in (
            (uri, {}, None),
            (uri, {"prepare_threshold": 3}, 3),
            (uri, {"prepare_threshold": None}, None),
            (database, {}, 5),
            (database, {"prepare_threshold": 3}, 3),
        ):
            engine = sa.create_engine(
                url, isolation_level="AUTOCOMMIT", connect_args=args
            )
            preparing = poolers.Preparing(engine)
            with engine.connect() as connection:
                there: Any = connection.connection.dbapi_connection
                assert there.prepare_threshold == expected
            assert preparing.stop()
            with engine.connect() as connection:
                there = connection.connection.dbapi_connection
                assert there.prepare_threshold is None
            engine.dispose()


def test_pg8000_needs_transactions(database: sa.URL) -> None:
    """Behind a pooler only."""
    importlib.import_module("pg8000")
    with pgbouncer(database.render_as_string(False)) as uri:
        for url, expected in ((uri, True), (database, False)):
            engine = sa.create_engine(
                sa.make_url(url).set(drivername="postgresql+pg8000"),
                isolation_level="AUTOCOMMIT",
                poolclass=sa.NullPool,
            )
            preparing = poolers.Preparing(engine)
            assert not preparing.stop()
            with engine.connect() as connection:
                assert (ONLY_IN_TRANSACTIONS in connection.info) is expected


def test_what_fails(database: sa.URL, driver: str) -> None:
    """Whether a prepared statement is another process's, or transactions are refused,
    is known by what the server says.
    """
    engine = sa.create_engine(
        database.set(drivername=driver), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        for code, said, prepared, forbidden in (
            ("26000", 'prepared statement "x" does not exist', True, False),
            ("42P05", 'prepared statement "x" already exists', True, False),
            ("08P01", 'bind: prepared statement "x" requires 2', True, False),
            ("08P01", "transaction blocks not allowed in ...", False, True),
            ("08P01", "something else", False, False),
            ("42601", "prepared statement", False, False),
        ):
            with pytest.raises(sa.exc.DBAPIError) as caught:
                connection.exec_driver_sql(
                    f"DO $$ BEGIN RAISE '{said}' USING ERRCODE = '{code}'; END $$"
                )
            assert poolers.is_prepared_elsewhere(caught.value) is prepared
            assert poolers.forbids_transactions(caught.value) is forbidden
    engine.dispose()
