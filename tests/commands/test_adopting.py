"""``flask sessions adopt``: what is left in Flask-Session's table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click import ClickException
from flask import Flask

from flask_sessionsql import Session
from flask_sessionsql.adopting import FlaskSessionAdopter
from flask_sessionsql.storage.adoption import ForeignTable, Notes, user_note
from tests.adopting.helpers import (
    DAY,
    PICKLED,
    Site,
    browser,
    logged_in,
    pages,
    rows_of,
    run,
)
from tests.commands.helpers import with_progress
from tests.conftest import MakeApp
from tests.helpers import Clock, Cut, store_of

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)

NAMES = [f"user{number}" for number in range(7)]


def spoil(app: Flask, data: bytes, session_id: str) -> None:
    """Leave something else where a session was."""
    change = sa.text("UPDATE sessions SET data = :data WHERE session_id = :id")
    typed = change.bindparams(sa.bindparam("data", type_=sa.LargeBinary))
    with store_of(app).engine.connect() as connection:
        connection.execute(typed, {"data": data, "id": session_id})


@pytest.mark.parametrize(("ours", "theirs"), [("shop:", "shop:admin:"), ("", "a:")])
def test_another_site_in_the_same_table(
    old_site: Site, new_site: Site, ours: str, theirs: str
) -> None:
    """Its prefix begins with ours: its sessions stay its own."""
    other = old_site(SESSION_KEY_PREFIX=theirs)
    [cookie] = logged_in(other, "root")
    mine = logged_in(old_site(SESSION_KEY_PREFIX=ours), "ann")
    new = new_site(SESSION_KEY_PREFIX=ours)
    done = run(new, "adopt")

    assert "Adopted 1 session." in done.stdout
    assert "ann" == browser(new, mine[0]).get("/me").text
    assert "root" == browser(other, cookie).get("/me").text


def test_a_table_that_is_not_there(new_site: Site) -> None:
    """On a terminal, too, it is one line."""
    new = new_site(SESSION_ADOPT_TABLE="nowhere")
    with pytest.raises(ClickException, match="The table 'nowhere' is missing"):
        with_progress(new, "adopt")


def test_the_rest_is_taken_over(old_site: Site, new_site: Site) -> None:
    """All sessions move in batches, those that cannot are counted by the reason, and
    every browser is logged in when it comes.
    """
    cookies = logged_in(old_site(), *NAMES)
    new = new_site()
    browser(new, cookies[0]).get("/me")
    spoil(new, PICKLED, f"session:{cookies[1]}")
    spoil(new, b"?", f"session:{cookies[2]}")

    tried = run(new, "adopt", "--dry-run")
    assert tried.stdout.splitlines()[:2] == [
        "4 sessions would be adopted.",
        "2 sessions would be left in the table sessions:",
    ]
    assert (6, 1) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))
    done = run(new, "adopt", "--batch-size", "2", "--pause", "0", "--json")
    assert {"taken": 4, "ended": 0, "left": {"pickle": 1, "unreadable": 1}} == (
        json.loads(done.stdout)
    )
    assert [4, 4] == [tried.exit_code, done.exit_code]
    assert (2, 5) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))
    browsers = [browser(new, cookie) for cookie in cookies[3:]]
    assert NAMES[3:] == [client.get("/me").text for client in browsers]
    assert NAMES[3:] == [client.get("/me").text for client in browsers]
    again = run(new, "adopt")
    assert "Adopted 0 sessions." in again.stdout
    assert "is a pickle" in again.stdout


def test_what_was_ended_here_first(old_site: Site, new_site: Site) -> None:
    """A user's sessions that were ended before they had moved are not taken over."""
    cookies = logged_in(old_site(), "ann", "ben")
    new = new_site()
    with new.app_context():
        Session().revoke_user("ann")

    assert '"ended": 1' in run(new, "adopt", "--dry-run", "--json").stdout
    done = run(new, "adopt")
    assert 0 == done.exit_code
    assert "1 session had been ended here, and stay so." in done.stdout
    assert ["nobody", "ben"] == [browser(new, each).get("/me").text for each in cookies]


def test_its_time_is_over(old_site: Site, new_site: Site) -> None:
    """It stops between two batches, says so by its exit code, and goes on later."""
    logged_in(old_site(), *NAMES)
    new = new_site()
    done = run(new, "adopt", "--batch-size", "2", "--max-seconds", "0.000001")

    assert (3, "Adopted 2 sessions.\n") == (done.exit_code, done.stdout)
    rest = run(new, "adopt", "--batch-size", "2", "--max-seconds", "60")
    assert (0, "Adopted 5 sessions.\n") == (rest.exit_code, rest.stdout)


def test_too_old_or_of_another_site(
    old_site: Site, new_site: Site, clock: Clock
) -> None:
    """Sessions that have had their absolute lifetime, and those of another site in the
    same table, stay.
    """
    clock.now = datetime.now(UTC).timestamp()
    logged_in(old_site(), "ann")
    new = new_site(SESSION_ABSOLUTE_LIFETIME=DAY)
    spoilt = sa.text("UPDATE sessions SET session_id = 'forum:1'")
    clock.now += 2 * DAY

    assert '"age": 1' in run(new, "adopt", "--json").stdout
    with store_of(new).engine.connect() as connection:
        connection.execute(spoilt)
    assert '"prefix": 1' in run(new, "adopt", "--json").stdout
    assert 1 == rows_of(new, "sessions")


def test_errors(make_app: MakeApp, shared_database_uri: str) -> None:
    """What is missing is said in one line, with what to do."""
    cookie = make_app(shared_database_uri, SESSION_ADOPT="cookie")
    assert "Signed cookies are in the browsers" in run(cookie, "adopt").stderr
    nothing = make_app(shared_database_uri)
    assert "SESSION_ADOPT is None" in run(nothing, "adopt").stderr
    here = make_app(shared_database_uri, SESSION_ADOPT="flask-session")
    told = run(here, "adopt")
    assert (1, "") == (told.exit_code, told.stdout)
    assert "'sessions' is missing" in told.stderr
    assert "SESSION_ADOPT_TABLE" in told.stderr
    found = run(here, "check")
    assert "error: SESSION_ADOPT_TABLE" in found.stdout
    here.config["SECRET_KEY"] = None
    assert "No SECRET_KEY is set" in run(here, "adopt").stderr


SHOP = """
import os
from flask import Flask
from flask_sessionsql import Session
from flask_sessionsql.adopting import FlaskSessionAdopter
from flask_sessionsql.storage.adoption import ForeignTable, Notes, user_note

def create_app():
    app = Flask("shop")
    app.config.update(
        SECRET_KEY="a key",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI=os.environ["SHOP_DATABASE"],
        SESSION_ADOPT="flask-session",
    )
    Session(app)
    return app
"""


def test_killed_while_it_moves(
    old_site: Site, new_site: Site, tmp_path: Path, shared_database_uri: str
) -> None:
    """Killed in the middle, nothing is lost and nothing there twice; run again, it goes
    on with what is left.
    """
    names = [f"user{number}" for number in range(15)]
    cookies = logged_in(old_site(), *names)
    new = new_site()
    (tmp_path / "shop.py").write_text(SHOP)
    command = [sys.executable, "-m", "flask", "sessions", "adopt"]
    process = subprocess.Popen(
        [*command, "--batch-size", "1", "--pause", "0.3"],
        cwd=tmp_path,
        env={**os.environ, "FLASK_APP": "shop", "SHOP_DATABASE": shared_database_uri},
    )
    store_of(new).database.provide_table()
    while rows_of(new, "flask_sessionsql") < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    left, here = rows_of(new, "sessions"), rows_of(new, "flask_sessionsql")

    assert 15 == left + here
    assert 0 < left
    assert 0 == run(new, "adopt").exit_code
    assert (0, 15) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))
    assert names == [browser(new, cookie).get("/me").text for cookie in cookies]


def test_interrupted(
    old_site: Site, new_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken over until then is told, and kept."""
    logged_in(old_site(), *NAMES)
    new = new_site()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    done = run(new, "adopt", "--batch-size", "3")

    assert (130, "Adopted 3 sessions.\n") == (done.exit_code, done.stdout)
    assert 4 == rows_of(new, "sessions")


def test_its_progress(old_site: Site, new_site: Site) -> None:
    """On a terminal it shows how far it is, of all that may be left."""
    logged_in(old_site(), *NAMES[:3])
    new = new_site()
    printed, shown = with_progress(new, "adopt", "--batch-size", "1")

    assert "Adopted 3 sessions.\n" == printed
    assert "Adopting  [" in shown
    assert "3/3" in shown


def test_killed_before_it_looks_at_what_was_ended(
    old_site: Site, new_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was ended here is never here, whenever it is killed."""
    [cookie] = logged_in(old_site(), "ann")
    new = new_site()
    with new.app_context():
        Session().revoke_user("ann")

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(FlaskSessionAdopter, "settle", killed)
        run(new, "adopt")

    assert "nobody" == browser(new, cookie).get("/me").text
    run(new, "adopt")
    assert "nobody" == browser(new, cookie).get("/me").text


def test_an_answer_that_was_lost(
    old_site: Site, make_app: MakeApp, shared_database_uri: str
) -> None:
    """The connection breaks when a batch is committed: it is there, and counted."""
    if not shared_database_uri.startswith("postgresql"):
        pytest.skip("one server is enough")
    cookies = logged_in(old_site(), *NAMES[:3])
    cut = Cut(shared_database_uri)
    try:
        new = pages(make_app(cut.uri, SESSION_ADOPT="flask-session"))
        store_of(new).database.provide_table()
        cut.lose_answer("COMMIT")
        done = run(new, "adopt")
        assert cut.has_cut
    finally:
        cut.close()

    assert (0, "Adopted 3 sessions.\n") == (done.exit_code, done.stdout)
    again = pages(make_app(shared_database_uri, SESSION_ADOPT="flask-session"))
    assert NAMES[:3] == [browser(again, each).get("/me").text for each in cookies]


@pytest.mark.parametrize("looked", ["before", "after"])
def test_ended_while_a_batch_moves(
    old_site: Site, new_site: Site, monkeypatch: pytest.MonkeyPatch, looked: str
) -> None:
    """What somebody ends while it moves is over."""
    cookies = logged_in(old_site(), "ann", "ben")
    new = new_site()
    take = ForeignTable.take

    def late(*given: Any) -> Any:
        moved = take(*given)
        if looked == "after":
            Session().revoke_user("ann")
        else:  # as of somebody whose look for rows was over
            Notes(store_of(new).database).make(user_note("ann"), 0, 2**40)
        return moved

    monkeypatch.setattr(ForeignTable, "take", late)
    assert 0 == run(new, "adopt").exit_code

    assert ["nobody", "ben"] == [browser(new, each).get("/me").text for each in cookies]
