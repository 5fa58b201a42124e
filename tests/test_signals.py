from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from flask_sessionsql import signals
from flask_sessionsql.signals import (
    Event,
    SessionCreated,
    SessionEnded,
    SessionEvent,
    SessionMerged,
    SessionRefused,
    SessionRotated,
    SessionUnreadable,
    has_receivers,
    send,
    session_created,
    session_ended,
    session_merged,
    session_refused,
    session_rotated,
    session_unreadable,
)

EVENTS: dict[Any, Event] = {
    session_created: SessionCreated("f00d", "ann"),
    session_rotated: SessionRotated("f00d", "ann", None),
    session_merged: SessionMerged("f00d", None),
    session_ended: SessionEnded("f00d", "ann", "cleared"),
    session_refused: SessionRefused(None, None, "size"),
    session_unreadable: SessionUnreadable("f00d", "ann"),
}


@pytest.fixture
def told() -> Iterator[list[tuple[str, Any, Any]]]:
    """What each signal has told, by its name."""
    heard: list[tuple[str, Any, Any]] = []
    receivers = []
    for signal in EVENTS:

        def receive(sender: Any, event: Any, name: str = signal.name) -> None:
            heard.append((name, sender, event))

        signal.connect(receive)
        receivers.append((signal, receive))
    yield heard
    for signal, receive in receivers:
        signal.disconnect(receive)


@pytest.mark.parametrize("signal", EVENTS, ids=lambda signal: signal.name)
def test_each_event_has_its_signal(
    told: list[tuple[str, Any, Any]], signal: Any
) -> None:
    """It is sent by that one, in the application's name, once."""
    app = Flask("shop")
    send(app, EVENTS[signal])
    [(name, sender, event)] = told
    assert signal.name == name
    assert app is sender
    assert EVENTS[signal] is event


def test_no_event_is_without_a_signal() -> None:
    """Every event has one."""
    assert set(SessionEvent.__subclasses__()) == {
        type(each) for each in EVENTS.values()
    }


def test_a_receiver_that_fails_disturbs_nobody(
    told: list[tuple[str, Any, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback; the others are told, before it and after it."""
    app = Flask("shop")

    def fail(sender: Flask, event: SessionCreated) -> None:
        raise ZeroDivisionError

    with session_created.connected_to(fail):
        heard: list[Any] = []

        def after(sender: Flask, event: SessionCreated) -> None:
            heard.append(event)

        with session_created.connected_to(after):
            send(app, EVENTS[session_created])
    assert 1 == len(told) == len(heard)
    [record] = caplog.records
    assert logging.ERROR == record.levelno
    assert "A receiver of SessionCreated failed." == record.message
    assert record.exc_info is not None
    assert ZeroDivisionError is record.exc_info[0]


def test_who_asks_for_one_application_hears_of_no_other() -> None:
    """A receiver may be connected to one application."""
    ours, theirs = Flask("shop"), Flask("forum")
    heard: list[Any] = []

    def receive(sender: Flask, event: SessionCreated) -> None:
        heard.append(sender)

    with session_created.connected_to(receive, ours):
        assert has_receivers(EVENTS[session_created], ours)
        assert not has_receivers(EVENTS[session_created], theirs)
        send(ours, EVENTS[session_created])
        send(theirs, EVENTS[session_created])
    assert [ours] == heard
    assert not has_receivers(EVENTS[session_created], ours)


def test_events_are_values() -> None:
    """They are equal if they say the same, and cannot be changed."""
    event = SessionEnded("f00d", "ann", "cleared")
    assert EVENTS[session_ended] == event
    with pytest.raises(AttributeError):
        event.reason = "limit"  # type: ignore[misc]


def test_all_signals_are_public() -> None:
    """Each is one of blinker's, under the name that it has here."""
    assert EVENTS.keys() == {
        getattr(signals, name)
        for name in signals.__all__
        if name.startswith("session_")
    }


def test_muted_signals_are_not_sent() -> None:
    """As blinker has it."""
    app = Flask("shop")
    heard: list[Any] = []

    def receive(sender: Flask, event: SessionCreated) -> None:
        heard.append(event)

    with session_created.connected_to(receive, app):
        with session_created.muted():
            send(app, EVENTS[session_created])
        assert [] == heard
        send(app, EVENTS[session_created])
    assert [EVENTS[session_created]] == heard


def test_a_coroutine_function_is_run_as_flask_runs_views() -> None:
    """Not called and forgotten: it goes by the application's ``ensure_sync``."""
    app = Flask("shop")
    heard: list[Any] = []

    async def receive(sender: Flask, event: SessionCreated) -> None:
        heard.append(event)

    def ensure_sync(function: Any) -> Any:
        return lambda *args, **kwargs: asyncio.run(function(*args, **kwargs))

    app.ensure_sync = ensure_sync  # type: ignore[method-assign,assignment]
    with session_created.connected_to(receive, app):
        send(app, EVENTS[session_created])
    assert [EVENTS[session_created]] == heard
