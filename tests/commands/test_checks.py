from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_login import LoginManager
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.schema import CreateColumn

import flask_sessionsql
from flask_sessionsql import FlaskSQLAlchemySessionInterface
from flask_sessionsql.commands.checks import Finding, check_all
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import on, store_of

#: Not the name that other tests use: they would find a damaged table.
TABLE = "damaged"
INDEXED = ("handle", "user_id", "previous_id", "purge_at")
ALL_INDEXES = tuple(f"{column} ({column})" for column in INDEXED)

#: Settings of which nothing is to be said.
SOUND: dict[str, Any] = {
    "SECRET_KEY": secrets.token_hex(),
    "SESSION_COOKIE_NAME": "__Host-session",
    "SESSION_COOKIE_SECURE": True,
    "SESSION_COOKIE_SAMESITE": "Lax",
    "SESSION_ABSOLUTE_LIFETIME": 90 * 24 * 3600,
    "SESSION_PURGE_INTERVAL": 600,
    "SESSION_SQLALCHEMY_TABLE": TABLE,
}

#: Makes an application with sound settings, but for those that are given.
MakeSound = Callable[..., Flask]


@pytest.fixture
def make_sound(make_app: MakeApp) -> MakeSound:
    def make(uri: str = "sqlite://", **options: Any) -> Flask:
        return make_app(uri, **{**SOUND, **options})

    return make


def check(app: Flask) -> list[Finding]:
    interface = app.session_interface
    assert isinstance(interface, FlaskSQLAlchemySessionInterface)
    return check_all(app, interface)


def columns_of(app: Flask) -> dict[str, str]:
    """How each column should be created."""
    dialect = store_of(app).engine.dialect
    return {
        column.name: str(CreateColumn(column).compile(dialect=dialect))
        for column in sessions_table(sa.MetaData(), TABLE).columns
    }


def execute(app: Flask, *statements: str) -> None:
    with store_of(app).engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def create(
    app: Flask,
    columns: Mapping[str, str | None] | None = None,
    key: str | None = "id",
    indexes: tuple[str, ...] = ALL_INDEXES,
) -> None:
    """A table by hand, as it should be but for what is given.

    :param columns: the types of columns; ``None`` leaves one out.
    :param key: the primary key.
    :param indexes: each as ``[UNIQUE] name (columns)``.
    """
    engine = store_of(app).engine
    given = {
        column: kind and f"{column} {kind}" for column, kind in (columns or {}).items()
    }
    body = [text for text in {**columns_of(app), **given}.values() if text]
    if key:
        body.append(f"PRIMARY KEY ({key})")
    after = []
    for index in indexes:
        what, on = index.split(" (", 1)
        unique, _, short = what.rpartition(" ")
        what = f"{unique} INDEX ix_{TABLE}_{short}"
        if engine.dialect.name == "mysql":  # all at once, which is faster
            body.append(f"{what} ({on}")
        else:
            after.append(f"CREATE {what} ON {TABLE} ({on}")
    statements = [f"CREATE TABLE {TABLE} ({', '.join(body)})", *after]
    if engine.dialect.name == "postgresql":
        statements = ["; ".join(statements)]
    execute(app, *statements)


def follow(app: Flask, findings: list[Finding]) -> None:
    """Do what the findings advise, as far as it is SQL or a command."""
    advice = " ".join(finding.advice for finding in findings)
    statements = re.findall(r"(?:ALTER TABLE|CREATE|DROP) [^;]+;", advice)
    assert statements
    if f"DROP TABLE {TABLE};" in statements:
        assert "flask sessions create-table" in advice
        store = store_of(app)
        store.table.drop(store.engine)
        store.database.provide_table()
    else:
        execute(app, *dict.fromkeys(statements))


def problems(findings: list[Finding]) -> dict[str, tuple[str, str]]:
    """Level and problem by subject, of which each is there once."""
    found: dict[str, tuple[str, str]] = {
        f.subject: (f.level, f.problem) for f in findings
    }
    assert len(found) == len(findings)
    return found


def backend(app: Flask) -> str:
    return store_of(app).engine.dialect.name


# The settings.


@pytest.mark.parametrize(
    ("setting", "protection", "permanent", "told"),
    [
        ("strong", "basic", True, True),
        (None, "strong", True, False),
        ("basic", "strong", True, False),
        ("strong", "basic", False, False),
    ],
)
def test_strong_protection(
    setting: str | None,
    protection: str,
    permanent: bool,
    told: bool,
    make_sound: MakeSound,
) -> None:
    """What Flask-Login makes of "strong" is told."""
    app = make_sound(SESSION_PERMANENT=permanent, SESSION_PROTECTION=setting)
    LoginManager(app).session_protection = protection
    store_of(app).database.provide_table()
    found = [f for f in check(app) if f.subject == "SESSION_PROTECTION"]
    assert told == bool(found)
    assert all(f.level == "warning" and "'basic'" in f.advice for f in found)


def test_strong_protection_of_the_manager(make_sound: MakeSound) -> None:
    """So it is where the manager has it, and not the configuration."""
    app = make_sound()
    LoginManager(app).session_protection = "strong"
    store_of(app).database.provide_table()
    [finding] = check(app)
    assert ("warning", "SESSION_PROTECTION") == (finding.level, finding.subject)


# The table.


def test_a_table_of_ours(database_uri: str, make_sound: MakeSound) -> None:
    """Of a table as the sessions create it, and of sound settings, nothing is said."""
    app = make_sound(database_uri)
    store_of(app).database.provide_table()
    assert [] == check(app)


def test_a_table_by_hand(shared_database_uri: str, make_sound: MakeSound) -> None:
    """Nothing is said of a table that is as good: with other types that hold as much,
    columns of the application's own, other indexes that serve, and a unique handle.
    """
    app = make_sound(shared_database_uri)
    kinds = {
        "sqlite": {"id": " ", "data": "BLOB", "version": "INTEGER NOT NULL"},
        "postgresql": {"handle": "TEXT NOT NULL", "number": "SERIAL NOT NULL"},
        "mysql": {
            "data": "MEDIUMBLOB NOT NULL",
            "id": "VARBINARY(32) NOT NULL",
            "version": "BIGINT UNSIGNED NOT NULL",
            "handle": "TINYTEXT CHARACTER SET latin1 NOT NULL",
        },
    }[backend(app)]
    kinds |= {
        "data": kinds.get("data", "BYTEA").removesuffix(" NOT NULL") + " NOT NULL"
    }
    kinds |= {"note": "VARCHAR(9)", "shop": "INTEGER NOT NULL DEFAULT 1"}
    handle = "handle(16)" if backend(app) == "mysql" else "handle"
    where = "" if backend(app) == "mysql" else ' WHERE ("user_id" IS NOT NULL)'
    indexes = (
        f"UNIQUE one ({handle})",
        f"two (user_id, expires_at){where}",
        "three (purge_at)",
        "four (previous_id)",
    )
    create(app, kinds, indexes=indexes)
    assert [] == check(app)


@pytest.mark.parametrize(
    ("creates", "level", "problem"),
    [
        (True, "warning", "first session creates it"),
        (False, "error", "No session can be stored, except with SESSION_CREATE_TABLE"),
    ],
)
def test_a_table_that_is_missing(
    creates: bool,
    level: str,
    problem: str,
    shared_database_uri: str,
    make_sound: MakeSound,
) -> None:
    """A missing table is an error only where no session would create it. The advice is
    for who makes tables by migrations, and who does not. Looking does not create it.
    """
    app = make_sound(shared_database_uri, SESSION_CREATE_TABLE=creates)
    for _ in range(2):
        [finding] = check(app)
        assert (level, TABLE) == (finding.level, finding.subject)
        assert "not there" in finding.problem
        assert problem in finding.problem
        assert "'flask db upgrade'" in finding.advice
        assert "'flask sessions create-table'" in finding.advice


@pytest.mark.postgresql
def test_a_table_in_a_schema(
    make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """The table is looked at in its schema, and the SQL is for it. A schema that is
    missing is an error.
    """
    app = make_sound(make_database("postgresql"), SESSION_SQLALCHEMY_SCHEMA="web")
    [finding] = check(app)
    assert ("error", "SESSION_SQLALCHEMY_SCHEMA") == (finding.level, finding.subject)
    assert "There is no schema 'web'" in finding.problem
    execute(app, "CREATE SCHEMA web")
    [finding] = check(app)
    assert f"web.{TABLE}" == finding.subject
    assert "not there" in finding.problem
    store_of(app).database.provide_table()
    assert [] == check(app)
    index = f"web.ix_web_{TABLE}_handle"
    execute(
        app, f"DROP INDEX {index}", f"CREATE UNIQUE INDEX a ON web.{TABLE}(user_id)"
    )
    execute(app, f"DROP INDEX web.ix_web_{TABLE}_user_id")
    found = check(app)
    assert {f"web.{TABLE}.{name}" for name in ("handle", "user_id")} == set(
        problems(found)
    )
    follow(app, found)
    assert [] == check(app)


def test_a_table_of_an_earlier_version(
    shared_database_uri: str, make_sound: MakeSound
) -> None:
    """A table that has not been migrated is an error that names the columns, and gives
    the SQL that adds them and their indexes, or the commands that migrate. The index on
    the end can go.
    """
    app = make_sound(shared_database_uri)
    later = (
        *("last_used_at", "address", "user_agent", "previous_id", "purge_at"),
        "label",
    )
    indexes = [f"{name} ({name})" for name in ("handle", "user_id", "expires_at")]
    create(app, dict.fromkeys(later), indexes=tuple(indexes))
    [finding, hint] = found = check(app)
    assert ("warning", f"{TABLE}.expires_at") == (hint.level, hint.subject)
    assert finding.advice.count("CREATE INDEX") == 2
    assert ("error", TABLE) == (finding.level, finding.subject)
    assert f"lacks the columns {', '.join(later)}:" in finding.problem
    assert "not been migrated" in finding.problem
    assert "'flask db migrate' makes it, 'flask db upgrade' runs it" in finding.advice
    follow(app, found)
    assert [] == check(app)


def test_a_table_that_lacks_an_index_column(make_sound: MakeSound) -> None:
    """A later column without an index is added without one."""
    app = make_sound()
    create(app, {"address": None})
    [finding] = found = check(app)
    assert "lacks the columns address:" in finding.problem
    assert "INDEX" not in finding.advice
    follow(app, found)
    assert [] == check(app)


def test_an_index_of_the_version_before(
    shared_database_uri: str, make_sound: MakeSound
) -> None:
    """The index on the end, which each use of a session moves on, is a warning, with
    the SQL that drops it.
    """
    app = make_sound(shared_database_uri)
    create(app, indexes=(*ALL_INDEXES, "expires_at (expires_at)"))
    [finding] = found = check(app)
    assert ("warning", f"{TABLE}.expires_at") == (finding.level, finding.subject)
    assert f"index ix_{TABLE}_expires_at on it slows each visit" in finding.problem
    follow(app, found)
    assert [] == check(app)


def test_a_unique_index_on_the_end(
    shared_database_uri: str, make_sound: MakeSound
) -> None:
    """Two sessions may end in one second, so that a unique one is an error."""
    app = make_sound(shared_database_uri)
    create(app, indexes=(*ALL_INDEXES, "UNIQUE expires_at (expires_at)"))
    [finding] = found = check(app)
    assert ("error", f"{TABLE}.expires_at") == (finding.level, finding.subject)
    assert f"index ix_{TABLE}_expires_at on it is unique" in finding.problem
    follow(app, found)
    assert [] == check(app)


@pytest.mark.parametrize("kind", on("sqlite-file", "postgresql"))
def test_a_unique_constraint_on_the_end(
    kind: str, make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """So is a constraint, which no ``DROP INDEX`` drops."""
    app = make_sound(make_database(kind))
    create(app, {"expires_at": "BIGINT NOT NULL UNIQUE"})
    [finding] = found = check(app)
    assert ("error", f"{TABLE}.expires_at") == (finding.level, finding.subject)
    follow(app, found)
    assert [] == check(app)


def test_a_unique_index_on_several_columns(make_sound: MakeSound) -> None:
    """One is an error where two sessions may agree in all of its columns, and not where
    it has one that tells them apart.
    """
    app = make_sound()
    indexes = ("UNIQUE pair (user_id, created_at)", "UNIQUE sole (version, handle)")
    create(app, indexes=(*ALL_INDEXES, *indexes))
    [finding] = found = check(app)
    assert ("error", f"{TABLE}.user_id") == (finding.level, finding.subject)
    assert f"index ix_{TABLE}_pair on it is unique" in finding.problem
    assert "CREATE" not in finding.advice
    follow(app, found)
    assert [] == check(app)


def test_another_programs_table(make_sound: MakeSound) -> None:
    """A table without the first columns is not taken for one that is to be migrated,
    one finding is enough, and nobody is told to drop it.
    """
    app = make_sound()
    execute(app, f"CREATE TABLE {TABLE} (id INTEGER, data INTEGER)")
    [finding] = check(app)
    assert "lacks the columns handle, user_id, version" in finding.problem
    assert "another program's table" in finding.problem
    assert "SESSION_SQLALCHEMY_TABLE" in finding.advice
    assert "DROP" not in finding.advice


def test_the_table_of_flask_session(
    shared_database_uri: str, make_sound: MakeSound
) -> None:
    """Flask-Session's table is known as such, and is to stay."""
    app = make_sound(shared_database_uri)
    execute(
        app,
        f"CREATE TABLE {TABLE} (id INTEGER PRIMARY KEY, session_id VARCHAR(255) UNIQUE,"
        " data TEXT, expiry TIMESTAMP NULL)",
    )
    [finding] = check(app)
    assert ("error", TABLE) == (finding.level, finding.subject)
    assert f"The table '{TABLE}' is Flask-Session's" in finding.problem
    assert "SESSION_SQLALCHEMY_TABLE" in finding.advice
    assert f"SESSION_ADOPT_TABLE = '{TABLE}'" in finding.advice
    assert "DROP" not in finding.advice


@pytest.mark.parametrize("server", on("postgresql", "mariadb"))
def test_columns_that_are_too_small(
    server: str, make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """Columns that do not hold what belongs there are errors, which say what they are
    and what they should be. The SQL that is given makes them larger.
    """
    app = make_sound(make_database(server))
    small = {
        "handle": "VARCHAR(8) NOT NULL",
        "user_id": "VARCHAR(100)",
        "version": "INTEGER NOT NULL",
        "created_at": "INTEGER NOT NULL",
        "expires_at": "INTEGER NOT NULL",
        "purge_at": "INTEGER NOT NULL DEFAULT 0",
        "last_used_at": "INTEGER",
        "address": "VARCHAR(15)",
        "user_agent": "VARCHAR(100)",
        "label": "VARCHAR(40)",
    }
    if server == "mariadb":
        in_full = " CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
        small["user_id"] += in_full
        small["user_agent"] += in_full
        small["label"] += in_full
        small |= {"id": "BINARY(16) NOT NULL", "data": "BLOB NOT NULL"}
        small["previous_id"] = "VARBINARY(31)"
    expected = columns_of(app)
    create(app, small)
    findings = check(app)
    found = problems(findings)
    assert {f"{TABLE}.{name}" for name in small} == set(found)
    for name, kind in small.items():
        level, problem = found[f"{TABLE}.{name}"]
        assert "error" == level
        assert f"It is {kind.split()[0]}" in problem
        assert problem.endswith(f"; expected {expected[name]}.")
    follow(app, findings)
    assert [] == check(app)


@pytest.mark.mariadb
def test_the_room_for_data_on_mariadb(
    make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """What a binary type of MariaDB's holds is known; 16 MiB are enough."""
    # MariaDB's other name, which some applications use.
    app = make_sound(make_database("mariadb").replace("mysql+", "mariadb+"))
    create(app, {"data": "TINYBLOB NOT NULL"})
    [finding] = check(app)
    assert "It is TINYBLOB NOT NULL, unfit for some" in finding.problem
    execute(app, f"ALTER TABLE {TABLE} MODIFY data VARBINARY(16000) NOT NULL")
    [finding] = check(app)
    assert "It is VARBINARY(16000) NOT NULL, unfit for some" in finding.problem
    execute(app, f"ALTER TABLE {TABLE} MODIFY data MEDIUMBLOB NOT NULL")
    assert [] == check(app)


@pytest.mark.mariadb
def test_a_key_that_is_filled_up(
    make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """A BINARY of MariaDB's that is longer than the keys changes them: an error."""
    app = make_sound(make_database("mariadb"))
    create(app, {"id": "BINARY(64) NOT NULL"})
    [finding] = found = check(app)
    assert ("error", f"{TABLE}.id") == (finding.level, finding.subject)
    assert "It is BINARY(64) NOT NULL, unfit for some" in finding.problem
    assert "expected id BINARY(32) NOT NULL" in finding.problem
    follow(app, found)
    assert [] == check(app)


KINDS: dict[str, dict[str, str]] = {
    "sqlite": {
        "id": "TEXT COLLATE NOCASE NOT NULL",
        "user_id": "INTEGER",
        "created_at": "TIMESTAMP NOT NULL",
    },
    "postgresql": {
        "id": "TEXT NOT NULL",
        "user_id": "UUID",
        "created_at": "TIMESTAMP NOT NULL",
    },
    "mysql": {
        "id": "VARCHAR(64) COLLATE utf8mb4_general_ci NOT NULL",
        "user_id": "INTEGER",
        "created_at": "DATETIME NOT NULL",
        "address": "ENUM ('127.0.0.1')",
    },
}


def test_columns_of_another_kind(
    shared_database_uri: str, make_sound: MakeSound
) -> None:
    """Columns that hold something else are errors: a key as text, which can be compared
    without regard to case, a user as a number, a time as a date.
    """
    app = make_sound(shared_database_uri)
    kinds = KINDS[backend(app)]
    create(app, kinds)
    findings = check(app)
    found = problems(findings)
    assert {f"{TABLE}.{name}" for name in kinds} == set(found)
    assert {"error"} == {level for level, _ in found.values()}
    assert "expected id B" in found[f"{TABLE}.id"][1]
    for name, kind in kinds.items():
        assert f"It is {kind.split()[0]}" in found[f"{TABLE}.{name}"][1]
    follow(app, findings)
    assert [] == check(app)


@pytest.mark.postgresql
def test_a_citext_key(make_database: MakeDatabase, make_sound: MakeSound) -> None:
    """PostgreSQL's type for text without regard to case is an error for keys and for
    users; a type that nobody knows is one, too.
    """
    app = make_sound(make_database("postgresql"))
    execute(app, "CREATE EXTENSION IF NOT EXISTS citext")
    kinds = {"id": "CITEXT NOT NULL", "user_id": "CITEXT", "version": "XID NOT NULL"}
    create(app, kinds)
    findings = check(app)
    found = problems(findings)
    assert {f"{TABLE}.{name}" for name in kinds} == set(found)
    assert "It is CITEXT NOT NULL" in found[f"{TABLE}.id"][1]
    assert "Case is ignored" in found[f"{TABLE}.user_id"][1]
    follow(app, [f for f in findings if "user_id" in f.subject])
    assert f"{TABLE}.user_id" not in problems(check(app))


@pytest.mark.postgresql
def test_users_that_postgresql_compares_without_regard_to_case(
    make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """So is a collation of PostgreSQL's that does the same."""
    app = make_sound(make_database("postgresql"))
    execute(
        app,
        "CREATE COLLATION nocase"
        " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    )
    create(app, {"user_id": "VARCHAR(255) COLLATE nocase"})
    [finding] = found = check(app)
    assert ("error", f"{TABLE}.user_id") == (finding.level, finding.subject)
    assert "Case is ignored" in finding.problem
    follow(app, found)
    assert [] == check(app)


@pytest.mark.mariadb
def test_users_that_are_compared_without_regard_to_case(
    make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """A collation that makes one user of "Ann" and "ann" is an error, also where it is
    the table's; so is a character set that does not hold every character. The SQL that
    is given mends both.
    """
    app = make_sound(make_database("mariadb"))
    create(
        app,
        {
            "user_id": "VARCHAR(255)",
            "user_agent": "VARCHAR(255) CHARACTER SET latin1",
        },
    )
    findings = check(app)
    found = problems(findings)
    assert {f"{TABLE}.user_id", f"{TABLE}.user_agent"} == set(found)
    assert "Case is ignored" in found[f"{TABLE}.user_id"][1]
    assert "SET utf8mb4." in found[f"{TABLE}.user_agent"][1]
    follow(app, findings)
    assert [] == check(app)


@pytest.mark.parametrize("quoted", ["user_id", '"user_id"', "[user_id]"])
def test_users_that_sqlite_compares_without_regard_to_case(
    quoted: str, make_sound: MakeSound
) -> None:
    """So it is on SQLite, where the collation is only in the text of the table."""
    app = make_sound()
    create(app, {"user_id": None, quoted: "VARCHAR(255) COLLATE NOCASE"})
    [finding] = found = check(app)
    assert ("error", f"{TABLE}.user_id") == (finding.level, finding.subject)
    assert "Case is ignored" in finding.problem
    follow(app, found)
    assert [] == check(app)


def test_columns_that_may_or_may_not_be_null(
    shared_database_uri: str, make_sound: MakeSound
) -> None:
    """A column that must be filled, where a session has nothing to fill it with, is an
    error; one that need not be, a warning. Another's that must be filled is an error.
    """
    app = make_sound(shared_database_uri)
    wrong = {
        "sqlite": {"user_id": "TEXT NOT NULL", "data": "BLOB"},
        "postgresql": {"user_id": "TEXT NOT NULL", "data": "BYTEA"},
        "mysql": {
            "user_id": "VARCHAR(255) CHARSET utf8mb4 COLLATE utf8mb4_bin NOT NULL",
            "data": "LONGBLOB",
        },
    }[backend(app)]
    create(app, {**wrong, "shop": "INTEGER NOT NULL"})
    findings = check(app)
    found = problems(findings)
    assert {
        f"{TABLE}.user_id": "error",
        f"{TABLE}.shop": "error",
        f"{TABLE}.data": "warning",
    } == {subject: level for subject, (level, _) in found.items()}
    assert " NOT NULL, unfit for some" in found[f"{TABLE}.user_id"][1]
    assert "no session can be stored" in found[f"{TABLE}.shop"][1]
    follow(app, [f for f in findings if "shop" not in f.subject])
    assert {f"{TABLE}.shop"} >= set(problems(check(app)))


@pytest.mark.parametrize(
    ("kind", "key"),
    on(("sqlite-file", None), ("postgresql", "handle"), ("mariadb", None)),
)
def test_a_primary_key_that_is_not_the_id(
    kind: str, key: str | None, make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """Another primary key than ``id``, or none, is an error."""
    app = make_sound(make_database(kind))
    create(app, key=key)
    [finding] = found = check(app)
    assert ("error", TABLE) == (finding.level, finding.subject)
    assert f"Its primary key is {key or 'none'}; expected id." == finding.problem
    follow(app, found)
    assert [] == check(app)


def test_indexes_that_are_missing(make_sound: MakeSound) -> None:
    """Each index that is missing is a warning, with the SQL that creates it."""
    app = make_sound()
    create(app, indexes=())
    findings = check(app)
    found = problems(findings)
    assert {f"{TABLE}.{name}" for name in INDEXED} == set(found)
    assert {"warning"} == {level for level, _ in found.values()}
    assert all("No index" in problem for _, problem in found.values())
    follow(app, findings)
    assert [] == check(app)


def test_indexes_that_are_wrong(
    shared_database_uri: str, make_sound: MakeSound
) -> None:
    """An index on other columns, or with the column in another place, and one that is
    unique where values repeat, are told; the SQL puts right ones in their places.
    """
    app = make_sound(shared_database_uri)
    indexes = (
        "handle (created_at)",
        "UNIQUE user_id (user_id)",
        "other (version, purge_at)",
        "previous_id (handle, previous_id)",
    )
    create(app, indexes=indexes)
    findings = check(app)
    found = problems(findings)
    name = f"ix_{TABLE}"
    assert {f"{TABLE}.user_id"} == {f.subject for f in findings if f.level == "error"}
    assert f"index {name}_user_id on it is unique" in found[f"{TABLE}.user_id"][1]
    for column in ("purge_at", "previous_id"):
        assert "No index of all rows begins with it" in found[f"{TABLE}.{column}"][1]
    # The index of previous_id begins with the handle, so that it serves here.
    assert f"{TABLE}.handle" not in found
    concurrently = backend(app) == "postgresql"  # so that nobody waits for it
    assert all(concurrently == ("CONCURRENTLY" in f.advice) for f in findings)
    follow(app, findings)
    again = check(app)
    assert [f"{TABLE}.handle"] == [finding.subject for finding in again]
    assert f"DROP INDEX {name}_handle" in again[0].advice
    follow(app, again)
    assert [] == check(app)


@pytest.mark.parametrize("kind", on("sqlite-file", "postgresql"))
def test_a_unique_constraint(
    kind: str, make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """A unique constraint is a unique index, told once."""
    app = make_sound(make_database(kind))
    others = tuple(f"{name} ({name})" for name in INDEXED if name != "user_id")
    create(app, {"user_id": "VARCHAR(255) UNIQUE"}, indexes=others)
    [finding] = found = check(app)
    assert ("error", f"{TABLE}.user_id") == (finding.level, finding.subject)
    follow(app, found)
    assert [] == check(app)


@pytest.mark.parametrize("kind", on("sqlite-file", "postgresql"))
def test_an_index_of_some_rows(
    kind: str, make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """An index that leaves rows out, or is on something computed, does not serve."""
    app = make_sound(make_database(kind))
    indexes = (
        "handle (handle) WHERE version > 1",
        "lower (lower(user_id))",
        "purge_at (purge_at)",
        "previous_id (previous_id) WHERE (previous_id IS NOT NULL)",
    )
    create(app, indexes=indexes)
    findings = check(app)
    found = problems(findings)
    assert {f"{TABLE}.handle", f"{TABLE}.user_id"} == set(found)
    assert "No index of all rows" in found[f"{TABLE}.handle"][1]
    follow(app, findings)
    assert [] == check(app)


@pytest.mark.postgresql
def test_an_index_that_is_invalid(
    make_database: MakeDatabase, make_sound: MakeSound
) -> None:
    """An index whose ``CREATE INDEX CONCURRENTLY`` has failed is there and not used."""
    app = make_sound(make_database("postgresql"))
    others = tuple(text for text in ALL_INDEXES if "user_id" not in text)
    create(app, indexes=(*others, "mine (user_id)"))
    execute(
        app,
        "UPDATE pg_index SET indisvalid = false"
        f" WHERE indexrelid = 'ix_{TABLE}_mine'::regclass",
    )
    [finding] = found = check(app)
    assert f"{TABLE}.user_id" == finding.subject
    assert f"The index ix_{TABLE}_mine on it is invalid" in finding.problem
    assert f"DROP INDEX ix_{TABLE}_mine;" in finding.advice
    follow(app, found)
    assert [] == check(app)


def test_an_applications_own_table(make_sound: MakeSound) -> None:
    """A table that the application has made of its own accord is held against what it
    should be, too.
    """
    metadata = sa.MetaData()
    names = sessions_table(sa.MetaData(), TABLE).columns.keys()
    theirs = sa.Table(TABLE, metadata, *(sa.Column(name, sa.Integer) for name in names))
    db = SQLAlchemy(metadata=metadata)
    app = make_sound(SESSION_SQLALCHEMY=db, before=db.init_app)
    assert theirs is store_of(app).table
    create(app, {"user_id": "INTEGER"}, indexes=())
    findings = check(app)
    assert {f"{TABLE}.{name}" for name in INDEXED} == {f.subject for f in findings}
    assert "It is INTEGER, unfit for some sessions" in findings[0].problem
    assert "expected user_id VARCHAR(255)." in findings[0].problem


def test_names_of_the_applications(make_sound: MakeSound) -> None:
    """Names that need quotes have them; indexes are named as the application's are."""
    metadata = sa.MetaData(naming_convention={"ix": "find_%(column_0_name)s"})
    db = SQLAlchemy(metadata=metadata)
    app = make_sound(before=db.init_app, SESSION_SQLALCHEMY_TABLE="All sessions")
    store_of(app).database.provide_table()
    execute(app, "DROP INDEX find_handle")
    [finding] = found = check(app)
    assert "All sessions.handle" == finding.subject
    assert 'INDEX find_handle ON "All sessions"' in finding.advice
    follow(app, found)
    assert [] == check(app)


# The database.


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://postgres@127.0.0.1:9/test",
        "mysql+pymysql://root:hidden@127.0.0.1:9/test",
    ],
    ids=["postgresql", "mariadb"],
)
def test_a_database_that_cannot_be_reached(address: str, make_sound: MakeSound) -> None:
    """It is a finding with the reason and without the password, and no traceback."""
    [finding] = check(make_sound(address))
    assert ("error", "database") == (finding.level, finding.subject)
    assert "cannot be used, so the table was not looked at: " in finding.problem
    assert "hidden" not in str(finding)
    assert "SQLALCHEMY_DATABASE_URI" in finding.advice


def test_a_file_that_is_no_database(tmp_path: Path, make_sound: MakeSound) -> None:
    """So is a file of something else."""
    path = tmp_path / "app.db"
    path.write_text("This is not a database at all." * 100)
    [finding] = check(make_sound(f"sqlite:///{path}"))
    assert ("error", "database") == (finding.level, finding.subject)
    assert "file is not a database" in finding.problem
    assert "take it from a backup" in finding.advice


def test_a_folder_that_is_missing(make_sound: MakeSound) -> None:
    """So is the folder of a SQLite file, with the setting to correct."""
    [finding] = check(make_sound("sqlite:////nowhere/at/all.db"))
    assert ("error", "SQLALCHEMY_DATABASE_URI") == (finding.level, finding.subject)
    assert "there is no folder '/nowhere/at'" in finding.problem


def test_a_bind_that_is_missing() -> None:
    """A SESSION_SQLALCHEMY_BIND_KEY that the SQLAlchemy object has not seen is found
    before the first use.
    """
    app = Flask("shop")
    app.config.update(SOUND, SQLALCHEMY_DATABASE_URI="sqlite://")
    SQLAlchemy(app)
    app.config["SESSION_TYPE"] = "flask-sqlalchemy"
    app.config["SESSION_SQLALCHEMY_BIND_KEY"] = "web"
    app.config["SQLALCHEMY_BINDS"] = {"web": "sqlite://"}
    flask_sessionsql.Session(app)
    [finding] = check(app)
    assert ("error", "SESSION_SQLALCHEMY_BIND_KEY") == (finding.level, finding.subject)
    assert "'web'" in finding.problem
    with app.app_context():
        app.extensions["sqlalchemy"].engine.dispose()


def test_another_table_of_the_application() -> None:
    """A table of another kind in the metadata, that came after the sessions were set
    up, is found.
    """
    app = Flask("shop")
    app.config.update(SOUND, SQLALCHEMY_DATABASE_URI="sqlite://")
    app.config["SESSION_TYPE"] = "flask-sqlalchemy"
    flask_sessionsql.Session(app)
    db = SQLAlchemy()
    sa.Table(TABLE, db.metadata, sa.Column("id", sa.Integer))
    db.init_app(app)
    [finding] = check(app)
    assert ("error", "SESSION_SQLALCHEMY_TABLE") == (finding.level, finding.subject)
    assert "already has a table" in finding.problem


def pragmas(*statements: str) -> Callable[[Flask], None]:
    """Gives an application a ``SQLAlchemy`` object whose connections begin so."""

    def connected(connection: Any, record: object) -> None:
        for statement in statements:
            connection.execute(f"PRAGMA {statement}")

    def before(app: Flask) -> None:
        db = SQLAlchemy(app)
        with app.app_context():
            sa.event.listen(db.engine, "connect", connected)

    return before


@pytest.mark.parametrize(
    ("statements", "says"),
    [
        ([], "PRAGMA journal_mode = WAL, and PRAGMA synchronous = NORMAL"),
        (["synchronous = NORMAL"], "PRAGMA journal_mode = WAL"),
        (["journal_mode = TRUNCATE"], "PRAGMA journal_mode = WAL"),
        (["journal_mode = WAL"], "Set PRAGMA synchronous = NORMAL"),
        (["journal_mode = WAL", "synchronous = NORMAL"], None),
        (["journal_mode = WAL", "synchronous = OFF"], None),
        (["journal_mode = MEMORY"], None),
    ],
)
def test_the_journal_of_an_application_s_file(
    statements: list[str], says: str | None, make_sound: MakeSound, tmp_path: Path
) -> None:
    """It is named where requests wait for each other, or for the disk, with what to
    set; a table that is missing does not hide it.
    """
    uri = f"sqlite:///{tmp_path / 'shop.db'}"
    app = make_sound(uri, before=pragmas(*statements))
    for _ in range(2):
        found = [each for each in check(app) if each.subject == "database"]
        assert [each.level for each in found] == ["warning"] * (says is not None)
        assert all(str(says) in each.advice for each in found)
        store_of(app).database.provide_table()


def test_a_file_of_the_sessions_alone(make_sound: MakeSound, tmp_path: Path) -> None:
    """Nothing is to be said of its journal."""
    app = make_sound(f"sqlite:///{tmp_path / 'sessions.db'}")
    store_of(app).database.provide_table()
    assert check(app) == []


# The settings.


def settings(make_sound: MakeSound, **options: Any) -> list[Finding]:
    """What is found of settings that are sound but for these."""
    app = make_sound(**options)
    store_of(app).database.provide_table()
    return check(app)


@pytest.mark.parametrize(
    ("options", "level", "subject", "advice"),
    [
        (
            {"SESSION_COOKIE_SECURE": False, "SESSION_COOKIE_NAME": "session"},
            "warning",
            "SESSION_COOKIE_SECURE",
            "SESSION_COOKIE_SECURE = True",
        ),
        (
            {"SESSION_COOKIE_HTTPONLY": False},
            "warning",
            "SESSION_COOKIE_HTTPONLY",
            "SESSION_COOKIE_HTTPONLY = True",
        ),
        (
            {"SESSION_COOKIE_SAMESITE": None},
            "warning",
            "SESSION_COOKIE_SAMESITE",
            "SESSION_COOKIE_SAMESITE = 'Lax'",
        ),
        (
            {"SESSION_COOKIE_SAMESITE": "None"},
            "warning",
            "SESSION_COOKIE_SAMESITE",
            "SESSION_COOKIE_SAMESITE = 'Lax'",
        ),
        (
            {"SESSION_COOKIE_DOMAIN": "example.org", "SESSION_COOKIE_NAME": "session"},
            "warning",
            "SESSION_COOKIE_DOMAIN",
            "SESSION_COOKIE_DOMAIN = None",
        ),
        (
            {"SESSION_COOKIE_NAME": "shop"},
            "warning",
            "SESSION_COOKIE_NAME",
            "SESSION_COOKIE_NAME = '__Host-shop'",
        ),
        (
            {"SESSION_ABSOLUTE_LIFETIME": None},
            "warning",
            "SESSION_ABSOLUTE_LIFETIME",
            "7.3.2",
        ),
        (
            {"SESSION_PURGE_INTERVAL": 0},
            "warning",
            "SESSION_PURGE_INTERVAL",
            "flask sessions purge",
        ),
        ({"SECRET_KEY": None}, "error", "SECRET_KEY", "secrets.token_hex()"),
        ({"SECRET_KEY": "s" * 31}, "warning", "SECRET_KEY", "secrets.token_hex()"),
        ({"SECRET_KEY": b"s" * 31}, "warning", "SECRET_KEY", "secrets.token_hex()"),
        ({"SECRET_KEY": "dev"}, "error", "SECRET_KEY", "secrets.token_hex()"),
        (
            {"SECRET_KEY": b'_5#y2L"F4Q8z\n\xec]/'},
            "error",
            "SECRET_KEY",
            "secrets.token_hex()",
        ),
        (
            {"SECRET_KEY_FALLBACKS": ["s" * 40, "s" * 20]},
            "warning",
            "SECRET_KEY_FALLBACKS",
            "Remove it from the list",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_is_not_for_production(
    options: dict[str, Any],
    level: str,
    subject: str,
    advice: str,
    make_sound: MakeSound,
) -> None:
    """Each is told by itself, with what to do."""
    [finding] = settings(make_sound, **options)
    assert (level, subject) == (finding.level, finding.subject)
    assert advice in finding.advice


@pytest.mark.parametrize(
    "options",
    [
        {"SESSION_COOKIE_NAME": "__host-shop"},
        {"SESSION_COOKIE_NAME": "shop", "SESSION_COOKIE_PATH": "/shop"},
        {"SESSION_COOKIE_SECURE": False, "SESSION_COOKIE_PARTITIONED": True},
        {
            "SESSION_ABSOLUTE_LIFETIME": None,
            "PERMANENT_SESSION_LIFETIME": 30 * 24 * 3600,
        },
        {"SECRET_KEY": "s" * 32},
        {"SECRET_KEY_FALLBACKS": "s" * 32},
    ],
    ids=["host", "path", "partitioned", "month", "secret", "fallback"],
)
def test_a_setting_that_is_as_good(
    options: dict[str, Any], make_sound: MakeSound
) -> None:
    """Nothing is said of what is safe already, or could not be safer."""
    assert [] == settings(make_sound, **options)


@pytest.mark.parametrize(
    ("key", "value", "level", "text"),
    [
        ("SESSION_COOKIE_HTTPONLY", False, "warning", "can read the cookie"),
        ("SESSION_COOKIE_DOMAIN", "a..b", "error", "expected a domain"),
        ("SECRET_KEY", "", "error", "not set"),
        ("SECRET_KEY", 5, "error", "got int"),
        ("SECRET_KEY_FALLBACKS", 5, "error", "got int"),
    ],
)
def test_a_setting_of_flasks_that_was_set_later(
    key: str, value: Any, level: str, text: str, make_sound: MakeSound
) -> None:
    """Flask's own settings are looked at as they are by now."""
    app = make_sound()
    store_of(app).database.provide_table()
    app.config[key] = value
    [finding] = check(app)
    assert (level, key) == (finding.level, finding.subject)
    assert text in finding.problem


def test_fallbacks_without_a_secret_key(make_sound: MakeSound) -> None:
    """Without a ``SECRET_KEY``, a fallback is still called one."""
    found = settings(make_sound, SECRET_KEY=None, SECRET_KEY_FALLBACKS=["dev"])
    assert ["SECRET_KEY", "SECRET_KEY_FALLBACKS"] == [f.subject for f in found]


def test_the_secret_of_the_quickstart(make_sound: MakeSound) -> None:
    """The secret in the documentation is known as such."""
    text = re.search(r"SECRET_KEY = \\\n +('.+')", flask_sessionsql.__doc__ or "")
    assert text
    secret = text[1][1:-1].encode().decode("unicode-escape")
    assert 20 == len(secret)
    [finding] = settings(make_sound, SECRET_KEY=secret)
    assert ("error", "SECRET_KEY") == (finding.level, finding.subject)
    assert "everybody knows it" in finding.problem


def test_no_finding_shows_a_secret(make_sound: MakeSound) -> None:
    """Neither the secret nor a fallback is in a finding."""
    current, earlier = "xyzzy", "plugh"
    found = settings(make_sound, SECRET_KEY=current, SECRET_KEY_FALLBACKS=[earlier])
    assert ["SECRET_KEY", "SECRET_KEY_FALLBACKS"] == [f.subject for f in found]
    assert not any(secret in repr(found) for secret in (current, earlier))


def test_errors_come_first(make_sound: MakeSound) -> None:
    """What does not work is told before what could be better, and each once: here of
    an application that sets nothing, in debug mode.
    """
    app = make_sound(
        SECRET_KEY="dev",
        SESSION_COOKIE_NAME="session",
        SESSION_COOKIE_SECURE=False,
        SESSION_COOKIE_SAMESITE=None,
        SESSION_ABSOLUTE_LIFETIME=None,
        SESSION_CREATE_TABLE=False,
        DEBUG=True,
    )
    assert [
        ("error", "SECRET_KEY"),
        ("error", TABLE),
        ("warning", "SESSION_COOKIE_SECURE"),
        ("warning", "SESSION_COOKIE_SAMESITE"),
        ("warning", "SESSION_ABSOLUTE_LIFETIME"),
    ] == [(finding.level, finding.subject) for finding in check(app)]


@pytest.mark.parametrize("columns", [[], [None], ["user_id", None]], ids=repr)
@pytest.mark.parametrize("unique", [True, False])
def test_an_index_of_an_expression(
    make_sound: MakeSound,
    monkeypatch: pytest.MonkeyPatch,
    columns: list[str | None],
    unique: bool,
) -> None:
    """It is none of ours, as databases tell of it: without the columns, or with none in
    their place.
    """
    app = make_sound()
    create(app, {})
    of_expression = {"name": "lower", "column_names": columns, "unique": unique}
    real = sa.Inspector.get_indexes

    def indexes(*args: Any, **kwargs: Any) -> list[Any]:
        return [*real(*args, **kwargs), of_expression]

    monkeypatch.setattr(sa.Inspector, "get_indexes", indexes)
    assert [] == check(app)
