"""The floor: sessions on the raw driver, written by hand.

The least that a careful programmer would write for one application on one database: a
random token in the cookie, a keyed hash of it as the primary key, msgspec, one
connection a thread that is kept open in autocommit, the driver's plain ``execute``. The
row is read when the session is touched, and written when a key was assigned; a login
moves it to a new token. Row and cookie are renewed when a hundredth of the lifetime has
gone, as ours are. A request that does not touch its session costs nothing.

What it leaves out, and what has to be paid for beyond it: changes inside nested values
and requests at once are not noticed, nothing reconnects, there are no lists of
sessions, no purge, no events, no types beyond msgspec's.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin

USER = "_user_id"
#: The types of the key, of the data and of the expiry.
TYPES = {
    "sqlite": ("BLOB", "BLOB", "INTEGER"),
    "postgresql": ("BYTEA", "BYTEA", "BIGINT"),
    "mysql": ("BINARY(32)", "LONGBLOB", "BIGINT"),
}


class FloorSession(SessionMixin):
    """A mapping that is read at the first touch."""

    def __init__(self, load: Callable[[FloorSession], dict[str, Any] | None]) -> None:
        self._load = load
        self.loaded: dict[str, Any] | None = None
        self.modified = self.exists = False
        self.token = ""
        self.expires = 0
        self.user: object = None

    @property
    def data(self) -> dict[str, Any]:
        """What it holds."""
        if self.loaded is None:
            found = self._load(self)
            self.exists = found is not None
            self.loaded = found or {}
            self.user = self.loaded.get(USER)
        return self.loaded

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.data[key] = value
        self.modified = True

    def __delitem__(self, key: str) -> None:
        del self.data[key]
        self.modified = True

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


#: With the marks of SQLite for parameters.
STATEMENTS = {
    "select": "SELECT data, expires FROM floor WHERE id = ? AND expires > ?",
    "insert": "INSERT INTO floor VALUES (?, ?, ?)",
    "save": "UPDATE floor SET data = ?, expires = ? WHERE id = ?",
    "move": "UPDATE floor SET id = ?, data = ?, expires = ? WHERE id = ?",
    "delete": "DELETE FROM floor WHERE id = ?",
}


class FloorInterface(SessionInterface):
    """The session interface.

    :param url: the database. The table is created at once.
    """

    def __init__(self, url: sa.URL) -> None:
        self._url = url
        self._local = threading.local()
        self._connections: list[Any] = []
        kind = url.get_backend_name()
        mark = "?" if kind == "sqlite" else "%s"
        self._sql = {name: sql.replace("?", mark) for name, sql in STATEMENTS.items()}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
        key, data, expires = TYPES[kind]
        self.execute(
            f"CREATE TABLE IF NOT EXISTS floor (id {key} NOT NULL PRIMARY KEY,"
            f" data {data} NOT NULL, expires {expires} NOT NULL)",
            (),
        )

    def open_session(self, app: Flask, request: Request) -> FloorSession:
        """A session that is not read yet."""

        def load(session: FloorSession) -> dict[str, Any] | None:
            token = request.cookies.get("session")
            if token is None:
                return None
            session.token = token
            key = self._row_id(app, token)
            row = self.execute(self._sql["select"], (key, int(time.time()))).fetchone()
            if row is None:
                return None
            session.expires = row[1]
            return self._decode(row[0])

        return FloorSession(load)

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Store it if a key was assigned, and now and then to renew it."""
        assert isinstance(session, FloorSession)
        if session.loaded is None:
            return
        response.vary.add("Cookie")
        lifetime = int(app.permanent_session_lifetime.total_seconds())
        expires = int(time.time()) + lifetime
        renewed = expires - session.expires >= lifetime // 100
        if not renewed:
            expires = session.expires
        if not session.modified and not (session.exists and renewed):
            return
        token = session.token
        if not session:
            if session.exists:
                self.execute(self._sql["delete"], (self._row_id(app, token),))
                response.delete_cookie("session", httponly=True)
            return
        data = self._encode(session.data)
        if not session.exists:
            token = secrets.token_urlsafe(32)
            self.execute(self._sql["insert"], (self._row_id(app, token), data, expires))
        elif session.get(USER) != session.user:
            renewed = True
            before, token = token, secrets.token_urlsafe(32)
            keys = self._row_id(app, token), self._row_id(app, before)
            self.execute(self._sql["move"], (keys[0], data, expires, keys[1]))
        else:
            self.execute(self._sql["save"], (data, expires, self._row_id(app, token)))
        if renewed:
            response.set_cookie(
                "session",
                token,
                expires=datetime.fromtimestamp(expires, UTC),
                httponly=True,
            )

    def _row_id(self, app: Flask, token: str) -> bytes:
        assert isinstance(app.secret_key, str)
        return hmac.digest(app.secret_key.encode(), token.encode(), "sha256")

    def execute(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        """Run one statement on this thread's connection."""
        if not hasattr(self._local, "execute"):
            self._local.execute = self._connect()
        return self._local.execute(statement, parameters)

    def _connect(self) -> Any:
        """A new connection's way to run a statement."""
        dialect = self._url.get_dialect()()
        arguments, options = dialect.create_connect_args(self._url)
        connection = dialect.import_dbapi().connect(*arguments, **options)
        self._connections.append(connection)
        if dialect.name == "sqlite":
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            return connection.execute
        if dialect.name == "postgresql":
            connection.autocommit = True
            return connection.execute
        connection.autocommit(True)
        cursor = connection.cursor()

        def execute(statement: str, parameters: tuple[Any, ...]) -> Any:
            cursor.execute(statement, parameters)
            return cursor

        return execute

    def close(self) -> None:
        """Close every thread's connection."""
        while self._connections:
            self._connections.pop().close()
