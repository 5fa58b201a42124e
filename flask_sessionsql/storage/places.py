"""The place of the table: what is wrong with a SQLite file, its folder or a schema, in
an error that says what to do.

That is nothing that passes, as an outage does, so it is no 503. Only what no start-up
code can mend is an error of :meth:`Session.init_app()
<flask_sessionsql.Session.init_app>`; the rest is looked for where a statement fails.
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
    """See that a SQLite file can be where an address says.

    :param key: the setting that has the address.
    :param folder: what the address is relative to.
    :raises SessionConfigError: something else is in its place.
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
            f"the SQLite file {path!r} cannot be made, because {above!r} is no folder."
            " Remove that, or give the path of a file in another folder.",
        )


def check_folder(key: str, url: sa.URL, folder: str) -> None:
    """See that a SQLite file can be made where an address says, now.

    :raises SessionConfigError: it cannot.
    """
    check_path(key, url, folder)
    path = _path(url, folder)
    if path is None or os.path.exists(path):
        return
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        raise SessionConfigError(
            key,
            f"the SQLite file {path!r} cannot be made, because there is no folder"
            f" {above!r}. Make it, or give the path of a file in a folder that there"
            " is.",
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise SessionConfigError(
            key,
            f"the SQLite file {path!r} cannot be made, because this process may not"
            f" write to the folder {above!r}. Let it, or give the path of a file in"
            " another folder.",
        )


def _path(url: sa.URL, folder: str) -> str | None:
    """Where a SQLite file is; ``None`` for any other database, and where only SQLite
    can say.
    """
    name = url.database
    if url.get_backend_name() != "sqlite" or not name or name == ":memory:":
        return None
    return None if name.startswith("file:") else os.path.join(folder, name)


def check_schema(reader: sa.Inspector, table: sa.Table) -> None:
    """See that the schema of a table is there.

    :raises SessionTableError: it is not.
    """
    if table.schema is not None and not reader.has_schema(table.schema):
        raise _no_schema(table.schema)


def explain(error: Exception, engine: sa.Engine, table: sa.Table) -> None:
    """Raise what an error of a statement comes from, if that is the place of the table.

    :raises SessionConfigError: the SQLite file cannot be made.
    :raises SessionTableError: there is no such schema.
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
        f"There is no schema {schema!r} in the database for the table of the sessions,"
        " or its user may not see it. Create it (CREATE SCHEMA; CREATE DATABASE on"
        " MariaDB; ATTACH on SQLite, at each connection), or set"
        " SESSION_SQLALCHEMY_SCHEMA to one that there is."
    )
    error.key = "SESSION_SQLALCHEMY_SCHEMA"
    return error
