"""Flask-Babel: the language is in the session."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from flask import Flask, flash, get_flashed_messages, session

from flask_sessionsql import SessionValueError
from tests.conftest import MakeApp
from tests.helpers import statements_on, store_of
from tests.integration.helpers import add_views, rows, token, visit

flask_babel: Any = pytest.importorskip(
    "flask_babel", reason="Flask-Babel comes with `nox -s neighbours`"
)

GERMAN, FRENCH = "Sonntag, 1. März 2026", "dimanche 1 mars 2026"


def test_the_language_is_kept(app: Flask) -> None:
    """Each browser has the language that it has chosen, and one that has not, what it
    asks for.
    """
    german, french, other = (app.test_client() for _ in range(3))
    german.post("/language/de")
    french.post("/language/fr")

    assert GERMAN == german.get("/").text
    assert FRENCH == french.get("/").text
    assert "Sunday, March 1, 2026" == other.get("/").text
    assert GERMAN == other.get("/", headers={"Accept-Language": "de-AT"}).text
    assert 404 == other.post("/language/xx").status_code


def test_a_page_with_text_reads_the_session_once(app: Flask) -> None:
    """However much text there is; and caches are told that the page is one's own."""
    browser = app.test_client()
    browser.post("/language/de")
    with statements_on(store_of(app).engine) as seen:
        assert GERMAN == browser.get("/").text
        assert "Cookie" in browser.get("/").vary
    assert ["SELECT", "SELECT"] == [each.split()[0] for each in seen]


def test_a_visitor_costs_nothing(app: Flask) -> None:
    """Whoever has no session gets none by looking for a language, and runs no SQL."""
    app.test_client().post("/language/de")
    before = rows(app)
    with statements_on(store_of(app).engine) as seen:
        answer = app.test_client().get("/")
    assert [] == seen
    assert "Set-Cookie" not in answer.headers
    assert before == rows(app)


def test_the_language_outlives_a_login_and_a_logout(make_app: MakeApp) -> None:
    """Both change the token, and the language goes along where it is stored again."""
    app = add_views(make_app("sqlite://"))
    flask_babel.Babel(app, locale_selector=lambda: session.get("language"))
    client = app.test_client()

    def log_out() -> str:
        language = session["language"]
        session.clear()
        session["language"] = language
        return "ok"

    client.get("/set/language/de")
    tokens = [token(client)]
    client.get("/set/_user_id/1")
    tokens.append(token(client))
    visit(client, log_out)
    tokens.append(token(client))

    assert 3 == len({*tokens})
    assert "de" == visit(client, lambda: str(flask_babel.get_locale())).text
    assert {"language": "de"} == client.get("/all").json


def test_a_locale_is_refused(make_app: MakeApp) -> None:
    """With an error that names the key; as text, it is kept."""
    app = add_views(make_app("sqlite://"))
    flask_babel.Babel(app, default_locale="pt_BR")
    client = app.test_client()

    def store(make: Callable[[], object]) -> str:
        session["language"] = make()
        return "ok"

    for make in (flask_babel.get_locale, flask_babel.get_timezone):
        with pytest.raises(SessionValueError, match=r"session\['language'\]"):
            visit(client, partial(store, make))
    visit(client, lambda: store(lambda: str(flask_babel.get_locale())))
    assert "'pt_BR'" == client.get("/get/language").text


def test_a_lazy_text_is_stored_as_it_is_then(make_app: MakeApp) -> None:
    """In the language of the request, as markup; a text of gettext() is just text."""
    app = add_views(make_app("sqlite://"))
    flask_babel.Babel(app)
    client = app.test_client()

    def say() -> str:
        for text in (flask_babel.lazy_gettext, flask_babel.gettext):
            flash(text("Hello %(name)s", name="<b>"))
        return "ok"

    visit(client, say)
    said = visit(client, lambda: repr(get_flashed_messages())).text
    assert "[Markup('Hello <b>'), 'Hello <b>']" == said
