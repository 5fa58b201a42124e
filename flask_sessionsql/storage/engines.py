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

A SQLite file that nobody else opens is put into WAL mode: see :doc:`/sqlite`.
"""

from __future__ import annotations

import logging
from contextlib import closing, suppress
from functools import partial
from typing import Any

import sqlalchemy as sa

from .driver import keeping

__all__ = ["sessions_engine"]

#: The sessions' statements are logged as ``sqlalchemy.engine.Engine.flask_sessionsql``.
LOGGING_NAME = "flask_sessionsql"


def _not_a_row(record: logging.LogRecord) -> bool:
    """At level DEBUG SQLAlchemy logs each row that it fetches: a whole session."""
    return record.levelno >= logging.INFO


logging.getLogger(f"sqlalchemy.engine.Engine.{LOGGING_NAME}").addFilter(_not_a_row)


def _is_memory(url: sa.URL) -> bool:
    return url.get_backend_name() == "sqlite" and url.database in {None, "", ":memory:"}


def sessions_engine(source: sa.Engine, *, alone: bool = False) -> sa.Engine:
    """An engine for sessions that connects to the database of ``source``.

    It connects to nothing yet, and neither uses nor changes a connection of
    ``source``. For ``sqlite://``, a database in memory, it has a database of its
    own: one connection, which one statement at a time can use, since two threads
    on one SQLite connection could mistake each other's row counts.

    :param source: the engine of the application's bind.
    :param alone: whether the application uses the database for its sessions only.
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
    # A listener of the application may leave a transaction open (psycopg begins one by
    # itself), and no connection changes to AUTOCOMMIT within one.
    sa.event.listen(pool, "connect", lambda connection, record: connection.commit())
    if alone and source.dialect.name == "sqlite":
        sa.event.listen(pool, "connect", partial(_use_wal, source.dialect.loaded_dbapi))
    return sa.create_engine(source.url, pool=pool, **options)


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
