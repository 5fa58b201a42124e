"""Flask-Security: what becomes of sessions when a user's fs_uniquifier changes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.integration.helpers import rows, token

flask_security: Any = pytest.importorskip(
    "flask_security", reason="Flask-Security comes with `nox -s neighbours`"
)
changeable: Any = pytest.importorskip(
    "flask_security.changeable", reason="Flask-Security comes with `nox -s neighbours`"
)
pytest.importorskip("argon2", reason="argon2-cffi comes with `nox -s neighbours`")
#: Flask-Login sets its cookie by it.
pytestmark = [
    pytest.mark.filterwarnings(r"ignore:datetime.datetime.utcnow\(\)"),
    pytest.mark.usefixtures("with_views"),
]

PASSWORD, NEW_PASSWORD = "correct horse battery", "staple battery horse"


@pytest.fixture
def names(names: dict[str, Any]) -> dict[str, Any]:
    """With two users."""
    app, db, users = names["app"], names["db"], names["users"]
    app.config["SECURITY_EMAIL_VALIDATOR_ARGS"] = {"check_deliverability": False}
    app.config["SECURITY_SEND_PASSWORD_CHANGE_EMAIL"] = False
    # Real hashes, and cheap ones.
    cheap = {"argon2__time_cost": 1, "argon2__memory_cost": 32}
    app.extensions["security"].pwd_context.update(**cheap)
    with app.app_context():
        db.create_all()
        password = flask_security.hash_password(PASSWORD)
        for name in ("ann", "bob"):
            users.create_user(email=f"{name}@example.org", password=password)
        users.commit()
    return names


def submit(client: FlaskClient, path: str, **fields: str) -> TestResponse:
    """Get a page of Flask-Security's, and send its form."""
    page = client.get(path).text
    field = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert field is not None, page
    return client.post(path, data={"csrf_token": field[1], **fields})


def logged_in(app: Flask, name: str, **fields: str) -> FlaskClient:
    browser = app.test_client()
    email = f"{name}@example.org"
    answer = submit(browser, "/login", email=email, password=PASSWORD, **fields)
    assert 302 == answer.status_code
    return browser


def is_logged_in(client: FlaskClient) -> bool:
    answer = client.get("/change", headers={"Accept": "application/json"})
    return 200 == answer.status_code


def uniquifier(names: dict[str, Any], name: str) -> str:
    with names["app"].app_context():
        user = names["users"].find_user(email=f"{name}@example.org")
        found: str = user.fs_uniquifier
        return found


def test_a_changed_password_ends_the_other_sessions(names: dict[str, Any]) -> None:
    """Their rows are gone; the browser that has changed it stays logged in, and has
    what it had, in a new session; others' sessions stay.
    """
    app = names["app"]
    laptop, phone, bobs = (logged_in(app, name) for name in ("ann", "ann", "bob"))
    laptop.get("/set/basket/tea")
    before, handles = token(laptop), {row.handle for row in rows(app)}
    answer = submit(
        laptop,
        "/change",
        password=PASSWORD,
        new_password=NEW_PASSWORD,
        new_password_confirm=NEW_PASSWORD,
    )
    assert 302 == answer.status_code

    assert [True, False, True] == [is_logged_in(each) for each in (laptop, phone, bobs)]
    assert "'tea'" == laptop.get("/get/basket").text
    assert before != token(laptop)
    users = [uniquifier(names, name) for name in ("ann", "bob")]
    assert sorted(users) == sorted(row.user_id for row in rows(app))
    assert 1 == len({row.handle for row in rows(app)} - handles)


def test_an_administrators_change_ends_all(names: dict[str, Any]) -> None:
    """Without a session of that user's in the request."""
    app = names["app"]
    phone, bobs = logged_in(app, "ann"), logged_in(app, "bob")
    with app.app_context():
        ann = names["users"].find_user(email="ann@example.org")
        changeable.admin_change_password(ann, NEW_PASSWORD)
        names["users"].commit()

    assert [False, True] == [is_logged_in(each) for each in (phone, bobs)]
    assert [uniquifier(names, "bob")] == [row.user_id for row in rows(app)]


def test_a_user_is_logged_out_everywhere(names: dict[str, Any]) -> None:
    """Also where a browser is remembered; and may log in again."""
    app = names["app"]
    laptop, phone = logged_in(app, "ann"), logged_in(app, "ann", remember="y")
    assert phone.get_cookie("remember_token") is not None
    assert "Bye." == laptop.post("/everywhere").text

    assert [False, False] == [is_logged_in(each) for each in (laptop, phone)]
    assert is_logged_in(logged_in(app, "ann"))


def test_who_is_remembered_comes_back_after_revoke(names: dict[str, Any]) -> None:
    """As long as fs_uniquifier is the same."""
    app = names["app"]
    phone, laptop = logged_in(app, "ann", remember="y"), logged_in(app, "ann")
    with app.app_context():
        assert 2 == names["sessions"].revoke_user(uniquifier(names, "ann"))
    assert [True, False] == [is_logged_in(each) for each in (phone, laptop)]


def test_a_deactivated_user_is_out_and_the_row_stays(names: dict[str, Any]) -> None:
    """Until it is revoked."""
    app = names["app"]
    browser = logged_in(app, "ann")
    with app.app_context():
        names["users"].deactivate_user(
            names["users"].find_user(email="ann@example.org")
        )
        names["users"].commit()
    assert not is_logged_in(browser)
    assert [uniquifier(names, "ann")] == [row.user_id for row in rows(app)]
