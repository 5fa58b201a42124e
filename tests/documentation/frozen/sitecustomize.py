"""What Python runs first in each command of a page: it freezes the clock and the random
source, so that a page shows the same times and handles at each run.

``PAGE_CLOCK`` names a file with the time in nanoseconds, which the runner moves on.
``PAGE_SEED`` is what random bytes follow from. What waits goes by ``time.monotonic``,
which is left as it is.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import hashlib
import os
import threading
import time
from collections import Counter
from typing import Any


class Seed:
    """Random bytes that follow from a seed. A process that is forked has its own."""

    def __init__(self, seed: str) -> None:
        self._lock = threading.Lock()
        self._seed, self._forks = seed, 0
        self._calls: Counter[int] = Counter()

    def urandom(self, size: int) -> bytes:
        # By size, so that what one library asks for shifts nothing of another's.
        with self._lock:
            self._calls[size] += 1
            key = f"{self._seed} {size} {self._calls[size]}"
        return hashlib.shake_256(key.encode()).digest(size)

    def before_fork(self) -> None:
        self._forks += 1

    def after_fork(self) -> None:
        self.__init__(f"{self._seed}/{self._forks}")  # type: ignore[misc]


def freeze_randomness(seed: str) -> None:
    source = Seed(seed)
    os.urandom = source.urandom
    os.register_at_fork(before=source.before_fork, after_in_child=source.after_fork)
    # It takes os.urandom over when it is imported; so does what imports it.
    import random

    random.seed(seed)


def freeze_time(clock: str) -> None:
    def time_ns() -> int:
        with open(clock, encoding="ascii") as file:
            return int(file.read())

    def now() -> float:
        return time_ns() / 10**9

    time.time, time.time_ns = now, time_ns
    for name in ("gmtime", "localtime"):
        setattr(time, name, _at(getattr(time, name), now))
    strftime = time.strftime
    time.strftime = lambda form, when=None: strftime(form, when or time.localtime())
    _freeze_datetime(now)


def _at(real: Any, now: Any) -> Any:
    return lambda seconds=None: real(now() if seconds is None else seconds)


def _freeze_datetime(clock: Any) -> None:
    """The class itself has to be changed: a subclass would not be the type of what
    is made by it.
    """

    def now(cls: Any, tz: Any = None) -> Any:
        return cls.fromtimestamp(clock(), tz)

    def utcnow(cls: Any) -> Any:
        return cls.fromtimestamp(clock(), datetime.UTC).replace(tzinfo=None)

    members: Any = gc.get_referents(datetime.datetime.__dict__)[0]
    members["now"], members["utcnow"] = classmethod(now), classmethod(utcnow)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))


if "PAGE_CLOCK" in os.environ:
    freeze_time(os.environ["PAGE_CLOCK"])
    freeze_randomness(os.environ["PAGE_SEED"])
