"""The page that warns before the session ends, as the guide has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("playwright")

from tests.tutorials.walk import walked, walking

from .conftest import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: Seconds: how long an unused session lasts, and how long before that the page warns.
LIFETIME, WARNING = 20, 10


@pytest.mark.sqlite_file
def test_the_page_warns_and_ends(tmp_path: Path, browser: Browser) -> None:
    """The warning appears by itself before the end. "Stay logged in" moves the end on
    and takes the warning away; without it, the page shows the login when the session
    has ended.
    """
    blocks = walked("guides/stay-logged-in")
    settings = {"FLASK_PERMANENT_SESSION_LIFETIME": str(LIFETIME)}
    with (
        walking(blocks, tmp_path, **settings) as walk,
        browser.new_context(base_url=walk.address) as context,
    ):
        command = "flask --app shop run"
        assert [] == walk.until(f"$ FLASK_PERMANENT_SESSION_LIFETIME=130 {command}")
        template = tmp_path / "templates" / "page.html"
        text = template.read_text("utf-8")
        assert 1 == text.count("WARN = 120;")
        template.write_text(text.replace("WARN = 120;", f"WARN = {WARNING};"), "utf-8")
        walk.start(command)

        context.set_default_timeout(1000 * PATIENCE / 2)
        tab = context.new_page()
        tab.goto("/")
        tab.get_by_label("Name").fill("ann")
        tab.get_by_role("button", name="Log in").click()
        warning = tab.get_by_role("alertdialog")
        stay = warning.get_by_role("button", name="Stay logged in")
        assert not warning.is_visible()
        stay.click()  # as soon as it is there
        warning.wait_for(state="hidden")
        assert "Hello, ann!" == tab.inner_text("h1")
        warning.wait_for(state="visible")
        tab.get_by_label("Name").wait_for()
        assert "Log in" == tab.inner_text("h1")
