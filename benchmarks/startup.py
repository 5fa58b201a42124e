"""What it takes to start an application with sessions, and whether it stays as it was.

times   imports each package in fresh processes, one after the other in turn, calls
        Session(app) on an application that is there already, and makes a first request
        that writes its session. Flask and Flask-SQLAlchemy, which all need, are
        imported before. The memory of those processes is shown beside.
memory  makes requests of all kinds in one process, from one thread and from four, and
        looks now and then at what the process takes, at how many blocks of memory
        Python's objects have, at open files and at open connections.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import peers
from benchmarks.databases import address, described, own_database, redis_server
from benchmarks.frame import Benchmark, BrokenError, Options, amount, begin, say
from benchmarks.measure import Client, call_all
from benchmarks.peers import LOGIN, NEW, SIZE
from benchmarks.tables import STEPS

#: What is started: its name, its module, and its SESSION_TYPE.
CONTENDERS = (
    ("Flask-SessionSql", "flask_sessionsql", "flask-sqlalchemy"),
    ("Flask-Session", "flask_session", "sqlalchemy"),
    ("Flask-Session on Redis", "flask_session", "redis"),
    ("neither", "", ""),
)


#: One start, in a process of its own, which imports nothing else before. Its arguments
#: are the module, the address of the database, SESSION_TYPE, and the address of Redis.
#: It answers with seconds, and with the bytes of resident memory at the end.
START = """
import json, os, sys, time
clock = time.perf_counter
module, url, kind, redis_url = sys.argv[1:]
begun = clock()
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy
common = clock()
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
    if kind == "redis":
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
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[1])
print(json.dumps({
    "import": imported - common,
    "session": set_up - made,
    "start": imported - common + set_up - made,
    "total": set_up - begun,
    "request": served - set_up,
    "resident": pages * os.sysconf("SC_PAGE_SIZE"),
}))
"""


def start_once(name: str, module: str, kind: str, url: str, redis: str) -> Any:
    """One start in a fresh process."""
    # What it imports is compiled in the first one, as where it is installed.
    env = dict(os.environ)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START, module, url, kind, redis],
        capture_output=True,
        text=True,
        check=False,
        env=env,
    )
    if found.returncode:
        raise BrokenError(f"{name} did not start:\n{found.stderr.strip()}")
    return json.loads(found.stdout)


def starts(
    database: str, url: sa.URL, redis: str, rounds: int
) -> Iterator[dict[str, Any]]:
    """Start all contenders in turn, so many times, and once before to warm up: the
    medians, in milliseconds and MiB.
    """
    found: dict[str, list[Any]] = {name: [] for name, _, _ in CONTENDERS}
    for turn in range(rounds + 1):
        say(f"{database}: start {turn} of {rounds}")
        for contender in CONTENDERS:
            answer = start_once(*contender, address(url), redis)
            if turn:
                found[contender[0]].append(answer)
    for name, answers in found.items():
        medians = {
            key: statistics.median(answer[key] for answer in answers)
            for key in answers[0]
        }
        yield {
            "database": database,
            "contender": name,
            "milliseconds": {step: 1000 * medians[step] for step in STEPS},
            "resident": medians["resident"] / 2**20,
        }


#: Requests of each kind in a hundred.
MIX = {peers.ANONYMOUS: 20, peers.UNTOUCHED: 25, peers.READ: 25, peers.WRITE: 15}
MIX |= {NEW: 5, LOGIN: 5, peers.LOGOUT: 5}
#: How far what is taken may have grown at the end, along its slope: bytes, and blocks
#: of Python's. Over 100,000 requests, that is 10 bytes of resident memory a request, or
#: an object in 50 requests.
ALLOWED = {"resident": 2**20, "blocks": 2_000}
#: What is counted, and may not grow at all.
COUNTED = ("files", "connections")


def visit(peer: peers.Peer, seed: int) -> Iterator[None]:
    """Make one request after the other, with the sessions of a few browsers."""
    chance = random.Random(seed)

    def ask(kind: str, client: Client) -> Client:
        """Make a request, and keep the cookie that the answer sets."""
        [answer] = call_all(peer.wsgi, [client.environ(kind)])
        if answer.status != "200 OK":
            raise BrokenError(f"/{kind} was answered with {answer.status}")
        client.cookie = answer.cookie or client.cookie
        return client

    clients = [ask(NEW, Client()) for _ in range(20)]
    # What waits for its login, and for its logout: the table stays as large as it is.
    begun, logged_in = [ask(NEW, Client())], [ask(LOGIN, ask(NEW, Client()))]
    while True:
        [kind] = chance.choices(list(MIX), list(MIX.values()))
        if kind == NEW:
            begun.append(ask(NEW, Client()))
        elif kind == LOGIN and begun:
            logged_in.append(ask(LOGIN, begun.pop()))
        elif kind == peers.LOGOUT and logged_in:
            ask(kind, logged_in.pop())
        elif kind not in {LOGIN, peers.LOGOUT}:
            ask(kind, chance.choice(clients))
        yield


def watch(url: str, threads: int, step: int, steps: int, answer: Connection) -> None:
    """The process whose memory is watched: one step to warm up, and then the steps."""
    peer = peers.make_peer(peers.OURS, peers.make_payload(SIZE), sa.make_url(url))
    visitors = [visit(peer, seed) for seed in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        for number in range(1, steps + 2):
            list(
                pool.map(lambda each: deque(islice(each, step // threads), 0), visitors)
            )
            gc.collect()
            assert peer.engine is not None
            of_pool: Any = peer.engine.pool
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sample = {
                "requests": number * step,
                "resident": pages * os.sysconf("SC_PAGE_SIZE"),
                "blocks": sys.getallocatedblocks(),
                "files": len(os.listdir("/proc/self/fd")),
                "connections": of_pool.checkedin() + of_pool.checkedout(),
            }
            answer.send(sample)
    answer.send(None)


def memory(
    places: Sequence[tuple[str, sa.URL]], threads: int, options: Options
) -> Iterator[dict[str, Any]]:
    """Watch a process on each database, all at once: no time is measured."""
    steps = max(1, options.requests // options.step)
    with ExitStack() as stack:
        pipes = [
            begin(stack, watch, address(url), threads, options.step, steps)
            for _, url in places
        ]
        for (database, _), pipe in zip(places, pipes, strict=True):
            samples = []
            try:
                while (found := pipe.recv()) is not None:
                    samples.append(found)
                    say(f"{database}, threads: {threads}: {found['requests']:,}")
            except EOFError:
                raise BrokenError("the process that is watched broke down") from None
            # The straight line through all; the first one was taken after the warm-up.
            requests = [each["requests"] for each in samples]
            slopes = {
                name: statistics.linear_regression(
                    requests, [each[name] for each in samples]
                ).slope
                for name in ALLOWED
            }
            grown = [
                name
                for name, most in ALLOWED.items()
                if slopes[name] * (requests[-1] - requests[0]) > most
            ]
            grown += [name for name in COUNTED if samples[-1][name] > samples[0][name]]
            yield {
                "database": database,
                "threads": threads,
                "samples": samples,
                "slopes": slopes,
                "grown": grown,
            }


def run(options: Options) -> Iterator[dict[str, Any]]:
    """Measure on SQLite and PostgreSQL: all starts, and then the memory."""
    redis, _ = redis_server()
    with ExitStack() as stack:
        urls = [
            stack.enter_context(own_database(kind)) for kind in ("sqlite", "postgresql")
        ]
        places = [(described(url), url) for url in urls]
        for name, url in places:
            found = list(starts(name, url, redis, options.rounds))
            yield {"rounds": options.rounds, "starts": found}
        found = [fared for n in (1, 4) for fared in memory(places, n, options)]
        # A try of a few seconds is all warm-up.
        grown = [
            f"{each['database']}: grown: {each['grown']}"
            for each in found
            if each["grown"]
        ]
        yield {"memory": found, "faults": [] if options.quick else grown}


BENCHMARK = Benchmark(
    "startup",
    __doc__,
    run,
    options={
        "--rounds": amount("how often each contender is started", 9),
        "--requests": amount("how many a process gets after its warm-up", 100_000),
        "--step": amount("how many there are between two looks at it", 10_000),
    },
    quick={"rounds": 1, "requests": 400, "step": 200},
    packages=("Flask-Session", "psycopg", "redis"),
)
