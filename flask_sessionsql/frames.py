"""The frames of errors: what they hold, and who has caught the error.

Error reporters read the local variables in the frames of a traceback, and would send
session values. This package clears its own frames before an error reaches the
application. The traceback's lines remain.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

from flask import Flask

__all__ = ["empty_frames", "makes_error_page", "unseen"]

P = ParamSpec("P")
R = TypeVar("R")


def empty_frames(error: BaseException) -> None:
    """Clear the frames of this package in an error's traceback and those below them,
    and in the tracebacks of its causes. The application's frames above are not changed.
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
        # SQLAlchemy's frames come first if it has caught the driver's error.
        below |= module.partition(".")[0] in (__package__, "sqlalchemy")
        if below:
            with suppress(RuntimeError):  # the frame is still running
                trace.tb_frame.clear()
        trace = trace.tb_next


#: Where Flask catches the errors of an application, and makes their pages.
_CATCHING = (Flask.full_dispatch_request.__code__, Flask.wsgi_app.__code__)


def makes_error_page() -> bool:
    """Whether Flask has caught an error, and the application makes the page for it. An
    error that a view has caught itself is none.
    """
    error = sys.exception()
    caught = None if error is None else error.__traceback__
    return caught is not None and caught.tb_frame.f_code in _CATCHING


def unseen(method: Callable[P, R]) -> Callable[P, R]:
    """Wrap ``method`` so that the frames of its errors do not hold its arguments."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            del args, kwargs
            empty_frames(error)
            raise

    return call
