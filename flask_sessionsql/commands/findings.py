"""The findings of ``flask sessions check``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

__all__ = ["Finding", "error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and what to do about it."""

    level: Literal["error", "warning"]
    """``"error"``: sessions do not always work, or are not safe. ``"warning"``: they
    could be faster or safer.
    """
    subject: str
    """A setting, the table, a column such as ``"sessions.data"``, or ``"database"``."""
    problem: str
    """What was found, and what was expected."""
    advice: str
    """What to do, with the setting or the SQL where there is one."""


#: A finding of either level.
error: partial[Finding] = partial(Finding, "error")
warning: partial[Finding] = partial(Finding, "warning")
