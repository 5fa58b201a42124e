"""What error reporters send: the variables of every frame that an error has passed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
from flask import Flask, got_request_exception
from flask.testing import FlaskClient
from werkzeug.exceptions import InternalServerError

from flask_sessionsql import (
    SessionError,
    SessionLimitError,
    SessionStoreUnavailableError,
    SessionTableError,
    session,
)
from tests.conftest import MakeApp
from tests.helpers import store_of
from tests.integration.helpers import add_views, token, visit

#: The application's own frames, and those of what has the request, and so its cookies.
NOT_OURS = [__file__, "/flask/", "/werkzeug/"]
#: A value of the session, wherever it turns up.
SECRET = "hush-hush"

pytestmark = pytest.mark.parametrize("answered", [False, True])


@pytest.fixture
def reports() -> list[str]:
    """What was sent."""
    return []


@pytest.fixture
def app(
    make_app: MakeApp, shared_database_uri: str, answered: bool, reports: list[str]
) -> Flask:
    """An application whose errors are reported: where it makes a page for them, or
    where Flask does.
    """
    limits: dict[str, Any] = {"SESSION_MAX_BYTES": 2_000, "SESSION_MAX_PER_USER": 1}
    limits |= {"SESSION_MAX_PER_USER_POLICY": "refuse"}
    app = add_views(make_app(shared_database_uri, **limits))
    app.config["PROPAGATE_EXCEPTIONS"] = False
    if answered:

        @app.errorhandler(SessionError)
        @app.errorhandler(AttributeError)
        @app.errorhandler(KeyError)
        @app.errorhandler(ValueError)
        def page(error: Exception) -> tuple[str, int]:
            reports.append(sent_of(error))
            return "Sorry!", 500

    return app


def errors_of(error: BaseException) -> Iterator[BaseException]:
    """It and those that it came from."""
    left, seen = [error], set()
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            left += [x for x in (each.__cause__, each.__context__) if x is not None]


def walked(variables: Mapping[str, Any]) -> dict[str, str]:
    """The variables, as reporters send them: of a mapping, which the session is, too,
    many send what it holds, and not how it represents itself.
    """
    return {
        name: repr(dict(value) if isinstance(value, Mapping) else value)
        for name, value in variables.items()
    }


def sent_of(error: BaseException) -> str:
    """What a reporter sends of an error: the frames that are not the application's own,
    and the errors themselves.
    """
    sent = []
    for each in errors_of(error):
        sent += [repr(each), str(each), repr(vars(each))]
        trace: TracebackType | None = each.__traceback__
        while trace is not None:
            code = trace.tb_frame.f_code
            if not any(part in code.co_filename for part in NOT_OURS):
                sent.append(f"{code.co_qualname}: {walked(trace.tb_frame.f_locals)}")
            trace = trace.tb_next
    return "\n".join(sent)


def store_object() -> None:
    session["bad"] = object()


def store_object_deep() -> None:
    session["basket"] = {"a": [SECRET, {"inner": [object()]}]}


def store_object_by_number() -> None:
    session[7] = {"a": SECRET, "b": object()}


def store_too_much() -> None:
    session["much"] = SECRET * 1_000


def store_user() -> None:
    session["_user_id"] = SECRET + "x" * 300


def ask_for_what_is_not_there() -> None:
    dict(session)  # it is all decoded
    session["basket"].append(SECRET)
    session["missing"]


def take_out_what_is_not_there() -> None:
    session["basket"].append(SECRET)
    del session["missing"]


def pop_what_is_not_there() -> None:
    session["basket"].append(SECRET)
    session.pop("missing")


def set_an_end_that_is_past() -> None:
    dict(session)
    session.set_expiry(timedelta(0))


def set_a_lifetime_of_nothing() -> None:
    dict(session)
    session.set_lifetime(timedelta(0))


def set_what_cannot_be_set() -> None:
    dict(session)
    session.new = False


def fill() -> str:
    session.update(basket=[SECRET], name=SECRET)
    return "ok"


FAULTS = {
    "an object": store_object,
    "an object, deep": store_object_deep,
    "an object by number": store_object_by_number,
    "too much": store_too_much,
    "a user": store_user,
    "a missing key": ask_for_what_is_not_there,
    "deleting a missing key": take_out_what_is_not_there,
    "popping a missing key": pop_what_is_not_there,
    "an end that is past": set_an_end_that_is_past,
    "a lifetime of nothing": set_a_lifetime_of_nothing,
    "an attribute": set_what_cannot_be_set,
}


@contextmanager
def reporting(app: Flask, reports: list[str], held: str) -> Iterator[None]:
    """Whatever is reported holds neither the token nor a value."""

    def receive(sender: Flask, exception: BaseException, **_: object) -> None:
        reports.append(sent_of(exception))

    with got_request_exception.connected_to(receive, app):
        yield
    assert reports
    lines = "\n".join(reports).splitlines()
    assert [line[:60] for line in lines if SECRET in line or held in line] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_about_values_hold_none(
    app: Flask, client: FlaskClient, fault: str, reports: list[str]
) -> None:
    """Something that cannot be stored, or is not there: the report has neither what the
    session held before nor what it was to hold, nor the token.
    """
    visit(client, fill)
    held = token(client)

    with reporting(app, reports, held):
        assert visit(client, lambda: str(FAULTS[fault]())).status_code == 500


def put() -> None:
    session["more"] = SECRET


WRITES: dict[str, Callable[[], object]] = {
    "item": put,
    "update": lambda: session.update(more=SECRET),
    "update pairs": lambda: session.update([("more", SECRET)]),
    "setdefault": lambda: session.setdefault("more", SECRET),
    "ior": lambda: session.__ior__({"more": SECRET}),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("when", ["read", "write"])
def test_errors_of_the_database_hold_no_values(
    app: Flask, client: FlaskClient, when: str, write: str, reports: list[str]
) -> None:
    """Somebody has renamed a column: the statement's parameters, and with what they
    were made, stay out of the report.
    """
    # In production it is a line of the log, once a minute, and is not reported.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    visit(client, fill)
    held, store = token(client), store_of(app)

    def rename(name: str = "data", other: str = "gone") -> None:
        table = store.table.name
        with store.engine.connect() as connection:
            connection.execute(
                sa.text(f"ALTER TABLE {table} RENAME COLUMN {name} TO {other}")
            )

    def view() -> str:
        if when == "write":
            session.get("basket")
            rename()
        WRITES[write]()
        return "ok"

    if when == "read":
        rename()
    try:
        with reporting(app, reports, held), suppress(SessionTableError):
            visit(client, view)
    finally:
        rename("gone", "data")  # other tests have the same table


@pytest.mark.parametrize("kind", ["limit", "outage", "table"])
def test_errors_that_are_answered_hold_no_values(
    app: Flask,
    client: FlaskClient,
    kind: str,
    reports: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refused login, an outage, or a table that has gone, gets a page of the
    application's while the session is being saved. What reports the error there finds
    nothing either.
    """
    app.testing = False

    @app.errorhandler(SessionLimitError)
    @app.errorhandler(SessionStoreUnavailableError)
    @app.errorhandler(InternalServerError)
    def page(error: Exception) -> tuple[str, int]:
        reports.append(sent_of(error))
        return "Sorry!", 500

    def log_in() -> str:
        session.update(_user_id="1", more=SECRET)
        if kind == "table":
            rename()
        elif kind == "outage":
            monkeypatch.setattr(store_of(app).database, "change", fail)
            monkeypatch.setattr(store_of(app).database, "run", fail)
        return "ok"

    def fail(*_: object, **__: object) -> NoReturn:
        raise SessionStoreUnavailableError

    def rename(name: str = "data", other: str = "gone") -> None:
        table = store_of(app).table.name
        with store_of(app).engine.connect() as connection:
            connection.execute(
                sa.text(f"ALTER TABLE {table} RENAME COLUMN {name} TO {other}")
            )

    visit(app.test_client(), lambda: str(session.update(_user_id="1")))
    visit(client, fill)
    held = token(client)
    try:
        with reporting(app, reports, held):
            assert "Sorry!" == visit(client, log_in).text
    finally:
        if kind == "table":
            rename("gone", "data")  # other tests have the same table


def test_the_application_s_own_frames_stay(
    app: Flask, client: FlaskClient, reports: list[str]
) -> None:
    """An error that the application was handling, and its variables, are whole."""
    visit(client, fill)
    kept: list[BaseException] = []

    def fail() -> None:
        mine = "my variable"
        raise ValueError(len(mine))

    def view() -> str:
        try:
            fail()
        except ValueError as error:
            kept.append(error)
            wrong: Any = 5
            session.update(wrong)
        return "ok"

    with reporting(app, reports, token(client)):
        visit(client, view)
    [error] = kept
    assert error.__traceback__ is not None
    below = error.__traceback__.tb_next
    assert below is not None
    assert below.tb_frame.f_locals["mine"] == "my variable"
