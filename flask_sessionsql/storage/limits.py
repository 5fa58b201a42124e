"""How many sessions a user may have at once, however many logins there are at the same
time.

The settings, and what a login does when its user has as many sessions already, are on
the page :doc:`/guides/sign-out`.
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

#: Seconds that a login waits for others of the same user.
PATIENCE = 10


#: How often it is looked for sessions that are too many.
MAX_LOOKS = 100


@dataclass
class UserLimit:
    """How many sessions one user may have, and what becomes of those beyond it."""

    most: int
    #: Whether another login is refused; otherwise the oldest sessions are ended.
    refuses: bool
    #: The time, in seconds since 1970: sessions that have expired do not count.
    now: int
    #: Nor do those that began then or before: they have had their absolute lifetime.
    outlived: int | None = None
    #: The handles of the sessions that were ended.
    ended: list[str] = field(default_factory=list)


def of_user(table: sa.Table, user_id: str) -> sa.ColumnElement[bool]:
    """The condition that a row is this user's.

    MariaDB ignores spaces at the end when it compares texts, so that ``"ann "`` would
    be ``"ann"``, who is somebody else.
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
    :return: to be called with a connection, as ``write`` is.
    """

    def work(connection: sa.Connection) -> int:
        with _users_turn(connection, table, user_id), transaction(connection):
            _take_turn(connection, table, user_id)
            written = write(connection)
            if written:
                limit.ended = []
                # A look that finds nothing is the last, and the first one never is: a
                # session that moves to a new token meanwhile can pass behind the back
                # of InnoDB's scan.
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
    """End the user's oldest sessions but ``id`` that are too many; their handles.

    :raises SessionLimitError: there is no room, and the limit does not make any.
    """
    columns = table.c
    theirs = (
        sa.select(columns.id, columns.handle)
        .where(of_user(table, user_id), columns.id != id)
        .where(columns.expires_at > limit.now)
        .order_by(columns.created_at, columns.last_used_at, columns.id)
        # One that is about to move is waited for, and found where it moves to.
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
    """The name of the user's lock: a hash, since names of locks are short."""
    return hashlib.sha256(f"{table.fullname}\0{user_id}".encode()).digest()


def _take_turn(connection: sa.Connection, table: sa.Table, user_id: str) -> None:
    """PostgreSQL: a lock that goes with the transaction, so that it works behind a
    pooler that shares connections between transactions.
    """
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(_name(table, user_id)[:8], "big", signed=True)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


@contextmanager
def _users_turn(
    connection: sa.Connection, table: sa.Table, user_id: str
) -> Iterator[None]:
    """MariaDB: a lock of the connection's, taken before the transaction begins and
    given back after it has ended.
    """
    if connection.dialect.name not in ("mysql", "mariadb"):
        yield
        return
    # Names of locks are the whole server's, whatever the database.
    place = hashlib.sha256((connection.engine.url.database or "").encode())
    place.update(_name(table, user_id))
    name = f"flask_sessionsql {place.hexdigest()[:40]}"
    taken = connection.scalar(sa.select(sa.func.get_lock(name, PATIENCE)))
    if taken != 1:
        raise SessionStoreUnavailableError(
            f"Other logins of one user held its lock for {PATIENCE} seconds."
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
        # A pool must not hand out a connection that keeps a user out.
        connection.invalidate()
