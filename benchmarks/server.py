"""What sessions cost a whole server: requests a second, and how long they take.

Starts gunicorn once for each contender, each with sessions of its own kind, and loads
one after the other over loopback, in short turns whose order changes from one round to
the next, so that whatever else the machine does meets all alike. The ratios compare
turns of the same round. The parts:

plain           2 workers of one thread; sessions on PostgreSQL
threads         2 workers of 8 threads; sessions on PostgreSQL
sqlite          4 workers of one thread that write to one SQLite file
sqlite-threads  2 workers of 8 threads that write to one SQLite file

All workers are of gunicorn's class "gthread", those of one thread, too: the class
"sync" closes the connection after each answer, and would measure how fast connections
are made instead. The connections are kept alive, and shared out evenly among the
workers. Each sends one request after the other, for one of its own sessions, chosen by
chance, whose cookie it sends; a cookie that is set is sent from then on.

An answer counts if its status is 200 and its body is right: a request that writes
answers with the number of writes to its session, so that one that was lost is noticed.

All of it, the database and the load included, shares the cores of one machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from redis import Redis
from werkzeug.test import Client

from benchmarks import results
from benchmarks.commands import positive, say, terminate
from benchmarks.databases import (
    REDIS,
    SERVERS,
    describe,
    own_database,
    own_directory,
    redis_url,
    server_urls,
)
from benchmarks.load import (
    Check,
    Connection,
    Load,
    LoadError,
    Visitor,
    close,
    connect,
    load,
    share_out,
)
from benchmarks.peers import (
    COOKIE,
    FLASK_SESSION,
    FLASK_SESSION_REDIS,
    NEW,
    NOTHING,
    ON_SQL,
    OURS,
    RAW,
    READ,
    UNTOUCHED,
    WRITE,
    Peer,
    WSGIApplication,
    make_payload,
    make_peer,
)

#: Tells a worker which application it has.
VARIABLE = "SESSIONSQL_BENCHMARK_PEER"
APPLICATION = "benchmarks.server:application"
#: Where a worker answers with its name.
WORKER = "/worker"
#: As long as that of ours, for those who have no session.
NO_SESSION = b"session=" + b"0" * 43

#: Bytes that a session has.
SIZE = 200
#: How long a contender's requests of a kind go on before the first round, and before
#: each turn is measured, in seconds.
WARM_UP = 0.5
LEAD = 0.2
#: How long gunicorn may take to start, and to end.
START, END = 30.0, 5.0
LOCKED = "database is locked"


@dataclass(frozen=True)
class Part:
    """One of the things that are measured."""

    workers: int
    threads: int
    on_sqlite: bool
    contenders: tuple[str, ...]
    requests: tuple[str, ...]


ON_POSTGRESQL = (NOTHING, COOKIE, OURS, RAW, FLASK_SESSION_REDIS, FLASK_SESSION)
PARTS = {
    "plain": Part(2, 1, False, ON_POSTGRESQL, (UNTOUCHED, READ, WRITE)),
    "threads": Part(2, 8, False, ON_POSTGRESQL, (UNTOUCHED, READ, WRITE)),
    "sqlite": Part(4, 1, True, (OURS, FLASK_SESSION), (WRITE, NEW)),
    "sqlite-threads": Part(2, 8, True, (OURS, FLASK_SESSION), (WRITE, NEW)),
}


@dataclass(frozen=True)
class Aim:
    """Ours serves so many times the requests that another one does, or more."""

    request: str
    other: str
    least: float


AIMS = (
    Aim(UNTOUCHED, NOTHING, 0.95),
    Aim(READ, COOKIE, 1.0),
    Aim(READ, FLASK_SESSION, 4.0),
    Aim(WRITE, FLASK_SESSION, 2.5),
)


# A worker.


def application() -> WSGIApplication:
    """What gunicorn serves."""
    name, database, redis = json.loads(os.environ[VARIABLE])
    peer = peer_of(name, database, redis)
    worker = str(os.getpid()).encode()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == WORKER:
            start("200 OK", [("Content-Length", str(len(worker)))])
            return [worker]
        return peer.wsgi(environ, start)

    return answer


def peer_of(name: str, database: str | None, redis: str | None) -> Peer:
    """A contender."""
    url = sa.make_url(database) if database else None
    return make_peer(name, make_payload(SIZE), url, redis)


# A server.


@dataclass
class Served:
    """A contender that is being served, and those who visit it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    connections: list[Connection] = field(default_factory=list)

    def locked(self) -> int:
        """How many lines of the log say that the SQLite file was locked."""
        return self.log.read_text(errors="replace").count(LOCKED)


@contextmanager
def serve(
    name: str, part: Part, folder: Path, database: str | None, redis: str | None
) -> Iterator[Served]:
    """A contender's gunicorn, as long as the context lasts."""
    log = folder / f"{name}.log"
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        # gunicorn takes the socket over: so nobody else can have the port meanwhile.
        config = folder / f"{name}.conf.py"
        config.write_text(
            f"bind = 'fd://{listening.fileno()}'\n"
            "worker_class = 'gthread'\n"
            f"workers = {part.workers}\n"
            f"threads = {part.threads}\n"
            "keepalive = 600\n"
            "loglevel = 'warning'\n"
            "control_socket_disable = True\n"
            # The modules are there before the workers are, which then start sooner;
            # each still makes the application, and its connections, by itself.
            f"import {APPLICATION.partition(':')[0]}\n"
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "--config", str(config)),
                    f"{APPLICATION}()",
                ],
                cwd=Path(__file__).parents[1],
                env={**os.environ, VARIABLE: json.dumps([name, database, redis])},
                pass_fds=[listening.fileno()],
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the benchmark, which then ends the servers.
                start_new_session=True,
            )
        port = listening.getsockname()[1]
    served = Served(name, process, log, port)
    try:
        yield served
    finally:
        close(served.connections)
        stop(process)


@contextmanager
def explained(served: Served) -> Iterator[None]:
    """Show what gunicorn says if the server cannot be loaded."""
    try:
        yield
    except (LoadError, OSError) as error:
        raise SystemExit(
            f"{served.name} could not be loaded: {error}\nWhat gunicorn says:\n"
            f"{served.log.read_text(errors='replace')[-4000:]}"
        ) from error


def wait_for(served: Served) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + START
    while True:
        # A connection is accepted by the system already; gunicorn is there when it
        # answers.
        connection = Connection(served.port)
        connection.socket.settimeout(1)
        try:
            if connection.ask(WORKER.encode(), Visitor()).status == b"200":
                return
        except TimeoutError:
            pass
        finally:
            close([connection])
        if served.process.poll() is not None:
            raise LoadError("gunicorn ended.")
        if time.monotonic() > deadline:
            raise LoadError(f"It did not start within {START:g} seconds.")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End gunicorn with its workers."""
    process.terminate()
    try:
        process.wait(END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # A worker that outlived it has nobody else to end it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


# What is requested.


def check_of(name: str, request: str) -> Check:
    """Tells whether a contender's answer to a request is right."""
    if request in {UNTOUCHED, NEW}:
        return lambda visitor, body: body == b"ok"
    if name == NOTHING:
        nothing = b"None None" if request == READ else b"1"
        return lambda visitor, body: body == nothing
    if request == READ:
        return is_read
    return is_written


def is_read(visitor: Visitor, body: bytes) -> bool:
    """Whether the session says what it should."""
    return body == b"Ann Example %d" % (visitor.changes + 1)


def is_written(visitor: Visitor, body: bytes) -> bool:
    """Whether this is the next one of the visitor's writes."""
    visitor.changes += 1
    if body == b"%d" % (visitor.changes + 1):
        return True
    # One wrong answer counts once; the next one is compared with it.
    visitor.changes = int(body) - 1 if body.isdigit() else visitor.changes - 1
    return False


def prepare(served: Served, part: Part, options: argparse.Namespace) -> None:
    """Open the connections, begin the sessions, and let each worker do everything."""
    wait_for(served)
    served.connections = connect(
        served.port, options.connections, part.workers, WORKER.encode()
    )
    visitors = [Visitor(NO_SESSION) for _ in range(options.sessions)]
    share_out(served.connections, visitors)
    if served.name != NOTHING:
        for connection in served.connections:
            for visitor in connection.visitors:
                visitor.cookie = b""
                answer = connection.ask(b"/" + NEW.encode(), visitor)
                if answer.status != b"200" or not answer.cookie:
                    raise LoadError("No session could be begun.")
                visitor.cookie = answer.cookie
    for request in part.requests:
        turn(served, request, min(WARM_UP, options.seconds))


def turn(served: Served, request: str, seconds: float, seed: int = 0) -> Load:
    """Load a server with one kind of requests."""
    return load(
        served.connections,
        f"/{request}",
        check_of(served.name, request),
        seconds,
        warm_up=min(LEAD, seconds),
        new=request == NEW,
        chance=random.Random(seed),
    )


# A run.


@dataclass
class Figures:
    """What one contender's requests of one kind came to."""

    part: str
    request: str
    contender: str
    #: Requests a second in each round, and how long all of them took, in milliseconds.
    rates: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, measured: Load) -> None:
        """Add what a turn came to."""
        self.rates.append(measured.rate)
        self.latencies += (1000 * second for second in measured.latencies)
        self.failures += measured.failures

    @property
    def rate(self) -> float:
        """Requests a second, in the median round."""
        return statistics.median(self.rates)

    def percentile(self, percent: int) -> float:
        """So many of a hundred requests took no longer, in milliseconds."""
        if len(self.latencies) < 2:
            return float("nan")
        return statistics.quantiles(self.latencies, n=100)[percent - 1]

    def over(self, other: Figures) -> float:
        """How many times another one's requests there were, in the median round."""
        return statistics.median(
            mine / (theirs or float("nan"))
            for mine, theirs in zip(self.rates, other.rates, strict=True)
        )

    def document(self) -> dict[str, Any]:
        """As it is written to a file."""
        return {
            "part": self.part,
            "request": self.request,
            "contender": self.contender,
            "requests_per_second": round(self.rate, 1),
            "rounds": [round(rate, 1) for rate in self.rates],
            "p50_ms": round(self.percentile(50), 3),
            "p99_ms": round(self.percentile(99), 3),
            "failures": self.failures.total(),
            "kinds_of_failures": dict(self.failures.most_common(5)),
        }


#: By request and contender.
Table = dict[tuple[str, str], Figures]


@dataclass
class Measured:
    """What a part came to."""

    name: str
    table: Table
    #: The share of one core that the load itself took, from the least to the most.
    cpu: tuple[float, float]
    #: For each contender, how many lines of the log say that a SQLite file was locked.
    locked: dict[str, int]


def measure(name: str, options: argparse.Namespace) -> Measured:
    """Measure a part."""
    part = PARTS[name]
    say(f"{name}: starting {len(part.contenders)} servers")
    table: Table = {
        (request, contender): Figures(name, request, contender)
        for request in part.requests
        for contender in part.contenders
    }
    shares: list[float] = []
    with ExitStack() as stack:
        folder = stack.enter_context(own_directory())
        servers = [
            start(contender, part, folder, options, stack)
            for contender in part.contenders
        ]
        for served in servers:
            with explained(served):
                prepare(served, part, options)
        for number in range(options.rounds):
            say(f"  round {number + 1} of {options.rounds}")
            for request in part.requests:
                # Each one is first, second and so on in its turn.
                first = number % len(servers)
                for served in (*servers[first:], *servers[:first]):
                    with explained(served):
                        loaded = turn(served, request, options.seconds, number)
                    table[request, served.name].add(loaded)
                    shares.append(loaded.cpu)
        locked = {served.name: served.locked() for served in servers}
    return Measured(name, table, (min(shares), max(shares)), locked)


def start(
    name: str, part: Part, folder: Path, options: argparse.Namespace, stack: ExitStack
) -> Served:
    """Serve a contender, with a database of its own if it needs one."""
    database, redis = None, None
    if name in ON_SQL and part.on_sqlite:
        database = f"sqlite:///{folder / name}.db"
    elif name in ON_SQL:
        url = stack.enter_context(own_database(options.postgresql))
        database = url.render_as_string(hide_password=False)
    elif name == FLASK_SESSION_REDIS:
        redis = options.redis
    # The first request of all creates the table; two workers would do so at once.
    peer = peer_of(name, database, redis)
    stack.callback(peer.close)
    if Client(peer.wsgi).get(f"/{NEW}").status_code != 200:
        raise SystemExit(f"{name} begins no session.")
    return stack.enter_context(serve(name, part, folder, database, redis))


def reached(measured: Measured) -> Iterator[tuple[Aim, float]]:
    """What came of each aim. They are those of sessions on PostgreSQL."""
    table = measured.table
    if not PARTS[measured.name].on_sqlite:
        for aim in AIMS:
            other = table[aim.request, aim.other]
            yield aim, table[aim.request, OURS].over(other)


def show(measured: Measured, options: argparse.Namespace) -> None:
    """Print a part as tables."""
    part = PARTS[measured.name]
    least, most = measured.cpu
    print(
        f"\n{measured.name}: gunicorn, {part.workers} workers, threads in each:"
        f" {part.threads}; {'one SQLite file' if part.on_sqlite else 'PostgreSQL'}."
    )
    print(
        f"{options.connections} connections, {options.sessions} sessions of {SIZE}"
        f" bytes, {options.rounds} rounds of {options.seconds:g} s; the load itself"
        f" took {least:.2f} to {most:.2f} of one core.\n"
    )
    first = part.contenders[0]
    print(
        f"{'':31}{'requests/s':>11}{'from':>8}{'to':>8}{'p50 ms':>9}{'p99 ms':>9}"
        f"{'failures':>9}{f'/{first}':>9}{'ours/it':>9}"
    )
    for (request, contender), figures in measured.table.items():
        print(
            f"{request:11}{contender:20}{figures.rate:11,.0f}"
            f"{min(figures.rates):8,.0f}{max(figures.rates):8,.0f}"
            f"{figures.percentile(50):9.2f}{figures.percentile(99):9.2f}"
            f"{figures.failures.total():9,}"
            f"{figures.over(measured.table[request, first]):9.2f}"
            f"{measured.table[request, OURS].over(figures):9.2f}"
        )
    print()
    show_verdict(measured)


def show_verdict(measured: Measured) -> None:
    """Print which aims were met, and what failed."""
    for aim, ratio in reached(measured):
        verdict = "met" if ratio >= aim.least else "NOT MET"
        print(
            f"{aim.request}: {ratio:.2f} times {aim.other}, the aim is"
            f" {aim.least:g}: {verdict}, by {abs(ratio / aim.least - 1):.1%}"
        )
    if PARTS[measured.name].on_sqlite:
        for contender, lines in measured.locked.items():
            print(f'{contender}: {lines:,} lines "{LOCKED}" in the log')
    for figures in measured.table.values():
        for problem, count in figures.failures.most_common(3):
            print(f"  {figures.contender}, {figures.request}: {count:,} x {problem}")
    sys.stdout.flush()


def write(path: Path, measured: list[Measured], options: argparse.Namespace) -> None:
    """Write the figures. Those of other parts, from a run before, are kept."""
    new: dict[str, list[dict[str, Any]]] = {
        "parts": [
            {
                "part": each.name,
                "database": "SQLite" if PARTS[each.name].on_sqlite else "PostgreSQL",
                "workers": PARTS[each.name].workers,
                "threads": PARTS[each.name].threads,
                "connections": options.connections,
                "sessions": options.sessions,
                "seconds": options.seconds,
                "load_cpu": [round(share, 3) for share in each.cpu],
                "locked": each.locked if PARTS[each.name].on_sqlite else None,
            }
            for each in measured
        ],
        "requests": [
            row.document() for each in measured for row in each.table.values()
        ],
        "aims": [
            {
                "part": each.name,
                "request": aim.request,
                "over": aim.other,
                "aim": aim.least,
                "ratio": round(ratio, 3),
                "met": ratio >= aim.least,
            }
            for each in measured
            for aim, ratio in reached(each)
        ],
    }
    old = results.load(path) if path.exists() else {}
    names = [each.name for each in measured]
    figures = {
        key: sorted(
            chain((row for row in old.get(key, []) if row["part"] not in names), rows),
            key=lambda row: list(PARTS).index(row["part"]),
        )
        for key, rows in new.items()
    }
    results.write(
        path,
        results.document(
            "server",
            {"payload_bytes": SIZE, **figures},
            packages=("gunicorn", "Flask-Session", "redis", "psycopg"),
            servers={**old.get("versions", {}), **options.versions},
        ),
    )


# The command line.


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options.

    :param arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "exit code: 0, whether the aims are met or not; 1 if a request to ours\n"
            "failed, or a server that is needed does not run; 2 if the options are\n"
            "wrong. The servers are those of the environment variables\n"
            f"{next(iter(SERVERS))} and {REDIS[0]}, or the local ones."
        ),
    )
    add = parser.add_argument
    add(
        "--part",
        action="append",
        choices=PARTS,
        help="measure only this; may be given more than once (default: all of them)",
    )
    add(
        "--seconds",
        type=seconds,
        default=1.25,
        help="how long each turn is measured (default: %(default)s)",
    )
    add(
        "--rounds",
        type=positive,
        default=5,
        help="how many turns each contender has of each kind (default: %(default)s)",
    )
    add(
        "--connections",
        type=positive,
        default=16,
        help="how many there are to each server, at least one for each worker"
        " (default: %(default)s)",
    )
    add(
        "--sessions",
        type=positive,
        default=500,
        help="how many each contender has, at least one for each connection"
        " (default: %(default)s)",
    )
    add(
        "--quick",
        action="store_true",
        help="one short round, of two parts if nothing else is said, to see whether it"
        " runs: the figures mean nothing",
    )
    add(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures to this file, too; what it has of parts that are not"
        " measured is kept",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.rounds, options.sessions = 0.1, 1, 32
        options.part = options.part or ["threads", "sqlite"]
    options.part = options.part or list(PARTS)
    workers = max(PARTS[name].workers for name in options.part)
    if not workers <= options.connections <= options.sessions:
        parser.error(
            f"--connections has to be from {workers} to the number of --sessions"
        )
    return options


def seconds(text: str) -> float:
    """A time over 0, for argparse."""
    number = float(text)
    if not 0 < number < 3600:
        raise ValueError
    return number


def find_servers(options: argparse.Namespace) -> None:
    """Note the addresses and the versions of the servers that are needed.

    :raises SystemExit: one does not answer.
    """
    options.versions = {"SQLite": sqlite3.sqlite_version}
    if all(PARTS[name].on_sqlite for name in options.part):
        return
    options.redis = redis_url()
    with Redis.from_url(options.redis) as client:
        information: Any = client.info("server")
    options.versions["Redis"] = information["redis_version"]
    options.postgresql = server_urls()[0]
    with own_database(options.postgresql) as url:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        options.versions["PostgreSQL"] = describe(engine).partition(" ")[2]


def main(arguments: list[str] | None = None) -> int:
    """Measure each part. The exit code.

    :param arguments: instead of those of the process.
    """
    options = parse(arguments)
    signal.signal(signal.SIGTERM, terminate)
    measured = []
    try:
        find_servers(options)
        for name in options.part:
            measured.append(measure(name, options))
            show(measured[-1], options)
    except KeyboardInterrupt:
        say("Interrupted; the servers are stopped, their databases are dropped.")
        return 130
    if options.json:
        write(options.json, measured, options)
    return int(
        any(
            figures.failures
            for each in measured
            for figures in each.table.values()
            if figures.contender == OURS
        )
    )


if __name__ == "__main__":
    sys.exit(main())
