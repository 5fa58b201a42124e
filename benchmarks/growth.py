"""What a request costs as the table of the sessions grows, and what a row takes.

Tables of several sizes stand side by side, and one process reads, writes and begins
sessions in them as a request does, a batch in each table by turns, so that whatever
else the machine does meets all alike. Most requests come from those who were here
lately, so the sessions are taken at random from a working set, the same number in each
table, which is read and written once before. "Read, any row" takes them from all rows
instead. New sessions have random keys, so they always meet the whole of that index.

On PostgreSQL a table also lives through some days of a site, in minutes: the time is
passed to each request, not taken from a clock. Half of the sessions belong to visitors
who come once a day, with 8 requests 45 seconds apart, of which 4 write; others come
once and never again, as many as expire. The purge runs every hour. Counted are the
updates that are HOT (no index is written, and the next reader of the page clears it
up), and how much larger table and indexes become. Since no autovacuum keeps up with
days that take seconds, the table is vacuumed whenever its default settings would.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import results
from benchmarks.commands import positive, say, terminate
from benchmarks.databases import (
    KEY,
    LIFETIME,
    SQLITE,
    backend,
    describe,
    fill,
    new_data,
    own_database,
    server_urls,
    token_of,
)
from benchmarks.peers import use_wal
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.saving.records import SessionRecords
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.purging import purge
from flask_sessionsql.storage.store import SessionStore
from flask_sessionsql.storage.tables import sessions_table

DATABASES = ("postgresql", "mariadb", "sqlite")
READ, WRITE, NEW, ANY = KINDS = ("read", "write", "new", "read, any row")
#: The aims: how much more a warm request may cost in a large table, and the share of
#: the updates that are HOT.
MOST_RATIO = 1.3
LEAST_HOT = 0.9

#: The steady load.
REQUESTS, WRITES_A_VISIT, SECONDS_APART = 8, 4, 45
DAY, HOUR = 24 * 3600, 3600
#: As autovacuum has it when nothing is set: so many dead rows, and this share of all.
DEAD, DEAD_SHARE = 50, 0.2
#: After so many requests the dead rows are counted.
LOOK_EVERY = 2000


class BrokenError(Exception):
    """A request found something else than it should."""


# What is measured.


@dataclass
class Size:
    """How much a table takes, in bytes."""

    table: int
    indexes: dict[str, int]
    #: What PostgreSQL keeps apart because it is long.
    toast: int = 0

    def whole(self) -> int:
        """All of it."""
        return self.table + self.toast + sum(self.indexes.values())


@dataclass
class Grown:
    """What one size of the table came to."""

    rows: int
    working_set: int
    fill_seconds: float
    #: Where the database cannot tell, ``None``.
    size: Size | None
    #: Microseconds a request, the mean of a batch each, by kind.
    batches: dict[str, list[float]] = field(default_factory=dict)

    def median(self, kind: str) -> float:
        """Microseconds a request."""
        return statistics.median(self.batches[kind])

    def ratio(self, kind: str, smallest: Grown) -> float:
        """How many times what it costs in the smallest table, round by round."""
        pairs = zip(self.batches[kind], smallest.batches[kind], strict=True)
        return statistics.median(mine / least for mine, least in pairs)


@dataclass
class Steady:
    """What became of a table under steady load."""

    rows_before: int
    rows_after: int
    days: float
    updates: int
    hot: int
    #: In the last quarter of the time, when the first effects are over.
    last_updates: int
    last_hot: int
    inserted: int
    purged: int
    vacuums: int
    before: Size
    after: Size
    seconds: float

    def hot_share(self) -> float:
        """Of all updates."""
        return self.hot / self.updates if self.updates else 0.0

    def growth(self) -> float:
        """How many times as large a row has become, indexes and all."""
        before = self.before.whole() / self.rows_before
        return self.after.whole() / self.rows_after / before


@dataclass
class Result:
    """What one database came to."""

    database: str
    #: The memory that the database has for its pages, as its settings say.
    memory: str
    payload: int
    grown: list[Grown]
    steady: Steady | None = None


# A request.


@dataclass
class Sessions:
    """The sessions of one table, as a request uses them."""

    records: SessionRecords
    table: sa.Table
    rows: int
    payload: int

    def find(self, number: int, now: int) -> tuple[Any, dict[Any, Any]]:
        """Read the session with this number."""
        found = self.records.find([KEY], token_of(number), now)
        if found is None or "visits" not in found[1]:
            raise BrokenError(f"session {number} of {self.table.name} was not found")
        return found

    def save(self, record: Any, data: dict[Any, Any], now: int) -> tuple[Any, Any]:
        """Save what a request made of its session, if it is to be saved."""
        plan = self.records.planner.plan(
            [KEY], record, data, empty=False, cleared=False, now=now
        )
        saved = self.records.execute(plan, [KEY])
        if saved is None or saved[0] is None:
            raise BrokenError(f"a session of {self.table.name} was not saved")
        return saved

    def read(self, number: int, now: int) -> None:
        """A request that reads its session."""
        self.find(number, now)

    def write(self, number: int, now: int) -> None:
        """A request that changes its session."""
        record, data = self.find(number, now)
        data["visits"] += 1
        self.save(record, data, now)

    def new(self, data: dict[str, Any], now: int) -> None:
        """A request that begins a session."""
        self.save(None, data, now)


def sessions_of(
    url: sa.URL, name: str, rows: int, payload: int, *, waits: bool = True
) -> Sessions:
    """The sessions in the table of this name.

    :param waits: whether a commit on PostgreSQL waits for the disk.
    """
    source = sa.create_engine(url)
    use_wal(source)
    if not waits and backend(url) == "postgresql":
        sa.event.listen(source, "connect", commit_without_waiting)
    table = sessions_table(sa.MetaData(), name)
    store = SessionStore(sessions_engine(source), table)
    records = SessionRecords(SessionConfig(), store, MsgpackSerializer())
    return Sessions(records, table, rows, payload)


def commit_without_waiting(connection: Any, record: object) -> None:
    """For a connection to PostgreSQL."""
    cursor = connection.cursor()
    cursor.execute("SET synchronous_commit = off")
    cursor.close()


# The costs.


def run(kind: str, options: argparse.Namespace) -> Result:
    """Measure on one database."""
    server = address(kind)
    with ExitStack() as stack:

        def place() -> sa.URL:
            return stack.enter_context(own_database(server))

        def connect(url: sa.URL) -> sa.Engine:
            engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
            stack.callback(engine.dispose)
            return engine

        # On a server, the tables share its memory. On SQLite each connection has some
        # of its own, and drops what it holds when another one writes to its file.
        shared = None if kind == "sqlite" else place()
        first = connect(shared or server)
        name = describe(first)
        say(f"{name}:")
        memory = stack.enter_context(pages_in_memory(first, options))
        check_space(first, options)
        grown = []
        sessions = []
        for rows in options.rows:
            url = shared or place()
            engine = connect(url)
            one, used = fill_one(engine, url, rows, options)
            stack.callback(one.records.store.dispose)
            sessions.append(one)
            grown.append(used)
        measure(sessions, grown, options)
        steady = None
        if kind == "postgresql" and options.writes:
            assert shared is not None
            steady = live(first, shared, options)
    return Result(name, memory, options.payload, grown, steady)


def fill_one(
    engine: sa.Engine, url: sa.URL, rows: int, options: argparse.Namespace
) -> tuple[Sessions, Grown]:
    """Make one table."""
    sessions = sessions_of(url, f"sessions_{rows}", rows, options.payload)
    say(f"  filling {rows:,} rows")
    start = time.perf_counter()
    fill(
        engine,
        rows,
        0,
        int(time.time()),
        table=sessions.table,
        size=options.payload,
    )
    took = time.perf_counter() - start
    say(f"    in {took:.0f} s")
    size = size_of(engine, sessions.table)
    return sessions, Grown(rows, min(rows, options.working_set), took, size)


def measure(
    sessions: list[Sessions], grown: list[Grown], options: argparse.Namespace
) -> None:
    """Measure each kind of request in each table by turns."""
    chance = random.Random(options.seed)
    working = [
        chance.sample(range(one.rows), used.working_set)
        for one, used in zip(sessions, grown, strict=True)
    ]
    for one, numbers in zip(sessions, working, strict=True):
        say(f"  warming up {len(numbers):,} sessions of {one.rows:,}")
        now = int(time.time())
        hasty = sessions_of(
            one.records.store.engine.url,
            one.table.name,
            one.rows,
            one.payload,
            waits=False,
        )
        for number in numbers:
            hasty.write(number, now)
        hasty.records.store.dispose()
        for number in numbers:
            one.read(number, now)
    # Reading any row empties the memory, so it comes when the others are done.
    for kinds in ([READ, WRITE, NEW], [ANY]):
        for turn in range(options.rounds):
            if turn % 10 == 0:
                say(f"  {', '.join(kinds)}: {turn} of {options.rounds} rounds")
            for kind in kinds:
                order = list(range(len(sessions)))
                chance.shuffle(order)
                for which in order:
                    numbers = working[which]
                    took = batch(sessions[which], kind, numbers, chance, options)
                    grown[which].batches.setdefault(kind, []).append(took)


def batch(
    sessions: Sessions,
    kind: str,
    working: list[int],
    chance: random.Random,
    options: argparse.Namespace,
) -> float:
    """Microseconds a request, the mean of one batch. A tenth of it is not timed."""
    now = int(time.time())
    number = options.batch + options.batch // 10
    request: Callable[[Any, int], None]
    chosen: list[Any]
    if kind == NEW:
        request = sessions.new
        chosen = [new_data(options.payload) for _ in range(number)]
    else:
        request = sessions.write if kind == WRITE else sessions.read
        chosen = [
            chance.randrange(sessions.rows) if kind == ANY else chance.choice(working)
            for _ in range(number)
        ]
    for each in chosen[options.batch :]:
        request(each, now)
    del chosen[options.batch :]
    start = time.perf_counter()
    for each in chosen:
        request(each, now)
    return (time.perf_counter() - start) / len(chosen) * 1e6


# The steady load.


def live(engine: sa.Engine, url: sa.URL, options: argparse.Namespace) -> Steady:
    """Let a table live through some days."""
    rows = options.steady_rows
    say(f"  steady load: filling {rows:,} rows")
    now = int(time.time())
    sessions = sessions_of(url, "sessions_steady", rows, options.payload, waits=False)
    table = sessions.table
    fill(engine, rows, 0, now, table=table, size=options.payload)
    with engine.connect() as connection:
        # What vacuums it is here.
        connection.exec_driver_sql(
            f"ALTER TABLE {table.name} SET (autovacuum_enabled = off,"
            " toast.autovacuum_enabled = off)"
        )
        before = size_of(engine, table)
        assert before is not None
        start = time.perf_counter()
        counts = visit_all(Site(sessions, now, options), connection, options.writes)
        took = time.perf_counter() - start
        left = connection.scalar(sa.select(sa.func.count()).select_from(table))
        after = size_of(engine, table)
        assert after is not None
    sessions.records.store.dispose()
    return Steady(
        rows_before=rows,
        rows_after=int(left or 0),
        before=before,
        after=after,
        seconds=took,
        **counts,
    )


class Site:
    """Visits in the order of time, and the requests that they make.

    :param now: when they begin.
    """

    def __init__(
        self, sessions: Sessions, now: int, options: argparse.Namespace
    ) -> None:
        self.sessions = sessions
        self.begin = self.now = now
        self.chance = random.Random(options.seed)
        self.inserted = self.written = 0
        self.regulars = list(range(0, sessions.rows, 2))
        #: As many as expire: the other half, in a lifetime.
        self.newcomers = max(1, sessions.rows * DAY // (2 * LIFETIME))

    def arrivals(self) -> Iterator[tuple[int, int | None]]:
        """When each visit begins, and whose it is: ``None`` for a newcomer's."""
        day = self.begin
        while True:
            who = [*self.regulars, *[None] * self.newcomers]
            self.chance.shuffle(who)
            for place, number in enumerate(who):
                yield day + place * DAY // len(who), number
            day += DAY

    def requests(self) -> Iterator[int]:
        """Make one request after the other, many visits at once, and give the time of
        each.
        """
        under_way: list[tuple[int, int, Iterator[int]]] = []
        for count, (start, number) in enumerate(self.arrivals()):
            while under_way and under_way[0][0] <= start:
                due, turn, visit = heapq.heappop(under_way)
                if next(visit, None) is not None:
                    self.now = due
                    heapq.heappush(under_way, (due + SECONDS_APART, turn, visit))
                    yield due
            heapq.heappush(under_way, (start, count, self.visit(start, number)))

    def visit(self, start: int, number: int | None) -> Iterator[int]:
        """One visit, a request at a time."""
        writing = set(self.chance.sample(range(REQUESTS), WRITES_A_VISIT))
        record, data = None, new_data(self.sessions.payload)
        if number is None:
            self.inserted += 1
            writing.discard(0)
        else:
            # The others find what this one left: their reading changes nothing.
            record, data = self.sessions.find(number, start)
        for turn in range(REQUESTS):
            now = start + turn * SECONDS_APART
            if turn in writing:
                data["visits"] += 1
                page = self.chance.randrange(10 ** self.chance.randrange(5, 15))
                data["last_page"] = f"/shop/books/{page}"
                self.written += 1
            record, data = self.sessions.save(record, dict(data), now)
            data = dict(data)
            yield now


def visit_all(site: Site, connection: sa.Connection, writes: int) -> dict[str, Any]:
    """Let visitors come until they have written so often. What was counted."""
    table = site.sessions.table
    database = site.sessions.records.store.database
    first = used = updates_of(connection, table)
    purged = vacuums = quarters = 0
    next_purge = site.begin + HOUR
    for turn, now in enumerate(site.requests(), start=1):
        if now >= next_purge:
            next_purge += HOUR
            purged += sum(done.deleted for done in purge(database, now, pause=0))
        if turn % LOOK_EVERY == 0:
            vacuums += vacuum_if_due(connection, table)
        if site.written >= writes * (quarters + 1) // 4:
            quarters += 1
            say(f"    {site.written:,} of {writes:,} writes")
            if quarters == 4:
                break
            used = updates_of(connection, table, wait=True)
    last = updates_of(connection, table, wait=True)
    return {
        "days": (site.now - site.begin) / DAY,
        "updates": last[0] - first[0],
        "hot": last[1] - first[1],
        "last_updates": last[0] - used[0],
        "last_hot": last[1] - used[1],
        "inserted": site.inserted,
        "purged": purged,
        "vacuums": vacuums,
    }


def updates_of(
    connection: sa.Connection, table: sa.Table, *, wait: bool = False
) -> tuple[int, int]:
    """How many updates there have been, and how many of them HOT.

    :param wait: for the numbers that others have not told yet.
    """
    if wait:
        # A server process tells of its work once in a second, or when it rests.
        time.sleep(2)
    row = connection.execute(
        sa.text(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
            " WHERE relname = :name"
        ),
        {"name": table.name},
    ).one()
    return int(row[0]), int(row[1])


def vacuum_if_due(connection: sa.Connection, table: sa.Table) -> int:
    """Vacuum the table, and what it keeps apart, as autovacuum would when nothing is
    set. How often.
    """
    due = connection.execute(
        sa.text(
            "SELECT CASE WHEN c.relkind = 't' THEN 'pg_toast.' ELSE '' END || c.relname"
            " FROM pg_class AS c JOIN pg_stat_all_tables AS s ON s.relid = c.oid"
            " WHERE c.oid IN (SELECT unnest(ARRAY[oid, reltoastrelid]) FROM pg_class"
            " WHERE relname = :name)"
            " AND s.n_dead_tup > :dead + :share * greatest(c.reltuples, 0)"
        ),
        {"name": table.name, "dead": DEAD, "share": DEAD_SHARE},
    ).scalars()
    names = due.all()
    for name in names:
        connection.exec_driver_sql(f"VACUUM {name}")
    return len(names)


# What the databases are asked.


def address(kind: str) -> sa.URL:
    """Where a database is."""
    if kind == "sqlite":
        return sa.make_url(SQLITE)
    return dict(zip(DATABASES, server_urls(), strict=False))[kind]


def size_of(engine: sa.Engine, table: sa.Table) -> Size | None:
    """How much a table takes now."""
    with engine.connect() as connection:
        if backend(engine.url) == "postgresql":
            return size_on_postgresql(connection, table)
        if backend(engine.url) == "mysql":
            return size_on_mariadb(connection, table)
        return size_on_sqlite(connection, table)


def size_on_postgresql(connection: sa.Connection, table: sa.Table) -> Size:
    """The files of the table, of its indexes, and of what it keeps apart."""
    main, all_of_it = connection.execute(
        sa.text(
            "SELECT pg_relation_size(CAST(:name AS regclass)),"
            " pg_table_size(CAST(:name AS regclass))"
        ),
        {"name": table.name},
    ).one()
    indexes = connection.execute(
        sa.text(
            "SELECT CAST(indexrelid AS regclass)::text, pg_relation_size(indexrelid)"
            " FROM pg_index WHERE indrelid = CAST(:name AS regclass)"
        ),
        {"name": table.name},
    )
    return Size(main, short(table, dict(map(tuple, indexes))), all_of_it - main)


def size_on_mariadb(connection: sa.Connection, table: sa.Table) -> Size:
    """The pages of each index; the primary key is the table."""
    pages = connection.execute(
        sa.text(
            "SELECT index_name, stat_value * @@innodb_page_size"
            " FROM mysql.innodb_index_stats WHERE stat_name = 'size'"
            " AND database_name = database() AND table_name = :name"
        ),
        {"name": table.name},
    )
    indexes = {name: int(size) for name, size in pages}
    return Size(indexes.pop("PRIMARY", 0), short(table, indexes))


def size_on_sqlite(connection: sa.Connection, table: sa.Table) -> Size | None:
    """The pages of table and indexes, where SQLite was built to tell."""
    # Not pgsize: from 2 GB on, it is wrong.
    statement = (
        "SELECT name, pageno * page_size"
        " FROM dbstat, pragma_page_size WHERE aggregate = TRUE"
    )
    try:
        sizes = dict(map(tuple, connection.exec_driver_sql(statement)))
    except sa.exc.OperationalError:
        return None
    sizes = {name: size for name, size in sizes.items() if table.name in name}
    return Size(sizes.pop(table.name), short(table, sizes))


def short(table: sa.Table, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes by the indexes' columns."""
    names = {str(index.name): index.columns.keys()[0] for index in table.indexes}
    return {names.get(name, "id"): size for name, size in sizes.items()}


@contextmanager
def pages_in_memory(engine: sa.Engine, options: argparse.Namespace) -> Iterator[str]:
    """How much memory the database has for its pages. MariaDB gets enough for the
    tables meanwhile, as far as there is any and it may be set: it reads past the
    operating system's memory, and would measure the disk.
    """
    kind = backend(engine.url)
    if kind == "sqlite":
        yield "SQLite's own 2 MB, and the operating system's"
        return
    with engine.connect() as connection:
        if kind == "postgresql":
            shown = connection.exec_driver_sql("SHOW shared_buffers").scalar()
            yield f"shared_buffers = {shown}, and the operating system's"
            return
        name = "innodb_buffer_pool_size"
        usual = int(connection.exec_driver_sql(f"SELECT @@{name}").scalar() or 0)
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        # As much for the operating system.
        wanted = min(needed(options), free // 2)
        if wanted <= usual:
            yield f"{name} = {usual >> 20} MB"
            return
        try:
            connection.exec_driver_sql(f"SET GLOBAL {name} = {wanted}")
        except sa.exc.DBAPIError as error:
            say(f"  {name} stays at {usual >> 20} MB: {error.orig}")
            yield f"{name} = {usual >> 20} MB"
            return
        say(f"  {name} raised from {usual >> 20} to {wanted >> 20} MB meanwhile")
        try:
            yield f"{name} = {wanted >> 20} MB, raised from {usual >> 20} MB"
        finally:
            connection.exec_driver_sql(f"SET GLOBAL {name} = {usual}")


def needed(options: argparse.Namespace) -> int:
    """About how many bytes the tables take, indexes and all."""
    return int(sum(options.rows) * (1.3 * options.payload + 450))


def check_space(engine: sa.Engine, options: argparse.Namespace) -> None:
    """Refuse to begin what the disk cannot hold, where it is known.

    :raises SystemExit: it cannot.
    """
    place = Path(tempfile.gettempdir())
    if backend(engine.url) != "sqlite":
        ask = "SHOW data_directory"
        if backend(engine.url) == "mysql":
            ask = "SELECT @@datadir"
        with engine.connect() as connection:
            place = Path(str(connection.exec_driver_sql(ask).scalar()))
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return  # a server elsewhere
    # What is sorted, and logged, needs as much besides.
    wanted = 2 * needed(options)
    if free < wanted:
        raise SystemExit(
            f"The tables and what making them takes need about {wanted >> 30} GB, and"
            f" {free >> 30} GB are free. Give fewer --rows."
        )


# What is shown.


def show(result: Result) -> None:
    """Print what a database came to."""
    smallest = result.grown[0]
    print(
        f"\n{result.database}, sessions of {result.payload:,} bytes ({result.memory})"
    )
    print("microseconds a request, and how many times that of the smallest table\n")
    print(
        f"{'rows':>12}{'working set':>12}"
        + "".join(f"{kind:>18}" for kind in KINDS)
        + f"{'table':>12}{'indexes':>9}  bytes a row"
    )
    for each in result.grown:
        costs = "".join(
            f"{each.median(kind):10,.0f} {each.ratio(kind, smallest):6.2f}x"
            for kind in KINDS
        )
        print(f"{each.rows:12,}{each.working_set:12,}{costs}{sizes(each)}", flush=True)
    if result.steady:
        show_steady(result.steady)


def sizes(each: Grown) -> str:
    """The bytes a row of a table."""
    if each.size is None:
        return f"{'not known':>12}"
    table, indexes = each.size.table + each.size.toast, each.size.indexes
    parts = ", ".join(
        f"{name} {size / each.rows:.0f}" for name, size in indexes.items()
    )
    whole = sum(indexes.values()) / each.rows
    return f"{table / each.rows:12,.0f}{whole:9,.0f}  ({parts})"


def show_steady(steady: Steady) -> None:
    """Print what became of the table under steady load."""
    last = steady.last_hot / steady.last_updates if steady.last_updates else 0
    print(
        f"\nSteady load, {steady.days:.1f} days in {steady.seconds:.0f} s:"
        f" {steady.updates:,} updates, {steady.hot_share():.1%} of them HOT"
        f" ({last:.1%} in the last quarter); {steady.inserted:,} new sessions,"
        f" {steady.purged:,} purged, {steady.vacuums} vacuums."
    )
    print(f"{'':16}{'before':>12}{'after':>12}  MB")
    before, after = steady.before, steady.after
    lines = [("table", before.table, after.table), ("TOAST", before.toast, after.toast)]
    lines += [
        (name, size, after.indexes.get(name, 0))
        for name, size in before.indexes.items()
    ]
    for name, one, other in lines:
        print(f"{name:16}{one / 1e6:12,.1f}{other / 1e6:12,.1f}")
    print(
        f"{'rows':16}{steady.rows_before:12,}{steady.rows_after:12,}\n"
        f"A row takes {steady.growth():.2f} times as much as in the fresh table.",
        flush=True,
    )


def figures(result: Result) -> dict[str, Any]:
    """What is written to the file."""
    smallest = result.grown[0]
    written = asdict(result)
    for one, each in zip(result.grown, written["grown"], strict=True):
        del each["batches"]
        each["median"] = {kind: round(one.median(kind), 1) for kind in KINDS}
        each["ratio"] = {kind: round(one.ratio(kind, smallest), 3) for kind in KINDS}
    if result.steady:
        written["steady"]["hot_share"] = round(result.steady.hot_share(), 4)
        written["steady"]["growth"] = round(result.steady.growth(), 3)
    return written


# The command line.


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options.

    :param arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "exit code: 0, whether the aims are met or not; 1 if a request went wrong"
            " or a server\nis missing; 2 if the options are wrong"
        ),
    )
    add = parser.add_argument
    add(
        "--database",
        action="append",
        choices=DATABASES,
        help="measure on this one; may be given more than once (default: all)",
    )
    add(
        "--rows",
        type=positive,
        nargs="+",
        default=[10_000, 1_000_000, 10_000_000],
        help="how many rows the tables have (default: 10000 1000000 10000000)",
    )
    add(
        "--payload",
        type=positive,
        default=200,
        help="about how many bytes a session has, 200 at least (default: %(default)s)",
    )
    add(
        "--working-set",
        type=positive,
        default=20_000,
        help="how many sessions are in use (default: %(default)s)",
    )
    add(
        "--rounds",
        type=positive,
        default=40,
        help="batches of each kind in each table (default: %(default)s)",
    )
    add(
        "--batch",
        type=positive,
        default=200,
        help="requests in a batch (default: %(default)s)",
    )
    add(
        "--steady-rows",
        type=positive,
        default=100_000,
        help="rows of the table under steady load (default: %(default)s)",
    )
    add(
        "--writes",
        type=int,
        default=1_000_000,
        help="requests that write under steady load, on PostgreSQL; 0 for no such load"
        " (default: %(default)s)",
    )
    add("--seed", type=int, default=1, help="of what is random (default: %(default)s)")
    add(
        "--quick",
        action="store_true",
        help="a try of some seconds: tables of 1,000, 10,000 and 50,000 rows, and"
        " 20,000 writes",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures to this file, too; what it has of databases that are"
        " not measured is kept",
    )
    options = parser.parse_args(arguments)
    options.database = options.database or list(DATABASES)
    if options.quick:
        options.rows = [1000, 10_000, 50_000]
        options.working_set = min(options.working_set, 1000)
        options.rounds = min(options.rounds, 5)
        options.steady_rows, options.writes = 5000, min(options.writes, 20_000)
    options.rows = sorted(set(options.rows))
    if options.rows[0] < 100 or options.steady_rows < 100:
        parser.error("a table has to have 100 rows at least")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure on each database. The exit code.

    :param arguments: instead of those of the process.
    """
    options = parse(arguments)
    signal.signal(signal.SIGTERM, terminate)
    found = []
    try:
        for kind in options.database:
            found.append(run(kind, options))
            show(found[-1])
    except KeyboardInterrupt:
        say("Interrupted; the databases of the benchmark are dropped.")
        return 130
    except BrokenError as error:
        say(f"A request went wrong: {error}.")
        return 1
    if options.json:
        write(options.json, [figures(each) for each in found], options)
    return 0


def write(path: Path, found: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the figures. Those of other databases, from a run before, are kept."""
    before = results.load(path)["databases"] if path.exists() else []
    # By the name, without the version.
    by_name = {each["database"].split()[0]: each for each in (*before, *found)}
    what = {
        "quick": options.quick,
        "rounds": options.rounds,
        "batch": options.batch,
        "databases": list(by_name.values()),
    }
    packages = ("psycopg", "PyMySQL")
    results.write(path, results.document("growth", what, packages=packages))


if __name__ == "__main__":
    sys.exit(main())
