"""A site that moves in: its visitors keep their sessions, and what was ended stays so."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy

from tests.conftest import MakeApp
from tests.helpers import store_of

pytest.importorskip(
    "flask_session", reason="Flask-Session is in the dependency group 'tests'"
)

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)

DAY = 24 * 3600


def pages(app: Flask) -> Flask:
    """The pages that a site has, whatever keeps its sessions."""

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["_user_id"] = name
        session.setdefault("basket", [])
        return name

    @app.get("/me")
    def me() -> str:
        return str(session.get("_user_id", "nobody"))

    @app.get("/put/<thing>")
    def put(thing: str) -> str:
        session["basket"] = [*session.get("basket", []), thing]
        return " ".join(session["basket"])

    @app.get("/basket")
    def basket() -> str:
        return " ".join(session.get("basket", []))

    @app.get("/logout")
    def logout() -> str:
        session.clear()
        return "bye"

    @app.get("/nothing")
    def nothing() -> str:
        return "nothing"

    return app


Site = Callable[..., Flask]


@pytest.fixture
def old_site(shared_database_uri: str) -> Iterator[Site]:
    """Makes the site as it was, with Flask-Session."""
    apps: list[Flask] = []

    def make(**config: Any) -> Flask:
        import flask_session

        app = Flask("shop")
        db = SQLAlchemy()
        app.config.update(
            SECRET_KEY="a key",
            SESSION_TYPE="sqlalchemy",
            SESSION_SQLALCHEMY=db,
            SQLALCHEMY_DATABASE_URI=shared_database_uri,
            **config,
        )
        db.init_app(app)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            flask_session.Session(app)
        apps.append(app)
        return pages(app)

    yield make
    for app in apps:
        with app.app_context():
            db = app.extensions["sqlalchemy"]
            table = app.config.get("SESSION_SQLALCHEMY_TABLE", "sessions")
            db.session.execute(sa.text(f"DROP TABLE IF EXISTS {table}"))
            db.session.commit()
            db.engine.dispose()


@pytest.fixture
def new_site(make_app: MakeApp, shared_database_uri: str) -> Site:
    """Makes the site as it is now."""

    def make(**config: Any) -> Flask:
        settings = {"SESSION_ADOPT": "flask-session", **config}
        return pages(make_app(shared_database_uri, **settings))

    return make


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return "" if cookie is None else cookie.value


def browser(app: Flask, cookie: str | None) -> FlaskClient:
    """A browser with a cookie of the site."""
    client = app.test_client()
    if cookie is not None:
        client.set_cookie("session", cookie)
    return client


def logged_in(app: Flask, *names: str) -> list[str]:
    """The cookies of browsers in which somebody is logged in."""
    clients = [app.test_client() for _ in names]
    for client, name in zip(clients, names, strict=True):
        client.get(f"/login/{name}")
        client.get("/put/tea")
    return [cookie_of(client) for client in clients]


def rows_of(app: Flask, table: str) -> int:
    with store_of(app).engine.connect() as connection:
        found = connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}"))
    return int(found or 0)


NAMES = [f"user{number}" for number in range(12)]


@pytest.mark.parametrize("form", ["msgpack", "json"])
@pytest.mark.parametrize("signed", [False, True], ids=["plain", "signed"])
def test_everybody_stays_logged_in(
    old_site: Site, new_site: Site, form: str, signed: bool
) -> None:
    """Every browser that was logged in still is, with what its session held; and has a
    token of its own, with which it goes on.
    """
    old = old_site(SESSION_SERIALIZATION_FORMAT=form, SESSION_USE_SIGNER=signed)
    cookies = logged_in(old, *NAMES)
    new = new_site(SESSION_USE_SIGNER=signed)
    browsers = [browser(new, cookie) for cookie in cookies]

    assert [client.get("/me").text for client in browsers] == NAMES
    assert {"tea"} == {client.get("/basket").text for client in browsers}
    assert {"tea milk"} == {client.get("/put/milk").text for client in browsers}
    assert set().isdisjoint({*cookies} & {cookie_of(client) for client in browsers})
    assert [client.get("/me").text for client in browsers] == NAMES
    assert (0, 12) == (rows_of(new, "sessions"), rows_of(new, "flask_sessionsql"))
