"""What a request costs as the table of the sessions grows, and what a row takes.

Tables of several sizes stand side by side, and one process reads, writes and begins
sessions in them as a request does, a batch in each table by turns. Most requests are
for a working set, the same number of sessions in each table, which is read and written
once before; "read, any row" takes them from all rows instead. 10 million rows take 7 GB
on each database, and the first run on MariaDB raises its buffer pool meanwhile.

On PostgreSQL a table also lives through some days of a site, in minutes: the time is
passed to each request. The updates that are HOT are counted, and the table is vacuumed
whenever autovacuum's default settings would.
"""

from __future__ import annotations

import heapq
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from benchmarks.databases import (
    connecting,
    described,
    fill,
    kind_of,
    own_database,
    pages_in_memory,
)
from benchmarks.frame import Benchmark, Options, amount, say
from benchmarks.ours import COLUMNS, LIFETIME, Sessions, new_data, rows, table_of
from benchmarks.peers import NEW, READ, WRITE
from benchmarks.results import Document
from benchmarks.targets import ANY

#: Bytes that a session has, and what its row takes about, with indexes and all.
PAYLOAD, ROW = 200, 710
#: How many sessions are in use, and how many requests a batch has.
WORKING_SET, BATCH = 20_000, 200
SEED = 1

#: The steady load: the table, a visit, and when there are how many dead rows, and this
#: share of all, as autovacuum has it when nothing is set.
STEADY_ROWS = 100_000
REQUESTS, WRITES_A_VISIT, SECONDS_APART = 8, 4, 45
DAY, HOUR = 24 * 3600, 3600
DEAD, DEAD_SHARE = 50, 0.2
#: After so many requests the dead rows are counted.
LOOK_EVERY = 2000
#: PostgreSQL's commits do not wait for the disk: where no time is measured.
HASTY = {"options": "-c synchronous_commit=off"}


# The costs.


@dataclass
class Grown:
    """One of the tables, and microseconds a request, the mean of a batch each."""

    sessions: Sessions
    rows: int
    working: Sequence[int]
    size: Document | None
    batches: dict[str, list[float]] = field(default_factory=dict)

    def batch(self, kind: str, chance: random.Random) -> None:
        """Measure a batch. A tenth more is not timed, and comes before."""
        now = int(time.time())
        request: Any = {NEW: self.sessions.begin, WRITE: self.sessions.write}.get(
            kind, self.sessions.read
        )
        chosen: list[Any] = []
        for _ in range(BATCH + BATCH // 10):
            if kind == NEW:
                chosen.append(new_data())
            elif kind == ANY:
                chosen.append(chance.randrange(self.rows))
            else:
                chosen.append(chance.choice(self.working))
        for each in chosen[BATCH:]:
            request(each, now)
        del chosen[BATCH:]
        start = time.perf_counter()
        for each in chosen:
            request(each, now)
        took = (time.perf_counter() - start) / BATCH * 1e6
        self.batches.setdefault(kind, []).append(took)

    def document(self, smallest: Grown) -> dict[str, Any]:
        """What it came to; the ratio to the smallest is that of the same round."""
        median, ratio = {}, {}
        for kind, batches in self.batches.items():
            pairs = zip(batches, smallest.batches[kind], strict=True)
            median[kind] = round(statistics.median(batches), 1)
            ratio[kind] = round(statistics.median(a / b for a, b in pairs), 3)
        return {
            "rows": self.rows,
            "working_set": len(self.working),
            "size": self.size,
            "median": median,
            "ratio": ratio,
        }


def run(options: Options) -> Iterator[Document]:
    """Measure on each database."""
    for kind in options.database:
        with ExitStack() as stack:
            # On a server, the tables share its memory. On SQLite each connection has
            # some of its own, and drops what it holds when another one writes to its
            # file.
            url = stack.enter_context(own_database(kind))
            name = described(url)
            say(f"{name}:")
            wanted = ROW * sum(options.rows)
            memory = stack.enter_context(pages_in_memory(url, wanted))
            chance = random.Random(SEED)
            grown = []
            for number in sorted(options.rows):
                if kind == "sqlite":
                    url = stack.enter_context(own_database(kind))
                grown.append(fill_one(url, number, chance))
                stack.callback(grown[-1].sessions.close)
            measure(grown, options.rounds, chance)
            result = {
                "database": name,
                "memory": memory,
                "payload": PAYLOAD,
                "grown": [each.document(grown[0]) for each in grown],
                "steady": None,
            }
            if kind == "postgresql":
                result["steady"] = live(url, options.writes)
        yield {"rounds": options.rounds, "batch": BATCH, "databases": [result]}


def fill_one(url: sa.URL, number: int, chance: random.Random) -> Grown:
    """Make one table, and warm up its working set."""
    table = table_of(f"sessions_{number}")
    now = int(time.time())
    say(f"  filling {number:,} rows")
    fill(url, table, COLUMNS, rows(number, 0, now))
    size = size_of(url, table)
    working = chance.sample(range(number), min(number, WORKING_SET))
    sessions = Sessions(url, table.name)
    hasty = Sessions(hastily(url), table.name)
    say(f"  warming up {len(working):,} of them")
    for each in working:
        hasty.write(each, now)
        sessions.read(each, now)
    hasty.close()
    return Grown(sessions, number, working, size)


def hastily(url: sa.URL) -> sa.URL:
    """The database, without waiting for the disk on PostgreSQL."""
    return url.update_query_dict(HASTY) if kind_of(url) == "postgresql" else url


def measure(grown: Sequence[Grown], rounds: int, chance: random.Random) -> None:
    """Measure each kind of request in each table by turns."""
    # Reading any row empties the memory, so it comes when the others are done.
    for kinds in ([READ, WRITE, NEW], [ANY]):
        for turn in range(rounds):
            if turn % 10 == 0:
                say(f"  {'; '.join(kinds)}: {turn} of {rounds} rounds")
            for kind in kinds:
                for table in chance.sample(grown, len(grown)):
                    table.batch(kind, chance)


# The steady load.


def live(url: sa.URL, writes: int) -> dict[str, Any]:
    """Let a table live through some days. What became of it."""
    table = table_of("sessions_steady")
    number = min(STEADY_ROWS, writes // 4)
    say(f"  steady load: filling {number:,} rows")
    now = int(time.time())
    fill(url, table, COLUMNS, rows(number, 0, now))
    before = size_of(url, table)
    site = Site(Sessions(hastily(url), table.name), number, now)
    with connecting(url).connect() as connection:
        # What vacuums it is here.
        connection.exec_driver_sql(
            f"ALTER TABLE {table.name} SET (autovacuum_enabled = off,"
            " toast.autovacuum_enabled = off)"
        )
        counted = visit_all(site, connection, writes)
        left = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
    site.sessions.close()
    after = size_of(url, table)
    assert before is not None
    assert after is not None
    growth = whole(after) / left / (whole(before) / number)
    return {
        "rows_before": number,
        "rows_after": left,
        **counted,
        "before": before,
        "after": after,
        "hot_share": round(counted["hot"] / max(counted["updates"], 1), 4),
        "growth": round(growth, 3),
    }


class Site:
    """Visits in the order of time, and the requests that they make. Half of the
    sessions belong to those who come once a day, others come once and never again.

    :param now: when they begin.
    """

    def __init__(self, sessions: Sessions, number: int, now: int) -> None:
        self.sessions = sessions
        self.begin = self.now = now
        self.chance = random.Random(SEED)
        self.inserted = self.written = 0
        self.regulars = list(range(0, number, 2))
        #: As many as expire: the other half, in a lifetime.
        self.newcomers = max(1, number * DAY // (2 * LIFETIME))

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
        record, data = None, new_data()
        if number is None:
            self.inserted += 1
            writing.discard(0)
        else:
            # The others find what this one left: their reading changes nothing.
            record, data = self.sessions.read(number, start)
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
    name = site.sessions.table.name
    first = used = updates_of(connection, name)
    purged = vacuums = quarters = 0
    next_purge = site.begin + HOUR
    for turn, now in enumerate(site.requests(), start=1):
        if now >= next_purge:
            next_purge += HOUR
            purged += site.sessions.purge(now)
        if turn % LOOK_EVERY == 0:
            vacuums += vacuum_if_due(connection, name)
        if site.written >= writes * (quarters + 1) // 4:
            quarters += 1
            say(f"    {site.written:,} of {writes:,} writes")
            if quarters == 4:
                break
            used = updates_of(connection, name)
    last = updates_of(connection, name)
    return {
        "days": (site.now - site.begin) / DAY,
        "updates": last[0] - first[0],
        "hot": last[1] - first[1],
        # In the last quarter of the time, when the first effects are over.
        "last_updates": last[0] - used[0],
        "last_hot": last[1] - used[1],
        "inserted": site.inserted,
        "purged": purged,
        "vacuums": vacuums,
    }


def updates_of(connection: sa.Connection, table: str) -> tuple[int, int]:
    """How many updates there have been, and how many of them HOT."""
    # A server process tells of its work once in a second, or when it rests.
    time.sleep(2)
    row = connection.execute(
        sa.text(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
            " WHERE relname = :name"
        ),
        {"name": table},
    ).one()
    return row[0], row[1]


def vacuum_if_due(connection: sa.Connection, table: str) -> int:
    """Vacuum the table, and what it keeps apart, as autovacuum would when nothing is
    set. How often.
    """
    due = connection.scalars(
        sa.text(
            "SELECT CASE WHEN c.relkind = 't' THEN 'pg_toast.' ELSE '' END || c.relname"
            " FROM pg_class AS c JOIN pg_stat_all_tables AS s ON s.relid = c.oid"
            " WHERE c.oid IN (SELECT unnest(ARRAY[oid, reltoastrelid]) FROM pg_class"
            " WHERE relname = :name)"
            " AND s.n_dead_tup > :dead + :share * greatest(c.reltuples, 0)"
        ),
        {"name": table, "dead": DEAD, "share": DEAD_SHARE},
    ).all()
    for name in due:
        connection.exec_driver_sql(f"VACUUM {name}")
    return len(due)


# How much a table takes.

#: The bytes of the table, of each index, and on PostgreSQL of what is kept apart since
#: it is long, which has no name of its own.
SIZES = {
    "postgresql": """
        SELECT CAST(oid AS regclass)::text, pg_relation_size(oid) FROM (
            SELECT CAST(:name AS regclass) AS oid UNION ALL
            SELECT indexrelid FROM pg_index WHERE indrelid = CAST(:name AS regclass)
        ) AS all_of_it UNION ALL
        SELECT '', pg_table_size(CAST(:name AS regclass))
            - pg_relation_size(CAST(:name AS regclass))
    """,
    # The primary key is the table.
    "mariadb": """
        SELECT if(index_name = 'PRIMARY', :name, index_name),
            stat_value * @@innodb_page_size
        FROM mysql.innodb_index_stats WHERE stat_name = 'size'
            AND database_name = database() AND table_name = :name
    """,
    # Not pgsize: from 2 GB on, it is wrong.
    "sqlite": """
        SELECT name, pageno * page_size FROM dbstat, pragma_page_size
        WHERE aggregate = TRUE AND name IN (SELECT name FROM sqlite_master
            WHERE tbl_name = :name)
    """,
}


def size_of(url: sa.URL, table: sa.Table) -> dict[str, Any] | None:
    """How many bytes a table and its indexes take, these by their columns; ``None``
    where SQLite was not built to tell.
    """
    with connecting(url).connect() as connection:
        try:
            found = connection.execute(
                sa.text(SIZES[kind_of(url)]), {"name": table.name}
            ).all()
        except sa.exc.OperationalError:
            return None
    sizes = {name: int(size) for name, size in found}
    main, toast = sizes.pop(table.name), sizes.pop("", 0)
    names = {str(index.name): index.columns.keys()[0] for index in table.indexes}
    indexes = {names.get(name, "id"): size for name, size in sizes.items()}
    return {"table": main, "indexes": indexes, "toast": toast}


def whole(size: Mapping[str, Any]) -> int:
    """All that a table takes."""
    return int(size["table"] + size["toast"] + sum(size["indexes"].values()))


BENCHMARK = Benchmark(
    "growth",
    __doc__,
    run,
    databases=("postgresql", "mariadb", "sqlite"),
    options={
        "--rows": {
            **amount("how many rows the tables have", None, 100, nargs="+"),
            "default": [10_000, 1_000_000, 10_000_000],
        },
        "--rounds": amount("batches of each kind in each table", 40),
        "--writes": amount(
            "requests that write under steady load, on PostgreSQL", 1_000_000, 1000
        ),
    },
    quick={"rows": [1000, 10_000, 50_000], "rounds": 5, "writes": 20_000},
    packages=("psycopg", "PyMySQL"),
)
