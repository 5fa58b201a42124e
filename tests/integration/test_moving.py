"""A site that moves in: visitors keep their sessions, and what ended is over."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session
from tests.conftest import MakeApp
from tests.helpers import Clock, at_once, statements_on, store_of

pytest.importorskip(
    "flask_session", reason="Flask-Session is in the dependency group 'tests'"
)

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)

DAY = 24 * 3600


def pages(app: Flask) -> Flask:
    """The pages that a site has, whatever keeps its sessions."""

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["_user_id"] = name
        session.setdefault("basket", [])
        return name

    @app.get("/me")
    def me() -> str:
        return str(session.get("_user_id", "nobody"))

    @app.get("/put/<thing>")
    def put(thing: str) -> str:
        session["basket"] = [*session.get("basket", []), thing]
        return " ".join(session["basket"])

    @app.get("/basket")
    def basket() -> str:
        return " ".join(session.get("basket", []))

    @app.get("/logout")
    def logout() -> str:
        session.clear()
        return "bye"

    @app.get("/nothing")
    def nothing() -> str:
        return "nothing"

    return app


Site = Callable[..., Flask]


@pytest.fixture
def old_site(shared_database_uri: str) -> Iterator[Site]:
    """Makes the site as it was, with Flask-Session."""
    apps: list[Flask] = []

    def make(**config: Any) -> Flask:
        import flask_session

        app = Flask("shop")
        db = SQLAlchemy()
        app.config.update(
            SECRET_KEY="a key",
            SESSION_TYPE="sqlalchemy",
            SESSION_SQLALCHEMY=db,
            SQLALCHEMY_DATABASE_URI=shared_database_uri,
            **config,
        )
        db.init_app(app)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            flask_session.Session(app)
        apps.append(app)
        return pages(app)

    yield make
    for app in apps:
        with app.app_context():
            db = app.extensions["sqlalchemy"]
            table = app.config.get("SESSION_SQLALCHEMY_TABLE", "sessions")
            db.session.execute(sa.text(f"DROP TABLE IF EXISTS {table}"))
            db.session.commit()
            db.engine.dispose()


@pytest.fixture
def new_site(make_app: MakeApp, shared_database_uri: str) -> Site:
    """Makes the site as it is now."""

    def make(**config: Any) -> Flask:
        settings = {"SESSION_ADOPT": "flask-session", **config}
        return pages(make_app(shared_database_uri, **settings))

    return make


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return "" if cookie is None else cookie.value


def browser(app: Flask, cookie: str | None) -> FlaskClient:
    """A browser with a cookie of the site."""
    client = app.test_client()
    if cookie is not None:
        client.set_cookie("session", cookie)
    return client


def logged_in(app: Flask, *names: str) -> list[str]:
    """The cookies of browsers in which somebody is logged in."""
    clients = [app.test_client() for _ in names]
    for client, name in zip(clients, names, strict=True):
        client.get(f"/login/{name}")
        client.get("/put/tea")
    return [cookie_of(client) for client in clients]


def rows_of(app: Flask, table: str) -> int:
    with store_of(app).engine.connect() as connection:
        found = connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}"))
    return int(found or 0)


NAMES = [f"user{number}" for number in range(6)]


# From Flask-Session.


@pytest.mark.parametrize(
    ("form", "signed"), [("msgpack", False), ("json", True)], ids=["plain", "signed"]
)
def test_everybody_stays_logged_in(
    old_site: Site, new_site: Site, form: str, signed: bool
) -> None:
    """Every browser that was logged in still is, with what its session held; and has a
    token of its own, with which it goes on.
    """
    old = old_site(SESSION_SERIALIZATION_FORMAT=form, SESSION_USE_SIGNER=signed)
    cookies = logged_in(old, *NAMES)
    new = new_site(SESSION_USE_SIGNER=signed)
    browsers = [browser(new, cookie) for cookie in cookies]

    assert [client.get("/me").text for client in browsers] == NAMES
    assert {"tea"} == {client.get("/basket").text for client in browsers}
    assert {"tea milk"} == {client.get("/put/milk").text for client in browsers}
    assert {*cookies}.isdisjoint({cookie_of(client) for client in browsers})
    assert [client.get("/me").text for client in browsers] == NAMES
    assert (0, 6) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))


@pytest.fixture
def moved(old_site: Site, new_site: Site) -> tuple[Flask, Flask, str]:
    """The site before, the one now, and a cookie of Ann's that was set before."""
    old = old_site()
    [cookie] = logged_in(old, "ann")
    return old, new_site(), cookie


Moved = tuple[Flask, Flask, str]


def test_requests_at_once(moved: Moved) -> None:
    """A page that asks for many things at once with the old cookie gets all of them,
    and whatever each puts into the basket is there. It is one session.
    """
    _, new, cookie = moved
    things = [f"thing{number}" for number in range(6)]

    def put(thing: str) -> tuple[str, str]:
        client = browser(new, cookie)
        return client.get(f"/put/{thing}").text.split()[0], cookie_of(client)

    answers = at_once([lambda thing=thing: put(thing) for thing in things])  # type: ignore[misc]
    [token] = {token for _, token in answers}

    assert {"tea"} == {first for first, _ in answers}
    assert {"tea", *things} == {*browser(new, token).get("/basket").text.split()}
    assert 1 == rows_of(new, "flask_sessionsql")


def test_an_answer_that_was_lost(moved: Moved) -> None:
    """A browser that never got the answer with the new cookie comes with the old one
    again, and is logged in; once it has come with the new one, the old one is dead.
    """
    _, new, cookie = moved
    browser(new, cookie).get("/put/milk")
    client = browser(new, cookie)

    assert "tea milk" == client.get("/basket").text
    assert "ann" == client.get("/me").text
    assert "nobody" == browser(new, cookie).get("/me").text
    assert "ann" == client.get("/me").text


def test_a_page_that_leaves_the_session_alone(moved: Moved) -> None:
    """It takes nothing over, and the old cookie stays as good as it was."""
    _, new, cookie = moved
    client = browser(new, cookie)
    client.get("/nothing")

    assert cookie == cookie_of(client)
    assert (1, 0) == (rows_of(new, "sessions"), _made(new))


def _made(app: Flask) -> int:
    store_of(app).database.provide_table()
    return rows_of(app, "flask_sessionsql")


def test_a_logout_in_the_first_request(moved: Moved) -> None:
    """The session is gone, here and there: no cookie opens it."""
    old, new, cookie = moved
    client = browser(new, cookie)
    client.get("/logout")

    assert "nobody" == client.get("/me").text
    assert "nobody" == browser(new, cookie).get("/me").text
    assert "nobody" == browser(old, cookie).get("/me").text


def test_a_login_in_the_first_request(moved: Moved) -> None:
    """Who logs in as somebody else is that one, under a token that nobody had."""
    _, new, cookie = moved
    client = browser(new, cookie)
    client.get("/login/ben")

    assert "ben" == client.get("/me").text
    assert "nobody" == browser(new, cookie).get("/me").text


def test_what_was_ended_before(old_site: Site, new_site: Site) -> None:
    """Who logged out there, or whose session expired there, is logged out here."""
    old = old_site()
    out, late = logged_in(old, "ann", "ben")
    browser(old, out).get("/logout")
    new = new_site()
    with store_of(new).engine.connect() as connection:
        past = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=1)
        expired = sa.text("UPDATE sessions SET expiry = :past").bindparams(
            sa.bindparam("past", type_=sa.DateTime)
        )
        connection.execute(expired, {"past": past})

    assert ["nobody", "nobody"] == [
        browser(new, cookie).get("/me").text for cookie in (out, late)
    ]


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


def test_a_revocation_while_it_is_taken_over(moved: Moved) -> None:
    """It is not there afterwards, whichever was first."""
    _, new, cookie = moved

    @new.get("/revoked-meanwhile")
    def revoked() -> str:
        name = str(session["_user_id"])
        with new.app_context():
            Session().revoke_user(name)
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


def test_a_server_of_the_site_before_still_runs(moved: Moved) -> None:
    """What it stores while a request here has the session open is kept, too."""
    old, new, cookie = moved

    @new.get("/slow/<thing>")
    def slow(thing: str) -> str:
        session["basket"].append(thing)
        threading.Thread(target=lambda: browser(old, cookie).get("/put/bread")).start()
        while "bread" not in _stored(new):
            pass
        return "done"

    client = browser(new, cookie)
    assert "done" == client.get("/slow/milk").text

    assert {"tea", "bread", "milk"} == {*client.get("/basket").text.split()}


def _stored(app: Flask) -> str:
    with store_of(app).engine.connect() as connection:
        data = connection.scalar(sa.text("SELECT data FROM sessions"))
    return bytes(data or b"").decode("latin-1")


PICKLED = pickle.dumps({"_user_id": "ann", "basket": []})


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (PICKLED, "a pickle"),
        (pickle.dumps({"_user_id": "ann"}, 0), "a pickle"),
        (b"\x01\x02\x03", "neither MessagePack nor JSON"),
        (b"[1, 2]", "neither MessagePack nor JSON"),
        (b"", "neither MessagePack nor JSON"),
        (b"\x81\xa1a\xd4\x7f\x00", "a value that cannot be kept"),
    ],
    ids=["pickle", "old pickle", "nothing known", "no mapping", "empty", "no value"],
)
def test_what_cannot_be_read(
    moved: Moved, caplog: pytest.LogCaptureFixture, stored: bytes, why: str
) -> None:
    """It is never executed, but told of and left where it is; its browser is nobody's,
    and can log in.
    """
    _, new, cookie = moved
    with store_of(new).engine.connect() as connection:
        change = sa.text("UPDATE sessions SET data = :data").bindparams(
            sa.bindparam("data", type_=sa.LargeBinary)
        )
        connection.execute(change, {"data": stored})
    client = browser(new, cookie)

    assert "nobody" == client.get("/me").text
    [told] = [each.getMessage() for each in caplog.records if each.levelname != "INFO"]
    assert why in told
    assert "basket" not in told
    client.get("/login/ann")
    assert "ann" == client.get("/me").text
    assert 1 == rows_of(new, "sessions")


def test_a_table_that_is_not_there(
    make_app: MakeApp, shared_database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The site works, and the log says what to set, once a minute."""
    new = pages(make_app(shared_database_uri, SESSION_ADOPT="flask-session"))
    client = browser(new, "x" * 43)

    assert "nobody" == client.get("/me").text
    assert "nobody" == browser(new, "y" * 43).get("/me").text
    client.get("/login/ann")
    assert "ann" == client.get("/me").text
    [told] = [each.getMessage() for each in caplog.records if each.levelname != "INFO"]
    assert "'sessions' is not there" in told
    assert "SESSION_ADOPT" in told


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


def test_another_site_in_the_same_table(old_site: Site, new_site: Site) -> None:
    """Sessions whose keys have another prefix are another site's."""
    [cookie] = logged_in(old_site(SESSION_KEY_PREFIX="shop:"), "ann")

    other = new_site(SESSION_KEY_PREFIX="forum:")
    assert "nobody" == browser(other, cookie).get("/me").text
    ours = new_site(SESSION_KEY_PREFIX="shop:")
    assert "ann" == browser(ours, cookie).get("/me").text


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
        session["basket"].append(thing)
        return str(session["_user_id"])

    client = browser(new, cookie)
    assert "ann" == client.get("/flush/milk").text
    assert "tea milk" == client.get("/basket").text


# From Flask's own cookies.


@pytest.fixture
def cookie_site() -> Flask:
    """The site as it was, with Flask's own sessions."""
    app = Flask("shop")
    app.config["SECRET_KEY"] = "a key"
    return pages(app)


@pytest.fixture
def after_cookies(new_site: Site) -> Site:
    """Makes the site as it is now."""

    def make(**config: Any) -> Flask:
        return new_site(**{"SESSION_ADOPT": "cookie", **config})

    return make


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


def variants(cookie: str) -> list[str]:
    """The ways to write a cookie that is as good as this one."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = digits.index(cookie[-1])
    return [cookie, *(cookie[:-1] + digits[last ^ bit] for bit in (1, 2, 3))]


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

    assert 1 == rows_of(new, "flask_sessionsql")
    assert "no live sessions" in runner.invoke(args=["sessions", "list"]).stderr
    stats = runner.invoke(args=["sessions", "stats", "--json"]).output
    assert '"expired": 0' in stats
    clock.now += DAY - 60
    runner.invoke(args=["sessions", "purge"])
    assert "nobody" == browser(new, cookie).get("/me").text
    assert 1 == rows_of(new, "flask_sessionsql")
    clock.now += 120
    runner.invoke(args=["sessions", "purge"])
    assert 0 == rows_of(new, "flask_sessionsql")
    assert "nobody" == browser(new, cookie).get("/me").text


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


def test_a_session_that_cannot_be_kept(cookie_site: Flask, after_cookies: Site) -> None:
    """What no session of ours keeps, such as a user of 300 characters, is left."""
    [cookie] = logged_in(cookie_site, "x" * 300)

    assert "nobody" == browser(after_cookies(), cookie).get("/me").text
