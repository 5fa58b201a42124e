"""What requests notice of a purge.

Fills a table with sessions of which a part has expired, lets clients read and write
the others, each in a process of its own, and measures how long their requests take
while another process runs "flask sessions purge". That command ends every few seconds,
and begins again later, so that quiet times and others alternate. What counts is the
ratio between neighbouring times: all of it, the server included, shares the cores of
one machine.

A client does what a request does: it finds a session by its token, and every second
time changes and saves it. It never rests.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ctypes import c_int
from multiprocessing.connection import Connection
from typing import Any

import sqlalchemy as sa
from flask import Flask

from benchmarks.databases import (
    address,
    connecting,
    described,
    fill,
    own_database,
    pages_in_memory,
)
from benchmarks.frame import Benchmark, BrokenError, Options, amount, begin, say
from benchmarks.growth import ROW
from benchmarks.ours import COLUMNS, Sessions, has_expired, rows, set_up, table_of
from benchmarks.peers import KEY, READ, WRITE
from benchmarks.results import Document

CLIENTS = 4
KINDS = (READ, WRITE)
#: One client request in so many comes with the token of a session that has expired.
EXPIRED_EVERY = 50
#: Phases are numbered: the clients warm up, then quiet times and those of the purge
#: alternate, and the odd ones are quiet.
STOP = -1
#: The command's exit code where its time was over, and some are left.
TIME_OVER = 3

#: Seconds that a client's requests took, by phase and kind.
Times = dict[tuple[int, str], list[float]]


def client(
    url: str, rows: int, expired: int, phase: Any, seed: int, answer: Connection
) -> None:
    """A client's process. It answers with its times, and with what went wrong."""
    sessions = Sessions(sa.make_url(url))
    chance = random.Random(seed)
    times: Times = defaultdict(list)
    failures = []
    turn = 0
    while (now := phase.value) != STOP:
        turn += 1
        number = chance.randrange(rows)
        gone = has_expired(number, rows, expired)
        if gone and turn % EXPIRED_EVERY:
            continue
        kind = KINDS[turn % 2]
        request: Any = sessions.write if kind == WRITE else sessions.read
        start = time.perf_counter()
        try:
            if not gone:
                request(number, int(time.time()))
                times[now, kind].append(time.perf_counter() - start)
            elif sessions.find(number, int(time.time())) is not None:
                failures.append("an expired session was served")
        except Exception as error:
            failures.append(f"{kind}: {type(error).__name__}: {error}")
    sessions.close()
    answer.send((times, failures))


def purger(url: str, pipe: Connection) -> None:
    """The process that runs the command, for as many seconds as it is sent, and answers
    with its exit code and what it said.
    """
    app = Flask("benchmark")
    app.config["SECRET_KEY"] = KEY
    set_up(app, sa.make_url(url))
    runner = app.test_cli_runner()
    pipe.send("ready")
    while True:
        seconds = pipe.recv()
        done = runner.invoke(args=["sessions", "purge", "--max-seconds", str(seconds)])
        pipe.send((done.exit_code, done.output))


def run(options: Options) -> Iterator[Document]:
    """Measure on each database."""
    if options.expired >= options.rows:
        raise SystemExit("--expired has to be less than --rows: clients use the others")
    for kind in options.database:
        with own_database(kind) as url, pages_in_memory(url, ROW * options.rows) as mem:
            name = described(url)
            table = table_of()
            say(f"{name}: filling {options.rows:,} rows")
            now = int(time.time())
            fill(url, table, COLUMNS, rows(options.rows, options.expired, now))
            times, failures, lasted = phases(address(url), options)
            with connecting(url).connect() as connection:
                left = connection.scalar(sa.select(sa.func.count()).select_from(table))
        if left != options.rows - options.expired:
            raise BrokenError(f"{left} rows are left")
        for failure in failures[:10]:
            say(f"  {failure}")
        result = {
            "database": name,
            "memory": mem,
            "rows": options.rows,
            "expired": options.expired,
            "clients": CLIENTS,
            "seconds": round(sum(lasted[2::2]), 1),
            "failures": len(failures),
            **summary(times, lasted),
        }
        yield {"databases": [result]}


def phases(
    url: str, options: Options
) -> tuple[Sequence[Times], list[str], list[float]]:
    """Let the clients work, quietly and beside the purge by turns. What they measured,
    what went wrong, and how many seconds each phase lasted.
    """
    phase = multiprocessing.get_context("spawn").RawValue(c_int, 0)
    lasted: list[float] = []

    def lasting(wait: Callable[[], Any]) -> Any:
        phase.value = len(lasted)
        start = time.perf_counter()
        found = wait()
        lasted.append(time.perf_counter() - start)
        return found

    def quiet() -> None:
        time.sleep(options.seconds)

    def purged() -> Any:
        purge.send(options.seconds)
        return purge.recv()

    with ExitStack() as stack:
        clients = [
            begin(stack, client, url, options.rows, options.expired, phase, seed)
            for seed in range(CLIENTS)
        ]
        purge = begin(stack, purger, url)
        code = TIME_OVER
        try:
            purge.recv()
            lasting(quiet)
            lasting(quiet)
            while code == TIME_OVER:
                code, said = lasting(purged)
                say(f"  {said.strip()}")
                lasting(quiet)
            if code:
                raise BrokenError(f"the purge ended with exit code {code}")
            phase.value = STOP
            found = [pipe.recv() for pipe in clients]
        except EOFError:
            raise BrokenError("a client or the purge broke down") from None
    return (
        [times for times, _ in found],
        [failure for _, failures in found for failure in failures],
        lasted,
    )


def summary(measured: Sequence[Times], lasted: Sequence[float]) -> dict[str, Any]:
    """By kind of request: the medians of all quiet times and of those of the purge, in
    milliseconds; and the ratio, the median of those of each time of the purge to the
    quiet times around it, since whatever else the machine does changes meanwhile.
    """

    def median(kind: str, phases: Sequence[int]) -> float:
        found = [
            second
            for phase in phases
            for each in measured
            for second in each[phase, kind]
        ]
        if not found:
            raise BrokenError("nothing was answered in a phase; give more --seconds")
        return 1000 * statistics.median(found)

    every = range(1, len(lasted))
    quiet, busy = every[::2], every[1::2]
    # The last one may be too short to tell.
    told = [phase for phase in busy if lasted[phase] > max(lasted) / 2] or busy
    return {
        "median": {
            kind: [round(median(kind, phases), 3) for phases in (quiet, busy)]
            for kind in KINDS
        },
        "ratio": {
            kind: round(
                statistics.median(
                    median(kind, [phase]) / median(kind, [phase - 1, phase + 1])
                    for phase in told
                ),
                3,
            )
            for kind in KINDS
        },
    }


def faults(document: Document) -> list[str]:
    """The requests that failed."""
    return [
        f"{each['database']}: {each['failures']} requests failed"
        for each in document["databases"]
        if each["failures"]
    ]


BENCHMARK = Benchmark(
    "purge",
    __doc__,
    run,
    databases=("postgresql", "mariadb", "sqlite"),
    options={
        "--rows": amount("how many sessions there are", 2_000_000, 2),
        "--expired": amount(
            "how many of them have expired, and are deleted", 1_000_000
        ),
        "--seconds": amount(
            "how long the clients warm up, and how long each quiet time and each time"
            " of the purge lasts",
            10.0,
            0.1,
        ),
    },
    quick={"rows": 4000, "expired": 2000, "seconds": 1.0},
    packages=("psycopg", "PyMySQL"),
    faults=faults,
)
