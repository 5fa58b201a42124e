"""What the benchmarks use of the package beyond its public names: nothing else here
imports it, but for ``Session`` in the process that :mod:`benchmarks.startup` starts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import FlaskSQLAlchemySessionInterface, Session
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.formats.tokens import new_handle, row_id
from flask_sessionsql.saving.planning import SessionRecord, Use
from flask_sessionsql.saving.records import SessionRecords
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.purging import purge
from flask_sessionsql.storage.store import SessionStore
from flask_sessionsql.storage.tables import sessions_table

from . import databases
from .frame import BrokenError
from .terms import KEY, make_payload

TABLE = SessionConfig.table
LIFETIME = SessionConfig.lifetime


def set_up(app: Flask, database: sa.URL, *, rollback: bool = False) -> sa.Engine:
    """Give an application sessions, without a ``SQLAlchemy`` object. Their engine.

    :param rollback: in a file of such an object's, as SQLite makes it.
    """
    app.config["SQLALCHEMY_DATABASE_URI"] = database
    app.config["SESSION_TYPE"] = "flask-sqlalchemy"
    if rollback:
        with databases.connecting(database).connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
        SQLAlchemy(app)
    Session(app)
    interface = app.session_interface
    assert isinstance(interface, FlaskSQLAlchemySessionInterface)
    engine: sa.Engine = interface.records.store.engine
    return engine


#: Over how many seconds the ends of the sessions are spread: 30 days.
SPREAD = 30 * 24 * 3600
#: Stands for a user's name in the data of a session, which has about 200 bytes.
USER = "user-0000000"
#: The token of the session with a number.
TOKEN = "benchmark-{:032d}"
DATA = {**make_payload(156), "_user_id": USER}


def has_expired(number: int, rows: int, expired: int) -> bool:
    """Whether the session with this number has: they are spread evenly."""
    return number * expired % rows < expired


def fill(url: sa.URL, name: str, rows: int, expired: int = 0) -> sa.Table:
    """Make a table with so many rows, of which so many have expired."""
    table = sessions_table(sa.MetaData(), name)
    columns = "id handle user_id data version created_at expires_at last_used_at"
    made = _rows(rows, expired, int(time.time()))
    databases.fill(url, table, [*columns.split(), "purge_at"], made)
    return table


def _rows(rows: int, expired: int, now: int) -> Iterator[tuple[object, ...]]:
    """The rows in the order of the key, so that the table is as dense as the database
    makes it.
    """
    head, tail = MsgpackSerializer().dumps(DATA).split(USER.encode())
    # One object for each row, the number behind the key: with 10 million of them, a
    # tuple each would be too much.
    keys = [row_id(KEY, TOKEN.format(n)) + n.to_bytes(8) for n in range(rows)]
    keys.sort()
    for key in keys:
        n = int.from_bytes(key[32:])
        name = f"user-{n // 3:07d}"
        ends = now + 86400 + n * 7919 % SPREAD
        if has_expired(n, rows, expired):
            ends = now - 1 - n * 7919 % SPREAD
        begins = ends - LIFETIME
        data = b"".join((head, name.encode(), tail))
        yield key[:32], new_handle(begins), name, data, 1, begins, ends, begins, ends


class Sessions:
    """The sessions of one table, as a request uses them: found, and saved.

    :param hasty: PostgreSQL's commits do not wait for the disk: no time is measured.
    """

    def __init__(
        self, database: sa.URL, name: str = TABLE, *, hasty: bool = False
    ) -> None:
        if hasty and databases.kind_of(database) == "postgresql":
            options = {"options": "-c synchronous_commit=off"}
            database = database.update_query_dict(options)
        source = sa.create_engine(database)
        self.table = sessions_table(sa.MetaData(), name)
        self._store = SessionStore(sessions_engine(source, alone=True), self.table)
        config, serializer = SessionConfig(), MsgpackSerializer()
        self._records = SessionRecords(config, lambda: self._store, serializer)

    def save(
        self, record: SessionRecord | None, data: dict[Any, Any], now: int
    ) -> tuple[SessionRecord, dict[Any, Any]]:
        """What is stored once a request has saved what it made of a session.

        :param record: what was found; ``None`` for a new session.
        """
        use, planner = Use(now, [KEY]), self._records.planner
        plan = planner.plan(use, record, data, empty=False, cleared=False)
        outcome = self._records.execute(plan)
        if outcome.record is None:
            raise BrokenError(f"a session of {self.table.name} was not saved")
        return outcome.record, dict(outcome.data)

    def read(self, number: int, now: int) -> tuple[SessionRecord, dict[Any, Any]]:
        """A request that reads its session, which has to be there."""
        found = self._records.find([KEY], TOKEN.format(number), now)
        if found is None or "visits" not in found[1]:
            raise BrokenError(f"session {number} of {self.table.name} was not found")
        return found[0], {k: self._records.decode(v) for k, v in found[1].items()}

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
