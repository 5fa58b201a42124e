"""The documentation's pictures, drawn from the figures that the benchmarks wrote.

Each is drawn twice, for light pages and for dark ones, on a transparent ground, 480
pixels wide, so that it can be read on a telephone. Its metadata holds the SHA-256 of
the figures, by which a test sees that picture and figures belong together. The same
figures give the same file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from benchmarks import peers, results
from benchmarks.results import Document
from benchmarks.targets import SIZE

#: Where the pictures are.
PICTURES = Path(__file__).parents[1] / "docs" / "_static" / "benchmarks"

NAMES = {
    peers.OURS: "Flask-SessionSql",
    peers.RAW: "written by hand",
    peers.COOKIE: "Flask's cookie",
    peers.FLASK_SESSION_REDIS: "Flask-Session, Redis",
    peers.DJANGO: "Django",
    peers.FLASK_SESSION: "Flask-Session",
}
#: On a server, the application without sessions is one among them.
SERVER_NAMES = {peers.NOTHING: "without sessions", **NAMES}
#: What stands above the bars of a request.
HEADS = {
    peers.UNTOUCHED: "The view does not touch its session",
    peers.READ: "It reads its session",
    peers.WRITE: "It changes its session",
    peers.NEW: "It begins a session",
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

#: Pixels: of the picture, of a line of the title, of a bar and of what stands above the
#: bars, of the space below them, and what the labels take on the left and the values on
#: the right.
WIDTH, LINE, ROW, HEAD, GAP, LEFT, RIGHT = 480, 22, 21, 27, 12, 184, 56


@dataclass(frozen=True)
class Theme:
    """The colours for one kind of page: of the text, of our bars, and of all others."""

    name: str
    text: str
    ours: str
    others: str


THEMES = (
    Theme("light", text="#1a1c1e", ours="#0a4bff", others="#8a929b"),
    Theme("dark", text="#e6e8ea", ours="#5ca5ff", others="#7d8590"),
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


def bar_chart(title: str, groups: Groups, theme: Theme, identifier: str) -> str:
    """Draw horizontal bars as SVG.

    :param identifier: what the metadata hold.
    """
    lines = title.split("\n")
    top = len(lines) * LINE + 6
    height = top + sum(HEAD + GAP + ROW * len(bars) for bars in groups.values())
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        f' viewBox="0 0 {WIDTH} {height}" font-family="DejaVu Sans, sans-serif"'
        f' font-size="15" fill="{theme.text}">',
        f"<title>{escape(title.replace(chr(10), ' '))}</title>",
        f"<metadata>{identifier}</metadata>",
        *(
            _text(0, LINE * (number + 0.5), line, "start")
            for number, line in enumerate(lines)
        ),
        *_bars(groups, theme, top),
        "</svg>",
    ]
    return "\n".join([*drawn, ""])


def _bars(groups: Groups, theme: Theme, top: float) -> Iterator[str]:
    """The bars, from ``top`` on, and what stands beside them."""
    most = max(value for bars in groups.values() for value in bars.values())
    for head, bars in groups.items():
        yield _text(0, top + HEAD / 2, head, "start", bold=True)
        top += HEAD
        for name, value in bars.items():
            # Even the least bar can be seen.
            length = max(value * (WIDTH - LEFT - RIGHT) / most, 2)
            ours, middle = name == peers.OURS, top + ROW / 2
            yield _text(LEFT - 7, middle, SERVER_NAMES[name], "end", bold=ours)
            yield (
                f'<rect x="{LEFT}" y="{top + 2.5}" width="{length:.2f}"'
                f' height="{ROW - 5}" fill="{theme.ours if ours else theme.others}"/>'
            )
            shown = f"{max(value, 0):,.0f}"
            yield _text(LEFT + length + 5, middle, shown, "start", bold=ours)
            top += ROW
        top += GAP


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.2f}" y="{y:g}" text-anchor="{anchor}"'
        f' dominant-baseline="central"{weight}>{escape(text, quote=False)}</text>'
    )


def cost_name(database: str) -> str:
    """How the names of a database's pictures begin."""
    return f"cost-{database.lower()}"


def server_name(part: str) -> str:
    """How the names of the pictures of a part of ``server`` begin."""
    return f"server-{part}"


def cost_charts(document: Document) -> Iterator[tuple[str, str, Groups]]:
    """The name, the title and the bars of each picture of ``cost``."""
    for database in dict.fromkeys(case["database"] for case in document["cases"]):
        cases = [
            case
            for case in document["cases"]
            if (case["database"], case["payload"]) == (database, SIZE)
        ]
        title = COST_TITLE.format(database=database)
        yield cost_name(database), title, groups_of(cases, "overhead", NAMES)


def server_charts(document: Document) -> Iterator[tuple[str, str, Groups]]:
    """Likewise of ``server``."""
    for part in document["parts"]:
        rows = [row for row in document["requests"] if row["part"] == part["part"]]
        groups = groups_of(rows, "requests_per_second", SERVER_NAMES)
        yield server_name(part["part"]), SERVER_TITLE.format(**part), groups


#: What draws the pictures, by the name of the benchmark, and where its figures are.
DRAWN = {"cost": (cost_charts, "cases"), "server": (server_charts, "requests")}


def main(arguments: list[str] | None = None) -> int:
    """Draw all pictures. The exit code.

    :param arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0; 1 if there are no figures; 2 if the options are wrong",
    )
    for flag, default, text in (
        ("--results", results.RESULTS, "figures are (default: benchmarks/results)"),
        ("--output", PICTURES, "pictures go (default: docs/_static/benchmarks)"),
    ):
        parser.add_argument(
            flag, type=Path, default=default, metavar="FOLDER", help=f"where the {text}"
        )
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, (charts, rows) in DRAWN.items():
        source = options.results / f"{name}.json"
        if not source.is_file():
            print(
                f"There are no figures in {source}. Run 'python -m benchmarks {name}"
                f" --json {source}' first.",
                file=sys.stderr,
            )
            return 1
        document = results.load(source)
        identifier = f"sha256:{digest(document[rows])}"
        for picture, title, groups in charts(document):
            for theme in THEMES:
                path = options.output / f"{picture}-{theme.name}.svg"
                path.write_text(bar_chart(title, groups, theme, identifier), "utf-8")
                print(path)
    return 0
