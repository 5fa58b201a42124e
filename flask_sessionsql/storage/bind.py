"""The bind that holds the sessions: finds the right database of an application when it
is first needed.

It does not look earlier, because Flask-SQLAlchemy may be set up after the sessions, or
not at all. Nothing here keeps the application alive.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext

import sqlalchemy as sa
from flask import Flask, appcontext_pushed, current_app, has_app_context
from flask_sqlalchemy import SQLAlchemy

from ..config import SessionConfig, check_driver, no_bind
from ..exceptions import SessionConfigError
from .adoption import foreign_table
from .driver import driver_in_transaction, in_transaction, record_statements
from .engines import sessions_engine
from .places import address_key, check_path
from .store import SessionStore
from .tables import sessions_table

__all__ = ["SessionsBind"]


#: All binds of this process, for its child processes.
_BINDS: weakref.WeakSet[SessionsBind] = weakref.WeakSet()


def _renew_locks() -> None:  # pragma: no cover -- not in this process
    """In a child process: make new locks, because the thread that held one is gone."""
    for bind in list(_BINDS):
        bind._lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch -- not on Windows
    os.register_at_fork(after_in_child=_renew_locks)


class SessionsBind:
    """The database of one application's sessions.

    :param app: the application. Its ``SQLALCHEMY_*`` settings are read now.
    :param config: the settings of its sessions.
    """

    def __init__(self, app: Flask, config: SessionConfig) -> None:
        self._app = weakref.ref(app)
        self._config = config
        self._options = app.config.get_namespace("SQLALCHEMY_", False, False)
        self._lock = threading.Lock()
        _BINDS.add(self)
        self._store: SessionStore | None = None
        self._check_path(app)
        if self._place_table(app) is None:
            # The SQLAlchemy object may come later. db.create_all() and migrations need
            # the table in its metadata, and an application context.
            appcontext_pushed.connect(self._on_context, app)

    def open_store(self) -> SessionStore:
        """The store of the sessions, one for all threads. It does not connect yet.

        :raises SessionConfigError: ``SESSION_SQLALCHEMY_BIND_KEY`` names no bind,
            ``SESSION_SQLALCHEMY`` is not set up for the application, or the instance
            folder cannot be created.
        """
        if self._store is None:
            with self._lock:
                if self._store is None:
                    self._store = self._open()
        return self._store

    def holds_lock(self) -> bool:
        """Whether the application may hold the lock that a statement on the sessions
        waits for, in the current context: on SQLite, the lock of the whole file.
        """
        return self.open_store().locks_whole_database and self._in_transaction()

    def _open(self) -> SessionStore:
        app, config = self._app(), self._config
        if app is None:
            raise RuntimeError("The application of these sessions is gone.")
        appcontext_pushed.disconnect(self._on_context, app)
        source, dispose = self._source(app)
        check_driver(source.url, config.bind_key)
        table = self._place_table(app)
        if table is None:
            metadata = sa.MetaData(info={"bind_key": config.bind_key})
            table = sessions_table(metadata, config.table, config.schema)
        timeout, alone = config.database_timeout, self._sqlalchemy(app) is None
        engine = sessions_engine(source, alone=alone, timeout=timeout)
        dispose()
        # Read only now: Flask-DebugToolbar, for example, may set it after us.
        if app.config.get("SQLALCHEMY_RECORD_QUERIES"):
            record_statements(engine)
        table, create = _translated(table, source), config.create_table
        store = SessionStore(engine, table, create_table=create, timeout=timeout)
        _dispose_with(source, store)
        # Not at exit: the connections then end with the process.
        weakref.finalize(app, store.dispose).atexit = False
        return store

    def _check_path(self, app: Flask) -> None:
        """Report an impossible path of a SQLite file at once, unless Flask-SQLAlchemy
        has done so, or a ``creator`` makes the connections.
        """
        creates = "creator" in (self._options.get("SQLALCHEMY_ENGINE_OPTIONS") or {})
        if self._sqlalchemy(app) or creates or self._config.bind_key is not None:
            return
        url = sa.make_url(self._config.database_uri)
        check_path(address_key(None), url, app.instance_path)

    # The SQLAlchemy object, if there is one.

    def _sqlalchemy(self, app: Flask) -> SQLAlchemy | None:
        there = self._config.sqlalchemy or app.extensions.get("sqlalchemy")
        return there if isinstance(there, SQLAlchemy) else None

    def _place_table(self, app: Flask) -> sa.Table | None:
        """The table in the metadata of its bind; ``None`` if that is not known yet."""
        db = self._sqlalchemy(app)
        metadata = db and db.metadatas.get(self._config.bind_key)
        if not isinstance(metadata, sa.MetaData):
            return None
        if self._config.adopt == "flask-session":
            # So that a migration does not drop it.
            schema = self._config.schema or metadata.schema
            foreign_table(metadata, self._config.adopt_table, schema)
        return sessions_table(metadata, self._config.table, self._config.schema)

    def _on_context(self, sender: Flask, **_: object) -> None:
        if self._place_table(sender) is not None:
            appcontext_pushed.disconnect(self._on_context, sender)

    def _source(self, app: Flask) -> tuple[sa.Engine, Callable[[], None]]:
        """The engine to imitate, and a function to call when that is done."""
        db = self._sqlalchemy(app)
        if db is not None:
            return _engine(app, db, self._config.bind_key), lambda: None
        # Flask-SQLAlchemy has the rules for addresses and options. For an application
        # without it, they are applied to another application.
        stand_in = Flask(app.import_name, instance_path=app.instance_path)
        stand_in.config.update(self._options)
        stand_in.config["SQLALCHEMY_DATABASE_URI"] = self._config.database_uri
        stand_in.config["SQLALCHEMY_ECHO"] = self._config.echo
        try:
            db = SQLAlchemy(stand_in)
        except OSError as error:
            raise SessionConfigError(
                address_key(self._config.bind_key),
                f"the instance folder {app.instance_path!r}, where the SQLite file"
                f" belongs, cannot be created: {error.strerror}. Let this process"
                " create it, or give the address of another database, such as a file"
                " with its full path.",
            ) from error
        engine = _engine(stand_in, db, self._config.bind_key)
        return engine, engine.dispose

    def _in_transaction(self) -> bool:
        """Whether the application's database session has a transaction open on the
        driver's connection in the current context, or a test around it has.
        """
        app = self._app()
        db = None if app is None else self._sqlalchemy(app)
        if db is None:
            return False
        begun = db.session.registry.has() and driver_in_transaction(db.session())
        return begun or any(map(_is_in_transaction, db.engines.values()))


def _is_in_transaction(engine: object) -> bool:
    """Whether ``engine`` is a connection in a transaction: tests that roll back
    everything use one instead of an engine.
    """
    return (
        isinstance(engine, sa.Connection)
        and not engine.closed
        and bool(in_transaction(engine.connection.dbapi_connection))
    )


def _translated(table: sa.Table, source: sa.Engine) -> sa.Table:
    """The table in the schema that the engine's ``schema_translate_map`` gives it."""
    options = source.get_execution_options()
    schema = options.get("schema_translate_map", {}).get(table.schema, table.schema)
    if schema == table.schema:
        return table
    own = table.metadata
    metadata = sa.MetaData(naming_convention=own.naming_convention, info={**own.info})
    return sessions_table(metadata, table.name, schema)


def _dispose_with(source: sa.Engine, store: SessionStore) -> None:
    """Close the connections when the application disposes of its engine: it may be
    about to drop the database.
    """
    reference = weakref.ref(store)

    def dispose(engine: sa.Engine) -> None:
        store = reference()
        if store is not None:  # pragma: no branch -- its application is gone
            store.dispose()

    sa.event.listen(source, "engine_disposed", dispose)


def _engine(app: Flask, db: SQLAlchemy, bind_key: str | None) -> sa.Engine:
    # A second context within a request would run the application's teardown functions
    # too early.
    current = has_app_context() and current_app._get_current_object() is app  # type: ignore[attr-defined]
    with nullcontext() if current else app.app_context():
        try:
            engines = db.engines
        except RuntimeError as error:  # its message says what to do
            raise SessionConfigError("SESSION_SQLALCHEMY", str(error)) from error
        try:
            # Tests that roll back everything put a connection here instead.
            return engines[bind_key].engine
        except KeyError:
            raise no_bind(bind_key, engines) from None
