"""The documentation: as complete as the code, true to it, and open to everybody."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from itertools import pairwise
from pathlib import Path

import pytest

import flask_sessionsql
from flask_sessionsql.commands.cli import sessions_command

from .site import Page

# The names.

#: They are objects, and their documentation stands in the reference.
OBJECTS = {
    name
    for name in flask_sessionsql.__all__
    if not inspect.isclass(vars(flask_sessionsql)[name])
}


@pytest.mark.parametrize("name", sorted({*flask_sessionsql.__all__} - OBJECTS))
def test_public_names_have_docstrings(name: str) -> None:
    """Every public name has a docstring of its own, not one that it inherits."""
    assert vars(getattr(flask_sessionsql, name)).get("__doc__")


# The modules.

#: Its docstring is on the first page, where it says what the specification says.
ON_FIRST_PAGE = "flask_sessionsql.interfaces"


def modules() -> list[str]:
    """The modules of the package, and the wings that they are in."""
    found = pkgutil.walk_packages(flask_sessionsql.__path__, "flask_sessionsql.")
    return [module.name for module in found]


@pytest.mark.parametrize("module", sorted({*modules()} - {ON_FIRST_PAGE}))
def test_code_begins_where_a_file_begins(module: str) -> None:
    """The docstring of a module fits a screen and has no titled section: what is longer
    is a page.
    """
    text = importlib.import_module(module).__doc__ or ""
    titles = [
        line
        for line, below in pairwise(inspect.cleandoc(text).splitlines())
        if line and len(line) <= len(below) and re.fullmatch(r"([-=~^\"'])\1+", below)
    ]

    assert text
    assert [] == titles
    assert len(text.splitlines()) <= 25


# The pages.


#: The pages of the modules, which may change in any release.
INTERNALS = "reference/internals/"


def test_public_names_are_in_the_reference(pages: dict[str, Page]) -> None:
    """Every public name has its entry on one public page, and on no other."""
    public = [page for name, page in pages.items() if not name.startswith(INTERNALS)]
    entries = {
        name: [page.name for page in public if f"flask_sessionsql.{name}" in page.ids]
        for name in flask_sessionsql.__all__
    }

    assert {} == {name: found for name, found in entries.items() if len(found) != 1}


def test_modules_are_in_the_reference(pages: dict[str, Page]) -> None:
    """Every module has its place on one page."""
    places = {
        name: [page.name for page in pages.values() if f"module-{name}" in page.ids]
        for name in modules()
    }

    assert {} == {name: found for name, found in places.items() if len(found) != 1}


#: What is explained, and the page that explains it.
SECTIONS = {
    "Installation": "index",
    "Quickstart": "index",
    "Configuration": "index",
    "Built-in Session Interfaces": "index",
    "The user and the token": "explanations/users",
    "Typed access": "explanations/users",
    "Show users their sessions": "guides/sign-out",
    "Address and browser": "explanations/users",
    "How many sessions a user may have": "guides/sign-out",
    "How long a session lasts": "explanations/lifetimes",
    "The two clocks": "explanations/lifetimes",
    "Expired rows": "explanations/lifetimes",
    "What a session can hold": "explanations/values",
    "How large a session may be": "explanations/values",
    "What happens in a request": "explanations/request",
    "Which SQL runs": "explanations/request",
    "Two requests at once": "explanations/merging",
    "What the database holds": "explanations/security",
    "What a security standard asks for": "explanations/security",
    "Encryption": "guides/encryption",
    "Signals": "reference/signals",
    "The sessions table": "reference/table",
    "Counting for an operator": "reference/signals",
    "Commands": "reference/commands",
    "Purging from a timer": "reference/commands",
    "Migrations": "guides/migrations",
    "By hand": "guides/migrations",
    "A column that came later": "guides/migrations",
}


def test_sections_are_on_pages(pages: dict[str, Page]) -> None:
    """Every subject has its section on one page, and on no second one."""
    ids = {
        title: re.sub("[^a-z0-9]+", "-", title.lower()).strip("-") for title in SECTIONS
    }

    assert {title: [f"{name}.html"] for title, name in SECTIONS.items()} == {
        title: [page.name for page in pages.values() if entry in page.ids]
        for title, entry in ids.items()
    }


def test_commands_that_are_named_exist(pages: dict[str, Page]) -> None:
    """No page names a command that there is not, and every command is named."""
    named = {
        name
        for page in pages.values()
        for name in re.findall(r"\bflask sessions ([a-z][a-z-]*)", page.text)
    }

    assert named == {*sessions_command.commands}


def test_keyboards_can_scroll(pages: dict[str, Page]) -> None:
    """Code and tables, which scroll where they are wider than the page, can be
    reached by keyboard (WCAG 2.1.1).
    """
    assert len(pages["index.html"].scrolling) > 8
    assert [] == [
        (page.name, attributes)
        for page in pages.values()
        for attributes in page.scrolling
        if attributes.get("tabindex") != "0"
    ]


def test_nothing_is_loaded_from_elsewhere(html: Path, pages: dict[str, Page]) -> None:
    """A reader's browser asks no other host for anything."""
    loaded = [address for page in pages.values() for address in page.loaded]
    styles = [path.read_text(encoding="utf-8") for path in html.rglob("*.css")]

    assert len(loaded) > 10
    assert [] == [address for address in loaded if re.match(r"(\w+:)?//", address)]
    assert [] == [
        found
        for style in styles
        for found in re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)]*)", style)
    ]
    assert [] == [
        found
        for style in styles
        for found in re.findall(r"@import\s*['\"]((?:https?:)?//[^'\"]*)", style)
    ]
