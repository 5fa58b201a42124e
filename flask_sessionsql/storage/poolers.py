"""Poolers between the application and PostgreSQL, such as PgBouncer.

A pooler may send each transaction to another process of the server. psycopg prepares a
statement when it runs for the fifth time, in the process that it has then. Another
process does not know the statement, or has another client's under the same name. Such
failures depend on the load, so this module does not wait for one: it recognizes a
pooler when a connection is made, and prepares nothing on it.

pg8000 sends a statement and its values separately, and the pooler may send them to
different processes, unless both are in one transaction.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from .connections import ONLY_IN_TRANSACTIONS
from .driver import backend_pid, renew
from .errors import codes, reason

__all__ = [
    "NO_TRANSACTIONS",
    "Preparing",
    "forbids_transactions",
    "is_pooled",
    "is_prepared_elsewhere",
]

logger: logging.Logger = logging.getLogger(__name__)

#: The run at which psycopg prepares a statement by default.
_USUAL_THRESHOLD = 5

#: The process does not know a prepared statement, or has another one under its name.
_PREPARED_ELSEWHERE = {"26000", "42P05"}

_PROTOCOL_VIOLATION = "08P01"

#: The message if a pooler forbids transactions.
NO_TRANSACTIONS = (
    "expected a database that allows transactions; got PgBouncer in statement pooling"
    " mode, which refuses them. Sessions need transactions to create their table, to"
    " limit and to revoke a user's sessions, and to purge. Set pool_mode = transaction"
    " for this database in PgBouncer's configuration."
)


def is_pooled(connection: Any) -> bool:
    """Whether another process answers than the one that the connection was made to. For
    each client a pooler invents the process ID, 32 random bits.

    :param connection: a connection of psycopg, psycopg2 or pg8000, in AUTOCOMMIT.
    """
    told = backend_pid(connection)
    if told is None:
        return False
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [answers] = cursor.fetchone()
    return bool(answers != told)


def forbids_transactions(error: BaseException) -> bool:
    """Whether a pooler refuses to begin a transaction."""
    return _PROTOCOL_VIOLATION in codes(error) and "transaction blocks" in reason(error)


def is_prepared_elsewhere(error: BaseException) -> bool:
    """Whether a prepared statement belongs to another process."""
    told = codes(error)
    return bool(told & _PREPARED_ELSEWHERE) or (
        _PROTOCOL_VIOLATION in told and "prepared statement" in reason(error)
    )


class Preparing:
    """Decides whether the connections of an engine prepare statements: not behind a
    pooler, unless the application has set a threshold. This costs one round trip for
    each new connection.

    :param engine: an engine in ``AUTOCOMMIT``, of any database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._is_stopped = False
        self._has_told = False
        looks = {"psycopg": self._look, "pg8000": self._look_at_pieces}
        if engine.dialect.driver == "psycopg":
            # Before SQLAlchemy asks the server for its version.
            sa.event.listen(engine, "connect", self._keep_stopped, insert=True)
        if engine.dialect.driver in looks:
            sa.event.listen(engine, "connect", looks[engine.dialect.driver])

    def stop(self) -> bool:
        """Stop preparing statements and replace the open connections. Returns whether
        the driver can do without.
        """
        if self._engine.dialect.driver != "psycopg":
            return False
        self._is_stopped = True
        self._tell()
        renew(self._engine)
        return True

    def _keep_stopped(self, connection: Any, record: object) -> None:
        if self._is_stopped:
            connection.prepare_threshold = None

    def _look(self, connection: Any, record: object) -> None:
        usual = getattr(connection, "prepare_threshold", None) == _USUAL_THRESHOLD
        if usual and is_pooled(connection):
            connection.prepare_threshold = None
            self._tell()

    def _look_at_pieces(self, connection: Any, record: Any) -> None:
        if is_pooled(connection):
            record.info[ONLY_IN_TRANSACTIONS] = True

    def _tell(self) -> None:
        if self._has_told:
            return
        self._has_told = True
        logger.warning(
            "There is a connection pooler, such as PgBouncer, in front of the database,"
            " so the sessions prepare no statements. If it pools transactions, the"
            " application's own statements fail now and then: set"
            " SQLALCHEMY_ENGINE_OPTIONS ="
            ' {"connect_args": {"prepare_threshold": None}}, which also ends this'
            " warning, or set max_prepared_statements in PgBouncer 1.21 or later."
        )
