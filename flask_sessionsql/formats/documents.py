"""Session values as JSON, from which each comes back equal and with the same type: the
format of ``flask sessions export``. The page :doc:`/guides/moving` describes it.

>>> from datetime import date
>>> from_value({"due": date(2026, 11, 22), "size": (3, 4)})
{'due': {'$type': 'date', 'value': '2026-11-22'}, 'size': {'$type': 'tuple', ...}}
>>> to_value(from_value((3, 4)))
(3, 4)
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from markupsafe import Markup

__all__ = ["from_value", "to_value"]

#: The key that names the type of a value that JSON lacks.
_TYPE = "$type"
#: Integers with more bits are written in hexadecimal digits, because Python's JSON
#: writes at most 4300 decimal ones.
_MOST_BITS = 14_000


def from_value(value: Any) -> Any:
    """A session value in JSON form."""
    kind = type(value)
    if value is None or kind is bool or (kind is str and _is_whole(value)):
        return value
    if kind is int and value.bit_length() <= _MOST_BITS:
        return value
    if kind is float and value - value == 0:  # neither infinite nor NaN
        return value
    if kind is list:
        return [from_value(each) for each in value]
    if kind is dict and _TYPE not in value and all(map(_is_name, value)):
        return {key: from_value(each) for key, each in value.items()}
    return {_TYPE: kind.__name__, "value": _WRITERS[kind](value)}


def to_value(document: Any) -> Any:
    """The value for which :func:`from_value` returned ``document``.

    :raises ValueError: ``document`` does not come from :func:`from_value`.
    """
    if isinstance(document, list):
        return [to_value(each) for each in document]
    if not isinstance(document, dict):
        return document
    if _TYPE not in document:
        return {key: to_value(each) for key, each in document.items()}
    try:
        return _READERS[document[_TYPE]](document["value"])
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(
            "A value that names a Python type cannot be read as that type; expected the"
            " output of 'flask sessions export'."
        ) from error


def _is_whole(text: str) -> bool:
    """Whether it has no surrogates, two of which JSON would read as one character."""
    return text == text.encode(errors="ignore").decode()


def _is_name(key: object) -> bool:
    return type(key) is str and _is_whole(key)


def _halves(text: str) -> str:
    return base64.b64encode(text.encode(errors="surrogatepass")).decode("ascii")


def _read_halves(text: str) -> str:
    return base64.b64decode(text, validate=True).decode(errors="surrogatepass")


def _pairs(value: dict[Any, Any]) -> list[list[Any]]:
    return [[from_value(key), from_value(each)] for key, each in value.items()]


def _items(value: Any) -> list[Any]:
    return [from_value(each) for each in value]


def _read_items(kind: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    return lambda items: kind([to_value(each) for each in items])


_WRITERS: dict[type, Callable[[Any], Any]] = {
    dict: _pairs,
    tuple: _items,
    set: _items,
    frozenset: _items,
    bytes: lambda value: base64.b64encode(value).decode("ascii"),
    str: _halves,
    Markup: str.__str__,
    int: hex,
    float: repr,
    Decimal: str,
    UUID: str,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda pairs: {to_value(key): to_value(each) for key, each in pairs},
    "tuple": _read_items(tuple),
    "set": _read_items(set),
    "frozenset": _read_items(frozenset),
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "str": _read_halves,
    "Markup": Markup,
    "int": lambda text: int(text, 16),
    "float": float,
    "Decimal": Decimal,
    "UUID": UUID,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
}
