"""A real server with the example, and real browsers."""

from __future__ import annotations

import itertools
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.browsers import OPTIONS, browser, chromium, playwright
from tests.conftest import SHARED_BACKENDS, Servers, database_maker
from tests.helpers import gunicorn, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Cookie, Page, Playwright

__all__ = ["browser", "chromium", "playwright"]

ROOT = Path(__file__).parents[2]
#: What ``flask --app`` takes.
EXAMPLE = "examples/devices/devices.py"
PASSWORD = "a long one"  # of the only user
#: Seconds for the server to start.
PATIENCE = 120.0

PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1"
)


class Site:
    """The example on one database, served by two processes."""

    def __init__(self, address: str, database: sa.Engine, folder: Path) -> None:
        self.address = address
        self.database = database
        self._folder = folder
        self._numbers = itertools.count()

    def handles(self) -> set[str]:
        """The handles of the sessions in which somebody is logged in."""
        select = sa.text("SELECT handle FROM flask_sessionsql WHERE user_id = '1'")
        with self.database.connect() as connection:
            return set(connection.scalars(select))

    def reset(self) -> None:
        """Only the user is left, with the password that she began with."""
        with self.database.begin() as connection:
            connection.execute(sa.text("DELETE FROM flask_sessionsql"))
            connection.execute(sa.text("UPDATE users SET password_hash = first_hash"))

    def slow(self, tab: Page, when: str) -> SlowPage:
        """Let a tab ask for a slow page, and come back as soon as the request is under
        way.

        :param when: whether it reads the session ``"early"`` or ``"late"``.
        """
        name = f"page{next(self._numbers)}"
        address = f"{self.address}/slow/{when}/{name}"
        tab.evaluate(
            "address => { setTimeout(() => location.assign(address)) }", address
        )
        page = SlowPage(tab, address, self._folder / name)
        page.wait()
        return page


class SlowPage:
    """A page that a tab waits for."""

    def __init__(self, tab: Page, address: str, file: Path) -> None:
        self._tab, self._address, self._file = tab, address, file

    def wait(self) -> None:
        wait_until(self._file.with_suffix(".begun").exists)

    def finish(self) -> str:
        """Let the server answer; gives the page."""
        self._file.with_suffix(".go").touch()
        self._tab.wait_for_url(self._address)
        return self._tab.inner_text("body")


class Visitor:
    """Somebody at one browser profile."""

    def __init__(self, context: BrowserContext, site: Site) -> None:
        self.context = context
        self.site = site
        context.set_default_timeout(1000 * PATIENCE / 2)
        self.tab = context.new_page()

    def open(self) -> None:
        self.tab.goto(self.site.address)

    def log_in(self, password: str = PASSWORD) -> None:
        self.open()
        self.tab.get_by_label("Name").fill("ann")
        self.tab.get_by_label("Password").fill(password)
        self.click("Log in")

    def click(self, button: str) -> None:
        """Click a button, and wait for the page that comes of it."""
        with self.tab.expect_navigation():
            self.tab.get_by_role("button", name=button, exact=True).click()

    def change_password(self, old: str, new: str) -> None:
        self.tab.get_by_label("Current password").fill(old)
        self.tab.get_by_label("New password").fill(new)
        self.click("Change it, log out elsewhere")

    def heading(self) -> str:
        return self.tab.inner_text("h1")

    def message(self) -> str:
        return self.tab.get_by_role("status").inner_text()

    def is_logged_in(self) -> bool:
        """What a fresh look at the site shows."""
        self.open()
        return self.heading() == "Where you are logged in"

    def devices(self) -> list[tuple[str, bool]]:
        """The list on the page: the name of each device, and whether it is this one."""
        rows = self.tab.locator("tbody tr").all()
        names = [row.get_by_role("rowheader").inner_text().split("\n") for row in rows]
        return [(lines[0], "This device" in lines) for lines in names]

    def cookie(self) -> Cookie:
        """The cookie as the browser keeps it."""
        (cookie,) = self.context.cookies(self.site.address)
        return cookie

    def token(self) -> str:
        return self.cookie()["value"]

    def opens(self, token: str, browser: Browser) -> bool:
        """Whether a token that this browser had logs another one in, which gives
        itself out for this one.
        """
        agent = self.tab.evaluate("navigator.userAgent")
        with browser.new_context(user_agent=agent) as context:
            other = Visitor(context, self.site)
            cookie = {"name": "session", "value": token, "url": self.site.address}
            context.add_cookies([cookie])  # type: ignore[list-item]
            return other.is_logged_in()


@pytest.fixture(scope="session")
def profiles(
    chromium: str, playwright: Playwright, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BrowserContext, BrowserContext]]:
    """Two browsers with a profile each: a computer, and what says it is a phone."""
    computer, phone = (
        playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=chromium,
            args=OPTIONS,
            user_agent=agent,
        )
        for agent in (None, PHONE)
    )
    yield computer, phone
    computer.close()
    phone.close()


@pytest.fixture(scope="session", params=SHARED_BACKENDS)
def running_site(
    request: pytest.FixtureRequest,
    chromium: str,
    servers: Servers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The example, served by gunicorn."""
    folder = tmp_path_factory.mktemp("site")
    uri = database_maker(servers, folder)(request.param)
    environment = {
        **{name: value for name, value in os.environ.items() if name[:6] != "FLASK_"},
        "FLASK_SQLALCHEMY_DATABASE_URI": uri,
        "FLASK_SECRET_KEY": secrets.token_hex(),
        # What happens by chance is no good where single requests are looked at.
        "FLASK_SESSION_PURGE_INTERVAL": "0",
        "SLOW_FOLDER": str(folder),
    }
    subprocess.run(
        [
            *(sys.executable, "-m", "flask", "--app", EXAMPLE),
            *("add-user", "ann", "--password", PASSWORD),
        ],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=PATIENCE,
    )
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE users ADD first_hash VARCHAR(255)"))
        connection.execute(sa.text("UPDATE users SET first_hash = password_hash"))
    with gunicorn(
        folder,
        *("--workers=2", "--threads=4"),
        app="tests.browser.site:app",
        cwd=ROOT,
        env=environment,
    ) as port:
        yield Site(f"http://127.0.0.1:{port}", engine, folder)


@pytest.fixture
def site(running_site: Site) -> Site:
    """The example, in which nobody is logged in."""
    running_site.reset()
    return running_site


@contextmanager
def visitor(context: BrowserContext, site: Site) -> Iterator[Visitor]:
    """Somebody at a browser profile, which has no cookies."""
    context.clear_cookies()
    try:
        yield Visitor(context, site)
    finally:
        for tab in context.pages[1:]:  # without a tab, the browser ends
            tab.close()


@pytest.fixture
def computer(
    profiles: tuple[BrowserContext, BrowserContext], site: Site
) -> Iterator[Visitor]:
    """The first profile, with no cookies."""
    with visitor(profiles[0], site) as computer:
        yield computer


@pytest.fixture
def phone(
    profiles: tuple[BrowserContext, BrowserContext], site: Site
) -> Iterator[Visitor]:
    """The second profile, with no cookies."""
    with visitor(profiles[1], site) as phone:
        yield phone
