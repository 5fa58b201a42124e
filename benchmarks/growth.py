"""What a request costs as the table of the sessions grows, and what a row takes.

Tables of several sizes stand side by side, and one process reads, writes and begins
sessions in them as a request does, a batch in each table by turns. Most requests are
for a working set, the same number of sessions in each table, which is read and written
once before; "read, any row" takes them from all rows instead. 10 million rows take 7 GB
on each database, and MariaDB's buffer pool is raised meanwhile.

On PostgreSQL a table also lives through some days of a site, in minutes: the time is
passed to each request. The updates that are HOT are counted, and the table is vacuumed
whenever autovacuum's default settings would.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

import sqlalchemy as sa

from benchmarks.databases import (
    connecting,
    described,
    kind_of,
    own_database,
    pages_in_memory,
)
from benchmarks.frame import Benchmark, Options, amount, say
from benchmarks.ours import DATA, LIFETIME, Sessions, fill
from benchmarks.tables import ANY, parts
from benchmarks.terms import NEW, READ, SIZE, WRITE

#: How many sessions are in use, and how many requests a batch has.
WORKING_SET, BATCH = 20_000, 200

#: The steady load: the table, a visit, and when there are how many dead rows, and this
#: share of all, as autovacuum has it when nothing is set.
STEADY_ROWS = 100_000
REQUESTS, WRITES_A_VISIT, SECONDS_APART = 8, 4, 45
DAY, HOUR = 24 * 3600, 3600
DEAD, DEAD_SHARE = 50, 0.2
VACUUMED_HERE = """ALTER TABLE sessions_steady
    SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)"""


class Grown:
    """One of the tables, with its working set warmed up.

    :ivar batches: microseconds a request, the mean of a batch each, by kind.
    """

    def __init__(self, url: sa.URL, rows: int, working_set: int) -> None:
        say(f"  filling {rows:,} rows")
        table = fill(url, f"sessions_{rows}", rows)
        self.rows = rows
        self.size = size_of(url, table)
        self.sessions = Sessions(url, table.name)
        self.working = random.sample(range(rows), min(rows, working_set))
        self.batches: dict[str, list[float]] = defaultdict(list)
        say(f"  warming up {len(self.working):,} of them")
        hasty = Sessions(url, table.name, hasty=True)
        for number in self.working:
            hasty.write(number, int(time.time()))
            self.sessions.read(number, int(time.time()))
        hasty.close()

    def batch(self, kind: str) -> None:
        """Measure a batch. A tenth more is not timed, and comes before."""
        now = int(time.time())
        request: Any = self.sessions.write if kind == WRITE else self.sessions.read
        number = BATCH + BATCH // 10
        chosen: list[Any] = random.choices(self.working, k=number)
        if kind == NEW:
            request, chosen = self.sessions.begin, [dict(DATA) for _ in chosen]
        elif kind == ANY:
            chosen = random.choices(range(self.rows), k=number)
        for each in chosen[BATCH:]:
            request(each, now)
        start = time.perf_counter()
        for each in chosen[:BATCH]:
            request(each, now)
        self.batches[kind].append((time.perf_counter() - start) / BATCH * 1e6)

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


def run(options: Options) -> Iterator[dict[str, Any]]:
    """Measure on each database."""
    for kind in options.database:
        with ExitStack() as stack:
            # On a server, the tables share its memory. On SQLite each connection has
            # its own, and drops what it holds when another one writes to its file.
            url = stack.enter_context(own_database(kind))
            name = described(url)
            say(f"{name}:")
            memory = stack.enter_context(pages_in_memory(url, sum(options.rows)))
            grown = []
            for rows in sorted(options.rows):
                if kind == "sqlite":
                    url = stack.enter_context(own_database(kind))
                working_set = 1000 if options.quick else WORKING_SET
                grown.append(Grown(url, rows, working_set))
                stack.callback(grown[-1].sessions.close)
            # Reading any row empties the memory, so it comes when the others are done.
            for kinds in ([READ, WRITE, NEW], [ANY]):
                say(f"  {options.rounds} rounds of: {'; '.join(kinds)}")
                for request in options.rounds * kinds:
                    for each in random.sample(grown, len(grown)):
                        each.batch(request)
            result = {
                "database": name,
                "memory": memory,
                "payload": SIZE,
                "grown": [each.document(grown[0]) for each in grown],
                "steady": live(url, options.writes) if kind == "postgresql" else None,
            }
        yield {"rounds": options.rounds, "batch": BATCH, "databases": [result]}


class Site:
    """Visits in the order of time. Half of the sessions belong to those who come once a
    day; others come once and never again, as many as expire: the other half, in a
    lifetime.
    """

    def __init__(self, sessions: Sessions, rows: int) -> None:
        self.sessions = sessions
        self.begin = self.now = int(time.time())
        self.inserted = self.written = 0
        self.regulars = list(range(0, rows, 2))
        self.newcomers = max(1, rows * DAY // (2 * LIFETIME))

    def requests(self) -> Iterator[int]:
        """Make one request after the other, many visits at once, and give the time of
        each.
        """
        for day in count(self.begin, DAY):
            who = [*self.regulars, *[None] * self.newcomers]
            random.shuffle(who)
            apart = (DAY - REQUESTS * SECONDS_APART) / len(who)
            visits = [self.visit(number) for number in who]
            for self.now, place in sorted(
                (day + int(place * apart) + turn * SECONDS_APART, place)
                for place in range(len(who))
                for turn in range(REQUESTS)
            ):
                next(visits[place])
                yield self.now

    def visit(self, number: int | None) -> Iterator[None]:
        """One visit, a request at a time; ``None`` is a newcomer."""
        writing = set(random.sample(range(REQUESTS), WRITES_A_VISIT))
        record, data = None, dict(DATA)
        if number is None:
            self.inserted += 1
            writing.discard(0)
        else:
            # The others find what this one left: their reading changes nothing.
            record, data = self.sessions.read(number, self.now)
        for turn in range(REQUESTS):
            data = dict(data)
            if turn in writing:
                data["visits"] += 1
                page = random.randrange(10 ** random.randrange(5, 15))
                data["last_page"] = f"/shop/books/{page}"
                self.written += 1
            record, data = self.sessions.save(record, data, self.now)
            yield


def live(url: sa.URL, writes: int) -> dict[str, Any]:
    """Let a table live until visitors have written so often. What became of it."""
    rows = min(STEADY_ROWS, writes // 4)
    say(f"  steady load: filling {rows:,} rows")
    table = fill(url, "sessions_steady", rows)
    before = size_of(url, table)
    site = Site(Sessions(url, table.name, hasty=True), rows)
    purged = vacuums = 0
    with connecting(url).connect() as connection:
        connection.exec_driver_sql(VACUUMED_HERE)
        updates = [updates_of(connection, table.name)]
        next_purge = site.begin + HOUR
        for turn, now in enumerate(site.requests(), start=1):
            if now >= next_purge:
                next_purge += HOUR
                purged += site.sessions.purge(now)
            if turn % 2000 == 0:
                vacuums += vacuum_if_due(connection, table.name)
            if site.written >= writes * len(updates) // 4:
                say(f"    {site.written:,} of {writes:,} writes")
                updates.append(updates_of(connection, table.name))
                if len(updates) > 4:
                    break
        left = connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
    site.sessions.close()
    after = size_of(url, table)
    row, grown = (sum(parts(size, size["indexes"])) for size in (before, after))
    # In the last quarter of the time the first effects are over.
    (first, first_hot), *_, (used, used_hot), (last, last_hot) = updates
    return {
        "rows_before": rows,
        "rows_after": left,
        "days": (site.now - site.begin) / DAY,
        "updates": last - first,
        "hot": last_hot - first_hot,
        "last_updates": last - used,
        "last_hot": last_hot - used_hot,
        "inserted": site.inserted,
        "purged": purged,
        "vacuums": vacuums,
        "before": before,
        "after": after,
        "hot_share": round((last_hot - first_hot) / max(last - first, 1), 4),
        "growth": round(grown / left / (row / rows), 3),
    }


def updates_of(connection: sa.Connection, table: str) -> Sequence[int]:
    """How many updates there have been, and how many of them HOT."""
    # A server process tells of its work once in a second, or when it rests.
    time.sleep(2)
    told = sa.text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = :name"
    )
    return connection.execute(told, {"name": table}).one()


def vacuum_if_due(connection: sa.Connection, table: str) -> int:
    """Vacuum the table, and what it keeps apart, as autovacuum would when nothing is
    set. How often.
    """
    due = sa.text(
        "SELECT CASE WHEN c.relkind = 't' THEN 'pg_toast.' ELSE '' END || c.relname"
        " FROM pg_class AS c JOIN pg_stat_all_tables AS s ON s.relid = c.oid"
        " WHERE c.oid IN (SELECT unnest(ARRAY[oid, reltoastrelid]) FROM pg_class"
        " WHERE relname = :name)"
        " AND s.n_dead_tup > :dead + :share * greatest(c.reltuples, 0)"
    )
    values = {"name": table, "dead": DEAD, "share": DEAD_SHARE}
    names = connection.scalars(due, values).all()
    for name in names:
        connection.exec_driver_sql(f"VACUUM {name}")
    return len(names)


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


def size_of(url: sa.URL, table: sa.Table) -> Any:
    """How many bytes a table and its indexes take, these by their columns; ``None``
    where SQLite was not built to tell.
    """
    statement = sa.text(SIZES[kind_of(url)])
    with connecting(url).connect() as connection:
        try:
            found = connection.execute(statement, {"name": table.name}).all()
        except sa.exc.OperationalError:
            return None
    sizes = {name: int(size) for name, size in found}
    main, toast = sizes.pop(table.name), sizes.pop("", 0)
    names = {str(index.name): index.columns.keys()[0] for index in table.indexes}
    indexes = {names.get(name, "id"): size for name, size in sizes.items()}
    return {"table": main, "indexes": indexes, "toast": toast}


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
    quick={"rows": [1000, 4000], "rounds": 3, "writes": 2000},
    packages=("psycopg", "PyMySQL"),
)
