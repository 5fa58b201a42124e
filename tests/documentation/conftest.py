"""Fixtures: the site, built once for all tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .site import Page, shared_site


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the documentation as HTML."""
    return shared_site(tmp_path_factory)


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[str, Page]:
    """The pages in it, by their names, such as ``guides/sqlite.html``."""
    names = {path: path.relative_to(html).as_posix() for path in html.rglob("*.html")}
    return {name: Page(path, name) for path, name in names.items()}
