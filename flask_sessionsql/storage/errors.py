"""What an error of a database means, for each driver.

SQLAlchemy has one set of error classes, but each driver decides which class an error
gets: for a missing database, PyMySQL raises an ``OperationalError`` and
mariadbconnector a ``ProgrammingError``. The server's error code is reliable, but each
driver stores it in another place. If there is a code, it decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from sqlalchemy import exc as sa_exc

__all__ = [
    "OF_SOCKETS",
    "TextNotStorableError",
    "blames_schema",
    "cannot_open",
    "codes",
    "concerns_statement",
    "is_busy",
    "is_elsewhere",
    "is_lost",
    "is_not_storable",
    "is_read_only_file",
    "is_replaced_file",
    "is_unavailable",
    "kind",
    "lacks_right",
    "plain",
    "reason",
    "waited_for_lock",
    "was_rolled_back",
]

#: SQLite's result codes for a lock that somebody else holds: on the file, and on a
#: table in a shared cache.
_SQLITE_BUSY = (5, 6)

#: SQLite's extended result code for a file that was moved, deleted or replaced:
#: SQLITE_READONLY_DBMOVED.
_SQLITE_MOVED = 1032

#: Its result code for a file that cannot be opened.
_SQLITE_CANNOT_OPEN = 14
#: SQLite's result codes for a file that cannot be written, and for a full disk.
_SQLITE_READ_ONLY, _SQLITE_FULL = 8, 13
#: Its result codes for a damaged file, and for one that is not a database: sqlite3 does
#: not raise an OperationalError for these.
_SQLITE_DAMAGED = (11, 26)

#: The database's user lacks a right: on PostgreSQL, and on MariaDB for a table, a
#: column, a database, a routine.
_DENIED = {"42501", 1142, 1143, 1044, 1370}

#: Stops only some statements, and not those that read: the database is read-only, full,
#: or locked.
_OF_SOME = {"25006", "53100", "55P03", 1290, 1792, 1836, 1021, 1114, 1205}

#: A serialization failure or a deadlock, on PostgreSQL, MariaDB and its clusters. Such
#: a statement has done nothing, so trying it again is safe.
_ROLLED_BACK = {"40001", "40P01", 1213}

#: A table, a column or a schema is missing: SQLSTATEs of PostgreSQL, numbers of
#: MariaDB, and texts of SQLite, which has no number for it.
_MISSING = {"42P01", "42703", "3F000", 1146, 1054, 1049}
_MISSING_TEXTS = ("no such table", "no such column", "has no column named")

#: A text has characters that the connection or the column cannot hold. MariaDB says so
#: when they are stored (1366), written (1300), converted (3988 on MySQL) or compared
#: with a column (1267).
_NOT_STORABLE = {"22021", "22P05", 1366, 1300, 3988, 1267}

#: The server takes no writes, or nothing at all, and has not run the statement.
#: PostgreSQL: read-only; shutting down, crashed, starting up. MariaDB and MySQL:
#: read-only as a server (1290, 1836), as InnoDB (1874), in all transactions (1792); not
#: part of its cluster (1047, 3100); shutting down (1053); connection killed (1927); off
#: (3032, 3168).
_ELSEWHERE = {
    *("25006", "57P01", "57P02", "57P03"),
    *(1290, 1836, 1874, 1792),
    *(1047, 3100, 1053, 1927, 3032, 3168),
}

#: Those that end the connection; the statement may have been run.
_ENDED = {"57P01", "57P02", 1053, 1927}

#: Waiting for a lock took longer than allowed.
_LOCKED = {"55P03", 1205}

#: Errors about the server or the network, not about the statement. For PostgreSQL, the
#: classes of its SQLSTATEs (its documentation, appendix A): connection,
#: authorization, no such database, rolled back, resources, locked, operator
#: intervention, system, configuration, internal error; and read-only, such as a replica
#: after a fail-over.
_OF_POSTGRESQL = ("08", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX", "25006")
#: For MariaDB, what its connector calls a programming error: access denied, no such
#: database. Numbers from 2000 are errors of the client itself.
_OF_MARIADB = {1044, 1045, 1049, 1698, *range(2000, 3000)}
#: What PyMySQL calls an operational error although it is about the table: a value is
#: missing, out of range, cut off, wrong or too long, or violates a constraint.
_OF_VALUES = {1048, 1364, 1264, 1265, 1292, 1406, 3819, 4025}
#: For errors without a code: the classes.
_UNAVAILABLE = (
    sa_exc.OperationalError,
    sa_exc.InterfaceError,
    # MariaDB's drivers raise it for a server that has become read-only.
    sa_exc.InternalError,
    # No connection became free within the pool's time-out.
    sa_exc.TimeoutError,
)


#: Errors of sockets, which pg8000 lets through: SQLAlchemy does not recognize them as a
#: lost connection. Other errors of the operating system have other causes.
OF_SOCKETS = (ConnectionError, TimeoutError)


class TextNotStorableError(Exception):
    """A text has characters that the database or the connection cannot hold."""


def codes(error: BaseException) -> set[object]:
    """The codes of an error: SQLSTATEs as texts, MariaDB's as numbers."""
    return set(_codes(getattr(error, "orig", None)))


def _codes(told: BaseException | None) -> Iterator[object]:
    # psycopg and mariadbconnector, psycopg2, mariadbconnector.
    for name in ("sqlstate", "pgcode", "errno"):
        code = getattr(told, name, None)
        if code is not None:
            yield code
    first = next(iter(getattr(told, "args", ())), None)
    if isinstance(first, int):  # PyMySQL, mysqlclient
        yield first
    elif isinstance(first, dict):  # pg8000
        yield first.get("C")


def reason(error: BaseException) -> str:
    """The message of the database or its driver, without the statement and without
    PostgreSQL's details, which may contain the row.
    """
    told = getattr(error, "orig", None) or error
    primary = getattr(getattr(told, "diag", None), "message_primary", None)
    if primary is not None:  # psycopg, psycopg2
        return str(primary)
    first = next(iter(getattr(told, "args", ())), None)
    # pg8000 has all fields of the server's message in a dictionary.
    said = str(first.get("M")) if isinstance(first, dict) else str(told)
    return " ".join(said.split())  # it can have several lines


def kind(error: BaseException) -> frozenset[object]:
    """What distinguishes kinds of errors: the codes, or else the name of the class."""
    number = _sqlite_code(error)
    told: set[object] = codes(error) if number is None else {f"sqlite {number & 0xFF}"}
    if not told and isinstance(error, sa_exc.TimeoutError):
        told = {"QueuePool"}
    return frozenset(told or {type(getattr(error, "orig", None) or error).__name__})


def lacks_right(error: BaseException) -> bool:
    """Whether the database's user lacks the right to do this."""
    return bool(codes(error) & _DENIED)


def is_read_only_file(error: BaseException) -> bool:
    """Whether a SQLite file cannot be written, for example because of its rights."""
    code = _sqlite_code(error)
    return code is not None and code & 0xFF == _SQLITE_READ_ONLY


def concerns_statement(error: BaseException) -> bool:
    """Whether other statements may succeed although this one has failed."""
    code = _sqlite_code(error)
    if code is not None:
        return code & 0xFF in (*_SQLITE_BUSY, _SQLITE_READ_ONLY, _SQLITE_FULL)
    return bool(codes(error) & (_OF_SOME | _DENIED))


def plain(error: Exception) -> Exception:
    """The error without the row that PostgreSQL may show in it."""
    wrapped = cast(sa_exc.DBAPIError, error)
    told: Any = getattr(error, "orig", None)
    first = next(iter(getattr(told, "args", ())), None)
    if hasattr(told, "diag"):  # psycopg, psycopg2
        less = type(told)(reason(error))
    elif isinstance(first, dict):  # pg8000
        less = type(told)({name: first[name] for name in first if name in "SCM"})
    else:
        return error
    return type(wrapped)(wrapped.statement, None, less, hide_parameters=True)


def blames_schema(error: Exception) -> bool:
    """Whether the database says that a table, a column or a schema is missing."""
    told = str(getattr(error, "orig", ""))
    return bool(codes(error) & _MISSING) or any(text in told for text in _MISSING_TEXTS)


def was_rolled_back(error: Exception) -> bool:
    """Whether the database rolled the statement back in favor of another one."""
    return bool(codes(error) & _ROLLED_BACK)


def is_elsewhere(error: Exception) -> bool:
    """Whether another server has to be asked, as after a fail-over."""
    return bool(codes(error) & _ELSEWHERE)


def waited_for_lock(error: Exception) -> bool:
    """Whether waiting for a lock took longer than allowed."""
    return bool(codes(error) & _LOCKED)


def is_not_storable(error: Exception) -> bool:
    """Whether a text has characters that the database or connection cannot hold."""
    return isinstance(error, UnicodeError) or bool(codes(error) & _NOT_STORABLE)


def is_busy(error: Exception) -> bool:
    """Whether a SQLite file is locked by somebody else."""
    code = _sqlite_code(error)
    if code is not None:
        return code & 0xFF in _SQLITE_BUSY
    # SQLCipher's driver has no codes.
    return not codes(error) and "is locked" in reason(error)


def cannot_open(error: Exception) -> bool:
    """Whether a SQLite file cannot be opened."""
    code = _sqlite_code(error)
    return code is not None and code & 0xFF == _SQLITE_CANNOT_OPEN


def is_replaced_file(error: Exception) -> bool:
    """Whether a SQLite file was replaced since it was opened."""
    return _sqlite_code(error) == _SQLITE_MOVED


def _is_damaged(error: Exception) -> bool:
    code = _sqlite_code(error)
    return code is not None and code & 0xFF in _SQLITE_DAMAGED


def _sqlite_code(error: BaseException) -> int | None:
    return getattr(getattr(error, "orig", None), "sqlite_errorcode", None)


def is_lost(error: Exception) -> bool:
    """Whether the connection was lost."""
    if isinstance(error, OF_SOCKETS) or getattr(error, "connection_invalidated", False):
        return True
    return bool(codes(error) & _ENDED)


def is_unavailable(error: Exception) -> bool:
    """Whether the database cannot be reached or does not work at the moment."""
    if is_lost(error) or is_elsewhere(error) or _is_damaged(error):
        return True
    told = codes(error)
    if any(isinstance(code, int) for code in told):
        of_server = bool(told & _OF_MARIADB) or isinstance(error, _UNAVAILABLE)
        return of_server and not told & _OF_VALUES
    states = [code for code in told if isinstance(code, str)]
    if states:
        return any(state.startswith(_OF_POSTGRESQL) for state in states)
    return isinstance(error, _UNAVAILABLE)
