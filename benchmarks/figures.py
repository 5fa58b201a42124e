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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.peers import (
    COOKIE,
    DJANGO,
    FLASK_SESSION,
    FLASK_SESSION_REDIS,
    NEW,
    NOTHING,
    OURS,
    RAW,
    READ,
    UNTOUCHED,
    WRITE,
)
from benchmarks.targets import SIZE

#: Where the pictures are.
PICTURES = Path(__file__).parents[1] / "docs" / "_static" / "benchmarks"

NAMES = {
    OURS: "Flask-SessionSql",
    RAW: "written by hand",
    COOKIE: "Flask's cookie",
    FLASK_SESSION_REDIS: "Flask-Session, Redis",
    DJANGO: "Django",
    FLASK_SESSION: "Flask-Session",
}
#: On a server, the application without sessions is one among them.
SERVER_NAMES = {NOTHING: "without sessions", **NAMES}
#: What stands above the bars of a request.
HEADS = {
    UNTOUCHED: "The view does not touch its session",
    READ: "It reads its session",
    WRITE: "It changes its session",
    NEW: "It begins a session",
}

#: What stands above the pictures.
COST_TITLE = (
    "{database}: microseconds a request, over an\napplication without sessions;"
    f" {SIZE} bytes in the session"
)
SERVER_TITLE = (
    "Requests a second: {database}, gunicorn with\n{workers} workers, threads in each:"
    " {threads}"
)

#: Points, of which 72 are an inch and 96 pixels.
WIDTH, ROW, HEAD, GAP, FONT = 360.0, 16.0, 20.0, 9.0, 11.5


@dataclass(frozen=True)
class Theme:
    """The colours for one kind of page."""

    name: str
    text: str
    #: Of our bars, and of all others.
    ours: str
    others: str


THEMES = (
    Theme("light", text="#1a1c1e", ours="#0a4bff", others="#8a929b"),
    Theme("dark", text="#e6e8ea", ours="#5ca5ff", others="#7d8590"),
)


@dataclass(frozen=True)
class Bar:
    """One bar."""

    label: str
    value: float
    #: What stands at its end.
    text: str
    #: Whether it is ours.
    ours: bool


#: Bars by what stands above them.
Groups = Mapping[str, Sequence[Bar]]


def digest(figures: object) -> str:
    """The SHA-256 of what a picture was drawn from, in hexadecimal digits."""
    text = json.dumps(figures, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def bar_chart(title: str, groups: Groups, theme: Theme, identifier: str) -> bytes:
    """Draw horizontal bars as SVG.

    :param identifier: what the metadata hold.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    lines = title.count("\n") + 1
    top = lines * 1.5 * FONT + 4
    height = top + sum(HEAD + GAP + ROW * len(bars) for bars in groups.values())
    settings: Any = {
        # The first comes with matplotlib, and so measures what is drawn.
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": FONT,
        "svg.fonttype": "none",
        "svg.hashsalt": "benchmarks",
        "text.color": theme.text,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        axes.axis("off")
        axes.text(0, 2, title, va="top", linespacing=1.4)
        _draw_groups(axes, groups, theme, top)
        file = BytesIO()
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata={
                "Date": None,
                "Creator": None,
                "Title": title.replace("\n", " "),
                "Identifier": identifier,
            },
        )
    return _without_spaces(file.getvalue())


def _draw_groups(axes: Any, groups: Groups, theme: Theme, top: float) -> None:
    """Draw the bars.

    :param top: where the first group begins, in points from above.
    """
    # In points: what the labels take on the left, and the values on the right.
    left, right = 138.0, 42.0
    most = max(bar.value for bars in groups.values() for bar in bars)
    scale = (WIDTH - left - right) / most
    for head, bars in groups.items():
        axes.text(0, top + HEAD / 2, head, va="center", weight="bold")
        top += HEAD
        for bar in bars:
            middle = top + ROW / 2
            # Even the least bar can be seen.
            length = max(bar.value * scale, 1.5)
            colour = theme.ours if bar.ours else theme.others
            weight = "bold" if bar.ours else "normal"
            axes.barh(middle, length, height=ROW - 4, left=left, color=colour)
            axes.text(
                left - 5, middle, bar.label, ha="right", va="center", weight=weight
            )
            axes.text(left + length + 4, middle, bar.text, va="center", weight=weight)
            top += ROW
        top += GAP


def _without_spaces(svg: bytes) -> bytes:
    """Lines without the spaces at their ends, which matplotlib leaves."""
    return b"\n".join(line.rstrip() for line in svg.splitlines()) + b"\n"


def cost_name(database: str) -> str:
    """How the names of a database's pictures begin."""
    return f"cost-{database.lower()}"


def cost_groups(cases: Sequence[Mapping[str, Any]], database: str) -> Groups:
    """The bars of one database, from the cases of ``cost``."""
    overheads = {
        (case["request"], case["contender"]): case["overhead"]
        for case in cases
        if case["database"] == database and case["payload"] == SIZE
    }
    return {
        head: [
            Bar(name, max(overhead, 0.0), f"{max(overhead, 0):,.0f}", contender == OURS)
            for contender, name in NAMES.items()
            if (overhead := overheads.get((request, contender))) is not None
        ]
        for request, head in HEADS.items()
    }


def cost_pictures(document: Mapping[str, Any]) -> dict[str, bytes]:
    """The pictures of ``cost``, one for each database and theme, by their names."""
    cases = document["cases"]
    identifier = f"sha256:{digest(cases)}"
    return {
        f"{cost_name(database)}-{theme.name}.svg": bar_chart(
            COST_TITLE.format(database=database),
            cost_groups(cases, database),
            theme,
            identifier,
        )
        for database in dict.fromkeys(case["database"] for case in cases)
        for theme in THEMES
    }


def server_name(part: str) -> str:
    """How the names of the pictures of a part of ``server`` begin."""
    return f"server-{part}"


def server_groups(rows: Sequence[Mapping[str, Any]], part: str) -> Groups:
    """The bars of one part, from the rows of ``server``."""
    rates = {
        (row["request"], row["contender"]): row["requests_per_second"]
        for row in rows
        if row["part"] == part
    }
    groups = {
        head: [
            Bar(name, rate, f"{rate:,.0f}", contender == OURS)
            for contender, name in SERVER_NAMES.items()
            if (rate := rates.get((request, contender))) is not None
        ]
        for request, head in HEADS.items()
    }
    return {head: bars for head, bars in groups.items() if bars}


def server_pictures(document: Mapping[str, Any]) -> dict[str, bytes]:
    """The pictures of ``server``, one for each part and theme, by their names."""
    rows = document["requests"]
    identifier = f"sha256:{digest(rows)}"
    return {
        f"{server_name(part['part'])}-{theme.name}.svg": bar_chart(
            SERVER_TITLE.format(**part),
            server_groups(rows, part["part"]),
            theme,
            identifier,
        )
        for part in document["parts"]
        for theme in THEMES
    }


#: What draws the pictures, by the name of the benchmark.
DRAWN = {"cost": cost_pictures, "server": server_pictures}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options.

    :param arguments: instead of those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit code: 0; 1 if there are no figures; 2 if the options are wrong",
    )
    add = parser.add_argument
    add(
        "--results",
        type=Path,
        default=results.RESULTS,
        metavar="DIRECTORY",
        help="where the figures are (default: benchmarks/results)",
    )
    add(
        "--output",
        type=Path,
        default=PICTURES,
        metavar="DIRECTORY",
        help="where the pictures go (default: docs/_static/benchmarks)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Draw all pictures. The exit code.

    :param arguments: instead of those of the process.
    """
    options = parse(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWN.items():
        source = options.results / f"{name}.json"
        if not source.is_file():
            print(
                f"There are no figures in {source}. Run 'python -m benchmarks {name}"
                f" --json {source}' first.",
                file=sys.stderr,
            )
            return 1
        for picture, content in draw(results.load(source)).items():
            (options.output / picture).write_bytes(content)
            print(options.output / picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
