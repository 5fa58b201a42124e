"""Flask-Login: remember-me cookies, fresh logins, and what each request costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import MakeApp
from tests.helpers import statements_on, store_of
from tests.integration.helpers import browser_with, rows, token

flask_login: Any = pytest.importorskip(
    "flask_login", reason="Flask-Login comes with `nox -s neighbours`"
)
#: Flask-Login sets its cookie by it.
pytestmark = pytest.mark.filterwarnings(r"ignore:datetime.datetime.utcnow\(\)")


@pytest.fixture
def names(names: dict[str, Any]) -> dict[str, Any]:
    """With two users."""
    db = names["db"]
    with names["app"].app_context():
        db.create_all()
        db.session.add_all([names["User"](name="ann"), names["User"](name="bob")])
        db.session.commit()
    return names


def logged_in(app: Flask, name: str) -> FlaskClient:
    browser = app.test_client()
    assert "ok" == browser.post(f"/login/{name}").text
    return browser


def reopened(browser: FlaskClient) -> FlaskClient:
    """The browser with its remember-me cookie, and no session any more."""
    remembered = browser.get_cookie("remember_token")
    assert remembered is not None
    again = browser.application.test_client()
    again.set_cookie("remember_token", remembered.value)
    return again


def log_out_everywhere(names: dict[str, Any], name: str) -> int:
    with names["app"].app_context():
        user = names["User"].query.filter_by(name=name).one()
        count: int = names["log_out_everywhere"](user)
        return count


def test_who_is_remembered_gets_a_session(app: Flask) -> None:
    """A new one, of the same user."""
    browser = reopened(logged_in(app, "ann"))
    assert "ann" == browser.get("/me").text
    first, second = rows(app)
    assert first.handle != second.handle
    assert first.user_id == second.user_id is not None


def test_who_is_logged_out_everywhere_is_not_remembered(names: dict[str, Any]) -> None:
    """Neither the sessions nor the remember-me cookies of that user log in any more;
    those of others do, and so does a new login.
    """
    app = names["app"]
    laptop, phone, bobs = (logged_in(app, name) for name in ("ann", "ann", "bob"))
    assert 2 == log_out_everywhere(names, "ann")

    for browser in (laptop, phone, reopened(laptop)):
        assert 401 == browser.get("/me").status_code
    assert "bob" == bobs.get("/me").text
    assert "bob" == reopened(bobs).get("/me").text
    assert "ann" == logged_in(app, "ann").get("/me").text


def test_a_stale_cookie_leaves_the_old_id(names: dict[str, Any]) -> None:
    """In a session that is nobody's: the new id's list does not have it."""
    app = names["app"]
    browser = logged_in(app, "ann")
    [before] = rows(app)
    log_out_everywhere(names, "ann")
    assert 401 == browser.get("/me").status_code

    assert [before.user_id] == [row.user_id for row in rows(app)]
    with app.app_context():
        user = names["User"].query.filter_by(name="ann").one()
        assert [] == names["sessions"].user_sessions(user.get_id())


def test_revoking_alone_does_not_forget(names: dict[str, Any]) -> None:
    """As long as the id is the same, the cookie logs in again."""
    app = names["app"]
    browser = logged_in(app, "ann")
    [before] = rows(app)
    with app.app_context():
        assert names["sessions"].revoke(before.handle)

    assert "ann" == browser.get("/me").text
    [after] = rows(app)
    assert after.handle != before.handle


def test_a_confirmed_login_has_a_new_token(app: Flask) -> None:
    """Who is only remembered gives the password again; the token from before opens
    nothing.
    """
    browser = reopened(logged_in(app, "ann"))
    assert 401 == browser.get("/payment").status_code
    assert "ann" == browser.get("/me").text
    before = token(browser)
    assert "ok" == browser.post("/confirm").text

    assert "ann pays" == browser.get("/payment").text
    assert before != token(browser)
    assert 401 == browser_with(app, before).get("/payment").status_code


def with_static_file(app: Flask, folder: Path) -> Flask:
    """Flask-Login, and a file that has nothing to do with it."""
    (folder / "style.css").write_text("p {}")
    app.static_folder = str(folder)
    manager = flask_login.LoginManager(app)
    manager.user_loader(lambda name: None)

    @app.get("/login")
    def login() -> str:
        user = flask_login.UserMixin()
        user.id = "ann"
        flask_login.login_user(user)
        return "ok"

    return app


def test_each_request_reads_the_session(make_app: MakeApp, tmp_path: Path) -> None:
    """Once, and tells caches of it; a browser without a session costs nothing."""
    app = with_static_file(make_app("sqlite://"), tmp_path)
    browser = app.test_client()
    browser.get("/login")
    with statements_on(store_of(app).engine) as seen:
        response = browser.get("/static/style.css")
    response.close()
    assert ["SELECT"] == [each.split()[0] for each in seen]
    assert "Cookie" in response.vary

    with statements_on(store_of(app).engine) as seen:
        response = app.test_client().get("/static/style.css")
    response.close()
    assert [] == seen
    assert "Cookie" in response.vary
    assert "Set-Cookie" not in response.headers
