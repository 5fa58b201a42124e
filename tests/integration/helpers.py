"""What the tests of whole requests share: views, browsers and a look at the table."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_sessionsql import session as typed_session
from tests.helpers import at_once, locked_file, store_of


def add_views(app: Flask) -> Flask:
    """Views that do to the session what their address says."""

    @app.get("/")
    def untouched() -> str:
        return "hello"

    @app.get("/get/<key>")
    def get(key: str) -> str:
        return repr(session.get(key))

    @app.get("/set/<key>/<value>")
    def set_(key: str, value: str) -> str:
        session[key] = value
        return "ok"

    @app.get("/append/<value>")
    def append(value: str) -> str:
        session["list"].append(value)
        return "ok"

    @app.get("/pop/<key>")
    def pop(key: str) -> str:
        session.pop(key, None)
        return "ok"

    @app.get("/clear")
    def clear() -> str:
        session.clear()
        return "ok"

    @app.get("/restart/<value>")
    def restart(value: str) -> str:
        session.clear()
        session["value"] = value
        return "ok"

    @app.get("/run")
    def run() -> Any:
        return app.extensions["view"]()

    @app.get("/all")
    def all_() -> dict[str, Any]:
        return dict(session)

    return app


def visit(client: FlaskClient, view: Callable[[], Any]) -> TestResponse:
    """One request, with this function for a view."""
    client.application.extensions["view"] = view
    return client.get("/run")


def rows(app: Flask) -> list[Any]:
    """All rows of the sessions, in an order that no change of a session moves."""
    store = store_of(app)
    if store.load(b"0" * 32, 0) is None:  # creates the table
        every = sa.select(store.table).order_by(store.table.c.handle)
        with store.engine.connect() as connection:
            return list(connection.execute(every))
    raise AssertionError


def cookie(response: TestResponse) -> str | None:
    """The Set-Cookie header, if there is one."""
    return response.headers.get("Set-Cookie")


def token(client: FlaskClient) -> str:
    """The token that the browser holds."""
    found = client.get_cookie("session")
    assert found is not None
    return found.value


def browser_with(app: Flask, value: str) -> FlaskClient:
    """A browser that holds this token, wherever it has it from."""
    browser = app.test_client()
    browser.set_cookie("session", value)
    return browser


def same_browser(client: FlaskClient, app: Flask | None = None) -> FlaskClient:
    """Another tab of the same browser, at another application if one is given."""
    return browser_with(app or client.application, token(client))


def arrives(client: FlaskClient, response: TestResponse) -> TestResponse:
    """An answer to another tab of the browser: its cookie is the browser's, too."""
    sent = cookie(response)
    if sent is not None:
        value = sent.partition("=")[2].partition(";")[0]
        if value:
            client.set_cookie("session", value)
        else:
            client.delete_cookie("session")
    return response


def during(
    client: FlaskClient, view: Callable[[], Any], between: Callable[[], Any]
) -> Any:
    """A slow request: ``view`` has touched the session, then ``between`` happens in
    other requests, then the rest of the view runs and the session is saved.
    """

    def slow() -> Any:
        session.get("anything")
        outcome: list[Any] = at_once([between])
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return view()

    return visit(client, slow)


def regenerate() -> str:
    """A view that moves its session to a new token."""
    typed_session.regenerate()
    return "ok"


@contextmanager
def locked_for_a_while(app: Flask) -> Iterator[None]:
    """Somebody else is writing to the application's SQLite file, and is done soon."""
    locked = threading.Event()

    def hold() -> None:
        with locked_file(app.config["SQLALCHEMY_DATABASE_URI"]):
            locked.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    assert locked.wait(10)
    yield
    thread.join()


class Passing:
    """Stands for the time from one purge to the next."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()
