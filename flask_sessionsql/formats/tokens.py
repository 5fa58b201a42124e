"""Tokens: what the browser holds, and the row key that is derived from it.

A token is random and means nothing. The database never holds it, only
``HMAC-SHA-256(SECRET_KEY, token)``, so that a copy of the table logs nobody in
(OWASP ASVS 5.0, 7.2.3 and 11.5.1; Session Management Cheat Sheet, "Session ID
Content"). Looking a row up by a keyed hash also leaves an attacker nothing to
measure: the comparison's timing speaks of the hash, which cannot be steered
(CVE-2019-16782).
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["is_token", "new_handle", "new_token", "row_id"]

#: 16 to 256 bytes in URL-safe base64: every length that ``SESSION_ID_LENGTH`` permits,
#: whatever it is now, so that changing the setting ends nobody's session. No shorter
#: one can come from it, and a longer one need not be hashed.
_TOKEN = re.compile("[A-Za-z0-9_-]{22,342}")

#: The base 32 that sorts as the numbers do (RFC 4648, section 7), for each byte.
_DIGITS = b"0123456789abcdefghijklmnopqrstuv" * 8


def new_token(nbytes: int) -> str:
    """A new random token of ``nbytes`` bytes, in URL-safe base64."""
    return secrets.token_urlsafe(nbytes)


def is_token(text: str) -> bool:
    """Whether ``text`` has the shape of a token. Nothing else is looked up."""
    return _TOKEN.fullmatch(text) is not None


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
