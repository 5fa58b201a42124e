from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql.config import SessionConfig
from flask_sessionsql.exceptions import UnreadableSessionError
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.saving.planning import (
    Change,
    Clear,
    Empty,
    Insert,
    Keep,
    Plan,
    Replace,
    SessionRecord,
    Stale,
    Touch,
    Update,
    Use,
)
from flask_sessionsql.saving.records import Outcome, SessionRecords
from flask_sessionsql.sessions import EXPIRY_KEY
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.store import SessionStore, StoredSession
from flask_sessionsql.storage.tables import sessions_table

NOW = 1_900_000_000
SECRETS = ["a key"]


@pytest.fixture
def records() -> Iterator[SessionRecords]:
    engine = sessions_engine(sa.create_engine("sqlite://"))
    store = SessionStore(engine, sessions_table(sa.MetaData(), "sessions"))
    yield SessionRecords(SessionConfig(), lambda: store, MsgpackSerializer())
    store.dispose()


def plan(
    records: SessionRecords,
    record: SessionRecord | None,
    data: dict[str, Any],
    now: int = NOW,
    cleared: bool = False,
) -> Plan:
    return records.planner.plan(
        Use(now, SECRETS), record, data, empty=not data, cleared=cleared
    )


def save(
    records: SessionRecords, record: SessionRecord | None, data: dict[str, Any]
) -> SessionRecord:
    outcome = records.execute(plan(records, record, data))
    assert outcome.record is not None
    return outcome.record


def decoded(records: SessionRecords, data: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: records.decode(value) for key, value in data.items()}


def find(records: SessionRecords, token: str) -> tuple[SessionRecord, dict[Any, Any]]:
    """What a token opens, decoded."""
    found = records.find(SECRETS, token, NOW)
    assert found is not None
    return found[0], decoded(records, found[1])


def test_a_plan_for_nothing_does_nothing(records: SessionRecords) -> None:
    """Executing it gives back what was loaded."""
    record = save(records, None, {"a": 1})
    outcome = records.execute(plan(records, record, {"a": 1}))
    assert outcome == Outcome(record, {"a": 1})


def test_what_is_stored_is_found(records: SessionRecords) -> None:
    """By its token, and with the data."""
    record = save(records, None, {"a": 1})
    assert find(records, record.token) == (record, {"a": 1})


def test_a_move_whose_answer_was_lost_is_recognised(
    records: SessionRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was moved to the new token, the connection broke before the answer, and
    the second try finds nothing to move: it is not mistaken for a logout.
    """
    record = save(records, None, {"a": 1})
    update = SessionStore.update

    def update_twice(*arguments: Any, **options: Any) -> bool:
        assert update(*arguments, **options)
        return update(*arguments, **options)

    monkeypatch.setattr(SessionStore, "update", update_twice)
    moved = save(records, record, {"a": 1, "_user_id": "ann"})
    assert moved.token != record.token
    assert moved.row.user_id == "ann"
    assert find(records, moved.token) == (moved, {"a": 1, "_user_id": "ann"})


def test_a_change_whose_answer_was_lost_is_recognised(
    records: SessionRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second try that finds its own first one writes no more."""
    record = save(records, None, {"a": 1})
    update = SessionStore.update
    calls = []

    def update_twice(*arguments: Any, **options: Any) -> bool:
        calls.append(update(*arguments, **options))
        return update(*arguments, **options)

    monkeypatch.setattr(SessionStore, "update", update_twice)
    assert save(records, record, {"a": 2}).row.version == 2
    assert calls == [True]


def test_a_session_that_others_change_while_it_is_merged_to_nothing(
    records: SessionRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides deleted what was left, but before that is stored somebody adds a
    key: the addition is kept.
    """
    record = save(records, None, {"a": 1, "b": 1})
    mine = plan(records, record, {"b": 1})
    save(records, record, {"a": 1})
    delete = SessionStore.delete
    additions = [{"a": 1, "c": 1}]

    def delete_late(store: SessionStore, *arguments: Any, **options: Any) -> bool:
        if additions:
            found = records.find(SECRETS, record.token, NOW)
            assert found is not None
            save(records, found[0], additions.pop())
        return delete(store, *arguments, **options)

    monkeypatch.setattr(SessionStore, "delete", delete_late)
    assert decoded(records, records.execute(mine).data) == {"c": 1}


def test_what_was_merged_is_what_a_reader_would_store(records: SessionRecords) -> None:
    """After a merge, a request that changes nothing finds nothing to write, also if
    the session's permanence is set.
    """
    record = save(records, None, {"a": 1, "_permanent": False})
    mine = plan(records, record, {"a": 1, "b": 1, "_permanent": False})
    save(records, record, {"a": 2, "_permanent": False})
    assert list(records.execute(mine).data) == ["a", "b", "_permanent"]
    expected = {"a": 2, "b": 1, "_permanent": False}
    assert find(records, record.token)[1] == expected


def test_data_may_come_as_any_buffer(records: SessionRecords) -> None:
    """Some drivers give memoryviews for binary columns."""
    record = save(records, None, {"a": 1})
    load = records.store.load

    class Driver:
        def load(self, *arguments: Any) -> StoredSession | None:
            row = load(*arguments)
            assert row is not None
            return row._replace(data=memoryview(row.data))  # type: ignore[arg-type]

    records.store = Driver()  # type: ignore[assignment]
    found = find(records, record.token)
    assert found[1] == {"a": 1}
    assert records.planner.differs(found[0], {"a": 1}) is False


def test_what_differs(records: SessionRecords) -> None:
    """Whether there is anything to save, told by the bytes."""
    record = save(records, None, {"a": 1})
    assert records.planner.differs(None, {}) is False
    assert records.planner.differs(None, {"a": 1}) is True
    assert records.planner.differs(record, {"a": 1}) is False
    assert records.planner.differs(record, {"a": True}) is True
    assert records.planner.differs(record, {"a": object()}) is True


def test_a_row_whose_data_cannot_be_bytes(records: SessionRecords) -> None:
    """Text where bytes belong is unreadable, whatever it says."""
    record = save(records, None, {"a": 1})
    broken = record.row._replace(data="text")  # type: ignore[arg-type]
    with pytest.raises(UnreadableSessionError, match="of type str"):
        records.readable(broken, SECRETS)


def test_a_row_does_not_show_its_data(records: SessionRecords) -> None:
    """They end in error reports."""
    record = save(records, None, {"a": "secret"})
    assert f"<StoredSession {record.row.handle!r}>" == repr(record.row)


def test_without_a_key_nothing_is_read(records: SessionRecords) -> None:
    """And the error says what is missing."""
    record = save(records, None, {"a": 1})
    with pytest.raises(UnreadableSessionError, match="SECRET_KEY"):
        records.readable(record.row, [])


def test_an_end_that_is_no_time_is_unreadable(records: SessionRecords) -> None:
    """Somebody has written to the row."""
    record = save(records, None, {"a": 1})
    data = MsgpackSerializer().dumps({EXPIRY_KEY: "soon"})
    with pytest.raises(UnreadableSessionError, match="not a number"):
        records.data(record.row._replace(data=data))


def test_an_end_beyond_all_calendars_is_as_good_as_their_last(
    records: SessionRecords,
) -> None:
    """Nothing fails that shows it."""
    record = save(records, None, {"a": 1})
    data = MsgpackSerializer().dumps({EXPIRY_KEY: 10**12})
    found = records.data(record.row._replace(data=data))
    assert datetime.fromtimestamp(found[EXPIRY_KEY], UTC).year == 9999


def test_what_holds_a_token_is_no_sequence() -> None:
    """Reporters of errors take lists and tuples apart, whatever their repr says."""
    row = StoredSession(b"id", "f00d", None, b"data", 1, NOW, NOW + 1)
    record = SessionRecord("token", row)
    use, change = Use(NOW, SECRETS), Change(record, {}, Use(NOW, SECRETS))
    plans = (
        Keep(record, {}),
        Insert(record, {}, use),
        Touch(record, record, {}, use),
        Update(record, record, {}, change),
        Empty(record, change),
        Replace(record, record, {}, use),
        Clear(record, use),
    )
    for each in (record, Stale("token", 1), use, change, Outcome(record, {}), *plans):
        assert not isinstance(each, Sequence)
