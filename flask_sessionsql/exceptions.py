"""The errors: each is a :exc:`SessionError` and has the details as attributes.

No message and no attribute holds a token or a stored value. Keys of the session are
named where that helps.
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


#: Seconds after which a browser may try again: a restart of the server takes some time,
#: and not all browsers should come back at once and all the time.
RETRY_AFTER = 10


class SessionError(Exception):
    """The base class of every error that this package raises. All of them can be copied
    and pickled, for pools of processes and error reporters.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Without calling ``__init__``, whose parameters are not kept."""
        return _restored, (type(self), self.args, vars(self))


def _restored(
    kind: type[SessionError], args: tuple[object, ...], attributes: dict[str, object]
) -> SessionError:
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


class SessionConfigError(SessionError, ValueError):
    """A setting has a wrong value. :meth:`Session.init_app()
    <flask_sessionsql.Session.init_app>` raises it. A request raises it for what cannot
    be checked earlier or has been changed since: :doc:`/reference/settings` says which.
    """

    #: The configuration key, such as ``"SESSION_ID_LENGTH"``.
    key: str

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class SessionConfigWarning(UserWarning):
    """A configuration key has no effect, or browsers refuse a combination of values.
    :meth:`Session.init_app() <flask_sessionsql.Session.init_app>` warns once.
    """


class NullSessionError(SessionError, RuntimeError):
    """A write to a session that cannot be stored, because ``SESSION_TYPE`` or
    ``SECRET_KEY`` is not set. It is a :exc:`RuntimeError`, like the error of Flask's
    own null session.
    """


class SessionValueError(SessionError, TypeError):
    """A session cannot hold a value. The stored session stays as it was."""

    #: The session key of the value.
    key: object
    #: The path to the value, as Python: ``session['cart'][0]``.
    path: str
    #: The type of the refused value.
    value_type: type

    def __init__(self, key: object, path: str, value_type: type, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.key = key
        self.path = path
        self.value_type = value_type


class SessionTooLargeError(SessionError, ValueError):
    """A session is larger than ``SESSION_MAX_BYTES``. The stored session stays as it
    was.
    """

    #: The size that the session would have in the table, in bytes.
    size: int
    #: The maximum size, in bytes.
    limit: int
    #: The largest keys of the session with their sizes in bytes, the largest first.
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
    """A login of a user who has ``SESSION_MAX_PER_USER`` sessions already, with
    ``SESSION_MAX_PER_USER_POLICY = "refuse"``: a ``403``.

    It becomes the response of the request that logged the user in. Register an
    :meth:`error handler <flask.Flask.register_error_handler>` for a page of your own.
    The session is as it was before the request. Other code may still see the login:
    Flask-Login's ``current_user`` is the refused user for the rest of the request.
    """

    description: str = (
        "You are logged in on as many devices as is allowed. Log out on one of them,"
        " and try again."
    )

    #: The maximum number of sessions of a user.
    limit: int

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit


class UnreadableSessionError(SessionError, ValueError):
    """The stored bytes are not a session: they are truncated or changed.

    In the request of its browser, the application does not see this error: the session
    is empty and the log names the row's handle. :meth:`Session.read()
    <flask_sessionsql.Session.read>` raises it, with a message that says what to do.
    """


class SessionStoreUnavailableError(SessionError, ServiceUnavailable):
    """The database cannot be reached or does not work: a ``503``.

    It is raised when a request first uses :data:`flask.session`, or becomes the
    response if the session cannot be saved. The reason is in the log and in
    :attr:`reason`, never in the response, which has ``Retry-After: 10``: see
    :doc:`/guides/database-down`.
    """

    description: str = (
        "The session could not be loaded or saved, because its database cannot be"
        " reached at the moment. Please try again."
    )

    #: The message of the database or its driver. For logs, not for visitors.
    reason: str

    def __init__(self, reason: str = "") -> None:
        super().__init__(retry_after=RETRY_AFTER)
        self.reason = reason


class SessionStoreBusyError(SessionStoreUnavailableError):
    """A SQLite file is locked, and the statement was not allowed to wait."""


class SessionTableError(SessionError, RuntimeError):
    """The sessions table is missing and cannot be created, or is another program's; or
    its schema is missing; or the database's user lacks a right on it. The message then
    has the ``GRANT`` to run.
    """

    #: The setting to look at.
    key: str = "SESSION_SQLALCHEMY_TABLE"


class SessionConflictError(SessionError, RuntimeError):
    """Other requests changed the session at each try, so it could not be saved."""
