"""``flask sessions check`` of a site that moves."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from flask import Flask

from tests.adopting.helpers import (
    DAY,
    Site,
    browser,
    logged_in,
    pages,
    rows_of,
    run,
)
from tests.conftest import MakeApp
from tests.helpers import Clock, limited_user, on, store_of

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)


def test_nothing_is_left(old_site: Site, new_site: Site) -> None:
    """When all have moved the exit code says so; ``check`` says how many are left, that
    browsers have not come yet, and when the setting can go.
    """
    cookies = logged_in(old_site(), "ann", "ben")
    new = new_site()
    assert "2 live sessions" in run(new, "check").stdout
    done = run(new, "adopt")

    assert (0, "Adopted 2 sessions.\n") == (done.exit_code, done.stdout)
    assert "The browsers of 2 sessions that came from there" in run(new, "check").stdout
    for cookie in cookies:
        client = browser(new, cookie)
        client.get("/me")
        client.get("/me")
    assert "every browser has sent its new" in run(new, "check").stdout


def test_another_site_in_the_same_table(old_site: Site, new_site: Site) -> None:
    """What is never adopted does not keep the setting."""
    logged_in(old_site(SESSION_KEY_PREFIX="other%:"), "root")
    new = new_site()
    run(new, "adopt")

    assert "Remove SESSION_ADOPT" in run(new, "check").stdout
    logged_in(old_site(), "ann")
    assert "1 live session of Flask-Session's" in run(new, "check").stdout


def test_a_browser_that_never_sends_its_new_cookie(
    old_site: Site, new_site: Site, clock: Clock
) -> None:
    """A program with a cookie of its own, for example. As long as its session lives,
    the setting cannot go.
    """
    [cookie] = logged_in(old_site(), "ann")
    new = new_site()
    clock.now = datetime.now(UTC).timestamp()
    run(new, "adopt")
    for _ in range(4):
        clock.now += 20 * DAY
        assert "The browsers of 1 session" in run(new, "check").stdout
        assert "ann" == browser(new, cookie).get("/me").text
    clock.now += 40 * DAY

    assert "every browser has sent its new" in run(new, "check").stdout
    assert "nobody" == browser(new, cookie).get("/me").text


@pytest.mark.parametrize(
    "shared_database_uri", on("postgresql", "mariadb"), indirect=True
)
def test_a_right_on_the_table_of_before(
    old_site: Site, new_site: Site, make_app: MakeApp, shared_database_uri: str
) -> None:
    """Sessions cannot leave it without one: it is told before the first request."""
    logged_in(old_site(), "ann")
    owner = new_site()
    store_of(owner).database.provide_table()
    with limited_user(shared_database_uri, "SELECT ON sessions") as limited:
        name = sa.make_url(limited).username
        user = name if "postgresql" in limited else f"'{name}'@'127.0.0.%'"
        grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO " + str(user)
        app = make_app(limited, SESSION_ADOPT="flask-session")
        with store_of(owner).engine.connect() as connection:
            connection.execute(sa.text(grant.format("flask_sessionsql")))
            told = run(app, "check")
            store_of(app).dispose()
            connection.execute(sa.text(grant.format("sessions")))
        after = run(app, "check")
        store_of(app).dispose()

    assert (1, 0) == (told.exit_code, after.exit_code)
    assert "error: SESSION_ADOPT_TABLE" in told.stdout
    assert "grant SELECT, UPDATE and DELETE" in told.stdout


def test_check_of_cookies(make_app: MakeApp, shared_database_uri: str) -> None:
    """It says how many cookies were taken over, and how long the setting stays."""
    old = Flask("shop")
    old.config["SECRET_KEY"] = "a key"
    [cookie] = logged_in(pages(old), "ann")
    new = pages(make_app(shared_database_uri, SESSION_ADOPT="cookie"))
    assert "lately: 0." in run(new, "check").stdout
    browser(new, cookie).get("/me")
    told = run(new, "check").stdout

    assert "adopted lately: 1." in told
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
