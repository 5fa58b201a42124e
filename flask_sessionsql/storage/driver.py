"""A statement's shortest way: compiled once, straight to the driver's cursor.

SQLAlchemy takes several times as long around a statement on a primary key as SQLite
takes to run it. So a statement is compiled once, and handed to a cursor that stays with
its connection in the pool, as long as nobody watches the engine. If anybody does, by an
event, ``SQLALCHEMY_ECHO`` or an instrumentation built on events, every statement takes
SQLAlchemy's own way, where all of them see it. The pool and its events are in use
either way (:mod:`flask_sessionsql.storage.connections`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from .connections import PlainConnection, check_out

__all__ = ["DirectWay", "Statement"]

#: The drivers that are used directly: those that the tests run on. Each takes integers,
#: text and bytes as they are, and gives them back so.
DRIVERS = ("pysqlite", "psycopg", "pymysql")

#: Under which name a pooled connection keeps its cursor.
_CURSOR = "flask_sessionsql.cursor"

#: What an engine and its dialect tell of the statements that run on them.
_listeners = attrgetter(
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


def _was_watched(engine: sa.Engine) -> bool:
    """Whether there may be listeners: false in most processes, and cheap to ask."""
    return bool(
        getattr(engine, "_has_events", True)
        or getattr(engine.dialect, "_has_events", True)
    )


class Statement:
    """A statement on the table of the sessions.

    :param clause: the statement; all its values are named parameters.
    """

    __slots__ = ("_names", "_text", "clause")

    def __init__(
        self, clause: sa.Select[Any] | sa.Insert | sa.Update | sa.Delete
    ) -> None:
        self.clause: sa.Select[Any] | sa.Insert | sa.Update | sa.Delete = clause
        self._text = ""
        self._names: Sequence[str] | None = None

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
            self._text = str(compiled)
        names = self._names
        given = values if names is None else [values[name] for name in names]
        cursor.execute(self._text, given)


class DirectWay:
    """Runs statements on the driver's own connections, out of the pool of ``engine``.

    :param engine: an engine in ``AUTOCOMMIT``.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._knows_driver = engine.dialect.driver in DRIVERS

    def is_open(self) -> bool:
        """Whether nobody would miss a statement that goes this way."""
        if not self._knows_driver or self._engine.logger.isEnabledFor(logging.INFO):
            return False
        # Whoever listens on all connections, of any engine.
        if getattr(sa.Connection, "_has_events", None):
            return False
        # SQLAlchemy notes that somebody has ever listened, and not that they went.
        return not (_was_watched(self._engine) and any(_listeners(self._engine)))

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
            connection = check_out(engine)
            kept = connection.info
            # Taken out while it is used: a StaticPool gives everybody one connection.
            # It is put back if all went well, and no failure is met by the next one.
            cursor = kept.pop(_CURSOR, None) or connection.cursor()
            statement.execute(cursor, engine.dialect, values)
            # All rows, so that SQLite does not keep the statement and its lock.
            result = cursor.fetchall() if fetches else cursor.rowcount
            kept[_CURSOR] = cursor
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
                connection.close()

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
            # As SQLAlchemy does: the others in the pool have met the same fate, and
            # nobody is to find out one by one.
            pool: Any = self._engine.pool
            pool._invalidate(connection, error)
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
