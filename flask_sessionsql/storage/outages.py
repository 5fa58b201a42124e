"""Logging outages of the session database.

The first line of an outage has its reason and what to check. After that there is at
most one line a minute, with the number of requests that failed since, and one line when
it is over. Errors with different codes are different outages.

A database that fails and works in turns, as one with too few connections does, is one
outage: if it begins again within a minute of the last line, it is only counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..exceptions import (
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
)
from .errors import codes, concerns_statement, kind

__all__ = ["MINUTE", "OnceAMinute", "Outages", "advice"]

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds from one line of an outage to the next.
MINUTE = 60.0

#: What to check, by the codes of PostgreSQL, MariaDB and SQLite; two characters are a
#: class of PostgreSQL's codes.
_ADVICE: tuple[tuple[frozenset[object], str], ...] = (
    (
        frozenset({"28", 1045, 1698}),
        "Look at the user and the password in the database's address, and at what the"
        " server lets in.",
    ),
    (
        frozenset({"3D000", 1049}),
        "Create the database, or look at its name in the address.",
    ),
    (
        frozenset({"53300", 1040, 1203, 1226, "QueuePool"}),
        "All connections are in use: look at how many the server allows, and at"
        " pool_size and max_overflow in SQLALCHEMY_ENGINE_OPTIONS.",
    ),
    (
        frozenset({"25006", 1290, 1792, 1836}),
        "The server takes no writes, as a replica does: look at whether the address"
        " leads to the one that does.",
    ),
    (
        frozenset({"55P03", 1205, "sqlite 5", "sqlite 6"}),
        "Somebody holds a lock for longer than is waited: look for a transaction that"
        " does not end.",
    ),
    (
        frozenset({"53100", 1021, 1114, "sqlite 13"}),
        "Make room on the disk of the database.",
    ),
    (frozenset({"57P03"}), "The server is starting or stopping: wait for it."),
    (
        frozenset({"sqlite 8"}),
        "Let the user that the application runs as write to the file and to its"
        " folder.",
    ),
    (
        frozenset({"sqlite 14"}),
        "See that the file's folder is there, and that the user that the application"
        " runs as may open the file and write to the folder.",
    ),
    (
        frozenset({"sqlite 11", "sqlite 26"}),
        "The file is damaged, or no database: take it from a backup, or move it away.",
    ),
)
_OTHERWISE = (
    "See whether the database server runs, and whether this machine reaches it at the"
    " address that the application has."
)


def advice(error: BaseException) -> str:
    """What to check after an error of the database."""
    told = kind(error)
    classes = {code[:2] for code in told & codes(error) if isinstance(code, str)}
    found = (text for known, text in _ADVICE if known & (told | classes))
    return next(found, _OTHERWISE)


def explained(told: str, error: BaseException) -> str:
    """What the database said of ``error``, as a sentence, and what to check."""
    end = "" if told.endswith((".", "?", "!")) else "."
    return f"{told}{end} {advice(error)}"


@dataclass(slots=True)
class _Outage:
    """An outage in which at least one request failed."""

    reason: str
    began: float
    #: When the last line said that it goes on, and that it is over.
    told: float
    ended: float = -MINUTE
    #: How many requests failed since that line.
    count: int = 0
    #: Whether the last line said that it goes on.
    is_open: bool = True
    #: The statements that failed; empty if all of them do.
    concerned: set[object] = field(default_factory=set)


class Outages:
    """The outages of one database, for all threads."""

    def __init__(self) -> None:
        #: Whether there is an outage: the only check after a statement that succeeds.
        self.begun: bool = False
        self._lock = threading.Lock()
        self._known: dict[object, _Outage] = {}

    @contextmanager
    def noted(self, error: Exception, statement: object) -> Iterator[None]:
        """Note an outage if the block, which handles the database's error, raises that
        the database cannot be used.

        :param statement: the statement that failed, or its name.
        """
        try:
            yield
        except SessionStoreBusyError:
            raise  # the caller may try again and wait
        except SessionStoreUnavailableError as named:
            self._failed(error, explained(named.reason, error), statement)
            raise
        except SessionTableError as named:
            self._failed(error, str(named), statement)
            raise

    def _failed(self, error: Exception, reason: str, statement: object) -> None:
        now, since = time.monotonic(), 0
        with self._lock:
            key = kind(error)
            outage = self._known.get(key)
            if outage is None:
                outage = self._known[key] = _Outage(reason, now, now)
                is_new, self.begun = True, True
            else:
                is_new = False
                outage.count += 1
            if concerns_statement(error):
                outage.concerned.add(statement)
            if not is_new:
                if now - outage.told < MINUTE:
                    return
                since, outage.count = outage.count, 0
                outage.told, outage.is_open = now, True
        # After releasing the lock: a log handler may use a session.
        if is_new:
            logger.error("The database of the sessions cannot be used: %s", reason)
        else:
            logger.error(
                "The database of the sessions still cannot be used: %s Requests that"
                " failed since: %s.",
                reason,
                f"{since:,}",
            )

    def worked(self, statement: object) -> None:
        """Note that a statement has succeeded.

        :param statement: as for :meth:`noted`.
        """
        now, over = time.monotonic(), list[tuple[float, int]]()
        with self._lock:
            for key, outage in list(self._known.items()):
                if outage.concerned and statement not in outage.concerned:
                    continue  # reading works, for example, and writing does not
                if outage.is_open or outage.count:
                    if now - outage.ended >= MINUTE:
                        over.append((now - outage.began, outage.count))
                        outage.ended, outage.is_open, outage.count = now, False, 0
                elif now - max(outage.told, outage.ended) >= MINUTE:
                    del self._known[key]
            self.begun = bool(self._known)
        if over:
            logger.warning(
                "The database of the sessions works again, %d s after that began."
                " Requests that failed since the last line: %s.",
                max(seconds for seconds, _ in over),
                f"{sum(count for _, count in over):,}",
            )


class OnceAMinute:
    """Limits a line of the log to one a minute."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def is_time(self) -> bool:
        """Whether it is time; ``True`` for one thread only."""
        # Nobody waits: a thread of the parent process may have held it at a fork.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            now = time.monotonic()
            if now < self._next:
                return False
            self._next = now + MINUTE
            return True
        finally:
            self._lock.release()
