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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks import peers, terms
from benchmarks.databases import NAMES, described, own_database, redis_server
from benchmarks.frame import Benchmark, BrokenError, Options, amount, say
from benchmarks.measure import Contender, Times, call_all, measure
from benchmarks.results import Document
from benchmarks.statements import counting
from benchmarks.terms import KEY_OF_MANY, ON_SQL, OURS, READ, REQUESTS, SIZE, WRITE

PAYLOADS = (SIZE, 10 * 1024, 100 * 1024)
#: How many requests are timed together, and how many if they are large or slow.
BATCH, SHORT_BATCH = 16, 6
SLOW = {terms.FLASK_SESSION, terms.DJANGO, terms.OURS_ROLLBACK}
#: Requests before statements are counted, and while they are. Drivers prepare a
#: statement when they have met it some times.
WARM_UP, COUNTED = 15, 4
PROFILED = 3000

#: What is aimed at: requests, beside whom, how many times what that costs, and in
#: words; where nobody is named, microseconds. With a session of 200 bytes, and of more.
IN_RAW = "{} times the raw driver"
COOKIES = "Flask's own cookie"
REDIS = "Flask-Session's on Redis"
SMALL_TARGETS = (
    ((terms.ANONYMOUS, terms.UNTOUCHED), None, 15, "15 microseconds"),
    ((READ, WRITE), terms.RAW, {"SQLite": 1.3, "PostgreSQL": 1.15}, IN_RAW),
    ((READ, WRITE), terms.RAW, {"MariaDB": 1.5}, IN_RAW),
    ((terms.NEW,), terms.RAW, 1.5, IN_RAW),
    (REQUESTS[1:5], terms.COOKIE, {"SQLite": 1}, COOKIES),
    (REQUESTS[1:3], terms.COOKIE, {"PostgreSQL": 1}, COOKIES),
    ((READ,), terms.FLASK_SESSION, 1 / 8, "an 8th of Flask-Session's, same database"),
    ((WRITE,), terms.FLASK_SESSION, 1 / 3, "a third of Flask-Session's, same database"),
    ((READ,), terms.FLASK_SESSION_REDIS, 1, REDIS),
)
LARGE_TARGETS = (
    ((KEY_OF_MANY,), terms.RAW, 1, "the raw driver"),
    ((WRITE,), terms.RAW, 1.1, IN_RAW),
    ((terms.BASKET,), terms.RAW, 1.3, IN_RAW),
    ((KEY_OF_MANY,), terms.FLASK_SESSION, 1 / 4, "a 4th of Flask-Session's"),
    ((KEY_OF_MANY,), terms.FLASK_SESSION_REDIS, 1, REDIS),
)
#: How many times a read of a small key in the largest session may cost one of 200
#: bytes, in a file.
MOST_BY_SIZE = 6

#: What each request sends to the database, by request and contender.
Sent = dict[tuple[str, str], list[str]]


@contextmanager
def contenders_of(
    kind: str,
    payload: int,
    names: Sequence[str],
    redis: str | None = None,
    make: Callable[[int], dict[str, Any]] = terms.make_payload,
) -> Iterator[list[Contender]]:
    """The contenders that can hold such a payload, those on SQL with a database each.

    :param redis: its address, for the one on it.
    :param make: makes the payload.
    """
    data = make(payload)
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
        profile(options.profile, options.database[0], options.size)
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
            for make, asked in (
                (terms.make_payload, requests),
                (terms.make_basket, terms.BASKET_REQUESTS),
            ):
                everybody = contenders_of(kind, payload, terms.CONTENDERS, redis, make)
                with everybody as contenders:
                    times = measure(contenders, asked, options.seconds, options.rounds)
                told = sent if payload == SIZE else {}
                cases += cases_of(database, payload, times, told)
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
        (case["payload"], case["request"], case["contender"]): case["overhead"]
        for case in cases
    }
    sizes = sorted({case["payload"] for case in cases})

    def target(
        size: int, request: str, beside: str, most: float
    ) -> Iterator[dict[str, Any]]:
        ours = overheads.get((size, request, OURS))
        if ours is not None:
            place = {"database": database, "payload": size, "request": request}
            found = {"beside": beside, "ours": ours, "most": most}
            yield {**place, **found, "met": ours <= most}

    for size in sizes:
        wanted = SMALL_TARGETS if size == SIZE else LARGE_TARGETS
        for requests, name, times, beside in wanted:
            most = times.get(database) if isinstance(times, dict) else times
            for request in requests:
                other = overheads.get((size, request, name)) if name else 1.0
                if most is not None and other is not None:
                    yield from target(size, request, beside.format(most), most * other)
    least = overheads.get((SIZE, KEY_OF_MANY, OURS))
    if database == "SQLite" and sizes[1:] and least is not None:
        beside = f"{MOST_BY_SIZE} times that of {SIZE} bytes"
        yield from target(sizes[-1], KEY_OF_MANY, beside, MOST_BY_SIZE * least)


def count(kind: str, redis: str) -> Sent:
    """What each request sends to the database."""
    sent = {}
    for name in (*(ON_SQL - {terms.OURS_ROLLBACK}), terms.FLASK_SESSION_REDIS):
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


def profile(request: str, kind: str, size: int) -> None:
    """Print where the time of a request of ours goes."""
    # A login needs a session of nobody each time.
    number = PROFILED if request == terms.LOGIN else 50
    is_basket = request in terms.BASKET_REQUESTS
    make = terms.make_basket if is_basket else terms.make_payload
    with contenders_of(kind, size, [OURS], make=make) as [contender]:
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
            "choices": (*REQUESTS, *terms.BASKET_REQUESTS),
            "help": "show where the time of this request goes, and measure nothing",
        },
        "--size": amount("the bytes of the session whose request is profiled", SIZE),
    },
    quick={"seconds": 0.5, "rounds": 1},
    packages=("Flask-Session", "Django", "psycopg", "PyMySQL", "redis"),
)
