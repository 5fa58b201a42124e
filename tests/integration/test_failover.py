"""The database moves to another server: what users see."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql.storage import failover
from tests.conftest import MakeApp
from tests.helpers import at_once, on
from tests.integration.helpers import add_views
from tests.throwaway import Primary, Switch, primary

BACKENDS = on("postgresql", "mariadb")


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Primary]:
    """A server, and the one that is to take its place."""
    with primary(request.param) as found:
        yield found


@pytest.fixture
def switch(pair: Primary) -> Iterator[Switch]:
    """The address of the server that takes writes, as a proxy has it."""
    switch = Switch(pair.first)
    yield switch
    switch.close()


def users(app: Flask, count: int) -> list[FlaskClient]:
    """Browsers that are logged in, of which each has had a connection."""
    found = [app.test_client() for _ in range(count)]
    jobs: list[Any] = [
        partial(browser.get, f"/set/_user_id/user{number}")
        for number, browser in enumerate(found)
    ]
    assert [response.status_code for response in at_once(jobs)] == [200] * count
    return found


@pytest.mark.parametrize("pair", BACKENDS, indirect=True)
def test_the_proxy_leads_to_another_server(
    pair: Primary, switch: Switch, make_app: MakeApp
) -> None:
    """The first server has become read-only, and new connections reach the second. The
    next writes work, in all threads at once, and everybody is still logged in.
    """
    app = add_views(make_app(switch.uri))
    browsers = users(app, 8)
    pair.demote()
    pair.promote()
    switch.lead_to(pair.second)
    before = switch.count
    writes = at_once([partial(browser.get, "/set/cart/tea") for browser in browsers])
    assert [response.status_code for response in writes] == [200] * 8
    for number, browser in enumerate(browsers):
        assert browser.get("/get/_user_id").text == repr(f"user{number}")
        assert browser.get("/get/cart").text == repr("tea")
        assert browser.get("/clear").status_code == 200
        assert browser.get("/all").json == {}
    # One that has looked, and those of the pool.
    assert switch.count - before <= 9


@pytest.mark.parametrize("pair", on("postgresql"), indirect=True)
def test_an_address_with_two_hosts(
    pair: Primary, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq looks for the one that takes writes. So do the sessions, once the one that
    they are connected to does not any more.
    """
    first, second = sa.make_url(pair.first), sa.make_url(pair.second)
    uri = (
        f"postgresql+psycopg://postgres@/postgres?host=127.0.0.1:{first.port}"
        f"&host=127.0.0.1:{second.port}&target_session_attrs=read-write"
    )
    app = add_views(make_app(uri, SESSION_MAX_PER_USER=5))
    browsers = users(app, 4)
    pair.demote()
    assert browsers[0].get("/get/_user_id").text == repr("user0")
    assert browsers[0].get("/set/cart/tea").status_code == 503
    # No server takes writes, so none could be connected to: the old ones still read.
    assert browsers[1].get("/get/_user_id").text == repr("user1")
    pair.promote()
    monkeypatch.setattr(failover, "INTERVAL", 0)  # the time between two looks is over
    writes = at_once([partial(browser.get, "/set/cart/tea") for browser in browsers])
    assert [response.status_code for response in writes] == [200] * 4
    assert browsers[0].get("/get/_user_id").text == repr("user0")
    late = app.test_client()
    assert late.get("/set/_user_id/user0").status_code == 200


@pytest.mark.parametrize("pair", BACKENDS, indirect=True)
def test_no_server_takes_writes(
    pair: Primary,
    switch: Switch,
    make_app: MakeApp,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What reads is served, and what writes is a 503. However many try, one connection
    is made to look for another server in the time between two looks.
    """
    monkeypatch.setattr(failover, "INTERVAL", 600.0)
    app = add_views(make_app(switch.uri))
    browsers = users(app, 8)
    pair.demote()
    before = switch.count
    for _ in range(5):
        writes = at_once(
            [partial(browser.get, "/set/cart/tea") for browser in browsers]
        )
        assert [response.status_code for response in writes] == [503] * 8
        for number, browser in enumerate(browsers):
            assert browser.get("/get/_user_id").text == repr(f"user{number}")
    assert switch.count - before <= 1
