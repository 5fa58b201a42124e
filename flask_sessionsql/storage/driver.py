"""Running a statement directly on the driver's cursor, compiled once.

For a statement on a primary key, SQLAlchemy's work takes several times as long as
SQLite takes to run it. So a statement is compiled once and run on a cursor that stays
with its pooled connection, as long as nobody watches the engine. If somebody does, with
an event, with ``SQLALCHEMY_ECHO`` or with instrumentation built on events, every
statement runs through SQLAlchemy, where all of them see it.

Either way the connections come from SQLAlchemy's pool, which limits, recycles and
replaces them. The pool lends a connection through a proxy, which calls listeners, can
be detached, and returns the connection if somebody forgets to. Making and removing the
proxy takes three times as long as the pool's other work. A statement never forgets its
connection, so the proxy is not used unless somebody listens.

This needs a few undocumented parts of SQLAlchemy, which only this module uses. It
checks for them when an engine is made, or where it needs them, and uses SQLAlchemy's
own way if a part is missing, as in another version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, Protocol, TypeAlias, runtime_checkable

import sqlalchemy as sa
from flask import has_app_context
from flask_sqlalchemy import record_queries
from sqlalchemy import exc as sa_exc
from sqlalchemy import orm

__all__ = [
    "DirectWay",
    "Statement",
    "backend_pid",
    "creator_of",
    "driver_in_transaction",
    "in_transaction",
    "keeping",
    "most_connections",
    "renew",
    "wait_at_most",
    "watch",
]

#: The drivers that are used directly: those that the tests run on. Each takes and
#: returns integers, text and bytes unchanged.
DRIVERS = ("pysqlite", "psycopg", "pymysql")

#: The name under which a pooled connection keeps its cursor.
_CURSOR = "flask_sessionsql.cursor"

#: A cursor holds the values and rows of its last statement until the next one. After
#: more bytes than this, it is not kept.
_LARGE = 64 * 1024

#: A psycopg connection holds as many bytes in buffers that grow and never shrink. After
#: more bytes than this, the connection is not kept, although connecting takes half as
#: long again as such a statement: by default, no session is a quarter as large.
_VERY_LARGE = 4 * 1024 * 1024


# The private parts of SQLAlchemy that are used.


class _Record(Protocol):
    """A connection in its pool, in use or not."""

    info: dict[Any, Any]
    dbapi_connection: Any

    def get_connection(self) -> object:
        """The driver's connection, which is made if necessary."""

    def invalidate(self, e: BaseException | None = None) -> None:
        """Close the driver's connection."""


@runtime_checkable
class _OpenPool(Protocol):
    """A pool that can lend connections without proxies."""

    _pre_ping: bool

    def _do_get(self) -> _Record:
        """Take a connection that nobody else uses."""

    def _do_return_conn(self, record: _Record, /) -> None:
        """Give a connection back."""


@runtime_checkable
class _ReplacingPool(Protocol):
    """A pool that replaces all connections when one was lost."""

    def _invalidate(self, connection: Any, exception: Any = None, /) -> None:
        """Close connections as old as this one before they are used again."""


@runtime_checkable
class _Queue(Protocol):
    maxsize: int


@runtime_checkable
class _LimitedPool(Protocol):
    """A pool that keeps ``maxsize`` connections and opens ``_max_overflow`` more."""

    _pool: object
    _max_overflow: int


@runtime_checkable
class _WaitingPool(Protocol):
    """A pool that makes callers wait if all connections are in use."""

    _timeout: float | None


@runtime_checkable
class _Watched(Protocol):
    """An object that notes whether somebody has ever listened to its events."""

    _has_events: bool


#: What a transaction stores for each connection that it uses; the connection is first.
_Used: TypeAlias = tuple[sa.Connection, *tuple[object, ...]]


def _notes_listeners(target: object) -> bool:
    return isinstance(target, _Watched)


def _gives_records(pool: object) -> bool:
    """Whether a pool lends connections as :class:`PlainConnection` needs them."""
    record = getattr(sa.pool, "_ConnectionRecord", None)
    return (
        # A subclass may do more when a connection is taken or returned.
        type(pool) is sa.QueuePool
        and isinstance(pool, _OpenPool)
        and not pool._pre_ping
        and hasattr(record, "get_connection")
    )


#: The events of an engine and its dialect about statements.
_statement_listeners = attrgetter(
    "dispatch.before_cursor_execute",
    "dispatch.after_cursor_execute",
    "dispatch.before_execute",
    "dispatch.after_execute",
    "dispatch.engine_connect",
    "dispatch.begin",
    "dispatch.commit",
    "dispatch.rollback",
    "dispatch.set_connection_execution_options",
    "dialect.dispatch.do_execute",
    "dialect.dispatch.do_execute_no_params",
    "dialect.dispatch.handle_error",
)

#: The events of a pool whose listeners get the proxy.
_pool_listeners = attrgetter("dispatch.checkout", "dispatch.checkin", "dispatch.reset")


def _can_be_asked(listeners: attrgetter[Any], target: object) -> bool:
    try:
        listeners(target)
    except AttributeError:
        return False
    return True


# Statements.


def _is_unlimited(value: sa.ColumnElement[Any]) -> bool:
    """Whether the type of a column or a parameter has no maximum size."""
    kind = value.type
    if isinstance(kind, sa.LargeBinary):
        return kind.length is None
    return isinstance(kind, sa.types.NullType)


class Statement:
    """A statement on the table of the sessions.

    :param clause: the statement; all its values are named parameters.
    """

    __slots__ = ("_large_column", "_large_value", "_names", "_text", "clause")

    def __init__(
        self, clause: sa.Select[Any] | sa.Insert | sa.Update | sa.Delete
    ) -> None:
        self.clause: sa.Select[Any] | sa.Insert | sa.Update | sa.Delete = clause
        self._text = ""
        self._names: Sequence[str] | None = None
        self._large_value: str | None = None
        columns = clause.selected_columns if isinstance(clause, sa.Select) else ()
        self._large_column = next(
            (place for place, column in enumerate(columns) if _is_unlimited(column)),
            None,
        )

    def execute(
        self, cursor: Any, dialect: sa.Dialect, values: Mapping[str, Any]
    ) -> None:
        """Run it on a cursor of the driver's, on a connection of this dialect's. It
        raises the driver's own errors.
        """
        if not self._text:
            # Not earlier: a dialect asks its first connection how to quote names.
            compiled: Any = self.clause.compile(dialect=dialect)
            self._names = compiled.positiontup if compiled.positional else None
            self._large_value = next(
                (
                    name
                    for name, bound in compiled.binds.items()
                    if _is_unlimited(bound)
                ),
                None,
            )
            self._text = str(compiled)
        names = self._names
        given = values if names is None else [values[name] for name in names]
        cursor.execute(self._text, given)

    def size(self, values: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> int:
        """The size of the one item that can be large: a value that is written, or a
        column of the row that was found.
        """
        if rows:
            place = self._large_column
            thing = None if place is None else rows[0][place]
        else:
            name = self._large_value
            thing = None if name is None else values[name]
        return len(thing) if isinstance(thing, (bytes, str)) else 0

    def unbind(self, cursor: Any, dialect: sa.Dialect) -> None:
        """Make ``sqlite3`` forget the last values of the statement, which it keeps
        until it gets new ones.
        """
        # NULL for each but the last, which sqlite3 refuses, so that nothing is run.
        others = [None] * (len(self._names or ()) - 1)
        with suppress(dialect.loaded_dbapi.Error):
            cursor.execute(self._text, [*others, object()])


class PlainConnection:
    """A connection of a pool, with the part of SQLAlchemy's proxy that is used here.
    The caller must always call :meth:`close`.

    :raises sqlalchemy.exc.TimeoutError: none became free within the pool's time-out.
    :raises Exception: the driver's own error if it cannot connect.
    """

    # The names that a pool uses for a lost connection.
    __slots__ = ("_connection_record", "_pool", "info")

    def __init__(self, pool: _OpenPool) -> None:
        self._pool = pool
        record = self._connection_record = pool._do_get()
        try:
            record.get_connection()
        except BaseException as error:
            self.invalidate(error)
            self.close()
            raise
        #: Data that stays with the connection as long as it is open.
        self.info: dict[Any, Any] = record.info

    @property
    def dbapi_connection(self) -> Any:
        """The driver's connection; ``None`` if it is invalidated."""
        return self._connection_record.dbapi_connection

    @property
    def is_valid(self) -> bool:
        """Whether it can be used."""
        return self.dbapi_connection is not None

    def cursor(self, **options: Any) -> Any:
        """A cursor of the driver's."""
        return self.dbapi_connection.cursor(**options)

    def invalidate(self, error: BaseException | None = None) -> None:
        """Close the driver's connection. The pool will make a new one."""
        self._connection_record.invalidate(error)

    def close(self) -> None:
        """Give it back to the pool."""
        self._pool._do_return_conn(self._connection_record)


class Connections:
    """The connections of an engine's pool, each for one statement.

    :param engine: the engine. Its pool may be replaced by one of the same class, as
        :meth:`sqlalchemy.engine.Engine.dispose` does.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._is_plain = _gives_records(engine.pool) and _can_be_asked(
            _pool_listeners, engine.pool
        )

    def check_out(self) -> PlainConnection | sa.PoolProxiedConnection:
        """Take a connection, which the caller must close. Raises the same errors as
        :class:`PlainConnection` or :meth:`sqlalchemy.engine.Engine.raw_connection`.
        """
        pool: Any = self._engine.pool
        if (
            self._is_plain
            and not any(_pool_listeners(pool))
            and not pool.logger.isEnabledFor(logging.DEBUG)
        ):
            return PlainConnection(pool)
        return self._engine.raw_connection()

    def replace(
        self, lost: PlainConnection | sa.PoolProxiedConnection, error: Exception
    ) -> None:
        """Close a connection that was lost and, as SQLAlchemy does, the others in the
        pool: they are probably lost, too.
        """
        pool: object = self._engine.pool
        if isinstance(pool, _ReplacingPool):
            pool._invalidate(lost, error)
        else:
            lost.invalidate(error)
            self._engine.dispose()


def _begun(connection: PlainConnection | sa.PoolProxiedConnection) -> Any:
    """The driver's connection, if a listener for its checkout has begun a transaction
    on it. A plain connection has no listeners, so it is in no transaction.
    """
    if isinstance(connection, PlainConnection) or not connection.is_valid:
        return None
    driver = connection.dbapi_connection
    return driver if in_transaction(driver) else None


class DirectWay:
    """Runs statements on the driver's own connections from the pool of ``engine``.

    :param engine: an engine in ``AUTOCOMMIT``.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connections = Connections(engine)
        # In psycopg's default format, text, the data have twice as many bytes.
        is_psycopg = engine.dialect.driver == "psycopg"
        self._options: dict[str, Any] = {"binary": True} if is_psycopg else {}
        self._is_possible = (
            engine.dialect.driver in DRIVERS
            and _notes_listeners(engine)
            and _notes_listeners(engine.dialect)
            and _can_be_asked(_statement_listeners, engine)
        )

    def is_open(self) -> bool:
        """Whether nobody is watching, so that statements can run directly."""
        engine = self._engine
        if not self._is_possible or engine.logger.isEnabledFor(logging.INFO):
            return False
        # Somebody listens on all connections of any engine. Before SQLAlchemy 2.1, the
        # class lacks the attribute until then.
        if getattr(sa.Connection, "_has_events", False):
            return False
        # SQLAlchemy notes that somebody has ever listened, not that they stopped.
        has_events = engine._has_events or engine.dialect._has_events
        return not (has_events and any(_statement_listeners(engine)))

    def first(
        self, statement: Statement, values: Mapping[str, Any]
    ) -> Sequence[Any] | None:
        """The first row that a statement finds, or ``None``.

        :raises sqlalchemy.exc.DBAPIError: as SQLAlchemy would.
        """
        rows: Sequence[Sequence[Any]] = self._run(statement, values, fetches=True)
        return rows[0] if rows else None

    def change(self, statement: Statement, values: Mapping[str, Any]) -> int:
        """Run a statement. Returns how many rows it wrote.

        :raises sqlalchemy.exc.DBAPIError: as SQLAlchemy would.
        """
        count: int = self._run(statement, values, fetches=False)
        return count

    def _run(
        self, statement: Statement, values: Mapping[str, Any], *, fetches: bool
    ) -> Any:
        engine, connection = self._engine, None
        try:
            connection = self._connections.check_out()
            kept = connection.info
            # Removed while it is in use, because a StaticPool lends one connection to
            # everybody. It is put back only if there was no error.
            cursor = kept.pop(_CURSOR, None) or connection.cursor(**self._options)
            statement.execute(cursor, engine.dialect, values)
            # All rows, so that SQLite ends the statement and releases its lock.
            rows = cursor.fetchall() if fetches else ()
            result = rows if fetches else cursor.rowcount
            begun = _begun(connection)
            if begun is not None:
                begun.commit()
            size = statement.size(values, rows)
            if size <= _LARGE:
                kept[_CURSOR] = cursor
            else:
                self._let_go(connection, cursor, statement, size)
            return result
        except engine.dialect.loaded_dbapi.Error as error:
            raise self._named(statement, connection, error) from error
        except BaseException:
            # Interrupted in the middle of a conversation with the server, for example
            # by a time-out. SQLite has no server, and a database in memory would be
            # lost with its connection.
            if connection is not None and engine.dialect.name != "sqlite":
                connection.invalidate()
            raise
        finally:
            if connection is not None:
                self._give_back(connection)

    def _give_back(
        self, connection: PlainConnection | sa.PoolProxiedConnection
    ) -> None:
        try:
            begun = _begun(connection)
            if begun is not None:  # there was an error
                begun.rollback()
        except Exception:  # pragma: no cover -- it is lost as well
            connection.invalidate()
        finally:
            connection.close()

    def _let_go(
        self,
        connection: PlainConnection | sa.PoolProxiedConnection,
        cursor: Any,
        statement: Statement,
        size: int,
    ) -> None:
        """Release the memory of a large statement before the connection becomes idle:
        the cursor, and other places where a driver keeps data.
        """
        driver, has_rows = self._engine.dialect.driver, cursor.description is not None
        if driver == "pysqlite" and not has_rows:
            statement.unbind(cursor, self._engine.dialect)
        cursor.close()
        if not isinstance(connection, PlainConnection):
            return  # another kind of pool may lend it to others, too
        if driver == "pymysql" and has_rows:
            # Its connection keeps the last rows until the next command.
            connection.dbapi_connection.commit()
        elif driver == "psycopg" and size > _VERY_LARGE:
            connection.invalidate()

    def _named(
        self,
        statement: Statement,
        connection: PlainConnection | sa.PoolProxiedConnection | None,
        error: Any,
    ) -> Exception:
        """The error as SQLAlchemy would raise it. Lost connections are replaced, as
        SQLAlchemy does.
        """
        dialect = self._engine.dialect
        used = None if connection is None else connection.dbapi_connection
        lost = dialect.is_disconnect(error, used, None)
        if lost and connection is not None:
            self._connections.replace(connection, error)
        named: Exception = sa_exc.DBAPIError.instance(
            str(statement.clause),
            None,
            error,
            dialect.loaded_dbapi.Error,
            hide_parameters=True,
            connection_invalidated=lost,
            dialect=dialect,
        )
        return named


# For other modules.


def creator_of(pool: sa.Pool) -> object | None:
    """The function that makes a pool's connections, if it is the application's and not
    SQLAlchemy's.
    """
    creator: object = getattr(pool, "_creator", None)
    module: str = getattr(creator, "__module__", None) or ""
    ours = module.startswith("sqlalchemy.")
    return None if ours else creator


def watch(pool: sa.Pool, look: Callable[[Any], object]) -> None:
    """Call ``look`` with each connection that the creator of a pool makes, before the
    pool has it. If ``look`` raised later, the pool would close the connection.

    :param pool: a pool that nobody uses yet, with a creator of the application's.
    """
    own: Any = pool
    create = getattr(own, "_invoke_creator", None)
    if create is None:  # pragma: no cover -- in another SQLAlchemy
        return

    def creator(connection_record: Any = None) -> Any:
        connection = create(connection_record)
        look(connection)
        return connection

    own._creator = creator


def renew(engine: sa.Engine) -> None:
    """Replace each connection before it is used again. Connections in use are closed
    when they are needed the next time; ``engine.dispose()`` would leave them to the
    garbage collector.
    """
    replace = getattr(engine.pool, "_invalidate", None)
    if replace is None:
        engine.dispose()
    else:
        replace(None)


def backend_pid(connection: Any) -> int | None:
    """The process ID that PostgreSQL gave when it was connected; ``None`` if the driver
    does not know it.
    """
    key = getattr(connection, "_backend_key_data", None)
    if isinstance(key, bytes):  # pg8000 keeps the message: the number, and a secret
        return int.from_bytes(key[:4], "big", signed=True)
    told = getattr(getattr(connection, "info", None), "backend_pid", None)
    return told if isinstance(told, int) else None


def keeping(pool: sa.Pool) -> sa.Pool:
    """A pool like this one that keeps all connections that it may open. Returns the
    same pool if it does so already, has no limit, or is of another class.

    :param pool: a pool that nobody uses yet.
    """
    own: object = pool
    if (
        type(pool) is not sa.QueuePool
        or not isinstance(own, _LimitedPool)
        or not isinstance(own._pool, _Queue)
        or own._max_overflow < 1
    ):
        return pool
    own._pool.maxsize += own._max_overflow
    own._max_overflow = 0
    return pool.recreate()


def wait_at_most(pool: sa.Pool, seconds: float) -> None:
    """Limit how long callers wait for a connection of this pool."""
    own: object = pool
    if isinstance(own, _WaitingPool):
        own._timeout = seconds if own._timeout is None else min(own._timeout, seconds)


def most_connections(pool: sa.Pool) -> int | None:
    """The maximum number of connections of a pool; ``None`` if there is no limit or it
    is not known.
    """
    own: object = pool
    if not isinstance(pool, sa.QueuePool) or not isinstance(own, _LimitedPool):
        return None
    return pool.size() + own._max_overflow if own._max_overflow >= 0 else None


def in_transaction(driver: Any) -> bool | None:
    """Whether a transaction is open on a driver's connection, according to the driver,
    without asking the server; ``None`` if the driver does not know.
    """
    told = getattr(driver, "in_transaction", None)
    if isinstance(told, bool):  # sqlite3
        return told
    status = getattr(getattr(driver, "info", None), "transaction_status", None)
    if isinstance(status, int):  # psycopg, psycopg2: 0 is idle
        return status != 0
    status = getattr(driver, "server_status", None)
    if isinstance(status, int):  # PyMySQL, mariadbconnector: SERVER_STATUS_IN_TRANS
        return bool(status & 1)
    told = getattr(driver, "_in_transaction", None)
    return told if isinstance(told, bool) else None  # pg8000; mysqlclient does not know


def driver_in_transaction(session: orm.Session) -> bool:
    """Whether a transaction of this database session is open according to the driver.
    SQLAlchemy's transaction begins with the first ``SELECT``, which every request of a
    logged-in user makes; SQLite's only with the first write. If the driver does not
    know, there may be one. This does not connect.

    :param session: the application's database session.
    """
    begun = session.get_transaction()
    if begun is None:
        return False
    # The public way to ask for connections could check one out, and wait for it.
    used: Mapping[object, _Used] | None = getattr(begun, "_connections", None)
    return used is None or any(
        _may_write(connection) for connection, *_ in used.values()
    )


def _may_write(connection: sa.Connection) -> bool:
    if connection.closed or connection.invalidated:
        return False
    driver = connection.connection.driver_connection
    return bool(getattr(driver, "in_transaction", True))


def record_statements(engine: sa.Engine) -> None:
    """Make Flask-SQLAlchemy record the statements, as it does for the application's
    engines: ``get_recorded_queries()`` returns them, without the data of sessions.
    """
    listen = getattr(record_queries, "_listen", None)
    if listen is not None:
        listen(engine)
        sa.event.listen(engine, "after_cursor_execute", _leave_values_out)


def _leave_values_out(*_: object) -> None:
    if has_app_context():
        for query in record_queries.get_recorded_queries()[-1:]:
            query.parameters = None
