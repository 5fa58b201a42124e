"""The shortest way of a statement: when it is taken, and what becomes of failures."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from flask_sessionsql.storage.driver import DirectWay, Statement
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.store import SessionStore, StoredSession
from flask_sessionsql.storage.tables import sessions_table
from tests.storage.helpers import ROW, kill_connections, make_store, row_of

CURSOR = "flask_sessionsql.cursor"


@pytest.fixture
def store(database_uri: str) -> Iterator[SessionStore]:
    store = make_store(database_uri)
    store.insert(ROW)
    yield store
    assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    store.dispose()


@pytest.fixture
def shared(shared_database_uri: str) -> Iterator[SessionStore]:
    store = make_store(shared_database_uri)
    store.insert(ROW)
    yield store
    store.dispose()


def loads(store: SessionStore) -> bool:
    return store.load(ROW.id, now=0) is not None


def kept(store: SessionStore) -> Any:
    """The cursor that the next connection of the pool keeps."""
    connection = store.engine.raw_connection()
    try:
        return connection.info.get(CURSOR)
    finally:
        connection.close()


@pytest.fixture
def by_sqlalchemy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts the statements that take SQLAlchemy's own way."""
    seen: list[str] = []
    execute = sa.Connection.execute

    def spy(self: sa.Connection, statement: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(str(statement))
        return execute(self, statement, *args, **kwargs)

    monkeypatch.setattr(sa.Connection, "execute", spy)
    return seen


# Which way is taken.


def test_nobody_watches(store: SessionStore, by_sqlalchemy: list[str]) -> None:
    """Every statement on one row goes to the driver."""
    store.insert(row_of(1))
    assert store.load(row_of(1).id, now=0) is not None
    assert store.update(row_of(1, data=b"new"), row_of(1), now=0)
    assert store.touch(row_of(1, version=2, last_used_at=1_500), now=0)
    assert store.delete(row_of(1).id)
    assert by_sqlalchemy == []


def test_somebody_watches_and_goes(
    store: SessionStore, by_sqlalchemy: list[str]
) -> None:
    """While there is a listener, SQLAlchemy's own way is taken; not before or after."""

    def listener(*args: Any) -> None:
        pass

    for target, name in (
        (store.engine, "before_cursor_execute"),
        (sa.Engine, "after_cursor_execute"),
        (store.engine, "handle_error"),
        (store.engine, "begin"),
        (sa.Engine, "rollback"),
    ):
        assert loads(store)
        assert by_sqlalchemy == []
        sa.event.listen(target, name, listener)
        assert loads(store)
        sa.event.remove(target, name, listener)
        assert len(by_sqlalchemy) == 1
        by_sqlalchemy.clear()
    assert loads(store)
    assert by_sqlalchemy == []


def test_somebody_watches_all_connections(
    store: SessionStore, by_sqlalchemy: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLAlchemy takes listeners for its class of connections, too."""
    seen: list[str] = []

    def listener(connection: Any, cursor: Any, statement: str, *args: Any) -> None:
        seen.append(statement)

    # SQLAlchemy never takes it back, and the other tests are not to notice.
    before = getattr(sa.Connection, "_has_events", None)
    monkeypatch.setattr(sa.Connection, "_has_events", before, raising=False)
    sa.event.listen(sa.Connection, "before_cursor_execute", listener)
    try:
        assert loads(store)
    finally:
        sa.event.remove(sa.Connection, "before_cursor_execute", listener)
    assert len(by_sqlalchemy) == len(seen) == 1


def test_a_log_of_statements(store: SessionStore, by_sqlalchemy: list[str]) -> None:
    """Likewise while the logger of the statements takes them."""
    logger = logging.getLogger("sqlalchemy.engine")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        assert loads(store)
    finally:
        logger.setLevel(before)
    assert len(by_sqlalchemy) == 1
    assert loads(store)
    assert len(by_sqlalchemy) == 1


def test_another_driver(store: SessionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the tests do not run on goes through SQLAlchemy."""
    assert DirectWay(store.engine).is_open()
    monkeypatch.setattr(store.engine.dialect, "driver", "other")
    assert not DirectWay(store.engine).is_open()


# The cursor.


def test_a_connection_keeps_its_cursor(store: SessionStore) -> None:
    """One cursor serves many statements, and goes with its connection."""
    cursor = kept(store)
    assert cursor is not None
    assert loads(store)
    assert store.delete(ROW.id)
    assert kept(store) is cursor
    connection = store.engine.raw_connection()
    connection.invalidate()
    connection.close()
    assert kept(store) is None


def test_an_error_ends_the_cursor(store: SessionStore) -> None:
    """Whoever has the connection next notices nothing."""
    cursor = kept(store)
    direct, table = DirectWay(store.engine), store.table
    broken = Statement(
        sa.select(sa.literal_column("nothing_like_it")).select_from(table)
    )
    with pytest.raises(sa_exc.DBAPIError):
        direct.first(broken, {})
    assert kept(store) is None
    assert loads(store)
    assert kept(store) not in (None, cursor)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_breaking_off_drops_the_connection(
    store: SessionStore, error: type[BaseException]
) -> None:
    """Half an answer of the server's must not be the next statement's."""
    connection = store.engine.raw_connection()
    driver = connection.dbapi_connection

    class BrokenOff:
        def execute(self, *args: Any) -> None:
            raise error

    connection.info[CURSOR] = BrokenOff()
    connection.close()
    with pytest.raises(error):
        store.load(ROW.id, now=0)
    connection = store.engine.raw_connection()
    is_dropped = connection.dbapi_connection is not driver
    connection.close()
    # SQLite has no server, and its memory would go with its connection.
    assert is_dropped != store.database.locks_whole_database
    assert is_dropped or loads(store)


def test_reading_leaves_no_transaction(tmp_path: Any) -> None:
    """SQLite's log can be emptied after a session was read."""
    store = make_store(f"sqlite:///{tmp_path / 'sessions.db'}")
    with store.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    for number in range(3):
        store.insert(row_of(number))
    assert store.load(row_of(1).id, now=0) is not None
    other = sa.create_engine(store.engine.url)
    with other.connect() as connection:
        busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    assert busy == 0
    other.dispose()
    store.dispose()


def test_threads_that_begin_at_once(store: SessionStore) -> None:
    """The first to run a statement compile it, however many they are."""
    again = SessionStore(store.engine, store.table)
    found: list[bool] = []
    ready = threading.Barrier(8)

    def run() -> None:
        ready.wait()
        found.append(loads(again))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_one_connection_for_all_threads(tmp_path: Any) -> None:
    """With a ``StaticPool``, no thread gets another one's row."""
    source = sa.create_engine(
        f"sqlite:///{tmp_path / 'sessions.db'}",
        poolclass=sa.StaticPool,
        connect_args={"check_same_thread": False},
    )
    store = SessionStore(
        sessions_engine(source), sessions_table(sa.MetaData(), "sessions")
    )
    rows = [row_of(number, data=bytes([number])) for number in range(8)]
    for row in rows:
        store.insert(row)
    wrong: list[object] = []

    def run(row: StoredSession) -> None:
        for _ in range(500):
            found = store.load(row.id, now=0)
            if found is None or found.data != row.data:
                wrong.append(found)

    threads = [threading.Thread(target=run, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    store.dispose()


def test_two_threads_on_one_connection(shared: SessionStore) -> None:
    """A statement that begins while another one runs has a cursor of its own."""
    shared.insert(row_of(1))
    one = shared.engine.raw_connection()
    cursor = one.info[CURSOR]
    seen: list[bool] = []

    class Overlapped:
        """A cursor during whose statement the connection is used by another one."""

        def execute(self, *args: Any) -> None:
            seen.append(CURSOR in one.info)
            cursor.execute(*args)

        def fetchall(self) -> Any:
            return cursor.fetchall()

    one.info[CURSOR] = Overlapped()
    info = one.info
    one.close()
    assert loads(shared)
    assert seen == [False]
    assert isinstance(info[CURSOR], Overlapped)


# Failures.


def both_ways(store: SessionStore, clause: Any, values: Any) -> list[Exception]:
    """The errors that a statement gets, straight and through SQLAlchemy."""
    with pytest.raises(sa_exc.DBAPIError) as straight:
        DirectWay(store.engine).change(Statement(clause), values)
    with store.engine.connect() as connection, pytest.raises(sa_exc.DBAPIError) as own:
        connection.execute(clause, values)
    return [straight.value, own.value]


def test_errors_are_the_same(store: SessionStore) -> None:
    """An error has the class and the cause that it has by SQLAlchemy's own way, and
    shows no value.
    """
    names = ("id", "handle", "data", "version", "created_at", "expires_at")
    clause = sa.insert(store.table).values({name: sa.bindparam(name) for name in names})
    values = {name: getattr(ROW, name) for name in names} | {"data": b"secret"}
    straight, own = both_ways(store, clause, values)
    assert isinstance(straight, sa_exc.IntegrityError)
    assert type(straight) is type(own)
    assert type(straight.orig) is type(own.orig)
    assert "secret" not in str(straight)
    assert straight.orig is straight.__cause__


def test_one_lost_connection_speaks_for_all(shared: SessionStore) -> None:
    """When a server has ended its connections, the first request to meet that speaks
    for all: no other one meets it, and the pool and its limit stay.
    """
    if shared.database.locks_whole_database:
        pytest.skip("SQLite has no server that could end a connection.")
    several = [shared.engine.raw_connection() for _ in range(3)]
    for connection in several:
        connection.close()
    pool = shared.engine.pool
    kill_connections(shared)
    direct, statement = (
        DirectWay(shared.engine),
        Statement(sa.select(shared.table.c.id)),
    )
    with pytest.raises(sa_exc.DBAPIError) as lost:
        direct.first(statement, {})
    assert lost.value.connection_invalidated
    assert shared.engine.pool is pool
    for _ in range(3):
        assert direct.first(statement, {}) is not None


def test_a_connection_that_cannot_be_made() -> None:
    """That is the driver's error, by SQLAlchemy's name, and no lost connection."""
    store = make_store("postgresql+psycopg://nobody@127.0.0.1:1/none")
    direct = DirectWay(store.engine)
    with pytest.raises(sa_exc.OperationalError) as error:
        direct.first(Statement(sa.select(store.table.c.id)), {})
    assert not error.value.connection_invalidated
    store.dispose()
