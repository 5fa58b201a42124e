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
                                  `None`, without the quotes: the
                                  attribute is not sent.
``SESSION_COOKIE_PARTITIONED``    controls if the cookie should be kept
                                  apart for each top-level site.  Defaults
                                  to `False`.
``PERMANENT_SESSION_LIFETIME``    the lifetime of a permanent session as
                                  :class:`datetime.timedelta` object.
                                  Starting with Flask 0.8 this can also be
                                  an integer representing seconds.
``SESSION_REFRESH_EACH_REQUEST``  controls if a request that only reads
                                  the session extends its lifetime.  Defaults to
                                  `True`.
``SECRET_KEY``                    required: the database holds a hash of
                                  the cookie's token under this key.
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
                                  object to use.  Defaults to the
                                  application's, if it has one.
``SESSION_SQLALCHEMY_TABLE``      the name of the table.  Defaults to
                                  ``'flask_sessionsql'``.
``SESSION_SQLALCHEMY_SCHEMA``     the schema of the table.  Defaults to
                                  `None`.
``SESSION_SQLALCHEMY_BIND_KEY``   which of ``SQLALCHEMY_BINDS`` holds the
                                  table.  Defaults to `None`.
``SESSION_CREATE_TABLE``          controls if the first use creates a
                                  missing table.  Defaults to `True`.
``SESSION_DATABASE_TIMEOUT``      how long a request waits for a database
                                  server that does not answer, in seconds or
                                  as :class:`datetime.timedelta` object.
                                  Defaults to 10.
``SESSION_PERMANENT``             controls if the cookie outlives the
                                  browser.  Defaults to `True`.
``SESSION_REFRESH_INTERVAL``      how many seconds early an idle session
                                  may end, also as
                                  :class:`datetime.timedelta` object.
                                  Defaults to `None`: a hundredth of the
                                  lifetime.
``SESSION_ABSOLUTE_LIFETIME``     the lifetime that use does not extend, in
                                  seconds or as :class:`datetime.timedelta`
                                  object.  Defaults to `None`: no limit.
``SESSION_PURGE_INTERVAL``        how often each process deletes some expired
                                  rows, in seconds or as
                                  :class:`datetime.timedelta` object.
                                  Defaults to 600; 0 means never.
``SESSION_ID_LENGTH``             the number of random bytes in a token,
                                  16 to 256.
                                  Defaults to 32.
``SESSION_USER_KEY``              the session key that says who is logged
                                  in.  Defaults to ``'_user_id'``, which is
                                  Flask-Login's.
``SESSION_MAX_PER_USER``          how many sessions a user may have at once.
                                  Defaults to `None`: any number.
``SESSION_MAX_PER_USER_POLICY``   what a login beyond that number does:

                                  - **end-oldest**: it ends the user's
                                    oldest session (default)
                                  - **refuse**: it gets a 403 response
``SESSION_RECORD_CLIENT``         controls if the row holds the address and
                                  the browser that last used the session.
                                  Defaults to `False`.
``SESSION_MAX_BYTES``             how large a stored session may be.
                                  Defaults to 1048576, 1 MiB.
``SESSION_ENCRYPT``               controls if the database holds the data
                                  encrypted: `True`, `False` (default) or
                                  ``'required'``, which refuses rows that
                                  are not encrypted.
``SESSION_ADOPT``                 which earlier sessions to adopt, so that
                                  nobody is logged out:
                                  ``'flask-session'``, ``'cookie'`` or
                                  `None` (default).
``SESSION_ADOPT_TABLE``           the name of Flask-Session's table.
                                  Defaults to ``'sessions'``.
``SESSION_KEY_PREFIX``            the prefix of the keys in that table.
                                  Defaults to ``'session:'``.
``SESSION_USE_SIGNER``            controls if Flask-Session signed its
                                  cookies.  Defaults to `False`.
================================= =========================================

Basically you only need to configure ``SESSION_TYPE`` and ``SECRET_KEY``.

.. note::

    All non-null sessions in Flask-SessionSql are permanent, unless you set
    ``SESSION_PERMANENT`` or
    :attr:`session.permanent <flask.sessions.SessionMixin.permanent>` to `False`.

:doc:`/reference/settings` has for each setting what it accepts, what a wrong value
does, and when it is read.

.. _SQLAlchemy doc: https://docs.sqlalchemy.org/en/20/core/engines.html

Built-in Session Interfaces
---------------------------
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from inspect import isgenerator
from typing import Any, NoReturn, cast

from flask import Flask, Request, Response, after_this_request, has_request_context
from flask.sessions import NullSession as _FlaskNullSession
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.exceptions import HTTPException, InternalServerError

from .adopting import Adopter, Arrival, adopter_of
from .config import FLASK_KEYS, SETTINGS, SessionConfig
from .exceptions import (
    NullSessionError,
    SessionConflictError,
    SessionLimitError,
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
    SessionTooLargeError,
    SessionValueError,
    UnreadableSessionError,
)
from .formats.tokens import is_marked, is_token
from .frames import empty_frames, unseen
from .responses import (
    after_context,
    answer,
    context_outlives_request,
    vary_by_cookie,
)
from .saving.planning import (
    Client,
    Keep,
    Plan,
    SessionRecord,
    Stale,
    Use,
)
from .saving.records import Outcome, SessionRecords
from .sessions import ADOPTED_KEY, Encoded, ServerSideSession, SessionFacts
from .signals import RefusedReason, SessionRefused
from .storage.administration import SessionAdministration
from .storage.purging import Purger
from .storage.tables import MAX_ADDRESS, MAX_USER_AGENT, as_time

__all__ = [
    "FlaskSQLAlchemySessionInterface",
    "NullSession",
    "NullSessionInterface",
]

logger: logging.Logger = logging.getLogger(__name__)

#: How many cookies of one name are tried: one of the host, of its domain, of a path.
_MOST_COOKIES = 3


class NullSession(_FlaskNullSession):
    """The empty session of an application that cannot store one. Reading it works;
    every way of writing fails.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason

    def _refuse(self) -> NoReturn:
        raise NullSessionError(self._reason)

    #: The attributes of a stored session; here they have no values.
    handle: None = None
    created_at: None = None
    expires_at: None = None
    counts_as_use: bool = True

    @property
    def label(self) -> None:
        """Nothing is stored, so it has none. Setting it always fails."""

    @label.setter
    def label(self, label: str | None) -> NoReturn:
        self._refuse()

    def regenerate(self) -> None:
        """Nothing is stored, so nothing moves."""

    def set_expiry(self, when: datetime | timedelta | None) -> NoReturn:
        """Always fails."""
        self._refuse()

    def set_lifetime(self, lifetime: timedelta | None) -> NoReturn:
        """Always fails."""
        self._refuse()

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
    """What both interfaces share: the cookie is as ``app.config`` has it when it is
    used, since extensions such as Flask-Talisman set it in every request.
    """

    null_session_class: type[_FlaskNullSession] = NullSession

    def __init__(self, config: SessionConfig) -> None:
        self.config = config
        #: Flask's settings when they were last read, and the result of checking them.
        self._read: tuple[tuple[Any, ...], SessionConfig] = (), config

    def current_config(self, app: Flask) -> SessionConfig:
        """The settings by now: those of this package as :meth:`Session.init_app()
        <flask_sessionsql.Session.init_app>` has read them, and Flask's own as they are
        in ``app.config``.

        :raises SessionConfigError: one of Flask's has been set to something that cannot
            work.
        """
        given = tuple(map(app.config.get, FLASK_KEYS))
        seen, config = self._read
        if given != seen:
            config = self.config.now(app.config)
            self._read = given, config
        return config

    def get_cookie_name(self, app: Flask) -> str:
        return self.current_config(app).cookie_name

    def get_cookie_domain(self, app: Flask) -> str | None:
        return self.current_config(app).cookie_domain

    def get_cookie_path(self, app: Flask) -> str:
        return self.current_config(app).cookie_path

    def get_cookie_httponly(self, app: Flask) -> bool:
        return self.current_config(app).cookie_httponly

    def get_cookie_secure(self, app: Flask) -> bool:
        return self.current_config(app).cookie_secure

    def get_cookie_samesite(self, app: Flask) -> str | None:
        return self.current_config(app).cookie_samesite

    def get_cookie_partitioned(self, app: Flask) -> bool:
        return self.current_config(app).cookie_partitioned


class NullSessionInterface(_ConfiguredInterface):
    """If you do not configure a different ``SESSION_TYPE``, this will be used to
    generate nicer error messages.  Will allow read-only access to the empty
    session but fail on setting.
    """

    def make_null_session(self, app: Flask) -> NullSession:
        """The empty session, whose error says that no ``SESSION_TYPE`` is set."""
        return NullSession(
            "The session is unavailable because no SESSION_TYPE is set: it can be read,"
            " and there is nowhere to store a change. Set SESSION_TYPE ="
            " 'flask-sqlalchemy' in the application's configuration before Session(app)"
            " or init_app(app)."
        )

    def open_session(self, app: Flask, request: Request) -> None:
        """Always ``None``, for which Flask takes :meth:`make_null_session`."""

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Nothing is ever saved."""


class RequestSource:
    """Where one request's session comes from: reads the cookie and the row when the
    session is touched, and remembers what they were.
    """

    # Attributes of the class: each request makes a source, and most need no more.
    record: SessionRecord | None = None
    #: Sets or deletes the cookie in a response, after the session has moved or ended.
    cookie: Callable[[Response], None] | None = None
    #: Whether a save was refused and the signal was sent.
    refused: bool = False
    #: Whether this request has revoked the session, for example with revoke_user().
    has_ended: bool = False
    #: The cookie's token, if it opens no session.
    stale: Stale | None = None
    #: The adoption of a session of the previous site.
    arrival: Arrival | None = None

    def __init__(
        self, interface: FlaskSQLAlchemySessionInterface, app: Flask, request: Request
    ) -> None:
        self._interface = interface
        self._app = app
        self._request = request
        #: When the request came, in seconds since 1970.
        self._began = _now()

    @cached_property
    def secrets(self) -> list[str | bytes]:
        """``SECRET_KEY`` and its fallbacks."""
        return secret_keys(self._app)

    @cached_property
    def can_tell(self) -> bool:
        """Whether the response carries the cookie to the browser: not that to an event
        of Flask-SocketIO's, which goes nowhere, and whose request has a ``namespace``;
        and not that of a request that opens a WebSocket (RFC 6455, section 4.1).
        """
        is_event = "namespace" in vars(self._request)
        return not (is_event or "HTTP_SEC_WEBSOCKET_KEY" in self._request.environ)

    def read(self) -> dict[Any, Any]:
        name = self._interface.get_cookie_name(self._app)
        cookie = self._request.cookies.get(name)
        if cookie is None:
            return {}
        try:
            if self._interface.adopter is not None:
                return self._adopt(self._interface.adopter)
            if not is_token(cookie):
                return {}
            found = self._interface.records.find(self.secrets, cookie, _now())
        except SessionTableError as error:
            raise _page_for(self._app, error) or error from None
        if found is None:
            self.stale = Stale(cookie, self._began)
            return {}
        self.record, data = found
        return data

    def _adopt(self, adopter: Adopter) -> dict[Any, Any]:
        """As :meth:`read`, where the cookie may be one of the site before."""
        lifetime = self._interface.current_config(self._app).lifetime
        name = self._interface.get_cookie_name(self._app)
        # A browser may have another one, of another domain or path.
        cookies = self._request.cookies.getlist(name)
        for cookie in sorted(cookies, key=is_marked, reverse=True)[:_MOST_COOKIES]:
            opened = adopter.open(self.secrets, cookie, _now(), lifetime)
            if opened is not None:
                break
            former = adopter.former(self.secrets, cookie, lifetime)
            if former is not None:
                self.stale = self.stale or Stale(former, self._began)
        if opened is None:
            return {}
        self.stale = None
        self.record = opened.record
        if opened.is_new or opened.confirms is not None:
            self.arrival = Arrival(adopter, self._interface.records, opened)
        return opened.data

    def says_nothing(self, plan: Plan) -> bool:
        """Whether nothing is to be stored, and the browser keeps its cookie."""
        if self.arrival is None:
            return isinstance(plan, Keep)
        return self.arrival.says_nothing(plan, self.can_tell)

    @property
    def place(self) -> Arrival | SessionRecords:
        """What carries out a plan, once the session is here."""
        return self.arrival or self._interface.records

    def decode(self, encoded: Encoded) -> Any:
        try:
            return self._interface.records.decode(encoded)
        except UnreadableSessionError as error:
            # Same result as if loading the row had failed.
            record = cast(SessionRecord, self.record)
            self._interface.records.tell_unreadable(record.row, error)
            self.stale, self.record = Stale(record.token, self._began), None
            raise LookupError("The session cannot be read.") from error

    def differs(self, data: Mapping[Any, Any]) -> bool:
        if self.arrival is not None and self.arrival.confirms is not None:
            data = {**data, ADOPTED_KEY: self.arrival.confirms}  # as it was read
        return self._interface.records.planner.differs(self.record, data)

    def restore(self, session: ServerSideSession) -> None:
        """Let the session be what was read again."""
        if self.record is None:
            session._settle({})
            return
        data = self._interface.records.data(self.record.row)
        if self.arrival is not None and self.arrival.confirms is not None:
            data.pop(ADOPTED_KEY, None)
        session._settle(data)

    def facts(self) -> SessionFacts | None:
        if self.record is None:
            return None
        row = self.record.row
        return SessionFacts(row.handle, as_time(row.created_at))

    def plan(self, session: ServerSideSession) -> Plan:
        """What saving the session as it is now comes to.

        :raises SessionValueError: something in it cannot be kept.
        :raises SessionTooLargeError: it is over ``SESSION_MAX_BYTES``.
        """
        use = Use(
            now=_now(),
            secrets=self.secrets,
            client=self._client,
            has_ended=self.has_ended,
            counts=session.counts_as_use,
            can_tell=self.can_tell,
            config=self._interface.current_config(self._app),
        )

        can_differ = session._can_differ
        if self.arrival is not None:
            changed = session._cleared or session.modified
            can_differ |= self.arrival.comes_back(changed=changed)
        return self._interface.records.planner.plan(
            use,
            self.record,
            session._stored_form(),
            empty=not session,
            cleared=session._cleared,
            rotates=session._regenerated,
            can_differ=can_differ,
            sets=session._sets,
            stale=self.stale,
        )

    def ends_at(self, session: ServerSideSession) -> datetime:
        record = cast(SessionRecord, self.record)
        try:
            plan = self.plan(session)
        except (SessionValueError, SessionTooLargeError):
            pass  # it stays as it is
        else:
            if not isinstance(plan, Keep):
                record = self._interface.records.foresee(plan).record or record
        return as_time(record.row.expires_at)

    def tell_refused(self, user: object, error: Exception) -> None:
        """Tell of an error, once: the page for it is saved, too.

        :param user: who is, or would be, logged in.
        """
        if not self.refused:
            self.refused = True
            handle = None if self.record is None else self.record.row.handle
            user_id = None if user is None else str(user)
            event = SessionRefused(handle, user_id, _REFUSED[type(error)])
            self._interface.records.tell(event)

    def _client(self) -> Client:
        """What the request came from, if that is to be recorded."""
        if not self._interface.config.record_client:
            return Client()
        address, agent = self._request.remote_addr, self._request.user_agent.string
        return Client(_storable(address, MAX_ADDRESS), _storable(agent, MAX_USER_AGENT))


class FlaskSQLAlchemySessionInterface(_ConfiguredInterface):
    """Keeps each session in a row of a SQL table, and in the browser a cookie with
    a random token. Used if ``SESSION_TYPE`` is ``flask-sqlalchemy``.

    Nothing is read when a request begins. The first touch of the session runs one
    ``SELECT``. When the view has returned, the session is compared with what was
    loaded, and if it has changed, one statement stores it. Each statement is a
    transaction of its own, on a connection that goes back at once.
    :doc:`/explanations/request` has every case and what it costs, and
    :doc:`/explanations/merging` what two requests at once keep.

    Without ``SECRET_KEY``, read in every request as Flask does, the session is the
    null one, and its error says so.

    If the database cannot be reached, a request that touches the session is
    answered with :exc:`503 <flask_sessionsql.SessionStoreUnavailableError>`, and
    the log has the reason. If it can be read and not written, pages that only read
    their sessions are served; the log says that their last use was not
    recorded.

    :param config: the settings.
    :param records: the stored sessions. They are first looked for at the first need,
        so that an application starts while its database is down.
    :param holds_lock: whether the application, in the current context, may hold the
        lock that a session waits for: on SQLite, that of the whole file.
    """

    def __init__(
        self,
        config: SessionConfig,
        records: SessionRecords,
        holds_lock: Callable[[], bool],
    ) -> None:
        super().__init__(config)
        self.records = records
        self.holds_lock: Callable[[], bool] = holds_lock
        self._purger = Purger(config.purge_interval)
        #: The last attributes that a cookie was made with.
        self._carried: dict[str, Any] = {}

    @cached_property
    def adopter(self) -> Adopter | None:
        """What adopts the sessions of the site before; ``None`` for nothing."""
        return adopter_of(self.config, self.records)

    @cached_property
    def administration(self) -> SessionAdministration:
        """The sessions of all users."""
        database, tell = self.records.store.database, self.records.tell
        return SessionAdministration(self.config, database, tell)

    def regenerate(self, session: SessionMixin) -> None:
        """As :meth:`session.regenerate()
        <flask_sessionsql.ServerSideSession.regenerate>`, where applications have called
        Flask-Session's interface for it.
        """
        cast(ServerSideSession, session).regenerate()

    def make_null_session(self, app: Flask) -> NullSession:
        """The empty session, whose error says that no ``SECRET_KEY`` is set."""
        return NullSession(
            "The session is unavailable because no secret key was set: it can be read,"
            " and nothing is stored, since tokens are stored as hashes under that key."
            " Set SECRET_KEY in the application's configuration to something random,"
            " such as the output of: python -c"
            " 'import secrets; print(secrets.token_hex())'"
        )

    def open_session(self, app: Flask, request: Request) -> ServerSideSession | None:
        """The request's session, not read yet; ``None`` without ``SECRET_KEY``."""
        if not app.secret_key:
            return None
        source = RequestSource(self, app, request)
        session = ServerSideSession(source, permanent=self.config.permanent)
        if has_request_context():
            after_this_request(session._answer)
        return session

    @unseen
    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Store what the request made of its session, and tell the browser.

        :raises SessionValueError: something in it cannot be kept; what was stored
            is as it was.
        """
        session = cast(ServerSideSession, session)
        if session.accessed or session._loaded:
            vary_by_cookie(response)
        try:
            if session._loaded:
                self._save_or_answer(app, session, response)
        finally:
            # Not response.is_streamed: files and Werkzeug's error pages are, too.
            session._finish(streams=isgenerator(response.response))

    def _save_or_answer(
        self, app: Flask, session: ServerSideSession, response: Response
    ) -> None:
        """Save the session, or turn the response into the page for what prevents it."""
        source = cast(RequestSource, session._source)
        try:
            self._save_within_limit(app, session, source, response)
        except (SessionValueError, SessionTooLargeError):
            # The error page has a session, too, and would be refused in the same way.
            source.restore(session)
            raise
        except (SessionStoreUnavailableError, SessionTableError) as error:
            page = _page_for(app, error)
            if page is None or not source.can_tell:
                raise
            answer(app, response, page.with_traceback(None))
        finally:
            # Once, and last. If there was an error after a first save, its page comes
            # here, too, and must carry the session's new token.
            if source.cookie is not None:
                source.cookie(response)
        if source.can_tell and self._purger.is_due():
            database, tell = self.records.store.database, self.records.tell
            response.call_on_close(partial(self._purger.run, database, tell))

    def _save_within_limit(
        self,
        app: Flask,
        session: ServerSideSession,
        source: RequestSource,
        response: Response,
    ) -> None:
        """Save the session; a login beyond the limit is answered with its page."""
        try:
            self._save(app, session, source)
        except SessionLimitError as error:
            if not source.can_tell:
                raise  # as nobody sees a page
            # Not logged in: the error page gets the session as it was before.
            source.restore(session)
            # No traceback for the error page: this running frame has the session.
            answer(app, response, error.with_traceback(None))
            # Save what the error page has changed.
            self._save(app, session, source)

    def _save(
        self,
        app: Flask,
        session: ServerSideSession,
        source: RequestSource,
        *,
        may_defer: bool = True,
    ) -> None:
        """Store the session, and raise what a request turns into a page.

        :param may_defer: whether to put it off to the end of the context where this one
            holds the lock of a SQLite file.
        """
        if session._failure is not None:
            if session._is_changed(self.config.user_key):
                raise session._failure
            return
        user_key = self.config.user_key
        try:
            stale, cleared = source.stale, session._cleared
            if stale is not None and (cleared or session._missed(user_key)):
                self._forget(app, source, stale, cleared)
            if source.record is None and not session:
                return
            plan = source.plan(session)
            if source.says_nothing(plan):
                return
            attributes = self._cookie_attributes(app)
            outcome = self._execute(session, source, plan, may_defer)
        except Exception as error:
            if type(error) in _REFUSED:
                source.tell_refused(session.get(user_key), error)
            empty_frames(error)
            raise
        self._settle(attributes, session, source, outcome)

    def _execute(
        self,
        session: ServerSideSession,
        source: RequestSource,
        plan: Plan,
        may_defer: bool,
    ) -> Outcome:
        """Write what was planned, now or at the end of the context."""
        try:
            return source.place.execute(plan, wait=not self.holds_lock())
        except SessionStoreBusyError:
            if not may_defer:
                raise
            # The lock is probably this request's own, and ends with its context.
            user = session.get(self.config.user_key)
            if context_outlives_request():
                logger.warning(_PUT_OFF)
            after_context(_deferred(source.place, source, user, plan))
            return self.records.foresee(plan)

    def _forget(
        self,
        app: Flask,
        source: RequestSource,
        stale: Stale,
        cleared: bool,
    ) -> None:
        """A logout with a token that opened nothing: end what cannot be read, and so
        looks like no session, or what has moved to a new token just now.
        """
        attributes, wait = self._cookie_attributes(app), not self.holds_lock()
        forget = self.records.forget
        if forget(source.secrets, stale, _now(), cleared=cleared, wait=wait):
            source.stale = None
            source.cookie = partial(_clear_cookie, attributes)

    def _settle(
        self,
        attributes: dict[str, Any],
        session: ServerSideSession,
        source: RequestSource,
        outcome: Outcome,
    ) -> None:
        """Bring the session, its source and the cookie to what is stored now."""
        before, after, permanent = source.record, outcome.record, session.permanent
        renewed = session._permanent_changed
        source.record = after
        session._settle(outcome.data)
        if outcome.is_elsewhere:
            source.cookie = None  # The browser may have a new token already.
            return
        if after is None:
            source.cookie = partial(_clear_cookie, attributes)
        elif (
            before is None
            or (source.arrival is not None and source.arrival.is_new)
            or before.token != after.token
            or (permanent and before.row.expires_at != after.row.expires_at)
            or renewed
        ):
            source.cookie = partial(_set_cookie, attributes, after, permanent)
        source.arrival = None

    def _cookie_attributes(self, app: Flask) -> dict[str, Any]:
        """What the cookie is set with, and cleared: a browser keeps a cookie that is
        cleared with other attributes. It is read before anything is stored, so that
        nothing is if the response could not carry it.
        """
        attributes: dict[str, Any] = {
            "key": self.get_cookie_name(app),
            "domain": self.get_cookie_domain(app),
            "path": self.get_cookie_path(app),
            "httponly": self.get_cookie_httponly(app),
            "secure": self.get_cookie_secure(app),
            "samesite": self.get_cookie_samesite(app),
            "partitioned": self.get_cookie_partitioned(app),
        }
        if attributes != self._carried:
            # A subclass can have its own methods, which nothing has checked.
            Response().set_cookie(**attributes)
            self._carried = attributes
        return attributes


def _set_cookie(
    attributes: dict[str, Any],
    record: SessionRecord,
    permanent: bool,
    response: Response,
) -> None:
    expires = datetime.fromtimestamp(record.row.expires_at, UTC)
    response.set_cookie(
        value=record.token, expires=expires if permanent else None, **attributes
    )


def _clear_cookie(attributes: dict[str, Any], response: Response) -> None:
    response.delete_cookie(**attributes)


#: The warning when saving is deferred beyond the request, which happens in tests.
_PUT_OFF = (
    "The SQLite file is locked, probably by a transaction of this application context"
    " that is not committed. The session is stored when the context ends, and not at"
    " the end of this request, because somebody else, such as a test, has pushed the"
    " context. Until then no request finds the changes of this one. Commit or roll back"
    " before the request, or store the sessions of the tests in their own database:"
    " see the page about testing in the documentation."
)


class _VisitorsTableError(SessionTableError, InternalServerError):
    """An error of the table as a visitor gets it: a ``500`` like any other. The log has
    it once a minute; Flask would log a traceback for each request.
    """

    def __init__(self, error: SessionTableError) -> None:
        InternalServerError.__init__(self, original_exception=error)
        self.args = error.args


def _page_for(
    app: Flask, error: SessionStoreUnavailableError | SessionTableError
) -> HTTPException | None:
    """The answer for an error; ``None`` where a developer or a test is to see it."""
    if isinstance(error, HTTPException):
        return error
    propagates = app.config["PROPAGATE_EXCEPTIONS"]
    if propagates is None:
        propagates = app.testing or app.debug
    return None if propagates else _VisitorsTableError(error)


def _now() -> int:
    return int(time.time())


def secret_keys(app: Flask) -> list[str | bytes]:
    """The current key first; the earlier ones only find what began under them.

    :raises SessionConfigError: one has been set to something that is no key.
    """
    current = app.secret_key and SETTINGS["SECRET_KEY"].read(app.config)
    earlier = SETTINGS["SECRET_KEY_FALLBACKS"].read(app.config) or ()
    return [key for key in (current, *earlier) if key]


def _deferred(
    place: Arrival | SessionRecords, source: RequestSource, user: object, plan: Plan
) -> Callable[[], None]:
    """What writes what could not be written before the response was made.

    :param place: what carries it out.
    :param user: who is, or would be, logged in.
    """

    def write() -> None:
        try:
            place.execute(plan)
        except tuple(_REFUSED) as error:
            source.tell_refused(user, error)
            if not isinstance(error, SessionLimitError):
                raise
            # The token in the response opens nothing, so the login is refused.
            logger.warning("A login was refused after its response: %s", error)

    return write


#: The reason for which a session is refused, by error.
_REFUSED: dict[type[Exception], RefusedReason] = {
    SessionValueError: "value",
    SessionTooLargeError: "size",
    SessionLimitError: "limit",
    SessionConflictError: "conflict",
}


def _storable(text: str | None, most: int) -> str | None:
    """``text`` as it can be stored and shown: without what does not print."""
    # Cut before and after filtering: a header can be very long.
    shown = "".join(filter(str.isprintable, (text or "")[: 4 * most]))
    return shown[:most] or None
