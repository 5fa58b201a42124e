"""What becomes of a session over SESSION_MAX_BYTES."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql import SessionTooLargeError, session
from tests.conftest import MakeApp
from tests.helpers import Clock
from tests.integration.helpers import (
    add_views,
    cookie,
    rows,
    same_browser,
    visit,
)


@pytest.fixture
def app(make_app: MakeApp, database_uri: str) -> Flask:
    return add_views(make_app(database_uri, SESSION_MAX_BYTES=1000))


def put(**values: object) -> str:
    session.update(values)
    return "ok"


def test_a_session_that_is_too_large_is_refused(
    app: Flask, client: FlaskClient
) -> None:
    """The error names its largest keys and their sizes, never a value, and what is
    stored stays as it was.
    """
    client.get("/set/a/1")
    before = rows(app)
    with pytest.raises(SessionTooLargeError) as caught:
        visit(client, lambda: put(b="secret" * 100, c=b"secret" * 200, d=1))
    error = caught.value
    assert 1000 == error.limit
    assert [("c", 1208), ("b", 608), ("a", 6), ("d", 5)] == list(error.largest)
    assert 1 + 1 + 1208 + 608 + 6 + 5 == error.size
    assert "'c' (1,208 bytes), 'b' (608 bytes)" in str(error)
    assert "secret" not in str(error) + repr(error)
    assert before == rows(app)
    app.config["TESTING"] = app.testing = False
    app.config["PROPAGATE_EXCEPTIONS"] = False
    assert 500 == visit(client, lambda: put(c="x" * 1000)).status_code
    assert {"a": "1"} == client.get("/all").json


def test_five_keys_are_named(app: Flask, client: FlaskClient) -> None:
    """Of many, the largest; and not where the session keeps what is not data."""

    def view() -> str:
        return put(**{f"k{number}": "x" * (100 + number) for number in range(20)})

    def few() -> str:
        session.permanent = False
        return put(a="x" * 1000)

    with pytest.raises(SessionTooLargeError) as caught:
        visit(client, view)
    assert [f"k{number}" for number in range(19, 14, -1)] == [
        key for key, _ in caught.value.largest
    ]
    with pytest.raises(SessionTooLargeError) as caught:
        visit(client, few)
    assert ["a"] == [key for key, _ in caught.value.largest]
    assert [] == rows(app)


def test_the_limit_is_to_the_byte(app: Flask, client: FlaskClient) -> None:
    """As many bytes as are allowed are stored, and one more is not."""
    fits = 1000 - len(b"\x01\x81\xa1a\xc5..\xda..")
    assert 200 == visit(client, lambda: put(a="x" * fits)).status_code
    [row] = rows(app)
    assert 1000 == len(row.data)
    other = app.test_client()
    with pytest.raises(SessionTooLargeError):
        visit(other, lambda: put(a="x" * (fits + 1)))
    assert 1 == len(rows(app))


def test_a_merge_that_is_too_large_is_refused(app: Flask, client: FlaskClient) -> None:
    """Two changes that fit and together do not: the one that is saved first stays."""
    client.get("/set/a/1")
    other = same_browser(client)

    def view() -> str:
        session["mine"] = "x" * 600
        visit(other, lambda: put(theirs="x" * 600))
        return "ok"

    with pytest.raises(SessionTooLargeError) as caught:
        visit(client, view)
    assert {"mine", "theirs", "a"} == {key for key, _ in caught.value.largest}
    assert {"a", "theirs"} == set(client.get("/all").json or ())


def test_what_is_over_a_lowered_limit_may_shrink(
    make_app: MakeApp, shared_database_uri: str, clock: Clock
) -> None:
    """It is read, its end moves, it may be changed and shrink; it may not grow."""
    first = add_views(make_app(shared_database_uri)).test_client()
    visit(first, lambda: put(a="x" * 2000, b="y" * 2000))
    app = add_views(make_app(shared_database_uri, SESSION_MAX_BYTES=1000))
    client = same_browser(first, app)
    clock.now += 24 * 3600
    assert cookie(client.get("/get/a")) is not None
    assert 200 == visit(client, lambda: put(a="z" * 2000)).status_code
    assert 200 == visit(client, lambda: put(a="z" * 1999)).status_code
    with pytest.raises(SessionTooLargeError):
        visit(client, lambda: put(a="z" * 2000))
    assert 200 == visit(client, lambda: put(a="", b="")).status_code
    with pytest.raises(SessionTooLargeError):
        visit(client, lambda: put(a="z" * 2000))


def test_one_mebibyte_by_default(make_app: MakeApp) -> None:
    """A session of 1 MiB is stored, and a larger one not, encrypted or not."""
    fits = 1024**2 - len(b"\x01\x81\xa1a\xc6....\xc6....")
    for encrypt in (False, True):
        app = add_views(make_app("sqlite://", SESSION_ENCRYPT=encrypt))
        client = app.test_client()
        assert 200 == visit(client, lambda: put(a=bytes(fits))).status_code
        with pytest.raises(SessionTooLargeError):
            visit(client, lambda: put(a=bytes(fits + 1)))
