"""Flask-Admin: an administrator sees the sessions, and ends them."""

from __future__ import annotations

import re
from html import unescape
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql import session_ended
from tests.helpers import store_of, told_by
from tests.integration.helpers import rows, token

pytest.importorskip("flask_admin", reason="Flask-Admin comes with `nox -s neighbours`")

LIST = "/admin/storedsession/"
ACTION = f"{LIST}action/"

pytestmark = pytest.mark.usefixtures("with_views")


@pytest.fixture
def names(names: dict[str, Any]) -> dict[str, Any]:
    """With what Flask-Admin asks for where Flask-Babel is installed."""
    if find_spec("flask_babel"):
        import_module("flask_babel").Babel(names["app"])
    return names


def logged_in(app: Flask, user: str, address: str = "127.0.0.1") -> FlaskClient:
    """A browser, from this address, whose session is this user's."""
    browser = app.test_client()
    browser.environ_base["REMOTE_ADDR"] = address
    browser.get(f"/set/_user_id/{user}")
    browser.get("/set/basket/hush-hush")
    return browser


def cells(page: str, column: str) -> list[str]:
    """What the list shows in a column, from above."""
    found = re.findall(rf'<td class="col-{column}">(.*?)</td>', page, re.DOTALL)
    return [unescape(re.sub("<[^>]*>", "", each)).strip() for each in found]


def form(page: str, *handles: str) -> dict[str, Any]:
    """The form that ends the sessions which are ticked, as the list has it."""
    found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert found is not None
    return {"csrf_token": found[1], "action": "end", "rowid": list(handles)}


def test_an_administrator_sees_the_sessions(app: Flask) -> None:
    """Each live session has a line, with its handle, its user, its times in UTC and its
    address.
    """
    logged_in(app, "2", "192.0.2.7")
    admin = logged_in(app, "1")
    page = admin.get(LIST).text

    stored = {row.user_id: row for row in rows(app)}
    assert ["1", "2"] == sorted(cells(page, "user_id"))
    assert {row.handle for row in stored.values()} == {*cells(page, "handle")}
    assert "192.0.2.7" in cells(page, "address")
    for column in ("created_at", "last_used_at", "expires_at"):
        for shown in cells(page, column):
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00", shown)


def test_what_opens_or_fills_a_session_is_not_shown(app: Flask) -> None:
    """Neither the data nor the hash of a token is on the page, or is read for it."""
    other, admin = logged_in(app, "2"), logged_in(app, "1")
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
    sa.event.listen(engine, "before_cursor_execute", note)
    page = admin.get(LIST).text
    sa.event.remove(engine, "before_cursor_execute", note)

    assert "hush-hush" not in page
    for row in rows(app):
        for key in filter(None, (row.id, row.previous_id)):
            assert key.hex() not in page
            assert repr(key) not in unescape(page)
    assert token(other) not in page
    assert seen
    assert not re.search(r"\.data\b|\.id\b|\.previous_id\b", " ".join(seen))


@pytest.mark.parametrize("user", [None, "2"])
def test_others_are_kept_out(app: Flask, user: str | None) -> None:
    """Whoever is no administrator gets a 403, for the list as for its form."""
    admin = logged_in(app, "1")
    browser = app.test_client() if user is None else logged_in(app, user)
    given = form(admin.get(LIST).text, *(row.handle for row in rows(app)))
    before = len(rows(app))

    assert 403 == browser.get(LIST).status_code
    assert 403 == browser.post(ACTION, data=given).status_code
    assert before == len(rows(app))


def test_an_administrator_ends_sessions(app: Flask) -> None:
    """The action ends those that are ticked, at once, and says how many it were. Who
    listens is told.
    """
    gone, stays, admin = (logged_in(app, user) for user in ("2", "3", "1"))
    handles = {row.user_id: row.handle for row in rows(app)}
    given = form(admin.get(LIST).text, handles["2"], "unknown")
    with told_by(session_ended, app) as ended:
        page = admin.post(ACTION, data=given, follow_redirects=True).text

    assert "Sessions ended: 1." in page
    assert [handles["2"]] == [event.handle for event in ended]
    assert ["1", "3"] == sorted(cells(page, "user_id"))
    assert "None" == gone.get("/get/_user_id").text
    assert "'3'" == stays.get("/get/_user_id").text


def test_only_its_own_form_ends_sessions(app: Flask) -> None:
    """Without the secret of the administrator's session, as another site sends it,
    nothing happens.
    """
    logged_in(app, "2")
    admin = logged_in(app, "1")
    given = form(admin.get(LIST).text, *(row.handle for row in rows(app)))
    admin.post(ACTION, data={**given, "csrf_token": "guessed"})

    assert 2 == len(rows(app))


@pytest.mark.parametrize(
    ("path", "data"),
    [
        (
            "edit/?id={}",
            {"user_id": "9", "created_at": "1", "last_used_at": "1", "expires_at": "1"},
        ),
        ("delete/", {"id": "{}"}),
        ("action/", {"action": "delete", "rowid": "{}"}),
    ],
)
def test_nothing_else_can_be_done(app: Flask, path: str, data: dict[str, str]) -> None:
    """Sessions can neither be changed nor be deleted past the extension."""
    logged_in(app, "2")
    admin = logged_in(app, "1")
    page = admin.get(LIST).text
    before = [row for row in rows(app) if row.user_id == "2"]
    handle = before[0].handle
    secret = {"csrf_token": form(page)["csrf_token"]}
    filled = {key: value.format(handle) for key, value in data.items()}
    admin.post(LIST + path.format(handle), data=secret | filled)

    assert before == [row for row in rows(app) if row.user_id != "1"]


@pytest.mark.parametrize(
    "path", ["new/", "edit/?id={}", "details/?id={}", "export/csv/"]
)
def test_there_are_no_other_pages(app: Flask, path: str) -> None:
    """No page makes a session or shows one, and none is exported."""
    admin = logged_in(app, "1")
    (row,) = rows(app)
    answer = admin.get(LIST + path.format(row.handle))

    assert (302, LIST) == (answer.status_code, answer.location)


def test_the_list_can_be_searched_and_sorted(app: Flask) -> None:
    """By user and address, and by any column."""
    for user in ("2", "3"):
        logged_in(app, user, f"192.0.2.{user}")
    admin = logged_in(app, "1")

    assert ["3"] == cells(admin.get(f"{LIST}?search=192.0.2.3").text, "user_id")
    shown = cells(admin.get(f"{LIST}?sort=1&desc=1").text, "user_id")
    assert ["3", "2", "1"] == shown


def test_expired_sessions_are_left_out(app: Flask) -> None:
    """A row that waits for the purge is no session any more."""
    logged_in(app, "2")
    admin = logged_in(app, "1")
    table = store_of(app).table
    with store_of(app).engine.connect() as connection:
        connection.execute(
            sa.update(table).where(table.c.user_id == "2").values(expires_at=1)
        )
    page = admin.get(LIST).text

    assert ["1"] == cells(page, "user_id")


def test_a_class_for_each_application(names: dict[str, Any], app: Flask) -> None:
    """A function that makes the application may map the class each time."""
    logged_in(app, "2")
    with app.app_context():
        for _ in range(2):
            mapped = names["map_sessions"](names["db"])
            (found,) = names["db"].session.scalars(sa.select(mapped)).all()
            assert "2" == found.user_id
            assert not hasattr(found, "data")


def test_forms_keep_their_secret_in_the_session(app: Flask) -> None:
    """SecureForm keeps it there, one for all forms of a session, as in Flask's own."""
    admin = logged_in(app, "1")
    kept = set()
    for _ in range(2):
        admin.get(LIST)
        with admin.session_transaction() as stored:
            kept.add(stored["csrf"])

    assert 1 == len(kept)
