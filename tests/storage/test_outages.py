"""What the log says of an outage, as one database has it.

Whole requests are in ``tests/integration/test_outages.py``.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from flask_sessionsql import SessionStoreUnavailableError, SessionTableError
from flask_sessionsql.exceptions import SessionStoreBusyError
from flask_sessionsql.storage import outages
from flask_sessionsql.storage.outages import OnceAMinute, Outages, advice
from tests.documentation.source import block
from tests.helpers import at_once


class DriverError(Exception):
    """An error of a driver's, with what the server gave."""

    def __init__(self, code: object = None, **attributes: Any) -> None:
        super().__init__(*([] if code is None else [code]))
        vars(self).update(attributes)


def said(*code: object, **attributes: Any) -> Exception:
    return sa.exc.DBAPIError("SELECT", {}, DriverError(*code, **attributes))


class Clock:
    """Stands for the time from one line to the next."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(outages, "time", clock)
    return clock


def fail(
    outages: Outages,
    error: Exception,
    named: Exception | None = None,
    statement: str = "load",
) -> None:
    """A statement fails by this error, and a request by the one that it means."""
    named = named or SessionStoreUnavailableError("away")
    with pytest.raises(type(named)), outages.noted(error, statement):
        raise named


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (said(sqlstate="28P01"), "the user and the password"),
        (said(1045), "the user and the password"),
        (said(pgcode="3D000"), "Create the database"),
        (said(1049), "Create the database"),
        (said({"C": "53300"}), "max_overflow"),
        (said(1040), "max_overflow"),
        (sa.exc.TimeoutError("QueuePool limit"), "max_overflow"),
        (said(sqlstate="25006"), "takes no writes"),
        (said(1290), "takes no writes"),
        (said(sqlstate="55P03"), "a transaction that does not end"),
        (said(sqlite_errorcode=5), "a transaction that does not end"),
        (said(sqlite_errorcode=517), "a transaction that does not end"),
        (said(sqlite_errorcode=13), "room on the disk"),
        (said(sqlstate="57P03"), "wait for it"),
        (said(sqlite_errorcode=8), "write to the file and to its folder"),
        (said(sqlite_errorcode=14), "folder is there"),
        (said(sqlite_errorcode=26), "no database"),
        (said(2003), "server runs"),
        (said(), "server runs"),
        (ConnectionRefusedError(), "server runs"),
    ],
)
def test_advice(error: Exception, part: str) -> None:
    """It fits what the database said, whatever driver passed it on."""
    assert part in advice(error)


def test_different_reasons_are_different_outages(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has its own first line, and all of them are over at once."""
    both = Outages()
    for _ in range(3):
        fail(both, said(2003))
        fail(both, said(1045))
        fail(both, said(), SessionTableError("no table"))
    assert 3 == len(caplog.messages)
    assert caplog.messages[2].endswith("cannot be used: no table")
    caplog.clear()
    clock.now += 75
    both.worked("load")
    assert caplog.messages == [
        "The database of the sessions works again, 75 s after that began. Requests that"
        " failed since the last line: 6."
    ]


def test_counts_can_be_large(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """And are shown as such."""
    those = Outages()
    for _ in range(1_204):
        fail(those, said(2003))
    clock.now += 61
    fail(those, said(2003))
    assert caplog.messages[1].endswith(" Requests that failed since: 1,204.")


def test_what_stops_some_statements_is_over_when_those_succeed(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """And not when others do."""
    those = Outages()
    fail(those, said(sqlstate="25006"), statement="update")
    fail(those, said(sqlstate="25006"), statement="insert")
    those.worked("load")
    assert 1 == len(caplog.messages)
    those.worked("insert")
    assert "works again" in caplog.messages[1]


def test_a_locked_file_that_another_try_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is no outage, and nor is an error that means none."""
    those = Outages()
    fail(those, said(sqlite_errorcode=5), SessionStoreBusyError())
    fail(those, said(), ZeroDivisionError())
    assert [] == caplog.messages
    assert not those.begun


def test_the_end_is_told_late_rather_than_never(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Where its line would be the second one within a minute, it comes after that."""
    those = Outages()
    fail(those, said(2003))
    clock.now += 50
    those.worked("load")
    clock.now += 15
    fail(those, said(2003))
    those.worked("load")
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR, logging.WARNING, logging.ERROR]
    clock.now += 60
    those.worked("load")
    assert "works again" in caplog.messages[3]


def test_a_handler_of_the_log_may_use_a_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No lock is held while a line is written."""
    those = Outages()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            those.worked("load")

    handler = Handler()
    outages.logger.addHandler(handler)
    try:
        thread = threading.Thread(target=fail, args=(those, said(2003)), daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
    finally:
        outages.logger.removeHandler(handler)
    assert 2 == len(caplog.messages)


def test_one_thread_a_minute(clock: Clock) -> None:
    """Of all that ask, one is told that it is time."""
    line = OnceAMinute()
    for _ in range(3):
        assert 1 == at_once([line.is_time] * 20).count(True)
        clock.now += 61


def test_nobody_waits_for_a_line() -> None:
    """Who comes while another one asks writes none."""
    line = OnceAMinute()
    with line._lock:
        assert not line.is_time()
    assert line.is_time()


def test_lines_of_the_page(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """An outage of 75 seconds leaves the lines that the page about outages shows."""
    first = " ".join(
        block(
            "guides/database-down",
            "The database of the sessions cannot be used: (2003, \"Can't connect to"
            " MySQL server",
        ).split()
    )
    told = first.partition("used: ")[2]
    named = SessionStoreUnavailableError(told.partition(". See")[0])
    down = Outages()
    for requests, seconds in ((1_204, 0), (1, 60), (312, 61)):
        clock.now = 1_000.0 + seconds
        for _ in range(requests):
            fail(down, said(2003), named)
    clock.now = 1_075.0
    down.worked("load")
    lines = [f"{each.levelname} {each.getMessage()}" for each in caplog.records]

    assert f"ERROR {first}" == lines[0]
    assert " ".join(lines[1:]).replace(told, "…") == " ".join(
        block(
            "guides/database-down",
            "ERROR The database of the sessions still cannot be used: … Requests that"
            " failed",
        ).split()
    )
