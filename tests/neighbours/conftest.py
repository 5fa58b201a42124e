"""What the page about a package defines, for the tests of that package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.helpers import close
from tests.integration.helpers import add_views

from .blocks import run_blocks
from .provider import Provider, provider_without_network


@pytest.fixture
def names(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """What the page defines, in a folder of its own: ``test_flask_wtf.py`` is about the
    page ``flask-wtf``.
    """
    monkeypatch.chdir(tmp_path)
    page = request.module.__name__.rpartition(".test_")[2].replace("_", "-")
    names = run_blocks(page)
    app: Flask = names["app"]
    app.testing = True
    yield names
    close(app)


@pytest.fixture
def app(names: dict[str, Any]) -> Flask:
    """The application of the page."""
    app: Flask = names["app"]
    return app


@pytest.fixture
def with_views(app: Flask) -> None:
    """There are views that change the session besides."""
    add_views(app)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    """Who vouches for users, without a network."""
    return provider_without_network(monkeypatch)
