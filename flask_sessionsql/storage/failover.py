"""Fail-over: finding the server that takes writes.

After a switch-over, open connections stay with the old server, which has become
read-only or shuts down. The same address may lead to another server by now: to another
of several hosts in it, or through a proxy or a DNS name. One new connection finds out.
If there is one, all connections are replaced and the statement is tried once more.

As long as there is no other server, the connections are kept: they can still read.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from .driver import renew
from .errors import OF_SOCKETS

__all__ = ["Failover"]

#: The statement that asks a server whether it takes writes, and the answers for yes.
_QUESTIONS: dict[str, tuple[str, set[object]]] = {
    "postgresql": ("SHOW transaction_read_only", {"off"}),
    "mysql": ("SELECT @@global.read_only", {0, "OFF"}),
}
_QUESTIONS["mariadb"] = _QUESTIONS["mysql"]

#: Seconds between two checks. Without it, each write would make a new connection as
#: long as no server takes writes.
INTERVAL = 1.0

#: Seconds that a statement waits for the check of another thread.
PATIENCE = 2.0


class Failover:
    """Checks whether the database has moved to another server, at most once a second.

    :param engine: an engine in ``AUTOCOMMIT``.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._looked = -INTERVAL
        self._renewed = -INTERVAL

    def has_moved(self, since: float) -> bool:
        """Whether a statement can succeed if it is tried again, on a new connection.

        :param since: when it was tried, by ``time.monotonic``.
        """
        # One thread checks, and the others wait for it.
        if not self._lock.acquire(timeout=PATIENCE):
            return False
        try:
            now = time.monotonic()
            if self._looked < since and now - self._looked >= INTERVAL:
                found = self._takes_writes()
                self._looked = time.monotonic()
                if found:
                    renew(self._engine)
                    self._renewed = self._looked
            return self._renewed >= since
        finally:
            self._lock.release()

    def _takes_writes(self) -> bool:
        """Whether a new connection leads to a server that takes writes."""
        driver: Any = self._engine.dialect.loaded_dbapi
        question, yes = _QUESTIONS[self._engine.dialect.name]
        # A separate connection: those of the pool are used by others.
        pool = self._engine.pool.recreate()
        try:
            with closing(pool.connect()) as connection:
                with closing(connection.cursor()) as cursor:
                    cursor.execute(question)
                    row = cursor.fetchone()
                return row is not None and row[0] in yes
        except (driver.Error, sa_exc.SQLAlchemyError, *OF_SOCKETS):
            return False
        finally:
            pool.dispose()
