"""What the benchmarks write down: figures, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

#: What a benchmark wrote, or a part of it.
Document = Mapping[str, Any]
NOTHING: Document = MappingProxyType({})

#: Where the figures are that the documentation shows.
RESULTS = Path(__file__).parent / "results"
#: What everybody uses.
PACKAGES = ("Flask", "Werkzeug", "Flask-SQLAlchemy", "SQLAlchemy", "msgspec")


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of the packages that are there, of those that all use and these."""
    found = {}
    for package in (*PACKAGES, *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def document(
    name: str, figures: Document, packages: Iterable[str] = ()
) -> dict[str, Any]:
    """What is written to a file.

    :param name: the benchmark's.
    :param figures: what it came to; its ``versions`` are those of other programs.
    :param packages: whose versions matter besides.
    """
    # What it was measured on, without its name.
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
    }
    date = datetime.now(UTC).date().isoformat()
    first = {"name": name, "date": date, "machine": machine}
    return {**first, **joined({"versions": versions(packages)}, figures)}


def joined(first: Document, second: Document) -> dict[str, Any]:
    """Two parts of a document as one: lists one after the other, and versions."""
    both = {**first, **second}
    for key, value in first.items():
        if key in second and isinstance(value, list):
            both[key] = [*value, *second[key]]
        elif key in second and isinstance(value, dict):
            both[key] = {**value, **second[key]}
    return both


def merged(path: Path, new: Document) -> Document:
    """The new document, with what the file has of parts, or of databases, that were
    not measured now. Everything keeps its place.
    """
    if not path.exists():
        return new
    old = load(path)
    both = dict(new)
    for key, rows in new.items():
        if not isinstance(rows, list):
            continue
        places: dict[str, list[Any]] = {}
        for document in (old.get(key, []), rows):
            found = defaultdict(list)
            for row in document:
                found[_place(row)].append(row)
            places |= found
        both[key] = list(chain(*places.values()))
    both["versions"] = {**old["versions"], **new["versions"]}
    return both


def _place(row: Document) -> str:
    """What a row is about: a part, or a database, whatever its version."""
    return str(row.get("part") or row["database"].split()[0])


def write(path: Path, what: Document) -> None:
    """Write a document to a file, whose directory is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(what, indent=1, ensure_ascii=False)
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.write_text(f"{text}\n", encoding="utf-8")
    unfinished.replace(path)


def load(path: Path) -> dict[str, Any]:
    """A document that was written."""
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found
