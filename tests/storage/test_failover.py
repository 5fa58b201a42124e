"""Whether another server takes writes, and how often that is looked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql.storage import failover
from flask_sessionsql.storage.failover import Failover
from tests.conftest import MakeDatabase
from tests.helpers import on


@pytest.fixture(params=on("postgresql", "mariadb"))
def engine(
    request: pytest.FixtureRequest, make_database: MakeDatabase
) -> Iterator[sa.Engine]:
    engine = sa.create_engine(
        make_database(request.param), isolation_level="AUTOCOMMIT"
    )
    yield engine
    engine.dispose()


def pooled(engine: sa.Engine) -> Any:
    """The driver's connection that the next statement gets."""
    with engine.connect() as connection:
        return connection.connection.dbapi_connection


def test_a_server_takes_writes(engine: sa.Engine) -> None:
    """A new connection shows it, so the others are replaced, once: statements that were
    tried before are tried again, and what the new connections refuse is not.
    """
    found = Failover(engine)
    old = pooled(engine)
    since = time.monotonic()
    assert found.has_moved(since)
    new = pooled(engine)
    assert new is not old
    assert found.has_moved(since)
    assert pooled(engine) is new
    assert not found.has_moved(time.monotonic())
    assert pooled(engine) is new


def test_a_second_later(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for again."""
    found = Failover(engine)
    assert found.has_moved(time.monotonic())
    monkeypatch.setattr(failover, "INTERVAL", 0)
    assert found.has_moved(time.monotonic())


def test_no_server_can_be_connected_to(engine: sa.Engine) -> None:
    """The connections stay: they can still read."""
    found = Failover(engine)
    old = pooled(engine)
    nowhere: Any = sa.create_engine(engine.url.set(port=1)).pool
    usual, engine.pool.recreate = engine.pool.recreate, nowhere.recreate  # type: ignore[method-assign]
    assert not found.has_moved(time.monotonic())
    assert pooled(engine) is old
    engine.pool.recreate = usual  # type: ignore[method-assign]


def test_a_look_that_takes_long(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other statements do not wait for it without end."""
    monkeypatch.setattr(failover, "PATIENCE", 0.01)
    found = Failover(engine)
    with found._lock:
        assert not found.has_moved(time.monotonic())
    assert found.has_moved(time.monotonic())
