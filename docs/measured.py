"""The page "What it costs": its text, and the directives that put figures into it.

How it was measured
-------------------

.. measured:: cost-setting

.. told:: benchmarks.cost
   :subject: ``python -m benchmarks cost``

.. told:: benchmarks.measure

The applications that are compared have the same views, and different sessions:

.. told:: benchmarks.peers

A request
---------

.. measured:: cost

Larger sessions
---------------

The same with larger sessions. Who cannot hold one is left out.

.. measured:: larger

What was aimed at
-----------------

The targets compare what stands in the tables above.

.. measured:: targets

Growth
------

.. measured:: growth-setting

.. told:: benchmarks.growth

.. measured:: growth

A whole server
--------------

.. measured:: server-setting

.. told:: benchmarks.server
   :subject: ``python -m benchmarks server``

This was aimed at:

.. measured:: server-aims

.. measured:: server

All of them have the pool of connections that comes without a setting: five that stay
open, and ten more that are opened when they are needed, which
:mod:`the sessions keep <flask_sessionsql.storage.engines>`.

Start-up and memory
-------------------

.. measured:: startup-setting

.. told:: benchmarks.startup
   :subject: ``python -m benchmarks startup`` has two parts:

.. measured:: starts

.. measured:: memory

Where the time goes
-------------------

A request pays for the database's work on its statements, and for what is done around
each. Of the second there is as little as can be:
:class:`~flask_sessionsql.storage.driver.DirectWay` has SQLAlchemy
compile each statement once, and hands it to a cursor of the driver's that stays with
its connection in SQLAlchemy's pool. The pool and its settings are in use as ever;
:mod:`flask_sessionsql.storage.connections` leaves out what it does for listeners,
where there are none.

Nobody who watches misses a statement by it. While ``SQLALCHEMY_ECHO`` is set, or anyone
listens to the events of the engine, every statement takes SQLAlchemy's own way, where
all of them see it, and each request pays what that way costs. It is so with any
instrumentation that is built on these events, and with any driver but those that the
tests of this package run on: Python's ``sqlite3``, psycopg and PyMySQL.

OpenTelemetry's instrumentation of SQLAlchemy is one of those. Where its release
declares that it needs a SQLAlchemy before 2.1, and a newer one is installed, it logs
that and does nothing, unless it is told to leave this out::

    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    SQLAlchemyInstrumentor().instrument(skip_dep_check=True)

To see where the time of one request goes, let Python's profiler watch it::

    $ sh tools/nox.sh -s benchmarks -- cost --profile read --database sqlite

How to run it again
-------------------

In a checkout, with PostgreSQL, MariaDB and Redis at hand, this measures everything on
this page, writes the figures to ``benchmarks/results`` and draws the pictures::

    $ sh tools/nox.sh -s benchmarks

Each benchmark can be run by itself; ``--json`` writes its figures, and the last command
draws the pictures of what is there::

    $ sh tools/nox.sh -s benchmarks -- --help
    $ sh tools/nox.sh -s benchmarks -- cost --help
    $ sh tools/nox.sh -s benchmarks -- cost --json benchmarks/results/cost.json
    $ sh tools/nox.sh -s benchmarks -- growth --json benchmarks/results/growth.json
    $ sh tools/nox.sh -s benchmarks -- server --json benchmarks/results/server.json
    $ sh tools/nox.sh -s benchmarks -- startup --json benchmarks/results/startup.json
    $ sh tools/nox.sh -s benchmarks -- figures

With ``--quick`` each takes some seconds, and its figures mean nothing::

    $ sh tools/nox.sh -s benchmarks -- cost --quick

The servers are those of ``SESSIONSQL_POSTGRESQL_URL``, ``SESSIONSQL_MARIADB_URL`` and
``SESSIONSQL_REDIS_URL``, or the local ones.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from docutils.parsers.rst import directives  # type: ignore[import-untyped]
from docutils.statemachine import StringList  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

from benchmarks import results
from benchmarks.figures import SERVER_NAMES
from benchmarks.peers import DJANGO_NOTHING
from benchmarks.tables import SHOWN, Document

ROOT = Path(__file__).parents[1]
#: Whose sessions they are, as the pictures and tables have it.
CALLED = {**SERVER_NAMES, DJANGO_NOTHING: "Django without sessions"}


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
    return SHOWN[name][1](document)


def told(source: str, subject: str = "") -> list[str]:
    """What a benchmark says about itself, but for its first sentence, which is its
    title: the docstring of its module, which need not be importable here.

    :param source: the text of the module.
    :param subject: who the first word, a verb, is said of.
    """
    text = ast.get_docstring(ast.parse(source)) or ""
    blocks = [as_definitions(block) for block in text.split("\n\n")[1:]]
    if subject and not subject.endswith(":"):
        blocks[0] = f"{subject} {blocks[0][0].lower()}{blocks[0][1:]}"
    elif subject:
        blocks.insert(0, subject)
    text = re.sub(
        r"(?::mod:`)?\bbenchmarks\.(\w+)`?",
        r"``benchmarks/\1.py``",
        "\n\n".join(blocks),
    )
    return [with_names(line) for line in text.splitlines()]


def as_definitions(block: str) -> str:
    """A list of terms that is set as columns, for a terminal, set as definitions."""
    begins = re.match(r"(\w[\w-]* {2,})\S", block)
    if begins is None:
        return block
    width = len(begins[1])
    lines = []
    for line in block.splitlines():
        term, text = line[:width].strip(), line[width:]
        if term:
            lines += [term]
        lines.append(f"    {text}")
    return "\n".join(lines)


def with_names(line: str) -> str:
    """A line of the terms of a definition list, with the contenders' full names."""
    names = line.split(", ")
    if set(names) <= CALLED.keys():
        return ", ".join(CALLED[name] for name in names)
    return line


class Told(SphinxDirective):
    """``.. told:: benchmarks.NAME`` is what the benchmark says about itself."""

    required_arguments = 1
    option_spec = {"subject": directives.unchanged}  # noqa: RUF012 -- docutils' way

    def run(self) -> list[Any]:
        """Read the docstring."""
        path = ROOT / f"{self.arguments[0].replace('.', '/')}.py"
        self.env.note_dependency(str(path))
        lines = told(path.read_text("utf-8"), self.options.get("subject", ""))
        source = f"{path}:docstring of {self.arguments[0]}"
        return self.parse_text_to_nodes(StringList(lines, source=source))


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
    app.add_directive("told", Told)
    app.add_directive("measured", Measured)
    app.connect("doctree-resolved", leave_ids_out)
    return {"parallel_read_safe": True}
