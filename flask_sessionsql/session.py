"""The mapping behind :data:`flask.session`; it knows no SQL and no HTTP.

It is read from its source at the first touch and not before, so a request that
leaves the session alone costs nothing. It keeps no record of changes: whether
it changed is decided by its source, which compares bytes, so a change deep
inside a nested value is noticed like any other.
"""

from __future__ import annotations

import copy
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from typing import Any, NoReturn, Protocol

from flask.sessions import SessionMixin

__all__ = ["ServerSideSession", "SessionSource"]

#: Where Flask keeps :attr:`~flask.sessions.SessionMixin.permanent`.
PERMANENT_KEY = "_permanent"


class SessionSource(Protocol):
    """Where a session comes from."""

    def read(self) -> dict[Any, Any]:
        """What is stored; an empty dictionary where there is nothing."""

    def differs(self, data: Mapping[Any, Any]) -> bool:
        """Whether ``data`` differs from what was read."""

    def exists(self) -> bool:
        """Whether anything was there to read."""


class ServerSideSession(SessionMixin):
    """A session whose data stays on the server.

    It behaves as a :class:`dict` does, every method and operator included;
    :meth:`copy`, ``|`` and :func:`copy.deepcopy` give plain dictionaries. It is
    not a subclass of :class:`dict`, because C code reads those past their
    methods and would see an empty one before the first touch.

    Changes need no announcing. ``session["cart"].append(item)`` is saved, and so
    :attr:`modified` never has to be set.

    >>> class Stored:
    ...     def read(self): return {"cart": ["tea"]}
    ...     def differs(self, data): return data != self.read()
    ...     def exists(self): return True
    >>> session = ServerSideSession(Stored())
    >>> session.modified
    False
    >>> session["cart"].append("milk")
    >>> session.modified
    True

    :param source: where it is read from, once, at the first touch.
    :param permanent: what :attr:`permanent` is unless the application sets it.
    """

    def __init__(self, source: SessionSource, *, permanent: bool = True) -> None:
        self.source = source
        #: The error with which reading failed, if it did. From then on the
        #: session is an empty one (so that an error page can be made), and what
        #: is written to it is not saved.
        self.failure: Exception | None = None
        self._data: dict[Any, Any] | None = None
        self._default_permanent = permanent
        self._permanent: bool | None = None
        self._stored_permanent: bool | None = None
        self._cleared = False
        self._reading = False

    # The state that the one who saves it needs.

    @property
    def loaded(self) -> bool:
        """Whether it was read from its source: touched, in other words."""
        return self._data is not None

    @property
    def cleared(self) -> bool:
        """Whether :meth:`clear` was called. What stands in it now is then a new
        session, and needs a new token: whoever knew the old one must not come
        along (CVE-2018-1000519).
        """
        return self._cleared

    @property
    def permanent_changed(self) -> bool:
        """Whether :attr:`permanent` is not as it was read: the cookie changes."""
        return self._permanent != self._stored_permanent

    def stored_form(self) -> dict[Any, Any]:
        """What is to be stored: the data, with :attr:`permanent` if it was set."""
        if self._permanent is None:
            return dict(self._mapping())
        return {**self._mapping(), PERMANENT_KEY: self._permanent}

    def settle(self, stored: Mapping[Any, Any]) -> None:
        """Take over what was stored, so that saving again changes nothing."""
        self._adopt(dict(stored))
        self._cleared = False

    def _adopt(self, data: dict[Any, Any]) -> dict[Any, Any]:
        self._permanent = self._stored_permanent = data.pop(PERMANENT_KEY, None)
        self._data = data
        return data

    def _mapping(self) -> dict[Any, Any]:
        if self._data is not None:
            return self._data
        if self._reading:
            # A log filter, say, that looks at the session while reading it is logged.
            return {}
        self._reading = True
        try:
            return self._adopt(self.source.read())
        except Exception as error:
            self._data, self.failure = {}, error
            raise
        finally:
            self._reading = False

    # What Flask asks of a session.

    @property
    def new(self) -> bool:
        """Whether nothing is stored of this session yet."""
        self._mapping()
        return not self.source.exists()

    @new.setter
    def new(self, value: object) -> NoReturn:
        raise AttributeError("'new' says whether the session is stored; it is not set.")

    @property
    def modified(self) -> bool:
        """Whether the session differs from what is stored. Setting it has no
        effect and does no harm: changes are found by comparing.
        """
        return self._data is not None and self.source.differs(self.stored_form())

    @modified.setter
    def modified(self, value: bool) -> None:
        """Accepted, because Flask's documentation tells applications to set it."""

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser: ``SESSION_PERMANENT``, unless
        set for this session. The row expires either way.
        """
        self._mapping()
        return self._default_permanent if self._permanent is None else self._permanent

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self._mapping()
        # The usual value is not stored: an application that sets it in every
        # request changes nothing by doing so.
        value = bool(value)
        self._permanent = None if value == self._default_permanent else value

    def __repr__(self) -> str:
        """Never the data: it would end in logs and error reports."""
        state = "not loaded" if self._data is None else f"{len(self._data)} keys"
        return f"<{type(self).__name__} ({state})>"

    # The mapping.

    def __getitem__(self, key: Any) -> Any:
        return self._mapping()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        if key == PERMANENT_KEY:
            self.permanent = value
        else:
            self._mapping()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._mapping()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._mapping())

    def __reversed__(self) -> Iterator[Any]:
        return self._mapping().__reversed__()

    def __len__(self) -> int:
        return len(self._mapping())

    def __contains__(self, key: object) -> bool:
        return key in self._mapping()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, ServerSideSession):
            return self._mapping() == other._mapping()
        return self._mapping() == other

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**self._mapping(), **other}

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**other, **self._mapping()}

    def __ior__(
        self, other: Mapping[Any, Any] | Iterable[tuple[Any, Any]]
    ) -> ServerSideSession:
        self.update(other)
        return self

    def get(self, key: Any, default: Any = None) -> Any:
        """As :meth:`dict.get`."""
        return self._mapping().get(key, default)

    def keys(self) -> KeysView[Any]:
        """As :meth:`dict.keys`."""
        return self._mapping().keys()

    def values(self) -> ValuesView[Any]:
        """As :meth:`dict.values`."""
        return self._mapping().values()

    def items(self) -> ItemsView[Any, Any]:
        """As :meth:`dict.items`."""
        return self._mapping().items()

    def popitem(self) -> tuple[Any, Any]:
        """As :meth:`dict.popitem`: the last item."""
        return self._mapping().popitem()

    def clear(self) -> None:
        """As :meth:`dict.clear`. The session ends here: what is written to it
        afterwards is a new session, with a new token.
        """
        self._mapping().clear()
        self._permanent = None
        self._cleared = True

    def copy(self) -> dict[Any, Any]:
        """A shallow copy, as a plain :class:`dict`."""
        return self._mapping().copy()

    __copy__ = copy

    @staticmethod
    def fromkeys(iterable: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """As :meth:`dict.fromkeys`: a plain :class:`dict`."""
        return dict.fromkeys(iterable, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return copy.deepcopy(self._mapping(), memo)
