"""Authlib: a login by OAuth, whose state is in the session."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.helpers import Clock
from tests.integration.helpers import token

from .provider import Provider, assert_a_login_changes_the_token, sent_to_provider

pytest.importorskip("authlib", reason="Authlib comes with `nox -s neighbours`")

pytestmark = pytest.mark.usefixtures("with_views")

#: The page that begins a login.
LOGIN = "/login"


def test_a_login_changes_the_token(client: FlaskClient, provider: Provider) -> None:
    """What was planted before it opens nothing."""
    assert_a_login_changes_the_token(client, provider, LOGIN)


def test_two_tabs_log_in(client: FlaskClient, provider: Provider) -> None:
    """The second one's way back is not closed by the first one's login, after which the
    session has another token.
    """
    first, second = (sent_to_provider(client, LOGIN) for _ in range(2))
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
    back = provider.consent(sent_to_provider(client, LOGIN), "mallory")
    for victim in (app.test_client(), app.test_client()):
        assert 400 == victim.get(back).status_code
        assert "Hello, stranger!" == victim.get("/").text
        sent_to_provider(victim, LOGIN)
        assert 400 == victim.get(back).status_code
        assert "Hello, stranger!" == victim.get("/").text


@pytest.mark.parametrize("end", ["clear", "revoke"])
def test_it_is_refused_where_the_session_has_ended(
    names: dict[str, Any], client: FlaskClient, provider: Provider, end: str
) -> None:
    """Meanwhile; the second time, it logs in."""
    back = provider.consent(sent_to_provider(client, LOGIN), "ann")
    if end == "clear":
        client.get("/clear")
    else:
        with names["app"].app_context():
            names["sessions"].revoke_all()

    assert 400 == client.get(back).status_code
    client.get(provider.consent(sent_to_provider(client, LOGIN), "ann"))
    assert "Hello, ann!" == client.get("/").text


def test_what_nobody_finishes_goes_with_the_next_login(
    client: FlaskClient, provider: Provider, clock: Clock
) -> None:
    """When it is older than an hour."""
    for _ in range(3):
        sent_to_provider(client, LOGIN)
    assert 3 == len(client.get("/all").json or {})
    clock.now += 3_601
    client.get(provider.consent(sent_to_provider(client, LOGIN), "ann"))
    assert {"user": "ann"} == client.get("/all").json
