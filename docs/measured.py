"""The directive that puts the figures of the benchmarks into pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from docutils.statemachine import StringList  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

from benchmarks import results
from benchmarks.blocks import as_rst
from benchmarks.results import Document
from benchmarks.tables import SHOWN


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
