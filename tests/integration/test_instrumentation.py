"""Whoever watches SQLAlchemy sees every statement of the sessions, and none twice:
SQLAlchemy's log, listeners for its events, OpenTelemetry.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.record_queries import get_recorded_queries
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flask_sessionsql import Session
from flask_sessionsql.storage.purging import purge_batch
from tests.conftest import MakeApp
from tests.helpers import Clock, store_of
from tests.integration.helpers import (
    add_views,
    browser_with,
    rows,
    same_browser,
    token,
    visit,
)
from tests.storage.helpers import kill_connections

#: What is counted: not what a driver or SQLAlchemy says to set a connection up.
COUNTED = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|BEGIN(?! \(implicit)|START|COMMIT(?! using)"
    r"|SET TRANSACTION)\b",
    re.IGNORECASE,
)

Do = Callable[[FlaskClient, Clock], object]
#: Notes a statement.
Note = Callable[[object], None]
Watch = AbstractContextManager[None]


# What requests do, and the statements that it takes.


def begin(client: FlaskClient, clock: Clock) -> None:
    client.application.test_client().get("/set/a/1")


def touch(client: FlaskClient, clock: Clock) -> None:
    clock.now += 24 * 3600
    client.set_cookie("session", token(client))  # the browser's clock stands still
    client.get("/get/a")


def conflict(client: FlaskClient, clock: Clock) -> None:
    def view() -> str:
        session["b"] = "mine"
        same_browser(client).get("/set/c/theirs")
        return "ok"

    visit(client, view)


def unknown_cookie(client: FlaskClient, clock: Clock) -> None:
    stranger = browser_with(client.application, "A" * len(token(client)))
    stranger.get("/set/a/1")


def list_sessions(client: FlaskClient, clock: Clock) -> None:
    with client.application.app_context():
        assert Session().user_sessions("1")


def revoke(client: FlaskClient, clock: Clock) -> None:
    with client.application.app_context():
        assert Session().revoke_user("1")


def purge(client: FlaskClient, clock: Clock) -> None:
    database = store_of(client.application).database
    assert purge_batch(database, int(clock.now) + 100 * 365 * 24 * 3600, 1_000).deleted


DELETING = ["BEGIN", "SELECT", "DELETE", "COMMIT"]

#: One after the other, by one browser, on a session that has the user "1"; where that
#: was ended, on a new one.
KINDS: dict[str, tuple[Do, list[str]]] = {
    "untouched": (lambda client, clock: client.get("/"), []),
    "read": (lambda client, clock: client.get("/get/a"), ["SELECT"]),
    "new": (begin, ["INSERT"]),
    "write": (lambda client, clock: client.get("/set/a/2"), ["SELECT", "UPDATE"]),
    "touch": (touch, ["SELECT", "UPDATE"]),
    "conflict": (
        conflict,
        ["SELECT", "SELECT", "UPDATE", "UPDATE", "SELECT", "UPDATE"],
    ),
    "list": (list_sessions, ["SELECT"]),
    "login": (
        lambda client, clock: client.get("/set/_user_id/2"),
        ["SELECT", "UPDATE"],
    ),
    "cleared": (lambda client, clock: client.get("/clear"), ["SELECT", "DELETE"]),
    "emptied": (
        lambda client, clock: client.get("/pop/_user_id"),
        ["SELECT", "DELETE"],
    ),
    # Once more, until a look finds nothing.
    "revoke": (revoke, [*DELETING, "BEGIN", "SELECT", "COMMIT"]),
    "unknown cookie": (unknown_cookie, ["SELECT", "SELECT", "INSERT"]),
    "purge": (purge, DELETING),
}
ENDS = ("cleared", "emptied", "revoke", "purge")
#: A few of them: each kind of statement.
SOME = ("read", "new", "write", "touch", "cleared")


def expected(app: Flask, kinds: Iterable[str] = KINDS) -> dict[str, list[str]]:
    """The statements of each kind of request, on the application's database."""
    begins = ["BEGIN"]
    if store_of(app).engine.dialect.name in ("mysql", "mariadb"):
        begins = ["SET", "START"]
    return {
        kind: [
            word
            for each in KINDS[kind][1]
            for word in (begins if each == "BEGIN" else [each])
        ]
        for kind in kinds
    }


#: The first words of what SQLAlchemy compiles, and of what it gets as text.
COMPILED = ("SELECT", "INSERT", "UPDATE", "DELETE")
EVERY = (*COMPILED, "BEGIN", "SET", "START", "COMMIT")


class Seen:
    """The statements that somebody has seen.

    :param sees: the first words of those that there are to see.
    """

    def __init__(self, sees: Container[str] = EVERY) -> None:
        self.statements: list[str] = []
        self.sees = sees

    def note(self, statement: object) -> None:
        text = str(statement).strip()
        if COUNTED.match(text):
            self.statements.append(text)

    def take(self) -> list[str]:
        """The first words of what was seen since the last time."""
        words = [statement.split()[0].upper() for statement in self.statements]
        self.statements.clear()
        return words


class Driver(Seen):
    """The statements that have reached the database, as the drivers know them."""

    def __init__(self, app: Flask) -> None:
        super().__init__()
        sa.event.listen(store_of(app).engine.pool, "connect", self._spy)

    def _spy(self, connection: Any, record: object) -> None:
        note = self.note
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(note)
        elif isinstance(connection, psycopg.Connection):

            class Cursor(psycopg.Cursor[Any]):
                def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
                    note(query)
                    return super().execute(query, *args, **kwargs)

            connection.cursor_factory = Cursor
        else:
            query = connection.query

            def spied(sql: Any, *args: Any, **kwargs: Any) -> Any:
                note(sql.decode(errors="replace") if isinstance(sql, bytes) else sql)
                return query(sql, *args, **kwargs)

            connection.query = spied


def new_client(app: Flask) -> FlaskClient:
    """A browser with a session of the user "1"."""
    client = app.test_client()
    client.get("/set/_user_id/1")
    return client


def do_each(
    app: Flask, clock: Clock, kinds: Iterable[str] = KINDS
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Gives the kinds of requests, and what makes one of it."""
    client = new_client(app)
    for kind in kinds:
        yield kind, partial(KINDS[kind][0], client, clock)
        if kind in ENDS:
            client = new_client(app)


def do_all(
    app: Flask, clock: Clock, kinds: Iterable[str], *watchers: Seen
) -> list[dict[str, list[str]]]:
    """Make each kind of request. For each watcher, what it has seen of each kind."""
    seen: list[dict[str, list[str]]] = [{} for _ in watchers]
    for kind, do in do_each(app, clock, kinds):
        for watcher in watchers:
            watcher.take()
        do()
        for each, watcher in zip(seen, watchers, strict=True):
            each[kind] = watcher.take()
    return seen


def ready(app: Flask) -> tuple[Flask, Driver]:
    """The application with its views, its table, and some requests served."""
    driver = Driver(app)
    add_views(app)
    rows(app)
    new_client(app).get("/get/a")
    return app, driver


def assert_seen(
    app: Flask,
    clock: Clock,
    driver: Driver,
    watcher: Seen,
    kinds: Iterable[str] = KINDS,
) -> None:
    """What reaches the database is what is expected, and all of it is seen, once."""
    seen, sent = do_all(app, clock, kinds, watcher, driver)
    assert expected(app, kinds) == sent
    assert {
        kind: [word for word in words if word in watcher.sees]
        for kind, words in sent.items()
    } == seen


def assert_unseen(app: Flask, clock: Clock, driver: Driver, watcher: Seen) -> None:
    """The same reaches the database, and whoever has stopped watching sees nothing."""
    seen, sent = do_all(app, clock, SOME, watcher, driver)
    assert expected(app, SOME) == sent
    assert {kind: [] for kind in SOME} == seen


def test_what_is_expected_reaches_the_database(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """With nobody watching, the same statements run as with somebody."""
    app, driver = ready(make_app(database_uri))
    (sent,) = do_all(app, clock, KINDS, driver)
    assert expected(app) == sent


# SQLAlchemy's log.

LOG = "sqlalchemy.engine.Engine.flask_sessionsql"


class Log(logging.Handler):
    """Notes the statements in a log."""

    def __init__(self, note: Note) -> None:
        super().__init__()
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        self._note(record.getMessage())


@pytest.fixture
def log() -> Iterator[Seen]:
    """The statements in the sessions' log. Afterwards, no logger of SQLAlchemy's has
    another level or another handler than before: an echo adds one.
    """
    logging.getLogger(LOG)
    known: dict[str, Any] = logging.root.manager.loggerDict
    before = {
        logger: (logger.level, list(logger.handlers))
        for logger in known.values()
        if isinstance(logger, logging.Logger) and logger.name.startswith("sqlalchemy")
    }
    seen = Seen()
    logging.getLogger(LOG).addHandler(Log(seen.note))
    yield seen
    for logger in list(known.values()):
        if isinstance(logger, logging.Logger) and logger.name.startswith("sqlalchemy"):
            level, handlers = before.get(logger, (logging.NOTSET, []))
            logger.setLevel(level)
            logger.handlers[:] = handlers


def log_at(level: int) -> None:
    logging.getLogger("sqlalchemy.engine").setLevel(level)


def test_echo_shows_every_statement(
    make_app: MakeApp, database_uri: str, clock: Clock, log: Seen
) -> None:
    """SQLALCHEMY_ECHO writes each statement to the log, once."""
    app, driver = ready(make_app(database_uri, SQLALCHEMY_ECHO=True))
    assert_seen(app, clock, driver, log)
    store_of(app).engine.echo = False
    assert_unseen(app, clock, driver, log)


def test_a_logger_s_level_shows_every_statement(
    make_app: MakeApp, database_uri: str, clock: Clock, log: Seen
) -> None:
    """So does the level of SQLAlchemy's own logger, set before the application is
    made, and until it is set back.
    """
    log_at(logging.INFO)
    app, driver = ready(make_app(database_uri))
    assert_seen(app, clock, driver, log)
    log_at(logging.WARNING)
    assert_unseen(app, clock, driver, log)


def test_a_logger_s_level_may_change_at_any_time(
    make_app: MakeApp, database_uri: str, clock: Clock, log: Seen
) -> None:
    """So does the level that is set while the application runs."""
    app, driver = ready(make_app(database_uri))
    assert_unseen(app, clock, driver, log)
    log_at(logging.INFO)
    assert_seen(app, clock, driver, log)
    log_at(logging.WARNING)
    assert_unseen(app, clock, driver, log)


def test_an_engine_s_echo_may_change_at_any_time(
    make_app: MakeApp, database_uri: str, clock: Clock, log: Seen
) -> None:
    """So does the echo of the sessions' engine, while the application runs."""
    app, driver = ready(make_app(database_uri))
    store_of(app).engine.echo = True
    assert_seen(app, clock, driver, log)
    store_of(app).engine.echo = False
    assert_unseen(app, clock, driver, log)


# Events.

#: By event, the argument that has the statement.
STATEMENT_EVENTS = {
    "before_execute": "clauseelement",
    "after_execute": "clauseelement",
    "before_cursor_execute": "statement",
    "after_cursor_execute": "statement",
    # What stands in for the driver's own call.
    "do_execute": "statement",
}


def seen_by(event: str) -> Seen:
    """For a listener to this event: those before compiling get no text."""
    return Seen(COMPILED if STATEMENT_EVENTS[event] == "clauseelement" else EVERY)


#: Those that see text, too.
EVERY_STATEMENT = ("before_cursor_execute", "after_cursor_execute")
#: The first is the engine's own, the other one its dialect's.
ONES_OWN = ("before_cursor_execute", "do_execute")


@contextmanager
def listening(
    target: Any, event: str, listener: Callable[..., object]
) -> Iterator[None]:
    """``listener`` gets the arguments by name, for as long as this lasts."""
    sa.event.listen(target, event, listener, named=True)
    try:
        yield
    finally:
        sa.event.remove(target, event, listener)


def watching(target: Any, event: str, note: Note) -> Watch:
    """Statements are noted by a listener for this event, for as long as this lasts."""

    def listener(**arguments: Any) -> None:
        statement = arguments[STATEMENT_EVENTS[event]]
        # What is not compiled yet has no text, but a name.
        note(getattr(statement, "__visit_name__", statement))

    return listening(target, event, listener)


@pytest.mark.parametrize("event", EVERY_STATEMENT)
def test_a_listener_sees_every_statement(
    make_app: MakeApp, database_uri: str, clock: Clock, event: str
) -> None:
    """A listener on all engines, which was there before the application, sees each
    statement once, until it is removed.
    """
    seen = seen_by(event)
    with watching(sa.Engine, event, seen.note):
        app, driver = ready(make_app(database_uri))
        assert_seen(app, clock, driver, seen)
    assert_unseen(app, clock, driver, seen)


@pytest.mark.parametrize("event", STATEMENT_EVENTS)
def test_a_listener_may_come_at_any_time(
    make_app: MakeApp, database_uri: str, clock: Clock, event: str
) -> None:
    """So does one that comes while the application runs, goes, and comes again."""
    seen = seen_by(event)
    app, driver = ready(make_app(database_uri))
    assert_unseen(app, clock, driver, seen)
    for kinds in (KINDS if event in EVERY_STATEMENT else SOME, SOME):
        with watching(sa.Engine, event, seen.note):
            assert_seen(app, clock, driver, seen, kinds)
        assert_unseen(app, clock, driver, seen)


@pytest.mark.parametrize("event", ONES_OWN)
def test_a_listener_may_be_the_engine_s(
    make_app: MakeApp, database_uri: str, clock: Clock, event: str
) -> None:
    """So does one on the sessions' engine alone."""
    seen = seen_by(event)
    app, driver = ready(make_app(database_uri))
    with watching(store_of(app).engine, event, seen.note):
        assert_seen(app, clock, driver, seen, SOME)
    assert_unseen(app, clock, driver, seen)


@pytest.mark.parametrize("event", ONES_OWN)
def test_a_listener_may_come_within_a_request(
    make_app: MakeApp, database_uri: str, event: str
) -> None:
    """One that comes after the session was read sees how it is written."""
    seen = seen_by(event)
    app, driver = ready(make_app(database_uri))
    client = new_client(app)
    watch = watching(sa.Engine, event, seen.note)

    def view() -> str:
        session["_user_id"] *= 2
        watch.__enter__()
        return "ok"

    driver.take()
    try:
        visit(client, view)
    finally:
        watch.__exit__(None, None, None)
    assert (["SELECT", "UPDATE"], ["UPDATE"]) == (driver.take(), seen.take())
    assert "'11'" == client.get("/get/_user_id").text


def test_what_a_listener_makes_of_a_statement_runs(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """A listener that changes the statements changes what reaches the database."""

    def mark(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> Any:
        return f"{statement} /* marked */", parameters

    app, driver = ready(make_app(database_uri))
    marked = Seen()

    def note(statement: object) -> None:
        driver.statements.append(str(statement))
        if str(statement).endswith("/* marked */"):
            marked.statements.append(str(statement))

    driver.note = note  # type: ignore[method-assign]
    store_of(app).dispose()  # the spies are made anew
    new_client(app)
    sa.event.listen(sa.Engine, "before_cursor_execute", mark, retval=True)
    try:
        assert_seen(app, clock, driver, marked)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", mark)
    assert_unseen(app, clock, driver, marked)


@pytest.mark.parametrize("later", [False, True])
def test_every_connection_is_seen(
    make_app: MakeApp, database_uri: str, clock: Clock, later: bool
) -> None:
    """Listeners on all pools see that each connection which is taken is given back,
    before the next one is taken; and on all engines, ``engine_connect`` sees each.
    """
    seen: list[str] = []
    app, driver = ready(make_app(database_uri)) if later else (None, None)
    with (
        listening(sa.Pool, "checkout", lambda **_: seen.append("out")),
        listening(sa.Pool, "checkin", lambda **_: seen.append("in")),
        listening(sa.Engine, "engine_connect", lambda **_: seen.append("connect")),
    ):
        if app is None or driver is None:
            app, driver = ready(make_app(database_uri))
        for kind, do in do_each(app, clock):
            words = KINDS[kind][1]
            seen.clear()
            do()
            # One for each statement, or for each transaction.
            taken = words.count("BEGIN") if "BEGIN" in words else len(words)
            assert ["out", "connect", "in"] * taken == seen, kind
    seen.clear()
    assert "'1'" == new_client(app).get("/get/_user_id").text
    assert seen == []


def test_the_pool_s_events_alone_are_balanced(
    make_app: MakeApp, database_uri: str
) -> None:
    """With listeners on all pools and none on an engine, too: one connection for each
    statement, and none is held while a view runs.
    """
    app, driver = ready(make_app(database_uri))
    client = new_client(app)
    seen: list[str] = []

    def view() -> str:
        session["a"] = session["_user_id"] * 2
        seen.append("view")
        return "ok"

    with (
        listening(sa.Pool, "checkout", lambda **_: seen.append("out")),
        listening(sa.Pool, "checkin", lambda **_: seen.append("in")),
    ):
        driver.take()
        visit(client, view)
    assert ["SELECT", "UPDATE"] == driver.take()
    assert ["out", "in", "view", "out", "in"] == seen


@pytest.mark.parametrize("later", [False, True])
def test_an_error_is_seen(make_app: MakeApp, database_uri: str, later: bool) -> None:
    """A listener for errors gets each one once, with its statement: here, of a table
    that has gone, and is made anew.
    """
    errors: list[tuple[str, str]] = []

    def note(exception_context: sa.engine.ExceptionContext) -> None:
        error = exception_context.sqlalchemy_exception
        statement = str(exception_context.statement).split()[0]
        if COUNTED.match(statement):  # and not a look at the schema
            errors.append((type(error).__name__, statement))

    app = ready(make_app(database_uri))[0] if later else None
    with listening(sa.Engine, "handle_error", note):
        app = app or ready(make_app(database_uri))[0]
        client = new_client(app)
        table = store_of(app).table
        with store_of(app).engine.connect() as connection:
            connection.execute(sa.schema.DropTable(table))
        errors.clear()
        assert "None" == client.get("/get/a").text
        # OperationalError on SQLite, ProgrammingError on the others.
        ((name, statement),) = errors
        assert ("Error", "SELECT") == (name[-5:], statement)
        # Another one has nothing to do with it.
        client.get("/get/a")
        assert len(errors) == 1


def test_a_lost_connection_is_seen(make_app: MakeApp, shared_database_uri: str) -> None:
    """Of a connection that the server has ended, too, and it is said to be that."""
    app, _ = ready(make_app(shared_database_uri))
    if store_of(app).locks_whole_database:
        return  # no server
    client = new_client(app)
    lost: list[bool] = []
    note: Callable[..., None] = lambda exception_context: lost.append(  # noqa: E731
        exception_context.is_disconnect
    )
    with listening(sa.Engine, "handle_error", note):
        kill_connections(store_of(app))
        assert "'1'" == client.get("/get/_user_id").text
    assert [True] == lost


def test_a_listener_that_fails_fails_the_request(
    make_app: MakeApp, database_uri: str
) -> None:
    """What a listener raises is not lost, and the connection is given back."""
    app, _ = ready(make_app(database_uri))
    client = new_client(app)

    def forbid(**_: Any) -> None:
        raise PermissionError("no statements here")

    with (
        listening(sa.Engine, "before_cursor_execute", forbid),
        pytest.raises(PermissionError),
    ):
        client.get("/get/a")
    assert "'1'" == client.get("/get/_user_id").text


# OpenTelemetry.


class Spans(Seen):
    """The statements that OpenTelemetry's spans tell of."""

    def __init__(self) -> None:
        super().__init__()
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def take(self) -> list[str]:
        for span in self._exporter.get_finished_spans():
            self.note((span.attributes or {}).get("db.statement"))
        self._exporter.clear()
        return super().take()


@contextmanager
def telemetry(spans: Spans, **options: Any) -> Iterator[None]:
    """SQLAlchemy is instrumented, for as long as this lasts."""
    instrumentor = SQLAlchemyInstrumentor()
    # It asks for SQLAlchemy below 2.1, for no reason that would be seen here.
    instrumentor.instrument(
        tracer_provider=spans.provider, skip_dep_check=True, **options
    )
    try:
        yield
    finally:
        instrumentor.uninstrument()
        spans.provider.shutdown()


def test_opentelemetry_has_a_span_for_every_statement(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """Instrumented before the application is made, SQLAlchemy makes a span of each
    statement, until it is not instrumented any more.
    """
    spans = Spans()
    with telemetry(spans):
        app, driver = ready(make_app(database_uri))
        assert_seen(app, clock, driver, spans)
    assert_unseen(app, clock, driver, spans)


def test_opentelemetry_may_come_at_any_time(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """So does the sessions' engine that is instrumented while the application runs."""
    spans = Spans()
    app, driver = ready(make_app(database_uri))
    with telemetry(spans, engine=store_of(app).engine):
        assert_seen(app, clock, driver, spans)
    assert_unseen(app, clock, driver, spans)


def test_opentelemetry_has_a_span_for_a_failed_statement(
    make_app: MakeApp, database_uri: str
) -> None:
    """A statement that fails has a span that says so, and the next one is another's."""
    spans = Spans()
    with telemetry(spans):
        app, _ = ready(make_app(database_uri))
        client = new_client(app)
        with store_of(app).engine.connect() as connection:
            connection.execute(sa.schema.DropTable(store_of(app).table))
        spans.take()
        client.get("/get/a")
        assert "SELECT" in spans.take()
        client.get("/get/a")
        assert ["SELECT"] == spans.take()


# Flask-SQLAlchemy.


class Recorded(Seen):
    """What Flask-SQLAlchemy has recorded when a context ends: sessions are saved."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def install(self, app: Flask) -> None:
        """Look at the end of each of the application's contexts."""

        @app.teardown_appcontext
        def look(error: BaseException | None) -> None:
            for query in get_recorded_queries():
                self.note(query.statement)
                self.texts.append(repr(query))


def test_recorded_queries_include_the_sessions(
    make_app: MakeApp, database_uri: str, clock: Clock
) -> None:
    """With SQLALCHEMY_RECORD_QUERIES, get_recorded_queries() has each statement of the
    sessions, once, beside those of the application.
    """
    db, recorded = SQLAlchemy(), Recorded()

    def before(app: Flask) -> None:
        db.init_app(app)
        recorded.install(app)

    def view() -> str:
        session["a"] = session["_user_id"] * 2
        db.session.execute(sa.text("SELECT 42"))
        return "ok"

    app, driver = ready(make_app(database_uri, before, SQLALCHEMY_RECORD_QUERIES=True))
    client = new_client(app)
    recorded.take()
    visit(client, view)
    assert "SELECT 42" == recorded.statements[1]
    assert ["SELECT", "SELECT", "UPDATE"] == recorded.take()
    # The purge is called outside of a context here, where nothing can be recorded.
    assert_seen(app, clock, driver, recorded, [k for k in KINDS if k != "purge"])


@pytest.mark.parametrize("late", [False, True])
def test_recording_may_be_turned_on_later(
    make_app: MakeApp, database_uri: str, late: bool
) -> None:
    """It may be set after Session(app), as by an extension, until the sessions are
    first used; and needs no SQLAlchemy object. Unless it is set, nothing is recorded.
    """
    recorded = Recorded()
    app = make_app(database_uri)
    recorded.install(app)
    app.config["SQLALCHEMY_RECORD_QUERIES"] = late
    ready(app)
    client = new_client(app)
    recorded.take()
    client.get("/set/a/1")
    assert (["SELECT", "UPDATE"] if late else []) == recorded.take()


def test_recorded_queries_hold_no_values(make_app: MakeApp, database_uri: str) -> None:
    """A statement is recorded without its values: what a session holds, and the key
    under which it is stored.
    """
    recorded = Recorded()
    app = make_app(database_uri, recorded.install, SQLALCHEMY_RECORD_QUERIES=True)
    ready(app)
    new_client(app).get("/set/name/hush-hush")
    assert recorded.texts
    assert [] == [text for text in recorded.texts if "parameters=None" not in text]
    assert "hush-hush" not in "".join(recorded.texts)


def test_nothing_is_recorded_where_nobody_asks(
    make_app: MakeApp, database_uri: str
) -> None:
    """Outside of any application's context there is no place for records, and the
    sessions can be used all the same.
    """
    app = make_app(database_uri, SQLALCHEMY_RECORD_QUERIES=True)
    ready(app)
    assert store_of(app).load(b"0" * 32, 0) is None


def test_recording_that_is_not_found(
    make_app: MakeApp, database_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a version of Flask-SQLAlchemy records in another way, the sessions work,
    and nothing of them is recorded.
    """
    monkeypatch.delattr("flask_sqlalchemy.record_queries._listen")
    recorded = Recorded()
    app = make_app(database_uri, recorded.install)
    app.config["SQLALCHEMY_RECORD_QUERIES"] = True
    ready(app)
    assert "'1'" == new_client(app).get("/get/_user_id").text
    assert [] == recorded.texts


def test_a_listener_on_the_application_s_engine_sees_the_application_s(
    make_app: MakeApp, database_uri: str
) -> None:
    """Nor does a listener on one of the application's engines see the sessions'."""
    db = SQLAlchemy()
    app, driver = ready(make_app(database_uri, db.init_app))
    client = new_client(app)
    seen = Seen()

    def view() -> str:
        session["a"] = session["_user_id"] * 2
        db.session.execute(sa.text("SELECT 42"))
        return "ok"

    with app.app_context():
        engine = db.engine
    driver.take()
    with watching(engine, "before_cursor_execute", seen.note):
        visit(client, view)
    assert ["SELECT 42"] == seen.statements
    assert ["SELECT", "UPDATE"] == driver.take()
