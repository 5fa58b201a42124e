from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, Request, session

from flask_sessionsql import (
    NullSessionError,
    NullSessionInterface,
    Session,
    SessionConflictError,
    SessionRefused,
)
from flask_sessionsql import session as typed_session
from flask_sessionsql.interfaces import RequestSource, _deferred
from flask_sessionsql.saving.planning import Keep, Plan

READS: list[Callable[[], object]] = [
    lambda: session.get("key"),
    lambda: "key" in session,
    lambda: len(session),
    lambda: list(session),
    lambda: session.keys(),
    lambda: session.copy(),  # type: ignore[attr-defined]
    lambda: session == {},
    lambda: bool(session),
    lambda: session.permanent,
    lambda: session | {"key": 1},  # type: ignore[operator]
    lambda: typed_session.new,
    lambda: typed_session.handle,
    lambda: typed_session.created_at,
    lambda: typed_session.expires_at,
    lambda: typed_session.label,
    lambda: typed_session.regenerate(),
]


def _augment() -> None:
    global session
    session |= {"key": 1}  # type: ignore[operator]


WRITES: list[Callable[[], object]] = [
    lambda: session.__setitem__("key", 1),
    lambda: session.__delitem__("key"),
    lambda: session.update(key=1),
    lambda: session.update({}),
    lambda: session.setdefault("key", 1),
    lambda: session.pop("key", None),
    lambda: session.popitem(),
    lambda: session.clear(),
    lambda: setattr(session, "permanent", True),
    lambda: typed_session.set_expiry(None),
    lambda: typed_session.set_lifetime(None),
    lambda: setattr(typed_session, "label", None),
    _augment,
]


@pytest.fixture(params=[{}, {"SESSION_TYPE": "null"}, {"SESSION_TYPE": None}])
def null_app(request: pytest.FixtureRequest) -> Flask:
    app = Flask("shop")
    app.config.update(SECRET_KEY="a key", **request.param)
    Session(app)
    return app


@pytest.mark.parametrize("number", range(len(READS)))
def test_reading_a_null_session_sees_an_empty_one(null_app: Flask, number: int) -> None:
    """Every way of reading works, and shows what an empty dictionary would."""
    empty: dict[str, Any] = {}
    expected = [
        empty.get("key"),
        "key" in empty,
        len(empty),
        list(empty),
        empty.keys(),
        empty.copy(),
        True,
        bool(empty),
        False,
        {"key": 1},
        False,
        *(None, None, None, None, None),
    ]
    with null_app.test_request_context():
        assert expected[number] == READS[number]()


@pytest.mark.parametrize("number", range(len(WRITES)))
def test_writing_to_a_null_session_fails(null_app: Flask, number: int) -> None:
    """Every way of writing fails, with what is wrong and what to set."""
    expected = (
        "^The session is unavailable because no SESSION_TYPE is set"
        ".*SESSION_TYPE = 'flask-sqlalchemy'"
    )
    with null_app.test_request_context():
        with pytest.raises(NullSessionError, match=expected):
            WRITES[number]()
        assert len(session) == 0


@pytest.mark.parametrize("number", range(len(WRITES)))
def test_writing_without_a_secret_key_fails(number: int) -> None:
    """With a SESSION_TYPE and no SECRET_KEY, the error is about the key."""
    app = Flask("shop")
    app.config.update(SESSION_TYPE="flask-sqlalchemy")
    Session(app)
    with (
        app.test_request_context(),
        pytest.raises(
            NullSessionError, match=r"because no secret key was set.*token_hex"
        ),
    ):
        WRITES[number]()


def test_a_null_session_sends_no_cookie(null_app: Flask) -> None:
    """A page that reads the null session is served as ever."""
    null_app.add_url_rule("/", view_func=lambda: repr(session.get("key")))
    response = null_app.test_client().get("/")
    assert (response.status_code, response.text) == (200, "None")
    assert "Set-Cookie" not in response.headers


def test_saving_a_null_session_does_nothing(null_app: Flask) -> None:
    """Who saves by hand changes nothing either."""
    interface = null_app.session_interface
    assert isinstance(interface, NullSessionInterface)
    response = null_app.response_class()
    with null_app.test_request_context():
        interface.save_session(
            null_app, interface.make_null_session(null_app), response
        )
    assert "Set-Cookie" not in response.headers


def test_a_deferred_conflict_is_told_of_and_raised() -> None:
    """What cannot be written at the end of the context is told of, and an error."""
    told: list[Any] = []

    class Records:
        tell = told.append

        def execute(self, plan: Plan) -> None:
            raise SessionConflictError("It was changed by others at each try.")

    records: Any = Records()
    interface: Any = SimpleNamespace(records=records)
    app, request = Flask("shop"), Request({})
    source = RequestSource(interface, app, request)
    for _ in range(2):
        with pytest.raises(SessionConflictError):
            _deferred(records, source, "ann", Keep(None, {}))()
    assert [SessionRefused(None, "ann", "conflict")] == told
