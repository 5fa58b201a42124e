"""The sessions of all users: what there is, and how it is ended from outside.

Here are the statements on many rows. Requests go by
:mod:`~flask_sessionsql.saving.records`, one row at a time. What applications do with
them is under :ref:`lists-and-ends`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from ..config import SessionConfig
from ..signals import SessionEnded, Tell
from .adoption import Notes, everybody_note, user_note
from .database import SessionDatabase, delete_rows, transaction
from .errors import TextNotStorableError
from .limits import of_user
from .store import StoredSession
from .tables import as_time

__all__ = ["ANYBODY", "SessionAdministration", "SessionInfo", "SessionStats"]

T = TypeVar("T")

#: Where no user is asked for. ``None`` is what an application has of a user who is not
#: logged in, and must not end somebody else's session.
ANYBODY: object = object()

#: Seconds for which it is remembered at least that sessions elsewhere were ended: more
#: than browsers keep a cookie, whatever PERMANENT_SESSION_LIFETIME becomes.
_NOTED = 400 * 24 * 3600

#: Seconds by which the clocks of two hosts may differ.
CLOCKS_DIFFER = 300

#: How often the table is looked through for sessions to end. More are found each time
#: only where somebody begins them as fast.
MAX_LOOKS = 100

#: Rows that one statement ends, where all sessions are ended.
BATCH = 500


@dataclass(frozen=True)
class SessionInfo:
    """One live session, for its user or an operator to see. Nothing of it opens the
    session.
    """

    #: The session's name, which ends it: :meth:`Session.revoke
    #: <flask_sessionsql.Session.revoke>`.
    handle: str
    #: Whose it is; ``None`` if nobody is logged in.
    user_id: str | None
    #: When it was first stored, or its user logged in; UTC.
    created_at: datetime
    #: When it was last used, at most ``SESSION_REFRESH_INTERVAL`` before; UTC.
    last_used_at: datetime
    #: When it ends if it is not used again; UTC.
    expires_at: datetime
    #: The address it was last used from; ``None`` where that is not recorded.
    address: str | None
    #: What it was last used with; ``None`` where that is not recorded.
    user_agent: str | None
    #: What the application calls it, as :attr:`session.label
    #: <flask_sessionsql.ServerSideSession.label>` was set; ``None`` where it was not.
    label: str | None
    #: The bytes of its data as stored.
    size: int
    #: Whether it is the session of this request.
    current: bool = False


@dataclass(frozen=True)
class SessionStats:
    """How much there is."""

    #: Sessions that can be used.
    live: int
    #: Those of them whose user is logged in.
    logged_in: int
    #: How many users that are.
    users: int
    #: Rows that have expired and are not purged yet.
    expired: int
    #: The bytes of all data, that of expired rows included.
    data_bytes: int
    #: The bytes of the largest session.
    largest_bytes: int


class SessionAdministration:
    """The sessions in a table. What is ended here is dead at the next request of any
    process, and no request that is under way brings it back.

    :param config: the settings.
    :param database: the table.
    :param tell: told of what is ended.
    """

    def __init__(
        self, config: SessionConfig, database: SessionDatabase, tell: Tell
    ) -> None:
        self._config = config
        self._database = database
        self._tell = tell

    # What there is.

    def of_user(self, user_id: object, *, current: str | None) -> list[SessionInfo]:
        """A user's live sessions, the one used last first; empty where there are none.

        :param current: the handle of this request's session.
        :raises ValueError: ``user_id`` names nobody.
        """
        where = self._of_user(user_id)
        return list(self._select(where, None, current))

    def all(self, limit: int | None = None) -> list[SessionInfo]:
        """All live sessions, the one that ends last first; at most ``limit``."""
        return list(self._select(None, limit, None))

    def _select(
        self,
        where: sa.ColumnElement[bool] | None,
        limit: int | None,
        current: str | None,
    ) -> Iterator[SessionInfo]:
        columns = self._database.table.c
        last_used = sa.func.coalesce(columns.last_used_at, columns.created_at)
        # All sessions are for an operator, who can wait; no index has their order.
        order = (columns.expires_at if where is None else last_used).desc()
        statement = (
            sa.select(
                *(columns[name] for name in ("handle", "user_id", "created_at")),
                last_used.label("last_used_at"),
                *(columns[name] for name in ("expires_at", "address", "user_agent")),
                columns.label,
                sa.func.length(columns.data).label("size"),
            )
            .where(sa.true() if where is None else where, self._live())
            .order_by(order)
            .limit(limit)
        )
        none: Sequence[Any] = []
        found = self._ask(lambda connection: connection.execute(statement).all(), none)
        for row in found:
            yield SessionInfo(
                row.handle,
                row.user_id,
                as_time(row.created_at),
                as_time(row.last_used_at),
                as_time(row.expires_at),
                row.address,
                row.user_agent,
                row.label,
                row.size,
                row.handle == current,
            )

    def rows(self, user_id: object = ANYBODY) -> Iterator[StoredSession]:
        """The rows of all live sessions, in the order of their keys, a batch at a time.

        :param user_id: only those of this user.
        :raises ValueError: it is given and names nobody.
        """
        where: sa.ColumnElement[bool] = sa.true()
        if user_id is not ANYBODY:
            where = self._of_user(user_id)
        key, after = self._database.table.c.id, b""
        none: Sequence[Any] = []
        while True:
            statement = (
                self._whole_rows()
                .where(where, self._live(), key > after)
                .order_by(key)
                .limit(BATCH)
            )
            found = self._ask(partial(_all, statement), none)
            yield from (StoredSession(*row) for row in found)
            if len(found) < BATCH:
                return
            after = found[-1].id

    def row(self, handle: str, user_id: object = ANYBODY) -> StoredSession | None:
        """The row of a live session; ``None`` where there is none of that handle.

        :param user_id: find it only if it is this user's.
        :raises ValueError: ``user_id`` is given and names nobody.
        """
        found = (self._row(where) for where in self._ways_to(handle, user_id))
        return next(filter(None, found), None)

    def _row(self, where: sa.ColumnElement[bool]) -> StoredSession | None:
        statement = self._whole_rows().where(where, self._live())
        found = self._ask(
            lambda connection: connection.execute(statement).first(), None
        )
        return None if found is None else StoredSession(*found)

    def _whole_rows(self) -> sa.Select[Any]:
        columns = self._database.table.c
        names = StoredSession._fields
        data = sa.type_coerce(columns.data, sa.types.NullType()).label("data")
        return sa.select(*(data if name == "data" else columns[name] for name in names))

    def stats(self) -> SessionStats:
        """How much there is. It reads the whole table."""
        columns = self._database.table.c
        live, now = self._live(), int(time.time())
        size = sa.func.length(columns.data)
        of_users = sa.and_(live, columns.user_id.is_not(None))

        def count(what: Any, where: sa.ColumnElement[bool]) -> Any:
            return sa.func.count(sa.case((where, what)))

        statement = sa.select(
            count(1, live),
            count(1, of_users),
            sa.func.count(sa.distinct(sa.case((live, columns.user_id)))),
            # The rest are notes of what was taken over: see storage.adoption.
            count(1, sa.and_(columns.expires_at <= now, columns.purge_at <= now)),
            sa.func.coalesce(sa.func.sum(size), 0),
            sa.func.coalesce(sa.func.max(size), 0),
        )
        found = self._database.run(
            lambda connection: connection.execute(statement).one()
        )
        return SessionStats(*map(int, found))

    def _of_user(self, user_id: object) -> sa.ColumnElement[bool]:
        text, table = user_text(user_id), self._database.table
        return of_user(table, text) if _can_be_stored(text) else sa.false()

    def _named(self, handle: str) -> sa.ColumnElement[bool]:
        column = self._database.table.c.handle
        # Notes of what was taken over have an empty one.
        return column == handle if handle and _can_be_stored(handle) else sa.false()

    def _ways_to(
        self, handle: str, user_id: object
    ) -> Iterator[sa.ColumnElement[bool]]:
        """Conditions for the session of a handle, the cheapest first: the index leads
        to those of users, and to those that have moved. The second is for all, as one
        can log in meanwhile.

        :param user_id: whose it has to be, if it is not ``ANYBODY``.
        """
        named, columns = self._named(handle), self._database.table.c
        if user_id is not ANYBODY:
            yield sa.and_(named, self._of_user(user_id))
            return
        filled = sa.or_(columns.user_id.is_not(None), columns.previous_id.is_not(None))
        yield sa.and_(named, filled)
        yield named

    def _live(self) -> sa.ColumnElement[bool]:
        now, columns = int(time.time()), self._database.table.c
        live = columns.expires_at > now
        if self._config.absolute_lifetime is None:
            return live
        return sa.and_(live, columns.created_at > now - self._config.absolute_lifetime)

    # How it is ended.

    def revoke(
        self, handle: str, user_id: object = ANYBODY, *, wait: bool = True
    ) -> bool:
        """End one session. Whether there was one. That of a user is found by an index;
        for another one, the whole table is read.

        :param user_id: end it only if it is this user's.
        :param wait: whether to wait for a SQLite file that is locked.
        :raises ValueError: ``user_id`` is given and names nobody.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        """
        ways = self._ways_to(handle, user_id)
        return any(self._end_all(where, wait) for where in ways)

    def revoke_user(
        self, user_id: object, *, keep: str | None = None, wait: bool = True
    ) -> int:
        """End a user's sessions. How many there were.

        :param keep: the handle of one that stays.
        :param wait: whether to wait for a SQLite file that is locked.
        :raises ValueError: ``user_id`` names nobody.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        """
        where = self._of_user(user_id)
        self._end_elsewhere(user_note(user_text(user_id)), wait)
        if keep is not None:
            where = sa.and_(where, sa.not_(self._named(keep)))
        return self._end_all(where, wait)

    def revoke_all(self, *, wait: bool = True) -> int:
        """End all sessions that began before this. How many there were.

        They are ended 500 at a time, so that no other request waits for long.
        """
        self._end_elsewhere(everybody_note(), wait)
        columns, now = self._database.table.c, int(time.time())
        created_at, is_session = columns.created_at, columns.handle != ""
        # Another host's clock may be ahead of ours. Those are met once: a second look
        # at them would meet whoever has come since, and never be the last.
        soon = sa.and_(is_session, created_at <= now + CLOCKS_DIFFER)
        ahead = self._end_all(soon, wait, looks=1)
        return ahead + self._end_all(sa.and_(is_session, created_at <= now), wait)

    def _end_elsewhere(self, note: bytes, wait: bool) -> None:
        """Note that sessions are ended that are not here yet, and would be taken over
        otherwise.
        """
        if self._config.adopt is not None:
            now = int(time.time())
            until = now + max(self._config.lifetime, _NOTED)
            Notes(self._database).make(note, now, until, wait=wait)

    def _end_all(
        self, where: sa.ColumnElement[bool], wait: bool, looks: int | None = None
    ) -> int:
        """Delete rows until there are none, and tell of each. How many they were.

        :param looks: how often to look through the table; otherwise until a look finds
            nothing, which the first one never is: a row that moves to a new token
            meanwhile can pass behind the back of InnoDB's scan.
        """
        total = 0
        for done in range(looks or MAX_LOOKS):
            ended = self._sweep(where, wait)
            total += ended
            if looks is None and done and not ended:
                break
        return total

    def _sweep(self, where: sa.ColumnElement[bool], wait: bool) -> int:
        """Delete the rows from the lowest key to the highest. How many they were."""
        total, after = 0, None
        while True:
            ended = self._delete_batch(where, wait, after)
            for row in ended:
                self._tell(SessionEnded(row.handle, row.user_id, "revoked"))
            total += len(ended)
            if len(ended) < BATCH:
                return total
            # Deleted rows are still met, for as long as others may see them.
            after = ended[-1].id

    def _delete_batch(
        self, where: sa.ColumnElement[bool], wait: bool, after: bytes | None
    ) -> Sequence[Any]:
        table = self._database.table
        columns = table.c
        chosen = (
            sa.select(columns.id, columns.handle, columns.user_id)
            .where(where)
            .order_by(columns.id)
            .limit(BATCH)
            .with_for_update()
        )
        if after is not None:
            chosen = chosen.where(columns.id > after)

        tried: list[Any] = []

        def work(connection: sa.Connection) -> Sequence[Any]:
            with transaction(connection):
                rows = connection.execute(chosen).all()
                # If the answer to an earlier try was lost, that may have ended some.
                tried[:] = [*self._missing(connection, tried, rows), *rows]
                delete_rows(connection, table, [row.id for row in rows])
            return tried

        none: Sequence[Any] = []
        return self._ask(work, none, wait=wait)

    def _ask(
        self, work: Callable[[sa.Connection], T], none: T, *, wait: bool = True
    ) -> T:
        """What ``work`` returns; ``none`` where it looks for a text that the database
        cannot keep, as no session can have it.
        """
        try:
            return self._database.run(work, wait=wait)
        except TextNotStorableError:
            return none

    def _missing(
        self, connection: sa.Connection, tried: Sequence[Any], found: Sequence[Any]
    ) -> list[Any]:
        """Those of an earlier try that are nowhere any more: not where they were, nor
        under another token.
        """
        column = self._database.table.c.handle
        left = {row.handle: row for row in tried} if tried else {}
        for row in found if left else ():
            left.pop(row.handle, None)
        if not left:
            return []
        there = set(connection.scalars(sa.select(column).where(column.in_([*left]))))
        return [row for handle, row in left.items() if handle not in there]


def _all(statement: sa.Select[Any], connection: sa.Connection) -> Sequence[Any]:
    return connection.execute(statement).all()


def _can_be_stored(text: object) -> bool:
    """Whether a column can hold it: what comes from a browser can be anything."""
    if not isinstance(text, str) or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_text(user_id: object) -> str:
    """A user as the column has it; a user of Flask-Login's by its ``get_id()``.

    :raises ValueError: it names nobody.
    """
    get_id = getattr(user_id, "get_id", None)
    if callable(get_id):
        user_id = get_id()
    text = "" if user_id is None else str(user_id)
    if not text:
        raise ValueError(
            f"The user {user_id!r} was given, which names nobody. Give the value that"
            " session[SESSION_USER_KEY] has when the user is logged in, such as"
            " current_user.get_id(). To end everybody's sessions, call revoke_all()."
        )
    return text
