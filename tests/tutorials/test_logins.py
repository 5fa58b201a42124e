"""The guide to logins, as its reader goes through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Servers, database_maker
from tests.throwaway import program

from .walk import walked, walking


@pytest.mark.postgresql
def test_the_example_logs_in_on_postgresql(servers: Servers, tmp_path: Path) -> None:
    """The application with Flask-Login runs as copied: its user logs in, and is out as
    soon as the command has ended the session.
    """
    program("curl", "curl")
    uri = database_maker(servers, tmp_path)("postgresql")
    blocks = walked("guides/logins")
    with walking(blocks, tmp_path, FLASK_SQLALCHEMY_DATABASE_URI=uri) as walk:
        assert [] == walk.until()
