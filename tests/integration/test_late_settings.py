"""Flask's own settings are what app.config says when they are used, as Flask reads
them; and a value that cannot work harms no session.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask, session
from flask.testing import FlaskClient
from flask_talisman import Talisman
from werkzeug.http import http_date

from flask_sessionsql import FlaskSQLAlchemySessionInterface, SessionConfigError
from flask_sessionsql import session as typed_session
from tests.conftest import MakeApp
from tests.helpers import Clock
from tests.integration.helpers import add_views, cookie, regenerate, rows, visit

DAY = 24 * 3600


def attributes(header: str | None) -> set[str]:
    """The attributes of a cookie, without what changes whenever it is set."""
    assert header is not None
    _, *found = header.split("; ")
    return {each for each in found if not each.startswith(("Expires=", "Max-Age="))}


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return add_views(make_app("sqlite://"))


@pytest.fixture
def strict(app: Flask) -> Flask:
    """As in production, where an error is a page."""
    app.config.update(TESTING=False, PROPAGATE_EXCEPTIONS=False)
    return app


# Extensions that set them.


@pytest.mark.parametrize("order", ["Session first", "Talisman first"])
def test_flask_talisman(make_app: MakeApp, order: str) -> None:
    """Flask-Talisman makes the cookie secure in a function before each request; the
    cookie is set and cleared so.
    """

    def talisman(app: Flask) -> None:
        Talisman(app, force_https=False, session_cookie_samesite="Strict")

    if order == "Session first":
        app = make_app("sqlite://")
        talisman(app)
    else:
        app = make_app("sqlite://", talisman)
    client = add_views(app).test_client()
    expected = {"Secure", "HttpOnly", "Path=/", "SameSite=Strict"}
    https = "https://localhost"
    assert attributes(cookie(client.get("/set/key/value", base_url=https))) == expected
    assert client.get("/get/key", base_url=https).text == "'value'"
    assert attributes(cookie(client.get("/clear", base_url=https))) == expected


def test_a_lifetime_for_each_request(app: Flask, clock: Clock) -> None:
    """app.permanent_session_lifetime is set before each request, such as by what the
    user is; the session and its cookie live as long.
    """

    @app.before_request
    def choose() -> None:
        short = session.get("role") == "admin"
        app.permanent_session_lifetime = timedelta(minutes=5 if short else 60)

    client = app.test_client()
    client.get("/set/role/guest")
    (row,) = rows(app)
    assert row.expires_at == clock.now + 3600
    client.get("/set/role/admin")
    client.get("/set/key/value")
    (row,) = rows(app)
    assert row.expires_at == clock.now + 300
    for _ in range(3):
        clock.now += 299
        assert client.get("/get/key").text == "'value'"
    clock.now += 301
    assert client.get("/get/key").text == "None"


def test_the_cookie_lives_as_long_as_the_row(app: Flask) -> None:
    """The cookie's end is that of the row, whatever the lifetime was before."""
    app.permanent_session_lifetime = timedelta(minutes=5)
    response = app.test_client().get("/set/key/value")
    (row,) = rows(app)
    assert row.expires_at - row.created_at == 300
    (end,) = re.findall(r"Expires=([^;]+)", cookie(response) or "")
    assert end == http_date(row.expires_at)


def test_expires_at_goes_by_it(app: Flask, clock: Clock) -> None:
    """session.expires_at says what the lifetime makes of it."""
    client = app.test_client()
    client.get("/set/key/value")
    app.permanent_session_lifetime = timedelta(days=60)
    ends: list[Any] = []

    def view() -> str:
        ends.append(typed_session.expires_at)
        return "ok"

    visit(client, view)
    assert ends[0].timestamp() == clock.now + 60 * DAY


def test_the_interval_follows_the_lifetime(app: Flask, clock: Clock) -> None:
    """Without SESSION_REFRESH_INTERVAL, the end lags by a hundredth of the lifetime
    that there is by now, so a session that is used does not end.
    """
    client = app.test_client()
    app.permanent_session_lifetime = timedelta(seconds=200)
    client.get("/set/key/value")
    (before,) = rows(app)
    clock.now += 1
    assert cookie(client.get("/get/key")) is None
    assert rows(app) == [before]
    clock.now += 1
    assert cookie(client.get("/get/key")) is not None
    assert rows(app)[0].expires_at == before.expires_at + 2


def test_an_interval_that_is_too_long_by_now(make_app: MakeApp, clock: Clock) -> None:
    """A SESSION_REFRESH_INTERVAL that the lifetime has fallen below ends no session
    that is used.
    """
    app = add_views(make_app("sqlite://", SESSION_REFRESH_INTERVAL=3600))
    client = app.test_client()
    app.permanent_session_lifetime = timedelta(minutes=10)
    client.get("/set/key/value")
    for _ in range(4):
        clock.now += 400
        assert client.get("/get/key").text == "'value'"


def test_refreshing_can_be_turned_off(app: Flask, clock: Clock) -> None:
    """SESSION_REFRESH_EACH_REQUEST is read when a session was read."""
    client = app.test_client()
    client.get("/set/key/value")
    (before,) = rows(app)
    clock.now += 10 * DAY
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    client.get("/get/key")
    assert rows(app) == [before]
    app.config["SESSION_REFRESH_EACH_REQUEST"] = True
    client.get("/get/key")
    assert rows(app)[0].expires_at == before.expires_at + 10 * DAY


def test_all_attributes_of_the_cookie(app: Flask) -> None:
    """The cookie is set and cleared as app.config says by then, and found by the name
    that it has there.
    """
    app.config.update(
        SESSION_COOKIE_NAME="other",
        SESSION_COOKIE_DOMAIN="shop.localhost",
        SESSION_COOKIE_PATH="/get",
        SESSION_COOKIE_HTTPONLY=False,
        SESSION_COOKIE_SAMESITE="none",
        SESSION_COOKIE_PARTITIONED=True,
    )
    expected = {"Domain=shop.localhost", "Path=/get", "SameSite=None"}
    expected |= {"Secure", "Partitioned"}
    client = app.test_client(use_cookies=False)
    response = client.get("/set/key/value")
    assert (cookie(response) or "").startswith("other=")
    assert attributes(cookie(response)) == expected
    token = (cookie(response) or "").partition("=")[2].partition(";")[0]
    headers = {"Cookie": f"other={token}"}
    assert client.get("/get/key", headers=headers).text == "'value'"
    response = client.get("/clear", headers=headers)
    assert (cookie(response) or "").startswith("other=;")
    assert attributes(cookie(response)) == expected
    assert rows(app) == []


def test_none_is_the_default_by_then(app: Flask) -> None:
    """None, or no key at all, means what it means before, and False no domain."""
    for key in [key for key in app.config if key.startswith("SESSION_COOKIE_")]:
        app.config[key] = None
    app.config["SESSION_COOKIE_DOMAIN"] = False
    del app.config["SESSION_COOKIE_NAME"], app.config["PERMANENT_SESSION_LIFETIME"]
    app.config["APPLICATION_ROOT"] = "/shop"
    response = app.test_client().get("/set/key/value")
    assert (cookie(response) or "").startswith("session=")
    assert attributes(cookie(response)) == {"HttpOnly", "Path=/shop"}
    (row,) = rows(app)
    assert row.expires_at - row.created_at == 31 * DAY


# Values that cannot work.

#: The key, and what is wrong.
WRONG = [
    ("SESSION_COOKIE_DOMAIN", "a..b"),
    ("SESSION_COOKIE_DOMAIN", "example.com\r\nX-Header: 1"),
    ("SESSION_COOKIE_PATH", "shop"),
    ("SESSION_COOKIE_NAME", ["session"]),
    ("SESSION_COOKIE_NAME", "a b"),
    ("SESSION_COOKIE_NAME", "__Host-session"),
    ("SESSION_COOKIE_SAMESITE", "Laxe"),
    ("SESSION_COOKIE_SECURE", "false"),
    ("SESSION_COOKIE_HTTPONLY", []),
    ("SESSION_COOKIE_PARTITIONED", 5),
    ("PERMANENT_SESSION_LIFETIME", "300"),
    ("PERMANENT_SESSION_LIFETIME", timedelta(0)),
    ("SESSION_REFRESH_EACH_REQUEST", "no"),
    ("SECRET_KEY", 5),
    ("SECRET_KEY", "\udc80"),
    ("SECRET_KEY_FALLBACKS", 5),
    ("SECRET_KEY_FALLBACKS", [5]),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
@pytest.mark.parametrize("path", ["/set/other/value", "/clear", "/restart/value"])
def test_nothing_is_stored_for_a_response_that_fails(
    strict: Flask, key: str, value: Any, path: str
) -> None:
    """A value that was set to something wrong is an error of every request that touches
    its session, and of no other: no row is stored, and those that there are stay.
    """
    client = strict.test_client()
    client.get("/set/key/value")
    before, proper = rows(strict), strict.config[key]
    strict.config[key] = value
    for browser in (client, strict.test_client()):
        response = browser.get(path)
        assert response.status_code == 500 or (path, browser) != ("/clear", client)
        assert cookie(response) is None
        assert strict.test_client().get("/").status_code == 200
    assert rows(strict) == before
    strict.config[key] = proper
    assert client.get("/get/key").text == "'value'"
    assert client.get(path).status_code == 200


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_the_error_names_the_key(app: Flask, key: str, value: Any) -> None:
    """It is the error that init_app would have raised."""
    app.config[key] = value
    with pytest.raises(SessionConfigError, match=f"^{key}: ") as caught:
        app.test_client().get("/set/key/value")
    assert caught.value.key == key
    assert rows(app) == []


def test_a_value_that_becomes_wrong_in_the_view(app: Flask) -> None:
    """It makes no difference when: the session has been read by then."""
    client = app.test_client()
    client.get("/set/key/value")
    before = rows(app)

    def view() -> str:
        session["key"] = "other"
        app.config["SESSION_COOKIE_DOMAIN"] = "a..b"
        return "ok"

    with pytest.raises(SessionConfigError, match=r"^SESSION_COOKIE_DOMAIN: "):
        visit(client, view)
    assert rows(app) == before


@pytest.mark.parametrize("domain", ["a..b", "a\nb", 5])
def test_a_domain_of_a_subclass(make_app: MakeApp, domain: Any) -> None:
    """An interface with methods of its own, as for a site with several domains, can
    return what nothing has checked: nothing is stored then, either, and a logout ends
    nothing that the browser would not be told of.
    """

    class Interface(FlaskSQLAlchemySessionInterface):
        domain: Any = "localhost"

        def get_cookie_domain(self, app: Flask) -> Any:
            return self.domain

    app = add_views(make_app("sqlite://"))
    ours = app.session_interface
    assert isinstance(ours, FlaskSQLAlchemySessionInterface)
    own = Interface(ours.config, ours.records, ours.holds_lock)
    app.session_interface = own
    client = app.test_client()
    assert "Domain=localhost" in attributes(cookie(client.get("/set/key/value")))
    before = rows(app)
    own.domain = domain
    for path in ("/set/key/other", "/clear", "/restart/value"):
        with pytest.raises((ValueError, AttributeError)):
            client.get(path)
        assert rows(app) == before
    own.domain = "localhost"
    assert client.get("/get/key").text == "'value'"


def test_a_late_logout_with_a_wrong_value(app: Flask, client: FlaskClient) -> None:
    """A logout with the token of a moment ago ends nothing either."""
    client.get("/set/key/value")
    late = app.test_client()
    found = client.get_cookie("session")
    assert found is not None
    late.set_cookie("session", found.value)
    visit(client, regenerate)
    before = rows(app)

    def view() -> str:
        session.clear()
        app.config["SESSION_COOKIE_PATH"] = "shop"
        return "ok"

    with pytest.raises(SessionConfigError, match=r"^SESSION_COOKIE_PATH: "):
        visit(late, view)
    assert rows(app) == before


def test_an_untouched_request_reads_none_of_them(app: Flask) -> None:
    """A request that leaves its session alone looks at no setting but SECRET_KEY, as
    with Flask's own sessions.
    """

    class Watched(dict[str, Any]):
        read: set[str] = set()  # noqa: RUF012

        def __getitem__(self, key: str) -> Any:
            self.read.add(key)
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            self.read.add(key)
            return super().get(key, default)

    app.config = watched = Watched(app.config)  # type: ignore[assignment]
    client = app.test_client()
    client.get("/set/key/value")
    assert {"SESSION_COOKIE_NAME", "PERMANENT_SESSION_LIFETIME"} < watched.read
    watched.read.clear()
    client.get("/")
    ours = {key for key in watched.read if key.startswith(("SESSION_", "PERMANENT"))}
    assert ours == set()
