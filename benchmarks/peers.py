"""The applications that are compared: the same views on different sessions.

The page "What it costs" says what each contender does, and what each request is. All
sessions are permanent, in the word of Flask, and all SQLite files are in WAL mode with
``synchronous = NORMAL``; beyond that, all are as they come.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa
from flask import Flask, Request, Response, session
from flask.sessions import SessionInterface, SessionMixin
from flask_sqlalchemy import SQLAlchemy

#: Bytes of the session that most is about.
SIZE = 200

#: What a server calls.
WSGIApplication = Callable[..., Iterable[bytes]]

ANONYMOUS, UNTOUCHED, READ = "anonymous", "untouched", "read"
WRITE, NEW, LOGIN = "write", "new", "login"
REQUESTS = (ANONYMOUS, UNTOUCHED, READ, WRITE, NEW, LOGIN)
#: Not compared, but it keeps a table as large as it is.
LOGOUT = "logout"

NOTHING, COOKIE, RAW, OURS = "nothing", "cookie", "raw", "ours"
FLASK_SESSION, FLASK_SESSION_REDIS = "flask-session", "flask-session-redis"
DJANGO_NOTHING, DJANGO = "django-nothing", "django"
ON_FLASK = (NOTHING, COOKIE, RAW, OURS, FLASK_SESSION, FLASK_SESSION_REDIS)
CONTENDERS = (*ON_FLASK, DJANGO_NOTHING, DJANGO)
#: Those whose sessions are in a SQL database.
ON_SQL = {RAW, OURS, FLASK_SESSION, DJANGO}
#: What each one's overhead is measured from.
BASELINE = dict.fromkeys(ON_FLASK, NOTHING)
BASELINE |= dict.fromkeys((DJANGO_NOTHING, DJANGO), DJANGO_NOTHING)
KEY = "the key of a benchmark"
#: Begins the keys that are ours on Redis. Runs at once leave each other's alone.
REDIS_PREFIX = os.environ.setdefault(
    "SESSIONSQL_BENCHMARK_PREFIX", f"sessionsql-benchmark-{secrets.token_hex(4)}:"
)


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
    note = "Please leave it with the neighbours. " * 10
    return {**data, "note": note[: size - packed_size(data)]}


def packed_size(data: object) -> int:
    """The bytes of ``data``, as msgspec packs it."""
    return len(msgspec.msgpack.encode(data))


def can_hold(name: str, database: str, size: int) -> bool:
    """Whether a contender can hold a session of this size on this database."""
    if name == COOKIE:
        # It is 4096 with its name, its attributes and its signature, in base64.
        return size <= 2500
    # MariaDB's BLOB.
    return (name, database) != (FLASK_SESSION, "mariadb") or size <= 65535


#: What a view does with its session, and answers.
View = Callable[[Any], str]


def write(session: Any) -> str:
    """Changes one key."""
    session["visits"] = visits = session.get("visits", 0) + 1
    return str(visits)


def log_in(session: Any) -> str:
    """Puts a user into it."""
    session["_user_id"] = "4711"
    return "ok"


def views(payload: Mapping[str, Any]) -> dict[str, View]:
    """All views, by their requests; a session begins with the payload."""
    return {
        ANONYMOUS: lambda session: "ok",
        UNTOUCHED: lambda session: "ok",
        READ: lambda session: f"{session.get('name')} {session.get('visits')}",
        WRITE: write,
        NEW: lambda session: session.update(payload) or "ok",
        LOGIN: log_in,
        LOGOUT: lambda session: session.clear() or "ok",
    }


def followed(view: View, after: Callable[[Any], object]) -> View:
    """A view, and what an application with some sessions has to do after it."""

    def both(session: Any) -> str:
        text = view(session)
        after(session)
        return text

    return both


class NoSession(dict[str, Any], SessionMixin):
    """Empty for ever."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Nothing is kept."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def cycle_key(self) -> None:
        """There is no token that Django could change."""


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


def nothing() -> None:
    """Close what has no connections."""


def last_longer(session: Any) -> None:
    """What Flask's own sessions need for a cookie with an end."""
    session.permanent = True


@dataclass(frozen=True)
class Peer:
    """An application that is compared.

    :ivar wsgi: to be called as a server does.
    :ivar close: closes its connections.
    :ivar engine: that of the sessions, where they are ours.
    """

    name: str
    wsgi: WSGIApplication
    close: Callable[[], object]
    engine: sa.Engine | None = None


def make_peer(
    name: str,
    payload: Mapping[str, Any],
    database: Any = None,
    redis: str | None = None,
) -> Peer:
    """One of :data:`CONTENDERS`. Its table is created, if it has one.

    :param payload: what its view ``/new`` puts into a session.
    :param database: its address, for those of :data:`ON_SQL`. Give each one of its own,
        so that none empties another one's cache.
    :param redis: the address of Redis, for the one on it. Its keys there are deleted
        when the peer is closed.
    """
    if name not in ON_FLASK:
        from .django_peer import django_application

        return Peer(name, *django_application(database, payload))
    app = Flask("benchmark")
    # What is broken is to stop a benchmark, not to be answered.
    app.config.update(SECRET_KEY=KEY, PROPAGATE_EXCEPTIONS=True)
    answers = views(payload)
    close: Callable[[], object] = nothing
    engine = None
    if name == NOTHING:
        app.session_interface = NoSessionInterface()
    elif name == COOKIE:
        answers[NEW] = followed(answers[NEW], last_longer)
    elif name == RAW:
        from .floor import FloorInterface

        app.session_interface = floor = FloorInterface(database)
        close = floor.close
    elif name == OURS:
        from .ours import set_up

        engine = set_up(app, database)
        close = engine.dispose
    else:
        close = set_up_flask_session(app, database, redis)
        interface: Any = app.session_interface
        answers[LOGIN] = followed(log_in, interface.regenerate)
    for request, view in answers.items():
        app.add_url_rule(f"/{request}", request, partial(view, session))
    return Peer(name, app.wsgi_app, close, engine)


def set_up_flask_session(
    app: Flask, database: Any, redis: str | None
) -> Callable[[], object]:
    """Flask-Session, on SQLAlchemy or on Redis. What closes its connections."""
    from flask_session import Session as FlaskSession

    app.config.update(SESSION_PERMANENT=True, SESSION_KEY_PREFIX=REDIS_PREFIX)
    if database is not None:
        from .databases import use_wal

        app.config["SQLALCHEMY_DATABASE_URI"] = database
        db = SQLAlchemy(app)
        with app.app_context():
            engine = db.engine
        use_wal(engine)
        app.config.update(SESSION_TYPE="sqlalchemy", SESSION_SQLALCHEMY=db)
        FlaskSession(app)
        return engine.dispose
    from redis import Redis

    client = Redis.from_url(str(redis))
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=client)
    FlaskSession(app)

    def forget() -> None:
        for key in client.scan_iter(f"{REDIS_PREFIX}*", count=1000):
            client.delete(key)
        client.close()

    return forget
