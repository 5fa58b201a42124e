"""Tokens: what the browser holds, and the row key that is derived from it.

A token is secret because it is random, in ``SESSION_ID_LENGTH`` of its bytes. The
database holds only ``HMAC-SHA-256(SECRET_KEY, token)``, so a copy of the table logs
nobody in (OWASP ASVS 5.0, 7.2.3 and 11.5.1; Session Management Cheat Sheet, "Session ID
Content"). Looking a row up by a keyed hash also leaves an attacker nothing to measure:
the timing of the comparison depends on the hash, which nobody can steer
(CVE-2019-16782).

A token that opens no session may have opened one a moment ago, before another request
of the same browser changed it. So each token ends with two short marks, which open
nothing. All tokens of a session share the **line**, however often the token changes: it
tells late requests from strangers. The **seal** says for which user the token was made.
A browser with the earlier token of a user can still log that user out, and one with the
token of a visitor cannot log out the user that the visitor has become.
"""

from __future__ import annotations

import base64
import hmac
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache

__all__ = [
    "adopted_handle",
    "adopted_token",
    "former_token",
    "is_marked",
    "is_of_user",
    "is_token",
    "line_ids",
    "new_handle",
    "new_token",
    "row_id",
]

#: The bytes of a line and of a seal, and their characters in base64.
_MARK_BYTES, _MARK = 9, 12
#: 16 to 256 bytes in URL-safe base64, with or without marks: every length that
#: ``SESSION_ID_LENGTH`` permits, so that changing the setting ends no session. Nothing
#: shorter or longer can be a token, and is not hashed.
_TOKEN = re.compile(f"[A-Za-z0-9_-]{{22,{342 + 2 * _MARK}}}")

#: The base 32 that sorts as the numbers do (RFC 4648, section 7), for each byte.
_DIGITS = b"0123456789abcdefghijklmnopqrstuv" * 8


def new_token(
    nbytes: int, key: str | bytes, user_id: str | None, before: str | None = None
) -> str:
    """A new token in URL-safe base64: ``nbytes`` random bytes, and the marks.

    :param key: the current ``SECRET_KEY``.
    :param user_id: the user who is logged in; ``None`` for nobody.
    :param before: an earlier token of the same line; ``None`` for a new line.
    """
    line = secrets.token_urlsafe(_MARK_BYTES) if before is None else _line(before)
    token = secrets.token_urlsafe(nbytes) + line
    return token + _seal(key, token, user_id)


# An adopted session gets a token that is derived from the browser's old cookie and the
# secret key. Simultaneous requests with that cookie, and those whose response was lost,
# get the same token. Nobody else can derive it.


def adopted_token(key: str | bytes, name: str) -> str:
    """The token of the session that the other site knows as ``name``."""
    return _derived(key, "adopted", name, None)


def former_token(key: str | bytes, name: str, user_id: str | None) -> str:
    """A token that opens nothing, of the same line: it represents the browser's old
    cookie.
    """
    return _derived(key, "former", name, user_id)


def _derived(key: str | bytes, purpose: str, name: str, user_id: str | None) -> str:
    token = _drawn(key, purpose, name)[:43] + _drawn(key, "line", name)[:_MARK]
    return token + _seal(key, token, user_id)


def _drawn(key: str | bytes, purpose: str, name: str) -> str:
    """43 characters of URL-safe base64, derived from ``name``."""
    keyed = _keyed(key).copy()
    # No token contains NUL, so this is never the key of a row.
    keyed.update(f"{purpose}\0{name}".encode())
    return base64.urlsafe_b64encode(keyed.digest()).decode("ascii").rstrip("=")


def adopted_handle(key: str | bytes, name: str, created_at: int) -> str:
    """As :func:`new_handle`, for an adopted session: the same for all requests."""
    keyed = _keyed(key).copy()
    keyed.update(f"handle\0{name}".encode())
    drawn = keyed.digest()[:10].translate(_DIGITS)
    return _moment(created_at) + drawn.decode("ascii")


def _line(token: str) -> str:
    # A forged token may be too short to have one.
    return token[-2 * _MARK : -_MARK].rjust(_MARK, "-")


def _seal(key: str | bytes, token: str, user_id: str | None) -> str:
    """The seal that belongs after ``token``."""
    keyed = _keyed(key).copy()
    # No token contains NUL, so this is never the hash of a token.
    keyed.update(f"{token}\0{user_id or ''}".encode())
    return base64.urlsafe_b64encode(keyed.digest()[:_MARK_BYTES]).decode("ascii")


def is_of_user(keys: Iterable[str | bytes], token: str, user_id: str) -> bool:
    """Whether ``token`` was made for this user, with one of the keys."""
    token, seal = token[:-_MARK], token[-_MARK:]
    seals = [_seal(key, token, user_id) for key in keys]
    return any(hmac.compare_digest(seal, each) for each in seals)


def line_ids(keys: Iterable[str | bytes], token: str) -> list[bytes]:
    """The possible ``previous_id`` of a row after a change of a token of this line: 32
    bytes for each key, in the order of the keys.
    """
    return row_ids(keys, _line(token))


def is_token(text: str) -> bool:
    """Whether ``text`` has the format of a token. Only such texts are looked up."""
    return _TOKEN.fullmatch(text) is not None


def is_marked(text: str) -> bool:
    """Whether ``text`` is long enough for a token with marks, as this package makes."""
    return len(text) >= 22 + 2 * _MARK and is_token(text)


def new_handle(now: int) -> str:
    """A new handle: 16 digits and lower-case letters, which no collation confuses.

    It begins with the time, as a UUID of version 7 does (RFC 9562, section 6.2), so
    that new rows are next to each other in the index and that part stays in memory. The
    other 50 bits are random: if a thousand sessions begin each second, two get the same
    handle once in 71 years.

    :param now: seconds since 1970.
    """
    drawn = secrets.token_bytes(10).translate(_DIGITS)
    return _moment(now) + drawn.decode("ascii")


@lru_cache(maxsize=2)
def _moment(now: int) -> str:
    """The time in 6 digits, which start again every 34 years."""
    return "".join(chr(_DIGITS[now >> shift & 31]) for shift in (25, 20, 15, 10, 5, 0))


def row_id(key: str | bytes, token: str) -> bytes:
    """The primary key of the token's row: 32 bytes."""
    keyed = _keyed(key).copy()
    keyed.update(token.encode("ascii"))
    return keyed.digest()


@lru_cache(maxsize=16)
def _keyed(key: str | bytes) -> hmac.HMAC:
    """The hash after the key and before the token: preparing it takes three times as
    long as the rest.
    """
    return hmac.new(key.encode() if isinstance(key, str) else key, digestmod="sha256")


def row_ids(keys: Iterable[str | bytes], token: str) -> list[bytes]:
    """The :func:`row_id` for each key, in the order of the keys."""
    return [row_id(key, token) for key in keys]
