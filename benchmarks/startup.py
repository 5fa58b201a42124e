"""What it takes to start an application with sessions, and whether it stays as it was.

times   imports each package in fresh processes, one after the other in turn, calls
        Session(app) on an application that is there already, and makes a first request
        that writes its session. Flask and Flask-SQLAlchemy, which all need, are
        imported before. The memory of those processes is shown beside.
memory  makes requests of all kinds in one process, from one thread and from four, and
        looks now and then at what the process takes, at how many blocks of memory
        Python's objects have (and bytes, with --trace), at open files and at open
        connections.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask, session
from werkzeug.test import EnvironBuilder, run_wsgi_app

from benchmarks import results
from benchmarks.commands import positive, say, terminate
from benchmarks.databases import (
    KEY,
    SQLITE,
    backend,
    describe,
    own_database,
    redis_url,
    server_urls,
)
from flask_sessionsql import FlaskSQLAlchemySessionInterface, Session

PARTS = ("times", "memory")
OURS, FLASK_SESSION, ON_REDIS, NEITHER = CONTENDERS = (
    "Flask-SessionSql",
    "Flask-Session",
    "Flask-Session on Redis",
    "neither",
)
MODULES = {OURS: "flask_sessionsql", NEITHER: ""}

processes = multiprocessing.get_context("spawn")


# The time to start.

#: One start, in a process of its own, which imports nothing else before. Its arguments
#: are the package, the address of the database, and the session's settings. It answers
#: with seconds, and with bytes of resident memory at the end of each step.
START = """
import json, os, sys, time
clock = time.perf_counter
module, url, kind, redis_url = sys.argv[1:]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

begun = clock()
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy
common = clock()
before = resident()
Session = getattr(__import__(module), "Session") if module else lambda app: None
imported = clock()
app = Flask("benchmark")
app.config.update(SECRET_KEY="a key", SQLALCHEMY_DATABASE_URI=url)
db = SQLAlchemy(app)
with app.app_context():
    db.engine
app.config.update(SESSION_TYPE=kind or None)
if module == "flask_session":
    app.config.update(SESSION_SQLALCHEMY=db)
    if redis_url:
        from redis import Redis
        app.config.update(SESSION_REDIS=Redis.from_url(redis_url))

@app.get("/")
def write():
    session["visits"] = 1
    return "ok"

made = clock()
Session(app)
set_up = clock()
answer = app.test_client().get("/")
served = clock()
assert answer.status_code == 200, answer.text
print(json.dumps({
    "common": common - begun,
    "import": imported - common,
    "session": set_up - made,
    "start": imported - common + set_up - made,
    "total": set_up - begun,
    "request": served - set_up,
    "resident": resident(),
    "resident_over": resident() - before,
}))
"""
#: What is shown of a start: its name in the answer, and what it is called.
STEPS = {
    "import": "import",
    "session": "Session(app)",
    "start": "both",
    "request": "first request",
    "total": "all, Flask included",
}


@dataclass
class Start:
    """What it took one contender to start: medians, in milliseconds and MiB."""

    database: str
    contender: str
    milliseconds: dict[str, float]
    resident: float


def compiled_once() -> dict[str, str]:
    """The environment of the processes: what they import is compiled in the first one,
    as where it is installed.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE"
    }


def start_once(contender: str, url: str, redis: str) -> dict[str, float]:
    """One start in a fresh process."""
    module = MODULES.get(contender, "flask_session")
    kind = {OURS: "flask-sqlalchemy", FLASK_SESSION: "sqlalchemy", ON_REDIS: "redis"}
    arguments = [module, url, kind.get(contender, ""), redis]
    if contender != ON_REDIS:
        arguments[-1] = ""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=compiled_once(),
    )
    if found.returncode:
        raise SystemExit(f"{contender} did not start:\n{found.stderr.strip()}")
    answer = json.loads(found.stdout)
    assert isinstance(answer, dict)
    return answer


def starts(database: str, url: sa.URL, redis: str, rounds: int) -> list[Start]:
    """Start all contenders in turn, so many times, and once before to warm up."""
    address = url.render_as_string(hide_password=False)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):
        say(f"{database}: start {number} of {rounds}")
        for name in CONTENDERS:
            answer = start_once(name, address, redis)
            if number:
                found[name].append(answer)
    return [
        Start(
            database,
            name,
            {
                step: 1000 * statistics.median(each[step] for each in answers)
                for step in ("common", *STEPS)
            },
            statistics.median(each["resident"] for each in answers) / 2**20,
        )
        for name, answers in found.items()
    ]


def show_starts(found: Sequence[Start]) -> None:
    """Print the starts on one database as a table."""
    print(f"\n{found[0].database}: milliseconds, medians; MiB resident at the end\n")
    print(
        f"{'':24}" + "".join(f"{text:>21}" for text in STEPS.values()) + f"{'MiB':>9}"
    )
    for each in found:
        steps = "".join(f"{each.milliseconds[step]:21.1f}" for step in STEPS)
        print(f"{each.contender:24}{steps}{each.resident:9.1f}", flush=True)


def show_imports(most: int) -> None:
    """Print which modules take the longest to import, as Python says itself."""
    code = "import flask, flask_sqlalchemy; print('-', flush=True); import sys\n"
    code += "print('-', file=sys.stderr, flush=True); import flask_sessionsql"
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=compiled_once(),
    )
    lines = found.stderr.split("\n-\n", 1)[1].splitlines()
    times = []
    for line in lines:
        own, everything, name = line.removeprefix("import time:").split("|")
        times.append((int(own) / 1000, int(everything) / 1000, name.strip()))
    print("\nThe modules that take the longest to import: milliseconds of their own,")
    print("and with what they import; measuring takes time, too\n")
    for own_time, everything_time, name in sorted(times, reverse=True)[:most]:
        print(f"{own_time:9.1f}{everything_time:9.1f}  {name}", flush=True)


# The memory.

#: Requests of each kind in a hundred.
MIX = {
    "anonymous": 20,
    "untouched": 25,
    "read": 25,
    "write": 15,
    "new": 5,
    "login": 5,
    "logout": 5,
}
#: How far what is taken may have grown at the end, along its slope: bytes, and blocks
#: of Python's. Over 100,000 requests, that is 10 bytes of resident memory a request, or
#: an object in 50 requests.
ALLOWED = {"resident": 2**20, "traced": 2**17, "blocks": 2_000}
#: What is counted, and may not grow at all.
COUNTED = ("files", "connections")


@dataclass
class Sample:
    """What a process took after so many requests."""

    requests: int
    resident: int
    #: Bytes that Python has allocated and not freed; ``None`` where not traced.
    traced: int | None
    #: How many blocks of memory Python's objects take.
    blocks: int
    files: int
    connections: int


@dataclass
class Memory:
    """How one process fared. The first sample was taken after the warm-up."""

    database: str
    threads: int
    samples: list[Sample]

    def slope(self, name: str) -> float | None:
        """How many bytes more each request left: the straight line through all."""
        values = [getattr(each, name) for each in self.samples]
        if None in values:
            return None
        numbers = [each.requests for each in self.samples]
        return statistics.linear_regression(numbers, values).slope

    def grown(self) -> list[str]:
        """What has grown by more than is allowed."""
        first, last = self.samples[0], self.samples[-1]
        made = last.requests - first.requests
        found = [
            name
            for name, allowed in ALLOWED.items()
            if (self.slope(name) or 0) * made > allowed
        ]
        return found + [
            name for name in COUNTED if getattr(last, name) > getattr(first, name)
        ]


def make_app(url: str) -> Flask:
    """The application whose memory is watched."""
    app = Flask("benchmark")
    app.config.update(
        SECRET_KEY=KEY,
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI=url,
    )
    Session(app)

    @app.get("/untouched")
    def untouched() -> str:
        return "ok"

    @app.get("/read")
    def read() -> str:
        return str(session.get("visits"))

    @app.get("/write")
    def write() -> str:
        session["visits"] = session.get("visits", 0) + 1
        return "ok"

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["_user_id"] = name
        return "ok"

    @app.get("/logout")
    def logout() -> str:
        session.clear()
        return "ok"

    return app


class Visitors:
    """Make requests of all kinds, with the sessions of a few browsers."""

    def __init__(self, app: Flask, seed: int) -> None:
        self._wsgi = app.wsgi_app
        self._chance = random.Random(seed)
        self._kinds = [kind for kind, share in MIX.items() for _ in range(share)]
        self._environ = EnvironBuilder().get_environ()
        #: The sessions that wait for their logout: the table stays as large as it is.
        self._begun: deque[str] = deque()
        self._cookies: list[str | None] = [None] * 20

    def visit(self) -> None:
        """One request."""
        kind = self._chance.choice(self._kinds)
        number = self._chance.randrange(len(self._cookies))
        if kind == "anonymous":
            self._request("/read", None)
        elif kind == "new":
            self._begun.append(self._request("/write", None) or "")
        elif kind == "logout":
            if self._begun:
                self._request("/logout", self._begun.popleft())
        else:
            cookie = self._cookies[number] or self._request("/write", None)
            user = self._chance.randrange(1000)
            path = f"/login/{user}" if kind == "login" else f"/{kind}"
            self._cookies[number] = self._request(path, cookie) or cookie

    def _request(self, path: str, cookie: str | None) -> str | None:
        """Make a request. The session's cookie in the answer, if there is one."""
        environ = {**self._environ, "PATH_INFO": path}
        if cookie is not None:
            environ["HTTP_COOKIE"] = cookie
        _, status, headers = run_wsgi_app(self._wsgi, environ, buffered=True)
        if not status.startswith("200"):
            raise RuntimeError(f"{path} was answered with {status}")
        found = headers.get("Set-Cookie")
        return found and found.partition(";")[0]


def watch(
    url: str, threads: int, step: int, steps: int, traces: bool, answer: Connection
) -> None:
    """The process whose memory is watched: one step to warm up, and then the steps."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    app = make_app(url)
    visitors = [Visitors(app, seed) for seed in range(threads)]
    if traces:
        tracemalloc.start()
    for number in range(1, steps + 2):
        at_once([each.visit for each in visitors], step // threads)
        answer.send(sample(app, number * step))
    answer.send(None)


def at_once(visits: Sequence[Callable[[], None]], times: int) -> None:
    """Let each make so many requests, in threads if there is more than one."""
    if len(visits) == 1:
        for _ in range(times):
            visits[0]()
        return
    errors: list[BaseException] = []

    def work(visit: Callable[[], None]) -> None:
        try:
            for _ in range(times):
                visit()
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=[visit]) for visit in visits]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def sample(app: Flask, requests: int) -> Sample:
    """What this process takes now."""
    gc.collect()
    interface = app.session_interface
    assert isinstance(interface, FlaskSQLAlchemySessionInterface)
    pool: Any = interface.records(app).store.engine.pool
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        requests=requests,
        resident=pages * os.sysconf("SC_PAGE_SIZE"),
        traced=tracemalloc.get_traced_memory()[0] if tracemalloc.is_tracing() else None,
        blocks=sys.getallocatedblocks(),
        files=len(os.listdir("/proc/self/fd")),
        connections=pool.checkedin() + pool.checkedout(),
    )


@dataclass
class Watched:
    """A process whose memory is watched."""

    database: str
    threads: int
    process: Any
    receiver: Connection


def begin_memory(
    database: str, url: sa.URL, threads: int, options: argparse.Namespace
) -> Watched:
    """Begin to watch a process."""
    receiver, sender = processes.Pipe(duplex=False)
    address = url.render_as_string(hide_password=False)
    steps = options.requests // options.step
    arguments = (address, threads, options.step, steps, options.trace, sender)
    process = processes.Process(target=watch, args=arguments, daemon=True)
    process.start()
    sender.close()
    return Watched(database, threads, process, receiver)


def memory(watched: Watched) -> Memory:
    """Wait for a process, and what became of its memory."""
    samples: list[Sample] = []
    name = f"{watched.database}, threads: {watched.threads}"
    try:
        while (found := watched.receiver.recv()) is not None:
            samples.append(found)
            say(f"{name}: {found.requests:,} requests")
    except EOFError:
        raise SystemExit("The process whose memory was watched broke down.") from None
    watched.process.join()
    return Memory(watched.database, watched.threads, samples)


def show_memory(found: Memory) -> None:
    """Print how a process fared."""
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    print(f"\n{found.database}, {threads}; KiB, and how many\n")
    titles = f"{'resident':>12}{'traced':>12}{'blocks':>12}{'files':>8}"
    print(f"{'requests':>10}{titles}{'connections':>13}")
    for each in found.samples:
        traced = "-" if each.traced is None else f"{each.traced / 1024:,.0f}"
        print(
            f"{each.requests:10,}{each.resident / 1024:12,.0f}{traced:>12}"
            f"{each.blocks:12,}{each.files:8}{each.connections:13}"
        )
    for name in ALLOWED:
        slope = found.slope(name)
        if slope is not None:
            unit = "blocks" if name == "blocks" else "bytes"
            print(f"{name}: {slope:+.3f} {unit} a request")
    for name in found.grown():
        print(f"GROWN: {name}")
    sys.stdout.flush()


# A run.


@contextmanager
def places() -> Iterator[list[tuple[str, sa.URL]]]:
    """SQLite and PostgreSQL, each with a database of our own: name and address."""
    postgresql = next(url for url in server_urls() if backend(url) == "postgresql")
    with own_database(sa.make_url(SQLITE)) as lite, own_database(postgresql) as ours:
        found = []
        for url in (lite, ours):
            engine = sa.create_engine(url)
            found.append((describe(engine), url))
            engine.dispose()
        yield found


def run(options: argparse.Namespace) -> tuple[list[Start], list[Memory]]:
    """Measure all that is asked for."""
    begun: list[Start] = []
    fared: list[Memory] = []
    redis = redis_url() if "times" in options.parts else ""
    with places() as found:
        if "times" in options.parts:
            for name, url in found:
                these = starts(name, url, redis, options.rounds)
                show_starts(these)
                begun += these
            if options.imports:
                show_imports(options.imports)
        if "memory" in options.parts:
            for threads in (1, 4):
                fared += watch_all(found, threads, options)
    return begun, fared


def watch_all(
    found: Sequence[tuple[str, sa.URL]], threads: int, options: argparse.Namespace
) -> Iterator[Memory]:
    """Watch a process on each database, all at once: no time is measured."""
    watched: list[Watched] = []
    try:
        for name, url in found:
            watched.append(begin_memory(name, url, threads, options))
        for each in watched:
            fared = memory(each)
            show_memory(fared)
            yield fared
    finally:
        for each in watched:
            if each.process.is_alive():
                each.process.kill()


# The command line.


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options.

    :param arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "The servers are those of SESSIONSQL_POSTGRESQL_URL and"
            " SESSIONSQL_REDIS_URL, or the local ones.\n\nexit code: 0; 1 if memory,"
            " open files or connections grew, or something could not be\nmeasured; 2"
            " if the options are wrong; 130 after Ctrl-C"
        ),
    )
    add = parser.add_argument
    add(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"{' or '.join(PARTS)} (default: both)",
    )
    add(
        "--rounds",
        type=positive,
        default=9,
        help="how often each contender is started (default: %(default)s)",
    )
    add(
        "--imports",
        type=positive,
        metavar="N",
        help="show the N modules that take the longest to import, too",
    )
    add(
        "--requests",
        type=positive,
        default=100_000,
        help="how many requests a process gets after its warm-up (default:"
        " %(default)s)",
    )
    add(
        "--step",
        type=positive,
        default=10_000,
        help="how many requests there are from one look at the memory to the next, and"
        " in the warm-up (default: %(default)s)",
    )
    add(
        "--trace",
        action="store_true",
        help="let tracemalloc count the bytes that Python allocates, too; the memory"
        " takes more than twice the time then",
    )
    add("--quick", action="store_true", help="a try of a few seconds; proves nothing")
    add("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    options.parts = options.parts or list(PARTS)
    if options.quick:
        options.rounds, options.requests, options.step = 1, 400, 200
        options.trace = True
    if options.requests < 2 * options.step:
        parser.error("--requests has to be twice --step at least")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure, and show what it came to. The exit code.

    :param arguments: instead of those of the process.
    """
    options = parse(arguments)
    signal.signal(signal.SIGTERM, terminate)
    try:
        begun, fared = run(options)
    except KeyboardInterrupt:
        say("Interrupted; the databases of the benchmark are dropped.")
        return 130
    if options.json:
        figures = {
            "quick": options.quick,
            "rounds": options.rounds,
            "starts": [asdict(each) for each in begun],
            "memory": [
                {
                    **asdict(each),
                    "slopes": {name: each.slope(name) for name in ALLOWED},
                    "grown": each.grown(),
                }
                for each in fared
            ],
        }
        packages = ("Flask-Session", "psycopg", "redis")
        results.write(
            options.json, results.document("startup", figures, packages=packages)
        )
    # A try of a few seconds is all warm-up.
    return int(not options.quick and any(each.grown() for each in fared))


if __name__ == "__main__":
    sys.exit(main())
