"""A pooler between the application and PostgreSQL, such as PgBouncer.

A pooler may give each transaction to another process of the server. psycopg prepares a
statement when it runs for the fifth time, in the process that it has then. Another
process does not know the statement, or knows another client's by the same name. What
fails depends on the load, so it is not waited for: a pooler is noticed when a
connection is made, and nothing is prepared on it.

pg8000 sends a statement and its values separately, and the pooler may give each to
another process, unless both are in one transaction.
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

#: At which run psycopg prepares a statement, unless the application says another.
_USUAL_THRESHOLD = 5

#: What a process says that does not know a prepared statement, or knows another one by
#: its name.
_PREPARED_ELSEWHERE = {"26000", "42P05"}

_PROTOCOL_VIOLATION = "08P01"

#: What is wrong where a pooler forbids transactions, and what to do.
NO_TRANSACTIONS = (
    "expected is a database where transactions can begin; given is PgBouncer in"
    " statement pooling mode, which refuses them. The sessions need one to create their"
    " table, to limit and to revoke a user's sessions, and to purge. Set"
    " pool_mode = transaction for this database in PgBouncer's configuration."
)


def is_pooled(connection: Any) -> bool:
    """Whether the process that answers is not the one that was connected to. A pooler
    makes up the number of the process, 32 random bits, for a client that connects.

    :param connection: one of psycopg's, psycopg2's or pg8000's, in AUTOCOMMIT.
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
    """Whether a prepared statement is another process's."""
    told = codes(error)
    return bool(told & _PREPARED_ELSEWHERE) or (
        _PROTOCOL_VIOLATION in told and "prepared statement" in reason(error)
    )


class Preparing:
    """Whether statements are prepared on the connections of an engine: not where a
    pooler answers, unless the application has said when to. It costs one round trip
    for each connection that is made.

    :param engine: an engine in ``AUTOCOMMIT``, of any database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._is_stopped = False
        self._has_told = False
        looks = {"psycopg": self._look, "pg8000": self._look_at_pieces}
        if engine.dialect.driver == "psycopg":
            # SQLAlchemy asks a server for its version as soon as it is connected.
            sa.event.listen(engine, "connect", self._keep_stopped, insert=True)
        if engine.dialect.driver in looks:
            sa.event.listen(engine, "connect", looks[engine.dialect.driver])

    def stop(self) -> bool:
        """Prepare nothing any more, on new connections in the place of those that are
        open. Whether that can be had of the driver.
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
            "A connection pooler, such as PgBouncer, answers for the database, so the"
            " statements of the sessions are not prepared. The application's own fail"
            " now and then if it pools transactions: set SQLALCHEMY_ENGINE_OPTIONS ="
            ' {"connect_args": {"prepare_threshold": None}}, which ends this warning,'
            " or max_prepared_statements in PgBouncer 1.21 or later."
        )
