"""A server that takes no writes any more, while another one at its address does: what
users see of a fail-over.

The servers here are throwaway ones: what makes them read-only holds for all who use
them. A connection that is open stays read-only, and a new one is not.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import session

from tests.conftest import MakeApp
from tests.helpers import at_once, on, store_of, wait_until
from tests.integration.helpers import add_views, same_browser


def find(program: str) -> str:
    """A server's program, wherever Debian and others put it."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/sbin")]
    path = os.pathsep.join([os.environ["PATH"], *map(str, places)])
    found = shutil.which(program, path=path)
    if found is None:
        message = f"{program} is not installed. Install PostgreSQL and MariaDB."
        if os.environ.get("SESSIONSQL_REQUIRE_SERVERS"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    command: list[str], uri: str, end: signal.Signals, **options: Any
) -> Iterator[sa.Engine]:
    """A server that was set up; gives its administrator's engine.

    :param end: tells it to end without waiting for those who are connected.
    """
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command, **quiet, **options)
    admin = sa.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def answers() -> bool:
        with suppress(sa.exc.OperationalError):
            admin.connect().close()
            return True
        return False

    try:
        wait_until(answers, 60)
        yield admin
    finally:
        server.send_signal(end)
        server.wait(60)


@contextmanager
def folder_of(user: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder of this user's, and what runs a program as that user."""
    options: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if os.getuid() == 0:  # as which neither server runs
            options["user"] = user
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        yield Path(folder), options


@contextmanager
def postgresql() -> Iterator[sa.Engine]:
    with folder_of("postgres") as (folder, options):
        data, port = folder / "data", free_port()
        make = [
            find("initdb"),
            "-D",
            str(data),
            "-U",
            "app",
            "-A",
            "trust",
            "--no-sync",
        ]
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **options)
        settings = ["-c", "fsync=off", "-c", f"unix_socket_directories={folder}"]
        command = [find("postgres"), "-D", str(data), "-p", str(port), *settings]
        uri = f"postgresql+psycopg://app@127.0.0.1:{port}/postgres"
        with serving(command, uri, signal.SIGINT, cwd=folder, **options) as admin:
            yield admin


@contextmanager
def mariadb() -> Iterator[sa.Engine]:
    with folder_of("mysql") as (folder, options):
        data, port = folder / "data", free_port()
        make = [find("mariadb-install-db"), "--no-defaults", f"--datadir={data}"]
        make.append("--auth-root-authentication-method=normal")
        subprocess.run(make, check=True, capture_output=True, cwd=folder, **options)
        command = [
            *(find("mariadbd"), "--no-defaults", f"--datadir={data}"),
            *(f"--port={port}", "--bind-address=127.0.0.1"),
            *(f"--socket={folder / 'sock'}", "--skip-name-resolve"),
        ]
        uri = f"mysql+pymysql://root@127.0.0.1:{port}/test"
        place, end = uri.removesuffix("/test"), signal.SIGTERM
        with serving(command, place, end, cwd=folder, **options) as root:
            run(
                root,
                "CREATE DATABASE IF NOT EXISTS test",
                "CREATE USER app@127.0.0.1",
                "GRANT ALL ON test.* TO app@127.0.0.1",
            )
            yield sa.create_engine(
                uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
            )


def run(admin: sa.Engine, *statements: str) -> None:
    with admin.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


class Server:
    """One that can be demoted."""

    def __init__(self, admin: sa.Engine) -> None:
        self.admin = admin
        self.is_postgresql = admin.dialect.name == "postgresql"
        self.uri = admin.url.set(username="app").render_as_string(False)

    def demote(self) -> None:
        """Take no writes, neither on connections that are open nor on new ones."""
        if self.is_postgresql:
            change = "ALTER SYSTEM SET default_transaction_read_only = on"
            run(self.admin, change, "SELECT pg_reload_conf()")
            wait_until(partial(self._shows, "on"))
        else:
            run(self.admin, "SET GLOBAL read_only = 1")

    def _shows(self, value: str) -> bool:
        with self.admin.connect() as connection:
            shown = connection.exec_driver_sql("SHOW default_transaction_read_only")
            return bool(shown.scalar_one() == value)

    def let_in(self) -> None:
        """Take writes on new connections: another server is at the address."""
        if self.is_postgresql:
            # Without a transaction that is read-only itself.
            change = "ALTER ROLE app SET default_transaction_read_only = off"
            run(self.admin, "SET default_transaction_read_only = off", change)
        else:
            run(self.admin, "GRANT READ ONLY ADMIN ON *.* TO app@127.0.0.1")

    def restore(self) -> None:
        if self.is_postgresql:
            off = "SET default_transaction_read_only = off"
            change = "ALTER SYSTEM RESET default_transaction_read_only"
            run(self.admin, off, change, "SELECT pg_reload_conf()")
            run(self.admin, off, "ALTER ROLE app RESET default_transaction_read_only")
            wait_until(partial(self._shows, "off"))
            run(self.admin, "DROP TABLE IF EXISTS flask_sessionsql")
        else:
            run(self.admin, "SET GLOBAL read_only = 0")
            run(self.admin, "REVOKE READ ONLY ADMIN ON *.* FROM app@127.0.0.1")
            run(self.admin, "DROP TABLE IF EXISTS flask_sessionsql")


@pytest.fixture(scope="module")
def throwaway() -> Iterator[Callable[[str], Server]]:
    started: dict[str, Server] = {}
    with ExitStack() as stack:

        def start(backend: str) -> Server:
            if backend not in started:
                begin = {"postgresql": postgresql, "mariadb": mariadb}[backend]
                started[backend] = Server(stack.enter_context(begin()))
            return started[backend]

        yield start


@pytest.fixture(params=on("postgresql", "mariadb"))
def server(
    request: pytest.FixtureRequest, throwaway: Callable[[str], Server]
) -> Iterator[Server]:
    server = throwaway(request.param)
    yield server
    server.restore()


def test_a_switch_over_costs_nobody_anything(server: Server, make_app: MakeApp) -> None:
    """Whoever shops meanwhile goes on, in the same session, and is logged in."""
    app = add_views(make_app(server.uri))

    @app.get("/buy/<thing>")
    def buy(thing: str) -> str:
        session.setdefault("cart", []).append(thing)
        return "ok"

    ann, ben = app.test_client(), app.test_client()
    for browser, user in ((ann, "ann"), (ben, "ben")):
        assert browser.get(f"/set/_user_id/{user}").status_code == 200
        assert browser.get("/buy/tea").status_code == 200
    tabs = [same_browser(ann) for _ in range(4)]
    assert at_once([partial(look, tab) for tab in tabs]) == [200] * 4
    server.demote()
    server.let_in()
    jobs = enumerate(tabs)
    assert at_once([partial(buy_one, tab, str(n)) for n, tab in jobs]) == [200] * 4
    assert ben.get("/clear").status_code == 200
    assert ann.get("/get/_user_id").text == "'ann'"
    cart = ann.get("/all").json
    assert cart is not None
    assert sorted(cart["cart"]) == ["0", "1", "2", "3", "tea"]


def look(browser: Any) -> int:
    return int(browser.get("/get/cart").status_code)


def buy_one(browser: Any, thing: str) -> int:
    return int(browser.get(f"/buy/{thing}").status_code)


def test_while_no_server_takes_writes(server: Server, make_app: MakeApp) -> None:
    """Pages that read are served; others get a 503, and do not open connections by the
    hundred. When there is one again, everything works.
    """
    app = add_views(make_app(server.uri))
    client = app.test_client()
    client.get("/set/a/1")
    opened = []
    sa.event.listen(
        store_of(app).engine, "connect", lambda *arguments: opened.append(arguments)
    )
    server.demote()
    begun = time.monotonic()
    for _ in range(50):
        assert client.get("/set/a/2").status_code == 503
        assert client.get("/get/a").text == "'1'"
    assert len(opened) <= 2 + (time.monotonic() - begun)
    server.let_in()
    wait_until(lambda: client.get("/set/a/3").status_code == 200, 10)
    assert client.get("/get/a").text == "'3'"
