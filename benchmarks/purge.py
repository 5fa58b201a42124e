"""What requests notice of a purge.

Fills a table with sessions of which a part has expired, lets clients read and write
the others, each in a process of its own, and measures how long their requests take
while another process runs "flask sessions purge". That command ends every few seconds,
and begins again later, so that quiet times and others alternate. What counts is the
ratio between neighbouring times: all of it, the server included, shares the cores of
one machine.

A client does what a request does: it finds a session by its token, and half of the
times changes and saves it. It never rests.
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ctypes import c_int
from multiprocessing.connection import Connection
from typing import Any

import sqlalchemy as sa
from flask import Flask

from benchmarks import databases
from benchmarks.databases import own_database, pages_in_memory
from benchmarks.frame import Benchmark, BrokenError, amount, begin, receive, say
from benchmarks.ours import TABLE, Sessions, fill, has_expired, set_up
from benchmarks.terms import KEY, READ, WRITE

CLIENTS = 4
#: Phases are numbered: the clients warm up, then quiet times and those of the purge
#: alternate, and the odd ones are quiet.
STOP = -1
#: The command's exit code where its time was over, and some are left.
TIME_OVER = 3

#: Milliseconds that requests took, by phase and kind.
Times = dict[tuple[int, str], list[float]]


def client(
    url: str, rows: int, expired: int, phase: Any, seed: int, answer: Connection
) -> None:
    """A client's process. It answers with its times, and with what went wrong."""
    sessions = Sessions(sa.make_url(url))
    chance = random.Random(seed)
    times: Times = defaultdict(list)
    failures = []
    while (now := phase.value) != STOP:
        number = chance.randrange(rows)
        if has_expired(number, rows, expired):
            continue
        kind = chance.choice((READ, WRITE))
        request: Any = sessions.write if kind == WRITE else sessions.read
        start = time.perf_counter()
        try:
            request(number, int(time.time()))
        except Exception as error:
            failures.append(f"{kind}: {type(error).__name__}: {error}")
            continue
        times[now, kind].append(1000 * (time.perf_counter() - start))
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


def run(options: Namespace) -> Iterator[dict[str, Any]]:
    """Measure on each database."""
    if options.expired >= options.rows:
        raise SystemExit("--expired has to be less than --rows: clients use the others")
    for kind in options.database:
        with own_database(kind) as url, pages_in_memory(url, options.rows) as memory:
            name = databases.described(url)
            say(f"{name}: filling {options.rows:,} rows")
            table = fill(url, TABLE, options.rows, options.expired)
            times, failures, lasted = phases(databases.address(url), options)
            with databases.connecting(url).connect() as connection:
                left = connection.scalar(sa.select(sa.func.count()).select_from(table))
        if left != options.rows - options.expired:
            raise BrokenError(f"{left} rows are left")
        result = {
            "database": name,
            "memory": memory,
            "rows": options.rows,
            "expired": options.expired,
            "clients": CLIENTS,
            "seconds": round(sum(lasted[2::2]), 1),
            "failures": len(failures),
            **summary(times, lasted),
        }
        yield {"databases": [result], "faults": failures[:10]}


def phases(url: str, options: Namespace) -> tuple[Times, list[str], list[float]]:
    """Let the clients work, quietly and beside the purge by turns. What they measured,
    what went wrong, and how many seconds each phase lasted.
    """
    phase = multiprocessing.get_context("spawn").RawValue(c_int, 0)
    lasted: list[float] = []
    times: Times = defaultdict(list)
    failures: list[str] = []

    def lasting(wait: Callable[[], Any]) -> Any:
        phase.value = len(lasted)
        start = time.perf_counter()
        found = wait()
        lasted.append(time.perf_counter() - start)
        return found

    with ExitStack() as stack:
        purge = begin(stack, purger, url)
        clients = [
            begin(stack, client, url, options.rows, options.expired, phase, seed)
            for seed in range(CLIENTS)
        ]
        receive(purge)
        lasting(lambda: time.sleep(options.seconds))
        code = TIME_OVER
        while code == TIME_OVER:
            lasting(lambda: time.sleep(options.seconds))
            purge.send(options.seconds)
            code, said = lasting(lambda: receive(purge))
            say(f"  {said.strip()} (exit code {code})")
        lasting(lambda: time.sleep(options.seconds))
        phase.value = STOP
        for pipe in clients:
            measured, wrong = receive(pipe)
            failures += wrong
            for key, found in measured.items():
                times[key] += found
    return times, failures, lasted


def summary(times: Times, lasted: Sequence[float]) -> dict[str, Any]:
    """By kind of request: the medians of all quiet times and of those of the purge, and
    the ratio, the median of those of each time of the purge to the quiet times around
    it, since whatever else the machine does changes meanwhile.
    """

    def median(kind: str, phases: Sequence[int]) -> float:
        found = [took for phase in phases for took in times[phase, kind]]
        if not found:
            raise BrokenError("nothing was answered in a phase; give more --seconds")
        return statistics.median(found)

    quiet, busy = range(1, len(lasted), 2), range(2, len(lasted), 2)
    # The last one may be too short to tell.
    told = [phase for phase in busy if lasted[phase] > max(lasted) / 2] or busy
    medians, ratios = {}, {}
    for kind in (READ, WRITE):
        medians[kind] = [round(median(kind, phases), 3) for phases in (quiet, busy)]
        ratio = statistics.median(
            median(kind, [phase]) / median(kind, [phase - 1, phase + 1])
            for phase in told
        )
        ratios[kind] = round(ratio, 3)
    return {"median": medians, "ratio": ratios}


BENCHMARK = Benchmark(
    "purge",
    __doc__,
    run,
    databases=("postgresql", "mariadb", "sqlite"),
    options={
        "--rows": amount("how many sessions there are", 2_000_000, 2),
        "--expired": amount("how many of them have expired, and go", 1_000_000),
        "--seconds": amount("how long each quiet time and each purge lasts", 10.0, 0.1),
    },
    quick={"rows": 4000, "expired": 2000, "seconds": 1.0},
    packages=("psycopg", "PyMySQL"),
)
