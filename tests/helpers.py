"""What tests of every kind share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest


def on(*cases: str | tuple[Any, ...]) -> list[Any]:
    """Parameters of a test or a fixture, each marked with the database that it needs:
    ``-m`` chooses tests by these markers.

    :param cases: names of databases, or tuples that begin with one.
    """
    params = []
    for case in cases:
        values = (case,) if isinstance(case, str) else case
        marker = getattr(pytest.mark, values[0].replace("-", "_"))
        params.append(pytest.param(*values, marks=marker))
    return params


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run all jobs in threads, which begin together; their results or errors."""
    barrier = threading.Barrier(len(jobs))
    results: list[Any] = [None] * len(jobs)

    def run(number: int) -> None:
        barrier.wait(30)
        try:
            results[number] = jobs[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=[n]) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


class Clock:
    """Stands for the time of day."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def time(self) -> float:
        return self.now
