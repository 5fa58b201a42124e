"""The mapping behind :data:`flask.session`; it knows no SQL and no HTTP.

It is read from its source at the first touch and not before, so a request that
leaves the session alone costs nothing. It keeps no record of changes, only whether
there can be any: whether it changed is decided by its source, which compares bytes,
so a change deep inside a nested value is noticed like any other.

``session`` is :data:`flask.session` itself, by its type: see :ref:`typed-access`.
"""

from __future__ import annotations

import copy
import math
import threading
import time
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    ValuesView,
)
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    NoReturn,
    Protocol,
    cast,
)
from unicodedata import category
from uuid import UUID

from flask import session as _session
from flask.sessions import SessionMixin
from markupsafe import Markup

from .frames import empty_frames, unseen

__all__ = ["Encoded", "ServerSideSession", "SessionFacts", "SessionSource", "session"]

#: Where Flask keeps :attr:`~flask.sessions.SessionMixin.permanent`.
PERMANENT_KEY = "_permanent"
#: Where a session keeps the end that the application has set for it.
EXPIRY_KEY = "_sessionsql_expires_at"
#: Where it keeps the idle lifetime that the application has set for it.
LIFETIME_KEY = "_sessionsql_lifetime"
#: Where it keeps the label that the application has set for it.
LABEL_KEY = "_sessionsql_label"
#: Where it notes that it is to move to a new token, once the browser can be told.
MOVES_KEY = "_sessionsql_moves"
#: Where it notes that what its browser had before still leads to it: see SESSION_ADOPT.
ADOPTED_KEY = "_sessionsql_adopted"
#: A hundred years of 366 days, in seconds: beyond any cookie's life (browsers keep none
#: longer than 400 days), and far from the last year that a cookie's date can name.
LONGEST_LIFETIME = 366 * 100 * 24 * 3600
#: Characters that a label has at most.
MAX_LABEL = 255
#: Seconds that a thread waits for another one that reads the session.
_PATIENCE = 60.0
#: Further away than any calendar goes is as good as its last year.
_FURTHEST = datetime(9999, 1, 1, tzinfo=UTC)
#: What cannot change once it is handed out, nor anything in it.
_IMMUTABLE = frozenset(
    {type(None), bool, int, float, str, bytes, Markup, frozenset}
    | {datetime, date, timedelta, Decimal, UUID}
)
#: What sets what a key of ours holds.
_SETTERS = {
    EXPIRY_KEY: "set_expiry()",
    LIFETIME_KEY: "set_lifetime()",
    LABEL_KEY: "label",
    MOVES_KEY: "regenerate()",
}
#: What is stored with a session's data and does not show among it, in this order.
HIDDEN_KEYS = (
    *(PERMANENT_KEY, EXPIRY_KEY, LIFETIME_KEY, LABEL_KEY, ADOPTED_KEY, MOVES_KEY),
)
#: Those of them that are set for a login, and go with it.
LOGIN_KEYS = frozenset({LIFETIME_KEY, LABEL_KEY})
#: What has no place in a line of text, by Unicode's categories: control characters,
#: halves of surrogate pairs, ends of lines and paragraphs.
_NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})


class _Turn:
    """One thread at a time: the others wait, and not for ever. A thread that formats a
    log record with what the session holds has the log handler's lock, which the one
    that reads may wait for.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_PATIENCE):
            raise TimeoutError(
                "Another thread of this request has been reading the session for"
                f" {_PATIENCE:g} seconds, and may wait for this one. Touch the session"
                " before you start the threads."
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Encoded:
    """A value that is not decoded yet: as long as nobody has asked for it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data


class SessionFacts(NamedTuple):
    """What the row of a session says of it. The times are in UTC."""

    handle: str
    created_at: datetime


class SessionSource(Protocol):
    """Where a session comes from."""

    def read(self) -> dict[Any, Any]:
        """What is stored, with its values encoded, but for those of hidden keys; an
        empty dictionary where there is nothing.
        """

    def decode(self, encoded: Encoded) -> Any:
        """A value that was read.

        :raises LookupError: it cannot be. The session is an empty one from then on.
        """

    def differs(self, data: Mapping[Any, Any]) -> bool:
        """Whether ``data``, some values of which may be encoded, are not what was
        read.
        """

    def facts(self) -> SessionFacts | None:
        """What the row says of the session; ``None`` where nothing is stored."""

    def ends_at(self, session: ServerSideSession) -> datetime:
        """When a session that is stored will end, by what this request has made of it
        so far.
        """


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
    ...     def decode(self, encoded): raise LookupError
    ...     def differs(self, data): return data != self.read()
    ...     def facts(self): return None
    ...     def ends_at(self, session): raise LookupError
    >>> session = ServerSideSession(Stored())
    >>> session.modified
    False
    >>> session["cart"].append("milk")
    >>> session.modified
    True

    :param source: where it is read from, once, at the first touch.
    :param permanent: what :attr:`permanent` is unless the application sets it.
    """

    # Of the class: each request makes one, and most never touch it.

    #: The error with which reading failed, if it did. From then on the session is an
    #: empty one (so that an error page can be made), and what is written to it is not
    #: saved.
    _failure: Exception | None = None
    _data: dict[Any, Any] | None = None
    _permanent: bool | None = None
    _stored_permanent: bool | None = None
    #: The end that the application has set, in seconds since 1970.
    _limit: int | None = None
    #: The idle lifetime that the application has set, in seconds.
    _lifetime: int | None = None
    #: The label that the application has set.
    _label: str | None = None
    #: Which of the keys that go with a login have been set in this request.
    _sets: frozenset[str] = frozenset()
    #: Whether what the browser had before still leads to it.
    _adopted: bytes | None = None
    #: Whether a key was set or deleted, or something handed out that can change.
    _can_differ = False
    #: Whether :meth:`clear` was called. What stands in it now is then a new session,
    #: and needs a new token: whoever knew the old one must not come along
    #: (CVE-2018-1000519).
    _cleared = False
    #: Whether :meth:`regenerate` was called, or an earlier request could not tell the
    #: browser of a new token.
    _regenerated = False
    #: The keys that pop() was to take out and that were not there.
    _popped: frozenset[Any] = frozenset()
    _reading = False

    #: Whether this request lets the session live on: set it to ``False`` in a view that
    #: a page calls by itself, such as to show how much time is left. The end then stays
    #: where it is, and so does the time of the last use; what the view changes is
    #: stored all the same. A login and :meth:`set_lifetime` always count.
    counts_as_use: bool = True

    def __init__(self, source: SessionSource, *, permanent: bool = True) -> None:
        self._source = source
        # Threads of one request may share it (flask.copy_current_request_context). One
        # of them reads it, and decodes a value, while the others wait.
        self._turn = _Turn()
        self._default_permanent = permanent

    # The state that the one who saves it needs.

    @property
    def _loaded(self) -> bool:
        """Whether it was read from its source: touched, in other words."""
        return self._data is not None

    @property
    def _permanent_changed(self) -> bool:
        """Whether :attr:`permanent` is not as it was read: the cookie changes."""
        return self._permanent != self._stored_permanent

    def _missed(self, key: Any) -> bool:
        """Whether :meth:`pop` was to take out a key that was not there."""
        return key in self._popped

    def _stored_form(self) -> dict[Any, Any]:
        """What is to be stored: the data, with :attr:`permanent`, the end, the lifetime
        and the label of the session if they were set.
        """
        form = dict(self._mapping())
        if self._permanent is not None:
            form[PERMANENT_KEY] = self._permanent
        if self._limit is not None:
            form[EXPIRY_KEY] = self._limit
        if self._lifetime is not None:
            form[LIFETIME_KEY] = self._lifetime
        if self._label is not None:
            form[LABEL_KEY] = self._label
        if self._adopted is not None:
            form[ADOPTED_KEY] = self._adopted
        return form

    def _settle(self, stored: Mapping[Any, Any]) -> None:
        """Take over what was stored, so that saving again changes nothing."""
        self._adopt(dict(stored))
        self._cleared, self._sets = False, frozenset()
        # Somebody may have kept a list that was handed out before.
        self._can_differ = True

    def _adopt(self, data: dict[Any, Any]) -> dict[Any, Any]:
        self._permanent = self._stored_permanent = data.pop(PERMANENT_KEY, None)
        self._limit = data.pop(EXPIRY_KEY, None)
        self._lifetime = data.pop(LIFETIME_KEY, None)
        self._label = data.pop(LABEL_KEY, None)
        self._adopted = data.pop(ADOPTED_KEY, None)
        self._regenerated = bool(data.pop(MOVES_KEY, False))
        self._data = data
        return data

    def _lose(self) -> None:
        """Be empty from now on: a value cannot be decoded."""
        self._data, self._permanent, self._limit = {}, None, None
        self._lifetime = self._label = self._adopted = None

    def _mapping(self) -> dict[Any, Any]:
        if self._data is not None:
            return self._data
        with self._turn:
            if self._failure is not None:
                raise self._failure  # which the one that has read it has met
            if self._data is not None:
                return self._data
            if self._reading:
                # A log filter, say, that looks at the session while its reading is
                # logged, in the thread that reads it.
                return {}
            self._reading = True
            try:
                return self._adopt(self._source.read())
            except Exception as error:
                empty_frames(error)
                self._data, self._failure = {}, error
                raise
            finally:
                self._reading = False

    # Values are decoded when they are asked for. One that cannot change stays encoded
    # all the same: whoever saves the session sees that it is as it was.

    def _decoded(self, data: dict[Any, Any], key: Any) -> Any:
        """What a key stands for."""
        value = data[key]
        if type(value) is Encoded:
            value = self._decode(key)
        if type(value) not in _IMMUTABLE:
            self._can_differ = True
        return value

    def _decode(self, key: Any) -> Any:
        """What a key stands for that was not decoded yet: for all threads the same."""
        with self._turn:
            # Another thread may have met a value that cannot be decoded meanwhile.
            data = self._mapping()
            value = data[key]
            if type(value) is Encoded:
                try:
                    value = self._source.decode(value)
                except LookupError:
                    self._lose()
                    raise KeyError(key) from None
                if type(value) not in _IMMUTABLE:
                    data[key] = value
        return value

    def _values(self) -> dict[Any, Any]:
        """The mapping, all of it decoded."""
        with self._turn:
            data = self._to_change()
            try:
                for key, value in data.items():
                    if type(value) is Encoded:
                        data[key] = self._source.decode(value)
            except LookupError:
                self._lose()
            return self._mapping()

    def _to_change(self) -> dict[Any, Any]:
        """The mapping, for whoever changes it or may do so."""
        data = self._mapping()
        self._can_differ = True
        return data

    # What Flask asks of a session.

    @property
    def new(self) -> bool:
        """Whether nothing is stored of this session yet."""
        return self._facts() is None

    @new.setter
    @unseen
    def new(self, value: object) -> NoReturn:
        raise AttributeError("'new' says whether the session is stored; it is not set.")

    @property
    def modified(self) -> bool:
        """Whether the session differs from what is stored, or is to have a new token.
        Setting it has no effect and does no harm: changes are found by comparing.
        """
        if self._regenerated and self._facts() is not None:
            return True
        return self._can_differ and self._source.differs(self._stored_form())

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
        self._to_change()
        # The usual value is not stored: an application that sets it in every
        # request changes nothing by doing so.
        value = bool(value)
        self._permanent = None if value == self._default_permanent else value

    # What a session of ours has besides.

    def _facts(self) -> SessionFacts | None:
        self._mapping()
        # What is written after clear() is another session.
        return None if self._cleared else self._source.facts()

    @property
    def handle(self) -> str | None:
        """The session's name in lists, logs and commands, which opens nothing and may
        be shown; ``None`` as long as it is not stored. It stays when the token changes.
        """
        facts = self._facts()
        return None if facts is None else facts.handle

    @property
    def created_at(self) -> datetime | None:
        """When it was first stored, or its user logged in, in UTC; ``None`` as long as
        it is not stored.
        """
        facts = self._facts()
        return None if facts is None else facts.created_at

    @property
    def expires_at(self) -> datetime | None:
        """When it ends if it is not used after this request, in UTC; ``None`` as long
        as it is not stored. A request that counts as use moves the end on, to
        ``PERMANENT_SESSION_LIFETIME`` from now or less by what
        ``SESSION_REFRESH_INTERVAL`` allows, and never past
        ``SESSION_ABSOLUTE_LIFETIME`` or what :meth:`set_expiry` was given. With
        :attr:`counts_as_use` off, it is the end as it stands.
        """
        return None if self._facts() is None else self._source.ends_at(self)

    # Or every name would be one of a session's.
    if not TYPE_CHECKING:  # pragma: no branch

        @unseen
        def __getattr__(self, name: str) -> NoReturn:
            """Say what Flask-Session's name is here, which templates look for, too."""
            if name == "sid":
                raise AttributeError(
                    "This session has no 'sid', which is Flask-Session's: the token is"
                    " known to the browser alone. Take session.handle, which names the"
                    " session in lists, logs and commands, and opens nothing."
                )
            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")

    @unseen
    def set_expiry(self, when: datetime | timedelta | None) -> None:
        """Let the session end at ``when`` at the latest, such as when the identity
        provider that vouches for its user says (OWASP ASVS 5.0, 7.6.1). It can end
        before, unused, or by ``SESSION_ABSOLUTE_LIFETIME``. It holds for this session,
        through every change of token, until it is set again or the session is cleared.

        :param when: a time with its time zone, or a time from now; ``None`` to leave
            the end to the configuration again.
        :raises TypeError: it is neither.
        :raises ValueError: it is past, or has no time zone.
        """
        self._to_change()
        self._limit = None if when is None else _as_seconds(when)

    @unseen
    def set_lifetime(self, lifetime: timedelta | None) -> None:
        """Give this session an idle lifetime of its own, longer or shorter than
        ``PERMANENT_SESSION_LIFETIME``: such as to :ref:`keep somebody logged in
        <keep-me-logged-in>`. It holds until it is set again or the login ends,
        through every change of token, and never past ``SESSION_ABSOLUTE_LIFETIME``.
        Where the browser is to keep the cookie as long, it must be
        :attr:`permanent`, which is the default.

        :param lifetime: how long after its last use it ends, rounded up to a second;
            ``None`` to leave that to the configuration again.
        :raises TypeError: it is neither.
        :raises ValueError: it is not above 0, or above 100 years.
        """
        self._to_change()
        self._lifetime = None if lifetime is None else _as_lifetime(lifetime)
        self._sets |= {LIFETIME_KEY}

    @property
    def label(self) -> str | None:
        """What the application calls this session, such as "Work laptop", for
        :meth:`lists of sessions <flask_sessionsql.Session.user_sessions>`; ``None``
        where it has set nothing. Set it to a text, and to ``None`` or an empty text to
        remove it. It holds until it is set again or the login ends, through every
        change of token. It is stored with the session's data: alone, it begins no
        session. The database keeps it readable, also with ``SESSION_ENCRYPT``.

        :raises TypeError: it is set to something else.
        :raises ValueError: it is set to more than 255 characters, or to a text with
            control characters, line breaks or surrogates.
        """
        self._mapping()
        return self._label

    @label.setter
    @unseen
    def label(self, label: str | None) -> None:
        self._to_change()
        self._label = None if label is None else _as_label(label)
        self._sets |= {LABEL_KEY}

    def regenerate(self) -> None:
        """Move the session to a new token when it is saved. The old one is dead then;
        the data, :attr:`handle` and :attr:`created_at` stay. That happens by itself
        whenever the user changes; call it when a user gains rights, say, or proves
        anew who they are (OWASP ASVS 5.0, 7.2.4). A session that is not stored has
        nothing to move.
        """
        self._mapping()
        self._regenerated = True

    def __repr__(self) -> str:
        """Never the data: it would end in logs and error reports."""
        state = "not loaded" if self._data is None else f"{len(self._data)} keys"
        return f"<{type(self).__name__} ({state})>"

    # The mapping.

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._decoded(self._mapping(), key)
        except KeyError as error:
            # From here on: the frames below hold the session, and so does this one.
            del self
            raise error.with_traceback(None)  # noqa: B904 - it is the same one

    @unseen
    def __setitem__(self, key: Any, value: Any) -> None:
        if key == PERMANENT_KEY:
            self.permanent = value
        elif key == ADOPTED_KEY:
            raise ValueError(
                f"session[{key!r}] is where this package notes how a session came here."
                " Take another key."
            )
        elif key in _SETTERS:
            raise ValueError(
                f"session[{key!r}] is where session.{_SETTERS[key]} keeps what it is"
                f" for. Use session.{_SETTERS[key]}, or take another key."
            )
        else:
            with self._turn:
                self._to_change()[key] = value

    @unseen
    def __delitem__(self, key: Any) -> None:
        with self._turn:
            del self._to_change()[key]

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
            return self._values() == other._values()
        return self._values() == other

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**self._values(), **other}

    def __ror__(self, other: Mapping[Any, Any]) -> dict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return {**other, **self._values()}

    @unseen
    def __ior__(
        self, other: Mapping[Any, Any] | Iterable[tuple[Any, Any]]
    ) -> ServerSideSession:
        self.update(other)
        return self

    def get(self, key: Any, default: Any = None) -> Any:
        """As :meth:`dict.get`."""
        data = self._mapping()
        try:
            return self._decoded(data, key) if key in data else default
        except KeyError:
            return default

    def keys(self) -> KeysView[Any]:
        """As :meth:`dict.keys`."""
        return self._mapping().keys()

    def values(self) -> ValuesView[Any]:
        """As :meth:`dict.values`."""
        return self._values().values()

    def items(self) -> ItemsView[Any, Any]:
        """As :meth:`dict.items`."""
        return self._values().items()

    @unseen
    def update(self, /, *args: Any, **kwargs: Any) -> None:
        """As :meth:`dict.update`."""
        new = args[0] if len(args) == 1 and not kwargs else None
        if type(new) is dict and new.keys().isdisjoint(HIDDEN_KEYS):
            with self._turn:
                self._to_change().update(new)  # at once, and not key by key
        else:
            super().update(*args, **kwargs)

    @unseen
    def pop(self, key: Any, *default: Any, **named: Any) -> Any:
        """As ``dict.pop()``."""
        with self._turn:
            if key not in self._mapping():
                self._popped |= {key}
            return super().pop(key, *default, **named)

    @unseen
    def setdefault(self, key: Any, default: Any = None) -> Any:
        """As ``dict.setdefault()``."""
        with self._turn:
            return super().setdefault(key, default)

    def popitem(self) -> tuple[Any, Any]:
        """As :meth:`dict.popitem`: the last item."""
        with self._turn:
            return self._values().popitem()

    def clear(self) -> None:
        """As :meth:`dict.clear`. The session ends here: what is written to it
        afterwards is a new session, with a new token.
        """
        with self._turn:
            self._to_change().clear()
            self._permanent = self._limit = self._lifetime = None
            self._label = self._adopted = None
            self._cleared = True

    def copy(self) -> dict[Any, Any]:
        """A shallow copy, as a plain :class:`dict`."""
        return self._values().copy()

    __copy__ = copy

    @staticmethod
    def fromkeys(iterable: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """As :meth:`dict.fromkeys`: a plain :class:`dict`."""
        return dict.fromkeys(iterable, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[Any, Any]:
        return copy.deepcopy(self._values(), memo)


#: :data:`flask.session`, typed as :class:`ServerSideSession`.
session: ServerSideSession = cast(ServerSideSession, _session)


def _as_seconds(when: datetime | timedelta) -> int:
    """``when`` in seconds since 1970, rounded up."""
    given, now = when, datetime.fromtimestamp(time.time(), UTC)
    if isinstance(when, timedelta):
        when = now + min(max(when, timedelta(0)), _FURTHEST - now)
    if not isinstance(when, datetime):
        raise TypeError(
            f"set_expiry() was given {given!r}. It takes a datetime with a time zone, a"
            " timedelta, or None."
        )
    if when.tzinfo is None:
        raise ValueError(
            f"set_expiry() was given {given!r}, which has no time zone. Say which it"
            " is, such as by datetime.now(UTC) or datetime.fromtimestamp(..., UTC)."
        )
    if when <= now:
        raise ValueError(
            f"set_expiry() was given {given!r}, which is past. To end the session, call"
            " session.clear()."
        )
    return math.ceil(min(when, _FURTHEST).timestamp())


def _as_lifetime(lifetime: timedelta) -> int:
    """``lifetime`` in seconds, rounded up."""
    if not isinstance(lifetime, timedelta):
        raise TypeError(
            f"set_lifetime() was given {lifetime!r}. It takes a timedelta, or None."
        )
    if not timedelta(0) < lifetime <= timedelta(seconds=LONGEST_LIFETIME):
        raise ValueError(
            f"set_lifetime() was given {lifetime!r}. It takes a timedelta above 0, at"
            " most 100 years. To end the session, call session.clear()."
        )
    return math.ceil(lifetime.total_seconds())


def _as_label(label: str) -> str | None:
    """``label`` as it is stored; ``None`` where it is empty."""
    if not isinstance(label, str):
        raise TypeError(
            f"session.label was set to a value of type {type(label).__name__}. It takes"
            " a str, or None to remove it."
        )
    if len(label) > MAX_LABEL:
        raise ValueError(
            f"session.label was set to {len(label):,} characters. It takes"
            f" {MAX_LABEL} at most: cut it, or refuse it in the form."
        )
    if not _NO_TEXT.isdisjoint(map(category, label)):
        raise ValueError(
            "session.label was set to a text that has control characters, such as NUL,"
            " line breaks or surrogates. It takes one line of text: leave them out, or"
            " refuse it in the form."
        )
    return str(label) or None
