"""Every block of every page is executed, and a console shows what is printed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.pages import DOCS
from tests.throwaway import program

from .inventory import Found, all_blocks, calls, is_walked, way_of
from .lists import NOT_RUN, PREPARED
from .running import failures, has_commands, programs, run_page
from .source import blocks_of

PAGES = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.rst")
)
RUN = [name for name in PAGES if has_commands(name) and not is_walked(name)]


@pytest.mark.parametrize("name", RUN)
def test_console(name: str, tmp_path: Path) -> None:
    """What is typed as a page says prints what the page shows."""
    for needed in programs(name):
        program(needed, needed)

    wrong = [*failures(run_page(name, tmp_path))]

    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)


@pytest.fixture(scope="session")
def found(html: Path) -> list[Found]:
    return [*all_blocks(html / ".doctrees")]


def test_every_block_is_run(found: list[Found]) -> None:
    """A build or a test runs every block of every page, of docstrings and of the
    README; few are on a list that says why nothing does.
    """
    ways = {each: way_of(each) for each in found}
    print(Counter(ways.values()))
    missing = [
        f"{each.where}: nothing runs this block"
        f" ({each.language or 'no language'}): {each.first}"
        for each, way in ways.items()
        if way is None
    ]

    assert {None} != {*ways.values()}
    if missing:
        pytest.fail("\n".join([*missing, ADVICE]), pytrace=False)


ADVICE = """
Python that shows itself: '.. testcode:: GROUP' and '.. testoutput:: GROUP', or '>>>'.
Commands: '.. code-block:: console', where commands begin with '$ ' and their output
follows. A file that they need: '.. code-block:: LANGUAGE' with ':caption: NAME'.
Anything else: let a test read it by block(PAGE, FIRST_LINE_OR_CAPTION), from
tests/documentation/source.py, and try it. Or name it in NOT_RUN of lists.py, and say
why nothing can run it."""


def test_lists_are_up_to_date(found: list[Found]) -> None:
    """What is said of single blocks and pages is said of some that are there."""
    blocks = {(each.page, each.first) for each in found}
    blocks |= {(name, each.caption) for name in PAGES for each in blocks_of(name)}

    assert [] == [line for line in NOT_RUN if line[:2] not in blocks]
    assert set() == calls("block") - blocks
    assert set() == {*PREPARED} - {*RUN}
    assert all(why for _, _, why in NOT_RUN)
