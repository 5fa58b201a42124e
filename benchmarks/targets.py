"""What the sessions are to cost at most, beside the others of the same run.

All is in microseconds over the application that does nothing, with 200 bytes in the
session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.peers import (
    ANONYMOUS,
    COOKIE,
    FLASK_SESSION,
    FLASK_SESSION_REDIS,
    NEW,
    OURS,
    RAW,
    READ,
    UNTOUCHED,
    WRITE,
)

#: Bytes of the session that the targets are about.
SIZE = 200
#: Microseconds of what does not touch its session.
LEAST = 15
#: The most that is allowed over the hand-written floor.
OVER_FLOOR = 1.5
#: How many times less than Flask-Session's it is to be.
LESS = {READ: 8, WRITE: 3}

#: The overhead by database, request and contender; ``None`` if it was not measured.
Overhead = Callable[[str, str, str], float | None]


@dataclass(frozen=True)
class Target:
    """A target, and what came of it."""

    database: str
    request: str
    #: What it is compared with.
    beside: str
    #: What ours is, and the most that it may be.
    ours: float
    most: float

    @property
    def met(self) -> bool:
        """Whether ours costs no more."""
        return self.ours <= self.most

    def __str__(self) -> str:
        verdict = "met    " if self.met else "NOT MET"
        # By how much: of what is allowed.
        share = self.ours / self.most - 1 if self.most > 0 else float("inf")
        margin = f"{abs(share):.0%} {'over' if share > 0 else 'under'}"
        return (
            f"{verdict}  {self.database:11}{self.request:10}{self.beside:38}"
            f"{self.ours:8.1f} of{self.most:8.1f}  {margin}"
        )


def targets(databases: list[str], overhead: Overhead) -> Iterator[Target]:
    """Those of which all was measured.

    :param databases: their names.
    """

    def compare(
        database: str, request: str, name: str, factor: float, beside: str
    ) -> Iterator[Target]:
        ours = overhead(database, request, OURS)
        other = overhead(database, request, name)
        if ours is not None and other is not None:
            yield Target(database, request, beside, ours, factor * other)

    for database in databases:
        for request in (ANONYMOUS, UNTOUCHED):
            if (ours := overhead(database, request, OURS)) is not None:
                yield Target(database, request, f"{LEAST} microseconds", ours, LEAST)
        cheaper = {
            "SQLite": (UNTOUCHED, READ, WRITE, NEW),
            "PostgreSQL": (UNTOUCHED, READ),
        }
        for request in cheaper.get(database, ()):
            yield from compare(database, request, COOKIE, 1, "Flask's own cookie")
        for request in (READ, WRITE, NEW):
            beside = f"{OVER_FLOOR} times the raw driver"
            yield from compare(database, request, RAW, OVER_FLOOR, beside)
        for request, times in LESS.items():
            beside = f"an {times}th" if times == 8 else "a third"
            yield from compare(
                database,
                request,
                FLASK_SESSION,
                1 / times,
                f"{beside} of Flask-Session's, same database",
            )
        yield from compare(
            database, READ, FLASK_SESSION_REDIS, 1, "Flask-Session's on Redis"
        )
