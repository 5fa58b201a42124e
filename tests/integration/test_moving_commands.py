"""``flask sessions adopt``, ``check`` and ``export`` of a site that moves, and back."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask, session
from markupsafe import Markup

from examples.back_to_cookies import CookiesAgain
from examples.back_to_flask_session import fill, keep_tokens
from flask_sessionsql import Session
from flask_sessionsql.formats.documents import to_value
from tests.conftest import MakeApp
from tests.helpers import Clock, store_of
from tests.integration.test_moving import (
    DAY,
    PICKLED,
    Site,
    browser,
    cookie_of,
    logged_in,
    new_site,
    old_site,
    pages,
    pytestmark,
    rows_of,
)

__all__ = ["new_site", "old_site", "pytestmark"]  # fixtures

NAMES = [f"user{number}" for number in range(7)]


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["sessions", *arguments])


def spoil(app: Flask, data: bytes, session_id: str) -> None:
    """Leave something else where a session was."""
    change = sa.text("UPDATE sessions SET data = :data WHERE session_id = :id")
    typed = change.bindparams(sa.bindparam("data", type_=sa.LargeBinary))
    with store_of(app).engine.connect() as connection:
        connection.execute(typed, {"data": data, "id": session_id})


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
        "4 sessions would be taken over.",
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
    assert "Took over 0 sessions." in again.stdout
    assert "is a pickle" in again.stdout


def test_nothing_is_left(old_site: Site, new_site: Site) -> None:
    """When all have moved the exit code says so; ``check`` says how many are left, that
    browsers have not come yet, and when the setting can go.
    """
    cookies = logged_in(old_site(), "ann", "ben")
    new = new_site()
    assert "2 live sessions" in run(new, "check").stdout
    done = run(new, "adopt")

    assert (0, "Took over 2 sessions.\n") == (done.exit_code, done.stdout)
    assert "2 sessions that came from there" in run(new, "check").stdout
    for cookie in cookies:
        client = browser(new, cookie)
        client.get("/me")
        client.get("/me")
    assert "every browser has come" in run(new, "check").stdout


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

    assert (3, "Took over 2 sessions.\n") == (done.exit_code, done.stdout)
    rest = run(new, "adopt", "--batch-size", "2", "--max-seconds", "60")
    assert (0, "Took over 5 sessions.\n") == (rest.exit_code, rest.stdout)


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
    assert "Signed cookies are with the browsers" in run(cookie, "adopt").stderr
    nothing = make_app(shared_database_uri)
    assert "SESSION_ADOPT is None" in run(nothing, "adopt").stderr
    here = make_app(shared_database_uri, SESSION_ADOPT="flask-session")
    told = run(here, "adopt")
    assert (1, "") == (told.exit_code, told.stdout)
    assert "'sessions' is not there" in told.stderr
    assert "SESSION_ADOPT_TABLE" in told.stderr
    found = run(here, "check")
    assert "error: SESSION_ADOPT_TABLE" in found.stdout
    here.config["SECRET_KEY"] = None
    assert "No SECRET_KEY is set" in run(here, "adopt").stderr


def test_check_of_cookies(make_app: MakeApp, shared_database_uri: str) -> None:
    """It says how many cookies were taken over, and how long the setting stays."""
    old = Flask("shop")
    old.config["SECRET_KEY"] = "a key"
    [cookie] = logged_in(pages(old), "ann")
    new = pages(make_app(shared_database_uri, SESSION_ADOPT="cookie"))
    assert "0 signed cookies" in run(new, "check").stdout
    browser(new, cookie).get("/me")
    told = run(new, "check").stdout

    assert "1 signed cookie of Flask's were taken over" in told.replace("\n", " ")
    assert "Leave the setting for 31 days" in told


def test_check_of_a_database_that_is_not_there(make_app: MakeApp) -> None:
    """That is told once, as of any database."""
    app = make_app(
        "postgresql+psycopg://nobody@127.0.0.1:1/x", SESSION_ADOPT="flask-session"
    )

    assert 1 == run(app, "check").stdout.count("error: ")


def test_under_the_name_of_flask_sessions_table(old_site: Site, new_site: Site) -> None:
    """The table is known, said to be Flask-Session's, and left as it is."""
    logged_in(old_site(), "ann")
    new = new_site(SESSION_ADOPT=None, SESSION_SQLALCHEMY_TABLE="sessions")
    new.config["PROPAGATE_EXCEPTIONS"] = False
    found, made = run(new, "check").stdout, run(new, "create-table")

    assert 500 == browser(new, "x" * 43).get("/me").status_code
    for told in (found, made.stderr):
        assert "The table 'sessions' is Flask-Session's" in told
        assert "SESSION_ADOPT = 'flask-session'" in told
        assert "DROP" not in told
    assert 1 == rows_of(new, "sessions")


# Killed while it moves.

SHOP = """
import os
from flask import Flask
from flask_sessionsql import Session

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
    names = [f"user{number}" for number in range(60)]
    cookies = logged_in(old_site(), *names)
    new = new_site()
    (tmp_path / "shop.py").write_text(SHOP)
    command = [sys.executable, "-m", "flask", "sessions", "adopt"]
    process = subprocess.Popen(
        [*command, "--batch-size", "1", "--pause", "0.005"],
        cwd=tmp_path,
        env={**os.environ, "FLASK_APP": "shop", "SHOP_DATABASE": shared_database_uri},
    )
    store_of(new).database.provide_table()
    while rows_of(new, "flask_sessionsql") < 10:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    left, here = rows_of(new, "sessions"), rows_of(new, "flask_sessionsql")

    assert 60 == left + here
    assert 0 < left
    assert 0 == run(new, "adopt").exit_code
    assert (0, 60) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))
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

    assert (130, "Took over 3 sessions.\n") == (done.exit_code, done.stdout)
    assert 4 == rows_of(new, "sessions")


# Export, and the way back.

VALUES: dict[str, Any] = {
    "tuple": (1, ("a", b"\xff")),
    "sets": [{1}, frozenset({"a"})],
    "times": [
        datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        datetime(2026, 1, 2),
        date(2026, 1, 2),
        datetime(2026, 1, 2, 3, 4).time(),
        timedelta(-1, 2, 3),
    ],
    "numbers": [Decimal("1.10"), 2**20_000, float("inf"), 1.5, True, None],
    "texts": [Markup("<b>"), "\ud800\n\u2028", UUID(int=5)],
    "maps": {"a": {1: 2}, "b": {"$type": "tuple", "value": []}},
}


@pytest.fixture
def shop(make_app: MakeApp, shared_database_uri: str) -> Flask:
    app = pages(make_app(shared_database_uri))

    @app.get("/values")
    def values() -> str:
        session.update(VALUES)
        return "ok"

    return app


def test_export(shop: Flask, tmp_path: Path) -> None:
    """Each live session is a line, with all that it holds, each value of its type; the
    file is for its owner alone, and none is written over.
    """
    client, ended = shop.test_client(), shop.test_client()
    client.get("/login/ann")
    client.get("/values")
    ended.get("/login/ben")
    ended.get("/logout")
    file = tmp_path / "sessions.jsonl"
    done = run(shop, "export", "--output", str(file))
    again = run(shop, "export", "--output", str(file))

    assert (0, "Wrote 1 session.\n") == (done.exit_code, done.stderr)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert (1, "") == (again.exit_code, again.stdout)
    assert "cannot be made" in again.stderr
    [line] = file.read_text("ascii").splitlines()
    document = json.loads(line)
    assert {"_user_id": "ann", "basket": [], **VALUES} == to_value(document["data"])
    assert cookie_of(client) not in line
    assert ("ann", True) == (document["user_id"], document["permanent"])


def test_export_of_a_user(shop: Flask) -> None:
    """Only the sessions of this user, on standard output."""
    for name in ("ann", "ben", "ann"):
        shop.test_client().get(f"/login/{name}")
    found = run(shop, "export", "--user", "ann").stdout.splitlines()

    assert ["ann", "ann"] == [json.loads(line)["user_id"] for line in found]
    assert "" == run(shop, "export", "--user", "cleo").stdout
    assert 2 == run(shop, "export", "--user", "").exit_code


def test_export_of_many(shop: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, whatever fits into one look; and what cannot be read is counted."""
    monkeypatch.setattr("flask_sessionsql.storage.administration.BATCH", 2)
    for name in NAMES[:5]:
        shop.test_client().get(f"/login/{name}")
    change = sa.text("UPDATE flask_sessionsql SET version = -1 WHERE user_id = 'user4'")
    spoil = sa.text("UPDATE flask_sessionsql SET data = :x WHERE user_id = 'user4'")
    with store_of(shop).engine.connect() as connection:
        connection.execute(change)
        connection.execute(
            spoil.bindparams(sa.bindparam("x", type_=sa.LargeBinary)), {"x": b"?"}
        )
    done = run(shop, "export")

    assert NAMES[:4] == sorted(
        json.loads(line)["user_id"] for line in done.stdout.splitlines()
    )
    assert 4 == done.exit_code
    assert "1 session could not be read" in done.stderr
    shop.config["SECRET_KEY"] = None
    assert "SECRET_KEY: It is not set" in run(shop, "export").stderr


@pytest.mark.parametrize(
    "document",
    [
        {"$type": "tuple"},
        {"$type": "os.system", "value": "x"},
        {"$type": "date", "value": 1},
        {"$type": "Decimal", "value": "x"},
        {"$type": "bytes", "value": "?"},
        {"$type": ["x"], "value": "x"},
    ],
)
def test_what_is_no_exported_value(document: Any) -> None:
    """It is refused, and its value not shown."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 -- of several kinds
        to_value(document)
    assert "system" not in str(refused.value)


def exported(app: Flask, path: Path, *names: str) -> tuple[str, list[str]]:
    """The exported sessions, and the cookies of their browsers."""
    cookies = logged_in(app, *names)
    file = str(path / "sessions.jsonl")
    assert 0 == run(app, "export", "--output", file).exit_code
    return file, cookies


def test_back_to_flask_session(old_site: Site, shop: Flask, tmp_path: Path) -> None:
    """Every browser is still logged in when the site has gone back to Flask-Session,
    and goes on; a logout holds.
    """
    file, cookies = exported(shop, tmp_path, *NAMES)
    back = old_site()
    keep_tokens(back)

    assert [7, 0] == [fill(back, file), fill(back, file)]
    browsers = [browser(back, cookie) for cookie in cookies]
    assert NAMES == [client.get("/me").text for client in browsers]
    assert {"tea milk"} == {client.get("/put/milk").text for client in browsers}
    browsers[0].get("/logout")
    assert ["nobody", *NAMES[1:]] == [
        browser(back, cookie).get("/me").text for cookie in cookies
    ]


def test_back_to_cookies(shop: Flask, tmp_path: Path) -> None:
    """Every browser is still logged in when the site has gone back to Flask's own
    sessions, and gets a signed cookie.
    """
    file, cookies = exported(shop, tmp_path, *NAMES)
    back = pages(Flask("shop"))
    back.config["SECRET_KEY"] = "a key"
    back.session_interface = CookiesAgain(file)
    browsers = [browser(back, cookie) for cookie in cookies]

    assert NAMES == [client.get("/me").text for client in browsers]
    back.session_interface = CookiesAgain(os.devnull)
    assert {"tea milk"} == {client.get("/put/milk").text for client in browsers}
    assert "nobody" == browser(back, "x" * 43).get("/me").text


def test_there_and_back(old_site: Site, new_site: Site, tmp_path: Path) -> None:
    """A site that has moved in and goes back logs nobody out."""
    cookies = logged_in(old_site(), *NAMES)
    new = new_site()
    browsers = [browser(new, cookie) for cookie in cookies]
    for client in browsers:
        client.get("/me")
    file = str(tmp_path / "sessions.jsonl")
    run(new, "export", "--output", file)
    back = old_site()
    keep_tokens(back)
    fill(back, file)

    assert NAMES == [
        browser(back, cookie_of(client)).get("/me").text for client in browsers
    ]


# Names of Flask-Session's.


def test_names_of_flask_session(shop: Flask) -> None:
    """What applications call of Flask-Session's works, or says what to call."""

    @shop.get("/regenerate")
    def regenerate() -> str:
        shop.session_interface.regenerate(session)  # type: ignore[attr-defined]
        return "ok"

    @shop.get("/sid")
    def sid() -> str:
        with pytest.raises(AttributeError, match=r"Take session\.handle"):
            _ = session.sid  # type: ignore[attr-defined]
        return str(hasattr(session, "sid"))

    client = shop.test_client()
    client.get("/login/ann")
    before = cookie_of(client)
    client.get("/regenerate")

    assert before != cookie_of(client)
    assert "ann" == client.get("/me").text
    assert "False" == client.get("/sid").text


def test_session_cleanup(shop: Flask, clock: Clock) -> None:
    """A timer that still calls ``flask session_cleanup`` deletes what has expired, and
    is told the new name.
    """
    shop.test_client().get("/login/ann")
    clock.now += 400 * DAY
    done = shop.test_cli_runner().invoke(args=["session_cleanup"])

    assert (0, "Deleted 1 expired session.\n") == (done.exit_code, done.stdout)
    assert "flask sessions purge" in done.stderr
    assert 0 == rows_of(shop, "flask_sessionsql")
