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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from benchmarks import databases, peers, terms
from benchmarks.databases import NAMES, own_database
from benchmarks.frame import Benchmark, BrokenError, Options, amount, say
from benchmarks.load import Check, Connection, Load, Visitor, connect, load
from benchmarks.measure import Client, call_all
from benchmarks.terms import NEW, OURS, READ, SIZE, UNTOUCHED, WRITE

#: Tells a worker which application it has.
VARIABLE = "SESSIONSQL_BENCHMARK_PEER"
APPLICATION = "benchmarks.server:application()"
#: Where a worker answers with its name.
WORKER = "/worker"
#: As long as that of ours, for those who have no session.
NO_SESSION = b"session=" + b"0" * 43

CONNECTIONS = 16
#: Seconds of requests before the first round, and before each turn is measured.
WARM_UP, LEAD = 0.5, 0.2


@dataclass(frozen=True)
class Part:
    """One of the things that are measured."""

    workers: int
    threads: int
    database: str
    contenders: tuple[str, ...]
    requests: tuple[str, ...]


ON_FILES = (OURS, terms.OURS_ROLLBACK, terms.FLASK_SESSION)
PARTS = {
    "plain": Part(2, 1, "postgresql", terms.ON_FLASK, (UNTOUCHED, READ, WRITE)),
    "threads": Part(2, 8, "postgresql", terms.ON_FLASK, (UNTOUCHED, READ, WRITE)),
    "sqlite": Part(4, 1, "sqlite", ON_FILES, (WRITE, NEW)),
    "sqlite-threads": Part(2, 8, "sqlite", ON_FILES, (WRITE, NEW)),
}

#: On PostgreSQL ours is to serve so many times the requests that another one does.
AIMS = (
    (UNTOUCHED, terms.NOTHING, 0.95),
    (READ, terms.COOKIE, 1.0),
    (READ, terms.FLASK_SESSION, 4.0),
    (WRITE, terms.FLASK_SESSION, 2.5),
)


def application() -> peers.WSGIApplication:
    """What gunicorn serves."""
    wsgi = peer_of(*json.loads(os.environ[VARIABLE])).wsgi
    worker = str(os.getpid()).encode()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != WORKER:
            return wsgi(environ, start)
        start("200 OK", [("Content-Length", str(len(worker)))])
        return [worker]

    return answer


def peer_of(name: str, database: str | None, redis: str | None) -> peers.Peer:
    """A contender."""
    url = sa.make_url(database) if database else None
    return peers.make_peer(name, terms.make_payload(SIZE), url, redis)


class Served:
    """A contender's gunicorn, and those who visit it.

    :param which: what :func:`peer_of` is given, the name first.
    :param folder: where its log goes.
    """

    def __init__(self, part: Part, folder: str, *which: str | None) -> None:
        self.name = str(which[0])
        self.log = Path(folder, f"{self.name}.log")
        self.connections: list[Connection] = []
        # gunicorn takes the socket over: so nobody else can have the port meanwhile.
        with (
            socket.create_server(("127.0.0.1", 0), backlog=512) as listening,
            self.log.open("wb") as output,
        ):
            self.port = listening.getsockname()[1]
            command = (
                f"gunicorn --bind=fd://{listening.fileno()} --worker-class=gthread"
                f" --workers={part.workers} --threads={part.threads} --keep-alive=600"
                f" --log-level=warning --no-control-socket {APPLICATION}"
            )
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command.split()],
                cwd=Path(__file__).parents[1],
                env={**os.environ, VARIABLE: json.dumps(which)},
                pass_fds=[listening.fileno()],
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the benchmark, which then ends the servers.
                start_new_session=True,
            )

    def said(self) -> str:
        """What gunicorn says."""
        return self.log.read_text(errors="replace")

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Show what gunicorn says if the server cannot be loaded."""
        try:
            yield
        except OSError as error:
            raise SystemExit(
                f"{self.name} could not be loaded: {error}\nWhat gunicorn says:\n"
                f"{self.said()[-4000:]}"
            ) from error

    def prepare(self, workers: int, sessions: int) -> None:
        """Open the connections, and begin sessions for each."""
        with self.explained():
            self.connections = connect(self.port, CONNECTIONS, workers, WORKER.encode())
            for connection in self.connections:
                visitors = [Visitor() for _ in range(-(-sessions // CONNECTIONS))]
                connection.visitors = visitors
                for visitor in visitors:
                    connection.send(b"/" + NEW.encode(), visitor)
                    status, _ = connection.receive(visitor)
                    if self.name == terms.NOTHING:
                        visitor.cookie = NO_SESSION
                    if status != b"200" or not visitor.cookie:
                        raise BrokenError(f"{self.name} begins no session")

    def turn(self, request: str, seconds: float, seed: int = 0) -> Load:
        """Load the server with one kind of requests."""
        with self.explained():
            return load(
                self.connections,
                f"/{request}".encode(),
                check_of(self.name, request),
                seconds=seconds,
                warm_up=min(LEAD, seconds),
                new=request == NEW,
                seed=seed,
            )

    def stop(self) -> None:
        """End gunicorn with its workers."""
        for connection in self.connections:
            connection.socket.close()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        # A worker that outlived it has nobody else to end it.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def check_of(name: str, request: str) -> Check:
    """Tells whether a contender's answer to a request is right."""
    expected = {READ: b"Ann Example %d", WRITE: b"%d"}
    if name == terms.NOTHING:
        expected = {READ: b"None None", WRITE: b"1"}
    right = expected.get(request, b"ok")

    def check(visitor: Visitor, body: bytes) -> bool:
        visitor.changes += request == WRITE
        if body == (right % (visitor.changes + 1) if b"%" in right else right):
            return True
        # One wrong answer counts once; the next one is compared with it.
        visitor.changes = int(body) - 1 if body.isdigit() else visitor.changes - 1
        return False

    return check


#: What each turn came to, by request and contender.
Turns = dict[tuple[str, str], list[Load]]


def run(options: Options) -> Iterator[dict[str, Any]]:
    """Measure the parts on the databases that are asked for."""
    for name in ("threads", "sqlite") if options.quick else PARTS:
        part = PARTS[name]
        if part.database not in options.database:
            continue
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
        requests, faults = [], []
        for (request, contender), loads in turns.items():
            which = {"part": name, "request": request, "contender": contender}
            requests.append({**which, **figures(loads)})
            failures = [failure for load in loads for failure in load.failures]
            if contender == OURS and failures:
                faults.append(f"{name}: /{request} to ours failed: {failures[:3]}")
        aims = []
        for request, other, least in AIMS if part.database == "postgresql" else ():
            pairs = zip(turns[request, OURS], turns[request, other], strict=True)
            ratio = statistics.median(ours.rate / each.rate for ours, each in pairs)
            aim = {"part": name, "request": request, "over": other, "aim": least}
            aims.append({**aim, "ratio": round(ratio, 3), "met": ratio >= least})
        yield {
            "versions": versions,
            "payload_bytes": SIZE,
            "parts": [about],
            "requests": requests,
            "aims": aims,
            "faults": faults,
        }


def figures(loads: Sequence[Load]) -> dict[str, Any]:
    """What all turns of one kind came to: the rate is that of the median round."""
    latencies = [took for load in loads for took in load.latencies]
    percentiles = statistics.quantiles(latencies or [0.0, 0.0], n=100)
    return {
        "requests_per_second": round(statistics.median(load.rate for load in loads), 1),
        "p50_ms": round(percentiles[49], 3),
        "p99_ms": round(percentiles[98], 3),
        "failures": sum(len(load.failures) for load in loads),
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
    redis, version = databases.redis_server()
    versions = {"Redis": version}
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="sessionsql_benchmark_"))
        servers = []
        for contender in part.contenders:
            database = None
            if contender in terms.ON_SQL:
                url = stack.enter_context(own_database(part.database))
                name, version = databases.described(url).split()
                versions[name] = version
                database = databases.address(url)
            # The first request of all creates the table; two workers would do so at
            # once.
            peer = peer_of(contender, database, redis)
            stack.callback(peer.close)
            call_all(peer.wsgi, [Client().environ(NEW)])
            servers.append(Served(part, folder, contender, database, redis))
            stack.callback(servers[-1].stop)
        for served in servers:
            served.prepare(part.workers, options.sessions)
            # Each worker does everything before it counts.
            for request in part.requests:
                served.turn(request, min(WARM_UP, options.seconds))
        for number in range(options.rounds):
            say(f"  round {number + 1} of {options.rounds}")
            for request in part.requests:
                # Each one is first, second and so on in its turn.
                first = number % len(servers)
                for served in (*servers[first:], *servers[:first]):
                    loaded = served.turn(request, options.seconds, number)
                    turns[request, served.name].append(loaded)
        said = {served.name: served.said() for served in servers}
        locked = {name: log.count("database is locked") for name, log in said.items()}
    return turns, locked, versions


BENCHMARK = Benchmark(
    "server",
    __doc__,
    run,
    databases=("postgresql", "sqlite"),
    options={
        "--rounds": amount("how many turns each contender has of each kind", 5),
        "--seconds": amount("how long each turn is measured", 1.25, 0.01),
        "--sessions": amount("how many each contender has", 500, CONNECTIONS),
    },
    quick={"rounds": 1, "seconds": 0.1, "sessions": 32},
    packages=("gunicorn", "Flask-Session", "redis", "psycopg"),
)
