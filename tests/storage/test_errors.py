"""What an error means is the same with each driver, whatever shape it gives it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql.storage import errors
from tests.conftest import MakeDatabase

#: Everything that can be asked about an error.
QUESTIONS = (
    errors.blames_schema,
    errors.was_rolled_back,
    errors.waited_for_lock,
    errors.is_not_storable,
    errors.is_busy,
    errors.is_replaced_file,
    errors.is_lost,
    errors.is_elsewhere,
    errors.is_unavailable,
)


def meanings(error: Exception) -> list[str]:
    """What is said of it."""
    return [each.__name__ for each in QUESTIONS if each(error)]


@pytest.fixture
def engine(driver_uri: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(
        driver_uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (id INT PRIMARY KEY, x INT)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1, 0), (2, 0)")
    yield engine
    engine.dispose()


def error_of(engine: sa.Engine, *statements: str) -> Exception:
    """What the last of these statements raises."""
    with engine.connect() as connection:
        for statement in statements[:-1]:
            connection.exec_driver_sql(statement)
        with pytest.raises(sa.exc.DBAPIError) as caught:
            connection.exec_driver_sql(statements[-1])
    return caught.value


def on_postgresql(engine: sa.Engine) -> bool:
    return engine.dialect.name == "postgresql"


@pytest.mark.parametrize(
    "statement", ["SELECT * FROM nowhere", "SELECT nothing FROM t", "SELECT * FROM a.b"]
)
def test_something_is_missing(engine: sa.Engine, statement: str) -> None:
    """A table, a column, a schema."""
    assert "blames_schema" in meanings(error_of(engine, statement))


def test_a_mistake_is_nothing_else(engine: sa.Engine) -> None:
    """A statement that is wrong, and one that breaks a constraint, are raised as they
    come.
    """
    assert meanings(error_of(engine, "SELEKT 1")) == []
    twice = error_of(engine, "INSERT INTO t VALUES (1, 0)")
    assert isinstance(twice, sa.exc.IntegrityError)
    assert meanings(twice) == []


def test_a_deadlock(engine: sa.Engine) -> None:
    """One of the two is undone."""
    caught: list[Exception] = []
    both = threading.Barrier(2)

    def cross(first: int, second: int) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            change = "UPDATE t SET x = x + 1 WHERE id = "
            connection.exec_driver_sql(f"{change}{first}")
            both.wait(30)
            try:
                connection.exec_driver_sql(f"{change}{second}")
            except sa.exc.DBAPIError as error:
                caught.append(error)
            connection.exec_driver_sql("ROLLBACK")

    threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    [error] = caught
    assert "was_rolled_back" in meanings(error)


def test_a_lock(engine: sa.Engine) -> None:
    """It was waited for as long as was allowed."""
    patience = "SET SESSION innodb_lock_wait_timeout = 1"
    if on_postgresql(engine):
        patience = "SET lock_timeout = '100ms'"
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN")
        holder.exec_driver_sql("UPDATE t SET x = 1 WHERE id = 1")
        error = error_of(engine, patience, "UPDATE t SET x = 2 WHERE id = 1")
        holder.exec_driver_sql("ROLLBACK")
    assert "waited_for_lock" in meanings(error)


def test_what_is_read_only(engine: sa.Engine) -> None:
    """A server that takes no writes is unavailable."""
    statement = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
    if not on_postgresql(engine):
        statement = "SET SESSION TRANSACTION READ ONLY"
    error = error_of(engine, statement, "UPDATE t SET x = 1")
    assert meanings(error) == ["is_elsewhere", "is_unavailable"]


def test_a_server_that_is_not_the_one_to_ask(engine: sa.Engine) -> None:
    """It is read-only in another way, shuts down, or is not part of its cluster."""
    said = [
        f"DO $$ BEGIN RAISE 'no' USING ERRCODE = '{code}'; END $$"
        for code in ("25006", "57P01", "57P02", "57P03")
    ]
    if not on_postgresql(engine):
        said = [
            f"SIGNAL SQLSTATE '{state}' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'no'"
            for state, code in (
                *(("HY000", 1290), ("HY000", 1836), ("HY000", 1874), ("25006", 1792)),
                *(("08S01", 1047), ("HY000", 3100), ("08S01", 1053)),
                *(("HY000", 3032), ("HY000", 3168)),
            )
        ]
    for statement in said:
        expected = ["is_elsewhere", "is_unavailable"]
        told = meanings(error_of(engine, statement))
        assert [each for each in told if each != "is_lost"] == expected, statement


def test_what_cannot_be_connected_to(engine: sa.Engine) -> None:
    """Nobody listens, there is no such database, and the name or password is wrong."""
    url = engine.url
    for wrong in (
        url.set(port=1),
        url.set(database="not_there"),
        url.set(username="nobody_here", password="wrong"),
    ):
        with pytest.raises(sa.exc.DBAPIError) as caught:
            sa.create_engine(wrong, poolclass=sa.NullPool).connect()
        assert "is_unavailable" in meanings(caught.value), wrong


def test_what_the_server_said(engine: sa.Engine) -> None:
    """It is in one line's words, without the statement, and without the shape that a
    driver gives it.
    """
    said = errors.reason(error_of(engine, "SELECT * FROM nowhere"))
    assert "nowhere" in said
    assert "SELECT *" not in said.partition("LINE 1")[0]
    assert "{" not in said


@pytest.mark.sqlite_file
def test_sqlite_has_numbers_of_its_own(make_database: MakeDatabase) -> None:
    """Those of a lock, and none for what is missing."""
    uri = make_database("sqlite-file")
    options: dict[str, Any] = {"connect_args": {"timeout": 0.01}}
    engine = sa.create_engine(uri, poolclass=sa.NullPool, **options)
    assert "blames_schema" in meanings(error_of(engine, "SELECT * FROM nowhere"))
    with engine.connect() as holder:
        holder.exec_driver_sql("BEGIN IMMEDIATE")
        busy = error_of(engine, "BEGIN IMMEDIATE")
    assert meanings(busy) == ["is_busy", "is_unavailable"]


def test_sqlcipher_has_words_only() -> None:
    """Its driver gives no numbers."""
    error = sa.exc.OperationalError("", None, Exception("database is locked"))
    assert meanings(error) == ["is_busy", "is_unavailable"]


def test_what_drivers_let_pass() -> None:
    """What a socket says is a lost connection; a text without bytes is a value."""
    assert meanings(ConnectionResetError(104, "reset")) == ["is_lost", "is_unavailable"]
    assert meanings(UnicodeEncodeError("latin-1", "x", 0, 1, "no")) == [
        "is_not_storable"
    ]
