"""Whatever stands under a key: either init_app says what is wrong with it, or the
sessions work.
"""

from __future__ import annotations

import secrets
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_sessionsql import (
    FlaskSQLAlchemySessionInterface,
    NullSessionError,
    Session,
    SessionConfigError,
    SessionConfigWarning,
    SessionTableError,
    SessionTooLargeError,
)
from flask_sessionsql.config import SETTINGS
from flask_sessionsql.sessions import HIDDEN_KEYS
from tests.conftest import MakeApp
from tests.helpers import close
from tests.integration.helpers import rows

#: Characters at which something can break: of domains, paths, names and addresses.
ODD = "aA.-_;:/\\ \0\n\x7f\udc80é日😀\"'`%@*,=?#[]"
TEXTS = st.text(ODD, max_size=8) | st.text(st.characters(), max_size=70)
DOMAINS = st.lists(
    st.sampled_from(["a", "b-c", "", "é", "ü" * 70, "x" * 64, "xn--", "\u06dd", "。"])
    | st.text(ODD, max_size=3),
    max_size=6,
).map(".".join)
PATHS = TEXTS.map("/".__add__) | st.integers(1, 5000).map(lambda n: "/" + n * "p")
NUMBERS = st.integers() | st.sampled_from([0, -1, 1, 2**31, 2**63, 10**30, 10**5000])
TIMES = st.timedeltas() | st.sampled_from([timedelta.max, timedelta(microseconds=1)])
VALUES: list[st.SearchStrategy[Any]] = [
    st.none(),
    st.booleans(),
    NUMBERS,
    st.floats(),
    TIMES,
    TEXTS,
    DOMAINS,
]
VALUES += [PATHS, st.binary(max_size=40)]
ANYTHING = st.one_of(
    *VALUES,
    st.lists(st.one_of(*VALUES), max_size=3),
    st.dictionaries(TEXTS, TEXTS, max_size=2),
    st.sampled_from([object(), Flask, Flask("other"), ...]),
)
#: What a setting may take, so that good values are tried as well.
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "SESSION_TYPE": st.sampled_from(["null", "sqlalchemy", "flask-sqlalchemy"]),
    "SESSION_COOKIE_NAME": st.text("aB9!#$%&'*+-.^_`|~", min_size=1)
    | st.integers(1, 5000).map("s".__mul__),
    "SESSION_COOKIE_DOMAIN": DOMAINS,
    "SESSION_COOKIE_PATH": PATHS,
    "APPLICATION_ROOT": PATHS,
    "SESSION_COOKIE_SAMESITE": st.sampled_from(
        ["lax", "STRICT", "None", "\u017ftrict"]
    ),
    "SESSION_ENCRYPT": st.just("required"),
    "SESSION_MAX_PER_USER": st.integers(1),
    "SESSION_MAX_PER_USER_POLICY": st.sampled_from(["end-oldest", "refuse"]),
    "SESSION_USER_KEY": st.sampled_from(["user", *HIDDEN_KEYS]) | TEXTS,
    "SESSION_SQLALCHEMY_TABLE": TEXTS,
    "SESSION_SQLALCHEMY_SCHEMA": st.just("main") | TEXTS,
    "SESSION_SQLALCHEMY": st.builds(SQLAlchemy),
    # In a folder of the test's own.
    "SQLALCHEMY_DATABASE_URI": TEXTS.map(
        lambda text: f"sqlite:///{text.replace('..', '.').lstrip('/')}"
    ),
    "SQLALCHEMY_ECHO": st.just("debug"),
    "SECRET_KEY_FALLBACKS": st.lists(TEXTS, max_size=3),
}
TIMED = {key for key, each in SETTINGS.items() if each.unit == "seconds"}
FITTING |= dict.fromkeys(TIMED, NUMBERS | TIMES)
#: What the first use finds out, and nothing before.
AT_FIRST_USE = {
    "SESSION_CREATE_TABLE": SessionTableError,
    "SESSION_MAX_BYTES": SessionTooLargeError,
    "SESSION_SQLALCHEMY_SCHEMA": SessionTableError,
}


def application(folder: Path, key: str, value: Any) -> Flask:
    app = Flask("shop", instance_path=str(folder))
    app.config.update(TESTING=True, SECRET_KEY="a key", SESSION_TYPE="sqlalchemy")
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://")
    app.config[key] = value

    @app.get("/login")
    def login() -> str:
        session[app.session_interface.config.user_key] = "ann"  # type: ignore[attr-defined]
        session["cart"] = ["tea"]
        return "ok"

    return app


def problem_of(app: Flask) -> Exception | None:
    """The error of setting up the sessions, or of a login; ``None`` if it works."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SessionConfigWarning)
            Session(app)
        login(app)
    except (SessionConfigError, SessionTableError, SessionTooLargeError) as error:
        return error
    except NullSessionError as error:
        return None if app.secret_key is None or is_null(app) else error
    return None


def is_null(app: Flask) -> bool:
    return not isinstance(app.session_interface, FlaskSQLAlchemySessionInterface)


def login(app: Flask) -> None:
    """Log somebody in: the row is stored and the cookie sent."""
    response = app.test_client().get("/login", base_url="https://localhost")
    (sent,) = response.headers.getlist("Set-Cookie")
    assert response.status_code == 200
    assert len(sent) < 4096
    assert len(rows(app)) == 1


@pytest.mark.parametrize("key", sorted(SETTINGS))
@settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_anything(key: str, data: st.DataObject, tmp_path: Path) -> None:
    """Either Session(app) raises an error that names the key, or a login is stored and
    its cookie is sent.
    """
    fits = data.draw(st.booleans())
    value = data.draw(FITTING.get(key, ANYTHING) if fits else ANYTHING)
    app = application(tmp_path / secrets.token_hex(8), key, value)
    problem = problem_of(app)
    if problem is None:
        if not is_null(app):
            close(app)
    elif not isinstance(problem, SessionConfigError):
        assert type(problem) is AT_FIRST_USE[key]
        close(app)
    else:
        assert problem.key == key
        assert str(problem).startswith(f"{key}: ")
        assert len(str(problem)) < 1000


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"SESSION_COOKIE_DOMAIN": "a..b"}, "SESSION_COOKIE_DOMAIN"),
        ({"SESSION_COOKIE_DOMAIN": "a b"}, "SESSION_COOKIE_DOMAIN"),
        ({"SECRET_KEY": 5}, "SECRET_KEY"),
        ({"SECRET_KEY_FALLBACKS": 5}, "SECRET_KEY_FALLBACKS"),
        ({"SESSION_USER_KEY": HIDDEN_KEYS[1]}, "SESSION_USER_KEY"),
        ({"SESSION_SQLALCHEMY_TABLE": "a\0b"}, "SESSION_SQLALCHEMY_TABLE"),
    ],
)
def test_what_failed_at_the_first_visitor(
    make_app: MakeApp, config: dict[str, Any], key: str
) -> None:
    """These are errors of init_app, which names the key."""
    with pytest.raises(SessionConfigError, match=f"^{key}: "):
        make_app("sqlite://", **config)
