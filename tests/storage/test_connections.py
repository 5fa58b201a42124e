"""How a statement gets a connection, and that the pool is as it was afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql.storage.connections import PlainConnection, check_out
from flask_sessionsql.storage.engines import sessions_engine


@pytest.fixture
def engine(shared_database_uri: str) -> Iterator[sa.Engine]:
    """With one connection, so that one that is not given back is missed."""
    source = sa.create_engine(
        shared_database_uri, pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    engine = sessions_engine(source)
    yield engine
    assert isinstance(engine.pool, sa.QueuePool)
    assert 0 == engine.pool.checkedout()
    engine.dispose()
    source.dispose()


def is_plain(engine: sa.Engine) -> bool:
    connection = check_out(engine)
    connection.close()
    return isinstance(connection, PlainConnection)


def driver_connection(engine: sa.Engine) -> Any:
    """The driver's connection that the pool has for the next one."""
    connection = check_out(engine)
    connection.close()
    return connection.dbapi_connection


def works(engine: sa.Engine) -> bool:
    connection = check_out(engine)
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT 1")
        return bool(cursor.fetchall())
    finally:
        connection.close()


# When the proxy is left out.


@pytest.mark.parametrize("event", ["checkout", "checkin", "reset"])
@pytest.mark.parametrize("target", ["engine", "pool", "every pool"])
def test_listeners_are_told(engine: sa.Engine, event: str, target: str) -> None:
    """As long as they listen."""
    told: list[object] = []

    def listen(*args: object, **kwargs: object) -> None:
        told.append(args)

    assert is_plain(engine)
    on = {"engine": engine, "pool": engine.pool, "every pool": sa.Pool}[target]
    sa.event.listen(on, event, listen)
    try:
        assert not is_plain(engine)
    finally:
        sa.event.remove(on, event, listen)
    assert told
    told.clear()
    assert is_plain(engine)
    assert told == []


def test_listeners_of_the_application_s_pool_are_told(tmp_path: Path) -> None:
    """They are those of the sessions' pool, too."""
    source = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    told: list[object] = []
    sa.event.listen(source, "checkout", lambda *args: told.append(args))
    engine = sessions_engine(source)
    assert not is_plain(engine)
    assert 1 == len(told)
    engine.dispose()
    source.dispose()


@pytest.mark.parametrize(
    "options",
    [
        {"pool_pre_ping": True},
        {"poolclass": sa.NullPool},
        {"poolclass": sa.StaticPool},
        {"poolclass": type("TheirPool", (sa.QueuePool,), {})},
        {"echo_pool": "debug"},
    ],
    ids=["pre-ping", "no pool", "one connection", "another's", "echo"],
)
def test_other_pools_are_asked_as_ever(tmp_path: Path, options: dict[str, Any]) -> None:
    """What a pool does besides is done."""
    source = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}", **options)
    engine = sessions_engine(source)
    assert not is_plain(engine)
    assert works(engine)
    engine.dispose()
    source.dispose()


def test_the_log_of_all_pools(
    engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """At level DEBUG it has each connection that comes and goes."""
    assert is_plain(engine)
    with caplog.at_level(logging.DEBUG, logger="sqlalchemy.pool"):
        # An engine asks for its level when it is made.
        source = sa.create_engine(engine.url)
        logged = sessions_engine(source)
        assert not is_plain(logged)
    assert "checked out from pool" in caplog.text
    logged.dispose()
    source.dispose()


# The pool is as it was.


def test_a_connection_is_used_again(engine: sa.Engine) -> None:
    """It is the pool's, whichever way it is asked for."""
    assert driver_connection(engine) is driver_connection(engine)
    connection = engine.raw_connection()
    assert connection.dbapi_connection is driver_connection_of(connection)
    connection.close()
    assert works(engine)


def driver_connection_of(connection: sa.PoolProxiedConnection) -> object:
    """The connection that the pool itself has in use."""
    assert connection._connection_record is not None
    return connection._connection_record.dbapi_connection


def test_the_limit_holds(engine: sa.Engine) -> None:
    """Whoever comes when all are in use waits, and is told how long."""
    connection = check_out(engine)
    with pytest.raises(sa.exc.TimeoutError, match="connection timed out"):
        check_out(engine)
    with pytest.raises(sa.exc.TimeoutError):
        engine.connect()
    connection.close()
    assert works(engine)
    with engine.connect(), pytest.raises(sa.exc.TimeoutError):
        check_out(engine)
    assert works(engine)


def test_what_stays_with_a_connection_goes_with_it(engine: sa.Engine) -> None:
    """One that is invalidated is replaced, and listeners are told of it."""
    told: list[object] = []
    sa.event.listen(engine.pool, "invalidate", lambda *args: told.append(args[0]))
    connection = check_out(engine)
    assert isinstance(connection, PlainConnection)
    connection.info["mine"] = 1
    connection.close()
    connection = check_out(engine)
    assert connection.info["mine"] == 1
    driver = connection.dbapi_connection
    assert connection.is_valid
    connection.invalidate()
    assert not connection.is_valid
    connection.close()
    assert told == [driver]
    connection = check_out(engine)
    assert driver is not connection.dbapi_connection
    assert "mine" not in connection.info
    connection.close()


def test_old_connections_are_recycled(engine: sa.Engine) -> None:
    """After SQLALCHEMY_POOL_RECYCLE, or what the engine's options say."""
    first = driver_connection(engine)
    pool: Any = engine.pool
    pool._recycle = 3600
    assert first is driver_connection(engine)
    pool._recycle = 0
    assert first is not driver_connection(engine)


@pytest.mark.parametrize("error", [ConnectionError("down"), KeyboardInterrupt()])
def test_a_place_is_kept_where_connecting_fails(
    tmp_path: Path, error: BaseException
) -> None:
    """For the first time or again, whoever comes next finds the pool whole."""
    source = sa.create_engine(
        f"sqlite:///{tmp_path / 'app.db'}",
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.01,
    )
    is_down = True

    @sa.event.listens_for(source, "do_connect")
    def refuse(*args: object) -> None:
        if is_down:
            raise error

    engine = sessions_engine(source)
    for _ in range(3):
        with pytest.raises(type(error)):
            check_out(engine)
    is_down = False
    connection = check_out(engine)
    connection.invalidate()
    connection.close()
    is_down = True
    for _ in range(3):
        with pytest.raises(type(error)):
            check_out(engine)
    is_down = False
    assert works(engine)
    engine.dispose()
    source.dispose()


def test_a_pool_may_be_disposed_of_meanwhile(tmp_path: Path) -> None:
    """The connection goes back to the pool that it is of."""
    source = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    engine = sessions_engine(source)
    connection = check_out(engine)
    old = engine.pool
    engine.dispose()
    connection.close()
    assert isinstance(old, sa.QueuePool)
    assert isinstance(engine.pool, sa.QueuePool)
    assert (1, 0) == (old.checkedin(), engine.pool.checkedin())
    assert works(engine)
    for pool in (old, engine.pool):
        pool.dispose()
    source.dispose()
