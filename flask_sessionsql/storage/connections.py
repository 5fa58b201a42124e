"""Using a connection and giving it back: with no transaction open, and unchanged if it
is the application's.

The connections of the sessions are in ``AUTOCOMMIT``. A transaction can be open
nevertheless: listeners of the application may begin one on each connection of any
engine, as SQLAlchemy's own recipe for savepoints on SQLite does. So this module looks,
and does not assume.
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

#: What to set if the application lends connections that others use, too.
ADVICE = (
    "Let 'creator' make a new connection each time, or give the sessions a bind of"
    " their own, without a 'creator': add it to SQLALCHEMY_BINDS, and name it in"
    " SESSION_SQLALCHEMY_BIND_KEY."
)

#: The name under which a pooled connection notes that statements on it work only in a
#: transaction: see :mod:`~flask_sessionsql.storage.poolers`.
ONLY_IN_TRANSACTIONS = "flask_sessionsql.only_in_transactions"

#: The name under which a pooled connection keeps its original mode.
_CAME = "flask_sessionsql.came"


@contextmanager
def used(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One of the engine's connections. A transaction that is open at the end is
    committed, or rolled back after an error.
    """
    with engine.connect() as connection:
        try:
            if ONLY_IN_TRANSACTIONS in connection.info:
                connection.exec_driver_sql("BEGIN")
            yield connection
        except BaseException as error:
            # pg8000 raises errors of sockets and encodings in the middle of its
            # conversation with the server. SQLite has no server, and a database in
            # memory would be lost with its connection.
            broken = isinstance(error, (*OF_SOCKETS, UnicodeError))
            if broken and engine.dialect.name != "sqlite":
                connection.invalidate()
            roll_back(connection)
            raise
        end_transaction(connection)


def end_transaction(connection: sa.Connection) -> None:
    """Commit the open transaction, if there is one."""
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


# Connections that belong to the application.


def lend(pool: sa.Pool, dialect: Callable[[], sa.Dialect]) -> None:
    """Restore the mode of each connection of a pool when nobody uses it: the
    ``creator`` is the application's and may lend the connections to others, too.

    :param pool: a pool that nobody uses yet.
    :param dialect: returns the dialect of the engine that uses the pool.
    """

    def came(connection: Any, record: Any) -> None:
        record.info[_CAME] = _mode(connection)

    def taken(connection: Any, record: Any, proxy: object) -> None:
        try:
            refuse_if_used(connection)
        except SessionConfigError:
            # Take it out of the pool, which would close it.
            record.dbapi_connection = None
            raise
        dialect().set_isolation_level(connection, "AUTOCOMMIT")

    def given_back(connection: Any, record: Any) -> None:
        if connection is None:
            return
        try:
            _set_mode(connection, record.info[_CAME])
        except Exception:  # the connection is lost, but its place in the pool is not
            record.invalidate()

    sa.event.listen(pool, "connect", came, insert=True)
    sa.event.listen(pool, "checkout", taken)
    sa.event.listen(pool, "checkin", given_back)


def refuse_if_used(connection: Any) -> None:
    """Refuse a driver's connection that is in a transaction."""
    if _is_used(connection):
        raise SessionConfigError(
            "SQLALCHEMY_ENGINE_OPTIONS",
            "the 'creator' returned a connection that is in a transaction, so somebody"
            f" else is using it; expected one that nobody uses. {ADVICE}",
        )


def _is_used(connection: Any) -> bool:
    told = in_transaction(connection)
    if told is None:  # pragma: no cover -- mysqlclient, which has tests of its own
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT @@in_transaction")
            [told] = cursor.fetchone()
    return bool(told)


def _mode(connection: Any) -> Any:
    """Whether, or how, a connection begins transactions automatically."""
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
