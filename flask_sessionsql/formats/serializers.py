"""The serializer: turns a session into bytes and back.

Not pickle: anyone who can write to the table could run code in the application. Not
JSON, which Flask's own session uses: it has no tuples, bytes or dates, and is slower.
MessagePack has extension types, each a number and some bytes, so every value of a
session comes back equal and with the same type. The page :doc:`/explanations/values`
lists the types.

>>> from datetime import date
>>> serializer = MsgpackSerializer()
>>> stored = serializer.dumps({"due": date(2026, 11, 22), "size": (3, 4)})
>>> serializer.loads(stored)
{'due': datetime.date(2026, 11, 22), 'size': (3, 4)}

The same values in the same order give the same bytes in every process: the elements of
sets are sorted by their encoded form. So two sessions are compared by their bytes.

The first byte is the number of the format. There is one format and one decoder: other
bytes are refused and never tried with another decoder (CVE-2026-39324).
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any, Protocol
from uuid import UUID

import msgspec
from markupsafe import Markup
from msgspec.msgpack import Decoder, Encoder, Ext

from ..exceptions import SessionValueError, UnreadableSessionError
from ..sessions import Encoded

__all__ = ["MAX_DEPTH", "MsgpackSerializer", "Serializer"]

#: How deep lists and dictionaries may be nested. Decoding happens in a view, which has
#: already used a part of Python's stack; encoding happens after it.
MAX_DEPTH = 50

_FORMAT = b"\x01"

# Extension codes. Stored data depends on them: never change or reuse one.
_TUPLE, _SET, _FROZENSET, _INT, _TEXT, _MARKUP = 1, 2, 3, 4, 5, 6
_UUID, _DECIMAL, _DATETIME, _DATE, _TIME, _TIMEDELTA = 7, 8, 9, 10, 11, 12
_MAP = 13


#: How many keys of one dictionary, or elements of one set, may have the same hash as
#: others. Python compares such keys one by one: a dictionary of 20,000 takes 2.6 s to
#: build, and somebody who chooses the numbers that an application stores can cause this
#: (as in CVE-2012-1150). At most 12 numbers of 64 bits have the same hash, so keys that
#: MessagePack writes without an extension need no check.
_MOST_ALIKE = 100


class Serializer(Protocol):
    """Turns a session into bytes and back, as a whole or key by key."""

    def dumps(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes for ``data``, in which some values may be encoded already. They do
        not depend on which.

        :raises SessionValueError: ``data`` has something that a session cannot hold.
        """

    def split(self, payload: bytes) -> dict[Any, Any]:
        """The data that gave ``payload``, with their values encoded.

        :raises UnreadableSessionError: no data gave these bytes.
        """

    def encode(self, value: Any) -> bytes:
        """The bytes for one value, which may be encoded already.

        :raises SessionValueError: a session cannot hold it.
        """

    def decode(self, value: Any) -> Any:
        """The value, decoded if it is encoded.

        :raises UnreadableSessionError: no value gave these bytes.
        """

    def loads(self, payload: bytes) -> dict[Any, Any]:
        """The data that gave ``payload``.

        :raises UnreadableSessionError: no data gave these bytes.
        """


class MsgpackSerializer:
    """The serializer in use: :doc:`/explanations/values` says what it can store."""

    def dumps(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes for ``data``, in which some values may be encoded already.

        :raises SessionValueError: ``data`` has something that a session cannot hold;
            the error names the session key, the place in it and the type.

        >>> MsgpackSerializer().dumps({"cart": [1, object()]})
        Traceback (most recent call last):
          ...
        flask_sessionsql.exceptions.SessionValueError: session['cart'][1]: ...
        """
        parts: dict[str, Any] = {}
        key: Any = None
        try:
            for key, value in data.items():
                name = key if type(key) is str else _pack(key, 1)
                if type(name) is not str:
                    return self._dump_whole(data)
                is_encoded = type(value) is Encoded
                parts[name] = value.data if is_encoded else _encode_value(value)
            return _FORMAT + _encode(parts)
        except UnicodeEncodeError:  # half of a surrogate pair in a key
            return self._dump_whole(data)
        except _RefusedError as error:
            error.stands_at(key, f"[{reprlib.repr(key)}]")
            named = _named(error)
        raise named

    def _dump_whole(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes for data that cannot be split, because not all keys are text."""
        values = {key: self.decode(value) for key, value in data.items()}
        try:
            return _FORMAT + _encode(_pack_map(values, 0))
        except _RefusedError as error:
            named = _named(error)
        raise named

    def split(self, payload: bytes) -> dict[Any, Any]:
        """The data that gave ``payload``. The values are encoded, or decoded if not all
        keys are text.

        :raises UnreadableSessionError: ``payload`` is truncated, or has a format that
            this version does not know.
        """
        if payload[:1] != _FORMAT:
            raise UnreadableSessionError(
                f"The stored session begins with {payload[:1]!r}; expected {_FORMAT!r},"
                " the only known format."
            )
        body = memoryview(payload)[1:]
        if payload[1:2] in _WHOLE:
            data = _read(body)
            if not isinstance(data, dict):
                raise UnreadableSessionError(
                    f"The stored session holds a {type(data).__name__}, not a mapping."
                )
            return data
        try:
            parts = _split(body)
        except Exception as error:
            raise _damaged(error) from error
        return {key: Encoded(part) for key, part in parts.items()}

    def encode(self, value: Any) -> bytes:
        """The bytes for one value, which may be encoded already.

        :raises SessionValueError: a session cannot hold it.
        """
        if type(value) is Encoded:
            return value.data
        try:
            return _encode_value(value)
        except _RefusedError as error:
            named = _named(error)
        raise named

    def decode(self, value: Any) -> Any:
        """The value, decoded if it is encoded.

        :raises UnreadableSessionError: no value gave these bytes.
        """
        return _read(value.data) if type(value) is Encoded else value

    def loads(self, payload: bytes) -> dict[Any, Any]:
        """The data that gave ``payload``.

        :raises UnreadableSessionError: as for :meth:`split` and :meth:`decode`.
        """
        data = self.split(payload)
        return {key: self.decode(value) for key, value in data.items()}


# Encoding. msgspec silently turns tuples, sets, dates and more into lists and texts, so
# values that must keep their type are wrapped first.

_encode: Callable[[Any], bytes] = Encoder().encode
_AS_IT_IS = frozenset({type(None), bool, float, bytes})
#: Types that msgspec writes unchanged, if it can write the value at all.
_PLAIN = _AS_IT_IS | {str, int}
_NESTED = frozenset({dict, list})
_PLAIN_OR_NESTED = _PLAIN | _NESTED
_INT_RANGE = range(-(2**63), 2**64)


def _encode_value(value: Any) -> bytes:
    """The bytes for the value of one key of the session."""
    kind = type(value)
    if kind in _PLAIN or (kind in _NESTED and _is_plain(value)):
        try:
            return _encode(value)
        except (UnicodeEncodeError, OverflowError):
            pass  # half of a surrogate pair; a number of more than 64 bits
    return _encode(_pack(value, 1))


class _RefusedError(Exception):
    """A session cannot hold a value; collects the path to it from the inside out."""

    def __init__(self, value: object, why: str) -> None:
        self.value, self.why = value, why
        self.key: object = None
        self.steps: list[str] = []

    def stands_at(self, key: object, step: str) -> None:
        self.key = key
        self.steps.append(step)


def _named(error: _RefusedError) -> SessionValueError:
    """The error for the application. It has to be raised outside of the handler, so
    that this one, which has the value, is not part of its context.
    """
    path = "session" + "".join(reversed(error.steps))
    return SessionValueError(error.key, path, type(error.value), error.why)


#: The maximum number of items at one depth of a value that are checked together. A
#: value that contains itself several times has that many times more at each step.
_WIDEST = 2**20


def _is_plain(value: Any) -> bool:
    """Whether nothing in a dictionary or a list needs wrapping, as in most sessions.
    Each request that has used one asks, so this checks all items of one depth in a few
    calls. ``False`` may be wrong: wrapping then finds nothing to do.
    """
    level, depth = [value], 1
    while depth < MAX_DEPTH:
        kinds = set(map(type, level))
        if kinds <= _PLAIN:
            return True
        if not kinds <= _PLAIN_OR_NESTED:
            return False
        # Not gc.get_referents(), which takes half as long: since Python 3.13 it finds
        # no values in a dictionary that is the __dict__ of an object.
        lists = level if kinds == {list} else [x for x in level if type(x) is list]
        dicts = level if kinds == {dict} else [x for x in level if type(x) is dict]
        if sum(map(len, lists)) + sum(map(len, dicts)) > _WIDEST:
            return False
        if not _PLAIN.issuperset(map(type, chain.from_iterable(dicts))):
            return False
        values = chain.from_iterable(map(dict.values, dicts))
        level, depth = [*chain.from_iterable(lists), *values], depth + 1
    return False


def _are_alike(keys: Collection[Any]) -> bool:
    """Whether too many of the keys have the same hash."""
    most = _MOST_ALIKE
    return len(keys) > most and len(keys) - len(set(map(hash, keys))) > most


def _check_hashes(value: Collection[Any]) -> None:
    if _are_alike(value):
        raise _RefusedError(
            value,
            f"more than {_MOST_ALIKE} of its keys or elements have the same hash, as"
            " numbers do that differ by a multiple of 2**61 - 1. Looking them up would"
            " take too long. Store them as text.",
        )


def _pack(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _AS_IT_IS:
        return value
    pack = _PACKERS.get(kind) or _packer_of_base(value)
    return pack(value, depth)


def _packer_of_base(value: Any) -> Callable[[Any, int], Any]:
    """The function for instances of subclasses, in the order of Flask's serializer."""
    first: tuple[type, ...] = (dict, tuple, list, bytes)
    for base in first:
        if isinstance(value, base):
            return _PACKERS[base]
    if callable(getattr(value, "__html__", None)):
        return _pack_markup
    kind = type(value)
    for base, pack in _PACKERS.items():
        # Not isinstance(): proxies only claim to be a text or a number.
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
            f"the value is nested more than {MAX_DEPTH} levels deep, or contains"
            " itself. Store it with fewer levels.",
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


def _pack_pairs(value: Mapping[Any, Any], depth: int) -> list[Any]:
    """Keys and values, alternating."""
    _check_depth(value, depth)
    _check_hashes(value)
    pairs: list[Any] = []
    for key, item in value.items():
        try:
            packed_key = _pack(key, depth + 1)
            packed_item = _pack(item, depth + 1)
        except _RefusedError as error:
            error.stands_at(key, f"[{reprlib.repr(key)}]")
            raise
        pairs += (packed_key, packed_item)
    return pairs


def _pack_map(value: Mapping[Any, Any], depth: int) -> Ext:
    return Ext(_MAP, _encode(_pack_pairs(value, depth)))


def _pack_dict(value: Mapping[Any, Any], depth: int) -> Any:
    pairs = _pack_pairs(value, depth)
    keys = pairs[::2]
    if any(isinstance(key, Ext) for key in keys):
        # MessagePack can write a tuple or a date as a key, but msgspec cannot.
        return Ext(_MAP, _encode(pairs))
    return dict(zip(keys, pairs[1::2], strict=True))


def _pack_tuple(value: tuple[Any, ...], depth: int) -> Ext:
    _check_depth(value, depth)
    return Ext(_TUPLE, _encode(_pack_items(value, depth)))


def _pack_set(value: Collection[Any], depth: int) -> Ext:
    _check_depth(value, depth)
    _check_hashes(value)
    code = _FROZENSET if isinstance(value, frozenset) else _SET
    elements = sorted(_encode(_pack(item, depth + 1)) for item in value)
    return Ext(code, _encode([msgspec.Raw(element) for element in elements]))


def _pack_int(value: int, depth: int) -> Any:
    # int() first: for an instance of a subclass, a range compares number by number.
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
#: Each value is MessagePack of its own, wrapped as bytes, so that it can be passed over
#: in one step, however large it is: to skip a basket of 60 KB that is not wrapped takes
#: 300 us, and one that is, 1 us.
_split: Callable[[Any], dict[str, bytes]] = Decoder(dict[str, bytes]).decode
#: How an extension begins, which is what data that cannot be split are.
_WHOLE = {bytes([first]) for first in (0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9))}


def _read(encoded: bytes | memoryview) -> Any:
    try:
        return _decode(encoded)
    # Hostile bytes can cause any error, and none of them may reach the view.
    except Exception as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> UnreadableSessionError:
    kind = type(error).__name__
    return UnreadableSessionError(f"The stored session is damaged: {kind}.")


def _unpack_items(data: memoryview) -> list[Any]:
    items = _decode(data)
    if not isinstance(items, list):
        raise TypeError("not an array")
    return items


def _unpack_keys(items: list[Any]) -> list[Any]:
    """The keys or elements, unless looking them up would take too long."""
    if _are_alike(items):
        raise ValueError("too many of one hash")
    return items


def _unpack_map(data: memoryview) -> dict[Any, Any]:
    items = _unpack_items(data)
    keys = _unpack_keys(items[::2])
    return dict(zip(keys, items[1::2], strict=True))


def _unpack_text(data: memoryview) -> str:
    return str(data, "utf-8", "surrogatepass")


def _unpack_ascii(data: memoryview) -> str:
    return str(data, "ascii")


_UNPACKERS: dict[int, Callable[[memoryview], Any]] = {
    _TUPLE: lambda data: tuple(_unpack_items(data)),
    _SET: lambda data: set(_unpack_keys(_unpack_items(data))),
    _FROZENSET: lambda data: frozenset(_unpack_keys(_unpack_items(data))),
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
