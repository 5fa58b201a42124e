"""How long the sessions wait for a server that does not answer.

A server that was stopped, or that a network has lost, still accepts what is sent, and
most drivers wait for its answer for ever. So every call of the store has a deadline,
``SESSION_DATABASE_TIMEOUT`` after its begin, for all that it does: waiting for the
pool, connecting, its statements and a second try.

Two drivers look at it while they wait. psycopg takes what it waits for from a
generator, which is ended here; PyMySQL has time-outs of its own, which are set to what
is left before each command. Either way the connection is closed, so nobody else gets an
answer that comes late. Other drivers are given the time-outs that they know when they
connect: the page :doc:`/guides/servers` tells which.

The application's own connections wait as they did.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from .driver import wait_at_most

__all__ = ["Deadline", "install", "is_over", "patiently"]

#: When the call that is under way ends, by the monotonic clock. Each thread has its own
#: value, and each greenlet.
_END: ContextVar[float] = ContextVar("flask_sessionsql.end", default=math.inf)

#: How many times as long as usual each call has.
_TIMES: ContextVar[int] = ContextVar("flask_sessionsql.times", default=1)

#: Seconds after which psycopg looks up from waiting.
_LOOKS_UP = 0.1

_SILENCE = "The database server does not answer."

#: PyMySQL is given a multiple of these seconds, so that it seldom has to tell its
#: socket of another time-out; and at least these, because it refuses 0.
_STEP = 0.05


class Deadline:
    """What runs within it has so many seconds."""

    __slots__ = ("_seconds", "_token")

    _token: Token[float]

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._token = _END.set(time.monotonic() + self._seconds * _TIMES.get())

    def __exit__(self, *_: object) -> None:
        _END.reset(self._token)


@contextmanager
def patiently() -> Iterator[None]:
    """Give ten times as long to each call within: for an operator, who can wait, and
    whose statements may read the whole table.
    """
    token = _TIMES.set(10)
    try:
        yield
    finally:
        _TIMES.reset(token)


def is_over() -> bool:
    """Whether nothing can be waited for any more."""
    return time.monotonic() > _END.get() - _LOOKS_UP


def install(source: sa.Engine, engine: sa.Engine, seconds: float) -> None:
    """Let the connections of the sessions keep their deadlines.

    :param source: the application's engine.
    :param engine: the sessions', whose pool connects as that of ``source`` does.
    :param seconds: what a call has.
    """
    wait_at_most(engine.pool, seconds)
    if engine.dialect.name == "sqlite":
        return  # it has no server, and waits for a lock as long as it is told to

    def connect(
        dialect: sa.Dialect, record: Any, cargs: Any, cparams: Mapping[str, Any]
    ) -> Any:
        if _END.get() == math.inf:
            return None  # the application connects
        if is_over():
            raise dialect.loaded_dbapi.OperationalError(_SILENCE)
        # A listener that the application has added since has its turn first.
        listeners = [*dialect.dispatch.do_connect]
        for listener in listeners[listeners.index(connect) + 1 :]:
            made = listener(dialect, record, cargs, cparams)
            if made is not None:
                return made
        known = _time_outs(dialect, math.ceil(seconds * _TIMES.get()), cparams)
        return _bounded(dialect).connect(*cargs, **{**known, **cparams})

    def bound(connection: Any, record: object) -> None:
        # Where a function of the application's has made it.
        driver = _bounded(engine.dialect)
        if type(connection) is driver.original:
            connection.__class__ = driver.bounded

    sa.event.listen(source, "do_connect", connect)
    # Before whoever runs statements on a new connection.
    sa.event.listen(engine, "connect", bound, insert=True)


def _time_outs(
    dialect: sa.Dialect, seconds: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The time-outs that a driver knows, for its function ``connect()``.

    :param given: what the application gives to it.
    """
    match dialect.driver:
        case "psycopg" | "psycopg2":
            # Of several hosts each has its share: the first one may be the silent one.
            hosts = str(given.get("host", "")).count(",") + 1
            known = {"connect_timeout": max(2, seconds // hosts)}
            if dialect.driver == "psycopg2":
                known["tcp_user_timeout"] = seconds * 1000
            return known
        case "mysqldb" | "mariadbconnector":
            names = ("connect_timeout", "read_timeout", "write_timeout")
            return dict.fromkeys(names, seconds)
        case "pg8000":
            return {"timeout": seconds}
        case _:
            return {}


# Drivers that look at the deadline.


class _Bounded(NamedTuple):
    """A driver's class of connections, ours in its place, and what makes one."""

    original: Any
    bounded: Any
    connect: Callable[..., Any]


def _bounded(dialect: sa.Dialect) -> _Bounded:
    driver: Any = dialect.loaded_dbapi
    match dialect.driver:
        case "psycopg":
            return _psycopg(driver)
        case "pymysql":
            return _pymysql(driver)
        case _:
            return _Bounded(None, None, dialect.connect)


class _OverError(Exception):
    """The deadline has passed."""


def _until(end: float, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """What psycopg waits for, as long as there is time.

    :raises _OverError: there is none left.
    """
    ready = None
    try:
        # It may say that something is ready when it only looks up, before 3.2.11.
        while time.monotonic() < end - _LOOKS_UP:
            ready = yield steps.send(ready)
    except StopIteration as done:
        return done.value
    steps.close()  # with it goes a connection that is being made
    raise _OverError


@cache
def _psycopg(driver: Any) -> _Bounded:
    class Connection(driver.Connection):  # type: ignore[misc]
        def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
            end = _END.get()
            if end == math.inf:
                return super().wait(gen, *args, **kwargs)
            try:
                return super().wait(_until(end, gen), *args, **kwargs)
            except _OverError:
                self.pgconn.finish()
                raise driver.OperationalError(_SILENCE) from None

        @classmethod
        def _connect_gen(cls, *args: Any, **kwargs: Any) -> Any:
            steps = super()._connect_gen(*args, **kwargs)
            try:
                return (yield from _until(_END.get(), steps))
            except _OverError:
                raise driver.OperationalError(_SILENCE) from None

    return _Bounded(driver.Connection, Connection, Connection.connect)


@cache
def _pymysql(driver: Any) -> _Bounded:
    original = driver.connections.Connection

    class Connection(original):  # type: ignore[misc, valid-type]
        connect_timeout: float | None
        _read_timeout: float | None
        _write_timeout: float | None
        #: The time-outs that the application gave to it, for reading and writing.
        _given: tuple[float | None, float | None] | None = None

        def connect(self, sock: Any = None) -> None:
            left = self._tell_time()
            self.connect_timeout = _shorter(self.connect_timeout, left)
            super().connect(sock)

        def _execute_command(self, *args: Any, **kwargs: Any) -> None:
            self._tell_time()
            super()._execute_command(*args, **kwargs)

        def _tell_time(self) -> float:
            """Set the time-outs to what is left, and return that."""
            if self._given is None:
                self._given = self._read_timeout, self._write_timeout
            left = _END.get()
            if left != math.inf:
                left = max((left - time.monotonic()) // _STEP, 1) * _STEP
            reading, writing = self._given
            self._read_timeout = _shorter(reading, left)
            self._write_timeout = _shorter(writing, left)
            return left

    return _Bounded(original, Connection, Connection)


def _shorter(given: float | None, left: float) -> float | None:
    """The shorter of two time-outs; ``None`` where both are without end."""
    shorter = left if given is None else min(given, left)
    return None if shorter == math.inf else shorter
