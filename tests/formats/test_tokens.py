from __future__ import annotations

import hashlib
import hmac
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_sessionsql import SessionConfigError
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.tokens import (
    is_of_user,
    is_token,
    line_ids,
    new_handle,
    new_token,
    row_id,
    row_ids,
)

NOW = 1_763_883_600
TOKEN = "k2bS0dmVqQZtCz8WnKxP5g"
KEY = "a key"


@pytest.mark.parametrize(
    ("nbytes", "expected"), [(16, 46), (32, 67), (64, 110), (256, 366)]
)
def test_a_token_has_the_bytes_asked_for(nbytes: int, expected: int) -> None:
    """A token is that many random bytes and 18 for its marks in URL-safe base64, which
    every cookie can hold.
    """
    token = new_token(nbytes, KEY, "ann")
    assert expected == len(token)
    assert re.fullmatch("[A-Za-z0-9_-]+", token)
    assert is_token(token)


def is_permitted(nbytes: int) -> bool:
    """Whether SESSION_ID_LENGTH can be set to this."""
    try:
        SessionConfig.from_mapping({"SESSION_ID_LENGTH": nbytes})
    except SessionConfigError:
        return False
    return True


def test_a_token_has_a_permitted_length() -> None:
    """A token has the shape of one where SESSION_ID_LENGTH permits its bytes: 128 bits
    at least (OWASP ASVS 5.0, 7.2.3), and so few that the cookie fits.
    """
    permitted = [nbytes for nbytes in range(1, 400) if is_permitted(nbytes)]
    assert [*range(16, 257)] == permitted
    assert all(is_token(new_token(n, KEY, None)) for n in permitted)
    assert not is_token(new_token(257, KEY, None))


def test_tokens_and_handles_do_not_repeat() -> None:
    """No two tokens are the same, nor two handles."""
    assert 1_000 == len({new_token(16, KEY, None, TOKEN) for _ in range(1_000)})
    assert 1_000 == len({new_handle(NOW) for _ in range(1_000)})


def test_tokens_use_the_whole_alphabet() -> None:
    """Every character of the alphabet turns up in tokens."""
    assert 64 == len(set("".join(new_token(32, KEY, None) for _ in range(1_000))))


def test_a_handle_is_the_same_in_every_collation() -> None:
    """A handle is 16 digits and small letters, and opens nothing: it has not even
    the shape of a token.
    """
    handle = new_handle(NOW)
    assert re.fullmatch("[0-9a-v]{16}", handle)
    assert not is_token(handle)


def test_handles_sort_by_their_time() -> None:
    """A newer one comes after an older one, whatever is random in them."""
    for now in (0, 31, NOW, 2**29, 2**30 - 2):
        assert max(new_handle(now) for _ in range(100)) < new_handle(now + 1)


def test_the_time_in_handles_begins_anew() -> None:
    """After 2038 they are as long, and as random."""
    late = {new_handle(2**31 + 5) for _ in range(1_000)}
    assert (1_000, {16}) == (len(late), {len(handle) for handle in late})
    assert all(handle.startswith("000005") for handle in late)


def test_handles_use_the_whole_alphabet() -> None:
    """Every character of the alphabet turns up at every random place."""
    drawn = zip(*(new_handle(NOW)[6:] for _ in range(1_000)), strict=True)
    assert [32] * 10 == [len(set(place)) for place in drawn]


@settings(deadline=None)
@given(st.integers(16, 256))
def test_tokens_of_every_length_are_tokens(nbytes: int) -> None:
    """A token of any permitted length is one, whatever the setting is now."""
    token = new_token(nbytes, KEY, "ann")
    assert is_token(token)
    assert is_token(new_token(nbytes, KEY, None, token))


def test_all_tokens_of_a_session_are_in_one_line() -> None:
    """However often the token has changed, and whoever is logged in; and in the line
    of no other session.
    """
    keys = ["new", "old"]
    first = new_token(32, "old", None)
    last = new_token(16, "new", "bob", new_token(64, "old", "ann", first))
    assert line_ids(keys, first) == line_ids(keys, last)
    assert not {*line_ids(keys, first)} & {*line_ids(keys, new_token(32, "new", None))}
    assert not {*line_ids(keys, first)} & {*row_ids(keys, first)}


def test_a_token_tells_for_whom_it_was_made() -> None:
    """Under any of the keys; whoever changes something of it, changes that, too."""
    token = new_token(32, "old", "ann")
    assert is_of_user(["new", "old"], token, "ann")
    assert not is_of_user(["new", "old"], token, "bob")
    assert not is_of_user(["new"], token, "ann")
    assert not is_of_user(["old"], new_token(32, "old", None), "ann")
    assert not is_of_user(["old"], new_token(32, "old", None, token), "ann")
    for place in range(len(token)):
        other = "A" if token[place] != "A" else "B"
        changed = token[:place] + other + token[place + 1 :]
        assert not is_of_user(["old"], changed, "ann")
    assert not is_of_user(["old"], "x" * 22, "ann")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        TOKEN[:-1],  # too short by one
        "x" * 367,  # too long by one
        "x" * 1_000_000,
        TOKEN + "=",
        TOKEN + "\n",
        "\n" + TOKEN,
        TOKEN + " ",
        TOKEN + "\0",
        TOKEN + ".sig",
        TOKEN[:-1] + "+",
        TOKEN[:-1] + "/",
        TOKEN[:-1] + "é",
        TOKEN[:-1] + "Ｋ",  # noqa: RUF001 - a letter that NFKC makes a K
        TOKEN[:-1] + "१",  # a digit, but none of ours
        TOKEN[:-1] + "\ud800",
        f'"{TOKEN}"',
        f"{TOKEN}; {TOKEN}",
        "' OR 1=1 --' OR 1=1 --",
        "session:" + TOKEN,
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_what_is_no_token(text: str) -> None:
    """Whatever is too short, too long or has another character is no token."""
    assert is_token(text) is False


@pytest.mark.parametrize("text", [TOKEN, "x" * 22, "x" * 366, "_" * 40, "-" * 40])
def test_what_is_a_token(text: str) -> None:
    """Whatever has the length and the alphabet has the shape of a token."""
    assert is_token(text) is True


@settings(deadline=None)
@given(st.text())
def test_any_token_can_be_hashed(text: str) -> None:
    """What passes for a token is ASCII, so that its row can be looked up."""
    if is_token(text):
        row_id("key", text)


@pytest.mark.parametrize("key", ["a key", "ключ", b"\x00\xff", "k" * 1_000])
def test_the_row_key_is_a_keyed_hash(key: str | bytes) -> None:
    """The row's key is the HMAC-SHA-256 of the token under the key."""
    secret = key if isinstance(key, bytes) else key.encode()
    expected = hmac.new(secret, TOKEN.encode(), hashlib.sha256).digest()
    assert expected == row_id(key, TOKEN)
    assert 32 == len(row_id(key, TOKEN))


def test_the_row_key_of_stored_sessions_never_changes() -> None:
    """The derivation is fixed: sessions are found by it after any upgrade."""
    expected = "b0df4bf24d1adac39277ed14176f0ea6e73d68b29902951f498bc6aeab91d1ce"
    assert expected == row_id("a key", TOKEN).hex()


def test_a_text_key_is_its_bytes() -> None:
    """A key as text and the same one as UTF-8 bytes open the same rows."""
    assert row_id("clé", TOKEN) == row_id("clé".encode(), TOKEN)


def test_every_difference_makes_another_row() -> None:
    """Another key, and another token even by the case of a letter, is another row."""
    tokens = [TOKEN, TOKEN.swapcase(), TOKEN + "A", TOKEN[::-1]]
    rows = {row_id(key, token) for key in ("a key", "a keY") for token in tokens}
    assert 8 == len(rows)


def test_the_row_key_tells_nothing_of_the_token() -> None:
    """Nothing of the token stands in the row's key, and it is no plain hash."""
    row = row_id("a key", TOKEN)
    assert TOKEN.encode() not in row
    assert hashlib.sha256(TOKEN.encode()).digest() != row
    assert not is_token(row.hex()) or row_id("a key", row.hex()) != row


def test_one_row_key_a_key_in_their_order() -> None:
    """row_ids gives the row keys under several keys, in the order of the keys."""
    keys: list[str | bytes] = ["new", "old", b"oldest"]
    assert [row_id(key, TOKEN) for key in keys] == row_ids(keys, TOKEN)
    assert [] == row_ids([], TOKEN)
