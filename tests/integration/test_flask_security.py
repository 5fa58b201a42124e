"""Flask-Security as it is: its own views, forms and passwords, and no code of ours in
the application.
"""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_security import Security, SQLAlchemyUserDatastore, hash_password
from flask_security.models import fsqla_v3
from flask_security.models.fsqla import FsModels
from flask_sqlalchemy import SQLAlchemy
from werkzeug.test import TestResponse

from flask_sessionsql import Session
from tests.conftest import MakeApp
from tests.integration.helpers import add_views, browser_with, cookie, rows, token

PASSWORD, NEW_PASSWORD = "correct horse battery", "staple battery horse"

CONFIG = {
    "SECURITY_PASSWORD_SALT": "some salt",
    # Real hashes, and cheap ones.
    "SECURITY_PASSWORD_HASH": "pbkdf2_sha512",
    "SECURITY_PASSWORD_HASH_PASSLIB_OPTIONS": {"pbkdf2_sha512__rounds": 1},
    "SECURITY_EMAIL_VALIDATOR_ARGS": {"check_deliverability": False},
    "SECURITY_CHANGEABLE": True,
    "SECURITY_SEND_PASSWORD_CHANGE_EMAIL": False,
}


@pytest.fixture
def app(make_app: MakeApp, database_uri: str) -> Flask:
    db = SQLAlchemy()
    FsModels.set_db_info(db)  # type: ignore[no-untyped-call]

    class Role(db.Model, fsqla_v3.FsRoleMixin):  # type: ignore[misc, name-defined]
        pass

    class User(db.Model, fsqla_v3.FsUserMixin):  # type: ignore[misc, name-defined]
        pass

    # The users' many tables stand elsewhere: making them takes longer than the tests.
    app = make_app(
        "sqlite://",
        before=db.init_app,
        SQLALCHEMY_BINDS={"sessions": database_uri},
        SESSION_SQLALCHEMY_BIND_KEY="sessions",
        **CONFIG,
    )
    users = SQLAlchemyUserDatastore(db, User, Role)
    Security(app, users)
    with app.app_context():
        db.create_all(None)
        for name in ("ann", "bob"):
            users.create_user(
                email=f"{name}@example.org", password=hash_password(PASSWORD)
            )
        db.session.commit()
    return add_views(app)


def submit(client: FlaskClient, path: str, **fields: str) -> TestResponse:
    """Get a page of Flask-Security's, and send its form."""
    page = client.get(path).text
    field = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
    assert field is not None, page
    return client.post(path, data={"csrf_token": field[1], **fields})


def log_in(client: FlaskClient, name: str, password: str = PASSWORD) -> TestResponse:
    email = f"{name}@example.org"
    return submit(client, "/login", email=email, password=password)


def user_of(client: FlaskClient) -> str | None:
    """Who is logged in, as Flask-Security's own view says."""
    response = client.get("/change", headers={"Accept": "application/json"})
    if response.status_code == 401:
        return None
    assert response.status_code == 200
    found = client.get("/all").json
    assert found is not None
    return str(found["_user_id"])


def test_the_whole_life_of_a_login(app: Flask, client: FlaskClient) -> None:
    """The form's own token begins the session; login, a change of the password and
    logout each move it to a new token; what was in it stays; every old token is dead.
    """
    client.get("/set/basket/tea")
    tokens = [token(client)]
    assert user_of(client) is None
    handle = rows(app)[0].handle

    response = log_in(client, "ann")
    assert response.status_code == 302
    assert "session=" in str(cookie(response))
    ann = user_of(client)
    assert ann is not None
    assert [(handle, ann)] == [(row.handle, row.user_id) for row in rows(app)]
    tokens.append(token(client))

    response = submit(
        client,
        "/change",
        password=PASSWORD,
        new_password=NEW_PASSWORD,
        new_password_confirm=NEW_PASSWORD,
    )
    assert response.status_code == 302
    assert user_of(client) not in (None, ann)
    assert [(handle, user_of(client))] == [
        (row.handle, row.user_id) for row in rows(app)
    ]
    tokens.append(token(client))

    assert client.post("/logout").status_code == 302
    assert user_of(client) is None
    assert [(handle, None)] == [(row.handle, row.user_id) for row in rows(app)]
    assert client.get("/get/basket").text == "'tea'"
    tokens.append(token(client))

    assert len(set(tokens)) == 4
    for old in tokens[:-1]:
        thief = browser_with(app, old)
        assert user_of(thief) is None
        assert thief.get("/get/basket").text == "None"
    assert log_in(client, "ann").status_code == 200  # with the old password: its form
    assert user_of(client) is None
    assert log_in(client, "ann", NEW_PASSWORD).status_code == 302
    assert user_of(client) is not None


def test_a_wrong_password_moves_nothing(app: Flask, client: FlaskClient) -> None:
    """The form comes again, and nobody is logged in."""
    client.get("/set/basket/tea")
    before = token(client)
    assert log_in(client, "ann", "wrong").status_code == 200
    assert token(client) == before
    assert [None] == [row.user_id for row in rows(app)]


def test_its_users_are_listed_and_logged_out(app: Flask) -> None:
    """By what the session keeps of them, which is current_user.get_id()."""
    sessions = Session()
    laptop, phone, bobs = (app.test_client() for _ in range(3))
    for browser, name in ((laptop, "ann"), (phone, "ann"), (bobs, "bob")):
        log_in(browser, name)
    ann = user_of(laptop)
    with app.app_context():
        assert len(sessions.user_sessions(ann)) == 2
        assert sessions.revoke_user(ann) == 2
    assert (user_of(laptop), user_of(phone)) == (None, None)
    assert user_of(bobs) is not None
    assert log_in(phone, "ann").status_code == 302
    assert user_of(phone) == ann
