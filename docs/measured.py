"""The directive that puts the figures of the benchmarks into pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from docutils.statemachine import StringList  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

from benchmarks import results, tables, terms
from benchmarks.blocks import Block, Picture, Section, count, number, several
from benchmarks.results import Document
from benchmarks.terms import OURS, READ, SIZE, UNTOUCHED, WRITE


def setting(document: Document) -> Iterator[Block]:
    """When it was measured, and on what."""
    machine = document["machine"]
    versions = [f"{name} {version}" for name, version in document["versions"].items()]
    yield (
        f"Measured on {document['date']} on {count(machine['cores'], 'core')}"
        f" ({machine['platform']}) with {machine['python']},"
        f" {several(versions)}."
    )
    if document.get("quick"):
        yield ".. warning:: These figures come from a trial run, and mean nothing."


def answer(document: Document) -> Iterator[Block]:
    """The answer in three sentences, a paragraph each."""
    cases = tables.cases_of(document)
    names = tables.databases(document)

    def ours(request: str) -> str:
        return several(
            [number(cases[name, request, OURS]["overhead"]) for name in names]
        )

    def times(request: str, other: str) -> str:
        return several(
            [number(cases[name, request, other]["to_ours"], 2) for name in names]
        )

    for what, request in (("reads", READ), ("changes", WRITE)):
        cookie = times(request, terms.COOKIE)
        sql = times(request, terms.FLASK_SESSION)
        redis = times(request, terms.FLASK_SESSION_REDIS)
        yield (
            f"A request that {what} its session of {SIZE} bytes takes {ours(request)}"
            f" microseconds more on {several(names)} than one without sessions; Flask's"
            f" own signed cookie takes {cookie} times as long as that, Flask-Session on"
            f" the same database {sql} times, and Flask-Session on Redis {redis} times."
        )
    untouched = [cases[name, UNTOUCHED, OURS] for name in names]
    sent = any(case["statements"] for case in untouched)
    most = max(case["overhead"] for case in untouched)
    yield (
        "A request that has a session and does not touch it takes at most"
        f" {number(most)} microseconds more"
        + ("." if sent else ", and sends nothing to the database.")
    )


#: What can be shown, by its name: the benchmark whose figures it takes, and what shows
#: them.
SHOWN: dict[str, tuple[str, Callable[[Document], Iterable[Block]]]] = {
    "answer": ("cost", answer),
    "cost-setting": ("cost", setting),
    "cost": ("cost", tables.cost_databases),
    "larger": ("cost", tables.larger),
    "baskets": ("cost", tables.baskets),
    "journals": ("cost", tables.journals),
    "targets": ("cost", tables.cost_targets),
    "growth-setting": ("growth", setting),
    "growth": ("growth", tables.growth_databases),
    "server-setting": ("server", setting),
    "server-aims": ("server", tables.server_aims),
    "server": ("server", tables.server_parts),
    "startup-setting": ("startup", setting),
    "starts": ("startup", tables.starts),
    "memory": ("startup", tables.memory),
    "purge": ("purge", lambda found: chain(tables.purges(found), setting(found))),
}


class MissingFiguresError(SphinxError):
    """A benchmark has not written its figures. Says how it is made to."""

    category = "Missing figures"


def path_of(benchmark: str, folder: Path) -> Path:
    """Where the figures of a benchmark are.

    :raises MissingFiguresError: they are not there.
    """
    path = folder / f"{benchmark}.json"
    if not path.is_file():
        raise MissingFiguresError(
            f"There are no figures in {path}. This measures them: sh tools/nox.sh -s"
            f" benchmarks -- {benchmark} --json benchmarks/results/{benchmark}.json"
        )
    return path


def shown(name: str, document: Document) -> list[str]:
    """What the directive ``measured`` shows, in reStructuredText."""
    return as_rst(SHOWN[name][1](document))


def as_rst(blocks: Iterable[Block]) -> list[str]:
    """Lines of reStructuredText, with an empty one after each block."""
    return [line for block in blocks for line in (*_rst(block), "")]


def _rst(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield block
    elif isinstance(block, Section):
        yield from (block.title, "~" * len(block.title))
    elif isinstance(block, Picture):
        said = " ".join(block.title.split())
        # In other formats, one is enough.
        yield ".. only:: html"
        for theme in ("light", "dark"):
            yield ""
            yield f"   .. image:: /_static/benchmarks/{block.name}-{theme}.svg"
            yield f"      :alt: {said}, as bars. The table has the figures."
            yield f"      :class: only-{theme}"
    else:
        yield f".. list-table:: {block.title}"
        yield "   :class: measured"
        yield "   :header-rows: 1"
        yield f"   :stub-columns: {block.labels}"
        yield ""
        for row in (block.head, *block.rows):
            for place, cell in enumerate(row):
                yield f"   {' ' if place else '*'} - {cell}".rstrip()


class Measured(SphinxDirective):
    """``.. measured:: NAME`` shows figures from ``benchmarks/results``."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Read the figures."""
        [name] = self.arguments
        if name not in SHOWN:
            raise self.error(f"There is no {name!r}, but: {', '.join(SHOWN)}")
        path = path_of(SHOWN[name][0], results.RESULTS)
        self.env.note_dependency(str(path))
        lines = shown(name, results.load(path))
        text = StringList(lines, source=str(path))
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def leave_ids_out(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """A table with a title has an id, which furo gives to what it puts around, too."""
    for each in doctree.findall(nodes.container):
        if "table-wrapper" in each["classes"]:
            each["ids"].clear()


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what this module has."""
    app.add_directive("measured", Measured)
    app.connect("doctree-resolved", leave_ids_out)
    return {"parallel_read_safe": True}
