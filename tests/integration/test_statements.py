"""What a request costs in SQL statements: counted, and as documented."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, session
from flask.testing import FlaskClient

from tests.helpers import Clock, statements_on, store_of
from tests.integration.helpers import token, visit
from tests.pages import page


def documented() -> dict[str, list[str]]:
    """The table in the documentation: what a request does, and its statements."""
    table = re.split(r"^=+ =+$", page("explanations/request"), flags=re.M)[2]
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
        # Another request's write, past what is counted.
        connection = store.engine.raw_connection()
        cursor = connection.cursor()
        cursor.execute(f"UPDATE {store.table.name} SET version = version + 1")
        cursor.close()
        connection.close()
        return "ok"

    visit(client, view)


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
    "changes what another one has changed": conflict,
}


def test_every_documented_request_is_counted() -> None:
    """The table in the documentation has the requests of this test, and no others."""
    assert set(REQUESTS) == set(documented())


@pytest.mark.parametrize("request_kind", REQUESTS)
def test_a_request_costs_what_the_documentation_says(
    app: Flask, client: FlaskClient, clock: Clock, request_kind: str
) -> None:
    """Counted on every database: these statements, in this order, and no more."""
    client.get("/set/a/1")
    with statements_on(store_of(app).engine) as statements:
        REQUESTS[request_kind](client, clock)
    assert documented()[request_kind] == [text.split()[0] for text in statements]
