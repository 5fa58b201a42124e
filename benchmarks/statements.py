"""How many statements a driver sends, of every connection that it opens.

What is counted is what goes to the database: SQLite tells of each statement that it
runs, libpq of each message that it sends, PyMySQL and Redis's client of each command.
So transactions that a library opens and closes by itself are among them. It costs time,
so nothing is timed meanwhile.
"""

from __future__ import annotations

import re
import sqlite3
import sqlite3.dbapi2
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any
from unittest import mock

import psycopg
import pymysql.connections
from redis import Redis

#: Gives what was sent since it was last called: the first word of each statement, or
#: the name of the message.
Taken = Callable[[], list[str]]


@contextmanager
def counting(kind: str) -> Iterator[Taken]:
    """Count on the connections that are opened now.

    :param kind: the database, or ``"redis"``.
    """
    with ExitStack() as stack:
        yield COUNTERS[kind](stack)


def _drain(sent: list[str]) -> Taken:
    def taken() -> list[str]:
        found = [each.split()[0].upper() for each in sent]
        sent.clear()
        return found

    return taken


def _sqlite(stack: ExitStack) -> Taken:
    sent: list[str] = []
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_trace_callback(sent.append)
        return connection

    for module in (sqlite3, sqlite3.dbapi2):
        stack.enter_context(mock.patch.object(module, "connect", traced))
    return _drain(sent)


def _postgresql(stack: ExitStack) -> Taken:
    connect = psycopg.connect
    traces: list[_Trace] = []

    def traced(*args: Any, **kwargs: Any) -> psycopg.Connection[Any]:
        connection = connect(*args, **kwargs)
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        traces.append(_Trace(connection, file))
        return connection

    stack.enter_context(mock.patch.object(psycopg, "connect", traced))
    return lambda: [each for trace in traces for each in trace.taken()]


class _Trace:
    """libpq's trace of one connection, in a file."""

    def __init__(self, connection: psycopg.Connection[Any], file: IO[bytes]) -> None:
        self._connection = connection
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._connection.pgconn.trace(self._file.fileno())

    def taken(self) -> list[str]:
        """The messages of this side (F, for frontend) that run a statement."""
        if self._connection.closed:
            return []
        self._connection.pgconn.untrace()
        self._file.seek(0)
        sent = self._file.read().decode(errors="replace")
        self._begin()
        return re.findall(r"\tF\t\d+\t(Query|Execute)\t", sent)


def _mysql(stack: ExitStack) -> Taken:
    sent: list[str] = []
    # Only its fellow methods call it, so there is no public way to watch.
    execute: Any = vars(pymysql.connections.Connection)["_execute_command"]

    def traced(self: Any, command: int, sql: str | bytes) -> Any:
        sent.append(sql.decode(errors="replace") if isinstance(sql, bytes) else sql)
        return execute(self, command, sql)

    stack.enter_context(
        mock.patch.object(pymysql.connections.Connection, "_execute_command", traced)
    )
    return _drain(sent)


def _redis(stack: ExitStack) -> Taken:
    sent: list[str] = []
    execute: Any = Redis.execute_command

    def traced(self: Any, *args: Any, **options: Any) -> Any:
        sent.append(str(args[0]))
        return execute(self, *args, **options)

    stack.enter_context(mock.patch.object(Redis, "execute_command", traced))
    return _drain(sent)


COUNTERS = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mariadb": _mysql,
    "redis": _redis,
}
