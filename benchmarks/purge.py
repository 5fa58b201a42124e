"""What requests notice of a purge.

Fills a table with sessions of which a part has expired, lets clients read and write
the others, each in a process of its own, and measures how long their requests take
while another process deletes what has expired. That process rests every few seconds,
so that quiet times and others alternate; with --command it does not, and there is a
quiet time before and after it. What counts is the ratio between them: all of it, the
server included, shares the cores of one machine.

A client does what a request does: it finds a session by its token, as a view that
reads it does, and every second time changes and saves it. It never rests.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from ctypes import c_int, c_longlong
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import sqlalchemy as sa
from flask import Flask

from benchmarks.commands import positive, say, terminate
from flask_sessionsql import Session
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.saving.records import SessionRecords
from flask_sessionsql.storage.database import SessionDatabase
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.purging import BATCH, PAUSE, purge
from flask_sessionsql.storage.store import SessionStore
from flask_sessionsql.storage.tables import sessions_table

from .databases import (
    KEY,
    SERVERS,
    TABLE,
    backend,
    describe,
    fill,
    has_expired,
    new_data,
    own_database,
    server_urls,
    token_of,
)

READ, WRITE = KINDS = ("read", "write")
#: One client request in so many comes with the token of a session that has expired.
EXPIRED_EVERY = 50
#: Phases: the clients warm up, then quiet times and those of the purge alternate, all
#: numbered: the odd ones are quiet.
WARM_UP = 0
STOP = -1

processes = multiprocessing.get_context("spawn")


# The clients.


@dataclass
class Shared:
    """What the processes of one run have in common."""

    url: str
    rows: int
    expired: int
    batch: int
    pause: float
    command: bool
    phase: Any = field(default_factory=lambda: processes.RawValue(c_int, 0))
    deleted: Any = field(default_factory=lambda: processes.RawValue(c_longlong, 0))

    def engine(self) -> sa.Engine:
        """The engine that an application's sessions have."""
        return sessions_engine(sa.create_engine(self.url))


@dataclass
class Measured:
    """How long one client's requests took, in seconds, and what went wrong."""

    seconds: dict[tuple[int, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    failures: list[str] = field(default_factory=list)


def client(shared: Shared, seed: int, answer: Connection) -> None:
    """A client's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    measured = Measured()
    store = SessionStore(shared.engine(), sessions_table(sa.MetaData(), TABLE))
    records = SessionRecords(SessionConfig(), store, MsgpackSerializer())
    chance = random.Random(seed)
    turn = 0
    while (phase := shared.phase.value) != STOP:
        turn += 1
        number = chance.randrange(shared.rows)
        gone = has_expired(number, shared.rows, shared.expired)
        if gone and turn % EXPIRED_EVERY:
            continue
        kind = KINDS[turn % 2]
        start = time.perf_counter()
        try:
            trouble = request(records, token_of(number), gone, writes=kind == WRITE)
        except Exception as error:
            trouble = f"{type(error).__name__}: {error}"
        took = time.perf_counter() - start
        if trouble:
            measured.failures.append(f"{kind}: {trouble}")
        elif not gone:
            measured.seconds[phase, kind].append(took)
    store.dispose()
    answer.send(measured)


def request(
    records: SessionRecords, token: str, gone: bool, *, writes: bool
) -> str | None:
    """What a request does with its session. What went wrong, if anything did."""
    now = int(time.time())
    found = records.find([KEY], token, now)
    if gone or found is None:
        if gone == (found is None):
            return None
        return "an expired session was served" if gone else "a session was not found"
    record, data = found
    if data.keys() != new_data().keys():
        return "a session was not read as it was stored"
    if writes:
        data["visits"] += 1
        plan = records.planner.plan(
            [KEY], record, data, empty=False, cleared=False, now=now
        )
        if records.execute(plan, [KEY]) is None:
            return "a session was not saved"
    return None


# The purge.


def purger(shared: Shared) -> None:
    """The process that purges, as the command does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if shared.command:
        run_command(shared.url)
    database = SessionDatabase(shared.engine(), sessions_table(sa.MetaData(), TABLE))
    now = int(time.time())
    for done in purge(database, now, batch=shared.batch, pause=shared.pause):
        shared.deleted.value += done.deleted
        while shared.phase.value % 2:
            time.sleep(0.01)
    database.dispose()


def run_command(url: str) -> NoReturn:
    """Become ``flask sessions purge``, with what it does when nothing is set."""
    sys.stderr.flush()
    os.dup2(2, 1)
    application = "benchmarks.purge:make_app"
    arguments = [sys.executable, "-m", "flask", "--app", application]
    env = {**os.environ, "SESSIONSQL_BENCHMARK_URL": url}
    os.execve(sys.executable, [*arguments, "sessions", "purge"], env)


def make_app() -> Flask:
    """The application whose command purges, with ``--command``."""
    app = Flask("benchmark")
    app.config.update(
        SECRET_KEY=KEY,
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI=os.environ["SESSIONSQL_BENCHMARK_URL"],
    )
    Session(app)
    return app


# A run.


@dataclass
class Result:
    """What one run on one database came to. Times in milliseconds."""

    database: str
    rows: int
    expired: int
    clients: int
    cores: int
    batch: int
    pause: float
    command: bool
    #: How long the purge took, in seconds, without the times when it was stopped.
    seconds: float
    failures: int
    first_failures: list[str]
    #: By kind of request: the median and the 99th percentile, in quiet times and during
    #: the purge.
    median: dict[str, tuple[float, float]]
    p99: dict[str, tuple[float, float]]
    #: Requests in a second, likewise.
    requests: tuple[float, float]
    #: The median of each time of the purge by those of the quiet times around it.
    ratios: dict[str, list[float]]

    def ratio(self, kind: str) -> float:
        """How much slower requests are beside the purge, by their median. Neighbouring
        times are compared, since whatever else the machine does changes meanwhile.
        """
        return statistics.median(self.ratios[kind])


def run(url: sa.URL, options: argparse.Namespace) -> Result:
    """Measure on one server."""
    with own_database(url) as ours:
        address = ours.render_as_string(hide_password=False)
        engine = sa.create_engine(ours, isolation_level="AUTOCOMMIT")
        name = describe(engine)
        say(f"{name}: filling {options.rows:,} rows")
        start = time.perf_counter()
        fill(engine, options.rows, options.expired, int(time.time()))
        say(f"  filled in {time.perf_counter() - start:.0f} s")
        shared = Shared(
            address,
            options.rows,
            options.expired,
            options.batch,
            options.pause,
            options.command,
        )
        measured, lasted = phases(shared, options)
        with engine.connect() as connection:
            left = connection.scalar(sa.text(f"SELECT count(*) FROM {TABLE}"))
        engine.dispose()
    if left != options.rows - options.expired:
        raise SystemExit(f"{left:,} rows are left, which is not what should be.")
    return summary(name, options, measured, lasted)


def phases(
    shared: Shared, options: argparse.Namespace
) -> tuple[list[Measured], list[float]]:
    """Let the clients work, quietly and beside the purge by turns. What they measured,
    and how many seconds each phase lasted.
    """
    pipes = [processes.Pipe(duplex=False) for _ in range(options.clients)]
    clients = [
        processes.Process(target=client, args=[shared, seed, pipe[1]], daemon=True)
        for seed, pipe in enumerate(pipes)
    ]
    purge = processes.Process(target=purger, args=[shared], daemon=True)
    lasted: list[float] = []

    def phase(wait: Callable[[float], object]) -> None:
        shared.phase.value = len(lasted)
        start = time.perf_counter()
        wait(options.seconds)
        lasted.append(time.perf_counter() - start)

    try:
        for process in clients:
            process.start()
        phase(time.sleep)
        phase(time.sleep)
        purge.start()
        while True:
            # The command knows nothing of quiet times.
            phase(lambda seconds: purge.join(None if shared.command else seconds))
            if not purge.is_alive():
                break
            say(f"  {shared.deleted.value:,} deleted in {sum(lasted[2::2]):.0f} s")
            phase(time.sleep)
        if purge.exitcode:
            raise SystemExit(f"The purge ended with exit code {purge.exitcode}.")
        phase(time.sleep)
        shared.phase.value = STOP
        return list(map(receive, pipes, clients)), lasted
    finally:
        for process in (purge, *clients):
            if process.is_alive():
                process.kill()


def receive(pipe: tuple[Connection, Connection], process: Any) -> Measured:
    """What a client measured."""
    while not pipe[0].poll(1):
        if not process.is_alive():
            raise SystemExit("A client broke down.")
    measured = pipe[0].recv()
    assert isinstance(measured, Measured)
    return measured


def summary(
    name: str,
    options: argparse.Namespace,
    measured: list[Measured],
    lasted: list[float],
) -> Result:
    """What all clients measured, together."""

    def times(kind: str, phases: Iterable[int]) -> list[float]:
        """Milliseconds of the requests in these phases."""
        found = [
            1000 * second
            for phase in phases
            for each in measured
            for second in each.seconds[phase, kind]
        ]
        if len(found) < 2:
            raise SystemExit(
                f"Only {len(found)} requests to {kind} were answered in a quiet time or"
                " beside the purge, which tells nothing. Give more --seconds, or more"
                " --rows and --expired, so that the purge takes longer."
            )
        return found

    every = range(len(lasted))
    quiet, busy = every[1::2], every[2::2]

    def both(take: Callable[[list[float]], float]) -> dict[str, tuple[float, float]]:
        return {
            kind: (take(times(kind, quiet)), take(times(kind, busy))) for kind in KINDS
        }

    def number(phases: range) -> float:
        count = sum(len(times(kind, phases)) for kind in KINDS)
        return count / sum(lasted[phase] for phase in phases)

    failures = [failure for each in measured for failure in each.failures]
    return Result(
        database=name,
        rows=options.rows,
        expired=options.expired,
        clients=options.clients,
        cores=len(os.sched_getaffinity(0)),
        batch=options.batch,
        pause=options.pause,
        command=options.command,
        seconds=sum(lasted[phase] for phase in busy),
        failures=len(failures),
        first_failures=failures[:10],
        median=both(statistics.median),
        p99=both(lambda times: statistics.quantiles(times, n=100)[98]),
        requests=(number(quiet), number(busy)),
        ratios={
            kind: [
                statistics.median(times(kind, [phase]))
                / statistics.median(times(kind, [phase - 1, phase + 1]))
                for phase in busy
                # The last one may be too short to tell.
                if lasted[phase] > options.seconds / 2 or len(busy) == 1
            ]
            for kind in KINDS
        },
    )


def show(result: Result) -> None:
    """Print a run as a table."""
    how = f"batches of {result.batch}, {result.pause:g} s between them"
    if result.command:
        how = "by 'flask sessions purge'"
    print(
        f"\n{result.database}: {result.expired:,} of {result.rows:,} rows deleted in"
        f" {result.seconds:.0f} s, {result.expired / result.seconds:,.0f} in a second;"
        f" {how}."
    )
    print(
        f"{result.clients} clients, {result.failures} failures; all on"
        f" {result.cores} cores, the server included ({platform.machine()}, Python"
        f" {platform.python_version()}).\n"
    )
    print(
        f"{'':14}{'quiet':>12}{'purge':>12}{'ratio':>8}  {'from one time to another'}"
    )
    for kind in KINDS:
        for name, times in (("median", result.median), ("p99", result.p99)):
            quiet, busy = times[kind]
            row = f"{quiet:9.2f} ms{busy:9.2f} ms"
            if name == "median":
                each = result.ratios[kind]
                row += f"{result.ratio(kind):8.2f}  {min(each):.2f} to {max(each):.2f}"
            else:
                row += f"{busy / quiet:8.2f}"
            print(f"{f'{kind}, {name}':14}{row}")
    quiet, busy = result.requests
    print(
        f"{'requests/s':14}{quiet:12,.0f}{busy:12,.0f}{busy / quiet:8.2f}", flush=True
    )
    for failure in result.first_failures:
        print(f"  {failure}")


# The command line.


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options.

    :param arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "exit code: 0; 1 if a request failed or a median more than doubled; 2 if"
            " the options are wrong"
        ),
    )
    add = parser.add_argument
    add(
        "--database",
        action="append",
        metavar="URL",
        type=server,
        help="a PostgreSQL or MariaDB server where databases may be created, as a"
        " SQLAlchemy URL; may be given more than once (default: those of"
        f" {' and '.join(SERVERS)}, or the local ones)",
    )
    add(
        "--rows",
        type=positive,
        default=2_000_000,
        help="how many sessions there are (default: %(default)s)",
    )
    add(
        "--expired",
        type=positive,
        default=1_000_000,
        help="how many of them have expired, and are deleted (default: %(default)s)",
    )
    add(
        "--clients",
        type=positive,
        default=4,
        help="how many processes read and write meanwhile (default: %(default)s)",
    )
    add(
        "--seconds",
        type=positive,
        default=10,
        help="how long the clients warm up, and how long each quiet time and each time"
        " of the purge lasts (default: %(default)s)",
    )
    add(
        "--batch",
        type=positive,
        default=BATCH,
        help="how many rows are deleted at once (default: %(default)s)",
    )
    add(
        "--pause",
        type=float,
        default=PAUSE,
        help="seconds between two batches (default: %(default)s)",
    )
    add(
        "--command",
        action="store_true",
        help="let 'flask sessions purge' delete them, with its own batch and pause",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    if options.expired >= options.rows:
        parser.error("--expired has to be less than --rows: clients use the others")
    options.database = options.database or server_urls()
    return options


def server(text: str) -> sa.URL:
    """A server's address, for argparse."""
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if backend(url) not in ("postgresql", "mysql"):
        raise argparse.ArgumentTypeError(f"{text!r} is no PostgreSQL or MariaDB server")
    return url


def main(arguments: list[str] | None = None) -> int:
    """Measure on each server. The exit code.

    :param arguments: instead of those of the process.
    """
    options = parse(arguments)
    signal.signal(signal.SIGTERM, terminate)
    results = []
    try:
        for url in options.database:
            results.append(run(url, options))
            show(results[-1])
    except KeyboardInterrupt:
        say("Interrupted; the database of the benchmark is dropped.")
        return 130
    if options.json:
        options.json.write_text(
            json.dumps([asdict(each) for each in results], indent=1)
        )
    return int(any(each.failures or is_slow(each) for each in results))


def is_slow(result: Result) -> bool:
    """Whether a median was more than doubled."""
    return any(result.ratio(kind) > 2 for kind in KINDS)


if __name__ == "__main__":
    sys.exit(main())
