"""Requests at the same time, on one session."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import (
    Flask,
    copy_current_request_context,
    flash,
    get_flashed_messages,
    session,
)
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import (
    SessionConflictError,
    SessionEnded,
    SessionStoreUnavailableError,
    session_ended,
    session_merged,
)
from flask_sessionsql import session as typed_session
from flask_sessionsql.storage.store import SessionStore
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, at_once, store_of, told_by
from tests.integration.helpers import (
    add_views,
    cookie,
    during,
    locked_for_a_while,
    regenerate,
    rows,
    same_browser,
    token,
    visit,
)


def twelve_at_once(client: FlaskClient, put: Callable[[int], object]) -> None:
    """12 requests of one browser that all have read the same, and then ``put``."""
    barrier = threading.Barrier(12)
    local = threading.local()

    def view() -> str:
        session.get("anything")
        barrier.wait(30)
        put(local.number)
        return "ok"

    client.application.extensions["view"] = view

    def job(number: int) -> Callable[[], Any]:
        browser = same_browser(client)

        def request() -> int:
            local.number = number
            return browser.get("/run").status_code

        return request

    assert at_once([job(number) for number in range(12)]) == [200] * 12


def test_12_requests_at_once_keep_12_keys(app: Flask, client: FlaskClient) -> None:
    """Nobody's write is lost when 12 requests that all read the same write at once."""
    client.get("/set/start/1")
    twelve_at_once(client, lambda n: session.update({f"key{n}": n}))
    expected = {"start": "1", **{f"key{n}": n for n in range(12)}}
    assert client.get("/all").json == expected
    assert rows(app)[0].version == 13


@pytest.fixture
def slow_database(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a while to read a session."""
    store = store_of(app)
    load = store.load

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.2)
        return load(*args, **kwargs)

    monkeypatch.setattr(store, "load", slow)


def in_threads(jobs: list[Callable[[], str]]) -> list[str]:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result(30) for future in [pool.submit(job) for job in jobs]]


def in_to_thread(jobs: list[Callable[[], str]]) -> list[str]:
    async def gather() -> list[str]:
        return await asyncio.gather(*map(asyncio.to_thread, jobs))

    return asyncio.run(gather())


@pytest.mark.parametrize("run", [in_threads, in_to_thread])
@pytest.mark.usefixtures("slow_database")
def test_four_threads_of_a_request_share_its_session(
    app: Flask,
    client: FlaskClient,
    run: Callable[[list[Callable[[], str]]], list[str]],
) -> None:
    """They touch it first at the same moment: each sees who is logged in, and what they
    write is all there on the next page.
    """
    client.get("/set/_user_id/ann")
    barrier = threading.Barrier(4)

    def view() -> list[str]:
        def job(number: int) -> str:
            barrier.wait(30)
            seen = session.get("_user_id", "nobody")
            session[f"key{number}"] = number
            session.setdefault("list", []).append(number)
            return str(seen)

        return run(
            [partial(copy_current_request_context(job), number) for number in range(4)]
        )

    assert visit(client, view).json == ["ann"] * 4
    found: Any = client.get("/all").json
    assert sorted(found.pop("list")) == [0, 1, 2, 3]
    assert found == {"_user_id": "ann", **{f"key{n}": n for n in range(4)}}


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from flask import Flask, copy_current_request_context, session
from flask_sessionsql import Session
app = Flask("shop")
app.config.update(SECRET_KEY="a key", SESSION_TYPE="flask-sqlalchemy")
app.config.update(SQLALCHEMY_DATABASE_URI=sys.argv[1])
Session(app)
@app.get("/login")
def login():
    session["_user_id"] = "ann"
    return "ok"
@app.get("/")
def index():
    store = app.session_interface.records.store
    load = store.load
    store.load = lambda *args: (time.sleep(0.1), load(*args))[1]
    def job(number):
        seen = session.get("_user_id", "nobody")
        session.setdefault("list", []).append(number)
        return seen
    copies = [copy_current_request_context(job) for _ in range(4)]
    jobs = [gevent.spawn(copies[number], number) for number in range(4)]
    gevent.joinall(jobs, raise_error=True)
    store.load = load
    return [job.value for job in jobs]
@app.get("/list")
def show():
    return sorted(session["list"])
client = app.test_client()
client.get("/login")
print(client.get("/").json, client.get("/list").json)
"""


def test_greenlets_of_a_request_share_its_session(database_uri: str) -> None:
    """As threads do, where gevent has put them in their place."""
    command = [sys.executable, "-W", "ignore", "-c", GREENLETS, database_uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == (
        f"{['ann'] * 4} [0, 1, 2, 3]",
        0,
    ), done.stderr


PUT_INTO: dict[str, tuple[Callable[[int], object], Callable[[], set[Any]]]] = {
    "list": (
        lambda n: session.setdefault("cart", []).append(n),
        lambda: {*session["cart"]},
    ),
    "list that is there": (
        lambda n: session["old"].append(n),
        lambda: {*session["old"]} - {"before"},
    ),
    "list of equal things": (
        lambda n: session.setdefault("teas", []).append("tea"),
        lambda: {*range(session["teas"].count("tea"))},
    ),
    "dictionary": (
        lambda n: session["nested"]["inside"].update({str(n): n}),
        lambda: {*session["nested"]["inside"].values()},
    ),
    "set": (
        lambda n: session["seen"].add(n),
        lambda: session["seen"],
    ),
    "flashed messages": (
        lambda n: flash(str(n)),
        lambda: {int(str(each)) for each in get_flashed_messages()},
    ),
}


@pytest.mark.parametrize("kind", PUT_INTO)
def test_12_requests_at_once_keep_12_things(
    app: Flask, client: FlaskClient, kind: str
) -> None:
    """Each has put something into one and the same value, and it is there."""
    put, found = PUT_INTO[kind]
    begun = {"old": ["before"], "nested": {"inside": {}}, "seen": set[int]()}

    def begin() -> str:
        session.update(begun)
        return "ok"

    visit(client, begin)
    twelve_at_once(client, put)
    assert visit(client, lambda: repr(sorted(found()))).text == repr([*range(12)])


def test_a_message_is_flashed_while_others_are_shown(
    app: Flask, client: FlaskClient
) -> None:
    """It appears on the next page, and no earlier one appears again."""

    def say(message: str) -> str:
        flash(message)
        return "ok"

    def show() -> str:
        return repr(get_flashed_messages())

    visit(client, lambda: say("first"))
    other = same_browser(client)
    shown = during(client, show, lambda: visit(other, lambda: say("second")))
    assert shown.text == "['first']"
    assert visit(client, show).text == "['second']"
    assert visit(client, show).text == "[]"


def test_what_has_to_give_way_is_told(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys that two requests have set, by a signal and in the log."""
    caplog.set_level(logging.INFO)
    client.get("/set/language/en")
    client.get("/set/cart/none")
    other = same_browser(client)

    def set_all() -> str:
        session.update(language="de", cart=["tea"], mine=1)
        return "ok"

    with told_by(session_merged, app) as told:
        during(
            client,
            set_all,
            lambda: [other.get(f"/set/{key}/fr") for key in ("language", "theirs")],
        )
    assert [each.overwritten for each in told] == [("language",)]
    assert "had also changed the keys 'language'" in caplog.text
    expected = {"language": "de", "cart": ["tea"], "mine": 1, "theirs": "fr"}
    assert client.get("/all").json == expected


def test_a_slow_request_does_not_revive_an_ended_session(
    app: Flask, client: FlaskClient
) -> None:
    """Logged out meanwhile: no row, no cookie, nothing to come back to."""
    client.get("/set/user/ann")
    other = same_browser(client)

    def write() -> str:
        session["late"] = True
        return "ok"

    response = during(client, write, lambda: other.get("/clear"))
    assert response.status_code == 200
    assert cookie(response) is None
    assert rows(app) == []
    assert client.get("/all").json == {}


def test_a_slow_request_on_the_old_token_gets_nothing_of_a_login(
    app: Flask, client: FlaskClient
) -> None:
    """After a login elsewhere the old token neither writes to the session nor clears
    the new cookie.
    """
    client.get("/set/basket/tea")
    other = same_browser(client)

    def write() -> str:
        session["late"] = True
        return "ok"

    response = during(client, write, lambda: other.get("/set/_user_id/5"))
    assert cookie(response) is None
    assert client.get("/all").json == {}
    assert other.get("/all").json == {"basket": "tea", "_user_id": "5"}


def test_a_slow_logout_on_the_old_token_leaves_the_new_one(
    app: Flask, client: FlaskClient
) -> None:
    """Ending a session that has moved ends nothing, and logs no browser out."""
    client.get("/set/basket/tea")
    other = same_browser(client)

    def logout() -> str:
        session.clear()
        return "ok"

    response = during(client, logout, lambda: other.get("/set/_user_id/5"))
    assert cookie(response) is None
    assert other.get("/all").json == {"basket": "tea", "_user_id": "5"}


def test_both_changes_are_kept(app: Flask, client: FlaskClient) -> None:
    """Set, changed and deleted keys of both requests are all there afterwards."""
    with client.session_transaction() as opened:
        opened.update(mine=1, theirs=1, my_list=[1], old=1, their_old=1)
    other = same_browser(client)

    def change() -> str:
        session["mine"] = 2
        session["my_list"].append(2)
        del session["old"]
        session["my_new"] = 1
        return "ok"

    def meanwhile() -> None:
        other.get("/set/theirs/2")
        other.get("/pop/their_old")
        other.get("/set/their_new/1")

    during(client, change, meanwhile)
    assert client.get("/all").json == {
        "mine": 2,
        "theirs": "2",
        "my_list": [1, 2],
        "their_new": "1",
        "my_new": 1,
    }


def test_the_last_of_two_writes_to_one_key_wins(
    app: Flask, client: FlaskClient
) -> None:
    """Of two values that cannot both stand, that of the request that is saved last."""
    client.get("/set/language/en")
    other = same_browser(client)

    def change() -> str:
        session["language"] = "de"
        return "ok"

    during(client, change, lambda: other.get("/set/language/fr"))
    assert client.get("/get/language").text == "'de'"


def test_the_same_change_by_both_is_one_change(app: Flask, client: FlaskClient) -> None:
    """Who finds his change already stored writes nothing more."""
    client.get("/set/a/1")
    other = same_browser(client)

    def change() -> str:
        session["b"] = "2"
        return "ok"

    during(client, change, lambda: other.get("/set/b/2"))
    assert client.get("/all").json == {"a": "1", "b": "2"}
    assert rows(app)[0].version == 2


def test_emptied_by_both_is_ended(app: Flask, client: FlaskClient) -> None:
    """Each deletes one of two keys: nothing is left, so the session is over."""
    client.get("/set/a/1")
    client.get("/set/b/1")
    other = same_browser(client)

    def change() -> str:
        del session["a"]
        return "ok"

    response = during(client, change, lambda: other.get("/pop/b"))
    assert "Max-Age=0" in str(cookie(response))
    assert rows(app) == []


def test_popping_the_last_key_keeps_what_others_wrote(
    app: Flask, client: FlaskClient
) -> None:
    """A session that one request empties, of its flashes say, while another fills it
    goes on with what the other one wrote.
    """
    client.get("/set/_flashes/saved")
    other = same_browser(client)

    def show() -> str:
        return str(session.pop("_flashes"))

    response = during(client, show, lambda: other.get("/set/basket/tea"))
    assert cookie(response) is None
    assert client.get("/all").json == {"basket": "tea"}


def test_clear_wins_over_other_writes(app: Flask, client: FlaskClient) -> None:
    """What others wrote to a session that is cleared goes with it."""
    client.get("/set/a/1")
    other = same_browser(client)

    def restart() -> str:
        session.clear()
        session["b"] = "2"
        return "ok"

    during(client, restart, lambda: other.get("/set/c/3"))
    assert client.get("/all").json == {"b": "2"}
    assert other.get("/all").json == {}


def test_a_login_keeps_what_others_wrote(app: Flask, client: FlaskClient) -> None:
    """The token changes and the basket that was filled meanwhile comes along."""
    client.get("/set/a/1")
    other = same_browser(client)

    def login() -> str:
        session["_user_id"] = "5"
        return "ok"

    response = during(client, login, lambda: other.get("/set/basket/tea"))
    assert token(client) in str(cookie(response))
    assert client.get("/all").json == {"a": "1", "basket": "tea", "_user_id": "5"}
    assert len(rows(app)) == 1


def test_two_requests_move_a_session_to_the_new_key(
    app: Flask, client: FlaskClient
) -> None:
    """Both found it under a fallback key; whoever comes second finds it moved."""
    client.get("/set/a/1")
    app.config.update(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["a key"])
    other = same_browser(client)

    def change() -> str:
        session["mine"] = "1"
        return "ok"

    during(client, change, lambda: other.get("/set/theirs/1"))
    assert client.get("/all").json == {"a": "1", "theirs": "1", "mine": "1"}


def test_reading_while_another_moves_the_session_to_the_new_key(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that is under the old key at the first look, and under the new one at the
    second, is found all the same.
    """
    client.get("/set/a/1")
    app.config.update(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["a key"])
    other = same_browser(client)
    load = SessionStore.load
    looks: list[bytes] = []

    def load_slowly(store: SessionStore, key: bytes, now: int) -> Any:
        row = load(store, key, now)
        looks.append(key)
        if len(looks) == 1:
            at_once([lambda: other.get("/set/b/2")])
        return row

    monkeypatch.setattr(SessionStore, "load", load_slowly)
    assert client.get("/all").json == {"a": "1", "b": "2"}


@pytest.mark.postgresql
def test_no_write_is_lost_where_transactions_are_serializable(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """A database that turns a statement down to let another pass is asked again."""
    connect = {"options": "-c default_transaction_isolation=serializable"}
    app = make_app(
        make_database("postgresql"),
        SQLALCHEMY_ENGINE_OPTIONS={"connect_args": connect},
    )
    client = add_views(app).test_client()
    client.get("/set/start/1")

    def job(number: int) -> Callable[[], Any]:
        browser = same_browser(client)
        paths = [f"/set/key{number}-{turn}/1" for turn in range(20)]
        return lambda: [browser.get(path).status_code for path in paths]

    assert at_once([job(number) for number in range(6)]) == [[200] * 20] * 6
    assert len(client.get("/all").json or {}) == 121


def test_reading_while_another_ends_the_session(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """A reader whose refresh finds no row sends no cookie."""
    app = add_views(make_app(database_uri, SESSION_REFRESH_INTERVAL=0))
    client = app.test_client()
    client.get("/set/a/1")
    other = same_browser(client)

    def read() -> str:
        clock.now += 1  # so that the end would move
        return "ok"

    response = during(client, read, lambda: other.get("/clear"))
    assert cookie(response) is None
    assert rows(app) == []


def test_40_slow_views_share_a_pool_of_3(
    make_app: MakeApp, shared_database_uri: str
) -> None:
    """A view that has read its session holds no connection, however long it takes."""
    options = {"pool_size": 3, "max_overflow": 0, "pool_timeout": 10}
    app = add_views(make_app(shared_database_uri, SQLALCHEMY_ENGINE_OPTIONS=options))
    client = app.test_client()
    client.get("/set/a/1")
    barrier = threading.Barrier(40)

    def view() -> str:
        value = session["a"]
        barrier.wait(50)  # goes on only when all 40 are in here
        session["b"] = value
        return "ok"

    app.extensions["view"] = view
    browsers = [same_browser(client) for _ in range(40)]

    def job(browser: FlaskClient) -> Callable[[], Any]:
        return lambda: browser.get("/run").status_code

    assert at_once([job(browser) for browser in browsers]) == [200] * 40


def test_16_users_never_see_each_other(app: Flask) -> None:
    """16 threads, 16 browsers, 480 requests: each gets its own value, always."""

    def job(number: int) -> Callable[[], Any]:
        def visits() -> set[str]:
            browser = app.test_client()
            browser.get(f"/set/me/{number}")
            seen = set()
            for visit_number in range(14):
                browser.get(f"/set/last/{visit_number}")
                seen.add(browser.get("/get/me").text)
            return seen

        return visits

    results = at_once([job(number) for number in range(16)])
    assert results == [{repr(str(number))} for number in range(16)]


# A view's own database work.


class Notes:
    """An application that writes to a table of its own."""

    def __init__(self, make_app: MakeApp, uri: str, order: str) -> None:
        self.db = SQLAlchemy()
        self.notes = self.db.Table("notes", sa.Column("text", sa.String(20)))
        if order == "SQLAlchemy first":
            self.app = make_app(uri, before=self.db.init_app)
        else:
            given = self.db if order == "SQLAlchemy given" else None
            self.app = make_app(uri, SESSION_SQLALCHEMY=given)
            self.db.init_app(self.app)
        with self.app.app_context():
            self.db.create_all()
        self.seen_at_teardown: list[int] = []
        self.commit_at_teardown = False

        @self.app.teardown_request
        def look(error: BaseException | None) -> None:
            count = sa.select(sa.func.count()).select_from(self.notes)
            self.seen_at_teardown.append(self.db.session.execute(count).scalar_one())
            if self.commit_at_teardown:
                self.db.session.commit()

        add_views(self.app)

    def add(self) -> str:
        """A view that flushes a row, does not commit, and changes the session."""
        self.db.session.execute(sa.insert(self.notes).values(text="unfinished"))
        session["seen"] = session.get("seen", 0) + 1
        return "ok"

    def committed(self) -> int:
        """The rows that another connection sees."""
        with self.app.app_context():
            count = sa.select(sa.func.count()).select_from(self.notes)
            with self.db.engine.connect() as connection:
                return connection.execute(count).scalar_one()


@pytest.fixture(params=["SQLAlchemy first", "Session first", "SQLAlchemy given"])
def notes(
    request: pytest.FixtureRequest, make_app: MakeApp, shared_database_uri: str
) -> Notes:
    return Notes(make_app, shared_database_uri, request.param)


def test_unfinished_work_is_neither_committed_nor_lost(notes: Notes) -> None:
    """After the session was saved the view's row is there for the view's own
    transaction, and for nobody else.
    """
    client = notes.app.test_client()
    assert visit(client, notes.add).status_code == 200
    assert notes.seen_at_teardown == [1]
    assert notes.committed() == 0
    assert client.get("/get/seen").text == "1"


def test_work_that_is_finished_after_the_response_is_kept(notes: Notes) -> None:
    """An application that commits in a teardown function commits its work, and the
    session is stored too.
    """
    notes.commit_at_teardown = True
    client = notes.app.test_client()
    for number in (1, 2):
        assert visit(client, notes.add).status_code == 200
        assert notes.committed() == number
    assert client.get("/get/seen").text == "2"


def test_a_flush_on_sqlite_does_not_keep_the_session_waiting(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """The view holds the file's lock when the session is saved: begun, changed, moved
    and ended sessions are stored within 100 ms all the same, each
    kind; the best of five counts.
    """
    notes = Notes(make_app, make_database("sqlite-file"), "SQLAlchemy first")

    def flushed(change: Callable[[], object]) -> Callable[[], str]:
        def view() -> str:
            notes.db.session.execute(sa.insert(notes.notes).values(text="unfinished"))
            change()
            return "ok"

        return view

    def login() -> None:
        session["_user_id"] = "5"

    changes: list[Callable[[], object]] = [
        lambda: session.update(a=1),
        lambda: session.update(a=2),
        login,
        lambda: session.clear(),
    ]
    best = [60.0] * len(changes)
    expected = [{"a": 1}, {"a": 2}, {"a": 2, "_user_id": "5"}, {}]
    for _ in range(5):
        client = notes.app.test_client()
        for number, change in enumerate(changes):
            begun = time.perf_counter()
            response = visit(client, flushed(change))
            best[number] = min(best[number], time.perf_counter() - begun)
            assert response.status_code == 200
            assert client.get("/all").json == expected[number]
    assert notes.committed() == 0
    assert max(best) < 0.1


def test_a_flush_before_the_table_is_there(
    make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """The first session is stored although the view holds the lock that creating the
    table needs.
    """
    notes = Notes(make_app, make_empty_database("sqlite-file"), "SQLAlchemy first")
    store = store_of(notes.app)
    store.table.drop(store.engine)
    client = notes.app.test_client()
    begun = time.perf_counter()
    assert visit(client, notes.add).status_code == 200
    assert time.perf_counter() - begun < 4  # SQLite would wait for 5
    assert client.get("/get/seen").text == "1"


def test_a_write_that_was_put_off_waits_for_its_own_context(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """Other contexts of the application that end meanwhile do not set it off."""
    notes = Notes(make_app, make_database("sqlite-file"), "SQLAlchemy first")
    stored: list[int] = []

    @notes.app.teardown_request
    def other_context(error: BaseException | None) -> None:
        with notes.app.app_context():
            pass
        stored.append(len(rows(notes.app)))

    client = notes.app.test_client()
    visit(client, notes.add)
    assert stored == [0]
    assert client.get("/get/seen").text == "1"


def test_a_session_that_cannot_be_stored_in_the_end_is_an_error(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """Put off because of the view's lock, and then locked out by somebody else for
    too long: the request fails, rather than losing the session silently.
    """
    options = {"connect_args": {"timeout": 0.05}}
    db = SQLAlchemy(engine_options=options)
    table = db.Table("notes", sa.Column("text", sa.String(20)))
    app = make_app(make_database("sqlite-file"))
    db.init_app(app)
    with app.app_context():
        db.create_all()
    add_views(app)
    other = sa.create_engine(app.config["SQLALCHEMY_DATABASE_URI"])

    def view() -> str:
        db.session.execute(sa.insert(table).values(text="unfinished"))
        session["a"] = 1
        return "ok"

    with other.connect() as connection:

        @app.teardown_request
        def lock(error: BaseException | None) -> None:
            db.session.rollback()
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        with pytest.raises(SessionStoreUnavailableError):
            visit(app.test_client(), view)
        connection.rollback()
    other.dispose()


def test_somebody_elses_lock_is_waited_for(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """Without work of its own the request waits for the file, as SQLite does."""
    app = add_views(make_app(make_database("sqlite-file")))
    client = app.test_client()
    client.get("/set/a/1")
    with locked_for_a_while(app):
        assert client.get("/set/a/2").status_code == 200
    assert client.get("/get/a").text == "'2'"


def test_a_write_that_always_gives_way_is_given_up(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that no try overcomes is an error with the session's handle, not an
    endless loop.
    """
    client.get("/set/a/1")
    handle = rows(app)[0].handle
    monkeypatch.setattr("flask_sessionsql.saving.records.MAX_TRIES", 3)
    monkeypatch.setattr(SessionStore, "update", lambda *_, **__: False)
    with pytest.raises(SessionConflictError, match=f"'{handle}'.* 3 tries"):
        client.get("/set/a/2")


def test_a_logout_reaches_a_session_under_the_current_key(
    app: Flask, client: FlaskClient
) -> None:
    """A request clears the session that another one moves from an earlier key to the
    current one meanwhile: its token, which is still the same, opens nothing any more.
    """
    client.get("/set/_user_id/ann")
    app.config.update(SECRET_KEY="newer", SECRET_KEY_FALLBACKS=["a key"])

    def view() -> str:
        assert session["_user_id"] == "ann"
        same_browser(client).get("/set/a/1")
        session.clear()
        return "bye"

    assert visit(client, view).status_code == 200
    assert client.get_cookie("session") is None
    assert rows(app) == []


def test_a_logout_that_always_misses_is_given_up(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, rather than to leave the user in the belief of being logged out."""
    client.get("/set/_user_id/ann")
    monkeypatch.setattr("flask_sessionsql.saving.records.MAX_TRIES", 3)
    monkeypatch.setattr(SessionStore, "delete", lambda *_, **__: False)
    with pytest.raises(SessionConflictError):
        client.get("/clear")


def log_out_by_clear() -> str:
    session.clear()
    return "bye"


def log_out_and_go_on() -> str:
    session.clear()
    session["flash"] = "bye"
    return "bye"


def log_out_as_flask_login_does() -> str:
    session.pop("_user_id")
    return "bye"


def log_out_of_all_there_is() -> str:
    for key in list(session):
        session.pop(key)
    return "bye"


@pytest.mark.parametrize(
    ("logout", "left"),
    [
        (log_out_by_clear, {}),
        (log_out_and_go_on, {"flash": "bye"}),
        (log_out_as_flask_login_does, {"basket": "tea"}),
        (log_out_of_all_there_is, {}),
    ],
)
def test_a_logout_holds_where_the_token_has_changed_meanwhile(
    app: Flask, client: FlaskClient, logout: Callable[[], str], left: dict[str, str]
) -> None:
    """The user who logs out is logged out, also under the token that another request
    has moved the session to; what that one wrote does not come along.
    """
    client.get("/set/basket/tea")
    client.get("/set/_user_id/ann")
    other = same_browser(client)

    def regenerate() -> str:
        typed_session.regenerate()
        session["secret"] = "of the new token"
        return "ok"

    during(client, logout, lambda: visit(other, regenerate))
    assert other.get("/all").json == {}
    assert client.get("/all").json == left
    assert len(rows(app)) == bool(left)


def test_a_logout_leaves_what_has_become_somebody_elses(
    app: Flask, client: FlaskClient
) -> None:
    """Another user has logged in meanwhile: that is not the session to end."""
    client.get("/set/_user_id/ann")
    other = same_browser(client)
    response = during(client, log_out_by_clear, lambda: other.get("/set/_user_id/bob"))
    assert cookie(response) is None
    assert other.get("/all").json == {"_user_id": "bob"}


def test_a_logout_ends_what_cannot_be_read(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that is unreadable here may be readable elsewhere, or tomorrow."""
    client.get("/set/_user_id/ann")
    store = store_of(app)
    with store.engine.connect() as connection:
        connection.execute(sa.update(store.table).values(data=b"?"))
    with told_by(session_ended, app) as told:
        client.get("/clear")
    assert [SessionEnded(None, None, "cleared")] == told
    assert "cannot be read" in caplog.text
    assert client.get_cookie("session") is None
    assert rows(app) == []


def test_emptying_what_another_request_has_ended(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It is as this request would have it: nothing is dropped, and nothing said."""
    caplog.set_level("INFO", "flask_sessionsql")
    client.get("/set/a/1")
    other = same_browser(client)

    def empty() -> str:
        session.pop("a")
        return "ok"

    response = during(client, empty, lambda: other.get("/clear"))
    assert (response.status_code, cookie(response)) == (200, None)
    assert "dropped" not in caplog.text
    assert rows(app) == []


@pytest.mark.parametrize("user", ["/set/a/1", "/set/_user_id/ann"])
@pytest.mark.parametrize(
    "moves",
    [
        ["regenerate"],
        ["regenerate", "regenerate", "regenerate"],
        ["/pop/_user_id"],
        ["regenerate", "/pop/_user_id", "regenerate"],
    ],
    ids=", ".join,
)
def test_a_logout_follows_every_change_of_token(
    app: Flask, client: FlaskClient, user: str, moves: list[str]
) -> None:
    """However often other tabs have moved the session while a request clears it, and
    though one has taken the user out: what it held is gone, for all of them.
    """
    client.get("/set/b/2")
    client.get(user)
    other = same_browser(client)

    def move() -> None:
        for each in moves:
            if each == "regenerate":
                visit(other, regenerate)
            else:
                other.get(each)

    during(client, log_out_by_clear, move)
    assert other.get("/all").json == {}
    assert rows(app) == []


def test_a_visitor_s_late_clear_leaves_a_login(app: Flask, client: FlaskClient) -> None:
    """One that has overtaken it, however often its token has changed since."""
    client.get("/set/a/1")
    other = same_browser(client)

    def log_in() -> None:
        other.get("/set/_user_id/ann")
        visit(other, regenerate)

    assert cookie(during(client, log_out_by_clear, log_in)) is None
    assert other.get("/all").json == {"a": "1", "_user_id": "ann"}
