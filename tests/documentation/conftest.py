"""Fixtures: the site, built once for all tests that read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import site
from .site import Build, Page, shared_site


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what builds documentation or reads the site: the session docs runs it."""
    for item in items:
        if {"html", "build"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.site)


@pytest.fixture(scope="session")
def build() -> Build:
    """Builds documentation. Returns what Sphinx complains about."""
    return site.build


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the documentation as HTML."""
    return shared_site(tmp_path_factory)


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[str, Page]:
    """The pages in it, by their names, such as ``guides/sqlite.html``."""
    names = {path: path.relative_to(html).as_posix() for path in html.rglob("*.html")}
    return {name: Page(path, name) for path, name in names.items()}
