"""Errors after the session was saved: their page carries the same cookie."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import pytest
from flask import Flask, request_finished
from flask.testing import FlaskClient

from flask_sessionsql import session
from tests.conftest import MakeApp
from tests.integration.helpers import add_views, cookie, rows, token


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return add_views(make_app("sqlite://", TESTING=False))


def fail(sender: Flask, **_: object) -> NoReturn:
    raise RuntimeError("a receiver's own mistake")


def visit_with_failing_receiver(client: FlaskClient, path: str) -> str | None:
    """The Set-Cookie of the error page."""
    with request_finished.connected_to(fail, client.application):
        response = client.get(path)
    assert response.status_code == 500
    assert len(response.headers.getlist("Set-Cookie")) <= 1
    return cookie(response)


def test_a_login_survives_an_error_after_it(app: Flask, client: FlaskClient) -> None:
    """The row has moved to the new token, so the error page brings it."""
    client.get("/set/basket/tea")
    before = token(client)
    assert visit_with_failing_receiver(client, "/set/_user_id/ann") is not None
    assert token(client) != before
    assert client.get("/all").json == {"basket": "tea", "_user_id": "ann"}
    assert len(rows(app)) == 1


def test_a_logout_survives_an_error_after_it(app: Flask, client: FlaskClient) -> None:
    """The cookie is cleared by the error page, too."""
    client.get("/set/basket/tea")
    sent = visit_with_failing_receiver(client, "/clear")
    assert sent is not None
    assert "Max-Age=0" in sent
    assert client.get_cookie("session") is None


def test_an_error_after_nothing_sends_no_cookie(client: FlaskClient) -> None:
    """What set no cookie before sets none in the error page."""
    client.get("/set/basket/tea")
    assert visit_with_failing_receiver(client, "/get/basket") is None


@pytest.mark.parametrize(
    ("makes", "left"),
    [
        (lambda: session.regenerate(), {"basket": "tea", "_user_id": "ann"}),
        (lambda: session.update(_user_id="bob"), {"basket": "tea", "_user_id": "bob"}),
        (lambda: session.clear(), {}),
    ],
    ids=["moves", "another user", "ends"],
)
def test_an_error_page_that_moves_the_session_again(
    makes: Callable[[], object], left: dict[str, str], app: Flask, client: FlaskClient
) -> None:
    """It carries one cookie, that of where the session is, or none."""

    @app.errorhandler(500)
    def page(error: Exception) -> tuple[str, int]:
        makes()
        return "Sorry!", 500

    client.get("/set/basket/tea")
    visit_with_failing_receiver(client, "/set/_user_id/ann")
    assert client.get("/all").json == left
    assert len(rows(app)) == bool(left)
