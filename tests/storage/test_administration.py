"""The sessions of all users: lists and ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from flask_sessionsql import SessionEnded
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.signals import Event
from flask_sessionsql.storage.administration import (
    SessionAdministration,
    SessionInfo,
    SessionStats,
)
from flask_sessionsql.storage.store import SessionStore
from tests.helpers import Clock
from tests.storage.helpers import KEPT, ROW, handles, make_store, row_of

#: Users that a database may take for each other, and are not.
USERS = [
    "ann",
    "Ann",
    "ANN",
    "ann ",
    " ann",
    "ann\t",
    "änn",
    "a\u0308nn",
    "ann'",
    "%",
    "5",
    "05",
    "é" * 255,
    "é" * 254 + "è",
    "🦀" * 255,
]


@pytest.fixture
def kept_table() -> str:
    return KEPT


@pytest.fixture
def clock(clock: Clock) -> Clock:
    """It is 1,500."""
    clock.now = 1_500.9
    return clock


@pytest.fixture
def store(database_uri: str, clock: Clock) -> Iterator[SessionStore]:
    store = make_store(database_uri, KEPT)
    yield store
    store.dispose()


class Rooms(SessionAdministration):
    """A registry that keeps what it told."""

    def __init__(self, store: SessionStore, **config: Any) -> None:
        self.told: list[Event] = []
        settings = SessionConfig.from_mapping(config)
        super().__init__(settings, store.database, self.told.append)

    def listed(self, user_id: object) -> list[int]:
        found = self.of_user(user_id, current=None)
        return [int(each.handle, 16) for each in found]


@pytest.fixture
def registry(store: SessionStore) -> Rooms:
    return Rooms(store)


# Lists.


def test_a_list_says_of_each_session_what_users_need(
    store: SessionStore, registry: Rooms
) -> None:
    """Handle, user, times, address, browser, label, size, and which one is this
    request's; the one used last first. It has nothing that opens a session.
    """
    used: Any = {
        "last_used_at": 1_450,
        "address": "192.0.2.7",
        "user_agent": "Lynx/2.9",
        "label": "Work laptop",
    }
    store.insert(row_of(1, data=b"12345", **used))
    store.insert(row_of(2))
    expected = SessionInfo(
        handle=f"{1:016x}",
        user_id="ann",
        created_at=datetime.fromtimestamp(1_001, UTC),
        last_used_at=datetime.fromtimestamp(1_450, UTC),
        expires_at=datetime.fromtimestamp(2_000, UTC),
        address="192.0.2.7",
        user_agent="Lynx/2.9",
        label="Work laptop",
        size=5,
    )
    found = registry.of_user("ann", current=None)
    assert expected == found[0]
    assert [1, 2] == [int(each.handle, 16) for each in found]
    assert found[1].address is found[1].user_agent is found[1].label is None
    found = registry.of_user("ann", current=f"{1:016x}")
    assert [True, False] == [each.current for each in found]
    assert replace(expected, current=True) == found[0]


def test_a_row_from_before_the_column_was_used_when_it_began(
    store: SessionStore, registry: Rooms
) -> None:
    """A row without a last use is listed where it belongs."""
    store.insert(row_of(1))
    store.insert(row_of(2, last_used_at=None))
    store.insert(row_of(3))
    assert [3, 2, 1] == registry.listed("ann")
    found = registry.of_user("ann", current=None)
    assert datetime.fromtimestamp(1_002, UTC) == found[1].last_used_at


def test_a_list_has_live_sessions_of_one_user(
    store: SessionStore, registry: Rooms, clock: Clock
) -> None:
    """No expired ones, no outlived ones, none of others, none of nobody."""
    store.insert(row_of(1))
    store.insert(row_of(2, expires_at=1_501))
    store.insert(row_of(3, expires_at=1_500))
    store.insert(row_of(4, "bob"))
    store.insert(row_of(5, None))
    assert [2, 1] == registry.listed("ann")
    lasting = Rooms(store, SESSION_ABSOLUTE_LIFETIME=499)
    assert [2] == lasting.listed("ann")
    clock.now = 1_501
    assert [1] == registry.listed("ann")
    assert [] == lasting.listed("ann")


def test_users_are_told_apart(store: SessionStore, registry: Rooms) -> None:
    """By case, accents, spaces and every one of 255 characters; each finds and ends
    only what is theirs.
    """
    for number, user in enumerate(USERS):
        store.insert(row_of(number, user))
    for number, user in enumerate(USERS):
        assert [number] == registry.listed(user)
    assert [USERS.index("5")] == registry.listed(5)
    for number, user in enumerate(USERS):
        others = list(range(number + 1, len(USERS)))
        assert registry.revoke(f"{number:016x}", USERS[number - 1]) is False
        assert registry.revoke_user(user) == 1
        assert others == handles(store)


@pytest.mark.parametrize("user", [None, ""])
def test_nobody_is_nobodys_user(
    store: SessionStore, registry: Rooms, user: object
) -> None:
    """Who is not logged in neither lists nor ends what is of others who are not: the
    error says what to give.
    """
    store.insert(row_of(1, None))
    expected = r"names nobody.*session\[SESSION_USER_KEY\].*revoke_all\(\)"
    with pytest.raises(ValueError, match=expected):
        registry.of_user(user, current=None)
    with pytest.raises(ValueError, match=expected):
        registry.revoke_user(user)
    with pytest.raises(ValueError, match=expected):
        registry.revoke(f"{1:016x}", user)
    assert [1] == handles(store)


def test_a_user_of_flask_login_is_taken_by_its_id(
    store: SessionStore, registry: Rooms
) -> None:
    """The user itself does as well as its get_id(); nobody's is nobody."""

    class User:
        def __init__(self, name: str | None) -> None:
            self.name = name

        def get_id(self) -> str | None:
            return self.name

    store.insert(row_of(1))
    assert [1] == registry.listed(User("ann"))
    with pytest.raises(ValueError, match="names nobody"):
        registry.revoke_user(User(None))
    assert registry.revoke_user(User("ann")) == 1


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 5_000, "☂🦀", "%", "'"])
def test_a_hostile_name_names_nothing(
    store: SessionStore, registry: Rooms, text: str
) -> None:
    """A handle or a user from a form is anything at all, and then there is none."""
    store.insert(row_of(1))
    assert registry.revoke(text) is False
    assert registry.revoke(f"{1:016x}", text) is False
    assert registry.revoke_user(text) == 0
    assert [] == registry.of_user(text, current=None)
    assert registry.row(text) is None
    assert [1] == handles(store)


def test_all_live_sessions(store: SessionStore, registry: Rooms) -> None:
    """Everybody's, the one that ends last first; as many as are asked for."""
    for number in range(1, 5):
        store.insert(row_of(number, None, expires_at=1_498 + number))
    found = [int(each.handle, 16) for each in registry.all()]
    assert [4, 3] == found
    assert [4] == [int(each.handle, 16) for each in registry.all(limit=1)]


def test_a_live_row_by_its_handle(store: SessionStore, registry: Rooms) -> None:
    """With all its columns; none where it has expired."""
    row = row_of(1, address="::1", user_agent="Lynx", previous_id=b"p" * 32, label="L")
    store.insert(row)
    store.insert(row_of(2, expires_at=1_500))
    assert row == registry.row(row.handle)
    assert registry.row(f"{2:016x}") is None
    assert registry.row(ROW.handle) is None


def test_statistics(store: SessionStore, registry: Rooms) -> None:
    """Live, logged in, users, expired, bytes; nothing but zeros of an empty table."""
    assert SessionStats(0, 0, 0, 0, 0, 0) == registry.stats()
    store.insert(row_of(1, data=b"1"))
    store.insert(row_of(2, data=b"12345"))
    store.insert(row_of(3, "bob"))
    store.insert(row_of(4, None))
    store.insert(row_of(5, "eve", expires_at=1_500))
    assert SessionStats(4, 3, 2, 1, 12, 5) == registry.stats()


# Ends.


def test_one_is_ended_by_its_handle(store: SessionStore, registry: Rooms) -> None:
    """Once, and nothing else is; the ones who listen are told once."""
    for number in range(1, 4):
        store.insert(row_of(number))
    assert registry.revoke(f"{2:016x}") is True
    assert [1, 3] == handles(store)
    assert registry.revoke(f"{2:016x}") is False
    assert [SessionEnded(f"{2:016x}", "ann", "revoked")] == registry.told


def test_one_is_ended_only_if_it_is_the_users(
    store: SessionStore, registry: Rooms
) -> None:
    """The handle of somebody else's session ends nothing."""
    store.insert(row_of(1, "bob"))
    store.insert(row_of(2, None))
    for number in (1, 2):
        assert registry.revoke(f"{number:016x}", "ann") is False
    assert [1, 2] == handles(store)
    assert [] == registry.told
    assert registry.revoke(f"{1:016x}", "bob") is True
    assert [2] == handles(store)


def test_all_of_a_user_are_ended_but_one(store: SessionStore, registry: Rooms) -> None:
    """All of the user's, or all but the one that is to stay; none of others."""
    for number in range(1, 5):
        store.insert(row_of(number))
    store.insert(row_of(5, "bob"))
    assert registry.revoke_user("ann", keep=f"{3:016x}") == 3
    assert [3, 5] == handles(store)
    assert registry.revoke_user("ann") == 1
    assert registry.revoke_user("ann") == 0
    assert [5] == handles(store)
    assert ["revoked"] * 4 == [getattr(event, "reason", "") for event in registry.told]
    assert {f"{n:016x}" for n in range(1, 5)} == {each.handle for each in registry.told}


def test_all_are_ended_in_batches(
    store: SessionStore, registry: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody's and nobody's, expired ones and those that begin in the future,
    however many there are; each is told of once.
    """
    monkeypatch.setattr("flask_sessionsql.storage.administration.BATCH", 3)
    for number in range(10):
        store.insert(row_of(number, None if number % 2 else "ann"))
    store.insert(row_of(10, expires_at=1_100))
    store.insert(row_of(11, created_at=1_530))  # by a clock that is ahead of ours
    later: Any = {"created_at": 1_000_000, "expires_at": 2_000_000}
    store.insert(row_of(12, **later))  # as it can be written into the table
    assert registry.revoke_all() == 13
    assert [] == handles(store)
    assert sorted(f"{n:016x}" for n in range(13)) == sorted(
        str(each.handle) for each in registry.told
    )
    assert registry.revoke_all() == 0


def test_ending_all_ends(
    store: SessionStore, registry: Rooms, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Sessions that begin while all are ended do not keep it going for ever."""
    store.insert(row_of(1))
    begun = list(range(100, 90, -1))

    def tell(event: Event) -> None:
        if begun:
            clock.now += 1_000
            number = begun.pop()
            later: Any = {
                "created_at": int(clock.now),
                "expires_at": int(clock.now) + 60,
            }
            store.insert(row_of(number, **later))

    assert (
        SessionAdministration(SessionConfig(), store.database, tell).revoke_all() == 1
    )
    assert len(begun) == 9


def test_a_look_that_finds_nothing_is_not_the_only_one(
    store: SessionStore, registry: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that moves meanwhile can escape one look of InnoDB's: the first is
    followed by another.
    """
    real, looks = registry._sweep, [0]

    def miss_once(where: Any, wait: bool) -> int:
        looks[0] += 1
        return 0 if looks[0] == 1 else real(where, wait)

    monkeypatch.setattr(registry, "_sweep", miss_once)
    row = row_of(1)
    store.insert(row)
    assert registry.revoke(row.handle) is True
    assert [] == handles(store)
