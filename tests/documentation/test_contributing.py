"""The page about contributing names what there is, and what runs it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.pages import DOCS, page

from .site import GROUPS


def sessions() -> dict[str, bool]:
    """The sessions of nox, and whether each runs without being named."""
    tree = ast.parse((DOCS.parent / "noxfile.py").read_text("utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if any(mark.startswith("nox.session") for mark in marks):
                found[node.name] = not any("default=False" in mark for mark in marks)
    return found


def test_contributors_are_told_every_session() -> None:
    """CONTRIBUTING has each session of nox, with the time it takes, and says which run
    only when they are named.
    """
    _, _, text = page("../CONTRIBUTING").partition("Every session\n-")
    text = text.partition("Databases\n-")[0]
    rows = dict(
        re.findall(r"^   \* - ``(\w+)``\n     - ((?:.*\n(?=      ))*.*)", text, re.M)
    )
    times = re.findall(r"^     - (.*\b(?:seconds|minutes?)|until .*)$", text, re.M)

    assert sessions().keys() == rows.keys()
    assert len(rows) == len(times)
    assert {name for name, always in sessions().items() if not always} == {
        name for name, said in rows.items() if "Only when named" in said
    }


def test_the_session_docs_runs_this(request: pytest.FixtureRequest, html: Path) -> None:
    """A test that reads the site is marked: the session docs chooses by the marker."""
    assert (html / "index.html").is_file()
    assert request.node.get_closest_marker("site")


def test_contributors_are_told_of_every_folder() -> None:
    """CONTRIBUTING says what each folder of the documentation is for."""
    text = page("../CONTRIBUTING")

    assert [] == [name for name in GROUPS if f"``docs/{name}/``" not in text]
