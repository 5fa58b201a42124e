"""The shortest way of a statement: when it is taken, what becomes of failures, that the
pool is as it was afterwards, and that no private part of SQLAlchemy is indispensable.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc as sa_exc
from sqlalchemy import orm

import flask_sessionsql
from flask_sessionsql import ServerSideSession
from flask_sessionsql.storage import driver
from flask_sessionsql.storage.driver import (
    Connections,
    DirectWay,
    PlainConnection,
    Statement,
    driver_in_transaction,
    keeping,
    renew,
)
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.store import SessionStore, StoredSession
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeDatabase
from tests.helpers import on
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
    assert len(by_sqlalchemy) == 1
    # SQLAlchemy 2.0 tells it only where somebody listens to the engine, too.
    assert len(seen) == 1 or sa.__version__.startswith("2.0.")


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


# The connections.


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


def check_out(engine: sa.Engine) -> PlainConnection | sa.PoolProxiedConnection:
    return Connections(engine).check_out()


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


# Large sessions.

LARGE = 4_500_000


class Allocated(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """The bytes that are in use in this process, whether Python has them, SQLite, or
    PostgreSQL's library.
    """
    gc.collect()
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("Only glibc counts what is in use.")
    mallinfo2.restype = Allocated
    found = mallinfo2()
    return int(found.uordblks + found.hblkhd)


def run_large(store: SessionStore, doing: str) -> None:
    row = row_of(1, data=bytes(LARGE), version=2)
    if doing == "load":
        found = store.load(row.id, now=0)
        assert found is not None
        assert LARGE == len(found.data)
    elif doing == "insert":
        assert store.insert(row)
    else:
        assert store.update(row, row._replace(version=1), now=0)


@pytest.mark.parametrize("doing", ["load", "insert", "update"])
def test_an_idle_connection_keeps_no_large_session(
    shared_database_uri: str, doing: str
) -> None:
    """Neither with its cursor nor in the driver, whether it was read or written."""
    left = []
    # The first one imports what it needs. What it keeps goes with its connections.
    for _ in range(2):
        store = make_store(shared_database_uri)
        data = bytes(LARGE if doing == "load" else 0)
        store.insert(ROW)
        store.delete(row_of(1).id)
        if doing != "insert":
            store.insert(row_of(1, data=data))
        store.engine.dispose()
        with store.engine.connect() as connection:
            if store.locks_whole_database:
                # The pages that SQLite has read are no session in particular.
                connection.exec_driver_sql("PRAGMA cache_size = 1")
        assert loads(store)
        assert store.delete(b"nobody's") is False
        before = allocated()
        run_large(store, doing)
        left.append(allocated() - before)
        found = store.load(row_of(1).id, now=0)
        assert found is not None
        assert bytes(LARGE) == found.data
        del found
        store.dispose()
    assert left[1] < 100_000


def test_only_a_small_session_leaves_the_cursor(store: SessionStore) -> None:
    """A large one costs another cursor, in memory as elsewhere, and nothing else."""
    for size in (64 * 1024, 64 * 1024 + 1):
        is_large = size > 64 * 1024
        row = row_of(size % 7 + 1, data=bytes(size))
        for write in (
            lambda row=row: store.insert(row),
            lambda row=row: store.update(row, row, now=0),
            lambda row=row: store.load(row.id, now=0),
        ):
            assert loads(store)
            assert kept(store) is not None
            assert write()
            assert is_large == (kept(store) is None)
        found = store.load(row.id, now=0)
        assert found is not None
        assert row.data == found.data
    assert loads(store)


@pytest.mark.parametrize("size", [4 * 1024**2, 4 * 1024**2 + 1])
def test_only_a_very_large_session_costs_a_connection(
    shared: SessionStore, size: int
) -> None:
    """And only with psycopg, whose library keeps what it once had room for. A session
    of the size that is allowed without a setting costs none.
    """
    costs = size > 4 * 1024**2 and shared.engine.dialect.driver == "psycopg"
    row = row_of(1, data=bytes(size))
    before = driver_connection(shared.engine)
    assert shared.insert(row)
    after = driver_connection(shared.engine)
    assert costs == (after is not before)
    assert shared.load(row.id, now=0) is not None
    assert costs == (driver_connection(shared.engine) is not after)


@pytest.mark.parametrize("data", [None, 7, "text" * 30_000])
def test_data_that_is_none(tmp_path: Path, data: object) -> None:
    """Whatever somebody has put into the table in its place is read as it is."""
    store = make_store(f"sqlite:///{tmp_path / 'sessions.db'}")
    assert store.insert(ROW)
    with store.engine.connect() as connection:
        text = str(sa.schema.CreateTable(store.table)).replace("BLOB NOT NULL", "BLOB")
        connection.exec_driver_sql("DROP TABLE sessions")
        connection.exec_driver_sql(text)
    store.engine.dispose()
    assert store.insert(ROW)
    with store.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE sessions SET data = ?", (data,))
    found = store.load(ROW.id, now=0)
    assert found is not None
    assert data == found.data
    store.dispose()


# SQLAlchemy's private parts.

#: What each is missed for: what is found where SQLAlchemy has another name for it.
WITH_ALL = {"direct": True, "plain": True, "kept": 3}
PARTS: dict[str, dict[str, object]] = {
    "_do_get": {"plain": False},
    "_do_return_conn": {"plain": False},
    "_pre_ping": {"plain": False},
    "_ConnectionRecord": {"plain": False},
    "get_connection": {"plain": False},
    "_connection_record": {},
    "_invalidate": {},
    "_pool": {"kept": 2},
    "maxsize": {"kept": 2},
    "_max_overflow": {"kept": 2},
    "_has_events": {"direct": False},
    "_connections": {},
    "_creator": {},
    "_invoke_creator": {},
    "_timeout": {},
}


#: A process each: all of them on the database that can lose its connections, and one
#: of each outcome on the others.
MISSED = [("postgresql", part) for part in PARTS]
MISSED += [
    (backend, part)
    for backend in ("sqlite-file", "mariadb")
    for part in ("_do_get", "_pool", "_has_events")
]


@pytest.mark.parametrize(("backend", "part"), on(*MISSED))
def test_a_sqlalchemy_without_a_part(
    make_database: MakeDatabase, backend: str, part: str
) -> None:
    """Where another version has renamed it, SQLAlchemy's own way is taken: every
    statement of the store, lost connections, the limit of the pool, and whole requests.
    """
    address = make_database(backend)
    tried = ["-W", "error", "-m", "tests.storage.renaming", part, address]
    result = subprocess.run(
        [sys.executable, *tried],
        capture_output=True,
        text=True,
        cwd=Path(flask_sessionsql.__file__).parent.parent,
    )
    assert (0, "") == (result.returncode, result.stderr)
    assert WITH_ALL | PARTS[part] == json.loads(result.stdout)


def private_names(module: Path) -> set[str]:
    """The names with an underscore in front that a module takes from elsewhere."""
    taken: set[str] = set()
    own: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
                own.add(name)
            case ast.Attribute(attr=name):
                taken.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.ImportFrom(level=0, names=names):
                taken.update(alias.name for alias in names)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "attrgetter")):
                for argument in node.args:
                    if isinstance(argument, ast.Constant):
                        taken.update(str(argument.value).split("."))
    return {name for name in taken - own if name[:1] == "_" and not name.endswith("__")}


def test_no_other_module_knows_them() -> None:
    """All private parts stand in one module. Elsewhere there are only names that are
    documented in spite of their underscores.
    """
    # A template asks a session for its keys by their names, so those are hidden.
    sessions = {"_source", *vars(ServerSideSession)}
    documented = {"_asdict", "_fields", "_replace", "_get_current_object", "_getframe"}
    # Flask's: asked for and done without, as from Flask 3.2 on.
    documented.add("_cv_tokens")
    # Flask-Login's, likewise; and what the tests of applications call of our own.
    documented |= {"_session_identifier_generator", "_save"}
    package = Path(flask_sessionsql.__file__).parent
    found = {
        str(module.relative_to(package)): names
        for module in package.rglob("*.py")
        if (names := private_names(module) - documented - sessions)
    }
    assert ["storage/driver.py"] == list(found)
    assert {"_ConnectionRecord", "_has_events", "_pre_ping"} <= found[
        "storage/driver.py"
    ]


def test_none_speaks_for_all_lost_connections(
    shared_database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without SQLAlchemy's way for that, the pool is renewed, and nobody else meets a
    lost connection, either.
    """
    monkeypatch.setattr(driver, "_ReplacingPool", type(None))
    store = make_store(shared_database_uri)
    if store.locks_whole_database:
        pytest.skip("SQLite has no server that could end a connection.")
    store.insert(ROW)
    several = [store.engine.raw_connection() for _ in range(3)]
    for connection in several:
        connection.close()
    pool = store.engine.pool
    kill_connections(store)
    for _ in range(3):
        assert loads(store)
    assert pool is not store.engine.pool
    assert pool.status().startswith("Pool size: 15")
    assert store.engine.pool.status().startswith("Pool size: 15")
    store.dispose()


@pytest.mark.parametrize("hidden", [False, True])
def test_connections_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    """Each that was open, once it is not in use any more; also where SQLAlchemy has no
    way to say so of a pool.
    """
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    if hidden:
        monkeypatch.delattr(sa.Pool, "_invalidate")
    with engine.connect() as kept, engine.connect() as used:
        old = {kept.connection.dbapi_connection, used.connection.dbapi_connection}
        kept.close()
        renew(engine)
        assert used.exec_driver_sql("SELECT 1").scalar() == 1
    with engine.connect() as one, engine.connect() as other:
        new = {one.connection.dbapi_connection, other.connection.dbapi_connection}
    assert old & new == set()
    for connection in old:
        assert connection is not None
        connection.close()
    engine.dispose()


def test_listeners_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """May be there, and miss nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(driver, "_pool_listeners", attrgetter("dispatch.nothing_like_it"))
        patch.setattr(driver, "_statement_listeners", attrgetter("nothing_like_it"))
        store = make_store(f"sqlite:///{tmp_path / 'sessions.db'}")
        direct, connections = DirectWay(store.engine), Connections(store.engine)
    assert not direct.is_open()
    connection = connections.check_out()
    connection.close()
    assert not isinstance(connection, PlainConnection)
    store.insert(ROW)
    assert loads(store)
    store.dispose()


# What others ask.


@pytest.mark.parametrize(
    ("options", "most", "kept"),
    [
        ({"pool_size": 2, "max_overflow": 3}, 5, 5),
        ({"pool_size": 2, "max_overflow": 0}, 2, 2),
        ({"pool_size": 2, "max_overflow": -1}, 7, 2),
    ],
)
def test_keeping(tmp_path: Path, options: dict[str, Any], most: int, kept: int) -> None:
    """As many connections as before at the most, and all of them stay."""
    source = sa.create_engine(
        f"sqlite:///{tmp_path / 'app.db'}", pool_timeout=0.01, **options
    )
    pool = keeping(source.pool.recreate())
    taken = [pool.connect() for _ in range(most)]
    if options["max_overflow"] >= 0:
        with pytest.raises(sa_exc.TimeoutError):
            pool.connect()
    for connection in taken:
        connection.close()
    assert isinstance(pool, sa.QueuePool)
    assert kept == pool.checkedin()
    pool.dispose()
    source.dispose()


def test_a_transaction_of_the_driver_s(shared_database_uri: str) -> None:
    """A driver that says so is asked, and another one may have one as soon as
    SQLAlchemy has. What was closed has none.
    """
    engine = sa.create_engine(shared_database_uri)
    says = engine.dialect.name == "sqlite"
    table = sa.Table("notes", sa.MetaData(), sa.Column("n", sa.Integer))
    table.create(engine)
    with orm.Session(engine) as session:
        assert not driver_in_transaction(session)
        session.execute(sa.select(table))
        assert driver_in_transaction(session) is not says
        session.execute(sa.insert(table), {"n": 1})
        assert driver_in_transaction(session)
        session.commit()
        assert not driver_in_transaction(session)
        session.execute(sa.insert(table), {"n": 2})
        session.connection().invalidate()
        assert not driver_in_transaction(session)
        session.rollback()
        session.execute(sa.insert(table), {"n": 3})
        session.connection().close()
        assert not driver_in_transaction(session)
        with pytest.warns(sa_exc.SAWarning):
            session.rollback()
    engine.dispose()


def test_a_transaction_that_does_not_say() -> None:
    """Whose connections SQLAlchemy does not show may have written."""

    class Begun(orm.Session):
        def get_transaction(self) -> Any:
            return object()

    assert driver_in_transaction(Begun())


def test_a_connection_that_others_may_have_is_left_alone(tmp_path: Path) -> None:
    """A large session costs it nothing, and ends no transaction on it."""
    url = f"sqlite:///{tmp_path / 'app.db'}"
    source = sa.create_engine(url, poolclass=sa.StaticPool)
    table = sessions_table(sa.MetaData(), "sessions")
    store = SessionStore(sessions_engine(source), table)
    row = row_of(1, data=bytes(100_000))
    assert store.insert(row)
    found = store.load(row.id, now=0)
    assert found is not None
    assert row.data == found.data
    store.dispose()
