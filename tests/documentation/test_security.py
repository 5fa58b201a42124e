"""What the page "Security" says an attacker can do, and cannot, is so."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient

from flask_sessionsql import Session
from flask_sessionsql.formats.tokens import new_token, row_id
from flask_sessionsql.storage.store import StoredSession
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeApp
from tests.helpers import store_of
from tests.integration.helpers import add_views, browser_with, cookie, rows, token
from tests.pages import page

#: The settings of an application that encrypts, and of one that does not.
ENCRYPTION = pytest.mark.parametrize("encrypt", [False, True, "required"])


@pytest.fixture
def shop(make_app: MakeApp) -> Any:
    """Makes applications on a database in memory."""
    return lambda **settings: add_views(make_app("sqlite://", **settings))


def logged_in(app: Flask, name: str) -> FlaskClient:
    browser = app.test_client()
    browser.get(f"/set/_user_id/{name}")
    return browser


def user(browser: FlaskClient) -> str:
    return browser.get("/get/_user_id").text


def write(app: Flask, row_of: str, **values: Any) -> None:
    """Change the row of a user's session, as somebody who can write to the table."""
    columns = store_of(app).table.c
    statement = sa.update(store_of(app).table).where(columns.user_id == row_of)
    with store_of(app).engine.connect() as connection:
        assert 1 == connection.execute(statement.values(values)).rowcount


def row_of(app: Flask, name: str) -> Any:
    [row] = [row for row in rows(app) if row.user_id == name]
    return row


def test_every_column_is_described() -> None:
    """The page says of each column of the table what a reader learns from it."""
    _, _, text = page("explanations/security").partition("_what-the-table-gives-away:")
    named = re.findall(r"^   \* - (``.*``)$", text, re.M)
    columns = [name for cell in named for name in re.findall("``(.+?)``", cell)]

    assert {*sessions_table(sa.MetaData(), "t").columns.keys()} == {*columns}


@ENCRYPTION
def test_data_in_the_row_of_another_session(shop: Any, encrypt: bool | str) -> None:
    """With write access one logs in by somebody's data in a row of one's own, unless it
    is encrypted: then it is an empty session.
    """
    app = shop(SESSION_ENCRYPT=encrypt)
    logged_in(app, "ann")
    thief = logged_in(app, "thief")
    write(app, "thief", data=row_of(app, "ann").data)

    assert ("None" if encrypt else "'ann'") == user(thief)


@ENCRYPTION
def test_the_row_of_another_session(shop: Any, encrypt: bool | str) -> None:
    """Somebody's whole row under the thief's own id is no better."""
    app = shop(SESSION_ENCRYPT=encrypt)
    logged_in(app, "ann")
    thief = logged_in(app, "thief")
    place = row_of(app, "thief").id
    write(app, "thief", id=b"0" * 32)
    write(app, "ann", id=place)

    assert ("None" if encrypt else "'ann'") == user(thief)


@ENCRYPTION
def test_data_that_the_thief_has_made(shop: Any, encrypt: bool | str) -> None:
    """With write access one makes any data, unless it has to be encrypted."""
    forged = row_of_plain(shop, "ann").data
    app = shop(SESSION_ENCRYPT=encrypt)
    thief = logged_in(app, "thief")
    write(app, "thief", data=forged)

    assert ("None" if encrypt == "required" else "'ann'") == user(thief)


def row_of_plain(shop: Any, name: str) -> Any:
    app = shop()
    logged_in(app, name)
    return row_of(app, name)


@ENCRYPTION
def test_an_old_row_brings_a_session_back(shop: Any, encrypt: bool | str) -> None:
    """As a backup that is restored does: a token that was kept opens it again, until
    all sessions are revoked.
    """
    app = shop(SESSION_ENCRYPT=encrypt)
    browser = logged_in(app, "ann")
    kept, backup = token(browser), row_of(app, "ann")
    browser.get("/clear")
    thief = browser_with(app, kept)
    assert "None" == user(thief)

    with store_of(app).engine.connect() as connection:
        connection.execute(sa.insert(store_of(app).table).values(backup._asdict()))
    assert "'ann'" == user(thief)
    with app.app_context():
        assert 1 == Session().revoke_all()
    assert "None" == user(thief)


@ENCRYPTION
def test_write_access_and_the_key(shop: Any, encrypt: bool | str) -> None:
    """Anyone who has both logs in as anybody."""
    app = shop(SESSION_ENCRYPT=encrypt)
    logged_in(app, "ann")
    known, row = new_token(32, "a key", "ann"), row_of(app, "ann")
    records = app.session_interface.records
    data = records.planner.payload({"_user_id": "ann"})
    forged = StoredSession(
        row_id("a key", known), "f" * 16, "ann", data, 1, row.created_at, row.expires_at
    )
    store_of(app).insert(records.sealed(forged, ["a key"]))

    assert "'ann'" == user(browser_with(app, known))


def signed(name: str) -> str:
    """A cookie that somebody has signed who has the key."""
    app = Flask("thief")
    app.config["SECRET_KEY"] = "a key"
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return str(serializer.dumps({"_user_id": name}))


@pytest.mark.parametrize(
    ("adopt", "expected"), [(None, "None"), ("cookie", "'ann'")], ids=str
)
def test_the_key_alone(shop: Any, adopt: str | None, expected: str) -> None:
    """It opens no session, except where signed cookies are adopted: it signs one."""
    app = shop(SESSION_ADOPT=adopt)
    logged_in(app, "ann")

    assert expected == user(browser_with(app, signed("ann")))


def test_a_stolen_cookie(shop: Any) -> None:
    """It opens the session, until its user logs out."""
    app = shop()
    browser = logged_in(app, "ann")
    thief = browser_with(app, token(browser))
    assert "'ann'" == user(thief)
    browser.get("/clear")

    assert ("None", None) == (user(thief), cookie(thief.get("/")))


def notes(app: Flask) -> list[Any]:
    """The rows of the table that are no sessions."""
    return [row for row in rows(app) if not row.handle]


def test_the_notes_of_what_was_revoked(shop: Any) -> None:
    """While sessions are adopted, anyone who guesses a user's name finds out whether
    that user's sessions were revoked. The notes hold nothing else.
    """
    app = shop(SESSION_ADOPT="cookie")
    with app.app_context():
        Session().revoke_user("ann")
        Session().revoke_all()
    found = notes(app)

    expected = [
        hashlib.sha256(text).digest() for text in (b"user\0ann", b"everybody\0")
    ]
    assert sorted(expected) == sorted(bytes(row.id) for row in found)
    assert {(None, b"", None, None)} == {
        (row.user_id, bytes(row.data), row.address, row.label) for row in found
    }


def test_the_note_of_what_was_adopted(shop: Any) -> None:
    """It is the SHA-256 of the cookie's content, from which nobody makes the cookie."""
    app = shop(SESSION_ADOPT="cookie")
    given = signed("ann")
    browser_with(app, given).get("/get/_user_id")
    [note] = notes(app)

    content, _, _ = given.rpartition(".")
    assert hashlib.sha256(f"used\0{content}".encode()).digest() == bytes(note.id)
    assert (None, b"") == (note.user_id, bytes(note.data))


def test_nothing_is_noted_where_nothing_is_adopted(shop: Any) -> None:
    """Without SESSION_ADOPT, every row is a session."""
    app = shop()
    logged_in(app, "ann")
    with app.app_context():
        Session().revoke_user("ann")

    assert [] == rows(app)
