"""A statement's shortest way: compiled once, straight to the driver's cursor.

SQLAlchemy takes several times as long around a statement on a primary key as SQLite
takes to run it. So a statement is compiled once, and handed to a cursor that stays with
its connection in the pool, as long as nobody watches the engine. If anybody does, by an
event, ``SQLALCHEMY_ECHO`` or an instrumentation built on events, every statement takes
SQLAlchemy's own way, where all of them see it.

The connections are those of SQLAlchemy's pool either way, with its limit and time-out,
its connecting, recycling, and replacing what was lost. The pool gives a connection out
behind a proxy: listeners are told of it, it can be detached, and it comes back by
itself if it is forgotten. Making that proxy and taking it down takes three times as
long as the rest of what a pool does. A statement never forgets its connection, so the
proxy is left out where nobody listens.

This takes a few parts of SQLAlchemy that it does not document. They are used in this
module only. It looks for them when an engine is made, or where it needs them, and takes
SQLAlchemy's own way in place of a part that is missing, as in another version.
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

#: The drivers that are used directly: those that the tests run on. Each takes integers,
#: text and bytes as they are, and gives them back so.
DRIVERS = ("pysqlite", "psycopg", "pymysql")

#: Under which name a pooled connection keeps its cursor.
_CURSOR = "flask_sessionsql.cursor"

#: A cursor holds the values and rows of its last statement until the next one. A cursor
#: that has had more bytes than this is not kept.
_LARGE = 64 * 1024

#: A connection of psycopg's holds as many in buffers that grow and never shrink. One
#: that has had more bytes than this is not kept, although connecting takes half as long
#: again as such a statement: without a setting no session is a quarter as large.
_VERY_LARGE = 4 * 1024 * 1024


# What is used of SQLAlchemy's private parts.


class _Record(Protocol):
    """A connection in its pool, in use or not."""

    info: dict[Any, Any]
    dbapi_connection: Any

    def get_connection(self) -> object:
        """The driver's connection, made if it has to be."""

    def invalidate(self, e: BaseException | None = None) -> None:
        """Close the driver's connection."""


@runtime_checkable
class _OpenPool(Protocol):
    """A pool that gives out connections without proxies."""

    _pre_ping: bool

    def _do_get(self) -> _Record:
        """A connection that nobody else uses."""

    def _do_return_conn(self, record: _Record, /) -> None:
        """Take one back."""


@runtime_checkable
class _ReplacingPool(Protocol):
    """A pool that replaces all connections when one was lost."""

    def _invalidate(self, connection: Any, exception: Any = None, /) -> None:
        """Those that are as old as this one are closed before they are used again."""


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
    """A pool that lets wait who finds all connections in use."""

    _timeout: float | None


@runtime_checkable
class _Watched(Protocol):
    """What notes that somebody has ever listened to its events."""

    _has_events: bool


#: What a transaction has of each connection that it uses: the connection comes first.
_Used: TypeAlias = tuple[sa.Connection, *tuple[object, ...]]


def _notes_listeners(target: object) -> bool:
    return isinstance(target, _Watched)


def _gives_records(pool: object) -> bool:
    """Whether a pool gives out connections as :class:`PlainConnection` takes them."""
    record = getattr(sa.pool, "_ConnectionRecord", None)
    return (
        # Another class may do more when a connection comes or goes.
        type(pool) is sa.QueuePool
        and isinstance(pool, _OpenPool)
        and not pool._pre_ping
        and hasattr(record, "get_connection")
    )


#: What an engine and its dialect tell of the statements that run on them.
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

#: What a proxy is for: these listeners of a pool's are given it.
_pool_listeners = attrgetter("dispatch.checkout", "dispatch.checkin", "dispatch.reset")


def _can_be_asked(listeners: attrgetter[Any], target: object) -> bool:
    try:
        listeners(target)
    except AttributeError:
        return False
    return True


# Statements.


def _is_unlimited(value: sa.ColumnElement[Any]) -> bool:
    """Whether a column or a parameter is of a type whose values have any size."""
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
            # Not earlier: a dialect asks its first connection how names are quoted.
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
        """How large the one thing is that can be large: a value that it writes, or one
        of the row that it finds.
        """
        if rows:
            place = self._large_column
            thing = None if place is None else rows[0][place]
        else:
            name = self._large_value
            thing = None if name is None else values[name]
        return len(thing) if isinstance(thing, (bytes, str)) else 0

    def unbind(self, cursor: Any, dialect: sa.Dialect) -> None:
        """Take its last values from ``sqlite3``, which keeps each statement, with its
        values, until it is given others.
        """
        # NULL for each but the last, which is refused, so that nothing is run.
        others = [None] * (len(self._names or ()) - 1)
        with suppress(dialect.loaded_dbapi.Error):
            cursor.execute(self._text, [*others, object()])


class PlainConnection:
    """One of a pool's connections, with what is used of SQLAlchemy's proxy. Whoever has
    it calls :meth:`close` whatever happens.

    :raises sqlalchemy.exc.TimeoutError: none became free within the pool's time-out.
    :raises Exception: the driver's own error where it cannot connect.
    """

    # Under the names that a pool asks for when it is told of a lost connection.
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
        #: What stays with the connection as long as it is open.
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
        """Close the driver's connection. Its place in the pool gets a new one."""
        self._connection_record.invalidate(error)

    def close(self) -> None:
        """Give it back to the pool."""
        self._pool._do_return_conn(self._connection_record)


class Connections:
    """The connections of an engine's pool, each for one statement.

    :param engine: the engine; its pool may be replaced by one of its kind, as
        :meth:`sqlalchemy.engine.Engine.dispose` does.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._is_plain = _gives_records(engine.pool) and _can_be_asked(
            _pool_listeners, engine.pool
        )

    def check_out(self) -> PlainConnection | sa.PoolProxiedConnection:
        """A connection, to be closed by the caller. It raises what
        :class:`PlainConnection` or :meth:`sqlalchemy.engine.Engine.raw_connection`
        does.
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
        """Close a connection that was lost. As SQLAlchemy does, with the others in the
        pool: they have met the same fate, and nobody is to find out one by one.
        """
        pool: object = self._engine.pool
        if isinstance(pool, _ReplacingPool):
            pool._invalidate(lost, error)
        else:
            lost.invalidate(error)
            self._engine.dispose()


def _begun(connection: PlainConnection | sa.PoolProxiedConnection) -> Any:
    """The driver's connection, if a listener for its checkout has begun a transaction
    on it, as it may. One that is given out without telling anybody is in none.
    """
    if isinstance(connection, PlainConnection) or not connection.is_valid:
        return None
    driver = connection.dbapi_connection
    return driver if in_transaction(driver) else None


class DirectWay:
    """Runs statements on the driver's own connections, out of the pool of ``engine``.

    :param engine: an engine in ``AUTOCOMMIT``.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connections = Connections(engine)
        # As text, which is psycopg's default, the data are twice as many bytes.
        is_psycopg = engine.dialect.driver == "psycopg"
        self._options: dict[str, Any] = {"binary": True} if is_psycopg else {}
        self._is_possible = (
            engine.dialect.driver in DRIVERS
            and _notes_listeners(engine)
            and _notes_listeners(engine.dialect)
            and _can_be_asked(_statement_listeners, engine)
        )

    def is_open(self) -> bool:
        """Whether nobody would miss a statement that goes this way."""
        engine = self._engine
        if not self._is_possible or engine.logger.isEnabledFor(logging.INFO):
            return False
        # Whoever listens on all connections, of any engine. Before SQLAlchemy 2.1, the
        # class has no such note until somebody does.
        if getattr(sa.Connection, "_has_events", False):
            return False
        # SQLAlchemy notes that somebody has ever listened, and not that they went.
        has_events = engine._has_events or engine.dialect._has_events
        return not (has_events and any(_statement_listeners(engine)))

    def first(
        self, statement: Statement, values: Mapping[str, Any]
    ) -> Sequence[Any] | None:
        """The first row that a statement finds; ``None`` where there is none.

        :raises sqlalchemy.exc.DBAPIError: as SQLAlchemy's own way does.
        """
        rows: Sequence[Sequence[Any]] = self._run(statement, values, fetches=True)
        return rows[0] if rows else None

    def change(self, statement: Statement, values: Mapping[str, Any]) -> int:
        """How many rows a statement wrote.

        :raises sqlalchemy.exc.DBAPIError: as SQLAlchemy's own way does.
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
            # Taken out while it is used: a StaticPool gives everybody one connection.
            # It is put back if all went well, and no failure is met by the next one.
            cursor = kept.pop(_CURSOR, None) or connection.cursor(**self._options)
            statement.execute(cursor, engine.dialect, values)
            # All rows, so that SQLite does not keep the statement and its lock.
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
            # Broken off within a conversation with the server, as by a time-out. There
            # is none with SQLite, whose memory would go with its connection.
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
            if begun is not None:  # and failed
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
        """Let nothing of a large statement stay with the connection while it is idle:
        neither with the cursor nor where else its driver keeps something.
        """
        driver, has_rows = self._engine.dialect.driver, cursor.description is not None
        if driver == "pysqlite" and not has_rows:
            statement.unbind(cursor, self._engine.dialect)
        cursor.close()
        if not isinstance(connection, PlainConnection):
            return  # a pool of another kind may have given it to others, too
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
        """The error as SQLAlchemy raises it, after what SQLAlchemy does about it."""
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


# What others ask.


def creator_of(pool: sa.Pool) -> object | None:
    """What makes a pool's connections, if that is the application's own and not
    SQLAlchemy's.
    """
    creator: object = getattr(pool, "_creator", None)
    module: str = getattr(creator, "__module__", None) or ""
    ours = module.startswith("sqlalchemy.")
    return None if ours else creator


def watch(pool: sa.Pool, look: Callable[[Any], object]) -> None:
    """Look at each connection that a pool's creator makes, before the pool has it. The
    pool would close it, were ``look`` to raise later.

    :param pool: one that nobody uses yet, with a creator of the application's.
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
    """Let each connection be made anew before it is used again. Those that are in use
    are closed when they are asked for the next time, and not left to the garbage
    collector, as by ``engine.dispose()``.
    """
    replace = getattr(engine.pool, "_invalidate", None)
    if replace is None:
        engine.dispose()
    else:
        replace(None)


def backend_pid(connection: Any) -> int | None:
    """The number of the process that a connection of PostgreSQL's was told to be with;
    ``None`` where its driver does not say.
    """
    key = getattr(connection, "_backend_key_data", None)
    if isinstance(key, bytes):  # pg8000 keeps the message: the number, and a secret
        return int.from_bytes(key[:4], "big", signed=True)
    told = getattr(getattr(connection, "info", None), "backend_pid", None)
    return told if isinstance(told, int) else None


def keeping(pool: sa.Pool) -> sa.Pool:
    """A pool like this one that keeps all connections it may open; or this one, where
    it does so already, has no limit, or is of another class.

    :param pool: one that nobody uses yet.
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
    """Let nobody wait longer for a connection of this pool."""
    own: object = pool
    if isinstance(own, _WaitingPool):
        own._timeout = seconds if own._timeout is None else min(own._timeout, seconds)


def most_connections(pool: sa.Pool) -> int | None:
    """How many connections a pool opens at most; ``None`` for no limit, or where it
    does not say.
    """
    own: object = pool
    if not isinstance(pool, sa.QueuePool) or not isinstance(own, _LimitedPool):
        return None
    return pool.size() + own._max_overflow if own._max_overflow >= 0 else None


def in_transaction(driver: Any) -> bool | None:
    """Whether a transaction is open on a driver's connection, as the driver says it
    without asking the server; ``None`` where it does not say.
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
    return told if isinstance(told, bool) else None  # pg8000; mysqlclient says nothing


def driver_in_transaction(session: orm.Session) -> bool:
    """Whether the driver says that a transaction of this session is open: SQLite's
    begins with the first write, SQLAlchemy's with the first ``SELECT``, as of every
    user who is logged in. A driver that does not say may have one. It connects to
    nothing.

    :param session: the application's.
    """
    begun = session.get_transaction()
    if begun is None:
        return False
    # Asking for the connections in public could check one out, and wait for it.
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
    """Let Flask-SQLAlchemy record the statements, as it does those of the application's
    engines: ``get_recorded_queries()`` has them, without what the sessions hold.
    """
    listen = getattr(record_queries, "_listen", None)
    if listen is not None:
        listen(engine)
        sa.event.listen(engine, "after_cursor_execute", _leave_values_out)


def _leave_values_out(*_: object) -> None:
    if has_app_context():
        for query in record_queries.get_recorded_queries()[-1:]:
            query.parameters = None
