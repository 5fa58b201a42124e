"""The databases that the benchmarks measure on, and the tables that they fill there.

Servers are those of SESSIONSQL_POSTGRESQL_URL, SESSIONSQL_MARIADB_URL and
SESSIONSQL_REDIS_URL, or the local ones. Each benchmark has a database of its own there.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

#: The names of the databases, and where the servers are unless that is said.
NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
SERVERS = {
    "postgresql": "postgresql+psycopg://postgres@127.0.0.1:5432/test",
    "mariadb": "mysql+pymysql://root@127.0.0.1:3306/test",
    "redis": "redis://127.0.0.1:6379/0",
}
#: Bytes that a row takes about, with its indexes.
ROW = 710


def kind_of(url: sa.URL) -> str:
    """Which of the databases this is."""
    name = url.get_backend_name()
    return "mariadb" if name == "mysql" else name


def _server(kind: str) -> tuple[str, str]:
    """Where a server is, and what it says if it is not there."""
    variable = f"SESSIONSQL_{kind.upper()}_URL"
    url = os.environ.get(variable, SERVERS[kind])
    return url, f"{kind} cannot be used. Start it, or say where it is in {variable}"


def redis_server() -> tuple[str, str]:
    """The address of Redis, and its version.

    :raises SystemExit: nothing answers there.
    """
    from redis import Redis
    from redis.exceptions import RedisError

    url, problem = _server("redis")
    try:
        with Redis.from_url(url, socket_connect_timeout=5) as client:
            # The stubs do not know which of two clients this is.
            information: Any = client.info("server")
    except (RedisError, ValueError) as error:
        raise SystemExit(f"{problem}: {error}") from None
    return url, information["redis_version"]


def described(url: sa.URL) -> str:
    """The name and the version of the database."""
    if kind_of(url) == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    with connecting(url).connect() as connection:
        version = connection.dialect.server_version_info or ()
    return f"{NAMES[kind_of(url)]} {'.'.join(map(str, version))}"


def address(url: sa.URL) -> str:
    """What another process connects to."""
    return url.render_as_string(hide_password=False)


def connecting(url: sa.URL) -> sa.Engine:
    """An engine whose statements commit by themselves."""
    return sa.create_engine(
        url, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
    )


def use_wal(engine: sa.Engine) -> None:
    """Let the connections of an engine on a SQLite file be as all others are."""

    def connected(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    if engine.url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", connected)


@contextmanager
def own_database(kind: str) -> Iterator[sa.URL]:
    """A database of our own, which is dropped at the end: a file in a directory of its
    own, or one on the server.

    :raises SystemExit: nothing answers there, or it creates no database for us.
    """
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="sessionsql_benchmark_") as directory:
            lite = sa.make_url(f"sqlite:///{directory}/sessions.sqlite")
            with connecting(lite).connect() as connection:
                # The mode stays with the file.
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            yield lite
        return
    url, problem = _server(kind)
    server = sa.make_url(url)
    name = f"sessionsql_benchmark_{secrets.token_hex(4)}"
    admin = connecting(server)
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except sa.exc.DBAPIError as error:
        raise SystemExit(
            f"{problem}, for one who may create databases: {error.orig}"
        ) from None
    try:
        yield server.set(database=name)
    finally:
        with admin.connect() as connection:
            force = " WITH (FORCE)" if kind == "postgresql" else ""
            connection.exec_driver_sql(f"DROP DATABASE {name}{force}")


@contextmanager
def pages_in_memory(url: sa.URL, rows: int) -> Iterator[str]:
    """How much memory the database has for its pages. MariaDB gets enough for so many
    rows meanwhile, as far as there is any: it reads past the operating system's memory,
    and would measure the disk.
    """
    kind = kind_of(url)
    if kind == "sqlite":
        yield "SQLite's own 2 MB, and the operating system's"
        return
    with connecting(url).connect() as connection:
        if kind == "postgresql":
            shown = connection.exec_driver_sql("SHOW shared_buffers").scalar()
            yield f"shared_buffers = {shown}, and the operating system's"
            return
        name = "innodb_buffer_pool_size"
        usual = int(connection.exec_driver_sql(f"SELECT @@{name}").scalar() or 0)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        # As much for the operating system.
        wanted = min(rows * ROW, free // 2)
        if wanted <= usual:
            yield f"{name} = {usual >> 20} MB"
            return
        connection.exec_driver_sql(f"SET GLOBAL {name} = {wanted}")
        try:
            yield f"{name} = {wanted >> 20} MB, raised from {usual >> 20} MB"
        finally:
            connection.exec_driver_sql(f"SET GLOBAL {name} = {usual}")


def fill(
    url: sa.URL, table: sa.Table, columns: Iterable[str], rows: Iterable[Any]
) -> None:
    """Make a table with its rows, and its indexes after them, which is faster."""
    kind = kind_of(url)
    names = ", ".join(columns)
    with connecting(url).connect() as connection:
        if kind == "sqlite":
            # Nothing is kept of it if it is interrupted, so nothing is logged.
            connection.exec_driver_sql("PRAGMA journal_mode = OFF")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
        connection.execute(sa.schema.CreateTable(table))
        # Not SQLAlchemy's: it would have all rows in one list first.
        cursor: Any = connection.connection.cursor()
        if kind == "postgresql":
            with cursor.copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            marks = ", ".join("?" if kind == "sqlite" else "%s" for _ in columns)
            insert = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
            cursor.execute("BEGIN")
            cursor.executemany(insert, rows)
            cursor.execute("COMMIT")
        cursor.close()
        for index in table.indexes:
            index.create(connection)
        if kind == "postgresql":
            connection.exec_driver_sql(f"VACUUM ANALYZE {table.name}")
            connection.exec_driver_sql("CHECKPOINT")
        elif kind == "mariadb":
            connection.exec_driver_sql(f"ANALYZE TABLE {table.name}").all()
        else:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
