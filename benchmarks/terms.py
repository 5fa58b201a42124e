"""The terms of the comparison: what is the same for all contenders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from flask.sessions import SessionMixin

#: Bytes of the session that most is about.
SIZE = 200

ANONYMOUS, UNTOUCHED, READ = "anonymous", "untouched", "read"
WRITE, NEW, LOGIN = "write", "new", "login"
REQUESTS = (ANONYMOUS, UNTOUCHED, READ, WRITE, NEW, LOGIN)
#: Not compared, but it keeps a table as large as it is.
LOGOUT = "logout"

NOTHING, COOKIE, RAW, OURS = "nothing", "cookie", "raw", "ours"
FLASK_SESSION, FLASK_SESSION_REDIS = "flask-session", "flask-session-redis"
DJANGO_NOTHING, DJANGO = "django-nothing", "django"
ON_FLASK = (NOTHING, COOKIE, RAW, OURS, FLASK_SESSION, FLASK_SESSION_REDIS)
CONTENDERS = (*ON_FLASK, DJANGO_NOTHING, DJANGO)
#: Those whose sessions are in a SQL database.
ON_SQL = {RAW, OURS, FLASK_SESSION, DJANGO}
#: What each one's overhead is measured from.
BASELINE = dict.fromkeys(ON_FLASK, NOTHING)
BASELINE |= dict.fromkeys((DJANGO_NOTHING, DJANGO), DJANGO_NOTHING)
KEY = "the key of a benchmark"


def make_payload(size: int) -> dict[str, Any]:
    """A shop's session of about ``size`` bytes, 150 at least, as msgspec packs it."""
    data: dict[str, Any] = {
        "name": "Ann Example",
        "visits": 1,
        "language": "en-GB",
        "last_page": "/shop/books/0123456789",
        "csrf_token": "0f" * 16,
        "newsletter": True,
        "referrer": None,
        "note": "",
    }
    orders: list[dict[str, Any]] = []
    if size > 1000:
        data["orders"] = orders
        while packed_size(data) < size - 150:
            number = len(orders)
            orders.append(
                {
                    "number": 100_000 + 7 * number,
                    "title": f"The book of the number {number}",
                    "price": 5 + number % 40 + 0.95,
                    "date": f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}",
                    "paid": number % 5 != 0,
                    "tags": ["paper", "second hand"][: number % 3],
                }
            )
    note = "Please leave it with the neighbours. " * 10
    return {**data, "note": note[: size - packed_size(data)]}


def packed_size(data: object) -> int:
    """The bytes of ``data``, as msgspec packs it."""
    return len(msgspec.msgpack.encode(data))


def can_hold(name: str, database: str, size: int) -> bool:
    """Whether a contender can hold a session of this size on this database."""
    if name == COOKIE:
        # It is 4096 with its name, its attributes and its signature, in base64.
        return size <= 2500
    # MariaDB's BLOB.
    return (name, database) != (FLASK_SESSION, "mariadb") or size <= 65535


#: What a view does with its session, and answers.
View = Callable[[Any], str]


def write(session: Any) -> str:
    """Changes one key."""
    session["visits"] = visits = session.get("visits", 0) + 1
    return str(visits)


def log_in(session: Any) -> str:
    """Puts a user into it."""
    session["_user_id"] = "4711"
    return "ok"


def views(payload: Mapping[str, Any]) -> dict[str, View]:
    """All views, by their requests; a session begins with the payload."""
    return {
        ANONYMOUS: lambda session: "ok",
        UNTOUCHED: lambda session: "ok",
        READ: lambda session: f"{session.get('name')} {session.get('visits')}",
        WRITE: write,
        NEW: lambda session: session.update(payload) or "ok",
        LOGIN: log_in,
        LOGOUT: lambda session: session.clear() or "ok",
    }


class NoSession(dict[str, Any], SessionMixin):
    """Empty for ever."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Nothing is kept."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is kept."""

    def cycle_key(self) -> None:
        """There is no token that Django could change."""


def nothing() -> None:
    """Close what has no connections."""
