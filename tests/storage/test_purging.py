from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql.signals import Event, SessionEnded
from flask_sessionsql.storage import purging
from flask_sessionsql.storage.database import transaction
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.purging import (
    Batch,
    Purger,
    count_expired,
    purge,
    purge_batch,
)
from flask_sessionsql.storage.store import SessionStore, StoredSession
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeDatabase
from tests.helpers import at_once, locked_file, on

NOW = 2_000
#: A test that waits for a lock of its own fails, rather than never ends.
PATIENCE: dict[str, dict[str, str]] = {
    "postgresql": {"options": "-c lock_timeout=3s"},
    "mysql": {"init_command": "SET innodb_lock_wait_timeout = 3"},
    "sqlite": {},
}
MakeStore = Callable[[str], SessionStore]


def session(number: int, expires_at: int) -> StoredSession:
    """One session, whose number its handle is."""
    key = number.to_bytes(32, "big")
    return StoredSession(key, f"{number:016}", "ann", b"\x01\x80", 1, 500, expires_at)


@pytest.fixture
def make_store() -> Iterator[MakeStore]:
    """Makes stores, each with connections of its own, as another process has."""
    stores: list[SessionStore] = []

    def make(uri: str) -> SessionStore:
        patience = PATIENCE[sa.make_url(uri).get_backend_name()]
        engine = sessions_engine(sa.create_engine(uri, connect_args=patience))
        stores.append(SessionStore(engine, sessions_table(sa.MetaData(), "sessions")))
        return stores[-1]

    yield make
    for store in stores:
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        store.dispose()


@pytest.fixture
def store(database_uri: str, make_store: MakeStore) -> SessionStore:
    return make_store(database_uri)


@pytest.fixture
def memory(make_store: MakeStore) -> SessionStore:
    """For what does not depend on the database."""
    return make_store("sqlite://")


@pytest.fixture(params=on("postgresql", "mariadb"))
def server_uri(request: pytest.FixtureRequest, make_database: MakeDatabase) -> str:
    """The address of an empty database that locks rows, not everything."""
    return make_database(request.param)


def fill(store: SessionStore, *ends: int) -> None:
    """Store sessions that expire at these times, numbered from 0."""
    rows = [
        {**session(number, end)._asdict(), "purge_at": end}
        for number, end in enumerate(ends)
    ]
    store.database.run(
        lambda connection: connection.execute(sa.insert(store.table), rows)
    )


def left(store: SessionStore) -> list[int]:
    """The numbers of the sessions that are in the table."""
    handles = sa.select(store.table.c.handle).order_by(store.table.c.handle)
    return store.database.run(
        lambda connection: [int(handle) for handle in connection.scalars(handles)]
    )


def move_on(store: SessionStore, *which: int, end: int = NOW + 900) -> None:
    """Move the end of these sessions, as requests do that use them."""
    keys = [session(number, 0).id for number in which]
    moved = sa.update(store.table).where(store.table.c.id.in_(keys))
    store.database.run(
        lambda connection: connection.execute(moved.values(expires_at=end))
    )


def looks(store: SessionStore) -> list[int]:
    """When the purge looks at the sessions that are in the table."""
    columns = store.table.c
    times = sa.select(columns.purge_at).order_by(columns.handle)
    return store.database.run(lambda connection: list(connection.scalars(times)))


def deleted(batches: Iterable[Batch]) -> list[int]:
    """How many rows each batch deleted."""
    return [batch.deleted for batch in batches]


def numbers(events: list[Event]) -> list[int]:
    return [int(event.handle or "") for event in events]


@contextmanager
def locked(store: SessionStore, *which: int) -> Iterator[sa.Connection]:
    """These sessions, as another process has them that deletes them."""
    key = store.table.c.id
    with store.engine.connect() as connection, transaction(connection):
        # One by one: of a small table, MariaDB locks more than it is asked for.
        for number in which:
            chosen = sa.select(key).where(key == session(number, 0).id)
            assert connection.execute(chosen.with_for_update()).one()
        yield connection


class Clock:
    """Stands for the time that the purger reads, and for its dice."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return NOW

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def random(self) -> float:
        return 0.5


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(purging, "time", clock)
    monkeypatch.setattr(purging, "random", clock)
    return clock


# Deleting.


def test_what_has_expired_is_counted(store: SessionStore) -> None:
    """A row counts from the second in which it expires; no row, no error."""
    assert count_expired(store.database, NOW) == 0
    fill(store, NOW - 1, NOW, NOW + 1)
    assert count_expired(store.database, NOW) == 2


def test_a_batch_takes_the_oldest_expired_rows(store: SessionStore) -> None:
    """A batch deletes so many expired rows, the oldest first, and never a live one."""
    fill(store, NOW + 1, NOW, NOW - 3, NOW - 1, NOW + 900, NOW - 2)
    assert purge_batch(store.database, NOW, 2) == Batch(2, 2, NOW - 2)
    assert left(store) == [0, 1, 3, 4]
    assert purge_batch(store.database, NOW, 10) == Batch(2, 2, NOW)
    assert left(store) == [0, 4]
    assert purge_batch(store.database, NOW, 10) == Batch(0, 0, None)


def test_who_is_told_learns_of_each_row(store: SessionStore) -> None:
    """One event for each row that was deleted: whose it was, and why it ended."""
    fill(store, NOW, NOW + 1, NOW - 1)
    events: list[Event] = []
    purge_batch(store.database, NOW, 10, events.append)
    expected = [SessionEnded(f"{number:016}", "ann", "expired") for number in (2, 0)]
    assert expected == events


def test_purging_goes_batch_by_batch(store: SessionStore) -> None:
    """All expired rows go, also of one second, and each batch gives its number."""
    fill(store, *[NOW - 5] * 7, *range(NOW - 4, NOW + 3), -1)
    events: list[Event] = []
    assert [3, 3, 3, 3, 1] == deleted(
        purge(store.database, NOW, batch=3, pause=0, tell=events.append)
    )
    assert left(store) == [12, 13]
    assert sorted(numbers(events)) == [*range(12), 14]


def test_a_purge_stops_between_two_batches(store: SessionStore) -> None:
    """Who asks for no more leaves the rest as it is."""
    fill(store, *range(1_000, 1_010))
    batches = purge(store.database, NOW, batch=4, pause=0)
    assert next(batches).deleted == 4
    assert next(batches).deleted == 4
    assert left(store) == [8, 9]


def test_others_have_the_database_between_two_batches(store: SessionStore) -> None:
    """A purge pauses after each batch but the last one."""
    assert [0] == deleted(purge(store.database, NOW, batch=2, pause=60))
    fill(store, *range(1_000, 1_005))
    start = time.monotonic()
    assert [2, 2, 1] == deleted(purge(store.database, NOW, batch=2, pause=0.1))
    assert 0.2 <= time.monotonic() - start


@pytest.mark.parametrize(("pause", "rests"), [(1, 6), (7, 7), (0, 0)])
def test_a_slow_database_has_longer_pauses(
    clock: Clock, memory: SessionStore, pause: float, rests: float
) -> None:
    """A pause is not shorter than the batch before it took; 0 is none at all."""
    fill(memory, *range(1_000, 1_005))

    def tell(event: Event) -> None:
        clock.now += 3

    list(purge(memory.database, NOW, batch=2, pause=pause, tell=tell))
    assert [rests, rests] == clock.slept


# Sessions that live longer than they were to.


def test_a_session_that_is_used_on_is_looked_at_again(store: SessionStore) -> None:
    """A row whose end has moved on stays, nobody is told of it, and the purge looks at
    it at its new end; then it goes, if it was not used on again.
    """
    fill(store, NOW - 2, NOW - 1, NOW)
    move_on(store, 0, 2)
    events: list[Event] = []
    assert count_expired(store.database, NOW) == 1
    batch = purge_batch(store.database, NOW, 10, events.append)
    assert Batch(seen=3, deleted=1, last=NOW) == batch
    assert [1] == numbers(events)
    assert left(store) == [0, 2]
    assert looks(store) == [NOW + 900, NOW + 900]
    assert purge_batch(store.database, NOW + 899, 10).seen == 0
    move_on(store, 2, end=NOW + 1_800)
    assert purge_batch(store.database, NOW + 900, 10, events.append).deleted == 1
    assert [1, 0] == numbers(events)
    assert looks(store) == [NOW + 1_800]


def test_a_purge_goes_on_behind_sessions_that_live(store: SessionStore) -> None:
    """Batches in which nothing had expired are not the last ones, and none of them
    comes twice.
    """
    fill(store, *range(1_000, 1_010))
    move_on(store, *range(7))
    assert [0, 0, 2, 1] == deleted(purge(store.database, NOW, batch=3, pause=0))
    assert left(store) == list(range(7))
    assert [0] == deleted(purge(store.database, NOW, batch=3, pause=0))


def test_a_purge_rests_after_sessions_that_live(
    clock: Clock, memory: SessionStore
) -> None:
    """Looking is work for the database, too."""
    fill(memory, *range(1_000, 1_005))
    move_on(memory, *range(5))
    assert [0, 0, 0] == deleted(purge(memory.database, NOW, batch=2, pause=7))
    assert [7, 7] == clock.slept


def test_rows_of_the_version_before_are_looked_at(store: SessionStore) -> None:
    """A row that was stored without purge_at goes when it has expired, and otherwise
    gets one, however many there are.
    """
    old = [
        session(number, NOW + number % 2)._asdict() | {"previous_id": None}
        for number in range(10)
    ]
    store.database.run(
        lambda connection: connection.execute(sa.insert(store.table), old)
    )
    assert count_expired(store.database, NOW) == 5
    assert 5 == sum(deleted(purge(store.database, NOW, batch=3, pause=0)))
    assert left(store) == [1, 3, 5, 7, 9]
    assert looks(store) == [NOW + 1] * 5


def test_an_end_that_is_no_time_stops_no_purge(memory: SessionStore) -> None:
    """SQLite keeps anything in any column: such a row stays, and the others go."""
    fill(memory, 1_000, 1_001)
    broken = sa.text("UPDATE sessions SET expires_at = 'never' WHERE purge_at = 1000")
    memory.database.run(lambda connection: connection.execute(broken))
    assert purge_batch(memory.database, NOW, 10) == Batch(2, 1, 1_001)
    assert purge_batch(memory.database, NOW, 10).seen == 0
    assert left(memory) == [0]


def test_rows_are_found_by_the_index(memory: SessionStore) -> None:
    """Neither purging nor counting reads the table as a whole."""
    plans: list[str] = []

    def note(connection: Any, cursor: Any, text: str, values: Any, *rest: Any) -> None:
        if text.startswith("SELECT"):
            cursor.execute(f"EXPLAIN QUERY PLAN {text}", values)
            plans.append(str(cursor.fetchall()))

    fill(memory, 1_000)
    sa.event.listen(memory.engine, "before_cursor_execute", note)
    count_expired(memory.database, NOW)
    purge_batch(memory.database, NOW, 10, since=1_000)
    assert 2 == len(plans)
    assert all("USING INDEX ix_sessions_purge_at" in plan for plan in plans)


# With others.


def test_rows_that_others_delete_are_skipped(
    server_uri: str, make_store: MakeStore
) -> None:
    """A batch takes the next rows, and waits for nobody; what the others left after
    all goes later.
    """
    store, other = make_store(server_uri), make_store(server_uri)
    fill(store, *range(1_000, 1_006))
    with locked(other, 0, 1, 3):
        start = time.monotonic()
        assert purge_batch(store.database, NOW, 2).deleted == 2
        assert [1] == deleted(purge(store.database, NOW, batch=2))
        assert 2 > time.monotonic() - start
    assert left(store) == [0, 1, 3]
    assert purge_batch(store.database, NOW, 10).deleted == 3


def test_no_two_purges_delete_the_same_row(
    shared_database_uri: str, make_store: MakeStore
) -> None:
    """Four at once delete every row, and each row is told of once."""
    count = 120
    told: list[Event] = []
    stores = [make_store(shared_database_uri) for _ in range(4)]
    fill(stores[0], *(1_000 + number % 7 for number in range(count)))

    def work(store: SessionStore) -> int:
        count = 0
        while number := purge_batch(store.database, NOW, 5, told.append).deleted:
            count += number
        return count

    assert sum(at_once([partial(work, store) for store in stores])) == count
    assert sorted(numbers(told)) == list(range(count))
    assert left(stores[0]) == []


def test_a_row_that_is_purged_cannot_be_refreshed(
    server_uri: str, make_store: MakeStore
) -> None:
    """A slow request, to whose clock the session had not expired, finds it gone."""
    store, other = make_store(server_uri), make_store(server_uri)
    fill(store, NOW)
    used = session(0, NOW + 900)._replace(last_used_at=NOW - 1)
    touched: list[bool] = []
    with locked(other, 0) as connection:
        touch = threading.Thread(
            target=lambda: touched.append(store.touch(used, NOW - 1))
        )
        touch.start()
        touch.join(0.2)
        assert touch.is_alive()
        connection.execute(sa.delete(other.table))
    touch.join()
    assert touched == [False]
    assert left(store) == []


def test_a_row_that_is_refreshed_is_not_purged(
    server_uri: str, make_store: MakeStore
) -> None:
    """A purge leaves a row that a request is moving on, and does not wait for it."""
    store, other = make_store(server_uri), make_store(server_uri)
    fill(store, NOW, NOW)
    moved = sa.update(other.table).values(expires_at=NOW + 900)
    with locked(other, 0) as connection:
        connection.execute(moved.where(other.table.c.id == session(0, 0).id))
        assert purge_batch(store.database, NOW, 10) == Batch(1, 1, NOW)
    assert purge_batch(store.database, NOW, 10) == Batch(1, 0, NOW)
    assert left(store) == [0]


@pytest.mark.parametrize(
    ("name", "version", "mariadb", "can"),
    [
        ("sqlite", (3, 45), None, False),
        ("postgresql", (15, 2), None, True),
        ("mysql", (10, 5, 9), True, False),
        ("mysql", (10, 6), True, True),
        ("mariadb", (11, 4, 2), True, True),
        ("mysql", (5, 7, 44), False, False),
        ("mysql", (8, 0, 0), False, False),
        ("mysql", (8, 0, 1), False, True),
        ("mysql", None, False, False),
    ],
)
def test_rows_are_skipped_where_the_database_can(
    name: str, version: tuple[int, ...] | None, mariadb: bool | None, can: bool
) -> None:
    """SKIP LOCKED is only asked of servers that have it."""
    dialect = SimpleNamespace(name=name, server_version_info=version)
    if mariadb is not None:
        dialect.is_mariadb = mariadb
    assert can is purging._can_skip(dialect)  # type: ignore[arg-type]


@pytest.mark.parametrize("others", [3, 60])
def test_what_is_locked_delays_no_purge(
    server_uri: str, make_store: MakeStore, others: int
) -> None:
    """Neither a live session that is being written nor an expired one that is being
    deleted is waited for, in a table of any size.
    """
    store, other = make_store(server_uri), make_store(server_uri)
    fill(store, 1_000, NOW + 900, *range(1_001, 1_001 + others))
    with locked(other, 0, 1):
        start = time.monotonic()
        assert purge_batch(store.database, NOW, 100).deleted == others
        assert 2 > time.monotonic() - start
    assert left(store) == [0, 1]


@pytest.mark.parametrize("others", [3, 60])
def test_nobody_waits_for_what_lives_on(
    server_uri: str, make_store: MakeStore, others: int
) -> None:
    """The rows of a batch that live on are noted by one statement, however many: who
    uses one of them waits for no more. Nor does it wait for rows that others have
    locked, are changing or have just stored, in a table of any size.
    """
    store, other = make_store(server_uri), make_store(server_uri)
    fill(store, *range(1_000, 1_002 + others))
    which = range(2, 2 + others)
    move_on(store, *which)
    written: list[object] = []

    def note(connection: Any, cursor: Any, text: str, *rest: Any) -> None:
        if text.startswith("UPDATE"):
            written.append(rest[-1])

    sa.event.listen(store.engine, "before_cursor_execute", note)
    columns, new = other.table.c, session(999, NOW + 900)
    with locked(other, 0, 1) as connection:
        changed = sa.update(other.table).where(columns.id == session(1, 0).id)
        connection.execute(changed.values(expires_at=NOW + 900))
        connection.execute(sa.insert(other.table), {**new._asdict(), "purge_at": NOW})
        start = time.monotonic()
        assert purge_batch(store.database, NOW, 100)[:2] == (others, 0)
        assert 2 > time.monotonic() - start
    assert written == [False]  # not many at once
    assert looks(store) == [1_000, 1_001, *[NOW + 900] * others, NOW]


def test_a_large_batch_is_noted_in_parts(store: SessionStore) -> None:
    """More rows than one statement takes get their time all the same, each its own, and
    no other row does.
    """
    count = 2 * purging.BATCH + 1
    ends = range(900, 901 + count)
    fill(store, *ends)
    later = sa.update(store.table).values(expires_at=store.table.c.purge_at + 5_000)
    store.database.run(lambda connection: connection.execute(later))
    assert purge_batch(store.database, NOW, count).seen == count
    assert looks(store) == [*(end + 5_000 for end in ends[:-1]), ends[-1]]


# Now and then.


def due(clock: Clock, interval: int = 60) -> Purger:
    """A purger whose time has come."""
    purger = Purger(interval)
    purger.is_due()
    clock.now += interval
    assert purger.is_due()
    return purger


def test_the_first_time_comes_within_an_interval(clock: Clock) -> None:
    """At a random time in the first interval, so that workers do not come together."""
    purger = Purger(60)
    assert not purger.is_due()
    clock.now += 29
    assert not purger.is_due()
    clock.now += 1
    assert purger.is_due()


def test_the_interval_goes_from_one_time_to_the_next(
    clock: Clock, memory: SessionStore
) -> None:
    """Expired rows are deleted once in an interval."""
    purger = due(clock)
    fill(memory, 1_000, NOW + 1)
    purger.run(memory.database)
    assert left(memory) == [1]
    memory.insert(session(2, 1_000))
    clock.now += 59
    purger.run(memory.database)
    assert left(memory) == [1, 2]
    clock.now += 1
    purger.run(memory.database)
    assert left(memory) == [1]


def test_no_interval_is_never(clock: Clock, memory: SessionStore) -> None:
    """0 turns it off."""
    purger = Purger(0)
    fill(memory, 1_000)
    for _ in range(3):
        assert not purger.is_due()
        purger.run(memory.database)
        clock.now += 1_000_000
    assert left(memory) == [0]


def test_it_goes_on_while_there_are_more(
    clock: Clock, memory: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred rows at most at once, and no waiting if there were as many."""
    purger = due(clock)
    fill(memory, *range(1_000, 1_230))
    with caplog.at_level(logging.INFO):
        for count in (130, 30, 0):
            assert purger.is_due()
            purger.run(memory.database)
            assert len(left(memory)) == count
    assert not purger.is_due()
    found = [r.getMessage() for r in caplog.records if r.name == purging.__name__]
    assert [f"Deleted {n} expired sessions." for n in (100, 100, 30)] == found


def test_it_goes_on_behind_sessions_that_live(
    clock: Clock, memory: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A hundred at which it looked in vain are not the last ones, and no news."""
    purger = due(clock)
    fill(memory, *range(1_000, 1_101))
    move_on(memory, *range(100))
    with caplog.at_level(logging.INFO):
        purger.run(memory.database)
        assert [] == [r for r in caplog.records if r.name == purging.__name__]
    assert purger.is_due()
    purger.run(memory.database)
    assert not purger.is_due()
    assert left(memory) == list(range(100))


def test_one_thread_at_a_time(clock: Clock, memory: SessionStore) -> None:
    """While one thread is at it, another one leaves at once."""
    purger = due(clock)
    fill(memory, *range(1_000, 1_150))
    events: list[Event] = []

    def tell(event: Event) -> None:
        if not events:
            other = threading.Thread(target=purger.run, args=[memory.database])
            other.start()
            other.join()
        events.append(event)

    purger.run(memory.database, tell)
    assert len(events) == 100
    assert len(left(memory)) == 50


def test_a_forked_process_has_its_own_time(
    clock: Clock, memory: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was forked off in the midst of it does its share all the same."""
    purger = due(clock)
    fill(memory, 1_000)
    with purger._lock:
        child = SimpleNamespace(getpid=lambda: -1)
        monkeypatch.setattr(purging, "os", child)
        assert not purger.is_due()
        clock.now += 30
        purger.run(memory.database)
    assert left(memory) == []


def test_a_locked_file_is_left_for_the_next_time(
    clock: Clock,
    make_database: MakeDatabase,
    make_store: MakeStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where somebody writes to the SQLite file, it neither waits nor complains."""
    uri = make_database("sqlite-file")
    store = make_store(uri)
    fill(store, 1_000)
    purger = due(clock)
    start = time.monotonic()
    with locked_file(uri):
        purger.run(store.database)
    assert 1 > time.monotonic() - start
    assert [] == [r for r in caplog.records if r.levelno > logging.INFO]
    assert left(store) == [0]
    assert not purger.is_due()
    clock.now += 60
    purger.run(store.database)
    assert left(store) == []


def test_a_database_that_is_gone_breaks_nothing(
    clock: Clock, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so in the log, and tries again an interval later."""
    store = make_store("postgresql+psycopg://nobody@127.0.0.1:1/none")
    purger = due(clock)
    purger.run(store.database)
    assert "cannot be used" in caplog.text
    assert not purger.is_due()
    clock.now += 60
    assert purger.is_due()


def test_whatever_fails_breaks_nothing(
    clock: Clock, memory: SessionStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of any kind goes to the log, and not to the server."""
    purger = due(clock)
    fill(memory, 1_000)

    def tell(event: Event) -> None:
        raise ZeroDivisionError

    purger.run(memory.database, tell)
    assert "Deleting expired sessions failed." in caplog.text
    assert not purger.is_due()
    clock.now += 60
    purger.run(memory.database)
