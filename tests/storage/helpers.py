"""What the tests of the store and of its database share."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.store import SessionStore, StoredSession
from flask_sessionsql.storage.tables import sessions_table

ROW = StoredSession(
    id=b"\x00\xff" * 16,
    handle="0123456789abcdef",
    user_id="ann",
    data=b"\x01\x80",
    version=1,
    created_at=1_000,
    expires_at=2_000,
)


#: A table that stays from test to test, for those that do not need it to be missing.
KEPT = "kept_sessions"


def make_store(url: str, name: str = "sessions", **options: Any) -> SessionStore:
    source = sa.create_engine(url)
    table = sessions_table(sa.MetaData(), name)
    engine = sessions_engine(source, timeout=options.get("timeout", 10))
    return SessionStore(engine, table, **options)


def row_of(number: int, user_id: str | None = "ann", **values: Any) -> StoredSession:
    """A row of its own, which began ``number`` seconds after 1,000."""
    row = ROW._replace(
        id=bytes([number]) * 32,
        handle=f"{number:016x}",
        user_id=user_id,
        created_at=1_000 + number,
        last_used_at=1_000 + number,
    )
    return row._replace(**values)


def handles(store: SessionStore) -> list[int]:
    """The numbers of the rows that :func:`row_of` made and that are there."""
    with store.engine.connect() as connection:
        found = connection.execute(sa.select(store.table.c.handle)).scalars()
        return sorted(int(handle, 16) for handle in found)


def kill_connections(store: SessionStore) -> None:
    """Let the server end the connections of the store's pool."""
    admin = sa.create_engine(store.engine.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        if admin.dialect.name == "postgresql":
            statement = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            connection.execute(sa.text(statement))
        else:
            rows = connection.execute(
                sa.text(
                    "SELECT id FROM information_schema.processlist"
                    " WHERE db = DATABASE() AND id <> CONNECTION_ID()"
                )
            ).all()
            for (number,) in rows:
                connection.execute(sa.text(f"KILL {int(number)}"))
    admin.dispose()


def assert_nothing_locked(store: SessionStore) -> None:
    """Fail if a transaction is open that has written."""
    if store.engine.pool.size() == 1:  # type: ignore[attr-defined]
        # In memory there is one connection, and what is open on it shows.
        with store.engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            assert driver.in_transaction is False
        return
    patience = {"timeout": 0.05} if store.locks_whole_database else {}
    other = sa.create_engine(store.engine.url, connect_args=patience)
    with other.begin() as connection:
        every = sa.select(store.table.c.id).with_for_update(nowait=True)
        connection.execute(every).all()
        connection.execute(sa.delete(store.table).where(sa.false()))
    other.dispose()
