"""Flask-Migrate: its commands make the table. Other databases, binds and schemas are in
tests/integration/test_migrations.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_sessionsql import SessionTableError

pytest.importorskip(
    "flask_migrate", reason="Flask-Migrate comes with `nox -s neighbours`"
)
pytestmark = [
    pytest.mark.filterwarnings(
        # Said by what Flask-Migrate generates.
        "ignore:'get_engine' is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("with_views"),
]


@pytest.fixture
def names(names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Without the logs of the whole process, which other tests look at, configured."""
    monkeypatch.setattr("logging.config.fileConfig", lambda *args, **kwargs: None)
    return names


def db(app: Flask, *words: str) -> str:
    """What ``flask db ...`` prints."""
    result = app.test_cli_runner().invoke(args=["db", *words], catch_exceptions=False)
    # Left there by the command before, which would have been another process.
    app.extensions["migrate"].configure_args.pop("process_revision_directives", None)
    assert 0 == result.exit_code, result.output
    return result.output


def test_a_migration_makes_the_table(names: dict[str, Any]) -> None:
    """As the commands generate it: before it, the sessions say what is missing, and
    after it, they work; there is nothing left to migrate, and it can be undone.
    """
    app: Flask = names["app"]
    client = app.test_client()
    with pytest.raises(SessionTableError, match="flask_sessionsql"):
        client.get("/set/key/value")

    db(app, "init")
    db(app, "migrate", "-m", "Sessions")
    (script,) = Path("migrations/versions").glob("*_sessions.py")
    assert "op.create_table('flask_sessionsql'" in script.read_text("utf-8")

    db(app, "upgrade")
    client.get("/set/key/value")
    assert "'value'" == client.get("/get/key").text
    db(app, "check")  # fails where there is something to migrate

    db(app, "downgrade")
    with app.app_context():
        tables = sa.inspect(names["db"].engine).get_table_names()
    assert ["alembic_version"] == tables
