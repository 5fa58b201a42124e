"""Sentences, tables, sections and pictures, and how they are set for a terminal.
:mod:`docs.measured` sets them for the documentation.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Stands where there is no figure.
NO_FIGURE = "–"  # noqa: RUF001 -- a dash is what is meant


class Section(NamedTuple):
    """The title of what follows."""

    title: str


class Picture(NamedTuple):
    """A picture of the documentation, for light pages and for dark ones."""

    name: str
    title: str


class Table(NamedTuple):
    """A table of figures.

    :ivar labels: how many columns at the left say what a row is about.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1


#: A string is a paragraph.
Block = str | Section | Picture | Table


def as_text(blocks: Iterable[Block]) -> str:
    """What is printed on a terminal: everything but pictures."""
    texts = [_text(block) for block in blocks if not isinstance(block, Picture)]
    return "\n".join(f"{text}\n" for text in texts)


def _text(block: str | Section | Table) -> str:
    if isinstance(block, str):
        return textwrap.fill(_plain(block), 88)
    if isinstance(block, Section):
        return f"{block.title}\n{'=' * len(block.title)}"
    rows = [list(map(_plain, row)) for row in (block.head, *block.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [block.title]
    for row in rows:
        cells = (
            cell.ljust(width) if place < block.labels else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _plain(text: str) -> str:
    # What marks words for the documentation means nothing here.
    return re.sub(r"\*\*|``", "", text)


def number(value: float | None, digits: int = 1) -> str:
    """A figure as it is read: with so many decimals if it is small, and none from 10
    on.
    """
    if value is None or not math.isfinite(value):
        return NO_FIGURE
    if abs(value) >= 10:
        digits = 0
    # Adding 0 makes a zero of a negative one.
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def whole(value: float) -> str:
    """A figure that is counted."""
    return f"{value:,.0f}"


def share(value: float) -> str:
    """A share of 1, in per cent."""
    return f"{100 * value:.1f} %"


def several(parts: Sequence[str]) -> str:
    """An enumeration."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def count(value: int, one: str) -> str:
    """So many of something."""
    return f"{value:,} {one}" if value == 1 else f"{value:,} {one}s"


def verdict(is_met: bool) -> str:
    """What came of an aim."""
    return "met" if is_met else "**not met**"
