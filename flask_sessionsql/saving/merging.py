"""Two requests changed one session: how both changes are kept.

A three-way merge, key by key, of what both began with (``base``), what this
request made of it (``mine``) and what another one stored meanwhile (``theirs``):
a key that this request left alone is taken from ``theirs``, one that it set or
deleted is taken from ``mine``. Where both changed the same key, the one that is
saved last wins: that key's two values are never mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["merge"]


def merge(
    base: Mapping[Any, bytes], mine: Mapping[Any, bytes], theirs: Mapping[Any, bytes]
) -> dict[Any, bytes]:
    """The three-way merge of ``mine`` and ``theirs`` over ``base``, whose values are
    encoded: they are the same if their bytes are.

    :return: a new dictionary in the order of ``theirs``, this request's new keys
        last.

    >>> merge({"a": b"1", "b": b"1"}, {"a": b"2", "b": b"1"}, {"a": b"1", "c": b"3"})
    {'a': b'2', 'c': b'3'}
    """
    merged = dict(theirs)
    for key in [*base, *(key for key in mine if key not in base)]:
        now = mine.get(key)
        if now is None:
            merged.pop(key, None)
        elif now != base.get(key):
            merged[key] = now
    return merged
