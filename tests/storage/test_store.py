"""The rows: one method, one statement."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.purging import purge_batch
from flask_sessionsql.storage.store import MovedSession, SessionStore, StoredSession
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeDatabase
from tests.helpers import statements_on, wait_until
from tests.storage.helpers import KEPT, ROW, make_store, row_of


@pytest.fixture
def kept_table() -> str:
    return KEPT


@pytest.fixture
def store(database_uri: str) -> Iterator[SessionStore]:
    store = make_store(database_uri, KEPT)
    yield store
    store.dispose()


def used(until: int, at: int) -> StoredSession:
    """The row, used at a time, and so ending at another."""
    return ROW._replace(expires_at=until, last_used_at=at)


@pytest.fixture
def stored(store: SessionStore) -> SessionStore:
    store.insert(ROW)
    return store


def test_a_row_comes_back_as_it_was_stored(stored: SessionStore) -> None:
    """What is inserted is loaded, every column of it."""
    assert ROW == stored.load(ROW.id, now=1_500)


def whole(store: SessionStore) -> list[StoredSession]:
    """All rows, with the columns that are written and not loaded."""
    columns = [store.table.c[name] for name in StoredSession._fields]
    with store.engine.connect() as connection:
        found = connection.execute(sa.select(*columns).order_by(store.table.c.id))
        return [StoredSession(*row) for row in found]


def test_every_column_is_written(store: SessionStore) -> None:
    """An insert, an update, a touch and a move write what the row has, and what it was
    used with and whose it is; only a move writes where it was before and when it began.
    """
    row = row_of(1, address="192.0.2.1", user_agent="Käfer/1 ☂", previous_id=b"p" * 32)
    row = row._replace(label="Käfer ☂")
    store.insert(row)
    assert [row] == whole(store)
    other = row_of(
        2,
        "bob",
        data=b"new",
        address="2001:db8::1",
        user_agent=None,
        previous_id=row.id,
        expires_at=2_500,
        label="\N{BEETLE}" * 255,
    )
    assert store.update(other._replace(id=row.id), row, now=1_500) is True
    row = other._replace(
        id=row.id,
        handle=row.handle,
        user_id="bob",
        version=2,
        created_at=row.created_at,
        previous_id=b"p" * 32,
    )
    assert [row] == whole(store)
    used_again = row._replace(expires_at=2_600, last_used_at=1_600, address="::1")
    assert store.touch(used_again._replace(data=b"no"), now=1_600) is True
    assert [used_again] == whole(store)
    used_again = used_again._replace(label=None)
    assert store.update(other, used_again, now=1_600) is True
    assert [other._replace(version=3)] == whole(store)


def test_an_update_moves_the_end_back_only_if_it_means_to(store: SessionStore) -> None:
    """A request that used the session later has moved its end on: that stays, unless
    the end is to be before the one that was loaded.
    """
    loaded = row_of(1)
    store.insert(loaded)
    later = loaded._replace(expires_at=loaded.expires_at + 500, last_used_at=1_501)
    assert store.touch(later, now=1_501) is True
    assert store.update(loaded._replace(data=b"new"), loaded, now=1_502) is True
    assert [later.expires_at] == [row.expires_at for row in whole(store)]
    back = whole(store)[0]._replace(expires_at=later.expires_at - 1)
    assert store.update(back, back._replace(expires_at=later.expires_at), now=1_503)
    assert [back.expires_at] == [row.expires_at for row in whole(store)]


def looks(store: SessionStore) -> list[int]:
    """When the purge looks at the rows."""
    with store.engine.connect() as connection:
        return list(connection.scalars(sa.select(store.table.c.purge_at)))


def test_the_purge_looks_at_a_row_at_its_first_end(store: SessionStore) -> None:
    """An insert says when; no use of the session, change or move of it does, as long as
    its end moves on.
    """
    row = row_of(1)
    store.insert(row)
    assert looks(store) == [2_000]
    used = row._replace(expires_at=2_500, last_used_at=1_500)
    assert store.touch(used, now=1_500) is True
    for changed in (
        used._replace(data=b"new", version=2),
        used._replace(expires_at=2_600, version=3),
        used._replace(expires_at=2_700, user_id="bob", version=4),
        used._replace(expires_at=2_800, id=b"n" * 32, version=5),
    ):
        assert store.update(changed, used, now=1_600) is True
        used = changed
        assert looks(store) == [2_000]


def test_an_end_that_moves_back_is_the_purges(store: SessionStore) -> None:
    """A session that is to end sooner is purged when it ends, and not when it would
    have ended.
    """
    row = row_of(1)
    store.insert(row)
    assert store.update(row._replace(expires_at=1_700), row, now=1_500) is True
    assert looks(store) == [1_700]
    assert purge_batch(store.database, 1_699, 10).seen == 0
    assert purge_batch(store.database, 1_700, 10).deleted == 1
    assert whole(store) == []


def test_usual_writes_name_no_column_with_an_index(store: SessionStore) -> None:
    """SQLite writes an index whenever a statement names its column."""
    row = row_of(1)
    store.insert(row)
    later = row._replace(expires_at=2_500, last_used_at=1_500)
    back = later._replace(version=2)
    with statements_on(store.engine) as statements:
        assert store.touch(later, now=1_500) is True
        assert store.update(later._replace(data=b"new"), later, now=1_500) is True
        assert store.update(later._replace(expires_at=2_600), back, now=1_500) is True
    named = {
        name
        for text in statements
        for name in re.findall(r"(\w+)\s*=", text.partition(" WHERE ")[0])
    }
    assert len(statements) == 3
    assert {"data", "expires_at"} <= named
    indexed = {column.name for i in store.table.indexes for column in i.columns}
    assert not named & {"id", *indexed}


@pytest.mark.postgresql
def test_usual_writes_write_no_index_on_postgresql(make_database: MakeDatabase) -> None:
    """Where the end of a session moves, too, the new row stays in the page and in the
    indexes of the old one: a heap-only tuple.
    """
    store = make_store(make_database("postgresql"), KEPT)

    def updates() -> tuple[int, int]:
        with store.engine.connect() as connection:
            found = connection.execute(
                sa.text(
                    "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
                    " WHERE relname = :name"
                ),
                {"name": KEPT},
            ).one()
            return found[0], found[1]

    row = row_of(1)
    store.insert(row)
    all_before, hot_before = updates()
    for number in range(1, 9):
        later = row._replace(expires_at=row.expires_at + 100, last_used_at=number)
        if number % 2:
            assert store.update(later, row, now=1_500) is True
            row = later._replace(version=row.version + 1)
        else:
            row = later._replace(last_used_at=1_500 + number)
            assert store.touch(row, now=1_500) is True
    # The server counts with a delay of a second.
    wait_until(lambda: updates()[0] - all_before >= 8)
    found = updates()
    store.dispose()
    assert (8, 8) == (found[0] - all_before, found[1] - hot_before)


def test_who_comes_late_is_known(store: SessionStore) -> None:
    """By the line of a live row that has moved, if that row was used since."""
    row = row_of(1, "ann", previous_id=b"p" * 32, last_used_at=1_100)
    store.insert(row)
    late, found = [b"x" * 32, b"p" * 32], [MovedSession(row.id, row.handle, "ann")]
    assert found == store.moved(late, 1_100, since=1_099)
    assert [] == store.moved(late, 1_100, since=1_100)
    assert found == store.moved(late, 1_999, since=1_099)
    assert [] == store.moved(late, 2_000, since=1_099)
    assert [] == store.moved([b"x" * 32, row.id], 1_100, since=0)


def test_nothing_there_is_not_an_error(store: SessionStore) -> None:
    """A key without a row gives None to load and False to those that write."""
    assert store.load(ROW.id, now=0) is None
    assert store.update(ROW, ROW, now=0) is False
    assert store.touch(used(3_000, at=0), now=0) is False
    assert store.delete(ROW.id) is False


def test_an_expired_row_is_not_there(stored: SessionStore) -> None:
    """From the second in which it expires, a row is neither served nor changed."""
    assert stored.load(ROW.id, now=1_999) is not None
    assert stored.load(ROW.id, now=2_000) is None
    assert stored.update(ROW._replace(data=b"x"), ROW, now=2_000) is False
    assert stored.touch(used(9_000, at=2_000), now=2_000) is False


def test_an_update_counts_the_version_up(stored: SessionStore) -> None:
    """An update changes data and end, and the version becomes one more."""
    changed = ROW._replace(data=b"\x01\x81", expires_at=2_500, version=77)
    assert stored.update(changed, ROW, now=1_500) is True
    assert changed._replace(version=2) == stored.load(ROW.id, now=1_500)


def test_only_one_of_two_updates_of_a_version_succeeds(stored: SessionStore) -> None:
    """Who loaded a version that is no longer there changes nothing."""
    assert stored.update(ROW._replace(data=b"first"), ROW, now=1_500) is True
    assert stored.update(ROW._replace(data=b"second"), ROW, now=1_500) is False
    row = stored.load(ROW.id, now=1_500)
    assert row is not None
    assert row.data == b"first"


def test_a_row_moves_to_another_key(stored: SessionStore) -> None:
    """An update with another key leaves nothing under the old one."""
    moved = StoredSession(b"n" * 32, "fedcba9876543210", None, b"new", 1, 1_400, 2_400)
    assert stored.update(moved, ROW, now=1_500) is True
    assert stored.load(ROW.id, now=1_500) is None
    assert moved._replace(version=2) == stored.load(moved.id, now=1_500)


def test_a_touch_moves_the_end_forward_only(stored: SessionStore) -> None:
    """A touch shortens no session, puts back no last use, and leaves the version
    alone.
    """
    assert stored.touch(used(1_900, at=1_500), now=1_500) is False
    assert ROW == stored.load(ROW.id, now=1_500)
    assert stored.touch(used(2_100, at=1_500), now=1_500) is True
    assert used(2_100, at=1_500) == stored.load(ROW.id, now=1_500)
    assert stored.touch(used(2_200, at=1_500), now=1_500) is False
    assert stored.touch(used(2_200, at=1_499), now=1_500) is False
    assert stored.touch(used(2_100, at=1_501), now=1_501) is True
    assert used(2_100, at=1_501) == stored.load(ROW.id, now=1_501)


def test_a_delete_can_insist_on_a_version(stored: SessionStore) -> None:
    """A versioned delete leaves a row that has changed; a plain one does not."""
    assert stored.delete(ROW.id, version=2) is False
    assert stored.load(ROW.id, now=1_500) is not None
    assert stored.delete(ROW.id, version=1) is True
    assert stored.insert(ROW) is True
    assert stored.delete(ROW.id) is True
    assert stored.load(ROW.id, now=1_500) is None


def test_an_insert_whose_answer_was_lost_may_be_repeated(stored: SessionStore) -> None:
    """The same row again is no error: its random key makes it the same insert."""
    assert stored.insert(ROW) is True


def test_a_row_that_the_table_refuses_is_an_error(stored: SessionStore) -> None:
    """A refused insert is not mistaken for a repeated one."""
    broken = ROW._replace(id=b"x" * 32, data=None)  # type: ignore[arg-type]
    with pytest.raises(sa.exc.IntegrityError) as caught:
        stored.insert(broken)
    assert caught.value.__cause__ is not caught.value


def test_large_data_fits(store: SessionStore) -> None:
    """Data of 4 MB comes back whole, whatever the database calls its type."""
    row = ROW._replace(data=b"\x01" + b"\xf0" * 4_000_000)
    store.insert(row)
    assert row == store.load(row.id, now=1_500)


@pytest.mark.mariadb
def test_16_mib_have_room_on_mariadb(make_database: Any) -> None:
    """The column takes more than the 64 KiB of a BLOB, and more than 16 MiB."""
    store = make_store(make_database("mariadb"), KEPT)
    store.insert(ROW)
    query = (
        "SELECT character_octet_length FROM information_schema.columns"
        " WHERE table_schema = DATABASE() AND column_name = 'data'"
    )
    with store.engine.connect() as connection:
        room = connection.execute(sa.text(query)).scalar_one()
    store.dispose()
    assert room >= 16 * 1024 * 1024


def test_keys_differ_in_every_bit(store: SessionStore) -> None:
    """No collation, case or padding makes two keys one."""
    keys = [b"a" * 32, b"A" * 32, b"a" * 31 + b" ", b"a" * 31 + b"\0", b"\xe1" * 32]
    for number, key in enumerate(keys):
        store.insert(ROW._replace(id=key, version=number))
    loaded = [store.load(key, now=1_500) for key in keys]
    assert [0, 1, 2, 3, 4] == [row.version for row in loaded if row is not None]


def test_users_differ_by_case(store: SessionStore) -> None:
    """The column of the users compares them exactly."""
    store.insert(ROW._replace(user_id="Ann"))
    query = sa.select(store.table.c.handle).where(store.table.c.user_id == "ann")
    with store.engine.connect() as connection:
        assert connection.execute(query).all() == []


def test_data_that_is_not_binary_is_handed_on(make_database: Any) -> None:
    """A text where data should be, which SQLite allows, does not fail in the store."""
    store = make_store(make_database("sqlite-file"))
    store.insert(ROW)
    with store.engine.connect() as connection:
        connection.execute(sa.text("UPDATE sessions SET data = 'text', version = 'x'"))
    row = store.load(ROW.id, now=1_500)
    store.dispose()
    assert row is not None
    assert list(row[3:5]) == ["text", "x"]


@pytest.mark.parametrize("echo", [True, "debug", False])
def test_no_value_reaches_the_log_of_the_statements(
    make_database: Any, caplog: pytest.LogCaptureFixture, echo: Any
) -> None:
    """The log shows the statements, and neither parameters nor rows, at any level."""
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    source = sa.create_engine(make_database("sqlite-file"), echo=echo)
    store = SessionStore(sessions_engine(source), sessions_table(sa.MetaData(), "s"))
    store.insert(ROW._replace(data=b"secret"))
    assert store.load(ROW.id, now=1_500) is not None
    store.dispose()
    assert "INSERT INTO s" in caplog.text
    assert "secret" not in caplog.text
