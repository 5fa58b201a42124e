"""Every block of code on every page, and what runs it."""

from __future__ import annotations

import ast
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.pages import DOCS

from .lists import not_run, sets_up
from .running import has_commands, is_file, is_run
from .source import Block, blocks_of, commands_of

nodes: Any = pytest.importorskip(
    "docutils.nodes", reason="Docutils comes with `nox -s docs`"
)
core: Any = pytest.importorskip("docutils.core")
ROOT = DOCS.parent


@dataclass(frozen=True)
class Found:
    """A block as a reader sees it."""

    #: The page, such as ``guides/sqlite``.
    page: str
    where: str
    language: str
    is_doctest: bool
    #: The file that it shows, if it does.
    file: str
    text: str

    @property
    def first(self) -> str:
        return self.text.partition("\n")[0].strip()


def all_blocks(doctrees: Path) -> Iterator[Found]:
    """The blocks of all pages that were built, and of the README.

    :param doctrees: the folder where Sphinx has left them.
    """
    for path in sorted(doctrees.rglob("*.doctree")):
        name = path.relative_to(doctrees).with_suffix("").as_posix()
        yield from _found(name, pickle.loads(path.read_bytes()))
    readme = (ROOT / "README.rst").read_text("utf-8")
    yield from _found("../README", core.publish_doctree(readme, "README.rst"))


def _found(page: str, document: Any) -> Iterator[Found]:
    for node in document.findall():
        if not isinstance(node, (nodes.literal_block, nodes.comment)):
            continue  # a doctest_block is a literal one
        is_doctest = "testnodetype" in node or isinstance(node, nodes.doctest_block)
        if isinstance(node, nodes.comment) and not is_doctest:
            continue
        source = str(node.source or document.get("source") or page)
        where = f"{source.removeprefix(f'{ROOT}/')}:{node.line}"
        language = node.get("language") or " ".join(node.get("classes", []))
        file, text = node.get("source", ""), node.astext().strip("\n")
        yield Found(page, where, language, is_doctest, file, text)


# What runs a block.


def _is_of_neighbours(found: Found) -> bool:
    """``tests/neighbours`` runs all Python of a page."""
    folder, _, name = found.page.partition("/")
    test = ROOT / f"tests/neighbours/test_{name.replace('-', '_')}.py"
    return folder == "neighbours" and found.language == "python" and test.is_file()


def is_walked(page: str) -> bool:
    """A test goes through the page as its reader does: see ``tests/tutorials``."""
    return (page,) in calls("walked")


def _is_of_walk(found: Found) -> bool:
    if not is_walked(found.page):
        return False
    texts = [each.text.strip() for each in blocks_of(found.page) if is_run(each)]
    return found.text.strip() in texts


def _is_of_runner(found: Found) -> bool:
    """The page is run; a file of it is named there, or found by pytest."""
    if not (DOCS / f"{found.page}.rst").is_file() or not has_commands(found.page):
        return False
    on_page = blocks_of(found.page)
    same = [each for each in on_page if each.text.strip() == found.text.strip()]
    return any(
        is_run(each) and (not is_file(each) or _is_used(each, on_page)) for each in same
    )


def _is_used(file: Block, blocks: list[Block]) -> bool:
    commands = [
        command.text
        for each in blocks
        if each.language == "console" and is_run(each)
        for command in commands_of(each)
    ]
    name = Path(file.caption)
    if name.match("conftest.py") or name.match("test_*.py"):
        return any("pytest" in command for command in commands)
    others = [each.text for each in blocks if is_file(each) and each is not file]
    word = re.compile(rf"\b{re.escape(name.stem)}\b")
    return any(word.search(text) for text in [*commands, *others])


def _is_read(found: Found) -> bool:
    """A test reads it by ``block()``."""
    names = {found.first, *_captions(found)}
    return any((found.page, name) in calls("block") for name in names)


def _captions(found: Found) -> list[str]:
    if not (DOCS / f"{found.page}.rst").is_file():
        return []
    return [
        each.caption
        for each in blocks_of(found.page)
        if each.text.strip() == found.text.strip() and each.caption
    ]


def _is_example(found: Found) -> bool:
    """It shows a file of ``examples``, which a test imports."""
    if "/examples/" not in found.file:
        return False
    path = Path(found.file.rpartition("/examples/")[2]).with_suffix("")
    return ".".join(("examples", *path.parts)) in imported()


def _is_listed(found: Found) -> bool:
    return not_run(found.page, found.text) or sets_up(found.text)


#: Each with what it says of a block.
WAYS: dict[str, Callable[[Found], bool]] = {
    "doctest": lambda found: found.is_doctest,
    "neighbours": _is_of_neighbours,
    "walk": _is_of_walk,
    "runner": _is_of_runner,
    "read": _is_read,
    "example": _is_example,
    "listed": _is_listed,
}


def way_of(found: Found) -> str | None:
    """What runs a block, if anything."""
    return next((name for name, runs in WAYS.items() if runs(found)), None)


# What the tests have.


@cache
def _trees() -> list[ast.Module]:
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    return [ast.parse(path.read_text("utf-8")) for path in files]


@cache
def calls(function: str) -> set[tuple[str, ...]]:
    """The arguments with which tests call a function, where all are written out."""
    found = set()
    for tree in _trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            values = [getattr(each, "value", None) for each in node.args]
            if name == function and all(isinstance(value, str) for value in values):
                found.add(tuple(map(str, values)))
    return found


@cache
def imported() -> set[str]:
    """The modules from which tests import something."""
    return {
        node.module or ""
        for tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }
