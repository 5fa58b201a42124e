"""The page "When the database fails": what visitors see and what the log says is tried
with databases that fail in that way.
"""

from __future__ import annotations

import logging
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy

from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Cut, limited_user, locked_file, on, store_of
from tests.integration.helpers import add_views, browser_with
from tests.integration.helpers import visit as visit_view
from tests.integration.test_faults import read_only
from tests.pages import page
from tests.throwaway import free_port

TABLE = "flask_sessionsql"
PREFIX = "The database of the sessions cannot be used: "
#: What the page says of pages that use the session: what reading and writing give.
STATUSES = {
    "503": (503, 503),
    "503, late": (503, 503),
    "503 on writes": (200, 503),
    "500": (500, 500),
    "500 on writes": (200, 500),
}


def rows(of_one_session: bool = False) -> dict[str, tuple[str, str]]:
    """What the page says: by what fails, what visitors see and what the log says."""
    text = page("guides/database-down").split("These concern one session")[
        of_one_session
    ]
    found = re.findall(r"^   \* - .*\n(?:     .*\n)+", text, re.M)
    cells = [[" ".join(c.split()) for c in row[7:].split("\n     - ")] for row in found]
    return {what: (status, line.strip("`")) for what, status, line, _ in cells[1:]}


@dataclass(frozen=True)
class Making:
    """What a case is made with."""

    database: MakeDatabase
    app: MakeApp
    folder: Path

    def shop(self, uri: str, **settings: Any) -> Flask:
        """An application as visitors meet it."""
        app = self.app(uri, **settings)
        app.testing = False
        return add_views(app)


Case = Callable[[Making, str], AbstractContextManager[Flask]]
#: By what fails: how that is made, and with which database.
CASES: dict[str, tuple[Case, str]] = {}


def case(what: str, backend: str) -> Callable[[Any], Any]:
    """What fails, in the words of the page."""

    def add(function: Any) -> Any:
        CASES[what] = contextmanager(function), backend
        return function

    return add


@case("PostgreSQL is down, or refuses connections", "postgresql")
@case("MariaDB is down, or refuses connections", "mariadb")
def refusing(making: Making, backend: str) -> Iterator[Flask]:
    url = sa.make_url(making.database(backend)).set(port=free_port())
    yield making.shop(url.render_as_string(hide_password=False))


@case("PostgreSQL is silent", "postgresql")
@case("MariaDB is silent", "mariadb")
def silent(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    cut = Cut(uri)
    cut.fall_silent()
    with ExitStack() as stack:
        stack.callback(cut.close)
        yield making.shop(cut.uri, SESSION_DATABASE_TIMEOUT=1)


@case("MariaDB refuses the password", "mariadb")
def wrong_password(making: Making, backend: str) -> Iterator[Flask]:
    with limited_user(making.database(backend), None) as limited:
        url = sa.make_url(limited).set(password="wrong")
        yield making.shop(url.render_as_string(hide_password=False))


@case("PostgreSQL has no database of that name", "postgresql")
@case("MariaDB has no database of that name", "mariadb")
def no_database(making: Making, backend: str) -> Iterator[Flask]:
    url = sa.make_url(making.database(backend)).set(database="shop")
    yield making.shop(url.render_as_string(hide_password=False))


@case("PostgreSQL takes no more connections", "postgresql")
def too_many_connections(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    with limited_user(uri, None) as limited:
        name = sa.make_url(limited).username
        run(uri, f"ALTER ROLE {name} CONNECTION LIMIT 0")
        yield making.shop(limited)


@case("the pool is exhausted", "postgresql")
def exhausted_pool(making: Making, backend: str) -> Iterator[Flask]:
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.1}
    app = making.shop(making.database(backend), SQLALCHEMY_ENGINE_OPTIONS=options)
    with store_of(app).engine.connect():
        yield app


@case("the server is read-only", "postgresql")
def read_only_server(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    making.shop(uri).test_client().get("/set/a/1")
    yield making.shop(read_only(uri))


@case("PostgreSQL's ``lock_timeout`` has passed", "postgresql")
@case("MariaDB's ``innodb_lock_wait_timeout`` has passed", "mariadb")
def locked_rows(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    option = {
        "postgresql": ("options", "-c lock_timeout=100"),
        "mariadb": ("init_command", "SET SESSION innodb_lock_wait_timeout = 1"),
    }[backend]
    url = sa.make_url(uri).update_query_dict(dict([option]))
    app = making.shop(url.render_as_string(hide_password=False))
    yield from stored(app, partial(held, uri))


@contextmanager
def held(uri: str) -> Iterator[None]:
    """Somebody has changed all rows, and does not commit."""
    engine = sa.create_engine(uri, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {TABLE} SET version = version + 0"))
        yield


def stored(app: Flask, failing: Callable[[], Any]) -> Iterator[Flask]:
    """An application with a session that is stored before it fails."""
    browser = app.test_client()
    browser.get("/set/a/1")
    app.extensions["browser"] = browser
    with failing():
        yield app


@case("a SQLite file is locked", "sqlite-file")
def locked_sqlite(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    app = making.shop(uri, SQLALCHEMY_ENGINE_OPTIONS={"connect_args": {"timeout": 0.1}})
    yield from stored(app, partial(locked_file, uri))


@case("the disk is full (SQLite)", "sqlite-file")
def full_disk(making: Making, backend: str) -> Iterator[Flask]:
    uri = f"sqlite:///{making.folder}/full.db"
    db = SQLAlchemy()
    app = making.app(uri, before=db.init_app)
    app.testing = False

    def limit(connection: sqlite3.Connection, record: object) -> None:
        connection.execute("PRAGMA max_page_count = 20")

    with app.app_context():
        sa.event.listen(db.engine, "connect", limit)

    @app.get("/set/<key>/<value>")
    def fill(key: str, value: str) -> str:
        session[key] = secrets.token_hex(100_000)
        return "ok"

    @app.get("/get/<key>")
    def get(key: str) -> str:
        return str(session.get(key))

    yield app
    with app.app_context():
        db.engine.dispose()


@case("a SQLite file is damaged", "sqlite-file")
def damaged_file(making: Making, backend: str) -> Iterator[Flask]:
    (making.folder / "damaged.db").write_bytes(b"This is no database. " * 1000)
    yield making.shop(f"sqlite:///{making.folder}/damaged.db")


@case("the table is missing", "postgresql")
def missing_table(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    yield making.shop(uri, SESSION_CREATE_TABLE=False)


@case("the table lacks a column", "postgresql")
def missing_column(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    making.shop(uri).test_client().get("/set/a/1")
    run(uri, f"ALTER TABLE {TABLE} DROP COLUMN label")
    yield making.shop(uri)


@case("the database's user lacks a right", "postgresql")
def missing_right(making: Making, backend: str) -> Iterator[Flask]:
    uri = making.database(backend)
    making.shop(uri).test_client().get("/set/a/1")
    with limited_user(uri, None) as limited:
        yield making.shop(limited)


def run(uri: str, statement: str) -> None:
    engine = sa.create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def test_the_page_has_these_cases() -> None:
    """Each row of the table is tried."""
    assert [*rows()] == [what for what in rows() if what in CASES]
    assert {*CASES} == {*rows()}


@pytest.mark.parametrize(
    ("what", "backend"),
    [
        pytest.param(what, *each.values, marks=each.marks)
        for what, (_, backend) in CASES.items()
        for each in on(backend)
    ],
)
def test_what_fails(
    what: str,
    backend: str,
    make_empty_database: MakeDatabase,
    make_app: MakeApp,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Visitors see, and the log says, what the page says."""
    status, line = rows()[what]
    making = Making(make_empty_database, make_app, tmp_path)
    with CASES[what][0](making, backend) as app:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            statuses = visit(app)
    store_of(app).dispose()

    assert STATUSES[status] == statuses
    [said] = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert in_words_of_the_page(said).startswith(PREFIX + line)


def visit(app: Flask) -> tuple[int, int]:
    """What a page gives that reads its session, and one that writes."""
    browser = app.extensions.get("browser") or browser_with(app, "x" * 67)
    statuses = [browser.get(path).status_code for path in ("/get/a", "/set/a/2")]
    return statuses[0], statuses[1]


def in_words_of_the_page(line: str) -> str:
    """A line of the log, with the port and the user that the page has."""
    return re.sub(r"sessionsql_\w+", "shop", re.sub(r"port \d+", "port 5432", line))


def test_what_concerns_one_session(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that cannot be read, and a session that cannot be stored, as the page says:
    the status and the line.
    """
    app = add_views(make_app("sqlite://"))
    app.testing = False
    browser = app.test_client()
    browser.get("/set/a/1")
    with store_of(app).engine.connect() as connection:
        connection.execute(sa.text(f"UPDATE {TABLE} SET data = x'0199'"))
    given = []
    for client, view in (
        (browser, lambda: str(session.get("a"))),
        (app.test_client(), lambda: store("x" * 3_000_000)),
        (app.test_client(), lambda: store(object())),
    ):
        caplog.clear()
        status = visit_view(client, view).status_code
        given.append((str(status), warning(caplog)))

    assert [*rows(of_one_session=True).values()] == given


def store(value: object) -> str:
    session["a"] = value
    return "ok"


def warning(caplog: pytest.LogCaptureFixture) -> str:
    """The first line of the log, or the error that it shows, with the page's handle."""
    [record, *_] = [each for each in caplog.records if each.levelno > logging.INFO]
    said = record.exc_info[1] if record.exc_info else record.getMessage()
    return re.sub(r"'\w{16}'", "'lgk42dp33np9gsnb'", str(said))
