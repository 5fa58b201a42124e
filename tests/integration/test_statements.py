"""What a request costs in SQL statements: counted, and as documented."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient

from flask_sessionsql import FlaskSQLAlchemySessionInterface
from tests.conftest import store_of
from tests.helpers import Clock
from tests.integration.helpers import add_views, rows, token, visit


@pytest.fixture
def app(app: Flask) -> Flask:
    return add_views(app)


class Counter:
    """Notes the first word of each statement that the sessions run."""

    def __init__(self, app: Flask) -> None:
        self.engine = store_of(app).engine
        self.statements: list[str] = []
        sa.event.listen(self.engine, "before_cursor_execute", self._note)

    def _note(self, *arguments: Any) -> None:
        self.statements.append(str(arguments[2]).split()[0])

    def stop(self) -> None:
        sa.event.remove(self.engine, "before_cursor_execute", self._note)


@pytest.fixture
def counter(app: Flask) -> Iterator[Counter]:
    rows(app)  # the table is there
    counter = Counter(app)
    yield counter
    counter.stop()


def documented() -> dict[str, list[str]]:
    """The table in the documentation: what a request does, and its statements."""
    text = inspect.cleandoc(FlaskSQLAlchemySessionInterface.__doc__ or "")
    table = re.split(r"^=+ =+$", text, flags=re.M)[2]
    found = {}
    for line in table.strip().splitlines():
        request, statements = re.split(" {2,}", line)
        number, _, words = statements.partition(": ")
        found[request] = words.split(", ") if words else []
        assert (str(len(found[request])) if words else "nothing") == number
    return found


def anonymous(client: FlaskClient, clock: Clock) -> None:
    fresh = client.application.test_client()
    fresh.get("/get/a")
    fresh.get("/clear")


def conflict(client: FlaskClient, clock: Clock) -> None:
    store = store_of(client.application)

    def view() -> str:
        session["b"] = "mine"
        # Another request's write, past the counted engine.
        other = sa.update(store.table).values(version=store.table.c.version + 1)
        COUNTER_FREE[0](other)
        return "ok"

    visit(client, view)


#: Runs a statement that is not counted.
COUNTER_FREE: list[Callable[[sa.Update], None]] = []


def later(client: FlaskClient, clock: Clock) -> None:
    clock.now += 24 * 3600
    client.set_cookie("session", token(client))
    client.get("/get/a")


REQUESTS: dict[str, Callable[[FlaskClient, Clock], Any]] = {
    "has no session and begins none": anonymous,
    "does not touch its session": lambda client, clock: client.get("/"),
    "reads its session": lambda client, clock: client.get("/get/a"),
    "begins a session": lambda client, clock: client.application.test_client().get(
        "/set/a/1"
    ),
    "changes its session": lambda client, clock: client.get("/set/a/2"),
    "changes the user, and so the token": lambda client, clock: client.get(
        "/set/_user_id/2"
    ),
    "ends its session": lambda client, clock: client.get("/clear"),
    "reads it and moves its end": later,
    "meets another's change": conflict,
}


def test_every_documented_request_is_counted() -> None:
    """The table in the documentation has the requests of this test, and no others."""
    assert set(REQUESTS) == set(documented())


@pytest.mark.parametrize("request_kind", REQUESTS)
def test_a_request_costs_what_the_documentation_says(
    app: Flask,
    client: FlaskClient,
    counter: Counter,
    clock: Clock,
    request_kind: str,
) -> None:
    """Counted on every database: these statements, in this order, and no more."""
    client.get("/set/a/1")

    def uncounted(statement: sa.Update) -> None:
        counter.stop()
        with counter.engine.connect() as connection:
            connection.execute(statement)
        sa.event.listen(counter.engine, "before_cursor_execute", counter._note)

    COUNTER_FREE[:] = [uncounted]
    counter.statements.clear()
    REQUESTS[request_kind](client, clock)
    assert documented()[request_kind] == counter.statements
