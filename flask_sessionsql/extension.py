"""``Session``: what an application is given."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import nullcontext

import sqlalchemy as sa
from flask import Flask, appcontext_pushed, current_app, has_app_context
from flask_sqlalchemy import SQLAlchemy

from .config import SQL_TYPES, SessionConfig
from .engines import sessions_engine
from .exceptions import SessionConfigError
from .interfaces import FlaskSQLAlchemySessionInterface, NullSessionInterface
from .records import SessionRecords
from .serializers import MsgpackSerializer
from .store import SessionStore
from .tables import sessions_table

__all__ = ["Session"]

_NAME = "sessionsql"


class Session:
    """Puts the sessions of Flask applications into a SQL database.

    One object serves any number of applications and keeps nothing of theirs. It is
    not used for direct access: use :data:`flask.session`.

    >>> from flask import Flask
    >>> app = Flask("shop")
    >>> app.config.update(SESSION_TYPE="flask-sqlalchemy", SECRET_KEY="not so secret")
    >>> app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://")
    >>> Session(app)
    <Session>

    It may come before or after :meth:`SQLAlchemy.init_app()
    <flask_sqlalchemy.SQLAlchemy.init_app>`, and needs no ``SQLAlchemy`` object at all.
    Nothing is connected to before the first request that touches a session.

    :param app: call :meth:`init_app` with this application.
    """

    def __init__(self, app: Flask | None = None) -> None:
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def init_app(self, app: Flask) -> None:
        """Set up an application whose configuration is complete.

        The configuration is read here, once; changing it afterwards changes nothing.

        :param app: the application.
        :raises SessionConfigError: a value cannot work; the message says which, what
            was given and what is expected.
        :raises RuntimeError: the application has sessions of this kind already.
        """
        if _NAME in app.extensions:
            raise RuntimeError(
                "The sessions of this application have been set up already. Call"
                " Session(app) or init_app(app) once for each application."
            )
        config = SessionConfig.from_mapping(app.config)
        interface: FlaskSQLAlchemySessionInterface | NullSessionInterface
        if config.session_type in SQL_TYPES:
            database = _Database(app, config)
            interface = FlaskSQLAlchemySessionInterface(
                config, database.records, database.in_transaction
            )
        else:
            interface = NullSessionInterface(config)
        app.extensions[_NAME] = interface
        app.session_interface = interface


class _Database:
    """The sessions' table and store in one application, made when they are needed.

    Nothing here refers to the application: the sessions go when it goes, and their
    connections are closed then.
    """

    def __init__(self, app: Flask, config: SessionConfig) -> None:
        self._config = config
        self._options = app.config.get_namespace("SQLALCHEMY_", False, False)
        self._lock = threading.Lock()
        self._records: SessionRecords | None = None
        if self._place_table(app) is None:
            # The SQLAlchemy object comes after us, if ever. db.create_all() and
            # migrations need the table in its metadata, and an application context.
            appcontext_pushed.connect(self._on_context, app)

    # The SQLAlchemy object, if there is one.

    def _sqlalchemy(self, app: Flask) -> SQLAlchemy | None:
        there = self._config.sqlalchemy or app.extensions.get("sqlalchemy")
        return there if isinstance(there, SQLAlchemy) else None

    def _place_table(self, app: Flask) -> sa.Table | None:
        """The table, in the metadata of its bind; ``None`` where that is not known."""
        db = self._sqlalchemy(app)
        metadata = db and db.metadatas.get(self._config.bind_key)
        if not isinstance(metadata, sa.MetaData):
            return None
        return sessions_table(metadata, self._config.table, self._config.schema)

    def _on_context(self, sender: Flask, **_: object) -> None:
        if self._place_table(sender) is not None:
            appcontext_pushed.disconnect(self._on_context, sender)

    def in_transaction(self, app: Flask) -> bool:
        """Whether the application's database session has begun a transaction in the
        current context.
        """
        db = self._sqlalchemy(app)
        if db is None or not db.session.registry.has():
            return False
        return db.session().in_transaction()

    # The stored sessions.

    def records(self, app: Flask) -> SessionRecords:
        """The stored sessions of the application; connects to nothing yet."""
        if self._records is None:
            with self._lock:
                if self._records is None:
                    self._records = self._make_records(app)
        return self._records

    def _make_records(self, app: Flask) -> SessionRecords:
        appcontext_pushed.disconnect(self._on_context, app)
        config = self._config
        source, dispose = self._source(app)
        table = self._place_table(app)
        if table is None:
            table = sessions_table(sa.MetaData(), config.table, config.schema)
        engine = sessions_engine(source)
        dispose()
        store = SessionStore(engine, table, create_table=config.create_table)
        # Not at exit: then the connections end with the process, as all others do.
        weakref.finalize(app, store.dispose).atexit = False
        return SessionRecords(config, store, MsgpackSerializer())

    def _source(self, app: Flask) -> tuple[sa.Engine, Callable[[], None]]:
        """The engine to connect like, and what to do when that is settled."""
        db = self._sqlalchemy(app)
        if db is not None:
            return _engine(app, db, self._config.bind_key), lambda: None
        # Flask-SQLAlchemy has the rules for addresses and options; an application
        # without it gets them by way of one that has it.
        stand_in = Flask(app.import_name, instance_path=app.instance_path)
        stand_in.config.update(self._options)
        stand_in.config["SQLALCHEMY_DATABASE_URI"] = self._config.database_uri
        stand_in.config["SQLALCHEMY_ECHO"] = self._config.echo
        engine = _engine(stand_in, SQLAlchemy(stand_in), self._config.bind_key)
        return engine, engine.dispose


def _engine(app: Flask, db: SQLAlchemy, bind_key: str | None) -> sa.Engine:
    # A second context within a request would run the application's teardown functions
    # before their time.
    current = has_app_context() and current_app._get_current_object() is app  # type: ignore[attr-defined]
    with nullcontext() if current else app.app_context():
        try:
            return db.engines[bind_key]
        except KeyError:
            keys = sorted(str(key) for key in db.engines)
            raise SessionConfigError(
                "SESSION_SQLALCHEMY_BIND_KEY",
                f"expected one of the application's binds ({', '.join(keys)}); given"
                f" is {bind_key!r}. Add it to SQLALCHEMY_BINDS.",
            ) from None
