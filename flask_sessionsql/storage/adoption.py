"""The statements that adopt sessions of the previous site.

A row of Flask-Session's table moves to our table in one transaction that also deletes
it there. A signed cookie cannot be deleted, and others may have copied it, so a note
is left that it was used. A **note** is a row of our table that is no session. It has no
handle and has expired from the beginning, so only a look-up by its key finds it. The
purge deletes it when what it is about would have expired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from ..exceptions import SessionTableError
from .database import SessionDatabase, in_parts, transaction
from .errors import blames_schema, lacks_right, reason
from .store import StoredSession

__all__ = [
    "Convert",
    "ForeignSession",
    "ForeignTable",
    "ForeignTableError",
    "Moving",
    "Notes",
    "ending_notes",
    "everybody_note",
    "foreign_table",
    "used_note",
    "user_note",
]

#: Takes a value as the driver returns it.
_RAW: sa.types.NullType = sa.types.NullType()

#: The columns of Flask-Session's table.
COLUMNS = ("id", "session_id", "data", "expiry")


class ForeignTableError(Exception):
    """The table is missing, or is not Flask-Session's."""


class ForeignSession(NamedTuple):
    """A row of Flask-Session's table."""

    id: int
    session_id: str
    data: bytes
    #: In seconds since 1970.
    expires_at: int

    def __repr__(self) -> str:
        """Without the session id and the data."""
        return f"<ForeignSession {self.id}>"


class Moving(NamedTuple):
    """A session to store in our table, and the note that it was adopted."""

    row: StoredSession
    note: bytes
    #: When the purge deletes the note, in seconds since 1970.
    until: int

    @property
    def ends(self) -> set[bytes]:
        """The notes that end the session: with one of them, it is not stored."""
        return ending_notes(self.row.user_id)

    def __repr__(self) -> str:
        """As :class:`StoredSession`."""
        return f"<Moving {self.row.handle!r}>"


#: Converts a row; returns ``None`` to leave it where it is.
Convert = Callable[[ForeignSession], Moving | None]


def foreign_table(
    metadata: sa.MetaData, name: str, schema: str | None = None
) -> sa.Table:
    """Flask-Session's table in ``metadata``: the existing one, or else a new one.

    In the metadata of the application, it keeps migrations from dropping the table.
    """
    there = metadata.tables.get(name if schema is None else f"{schema}.{name}")
    if there is not None:
        return there
    return sa.Table(
        name,
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("session_id", sa.String(255), unique=True),
        sa.Column("data", sa.LargeBinary),
        sa.Column("expiry", sa.DateTime),
        schema=schema,
    )


class ForeignTable:
    """Flask-Session's table, in the database and the schema of ours.

    :param database: our table.
    :param name: the name of the other one.
    """

    def __init__(self, database: SessionDatabase, name: str) -> None:
        self._database = database
        schema = database.table.schema
        self.table: sa.Table = foreign_table(sa.MetaData(), name, schema)

    def find(
        self, session_ids: Sequence[str], now: int, here: Iterable[bytes]
    ) -> tuple[ForeignSession | None, bool]:
        """A live session, or ``None``, and whether it is in our table already. One
        statement reads both tables, so that the session cannot move in between.

        :param session_ids: what it may be called there.
        :param here: the keys that it would have in our table.
        :raises ForeignTableError: the table cannot be read.
        """
        ours = self._database.table.c.id
        nothing = [sa.null()] * (len(COLUMNS) - 1)
        statement: sa.CompoundSelect[Any] = sa.union_all(
            self._live(now).where(self.table.c.session_id.in_(session_ids)),
            sa.select(sa.literal_column("0"), *nothing).where(ours.in_([*here])),
        )

        def work(connection: sa.Connection) -> Sequence[Any]:
            return connection.execute(statement).all()

        found = self._ask(work)
        # A collation, such as MariaDB's default, can treat two ids as equal.
        rows = [_session(row) for row in found if row[1] in session_ids]
        return next(iter(rows), None), any(row[1] is None for row in found)

    def count(self, now: int, prefix: str) -> tuple[int, int | None]:
        """The number of live sessions, and when the last of them ends, in seconds since
        1970.

        :param prefix: the first characters of their ids.
        :raises ForeignTableError: the table cannot be read.
        """
        expiry = self.table.c.expiry
        last = sa.type_coerce(sa.func.max(expiry), _RAW)
        statement = sa.select(sa.func.count(), last).where(
            expiry > _as_expiry(now),
            self.table.c.session_id.startswith(prefix, autoescape=True),
        )

        def work(connection: sa.Connection) -> Sequence[Any]:
            return connection.execute(statement).one()

        number, end = self._ask(work)
        return int(number), None if end is None else _as_seconds(end)

    def check_rights(self) -> None:
        """Try what moving a session needs, on no row.

        :raises SessionTableError: the database's user lacks a right.
        :raises ForeignTableError: the table cannot be read.
        """
        nothing = sa.false()
        trials = [
            self._all().where(nothing).with_for_update(),
            sa.delete(self.table).where(nothing),
        ]

        def work(connection: sa.Connection) -> None:
            with transaction(connection):
                for trial in trials:
                    connection.execute(trial)

        if self._database.engine.dialect.name != "sqlite":  # which has no rights
            self._ask(work)

    def batch(self, after: int | None, most: int, now: int) -> list[ForeignSession]:
        """Live sessions in the order of ``id``.

        :param after: only those with a higher ``id``; ``None`` for all.
        :param most: the maximum number.
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
    ) -> tuple[list[StoredSession], int]:
        """Move rows to our table in one transaction. Each row is read again first; rows
        that are gone are skipped. Returns the sessions that were moved, and how many
        were not, because they had been revoked here.

        The rows of revoked sessions are deleted there. So is a row that was moved
        before and that a server of the previous site has written again since: the
        session here is the valid one.

        :param convert: converts a row into one of ours.
        :param wait: whether to wait for a SQLite file that is locked.
        :raises ForeignTableError: the table cannot be read.
        """
        ours, theirs = self._database.table, self.table
        asked_for = [row.id for row in rows]
        tried: list[Moving] = []
        over: set[bytes] = set()

        def work(connection: sa.Connection) -> tuple[list[StoredSession], int]:
            with transaction(connection):
                chosen = [
                    self._all().where(theirs.c.id.in_(some)).with_for_update()
                    for some in in_parts(asked_for)
                ]
                found = [
                    _session(r) for each in chosen for r in connection.execute(each)
                ]
                new = {row.id: convert(row) for row in found}
                moving = {key: each for key, each in new.items() if each is not None}
                # If the answer to an earlier try was lost, its rows may be here.
                asked = [*moving.values(), *tried]
                keys = {key for each in asked for key in (each.row.id, each.note)}
                keys.update(*(each.ends for each in asked))
                there = _there(connection, ours, keys)
                done = [each for each in tried if each.note in there]
                over.update(
                    e.note for e in moving.values() if not there.isdisjoint(e.ends)
                )
                fresh = [
                    each
                    for each in moving.values()
                    if there.isdisjoint({each.row.id, each.note} | each.ends)
                ]
                for some in in_parts([*moving]):
                    connection.execute(sa.delete(theirs).where(theirs.c.id.in_(some)))
                if fresh:
                    notes = [_moved_note(each) for each in fresh]
                    connection.execute(sa.insert(ours), notes)
                    rows = [_inserted(each.row) for each in fresh]
                    connection.execute(sa.insert(ours), rows)
                tried[:] = [*done, *fresh]
            return [each.row for each in tried], len(over)

        try:
            moved: tuple[list[StoredSession], int] = self._ask(work, wait=wait)
            return moved
        except sa_exc.IntegrityError:
            # Another request has adopted it between the SELECT and the INSERT. Nothing
            # was changed.
            return [], 0

    def _all(self) -> sa.Select[Any]:
        columns = self.table.c
        # As the driver returns it: a column of SQLite can hold anything.
        raw = [sa.type_coerce(columns[name], _RAW).label(name) for name in COLUMNS]
        chosen: Sequence[Any] = raw
        return sa.select(*chosen)

    def _live(self, now: int) -> sa.Select[Any]:
        return self._all().where(self.table.c.expiry > _as_expiry(now))

    def _rows(
        self, work: Callable[[sa.Connection], Sequence[Any]]
    ) -> list[ForeignSession]:
        return [_session(row) for row in self._ask(work)]

    def _ask(self, work: Callable[[sa.Connection], Any], *, wait: bool = True) -> Any:
        def look(connection: sa.Connection) -> Any:
            # Handled here: further up, the error would seem to be about our table.
            try:
                return work(connection)
            except sa_exc.DBAPIError as error:
                name = self.table.fullname
                if lacks_right(error):
                    raise SessionTableError(
                        f"The database's user lacks a right on Flask-Session's table"
                        f" {name!r}: {reason(error)}. Let an administrator grant"
                        " SELECT, UPDATE and DELETE on it."
                    ) from None
                if not blames_schema(error):
                    raise
            raise ForeignTableError(
                f"The table {name!r} is missing, or is not Flask-Session's."
            )

        return self._database.run(look, name=work.__qualname__, wait=wait)


def _session(row: Sequence[Any]) -> ForeignSession:
    key, session_id, data, expiry = row
    payload = data.encode(errors="replace") if isinstance(data, str) else data or b""
    return ForeignSession(key, str(session_id), bytes(payload), _as_seconds(expiry))


# Flask-Session stores UTC without a time zone.


def _as_expiry(now: int) -> datetime:
    return datetime.fromtimestamp(now, UTC).replace(tzinfo=None)


def _as_seconds(expiry: object) -> int:
    """0 if it is not a time."""
    with suppress(ValueError):
        if isinstance(expiry, str):
            expiry = datetime.fromisoformat(expiry)
        if isinstance(expiry, datetime):
            return int(expiry.replace(tzinfo=UTC).timestamp())
    return 0


def _inserted(row: StoredSession) -> dict[str, Any]:
    return {**row._asdict(), "purge_at": row.expires_at}


# Notes.


def used_note(name: str) -> bytes:
    """The key of the note that a browser's old session was adopted."""
    return _note("used", name)


def user_note(user_id: str) -> bytes:
    """The key of the note that a user's sessions were revoked."""
    return _note("user", user_id)


def everybody_note() -> bytes:
    """The key of the note that all sessions were revoked."""
    return _note("everybody", "")


def ending_notes(user_id: str | None) -> set[bytes]:
    """The keys of the notes that end a user's sessions; with ``None``, those of
    nobody's.
    """
    notes = {everybody_note()}
    return notes if user_id is None else notes | {user_note(user_id)}


def _note(about: str, what: str) -> bytes:
    # Not keyed with SECRET_KEY, so that it stays valid when the key changes.
    return hashlib.sha256(f"{about}\0{what}".encode(errors="replace")).digest()


class Notes:
    """The notes about sessions that are not in our table.

    :param database: our table.
    """

    def __init__(self, database: SessionDatabase) -> None:
        self._database = database

    def those_of(self, keys: Iterable[bytes]) -> set[bytes]:
        """Which of these notes exist."""
        table, asked = self._database.table, [*keys]
        return self._database.run(lambda connection: _there(connection, table, asked))

    def make(self, key: bytes, now: int, until: int, *, wait: bool = True) -> None:
        """Leave a note, or make an existing one last longer.

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
        """Store a session and the note about it, in one transaction. Does nothing and
        returns ``False`` if there is such a note already.

        :param key: the key of the note.
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

    def confirm(self, key: bytes) -> None:
        """Note that the browser has come back with its new token.

        :param key: the key of the note that its session was moved.
        """
        table = self._database.table
        confirm = sa.update(table).where(table.c.id == key, table.c.version == _MOVED)
        statement = confirm.values(version=_CONFIRMED)
        self._database.run(lambda connection: connection.execute(statement).rowcount)

    def wait(self, key: bytes, until: int) -> None:
        """Note that a moved session lives longer, whose browser still sends its old id.

        :param key: the key of the note that the session was moved.
        :param until: when the session ends, in seconds since 1970.
        """
        table = self._database.table
        columns = table.c
        wait = sa.update(table).where(columns.id == key, columns.version == _MOVED)
        later = sa.case((columns.purge_at < until, until), else_=columns.purge_at)
        statement = wait.values(last_used_at=until, purge_at=later)
        self._database.run(lambda connection: connection.execute(statement).rowcount)

    def waiting(self, now: int) -> tuple[int, int | None]:
        """The number of moved sessions whose browsers have not come back with their new
        tokens, and until when they may, in seconds since 1970.
        """
        columns = self._database.table.c
        until = columns.last_used_at
        statement = sa.select(sa.func.count(), sa.func.max(until)).where(
            columns.handle == "", columns.version == _MOVED, until > now
        )
        return self._counted(statement)

    def taken(self) -> tuple[int, int | None]:
        """The number of adopted cookies that have notes, and until when the last of
        them is valid, in seconds since 1970.
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


def _there(
    connection: sa.Connection, table: sa.Table, keys: Iterable[bytes]
) -> set[bytes]:
    """Which of these keys are in our table."""
    return {
        bytes(key)
        for some in in_parts([*keys])
        for key in connection.scalars(sa.select(table.c.id).where(table.c.id.in_(some)))
    }


#: The ``version`` of a note. It is about revoked sessions, about an adopted cookie, or
#: about a moved session whose browser has not come back yet, or has.
_ENDED, _USED, _MOVED, _CONFIRMED = range(4)


def _moved_note(moving: Moving) -> dict[str, Any]:
    row = moving.row
    note = _noted(moving.note, row.created_at, moving.until, _MOVED)
    return note | {"last_used_at": row.expires_at}


def _noted(key: bytes, now: int, until: int, kind: int = _ENDED) -> dict[str, Any]:
    empty = StoredSession(key, "", None, b"", kind, now, 0)
    return {**empty._asdict(), "purge_at": until}
