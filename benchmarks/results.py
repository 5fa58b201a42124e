"""What the benchmarks write down: figures, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

#: Where the figures are that the documentation shows.
RESULTS = Path(__file__).parent / "results"
#: What everybody uses.
PACKAGES = ("Flask", "Werkzeug", "Flask-SQLAlchemy", "SQLAlchemy", "msgspec")


def machine() -> dict[str, Any]:
    """What the figures were measured on, without its name."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.system()} {platform.machine()}",
    }


def versions(*packages: str) -> dict[str, str]:
    """The versions of the packages that are there, of those that all use and these."""
    found = {}
    for package in (*PACKAGES, *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def document(
    name: str,
    figures: Mapping[str, Any],
    *,
    packages: Iterable[str] = (),
    servers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What is written to a file.

    :param name: the benchmark's.
    :param figures: what it came to; at most one level deep beside the rest.
    :param packages: whose versions matter besides.
    :param servers: the versions of other programs, by their names.
    """
    return {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {**versions(*packages), **(servers or {})},
        **figures,
    }


def write(path: Path, what: Mapping[str, Any]) -> None:
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
