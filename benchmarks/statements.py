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
from typing import Any
from unittest import mock

import psycopg
import pymysql.connections
from redis import Redis

#: Gives what was sent since it was last called: the first word of each statement, or
#: the name of the message.
Taken = Callable[[], list[str]]


@contextmanager
def counting(kind: str) -> Iterator[Taken]:
    """Count on the connections that are opened now: a database's, or Redis's."""
    sent: list[str] = []
    traces: list[Callable[[], list[str]]] = []

    def taken() -> list[str]:
        found = [each.split()[0].upper() for each in sent]
        sent.clear()
        return found + [each for other in traces for each in other()]

    with ExitStack() as stack:

        def watch(target: Any, name: str, note: Callable[..., object]) -> None:
            """Let ``note`` have what this function gives, and its arguments."""
            original = getattr(target, name)

            def traced(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                note(result, *args)
                return result

            stack.enter_context(mock.patch.object(target, name, traced))

        def command(result: object, connection: object, *args: Any) -> None:
            sql = args[-1] if kind == "mariadb" else args[0]
            # It may have values in it that are no text.
            sent.append(sql.decode(errors="replace") if isinstance(sql, bytes) else sql)

        def connected(connection: Any, *args: object) -> None:
            if kind == "sqlite":
                connection.set_trace_callback(sent.append)
            else:
                traces.append(trace(connection, stack))

        if kind == "sqlite":
            watch(sqlite3, "connect", connected)
            watch(sqlite3.dbapi2, "connect", connected)
        elif kind == "postgresql":
            watch(psycopg, "connect", connected)
        elif kind == "mariadb":
            # Only its fellow methods call it, so there is no public way to watch.
            watch(pymysql.connections.Connection, "_execute_command", command)
        else:
            watch(Redis, "execute_command", command)
        yield taken


def trace(connection: psycopg.Connection[Any], stack: ExitStack) -> Taken:
    """Let libpq trace a connection into a file."""
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
    connection.pgconn.trace(file.fileno())

    def taken() -> list[str]:
        """The messages of this side (F, for frontend) that run a statement."""
        if connection.closed:
            return []
        connection.pgconn.untrace()
        file.seek(0)
        found = file.read().decode(errors="replace")
        file.seek(0)
        file.truncate()
        connection.pgconn.trace(file.fileno())
        return re.findall(r"\tF\t\d+\t(Query|Execute)\t", found)

    return taken
