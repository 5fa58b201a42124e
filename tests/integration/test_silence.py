"""Requests while the database server accepts what is sent and does not answer, as one
that was stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session, SessionStoreUnavailableError
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Cut, at_once, on, wait_until
from tests.integration.helpers import add_views, cookie, visit

#: Seconds after which a request has taken longer than SESSION_DATABASE_TIMEOUT = 1, on
#: a machine that is busy, too. Without it, it waits for a quarter of a minute here.
TOO_LONG = 6.0


@pytest.fixture(params=on("postgresql", "mariadb"))
def cut(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Iterator[Cut]:
    cut = Cut(make_database(request.param))
    yield cut
    cut.close()


@pytest.fixture
def app(make_app: MakeApp, cut: Cut) -> Flask:
    app = add_views(make_app(cut.uri, SESSION_DATABASE_TIMEOUT=1))
    app.testing = False
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser that has a session, and finds the pool with a connection."""
    client = app.test_client()
    works_again(client)
    return client


def works_again(client: FlaskClient, value: str = "1") -> None:
    wait_until(lambda: client.get(f"/set/a/{value}").status_code == 200)


def seconds(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def test_a_request_is_a_503_in_time(cut: Cut, client: FlaskClient) -> None:
    """Whatever it does with its session, and whether there is a connection or not."""
    cut.fall_silent()

    def visits() -> None:
        for path in ("/get/a", "/set/a/2", "/clear", "/get/a"):
            response = client.get(path)
            assert (response.status_code, cookie(response)) == (503, None)

    assert seconds(visits) < 4 * TOO_LONG
    cut.speak()
    wait_until(lambda: client.get("/get/a").text == "'1'")


def test_a_session_that_cannot_be_saved_is_a_503_in_time(
    cut: Cut, client: FlaskClient
) -> None:
    """Where the server was there when the session was loaded."""

    def view() -> str:
        session["a"] = 2
        cut.fall_silent()
        return "ok"

    responses: list[Any] = []
    assert seconds(lambda: responses.append(visit(client, view))) < TOO_LONG
    assert responses[0].status_code == 503
    cut.speak()
    works_again(client)


def test_a_first_visit_and_a_login(cut: Cut, make_app: MakeApp) -> None:
    """Where the application has never connected, and where a login has a limit."""
    app = add_views(make_app(cut.uri, SESSION_DATABASE_TIMEOUT=1))
    limited = add_views(
        make_app(cut.uri, SESSION_DATABASE_TIMEOUT=1, SESSION_MAX_PER_USER=1)
    )
    works_again(limited.test_client())
    cut.fall_silent()
    for each in (app, limited, app):
        each.testing = False
        client = each.test_client()
        begun = time.monotonic()
        assert client.get("/set/_user_id/ann").status_code == 503
        assert time.monotonic() - begun < TOO_LONG


def test_many_threads(cut: Cut, app: Flask, client: FlaskClient) -> None:
    """More than the pool has connections: each has its answer in time, and a page that
    leaves the session alone has it at once, in the midst of them.
    """
    clients = [app.test_client() for _ in range(24)]
    for each in clients:
        works_again(each)
    threads = threading.active_count()
    cut.fall_silent()

    def visit_both(each: FlaskClient) -> tuple[int, bool]:
        untouched = seconds(lambda: each.get("/"))
        begun = time.monotonic()
        status = each.get("/get/a").status_code
        assert untouched < TOO_LONG
        return status, time.monotonic() - begun < TOO_LONG

    results = at_once([partial(visit_both, each) for each in clients])
    assert [(503, True)] * 24 == results
    assert seconds(lambda: client.get("/")) < TOO_LONG / 6
    cut.speak()
    for each in clients:
        works_again(each)
    wait_until(lambda: threading.active_count() <= threads + 2 * 15)


def test_ends_and_lists(cut: Cut, app: Flask, client: FlaskClient) -> None:
    """The calls of the application, outside of a request."""
    sessions = Session()
    calls: list[Callable[[], object]] = [
        lambda: sessions.user_sessions("ann"),
        lambda: sessions.revoke("a handle"),
        lambda: sessions.revoke_user("ann"),
        sessions.revoke_all,
    ]
    cut.fall_silent()
    with app.app_context():
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(SessionStoreUnavailableError):
                call()
            assert time.monotonic() - begun < TOO_LONG


def test_a_command_has_ten_times_as_long(
    cut: Cut, app: Flask, client: FlaskClient
) -> None:
    """An operator can wait for it."""
    cut.fall_silent()
    threading.Timer(1.5, cut.speak).start()
    result = app.test_cli_runner().invoke(args=["sessions", "stats"])
    assert result.exit_code == 0, result.output


def test_the_application_waits_as_it_did(make_app: MakeApp, cut: Cut) -> None:
    """Its own statements have no deadline, in the same thread and at the same time."""
    db = SQLAlchemy()
    app = add_views(make_app(cut.uri, db.init_app, SESSION_DATABASE_TIMEOUT=1))
    client = app.test_client()
    works_again(client)

    def view() -> str:
        session.get("a")
        db.session.execute(sa.text("SELECT 1"))
        cut.fall_silent()
        threading.Timer(1.5, cut.speak).start()
        return str(db.session.scalar(sa.text("SELECT 2")))

    assert visit(client, view).text == "2"
