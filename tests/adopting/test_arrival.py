"""The request with which a session arrives: what it costs, and what if it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql.testing import database_down
from tests.helpers import statements_on, store_of

from .helpers import (
    Moved,
    Site,
    browser,
    cookie_of,
    logged_in,
    made,
    rows_of,
)

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)


def test_a_page_that_leaves_the_session_alone(moved: Moved) -> None:
    """It takes nothing over, and the old cookie stays as good as it was."""
    _, new, cookie = moved
    client = browser(new, cookie)
    client.get("/nothing")

    assert cookie == cookie_of(client)
    assert (1, 0) == (rows_of(new, "sessions"), made(new))


def test_what_it_costs(moved: Moved) -> None:
    """Who comes with nothing pays nothing for it; with an unknown token, one SELECT
    more; and who has come already, nothing more than others.
    """
    _, new, cookie = moved
    client, stranger = browser(new, cookie), browser(new, "x" * 43)
    stranger.get("/me")
    with statements_on(store_of(new).engine) as seen:
        new.test_client().get("/me")
        assert [] == seen
        stranger.get("/me")
        assert ["SELECT", "SELECT"] == [each.split()[0] for each in seen]
    client.get("/me")
    client.get("/me")
    with statements_on(store_of(new).engine) as seen:
        client.get("/me")
    assert ["SELECT"] == [each.split()[0] for each in seen]


def test_a_database_that_can_only_be_read(moved: Moved) -> None:
    """Pages are served as they were, and the session is taken over afterwards."""
    _, new, cookie = moved
    if store_of(new).engine.dialect.name != "sqlite":
        pytest.skip("SQLite can be made read-only by a word")
    client = browser(new, cookie)
    store_of(new).database.provide_table()

    @sa.event.listens_for(store_of(new).engine, "connect")
    def read_only(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA query_only = 1")

    store_of(new).dispose()
    assert "ann" == client.get("/me").text
    assert cookie == cookie_of(client)
    assert 503 == client.get("/put/milk").status_code
    assert cookie == cookie_of(client)
    sa.event.remove(store_of(new).engine, "connect", read_only)
    store_of(new).dispose()

    assert "ann" == client.get("/me").text
    assert cookie != cookie_of(client)


def test_a_request_that_cannot_tell_the_browser(moved: Moved) -> None:
    """A WebSocket's request finds the session, and can change it; the browser gets its
    token by the next page.
    """
    _, new, cookie = moved
    client = browser(new, cookie)
    socket = {"Sec-WebSocket-Key": "x"}

    assert "ann" == client.get("/me", headers=socket).text
    browser(new, cookie).get("/put/milk", headers=socket)
    assert "tea milk" == client.get("/basket").text
    assert "ann" == client.get("/me").text


def test_a_view_that_has_flushed(old_site: Site, new_site: Site) -> None:
    """On a SQLite file that the view itself has locked, the session is taken over when
    the lock is gone.
    """
    old = old_site()
    if old.config["SQLALCHEMY_DATABASE_URI"].partition(":")[0] != "sqlite":
        pytest.skip("only SQLite locks the whole file")
    [cookie] = logged_in(old, "ann")
    db = SQLAlchemy()
    new = new_site(before=db.init_app)
    store_of(new).database.provide_table()

    @new.get("/flush/<thing>")
    def flush(thing: str) -> str:
        db.session.execute(sa.text("CREATE TABLE IF NOT EXISTS t (x INTEGER)"))
        db.session.execute(sa.text("INSERT INTO t VALUES (1)"))
        if thing != "nothing":
            session["basket"].append(thing)
        return str(session["_user_id"])

    client = browser(new, cookie)
    assert "ann" == client.get("/flush/milk").text
    assert "tea milk" == client.get("/basket").text
    reader = browser(new, logged_in(old, "ben")[0])
    assert "ben" == reader.get("/flush/nothing").text
    assert "tea" == reader.get("/basket").text


def test_a_cookie_and_a_request_that_cannot_tell(
    cookie_site: Flask, after_cookies: Site
) -> None:
    """A WebSocket's request reads what the cookie holds, and does not use it up; what
    it would store is refused. A logout holds.
    """
    [cookie] = logged_in(cookie_site, "ann")
    new = after_cookies()
    client, socket = browser(new, cookie), {"Sec-WebSocket-Key": "x"}

    assert "ann" == client.get("/me", headers=socket).text
    client.get("/put/milk", headers=socket)
    assert cookie == cookie_of(client)
    assert "tea" == browser(new, cookie).get("/basket").text
    [again] = logged_in(cookie_site, "ben")
    browser(new, again).get("/logout", headers=socket)
    assert "nobody" == browser(new, again).get("/me").text


def test_a_server_that_takes_no_writes_later(moved: Moved) -> None:
    """Who has come once reads on where nothing can be written, and is logged in when it
    can.
    """
    _, new, cookie = moved
    client = browser(new, cookie)
    client.get("/me")
    with database_down(new, read_only=True):
        assert "ann" == client.get("/me").text
        assert 503 == client.get("/put/milk").status_code

    assert "tea bread" == client.get("/put/bread").text
    assert "ann" == client.get("/me").text


def test_a_first_request_whose_value_is_refused(moved: Moved) -> None:
    """Once the browser has come with the new cookie, the old one is dead, though
    nothing of that request was stored.
    """
    _, new, cookie = moved
    new.testing = False

    @new.get("/bad")
    def bad() -> str:
        session["basket"] = object()
        return "ok"

    client = browser(new, cookie)
    client.get("/me")
    assert 500 == client.get("/bad").status_code
    assert "nobody" == browser(new, cookie).get("/me").text
    assert "ann" == client.get("/me").text


def test_a_session_that_is_begun_again_is_no_mere_reading(moved: Moved) -> None:
    """Where nothing can be written, ``clear()`` has not ended the session, even if the
    same is put into the next one: nobody is told that it has.
    """
    _, new, cookie = moved

    @new.get("/again")
    def again() -> str:
        kept = dict(session)
        session.clear()
        session.update(kept)
        return "begun again"

    client = browser(new, cookie)
    client.get("/me")
    token = cookie_of(client)
    with database_down(new, read_only=True):
        assert 503 == client.get("/again").status_code
    assert token == cookie_of(client)

    assert "begun again" == client.get("/again").text
    assert token != cookie_of(client)
    assert "ann" == client.get("/me").text
