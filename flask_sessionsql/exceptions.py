"""One tree of errors: what goes wrong with a session or its settings is a
:exc:`SessionError`, and carries its evidence as attributes.

No message and no attribute ever holds a session's token or a stored value; keys of
the session are named where that helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import repr  # noqa: A004 -- a key can be long itself
from typing import Any

from werkzeug.exceptions import Forbidden, ServiceUnavailable

__all__ = [
    "NullSessionError",
    "SessionConfigError",
    "SessionConfigWarning",
    "SessionConflictError",
    "SessionError",
    "SessionLimitError",
    "SessionStoreBusyError",
    "SessionStoreUnavailableError",
    "SessionTableError",
    "SessionTooLargeError",
    "SessionValueError",
    "UnreadableSessionError",
]


#: Seconds after which a browser may try again: a server that restarts takes some, and
#: the clients of many must not come back at once and all the time.
RETRY_AFTER = 10


class SessionError(Exception):
    """The base of every error that this package raises. Each can be copied and pickled,
    so that it arrives whole where a pool of processes or an error reporter takes it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, not by way of ``__init__``, whose parameters it does not keep."""
        return _restored, (type(self), self.args, vars(self))


def _restored(
    kind: type[SessionError], args: tuple[object, ...], attributes: dict[str, object]
) -> SessionError:
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


class SessionConfigError(SessionError, ValueError):
    """A configuration value that cannot work, raised by
    :meth:`Session.init_app() <flask_sessionsql.Session.init_app>`, and by the use of
    what cannot be known before, or has been set since:
    :doc:`/reference/settings` says which.
    """

    #: The configuration key, such as ``"SESSION_ID_LENGTH"``.
    key: str

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class SessionConfigWarning(UserWarning):
    """A configuration key that has no effect, or a combination of values that
    browsers refuse. Warned of once, by
    :meth:`Session.init_app() <flask_sessionsql.Session.init_app>`.
    """


class NullSessionError(SessionError, RuntimeError):
    """A write to a session that cannot be stored: no ``SESSION_TYPE`` or no
    ``SECRET_KEY`` is set. It is a :exc:`RuntimeError`, as the error of Flask's
    own null session is.
    """


class SessionValueError(SessionError, TypeError):
    """A value that a session cannot keep. The stored session stays as it was."""

    #: The session key under which the value stands.
    key: object
    #: Where it stands, written as Python: ``session['cart'][0]``.
    path: str
    #: The type of the refused value.
    value_type: type

    def __init__(self, key: object, path: str, value_type: type, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.key = key
        self.path = path
        self.value_type = value_type


class SessionTooLargeError(SessionError, ValueError):
    """A session over ``SESSION_MAX_BYTES``. The stored session stays as it was."""

    #: The size of the session as it would be stored, in bytes.
    size: int
    #: The size that is allowed, in bytes.
    limit: int
    #: The session's largest keys with the size of each in bytes, the largest first.
    largest: Sequence[tuple[object, int]]

    def __init__(
        self, size: int, limit: int, largest: Sequence[tuple[object, int]]
    ) -> None:
        keys = ", ".join(f"{repr(key)} ({each:,} bytes)" for key, each in largest)
        super().__init__(
            f"The session would take {size:,} bytes, and SESSION_MAX_BYTES allows"
            f" {limit:,}. Its largest keys are {keys}. Keep large things in a table of"
            " your own and their keys in the session, or raise SESSION_MAX_BYTES."
        )
        self.size = size
        self.limit = limit
        self.largest = largest


class SessionLimitError(SessionError, Forbidden):
    """A login of a user who has ``SESSION_MAX_PER_USER`` sessions already, where
    ``SESSION_MAX_PER_USER_POLICY`` is ``"refuse"``: a ``403``.

    It is turned into the response of the request that logged the user in. Register an
    :meth:`error handler <flask.Flask.register_error_handler>` for a page of your own.
    The session is as it was before the request. What else knows of the login by then
    does not change: Flask-Login's ``current_user`` is the one who was refused, for the
    rest of the request.
    """

    description: str = (
        "You are logged in on as many devices as is allowed. Log out on one of them,"
        " and try again."
    )

    #: How many sessions a user may have.
    limit: int

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit


class UnreadableSessionError(SessionError, ValueError):
    """Stored bytes that are no session: truncated, foreign or tampered with.

    In the request of its browser it does not reach the application: the session is an
    empty one and the log names the row's handle. :meth:`Session.read()
    <flask_sessionsql.Session.read>` raises it, with a message that says what to do.
    """


class SessionStoreUnavailableError(SessionError, ServiceUnavailable):
    """The database cannot be reached, or refused to work: a ``503``.

    Raised at the first touch of :data:`flask.session` in a request, or turned
    into the response when the session could not be saved. The reason is in the
    log and in :attr:`reason`, never in the response. The response asks to be tried
    again after ten seconds, by ``Retry-After``: see :doc:`/guides/servers`.
    """

    description: str = (
        "The session could not be loaded or saved, because its database cannot be"
        " reached at the moment. Please try again."
    )

    #: What the database or its driver said. For logs, not for visitors.
    reason: str

    def __init__(self, reason: str = "") -> None:
        super().__init__(retry_after=RETRY_AFTER)
        self.reason = reason


class SessionStoreBusyError(SessionStoreUnavailableError):
    """A SQLite file is locked and the statement was asked not to wait."""


class SessionTableError(SessionError, RuntimeError):
    """The table of the sessions is missing, could not be created, or is another
    program's table of the same name; or its schema is missing, or the database's user
    lacks a right on it, and the message has the ``GRANT`` to give.
    """

    #: The setting that says where the table is, as far as the error is about it.
    key: str = "SESSION_SQLALCHEMY_TABLE"


class SessionConflictError(SessionError, RuntimeError):
    """A write gave way to other requests so often that it was given up."""
