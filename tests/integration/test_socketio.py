"""Handlers of Flask-SocketIO events, which share the session with the pages and have no
response that could carry a cookie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_socketio import SocketIO

from flask_sessionsql import (
    SessionLimitError,
    SessionRefused,
    SessionRotated,
    SessionStoreUnavailableError,
    session,
    session_refused,
    session_rotated,
)
from tests.conftest import MakeApp
from tests.helpers import store_of, told_by
from tests.integration.helpers import (
    add_views,
    browser_with,
    cookie,
    rows,
    same_browser,
    token,
    visit,
)

Emit = Callable[[Callable[[], object]], None]


def with_socket(app: Flask) -> Callable[[FlaskClient], Emit]:
    """Gives what lets a browser's socket send an event, which is handled by a function.

    The socket opens at once, with the cookie that the browser has then.
    """
    handlers: list[Callable[[], object]] = []
    socketio = SocketIO(app, manage_session=False, async_mode="threading")

    def handle() -> None:
        handlers.pop()()

    socketio.on_event("event", handle)

    def connect(client: FlaskClient) -> Emit:
        socket = socketio.test_client(app, flask_test_client=client)

        def emit(handler: Callable[[], object]) -> None:
            handlers.append(handler)
            socket.emit("event")

        return emit

    return connect


@pytest.fixture
def emit(app: Flask, client: FlaskClient) -> Emit:
    """The browser's socket, which has a session with a basket."""
    connect = with_socket(app)
    client.get("/set/basket/tea")
    return connect(client)


def log_in() -> None:
    session["_user_id"] = "ann"


def log_out() -> None:
    session.pop("_user_id")


def begin_anew() -> None:
    session.clear()
    log_in()


def clear_and_say() -> None:
    session.clear()
    session["message"] = "Bye."


@pytest.mark.parametrize(
    ("before", "handler", "after"),
    [
        (None, log_in, {"basket": "tea", "_user_id": "ann"}),
        ("bob", log_in, {"basket": "tea", "_user_id": "ann"}),
        ("ann", log_out, {"basket": "tea"}),
        ("ann", lambda: session.regenerate(), {"basket": "tea", "_user_id": "ann"}),
        ("ann", begin_anew, {"_user_id": "ann"}),
        (None, begin_anew, {"_user_id": "ann"}),
        ("ann", clear_and_say, {"message": "Bye."}),
    ],
    ids=["login", "change", "logout", "regenerate", "anew", "login anew", "clear"],
)
def test_the_token_changes_with_the_next_page(
    app: Flask,
    client: FlaskClient,
    before: str | None,
    handler: Callable[[], object],
    after: dict[str, Any],
) -> None:
    """What the event did holds at once, for the next event and the next page; that page
    brings the new token, and the old one opens nothing from then on.
    """
    connect = with_socket(app)
    client.get("/set/basket/tea")
    if before:
        client.get(f"/set/_user_id/{before}")
    emit, old = connect(client), token(client)
    seen: list[dict[str, Any]] = []
    emit(handler)
    emit(lambda: seen.append(dict(session)))
    assert seen == [after]
    assert [row.user_id for row in rows(app)] == [after.get("_user_id")]
    response = client.get("/all")
    assert response.json == after
    assert cookie(response) is not None
    assert token(client) != old
    assert browser_with(app, old).get("/all").json == {}
    # It changes once, and no more.
    response = client.get("/all")
    assert (response.json, cookie(response)) == (after, None)


def test_a_new_session_has_another_name(app: Flask, emit: Emit) -> None:
    """What begins after session.clear() in an event is another session."""
    [before] = rows(app)
    emit(begin_anew)
    [after] = rows(app)
    assert after.handle != before.handle


def test_a_clear_in_an_event_ends_the_session(
    app: Flask, client: FlaskClient, emit: Emit
) -> None:
    """There is nothing to tell: the browser's cookie opens nothing."""
    emit(lambda: session.clear())
    assert rows(app) == []
    assert client.get("/all").json == {}
    client.get("/set/a/1")
    assert client.get("/all").json == {"a": "1"}


def test_a_login_in_an_event_is_told_of_once(
    app: Flask, client: FlaskClient, emit: Emit
) -> None:
    """When it happens; the change of token is told of when that happens."""
    with told_by(session_rotated, app) as told:
        emit(log_in)
        [row] = rows(app)
        assert told == [SessionRotated(row.handle, "ann", None)]
        client.get("/all")
    assert told[1:] == [SessionRotated(row.handle, "ann", "ann")]


def test_what_a_page_changes_meanwhile_is_kept(
    app: Flask, client: FlaskClient, emit: Emit
) -> None:
    """A page that is under way while an event logs in writes with the old token; the
    token changes with the page after it.
    """
    old = token(client)

    def view() -> str:
        session.get("basket")
        emit(log_in)
        session["seen"] = 1
        return "ok"

    visit(client, view)
    expected = {"basket": "tea", "_user_id": "ann", "seen": 1}
    assert client.get("/all").json == expected
    assert token(client) != old


def test_a_basket_is_shared(client: FlaskClient, emit: Emit) -> None:
    """What changes no user changes no token, and costs no more than anywhere."""
    before = token(client)
    emit(lambda: session.update(basket=["tea", "milk"]))
    emit(lambda: session["basket"].append("jam"))
    response = client.get("/all")
    assert response.json == {"basket": ["tea", "milk", "jam"]}
    assert (token(client), cookie(response)) == (before, None)


def test_an_event_begins_no_session(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could tell the browser its token: nothing is stored, and the log says what
    to do.
    """
    emit = with_socket(app)(client)
    with told_by(session_refused, app) as told, caplog.at_level(logging.WARNING):
        emit(log_in)
    assert rows(app) == []
    assert told == [SessionRefused(None, None, "cookie")]
    assert "Start the session in a page" in caplog.text
    assert client.get("/all").json == {}


def test_an_event_with_an_earlier_token_writes_nothing(
    app: Flask, client: FlaskClient, emit: Emit
) -> None:
    """A page has changed the token since the socket was opened: it has to be opened
    anew, and until then its events meet nobody, and do no harm.
    """
    client.get("/set/_user_id/ann")
    seen: list[dict[str, Any]] = []
    emit(lambda: seen.append(dict(session)))
    emit(lambda: session.update(a=1))
    assert seen == [{}]
    assert client.get("/all").json == {"basket": "tea", "_user_id": "ann"}


def test_a_login_in_an_event_of_an_ended_session_is_not_stored(
    app: Flask, client: FlaskClient, emit: Emit
) -> None:
    """Another request ends it while the event is handled."""
    tab = same_browser(client)

    def late() -> None:
        session.get("basket")
        with app.app_context():
            tab.get("/clear")
        log_in()

    emit(late)
    assert rows(app) == []


def test_a_limit_holds_for_events(make_app: MakeApp, shared_database_uri: str) -> None:
    """The handler's login is refused by an error, as there is no page to say so."""
    app = add_views(
        make_app(
            shared_database_uri,
            SESSION_MAX_PER_USER=1,
            SESSION_MAX_PER_USER_POLICY="refuse",
        )
    )
    client = app.test_client()
    app.test_client().get("/set/_user_id/ann")
    connect = with_socket(app)
    client.get("/set/basket/tea")
    emit = connect(client)
    with pytest.raises(SessionLimitError):
        emit(log_in)
    assert client.get("/all").json == {"basket": "tea"}


def test_a_failing_database_is_an_error_in_events(
    app: Flask, client: FlaskClient, emit: Emit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no page to say so, either."""
    store = store_of(app)

    def fail(*args: object, **kwargs: object) -> bool:
        raise SessionStoreUnavailableError("The database is away.")

    monkeypatch.setattr(store, "update", fail)
    with pytest.raises(SessionStoreUnavailableError):
        emit(log_in)
    assert client.get("/all").json == {"basket": "tea"}


def test_a_websocket_is_told_nothing(app: Flask, client: FlaskClient) -> None:
    """As a view of Flask-Sock's, whose response nobody gets once it is open."""
    client.get("/set/basket/tea")
    old = token(client)
    tab = same_browser(client)
    tab.get("/set/_user_id/ann", headers={"Sec-WebSocket-Key": "eA=="})
    assert token(client) == old
    assert client.get("/all").json == {"basket": "tea", "_user_id": "ann"}
    assert token(client) != old
