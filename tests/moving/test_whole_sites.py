"""Whole sites move while they are visited, and the servers are killed meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conftest import MakeDatabase
from tests.helpers import gunicorn, on, wait_until

#: In the nox session 'moving' a thousand.
BROWSERS = int(os.environ.get("SESSIONSQL_BROWSERS", "60"))
ROOT = Path(__file__).parents[2]
SITE = "tests.moving.sites:new_site()"
#: Where nox has put the versions of Flask-Session that are tried.
VERSIONS = os.environ.get("SESSIONSQL_FLASK_SESSIONS")

needs_versions = pytest.mark.skipif(
    VERSIONS is None,
    reason="The nox session 'moving' installs each version of Flask-Session",
)


def old_cookies(kind: str, address: str, number: int, version: str = "") -> list[str]:
    """The cookies of browsers of the old site, in its own process."""
    path = [str(Path(VERSIONS) / version)] if version and VERSIONS else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.moving.sites", kind, address, str(number)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*path, str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    cookies: list[str] = json.loads(done.stdout)
    return cookies


class Browser:
    """A browser, which keeps its cookie and asks again if it gets no answer."""

    def __init__(self, port: int, cookie: str) -> None:
        self.port = port
        self.cookie = cookie
        #: How many requests got no answer.
        self.lost = 0

    def get(self, path: str) -> str:
        until = time.monotonic() + 60
        while True:
            try:
                return self._get(path)
            except (OSError, http.client.HTTPException):
                self.lost += 1
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            cookies = {"Cookie": f"session={self.cookie}"} if self.cookie else {}
            connection.request("GET", path, headers=cookies)
            answer = connection.getresponse()
            text = answer.read().decode()
            assert answer.status == 200, text
        finally:
            connection.close()
        for line in answer.headers.get_all("Set-Cookie") or []:
            self.cookie = line.partition(";")[0].partition("=")[2]
        return text


def rows(address: str, table: str, where: str = "1 = 1") -> int:
    engine = sa.create_engine(address)
    with engine.connect() as connection:
        found = connection.scalar(
            sa.text(f"SELECT COUNT(*) FROM {table} WHERE {where}")
        )
    engine.dispose()
    return int(found or 0)


def booted(folder: Path) -> list[int]:
    """The workers of the server that have begun, the newest last."""
    log = (folder / "gunicorn.log").read_text()
    return [int(line.split(": ")[-1]) for line in log.splitlines() if "pid: " in line]


def visit(
    folder: Path, address: str, kind: str, browsers: list[str], kills: int
) -> tuple[list[list[str]], list[Browser]]:
    """Each browser comes three times; so often meanwhile, the workers of the server are
    killed. Gives what each browser saw.
    """
    done, lock = 0, threading.Lock()
    due = [len(browsers) * (number + 1) // (kills + 1) for number in range(kills)]

    def come(browser: Browser) -> list[str]:
        nonlocal done
        seen = [browser.get("/me")]
        with lock:
            done += 1
            if done in due:
                for worker in booted(folder)[-2:]:
                    os.kill(worker, signal.SIGKILL)
        return [*seen, browser.get("/put/tea"), browser.get("/me")]

    environment = {**os.environ, "SHOP_DATABASE": address, "SHOP_ADOPT": kind}
    environment["PYTHONPATH"] = str(ROOT)
    options = {"cwd": ROOT, "env": environment}
    with gunicorn(folder, "--workers=2", "--preload", app=SITE, **options) as port:
        wait_until(lambda: len(booted(folder)) == 2)
        all_of_them = [Browser(port, cookie) for cookie in browsers]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(come, all_of_them))
    return found, all_of_them


def of_user(number: int) -> list[str]:
    name = f"user{number}"
    return [f"{name} {name}", name, f"{name} {name} tea"]


@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql", "mariadb"))
def test_browsers_of_flask_session(
    backend: str, make_empty_database: MakeDatabase, tmp_path: Path
) -> None:
    """All browsers come while the workers are killed four times. Before the move nine
    of ten were logged in, and one had logged out; so it is afterwards. Each has one
    session, with what it put into it.
    """
    address = make_empty_database(backend)
    cookies = old_cookies("flask-session", address, BROWSERS)
    live = [number for number in range(BROWSERS) if number % 10 != 9]
    assert len(live) == rows(address, "sessions")
    found, _ = visit(tmp_path, address, "flask-session", cookies, kills=4)

    for number, seen in enumerate(found):
        expected = of_user(number) if number % 10 != 9 else ["- ", "-", "- "]
        # A request that was killed after it had put something was made again.
        assert expected == [each.replace("tea tea", "tea") for each in seen]
    assert 0 == rows(address, "sessions")
    assert len(live) == rows(address, "flask_sessionsql", "user_id IS NOT NULL")
    assert len(live) == rows(address, "flask_sessionsql", "handle != ''")


@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql", "mariadb"))
def test_browsers_with_cookies(
    backend: str, make_empty_database: MakeDatabase, tmp_path: Path
) -> None:
    """All browsers come with signed cookies, while the workers are killed four times.
    Only a browser whose first answer was cut off may have to log in again, which
    is at most one for each worker that was killed. None has two sessions, and no cookie
    works again.
    """
    address = make_empty_database(backend)
    cookies = old_cookies("cookie", address, BROWSERS)
    found, browsers = visit(tmp_path, address, "cookie", cookies, kills=4)
    out = [number for number, seen in enumerate(found) if seen[0] == "- "]

    for number, seen in enumerate(found):
        if number not in out:
            assert of_user(number) == [each.replace("tea tea", "tea") for each in seen]
    print(f"{len(out)} browsers of {BROWSERS} have to log in again")
    assert len(out) <= 8
    assert {*out} <= {number for number, each in enumerate(browsers) if each.lost}
    users = "user_id IS NOT NULL"
    assert BROWSERS == rows(address, "flask_sessionsql", users)
    assert BROWSERS == rows(address, "flask_sessionsql", "handle = ''")
    again, _ = visit(tmp_path, address, "cookie", cookies[::20], kills=0)
    assert [["- ", "-", "- "]] * len(cookies[::20]) == again


@needs_versions
@pytest.mark.parametrize("version", ["0.7.0", "0.8.0"])
@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql", "mariadb"))
def test_versions(
    backend: str, version: str, make_empty_database: MakeDatabase, tmp_path: Path
) -> None:
    """What each version of Flask-Session stored is taken over."""
    address = make_empty_database(backend)
    cookies = old_cookies("flask-session", address, 20, version)
    found, _ = visit(tmp_path, address, "flask-session", cookies, kills=0)

    assert [of_user(n) if n % 10 != 9 else ["- ", "-", "- "] for n in range(20)] == (
        found
    )


@needs_versions
@pytest.mark.parametrize("version", ["0.5.0", "0.6.0"])
@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql", "mariadb"))
def test_versions_that_pickle(
    backend: str, version: str, make_empty_database: MakeDatabase, tmp_path: Path
) -> None:
    """What older versions stored is left as it is."""
    address = make_empty_database(backend)
    cookies = old_cookies("flask-session", address, 20, version)
    left = rows(address, "sessions")
    found, _ = visit(tmp_path, address, "flask-session", cookies, kills=0)

    assert [["- ", "-", "- "]] * 20 == found
    assert left == rows(address, "sessions") >= 18
