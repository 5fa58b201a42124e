"""Fixtures: databases that are real, and applications that leave nothing behind."""

from __future__ import annotations

import importlib.util
import os
import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, has_app_context
from flask.testing import FlaskClient

from flask_sessionsql import FlaskSQLAlchemySessionInterface, Session
from tests.helpers import Clock, missing, on, store_of

# PyMySQL reads the certificates that the machine trusts at each connection, which takes
# longer than most tests. No server of the tests has one of them.
os.environ["SSL_CERT_FILE"] = os.devnull

MakeApp = Callable[..., Flask]
MakeDatabase = Callable[[str], str]

#: Where the servers are, unless the environment says otherwise; and what to start
#: if nobody answers there.
SERVERS = {
    "postgresql": (
        "SESSIONSQL_POSTGRESQL_URL",
        "postgresql+psycopg://postgres@127.0.0.1:5432/test",
    ),
    "mariadb": (
        "SESSIONSQL_MARIADB_URL",
        "mysql+pymysql://root@127.0.0.1:3306/test",
    ),
}
BACKENDS = on("sqlite-file", "sqlite-memory", *SERVERS)
#: Those that several processes or connections can share.
SHARED_BACKENDS = on("sqlite-file", *SERVERS)


class Servers:
    """A database of our own on each server, so that runs do not meet."""

    #: The test that runs. It has to be marked with the servers that it asks for.
    test: pytest.Item

    def __init__(self) -> None:
        self._name = f"sessionsql_{secrets.token_hex(6)}"
        self._admins: dict[str, sa.Engine] = {}
        self._ours: dict[str, sa.Engine] = {}
        self._kept: dict[str, str | None] = {}

    def empty_database(self, backend: str, keep: str | None = None) -> str:
        """The address of our database on this server, with nothing in it.

        :param keep: a table that may stay, emptied: making one anew takes longer
            than most tests.
        """
        if self.test.get_closest_marker(backend) is None:
            pytest.fail(
                f"{self.test.nodeid} asks for {backend} and is not marked with it. Add"
                f" @pytest.mark.{backend}, or parametrize it by tests.helpers.on():"
                " tests are chosen by these markers."
            )
        # Tests without one may leave a table of that name that is not as it should be.
        was, self._kept[backend] = self._kept.get(backend), keep
        keep = keep if was == keep else None
        ours = self._ours.get(backend) or self._create(backend)
        inspector = sa.inspect(ours)
        for name in inspector.get_table_names():
            self._run(ours, f"{'DELETE FROM' if name == keep else 'DROP TABLE'} {name}")
        if "web" in inspector.get_schema_names():
            self._run(ours, "DROP SCHEMA web CASCADE")
        return ours.url.render_as_string(hide_password=False)

    def _create(self, backend: str) -> sa.Engine:
        admin = self._connect(backend)
        self._run(admin, f"CREATE DATABASE {self._name}")
        url = admin.url.set(database=self._name)
        self._ours[backend] = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
        )
        return self._ours[backend]

    def _connect(self, backend: str) -> sa.Engine:
        variable, default = SERVERS[backend]
        url = os.environ.get(variable, default)
        admin = sa.create_engine(
            url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
        )
        try:
            admin.connect().close()
        except sa.exc.OperationalError as error:
            missing(
                f"No {backend} server answers at {admin.url}. Start one there, or set"
                f" {variable} to the address of one where databases may be created."
                f" ({error.orig})"
            )
        self._admins[backend] = admin
        return admin

    @staticmethod
    def _run(admin: sa.Engine, statement: str) -> None:
        with admin.connect() as connection:
            connection.execute(sa.text(statement))

    def close(self) -> None:
        for admin in self._admins.values():
            # PostgreSQL drops a database that is in use only when told so.
            force = " WITH (FORCE)" if admin.dialect.name == "postgresql" else ""
            self._run(admin, f"DROP DATABASE IF EXISTS {self._name}{force}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    Servers.test = item


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    servers = Servers()
    yield servers
    servers.close()


def database_maker(
    servers: Servers, folder: Path, keep: str | None = None
) -> MakeDatabase:
    """What ``make_database`` is."""

    def make(backend: str) -> str:
        if backend == "sqlite-memory":
            return "sqlite://"
        if backend == "sqlite-file":
            return f"sqlite:///{folder / 'app.db'}"
        return servers.empty_database(backend, keep)

    return make


@pytest.fixture
def kept_table() -> str | None:
    """A table that may be in the databases, emptied. Folders and files of tests that
    use one again and again override this.
    """
    return None


@pytest.fixture
def make_database(
    servers: Servers, tmp_path: Path, kept_table: str | None
) -> MakeDatabase:
    """Gives the address of a database of a kind, empty but for ``kept_table``."""
    return database_maker(servers, tmp_path, kept_table)


@pytest.fixture
def make_empty_database(servers: Servers, tmp_path: Path) -> MakeDatabase:
    """As ``make_database``, for tests that need the table to be missing."""
    return database_maker(servers, tmp_path)


@pytest.fixture(params=BACKENDS)
def database_uri(request: pytest.FixtureRequest, make_database: MakeDatabase) -> str:
    """The address of an empty database; the test runs on each kind."""
    return make_database(request.param)


@pytest.fixture(params=SHARED_BACKENDS)
def shared_database_uri(
    request: pytest.FixtureRequest, make_database: MakeDatabase
) -> str:
    """As ``database_uri``, for tests with connections or processes of their own."""
    return make_database(request.param)


@pytest.fixture(params=SHARED_BACKENDS)
def empty_database_uri(
    request: pytest.FixtureRequest, make_empty_database: MakeDatabase
) -> str:
    """As ``shared_database_uri``, for tests that need the table to be missing."""
    return make_empty_database(request.param)


#: What the sessions are tried with: SQLAlchemy's names of a server's drivers, and the
#: modules that they are.
DRIVERS = {
    "postgresql+psycopg": "psycopg",
    "postgresql+psycopg2": "psycopg2",
    "postgresql+pg8000": "pg8000",
    "mysql+pymysql": "pymysql",
    "mysql+mysqldb": "MySQLdb",
    "mariadb+mariadbconnector": "mariadb",
}


def _of_driver(name: str) -> Any:
    backend = "postgresql" if name.startswith("postgresql") else "mariadb"
    return pytest.param((backend, name), id=name, marks=getattr(pytest.mark, backend))


@pytest.fixture(params=map(_of_driver, DRIVERS))
def driver_uri(
    request: pytest.FixtureRequest, make_empty_database: MakeDatabase
) -> str:
    """The address of an empty database, by each driver that is installed."""
    backend, name = request.param
    if importlib.util.find_spec(DRIVERS[name]) is None:
        missing(
            f"{DRIVERS[name]} is not installed. 'nox -s drivers' installs it.",
            required="SESSIONSQL_REQUIRE_DRIVERS",
        )
    with warnings.catch_warnings():
        # mariadb's sources have escapes that newer Pythons warn of.
        warnings.simplefilter("ignore", SyntaxWarning)
        importlib.import_module(DRIVERS[name])
    url = sa.make_url(make_empty_database(backend))
    return url.set(drivername=name).render_as_string(hide_password=False)


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Makes applications with sessions, and checks that they give back what they
    borrowed.
    """
    apps: list[Flask] = []

    def make(
        database_uri: str | None = None,
        before: Callable[[Flask], object] = lambda app: None,
        **config: Any,
    ) -> Flask:
        app = Flask("shop", instance_path=str(tmp_path / "instance"))
        app.config.update(
            TESTING=True,
            SECRET_KEY="a key",
            SESSION_TYPE="flask-sqlalchemy",
            # Statements that come by chance are no good where they are counted.
            SESSION_PURGE_INTERVAL=0,
        )
        if database_uri is not None:
            app.config["SQLALCHEMY_DATABASE_URI"] = database_uri
        app.config.update(config)
        before(app)  # to Session(app)
        Session(app)
        apps.append(app)
        return app

    yield make
    for app in apps:
        if isinstance(app.session_interface, FlaskSQLAlchemySessionInterface):
            store = store_of(app)
            held = getattr(store.engine.pool, "checkedout", lambda: 0)()
            store.dispose()
            assert held == 0, "a connection of the sessions was not given back"
        db = app.extensions.get("sqlalchemy")
        if db is not None:
            with app.app_context():
                for engine in db.engines.values():
                    engine.dispose()


@pytest.fixture
def app(make_app: MakeApp, database_uri: str) -> Flask:
    """An application with sessions on ``database_uri``."""
    return make_app(database_uri)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser."""
    return app.test_client()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of day in the whole process, whoever reads it, which stands still until
    the test moves it. What waits goes by ``time.monotonic``, and so goes on.
    """
    clock = Clock()
    monkeypatch.setattr("time.time", clock.time)
    return clock


@pytest.fixture(autouse=True)
def no_context_left() -> Iterator[None]:
    """No test leaves an application context behind."""
    yield
    assert not has_app_context()
