"""The sessions of all users: listing, counting and revoking them.

These statements work on many rows. Requests use
:mod:`~flask_sessionsql.saving.records`, which works on one row at a time.
:ref:`lists-and-ends` says what applications do with the calls.
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


class _Anybody:
    def __repr__(self) -> str:
        return "ANYBODY"


#: The default for "any user". It is not ``None``, because that is what an application
#: has for a user who is not logged in, and such a call must not end anybody's session.
ANYBODY: object = _Anybody()

#: For at least how many seconds a note says that sessions that are not adopted yet were
#: revoked: longer than browsers keep a cookie, whatever PERMANENT_SESSION_LIFETIME is.
_NOTED = 400 * 24 * 3600

#: How often the table is searched for sessions to end. Each search finds more only if
#: somebody begins sessions as fast as they are ended.
MAX_LOOKS = 100

#: How many rows one statement deletes when many sessions are ended.
BATCH = 500


@dataclass(frozen=True)
class SessionInfo:
    """One live session, as its user or an operator may see it. Nothing in it opens the
    session.
    """

    #: The public name of the session, for :meth:`Session.revoke
    #: <flask_sessionsql.Session.revoke>`.
    handle: str
    #: The user; ``None`` if nobody is logged in.
    user_id: str | None
    #: When the session was first stored, or when its user logged in; UTC.
    created_at: datetime
    #: When it was last used, up to ``SESSION_REFRESH_INTERVAL`` behind; UTC.
    last_used_at: datetime
    #: When it ends if it is not used again; UTC.
    expires_at: datetime
    #: The IP address of the last use; ``None`` unless ``SESSION_RECORD_CLIENT`` is on.
    address: str | None
    #: The ``User-Agent`` of the last use; ``None`` unless ``SESSION_RECORD_CLIENT`` is
    #: on.
    user_agent: str | None
    #: The :attr:`session.label <flask_sessionsql.ServerSideSession.label>` that the
    #: application has set; ``None`` if it has not.
    label: str | None
    #: The size of the stored data, in bytes.
    size: int
    #: Whether this is the session of the current request.
    current: bool = False


@dataclass(frozen=True)
class SessionStats:
    """Counts and sizes of the table."""

    #: Sessions that have not expired.
    live: int
    #: Live sessions in which a user is logged in.
    logged_in: int
    #: How many different users those are.
    users: int
    #: Expired rows that are not purged yet.
    expired: int
    #: Bytes of all data, including expired rows.
    data_bytes: int
    #: Bytes of the largest session.
    largest_bytes: int


class SessionAdministration:
    """The sessions in a table. A session that is ended here is dead at the next request
    of any process, and no running request brings it back.

    :param config: the settings.
    :param database: the table.
    :param tell: called with an event for each session that is ended.
    """

    def __init__(
        self, config: SessionConfig, database: SessionDatabase, tell: Tell
    ) -> None:
        self._config = config
        self._database = database
        self._tell = tell

    # Reading.

    def of_user(self, user_id: object, *, current: str | None) -> list[SessionInfo]:
        """A user's live sessions, most recently used first; empty if there are none.

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
        # Listing all sessions is for operators, who can wait: no index has that order.
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
        """The rows of all live sessions, ordered by key, read a batch at a time.

        :param user_id: only those of this user.
        :raises ValueError: ``user_id`` is given and names nobody.
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
        """The row of a live session; ``None`` if no session has this handle.

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
        """Counts and sizes. Reads the whole table."""
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
            # The rest are notes about adopted sessions: see storage.adoption.
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
        # Notes about adopted sessions have an empty handle.
        return column == handle if handle and _can_be_stored(handle) else sa.false()

    def _ways_to(
        self, handle: str, user_id: object
    ) -> Iterator[sa.ColumnElement[bool]]:
        """Conditions that find the session of a handle, the cheapest first. The index
        has the sessions of users and those whose token has changed. The second
        condition finds any session, because somebody may log in in between.

        :param user_id: the user it has to belong to, unless it is ``ANYBODY``.
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

    # Revoking.

    def revoke(
        self, handle: str, user_id: object = ANYBODY, *, wait: bool = True
    ) -> bool:
        """End one session. Returns whether there was one. An index finds the session of
        a user; for any other, the whole table is read.

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
        """End a user's sessions. Returns how many there were.

        :param keep: the handle of a session to keep.
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
        """End all sessions that have begun so far. Returns how many there were.

        They are ended 500 at a time, so that no other request waits for long.
        """
        self._end_elsewhere(everybody_note(), wait)
        columns, now = self._database.table.c, int(time.time())
        created_at, is_session = columns.created_at, columns.handle != ""
        # The clock of another host may be ahead, or somebody has written what looks so.
        # Those sessions are searched for once: a second search would find the new
        # visitors, and would never be the last.
        ahead = self._end_all(is_session, wait, looks=1)
        return ahead + self._end_all(sa.and_(is_session, created_at <= now), wait)

    def _end_elsewhere(self, note: bytes, wait: bool) -> None:
        """Leave a note that sessions which are not adopted yet were ended, too."""
        if self._config.adopt is not None:
            now = int(time.time())
            until = now + max(self._config.lifetime, _NOTED)
            Notes(self._database).make(note, now, until, wait=wait)

    def _end_all(
        self, where: sa.ColumnElement[bool], wait: bool, looks: int | None = None
    ) -> int:
        """Delete rows until there are none left, and send an event for each. Returns
        how many there were.

        :param looks: how often to search the table; by default until a search finds
            nothing, but at least twice: InnoDB's scan can miss a row that moves to a
            new token during the scan.
        """
        total = 0
        for done in range(looks or MAX_LOOKS):
            ended = self._sweep(where, wait)
            total += ended
            if looks is None and done and not ended:
                break
        return total

    def _sweep(self, where: sa.ColumnElement[bool], wait: bool) -> int:
        """Delete the rows in the order of their keys. Returns how many there were."""
        total, after = 0, None
        while True:
            ended = self._delete_batch(where, wait, after)
            for row in ended:
                self._tell(SessionEnded(row.handle, row.user_id, "revoked"))
            total += len(ended)
            if len(ended) < BATCH:
                return total
            # A scan still passes deleted rows as long as other transactions see them.
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
                # An earlier try whose answer was lost may have deleted some.
                tried[:] = [*self._missing(connection, tried, rows), *rows]
                delete_rows(connection, table, [row.id for row in rows])
            return tried

        none: Sequence[Any] = []
        return self._ask(work, none, wait=wait)

    def _ask(
        self, work: Callable[[sa.Connection], T], none: T, *, wait: bool = True
    ) -> T:
        """What ``work`` returns; ``none`` if it looks for a text that the database
        cannot store, because then no session has it.
        """
        try:
            return self._database.run(work, wait=wait)
        except TextNotStorableError:
            return none

    def _missing(
        self, connection: sa.Connection, tried: Sequence[Any], found: Sequence[Any]
    ) -> list[Any]:
        """Those rows of an earlier try that no longer exist, under their key or another
        one.
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
    """Whether a column can hold the value, which may come from a browser."""
    if not isinstance(text, str) or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def user_text(user_id: object) -> str:
    """A user as the column stores it; for a user of Flask-Login, its ``get_id()``.

    :raises ValueError: ``user_id`` names nobody.
    """
    get_id = getattr(user_id, "get_id", None)
    if callable(get_id):
        user_id = get_id()
    text = "" if user_id is None else str(user_id)
    if not text:
        raise ValueError(
            f"The user {user_id!r} was given, which names nobody. Give the value that"
            " session[SESSION_USER_KEY] has when the user is logged in, such as"
            " current_user.get_id(). To end all sessions, call revoke_all()."
        )
    return text
