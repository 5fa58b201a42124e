"""The databases that the benchmarks measure on, and the rows that they put there.

Servers are those of the environment variables in :data:`SERVERS` and
:data:`REDIS`, or the local ones. Each benchmark has a database of its own there.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.formats.tokens import new_handle, row_id
from flask_sessionsql.storage.tables import sessions_table

#: The servers that the tests use, too.
SERVERS = {
    "SESSIONSQL_POSTGRESQL_URL": "postgresql+psycopg://postgres@127.0.0.1:5432/test",
    "SESSIONSQL_MARIADB_URL": "mysql+pymysql://root@127.0.0.1:3306/test",
}
REDIS = ("SESSIONSQL_REDIS_URL", "redis://127.0.0.1:6379/0")
#: What stands for a file of our own, where a server's address is expected.
SQLITE = "sqlite://"
_NAMES = {"postgresql": "PostgreSQL", "mysql": "MariaDB", "sqlite": "SQLite"}

TABLE = SessionConfig.table
KEY = "the key of a benchmark"
LIFETIME = SessionConfig.lifetime
#: Over how many seconds the ends of the sessions are spread: 30 days.
SPREAD = 30 * 24 * 3600
#: Stands for a user's name in the data, before the server puts it in.
USER = "user-0000000"


# Where they are.


def backend(url: sa.URL) -> str:
    """The kind of database, as SQLAlchemy calls it."""
    name = url.get_backend_name()
    return "mysql" if name == "mariadb" else name


def server_urls() -> list[sa.URL]:
    """The PostgreSQL and the MariaDB server."""
    return [sa.make_url(os.environ.get(*pair)) for pair in SERVERS.items()]


def redis_url() -> str:
    """The address of Redis.

    :raises SystemExit: nothing answers there.
    """
    from redis import Redis
    from redis.exceptions import RedisError

    variable, default = REDIS
    url = os.environ.get(variable, default)
    try:
        with Redis.from_url(url, socket_connect_timeout=5) as client:
            client.ping()
    except (RedisError, ValueError) as error:
        raise SystemExit(
            f"No Redis answers at {url}: {error}\nStart one, for example by"
            " 'redis-server --save \"\" --port 6379', or say where it is in"
            f" {variable}."
        ) from None
    return url


def describe(engine: sa.Engine) -> str:
    """The name and the version of the database."""
    if backend(engine.url) == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    with engine.connect() as connection:
        dialect = connection.dialect
        version = ".".join(map(str, dialect.server_version_info or ()))
        if backend(engine.url) == "postgresql":
            return f"PostgreSQL {version}"
        maria = getattr(dialect, "is_mariadb", False)
        return f"{'MariaDB' if maria else 'MySQL'} {version}"


@contextmanager
def own_database(server: sa.URL) -> Iterator[sa.URL]:
    """A database of our own on the server, which is dropped at the end; for
    :data:`SQLITE` a file in a directory of its own, in WAL mode.

    :raises SystemExit: nothing answers there, or it creates no database for us.
    """
    if backend(server) == "sqlite":
        with own_directory() as directory:
            file = directory / "sessions.sqlite"
            # The mode stays with the file.
            lite = sqlite3.connect(file)
            lite.execute("PRAGMA journal_mode = WAL")
            lite.close()
            yield server.set(database=str(file))
        return
    name = f"sessionsql_benchmark_{secrets.token_hex(4)}"
    admin = sa.create_engine(
        server, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
    )
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except sa.exc.DBAPIError as error:
        raise SystemExit(_no_database(server, error)) from None
    try:
        yield server.set(database=name)
    finally:
        _drop(admin, name)


def _no_database(server: sa.URL, error: sa.exc.DBAPIError) -> str:
    kind = backend(server)
    variable = next(
        (each for each, url in SERVERS.items() if backend(sa.make_url(url)) == kind),
        "--database",
    )
    return (
        f"No database can be created on the {_NAMES.get(kind, kind)} server at"
        f" {server.render_as_string()}: {error.orig}\nStart one, or say where it is in"
        f" {variable}, as a SQLAlchemy URL with a user who may create databases."
    )


def _drop(admin: sa.Engine, name: str) -> None:
    with admin.connect() as connection:
        if backend(admin.url) == "postgresql":
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
            return
        # A statement that was interrupted here goes on there.
        running = sa.text(
            "SELECT id FROM information_schema.processlist WHERE db = :name"
        )
        for number in connection.scalars(running, {"name": name}).all():
            connection.exec_driver_sql(f"KILL {number}")
        connection.exec_driver_sql(f"DROP DATABASE {name}")


@contextmanager
def own_directory() -> Iterator[Path]:
    """A directory of our own, which is removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="sessionsql_benchmark_"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# The rows.


def token_of(number: int) -> str:
    """The token of the session with this number."""
    return f"benchmark-{number:032d}"


def has_expired(number: int, rows: int, expired: int) -> bool:
    """Whether the session with this number has: they are spread evenly."""
    return number * expired % rows < expired


def new_data(size: int = 200) -> dict[str, Any]:
    """What a session holds.

    :param size: about how many bytes when stored; no fewer than 200. What there is
        beyond is text that compresses to half of its size or so.
    """
    data = {
        "_user_id": USER,
        "_fresh": True,
        "_id": "0f" * 32,
        "cart": [[1001, 2], [1002, 1], [1003, 5]],
        "language": "en-GB",
        "last_page": "/shop/books/0123456789",
        "visits": 1,
    }
    if size > 200:
        chosen = (f"{number * 2654435761 % 2**32:08x}" for number in range(size // 8))
        data["seen"] = "".join(chosen)[: size - 200]
    return data


#: When a session began, as its handle has it: in base 32.
_DIGITS = "0123456789abcdefghijklmnopqrstuv"
_BEGAN = "CAST((ends - :lifetime) >> {shift} & 31 AS integer)"
MOMENT = {
    "postgresql": " || ".join(
        f"substr('{_DIGITS}', {_BEGAN.format(shift=shift)} + 1, 1)"
        for shift in (25, 20, 15, 10, 5, 0)
    ),
    "mysql": "lower(lpad(conv((ends - :lifetime) & 1073741823, 10, 32), 6, '0'))",
}

#: The rows come from the server itself, ``SECRET_KEY`` and all: HMAC-SHA-256 is two
#: SHA-256, one around the other. Rows come in the order of the key, so that the table
#: is as dense as the server makes it.
FILL = {
    "postgresql": """
        INSERT INTO {table} (id, handle, user_id, data, version, created_at,
            expires_at, last_used_at, purge_at)
        SELECT id, {moment} || substr(md5(n::text), 1, 10), name,
            CAST(:head AS bytea) || convert_to(name, 'UTF8') || CAST(:tail AS bytea),
            1, ends - :lifetime, ends, ends - :lifetime, ends
        FROM (
            SELECT n, 'user-' || lpad((n / 3)::text, 7, '0') AS name,
                sha256(CAST(:outer AS bytea) || sha256(CAST(:inner AS bytea)
                || convert_to('benchmark-' || lpad(n::text, 32, '0'), 'UTF8'))) AS id,
                CASE WHEN n * :expired % :rows < :expired
                    THEN :now - 1 - n * 7919 % :spread
                    ELSE :now + 86400 + n * 7919 % :spread END AS ends
            FROM generate_series(0, CAST(:rows AS bigint) - 1) AS n ORDER BY id
        ) AS numbered
    """,
    "mysql": """
        INSERT INTO {table} (id, handle, user_id, data, version, created_at,
            expires_at, last_used_at, purge_at)
        SELECT id, concat({moment}, substr(md5(n), 1, 10)), name,
            concat(:head, name, :tail), 1,
            ends - :lifetime, ends, ends - :lifetime, ends
        FROM (
            SELECT seq AS n, concat('user-', lpad(seq DIV 3, 7, '0')) AS name,
                unhex(sha2(concat(:outer, unhex(sha2(concat(:inner,
                'benchmark-', lpad(seq, 32, '0')), 256))), 256)) AS id,
                CASE WHEN seq * :expired % :rows < :expired
                    THEN CAST(:now AS SIGNED) - 1 - seq * 7919 % :spread
                    ELSE :now + 86400 + seq * 7919 % :spread END AS ends
            FROM seq_0_to_{last} ORDER BY id LIMIT {rows}
        ) AS numbered
    """,
    # SQLite has no SHA-256: the keys come from here, with their numbers.
    "sqlite": """
        INSERT INTO {table} (id, handle, user_id, data, version, created_at,
            expires_at, last_used_at, purge_at)
        VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?)
    """,
}


def fill(
    engine: sa.Engine,
    rows: int,
    expired: int,
    now: int,
    *,
    table: sa.Table | None = None,
    size: int = 200,
) -> None:
    """Make a table with its rows, and its indexes after them, which is faster.

    :param engine: one in ``AUTOCOMMIT``.
    :param expired: how many of the rows have expired at ``now``.
    :param table: another one than the usual.
    :param size: about how many bytes the data of a session have.
    """
    if table is None:
        table = sessions_table(sa.MetaData(), TABLE)
    kind = backend(engine.url)
    with engine.connect() as connection:
        if kind == "sqlite":
            # Nothing is kept of it if it is interrupted, so nothing is logged.
            connection.exec_driver_sql("PRAGMA journal_mode = OFF")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
            connection.exec_driver_sql("PRAGMA cache_size = -500000")
        elif kind == "postgresql":
            connection.exec_driver_sql("SET work_mem = '256MB'")
            connection.exec_driver_sql("SET maintenance_work_mem = '512MB'")
        connection.execute(sa.schema.CreateTable(table))
        if kind == "sqlite":
            _insert_here(connection, table, rows, expired, now, size)
        else:
            _insert_there(connection, table, rows, expired, now, size)
        for index in table.indexes:
            index.create(connection)
        if kind == "postgresql":
            connection.exec_driver_sql(f"VACUUM ANALYZE {table.name}")
            connection.exec_driver_sql("CHECKPOINT")
        elif kind == "mysql":
            connection.exec_driver_sql(f"ANALYZE TABLE {table.name}").all()
        else:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
    # What was set for this connection is gone with it.
    engine.dispose()


def _insert_there(
    connection: sa.Connection,
    table: sa.Table,
    rows: int,
    expired: int,
    now: int,
    size: int,
) -> None:
    """The server makes the rows."""
    kind = backend(connection.engine.url)
    text = FILL[kind].format(
        table=table.name, last=rows - 1, rows=rows, moment=MOMENT[kind]
    )
    padded = KEY.encode().ljust(64, b"\0")
    head, tail = MsgpackSerializer().dumps(new_data(size)).split(USER.encode())
    parameters = {
        "rows": rows,
        "expired": expired,
        "now": now,
        "head": head,
        "tail": tail,
        "inner": bytes(byte ^ 0x36 for byte in padded),
        "outer": bytes(byte ^ 0x5C for byte in padded),
        "lifetime": LIFETIME,
        "spread": SPREAD,
    }
    connection.execute(sa.text(text), parameters)


def _insert_here(
    connection: sa.Connection,
    table: sa.Table,
    rows: int,
    expired: int,
    now: int,
    size: int,
) -> None:
    """SQLite gets the rows from this process."""
    head, tail = MsgpackSerializer().dumps(new_data(size)).split(USER.encode())
    # One object for each row, the number behind the key: with 10 million of them, a
    # tuple each would be too much.
    keys = [row_id(KEY, token_of(n)) + n.to_bytes(8) for n in range(rows)]
    keys.sort()

    def values() -> Iterator[tuple[object, ...]]:
        for key in keys:
            number = int.from_bytes(key[32:])
            name = f"user-{number // 3:07d}"
            ends = now + 86400 + number * 7919 % SPREAD
            if has_expired(number, rows, expired):
                ends = now - 1 - number * 7919 % SPREAD
            begins = ends - LIFETIME
            data = b"".join((head, name.encode(), tail))
            yield key[:32], new_handle(begins), name, data, begins, ends, begins, ends

    # Not SQLAlchemy's: it would have all rows in one list first.
    driver: Any = connection.connection.cursor()
    driver.execute("BEGIN")
    driver.executemany(FILL["sqlite"].format(table=table.name), values())
    driver.execute("COMMIT")
    driver.close()
