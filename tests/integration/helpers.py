"""What the tests of whole requests share: views, browsers and a look at the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import store_of


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
