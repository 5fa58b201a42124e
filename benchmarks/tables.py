"""Tables and sentences, made of the figures that the benchmarks wrote: a benchmark
prints them, and the documentation shows them.

Each function takes a benchmark's document, or a part of it, and yields blocks. All
numbers are the document's, rounded; a sentence that holds for some figures only is
there for those only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import blocks, terms
from benchmarks.blocks import Block, Table, count, number, several, share, whole
from benchmarks.results import Document
from benchmarks.terms import OURS, READ, REQUESTS, SIZE, UNTOUCHED, WRITE

Blocks = Iterator[Block]

NAMES = {
    OURS: "Flask-SessionSql",
    terms.OURS_ROLLBACK: "Flask-SessionSql, no WAL",
    terms.RAW: "written by hand",
    terms.COOKIE: "Flask's cookie",
    terms.FLASK_SESSION_REDIS: "Flask-Session, Redis",
    terms.DJANGO: "Django",
    terms.FLASK_SESSION: "Flask-Session",
}
#: On a server, the application without sessions is one among them.
SERVER_NAMES = {terms.NOTHING: "without sessions", **NAMES}
#: What stands above the bars of a request.
HEADS = {
    UNTOUCHED: "The view does not touch its session",
    READ: "It reads its session",
    WRITE: "It changes its session",
    terms.NEW: "It begins a session",
}

#: What stands above the pictures, in two lines.
COST_TITLE = (
    "{database}: microseconds a request, over an\napplication without sessions;"
    f" {SIZE} bytes in the session"
)
SERVER_TITLE = (
    "Requests a second: {database}, gunicorn with\n{workers} workers, threads in each:"
    " {threads}"
)

#: Growth: the requests that are not for sessions in use; how many times more the others
#: may cost in a large table; and the share of the updates that are to be HOT.
ANY = "read, any row"
MOST_RATIO, LEAST_HOT = 1.3, 0.9

#: The cases of one size, by database, request and contender.
Cases = Mapping[tuple[str, str, str], Any]


def cases_of(document: Document, size: int = SIZE) -> Cases:
    """The cases with sessions of this size."""
    return {
        (case["database"], case["request"], case["contender"]): case
        for case in document["cases"]
        if case["payload"] == size
    }


def databases(document: Document) -> list[str]:
    """The databases that were measured."""
    return list(dict.fromkeys(case["database"] for case in document["cases"]))


def cost_table(
    document: Document,
    database: str,
    title: str,
    cell: Callable[[Any], str] = lambda case: number(case["overhead"]),
    *,
    size: int = SIZE,
    requests: Sequence[str] = REQUESTS,
    without: str = "",
) -> Table:
    """What each request costs each contender that could be measured.

    :param cell: what is shown of a case.
    :param without: a contender that is left out.
    """
    cases = cases_of(document, size)

    def shown(request: str, contender: str) -> str:
        case = cases.get((database, request, contender))
        return blocks.NO_FIGURE if case is None else cell(case)

    rows = [
        [name, *(shown(request, key) for request in requests)]
        for key, name in NAMES.items()
        if (database, requests[-1], key) in cases
        and key not in {without, terms.OURS_ROLLBACK}
    ]
    return Table(f"{database}: {title}", ["", *requests], rows)


def cost_databases(document: Document) -> Blocks:
    """A section for each database."""
    cases = cases_of(document)
    for name in databases(document):
        bare = [
            number(cases.get((name, READ, base), {}).get("median"))
            for base in (terms.NOTHING, terms.DJANGO_NOTHING)
        ]
        yield blocks.Section(name)
        yield (
            f"Without sessions, a request takes {bare[0]} microseconds with Flask, and"
            f" {bare[1]} with Django."
        )
        title = COST_TITLE.format(database=name)
        yield blocks.Picture(f"cost-{name.lower()}", title)
        title = f"microseconds over an application without sessions, {SIZE} bytes"
        yield cost_table(document, name, f"{title} in the session")
        yield cost_table(
            document,
            name,
            "statements a request, begins and ends of transactions among them; on"
            " Redis, commands",
            lambda case: whole(len(case["statements"])),
            without=terms.COOKIE,
        )


def larger(document: Document) -> Blocks:
    """What larger sessions cost."""
    # Without a session, its size does not matter.
    yield from by_size(document, REQUESTS[1:], {SIZE})


def baskets(document: Document) -> Blocks:
    """What parts of a session cost."""
    yield from by_size(document, terms.BASKET_REQUESTS, set())


def by_size(document: Document, requests: Sequence[str], without: set[int]) -> Blocks:
    """What requests cost with sessions of each size, but for some."""
    sizes = sorted({case["payload"] for case in document["cases"]} - without)
    if not sizes:
        yield "None were measured."
    for name in databases(document):
        for size in sizes:
            title = f"microseconds over an application without sessions, {whole(size)}"
            title += " bytes in the session"
            yield cost_table(document, name, title, size=size, requests=requests)


def journals(document: Document) -> Blocks:
    """What the mode of a SQLite file comes to."""
    cases, shown = cases_of(document), (READ, WRITE, terms.NEW)
    modes = {OURS: "WAL mode", terms.OURS_ROLLBACK: "as SQLite makes it"}
    rows = [
        [label, *(number(cases["SQLite", each, key]["overhead"]) for each in shown)]
        for key, label in modes.items()
        if ("SQLite", READ, key) in cases
    ]
    if rows:
        title = f"Microseconds over an application without sessions, {SIZE} bytes"
        yield Table(title, ["", *shown], rows)


def cost_targets(document: Document) -> Blocks:
    """The targets, and what came of each."""
    found = document["targets"]

    def row(target: Document) -> list[str]:
        ours, most = target["ours"], target["most"]
        margin = blocks.NO_FIGURE
        if most > 0:
            over = ours / most - 1
            margin = f"{share(abs(over))} {'over' if over > 0 else 'under'}"
        result = f"{blocks.verdict(target['met'])}, {margin}"
        figures = [f"{ours:,.1f}", f"{most:,.1f}", result]
        return [whole(target["payload"]), target["request"], target["beside"], *figures]

    met = sum(target["met"] for target in found)
    yield f"{whole(met)} of {whole(len(found))} are met."
    for name in databases(document):
        yield Table(
            f"{name}: microseconds",
            ["bytes", "request", "no more than", "ours", "at most", ""],
            [row(target) for target in found if target["database"] == name],
            labels=3,
        )


def server_parts(document: Document) -> Blocks:
    """A section for each part."""
    for part in document["parts"]:
        workers = count(part["workers"], "worker")
        least, most = part["load_cpu"]
        yield blocks.Section(
            f"{part['database']}, {workers} of {count(part['threads'], 'thread')}"
        )
        yield (
            f"{count(part['connections'], 'connection')},"
            f" {count(part['sessions'], 'session')} of"
            f" {document['payload_bytes']} bytes, rounds of"
            f" {part['seconds']} seconds; the load itself took {least:.2f} to"
            f" {most:.2f} of one core."
        )
        title = SERVER_TITLE.format(**part)
        yield blocks.Picture(f"server-{part['part']}", title)
        for request in REQUESTS:
            rows = [
                [
                    SERVER_NAMES[row["contender"]],
                    number(row["requests_per_second"]),
                    *(number(row[key], 2) for key in ("p50_ms", "p99_ms")),
                    whole(row["failures"]),
                ]
                for row in document["requests"]
                if (row["part"], row["request"]) == (part["part"], request)
            ]
            if rows:
                head = ["", "requests a second", "p50, ms", "p99, ms", "failures"]
                title = f"{HEADS[request]} ({request}), the median round"
                yield Table(title, head, rows)
        if part["locked"] is not None:
            times = [
                f"{SERVER_NAMES[name]} {whole(lines)}"
                for name, lines in part["locked"].items()
            ]
            yield f'Lines of the log that say "database is locked": {several(times)}.'


def server_aims(document: Document) -> Blocks:
    """The aims, and what came of each."""
    parts = {part["part"]: part for part in document["parts"]}
    rows = [
        [
            whole(parts[aim["part"]]["threads"]),
            aim["request"],
            SERVER_NAMES[aim["over"]],
            f"{aim['ratio']:.2f}",
            f"{aim['aim']:.2f}",
            blocks.verdict(aim["met"]),
        ]
        for aim in document["aims"]
    ]
    if rows:
        yield Table(
            "Requests a second, as many times those of the other as this",
            ["threads a worker", "request", "the other", "ours", "at least", ""],
            rows,
            labels=3,
        )


def growth_databases(document: Document) -> Blocks:
    """A section for each database."""
    for result in document["databases"]:
        name, grown = result["database"], result["grown"]
        kinds = list(grown[0]["median"])

        def costs(each: Document, kinds: Sequence[str] = kinds) -> list[str]:
            median, ratio = each["median"], each["ratio"]
            return [f"{number(median[kind])} ({ratio[kind]:.2f})" for kind in kinds]

        yield blocks.Section(name)
        yield (
            f"Sessions of {whole(result['payload'])} bytes. Memory for pages:"
            f" {result['memory']}."
        )
        yield Table(
            f"{name}: microseconds, and how many times those of the smallest table",
            ["rows", "in use", *kinds],
            [
                [whole(each["rows"]), whole(each["working_set"]), *costs(each)]
                for each in grown
            ],
        )
        most = max(
            each["ratio"][kind] for each in grown for kind in kinds if kind != ANY
        )
        yield (
            f"Requests for sessions in use cost at most {most:.2f} times what they do"
            f" in the smallest table; {MOST_RATIO:.2f} times is the aim:"
            f" {blocks.verdict(most <= MOST_RATIO)}."
        )
        yield sizes(name, [each for each in grown if each["size"] is not None])
        if result["steady"] is not None:
            yield from steady(result["steady"])


def parts(size: Any, indexes: Iterable[str]) -> list[Any]:
    """The bytes of a table, of what is kept apart because it is long, and of these."""
    found = [size["indexes"].get(name, 0) for name in indexes]
    return [size["table"], size["toast"], *found]


def sizes(name: str, grown: Sequence[Document]) -> Block:
    """What a row takes."""
    if not grown:
        return "How much a row takes, this database was not built to tell."
    names = list(grown[0]["size"]["indexes"])

    def row(each: Document) -> list[str]:
        table, toast, *indexes = parts(each["size"], names)
        found = [table + toast, *indexes]
        return [whole(each["rows"]), *(whole(part / each["rows"]) for part in found)]

    title = f"{name}: bytes a row, of the table and of its indexes"
    return Table(title, ["rows", "table", *names], [row(each) for each in grown])


def steady(found: Document) -> Blocks:
    """What became of a table under steady load."""
    names = list(found["before"]["indexes"])

    def row(when: str) -> list[str]:
        size = [f"{part / 1e6:,.1f}" for part in parts(found[when], names)]
        return [when, whole(found[f"rows_{when}"]), *size]

    last = found["last_hot"] / found["last_updates"] if found["last_updates"] else 0
    yield (
        f"Under steady load, {number(found['days'])} days of a site,"
        f" {share(found['hot_share'])} of {whole(found['updates'])} updates were HOT,"
        f" in the last quarter {share(last)}. {share(LEAST_HOT)} is the aim:"
        f" {blocks.verdict(found['hot_share'] >= LEAST_HOT)}."
        f" {whole(found['inserted'])} sessions began, {whole(found['purged'])} were"
        f" purged, and the table was vacuumed {whole(found['vacuums'])} times. A row"
        f" takes {found['growth']:.2f} times what it took in the fresh table, indexes"
        " and all."
    )
    yield Table(
        "Under steady load: megabytes of the table, of what is kept apart because"
        " it is long (TOAST), and of the indexes",
        ["", "rows", "table", "TOAST", *names],
        [row("before"), row("after")],
    )


STEPS = {
    "import": "import",
    "session": "``Session(app)``",
    "start": "both",
    "request": "first request",
    "total": "all, Flask included",
}


def starts(document: Document) -> Blocks:
    """What it takes to start, for each database."""

    def row(start: Document) -> list[str]:
        steps = [number(start["milliseconds"][step]) for step in STEPS]
        return [start["contender"], *steps, number(start["resident"])]

    found = document.get("starts", ())
    for name in dict.fromkeys(start["database"] for start in found):
        yield Table(
            f"{name}: milliseconds, and the memory of the process at the end",
            ["", *STEPS.values(), "MiB"],
            [row(start) for start in found if start["database"] == name],
        )


def memory(document: Document) -> Blocks:
    """Whether processes stay as they are."""
    rows = []
    grown = []
    for found in document.get("memory", ()):
        title = f"{found['database']}, {count(found['threads'], 'thread')}"
        for label, sample in ((title, found["samples"][0]), ("", found["samples"][-1])):
            counted = (sample[name] for name in ("blocks", "files", "connections"))
            cells = [whole(sample["requests"]), f"{sample['resident'] / 2**20:,.1f}"]
            rows.append([label, *cells, *map(whole, counted)])
        bytes_more = f"{found['slopes']['resident']:+.2f} bytes"
        blocks_more = f"{found['slopes']['blocks']:+.4f}"
        rows.append(["more with each request", "", bytes_more, blocks_more, "", ""])
        grown += [f"{name} ({title})" for name in found["grown"]]
    if not rows:
        return
    yield Table(
        "The first look, after the warm-up, and the last one",
        ["", "requests", "MiB", "Python's blocks", "files", "connections"],
        rows,
    )
    if grown:
        yield f"More than is allowed was left of: {several(grown)}."
    else:
        yield "Nothing has grown by more than is allowed."


def purges(document: Document) -> Blocks:
    """How much requests notice of a purge."""
    found = document["databases"]

    def row(purge: Document, kind: str) -> list[str]:
        labels = ["", "", kind]
        if kind == READ:
            labels = [purge["database"], f"{purge['seconds']:,.0f} s", kind]
        times = [f"{time:.2f}" for time in purge["median"][kind]]
        return [*labels, *times, f"{purge['ratio'][kind]:.2f}"]

    yield Table(
        "Milliseconds that a request spends on its session, medians",
        ["", "the purge took", "", "quiet", "during the purge", "ratio"],
        [row(purge, kind) for purge in found for kind in (READ, WRITE)],
        labels=3,
    )
    for each in found:
        yield (
            f"{each['database']}: {whole(each['expired'])} of {whole(each['rows'])}"
            f" rows were deleted, beside {count(each['clients'], 'client')};"
            f" {whole(each['failures'])} requests failed. Memory for pages:"
            f" {each['memory']}."
        )


#: What shows the figures of each benchmark, in order.
PRINTED: dict[str, Sequence[Callable[[Document], Blocks]]] = {
    "cost": (cost_databases, larger, baskets, journals, cost_targets),
    "growth": (growth_databases,),
    "server": (server_parts, server_aims),
    "startup": (starts, memory),
    "purge": (purges,),
}
