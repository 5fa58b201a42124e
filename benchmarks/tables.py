"""The documentation's tables and sentences, made of the figures that the benchmarks
wrote; a benchmark prints the same.

Each function takes a benchmark's document, or a part of it, and yields blocks. All
numbers are the document's, rounded; a sentence that holds for some figures only is
there for those only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks import blocks, figures, peers
from benchmarks.blocks import Block, Table, count, number, several, share, whole
from benchmarks.figures import NAMES, SERVER_NAMES
from benchmarks.peers import OURS, READ, REQUESTS, UNTOUCHED, WRITE
from benchmarks.results import Document
from benchmarks.targets import ANY, LEAST_HOT, MOST_RATIO, SIZE

Blocks = Iterator[Block]


def setting(document: Document) -> Blocks:
    """When it was measured, and on what."""
    machine = document["machine"]
    versions = [f"{name} {version}" for name, version in document["versions"].items()]
    yield (
        f"Measured on {document['date']} on {count(machine['cores'], 'core')}"
        f" ({machine['platform']}) with {machine['python']},"
        f" {several(versions)}."
    )
    if document.get("quick"):
        yield ".. warning:: These figures are a try's, and mean nothing."


# The cost of a request.

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


def answer(document: Document) -> Blocks:
    """The answer in three sentences, a paragraph each."""
    cases = cases_of(document)
    names = databases(document)

    def times(request: str, other: str) -> str:
        ratios = (cases[name, request, other]["to_ours"] for name in names)
        return several([number(ratio, 2) for ratio in ratios])

    def more(request: str) -> str:
        ours = (cases[name, request, OURS]["overhead"] for name in names)
        return several([number(cost) for cost in ours])

    for what, request in (("reads", READ), ("changes", WRITE)):
        yield (
            f"On {several(names)}, a request that {what} its session of {SIZE} bytes"
            f" takes {more(request)} microseconds more than one in an application"
            f" without sessions; Flask's own signed cookie takes"
            f" {times(request, peers.COOKIE)} times as much as that, Flask-Session on the"
            f" same database {times(request, peers.FLASK_SESSION)} times, and Flask-Session"
            f" on Redis {times(request, peers.FLASK_SESSION_REDIS)} times."
        )
    sent = [cases[name, UNTOUCHED, OURS]["statements"] for name in names]
    yield (
        "A request that has a session and does not touch it takes"
        f" {more(UNTOUCHED)} microseconds more"
        + (", and sends nothing to the database." if not any(sent) else ".")
    )


def cost_table(
    title: str, database: str, cases: Cases, requests: Sequence[str]
) -> Table:
    """What each request costs each contender that could be measured."""

    def overhead(request: str, contender: str) -> str:
        return number(cases.get((database, request, contender), {}).get("overhead"))

    rows = [
        [name, *(overhead(request, key) for request in requests)]
        for key, name in NAMES.items()
        if (database, READ, key) in cases
    ]
    return Table(title, ["", *requests], rows)


def cost_databases(document: Document) -> Blocks:
    """A section for each database."""
    cases = cases_of(document)
    for name in databases(document):

        def bare(base: str, name: str = name) -> str:
            return number(cases.get((name, READ, base), {}).get("median"))

        def sent(request: str, contender: str, name: str = name) -> str:
            found = cases.get((name, request, contender), {}).get("statements")
            return blocks.NO_FIGURE if found is None else whole(len(found))

        yield blocks.Section(name)
        yield (
            f"Without sessions, a request takes {bare(peers.NOTHING)} microseconds with"
            f" Flask, and {bare(peers.DJANGO_NOTHING)} with Django."
        )
        yield blocks.Picture(
            figures.cost_name(name), figures.COST_TITLE.format(database=name)
        )
        yield cost_table(
            f"{name}: microseconds over an application without sessions, {SIZE}"
            " bytes in the session",
            name,
            cases,
            REQUESTS,
        )
        yield Table(
            f"{name}: statements a request, begins and ends of transactions among"
            " them; on Redis, commands",
            ["", *REQUESTS],
            [
                [NAMES[key], *(sent(request, key) for request in REQUESTS)]
                for key in (
                    OURS,
                    peers.RAW,
                    peers.FLASK_SESSION_REDIS,
                    peers.DJANGO,
                    peers.FLASK_SESSION,
                )
            ],
        )


def larger(document: Document) -> Blocks:
    """What larger sessions cost."""
    sizes = sorted({case["payload"] for case in document["cases"]} - {SIZE})
    if not sizes:
        yield "None were measured."
    for name in databases(document):
        for size in sizes:
            yield cost_table(
                f"{name}: microseconds over an application without sessions,"
                f" {whole(document['payloads'][str(size)])} bytes in the session",
                name,
                cases_of(document, size),
                REQUESTS[1:],
            )


def cost_targets(document: Document) -> Blocks:
    """The targets, and what came of each."""
    found = document["targets"]
    met = sum(target["met"] for target in found)

    def margin(target: Document) -> str:
        if target["most"] <= 0:
            return blocks.NO_FIGURE
        over = target["ours"] / target["most"] - 1
        return f"{share(abs(over))} {'over' if over > 0 else 'under'}"

    yield f"{whole(met)} of {whole(len(found))} are met."
    for name in databases(document):
        yield Table(
            f"{name}: microseconds, {SIZE} bytes in the session",
            ["request", "no more than", "ours", "at most", ""],
            [
                [
                    target["request"],
                    target["beside"],
                    f"{target['ours']:,.1f}",
                    f"{target['most']:,.1f}",
                    f"{blocks.verdict(target['met'])}, {margin(target)}",
                ]
                for target in found
                if target["database"] == name
            ],
            labels=2,
        )


# A whole server.


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
        yield blocks.Picture(
            figures.server_name(part["part"]), figures.SERVER_TITLE.format(**part)
        )
        for request in REQUESTS:
            rows = [
                [
                    SERVER_NAMES[row["contender"]],
                    number(row["requests_per_second"]),
                    number(row["p50_ms"], 2),
                    number(row["p99_ms"], 2),
                    whole(row["failures"]),
                ]
                for row in document["requests"]
                if (row["part"], row["request"]) == (part["part"], request)
            ]
            if rows:
                head = ["", "requests a second", "p50, ms", "p99, ms", "failures"]
                title = f"{figures.HEADS[request]} ({request}), the median round"
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


# Growth.


def growth_databases(document: Document) -> Blocks:
    """A section for each database."""
    for result in document["databases"]:
        name, grown = result["database"], result["grown"]
        kinds = list(grown[0]["median"])
        most = max(
            ratio
            for each in grown
            for kind, ratio in each["ratio"].items()
            if kind != ANY
        )
        yield blocks.Section(name)
        yield (
            f"Sessions of {whole(result['payload'])} bytes. Memory for pages:"
            f" {result['memory']}."
        )
        yield Table(
            f"{name}: microseconds, and how many times those of the smallest table",
            ["rows", "in use", *kinds],
            [
                [
                    whole(each["rows"]),
                    whole(each["working_set"]),
                    *(
                        f"{number(each['median'][kind])} ({each['ratio'][kind]:.2f})"
                        for kind in kinds
                    ),
                ]
                for each in grown
            ],
        )
        yield (
            f"Requests for sessions in use cost at most {most:.2f} times what they do"
            f" in the smallest table; {MOST_RATIO:.2f} times is the aim:"
            f" {blocks.verdict(most <= MOST_RATIO)}."
        )
        yield sizes(name, [each for each in grown if each["size"] is not None])
        if result["steady"] is not None:
            yield from steady(result["steady"])


def sizes(name: str, grown: Sequence[Document]) -> Block:
    """What a row takes."""
    if not grown:
        return "How much a row takes, this database was not built to tell."
    indexes = list(grown[0]["size"]["indexes"])
    return Table(
        f"{name}: bytes a row, of the table and of its indexes",
        ["rows", "table", *indexes],
        [
            [
                whole(each["rows"]),
                whole((each["size"]["table"] + each["size"]["toast"]) / each["rows"]),
                *(
                    whole(each["size"]["indexes"].get(name, 0) / each["rows"])
                    for name in indexes
                ),
            ]
            for each in grown
        ],
    )


def steady(found: Document) -> Blocks:
    """What became of a table under steady load."""
    names = list(found["before"]["indexes"])

    def megabytes(size: Document) -> list[str]:
        parts = [size["table"], size["toast"]]
        parts += [size["indexes"].get(name, 0) for name in names]
        return [f"{part / 1e6:,.1f}" for part in parts]

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
        [
            [when, whole(found[f"rows_{when}"]), *megabytes(found[when])]
            for when in ("before", "after")
        ],
    )


# Start-up and memory.

STEPS = {
    "import": "import",
    "session": "``Session(app)``",
    "start": "both",
    "request": "first request",
    "total": "all, Flask included",
}


def starts(document: Document) -> Blocks:
    """What it takes to start, for each database."""
    found = document.get("starts", ())
    for name in dict.fromkeys(start["database"] for start in found):
        yield Table(
            f"{name}: milliseconds, and the memory of the process at the end",
            ["", *STEPS.values(), "MiB"],
            [
                [
                    start["contender"],
                    *(number(start["milliseconds"][step]) for step in STEPS),
                    number(start["resident"]),
                ]
                for start in found
                if start["database"] == name
            ],
        )


def memory(document: Document) -> Blocks:
    """Whether processes stay as they are."""
    rows = []
    grown = []
    for found in document.get("memory", ()):
        title = f"{found['database']}, {count(found['threads'], 'thread')}"
        for label, sample in ((title, found["samples"][0]), ("", found["samples"][-1])):
            counted = (sample[name] for name in ("blocks", "files", "connections"))
            mebibytes = f"{sample['resident'] / 2**20:,.1f}"
            rows.append(
                [label, whole(sample["requests"]), mebibytes, *map(whole, counted)]
            )
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


# The purge.


def purges(document: Document) -> Blocks:
    """How much requests notice of a purge."""
    rows = [
        [
            found["database"] if not place else "",
            f"{found['seconds']:,.0f} s" if not place else "",
            kind,
            *(f"{time:.2f}" for time in found["median"][kind]),
            f"{found['ratio'][kind]:.2f}",
        ]
        for found in document["databases"]
        for place, kind in enumerate(found["median"])
    ]
    yield Table(
        "Milliseconds that a request spends on its session, medians",
        ["", "the purge took", "", "quiet", "during the purge", "ratio"],
        rows,
        labels=3,
    )
    for found in document["databases"]:
        yield (
            f"{found['database']}: {whole(found['expired'])} of"
            f" {whole(found['rows'])} rows were deleted, beside"
            f" {count(found['clients'], 'client')}; {whole(found['failures'])} requests"
            f" failed. Memory for pages: {found['memory']}."
        )
    # A part of a document is no page's.
    if "machine" in document:
        yield from setting(document)


#: What can be shown, by its name: the benchmark whose figures it takes, and what shows
#: them.
SHOWN: dict[str, tuple[str, Callable[[Document], Blocks]]] = {
    "answer": ("cost", answer),
    "cost-setting": ("cost", setting),
    "cost": ("cost", cost_databases),
    "larger": ("cost", larger),
    "targets": ("cost", cost_targets),
    "growth-setting": ("growth", setting),
    "growth": ("growth", growth_databases),
    "server-setting": ("server", setting),
    "server-aims": ("server", server_aims),
    "server": ("server", server_parts),
    "startup-setting": ("startup", setting),
    "starts": ("startup", starts),
    "memory": ("startup", memory),
    "purge": ("purge", purges),
}


def of_benchmark(name: str, part: Document) -> Blocks:
    """All that shows a part of a benchmark's figures, which is not the whole answer."""
    for benchmark, show in SHOWN.values():
        if benchmark == name and show not in {setting, answer}:
            yield from show(part)
