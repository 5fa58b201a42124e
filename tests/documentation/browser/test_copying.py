"""What a reader copies from a page is what is to be typed, and nothing else."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Reader

pytest.importorskip("docutils", reason="the nox session site installs it")

from docutils import nodes  # type: ignore[import-untyped]

#: How many blocks of each kind are copied from the pages of a folder.
A_FEW = 3
FOLDERS = ["tutorials", "guides", "neighbours", "explanations", "reference", "."]


def typed(source: str) -> str:
    """What is to be typed of a block: all of it, or what prompts stand before."""
    lines = re.findall(
        r"^(?:>>> |\.\.\. |\.\.\.$(?=\n(?:>>>|\.\.\.))|\$ )(.*(?:\\\n.*)*)",
        source,
        re.MULTILINE,
    )
    return (
        "\n".join(lines) if re.search(r"^(>>>|\$) ", source, re.MULTILINE) else source
    )


def kind(source: str) -> str:
    """What a block begins with: a prompt, or none."""
    return next((each for each in (">>> ", "$ ") if source.startswith(each)), "file")


def blocks(html: Path, page: str) -> list[str]:
    """The blocks of a page, as its source has them."""
    doctree: Any = pickle.loads((html / f".doctrees/{page}.doctree").read_bytes())
    found = doctree.findall(
        lambda node: isinstance(node, nodes.literal_block | nodes.doctest_block)
    )
    return [block.astext().rstrip("\n") for block in found]


def chosen(html: Path, folder: str) -> list[tuple[str, int, str]]:
    """A few blocks of each kind of a folder: the page, which one it is, its source."""
    pages = [path.relative_to(html) for path in sorted(html.glob(f"{folder}/*.html"))]
    names = [path.with_suffix("").as_posix() for path in pages]
    written = [name for name in names if (html / f".doctrees/{name}.doctree").exists()]
    few: dict[str, list[tuple[str, int, str]]] = {}
    for name in written:
        for number, source in enumerate(blocks(html, name)):
            few.setdefault(kind(source), []).append((name, number, source))
    # From as many pages as there are.
    steps = {name: len(found) // A_FEW + 1 for name, found in few.items()}
    return [each for name, found in few.items() for each in found[:: steps[name]]]


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_copied_can_be_typed(reader: Reader, html: Path, folder: str) -> None:
    """The button of a block copies what its source has, without prompts and outputs."""
    reader.context.grant_permissions(["clipboard-read", "clipboard-write"])
    copied = {}
    expected = {}
    for page, number, source in chosen(html, folder):
        reader.open(f"{page}.html")
        button = reader.tab.locator("article button.copybtn").nth(number)
        button.click()
        reader.tab.locator("button.copybtn.success").first.wait_for()
        place = f"{page}, block {number + 1}"
        copied[place] = reader.tab.evaluate("navigator.clipboard.readText()")
        expected[place] = typed(source)

    assert len(copied) >= 3
    assert expected == copied
