"""What the documentation says of the settings: the tables of the specification, the
table of the lifetimes, and the page that is made from the declarations.
"""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import zlib
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest

from flask_sessionsql import SessionConfigError, config, interfaces
from flask_sessionsql.config import (
    SETTINGS,
    Group,
    OtherSettings,
    SessionConfig,
    Setting,
)
from tests.pages import DOCS, page

from .site import Build, Page

ROOT = DOCS.parent
PAGE = DOCS / "reference" / "settings.rst"

#: The attributes of ``SessionConfig``, by their keys.
ATTRIBUTES = {
    field.metadata["setting"].key: field.name for field in fields(SessionConfig)
}
#: Stands in the specification under SESSION_COOKIE_PATH.
FALLBACK = "APPLICATION_ROOT"
#: Read in every request, and kept nowhere.
SECRETS = {"SECRET_KEY", "SECRET_KEY_FALLBACKS"}


def tables() -> tuple[str, str]:
    """The two tables of the section Configuration: of Flask's settings and of ours."""
    text = interfaces.__doc__ or ""
    ours = text.index("A list of configuration keys also understood")
    return text[:ours], text[ours:]


def rows_of(text: str) -> dict[str, str]:
    """Key and text of each row in the tables of a page or a docstring."""
    rows: dict[str, str] = {}
    key = None
    for line in text.splitlines():
        begins = re.match(r"(?:``|:setting:`)([A-Z_]+)`+\s+(.*)", line)
        if begins:
            key = begins[1]
            assert key not in rows, f"{key} stands in the tables twice"
            rows[key] = begins[2]
        elif key is not None and (not line or line.startswith("  ")):
            rows[key] += " " + line.strip()
        else:
            key = None
    return {key: " ".join(text.split()) for key, text in rows.items()}


ROWS = rows_of("\n".join(tables()))


def stated_defaults() -> dict[str, Any]:
    """The defaults that the tables of the specification state as values."""
    stated = {}
    for key, text in ROWS.items():
        found = re.search(r"Defaults to (?:``([^`]+)``|`([^`]+)`|(\d+)\b)", text)
        if found:
            stated[key] = ast.literal_eval(found[found.lastindex or 0])
    return stated


# The declarations.


def words() -> dict[str, str]:
    """The text that stands under the declaration of each setting, by its key."""
    found = {}
    for each in (SessionConfig, OtherSettings):
        key_of = {field.name: field.metadata["setting"].key for field in fields(each)}
        [declared] = ast.parse(inspect.getsource(each)).body
        assert isinstance(declared, ast.ClassDef)
        for statement, following in pairwise(declared.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                assert isinstance(statement.target, ast.Name)
                text = inspect.cleandoc(ast.literal_eval(following.value))
                found[key_of[statement.target.id]] = text
    return found


def test_every_setting_has_words() -> None:
    """Under every declaration stands what the setting does, in a sentence first."""
    found = words()

    assert [*SETTINGS] == [*found]
    assert [] == [key for key, text in found.items() if not re.match(r"[A-Z`]", text)]
    assert [] == [
        key
        for key, text in found.items()
        if len(text.split("\n\n")[0]) > 2 * 88 or not text.endswith(".")
    ]


def test_every_setting_has_one_key() -> None:
    """No two settings have the same key."""
    declared = [*fields(SessionConfig), *fields(OtherSettings)]

    assert len(declared) == len(SETTINGS)
    assert {*SETTINGS} == {*ATTRIBUTES} | SECRETS | {FALLBACK}


def takes(setting: Setting, given: Any) -> bool:
    try:
        setting.read({setting.key: given})
    except SessionConfigError:
        return False
    return True


def test_units_are_what_is_taken() -> None:
    """A setting takes a timedelta if its unit is the second, and no other does."""
    checked = [each for key, each in SETTINGS.items() if key not in SECRETS]

    assert {each.key for each in checked if takes(each, timedelta(minutes=1))} == {
        each.key for each in checked if each.unit == "seconds"
    }
    assert {each.unit for each in checked} == {"", "seconds", "bytes"}


def test_values_that_are_named_are_taken() -> None:
    """A value that an entry names under its type is one that the setting takes."""
    named = [
        (key, value)
        for key, each in SETTINGS.items()
        for value in re.findall("``'([^`]+)'``", each.takes)
    ]

    assert len(named) > 8
    assert [] == [
        (key, value) for key, value in named if not takes(SETTINGS[key], value)
    ]


# The tables of the specification.


def test_tables_and_settings_are_the_same() -> None:
    """Every key in the two tables of the specification is declared, and the other way
    round; the first table has Flask's, the second one the others.
    """
    flasks, others = (rows_of(table).keys() for table in tables())

    assert {*flasks} == {
        key for key, each in SETTINGS.items() if each.owner == "Flask"
    } - {FALLBACK}
    assert {*others} == {key for key, each in SETTINGS.items() if each.owner != "Flask"}
    assert "``APPLICATION_ROOT``" in ROWS["SESSION_COOKIE_PATH"]


def test_owners() -> None:
    """Which package a setting belongs to goes by Flask's own defaults and by names."""
    assert "Flask" == SETTINGS["SECRET_KEY_FALLBACKS"].owner
    assert "Flask-SQLAlchemy" == SETTINGS["SQLALCHEMY_ECHO"].owner
    assert "Flask-SessionSql" == SETTINGS["SESSION_SQLALCHEMY"].owner


def test_documented_keys_are_known() -> None:
    """No key that is documented is warned of as one that means nothing."""
    assert SessionConfig() == SessionConfig.from_mapping(dict.fromkeys(ROWS))


def test_defaults_are_those_of_the_code() -> None:
    """A default that the tables state is the one that the code has, and configuring
    it changes nothing.
    """
    usual = SessionConfig.from_mapping({})
    stated = stated_defaults()

    assert len(stated) > 15
    assert usual == SessionConfig()
    assert usual == SessionConfig.from_mapping(stated)
    # Stands for a value that depends on another one.
    assert stated["SESSION_REFRESH_INTERVAL"] is None
    assert usual.lag == usual.lifetime // 100
    assert stated == {key: getattr(usual, ATTRIBUTES[key]) for key in stated}


def test_defaults_in_words() -> None:
    """Where a table states a default in words, the words are true, too."""
    in_words = {
        key
        for key, text in ROWS.items()
        if re.search("[Dd]efault", text) and key not in stated_defaults()
    }

    assert in_words == {
        "SESSION_TYPE",
        "SESSION_SQLALCHEMY",
        "SQLALCHEMY_DATABASE_URI",
        "SESSION_MAX_PER_USER_POLICY",
        "SESSION_ENCRYPT",
        "SESSION_ADOPT",
    }
    assert (
        f"**{SessionConfig().session_type}**: NullSessionInterface (default)"
        in (ROWS["SESSION_TYPE"])
    )
    policies = ROWS["SESSION_MAX_PER_USER_POLICY"].split(" - ")
    [usual] = [policy for policy in policies if policy.endswith(" (default)")]
    assert usual.startswith(f"**{SessionConfig().max_per_user_policy}**: ")
    assert f"`{SessionConfig().encrypt}` (default)" in ROWS["SESSION_ENCRYPT"]
    assert f"`{SessionConfig().adopt}` (default)" in ROWS["SESSION_ADOPT"]
    assert SessionConfig().sqlalchemy is None
    file = str(SessionConfig().database_uri).removeprefix("sqlite:///")
    assert (
        f"a SQLite file, ``{file}``, in the instance"
        in (ROWS["SQLALCHEMY_DATABASE_URI"])
    )


def test_defaults_of_lifetimes_are_those_of_the_code() -> None:
    """The lifetimes are documented with the defaults that the code has (OWASP ASVS 5.0,
    7.1.1).
    """
    rows = rows_of(page("explanations/lifetimes"))
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
        if getattr(usual, ATTRIBUTES[key]) == timedelta(days=31).total_seconds()
        else repr(getattr(usual, ATTRIBUTES[key]))
        for key in stated
    }


# The names.


def test_settings_that_are_named_exist() -> None:
    """No page, docstring or comment names a setting that there is not."""
    folders = [
        "docs/**/*.rst",
        "docs/*.py",
        "flask_sessionsql/**/*.py",
        "examples/*.py",
    ]
    paths = [
        *(path for folder in folders for path in ROOT.glob(folder)),
        *(ROOT / f"{name}.rst" for name in ("README", "CHANGES", "CONTRIBUTING")),
    ]
    named = {
        name
        for path in paths
        for name in re.findall(r"\bSESSION_[A-Z_]+[A-Z]\b", path.read_text("utf-8"))
    }

    assert len(named) > 20
    assert set() == named - {*SETTINGS} - {*config._FOREIGN} - config._OTHERS


def test_every_group_has_its_section() -> None:
    """The page has each group of settings once, under a title of its own."""
    lines = PAGE.read_text("utf-8").splitlines()
    shown = [
        line.removeprefix(".. settings:: ") for line in lines if "settings::" in line
    ]
    *sections, _ = PAGE.read_text("utf-8").split("\n.. settings:: ")

    assert [*get_args(Group)] == shown
    assert {*shown} == {each.group for each in SETTINGS.values()}
    assert all(re.search("^-+$", section, re.M) for section in sections)


def test_the_summary_has_every_setting(html: Path) -> None:
    """The table at the top has every setting, with its default and what it does."""
    doctree = pickle.loads(
        (html / ".doctrees" / "reference" / "settings.doctree").read_bytes()
    )
    table = next(iter(doctree.findall(lambda node: node.tagname == "tbody")))
    cells = [[cell.astext() for cell in row.children] for row in table.children]

    assert [*SETTINGS] == [key for key, _, _ in cells]
    assert [repr(None if s.unset else s.default) for s in SETTINGS.values()] == [
        default for _, default, _ in cells
    ]
    assert [text.split("\n\n")[0].count(".") > 0 for text in words().values()] == [
        what.endswith(".") for *_, what in cells
    ]


# The page, as Sphinx makes it.


@dataclass(frozen=True)
class Entry:
    """An entry of the page."""

    key: str
    #: The kinds of paragraphs that it has, in their order.
    shape: list[str]
    #: What it says in a word each.
    facts: dict[str, str]

    @classmethod
    def read(cls, node: Any) -> Entry:
        """Read it from what Sphinx has made of it."""
        signature, content = node.children
        found = {field[0].astext(): field[1].astext() for field in content.children[1]}
        shape = [child.tagname for child in content.children]
        return cls(signature.astext(), shape, found)


@pytest.fixture(scope="module")
def entries(html: Path) -> list[Entry]:
    page = pickle.loads(
        (html / ".doctrees" / "reference" / "settings.doctree").read_bytes()
    )
    return [
        Entry.read(node)
        for node in page.findall(lambda node: node.tagname == "desc")
        if node["objtype"] == "setting"
    ]


def test_every_setting_has_an_entry(entries: list[Entry]) -> None:
    """The page has an entry for every setting, and no second one."""
    assert sorted(SETTINGS) == sorted(entry.key for entry in entries)


def test_an_entry_says_first_what_the_setting_does(entries: list[Entry]) -> None:
    """An entry says what the setting does; then type, unit and default; then more."""
    for entry in entries:
        first, second, *rest = entry.shape
        assert ("paragraph", "field_list") == (first, second)
        assert {*rest} <= {"paragraph", "bullet_list"}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("SESSION_CREATE_TABLE", {"Type": "bool", "Default": "True"}),
        (
            "SESSION_MAX_BYTES",
            {"Type": "int", "Unit": "bytes", "Default": "1048576: 1 MiB"},
        ),
        (
            "SESSION_ABSOLUTE_LIFETIME",
            {
                "Type": "int or timedelta or None",
                "Unit": "seconds",
                "Default": "None: as long as it is used",
            },
        ),
        (
            "SESSION_REFRESH_INTERVAL",
            {
                "Type": "int or timedelta or None",
                "Unit": "seconds",
                "Default": "None: a hundredth of PERMANENT_SESSION_LIFETIME",
            },
        ),
        (
            "SESSION_COOKIE_PATH",
            {
                "Type": "str or None",
                "Default": "None: APPLICATION_ROOT",
                "Belongs to": "Flask",
            },
        ),
        (
            "SQLALCHEMY_ECHO",
            {
                "Type": "bool or 'debug'",
                "Default": "False",
                "Belongs to": "Flask-SQLAlchemy",
            },
        ),
        (
            "SECRET_KEY_FALLBACKS",
            {
                "Type": "a list of str or bytes",
                "Default": "None: no earlier keys",
                "Belongs to": "Flask",
            },
        ),
    ],
)
def test_an_entry_has_type_unit_and_default(
    entries: list[Entry], key: str, expected: dict[str, str]
) -> None:
    """An entry tells what can be given, in which unit, and what the default is."""
    assert [expected] == [entry.facts for entry in entries if entry.key == key]


def test_entries_state_the_defaults_of_the_code(entries: list[Entry]) -> None:
    """Every entry states the default that the code has, and configuring all of them
    changes nothing.
    """
    stated = {
        entry.key: ast.literal_eval(entry.facts["Default"].split(": ")[0])
        for entry in entries
    }

    assert stated == {
        key: None if each.unset else each.default for key, each in SETTINGS.items()
    }
    read = SessionConfig.from_mapping(stated)
    assert SessionConfig() == replace(read, database_uri=str(read.database_uri))


def test_other_pages_can_link_to_a_setting(pages: dict[str, Page]) -> None:
    """``:setting:`` links to the entry, which has an address of its own."""
    index, page = pages["index.html"], pages["reference/settings.html"]

    assert (
        'href="reference/settings.html#setting-SQLALCHEMY_DATABASE_URI"' in index.html
    )
    assert [] == [key for key in SETTINGS if f"setting-{key}" not in page.ids]


def test_other_projects_can_link_to_a_setting(html: Path) -> None:
    """Every setting is in the inventory of the documentation."""
    packed = (html / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(packed).decode().splitlines()

    assert {*SETTINGS} == {
        line.split()[0] for line in lines if line.split()[1] == "std:setting"
    }


def test_the_reference_names_settings(pages: dict[str, Page]) -> None:
    """Every attribute of SessionConfig is in the reference, where it links to the entry
    of its setting and does not repeat it.
    """
    members = [
        member
        for page in pages.values()
        for member in re.split('id="flask_sessionsql.', page.html)
        if member.startswith("config.SessionConfig.")
    ]
    found = {member.split('"')[0].split(".")[-1]: member for member in members}

    assert {*ATTRIBUTES.values()} < found.keys()
    for key, name in ATTRIBUTES.items():
        assert f'settings.html#setting-{key}"' in found[name]
        assert "is an error" not in found[name]


def test_a_group_that_there_is_not(build: Build, tmp_path: Path) -> None:
    """A directive that names no group of settings is an error."""
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "extensions = ['sphinx.ext.autodoc', 'docs.settings']\n",
        "utf-8",
    )
    (tmp_path / "index.rst").write_text(".. settings:: cookies\n", "utf-8")

    said = build(tmp_path, tmp_path / "built", "-b", "dummy")
    assert "No setting is in the group 'cookies'." in said
