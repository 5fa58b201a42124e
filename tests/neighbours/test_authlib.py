"""Authlib: a login by OAuth, whose state is in the session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.helpers import Clock, store_of
from tests.integration.helpers import add_views, browser_with, rows, token

from .blocks import run_blocks
from .provider import Provider, provider_without_network

pytest.importorskip("authlib", reason="Authlib comes with `nox -s neighbours`")


@pytest.fixture
def names() -> Iterator[dict[str, Any]]:
    """What the page defines, and views that change the session."""
    names = run_blocks("authlib")
    app = names["app"]
    app.testing = True
    add_views(app)
    yield names
    store_of(app).dispose()


@pytest.fixture
def app(names: dict[str, Any]) -> Flask:
    app: Flask = names["app"]
    return app


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    return provider_without_network(monkeypatch)


def sent_to_provider(client: FlaskClient) -> str | None:
    """The browser begins a login: where it is sent to."""
    return client.get("/login", base_url="https://localhost").location


def test_a_login_changes_the_token(
    app: Flask, client: FlaskClient, provider: Provider
) -> None:
    """What was planted before it opens nothing, the basket stays, and nothing is left
    of the way there.
    """
    client.get("/set/basket/tea")
    planted = token(client)
    back = provider.consent(sent_to_provider(client), "ann")
    assert planted == token(client)
    assert "/" == client.get(back).location

    assert "Hello, ann!" == client.get("/").text
    assert {"user": "ann", "basket": "tea"} == client.get("/all").json
    assert ["ann"] == [row.user_id for row in rows(app)]
    assert planted != token(client)
    assert "Hello, stranger!" == browser_with(app, planted).get("/").text


def test_two_tabs_log_in(client: FlaskClient, provider: Provider) -> None:
    """The second one's way back is not closed by the first one's login, after which the
    session has another token.
    """
    first, second = (sent_to_provider(client) for _ in range(2))
    before = token(client)
    client.get(provider.consent(first, "ann"))
    assert before != token(client)
    assert "/" == client.get(provider.consent(second, "bob")).location
    assert "Hello, bob!" == client.get("/").text


def test_another_browser_cannot_finish_it(
    app: Flask, client: FlaskClient, provider: Provider
) -> None:
    """Neither one without a session nor one whose session has another login on its way:
    nobody is logged in to somebody else's account (RFC 6749, section 10.12).
    """
    back = provider.consent(sent_to_provider(client), "mallory")
    for victim in (app.test_client(), app.test_client()):
        assert 400 == victim.get(back).status_code
        assert "Hello, stranger!" == victim.get("/").text
        sent_to_provider(victim)
        assert 400 == victim.get(back).status_code
        assert "Hello, stranger!" == victim.get("/").text


@pytest.mark.parametrize("end", ["clear", "revoke"])
def test_it_is_refused_where_the_session_has_ended(
    names: dict[str, Any], client: FlaskClient, provider: Provider, end: str
) -> None:
    """Meanwhile; the second time, it logs in."""
    back = provider.consent(sent_to_provider(client), "ann")
    if end == "clear":
        client.get("/clear")
    else:
        with names["app"].app_context():
            names["sessions"].revoke_all()

    assert 400 == client.get(back).status_code
    client.get(provider.consent(sent_to_provider(client), "ann"))
    assert "Hello, ann!" == client.get("/").text


def test_what_nobody_finishes_goes_with_the_next_login(
    client: FlaskClient, provider: Provider, clock: Clock
) -> None:
    """When it is older than an hour."""
    for _ in range(3):
        sent_to_provider(client)
    assert 3 == len(client.get("/all").json or {})
    clock.now += 3_601
    client.get(provider.consent(sent_to_provider(client), "ann"))
    assert {"user": "ann"} == client.get("/all").json
