"""A provider of logins by OAuth 2.0 (RFC 6749), without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask.testing import FlaskClient

from tests.integration.helpers import browser_with, rows, token

requests: Any = pytest.importorskip(
    "requests", reason="Requests comes with `nox -s neighbours`"
)

#: Where the pages say that it is.
AT = "https://id.example.org"


class Provider:
    """Answers what Requests sends to it."""

    def __init__(self) -> None:
        self._codes: dict[str, tuple[str, str | None]] = {}
        self._tokens: dict[str, str] = {}

    def consent(self, location: str | None, user: str) -> str:
        """The user logs in there, and agrees: the address to which the browser is sent
        back.
        """
        assert location is not None
        assert location.startswith(f"{AT}/authorize?")
        asked = {key: values[0] for key, values in _query(location).items()}
        code = secrets.token_hex(8)
        self._codes[code] = user, asked.get("code_challenge")
        back = urlencode({"code": code, "state": asked["state"]})
        return f"{asked['redirect_uri']}?{back}"

    def send(self, adapter: object, request: Any, **options: object) -> Any:
        """Stands for the network: gives the response to a request."""
        response = requests.Response()
        response.request, response.url = request, request.url
        answer = self._token if request.url == f"{AT}/token" else self._me
        response.status_code, content = answer(request)
        response._content = json.dumps(content).encode()
        response.headers["Content-Type"] = "application/json"
        return response

    def _token(self, request: Any) -> tuple[int, dict[str, Any]]:
        fields = parse_qs(request.body)
        # A code is good for once.
        user, challenge = self._codes.pop(fields["code"][0], ("", None))
        verifier = fields.get("code_verifier", [""])[0].encode()
        digest = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest())
        if not user or (challenge and challenge != digest.decode().rstrip("=")):
            return 400, {"error": "invalid_grant"}
        token = secrets.token_hex(8)
        self._tokens[token] = user
        return 200, {"access_token": token, "token_type": "Bearer", "expires_in": 600}

    def _me(self, request: Any) -> tuple[int, dict[str, Any]]:
        assert request.url == f"{AT}/me"
        _, _, token = request.headers.get("Authorization", "").partition(" ")
        user = self._tokens.get(token)
        return (200, {"name": user}) if user else (401, {})


def _query(address: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(address).query)


def provider_without_network(monkeypatch: pytest.MonkeyPatch) -> Provider:
    """A provider that gets all that Requests sends."""
    provider = Provider()
    monkeypatch.setattr(
        "requests.adapters.HTTPAdapter.send",
        lambda adapter, request, **options: provider.send(adapter, request, **options),
    )
    return provider


def sent_to_provider(client: FlaskClient, path: str) -> str | None:
    """The browser begins a login, by this page: where it is sent to."""
    return client.get(path, base_url="https://localhost").location


def assert_a_login_changes_the_token(
    client: FlaskClient, provider: Provider, path: str
) -> None:
    """What was planted before a login opens nothing, the basket stays, and nothing is
    left of the way there.
    """
    app = client.application
    client.get("/set/basket/tea")
    planted = token(client)
    back = provider.consent(sent_to_provider(client, path), "ann")
    assert planted == token(client)
    assert "/" == client.get(back).location

    assert "Hello, ann!" == client.get("/").text
    assert {"user": "ann", "basket": "tea"} == client.get("/all").json
    assert ["ann"] == [row.user_id for row in rows(app)]
    assert planted != token(client)
    assert "Hello, stranger!" == browser_with(app, planted).get("/").text
