"""What the benchmarks write down: figures, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

#: What a benchmark wrote, or a part of it.
Document = Mapping[str, Any]

#: Where the figures are that the documentation shows.
RESULTS = Path(__file__).parent / "results"
#: What everybody uses.
PACKAGES = ("Flask", "Werkzeug", "Flask-SQLAlchemy", "SQLAlchemy", "msgspec")


def document(
    name: str, figures: Document, packages: Iterable[str] = ()
) -> dict[str, Any]:
    """What is written to a file.

    :param name: the benchmark's.
    :param figures: what it came to; its ``versions`` are those of other programs.
    :param packages: whose versions matter besides those that everybody uses.
    """
    found = {}
    for package in (*PACKAGES, *packages):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        # What it was measured on, without its name.
        "machine": {
            "cores": len(os.sched_getaffinity(0)),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": f"{platform.system()} {platform.machine()}",
        },
        **merged({"versions": found}, figures),
    }


def merged(old: Document, new: Document) -> dict[str, Any]:
    """The new document, with what the old one has of parts, or of databases, that were
    not measured now. Everything keeps its place.
    """
    both = {**old, **new}
    for key in old.keys() & new.keys():
        if isinstance(new[key], list):
            places: dict[str, list[Any]] = {}
            for rows in (old[key], new[key]):
                found = defaultdict(list)
                for row in rows:
                    # What it is about: a part, or a database, whatever its version.
                    place = row.get("part") or row["database"].split()[0]
                    found[place].append(row)
                places |= found
            both[key] = list(chain(*places.values()))
        elif isinstance(new[key], dict):
            both[key] = {**old[key], **new[key]}
    return both


def write(path: Path, what: Document) -> None:
    """Write a document to a file, whose directory is created. What it does not have of
    the one that is there is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    what = merged(load(path), what) if path.exists() else what
    text = json.dumps(what, indent=1, ensure_ascii=False)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(f"{text}\n", encoding="utf-8")
    unfinished.replace(path)


def load(path: Path) -> dict[str, Any]:
    """A document that was written."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
