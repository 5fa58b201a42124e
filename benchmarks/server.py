"""What sessions cost a whole server: requests a second, and how long they take.

Starts gunicorn once for each contender, each with sessions of its own kind, and loads
one after the other over loopback, in short turns whose order changes from one round to
the next. The parts are in PARTS: 2 workers of one thread and of 8 threads whose
sessions are on PostgreSQL, and 4 workers of one thread and 2 of 8 threads that write to
one SQLite file. With --quick, two of them.

An answer counts if its status is 200 and its body is right: a request that writes
answers with the number of writes to its session, so that one that was lost is noticed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import databases, peers
from benchmarks.databases import NAMES, own_database
from benchmarks.frame import Benchmark, BrokenError, Options, amount, say
from benchmarks.load import Check, Connection, Load, Visitor, connect, load
from benchmarks.measure import Client, call_all
from benchmarks.peers import FLASK_SESSION, NEW, NOTHING, OURS, READ, UNTOUCHED, WRITE
from benchmarks.results import Document
from benchmarks.targets import SIZE

#: Tells a worker which application it has.
VARIABLE = "SESSIONSQL_BENCHMARK_PEER"
APPLICATION = "benchmarks.server:application"
#: Where a worker answers with its name.
WORKER = "/worker"
#: As long as that of ours, for those who have no session.
NO_SESSION = b"session=" + b"0" * 43

CONNECTIONS = 16
#: How long a contender's requests of a kind go on before the first round, and before
#: each turn is measured, in seconds.
WARM_UP = 0.5
LEAD = 0.2
#: How long gunicorn may take to end.
END = 5.0
LOCKED = "database is locked"


@dataclass(frozen=True)
class Part:
    """One of the things that are measured."""

    workers: int
    threads: int
    database: str
    contenders: tuple[str, ...]
    requests: tuple[str, ...]


ALL = (NOTHING, peers.COOKIE, OURS, peers.RAW, peers.FLASK_SESSION_REDIS, FLASK_SESSION)
PARTS = {
    "plain": Part(2, 1, "postgresql", ALL, (UNTOUCHED, READ, WRITE)),
    "threads": Part(2, 8, "postgresql", ALL, (UNTOUCHED, READ, WRITE)),
    "sqlite": Part(4, 1, "sqlite", (OURS, FLASK_SESSION), (WRITE, NEW)),
    "sqlite-threads": Part(2, 8, "sqlite", (OURS, FLASK_SESSION), (WRITE, NEW)),
}
#: With --quick.
TRIED = {"threads", "sqlite"}

#: On PostgreSQL ours is to serve so many times the requests that another one does.
AIMS = (
    (UNTOUCHED, NOTHING, 0.95),
    (READ, peers.COOKIE, 1.0),
    (READ, FLASK_SESSION, 4.0),
    (WRITE, FLASK_SESSION, 2.5),
)


# A worker.


def application() -> peers.WSGIApplication:
    """What gunicorn serves."""
    peer = peer_of(*json.loads(os.environ[VARIABLE]))
    worker = str(os.getpid()).encode()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == WORKER:
            start("200 OK", [("Content-Length", str(len(worker)))])
            return [worker]
        return peer.wsgi(environ, start)

    return answer


def peer_of(name: str, database: str | None, redis: str | None) -> peers.Peer:
    """A contender."""
    url = sa.make_url(database) if database else None
    return peers.make_peer(name, peers.make_payload(SIZE), url, redis)


# A server.


@dataclass
class Served:
    """A contender that is being served, and those who visit it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    port: int
    connections: list[Connection] = field(default_factory=list)

    def said(self) -> str:
        """What gunicorn says."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End gunicorn with its workers."""
        for connection in self.connections:
            connection.close()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(END)
        # A worker that outlived it has nobody else to end it.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def serve(
    name: str, part: Part, folder: Path, database: str | None, redis: str | None
) -> Served:
    """Start a contender's gunicorn."""
    log = folder / f"{name}.log"
    # gunicorn takes the socket over: so nobody else can have the port meanwhile.
    with (
        socket.create_server(("127.0.0.1", 0), backlog=512) as listening,
        log.open("wb") as output,
    ):
        command = [
            *(sys.executable, "-m", "gunicorn", f"--bind=fd://{listening.fileno()}"),
            *("--worker-class=gthread", f"--workers={part.workers}"),
            *(f"--threads={part.threads}", "--keep-alive=600", "--log-level=warning"),
            *("--no-control-socket", f"{APPLICATION}()"),
        ]
        process = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            env={**os.environ, VARIABLE: json.dumps([name, database, redis])},
            pass_fds=[listening.fileno()],
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for the benchmark, which then ends the servers.
            start_new_session=True,
        )
        return Served(name, process, log, listening.getsockname()[1])


@contextmanager
def explained(served: Served) -> Iterator[None]:
    """Show what gunicorn says if the server cannot be loaded."""
    try:
        yield
    except OSError as error:
        raise SystemExit(
            f"{served.name} could not be loaded: {error}\nWhat gunicorn says:\n"
            f"{served.said()[-4000:]}"
        ) from error


# What is requested.


def check_of(name: str, request: str) -> Check:
    """Tells whether a contender's answer to a request is right."""
    if request in {UNTOUCHED, NEW}:
        return lambda visitor, body: body == b"ok"
    if name == NOTHING:
        nothing = b"None None" if request == READ else b"1"
        return lambda visitor, body: body == nothing
    if request == READ:
        return lambda visitor, body: body == b"Ann Example %d" % (visitor.changes + 1)
    return is_written


def is_written(visitor: Visitor, body: bytes) -> bool:
    """Whether this is the next one of the visitor's writes."""
    visitor.changes += 1
    if body == b"%d" % (visitor.changes + 1):
        return True
    # One wrong answer counts once; the next one is compared with it.
    visitor.changes = int(body) - 1 if body.isdigit() else visitor.changes - 1
    return False


def prepare(served: Served, part: Part, options: Options) -> None:
    """Open the connections, begin the sessions, and let each worker do everything."""
    with explained(served):
        served.connections = connect(
            served.port, CONNECTIONS, part.workers, WORKER.encode()
        )
        for number, connection in enumerate(served.connections):
            visitors = [
                Visitor(NO_SESSION)
                for _ in range(number, options.sessions, CONNECTIONS)
            ]
            connection.visitors = visitors
            for visitor in visitors if served.name != NOTHING else ():
                connection.send(b"/" + NEW.encode(), visitor)
                status, _ = connection.receive(visitor)
                if status != b"200" or visitor.cookie == NO_SESSION:
                    raise BrokenError(f"{served.name} begins no session")
    for request in part.requests:
        turn(served, request, min(WARM_UP, options.seconds))


def turn(served: Served, request: str, seconds: float, seed: int = 0) -> Load:
    """Load a server with one kind of requests."""
    with explained(served):
        return load(
            served.connections,
            f"/{request}".encode(),
            check_of(served.name, request),
            seconds=seconds,
            warm_up=min(LEAD, seconds),
            new=request == NEW,
            seed=seed,
        )


# A run.

#: What each turn came to, by request and contender.
Turns = dict[tuple[str, str], list[Load]]


def run(options: Options) -> Iterator[Document]:
    """Measure the parts on the databases that are asked for."""
    for name, part in PARTS.items():
        if part.database in options.database and (name in TRIED or not options.quick):
            turns, locked, versions = measure(part, options)
            shares = [load.cpu for loads in turns.values() for load in loads]
            about = {
                "part": name,
                "database": NAMES[part.database],
                "workers": part.workers,
                "threads": part.threads,
                "connections": CONNECTIONS,
                "sessions": options.sessions,
                "seconds": options.seconds,
                "load_cpu": [round(share, 3) for share in (min(shares), max(shares))],
                "locked": locked if part.database == "sqlite" else None,
            }
            yield {
                "versions": versions,
                "payload_bytes": SIZE,
                "parts": [about],
                "requests": [figures(name, *turn) for turn in turns.items()],
                "aims": list(aims_of(name, part, turns)),
            }


def measure(
    part: Part, options: Options
) -> tuple[Turns, dict[str, int], dict[str, str]]:
    """Measure a part: all turns; for each contender how many lines of the log say that
    a SQLite file was locked; and the versions of the servers.
    """
    say(f"{NAMES[part.database]}, {part.workers} workers: starting the servers")
    turns: Turns = {
        (request, contender): []
        for request in part.requests
        for contender in part.contenders
    }
    redis, versions = None, {}
    if peers.FLASK_SESSION_REDIS in part.contenders:
        redis, versions["Redis"] = databases.redis_server()
    with ExitStack() as stack:
        folder = stack.enter_context(databases.own_directory())
        servers = []
        for contender in part.contenders:
            database = None
            if contender in peers.ON_SQL:
                url = stack.enter_context(own_database(part.database))
                name, version = databases.described(url).split()
                versions[name] = version
                database = databases.address(url)
            # The first request of all creates the table; two workers would do so at
            # once.
            peer = peer_of(contender, database, redis)
            stack.callback(peer.close)
            call_all(peer.wsgi, [Client(None).environ(NEW)])
            servers.append(serve(contender, part, folder, database, redis))
            stack.callback(servers[-1].stop)
        for served in servers:
            prepare(served, part, options)
        for number in range(options.rounds):
            say(f"  round {number + 1} of {options.rounds}")
            for request in part.requests:
                # Each one is first, second and so on in its turn.
                first = number % len(servers)
                for served in (*servers[first:], *servers[:first]):
                    loaded = turn(served, request, options.seconds, number)
                    turns[request, served.name].append(loaded)
        locked = {served.name: served.said().count(LOCKED) for served in servers}
    return turns, locked, versions


def figures(part: str, which: tuple[str, str], loads: list[Load]) -> dict[str, Any]:
    """What one contender's requests of one kind came to: the rate of the median round,
    and how long the requests of all rounds took.
    """
    latencies = [took for load in loads for took in load.latencies]
    percentiles = statistics.quantiles(latencies or [0.0, 0.0], n=100)
    failures = sum((load.failures for load in loads), Counter())
    return {
        "part": part,
        "request": which[0],
        "contender": which[1],
        "requests_per_second": round(statistics.median(load.rate for load in loads), 1),
        "p50_ms": round(percentiles[49], 3),
        "p99_ms": round(percentiles[98], 3),
        "failures": failures.total(),
        "kinds_of_failures": dict(failures.most_common(5)),
    }


def aims_of(name: str, part: Part, turns: Turns) -> Iterator[dict[str, Any]]:
    """What came of each aim: how many times the requests of another one, in the median
    round.
    """
    for request, other, least in AIMS if part.database == "postgresql" else ():
        pairs = zip(turns[request, OURS], turns[request, other], strict=True)
        ratio = statistics.median(
            mine.rate / (theirs.rate or float("nan")) for mine, theirs in pairs
        )
        yield {
            "part": name,
            "request": request,
            "over": other,
            "aim": least,
            "ratio": round(ratio, 3),
            "met": ratio >= least,
        }


def faults(document: Document) -> list[str]:
    """The requests to ours that failed."""
    return [
        f"{row['part']}, {row['request']}: {row['failures']} requests to ours failed:"
        f" {row['kinds_of_failures']}"
        for row in document["requests"]
        if row["contender"] == OURS and row["failures"]
    ]


BENCHMARK = Benchmark(
    "server",
    __doc__,
    run,
    databases=("postgresql", "sqlite"),
    options={
        "--rounds": amount("how many turns each contender has of each kind", 5),
        "--seconds": amount("how long each turn is measured", 1.25, 0.01),
        "--sessions": amount(
            "how many each contender has, one for each connection or more",
            500,
            CONNECTIONS,
        ),
    },
    quick={"rounds": 1, "seconds": 0.1, "sessions": 32},
    packages=("gunicorn", "Flask-Session", "redis", "psycopg"),
    faults=faults,
)
