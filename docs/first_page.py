"""The first page: its classes are there for what they say. Only the package calls them,
so their parameters are in the reference alone.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from sphinx.application import Sphinx


def is_of_first_page(app: Sphinx, what: str) -> bool:
    """Whether this is a class on the first page."""
    return what == "class" and bool(app.env.docname == app.config.root_doc)


def leave_signature_out(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, given: Any, result: Any
) -> tuple[str, str] | None:
    """No parameters after the name of the class."""
    return ("", "") if is_of_first_page(app, what) else None


def leave_parameters_out(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """No list of parameters below its text."""
    if is_of_first_page(app, what):
        lines[:] = [*takewhile(lambda line: not line.startswith(":param"), lines)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what this module has."""
    app.setup_extension("sphinx.ext.autodoc")
    # Before and after the type hints, whose priority is 500.
    app.connect("autodoc-process-signature", leave_signature_out, priority=100)
    app.connect("autodoc-process-docstring", leave_parameters_out, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
