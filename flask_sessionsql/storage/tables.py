"""The table of the sessions.

Integers rather than ``DATETIME``: no time zone, and no difference between
drivers. Binary rather than text for the key: no collation can make two keys
one. It is a plain :class:`sqlalchemy.schema.Table` in the metadata of the bind,
so Alembic and Flask-Migrate see it like any table of the application: see
:doc:`/guides/migrations`.
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

#: Characters that ``user_id`` holds: what every database can index.
MAX_USER_ID = 255
#: An IPv6 address with a zone has at most 60 characters or so.
MAX_ADDRESS = 64
MAX_USER_AGENT = 255
#: The last second of the year 9999.
LAST_SECOND = 253402300799

_MYSQL = ("mysql", "mariadb")

# SQLAlchemy shows a new table to other threads before it has its columns.
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
        # BLOB holds 64 KiB on MariaDB; LONGBLOB 4 GiB. PostgreSQL compresses it, as it
        # does by default: 10 KB took a fifth of the room and no longer, and 100 KB a
        # tenth, and 1.5 times as long to write.
        sa.Column("data", data.with_variant(mysql.LONGBLOB(), *_MYSQL), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        # No index: on PostgreSQL, 76 % of the updates were HOT with one, as each visit
        # moves the end once, and 99 % without. purge_at, which requests leave alone,
        # has it instead. A fill factor changed neither figure by more than 1 %.
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        # Columns that came later may be empty or have a default, so that adding one
        # takes no time on a large table, and workers of the version before go on
        # inserting.
        sa.Column("last_used_at", sa.BigInteger()),
        sa.Column("address", sa.String(MAX_ADDRESS)),
        sa.Column(
            "user_agent",
            user_agent.with_variant(
                mysql.VARCHAR(MAX_USER_AGENT, charset="utf8mb4"), *_MYSQL
            ),
        ),
        sa.Column("previous_id", id_type),
        # 0, of a row that was stored without it, lets the next purge look at the row.
        sa.Column(
            "purge_at", sa.BigInteger(), nullable=False, server_default="0", index=True
        ),
        # For lists, which decode no data. Requests read it with the data.
        sa.Column(
            "label",
            label.with_variant(mysql.VARCHAR(MAX_LABEL, charset="utf8mb4"), *_MYSQL),
        ),
    ]


def _add_indexes(table: sa.Table) -> None:
    """Add the indexes that a column cannot ask for. On most rows nobody has ever logged
    in; where the database can, they are left out. On SQLite, each index that a new row
    enters costs 8 us and a page in the log. So a handle leads straight to a session
    that has moved to a new token or is a user's, and to another one by way of the whole
    table.
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
    """The table ``name`` in ``metadata``: the one that is already there, or a new
    one. An application factory can so run twice on one metadata.

    ======================= ===================================================
    ``id``                  the keyed hash of the token; primary key, 32 bytes
    ``handle``              names the session in logs and lists; opens nothing; begins
                            with the time, so that newer ones sort after older ones
    ``user_id``             the value of the session key ``SESSION_USER_KEY``
    ``data``                the serialized session
    ``version``             one more at every write
    ``created_at``          when it began, or its user logged in; seconds since
                            1970, UTC
    ``expires_at``          when it ends if it is not used; seconds since 1970, UTC
    ``last_used_at``        seconds since 1970, UTC; null in rows that were stored
                            before the column was there
    ``address``             where it was last used from, if ``SESSION_RECORD_CLIENT``
                            is on
    ``user_agent``          what it was last used with, likewise
    ``previous_id``         filled once the token has changed: the keyed hash, 32 bytes,
                            of what all tokens of the session have in common; who comes
                            with an earlier one is late, and not a stranger
    ``purge_at``            when the purge looks at the row next: ``expires_at`` as it
                            was at the last look or, before one, at first
    ``label``               what the application calls the session, if it has set it
    ======================= ===================================================

    :param metadata: where the table is, or is to be.
    :param name: the table's name.
    :param schema: the database schema; ``None`` for the metadata's own.
    :raises SessionTableError: ``metadata`` holds a table of that name which lacks
        one of the columns, so it is somebody else's.
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
            f" columns {', '.join(missing)}, so it is not one for sessions. Set"
            " SESSION_SQLALCHEMY_TABLE to a name that is free."
        )
    return there


def of_flask_session(columns: Iterable[str], name: str) -> str | None:
    """What to say of a table that is Flask-Session's; ``None`` of any other.

    :param columns: the names of its columns.
    :param name: its name.
    """
    if not {"session_id", "data", "expiry"}.issubset(columns):
        return None
    return (
        f"The table {name!r} is Flask-Session's, whose rows mean something else. Leave"
        " it as it is, and remove SESSION_SQLALCHEMY_TABLE, or set it to a name that"
        " is free. With SESSION_ADOPT = 'flask-session' and SESSION_ADOPT_TABLE ="
        f" {name!r} nobody is logged out: see the page 'Moving in' of the"
        " documentation."
    )


def as_time(seconds: int) -> datetime:
    """A time in a row, in UTC; the nearest year that a calendar has, if the row was
    tampered with.
    """
    if not isinstance(seconds, int):  # SQLite keeps anything in any column
        seconds = 0
    return datetime.fromtimestamp(min(max(seconds, 0), LAST_SECOND), UTC)
