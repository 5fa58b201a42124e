"""What saving a session comes to: decided without any database."""

from __future__ import annotations

from typing import Any

import pytest

from flask_sessionsql import SessionTooLargeError, SessionValueError
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.formats.tokens import row_id
from flask_sessionsql.saving.planning import (
    Action,
    Client,
    Keys,
    Plan,
    Planner,
    SessionRecord,
    Stale,
)
from flask_sessionsql.sessions import EXPIRY_KEY, PERMANENT_KEY
from flask_sessionsql.storage.store import StoredSession

NOW = 1_900_000_000
DAY = 24 * 3600
KEYS: Keys = ["new", "old"]
TOKEN = "k2bS0dmVqQZtCz8WnKxP5g"
VISITOR = Client("192.0.2.1", "Lynx")

dumps = MsgpackSerializer().dumps


def planner(**settings: Any) -> Planner:
    return Planner(SessionConfig(**settings), MsgpackSerializer())


def record_of(
    data: dict[str, Any], *, is_current: bool = True, **columns: Any
) -> SessionRecord:
    """A stored session that was used now."""
    row = StoredSession(
        id=row_id(KEYS[0] if is_current else KEYS[1], TOKEN),
        handle="0123456789abcdef",
        user_id=data.get("_user_id"),
        data=dumps(data),
        version=7,
        created_at=NOW - 5 * DAY,
        expires_at=NOW + 31 * DAY,
        last_used_at=NOW,
    )
    return SessionRecord(TOKEN, row._replace(**columns), is_current)


def plan_of(
    record: SessionRecord | None,
    data: dict[Any, Any],
    by: Planner | None = None,
    *,
    now: int = NOW,
    cleared: bool = False,
    rotates: bool = False,
) -> Plan:
    return (by or planner()).plan(
        KEYS,
        record,
        data,
        empty=not data,
        cleared=cleared,
        now=now,
        rotates=rotates,
        client=lambda: VISITOR,
    )


def target_of(*arguments: Any, **options: Any) -> SessionRecord:
    """What is to be stored, where something is."""
    target = plan_of(*arguments, **options).target
    assert target is not None
    return target


# What is to be done.


def test_each_action() -> None:
    """What was loaded, and what was made of it, decide."""
    record, later = record_of({"a": 1}), NOW + DAY
    assert plan_of(None, {}).action is Action.NOTHING
    assert plan_of(None, {"a": 1}).action is Action.INSERT
    assert plan_of(record, {"a": 1}).action is Action.NOTHING
    assert plan_of(record, {"a": 1}, now=later).action is Action.TOUCH
    assert plan_of(record, {"a": 2}).action is Action.UPDATE
    assert plan_of(record, {"a": 1}, cleared=True).action is Action.UPDATE
    assert plan_of(record, {"a": 1}, rotates=True).action is Action.UPDATE
    assert plan_of(record, {}).action is Action.DELETE


def test_an_update_keeps_what_was_loaded() -> None:
    """It is under the same token and in the same place, one version on."""
    record = record_of({"a": 1})
    target = target_of(record, {"a": 2})
    assert (target.token, target.is_current) == (TOKEN, True)
    assert target.row == record.row._replace(
        data=dumps({"a": 2}), version=8, address="192.0.2.1", user_agent="Lynx"
    )


def test_a_new_session() -> None:
    """It has a new token, is under the current key and ends by the settings."""
    target = target_of(None, {"a": 1, "_user_id": 5}, planner(lifetime=10 * DAY))
    row = target.row
    assert (row.id, row.previous_id) == (row_id(KEYS[0], target.token), None)
    assert (row.user_id, row.version) == ("5", 1)
    assert (row.created_at, row.expires_at) == (NOW, NOW + 10 * DAY)
    assert (row.last_used_at, row.address, row.user_agent) == (NOW, *VISITOR)
    assert target.is_current


def test_a_session_that_was_ended_begins_anew() -> None:
    """Nothing of it stays but the place that it moves away from."""
    record = record_of({"a": 1})
    plan = plan_of(record, {"a": 1}, cleared=True)
    assert plan.replaces
    assert plan.target is not None
    row = plan.target.row
    assert plan.target.token != TOKEN
    assert row.handle != record.row.handle
    assert row.created_at == NOW
    assert row.previous_id == record.row.id


# Which token and which key.


def test_an_earlier_key_gives_way_when_something_is_written() -> None:
    """The token stays, and the row moves to where the current key has it."""
    record = record_of({"a": 1}, is_current=False)
    assert plan_of(record, {"a": 1}).action is Action.NOTHING
    target = target_of(record, {"a": 2})
    assert (target.token, target.is_current) == (TOKEN, True)
    assert target.row.id == row_id(KEYS[0], TOKEN) != record.row.id
    assert target.row.previous_id == record.row.id


def test_a_touch_leaves_an_earlier_key() -> None:
    """It writes the row where it stands."""
    record = record_of({"a": 1}, is_current=False)
    target = target_of(record, {"a": 1}, now=NOW + DAY)
    assert target.is_current is False
    assert target.row.id == record.row.id


@pytest.mark.parametrize(
    ("before", "after", "moves"),
    [
        ({}, {"_user_id": "ann"}, True),
        ({"_user_id": "ann"}, {"a": 1}, True),
        ({"_user_id": "ann"}, {"_user_id": "bob"}, True),
        ({"_user_id": "ann"}, {"_user_id": "ann", "a": 1}, False),
        ({"_user_id": ""}, {"_user_id": False}, False),
        ({"_user_id": None}, {"a": 1}, False),
        ({"a": 1}, {"_user_id": ""}, False),
    ],
)
def test_another_user_has_another_token(
    before: dict[str, Any], after: dict[str, Any], moves: bool
) -> None:
    """A login, a logout and a change of user do; what names nobody does not."""
    record = record_of(before, user_id=before.get("_user_id") or None)
    target = target_of(record, after)
    assert (target.token != TOKEN) is moves
    assert target.row.previous_id == (record.row.id if moves else None)
    assert target.row.user_id == (after.get("_user_id") or None)
    assert target.row.handle == record.row.handle


def test_the_absolute_lifetime_begins_with_a_login() -> None:
    """And with no other change."""
    record = record_of({"a": 1})
    assert target_of(record, {"_user_id": "ann"}).row.created_at == NOW
    assert target_of(record, {"a": 2}).row.created_at == record.row.created_at
    ann = record_of({"_user_id": "ann"})
    assert target_of(ann, {"_user_id": "bob"}).row.created_at == ann.row.created_at


def test_a_token_that_was_made_already_is_used() -> None:
    """As when the change is merged into another one after the response was made."""
    record, by = record_of({"a": 1}), planner()
    plan = plan_of(record, {"a": 2}, by, rotates=True)
    again = by.changed(KEYS, plan, record, {"a": 3}, dumps({"a": 3}), "made already")
    assert again.token == "made already"
    assert again.row.id == row_id(KEYS[0], "made already")


def test_another_user_key_moves_no_token() -> None:
    """The column follows ``SESSION_USER_KEY``, with the next change or without one."""
    by = planner(user_key="member")
    record = record_of({"member": "ann"}, user_id=None)
    same = plan_of(record, {"member": "ann"}, by)
    assert same.action is Action.UPDATE
    for target in (same.target, plan_of(record, {"member": "ann", "a": 1}, by).target):
        assert target is not None
        assert (target.token, target.row.user_id) == (TOKEN, "ann")
        assert target.row.created_at == record.row.created_at


# When it ends.


def test_the_end_moves_on_by_steps() -> None:
    """A use within the interval writes nothing, and the end moves with the first one
    after it.
    """
    by, record = planner(lifetime=31 * DAY, refresh_interval=60), record_of({"a": 1})
    assert plan_of(record, {"a": 1}, by, now=NOW + 59).action is Action.NOTHING
    target = target_of(record, {"a": 1}, by, now=NOW + 60)
    assert target.row == record.row._replace(
        expires_at=NOW + 60 + 31 * DAY,
        last_used_at=NOW + 60,
        address="192.0.2.1",
        user_agent="Lynx",
    )
    # A change within the interval keeps the end, so the cookie stays too.
    changed = target_of(record, {"a": 2}, by, now=NOW + 59)
    assert changed.row.expires_at == record.row.expires_at


def test_without_refreshing_only_a_change_moves_the_end() -> None:
    """``SESSION_REFRESH_EACH_REQUEST`` off."""
    by, record = planner(refresh_each_request=False), record_of({"a": 1})
    assert plan_of(record, {"a": 1}, by, now=NOW + DAY).action is Action.NOTHING
    changed = target_of(record, {"a": 2}, by, now=NOW + DAY)
    assert changed.row.expires_at == NOW + 32 * DAY


def test_a_use_is_noted_where_the_end_is_set() -> None:
    """An end that the application has set does not move, and a touch never draws one
    nearer.
    """
    data, by = {"a": 1, EXPIRY_KEY: NOW + 100}, planner(refresh_interval=10)
    record = record_of(data, expires_at=NOW + 100)
    target = target_of(record, data, by, now=NOW + 10)
    assert (target.row.expires_at, target.row.last_used_at) == (NOW + 100, NOW + 10)
    further = record_of(data, expires_at=NOW + 200)
    assert target_of(further, data, by, now=NOW + 10).row.expires_at == NOW + 200


def test_a_use_that_was_never_noted_is_not_due() -> None:
    """Rows that another version wrote may lack it."""
    record = record_of({"a": 1}, last_used_at=None)
    assert plan_of(record, {"a": 1}).action is Action.NOTHING


def test_no_interval_still_means_a_second() -> None:
    """Two requests in one second write one use."""
    by, record = planner(refresh_interval=0), record_of({"a": 1})
    assert plan_of(record, {"a": 1}, by).action is Action.NOTHING
    assert plan_of(record, {"a": 1}, by, now=NOW + 1).action is Action.TOUCH


def test_the_nearest_end_holds() -> None:
    """The idle one, the absolute one and the one that the application has set."""
    by = planner(lifetime=10 * DAY, absolute_lifetime=8 * DAY)
    record = record_of({"a": 1})  # five days old
    for data, expected in (
        ({"a": 2}, NOW + 3 * DAY),
        ({"a": 2, EXPIRY_KEY: NOW + DAY}, NOW + DAY),
        ({"a": 2, EXPIRY_KEY: NOW + 9 * DAY}, NOW + 3 * DAY),
    ):
        assert target_of(record, data, by).row.expires_at == expected
    assert target_of(None, {"a": 2}, by).row.expires_at == NOW + 8 * DAY


def test_only_the_idle_end_may_lag() -> None:
    """The absolute one, and the one that is set, hold to the second."""
    by = planner(lifetime=10 * DAY, absolute_lifetime=8 * DAY, refresh_interval=60)
    record = record_of({"a": 1}, expires_at=NOW + 3 * DAY - 5)
    assert target_of(record, {"a": 2}, by).row.expires_at == NOW + 3 * DAY
    record = record_of({"a": 1}, expires_at=NOW + 100)
    data = {"a": 2, EXPIRY_KEY: NOW + 105}
    assert target_of(record, data, by).row.expires_at == NOW + 105


# What cannot be stored.


def test_what_cannot_be_kept_is_refused() -> None:
    """Unless it was loaded so, and is left as it was."""

    class Tolerant(MsgpackSerializer):
        """Reads what it does not write, as a row of another version."""

        def loads(self, payload: bytes) -> dict[Any, Any]:
            return {"a": foreign}

    foreign = object()
    by, record = Planner(SessionConfig(), Tolerant()), record_of({"a": 1})
    assert plan_of(record, {"a": foreign}, by).action is Action.NOTHING
    for loaded, data in ((record, {"a": object()}), (None, {"a": foreign})):
        with pytest.raises(SessionValueError):
            plan_of(loaded, data, by)


def test_a_session_that_is_too_large() -> None:
    """The error names the five largest keys, and none of the package's own. What is
    too large already may stay so, and shrink.
    """
    by = planner(max_bytes=1_024)
    data: dict[str, Any] = {str(size): "x" * size for size in range(100, 700, 100)}
    data[PERMANENT_KEY] = False
    with pytest.raises(SessionTooLargeError) as caught:
        plan_of(None, data, by)
    assert caught.value.size == len(dumps(data))
    assert caught.value.limit == 1_024
    keys = [key for key, _ in caught.value.largest]
    assert keys == ["600", "500", "400", "300", "200"]
    sizes = dict(by.sizes(data))
    assert sizes["100"] == len(dumps({"100": "x" * 100})) - len(dumps({}))

    record = record_of(data)
    shrunk = {key: value for key, value in data.items() if key != "100"}
    assert plan_of(record, shrunk, by).action is Action.UPDATE
    with pytest.raises(SessionTooLargeError) as caught:
        plan_of(None, {"a": "x" * 1_024, PERMANENT_KEY: False}, by)
    assert [key for key, _ in caught.value.largest] == ["a"]
    with pytest.raises(SessionTooLargeError):
        plan_of(record, data | {"more": 1}, by)


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "\ud800"])
def test_what_is_no_name_of_a_user(name: str) -> None:
    """It is refused where it is written, and names nobody where it stands already."""
    for loaded in (None, record_of({"a": 1})):
        with pytest.raises(SessionValueError, match="SESSION_USER_KEY"):
            plan_of(loaded, {"_user_id": name})
    there = record_of({"_user_id": name}, user_id=None)
    assert plan_of(there, {"_user_id": name}).action is Action.NOTHING
    assert target_of(there, {"a": 1}).token == TOKEN


def test_the_longest_name_of_a_user() -> None:
    """255 characters, each of any length in bytes."""
    assert target_of(None, {"_user_id": "😀" * 255}).row.user_id == "😀" * 255


def test_no_repr_shows_a_token_or_data() -> None:
    """Records and plans can be logged."""
    record = record_of({"a": "secret"})
    plan = plan_of(record, {"a": "secret too"})
    assert repr(record) == "<SessionRecord '0123456789abcdef'>"
    assert repr(plan) == "<Plan UPDATE>"
    assert repr(Stale(TOKEN, 5)) == "<Stale at 5>"
