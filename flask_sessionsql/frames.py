"""What error reporters find in the frames that an error has passed: the variables, and
with them values of the session. They are emptied before an error reaches the
application. The lines of the traceback stay.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

__all__ = ["empty_frames", "unseen"]

P = ParamSpec("P")
R = TypeVar("R")


def empty_frames(error: BaseException) -> None:
    """Empty the frames of this package that an error has passed, and those below them;
    and likewise of the errors that it came from. The application's own frames above
    them stay as they are.
    """
    left, seen = [error], set[int]()
    while left:
        each = left.pop()
        seen.add(id(each))
        _empty(each.__traceback__)
        reasons = (each.__cause__, each.__context__)
        left += [reason for reason in reasons if reason and id(reason) not in seen]


def _empty(trace: TracebackType | None) -> None:
    below = False
    while trace is not None:
        module: str = trace.tb_frame.f_globals.get("__name__", "")
        # SQLAlchemy's come first where it has caught what the driver raised.
        below |= module.partition(".")[0] in (__package__, "sqlalchemy")
        if below:
            with suppress(RuntimeError):  # it goes on
                trace.tb_frame.clear()
        trace = trace.tb_next


def unseen(method: Callable[P, R]) -> Callable[P, R]:
    """``method``, with errors whose frames have none of its arguments."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            del args, kwargs
            empty_frames(error)
            raise

    return call
