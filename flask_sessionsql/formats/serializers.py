"""How a session becomes bytes, and bytes a session.

Pickle is out of the question: whoever can write to the table could run code in
the application. JSON, which Flask's own session uses, has no tuples, bytes or
dates, and costs more. MessagePack has extension types, one number and some
bytes each, and so every value of a session comes back equal and of its type.
The types are on the page :doc:`/values`.

>>> from datetime import date
>>> serializer = MsgpackSerializer()
>>> stored = serializer.dumps({"due": date(2026, 11, 22), "size": (3, 4)})
>>> serializer.loads(stored)
{'due': datetime.date(2026, 11, 22), 'size': (3, 4)}

The same values of the same types in the same order give the same bytes, in every
process: the elements of sets are sorted by their encoded form. Comparing two
sessions is comparing bytes.

The first byte names the format. There is one format and one decoder: bytes that
it does not know are refused, never tried with another (CVE-2026-39324).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

import msgspec
from markupsafe import Markup
from msgspec.msgpack import Decoder, Encoder, Ext

from ..exceptions import SessionValueError, UnreadableSessionError

__all__ = ["MAX_DEPTH", "MsgpackSerializer", "Serializer"]

#: How deep lists and dictionaries may be nested. Decoding happens within a view, on
#: what that has left of Python's stack; encoding after it, with nearly all of it.
MAX_DEPTH = 50

_FORMAT = b"\x01"

# Extension codes. Stored data depends on them: never change or reuse one.
_TUPLE, _SET, _FROZENSET, _INT, _TEXT, _MARKUP = 1, 2, 3, 4, 5, 6
_UUID, _DECIMAL, _DATETIME, _DATE, _TIME, _TIMEDELTA = 7, 8, 9, 10, 11, 12
_MAP = 13


class Serializer(Protocol):
    """What turns a session into bytes and back."""

    def dumps(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes for ``data``; the same bytes for the same data.

        :raises SessionValueError: ``data`` holds something that cannot be kept.
        """

    def loads(self, payload: bytes) -> dict[Any, Any]:
        """The data that gave ``payload``.

        :raises UnreadableSessionError: no data gave these bytes.
        """


class MsgpackSerializer:
    """The serializer that ships. What it keeps is on the page :doc:`/values`."""

    def dumps(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes for ``data``.

        :raises SessionValueError: ``data`` holds something that cannot be kept;
            the error names the session key, the place under it and the type.

        >>> MsgpackSerializer().dumps({"cart": [1, object()]})
        Traceback (most recent call last):
          ...
        flask_sessionsql.exceptions.SessionValueError: session['cart'][1]: ...
        """
        if type(data) is dict and _is_plain(data, 0):
            try:
                return _FORMAT + _encode(data)
            except (UnicodeEncodeError, OverflowError):
                pass  # half of a surrogate pair; a number of more than 64 bits
        try:
            return _FORMAT + _encode(_pack_dict(data, 0))
        except _RefusedError as error:
            path = "session" + "".join(reversed(error.steps))
            kind = type(error.value)
            raise SessionValueError(error.key, path, kind, error.why) from None

    def loads(self, payload: bytes) -> dict[Any, Any]:
        """The data that gave ``payload``.

        :raises UnreadableSessionError: ``payload`` is truncated, foreign or of a
            format that this version does not know.
        """
        if payload[:1] != _FORMAT:
            raise UnreadableSessionError(
                f"The stored session begins with {payload[:1]!r}, where {_FORMAT!r}"
                " names the one known format."
            )
        try:
            data = _decode(memoryview(payload)[1:])
        # Whatever hostile bytes provoke: no error of theirs may reach the view.
        except Exception as error:
            raise UnreadableSessionError(
                f"The stored session is damaged: {type(error).__name__}."
            ) from error
        if not isinstance(data, dict):
            raise UnreadableSessionError(
                f"The stored session holds a {type(data).__name__}, not a mapping."
            )
        return data


# Encoding. msgspec turns tuples, sets, dates and more into lists and texts
# without asking, so whatever must keep its type is wrapped before it gets there.

_encode: Callable[[Any], bytes] = Encoder().encode
_AS_IT_IS = frozenset({type(None), bool, float, bytes})
#: What msgspec writes as it is, but for what it cannot write at all.
_PLAIN = _AS_IT_IS | {str, int}
_NESTED = frozenset({dict, list})
_PLAIN_OR_NESTED = _PLAIN | _NESTED
_INT_RANGE = range(-(2**63), 2**64)


class _RefusedError(Exception):
    """A value that cannot be kept; collects the way to it from the inside out."""

    def __init__(self, value: object, why: str) -> None:
        self.value, self.why = value, why
        self.key: object = None
        self.steps: list[str] = []

    def stands_at(self, key: object, step: str) -> None:
        self.key = key
        self.steps.append(step)


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a dictionary or a list needs no wrapping anywhere, as most sessions do
    not. It is asked in each request that reads its session, so it looks at the types
    of many values in one call. Nobody else changes what is asked about: a session is
    one request's.
    """
    values = value
    if type(value) is dict:
        if not _PLAIN.issuperset(map(type, value)):
            return False
        values = value.values()
    if _PLAIN.issuperset(map(type, values)):
        return depth < MAX_DEPTH
    if depth >= MAX_DEPTH or not _PLAIN_OR_NESTED.issuperset(map(type, values)):
        return False
    for each in values:
        if type(each) in _NESTED and not _is_plain(each, depth + 1):
            return False
    return True


def _pack(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    pack = _PACKERS.get(kind) or _packer_of_base(value)
    return pack(value, depth)


def _packer_of_base(value: Any) -> Callable[[Any, int], Any]:
    """For instances of subclasses, in the order of Flask's own serializer."""
    first: tuple[type, ...] = (dict, tuple, list, bytes)
    for base in first:
        if isinstance(value, base):
            return _PACKERS[base]
    if callable(getattr(value, "__html__", None)):
        return _pack_markup
    kind = type(value)
    for base, pack in _PACKERS.items():
        # Not isinstance: what only claims to be a text or a number, as proxies do,
        # cannot be taken for one.
        if issubclass(kind, base):
            return pack
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    raise _RefusedError(
        value,
        f"a value of type {name} cannot be kept in a session. Store what it is made"
        " of instead: text, numbers, dates, lists, dictionaries, ...",
    )


def _check_depth(value: object, depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise _RefusedError(
            value,
            f"the value is nested more than {MAX_DEPTH} deep, or contains itself."
            " Store it flatter.",
        )


def _pack_items(values: Iterable[Any], depth: int) -> list[Any]:
    packed = []
    for index, item in enumerate(values):
        try:
            packed.append(_pack(item, depth + 1))
        except _RefusedError as error:
            error.stands_at(index, f"[{index}]")
            raise
    return packed


def _pack_list(value: list[Any], depth: int) -> list[Any]:
    _check_depth(value, depth)
    return _pack_items(value, depth)


def _pack_dict(value: Mapping[Any, Any], depth: int) -> Any:
    _check_depth(value, depth)
    packed = {}
    pairs: list[Any] = []
    for key, item in value.items():
        try:
            packed_key = _pack(key, depth + 1)
            packed_item = _pack(item, depth + 1)
        except _RefusedError as error:
            error.stands_at(key, f"[{reprlib.repr(key)}]")
            raise
        pairs += (packed_key, packed_item)
        if not isinstance(packed_key, Ext):
            packed[packed_key] = packed_item
    if len(packed) * 2 == len(pairs):
        return packed
    # MessagePack can write a tuple or a date as a key, msgspec cannot.
    return Ext(_MAP, _encode(pairs))


def _pack_tuple(value: tuple[Any, ...], depth: int) -> Ext:
    _check_depth(value, depth)
    return Ext(_TUPLE, _encode(_pack_items(value, depth)))


def _pack_set(value: Iterable[Any], depth: int) -> Ext:
    _check_depth(value, depth)
    code = _FROZENSET if isinstance(value, frozenset) else _SET
    elements = sorted(_encode(_pack(item, depth + 1)) for item in value)
    return Ext(code, _encode([msgspec.Raw(element) for element in elements]))


def _pack_int(value: int, depth: int) -> Any:
    # Plain first: a range looks for an instance of a subclass one number at a time.
    value = int(value)
    if value in _INT_RANGE:
        return value
    return Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _pack_text(value: str, depth: int) -> Any:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, out of a JSON body
            return Ext(_TEXT, value.encode("utf-8", "surrogatepass"))
    return str(value) if type(value) is str else str.__str__(value)


def _pack_markup(value: Any, depth: int) -> Ext:
    return Ext(_MARKUP, str(value.__html__()).encode("utf-8", "surrogatepass"))


def _pack_iso(code: int, isoformat: Callable[[Any], str]) -> Callable[[Any, int], Ext]:
    return lambda value, depth: Ext(code, isoformat(value).encode())


def _pack_timedelta(value: timedelta, depth: int) -> Ext:
    parts = [value.days, value.seconds, value.microseconds]
    return Ext(_TIMEDELTA, _encode(parts))


_PACKERS: dict[type, Callable[[Any, int], Any]] = {
    str: _pack_text,
    int: _pack_int,
    dict: _pack_dict,
    list: _pack_list,
    tuple: _pack_tuple,
    Markup: _pack_markup,
    set: _pack_set,
    frozenset: _pack_set,
    UUID: lambda value, depth: Ext(_UUID, value.bytes),
    # By the base's own method: a subclass may write itself in a way that the base
    # cannot read, and the whole session would be lost.
    Decimal: lambda value, depth: Ext(_DECIMAL, Decimal.__str__(value).encode()),
    # Before date, of which it is a subclass.
    datetime: _pack_iso(_DATETIME, datetime.isoformat),
    date: _pack_iso(_DATE, date.isoformat),
    time: _pack_iso(_TIME, time.isoformat),
    timedelta: _pack_timedelta,
    float: lambda value, depth: float(value),
    bytes: lambda value, depth: bytes(value),
}


# Decoding. Every entry refuses what its counterpart above does not write.


def _unpack(code: int, data: memoryview) -> Any:
    return _UNPACKERS[code](data)


_decode: Callable[[Any], Any] = Decoder(ext_hook=_unpack).decode


def _unpack_items(data: memoryview) -> list[Any]:
    items = _decode(data)
    if not isinstance(items, list):
        raise TypeError("not an array")
    return items


def _unpack_map(data: memoryview) -> dict[Any, Any]:
    items = _unpack_items(data)
    return dict(zip(items[::2], items[1::2], strict=True))


def _unpack_text(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


def _unpack_ascii(data: memoryview) -> str:
    return str(data, "ascii")


_UNPACKERS: dict[int, Callable[[memoryview], Any]] = {
    _TUPLE: lambda data: tuple(_unpack_items(data)),
    _SET: lambda data: set(_unpack_items(data)),
    _FROZENSET: lambda data: frozenset(_unpack_items(data)),
    _MAP: _unpack_map,
    _INT: lambda data: int.from_bytes(data, "big", signed=True),
    _TEXT: _unpack_text,
    _MARKUP: lambda data: Markup(_unpack_text(data)),  # noqa: S704 - it was one
    _UUID: lambda data: UUID(bytes=bytes(data)),
    _DECIMAL: lambda data: Decimal(_unpack_ascii(data)),
    _DATETIME: lambda data: datetime.fromisoformat(_unpack_ascii(data)),
    _DATE: lambda data: date.fromisoformat(_unpack_ascii(data)),
    _TIME: lambda data: time.fromisoformat(_unpack_ascii(data)),
    _TIMEDELTA: lambda data: timedelta(*map(int, _unpack_items(data))),
}
