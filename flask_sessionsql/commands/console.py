"""The output of commands: aligned columns for people, JSON for programs.

Values in a row may come from a browser, and a terminal obeys control characters. So
they are printed escaped, as in a Python string.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from ..sessions import EXPIRY_KEY, LIFETIME_KEY, PERMANENT_KEY
from ..storage.administration import SessionInfo
from ..storage.store import StoredSession
from ..storage.tables import as_time
from .findings import Finding

__all__ = [
    "counted",
    "escaped",
    "finding_text",
    "info_document",
    "keys_document",
    "progress",
    "readable_size",
    "say",
    "say_json",
    "say_list",
    "say_pairs",
    "say_session",
    "session_document",
    "terminal_width",
]

#: The maximum length of a user, a browser and a label in a list.
_USER_WIDTH, _BROWSER_WIDTH, _LABEL_WIDTH = 40, 60, 40

#: Integers with more bits are not written as decimal digits: Python refuses to write
#: more than 4300 digits, because it takes so long.
_MOST_BITS = 14_000


def say(text: str, *, err: bool = False) -> None:
    """Print lines; a character that the stream's encoding lacks is escaped."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def say_json(document: object) -> None:
    """Print one JSON document, in ASCII."""
    say(json.dumps(document, indent=2, allow_nan=False))


def say_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    width = max(len(name) for name, _ in pairs) + 1
    for name, value in pairs:
        say(f"{name + ':':<{width}}  {value}")


def say_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
) -> None:
    """Print aligned columns.

    :param right: the columns that are aligned to the right.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            f"{cell:>{width}}" if name in right else f"{cell:<{width}}"
            for name, cell, width in zip(header, line, widths, strict=True)
        ]
        say("  ".join(cells).rstrip())


@contextmanager
def progress(label: str, total: Callable[[], int]) -> Iterator[Callable[[int], object]]:
    """A progress bar on standard error, if that is a terminal. Yields a function to
    call with the amount of work done since the last call.

    :param total: returns the total amount; called only if there is a bar.
    """
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    with click.progressbar(
        length=total(), label=label, show_pos=True, file=sys.stderr
    ) as bar:
        yield bar.update


# Single values.


def escaped(text: object, most: int | None = None) -> str:
    """``text`` with unprintable characters escaped. SQLite may return any type.

    :param most: the maximum length; a longer text is cut and ends with ``...``.
    """
    safe = "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in str(text)
    )
    return safe if most is None or len(safe) <= most else safe[: most - 3] + "..."


def counted(number: int, thing: str) -> str:
    """``1 session``, ``2,000 sessions``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def readable_size(size: int) -> str:
    """``512 B``, ``1.5 KiB``."""
    if size < 1024:
        return f"{size} B"
    amount, units = float(size), iter(("KiB", "MiB", "GiB", "TiB"))
    unit = "B"
    while amount >= 1023.95 and unit != "TiB":  # 1023.95 is shown as 1024.0
        amount, unit = amount / 1024, next(units)
    return f"{amount:,.1f} {unit}"


def readable_time(when: datetime) -> str:
    """A time in UTC, such as ``2026-11-23 00:43:08Z``."""
    return iso(when).replace("T", " ")


def iso(when: datetime) -> str:
    """A time in UTC, such as ``2026-11-23T00:43:08Z``."""
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def shown_value(value: object) -> str:
    """A value of a session as Python writes it."""
    try:
        return escaped(repr(value))
    except ValueError:
        return f"a {type(value).__name__} with too large an integer to show"


def json_value(value: Any) -> Any:
    """A session value for JSON; a value that JSON lacks as Python writes it."""
    if value is None or isinstance(value, bool):
        return value
    if type(value) is str:
        return value
    if isinstance(value, int) and value.bit_length() <= _MOST_BITS:
        return value
    if isinstance(value, float) and value - value == 0:  # neither infinite nor NaN
        return value
    if isinstance(value, list):
        return [json_value(each) for each in value]
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: json_value(each) for key, each in value.items()}
    return shown_value(value)


# Sessions and findings.


def info_document(info: SessionInfo) -> dict[str, Any]:
    """A session in a list, for JSON."""
    return {
        "handle": info.handle,
        "user_id": info.user_id,
        "created_at": iso(info.created_at),
        "last_used_at": iso(info.last_used_at),
        "expires_at": iso(info.expires_at),
        "address": info.address,
        "user_agent": info.user_agent,
        "label": info.label,
        "size": info.size,
    }


#: The columns of a list; the last three appear if at least one session has a value.
_COLUMNS: dict[str, Callable[[SessionInfo], str]] = {
    "Handle": lambda info: escaped(info.handle),
    "User": lambda info: escaped(info.user_id or "-", _USER_WIDTH),
    "Created": lambda info: readable_time(info.created_at),
    "Last used": lambda info: readable_time(info.last_used_at),
    "Expires": lambda info: readable_time(info.expires_at),
    "Size": lambda info: readable_size(info.size),
    "Address": lambda info: escaped(info.address or "-"),
    "Browser": lambda info: escaped(info.user_agent or "-", _BROWSER_WIDTH),
    "Label": lambda info: escaped(info.label or "-", _LABEL_WIDTH),
}
_TIMES = ("Created", "Last used", "Expires")
#: Parts of a time such as ``2026-11-23 00:43:08Z``, and what is then missing.
_SHORTER_TIMES = (
    (slice(None), ""),
    (slice(16), "the seconds of times"),
    (slice(5, 16), "the years and seconds of times"),
)
#: The columns that are left out on a narrow terminal, in this order.
_LEFT_OUT = (
    *("Browser", "Created", "Size", "Address"),
    *("Expires", "Label", "Last used", "User"),
)
#: The lengths to which columns are cut before that.
_CUT_TO = {"User": 8, "Browser": 20, "Label": 12}


def terminal_width() -> int | None:
    """The width of standard output; ``None`` if it is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def say_list(infos: Sequence[SessionInfo], width: int | None = None) -> None:
    """Print a list of sessions. Standard error says what is left out for lack of space.

    :param width: the maximum length of a line. The handle is always there.
    """
    columns = {name: [cell(info) for info in infos] for name, cell in _COLUMNS.items()}
    if not any(info.address for info in infos):
        del columns["Address"]
    if not any(info.user_agent for info in infos):
        del columns["Browser"]
    if not any(info.label for info in infos):
        del columns["Label"]
    missing: list[str] = []
    if width is not None:
        columns, missing = _fitting(columns, width)
    rows = list(zip(*columns.values(), strict=True))
    say_table([*columns], rows, right=["Size"])
    if missing:
        told = ", ".join(missing)
        say(f"Left out for want of room: {told}. --json has all.", err=True)


def _fitting(
    columns: dict[str, list[str]], width: int
) -> tuple[dict[str, list[str]], list[str]]:
    """The columns that fit into a line, and what is left out: first the ends of users,
    browsers and labels, then parts of the times, and then whole columns.
    """
    missing: list[str] = []
    for times, shortening in _SHORTER_TIMES:
        shown = {
            name: [cell[times] for cell in cells] if name in _TIMES else cells
            for name, cells in columns.items()
        }
        missing = [shortening] if shortening else []
        if _least(shown) <= width:
            return _cut(shown, width), missing
    for name in _LEFT_OUT:
        if shown.pop(name, None) is not None:
            missing.insert(-1, name)
        if _least(shown) <= width:
            break
    if not shown.keys() & set(_TIMES):
        missing.pop()  # no time is left
    return _cut(shown, width), missing


def _cut(columns: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """The columns with users, browsers and labels cut as needed."""
    room = width - _least(columns)
    for name in filter(columns.__contains__, _CUT_TO):
        cells = columns[name]
        least = _width(name, cells)
        most = min(max(map(len, cells)), least + max(0, room))
        room -= max(0, most - least)
        columns[name] = [escaped(cell, max(most, least)) for cell in cells]
    return columns


def _least(columns: Mapping[str, list[str]]) -> int:
    """The minimum length of a line."""
    widths = [_width(name, cells) for name, cells in columns.items()]
    return sum(widths) + 2 * (len(widths) - 1)


def _width(name: str, cells: list[str]) -> int:
    """The minimum width of a column."""
    longest = max(map(len, cells))
    return max(len(name), min(longest, _CUT_TO.get(name, longest)))


def session_document(
    row: StoredSession, data: Mapping[Any, Any], size: int, *, permanent: bool
) -> dict[str, Any]:
    """The row of a session, for JSON.

    :param data: its data, including hidden keys.
    :param size: the size of the stored data in bytes.
    :param permanent: the default of ``session.permanent``.
    """
    used = row.created_at if row.last_used_at is None else row.last_used_at
    expiry = data.get(EXPIRY_KEY)
    return {
        "handle": row.handle,
        "user_id": row.user_id,
        "created_at": iso(as_time(row.created_at)),
        "last_used_at": iso(as_time(used)),
        "expires_at": iso(as_time(row.expires_at)),
        "set_expiry": None if expiry is None else iso(as_time(expiry)),
        "set_lifetime": data.get(LIFETIME_KEY),
        "permanent": bool(data.get(PERMANENT_KEY, permanent)),
        "address": row.address,
        "user_agent": row.user_agent,
        "label": row.label,
        "version": row.version,
        "size": size,
    }


def keys_document(
    sizes: Sequence[tuple[object, int]], values: Mapping[Any, Any] | None
) -> list[dict[str, Any]]:
    """The keys of a session, for JSON.

    :param sizes: the keys with their sizes in bytes.
    :param values: the values, if they are to be shown.
    """
    keys = []
    for key, size in sizes:
        entry = {"key": json_value(key), "size": size}
        if values is not None:
            entry["value"] = json_value(values[key])
        keys.append(entry)
    return keys


def say_session(
    document: Mapping[str, Any],
    sizes: Sequence[tuple[object, int]],
    values: Mapping[Any, Any] | None,
) -> None:
    """Print the result of :func:`session_document`, and the keys."""

    def when(name: str) -> str:
        time: str | None = document[name]
        return "none" if time is None else time.replace("T", " ")

    idle: int | None = document["set_lifetime"]
    say_pairs(
        [
            ("Handle", escaped(document["handle"])),
            ("User", escaped(document["user_id"] or "-")),
            ("Created", when("created_at")),
            ("Last used", when("last_used_at")),
            ("Expires", when("expires_at")),
            ("Set expiry", when("set_expiry")),
            ("Lifetime", "as configured" if idle is None else _duration(idle)),
            ("Permanent", "yes" if document["permanent"] else "no"),
            ("Address", escaped(document["address"] or "-")),
            ("Browser", escaped(document["user_agent"] or "-")),
            ("Label", escaped(document["label"] or "-")),
            ("Version", str(document["version"])),
            ("Size", readable_size(document["size"])),
        ]
    )
    header, rows = ["Bytes", "Key"], [[f"{s:,}", shown_value(k)] for k, s in sizes]
    if values is not None:
        header.append("Value")
        for row, (key, _) in zip(rows, sizes, strict=True):
            row.append(shown_value(values[key]))
    say("")
    say_table(header, rows, right=["Bytes"])


def _duration(seconds: int) -> str:
    return str(timedelta(seconds=seconds))


def finding_text(finding: Finding) -> str:
    """A finding as text."""
    told = [*finding.problem.splitlines(), *finding.advice.splitlines()]
    lines = [escaped(line.strip()) for line in told]
    return "\n    ".join([f"{finding.level}: {escaped(finding.subject)}", *lines])
