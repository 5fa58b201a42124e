"""Flask-Principal: the identity is in the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask, session
from flask.testing import FlaskClient

from tests.conftest import MakeApp
from tests.helpers import statements_on, store_of
from tests.integration.helpers import add_views, browser_with, during, rows, token

principal: Any = pytest.importorskip(
    "flask_principal", reason="Flask-Principal comes with `nox -s neighbours`"
)

pytestmark = pytest.mark.usefixtures("with_views")


def logged_in(app: Flask, name: str) -> FlaskClient:
    browser = app.test_client()
    assert "ok" == browser.post(f"/login/{name}").text
    return browser


def test_login_and_logout_change_the_token(app: Flask, client: FlaskClient) -> None:
    """What was planted before the login, or kept from before the logout, is nobody's;
    the basket stays.
    """
    client.get("/set/basket/tea")
    before = token(client)
    client.post("/login/ann")
    logged_in = token(client)
    assert ["ann"] == [row.user_id for row in rows(app)]
    assert "secrets" == client.get("/admin").text
    client.post("/logout")

    assert 403 == client.get("/admin").status_code
    assert {"basket": "tea"} == client.get("/all").json
    assert 3 == len({before, logged_in, token(client)})
    for old in (before, logged_in):
        assert 403 == browser_with(app, old).get("/admin").status_code


def test_its_users_are_logged_out(names: dict[str, Any]) -> None:
    """By the id of their identity; others stay."""
    app = names["app"]
    laptop, phone, bobs = (logged_in(app, name) for name in ("ann", "ann", "bob"))
    with app.app_context():
        assert 2 == names["sessions"].revoke_user("ann")

    assert [403, 403] == [each.get("/admin").status_code for each in (laptop, phone)]
    assert "'bob'" == bobs.get("/get/identity.id").text


def test_a_session_that_is_revoked_does_not_come_back(names: dict[str, Any]) -> None:
    """Though each request stores the identity again, also one that is under way."""
    app = names["app"]
    browser = logged_in(app, "ann")

    def revoke() -> None:
        with app.app_context():
            assert 1 == names["sessions"].revoke_user("ann")

    def write() -> str:
        session["basket"] = "tea"
        return "ok"

    during(browser, write, revoke)
    assert [] == rows(app)
    assert 403 == browser.get("/admin").status_code


def test_a_request_writes_nothing_that_is_equal(app: Flask) -> None:
    """It reads the session, and that is all."""
    browser = logged_in(app, "ann")
    with statements_on(store_of(app).engine) as seen:
        browser.get("/admin")
        browser.get("/")
    assert ["SELECT", "SELECT"] == [each.split()[0] for each in seen]


@pytest.mark.parametrize(("skip", "expected"), [(False, ["SELECT"]), (True, [])])
def test_a_static_file_reads_the_session_unless_skipped(
    make_app: MakeApp, tmp_path: Path, skip: bool, expected: list[str]
) -> None:
    """It does so by default."""
    app = add_views(make_app("sqlite://"))
    (tmp_path / "style.css").write_text("p {}")
    app.static_url_path, app.static_folder = "/static", str(tmp_path)
    principal.Principal(app, skip_static=skip)
    client = app.test_client()
    client.get("/set/basket/tea")
    with statements_on(store_of(app).engine) as seen:
        client.get("/static/style.css").close()
    assert expected == [each.split()[0] for each in seen]


def test_nobody_is_none(make_app: MakeApp) -> None:
    """What Flask-Principal stores at a logout where nothing is taken out: no user, and
    a new token.
    """
    app = add_views(make_app("sqlite://", SESSION_USER_KEY="identity.id"))
    principal.Principal(app)

    @app.get("/become/<name>")
    def become(name: str) -> str:
        nobody = name == "nobody"
        identity = principal.AnonymousIdentity() if nobody else principal.Identity(name)
        principal.identity_changed.send(app, identity=identity)
        return "ok"

    client = app.test_client()
    client.get("/become/ann")
    before = token(client)
    client.get("/become/nobody")
    assert [None] == [row.user_id for row in rows(app)]
    assert before != token(client)
    assert {} == browser_with(app, before).get("/all").json


def test_beside_flask_login_the_user_is_its(make_app: MakeApp) -> None:
    """With use_sessions=False there is one key, and SESSION_USER_KEY is the default."""
    flask_login = pytest.importorskip(
        "flask_login", reason="Flask-Login comes with `nox -s neighbours`"
    )
    app = add_views(make_app("sqlite://"))
    principals = principal.Principal(app, use_sessions=False)

    class User(flask_login.UserMixin):  # type: ignore[misc, name-defined]
        id = "ann"

    flask_login.LoginManager(app).user_loader(lambda name: User())

    @principals.identity_loader  # type: ignore[untyped-decorator]
    def load() -> Any:
        user = flask_login.current_user
        return principal.Identity(user.id) if user.is_authenticated else None

    @app.get("/login")
    def login() -> str:
        flask_login.login_user(User())
        return "ok"

    client = app.test_client()
    client.get("/login")
    assert ["ann"] == [row.user_id for row in rows(app)]
    assert {"_user_id", "_id", "_fresh"} == {*(client.get("/all").json or {})}
