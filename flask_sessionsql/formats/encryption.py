r"""Encryption of session data in the database.

The data are encrypted with AES-256-GCM. Each row has its own key, derived from
``SECRET_KEY`` and the row's ``id``, so data that somebody copies to another row cannot
be decrypted. The page :doc:`/guides/encryption` says what this protects from.

>>> encryption = Encryption()
>>> sealed = encryption.seal(b"\x01data", "a secret key", id=b"0" * 32)
>>> encryption.open(sealed, "a secret key", id=b"0" * 32)
b'\x01data'
>>> encryption.open(sealed, "a secret key", id=b"1" * 32)
Traceback (most recent call last):
    ...
flask_sessionsql.exceptions.UnreadableSessionError: The data cannot be decrypted: it \
was changed, or belongs to another row or SECRET_KEY.
"""

from __future__ import annotations

import os

from ..exceptions import UnreadableSessionError

__all__ = ["Encryption"]

#: The first byte of encrypted data. Data of the serializer begin with another one.
_SEALED = b"\x02"
#: Bytes of AES-GCM's nonce, random for each message (SP 800-38D, section 8.2.2).
_NONCE = 12
#: Bytes of AES-256's key.
_KEY = 32
_PURPOSE = b"flask_sessionsql data "


class Encryption:
    """Encrypts and decrypts the data of rows.

    :param seals: whether to encrypt data; encrypted data can be read either way.
    :param required: whether to refuse data that are not encrypted.
    """

    def __init__(self, *, seals: bool = True, required: bool = False) -> None:
        self._seals = seals
        self._required = required

    def seal(self, data: bytes, secret: str | bytes, id: bytes) -> bytes:
        """``data`` in the form to store.

        :param secret: the current ``SECRET_KEY``.
        :param id: the row's key, 32 bytes.
        """
        if not self._seals:
            return data
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        return _SEALED + nonce + AESGCM(_row_key(secret, id)).encrypt(nonce, data, None)

    def open(self, data: bytes, secret: str | bytes, id: bytes) -> bytes:
        """``data`` as they were before :meth:`seal`.

        :param secret: the ``SECRET_KEY`` with which the row was found.
        :param id: the row's key, 32 bytes.
        :raises UnreadableSessionError: they cannot be decrypted, or are not encrypted
            although that is required.
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
        except (InvalidTag, ValueError):  # ValueError: the nonce is too short
            raise UnreadableSessionError(
                "The data cannot be decrypted: it was changed, or belongs to another"
                " row or SECRET_KEY."
            ) from None


def _row_key(secret: str | bytes, id: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = secret.encode() if isinstance(secret, str) else secret
    return HKDF(SHA256(), _KEY, salt=None, info=_PURPOSE + id).derive(key)
