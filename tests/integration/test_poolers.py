"""PgBouncer between the application and PostgreSQL."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
from flask import Flask

from flask_sessionsql import Session, SessionConfigError
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import at_once, store_of
from tests.integration.helpers import add_views, rows
from tests.throwaway import pgbouncer

pytestmark = pytest.mark.postgresql

MakePooler = Callable[..., str]

SESSIONS = Session()

#: What an application sets that works in AUTOCOMMIT throughout.
AUTOCOMMIT = {"isolation_level": "AUTOCOMMIT", "use_native_hstore": False}


@pytest.fixture
def database(make_database: MakeDatabase) -> str:
    """The address of the database, directly."""
    return make_database("postgresql")


@pytest.fixture
def make_pooler(database: str) -> Iterator[MakePooler]:
    """Starts PgBouncer before the database; gives its address."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(pgbouncer(database, **settings))


def load(app: Flask, number: int, times: int) -> list[tuple[int, str]]:
    """What one browser is answered that reads, writes, logs in and logs out."""
    answers = []
    client = app.test_client()
    for turn in range(times):
        for address in (
            f"/set/_user_id/user{number % 3}",
            f"/set/turn/{turn}",
            "/get/turn",
            "/get/_user_id",
            "/clear",
        ):
            response = client.get(address)
            answers.append((response.status_code, response.text))
    return answers


def browsers(apps: list[Flask], count: int, times: int) -> list[Any]:
    """So many browsers, each at one of the applications."""
    return [partial(load, apps[n % len(apps)], n, times) for n in range(count)]


def expected(number: int, times: int) -> list[tuple[int, str]]:
    turns = []
    for turn in range(times):
        texts = ("ok", "ok", repr(str(turn)), repr(f"user{number % 3}"), "ok")
        turns += [(200, text) for text in texts]
    return turns


@pytest.mark.parametrize("pool_mode", ["transaction", "session"])
def test_no_request_fails_behind_pgbouncer(
    make_app: MakeApp, make_pooler: MakePooler, pool_mode: str
) -> None:
    """Two applications with psycopg's defaults share two connections of PgBouncer's.
    Each of 800 requests is answered as it should be: reads, writes, logins with a
    limit, logouts.
    """
    size = 2 if pool_mode == "transaction" else 20
    uri = make_pooler(pool_mode=pool_mode, default_pool_size=size)
    apps = [add_views(make_app(uri, SESSION_MAX_PER_USER=9)) for _ in range(2)]
    jobs = browsers(apps, 8, 20)
    assert at_once(jobs) == [expected(number, 20) for number in range(8)]


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000"])
def test_no_request_fails_with_another_driver(
    make_app: MakeApp, make_pooler: MakePooler, driver: str
) -> None:
    """Those do not prepare by themselves; pg8000 sends a statement in pieces."""
    pytest.importorskip(driver)
    uri = make_pooler().replace("+psycopg", f"+{driver}")
    apps = [add_views(make_app(uri, SESSION_MAX_PER_USER=9)) for _ in range(2)]
    jobs = browsers(apps, 8, 10)
    assert at_once(jobs) == [expected(number, 10) for number in range(8)]


def test_an_application_that_prepares_all_the_same(
    make_app: MakeApp, database: str, make_pooler: MakePooler
) -> None:
    """It has set ``prepare_threshold``, and PgBouncer keeps no prepared statements: the
    first one that fails is the last, and no request does.
    """
    rows(make_app(database))  # creates the table
    uri = make_pooler()
    options = {"connect_args": {"prepare_threshold": 0}}
    apps = [
        add_views(make_app(uri, SQLALCHEMY_ENGINE_OPTIONS=options)) for _ in range(2)
    ]
    jobs = browsers(apps, 4, 10)
    assert at_once(jobs) == [expected(number, 10) for number in range(4)]


def test_the_log_says_once_what_to_set(
    make_app: MakeApp, make_pooler: MakePooler, caplog: pytest.LogCaptureFixture
) -> None:
    """At the first connection, however many there are; not where it is set already."""
    uri = make_pooler()
    app = add_views(make_app(uri))
    with caplog.at_level(logging.WARNING, "flask_sessionsql"):
        at_once([partial(load, app, number, 2) for number in range(4)])
        [record] = caplog.records
        assert "prepare_threshold" in record.getMessage()
        assert "max_prepared_statements" in record.getMessage()
        caplog.clear()
        options = {"connect_args": {"prepare_threshold": None}}
        quiet = add_views(make_app(uri, SQLALCHEMY_ENGINE_OPTIONS=options))
        assert load(quiet, 0, 2) == expected(0, 2)
        assert caplog.records == []


def test_nothing_is_said_without_a_pooler(
    make_app: MakeApp, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that is connected to directly gets prepared statements, as ever."""
    app = add_views(make_app(database))
    with caplog.at_level(logging.WARNING, "flask_sessionsql"):
        assert load(app, 0, 2) == expected(0, 2)
    assert caplog.records == []
    connection = store_of(app).engine.raw_connection()
    assert connection.driver_connection is not None
    assert connection.driver_connection.prepare_threshold == 5
    connection.close()


def test_statement_pooling_takes_single_statements(
    make_app: MakeApp, database: str, make_pooler: MakePooler
) -> None:
    """Where the table is there, sessions are read and written."""
    rows(make_app(database))  # creates the table
    uri = make_pooler(pool_mode="statement")
    app = add_views(make_app(uri, SQLALCHEMY_ENGINE_OPTIONS=AUTOCOMMIT))
    assert load(app, 0, 10) == expected(0, 10)


def test_statement_pooling_refuses_what_needs_a_transaction(
    make_app: MakeApp, database: str, make_pooler: MakePooler
) -> None:
    """A login over the limit, a revocation and a purge: the error says what is wrong
    and what to set, and nothing is half done.
    """
    rows(make_app(database))
    uri = make_pooler(pool_mode="statement")
    app = add_views(
        make_app(
            uri,
            SQLALCHEMY_ENGINE_OPTIONS=AUTOCOMMIT,
            SESSION_MAX_PER_USER=1,
        )
    )
    asked = "statement pooling.*pool_mode = transaction"
    first, second = app.test_client(), app.test_client()
    assert first.get("/set/a/1").status_code == 200
    with pytest.raises(SessionConfigError, match=asked):
        first.get("/set/_user_id/ann")
    assert second.get("/set/b/2").status_code == 200
    with app.app_context(), pytest.raises(SessionConfigError, match=asked):
        SESSIONS.revoke_all()
    purged = app.test_cli_runner().invoke(args=["sessions", "purge"])
    assert purged.exit_code != 0
    assert re.search(asked, " ".join(purged.output.split()))
    assert second.get("/get/b").text == repr("2")


@pytest.mark.parametrize("options", [AUTOCOMMIT, {}], ids=["autocommit", "usual"])
def test_statement_pooling_refuses_to_create_the_table(
    make_app: MakeApp,
    make_empty_database: MakeDatabase,
    options: dict[str, object],
) -> None:
    """As it does where SQLAlchemy itself begins a transaction when it connects."""
    database = make_empty_database("postgresql")
    with pgbouncer(database, pool_mode="statement") as uri:
        app = add_views(make_app(uri, SQLALCHEMY_ENGINE_OPTIONS=options))
        with pytest.raises(SessionConfigError, match="pool_mode = transaction"):
            app.test_client().get("/set/a/1")


def test_a_setting_that_pgbouncer_refuses(
    make_app: MakeApp, make_pooler: MakePooler, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the setting: libpq's ``options`` reach no server."""
    options = {"connect_args": {"options": "-c statement_timeout=5s"}}
    app = add_views(make_app(make_pooler(), SQLALCHEMY_ENGINE_OPTIONS=options))
    with caplog.at_level(logging.ERROR, "flask_sessionsql"):
        assert app.test_client().get("/set/a/1").status_code == 503
    assert "unsupported startup parameter: options" in caplog.text
