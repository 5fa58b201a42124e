from __future__ import annotations

import pytest
from flask import Response, session

from tests.conftest import MakeApp


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "cookie"),
        (["Cookie"], "cookie"),
        (["cOOKIE"], "cookie"),
        (["Accept"], "accept cookie"),
        (["Accept, COOKIE, Origin"], "accept cookie origin"),
        (["*"], "* cookie"),
        (["Accept", "Origin"], "accept origin cookie"),
        (["Accept", "Cookie"], "accept cookie"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["Vary", "vary", "VARY"])
def test_vary_names_the_cookie_once(
    make_app: MakeApp, name: str, values: list[str], expected: str
) -> None:
    """Beside whatever the view has set, in any case and in several headers."""
    app = make_app("sqlite://")

    @app.get("/")
    def view() -> Response:
        response = Response(repr(session.get("key")))
        for value in values:
            response.headers.add(name, value)
        return response

    response = app.test_client().get("/")
    said = ", ".join(response.headers.getlist("Vary")).lower().split(", ")
    assert sorted(said) == sorted(expected.split())
