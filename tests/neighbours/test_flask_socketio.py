"""Flask-SocketIO: what an open socket has of a session that ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask import session as flask_session
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from flask_sessionsql import Session, session
from tests.conftest import MakeApp
from tests.helpers import Clock, statements_on, store_of, wait_until
from tests.integration.helpers import (
    add_views,
    browser_with,
    regenerate,
    rows,
    token,
    visit,
)

flask_socketio: Any = pytest.importorskip(
    "flask_socketio", reason="Flask-SocketIO comes with `nox -s neighbours`"
)

python_socketio: Any = pytest.importorskip(
    "socketio", reason="python-socketio comes with `nox -s neighbours`"
)

pytestmark = pytest.mark.usefixtures("with_views")


@pytest.fixture
def names(names: dict[str, Any]) -> dict[str, Any]:
    """With an event that says who is logged in."""
    names["socketio"].on_event("who", lambda: session.get("_user_id", "nobody"))
    return names


def logged_in(app: Flask, name: str) -> FlaskClient:
    browser = app.test_client()
    browser.get(f"/set/_user_id/{name}")
    return browser


def socket_of(browser: FlaskClient) -> Any:
    """A socket that the browser opens."""
    app = browser.application
    socketio = app.extensions["socketio"]
    return socketio.test_client(app, flask_test_client=browser)


def ask(socket: Any) -> Any:
    """Whom the socket's handlers take the browser for."""
    return socket.emit("who", callback=True)


def test_who_is_not_logged_in_gets_no_socket(app: Flask) -> None:
    """With a session or without one."""
    visitor = app.test_client()
    assert not socket_of(visitor).is_connected()
    visitor.get("/set/basket/tea")
    assert not socket_of(visitor).is_connected()
    assert socket_of(logged_in(app, "ann")).is_connected()


def revoke(names: dict[str, Any], browser: FlaskClient | None) -> None:
    with names["app"].app_context():
        names["sessions"].revoke_user("ann")


def revoke_others(names: dict[str, Any], browser: FlaskClient) -> None:
    tab = logged_in(names["app"], "ann")
    visit(tab, lambda: str(names["sessions"].revoke_others()))


def log_out(names: dict[str, Any], browser: FlaskClient) -> None:
    browser.get("/set/basket/tea")
    browser.get("/pop/_user_id")


def clear(names: dict[str, Any], browser: FlaskClient) -> None:
    browser.get("/clear")


def change(names: dict[str, Any], browser: FlaskClient) -> None:
    browser.get("/set/_user_id/bob")


@pytest.mark.parametrize("end", [revoke, revoke_others, log_out, clear, change])
def test_the_sockets_of_an_ended_session_are_closed(
    names: dict[str, Any], end: Callable[[dict[str, Any], FlaskClient], None]
) -> None:
    """All that it has, at once; nobody else's."""
    app = names["app"]
    anns, bobs = logged_in(app, "ann"), logged_in(app, "bob")
    first, second, other = socket_of(anns), socket_of(anns), socket_of(bobs)
    end(names, anns)

    assert [False, False] == [each.is_connected() for each in (first, second)]
    assert "bob" == ask(other)
    assert 1 == len(names["sockets"])


def test_it_is_opened_anew_after_a_login(names: dict[str, Any]) -> None:
    """With the cookie that the browser has then."""
    browser = logged_in(names["app"], "ann")
    socket = socket_of(browser)
    visit(browser, regenerate)
    assert not socket.is_connected()
    assert "ann" == ask(socket_of(browser))


def test_another_process_finds_them(names: dict[str, Any]) -> None:
    """What it has not been told of, as an end in another process, it looks for."""
    app = names["app"]
    anns, bobs = logged_in(app, "ann"), logged_in(app, "bob")
    socket, other = socket_of(anns), socket_of(bobs)
    for signal in (names["session_ended"], names["session_rotated"]):
        signal.disconnect(names["close_sockets"], app)
    revoke(names, anns)
    assert socket.is_connected()
    with app.app_context():
        names["close_ended"]()

    assert not socket.is_connected()
    assert "bob" == ask(other)


def test_an_expired_session_is_found_too(names: dict[str, Any], clock: Clock) -> None:
    """Though no row has been purged."""
    app = names["app"]
    socket = socket_of(logged_in(app, "ann"))
    clock.now += app.permanent_session_lifetime.total_seconds() + 1
    with app.app_context():
        names["close_ended"]()
    assert not socket.is_connected()


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_a_real_connection_is_closed(names: dict[str, Any], transport: str) -> None:
    """At once, also while the server waits for the client to say something."""
    for needed in ("requests", "websocket"):
        pytest.importorskip(needed, reason=f"{needed} comes with `nox -s neighbours`")
    app = names["app"]
    cookie = f"session={token(logged_in(app, 'ann'))}"
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    client = python_socketio.Client(reconnection=False)
    try:
        url = f"http://127.0.0.1:{server.port}"
        client.connect(url, headers={"Cookie": cookie}, transports=[transport])
        assert "ann" == client.call("who", timeout=30)
        revoke(names, None)
        wait_until(lambda: not client.connected)
    finally:
        client.disconnect()
        server.shutdown()
        serving.join()
        server.server_close()


# Without any of that.


def plain(app: Flask, **options: Any) -> Flask:
    """Flask-SocketIO with some events."""
    socketio = flask_socketio.SocketIO(app, async_mode="threading", **options)
    socketio.on_event("who", lambda: session.get("_user_id", "nobody"))
    socketio.on_event("write", lambda: session.update(basket="tea"))
    socketio.on_event("handle", lambda: hasattr(flask_session, "handle"))
    socketio.on_event("idle", lambda: "idle")
    return add_views(app)


def test_a_revoked_session_is_empty_to_its_socket(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """From the next event on. It stays open, and what it writes is dropped, with a line
    in the log; what is sent to all still arrives.
    """
    app = plain(make_app("sqlite://"), manage_session=False)
    socket = socket_of(logged_in(app, "ann"))
    assert "ann" == ask(socket)
    with app.app_context():
        assert 1 == Session().revoke_user("ann")

    assert "nobody" == ask(socket)
    with caplog.at_level(logging.WARNING):
        socket.emit("write")
    assert "is not stored" in caplog.text
    assert [] == rows(app)
    app.extensions["socketio"].emit("news", "to all")
    assert ["news"] == [each["name"] for each in socket.get_received()]


def test_an_event_costs_a_select_where_it_looks(make_app: MakeApp) -> None:
    """And nothing where it does not."""
    app = plain(make_app("sqlite://"), manage_session=False)
    socket = socket_of(logged_in(app, "ann"))
    with statements_on(store_of(app).engine) as seen:
        assert "idle" == socket.emit("idle", callback=True)
        assert [] == seen
        assert "ann" == ask(socket)
    assert ["SELECT"] == [each.split()[0] for each in seen]


def test_events_do_not_prolong_a_session_that_they_read(
    make_app: MakeApp, clock: Clock
) -> None:
    """A page does so; Flask-SocketIO saves only what a handler has changed."""
    app = plain(make_app("sqlite://"), manage_session=False)
    browser = logged_in(app, "ann")
    socket = socket_of(browser)
    [before] = rows(app)
    clock.now += 86_400
    assert "ann" == ask(socket)
    assert [before.expires_at] == [row.expires_at for row in rows(app)]
    socket.emit("write")
    [written] = rows(app)
    assert before.expires_at < written.expires_at
    clock.now += 86_400
    browser.get("/all")
    assert [written.expires_at] < [row.expires_at for row in rows(app)]


def test_a_managed_session_is_a_copy(make_app: MakeApp) -> None:
    """It does not follow the pages, the pages do not see what it has, and it outlives a
    revocation.
    """
    app = plain(make_app("sqlite://"))
    browser = logged_in(app, "ann")
    socket = socket_of(browser)
    assert "ann" == ask(socket)
    assert not socket.emit("handle", callback=True)
    socket.emit("write")
    assert {"_user_id": "ann"} == browser.get("/all").json
    with app.app_context():
        assert 1 == Session().revoke_user("ann")

    assert {} == browser.get("/all").json
    assert "ann" == ask(socket)
    # A new one is nobody's.
    assert "nobody" == ask(socket_of(browser_with(app, token(browser))))
