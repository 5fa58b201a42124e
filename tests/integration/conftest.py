"""Fixtures for whole requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from flask_sessionsql.config import SessionConfig
from tests.conftest import MakeDatabase, Servers, database_maker
from tests.integration.helpers import Clock


@pytest.fixture
def make_database(servers: Servers, tmp_path: Path) -> MakeDatabase:
    """Gives the address of a database without sessions, which may have their table."""
    return database_maker(servers, tmp_path, keep=SessionConfig.table)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("interfaces", "sessions", "storage.administration"):
        monkeypatch.setattr(f"flask_sessionsql.{module}.time", clock)
    return clock
