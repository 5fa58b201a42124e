"""A pooler between the application and PostgreSQL, such as PgBouncer.

A pooler may give each transaction to another process of the server. psycopg prepares a
statement that it has run five times, in the process that it has then; another one does
not know it, or knows somebody else's by that name. What fails depends on the load, so
it is not waited for: a connection that a pooler answers is noticed when it is made, and
prepares nothing.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from ..exceptions import SessionConfigError
from .errors import codes, reason

__all__ = ["is_pooled", "prepare_nothing_behind_poolers", "raise_if_of_pooler"]

logger: logging.Logger = logging.getLogger(__name__)

#: A prepared statement is not there, or is already: SQLSTATEs of PostgreSQL.
_OF_PREPARING = {"26000", "42P05"}
#: What PgBouncer says of a transaction where its ``pool_mode`` is ``statement``.
_NO_TRANSACTIONS = "transaction blocks not allowed"

#: After how many runs psycopg prepares a statement, unless it is told otherwise.
_USUAL_THRESHOLD = 5


def is_pooled(connection: Any) -> bool:
    """Whether the process that answers is not the one that was connected to: a pooler
    makes up what it tells of that (PostgreSQL's documentation, "BackendKeyData").

    :param connection: one of psycopg or psycopg2, in no transaction.
    """
    with closing(connection.cursor()) as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [answers] = cursor.fetchone()
    return bool(answers != connection.info.backend_pid)


def prepare_nothing_behind_poolers(engine: sa.Engine) -> None:
    """Let psycopg prepare no statement where a pooler answers, unless the application
    has said when it is to. It costs one round trip for each connection that is made.

    :param engine: in AUTOCOMMIT.
    """
    if (engine.dialect.name, engine.dialect.driver) != ("postgresql", "psycopg"):
        return
    has_told = False

    def look(connection: Any, record: object) -> None:
        nonlocal has_told
        if connection.prepare_threshold != _USUAL_THRESHOLD or not is_pooled(
            connection
        ):
            return
        connection.prepare_threshold = None
        if not has_told:
            has_told = True
            logger.warning(
                "A connection pooler such as PgBouncer answers for the database, so the"
                " sessions' statements are not prepared. The application's own may"
                ' fail: set SQLALCHEMY_ENGINE_OPTIONS = {"connect_args":'
                ' {"prepare_threshold": None}}, which ends this warning as well.'
            )

    sa.event.listen(engine, "connect", look)


def raise_if_of_pooler(error: Exception) -> None:
    """Say what to set where a pooler is the reason of an error.

    :raises SessionConfigError: it is.
    """
    if _NO_TRANSACTIONS in reason(error):
        raise SessionConfigError(
            "SQLALCHEMY_DATABASE_URI",
            "the pooler at this address gives each statement to another connection and"
            " refuses transactions, which sessions need, and SQLAlchemy does. Set its"
            " pool_mode to 'transaction' or 'session', or give the address of the"
            " server itself.",
        ) from None
    if codes(error) & _OF_PREPARING:
        raise SessionConfigError(
            "SQLALCHEMY_DATABASE_URI",
            "a pooler at this address has given a statement to another connection than"
            " the one that has prepared it. Begin the address with"
            " 'postgresql+psycopg' and set no prepare_threshold, or with"
            " 'postgresql+psycopg2'; pg8000 works with the server itself, or where the"
            " pool_mode is 'session'.",
        ) from None
