"""The rows of the sessions: one method, one statement, one short transaction.

The store knows an engine and a table, and nothing of Flask. Time is given to it,
in whole seconds since 1970. "Not there" is never an error: :meth:`SessionStore.load`
answers ``None`` and the writing methods ``False``. What a failing statement leads to
is told in :mod:`flask_sessionsql.database`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from .database import SessionDatabase
from .limits import UserLimit, within_limit

__all__ = ["SessionStore", "StoredSession"]

#: What every write changes, a change of the session besides, and one to another key.
_USED = ("expires_at", "last_used_at", "address", "user_agent")
_CHANGED = ("data", "user_id", *_USED)
_MOVED = ("id", "handle", "created_at", "previous_id")


class StoredSession(NamedTuple):
    """One row of the table: ``id`` in 32 bytes, times in seconds since 1970, UTC, and
    ``user_id`` ``None`` where nobody is logged in.

    The last three are written and not loaded: :meth:`SessionStore.load` leaves them
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

    def __repr__(self) -> str:
        """Without the data: it would end in error reports."""
        return f"<StoredSession {self.handle!r}>"


class SessionStore:
    """The rows of ``table``, through ``engine``.

    :param engine: an engine in ``AUTOCOMMIT``, such as
        :func:`~flask_sessionsql.engines.sessions_engine` makes.
    :param table: the table, as :func:`~flask_sessionsql.tables.sessions_table`
        makes it.
    :param create_table: whether to create the table where it is missing.

    >>> import sqlalchemy as sa
    >>> from flask_sessionsql.engines import sessions_engine
    >>> from flask_sessionsql.tables import sessions_table
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
        self, engine: sa.Engine, table: sa.Table, *, create_table: bool = True
    ) -> None:
        self.database: SessionDatabase = SessionDatabase(
            engine, table, create_table=create_table
        )
        self.engine = engine
        self.table = table
        columns = table.c
        live = sa.and_(
            columns.id == sa.bindparam("at"),
            columns.expires_at > sa.bindparam("now"),
        )
        as_loaded = sa.and_(live, columns.version == sa.bindparam("loaded"))
        # A column of the wrong type, in a row that was tampered with, must not
        # fail while the row is fetched: the data is taken as the driver gives it.
        self._load = sa.select(
            *(columns[name] for name in ("id", "handle", "user_id")),
            sa.type_coerce(columns.data, sa.types.NullType()).label("data"),
            *(columns[name] for name in ("version", "created_at", "expires_at")),
            columns.last_used_at,
        ).where(live)
        self._insert = sa.insert(table)
        counted = {"version": columns.version + 1}
        update = sa.update(table).where(as_loaded)
        used: sa.BindParameter[int] = sa.bindparam("new_last_used_at")
        until: sa.BindParameter[int] = sa.bindparam("new_expires_at")
        # Forward only: another request may have used the session later than this one.
        onward = {
            "expires_at": sa.case(
                (columns.expires_at < until, until), else_=columns.expires_at
            )
        }
        #: By whether the row moves, and whether its end moves back.
        self._updates: dict[tuple[bool, bool], sa.Update] = {
            (moves, back): update.values(
                _bound(_CHANGED + _MOVED if moves else _CHANGED)
                | counted
                | ({} if back else onward)
            )
            for moves in (False, True)
            for back in (False, True)
        }
        self._touch = (
            sa.update(table)
            .where(as_loaded, columns.expires_at <= until)
            .where(sa.or_(columns.last_used_at.is_(None), columns.last_used_at < used))
            .values(_bound(_USED))
        )
        self._late = sa.select(sa.literal(1)).where(
            columns.last_used_at > sa.bindparam("since"),
            columns.expires_at > sa.bindparam("now"),
        )
        self._delete = sa.delete(table).where(columns.id == sa.bindparam("at"))
        self._delete_loaded = self._delete.where(
            columns.version == sa.bindparam("loaded")
        )

    @property
    def locks_whole_database(self) -> bool:
        """Whether one writer keeps all others out, as in SQLite."""
        return self.database.locks_whole_database

    def load(self, id: bytes, now: int) -> StoredSession | None:
        """The row with the key ``id``; ``None`` where there is none, or where it
        has expired.

        The columns' values are those of the database, checked by nobody yet.
        """
        row = self.database.run(
            lambda connection: connection.execute(
                self._load, {"at": id, "now": now}
            ).first()
        )
        return None if row is None else StoredSession(*row)

    def is_late(self, ids: Iterable[bytes], now: int, since: int) -> bool:
        """Whether a live row that was used after ``since`` had one of these keys
        before its token changed.
        """
        late = self._late.where(self.table.c.previous_id.in_(list(ids)))
        parameters = {"now": now, "since": since}
        found = self.database.run(
            lambda connection: connection.execute(late, parameters).first()
        )
        return found is not None

    def insert(
        self, row: StoredSession, limit: UserLimit | None = None, *, wait: bool = True
    ) -> bool:
        """Store a new row. Always ``True``: its key is random, so a row that is
        already there is this one, stored by a try whose answer was lost.

        :param limit: how many sessions the row's user may have.
        :raises SessionLimitError: there are as many already, and the limit refuses
            another one.
        """
        try:
            self._write(self._insert, row._asdict(), row, limit, wait)
        except sa_exc.IntegrityError:
            if self.load(row.id, row.created_at) is None:
                raise
        return True

    def update(
        self,
        row: StoredSession,
        loaded: StoredSession,
        now: int,
        limit: UserLimit | None = None,
        *,
        wait: bool = True,
    ) -> bool:
        """Store ``row`` in the place of ``loaded``, unless that has changed, has
        expired or is gone. Its version becomes one more than the loaded one. Where the
        end is not before the loaded one, it only moves forward.

        :param row: what is to stand there; with another ``id``, it moves.
        :param limit: how many sessions the row's user may have.
        :raises SessionLimitError: there are as many already, and the limit refuses
            another one.
        """
        moves = row.id != loaded.id
        names = _CHANGED + _MOVED if moves else _CHANGED
        parameters = _new(row, names)
        parameters |= {"at": loaded.id, "loaded": loaded.version, "now": now}
        statement = self._updates[moves, row.expires_at < loaded.expires_at]
        return self._write(statement, parameters, row, limit, wait) == 1

    def touch(self, row: StoredSession, now: int, *, wait: bool = True) -> bool:
        """Note the use of a live row, as ``row`` has it, unless it has changed: its use
        is noted then, and its end may be another one. Its end and its last use only
        ever move forward.
        """
        parameters = _new(row, _USED)
        parameters |= {"at": row.id, "loaded": row.version, "now": now}
        return self._write(self._touch, parameters, row, None, wait) == 1

    def delete(
        self, id: bytes, version: int | None = None, *, wait: bool = True
    ) -> bool:
        """Delete a row: whatever became of it, or only as loaded in ``version``."""
        statement, parameters = self._delete, {"at": id, "loaded": version}
        if version is None:
            del parameters["loaded"]
        else:
            statement = self._delete_loaded
        return self._write(statement, parameters, None, None, wait) == 1

    def end(self, loaded: StoredSession, *, wait: bool = True) -> bool:
        """Delete a session where it has moved to from ``loaded``, if it is still the
        same user's. Whether it was there.
        """
        columns = self.table.c
        moved = sa.delete(self.table).where(
            columns.handle == loaded.handle, columns.previous_id == loaded.id
        )
        user_id = loaded.user_id
        theirs = columns.user_id == user_id if user_id else columns.user_id.is_(None)
        statement = moved.where(theirs)
        # InnoDB's scan can miss a row that moves meanwhile, once.
        return any(self._write(statement, {}, None, None, wait) for _ in range(2))

    def dispose(self) -> None:
        """Close the connections, except those that another process opened."""
        self.database.dispose()

    def _write(
        self,
        statement: sa.Insert | sa.Update | sa.Delete,
        parameters: dict[str, Any],
        row: StoredSession | None,
        limit: UserLimit | None,
        wait: bool,
    ) -> int:
        """How many rows a statement wrote."""

        def write(connection: sa.Connection) -> int:
            return connection.execute(statement, parameters).rowcount

        if limit is None or row is None or row.user_id is None:
            return self.database.run(write, wait=wait)
        work = within_limit(write, self.table, limit, row.id, row.user_id)
        return self.database.run(work, wait=wait)


def _bound(names: Iterable[str]) -> dict[str, Any]:
    """A parameter for each of these columns' new values."""
    return {name: sa.bindparam(f"new_{name}") for name in names}


def _new(row: StoredSession, names: Iterable[str]) -> dict[str, Any]:
    """The values for :func:`_bound`."""
    return {f"new_{name}": getattr(row, name) for name in names}
