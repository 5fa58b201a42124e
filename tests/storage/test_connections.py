"""A connection goes back with no transaction open, and as it came. What that means to
applications is in tests/integration/test_connections.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from flask_sessionsql.storage.connections import used
from flask_sessionsql.storage.driver import in_transaction


@pytest.fixture
def engine(driver_uri: str) -> Iterator[sa.Engine]:
    """One connection, in AUTOCOMMIT, by each driver."""
    engine = sa.create_engine(
        driver_uri,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        pool_size=1,
        max_overflow=0,
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x INT)")
    yield engine
    engine.dispose()


def count(engine: sa.Engine) -> int:
    """As somebody else sees it."""
    other = sa.create_engine(engine.url, poolclass=sa.NullPool)
    with other.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM t").scalar_one())


def test_what_is_open_is_committed(engine: sa.Engine) -> None:
    """Whoever has begun it."""
    with used(engine) as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        told = in_transaction(connection.connection.dbapi_connection)
        assert told in (True, None)
    assert count(engine) == 1
    with used(engine) as connection:
        assert not in_transaction(connection.connection.dbapi_connection)


def test_after_an_error_it_is_rolled_back(engine: sa.Engine) -> None:
    """And the connection is as good as before."""

    def fail() -> None:
        with used(engine) as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert count(engine) == 0
    with used(engine) as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    assert count(engine) == 1


def test_a_commit_that_fails_leaves_nothing(engine: sa.Engine) -> None:
    """The connection is gone when it is to be committed: the error says so."""
    if engine.dialect.name != "postgresql":
        pytest.skip("MariaDB has no constraint that is checked at the commit.")
    deferred = "ALTER TABLE t ADD UNIQUE (x) DEFERRABLE INITIALLY DEFERRED"
    with used(engine) as connection:
        connection.exec_driver_sql(deferred)

    def twice() -> None:
        with used(engine) as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("INSERT INTO t VALUES (1), (1)")

    with pytest.raises(sa.exc.IntegrityError):
        twice()
    assert count(engine) == 0
    with used(engine) as connection:
        assert not in_transaction(connection.connection.dbapi_connection)
