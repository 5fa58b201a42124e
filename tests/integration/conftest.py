"""Fixtures for whole requests."""

from __future__ import annotations

import pytest

from flask_sessionsql.config import SessionConfig


@pytest.fixture
def kept_table() -> str:
    """The table of the sessions, which most of these tests use."""
    return SessionConfig.table
