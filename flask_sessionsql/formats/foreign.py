"""Formats of other packages: the rows of Flask-Session, and Flask's signed cookies.

Both are read and never written. A pickle is recognized by its first bytes and never
loaded, because loading one runs the code in it. Rows of Flask-Session up to 0.6 are
pickles. Since 0.7 they are MessagePack or JSON, as configured there; the first byte
says which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import BadSignature, Signer, URLSafeTimedSerializer

from ..exceptions import UnreadableSessionError
from ..sessions import HIDDEN_KEYS, PERMANENT_KEY

__all__ = [
    "Cookie",
    "PickleError",
    "flask_session_id",
    "is_session_id",
    "load_row",
    "open_cookie",
]

#: A UUID (up to 0.5), or a configured number of random bytes in URL-safe base64.
_SESSION_ID = re.compile("[A-Za-z0-9_-]{8,255}")

Secrets = Sequence[str | bytes]


class PickleError(UnreadableSessionError):
    """A row is a pickle and is not loaded."""


class Cookie(NamedTuple):
    """A valid signed cookie of Flask."""

    #: The signed text without the signature. A signature can be written in several
    #: ways, because not all bits of the last character in base64 count.
    name: str
    data: dict[str, Any]
    #: When it was signed, in seconds since 1970.
    signed_at: int

    def __repr__(self) -> str:
        """Without the data."""
        return f"<Cookie of {self.signed_at}>"


def flask_session_id(cookie: str, secrets: Secrets, *, signed: bool) -> str | None:
    """The session id of Flask-Session in a cookie; ``None`` if there is none.

    :param signed: whether ``SESSION_USE_SIGNER`` was on.
    """
    if signed:
        cookie = _unsigned(cookie, secrets)
    return cookie if is_session_id(cookie) else None


def is_session_id(name: str) -> bool:
    """Whether Flask-Session makes such ids."""
    return _SESSION_ID.fullmatch(name) is not None


def _unsigned(cookie: str, secrets: Secrets) -> str:
    for secret in secrets:
        signer = Signer(secret, salt="flask-session", key_derivation="hmac")
        try:
            return signer.unsign(cookie).decode("ascii", "replace")
        except BadSignature:
            continue
    return ""


def open_cookie(cookie: str, secrets: Secrets, lifetime: int) -> Cookie | None:
    """The content of a cookie of Flask; ``None`` if it is invalid or too old.

    :param lifetime: how many seconds after signing it is valid.
    """
    of_flask = SecureCookieSessionInterface
    serializer = URLSafeTimedSerializer(
        [_as_bytes(secret) for secret in secrets],
        salt=of_flask.salt,
        serializer=of_flask.serializer,
        signer_kwargs={
            "key_derivation": of_flask.key_derivation,
            "digest_method": of_flask.digest_method,
        },
    )
    try:
        data, signed_at = serializer.loads(cookie, lifetime, return_timestamp=True)
    except BadSignature:
        return None
    except Exception:
        # The signature is right, but the text is not JSON with Flask's tags: it was
        # signed with this key for another purpose.
        return None
    if not isinstance(data, dict):
        return None
    signed: datetime = signed_at
    return Cookie(cookie.rpartition(".")[0], _sound(data), int(signed.timestamp()))


def _as_bytes(secret: str | bytes) -> bytes:
    return secret.encode() if isinstance(secret, str) else secret


def load_row(payload: bytes) -> dict[str, Any]:
    """The data in a row of Flask-Session.

    :raises PickleError: it is a pickle.
    :raises UnreadableSessionError: it is neither MessagePack nor JSON.
    """
    first = payload[:1]
    try:
        if first == b"{":
            data = msgspec.json.decode(payload)
        else:
            data = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        data = None
    if isinstance(data, dict):
        return _sound(data)
    # Pickle protocols from 2 on begin with \x80, and a dictionary of an earlier one
    # with one of these. None of them is a dictionary in MessagePack.
    if first == b"\x80" or payload[:2] in (b"(d", b"}q", b"(i", b"}."):
        raise PickleError("It is a pickle, which is never executed.")
    raise UnreadableSessionError("It is neither MessagePack nor JSON.")


def _sound(data: dict[str, Any]) -> dict[str, Any]:
    """The data without entries that only this package may write."""
    kept = {key: data[key] for key in data if key not in HIDDEN_KEYS}
    if PERMANENT_KEY in data:
        kept[PERMANENT_KEY] = bool(data[PERMANENT_KEY])
    return kept
