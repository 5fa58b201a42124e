from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_login import LoginManager

from flask_sessionsql.commands.checks import Finding
from tests.commands.test_checks import SOUND, TABLE, check, execute
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import limited_user, missing, on, store_of
from tests.integration.test_faults import read_only
from tests.throwaway import (
    folder_of,
    free_port,
    pgbouncer,
    program,
    running,
    user,
)

#: The sessions' table in the database of another program.
USUAL = "SELECT, INSERT, UPDATE, DELETE"


def sound(make_app: MakeApp, uri: str, **options: Any) -> Flask:
    """An application with a sound table, of which nothing is to be said."""
    app = make_app(uri, **{**SOUND, **options})
    store_of(app).database.provide_table()
    return app


def told(app: Flask, subject: str) -> Finding:
    """The one finding, which is about this."""
    [finding] = check(app)
    assert subject == finding.subject
    return finding


# The rights.


@pytest.mark.parametrize("server", on("postgresql", "mariadb"))
@pytest.mark.parametrize(
    "given", ["SELECT", "SELECT, INSERT, UPDATE", "INSERT, UPDATE, DELETE"]
)
def test_rights_that_are_missing(
    given: str, server: str, make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """Rights that are missing are an error, with the statement that gives them. Trying
    changes nothing.
    """
    uri = make_empty_database(server)
    owner = sound(make_app, uri)
    execute(
        owner,
        f"INSERT INTO {TABLE} (id, handle, data, version, created_at, expires_at)"
        " VALUES ('1', 'a', '', 1, 1, 1)",
    )
    with limited_user(uri, f"{given} ON {TABLE}") as limited:
        app = make_app(limited, **SOUND)
        finding = told(app, TABLE)
        missing = [each for each in USUAL.split(", ") if each not in given]
        assert "error" == finding.level
        assert f"lacks {', '.join(missing)} on it: " in finding.problem
        grants = re.findall(r"GRANT [^;]+;", finding.advice)
        assert [True] == [f"GRANT {', '.join(missing)} ON" in each for each in grants]
        with store_of(owner).engine.connect() as connection:
            connection.execute(sa.text(grants[0]))
        store_of(app).dispose()
        assert [] == check(app)
        store_of(app).dispose()
    with store_of(owner).engine.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT handle, version FROM {TABLE}"))
        assert [("a", 1)] == [tuple(row) for row in rows]


@pytest.mark.postgresql
def test_a_right_on_the_schema(
    make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """So is that on the schema."""
    uri = make_empty_database("postgresql")
    owner = make_app(uri, **SOUND, SESSION_SQLALCHEMY_SCHEMA="web")
    execute(owner, "CREATE SCHEMA web")
    store_of(owner).database.provide_table()
    with limited_user(uri, None) as limited:
        app = make_app(limited, **SOUND, SESSION_SQLALCHEMY_SCHEMA="web")
        found = {finding.subject: finding for finding in check(app)}
        finding = found[f"web.{TABLE}"]
        assert "GRANT USAGE ON SCHEMA web TO" in finding.advice
        for statement in re.findall(r"GRANT [^;]+;", finding.advice):
            execute(owner, statement)
        assert [] == check(app)
        store_of(app).dispose()


def test_a_server_that_is_read_only(
    shared_database_uri: str, make_app: MakeApp
) -> None:
    """A server, or a file, that takes no writes is an error."""
    sound(make_app, shared_database_uri)
    app = make_app(read_only(shared_database_uri), **SOUND)
    found = [f for f in check(app) if f.level == "error"]
    assert ["database"] == [finding.subject for finding in found]
    assert "It can be read and not written: " in found[0].problem
    assert "Connect to a server that takes writes" in found[0].advice


@contextmanager
def nobody() -> Iterator[None]:
    """The process has no rights of its own meanwhile."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.sqlite_file
def test_a_folder_that_is_read_only(make_app: MakeApp) -> None:
    """So is a folder in which SQLite cannot make its files."""
    with tempfile.TemporaryDirectory() as folder:
        app = sound(make_app, f"sqlite:///{folder}/app.db")
        execute(app, "PRAGMA journal_mode = DELETE")
        store_of(app).dispose()
        Path(folder, "app.db").chmod(0o666)
        Path(folder).chmod(0o555)
        with nobody():
            found = [f for f in check(app) if f.level == "error"]
            store_of(app).dispose()
        Path(folder).chmod(0o700)
    assert ["database"] == [finding.subject for finding in found]
    assert f"Its folder {folder!r} does not let this user write" in found[0].problem


@pytest.mark.parametrize("server", on("postgresql", "mariadb", "sqlite-file"))
def test_a_table_that_is_locked(
    server: str, make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """Somebody else's lock is no right that is missing, and is not waited for long."""
    uri = make_empty_database(server)
    app = sound(make_app, uri)
    lock = {
        "postgresql": ["BEGIN", f"LOCK TABLE {TABLE} IN SHARE MODE"],
        "mariadb": ["BEGIN", f"SELECT * FROM {TABLE} FOR UPDATE"],
        "sqlite-file": ["BEGIN IMMEDIATE"],
    }[server]
    other = sa.create_engine(uri, poolclass=sa.NullPool)
    began = time.monotonic()
    with other.connect() as connection:
        for statement in lock:
            connection.exec_driver_sql(statement)
        assert [] == [f for f in check(app) if f.subject != "database"]
    assert time.monotonic() - began < 20


# The sessions.


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("user", "Set SESSION_USER_KEY = '_user_id'."),
        ("_user_id", "let the login store the user there"),
    ],
)
def test_nobody_is_logged_in(
    key: str, advice: str, shared_database_uri: str, make_app: MakeApp
) -> None:
    """Many live sessions, and none of a user, are strange with Flask-Login."""
    app = sound(make_app, shared_database_uri, SESSION_USER_KEY=key)
    later = int(time.time()) + 1000

    def put(number: int, user: str = "NULL", end: int = later) -> None:
        execute(
            app,
            f"INSERT INTO {TABLE}"
            " (id, handle, user_id, data, version, created_at, expires_at)"
            f" VALUES ('{number}', '{number}', {user}, '', 1, 1, {end})",
        )

    for number in range(9):
        put(number)
    put(9, "'ann'", 1)
    assert [] == check(app)
    LoginManager(app)
    assert [] == check(app)
    put(10)
    finding = told(app, "SESSION_USER_KEY")
    assert "warning" == finding.level
    assert f"The setting is {key!r}" in finding.problem
    assert advice in finding.advice
    put(11, "'ann'")
    assert [] == check(app)


# The server.


@pytest.mark.mariadb
@pytest.mark.parametrize("engine", ["MyISAM", "Aria"])
def test_an_engine_without_transactions(
    engine: str, make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """An engine without transactions is an error."""
    app = sound(make_app, make_empty_database("mariadb"))
    execute(app, f"ALTER TABLE {TABLE} ENGINE={engine}")
    finding = told(app, TABLE)
    assert "error" == finding.level
    assert f"Its engine is {engine}, which has no transactions" in finding.problem
    assert f"ALTER TABLE {TABLE} ENGINE=InnoDB;" == finding.advice
    execute(app, finding.advice)
    assert [] == check(app)


@pytest.mark.parametrize("server", on("postgresql", "mariadb"))
def test_few_connections(
    server: str, make_app: MakeApp, make_empty_database: MakeDatabase
) -> None:
    """So few connections that threads wait for each other are told."""
    uri = make_empty_database(server)
    few = {"pool_size": 1, "max_overflow": 0}
    finding = told(
        sound(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=few), "SQLALCHEMY_ENGINE_OPTIONS"
    )
    assert "warning" == finding.level
    assert "allow 1 connections in all" in finding.problem
    assert "SESSION_DATABASE_TIMEOUT or 'pool_timeout'" in finding.problem
    for options in ({"pool_size": 1}, {"max_overflow": -1}, {"poolclass": sa.NullPool}):
        assert [] == check(sound(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=options))


@pytest.mark.sqlite_file
def test_a_file_that_the_application_shares(make_app: MakeApp, tmp_path: Path) -> None:
    """A file that the application shares with its sessions is not in WAL mode by
    itself: told.
    """
    from flask_sqlalchemy import SQLAlchemy

    app = sound(
        make_app, f"sqlite:///{tmp_path / 'app.db'}", before=lambda app: SQLAlchemy(app)
    )
    finding = told(app, "database")
    assert "Its journal is in mode 'delete'" in finding.problem
    assert "PRAGMA journal_mode = WAL" in finding.advice


# Servers of the tests' own.


@contextmanager
def mariadbd(*options: str) -> Iterator[str]:
    """A server of MariaDB's with these options; gives the address of a database."""
    install = program("mariadb-install-db", "mariadb-server")
    server, owner = program("mariadbd", "mariadb-server"), user("mysql")
    with folder_of(owner) as folder:
        both = ["--no-defaults", f"--datadir={folder}/data"]
        subprocess.run(
            [install, *both, "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
            user=owner,
        )
        port = free_port()
        command = [server, *both, f"--port={port}", "--bind-address=127.0.0.1"]
        command += [f"--socket={folder}/socket", f"--pid-file={folder}/pid", *options]
        with running(command, folder, port, owner):
            yield f"mysql+pymysql://root@127.0.0.1:{port}/test"


@pytest.mark.mariadb
def test_a_log_of_statements(make_app: MakeApp) -> None:
    """A server that logs statements refuses ours: an error, which also says so where
    the table cannot even be written.
    """
    with mariadbd("--log-bin", "--binlog-format=STATEMENT", "--server-id=1") as uri:
        app = sound(make_app, uri)
        finding = told(app, "database")
        assert "error" == finding.level
        assert "Its binlog_format is STATEMENT" in finding.problem
        execute(app, *finding.advice.split(";")[:1])
        store_of(app).dispose()
        assert [] == check(app)
        store_of(app).dispose()


GALERA = Path("/usr/lib/galera/libgalera_smm.so")


@pytest.mark.mariadb
def test_a_cluster(make_app: MakeApp) -> None:
    """In a Galera cluster, sessions that do not wait for other nodes are told."""
    if not GALERA.exists():
        missing(f"There is no {GALERA}. Install it, as by Debian's 'galera-4'.")
    own, state = free_port(), free_port()
    options = f"base_port={own};ist.recv_addr=127.0.0.1:{state}"
    with mariadbd(
        "--wsrep-on=1",
        f"--wsrep-provider={GALERA}",
        "--wsrep-cluster-address=gcomm://",
        f"--wsrep-provider-options={options};gmcast.listen_addr=tcp://127.0.0.1:{own}",
        "--wsrep-node-address=127.0.0.1",
        "--binlog-format=ROW",
        "--wsrep-sync-wait=2",
    ) as uri:
        finding = told(sound(make_app, uri), "database")
        assert "warning" == finding.level
        assert "It is a Galera cluster of 1 nodes, and wsrep_sync_wait is 2" in (
            finding.problem
        )
        command = re.findall("SET SESSION [^']+", finding.advice)[0]
        assert "SET SESSION wsrep_sync_wait=3" == command
        waits = {"connect_args": {"init_command": command}}
        assert [] == check(sound(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=waits))


@pytest.mark.postgresql
def test_a_pooler(make_app: MakeApp, make_empty_database: MakeDatabase) -> None:
    """A pooler is found, unless the application has said when to prepare statements."""
    with pgbouncer(make_empty_database("postgresql")) as uri:
        app = sound(make_app, uri)
        finding = told(app, "SQLALCHEMY_ENGINE_OPTIONS")
        assert "warning" == finding.level
        assert "There is a pooler such as PgBouncer" in finding.problem
        assert "{'connect_args': {'prepare_threshold': None}}" in finding.advice
        options = {"connect_args": {"prepare_threshold": None}}
        assert [] == check(sound(make_app, uri, SQLALCHEMY_ENGINE_OPTIONS=options))
        store_of(app).dispose()
