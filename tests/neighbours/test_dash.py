"""Dash: callbacks use the session, several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from flask import Flask, session
from flask.testing import FlaskClient

from flask_sessionsql import SessionValueError
from tests.conftest import MakeApp
from tests.helpers import at_once, store_of
from tests.integration.helpers import add_views, rows, same_browser
from tests.neighbours.blocks import run_blocks

dash: Any = pytest.importorskip("dash", reason="Dash comes with `nox -s neighbours`")

#: How many callbacks a page has in the tests of many.
MANY = 8


@pytest.fixture
def server() -> Iterator[Flask]:
    """What the page defines."""
    server: Flask = run_blocks("dash")["server"]
    server.testing = True
    yield server
    store_of(server).dispose()


def call(client: FlaskClient, output: str, value: Any) -> Any:
    """What the browser gets for a callback's output, as Dash's own script asks for it
    when the dropdown has another value.
    """
    name, prop = output.split(".")
    answer = client.post(
        "/_dash-update-component",
        json={
            "output": output,
            "outputs": {"id": name, "property": prop},
            "inputs": [{"id": "city", "property": "value", "value": value}],
            "changedPropIds": ["city.value"],
        },
    )
    assert 200 == answer.status_code
    return answer.get_json()["response"][name][prop]


def test_callbacks_use_the_session(server: Flask) -> None:
    """They read and change it, nested values too, each browser its own."""
    client, other = server.test_client(), server.test_client()
    for browser in (client, other):
        assert 200 == browser.get("/_dash-layout").status_code
    assert "Oslo" == call(client, "seen.children", "Oslo")
    assert "Last: Oslo" == call(client, "last.children", "Oslo")
    assert "Oslo, Rome" == call(client, "seen.children", "Rome")
    assert "Rome" == call(other, "seen.children", "Rome")


def test_the_layout_brings_the_cookie(server: Flask) -> None:
    """So that callbacks, however many come at once, share one session."""
    client = server.test_client()
    for path in ("/", "/_dash-layout"):
        client.get(path)
    assert client.get_cookie("session") is not None
    call(client, "last.children", "Oslo")
    assert 1 == len(rows(server))


def with_callbacks(server: Flask) -> Flask:
    """It has a page with many callbacks, each of which changes the session."""
    app = dash.Dash("shop", server=server)
    app.layout = dash.html.Div(
        [
            dash.dcc.Dropdown(["Oslo"], id="city"),
            *(dash.html.P(id=f"p{number}") for number in range(MANY)),
        ]
    )
    for number in range(MANY):

        @app.callback(  # type: ignore[untyped-decorator]
            dash.Output(f"p{number}", "children"), dash.Input("city", "value")
        )
        def change(value: str, number: int = number) -> str:
            session[f"of {number}"] = value
            session.setdefault("all", []).append(number)
            return "ok"

    return add_views(server)


def test_callbacks_at_once_keep_each_other_s_changes(
    make_app: MakeApp, shared_database_uri: str
) -> None:
    """As a browser sends all of a page: nobody's key is lost, nor what each appends to
    one list.
    """
    app = with_callbacks(make_app(shared_database_uri))

    @app.get("/begin")
    def begin() -> str:
        session["all"] = []
        return "ok"

    client = app.test_client()
    client.get("/begin")
    tabs = [same_browser(client) for _ in range(MANY)]
    jobs: list[Callable[[], Any]] = [
        partial(call, tab, f"p{number}.children", "Oslo")
        for number, tab in enumerate(tabs)
    ]
    assert ["ok"] * MANY == at_once(jobs)
    kept = client.get("/all").get_json()
    assert [*range(MANY)] == sorted(kept.pop("all"))
    assert {f"of {number}": "Oslo" for number in range(MANY)} == kept


def test_a_login_drops_what_comes_with_the_token_before(make_app: MakeApp) -> None:
    """A callback that comes late with it harms nobody, and the browser stays logged
    in.
    """
    app = with_callbacks(make_app("sqlite://"))
    client = app.test_client()
    client.get("/set/basket/tea")
    late = same_browser(client)
    client.get("/set/_user_id/1")

    assert "ok" == call(late, "p0.children", "Oslo")
    kept = client.get("/all").get_json()
    assert ("1", "tea") == (kept["_user_id"], kept["basket"])
    assert "of 0" not in kept


def test_a_figure_is_refused(make_app: MakeApp) -> None:
    """By an error that names the key."""
    app = add_views(make_app("sqlite://"))
    graph = pytest.importorskip("plotly.graph_objects")

    @app.get("/figure")
    def figure() -> str:
        session["figure"] = graph.Figure()
        return "ok"

    with pytest.raises(SessionValueError, match=r"session\['figure'\]"):
        app.test_client().get("/figure")


def test_a_page_without_callbacks_costs_nothing(make_app: MakeApp) -> None:
    """What Dash serves besides leaves the session alone."""
    app = with_callbacks(make_app("sqlite://"))
    client = app.test_client()
    client.get("/set/basket/tea")
    for path in ("/_dash-dependencies", "/_dash-layout", "/_favicon.ico"):
        answer = client.get(path)
        assert 200 == answer.status_code
        assert "Cookie" not in answer.vary
