"""The tutorial "A first session", as its reader goes through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.throwaway import program

from .walk import walked, walking


@pytest.mark.sqlite_file
def test_every_command_does_what_the_page_shows(tmp_path: Path) -> None:
    """From an empty folder to the logout, with a restart of the server between."""
    program("curl", "curl")
    with walking(walked("tutorials/first-session"), tmp_path) as walk:
        assert [] == walk.until()
