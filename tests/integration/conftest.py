"""Fixtures for whole requests."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_sessionsql.config import SessionConfig
from flask_sessionsql.storage import purging
from tests.integration.helpers import Passing, add_views


@pytest.fixture
def app(app: Flask) -> Flask:
    """An application whose views do to the session what their address says."""
    return add_views(app)


@pytest.fixture
def kept_table() -> str:
    """The table of the sessions, which most of these tests use."""
    return SessionConfig.table


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Passing:
    """The time from one purge to the next, which the test lets pass."""
    passing = Passing()
    monkeypatch.setattr(purging, "time", passing)
    return passing
