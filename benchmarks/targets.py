"""What the sessions are to cost at most: as the table grows, and a request beside those
of others in the same run.

The targets of a request are in microseconds over the application that does nothing,
with 200 bytes in the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import peers
from benchmarks.peers import ANONYMOUS, NEW, READ, UNTOUCHED, WRITE

#: Growth: the requests that are not for sessions in use; how many times more the others
#: may cost in a large table; and the share of the updates that are HOT.
ANY = "read, any row"
MOST_RATIO = 1.3
LEAST_HOT = 0.9

#: Bytes of the session that the targets are about.
SIZE = 200
#: Microseconds of what does not touch its session.
LEAST = 15
#: The most that is allowed over the hand-written floor.
OVER_FLOOR = 1.5
#: Where ours is to cost no more than Flask's own cookie.
NO_MORE_THAN_COOKIE = {
    "SQLite": (UNTOUCHED, READ, WRITE, NEW),
    "PostgreSQL": (UNTOUCHED, READ),
}

#: The overhead by request and contender; ``None`` if it was not measured.
Overhead = Callable[[str, str], float | None]


def targets(database: str, overhead: Overhead) -> Iterator[dict[str, Any]]:
    """The targets on one database of which all was measured, and what came of each."""

    def target(
        request: str, beside: str, other: float | None, factor: float = 1
    ) -> Iterator[dict[str, Any]]:
        ours = overhead(request, peers.OURS)
        if ours is not None and other is not None:
            yield {
                "database": database,
                "request": request,
                #: What it is compared with, and the most that it may be.
                "beside": beside,
                "ours": ours,
                "most": factor * other,
                "met": ours <= factor * other,
            }

    for request in (ANONYMOUS, UNTOUCHED):
        yield from target(request, f"{LEAST} microseconds", LEAST)
    for request in NO_MORE_THAN_COOKIE.get(database, ()):
        yield from target(
            request, "Flask's own cookie", overhead(request, peers.COOKIE)
        )
    for request in (READ, WRITE, NEW):
        beside = f"{OVER_FLOOR} times the raw driver"
        yield from target(request, beside, overhead(request, peers.RAW), OVER_FLOOR)
    for request, part, factor in ((READ, "an 8th", 1 / 8), (WRITE, "a third", 1 / 3)):
        beside = f"{part} of Flask-Session's, same database"
        yield from target(
            request, beside, overhead(request, peers.FLASK_SESSION), factor
        )
    redis = overhead(READ, peers.FLASK_SESSION_REDIS)
    yield from target(READ, "Flask-Session's on Redis", redis)
