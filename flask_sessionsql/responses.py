"""Changing a response that is already made, and deferring work to the end of the
context.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

from flask import Flask, Response, appcontext_tearing_down
from flask import globals as contexts
from flask.ctx import AppContext
from flask.globals import app_ctx
from werkzeug.exceptions import HTTPException

from .frames import empty_frames
from .signals import anybody_listens

__all__ = [
    "after_context",
    "answer",
    "context_outlives_request",
    "vary_by_cookie",
]

logger: logging.Logger = logging.getLogger(__name__)

#: Whether a request has no context but the application's, as since Flask 3.2.
_ONE_CONTEXT: bool = hasattr(AppContext, "has_request")

#: Headers about one response: its content, its location, its cookies, its age.
_OF_ONE_PAGE = re.compile(
    r"content-(?!security-policy).*|location|refresh|set-cookie|etag|last-modified"
    r"|expires|age|cache-control|accept-ranges|allow|retry-after",
    re.IGNORECASE,
)


def vary_by_cookie(response: Response) -> None:
    """Add ``Cookie`` to the response's ``Vary``. If it has no ``Vary`` yet, this avoids
    parsing the header, which takes longer than the session's own work.
    """
    headers = response.headers
    said = [value for name, value in headers if name.lower() == "vary"]
    if not said:
        headers.add("Vary", "Cookie")
        return
    if len(said) > 1:  # Werkzeug would keep only the first
        headers["Vary"] = ", ".join(said)
    response.vary.add("Cookie")


def answer(app: Flask, response: Response, error: HTTPException) -> None:
    """Turn a finished ``response`` into the response for ``error``, with the
    application's own error page if it has one.
    """
    handle: Callable[..., Any] = app.handle_user_exception
    context = app_ctx._get_current_object()  # type: ignore[attr-defined]
    page = handle(context, error) if _ONE_CONTEXT else handle(error)
    instead = app.make_response(page)
    vary_by_cookie(instead)
    close = getattr(response.response, "close", None)
    if close is not None:
        close()
    for name, value in response.headers:
        # Headers that after_request functions set for every page are kept, such as a
        # Content-Security-Policy. Headers about the old page are not.
        if name not in instead.headers and not _OF_ONE_PAGE.fullmatch(name):
            instead.headers.add(name, value)
    response.direct_passthrough = instead.direct_passthrough
    response.status = instead.status
    response.headers = instead.headers
    response.response = instead.response


#: The work that is deferred to the end of each context, in order.
_DEFERRED: weakref.WeakKeyDictionary[object, list[Callable[[], object]]] = (
    weakref.WeakKeyDictionary()
)


def context_outlives_request() -> bool:
    """Whether somebody else has pushed the application context of this request, so that
    it does not end with the request. Since Flask 3.2, each request has its own.
    """
    if _ONE_CONTEXT:  # pragma: no cover -- with Flask 3.2
        return False
    context = contexts.request_ctx._get_current_object()  # type: ignore[attr-defined]
    pushed: Sequence[Any] = getattr(context, "_cv_tokens", ())
    return bool(pushed) and pushed[0][1] is None


def after_context(write: Callable[[], object]) -> None:
    """Call ``write`` at the end of the application context: after the application's
    database session is removed, and before the response is sent. If several requests
    defer work in one context, all of it is done in order; then the first error is
    raised.
    """
    context = app_ctx._get_current_object()  # type: ignore[attr-defined]
    if context in _DEFERRED:
        _DEFERRED[context].append(write)
        return
    _DEFERRED[context] = [write]

    def run(sender: Flask, **_: object) -> None:
        # The signal also comes for contexts of other threads.
        if app_ctx._get_current_object() is context:  # type: ignore[attr-defined]
            appcontext_tearing_down.disconnect(run)
            # A receiver needs a new context: nothing cleans up the one that ends.
            with context.app.app_context() if anybody_listens() else nullcontext():
                _call_all(_DEFERRED.pop(context))

    appcontext_tearing_down.connect(run, context.app, weak=False)


def _call_all(writes: Iterable[Callable[[], object]]) -> None:
    errors: list[Exception] = []
    for write in writes:
        try:
            write()
        except Exception as error:
            empty_frames(error)
            if errors:
                logger.exception("Another session was not stored, either.")
            errors.append(error)
    if errors:
        raise errors[0]
