"""The statements with which sessions of the site before become ours.

Flask-Session's rows go to our table in one transaction that deletes them there. What
cannot be deleted, a signed cookie that others may have copied, is noted: a **note** is
a row of our table that is no session. It has no handle and has expired from the
beginning, so that nothing finds it but who asks for its key, and the purge deletes it
when what it is about would have expired, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from .database import SessionDatabase, transaction
from .errors import blames_schema
from .store import StoredSession

__all__ = [
    "ForeignSession",
    "ForeignTable",
    "ForeignTableError",
    "Notes",
    "everybody_note",
    "used_note",
    "user_note",
]

#: The columns of Flask-Session's table.
COLUMNS = ("id", "session_id", "data", "expiry")


class ForeignTableError(Exception):
    """The table is not there, or is not Flask-Session's."""


class ForeignSession(NamedTuple):
    """A row of Flask-Session's table."""

    id: int
    session_id: str
    data: bytes
    #: In seconds since 1970.
    expires_at: int

    def __repr__(self) -> str:
        """Without what opens the session, and what it holds."""
        return f"<ForeignSession {self.id}>"


#: Gives a row as it is to be stored here; ``None`` to leave it where it is.
Convert = Callable[[ForeignSession], StoredSession | None]


class ForeignTable:
    """Flask-Session's table, in the database and the schema of ours.

    :param database: our table.
    :param name: the name of the other one.
    """

    def __init__(self, database: SessionDatabase, name: str) -> None:
        self._database = database
        self.table: sa.Table = sa.Table(
            name,
            sa.MetaData(),
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("session_id", sa.String(255)),
            sa.Column("data", sa.LargeBinary),
            sa.Column("expiry", sa.DateTime),
            schema=database.table.schema,
        )

    def find(
        self, session_id: str, now: int, here: Iterable[bytes]
    ) -> tuple[ForeignSession | None, bool]:
        """A live session; ``None`` where there is none. And whether it is in our table
        by now: one statement sees both at one moment, between which it cannot move.

        :param here: under which keys it would be in our table.
        :raises ForeignTableError: the table cannot be read.
        """
        ours = self._database.table.c.id
        nothing = [sa.null()] * (len(COLUMNS) - 1)
        statement: sa.CompoundSelect[Any] = sa.union_all(
            self._live(now).where(self.table.c.session_id == session_id),
            sa.select(sa.literal(0), *nothing).where(ours.in_([*here])),
        )

        def work(connection: sa.Connection) -> Sequence[Any]:
            return connection.execute(statement).all()

        found = self._ask(work)
        # A collation can take two ids for one, such as MariaDB's by default.
        rows = [_session(row) for row in found if row[1] == session_id]
        return next(iter(rows), None), any(row[1] is None for row in found)

    def count(self, now: int) -> tuple[int, int | None]:
        """How many live sessions there are, and when the last of them ends, in seconds
        since 1970.

        :raises ForeignTableError: the table cannot be read.
        """
        expiry = self.table.c.expiry
        statement = sa.select(sa.func.count(), sa.func.max(expiry)).where(
            expiry > _as_expiry(now)
        )

        def work(connection: sa.Connection) -> Sequence[Any]:
            return connection.execute(statement).one()

        number, last = self._ask(work)
        return int(number), None if last is None else _as_seconds(last)

    def batch(self, after: int | None, most: int, now: int) -> list[ForeignSession]:
        """Live sessions, by their ``id``.

        :param after: look at those with a higher one; ``None`` for all.
        :param most: how many at most.
        :raises ForeignTableError: the table cannot be read.
        """
        key = self.table.c.id
        statement = self._live(now).order_by(key).limit(most)
        if after is not None:
            statement = statement.where(key > after)
        return self._rows(lambda connection: connection.execute(statement).all())

    def take(
        self,
        rows: Sequence[ForeignSession],
        convert: Convert,
        *,
        wait: bool = True,
    ) -> list[StoredSession]:
        """Move rows to our table, in one transaction: each as it stands there by then,
        unless it is gone. Gives what is here now.

        :param convert: what makes a row of ours of one; where it gives ``None``, or one
            that is here already, the row stays.
        :param wait: whether to wait for a SQLite file that is locked.
        :raises ForeignTableError: the table cannot be read.
        """
        ours, theirs = self._database.table, self.table
        keys = [row.id for row in rows]
        chosen = self._all().where(theirs.c.id.in_(keys)).with_for_update()

        def work(connection: sa.Connection) -> list[StoredSession]:
            with transaction(connection):
                found = [_session(row) for row in connection.execute(chosen)]
                new = {row.id: convert(row) for row in found}
                ids = [row.id for row in new.values() if row is not None]
                there = set(
                    connection.scalars(sa.select(ours.c.id).where(ours.c.id.in_(ids)))
                )
                taken = {
                    key: row
                    for key, row in new.items()
                    if row is not None and row.id not in there
                }
                if taken:
                    gone = sa.delete(theirs).where(theirs.c.id.in_([*taken]))
                    connection.execute(gone)
                    values = [_inserted(row) for row in taken.values()]
                    connection.execute(sa.insert(ours), values)
            return [*taken.values()]

        try:
            moved: list[StoredSession] = self._ask(work, wait=wait)
            return moved
        except sa_exc.IntegrityError:
            # Another request has taken it between the look and the insertion; nothing
            # was done.
            return []

    def _all(self) -> sa.Select[Any]:
        return sa.select(*(self.table.c[name] for name in COLUMNS))

    def _live(self, now: int) -> sa.Select[Any]:
        return self._all().where(self.table.c.expiry > _as_expiry(now))

    def _rows(
        self, work: Callable[[sa.Connection], Sequence[Any]]
    ) -> list[ForeignSession]:
        return [_session(row) for row in self._ask(work)]

    def _ask(self, work: Callable[[sa.Connection], Any], *, wait: bool = True) -> Any:
        def look(connection: sa.Connection) -> Any:
            try:
                return work(connection)
            except (sa_exc.DBAPIError, ValueError) as error:
                # The latter of SQLite, where a date can be anything. Here, and not
                # where errors are taken for those of our table.
                if isinstance(error, sa_exc.DBAPIError) and not blames_schema(error):
                    raise
            raise ForeignTableError(
                f"The table {self.table.fullname!r} is not there, or is not"
                " Flask-Session's."
            )

        return self._database.run(look, name=work.__qualname__, wait=wait)


def _session(row: Sequence[Any]) -> ForeignSession:
    key, session_id, data, expiry = row
    return ForeignSession(key, session_id, bytes(data or b""), _as_seconds(expiry))


# Flask-Session has UTC there, without saying so.


def _as_expiry(now: int) -> datetime:
    return datetime.fromtimestamp(now, UTC).replace(tzinfo=None)


def _as_seconds(expiry: datetime | None) -> int:
    return 0 if expiry is None else int(expiry.replace(tzinfo=UTC).timestamp())


def _inserted(row: StoredSession) -> dict[str, Any]:
    return {**row._asdict(), "purge_at": row.expires_at}


# Notes.


def used_note(name: str) -> bytes:
    """The key of the note that a cookie was taken over."""
    return _note("used", name)


def user_note(user_id: str) -> bytes:
    """The key of the note that a user's sessions were ended."""
    return _note("user", user_id)


def everybody_note() -> bytes:
    """The key of the note that all sessions were ended."""
    return _note("everybody", "")


def _note(about: str, what: str) -> bytes:
    # Not under SECRET_KEY: it holds whatever becomes of that.
    return hashlib.sha256(f"{about}\0{what}".encode(errors="replace")).digest()


class Notes:
    """What is remembered of sessions that are not in our table.

    :param database: our table.
    """

    def __init__(self, database: SessionDatabase) -> None:
        self._database = database

    def any_of(self, keys: Iterable[bytes]) -> bool:
        """Whether one of these notes is there."""
        return bool(self.those_of(keys))

    def those_of(self, keys: Iterable[bytes]) -> set[bytes]:
        """Which of these notes are there."""
        table = self._database.table
        statement = sa.select(table.c.id).where(
            table.c.id.in_([*keys]), table.c.handle == ""
        )
        return self._database.run(
            lambda connection: {bytes(key) for key in connection.scalars(statement)}
        )

    def make(self, key: bytes, now: int, until: int, *, wait: bool = True) -> None:
        """Leave a note, or let one last longer.

        :param now: seconds since 1970.
        :param until: when the purge deletes it.
        :param wait: whether to wait for a SQLite file that is locked.
        """
        table = self._database.table
        longer = sa.update(table).where(table.c.id == key).values(purge_at=until)

        def work(connection: sa.Connection) -> None:
            with transaction(connection):
                if not connection.execute(longer).rowcount:
                    connection.execute(sa.insert(table), _noted(key, now, until))

        with suppress(sa_exc.IntegrityError):  # another process has just made it
            self._database.run(work, wait=wait)

    def take(
        self, key: bytes, row: StoredSession, until: int, *, wait: bool = True
    ) -> bool:
        """Store a session and the note that it was, in one transaction. Whether the
        note was not there before: otherwise nothing is done.

        :param key: of the note.
        :param until: when the purge deletes the note.
        """
        table = self._database.table
        values = [_noted(key, row.created_at, until, _USED), _inserted(row)]

        def work(connection: sa.Connection) -> None:
            with transaction(connection):
                connection.execute(sa.insert(table), values[:1])
                connection.execute(sa.insert(table), values[1:])

        try:
            self._database.run(work, wait=wait)
        except sa_exc.IntegrityError:
            return False
        return True

    def waiting(self, now: int) -> tuple[int, int | None]:
        """How many live sessions were taken over whose browsers have not come since,
        and when the last of those ends, in seconds since 1970.
        """
        columns = self._database.table.c
        statement = sa.select(sa.func.count(), sa.func.max(columns.expires_at)).where(
            # Whatever is done to a session raises its version.
            columns.expires_at > now,
            columns.version == 1,
            columns.previous_id.is_not(None),
        )
        return self._counted(statement)

    def taken(self) -> tuple[int, int | None]:
        """How many cookies were taken over whose notes are there, and until when the
        last of those is valid, in seconds since 1970.
        """
        columns = self._database.table.c
        statement = sa.select(sa.func.count(), sa.func.max(columns.purge_at)).where(
            columns.handle == "", columns.version == _USED
        )
        return self._counted(statement)

    def _counted(self, statement: sa.Executable) -> tuple[int, int | None]:
        number, last = self._database.run(
            lambda connection: connection.execute(statement).one()
        )
        return int(number), None if last is None else int(last)


#: What a note has for a version: whether it is about a cookie.
_USED, _ENDED = 1, 0


def _noted(key: bytes, now: int, until: int, kind: int = _ENDED) -> dict[str, Any]:
    empty = StoredSession(key, "", None, b"", kind, now, 0)
    return {**empty._asdict(), "purge_at": until}
