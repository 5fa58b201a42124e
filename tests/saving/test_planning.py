"""What saving a session comes to: decided without any database."""

from __future__ import annotations

from typing import Any

import pytest

from flask_sessionsql import SessionTooLargeError, SessionValueError
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.formats.tokens import line_ids, row_id
from flask_sessionsql.saving.planning import (
    Change,
    Clear,
    Client,
    Empty,
    Insert,
    Keep,
    Plan,
    Planner,
    Replace,
    Secrets,
    SessionRecord,
    Stale,
    Touch,
    Update,
    Use,
)
from flask_sessionsql.sessions import EXPIRY_KEY, PERMANENT_KEY
from flask_sessionsql.storage.store import StoredSession

NOW = 1_900_000_000
DAY = 24 * 3600
SECRETS: Secrets = ["new", "old"]
TOKEN = "k2bS0dmVqQZtCz8WnKxP5g" + "its-line-012" + "its-seal-012"
VISITOR = Client("192.0.2.1", "Lynx")

dumps = MsgpackSerializer().dumps


def planner(**settings: Any) -> Planner:
    return Planner(SessionConfig(**settings), MsgpackSerializer())


def record_of(
    data: dict[str, Any], *, is_current: bool = True, **columns: Any
) -> SessionRecord:
    """A stored session that was used now."""
    row = StoredSession(
        id=row_id(SECRETS[0] if is_current else SECRETS[1], TOKEN),
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
        Use(now, SECRETS, lambda: VISITOR),
        record,
        data,
        empty=not data,
        cleared=cleared,
        rotates=rotates,
    )


def target_of(*arguments: Any, **options: Any) -> SessionRecord:
    """What is to be stored, where something is."""
    plan = plan_of(*arguments, **options)
    assert isinstance(plan, (Insert, Touch, Update, Replace))
    return plan.target


# What is to be done.


def test_each_action() -> None:
    """What was loaded, and what was made of it, decide."""
    record, later = record_of({"a": 1}), NOW + DAY
    assert type(plan_of(None, {})) is Keep
    assert type(plan_of(None, {}, cleared=True)) is Keep
    assert type(plan_of(None, {"a": 1})) is Insert
    assert type(plan_of(None, {"a": 1}, cleared=True)) is Insert
    assert type(plan_of(record, {"a": 1})) is Keep
    assert type(plan_of(record, {"a": 1}, now=later)) is Touch
    assert type(plan_of(record, {"a": 2})) is Update
    assert type(plan_of(record, {"a": 1}, rotates=True)) is Update
    assert type(plan_of(record, {"a": 1}, cleared=True)) is Replace
    assert type(plan_of(record, {})) is Empty
    assert type(plan_of(record, {}, cleared=True)) is Clear


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
    assert (row.id, row.previous_id) == (row_id(SECRETS[0], target.token), None)
    assert (row.user_id, row.version) == ("5", 1)
    assert (row.created_at, row.expires_at) == (NOW, NOW + 10 * DAY)
    assert (row.last_used_at, row.address, row.user_agent) == (NOW, *VISITOR)
    assert target.is_current


def test_a_session_that_was_ended_begins_anew() -> None:
    """Nothing of it stays but the place that it moves away from."""
    record = record_of({"a": 1})
    target = target_of(record, {"a": 1}, cleared=True)
    row = target.row
    assert target.token != TOKEN
    assert row.handle != record.row.handle
    assert row.created_at == NOW
    assert [row.previous_id] == line_ids(SECRETS[:1], TOKEN)


# Which token and which key.


def test_an_earlier_key_gives_way_when_something_is_written() -> None:
    """The token stays, and the row moves to where the current key has it."""
    record = record_of({"a": 1}, is_current=False)
    assert type(plan_of(record, {"a": 1})) is Keep
    target = target_of(record, {"a": 2})
    assert (target.token, target.is_current) == (TOKEN, True)
    assert target.row.id == row_id(SECRETS[0], TOKEN) != record.row.id
    assert [target.row.previous_id] == line_ids(SECRETS[:1], TOKEN)


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
    assert [target.row.previous_id] == (
        line_ids(SECRETS[:1], TOKEN) if moves else [None]
    )
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
    plan = plan_of(record, {"a": 1, "b": 2}, by, rotates=True)
    assert isinstance(plan, Update)
    theirs = {"a": 3}
    again = by.again(plan, record_of(theirs, version=8), theirs)
    assert isinstance(again, Update)
    assert again.target.row.data == dumps({"a": 3, "b": 2})
    assert again.target.token == plan.target.token != TOKEN
    assert again.target.row.id == row_id(SECRETS[0], plan.target.token)


# After another request has written the row.


def after(plan: Plan, theirs: dict[Any, Any]) -> Plan:
    """The plan that follows if another request has stored ``theirs``."""
    assert isinstance(plan, (Update, Empty, Replace, Clear))
    record = record_of(theirs, version=8)
    return planner().again(plan, record, MsgpackSerializer().split(record.row.data))


def test_changes_of_two_requests_are_merged() -> None:
    """And where both together are what is stored already, nothing is written."""
    record = record_of({"a": 1, "b": 1})
    mine = plan_of(record, {"a": 1, "b": 2})
    again = after(mine, {"a": 2, "b": 1})
    assert isinstance(again, Update)
    assert again.is_merged
    assert again.target.row.data == dumps({"a": 2, "b": 2})
    assert again.target.row.version == 9
    assert type(after(mine, {"a": 1, "b": 2})) is Keep


def test_a_session_that_both_requests_empty() -> None:
    """It is deleted, unless another key has come in meanwhile."""
    record = record_of({"a": 1, "b": 1})
    assert type(after(plan_of(record, {"a": 1}), {"b": 1})) is Empty
    emptied = plan_of(record, {})
    assert type(after(emptied, {"a": 1})) is Empty
    kept = after(emptied, {"a": 1, "b": 1, "c": 1})
    assert isinstance(kept, Update)
    assert kept.target.row.data == dumps({"c": 1})


def test_a_new_token_is_moved_to_although_the_data_are_there_already() -> None:
    """The application has asked for it."""
    record = record_of({"a": 1})
    mine = plan_of(record, {"a": 2}, rotates=True)
    again = after(mine, {"a": 2})
    assert isinstance(again, Update)
    assert again.target.token != TOKEN
    emptied = after(plan_of(record, {}, rotates=True), {"a": 1, "b": 1})
    assert isinstance(emptied, Update)
    assert emptied.target.token != TOKEN


def test_an_end_takes_no_heed_of_others() -> None:
    """session.clear() ends what is there, whatever that is."""
    record = record_of({"a": 1})
    for mine in (
        plan_of(record, {}, cleared=True),
        plan_of(record, {"new": 1}, cleared=True),
    ):
        again = after(mine, {"a": 2, "b": 1})
        assert type(again) is type(mine)
        assert isinstance(again, (Replace, Clear))
        assert again.record.row.version == 8


def test_what_is_left_alone_is_a_session_of_its_own() -> None:
    """With a token and a handle that nothing had before, in the same line."""
    plan = plan_of(record_of({"a": 1}), {"a": 2})
    assert isinstance(plan, Update)
    alone = planner().alone(plan)
    token = alone.target.token
    assert token not in (plan.target.token, TOKEN)
    assert line_ids(SECRETS, token) == line_ids(SECRETS, TOKEN)
    assert alone.target.row.id == row_id(SECRETS[0], token)
    assert alone.target.row.version == 1
    assert alone.target.row.handle != plan.target.row.handle
    assert alone.data == {"a": 2}


def test_another_user_key_moves_no_token() -> None:
    """The column follows ``SESSION_USER_KEY``, with the next change or without one."""
    by = planner(user_key="member")
    record = record_of({"member": "ann"}, user_id=None)
    assert type(plan_of(record, {"member": "ann"}, by)) is Update
    for data in ({"member": "ann"}, {"member": "ann", "a": 1}):
        target = target_of(record, data, by)
        assert (target.token, target.row.user_id) == (TOKEN, "ann")
        assert target.row.created_at == record.row.created_at


# When it ends.


def test_the_end_moves_on_by_steps() -> None:
    """A use within the interval writes nothing, and the end moves with the first one
    after it.
    """
    by, record = planner(lifetime=31 * DAY, refresh_interval=60), record_of({"a": 1})
    assert type(plan_of(record, {"a": 1}, by, now=NOW + 59)) is Keep
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
    assert type(plan_of(record, {"a": 1}, by, now=NOW + DAY)) is Keep
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
    assert type(plan_of(record, {"a": 1})) is Keep


def test_no_interval_still_means_a_second() -> None:
    """Two requests in one second write one use."""
    by, record = planner(refresh_interval=0), record_of({"a": 1})
    assert type(plan_of(record, {"a": 1}, by)) is Keep
    assert type(plan_of(record, {"a": 1}, by, now=NOW + 1)) is Touch


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
    assert type(plan_of(record, {"a": foreign}, by)) is Keep
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
    assert type(plan_of(record, shrunk, by)) is Update
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
    assert type(plan_of(there, {"_user_id": name})) is Keep
    assert target_of(there, {"a": 1}).token == TOKEN


def test_the_longest_name_of_a_user() -> None:
    """255 characters, each of any length in bytes."""
    assert target_of(None, {"_user_id": "😀" * 255}).row.user_id == "😀" * 255


def test_no_repr_shows_a_token_or_data() -> None:
    """Records and plans can be logged."""
    record = record_of({"a": "secret"})
    assert repr(record) == "<SessionRecord '0123456789abcdef'>"
    assert repr(Stale(TOKEN, 5)) == "<Stale at 5>"
    secret = Use(NOW, ["hush"], lambda: VISITOR)
    for data, cleared in (({"a": "secret too"}, False), ({"a": 1}, True), ({}, True)):
        plan = plan_of(record, data, cleared=cleared)
        shown = repr((plan, Change(record, data, secret), secret))
        for hidden in (TOKEN, "secret too", "hush", "192.0.2.1"):
            assert hidden not in shown
