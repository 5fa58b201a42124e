"""The mapping behind :data:`flask.session`. It knows neither SQL nor HTTP.

It is read from its source when it is first used, so a request that does not use the
session costs nothing. It does not track changes, only whether there can be any. The
source compares bytes to find out, so a change deep in a nested value is noticed, too.

``session`` is :data:`flask.session` itself with a type: see :ref:`typed-access`.
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

from flask import Response
from flask import session as _session
from flask.sessions import SessionMixin
from markupsafe import Markup
from werkzeug.exceptions import HTTPException

from .frames import empty_frames, makes_error_page, unseen

__all__ = ["Encoded", "ServerSideSession", "SessionFacts", "SessionSource", "session"]

#: The key for :attr:`~flask.sessions.SessionMixin.permanent`, as in Flask.
PERMANENT_KEY = "_permanent"
#: The key for the end that the application has set.
EXPIRY_KEY = "_sessionsql_expires_at"
#: The key for the idle lifetime that the application has set.
LIFETIME_KEY = "_sessionsql_lifetime"
#: The key for the label that the application has set.
LABEL_KEY = "_sessionsql_label"
#: The key for a note that the token has to change once the browser can get a cookie.
MOVES_KEY = "_sessionsql_moves"
#: The key for a note that the browser's old cookie still opens it: see SESSION_ADOPT.
ADOPTED_KEY = "_sessionsql_adopted"
#: A hundred years of 366 days, in seconds: longer than browsers keep cookies (400
#: days), and far from the last year that a cookie's date can have.
LONGEST_LIFETIME = 366 * 100 * 24 * 3600
#: The maximum length of a label in characters.
MAX_LABEL = 255
#: How many seconds a thread waits for another one that is reading the session.
_PATIENCE = 60.0
#: Later times are cut to this: the last year of the calendar.
_FURTHEST = datetime(9999, 1, 1, tzinfo=UTC)
#: Types whose values cannot change, nor anything in them.
_IMMUTABLE = frozenset(
    {type(None), bool, int, float, str, bytes, Markup, frozenset}
    | {datetime, date, timedelta, Decimal, UUID}
)
#: What to use instead of setting one of these keys.
_SETTERS = {
    EXPIRY_KEY: "set_expiry()",
    LIFETIME_KEY: "set_lifetime()",
    LABEL_KEY: "label",
    MOVES_KEY: "regenerate()",
}
#: The keys that are stored with the data and hidden from the application, in order.
HIDDEN_KEYS = (
    *(PERMANENT_KEY, EXPIRY_KEY, LIFETIME_KEY, LABEL_KEY, ADOPTED_KEY, MOVES_KEY),
)
#: The hidden keys that belong to a login and end with it.
LOGIN_KEYS = frozenset({LIFETIME_KEY, LABEL_KEY})
#: Unicode categories that may not appear in a line of text: control characters,
#: surrogates, line and paragraph separators.
_NO_TEXT = frozenset({"Cc", "Cs", "Zl", "Zp"})


class _Turn:
    """A lock with a time limit. A thread that formats a log record with session values
    holds the log handler's lock, and the thread that reads the session may be waiting
    for that.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=_PATIENCE):
            raise TimeoutError(
                "Another thread of this request has been reading the session for"
                f" {_PATIENCE:g} seconds, and may be waiting for this one. Read the"
                " session before you start the threads."
            )

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Encoded:
    """A value that is not decoded yet, because nobody has asked for it."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data: bytes = data


class SessionFacts(NamedTuple):
    """Facts from the row of a session. The time is in UTC."""

    handle: str
    created_at: datetime


class SessionSource(Protocol):
    """The source that a session is read from."""

    def read(self) -> dict[Any, Any]:
        """The stored data. Values are encoded, except those of hidden keys. An empty
        dictionary if nothing is stored.
        """

    def decode(self, encoded: Encoded) -> Any:
        """Decode a value.

        :raises LookupError: it cannot be decoded. From then on the session is empty.
        """

    def differs(self, data: Mapping[Any, Any]) -> bool:
        """Whether ``data``, encoded or not, differ from what was read."""

    def facts(self) -> SessionFacts | None:
        """Facts from the row; ``None`` if nothing is stored."""

    def ends_at(self, session: ServerSideSession) -> datetime:
        """When the stored session will end, with the changes of this request so far."""


class ServerSideSession(SessionMixin):
    """A session whose data stay on the server.

    It works like a :class:`dict`, with all methods and operators. :meth:`copy`, ``|``
    and :func:`copy.deepcopy` return plain dictionaries. It is not a subclass of
    :class:`dict`, because C code would read such an object without calling its methods,
    and see an empty one before it is loaded.

    Every change is saved, also ``session["cart"].append(item)``. You never have to set
    :attr:`modified`.

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

    :param source: the source that it is read from, once, when it is first used.
    :param permanent: the value of :attr:`permanent` unless the application sets it.
    """

    # Attributes of the class: each request makes a session, and most do not use it.

    #: The error if reading has failed. From then on the session is empty, so that an
    #: error page can be made, and changes to it are not saved.
    _failure: Exception | None = None
    #: Whether the response is made, and what runs is no view: a function of
    #: ``after_request`` or of the teardown, or a receiver of a signal.
    _answered = False
    #: Whether it is empty only because it could not be read then, or on an error page.
    _spared = False
    _data: dict[Any, Any] | None = None
    _permanent: bool | None = None
    _stored_permanent: bool | None = None
    #: The end that the application has set, in seconds since 1970.
    _limit: int | None = None
    #: The idle lifetime that the application has set, in seconds.
    _lifetime: int | None = None
    #: The label that the application has set.
    _label: str | None = None
    #: The keys that belong to a login and were set in this request.
    _sets: frozenset[str] = frozenset()
    #: Whether the browser's old cookie still opens it.
    _adopted: bytes | None = None
    #: Whether a key was set or deleted, or a mutable value was returned.
    _can_differ = False
    #: Whether :meth:`clear` was called. Its data are then those of a new session, which
    #: needs a new token, because somebody else may know the old one
    #: (CVE-2018-1000519).
    _cleared = False
    #: Whether :meth:`regenerate` was called, or an earlier request could not send a new
    #: token to the browser.
    _regenerated = False
    #: The missing keys that pop() was called with.
    _popped: frozenset[Any] = frozenset()
    _reading = False

    #: Whether this request counts as use and moves the end of the session. Set it to
    #: ``False`` in a view that a page calls automatically, such as to show how much
    #: time is left. The end and the time of the last use then do not move. What the
    #: view changes is stored. A login and :meth:`set_lifetime` always count as use.
    counts_as_use: bool = True

    def __init__(self, source: SessionSource, *, permanent: bool = True) -> None:
        self._source = source
        # Threads of one request may share it (flask.copy_current_request_context).
        # While one of them reads it or decodes a value, the others wait.
        self._turn = _Turn()
        self._default_permanent = permanent

    # For the code that saves it.

    def _answer(self, response: Response) -> Response:
        """For :func:`flask.after_this_request`, whose functions run first."""
        self._answered = True
        return response

    @property
    def _loaded(self) -> bool:
        """Whether it was read from its source, because somebody has used it."""
        return self._data is not None

    @property
    def _permanent_changed(self) -> bool:
        """Whether :attr:`permanent` differs from what was read: the cookie changes."""
        return self._permanent != self._stored_permanent

    def _finish(self, *, streams: bool) -> None:
        """The response goes to the browser.

        :param streams: whether the view still makes its body, and may use the session.
        """
        self._answered = not streams
        if streams and self._spared:
            self._data = None  # so that the body fails

    def _is_changed(self, user_key: str) -> bool:
        """Whether there is something to be stored in a session that was not read."""
        is_changed = self._cleared or self._regenerated or self._missed(user_key)
        return is_changed or bool(self._data)

    def _missed(self, key: Any) -> bool:
        """Whether :meth:`pop` was called with this key while it was missing."""
        return key in self._popped

    def _stored_form(self) -> dict[Any, Any]:
        """The data to store, with :attr:`permanent`, the end, the lifetime and the
        label if they were set.
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
        """Load what was stored, so that saving again changes nothing."""
        self._adopt(dict(stored))
        self._cleared, self._sets = False, frozenset()
        # Somebody may still hold a list that was returned before.
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
        """Become empty, because a value cannot be decoded."""
        self._data, self._permanent, self._limit = {}, None, None
        self._lifetime = self._label = self._adopted = None

    def _mapping(self) -> dict[Any, Any]:
        if self._data is not None:
            return self._data
        with self._turn:
            needless = self._answered or makes_error_page()
            if self._failure is not None:  # it is another thread's, or another time's
                return self._fail(self._failure, needless)
            if self._data is not None:
                return self._data
            if self._reading:
                # For example a log filter that looks at the session while its reading
                # is logged, in the same thread.
                return {}
            self._reading = True
            try:
                return self._adopt(self._source.read())
            except Exception as error:
                empty_frames(error)
                return self._fail(error, needless)
            finally:
                self._reading = False

    def _fail(self, error: Exception, needless: bool) -> dict[Any, Any]:
        """Be empty, as it cannot be read, and raise.

        :param needless: whether the view does not need it. Flask would answer with a
            500 then, so that an empty session is better.
        """
        self._failure = error
        if self._data is None:  # or another thread has written to it meanwhile
            self._data = {}
        if needless and isinstance(error, HTTPException):
            self._spared = True
            return self._data
        raise error

    # Values are decoded when they are asked for. A value that cannot change stays
    # encoded nevertheless, so that saving sees that it is unchanged.

    def _decoded(self, data: dict[Any, Any], key: Any) -> Any:
        """The value of a key."""
        value = data[key]
        if type(value) is Encoded:
            value = self._decode(key)
        if type(value) not in _IMMUTABLE:
            self._can_differ = True
        return value

    def _decode(self, key: Any) -> Any:
        """Decode the value of a key: all threads get the same object."""
        with self._turn:
            # Another thread may have found a value that cannot be decoded.
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
        """The mapping with all values decoded."""
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
        """The mapping, for a caller that may change it."""
        data = self._mapping()
        self._can_differ = True
        return data

    # The interface of Flask.

    @property
    def new(self) -> bool:
        """Whether the session is not stored yet."""
        return self._facts() is None

    @new.setter
    @unseen
    def new(self, value: object) -> NoReturn:
        raise AttributeError(
            "session.new cannot be set: it says whether the session is not stored yet."
        )

    @property
    def modified(self) -> bool:
        """Whether the session differs from what is stored, or gets a new token. Setting
        it has no effect: changes are found by comparing.
        """
        if self._regenerated and self._facts() is not None:
            return True
        return self._can_differ and self._source.differs(self._stored_form())

    @modified.setter
    def modified(self, value: bool) -> None:
        """Accepted, because Flask's documentation tells applications to set it."""

    @property
    def permanent(self) -> bool:
        """Whether the cookie survives when the browser is closed. The default is
        ``SESSION_PERMANENT``. The row expires either way.
        """
        self._mapping()
        return self._default_permanent if self._permanent is None else self._permanent

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self._to_change()
        # The default is not stored, so that an application that sets it in every
        # request does not change the session.
        value = bool(value)
        self._permanent = None if value == self._default_permanent else value

    # What this package adds.

    def _facts(self) -> SessionFacts | None:
        self._mapping()
        # Data written after clear() belong to another session.
        return None if self._cleared else self._source.facts()

    @property
    def handle(self) -> str | None:
        """The public name of the session in lists, logs and commands. It opens nothing,
        so you can show it, and stays when the token changes. ``None`` as long as the
        session is not stored.
        """
        facts = self._facts()
        return None if facts is None else facts.handle

    @property
    def created_at(self) -> datetime | None:
        """When the session was first stored, or when its user logged in; UTC. ``None``
        as long as the session is not stored.
        """
        facts = self._facts()
        return None if facts is None else facts.created_at

    @property
    def expires_at(self) -> datetime | None:
        """When the session ends if nobody uses it after this request; UTC. ``None`` as
        long as the session is not stored.

        A request that counts as use moves the end to ``PERMANENT_SESSION_LIFETIME``
        from now, or earlier by up to ``SESSION_REFRESH_INTERVAL``, and never beyond
        ``SESSION_ABSOLUTE_LIFETIME`` or the time given to :meth:`set_expiry`. With
        :attr:`counts_as_use` off, it does not move.
        """
        return None if self._facts() is None else self._source.ends_at(self)

    # Not for type checkers: every attribute name would seem to exist.
    if not TYPE_CHECKING:  # pragma: no branch

        @unseen
        def __getattr__(self, name: str) -> NoReturn:
            """Explain the missing ``sid`` of Flask-Session, which templates may use."""
            if name == "sid":
                raise AttributeError(
                    "This session has no 'sid', as Flask-Session's has: only the"
                    " browser knows the token. Use session.handle, which names the"
                    " session in lists, logs and commands, and opens nothing."
                )
            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")

    @unseen
    def set_expiry(self, when: datetime | timedelta | None) -> None:
        """Let the session end at this time at the latest, for example when the identity
        provider's login ends (OWASP ASVS 5.0, 7.6.1). It still ends earlier if nobody
        uses it, or by ``SESSION_ABSOLUTE_LIFETIME``. The time applies to this session,
        through every change of token, until you set it again or clear the session.

        :param when: a :class:`~datetime.datetime` with a time zone, or a
            :class:`~datetime.timedelta` from now; ``None`` to follow the configuration
            again.
        :raises TypeError: ``when`` is something else.
        :raises ValueError: ``when`` is in the past, or has no time zone.
        """
        self._to_change()
        self._limit = None if when is None else _as_seconds(when)

    @unseen
    def set_lifetime(self, lifetime: timedelta | None) -> None:
        """Give this session its own idle lifetime, longer or shorter than
        ``PERMANENT_SESSION_LIFETIME``, for example to :ref:`keep somebody logged in
        <keep-me-logged-in>`. It applies until you set it again or the login ends,
        through every change of token, and never beyond ``SESSION_ABSOLUTE_LIFETIME``.
        For the browser to keep the cookie as long, the session must be
        :attr:`permanent`, which is the default.

        :param lifetime: how long after its last use the session ends, rounded up to a
            second; ``None`` to follow the configuration again.
        :raises TypeError: ``lifetime`` is something else.
        :raises ValueError: ``lifetime`` is not above 0, or above 100 years.
        """
        self._to_change()
        self._lifetime = None if lifetime is None else _as_lifetime(lifetime)
        self._sets |= {LIFETIME_KEY}

    @property
    def label(self) -> str | None:
        """A label that the application gives the session, such as "Work laptop", for
        :meth:`lists of sessions <flask_sessionsql.Session.user_sessions>`. ``None`` if
        it has no label. Set it to a string; ``None`` or an empty string removes it. It
        stays until you set it again or the login ends, through every change of token.

        It is stored with the session's data: a label alone does not create a session.
        In the database it is readable, even with ``SESSION_ENCRYPT``.

        :raises TypeError: it is set to something else.
        :raises ValueError: it is set to more than 255 characters, or to a string with
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
        """Give the session a new token when it is saved. The old token then opens
        nothing; the data, :attr:`handle` and :attr:`created_at` stay. When the user
        changes, this happens automatically. Call it when a user gains rights or
        authenticates again (OWASP ASVS 5.0, 7.2.4). It has no effect on a session that
        is not stored.
        """
        self._mapping()
        self._regenerated = True

    def __repr__(self) -> str:
        """Without the data, which would appear in logs and error reports."""
        state = "not loaded" if self._data is None else f"{len(self._data)} keys"
        return f"<{type(self).__name__} ({state})>"

    # The mapping.

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._decoded(self._mapping(), key)
        except KeyError as error:
            # The frames below and this one hold the session.
            del self
            raise error.with_traceback(None)  # noqa: B904 - it is the same one

    @unseen
    def __setitem__(self, key: Any, value: Any) -> None:
        if key == PERMANENT_KEY:
            self.permanent = value
        elif key == ADOPTED_KEY:
            raise ValueError(
                f"session[{key!r}] is reserved for this package. Use another key."
            )
        elif key in _SETTERS:
            raise ValueError(
                f"session[{key!r}] is reserved for session.{_SETTERS[key]}. Use"
                f" session.{_SETTERS[key]}, or another key."
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
                self._to_change().update(new)  # all at once instead of key by key
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
        """As :meth:`dict.clear`. This ends the session: what you write to it afterwards
        begins a new session with a new token.
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
            f"set_expiry() was given {given!r}, which has no time zone. Add one, for"
            " example with datetime.now(UTC) or datetime.fromtimestamp(..., UTC)."
        )
    if when <= now:
        raise ValueError(
            f"set_expiry() was given {given!r}, which is in the past. To end the"
            " session, call session.clear()."
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
    """The label to store; ``None`` if it is empty."""
    if not isinstance(label, str):
        raise TypeError(
            f"session.label was set to a value of type {type(label).__name__}. It takes"
            " a str, or None to remove it."
        )
    if len(label) > MAX_LABEL:
        raise ValueError(
            f"session.label was set to {len(label):,} characters. It takes at most"
            f" {MAX_LABEL}: cut it, or refuse it in the form."
        )
    if not _NO_TEXT.isdisjoint(map(category, label)):
        raise ValueError(
            "session.label was set to a text with control characters, such as NUL,"
            " line breaks or surrogates. It takes one line of text: remove them, or"
            " refuse it in the form."
        )
    return str(label) or None
