"""Fixtures of all tests that drive a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Playwright

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ["--no-sandbox", "--disable-background-networking"]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Chromium is."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        message = (
            f"No browser was found ({', '.join(CHROMIUM)}). Install one, such as with:"
            " apt-get install chromium"
        )
        if os.environ.get("SESSIONSQL_REQUIRE_SERVERS"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    pytest.importorskip("playwright", reason="the nox session site installs it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright
