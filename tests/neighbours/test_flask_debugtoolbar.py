"""Flask-DebugToolbar: the statements of the sessions are in its SQLAlchemy panel."""

from __future__ import annotations

import logging
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy

from tests.conftest import MakeApp
from tests.helpers import store_of
from tests.integration.helpers import rows, token

toolbar: Any = pytest.importorskip(
    "flask_debugtoolbar", reason="Flask-DebugToolbar comes with `nox -s neighbours`"
)

#: The panel with the session's values, which reads all of them.
WITHOUT_VALUES = ("flask_debugtoolbar.panels.sqlalchemy.SQLAlchemyDebugPanel",)


def panel(page: str, name: str = "SQLAlchemy") -> str:
    """The text of a panel of the toolbar in this page; empty where it has none."""
    after = page.partition(f'id="flDebug{name}Panel-content"')[2]
    return after and unescape(
        re.sub("<[^>]*>", "", after.split("flDebugPanelContentParent")[1])
    )


def statements(page: str) -> list[str]:
    """The first words of the statements in the panel, each with its table's name."""
    found = re.findall(
        r"(SELECT|INSERT|UPDATE)\b.*?(flask_sessionsql)", panel(page), re.DOTALL
    )
    return [" ".join(each) for each in found]


def with_toolbar(app: Flask) -> Flask:
    """It has a page that reads its session and changes it."""
    app.debug = True
    toolbar.DebugToolbarExtension(app)

    @app.get("/")
    def visits() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return f"<!doctype html><body>{session['visits']}</body>"

    return app


def test_the_panel_shows_how_the_session_is_read(app: Flask) -> None:
    """Beside what the view asks the database itself, with the place where it did."""
    client = app.test_client()
    client.get("/")
    page = client.get("/").text

    assert "<body>2" in page
    assert ["SELECT flask_sessionsql"] == statements(page)
    assert "flask-debugtoolbar.rst" in panel(page)  # where the view is


def test_the_statement_that_saves_is_in_the_log(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes after the page: no panel has it."""
    client = app.test_client()
    assert [] == statements(client.get("/").text)
    assert 1 == len(rows(app))

    store_of(app).engine.echo = True  # as SQLALCHEMY_ECHO would have made it
    caplog.set_level(logging.INFO, "sqlalchemy.engine")
    assert ["SELECT flask_sessionsql"] == statements(client.get("/").text)
    assert any(line.startswith("UPDATE") for line in caplog.messages)


def test_no_values_are_recorded(app: Flask) -> None:
    """What the session holds and the hash of its token are in no statement; the panel
    for the session's values is there for them.
    """
    client = app.test_client()
    with client.session_transaction() as stored:
        stored["name"] = "hush-hush"
    page = client.get("/").text

    assert "hush-hush" in panel(page, "RequestVars")
    for name in ("SQLAlchemy", "g"):
        assert "flask_sessionsql" in panel(page, name)
        assert "hush-hush" not in panel(page, name)
        assert token(client) not in panel(page, name)
    assert {"None"} == {*re.findall(r"parameters=(\w+|.)", panel(page, "g"))}


@pytest.mark.parametrize("first", ["Flask-SQLAlchemy", "the toolbar", "the sessions"])
def test_debug_turns_recording_on(
    make_app: MakeApp, tmp_path: Path, first: str
) -> None:
    """DEBUG does, unless Flask-SQLAlchemy has been set up by then; where there is no
    SQLAlchemy object, too.
    """
    uri = f"sqlite:///{tmp_path / 'shop.db'}"
    if first == "Flask-SQLAlchemy":
        app = with_toolbar(make_app(uri, SQLAlchemy().init_app))
    elif first == "the toolbar":
        app = make_app(uri, lambda app: SQLAlchemy().init_app(with_toolbar(app)))
    else:
        app = with_toolbar(make_app(uri))
    client = app.test_client()
    client.get("/")
    page = client.get("/").text

    expected = [] if first == "Flask-SQLAlchemy" else ["SELECT flask_sessionsql"]
    assert expected == statements(page)


@pytest.mark.parametrize("panels", ["all", "one"])
def test_showing_the_session_reads_it(make_app: MakeApp, panels: str) -> None:
    """The panel with the session's values reads it on every page, and caches are told;
    without that panel, a page that leaves the session alone does.
    """
    some = {} if panels == "all" else {"DEBUG_TB_PANELS": WITHOUT_VALUES}
    app = with_toolbar(make_app("sqlite://", **some))
    app.add_url_rule("/still", view_func=lambda: "<!doctype html><body></body>")
    client = app.test_client()
    client.get("/")
    answer = client.get("/still")

    read = ["SELECT flask_sessionsql"] if panels == "all" else []
    assert read == statements(answer.text)
    assert (panels == "all") == ("Cookie" in answer.vary)
