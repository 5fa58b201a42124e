"""Tokens: what the browser holds, and the row key that is derived from it.

A token opens by being random: ``SESSION_ID_LENGTH`` bytes of it are. The database never
holds it, only ``HMAC-SHA-256(SECRET_KEY, token)``, so that a copy of the table logs
nobody in (OWASP ASVS 5.0, 7.2.3 and 11.5.1; Session Management Cheat Sheet, "Session ID
Content"). Looking a row up by a keyed hash also leaves an attacker nothing to
measure: the comparison's timing speaks of the hash, which cannot be steered
(CVE-2019-16782).

A token that does not open anything may have done so a moment ago, when another request
of the same browser gave the session a new one. So each ends with two short marks, which
open nothing either. All tokens of a session have the same **line**, however often the
token changes: it tells late requests from strangers. The **seal** says for which user
the token was made: whoever was logged in with an earlier token may still log out with
it, and whoever has a visitor's token may not log out the user that the visitor became.
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
#: 16 to 256 bytes in URL-safe base64, with their marks or without: every length that
#: ``SESSION_ID_LENGTH`` permits, whatever it is now, so that changing the setting ends
#: nobody's session. No shorter one can come from it, and a longer one need not be
#: hashed.
_TOKEN = re.compile(f"[A-Za-z0-9_-]{{22,{342 + 2 * _MARK}}}")

#: The base 32 that sorts as the numbers do (RFC 4648, section 7), for each byte.
_DIGITS = b"0123456789abcdefghijklmnopqrstuv" * 8


def new_token(
    nbytes: int, key: str | bytes, user_id: str | None, before: str | None = None
) -> str:
    """A new token, in URL-safe base64: ``nbytes`` random bytes, and its marks.

    :param key: the current ``SECRET_KEY``.
    :param user_id: who is logged in with it; ``None`` for nobody.
    :param before: a token of the line that it is in; ``None`` for a line of its own.
    """
    line = secrets.token_urlsafe(_MARK_BYTES) if before is None else _line(before)
    token = secrets.token_urlsafe(nbytes) + line
    return token + _seal(key, token, user_id)


# A session that is taken over from the site before gets a token that follows from what
# its browser has, under the secret key. Requests that come with that at once, and those
# whose answer is lost, all come to one token, and nobody else does.


def adopted_token(key: str | bytes, name: str) -> str:
    """The token of the session that another package knows by ``name``."""
    return _derived(key, "adopted", name, None)


def former_token(key: str | bytes, name: str, user_id: str | None) -> str:
    """A token that opens nothing, of the same line: it stands for what the browser had
    before.
    """
    return _derived(key, "former", name, user_id)


def _derived(key: str | bytes, purpose: str, name: str, user_id: str | None) -> str:
    token = _drawn(key, purpose, name)[:43] + _drawn(key, "line", name)[:_MARK]
    return token + _seal(key, token, user_id)


def _drawn(key: str | bytes, purpose: str, name: str) -> str:
    """43 characters of URL-safe base64 that follow from ``name``."""
    keyed = _keyed(key).copy()
    # No token has a NUL, so this is no row's key.
    keyed.update(f"{purpose}\0{name}".encode())
    return base64.urlsafe_b64encode(keyed.digest()).decode("ascii").rstrip("=")


def adopted_handle(key: str | bytes, name: str, created_at: int) -> str:
    """As :func:`new_handle`, of a session that is taken over: one for all requests."""
    keyed = _keyed(key).copy()
    keyed.update(f"handle\0{name}".encode())
    drawn = keyed.digest()[:10].translate(_DIGITS)
    return _moment(created_at) + drawn.decode("ascii")


def _line(token: str) -> str:
    # One that somebody has made up may be too short to have any.
    return token[-2 * _MARK : -_MARK].rjust(_MARK, "-")


def _seal(key: str | bytes, token: str, user_id: str | None) -> str:
    """The seal that belongs after ``token``."""
    keyed = _keyed(key).copy()
    # A NUL is in no token, so this is the hash of none.
    keyed.update(f"{token}\0{user_id or ''}".encode())
    return base64.urlsafe_b64encode(keyed.digest()[:_MARK_BYTES]).decode("ascii")


def is_of_user(keys: Iterable[str | bytes], token: str, user_id: str) -> bool:
    """Whether ``token`` was made, under one of the keys, for a user."""
    token, seal = token[:-_MARK], token[-_MARK:]
    seals = [_seal(key, token, user_id) for key in keys]
    return any(hmac.compare_digest(seal, each) for each in seals)


def line_ids(keys: Iterable[str | bytes], token: str) -> list[bytes]:
    """What a row has as ``previous_id`` after a change of a token of this line: 32
    bytes a key, in the order of the keys.
    """
    return row_ids(keys, _line(token))


def is_token(text: str) -> bool:
    """Whether ``text`` has the shape of a token. Nothing else is looked up."""
    return _TOKEN.fullmatch(text) is not None


def is_marked(text: str) -> bool:
    """Whether ``text`` is long enough for a token with its marks, as ours all are."""
    return len(text) >= 22 + 2 * _MARK and is_token(text)


def new_handle(now: int) -> str:
    """A new handle: 16 digits and small letters, the same in every collation.

    It begins with the time, as a UUID of version 7 does (RFC 9562, section 6.2), so
    that new rows meet in one place of the index, which stays in memory however many
    rows there are. 50 bits after it are random: where a thousand sessions begin in
    every second, two get the same handle once in 71 years.

    :param now: seconds since 1970.
    """
    drawn = secrets.token_bytes(10).translate(_DIGITS)
    return _moment(now) + drawn.decode("ascii")


@lru_cache(maxsize=2)
def _moment(now: int) -> str:
    """The time in 6 digits, which begin anew every 34 years."""
    return "".join(chr(_DIGITS[now >> shift & 31]) for shift in (25, 20, 15, 10, 5, 0))


def row_id(key: str | bytes, token: str) -> bytes:
    """The primary key of the token's row: 32 bytes."""
    keyed = _keyed(key).copy()
    keyed.update(token.encode("ascii"))
    return keyed.digest()


@lru_cache(maxsize=16)
def _keyed(key: str | bytes) -> hmac.HMAC:
    """The hash after the key and before the token: setting it up takes three times as
    long as the rest.
    """
    return hmac.new(key.encode() if isinstance(key, str) else key, digestmod="sha256")


def row_ids(keys: Iterable[str | bytes], token: str) -> list[bytes]:
    """One :func:`row_id` a key, in the order of the keys."""
    return [row_id(key, token) for key in keys]
