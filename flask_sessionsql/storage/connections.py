"""How a connection is used and goes back: with no transaction open, and as it came
where it is the application's.

The connections of the sessions are in ``AUTOCOMMIT``. That alone does not keep a
transaction from being open: the application's listeners may begin one on each
connection of any engine, as SQLAlchemy's own recipe for savepoints on SQLite does. So
it is looked at, and not assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import sqlalchemy as sa

from ..exceptions import SessionConfigError
from .driver import in_transaction
from .errors import OF_SOCKETS

__all__ = [
    "ADVICE",
    "ONLY_IN_TRANSACTIONS",
    "end_transaction",
    "lend",
    "refuse_if_used",
    "roll_back",
    "used",
]

#: What to set where the application gives connections that others have, too.
ADVICE = (
    "Let 'creator' make a new connection each time, or give the sessions a bind of"
    " their own, without a 'creator': add it to SQLALCHEMY_BINDS, and name it in"
    " SESSION_SQLALCHEMY_BIND_KEY."
)

#: Under which name a pooled connection keeps that a statement on it works in a
#: transaction only: see :mod:`~flask_sessionsql.storage.poolers`.
ONLY_IN_TRANSACTIONS = "flask_sessionsql.only_in_transactions"

#: Under which name a pooled connection keeps how it came.
_CAME = "flask_sessionsql.came"


@contextmanager
def used(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One of the engine's connections. What is left of a transaction when it goes back
    is committed, or rolled back after an error.
    """
    with engine.connect() as connection:
        try:
            if ONLY_IN_TRANSACTIONS in connection.info:
                connection.exec_driver_sql("BEGIN")
            yield connection
        except BaseException as error:
            # What a socket says, or that a text has no bytes, pg8000 passes on from
            # within its conversation with the server. SQLite has none, and its memory
            # would go with the connection.
            broken = isinstance(error, (*OF_SOCKETS, UnicodeError))
            if broken and engine.dialect.name != "sqlite":
                connection.invalidate()
            roll_back(connection)
            raise
        end_transaction(connection)


def end_transaction(connection: sa.Connection) -> None:
    """Commit what is open on it, if anything is."""
    if _may_be_open(connection):
        try:
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            roll_back(connection)
            raise


def roll_back(connection: sa.Connection) -> None:
    """Roll back what is open on it, if anything is. It raises nothing."""
    if not _may_be_open(connection):
        return
    try:
        connection.exec_driver_sql("ROLLBACK")
    except Exception:
        # A pool must not hand out a connection with half a transaction on it.
        connection.invalidate()


def _may_be_open(connection: sa.Connection) -> bool:
    if connection.invalidated or connection.closed:
        return False
    return in_transaction(connection.connection.dbapi_connection) is not False


# Connections that are the application's.


def lend(pool: sa.Pool, dialect: Callable[[], sa.Dialect]) -> None:
    """Let each connection of a pool be as it came whenever nobody uses it: the pool's
    ``creator`` is the application's, and may give them to others, too.

    :param pool: one that nobody uses yet.
    :param dialect: gives that of the engine that uses it.
    """

    def came(connection: Any, record: Any) -> None:
        record.info[_CAME] = _mode(connection)

    def taken(connection: Any, record: Any, proxy: object) -> None:
        try:
            refuse_if_used(connection)
        except SessionConfigError:
            # Not the pool's any more: it would close it.
            record.dbapi_connection = None
            raise
        dialect().set_isolation_level(connection, "AUTOCOMMIT")

    def given_back(connection: Any, record: Any) -> None:
        if connection is None:
            return
        try:
            _set_mode(connection, record.info[_CAME])
        except Exception:  # it is lost, and its place in the pool is not to be
            record.invalidate()

    sa.event.listen(pool, "connect", came, insert=True)
    sa.event.listen(pool, "checkout", taken)
    sa.event.listen(pool, "checkin", given_back)


def refuse_if_used(connection: Any) -> None:
    """Refuse a driver's connection on which somebody has a transaction."""
    if _is_used(connection):
        raise SessionConfigError(
            "SQLALCHEMY_ENGINE_OPTIONS",
            "the 'creator' gave the sessions a connection that is in a transaction, so"
            f" somebody else is using it. Expected is one that nobody uses. {ADVICE}",
        )


def _is_used(connection: Any) -> bool:
    told = in_transaction(connection)
    if told is None:  # pragma: no cover -- mysqlclient, which has tests of its own
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT @@in_transaction")
            [told] = cursor.fetchone()
    return bool(told)


def _mode(connection: Any) -> Any:
    """Whether, or how, a connection begins transactions by itself."""
    if _is_sqlite(connection):
        return connection.isolation_level
    get = getattr(connection, "get_autocommit", None)
    return connection.autocommit if get is None else get()


def _set_mode(connection: Any, mode: Any) -> None:
    if _is_sqlite(connection):
        connection.isolation_level = mode
    elif callable(connection.autocommit):  # PyMySQL, mysqlclient
        connection.autocommit(mode)
    else:
        connection.autocommit = mode


def _is_sqlite(connection: Any) -> bool:
    return isinstance(getattr(connection, "in_transaction", None), bool)
