"""A connection out of a pool, for one statement.

SQLAlchemy gives a connection out behind a proxy: listeners are told of it, it can be
detached, and it comes back by itself if it is forgotten. Making the proxy and taking it
down takes three times as long as the rest of what a pool does. Here a connection is
never forgotten, so the proxy is left out where nobody listens. The rest is the pool's:
its limit and time-out, connecting, recycling, and replacing what was lost.
"""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

__all__ = ["PlainConnection", "check_out"]

#: What a proxy is for: the pool's listeners are given it.
_listeners = attrgetter("dispatch.checkout", "dispatch.checkin", "dispatch.reset")


class PlainConnection:
    """One of a pool's connections, with what is used of SQLAlchemy's proxy. Whoever has
    it calls :meth:`close` whatever happens.

    :raises sqlalchemy.exc.TimeoutError: none became free within the pool's time-out.
    :raises Exception: the driver's own error where it cannot connect.
    """

    # Under the names that a pool asks for when it is told of a lost connection.
    __slots__ = ("_connection_record", "_pool", "info")

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        record = self._connection_record = pool._do_get()
        try:
            record.get_connection()
        except BaseException as error:
            self.invalidate(error)
            self.close()
            raise
        #: What stays with the connection as long as it is open.
        self.info: dict[Any, Any] = record.info

    @property
    def dbapi_connection(self) -> Any:
        """The driver's connection; ``None`` if it is invalidated."""
        return self._connection_record.dbapi_connection

    @property
    def is_valid(self) -> bool:
        """Whether it can be used."""
        return self.dbapi_connection is not None

    def cursor(self) -> Any:
        """A cursor of the driver's."""
        return self.dbapi_connection.cursor()

    def invalidate(self, error: BaseException | None = None) -> None:
        """Close the driver's connection. Its place in the pool gets a new one."""
        self._connection_record.invalidate(error)

    def close(self) -> None:
        """Give it back to the pool."""
        self._pool._do_return_conn(self._connection_record)


def check_out(engine: sa.Engine) -> PlainConnection | sa.PoolProxiedConnection:
    """A connection of this engine's pool, to be closed by the caller. It raises what
    :class:`PlainConnection` or :meth:`sqlalchemy.engine.Engine.raw_connection` does.
    """
    pool: Any = engine.pool
    if (
        type(pool) is sa.QueuePool
        and not pool._pre_ping
        and not any(_listeners(pool))
        and not pool.logger.isEnabledFor(logging.DEBUG)
    ):
        return PlainConnection(pool)
    return engine.raw_connection()
