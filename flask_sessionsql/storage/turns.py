"""How a command gets a SQLite file's lock although others write all the time.

SQLite sleeps between two tries for the lock, up to a tenth of a second. A program that
writes again as soon as it has written leaves the file unlocked for less than a
thousandth of a second, and so can lock out others. A command tries more often.
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
    """In the block, each piece of work tries for a SQLite file's lock continually for
    this many seconds, instead of waiting as the application has set.
    """
    token = _SECONDS.set(seconds)
    try:
        yield
    finally:
        _SECONDS.reset(token)


def insists() -> bool:
    """Whether the caller is in an :func:`insisting` block."""
    return _SECONDS.get() > 0


def in_turn(attempt: Callable[[], T]) -> T:
    """What ``attempt`` returns; it is called again while the file is locked.

    :param attempt: a function that does not wait for the lock itself.
    """
    end = time.monotonic() + _SECONDS.get()
    while True:
        try:
            return attempt()
        except sa_exc.DBAPIError as error:
            if not is_busy(error) or time.monotonic() >= end:
                raise
        # A random time, to get out of step with the other program.
        time.sleep(random.uniform(0, _REST))  # noqa: S311
