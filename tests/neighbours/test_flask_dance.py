"""Flask-Dance: a login by OAuth, whose state is in the session."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import MakeApp
from tests.integration.helpers import add_views, rows, token

from .provider import AT, Provider, assert_a_login_changes_the_token, sent_to_provider

consumer: Any = pytest.importorskip(
    "flask_dance.consumer", reason="Flask-Dance comes with `nox -s neighbours`"
)

pytestmark = pytest.mark.usefixtures("with_views")

#: The page that begins a login.
LOGIN = "/login/id"


def test_a_login_changes_the_token(client: FlaskClient, provider: Provider) -> None:
    """What was planted before it opens nothing."""
    assert_a_login_changes_the_token(client, provider, LOGIN)


def test_a_login_outlives_a_change_of_the_token(
    app: Flask, client: FlaskClient, provider: Provider
) -> None:
    """Another tab has logged in otherwise while this one was at the provider."""
    back = provider.consent(sent_to_provider(client, LOGIN), "ann")
    before = token(client)
    client.get("/set/user/bob")
    assert before != token(client)

    client.get(back)
    assert "Hello, ann!" == client.get("/").text
    assert ["ann"] == [row.user_id for row in rows(app)]


def starts_again(client: FlaskClient, back: str) -> bool:
    return "/login/id" == client.get(back).location


def test_another_browser_cannot_finish_it(
    app: Flask, client: FlaskClient, provider: Provider
) -> None:
    """Neither one without a session nor one whose session has another login on its way:
    nobody is logged in to somebody else's account (RFC 6749, section 10.12).
    """
    back = provider.consent(sent_to_provider(client, LOGIN), "mallory")
    assert starts_again(app.test_client(), back)
    victim = app.test_client()
    sent_to_provider(victim, LOGIN)
    assert starts_again(victim, back)
    assert "Hello, stranger!" == victim.get("/").text


@pytest.mark.parametrize("end", ["clear", "revoke"])
def test_it_starts_again_where_the_session_has_ended(
    names: dict[str, Any], client: FlaskClient, provider: Provider, end: str
) -> None:
    """Meanwhile; the second time, it logs in."""
    back = provider.consent(sent_to_provider(client, LOGIN), "ann")
    if end == "clear":
        client.get("/clear")
    else:
        with names["app"].app_context():
            names["sessions"].revoke_all()

    assert starts_again(client, back)
    client.get(provider.consent(sent_to_provider(client, LOGIN), "ann"))
    assert "Hello, ann!" == client.get("/").text


def test_the_first_of_two_tabs_starts_again(
    client: FlaskClient, provider: Provider
) -> None:
    """The second one's state has replaced its own."""
    first, second = (sent_to_provider(client, LOGIN) for _ in range(2))
    assert starts_again(client, provider.consent(first, "ann"))
    assert starts_again(client, provider.consent(second, "ann"))
    client.get(provider.consent(sent_to_provider(client, LOGIN), "ann"))
    assert "Hello, ann!" == client.get("/").text


def with_kept_token(app: Flask) -> Flask:
    """Flask-Dance as it is, without a receiver."""
    blueprint = consumer.OAuth2ConsumerBlueprint(
        "id",
        __name__,
        client_id="shop",
        client_secret="also secret",
        base_url=AT,
        authorization_url=f"{AT}/authorize",
        token_url=f"{AT}/token",
    )
    app.register_blueprint(blueprint, url_prefix="/login")

    @app.get("/me")
    def me() -> Any:
        return blueprint.session.get("/me").json()["name"]

    return add_views(app)


@pytest.mark.parametrize("encrypt", [False, True])
def test_the_providers_token_is_kept(
    make_app: MakeApp, provider: Provider, encrypt: bool
) -> None:
    """In the session, for later requests; in plain sight of who reads the table, unless
    sessions are encrypted.
    """
    app = with_kept_token(make_app("sqlite://", SESSION_ENCRYPT=encrypt))
    client = app.test_client()
    client.get(provider.consent(sent_to_provider(client, LOGIN), "ann"))
    assert "ann" == client.get("/me", base_url="https://localhost").text
    kept = (client.get("/all").json or {})["id_oauth_token"]["access_token"]
    assert encrypt is (kept.encode() not in rows(app)[0].data)
