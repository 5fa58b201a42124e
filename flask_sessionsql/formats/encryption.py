r"""Encryption of the sessions in the database.

The data is sealed with AES-256-GCM. Each row has a key of its own, derived from
``SECRET_KEY`` and the row's ``id``, so data that was moved to another row does not
open. What that keeps from whom is on the page :doc:`/guides/encryption`.

>>> encryption = Encryption()
>>> sealed = encryption.seal(b"\x01data", "a secret key", id=b"0" * 32)
>>> encryption.open(sealed, "a secret key", id=b"0" * 32)
b'\x01data'
>>> encryption.open(sealed, "a secret key", id=b"1" * 32)
Traceback (most recent call last):
    ...
flask_sessionsql.exceptions.UnreadableSessionError: The data does not open: it was \
changed, or belongs to another row or SECRET_KEY.
"""

from __future__ import annotations

import os

from ..exceptions import UnreadableSessionError

__all__ = ["Encryption"]

#: How sealed data begins. The serializer's begins with another byte.
_SEALED = b"\x02"
#: Bytes of AES-GCM's nonce, random for each message (SP 800-38D, section 8.2.2).
_NONCE = 12
#: Bytes of AES-256's key.
_KEY = 32
_PURPOSE = b"flask_sessionsql data "


class Encryption:
    """Seals and opens the data of rows.

    :param seals: whether data is to be sealed; it is opened either way.
    :param required: whether data that is not sealed is refused.
    """

    def __init__(self, *, seals: bool = True, required: bool = False) -> None:
        self._seals = seals
        self._required = required

    def seal(self, data: bytes, secret: str | bytes, id: bytes) -> bytes:
        """``data`` as it is to be stored.

        :param secret: the current ``SECRET_KEY``.
        :param id: the row's key, 32 bytes.
        """
        if not self._seals:
            return data
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + AESGCM(_row_key(secret, id)).encrypt(nonce, data, None)

    def open(self, data: bytes, secret: str | bytes, id: bytes) -> bytes:
        """``data`` as it was before it was stored.

        :param secret: the key under which the row was found.
        :param id: the row's key, 32 bytes.
        :raises UnreadableSessionError: it does not open, or is not sealed and has to.
        """
        if not data.startswith(_SEALED):
            if self._required:
                raise UnreadableSessionError(
                    "The data is not encrypted, and SESSION_ENCRYPT is 'required'."
                )
            return data
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError:
            raise UnreadableSessionError(
                "The data is encrypted, and the package 'cryptography' is not"
                ' installed. Run: pip install "Flask-SessionSql[encryption]"'
            ) from None
        nonce, sealed = data[1 : 1 + _NONCE], data[1 + _NONCE :]
        try:
            return AESGCM(_row_key(secret, id)).decrypt(nonce, sealed, None)
        except (InvalidTag, ValueError):  # the latter of a nonce that is too short
            raise UnreadableSessionError(
                "The data does not open: it was changed, or belongs to another row or"
                " SECRET_KEY."
            ) from None


def _row_key(secret: str | bytes, id: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = secret.encode() if isinstance(secret, str) else secret
    return HKDF(SHA256(), _KEY, salt=None, info=_PURPOSE + id).derive(key)
