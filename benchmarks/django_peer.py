"""Django with and without its database sessions.

Settings are one for a process. So there is one Django with one database for each kind
of server, and each application is a handler of its own: with or without the sessions'
middleware, on one of the databases. Nothing else stands between the server and the
view: no other middleware. ``CONN_MAX_AGE = None`` keeps connections open, which Django
does not do by itself, and is what costs it least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from django.apps import apps
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import path

ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"


class Router:
    """Django's way to choose a database for a model."""

    #: The one of the application that runs now.
    alias = "default"

    def db_for_read(self, model: object, **hints: object) -> str:
        """The name of the database."""
        return Router.alias

    db_for_write = db_for_read


class NoSession(dict[str, Any]):
    """What the views find in the application without sessions."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Nothing is kept."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def cycle_key(self) -> None:
        """There is none."""


NO_SESSION = NoSession()
#: What a new session is given; set by :func:`django_application`.
PAYLOAD: dict[str, Any] = {}

urlpatterns: list[Any] = []


def view(function: Callable[[Any], str]) -> Callable[[HttpRequest], HttpResponse]:
    """Make a view of what is done with a session, under its name."""

    def run(request: HttpRequest) -> HttpResponse:
        return HttpResponse(function(getattr(request, "session", NO_SESSION)))

    urlpatterns.append(path(function.__name__, run))
    return run


@view
def anonymous(session: Any) -> str:
    """Leaves it alone."""
    return "ok"


@view
def untouched(session: Any) -> str:
    """Leaves it alone."""
    return "ok"


@view
def read(session: Any) -> str:
    """Reads two keys."""
    return f"{session.get('name')} {session.get('visits')}"


@view
def write(session: Any) -> str:
    """Changes one key."""
    visits = session.get("visits", 0) + 1
    session["visits"] = visits
    return str(visits)


@view
def new(session: Any) -> str:
    """Begins one."""
    session.update(PAYLOAD)
    return "ok"


@view
def login(session: Any) -> str:
    """Puts a user into it, as django.contrib.auth.login() does."""
    session.cycle_key()
    session["_user_id"] = "4711"
    return "ok"


def database_settings(url: sa.URL) -> dict[str, Any]:
    """Django's settings for a database."""
    kind = url.get_backend_name()
    options: dict[str, Any] = {}
    if kind == "sqlite":
        options["init_command"] = (
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL"
        )
    return {
        "ENGINE": f"django.db.backends.{ENGINES[kind]}",
        "NAME": url.database,
        "HOST": url.host or "",
        "PORT": url.port or "",
        "USER": url.username or "",
        "PASSWORD": url.password or "",
        "CONN_MAX_AGE": None,
        "OPTIONS": options,
        "TIME_ZONE": None,
        "CONN_HEALTH_CHECKS": False,
        "ATOMIC_REQUESTS": False,
        "AUTOCOMMIT": True,
        "TEST": {},
    }


def configure() -> None:
    """Set Django up, once a process."""
    if settings.configured:
        return
    import pymysql

    # It stands in for mysqlclient, which needs a compiler.
    pymysql.install_as_MySQLdb()
    settings.configure(
        SECRET_KEY="the key of a benchmark",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[],
        INSTALLED_APPS=["django.contrib.sessions"],
        DATABASE_ROUTERS=[f"{__name__}.Router"],
        SESSION_COOKIE_NAME="session",
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    apps.populate(settings.INSTALLED_APPS)


def django_application(
    url: sa.URL | None, payload: Mapping[str, Any]
) -> tuple[Callable[..., Iterable[bytes]], Callable[[], None]]:
    """A WSGI application, and what closes its connections.

    :param url: where its sessions are; ``None`` for an application without sessions.
    """
    configure()
    PAYLOAD.clear()
    PAYLOAD.update(payload)
    alias = "default"
    if url is not None:
        alias = url.get_backend_name()
        connections.settings[alias] = database_settings(url)
        if hasattr(connections._connections, alias):
            del connections[alias]
        create_table(alias)
    with override_settings(MIDDLEWARE=[] if url is None else [SESSIONS]):
        handler = WSGIHandler()

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        Router.alias = alias
        return handler(environ, start_response)  # type: ignore[no-any-return]

    def close() -> None:
        if url is not None:
            connections[alias].close()

    return application, close


def create_table(alias: str) -> None:
    """Create Django's table of sessions."""
    model = apps.get_model("sessions", "Session")
    connection = connections[alias]
    if model._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(model)
