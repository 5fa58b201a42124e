"""What a request costs, beside Flask's own sessions and those of others.

Calls the applications of benchmarks.peers in one process, as a server does, and batch
by batch in turn. The figure of a case is the median of the batches' means; the overhead
is the median of the differences from the batch, in the same round, of the application
that does nothing, or of a Django application without sessions. SQL statements are
counted at the driver, without the clock.

Everything, the databases included, shares the cores of one machine.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import logging
import pstats
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from redis import Redis

from benchmarks import results
from benchmarks.commands import say, terminate
from benchmarks.databases import (
    backend,
    describe,
    own_database,
    own_directory,
    redis_url,
    server_urls,
)
from benchmarks.measure import (
    BrokenError,
    Contender,
    call_all,
    cost,
    measure,
)
from benchmarks.peers import (
    ANONYMOUS,
    BASELINE,
    CONTENDERS,
    DJANGO,
    FLASK_SESSION,
    FLASK_SESSION_REDIS,
    LOGIN,
    ON_SQL,
    OURS,
    REQUESTS,
    cannot_hold,
    make_payload,
    make_peer,
    packed_size,
)
from benchmarks.statements import counting
from benchmarks.targets import SIZE, targets

#: The databases, as SQLAlchemy calls them, and by their names.
DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}
PAYLOADS = (SIZE, 10 * 1024, 100 * 1024)
#: How many requests are timed together, and how many if they are large or slow.
BATCH, SHORT_BATCH = 16, 6
SLOW = {FLASK_SESSION, DJANGO}
#: Runs at once leave each other's keys alone.
REDIS_PREFIX = f"sessionsql-cost-{secrets.token_hex(4)}:"
#: Requests before statements are counted, and while they are. Drivers prepare a
#: statement when they have met it some times.
WARM_UP, COUNTED = 15, 4
PROFILED = 3000


@dataclass(frozen=True)
class Place:
    """Where the sessions of one run are.

    :ivar database: the database's name.
    """

    url: sa.URL
    directory: Path
    redis: str | None
    database: str

    def of(self, name: str) -> sa.URL | None:
        """The database of one contender: a file each on SQLite."""
        if name not in ON_SQL:
            return None
        if backend(self.url) == "sqlite":
            return self.url.set(database=str(self.directory / f"{name}.sqlite"))
        return self.url


@dataclass(frozen=True)
class Case:
    """What one request of one contender costs, in microseconds."""

    database: str
    payload: int
    request: str
    contender: str
    median: float
    overhead: float
    #: Of the overhead.
    quartiles: tuple[float, float]
    rounds: int
    #: The overhead by ours; ``None`` where ours is nothing, or was not measured.
    to_ours: float | None
    #: What a request sends to the database, in order; ``None`` where there is none.
    statements: list[str] | None


# A run.


def run(options: argparse.Namespace) -> tuple[list[Case], dict[str, str]]:
    """Measure on each database with each payload. The cases, and the servers'
    versions.
    """
    cases: list[Case] = []
    servers: dict[str, str] = {}
    redis = redis_url() if FLASK_SESSION_REDIS in options.contender else None
    if redis is not None:
        with Redis.from_url(redis) as client:
            # The stubs do not know which of two clients this is.
            information: Any = client.info("server")
        servers["Redis"] = information["redis_version"]
    for kind in options.database:
        sent: dict[tuple[str, str], list[str]] = {}
        for payload in options.payload:
            with place_of(kind, redis) as place:
                server, version = place.database.split()
                servers[server] = version
                sent = sent or count(place, options)
                found = run_one(place, payload, options, sent)
            show(place.database, found)
            cases += found
    return cases, servers


@contextmanager
def place_of(kind: str, redis: str | None) -> Iterator[Place]:
    """A database of our own.

    :param kind: the database, as SQLAlchemy calls it.
    """
    urls = {backend(url): url for url in (sa.make_url("sqlite://"), *server_urls())}
    with own_database(urls[kind]) as url, own_directory() as directory:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        yield Place(url, directory, redis, describe(engine))


def run_one(
    place: Place,
    payload: int,
    options: argparse.Namespace,
    sent: dict[tuple[str, str], list[str]],
) -> list[Case]:
    """Measure on one database with one payload."""
    requests = [
        request
        for request in options.request
        # Without a session, its size does not matter.
        if request != ANONYMOUS or payload == options.payload[0]
    ]
    if not requests:
        return []
    database = place.database.split()[0]
    with contenders_of(place, payload, options.contender) as contenders:
        begin = f"{place.database}, {payload:,} bytes: "
        say(f"{begin}{', '.join(each.peer.name for each in contenders)}")
        times = measure(
            contenders,
            requests,
            options.seconds,
            options.rounds,
            lambda text: say(f"{begin}{text}"),
        )
        names = [each.peer.name for each in contenders]
    costs = {
        (request, name): cost(times[request, name], times[request, BASELINE[name]])
        for request in requests
        for name in names
    }
    cases = []
    for (request, name), each in costs.items():
        ours = costs.get((request, OURS))
        cases.append(
            Case(
                database,
                payload,
                request,
                name,
                **asdict(each),
                to_ours=round(each.overhead / ours.overhead, 4)
                if ours is not None and ours.overhead > 0
                else None,
                statements=sent.get((request, name)),
            )
        )
    return cases


@contextmanager
def contenders_of(
    place: Place, payload: int, names: Sequence[str]
) -> Iterator[list[Contender]]:
    """The contenders that can hold such a payload."""
    data = make_payload(payload)
    short = SLOW if payload <= PAYLOADS[1] else set(names)
    with ExitStack() as open_peers:
        yield [
            Contender(
                open_peers.enter_context(
                    closing(
                        make_peer(name, data, place.of(name), place.redis, REDIS_PREFIX)
                    )
                ),
                SHORT_BATCH if name in short else BATCH,
            )
            for name in names
            if cannot_hold(name, backend(place.url), payload) is None
        ]


def count(
    place: Place, options: argparse.Namespace
) -> dict[tuple[str, str], list[str]]:
    """What each request sends to the database, by request and contender."""
    sent = {}
    for name in options.contender:
        if name not in ON_SQL and name != FLASK_SESSION_REDIS:
            continue
        kind = backend(place.url) if name in ON_SQL else "redis"
        with (
            counting(kind) as taken,
            contenders_of(place, SIZE, [name]) as [contender],
        ):
            for request in options.request:
                clients = contender.begin_sessions(WARM_UP + COUNTED)
                environs = [each.environ(request) for each in clients]
                call_all(contender.peer.wsgi, environs[:WARM_UP])
                taken()
                call_all(contender.peer.wsgi, environs[WARM_UP:])
                found = taken()
                if found != found[: len(found) // COUNTED] * COUNTED:
                    raise BrokenError(
                        f"{name}: /{request} does not send the same each time: {found}"
                    )
                sent[request, name] = found[: len(found) // COUNTED]
    return sent


# What is shown.


def show(database: str, cases: list[Case]) -> None:
    """Print the cases of one database and payload as a table."""
    if not cases:
        return
    case = cases[0]
    print(
        f"\n{database}, a session of {packed_size(make_payload(case.payload)):,} bytes:"
        f" microseconds a request, {case.rounds} rounds.\n"
    )
    print(
        f"{'':32}{'median':>9}{'overhead':>10}{'quartiles':>20}{'by ours':>9}"
        "  statements"
    )
    for request in REQUESTS:
        for number, each in enumerate(
            case for case in cases if case.request == request
        ):
            low, high = each.quartiles
            ratio = "" if each.to_ours is None else f"{each.to_ours:.2f}"
            is_base = BASELINE[each.contender] == each.contender
            over = "-" if is_base else f"{each.overhead:.1f}"
            between = "" if is_base else f"{low:.1f} to {high:.1f}"
            print(
                f"{'' if number else request:10}  {each.contender:20}"
                f"{each.median:9.1f}{over:>10}{between:>20}"
                f"{'' if is_base else ratio:>9}"
                f"  {in_short(each.statements)}"
            )
    kind = {name: kind for kind, name in DATABASES.items()}[case.database]
    for name in CONTENDERS:
        if reason := cannot_hold(name, kind, case.payload):
            print(f"\nWithout {name}: {reason}.")
    sys.stdout.flush()


def in_short(statements: Sequence[str] | None) -> str:
    """How many statements there are, and which."""
    if not statements:
        return "" if statements is None else "0"
    return f"{len(statements)}: {', '.join(statements)}"


def show_targets(cases: list[Case]) -> list[dict[str, object]]:
    """Print the targets, and return them for the file."""
    overheads = {
        (case.database, case.request, case.contender): case.overhead
        for case in cases
        if case.payload == SIZE
    }
    databases = list(dict.fromkeys(case.database for case in cases))
    found = list(targets(databases, lambda *which: overheads.get(which)))
    if found:
        print(f"\nTargets, as overhead with {SIZE} bytes, in microseconds:\n")
        for target in found:
            print(target)
        met = sum(target.met for target in found)
        print(f"\n{met} of {len(found)} met.", flush=True)
    return [{**asdict(target), "met": target.met} for target in found]


def profile(request: str, options: argparse.Namespace) -> None:
    """Print where the time of a request of ours goes."""
    with (
        place_of(options.database[0], None) as place,
        contenders_of(place, options.payload[0], [OURS]) as [contender],
    ):
        number = PROFILED if request == LOGIN else 50
        clients = contender.begin_sessions(number)
        time.sleep(1)
        environs = [clients[turn % number].environ(request) for turn in range(PROFILED)]
        call_all(contender.peer.wsgi, environs[:number] if number == 50 else [])
        profiler = cProfile.Profile()
        gc.collect()
        profiler.enable()
        call_all(contender.peer.wsgi, environs)
        profiler.disable()
    print(f"{place.database}: {PROFILED} times /{request} with cProfile on\n")
    for order in ("tottime", "cumulative"):
        pstats.Stats(profiler).strip_dirs().sort_stats(order).print_stats(35)


# The command line.


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options.

    :param arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "servers: SESSIONSQL_POSTGRESQL_URL, SESSIONSQL_MARIADB_URL and"
            " SESSIONSQL_REDIS_URL say where they are, or they are the local ones\n\n"
            "exit code: 0, whether targets are met or not; 1 if a contender answered"
            " wrongly\nor a server is missing; 2 if the options are wrong; 130 or 143"
            " if interrupted"
        ),
    )
    add = parser.add_argument
    add(
        "--database",
        action="append",
        choices=[name.lower() for name in DATABASES.values()],
        help="where the sessions are; may be given more than once, as all of these"
        " (default: all)",
    )
    add(
        "--payload",
        action="append",
        type=size,
        metavar="BYTES",
        help="how large a session is, 200 or more (default:"
        f" {', '.join(map(str, PAYLOADS))})",
    )
    add("--request", action="append", choices=REQUESTS, help="what is requested")
    add(
        "--contender",
        action="append",
        choices=CONTENDERS,
        help="whose sessions; what its overhead is measured from is added",
    )
    add(
        "--seconds",
        type=float,
        default=35,
        help="how long each database takes with each payload (default: %(default)s)",
    )
    add(
        "--rounds",
        type=several,
        default=8,
        help="how many batches of each case there are at least (default: %(default)s)",
    )
    add(
        "--quick",
        action="store_true",
        help="a try: 200 bytes unless --payload is given, a few rounds",
    )
    add(
        "--profile",
        choices=REQUESTS,
        metavar="REQUEST",
        help="show where the time of this request of ours goes, and measure nothing",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures to this file, too")
    options = parser.parse_args(arguments)
    chosen = options.database or [name.lower() for name in DATABASES.values()]
    options.database = [
        kind for kind, name in DATABASES.items() if name.lower() in chosen
    ]
    options.request = options.request or list(REQUESTS)
    wanted = set(options.contender or CONTENDERS)
    wanted |= {BASELINE[name] for name in wanted}
    options.contender = [name for name in CONTENDERS if name in wanted]
    if options.quick:
        options.payload = options.payload or [SIZE]
        options.seconds, options.rounds = 4, 3
    options.payload = sorted(options.payload or PAYLOADS)
    return options


def size(text: str) -> int:
    """The bytes of a payload, for argparse."""
    number = int(text)
    if number < SIZE:
        raise argparse.ArgumentTypeError(f"{number} is less than {SIZE}")
    return number


def several(text: str) -> int:
    """A number of rounds, for argparse: quartiles need two."""
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError(f"{number} is less than 2")
    return number


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and write. The exit code.

    :param arguments: instead of those of the process.
    """
    options = parse(arguments)
    signal.signal(signal.SIGTERM, terminate)
    logging.disable(logging.INFO)
    try:
        if options.profile:
            profile(options.profile, options)
            return 0
        cases, servers = run(options)
    except KeyboardInterrupt:
        say("Interrupted; the databases of the benchmark are dropped.")
        return 130
    except BrokenError as error:
        say(f"The figures would mean nothing: {error}.")
        return 1
    found = show_targets(cases)
    if options.json:
        figures = {
            "batch": {"requests": BATCH, "large or slow": SHORT_BATCH},
            "payloads": {
                str(each): packed_size(make_payload(each)) for each in options.payload
            },
            "cases": [asdict(case) for case in cases],
            "targets": found,
        }
        packages = ("Flask-Session", "Django", "psycopg", "PyMySQL", "redis")
        results.write(
            options.json,
            results.document("cost", figures, packages=packages, servers=servers),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
