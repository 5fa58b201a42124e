"""A site that moves in, on each driver: its users stay logged in."""
# ruff: noqa: F401, F811 -- fixtures, which pytest looks for by their names

from __future__ import annotations

import pytest
from flask import Flask

from flask_sessionsql import Session
from tests.adopting.conftest import (
    after_cookies,
    cookie_site,
    new_site,
    old_site,
)
from tests.adopting.helpers import NAMES, Site, browser, logged_in, rows_of, run

pytestmark = pytest.mark.filterwarnings(
    # Said by Flask-Session.
    r"ignore:datetime.datetime.utcnow\(\):DeprecationWarning"
)


@pytest.fixture
def shared_database_uri(driver_uri: str) -> str:
    """The site before and the site now are on the driver's empty database."""
    return driver_uri


def test_from_the_table_of_flask_session(
    old_site: Site, new_site: Site, driver_uri: str
) -> None:
    """Two come before the command takes over the rest; one is logged out by then."""
    old = old_site()
    cookies = logged_in(old, *NAMES)
    new = new_site()
    arrived = [browser(new, cookie) for cookie in cookies[:2]]
    assert NAMES[:2] == [client.get("/me").text for client in arrived]
    with new.app_context():
        assert 0 == Session().revoke_user(NAMES[2])
    assert 0 == run(new, "adopt").exit_code
    assert 0 == rows_of(new, "sessions")

    expected = [*NAMES[:2], "nobody", *NAMES[3:]]
    late = [browser(new, cookie) for cookie in cookies[2:]]
    assert expected == [client.get("/me").text for client in [*arrived, *late]]
    assert "tea" == late[-1].get("/basket").text


def test_from_signed_cookies(
    cookie_site: Flask, after_cookies: Site, driver_uri: str
) -> None:
    """Each cookie opens a session once."""
    [cookie] = logged_in(cookie_site, "ann")
    new = after_cookies()
    client = browser(new, cookie)
    assert ["ann", "ann"] == [client.get("/me").text for _ in range(2)]
    assert "nobody" == browser(new, cookie).get("/me").text
