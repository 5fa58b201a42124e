"""Requests while something is broken."""

from __future__ import annotations

import base64
import io
import logging
import pickle
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from flask import (
    Flask,
    Response,
    abort,
    flash,
    g,
    got_request_exception,
    redirect,
    render_template_string,
    request,
    request_finished,
    session,
    stream_with_context,
)
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.test import TestResponse

from flask_sessionsql import (
    Session,
    SessionStoreUnavailableError,
    SessionTableError,
    SessionValueError,
    session_ended,
    session_merged,
)
from flask_sessionsql import session as typed_session
from flask_sessionsql.formats.serializers import MsgpackSerializer
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, Cut, on, store_of, told_by
from tests.integration.helpers import (
    add_views,
    browser_with,
    cookie,
    during,
    rows,
    same_browser,
    token,
    visit,
)

#: Where nobody listens.
UNREACHABLE = [
    "postgresql+psycopg://postgres@127.0.0.1:1/none",
    "mysql+pymysql://root@127.0.0.1:1/none",
    "sqlite:///file:/nowhere/at/all.db?uri=true",
]


class Outage:
    """Ends and begins the time in which no statement gets through."""

    def __init__(self, app: Flask) -> None:
        self.engine = store_of(app).engine

    def _fail(self, *_: Any) -> None:
        raise sa.exc.OperationalError("...", {}, Exception("the server is on fire"))

    def begin(self) -> None:
        sa.event.listen(self.engine, "before_cursor_execute", self._fail)

    def end(self) -> None:
        sa.event.remove(self.engine, "before_cursor_execute", self._fail)


@pytest.fixture
def outage(app: Flask) -> Outage:
    return Outage(app)


@pytest.mark.parametrize("url", UNREACHABLE)
def test_an_application_starts_and_serves_without_its_database(
    make_app: MakeApp, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Pages that leave the session alone, and visitors without one, notice nothing;
    a session that is needed is a 503, with the reason in the log.
    """
    app = add_views(make_app(url))
    app.testing = False
    client = app.test_client()
    assert client.get("/").status_code == 200
    assert client.get("/get/key").status_code == 200
    assert caplog.text == ""
    client.set_cookie("session", "x" * 43)
    assert client.get("/").status_code == 200
    response = client.get("/get/key")
    assert response.status_code == 503
    assert "cannot be used: " in caplog.text


def test_a_session_that_cannot_be_stored_is_a_503(
    app: Flask, client: FlaskClient, outage: Outage, caplog: pytest.LogCaptureFixture
) -> None:
    """A view that succeeded must not answer that it did: no cookie, no body of its."""
    outage.begin()
    response = client.get("/set/key/value")
    assert (response.status_code, cookie(response)) == (503, None)
    assert response.headers["Vary"] == "Cookie"
    assert response.text != "ok"
    assert "on fire" in caplog.text
    assert "on fire" not in response.text
    outage.end()
    assert rows(app) == []
    assert client.get("/set/key/value").status_code == 200


def read_only(uri: str) -> str:
    """The address of a database, for connections that cannot write to it."""
    url = sa.make_url(uri)
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///file:{url.database}?mode=ro&uri=true"
    option = {
        "postgresql": ("options", "-c default_transaction_read_only=on"),
        "mysql": ("init_command", "SET SESSION TRANSACTION READ ONLY"),
    }[url.get_backend_name()]
    return url.update_query_dict(dict([option])).render_as_string(False)


def test_pages_that_read_are_served_where_nothing_can_be_written(
    make_app: MakeApp,
    shared_database_uri: str,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a server that has become read-only, whoever is logged in is, however long ago
    the session was used last; only what cannot be stored is a 503.
    """
    client = add_views(make_app(shared_database_uri)).test_client()
    client.get("/set/_user_id/ann")
    app = add_views(make_app(read_only(shared_database_uri)))
    app.testing = False
    same = same_browser(client, app)
    clock.now += 24 * 3600
    response = same.get("/get/_user_id")
    assert (response.status_code, response.text) == (200, "'ann'")
    assert cookie(response) is None
    assert "could not be recorded" in caplog.text
    assert same.get("/set/a/1").status_code == 503
    assert client.get("/all").json == {"_user_id": "ann"}


@pytest.fixture
def cut(make_database: MakeDatabase, backend: str) -> Iterator[Cut]:
    cut = Cut(make_database(backend))
    yield cut
    cut.close()


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
@pytest.mark.parametrize("most", [None, 3])
def test_a_change_whose_answer_is_lost_is_made_once(
    make_app: MakeApp, cut: Cut, most: int | None
) -> None:
    """The server has stored it, and the connection breaks before it can say so: it is
    there once, and so is the login.
    """
    app = add_views(make_app(cut.uri, SESSION_MAX_PER_USER=most))
    client = app.test_client()

    def append() -> str:
        session.setdefault("cart", []).append("tea")
        return "ok"

    visit(client, append)
    with told_by(session_merged, app) as merged:
        cut.lose_answer("UPDATE")
        assert visit(client, append).status_code == 200
        assert cut.has_cut
        assert client.get("/all").json == {"cart": ["tea", "tea"]}
        cut.lose_answer("UPDATE")
        assert client.get("/set/_user_id/ann").status_code == 200
        assert cut.has_cut
    assert merged == []
    assert client.get("/all").json == {"cart": ["tea", "tea"], "_user_id": "ann"}
    assert len(rows(app)) == 1


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
@pytest.mark.parametrize("after", [0, 1])
def test_a_merge_whose_answer_is_lost_is_made_once(
    make_app: MakeApp, cut: Cut, after: int
) -> None:
    """Another request has appended something, too; each of both is there once, whether
    the answer is lost that tells of it, or that to the merge.
    """
    client = add_views(make_app(cut.uri)).test_client()
    client.get("/set/a/1")
    other = same_browser(client)

    def append(item: str) -> str:
        session.setdefault("cart", []).append(item)
        return "ok"

    def meanwhile() -> None:
        visit(other, lambda: append("milk"))
        cut.lose_answer("UPDATE", after)

    assert during(client, lambda: append("tea"), meanwhile).status_code == 200
    assert cut.has_cut
    assert client.get("/all").json == {"a": "1", "cart": ["milk", "tea"]}


@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
@pytest.mark.parametrize("path", ["/clear", "/pop/_user_id"])
def test_a_logout_whose_answer_is_lost_is_one(
    make_app: MakeApp, cut: Cut, path: str
) -> None:
    """The session is gone, the cookie is cleared, and it is told of."""
    app = add_views(make_app(cut.uri))
    client = app.test_client()
    client.get("/set/_user_id/ann")
    with told_by(session_ended, app) as ended:
        cut.lose_answer("DELETE")
        response = client.get(path)
    assert cut.has_cut
    assert response.status_code == 200
    assert client.get_cookie("session") is None
    assert [each.user_id for each in ended] == ["ann"]
    assert rows(app) == []


@pytest.mark.parametrize(
    ("word", "after"),
    [("DELETE", 0), ("COMMIT", 1)],  # READ COMMITTED is said before
    ids=["undone", "done"],
)
@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_an_end_whose_answer_is_lost_is_reported(
    make_app: MakeApp, cut: Cut, word: str, after: int
) -> None:
    """Who ends a user's sessions is told how many there were, and so is whoever
    listens, each once.
    """
    app = add_views(make_app(cut.uri))
    clients = [app.test_client() for _ in range(3)]
    for client in clients:
        client.get("/set/_user_id/ann")
    clients[0].get("/set/a/1")
    with told_by(session_ended, app) as ended, app.app_context():
        cut.lose_answer(word, after)
        assert Session().revoke_user("ann") == 3
        assert cut.has_cut
        assert Session().revoke_user("ann") == 0
    assert len({each.handle for each in ended}) == len(ended) == 3
    assert [client.get("/all").json for client in clients] == [{}] * 3


@pytest.mark.parametrize("late", [0, 0.4], ids=["answer", "late"])
@pytest.mark.parametrize("most", [None, 1])
@pytest.mark.parametrize("backend", on("postgresql", "mariadb"))
def test_a_session_that_is_begun_twice_is_one(
    make_app: MakeApp, cut: Cut, most: int | None, late: float
) -> None:
    """The connection breaks while a login begins a session: it is logged in, once, and
    after the logout its token opens nothing, though the server has run the first
    statement since.
    """
    app = add_views(make_app(cut.uri, SESSION_MAX_PER_USER=most))
    assert rows(app) == []
    client = app.test_client()
    cut.lose_answer("INSERT", late=late)
    assert client.get("/set/_user_id/ann").status_code == 200
    assert cut.has_cut
    assert client.get("/all").json == {"_user_id": "ann"}
    held = token(client)
    client.get("/clear")
    time.sleep(2 * late)
    assert browser_with(app, held).get("/all").json == {}
    # In a transaction that comes late there is nobody to commit it.
    assert len(rows(app)) == bool(late and most is None)


def change() -> None:
    session["a"] = 2


def restart() -> None:
    session.clear()
    session["b"] = 1


@pytest.mark.parametrize(
    "write", [change, restart, lambda: session.clear(), lambda: session.pop("a")]
)
def test_what_was_stored_survives_an_outage(
    app: Flask, client: FlaskClient, outage: Outage, write: Callable[[], object]
) -> None:
    """Changed, restarted or ended in vain: the session is as it was, and so is the
    browser's cookie.
    """
    client.get("/set/a/1")
    before = rows(app)

    def view() -> str:
        session.get("a")
        outage.begin()
        write()
        return "ok"

    response = visit(client, view)
    outage.end()
    assert (response.status_code, cookie(response)) == (503, None)
    assert before == rows(app)
    assert client.get("/get/a").text == "'1'"


def test_the_applications_own_error_page_is_used(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """A 503 goes through the error handlers, which may look at the session: it is an
    empty one by then.
    """

    @app.errorhandler(503)
    def sorry(error: ServiceUnavailable) -> tuple[str, int, dict[str, str]]:
        assert isinstance(error, SessionStoreUnavailableError)
        page = render_template_string("Sorry, {{ session.get('name', 'visitor') }}.")
        return page, 503, {"Retry-After": "30"}

    client.get("/set/name/ann")
    outage.begin()
    loading = client.get("/get/name")
    fresh = app.test_client().get("/set/a/1")
    outage.end()
    for response in (loading, fresh):
        assert response.status_code == 503
        assert response.text.startswith("Sorry, ")
        assert response.headers["Retry-After"] == "30"
        assert response.headers["Vary"] == "Cookie"
    assert loading.text == "Sorry, visitor."


@pytest.mark.parametrize("path", ["/plain", "/static/no.css", "/error"])
def test_an_extension_that_reads_every_session(
    app: Flask,
    client: FlaskClient,
    outage: Outage,
    path: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Flask-Login looks at the session after every request. Pages that need none are
    what they are without an outage, and the log has the outage's one line.
    """
    app.add_url_rule("/plain", "plain", lambda: "plain")
    app.add_url_rule("/error", "error", lambda: abort(418))

    @app.after_request
    def look(response: Response) -> Response:
        response.headers["X-User"] = session.get("user", "nobody")
        return response

    client.get("/set/user/ann")
    before = client.get(path)
    assert "ann" == before.headers["X-User"]
    caplog.clear()
    outage.begin()
    loaded = [client.get(path) for _ in range(3)]
    outage.end()

    assert [before.status_code] * 3 == [each.status_code for each in loaded]
    assert {before.text} == {each.text for each in loaded}
    assert {"nobody"} == {each.headers["X-User"] for each in loaded}
    assert {None} == {cookie(each) for each in loaded}
    assert 1 == len([each for each in caplog.records if each.levelname != "INFO"])
    assert "'ann'" == client.get("/get/user").text


@pytest.mark.parametrize("moment", ["request_finished", "teardown"])
def test_what_reads_the_session_after_the_response(
    app: Flask, client: FlaskClient, outage: Outage, moment: str
) -> None:
    """A receiver that counts visits, or a function that cleans up, fails no page."""
    users: list[str] = []

    def look(*_: object, **__: object) -> None:
        users.append(session.get("user", "nobody"))

    if moment == "teardown":
        app.teardown_request(look)
    else:
        request_finished.connect(look, app)
    client.get("/set/user/ann")
    outage.begin()
    page = client.get("/")
    file = client.get("/static/no.css")
    outage.end()

    assert ("hello", 200, 404) == (page.text, page.status_code, file.status_code)
    assert ["ann", "nobody", "nobody"] == users


@pytest.fixture
def error_pages(app: Flask) -> Flask:
    """An application whose pages for errors greet the user, as those of most do."""
    page = "{{ session.get('user', 'nobody') }}"
    for code in (403, 404, 500):
        app.register_error_handler(
            code, lambda error, code=code: (render_template_string(page), code)
        )

    @app.get("/bug")
    def bug() -> str:
        raise ZeroDivisionError

    app.add_url_rule("/no", "no", lambda: abort(403))
    app.testing = False
    return app


def test_error_pages_that_read_the_session(
    error_pages: Flask,
    client: FlaskClient,
    outage: Outage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They are the pages that they are without an outage. The log has the outage's one
    line and the error of the view.
    """
    client.get("/set/user/ann")
    paths = {"/static/no.css": 404, "/no": 403, "/bug": 500}
    before = {path: client.get(path) for path in paths}
    caplog.clear()
    outage.begin()
    during = {path: client.get(path) for path in paths}
    needed = client.get("/get/user")
    outage.end()

    for pages, user in ((before, "ann"), (during, "nobody")):
        assert paths == {path: page.status_code for path, page in pages.items()}
        assert {user} == {page.text for page in pages.values()}
    assert 503 == needed.status_code
    _, error = [each for each in caplog.records if each.levelname == "ERROR"]
    assert error.exc_info is not None
    assert ZeroDivisionError is error.exc_info[0]
    assert "'ann'" == client.get("/get/user").text


def test_a_view_that_reads_the_session_in_its_own_error(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """It needs the session as any view does: nobody is taken for a stranger."""
    client.get("/set/user/ann")

    def view() -> str:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            return str(session.get("user", "a stranger"))

    outage.begin()
    response = visit(client, view)
    outage.end()
    assert 503 == response.status_code


def test_an_error_page_that_writes_to_the_session(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """What it says in the next page cannot be stored: a 503."""

    @app.errorhandler(403)
    def again(error: Exception) -> Response:
        flash("You may not do that.")
        return cast(Response, redirect("/"))

    app.add_url_rule("/no", "no", lambda: abort(403))
    client.get("/set/user/ann")
    outage.begin()
    response = client.get("/no")
    outage.end()
    assert 503 == response.status_code
    assert "'ann'" == client.get("/get/user").text
    assert 302 == client.get("/no").status_code


def test_who_listens_to_errors_and_reads_the_session(
    app: Flask,
    client: FlaskClient,
    outage: Outage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A reporter that adds the user keeps no error of a view out of the log."""
    app.testing = False
    users: list[str] = []

    def report(*_: object, **__: object) -> None:
        users.append(session.get("user", "nobody"))

    def bug() -> str:
        raise ZeroDivisionError

    client.get("/set/user/ann")
    outage.begin()
    with got_request_exception.connected_to(report, app):
        response = visit(client, bug)
    outage.end()

    assert (500, ["nobody"]) == (response.status_code, users)
    assert "ZeroDivisionError" in caplog.text


def test_an_extension_that_writes_every_session(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """What it writes cannot be stored: a 503, and the session is as it was."""

    @app.after_request
    def count(response: Response) -> Response:
        session["count"] = session.get("count", 0) + 1
        return response

    app.add_url_rule("/plain", "plain", lambda: "plain")
    client.get("/plain")
    before = rows(app)
    outage.begin()
    plain = client.get("/plain")
    outage.end()
    assert (503, None) == (plain.status_code, cookie(plain))
    assert before == rows(app)


def test_a_view_that_hides_the_error_cannot_store(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """Caught, the error leaves an empty session: nobody is logged in, and what is
    written to it is refused with a 503, not stored over the real one.
    """
    client.get("/set/user/ann")
    before = rows(app)

    def reads() -> str:
        try:
            return str(session["user"])
        except SessionStoreUnavailableError:
            return repr(session.get("user"))

    def writes() -> str:
        session["last"] = reads()
        return "ok"

    outage.begin()
    read, written = visit(client, reads), visit(client, writes)
    outage.end()
    assert (read.status_code, read.text, cookie(read)) == (200, "None", None)
    assert (written.status_code, cookie(written)) == (503, None)
    assert before == rows(app)


def test_a_logout_in_vain_is_not_passed_over(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """Clearing a session that could not be loaded is a 503, not a farewell."""
    client.get("/set/user/ann")

    def logout() -> str:
        with suppress(SessionStoreUnavailableError):
            session.get("user")
        session.clear()
        return "bye"

    outage.begin()
    response = visit(client, logout)
    outage.end()
    assert (response.status_code, cookie(response)) == (503, None)
    assert client.get("/get/user").text == "'ann'"


@pytest.mark.parametrize("logout", ["pop", "regenerate"])
def test_a_logout_after_the_view_is_not_passed_over(
    app: Flask, client: FlaskClient, outage: Outage, logout: str
) -> None:
    """Where the session could not be read, nobody is told that it has worked."""

    @app.after_request
    def end(response: Response) -> Response:
        if request.path == "/" and logout == "pop":
            session.pop("_user_id", None)
        elif request.path == "/":
            typed_session.regenerate()
        return response

    client.get("/set/_user_id/ann")
    outage.begin()
    response = client.get("/")
    outage.end()
    assert (503, None) == (response.status_code, cookie(response))
    assert "'ann'" == client.get("/get/_user_id").text
    assert 200 == client.get("/").status_code


def test_a_log_filter_may_look_at_the_session(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """What is logged while the session is read finds an empty one, and not its way
    back into reading it.
    """
    client.get("/set/user/ann")
    seen: list[object] = []

    def note_user(record: logging.LogRecord) -> bool:
        seen.append(session.get("user"))
        return True

    logger = logging.getLogger("flask_sessionsql.storage.outages")
    logger.addFilter(note_user)
    outage.begin()
    response = client.get("/get/user")
    outage.end()
    logger.removeFilter(note_user)
    assert response.status_code == 503
    assert seen == [None]


def test_the_applications_teardown_functions_run_once(
    make_app: MakeApp, database_uri: str
) -> None:
    """The first use of a session begins no context within the request's, whose end
    the application would take for the request's.
    """
    app = add_views(make_app(database_uri, SQLAlchemy().init_app))
    app.before_request(lambda: setattr(g, "thing", 1))
    ended: list[int] = []

    @app.teardown_appcontext
    def give_back(error: BaseException | None) -> None:
        ended.append(g.pop("thing"))

    client = app.test_client()
    assert client.get("/set/a/1").status_code == 200
    assert client.get("/get/a").text == "'1'"
    assert ended == [1, 1]
    app.teardown_appcontext_funcs.remove(give_back)


def test_a_file_that_was_to_be_sent_is_closed(
    app: Flask, client: FlaskClient, outage: Outage
) -> None:
    """The body that a 503 takes the place of is not left open."""
    body = io.BytesIO(b"a file")

    def view() -> Response:
        session["downloads"] = 1
        return Response(body, direct_passthrough=True)

    outage.begin()
    response = visit(client, view)
    outage.end()
    assert response.status_code == 503
    assert "database cannot be reached" in response.text
    assert body.closed


def test_a_streamed_body_can_read_the_session(client: FlaskClient) -> None:
    """stream_with_context keeps the session that the request had."""
    client.get("/set/a/1")

    def view() -> Response:
        session.get("a")

        def body() -> Iterator[str]:
            yield session["a"]

        return Response(stream_with_context(body()))

    assert visit(client, view).text == "1"


@pytest.mark.parametrize("extended", [False, True])
def test_a_streamed_body_takes_nobody_for_a_stranger(
    app: Flask, client: FlaskClient, outage: Outage, extended: bool
) -> None:
    """If it reads the session first and cannot, it breaks off, though an extension has
    looked at the session after the view.
    """

    @app.after_request
    def look(response: Response) -> Response:
        if extended:
            session.get("user")
        return response

    client.get("/set/user/ann")

    def view() -> Response:
        def body() -> Iterator[str]:
            yield session.get("user", "a stranger")

        return Response(stream_with_context(body()))

    outage.begin()
    with pytest.raises(SessionStoreUnavailableError):
        visit(client, view)
    outage.end()
    assert visit(client, view).text == "ann"


def test_a_missing_table_is_no_503(make_app: MakeApp, empty_database_uri: str) -> None:
    """With SESSION_CREATE_TABLE off, the error tells the developer what to do."""
    app = add_views(make_app(empty_database_uri, SESSION_CREATE_TABLE=False))
    with pytest.raises(SessionTableError, match="Run the migration"):
        app.test_client().get("/set/a/1")


def test_a_missing_table_stays_an_error_for_who_hides_it(
    make_app: MakeApp, empty_database_uri: str
) -> None:
    """Caught while reading, it is raised again when something is to be stored."""
    app = add_views(make_app(empty_database_uri, SESSION_CREATE_TABLE=False))
    client = app.test_client()
    client.set_cookie("session", "x" * 43)

    def view() -> str:
        with pytest.raises(SessionTableError):
            session.get("a")
        session["a"] = 1
        return "ok"

    with pytest.raises(SessionTableError):
        visit(client, view)


# Rows that nobody has written.

CANARY = "the canary was touched"


class Canary:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.path, CANARY))


GOOD = MsgpackSerializer().dumps({"key": "value", "list": [1, (2, 3)]})
DAMAGED = {
    "empty": b"",
    "format only": GOOD[:1],
    "truncated": GOOD[:-3],
    "foreign": b'{"key": "value"}',
    "of another format": b"\x02" + GOOD[1:],
    "of an unknown type": b"\x01\x81\xa1a\xd4\x7f\x00",
    "no mapping": b"\x01\x93\x01\x02\x03",
    "zeros": b"\0" * 100,
    "nested without end": b"\x01" + b"\x91" * 100_000,
    "with a huge length": b"\x01\xdf\xff\xff\xff\xff",
    "not UTF-8": b"\x01\x81\xa1\xff\x01",
}


def damage(app: Flask, **values: Any) -> None:
    """Write to the only row, past the store."""
    store = store_of(app)
    with store.engine.connect() as connection:
        connection.execute(sa.update(store.table).values(values))


def check_unreadable(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The session is empty, the row stays, the log has one line, and life goes on."""
    (row,) = rows(app)
    caplog.clear()
    response = client.get("/all")
    assert (response.status_code, response.json) == (200, {})
    assert cookie(response) is None
    (line,) = caplog.messages
    assert line.startswith(f"Session '{row.handle}' cannot be read: ")
    assert token(client) not in line
    old = token(client)
    assert client.get("/set/new/1").status_code == 200
    assert token(client) != old
    assert client.get("/all").json == {"new": "1"}
    assert len(rows(app)) == 2


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_row_is_an_empty_session(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Never a 500: an empty session, and one line in the log with the handle."""
    client.get("/set/key/value")
    damage(app, data=DAMAGED[kind])
    check_unreadable(app, client, caplog)


def test_a_pickle_in_the_table_is_never_executed(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Who can write to the table cannot run code, whatever stands before the pickle."""
    evil = tmp_path / "evil"
    assert pickle.loads(pickle.dumps(Canary(evil))) == len(CANARY)
    evil.unlink()
    client.get("/set/key/value")
    for prefix in (b"", b"\x01"):
        for protocol in (0, 5):
            damage(app, data=prefix + pickle.dumps(Canary(evil), protocol))
            assert client.get("/all").json == {}
    assert not evil.exists()
    check_unreadable(app, client, caplog)


@pytest.mark.parametrize(
    "values",
    [
        {"data": "a text"},
        {"version": "many"},
        {"expires_at": "never"},
        {"created_at": 1.5},
    ],
)
def test_columns_of_the_wrong_type_are_an_empty_session(
    make_app: MakeApp,
    make_database: MakeDatabase,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, Any],
) -> None:
    """SQLite stores any type in any column; a row like that is no session."""
    app = add_views(make_app(make_database("sqlite-file")))
    client = app.test_client()
    client.get("/set/key/value")
    (name, value) = next(iter(values.items()))
    with store_of(app).engine.connect() as connection:
        statement = f"UPDATE flask_sessionsql SET {name} = :value"
        connection.execute(sa.text(statement), {"value": value})
    response = client.get("/all")
    assert (response.status_code, response.json) == (200, {})
    assert "cannot be read" in caplog.text
    assert client.get("/set/new/1").status_code == 200
    assert client.get("/all").json == {"new": "1"}


def test_an_end_beyond_all_dates_is_mended(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """A row tampered with to live for ever gets the usual end when it changes."""
    app = add_views(make_app(make_database("sqlite-file")))
    client = app.test_client()
    client.get("/set/key/value")
    damage(app, expires_at=2**60)
    assert client.get("/get/key").text == "'value'"
    assert client.get("/set/key/other").status_code == 200
    assert rows(app)[0].expires_at < 2**40


def test_a_row_that_can_be_read_and_not_written(
    app: Flask, client: FlaskClient
) -> None:
    """A value that is nested deeper than is stored, by whatever hand, can be looked at,
    and stays as it is where others change; who changes it is told what is wrong.
    """
    client.get("/set/key/value")
    deep = b"\x91" * 60 + b"\x01"
    damage(app, data=b"\x01\x82\xa1a\xc4\x01\x01\xa4deep\xc4" + bytes([61]) + deep)
    assert client.get("/get/a").text == "1"
    shown = client.get("/get/deep")
    assert (shown.status_code, shown.text) == (200, "[" * 60 + "1" + "]" * 60)
    assert client.get("/set/a/2").status_code == 200
    assert (client.get("/get/a").text, client.get("/get/deep").text) == (
        "'2'",
        shown.text,
    )

    def change() -> str:
        session["deep"].append(2)
        return "ok"

    with pytest.raises(SessionValueError, match=r"session\['deep'\].*nested"):
        visit(client, change)
    assert client.get("/get/deep").text == shown.text


def test_a_value_that_cannot_be_read(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session is an empty one from the moment on that somebody asks for it, and the
    log says so once; nobody is told an error, and the row is left as it is.
    """
    client.get("/set/a/1")
    damage(app, data=b"\x01\x82\xa1a\xc4\x01\x01\xa3bad\xc4\x02\x91\xc1")
    assert client.get("/get/a").text == "1"
    assert "cannot be read" not in caplog.text

    def look() -> dict[str, Any]:
        found: list[Any] = [session["a"], session.get("bad", "gone")]
        found += [session.get("a"), len(session), session.get("bad")]
        return {"found": found, "handle": typed_session.handle}

    assert visit(client, look).json == {
        "found": [1, "gone", None, 0, None],
        "handle": None,
    }
    assert client.get("/get/bad").text == "None"
    assert caplog.text.count("cannot be read") == 2
    [row] = rows(app)
    assert row.data.startswith(b"\x01\x82")
    assert client.get("/set/new/1").status_code == 200
    assert client.get("/get/new").text == "'1'"


def test_a_user_that_cannot_be_read(app: Flask, client: FlaskClient) -> None:
    """The session is an empty one from the beginning."""
    client.get("/set/_user_id/ann")
    damage(app, data=b"\x01\x82\xa1a\xc4\x01\x01\xa8_user_id\xc4\x02\x91\xc1")
    assert client.get("/all").json == {}
    assert client.get("/get/a").text == "None"
    assert client.get("/set/a/2").status_code == 200
    assert client.get("/all").json == {"a": "2"}


def test_a_row_damaged_while_it_is_changed(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The change is dropped with a line in the log; the damaged row is left alone."""
    client.get("/set/key/value")

    def view() -> str:
        session["key"] = "other"
        damage(app, data=b"garbage", version=7)
        return "ok"

    caplog.set_level(logging.INFO)
    response = visit(client, view)
    assert (response.status_code, cookie(response)) == (200, None)
    assert bytes(rows(app)[0].data) == b"garbage"
    assert len(caplog.messages) == 2


# Tokens that nobody has issued.

MALFORMED = [
    "",
    "short",
    "x" * 21,
    "x" * 367,
    "x" * 5000,
    "../../etc/passwd-and-more",
    "' OR 1=1 --            ",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx%00",
    "\u00e9" * 43,
    "x" * 20 + " " + "x" * 22,
    '"' + "x" * 43 + '"x',
]


def read_with(app: Flask, header: str) -> TestResponse:
    """A request with exactly this Cookie header."""
    browser = app.test_client(use_cookies=False)
    return browser.get("/get/key", headers={"Cookie": header})


@pytest.mark.parametrize("value", MALFORMED)
def test_a_malformed_token_is_not_looked_up(
    make_app: MakeApp, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What has not the shape of a token reaches neither the database, which is down
    here, nor the log.
    """
    app = add_views(make_app(UNREACHABLE[0]))
    caplog.set_level(logging.DEBUG)
    response = read_with(app, f"session={value}")
    assert (response.status_code, response.text) == (200, "None")
    assert cookie(response) is None
    assert caplog.text == ""
    assert read_with(app, f"session={'x' * 43}").status_code == 503


def test_unknown_tokens_make_no_rows(app: Flask, client: FlaskClient) -> None:
    """300 readers with tokens that nobody has issued leave nothing (CVE-2015-5143),
    and get no cookie: a late answer must not log anybody out.
    """
    for number in range(300):
        client.set_cookie("session", f"{number:043d}")
        assert cookie(client.get("/get/key")) is None
    assert rows(app) == []


def test_a_token_from_outside_is_never_adopted(app: Flask, client: FlaskClient) -> None:
    """Writing with an unknown token begins a session under a new one."""
    planted = "p" * 43
    client.set_cookie("session", planted)
    client.get("/set/key/value")
    assert token(client) != planted
    client.set_cookie("session", planted)
    assert client.get("/get/key").text == "None"


def test_tokens_that_differ_a_little_are_different(
    app: Flask, client: FlaskClient
) -> None:
    """No case, padding, order or Unicode form makes two tokens one (CVE-2026-25480)."""
    client.get("/set/key/value")
    real = token(client)
    assert read_with(app, f"session={real}").text == "'value'"
    for other in (real.swapcase(), real + "A", real[:-1], real[::-1], real + "\u0301"):
        assert read_with(app, f"session={other}").text == "None"


def test_of_two_cookies_the_first_counts(app: Flask, client: FlaskClient) -> None:
    """Browsers send the cookie of the longer path first (RFC 6265, section 5.4)."""
    client.get("/set/key/value")
    real, other = f"session={token(client)}", f"session={'x' * 43}"
    assert read_with(app, f"a=1; {real}; {other}").text == "'value'"
    assert read_with(app, f"a=1; {other}; {real}").text == "None"


def test_a_cookie_without_a_name_is_not_the_sessions(
    app: Flask, client: FlaskClient
) -> None:
    """``=session=token`` is not read as the session's cookie (CVE-2023-23934)."""
    client.get("/set/key/value")
    assert read_with(app, f"=session={token(client)}").text == "None"


def test_a_token_in_the_address_is_ignored(app: Flask, client: FlaskClient) -> None:
    """Only the cookie opens a session."""
    client.get("/set/key/value")
    path = f"/get/key?session={token(client)}&sid={token(client)}"
    assert app.test_client().get(path).text == "None"


def test_a_copy_of_the_table_logs_nobody_in(app: Flask, client: FlaskClient) -> None:
    """The token is in no column, and nothing in the row opens a session
    (CVE-2019-16782).
    """
    client.get("/set/key/value")
    (row,) = rows(app)
    held = token(client)
    everything = b"|".join(
        bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode()
        for value in row
    )
    assert held.encode() not in everything
    key = bytes(row.id)
    encoded = base64.urlsafe_b64encode(key).decode().rstrip("=")
    for value in (row.handle, row.handle * 3, key.hex(), encoded):
        assert read_with(app, f"session={value}").text == "None"


def test_no_token_is_ever_logged_or_shown(
    make_app: MakeApp, shared_database_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Begun, read, changed, moved, damaged, refused and ended with every log at DEBUG
    and SQLALCHEMY_ECHO on: neither the token nor a value is in a line or a repr.
    """
    app = add_views(make_app(shared_database_uri, SQLALCHEMY_ECHO=True))
    caplog.set_level(logging.DEBUG)
    client = app.test_client()
    seen: set[str] = set()

    def look() -> str:
        opened: Any = session._get_current_object()  # type: ignore[attr-defined]
        opened.get("secret")
        return repr((opened, opened._source.record, app.session_interface))

    shown = []
    for path in ("/set/secret/hush", "/get/secret", "/set/_user_id/5", "/run"):
        app.extensions["view"] = look
        shown.append(client.get(path).text)
        seen.add(token(client))
    damage(app, data=b"garbage")
    client.get("/get/secret")
    client.get("/set/secret/hush")
    seen.add(token(client))
    client.get("/clear")
    forged = {"HTTP_COOKIE": "session=line\r\nbreak" + "x" * 40}
    app.test_client(use_cookies=False).get("/get/secret", environ_overrides=forged)
    assert len(seen) == 3
    text = caplog.text + shown[-1]
    assert "UPDATE flask_sessionsql" in text
    assert re.search(r"<ServerSideSession \(2 keys\)>, <SessionRecord '\w{16}'>", text)
    assert not [held for held in seen if held in text]
    assert "hush" not in text
    assert "break" not in text
