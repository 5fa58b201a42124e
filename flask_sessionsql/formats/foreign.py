"""What other packages store: the rows of Flask-Session, and Flask's signed cookies.

Both are read and never written. A pickle is known by its first bytes and left alone:
reading one runs whatever whoever wrote it wanted to run. Rows of Flask-Session up to
0.6 are pickles; from 0.7 on they are MessagePack or JSON, whichever was set, and the
first byte tells which.
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

__all__ = ["Cookie", "PickleError", "flask_session_id", "load_row", "open_cookie"]

#: A UUID (up to 0.5), or random bytes in URL-safe base64, as many as were set.
_SESSION_ID = re.compile("[A-Za-z0-9_-]{8,255}")

Secrets = Sequence[str | bytes]


class PickleError(UnreadableSessionError):
    """A row is a pickle, and is not read."""


class Cookie(NamedTuple):
    """A signed cookie of Flask's that is valid."""

    #: What was signed, without the signature. A signature can be written in more than
    #: one way: in base64, the last character has bits that do not count.
    name: str
    data: dict[str, Any]
    #: When it was signed, in seconds since 1970.
    signed_at: int

    def __repr__(self) -> str:
        """Without what it holds."""
        return f"<Cookie of {self.signed_at}>"


def flask_session_id(cookie: str, secrets: Secrets, *, signed: bool) -> str | None:
    """The session id of Flask-Session's in a cookie; ``None`` where there is none.

    :param signed: whether ``SESSION_USE_SIGNER`` was on.
    """
    if signed:
        cookie = _unsigned(cookie, secrets)
    return cookie if _SESSION_ID.fullmatch(cookie) else None


def _unsigned(cookie: str, secrets: Secrets) -> str:
    for secret in secrets:
        signer = Signer(secret, salt="flask-session", key_derivation="hmac")
        try:
            return signer.unsign(cookie).decode("ascii", "replace")
        except BadSignature:
            continue
    return ""


def open_cookie(cookie: str, secrets: Secrets, lifetime: int) -> Cookie | None:
    """What a cookie of Flask's holds; ``None`` where it is not valid (any more).

    :param lifetime: how long after it was signed it is valid, in seconds.
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
        # The signature was right, and what it signs is no JSON with Flask's tags: it
        # was made under this key for something else.
        return None
    if not isinstance(data, dict):
        return None
    signed: datetime = signed_at
    return Cookie(cookie.rpartition(".")[0], _sound(data), int(signed.timestamp()))


def _as_bytes(secret: str | bytes) -> bytes:
    return secret.encode() if isinstance(secret, str) else secret


def load_row(payload: bytes) -> dict[str, Any]:
    """What a row of Flask-Session holds.

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
    # Protocol 2 and later say which they are; a dictionary of an earlier one begins
    # with one of these. None of them is MessagePack with a dictionary in it.
    if first == b"\x80" or payload[:2] in (b"(d", b"}q", b"(i", b"}."):
        raise PickleError("It is a pickle, which is never executed.")
    raise UnreadableSessionError("It is neither MessagePack nor JSON.")


def _sound(data: dict[str, Any]) -> dict[str, Any]:
    """Without what only this package puts into a session."""
    kept = {key: data[key] for key in data if key not in HIDDEN_KEYS}
    if PERMANENT_KEY in data:
        kept[PERMANENT_KEY] = bool(data[PERMANENT_KEY])
    return kept
