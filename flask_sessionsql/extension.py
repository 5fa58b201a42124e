"""``Session``: what an application is given.

The user and the token
----------------------

Whoever holds a session's token is taken for its user. So the token must change when the
user does: a token that somebody has planted before a login must not open the session
after it, and one that was kept from before a logout must open nothing (OWASP ASVS 5.0,
7.2.4; CVE-2022-38054). Applications forget that, so they are not asked to do it.

``SESSION_USER_KEY`` names the session key that tells who is logged in. Its value is
copied to the column ``user_id`` at every save, as text. When it changes, at a login, at
a logout or when another user takes over, the session moves to a new token in the
statement that saves it. The old token is dead at once; the data and the session's
:attr:`~flask_sessionsql.ServerSideSession.handle` stay.

**Flask-Login** keeps the user under ``"_user_id"``, which is the default. There is
nothing to do. One thing to know: its "remember me" cookie is not a session, and logs
its user in anew when the session has ended. Sessions here live for as long as
``PERMANENT_SESSION_LIFETIME`` says, so leave ``remember=True`` away.

**Flask-Security** stands on Flask-Login; there is nothing to do either. What it keeps
in the session is the user's ``fs_uniquifier``, so give ``current_user.get_id()`` to the
calls that take a user. It makes a new one when the password changes: the sessions of
the old one are nobody's then. To end them at once, note it before, and call
:meth:`~flask_sessionsql.Session.revoke_user`.

**A login of your own** is one assignment, and a logout is ``session.clear()``:

.. testcode:: token

    from flask import Flask
    from flask_sessionsql import Session, session

    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not so secret",
        SESSION_TYPE="flask-sqlalchemy",
        SESSION_USER_KEY="user",
        SQLALCHEMY_DATABASE_URI="sqlite://",
    )
    Session(app)

    @app.get("/basket")
    def basket():
        session["basket"] = ["tea"]
        return "ok"

    @app.get("/login")
    def login():
        session["user"] = "ann"  # whose password was right
        return "ok"

    @app.get("/whoami")
    def whoami():
        return f"{session.get('user')} with {session.get('basket')}"

    browser = app.test_client()
    browser.get("/basket")
    planted = browser.get_cookie("session").value
    browser.get("/login")
    print(browser.get("/whoami").text)

    thief = app.test_client()
    thief.set_cookie("session", planted)
    print(thief.get("/whoami").text)

.. testoutput:: token

    ann with ['tea']
    None with None

Where the user stays the same, call :meth:`session.regenerate()
<flask_sessionsql.ServerSideSession.regenerate>`: when they have given their password
again, gained rights or changed the password. It moves the session to a new token
likewise.

**A request under way** with the old token, such as one of a page that loads while its
user logs in, does no harm. If it had read the session before, it may read on; what it
changes is dropped, since the session that it knew is gone. If it comes after, it meets
an empty session. What it writes there is dropped as well, if the session that has moved
was used within the last ten seconds: a new session's cookie would take the place of the
moved one's, and log the browser out. In neither case does it get the new session or its
token, and the browser stays logged in. The log says what was dropped, and
:data:`~flask_sessionsql.session_refused` tells of it.

Only a logout holds all the same: where a request logs its user out, and another one has
given that user's session a new token meanwhile, the session is ended there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from flask import Flask, current_app, has_request_context

from .commands.cli import sessions_command
from .config import SQL_TYPES, SessionConfig
from .exceptions import SessionStoreBusyError
from .formats.serializers import MsgpackSerializer
from .interfaces import FlaskSQLAlchemySessionInterface, NullSessionInterface
from .saving.records import SessionRecords
from .sessions import session
from .signals import teller
from .storage.administration import ANYBODY, SessionAdministration, SessionInfo
from .storage.bind import SessionsBind

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

        The configuration is read here, once; changing it afterwards changes nothing.

        :param app: the application.
        :raises SessionConfigError: a value cannot work; the message says which, what
            was given and what is expected.
        :raises RuntimeError: the application has sessions of this kind already.
        """
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
            records = SessionRecords(config, bind.store, serializer, tell)
            interface = FlaskSQLAlchemySessionInterface(
                config, records, bind.holds_lock
            )
        else:
            interface = NullSessionInterface(config)
        app.extensions[_NAME] = interface
        app.session_interface = interface
        # An application may have commands of that name already.
        if sessions_command.name not in app.cli.commands:
            app.cli.add_command(sessions_command)

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
        return _revoke(lambda sessions, wait: sessions.revoke(handle, user, wait=wait))

    def revoke_user(self, user: object) -> int:
        """End all sessions of a user, such as when the account is closed (OWASP ASVS
        5.0, 7.4.2).

        :param user: who, as for :meth:`user_sessions`.
        :return: how many there were.
        :raises ValueError: it names nobody.
        :raises SessionStoreUnavailableError: as for :meth:`revoke`.
        """
        return _revoke(lambda sessions, wait: sessions.revoke_user(user, wait=wait))

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
        keep = session.handle
        return _revoke(
            lambda sessions, wait: sessions.revoke_user(user, keep=keep, wait=wait)
        )

    def revoke_all(self) -> int:
        """End all sessions of all users, with or without a login.

        :return: how many there were.
        :raises SessionStoreUnavailableError: as for :meth:`revoke`.
        """
        return _revoke(lambda sessions, wait: sessions.revoke_all(wait=wait))


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
    return _interface().administration


def _current_handle() -> str | None:
    return session.handle if has_request_context() else None


def _revoke(work: Callable[[SessionAdministration, bool], T]) -> T:
    """End sessions, without waiting for a lock that this very request may hold.

    :param work: called with the administration, and with whether it may wait.
    """
    interface = _interface()
    may_wait = not interface.holds_lock()
    try:
        return work(interface.administration, may_wait)
    except SessionStoreBusyError as error:
        reason = (
            "The SQLite file is locked, and this request has begun a transaction of its"
            " own, which may be what locks it, so that no session was ended. Commit or"
            " roll back before ending sessions, such as by db.session.commit()."
        )
        logger.error(reason)
        raise SessionStoreBusyError(reason) from error
