"""Errors about the place of the table: a SQLite file, its folder or a schema.

They say what to do. They are not a 503, because they do not pass like an outage.
:meth:`Session.init_app() <flask_sessionsql.Session.init_app>` raises only those that no
later start-up code can mend; the others are checked when a statement fails.
"""

from __future__ import annotations

import os

import sqlalchemy as sa

from ..exceptions import SessionConfigError, SessionTableError
from .errors import cannot_open, reason

__all__ = ["address_key", "check_folder", "check_path", "check_schema", "explain"]


def address_key(bind_key: str | None) -> str:
    """The setting that has the address of a bind."""
    return "SQLALCHEMY_DATABASE_URI" if bind_key is None else "SQLALCHEMY_BINDS"


def check_path(key: str, url: sa.URL, folder: str) -> None:
    """Check that a SQLite file can be at the path in its address.

    :param key: the setting that has the address.
    :param folder: the folder that a relative path starts from.
    :raises SessionConfigError: something else is at that path.
    """
    path = _path(url, folder)
    if path is None:
        return
    if os.path.isdir(path):
        raise SessionConfigError(
            key,
            f"the SQLite file {path!r} is a folder. Give the path of a file, such as"
            f" {os.path.join(path, 'sessions.db')!r}.",
        )
    above = os.path.dirname(path)
    while not os.path.lexists(above) and os.path.dirname(above) != above:
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise SessionConfigError(
            key,
            f"the SQLite file {path!r} cannot be created, because {above!r} is not a"
            " folder. Remove that, or give the path of a file in another folder.",
        )


def check_folder(key: str, url: sa.URL, folder: str) -> None:
    """Check that a SQLite file can be created at the path in its address now.

    :raises SessionConfigError: it cannot be created.
    """
    check_path(key, url, folder)
    path = _path(url, folder)
    if path is None or os.path.exists(path):
        return
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        raise SessionConfigError(
            key,
            f"the SQLite file {path!r} cannot be created, because there is no folder"
            f" {above!r}. Create it, or give the path of a file in an existing folder.",
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise SessionConfigError(
            key,
            f"the SQLite file {path!r} cannot be created, because this process may not"
            f" write to the folder {above!r}. Allow it, or give the path of a file in"
            " another folder.",
        )


def _path(url: sa.URL, folder: str) -> str | None:
    """The path of a SQLite file; ``None`` for another database, and for an address that
    only SQLite can interpret.
    """
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    return None if name.startswith("file:") else os.path.join(folder, name)


def check_schema(reader: sa.Inspector, table: sa.Table) -> None:
    """Check that the schema of a table exists.

    :raises SessionTableError: it is missing.
    """
    if table.schema is not None and not reader.has_schema(table.schema):
        raise _no_schema(table.schema)


def explain(error: Exception, engine: sa.Engine, table: sa.Table) -> None:
    """Raise a better error for a failed statement if the place of the table is the
    cause.

    :raises SessionConfigError: the SQLite file cannot be created.
    :raises SessionTableError: the schema is missing.
    """
    if engine.dialect.name != "sqlite":
        return
    if cannot_open(error):
        key = address_key(table.metadata.info.get("bind_key"))
        check_folder(key, engine.url, os.curdir)
    elif table.schema is not None and "unknown database" in reason(error):
        raise _no_schema(table.schema) from error


def _no_schema(schema: str) -> SessionTableError:
    error = SessionTableError(
        f"There is no schema {schema!r} in the database for the sessions table, or the"
        " database's user may not see it. Create it (CREATE SCHEMA; CREATE DATABASE on"
        " MariaDB; ATTACH on SQLite, at each connection), or set"
        " SESSION_SQLALCHEMY_SCHEMA to an existing one."
    )
    error.key = "SESSION_SQLALCHEMY_SCHEMA"
    return error
