"""What a request costs, beside Flask's own sessions and those of others.

Calls the applications of benchmarks.peers in one process, as a server does, and batch
by batch in turn. The figure of a case is the median of the batches' means; the overhead
is the median of the differences from the batch, in the same round, of the application
that does nothing, or of a Django application without sessions. SQL statements are
counted at the driver, without the clock.
"""

from __future__ import annotations

import cProfile
import gc
import logging
import pstats
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks import peers, terms
from benchmarks.databases import NAMES, described, own_database, redis_server
from benchmarks.frame import Benchmark, BrokenError, Options, amount, say
from benchmarks.measure import Contender, Times, call_all, measure
from benchmarks.results import Document
from benchmarks.statements import counting
from benchmarks.terms import ON_SQL, OURS, READ, REQUESTS, SIZE, WRITE

PAYLOADS = (SIZE, 10 * 1024, 100 * 1024)
#: How many requests are timed together, and how many if they are large or slow.
BATCH, SHORT_BATCH = 16, 6
SLOW = {terms.FLASK_SESSION, terms.DJANGO}
#: Requests before statements are counted, and while they are. Drivers prepare a
#: statement when they have met it some times.
WARM_UP, COUNTED = 15, 4
PROFILED = 3000

#: What is aimed at: a request, beside whom, how many times what that costs, and in
#: words; where nobody is named, microseconds.
TARGETS = (
    (terms.ANONYMOUS, None, 15, "15 microseconds"),
    (terms.UNTOUCHED, None, 15, "15 microseconds"),
    *((each, terms.COOKIE, 1, "Flask's own cookie") for each in REQUESTS),
    *((each, terms.RAW, 1.5, "1.5 times the raw driver") for each in REQUESTS[2:5]),
    (READ, terms.FLASK_SESSION, 1 / 8, "an 8th of Flask-Session's, same database"),
    (WRITE, terms.FLASK_SESSION, 1 / 3, "a third of Flask-Session's, same database"),
    (READ, terms.FLASK_SESSION_REDIS, 1, "Flask-Session's on Redis"),
)
#: Where ours is to cost no more than a cookie, which needs no database.
NO_MORE_THAN_COOKIE = {"SQLite": REQUESTS[1:5], "PostgreSQL": REQUESTS[1:3]}

#: What each request sends to the database, by request and contender.
Sent = dict[tuple[str, str], list[str]]


@contextmanager
def contenders_of(
    kind: str, payload: int, names: Sequence[str], redis: str | None = None
) -> Iterator[list[Contender]]:
    """The contenders that can hold such a payload, those on SQL with a database each.

    :param redis: its address, for the one on it.
    """
    data = terms.make_payload(payload)
    short = SLOW if payload <= PAYLOADS[1] else set(names)
    with ExitStack() as stack:
        contenders = []
        for name in names:
            if not terms.can_hold(name, kind, payload):
                continue
            url = stack.enter_context(own_database(kind)) if name in ON_SQL else None
            peer = peers.make_peer(name, data, url, redis)
            stack.callback(peer.close)
            batch = SHORT_BATCH if name in short else BATCH
            contenders.append(Contender(peer, batch))
        yield contenders


def run(options: Options) -> Iterator[dict[str, Any]]:
    """Measure on each database with each payload."""
    logging.disable(logging.INFO)
    if options.profile:
        profile(options.profile, options.database[0])
        return
    redis, version = redis_server()
    versions = {"Redis": version}
    payloads = PAYLOADS[:1] if options.quick else PAYLOADS
    for kind in options.database:
        with own_database(kind) as url:
            database, versions[NAMES[kind]] = described(url).split()
        sent = count(kind, redis)
        cases: list[dict[str, Any]] = []
        for payload in payloads:
            say(f"{database}, {payload:,} bytes")
            # Without a session, its size does not matter.
            requests = REQUESTS if payload == SIZE else REQUESTS[1:]
            with contenders_of(kind, payload, terms.CONTENDERS, redis) as contenders:
                times = measure(contenders, requests, options.seconds, options.rounds)
            cases += cases_of(database, payload, times, sent if payload == SIZE else {})
        yield {
            "versions": versions,
            "payloads": {
                str(each): terms.packed_size(terms.make_payload(each))
                for each in payloads
            },
            "cases": cases,
            "targets": list(targets(database, cases)),
        }


def cases_of(
    database: str, payload: int, times: Times, sent: Sent
) -> Iterator[dict[str, Any]]:
    """What one request of one contender costs, in microseconds, and what it sends."""
    over = {}
    for (request, name), took in times.items():
        rounds = zip(took, times[request, terms.BASELINE[name]], strict=True)
        median = statistics.median(mine - nothing for mine, nothing in rounds)
        # Nanoseconds are more than can be told.
        over[request, name] = round(median, 3)
    for (request, name), took in times.items():
        ours = over.get((request, OURS), 0.0)
        yield {
            "database": database,
            "payload": payload,
            "request": request,
            "contender": name,
            "median": round(statistics.median(took), 3),
            "overhead": over[request, name],
            # The overhead by ours; none where ours is nothing, or was not measured.
            "to_ours": round(over[request, name] / ours, 4) if ours > 0 else None,
            # In their order; none where there is no database.
            "statements": sent.get((request, name)),
        }


def targets(database: str, cases: Sequence[Document]) -> Iterator[dict[str, Any]]:
    """The targets of which all was measured, and what came of each."""
    overheads = {
        (case["request"], case["contender"]): case["overhead"]
        for case in cases
        if case["payload"] == SIZE
    }
    for request, name, times, beside in TARGETS:
        ours = overheads.get((request, OURS))
        other = overheads.get((request, name)) if name else 1
        cheaper = NO_MORE_THAN_COOKIE.get(database, ())
        wanted = name != terms.COOKIE or request in cheaper
        if wanted and ours is not None and other is not None:
            yield {
                "database": database,
                "request": request,
                "beside": beside,
                "ours": ours,
                "most": times * other,
                "met": ours <= times * other,
            }


def count(kind: str, redis: str) -> Sent:
    """What each request sends to the database."""
    sent = {}
    for name in (*ON_SQL, terms.FLASK_SESSION_REDIS):
        with (
            counting(kind if name in ON_SQL else "redis") as taken,
            contenders_of(kind, SIZE, [name], redis) as [contender],
        ):
            for request in REQUESTS:
                clients = contender.begin_sessions(WARM_UP + COUNTED)
                environs = [each.environ(request) for each in clients]
                call_all(contender.peer.wsgi, environs[:WARM_UP])
                taken()
                call_all(contender.peer.wsgi, environs[WARM_UP:])
                found = taken()
                sent[request, name] = found[: len(found) // COUNTED]
                if found != sent[request, name] * COUNTED:
                    raise BrokenError(
                        f"{name}: /{request} does not send the same each time: {found}"
                    )
    return sent


def profile(request: str, kind: str) -> None:
    """Print where the time of a request of ours goes."""
    # A login needs a session of nobody each time.
    number = PROFILED if request == terms.LOGIN else 50
    with contenders_of(kind, SIZE, [OURS]) as [contender]:
        clients = contender.begin_sessions(number)
        environs = [clients[turn % number].environ(request) for turn in range(PROFILED)]
        call_all(contender.peer.wsgi, environs[:number] if number < PROFILED else [])
        gc.collect()
        with cProfile.Profile() as profiler:
            call_all(contender.peer.wsgi, environs)
    print(f"{NAMES[kind]}: {PROFILED} times /{request} with cProfile on\n")
    for order in ("tottime", "cumulative"):
        pstats.Stats(profiler).strip_dirs().sort_stats(order).print_stats(35)


BENCHMARK = Benchmark(
    "cost",
    __doc__,
    run,
    databases=tuple(NAMES),
    options={
        "--seconds": amount("how long each size takes on each database", 35.0, 0.1),
        "--rounds": amount("how many batches of each case there are at least", 8),
        "--profile": {
            "choices": REQUESTS,
            "help": "show where the time of this request goes, and measure nothing",
        },
    },
    quick={"seconds": 4.0, "rounds": 3},
    packages=("Flask-Session", "Django", "psycopg", "PyMySQL", "redis"),
)
