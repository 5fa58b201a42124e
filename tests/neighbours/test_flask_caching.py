"""Flask-Caching: what is cached for one user is not shown to another one."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, flash, get_flashed_messages, make_response, session
from flask.testing import FlaskClient

from flask_sessionsql import Session
from tests.conftest import MakeApp
from tests.helpers import statements_on, store_of
from tests.integration.helpers import add_views, rows, token

caching: Any = pytest.importorskip(
    "flask_caching", reason="Flask-Caching comes with `nox -s neighbours`"
)

pytestmark = pytest.mark.usefixtures("with_views")


def logged_in(app: Flask, user: str) -> FlaskClient:
    browser = app.test_client()
    browser.get(f"/set/_user_id/{user}")
    return browser


def test_each_user_has_a_page(app: Flask) -> None:
    """With the user in the key, whoever came first."""
    ann, bob, nobody = logged_in(app, "ann"), logged_in(app, "bob"), app.test_client()
    for _ in range(2):
        assert "Hello, ann!" == ann.get("/account").text
        assert "Hello, bob!" == bob.get("/account").text
        assert "Hello, stranger!" == nobody.get("/account").text
    assert "Hello, ann!" == logged_in(app, "ann").get("/account").text


def test_a_page_from_the_cache_varies_by_cookie(app: Flask) -> None:
    """It takes the statement that reads the session, and proxies are told."""
    ann = logged_in(app, "ann")
    ann.get("/account")
    with statements_on(store_of(app).engine) as seen:
        answer = ann.get("/account")
    assert ["SELECT"] == [each.split()[0] for each in seen]
    assert "Cookie" in answer.vary


def test_an_ended_session_gets_a_visitor_s_page(app: Flask) -> None:
    """At once, however long the user's page is cached."""
    ann = logged_in(app, "ann")
    assert "Hello, ann!" == ann.get("/account").text
    with app.app_context():
        assert 1 == Session().revoke_user("ann")
    assert "Hello, stranger!" == ann.get("/account").text


def test_by_the_address_alone_others_get_the_page(make_app: MakeApp) -> None:
    """Which is why the page says to give a key: here a user's name, the message that
    was for them, and no ``Vary`` that would stop a proxy.
    """
    app = add_views(make_app("sqlite://", CACHE_TYPE="SimpleCache"))
    cache = caching.Cache(app)

    @app.get("/page")
    @cache.cached()  # type: ignore[untyped-decorator]
    def page() -> str:
        return f"{session.get('_user_id')}: {get_flashed_messages()}"

    @app.get("/say")
    def say() -> str:
        flash("Your order 17 is on its way.")
        return "ok"

    ann, bob = logged_in(app, "ann"), logged_in(app, "bob")
    ann.get("/say")
    ann.get("/page")
    answer = bob.get("/page")
    assert "ann: ['Your order 17 is on its way.']" == answer.text
    assert "Cookie" not in answer.vary


def test_the_cache_has_no_token(make_app: MakeApp) -> None:
    """What a view returns is cached before the session is saved: whoever gets it from
    the cache gets nobody's cookie, and no session either.
    """
    app = add_views(make_app("sqlite://", CACHE_TYPE="SimpleCache"))
    cache = caching.Cache(app)

    @app.get("/begin")
    @cache.cached()  # type: ignore[untyped-decorator]
    def begin() -> Any:
        session["visits"] = 1
        return make_response("Welcome!")

    first, second = app.test_client(), app.test_client()
    assert "Set-Cookie" in first.get("/begin").headers
    answer = second.get("/begin")
    assert ("Welcome!", None) == (answer.text, answer.headers.get("Set-Cookie"))
    assert 1 == len(rows(app))
    assert token(first).encode() not in b"".join(_stored(cache))


def _stored(cache: Any) -> list[bytes]:
    return [value for _, value in cache.cache._cache.values()]


def test_memoizing_by_the_user(make_app: MakeApp) -> None:
    """A function that has the user for an argument is called once for each."""
    app = add_views(make_app("sqlite://", CACHE_TYPE="SimpleCache"))
    cache, calls = caching.Cache(app), []

    @cache.memoize()  # type: ignore[untyped-decorator]
    def orders(user: str) -> str:
        calls.append(user)
        return f"orders of {user}"

    app.add_url_rule("/orders", view_func=lambda: orders(session["_user_id"]))
    ann, bob = logged_in(app, "ann"), logged_in(app, "bob")
    for _ in range(2):
        assert "orders of ann" == ann.get("/orders").text
        assert "orders of bob" == bob.get("/orders").text
    assert ["ann", "bob"] == calls
