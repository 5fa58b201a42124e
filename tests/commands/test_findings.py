from __future__ import annotations

from flask_sessionsql.commands.findings import Finding, error, warning


def test_levels() -> None:
    """A finding of each level is a value."""
    assert error("a", "b", "c") == Finding("error", "a", "b", "c")
    assert warning("a", "b", "c") == Finding("warning", "a", "b", "c")
