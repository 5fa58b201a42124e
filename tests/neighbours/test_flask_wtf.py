"""Flask-WTF: the secret of a session's forms is in the session."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql import session
from tests.conftest import MakeApp
from tests.helpers import statements_on, store_of
from tests.integration.helpers import (
    add_views,
    arrives,
    browser_with,
    during,
    rows,
    same_browser,
    token,
    visit,
)

flask_wtf: Any = pytest.importorskip(
    "flask_wtf", reason="Flask-WTF comes with `nox -s neighbours`"
)
csrf: Any = pytest.importorskip(
    "flask_wtf.csrf", reason="Flask-WTF comes with `nox -s neighbours`"
)


@pytest.fixture
def tabs(make_app: MakeApp) -> FlaskClient:
    """A browser at an application whose views do what a test tells them."""
    app = add_views(make_app("sqlite://"))
    csrf.CSRFProtect(app)

    @app.post("/buy")
    def buy() -> str:
        return "bought"

    client = app.test_client()
    client.get("/set/basket/tea")
    return client


def form(client: FlaskClient) -> dict[str, str]:
    """A form, as a tab has it open."""
    return {"csrf_token": client.get("/form").text}


def test_a_form_outlives_a_login(app: Flask, client: FlaskClient) -> None:
    """The token changes, and what a tab had open before can be sent; the session that
    somebody planted before cannot send it.
    """
    first, second = form(client), form(client)
    planted = token(client)
    assert "ok" == client.post("/login", data=first).text

    assert planted != token(client)
    for fields in (first, second, form(client)):
        assert "bought" == client.post("/buy", data=fields).text
    assert 400 == browser_with(app, planted).post("/buy", data=first).status_code


def test_a_form_does_not_outlive_a_logout(client: FlaskClient) -> None:
    """What another tab has open is refused, and a new form is not."""
    client.post("/login", data=form(client))
    other_tab = form(client)
    client.post("/logout", data=form(client))

    refused = client.post("/buy", data=other_tab)
    assert (400, True) == (refused.status_code, "out of date" in refused.text)
    assert "bought" == client.post("/buy", data=form(client)).text


def test_a_form_of_another_session_is_refused(app: Flask) -> None:
    """As one that another site has from a session of its own."""
    own, other = app.test_client(), app.test_client()
    form(own)
    assert 400 == own.post("/buy", data=form(other)).status_code


def test_a_form_begins_a_session_and_a_refusal_costs_one_select(app: Flask) -> None:
    """A visitor's form is a row; what comes without its secret writes nothing."""
    client = app.test_client()
    before = len(rows(app))
    form(client)
    assert before + 1 == len(rows(app))

    with statements_on(store_of(app).engine) as seen:
        assert 400 == client.post("/buy").status_code
    assert [] == seen  # there is no secret to compare with
    with statements_on(store_of(app).engine) as seen:
        assert 400 == client.post("/buy", data={"csrf_token": "guessed"}).status_code
    assert ["SELECT"] == [each.split()[0] for each in seen]


def test_clearing_breaks_a_form_of_the_same_request(tabs: FlaskClient) -> None:
    """Flask-WTF takes its secret for stored; a new token by regenerate() keeps it."""

    def anew() -> Any:
        csrf.generate_csrf()
        session.clear()
        session["_user_id"] = "ann"
        return csrf.generate_csrf()

    def moved() -> Any:
        csrf.generate_csrf()
        session.regenerate()
        return csrf.generate_csrf()

    broken = visit(tabs, anew).text
    assert 400 == tabs.post("/buy", data={"csrf_token": broken}).status_code
    sound = visit(tabs, moved).text
    assert "bought" == tabs.post("/buy", data={"csrf_token": sound}).text


def test_two_first_forms_at_once(tabs: FlaskClient) -> None:
    """The secret that was saved last stays: the other tab's form is refused
    once.
    """
    tab = same_browser(tabs)
    forms: list[str] = []

    def open_form() -> str:
        forms.append(csrf.generate_csrf())
        return "ok"

    def first() -> None:
        tabs.application.extensions["view"] = open_form
        arrives(tabs, tab.get("/run"))

    during(tabs, open_form, first)
    earlier, later = forms
    assert 400 == tabs.post("/buy", data={"csrf_token": earlier}).status_code
    assert "bought" == tabs.post("/buy", data={"csrf_token": later}).text
    assert "'tea'" == tabs.get("/get/basket").text


def test_a_form_class_uses_the_session_too(make_app: MakeApp) -> None:
    """FlaskForm, without CSRFProtect, over a login."""
    app = add_views(make_app("sqlite://"))

    @app.route("/order", methods=["GET", "POST"])
    def order() -> Any:
        filled = flask_wtf.FlaskForm()
        if filled.validate_on_submit():
            return "ordered"
        return filled.csrf_token.current_token

    client = app.test_client()
    field = client.get("/order").text
    client.get("/set/_user_id/ann")
    assert "ordered" == client.post("/order", data={"csrf_token": field}).text
    assert "ordered" != client.post("/order", data={"csrf_token": "guessed"}).text
