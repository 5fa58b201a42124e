"""The data of a live session, read from outside."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient

from flask_sessionsql import Session, SessionConfigError, UnreadableSessionError
from flask_sessionsql import session as typed_session
from flask_sessionsql.formats.serializers import MsgpackSerializer
from tests.conftest import MakeApp
from tests.helpers import Clock, store_of
from tests.integration.helpers import add_views, regenerate, rows, visit
from tests.integration.test_frames import sent_of

SESSIONS = Session()
EVERYTHING = {"cart": ["tea", {"sugar": 2}], "pair": (1, None), 7: {"seven"}}


def fill(client: FlaskClient, data: dict[Any, Any]) -> str:
    """Put things into a browser's session; gives its handle."""

    def view() -> str:
        session.update(data)
        typed_session.permanent = False
        typed_session.set_expiry(timedelta(days=1))
        typed_session.set_lifetime(timedelta(hours=1))
        return "ok"

    visit(client, view)
    return visit(client, lambda: typed_session.handle).text


def read(app: Flask, handle: str, **user: Any) -> dict[str, Any] | None:
    with app.app_context():
        return SESSIONS.read(handle, **user)


def test_the_data_of_another_session(app: Flask) -> None:
    """As its own views have them, without what is set for the session as such: in a
    script, and in a request of another browser.
    """
    handle = fill(app.test_client(), EVERYTHING)

    assert read(app, handle) == EVERYTHING
    found = visit(app.test_client(), lambda: repr(SESSIONS.read(handle)))
    assert found.text == repr(EVERYTHING)


def test_a_session_that_is_not_there(app: Flask, clock: Clock) -> None:
    """Neither one that nobody has, nor one that has ended or expired."""
    ended, expires = app.test_client(), app.test_client()
    gone, late = fill(ended, {"a": 1}), fill(expires, {"a": 1})
    ended.get("/clear")
    clock.now += 3600

    for handle in (gone, late, "no handle", "a\0b", "\udc80"):
        assert read(app, handle) is None


def test_users_read_only_what_is_theirs(app: Flask) -> None:
    """A handle that comes from a browser shows nothing of somebody else's or nobody's;
    who is not logged in reads nothing.
    """
    ann = fill(app.test_client(), {"_user_id": "ann"})
    nobody = fill(app.test_client(), {"a": 1})

    assert read(app, ann, user="ann") == {"_user_id": "ann"}
    assert read(app, ann, user="bob") is read(app, nobody, user="ann") is None
    for names_nobody in (None, ""):
        with pytest.raises(ValueError, match="names nobody"):
            read(app, nobody, user=names_nobody)


def test_reading_changes_nothing(app: Flask, clock: Clock) -> None:
    """Nothing of the row, as a use would; and what is read is a copy."""
    client = app.test_client()
    handle = fill(client, {"cart": ["tea"]})
    before = rows(app)
    clock.now += 1800

    found = read(app, handle)
    assert found is not None
    found["cart"].append("milk")

    assert rows(app) == before
    assert client.get("/all").json == {"cart": ["tea"]}


def test_a_request_reads_its_own_as_it_was(app: Flask) -> None:
    """What is stored, and not what this request makes of it."""
    client = app.test_client()
    handle = fill(client, {"cart": ["tea"]})

    def view() -> Any:
        session["cart"].append("milk")
        return SESSIONS.read(handle)

    assert visit(client, view).json == {"cart": ["tea"]}
    assert client.get("/all").json == {"cart": ["tea", "milk"]}


@pytest.mark.parametrize("encrypt", [True, "required"])
def test_an_encrypted_session(
    make_app: MakeApp, database_uri: str, encrypt: bool | str
) -> None:
    """Under the key that it was stored with, also after a change of token, and of
    ``SECRET_KEY``. Without that key, the error says which setting lacks it.
    """
    app = add_views(make_app(database_uri, SESSION_ENCRYPT=encrypt))
    client = app.test_client()
    handle = fill(client, EVERYTHING)
    visit(client, regenerate)
    assert read(app, handle) == EVERYTHING

    app.secret_key, app.config["SECRET_KEY_FALLBACKS"] = "new", ["a key"]
    assert read(app, handle) == EVERYTHING

    app.config["SECRET_KEY_FALLBACKS"] = []
    with pytest.raises(UnreadableSessionError, match="into SECRET_KEY_FALLBACKS") as no:
        read(app, handle)
    assert f"'flask sessions revoke --handle {handle}' deletes it" in str(no.value)


def damage(app: Flask) -> None:
    """Let the last value of all sessions be no text: it is found late."""
    data = MsgpackSerializer().dumps({"name": "hush-hush", "text": "yyyyyyyy"})
    store = store_of(app)
    damaged = sa.update(store.table).values(data=data.replace(b"y" * 8, b"\xff" * 8))
    with store.engine.connect() as connection:
        connection.execute(damaged)


def test_a_damaged_session(app: Flask) -> None:
    """It is an error, in which nothing of the data is to be seen; the frames that it
    has passed are empty.
    """
    handle = fill(app.test_client(), {"a": 1})
    damage(app)

    with pytest.raises(UnreadableSessionError, match="is damaged") as caught:
        read(app, handle)
    sent = sent_of(caught.value)
    assert "Session.read: {}" in sent
    assert "hush-hush" not in sent
    assert "a key" not in sent


def test_without_a_secret_key(app: Flask) -> None:
    """The error says that it is needed."""
    handle = fill(app.test_client(), {"a": 1})
    app.secret_key = None

    with pytest.raises(SessionConfigError, match="SECRET_KEY: it is not set"):
        read(app, handle)


def test_without_sessions_in_sql(make_app: MakeApp) -> None:
    """The error says what to set."""
    with pytest.raises(RuntimeError, match="SESSION_TYPE = 'flask-sqlalchemy'"):
        read(make_app(SESSION_TYPE="null"), "a handle")
