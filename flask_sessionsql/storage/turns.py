"""How a command gets its turn on a SQLite file to which somebody writes all the time.

Who waits for the file's lock asks for it now and then: SQLite sleeps between two tries,
for a tenth of a second in the end. A program that writes again as soon as it has
written leaves the file free for less than a thousandth, and can so keep others out. A
command asks more often.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from sqlalchemy import exc as sa_exc

from .errors import is_busy

__all__ = ["in_turn", "insisting", "insists"]

T = TypeVar("T")

#: Seconds between two tries, at most.
_REST = 0.001

_SECONDS: ContextVar[float] = ContextVar("flask_sessionsql.turns", default=0)


@contextmanager
def insisting(seconds: float) -> Iterator[None]:
    """Within it, each piece of work asks for a SQLite file's lock all the time, for so
    many seconds, in the place of what the application has set as its wait.
    """
    token = _SECONDS.set(seconds)
    try:
        yield
    finally:
        _SECONDS.reset(token)


def insists() -> bool:
    """Whether this is within :func:`insisting`."""
    return _SECONDS.get() > 0


def in_turn(attempt: Callable[[], T]) -> T:
    """What ``attempt`` returns, which is called again while the file is locked.

    :param attempt: does not wait for the lock by itself.
    """
    end = time.monotonic() + _SECONDS.get()
    while True:
        try:
            return attempt()
        except sa_exc.DBAPIError as error:
            if not is_busy(error) or time.monotonic() >= end:
                raise
        # By chance, so as not to keep step with the other.
        time.sleep(random.uniform(0, _REST))  # noqa: S311
