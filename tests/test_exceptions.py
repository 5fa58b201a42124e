from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.exceptions import Forbidden, HTTPException, ServiceUnavailable

import flask_sessionsql
from flask_sessionsql import exceptions
from flask_sessionsql.exceptions import (
    NullSessionError,
    SessionConfigError,
    SessionConfigWarning,
    SessionConflictError,
    SessionError,
    SessionLimitError,
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
    SessionTooLargeError,
    SessionValueError,
    UnreadableSessionError,
)

BASES: dict[type[SessionError], type[Exception]] = {
    NullSessionError: RuntimeError,
    SessionConfigError: ValueError,
    SessionConflictError: RuntimeError,
    SessionLimitError: Forbidden,
    SessionStoreBusyError: SessionStoreUnavailableError,
    SessionStoreUnavailableError: ServiceUnavailable,
    SessionTableError: RuntimeError,
    SessionTooLargeError: ValueError,
    SessionValueError: TypeError,
    UnreadableSessionError: ValueError,
}


@pytest.mark.parametrize("error", BASES)
def test_one_tree(error: type[SessionError]) -> None:
    """Each error is a SessionError, and the built-in or HTTP error that fits."""
    assert issubclass(error, SessionError)
    assert issubclass(error, BASES[error])
    assert error.__doc__


def test_no_error_is_left_out() -> None:
    """Every error is in the tree and among the module's public names; those that an
    application can meet are the package's.
    """
    defined = {
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value) and value.__module__ == exceptions.__name__
    }
    assert defined == set(exceptions.__all__)
    assert {*BASES, SessionError, SessionConfigWarning} == {
        getattr(exceptions, name) for name in defined
    }
    # Caught on its way, always.
    assert {"SessionStoreBusyError"} == defined - set(flask_sessionsql.__all__)


def test_the_warning_is_none_of_the_errors() -> None:
    """A SessionConfigWarning is a UserWarning, and no SessionError."""
    assert issubclass(SessionConfigWarning, UserWarning)
    assert not issubclass(SessionConfigWarning, SessionError)


def test_config_error() -> None:
    """A SessionConfigError has the configuration key, and says it first."""
    error = SessionConfigError("SESSION_ID_LENGTH", "expected more")
    assert "SESSION_ID_LENGTH" == error.key
    assert "SESSION_ID_LENGTH: expected more" == str(error)


def test_value_error() -> None:
    """A SessionValueError has the session key, the place and the type, never the
    value.
    """
    error = SessionValueError("cart", "session['cart'][0]", set, "cannot be kept")
    assert "cart" == error.key
    assert "session['cart'][0]" == error.path
    assert set is error.value_type
    assert "session['cart'][0]: cannot be kept" == str(error)
    assert {"key", "path", "value_type"} == set(vars(error))


def test_too_large_error() -> None:
    """A SessionTooLargeError has the sizes and the largest keys, and says them, with
    what to do.
    """
    error = SessionTooLargeError(2000000, 1048576, [("cart", 1999000), (7, 12)])
    found = error.size, error.limit, error.largest
    assert (2000000, 1048576, [("cart", 1999000), (7, 12)]) == found
    assert "'cart' (1,999,000 bytes), 7 (12 bytes). Keep large" in str(error)
    assert "SESSION_MAX_BYTES allows 1,048,576" in str(error)


def test_limit_error() -> None:
    """A SessionLimitError is an HTTP error 403 with the limit, for visitors to read."""
    error = SessionLimitError(3)
    assert (3, 403) == (error.limit, error.code)
    assert "Log out on one of them" in error.get_response().get_data(as_text=True)


@pytest.mark.parametrize(
    "kind",
    [SessionStoreUnavailableError, SessionStoreBusyError],
    ids=lambda k: k.__name__,
)
def test_unavailable_is_a_503(kind: type[SessionStoreUnavailableError]) -> None:
    """An unavailable database is an HTTP error 503, whose reason is an attribute and
    stands neither in its text nor in the response.
    """
    error = kind("password authentication failed for user 'ann'")
    assert isinstance(error, HTTPException)
    assert 503 == error.code
    assert "password authentication failed for user 'ann'" == error.reason
    response = error.get_response()
    assert 503 == response.status_code
    page = response.get_data(as_text=True)
    assert "Please try again" in page
    for shown in (str(error), repr(error), page, str(response.headers)):
        assert "authentication" not in shown
        assert "'ann'" not in shown


def test_unavailable_without_a_reason() -> None:
    """The reason is empty where nobody gives one."""
    assert "" == SessionStoreUnavailableError().reason
    assert 503 == SessionStoreUnavailableError().code


def test_an_application_answers_with_503() -> None:
    """Raised in a view, it is answered with 503 and without the reason, also in
    testing and in debug mode.
    """
    app = Flask("shop")
    app.config.update(TESTING=True, DEBUG=True)

    @app.get("/")
    def index() -> str:
        raise SessionStoreUnavailableError("host db-1.internal is down")

    response = app.test_client().get("/")
    assert 503 == response.status_code
    assert "db-1" not in response.text
    assert "Please try again" in response.text


def test_an_application_has_its_own_error_page() -> None:
    """A handler for the error, for 503 or for the tree, is given the reason."""
    kinds: list[type[Exception] | int] = [
        SessionStoreUnavailableError,
        SessionError,
        ServiceUnavailable,
        503,
    ]
    for kind in kinds:
        app = Flask("shop")

        @app.errorhandler(kind)
        def sorry(error: SessionStoreUnavailableError) -> tuple[str, int]:
            assert "down" == error.reason
            return "sorry", 503

        @app.get("/")
        def index() -> str:
            raise SessionStoreUnavailableError("down")

        response = app.test_client().get("/")
        assert (503, "sorry") == (response.status_code, response.text)


#: One of each.
ERRORS = [
    NullSessionError("no key"),
    SessionConfigError("SESSION_ID_LENGTH", "expected more"),
    SessionConflictError("gave way"),
    SessionLimitError(3),
    SessionStoreBusyError("locked"),
    SessionStoreUnavailableError("no route"),
    SessionTableError("missing"),
    SessionTooLargeError(2000000, 1048576, [("cart", 1999000), (7, 12)]),
    SessionValueError("cart", "session['cart'][0]", set, "cannot be kept"),
    UnreadableSessionError("damaged"),
]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_arrive_whole(
    error: SessionError, again: Callable[[SessionError], SessionError]
) -> None:
    """A copy, as a pool of processes hands it over, is the same error, says the same,
    and has the same attributes.
    """
    assert {type(each) for each in ERRORS} == {*BASES}
    found = again(error)
    assert found is not error
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert found.args == error.args
    assert vars(found) == vars(error)
    if isinstance(found, HTTPException) and isinstance(error, HTTPException):
        assert found.get_response().data == error.get_response().data
