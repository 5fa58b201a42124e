"""The statements with which sessions come from elsewhere."""

from __future__ import annotations

from datetime import datetime

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_sessionsql.exceptions import SessionTableError
from flask_sessionsql.storage.adoption import (
    ForeignSession,
    ForeignTable,
    ForeignTableError,
    Moving,
    Notes,
    everybody_note,
    foreign_table,
    used_note,
    user_note,
)
from flask_sessionsql.storage.store import StoredSession
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import limited_user, on, store_of

EXPIRY = datetime(2000, 1, 1)
ROW = StoredSession(b"\xff" * 32, "a handle", "ann", b"data", 1, 1000, 2000)


@pytest.fixture
def notes(app: Flask) -> Notes:
    return Notes(store_of(app).database)


def test_notes(notes: Notes) -> None:
    """A note is there once it was made, and can be made again."""
    keys = [everybody_note(), user_note("ann"), used_note("ann")]
    assert 3 == len({*keys})
    assert set() == notes.those_of(keys)
    notes.make(keys[1], 1000, 2000)
    notes.make(keys[1], 1000, 3000)

    assert {keys[1]} == notes.those_of(keys)


def test_a_cookie_is_taken_once(app: Flask, notes: Notes) -> None:
    """With its note, or not at all."""
    key = used_note("a cookie")
    other = ROW._replace(id=b"\xfe" * 32)

    assert notes.take(key, ROW, 2000)
    assert not notes.take(key, other, 2000)
    store = store_of(app)
    assert [ROW.data] == [
        row.data for row in store.load_any([ROW.id, other.id], now=1500)
    ]
    assert (1, 2000) == notes.taken()
    assert (0, None) == notes.waiting(1500)


def test_a_table_of_another_program(app: Flask) -> None:
    """It is not Flask-Session's."""
    database = store_of(app).database
    database.provide_table()
    table = ForeignTable(database, "flask_sessionsql")
    for ask in (
        lambda: table.count(1000, ""),
        lambda: table.find(["session:x"], 1000, [ROW.id]),
        lambda: table.batch(None, 5, 1000),
    ):
        with pytest.raises(ForeignTableError, match="is not Flask-Session's"):
            ask()


@pytest.mark.parametrize("date", ["'soon'", "x'ff'"])
def test_a_date_that_is_none(app: Flask, date: str) -> None:
    """On SQLite a column can hold anything: then that row has expired long ago."""
    database = store_of(app).database
    if database.engine.dialect.name != "sqlite":
        pytest.skip("other databases have dates in a column of dates")
    database.provide_table()
    table = ForeignTable(database, "sessions")
    with database.engine.connect() as connection:
        table.table.create(connection)
        connection.execute(
            sa.text("INSERT INTO sessions VALUES (1, 'session:x', x'80', " + date + ")")
        )

    found, is_here = table.find(["session:x"], 1000, [])
    assert found is not None
    assert (0, b"\x80", False) == (found.expires_at, found.data, is_here)
    assert (1, 0) == table.count(1000, "")


def test_one_that_is_here_already(app: Flask) -> None:
    """Nothing is stored twice: where it is here, the row that stands there once more is
    deleted.
    """
    store = store_of(app)
    store.insert(ROW)
    table = ForeignTable(store.database, "sessions")
    with store.engine.connect() as connection:
        table.table.drop(connection, checkfirst=True)
        table.table.create(connection)
        connection.execute(
            sa.insert(table.table),
            {"id": 1, "session_id": "x", "data": b"\x80", "expiry": EXPIRY},
        )
    seen = ForeignSession(1, "x", b"\x80", 2000)

    assert ([], 0) == table.take([seen], lambda row: None)
    assert "x'" not in repr(seen)
    # Another request stores it between the look and the insertion, as it were.
    other = ROW._replace(id=b"\xfd" * 32)
    twice = [Moving(other, bytes([number]) * 32, 3000) for number in (1, 2)]
    assert "data" not in repr(twice)
    with store.engine.connect() as connection:
        connection.execute(
            sa.insert(table.table),
            {"id": 2, "session_id": "y", "data": b"\x80", "expiry": EXPIRY},
        )
    assert ([], 0) == table.take(
        [seen, seen._replace(id=2)], lambda row: twice[row.id - 1]
    )
    assert 2 == len(table.batch(None, 5, 1000))
    assert ([], 0) == table.take([seen], lambda row: Moving(ROW, b"n" * 32, 3000))
    assert 1 == len(table.batch(None, 5, 1000))
    with store.engine.connect() as connection:
        table.table.drop(connection)


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_a_right_that_is_missing(
    backend: str, make_empty_database: MakeDatabase, make_app: MakeApp
) -> None:
    """It names the table and the rights, and is not taken for one on ours."""
    uri = make_empty_database(backend)
    engine = sa.create_engine(uri)
    foreign_table(sa.MetaData(), "sessions").create(engine)
    sessions_table(sa.MetaData(), "flask_sessionsql").create(engine)
    with limited_user(uri, "SELECT ON flask_sessionsql") as limited:
        app = make_app(limited, SESSION_ADOPT="flask-session")
        table = ForeignTable(store_of(app).database, "sessions")
        with pytest.raises(SessionTableError, match="on Flask-Session's table"):
            table.count(1000, "")
        store_of(app).dispose()
    engine.dispose()
