"""The engine of the sessions: their own, connecting as the application's does.

Were the sessions on the application's engine, a thread that holds one of its
connections could wait for a second one for ever, and saving a session would
commit or roll back what the application has not finished. So they have a pool of
their own, in ``AUTOCOMMIT``: every statement is a transaction.

The pool is a recreation of the application's: the same URL, driver arguments, most
connections and time-outs, and the same listeners for ``connect`` and ``do_connect``,
where applications set pragmas or fetch passwords.

It differs in what becomes of the connections beyond ``pool_size``, up to
``max_overflow`` more: the application's pool closes them when they come back, and the
sessions' keeps them. Where a worker has more threads than the pool's size, five unless
``SQLALCHEMY_ENGINE_OPTIONS`` says otherwise, they would be opened for a statement and
closed after it, which takes longer than the statement. There are never more than were
in use at once, so a process with one thread has one.

Where the application makes its connections by a ``creator``, as that of a pool which
others use as well, each goes back as it came.

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

#: The sessions' statements are logged as ``sqlalchemy.engine.Engine.flask_sessionsql``.
LOGGING_NAME = "flask_sessionsql"


def _not_a_row(record: logging.LogRecord) -> bool:
    """At level DEBUG SQLAlchemy logs each row that it fetches: a whole session."""
    return record.levelno >= logging.INFO


logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(_not_a_row)


def _is_memory(url: sa.URL) -> bool:
    """Whether it is a database in memory, of which each connection would have its own,
    unless they share a cache: they do not wait for each other then.
    """
    if url.get_backend_name() != "sqlite":
        return False
    name = url.database or ":memory:"
    # SQLite's "Uniform Resource Identifiers": such a name can say what it opens.
    return name in {":memory:", "file::memory:"} or (
        name.startswith("file:") and url.query.get("mode") == "memory"
    )


def sessions_engine(
    source: sa.Engine, *, alone: bool = False, timeout: float = 10
) -> sa.Engine:
    """An engine for sessions that connects to the database of ``source``.

    It connects to nothing yet, and neither uses nor changes a connection of
    ``source``. For ``sqlite://``, a database in memory, it has a database of its
    own: one connection, which one statement at a time can use, since two threads
    on one SQLite connection could mistake each other's row counts.

    :param source: the engine of the application's bind.
    :param alone: whether the application uses the database for its sessions only.
    :param timeout: how many seconds a call may take, where the server does not answer.
    :raises SessionConfigError: the application gives everybody one connection.
    """
    options: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        # No transaction, so none to roll back: saves a round trip on MariaDB.
        "skip_autocommit_rollback": True,
        # What a session holds must not reach a log by way of SQLALCHEMY_ECHO.
        "hide_parameters": True,
        "echo": source.echo,
        "logging_name": LOGGING_NAME,
    }
    if source.dialect.driver in ("psycopg", "psycopg2"):
        # No session has one, and a look for that type takes a transaction, which a
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
            f"a 'creator' together with a {type(pool).__name__} gives everybody one"
            f" connection. Expected are connections of the sessions' own. {ADVICE}",
        )


def _prepare(connection: Any, record: object) -> None:
    """Let no transaction be open: no connection changes to ``AUTOCOMMIT`` within one. A
    listener of the application may leave one (psycopg begins one by itself).
    """
    if in_transaction(connection) is not False:
        connection.commit()
    # From Python 3.12 on, sqlite3 has another way of beginning them, which goes first.
    if getattr(connection, "autocommit", None) is False and hasattr(
        connection, "in_transaction"
    ):
        connection.autocommit = True


def _be_strict(connection: Any, record: object) -> None:
    """Let MariaDB refuse what a column cannot hold. Otherwise it may leave out what a
    connection's character set lacks, and a user's name would be somebody else's.
    """
    with closing(connection.cursor()) as cursor:
        cursor.execute(
            "SET SESSION sql_mode = CONCAT_WS(',', @@sql_mode, 'STRICT_TRANS_TABLES')"
        )


def _use_wal(driver: Any, connection: Any, record: object) -> None:
    """Let a file be read while it is written, and write without waiting for the disk
    at each commit, which is safe in this mode only (SQLite's documentation of ``PRAGMA
    synchronous``). What cannot be in it stays as it is: a file that is read-only, or
    one that somebody else is using at this moment.
    """
    with closing(connection.cursor()) as cursor, suppress(driver.Error):
        [mode] = cursor.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode == "wal":
            cursor.execute("PRAGMA synchronous = NORMAL")


class SQLiteFile:
    """The file behind an engine, which may be replaced by another one while connections
    are open. They would go on reading the old one, and could not write to it.

    :param engine: of SQLite or of another database, which has no such file.
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
        self._path = path or None  # none of a database in memory
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
        """Whether another file, or none, is where the last connection was made."""
        return self._path is not None and self._look() != self._seen
