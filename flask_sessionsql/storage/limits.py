"""The limit of sessions per user, kept even if a user logs in many times at once.

The page :doc:`/guides/sign-out` has the settings, and what happens at a login beyond
the limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from ..exceptions import SessionLimitError, SessionStoreUnavailableError
from .database import delete_rows, transaction

__all__ = ["UserLimit", "of_user", "within_limit"]

#: Seconds that a login waits for other logins of the same user.
PATIENCE = 10

#: How often to search for sessions beyond the limit.
MAX_LOOKS = 100


@dataclass
class UserLimit:
    """How many sessions one user may have, and what happens beyond that."""

    most: int
    #: Whether another login is refused; otherwise the oldest sessions are ended.
    refuses: bool
    #: The time now, in seconds since 1970: expired sessions do not count.
    now: int
    #: Sessions that began then or earlier do not count: their absolute lifetime is
    #: over.
    outlived: int | None = None
    #: The handles of the sessions that were ended.
    ended: list[str] = field(default_factory=list)


def of_user(table: sa.Table, user_id: str) -> sa.ColumnElement[bool]:
    """The condition that a row belongs to this user.

    MariaDB ignores trailing spaces when it compares texts, so the length is compared
    too: ``"ann "`` and ``"ann"`` are different users.
    """
    column = table.c.user_id
    return sa.and_(column == user_id, sa.func.char_length(column) == len(user_id))


def within_limit(
    write: Callable[[sa.Connection], int],
    table: sa.Table,
    limit: UserLimit,
    id: bytes,
    user_id: str,
) -> Callable[[sa.Connection], int]:
    """``write``, in one transaction with ending the user's oldest other sessions.

    :param write: writes the row, and returns how many rows it wrote.
    :param id: the key of the row that it writes.
    :return: a function that takes a connection, like ``write``.
    """

    def work(connection: sa.Connection) -> int:
        with _users_turn(connection, table, user_id), transaction(connection):
            _take_turn(connection, table, user_id)
            written = write(connection)
            if written:
                limit.ended = []
                # Until a search finds nothing, but at least twice: InnoDB's scan can
                # miss a session that moves to a new token during the scan.
                for look in range(MAX_LOOKS):
                    ended = _make_room(connection, table, limit, id, user_id)
                    limit.ended += ended
                    if look and not ended:
                        break
            return written

    return work


def _make_room(
    connection: sa.Connection,
    table: sa.Table,
    limit: UserLimit,
    id: bytes,
    user_id: str,
) -> list[str]:
    """End the user's oldest sessions beyond the limit, except ``id``. Returns their
    handles.

    :raises SessionLimitError: there are too many, and the limit refuses new ones.
    """
    columns = table.c
    theirs = (
        sa.select(columns.id, columns.handle)
        .where(of_user(table, user_id), columns.id != id)
        .where(columns.expires_at > limit.now)
        .order_by(columns.created_at, columns.last_used_at, columns.id)
        # This waits for a session that is about to move, and finds it under its new
        # key.
        .with_for_update()
    )
    if limit.outlived is not None:
        theirs = theirs.where(columns.created_at > limit.outlived)
    others = connection.execute(theirs).all()
    beyond = others[: max(0, len(others) + 1 - limit.most)]
    if beyond and limit.refuses:
        raise SessionLimitError(limit.most)
    if beyond:
        delete_rows(connection, table, [row.id for row in beyond])
    return [row.handle for row in beyond]


def _name(table: sa.Table, user_id: str) -> bytes:
    """The name of the user's lock: a hash, because lock names have to be short."""
    return hashlib.sha256(f"{table.fullname}\0{user_id}".encode()).digest()


def _take_turn(connection: sa.Connection, table: sa.Table, user_id: str) -> None:
    """PostgreSQL: take a lock that ends with the transaction, so that it works behind a
    pooler that shares connections between transactions.
    """
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(_name(table, user_id)[:8], "big", signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


@contextmanager
def _users_turn(
    connection: sa.Connection, table: sa.Table, user_id: str
) -> Iterator[None]:
    """MariaDB: hold a lock of the connection's from before the transaction begins until
    after it has ended.
    """
    if connection.dialect.name not in ("mysql", "mariadb"):
        yield
        return
    # Lock names are shared by all databases of the server.
    place = hashlib.sha256((connection.engine.url.database or "").encode())
    place.update(_name(table, user_id))
    name = f"flask_sessionsql {place.hexdigest()[:40]}"
    taken = connection.scalar(sa.select(sa.func.get_lock(name, PATIENCE)))
    if taken != 1:
        raise SessionStoreUnavailableError(
            f"Other logins of the user held the lock for {PATIENCE} seconds."
        )
    try:
        yield
    finally:
        _release(connection, name)


def _release(connection: sa.Connection, name: str) -> None:
    if connection.invalidated:
        return
    try:
        connection.execute(sa.select(sa.func.release_lock(name)))
    except sa_exc.DBAPIError:
        # The pool must not lend a connection that still holds a user's lock.
        connection.invalidate()
