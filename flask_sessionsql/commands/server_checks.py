"""Checks of the server, the connection to it and the rights of the database's user.

Where possible they try statements that change no row, in transactions that are rolled
back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy import exc as sa_exc

from ..config import SessionConfig
from ..storage.database import SessionDatabase, transaction
from ..storage.driver import most_connections
from ..storage.errors import (
    blames_schema,
    is_elsewhere,
    is_lost,
    is_read_only_file,
    lacks_right,
    reason,
)
from ..storage.poolers import is_pooled
from .findings import Finding, error, warning

__all__ = ["SERVER_CHECKS", "Place"]

#: With so many live sessions, it is strange if none has a user.
MANY = 10

#: Fewer connections than this are fewer than a server's threads by default: waitress
#: has 4.
FEW = 4


class Place:
    """The database of an application's sessions, for the checks."""

    def __init__(
        self,
        app: Flask,
        config: SessionConfig,
        connection: sa.Connection,
        database: SessionDatabase,
    ) -> None:
        self.app: Flask = app
        self.config: SessionConfig = config
        self.connection: sa.Connection = connection
        self.database: SessionDatabase = database
        self.table: sa.Table = database.table
        self.name: str = self.table.fullname
        quoting = connection.dialect.identifier_preparer
        self.sql_name: str = quoting.format_table(self.table)
        #: ``mysql`` means MariaDB, too.
        self.backend: str = connection.dialect.name.replace("mariadb", "mysql")

    def asked(self, query: str, **values: object) -> Any:
        """The first value of the first row, or ``None``."""
        return self.connection.scalar(sa.text(query), values)

    def variable(self, name: str) -> str:
        """The value of a variable of MariaDB; empty if it has no such variable."""
        query = sa.text("SHOW VARIABLES LIKE :name")
        row = self.connection.execute(query, {"name": name}).first()
        return "" if row is None else str(row[1])


# The rights.


class _UndoneError(Exception):
    """Makes a transaction roll back."""


def _trials(place: Place) -> Mapping[str, sa.Executable]:
    """For each right, a statement that needs only this right and changes no row."""
    table = place.table
    names = table.columns.keys()
    empty = dict.fromkeys(names, sa.null())
    update = sa.update(table).where(sa.false()).values(empty)
    if place.backend == "sqlite":
        # It has no rights, only files that can be written or not. Each statement more
        # would wait for a lock.
        return {"UPDATE": update}
    nothing = [
        sa.cast(sa.null(), column.type)
        if place.backend == "postgresql"
        else sa.null().label(column.name)
        for column in table.columns
    ]
    no_row = sa.select(*nothing).limit(sa.literal_column("0"))
    return {
        "SELECT": sa.select(table).where(sa.false()),
        "INSERT": sa.insert(table).from_select(names, no_row),
        "UPDATE": update,
        "DELETE": sa.delete(table).where(sa.false()),
    }


def _try(place: Place, statement: sa.Executable) -> sa_exc.DBAPIError | None:
    """Try a statement and roll back. Returns its error, if any."""
    try:
        with transaction(place.connection):
            if place.backend == "postgresql":
                place.connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            place.connection.execute(statement)
            raise _UndoneError
    except _UndoneError:
        return None
    except sa_exc.DBAPIError as error:
        if is_lost(error):  # pragma: no cover -- all checks run again
            raise
        return error


def _grant(place: Place, rights: Sequence[str]) -> str:
    """The statement that grants rights on the table to the connection's user."""
    quote, schema = place.connection.dialect.identifier_preparer.quote, ""
    if place.backend == "postgresql":
        user = quote(str(place.asked("SELECT current_user")))
        if place.table.schema:
            schema = f"GRANT USAGE ON SCHEMA {quote(place.table.schema)} TO {user}; "
    else:
        who = str(place.asked("SELECT CURRENT_USER()"))
        user = "@".join(f"'{part}'" for part in who.rsplit("@", 1))
    return f"{schema}GRANT {', '.join(rights)} ON {place.sql_name} TO {user};"


def _check_rights(place: Place) -> Iterator[Finding]:
    found = {right: _try(place, trial) for right, trial in _trials(place).items()}
    failed = {right: error for right, error in found.items() if error is not None}
    if any(map(blames_schema, failed.values())):
        return  # another check reports a missing or wrong table
    missing = [right for right, error in failed.items() if lacks_right(error)]
    if missing:
        told = reason(failed[missing[0]])
        problem = f"The database user lacks {', '.join(missing)} on it: {told}"
        yield error(place.name, problem, _grant(place, missing))
    for why in failed.values():
        if is_elsewhere(why) or is_read_only_file(why):
            problem = f"It can be read and not written: {reason(why)}"
            advice = (
                "Connect to a server that takes writes; on SQLite, let the process"
                " write to the file and to its folder."
            )
            yield error("database", problem, advice)
            return


def _check_folder(place: Place) -> Iterator[Finding]:
    """SQLite creates files next to the database for each write."""
    path = place.asked("PRAGMA database_list") is not None and next(
        (row[2] for row in place.connection.exec_driver_sql("PRAGMA database_list")), ""
    )
    folder = path and os.path.dirname(path)
    may_write = not path or os.access(
        folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids
    )
    if not may_write:
        problem = f"Its folder {folder!r} does not let this user write, as SQLite must."
        advice = "Let the user that the application runs as write to the folder."
        yield error("database", problem, advice)


# The sessions.


def _check_users(place: Place) -> Iterator[Finding]:
    """Whether sessions have users, if the application has Flask-Login."""
    if not hasattr(place.app, "login_manager"):
        return
    columns = place.table.c
    live = columns.expires_at > int(time.time())
    some = sa.select(sa.literal(1)).where(live).limit(MANY).subquery()
    of_users = sa.select(sa.literal(1)).where(live, columns.user_id.is_not(None))
    if (
        place.connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0
    ) < MANY:
        return
    if place.connection.scalar(of_users.limit(1)) is None:
        key = place.config.user_key
        problem = (
            "No live session has a user, though the application has Flask-Login, which"
            f" keeps the user in session['_user_id']. The setting is {key!r}. Sessions"
            " of users can be neither listed nor ended, and get no new token at login."
        )
        advice = "Set SESSION_USER_KEY = '_user_id'."
        if key == "_user_id":
            advice = (
                "If somebody is logged in, let the login store the user there, as"
                " login_user() does, or set SESSION_USER_KEY to the right key."
            )
        yield warning("SESSION_USER_KEY", problem, advice)


# The server.


def _check_engine(place: Place) -> Iterator[Finding]:
    found = place.connection.execute(
        sa.text(
            "SELECT t.engine, e.transactions FROM information_schema.tables t"
            " JOIN information_schema.engines e ON e.engine = t.engine"
            " WHERE t.table_schema = COALESCE(:schema, DATABASE())"
            " AND t.table_name = :name"
        ),
        {"schema": place.table.schema, "name": place.table.name},
    ).first()
    if found is not None and found[1] != "YES":
        problem = (
            f"Its engine is {found[0]}, which has no transactions: half of a failed"
            " write remains, and each write locks the whole table; expected InnoDB."
        )
        yield error(place.name, problem, f"ALTER TABLE {place.sql_name} ENGINE=InnoDB;")


def _check_cluster(place: Place) -> Iterator[Finding]:
    row = place.connection.exec_driver_sql(
        "SHOW STATUS LIKE 'wsrep_cluster_size'"
    ).first()
    if row is None or int(row[1] or 0) < 1 or place.variable("wsrep_on") != "ON":
        return
    waits = int(place.variable("wsrep_sync_wait") or 0)
    if not waits & 1:
        problem = (
            f"It is a Galera cluster of {row[1]} nodes, and wsrep_sync_wait is {waits}:"
            " a login on one node may be missing on another one for a moment."
        )
        advice = (
            "Set SQLALCHEMY_ENGINE_OPTIONS = {'connect_args': {'init_command':"
            f" 'SET SESSION wsrep_sync_wait={waits | 1}'}}}}, or wsrep_sync_wait in the"
            " servers, or let the proxy send each browser to one node."
        )
        yield warning("database", problem, advice)


def _check_log(place: Place) -> Iterator[Finding]:
    kind = place.variable("binlog_format")
    if place.variable("log_bin") == "ON" and kind == "STATEMENT":
        problem = (
            "Its binlog_format is STATEMENT, with which InnoDB refuses to write in READ"
            " COMMITTED, as purges and revocations do (error 1665); expected ROW or"
            " MIXED."
        )
        advice = (
            "SET GLOBAL binlog_format = 'MIXED'; and the same in the server's file."
        )
        yield error("database", problem, advice)


def _check_pooler(place: Place) -> Iterator[Finding]:
    if place.connection.dialect.driver != "psycopg" or _says_when_to_prepare(place):
        return
    if is_pooled(place.connection.connection.dbapi_connection):
        problem = (
            "There is a pooler such as PgBouncer, and psycopg prepares statements in"
            " one server process that another one does not know: requests fail at"
            " random."
        )
        advice = (
            "Set SQLALCHEMY_ENGINE_OPTIONS = {'connect_args': {'prepare_threshold':"
            " None}}, or the same in the bind."
        )
        yield warning("SQLALCHEMY_ENGINE_OPTIONS", problem, advice)


def _says_when_to_prepare(place: Place) -> bool:
    """Whether the application has set a threshold for prepared statements."""
    options = place.app.config.get("SQLALCHEMY_ENGINE_OPTIONS") or {}
    bind = (place.app.config.get("SQLALCHEMY_BINDS") or {}).get(place.config.bind_key)
    given = [options, bind if isinstance(bind, Mapping) else {}]
    return any("prepare_threshold" in each.get("connect_args", {}) for each in given)


def _check_pool(place: Place) -> Iterator[Finding]:
    pool = place.database.engine.pool
    most = most_connections(pool)
    if most is not None and most < FEW:
        problem = (
            f"pool_size and max_overflow allow {most} connections in all: if a process"
            " has more threads, the others wait, and their requests get a 503 after"
            " SESSION_DATABASE_TIMEOUT or 'pool_timeout', whichever is shorter."
        )
        advice = (
            "Set 'pool_size' to the number of threads in a process. With no more than"
            f" {most} threads, nothing has to change."
        )
        yield warning("SQLALCHEMY_ENGINE_OPTIONS", problem, advice)


#: The checks for each kind of database, in this order.
SERVER_CHECKS: dict[str, tuple[Callable[[Place], Iterator[Finding]], ...]] = {
    "sqlite": (_check_rights, _check_folder, _check_users),
    "postgresql": (_check_rights, _check_users, _check_pooler, _check_pool),
    "mysql": (
        _check_rights,
        _check_users,
        _check_engine,
        _check_cluster,
        _check_log,
        _check_pool,
    ),
}
