"""Flask-Login as it is, with no code of ours in the application."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_login import (
    LoginManager,
    UserMixin,
    current_user,
    login_required,
    login_user,
    logout_user,
)

from tests.conftest import MakeApp
from tests.integration.helpers import browser_with, rows, token


class User(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name


def with_logins(app: Flask) -> Flask:
    manager = LoginManager(app)
    manager.user_loader(User)

    @app.get("/login/<name>")
    def login(name: str) -> str:
        login_user(User(name))
        return "ok"

    @app.get("/logout")
    def logout() -> str:
        logout_user()
        return "ok"

    @app.get("/me")
    @login_required  # type: ignore[untyped-decorator]
    def me() -> Any:
        return current_user.get_id()

    return app


@pytest.fixture
def app(app: Flask) -> Flask:
    return with_logins(app)


def test_login_and_logout_change_the_token(app: Flask, client: FlaskClient) -> None:
    """What an attacker planted before the login, or kept from before the logout, opens
    nothing; what the visitor had in the session stays (CVE-2022-38054).
    """
    client.get("/set/basket/tea")
    anonymous = token(client)
    client.get("/login/ann")
    logged_in = token(client)
    assert client.get("/me").text == "ann"
    assert rows(app)[0].user_id == "ann"
    client.get("/logout")
    assert client.get("/me").status_code == 401
    assert client.get("/get/basket").text == "'tea'"
    assert len({anonymous, logged_in, token(client)}) == 3
    for old in (anonymous, logged_in):
        thief = browser_with(app, old)
        assert thief.get("/me").status_code == 401
        assert thief.get("/get/basket").text == "None"
    assert len(rows(app)) == 1


def test_strong_protection_works_without_a_permanent_cookie(make_app: MakeApp) -> None:
    """Another browser with a stolen cookie is logged out by Flask-Login's "strong"
    protection, which only works if the session is not permanent.
    """
    config = {"SESSION_PERMANENT": False, "SESSION_PROTECTION": "strong"}
    app = with_logins(make_app("sqlite://", **config))
    client = app.test_client()
    client.get("/login/ann")
    thief = browser_with(app, token(client))
    assert thief.get("/me", headers={"User-Agent": "another"}).status_code == 401
