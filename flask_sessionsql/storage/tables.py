"""The table of the sessions.

Times are integers and not ``DATETIME``: no time zone, and no difference between
drivers. The key is binary and not text: no collation can make two keys equal. The table
is a plain :class:`sqlalchemy.schema.Table` in the metadata of the bind, so Alembic and
Flask-Migrate see it like any table of the application: see :doc:`/guides/migrations`.
The page :doc:`/reference/table` describes the columns.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from ..exceptions import SessionTableError
from ..sessions import MAX_LABEL

__all__ = [
    "LAST_SECOND",
    "MAX_ADDRESS",
    "MAX_USER_AGENT",
    "MAX_USER_ID",
    "as_time",
    "of_flask_session",
    "sessions_table",
]

#: Length of ``user_id`` in characters: what every database can index.
MAX_USER_ID = 255
#: An IPv6 address with a zone has about 60 characters at most.
MAX_ADDRESS = 64
MAX_USER_AGENT = 255
#: The last second of the year 9999.
LAST_SECOND = 253402300799

_MYSQL = ("mysql", "mariadb")

# SQLAlchemy makes a new table visible to other threads before it has columns.
_LOCK = threading.Lock()


def _columns() -> list[sa.Column[object]]:
    key: sa.types.TypeEngine[bytes] = sa.LargeBinary(32)
    data: sa.types.TypeEngine[bytes] = sa.LargeBinary()
    user_id: sa.types.TypeEngine[str] = sa.String(MAX_USER_ID)
    user_agent: sa.types.TypeEngine[str] = sa.String(MAX_USER_AGENT)
    label: sa.types.TypeEngine[str] = sa.String(MAX_LABEL)
    id_type = key.with_variant(mysql.BINARY(32), *_MYSQL)
    return [
        sa.Column("id", id_type, primary_key=True),
        sa.Column("handle", sa.String(16), nullable=False),
        sa.Column(
            "user_id",
            # Binary collation: "Ann" and "ann" may be two users.
            user_id.with_variant(
                mysql.VARCHAR(MAX_USER_ID, charset="utf8mb4", collation="utf8mb4_bin"),
                *_MYSQL,
            ),
        ),
        # On MariaDB, BLOB holds 64 KiB and LONGBLOB 4 GiB. PostgreSQL compresses the
        # column by default: 10 KB took a fifth of the space and no more time; 100 KB
        # took a tenth of the space and 1.5 times as long to write.
        sa.Column("data", data.with_variant(mysql.LONGBLOB(), *_MYSQL), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        # No index, because each visit moves the end: on PostgreSQL, 76 % of the updates
        # were HOT with one and 99 % without. purge_at has it instead, which requests
        # do not change. A fill factor changed neither figure by more than 1 %.
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        # Later columns may be null or have a default: adding one to a large table then
        # takes no time, and workers of the previous version can still insert.
        sa.Column("last_used_at", sa.BigInteger()),
        sa.Column("address", sa.String(MAX_ADDRESS)),
        sa.Column(
            "user_agent",
            user_agent.with_variant(
                mysql.VARCHAR(MAX_USER_AGENT, charset="utf8mb4"), *_MYSQL
            ),
        ),
        sa.Column("previous_id", id_type),
        # 0, in a row that was stored without it, makes the next purge look at the row.
        sa.Column(
            "purge_at", sa.BigInteger(), nullable=False, server_default="0", index=True
        ),
        # For lists, which do not decode the data. Requests read the label from the
        # data.
        sa.Column(
            "label",
            label.with_variant(mysql.VARCHAR(MAX_LABEL, charset="utf8mb4"), *_MYSQL),
        ),
    ]


def _add_indexes(table: sa.Table) -> None:
    """Add the indexes that ``index=True`` cannot express. Where the database can, they
    leave out the rows in which nobody has ever logged in, which are most: on SQLite,
    each index costs a new row 8 us and a page in the log. A session is therefore found
    by its handle through the index if it belongs to a user or its token has changed,
    and by reading the whole table otherwise.
    """
    moved = table.c.previous_id.is_not(None)
    is_users = table.c.user_id.is_not(None)
    for column, filled in (
        (table.c.handle, sa.or_(is_users, moved)),
        (table.c.user_id, is_users),
        (table.c.previous_id, moved),
    ):
        sa.Index(None, column, postgresql_where=filled, sqlite_where=filled)


def sessions_table(
    metadata: sa.MetaData, name: str, schema: str | None = None
) -> sa.Table:
    """The table ``name`` in ``metadata``: the existing one, or else a new one, so that
    an application factory can run twice on one metadata.

    ======================= ===================================================
    ``id``                  the keyed hash of the token; primary key, 32 bytes
    ``handle``              the public name of the session in logs and lists; it begins
                            with the time, so newer handles sort after older ones
    ``user_id``             the value of the session key ``SESSION_USER_KEY``
    ``data``                the serialized session
    ``version``             a counter of the writes
    ``created_at``          when the session was first stored, or its user logged in;
                            this and the other times are in seconds since 1970, UTC
    ``expires_at``          when it ends if it is not used again
    ``last_used_at``        when it was last used; null in rows that are older than the
                            column
    ``address``             the IP address of the last use, if ``SESSION_RECORD_CLIENT``
                            is on
    ``user_agent``          the browser of the last use, likewise
    ``previous_id``         set once the token has changed: the keyed hash, 32 bytes, of
                            what all tokens of the session have in common; it tells a
                            late request with an earlier token from a stranger's
    ``purge_at``            when the purge looks at the row next: ``expires_at`` as it
                            was when the purge last looked, or when the row was stored
    ``label``               what the application calls the session
    ======================= ===================================================

    :param metadata: where to look for the table, and where to add it.
    :param name: the table's name.
    :param schema: the database schema; ``None`` for the metadata's own.
    :raises SessionTableError: ``metadata`` has a table of that name that lacks columns,
        so it is a table of the application's.
    """
    columns = _columns()
    schema = schema or metadata.schema
    with _LOCK:
        there = metadata.tables.get(name if schema is None else f"{schema}.{name}")
        if there is None:
            table = sa.Table(name, metadata, *columns, schema=schema)
            _add_indexes(table)
            return table
    missing = [column.name for column in columns if column.name not in there.columns]
    if missing:
        known = of_flask_session(there.columns.keys(), there.name)
        raise SessionTableError(
            known
            or f"The application already has a table {there.fullname!r} without the"
            f" columns {', '.join(missing)}, so it is not a table of sessions. Set"
            " SESSION_SQLALCHEMY_TABLE to an unused name."
        )
    return there


def of_flask_session(columns: Iterable[str], name: str) -> str | None:
    """The error message for a table of Flask-Session's; ``None`` for any other table.

    :param columns: the names of its columns.
    :param name: its name.
    """
    if not {"session_id", "data", "expiry"}.issubset(columns):
        return None
    return (
        f"The table {name!r} is Flask-Session's and has other rows. Leave it as it is,"
        " and remove SESSION_SQLALCHEMY_TABLE or set it to an unused name. To adopt its"
        " sessions, so that nobody is logged out, set SESSION_ADOPT = 'flask-session'"
        f" and SESSION_ADOPT_TABLE = {name!r}: see the page 'Moving in' of the"
        " documentation."
    )


def as_time(seconds: int) -> datetime:
    """A time of a row, in UTC; the nearest possible time if somebody tampered with the
    row.
    """
    if not isinstance(seconds, int):  # SQLite stores anything in any column
        seconds = 0
    return datetime.fromtimestamp(min(max(seconds, 0), LAST_SECOND), UTC)
