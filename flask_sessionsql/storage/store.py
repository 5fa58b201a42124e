"""The rows of the sessions: one method, one statement, one short transaction.

The store knows an engine and a table, and nothing of Flask. Time is given to it,
in whole seconds since 1970. "Not there" is never an error: :meth:`SessionStore.load`
answers ``None`` and the writing methods ``False``. What a failing statement leads to
is told in :mod:`flask_sessionsql.storage.database`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from .database import UNKNOWN, SessionDatabase
from .driver import Statement
from .limits import UserLimit, within_limit

__all__ = ["MovedSession", "SessionStore", "StoredSession"]

#: What every change of a session writes, and what a change of its key does besides.
_USED = ("last_used_at", "address", "user_agent")
_MOVED = ("id", "handle", "user_id", "created_at", "previous_id")
_LOADED = (
    "handle",
    "user_id",
    "data",
    "version",
    "created_at",
    "expires_at",
    "last_used_at",
)


class _Expiry(Enum):
    """What becomes of the end of a session when it is changed."""

    STAYS = auto()
    MOVES_ON = auto()
    MOVES_BACK = auto()


class StoredSession(NamedTuple):
    """One row of the table: ``id`` in 32 bytes, times in seconds since 1970, UTC, and
    ``user_id`` ``None`` where nobody is logged in.

    The last four are written and not loaded: :meth:`SessionStore.load` leaves them
    ``None``.
    """

    id: bytes
    handle: str
    user_id: str | None
    data: bytes
    version: int
    created_at: int
    expires_at: int
    last_used_at: int | None = None
    address: str | None = None
    user_agent: str | None = None
    previous_id: bytes | None = None
    label: str | None = None

    def __repr__(self) -> str:
        """Without the data: it would end in error reports."""
        return f"<StoredSession {self.handle!r}>"


class MovedSession(NamedTuple):
    """What tells one session from another, of one whose token has changed."""

    id: bytes
    handle: str
    user_id: str | None


#: A column's new value, as a parameter.
_PARAMETER = {name: f"new_{name}" for name in StoredSession._fields}


class SessionStore:
    """The rows of ``table``, through ``engine``.

    :param engine: an engine in ``AUTOCOMMIT``, such as
        :func:`~flask_sessionsql.storage.engines.sessions_engine` makes.
    :param table: the table, as :func:`~flask_sessionsql.storage.tables.sessions_table`
        makes it.
    :param create_table: whether to create the table where it is missing.
    :param timeout: how many seconds a call may take, where the server does not answer.

    >>> import sqlalchemy as sa
    >>> from flask_sessionsql.storage.engines import sessions_engine
    >>> from flask_sessionsql.storage.tables import sessions_table
    >>> engine = sessions_engine(sa.create_engine("sqlite://"))
    >>> store = SessionStore(engine, sessions_table(sa.MetaData(), "sessions"))
    >>> row = StoredSession(b"0" * 32, "f00d", None, b"data", 1, 1000, 2000)
    >>> store.insert(row)
    True
    >>> store.load(row.id, now=1999) == row
    True
    >>> store.load(row.id, now=2000) is None
    True
    >>> store.dispose()
    """

    def __init__(
        self,
        engine: sa.Engine,
        table: sa.Table,
        *,
        create_table: bool = True,
        timeout: float = 10,
    ) -> None:
        self.database: SessionDatabase = SessionDatabase(
            engine, table, create_table=create_table, timeout=timeout
        )
        self.engine = engine
        self.table = table
        delete = sa.delete(table).where(table.c.id == sa.bindparam("at"))
        as_loaded = table.c.version == sa.bindparam("loaded")
        self._load = Statement(_select_live(table))
        self._insert = Statement(_insert_row(table))
        self._updates: dict[tuple[Sequence[str], _Expiry], Statement] = {}
        self._touch = Statement(_touch_row(table))
        self._delete = Statement(delete)
        self._delete_loaded = Statement(delete.where(as_loaded))
        self._moved = sa.select(
            *(table.c[name] for name in MovedSession._fields)
        ).where(table.c.last_used_at > sa.bindparam("since"), _is_live(table))

    @property
    def locks_whole_database(self) -> bool:
        """Whether one writer keeps all others out, as in SQLite."""
        return self.database.locks_whole_database

    def load(self, id: bytes, now: int) -> StoredSession | None:
        """The row with the key ``id``; ``None`` where there is none, or where it
        has expired.

        The columns' values are those of the database, checked by nobody yet.
        """
        row = self.database.first(self._load, {"at": id, "now": now})
        return None if row is None else StoredSession(id, *row)

    def load_any(self, ids: Iterable[bytes], now: int) -> list[StoredSession]:
        """As :meth:`load`, the rows of several keys that are there, by one SELECT."""
        columns = self.table.c
        data = sa.type_coerce(columns.data, sa.types.NullType()).label("data")
        statement = sa.select(
            columns.id,
            *(data if name == "data" else columns[name] for name in _LOADED),
        ).where(columns.id.in_([*ids]), _is_live(self.table))
        return self.database.run(
            lambda connection: [
                StoredSession(bytes(row[0]), *row[1:])
                for row in connection.execute(statement, {"now": now})
            ]
        )

    def moved(self, line: Iterable[bytes], now: int, since: int) -> list[MovedSession]:
        """The live sessions that have moved to a new token and were used after
        ``since``.

        :param line: what they can have as ``previous_id``.
        """
        moved = self._moved.where(self.table.c.previous_id.in_(list(line)))
        parameters = {"now": now, "since": since}
        return self.database.run(
            lambda connection: [
                MovedSession(*row) for row in connection.execute(moved, parameters)
            ]
        )

    def insert(
        self,
        row: StoredSession,
        limit: UserLimit | None = None,
        *,
        wait: bool = True,
        anew: Callable[[], StoredSession] | None = None,
    ) -> bool:
        """Store a new row. Always ``True``: its key is random, so a row that is
        already there is this one, stored by a try whose answer was lost.

        :param limit: how many sessions the row's user may have.
        :param anew: gives the row under another key, for another try after the answer
            to one was lost. The server may run that one as late as it likes: it is then
            a row that no token opens.
        :raises SessionLimitError: there are as many already, and the limit refuses
            another one.
        """
        values, lost = row._asdict(), list[bytes]()

        def on_lost() -> None:
            if anew is not None:
                lost.append(values["id"])
                values.update(anew()._asdict())

        try:
            self._write(self._insert, values, row, limit, wait, on_lost, lost)
        except sa_exc.IntegrityError:
            if self.load(values["id"], row.created_at) is None:
                raise
        for place in lost if limit is None else ():
            self.delete(place, wait=wait)
        return True

    def update(
        self,
        row: StoredSession,
        loaded: StoredSession,
        now: int,
        limit: UserLimit | None = None,
        *,
        used: bool = True,
        whole: bool = False,
        wait: bool = True,
    ) -> bool:
        """Store ``row`` in the place of ``loaded``, unless that has changed, has
        expired or is gone. Its version becomes one more than the loaded one. Where the
        end is not before the loaded one, it only moves forward.

        Where the answer to a first try was lost, it is looked up whether the row is
        there: a change that is made twice could appear twice.

        :param row: what is to stand there; with another ``id``, it moves.
        :param loaded: what was loaded, with its label, as the data have it.
        :param limit: how many sessions the row's user may have.
        :param whole: whether to write all of it, as where it moves.
        :param used: whether to note the session's use as well, as ``row`` has it.
        :raises SessionLimitError: there are as many already, and the limit refuses
            another one.
        """
        names: tuple[str, ...] = ("data", *_USED) if used else ("data",)
        if whole or row.id != loaded.id:
            names += _MOVED
        elif row.user_id != loaded.user_id:
            names += ("user_id",)
        if row.label != loaded.label:
            names += ("label",)
        end = _Expiry.STAYS
        if row.expires_at != loaded.expires_at:
            later = row.expires_at > loaded.expires_at
            end = _Expiry.MOVES_ON if later else _Expiry.MOVES_BACK
            names += ("expires_at",)
        values = _values(row, names)
        values |= {"at": loaded.id, "loaded": loaded.version, "now": now}
        statement = self._updates.get((names, end)) or self._update(names, end)
        count = self._write(statement, values, row, limit, wait)
        if count != UNKNOWN:
            return count == 1
        found = self.load(row.id, now)
        version = loaded.version + 1
        return found is not None and (found.data, found.version) == (row.data, version)

    def _update(self, names: Sequence[str], end: _Expiry) -> Statement:
        """The statement that writes these columns, and no other: SQLite touches the
        index of each column that is named, changed or not.
        """
        columns = self.table.c
        new = _bound(names) | {"version": columns.version + sa.literal_column("1")}
        if end is _Expiry.MOVES_ON:
            # Another request may have used the session later than this one.
            until = new["expires_at"]
            later = columns.expires_at < until
            new["expires_at"] = sa.case((later, until), else_=columns.expires_at)
        elif end is _Expiry.MOVES_BACK:
            # The purge must not look at the row later than that.
            new["purge_at"] = new["expires_at"]
        update = sa.update(self.table).where(*_as_loaded(self.table)).values(new)
        statement = self._updates[names, end] = Statement(update)
        return statement

    def touch(self, row: StoredSession, now: int, *, wait: bool = True) -> bool:
        """Note the use of a live row, as ``row`` has it, unless it has changed: its use
        is noted then, and its end may be another one. Its end and its last use only
        ever move forward.
        """
        values = _values(row, (*_USED, "expires_at"))
        values |= {"at": row.id, "loaded": row.version, "now": now}
        return self.database.change(self._touch, values, wait=wait) == 1

    def delete(
        self, id: bytes, version: int | None = None, *, wait: bool = True
    ) -> bool:
        """Delete a row: whatever became of it, or only as loaded in ``version``.
        Whether it was there; where the answer to a first try was lost, whether it is
        gone.
        """
        statement, values = self._delete, dict[str, Any](at=id)
        if version is not None:
            statement, values["loaded"] = self._delete_loaded, version
        count = self.database.change(statement, values, wait=wait)
        return count == 1 or (count == UNKNOWN and self.load(id, now=0) is None)

    def delete_moved(
        self, handle: str, user_id: str | None, *, wait: bool = True
    ) -> bool:
        """Delete a session wherever it has moved to, if it is this user's or nobody's.
        Whether it was there.

        :param user_id: ``None`` for nobody's only.
        """
        columns = self.table.c
        theirs: sa.ColumnElement[bool] = columns.user_id.is_(None)
        if user_id is not None:
            theirs = sa.or_(theirs, columns.user_id == user_id)
        statement = sa.delete(self.table).where(
            columns.handle == handle, columns.previous_id.is_not(None), theirs
        )
        # InnoDB's scan can miss a row that moves meanwhile, once.
        return any(self._delete_where(statement, wait) for _ in range(2))

    def delete_line(
        self, line: Iterable[bytes], user_id: str, *, wait: bool = True
    ) -> bool:
        """Delete a user's sessions that have moved to a new token. Whether there were
        any.

        :param line: what they can have as ``previous_id``.
        """
        columns = self.table.c
        statement = sa.delete(self.table).where(
            columns.previous_id.in_(list(line)), columns.user_id == user_id
        )
        return self._delete_where(statement, wait)

    def _delete_where(self, statement: sa.Delete, wait: bool) -> bool:
        """Whether a statement deleted anything, or may have, its answer being lost."""

        def write(connection: sa.Connection) -> int:
            return connection.execute(statement).rowcount

        return self.database.run(write, wait=wait, unsure=UNKNOWN) != 0

    def dispose(self) -> None:
        """Close the connections, except those that another process opened."""
        self.database.dispose()

    def _write(
        self,
        statement: Statement,
        values: dict[str, Any],
        row: StoredSession,
        limit: UserLimit | None,
        wait: bool,
        on_lost: Callable[[], object] = lambda: None,
        lost: Sequence[bytes] = (),
    ) -> int:
        """How many rows a statement wrote, under the limit of the row's user.

        :param lost: the keys of rows that an earlier try may have stored.
        """
        user_id = row.user_id
        if limit is None or user_id is None:
            return self.database.change(statement, values, wait=wait, on_lost=on_lost)

        def write(connection: sa.Connection) -> int:
            for place in lost:  # which would be one too many
                connection.execute(self._delete.clause, {"at": place})
            return connection.execute(statement.clause, values).rowcount

        def work(connection: sa.Connection) -> int:
            key = values.get("id", row.id)
            return within_limit(write, self.table, limit, key, user_id)(connection)

        return self.database.run(work, wait=wait, unsure=UNKNOWN, on_lost=on_lost)


# The statements, and what their conditions and values are made of.


def _is_live(table: sa.Table) -> sa.ColumnElement[bool]:
    return table.c.expires_at > sa.bindparam("now")


def _as_loaded(table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that a live row is as it was loaded."""
    has_key = table.c.id == sa.bindparam("at")
    return has_key, _is_live(table), table.c.version == sa.bindparam("loaded")


def _select_live(table: sa.Table) -> sa.Select[Any]:
    columns = {name: table.c[name] for name in _LOADED}
    # A column of the wrong type, in a row that was tampered with, must not fail while
    # the row is fetched: the data is taken as the driver gives it.
    data = sa.type_coerce(table.c.data, sa.types.NullType()).label("data")
    has_key = table.c.id == sa.bindparam("at")
    return sa.select(*(columns | {"data": data}).values()).where(
        has_key, _is_live(table)
    )


def _insert_row(table: sa.Table) -> sa.Insert:
    values: dict[str, Any] = {
        name: sa.bindparam(name) for name in StoredSession._fields
    }
    # The purge looks at a row first when it would end if it were not used.
    return sa.insert(table).values(values | {"purge_at": sa.bindparam("expires_at")})


def _touch_row(table: sa.Table) -> sa.Update:
    columns, new = table.c, _bound((*_USED, "expires_at"))
    is_later = sa.or_(
        columns.last_used_at.is_(None), columns.last_used_at < new["last_used_at"]
    )
    return (
        sa.update(table)
        .where(*_as_loaded(table), columns.expires_at <= new["expires_at"], is_later)
        .values(new)
    )


def _bound(names: Iterable[str]) -> dict[str, Any]:
    """A parameter for each of these columns' new values."""
    return {name: sa.bindparam(_PARAMETER[name]) for name in names}


def _values(row: StoredSession, names: Iterable[str]) -> dict[str, Any]:
    """The values for :func:`_bound`."""
    return {_PARAMETER[name]: getattr(row, name) for name in names}
