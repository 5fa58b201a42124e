"""Expired rows are deleted after a response, without anybody's waiting."""

from __future__ import annotations

import http.client
import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_sessionsql import session
from flask_sessionsql.signals import SessionEnded, session_ended
from flask_sessionsql.storage.purging import purge_batch
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import gunicorn, locked_file, statements_on, store_of
from tests.integration.helpers import Passing, add_views, rows, visit

MakeShop = Callable[..., Flask]

#: Before it deletes, it waits until the browser has the response, for five seconds.
APP = """
import time
from pathlib import Path
import sqlalchemy as sa
from flask import Flask, session
from flask_sessionsql import Session

app = Flask(__name__)
app.config.update(
    SECRET_KEY="a key",
    SESSION_TYPE="flask-sqlalchemy",
    SESSION_PURGE_INTERVAL=1,
    SQLALCHEMY_DATABASE_URI={uri!r},
)
Session(app)
folder = Path(__file__).parent

@app.get("/<int:number>")
def index(number):
    app.extensions["number"] = session["number"] = number
    return "ok"

engine = app.session_interface.records.store.engine

@sa.event.listens_for(engine, "before_cursor_execute")
def note(connection, cursor, statement, *rest):
    if statement.startswith("DELETE"):
        answered = folder / str(app.extensions["number"])
        end = time.monotonic() + 5
        while not answered.exists() and time.monotonic() < end:
            time.sleep(0.01)
        (folder / "deleted").write_text("later" if answered.exists() else "sooner")
"""


def expire(app: Flask, *numbers: int) -> None:
    """Store sessions that have expired long ago."""
    assert isinstance(rows(app), list)  # the table is there
    store = store_of(app)
    expired = [
        {
            "id": number.to_bytes(32, "big"),
            "handle": f"{number:016}",
            "user_id": "ann",
            "data": b"\x01\x80",
            "version": 1,
            "created_at": 1_000,
            "expires_at": 2_000 + number,
            "purge_at": 2_000 + number,
        }
        for number in numbers
    ]
    with store.engine.connect() as connection:
        connection.execute(sa.insert(store.table), expired)


def expired(app: Flask) -> list[int]:
    """The numbers of those that are left."""
    return sorted(int(row.handle) for row in rows(app) if row.expires_at < 3_000)


def get(client: FlaskClient, path: str) -> TestResponse:
    """One request, until the server closes its response."""
    return client.get(path, buffered=True)


@pytest.fixture
def make_shop(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, passing: Passing
) -> MakeShop:
    """Makes applications that delete what has expired, from their first request on and
    then once a second.
    """
    at_once = SimpleNamespace(random=lambda: 0.0)
    monkeypatch.setattr("flask_sessionsql.storage.purging.random", at_once)

    def make(uri: str, interval: int = 1) -> Flask:
        return add_views(make_app(uri, SESSION_PURGE_INTERVAL=interval))

    return make


@pytest.fixture
def shop(make_shop: MakeShop, database_uri: str) -> Flask:
    return make_shop(database_uri)


@pytest.fixture
def ended() -> Iterator[list[tuple[Flask, Any]]]:
    """What the signal tells: the application, and the event."""
    told: list[tuple[Flask, Any]] = []

    def note(sender: Flask, event: Any) -> None:
        told.append((sender, event))

    with session_ended.connected_to(note):
        yield told


def test_expired_rows_go_when_the_response_has_been_sent(
    shop: Flask, ended: list[tuple[Flask, Any]]
) -> None:
    """They are there until the server has sent it all and closes it, then gone; the
    signal tells of each; sessions that live stay.
    """
    expire(shop, 1, 2)
    response = shop.test_client().get("/set/key/value", buffered=False)
    assert b"ok" == b"".join(response.iter_encoded())
    assert expired(shop) == [1, 2]
    assert ended == []
    response.close()
    assert expired(shop) == []
    assert len(rows(shop)) == 1
    events = [SessionEnded(f"{number:016}", "ann", "expired") for number in (1, 2)]
    assert [(shop, event) for event in events] == ended


def test_requests_without_a_session_delete_nothing(
    shop: Flask, passing: Passing
) -> None:
    """A request that does not touch its session runs no SQL, however much is due."""
    client = shop.test_client()
    get(client, "/set/key/value")
    expire(shop, 1)
    passing.now += 1
    with statements_on(store_of(shop).engine) as statements:
        for _ in range(2):
            assert get(client, "/").status_code == 200
    assert [] == statements
    assert expired(shop) == [1]
    get(client, "/get/key")
    assert expired(shop) == []


def test_once_in_an_interval(shop: Flask, passing: Passing) -> None:
    """What expires after it was done stays until the next time."""
    client = shop.test_client()
    get(client, "/set/key/value")
    expire(shop, 1)
    passing.now += 0.9
    get(client, "/get/key")
    assert expired(shop) == [1]
    passing.now += 0.1
    get(client, "/get/key")
    assert expired(shop) == []


def test_a_session_that_is_to_end_sooner_goes_then(
    make_app: MakeApp, make_database: MakeDatabase
) -> None:
    """Its row is there until the end that ``set_expiry()`` gave it, and no longer."""
    app = add_views(make_app(make_database("sqlite-file")))
    client = app.test_client()
    get(client, "/set/key/value")
    end = int(time.time()) + 600

    def view() -> str:
        session.set_expiry(datetime.fromtimestamp(end, UTC))
        return "ok"

    visit(client, view)
    database = store_of(app).database
    assert purge_batch(database, end - 1, 10).seen == 0
    assert purge_batch(database, end, 10).deleted == 1
    assert rows(app) == []


def test_many_rows_take_many_requests(
    make_shop: MakeShop, make_database: MakeDatabase
) -> None:
    """A hundred at most after one response, the oldest, and more after the next one."""
    shop = make_shop(make_database("sqlite-file"))
    expire(shop, *range(250))
    client = shop.test_client()
    for first in (100, 200):
        get(client, "/set/key/value")
        assert list(range(first, 250)) == expired(shop)
    get(client, "/set/key/value")
    assert expired(shop) == []


def test_purging_can_be_turned_off(
    make_shop: MakeShop, make_database: MakeDatabase
) -> None:
    """With SESSION_PURGE_INTERVAL = 0 no request deletes anything."""
    shop = make_shop(make_database("sqlite-file"), interval=0)
    expire(shop, 1)
    get(shop.test_client(), "/set/key/value")
    assert expired(shop) == [1]


def test_a_file_that_is_locked_disturbs_no_request(
    make_shop: MakeShop,
    make_database: MakeDatabase,
    passing: Passing,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While somebody writes to the SQLite file, a request that reads its session is
    answered at once, and what has expired stays until another time.
    """
    shop = make_shop(make_database("sqlite-file"))
    client = shop.test_client()
    get(client, "/set/key/value")
    expire(shop, 1)
    passing.now += 1
    start = time.monotonic()
    with locked_file(shop.config["SQLALCHEMY_DATABASE_URI"]):
        assert get(client, "/get/key").status_code == 200
    assert 1 > time.monotonic() - start
    assert expired(shop) == [1]
    assert [] == [r for r in caplog.records if r.levelno > logging.INFO]
    passing.now += 1
    get(client, "/get/key")
    assert expired(shop) == []


def test_nobody_waits_for_it(
    make_app: MakeApp, make_database: MakeDatabase, tmp_path: Path
) -> None:
    """In a real server, a browser has the whole response before the first row is
    deleted.
    """
    uri = make_database("sqlite-file")
    expire(make_app(uri), 1)
    (tmp_path / "app.py").write_text(APP.format(uri=uri))
    deleted = tmp_path / "deleted"
    with gunicorn(tmp_path, "--workers=1") as port:
        # The first time comes within a second.
        for number in range(300):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", f"/{number}")
            assert connection.getresponse().read() == b"ok"
            connection.close()
            (tmp_path / str(number)).touch()
            time.sleep(0.05)
            if deleted.exists():
                break
    assert deleted.read_text() == "later"
