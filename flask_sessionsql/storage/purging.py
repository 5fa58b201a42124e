"""Expired rows go.

A few of them go after a response now and then, and all of them by the command: see
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

#: Rows that are looked at at once: after a response, and by the command.
AFTER_RESPONSE = 100
BATCH = 500
#: Seconds between two batches of the command, in which others have the database; at
#: least, since a slow database needs more: with these alone, a MariaDB whose pages did
#: not fit into memory had 0.05 s of rest after 0.7 s of work, and reading a session
#: took 1.6 times as long, up to 2.8 times.
PAUSE = 0.05


def count_expired(database: SessionDatabase, now: int) -> int:
    """How many rows had expired at ``now``, in seconds since 1970."""
    table = database.table
    statement = sa.select(sa.func.count()).where(
        table.c.purge_at <= now, table.c.expires_at <= now
    )
    return int(database.run(lambda connection: connection.scalar(statement)) or 0)


class Batch(NamedTuple):
    """What one batch came to."""

    #: At how many rows it looked. Fewer than it might mean that there are no more, but
    #: for those at which other processes look.
    seen: int
    #: How many of them had expired, and are deleted; the others live on.
    deleted: int
    #: The ``purge_at`` of the last one, in seconds since 1970; ``None`` where there was
    #: none.
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
    """Delete all rows that had expired at ``now``, in batches; gives each one. Whoever
    asks for no more of them stops it, between two batches.

    :param batch: how many rows at once; those that turn out to live on count, too.
    :param pause: seconds between two batches, and at least as long as the last one
        took: then others have the database for half of the time, however slow it is. 0
        for none at all.
    :param max_seconds: begin no batch after that time, and make no pause that would end
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
        # While somebody reads the table in one long transaction, a backup for one, the
        # database keeps what is deleted, and would go through it again in each batch.
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

    :param most: at how many rows to look at most.
    :param tell: told of each session that is deleted.
    :param since: look at no row whose ``purge_at`` is before this.
    :param wait: whether to wait for a SQLite file that is locked.
    """
    table = database.table
    columns = table.c
    due = (
        sa.select(
            *(columns[name] for name in ("id", "handle", "user_id", "purge_at")),
            # As it is once the row is locked, which a request may have moved on.
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
                # Unlike a DELETE, an UPDATE of MariaDB's that reads the whole of a
                # small table waits for no other row that somebody has locked.
                connection.execute(note_again.where(columns.id.in_(some)))
        return rows, gone

    rows, gone = database.run(work, wait=wait)
    for row in gone:
        if not row.handle:
            continue  # a note of what was taken over
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

    :param interval: seconds from one time to the next; 0 for never.
    """

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._pid = 0
        self._next = 0.0

    def is_due(self) -> bool:
        """Whether it is time again. Cheap: every request asks."""
        if not self._interval:
            return False
        if self._pid != os.getpid():
            # Workers that began together do not come together; and one that never
            # lives for a whole interval has its share, too.
            self._next = time.monotonic() + random.random() * self._interval  # noqa: S311
            # A thread of the parent may have held it when this process began.
            self._lock = threading.Lock()
            self._pid = os.getpid()
        return time.monotonic() >= self._next

    def run(self, database: SessionDatabase, tell: Tell = lambda event: None) -> None:
        """Look at up to 100 rows, unless another thread does so now. It raises nothing:
        the response has left.
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
            # Of a file that is locked, and of a database that is gone, others tell.
            self._next = time.monotonic() + self._interval
            logger.info("Expired sessions stay until the next time: %s", error)
        except Exception:
            self._next = time.monotonic() + self._interval
            logger.exception("Deleting expired sessions failed.")
        finally:
            lock.release()
