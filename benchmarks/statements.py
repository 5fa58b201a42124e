"""How many statements a driver sends, of every connection that it opens.

What is counted is what goes to the database: SQLite tells of each statement that it
runs, libpq of each message that it sends, PyMySQL of each command. So transactions that
a library opens and closes by itself are among them. It costs time, so nothing is timed
meanwhile.
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

#: Gives what was sent since it was last called: the first word of each statement.
Taken = Callable[[], list[str]]


def verb(statement: str) -> str:
    """The first word of a statement."""
    found = re.match(r"\s*(\w+)", statement)
    return found[1].upper() if found else "?"


@contextmanager
def counting(kind: str) -> Iterator[Taken]:
    """Count on the connections that are opened now.

    :param kind: the database, as SQLAlchemy calls it, or ``"redis"``.
    """
    with COUNTERS[kind]() as taken:
        yield taken


def _drain(sent: list[str]) -> Taken:
    def taken() -> list[str]:
        found = [verb(each) for each in sent]
        sent.clear()
        return found

    return taken


@contextmanager
def _sqlite() -> Iterator[Taken]:
    sent: list[str] = []
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **kwargs)
        connection.set_trace_callback(sent.append)
        return connection

    with (
        mock.patch.object(sqlite3, "connect", traced),
        mock.patch.object(sqlite3.dbapi2, "connect", traced),
    ):
        yield _drain(sent)


@contextmanager
def _postgresql() -> Iterator[Taken]:
    connect = psycopg.connect
    traces: list[_Trace] = []

    def traced(*args: Any, **kwargs: Any) -> psycopg.Connection[Any]:
        connection = connect(*args, **kwargs)
        traces.append(_Trace(connection, files))
        return connection

    def taken() -> list[str]:
        return [each for trace in traces for each in trace.taken()]

    with ExitStack() as files, mock.patch.object(psycopg, "connect", traced):
        yield taken


class _Trace:
    """libpq's trace of one connection."""

    def __init__(self, connection: psycopg.Connection[Any], files: ExitStack) -> None:
        self._connection = connection
        file = tempfile.TemporaryFile()  # noqa: SIM115 -- `files` closes it
        self._file: IO[bytes] = files.enter_context(file)
        self._read = 0
        #: The first words of the statements that are prepared, by name.
        self._prepared: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._connection.pgconn.trace(self._file.fileno())
        self._connection.pgconn.set_trace_flags(psycopg.pq.Trace.SUPPRESS_TIMESTAMPS)

    def taken(self) -> list[str]:
        if self._connection.closed:
            return []
        self._connection.pgconn.untrace()
        self._file.seek(self._read)
        lines = self._file.read().decode(errors="replace").splitlines()
        self._read = self._file.seek(0, 2)
        self._begin()
        found = []
        bound = "?"
        for line in lines:
            # F, for frontend: what this side says.
            if (message := re.match(r"F\t\d+\t(\w+)\t? ?(.*)", line)) is None:
                continue
            texts = re.findall(r'"([^"]*)"?', message[2])
            if message[1] == "Query":
                found.append(verb(texts[0]))
            elif message[1] == "Parse":
                self._prepared[texts[0]] = verb(texts[1])
            elif message[1] == "Bind":
                bound = self._prepared.get(texts[1], "?")
            elif message[1] == "Execute":
                found.append(bound)
        return found


@contextmanager
def _mysql() -> Iterator[Taken]:
    sent: list[str] = []
    # Only its fellow methods call it, so there is no public way to watch.
    execute: Any = vars(pymysql.connections.Connection)["_execute_command"]

    def traced(self: Any, command: int, sql: str | bytes) -> Any:
        sent.append(sql.decode(errors="replace") if isinstance(sql, bytes) else sql)
        return execute(self, command, sql)

    with mock.patch.object(pymysql.connections.Connection, "_execute_command", traced):
        yield _drain(sent)


@contextmanager
def _redis() -> Iterator[Taken]:
    from redis import Redis

    sent: list[str] = []
    execute: Any = Redis.execute_command

    def traced(self: Any, *args: Any, **options: Any) -> Any:
        sent.append(str(args[0]))
        return execute(self, *args, **options)

    with mock.patch.object(Redis, "execute_command", traced):
        yield _drain(sent)


COUNTERS = {
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mysql": _mysql,
    "redis": _redis,
}
