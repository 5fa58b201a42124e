"""The example of ``examples/devices``, as people see it: in Chromium, with two
profiles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

pytest.importorskip(
    "playwright",
    reason="Driving a browser needs playwright, which the nox session browser"
    " installs: sh tools/nox.sh -s browser",
)

from tests.helpers import on

from .conftest import PASSWORD

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .conftest import Site, Visitor


#: For what no database has a part in.
ON_ONE_DATABASE = pytest.mark.parametrize(
    "running_site", on("sqlite-file"), indirect=True
)


def test_each_profile_sees_both_and_which_one_it_is(
    computer: Visitor, phone: Visitor
) -> None:
    """A user logged in on two devices finds both in the list, on each the right one
    marked as this device.
    """
    computer.log_in()
    phone.log_in()
    computer.open()
    assert [("Chrome on Linux", True), ("Safari on iPhone", False)] == (
        computer.devices()
    )
    assert [("Safari on iPhone", True), ("Chrome on Linux", False)] == phone.devices()


def test_one_profile_ends_the_other(
    computer: Visitor, phone: Visitor, browser: Browser
) -> None:
    """A session that is ended from another device is logged out at its next click, and
    its cookie opens nothing in any browser. The device that ended it stays logged in.
    """
    computer.log_in()
    phone.log_in()
    stolen = phone.token()
    assert phone.opens(stolen, browser)
    computer.open()
    computer.click("Log out Safari on iPhone")
    assert "That device is logged out." == computer.message()
    assert [("Chrome on Linux", True)] == computer.devices()

    phone.click("Log out everywhere else")
    assert ("Log in", "You are not logged in here.") == (
        phone.heading(),
        phone.message(),
    )
    assert not phone.opens(stolen, browser)
    assert computer.is_logged_in()


def test_the_token_changes_at_login_and_logout(
    site: Site, computer: Visitor, browser: Browser
) -> None:
    """Login and logout each give the browser a new token, and the one before opens
    nothing: neither what was planted before the login nor what was kept from before the
    logout (OWASP ASVS 5.0, 7.2.4).
    """
    computer.open()
    before = computer.token()
    computer.log_in()
    during = computer.token()
    assert computer.opens(during, browser)
    assert not computer.opens(before, browser)
    computer.click("Log out here")
    assert "Log in" == computer.heading()
    assert 3 == len({before, during, computer.token()})
    assert not computer.opens(during, browser)
    assert set() == site.handles()


def test_log_out_everywhere_else(
    computer: Visitor, phone: Visitor, browser: Browser
) -> None:
    """The other device is out, and so is whoever had a copy of this one's cookie."""
    computer.log_in()
    phone.log_in()
    stolen = computer.token()
    computer.click("Log out everywhere else")
    assert "Logged out on other devices: 1." == computer.message()
    assert [("Chrome on Linux", True)] == computer.devices()
    assert not phone.is_logged_in()
    assert not computer.opens(stolen, browser)
    assert computer.is_logged_in()


def test_a_new_password_logs_out_elsewhere(computer: Visitor, phone: Visitor) -> None:
    """After a change of the password only the device that made it is logged in, and
    only the new password logs in. A wrong old one changes nothing.
    """
    computer.log_in()
    phone.log_in()
    # There for managers of passwords alone.
    assert computer.tab.locator("[autocomplete=username]").is_hidden()
    computer.change_password("a wrong one", "a much better one")
    assert "That is not your password. Nothing has changed." == computer.message()
    assert phone.is_logged_in()
    computer.change_password(PASSWORD, "a much better one")
    assert [("Chrome on Linux", True)] == computer.devices()
    phone.log_in()
    assert "That name and password do not belong together." == phone.message()
    phone.log_in("a much better one")
    assert "Where you are logged in" == phone.heading()


def test_a_device_with_a_name(computer: Visitor, phone: Visitor) -> None:
    """It is in the list of each device, until it is taken back."""
    computer.log_in()
    phone.log_in()
    computer.tab.get_by_label("Name in the list").fill("Work <laptop>")
    computer.click("Name it")
    assert ("Work <laptop>", True) == computer.devices()[0]
    phone.open()
    assert ("Work <laptop>", False) in phone.devices()
    computer.tab.get_by_label("Name in the list").fill("")
    computer.click("Name it")
    assert ("Chrome on Linux", True) == computer.devices()[0]


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_slow_request_does_not_bring_a_session_back(
    site: Site, computer: Visitor, phone: Visitor, when: str
) -> None:
    """A request that was under way when its session was ended from another device does
    not bring it back, whether it had read the session before that or reads it after.
    """
    phone.log_in()
    slow = site.slow(phone.tab, when)
    computer.log_in()
    computer.click("Log out Safari on iPhone")
    only = site.handles()
    assert 1 == len(only)
    assert ("user 1" if when == "early" else "user None") == slow.finish()
    assert only == site.handles()
    assert not phone.is_logged_in()


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_slow_tab_does_not_log_the_browser_out(
    site: Site, computer: Visitor, when: str
) -> None:
    """A request of a second tab that was under way with the old token while the first
    one logged in neither gets the new session nor takes the new cookie away.
    """
    computer.open()
    second = computer.context.new_page()
    second.goto(site.address)
    slow = site.slow(second, when)
    computer.log_in()
    token = computer.token()
    assert "user None" == slow.finish()
    assert token == computer.token()
    assert computer.is_logged_in()


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_slow_tab_does_not_undo_a_logout(
    site: Site, computer: Visitor, when: str
) -> None:
    """A request of a second tab that was under way while the first one logged out does
    not log the browser in again.
    """
    computer.log_in()
    second = computer.context.new_page()
    second.goto(site.address)
    slow = site.slow(second, when)
    computer.click("Log out here")
    assert ("user 1" if when == "early" else "user None") == slow.finish()
    assert set() == site.handles()
    assert not computer.is_logged_in()


@ON_ONE_DATABASE
def test_the_cookie_as_the_browser_keeps_it(computer: Visitor) -> None:
    """The browser takes the cookie as it is set: scripts cannot read it, other sites'
    forms go without it, and it lasts as long as the session does unused.
    """
    computer.log_in()
    cookie = computer.cookie()
    now = computer.tab.evaluate("Date.now() / 1000")
    expected = ("session", "/", "127.0.0.1", True, False, "Lax")
    keys = ("name", "path", "domain", "httpOnly", "secure", "sameSite")
    assert expected == tuple(cookie.get(key) for key in keys)
    assert 31 * 24 * 3600 == pytest.approx(cookie["expires"] - now, abs=120)
    assert "" == computer.tab.evaluate("document.cookie")


@ON_ONE_DATABASE
def test_the_form_of_another_site_does_nothing(
    site: Site, computer: Visitor, phone: Visitor
) -> None:
    """A form on another site ends nobody's session, not even by the cookie that its
    answer sets.
    """
    computer.log_in()
    phone.log_in()
    before = site.handles()
    for action in ("logout", "end-others"):
        computer.tab.goto(
            "data:text/html,<form method=post><button>Win</button></form>"
        )
        computer.tab.evaluate(
            "address => { document.forms[0].action = address }",
            f"{site.address}/{action}",
        )
        computer.click("Win")
        assert "Where you are logged in" == computer.heading()
    assert before == site.handles()


@ON_ONE_DATABASE
@pytest.mark.parametrize("width", [1280, 390])
def test_the_pages_fit_and_ask_nobody_else(
    site: Site, computer: Visitor, phone: Visitor, width: int
) -> None:
    """On a wide screen and on a narrow one nothing stands beyond its edge, even with
    the longest address. The pages ask no other site for anything, and the browser has
    nothing to complain about.
    """
    hosts, complaints = set(), []
    computer.tab.on("request", lambda sent: hosts.add(urlsplit(sent.url).netloc))
    computer.tab.on("console", lambda message: complaints.append(message.text))
    phone.log_in()
    with site.database.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE flask_sessionsql"
            " SET address = 'fe80:1234:5678:9abc:def0:1234:5678:9abc'"
        )
    computer.tab.set_viewport_size({"width": width, "height": 844})
    beyond = (
        "[...document.querySelectorAll('body *:not(.hidden)')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth).length"
        " + Math.max(0, document.documentElement.scrollWidth - innerWidth)"
    )
    computer.open()
    assert 0 == computer.tab.evaluate(beyond)
    computer.log_in()
    assert [("Chrome on Linux", True), ("Safari on iPhone", False)] == (
        computer.devices()
    )
    assert 0 == computer.tab.evaluate(beyond)
    assert ({urlsplit(site.address).netloc}, []) == (hosts, complaints)
