"""Running statements on the table, and handling their errors.

No connection is held between two calls, and each call has a deadline: see
:mod:`~flask_sessionsql.storage.deadlines`. If a statement fails because

- the connection was lost, it is tried again on a new one; if the pool has more lost
  connections, until all of them are replaced;
- the table is missing, the table is created if that is allowed, and the statement is
  tried again. Otherwise, and if a right is missing, the call raises
  :exc:`~flask_sessionsql.SessionTableError`;
- the database cannot be reached, refuses to work or does not answer in time, it raises
  :exc:`~flask_sessionsql.SessionStoreUnavailableError`;
- the statement did nothing and can succeed, it is tried again: it was rolled back in
  favor of another one, the server has become read-only and another one takes writes
  (:mod:`~flask_sessionsql.storage.failover`), or the SQLite file was replaced;
- a pooler forbids transactions, it raises :exc:`~flask_sessionsql.SessionConfigError`;
- a text has characters that the database cannot store, it raises
  :exc:`~flask_sessionsql.storage.errors.TextNotStorableError`.

Any other error is a fault of this package or of the table and is raised unchanged.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from ..exceptions import (
    SessionConfigError,
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
)
from .connections import end_transaction, roll_back, used
from .deadlines import Deadline, is_over
from .driver import DirectWay, Statement, renew
from .engines import SQLiteFile
from .errors import (
    OF_SOCKETS,
    TextNotStorableError,
    blames_schema,
    is_busy,
    is_elsewhere,
    is_lost,
    is_not_storable,
    is_read_only_file,
    is_replaced_file,
    is_unavailable,
    lacks_right,
    plain,
    reason,
    waited_for_lock,
    was_rolled_back,
)
from .failover import Failover
from .outages import Outages
from .places import address_key, check_schema, explain
from .poolers import (
    NO_TRANSACTIONS,
    Preparing,
    forbids_transactions,
    is_prepared_elsewhere,
)
from .tables import of_flask_session
from .turns import in_turn, insists

__all__ = ["UNKNOWN", "SessionDatabase", "delete_rows", "in_parts", "transaction"]

logger: logging.Logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How often a statement is tried again after it was rolled back in favor of another.
MAX_TURNED_DOWN = 100

#: For how many seconds more lost connections of the pool are tried, one after another.
_SOON = 1.0

#: Returned instead of a number of written rows if nobody can tell.
UNKNOWN = -1

#: Keys in one statement: SQLite before 3.32 takes 999 parameters.
_MOST_KEYS = 500

#: Seconds that creating the table waits for another transaction.
DDL_PATIENCE = 5


#: What a statement can raise: SQLAlchemy's errors, and errors that drivers let through,
#: of sockets and of texts that the connection's character set cannot encode.
_DATABASE_ERRORS = (
    sa_exc.DBAPIError,
    sa_exc.TimeoutError,
    UnicodeError,
    *OF_SOCKETS,
)

#: All databases of this process, for its child processes.
_DATABASES: weakref.WeakSet[SessionDatabase] = weakref.WeakSet()


def _renew_locks() -> None:  # pragma: no cover -- not in this process
    """In a child process: make new locks, because the thread that held one is gone."""
    for database in list(_DATABASES):
        database._lock = threading.Lock()
        database._turn = _turns(database.engine)
        database._outages = Outages()
        database._failover = Failover(database.engine)


if hasattr(os, "register_at_fork"):  # pragma: no branch -- not on Windows
    os.register_at_fork(after_in_child=_renew_locks)


def _turns(engine: sa.Engine) -> threading.Lock | None:
    """A lock that makes statements wait for each other; ``None`` if they need not. They
    do with a ``StaticPool``, which lends one connection to all threads: two statements
    at once could get each other's rows. And they do where connections share SQLite's
    cache, because SQLite does not make them wait there.
    """
    shared = isinstance(engine.pool, sa.StaticPool) or engine.url.query.get("cache")
    return threading.Lock() if shared else None


class SessionDatabase:
    """The table of the sessions in its database.

    :param engine: an engine in ``AUTOCOMMIT``, such as
        :func:`~flask_sessionsql.storage.engines.sessions_engine` makes.
    :param table: the table, as :func:`~flask_sessionsql.storage.tables.sessions_table`
        makes it.
    :param create_table: whether to create the table if it is missing.
    :param timeout: how many seconds a call may take if the server does not answer.
    """

    def __init__(
        self,
        engine: sa.Engine,
        table: sa.Table,
        *,
        create_table: bool = True,
        timeout: float = 10,
    ) -> None:
        self.engine = engine
        self.table = table
        self.create_table = create_table
        self._timeout = timeout
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._abandoned: list[sa.Pool] = []
        self._direct = DirectWay(engine)
        self._turn = _turns(engine)
        self._file = SQLiteFile(engine)
        self._failover = Failover(engine)
        self._preparing = Preparing(engine)
        self._outages = Outages()
        _DATABASES.add(self)

    @property
    def locks_whole_database(self) -> bool:
        """Whether one writer locks out all others, as in SQLite."""
        return self.engine.dialect.name == "sqlite"

    def first(
        self, statement: Statement, values: Mapping[str, Any]
    ) -> Sequence[Any] | None:
        """The first row that a statement finds with these parameters, or ``None``.
        Raises the same errors as :meth:`run`.
        """
        if self._direct.is_open():
            first = self._direct.first
            with Deadline(self._timeout):
                return self._insist(first, statement, values, name=statement)
        return self.run(
            lambda connection: connection.execute(statement.clause, values).first(),
            name=statement,
        )

    def change(
        self,
        statement: Statement,
        values: Mapping[str, Any],
        *,
        wait: bool = True,
        on_lost: Callable[[], object] = lambda: None,
    ) -> int:
        """Run a statement with these parameters. Returns how many rows it wrote, or
        :data:`UNKNOWN` if it wrote none but the answer to an earlier try was lost,
        which may have written them. Raises the same errors as :meth:`run`.

        :param on_lost: as for :meth:`run`; it may change the parameters.
        """
        if self._direct.is_open() and (wait or not self.locks_whole_database):
            with Deadline(self._timeout):
                return self._insist(
                    self._direct.change,
                    statement,
                    values,
                    name=statement,
                    unsure=UNKNOWN,
                    on_lost=on_lost,
                )
        return self.run(
            lambda connection: connection.execute(statement.clause, values).rowcount,
            name=statement,
            wait=wait,
            unsure=UNKNOWN,
            on_lost=on_lost,
        )

    def run(
        self,
        work: Callable[[sa.Connection], T],
        *,
        name: object = None,
        wait: bool = True,
        unsure: T | None = None,
        on_lost: Callable[[], object] = lambda: None,
    ) -> T:
        """Call ``work`` with a connection and return its result. It may be called more
        than once, so it must be one statement or one :func:`transaction`.

        :param name: identifies the work in the log; by default its own name.
        :param wait: whether to wait for a SQLite file that is locked.
        :param unsure: returned instead of 0 if the answer to an earlier try was lost.
        :param on_lost: called before the next try if the answer to one was lost.
        :raises SessionStoreUnavailableError: the database cannot be used.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        :raises SessionTableError: the table is missing, or belongs to another program.
        :raises TextNotStorableError: the database cannot store a text.
        """
        wait = wait or not self.locks_whole_database

        def attempt() -> T:
            with used(self.engine) as connection, _patience(connection, wait):
                return work(connection)

        if wait and insists():
            attempt = partial(in_turn, attempt)
        name = name or getattr(work, "__qualname__", work)
        with Deadline(self._timeout):
            return self._insist(
                attempt, name=name, wait=wait, unsure=unsure, on_lost=on_lost
            )

    def _insist(
        self,
        attempt: Callable[..., T],
        *arguments: Any,
        name: object,
        wait: bool = True,
        unsure: T | None = None,
        on_lost: Callable[[], object] = lambda: None,
    ) -> T:
        """Call ``attempt`` and return its result; try again where that can help."""
        self._leave_other_process()
        if self._file.was_replaced():
            renew(self.engine)
        provided = False
        lost, turned_down, until = 0, 0, 0.0
        while True:
            begun = time.monotonic()
            try:
                if self._turn is None:
                    found = attempt(*arguments)
                else:
                    with self._turn:
                        found = attempt(*arguments)
                if self._outages.begun:
                    self._outages.worked(name)
                return unsure if lost and unsure is not None and found == 0 else found
            except _DATABASE_ERRORS as error:
                with self._outages.noted(error, name):
                    if is_lost(error) and self._goes_on(lost, until):
                        until = until or time.monotonic() + _SOON
                        lost += 1
                        on_lost()
                        if not getattr(error, "connection_invalidated", False):
                            renew(self.engine)
                    elif not provided and blames_schema(error):
                        self._provide_table(wait)
                        provided = True
                    elif turned_down < MAX_TURNED_DOWN and self._can_pass(error, begun):
                        turned_down += 1
                    else:
                        explain(error, self.engine, self.table)
                        self._raise_named(error, wait)

    def _raise_named(self, error: Exception, wait: bool = True) -> NoReturn:
        """Raise the error of this package for an error of the database."""
        told = reason(error)
        if is_over():
            told += " (SESSION_DATABASE_TIMEOUT has passed)"
        if is_not_storable(error):
            # Without its cause, which contains the text.
            raise TextNotStorableError from None
        if is_busy(error) and not wait:
            raise SessionStoreBusyError(told) from error
        if forbids_transactions(error):
            key = address_key(self.table.metadata.info.get("bind_key"))
            raise SessionConfigError(key, NO_TRANSACTIONS) from None
        if lacks_right(error):
            raise SessionTableError(self._right_missing(told)) from None
        if is_read_only_file(error):
            told = f"{told}: {self.engine.url.database!r}"
        if is_unavailable(error):
            raise SessionStoreUnavailableError(told) from error
        raise plain(error) from None

    def _right_missing(self, told: str) -> str:
        quoting, table = self.engine.dialect.identifier_preparer, self.table
        user, schema = self.engine.url.username or "the user", ""
        if self.engine.dialect.name == "postgresql":
            user = quoting.quote(user)
            if table.schema:
                schema = f", and GRANT USAGE ON SCHEMA {quoting.quote(table.schema)}"
                schema += f" TO {user}"
        else:
            user = f"'{user}'@'%', or the host that SELECT CURRENT_USER() shows"
        return (
            f"The database's user lacks a right on the table {table.fullname!r}:"
            f" {told}. Let an administrator run: GRANT SELECT, INSERT, UPDATE, DELETE"
            f" ON {quoting.format_table(table)} TO {user}{schema}."
        )

    def _can_pass(self, error: Exception, begun: float) -> bool:
        """Whether the statement did nothing and can succeed the next time.

        :param begun: when it was tried, by ``time.monotonic``.
        """
        if is_elsewhere(error) and not is_lost(error):
            return self._failover.has_moved(begun)
        if is_prepared_elsewhere(error):
            return self._preparing.stop()
        if is_replaced_file(error):
            renew(self.engine)
            return True
        return was_rolled_back(error)

    def _goes_on(self, lost: int, until: float) -> bool:
        """Whether to try another connection after so many were lost: once, and then as
        long as the pool may have more that were lost at the same time. There is a time
        limit, because a server that does not answer would make each of them wait.
        """
        if is_over():
            return False
        pool = self.engine.pool
        kept = pool.checkedin() if isinstance(pool, sa.QueuePool) else 0
        return not lost or (lost < kept and time.monotonic() < until)

    def dispose(self) -> None:
        """Close the connections, except those that another process has opened."""
        self._leave_other_process()
        self.engine.dispose()

    def _leave_other_process(self) -> None:
        """After a fork, make new connections and do not touch the parent's: two
        processes on one connection would get each other's answers.
        """
        if self._pid != os.getpid():
            with self._lock:
                if self._pid != os.getpid():
                    # Kept, so that nothing closes them in this process.
                    self._abandoned.append(self.engine.pool)
                    self.engine.dispose(close=False)
                    self._pid = os.getpid()

    # The table.

    def provide_table(self) -> bool:
        """Create the table if it is missing. Returns whether it was.

        :raises SessionTableError: a table of that name lacks columns, or the database
            refuses to create one.
        :raises SessionStoreUnavailableError: the database cannot be used.
        """
        self._leave_other_process()
        with Deadline(self._timeout):
            there = self._columns_there()
            if there:
                self._check_columns(there)
            else:
                self._create_table(True)
        return not there

    def _provide_table(self, wait: bool) -> None:
        """Create the table after a statement failed because it is missing.

        :raises SessionTableError: it cannot be created, or belongs to another program.
        """
        there = self._columns_there()
        if there:
            # Another process may just have created it.
            self._check_columns(there)
        elif self.create_table:
            self._create_table(wait)
        else:
            raise SessionTableError(
                f"There is no table {self.table.fullname!r} in the database, and"
                " SESSION_CREATE_TABLE is off. Run the migration that creates it, or"
                " 'flask sessions create-table', or set SESSION_CREATE_TABLE = True."
            ) from None

    def _check_columns(self, there: set[str]) -> None:
        missing = [c.name for c in self.table.columns if c.name not in there]
        if missing:
            known = of_flask_session(there, self.table.name)
            raise SessionTableError(
                known
                or f"The table {self.table.fullname!r} in the database lacks the"
                f" columns {', '.join(missing)}, so it is not a table of sessions, or"
                " one of another version. Set SESSION_SQLALCHEMY_TABLE to an unused"
                " name, or run the migration that adds them."
            ) from None

    def _columns_there(self) -> set[str]:
        """The columns of the table in the database; empty if it is missing."""

        def look() -> set[str]:
            with used(self.engine) as connection, _patience(connection, True):
                reader, table = sa.inspect(connection), self.table
                try:
                    columns = reader.get_columns(table.name, table.schema)
                except sa_exc.NoSuchTableError:
                    check_schema(reader, table)
                    return set()
                return {column["name"] for column in columns}

        try:
            return in_turn(look)
        except _DATABASE_ERRORS as error:
            explain(error, self.engine, self.table)
            self._raise_named(error)

    def _create_table(self, wait: bool) -> None:
        """Create the table and its indexes, even if several processes do so at once."""
        name = self.table.fullname
        # Less than the whole call has, so that the error can say what happened.
        patience = min(DDL_PATIENCE, self._timeout / 2)

        def create() -> None:
            with (
                used(self.engine) as connection,
                _patience(connection, wait),
                _ddl_patience(connection, patience),
            ):
                self.table.create(connection, checkfirst=True)

        with self._lock:
            try:
                in_turn(create)
            except _DATABASE_ERRORS as error:
                if _passes(error) or forbids_transactions(error):
                    self._raise_named(error, wait)
                if waited_for_lock(error):
                    raise SessionTableError(
                        f"The table {name!r} is missing and could not be created within"
                        f" {patience:g} seconds, because another transaction has"
                        " created it and is not committed, such as db.create_all() in a"
                        " test that rolls back. Commit it, or create the table before,"
                        " for example with 'flask sessions create-table'."
                    ) from None
                if not self._columns_there():
                    raise SessionTableError(
                        f"The table {name!r} is missing and could not be created:"
                        f" {reason(error)}. Let the database user create tables, or"
                        " create it in a migration and set SESSION_CREATE_TABLE ="
                        " False."
                    ) from None
            else:
                logger.info("Created the table %r for sessions.", name)


def _passes(error: Exception) -> bool:
    """Whether the error will pass, so that no right and no setting is wrong."""
    questions = (is_busy, is_lost, is_elsewhere, was_rolled_back)
    return isinstance(error, sa_exc.TimeoutError) or any(
        ask(error) for ask in questions
    )


@contextmanager
def transaction(connection: sa.Connection) -> Iterator[None]:
    """Run the block in one transaction: all of it happens, or nothing.

    The connections of the sessions are in ``AUTOCOMMIT``, so this runs ``BEGIN`` and
    ``COMMIT`` itself. Each statement in it sees what others have committed before:
    after waiting for a lock, it reads the current values.
    """
    # A listener of the application may begin one with the connection's first statement.
    if not connection.in_transaction():
        connection.begin()
    end_transaction(connection)
    name = connection.dialect.name
    if name == "sqlite":
        # Take the write lock at once: two that read first cannot both get it later.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif name == "postgresql":
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL READ COMMITTED")
    else:
        # For the next transaction only. This way, reading rows locks no gaps.
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        connection.exec_driver_sql("START TRANSACTION")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def in_parts(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    """Split keys into parts that one statement can take on every database."""
    for start in range(0, len(keys), _MOST_KEYS):
        yield keys[start : start + _MOST_KEYS]


def delete_rows(
    connection: sa.Connection, table: sa.Table, ids: Sequence[bytes]
) -> None:
    """Delete the rows with these keys, which the transaction has locked.

    :raises SessionTableError: some of them were not deleted, although they exist.
    """
    deleted = sum(_delete_some(connection, table, some) for some in in_parts(ids))
    if deleted != len(ids):
        # Callers that repeat this until nothing is left would never stop.
        raise SessionTableError(
            f"The database was told to delete {len(ids)} existing sessions and reports"
            f" that it deleted {deleted}, so the deletion was rolled back. Look for"
            f" triggers or rules on the table {table.fullname!r}, or report this with"
            f" the driver ({connection.dialect.driver}) and its version."
        )


def _delete_some(
    connection: sa.Connection, table: sa.Table, ids: Sequence[bytes]
) -> int:
    if connection.dialect.name not in ("mysql", "mariadb"):
        return connection.execute(sa.delete(table).where(table.c.id.in_(ids))).rowcount
    # With `id IN (…)`, MariaDB would read a small table from end to end and wait for
    # each row that anybody has locked. So the join starts at the keys. They are passed
    # as hexadecimal digits: where there is no column to compare with, older versions of
    # PyMySQL send bytes as text, and MariaDB replaces what is no text.
    names = [f"key{number}" for number in range(len(ids))]
    keys = " UNION ALL SELECT ".join(f"UNHEX(:{name}) AS id" for name in names)
    quoted = connection.dialect.identifier_preparer.format_table(table)
    quoted = quoted.replace(":", r"\:")
    statement = sa.text(
        f"DELETE gone FROM (SELECT {keys}) AS chosen"
        f" STRAIGHT_JOIN {quoted} AS gone ON gone.id = chosen.id"
    )
    digits = [key.hex() for key in ids]
    return connection.execute(statement, dict(zip(names, digits, strict=True))).rowcount


@contextmanager
def _patience(connection: sa.Connection, wait: bool) -> Iterator[None]:
    """Let SQLite report a locked file at once: without ``wait``, and within
    :func:`~flask_sessionsql.storage.turns.insisting`, which asks again and again.
    """
    if connection.dialect.name != "sqlite" or (wait and not insists()):
        yield
        return
    driver = connection.connection.cursor()
    usual = driver.execute("PRAGMA busy_timeout").fetchone()[0]
    driver.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        driver.execute(f"PRAGMA busy_timeout = {int(usual)}")
        driver.close()


@contextmanager
def _ddl_patience(connection: sa.Connection, seconds: float) -> Iterator[None]:
    """Limit how long a statement that creates something waits for others. PostgreSQL
    would wait forever, and MariaDB for a day.
    """
    name = connection.dialect.name
    if name == "postgresql":
        with transaction(connection):
            # Only for this transaction, so that it works behind a pooler, too.
            bound = f"{round(seconds * 1000)}ms"
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{bound}'")
            yield
    elif name in ("mysql", "mariadb"):
        usual = connection.exec_driver_sql("SELECT @@lock_wait_timeout").scalar_one()
        bound = f"SET SESSION lock_wait_timeout = {max(1, round(seconds))}"
        connection.exec_driver_sql(bound)
        try:
            yield
        finally:
            if not connection.invalidated:
                back = f"SET SESSION lock_wait_timeout = {int(usual)}"
                connection.exec_driver_sql(back)
    else:
        # SQLite waits as long as the application's 'timeout' says. In a transaction,
        # all is created, or nothing.
        with transaction(connection):
            yield
