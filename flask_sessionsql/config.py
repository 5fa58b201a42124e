"""The settings: read once, checked once, frozen.

Each attribute of :class:`SessionConfig` says what a setting is, in which unit,
what it is when it is not set, and what a wrong value gets. A wrong value is a
:exc:`~flask_sessionsql.SessionConfigError` at
:meth:`~flask_sessionsql.Session.init_app`; a key that means nothing here is a
:exc:`~flask_sessionsql.SessionConfigWarning` that says what was probably meant.
"""

from __future__ import annotations

import difflib
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import exc as sa_exc

from .exceptions import SessionConfigError, SessionConfigWarning
from .tokens import MAX_BYTES, MIN_BYTES

__all__ = ["DEFAULT_DATABASE_URI", "SQL_TYPES", "SessionConfig"]

#: The values of ``SESSION_TYPE`` that store sessions in SQL.
SQL_TYPES = ("flask-sqlalchemy", "sqlalchemy")

#: Where the sessions are if neither an address nor a ``SQLAlchemy`` object is
#: given: a file in the application's instance folder.
DEFAULT_DATABASE_URI = "sqlite:///sessions.db"

#: Beyond any cookie's life (browsers keep none longer than 400 days), and far
#: from the last year that a cookie's date can name.
_LONGEST = timedelta(days=366 * 100)

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

    table: str = "flask_sessionsql"
    """``SESSION_SQLALCHEMY_TABLE``: the name of the table, ``"flask_sessionsql"`` by
    default. At most 63 characters.
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
            permanent=read("SESSION_PERMANENT", _flag, True),
            id_length=read("SESSION_ID_LENGTH", _id_length, cls.id_length),
            user_key=read("SESSION_USER_KEY", _text, cls.user_key),
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
    "SESSION_COOKIE_DOMAIN",
    "SESSION_COOKIE_HTTPONLY",
    "SESSION_COOKIE_NAME",
    "SESSION_COOKIE_PARTITIONED",
    "SESSION_COOKIE_PATH",
    "SESSION_COOKIE_SAMESITE",
    "SESSION_COOKIE_SECURE",
    "SESSION_CREATE_TABLE",
    "SESSION_ID_LENGTH",
    "SESSION_PERMANENT",
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
    "SESSION_CLEANUP_N_REQUESTS": "expired sessions are never served; remove the key",
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
