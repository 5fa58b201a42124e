"""The sessions' own engine, which connects as the application's does.

On the application's engine, a thread that holds a connection could wait forever for a
second one, and saving a session would commit or roll back unfinished work of the
application. So sessions have their own pool, in ``AUTOCOMMIT``: each statement is a
transaction.

The pool copies the application's: URL, driver arguments, maximum of connections,
time-outs, and the listeners for ``connect`` and ``do_connect``, with which applications
set pragmas or fetch passwords.

There is one difference. The application's pool closes the connections beyond
``pool_size``, up to ``max_overflow`` more, when they come back; the sessions' pool
keeps them. Otherwise a worker with more threads than the pool's size, five by default,
would open and close a connection for a statement, which takes longer than the
statement. There are never more connections than were in use at once: one in a process
with one thread.

If the application makes its connections with a ``creator``, which may lend them to
others, each connection is given back unchanged.

A SQLite file that nobody else opens is put into WAL mode: see :doc:`/guides/sqlite`.
"""

from __future__ import annotations

import logging
import os
from contextlib import closing, suppress
from functools import partial
from typing import Any

import sqlalchemy as sa

from ..exceptions import SessionConfigError
from . import deadlines
from .connections import ADVICE, lend, refuse_if_used
from .driver import creator_of, in_transaction, keeping, watch

__all__ = ["SQLiteFile", "sessions_engine"]

#: Statements are logged under ``sqlalchemy.engine.Engine.flask_sessionsql``.
LOGGING_NAME = "flask_sessionsql"


def _not_a_row(record: logging.LogRecord) -> bool:
    """Drop DEBUG records: SQLAlchemy logs each row that it fetches, a whole session."""
    return record.levelno >= logging.INFO


logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(_not_a_row)


def _is_memory(url: sa.URL) -> bool:
    """Whether it is a database in memory: each connection would have its own, unless
    they share a cache, in which they do not wait for each other.
    """
    if url.get_backend_name() != "sqlite":
        return False
    name = url.database or ":memory:"
    # SQLite's "Uniform Resource Identifiers": such a name can ask for memory.
    return name in {":memory:", "file::memory:"} or (
        name.startswith("file:") and url.query.get("mode") == "memory"
    )


def sessions_engine(
    source: sa.Engine, *, alone: bool = False, timeout: float = 10
) -> sa.Engine:
    """An engine for sessions that connects to the database of ``source``.

    It does not connect yet, and neither uses nor changes a connection of ``source``.
    For ``sqlite://``, a database in memory, it has a separate database with one
    connection for one statement at a time: two threads on one SQLite connection could
    get each other's row counts.

    :param source: the engine of the application's bind.
    :param alone: whether the application uses the database only for its sessions.
    :param timeout: how many seconds a call may take if the server does not answer.
    :raises SessionConfigError: the application lends everybody the same connection.
    """
    options: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        # No transaction, so nothing to roll back: saves a round trip on MariaDB.
        "skip_autocommit_rollback": True,
        # SQLALCHEMY_ECHO must not write the data of a session to the log.
        "hide_parameters": True,
        "echo": source.echo,
        "logging_name": LOGGING_NAME,
    }
    if source.dialect.driver in ("psycopg", "psycopg2"):
        # No session needs the type, and looking for it takes a transaction, which a
        # pooler may refuse.
        options["use_native_hstore"] = False
    if _is_memory(source.url):
        return sa.create_engine(
            source.url,
            poolclass=sa.QueuePool,
            pool_size=1,
            max_overflow=0,
            connect_args={"check_same_thread": False},
            **options,
        )
    pool = keeping(source.pool.recreate())
    is_lent = creator_of(pool) is not None
    if is_lent:
        _refuse_one_connection(pool)
        watch(pool, refuse_if_used)
        lend(pool, lambda: engine.dialect)
    else:
        sa.event.listen(pool, "connect", _prepare)
        if source.dialect.name in ("mysql", "mariadb"):
            sa.event.listen(pool, "connect", _be_strict)
    if alone and source.dialect.name == "sqlite":
        sa.event.listen(pool, "connect", partial(_use_wal, source.dialect.loaded_dbapi))
    engine = sa.create_engine(source.url, pool=pool, **options)
    deadlines.install(source, engine, timeout)
    return engine


def _refuse_one_connection(pool: sa.Pool) -> None:
    if isinstance(pool, (sa.StaticPool, sa.SingletonThreadPool, sa.AssertionPool)):
        raise SessionConfigError(
            "SQLALCHEMY_ENGINE_OPTIONS",
            f"a 'creator' together with a {type(pool).__name__} lends everybody one"
            f" connection, but sessions need connections of their own. {ADVICE}",
        )


def _prepare(connection: Any, record: object) -> None:
    """End an open transaction, in which a connection could not change to
    ``AUTOCOMMIT``. A listener of the application may have left one (psycopg begins them
    automatically).
    """
    if in_transaction(connection) is not False:
        connection.commit()
    # Since Python 3.12, sqlite3 has this attribute, which takes precedence.
    if getattr(connection, "autocommit", None) is False and hasattr(
        connection, "in_transaction"
    ):
        connection.autocommit = True


def _be_strict(connection: Any, record: object) -> None:
    """Make MariaDB refuse values that a column cannot hold. Otherwise it may drop
    characters that the connection's character set lacks, and one user's name could
    become another's.
    """
    with closing(connection.cursor()) as cursor:
        cursor.execute(
            "SET SESSION sql_mode = CONCAT_WS(',', @@sql_mode, 'STRICT_TRANS_TABLES')"
        )


def _use_wal(driver: Any, connection: Any, record: object) -> None:
    """Turn on WAL mode: the file can be read while it is written, and a commit does not
    wait for the disk, which is safe only in this mode (SQLite's documentation of
    ``PRAGMA synchronous``). A file that is read-only, or in use by somebody else at the
    moment, stays as it is.
    """
    with closing(connection.cursor()) as cursor, suppress(driver.Error):
        [mode] = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode == "wal":
            cursor.execute("PRAGMA synchronous = NORMAL")


class SQLiteFile:
    """Notices if the file of an engine is replaced while connections are open, which
    would keep reading the old file and could not write to it.

    :param engine: any engine; other databases than SQLite have no such file.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._path: str | None = None
        self._seen: tuple[int, int] | None = None
        if engine.dialect.name == "sqlite":
            sa.event.listen(engine, "connect", self._note)

    def _note(self, connection: Any, record: object) -> None:
        with closing(connection.cursor()) as cursor:
            [*_, path] = cursor.execute("PRAGMA database_list").fetchone()
        self._path = path or None  # a database in memory has none
        self._seen = self._look()

    def _look(self) -> tuple[int, int] | None:
        if self._path is None:
            return None
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def was_replaced(self) -> bool:
        """Whether the file that the last connection opened is replaced or gone."""
        return self._path is not None and self._look() != self._seen
