"""Fixtures for whole requests."""

from __future__ import annotations

import pytest

from flask_sessionsql.config import SessionConfig
from tests.integration.helpers import Clock


@pytest.fixture
def kept_table() -> str:
    """The table of the sessions, which most of these tests use."""
    return SessionConfig.table


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("interfaces", "sessions", "storage.administration"):
        monkeypatch.setattr(f"flask_sessionsql.{module}.time", clock)
    return clock
