"""Deleting expired rows.

A few are deleted after a response now and then; the command deletes all: see
:ref:`expired-rows`.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..exceptions import SessionError
from ..signals import SessionEnded, Tell
from .database import SessionDatabase, delete_rows, in_parts, transaction

__all__ = ["Batch", "Purger", "count_expired", "purge", "purge_batch"]

logger: logging.Logger = logging.getLogger(__name__)

#: How many rows a batch looks at: after a response, and in the command.
AFTER_RESPONSE = 100
BATCH = 500
#: Minimum pause between two batches of the command, in seconds, for other work on the
#: database. A slow database needs longer pauses: with only this one, a MariaDB whose
#: pages did not fit into memory rested 0.05 s after 0.7 s of work, and reading a
#: session took 1.6 times as long, up to 2.8 times.
PAUSE = 0.05


def count_expired(database: SessionDatabase, now: int) -> int:
    """How many rows had expired at ``now``, in seconds since 1970."""
    table = database.table
    statement = sa.select(sa.func.count()).where(
        table.c.purge_at <= now, table.c.expires_at <= now
    )
    return int(database.run(lambda connection: connection.scalar(statement)) or 0)


class Batch(NamedTuple):
    """The result of one batch."""

    #: How many rows it looked at. If that is fewer than allowed, there are no more,
    #: apart from those that other processes are looking at.
    seen: int
    #: How many of them had expired and were deleted.
    deleted: int
    #: The ``purge_at`` of the last row, in seconds since 1970; ``None`` if there was no
    #: row.
    last: int | None


def purge(
    database: SessionDatabase,
    now: int,
    *,
    batch: int = BATCH,
    pause: float = PAUSE,
    max_seconds: float | None = None,
    tell: Tell = lambda event: None,
) -> Iterator[Batch]:
    """Delete all rows that had expired at ``now``, in batches, and yield each batch. To
    stop it between two batches, do not ask for the next one.

    :param batch: how many rows a batch looks at, including rows that turn out to be
        live.
    :param pause: minimum seconds between two batches. A pause is also at least as long
        as the last batch took, so that others have the database half of the time,
        however slow it is. 0 for no pauses.
    :param max_seconds: begin no batch after that time, and no pause that would end
        after it.
    """
    end = math.inf if max_seconds is None else time.monotonic() + max_seconds
    since = None
    while True:
        start = time.monotonic()
        done = purge_batch(database, now, batch, tell, since=since)
        took = time.monotonic() - start
        yield done
        if done.seen < batch:
            return
        # During a long transaction that reads the table, such as a backup, the database
        # keeps deleted rows, and each batch would pass all of them again.
        since = done.last
        rest = pause and max(pause, took)
        if time.monotonic() + rest >= end:
            return
        time.sleep(rest)


def purge_batch(
    database: SessionDatabase,
    now: int,
    most: int,
    tell: Tell = lambda event: None,
    *,
    since: int | None = None,
    wait: bool = True,
) -> Batch:
    """Delete rows that had expired at ``now``, the oldest first.

    :param most: the maximum number of rows to look at.
    :param tell: called with an event for each session that is deleted.
    :param since: skip rows whose ``purge_at`` is before this.
    :param wait: whether to wait for a SQLite file that is locked.
    """
    table = database.table
    columns = table.c
    due = (
        sa.select(
            *(columns[name] for name in ("id", "handle", "user_id", "purge_at")),
            # The value after the row is locked: a request may have moved the end.
            (columns.expires_at <= now).label("expired"),
        )
        .where(columns.purge_at <= now)
        .order_by(columns.purge_at)
        .limit(most)
    )
    if since is not None:
        due = due.where(columns.purge_at >= since)
    note_again = sa.update(table).values(purge_at=columns.expires_at)

    def work(connection: sa.Connection) -> tuple[Sequence[Any], Sequence[Any]]:
        skip = _can_skip(connection.dialect)
        with transaction(connection):
            rows = connection.execute(due.with_for_update(skip_locked=skip)).all()
            gone = [row for row in rows if row.expired]
            delete_rows(connection, table, [row.id for row in gone])
            live = [row.id for row in rows if not row.expired]
            for some in in_parts(live):
                # On MariaDB, an UPDATE that reads the whole of a small table does not
                # wait for rows that others have locked. A DELETE would.
                connection.execute(note_again.where(columns.id.in_(some)))
        return rows, gone

    rows, gone = database.run(work, wait=wait)
    for row in gone:
        if not row.handle:
            continue  # a note about an adopted session
        tell(SessionEnded(row.handle, row.user_id, "expired"))
    return Batch(len(rows), len(gone), rows[-1].purge_at if rows else None)


def _can_skip(dialect: sa.Dialect) -> bool:
    """Whether the database has ``SKIP LOCKED``."""
    if dialect.name == "postgresql":
        return True
    version = dialect.server_version_info or ()
    if getattr(dialect, "is_mariadb", False):
        return version >= (10, 6)
    return dialect.name == "mysql" and version >= (8, 0, 1)


class Purger:
    """Deletes a few expired rows now and then, in this process.

    :param interval: seconds between two times; 0 for never.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._pid = 0
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether it is time again. It is cheap, because every request asks."""
        if not self._interval:
            return False
        if self._pid != os.getpid():
            # A random part of the interval, so that workers that start together do not
            # purge together, and one that never lives for a whole interval purges, too.
            self._next = time.monotonic() + random.random() * self._interval  # noqa: S311
            # A thread of the parent process may have held the lock at the fork.
            self._lock = threading.Lock()
            self._pid = os.getpid()
        return time.monotonic() >= self._next

    def run(self, database: SessionDatabase, tell: Tell = lambda event: None) -> None:
        """Look at up to 100 rows, unless another thread is doing so. Raises nothing,
        because the response is already sent.
        """
        lock = self._lock
        if not lock.acquire(blocking=False):
            return
        try:
            if not self.is_due():
                return
            now = int(time.time())
            done = purge_batch(database, now, AFTER_RESPONSE, tell, wait=False)
            if done.seen < AFTER_RESPONSE:
                self._next = time.monotonic() + self._interval
            if done.deleted:
                logger.info("Deleted %d expired sessions.", done.deleted)
        except SessionError as error:
            # Others report a locked file or a database that is down.
            self._next = time.monotonic() + self._interval
            logger.info("Expired sessions stay until the next time: %s", error)
        except Exception:
            self._next = time.monotonic() + self._interval
            logger.exception("Deleting expired sessions failed.")
        finally:
            lock.release()
