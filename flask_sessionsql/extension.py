"""``Session``: sets up sessions for an application.

It connects the other modules for an application, and has the calls that list, read and
revoke sessions. The page :doc:`/explanations/users` explains users and tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from flask import Flask, current_app, has_request_context

from .commands.cli import session_cleanup_command, sessions_command
from .config import SQL_TYPES, SessionConfig
from .exceptions import (
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
)
from .formats.serializers import MsgpackSerializer
from .frames import unseen
from .interfaces import (
    FlaskSQLAlchemySessionInterface,
    NullSessionInterface,
    RequestSource,
    secret_keys,
)
from .saving.records import SessionRecords
from .sessions import HIDDEN_KEYS, session
from .signals import teller
from .storage.administration import (
    ANYBODY,
    SessionAdministration,
    SessionInfo,
    user_text,
)
from .storage.bind import SessionsBind
from .storage.store import StoredSession

__all__ = ["Session"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

_NAME = "sessionsql"


class Session:
    """Stores the sessions of Flask applications in a SQL database.

    One object can serve any number of applications, because it keeps nothing of theirs.
    To read and write a session, use :data:`flask.session`.

    >>> from flask import Flask
    >>> app = Flask("shop")
    >>> app.config.update(SESSION_TYPE="flask-sqlalchemy", SECRET_KEY="not so secret")
    >>> app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://")
    >>> Session(app)
    <Session>

    Call it before or after :meth:`SQLAlchemy.init_app()
    <flask_sqlalchemy.SQLAlchemy.init_app>`, or without any ``SQLAlchemy`` object. It
    does not connect to the database before the first request that uses a session.

    :param app: the application to call :meth:`init_app` with, if it is given.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def init_app(self, app: Flask) -> None:
        """Set up an application. Call it when the configuration is complete.

        It reads and checks the configuration. Changing it later has no effect, except
        for Flask's own settings and the secret keys: :doc:`/reference/settings` says
        what is read when.

        :param app: the application, a :class:`flask.Flask`.
        :raises SessionConfigError: a setting has a wrong value; the message says which,
            what was given and what is expected.
        :raises TypeError: ``app`` is something else, such as a Quart application.
        :raises RuntimeError: the application has been set up already.
        """
        # If it is `current_app`, take the application behind the proxy.
        app = getattr(app, "_get_current_object", lambda: app)()
        if not isinstance(app, Flask):
            kind = f"{type(app).__module__}.{type(app).__qualname__}"
            raise TypeError(
                "Flask-SessionSql stores the sessions of Flask applications. Give"
                f" Session(app) or init_app(app) a flask.Flask; got a {kind}."
            )
        if _NAME in app.extensions:
            raise RuntimeError(
                "The sessions of this application have been set up already. Call"
                " Session(app) or init_app(app) once for each application."
            )
        config = SessionConfig.from_mapping(app.config)
        interface: FlaskSQLAlchemySessionInterface | NullSessionInterface
        if config.session_type in SQL_TYPES:
            bind = SessionsBind(app, config)
            serializer, tell = MsgpackSerializer(), teller(app)
            records = SessionRecords(config, bind.open_store, serializer, tell)
            interface = FlaskSQLAlchemySessionInterface(
                config, records, bind.holds_lock
            )
        else:
            interface = NullSessionInterface(config)
        app.extensions[_NAME] = interface
        app.session_interface = interface
        # The application may already have commands with these names.
        for command in (sessions_command, session_cleanup_command):
            if command.name not in app.cli.commands:
                app.cli.add_command(command)

    # Listing and revoking sessions.

    def user_sessions(self, user: object) -> list[SessionInfo]:
        """List a user's live sessions, most recently used first, for a page that shows
        users where they are logged in (OWASP ASVS 5.0, 7.5.2).

        :param user: the value of ``session[SESSION_USER_KEY]``, or an object with the
            same ``str()`` or with Flask-Login's ``get_id()``.
        :return: the sessions; an empty list if there are none.
        :raises ValueError: ``user`` names nobody.
        :raises RuntimeError: the application has no sessions in SQL. All of these calls
            raise it.
        :raises SessionStoreUnavailableError: the database cannot be reached.
        """
        return _administration().of_user(user, current=_current_handle())

    @unseen
    def read(self, handle: str, *, user: object = ANYBODY) -> dict[str, Any] | None:
        """Read the keys and values of any live session, such as another device's. The
        result is a copy: changing it changes nothing in the database. Reading does not
        count as use, so it does not move the end of the session.

        :param handle: the handle of the session, from
            :class:`~flask_sessionsql.SessionInfo`.
        :param user: read the session only if it belongs to this user. Always give it if
            the handle comes from a browser, so that users can see only their own.
        :return: the data, or ``None`` if there is no live session of that handle, or it
            belongs to another user. For the session of the current request, the data as
            they were before the request.
        :raises ValueError: ``user`` is given and names nobody, as ``None`` does.
        :raises UnreadableSessionError: the session is damaged, or encrypted with a
            ``SECRET_KEY`` that the application does not have. The message says what to
            do.
        :raises SessionConfigError: no ``SECRET_KEY`` is set.
        :raises SessionStoreUnavailableError: the database cannot be reached.
        """
        interface = _interface()
        row = _administration().row(handle, user)
        if row is None:
            return None
        data = interface.records.whole(row, secret_keys(current_app))
        return {key: data[key] for key in data if key not in HIDDEN_KEYS}

    def revoke(self, handle: str, *, user: object = ANYBODY) -> bool:
        """Revoke one session. It is dead at the next request of any process, and a
        running request does not bring it back.

        :param handle: the handle of the session, from
            :class:`~flask_sessionsql.SessionInfo`.
        :param user: revoke it only if it belongs to this user. Always give it if the
            handle comes from a browser, so that users can end only their own.
        :return: whether there was such a session.
        :raises ValueError: ``user`` is given and names nobody, as ``None`` does.
        :raises SessionStoreUnavailableError: the database cannot be reached.
        :raises SessionStoreBusyError: on SQLite, the file is locked and this request
            has a transaction open, so it may be waiting for itself. Commit first.
        """
        return _revoke(
            lambda sessions, wait: sessions.revoke(handle, user, wait=wait),
            lambda own: own.handle == handle,
        )

    def revoke_user(self, user: object) -> int:
        """Revoke all sessions of a user, for example when the account is closed (OWASP
        ASVS 5.0, 7.4.2).

        :param user: the user, as for :meth:`user_sessions`.
        :return: how many sessions there were.
        :raises ValueError: ``user`` names nobody.
        :raises SessionStoreUnavailableError: as for :meth:`revoke`.
        """
        return _revoke(
            lambda sessions, wait: sessions.revoke_user(user, wait=wait),
            lambda own: own.user_id == user_text(user),
        )

    def revoke_others(self) -> int:
        """Revoke all sessions of this request's user except this request's, for example
        after a change of the password (OWASP ASVS 5.0, 7.4.3). Also call
        :meth:`session.regenerate() <flask_sessionsql.ServerSideSession.regenerate>`, in
        case somebody else has the token of this one.

        :return: how many sessions there were.
        :raises RuntimeError: nobody is logged in, or there is no request.
        :raises SessionStoreUnavailableError: as for :meth:`revoke`.
        """
        interface = _interface()
        user = session.get(interface.config.user_key) if has_request_context() else None
        if user is None or user == "":
            raise RuntimeError(
                "revoke_others() ends the sessions of the user who is logged in, and"
                f" session[{interface.config.user_key!r}] names nobody. Call it in a"
                " request of a user who is logged in, or call revoke_user()."
            )
        # The handle in the table: after clear() the session shows none, but a login
        # still uses its row.
        facts = session._source.facts()
        keep = None if facts is None else facts.handle
        return _revoke(
            lambda sessions, wait: sessions.revoke_user(user, keep=keep, wait=wait)
        )

    def revoke_all(self) -> int:
        """Revoke all sessions, with or without a user.

        :return: how many sessions there were.
        :raises SessionStoreUnavailableError: as for :meth:`revoke`.
        """
        return _revoke(
            lambda sessions, wait: sessions.revoke_all(wait=wait), lambda own: True
        )

    def dispose(self) -> None:
        """Close the connections of the current application's sessions, for example
        before a test drops its database. The next use makes new ones. Sessions in
        memory (``sqlite://``) are lost with their connection.

        If the application disposes of its engine for the same database, as with
        ``db.engine.dispose()``, this happens automatically.
        """
        _interface().records.store.dispose()


def _interface() -> FlaskSQLAlchemySessionInterface:
    """The session interface of the current application.

    :raises RuntimeError: it has no sessions in SQL.
    """
    interface = current_app.extensions.get(_NAME)
    if not isinstance(interface, FlaskSQLAlchemySessionInterface):
        raise RuntimeError(
            "This application has no sessions in SQL. Set SESSION_TYPE ="
            " 'flask-sqlalchemy' in its configuration and call Session(app)."
        )
    return interface


def _administration() -> SessionAdministration:
    """The sessions of all users, including this request's."""
    interface = _interface()
    with suppress(SessionStoreUnavailableError, SessionTableError):
        _arrive(wait=not interface.holds_lock())
    return interface.administration


def _arrive(*, wait: bool = True) -> RequestSource | None:
    """The source of this request's session. If the session is still at the previous
    site, it is adopted now, so that calls on sessions include it.
    """
    source = getattr(session, "_source", None) if has_request_context() else None
    if not isinstance(source, RequestSource):
        return None
    if source.arrival is not None and source.can_tell:
        source.arrival.take(wait=wait)
    return source


def _current_handle() -> str | None:
    return session.handle if has_request_context() else None


def _revoke(
    work: Callable[[SessionAdministration, bool], T],
    includes: Callable[[StoredSession], bool] = lambda own: False,
) -> T:
    """Revoke sessions, without waiting for a lock that this request itself may hold.

    :param work: called with the administration, and with whether it may wait.
    :param includes: whether that ends the session that this request has loaded.
    """
    interface = _interface()
    may_wait = not interface.holds_lock()
    try:
        source = _arrive(wait=may_wait)
        ended = work(interface.administration, may_wait)
        if source is not None and source.record is not None:
            source.has_ended |= bool(ended) and includes(source.record.row)
        return ended
    except SessionStoreBusyError as error:
        reason = (
            "The SQLite file is locked, and this request has begun a transaction of its"
            " own, which may be the one that locks it, so no session was ended. Commit"
            " or roll back first, for example with db.session.commit()."
        )
        logger.error(reason)
        raise SessionStoreBusyError(reason) from error
