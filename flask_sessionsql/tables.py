"""The table of the sessions.

Integers rather than ``DATETIME``: no time zone, and no difference between
drivers. Binary rather than text for the key: no collation can make two keys
one. It is a plain :class:`sqlalchemy.schema.Table` in the metadata of the bind,
so Alembic and Flask-Migrate see it like any table of the application.
"""

from __future__ import annotations

import threading

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from .exceptions import SessionTableError

__all__ = ["MAX_USER_ID", "sessions_table"]

#: Characters that ``user_id`` holds: what every database can index.
MAX_USER_ID = 255

_MYSQL = ("mysql", "mariadb")

# SQLAlchemy shows a new table to other threads before it has its columns.
_LOCK = threading.Lock()


def _columns() -> list[sa.Column[object]]:
    key: sa.types.TypeEngine[bytes] = sa.LargeBinary(32)
    data: sa.types.TypeEngine[bytes] = sa.LargeBinary()
    user_id: sa.types.TypeEngine[str] = sa.String(MAX_USER_ID)
    return [
        sa.Column("id", key.with_variant(mysql.BINARY(32), *_MYSQL), primary_key=True),
        sa.Column("handle", sa.String(16), nullable=False, index=True),
        sa.Column(
            "user_id",
            # Binary collation: "Ann" and "ann" may be two users.
            user_id.with_variant(
                mysql.VARCHAR(MAX_USER_ID, charset="utf8mb4", collation="utf8mb4_bin"),
                *_MYSQL,
            ),
            index=True,
        ),
        # BLOB holds 64 KiB on MariaDB; LONGBLOB 4 GiB.
        sa.Column("data", data.with_variant(mysql.LONGBLOB(), *_MYSQL), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False, index=True),
    ]


def sessions_table(
    metadata: sa.MetaData, name: str, schema: str | None = None
) -> sa.Table:
    """The table ``name`` in ``metadata``: the one that is already there, or a new
    one. An application factory can so run twice on one metadata.

    ======================= ===================================================
    ``id``                  the keyed hash of the token; primary key, 32 bytes
    ``handle``              names the session in logs and lists; opens nothing
    ``user_id``             the value of the session key ``SESSION_USER_KEY``
    ``data``                the serialized session
    ``version``             one more at every write
    ``created_at``          seconds since 1970, UTC
    ``expires_at``          seconds since 1970, UTC
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
            return sa.Table(name, metadata, *columns, schema=schema)
    missing = [column.name for column in columns if column.name not in there.columns]
    if missing:
        raise SessionTableError(
            f"The application already has a table {there.fullname!r} without the"
            f" columns {', '.join(missing)}, so it is not one for sessions. Set"
            " SESSION_SQLALCHEMY_TABLE to a name that is free."
        )
    return there
