"""The blocks of a page, as its reStructuredText has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.pages import DOCS, page

_DIRECTIVE = re.compile(r"( *)\.\. (code-block|literalinclude):: *(.*)")
_OPTION = re.compile(r" +:([\w-]+): *(.*)")
#: Options of ``literalinclude`` with which the whole file is shown.
_WHOLE = {"caption", "language", "name", "emphasize-lines", "linenos"}


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: str
    language: str
    #: The name of a file, or nothing.
    caption: str
    #: The number of its first line, from 0.
    line: int
    #: How far it is indented.
    depth: int
    text: str

    @property
    def first(self) -> str:
        """Its first line."""
        return self.text.strip().partition("\n")[0].strip()

    @property
    def where(self) -> str:
        return f"docs/{self.page}.rst:{self.line + 1}"


@dataclass(frozen=True)
class Command:
    """A command of a console block, and the output that is shown below it."""

    text: str
    shown: list[str]
    #: The number of the first line below the command, from 0.
    line: int


def blocks_of(name: str) -> list[Block]:
    """The blocks of a page that are written by directives."""
    return [*_blocks(name, page(name).splitlines())]


def _blocks(name: str, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        found = _DIRECTIVE.fullmatch(lines[number])
        number += 1
        if not found:
            continue
        depth, kind, argument = len(found[1]), found[2], found[3]
        options: dict[str, str] = {}
        while number < len(lines) and (option := _OPTION.fullmatch(lines[number])):
            options[option[1]] = option[2]
            number += 1
        start, number = number, _end(lines, number, depth)
        if kind == "literalinclude":
            text = _included(name, argument, options)
            start, language = start - 1, options.get("language", "python")
        else:
            while start < number and not lines[start].strip():
                start += 1
            text, language = dedent("\n".join(lines[start:number])), argument
        inner = len(lines[start]) - len(lines[start].lstrip()) if start < number else 0
        caption = options.get("caption", "")
        yield Block(name, language, caption, start, inner, text.rstrip() + "\n")


def _end(lines: list[str], start: int, depth: int) -> int:
    """Where the lines that are indented further end."""
    for number in range(start, len(lines)):
        line = lines[number]
        if line.strip() and len(line) - len(line.lstrip()) <= depth:
            return number
    return len(lines)


def _included(name: str, path: str, options: dict[str, str]) -> str:
    if "caption" in options and not {*options} <= _WHOLE:
        raise ValueError(
            f"docs/{name}.rst: {path} has a caption, so the page gives it as a whole"
            " file; include it as a whole, or without a caption."
        )
    folder = DOCS / Path(name).parent
    file = DOCS / path[1:] if path[0] == "/" else folder / path
    return file.read_text("utf-8") if file.is_file() else ""  # of that Sphinx complains


def commands_of(block: Block) -> list[Command]:
    """The commands of a console block."""
    found: list[Command] = []
    command: list[str] = []
    for number, line in enumerate(block.text.rstrip().splitlines(), block.line):
        if line.startswith("$ "):
            command = [line[2:]]
            found.append(Command(line[2:], [], number + 1))
        elif not found:
            raise ValueError(
                f"{block.where}: a console block begins with a command: '$ ...'"
            )
        elif (line == ">" or line.startswith("> ")) and not found[-1].shown:
            command.append(line[2:])
            found[-1] = Command("\n".join(command), [], number + 1)
        else:
            found[-1].shown.append(line)
    for each in found:
        while each.shown and not each.shown[-1].strip():
            each.shown.pop()
    return found


def block(name: str, first: str) -> str:
    """The one block of a page that begins with this line, or is a file of this name:
    for a test that tries it.

    Write the arguments out: the inventory of all blocks looks for these calls.
    """
    found = [each for each in blocks_of(name) if first in (each.caption, each.first)]
    if len(found) != 1:
        raise LookupError(
            f"docs/{name}.rst has {len(found)} blocks that begin with {first!r}, or are"
            " files of that name. A test reads one: correct the test, or the page."
        )
    return found[0].text
