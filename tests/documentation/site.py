"""The site that Sphinx makes of the documentation, built once for all tests."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers import missing
from tests.pages import DOCS

Build = Callable[..., str]
#: The folders of the pages, in the order of the sidebar.
GROUPS = ("tutorials", "guides", "neighbours", "explanations", "reference", "project")

#: The folder of a site that is built already: the nox session docs sets it.
GIVEN = "SESSIONSQL_SITE"
#: What a build of the documentation needs.
NEEDED = ("furo", "sphinx", "sphinx_autodoc_typehints", "sphinx_copybutton")


def build(source: Path, target: Path, *options: str) -> str:
    """Build documentation. Returns what Sphinx complains about."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        missing(
            f"Building the documentation needs {', '.join(absent)}, which the nox"
            " session docs installs: sh tools/nox.sh -s docs"
        )
    command = [sys.executable, "-m", "sphinx", "-q", "-E", *options]
    result = subprocess.run(
        [*command, str(source), str(target)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def shared_site(factory: pytest.TempPathFactory) -> Path:
    """The site as HTML, built without a warning: the one that the environment names, or
    one for this run, which the first worker of pytest-xdist builds.
    """
    if os.environ.get(GIVEN):
        return Path(os.environ[GIVEN]).resolve()
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    site = folder / "site"
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (site / "objects.inv").is_file():
            build(DOCS, site, "-b", "html", "-W", "-n")
    return site


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__()
        self.name = name
        self.html = path.read_text(encoding="utf-8")
        self.text = re.sub("<[^>]*>", "", self.html)
        self.ids: set[str] = set()
        #: The addresses that a browser loads by itself.
        self.loaded: list[str] = []
        #: The start tags of what scrolls where it is wider than the page.
        self.scrolling: list[dict[str, str | None]] = []
        #: The attributes of each ``meta`` and each ``link``.
        self.metas: list[dict[str, str | None]] = []
        self.links: list[dict[str, str | None]] = []
        self._outer: list[str] = []
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        classes = (attributes.get("class") or "").split()
        if attributes.get("id"):
            self.ids.add(attributes["id"] or "")
        if "table-wrapper" in classes or (
            tag == "pre" and self._outer and "highlight" in self._outer[-1].split()
        ):
            self.scrolling.append(attributes)
        if tag == "meta":
            self.metas.append(attributes)
        elif tag == "link":
            self.links.append(attributes)
        self._note_what_is_loaded(tag, attributes)
        if tag == "div":
            self._outer.append(attributes.get("class") or "")

    def _note_what_is_loaded(self, tag: str, attributes: dict[str, str | None]) -> None:
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(attributes.get("href") or "")
        elif tag in ("script", "img", "iframe", "source") and attributes.get("src"):
            self.loaded.append(attributes["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self._outer.pop()

    def meta(self, name: str) -> str | None:
        """The content of the ``meta`` of this name or property, if there is one."""
        for attributes in self.metas:
            if name in (attributes.get("name"), attributes.get("property")):
                return attributes.get("content")
        return None
