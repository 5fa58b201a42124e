from __future__ import annotations

import sys

import pytest

from flask_sessionsql.exceptions import UnreadableSessionError
from flask_sessionsql.formats.encryption import Encryption

ID = bytes(range(32))
DATA = b"\x01\x81\xa3key\xa5value"


@pytest.mark.parametrize("data", [DATA, b"\x01", b"\x01" + bytes(2**20)], ids=len)
@pytest.mark.parametrize("secret", ["a key", b"\xff\x00 bytes", "ä key"])
def test_what_is_sealed_opens(data: bytes, secret: str | bytes) -> None:
    """With the key and the row's id, as it was; and nothing of it shows."""
    sealed = Encryption().seal(data, secret, ID)
    assert data == Encryption().open(sealed, secret, ID)
    assert len(data) < 5 or data not in sealed
    assert len(data) + 29 == len(sealed)


def test_a_text_and_its_bytes_are_one_key() -> None:
    """As they are for the tokens' hashes."""
    sealed = Encryption().seal(DATA, "ä key", ID)
    assert DATA == Encryption().open(sealed, "ä key".encode(), ID)


def test_sealing_twice_gives_different_bytes() -> None:
    """Whoever sees the table does not see that two sessions are equal."""
    assert 100 == len({Encryption().seal(DATA, "a key", ID) for _ in range(100)})


def test_every_changed_bit_is_noticed() -> None:
    """At every place of a sealed row, but for the first byte, which says that it is."""
    sealed = Encryption().seal(DATA, "a key", ID)
    for place in range(8, len(sealed) * 8):
        changed = bytearray(sealed)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(UnreadableSessionError, match="cannot be decrypted"):
            Encryption().open(bytes(changed), "a key", ID)


def test_every_truncation_is_noticed() -> None:
    """At either end, and so is what is added."""
    sealed = Encryption().seal(DATA, "a key", ID)
    shorter = [sealed[:end] for end in range(1, len(sealed))]
    for changed in (*shorter, sealed[:1] + sealed[2:], sealed + b"\0"):
        with pytest.raises(UnreadableSessionError, match="cannot be decrypted"):
            Encryption().open(changed, "a key", ID)


@pytest.mark.parametrize(
    ("secret", "id"),
    [("a kez", ID), ("", ID), ("a key", ID[::-1]), ("a key", b"")],
    ids=["key", "no key", "row", "no row"],
)
def test_another_row_or_key_does_not_open_it(secret: str, id: bytes) -> None:
    """Neither a row with another id, nor another SECRET_KEY."""
    sealed = Encryption().seal(DATA, "a key", ID)
    with pytest.raises(UnreadableSessionError, match=r"another row or\s+SECRET_KEY"):
        Encryption().open(sealed, secret, id)


def test_what_is_not_sealed_is_read() -> None:
    """Unless it has to be; then it is refused, empty data too."""
    required = Encryption(required=True)
    for data in (DATA, b"", b"\x00"):
        assert data == Encryption().open(data, "a key", ID)
        with pytest.raises(UnreadableSessionError, match="SESSION_ENCRYPT is 'requi"):
            required.open(data, "a key", ID)
    assert DATA == required.open(required.seal(DATA, "a key", ID), "a key", ID)


def test_turned_off_it_opens_and_does_not_seal() -> None:
    """What was sealed before is read all the same."""
    off = Encryption(seals=False)
    assert DATA == off.seal(DATA, "a key", ID)
    assert DATA == off.open(Encryption().seal(DATA, "a key", ID), "a key", ID)


def test_without_the_package_nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error that says what to install; plain data needs no package."""
    sealed = Encryption().seal(DATA, "a key", ID)
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)
    off = Encryption(seals=False)
    with pytest.raises(UnreadableSessionError, match=r'"Flask-SessionSql\[encryption'):
        off.open(sealed, "a key", ID)
    assert DATA == off.open(off.seal(DATA, "a key", ID), "a key", ID)
