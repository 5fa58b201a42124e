from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from markupsafe import Markup

from flask_sessionsql.commands.console import (
    counted,
    escaped,
    iso,
    json_value,
    readable_size,
    readable_time,
    say_table,
    shown_value,
)

HUGE = 10**5000


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1, "1.0 MiB"),
        (1024**2, "1.0 MiB"),
        (1024**3, "1.0 GiB"),
        (5000 * 1024**4, "5,000.0 TiB"),
    ],
)
def test_sizes(size: int, shown: str) -> None:
    """Sizes are shown with the unit that suits them."""
    assert shown == readable_size(size)


def test_counts() -> None:
    """Numbers of things have their plural."""
    assert ["0 rows", "1 row", "2,000 rows"] == [
        counted(number, "row") for number in (0, 1, 2000)
    ]


def test_times() -> None:
    """Times are shown in UTC, to the second."""
    when = datetime(2026, 11, 23, 1, 43, 8, 999, timezone(timedelta(hours=1)))

    assert "2026-11-23T00:43:08Z" == iso(when)
    assert "2026-11-23 00:43:08Z" == readable_time(when)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("änn 王", "änn 王"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x7f\x9b", r"\x7f\x9b"),
        ("\u202eexe", r"\u202eexe"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        (r"DOMAIN\user", r"DOMAIN\user"),
    ],
)
def test_escaping(text: str, shown: str) -> None:
    """What does not print is escaped, and nothing else."""
    assert shown == escaped(text)


def test_cutting() -> None:
    """A text that is too long is cut, after it was escaped."""
    assert "12345" == escaped("12345", 5)
    assert "12..." == escaped("123456", 5)
    assert r"\x..." == escaped("\x1b" * 9, 5)


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are aligned, to the right where that is asked for; no line ends with
    spaces.
    """
    say_table(["Bytes", "Key"], [["1", "a"], ["1,000,000", "long"]], right=["Bytes"])

    assert "    Bytes  Key\n        1  a\n1,000,000  long\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 2**64, 1.5, "text", [], [1, ["a"]], {}, {"a": {"b": [None]}}],
    ids=repr,
)
def test_what_json_has(value: Any) -> None:
    """What JSON has comes out of it equal."""
    assert value == json.loads(json.dumps(json_value(value), allow_nan=False))


@pytest.mark.parametrize(
    "value",
    [
        math.inf,
        math.nan,
        (1, 2),
        {1},
        b"bytes",
        date(2026, 1, 2),
        datetime(2026, 1, 2, tzinfo=UTC),
        Decimal("1.10"),
        Markup("<b>"),
        {1: "a", "1": "b"},
    ],
    ids=repr,
)
def test_what_json_lacks(value: Any) -> None:
    """What JSON does not have is written as Python writes it, where it stands."""
    assert {"at": [repr(value)]} == json_value({"at": [value]})


@pytest.mark.parametrize("value", [HUGE, (HUGE,), {1: HUGE}], ids=["int", "in", "map"])
def test_huge_integers(value: Any) -> None:
    """An integer that Python does not write in digits stops nothing."""
    assert "too large an integer to show" in shown_value(value)
    assert "too large an integer to show" in json.dumps(json_value(value))
    assert 10**4000 == json_value(10**4000)
