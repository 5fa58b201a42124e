"""Flask-Talisman: the session's cookie is as it says. That it does not matter which
extension comes first is in tests/integration/test_late_settings.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_sessionsql import SessionConfigError
from tests.conftest import MakeApp
from tests.helpers import statements_on, store_of
from tests.integration.helpers import add_views, cookie, rows

talisman: Any = pytest.importorskip(
    "flask_talisman", reason="Flask-Talisman comes with `nox -s neighbours`"
)

HTTPS = "https://localhost"


def test_the_cookie_is_secure_from_the_first_request_on(app: Flask) -> None:
    """The session works by HTTPS, and its cookie is sent by nothing else."""
    browser = app.test_client()
    first = browser.get("/visits", base_url=HTTPS)
    assert "; Secure; HttpOnly; Path=/; SameSite=Lax" in (cookie(first) or "")
    assert "2" == browser.get("/visits", base_url=HTTPS).text


def test_a_redirect_costs_nothing(app: Flask) -> None:
    """A request by HTTP reads no session and begins none."""
    before = rows(app)
    with statements_on(store_of(app).engine) as seen:
        answer = app.test_client().get("/visits")
    assert (302, "https://localhost/visits") == (answer.status_code, answer.location)
    assert cookie(answer) is None
    assert ([], before) == (seen, rows(app))


def test_its_samesite_goes_first(make_app: MakeApp) -> None:
    """It overwrites what the application has set, unless it is given that."""
    for given, expected in (
        ({}, "Lax"),
        ({"session_cookie_samesite": "Strict"}, "Strict"),
    ):
        app = add_views(make_app("sqlite://", SESSION_COOKIE_SAMESITE="Strict"))
        talisman.Talisman(app, **given)
        answer = app.test_client().get("/set/key/value", base_url=HTTPS)
        assert f"SameSite={expected}" in (cookie(answer) or "")


def test_a_prefix_of_the_cookie_asks_for_secure(make_app: MakeApp) -> None:
    """Session(app) refuses the name where only Flask-Talisman would make it secure; and
    both work where it is set.
    """
    name = {"SESSION_COOKIE_NAME": "__Host-session"}
    with pytest.raises(SessionConfigError, match="SESSION_COOKIE_SECURE"):
        make_app("sqlite://", talisman.Talisman, **name)

    app = make_app("sqlite://", talisman.Talisman, SESSION_COOKIE_SECURE=True, **name)
    browser = add_views(app).test_client()
    answer = browser.get("/set/key/value", base_url=HTTPS)
    assert (cookie(answer) or "").startswith("__Host-session=")
    assert "'value'" == browser.get("/get/key", base_url=HTTPS).text


def test_debug_leaves_the_cookie_as_it_is(make_app: MakeApp) -> None:
    """So that the session works without HTTPS while one develops."""
    app = add_views(make_app("sqlite://", DEBUG=True))
    talisman.Talisman(app)
    browser = app.test_client()
    assert "Secure" not in (cookie(browser.get("/set/key/value")) or "Secure")
    assert "'value'" == browser.get("/get/key").text
