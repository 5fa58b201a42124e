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
#: Those for a session that is a basket of lines beside small keys.
KEY_OF_MANY, BASKET, LINE = "key", "basket", "line"
BASKET_REQUESTS = (KEY_OF_MANY, BASKET, LINE)
#: Not compared, but it keeps a table as large as it is.
LOGOUT = "logout"

NOTHING, COOKIE, RAW, OURS = "nothing", "cookie", "raw", "ours"
FLASK_SESSION, FLASK_SESSION_REDIS = "flask-session", "flask-session-redis"
DJANGO_NOTHING, DJANGO = "django-nothing", "django"
#: Ours in a SQLite file that nobody has put into WAL mode.
OURS_ROLLBACK = "ours-rollback"
ON_FLASK = (NOTHING, COOKIE, RAW, OURS, FLASK_SESSION, FLASK_SESSION_REDIS)
ON_DJANGO = (DJANGO_NOTHING, DJANGO)
CONTENDERS = (*ON_FLASK, OURS_ROLLBACK, *ON_DJANGO)
#: Those whose sessions are in a SQL database.
ON_SQL = {RAW, OURS, OURS_ROLLBACK, FLASK_SESSION, DJANGO}
#: What each one's overhead is measured from.
BASELINE = dict.fromkeys(CONTENDERS, NOTHING)
BASELINE |= dict.fromkeys(ON_DJANGO, DJANGO_NOTHING)
KEY = "the key of a benchmark"
#: What a session without a basket is taken for.
ONE_LINE = {"quantity": 1}


def make_basket(size: int) -> dict[str, Any]:
    """A session of about ``size`` bytes: a basket of lines, beside keys of 20 bytes."""
    names = ("name", "csrf", "page", "place")
    data: dict[str, Any] = {name: f"Ann Example, {name:.<7}" for name in names}
    lines: list[dict[str, Any]] = []
    data["basket"] = lines
    while not lines or packed_size(data) < size - 50:
        number = len(lines)
        title, price = f"The book of the number {number}", 5 + number % 40 + 0.95
        line = {"number": 100_000 + 7 * number, "title": title, "price": price}
        lines.append({**line, **ONE_LINE})
    return data


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
    if name == OURS_ROLLBACK:
        return database == "sqlite" and size == SIZE
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


def change_line(session: Any) -> str:
    """Changes one line of a basket, and says so, as the others have to be told."""
    lines = session.get("basket", [{"quantity": 0}])
    lines[0]["quantity"] += 1
    session["basket"] = lines
    return str(lines[0]["quantity"])


def views(payload: Mapping[str, Any]) -> dict[str, View]:
    """All views, by their requests; a session begins with the payload."""
    return {
        ANONYMOUS: lambda session: "ok",
        UNTOUCHED: lambda session: "ok",
        READ: lambda session: f"{session.get('name')} {session.get('visits')}",
        WRITE: write,
        NEW: lambda session: session.update(payload) or "ok",
        LOGIN: log_in,
        KEY_OF_MANY: lambda session: str(session.get("name")),
        BASKET: lambda session: str(session.get("basket", [ONE_LINE])[0]["quantity"]),
        LINE: change_line,
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
