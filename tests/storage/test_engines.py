from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from flask_sessionsql.storage.engines import sessions_engine

table = sa.Table("numbers", sa.MetaData(), sa.Column("n", sa.Integer, nullable=False))


def held_by(engine: sa.Engine) -> int:
    """How many connections of the engine's pool are in somebody's hands."""
    pool = engine.pool
    assert isinstance(pool, sa.QueuePool)
    return pool.checkedout()


def kept_by(engine: sa.Engine) -> int:
    """How many connections the engine's pool has open for whoever comes."""
    pool = engine.pool
    assert isinstance(pool, sa.QueuePool)
    return pool.checkedin()


def autocommits(connection: sa.Connection) -> bool:
    """Whether the driver itself says that each statement is a transaction."""
    driver = connection.connection.dbapi_connection
    assert driver is not None
    return connection.dialect.detect_autocommit_setting(driver)


@pytest.fixture
def source(shared_database_uri: str) -> Iterator[sa.Engine]:
    """The application's engine, on a database that is not in memory."""
    engine = sa.create_engine(shared_database_uri)
    table.create(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(source: sa.Engine) -> Iterator[sa.Engine]:
    engine = sessions_engine(source)
    yield engine
    engine.dispose()


def numbers(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(table.c.n).order_by(table.c.n)))


def test_every_statement_is_a_transaction(database_uri: str) -> None:
    """On every database, what is executed is stored: without a commit, and in spite
    of a rollback.
    """
    source = sa.create_engine(database_uri)
    engine = sessions_engine(source)
    try:
        table.create(engine)
        with engine.connect() as connection:
            assert autocommits(connection)
            connection.execute(table.insert(), {"n": 1})
            connection.rollback()
            assert autocommits(connection)
            connection.execute(table.insert(), {"n": 2})
        assert [1, 2] == numbers(engine)
    finally:
        engine.dispose()
        source.dispose()


def test_others_see_it_at_once(source: sa.Engine, engine: sa.Engine) -> None:
    """What was executed is there for the application's engine while the sessions'
    connection is still in use, and the other way round.
    """
    with engine.connect() as connection:
        connection.execute(table.insert(), {"n": 1})
        assert [1] == numbers(source)
        with source.begin() as theirs:
            theirs.execute(table.insert(), {"n": 2})
        # No transaction of its own keeps it at an earlier state.
        assert [1, 2] == numbers(engine)
        found = connection.scalars(sa.select(table.c.n).order_by(table.c.n))
        assert [1, 2] == found.all()


@pytest.mark.parametrize("level", ["SERIALIZABLE", "READ UNCOMMITTED"])
def test_an_isolation_level_of_the_application_s(
    shared_database_uri: str, level: str
) -> None:
    """An isolation level that the application chose for its engine is not the
    sessions', and stays the application's.
    """
    source = sa.create_engine(shared_database_uri, isolation_level=level)
    engine = sessions_engine(source)
    table.create(source)
    try:
        with source.connect() as theirs, engine.connect() as ours:
            ours.execute(table.insert(), {"n": 1})
            ours.rollback()
            assert level == theirs.get_isolation_level()
            assert autocommits(ours)
            assert not autocommits(theirs)
        assert [1] == numbers(source)
    finally:
        engine.dispose()
        source.dispose()


def test_the_application_s_transaction_is_untouched(
    source: sa.Engine, engine: sa.Engine
) -> None:
    """The sessions' statements neither commit nor roll back what the application
    has not finished, and use none of its connections.
    """
    with source.connect() as theirs:
        transaction = theirs.begin()
        if source.dialect.name != "sqlite":  # where one writer keeps others out
            theirs.execute(table.insert(), {"n": 1})
        else:
            theirs.execute(table.select())
        before = held_by(source)
        with engine.connect() as connection:
            connection.execute(table.insert(), {"n": 2})
            assert before == held_by(source)
            assert 1 == held_by(engine)
        assert transaction.is_active
        transaction.rollback()
    assert [2] == numbers(source)
    assert 0 == held_by(source) == held_by(engine)


def test_the_application_s_engine_stays_as_it_is(source: sa.Engine) -> None:
    """The application's engine keeps its pool, its isolation level and its
    connections.
    """
    with source.connect() as connection:
        level = connection.get_isolation_level()
        driver = connection.connection.driver_connection
    pool = source.pool
    engine = sessions_engine(source)
    with engine.connect() as ours:
        assert ours.connection.driver_connection is not driver
    engine.dispose()
    assert pool is source.pool
    assert pool is not engine.pool
    with source.connect() as connection:
        assert level == connection.get_isolation_level()
        assert driver is connection.connection.driver_connection
        connection.execute(table.insert(), {"n": 1})
        connection.rollback()
    assert [] == numbers(source)


def test_nothing_connects_before_it_is_used() -> None:
    """Making an engine connects to nothing: the database may be down."""
    source = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    engine = sessions_engine(source)
    assert 0 == held_by(engine)
    with pytest.raises(sa.exc.OperationalError):
        engine.connect()


def test_a_small_pool_of_the_application_s_kind(tmp_path: Path) -> None:
    """The pool has the class, the time-outs and as many connections at the most as the
    application's, all of which it keeps.
    """
    source = sa.create_engine(
        f"sqlite:///{tmp_path / 'app.db'}",
        pool_size=2,
        max_overflow=1,
        pool_timeout=0.01,
        pool_recycle=77,
        pool_pre_ping=True,
    )
    engine = sessions_engine(source)
    assert isinstance(engine.pool, sa.QueuePool)
    assert 3 == engine.pool.size()
    assert 77 == engine.pool._recycle
    assert engine.pool._pre_ping
    held = [engine.connect() for _ in range(3)]
    with pytest.raises(sa.exc.TimeoutError):
        engine.connect()
    # The application's own pool has all its connections left.
    for connection in [*held, *(source.connect() for _ in range(3))]:
        connection.close()
    assert (3, 2) == (kept_by(engine), kept_by(source))
    engine.dispose()  # which begins with another pool
    held = [engine.connect() for _ in range(3)]
    with pytest.raises(sa.exc.TimeoutError):
        engine.connect()
    for connection in held:
        connection.close()
    assert 3 == kept_by(engine)
    engine.dispose()
    source.dispose()


@pytest.mark.parametrize(("size", "overflow"), [(0, 5), (2, -1), (2, 0)])
def test_a_pool_without_overflow_is_as_it_was(
    tmp_path: Path, size: int, overflow: int
) -> None:
    """As is one without a limit."""
    source = sa.create_engine(
        f"sqlite:///{tmp_path / 'app.db'}", pool_size=size, max_overflow=overflow
    )
    engine = sessions_engine(source)
    assert isinstance(engine.pool, sa.QueuePool)
    assert (size, source.pool.status()) == (engine.pool.size(), engine.pool.status())
    engine.dispose()
    source.dispose()


@pytest.mark.parametrize("poolclass", [sa.NullPool, sa.StaticPool, sa.QueuePool])
def test_any_pool_is_recreated(tmp_path: Path, poolclass: type[sa.Pool]) -> None:
    """Whatever class the application's pool has, the sessions have one of it."""
    source = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}", poolclass=poolclass)
    engine = sessions_engine(source)
    assert type(engine.pool) is poolclass
    assert engine.pool is not source.pool
    table.create(engine)
    assert [] == numbers(engine)
    engine.dispose()
    source.dispose()


# What the application does to its connections.


def test_connect_listeners_run_for_the_sessions_too(tmp_path: Path) -> None:
    """A listener for new connections, where applications set pragmas, is called for
    those of the sessions.
    """
    source = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")

    @event.listens_for(source, "connect")
    def wait_longer(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA busy_timeout = 1234")

    engine = sessions_engine(source)
    with engine.connect() as connection:
        assert 1234 == connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
        assert autocommits(connection)
    engine.dispose()


def test_passwords_that_are_fetched_reach_the_sessions(tmp_path: Path) -> None:
    """A listener that gives the arguments for each connection, where applications
    fetch a password, gives those of the sessions too.
    """
    source = sa.create_engine(f"sqlite:///{tmp_path / 'wrong.db'}")
    seen = []

    @event.listens_for(source, "do_connect")
    def fetch(dialect: Any, record: Any, arguments: list[Any], options: Any) -> None:
        seen.append(arguments[0])
        arguments[0] = str(tmp_path / "right.db")

    engine = sessions_engine(source)
    table.create(engine)
    engine.dispose()
    assert 1 == len(seen)
    assert (tmp_path / "right.db").exists()
    assert not (tmp_path / "wrong.db").exists()


def test_driver_arguments_reach_the_sessions(tmp_path: Path) -> None:
    """connect_args and creator of the application's engine are the sessions' too."""
    path = tmp_path / "app.db"
    source = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 7})
    engine = sessions_engine(source)
    with engine.connect() as connection:
        assert 7000 == connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
    engine.dispose()


def test_listeners_of_the_sessions_are_not_the_application_s(tmp_path: Path) -> None:
    """A listener on the sessions' engine is not called for the application's."""
    source = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    engine = sessions_engine(source)
    called = []
    event.listen(engine, "connect", lambda *_: called.append("connect"))
    event.listen(engine, "before_cursor_execute", lambda *_: called.append("execute"))
    with source.connect() as connection:
        connection.execute(sa.select(1))
    assert [] == called
    numbers_of(engine)
    assert ["connect", "execute"] == called
    engine.dispose()
    source.dispose()


def numbers_of(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        connection.execute(sa.select(1))


def test_events_of_the_application_do_not_see_sessions(tmp_path: Path) -> None:
    """A listener for the application's statements sees none of the sessions'."""
    source = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    called = []
    event.listen(source, "before_cursor_execute", lambda *_: called.append(1))
    engine = sessions_engine(source)
    numbers_of(engine)
    assert [] == called
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:////tmp/none.db"])
@pytest.mark.parametrize("echo", [False, True, "debug"])
def test_values_are_never_echoed(url: str, echo: Any) -> None:
    """The log of statements is on where the application's is, and never shows what
    a session holds.
    """
    source = sa.create_engine(url, echo=echo)
    engine = sessions_engine(source)
    assert echo == engine.echo
    assert engine.hide_parameters


def test_an_error_shows_no_values(database_uri: str) -> None:
    """A statement that fails has an error without the values it was given."""
    source = sa.create_engine(database_uri)
    engine = sessions_engine(source)
    try:
        table.create(engine)
        with pytest.raises(sa.exc.DBAPIError) as caught, engine.connect() as connection:
            connection.execute(
                sa.text("INSERT INTO numbers (nothing) VALUES (:v)"), {"v": "hunter2"}
            )
        assert "hunter2" not in str(caught.value)
    finally:
        engine.dispose()
        source.dispose()


# In memory.

MEMORY = ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite://"]


@pytest.mark.parametrize("url", MEMORY)
def test_memory_is_a_database_of_its_own(url: str) -> None:
    """The sessions' database in memory is not the application's."""
    source = sa.create_engine(url, poolclass=sa.StaticPool)
    table.create(source)
    engine = sessions_engine(source)
    with engine.connect() as connection:
        assert [] == sa.inspect(connection).get_table_names()
    table.create(engine)
    with engine.connect() as connection:
        connection.execute(table.insert(), {"n": 1})
    assert [] == numbers(source)
    assert [1] == numbers(engine)
    engine.dispose()
    source.dispose()


@pytest.mark.parametrize("url", MEMORY)
def test_memory_is_one_connection(url: str) -> None:
    """All threads meet in one database, one statement at a time: there is one
    connection, and no second one.
    """
    engine = sessions_engine(sa.create_engine(url))
    table.create(engine)
    drivers = set()
    together = threading.Barrier(4)

    def insert(n: int) -> None:
        together.wait()
        for _ in range(25):
            with engine.connect() as connection:
                assert 1 == held_by(engine)
                drivers.add(id(connection.connection.driver_connection))
                result = connection.execute(table.insert(), {"n": n})
                assert 1 == result.rowcount

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(insert, range(4)))
    assert sorted(list(range(4)) * 25) == numbers(engine)
    assert 1 == len(drivers)
    assert isinstance(engine.pool, sa.QueuePool)
    assert 1 == engine.pool.size()
    engine.dispose()


def test_a_file_is_no_memory(tmp_path: Path) -> None:
    """A SQLite file is shared with the application, whatever it is called."""
    path = tmp_path / ":memory:.db"
    source = sa.create_engine(f"sqlite:///{path}")
    engine = sessions_engine(source)
    table.create(source)
    assert [] == numbers(engine)
    engine.dispose()
    source.dispose()


@pytest.mark.postgresql
def test_a_listener_may_leave_a_transaction_open(
    make_database: Callable[[str], str],
) -> None:
    """A statement in a ``connect`` listener, which begins one on PostgreSQL, does not
    keep the sessions' connections from changing to AUTOCOMMIT.
    """
    source = sa.create_engine(make_database("postgresql"))

    @sa.event.listens_for(source, "connect")
    def set_timeout(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 4321")

    engine = sessions_engine(source)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "4321ms"
    engine.dispose()
    source.dispose()
