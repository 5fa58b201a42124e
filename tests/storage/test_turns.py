"""How a command gets its turn beside a program that writes without rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from flask_sessionsql import SessionStoreUnavailableError
from flask_sessionsql.storage.purging import count_expired, purge
from flask_sessionsql.storage.turns import in_turn, insisting, insists
from tests.helpers import locked_file
from tests.storage.helpers import ROW, make_store, row_of

#: It holds the lock for some milliseconds, and then takes it again at once.
WRITER = """
import sqlite3, sys, time
file, mode = sys.argv[1:]
connection = sqlite3.connect(file, isolation_level=None, timeout=60)
connection.execute(f"PRAGMA journal_mode = {mode}")
connection.execute("CREATE TABLE IF NOT EXISTS written (number)")
ready = False
while True:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO written VALUES (1)")
    if not ready:
        ready = True
        print("ready", flush=True)
    end = time.perf_counter() + 0.002
    while time.perf_counter() < end:
        pass
    connection.execute("COMMIT")
"""


@contextmanager
def writer(file: Path, mode: str) -> Iterator[None]:
    """A process writes to the file without rest meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(file), mode],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_all_work_gets_its_turn(tmp_path: Path, mode: str) -> None:
    """Counting, purging and creating a table."""
    file = tmp_path / "app.db"
    store, other = (
        make_store(f"sqlite:///{file}?timeout=0.01", name) for name in ("some", "more")
    )
    for number in range(3):
        store.insert(row_of(number))
    with writer(file, mode), insisting(60):
        assert 3 == count_expired(store.database, 3_000)
        assert [3] == [batch.deleted for batch in purge(store.database, 3_000)]
        assert other.database.provide_table() is True
    store.dispose()
    other.dispose()


def test_a_turn_is_asked_for_as_long_as_is_said(tmp_path: Path) -> None:
    """Then the file is a database that cannot be used."""
    store = make_store(f"sqlite:///{tmp_path}/app.db")
    store.insert(ROW)
    with (
        locked_file(store.engine.url),
        insisting(0.05),
        pytest.raises(SessionStoreUnavailableError, match="503"),
    ):
        list(purge(store.database, 3_000))
    store.dispose()


def test_another_error_is_not_waited_for() -> None:
    """It is raised at once."""
    tries = 0

    def attempt() -> None:
        nonlocal tries
        tries += 1
        raise sa.exc.OperationalError("SELECT", {}, Exception("no such thing"))

    with insisting(60), pytest.raises(sa.exc.OperationalError):
        in_turn(attempt)
    assert 1 == tries


def test_it_ends() -> None:
    """Whoever comes after it waits as the application has it."""
    with insisting(1):
        assert insists()
    assert not insists()
