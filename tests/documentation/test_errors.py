"""The page of errors and warnings has each of them, with the status that it becomes."""

from __future__ import annotations

import re

from werkzeug.exceptions import HTTPException

from flask_sessionsql import exceptions
from tests.pages import page

#: Before a request, or outside of one.
NO_STATUS = {"SessionConfigError", "SessionConfigWarning", "UnreadableSessionError"}


def statuses() -> dict[str, str]:
    """The rows of the table: the name of an exception, and its HTTP status."""
    row = r"^   \* - :exc:`~flask_sessionsql\.(?:exceptions\.)?(\w+)`\n     - (\w+)$"
    return dict(re.findall(row, page("reference/errors"), re.M))


def expected(name: str) -> str:
    """What an exception becomes, by its class."""
    kind = getattr(exceptions, name)
    if issubclass(kind, HTTPException):
        return str(kind.code)
    return "none" if name in NO_STATUS else "500"


def test_every_error_has_its_row() -> None:
    """Each exception that is raised is in the table with its status, and so is the
    warning.
    """
    raised = {*exceptions.__all__} - {"SessionError"}

    assert {name: expected(name) for name in raised} == statuses()


def test_every_error_has_its_entry() -> None:
    """Each exception's docstring is on the page, that of their base included."""
    entry = r"autoexception:: flask_sessionsql\.(?:exceptions\.)?(\w+)$"

    assert {*exceptions.__all__} == {*re.findall(entry, page("reference/errors"), re.M)}
