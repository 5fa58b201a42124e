"""A site that comes from Flask-Session: nobody is logged out, nothing ended is back."""

from __future__ import annotations

import json
import pickle
import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from flask import session
from flask_sqlalchemy import SQLAlchemy

from tests.conftest import MakeApp
from tests.helpers import at_once, statements_on, store_of

from .helpers import (
    NAMES,
    PICKLED,
    Moved,
    Site,
    browser,
    cookie_of,
    logged_in,
    pages,
    rows_of,
    run,
    spoil,
    stored,
)

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)


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


def test_a_server_of_the_site_before_still_runs(moved: Moved) -> None:
    """What it stores while a request here has the session open is kept, too."""
    old, new, cookie = moved

    @new.get("/slow/<thing>")
    def slow(thing: str) -> str:
        session["basket"].append(thing)
        threading.Thread(target=lambda: browser(old, cookie).get("/put/bread")).start()
        while "bread" not in stored(new):
            pass
        return "done"

    client = browser(new, cookie)
    assert "done" == client.get("/slow/milk").text

    assert {"tea", "bread", "milk"} == {*client.get("/basket").text.split()}


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
    assert "'sessions' is missing" in told
    assert "SESSION_ADOPT" in told


def test_another_site_in_the_same_table(old_site: Site, new_site: Site) -> None:
    """Sessions whose keys have another prefix are another site's."""
    [cookie] = logged_in(old_site(SESSION_KEY_PREFIX="shop:"), "ann")

    other = new_site(SESSION_KEY_PREFIX="forum:")
    assert "nobody" == browser(other, cookie).get("/me").text
    ours = new_site(SESSION_KEY_PREFIX="shop:")
    assert "ann" == browser(ours, cookie).get("/me").text


def test_a_session_that_holds_nothing(moved: Moved) -> None:
    """It is not taken over, and nobody is told: it is as good as none."""
    _, new, cookie = moved
    spoil(new, b"\x81\xaa_permanent\xc3")
    client = browser(new, cookie)

    assert "nobody" == client.get("/me").text
    assert (1, 0) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))


def test_one_that_somebody_has_spoilt_here(moved: Moved) -> None:
    """A session that was taken over and cannot be read any more is an empty one."""
    _, new, cookie = moved
    client = browser(new, cookie)
    client.get("/me")
    change = sa.text("UPDATE flask_sessionsql SET data = :data")
    typed = change.bindparams(sa.bindparam("data", type_=sa.LargeBinary))
    with store_of(new).engine.connect() as connection:
        connection.execute(typed, {"data": b"?"})

    assert "nobody" == browser(new, cookie).get("/me").text
    assert "nobody" == client.get("/me").text


def test_one_that_becomes_a_pickle(moved: Moved) -> None:
    """A server of the site before, of an older version, writes it as a pickle while a
    request here has it open: what that puts into it is dropped, and the row stays.
    """
    _, new, cookie = moved

    @new.get("/slow")
    def slow() -> str:
        session["basket"].append("milk")
        spoil(new, PICKLED)
        return "done"

    client = browser(new, cookie)
    assert "done" == client.get("/slow").text

    assert (1, 0) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))
    assert "nobody" == client.get("/me").text


def test_a_table_that_stays_away(
    make_app: MakeApp,
    shared_database_uri: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is asked for again now and then, and told of once a minute."""
    monkeypatch.setattr("flask_sessionsql.adopting.flask_session._PAUSE", 0)
    new = pages(make_app(shared_database_uri, SESSION_ADOPT="flask-session"))
    for letter in "xyz":
        assert "nobody" == browser(new, letter * 43).get("/me").text

    told = [each.getMessage() for each in caplog.records if each.levelname != "INFO"]
    assert 1 == len(told)


def test_cookies_that_were_signed(old_site: Site, new_site: Site) -> None:
    """Where they were, one without a signature opens nothing, and is not looked up."""
    [signed] = logged_in(old_site(SESSION_USE_SIGNER=True), "ann")
    new = new_site(SESSION_USE_SIGNER=True)
    plain = signed.rpartition(".")[0]
    new.test_client().get("/login/ben")
    with statements_on(store_of(new).engine) as seen:
        assert "nobody" == browser(new, plain).get("/me").text
        assert "nobody" == browser(new, plain + ".x").get("/me").text
    assert 1 == len(seen)
    assert "ann" == browser(new, signed).get("/me").text


def test_a_late_server_of_the_site_before(old_site: Site, new_site: Site) -> None:
    """It writes a session that has moved and ended once more: nobody gets it back."""
    old, new = old_site(), new_site()
    started, go = threading.Event(), threading.Event()

    @old.get("/slow")
    def slow() -> str:
        session["basket"].append("late")
        started.set()
        go.wait(30)
        return "ok"

    [cookie] = logged_in(old, "ann")
    client = browser(new, cookie)
    late = threading.Thread(target=lambda: browser(old, cookie).get("/slow"))
    late.start()
    assert started.wait(30)
    assert "ann" == client.get("/me").text
    client.get("/logout")
    go.set()
    late.join(30)

    assert 1 == rows_of(new, "sessions")
    assert "nobody" == browser(new, cookie).get("/me").text
    assert "Adopted 0 sessions." in run(new, "adopt").stdout
    assert "nobody" == browser(new, cookie).get("/me").text
    assert 0 == rows_of(new, "sessions")


def test_one_damaged_row_is_its_own_affair(moved: Moved) -> None:
    """On SQLite any column can hold anything; the other sessions are taken over."""
    old, new, cookie = moved
    if store_of(new).engine.dialect.name != "sqlite":
        pytest.skip("other databases have dates in a column of dates")
    [damaged, text] = logged_in(old, "ben", "cleo")
    with store_of(new).engine.connect() as connection:
        for change, name in [("expiry = 'soon'", damaged), ("data = 'x'", text)]:
            statement = f"UPDATE sessions SET {change} WHERE session_id = :name"
            connection.execute(sa.text(statement), {"name": f"session:{name}"})

    assert ["nobody", "nobody", "ann"] == [
        browser(new, each).get("/me").text for each in (damaged, text, cookie)
    ]
    assert {"age": 1, "unreadable": 1} == json.loads(
        run(new, "adopt", "--json").stdout
    ).get("left")


def test_two_cookies_of_one_name(moved: Moved) -> None:
    """A browser that keeps its old cookie, of another domain, beside the new one is who
    it says it is, and can log in.
    """
    _, new, cookie = moved
    client = browser(new, cookie)
    client.get("/me")
    client.get("/me")
    both = {"Cookie": f"session={cookie}; session={cookie_of(client)}"}
    plain = new.test_client(use_cookies=False)

    assert "ann" == plain.get("/me", headers=both).text
    client.get("/login/ben")
    both = {"Cookie": f"session={cookie}; session={cookie_of(client)}"}
    assert "ben" == plain.get("/me", headers=both).text


def test_a_name_that_the_connection_lacks(
    old_site: Site,
    make_app: MakeApp,
    shared_database_uri: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A user whom the connection cannot write is left, and hinders nobody else."""
    if not shared_database_uri.startswith("mysql"):
        pytest.skip("only MariaDB's connections have a character set of their own")
    cookies = logged_in(old_site(), "\u0142ukasz\U0001f600", "ann", "ben")
    address = sa.make_url(shared_database_uri).update_query_dict({"charset": "latin1"})
    settings = {"SESSION_ADOPT": "flask-session", "SQLALCHEMY_DATABASE_URI": address}
    new = pages(make_app(**settings))
    for _ in range(2):
        browser(new, cookies[0]).get("/me")
    [told] = [each.getMessage() for each in caplog.records if each.levelname != "INFO"]
    assert "charset=utf8mb4" in told

    assert "ann" == browser(new, cookies[1]).get("/me").text
    done = json.loads(run(new, "adopt", "--json").stdout)
    assert (1, {"value": 1}) == (done["taken"], done["left"])
    assert "ben" == browser(new, cookies[2]).get("/me").text


def test_migrations_leave_its_table(old_site: Site, new_site: Site) -> None:
    """A migration that is made for the sessions' table does not drop the other one."""
    from alembic.autogenerate import produce_migrations
    from alembic.migration import MigrationContext

    old_site()
    db = SQLAlchemy()
    new = new_site(before=db.init_app)
    with new.app_context(), db.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        made = produce_migrations(context, db.metadata).upgrade_ops
    assert made is not None
    assert {"flask_sessionsql"} == {vars(each)["table_name"] for each in made.ops}


def test_a_table_that_is_dropped(moved: Moved) -> None:
    """Once all sessions are here, the other table can go: browsers that have not come
    since are still logged in.
    """
    _, new, cookie = moved
    assert 0 == run(new, "adopt").exit_code
    with store_of(new).engine.connect() as connection:
        connection.execute(sa.text("DROP TABLE sessions"))

    found = run(new, "check").stdout
    assert "The browsers of 1 session that came from there" in found
    assert "error: SESSION_ADOPT" not in found
    client = browser(new, cookie)
    assert ["ann", "ann"] == [client.get("/me").text for _ in range(2)]


def test_many_cookies_of_one_name(moved: Moved) -> None:
    """However many a client sends, few of them are looked up."""
    _, new, _ = moved
    store_of(new).database.provide_table()
    many = "; ".join(f"session={number:043}" for number in range(50))
    client = new.test_client(use_cookies=False)
    with statements_on(store_of(new).engine) as seen:
        assert "nobody" == client.get("/me", headers={"Cookie": many}).text
    assert len(seen) <= 6


def test_what_the_second_request_changes(moved: Moved) -> None:
    """It is the first with the new cookie, and says that it has changed nothing."""
    _, new, cookie = moved

    @new.get("/modified")
    def modified() -> str:
        return f"{len(session['basket'])} {session.modified}"

    client = browser(new, cookie)

    assert ["1 False"] * 3 == [client.get("/modified").text for _ in range(3)]
