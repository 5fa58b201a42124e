"""Checks of the settings and the table.

:func:`check_all` changes nothing and reads no session. ``flask sessions check`` prints
its findings. To add a check, write a function that yields findings, and add it to one
of the two lists at the end of this file. The checks of the server and of rights are in
:mod:`~flask_sessionsql.commands.server_checks`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine.interfaces import ReflectedIndex
from sqlalchemy.schema import CreateColumn, CreateIndex, DropIndex
from sqlalchemy.types import TypeEngine

from .. import exceptions
from ..config import SessionConfig
from ..interfaces import FlaskSQLAlchemySessionInterface, secret_keys
from ..storage.database import SessionDatabase
from ..storage.errors import (
    blames_schema,
    is_lost,
    is_unavailable,
    lacks_right,
    reason,
)
from ..storage.outages import advice
from ..storage.places import check_schema
from ..storage.tables import of_flask_session, sessions_table
from .findings import Finding, error, warning
from .moving_checks import check_moving
from .server_checks import SERVER_CHECKS, Place

__all__ = ["Finding", "check_all"]


def check_all(app: Flask, interface: FlaskSQLAlchemySessionInterface) -> list[Finding]:
    """The findings about the sessions of ``app``, errors first.

    If the database cannot be reached, that is a finding and is not raised. No finding
    has a secret or a stored value.
    """
    found = [
        *_check_settings(app, interface),
        *_check_flask_login(app, interface.config),
        *_check_database(app, interface),
        *_check_moving(app, interface),
    ]
    found = [*dict.fromkeys(found)]  # an error that stops several checks appears once
    return sorted(found, key=lambda finding: finding.level != "error")


# The settings.


def _check_settings(
    app: Flask, interface: FlaskSQLAlchemySessionInterface
) -> Iterator[Finding]:
    try:
        config = interface.current_config(app)
    except exceptions.SessionConfigError as wrong:  # set to a wrong value later
        yield _wrong(wrong)
        config = interface.config  # so that the other checks can run
    for check in _SETTING_CHECKS:
        yield from _found(partial(check, app, config))


def _wrong(
    why: exceptions.SessionConfigError | exceptions.SessionTableError,
) -> Finding:
    return error(why.key, str(why), "Correct the setting.")


#: Secrets from examples in documentation: this package's and Flask's.
_PUBLISHED = {
    "at least 32 random bytes, from the environment",
    "\xfb\x12\xdf\xa1@i\xd6>V\xc0\xbb\x8fp\x16#Z\x0b\x81\xeb\x16",
    '_5#y2L"F4Q8z\n\xec]/',
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    "dev",
}
#: Bytes of a secret: as many as the hash has (RFC 2104, section 3).
_SECRET_LENGTH = 32
#: Seconds until the next login, at the lowest level (NIST SP 800-63B, 4.1.3).
_LONG = 30 * 24 * 3600


def _better(setting: str, value: object, problem: str, note: str = "") -> Finding:
    return warning(setting, problem, f"Set {setting} = {value!r}{note}.")


def _check_secrets(app: Flask, config: SessionConfig) -> Iterator[Finding]:
    random = "python -c 'import secrets; print(secrets.token_hex())'"
    advice = f"Set a random one, which ends all sessions: {random}"
    subject, fallbacks = "SECRET_KEY", secret_keys(app)[bool(app.secret_key) :]
    for secret in (app.secret_key or "", *fallbacks):
        size = len(secret.encode() if isinstance(secret, str) else secret)
        text = secret if isinstance(secret, str) else secret.decode("latin-1")
        if not secret:
            yield error(subject, "It is not set, so no session can be stored.", advice)
        elif text in _PUBLISHED:
            problem = "It is an example from documentation: everybody knows it."
            yield error(subject, problem, advice)
        elif size < _SECRET_LENGTH:
            problem = f"It has {size} bytes; {_SECRET_LENGTH} random ones are safe."
            yield warning(subject, problem, advice)
        subject = "SECRET_KEY_FALLBACKS"
        advice = "Remove it from the list; sessions that began under it end."


def _check_cookie(app: Flask, config: SessionConfig) -> Iterator[Finding]:
    name, domain = config.cookie_name, config.cookie_domain
    secure = config.cookie_secure or config.cookie_partitioned
    if not secure:
        problem = "It is off: the cookie also goes over plain HTTP, for others to read."
        yield _better("SESSION_COOKIE_SECURE", True, problem, ", if the site has HTTPS")
    if not config.cookie_httponly:
        problem = "It is off: a script in a page can read the cookie and send it away."
        yield _better("SESSION_COOKIE_HTTPONLY", True, problem)
    if config.cookie_samesite in (None, "None"):
        problem = f"It is {config.cookie_samesite!r}: forms on other sites send it too."
        note = ". If other sites embed this one, check each request's origin instead"
        yield _better("SESSION_COOKIE_SAMESITE", "Lax", problem, note)
    if domain:
        problem = f"It is {domain!r}: every host under it gets and can use the cookie."
        yield _better("SESSION_COOKIE_DOMAIN", None, problem, ", unless they need it")
    can_have_prefix = secure and not domain and config.cookie_path == "/"
    if can_have_prefix and not name.lower().startswith("__host-"):
        problem = f"It is {name!r}: another host of the domain can set such a cookie."
        note = ", which ends all sessions (OWASP ASVS 5.0, 3.3.3)"
        yield _better("SESSION_COOKIE_NAME", f"__Host-{name}", problem, note)


def _check_times(app: Flask, config: SessionConfig) -> Iterator[Finding]:
    if config.absolute_lifetime is None and config.lifetime > _LONG:
        days = f"{config.lifetime / 24 / 3600:.0f} days"
        problem = f"It is not set: a stolen session lasts if it is used every {days}."
        advice = (
            "Set it, or a short PERMANENT_SESSION_LIFETIME (OWASP ASVS 5.0, 7.3.2)."
        )
        yield warning("SESSION_ABSOLUTE_LIFETIME", problem, advice)
    if config.purge_interval == 0:
        problem = "It is 0: no process deletes sessions that have expired."
        note = ", or run 'flask sessions purge' from a timer, such as every hour"
        yield _better("SESSION_PURGE_INTERVAL", 600, problem, note)


def _check_flask_login(app: Flask, config: SessionConfig) -> Iterator[Finding]:
    manager = getattr(app, "login_manager", None)
    mode = getattr(manager, "session_protection", None)
    if manager is None or not config.permanent:
        return
    if app.config.get("SESSION_PROTECTION", mode) == "strong":
        problem = (
            "It is 'strong', which Flask-Login treats as 'basic' for permanent"
            " sessions, and all of these are permanent: a session that comes from"
            " another address or browser continues, and only stops being a fresh login."
        )
        advice = (
            "Set SESSION_PROTECTION = 'basic', which says what happens, and let"
            " important pages ask for a new login with"
            " flask_login.fresh_login_required."
        )
        yield warning("SESSION_PROTECTION", problem, advice)


def _check_moving(
    app: Flask, interface: FlaskSQLAlchemySessionInterface
) -> Iterator[Finding]:
    # Another check reports a database that cannot be used.
    with suppress(exceptions.SessionError, sa_exc.SQLAlchemyError):
        yield from check_moving(app, interface)


# The table.


def _check_database(
    app: Flask, interface: FlaskSQLAlchemySessionInterface
) -> list[Finding]:
    try:
        database = interface.records.store.database
        config = interface.config

        def work(connection: sa.Connection) -> list[Finding]:
            place = Place(app, config, connection, database)
            found = [
                finding
                for check in SERVER_CHECKS[place.backend]
                for finding in _found(partial(check, place))
            ]
            return [*found, *_found(partial(_check_table, connection, database))]

        return database.run(work)
    except (exceptions.SessionConfigError, exceptions.SessionTableError) as wrong:
        return [_wrong(wrong)]
    except (exceptions.SessionStoreUnavailableError, sa_exc.SQLAlchemyError) as why:
        return [_unusable(getattr(why, "reason", reason(why)))]


_RUNS = "See that it runs where SQLALCHEMY_DATABASE_URI, or the bind, says."


def _unusable(told: str, instead: str = _RUNS) -> Finding:
    problem = f"It cannot be used, so the table was not looked at: {told}"
    return error("database", problem, instead)


def _found(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check. If the database refuses it, that is a finding, and the
    other checks still run.
    """
    try:
        yield from check()
    except (exceptions.SessionConfigError, exceptions.SessionTableError) as wrong:
        yield _wrong(wrong)
    except sa_exc.DBAPIError as why:
        if is_lost(why) or "unknown database" in reason(why):
            raise  # all checks run again, or a better error is raised
        # The checks of rights and of the table report those.
        if not (lacks_right(why) or blames_schema(why)):
            yield _unusable(reason(why), advice(why) if is_unavailable(why) else _RUNS)


def _check_table(
    connection: sa.Connection, database: SessionDatabase
) -> Iterator[Finding]:
    table = _Table(connection, database)
    checks = _TABLE_CHECKS if table.is_ours else [_check_journal, _check_presence]
    for check in checks:
        yield from _found(partial(check, table))


class _Table:
    """The table as it should be and as it is, and the SQL that changes it."""

    def __init__(self, connection: sa.Connection, database: SessionDatabase) -> None:
        self.connection, self.dialect = connection, connection.dialect
        self.backend = self.dialect.name.replace("mariadb", "mysql")
        self.creates = database.create_table
        table, name, schema = database.table, database.table.name, database.table.schema
        # A new one: the application may have reflected its own, or added to it.
        metadata = sa.MetaData(naming_convention=table.metadata.naming_convention)
        self.wanted = sessions_table(metadata, name, schema)
        self.indexed = {i.columns.keys()[0]: i for i in self.wanted.indexes}
        for index in self.wanted.indexes:  # so that requests need not wait
            index.dialect_options["postgresql"]["concurrently"] = True
        self.name = self.wanted.fullname
        self.sql_name = self.dialect.identifier_preparer.format_table(self.wanted)
        self.there = sa.Table(name, sa.MetaData(), schema=schema)
        self.indexes: list[ReflectedIndex] = []
        reader = sa.inspect(connection)
        with warnings.catch_warnings(), suppress(sa_exc.NoSuchTableError):
            # Types and indexes that SQLAlchemy does not know; they are not ours.
            warnings.simplefilter("ignore", sa_exc.SAWarning)
            reader.reflect_table(self.there, None, resolve_fks=False)
            # SQLite shows the indexes of constraints only if asked to.
            self.indexes = reader.get_indexes(name, schema, include_auto_indexes=True)
        if not self.there.columns:
            check_schema(reader, database.table)
        wanted, there = self.wanted.columns, self.there.columns
        self.missing = [c for c in wanted if c.name not in there]
        #: Whether it lacks at most columns that were added later.
        self.is_ours = all(c.nullable or c.server_default for c in self.missing)
        #: Each column as it should be, and as it is.
        self.pairs = [(c, there[c.name]) for c in wanted if c.name in there]
        self.anew = (
            "Create the table again, which ends all sessions:"
            f" DROP TABLE {self.sql_name};"
            " then run 'flask sessions create-table'."
        )

    def sql(self, ddl: CreateColumn | CreateIndex | DropIndex) -> str:
        return str(ddl.compile(dialect=self.dialect)).strip()

    def change(self, column: sa.Column[Any]) -> str:
        """The SQL that corrects a column."""
        if self.backend == "sqlite":
            return self.anew
        what = f"MODIFY COLUMN {self.sql(CreateColumn(column))}"
        if self.backend == "postgresql":
            alter, kind = f"ALTER {column.name}", column.type.compile(self.dialect)
            what = f"{alter} TYPE {kind}"
            if self.there.c[column.name].nullable != column.nullable:
                what += f", {alter} {'DROP' if column.nullable else 'SET'} NOT NULL"
        return f"ALTER TABLE {self.sql_name} {what};"

    def replace(self, column: str, *indexes: ReflectedIndex) -> str:
        """The SQL that drops indexes, and creates a column's if none is left."""
        steps: list[CreateIndex | DropIndex] = []
        for index in indexes:
            name = index["name"] or ""
            if "duplicates_constraint" in index or name.startswith("sqlite_autoindex_"):
                return self.anew  # DROP INDEX cannot drop a constraint
            steps.append(DropIndex(sa.Index(name, self.wanted.c.id)))
        if column in self.indexed and all(i in indexes for i in self.serving(column)):
            steps.append(CreateIndex(self.indexed[column]))
        return " ".join(f"{self.sql(step)};" for step in steps)

    def serving(self, column: str) -> list[ReflectedIndex]:
        """The indexes that can replace the wanted one of a column."""
        ddl = self.sql(CreateIndex(self.indexed[column]))
        wanted, option = _words(ddl.partition(" WHERE ")[2]), f"{self.backend}_where"
        return [
            index
            for index in self.indexes
            if index["column_names"][:1] == [column]
            and _words(str(index.get("dialect_options", {}).get(option, "")))
            in ([], wanted)
        ]


def _words(condition: str) -> list[str]:
    """A condition without the parentheses and quotes that a database adds."""
    return re.findall(r"\w+", condition.lower())


def _check_journal(table: _Table) -> Iterator[Finding]:
    """Check that a SQLite file is in WAL mode; a file with only sessions is."""
    if table.backend != "sqlite":
        return
    run = table.connection.exec_driver_sql
    journal = run("PRAGMA journal_mode").scalar()
    waits = run("PRAGMA synchronous").scalar() or 0
    how = (
        "at each connection, as the page 'SQLite' of the documentation shows. A file"
        " with only sessions gets this automatically, once nobody is using it."
    )
    if journal not in ("wal", "memory", "off"):
        problem = (
            f"Its journal is in mode {journal!r}: a writer locks out all others, and"
            " waits for the disk at each write."
        )
        both = "PRAGMA journal_mode = WAL, and PRAGMA synchronous = NORMAL"
        yield warning("database", problem, f"Set {both} {how}")
    elif journal == "wal" and waits > 1:
        problem = "Each write waits for the disk, which WAL mode does not need."
        yield warning("database", problem, f"Set PRAGMA synchronous = NORMAL {how}")


def _check_presence(table: _Table) -> Iterator[Finding]:
    how = (
        "Run a migration ('flask db migrate' makes it, 'flask db upgrade' runs it), or"
    )
    lacks = f"It lacks the columns {', '.join(c.name for c in table.missing)}:"
    if not table.there.columns:
        on = "The first session creates it, if the database allows that."
        off = "No session can be stored, except with SESSION_CREATE_TABLE = True."
        finding, then = (warning, on) if table.creates else (error, off)
        advice = f"{how} 'flask sessions create-table'."
        yield finding(table.name, f"It is not there. {then}", advice)
    elif not table.is_ours:
        problem = f"{lacks} it may be another program's table."
        other = f"{table.name.rpartition('.')[2]}_sql"
        advice = (
            f"Set SESSION_SQLALCHEMY_TABLE to an unused name, such as {other!r}. Leave"
            " this table to its program."
        )
        known = of_flask_session(table.there.columns.keys(), table.there.name)
        if known is not None:
            problem, _, advice = known.partition(". ")
            problem += "."
        yield error(table.name, problem, advice)
    elif table.missing:
        add = f"ALTER TABLE {table.sql_name} ADD COLUMN"
        steps = [f"{add} {table.sql(CreateColumn(c))};" for c in table.missing]
        steps += [table.replace(c.name) for c in table.missing]
        problem = f"{lacks} it is of an earlier version, and has not been migrated."
        yield error(
            table.name, problem, " ".join(filter(None, [how, "this SQL:", *steps]))
        )


#: The capacity of types without a length: bits of a number, or bytes.
_ROOM = {"TINYINT": 8, "SMALLINT": 16, "MEDIUMINT": 24, "INTEGER": 32, "BIGINT": 64}
_ROOM |= {"big_integer": 64, "TINYTEXT": 255, "TINYBLOB": 255, "BLOB": 2**16 - 1}
_ENOUGH = 2**24 - 1


def _holds(kind: TypeEngine[Any]) -> tuple[type | None, int]:
    """The Python type of a database type, and its capacity."""
    room = getattr(kind, "length", None) or _ROOM.get(kind.__visit_name__, _ENOUGH)
    try:
        return kind.python_type, room
    except NotImplementedError:  # pragma: no cover -- SQLAlchemy 2.0
        return None, room


def _check_columns(table: _Table) -> Iterator[Finding]:
    for column, there in table.pairs:
        subject, found = f"{table.name}.{column.name}", str(there.type)
        wanted = column.type.dialect_impl(table.dialect)
        (kind, room), (wanted_kind, needed) = _holds(there.type), _holds(wanted)
        same, fits = kind is wanted_kind, room >= needed
        if found.startswith("BINARY"):  # shorter values are filled with zeros
            fits = room == needed
        if table.backend == "sqlite":  # SQLite stores anything in any column
            same, fits = same or found == "NULL", True
        charset = getattr(wanted, "charset", None)
        if same and charset:
            found_charset = sa.select(sa.func.charset(sa.func.max(column)))
            fits &= table.connection.scalar(found_charset.where(sa.false())) == charset
        must = "" if there.nullable else " NOT NULL"
        if not (same and fits) or (must and column.nullable):
            expected = f"expected {table.sql(CreateColumn(column))}"
            problem = f"It is {found}{must}, unfit for some sessions; {expected}."
            yield error(subject, problem, table.change(column) if same else table.anew)
        elif not (must or column.nullable or column.primary_key):
            problem = "It allows NULL, which no session stores; expected NOT NULL."
            yield warning(subject, problem, table.change(column))


def _check_users(table: _Table) -> Iterator[Finding]:
    column, there = table.wanted.c.user_id, table.there.c.get("user_id")
    if there is not None and _holds(there.type)[0] is str:
        # Two rows, unless the database treats them as equal. Reads no session.
        names = [sa.literal_column(name, sa.String) for name in ("'Ann'", "'ann'")]
        users = sa.union(sa.select(column).where(sa.false()), *map(sa.select, names))
        if len(table.connection.execute(users).all()) < 2:
            problem = "Case is ignored: 'Ann' could list and end the sessions of 'ann'."
            yield error(f"{table.name}.user_id", problem, table.change(column))


def _check_foreign_columns(table: _Table) -> Iterator[Finding]:
    for column in table.there.columns:
        given = column.server_default or column.primary_key or column.nullable
        if not (given or column.autoincrement is True or column.name in table.wanted.c):
            problem = "It is not ours, and has no default: no session can be stored."
            advice = "Give it a default, or allow NULL."
            yield error(f"{table.name}.{column.name}", problem, advice)


def _check_primary_key(table: _Table) -> Iterator[Finding]:
    key = table.there.primary_key.columns.keys()
    if key != ["id"]:
        problem = f"Its primary key is {', '.join(key) or 'none'}; expected id."
        yield error(table.name, problem, table.anew)


def _check_indexes(table: _Table) -> Iterator[Finding]:
    shared, invalid = {*table.wanted.columns.keys()} - {"id", "handle"}, _invalid(table)
    for index in table.indexes:
        if None in (index["column_names"] or [None]):
            continue  # an index of an expression is not ours
        which, columns = f"The index {index['name']} on it", index["column_names"]
        subject, column = f"{table.name}.{columns[0]}", str(columns[0])
        if index["unique"] and shared.issuperset(columns):
            problem = f"{which} is unique: no two sessions can have the same value."
            yield error(subject, problem, table.replace(column, index))
        elif index["name"] in invalid:
            problem = f"{which} is invalid: CREATE INDEX CONCURRENTLY has failed."
            yield warning(subject, problem, table.replace(column, index))
        elif columns == ["expires_at"]:
            problem = f"{which} slows each visit; the one on purge_at is enough."
            yield warning(subject, problem, table.replace(column, index))
    for column, wanted in sorted(table.indexed.items()):
        taken = [index for index in table.indexes if index["name"] == wanted.name]
        problem = "No index of all rows begins with it: a search reads the whole table."
        if column in table.there.c and not table.serving(column):
            advice = table.replace(column, *taken)
            yield warning(f"{table.name}.{column}", problem, advice)


def _invalid(table: _Table) -> Sequence[str]:
    """The invalid indexes, which PostgreSQL does not use."""
    if table.backend != "postgresql":
        return []
    query = (
        "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid"
        " WHERE indrelid = to_regclass(:name) AND NOT indisvalid"
    )
    return table.connection.scalars(sa.text(query), {"name": table.sql_name}).all()


#: The checks, in this order.
_SETTING_CHECKS = (_check_secrets, _check_cookie, _check_times)
_TABLE_CHECKS = (
    _check_journal,
    _check_presence,
    _check_columns,
    _check_users,
    _check_foreign_columns,
    _check_primary_key,
    _check_indexes,
)
