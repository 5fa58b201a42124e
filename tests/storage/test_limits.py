"""How many sessions a user may have at once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql import (
    SessionLimitError,
    SessionStoreUnavailableError,
)
from flask_sessionsql.storage import limits
from flask_sessionsql.storage.limits import UserLimit, _users_turn
from flask_sessionsql.storage.store import SessionStore
from tests.conftest import MakeDatabase
from tests.helpers import at_once, on, run_together
from tests.storage.helpers import (
    KEPT,
    assert_nothing_locked,
    handles,
    kill_connections,
    make_store,
    row_of,
)

NOW = 1_500


@pytest.fixture
def kept_table() -> str:
    return KEPT


@pytest.fixture
def store(database_uri: str) -> Iterator[SessionStore]:
    store = make_store(database_uri, KEPT)
    yield store
    assert_no_lock_is_held(store)
    store.dispose()


@pytest.fixture
def shared_store(shared_database_uri: str) -> Iterator[SessionStore]:
    store = make_store(shared_database_uri, KEPT)
    yield store
    assert_no_lock_is_held(store)
    store.dispose()


def assert_no_lock_is_held(store: SessionStore) -> None:
    """Neither a user's nor a transaction's, by a connection in the pool."""
    assert_nothing_locked(store)
    if store.engine.dialect.name in ("postgresql", "mysql"):
        other = sa.create_engine(store.engine.url)
        with other.connect() as connection:
            if other.dialect.name == "mysql":
                with _users_turn(connection, store.table, "ann"):
                    pass  # fails if it is not free in time
            else:
                statement = (
                    "SELECT count(*) FROM pg_locks JOIN pg_database d"
                    " ON d.oid = database AND d.datname = current_database()"
                    " WHERE locktype = 'advisory'"
                )
                assert connection.scalar(sa.text(statement)) == 0
        other.dispose()


def ends(most: int, **others: Any) -> UserLimit:
    return UserLimit(most, False, NOW, **others)


def refuses(most: int) -> UserLimit:
    return UserLimit(most, True, NOW)


# What a login does.


def test_the_session_that_began_first_is_ended(store: SessionStore) -> None:
    """By a login that is one too many: neither the one used longest ago, nor the one
    that logs in, whatever its age; its handle is told.
    """
    for number in (3, 2, 4):
        limit = ends(3)
        store.insert(row_of(number, last_used_at=2_000 - number), limit)
        assert limit.ended == []
    limit = ends(3)
    store.insert(row_of(1), limit)
    assert [1, 3, 4] == handles(store)
    assert limit.ended == [f"{2:016x}"]


def test_of_two_that_began_together_the_one_used_last_stays(
    store: SessionStore,
) -> None:
    """Ties are broken by the last use."""
    store.insert(row_of(2, created_at=1_000, last_used_at=1_003))
    store.insert(row_of(3, created_at=1_000, last_used_at=1_002))
    store.insert(row_of(4), ends(2))
    assert [2, 4] == handles(store)


def test_a_lower_limit_ends_as_many_as_are_too_many(store: SessionStore) -> None:
    """At the next login: down to the one that logs in, where one is allowed."""
    for number in range(1, 6):
        store.insert(row_of(number))
    limit = ends(3)
    store.insert(row_of(6), limit)
    assert [4, 5, 6] == handles(store)
    assert limit.ended == [f"{n:016x}" for n in (1, 2, 3)]
    store.insert(row_of(7), ends(1))
    assert [7] == handles(store)


def test_another_one_is_refused(store: SessionStore) -> None:
    """Where the limit refuses, what was to be written is not, new or moved, and all
    the others are as they were.
    """
    anonymous = row_of(9, None)
    store.insert(anonymous)
    for number in (1, 2):
        store.insert(row_of(number), refuses(2))
    with pytest.raises(SessionLimitError) as caught:
        store.insert(row_of(3), refuses(2))
    assert caught.value.limit == 2
    assert_no_lock_is_held(store)
    with pytest.raises(SessionLimitError):
        store.update(row_of(3), anonymous, NOW, refuses(2))
    assert_no_lock_is_held(store)
    assert [1, 2, 9] == handles(store)
    found = store.load(anonymous.id, NOW)
    assert found is not None
    assert (found.user_id, found.version) == (None, 1)
    store.delete(row_of(1).id)
    assert store.update(row_of(3), anonymous, NOW, refuses(2)) is True
    assert [2, 3] == handles(store)


def test_a_session_that_becomes_a_users_counts(store: SessionStore) -> None:
    """A login that moves a session ends the oldest other one, once it has moved; one
    that another request was quicker to change ends nothing yet.
    """
    anonymous = row_of(1, None)
    store.insert(anonymous)
    store.insert(row_of(2))
    limit = ends(1)
    overtaken = anonymous._replace(version=7)
    assert store.update(row_of(3), overtaken, NOW, limit) is False
    assert [1, 2] == handles(store)
    assert limit.ended == []
    assert store.update(row_of(3), anonymous, NOW, limit) is True
    assert [3] == handles(store)
    assert limit.ended == [f"{2:016x}"]


@pytest.mark.parametrize("make", [ends, refuses])
def test_only_live_sessions_of_the_same_user_count(
    store: SessionStore, make: Callable[[int], UserLimit]
) -> None:
    """Not those that have expired, nor those of users with a similar name."""
    users = ["Ann", "ann ", "änn", "bob", None]
    for number, user in enumerate(users):
        store.insert(row_of(number, user))
    store.insert(row_of(10, expires_at=NOW))
    store.insert(row_of(11), make(1))
    assert [*range(len(users)), 10, 11] == handles(store)


@pytest.mark.parametrize("refuse", [False, True], ids=["ends", "refuses"])
def test_what_has_had_its_absolute_lifetime_does_not_count(
    store: SessionStore, refuse: bool
) -> None:
    """A row that is never served again, although its end is to come, keeps nobody
    out.
    """
    store.insert(row_of(1))
    store.insert(row_of(2), UserLimit(1, refuse, NOW, outlived=1_001))
    assert [1, 2] == handles(store)
    with pytest.raises(SessionLimitError):
        store.insert(row_of(3), UserLimit(1, True, NOW, outlived=1_001))


# At the same time.


def test_a_session_that_moves_meanwhile_is_ended(shared_store: SessionStore) -> None:
    """One that another request moves to a new token, just when it is to be ended to
    make room, does not get away.
    """
    store = shared_store
    old, moved = row_of(1), row_of(2, handle=f"{1:016x}", created_at=1_001)
    store.insert(old)
    other = make_store(store.engine.url.render_as_string(False), KEPT)
    results: list[bool] = []
    thread = threading.Thread(
        target=lambda: results.append(other.update(moved, old, NOW))
    )

    def move(*arguments: Any) -> None:
        statement = arguments[2]
        looks = statement.startswith("SELECT") and "created_at" in statement
        if looks and thread.ident is None:
            thread.start()
            thread.join(0.2)  # gets through, or waits for us

    sa.event.listen(store.engine, "after_cursor_execute", move)
    limit = ends(1)
    store.insert(row_of(3), limit)
    thread.join(20)
    other.dispose()
    assert [3] == handles(store)
    assert limit.ended == [old.handle]
    assert len(results) == 1


def test_a_login_waits_for_another_one_of_its_user(shared_store: SessionStore) -> None:
    """One that comes when another has counted and is not done counts that one, too."""
    store = shared_store
    other = make_store(store.engine.url.render_as_string(False), KEPT)
    results: list[object] = []

    def log_in() -> None:
        try:
            results.append(other.insert(row_of(2), refuses(1)))
        except SessionLimitError as error:
            results.append(error.limit)

    thread = threading.Thread(target=log_in)

    def meanwhile(*arguments: Any) -> None:
        if arguments[2] == "COMMIT" and thread.ident is None:
            thread.start()
            thread.join(0.2)  # gets through, or waits for us

    sa.event.listen(store.engine, "before_cursor_execute", meanwhile)
    other.load(row_of(2).id, NOW)
    store.insert(row_of(1), refuses(1))
    thread.join(20)
    other.dispose()
    assert results == [1]
    assert [1] == handles(store)


@pytest.mark.parametrize("refuse", [False, True], ids=["ends", "refuses"])
def test_12_logins_at_once_keep_the_limit(store: SessionStore, refuse: bool) -> None:
    """In threads: three of them are logged in, neither more nor less, half of them
    with a session that they had before.
    """
    before = [row_of(100 + number, None) for number in range(6)]
    for row in before:
        store.insert(row)

    def login(number: int) -> Callable[[], Any]:
        limit = UserLimit(3, refuse, NOW)
        if number < len(before):
            return lambda: store.update(row_of(number), before[number], NOW, limit)
        return lambda: store.insert(row_of(number), limit)

    results = at_once([login(number) for number in range(12)])
    refused = [each for each in results if isinstance(each, SessionLimitError)]
    assert len(refused) == (9 if refuse else 0)
    assert results.count(True) == 12 - len(refused)
    assert len([number for number in handles(store) if number < 100]) == 3


LOGINS = """
import sys
from functools import partial
from flask_sessionsql import SessionLimitError
from flask_sessionsql.storage.limits import UserLimit
from tests.helpers import at_once
from tests.storage.helpers import KEPT, make_store, row_of

store = make_store(sys.argv[1], KEPT)
first = int(sys.argv[2])

def login(number):
    for user, refuses in (("ann", False), ("bob", True)):
        row = row_of(number + 100 * refuses, user)
        try:
            store.insert(row, UserLimit(3, refuses, 1_500))
        except SessionLimitError:
            print("refused")

store.load(b"0" * 32, 0)
print("ready", flush=True)
sys.stdin.readline()
assert [None] * 6 == at_once([partial(login, first + n) for n in range(6)])
"""


def test_logins_in_many_processes_keep_the_limit(shared_store: SessionStore) -> None:
    """Twelve logins of one user in two processes, under either policy."""
    shared_store.load(b"0" * 32, 0)  # creates the table
    url = shared_store.engine.url.render_as_string(False)
    command = [sys.executable, "-c", LOGINS, url]
    output = "".join(run_together([[*command, "0"], [*command, "6"]]))
    assert 9 == output.count("refused")
    numbers = handles(shared_store)
    assert len([number for number in numbers if number < 100]) == 3
    assert len([number for number in numbers if number >= 100]) == 3


# What goes wrong.


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
@pytest.mark.parametrize("at", ["INSERT", "DELETE", "COMMIT"])
def test_a_lost_connection_neither_loses_nor_doubles_a_login(
    make_database: MakeDatabase, backend: str, at: str
) -> None:
    """Before and while the oldest session is ended, and when all is done: the login is
    stored once, and the limit holds. The lock goes with the connection.
    """
    store = make_store(make_database(backend), KEPT)
    store.insert(row_of(1))
    store.insert(row_of(2))
    lost = 0

    @sa.event.listens_for(store.engine, "before_cursor_execute")
    def lose(*arguments: Any) -> None:
        nonlocal lost
        if not lost and arguments[2].startswith(at):
            lost += 1
            kill_connections(store)

    limit = ends(2)
    assert store.insert(row_of(3), limit) is True
    assert lost == 1
    assert [2, 3] == handles(store)
    assert limit.ended == [f"{1:016x}"]
    assert_no_lock_is_held(store)
    store.dispose()


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_a_login_whose_answer_is_lost_is_stored_once(
    make_database: MakeDatabase, backend: str
) -> None:
    """Committed, and the connection lost before that was known: the second try finds
    the row, and ends nothing more.
    """
    store = make_store(make_database(backend), KEPT)
    store.insert(row_of(1))
    lost = 0

    @sa.event.listens_for(store.engine, "after_cursor_execute")
    def lose(*arguments: Any) -> None:
        nonlocal lost
        if not lost and arguments[2] == "COMMIT":
            lost += 1
            kill_connections(store)
            # Finds out, as the one who waits for the answer does.
            arguments[1].execute("SELECT 1")

    try:
        assert store.insert(row_of(3), ends(1)) is True
    finally:
        assert [3] == handles(store)
        store.dispose()
    assert lost == 1


@pytest.mark.mariadb
def test_a_users_lock_that_is_never_free_is_a_503(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On MariaDB a login waits for others of the same user, and not for ever; other
    users' logins wait for nobody.
    """
    monkeypatch.setattr("flask_sessionsql.storage.limits.PATIENCE", 1)
    store = make_store(make_database("mariadb"), KEPT)
    store.insert(row_of(1, "bob"))
    with (
        store.engine.connect() as connection,
        _users_turn(connection, store.table, "ann"),
    ):
        begun = time.perf_counter()
        with pytest.raises(SessionStoreUnavailableError) as caught:
            store.insert(row_of(2), ends(1))
        assert time.perf_counter() - begun < 5
        assert "1 seconds" in caught.value.reason
        store.insert(row_of(3, "bob"), ends(1))
    store.insert(row_of(2), ends(1))
    assert [2, 3] == handles(store)
    assert_no_lock_is_held(store)
    store.dispose()


@pytest.mark.mariadb
def test_a_lock_that_cannot_be_given_back_goes_with_its_connection(
    make_database: MakeDatabase,
) -> None:
    """An error of ``RELEASE_LOCK`` hides no other, and keeps no user out."""
    store = make_store(make_database("mariadb"), KEPT)
    store.database.provide_table()

    @sa.event.listens_for(store.engine, "before_cursor_execute")
    def fail(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "release_lock" in statement:
            raise sa.exc.OperationalError(statement, {}, Exception("interrupted"))

    with (
        pytest.raises(ZeroDivisionError),
        store.engine.connect() as connection,
        _users_turn(connection, store.table, "ann"),
    ):
        raise ZeroDivisionError
    sa.event.remove(store.engine, "before_cursor_execute", fail)
    assert_no_lock_is_held(store)
    store.dispose()


@pytest.mark.mariadb
def test_databases_of_one_server_have_locks_of_their_own(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of another application with the same name is waited for by nobody."""
    monkeypatch.setattr("flask_sessionsql.storage.limits.PATIENCE", 0)
    ours = sa.create_engine(make_database("mariadb"))
    theirs = sa.create_engine(ours.url.set(database="information_schema"))
    table = sa.Table("sessions", sa.MetaData())
    with (
        ours.connect() as one,
        theirs.connect() as other,
        ours.connect() as third,
        _users_turn(one, table, "ann"),
        _users_turn(other, table, "ann"),
        pytest.raises(SessionStoreUnavailableError),
        _users_turn(third, table, "ann"),
    ):
        raise AssertionError("the lock is held")
    ours.dispose()
    theirs.dispose()


def test_an_error_gives_the_lock_back(store: SessionStore) -> None:
    """An insert that the table refuses leaves neither a lock nor a transaction."""
    store.insert(row_of(1))
    broken: Any = {"data": None}
    with pytest.raises(sa.exc.IntegrityError):
        store.insert(row_of(2, **broken), ends(1))
    assert_no_lock_is_held(store)
    assert [1] == handles(store)


def test_a_look_that_finds_nothing_is_not_the_only_one(
    store: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that moves meanwhile can escape one look of InnoDB's: the first is
    followed by another.
    """
    real, looks = limits._make_room, [0]

    def miss_once(*arguments: Any) -> list[str]:
        looks[0] += 1
        return [] if looks[0] == 1 else real(*arguments)

    monkeypatch.setattr(limits, "_make_room", miss_once)
    store.insert(row_of(1))
    store.insert(row_of(2), ends(1))
    assert [2] == handles(store)
