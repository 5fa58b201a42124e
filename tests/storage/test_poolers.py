"""What users see where PgBouncer stands before the server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session

from flask_sessionsql import Session, SessionConfigError
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import at_once, store_of, wait_until

SESSIONS = Session()

SETTINGS = """
[databases]
* = host={url.host} port={port} user={url.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = 2
"""


@contextmanager
def pgbouncer(uri: str, mode: str) -> Iterator[str]:
    """PgBouncer before a server, with two connections for everybody; its address."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        message = "PgBouncer is not installed. Install it, such as Debian's pgbouncer."
        if os.environ.get("SESSIONSQL_REQUIRE_SERVERS"):
            pytest.fail(message)
        pytest.skip(message)
    url = sa.make_url(uri)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own_port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            SETTINGS.format(
                url=url, port=url.port or 5432, own_port=own_port, mode=mode
            )
        )
        Path(folder).chmod(0o755)
        # It does not run as root.
        user = "nobody" if os.getuid() == 0 else None
        server = subprocess.Popen([program, "-q", settings], user=user)
        try:
            wait_until(partial(answers, own_port), 20)
            yield url.set(host="127.0.0.1", port=own_port).render_as_string(False)
        finally:
            server.terminate()
            server.wait(20)


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


@pytest.fixture
def pooled(make_empty_database: MakeDatabase) -> Iterator[Callable[[str], str]]:
    """Gives the address of a pooler, in a mode, before an empty database."""
    with ExitStack() as stack:

        def start(mode: str) -> str:
            uri = make_empty_database("postgresql")
            return stack.enter_context(pgbouncer(uri, mode))

        yield start


def make_shop(make_app: MakeApp, uri: str, **config: Any) -> Flask:
    """An application with a basket and logins."""
    app = make_app(uri, SESSION_MAX_PER_USER=2, **config)

    @app.get("/put")
    def put() -> str:
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    @app.get("/look")
    def look() -> str:
        return str(session.get("count", 0))

    @app.get("/login/<user>")
    def login(user: str) -> str:
        session["_user_id"] = user
        return "ok"

    return app


def shops(apps: list[Flask], number: int) -> list[str]:
    """One browser's requests, at these applications in turns; what is answered."""
    browsers = [app.test_client() for app in apps]
    told = []
    for visit in range(40):
        browser = browsers[visit % len(browsers)]
        path = f"/login/{number}" if visit % 15 == 14 else ("/put", "/look")[visit % 2]
        response = browser.get(path)
        told.append(response.text if response.status_code == 200 else response.status)
        found = browser.get_cookie("session")
        assert found is not None
        for each in browsers:
            each.set_cookie("session", found.value)
    return told


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.postgresql
def test_a_pooler_that_shares_connections(
    make_app: MakeApp, pooled: Callable[[str], str], mode: str, driver: str
) -> None:
    """Browsers that shop at two applications at once: no request fails, and each finds
    what it has put into its own basket.
    """
    pytest.importorskip(driver, reason=f"{driver} is not installed: nox -s drivers")
    uri = pooled(mode).replace("psycopg", driver)
    # A pooler that gives a connection for as long as it is open has two for all.
    options = {"pool_size": 1, "max_overflow": 0}
    apps = [
        make_shop(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=options) for _ in range(2)
    ]
    results = at_once([partial(shops, apps, number) for number in range(6)])
    once = shops(apps, 6)
    assert results == [once] * 6
    assert once[:4] == ["1", "1", "2", "2"]
    with apps[0].app_context():
        assert len(SESSIONS.user_sessions("3")) == 1
        assert SESSIONS.revoke_all() == 7
    purged = apps[0].test_cli_runner().invoke(args=["sessions", "purge"])
    assert purged.exit_code == 0


@pytest.mark.postgresql
def test_what_to_set_is_told_once(
    make_app: MakeApp,
    pooled: Callable[[str], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever sets it is not warned."""
    uri = pooled("transaction")
    app = make_shop(make_app, uri)
    assert at_once([partial(shops, [app], n) for n in range(4)])
    told = [each for each in caplog.messages if "pooler" in each]
    assert len(told) == 1
    assert "prepare_threshold" in told[0]
    caplog.clear()
    options = {"connect_args": {"prepare_threshold": None}}
    shops([make_shop(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=options)], 1)
    assert caplog.messages == []


@pytest.mark.postgresql
def test_without_a_pooler_statements_are_prepared(
    make_app: MakeApp, make_database: MakeDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    """As psycopg does it, which makes them cheaper."""
    app = make_shop(make_app, make_database("postgresql"))
    shops([app], 1)
    with store_of(app).engine.connect() as connection:
        prepared = sa.text("SELECT count(*) FROM pg_prepared_statements")
        assert connection.scalar(prepared)
    assert caplog.messages == []


@pytest.mark.postgresql
def test_a_pooler_that_refuses_transactions(
    make_app: MakeApp, pooled: Callable[[str], str]
) -> None:
    """The error says why nothing works, and what to set."""
    app = make_shop(make_app, pooled("statement"))
    with pytest.raises(SessionConfigError, match="pool_mode"):
        app.test_client().get("/put")


@pytest.mark.postgresql
def test_statements_that_are_prepared_all_the_same(
    make_app: MakeApp, pooled: Callable[[str], str]
) -> None:
    """As the application has told psycopg to: the error says what to set."""
    options = {"connect_args": {"prepare_threshold": 0}}
    uri = pooled("transaction")
    apps = [
        make_shop(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=options) for _ in range(2)
    ]
    errors = [
        each
        for each in at_once([partial(shops, apps, n) for n in range(6)])
        if isinstance(each, Exception)
    ]
    assert errors
    assert {type(each) for each in errors} == {SessionConfigError}
    assert "prepare_threshold" in str(errors[0])
