"""Two requests changed one session: how both changes are kept.

A three-way merge, key by key, of what both began with (``base``), what this
request made of it (``mine``) and what another one stored meanwhile (``theirs``):
a key that this request left alone is taken from ``theirs``, one that it set or
deleted is taken from ``mine``. Where both changed the same key, the one that is
saved last wins: that key's two values are never mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["merge"]

_ABSENT = object()


def merge(
    base: Mapping[Any, Any],
    mine: Mapping[Any, Any],
    theirs: Mapping[Any, Any],
    same: Callable[[Any, Any], bool],
) -> dict[Any, Any]:
    """The three-way merge of ``mine`` and ``theirs`` over ``base``.

    :param same: whether two values are the same one; equality is not enough,
        since ``1 == True``.
    :return: a new dictionary in the order of ``theirs``, this request's new keys
        last.

    >>> from operator import eq
    >>> merge({"a": 1, "b": 1}, {"a": 2, "b": 1}, {"a": 1, "c": 3}, eq)
    {'a': 2, 'c': 3}
    """
    merged = dict(theirs)
    for key in [*base, *(key for key in mine if key not in base)]:
        before, now = base.get(key, _ABSENT), mine.get(key, _ABSENT)
        if now is _ABSENT:
            merged.pop(key, None)
        elif before is _ABSENT or not same(before, now):
            merged[key] = now
    return merged
