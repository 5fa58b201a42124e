"""What the error of a database means, by the rules of the driver that raised it.

SQLAlchemy gives the errors of all drivers the same names, and each driver decides which
of them an error gets: of a missing database, PyMySQL's is an ``OperationalError`` and
mariadbconnector's a ``ProgrammingError``. What the server said is a code, which stands
in another place with each driver: that decides, where there is one.
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

#: SQLite's extended result code of a file that was moved, deleted or replaced:
#: SQLITE_READONLY_DBMOVED.
_SQLITE_MOVED = 1032

#: Its result code of a file that cannot be opened.
_SQLITE_CANNOT_OPEN = 14
#: SQLite's result codes of a file that cannot be written, and of a disk that is full.
_SQLITE_READ_ONLY, _SQLITE_FULL = 8, 13
#: Its result codes of a file that is damaged, and of one that is no database: errors
#: that sqlite3 does not call operational.
_SQLITE_DAMAGED = (11, 26)

#: A right that the database's user lacks: on PostgreSQL, and on MariaDB for a table, a
#: column, a database, a routine.
_DENIED = {"42501", 1142, 1143, 1044, 1370}

#: What stops some statements and lets others pass, such as those that read: it is
#: read-only, full, or locked.
_OF_SOME = {"25006", "53100", "55P03", 1290, 1792, 1836, 1021, 1114, 1205}

#: A serialization failure or a deadlock, on PostgreSQL, MariaDB and its clusters. Such
#: a statement has done nothing, so trying it again is safe.
_ROLLED_BACK = {"40001", "40P01", 1213}

#: A table, a column or a schema is missing: SQLSTATEs of PostgreSQL, numbers of
#: MariaDB, and SQLite's words, since it has no number for it.
_MISSING = {"42P01", "42703", "3F000", 1146, 1054, 1049}
_MISSING_TEXTS = ("no such table", "no such column", "has no column named")

#: A text has characters that the connection or the column lacks. On MariaDB they are
#: met when they are stored (1366), written (1300), converted (3988 on MySQL), and
#: compared with a column (1267).
_NOT_STORABLE = {"22021", "22P05", 1366, 1300, 3988, 1267}

#: A server says that it takes no writes any more, or nothing at all, and has not run
#: the statement. PostgreSQL: read-only; shutting down, crashed, starting up. MariaDB
#: and MySQL: read-only as a server (1290, 1836), as InnoDB (1874), in all transactions
#: (1792); not part of its cluster (1047, 3100); shutting down (1053); connection killed
#: (1927); off (3032, 3168).
_ELSEWHERE = {
    *("25006", "57P01", "57P02", "57P03"),
    *(1290, 1836, 1874, 1792),
    *(1047, 3100, 1053, 1927, 3032, 3168),
}

#: Those of them that end the connection, after a statement that may have been run.
_ENDED = {"57P01", "57P02", 1053, 1927}

#: A lock was waited for as long as was allowed.
_LOCKED = {"55P03", 1205}

#: What tells of the server or the way to it, and not of the statement. Of PostgreSQL,
#: the classes of its SQLSTATEs (its documentation, appendix A): connection,
#: authorization, no such database, rolled back, resources, locked, operator
#: intervention, system, configuration, internal error; and what is read-only, such as a
#: replica after a fail-over.
_OF_POSTGRESQL = ("08", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX", "25006")
#: Of MariaDB, what its connector calls an error of the program: access denied, no such
#: database. Numbers of the client itself begin with 2000.
_OF_MARIADB = {1044, 1045, 1049, 1698, *range(2000, 3000)}
#: And what PyMySQL calls one of the operation, though it is the table's: a value that
#: is missing, out of range, cut off, wrong or too long, or against a constraint.
_OF_VALUES = {1048, 1364, 1264, 1265, 1292, 1406, 3819, 4025}
#: Of any, where that does not say it: the drivers' own names.
_UNAVAILABLE = (
    sa_exc.OperationalError,
    sa_exc.InterfaceError,
    # A server that has become read-only, as MariaDB's drivers call it.
    sa_exc.InternalError,
    # No connection became free within the pool's time-out.
    sa_exc.TimeoutError,
)


#: What a socket raises, and pg8000 lets pass: SQLAlchemy does not take it for a lost
#: connection. Any other error of the system's is somebody else's.
OF_SOCKETS = (ConnectionError, TimeoutError)


class TextNotStorableError(Exception):
    """A text has characters that the database, or the connection to it, lacks."""


def codes(error: BaseException) -> set[object]:
    """The codes that the database gave with an error: SQLSTATEs as texts, and MariaDB's
    numbers.
    """
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
    """What the database or its driver said, without the statement, and without what
    PostgreSQL says besides: the row, for one.
    """
    told = getattr(error, "orig", None) or error
    primary = getattr(getattr(told, "diag", None), "message_primary", None)
    if primary is not None:  # psycopg, psycopg2
        return str(primary)
    first = next(iter(getattr(told, "args", ())), None)
    # pg8000 gives all that the server has told, as a dictionary.
    said = str(first.get("M")) if isinstance(first, dict) else str(told)
    return " ".join(said.split())  # it can have several lines


def kind(error: BaseException) -> frozenset[object]:
    """What tells an error from one of another kind: its codes, or else its name."""
    number = _sqlite_code(error)
    told: set[object] = codes(error) if number is None else {f"sqlite {number & 0xFF}"}
    if not told and isinstance(error, sa_exc.TimeoutError):
        told = {"QueuePool"}
    return frozenset(told or {type(getattr(error, "orig", None) or error).__name__})


def lacks_right(error: BaseException) -> bool:
    """Whether the database's user has not the right to do it."""
    return bool(codes(error) & _DENIED)


def is_read_only_file(error: BaseException) -> bool:
    """Whether a SQLite file cannot be written, as for want of a right."""
    code = _sqlite_code(error)
    return code is not None and code & 0xFF == _SQLITE_READ_ONLY


def concerns_statement(error: BaseException) -> bool:
    """Whether other statements than the one that has failed may well succeed."""
    code = _sqlite_code(error)
    if code is not None:
        return code & 0xFF in (*_SQLITE_BUSY, _SQLITE_READ_ONLY, _SQLITE_FULL)
    return bool(codes(error) & (_OF_SOME | _DENIED))


def plain(error: Exception) -> Exception:
    """An error without the row that PostgreSQL may show in it."""
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
    """Whether the database undid the statement in favour of another one."""
    return bool(codes(error) & _ROLLED_BACK)


def is_elsewhere(error: Exception) -> bool:
    """Whether the server says that it is not the one to ask, as after a fail-over."""
    return bool(codes(error) & _ELSEWHERE)


def waited_for_lock(error: Exception) -> bool:
    """Whether a lock was waited for as long as was allowed."""
    return bool(codes(error) & _LOCKED)


def is_not_storable(error: Exception) -> bool:
    """Whether a text has characters that the database, or the connection, lacks."""
    return isinstance(error, UnicodeError) or bool(codes(error) & _NOT_STORABLE)


def is_busy(error: Exception) -> bool:
    """Whether a SQLite file is locked by somebody else."""
    code = _sqlite_code(error)
    if code is not None:
        return code & 0xFF in _SQLITE_BUSY
    # SQLCipher's driver has words only.
    return not codes(error) and "is locked" in reason(error)


def cannot_open(error: Exception) -> bool:
    """Whether a SQLite file cannot be opened."""
    code = _sqlite_code(error)
    return code is not None and code & 0xFF == _SQLITE_CANNOT_OPEN


def is_replaced_file(error: Exception) -> bool:
    """Whether a SQLite file is not the one any more that was opened."""
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
    """Whether the database cannot be reached, or does not do its work now."""
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
