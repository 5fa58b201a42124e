"""The settings: read once, checked once, frozen.

Each attribute of :class:`SessionConfig` says what a setting is, in which unit,
what it is when it is not set, and what a wrong value gets. A wrong value is a
:exc:`~flask_sessionsql.SessionConfigError` at
:meth:`~flask_sessionsql.Session.init_app`; a key that means nothing here is a
:exc:`~flask_sessionsql.SessionConfigWarning` that says what was probably meant.

How long a session lasts
------------------------

A session ends in the database, whatever the cookie says: an expired row is never
served, and a cookie that was kept for longer opens nothing. Two clocks run. The idle
lifetime begins anew with every use; it ends what was left open on somebody else's
computer. The absolute lifetime begins with the login and is extended by nothing; it
ends what somebody has stolen and keeps in use (OWASP ASVS 5.0, 7.3.1 and 7.3.2).

================================ ===================================================
``PERMANENT_SESSION_LIFETIME``   the idle lifetime: how long after its last use a
                                 session ends.  Defaults to ``timedelta(days=31)``.
``SESSION_REFRESH_INTERVAL``     how far the end may lag behind before it moves on.  A
                                 session is written for its use at most once in this
                                 time.  Defaults to ``None``: a hundredth of the
                                 lifetime.
``SESSION_REFRESH_EACH_REQUEST`` whether reading counts as use; otherwise only a change
                                 does.  Defaults to ``True``.
``SESSION_ABSOLUTE_LIFETIME``    how long a session lasts at most, from its first write
                                 or its login on.  Defaults to ``None``: as long as it
                                 is used.
``session.set_expiry()``         the end of this one session at the latest.  Not set by
                                 default.
``SESSION_PERMANENT``            whether the cookie outlives the browser; otherwise it
                                 goes when the browser is closed, and the row ends as
                                 it would.  Defaults to ``True``.
``SESSION_PURGE_INTERVAL``       how often, in seconds, each process deletes some rows
                                 that have expired.  They are dead before.  Defaults to
                                 ``600``.
================================ ===================================================

The earliest of the three ends holds. It stands in the row, in the cookie and in
:attr:`session.expires_at <flask_sessionsql.ServerSideSession.expires_at>`. Use only
ever moves it forward, however many requests there are at once; and since it may lag
behind by the refresh interval, an idle session ends a little early, never late. What is
set or absolute holds to the second.

**How to choose them.** ASVS 7.1.1 wants both times written down, with a reason where
they are longer than those of NIST SP 800-63B-4 (sections 2.1.3, 2.2.3 and 2.3.3). These
go by the assurance level of the login:

============================================ ======================================
AAL1: one factor, such as a password         30 days in all; no idle lifetime is
                                             asked for
AAL2: two factors                            24 hours in all, 1 hour idle
AAL3: a hardware key that resists phishing   12 hours in all, 15 minutes idle
============================================ ======================================

The defaults are Flask's: 31 days idle, and no absolute lifetime. They suit a shop or a
forum. AAL1 asks for one setting, and AAL2 for two:

.. code-block:: python

    SESSION_ABSOLUTE_LIFETIME = timedelta(days=30)  # AAL1

    PERMANENT_SESSION_LIFETIME = timedelta(hours=1)  # AAL2
    SESSION_ABSOLUTE_LIFETIME = timedelta(hours=24)

The refresh interval is worth a thought where it shows: in a list of sessions, "last
used" lags behind by as much. A minute costs each active session one small statement a
minute.

**An end of its own** is what a session gets whose user somebody else vouches for: an
identity provider's session ends at a time, and this one should not outlive it (OWASP
ASVS 5.0, 7.6.1).

.. testcode:: lifetimes

    from datetime import timedelta

    from flask import Flask
    from flask_sessionsql import Session, session

    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not so secret",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI="sqlite://",
    )
    Session(app)

    @app.get("/login")
    def login():
        session["_user_id"] = "ann"
        session.set_expiry(timedelta(hours=8))  # or a datetime, such as of a claim
        return "ok"

    @app.get("/left")
    def left():
        lasts = session.expires_at - session.created_at
        return f"{lasts / timedelta(hours=1):.1f} hours"

    browser = app.test_client()
    browser.get("/login")
    print(browser.get("/left").text)

.. testoutput:: lifetimes

    8.0 hours

It holds through logins and logouts, until it is set again or ``session.clear()`` ends
the session. ``session.set_expiry(None)`` leaves the end to the settings again.

**When a setting changes,** a longer lifetime reaches a session at its next use; a
shorter idle lifetime at its next change. An absolute lifetime holds at once, for
sessions that were stored before it was set, too. Another ``SESSION_USER_KEY`` reaches a
session's ``user_id`` at its next use.

How large a session may be
--------------------------

A session is read whole at each request that touches it, and written whole at each that
changes it. What makes it slow, or fills the table, is something large that came in by
mistake: a file, a query's result, a basket that a robot fills. ``SESSION_MAX_BYTES``
ends that at 1 MiB. A larger session is refused with a
:exc:`~flask_sessionsql.SessionTooLargeError`, and stays as it was stored. The error is
met when the response is made already, so the request is answered with 500; it names the
largest keys and their sizes, in bytes as they would be stored, before encryption:

.. testcode:: size

    from flask import Flask
    from flask_sessionsql import Session, SessionTooLargeError, session

    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not so secret",
        SESSION_MAX_BYTES=4000,
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI="sqlite://",
        TESTING=True,
    )
    Session(app)

    @app.get("/")
    def upload():
        session["name"] = "ann"
        session["file"] = b"..." * 2000
        return "ok"

    browser = app.test_client()
    try:
        browser.get("/")
    except SessionTooLargeError as error:
        print(f"{error.size} bytes, {error.limit} allowed")
        for key, size in error.largest:
            print(f"{key}: {size}")

.. testoutput:: size

    6019 bytes, 4000 allowed
    file: 6008
    name: 9

Keep large things in a table of your own, and their keys in the session. A session that
is over the limit already, because that was lowered, may stay, be read, and shrink. The
most that can be set is 1 GiB, which no database keeps in a row; a server's own limit,
such as MariaDB's ``max_allowed_packet``, can be lower.

What a security standard asks for
---------------------------------

The OWASP Application Security Verification Standard 5.0 asks for this of sessions. What
the package does by itself needs no setting; the rest is a call or a setting of the
application's.

================================ =======================================================
7.1.1: documented times          See :doc:`/lifetimes`. The choice is the application's.
7.1.2: sessions at once          ``SESSION_MAX_PER_USER`` and its policy.
7.1.3, 7.6.1: single sign-on     ``revoke_user()`` for a back-channel logout,
                                 ``session.set_expiry()`` for the end that the provider
                                 names.
7.2.1, 7.2.2: tokens             By itself: each request that touches the session looks
                                 its token up in the database.
7.2.3: random tokens             By itself: 256 bits from :mod:`secrets`; less than 128
                                 cannot be set.
7.2.4: a new token at login      By itself; ``session.regenerate()`` where the same user
                                 logs in again.
7.3.1: idle sessions             By itself: ``PERMANENT_SESSION_LIFETIME``, in the row.
7.3.2: a maximum lifetime        ``SESSION_ABSOLUTE_LIFETIME``.
7.4.1: logout and expiry         By itself: the row is deleted, or moves to a new token,
                                 and a request that is late does not bring it back.
7.4.2: closed accounts           ``revoke_user()``.
7.4.3: a new password            ``revoke_others()``.
7.4.5: administrators            ``revoke_user()``, ``revoke_all()``, and the command
                                 ``flask sessions revoke``.
7.5.2: users                     ``user_sessions()`` and ``revoke()``.
7.6.2: none unasked              By itself: no row and no cookie before the application
                                 writes something to the session.
3.3.1, 3.3.2: the cookie         ``SESSION_COOKIE_SECURE``, ``SESSION_COOKIE_SAMESITE``,
                                 and a ``SESSION_COOKIE_NAME`` that begins with
                                 ``__Host-``. A prefix whose conditions are not met is
                                 an error.
3.3.4: HttpOnly                  By itself. The token is in the cookie and nowhere else:
                                 in no log, message, list or address.
1.5.2: safe decoding             By itself: the format holds plain values. There is no
                                 pickle.
================================ =======================================================
"""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import exc as sa_exc

from .exceptions import SessionConfigError, SessionConfigWarning
from .formats.tokens import MAX_BYTES, MIN_BYTES

__all__ = ["DEFAULT_DATABASE_URI", "SQL_TYPES", "SessionConfig"]

#: The values of ``SESSION_TYPE`` that store sessions in SQL.
SQL_TYPES = ("flask-sqlalchemy", "sqlalchemy")

#: Where the sessions are if neither an address nor a ``SQLAlchemy`` object is
#: given: a file in the application's instance folder.
DEFAULT_DATABASE_URI = "sqlite:///sessions.db"

#: Beyond any cookie's life (browsers keep none longer than 400 days), and far
#: from the last year that a cookie's date can name.
_LONGEST = timedelta(days=366 * 100)
#: What PostgreSQL, whose limit is the lowest, keeps in a column of one row.
_LARGEST = 1024**3

#: The values of ``SESSION_MAX_PER_USER_POLICY``.
POLICIES = ("end-oldest", "refuse")

T = TypeVar("T")


@dataclass(frozen=True)
class SessionConfig:
    """What the sessions of one application are set to."""

    session_type: str = "null"
    """``SESSION_TYPE``: ``"null"`` (the default, as is ``None``) or
    ``"flask-sqlalchemy"``, for which ``"sqlalchemy"`` is another name. Anything
    else is an error.
    """

    cookie_name: str = "session"
    """``SESSION_COOKIE_NAME``: Flask's default is ``"session"``. A name that is no
    cookie name is an error (RFC 6265, section 4.1.1), and so is one with the prefix
    ``__Host-`` or ``__Secure-`` whose conditions the other settings do not meet:
    browsers would refuse the cookie.
    """

    cookie_domain: str | None = None
    """``SESSION_COOKIE_DOMAIN``: Flask's default is ``None``, the host that set the
    cookie and no other.
    """

    cookie_path: str = "/"
    """``SESSION_COOKIE_PATH``: Flask's default is ``None``, which stands for
    ``APPLICATION_ROOT``. A path that does not begin with ``/`` is an error.
    """

    cookie_httponly: bool = True
    """``SESSION_COOKIE_HTTPONLY``: Flask's default is ``True``."""

    cookie_secure: bool = False
    """``SESSION_COOKIE_SECURE``: Flask's default is ``False``. Set it where the
    application is served by HTTPS.
    """

    cookie_samesite: str | None = None
    """``SESSION_COOKIE_SAMESITE``: ``"Lax"``, ``"Strict"``, ``"None"`` or, Flask's
    default, ``None``: then the cookie does not have the attribute. ``"None"`` without
    ``SESSION_COOKIE_SECURE`` is warned of: browsers refuse such a cookie.
    """

    cookie_partitioned: bool = False
    """``SESSION_COOKIE_PARTITIONED``: Flask's default is ``False``. It implies
    ``Secure``.
    """

    lifetime: int = 31 * 24 * 3600
    """``PERMANENT_SESSION_LIFETIME``: a :class:`~datetime.timedelta`, or whole
    seconds; Flask's default is 31 days. It is the idle lifetime: how long after it
    was last used a session ends, in the row as in the cookie. Zero, less, or more
    than a hundred years is an error. A shorter lifetime reaches a session that is
    already stored at its next write.
    """

    refresh_each_request: bool = True
    """``SESSION_REFRESH_EACH_REQUEST``: whether a request that only reads the
    session counts as use of it. Flask's default is ``True``. Off, only a change
    moves the end of the session.
    """

    refresh_interval: int = 31 * 24 * 36
    """``SESSION_REFRESH_INTERVAL``: how far, in seconds or as a
    :class:`~datetime.timedelta`, the end of a session may lag behind before it is
    moved, in the row and in the cookie. The default, ``None``, stands for a
    hundredth of the lifetime: an idle session then ends at most one hundredth
    early, and reading it hardly ever costs a write. ``0`` moves it in every
    request. A value that is negative or not less than the lifetime is an error.
    """

    absolute_lifetime: int | None = None
    """``SESSION_ABSOLUTE_LIFETIME``: how long, in seconds or as a
    :class:`~datetime.timedelta`, a session lasts at most, however much it is used: from
    its first write, and anew from a login of somebody where nobody was logged in. By
    default ``None``: as long as it is used. It holds for sessions that are stored
    already, too (OWASP ASVS 5.0, 7.3.2). Zero, less, or more than a hundred years is an
    error.
    """

    purge_interval: int = 600
    """``SESSION_PURGE_INTERVAL``: how often, in seconds or as a
    :class:`~datetime.timedelta`, each process looks at up to 100 rows that may have
    expired and deletes those that have, after the response to a request that touched
    its session. Ten minutes by default; as
    long as there are more it goes on with the next request. ``0`` turns it off, for
    sites that run ``flask sessions purge``. A negative value is an error.
    """

    permanent: bool = True
    """``SESSION_PERMANENT``: whether the cookie outlives the browser. ``True`` by
    default; ``False`` makes it one that ends with the browser, and the row expires
    all the same. Applications can decide otherwise for one session, by
    :attr:`session.permanent <flask.sessions.SessionMixin.permanent>`.
    """

    id_length: int = 32
    """``SESSION_ID_LENGTH``: the random bytes of a token, 32 by default. Less than
    16 is an error (OWASP ASVS 5.0, 7.2.3 asks for 128 bits), and so is more than 256.
    """

    user_key: str = "_user_id"
    """``SESSION_USER_KEY``: the session key that tells who is logged in; by default
    ``"_user_id"``, which is where Flask-Login keeps it. Its value is copied to the
    column ``user_id``, and when it changes the session moves to a new token (OWASP
    ASVS 5.0, 7.2.4).
    """

    max_per_user: int | None = None
    """``SESSION_MAX_PER_USER``: how many sessions a user may have at once. By default
    ``None``: any number. Less than 1 is an error.
    """

    max_per_user_policy: str = "end-oldest"
    """``SESSION_MAX_PER_USER_POLICY``: what a login does that would be one too many.
    ``"end-oldest"``, the default: it ends the session that began first. ``"refuse"``:
    it is answered with a :exc:`403 <flask_sessionsql.SessionLimitError>`, and the
    session stays as it was. Anything else is an error.
    """

    record_client: bool = False
    """``SESSION_RECORD_CLIENT``: whether the row tells the IP address and the browser
    (``User-Agent``) that the session was last used with, for users to recognise their
    sessions in a list. ``False`` by default, because both are personal data in the
    European Union and elsewhere: turn it on with a reason, say so in your privacy
    notice, and let sessions expire. Turned off again, a session's are erased at its
    next write. Behind a proxy, the address is the proxy's unless the application uses
    :class:`~werkzeug.middleware.proxy_fix.ProxyFix`.
    """

    max_bytes: int = 1024 * 1024
    """``SESSION_MAX_BYTES``: how large a stored session may be; 1 MiB by default. A
    larger one is refused with a :exc:`~flask_sessionsql.SessionTooLargeError` that
    names its largest keys; one that is stored already may stay and shrink. Less than
    1, or more than 1 GiB, which no database keeps in a row, is an error.
    """

    encrypt: bool | str = False
    """``SESSION_ENCRYPT``: whether the data of sessions is encrypted in the database.
    ``False`` by default; ``True`` encrypts what is written from now on, and reads what
    is there; ``"required"`` takes encrypted rows only. It needs the package
    ``cryptography``, which comes with ``Flask-SessionSql[encryption]``: without it,
    turning it on is an error. See :mod:`flask_sessionsql.formats.encryption`.
    """

    table: str = "flask_sessionsql"
    """``SESSION_SQLALCHEMY_TABLE``: the name of the table, ``"flask_sessionsql"`` by
    default. At most 63 characters. Applications in one database that have different
    users need a table each: lists and ends go by what stands in ``user_id``.
    """

    schema: str | None = None
    """``SESSION_SQLALCHEMY_SCHEMA``: the database schema of the table. By default
    ``None``, the one that the metadata or the database has.
    """

    bind_key: str | None = None
    """``SESSION_SQLALCHEMY_BIND_KEY``: which of ``SQLALCHEMY_BINDS`` holds the table.
    By default ``None``, ``SQLALCHEMY_DATABASE_URI``. A key that is not among the binds
    is an error at the first use.
    """

    create_table: bool = True
    """``SESSION_CREATE_TABLE``: whether the first use creates the table where it is
    missing. ``True`` by default; turn it off if migrations create it.
    """

    sqlalchemy: SQLAlchemy | None = None
    """``SESSION_SQLALCHEMY``: the :class:`~flask_sqlalchemy.SQLAlchemy` object whose
    database holds the sessions. By default ``None``: the one that the application
    has, or none at all, in which case the settings ``SQLALCHEMY_*`` are used as
    Flask-SQLAlchemy would.
    """

    database_uri: str | sa.URL = DEFAULT_DATABASE_URI
    """``SQLALCHEMY_DATABASE_URI``: used where the application has no ``SQLAlchemy``
    object. By default ``"sqlite:///sessions.db"``, a file in the instance folder. An
    address that SQLAlchemy does not understand is an error.
    """

    echo: bool | str = False
    """``SQLALCHEMY_ECHO``: whether each SQL statement is written to the log; see
    SQLAlchemy's documentation. The values in it are never written, nor are rows,
    at whatever level. An application's own ``SQLAlchemy`` object decides for
    itself.
    """

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> SessionConfig:
        """Read, check and freeze ``config``, such as :attr:`flask.Flask.config`.

        :raises SessionConfigError: a value cannot work.
        """
        _warn_of_unknown_keys(config)
        read = _Reader(config)
        lifetime = read("PERMANENT_SESSION_LIFETIME", _lifetime, cls.lifetime)
        result = cls(
            session_type=read("SESSION_TYPE", _session_type, cls.session_type),
            cookie_name=read("SESSION_COOKIE_NAME", _cookie_name, cls.cookie_name),
            cookie_domain=read("SESSION_COOKIE_DOMAIN", _domain, None),
            cookie_path=(
                read("SESSION_COOKIE_PATH", _path, None)
                or read("APPLICATION_ROOT", _path, None)
                or cls.cookie_path
            ),
            cookie_httponly=read("SESSION_COOKIE_HTTPONLY", _flag, True),
            cookie_secure=read("SESSION_COOKIE_SECURE", _flag, False),
            cookie_samesite=read("SESSION_COOKIE_SAMESITE", _samesite, None),
            cookie_partitioned=read("SESSION_COOKIE_PARTITIONED", _flag, False),
            lifetime=lifetime,
            refresh_each_request=read("SESSION_REFRESH_EACH_REQUEST", _flag, True),
            refresh_interval=read(
                "SESSION_REFRESH_INTERVAL",
                _interval(lifetime),
                # A quarter of an hour may lag nine seconds, a month seven hours.
                lifetime // 100,
            ),
            absolute_lifetime=read("SESSION_ABSOLUTE_LIFETIME", _lifetime, None),
            purge_interval=read("SESSION_PURGE_INTERVAL", _pause, cls.purge_interval),
            permanent=read("SESSION_PERMANENT", _flag, True),
            id_length=read("SESSION_ID_LENGTH", _id_length, cls.id_length),
            user_key=read("SESSION_USER_KEY", _user_key, cls.user_key),
            max_per_user=read("SESSION_MAX_PER_USER", _count, None),
            max_per_user_policy=read(
                "SESSION_MAX_PER_USER_POLICY", _policy, cls.max_per_user_policy
            ),
            record_client=read("SESSION_RECORD_CLIENT", _flag, False),
            max_bytes=read("SESSION_MAX_BYTES", _max_bytes, cls.max_bytes),
            encrypt=read("SESSION_ENCRYPT", _encrypt, False),
            table=read("SESSION_SQLALCHEMY_TABLE", _table_name, cls.table),
            schema=read("SESSION_SQLALCHEMY_SCHEMA", _text, None),
            bind_key=read("SESSION_SQLALCHEMY_BIND_KEY", _text, None),
            create_table=read("SESSION_CREATE_TABLE", _flag, True),
            sqlalchemy=read("SESSION_SQLALCHEMY", _sqlalchemy, None),
            database_uri=read("SQLALCHEMY_DATABASE_URI", _uri, DEFAULT_DATABASE_URI),
            echo=read("SQLALCHEMY_ECHO", _echo, False),
        )
        _check_cookie(result)
        return result


class _Reader:
    """Reads one key at a time, and puts the key's name on what is wrong with it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def __call__(self, key: str, check: Callable[[Any], T], default: Any) -> T:
        value = self._config.get(key)
        if value is None:
            return default  # type: ignore[no-any-return]
        try:
            return check(value)
        except _ExpectedError as error:
            _fail(self._config, key, str(error))


class _ExpectedError(Exception):
    """What was expected, in words."""


def _fail(config: Mapping[str, Any], key: str, expected: str) -> NoReturn:
    given = config[key]
    shown = repr(given)
    # A database address, under whichever key, may hold a password.
    if key == "SQLALCHEMY_DATABASE_URI" or "://" in shown:
        shown = type(given).__name__
    raise SessionConfigError(key, f"expected {expected}; given is {shown}.") from None


# One check a kind of value. Each takes what was given, never None.


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _ExpectedError("True or False")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _ExpectedError("a text that is not empty")
    return value


def _user_key(value: Any) -> str:
    # Where Flask keeps `permanent`; it does not show among a session's keys.
    if _text(value) == "_permanent":
        raise _ExpectedError("the session key that tells who is logged in")
    return str(value)


def _domain(value: Any) -> str | None:
    # Flask once used False for "no domain".
    return None if value is False else _text(value)


def _path(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise _ExpectedError("a path that begins with '/'")
    return value


def _cookie_name(value: Any) -> str:
    # RFC 6265, section 4.1.1: a token of HTTP.
    if not isinstance(value, str) or not re.fullmatch(
        r"[\w!#$%&'*+.^`|~-]+", value, re.A
    ):
        raise _ExpectedError(
            "a cookie name: letters, digits and !#$%&'*+-.^_`|~, without spaces"
        )
    return value


def _samesite(value: Any) -> str:
    if isinstance(value, str) and value.title() in {"Strict", "Lax", "None"}:
        return value.title()
    raise _ExpectedError("'Lax', 'Strict', 'None' or, for no attribute, None")


def _session_type(value: Any) -> str:
    known = ("null", *SQL_TYPES)
    if value in known:
        return str(value)
    close = difflib.get_close_matches(str(value), known, 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    raise _ExpectedError(f"one of {', '.join(map(repr, known))}{meant}")


def _seconds(value: Any) -> int:
    if isinstance(value, timedelta):
        # Rounded up: half a second is not no time at all.
        whole, rest = divmod(value, timedelta(seconds=1))
        return whole + bool(rest)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _ExpectedError("a timedelta or whole seconds")
    return value


def _lifetime(value: Any) -> int:
    seconds = _seconds(value)
    if not 0 < seconds <= _LONGEST.total_seconds():
        raise _ExpectedError("a timedelta or whole seconds, above 0, at most 100 years")
    return seconds


def _interval(lifetime: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        seconds = _seconds(value)
        if not 0 <= seconds < lifetime:
            raise _ExpectedError(
                f"0 or more, and less than PERMANENT_SESSION_LIFETIME, {lifetime} s"
            )
        return seconds

    return check


def _pause(value: Any) -> int:
    seconds = _seconds(value)
    if seconds < 0:
        raise _ExpectedError("a timedelta or whole seconds, or 0 for never")
    return seconds


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _ExpectedError("a whole number, 1 or more, or None for no limit")
    return value


def _policy(value: Any) -> str:
    if value not in POLICIES:
        raise _ExpectedError(f"one of {', '.join(map(repr, POLICIES))}")
    return str(value)


def _max_bytes(value: Any) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not 0 < value <= _LARGEST
    ):
        raise _ExpectedError(f"whole bytes, 1 to {_LARGEST}")
    return value


def _encrypt(value: Any) -> bool | str:
    if not isinstance(value, bool) and value != "required":
        raise _ExpectedError("True, False or 'required'")
    if value and find_spec("cryptography") is None:
        raise _ExpectedError(
            "the package 'cryptography' to be installed, such as by: pip install"
            ' "Flask-SessionSql[encryption]"'
        )
    return value  # type: ignore[no-any-return]


def _id_length(value: Any) -> int:
    if (
        not isinstance(value, int)
        or isinstance(value, bool)
        or not MIN_BYTES <= value <= MAX_BYTES
    ):
        raise _ExpectedError(f"whole bytes, {MIN_BYTES} to {MAX_BYTES}")
    return value


def _table_name(value: Any) -> str:
    # PostgreSQL's limit; MariaDB's is one more.
    if not isinstance(value, str) or not 0 < len(value) <= 63:
        raise _ExpectedError("a table name of 1 to 63 characters")
    return value


def _sqlalchemy(value: Any) -> SQLAlchemy:
    if not isinstance(value, SQLAlchemy):
        raise _ExpectedError("a flask_sqlalchemy.SQLAlchemy object")
    return value


def _uri(value: Any) -> str | sa.URL:
    expected = (
        "a database address such as 'sqlite:///app.db',"
        " 'postgresql+psycopg://user:password@host/name' or"
        " 'mysql+pymysql://user:password@host/name'"
    )
    try:
        url = sa.make_url(value)
        url.get_dialect().import_dbapi()
    except sa_exc.NoSuchModuleError:
        raise _ExpectedError(
            f"{expected}; SQLAlchemy knows no {url.drivername!r}"
        ) from None
    except (sa_exc.ArgumentError, ValueError):  # the latter of a port, for one
        raise _ExpectedError(expected) from None
    except ImportError as error:
        raise _ExpectedError(
            f"{expected}, with its driver installed; {url.drivername!r} needs"
            f" {error.name!r}"
        ) from None
    return url


def _echo(value: Any) -> bool | str:
    if isinstance(value, bool):
        return value
    if value != "debug":
        raise _ExpectedError("True, False or 'debug'")
    return "debug"


# Values that only make sense together.


def _check_cookie(config: SessionConfig) -> None:
    """What browsers ask of a cookie (RFC 6265bis, sections 4.1.2.7 and 4.1.3)."""
    name, secure = config.cookie_name, config.cookie_secure or config.cookie_partitioned
    prefix = name.lower()  # browsers compare it without regard to case
    if prefix.startswith("__secure-") and not secure:
        raise SessionConfigError(
            "SESSION_COOKIE_NAME",
            f"{name!r} begins with '__Secure-', which browsers take only of a secure"
            " cookie. Set SESSION_COOKIE_SECURE = True, or choose another name.",
        )
    if prefix.startswith("__host-") and (
        not secure or config.cookie_domain or config.cookie_path != "/"
    ):
        raise SessionConfigError(
            "SESSION_COOKIE_NAME",
            f"{name!r} begins with '__Host-', which browsers take only of a secure"
            " cookie without a domain for the path '/'. Set SESSION_COOKIE_SECURE ="
            " True, SESSION_COOKIE_PATH = '/' and no SESSION_COOKIE_DOMAIN, or choose"
            " another name.",
        )
    if config.cookie_samesite == "None" and not secure:
        _warn(
            "SESSION_COOKIE_SAMESITE is 'None' and SESSION_COOKIE_SECURE is off:"
            " browsers refuse such a cookie. Set SESSION_COOKIE_SECURE = True."
        )


# Keys that mean nothing here.

_OURS = {
    "SESSION_ABSOLUTE_LIFETIME",
    "SESSION_COOKIE_DOMAIN",
    "SESSION_COOKIE_HTTPONLY",
    "SESSION_COOKIE_NAME",
    "SESSION_COOKIE_PARTITIONED",
    "SESSION_COOKIE_PATH",
    "SESSION_COOKIE_SAMESITE",
    "SESSION_COOKIE_SECURE",
    "SESSION_CREATE_TABLE",
    "SESSION_ENCRYPT",
    "SESSION_ID_LENGTH",
    "SESSION_MAX_BYTES",
    "SESSION_MAX_PER_USER",
    "SESSION_MAX_PER_USER_POLICY",
    "SESSION_PERMANENT",
    "SESSION_PURGE_INTERVAL",
    "SESSION_RECORD_CLIENT",
    "SESSION_REFRESH_EACH_REQUEST",
    "SESSION_REFRESH_INTERVAL",
    "SESSION_SQLALCHEMY",
    "SESSION_SQLALCHEMY_BIND_KEY",
    "SESSION_SQLALCHEMY_SCHEMA",
    "SESSION_SQLALCHEMY_TABLE",
    "SESSION_TYPE",
    "SESSION_USER_KEY",
}

#: Read by others, so nothing is said of them.
_OTHERS = {"SESSION_PROTECTION"}  # Flask-Login

#: Keys of Flask-Session, and what to do instead.
_FOREIGN = {
    "SESSION_CLEANUP_N_REQUESTS": "set SESSION_PURGE_INTERVAL, in seconds",
    "SESSION_KEY_PREFIX": "the table holds sessions only; remove the key",
    "SESSION_SERIALIZATION_FORMAT": "there is one format; remove the key",
    "SESSION_SQLALCHEMY_SEQUENCE": "the table has no sequence; remove the key",
    "SESSION_USE_SIGNER": "a token is never stored, so it needs no signature; remove"
    " the key",
}


def _warn_of_unknown_keys(config: Mapping[str, Any]) -> None:
    for key in sorted(str(key) for key in config):
        if not key.startswith("SESSION_") or key in _OURS or key in _OTHERS:
            continue
        close = difflib.get_close_matches(key, _OURS, 1, 0.8)
        if key in _FOREIGN:
            advice = f"{_FOREIGN[key]}."
        elif close:
            advice = f"Did you mean {close[0]}?"
        else:
            advice = f"The keys it knows are {', '.join(sorted(_OURS))}."
        _warn(f"Flask-SessionSql does not know the key {key}: {advice}")


def _warn(message: str) -> None:
    # The line that is shown is the application's: Session(app) or init_app(app).
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(), 1
    while (
        frame.f_back
        and frame.f_globals.get("__name__", "").partition(".")[0] == package
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SessionConfigWarning, stacklevel=level)
