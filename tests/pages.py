"""The pages of the documentation, as they are written."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def page(name: str) -> str:
    """The reStructuredText of a page."""
    return (DOCS / f"{name}.rst").read_text("utf-8")
