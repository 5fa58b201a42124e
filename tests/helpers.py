"""What tests of every kind share."""

from __future__ import annotations

from typing import Any

import pytest


def on(*cases: str | tuple[Any, ...]) -> list[Any]:
    """Parameters of a test or a fixture, each marked with the database that it needs:
    ``-m`` chooses tests by these markers.

    :param cases: names of databases, or tuples that begin with one.
    """
    params = []
    for case in cases:
        values = (case,) if isinstance(case, str) else case
        marker = getattr(pytest.mark, values[0].replace("-", "_"))
        params.append(pytest.param(*values, marks=marker))
    return params
