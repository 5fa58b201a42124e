"""Sessions listed and ended from outside, and how many a user may have."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import (
    Session,
    SessionEnded,
    SessionLimitError,
    SessionRefused,
    session_ended,
    session_refused,
)
from flask_sessionsql import session as typed_session
from flask_sessionsql.exceptions import SessionStoreBusyError, SessionTableError
from flask_sessionsql.storage import limits
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, gunicorn, on, store_of, told_by
from tests.integration.helpers import (
    add_views,
    cookie,
    during,
    regenerate,
    rows,
    same_browser,
    token,
    visit,
)

SESSIONS = Session()


def browser_of(app: Flask, user: str | None = None, **headers: str) -> FlaskClient:
    """A browser with a session, of a user if one is given."""
    browser = app.test_client()
    path = "/set/basket/tea" if user is None else f"/set/_user_id/{user}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    assert browser.get(path, headers=named).status_code == 200
    return browser


def call(app: Flask, function: Callable[[], Any]) -> Any:
    with app.app_context():
        return function()


def handle_of(browser: FlaskClient) -> str:
    return visit(browser, lambda: typed_session.handle).text


# Lists.


def test_users_see_their_sessions(app: Flask, clock: Clock) -> None:
    """The one used last first, each by its handle, and which of them this one is."""
    laptop, phone = browser_of(app, "ann"), browser_of(app, "ann")
    browser_of(app, "bob")
    browser_of(app)
    clock.now += 100
    laptop.get("/set/a/1")

    def show() -> list[list[object]]:
        found = SESSIONS.user_sessions(session["_user_id"])
        return [[each.handle, each.current, each.last_used_at] for each in found]

    seen = visit(laptop, show).json or []
    assert [row[:2] for row in seen] == [
        [handle_of(laptop), True],
        [handle_of(phone), False],
    ]
    assert [row[1] for row in visit(phone, show).json or []] == [False, True]
    listed = call(app, lambda: SESSIONS.user_sessions("ann"))
    assert [each.current for each in listed] == [False, False]
    assert (listed[0].last_used_at - listed[1].last_used_at).seconds == 100
    assert not {token(laptop), token(phone)} & set(re.findall(r"[\w-]+", repr(listed)))


def test_a_list_can_come_before_the_first_request(app: Flask) -> None:
    """In a script, or a worker that has just begun."""
    assert call(app, lambda: SESSIONS.user_sessions("ann")) == []
    assert call(app, lambda: SESSIONS.revoke_all()) == 0


def client_of(app: Flask) -> tuple[str | None, str | None]:
    (listed,) = call(app, lambda: SESSIONS.user_sessions("ann"))
    return listed.address, listed.user_agent


def test_nobody_is_recorded_by_default(app: Flask) -> None:
    """Neither address nor browser is anywhere in the table."""
    browser_of(app, "ann", User_Agent="Lynx/2.9")
    assert client_of(app) == (None, None)
    assert "Lynx" not in repr(rows(app))
    assert "127.0.0.1" not in repr(rows(app))


def test_address_and_browser_are_recorded_and_erased(
    make_app: MakeApp, shared_database_uri: str, clock: Clock
) -> None:
    """With the setting, those of the last use that was noted, in reading as in
    writing; without it again, they go at the next one.
    """
    every = {"SESSION_REFRESH_INTERVAL": 3_600}
    app = add_views(make_app(shared_database_uri, SESSION_RECORD_CLIENT=True, **every))
    browser = browser_of(app, "ann", User_Agent="Lynx/2.9")
    assert client_of(app) == ("127.0.0.1", "Lynx/2.9")
    elsewhere: Any = {"environ_base": {"REMOTE_ADDR": "2001:db8::1%eth0"}}
    browser.get("/set/a/1", headers={"User-Agent": "Links"}, **elsewhere)
    assert client_of(app) == ("2001:db8::1%eth0", "Links")
    clock.now += 3_600
    browser.get("/get/a", headers={"User-Agent": "Reader"})
    assert client_of(app) == ("127.0.0.1", "Reader")
    off = add_views(make_app(shared_database_uri, **every))
    other = same_browser(browser, off)
    clock.now += 3_600
    other.get("/get/a")
    assert client_of(app) == (None, None)
    browser.get("/set/a/2", headers={"User-Agent": "Links"})
    other.get("/set/a/3")
    assert client_of(app) == (None, None)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("x" * 100_000, "x" * 255),
        ("a\tb\x01\x1b[31m\x7f\x9f", "ab[31m"),
        ("", None),
        ("\t\x01", None),
        ("'; DROP TABLE x; --", "'; DROP TABLE x; --"),
        ("<script>%s{}", "<script>%s{}"),
        ("K\xe4fer", "K\xe4fer"),
        ("\xff" * 300, "\xff" * 255),
    ],
    ids=["long", "control", "empty", "blank", "sql", "html", "umlaut", "bytes"],
)
def test_a_hostile_browser_is_recorded_harmlessly(
    make_app: MakeApp, database_uri: str, sent: str, expected: str | None
) -> None:
    """Cut to what the column holds, without what does not print. Nothing fails."""
    app = add_views(make_app(database_uri, SESSION_RECORD_CLIENT=True))
    address = "\x00\x1b" + "9" * 100
    environ: Any = {"environ_base": {"HTTP_USER_AGENT": sent, "REMOTE_ADDR": address}}
    assert app.test_client().get("/set/_user_id/ann", **environ).status_code == 200
    assert client_of(app) == ("9" * 64, expected)


# Ends.


def test_what_is_ended_is_dead_in_every_process(
    make_app: MakeApp, shared_database_uri: str
) -> None:
    """Each application on the database sees it at its next request, however often it
    has read the session before.
    """
    apps = [add_views(make_app(shared_database_uri)) for _ in range(2)]
    browser = browser_of(apps[0], "ann")
    there = same_browser(browser, apps[1])
    assert there.get("/get/_user_id").text == "'ann'"
    assert call(apps[0], lambda: SESSIONS.revoke_user("ann")) == 1
    for each in (there, browser):
        response = each.get("/get/_user_id")
        assert (response.text, cookie(response)) == ("None", None)
    assert rows(apps[0]) == []


def test_users_end_only_what_is_theirs(app: Flask) -> None:
    """A handle that comes from a browser ends nothing of somebody else's, nor of
    nobody's; who is not logged in ends nothing.
    """
    ann, bob, nobody = browser_of(app, "ann"), browser_of(app, "bob"), browser_of(app)

    def end(handle: str) -> Callable[[], str]:
        return lambda: str(SESSIONS.revoke(handle, user=session.get("_user_id")))

    for handle in (handle_of(bob), handle_of(nobody), "no handle", "a\0b"):
        assert visit(ann, end(handle)).text == "False"
    with pytest.raises(ValueError, match="names nobody"):
        visit(nobody, end(handle_of(nobody)))
    assert len(rows(app)) == 3
    assert visit(bob, end(handle_of(bob))).text == "True"
    assert bob.get("/all").json == {}
    assert call(app, lambda: SESSIONS.revoke(handle_of(nobody))) is True
    assert [row.user_id for row in rows(app)] == ["ann"]


def test_all_others_are_ended(app: Flask) -> None:
    """This request's session stays, even if it moves in the same request; one that is
    begun by a login in this request stays too.
    """
    others = [browser_of(app, "ann") for _ in range(3)]
    bob, mine = browser_of(app, "bob"), browser_of(app, "ann")

    def end() -> str:
        typed_session.regenerate()
        return str(SESSIONS.revoke_others())

    assert visit(mine, end).text == "3"
    assert [each.get("/get/_user_id").text for each in others] == ["None"] * 3
    assert mine.get("/get/_user_id").text == "'ann'"
    assert bob.get("/get/_user_id").text == "'bob'"

    def log_in() -> str:
        session["_user_id"] = "ann"
        return str(SESSIONS.revoke_others())

    new = app.test_client()
    assert visit(new, log_in).text == "1"
    assert new.get("/get/_user_id").text == "'ann'"
    assert mine.get("/get/_user_id").text == "None"


def test_all_are_ended(app: Flask) -> None:
    """With or without a user; what is ended is told of."""
    browsers = [browser_of(app, "ann"), browser_of(app, "bob"), browser_of(app)]
    with told_by(session_ended, app) as told:
        assert call(app, lambda: SESSIONS.revoke_all()) == 3
    assert [each.get("/all").json for each in browsers] == [{}] * 3
    assert sorted(str(each.user_id) for each in told) == ["None", "ann", "bob"]
    assert {each.reason for each in told} == {"revoked"}


def _ends(app: Flask) -> dict[str, Callable[[FlaskClient, str], object]]:
    """Every way in which a session of Ann's is ended, by another tab of hers or from
    outside; given her tab and the session's handle.
    """
    return {
        "clear": lambda tab, handle: tab.get("/clear"),
        "empty": lambda tab, handle: tab.get("/pop/_user_id"),
        "handle": lambda tab, handle: call(app, lambda: SESSIONS.revoke(handle)),
        "user": lambda tab, handle: call(app, lambda: SESSIONS.revoke_user("ann")),
        "others": lambda tab, handle: visit_others(app),
        "all": lambda tab, handle: call(app, lambda: SESSIONS.revoke_all()),
        "limit": lambda tab, handle: browser_of(app, "ann"),
    }


def visit_others(app: Flask) -> None:
    """Another browser of Ann's ends hers."""
    with app.test_request_context():
        session["_user_id"] = "ann"
        assert SESSIONS.revoke_others() == 1


def _write() -> str:
    session["late"] = True
    return "ok"


def _log_in() -> str:
    session["_user_id"] = "bob"
    return "ok"


def _clear_and_write() -> str:
    session.clear()
    session["late"] = True
    return "ok"


def _begin_anew() -> str:
    session.clear()
    session["_user_id"] = "bob"
    return "ok"


def _move_by_hand() -> str:
    """A change of token as it is made where there is no other way."""
    saved = {"_user_id": "ann", **session}
    session.clear()
    session.update(saved)
    return "ok"


@pytest.mark.parametrize(
    "way", ["clear", "empty", "handle", "user", "others", "all", "limit"]
)
def test_a_slow_request_brings_nothing_back(
    make_app: MakeApp, database_uri: str, way: str
) -> None:
    """Whatever ends the session, and whatever the request that had read it before
    makes of it but a login: it is not stored, and sends no cookie.
    """
    app = add_views(make_app(database_uri, SESSION_MAX_PER_USER=1))
    end = _ends(app)[way]
    for view in (_write, regenerate, _clear_and_write, _move_by_hand, lambda: "read"):
        browser = browser_of(app, "ann")
        tab, handle = same_browser(browser), handle_of(browser)
        response = during(browser, view, lambda: end(tab, handle))  # noqa: B023
        assert response.status_code == 200
        assert cookie(response) is None
        assert browser.get("/all").json == {}
        left = rows(app)
        assert handle not in [row.handle for row in left]
        assert len(left) == (way == "limit")
        call(app, lambda: SESSIONS.revoke_all())


@pytest.mark.parametrize(
    "way", ["clear", "empty", "handle", "user", "others", "all", "limit"]
)
@pytest.mark.parametrize("view", [_log_in, _begin_anew])
def test_a_slow_login_holds(
    make_app: MakeApp, database_uri: str, way: str, view: Callable[[], str]
) -> None:
    """Whatever ends the session that the browser had before it: another user who is
    told "welcome" is logged in, in a new session, and the one that was ended is not
    back.
    """
    app = add_views(make_app(database_uri, SESSION_MAX_PER_USER=1))
    browser = browser_of(app, "ann")
    tab, handle = same_browser(browser), handle_of(browser)
    end = _ends(app)[way]
    response = during(browser, view, lambda: end(tab, handle))
    assert response.status_code == 200
    assert browser.get("/get/_user_id").text == "'bob'"
    assert handle not in [row.handle for row in rows(app)]
    assert tab.get("/get/_user_id").text == "None"


@pytest.mark.parametrize("clears", [False, True], ids=["", "clear"])
@pytest.mark.parametrize("policy", ["end-oldest", "refuse"])
@pytest.mark.parametrize("most", [None, 1])
def test_a_double_click_on_a_login(
    make_app: MakeApp, database_uri: str, most: int | None, policy: str, clears: bool
) -> None:
    """Whichever answer the browser keeps, the first or the second, it is logged in with
    what the view leaves in the basket.
    """
    config = {"SESSION_MAX_PER_USER": most, "SESSION_MAX_PER_USER_POLICY": policy}
    app = add_views(make_app(database_uri, **config))
    browser = browser_of(app)
    first = same_browser(browser)

    def log_in() -> str:
        if clears:
            session.clear()
        session["_user_id"] = "ann"
        return "welcome"

    second = during(browser, log_in, lambda: visit(first, log_in))
    assert (second.status_code, second.text) == (200, "welcome")
    kept = [browser] if most else [browser, first]
    left = {"_user_id": "ann"} if clears else {"basket": "tea", "_user_id": "ann"}
    for each in kept:
        assert each.get("/all").json == left


def test_a_slow_login_is_refused_where_there_is_no_room(
    make_app: MakeApp, database_uri: str
) -> None:
    """The session that the browser had before is gone, and its user has as many as are
    allowed, on other devices: 403, and those stay.
    """
    config = {"SESSION_MAX_PER_USER": 1, "SESSION_MAX_PER_USER_POLICY": "refuse"}
    app = add_views(make_app(database_uri, **config))
    browser, phone = browser_of(app), browser_of(app, "bob")
    tab = same_browser(browser)
    assert during(browser, _log_in, lambda: tab.get("/clear")).status_code == 403
    assert browser.get("/get/_user_id").text == "None"
    assert phone.get("/get/_user_id").text == "'bob'"


STEPS: dict[str, Callable[[], object]] = {
    "read": lambda: session.get("_user_id"),
    "clear": lambda: session.clear(),
    "log in": lambda: session.update(_user_id="ann"),
    "user": lambda: SESSIONS.revoke_user("ann"),
    "others": lambda: SESSIONS.revoke_others(),
}


@pytest.mark.parametrize(
    "steps",
    [
        ["clear", "log in", "others"],
        ["read", "clear", "log in", "others"],
        ["others", "clear", "log in"],
        ["user", "clear", "log in"],
        ["read", "user", "clear", "log in"],
        ["clear", "user", "log in"],
        ["read", "user", "clear", "log in", "others"],
    ],
    ids=", ".join,
)
def test_a_change_of_the_password(app: Flask, steps: list[str]) -> None:
    """A view that ends the user's sessions and logs the user in anew, in any order,
    leaves this browser logged in, with a new token, and no other one.
    """
    laptop, phone = browser_of(app, "ann"), browser_of(app, "ann")

    def change() -> str:
        for step in steps:
            STEPS[step]()
        return "Your password is changed."

    before = token(laptop)
    assert visit(laptop, change).status_code == 200
    assert laptop.get("/get/_user_id").text == "'ann'"
    assert token(laptop) != before
    assert phone.get("/get/_user_id").text == "None"
    assert len(rows(app)) == 1


def test_what_moves_all_the_time_is_ended(app: Flask) -> None:
    """Browsers whose requests move their sessions to new tokens as fast as they can
    are logged out by one call, each of them, every time.
    """
    app.extensions["view"] = regenerate
    stop = threading.Event()

    def move(browser: FlaskClient) -> None:
        while not stop.is_set():
            browser.get("/run")

    for turn in range(6):
        stop.clear()
        browsers = [browser_of(app, "ann") for _ in range(3)]
        handle = rows(app)[0].handle
        threads = [threading.Thread(target=move, args=[each]) for each in browsers]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        if turn % 2:
            assert call(app, lambda: SESSIONS.revoke_user("ann")) == 3
        else:
            assert call(app, lambda: SESSIONS.revoke(handle)) is True  # noqa: B023
            assert handle not in [row.handle for row in rows(app)]
            assert call(app, lambda: SESSIONS.revoke_user("ann")) == 2
        stop.set()
        for thread in threads:
            thread.join(30)
        assert rows(app) == []
        assert [each.get("/all").json for each in browsers] == [{}] * 3


SERVED = """
import os
from flask import Flask, session
from flask_sessionsql import Session

app = Flask(__name__)
app.config.update(
    SECRET_KEY="a key",
    SESSION_TYPE="flask-sqlalchemy",
    SQLALCHEMY_DATABASE_URI={uri!r},
)
sessions = Session(app)

@app.get("/login")
def login():
    session["_user_id"] = "ann"
    return "ok"

@app.get("/who")
def who():
    return [session.get("_user_id"), os.getpid()]

@app.get("/end")
def end():
    return str(sessions.revoke_user("ann"))
"""


@pytest.mark.postgresql
def test_an_end_reaches_every_worker(
    make_database: MakeDatabase, tmp_path: Path
) -> None:
    """Of a server with two: what one of them ends, neither serves again."""
    uri = make_database("postgresql")
    (tmp_path / "app.py").write_text(SERVED.format(uri=uri))

    def get(path: str, sent: str = "") -> tuple[str, str]:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path, headers={"Cookie": sent})
        response = connection.getresponse()
        received = response.getheader("Set-Cookie") or ""
        body = response.read().decode()
        connection.close()
        return body, received.partition(";")[0]

    def both_say(user: str | None, sent: str) -> None:
        said: dict[int, set[str | None]] = {}
        for _ in range(200):
            name, pid = json.loads(get("/who", sent)[0])
            said.setdefault(pid, set()).add(name)
            if len(said) == 2:
                break
        assert list(said.values()) == [{user}] * 2

    with gunicorn(tmp_path, "--preload", "--workers=2") as port:
        sent = get("/login")[1]
        both_say("ann", sent)
        assert get("/end")[0] == "1"
        both_say(None, sent)


# Misuse.


def test_ending_others_needs_somebody(app: Flask) -> None:
    """Without a request, and without a user, it says what to call instead."""
    browser_of(app)
    expected = r"session\['_user_id'\] names nobody.*revoke_user\(\)"
    with pytest.raises(RuntimeError, match=expected):
        call(app, SESSIONS.revoke_others)
    for user in ("None", "''"):

        def end(user: str = user) -> str:
            session["_user_id"] = None if user == "None" else ""
            return str(SESSIONS.revoke_others())

        with pytest.raises(RuntimeError, match=expected):
            visit(app.test_client(), end)
    assert len(rows(app)) == 1


def test_without_sessions_in_sql_there_is_nothing_to_end(make_app: MakeApp) -> None:
    """The error names the setting; so does that of an application without any."""
    expected = "no sessions in SQL.*SESSION_TYPE = 'flask-sqlalchemy'"
    for app in (make_app("sqlite://", SESSION_TYPE=None), Flask("other")):
        for function in (
            lambda: SESSIONS.user_sessions("ann"),
            lambda: SESSIONS.revoke("a handle"),
            lambda: SESSIONS.revoke_user("ann"),
            SESSIONS.revoke_others,
            SESSIONS.revoke_all,
        ):
            with pytest.raises(RuntimeError, match=expected):
                call(app, function)


def test_without_a_key_lists_and_ends_work(
    make_app: MakeApp, database_uri: str
) -> None:
    """Nobody has a session then, and others' are listed and ended all the same."""
    app = add_views(make_app(database_uri))
    browser_of(app, "ann")
    app.secret_key = None
    assert visit(app.test_client(), list_ann).text == "[False]"
    assert visit(app.test_client(), lambda: str(SESSIONS.revoke_user("ann"))).text == (
        "1"
    )
    with pytest.raises(RuntimeError, match="names nobody"):
        visit(app.test_client(), lambda: str(SESSIONS.revoke_others()))


def list_ann() -> str:
    return str([each.current for each in SESSIONS.user_sessions("ann")])


def test_on_sqlite_own_work_has_to_be_committed_first(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """A request that would wait for its own lock is told so at once, and what to do;
    its work stays as it was, and no session is ended.
    """
    db = SQLAlchemy()
    notes = db.Table("notes", sa.Column("text", sa.String(20)))
    app = add_views(make_app(make_database("sqlite-file"), before=db.init_app))
    with app.app_context():
        db.create_all()
    browser_of(app, "ann")
    mine = browser_of(app, "ann")

    def end(function: Callable[[], object]) -> str:
        db.session.execute(sa.insert(notes).values(text="mine"))
        begun = time.perf_counter()
        with pytest.raises(SessionStoreBusyError) as caught:
            function()
        assert time.perf_counter() - begun < 2  # SQLite would wait for 5
        assert "Commit or roll back first" in caught.value.reason
        db.session.commit()
        return str(function())

    for function, expected in [
        (lambda: SESSIONS.revoke("none"), "False"),
        (SESSIONS.revoke_others, "1"),
        (lambda: SESSIONS.revoke_user("ann"), "1"),
    ]:
        assert visit(mine, partial(end, function)).text == expected
    with app.app_context():
        assert len(db.session.execute(sa.select(notes)).all()) == 3


# How many a user may have.


def test_a_login_too_many_ends_the_oldest(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """That which began first, though it was used last; it is told of."""
    app = add_views(make_app(database_uri, SESSION_MAX_PER_USER=2))
    browsers = []
    for _ in range(2):
        browsers.append(browser_of(app, "ann"))
        clock.now += 100
    oldest = handle_of(browsers[0])
    browsers[0].get("/set/a/1")
    with told_by(session_ended, app) as told:
        browsers.append(browser_of(app, "ann"))
    assert told == [SessionEnded(oldest, "ann", "limit")]
    logged_in = [each.get("/get/_user_id").text for each in browsers]
    assert logged_in == ["None", "'ann'", "'ann'"]
    for _ in range(3):  # those who are logged in go on
        browsers[1].get("/set/a/2")
        visit(browsers[2], regenerate)
    assert len(rows(app)) == 2


def test_a_login_too_many_is_refused(make_app: MakeApp, database_uri: str) -> None:
    """By the application's own page, which does not greet the user; the session is as
    it was, under the same token, with what the page adds; nobody is logged in; it is
    told of.
    """
    app = add_views(
        make_app(
            database_uri,
            SESSION_MAX_PER_USER=1,
            SESSION_MAX_PER_USER_POLICY="refuse",
        )
    )

    @app.errorhandler(SessionLimitError)
    def too_many(error: SessionLimitError) -> tuple[str, int]:
        session["notice"] = "log out elsewhere"
        return f"at most {error.limit}, {session.get('_user_id')}", 403

    first, second = browser_of(app, "ann"), browser_of(app)
    before = token(second)
    known = [(row.id, row.user_id) for row in rows(app)]
    with told_by(session_refused, app) as told:
        response = second.get("/set/_user_id/ann")
    assert (response.status_code, response.text) == (403, "at most 1, None")
    assert cookie(response) is None
    assert "Cookie" in response.headers["Vary"]
    notice = {"notice": "log out elsewhere"}
    assert second.get("/all").json == {"basket": "tea", **notice}
    assert token(second) == before
    assert [(row.id, row.user_id) for row in rows(app)] == known
    assert told == [SessionRefused(handle_of(second), "ann", "limit")]
    new = app.test_client()
    assert new.get("/set/_user_id/ann").status_code == 403
    assert new.get("/all").json == notice
    assert first.get("/get/_user_id").text == "'ann'"
    first.get("/clear")
    assert new.get("/set/_user_id/ann").status_code == 200
    assert new.get("/get/_user_id").text == "'ann'"


def test_what_expires_frees_its_place(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """By its own end, or by an absolute lifetime that was set after it was stored."""
    config = {"SESSION_MAX_PER_USER": 1, "SESSION_MAX_PER_USER_POLICY": "refuse"}
    app = add_views(make_app(database_uri, PERMANENT_SESSION_LIFETIME=1_000, **config))
    browser_of(app, "ann")
    clock.now += 999
    assert app.test_client().get("/set/_user_id/ann").status_code == 403
    clock.now += 1
    browser_of(app, "ann")


def test_an_absolute_lifetime_frees_places_at_once(
    make_app: MakeApp, shared_database_uri: str, clock: Clock
) -> None:
    """Set after the session was stored: it is over, and keeps nobody out."""
    browser_of(add_views(make_app(shared_database_uri)), "ann")
    app = add_views(
        make_app(
            shared_database_uri,
            SESSION_ABSOLUTE_LIFETIME=1_000,
            SESSION_MAX_PER_USER=1,
            SESSION_MAX_PER_USER_POLICY="refuse",
        )
    )
    clock.now += 999
    assert app.test_client().get("/set/_user_id/ann").status_code == 403
    clock.now += 1
    browser_of(app, "ann")


IN_VAIN = {
    "sqlite-file": "CREATE TRIGGER keep BEFORE DELETE ON flask_sessionsql"
    " BEGIN SELECT RAISE(IGNORE); END",
    "postgresql": "CREATE RULE keep AS ON DELETE TO flask_sessionsql"
    " DO INSTEAD NOTHING",
}


@pytest.mark.parametrize("backend", on(*IN_VAIN))
def test_a_database_that_deletes_nothing(
    make_app: MakeApp, make_empty_database: MakeDatabase, backend: str
) -> None:
    """Nobody is told of an end that has not been, and nothing goes on for ever: who
    ends sessions gets an error that says where to look.
    """
    app = add_views(make_app(make_empty_database(backend)))
    browser = browser_of(app, "ann")
    with store_of(app).engine.connect() as connection:
        connection.exec_driver_sql(IN_VAIN[backend])
    with told_by(session_ended, app) as told:
        for end in (lambda: SESSIONS.revoke_user("ann"), SESSIONS.revoke_all):
            with pytest.raises(SessionTableError, match="triggers"):
                call(app, end)
    assert told == []
    assert browser.get("/get/_user_id").text == "'ann'"
    store_of(app).table.drop(store_of(app).engine)  # others would keep it


def test_a_login_looks_only_so_often(
    make_app: MakeApp, make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For sessions that are too many, however many come meanwhile."""
    monkeypatch.setattr(limits, "MAX_LOOKS", 1)
    app = add_views(make_app(make_database("sqlite-memory"), SESSION_MAX_PER_USER=1))
    first, second = browser_of(app, "ann"), browser_of(app, "ann")
    assert first.get("/get/_user_id").text == "None"
    assert second.get("/get/_user_id").text == "'ann'"
