"""The rows of the sessions: one method, one statement, one short transaction.

The store knows an engine and a table, and nothing about Flask. Its callers pass the
time, in whole seconds since 1970. A missing row is never an error:
:meth:`SessionStore.load` returns ``None`` and the writing methods return ``False``. The
module :mod:`flask_sessionsql.storage.database` says what happens when a statement
fails.
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

#: The columns that every change of a session writes, and those that a change of its key
#: writes in addition.
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
    """What happens to the end of a session when it is changed."""

    STAYS = auto()
    MOVES_ON = auto()
    MOVES_BACK = auto()


class StoredSession(NamedTuple):
    """One row of the table. ``id`` has 32 bytes, times are in seconds since 1970, UTC,
    and ``user_id`` is ``None`` where nobody is logged in.

    The last four fields are only written: :meth:`SessionStore.load` leaves them
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
        """Without the data, which would appear in error reports."""
        return f"<StoredSession {self.handle!r}>"


class MovedSession(NamedTuple):
    """What identifies a session whose token has changed."""

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
    :param create_table: whether to create the table if it is missing.
    :param timeout: how many seconds a call may take if the server does not answer.

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
        """Whether one writer locks out all others, as in SQLite."""
        return self.database.locks_whole_database

    def load(self, id: bytes, now: int) -> StoredSession | None:
        """The row with the key ``id``; ``None`` if there is none or it has expired.

        The values are as the database returns them; nothing has checked them.
        """
        row = self.database.first(self._load, {"at": id, "now": now})
        return None if row is None else StoredSession(id, *row)

    def load_any(self, ids: Iterable[bytes], now: int) -> list[StoredSession]:
        """As :meth:`load`, for several keys, with one SELECT."""
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

        :param line: the possible values of ``previous_id``.
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
        """Store a new row. Always returns ``True``: the key is random, so if the row is
        there already, an earlier try has stored it and its answer was lost.

        :param limit: how many sessions the row's user may have.
        :param anew: returns the row under another key, for the next try after the
            answer to one was lost. The server may still run the earlier one at any
            time: that makes a row that no token opens.
        :raises SessionLimitError: the user has that many already, and the limit refuses
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
        """Replace ``loaded`` by ``row``, unless ``loaded`` has changed, has expired or
        is gone. Returns whether it did. The version becomes the loaded one plus one. If
        the new end is not before the loaded one, the end only moves forward.

        If the answer to the first try was lost, the row is read to see whether it was
        written: making a change twice could make it appear twice.

        :param row: the new row; with another ``id``, the session moves.
        :param loaded: the row as it was loaded, with the label that is in the data.
        :param limit: how many sessions the row's user may have.
        :param used: whether to write the columns of the last use as well.
        :param whole: whether to write all columns, as for a session that moves.
        :raises SessionLimitError: the user has that many already, and the limit refuses
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
        """The statement that writes these columns and no others: SQLite updates the
        index of each column that is named, even if its value does not change.
        """
        columns = self.table.c
        new = _bound(names) | {"version": columns.version + sa.literal_column("1")}
        if end is _Expiry.MOVES_ON:
            # Another request may have used the session later than this one.
            until = new["expires_at"]
            later = columns.expires_at < until
            new["expires_at"] = sa.case((later, until), else_=columns.expires_at)
        elif end is _Expiry.MOVES_BACK:
            # The purge must look at the row no later than that.
            new["purge_at"] = new["expires_at"]
        update = sa.update(self.table).where(*_as_loaded(self.table)).values(new)
        statement = self._updates[names, end] = Statement(update)
        return statement

    def touch(self, row: StoredSession, now: int, *, wait: bool = True) -> bool:
        """Record the use of a live row, with the values in ``row``. Does nothing if the
        row has changed, because that write has recorded a use, and perhaps another end.
        The end and the last use only ever move forward.
        """
        values = _values(row, (*_USED, "expires_at"))
        values |= {"at": row.id, "loaded": row.version, "now": now}
        return self.database.change(self._touch, values, wait=wait) == 1

    def delete(
        self, id: bytes, version: int | None = None, *, wait: bool = True
    ) -> bool:
        """Delete a row, or only if it still has the ``version`` that was loaded.
        Returns whether it was there; if the answer to the first try was lost, whether
        it is gone.
        """
        statement, values = self._delete, dict[str, Any](at=id)
        if version is not None:
            statement, values["loaded"] = self._delete_loaded, version
        count = self.database.change(statement, values, wait=wait)
        return count == 1 or (count == UNKNOWN and self.load(id, now=0) is None)

    def delete_moved(
        self, handle: str, user_id: str | None, *, wait: bool = True
    ) -> bool:
        """Delete a session whose token has changed, if it belongs to this user or to
        nobody. Returns whether it was there.

        :param user_id: ``None`` if it must belong to nobody.
        """
        columns = self.table.c
        theirs: sa.ColumnElement[bool] = columns.user_id.is_(None)
        if user_id is not None:
            theirs = sa.or_(theirs, columns.user_id == user_id)
        statement = sa.delete(self.table).where(
            columns.handle == handle, columns.previous_id.is_not(None), theirs
        )
        # InnoDB's scan can miss a row that moves during the scan, once.
        return any(self._delete_where(statement, wait) for _ in range(2))

    def delete_line(
        self, line: Iterable[bytes], user_id: str, *, wait: bool = True
    ) -> bool:
        """Delete a user's sessions that have moved to a new token. Returns whether
        there were any.

        :param line: the possible values of ``previous_id``.
        """
        columns = self.table.c
        statement = sa.delete(self.table).where(
            columns.previous_id.in_(list(line)), columns.user_id == user_id
        )
        return self._delete_where(statement, wait)

    def _delete_where(self, statement: sa.Delete, wait: bool) -> bool:
        """Whether a statement deleted anything, or may have if its answer was lost."""

        def write(connection: sa.Connection) -> int:
            return connection.execute(statement).rowcount

        return self.database.run(write, wait=wait, unsure=UNKNOWN) != 0

    def dispose(self) -> None:
        """Close the connections, except those that another process has opened."""
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
        """Run a statement within the limit of the row's user. Returns how many rows it
        wrote.

        :param lost: the keys of rows that an earlier try may have stored.
        """
        user_id = row.user_id
        if limit is None or user_id is None:
            return self.database.change(statement, values, wait=wait, on_lost=on_lost)

        def write(connection: sa.Connection) -> int:
            for place in lost:  # it would count as a session of the user
                connection.execute(self._delete.clause, {"at": place})
            return connection.execute(statement.clause, values).rowcount

        def work(connection: sa.Connection) -> int:
            key = values.get("id", row.id)
            return within_limit(write, self.table, limit, key, user_id)(connection)

        return self.database.run(work, wait=wait, unsure=UNKNOWN, on_lost=on_lost)


# The statements, and the conditions and values they are made of.


def _is_live(table: sa.Table) -> sa.ColumnElement[bool]:
    return table.c.expires_at > sa.bindparam("now")


def _as_loaded(table: sa.Table) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions for a live row that is still as it was loaded."""
    has_key = table.c.id == sa.bindparam("at")
    return has_key, _is_live(table), table.c.version == sa.bindparam("loaded")


def _select_live(table: sa.Table) -> sa.Select[Any]:
    columns = {name: table.c[name] for name in _LOADED}
    # Fetching a row must not fail if somebody has put a value of another type into it,
    # so the data is taken as the driver returns it.
    data = sa.type_coerce(table.c.data, sa.types.NullType()).label("data")
    has_key = table.c.id == sa.bindparam("at")
    return sa.select(*(columns | {"data": data}).values()).where(
        has_key, _is_live(table)
    )


def _insert_row(table: sa.Table) -> sa.Insert:
    values: dict[str, Any] = {
        name: sa.bindparam(name) for name in StoredSession._fields
    }
    # The purge first looks at a row when it would expire if nobody used it.
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
