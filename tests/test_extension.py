from __future__ import annotations

import pydoc
import secrets
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask, current_app
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session, SessionConfigError
from tests.conftest import MakeApp
from tests.helpers import assert_sessions_work, close, configured, store_of

TABLE = "flask_sessionsql"


def test_session_of_an_app(database_uri: str) -> None:
    """``Session(app)`` is all that an application needs."""
    app = configured(database_uri)
    Session(app)
    assert_sessions_work(app)
    close(app)


def test_session_now_and_the_app_later(database_uri: str) -> None:
    """``Session()`` and then ``init_app(app)``."""
    sessions = Session()
    app = configured(database_uri)
    sessions.init_app(app)
    assert_sessions_work(app)
    close(app)
    assert repr(sessions) == "<Session>"


def test_one_session_object_serves_several_apps(tmp_path: Path) -> None:
    """Each application has its own database and cookie."""
    sessions = Session()
    apps = []
    for name in ("one", "two"):
        app = configured(f"sqlite:///{tmp_path / name}.db", SESSION_COOKIE_NAME=name)
        sessions.init_app(app)
        apps.append(app)
    for app in apps:
        assert_sessions_work(app)
    engines = {str(store_of(app).engine.url) for app in apps}
    close(*apps)
    assert len(engines) == 2


@pytest.mark.parametrize("order", ["Session first", "SQLAlchemy first"])
def test_create_app_can_run_twice(shared_database_uri: str, order: str) -> None:
    """A factory with a global ``db`` and a global ``Session`` makes as many
    applications as it is asked for, in either order.
    """
    db, sessions = SQLAlchemy(), Session()

    def create_app() -> Flask:
        app = configured(shared_database_uri)
        for extension in (sessions, db) if order == "Session first" else (db, sessions):
            extension.init_app(app)
        return app

    apps = [create_app(), create_app()]
    for app in apps:
        assert_sessions_work(app)
        assert store_of(app).table is db.metadata.tables[TABLE]
    close(*apps)


def test_the_current_application_is_the_application() -> None:
    """What stands for it in a context serves as well."""
    app = configured("sqlite://")
    with app.app_context():
        Session(current_app)
    assert_sessions_work(app)
    close(app)


def test_setting_up_twice_is_an_error(make_app: MakeApp) -> None:
    """The second ``Session(app)`` says that once is enough."""
    app = make_app("sqlite://")
    with pytest.raises(RuntimeError, match="once for each application"):
        Session(app)


def test_a_wrong_value_is_an_error_at_init_app(make_app: MakeApp) -> None:
    """Not at the first visitor."""
    with pytest.raises(SessionConfigError, match="SESSION_ID_LENGTH"):
        make_app("sqlite://", SESSION_ID_LENGTH=8)


def test_the_token_has_the_configured_length(make_app: MakeApp) -> None:
    """SESSION_ID_LENGTH is the number of random bytes, and may change at any time."""
    app = make_app("sqlite://", SESSION_ID_LENGTH=16)
    client = app.test_client()
    with client.session_transaction() as opened:
        opened["a"] = 1
    cookie = client.get_cookie("session")
    assert cookie is not None
    assert len(cookie.value) == len(secrets.token_urlsafe(16)) + 24


@pytest.mark.parametrize("given", ["Quart", "module", "class", "blueprint", "object"])
def test_only_applications_of_flask_are_taken(given: str) -> None:
    """Anything else is one error that says what was given, and is left as it was."""
    from quart import Quart

    things = {
        "Quart": Quart("shop"),
        "module": sys.modules[__name__],
        "class": Flask,
        "blueprint": Blueprint("shop", "shop"),
        "object": {"SESSION_TYPE": "sqlalchemy"},
    }
    names = {
        "Quart": "quart.app.Quart",
        "module": "builtins.module",
        "class": "builtins.type",
        "blueprint": "flask.blueprints.Blueprint",
        "object": "builtins.dict",
    }
    thing: Any = things[given]
    interface = getattr(thing, "session_interface", None)
    for set_up in (Session, Session().init_app):
        with pytest.raises(TypeError) as caught:
            set_up(thing)
        assert str(caught.value).endswith(f"a flask.Flask; got a {names[given]}.")
    assert getattr(thing, "session_interface", None) is interface
    assert "sessionsql" not in getattr(thing, "extensions", {})


def test_no_application_is_no_application() -> None:
    """Session(None) waits for one, as Session() does; init_app(None) is an error."""
    nothing: Any = None
    assert repr(Session(nothing)) == "<Session>"
    with pytest.raises(TypeError, match=r"got a builtins.NoneType\."):
        Session().init_app(nothing)


def test_a_subclass_of_flask_is_taken(database_uri: str) -> None:
    """An application of a class of one's own is one of Flask."""

    class Shop(Flask):
        pass

    app = Shop("shop")
    app.config.update(configured(database_uri).config)
    Session(app)
    assert_sessions_work(app)
    close(app)


def test_help_names_the_default_of_a_user() -> None:
    """Not an object at an address."""
    assert "= ANYBODY)" in pydoc.render_doc(Session.read)
