"""What happens to sessions, told to whoever connects: an audit log, say, or counters.

Each signal is a :class:`blinker.Signal`. It is sent by the application
(:class:`flask.Flask`), after the database has done what it tells of, with one argument,
``event``, whose class says what is known. A receiver is a function of the two:

.. testcode:: signals

    from flask import Flask
    from flask_sessionsql import Session, SessionEnded, session, session_ended

    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not so secret",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI="sqlite://",
    )
    Session(app)

    @session_ended.connect_via(app)
    def note(sender: Flask, event: SessionEnded) -> None:
        print(f"a session of {event.user_id} has ended: {event.reason}")

    @app.get("/login")
    def login():
        session["_user_id"] = "ann"
        return "Hello, Ann!"

    @app.get("/logout")
    def logout():
        session.clear()
        return "Good-bye!"

    browser = app.test_client()
    print(browser.get("/login").text)
    print(browser.get("/logout").text)

.. testoutput:: signals

    Hello, Ann!
    a session of ann has ended: cleared
    Good-bye!

No event holds a token or a stored value. An event's ``handle`` is the session's in
lists and logs. A receiver that fails is logged and disturbs nobody: what it was told
has happened already.

A receiver runs within the request, in the application's context. If it writes to the
database, let it use a connection of its own, such as by ``with db.engine.begin()``:
``db.session.commit()`` would commit what the view has not finished. What it writes to
``session`` is lost.

=========================== =========================================================
Signal                      Event
=========================== =========================================================
``session_created``         :class:`SessionCreated`
``session_rotated``         :class:`SessionRotated`
``session_merged``          :class:`SessionMerged`
``session_ended``           :class:`SessionEnded`
``session_refused``         :class:`SessionRefused`
``session_unreadable``      :class:`SessionUnreadable`
=========================== =========================================================

A session that nobody uses any more ends in silence, at its time; ``session_ended``
tells of it when its row is purged.

Counting for an operator
------------------------

The signals become counters that Prometheus can scrape, with the package
``prometheus-client``:

.. testcode:: counters

    from flask import Flask, Response, session
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    import flask_sessionsql
    from flask_sessionsql import Session

    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not so secret",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI="sqlite://",
    )
    Session(app)

    registry = CollectorRegistry()
    sessions = Counter(
        "sessions", "What happened to sessions.", ["event", "reason"], registry=registry
    )

    def count(sender, event):
        kind = type(event).__name__.removeprefix("Session").lower()
        sessions.labels(kind, getattr(event, "reason", "")).inc()

    for signal in (
        flask_sessionsql.session_created,
        flask_sessionsql.session_rotated,
        flask_sessionsql.session_merged,
        flask_sessionsql.session_ended,
        flask_sessionsql.session_refused,
        flask_sessionsql.session_unreadable,
    ):
        signal.connect(count, app)

    @app.get("/metrics")
    def metrics():
        return Response(generate_latest(registry), content_type="text/plain")

    @app.get("/login")
    def login():
        session["_user_id"] = "ann"
        return "Hello, Ann!"

    @app.get("/logout")
    def logout():
        session.clear()
        return "Good-bye!"

    browser = app.test_client()
    browser.get("/login")
    browser.get("/logout")
    for line in browser.get("/metrics").text.splitlines():
        if line.startswith("sessions_total"):
            print(line)

.. testoutput:: counters

    sessions_total{event="created",reason=""} 1.0
    sessions_total{event="ended",reason="cleared"} 1.0

Keep ``/metrics`` from visitors. Leave handles and users out of the labels: each value
of a label is one more series to store. Where several processes serve the application,
each has counters of its own; ``prometheus-client`` adds them up in its multiprocess
mode. What to be warned of is ``unreadable``, which is a wrong key or somebody's hand in
the table, and ``refused`` for another reason than ``ended``, which is a fault of the
application's, or the limit of a user's sessions.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, TypeAlias

from blinker import Namespace, Signal
from flask import Flask, current_app, has_app_context

__all__ = [
    "EndReason",
    "Event",
    "RefusedReason",
    "SessionCreated",
    "SessionEnded",
    "SessionEvent",
    "SessionMerged",
    "SessionRefused",
    "SessionRotated",
    "SessionUnreadable",
    "Tell",
    "anybody_listens",
    "has_receivers",
    "send",
    "session_created",
    "session_ended",
    "session_merged",
    "session_refused",
    "session_rotated",
    "session_unreadable",
    "teller",
]

logger: logging.Logger = logging.getLogger(__name__)

_signals = Namespace()

session_created: Signal = _signals.signal("session-created")
session_rotated: Signal = _signals.signal("session-rotated")
session_merged: Signal = _signals.signal("session-merged")
session_ended: Signal = _signals.signal("session-ended")
session_refused: Signal = _signals.signal("session-refused")
session_unreadable: Signal = _signals.signal("session-unreadable")

#: Why a session has ended: the application called ``session.clear()`` or took the last
#: key out; somebody ended it by a call or a command; its user has logged in once too
#: often; it had expired and was purged.
EndReason: TypeAlias = Literal["cleared", "emptied", "revoked", "limit", "expired"]

#: Why a session was not saved: it had been ended meanwhile; it holds something that
#: cannot be kept; it is over ``SESSION_MAX_BYTES``; its user may have no more sessions;
#: others changed it each time.
RefusedReason: TypeAlias = Literal["ended", "value", "size", "limit", "conflict"]


@dataclass(frozen=True)
class SessionEvent:
    """What all events have."""

    #: The session's handle; ``None`` if it was never stored, or could not be read.
    handle: str | None
    #: Whose session it is; ``None`` if nobody is logged in, or it is not known.
    user_id: str | None


@dataclass(frozen=True)
class SessionCreated(SessionEvent):
    """A session was stored for the first time."""


@dataclass(frozen=True)
class SessionRotated(SessionEvent):
    """A session moved to a new token: its user has changed, or the application called
    :meth:`session.regenerate() <flask_sessionsql.ServerSideSession.regenerate>`.
    """

    #: Whose session it was before.
    previous_user_id: str | None


@dataclass(frozen=True)
class SessionMerged(SessionEvent):
    """Another request had changed the session meanwhile, and both changes were kept."""


@dataclass(frozen=True)
class SessionEnded(SessionEvent):
    """A session was deleted."""

    #: Why.
    reason: EndReason


@dataclass(frozen=True)
class SessionRefused(SessionEvent):
    """What a request made of its session was not stored."""

    #: Why.
    reason: RefusedReason


@dataclass(frozen=True)
class SessionUnreadable(SessionEvent):
    """A row could not be read, so that its session was an empty one to the request."""


Event: TypeAlias = (
    SessionCreated
    | SessionRotated
    | SessionMerged
    | SessionEnded
    | SessionRefused
    | SessionUnreadable
)

#: Told of what happens to sessions.
Tell: TypeAlias = Callable[[Event], object]

_SIGNALS: dict[type[SessionEvent], Signal] = {
    SessionCreated: session_created,
    SessionRotated: session_rotated,
    SessionMerged: session_merged,
    SessionEnded: session_ended,
    SessionRefused: session_refused,
    SessionUnreadable: session_unreadable,
}


def has_receivers(event: Event, app: Flask) -> bool:
    """Whether anybody would be told."""
    signal = _SIGNALS[type(event)]
    return bool(signal.receivers) and any(signal.receivers_for(app))


def anybody_listens() -> bool:
    """Whether any of the signals has a receiver."""
    return any(signal.receivers for signal in _SIGNALS.values())


def send(app: Flask, event: Event) -> None:
    """Tell the receivers, each of them, even if another one fails."""
    signal = _SIGNALS[type(event)]
    if not signal.receivers or signal.is_muted:
        return
    for receiver in list(signal.receivers_for(app)):
        try:
            app.ensure_sync(receiver)(app, event=event)
        except Exception:
            logger.exception("A receiver of %s failed.", type(event).__name__)


def teller(app: Flask) -> Tell:
    """What sends events in the name of the application, as long as there is one."""
    there = weakref.ref(app)

    def tell(event: Event) -> None:
        sender = there()
        if sender is None or not has_receivers(event, sender):
            return
        # A receiver may want the application's database, and a row that is purged
        # after a response meets no context.
        current = has_app_context() and current_app._get_current_object() is sender  # type: ignore[attr-defined]
        with nullcontext() if current else sender.app_context():
            send(sender, event)

    return tell
