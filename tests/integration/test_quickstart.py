"""The quickstart of the documentation, served by a real server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SERVERS
from tests.helpers import on

TOOL = Path(__file__).parents[2] / "tools" / "quickstart.py"

SEEN = ["GET /get/ -> not set", "GET /set/ -> ok", "GET /get/ -> value"]


def quickstart(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
    )


def seen(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.startswith("GET ")]


def test_as_written() -> None:
    """The quickstart does, as it is written, what the documentation says: a browser
    sees ``not set``, ``ok`` and ``value``, and the session is in ``/tmp/test.db``.
    """
    result = quickstart()

    assert (SEEN, 0) == (seen(result), result.returncode), result.stderr
    assert "in the table flask_sessionsql of sqlite:////tmp/test.db" in result.stdout


@pytest.mark.parametrize("backend", on(*SERVERS))
def test_other_databases(backend: str, make_database: Callable[[str], str]) -> None:
    """It does the same on a database server, whose address is all that changes."""
    result = quickstart("--database", make_database(backend))

    assert (SEEN, 0) == (seen(result), result.returncode), result.stderr
    assert "Sessions in that table now: 1\n" in result.stdout


def test_failure_is_told(tmp_path: Path) -> None:
    """Where the quickstart does not work, the command fails, and says what the
    browser should have seen and what the server had to say.
    """
    result = quickstart("--database", f"sqlite:///{tmp_path / 'missing' / 'app.db'}")

    assert result.returncode == 1
    assert seen(result)[:1] == SEEN[:1]
    assert "GET /set/ should have answered 'ok'." in result.stderr
    assert "unable to open database file" in result.stderr
