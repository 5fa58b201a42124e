"""The documentation: as complete as the code, true to it, and open to everybody."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import flask_sessionsql
from flask_sessionsql import config, interfaces
from flask_sessionsql.commands.cli import sessions_command
from flask_sessionsql.config import SessionConfig

from .pages import DOCS, page

#: What a build of the documentation needs.
NEEDED = ("furo", "sphinx", "sphinx_autodoc_typehints", "sphinx_copybutton")

#: In the tables, and not read once but in every request, as Flask does.
READ_PER_REQUEST = {"SECRET_KEY", "SECRET_KEY_FALLBACKS"}


def build(source: Path, target: Path, *options: str) -> str:
    """Build documentation; gives what Sphinx had to complain about."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(
            f"Building the documentation needs {', '.join(missing)}, which the nox"
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


# Each setting is documented twice: in a table, for the reader who looks for one, and
# at its attribute, in full.


def attribute_docstrings() -> dict[str, str]:
    """The text that stands under each attribute of ``SessionConfig``."""
    [body] = [
        node.body
        for node in ast.parse(inspect.getsource(config)).body
        if isinstance(node, ast.ClassDef) and node.name == "SessionConfig"
    ]
    found = {}
    for statement, following in pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            assert isinstance(statement.target, ast.Name)
            found[statement.target.id] = inspect.cleandoc(
                ast.literal_eval(following.value)
            )
    return found


def keys_of_fields() -> dict[str, str]:
    """The configuration key with which the docstring of each attribute begins."""
    found = {}
    for name, text in attribute_docstrings().items():
        begins = re.match(r"``([A-Z_]+)``: ", text)
        assert begins, f"the docstring of {name} does not begin with its key"
        found[name] = begins[1]
    return found


def rows_of_tables(text: str | None = interfaces.__doc__) -> dict[str, str]:
    """Key and text of each row in the tables of a docstring; usually the two of the
    section Configuration.
    """
    rows: dict[str, str] = {}
    key = None
    for line in (text or "").splitlines():
        begins = re.match(r"``([A-Z_]+)``\s+(.*)", line)
        if begins:
            key = begins[1]
            assert key not in rows, f"{key} stands in the tables twice"
            rows[key] = begins[2]
        elif key is not None and (not line or line.startswith("  ")):
            rows[key] += " " + line.strip()
        else:
            key = None
    return {key: " ".join(text.split()) for key, text in rows.items()}


def stated_defaults() -> dict[str, Any]:
    """The defaults that the tables state as values."""
    stated = {}
    for key, text in rows_of_tables().items():
        found = re.search(r"Defaults to (?:``([^`]+)``|`([^`]+)`|(\d+)\b)", text)
        if found:
            stated[key] = ast.literal_eval(found[found.lastindex or 0])
    return stated


def test_every_setting_has_a_docstring() -> None:
    """Each attribute of ``SessionConfig`` has a docstring."""
    assert [field.name for field in fields(SessionConfig)] == [*attribute_docstrings()]


def test_tables_and_settings_are_the_same() -> None:
    """Every key in the two tables is documented at an attribute of ``SessionConfig``
    and the other way round, but for those that are read in every request.
    """
    keys = keys_of_fields().values()

    assert len(set(keys)) == len(keys)
    assert rows_of_tables().keys() == set(keys) | READ_PER_REQUEST


def test_documented_keys_are_known() -> None:
    """No key that is documented is warned of as one that means nothing."""
    keys = keys_of_fields().values()

    assert SessionConfig() == SessionConfig.from_mapping(dict.fromkeys(keys))


def test_defaults_are_those_of_the_code() -> None:
    """A default that the tables state is the one that the code has, and configuring
    it changes nothing.
    """
    usual = SessionConfig.from_mapping({})
    stated = stated_defaults()
    field_of = {key: name for name, key in keys_of_fields().items()}

    assert usual == SessionConfig()
    assert usual == SessionConfig.from_mapping(stated)
    # Stands for a value that depends on another one.
    assert stated.pop("SESSION_REFRESH_INTERVAL") is None
    assert usual.refresh_interval == usual.lifetime // 100
    assert stated == {key: getattr(usual, field_of[key]) for key in stated}


def test_defaults_in_words() -> None:
    """Where a table states a default in words, the words are true, too."""
    rows = rows_of_tables()
    in_words = {
        key
        for key, text in rows.items()
        if re.search("[Dd]efault", text) and key not in stated_defaults()
    }

    assert in_words == {
        "SESSION_TYPE",
        "SESSION_SQLALCHEMY",
        "SQLALCHEMY_DATABASE_URI",
        "SESSION_MAX_PER_USER_POLICY",
        "SESSION_ENCRYPT",
    }
    assert (
        f"**{SessionConfig().session_type}**: NullSessionInterface (default)"
        in (rows["SESSION_TYPE"])
    )
    policies = rows["SESSION_MAX_PER_USER_POLICY"].split(" - ")
    [usual] = [policy for policy in policies if policy.endswith(" (default)")]
    assert usual.startswith(f"**{SessionConfig().max_per_user_policy}**: ")
    assert f"`{SessionConfig().encrypt}` (default)" in rows["SESSION_ENCRYPT"]
    assert SessionConfig().sqlalchemy is None
    file = str(SessionConfig().database_uri).removeprefix("sqlite:///")
    assert (
        f"a SQLite file, ``{file}``, in the instance"
        in (rows["SQLALCHEMY_DATABASE_URI"])
    )


def test_defaults_of_lifetimes_are_those_of_the_code() -> None:
    """The lifetimes are documented with the defaults that the code has (OWASP ASVS 5.0,
    7.1.1).
    """
    text = (config.__doc__ or "").partition("How long a session lasts\n")[2]
    rows = rows_of_tables(text.partition("How large a session may be\n")[0])
    field_of = {key: name for name, key in keys_of_fields().items()}
    stated = {
        key: re.findall("Defaults to ``([^`]+)``", text)[0]
        for key, text in rows.items()
    }
    # Stands for a value that depends on another one.
    assert stated.pop("SESSION_REFRESH_INTERVAL") == "None"

    assert len(stated) == 5
    usual = SessionConfig()
    assert stated == {
        key: "timedelta(days=31)"
        if getattr(usual, field_of[key]) == timedelta(days=31).total_seconds()
        else repr(getattr(usual, field_of[key]))
        for key in stated
    }


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


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.name = path.name
        self.text = re.sub("<[^>]*>", "", path.read_text(encoding="utf-8"))
        self.ids: set[str] = set()
        #: The addresses that a browser loads by itself.
        self.loaded: list[str] = []
        #: The start tags of what scrolls where it is wider than the page.
        self.scrolling: list[dict[str, str | None]] = []
        self._outer: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
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
        if tag == "link" and attributes.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(attributes.get("href") or "")
        elif tag in ("script", "img", "iframe", "source") and attributes.get("src"):
            self.loaded.append(attributes["src"] or "")
        if tag == "div":
            self._outer.append(attributes.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self._outer.pop()


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as HTML, built without a warning."""
    target = tmp_path_factory.mktemp("html")
    build(DOCS, target, "-b", "html", "-W", "-n")
    return target


@pytest.fixture(scope="session")
def pages(html: Path) -> dict[str, Page]:
    return {path.name: Page(path) for path in html.glob("*.html")}


def test_public_names_are_in_the_reference(pages: dict[str, Page]) -> None:
    """Every public name has an entry in the API page, under that name."""
    entries = pages["api.html"].ids

    assert set() == {
        name
        for name in flask_sessionsql.__all__
        if f"flask_sessionsql.{name}" not in entries
    }


def test_settings_are_in_the_reference(pages: dict[str, Page]) -> None:
    """Every setting has an entry in the API page."""
    entries = pages["api.html"].ids

    assert set() == {
        field.name
        for field in fields(SessionConfig)
        if f"flask_sessionsql.config.SessionConfig.{field.name}" not in entries
    }


def test_modules_are_in_the_reference(pages: dict[str, Page]) -> None:
    """Every module has its place in the API page, or on the first one."""
    entries = pages["api.html"].ids | pages["index.html"].ids

    assert [] == [name for name in modules() if f"module-{name}" not in entries]


#: What is explained, and the page that explains it.
SECTIONS = {
    "Installation": "index",
    "Quickstart": "index",
    "Configuration": "index",
    "Built-in Session Interfaces": "index",
    "The user and the token": "users",
    "Typed access": "users",
    "Lists and ends": "users",
    "Address and browser": "users",
    "How many sessions at once": "limits",
    "How long a session lasts": "lifetimes",
    "Expired rows": "lifetimes",
    "What a session can hold": "values",
    "How large a session may be": "size",
    "What the database holds": "security",
    "What a security standard asks for": "security",
    "Encryption": "encryption",
    "Signals": "signals",
    "Counting for an operator": "signals",
    "Commands": "commands",
    "Purging from a timer": "commands",
    "Migrations": "migrations",
    "By hand": "migrations",
    "A column that came later": "migrations",
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


def test_pages_are_in_the_contents() -> None:
    """Every page that is written is in the contents, once."""
    contents = page("index").split(".. toctree::\n")[1].split()
    written = {path.stem for path in DOCS.glob("*.rst")} - {"index"}

    assert sorted(written) == sorted(each for each in contents if each[0] != ":")


def test_settings_that_are_named_exist(pages: dict[str, Page]) -> None:
    """No page names a setting that there is not."""
    others = {"SESSION_PROTECTION", "SESSION_USE_SIGNER"}
    named = {
        name
        for page in pages.values()
        for name in re.findall(r"\bSESSION_[A-Z_]+[A-Z]\b", page.text)
    }

    assert len(named) > 20
    assert set() == named - {*keys_of_fields().values()} - others


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
