"""The rows of the sessions: one method, one statement, one short transaction.

The store knows an engine and a table, and nothing of Flask. Time is given to it,
in whole seconds since 1970. "Not there" is never an error: :meth:`SessionStore.load`
answers ``None`` and the writing methods ``False``. No connection is held between
two calls.

What a failing statement leads to:

- The connection was lost: one more try, on a new connection, at once.
- The table is missing: it is created, if it may be, and the statement tried
  again; :exc:`~flask_sessionsql.SessionTableError` otherwise.
- The database cannot be reached or refuses to work:
  :exc:`~flask_sessionsql.SessionStoreUnavailableError`.
- It was rolled back to let another one pass (a deadlock, a serialization failure):
  it is tried again.
- Anything else is a fault of this package or of the table and is raised as it
  came.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from .exceptions import (
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
)

__all__ = ["SessionStore", "StoredSession"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: SQLite's result codes for a lock that somebody else holds: on the file, and on a
#: table in a shared cache.
_SQLITE_BUSY = (5, 6)

#: How the databases say that they rolled a statement back to let another pass: a
#: serialization failure or a deadlock, on PostgreSQL, MariaDB and its clusters. Such a
#: statement has done nothing, so trying it again is safe.
_ROLLED_BACK = {"40001", "40P01", 1213}
MAX_TURNED_DOWN = 100

#: How the databases say that a table, a column or a schema is missing: SQLSTATEs of
#: PostgreSQL, numbers of MariaDB, and SQLite's words, since it has no number for it.
_MISSING_CODES = {"42P01", "42703", "3F000", 1146, 1054, 1049}
_MISSING_TEXTS = ("no such table", "no such column", "has no column named")

#: What an ordinary write changes, and what one to another key does besides.
_CHANGED = ("data", "expires_at")
_MOVED = ("id", "handle", "user_id", "created_at")

_UNAVAILABLE = (
    sa_exc.OperationalError,
    sa_exc.InterfaceError,
    # A server that has become read-only, such as a replica after a fail-over.
    sa_exc.InternalError,
    # No connection became free within the pool's time-out.
    sa_exc.TimeoutError,
)


class StoredSession(NamedTuple):
    """One row of the table: ``id`` in 32 bytes, ``created_at`` and ``expires_at`` in
    seconds since 1970, UTC, and ``user_id`` ``None`` where nobody is logged in.
    """

    id: bytes
    handle: str
    user_id: str | None
    data: bytes
    version: int
    created_at: int
    expires_at: int


class SessionStore:
    """The rows of ``table``, through ``engine``.

    :param engine: an engine in ``AUTOCOMMIT``, such as
        :func:`~flask_sessionsql.engines.sessions_engine` makes.
    :param table: the table, as :func:`~flask_sessionsql.tables.sessions_table`
        makes it.
    :param create_table: whether to create the table where it is missing.

    >>> import sqlalchemy as sa
    >>> from flask_sessionsql.engines import sessions_engine
    >>> from flask_sessionsql.tables import sessions_table
    >>> engine = sessions_engine(sa.create_engine("sqlite://"))
    >>> store = SessionStore(engine, sessions_table(sa.MetaData(), "sessions"))
    >>> row = StoredSession(b"0" * 32, "f00d", None, b"data", 1, 1000, 2000)
    >>> store.insert(row)
    True
    >>> store.load(row.id, now=1999) == row
    True
    >>> store.load(row.id, now=2000) is None
    True
    >>> store.dispose()
    """

    def __init__(
        self, engine: sa.Engine, table: sa.Table, *, create_table: bool = True
    ) -> None:
        self.engine = engine
        self.table = table
        self.create_table = create_table
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._abandoned: list[sa.Pool] = []
        columns = table.c
        live = sa.and_(
            columns.id == sa.bindparam("at"),
            columns.expires_at > sa.bindparam("now"),
        )
        as_loaded = sa.and_(live, columns.version == sa.bindparam("loaded"))
        # A column of the wrong type, in a row that was tampered with, must not
        # fail while the row is fetched: the data is taken as the driver gives it.
        self._load = sa.select(
            *(columns[name] for name in ("id", "handle", "user_id")),
            sa.type_coerce(columns.data, sa.types.NullType()).label("data"),
            *(columns[name] for name in ("version", "created_at", "expires_at")),
        ).where(live)
        self._insert = sa.insert(table)
        changed: dict[str, Any] = {
            name: sa.bindparam(f"new_{name}") for name in _CHANGED
        }
        moved: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in _MOVED}
        counted = {"version": columns.version + 1}
        update = sa.update(table).where(as_loaded)
        self._update = update.values(changed | counted)
        self._move = update.values(changed | moved | counted)
        self._touch = (
            sa.update(table)
            .where(live, columns.expires_at < sa.bindparam("until"))
            .values(expires_at=sa.bindparam("until"))
        )
        self._delete = sa.delete(table).where(columns.id == sa.bindparam("at"))
        self._delete_loaded = self._delete.where(
            columns.version == sa.bindparam("loaded")
        )

    @property
    def locks_whole_database(self) -> bool:
        """Whether one writer keeps all others out, as in SQLite."""
        return self.engine.dialect.name == "sqlite"

    def load(self, id: bytes, now: int) -> StoredSession | None:
        """The row with the key ``id``; ``None`` where there is none, or where it
        has expired.

        The columns' values are those of the database, checked by nobody yet.
        """
        row = self._run(self._load, {"at": id, "now": now}, _first)
        return None if row is None else StoredSession._make(row)

    def insert(self, row: StoredSession, *, wait: bool = True) -> bool:
        """Store a new row. Always ``True``: its key is random, so a row that is
        already there is this one, stored by a try whose answer was lost.
        """
        try:
            self._run(self._insert, row._asdict(), _count, wait)
        except sa_exc.IntegrityError:
            if self.load(row.id, row.created_at) is None:
                raise
        return True

    def update(
        self, row: StoredSession, loaded: StoredSession, now: int, *, wait: bool = True
    ) -> bool:
        """Store ``row`` in the place of ``loaded``, unless that has changed, has
        expired or is gone. Its version becomes one more than the loaded one.

        :param row: what is to stand there; with another ``id``, it moves.
        """
        moves = row.id != loaded.id
        names = _CHANGED + _MOVED if moves else _CHANGED
        parameters = {f"new_{name}": getattr(row, name) for name in names}
        parameters |= {"at": loaded.id, "loaded": loaded.version, "now": now}
        statement = self._move if moves else self._update
        return self._run(statement, parameters, _count, wait) == 1

    def touch(self, id: bytes, until: int, now: int, *, wait: bool = True) -> bool:
        """Let a live row expire at ``until``; it only ever moves forward."""
        parameters = {"at": id, "until": until, "now": now}
        return self._run(self._touch, parameters, _count, wait) == 1

    def delete(
        self, id: bytes, version: int | None = None, *, wait: bool = True
    ) -> bool:
        """Delete a row: whatever became of it, or only as loaded in ``version``."""
        if version is None:
            return self._run(self._delete, {"at": id}, _count, wait) == 1
        parameters = {"at": id, "loaded": version}
        return self._run(self._delete_loaded, parameters, _count, wait) == 1

    def dispose(self) -> None:
        """Close the connections, except those that another process opened."""
        self._leave_other_process()
        self.engine.dispose()

    # One statement.

    def _run(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        take: Callable[[sa.CursorResult[Any]], T],
        wait: bool = True,
    ) -> T:
        self._leave_other_process()
        wait = wait or not self.locks_whole_database
        reconnected = provided = False
        turned_down = 0
        while True:
            try:
                with self.engine.connect() as connection, _patience(connection, wait):
                    return take(connection.execute(statement, parameters))
            except (sa_exc.DBAPIError, sa_exc.TimeoutError) as error:
                lost = getattr(error, "connection_invalidated", False)
                if lost and not reconnected:
                    reconnected = True
                elif not provided and _blames_schema(error):
                    self._provide_table(error, wait)
                    provided = True
                elif turned_down < MAX_TURNED_DOWN and _was_rolled_back(error):
                    turned_down += 1
                else:
                    _raise_named(error, wait)

    def _leave_other_process(self) -> None:
        """After a fork, leave the parent's connections alone and make new ones:
        two processes that talk on one connection get each other's answers.
        """
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    # Kept, so that nothing closes them in this process.
                    self._abandoned.append(self.engine.pool)
                    self.engine.dispose(close=False)
                    self._pid = os.getpid()

    # The table.

    def _provide_table(self, error: Exception, wait: bool) -> None:
        """After a statement that failed for want of the table: let it be there.

        :raises SessionTableError: it cannot be, or it is another program's.
        """
        there = self._columns_there()
        missing = [c.name for c in self.table.columns if c.name not in there]
        if not there:
            self._create_table(wait)
        elif missing:
            raise SessionTableError(
                f"The table {self.table.fullname!r} in the database lacks the columns"
                f" {', '.join(missing)}, so it is not one for sessions, or one of"
                " another version. Set SESSION_SQLALCHEMY_TABLE to a name that is"
                " free, or run the migration that adds them."
            ) from error
        # Otherwise another process has just created it.

    def _columns_there(self) -> set[str]:
        """The columns of the table in the database; empty where it is missing."""
        try:
            with self.engine.connect() as connection:
                columns = sa.inspect(connection).get_columns(
                    self.table.name, self.table.schema
                )
                return {column["name"] for column in columns}
        except sa_exc.NoSuchTableError:
            return set()
        except sa_exc.DBAPIError as error:
            _raise_named(error)

    def _create_table(self, wait: bool) -> None:
        """Create the table and its indexes, however many processes do so at once."""
        name = self.table.fullname
        if not self.create_table:
            raise SessionTableError(
                f"There is no table {name!r} in the database, and SESSION_CREATE_TABLE"
                " is off. Run the migration that creates it, or set"
                " SESSION_CREATE_TABLE = True."
            )
        with self._lock:
            try:
                with self.engine.connect() as connection, _patience(connection, wait):
                    self.table.create(connection, checkfirst=True)
            except sa_exc.DBAPIError as error:
                if _sqlite_busy(error):
                    _raise_named(error, wait)
                if not self._columns_there():
                    raise SessionTableError(
                        f"The table {name!r} is missing and could not be created:"
                        f" {error.orig}. Let the database user create tables, or"
                        " create it by a migration and set SESSION_CREATE_TABLE ="
                        " False."
                    ) from error
            else:
                logger.info("Created the table %r for sessions.", name)


def _first(result: sa.CursorResult[Any]) -> sa.Row[Any] | None:
    return result.first()


def _count(result: sa.CursorResult[Any]) -> int:
    return result.rowcount


def _codes(error: Exception) -> set[object]:
    """The codes that the database gave with an error."""
    told = getattr(error, "orig", None)
    codes = {getattr(told, "sqlstate", None), getattr(told, "pgcode", None)}
    arguments = getattr(told, "args", ())[:1]
    return codes | {argument for argument in arguments if isinstance(argument, int)}


def _blames_schema(error: Exception) -> bool:
    """Whether the database says that a table, a column or a schema is missing."""
    told = str(getattr(error, "orig", ""))
    return bool(_codes(error) & _MISSING_CODES) or any(
        text in told for text in _MISSING_TEXTS
    )


def _was_rolled_back(error: Exception) -> bool:
    """Whether the database undid the statement in favour of another one."""
    return bool(_codes(error) & _ROLLED_BACK)


def _sqlite_busy(error: sa_exc.DBAPIError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _SQLITE_BUSY


def _raise_named(error: Exception, wait: bool = True) -> NoReturn:
    """Raise what an error that the database gave means to a request."""
    reason = str(getattr(error, "orig", error))
    if isinstance(error, sa_exc.DBAPIError) and _sqlite_busy(error) and not wait:
        raise SessionStoreBusyError(reason) from error
    if isinstance(error, _UNAVAILABLE) or getattr(
        error, "connection_invalidated", False
    ):
        logger.error("The database of the sessions cannot be used: %s", reason)
        raise SessionStoreUnavailableError(reason) from error
    raise error


@contextmanager
def _patience(connection: sa.Connection, wait: bool) -> Iterator[None]:
    """Without ``wait``, let SQLite answer at once that a file is locked."""
    if wait:
        yield
        return
    driver = connection.connection.cursor()
    usual = driver.execute("PRAGMA busy_timeout").fetchone()[0]
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA busy_timeout = {int(usual)}")
        driver.close()
