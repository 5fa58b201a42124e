"""What the page "PostgreSQL, MariaDB and MySQL" says of the rights of a user."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from flask_sessionsql import Session, SessionTableError
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import on
from tests.integration.helpers import add_views

from .source import block

CREATE = ["sessions", "create-table"]
#: The statements, and what takes the user away again.
RIGHTS = {
    "postgresql": (block("guides/servers", "rights.sql"), "DROP OWNED BY"),
    "mariadb": (block("guides/servers", "rights-mariadb.sql"), ""),
}


@pytest.fixture(params=on(*RIGHTS))
def limited(
    request: pytest.FixtureRequest, make_app: MakeApp, make_empty_database: MakeDatabase
) -> Iterator[str]:
    """The address of a table that is there, for a user with the page's rights."""
    statements, drops = RIGHTS[request.param]
    uri = make_empty_database(request.param)
    url, name = sa.make_url(uri), f"shop_{secrets.token_hex(6)}"
    owner = make_app(uri)
    assert 0 == owner.test_cli_runner().invoke(args=CREATE).exit_code
    # The page's database and its user are both called shop.
    statements = statements.replace("ON shop.", f"ON {url.database}.")
    for before in ("ROLE ", "USER ", "TO "):
        statements = statements.replace(f"{before}shop", f"{before}{name}")
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as admin:
        try:
            for statement in filter(str.strip, statements.split(";")):
                admin.execute(sa.text(statement))
            limited = url.set(username=name, password="secret")
            yield limited.render_as_string(hide_password=False)
        finally:
            if drops:
                admin.execute(sa.text(f"{drops} {name}"))
            admin.execute(sa.text(f"DROP {'ROLE' if drops else 'USER'} {name}"))


def test_rights_are_enough(make_app: MakeApp, limited: str) -> None:
    """With the rights that the page gives, sessions begin, change, are listed, limited,
    ended and purged, and the check finds nothing wrong with them.
    """
    app = add_views(make_app(limited, SESSION_CREATE_TABLE=False))
    client, run = app.test_client(), app.test_cli_runner().invoke

    assert "ok" == client.get("/set/_user_id/ann").text
    assert "ok" == client.get("/set/a/1").text
    assert "'1'" == client.get("/get/a").text
    assert "error" not in run(args=["sessions", "check"]).output
    with app.app_context():
        assert 1 == len(Session().user_sessions("ann"))
        assert 1 == Session().revoke_user("ann")
    assert 0 == run(args=["sessions", "purge"]).exit_code
    assert "None" == client.get("/get/a").text


def test_they_make_no_table(make_app: MakeApp, limited: str) -> None:
    """With these rights a table that is missing stays so: the error says what to do."""
    client = add_views(
        make_app(limited, SESSION_SQLALCHEMY_TABLE="other")
    ).test_client()

    with pytest.raises(SessionTableError, match="other"):
        client.get("/set/a/1")
