"""The tutorial 'Login with "your devices"', as its reader goes through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

pytest.importorskip("playwright")

from tests.tutorials.walk import Walk, walked, walking

from .conftest import Site, visitor

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

pytestmark = pytest.mark.sqlite_file


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    with walking(walked("tutorials/devices"), tmp_path) as walk:
        yield walk


def test_every_step_does_what_the_page_says(
    walk: Walk, tmp_path: Path, profiles: tuple[BrowserContext, BrowserContext]
) -> None:
    """From an empty folder to a user whose sessions are ended from outside: what the
    page tells its reader to copy, to type and to click does what it says.
    """
    assert [] == walk.until("$ flask --app devices sessions stats")
    site = Site(walk.address, sa.create_engine("sqlite://"), tmp_path)
    with visitor(profiles[0], site) as first, visitor(profiles[1], site) as second:
        first.log_in()
        assert [("Chrome on Linux", True)] == first.devices()
        second.log_in()
        first.open()
        assert [("Chrome on Linux", True), ("Safari on iPhone", False)] == (
            first.devices()
        )
        first.tab.get_by_label("Name in the list").fill("My laptop")
        first.click("Name it")
        second.open()
        assert ("My laptop", False) in second.devices()
        assert [] == walk.next()

        first.click("Log out Safari on iPhone")
        assert [("My laptop", True)] == first.devices()
        assert not second.is_logged_in()
        second.log_in()
        first.click("Log out everywhere else")
        assert "Logged out on other devices: 1." == first.message()
        assert [] == walk.next()

        second.log_in()
        first.change_password("a long one", "a longer one")
        assert "all other devices are logged out" in first.message()
        assert not second.is_logged_in()
        second.log_in("a long one")
        assert "Log in" == second.heading()
        assert [] == walk.until()
        assert not first.is_logged_in()
