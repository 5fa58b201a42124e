"""Sentry: what it sends of our errors, log lines and statements has nothing of the
session.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql import session, session_created
from tests.helpers import store_of
from tests.integration.helpers import add_views, rows, token, visit
from tests.neighbours.blocks import run_blocks

sentry: Any = pytest.importorskip(
    "sentry_sdk", reason="sentry-sdk comes with `nox -s neighbours`"
)
transport: Any = pytest.importorskip("sentry_sdk.transport")

#: A value of the session. It is made here, so that no line of source has it.
SECRET = "-".join(["hush", "hush"])
Sent = list[dict[str, Any]]
SetUp = Callable[..., tuple[FlaskClient, Sent]]


@pytest.fixture
def set_up() -> Iterator[SetUp]:
    """Sets Sentry up as the page does, and gives a browser with a session, and what is
    sent from then on.
    """
    apps: list[Flask] = []

    def make(**options: Any) -> tuple[FlaskClient, Sent]:
        sent: Sent = []

        class Transport(transport.Transport):  # type: ignore[misc]
            def capture_envelope(self, envelope: Any) -> None:
                sent.extend(item.payload.json for item in envelope.items)

        names = run_blocks("sentry")
        app: Flask = names["set_up"](
            "https://key@sentry.invalid/1", transport=Transport, **options
        )
        apps.append(app)
        app.config["SESSION_MAX_BYTES"] = 2_000
        client = add_views(app).test_client()
        visit(client, lambda: str(session.update(basket=[SECRET], _user_id="1")))
        sent.clear()
        return client, sent

    yield make
    sentry.init()  # without an address: off
    for app in apps:
        store_of(app).dispose()


def errors(sent: Sent) -> list[str]:
    """The names of the errors that were sent."""
    return [
        error["type"]
        for event in sent
        for error in event.get("exception", {}).get("values", [])
    ]


def assert_clean(client: FlaskClient, sent: Sent) -> None:
    """Nothing that was sent has a value of the session, its token or its key."""
    text = json.dumps(sent)
    [row] = rows(client.application)
    assert SECRET not in text
    assert token(client) not in text
    assert client.application.config["SECRET_KEY"] not in text
    assert row.id.hex() not in text
    assert repr(row.id)[2:-1] not in text


def store_object() -> None:
    session["bad"] = [SECRET + "2", object()]


def ask_for_what_is_not_there() -> str:
    dict(session)
    return str(session["missing"])


def pop_what_is_not_there() -> None:
    dict(session)
    session.pop("missing")


def set_an_end_that_is_past() -> None:
    dict(session)
    session.set_expiry(timedelta(0))


FAULTS: dict[str, Callable[[], object]] = {
    "SessionValueError": store_object,
    "KeyError": ask_for_what_is_not_there,
    "KeyError of pop()": pop_what_is_not_there,
    "ValueError": set_an_end_that_is_past,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    # Which leaves out what is named "session", by default.
    "without its scrubber": {"event_scrubber": None},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_our_errors_hold_nothing(set_up: SetUp, options: str) -> None:
    """With the variables of all frames, and with nothing filtered."""
    client, sent = set_up(include_local_variables=True, **OPTIONS[options])
    for fault, view in FAULTS.items():
        sent.clear()
        assert 500 == visit(client, view).status_code

        assert fault.split()[0] in errors(sent)
        assert '"vars"' in json.dumps(sent)
        assert_clean(client, sent)


def test_a_failing_receiver_is_logged_without_values(set_up: SetUp) -> None:
    """So is the line in the log of a signal's receiver that has failed."""
    client, sent = set_up(event_scrubber=None)

    def fail(sender: Flask, event: object) -> None:
        raise LookupError

    with session_created.connected_to(fail, client.application):
        visit(
            client.application.test_client(), lambda: str(session.update(more=SECRET))
        )
    assert "LookupError" in errors(sent)
    text = json.dumps(sent)
    assert SECRET not in text
    assert token(client) not in text


def test_statements_hold_no_values(set_up: SetUp) -> None:
    """Those of the sessions are in the spans of a request, in their order."""
    client, sent = set_up()
    visit(client, lambda: str(session.update(more=SECRET)))
    [spans] = [event["spans"] for event in sent if event.get("type") == "transaction"]
    statements = [span["description"] for span in spans if span["op"] == "db"]

    assert ["SELECT", "UPDATE"] == [each.split()[0] for each in statements]
    assert_clean(client, sent)


@pytest.mark.parametrize(
    ("name", "told"), [("session", False), ("shop", False), ("shop", True)]
)
def test_the_cookie_is_filtered(set_up: SetUp, name: str, told: bool) -> None:
    """Where cookies are sent: under its usual name, and under another one if Sentry is
    told that.
    """
    cookies = {"cookies": {"mode": "denylist", "terms": ["shop"]}} if told else {}
    client, sent = set_up(data_collection={"database_query_data": False, **cookies})
    held = token(client)
    client.application.config["SESSION_COOKIE_NAME"] = name
    client.delete_cookie("session")
    client.set_cookie(name, held)
    visit(client, ask_for_what_is_not_there)

    assert "KeyError" in errors(sent)
    assert SECRET not in json.dumps(sent)
    assert (name == "shop" and not told) == (held in json.dumps(sent))


@pytest.mark.parametrize("wanted", [False, True])
def test_values_of_statements_can_be_left_out(set_up: SetUp, wanted: bool) -> None:
    """Where other data are collected, which has them otherwise."""
    client, sent = set_up(data_collection={"database_query_data": wanted})
    visit(client, lambda: str(session.update(more=SECRET)))
    assert wanted == ("db.params" in json.dumps(sent))


def test_a_lost_table_is_reported_without_values(set_up: SetUp) -> None:
    """So is the error of a database that lacks a column."""
    client, sent = set_up(event_scrubber=None)
    app = client.application
    app.config["PROPAGATE_EXCEPTIONS"] = True
    table, engine = store_of(app).table.name, store_of(app).engine

    def rename(name: str, other: str) -> None:
        with engine.connect() as connection:
            connection.execute(
                sa.text(f"ALTER TABLE {table} RENAME COLUMN {name} TO {other}")
            )

    def view() -> str:
        session.update(more=SECRET)
        rename("data", "gone")
        return "ok"

    with pytest.raises(Exception, match=table):
        visit(client, view)
    rename("gone", "data")
    assert "SessionTableError" in errors(sent)
    assert_clean(client, sent)
