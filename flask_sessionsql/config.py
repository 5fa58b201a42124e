"""The settings, each declared once.

A field of :class:`SessionConfig` declares a setting: the field's type is the setting's,
``setting()`` gives the rest, and the text below says what the setting does, in a first
paragraph of one sentence or two. :meth:`SessionConfig.from_mapping`, the warning about
misspelt keys and the page :doc:`/reference/settings` are made from these declarations.
``OtherSettings`` declares the settings whose values are not kept, in the same way.
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

#: Where sessions are stored if neither an address nor a ``SQLAlchemy`` object is given:
#: a file in the application's instance folder.
DEFAULT_DATABASE_URI = "sqlite:///sessions.db"

#: The databases and drivers that are tested, by SQLAlchemy's names: see
#: :doc:`/guides/servers`.
DRIVERS: dict[str, tuple[str, ...]] = {
    "sqlite": ("pysqlite", "pysqlcipher"),
    "postgresql": ("psycopg", "psycopg2", "pg8000"),
    "mysql": ("pymysql", "mysqldb", "mariadbconnector"),
}
DRIVERS["mariadb"] = DRIVERS["mysql"]

#: The groups of settings. The page has a section for each.
Group = Literal[
    "kind", "cookie", "lifetime", "users", "row", "database", "moving", "secrets"
]
#: Returns a default that depends on other settings.
Unset = Callable[[Mapping[str, Any]], Any]

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting, apart from its type and its text."""

    key: str
    group: Group
    check: Callable[[Any], Any]
    """Takes the given value, never ``None``, and returns the value to keep."""
    default: Any
    """The value to keep if none is given."""
    unit: str = ""
    takes: str = ""
    """What can be given, in words, if the type of the kept value does not say it."""
    meaning: str = ""
    """What the default means, in words."""
    unset: Unset | None = None
    """Returns the default, if other settings decide it."""

    @property
    def owner(self) -> str:
        """The package that the setting belongs to."""
        if self.key in Flask.default_config:
            return "Flask"
        ours = not self.key.startswith("SQLALCHEMY_")
        return "Flask-SessionSql" if ours else "Flask-SQLAlchemy"

    def read(self, config: Mapping[str, Any]) -> Any:
        """The value in ``config``, checked; the default if it is ``None`` or missing.

        :raises SessionConfigError: the value is wrong.
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
    """A field that declares a setting which is ``True`` or ``False``."""
    return setting(key, group, lambda given: _flag(given), default)


# The checks are lambdas because the functions that they call are defined below.


@dataclass(frozen=True)
class SessionConfig:
    """The settings of one application's sessions.

    They are read and checked once and cannot be changed afterwards. Flask's own
    settings can: here they have the values that were read first, and :meth:`now`
    returns the current ones. Times are in whole seconds, sizes in bytes.
    """

    session_type: str = setting(
        "SESSION_TYPE",
        "kind",
        lambda given: _session_type(given),
        "null",
        takes="``'null'``, ``'flask-sqlalchemy'`` or ``'sqlalchemy'``",
    )
    """Where sessions are stored.

    - ``'flask-sqlalchemy'``, or ``'sqlalchemy'``, which means the same: in a SQL
      database.
    - ``'null'``: nowhere. The session is empty: reading it works, and writing to it
      raises a :exc:`~flask_sessionsql.NullSessionError`.

    Anything else is an error that suggests what you probably meant. Every application
    that uses sessions sets this to ``'flask-sqlalchemy'``.
    """

    cookie_name: str = setting(
        "SESSION_COOKIE_NAME", "cookie", lambda given: _cookie_name(given), "session"
    )
    """The name of the cookie that holds the session's token.

    It consists of letters, digits and ``!#$%&'*+-.^_`|~`` (RFC 6265, section 4.1.1), at
    most 1024 of them; anything else is an error. It can begin with one of two prefixes
    that browsers check (RFC 6265bis, section 4.1.3): ``__Secure-`` needs
    :setting:`SESSION_COOKIE_SECURE`, and ``__Host-`` needs that, the path ``/`` and no
    domain. Without those settings the prefix is an error, because browsers would refuse
    the cookie.

    Change it to use a prefix, or where several applications on one host would overwrite
    each other's cookies.
    """

    cookie_domain: str | None = setting(
        "SESSION_COOKIE_DOMAIN",
        "cookie",
        lambda given: _domain(given),
        None,
        meaning="the host that set the cookie, and no other",
    )
    """The domain whose hosts get the cookie. ``False`` means the same as ``None``.

    It is the name of a host, such as ``example.com``. A dot before it and a port after
    it are ignored. A name that no host can have, such as one with a space or with two
    dots in a row, is an error.

    Set it only if subdomains such as ``shop.example.com`` and ``blog.example.com``
    share a session: then all of them get the token.
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
    because no browser would send the cookie. So is a path of more than 1024 bytes (RFC
    6265bis, section 5.6).

    Set it where several applications share a host under different paths and
    :setting:`APPLICATION_ROOT` is not right for the cookie.
    """

    cookie_httponly: bool = flag("SESSION_COOKIE_HTTPONLY", "cookie", True)
    """Whether the browser hides the cookie from scripts.

    Leave it on: otherwise a script in a page can read the token and send it away (OWASP
    ASVS 5.0, 3.3.4).
    """

    cookie_secure: bool = flag("SESSION_COOKIE_SECURE", "cookie", False)
    """Whether the browser sends the cookie over HTTPS only.

    Turn it on wherever the application is served over HTTPS (OWASP ASVS 5.0, 3.3.1).
    """

    cookie_samesite: str | None = setting(
        "SESSION_COOKIE_SAMESITE",
        "cookie",
        lambda given: _samesite(given),
        None,
        takes="``'Lax'``, ``'Strict'``, ``'None'`` or ``None``",
        meaning="the cookie does not have the attribute",
    )
    """Which requests from other sites carry the cookie.

    - ``'Strict'``: none.
    - ``'Lax'``: only those that follow a link.
    - ``'None'``, in quotes: all of them.

    Anything else is an error; upper and lower case are the same. Set ``'Lax'``, or
    ``'Strict'`` where no other site links into the application (OWASP ASVS 5.0, 3.3.2).
    ``'None'`` needs :setting:`SESSION_COOKIE_SECURE` or
    :setting:`SESSION_COOKIE_PARTITIONED`: without either, you get a warning, because
    browsers refuse such a cookie (RFC 6265bis, section 4.1.2.7).
    """

    cookie_partitioned: bool = flag("SESSION_COOKIE_PARTITIONED", "cookie", False)
    """Whether the browser keeps a separate cookie for each top-level site.

    Turn it on for an application that other sites embed in a frame: it then has a
    session of its own in each of them. It implies ``Secure``.
    """

    id_length: int = setting(
        "SESSION_ID_LENGTH",
        "cookie",
        lambda given: _bytes(given, 16, 256),
        32,
        unit="bytes",
    )
    """How many random bytes a token has.

    Less than 16 is an error, because OWASP ASVS 5.0 (7.2.3) asks for 128 bits. More
    than 256 is an error too: name, token and attributes of a cookie have to fit into
    the 4096 bytes that every browser accepts (RFC 6265, section 6.1).

    You will rarely need to change it. Tokens of another length stay valid when you do.
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

    It applies to the row and to the cookie (OWASP ASVS 5.0, 7.3.1). Zero, a negative
    value, or more than a hundred years is an error.

    Set it to how long somebody may leave the browser alone and still be logged in. It
    is read when a session is saved, so each request can set it. A session that is
    already stored gets a longer lifetime at its next use, and a shorter one at its next
    write.
    """

    absolute_lifetime: int | None = setting(
        "SESSION_ABSOLUTE_LIFETIME",
        "lifetime",
        lambda given: _lifetime(given),
        None,
        unit="seconds",
        meaning="as long as it is used",
    )
    """How long a session lasts at most, even if it is used all the time.

    The time begins when the session is first written, and again when somebody logs in
    (OWASP ASVS 5.0, 7.3.2). Zero, a negative value, or more than a hundred years is an
    error.

    Set it where users must log in again from time to time. It applies to sessions that
    are already stored, too.
    """

    refresh_each_request: bool = flag("SESSION_REFRESH_EACH_REQUEST", "lifetime", True)
    """Whether reading a session counts as use and moves its end.

    Turn it off if only a change is to keep the session alive.
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
    default an idle session ends at most one hundredth of its lifetime early, and
    reading it hardly ever costs a write. ``0`` moves the end in every request. A
    negative value, or one that is not less than :setting:`PERMANENT_SESSION_LIFETIME`,
    is an error.

    Set it lower where sessions must end to the minute, higher to write less. If a
    request sets a lifetime that is not longer than the interval, a hundredth of that
    lifetime applies instead.
    """

    permanent: bool = flag("SESSION_PERMANENT", "lifetime", True)
    """Whether the cookie survives when the browser is closed.

    With ``False`` the browser deletes the cookie when it closes. The row expires as
    before. An application can decide for a single session with
    :attr:`session.permanent <flask.sessions.SessionMixin.permanent>`.
    """

    purge_interval: int = setting(
        "SESSION_PURGE_INTERVAL",
        "lifetime",
        lambda given: _pause(given),
        600,
        unit="seconds",
        meaning="ten minutes",
    )
    """How often each process deletes expired rows.

    Each time, after the response to a request that used its session, the process looks
    at up to 100 rows that may have expired and deletes those that have. If there are
    more, it continues with the next request. ``0`` turns this off; a negative value is
    an error.

    Set ``0`` if you run ``flask sessions purge`` from a timer.
    """

    user_key: str = setting(
        "SESSION_USER_KEY",
        "users",
        lambda given: _user_key(given),
        "_user_id",
        meaning="where Flask-Login keeps it",
    )
    """The session key that says who is logged in.

    Its value is copied to the column ``user_id``. When it changes, the session moves to
    a new token (OWASP ASVS 5.0, 7.2.4). ``'_permanent'`` and keys that begin with
    ``'_sessionsql_'`` are errors, because a session keeps something else there.

    Set it if your application stores its user under another key, such as ``'user_id'``.
    A session that is already stored gets its ``user_id`` at its next use.
    """

    max_per_user: int | None = setting(
        "SESSION_MAX_PER_USER",
        "users",
        lambda given: _count(given),
        None,
        meaning="any number",
    )
    """How many sessions a user may have at once.

    Less than 1 is an error. :setting:`SESSION_MAX_PER_USER_POLICY` says what happens
    at one login too many (OWASP ASVS 5.0, 7.1.2).
    """

    max_per_user_policy: str = setting(
        "SESSION_MAX_PER_USER_POLICY",
        "users",
        lambda given: _policy(given),
        "end-oldest",
        takes="``'end-oldest'`` or ``'refuse'``",
    )
    """What happens at a login beyond :setting:`SESSION_MAX_PER_USER`.

    - ``'end-oldest'``: the user's session that began first is ended.
    - ``'refuse'``: the login gets a :exc:`403 <flask_sessionsql.SessionLimitError>`,
      and the session stays as it was.

    Anything else is an error.
    """

    record_client: bool = flag("SESSION_RECORD_CLIENT", "row", False)
    """Whether the row holds the IP address and the browser of the last use.

    Turn it on to help users recognize their sessions in a list. The browser is what the
    ``User-Agent`` header says. Behind a proxy the address is the proxy's, unless the
    application uses :class:`~werkzeug.middleware.proxy_fix.ProxyFix`.

    Both are personal data in the European Union and elsewhere: have a reason, mention
    it in your privacy notice, and let sessions expire. After you turn it off, the next
    write of a session erases what its row holds.
    """

    max_bytes: int = setting(
        "SESSION_MAX_BYTES",
        "row",
        # The most that a column of PostgreSQL holds, whose limit is the lowest.
        lambda given: _bytes(given, 1, 1024**3),
        1024 * 1024,
        unit="bytes",
        meaning="1 MiB",
    )
    """How large a stored session may be, before encryption.

    A larger one is refused with a :exc:`~flask_sessionsql.SessionTooLargeError` that
    names its largest keys. A session that is already stored and too large may stay, and
    may shrink. Less than 1 is an error, and so is more than 1 GiB, which no database
    keeps in a row.

    Lower it to find out early when something large gets into a session.
    """

    encrypt: bool | str = setting(
        "SESSION_ENCRYPT",
        "row",
        lambda given: _encrypt(given),
        False,
        takes="``bool`` or ``'required'``",
    )
    """Whether session data are encrypted in the database.

    - ``False``: no.
    - ``True``: what is written from now on is encrypted, and unencrypted rows can still
      be read.
    - ``'required'``: unencrypted rows are not accepted.

    Encryption needs the package ``cryptography``, which ``pip install
    "Flask-SessionSql[encryption]"`` brings along; without it, both values are errors.
    Turn it on if people with access to the database or its backups must not read
    sessions.
    """

    table: str = setting(
        "SESSION_SQLALCHEMY_TABLE",
        "database",
        lambda given: _table_name(given),
        "flask_sessionsql",
    )
    """The name of the table.

    It has 1 to 63 characters, or at most 48 bytes if it is not ASCII, without NUL and
    without spaces at its ends. It must not begin with ``sqlite_``. Anything else is an
    error.

    Set it where two applications with different users share a database: each needs its
    own table, because lists of sessions and calls that revoke them find sessions by
    ``user_id``.
    """

    schema: str | None = setting(
        "SESSION_SQLALCHEMY_SCHEMA",
        "database",
        lambda given: _name(given, "schema"),
        None,
        meaning="the schema of the metadata, or else of the database",
    )
    """The database schema of the table.

    The rules for a name are those of :setting:`SESSION_SQLALCHEMY_TABLE`.
    """

    bind_key: str | None = setting(
        "SESSION_SQLALCHEMY_BIND_KEY",
        "database",
        lambda given: _text(given),
        None,
        meaning=":setting:`SQLALCHEMY_DATABASE_URI`",
    )
    """Which of ``SQLALCHEMY_BINDS`` holds the table.

    Set it to keep sessions in a database of their own. A key that is not in
    ``SQLALCHEMY_BINDS`` is an error.
    """

    create_table: bool = flag("SESSION_CREATE_TABLE", "database", True)
    """Whether the first use creates the table if it is missing.

    Turn it off if migrations create it.
    """

    database_timeout: int = setting(
        "SESSION_DATABASE_TIMEOUT",
        "database",
        lambda given: _timeout(given),
        10,
        unit="seconds",
    )
    """How long a request waits for a database server that does not answer.

    After that, the response is a :exc:`503
    <flask_sessionsql.SessionStoreUnavailableError>`. The time includes waiting for a
    connection of the pool, connecting, and a second try. A command such as ``flask
    sessions stats`` waits ten times as long. Less than a second, or more than an hour,
    is an error.

    Set it below the time-out of the proxy in front of the application. Some drivers
    cannot keep to it: see :doc:`/guides/servers`.
    """

    sqlalchemy: SQLAlchemy | None = setting(
        "SESSION_SQLALCHEMY",
        "database",
        lambda given: _sqlalchemy(given),
        None,
        takes=":class:`~flask_sqlalchemy.SQLAlchemy`",
        meaning="the application's own, if it has one",
    )
    """The ``SQLAlchemy`` object whose database holds the sessions.

    There is hardly a reason to set it: sessions find the object that the application
    has, and in an application that has none they use the settings ``SQLALCHEMY_*`` as
    Flask-SQLAlchemy would. Anything other than such an object is an error.
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

    An address that SQLAlchemy does not understand, or whose driver is not installed, is
    an error. No message shows the address, because it may hold a password.

    This package reads the setting itself if the application has no ``SQLAlchemy``
    object. A SQLite file is then in WAL mode: see :doc:`/guides/sqlite`.
    """

    echo: bool | str = setting(
        "SQLALCHEMY_ECHO",
        "database",
        lambda given: _echo(given),
        False,
        takes="``bool`` or ``'debug'``",
    )
    """Whether each SQL statement is written to the log.

    Turn it on while you look for a problem. It has an effect where the application has
    no ``SQLAlchemy`` object; an object that it has decides for itself. The values in a
    statement and the rows are never logged, not even with ``'debug'``. See also
    `SQLAlchemy's documentation
    <https://docs.sqlalchemy.org/en/20/core/engines.html>`__.
    """

    adopt: str | None = setting(
        "SESSION_ADOPT",
        "moving",
        lambda given: _adopt(given),
        None,
        takes="``'flask-session'``, ``'cookie'`` or ``None``",
        meaning="no sessions are adopted",
    )
    """Which existing sessions are adopted, so that nobody is logged out.

    - ``'flask-session'``: those in Flask-Session's table.
    - ``'cookie'``: those in Flask's own signed cookies.

    Each session is adopted when its browser comes. Anything else is an error. Set it
    when you move to this package: see :doc:`/guides/moving`.
    """

    adopt_table: str = setting(
        "SESSION_ADOPT_TABLE", "moving", lambda given: _table_name(given), "sessions"
    )
    """The name of Flask-Session's table, from which sessions are adopted.

    Set it to what ``SESSION_SQLALCHEMY_TABLE`` was in Flask-Session. The table is in
    the same database and schema as the table of this package. The rules for the name
    are those of :setting:`SESSION_SQLALCHEMY_TABLE`, and the same name as there is an
    error.
    """

    key_prefix: str = setting(
        "SESSION_KEY_PREFIX", "moving", lambda given: _prefix(given), "session:"
    )
    """What the keys in Flask-Session's table begin with.

    Leave the setting as it was for Flask-Session. Rows with another prefix are not
    adopted. More than 200 characters are an error.
    """

    use_signer: bool = flag("SESSION_USE_SIGNER", "moving", False)
    """Whether Flask-Session signed its cookies.

    Leave the setting as it was for Flask-Session. The tokens of this package need no
    signature.
    """

    @classmethod
    def from_mapping(cls, config: Mapping[str, Any]) -> SessionConfig:
        """Read, check and freeze ``config``, such as :attr:`flask.Flask.config`.

        :raises SessionConfigError: a value is wrong.
        """
        _warn_of_unknown_keys(config)
        for key in ("SECRET_KEY", "SECRET_KEY_FALLBACKS"):  # not kept
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
        """These settings, with the current values of Flask's own in ``config``.

        :raises SessionConfigError: one of Flask's settings has a wrong value.
        """
        read = {name: each.read(config) for name, each in _FLASKS.items()}
        result = replace(self, **read)
        _check_prefix(result)
        return result

    @property
    def lag(self) -> int:
        """How far the end of a session may lag behind its use, in seconds."""
        # Nine seconds for a lifetime of 15 minutes, seven hours for one of a month.
        if self.refresh_interval is None or self.refresh_interval >= self.lifetime:
            return self.lifetime // 100
        return self.refresh_interval


@dataclass(frozen=True)
class OtherSettings:
    """Settings whose values are not kept: the secrets, which are read in every request,
    as Flask does, and one that only gives another setting its default. The class is
    never instantiated.
    """

    application_root: str = setting(
        "APPLICATION_ROOT", "cookie", lambda given: _path(given), "/"
    )
    """The path under which the application is mounted.

    The cookie gets this path if :setting:`SESSION_COOKIE_PATH` is not set. It must
    begin with ``/``.
    """

    secret_key: str | bytes | None = setting(
        "SECRET_KEY",
        "secrets",
        lambda given: _secret(given),
        None,
        meaning="no session can be stored",
    )
    """The key with which tokens are hashed for the database.

    Set it to something random: ``python -c 'import secrets;
    print(secrets.token_hex())'`` prints a good one. ``flask sessions check`` reports a
    key that has fewer than 32 bytes or is printed in documentation. Anything that is
    neither text nor bytes, or is empty, is an error. No message shows a key.

    A new key ends all sessions, unless the old one is in
    :setting:`SECRET_KEY_FALLBACKS`. Without a key the session is empty, and writing to
    it raises a :exc:`~flask_sessionsql.NullSessionError`. The key is read in every
    request, as Flask does.
    """

    secret_key_fallbacks: list[str | bytes] | None = setting(
        "SECRET_KEY_FALLBACKS",
        "secrets",
        lambda given: _secrets(given),
        None,
        takes="a list of ``str`` or ``bytes``",
        meaning="no earlier keys",
    )
    """Earlier secret keys, whose sessions stay valid.

    They are tried in their order. A session that is found with one of them moves to
    :setting:`SECRET_KEY` at its next write. A single key counts as a list of one. An
    empty key in the list, or anything else, is an error.

    Set it when you rotate the key: see :doc:`/guides/secret-key`. If several processes
    get the new key one after the other, first add it to the fallbacks of all of them.
    The keys are read in every request, as Flask does.
    """


#: The settings by their keys.
SETTINGS: Mapping[str, Setting] = {
    each.metadata["setting"].key: each.metadata["setting"]
    for each in (*fields(SessionConfig), *fields(OtherSettings))
}

#: Flask's own settings that are kept, by attribute.
_FLASKS: Mapping[str, Setting] = {
    each.name: each.metadata["setting"]
    for each in fields(SessionConfig)
    if each.metadata["setting"].owner == "Flask"
}
#: All keys that decide their values.
FLASK_KEYS: tuple[str, ...] = (
    *(each.key for each in _FLASKS.values()),
    "APPLICATION_ROOT",
)


# One check for each kind of value. Each takes the given value, never None.


class _ExpectedError(Exception):
    """What was expected, in words."""


#: Values of these keys are secrets, hold one, or may be one by mistake.
_SECRET = {"SECRET_KEY", "SECRET_KEY_FALLBACKS", "SESSION_ENCRYPT"}
_SECRET |= {"SQLALCHEMY_BINDS", "SQLALCHEMY_DATABASE_URI"}


def _wrong(key: str, given: Any, expected: str) -> SessionConfigError:
    what = type(given).__name__ if key in _SECRET else shown(given)
    return SessionConfigError(key, f"expected {expected}; got {what}.")


def shown(given: Any) -> str:
    """``given`` as a message can show it: only its type if it may hold a password, as a
    database address or a part of one does.
    """
    text = type(given).__name__
    if given is None or isinstance(given, (str, bytes, int, float, timedelta)):
        with suppress(ValueError):  # a number with too many digits to print
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
        raise _ExpectedError("a non-empty string")
    return given


def _is_utf8(text: str) -> bool:
    """Whether UTF-8 can encode it: it has no surrogates, which are how Python shows
    undecodable bytes of an environment variable.
    """
    return text == text.encode(errors="ignore").decode()


def _can_be_sent(text: str) -> bool:
    """Whether a database or a browser can take it."""
    return "\0" not in text and _is_utf8(text)


def _user_key(given: Any) -> str:
    # Where a session keeps its own entries, which do not appear among its keys.
    if _text(given) in HIDDEN_KEYS:
        raise _ExpectedError(
            "a session key of the application's, such as '_user_id'; this package uses"
            " that one itself"
        )
    return str(given)


def _domain(given: Any) -> str | None:
    if given is False:  # which Flask once used for "no domain"
        return None
    # As Werkzeug sends it: without a port and a dot at the beginning.
    match = re.fullmatch(r"\.*([^:]{1,253})(:\d*)?", _text(given))
    try:
        sent = match[1].encode("idna").decode() if match else ""
    except UnicodeError:  # a part is empty or too long
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
    # Browsers compare it with the path of the request, in its encoded form.
    fits = _can_be_sent(given) and not re.search(r"[\x00-\x1f\x7f;?#\\]", given)
    if not fits or len(quote(given)) > _LONGEST_PART:
        raise _ExpectedError(
            f"a path that begins with '/', of at most {_LONGEST_PART} characters when"
            " encoded, without ';', '?', '#', backslashes and control characters"
        )
    return given


#: Bytes of a cookie's attribute: browsers ignore longer ones (RFC 6265bis, section
#: 5.6). A name of that length still leaves room for the longest token.
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


#: The other stores that Flask-Session has.
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
            f"one of {', '.join(map(repr, known))}, because this package stores"
            " sessions in a SQL database: set 'flask-sqlalchemy', or stay with"
            " Flask-Session for another kind of store. The page 'Moving in' says what"
            " happens to its sessions"
        )
    close = difflib.get_close_matches(text, known, 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    raise _ExpectedError(f"one of {', '.join(map(repr, known))}{meant}")


def _seconds(given: Any) -> int:
    if isinstance(given, timedelta):
        # Rounded up, so that half a second does not become 0.
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
    # No table has more rows.
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
        raise _ExpectedError("a string of at most 200 characters, without NUL")
    return given


def _encrypt(given: Any) -> bool | str:
    if not isinstance(given, bool) and given != "required":
        raise _ExpectedError("True, False or 'required'")
    if given and find_spec("cryptography") is None:
        raise _ExpectedError(
            "the package 'cryptography' to be installed: run pip install"
            ' "Flask-SessionSql[encryption]"'
        )
    return given  # type: ignore[no-any-return]


def _name(given: Any, kind: str) -> str:
    """Check the name of a table or a schema."""
    # PostgreSQL's limit, in bytes; MariaDB allows 64 characters.
    if not isinstance(given, str) or not 0 < len(given) <= _LONGEST_NAME:
        raise _ExpectedError(f"a {kind} name of 1 to {_LONGEST_NAME} characters")
    # SQLAlchemy shortens names of indexes, but counts characters instead of bytes.
    sound = _can_be_sent(given) and given == given.strip()
    if not sound or not (given.isascii() or len(given.encode()) <= _MOST_BYTES):
        raise _ExpectedError(
            f"a {kind} name without NUL, surrogates and spaces at its ends, of at most"
            f" {_MOST_BYTES} bytes if it is not ASCII"
        )
    return given


_LONGEST_NAME = 63
_MOST_BYTES = _LONGEST_NAME - len("ix__previous_id")


def _table_name(given: Any) -> str:
    if isinstance(given, str) and given.lower().startswith("sqlite_"):
        raise _ExpectedError(
            "a table name that does not begin with 'sqlite_', which SQLite reserves"
        )
    return _name(given, "table")


def _secret(given: Any) -> str | bytes:
    is_key = isinstance(given, bytes) or (isinstance(given, str) and _is_utf8(given))
    if not is_key or not given:
        raise _ExpectedError("a random string that UTF-8 can encode, or random bytes")
    return given  # type: ignore[no-any-return]


def _secrets(given: Any) -> list[str | bytes]:
    if isinstance(given, (str, bytes)):  # one key instead of a list
        given = (given,)
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise _ExpectedError("a list of earlier keys, each a string or bytes")
    try:
        return [*map(_secret, given)]
    except _ExpectedError:
        raise _ExpectedError(
            "a list of earlier keys, each a string or bytes, none of them empty"
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
        if _is_tried(dialect):  # check_driver() reports any other
            dialect.import_dbapi()
    except sa_exc.NoSuchModuleError:
        raise _ExpectedError(
            f"{expected}; SQLAlchemy knows no {url.drivername!r}"
        ) from None
    except (sa_exc.ArgumentError, ValueError):  # ValueError: a bad port, for example
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


# Values that have to fit together.


def check_driver(url: sa.URL, bind_key: str | None) -> None:
    """Refuse a driver that is not tested, or that is asynchronous, which Flask is not.

    :param url: the address of the database.
    :param bind_key: the key of its bind.
    :raises SessionConfigError: the driver is refused.
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
            "Store the sessions in another database: add it to SQLALCHEMY_BINDS, and"
            " name it in SESSION_SQLALCHEMY_BIND_KEY."
        )
    kind = "the asynchronous " if dialect.is_async else ""
    given = f"got {kind}{url.drivername!r}, with which sessions do not work"
    raise SessionConfigError(key, f"{expected}; {given}. {advice}")


def _is_tried(dialect: type[sa.Dialect] | sa.Dialect) -> bool:
    tried = DRIVERS.get(dialect.name, ())
    return dialect.driver in tried and not dialect.is_async


def _check_bind(config: Mapping[str, Any], result: SessionConfig) -> None:
    """Check the driver before the database is used."""
    given: Any = result.database_uri
    if result.bind_key is not None:
        given = (config.get("SQLALCHEMY_BINDS") or {}).get(result.bind_key)
        given = given.get("url") if isinstance(given, Mapping) else given
    try:
        url = sa.make_url(given)
        url.get_dialect()
    except (sa_exc.ArgumentError, ValueError):
        return  # not an address: Flask-SQLAlchemy reports it
    check_driver(url, result.bind_key)


def _check_adopted(config: Mapping[str, Any], result: SessionConfig) -> None:
    """Refuse to use Flask-Session's table, which stays as it is for a way back."""
    if result.adopt == "flask-session" and result.table == result.adopt_table:
        raise SessionConfigError(
            "SESSION_SQLALCHEMY_TABLE",
            f"expected another table than SESSION_ADOPT_TABLE, {result.adopt_table!r},"
            " which is Flask-Session's. Remove SESSION_SQLALCHEMY_TABLE: the sessions"
            f" are then stored in {SETTINGS['SESSION_SQLALCHEMY_TABLE'].default!r}.",
        )
    if result.adopt == "flask-session":
        return
    for key in ("SESSION_ADOPT_TABLE", "SESSION_KEY_PREFIX", "SESSION_USE_SIGNER"):
        if config.get(key) is not None:
            _warn(
                f"{key} has no effect, because SESSION_ADOPT is not 'flask-session': it"
                " is about adopting sessions of Flask-Session. Set SESSION_ADOPT, or"
                " remove the key."
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
    """Report a bad address here, because the error of others would show it."""
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
    """The error for a bind that is missing."""
    known = ", ".join(sorted(map(shown, binds))) or "none"
    return SessionConfigError(
        "SESSION_SQLALCHEMY_BIND_KEY",
        f"expected one of the application's binds ({known}); got {shown(key)}. Add"
        " it to SQLALCHEMY_BINDS.",
    )


def _is_secure(config: SessionConfig) -> bool:
    return config.cookie_secure or config.cookie_partitioned


def _check_prefix(config: SessionConfig) -> None:
    """Check what browsers require of a cookie with a prefix (RFC 6265bis, section
    4.1.3).
    """
    name, secure = config.cookie_name, _is_secure(config)
    prefix = name.lower()  # browsers ignore case here
    if prefix.startswith("__secure-") and not secure:
        raise SessionConfigError(
            "SESSION_COOKIE_NAME",
            f"{name!r} begins with '__Secure-', which browsers accept only for a secure"
            " cookie. Set SESSION_COOKIE_SECURE = True, or choose another name.",
        )
    if prefix.startswith("__host-") and (
        not secure or config.cookie_domain or config.cookie_path != "/"
    ):
        raise SessionConfigError(
            "SESSION_COOKIE_NAME",
            f"{name!r} begins with '__Host-', which browsers accept only for a secure"
            " cookie without a domain for the path '/'. Set SESSION_COOKIE_SECURE ="
            " True, SESSION_COOKIE_PATH = '/' and no SESSION_COOKIE_DOMAIN, or choose"
            " another name.",
        )


def _check_samesite(config: SessionConfig) -> None:
    """Warn of a cookie that browsers refuse (RFC 6265bis, section 4.1.2.7)."""
    if config.cookie_samesite == "None" and not _is_secure(config):
        _warn(
            "SESSION_COOKIE_SAMESITE is 'None' and SESSION_COOKIE_SECURE is off:"
            " browsers refuse such a cookie. Set SESSION_COOKIE_SECURE = True."
        )


# Keys that have no meaning here.

_KNOWN = sorted(key for key in SETTINGS if key.startswith("SESSION_"))

#: Keys that other packages read: no warning for these.
_OTHERS = {"SESSION_PROTECTION"}  # Flask-Login

#: The stores of Flask-Session, by the first word of their keys.
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
    " are read when its sessions are adopted (SESSION_ADOPT); remove the key",
    "SESSION_SQLALCHEMY_SEQUENCE": "the table has no sequence; remove the key",
} | {
    f"SESSION_{key}": f"sessions are stored in SQL, and not in"
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
            advice = f"It knows {', '.join(_KNOWN)}."
        _warn(f"Flask-SessionSql does not know the key {key}: {advice}")


def _warn(message: str) -> None:
    # The warning points at the application's line: Session(app) or init_app(app).
    package = __name__.partition(".")[0]
    frame, level = sys._getframe(), 1
    while (
        frame.f_back
        and frame.f_globals.get("__name__", "").partition(".")[0] == package
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SessionConfigWarning, stacklevel=level)
