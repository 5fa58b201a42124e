"""A site that comes from Flask's own cookies: each opens a session once."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask, session

from flask_sessionsql import Session
from tests.helpers import Clock, at_once, statements_on, store_of

from .helpers import (
    DAY,
    NAMES,
    Site,
    browser,
    cookie_of,
    logged_in,
    notes_of,
    variants,
)

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)


def test_everybody_stays_logged_in_from_cookies(
    cookie_site: Flask, after_cookies: Site
) -> None:
    """Every browser that was logged in still is, with what its cookie held, and gets a
    token in its place. The table of the sessions has what the cookie had.
    """
    cookies = logged_in(cookie_site, *NAMES)
    new = after_cookies()
    browsers = [browser(new, cookie) for cookie in cookies]

    assert [client.get("/me").text for client in browsers] == NAMES
    assert {"tea"} == {client.get("/basket").text for client in browsers}
    assert {"tea milk"} == {client.get("/put/milk").text for client in browsers}
    assert {*cookies}.isdisjoint({cookie_of(client) for client in browsers})
    assert [client.get("/me").text for client in browsers] == NAMES
    with new.app_context():
        assert 1 == len(Session().user_sessions("user0"))


def test_a_cookie_opens_a_session_once(cookie_site: Flask, after_cookies: Site) -> None:
    """Replayed after its first use, after a logout or a revocation, however it is
    written, it opens nothing.
    """
    cookies = logged_in(cookie_site, "ann", "ben", "cleo")
    new = after_cookies()
    for cookie in cookies:
        browser(new, cookie).get("/me")
    client = browser(new, cookies[0])
    assert "nobody" == client.get("/me").text

    assert ["nobody"] * 12 == [
        browser(new, each).get("/me").text
        for cookie in cookies
        for each in variants(cookie)
    ]


@pytest.mark.parametrize("how", ["logout", "user", "all", "handle"])
def test_a_cookie_after_its_session(
    cookie_site: Flask, after_cookies: Site, how: str
) -> None:
    """What ended the session holds for the cookie, too."""
    [cookie] = logged_in(cookie_site, "ann")
    new, sessions = after_cookies(), Session()
    client = browser(new, cookie)
    client.get("/me")
    with new.app_context():
        [info] = sessions.user_sessions("ann")
        if how == "user":
            assert 1 == sessions.revoke_user("ann")
        elif how == "all":
            assert 1 == sessions.revoke_all()
        elif how == "handle":
            assert sessions.revoke(info.handle)
            assert not sessions.revoke("")
    if how == "logout":
        client.get("/logout")

    assert "nobody" == client.get("/me").text
    assert ["nobody"] * 4 == [
        browser(new, each).get("/me").text for each in variants(cookie)
    ]


def test_cookies_at_once(cookie_site: Flask, after_cookies: Site) -> None:
    """Requests that come at once with the cookie share one session, in which what each
    of them puts is kept.
    """
    [cookie] = logged_in(cookie_site, "ann")
    new = after_cookies()
    barrier = threading.Barrier(4)

    @new.get("/together/<thing>")
    def together(thing: str) -> str:
        session["basket"].append(thing)
        barrier.wait(30)
        return str(session["_user_id"])

    things = [f"thing{number}" for number in range(4)]

    def put(thing: str) -> tuple[str, str]:
        client = browser(new, cookie)
        return client.get(f"/together/{thing}").text, cookie_of(client)

    answers = at_once([lambda thing=thing: put(thing) for thing in things])  # type: ignore[misc]
    [(name, token)] = {*answers}

    assert "ann" == name
    assert {"tea", *things} == {*browser(new, token).get("/basket").text.split()}


def test_a_cookie_that_is_forged(cookie_site: Flask, after_cookies: Site) -> None:
    """It is nobody's, and costs no SQL; so is one that is too old."""
    [cookie] = logged_in(cookie_site, "ann")
    cookie_site.config["SECRET_KEY"] = "a wrong key"
    [forged] = logged_in(cookie_site, "ann")
    new = after_cookies()
    new.test_client().get("/login/ben")
    others = [forged, cookie[:-3] + "xyz", cookie + "x", "x", "." * 20, "é.é.é"]
    with statements_on(store_of(new).engine) as seen:
        assert ["nobody"] * 6 == [browser(new, each).get("/me").text for each in others]
    assert [] == seen
    assert "ann" == browser(new, cookie).get("/me").text


def test_a_cookie_of_an_earlier_key(cookie_site: Flask, after_cookies: Site) -> None:
    """SECRET_KEY_FALLBACKS count; without them, it is nobody's."""
    [cookie] = logged_in(cookie_site, "ann")

    keys = {"SECRET_KEY": "another key"}
    assert "nobody" == browser(after_cookies(**keys), cookie).get("/me").text
    new = after_cookies(**keys, SECRET_KEY_FALLBACKS=["a key"])
    assert "ann" == browser(new, cookie).get("/me").text
    assert "nobody" == browser(new, cookie).get("/me").text


def test_a_note_goes_with_its_cookie(
    cookie_site: Flask, after_cookies: Site, clock: Clock
) -> None:
    """That a cookie was used is remembered for as long as it would have been valid, and
    no longer; nobody is told of it as of a session.
    """
    clock.now = datetime.now(UTC).timestamp()
    [cookie] = logged_in(cookie_site, "ann")
    new = after_cookies(PERMANENT_SESSION_LIFETIME=DAY)
    client = browser(new, cookie)
    client.get("/me")
    client.get("/logout")
    runner = new.test_cli_runner()

    assert 1 == notes_of(new)
    assert "no live sessions" in runner.invoke(args=["sessions", "list"]).stderr
    stats = runner.invoke(args=["sessions", "stats", "--json"]).output
    assert '"expired": 0' in stats
    clock.now += DAY - 60
    runner.invoke(args=["sessions", "purge"])
    assert "nobody" == browser(new, cookie).get("/me").text
    assert 1 == notes_of(new)
    clock.now += 120
    runner.invoke(args=["sessions", "purge"])
    assert 0 == notes_of(new)
    assert "nobody" == browser(new, cookie).get("/me").text


def test_a_late_logout_with_the_cookie(cookie_site: Flask, after_cookies: Site) -> None:
    """A logout that was under way with the cookie while it was taken over ends the
    session; what else is late changes nothing.
    """
    [cookie] = logged_in(cookie_site, "ann")
    new = after_cookies()
    client = browser(new, cookie)
    client.get("/me")

    browser(new, cookie).get("/put/milk")
    assert "tea" == client.get("/basket").text
    browser(new, cookie).get("/logout")
    assert "nobody" == client.get("/me").text


def test_types_in_a_cookie(cookie_site: Flask, after_cookies: Site) -> None:
    """What Flask's cookie keeps comes back equal and of its type; a session that is
    permanent there is so here.
    """

    @cookie_site.get("/types")
    def types() -> str:
        session["types"] = {"a": (1, b"x", datetime(2026, 1, 1, tzinfo=UTC))}
        session.permanent = True
        return "ok"

    old = cookie_site.test_client()
    old.get("/types")
    new = after_cookies(SESSION_PERMANENT=False)

    @new.get("/types")
    def found() -> dict[str, Any]:
        return {"found": repr(session["types"]), "permanent": session.permanent}

    expected = repr({"a": (1, b"x", datetime(2026, 1, 1, tzinfo=UTC))})
    answer = browser(new, cookie_of(old)).get("/types").json
    assert {"found": expected, "permanent": True} == answer


def test_a_late_logout_with_an_older_cookie(
    cookie_site: Flask, after_cookies: Site, clock: Clock
) -> None:
    """As above, however long ago the cookie was signed; and a late page that greets a
    stranger does not log the browser out.
    """
    clock.now = datetime.now(UTC).timestamp()
    [cookie] = logged_in(cookie_site, "ann")
    new = after_cookies()
    clock.now += 3600
    client = browser(new, cookie)
    client.get("/me")
    late = browser(new, cookie)
    late.get("/put/milk")
    assert cookie == cookie_of(late)
    assert "ann" == client.get("/me").text
    browser(new, cookie).get("/logout")

    assert "nobody" == client.get("/me").text


def test_two_visitors_with_the_same_cookie(
    cookie_site: Flask, after_cookies: Site
) -> None:
    """Flask gives two visitors the same cookie in one second: neither sees anything of
    the other's.
    """
    visitor = cookie_site.test_client()
    visitor.get("/put/tea")
    cookie = cookie_of(visitor)
    new = after_cookies()
    barrier = threading.Barrier(2)

    @new.get("/together/<thing>")
    def together(thing: str) -> str:
        session["basket"].append(thing)
        barrier.wait(30)
        return "ok"

    clients = [browser(new, cookie) for _ in range(2)]
    at_once(
        [
            lambda client=client, thing=thing: client.get(f"/together/{thing}")  # type: ignore[misc]
            for client, thing in zip(clients, ["milk", "wine"], strict=True)
        ]
    )
    baskets = [client.get("/basket").text for client in clients]

    assert cookie_of(clients[0]) != cookie_of(clients[1])
    assert not any("milk" in each and "wine" in each for each in baskets)
    assert 1 == sum(map(bool, baskets))
