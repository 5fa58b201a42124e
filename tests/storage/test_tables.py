from __future__ import annotations

import re
import sys
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from flask_sessionsql import SessionTableError
from flask_sessionsql.sessions import MAX_LABEL
from flask_sessionsql.storage.limits import of_user
from flask_sessionsql.storage.tables import (
    MAX_ADDRESS,
    MAX_USER_AGENT,
    MAX_USER_ID,
    as_time,
    sessions_table,
)
from tests.conftest import MakeDatabase
from tests.helpers import at_once, on

FIRST = ["id", "handle", "user_id", "data", "version", "created_at", "expires_at"]
#: Columns that came later.
LATER = [
    *("last_used_at", "address", "user_agent", "previous_id", "purge_at"),
    "label",
]
INDEXED = {"handle", "user_id", "previous_id", "purge_at"}
ROW: dict[str, object] = {
    "id": b"\x00" * 31 + b"\xff",
    "handle": "f" * 16,
    "user_id": None,
    "data": b"\x01\x80",
    "version": 1,
    "created_at": 2**33,
    "expires_at": 2**33 + 60,
    "last_used_at": 2**33 + 1,
    "address": "fe80::ffff:ffff:ffff:ffff%enp0s31f6",
    "user_agent": "Mozilla/5.0 (" + "x" * (MAX_USER_AGENT - 13),
    "previous_id": b"\xff" * 31 + b"\x00",
    "purge_at": 2**33 + 60,
    "label": "K\xe4fer \N{BEETLE} " + "x" * (MAX_LABEL - 8),
}


def postgresql() -> sa.Dialect:
    return sa.make_url("postgresql+psycopg://").get_dialect()()


@pytest.fixture
def table() -> sa.Table:
    return sessions_table(sa.MetaData(), "sessions")


def test_the_columns(table: sa.Table) -> None:
    """The table has the columns that its documentation lists. The later ones may be
    null or have a default, for rows that were there before, and user_id may be null; id
    is the key.
    """
    assert FIRST + LATER == table.columns.keys()
    assert {"user_id", *LATER} - {"purge_at"} == {c.name for c in table.c if c.nullable}
    assert ["purge_at"] == [c.name for c in table.c if c.server_default is not None]
    assert ["id"] == [column.name for column in table.primary_key]
    for name in FIRST + LATER:
        assert f"``{name}``" in (sessions_table.__doc__ or "")


def test_the_indexes(table: sa.Table) -> None:
    """What lists, revokes and purges looks up has an index; those of users, of their
    sessions' handles and of the keys before leave out the many rows that have none,
    where the database can. What requests change has none.
    """
    indexes = {tuple(i.columns.keys()): i for i in table.indexes}
    assert {(name,) for name in INDEXED} == set(indexes)
    assert not any(index.unique for index in indexes.values())
    for name, filled in (
        ("handle", "user_id IS NOT NULL OR previous_id IS NOT NULL"),
        ("user_id", "user_id IS NOT NULL"),
        ("previous_id", "previous_id IS NOT NULL"),
    ):
        partial = CreateIndex(indexes[(name,)])
        for dialect in (sqlite.dialect(), postgresql()):
            statement = str(partial.compile(dialect=dialect))
            assert statement.endswith(f"WHERE {filled}")
        assert str(partial.compile(dialect=mysql.dialect())).endswith(f"({name})")


def test_the_same_table_twice() -> None:
    """An application factory can run twice on one metadata."""
    metadata = sa.MetaData()
    table = sessions_table(metadata, "sessions")
    assert table is sessions_table(metadata, "sessions")
    assert ["sessions"] == list(metadata.tables)


def test_tables_of_two_metadata_are_two() -> None:
    """Each bind has a table of its own, and no column is shared."""
    one, other = (sessions_table(sa.MetaData(), "sessions") for _ in range(2))
    assert one is not other
    assert one.c.id is not other.c.id


def test_names_and_schemas_are_told_apart() -> None:
    """Tables of other names and in other schemas are other tables."""
    metadata = sa.MetaData()
    tables = [
        sessions_table(metadata, "one"),
        sessions_table(metadata, "two"),
        sessions_table(metadata, "one", "web"),
        sessions_table(metadata, "one", "shop"),
    ]
    assert ["one", "two", "web.one", "shop.one"] == [t.fullname for t in tables]
    assert 4 == len({id(table) for table in tables})
    assert tables[2] is sessions_table(metadata, "one", "web")


@pytest.mark.parametrize(
    ("given", "expected"), [(None, "app.sessions"), ("web", "web.sessions")]
)
def test_the_schema_of_the_metadata(given: str | None, expected: str) -> None:
    """Without a schema of its own the table is in that of the metadata, where it is
    found again.
    """
    metadata = sa.MetaData(schema="app")
    table = sessions_table(metadata, "sessions", given)
    assert expected == table.fullname
    assert table is sessions_table(metadata, "sessions", given)
    assert table is metadata.tables[expected]


def test_the_naming_convention_of_the_metadata() -> None:
    """Keys and indexes are named as the application's metadata says, so that
    migrations find nothing to rename.
    """
    metadata = sa.MetaData(
        naming_convention={"pk": "key_%(table_name)s", "ix": "find_%(column_0_name)s"}
    )
    table = sessions_table(metadata, "sessions")
    assert "key_sessions" == table.primary_key.name
    assert {f"find_{name}" for name in INDEXED} == {i.name for i in table.indexes}


def test_a_table_of_somebody_else() -> None:
    """A table of that name without the columns is an error, which names the table,
    what is missing and the setting to change; it stays as it is.
    """
    metadata = sa.MetaData()
    theirs = sa.Table(
        "sessions", metadata, sa.Column("id", sa.Integer), sa.Column("data", sa.Text)
    )
    with pytest.raises(SessionTableError) as caught:
        sessions_table(metadata, "sessions")
    message = str(caught.value)
    assert "'sessions'" in message
    missing = [name for name in FIRST + LATER if name not in ("id", "data")]
    assert f"without the columns {', '.join(missing)}," in message
    assert "SESSION_SQLALCHEMY_TABLE" in message
    assert ["id", "data"] == theirs.columns.keys()


def test_a_table_with_more_columns() -> None:
    """A table with the columns and others besides is taken: the application may
    have reflected or extended it.
    """
    metadata = sa.MetaData()
    extra = sa.Column("note", sa.Text)
    theirs = sa.Table("sessions", metadata, *map(sa.Column, FIRST + LATER), extra)
    assert theirs is sessions_table(metadata, "sessions")


@pytest.mark.parametrize(
    ("dialect", "key", "data", "user", "agent"),
    [
        (sqlite.dialect(), "BLOB", "BLOB", "VARCHAR(255)", "VARCHAR(255)"),
        (
            postgresql(),
            "BYTEA",
            "BYTEA",
            "VARCHAR(255)",
            "VARCHAR(255)",
        ),
        (
            mysql.dialect(),
            "BINARY(32)",
            "LONGBLOB",
            "VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
            "VARCHAR(255) CHARACTER SET utf8mb4",
        ),
    ],
    ids=["sqlite", "postgresql", "mysql"],
)
def test_the_types(
    table: sa.Table, dialect: sa.Dialect, key: str, data: str, user: str, agent: str
) -> None:
    """On each database the keys are binary, the data has room for 16 MiB and more,
    and numbers have 64 bits.
    """
    statement = str(CreateTable(table).compile(dialect=dialect))
    assert f"id {key} NOT NULL" in statement
    assert f"data {data} NOT NULL" in statement
    assert f"user_id {user}" in statement
    for name in ("version", "created_at", "expires_at"):
        assert f"{name} BIGINT NOT NULL" in statement
    assert "last_used_at BIGINT," in statement
    assert "address VARCHAR(64)," in statement
    assert f"user_agent {agent}," in statement
    assert f"previous_id {key}," in statement
    assert re.search(
        r"purge_at BIGINT (DEFAULT '0' NOT NULL|NOT NULL DEFAULT '0'),", statement
    )
    assert f"label {agent}," in statement
    assert (255, 64, 255) == (MAX_USER_ID, MAX_ADDRESS, MAX_USER_AGENT)


def test_it_works_on_every_database(database_uri: str, table: sa.Table) -> None:
    """The table can be created with its indexes, keeps a row as it was and tells
    keys apart to the last byte.
    """
    engine = sa.create_engine(database_uri)
    # As a version before the later columns wrote it.
    other = {name: ROW[name] for name in FIRST} | {"id": b"\x00" * 31 + b"\xfe"}
    big = {**ROW, "id": b"\x20" * 32, "data": bytes(range(256)) * 1024}
    try:
        with engine.begin() as connection:
            table.create(connection)
            for row in (ROW, other, big):
                connection.execute(table.insert(), row)
            other |= dict.fromkeys(LATER) | {"purge_at": 0}
            for row in (ROW, other, big):
                where = table.c.id == row["id"]
                [found] = connection.execute(table.select().where(where)).mappings()
                assert row == dict(found)
            table.create(connection, checkfirst=True)
            indexes = sa.inspect(connection).get_indexes("sessions")
    finally:
        engine.dispose()
    assert [[name] for name in sorted(INDEXED)] == sorted(
        [name for name in index["column_names"] if name] for index in indexes
    )


@pytest.mark.parametrize("kind", on("sqlite-file", "postgresql"))
def test_users_are_found_by_their_index(kind: str, make_database: MakeDatabase) -> None:
    """The index of users serves though it leaves out the rows that have none."""
    engine = sa.create_engine(make_database(kind))
    table = sessions_table(sa.MetaData(), "sessions")
    explain = {"sqlite": "EXPLAIN QUERY PLAN ", "postgresql": "EXPLAIN "}
    theirs = sa.select(table.c.handle).where(of_user(table, "ann"))
    statement = str(
        theirs.compile(engine, compile_kwargs={"literal_binds": True})
    ).replace("%%", "%")
    try:
        with engine.begin() as connection:
            table.create(connection)
            if kind == "postgresql":  # It would read a table this small as a whole.
                connection.exec_driver_sql("SET enable_seqscan = off")
            explained = connection.exec_driver_sql(
                explain[engine.dialect.name] + statement
            )
            assert "ix_sessions_user_id" in str(explained.all())
    finally:
        engine.dispose()


def test_user_names_are_told_apart(database_uri: str, table: sa.Table) -> None:
    """Users whose names differ in case or accents alone are different users, and
    names of full length and of any script are kept.
    """
    names = ["ann", "Ann", "änn", "安" * MAX_USER_ID, "😀"]
    engine = sa.create_engine(database_uri)
    try:
        with engine.begin() as connection:
            table.create(connection)
            for number, name in enumerate(names):
                row = {**ROW, "id": bytes([number]) * 32, "user_id": name}
                connection.execute(table.insert(), row)
            for name in names:
                where = table.c.user_id == name
                found = connection.scalars(sa.select(table.c.user_id).where(where))
                assert [name] == found.all()
    finally:
        engine.dispose()


def test_threads_that_ask_at_once_get_one_table() -> None:
    """None of them sees a table that has no columns yet, or makes a second one."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            metadata = sa.MetaData()
            found = at_once([partial(sessions_table, metadata, "sessions")] * 4)
            assert found == [metadata.tables["sessions"]] * 4
    finally:
        sys.setswitchinterval(usual)


@pytest.mark.parametrize(
    ("seconds", "year"), [(-5, 1970), (10**18, 9999), (253402300800, 9999)]
)
def test_times_beyond_all_calendars(seconds: int, year: int) -> None:
    """In a row that was tampered with, they are the nearest that there is."""
    assert year == as_time(seconds).year


@pytest.mark.parametrize("seconds", [-5, 2**60, "soon", None])
def test_a_time_in_a_damaged_row_is_some_time(seconds: Any) -> None:
    """SQLite keeps anything in any column, and a list has to be shown all the same."""
    assert 1970 <= as_time(seconds).year <= 9999
