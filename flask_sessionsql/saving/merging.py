"""Merging: keeping the changes of two requests that changed one session.

It is a three-way merge, key by key: ``base`` is what both requests loaded, ``mine``
what this request wants to store, and ``theirs`` what another one has stored since. A
key that this request did not change is taken from ``theirs``, one that it set or
deleted from ``mine``. If both changed a key, the two values are merged where their type
allows it: see :func:`merge_values`. Otherwise the value that is saved last wins, and
the key is reported as overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..exceptions import UnreadableSessionError
from ..formats.serializers import Serializer
from ..sessions import Encoded

__all__ = ["Merged", "merge", "merge_values"]

#: The value of a key that is missing.
ABSENT: Any = object()


class Merged(NamedTuple):
    """The result of a merge."""

    #: The encoded values by key, in the order of ``theirs``, with this request's new
    #: keys at the end.
    data: dict[Any, bytes]
    #: The keys whose value in ``theirs`` was overwritten.
    overwritten: tuple[Any, ...]


def merge(
    base: Mapping[Any, bytes],
    mine: Mapping[Any, bytes],
    theirs: Mapping[Any, bytes],
    serializer: Serializer,
) -> Merged:
    """The three-way merge of ``mine`` and ``theirs`` over ``base``. The values are
    encoded: they are equal if their bytes are, and only values that both requests have
    changed are decoded.

    >>> from flask_sessionsql.formats.serializers import MsgpackSerializer
    >>> merge(
    ...     {"a": b"1", "b": b"1"},
    ...     {"a": b"2", "b": b"1"},
    ...     {"a": b"1", "c": b"3"},
    ...     MsgpackSerializer(),
    ... )
    Merged(data={'a': b'2', 'c': b'3'}, overwritten=())
    """

    def both(before: bytes | None, now: bytes | None, other: bytes | None) -> Any:
        try:
            base_value, mine_value, their_value = (
                ABSENT if each is None else serializer.decode(Encoded(each))
                for each in (before, now, other)
            )
            return merge_values(base_value, mine_value, their_value, serializer.encode)
        except UnreadableSessionError:  # one of the values is damaged
            return ABSENT, True

    data, overwritten = dict(theirs), []
    for key in [*base, *(key for key in mine if key not in base)]:
        before, now, other = base.get(key), mine.get(key), theirs.get(key)
        if now == before:
            continue
        if other != before:
            value, gives_way = both(before, now, other)
            if gives_way:
                overwritten.append(key)
            else:
                now = None if value is ABSENT else serializer.encode(value)
        if now is None:
            data.pop(key, None)
        else:
            data[key] = now
    return Merged(data, tuple(overwritten))


def merge_values(
    base: Any, mine: Any, theirs: Any, encode: Callable[[Any], bytes]
) -> tuple[Any, bool]:
    """Merge a value that two requests have changed. Returns the merged value, and
    whether a part of ``theirs`` was overwritten.

    - Dictionaries are merged key by key, and the dictionaries in them, too.
    - If both requests started a list or only appended to it, both ends are kept, theirs
      first, even if they are equal. If one removed the whole list and the other
      appended to it, as when a page shows the flashed messages, the appended items are
      kept.
    - Sets are merged by element.
    - For anything else, the whole of ``mine`` is kept.

    :param base: what both loaded; each of the three may be ``ABSENT``.
    :param encode: values are equal if this returns the same bytes for them.
    """

    def same(one: Any, other: Any) -> bool:
        if one is ABSENT or other is ABSENT:
            return one is other
        return encode(one) == encode(other)

    if same(mine, base):
        return theirs, False
    if same(theirs, base):
        return mine, False
    kinds = {type(each) for each in (base, mine, theirs) if each is not ABSENT}
    if kinds == {list}:
        return _merge_lists(base, mine, theirs, same)
    are_both = mine is not ABSENT and theirs is not ABSENT
    if kinds == {dict} and are_both:
        return _merge_dicts({} if base is ABSENT else base, mine, theirs, encode)
    if same(mine, theirs):
        return mine, False
    if kinds in ({set}, {frozenset}) and are_both:
        before = type(mine)() if base is ABSENT else base
        return (theirs - (before - mine)) | (mine - before), False
    return mine, True


def _merge_dicts(
    base: dict[Any, Any],
    mine: dict[Any, Any],
    theirs: dict[Any, Any],
    encode: Callable[[Any], bytes],
) -> tuple[dict[Any, Any], bool]:
    merged, gives_way = dict(theirs), False
    for key in [*base, *(key for key in mine if key not in base)]:
        before, now, other = (side.get(key, ABSENT) for side in (base, mine, theirs))
        value, inner = merge_values(before, now, other, encode)
        gives_way |= inner
        if value is ABSENT:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged, gives_way


def _merge_lists(
    base: Any, mine: Any, theirs: Any, same: Callable[[Any, Any], bool]
) -> tuple[Any, bool]:
    before = [] if base is ABSENT else base

    def is_longer(items: Any) -> bool:
        return items is not ABSENT and same(items[: len(before)], before)

    if is_longer(mine) and is_longer(theirs):
        return theirs + mine[len(before) :], False
    if same(mine, theirs):
        return mine, False
    for taken, kept in ((mine, theirs), (theirs, mine)):
        if (taken is ABSENT or not taken) and is_longer(kept):
            return kept[len(before) :], False
    return mine, True
