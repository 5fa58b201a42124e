"""The applications that are compared: the same views on different sessions.

Each has six requests. Those that need a live session are given its cookie.

=========== ===========================================================================
anonymous   no cookie; the view does not touch the session
untouched   a live session; the view does not touch it
read        a live session; the view reads two keys
write       a live session; the view counts a number in it up, so it has to be stored
new         no cookie; the view begins a session with the payload
login       a live session of nobody; the view puts a user into it
=========== ===========================================================================

All sessions are permanent, in the word of Flask: their cookies have an end. All SQLite
files are in WAL mode with ``synchronous = NORMAL``. Beyond that, all are as they come:

nothing
    A session that is empty, stays empty and is never saved: what Flask itself costs,
    and what everybody's overhead is measured from.
cookie
    Flask's own. It reads and signs the cookie in every request, touched or not, since
    a permanent cookie is renewed by each. A login does not change a token: there is
    none. It holds no more than a cookie does, so large payloads are left out.
flask-session
    Flask-Session on SQLAlchemy. It reads the row in every request, and stores it in
    every request whose session is not empty. A login calls its ``regenerate()``, as
    its documentation advises, which deletes the row and inserts another. On MariaDB its
    column takes 64 KiB at most, so larger payloads are left out.
flask-session-redis
    The same on Redis.
raw
    The floor, :mod:`benchmarks.floor`.
ours
    Flask-SessionSql as ``Session(app)`` sets it up, without a ``SQLAlchemy`` object: it
    needs none, and an application that has one pays for that with any session. A login
    changes the token by itself. Row and cookie are renewed when a hundredth of the
    lifetime has gone, so none of the requests here does it, as on the floor. All others
    do it at each write.
django-nothing, django
    :mod:`benchmarks.django_peer`. Django loads and stores a session when it is
    touched, as ours, and calls ``cycle_key()`` at a login, as its own login does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from flask import Flask, Request, Response, session
from flask.sessions import SessionInterface, SessionMixin
from flask_sqlalchemy import SQLAlchemy

#: What a server calls.
WSGIApplication = Callable[..., Iterable[bytes]]

ANONYMOUS, UNTOUCHED, READ, WRITE, NEW, LOGIN = REQUESTS = (
    "anonymous",
    "untouched",
    "read",
    "write",
    "new",
    "login",
)

NOTHING = "nothing"
COOKIE = "cookie"
FLASK_SESSION = "flask-session"
FLASK_SESSION_REDIS = "flask-session-redis"
RAW = "raw"
OURS = "ours"
DJANGO_NOTHING = "django-nothing"
DJANGO = "django"
CONTENDERS = (
    NOTHING,
    COOKIE,
    RAW,
    OURS,
    FLASK_SESSION,
    FLASK_SESSION_REDIS,
    DJANGO_NOTHING,
    DJANGO,
)
#: Those whose sessions are in a SQL database.
ON_SQL = {RAW, OURS, FLASK_SESSION, DJANGO}
#: What each one's overhead is measured from.
BASELINE = {
    name: DJANGO_NOTHING if name.startswith("django") else NOTHING
    for name in CONTENDERS
}
#: The bytes of a session that fit into a cookie, which is 4096 with its name, its
#: attributes and its signature, in base64.
MOST_IN_COOKIE = 2500
#: The bytes of MariaDB's BLOB.
MOST_IN_BLOB = 65535

KEY = "the key of a benchmark"
USER = "4711"
#: Begins the keys that are ours on Redis, unless something else is chosen.
REDIS_PREFIX = "sessionsql-benchmark:"


# What a session holds.


def make_payload(size: int) -> dict[str, Any]:
    """A shop's session of about ``size`` bytes, 150 at least, as msgspec packs it."""
    data: dict[str, Any] = {
        "name": "Ann Example",
        "visits": 1,
        "language": "en-GB",
        "last_page": "/shop/books/0123456789",
        "csrf_token": "0f" * 16,
        "newsletter": True,
        "referrer": None,
        "note": "",
    }
    orders: list[dict[str, Any]] = []
    if size > 1000:
        data["orders"] = orders
        while packed_size(data) < size - 150:
            number = len(orders)
            orders.append(
                {
                    "number": 100_000 + 7 * number,
                    "title": f"The book of the number {number}",
                    "price": 5 + number % 40 + 0.95,
                    "date": f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}",
                    "paid": number % 5 != 0,
                    "tags": ["paper", "second hand"][: number % 3],
                }
            )
    data["note"] = ("Please leave it with the neighbours. " * 10)[
        : size - packed_size(data)
    ]
    return data


def cannot_hold(name: str, database: str, size: int) -> str | None:
    """Why a contender cannot hold a session of this size, if it cannot.

    :param database: as SQLAlchemy calls it.
    """
    if name == COOKIE and size > MOST_IN_COOKIE:
        return "it does not fit into a cookie"
    if name == FLASK_SESSION and database == "mysql" and size > MOST_IN_BLOB:
        return "it does not fit into the BLOB that its table has on MariaDB"
    return None


def packed_size(data: object) -> int:
    """The bytes of ``data``, as msgspec packs it."""
    return len(msgspec.msgpack.encode(data))


# The views.


def add_views(
    app: Flask,
    payload: Mapping[str, Any],
    begun: Callable[[], object],
    logged_in: Callable[[], object],
) -> None:
    """Give an application its views.

    :param begun: what an application with these sessions does when one begins.
    :param logged_in: likewise when a user has been put into one.
    """

    @app.get("/anonymous")
    @app.get("/untouched")
    def untouched() -> str:
        return "ok"

    @app.get("/read")
    def read() -> str:
        return f"{session.get('name')} {session.get('visits')}"

    @app.get("/write")
    def write() -> str:
        visits = session.get("visits", 0) + 1
        session["visits"] = visits
        return str(visits)

    @app.get("/new")
    def new() -> str:
        session.update(payload)
        begun()
        return "ok"

    @app.get("/login")
    def login() -> str:
        session["_user_id"] = USER
        logged_in()
        return "ok"


def nothing() -> None:
    """What most have to do besides."""


# The sessions.


class NoSession(dict[str, Any], SessionMixin):
    """Empty for ever."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Nothing is kept."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""


class NoSessionInterface(SessionInterface):
    """Gives all requests the same empty session."""

    empty = NoSession()

    def open_session(self, app: Flask, request: Request) -> NoSession:
        """The empty session."""
        return self.empty

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Nothing is saved."""


def use_wal(engine: sa.Engine) -> None:
    """Let the connections of an engine on a SQLite file be as all others are."""

    def connected(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    if engine.url.get_backend_name() == "sqlite":
        sa.event.listen(engine, "connect", connected)


def flask_sqlalchemy(app: Flask, url: sa.URL) -> SQLAlchemy:
    """The database of an application."""
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db = SQLAlchemy(app)
    with app.app_context():
        use_wal(db.engine)
    return db


# The contenders.


@dataclass(frozen=True)
class Peer:
    """An application that is compared."""

    name: str
    #: To be called as a server does.
    wsgi: WSGIApplication
    #: Closes its connections.
    close: Callable[[], object]


def make_peer(
    name: str,
    payload: Mapping[str, Any],
    database: sa.URL | None = None,
    redis: str | None = None,
    redis_prefix: str = REDIS_PREFIX,
) -> Peer:
    """One of :data:`CONTENDERS`. Its table is created, if it has one.

    :param payload: what its view ``/new`` puts into a session.
    :param database: for those of :data:`ON_SQL`. Give each a SQLite file of its own, so
        that none empties another one's cache.
    :param redis: the address of Redis, for the one on it.
    :param redis_prefix: begins the keys there. All of them are deleted when the peer is
        closed.
    """
    if name in {DJANGO, DJANGO_NOTHING}:
        from .django_peer import django_application

        return Peer(name, *django_application(database, payload))
    app = Flask("benchmark")
    app.config["SECRET_KEY"] = KEY
    # What is broken is to stop a benchmark, not to be answered.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    begun: Callable[[], object] = nothing
    logged_in: Callable[[], object] = nothing
    close: Callable[[], object] = nothing
    if name == NOTHING:
        app.session_interface = NoSessionInterface()
    elif name == COOKIE:
        begun = set_permanent
    elif name == RAW:
        from .floor import FloorInterface

        assert database is not None
        app.session_interface = floor = FloorInterface(database)
        close = floor.close
    elif name == OURS:
        assert database is not None
        close = set_up_ours(app, database)
    else:
        assert name in {FLASK_SESSION, FLASK_SESSION_REDIS}, name
        close = set_up_flask_session(app, database, redis, redis_prefix)

        def logged_in() -> None:
            interface: Any = app.session_interface
            interface.regenerate(session)

    add_views(app, payload, begun, logged_in)
    return Peer(name, app.wsgi_app, close)


def set_permanent() -> None:
    """What Flask's own sessions need for a cookie with an end."""
    session.permanent = True


def set_up_ours(app: Flask, database: sa.URL) -> Callable[[], object]:
    """Flask-SessionSql. What closes its connections."""
    from flask_sessionsql import Session
    from flask_sessionsql.interfaces import FlaskSQLAlchemySessionInterface

    app.config["SQLALCHEMY_DATABASE_URI"] = database
    app.config["SESSION_TYPE"] = "flask-sqlalchemy"
    Session(app)
    interface = app.session_interface
    assert isinstance(interface, FlaskSQLAlchemySessionInterface)
    use_wal(interface.records(app).store.engine)

    def close() -> None:
        interface.records(app).store.dispose()

    return close


def set_up_flask_session(
    app: Flask, database: sa.URL | None, redis: str | None, prefix: str
) -> Callable[[], object]:
    """Flask-Session, on SQLAlchemy or on Redis. What closes its connections."""
    from flask_session import Session as FlaskSession

    app.config["SESSION_PERMANENT"] = True
    if database is not None:
        db = flask_sqlalchemy(app, database)
        app.config.update(SESSION_TYPE="sqlalchemy", SESSION_SQLALCHEMY=db)
        FlaskSession(app)

        def close() -> None:
            with app.app_context():
                db.engine.dispose()

        return close
    from redis import Redis

    assert redis is not None
    client = Redis.from_url(redis)
    app.config.update(
        SESSION_TYPE="redis", SESSION_REDIS=client, SESSION_KEY_PREFIX=prefix
    )
    FlaskSession(app)

    def forget() -> None:
        for key in client.scan_iter(f"{prefix}*", count=1000):
            client.delete(key)
        client.close()

    return forget
