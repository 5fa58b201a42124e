from __future__ import annotations

import traceback

import pytest
from flask import Response, session

from flask_sessionsql.responses import after_context
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


def test_what_is_deferred_keeps_no_values_of_its_errors(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the error that is raised nor the one that is logged shows the variables
    of what failed.
    """
    app = make_app("sqlite://")

    def fail() -> None:
        value = "hush"
        raise RuntimeError(f"failed {len(value)}")

    def frames(error: BaseException) -> list[dict[str, object]]:
        found = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        assert len(found) > 1
        return found

    with pytest.raises(RuntimeError) as raised, app.app_context():  # noqa: PT012
        after_context(fail)
        after_context(fail)
    told = [record.exc_info for record in caplog.records if record.exc_info]
    assert len(told) == 1
    logged = told[0][1]
    assert logged is not None
    for error in (raised.value, logged):
        assert [] == [found for found in frames(error) if "value" in found]
