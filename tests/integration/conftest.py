"""Fixtures for whole requests."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_sessionsql.config import SessionConfig
from tests.integration.helpers import add_views


@pytest.fixture
def app(app: Flask) -> Flask:
    """An application whose views do to the session what their address says."""
    return add_views(app)


@pytest.fixture
def kept_table() -> str:
    """The table of the sessions, which most of these tests use."""
    return SessionConfig.table
