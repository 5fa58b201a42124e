"""Two requests changed one session: how both changes are kept.

A three-way merge, key by key, of what both began with (``base``), what this
request made of it (``mine``) and what another one stored meanwhile (``theirs``):
a key that this request left alone is taken from ``theirs``, one that it set or
deleted is taken from ``mine``. Where both changed one key, their values are merged as
well, as far as their kind says how: see :func:`merge_values`. Where it does not, the
one that is saved last wins, and the key is among those that are overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..exceptions import UnreadableSessionError
from ..formats.serializers import Serializer
from ..sessions import Encoded

__all__ = ["Merged", "merge", "merge_values"]

#: Stands for the value of a key that is not there.
ABSENT: Any = object()


class Merged(NamedTuple):
    """What a merge comes to."""

    #: The values by their keys, encoded: in the order of ``theirs``, this request's new
    #: keys last.
    data: dict[Any, bytes]
    #: The keys whose value in ``theirs`` had to give way.
    overwritten: tuple[Any, ...]


def merge(
    base: Mapping[Any, bytes],
    mine: Mapping[Any, bytes],
    theirs: Mapping[Any, bytes],
    serializer: Serializer,
) -> Merged:
    """The three-way merge of ``mine`` and ``theirs`` over ``base``, whose values are
    encoded: they are the same if their bytes are, and none but those that both have
    changed is decoded.

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
        except UnreadableSessionError:  # somebody has damaged one of them
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
    """What two requests have made of one value, and whether what the other one made of
    it has to give way.

    - Dictionaries are merged key by key, and so are those inside of them.
    - Of lists that both have begun, or only appended to, both ends are kept, theirs
      first, be they the same or not. Where one has taken all of a list and the other
      one has appended to it, as when a page shows the flashed messages, what was
      appended is kept.
    - Sets are merged by element.
    - Of anything else, ``mine`` stays, whole.

    :param base: what both began with; each of the three may be ``ABSENT``.
    :param encode: values are the same if it gives the same bytes for them.
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
