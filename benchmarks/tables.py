"""The documentation's tables and sentences, made of the figures that the benchmarks
wrote.

Each function takes a benchmark's document and gives lines of reStructuredText. All
numbers are the document's, rounded; a sentence that holds for some figures only is
there for those only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.figures import (
    COST_TITLE,
    HEADS,
    NAMES,
    SERVER_NAMES,
    SERVER_TITLE,
    cost_name,
    server_name,
)
from benchmarks.growth import ANY, LEAST_HOT, MOST_RATIO
from benchmarks.peers import (
    COOKIE,
    DJANGO,
    DJANGO_NOTHING,
    FLASK_SESSION,
    FLASK_SESSION_REDIS,
    NOTHING,
    OURS,
    RAW,
    READ,
    REQUESTS,
    UNTOUCHED,
    WRITE,
)
from benchmarks.targets import SIZE

#: What a benchmark wrote.
Document = Mapping[str, Any]
#: Stands where there is no figure.
NO_FIGURE = "–"  # noqa: RUF001 -- a dash is what is meant


# Words.


def number(value: float | None, digits: int = 1) -> str:
    """A figure as it is read: with so many decimals if it is small, and none from 10
    on.
    """
    if value is None or not math.isfinite(value):
        return NO_FIGURE
    if abs(value) >= 10:
        digits = 0
    # Adding 0 makes a zero of a negative one.
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def whole(value: float) -> str:
    """A figure that is counted."""
    return f"{value:,.0f}"


def share(value: float) -> str:
    """A share of 1, in per cent."""
    return f"{100 * value:.1f} %"


def several(parts: Sequence[str]) -> str:
    """An enumeration."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def count(value: int, one: str) -> str:
    """So many of something."""
    return f"{value:,} {one}" if value == 1 else f"{value:,} {one}s"


def table(
    title: str, head: Sequence[str], rows: Iterable[Sequence[str]], labels: int = 1
) -> list[str]:
    """A table of figures.

    :param labels: how many columns at the left say what a row is about.
    """
    lines = [
        f".. list-table:: {title}",
        "   :class: measured",
        "   :header-rows: 1",
        f"   :stub-columns: {labels}",
        "",
    ]
    for row in (head, *rows):
        for place, cell in enumerate(row):
            lines.append(f"   {' ' if place else '*'} - {cell}".rstrip())
    return [*lines, ""]


def titled(title: str, *parts: Sequence[str]) -> list[str]:
    """A section."""
    lines = [title, "~" * len(title), ""]
    for part in parts:
        lines += [*part, ""]
    return lines


def picture(name: str, title: str) -> list[str]:
    """A picture, for light pages and for dark ones."""
    said = " ".join(title.split())
    lines = []
    for theme in ("light", "dark"):
        lines += [
            f".. image:: /_static/benchmarks/{name}-{theme}.svg",
            f"   :alt: {said}, as bars. The table has the figures.",
            f"   :class: only-{theme}",
            "",
        ]
    # In other formats, one is enough.
    return [".. only:: html", "", *(f"   {line}".rstrip() for line in lines), ""]


def setting(document: Document) -> list[str]:
    """When it was measured, and on what."""
    machine = document["machine"]
    versions = [f"{name} {version}" for name, version in document["versions"].items()]
    lines = [
        f"Measured on {document['date']} on {count(machine['cores'], 'core')}"
        f" ({machine['platform']}) with {machine['python']},"
        f" {several(versions)}.",
        "",
    ]
    if document.get("quick"):
        lines += [".. warning:: These figures are a try's, and mean nothing.", ""]
    return lines


# The cost of a request.


def overheads(document: Document, size: int = SIZE) -> dict[tuple[str, ...], Any]:
    """The cases by database, request and contender."""
    return {
        (case["database"], case["request"], case["contender"]): case
        for case in document["cases"]
        if case["payload"] == size
    }


def databases(document: Document) -> list[str]:
    """The databases that were measured."""
    return list(dict.fromkeys(case["database"] for case in document["cases"]))


def answer(document: Document) -> list[str]:
    """The answer in three sentences, a paragraph each."""
    cases = overheads(document)
    names = databases(document)

    def ours(request: str) -> list[float]:
        return [cases[name, request, OURS]["overhead"] for name in names]

    def times(request: str, other: str) -> str:
        ratios = (cases[name, request, other]["to_ours"] for name in names)
        return several([number(ratio, 2) for ratio in ratios])

    def more(request: str) -> str:
        return several([number(cost) for cost in ours(request)])

    lines = [
        f"On {several(names)}, a request that {what} its session of {SIZE} bytes takes"
        f" {more(request)} microseconds more than one in an application without"
        f" sessions; Flask's own signed cookie takes {times(request, COOKIE)} times as"
        " much as that, Flask-Session on the same database"
        f" {times(request, FLASK_SESSION)} times, and Flask-Session on Redis"
        f" {times(request, FLASK_SESSION_REDIS)} times."
        for what, request in (("reads", READ), ("changes", WRITE))
    ]
    sent = [cases[name, UNTOUCHED, OURS]["statements"] for name in names]
    lines.append(
        "A request that has a session and does not touch it takes"
        f" {more(UNTOUCHED)} microseconds more"
        + (", and sends nothing to the database." if not any(sent) else ".")
    )
    return [line for sentence in lines for line in (sentence, "")]


def cost_databases(document: Document) -> list[str]:
    """A section for each database."""
    cases = overheads(document)
    lines: list[str] = []
    for name in databases(document):
        bare = {
            base: cases.get((name, READ, base), {}).get("median")
            for base in (NOTHING, DJANGO_NOTHING)
        }
        lines += titled(
            name,
            [
                "Without sessions, a request takes"
                f" {number(bare[NOTHING])} microseconds with Flask, and"
                f" {number(bare[DJANGO_NOTHING])} with Django."
            ],
            picture(cost_name(name), COST_TITLE.format(database=name)),
            table(
                f"{name}: microseconds over an application without sessions, {SIZE}"
                " bytes in the session",
                ["", *REQUESTS],
                [
                    [
                        label,
                        *(
                            number(cases.get((name, request, key), {}).get("overhead"))
                            for request in REQUESTS
                        ),
                    ]
                    for key, label in NAMES.items()
                ],
            ),
            statements_table(name, cases),
        )
    return lines


def statements_table(
    database: str, cases: Mapping[tuple[str, ...], Any]
) -> Sequence[str]:
    """How many statements each request sends."""

    def sent(request: str, contender: str) -> str:
        found = cases.get((database, request, contender), {}).get("statements")
        return NO_FIGURE if found is None else whole(len(found))

    return table(
        f"{database}: statements a request, begins and ends of transactions among"
        " them; on Redis, commands",
        ["", *REQUESTS],
        [
            [NAMES[key], *(sent(request, key) for request in REQUESTS)]
            for key in (OURS, RAW, FLASK_SESSION_REDIS, DJANGO, FLASK_SESSION)
        ],
    )


def larger(document: Document) -> list[str]:
    """What larger sessions cost."""
    lines: list[str] = []
    sizes = sorted({case["payload"] for case in document["cases"]} - {SIZE})
    for name in databases(document):
        for size in sizes:
            cases = overheads(document, size)
            lines += table(
                f"{name}: microseconds over an application without sessions,"
                f" {whole(document['payloads'][str(size)])} bytes in the session",
                ["", *REQUESTS[1:]],
                [
                    [
                        label,
                        *(
                            number(cases.get((name, request, key), {}).get("overhead"))
                            for request in REQUESTS[1:]
                        ),
                    ]
                    for key, label in NAMES.items()
                    if (name, READ, key) in cases
                ],
            )
    return lines or ["None were measured.", ""]


def cost_targets(document: Document) -> list[str]:
    """The targets, and what came of each."""
    found = document["targets"]
    met = sum(target["met"] for target in found)

    def margin(target: Mapping[str, Any]) -> str:
        if target["most"] <= 0:
            return NO_FIGURE
        over = target["ours"] / target["most"] - 1
        return f"{share(abs(over))} {'over' if over > 0 else 'under'}"

    lines = [f"{whole(met)} of {whole(len(found))} are met.", ""]
    for name in databases(document):
        lines += table(
            f"{name}: microseconds, {SIZE} bytes in the session",
            ["request", "no more than", "ours", "at most", ""],
            [
                [
                    target["request"],
                    target["beside"],
                    f"{target['ours']:,.1f}",
                    f"{target['most']:,.1f}",
                    f"{verdict(target['met'])}, {margin(target)}",
                ]
                for target in found
                if target["database"] == name
            ],
            labels=2,
        )
    return lines


def verdict(is_met: bool) -> str:
    """What came of an aim."""
    return "met" if is_met else "**not met**"


# A whole server.


def server_parts(document: Document) -> list[str]:
    """A section for each part."""
    lines: list[str] = []
    for part in document["parts"]:
        workers = count(part["workers"], "worker")
        title = f"{part['database']}, {workers} of {count(part['threads'], 'thread')}"
        rows = [row for row in document["requests"] if row["part"] == part["part"]]
        least, most = part["load_cpu"]
        lines += titled(
            title,
            [
                f"{count(part['connections'], 'connection')},"
                f" {count(part['sessions'], 'session')} of"
                f" {document['payload_bytes']} bytes, rounds of"
                f" {part['seconds']} seconds; the load itself took {least:.2f} to"
                f" {most:.2f} of one core."
            ],
            picture(server_name(part["part"]), SERVER_TITLE.format(**part)),
            *(requests_table(rows, request) for request in REQUESTS),
            locked(part),
        )
    return lines


def requests_table(rows: Sequence[Mapping[str, Any]], request: str) -> list[str]:
    """What one kind of requests came to; nothing if it was not measured."""
    found = [row for row in rows if row["request"] == request]
    if not found:
        return []
    return table(
        f"{HEADS[request]} ({request}), the median round",
        ["", "requests a second", "p50, ms", "p99, ms", "failures"],
        [
            [
                SERVER_NAMES[row["contender"]],
                number(row["requests_per_second"]),
                number(row["p50_ms"], 2),
                number(row["p99_ms"], 2),
                whole(row["failures"]),
            ]
            for row in found
        ],
    )


def locked(part: Mapping[str, Any]) -> list[str]:
    """How often a SQLite file was locked."""
    if part["locked"] is None:
        return []
    times = [
        f"{SERVER_NAMES[name]} {whole(lines)}" for name, lines in part["locked"].items()
    ]
    return [f'Lines of the log that say "database is locked": {several(times)}.']


def server_aims(document: Document) -> list[str]:
    """The aims, and what came of each."""
    parts = {part["part"]: part for part in document["parts"]}
    return table(
        "Requests a second, as many times those of the other as this",
        ["threads a worker", "request", "the other", "ours", "at least", ""],
        [
            [
                whole(parts[aim["part"]]["threads"]),
                aim["request"],
                SERVER_NAMES[aim["over"]],
                f"{aim['ratio']:.2f}",
                f"{aim['aim']:.2f}",
                verdict(aim["met"]),
            ]
            for aim in document["aims"]
        ],
        labels=3,
    )


# Growth.


def growth_databases(document: Document) -> list[str]:
    """A section for each database."""
    lines: list[str] = []
    for result in document["databases"]:
        kinds = list(result["grown"][0]["median"])
        lines += titled(
            result["database"],
            [
                f"Sessions of {whole(result['payload'])} bytes. Memory for pages:"
                f" {result['memory']}."
            ],
            table(
                f"{result['database']}: microseconds, and how many times those of the"
                " smallest table",
                ["rows", "in use", *kinds],
                [
                    [
                        whole(each["rows"]),
                        whole(each["working_set"]),
                        *(
                            f"{number(each['median'][kind])}"
                            f" ({each['ratio'][kind]:.2f})"
                            for kind in kinds
                        ),
                    ]
                    for each in result["grown"]
                ],
            ),
            [warm_aim(result)],
            sizes_table(result),
            steady(result["steady"]),
        )
    return lines


def warm_aim(result: Mapping[str, Any]) -> str:
    """What came of the aim for requests whose rows are in memory."""
    most = max(
        ratio
        for each in result["grown"]
        for kind, ratio in each["ratio"].items()
        if kind != ANY
    )
    return (
        f"Requests for sessions in use cost at most {most:.2f} times what they do in"
        f" the smallest table; {MOST_RATIO:.2f} times is the aim:"
        f" {verdict(most <= MOST_RATIO)}."
    )


def sizes_table(result: Mapping[str, Any]) -> list[str]:
    """What a row takes."""
    grown = [each for each in result["grown"] if each["size"] is not None]
    if not grown:
        return ["How much a row takes, this database was not built to tell."]
    indexes = list(grown[0]["size"]["indexes"])
    return table(
        f"{result['database']}: bytes a row, of the table and of its indexes",
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


def steady(found: Mapping[str, Any] | None) -> list[str]:
    """What became of a table under steady load."""
    if found is None:
        return []
    before, after = found["before"], found["after"]
    names = list(before["indexes"])

    def megabytes(size: Mapping[str, Any]) -> list[str]:
        parts = [size["table"], size["toast"]]
        parts += [size["indexes"].get(name, 0) for name in names]
        return [f"{part / 1e6:,.1f}" for part in parts]

    last = found["last_hot"] / found["last_updates"] if found["last_updates"] else 0
    inserted, purged = whole(found["inserted"]), whole(found["purged"])
    return [
        f"Under steady load, {number(found['days'])} days of a site,"
        f" {share(found['hot_share'])} of {whole(found['updates'])} updates were HOT,"
        f" in the last quarter {share(last)}. {share(LEAST_HOT)} is the aim:"
        f" {verdict(found['hot_share'] >= LEAST_HOT)}."
        f" {inserted} sessions began, {purged} were purged, and the table was vacuumed"
        f" {whole(found['vacuums'])} times. A row takes {found['growth']:.2f} times"
        " what it took in the fresh table, indexes and all.",
        "",
        *table(
            "Under steady load: megabytes of the table, of what is kept apart because"
            " it is long (TOAST), and of the indexes",
            ["", "rows", "table", "TOAST", *names],
            [
                ["before", whole(found["rows_before"]), *megabytes(before)],
                ["after", whole(found["rows_after"]), *megabytes(after)],
            ],
        ),
    ]


# Start-up and memory.


def starts(document: Document) -> list[str]:
    """What it takes to start, for each database."""
    steps = {
        "import": "import",
        "session": "``Session(app)``",
        "start": "both",
        "request": "first request",
        "total": "all, Flask included",
    }
    found = document["starts"]
    lines: list[str] = []
    for name in dict.fromkeys(start["database"] for start in found):
        lines += table(
            f"{name}: milliseconds, and the memory of the process at the end",
            ["", *steps.values(), "MiB"],
            [
                [
                    start["contender"],
                    *(number(start["milliseconds"][step]) for step in steps),
                    number(start["resident"]),
                ]
                for start in found
                if start["database"] == name
            ],
        )
    return lines


def memory(document: Document) -> list[str]:
    """Whether processes stay as they are."""

    def more(sample: Mapping[str, Any]) -> list[str]:
        return [
            whole(sample["requests"]),
            f"{sample['resident'] / 2**20:,.1f}",
            *(whole(sample[name]) for name in ("blocks", "files", "connections")),
        ]

    rows = []
    grown = []
    for found in document["memory"]:
        title = f"{found['database']}, {count(found['threads'], 'thread')}"
        samples = found["samples"]
        rows += [[title, *more(samples[0])], ["", *more(samples[-1])]]
        rows.append(
            [
                "more with each request",
                "",
                f"{found['slopes']['resident']:+.2f} bytes",
                f"{found['slopes']['blocks']:+.4f}",
                *("", ""),
            ]
        )
        grown += [f"{name} ({title})" for name in found["grown"]]
    lines = table(
        "The first look, after the warm-up, and the last one",
        ["", "requests", "MiB", "Python's blocks", "files", "connections"],
        rows,
    )
    if grown:
        return [*lines, f"More than is allowed was left of: {several(grown)}.", ""]
    return [*lines, "Nothing has grown by more than is allowed.", ""]


#: What can be shown, by its name: the benchmark whose figures it takes, and what shows
#: them.
SHOWN: dict[str, tuple[str, Callable[[Document], list[str]]]] = {
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
}
