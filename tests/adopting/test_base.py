"""What holds of all sessions that are taken over: their ends, their age, their keys."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_sessionsql import Session, session
from tests.helpers import Clock, store_of

from .helpers import (
    DAY,
    Moved,
    Site,
    browser,
    cookie_of,
    logged_in,
)

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)


def test_a_revocation_before_the_browser_comes(old_site: Site, new_site: Site) -> None:
    """All sessions of a user are ended, also those that are not here yet; and all of
    everybody's.
    """
    cookies = logged_in(old_site(), "ann", "ben", "cleo")
    new, sessions = new_site(), Session()
    with new.app_context():
        sessions.revoke_user("ann")

    assert "nobody" == browser(new, cookies[0]).get("/me").text
    assert "ben" == browser(new, cookies[1]).get("/me").text

    with new.app_context():
        sessions.revoke_all()

    assert ["nobody"] * 3 == [browser(new, each).get("/me").text for each in cookies]


@pytest.mark.parametrize("changes", [True, False])
def test_a_revocation_while_it_is_taken_over(moved: Moved, changes: bool) -> None:
    """It is not there afterwards, whichever was first."""
    _, new, cookie = moved

    def revoke(name: str) -> None:
        with new.app_context():
            Session().revoke_user(name)

    @new.get("/revoked-meanwhile")
    def revoked() -> str:
        name = str(session["_user_id"])
        elsewhere = threading.Thread(target=revoke, args=[name])
        elsewhere.start()
        elsewhere.join(30)
        if changes:
            session["basket"] = ["late"]
        return name

    client = browser(new, cookie)

    assert "ann" == client.get("/revoked-meanwhile").text
    assert "nobody" == client.get("/me").text
    assert "nobody" == browser(new, cookie).get("/me").text


def test_its_age_counts(
    old_site: Site, new_site: Site, clock: Clock, shared_database_uri: str
) -> None:
    """What is known of its age counts for the absolute lifetime: the time since it was
    written there last.
    """
    clock.now = datetime.now(UTC).timestamp()
    cookies = logged_in(old_site(), "ann", "ben")
    new = new_site(SESSION_ABSOLUTE_LIFETIME=3 * DAY)
    clock.now += 2 * DAY
    client = browser(new, cookies[0])

    assert "ann" == client.get("/me").text
    clock.now += DAY + 60
    assert "nobody" == client.get("/me").text
    assert "nobody" == browser(new, cookies[1]).get("/me").text


def test_the_key_changes_meanwhile(old_site: Site, new_site: Site) -> None:
    """A new SECRET_KEY with the old one as a fallback logs nobody out: neither who has
    come, nor who has not, nor whose answer was lost.
    """
    come, lost, late = logged_in(old_site(), "ann", "ben", "cleo")
    before = new_site()
    client = browser(before, come)
    client.get("/me")
    browser(before, lost).get("/put/milk")
    after = new_site(SECRET_KEY="another key", SECRET_KEY_FALLBACKS=["a key"])

    assert "ann" == browser(after, cookie_of(client)).get("/me").text
    again = browser(after, lost)
    assert "tea milk" == again.get("/basket").text
    assert "tea milk cake" == again.get("/put/cake").text
    assert "ben" == again.get("/me").text
    assert "cleo" == browser(after, late).get("/me").text


def test_encrypted(old_site: Site, new_site: Site) -> None:
    """What is taken over is encrypted like all else."""
    [cookie] = logged_in(old_site(), "ann")
    new = new_site(SESSION_ENCRYPT="required")
    client = browser(new, cookie)

    assert "ann" == client.get("/me").text
    with store_of(new).engine.connect() as connection:
        data = connection.scalar(sa.text("SELECT data FROM flask_sessionsql"))
    assert b"basket" not in bytes(data or b"")
    assert "tea" == client.get("/basket").text


def test_a_revocation_before_the_cookie_comes(
    cookie_site: Flask, after_cookies: Site
) -> None:
    """It ends what is still in cookies."""
    ann, ben = logged_in(cookie_site, "ann", "ben")
    new, sessions = after_cookies(), Session()
    with new.app_context():
        sessions.revoke_user("ann")

    assert "nobody" == browser(new, ann).get("/me").text
    assert "ben" == browser(new, ben).get("/me").text


def test_the_age_of_a_cookie(
    cookie_site: Flask, after_cookies: Site, clock: Clock
) -> None:
    """It ends when the cookie would have, unless it is used; and its age counts."""
    clock.now = datetime.now(UTC).timestamp()
    ann, ben = logged_in(cookie_site, "ann", "ben")
    new = after_cookies(SESSION_ABSOLUTE_LIFETIME=3 * DAY)
    clock.now += 2 * DAY
    client = browser(new, ann)

    assert "ann" == client.get("/me").text
    clock.now += DAY + 60
    assert "nobody" == client.get("/me").text
    assert "nobody" == browser(new, ben).get("/me").text


def test_a_session_that_cannot_be_kept(cookie_site: Flask, after_cookies: Site) -> None:
    """What no session of ours keeps, such as a user of 300 characters, is left."""
    [cookie] = logged_in(cookie_site, "x" * 300)

    assert "nobody" == browser(after_cookies(), cookie).get("/me").text


@pytest.mark.parametrize("kind", ["flask-session", "cookie"])
@pytest.mark.parametrize("call", ["others", "user"])
def test_a_password_that_is_changed_in_the_first_request(
    request: pytest.FixtureRequest, new_site: Site, kind: str, call: str
) -> None:
    """Whoever ends the other sessions of theirs in the very request with which they
    come goes on being logged in; the others are ended, moved or not.
    """
    fixture = "old_site" if kind == "flask-session" else "cookie_site"
    site = request.getfixturevalue(fixture)
    old = site() if kind == "flask-session" else site
    [here] = logged_in(old, "ann")
    old.test_client().get("/put/nothing")
    other_client = old.test_client()
    other_client.get("/login/ann")
    other_client.get("/put/bread")
    other = cookie_of(other_client)
    new, sessions = new_site(SESSION_ADOPT=kind), Session()

    @new.get("/change")
    def change() -> str:
        name = session["_user_id"]
        if call == "others":
            sessions.revoke_others()
        else:
            sessions.revoke_user(name)
            session.clear()
            session["_user_id"] = name
        infos = sessions.user_sessions(name)
        return f"{len(infos)} {session.handle in {info.handle for info in infos}}"

    client = browser(new, here)
    told = client.get("/change").text

    assert told == ("1 True" if call == "others" else "0 False")
    assert "ann" == client.get("/me").text
    assert "nobody" == browser(new, other).get("/me").text


def test_a_handle_in_the_first_request(moved: Moved) -> None:
    """The request with which a session comes can name it, read it and end it."""
    _, new, cookie = moved

    @new.get("/handle")
    def handle() -> dict[str, Any]:
        name, sessions = session.handle, Session()
        assert name is not None
        data = sessions.read(name) or {}
        return {"read": data.get("_user_id"), "ended": sessions.revoke(name)}

    client = browser(new, cookie)

    assert {"read": "ann", "ended": True} == client.get("/handle").json
    assert "nobody" == client.get("/me").text


def test_a_lifetime_that_is_set_later(
    cookie_site: Flask, after_cookies: Site, clock: Clock
) -> None:
    """What was ended stays so, however long a cookie has come to be valid."""
    clock.now = datetime.now(UTC).timestamp()
    [cookie] = logged_in(cookie_site, "ann")
    new = after_cookies()
    new.config["PERMANENT_SESSION_LIFETIME"] = 90 * DAY
    with new.app_context():
        Session().revoke_user("ann")
    clock.now += 60 * DAY
    new.test_cli_runner().invoke(args=["sessions", "purge"])

    assert "nobody" == browser(new, cookie).get("/me").text


@pytest.mark.parametrize("kind", ["flask-session", "cookie"])
def test_one_that_is_kept_while_another_request_comes(
    request: pytest.FixtureRequest, new_site: Site, kind: str
) -> None:
    """A tab ends all other sessions of its user, while another tab of the same browser
    is under way with the old cookie: the browser stays logged in.
    """
    fixture = "old_site" if kind == "flask-session" else "cookie_site"
    site = request.getfixturevalue(fixture)
    [cookie] = logged_in(site() if kind == "flask-session" else site, "ann")
    new = new_site(SESSION_ADOPT=kind)
    read, go = threading.Event(), threading.Event()

    @new.get("/slow")
    def slow() -> str:
        name = str(session["_user_id"])
        read.set()
        assert go.wait(30)
        return name

    @new.get("/others")
    def others() -> str:
        return str(Session().revoke_others())

    client, tab = browser(new, cookie), browser(new, cookie)
    late = threading.Thread(target=lambda: tab.get("/slow"))
    late.start()
    assert read.wait(30)
    client.get("/others")
    go.set()
    late.join(30)

    assert "ann" == client.get("/me").text
    assert "ann" == tab.get("/me").text
