"""What the benchmarks use of the package beyond its public names: nothing else here
imports it, but for ``Session`` in the process that :mod:`benchmarks.startup` starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from flask import Flask

from flask_sessionsql import FlaskSQLAlchemySessionInterface, Session
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.formats.tokens import new_handle, row_id
from flask_sessionsql.saving.records import SessionRecords
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.purging import purge
from flask_sessionsql.storage.store import SessionStore
from flask_sessionsql.storage.tables import sessions_table

from .databases import use_wal
from .frame import BrokenError
from .peers import KEY

TABLE = SessionConfig.table
LIFETIME = SessionConfig.lifetime


def set_up(app: Flask, database: sa.URL) -> sa.Engine:
    """Give an application the sessions, as ``Session(app)`` sets them up, without a
    ``SQLAlchemy`` object. Their engine.
    """
    app.config["SQLALCHEMY_DATABASE_URI"] = database
    app.config["SESSION_TYPE"] = "flask-sqlalchemy"
    Session(app)
    interface = app.session_interface
    assert isinstance(interface, FlaskSQLAlchemySessionInterface)
    engine: sa.Engine = interface.records(app).store.engine
    use_wal(engine)
    return engine


def table_of(name: str = TABLE) -> sa.Table:
    """The table of the sessions, under this name."""
    return sessions_table(sa.MetaData(), name)


# Rows.

#: The columns that :func:`rows` fills, in its order.
COLUMNS = (
    "id",
    "handle",
    "user_id",
    "data",
    "version",
    "created_at",
    "expires_at",
    "last_used_at",
    "purge_at",
)
#: Over how many seconds the ends of the sessions are spread: 30 days.
SPREAD = 30 * 24 * 3600
#: Stands for a user's name in the data.
USER = "user-0000000"


def token_of(number: int) -> str:
    """The token of the session with this number."""
    return f"benchmark-{number:032d}"


def has_expired(number: int, rows: int, expired: int) -> bool:
    """Whether the session with this number has: they are spread evenly."""
    return number * expired % rows < expired


def new_data() -> dict[str, Any]:
    """What a session holds: about 200 bytes when stored."""
    return {
        "_user_id": USER,
        "_fresh": True,
        "_id": "0f" * 32,
        "cart": [[1001, 2], [1002, 1], [1003, 5]],
        "language": "en-GB",
        "last_page": "/shop/books/0123456789",
        "visits": 1,
    }


def rows(number: int, expired: int, now: int) -> Iterator[tuple[object, ...]]:
    """So many rows, of which so many have expired at ``now``, in the order of the key,
    so that the table is as dense as the database makes it.
    """
    head, tail = MsgpackSerializer().dumps(new_data()).split(USER.encode())
    # One object for each row, the number behind the key: with 10 million of them, a
    # tuple each would be too much.
    keys = [row_id(KEY, token_of(n)) + n.to_bytes(8) for n in range(number)]
    keys.sort()
    for key in keys:
        n = int.from_bytes(key[32:])
        name = f"user-{n // 3:07d}"
        ends = now + 86400 + n * 7919 % SPREAD
        if has_expired(n, number, expired):
            ends = now - 1 - n * 7919 % SPREAD
        begins = ends - LIFETIME
        data = b"".join((head, name.encode(), tail))
        yield key[:32], new_handle(begins), name, data, 1, begins, ends, begins, ends


# Requests, without the application around them.


class Sessions:
    """The sessions of one table, as a request uses them: found, and saved.

    :param name: the table's.
    """

    def __init__(self, database: sa.URL, name: str = TABLE) -> None:
        source = sa.create_engine(database)
        use_wal(source)
        self.table = table_of(name)
        self._store = SessionStore(sessions_engine(source), self.table)
        self._records = SessionRecords(
            SessionConfig(), self._store, MsgpackSerializer()
        )

    def find(self, number: int, now: int) -> tuple[Any, dict[Any, Any]] | None:
        """Read the session with this number. ``None`` where there is none."""
        return self._records.find([KEY], token_of(number), now)

    def save(self, record: Any, data: dict[Any, Any], now: int) -> tuple[Any, Any]:
        """Save what a request made of its session, if it is to be saved.

        :param record: what was found; ``None`` for a new session.
        """
        plan = self._records.planner.plan(
            [KEY], record, data, empty=False, cleared=False, now=now
        )
        saved = self._records.execute(plan, [KEY])
        if saved is None or saved[0] is None:
            raise BrokenError(f"a session of {self.table.name} was not saved")
        return saved

    def read(self, number: int, now: int) -> tuple[Any, dict[Any, Any]]:
        """A request that reads its session, which has to be there."""
        found = self.find(number, now)
        if found is None or found[1].keys() != new_data().keys():
            raise BrokenError(f"session {number} of {self.table.name} was not found")
        return found

    def write(self, number: int, now: int) -> None:
        """A request that changes its session."""
        record, data = self.read(number, now)
        data["visits"] += 1
        self.save(record, data, now)

    def begin(self, data: dict[Any, Any], now: int) -> None:
        """A request that begins a session."""
        self.save(None, data, now)

    def purge(self, now: int) -> int:
        """Delete what has expired. How many rows."""
        return sum(done.deleted for done in purge(self._store.database, now, pause=0))

    def close(self) -> None:
        """Close the connections."""
        self._store.dispose()
