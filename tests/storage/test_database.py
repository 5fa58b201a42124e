"""How statements run on the table, and what their errors mean."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql import SessionStoreUnavailableError, SessionTableError
from flask_sessionsql.exceptions import SessionStoreBusyError
from flask_sessionsql.storage.database import SessionDatabase, transaction
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.store import SessionStore, StoredSession
from flask_sessionsql.storage.tables import sessions_table
from tests.helpers import at_once, locked_file, on, wait_until
from tests.storage.helpers import (
    ROW,
    assert_nothing_locked,
    handles,
    kill_connections,
    make_store,
    row_of,
)


@pytest.fixture
def store(database_uri: str) -> Iterator[SessionStore]:
    store = make_store(database_uri)
    yield store
    store.dispose()


@pytest.fixture
def stored(store: SessionStore) -> SessionStore:
    store.insert(ROW)
    return store


# The table.


def test_the_first_use_creates_the_table(
    store: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading from a missing table creates it, with its indexes, and says so."""
    caplog.set_level(logging.INFO)
    assert store.load(ROW.id, now=0) is None
    with store.engine.connect() as connection:
        indexes = sa.inspect(connection).get_indexes("sessions")
    columns = sorted(str(index["column_names"][0]) for index in indexes)
    assert columns == ["handle", "previous_id", "purge_at", "user_id"]
    assert "Created the table 'sessions' for sessions." in caplog.messages


def test_a_table_that_was_dropped_is_created_again(stored: SessionStore) -> None:
    """A table that vanishes while the application runs is made anew."""
    stored.table.drop(stored.engine)
    assert stored.load(ROW.id, now=1_500) is None
    assert stored.insert(ROW) is True


def test_many_threads_create_the_table_at_once(shared_database_uri: str) -> None:
    """Ten that find no table, each with connections of its own, all go on."""
    stores = [make_store(shared_database_uri) for _ in range(10)]
    rows = [ROW._replace(id=bytes([number]) * 32) for number in range(10)]
    answers = at_once([partial(s.insert, r) for s, r in zip(stores, rows, strict=True)])
    loaded = [stores[0].load(bytes([n]) * 32, now=0) for n in range(len(stores))]
    for store in stores:
        store.dispose()
    assert answers == [True] * len(stores)
    assert None not in loaded


def test_without_create_table_the_missing_table_is_an_error(database_uri: str) -> None:
    """Who migrates is told which table is missing, and what to do."""
    store = make_store(database_uri, create_table=False)
    with pytest.raises(SessionTableError, match=r"'sessions'.*Run the migration"):
        store.load(ROW.id, now=0)
    store.dispose()


@pytest.mark.postgresql
def test_a_table_that_cannot_be_created_is_an_error(make_database: Any) -> None:
    """The database's own reason is in the message, and what to do."""
    source = sa.create_engine(make_database("postgresql"))
    table = sessions_table(sa.MetaData(), "sessions", "pg_catalog")
    store = SessionStore(sessions_engine(source), table)
    expected = r"(?s)pg_catalog\.sessions.*permission denied.*in a migration"
    with pytest.raises(SessionTableError, match=expected):
        store.load(ROW.id, now=0)
    store.dispose()


def test_a_foreign_table_is_an_error(store: SessionStore) -> None:
    """A table of another program is named, with what it lacks, and left alone."""
    with store.engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE sessions (id INT, data INT)"))
    expected = "lacks the columns handle, user_id, version.*SESSION_SQLALCHEMY_TABLE"
    with pytest.raises(SessionTableError, match=expected):
        store.load(ROW.id, now=0)
    with store.engine.connect() as connection:
        names = sa.inspect(connection).get_columns("sessions")
    assert {"id", "data"} == {column["name"] for column in names}


# Faults.


class Flaky:
    """Makes the next statements of a store fail as if the server had said so."""

    def __init__(self, store: SessionStore, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.seen = 0
        self._store = store
        sa.event.listen(store.engine, "before_cursor_execute", self._fail)

    def _fail(self, *_: Any) -> None:
        self.seen += 1
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error

    def stop(self) -> None:
        sa.event.remove(self._store.engine, "before_cursor_execute", self._fail)


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_a_lost_connection_is_made_anew(make_database: Any, backend: str) -> None:
    """A connection that the server ended costs one more try, and no error."""
    store = make_store(make_database(backend))
    store.insert(ROW)
    kill_connections(store)
    row = store.load(ROW.id, now=1_500)
    kill_connections(store)
    updated = store.update(ROW._replace(data=b"x"), ROW, now=1_500)
    store.dispose()
    assert row == ROW
    assert updated is True


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_lost_connections_after_the_clock_was_set_back(
    make_database: Any, backend: str, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However old the pool takes its connections for, nobody meets one that the server
    has ended: neither who comes first nor those who come then.
    """
    store = make_store(make_database(backend))
    if watched:
        sa.event.listen(store.engine, "before_cursor_execute", lambda *_: None)
    store.insert(ROW)
    several = [store.engine.raw_connection() for _ in range(4)]
    for connection in several:
        connection.close()
    kill_connections(store)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 3600)
    found = [store.load(ROW.id, now=1_500) for _ in range(5)]
    monkeypatch.undo()
    store.dispose()
    assert found == [ROW] * 5


@pytest.mark.parametrize("backend", on("mariadb"))
def test_a_server_that_does_not_answer_is_waited_for_twice(
    make_database: Any, backend: str
) -> None:
    """And not once for each connection in the pool."""
    uri = sa.make_url(make_database(backend))
    impatient = uri.update_query_dict({"read_timeout": "1"})
    store = make_store(impatient.render_as_string(hide_password=False))
    store.insert(ROW)
    several = [store.engine.raw_connection() for _ in range(6)]
    for connection in several:
        connection.close()
    other = sa.create_engine(uri, poolclass=sa.NullPool)
    with other.connect() as locking:
        locking.exec_driver_sql("LOCK TABLES sessions WRITE")
        begun = time.monotonic()
        with pytest.raises(SessionStoreUnavailableError):
            store.load(ROW.id, now=1_500)
        took = time.monotonic() - begun
        locking.exec_driver_sql("UNLOCK TABLES")
    store.dispose()
    assert took < 4


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_there_is_one_more_try_and_no_third(make_database: Any, backend: str) -> None:
    """A connection that is lost twice is a database that cannot be reached."""
    store = make_store(make_database(backend))
    store.insert(ROW)
    tries = 0

    @sa.event.listens_for(store.engine, "before_cursor_execute")
    def lose(*_: Any) -> None:
        nonlocal tries
        tries += 1
        kill_connections(store)

    with pytest.raises(SessionStoreUnavailableError):
        store.load(ROW.id, now=1_500)
    store.dispose()
    assert tries == 2


def test_nothing_else_is_tried_again(stored: SessionStore) -> None:
    """An error of the statement itself is raised at once, as it came."""
    flaky = Flaky(stored, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        stored.load(ROW.id, now=1_500)
    assert flaky.seen == 1


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://postgres@127.0.0.1:1/none",
        "mysql+pymysql://root@127.0.0.1:1/none",
        "sqlite:///file:/nowhere/at/all.db?uri=true",
    ],
)
def test_a_database_that_cannot_be_reached(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is a 503, the reason is in the log and not in the response."""
    store = make_store(url)
    with pytest.raises(SessionStoreUnavailableError) as caught:
        store.load(ROW.id, now=0)
    assert caught.value.code == 503
    assert caught.value.reason
    assert caught.value.reason in caplog.text
    assert caught.value.reason not in caught.value.get_response().get_data(as_text=True)


def test_a_database_that_goes_away_while_the_table_is_examined(
    stored: SessionStore,
) -> None:
    """An error on the way to a clearer error is a 503 too."""
    missing = sa.exc.OperationalError("SELECT", {}, Exception("no such table: s"))
    gone = sa.exc.OperationalError("SELECT", {}, Exception("gone"))
    Flaky(stored, missing, gone)
    with pytest.raises(SessionStoreUnavailableError):
        stored.load(ROW.id, now=1_500)


@pytest.mark.parametrize("number", [1213, "40001"])
def test_a_statement_that_was_rolled_back_is_tried_again(
    stored: SessionStore, number: object
) -> None:
    """It has done nothing, so asking again is safe; for ever is too long."""
    refusal = Exception(number)
    if isinstance(number, str):
        refusal.sqlstate = number  # type: ignore[attr-defined]
    error = sa.exc.OperationalError("SELECT", {}, refusal)
    Flaky(stored, error, error)
    assert stored.load(ROW.id, now=1_500) == ROW
    Flaky(stored, *[error] * 101)
    with pytest.raises(SessionStoreUnavailableError):
        stored.load(ROW.id, now=1_500)


@pytest.mark.sqlite_file
def test_a_file_that_is_replaced_within_a_statement(make_database: Any) -> None:
    """SQLite says so to who writes: the statement is tried again, in the new one."""
    store = make_store(make_database("sqlite-file"))
    assert store.insert(ROW)
    moved = Exception("attempt to write a readonly database")
    moved.sqlite_errorcode = 1032  # type: ignore[attr-defined]
    Flaky(store, sa.exc.OperationalError("", {}, moved))
    assert store.load(ROW.id, now=1_500) == ROW
    store.dispose()


def test_no_free_connection_is_a_503(make_database: Any) -> None:
    """Waiting for a connection ends with the pool's time-out, not in a hang."""
    source = sa.create_engine(
        make_database("sqlite-file"), pool_size=1, max_overflow=0, pool_timeout=0.01
    )
    store = SessionStore(sessions_engine(source), sessions_table(sa.MetaData(), "s"))
    with store.engine.connect(), pytest.raises(SessionStoreUnavailableError):
        store.load(ROW.id, now=0)
    store.dispose()


def test_a_locked_file_is_told_at_once_if_asked(make_database: Any) -> None:
    """Without waiting, a lock is an error of its own, and the usual patience stays."""
    store = make_store(make_database("sqlite-file"))
    store.insert(ROW)
    with locked_file(store.engine.url), pytest.raises(SessionStoreBusyError):
        store.update(ROW._replace(data=b"x"), ROW, now=1_500, wait=False)
    with store.engine.connect() as connection:
        patience = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
    updated = store.update(ROW._replace(data=b"x"), ROW, now=1_500, wait=False)
    store.dispose()
    assert patience == 5_000
    assert updated is True


def test_a_file_locked_for_too_long_is_a_503(make_database: Any) -> None:
    """Waiting for a lock ends with SQLite's time-out."""
    source = sa.create_engine(
        make_database("sqlite-file"), connect_args={"timeout": 0.05}
    )
    store = SessionStore(sessions_engine(source), sessions_table(sa.MetaData(), "s"))
    store.insert(ROW)
    with (
        locked_file(source.url),
        pytest.raises(SessionStoreUnavailableError) as caught,
    ):
        store.delete(ROW.id)
    store.dispose()
    assert not isinstance(caught.value, SessionStoreBusyError)


def test_another_process_leaves_the_connections_alone(
    shared_database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that did not open them, pooled connections are neither used nor
    closed; new ones are made.
    """
    store = make_store(shared_database_uri)
    store.insert(ROW)
    parent = store.engine.pool
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)
        assert store.load(ROW.id, now=1_500) is not None
        assert store.engine.pool is not parent
        store.dispose()
    connection = parent.connect()
    cursor = connection.cursor()
    cursor.execute("SELECT 1")
    assert cursor.fetchall()[0][0] == 1
    cursor.close()
    connection.close()
    parent.dispose()
    store.dispose()


def test_threads_of_another_process_agree_on_new_connections(
    make_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads that notice the fork at the same time make one new pool, not two."""
    store = make_store(make_database("sqlite-file"))
    store.insert(ROW)
    parent = store.engine.pool
    loaded: list[StoredSession | None] = []
    threads = [
        threading.Thread(target=lambda: loaded.append(store.load(ROW.id, now=1_500)))
        for _ in range(2)
    ]
    noticed: set[int] = set()

    def another_process() -> int:
        noticed.add(threading.get_ident())
        return -1

    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", another_process)
        with store.database._lock:
            for thread in threads:
                thread.start()
            wait_until(lambda: noticed >= {thread.ident for thread in threads})
        for thread in threads:
            thread.join()
        store.dispose()
    parent.dispose()
    assert loaded == [ROW, ROW]
    assert store.database._abandoned == [parent]


# Several statements in one transaction.


def insert(store: SessionStore, connection: sa.Connection, number: int) -> None:
    row = row_of(number)._asdict()
    connection.execute(sa.insert(store.table), row)


class Stop(BaseException):
    """What stops a worker, such as SystemExit."""


def test_a_transaction_is_all_or_nothing(stored: SessionStore) -> None:
    """What stands in it happens together; an error undoes all of it, is raised as it
    came, and leaves no transaction open on the connection.
    """

    def work(connection: sa.Connection, error: BaseException | None) -> str:
        with transaction(connection):
            insert(stored, connection, 1 if error is None else 3)
            if error is not None:
                raise error
            insert(stored, connection, 2)
        return "done"

    first = handles(stored)
    for error in (ZeroDivisionError(), Stop()):
        with pytest.raises(type(error)):
            stored.database.run(partial(work, error=error))
        assert_nothing_locked(stored)
        assert first == handles(stored)
    assert stored.database.run(partial(work, error=None)) == "done"
    assert_nothing_locked(stored)
    assert [1, 2, *first] == handles(stored)


def test_a_statement_that_fails_undoes_its_transaction(stored: SessionStore) -> None:
    """So does an error of the database."""

    def work(connection: sa.Connection) -> None:
        with transaction(connection):
            insert(stored, connection, 1)
            insert(stored, connection, 1)

    with pytest.raises(sa.exc.IntegrityError):
        stored.database.run(work)
    assert_nothing_locked(stored)
    assert 1 not in handles(stored)


def test_a_connection_that_is_not_rolled_back_is_not_used_again(
    make_database: Any,
) -> None:
    """Half a transaction never reaches the next one who gets the connection."""
    store = make_store(make_database("sqlite-file"))
    store.insert(ROW)

    def refuse(*arguments: Any) -> None:
        if arguments[2] == "ROLLBACK":
            raise sa.exc.OperationalError("ROLLBACK", {}, Exception("not now"))

    def work(connection: sa.Connection) -> None:
        with transaction(connection):
            insert(store, connection, 1)
            raise ZeroDivisionError

    sa.event.listen(store.engine, "before_cursor_execute", refuse)
    with pytest.raises(ZeroDivisionError):
        store.database.run(work)
    assert_nothing_locked(store)
    assert store.insert(row_of(2)) is True
    assert 1 not in handles(store)
    store.dispose()


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_a_transaction_whose_connection_is_lost_is_tried_once_more(
    make_database: Any, backend: str
) -> None:
    """Nothing of it has happened, so all of it is done again; no third time."""
    store = make_store(make_database(backend))
    store.insert(ROW)
    tries = 0

    def work(connection: sa.Connection, losses: int) -> None:
        nonlocal tries
        with transaction(connection):
            insert(store, connection, 1)
            tries += 1
            if tries <= losses:
                kill_connections(store)
            insert(store, connection, 2)

    with pytest.raises(SessionStoreUnavailableError):
        store.database.run(lambda connection: work(connection, 9))
    assert tries == 2
    assert len(handles(store)) == 1
    tries = 0
    store.database.run(lambda connection: work(connection, 1))
    assert tries == 2
    assert [1, 2] == handles(store)[:2]
    assert_nothing_locked(store)
    store.dispose()


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_an_error_on_a_lost_connection_is_raised_as_it_came(
    make_database: Any, backend: str
) -> None:
    """What cannot be rolled back any more does not hide why it should have been."""
    store = make_store(make_database(backend))
    store.insert(ROW)

    def work(connection: sa.Connection) -> None:
        with transaction(connection):
            insert(store, connection, 1)
            kill_connections(store)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.database.run(work)
    assert len(handles(store)) == 1
    store.dispose()


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_each_statement_sees_what_is_committed_before_it(
    make_database: Any, backend: str
) -> None:
    """Whatever the database's usual isolation is. What is read after waiting for a lock
    is what stands there then.
    """
    options: Any = {}
    if backend == "postgresql":
        serializable = "-c default_transaction_isolation=serializable"
        options["connect_args"] = {"options": serializable}
    source = sa.create_engine(make_database(backend), **options)
    table = sessions_table(sa.MetaData(), "sessions")
    store = SessionStore(sessions_engine(source), table)
    store.insert(ROW)
    count = sa.select(sa.func.count()).select_from(table)

    def work(connection: sa.Connection) -> list[Any]:
        with transaction(connection):
            before = connection.scalar(count)
            store.insert(row_of(1))
            return [before, connection.scalar(count)]

    assert store.database.run(work) == [1, 2]
    store.dispose()


def test_on_sqlite_a_transaction_begins_with_the_lock(make_database: Any) -> None:
    """Two that read first and write then do not get in each other's way."""
    store = make_store(make_database("sqlite-file"))
    store.insert(ROW)

    def work(connection: sa.Connection) -> None:
        with transaction(connection), pytest.raises(SessionStoreBusyError):
            store.database.run(lambda other: insert(store, other, 1), wait=False)

    store.database.run(work)
    store.dispose()


# The table, made by hand.


def test_the_table_is_provided_once(store: SessionStore) -> None:
    """It is created where it is missing, and left alone where it is there."""
    database = SessionDatabase(store.engine, store.table, create_table=False)
    assert database.provide_table() is True
    store.insert(ROW)
    assert database.provide_table() is False
    assert ROW == store.load(ROW.id, now=1_500)


def test_a_table_of_another_version_is_not_provided(store: SessionStore) -> None:
    """It is told what it lacks, and is not changed."""
    with store.engine.connect() as connection:
        names = "id, handle, user_id, data, version, created_at, expires_at, address"
        columns = ", ".join(f"{name} INT" for name in names.split(", "))
        connection.execute(sa.text(f"CREATE TABLE sessions ({columns})"))
    expected = "lacks the columns last_used_at, user_agent, previous_id.*migration"
    with pytest.raises(SessionTableError, match=expected) as caught:
        store.database.provide_table()
    assert caught.value.__cause__ is None
    with store.engine.connect() as connection:
        assert len(sa.inspect(connection).get_columns("sessions")) == 8


def test_a_table_is_created_whole_or_not_at_all(database_uri: str) -> None:
    """One without its indexes would stay so: it is there."""
    store = make_store(database_uri)
    names = [str(index.name) for index in store.table.indexes]
    with store.engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE other (x INT)"))
        for name in names:
            connection.execute(sa.text(f"CREATE INDEX {name} ON other (x)"))
    if store.engine.dialect.name in ("mysql", "mariadb"):
        store.database.provide_table()  # an index's name is its table's own
    else:
        with pytest.raises(SessionTableError, match="could not be created"):
            store.database.provide_table()
        assert "sessions" not in sa.inspect(store.engine).get_table_names()
    store.dispose()


def test_a_table_is_not_provided_without_a_database() -> None:
    """That is an error with its own name, as in a request."""
    store = make_store("postgresql+psycopg://postgres@127.0.0.1:1/none")
    with pytest.raises(SessionStoreUnavailableError):
        store.database.provide_table()


def test_a_locked_file_gets_no_table_at_once(make_database: Any) -> None:
    """Without waiting, the missing table of a file that is locked is a busy file."""
    store = make_store(make_database("sqlite-file"))
    begun = time.perf_counter()
    with locked_file(store.engine.url), pytest.raises(SessionStoreBusyError):
        store.insert(ROW, wait=False)
    assert time.perf_counter() - begun < 4  # SQLite would wait for 5
    assert store.insert(ROW, wait=False) is True
    store.dispose()


def test_a_child_process_waits_for_no_thread_of_its_parent(make_database: Any) -> None:
    """A lock that a thread held at the fork is nobody's in the child: it gets a new
    one, which ``os.register_at_fork`` sees to.
    """
    store = make_store(make_database("sqlite-file"))
    store.insert(ROW)
    database = store.database
    with database._lock, warnings.catch_warnings():
        # That the process has threads is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
        if child == 0:  # pragma: no cover -- in another process
            os._exit(0 if store.load(ROW.id, now=1_500) == ROW else 1)
        deadline = time.monotonic() + 10
        ended = status = 0
        while not ended and time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.01)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    store.dispose()
    assert (child, 0) == (ended, status)


@pytest.mark.postgresql
def test_another_process_may_create_the_table_first(
    make_empty_database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That creating it fails then is no error: it is there."""
    store = make_store(make_empty_database("postgresql"))
    create = store.table.create
    other = sa.create_engine(store.engine.url, poolclass=sa.NullPool)

    def come_second(connection: sa.Connection, **options: Any) -> None:
        create(other, **options)
        raise sa.exc.ProgrammingError("CREATE TABLE", {}, Exception("it is there"))

    monkeypatch.setattr(store.table, "create", come_second)
    assert store.insert(ROW) is True
    assert store.load(ROW.id, now=1_500) == ROW
    store.dispose()
