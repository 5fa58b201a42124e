"""What is put off to the end of the application context."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from flask import Flask, appcontext_tearing_down
from flask.globals import app_ctx

from .signals import anybody_listens

__all__ = ["after_context"]


def after_context(write: Callable[[], object]) -> None:
    """Call ``write`` at the end of the application context: after the application's
    database session is removed, and before the response leaves.
    """
    context = app_ctx._get_current_object()  # type: ignore[attr-defined]

    def run(sender: Flask, **_: object) -> None:
        # Contexts of other threads end too.
        if app_ctx._get_current_object() is context:  # type: ignore[attr-defined]
            appcontext_tearing_down.disconnect(run)
            # What a receiver begins in the context that ends would never be cleaned up.
            with context.app.app_context() if anybody_listens() else nullcontext():
                write()

    appcontext_tearing_down.connect(run, context.app, weak=False)
