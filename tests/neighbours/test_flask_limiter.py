"""Flask-Limiter: a limit for each session, by its handle."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql import session
from tests.conftest import MakeApp
from tests.helpers import statements_on, store_of
from tests.integration.helpers import token

flask_limiter: Any = pytest.importorskip(
    "flask_limiter", reason="Flask-Limiter comes with `nox -s neighbours`"
)


@pytest.fixture
def app(app: Flask) -> Flask:
    """With views that are not limited."""

    @app.get("/begin")
    def begin() -> str:
        session["basket"] = "tea"
        return "ok"

    @app.get("/clear")
    def clear() -> str:
        session.clear()
        return "ok"

    return app


def visitor(app: Flask) -> FlaskClient:
    """A browser with a session of its own."""
    browser = app.test_client()
    browser.get("/begin")
    return browser


def answers(client: FlaskClient, path: str, times: int) -> list[int]:
    return [client.get(path).status_code for _ in range(times)]


def test_each_session_has_its_allowance(app: Flask) -> None:
    """Though all come from one address."""
    first, second = visitor(app), visitor(app)
    assert [200, 200, 200, 429] == answers(first, "/search", 4)
    assert [200, 200, 200, 429] == answers(second, "/search", 4)


def test_visitors_without_a_session_share_their_address(app: Flask) -> None:
    """Another browser there has no allowance of its own; another address has."""
    assert [200, 200] == answers(app.test_client(), "/search", 2)
    assert [200, 429] == answers(app.test_client(), "/search", 2)
    elsewhere = app.test_client()
    elsewhere.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    assert [200] == answers(elsewhere, "/search", 1)


def test_a_key_that_is_none_limits_nobody(make_app: MakeApp) -> None:
    """As the handle alone is for who has no session, or begins one."""
    app = make_app("sqlite://")
    limiter = flask_limiter.Limiter(
        lambda: session.handle, app=app, storage_uri="memory://"
    )

    @app.get("/search")
    @limiter.limit("1/minute")  # type: ignore[untyped-decorator]
    def search() -> str:
        session.setdefault("basket", "tea")
        return "found"

    assert [200] == answers(app.test_client(), "/search", 1)
    browser = app.test_client()
    assert [200, 200, 429] == answers(browser, "/search", 3)


def test_an_invented_cookie_is_no_session(app: Flask) -> None:
    """What opens nothing counts for the address."""
    for number, expected in enumerate([200, 200, 200, 429]):
        browser = app.test_client()
        browser.set_cookie("session", f"{number:043}")
        assert [expected] == answers(browser, "/search", 1)


def test_a_login_brings_no_new_allowance(app: Flask) -> None:
    """The token changes, and the handle does not; a new session has a new one."""
    browser = visitor(app)
    before = token(browser)
    assert [200, 200] == answers(browser, "/search", 2)
    browser.post("/login")
    assert before != token(browser)
    assert [200, 429] == answers(browser, "/search", 2)

    browser.get("/clear")
    browser.get("/begin")
    assert [200] == answers(browser, "/search", 1)


def test_logins_are_counted_by_address(app: Flask) -> None:
    """New sessions are no way around it."""
    codes = [app.test_client().post("/login").status_code for _ in range(6)]
    assert [200] * 5 + [429] == codes


def test_a_users_sessions_count_together(app: Flask) -> None:
    """Two browsers of one user have one allowance."""
    laptop, phone = visitor(app), visitor(app)
    laptop.post("/login")
    phone.post("/login")
    assert [200] == answers(laptop, "/export", 1)
    assert [200, 429] == answers(phone, "/export", 2)


def test_what_is_refused_costs_one_select(app: Flask) -> None:
    """And writes nothing; by address, it costs no SQL."""
    browser = visitor(app)
    answers(browser, "/search", 3)
    with statements_on(store_of(app).engine) as seen:
        assert [429] == answers(browser, "/search", 1)
    assert ["SELECT"] == [each.split()[0] for each in seen]

    for _ in range(5):
        browser.post("/login")
    with statements_on(store_of(app).engine) as seen:
        assert 429 == browser.post("/login").status_code
    assert [] == seen
