"""The settings, each declared once.

A field of :class:`SessionConfig` declares a setting: the field's type is the setting's,
``setting()`` gives the rest, and what the setting does stands under it in words, the
first sentence by itself. From that come what :meth:`SessionConfig.from_mapping` reads,
the keys that are known when another one is warned of as misspelt, and the page
:doc:`/reference/settings`. Those that are not kept are declared in the same way in
``OtherSettings``.
"""

# ruff: noqa: RUF009 -- setting() makes a field, as dataclasses.field() does

from __future__ import annotations

import difflib
import re
import reprlib
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import exc as sa_exc

from .exceptions import SessionConfigError, SessionConfigWarning
from .sessions import HIDDEN_KEYS, LONGEST_LIFETIME

__all__ = [
    "DEFAULT_DATABASE_URI",
    "FLASK_KEYS",
    "SETTINGS",
    "SQL_TYPES",
    "SessionConfig",
    "check_driver",
]

#: The values of ``SESSION_TYPE`` that store sessions in SQL.
SQL_TYPES = ("flask-sqlalchemy", "sqlalchemy")

#: The values of ``SESSION_ADOPT``.
ADOPTED = ("flask-session", "cookie")

#: The values of ``SESSION_MAX_PER_USER_POLICY``.
POLICIES = ("end-oldest", "refuse")

#: Where the sessions are if neither an address nor a ``SQLAlchemy`` object is
#: given: a file in the application's instance folder.
DEFAULT_DATABASE_URI = "sqlite:///sessions.db"

#: The databases and their drivers that sessions were tried with, as SQLAlchemy names
#: them: see :doc:`/guides/servers`.
DRIVERS: dict[str, tuple[str, ...]] = {
    "sqlite": ("pysqlite", "pysqlcipher"),
    "postgresql": ("psycopg", "psycopg2", "pg8000"),
    "mysql": ("pymysql", "mysqldb", "mariadbconnector"),
}
DRIVERS["mariadb"] = DRIVERS["mysql"]

#: What settings are about. The page has a section for each.
Group = Literal[
    "kind", "cookie", "lifetime", "users", "row", "database", "moving", "secrets"
]
#: Gives a value that depends on other settings.
Unset = Callable[[Mapping[str, Any]], Any]

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Setting:
    """What is declared of a setting, besides its type and its words."""

    key: str
    group: Group
    check: Callable[[Any], Any]
    """Takes what was given, never ``None``, and returns what is kept."""
    default: Any
    """What is kept where nothing is given."""
    unit: str = ""
    takes: str = ""
    """What can be given, in words, if the type of what is kept does not say it."""
    meaning: str = ""
    """What the default comes to, in words."""
    unset: Unset | None = None
    """Gives the default from the configuration, if other settings decide it."""

    @property
    def owner(self) -> str:
        """The package whose setting it is."""
        if self.key in Flask.default_config:
            return "Flask"
        ours = not self.key.startswith("SQLALCHEMY_")
        return "Flask-SessionSql" if ours else "Flask-SQLAlchemy"

    def read(self, config: Mapping[str, Any]) -> Any:
        """What ``config`` says, checked; the default if that is ``None`` or nothing.

        :raises SessionConfigError: the value cannot work.
        """
        given = config.get(self.key)
        if given is None:
            return self.default if self.unset is None else self.unset(config)
        try:
            return self.check(given)
        except _ExpectedError as error:
            raise _wrong(self.key, given, str(error)) from None


def setting(
    key: str, group: Group, check: Callable[[Any], T], default: D, **more: Any
) -> T | D:
    """A field that declares a :class:`Setting`."""
    declared = Setting(key, group, check, default, **more)
    return field(default=default, metadata={"setting": declared})


def flag(key: str, group: Group, default: bool) -> bool:
    """A field that declares a setting which is on or off."""
    return setting(key, group, lambda given: _flag(given), default)


# The checks are lambdas because what they call stands below.


@dataclass(frozen=True)
class SessionConfig:
    """What the sessions of one application are set to.

    The settings are read and checked once and cannot be changed afterwards; of Flask's
    own, this is what they were when they were read, and :meth:`now` gives what they
    have become. Times are kept in whole seconds, and sizes in bytes.
    """

    session_type: str = setting(
        "SESSION_TYPE",
        "kind",
        lambda given: _session_type(given),
        "null",
        takes="``'null'``, ``'flask-sqlalchemy'`` or ``'sqlalchemy'``",
    )
    """Where sessions are stored.

    ``'flask-sqlalchemy'``, for which ``'sqlalchemy'`` is another name, stores them in a
    SQL database. ``'null'`` stores none: the session is empty, reading it works, and
    writing to it raises a :exc:`~flask_sessionsql.NullSessionError`. Anything else is
    an error that suggests what was probably meant.
    """

    cookie_name: str = setting(
        "SESSION_COOKIE_NAME", "cookie", lambda given: _cookie_name(given), "session"
    )
    """The name of the cookie that holds the session's token.

    It consists of letters, digits and ``!#$%&'*+-.^_`|~`` (RFC 6265, section 4.1.1), at
    most 1024 of them; anything else is an error. It can begin with a prefix (RFC
    6265bis, section 4.1.3): ``__Secure-`` needs :setting:`SESSION_COOKIE_SECURE`, and
    ``__Host-`` needs that, the path ``/`` and no domain. A prefix whose conditions the
    other settings do not meet is an error: browsers would refuse the cookie.
    """

    cookie_domain: str | None = setting(
        "SESSION_COOKIE_DOMAIN",
        "cookie",
        lambda given: _domain(given),
        None,
        meaning="the host that set the cookie, and no other",
    )
    """The domain whose hosts get the cookie. ``False`` means the same as ``None``.

    It is the name of a host, such as ``example.com``; a dot before it or a port behind
    it is left out. What no host is called, such as a name with a space or two dots in a
    row, is an error.
    """

    cookie_path: str = setting(
        "SESSION_COOKIE_PATH",
        "cookie",
        lambda given: _path(given),
        "/",
        unset=lambda config: SETTINGS["APPLICATION_ROOT"].read(config),
        meaning=":setting:`APPLICATION_ROOT`",
    )
    """The path under which the browser sends the cookie. It must begin with ``/``.

    A path with ``;``, ``?``, ``#``, a backslash or control characters is an error,
    because no browser would send the cookie, and so is one of more than 1024 bytes (RFC
    6265bis, section 5.6).
    """

    cookie_httponly: bool = flag("SESSION_COOKIE_HTTPONLY", "cookie", True)
    """Whether the browser hides the cookie from scripts.

    Turned off, a script in a page can read the cookie and send it away (OWASP ASVS 5.0,
    3.3.4).
    """

    cookie_secure: bool = flag("SESSION_COOKIE_SECURE", "cookie", False)
    """Whether the browser sends the cookie over HTTPS only.

    Turn it on where the application is served by HTTPS (OWASP ASVS 5.0, 3.3.1).
    """

    cookie_samesite: str | None = setting(
        "SESSION_COOKIE_SAMESITE",
        "cookie",
        lambda given: _samesite(given),
        None,
        takes="``'Lax'``, ``'Strict'``, ``'None'`` or ``None``",
        meaning="the cookie does not have the attribute",
    )
    """Which requests from other sites the browser sends the cookie with.

    ``'Strict'`` is none, ``'Lax'`` only those that follow a link, and ``'None'``, in
    quotes, all of them (OWASP ASVS 5.0, 3.3.2); anything else is an error. Small and
    capital letters are the same. ``'None'`` without :setting:`SESSION_COOKIE_SECURE` or
    :setting:`SESSION_COOKIE_PARTITIONED` is warned of: browsers refuse such a cookie
    (RFC 6265bis, section 4.1.2.7).
    """

    cookie_partitioned: bool = flag("SESSION_COOKIE_PARTITIONED", "cookie", False)
    """Whether the browser keeps the cookie apart for each top-level site.

    An application that several sites embed then has a session of its own in each of
    them. It implies ``Secure``.
    """

    id_length: int = setting(
        "SESSION_ID_LENGTH",
        "cookie",
        lambda given: _bytes(given, 16, 256),
        32,
        unit="bytes",
    )
    """How many random bytes there are in a token, which the cookie holds.

    Less than 16 is an error, because OWASP ASVS 5.0 (7.2.3) asks for 128 bits. So is
    more than 256: a cookie of name, token and attributes has to stay under the 4096
    bytes that every browser takes (RFC 6265, section 6.1). Tokens of another length
    stay valid when the setting changes.
    """

    lifetime: int = setting(
        "PERMANENT_SESSION_LIFETIME",
        "lifetime",
        lambda given: _lifetime(given),
        31 * 24 * 3600,
        unit="seconds",
        meaning="31 days",
    )
    """How long after its last use a session ends: the idle lifetime.

    It holds in the row as in the cookie (OWASP ASVS 5.0, 7.3.1), and is read when the
    session is saved, so that it can be set in each request. A longer lifetime reaches a
    session that is stored already at its next use, and a shorter one at its next write.
    Zero, less, or more than a hundred years is an error.
    """

    absolute_lifetime: int | None = setting(
        "SESSION_ABSOLUTE_LIFETIME",
        "lifetime",
        lambda given: _lifetime(given),
        None,
        unit="seconds",
        meaning="as long as it is used",
    )
    """How long a session lasts at most, however much it is used.

    The time begins with the session's first write, and anew with a login where nobody
    was logged in (OWASP ASVS 5.0, 7.3.2). It holds for sessions that are stored
    already, too. Zero, less, or more than a hundred years is an error.
    """

    refresh_each_request: bool = flag("SESSION_REFRESH_EACH_REQUEST", "lifetime", True)
    """Whether reading a session counts as use of it, and moves its end.

    Turned off, only a change moves the end of the session.
    """

    refresh_interval: int | None = setting(
        "SESSION_REFRESH_INTERVAL",
        "lifetime",
        lambda given: _seconds(given),
        None,
        unit="seconds",
        meaning="a hundredth of :setting:`PERMANENT_SESSION_LIFETIME`",
    )
    """How far the end of a session may lag behind its use.

    Use moves the end, in the row and in the cookie, at most once in this time. By
    default an idle session ends at most one hundredth early, and reading it hardly ever
    costs a write. ``0`` moves the end in every request. A value that is negative, or
    not less than :setting:`PERMANENT_SESSION_LIFETIME`, is an error. Where the lifetime
    is set to as little as this afterwards, a hundredth of the lifetime takes its place.
    """

    permanent: bool = flag("SESSION_PERMANENT", "lifetime", True)
    """Whether the cookie outlives the browser.

    ``False`` makes it a cookie that ends with the browser; the row expires all the
    same. Applications can decide otherwise for one session, by :attr:`session.permanent
    <flask.sessions.SessionMixin.permanent>`.
    """

    purge_interval: int = setting(
        "SESSION_PURGE_INTERVAL",
        "lifetime",
        lambda given: _pause(given),
        600,
        unit="seconds",
        meaning="ten minutes",
    )
    """How often each process deletes rows that have expired.

    Each time, it looks at up to 100 rows that may have expired and deletes those that
    have, after the response to a request that touched its session. As long as there are
    more, it goes on with the next request. ``0`` turns it off, for sites that run
    ``flask sessions purge``. A negative value is an error.
    """

    user_key: str = setting(
        "SESSION_USER_KEY",
        "users",
        lambda given: _user_key(given),
        "_user_id",
        meaning="where Flask-Login keeps it",
    )
    """The session key that tells who is logged in.

    Its value is copied to the column ``user_id``, and when it changes the session moves
    to a new token (OWASP ASVS 5.0, 7.2.4). When the setting changes, a stored session's
    ``user_id`` follows at its next use. ``'_permanent'`` and the keys that begin with
    ``'_sessionsql_'``, where a session keeps something else, are errors.
    """

    max_per_user: int | None = setting(
        "SESSION_MAX_PER_USER",
        "users",
        lambda given: _count(given),
        None,
        meaning="any number",
    )
    """How many sessions a user may have at once.

    See :setting:`SESSION_MAX_PER_USER_POLICY` for what happens to one more (OWASP ASVS
    5.0, 7.1.2). Less than 1 is an error.
    """

    max_per_user_policy: str = setting(
        "SESSION_MAX_PER_USER_POLICY",
        "users",
        lambda given: _policy(given),
        "end-oldest",
        takes="``'end-oldest'`` or ``'refuse'``",
    )
    """What a login does that exceeds :setting:`SESSION_MAX_PER_USER`.

    ``'end-oldest'``: it ends the user's session that began first. ``'refuse'``: it is
    answered with a :exc:`403 <flask_sessionsql.SessionLimitError>`, and the session
    stays as it was. Anything else is an error.
    """

    record_client: bool = flag("SESSION_RECORD_CLIENT", "row", False)
    """Whether the row holds the IP address and the browser of the last use.

    They let users recognise their sessions in a list. The browser is what the request's
    header ``User-Agent`` says; the address behind a proxy is the proxy's, unless the
    application uses :class:`~werkzeug.middleware.proxy_fix.ProxyFix`.

    Both are personal data in the European Union and elsewhere: turn this on with a
    reason, say so in your privacy notice, and let sessions expire. When it is turned
    off again, what a session's row holds is erased at its next write.
    """

    max_bytes: int = setting(
        "SESSION_MAX_BYTES",
        "row",
        # PostgreSQL, whose limit is the lowest, keeps as much in a column of one row.
        lambda given: _bytes(given, 1, 1024**3),
        1024 * 1024,
        unit="bytes",
        meaning="1 MiB",
    )
    """How large a stored session may be, before encryption.

    A larger one is refused with a :exc:`~flask_sessionsql.SessionTooLargeError` that
    names its largest keys. One that is stored already may stay and shrink. Less than 1
    is an error, and so is more than 1 GiB, which no database keeps in a row.
    """

    encrypt: bool | str = setting(
        "SESSION_ENCRYPT",
        "row",
        lambda given: _encrypt(given),
        False,
        takes="``bool`` or ``'required'``",
    )
    """Whether the data of sessions is encrypted in the database.

    ``True`` encrypts what is written from now on, and reads what is there.
    ``'required'`` takes encrypted rows only. Both need the package ``cryptography``,
    which comes with ``Flask-SessionSql[encryption]``: without it, turning encryption on
    is an error.
    """

    table: str = setting(
        "SESSION_SQLALCHEMY_TABLE",
        "database",
        lambda given: _table_name(given),
        "flask_sessionsql",
    )
    """The name of the table.

    Applications in one database that have different users need a table each: lists of
    sessions, and calls that end them, go by what the column ``user_id`` holds. An empty
    name, one of more than 63 characters (48 bytes, if it is not ASCII), with NUL or
    spaces at its ends, or one that begins with ``sqlite_``, is an error.
    """

    schema: str | None = setting(
        "SESSION_SQLALCHEMY_SCHEMA",
        "database",
        lambda given: _name(given, "schema"),
        None,
        meaning="the schema of the metadata or, without one, of the database",
    )
    """The database schema of the table. What it can be called is as for the table."""

    bind_key: str | None = setting(
        "SESSION_SQLALCHEMY_BIND_KEY",
        "database",
        lambda given: _text(given),
        None,
        meaning=":setting:`SQLALCHEMY_DATABASE_URI`",
    )
    """Which of ``SQLALCHEMY_BINDS`` holds the table.

    A key that is not among the binds is an error.
    """

    create_table: bool = flag("SESSION_CREATE_TABLE", "database", True)
    """Whether the first use creates a missing table. Turn it off if migrations do."""

    database_timeout: int = setting(
        "SESSION_DATABASE_TIMEOUT",
        "database",
        lambda given: _timeout(given),
        10,
        unit="seconds",
    )
    """How long a request waits for a database server that does not answer.

    Then it is answered with a :exc:`503
    <flask_sessionsql.SessionStoreUnavailableError>`. Waiting for a connection of the
    pool, connecting and a second try are included. A command such as ``flask sessions
    stats`` has ten times as long. Which drivers keep to it is on the page
    :doc:`/guides/servers`. Less than a second, or more than an hour, is an error.
    """

    sqlalchemy: SQLAlchemy | None = setting(
        "SESSION_SQLALCHEMY",
        "database",
        lambda given: _sqlalchemy(given),
        None,
        takes=":class:`~flask_sqlalchemy.SQLAlchemy`",
        meaning="the one that the application has, if it has one",
    )
    """The object whose database holds the sessions.

    In an application that has none, the sessions use the settings ``SQLALCHEMY_*`` as
    Flask-SQLAlchemy would. Anything but such an object is an error.
    """

    database_uri: str | sa.URL = setting(
        "SQLALCHEMY_DATABASE_URI",
        "database",
        lambda given: _uri(given),
        DEFAULT_DATABASE_URI,
        takes="``str`` or :class:`~sqlalchemy.engine.URL`",
        meaning="a file in the instance folder",
    )
    """The address of the database.

    It is used where the application has no ``SQLAlchemy`` object. A SQLite file is then
    in WAL mode: see
    :doc:`/guides/sqlite`. An address that SQLAlchemy does not understand, or
    whose driver is not installed, is an error. No message shows it, because it may hold
    a password.
    """

    echo: bool | str = setting(
        "SQLALCHEMY_ECHO",
        "database",
        lambda given: _echo(given),
        False,
        takes="``bool`` or ``'debug'``",
    )
    """Whether each SQL statement is written to the log.

    It is used where the application has no ``SQLAlchemy`` object; one that it has
    decides for itself. The values in a statement are never written, nor are rows, not
    even with ``'debug'``. See also `SQLAlchemy's documentation
    <https://docs.sqlalchemy.org/en/20/core/engines.html>`__.
    """

    adopt: str | None = setting(
        "SESSION_ADOPT",
        "moving",
        lambda given: _adopt(given),
        None,
        takes="``'flask-session'``, ``'cookie'`` or ``None``",
        meaning="no other sessions",
    )
    """Which sessions of the site before are taken over, so that nobody is logged out.

    ``'flask-session'`` takes those in the table of Flask-Session, ``'cookie'`` those in
    the signed cookies of Flask itself, each when its browser comes. See
    :doc:`/guides/moving`.
    Anything else is an error.
    """

    adopt_table: str = setting(
        "SESSION_ADOPT_TABLE", "moving", lambda given: _table_name(given), "sessions"
    )
    """The name of Flask-Session's table, from which sessions are taken over.

    It was the value of ``SESSION_SQLALCHEMY_TABLE`` there, and is in the same database
    and schema as the table of this package. The same name as
    :setting:`SESSION_SQLALCHEMY_TABLE` is an error, and what it can be called is as
    there.
    """

    key_prefix: str = setting(
        "SESSION_KEY_PREFIX", "moving", lambda given: _prefix(given), "session:"
    )
    """What the keys in Flask-Session's table begin with: leave it as it was there.

    Rows with another prefix are left alone. More than 200 characters are an error.
    """

    use_signer: bool = flag("SESSION_USE_SIGNER", "moving", False)
    """Whether Flask-Session signed its cookies: leave it as it was there.

    Tokens of this package need no signature.
    """

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> SessionConfig:
        """Read, check and freeze ``config``, such as :attr:`flask.Flask.config`.

        :raises SessionConfigError: a value cannot work.
        """
        _warn_of_unknown_keys(config)
        for key in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):  # kept by nobody
            SETTINGS[key].read(config)
        settings = {each.name: each.metadata["setting"] for each in fields(cls)}
        result = cls(**{name: each.read(config) for name, each in settings.items()})
        _check_interval(config, result)
        if result.session_type in SQL_TYPES:
            _check_binds(config, result)
            _check_bind(config, result)
            _check_adopted(config, result)
        _check_prefix(result)
        _check_samesite(result)
        return result

    def now(self, config: Mapping[str, Any]) -> SessionConfig:
        """These settings, with Flask's own as ``config`` has them by now.

        :raises SessionConfigError: one of those cannot work.
        """
        read = {name: each.read(config) for name, each in _FLASKS.items()}
        result = replace(self, **read)
        _check_prefix(result)
        return result

    @property
    def lag(self) -> int:
        """How far the end of a session may lag behind its use, in seconds."""
        # A quarter of an hour may lag nine seconds, a month seven hours.
        if self.refresh_interval is None or self.refresh_interval >= self.lifetime:
            return self.lifetime // 100
        return self.refresh_interval


@dataclass(frozen=True)
class OtherSettings:
    """Settings that are not kept: the secrets, which are read in every request, as
    Flask does, and where another setting's default comes from. None is ever made.
    """

    application_root: str = setting(
        "APPLICATION_ROOT", "cookie", lambda given: _path(given), "/"
    )
    """The path under which the application is mounted.

    It is the path of the cookie where :setting:`SESSION_COOKIE_PATH` is not set. It
    must begin with ``/``.
    """

    secret_key: str | bytes | None = setting(
        "SECRET_KEY",
        "secrets",
        lambda given: _secret(given),
        None,
        meaning="no session can be stored",
    )
    """The key under which the database holds hashes of tokens.

    Take something random, such as the output of ``python -c 'import secrets;
    print(secrets.token_hex())'``. ``flask sessions check`` reports a key that has less
    than 32 bytes, or stands in documentation. A new key ends all sessions, unless the
    old one is in :setting:`SECRET_KEY_FALLBACKS`. What is neither text nor bytes, or is
    empty, is an error; no message shows a key.

    It is read in every request, as Flask does. Without it the session is empty, and
    writing to it raises a :exc:`~flask_sessionsql.NullSessionError`.
    """

    secret_key_fallbacks: list[str | bytes] | None = setting(
        "SECRET_KEY_FALLBACKS",
        "secrets",
        lambda given: _secrets(given),
        None,
        takes="a list of ``str`` or ``bytes``",
        meaning="no earlier keys",
    )
    """Earlier keys: sessions that began under them stay valid.

    They are tried in their order, and a session that is found so moves to
    :setting:`SECRET_KEY` at its next write. Where several processes change to a new key
    one after the other, give it to all of them as a fallback first. The keys are read
    in every request, as Flask does; a single key is taken for a list of one. An empty
    key among them, or anything else, is an error.
    """


#: The settings by their keys.
SETTINGS: Mapping[str, Setting] = {
    each.metadata["setting"].key: each.metadata["setting"]
    for each in (*fields(SessionConfig), *fields(OtherSettings))
}

#: Those of Flask's own that are kept, by their attributes.
_FLASKS: Mapping[str, Setting] = {
    each.name: each.metadata["setting"]
    for each in fields(SessionConfig)
    if each.metadata["setting"].owner == "Flask"
}
#: All keys by which they are decided.
FLASK_KEYS: tuple[str, ...] = (
    *(each.key for each in _FLASKS.values()),
    "APPLICATION_ROOT",
)


# One check a kind of value. Each takes what was given, never None.


class _ExpectedError(Exception):
    """What was expected, in words."""


#: What stands under these keys is a secret, holds one, or was taken for one.
_SECRET = {"SECRET_KEY", "SECRET_KEY_FALLBACKS", "SESSION_ENCRYPT"}
_SECRET |= {"SQLALCHEMY_BINDS", "SQLALCHEMY_DATABASE_URI"}


def _wrong(key: str, given: Any, expected: str) -> SessionConfigError:
    what = type(given).__name__ if key in _SECRET else shown(given)
    return SessionConfigError(key, f"expected {expected}; given is {what}.")


def shown(given: Any) -> str:
    """``given`` as a message can show it: its type, if there may be a password in it,
    as in a database address, under whichever key, or in parts of one.
    """
    text = type(given).__name__
    if given is None or isinstance(given, (str, bytes, int, float, timedelta)):
        with suppress(ValueError):  # of a number that is too long to be written
            text = _SHORT.repr(given)
        if _HIDES_PASSWORD.search(text):
            text = type(given).__name__
    return text


_HIDES_PASSWORD = re.compile("://|@|passw|pwd", re.IGNORECASE)
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise _ExpectedError("True or False")
    return given


def _text(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise _ExpectedError("a text that is not empty")
    return given


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode it: it has no surrogates, such as those that stand for
    the bytes in an environment variable that are none.
    """
    return text == text.encode(errors="ignore").decode()


def _can_be_sent(text: str) -> bool:
    """Whether it can be handed to a database or a browser at all."""
    return "\0" not in text and _is_utf8(text)


def _user_key(given: Any) -> str:
    # Where a session keeps things of its own; they do not show among its keys.
    if _text(given) in HIDDEN_KEYS:
        raise _ExpectedError("the session key that tells who is logged in")
    return str(given)


def _domain(given: Any) -> str | None:
    if given is False:  # which Flask once used for "no domain"
        return None
    # As Werkzeug sends it: without a port and a dot at the beginning.
    match = re.fullmatch(r"\.*([^:]{1,253})(:\d*)?", _text(given))
    try:
        sent = match[1].encode("idna").decode() if match else ""
    except UnicodeError:  # of a part that is empty or too long
        sent = ""
    if re.fullmatch(r"(?=.{1,253}$)[\w-]{1,63}(\.[\w-]{1,63})*", sent, re.A):
        return str(given)
    raise _ExpectedError(
        "a domain such as 'example.com': letters, digits, '-' and '.', up to 63 of them"
        " between two dots"
    )


def _path(given: Any) -> str:
    if not isinstance(given, str) or not given.startswith("/"):
        raise _ExpectedError("a path that begins with '/'")
    # The browser compares it with the path that it has asked for, as that was sent.
    fits = _can_be_sent(given) and not re.search(r"[\x00-\x1f\x7f;?#\\]", given)
    if not fits or len(quote(given)) > _LONGEST_PART:
        raise _ExpectedError(
            f"a path that begins with '/', of at most {_LONGEST_PART} characters as it"
            " is sent, without ';', '?', '#', a backslash and control characters"
        )
    return given


#: Bytes of a cookie's attribute: browsers ignore longer ones (RFC 6265bis, section
#: 5.6). With a name as long there is room for the longest token, too.
_LONGEST_PART = 1024


def _cookie_name(given: Any) -> str:
    # RFC 6265, section 4.1.1: a token of HTTP.
    fits = isinstance(given, str) and len(given) <= _LONGEST_PART
    if fits and re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", given, re.A):
        return str(given)
    raise _ExpectedError(
        "a cookie name: letters, digits and !#$%&'*+-.^_`|~, without spaces, at most"
        f" {_LONGEST_PART}"
    )


def _samesite(given: Any) -> str:
    if isinstance(given, str) and given.title() in {"Strict", "Lax", "None"}:
        return given.title()
    raise _ExpectedError("'Lax', 'Strict', 'None' or, for no attribute, None")


#: What Flask-Session has besides SQL.
_FLASK_SESSION_TYPES = (
    *("redis", "memcached", "cachelib", "filesystem", "mongodb", "dynamodb"),
)


def _session_type(given: Any) -> str:
    known = ("null", *SQL_TYPES)
    text = given if isinstance(given, str) else ""
    if text in known:
        return text
    if text.lower() in _FLASK_SESSION_TYPES:
        raise _ExpectedError(
            f"one of {', '.join(map(repr, known))}, because this package keeps sessions"
            " in a SQL database: set 'flask-sqlalchemy', or go on with Flask-Session"
            " for another kind of store. The page 'Moving in' says what becomes of its"
            " sessions"
        )
    close = difflib.get_close_matches(text, known, 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    raise _ExpectedError(f"one of {', '.join(map(repr, known))}{meant}")


def _seconds(given: Any) -> int:
    if isinstance(given, timedelta):
        # Rounded up: half a second is not no time at all.
        whole, rest = divmod(given, timedelta(seconds=1))
        return whole + bool(rest)
    if not isinstance(given, int) or isinstance(given, bool):
        raise _ExpectedError("a timedelta or whole seconds")
    return given


def _lifetime(given: Any) -> int:
    seconds = _seconds(given)
    if not 0 < seconds <= LONGEST_LIFETIME:
        raise _ExpectedError("a timedelta or whole seconds, above 0, at most 100 years")
    return seconds


def _pause(given: Any) -> int:
    seconds = _seconds(given)
    if not 0 <= seconds <= LONGEST_LIFETIME:
        raise _ExpectedError(
            "a timedelta or whole seconds, at most 100 years, or 0 for never"
        )
    return seconds


def _timeout(given: Any) -> int:
    seconds = _seconds(given)
    if not 1 <= seconds <= 3600:
        raise _ExpectedError("a timedelta or whole seconds, 1 to 3600")
    return seconds


def _whole(given: Any, least: int, most: int, expected: str) -> int:
    number = isinstance(given, int) and not isinstance(given, bool)
    if not number or not least <= given <= most:
        raise _ExpectedError(expected)
    return given  # type: ignore[no-any-return]


def _count(given: Any) -> int:
    # No user has more than a table has rows.
    expected = "a whole number, 1 or more, or None for no limit"
    return _whole(given, 1, 2**63 - 1, expected)


def _bytes(given: Any, least: int, most: int) -> int:
    return _whole(given, least, most, f"whole bytes, {least} to {most}")


def _policy(given: Any) -> str:
    if given not in POLICIES:
        raise _ExpectedError(f"one of {', '.join(map(repr, POLICIES))}")
    return str(given)


def _adopt(given: Any) -> str:
    if given not in ADOPTED:
        raise _ExpectedError(f"one of {', '.join(map(repr, ADOPTED))}, or None")
    return str(given)


def _prefix(given: Any) -> str:
    # Flask-Session's column has 255 characters.
    if not isinstance(given, str) or len(given) > 200 or not _can_be_sent(given):
        raise _ExpectedError("a text of at most 200 characters, without NUL")
    return given


def _encrypt(given: Any) -> bool | str:
    if not isinstance(given, bool) and given != "required":
        raise _ExpectedError("True, False or 'required'")
    if given and find_spec("cryptography") is None:
        raise _ExpectedError(
            "the package 'cryptography' to be installed, such as by: pip install"
            ' "Flask-SessionSql[encryption]"'
        )
    return given  # type: ignore[no-any-return]


def _name(given: Any, kind: str) -> str:
    """The name of a table or a schema."""
    # PostgreSQL's limit, in bytes; MariaDB's is one more character.
    if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_NAME:
        raise _ExpectedError(f"a {kind} name of 1 to {_LONGEST_NAME} characters")
    # SQLAlchemy shortens the names of indexes, and takes characters for bytes.
    sound = _can_be_sent(given) and given == given.strip()
    if not sound or not (given.isascii() or len(given.encode()) <= _MOST_BYTES):
        raise _ExpectedError(
            f"a {kind} name without NUL, surrogates and spaces at its ends, of at most"
            f" {_MOST_BYTES} bytes where it is not ASCII"
        )
    return given


_LONGEST_NAME = 63
_MOST_BYTES = _LONGEST_NAME - len("ix__previous_id")


def _table_name(given: Any) -> str:
    if isinstance(given, str) and given.lower().startswith("sqlite_"):
        raise _ExpectedError("a table name that SQLite does not keep for itself")
    return _name(given, "table")


def _secret(given: Any) -> str | bytes:
    is_key = isinstance(given, bytes) or (isinstance(given, str) and _is_utf8(given))
    if not is_key or not given:
        raise _ExpectedError("a random text, which UTF-8 can encode, or random bytes")
    return given  # type: ignore[no-any-return]


def _secrets(given: Any) -> list[str | bytes]:
    if isinstance(given, (str, bytes)):  # one key, where a list belongs
        given = (given,)
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise _ExpectedError("a list of earlier keys, each a text or bytes")
    try:
        return [*map(_secret, given)]
    except _ExpectedError:
        raise _ExpectedError(
            "a list of earlier keys, each a text or bytes, none of them empty"
        ) from None


def _sqlalchemy(given: Any) -> SQLAlchemy:
    if not isinstance(given, SQLAlchemy):
        raise _ExpectedError("a flask_sqlalchemy.SQLAlchemy object")
    return given


def _uri(given: Any) -> str | sa.URL:
    expected = (
        "a database address such as 'sqlite:///app.db',"
        " 'postgresql+psycopg://user:password@host/name' or"
        " 'mysql+pymysql://user:password@host/name'"
    )
    try:
        url = sa.make_url(given)
        parts = (url.username, url.password, url.host, url.database)
        if not all(_can_be_sent(str(part)) for part in parts):
            raise ValueError
        dialect = url.get_dialect()
        if _is_tried(dialect):  # of another, more is said where it is to be used
            dialect.import_dbapi()
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


def _echo(given: Any) -> bool | str:
    if not isinstance(given, bool) and given != "debug":
        raise _ExpectedError("True, False or 'debug'")
    return given  # type: ignore[no-any-return]


# Values that only make sense together.


def check_driver(url: sa.URL, bind_key: str | None) -> None:
    """Refuse what was never tried, and what waits in a way that Flask does not.

    :param url: the address of the database.
    :param bind_key: the bind whose it is.
    :raises SessionConfigError: it is such a one.
    """
    dialect = url.get_dialect()
    if _is_tried(dialect):
        return
    key = "SQLALCHEMY_DATABASE_URI"
    if bind_key is not None:
        key = f"SQLALCHEMY_BINDS[{shown(bind_key)}]"
    tried = [f"'{dialect.name}+{driver}'" for driver in DRIVERS.get(dialect.name, ())]
    expected = f"expected one of the drivers {', '.join(tried)}"
    advice = "Begin the address with one of those."
    if not tried:
        expected = "expected a database of SQLite, PostgreSQL, MariaDB or MySQL"
        advice = (
            "Keep the sessions in a database of their own: add it to SQLALCHEMY_BINDS,"
            " and name it in SESSION_SQLALCHEMY_BIND_KEY."
        )
    kind = "the asynchronous " if dialect.is_async else ""
    given = f"given is {kind}{url.drivername!r}, with which sessions do not work"
    raise SessionConfigError(key, f"{expected}; {given}. {advice}")


def _is_tried(dialect: type[sa.Dialect] | sa.Dialect) -> bool:
    tried = DRIVERS.get(dialect.name, ())
    return dialect.driver in tried and not dialect.is_async


def _check_bind(config: Mapping[str, Any], result: SessionConfig) -> None:
    """What can be said of the database before it is used."""
    given: Any = result.database_uri
    if result.bind_key is not None:
        given = (config.get("SQLALCHEMY_BINDS") or {}).get(result.bind_key)
        given = given.get("url") if isinstance(given, Mapping) else given
    try:
        url = sa.make_url(given)
        url.get_dialect()
    except (sa_exc.ArgumentError, ValueError):
        return  # it is no address, which Flask-SQLAlchemy says
    check_driver(url, result.bind_key)


def _check_adopted(config: Mapping[str, Any], result: SessionConfig) -> None:
    """Flask-Session's table stays the way back, and needs a name of its own."""
    if result.adopt == "flask-session" and result.table == result.adopt_table:
        raise SessionConfigError(
            "SESSION_SQLALCHEMY_TABLE",
            f"expected another table than SESSION_ADOPT_TABLE, {result.adopt_table!r},"
            " which is Flask-Session's. Remove SESSION_SQLALCHEMY_TABLE: the sessions"
            f" are then kept in {SETTINGS['SESSION_SQLALCHEMY_TABLE'].default!r}.",
        )
    if result.adopt == "flask-session":
        return
    for key in ("SESSION_ADOPT_TABLE", "SESSION_KEY_PREFIX", "SESSION_USE_SIGNER"):
        if config.get(key) is not None:
            _warn(
                f"{key} has no effect, because SESSION_ADOPT is not 'flask-session': it"
                " is about sessions of Flask-Session that are taken over. Set"
                " SESSION_ADOPT, or remove the key."
            )


def _check_interval(config: Mapping[str, Any], result: SessionConfig) -> None:
    interval = result.refresh_interval
    if interval is not None and not 0 <= interval < result.lifetime:
        raise _wrong(
            "SESSION_REFRESH_INTERVAL",
            config["SESSION_REFRESH_INTERVAL"],
            f"0 or more, and less than PERMANENT_SESSION_LIFETIME, {result.lifetime} s",
        )


def _check_binds(config: Mapping[str, Any], result: SessionConfig) -> None:
    """What others would say of an address that cannot be read shows it."""
    binds = config.get("SQLALCHEMY_BINDS") or {}
    if not isinstance(binds, Mapping):
        expected = "a dictionary of database addresses"
        raise _wrong("SQLALCHEMY_BINDS", binds, expected)
    for key, value in binds.items():
        url = value.get("url", "sqlite://") if isinstance(value, Mapping) else value
        try:
            sa.make_url(url)
        except (sa_exc.ArgumentError, ValueError):
            expected = f"a database address for {shown(key)}"
            raise _wrong("SQLALCHEMY_BINDS", url, expected) from None
    if result.bind_key is not None and result.bind_key not in binds:
        raise no_bind(result.bind_key, binds)


def no_bind(key: str | None, binds: Iterable[str | None]) -> SessionConfigError:
    """The error of a bind that is not there."""
    known = ", ".join(sorted(map(shown, binds))) or "none"
    return SessionConfigError(
        "SESSION_SQLALCHEMY_BIND_KEY",
        f"expected one of the application's binds ({known}); given is {shown(key)}. Add"
        " it to SQLALCHEMY_BINDS.",
    )


def _is_secure(config: SessionConfig) -> bool:
    return config.cookie_secure or config.cookie_partitioned


def _check_prefix(config: SessionConfig) -> None:
    """What browsers ask of a cookie by its name (RFC 6265bis, section 4.1.3)."""
    name, secure = config.cookie_name, _is_secure(config)
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


def _check_samesite(config: SessionConfig) -> None:
    """As above, by RFC 6265bis, section 4.1.2.7."""
    if config.cookie_samesite == "None" and not _is_secure(config):
        _warn(
            "SESSION_COOKIE_SAMESITE is 'None' and SESSION_COOKIE_SECURE is off:"
            " browsers refuse such a cookie. Set SESSION_COOKIE_SECURE = True."
        )


# Keys that mean nothing here.

_KNOWN = sorted(key for key in SETTINGS if key.startswith("SESSION_"))

#: Read by others, so nothing is said of them.
_OTHERS = {"SESSION_PROTECTION"}  # Flask-Login

#: Where Flask-Session can keep sessions, by the beginnings of its keys.
_NOT_SQL = {
    "REDIS": "Redis",
    "MEMCACHED": "Memcached",
    "CACHELIB": "CacheLib",
    "FILE": "files",
    "MONGODB": "MongoDB",
    "DYNAMODB": "DynamoDB",
}
_NOT_SQL_KEYS = (
    *("REDIS", "MEMCACHED", "CACHELIB", "FILE_DIR", "FILE_THRESHOLD", "FILE_MODE"),
    *("MONGODB", "MONGODB_DB", "MONGODB_COLLECT", "DYNAMODB", "DYNAMODB_TABLE"),
)
#: Keys of Flask-Session, and what to do instead.
_FOREIGN = {
    "SESSION_CLEANUP_N_REQUESTS": "set SESSION_PURGE_INTERVAL, in seconds",
    "SESSION_SERIALIZATION_FORMAT": "there is one format, and both of Flask-Session's"
    " are read where its sessions are taken over (SESSION_ADOPT); remove the key",
    "SESSION_SQLALCHEMY_SEQUENCE": "the table has no sequence; remove the key",
} | {
    f"SESSION_{key}": f"sessions are kept in SQL, and not in"
    f" {_NOT_SQL[key.partition('_')[0]]}; remove the key"
    for key in _NOT_SQL_KEYS
}


def _warn_of_unknown_keys(config: Mapping[str, Any]) -> None:
    for key in sorted(str(key) for key in config):
        if not key.startswith("SESSION_") or key in _KNOWN or key in _OTHERS:
            continue
        close = difflib.get_close_matches(key, _KNOWN, 1, 0.8)
        if key in _FOREIGN:
            advice = f"{_FOREIGN[key]}."
        elif close:
            advice = f"Did you mean {close[0]}?"
        else:
            advice = f"The keys it knows are {', '.join(_KNOWN)}."
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
