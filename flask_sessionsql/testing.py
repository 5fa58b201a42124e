"""Helpers for the tests of an application: log a test client in, look into its session,
end it, and make the database fail.

They work with :meth:`Flask.test_client() <flask.Flask.test_client>` and need no test
runner: import them in pytest, in unittest or in a shell. The page
:doc:`/guides/testing` has fixtures to copy.

They store a session exactly as a request does: the token changes with the user, limits
apply, signals are sent. What a request would turn into a page, such as a ``403`` or a
``503``, they raise, so that a test fails where something goes wrong.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast

import sqlalchemy as sa
from flask import Flask, current_app, has_app_context
from flask.testing import FlaskClient
from sqlalchemy import exc as sa_exc

from .exceptions import SessionStoreBusyError
from .interfaces import FlaskSQLAlchemySessionInterface, RequestSource
from .sessions import ServerSideSession

__all__ = ["database_down", "expire", "log_in", "revoke", "session_transaction"]

#: The beginning of statements that write.
_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE|CREATE|ALTER|DROP)\b", re.I)

#: The key of Flask-Login for the user.
_FLASK_LOGIN = "_user_id"


def log_in(client: FlaskClient, user: object, /, **data: Any) -> None:
    """Log a test client in, without a request to a login page.

    The client then has a stored session and the cookie. As after a real login, the data
    in its session stay and the token changes.

    >>> log_in(client, "ann", theme="dark")
    >>> client.get("/me").text
    'ann, dark'

    With Flask-Login the login is fresh: the session has ``_fresh``, and the ``_id``
    with which Flask-Login recognizes a browser. For a login that is not fresh, give
    ``_fresh=False``.

    :param client: a client of an application with sessions in SQL.
    :param user: the value for ``session[SESSION_USER_KEY]``, such as ``"ann"`` or
        ``42``, or an object with Flask-Login's ``get_id()``.
    :param data: other keys and values for the session.
    :raises ValueError: ``user`` names nobody: it, or its ``get_id()``, is ``None`` or
        empty.
    :raises SessionLimitError: the user may not have more sessions.

    It also raises the errors of :func:`session_transaction`.
    """
    get_id = getattr(user, "get_id", None)
    user_id = get_id() if callable(get_id) else user
    if user_id is None or user_id == "":
        raise ValueError(
            f"log_in() was given a user that names nobody: {user_id!r}. Give the value"
            " that session[SESSION_USER_KEY] has after a login, or a user whose"
            " get_id() returns it. A user gets an id when it is in the database."
        )
    user_key = _interface(client.application).config.user_key
    login = _of_flask_login(client) if user_key == _FLASK_LOGIN else {}
    with session_transaction(client) as opened:
        opened.update({**login, **data, user_key: user_id})


@contextmanager
def session_transaction(client: FlaskClient) -> Iterator[ServerSideSession]:
    """Read and change a client's session without a request.

    >>> log_in(client, "ann")
    >>> with session_transaction(client) as opened:
    ...     opened["theme"] = "light"
    >>> client.get("/me").text
    'ann, light'

    When the block ends, the changes are stored, merged with what requests have stored
    in the meantime, and the client's cookie is set, changed or deleted. If the block
    raises, nothing is stored.

    It works like :meth:`client.session_transaction()
    <flask.testing.FlaskClient.session_transaction>`, with three differences. It finds
    the cookie wherever ``SESSION_COOKIE_DOMAIN`` and ``SESSION_COOKIE_PATH`` put it. If
    the session cannot be stored, it raises, while Flask's continues silently. And the
    session is typed.

    The block is not a request: :data:`flask.session` is not this session.

    :param client: a client of an application with sessions in SQL. Its cookies have to
        be for the host in ``SESSION_COOKIE_DOMAIN``, or else in ``SERVER_NAME``, or
        else for ``localhost``.
    :raises RuntimeError: the application has no sessions in SQL, or no ``SECRET_KEY``;
        or, on SQLite, the test has an open transaction that locks the file.
    :raises TypeError: the client was made with ``use_cookies=False``.
    :raises SessionStoreUnavailableError: the database cannot be reached.
    :raises SessionTableError: the table is missing or cannot be used.
    :raises SessionError: the session cannot be stored; the subclass says why.
    """
    app = client.application
    interface = _interface(app)
    if not app.secret_key:
        raise RuntimeError(
            "The application has no SECRET_KEY, so it stores no session. Set one in the"
            " configuration of the tests."
        )
    path, base_url = _place(app, interface)
    with client.session_transaction(
        path, base_url=base_url, environ_base=client.environ_base
    ) as flasks:
        opened = cast(ServerSideSession, flasks)
        yield opened
        if not opened._loaded:
            return
        # Flask saves it again, for the cookie, and finds nothing left to store.
        with _context(app), _no_lock_of_ours():
            source = cast(RequestSource, opened._source)
            interface._save(app, opened, source, may_defer=False)


def expire(client: FlaskClient, lifetime: Literal["idle", "absolute"] = "idle") -> None:
    """Expire a client's session, as if its time had passed.

    The client keeps the cookie. Its next request gets an empty session.

    >>> log_in(client, "ann")
    >>> expire(client)
    >>> client.get("/me").text
    'nobody'

    This moves the times in the row, not the clock. To test what happens shortly before
    the end, move the clock with freezegun or time-machine.

    :param client: a client of an application with sessions in SQL.
    :param lifetime: which lifetime is over. ``"idle"``: nobody has used the session for
        that long. ``"absolute"``: it has been in use for ``SESSION_ABSOLUTE_LIFETIME``.
    :raises LookupError: the client has no stored session.
    :raises ValueError: ``lifetime`` is something else; or it is ``"absolute"``, and
        ``SESSION_ABSOLUTE_LIFETIME`` is not set.
    :raises RuntimeError: as for :func:`session_transaction`.
    """
    app = client.application
    interface = _interface(app)
    store, longest = interface.records.store, interface.config.absolute_lifetime
    columns, now = store.table.c, int(time.time())
    changes: list[tuple[sa.ColumnElement[int], Any]] = [
        (columns.purge_at, now),
        (columns.expires_at, now),
    ]
    if lifetime == "idle":
        passed = columns.expires_at - now
        earlier = [(c, c - passed) for c in (columns.created_at, columns.last_used_at)]
        # Before the end changes: MariaDB assigns one column after the other.
        changes = [*earlier, *changes]
    elif lifetime != "absolute":
        raise ValueError(
            f"expire() was given the lifetime {lifetime!r}. Give 'idle' or 'absolute'."
        )
    elif longest is None:
        raise ValueError(
            "expire(client, 'absolute') needs SESSION_ABSOLUTE_LIFETIME, which is not"
            " set. Set it, or leave out 'absolute'."
        )
    else:
        changes.append((columns.created_at, now - longest))
    is_it = columns.handle == _handle(client)
    update = sa.update(store.table).where(is_it).ordered_values(*changes)
    with _context(app), _no_lock_of_ours():
        store.database.run(
            lambda connection: connection.execute(update).rowcount,
            wait=not interface.holds_lock(),
        )


def revoke(client: FlaskClient) -> None:
    """Revoke a client's session, as its user can from another browser, or an operator
    with ``flask sessions revoke``.

    The client keeps the cookie. Its next request gets an empty session. The signal
    :data:`~flask_sessionsql.session_ended` is sent.

    >>> log_in(client, "ann")
    >>> revoke(client)
    >>> client.get("/me").text
    'nobody'

    :param client: a client of an application with sessions in SQL.
    :raises LookupError: the client has no stored session.
    :raises RuntimeError: as for :func:`session_transaction`.
    """
    app = client.application
    interface, handle = _interface(app), _handle(client)
    with _context(app), _no_lock_of_ours():
        interface.administration.revoke(handle, wait=not interface.holds_lock())


@contextmanager
def database_down(app: Flask, *, read_only: bool = False) -> Iterator[None]:
    """Make every statement of an application's sessions fail while the block runs, as
    if the server could not be reached.

    >>> app = client.application
    >>> log_in(client, "ann")
    >>> with database_down(app):
    ...     client.get("/me").status_code
    503
    >>> client.get("/me").status_code
    200

    Stored sessions stay, even those in memory. The application's own statements work.
    The block affects all threads of this process.

    :param app: an application with sessions in SQL.
    :param read_only: only statements that write fail, as on a server that has become a
        replica. Pages that read their session work; pages that change it get a ``503``.
    :raises RuntimeError: the application has no sessions in SQL.
    """
    engine = _interface(app).records.store.engine

    def fail(connection: object, cursor: object, statement: str, *_: object) -> None:
        # ROLLBACK works: the server rolls back for a lost connection, too.
        if not statement.startswith("ROLLBACK") and (
            not read_only or _WRITES.match(statement)
        ):
            state = "takes no writes" if read_only else "cannot be reached"
            told = engine.dialect.loaded_dbapi.OperationalError(
                f"the database {state}, because a test uses database_down()"
            )
            raise sa_exc.OperationalError(statement, None, told, hide_parameters=True)

    sa.event.listen(engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", fail)


def _interface(app: Flask) -> FlaskSQLAlchemySessionInterface:
    interface = app.session_interface
    if not isinstance(interface, FlaskSQLAlchemySessionInterface):
        raise RuntimeError(
            "This application has no sessions in SQL. Set SESSION_TYPE ="
            " 'flask-sqlalchemy' in the configuration of the tests and call"
            " Session(app)."
        )
    return interface


def _place(app: Flask, interface: FlaskSQLAlchemySessionInterface) -> tuple[str, str]:
    """A path and a base URL for which the client sends the session cookie."""
    host = app.config["SERVER_NAME"] or "localhost"
    domain = interface.get_cookie_domain(app)
    if domain is not None:
        domain = domain.lstrip(".")
        if not f".{host.partition(':')[0]}".endswith(f".{domain}"):
            host = domain
    is_secure = interface.get_cookie_secure(app)
    scheme = "https" if is_secure else app.config["PREFERRED_URL_SCHEME"]
    return interface.get_cookie_path(app), f"{scheme}://{host}/"


def _context(app: Flask) -> AbstractContextManager[object]:
    """The current context if it is the application's, otherwise a new one. The test's
    open transactions belong to the current one.
    """
    is_current = has_app_context() and current_app == app
    return nullcontext() if is_current else app.app_context()


def _handle(client: FlaskClient) -> str:
    """The handle of the client's session.

    :raises LookupError: the client has no stored session.
    """
    with session_transaction(client) as opened:
        opened.counts_as_use = False
        handle = opened.handle
    if handle is None:
        raise LookupError(
            "The client has no stored session: it has no session cookie, or one that"
            " opens nothing. Call log_in(client, user) first, or make a request that"
            " puts something into the session."
        )
    return handle


def _of_flask_login(client: FlaskClient) -> dict[str, Any]:
    """What Flask-Login, if the application has it, needs in the session of a fresh
    login. Without the ``_id`` of the same browser it would not stay fresh.
    """
    manager = getattr(client.application, "login_manager", None)
    identify = getattr(manager, "_session_identifier_generator", None)
    if identify is None:
        return {}
    with client.application.test_request_context(environ_base=client.environ_base):
        return {"_fresh": True, "_id": identify()}


@contextmanager
def _no_lock_of_ours() -> Iterator[None]:
    """Raise a helpful error if the test itself locks the SQLite file.

    :raises RuntimeError: it does.
    """
    try:
        yield
    except SessionStoreBusyError as error:
        raise RuntimeError(
            "A transaction of this test locks the SQLite file, so the session was not"
            " stored. Commit or roll back first, for example with db.session.commit(),"
            " or store the sessions of the tests in a database of their own: see the"
            " page about testing in the documentation."
        ) from error
