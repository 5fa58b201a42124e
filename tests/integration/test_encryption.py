"""What the database holds with SESSION_ENCRYPT, and what does not open."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_sessionsql import session
from tests.conftest import MakeApp
from tests.helpers import Clock, at_once, store_of
from tests.integration.helpers import (
    add_views,
    cookie,
    regenerate,
    rows,
    same_browser,
    visit,
)

MakeShop = Callable[..., Flask]


@pytest.fixture
def make_shop(make_app: MakeApp, shared_database_uri: str) -> MakeShop:
    """Applications on one database, each with settings of its own."""

    def make(encrypt: bool | str = True, **settings: Any) -> Flask:
        app = make_app(shared_database_uri, SESSION_ENCRYPT=encrypt, **settings)
        return add_views(app)

    return make


def is_sealed(app: Flask) -> list[bool]:
    return [row.data.startswith(b"\x02") for row in rows(app)]


def change_row(app: Flask, handle: str, /, **values: Any) -> None:
    """Past the store."""
    store = store_of(app)
    statement = sa.update(store.table).where(store.table.c.handle == handle)
    with store.engine.connect() as connection:
        connection.execute(statement.values(values))


def test_nothing_can_be_read_in_the_table(make_shop: MakeShop) -> None:
    """Neither a key nor a value, at no write; and the session is what it was."""
    app = make_shop()
    client = app.test_client()
    for use in ("/set/cart/strawberries", "/set/_user_id/ann", "/set/size/enormous"):
        client.get(use)
        [row] = rows(app)
        shown = b"".join(each for each in row if isinstance(each, bytes))
        for secret in (b"cart", b"strawberries", b"size", b"enormous"):
            assert secret not in shown
    expected = {"cart": "strawberries", "_user_id": "ann", "size": "enormous"}
    assert expected == client.get("/all").json


@pytest.mark.parametrize("names", [["data"], ["data", "handle", "version"]])
def test_data_that_was_moved_to_another_row_does_not_open(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture, names: list[str]
) -> None:
    """With its handle or without: an empty session and one line in the log."""
    app = make_shop()
    ann, eve = app.test_client(), app.test_client()
    ann.get("/set/_user_id/ann")
    eve.get("/set/_user_id/eve")
    found = {row.user_id: row for row in rows(app)}
    if "handle" in names:  # which is unique
        change_row(app, found["ann"].handle, handle="moved")
    values = {name: getattr(found["ann"], name) for name in names}
    change_row(app, found["eve"].handle, **values)
    response = eve.get("/all")
    assert (200, {}, None) == (response.status_code, response.json, cookie(response))
    [line] = caplog.messages
    assert "cannot be decrypted: it was changed, or belongs to another row" in line
    assert {"_user_id": "ann"} == ann.get("/all").json


@pytest.mark.parametrize("damage", ["truncated", "changed", "format only"])
def test_damaged_data_is_an_empty_session(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """Never a 500; what is written then is a new session."""
    app = make_shop()
    client = app.test_client()
    client.get("/set/a/1")
    [row] = rows(app)
    cut = {"truncated": -1, "changed": -1, "format only": 1}[damage]
    end = bytes([row.data[-1] ^ 1]) if damage == "changed" else b""
    change_row(app, row.handle, data=row.data[:cut] + end)
    assert {} == client.get("/all").json
    assert [f"Session {row.handle!r} cannot be read"] == [
        message.partition(":")[0] for message in caplog.messages
    ]
    assert 200 == client.get("/set/b/1").status_code
    assert {"b": "1"} == client.get("/all").json


def test_a_session_of_an_earlier_key(make_shop: MakeShop) -> None:
    """It is opened by the key that found it, and sealed by the current one at its next
    change: then the earlier key can go.
    """
    client = make_shop(SECRET_KEY="old").test_client()
    client.get("/set/a/1")
    both = make_shop(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"])
    again = same_browser(client, both)
    assert {"a": "1"} == again.get("/all").json
    again.get("/set/b/2")
    new = same_browser(again, make_shop(SECRET_KEY="new"))
    assert {"a": "1", "b": "2"} == new.get("/all").json
    old = same_browser(again, make_shop(SECRET_KEY="old"))
    assert {} == old.get("/all").json


def test_turning_it_on_and_off_loses_nothing(make_shop: MakeShop) -> None:
    """Both ways; a row is written in the new way with the next change of its session,
    and not before.
    """
    off, on = make_shop(False), make_shop(True)
    client = off.test_client()
    client.get("/set/a/1")
    for number, (app, before) in enumerate([(on, off), (off, on), (on, off)]):
        now = same_browser(client, app)
        sealed = is_sealed(app)
        assert (before is on) == sealed[0]
        assert "'1'" == now.get("/get/a").text
        assert sealed == is_sealed(app)
        now.get(f"/set/{number}/x")
        assert [app is on] == is_sealed(app)
    expected = {"a": "1", "0": "x", "1": "x", "2": "x"}
    assert expected == client.get("/all").json


def test_workers_of_both_settings_at_once(make_shop: MakeShop) -> None:
    """While it is turned on, old and new workers write to one session: no write is
    lost.
    """
    off, on = make_shop(False), make_shop(True)
    client = off.test_client()
    client.get("/set/a/1")

    def work(number: int) -> int:
        other = same_browser(client, [off, on][number % 2])
        return other.get(f"/set/key{number}/{number}").status_code

    assert [200] * 12 == at_once([partial(work, number) for number in range(12)])
    expected = {"a": "1"} | {f"key{number}": str(number) for number in range(12)}
    for app in (off, on):
        assert expected == same_browser(client, app).get("/all").json


def test_what_moves_is_sealed_for_its_new_place(
    make_shop: MakeShop, clock: Clock
) -> None:
    """After a use that only moves the end, a login, a merge and a new token, the
    session is what it should be, sealed.
    """
    app = make_shop("required")
    client = app.test_client()
    client.get("/set/a/1")
    clock.now += 24 * 3600
    other = same_browser(client, app)
    assert "'1'" == client.get("/get/a").text

    def view() -> str:
        session["mine"] = "1"
        other.get("/set/theirs/1")
        return "ok"

    visit(client, view)
    client.get("/set/_user_id/ann")
    visit(client, regenerate)
    expected = {"a": "1", "mine": "1", "theirs": "1", "_user_id": "ann"}
    assert expected == client.get("/all").json
    assert [True] == is_sealed(app)


def test_required_refuses_what_is_not_sealed(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture
) -> None:
    """A row that somebody has put there who can write to the table and has not the
    key is an empty session.
    """
    app = make_shop("required")
    client = app.test_client()
    client.get("/set/a/1")
    [row] = rows(app)
    change_row(app, row.handle, data=b"\x01\x81\xa8_user_id\xa5admin")
    assert {} == client.get("/all").json
    assert "not encrypted, and SESSION_ENCRYPT is 'required'" in caplog.text


def test_without_the_package_a_sealed_row_is_unreadable(
    make_shop: MakeShop,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty session and a line in the log that says what to install, no 500; with
    the package again, everything is there.
    """
    client = make_shop().test_client()
    client.get("/set/a/1")
    other = same_browser(client, make_shop(False))
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.startswith("cryptography")]:
            patch.setitem(sys.modules, name, None)
        assert {} == other.get("/all").json
    assert 'pip install "Flask-SessionSql[encryption]"' in caplog.text
    assert {"a": "1"} == other.get("/all").json
