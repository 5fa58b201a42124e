"""What holds for the tests themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

import flask_sessionsql
from tests.conftest import MakeDatabase

TESTS = Path(__file__).parent
PACKAGE = Path(flask_sessionsql.__file__).parent


def test_a_test_that_asks_for_a_server_says_so(make_database: MakeDatabase) -> None:
    """Without the marker it would run where no servers are wanted, and not where they
    are: it fails, wherever it runs.
    """
    for server in ("postgresql", "mariadb"):
        with pytest.raises(pytest.fail.Exception, match=f"@pytest.mark.{server},"):
            make_database(server)


def test_the_layout_is_that_of_the_package() -> None:
    """Each module has its tests where it stands itself. Beside the front house there
    are tests of what is no module; the wings have no others.
    """
    wings = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert wings
    for folder in ("", *wings):
        modules = {f"test_{path.name}" for path in (PACKAGE / folder).glob("[a-z]*.py")}
        tests = {path.name for path in (TESTS / folder).glob("test_*.py")}
        assert modules <= tests
        assert folder == "" or tests <= modules
