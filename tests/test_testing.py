"""What ``flask_sessionsql.testing`` gives to tests of applications: what it takes and
what it refuses.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, session
from flask.testing import FlaskClient

from flask_sessionsql import SessionLimitError, SessionTooLargeError, SessionValueError
from flask_sessionsql.testing import (
    database_down,
    expire,
    log_in,
    revoke,
    session_transaction,
)
from tests.conftest import MakeApp


def add_me(app: Flask) -> Flask:
    @app.get("/me")
    def me() -> str:
        return str(session.get("_user_id"))

    return app


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return add_me(make_app("sqlite://"))


def test_it_needs_no_test_runner_and_is_loaded_by_nobody() -> None:
    """The package does not load it, and it loads no test runner: unittest is as good as
    pytest.
    """
    code = (
        "import sys, flask_sessionsql\n"
        "assert 'flask_sessionsql.testing' not in sys.modules\n"
        "import flask_sessionsql.testing\n"
        "assert not {'pytest', '_pytest', 'unittest'} & {*sys.modules}, sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Logging in.


class User:
    """A user of Flask-Login's."""

    def __init__(self, name: str | None) -> None:
        self.name = name

    def get_id(self) -> str | None:
        return self.name


@pytest.mark.parametrize(
    ("user", "kept"), [("ann", "ann"), (42, 42), (0, 0), (User("ann"), "ann")]
)
def test_a_user_is_a_value_or_has_an_id(
    client: FlaskClient, user: object, kept: object
) -> None:
    """The session has the value as it was given, or what ``get_id()`` returns."""
    log_in(client, user)
    with session_transaction(client) as opened:
        assert kept == opened["_user_id"]
        assert type(kept) is type(opened["_user_id"])


@pytest.mark.parametrize("user", [None, "", User(None), User("")])
def test_nobody_cannot_log_in(client: FlaskClient, user: object) -> None:
    """A user who is not in the database yet has no id, which is an error here and not a
    test that runs as a visitor.
    """
    with pytest.raises(ValueError, match=r"log_in\(\) was given a user that"):
        log_in(client, user)
    assert client.get_cookie("session") is None


def test_data_is_in_the_session_and_the_user_is_the_one_given(
    client: FlaskClient,
) -> None:
    """Any key goes, those of the function's own parameters included."""
    log_in(client, "ann", theme="dark", client="web", user="none", _user_id="bob")
    with session_transaction(client) as opened:
        assert {
            "theme": "dark",
            "client": "web",
            "user": "none",
            "_user_id": "ann",
        } == (dict(opened))


# Where the cookie is.


@pytest.mark.parametrize(
    ("config", "request_to", "domain", "path"),
    [
        ({}, {}, "localhost", "/"),
        ({"SESSION_COOKIE_NAME": "sid"}, {}, "localhost", "/"),
        (
            {"SESSION_COOKIE_NAME": "__Host-sid", "SESSION_COOKIE_SECURE": True},
            {"base_url": "https://localhost"},
            "localhost",
            "/",
        ),
        ({"SESSION_COOKIE_PATH": "/app"}, {"path": "/app/me"}, "localhost", "/app"),
        ({"APPLICATION_ROOT": "/app"}, {}, "localhost", "/app"),
        ({"SERVER_NAME": "shop.example"}, {}, "shop.example", "/"),
        ({"SERVER_NAME": "shop.example:5000"}, {}, "shop.example", "/"),
        (
            {"SESSION_COOKIE_DOMAIN": "shop.example"},
            {"base_url": "https://www.shop.example"},
            "shop.example",
            "/",
        ),
        (
            {"SESSION_COOKIE_DOMAIN": ".shop.example"},
            {"base_url": "https://shop.example"},
            "shop.example",
            "/",
        ),
        (
            {
                "SESSION_COOKIE_DOMAIN": "shop.example",
                "SERVER_NAME": "www.shop.example",
            },
            {},
            "shop.example",
            "/",
        ),
        (
            {
                "SESSION_COOKIE_DOMAIN": "shop.example",
                "SERVER_NAME": "other.example",
            },
            {"base_url": "https://shop.example"},
            "shop.example",
            "/",
        ),
    ],
)
def test_the_cookie_is_as_the_application_sets_it(
    make_app: MakeApp,
    config: dict[str, Any],
    request_to: dict[str, Any],
    domain: str,
    path: str,
) -> None:
    """Whatever name, domain and path it has, requests find the session that was made,
    and the functions find the session that a request has changed.
    """
    app = add_me(make_app("sqlite://", **config))
    app.add_url_rule("/app/me", view_func=app.view_functions["me"], endpoint="prefixed")
    client = app.test_client()
    name = app.config["SESSION_COOKIE_NAME"]

    log_in(client, "ann")
    cookie = client.get_cookie(name, domain, path)
    assert cookie is not None
    assert app.config["SESSION_COOKIE_SECURE"] == cookie.secure
    assert cookie.http_only
    assert "ann" == client.get(**{"path": "/me", **request_to}).text
    with session_transaction(client) as opened:
        assert "ann" == opened["_user_id"]
        opened["theme"] = "dark"
    assert cookie.value == client.get_cookie(name, domain, path).value  # type: ignore[union-attr]
    revoke(client)
    assert "None" == client.get(**{"path": "/me", **request_to}).text
    log_in(client, "ann")
    with session_transaction(client) as opened:
        opened.clear()
    assert client.get_cookie(name, domain, path) is None


def test_the_client_is_the_one_that_sends_requests(make_app: MakeApp) -> None:
    """Where the session's browser is recorded, it is that of the client."""
    app = add_me(make_app("sqlite://", SESSION_RECORD_CLIENT=True))
    client = app.test_client()
    client.environ_base["HTTP_USER_AGENT"] = "Firefox"
    client.environ_base["REMOTE_ADDR"] = "192.0.2.1"
    log_in(client, "ann")
    with app.app_context():
        from flask_sessionsql import Session

        [info] = Session().user_sessions("ann")
    assert ("192.0.2.1", "Firefox") == (info.address, info.user_agent)


def test_clients_of_subclasses_work(app: Flask) -> None:
    """Flask-Login's own client and ours go together."""
    from flask_login import FlaskLoginClient

    app.test_client_class = FlaskLoginClient
    client = app.test_client(user=User("ann"))
    assert "ann" == client.get("/me").text
    with session_transaction(client) as opened:
        assert {"_user_id": "ann", "_fresh": True} == dict(opened)
    log_in(client, "bob")
    assert "bob" == client.get("/me").text


# What is refused.


CALLS: dict[str, Callable[[FlaskClient], object]] = {
    "log_in": lambda client: log_in(client, "ann"),
    "session_transaction": lambda client: session_transaction(client).__enter__(),
    "expire": expire,
    "revoke": revoke,
    "database_down": lambda client: database_down(client.application).__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_application_without_such_sessions_is_an_error(
    make_app: MakeApp, call: str
) -> None:
    """The error says what to set: Flask's own sessions and the null one are no good."""
    for app in (Flask("plain"), make_app(SESSION_TYPE="null")):
        with pytest.raises(
            RuntimeError, match=r"no sessions in SQL\. Set SESSION_TYPE"
        ):
            CALLS[call](app.test_client())


@pytest.mark.parametrize("call", [name for name in CALLS if name != "database_down"])
def test_an_application_without_a_key_is_an_error(app: Flask, call: str) -> None:
    """It would store nothing, and no test would say so."""
    app.secret_key = None
    with pytest.raises(RuntimeError, match="no SECRET_KEY"):
        CALLS[call](app.test_client())


def test_a_client_without_cookies_is_an_error(app: Flask) -> None:
    """It could not hold the session's token."""
    with pytest.raises(TypeError, match="use_cookies=True"):
        log_in(app.test_client(use_cookies=False), "ann")


@pytest.mark.parametrize("end", [expire, revoke])
def test_there_must_be_a_session_to_end(
    client: FlaskClient, end: Callable[[FlaskClient], None]
) -> None:
    """A test that ends nothing would prove nothing."""
    with pytest.raises(LookupError, match=r"Call log_in\(client, user\) first"):
        end(client)
    log_in(client, "ann")
    end(client)
    with pytest.raises(LookupError, match="no stored session"):
        end(client)


def test_a_lifetime_that_is_none_is_an_error(client: FlaskClient) -> None:
    """So is the absolute one where it is not set."""
    log_in(client, "ann")
    with pytest.raises(
        ValueError, match="needs SESSION_ABSOLUTE_LIFETIME, which is not set"
    ):
        expire(client, "absolute")
    with pytest.raises(ValueError, match=r"'short'\. Give 'idle' or 'absolute'"):
        expire(client, "short")  # type: ignore[arg-type]
    assert "ann" == client.get("/me").text


def test_what_cannot_be_stored_raises(make_app: MakeApp) -> None:
    """Flask's own way makes a page of some errors, which nobody sees: the test would go
    on without a session.
    """
    app = add_me(
        make_app(
            "sqlite://",
            SESSION_MAX_BYTES=500,
            SESSION_MAX_PER_USER=1,
            SESSION_MAX_PER_USER_POLICY="refuse",
        )
    )
    client, other = app.test_client(), app.test_client()
    with pytest.raises(SessionValueError):
        log_in(client, object())
    with pytest.raises(SessionTooLargeError):
        log_in(client, "ann", text="a" * 500)
    assert client.get_cookie("session") is None
    log_in(client, "ann")
    with pytest.raises(SessionLimitError):
        log_in(other, "ann")
    assert other.get_cookie("session") is None
    assert "ann" == client.get("/me").text


def test_a_block_that_raises_stores_nothing(client: FlaskClient) -> None:
    """A failed assertion in it is the error that is seen."""
    log_in(client, "ann")

    def look() -> None:
        with session_transaction(client) as opened:
            opened["theme"] = "dark"
            raise AssertionError("seen")

    with pytest.raises(AssertionError, match="seen"):
        look()
    with session_transaction(client) as opened:
        assert "theme" not in opened
