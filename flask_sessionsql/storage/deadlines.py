"""How long sessions wait for a server that does not answer.

If a server is suspended, or the network to it is down, most drivers wait forever. So
every call of the store has a deadline, ``SESSION_DATABASE_TIMEOUT`` after its start,
for all its work: waiting for the pool, connecting, its statements and a second try.

Two drivers check the deadline while they wait. psycopg waits with a generator, which is
ended here. PyMySQL has its own time-outs, which are set to the remaining time before
each command. Either way the connection is closed, so that no one else gets a late
answer. Other drivers get the time-outs that they support when they connect: the page
:doc:`/guides/servers` lists them.

The application's own connections wait as before.
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

#: When the current call must end, by the monotonic clock. Each thread and each greenlet
#: has its own value.
_END: ContextVar[float] = ContextVar("flask_sessionsql.end", default=math.inf)

#: The factor by which each call may take longer than usual.
_TIMES: ContextVar[int] = ContextVar("flask_sessionsql.times", default=1)

#: Seconds after which psycopg interrupts its wait to check.
_LOOKS_UP = 0.1

_SILENCE = "The database server does not answer."

#: PyMySQL gets a multiple of these seconds, so that it seldom has to change the
#: time-out of its socket; and at least this many, because it refuses 0.
_STEP = 0.05


class Deadline:
    """A context manager: the block must end within this many seconds."""

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
    """Give each call in the block ten times as long: for commands of an operator, who
    can wait, and whose statements may read the whole table.
    """
    token = _TIMES.set(10)
    try:
        yield
    finally:
        _TIMES.reset(token)


def is_over() -> bool:
    """Whether there is no time left to wait."""
    return time.monotonic() > _END.get() - _LOOKS_UP


def install(source: sa.Engine, engine: sa.Engine, seconds: float) -> None:
    """Make the connections of the sessions keep their deadlines.

    :param source: the application's engine.
    :param engine: the sessions' engine, whose pool connects as that of ``source`` does.
    :param seconds: how long a call may take.
    """
    wait_at_most(engine.pool, seconds)
    if engine.dialect.name == "sqlite":
        return  # no server; its own time-out limits how long it waits for a lock

    def connect(
        dialect: sa.Dialect, record: Any, cargs: Any, cparams: Mapping[str, Any]
    ) -> Any:
        if _END.get() == math.inf:
            return None  # the application connects
        if is_over():
            raise dialect.loaded_dbapi.OperationalError(_SILENCE)
        # A listener that the application has added since then comes first.
        listeners = [*dialect.dispatch.do_connect]
        for listener in listeners[listeners.index(connect) + 1 :]:
            made = listener(dialect, record, cargs, cparams)
            if made is not None:
                return made
        known = _time_outs(dialect, math.ceil(seconds * _TIMES.get()), cparams)
        return _bounded(dialect).connect(*cargs, **{**known, **cparams})

    def bound(connection: Any, record: object) -> None:
        # A function of the application may have made the connection.
        driver = _bounded(engine.dialect)
        if type(connection) is driver.original:
            connection.__class__ = driver.bounded

    sa.event.listen(source, "do_connect", connect)
    # Before listeners that run statements on a new connection.
    sa.event.listen(engine, "connect", bound, insert=True)


def _time_outs(
    dialect: sa.Dialect, seconds: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """The time-outs that a driver supports, as arguments of its ``connect()``.

    :param given: the arguments of the application.
    """
    match dialect.driver:
        case "psycopg" | "psycopg2":
            # Several hosts share the time: the first may be the one that is silent.
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


# Drivers that check the deadline.


class _Bounded(NamedTuple):
    """A driver's connection class, our subclass, and the function that makes one."""

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
    """Pass on what psycopg waits for as long as there is time.

    :raises _OverError: there is no time left.
    """
    ready = None
    try:
        # Before 3.2.11 it may say "ready" when it only interrupts its wait.
        while time.monotonic() < end - _LOOKS_UP:
            ready = yield steps.send(ready)
    except StopIteration as done:
        return done.value
    steps.close()  # also closes a connection that is being made
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
        #: The application's time-outs for reading and writing.
        _given: tuple[float | None, float | None] | None = None

        def connect(self, sock: Any = None) -> None:
            left = self._tell_time()
            self.connect_timeout = _shorter(self.connect_timeout, left)
            super().connect(sock)

        def _execute_command(self, *args: Any, **kwargs: Any) -> None:
            self._tell_time()
            super()._execute_command(*args, **kwargs)

        def _tell_time(self) -> float:
            """Set the time-outs to the remaining time, and return that."""
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
    """The shorter of two time-outs; ``None`` if both are infinite."""
    shorter = left if given is None else min(given, left)
    return None if shorter == math.inf else shorter
