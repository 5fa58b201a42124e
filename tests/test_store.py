from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql import SessionStoreUnavailableError, SessionTableError
from flask_sessionsql.engines import sessions_engine
from flask_sessionsql.exceptions import SessionStoreBusyError
from flask_sessionsql.store import SessionStore, StoredSession
from flask_sessionsql.tables import sessions_table

ROW = StoredSession(
    id=b"\x00\xff" * 16,
    handle="0123456789abcdef",
    user_id="ann",
    data=b"\x01\x80",
    version=1,
    created_at=1_000,
    expires_at=2_000,
)


def make_store(url: str, **options: Any) -> SessionStore:
    source = sa.create_engine(url)
    table = sessions_table(sa.MetaData(), "sessions")
    return SessionStore(sessions_engine(source), table, **options)


@pytest.fixture
def store(database_uri: str) -> Iterator[SessionStore]:
    store = make_store(database_uri)
    yield store
    store.dispose()


@pytest.fixture
def stored(store: SessionStore) -> SessionStore:
    store.insert(ROW)
    return store


def test_a_row_comes_back_as_it_was_stored(stored: SessionStore) -> None:
    """What is inserted is loaded, every column of it."""
    assert ROW == stored.load(ROW.id, now=1_500)


def test_nothing_there_is_not_an_error(store: SessionStore) -> None:
    """A key without a row gives None to load and False to those that write."""
    assert store.load(ROW.id, now=0) is None
    assert store.update(ROW, ROW, now=0) is False
    assert store.touch(ROW.id, until=3_000, now=0) is False
    assert store.delete(ROW.id) is False


def test_an_expired_row_is_not_there(stored: SessionStore) -> None:
    """From the second in which it expires, a row is neither served nor changed."""
    assert stored.load(ROW.id, now=1_999) is not None
    assert stored.load(ROW.id, now=2_000) is None
    assert stored.update(ROW._replace(data=b"x"), ROW, now=2_000) is False
    assert stored.touch(ROW.id, until=9_000, now=2_000) is False


def test_an_update_counts_the_version_up(stored: SessionStore) -> None:
    """An update changes data and end, and the version becomes one more."""
    changed = ROW._replace(data=b"\x01\x81", expires_at=2_500, version=77)
    assert stored.update(changed, ROW, now=1_500) is True
    assert changed._replace(version=2) == stored.load(ROW.id, now=1_500)


def test_only_one_of_two_updates_of_a_version_succeeds(stored: SessionStore) -> None:
    """Who loaded a version that is no longer there changes nothing."""
    assert stored.update(ROW._replace(data=b"first"), ROW, now=1_500) is True
    assert stored.update(ROW._replace(data=b"second"), ROW, now=1_500) is False
    row = stored.load(ROW.id, now=1_500)
    assert row is not None
    assert row.data == b"first"


def test_a_row_moves_to_another_key(stored: SessionStore) -> None:
    """An update with another key leaves nothing under the old one."""
    moved = StoredSession(b"n" * 32, "fedcba9876543210", None, b"new", 1, 1_400, 2_400)
    assert stored.update(moved, ROW, now=1_500) is True
    assert stored.load(ROW.id, now=1_500) is None
    assert moved._replace(version=2) == stored.load(moved.id, now=1_500)


def test_a_touch_moves_the_end_forward_only(stored: SessionStore) -> None:
    """A touch never shortens a session, and leaves its version alone."""
    assert stored.touch(ROW.id, until=1_900, now=1_500) is False
    assert stored.touch(ROW.id, until=2_000, now=1_500) is False
    assert ROW == stored.load(ROW.id, now=1_500)
    assert stored.touch(ROW.id, until=2_100, now=1_500) is True
    assert ROW._replace(expires_at=2_100) == stored.load(ROW.id, now=1_500)


def test_a_delete_can_insist_on_a_version(stored: SessionStore) -> None:
    """A versioned delete leaves a row that has changed; a plain one does not."""
    assert stored.delete(ROW.id, version=2) is False
    assert stored.load(ROW.id, now=1_500) is not None
    assert stored.delete(ROW.id, version=1) is True
    assert stored.insert(ROW) is True
    assert stored.delete(ROW.id) is True
    assert stored.load(ROW.id, now=1_500) is None


def test_an_insert_whose_answer_was_lost_may_be_repeated(stored: SessionStore) -> None:
    """The same row again is no error: its random key makes it the same insert."""
    assert stored.insert(ROW) is True


def test_a_row_that_the_table_refuses_is_an_error(stored: SessionStore) -> None:
    """A refused insert is not mistaken for a repeated one."""
    broken = ROW._replace(id=b"x" * 32, data=None)  # type: ignore[arg-type]
    with pytest.raises(sa.exc.IntegrityError) as caught:
        stored.insert(broken)
    assert caught.value.__cause__ is not caught.value


def test_large_data_fits(store: SessionStore) -> None:
    """Data of 4 MB comes back whole, whatever the database calls its type."""
    row = ROW._replace(data=b"\x01" + b"\xf0" * 4_000_000)
    store.insert(row)
    assert row == store.load(row.id, now=1_500)


def test_16_mib_have_room_on_mariadb(make_database: Any) -> None:
    """The column takes more than the 64 KiB of a BLOB, and more than 16 MiB."""
    store = make_store(make_database("mariadb"))
    store.insert(ROW)
    query = (
        "SELECT character_octet_length FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND column_name = 'data'"
    )
    with store.engine.connect() as connection:
        room = connection.execute(sa.text(query)).scalar_one()
    store.dispose()
    assert room >= 16 * 1024 * 1024


def test_keys_differ_in_every_bit(store: SessionStore) -> None:
    """No collation, case or padding makes two keys one."""
    keys = [b"a" * 32, b"A" * 32, b"a" * 31 + b" ", b"a" * 31 + b"\0", b"\xe1" * 32]
    for number, key in enumerate(keys):
        store.insert(ROW._replace(id=key, version=number))
    loaded = [store.load(key, now=1_500) for key in keys]
    assert [0, 1, 2, 3, 4] == [row.version for row in loaded if row is not None]


def test_users_differ_by_case(store: SessionStore) -> None:
    """The column of the users compares them exactly."""
    store.insert(ROW._replace(user_id="Ann"))
    query = sa.select(store.table.c.handle).where(store.table.c.user_id == "ann")
    with store.engine.connect() as connection:
        assert connection.execute(query).all() == []


def test_data_that_is_not_binary_is_handed_on(make_database: Any) -> None:
    """A text where data should be, which SQLite allows, does not fail in the store."""
    store = make_store(make_database("sqlite-file"))
    store.insert(ROW)
    with store.engine.connect() as connection:
        connection.execute(sa.text("UPDATE sessions SET data = 'text', version = 'x'"))
    row = store.load(ROW.id, now=1_500)
    store.dispose()
    assert row is not None
    assert list(row[3:5]) == ["text", "x"]


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
    assert columns == ["expires_at", "handle", "user_id"]
    assert "Created the table 'sessions' for sessions." in caplog.messages


def test_a_table_that_was_dropped_is_created_again(stored: SessionStore) -> None:
    """A table that vanishes while the application runs is made anew."""
    stored.table.drop(stored.engine)
    assert stored.load(ROW.id, now=1_500) is None
    assert stored.insert(ROW) is True


def test_many_threads_create_the_table_at_once(shared_database_uri: str) -> None:
    """Ten that find no table, each with connections of its own, all go on."""
    stores = [make_store(shared_database_uri) for _ in range(10)]
    barrier = threading.Barrier(len(stores))
    answers: list[bool] = []

    def insert(number: int) -> None:
        barrier.wait()
        row = ROW._replace(id=bytes([number]) * 32)
        answers.append(stores[number].insert(row))

    threads = [threading.Thread(target=insert, args=[n]) for n in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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


def test_a_table_that_cannot_be_created_is_an_error(make_database: Any) -> None:
    """The database's own reason is in the message, and what to do."""
    source = sa.create_engine(make_database("postgresql"))
    table = sessions_table(sa.MetaData(), "sessions", "no_such_schema")
    store = SessionStore(sessions_engine(source), table)
    with pytest.raises(SessionTableError, match=r"(?s)no_such_schema.*by a migration"):
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


def kill_connections(store: SessionStore) -> None:
    """Let the server end the connections of the store's pool."""
    admin = sa.create_engine(store.engine.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        if admin.dialect.name == "postgresql":
            statement = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute(sa.text(statement))
        else:
            rows = connection.execute(
                sa.text(
                    "SELECT id FROM information_schema.processlist"
                    " WHERE db = DATABASE() AND id <> CONNECTION_ID()"
                )
            ).all()
            for (number,) in rows:
                connection.execute(sa.text(f"KILL {int(number)}"))
    admin.dispose()


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
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


@pytest.mark.parametrize("backend", ["postgresql", "mariadb"])
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
        "sqlite:////nowhere/at/all.db",
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
    other = sa.create_engine(store.engine.url)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(SessionStoreBusyError):
            store.update(ROW._replace(data=b"x"), ROW, now=1_500, wait=False)
        connection.rollback()
    other.dispose()
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
    with source.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(SessionStoreUnavailableError) as caught:
            store.delete(ROW.id)
        assert not isinstance(caught.value, SessionStoreBusyError)
        connection.rollback()
    source.dispose()
    store.dispose()


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
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: -1)
        with store._lock:
            for thread in threads:
                thread.start()
            time.sleep(0.2)  # both have noticed, and wait
        for thread in threads:
            thread.join()
        store.dispose()
    parent.dispose()
    assert loaded == [ROW, ROW]
    assert store._abandoned == [parent]


@pytest.mark.parametrize("echo", [True, "debug", False])
def test_no_value_reaches_the_log_of_the_statements(
    make_database: Any, caplog: pytest.LogCaptureFixture, echo: Any
) -> None:
    """The log shows the statements, and neither parameters nor rows, at any level."""
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    source = sa.create_engine(make_database("sqlite-file"), echo=echo)
    store = SessionStore(sessions_engine(source), sessions_table(sa.MetaData(), "s"))
    store.insert(ROW._replace(data=b"secret"))
    assert store.load(ROW.id, now=1_500) is not None
    store.dispose()
    assert "INSERT INTO s" in caplog.text
    assert "secret" not in caplog.text
