r"""Configuration
-------------

The following configuration values exist for Flask-SessionSql.
Flask-SessionSql loads these values from your Flask application config, so you
should configure your app first before you pass it to Flask-SessionSql.  Note
that these values cannot be modified after the ``init_app`` was applied so
make sure to not modify them at runtime.

The following configuration values are builtin configuration values within
Flask itself that are related to session.  **They are all understood by
Flask-SessionSql, for example, you should use PERMANENT_SESSION_LIFETIME
to control your session lifetime.**

================================= =========================================
``SESSION_COOKIE_NAME``           the name of the session cookie
``SESSION_COOKIE_DOMAIN``         the domain for the session cookie.  If
                                  this is not set, the cookie will be
                                  valid for the host that set it, and for
                                  no subdomain.
``SESSION_COOKIE_PATH``           the path for the session cookie.  If
                                  this is not set the cookie will be valid
                                  for all of ``APPLICATION_ROOT`` or if
                                  that is not set for ``'/'``.
``SESSION_COOKIE_HTTPONLY``       controls if the cookie should be set
                                  with the httponly flag.  Defaults to
                                  `True`.
``SESSION_COOKIE_SECURE``         controls if the cookie should be set
                                  with the secure flag.  Defaults to
                                  `False`.
``SESSION_COOKIE_SAMESITE``       restricts the requests from other sites
                                  that the cookie is sent with: ``'Lax'``,
                                  ``'Strict'`` or ``'None'``.  Defaults to
                                  `None`, without the quotes: no
                                  restriction of ours.
``SESSION_COOKIE_PARTITIONED``    controls if the cookie should be kept
                                  apart for each top-level site.  Defaults
                                  to `False`.
``PERMANENT_SESSION_LIFETIME``    the lifetime of a permanent session as
                                  :class:`datetime.timedelta` object.
                                  Starting with Flask 0.8 this can also be
                                  an integer representing seconds.
``SESSION_REFRESH_EACH_REQUEST``  controls if a request that only reads
                                  the session lets it live on.  Defaults to
                                  `True`.
``SECRET_KEY``                    needed: the database holds a hash of the
                                  cookie's token under this key.
``SECRET_KEY_FALLBACKS``          earlier keys.  Sessions that began under
                                  them stay valid.
================================= =========================================

A list of configuration keys also understood by the extension:

================================= =========================================
``SESSION_TYPE``                  Specifies which type of session interface
                                  to use.  Built-in session types:

                                  - **null**: NullSessionInterface (default)
                                  - **flask-sqlalchemy**:
                                    FlaskSQLAlchemySessionInterface

                                  ``sqlalchemy`` is another name for the
                                  latter.
``SQLALCHEMY_DATABASE_URI``       Database connection string.  Defaults to
                                  a SQLite file, ``sessions.db``, in the
                                  instance folder.
``SQLALCHEMY_ECHO``               See `SQLAlchemy doc`_
``SESSION_SQLALCHEMY``            the :class:`~flask_sqlalchemy.SQLAlchemy`
                                  object to use.  Defaults to the one that
                                  the application has, if it has one.
``SESSION_SQLALCHEMY_TABLE``      the name of the table.  Defaults to
                                  ``'flask_sessionsql'``.
``SESSION_SQLALCHEMY_SCHEMA``     the schema of the table.  Defaults to
                                  `None`.
``SESSION_SQLALCHEMY_BIND_KEY``   which of ``SQLALCHEMY_BINDS`` holds the
                                  table.  Defaults to `None`.
``SESSION_CREATE_TABLE``          controls if the first use creates a
                                  missing table.  Defaults to `True`.
``SESSION_PERMANENT``             controls if the cookie outlives the
                                  browser.  Defaults to `True`.
``SESSION_REFRESH_INTERVAL``      how far the end of a session may lag
                                  behind, in seconds or as
                                  :class:`datetime.timedelta` object.
                                  Defaults to `None`: a hundredth of the
                                  lifetime.
``SESSION_ID_LENGTH``             the random bytes in a token, 16 to 256.
                                  Defaults to 32.
``SESSION_USER_KEY``              the session key that tells who is logged
                                  in.  Defaults to ``'_user_id'``, which is
                                  Flask-Login's.
================================= =========================================

Basically you only need to configure ``SESSION_TYPE``.

.. note::

    All non-null sessions in Flask-SessionSql are permanent.

What each of them takes, and what a wrong value gets, is in
:class:`~flask_sessionsql.config.SessionConfig`.

.. _SQLAlchemy doc: https://docs.sqlalchemy.org/en/20/core/engines.html

Built-in Session Interfaces
---------------------------
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn, cast

from flask import Flask, Request, Response, appcontext_tearing_down
from flask.globals import app_ctx
from flask.sessions import NullSession as _FlaskNullSession
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.exceptions import HTTPException

from .config import SessionConfig
from .exceptions import (
    NullSessionError,
    SessionStoreBusyError,
    SessionStoreUnavailableError,
)
from .records import Action, SessionRecord, SessionRecords
from .session import ServerSideSession
from .tokens import is_token

__all__ = [
    "FlaskSQLAlchemySessionInterface",
    "NullSession",
    "NullSessionInterface",
]


class NullSession(_FlaskNullSession):
    """The empty session of an application that cannot store one. Reading it works;
    every way of writing fails.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def _refuse(self) -> NoReturn:
        raise NullSessionError(self._reason)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self._refuse()

    def __delitem__(self, key: Any) -> NoReturn:
        self._refuse()

    def __ior__(self, other: Any) -> NoReturn:  # type: ignore[misc]
        self._refuse()

    def clear(self) -> NoReturn:
        """Always fails, as every method that writes."""
        self._refuse()

    def pop(self, key: Any, *default: Any) -> NoReturn:
        """Always fails."""
        self._refuse()

    def popitem(self) -> NoReturn:
        """Always fails."""
        self._refuse()

    def setdefault(self, key: Any, default: Any = None) -> NoReturn:
        """Always fails."""
        self._refuse()

    def update(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Always fails."""
        self._refuse()


class _ConfiguredInterface(SessionInterface):
    """What both interfaces share: the cookie is as it was configured when the
    application was made, whatever ``app.config`` says later.
    """

    null_session_class: type[_FlaskNullSession] = NullSession

    def __init__(self, config: SessionConfig) -> None:
        self.config = config

    def get_cookie_name(self, app: Flask) -> str:
        return self.config.cookie_name

    def get_cookie_domain(self, app: Flask) -> str | None:
        return self.config.cookie_domain

    def get_cookie_path(self, app: Flask) -> str:
        return self.config.cookie_path

    def get_cookie_httponly(self, app: Flask) -> bool:
        return self.config.cookie_httponly

    def get_cookie_secure(self, app: Flask) -> bool:
        return self.config.cookie_secure

    def get_cookie_samesite(self, app: Flask) -> str | None:
        return self.config.cookie_samesite

    def get_cookie_partitioned(self, app: Flask) -> bool:
        return self.config.cookie_partitioned


class NullSessionInterface(_ConfiguredInterface):
    """If you do not configure a different ``SESSION_TYPE``, this will be used to
    generate nicer error messages.  Will allow read-only access to the empty
    session but fail on setting.
    """

    def make_null_session(self, app: Flask) -> NullSession:
        """The empty session, whose error says that no ``SESSION_TYPE`` is set."""
        return NullSession(
            "The session cannot be changed, because no SESSION_TYPE is set, so there"
            " is nowhere to store it. Set SESSION_TYPE = 'flask-sqlalchemy' in the"
            " application's configuration before Session(app) or init_app(app)."
        )

    def open_session(self, app: Flask, request: Request) -> None:
        """Always ``None``, for which Flask takes :meth:`make_null_session`."""

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Nothing is ever saved."""


class _Opened:
    """The source of one request's session: reads the cookie and the row when the
    session is touched, and remembers what they were.
    """

    __slots__ = ("_app", "_interface", "_request", "record")

    def __init__(
        self, interface: FlaskSQLAlchemySessionInterface, app: Flask, request: Request
    ) -> None:
        self._interface = interface
        self._app = app
        self._request = request
        self.record: SessionRecord | None = None

    def read(self) -> dict[Any, Any]:
        token = self._request.cookies.get(self._interface.config.cookie_name)
        if token is None or not is_token(token):
            return {}
        records = self._interface.records(self._app)
        found = records.find(_keys(self._app), token, _now())
        if found is None:
            return {}
        self.record, data = found
        return data

    def differs(self, data: Mapping[Any, Any]) -> bool:
        return self._interface.records(self._app).differs(self.record, data)

    def exists(self) -> bool:
        return self.record is not None


class FlaskSQLAlchemySessionInterface(_ConfiguredInterface):
    """Keeps each session in a row of a SQL table, and in the browser a cookie with
    a random token. Used if ``SESSION_TYPE`` is ``flask-sqlalchemy``.

    A request takes this way. Nothing is read when it begins. At the first touch of
    the session the cookie's token is hashed and the row loaded; a token that is
    malformed, unknown or expired is an empty session, and is left alone: an answer
    that comes late must not end the session that another one has just begun. When
    the view has returned, the session is compared with what was loaded:

    - never touched: nothing happens;
    - touched and the same: the response varies by cookie, and once in a while
      (``SESSION_REFRESH_INTERVAL``) the end of the session moves on;
    - new, and not empty: a row is inserted, and the cookie set;
    - emptied: the row is deleted, and the cookie cleared; what another request wrote
      meanwhile stays, unless it was ``session.clear()`` that emptied it;
    - changed: the row is updated, if nobody else has done so meanwhile. If somebody
      has, both changes are kept, key by key; a key that both changed has the value of
      who is saved last. If somebody has ended the session, it stays ended, and this
      change is dropped.

    The token changes when the value of ``SESSION_USER_KEY`` does, at login and
    logout, and when something is written after ``session.clear()``. The old one is
    dead at once.

    What a request costs in SQL statements, each a transaction of its own, on a
    connection that is given back at once:

    ========================================== ===================================
    The request                                runs
    ========================================== ===================================
    has no session and begins none             nothing
    does not touch its session                 nothing
    reads its session                          1: SELECT
    begins a session                           1: INSERT
    changes its session                        2: SELECT, UPDATE
    changes the user, and so the token         2: SELECT, UPDATE
    ends its session                           2: SELECT, DELETE
    reads it and moves its end                 2: SELECT, UPDATE
    meets another's change                     4: SELECT, UPDATE, SELECT, UPDATE
    ========================================== ===================================

    With ``SECRET_KEY_FALLBACKS``, a token that the current key does not find costs one
    more SELECT for each of them, and a last one under the current key.

    On a SQLite file, a view that has flushed and not committed holds the file's lock
    when its session is to be stored. That is then done at the end of the application
    context, when the view's own work is committed or rolled back, and before the
    response leaves; if it fails there, the server answers 500. Tests that keep a
    context open around their requests find such a session changed only after it.

    A session over MariaDB's ``max_allowed_packet`` (16 MiB unless set otherwise) cannot
    be stored: the server closes the connection, which is a 503.

    Without ``SECRET_KEY``, read in every request as Flask does, the session is the
    null one, and its error says so.

    If the database cannot be reached, a request that touches the session is
    answered with :exc:`503 <flask_sessionsql.SessionStoreUnavailableError>`, and
    the log has the reason.

    :param config: the settings.
    :param records: gives the stored sessions; called at the first need, so that an
        application starts while its database is down.
    :param in_transaction: whether the application has a database transaction open
        in this context, whose lock the session could be waiting for.
    """

    def __init__(
        self,
        config: SessionConfig,
        records: Callable[[Flask], SessionRecords],
        in_transaction: Callable[[Flask], bool],
    ) -> None:
        super().__init__(config)
        self.records = records
        self._in_transaction = in_transaction

    def make_null_session(self, app: Flask) -> NullSession:
        """The empty session, whose error says that no ``SECRET_KEY`` is set."""
        return NullSession(
            "The session cannot be changed, because no SECRET_KEY is set, and tokens"
            " are stored as hashes under that key. Set SECRET_KEY in the application's"
            " configuration to something random, such as the output of: python -c"
            " 'import secrets; print(secrets.token_hex())'"
        )

    def open_session(self, app: Flask, request: Request) -> ServerSideSession | None:
        """The request's session, not read yet; ``None`` without ``SECRET_KEY``."""
        if not app.secret_key:
            return None
        source = _Opened(self, app, request)
        return ServerSideSession(source, permanent=self.config.permanent)

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Store what the request made of its session, and tell the browser.

        :raises SessionValueError: something in it cannot be kept; what was stored
            is as it was.
        """
        session = cast(ServerSideSession, session)
        if session.accessed or session.loaded:
            response.vary.add("Cookie")
        if not session.loaded:
            return
        try:
            self._save(app, session, response)
        except SessionStoreUnavailableError as error:
            _answer(app, response, error)

    def _save(self, app: Flask, session: ServerSideSession, response: Response) -> None:
        if session.failure is not None:
            if session or session.cleared:
                raise session.failure
            return
        opened = cast(_Opened, session.source)
        if opened.record is None and not session:
            return
        records, keys = self.records(app), _keys(app)
        plan = records.plan(
            keys,
            opened.record,
            session.stored_form(),
            empty=not session,
            cleared=session.cleared,
            now=_now(),
        )
        if plan.action is Action.NOTHING:
            return
        wait = not (records.store.locks_whole_database and self._in_transaction(app))
        try:
            stored = records.execute(plan, keys, wait=wait)
        except SessionStoreBusyError:
            # The lock is probably this request's own, and gone with its context.
            _after_context(partial(records.execute, plan, keys))
            stored = plan.target, plan.data
        self._settle(app, session, opened, stored, response)

    def _settle(
        self,
        app: Flask,
        session: ServerSideSession,
        opened: _Opened,
        stored: tuple[SessionRecord | None, Mapping[Any, Any]] | None,
        response: Response,
    ) -> None:
        """Bring the session, its source and the cookie to what is stored now."""
        before, permanent = opened.record, session.permanent
        renewed = session.permanent_changed
        opened.record, data = (None, {}) if stored is None else stored
        session.settle(data)
        if stored is None:
            return  # Ended elsewhere; the browser may have a new token already.
        if opened.record is None:
            self._clear_cookie(app, response)
        elif (
            before is None
            or before.token != opened.record.token
            or (permanent and before.row.expires_at != opened.record.row.expires_at)
            or renewed
        ):
            self._set_cookie(app, response, opened.record, permanent)

    def _set_cookie(
        self, app: Flask, response: Response, record: SessionRecord, permanent: bool
    ) -> None:
        expires = datetime.fromtimestamp(record.row.expires_at, UTC)
        response.set_cookie(
            value=record.token,
            expires=expires if permanent else None,
            **self._cookie_attributes(app),
        )

    def _clear_cookie(self, app: Flask, response: Response) -> None:
        response.delete_cookie(**self._cookie_attributes(app))

    def _cookie_attributes(self, app: Flask) -> dict[str, Any]:
        # The same for setting and clearing: a browser keeps a cookie that is
        # cleared with other attributes.
        return {
            "key": self.get_cookie_name(app),
            "domain": self.get_cookie_domain(app),
            "path": self.get_cookie_path(app),
            "httponly": self.get_cookie_httponly(app),
            "secure": self.get_cookie_secure(app),
            "samesite": self.get_cookie_samesite(app),
            "partitioned": self.get_cookie_partitioned(app),
        }


def _now() -> int:
    return int(time.time())


def _keys(app: Flask) -> list[str | bytes]:
    """The current key first; the earlier ones only find what began under them."""
    fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or ()
    if isinstance(fallbacks, (str, bytes)):  # one key, where a list belongs
        fallbacks = (fallbacks,)
    return [key for key in (app.secret_key, *fallbacks) if key]


def _after_context(write: Callable[[], object]) -> None:
    """Call ``write`` at the end of the application context: after the application's
    database session is removed, and before the response leaves.
    """
    context = app_ctx._get_current_object()  # type: ignore[attr-defined]

    def run(sender: Flask, **_: object) -> None:
        # Contexts of other threads end too.
        if app_ctx._get_current_object() is context:  # type: ignore[attr-defined]
            appcontext_tearing_down.disconnect(run)
            write()

    appcontext_tearing_down.connect(run, context.app, weak=False)


def _answer(app: Flask, response: Response, error: HTTPException) -> None:
    """Turn ``response``, which is made already, into the answer for ``error``, with
    the application's own error page if it has one.
    """
    instead = app.make_response(app.handle_user_exception(error))
    instead.vary.add("Cookie")
    close = getattr(response.response, "close", None)
    if close is not None:
        close()
    response.direct_passthrough = instead.direct_passthrough
    response.status = instead.status
    response.headers = instead.headers
    response.response = instead.response
