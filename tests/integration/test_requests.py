"""Whole requests, on every kind of database."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, Response, session
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from flask_sessionsql import SessionValueError
from flask_sessionsql import session as typed_session
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock
from tests.integration.helpers import (
    add_views,
    cookie,
    rows,
    same_browser,
    token,
    visit,
)

DAY = 24 * 3600


def test_a_value_is_there_in_the_next_request(client: FlaskClient) -> None:
    """What one request sets, the next one of the same browser gets."""
    assert client.get("/get/key").text == "None"
    client.get("/set/key/value")
    assert client.get("/get/key").text == "'value'"


def test_browsers_have_sessions_of_their_own(app: Flask, client: FlaskClient) -> None:
    """Another browser sees nothing of it."""
    client.get("/set/key/value")
    assert app.test_client().get("/get/key").text == "None"


def test_a_change_inside_a_value_is_stored(client: FlaskClient) -> None:
    """Nested changes need no flag."""
    with client.session_transaction() as opened:
        opened["list"] = ["a"]
    client.get("/append/b")
    assert client.get("/get/list").text == "['a', 'b']"


def test_an_equal_value_writes_nothing(app: Flask, client: FlaskClient) -> None:
    """Assigning what is already there is no change."""
    client.get("/set/key/value")
    before = rows(app)
    response = client.get("/set/key/value")
    assert before == rows(app)
    assert cookie(response) is None


def test_a_visit_without_a_session_leaves_nothing(
    app: Flask, client: FlaskClient
) -> None:
    """Reading, clearing and popping an absent session make neither row nor cookie."""
    for path in ("/", "/get/key", "/clear", "/pop/key", "/all"):
        assert cookie(client.get(path)) is None
    assert rows(app) == []


def test_the_browser_gets_a_token_and_nothing_else(
    app: Flask, client: FlaskClient
) -> None:
    """The cookie has none of the data, and stays small however large they are."""
    with client.session_transaction() as opened:
        opened["secret"] = "x" * 1_000_000
    assert len(token(client)) == 67
    assert "x" * 50 not in token(client)


def test_the_cookie_is_set_when_the_session_begins(client: FlaskClient) -> None:
    """The first write sets the cookie; later changes leave it as it is."""
    first = client.get("/set/a/1")
    assert cookie(first) is not None
    assert "Expires=" in str(cookie(first))
    assert cookie(client.get("/set/a/2")) is None


def test_an_emptied_session_is_deleted(app: Flask, client: FlaskClient) -> None:
    """Popping the last key ends the session: no row, and the cookie cleared."""
    client.get("/set/key/value")
    assert len(rows(app)) == 1
    response = client.get("/pop/key")
    assert "Max-Age=0" in str(cookie(response))
    assert rows(app) == []


def test_clear_ends_the_session(app: Flask, client: FlaskClient) -> None:
    """Logging out deletes the row, and an old cookie opens nothing."""
    client.get("/set/key/value")
    old = token(client)
    client.get("/clear")
    client.set_cookie("session", old)
    assert client.get("/get/key").text == "None"
    assert rows(app) == []


def test_what_follows_clear_is_a_new_session(app: Flask, client: FlaskClient) -> None:
    """Cleared and written in one request: new token, new handle, the old one dead."""
    client.get("/set/key/value")
    old, (row,) = token(client), rows(app)
    client.get("/restart/again")
    assert token(client) != old
    (new,) = rows(app)
    assert (new.id, new.handle) != (row.id, row.handle)
    assert client.get("/all").json == {"value": "again"}
    client.set_cookie("session", old)
    assert client.get("/all").json == {}


def test_clear_and_the_same_again_is_a_new_session(client: FlaskClient) -> None:
    """Even with equal content, what is written after clear has another token."""
    client.get("/restart/same")
    old = token(client)
    client.get("/restart/same")
    assert token(client) != old


@pytest.mark.parametrize("change", ["/set/_user_id/7", "/pop/_user_id"])
def test_the_token_changes_with_the_user(
    app: Flask, client: FlaskClient, change: str
) -> None:
    """Login as another user and logout: a new token in the same row, the old dead."""
    client.get("/set/kept/1")
    client.get("/set/_user_id/5")
    old, (row,) = token(client), rows(app)
    assert row.user_id == "5"
    client.get(change)
    (new,) = rows(app)
    assert (new.handle, new.created_at) == (row.handle, row.created_at)
    assert new.user_id == ("7" if "set" in change else None)
    assert token(client) != old
    assert client.get("/get/kept").text == "'1'"
    client.set_cookie("session", old)
    assert client.get("/all").json == {}


def test_another_key_can_tell_the_user(make_app: MakeApp, database_uri: str) -> None:
    """SESSION_USER_KEY names the key whose change is a login."""
    app = make_app(database_uri, SESSION_USER_KEY="account")
    add_views(app)
    client = app.test_client()
    client.get("/set/_user_id/1")
    first = token(client)
    client.get("/set/_user_id/2")
    assert token(client) == first
    client.get("/set/account/1")
    assert token(client) != first
    assert rows(app)[0].user_id == "1"


@pytest.mark.parametrize("user", ["x" * 256, "a\0b", "\ud800"])
def test_a_user_that_no_column_holds_is_refused(
    app: Flask, client: FlaskClient, user: str
) -> None:
    """The error names the key, and the session stays as it was."""
    client.get("/set/key/value")
    before = rows(app)

    def login() -> str:
        session["_user_id"] = user
        return "ok"

    with pytest.raises(SessionValueError, match=r"session\['_user_id'\].*255"):
        visit(client, login)
    assert before == rows(app)


def test_a_value_that_cannot_be_kept_is_refused(
    app: Flask, client: FlaskClient
) -> None:
    """The error says where it stands; the stored session and the cookie stay."""
    client.get("/set/key/value")
    before = rows(app)

    def bad() -> str:
        session["key"] = "changed"
        session["cart"] = [{"item": object()}]
        return "ok"

    with pytest.raises(TypeError, match=r"session\['cart'\]\[0\]\['item'\].*object"):
        visit(client, bad)
    app.testing = False
    response = visit(client, bad)
    assert (response.status_code, cookie(response)) == (500, None)
    assert before == rows(app)
    assert client.get("/get/key").text == "'value'"


def test_what_is_refused_is_logged_once(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Flask's page for the error has a session, too, and it is not refused again: it
    has what is stored.
    """

    @app.errorhandler(500)
    def page(error: Exception) -> tuple[str, int]:
        return session["key"], 500

    def bad() -> str:
        session["key"] = object()
        return "ok"

    app.testing = False
    client.get("/set/key/value")
    response = visit(client, bad)

    assert (500, "value") == (response.status_code, response.text)
    [line] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert line.getMessage().startswith("Exception on /run")


def test_what_the_page_of_the_limit_cannot_keep_is_logged_once(
    make_app: MakeApp, database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The page for a login that is one too many has a session as other pages have."""
    limit = {"SESSION_MAX_PER_USER": 1, "SESSION_MAX_PER_USER_POLICY": "refuse"}
    app = add_views(make_app(database_uri, **limit))

    @app.errorhandler(403)
    def page(error: Exception) -> tuple[str, int]:
        session["key"] = object()
        return "no", 403

    app.testing = False
    app.test_client().get("/set/_user_id/ann")
    response = app.test_client().get("/set/_user_id/ann")

    assert 500 == response.status_code
    [line] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert line.getMessage().startswith("Exception on /set")


def test_a_failing_view_keeps_what_it_stored(app: Flask, client: FlaskClient) -> None:
    """As with Flask's own session, an error in the view does not undo the session."""

    @app.get("/fail")
    def fail() -> str:
        session["seen"] = True
        raise ZeroDivisionError

    app.testing = False
    assert client.get("/fail").status_code == 500
    assert client.get("/get/seen").text == "True"


# Time.


def test_a_session_ends_when_it_is_idle(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """After its lifetime a session is empty, whatever the browser sends."""
    client.get("/set/key/value")
    old = token(client)
    clock.now += 31 * DAY - 1
    client.set_cookie("session", old)
    assert client.get("/get/key").text == "'value'"
    clock.now += 31 * DAY
    client.set_cookie("session", old)
    assert client.get("/get/key").text == "None"


def test_an_expired_session_is_not_extended(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """A request that loaded it in time and is done too late does not revive it."""
    client.get("/set/key/value")
    lifetime = 31 * DAY

    def slow() -> str:
        session["key"] = "late"
        clock.now += lifetime
        return "ok"

    before = rows(app)
    assert cookie(visit(client, slow)) is None
    assert before == rows(app)


def test_reading_moves_the_end_once_in_a_while(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """Row and cookie move on together, when a hundredth of the lifetime is gone."""
    client.get("/set/key/value")
    (row,) = rows(app)
    hundredth = 31 * DAY // 100
    clock.now += hundredth - 1
    assert cookie(client.get("/get/key")) is None
    assert rows(app)[0].expires_at == row.expires_at
    clock.now += 1
    response = client.get("/get/key")
    assert f"session={token(client)}; Expires=" in str(cookie(response))
    assert rows(app)[0].expires_at == row.expires_at + hundredth
    assert rows(app)[0].version == row.version


def test_a_change_moves_the_end_too(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """A write past the interval moves the end in the same statement."""
    client.get("/set/key/value")
    (row,) = rows(app)
    clock.now += DAY
    assert "Expires=" in str(cookie(client.get("/set/key/other")))
    assert rows(app)[0].expires_at == row.expires_at + DAY


def test_without_refresh_only_changes_move_the_end(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """SESSION_REFRESH_EACH_REQUEST = False: reading is not use."""
    app = make_app(database_uri, SESSION_REFRESH_EACH_REQUEST=False)
    add_views(app)
    client = app.test_client()
    client.get("/set/key/value")
    (row,) = rows(app)
    clock.now += DAY
    assert cookie(client.get("/get/key")) is None
    assert rows(app) == [row]
    assert cookie(client.get("/set/key/other")) is not None
    assert rows(app)[0].expires_at == row.expires_at + DAY


def test_a_shorter_lifetime_comes_with_the_next_write(
    make_app: MakeApp, shared_database_uri: str, clock: Clock
) -> None:
    """A lifetime that was shortened reaches a stored session when it changes."""
    app = make_app(shared_database_uri)
    add_views(app)
    client = app.test_client()
    client.get("/set/key/value")
    shorter = make_app(shared_database_uri, PERMANENT_SESSION_LIFETIME=600)
    add_views(shorter)
    browser = same_browser(client, shorter)
    browser.get("/get/key")
    assert rows(app)[0].expires_at == clock.now + 31 * DAY
    browser.get("/set/key/other")
    assert rows(app)[0].expires_at == clock.now + 600


def test_a_cookie_that_ends_with_the_browser(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """SESSION_PERMANENT = False: no Expires, and the row expires all the same."""
    app = make_app(database_uri, SESSION_PERMANENT=False)
    add_views(app)
    client = app.test_client()
    assert "Expires" not in str(cookie(client.get("/set/key/value")))
    clock.now += DAY
    assert cookie(client.get("/get/key")) is None
    assert rows(app)[0].expires_at == clock.now + 31 * DAY
    clock.now += 31 * DAY
    assert client.get("/get/key").text == "None"


def test_one_session_can_be_permanent_or_not(app: Flask, client: FlaskClient) -> None:
    """session.permanent decides for one session, is kept, and is no key of it."""

    @app.get("/permanent/<int:value>")
    def permanent(value: int) -> str:
        session.permanent = bool(value)
        return repr((session.permanent, list(session)))

    assert client.get("/permanent/0").text == "(False, [])"
    assert rows(app) == []
    client.get("/set/key/value")
    response = client.get("/permanent/0")
    assert response.text == "(False, ['key'])"
    assert f"session={token(client)}; HttpOnly" in str(cookie(response))
    assert client.get("/all").json == {"key": "value"}
    assert cookie(client.get("/permanent/0")) is None
    assert "Expires" in str(cookie(client.get("/permanent/1")))
    assert cookie(client.get("/permanent/1")) is None


# Headers and cookies.


@pytest.mark.parametrize(
    "touch",
    [
        "'a' in session",
        "len(session)",
        "list(session)",
        "bool(session)",
        "session == {}",
        "session.get('a')",
        "session.keys()",
        "session.copy()",
        "session | {}",
        "session.permanent",
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_every_touch_varies_by_cookie(
    make_app: MakeApp, touch: str, stored: bool
) -> None:
    """Whatever looks at the session makes the page this browser's (CVE-2026-27205)."""
    app = make_app("sqlite://")
    add_views(app)
    client = app.test_client()
    if stored:
        client.get("/set/a/1")

    response = visit(client, lambda: repr(eval(touch)))
    assert response.headers["Vary"] == "Cookie"


def test_an_untouched_session_does_not_vary(client: FlaskClient) -> None:
    """A page that has nothing to do with the session can be cached for all."""
    client.get("/set/key/value")
    response = client.get("/")
    assert "Vary" not in response.headers
    assert cookie(response) is None


@pytest.mark.parametrize("refresh", [True, False])
def test_a_cookie_is_never_sent_without_vary(
    make_app: MakeApp, clock: Clock, refresh: bool
) -> None:
    """Set-Cookie implies Vary: Cookie (CVE-2023-30861), cleared cookies included."""
    app = make_app("sqlite://", SESSION_REFRESH_EACH_REQUEST=refresh)
    add_views(app)
    client = app.test_client()
    paths = ["/set/a/1", "/", "/get/a", "/set/a/2", "/restart/x", "/clear", "/", "/all"]
    responses = []
    for path in paths:
        clock.now += DAY
        responses.append(client.get(path))
    sent = [response for response in responses if cookie(response)]
    assert len(sent) >= 4
    assert all(response.headers.get("Vary") == "Cookie" for response in sent)


ATTRIBUTES: list[tuple[dict[str, Any], str]] = [
    ({"SESSION_COOKIE_NAME": "sid"}, "sid={}; HttpOnly; Path=/"),
    (
        {"SESSION_COOKIE_DOMAIN": "localhost"},
        "session={}; Domain=localhost; HttpOnly; Path=/",
    ),
    ({"SESSION_COOKIE_PATH": "/shop"}, "session={}; HttpOnly; Path=/shop"),
    ({"APPLICATION_ROOT": "/app"}, "session={}; HttpOnly; Path=/app"),
    ({"SESSION_COOKIE_HTTPONLY": False}, "session={}; Path=/"),
    ({"SESSION_COOKIE_SECURE": True}, "session={}; Secure; HttpOnly; Path=/"),
    ({"SESSION_COOKIE_SAMESITE": "Lax"}, "session={}; HttpOnly; Path=/; SameSite=Lax"),
    (
        {"SESSION_COOKIE_PARTITIONED": True},
        "session={}; Secure; HttpOnly; Path=/; Partitioned",
    ),
    (
        {"SESSION_COOKIE_NAME": "__Host-id", "SESSION_COOKIE_SECURE": True},
        "__Host-id={}; Secure; HttpOnly; Path=/",
    ),
]


@pytest.mark.parametrize(("config", "expected"), ATTRIBUTES)
def test_the_cookie_is_set_and_cleared_as_configured(
    make_app: MakeApp, config: dict[str, Any], expected: str
) -> None:
    """Each setting of the cookie has its attribute, and clearing has the same ones:
    browsers keep a cookie that is cleared with others.
    """
    app = make_app("sqlite://", SESSION_PERMANENT=False, **config)
    add_views(app)
    root = config.get("SESSION_COOKIE_PATH", config.get("APPLICATION_ROOT", ""))

    @app.get(f"{root}/begin")
    def begin() -> str:
        session["a"] = 1
        return "ok"

    @app.get(f"{root}/end")
    def end() -> str:
        session.clear()
        return "ok"

    client = app.test_client()
    begun = str(cookie(client.get(f"{root}/begin", base_url="https://localhost")))
    value = begun.partition("=")[2].partition(";")[0]
    assert begun == expected.format(value)
    ended = str(cookie(client.get(f"{root}/end", base_url="https://localhost")))
    gone = "; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0"
    name, _, attributes = expected.partition("={}")
    pieces = attributes.split("; ")
    domain = [piece for piece in pieces if piece.startswith("Domain")]
    rest = [piece for piece in pieces if piece and piece not in domain]
    assert ended == "; ".join([f"{name}=", *domain, *gone[2:].split("; "), *rest])


def test_changing_the_configuration_later_changes_nothing(
    app: Flask, client: FlaskClient
) -> None:
    """The values cannot be modified after init_app, as the specification says: those of
    this package, be they good or not. Flask's own can: see test_late_settings.py.
    """
    app.config.update(
        SESSION_PERMANENT=False,
        SESSION_TYPE="null",
        SESSION_ID_LENGTH="long",
        SESSION_ABSOLUTE_LIFETIME=1,
        SESSION_SQLALCHEMY_TABLE="another",
        SQLALCHEMY_DATABASE_URI="sqlite:////nowhere/at/all.db",
    )
    response = client.get("/set/key/value")
    assert "; Expires=" in str(cookie(response))
    (row,) = rows(app)
    assert row.expires_at - row.created_at == 31 * DAY


# Keys.


def test_changing_the_secret_key_ends_every_session(
    app: Flask, client: FlaskClient
) -> None:
    """SECRET_KEY is read in every request, and another one finds nothing."""
    client.get("/set/key/value")
    app.secret_key = "another"
    assert client.get("/get/key").text == "None"
    app.secret_key = "a key"
    assert client.get("/get/key").text == "'value'"


def test_a_fallback_key_keeps_sessions_alive(app: Flask, client: FlaskClient) -> None:
    """A session begun under an earlier key is found, moves to the current one at its
    next write, and keeps its token.
    """
    client.get("/set/key/value")
    old, (row,) = token(client), rows(app)
    app.config.update(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["other", "a key"])
    assert client.get("/get/key").text == "'value'"
    assert rows(app) == [row]
    client.get("/set/key/changed")
    app.config.update(SECRET_KEY_FALLBACKS=None)
    assert client.get("/get/key").text == "'changed'"
    assert (token(client), rows(app)[0].handle) == (old, row.handle)


def test_a_new_token_moves_a_session_to_the_current_key(
    app: Flask, client: FlaskClient
) -> None:
    """So one that is only read can outlive the earlier key."""
    client.get("/set/key/value")
    app.config.update(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["a key"])

    def renew() -> str:
        typed_session.regenerate()
        return "ok"

    visit(client, renew)
    app.config.update(SECRET_KEY_FALLBACKS=None)
    assert client.get("/get/key").text == "'value'"


def test_a_fallback_key_is_for_finding_only(app: Flask, client: FlaskClient) -> None:
    """New sessions are under the current key alone (CVE-2025-47278)."""
    app.config.update(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=b"a key")
    client.get("/set/key/value")
    app.config.update(SECRET_KEY="a key", SECRET_KEY_FALLBACKS=[])
    assert client.get("/get/key").text == "None"


def test_a_session_of_a_fallback_key_can_be_ended(
    app: Flask, client: FlaskClient
) -> None:
    """Logging out works before the session has moved to the current key."""
    client.get("/set/key/value")
    app.config.update(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["a key"])
    client.get("/clear")
    assert rows(app) == []


def test_without_a_secret_key_the_session_is_null(
    app: Flask, client: FlaskClient
) -> None:
    """Reading sees nothing; writing fails with an error that says what to set."""
    app.secret_key = None
    assert client.get("/get/key").text == "None"
    with pytest.raises(RuntimeError, match="unavailable because no secret key was set"):
        client.get("/set/key/value")


# Tests of applications.


def test_session_transaction_reads_and_writes(client: FlaskClient) -> None:
    """Flask's own way of preparing and checking sessions in tests works."""
    with client.session_transaction() as opened:
        assert dict(opened) == {}
        opened["key"] = "value"
    assert client.get("/get/key").text == "'value'"
    with client.session_transaction() as opened:
        assert opened["key"] == "value"
        opened.clear()
    assert client.get("/get/key").text == "None"


def test_a_program_beside_the_application_has_the_session(
    app: Flask, client: FlaskClient
) -> None:
    """Who gets requests that Flask does not handle, such as a server of WebSockets,
    opens and saves the browser's session with Flask's interface.
    """
    client.get("/set/key/value")
    headers = [("Cookie", f"session={token(client)}")]
    request = app.request_class(EnvironBuilder(headers=headers).get_environ())
    response = app.response_class()

    with app.app_context():
        opened = app.session_interface.open_session(app, request)
        assert opened is not None
        was = opened["key"]
        opened["key"] = "another"
        app.session_interface.save_session(app, opened, response)

    assert was == "value"
    assert client.get("/get/key").text == "'another'"


def test_a_session_survives_a_preserved_context(
    app: Flask, client: FlaskClient
) -> None:
    """Within ``with client`` the session of the last request can be looked at."""
    with client:
        client.get("/set/key/value")
        assert session["key"] == "value"


def test_saving_twice_stores_once(app: Flask, client: FlaskClient) -> None:
    """Who saves the session by hand and goes on changing it loses nothing."""

    @app.get("/twice")
    def twice() -> str:
        opened = session._get_current_object()  # type: ignore[attr-defined]
        session["a"] = 1
        response = app.response_class()
        app.session_interface.save_session(app, opened, response)
        session["b"] = 2
        return response.headers["Set-Cookie"]

    client.set_cookie(
        "session", client.get("/twice").text.partition("=")[2].split(";")[0]
    )
    assert client.get("/all").json == {"a": 1, "b": 2}
    assert len(rows(app)) == 1


def test_clearing_what_is_not_there_sets_no_cookie(
    app: Flask, client: FlaskClient
) -> None:
    """A token that opens nothing is left alone: the browser may have a new one."""
    client.set_cookie("session", "t" * 43)
    response = client.get("/clear")
    assert (response.status_code, cookie(response)) == (200, None)


def test_an_error_page_keeps_the_headers_of_every_page(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """What after_request functions set for every page stands on the page for a session
    that could not be saved, too; what speaks of the page before does not.
    """
    config = {"SESSION_MAX_PER_USER": 1, "SESSION_MAX_PER_USER_POLICY": "refuse"}
    app = add_views(make_app(make_database("sqlite-file"), **config))

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Cache-Control"] = "public, max-age=3600"
        response.set_cookie("remember_token", "ann")
        return response

    app.test_client().get("/set/_user_id/ann")
    response = app.test_client().get("/set/_user_id/ann")
    assert response.status_code == 403
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert "Cache-Control" not in response.headers
    assert "Set-Cookie" not in response.headers
    assert len(response.headers.getlist("Content-Type")) == 1
