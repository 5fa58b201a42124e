"""Sites before and after a move."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from tests.conftest import MakeApp

from .helpers import Site, logged_in, pages


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


@pytest.fixture
def moved(old_site: Site, new_site: Site) -> tuple[Flask, Flask, str]:
    """The site before, the one now, and a cookie of Ann's that was set before."""
    old = old_site()
    [cookie] = logged_in(old, "ann")
    return old, new_site(), cookie


@pytest.fixture
def cookie_site() -> Flask:
    """The site as it was, with Flask's own sessions."""
    app = Flask("shop")
    app.config["SECRET_KEY"] = "a key"
    return pages(app)


@pytest.fixture
def after_cookies(new_site: Site) -> Site:
    """Makes the site as it is now."""

    def make(**config: Any) -> Flask:
        return new_site(**{"SESSION_ADOPT": "cookie", **config})

    return make
