"""The signals: what happens to sessions, for audit logs and counters.

Each signal is a :class:`blinker.Signal`. The application (:class:`flask.Flask`) sends
it after the change is in the database, with one argument, ``event``. The page
:doc:`/reference/signals` says how to receive them.
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

#: Why a session has ended. ``"cleared"``: the application called ``session.clear()``.
#: ``"emptied"``: it removed the last key. ``"revoked"``: a call or a command ended it.
#: ``"limit"``: its user has logged in more often than ``SESSION_MAX_PER_USER`` allows.
#: ``"expired"``: it had expired and was purged.
EndReason: TypeAlias = Literal["cleared", "emptied", "revoked", "limit", "expired"]

#: Why a session was not saved. ``"ended"``: somebody has ended it in the meantime.
#: ``"value"``: it has a value that a session cannot hold. ``"size"``: it is larger than
#: ``SESSION_MAX_BYTES``. ``"limit"``: its user may not have more sessions.
#: ``"conflict"``: other requests changed it at each try. ``"cookie"``: no response
#: could carry its cookie.
RefusedReason: TypeAlias = Literal[
    "ended", "value", "size", "limit", "conflict", "cookie"
]


@dataclass(frozen=True)
class SessionEvent:
    """The attributes of all events."""

    #: The handle of the session; ``None`` if it was never stored or cannot be read.
    handle: str | None
    #: The user; ``None`` if nobody is logged in, or if it is not known.
    user_id: str | None


@dataclass(frozen=True)
class SessionCreated(SessionEvent):
    """A session was stored for the first time."""


@dataclass(frozen=True)
class SessionRotated(SessionEvent):
    """A session moved to a new token: its user has changed, or the application called
    :meth:`session.regenerate() <flask_sessionsql.ServerSideSession.regenerate>`.
    """

    #: The user before.
    previous_user_id: str | None


@dataclass(frozen=True)
class SessionMerged(SessionEvent):
    """Two requests changed a session at the same time; their changes were merged."""

    #: The keys to which both gave values that cannot be merged: the value of the
    #: request that was saved last is kept.
    overwritten: tuple[Any, ...] = ()


@dataclass(frozen=True)
class SessionEnded(SessionEvent):
    """A session was deleted."""

    #: Why.
    reason: EndReason


@dataclass(frozen=True)
class SessionRefused(SessionEvent):
    """The changes of a request to its session were not stored."""

    #: Why.
    reason: RefusedReason


@dataclass(frozen=True)
class SessionUnreadable(SessionEvent):
    """A row could not be read, so the request got an empty session."""


Event: TypeAlias = (
    SessionCreated
    | SessionRotated
    | SessionMerged
    | SessionEnded
    | SessionRefused
    | SessionUnreadable
)

#: Called with an event for what happens to a session.
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
    """Whether the event has a receiver."""
    signal = _SIGNALS[type(event)]
    return bool(signal.receivers) and any(signal.receivers_for(app))


def anybody_listens() -> bool:
    """Whether any of the signals has a receiver."""
    return any(signal.receivers for signal in _SIGNALS.values())


def send(app: Flask, event: Event) -> None:
    """Call every receiver, even if another one fails."""
    signal = _SIGNALS[type(event)]
    if not signal.receivers or signal.is_muted:
        return
    for receiver in list(signal.receivers_for(app)):
        try:
            app.ensure_sync(receiver)(app, event=event)
        except Exception:
            logger.exception("A receiver of %s failed.", type(event).__name__)


def teller(app: Flask) -> Tell:
    """A function that sends events for the application, as long as it exists."""
    there = weakref.ref(app)

    def tell(event: Event) -> None:
        sender = there()
        if sender is None or not has_receivers(event, sender):
            return
        # A receiver may use the application's database, but when a row is purged after
        # the response there is no context any more.
        current = has_app_context() and current_app._get_current_object() is sender  # type: ignore[attr-defined]
        with nullcontext() if current else sender.app_context():
            send(sender, event)

    return tell
