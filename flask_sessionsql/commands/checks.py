"""What can be wrong with the table or the settings, and what to do about it.

:func:`check_all` looks at the settings, and at the table as the database has it. It
changes nothing, and reads no session. ``flask sessions check`` shows what it finds.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from flask import Flask
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateColumn, CreateIndex

from ..config import SessionConfig
from ..exceptions import (
    SessionConfigError,
    SessionStoreUnavailableError,
    SessionTableError,
)
from ..interfaces import FlaskSQLAlchemySessionInterface, secret_keys
from ..storage.database import SessionDatabase
from ..storage.tables import sessions_table

__all__ = ["Finding", "check_all"]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and what to do about it."""

    level: Literal["error", "warning"]
    """``"error"``: sessions do not work, or not always, or are not safe. ``"warning"``:
    they work, and could be faster or safer.
    """

    subject: str
    """What it is about: a setting, such as ``"SECRET_KEY"``; a column, such as
    ``"flask_sessionsql.data"``; the table; or ``"database"``.
    """

    problem: str
    """What was found, and what was expected."""

    advice: str
    """What to do, with the setting or the SQL where there is one."""


def check_all(app: Flask, interface: FlaskSQLAlchemySessionInterface) -> list[Finding]:
    """What is wrong with the sessions of ``app``: the errors first, and nothing where
    all is well.

    A database that cannot be reached is an error in the list, and is not raised. No
    finding holds a key or a stored value.
    """
    found = [
        *_check_keys(app),
        *_check_cookie(interface.config),
        *_check_times(interface.config),
        *_check_database(app, interface),
    ]
    return sorted(found, key=lambda finding: finding.level != "error")


# The settings.

#: Keys that stand in documentation: of this package's quickstart, and of Flask's.
_PUBLISHED = {
    "\xfb\x12\xdf\xa1@i\xd6>V\xc0\xbb\x8fp\x16#Z\x0b\x81\xeb\x16",
    '_5#y2L"F4Q8z\n\xec]/',
    "192b9bdd22ab9ed4d12e236c78afcb9a393ec15f71bbf5dc987d54727823bcbf",
    "dev",
}
#: Bytes of a key: as many as the hash gives (RFC 2104, section 3).
_KEY_LENGTH = 32
#: After how many seconds a user is to log in again even where little is at stake
#: (NIST SP 800-63B, section 4.1.3).
_LONG = 30 * 24 * 3600

_NEW_KEY = "python -c 'import secrets; print(secrets.token_hex())'"


def _check_keys(app: Flask) -> Iterator[Finding]:
    if not app.secret_key:
        yield Finding(
            "error",
            "SECRET_KEY",
            "It is not set, so no session can be stored.",
            f"Set it to something random, such as the output of: {_NEW_KEY}",
        )
    for number, key in enumerate(secret_keys(app)):
        subject = "SECRET_KEY_FALLBACKS"
        advice = "Remove the key from the list; sessions that began under it end."
        if app.secret_key and number == 0:
            subject = "SECRET_KEY"
            advice = f"Set a new one, which ends all sessions: {_NEW_KEY}"
        data = key.encode() if isinstance(key, str) else key
        if (key if isinstance(key, str) else key.decode("latin-1")) in _PUBLISHED:
            yield Finding(
                "error",
                subject,
                "The key is the example of a documentation, so everybody knows it:"
                " what the application signs can be forged.",
                advice,
            )
        elif len(data) < _KEY_LENGTH:
            yield Finding(
                "warning",
                subject,
                f"The key has {len(data)} bytes, and {_KEY_LENGTH} random ones or more"
                " cannot be guessed.",
                advice,
            )


def _check_cookie(config: SessionConfig) -> Iterator[Finding]:
    secure = config.cookie_secure or config.cookie_partitioned
    if not secure:
        yield Finding(
            "warning",
            "SESSION_COOKIE_SECURE",
            "It is off: the browser sends the cookie over plain HTTP, too, where"
            " others can read it.",
            "Where the application is served by HTTPS, set SESSION_COOKIE_SECURE ="
            " True.",
        )
    if not config.cookie_httponly:
        yield Finding(
            "warning",
            "SESSION_COOKIE_HTTPONLY",
            "It is off: a script in a page can read the cookie and send it away.",
            "Set SESSION_COOKIE_HTTPONLY = True.",
        )
    if config.cookie_samesite in (None, "None"):
        yield Finding(
            "warning",
            "SESSION_COOKIE_SAMESITE",
            f"It is {config.cookie_samesite!r}: the cookie may come along with forms"
            " that other sites send here.",
            "Set SESSION_COOKIE_SAMESITE = 'Lax'. Where other sites embed this one and"
            " need its session, check the origin of every request that changes"
            " something.",
        )
    if config.cookie_domain:
        yield Finding(
            "warning",
            "SESSION_COOKIE_DOMAIN",
            f"It is {config.cookie_domain!r}: every host under that domain gets the"
            " cookie, and whoever runs one of them can use the session.",
            "Set SESSION_COOKIE_DOMAIN = None, unless they need it.",
        )
    can_have_prefix = secure and not config.cookie_domain and config.cookie_path == "/"
    if can_have_prefix and not config.cookie_name.lower().startswith("__host-"):
        yield Finding(
            "warning",
            "SESSION_COOKIE_NAME",
            f"It is {config.cookie_name!r}: another host of the same domain could set a"
            " cookie of that name, for this one to take.",
            f"Set SESSION_COOKIE_NAME = '__Host-{config.cookie_name}', which ends all"
            " sessions (OWASP ASVS 5.0, 3.3.3).",
        )


def _check_times(config: SessionConfig) -> Iterator[Finding]:
    if config.absolute_lifetime is None and config.lifetime > _LONG:
        days = config.lifetime / 24 / 3600
        yield Finding(
            "warning",
            "SESSION_ABSOLUTE_LIFETIME",
            f"It is not set, and PERMANENT_SESSION_LIFETIME is {days:.0f} days: a"
            " session, or a stolen one, lasts as long as it is used once in that time.",
            "Set SESSION_ABSOLUTE_LIFETIME, after which users log in again (OWASP ASVS"
            " 5.0, 7.3.2), or a shorter PERMANENT_SESSION_LIFETIME.",
        )
    if config.purge_interval == 0:
        yield Finding(
            "warning",
            "SESSION_PURGE_INTERVAL",
            "It is 0: no process deletes sessions that have expired.",
            "Run 'flask sessions purge' from a timer, such as every hour, or set"
            " SESSION_PURGE_INTERVAL = 600.",
        )


# The table.


@dataclass(frozen=True)
class _Reflected:
    """The table as the database has it."""

    columns: dict[str, Any]
    key: list[str]
    indexes: Sequence[Any]
    #: The collation of columns that have one of their own or of the table.
    collations: dict[str, str]
    #: The names of indexes that the database does not use.
    invalid: set[str]


def _check_database(
    app: Flask, interface: FlaskSQLAlchemySessionInterface
) -> list[Finding]:
    try:
        database = interface.records.store.database
        there = database.run(lambda connection: _reflect(connection, database.table))
    except (SessionConfigError, SessionTableError) as error:
        subject = getattr(error, "key", "SESSION_SQLALCHEMY_TABLE")
        return [Finding("error", subject, str(error), "Correct the setting.")]
    except (SessionStoreUnavailableError, sa_exc.SQLAlchemyError) as error:
        reason = getattr(error, "reason", getattr(error, "orig", error))
        return [
            Finding(
                "error",
                "database",
                f"It cannot be used, so the table was not looked at: {reason}",
                "See that it runs, and that SQLALCHEMY_DATABASE_URI, or the bind that"
                " SESSION_SQLALCHEMY_BIND_KEY names, is its address.",
            )
        ]
    check = _TableCheck(app, interface.config, database)
    return list(check.missing() if there is None else check.differences(there))


def _reflect(connection: sa.Connection, table: sa.Table) -> _Reflected | None:
    """The table in the database; ``None`` where it is missing."""
    inspector, where = sa.inspect(connection), (table.name, table.schema)
    # SQLite's indexes of constraints are told only if asked for.
    automatic: dict[str, Any] = {"include_auto_indexes": True}
    with warnings.catch_warnings():
        # Of types and indexes that SQLAlchemy does not know; they are not ours.
        warnings.simplefilter("ignore", sa_exc.SAWarning)
        try:
            columns = inspector.get_columns(*where)
        except sa_exc.NoSuchTableError:
            return None
        indexes = inspector.get_indexes(*where, **automatic)
    return _Reflected(
        {column["name"]: column for column in columns},
        list(inspector.get_pk_constraint(*where)["constrained_columns"]),
        indexes,
        _collations(connection, table, [column["name"] for column in columns]),
        _invalid_indexes(connection, table),
    )


def _collations(
    connection: sa.Connection, table: sa.Table, names: Sequence[str]
) -> dict[str, str]:
    """How columns are compared, where the inspector does not tell."""
    kind = connection.dialect.name
    if kind in ("mysql", "mariadb"):
        # Not in the type of a column that has the collation of the table.
        found = connection.execute(
            sa.text(
                "SELECT column_name, collation_name FROM information_schema.columns"
                " WHERE table_schema = COALESCE(:schema, DATABASE())"
                " AND table_name = :name AND collation_name IS NOT NULL"
            ),
            {"schema": table.schema, "name": table.name},
        )
        return {row[0]: row[1] for row in found}
    if kind != "sqlite":
        return {}
    quote = connection.dialect.identifier_preparer.quote
    master = f"{quote(table.schema)}.sqlite_master" if table.schema else "sqlite_master"
    created = connection.scalar(
        sa.text(f"SELECT sql FROM {master} WHERE name = :name"),  # noqa: S608
        {"name": table.name},
    )
    collated = r"""[\s(,"'`\[]{}["'`\]]?\s[^,]*?\bCOLLATE\s+["'`\[]?(\w+)"""
    matches = {
        name: re.search(collated.format(re.escape(name)), created or "", re.I)
        for name in names
    }
    return {name: match[1] for name, match in matches.items() if match}


def _invalid_indexes(connection: sa.Connection, table: sa.Table) -> set[str]:
    """PostgreSQL: those whose ``CREATE INDEX CONCURRENTLY`` has failed."""
    if connection.dialect.name != "postgresql":
        return set()
    name = connection.dialect.identifier_preparer.format_table(table)
    found = connection.scalars(
        sa.text(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE i.indrelid = to_regclass(:name) AND NOT i.indisvalid"
        ),
        {"name": name},
    )
    return set(found)


class _TableCheck:
    """Holds the table in the database against the one that it should be."""

    def __init__(
        self, app: Flask, config: SessionConfig, database: SessionDatabase
    ) -> None:
        self._config = config
        table = database.table
        # Another one, in case that the application has reflected it or added to it.
        naming = table.metadata.naming_convention
        metadata = sa.MetaData(naming_convention=naming)
        self._table = sessions_table(metadata, table.name, table.schema)
        self._dialect = database.engine.dialect
        self._migrates = "migrate" in app.extensions
        prepare = self._dialect.identifier_preparer
        self._name = prepare.format_table(self._table)
        self._kind = self._dialect.name.replace("mariadb", "mysql")

    def _finding(
        self,
        problem: str,
        advice: str,
        column: str | None = None,
        level: Literal["error", "warning"] = "error",
    ) -> Finding:
        subject = self._table.fullname + (f".{column}" if column else "")
        return Finding(level, subject, problem, advice)

    # What to do.

    def _anew(self) -> str:
        return (
            "Make the table anew, which ends all sessions: DROP TABLE"
            f" {self._name}; then run 'flask sessions create-table'."
        )

    def _column_ddl(self, column: sa.Column[Any]) -> str:
        return str(CreateColumn(column).compile(dialect=self._dialect)).strip()

    def _index_ddl(self, column: str) -> str:
        index = self._index(column)
        statement = str(CreateIndex(index).compile(dialect=self._dialect))
        if self._kind == "postgresql":  # so that nobody waits for it
            return statement.replace("CREATE INDEX", "CREATE INDEX CONCURRENTLY")
        return statement

    def _index(self, column: str) -> sa.Index:
        """The index that a column should have."""
        [index] = [i for i in self._table.indexes if i.columns.keys() == [column]]
        return index

    def _change(self, column: sa.Column[Any]) -> str:
        """How a column gets the type that it should have, and its rows stay."""
        if self._kind == "mysql":
            ddl = self._column_ddl(column)
            return f"ALTER TABLE {self._name} MODIFY COLUMN {ddl};"
        if self._kind == "postgresql":
            kind = column.type.compile(self._dialect)
            return f"ALTER TABLE {self._name} ALTER COLUMN {column.name} TYPE {kind};"
        return self._anew()

    # What is wrong.

    def missing(self) -> Iterator[Finding]:
        """The table is not there."""
        if self._migrates:
            advice = (
                "Run 'flask db migrate', unless there is a migration that creates it,"
                " and 'flask db upgrade'."
            )
        elif self._config.create_table:
            advice = "Nothing, or run 'flask sessions create-table' to have it now."
        else:
            advice = (
                "Run the migration that creates it or 'flask sessions create-table', or"
                " set SESSION_CREATE_TABLE = True."
            )
        if self._config.create_table:
            yield self._finding(
                "The table is not there yet. The first session creates it, if the"
                " database user may do so.",
                advice,
                level="warning",
            )
        else:
            yield self._finding(
                "The table is not there, and SESSION_CREATE_TABLE is off: no session"
                " can be stored.",
                advice,
            )

    def differences(self, there: _Reflected) -> Iterator[Finding]:
        """What differs in the table that is there."""
        missing = [c for c in self._table.columns if c.name not in there.columns]
        if missing:
            yield self._missing_columns(missing)
        if not all(map(_can_come_later, missing)):
            return  # another program's: there is more, and it does not matter
        for column in self._table.columns:
            if column.name in there.columns:
                yield from self._check_column(column, there)
        yield from self._check_others(there)
        yield from self._check_key(there)
        for name in _INDEXED:
            if name in there.columns:
                yield from self._check_index(name, there)
        yield from self._check_former_index(there)

    def _missing_columns(self, missing: Sequence[sa.Column[Any]]) -> Finding:
        names = ", ".join(column.name for column in missing)
        problem = f"It lacks the columns {names}: no session can be read or stored."
        if not all(map(_can_come_later, missing)):
            return self._finding(
                f"{problem} It may be another program's table.",
                "Set SESSION_SQLALCHEMY_TABLE to a name that is free. Or, if it is"
                f" yours: {self._anew()}",
            )
        statements = [
            f"ALTER TABLE {self._name} ADD COLUMN {self._column_ddl(column)};"
            for column in missing
        ]
        statements += [
            f"{self._index_ddl(column.name)};"
            for column in missing
            if column.name in _INDEXED
        ]
        migrate = "Run 'flask db migrate' and 'flask db upgrade'"
        if not self._migrates:
            migrate = "Run the migration that adds them"
        return self._finding(
            f"{problem} It is of an earlier version, and has not been migrated.",
            f"{migrate}, or this SQL: {' '.join(statements)}",
        )

    def _check_column(
        self, column: sa.Column[Any], there: _Reflected
    ) -> Iterator[Finding]:
        name, found = column.name, there.columns[column.name]
        shown = _shown(found["type"], self._dialect)
        wanted = column.type.compile(self._dialect)
        if not _is_of_kind(column.type, found["type"], self._kind):
            why = ""
            if isinstance(found["type"], sa.String):
                why = ": text, which can be compared without regard to case"
            yield self._finding(
                f"Its type is {shown}{why}; expected is {wanted}.", self._anew(), name
            )
            return
        problem = self._too_small(column, found["type"], shown)
        if problem is not None:
            yield self._finding(
                f"{problem}; expected is {wanted}.", self._change(column), name
            )
        if isinstance(column.type, sa.String):
            collation = there.collations.get(name, "")
            yield from self._check_collation(column, found["type"], collation)
        yield from self._check_null(column, found["nullable"])

    def _too_small(self, column: sa.Column[Any], there: Any, shown: str) -> str | None:
        """Why not everything that belongs into a column fits in."""
        kind = column.type
        if self._kind == "sqlite":  # keeps what it is given, of any size
            return None
        if isinstance(kind, sa.Integer):
            if isinstance(there, sa.BigInteger):
                return None
            until = "" if column.name == "version" else ": times end in the year 2038"
            return f"Its type is {shown}, which does not hold 64 bits{until}"
        if isinstance(kind, sa.String):
            needed, room = kind.length or 0, there.length
            if room is None or room >= needed:
                return None
            return f"It holds {room} characters, and has to hold {needed}"
        if self._kind != "mysql":
            return None
        needed, room = getattr(kind, "length", None) or _MEDIUM, _room(shown)
        if room < needed:
            return f"It holds {room:,} bytes, and has to hold {needed:,}"
        if shown.startswith("BINARY") and room > needed:
            return f"Its type is {shown}, which fills keys up with zeros"
        return None

    def _check_collation(
        self, column: sa.Column[Any], there: Any, collation: str
    ) -> Iterator[Finding]:
        # By its name: the dialect takes longer to import than all the rest.
        if there.__visit_name__ == "CITEXT":
            collation = "CITEXT"
        # Handles are the same in every collation, and nobody looks for the others.
        folds = collation.upper() in ("CITEXT", "NOCASE") or "_ci" in collation
        charset = getattr(column.type.dialect_impl(self._dialect), "charset", None)
        if folds and column.name == "user_id":
            yield self._finding(
                f"It is compared by {collation}, without regard to case: 'Ann' and"
                " 'ann' would be one user, who could list and end the other's"
                " sessions.",
                self._change(column),
                column.name,
            )
        elif charset is not None and not collation.startswith(charset):
            yield self._finding(
                f"Its collation is {collation}, so it does not hold every character;"
                f" expected is the character set {charset}.",
                self._change(column),
                column.name,
            )

    def _check_null(self, column: sa.Column[Any], nullable: bool) -> Iterator[Finding]:
        if column.nullable and not nullable:
            yield self._finding(
                "It may not be null, and is so in many sessions: they cannot be"
                " stored.",
                self._null(column, "DROP"),
                column.name,
            )
        elif nullable and not column.nullable and not column.primary_key:
            yield self._finding(
                "It may be null, which it is in no session.",
                self._null(column, "SET"),
                column.name,
                "warning",
            )

    def _null(self, column: sa.Column[Any], action: str) -> str:
        if self._kind == "postgresql":
            alter = f"ALTER COLUMN {column.name} {action} NOT NULL"
            return f"ALTER TABLE {self._name} {alter};"
        return self._change(column)

    def _check_others(self, there: _Reflected) -> Iterator[Finding]:
        """Columns that are not ours."""
        for name, column in there.columns.items():
            given = (
                column["default"] or column.get("identity") or column.get("computed")
            )
            automatic = column.get("autoincrement") is True or name in there.key
            if name in self._table.columns or column["nullable"] or given or automatic:
                continue
            yield self._finding(
                "It is not a column of the sessions, must not be null, and has no"
                " default: no session can be stored.",
                "Give it a default, or let it be null.",
                name,
            )

    def _check_key(self, there: _Reflected) -> Iterator[Finding]:
        if there.key == ["id"] or "id" not in there.columns:
            return
        found = ", ".join(there.key) or "none"
        yield self._finding(
            f"Its primary key is {found}; expected is id.", self._anew()
        )

    def _check_index(self, name: str, there: _Reflected) -> Iterator[Finding]:
        """The index that finds rows by a column."""
        expected = self._index(name)
        serving = [index for index in there.indexes if _serves(index, name)]
        for index in serving:
            if index["unique"] and index["column_names"] == [name] and name != "handle":
                yield self._unique(index, name, self._replace(index, name))
        if any(index["name"] not in there.invalid for index in serving):
            return
        problem, advice = "It has no index", f"{self._index_ddl(name)};"
        near = [i for i in there.indexes if name in i["column_names"]]
        near += [i for i in there.indexes if i["name"] == expected.name]
        for index in near[:1]:
            on = ", ".join(column or "…" for column in index["column_names"])
            where = _where(index)
            problem = f"The index {index['name']} is on ({on})" + (
                f" where {where}" if where else ""
            )
            if index["name"] in there.invalid:
                problem = f"The index {index['name']} is invalid"
            if index["name"] in (expected.name, *there.invalid):
                advice = self._replace(index, name)
        yield self._finding(
            f"{problem}, so that finding rows by {name} reads the whole table; expected"
            f" is an index on ({name}).",
            advice,
            name,
            "warning",
        )

    def _check_former_index(self, there: _Reflected) -> Iterator[Finding]:
        """The index that was there before there was ``purge_at``."""
        for index in there.indexes:
            if index["column_names"] != ["expires_at"]:
                continue
            if index["unique"]:
                yield self._unique(index, "expires_at", self._drop(index))
                continue
            yield self._finding(
                f"The index {index['name']} on it is written whenever the end of a"
                " session moves, and finds nothing that purge_at does not.",
                self._drop(index),
                "expires_at",
                "warning",
            )

    def _unique(self, index: Any, column: str, advice: str) -> Finding:
        return self._finding(
            f"The index {index['name']} on it is unique, so that a second session with"
            " the same value cannot be stored.",
            advice,
            column,
        )

    def _replace(self, index: Any, column: str) -> str:
        """How to have the right index in the place of one that is there."""
        drop = self._drop(index)
        return drop if drop == self._anew() else f"{drop} {self._index_ddl(column)};"

    def _drop(self, index: Any) -> str:
        prepare, name = self._dialect.identifier_preparer, index["name"]
        if name.startswith("sqlite_autoindex_"):  # of a constraint
            return self._anew()
        if self._kind == "mysql":
            return f"ALTER TABLE {self._name} DROP INDEX {prepare.quote(name)};"
        if "duplicates_constraint" in index:
            return f"ALTER TABLE {self._name} DROP CONSTRAINT {prepare.quote(name)};"
        schema = self._table.schema
        prefix = f"{prepare.quote(schema)}." if schema else ""
        return f"DROP INDEX {prefix}{prepare.quote(name)};"


#: Columns by which rows are found, besides the key.
_INDEXED = ("handle", "user_id", "previous_id", "purge_at")

#: The largest that a ``MEDIUMBLOB`` holds, in bytes.
_MEDIUM = 2**24 - 1
_ROOM = {"TINYBLOB": 2**8 - 1, "BLOB": 2**16 - 1, "MEDIUMBLOB": _MEDIUM}


def _room(shown: str) -> int:
    """The bytes that a binary column of MariaDB holds."""
    name, _, length = shown.partition("(")
    return int(length.rstrip(")")) if length else _ROOM.get(name, 2**32 - 1)


def _shown(there: Any, dialect: sa.Dialect) -> str:
    try:
        return str(there.compile(dialect=dialect))
    except sa_exc.CompileError:
        return "unknown"


_BINARY = (
    sa.LargeBinary,
    sa.BINARY,
    sa.VARBINARY,
    mysql.TINYBLOB,
    mysql.MEDIUMBLOB,
    mysql.LONGBLOB,
)


def _is_of_kind(expected: Any, there: Any, dialect: str) -> bool:
    """Whether a type keeps the same kind of value as the expected one."""
    if isinstance(expected, sa.LargeBinary):
        # SQLite: a column without a type keeps what it is given.
        no_type = dialect == "sqlite" and isinstance(there, sa.types.NullType)
        return no_type or isinstance(there, _BINARY)
    kind = sa.Integer if isinstance(expected, sa.Integer) else sa.String
    return isinstance(there, kind) and not isinstance(there, sa.Enum)


def _can_come_later(column: sa.Column[Any]) -> bool:
    """Whether a column can be added to a table that has rows."""
    return bool(column.nullable) or column.server_default is not None


def _where(index: Any) -> str:
    """The condition of an index that some rows are left out of; empty if none are."""
    options = index.get("dialect_options", {})
    where = options.get("postgresql_where", options.get("sqlite_where"))
    return "" if where is None else str(where)


def _serves(index: Any, column: str) -> bool:
    """Whether an index finds the rows with a value of a column."""
    if index["column_names"][:1] != [column]:
        return False
    where = re.sub(r"""[()"`\[\]]""", "", _where(index)).lower().strip()
    return where in ("", f"{column} is not null")
