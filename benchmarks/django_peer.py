"""Django with and without its database sessions.

Settings are one for a process. So there is one Django with one database at a time, and
each application is a handler of its own: with or without the sessions' middleware.
Nothing else stands between the server and the view: no other middleware.
``CONN_MAX_AGE = None`` keeps connections open, which Django does not do by itself, and
is what costs it least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pymysql
import sqlalchemy as sa
from django.apps import apps
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import path

from .terms import KEY, LOGIN, NoSession, View, log_in, nothing, views

SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"

NO_SESSION = NoSession()
#: What a new session is given; set by :func:`django_application`.
PAYLOAD: dict[str, Any] = {}


def log_in_anew(session: Any) -> str:
    """Changes the token first, as django.contrib.auth.login() does."""
    session.cycle_key()
    return log_in(session)


def route(name: str, view: View) -> Any:
    """The address of a view."""

    def answer(request: HttpRequest) -> HttpResponse:
        return HttpResponse(view(getattr(request, "session", NO_SESSION)))

    return path(name, answer)


urlpatterns = [
    route(name, view) for name, view in {**views(PAYLOAD), LOGIN: log_in_anew}.items()
]


def django_application(
    url: sa.URL | None, payload: Mapping[str, Any]
) -> tuple[Callable[..., Iterable[bytes]], Callable[[], object]]:
    """A WSGI application, and what closes its connections.

    :param url: where its sessions are; ``None`` for an application without sessions.
    """
    if not settings.configured:
        # It stands in for mysqlclient, which needs a compiler.
        pymysql.install_as_MySQLdb()
        settings.configure(
            SECRET_KEY=KEY,
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=__name__,
            MIDDLEWARE=[],
            INSTALLED_APPS=["django.contrib.sessions"],
            SESSION_COOKIE_NAME="session",
            USE_TZ=True,
            LOGGING_CONFIG=None,
        )
        apps.populate(settings.INSTALLED_APPS)
    PAYLOAD.clear()
    PAYLOAD.update(payload)
    if url is None:
        return WSGIHandler(), nothing
    kind = url.get_backend_name()
    wal = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL"
    database = {
        "ENGINE": f"django.db.backends.{kind}{'3' * (kind == 'sqlite')}",
        "NAME": url.database,
        "HOST": url.host or "",
        "PORT": url.port or "",
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "CONN_MAX_AGE": None,
        "OPTIONS": {"init_command": wal} if kind == "sqlite" else {},
    }
    connections.settings |= connections.configure_settings({"default": database})
    if hasattr(connections._connections, "default"):
        del connections["default"]
    with connections["default"].schema_editor() as editor:
        editor.create_model(apps.get_model("sessions", "Session"))
    with override_settings(MIDDLEWARE=[SESSIONS]):
        return WSGIHandler(), connections["default"].close
