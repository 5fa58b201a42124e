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

import sqlalchemy as sa
from flask import Flask, Request, Response, session
from flask.sessions import SessionInterface, SessionMixin
from flask_sqlalchemy import SQLAlchemy

from . import terms
from .databases import use_wal
from .floor import FloorInterface
from .ours import set_up
from .terms import KEY, LOGIN, NEW, OURS, View, log_in, nothing, views

#: What a server calls.
WSGIApplication = Callable[..., Iterable[bytes]]
#: Begins the keys that are ours on Redis. Runs at once leave each other's alone.
REDIS_PREFIX = os.environ.setdefault(
    "SESSIONSQL_BENCHMARK_PREFIX", f"sessionsql-benchmark-{secrets.token_hex(4)}:"
)


def followed(view: View, after: Callable[[Any], object]) -> View:
    """A view, and what an application with some sessions has to do after it."""

    def both(session: Any) -> str:
        text = view(session)
        after(session)
        return text

    return both


class NoSessionInterface(SessionInterface):
    """Gives all requests the same empty session."""

    empty = terms.NoSession()

    def open_session(self, app: Flask, request: Request) -> terms.NoSession:
        """The empty session."""
        return self.empty

    def save_session(
        self, app: Flask, session: SessionMixin, response: Response
    ) -> None:
        """Nothing is saved."""


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
    """One of :data:`terms.CONTENDERS`. Its table is created, if it has one.

    :param payload: what its view ``/new`` puts into a session.
    :param database: its address, for those of :data:`terms.ON_SQL`. Give each its own,
        so that none empties another one's cache.
    :param redis: the address of Redis, for the one on it. Its keys there are deleted
        when the peer is closed.
    """
    if name in terms.ON_DJANGO:
        # Django needs a newer Python than the benchmarks do.
        from .django_peer import django_application

        return Peer(name, *django_application(database, payload))
    app = Flask("benchmark")
    # What is broken is to stop a benchmark, not to be answered.
    app.config.update(SECRET_KEY=KEY, PROPAGATE_EXCEPTIONS=True)
    answers = views(payload)
    close: Callable[[], object] = nothing
    engine = None
    if name == terms.NOTHING:
        app.session_interface = NoSessionInterface()
    elif name == terms.COOKIE:
        answers[NEW] = followed(answers[NEW], last_longer)
    elif name == terms.RAW:
        app.session_interface = floor = FloorInterface(database)
        close = floor.close
    elif name in {OURS, terms.OURS_ROLLBACK}:
        engine = set_up(app, database, rollback=name != OURS)
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
