"""What the log says while the database is away, and what visitors get."""

from __future__ import annotations

import logging
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, Response, session
from flask.testing import FlaskClient
from werkzeug.exceptions import InternalServerError

from flask_sessionsql import SessionStoreUnavailableError, SessionTableError
from flask_sessionsql.storage import outages
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, Cut, at_once, on, store_of
from tests.integration.helpers import (
    Passing,
    add_views,
    browser_with,
    same_browser,
    visit,
)
from tests.integration.test_faults import UNREACHABLE, read_only

TABLE = "flask_sessionsql"


@pytest.fixture
def kept_table() -> None:
    """Tables are renamed here, and their rights changed."""


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> Passing:
    """The time from one line to the next, which the test lets pass."""
    passing = Passing()
    monkeypatch.setattr(outages, "time", passing)
    return passing


class Log:
    """The lines of the log, each time those since the last one."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO)

    def lines(self) -> list[str]:
        # SQLAlchemy tells of a pool of an earlier test when that is collected.
        given = self._caplog.records
        records = [each for each in given if not each.name.startswith("sqlalchemy")]
        self._caplog.clear()
        assert [] == [record for record in records if record.exc_info]
        assert [] == [r for r in records if "\n" in r.getMessage()]
        return [f"{r.levelname}: {r.getMessage()}" for r in records]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def in_production(app: Flask) -> Flask:
    """As an application runs where nobody sees its errors."""
    app.testing = False
    return add_views(app)


def somebody(app: Flask) -> FlaskClient:
    """A browser with a cookie, whose session is looked up."""
    return browser_with(app, "x" * 43)


def codes_of(client: FlaskClient, path: str = "/get/key", times: int = 50) -> set[int]:
    return {client.get(path).status_code for _ in range(times)}


@pytest.mark.parametrize("uri", UNREACHABLE)
def test_an_outage_is_one_line_a_minute(
    make_app: MakeApp, uri: str, passing: Passing, log: Log
) -> None:
    """The first one has the reason and what to look at, and those that follow how many
    requests it has hit since.
    """
    client = somebody(in_production(make_app(uri)))

    assert {503} == codes_of(client)
    [first] = log.lines()
    assert first.startswith("ERROR: The database of the sessions cannot be used: ")
    advice = "file's folder is there" if "sqlite" in uri else "server runs"
    assert advice in first

    passing.now += 59
    assert {503} == codes_of(client, times=5)
    assert [] == log.lines()
    passing.now += 2
    assert {503} == codes_of(client, times=2)
    [again] = log.lines()
    assert again.startswith("ERROR: The database of the sessions still cannot be used")
    assert again.endswith(" Requests that failed since: 55.")


@pytest.fixture
def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_the_end_of_an_outage_is_one_line(
    make_app: MakeApp,
    make_database: MakeDatabase,
    backend: str,
    closed_port: int,
    passing: Passing,
    log: Log,
) -> None:
    """As soon as the server is there, with the requests that nothing was said of."""
    uri = make_database(backend)
    away = sa.make_url(uri).set(port=closed_port)
    app = in_production(make_app(away.render_as_string(hide_password=False)))
    client = somebody(app)
    assert {503} == codes_of(client)
    assert 1 == len(log.lines())

    passing.now += 5
    with ExitStack() as stack:
        server = Cut(uri, closed_port)
        stack.callback(server.close)
        assert {200} == codes_of(client, times=3)
        # That the table is made is another thing to tell of.
        [over] = [line for line in log.lines() if "Created" not in line]
        store_of(app).dispose()
    assert over == (
        "WARNING: The database of the sessions works again, 5 s after that began."
        " Requests that failed since the last line: 49."
    )


def test_an_outage_after_an_outage(
    make_app: MakeApp, tmp_path: Path, passing: Passing, log: Log
) -> None:
    """Within a minute it is the same one, and nothing is said; later it is a new one.
    A database that fails and works by turns fills no log.
    """
    app = make_app(f"sqlite:///{tmp_path}/app.db")
    client = somebody(in_production(app))
    assert {200} == codes_of(client, times=1)
    log.lines()

    def turns(count: int) -> list[str]:
        for _ in range(count):
            with away(app):
                assert {503} == codes_of(client, times=2)
            assert {200} == codes_of(client, times=2)
        return [line.partition(",")[0].partition(":")[0] for line in log.lines()]

    assert ["ERROR", "WARNING"] == turns(10)
    passing.now += 61
    assert ["ERROR", "WARNING"] == turns(10)
    passing.now += 61
    assert {200} == codes_of(client, times=1)
    [rest] = log.lines()
    assert rest.endswith("Requests that failed since the last line: 18.")
    passing.now += 61
    assert {200} == codes_of(client, times=2)
    assert [] == log.lines()
    assert not store_of(app).database._outages.begun
    with away(app):
        assert {503} == codes_of(client)
    [line] = log.lines()
    assert "cannot be used" in line
    assert "still" not in line


def test_a_damaged_file_is_one_line(
    make_app: MakeApp, tmp_path: Path, log: Log
) -> None:
    """A SQLite file that holds something else is a 503, and the line says what to do
    with the file.
    """
    (tmp_path / "app.db").write_bytes(b"This is no database. " * 1000)
    app = in_production(make_app(f"sqlite:///{tmp_path}/app.db"))

    assert {503} == codes_of(somebody(app)) | codes_of(app.test_client(), "/set/a/1")
    [line] = log.lines()
    assert line.endswith(
        "cannot be used: file is not a database. The file is damaged, or no database:"
        " take it from a backup, or move it away."
    )


@contextmanager
def away(app: Flask) -> Iterator[None]:
    """No statement gets through meanwhile."""

    def fail(*_: object) -> None:
        raise sa.exc.OperationalError("", {}, Exception("the server is on fire"))

    engine = store_of(app).engine
    sa.event.listen(engine, "before_cursor_execute", fail)
    yield
    sa.event.remove(engine, "before_cursor_execute", fail)


def rename(app: Flask, before: str, after: str) -> None:
    with store_of(app).engine.connect() as connection:
        connection.execute(sa.text(f"ALTER TABLE {before} RENAME TO {after}"))


def test_a_missing_table_is_one_line(
    make_app: MakeApp, shared_database_uri: str, passing: Passing, log: Log
) -> None:
    """And an ordinary 500, whether it is read from or written to."""
    add_views(app := make_app(shared_database_uri)).test_client().get("/set/a/1")
    app = in_production(make_app(shared_database_uri, SESSION_CREATE_TABLE=False))
    log.lines()

    rename(app, TABLE, "elsewhere")
    assert {500} == codes_of(somebody(app))
    assert {500} == codes_of(app.test_client(), "/set/key/value")
    [line] = log.lines()
    assert line.startswith(
        "ERROR: The database of the sessions cannot be used: There is no table"
    )
    assert "Run the migration" in line
    passing.now += 61
    assert {500} == codes_of(somebody(app), times=1)
    [line] = log.lines()
    assert line.endswith(
        "create-table', or set SESSION_CREATE_TABLE = True. Requests that failed since:"
        " 100."
    )

    rename(app, "elsewhere", TABLE)
    assert {200} == codes_of(somebody(app))
    [line] = log.lines()
    assert "works again" in line


def test_a_missing_table_and_an_extension_that_reads_every_session(
    make_app: MakeApp, shared_database_uri: str, log: Log
) -> None:
    """Pages that need no session are what they are, and the log has the reason."""
    add_views(app := make_app(shared_database_uri)).test_client().get("/set/a/1")
    app = in_production(make_app(shared_database_uri, SESSION_CREATE_TABLE=False))

    @app.after_request
    def look(response: Response) -> Response:
        response.headers["X-User"] = session.get("user", "nobody")
        return response

    client = app.test_client()
    client.get("/set/user/ann")
    before = client.get("/")
    log.lines()
    rename(app, TABLE, "elsewhere")
    pages = [client.get(path) for path in ("/", "/get/user")]
    [line] = log.lines()
    rename(app, "elsewhere", TABLE)
    after = client.get("/")

    assert ("hello", "ann") == (before.text, before.headers["X-User"])
    assert [200, 500] == [page.status_code for page in pages]
    assert ("hello", "nobody") == (pages[0].text, pages[0].headers["X-User"])
    assert "There is no table" in line
    assert "ann" == after.headers["X-User"]


@pytest.fixture
def rights(make_database: MakeDatabase, backend: str) -> Iterator[Rights]:
    rights = Rights(make_database(backend))
    yield rights
    rights.close()


class Rights:
    """A user of the database who may do what a test says."""

    def __init__(self, uri: str) -> None:
        self._admin = sa.create_engine(
            uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        self.is_postgresql = self._admin.dialect.name == "postgresql"
        self.user = f"Shop{secrets.token_hex(4)}"
        self._account = f"'{self.user}'@'%'"
        if self.is_postgresql:
            self._account = f'"{self.user}"'
        login = "LOGIN" if self.is_postgresql else ""
        self.run(f"CREATE USER {self._account} {login}")
        #: The addresses for its owner and for this user.
        self.owner = uri
        self.uri = self._admin.url.set(username=self.user).render_as_string(False)

    def run(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(sa.text(statement))

    def grant(self, rights: str) -> None:
        self.run(f"GRANT {rights} ON {TABLE} TO {self._account}")

    def close(self) -> None:
        if self.is_postgresql:
            self.run(f"DROP OWNED BY {self._account}")
        self.run(f"DROP USER {self._account}")
        self._admin.dispose()


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_a_missing_right_is_one_line_with_the_grant(
    make_app: MakeApp, rights: Rights, log: Log
) -> None:
    """What can be done without it goes on, and is no end of the outage. The statement
    in the line gives the right.
    """
    add_views(make_app(rights.owner)).test_client().get("/set/a/1")
    rights.grant("SELECT, INSERT")
    app = in_production(make_app(rights.uri))
    client = app.test_client()
    assert {200} == codes_of(client, "/set/key/value", times=1)
    log.lines()

    for number in range(25):
        assert {500} == codes_of(client, f"/set/key/{number}", times=2)
        assert {200} == codes_of(client, times=1)
        assert {200} == codes_of(app.test_client(), "/set/new/one", times=1)
    [line] = log.lines()
    found = re.search(r"GRANT SELECT, INSERT, UPDATE, DELETE ON \S+ TO [^ ,]+", line)
    assert found
    assert f"lacks a right on the table '{TABLE}'" in line
    assert "command denied" in line or "permission denied" in line

    rights.run(found[0].rstrip("."))
    assert {200} == codes_of(client, "/set/key/other", times=2)
    [line] = log.lines()
    assert "works again" in line


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_a_missing_right_is_an_error_for_developers(
    make_app: MakeApp, rights: Rights
) -> None:
    """It names the table and shows no statement, and nothing that it came from."""
    add_views(make_app(rights.owner)).test_client().get("/set/a/1")
    if not rights.is_postgresql:
        rights.grant("DELETE")  # or there is no way into the database
    app = add_views(make_app(rights.uri))
    client = somebody(app)
    for browser, path in ((client, "/get/key"), (app.test_client(), "/set/key/value")):
        with pytest.raises(SessionTableError, match=f"{TABLE}.*GRANT SELECT") as caught:
            browser.get(path)
        assert caught.value.__suppress_context__
        assert "expires_at" not in str(caught.value)


@pytest.mark.parametrize("backend", on("mariadb"))
def test_a_database_that_is_closed_to_the_user(
    make_app: MakeApp, rights: Rights
) -> None:
    """Who may not even enter is told the same."""
    client = somebody(add_views(make_app(rights.uri)))
    with pytest.raises(SessionTableError, match=r"Access denied.*GRANT SELECT"):
        client.get("/get/key")


@pytest.mark.parametrize("backend", on("postgresql"))
def test_a_schema_that_is_closed_to_the_user(make_app: MakeApp, rights: Rights) -> None:
    """The right to enter it is named, too."""
    rights.run("CREATE SCHEMA web")
    options = {"SESSION_SQLALCHEMY_SCHEMA": "web"}
    owner = make_app(rights.owner, **options)
    add_views(owner).test_client().get("/set/a/1")
    client = somebody(add_views(make_app(rights.uri, **options)))
    expected = f'GRANT USAGE ON SCHEMA web TO "{rights.user}"'
    with pytest.raises(SessionTableError, match=expected):
        client.get("/get/key")


def test_where_nothing_can_be_written_reading_ends_no_outage(
    make_app: MakeApp,
    shared_database_uri: str,
    clock: Clock,
    passing: Passing,
    log: Log,
) -> None:
    """50 requests that write and 50 that read, by turns, are one line; and so is that
    their use could not be recorded.
    """
    client = add_views(make_app(shared_database_uri)).test_client()
    client.get("/set/a/1")
    app = in_production(make_app(read_only(shared_database_uri)))
    same = same_browser(client, app)
    log.lines()
    for _ in range(50):
        assert {503} == codes_of(same, "/set/a/2", times=1)
        assert {200} == codes_of(same, times=1)
    [line] = log.lines()
    assert "cannot be used" in line
    if "sqlite" in shared_database_uri:
        assert "app.db" in line
        assert "write to the file and to its folder" in line
    else:
        assert "takes no writes, as a replica does" in line

    clock.now += 24 * 3600
    assert {200} == codes_of(same)
    [line] = log.lines()
    assert "could not be recorded" in line
    passing.now += 61
    assert {200} == codes_of(same)
    again, noted = log.lines()
    assert "Requests that failed since: 100." in again
    assert "could not be recorded" in noted


def test_threads_tell_of_it_once(make_app: MakeApp, log: Log) -> None:
    """However many threads hit it at once, and see its end at once."""
    app = in_production(make_app("mysql+pymysql://root@127.0.0.1:1/none"))

    def visits() -> set[int]:
        return codes_of(somebody(app), times=20)

    assert [{503}] * 8 == at_once([visits] * 8)
    assert 1 == len(log.lines())


# What visitors get.


def test_visitors_are_asked_to_come_back(make_app: MakeApp) -> None:
    """A 503 has a Retry-After, whether the session was to be read or stored, and where
    the application's own handler returns the error.
    """
    app = in_production(make_app(UNREACHABLE[2]))
    other = in_production(make_app(UNREACHABLE[2]))
    other.register_error_handler(SessionStoreUnavailableError, lambda error: error)
    for each in (app, other):
        read = somebody(each).get("/get/key")
        stored = each.test_client().get("/set/key/value")
        assert (503, 503) == (read.status_code, stored.status_code)
        assert "10" == read.headers["Retry-After"] == stored.headers["Retry-After"]


@pytest.mark.parametrize("kind", [500, SessionTableError, InternalServerError])
def test_the_applications_own_page_for_a_missing_table(
    make_app: MakeApp, tmp_path: Path, kind: Any, log: Log
) -> None:
    """It gets what it would of any error, and may show it."""
    app = in_production(
        make_app(f"sqlite:///{tmp_path}/app.db", SESSION_CREATE_TABLE=False)
    )

    def page(error: Any) -> tuple[str, int]:
        return f"sorry: {error.original_exception}", 500

    app.register_error_handler(kind, page)
    for response in (
        somebody(app).get("/get/key"),
        app.test_client().get("/set/key/value"),
    ):
        assert 500 == response.status_code
        assert response.text.startswith(f"sorry: There is no table '{TABLE}'")
    assert 1 == len(log.lines())


@pytest.mark.parametrize("propagates", [True, False])
def test_developers_see_the_error_of_the_table(
    make_app: MakeApp, tmp_path: Path, propagates: bool
) -> None:
    """PROPAGATE_EXCEPTIONS says whether they do, as for any error."""
    app = make_app(
        f"sqlite:///{tmp_path}/app.db",
        SESSION_CREATE_TABLE=False,
        PROPAGATE_EXCEPTIONS=propagates,
    )
    client = somebody(add_views(app))
    if propagates:
        with pytest.raises(SessionTableError):
            client.get("/get/key")
    else:
        assert 500 == client.get("/get/key").status_code


def test_a_view_can_catch_the_error_of_the_table(
    make_app: MakeApp, tmp_path: Path
) -> None:
    """By its name, whatever it is in production."""
    app = in_production(
        make_app(f"sqlite:///{tmp_path}/app.db", SESSION_CREATE_TABLE=False)
    )

    def view() -> str:
        with suppress(SessionTableError):
            session.get("key")
        return "ok"

    assert "ok" == visit(somebody(app), view).text
