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
import statistics
import subprocess
import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks import peers, terms
from benchmarks.databases import address, described, own_database, redis_server
from benchmarks.frame import Benchmark, BrokenError, amount, begin, receive, say
from benchmarks.measure import Client, call_all
from benchmarks.tables import STEPS

#: What is started: its name, its module, and its SESSION_TYPE.
CONTENDERS = (
    ("Flask-SessionSql", "flask_sessionsql", "flask-sqlalchemy"),
    ("Flask-Session", "flask_session", "sqlalchemy"),
    ("Flask-Session on Redis", "flask_session", "redis"),
    ("neither", "", ""),
)

#: One start, in a process of its own, which imports nothing else before. Its arguments
#: are the module, SESSION_TYPE, and the addresses of the database and of Redis.
#: It answers with seconds, and with the bytes of resident memory at the end.
START = """
import json, os, sys, time
clock = time.perf_counter
module, kind, url, redis_url = sys.argv[1:]
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


def starts(url: sa.URL, redis: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Start all contenders in turn, so many times, and once before to warm up: the
    medians, in milliseconds and MiB.
    """
    # What they import is compiled in the first round, as where it is installed.
    env = dict(os.environ)
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    found: dict[str, list[Any]] = defaultdict(list)
    for turn in range(rounds + 1):
        say(f"{described(url)}: start {turn} of {rounds}")
        for name, module, kind in CONTENDERS:
            command = [sys.executable, "-W", "ignore", "-c", START, module, kind]
            command += [address(url), redis]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env=env
            )
            if done.returncode:
                raise BrokenError(f"{name} did not start:\n{done.stderr.strip()}")
            if turn:
                found[name].append(json.loads(done.stdout))
    for name, answers in found.items():
        medians = {
            step: statistics.median(answer[step] for answer in answers)
            for step in answers[0]
        }
        yield {
            "database": described(url),
            "contender": name,
            "milliseconds": {step: 1000 * medians[step] for step in STEPS},
            "resident": medians["resident"] / 2**20,
        }


#: What a browser does, again and again: the table stays as large as it is.
LIFE = [terms.ANONYMOUS, terms.NEW, terms.UNTOUCHED, terms.READ, terms.WRITE]
LIFE += [terms.READ, terms.LOGIN, terms.UNTOUCHED, terms.WRITE, terms.LOGOUT]
#: How far it may have grown at the end, along its slope: bytes, 10 for each of 100,000
#: requests, and blocks of Python's, an object in 50 requests.
ALLOWED = {"resident": 2**20, "blocks": 2_000}
#: What is counted, and may not grow at all.
COUNTED = ("files", "connections")


def live(wsgi: peers.WSGIApplication, times: int) -> None:
    """Make the requests of so many browsers, one after the other."""
    for _ in range(times):
        client = Client()
        for kind in LIFE:
            [answer] = call_all(wsgi, [client.environ(kind)])
            if answer.status != "200 OK":
                raise BrokenError(f"/{kind} was answered with {answer.status}")
            client.cookie = answer.cookie or client.cookie


def watch(url: str, threads: int, step: int, steps: int, answer: Connection) -> None:
    """The process whose memory is watched: one step to warm up, and then the steps."""
    peer = peers.make_peer(terms.OURS, terms.make_payload(terms.SIZE), sa.make_url(url))
    engine: Any = peer.engine
    samples = []
    with ThreadPoolExecutor(threads) as pool:
        for number in range(1, steps + 2):
            times = max(1, step // threads // len(LIFE))
            list(pool.map(live, [peer.wsgi] * threads, [times] * threads))
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            sample = {
                "requests": number * step,
                "resident": pages * os.sysconf("SC_PAGE_SIZE"),
                "blocks": sys.getallocatedblocks(),
                "files": len(os.listdir("/proc/self/fd")),
                "connections": engine.pool.checkedin() + engine.pool.checkedout(),
            }
            samples.append(sample)
            say(f"  {number * step:,} requests")
    answer.send(samples)


def memory(url: sa.URL, threads: int, options: Namespace) -> dict[str, Any]:
    """Watch a process, and say what has grown by more than is allowed."""
    say(f"{described(url)}, threads: {threads}")
    steps = max(1, options.requests // options.step)
    with ExitStack() as stack:
        pipe = begin(stack, watch, address(url), threads, options.step, steps)
        samples = receive(pipe)
    # The straight line through all; the first one was taken after the warm-up.
    requests = [each["requests"] for each in samples]
    slopes, grown = {}, []
    for name, most in ALLOWED.items():
        found = [each[name] for each in samples]
        slopes[name] = statistics.linear_regression(requests, found).slope
        if slopes[name] * (requests[-1] - requests[0]) > most:
            grown.append(name)
    grown += [name for name in COUNTED if samples[-1][name] > samples[0][name]]
    return {
        "database": described(url),
        "threads": threads,
        "samples": samples,
        "slopes": slopes,
        "grown": grown,
    }


def run(options: Namespace) -> Iterator[dict[str, Any]]:
    """Measure on SQLite and PostgreSQL: all starts, and then the memory."""
    redis, _ = redis_server()
    with own_database("sqlite") as lite, own_database("postgresql") as post:
        for url in (lite, post):
            found = list(starts(url, redis, options.rounds))
            yield {"rounds": options.rounds, "starts": found}
        found = [memory(url, n, options) for n in (1, 4) for url in (lite, post)]
    grown = [f"{each['database']}: grown: {each['grown']}" for each in found]
    # A try of a few seconds is all warm-up.
    is_wrong = not options.quick and any(each["grown"] for each in found)
    yield {"memory": found, "faults": grown if is_wrong else []}


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
