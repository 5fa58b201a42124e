"""``Session``: what an application is given.

It puts the rest together for an application, and has the calls that list sessions, read
them and end them. Whom a session belongs to, and why its token changes with the user,
is on the page :doc:`/explanations/users`.
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
    """Puts the sessions of Flask applications into a SQL database.

    One object serves any number of applications and keeps nothing of theirs. It is
    not used for direct access: use :data:`flask.session`.

    >>> from flask import Flask
    >>> app = Flask("shop")
    >>> app.config.update(SESSION_TYPE="flask-sqlalchemy", SECRET_KEY="not so secret")
    >>> app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://")
    >>> Session(app)
    <Session>

    It may come before or after :meth:`SQLAlchemy.init_app()
    <flask_sqlalchemy.SQLAlchemy.init_app>`, and needs no ``SQLAlchemy`` object at all.
    Nothing is connected to before the first request that touches a session.

    :param app: call :meth:`init_app` with this application.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def init_app(self, app: Flask) -> None:
        """Set up an application whose configuration is complete.

        The configuration is read and checked here; changing it afterwards changes
        nothing, but for Flask's own settings and the secret keys:
        :doc:`/reference/settings` says
        what is read when.

        :param app: the application: a :class:`flask.Flask`.
        :raises SessionConfigError: a value cannot work; the message says which, what
            was given and what is expected.
        :raises TypeError: it is something else, such as an application of Quart, whose
            requests go another way.
        :raises RuntimeError: the application has sessions of this kind already.
        """
        # Where `current_app` was given: what stands for it is another one each time.
        app = getattr(app, "_get_current_object", lambda: app)()
        if not isinstance(app, Flask):
            kind = f"{type(app).__module__}.{type(app).__qualname__}"
            raise TypeError(
                "Flask-SessionSql keeps the sessions of Flask applications. Give"
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
        # An application may have commands of that name already.
        for command in (sessions_command, session_cleanup_command):
            if command.name not in app.cli.commands:
                app.cli.add_command(command)

    # Who is logged in where.

    def user_sessions(self, user: object) -> list[SessionInfo]:
        """A user's live sessions, the one used last first: for a page on which users
        see where they are logged in (OWASP ASVS 5.0, 7.5.2).

        :param user: who, as ``session[SESSION_USER_KEY]`` has it, or something whose
            ``str()`` that is.
        :return: empty where there are none.
        :raises ValueError: it names nobody.
        :raises RuntimeError: the application has no sessions in SQL, as for all of
            these calls.
        :raises SessionStoreUnavailableError: the database cannot be reached.
        """
        return _administration().of_user(user, current=_current_handle())

    @unseen
    def read(self, handle: str, *, user: object = ANYBODY) -> dict[str, Any] | None:
        """What is stored of any live session, such as another device's: its keys and
        values. It is a copy: changing it changes nothing that is stored. Reading does
        not count as use, so the session ends when it would have.

        :param handle: which one, as :class:`~flask_sessionsql.SessionInfo` has it.
        :param user: read it only if it is this user's. Always give it where the handle
            comes from a browser: users may only see what is theirs.
        :return: ``None`` where there is no live session of that handle, or it is
            another user's. Of this request's own session, what it was before the
            request.
        :raises ValueError: ``user`` is given and names nobody, as ``None`` does.
        :raises UnreadableSessionError: there is one, and it is damaged, or encrypted
            under a ``SECRET_KEY`` that is not among those of the application. The
            message says what to do.
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
        """End one session. It is dead at the next request of any process, and a request
        that is under way does not bring it back.

        :param handle: which one, as :class:`~flask_sessionsql.SessionInfo` has it.
        :param user: end it only if it is this user's. Always give it where the handle
            comes from a browser: users may only end what is theirs.
        :return: whether there was such a session.
        :raises ValueError: ``user`` is given and names nobody, as ``None`` does.
        :raises SessionStoreUnavailableError: the database cannot be reached.
        :raises SessionStoreBusyError: on SQLite, the file is locked while this request
            has a transaction open, and so could be waiting for itself. Commit before.
        """
        return _revoke(
            lambda sessions, wait: sessions.revoke(handle, user, wait=wait),
            lambda own: own.handle == handle,
        )

    def revoke_user(self, user: object) -> int:
        """End all sessions of a user, such as when the account is closed (OWASP ASVS
        5.0, 7.4.2).

        :param user: who, as for :meth:`user_sessions`.
        :return: how many there were.
        :raises ValueError: it names nobody.
        :raises SessionStoreUnavailableError: as for :meth:`revoke`.
        """
        return _revoke(
            lambda sessions, wait: sessions.revoke_user(user, wait=wait),
            lambda own: own.user_id == user_text(user),
        )

    def revoke_others(self) -> int:
        """End all sessions of this request's user but this request's, such as after a
        change of the password (OWASP ASVS 5.0, 7.4.3). Call :meth:`session.regenerate()
        <flask_sessionsql.ServerSideSession.regenerate>` besides, in case that somebody
        shares this one.

        :return: how many there were.
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
        # By the name that it has in the table: after clear() it shows none, and a login
        # takes the row over all the same.
        facts = session._source.facts()
        keep = None if facts is None else facts.handle
        return _revoke(
            lambda sessions, wait: sessions.revoke_user(user, keep=keep, wait=wait)
        )

    def revoke_all(self) -> int:
        """End all sessions of all users, with or without a login.

        :return: how many there were.
        :raises SessionStoreUnavailableError: as for :meth:`revoke`.
        """
        return _revoke(
            lambda sessions, wait: sessions.revoke_all(wait=wait), lambda own: True
        )

    def dispose(self) -> None:
        """Close the connections of the current application's sessions, such as before
        a test drops its database. The next use makes new ones. Sessions in memory
        (``sqlite://``) end with theirs.

        It is called by itself where the application disposes of the engine whose
        database the sessions are in, as by ``db.engine.dispose()``.
        """
        _interface().records.store.dispose()


def _interface() -> FlaskSQLAlchemySessionInterface:
    """The interface of the current application.

    :raises RuntimeError: it has none of ours.
    """
    interface = current_app.extensions.get(_NAME)
    if not isinstance(interface, FlaskSQLAlchemySessionInterface):
        raise RuntimeError(
            "This application has no sessions in SQL. Set SESSION_TYPE ="
            " 'flask-sqlalchemy' in its configuration and call Session(app)."
        )
    return interface


def _administration() -> SessionAdministration:
    """The sessions of all users, this request's among them."""
    interface = _interface()
    with suppress(SessionStoreUnavailableError, SessionTableError):
        _arrive(wait=not interface.holds_lock())
    return interface.administration


def _arrive(*, wait: bool = True) -> RequestSource | None:
    """Where this request's session comes from. It is taken over now, if it is still at
    the site before: what is done to sessions is done to it, too.
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
    """End sessions, without waiting for a lock that this very request may hold.

    :param work: called with the administration, and with whether it may wait.
    :param includes: whether it ends the session that this request has loaded.
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
            " own, which may be what locks it, so that no session was ended. Commit or"
            " roll back before ending sessions, such as by db.session.commit()."
        )
        logger.error(reason)
        raise SessionStoreBusyError(reason) from error
