"""What happens to sessions, told to whoever connects: an audit log, say, or counters.

Each signal is a :class:`blinker.Signal`. It is sent by the application
(:class:`flask.Flask`), after the database has done what it tells of, with one argument,
``event``, whose class says what is known. How to receive them is on the page
:doc:`/reference/signals`.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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
#: others changed it each time; no response could carry its cookie.
RefusedReason: TypeAlias = Literal[
    "ended", "value", "size", "limit", "conflict", "cookie"
]


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
    """Another request had changed the session meanwhile, and both changes were kept, as
    far as they can be.
    """

    #: The keys of the session to which both had given a value that cannot be merged:
    #: they have that of the request that was saved last.
    overwritten: tuple[Any, ...] = ()


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
