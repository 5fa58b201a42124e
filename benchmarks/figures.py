"""The documentation's pictures, drawn from the figures that the benchmarks wrote.

Each is drawn twice, for light pages and for dark ones, on a transparent ground, 480
pixels wide, so that it can be read on a telephone. Its metadata holds the SHA-256 of
the figures, by which a test sees that picture and figures belong together. The same
figures give the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from benchmarks import results
from benchmarks.frame import Benchmark, BrokenError, Options
from benchmarks.results import Document
from benchmarks.tables import COST_TITLE, HEADS, NAMES, SERVER_NAMES, SERVER_TITLE
from benchmarks.terms import OURS, OURS_ROLLBACK, RAW, READ, SIZE, WRITE

#: Where the pictures are.
PICTURES = Path(__file__).parents[1] / "docs" / "_static" / "benchmarks"

#: Pixels: of the picture, of a line of the title, of a bar and of what stands above the
#: bars, of the space below them, and what the labels take on the left and the values on
#: the right.
WIDTH, LINE, ROW, HEAD, GAP, LEFT, RIGHT = 480, 22, 21, 27, 12, 184, 56

#: For each kind of page, the colours of the text, of our bars, and of all others.
THEMES = {
    "light": ("#1a1c1e", "#0f5e7d", "#8a929b"),
    "dark": ("#e6e8ea", "#7fd0ee", "#7d8590"),
}

#: What the picture shows that is on the first page.
SHORT_DATABASE = "PostgreSQL"
SHORT_TITLE = (
    f"Microseconds that a session of {SIZE} bytes\n"
    f"adds to a request, on {SHORT_DATABASE}"
)

#: Contenders and their figures, by what stands above them.
Groups = Mapping[str, Mapping[str, float]]


def digest(figures: object) -> str:
    """The SHA-256 of what a picture was drawn from, in hexadecimal digits."""
    text = json.dumps(figures, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def groups_of(rows: Sequence[Document], key: str, names: Mapping[str, str]) -> Groups:
    """The figures of the contenders that have these names, in this order."""
    found = {(row["request"], row["contender"]): row[key] for row in rows}
    groups = {
        head: {name: found[request, name] for name in names if (request, name) in found}
        for request, head in HEADS.items()
    }
    return {head: bars for head, bars in groups.items() if bars}


def bar_chart(title: str, groups: Groups, theme: str, identifier: str) -> str:
    """Draw horizontal bars as SVG. The metadata hold the identifier."""
    colour, ours, others = THEMES[theme]
    most = max(value for bars in groups.values() for value in bars.values())
    drawn = []
    top = 0.0
    for line in title.split("\n"):
        drawn.append(_text(0, top + LINE / 2, line))
        top += LINE
    top += GAP / 2
    for head, bars in groups.items():
        drawn.append(_text(0, top + HEAD / 2, head, bold=True))
        top += HEAD
        for name, value in bars.items():
            # Even the least bar can be seen.
            length = max(value * (WIDTH - LEFT - RIGHT) / most, 2)
            middle, bold = top + ROW / 2, name == OURS
            drawn += [
                _text(LEFT - 7, middle, SERVER_NAMES[name], anchor="end", bold=bold),
                f'<rect x="{LEFT}" y="{top + 2.5}" width="{length:.2f}"'
                f' height="{ROW - 5}" fill="{ours if bold else others}"/>',
                _text(LEFT + length + 5, middle, f"{max(value, 0):,.0f}", bold=bold),
            ]
            top += ROW
        top += GAP
    first = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:g}"'
        f' viewBox="0 0 {WIDTH} {top:g}" font-family="DejaVu Sans, sans-serif"'
        f' font-size="15" fill="{colour}">',
        f"<title>{escape(' '.join(title.split()))}</title>",
        f"<metadata>{identifier}</metadata>",
    ]
    return "\n".join([*first, *drawn, "</svg>", ""])


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.2f}" y="{y:g}" text-anchor="{anchor}"'
        f' dominant-baseline="central"{weight}>{escape(text, quote=False)}</text>'
    )


def cost_charts(document: Document) -> Iterator[tuple[str, str, Groups]]:
    """The name, the title and the bars of each picture of ``cost``."""
    for database in dict.fromkeys(case["database"] for case in document["cases"]):
        cases = [
            case
            for case in document["cases"]
            if (case["database"], case["payload"]) == (database, SIZE)
            and case["contender"] != OURS_ROLLBACK
        ]
        title = COST_TITLE.format(database=database)
        groups = groups_of(cases, "overhead", NAMES)
        yield f"cost-{database.lower()}", title, groups
        if database == SHORT_DATABASE:
            peers = {name: shown for name, shown in NAMES.items() if name != RAW}
            few = [case for case in cases if case["request"] in (READ, WRITE)]
            yield "cost-short", SHORT_TITLE, groups_of(few, "overhead", peers)


def server_charts(document: Document) -> Iterator[tuple[str, str, Groups]]:
    """Likewise of ``server``."""
    for part in document["parts"]:
        rows = [row for row in document["requests"] if row["part"] == part["part"]]
        groups = groups_of(rows, "requests_per_second", SERVER_NAMES)
        yield f"server-{part['part']}", SERVER_TITLE.format(**part), groups


#: What draws the pictures, by the name of the benchmark, and where its figures are.
DRAWN = {"cost": (cost_charts, "cases"), "server": (server_charts, "requests")}


def run(options: Options) -> Iterator[dict[str, object]]:
    """Draw all pictures."""
    options.output.mkdir(parents=True, exist_ok=True)
    for name, (charts, rows) in DRAWN.items():
        source = options.results / f"{name}.json"
        if not source.is_file():
            raise BrokenError(
                f"there are no figures in {source}; run 'python -m benchmarks {name}"
                f" --json {source}' first"
            )
        document = results.load(source)
        identifier = f"sha256:{digest(document[rows])}"
        for picture, title, groups in charts(document):
            for theme in THEMES:
                path = options.output / f"{picture}-{theme}.svg"
                path.write_text(bar_chart(title, groups, theme, identifier), "utf-8")
                print(path)
    yield from ()


BENCHMARK = Benchmark(
    "figures",
    __doc__,
    run,
    options={
        "--results": {
            "type": Path,
            "default": results.RESULTS,
            "help": "where the figures are (default: benchmarks/results)",
        },
        "--output": {
            "type": Path,
            "default": PICTURES,
            "help": "where the pictures go (default: docs/_static/benchmarks)",
        },
    },
)
