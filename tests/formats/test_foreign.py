"""What other packages store, read as they read it."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import Signer

from flask_sessionsql.exceptions import UnreadableSessionError
from flask_sessionsql.formats.foreign import (
    PickleError,
    flask_session_id,
    load_row,
    open_cookie,
)
from flask_sessionsql.sessions import ADOPTED_KEY, EXPIRY_KEY

DATA: dict[str, Any] = {"_user_id": "ann", "cart": [1, 2.5, None, {"a": b"x"}]}


def test_rows() -> None:
    """MessagePack and JSON are told by their beginnings, whichever was set."""
    assert load_row(msgspec.msgpack.encode(DATA)) == DATA
    plain = {"_user_id": "ann", "cart": [1, {"a": "\xe4"}]}
    assert load_row(msgspec.json.encode(plain)) == plain
    assert load_row(b"\x80") == {}


def test_what_only_this_package_sets() -> None:
    """It is left out of what others have stored; permanent is yes or no."""
    data = {ADOPTED_KEY: True, EXPIRY_KEY: 1, "_permanent": 1, "a": 1}
    assert load_row(msgspec.msgpack.encode(data)) == {"_permanent": True, "a": 1}


class Trap:
    """What runs where its pickle is loaded."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("The pickle was loaded.",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("data", [{}, DATA, {"a": Trap()}], ids=["empty", "", "trap"])
def test_pickles(protocol: int, data: Any) -> None:
    """A pickle of any protocol is known as one, and never loaded."""
    with pytest.raises(PickleError):
        load_row(pickle.dumps(data, protocol))


@pytest.mark.parametrize(
    "payload",
    [b"", b"x", b"[1]", b"\x93\x01\x02\x03", b"{\xff}", b"{", b"\x81", b"1", b"null"],
)
def test_what_is_nothing(payload: bytes) -> None:
    """Anything else is refused."""
    with pytest.raises(UnreadableSessionError) as refused:
        load_row(payload)
    assert not isinstance(refused.value, PickleError)


def test_ids() -> None:
    """An id is what Flask-Session makes, signed or not, by any of the keys."""
    name = "0b7c9dfc-6d0f-4f0e-9d6b-1c2d3e4f5a6b"
    signer = Signer("old", salt="flask-session", key_derivation="hmac")
    signed = signer.sign(name).decode()

    assert name == flask_session_id(name, ["new"], signed=False)
    assert name == flask_session_id(signed, ["new", "old"], signed=True)
    assert flask_session_id(signed, ["new"], signed=True) is None
    assert flask_session_id(name, ["old"], signed=True) is None
    for nothing in ("", "short", "a b c d e f g", "x" * 256, "\xe4" * 20):
        assert flask_session_id(nothing, ["new"], signed=False) is None


def signed_by_flask(data: Any) -> str:
    app = Flask("shop")
    app.config["SECRET_KEY"] = "old"
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return str(serializer.dumps(data))


def test_cookies() -> None:
    """A cookie is opened by any of the keys; a name tells it from others."""
    cookie = signed_by_flask({"a": (1, b"x")})
    opened = open_cookie(cookie, [b"new", "old"], 60)

    assert opened is not None
    assert {"a": (1, b"x")} == opened.data
    assert cookie.startswith(opened.name)
    assert "x" not in repr(opened)
    assert open_cookie(cookie, ["new"], 60) is None
    assert open_cookie(cookie, ["old"], -1) is None
    assert open_cookie(signed_by_flask([1, 2]), ["old"], 60) is None


def test_what_was_signed_for_something_else() -> None:
    """It is no session, whatever it holds."""
    from itsdangerous import URLSafeTimedSerializer

    of_flask = SecureCookieSessionInterface
    serializer = URLSafeTimedSerializer(
        "old",
        salt=of_flask.salt,
        signer_kwargs={
            "key_derivation": of_flask.key_derivation,
            "digest_method": of_flask.digest_method,
        },
    )
    cookie = serializer.dumps({" u": "no UUID"})

    assert open_cookie(str(cookie), ["old"], 60) is None
