"""Deciding what to write for a session, without the database.

:meth:`Planner.plan` compares the session at the end of a request with what was loaded,
and returns a plan: there is one small class for each possible action. If another
request was faster, :meth:`Planner.again` returns the next plan.
:mod:`flask_sessionsql.saving.records` carries the plans out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from ..config import SessionConfig
from ..exceptions import SessionTooLargeError, SessionValueError
from ..formats.serializers import Serializer
from ..formats.tokens import line_ids, new_handle, new_token, row_id
from ..sessions import (
    EXPIRY_KEY,
    HIDDEN_KEYS,
    LABEL_KEY,
    LIFETIME_KEY,
    LOGIN_KEYS,
    MOVES_KEY,
    Encoded,
)
from ..storage.store import StoredSession
from ..storage.tables import MAX_USER_ID
from .merging import merge

__all__ = [
    "Change",
    "Clear",
    "Client",
    "Contended",
    "Empty",
    "Insert",
    "Keep",
    "Plan",
    "Planner",
    "Replace",
    "Secrets",
    "SessionRecord",
    "Stale",
    "Touch",
    "Update",
    "Use",
]

#: How many keys the error for a session that is too large names.
_NAMED_KEYS = 5

#: ``SECRET_KEY`` and its fallbacks, in this order.
Secrets: TypeAlias = Sequence[str | bytes]


class Client(NamedTuple):
    """The IP address and browser of a request, if they are recorded."""

    address: str | None = None
    user_agent: str | None = None


# Classes that hold a token or a secret are no tuples, because error reporters show the
# items of a sequence, whatever its repr is. Classes that hold data have no repr of
# their fields.


@dataclass(slots=True)
class Stale:
    """A token of a request that opens no session, and when the request came, in seconds
    since 1970.
    """

    token: str
    at: int

    def __repr__(self) -> str:
        """Without the token."""
        return f"<Stale at {self.at}>"


@dataclass(slots=True)
class SessionRecord:
    """A stored session, with decrypted data, and the token that opens it."""

    token: str
    row: StoredSession
    #: Whether the row's key was made with the current ``SECRET_KEY``.
    is_current: bool = False

    def __repr__(self) -> str:
        """Without the token and the data."""
        return f"<SessionRecord {self.row.handle!r}>"


@dataclass(slots=True, repr=False)
class Use:
    """A request's use of a session: when, with which secrets, and from where."""

    #: Seconds since 1970, UTC.
    now: int
    secrets: Secrets
    #: Returns address and browser; called only if something is written.
    client: Callable[[], Client] = Client
    #: Whether the request itself has revoked the session that it had loaded.
    has_ended: bool = False
    #: Whether it counts as use and moves the end of the session.
    counts: bool = True
    #: Whether a response will carry a new token to the browser.
    can_tell: bool = True
    #: The current settings: Flask's own may have changed.
    config: SessionConfig | None = None


@dataclass(slots=True, repr=False)
class Change:
    """The change that a request made to the session that it had loaded."""

    #: The session as it was loaded.
    base: SessionRecord
    data: Mapping[Any, Any]
    use: Use
    #: Whether the application asked for a new token.
    rotates: bool = False
    #: Which of the keys that go with a login it has set.
    sets: frozenset[str] = frozenset()


# The plans. All except Keep and Insert are about a row as it was last loaded:
# ``record``. ``target`` is the row to store, and ``data`` its data, decoded.


@dataclass(slots=True, repr=False)
class Keep:
    """Write nothing."""

    record: SessionRecord | None
    data: Mapping[Any, Any]


@dataclass(slots=True, repr=False)
class Insert:
    """Begin a session."""

    target: SessionRecord
    data: Mapping[Any, Any]
    use: Use
    #: The token that came with the request and opened nothing, if any.
    stale: Stale | None = None


@dataclass(slots=True, repr=False)
class Touch:
    """Record that a session was used; nothing else changes."""

    record: SessionRecord
    target: SessionRecord
    data: Mapping[Any, Any]
    use: Use


@dataclass(slots=True, repr=False)
class Update:
    """Store a change, together with what others have changed in the meantime."""

    record: SessionRecord
    target: SessionRecord
    data: Mapping[Any, Any]
    change: Change
    #: The keys whose values from other requests this change overwrites.
    overwritten: tuple[Any, ...] = ()

    @property
    def use(self) -> Use:
        """Of the request that made the change."""
        return self.change.use

    @property
    def is_merged(self) -> bool:
        """Whether another request's change is in it."""
        return self.record is not self.change.base


@dataclass(slots=True, repr=False)
class Empty:
    """Delete a session whose last key the request has removed, unless others have added
    something in the meantime.
    """

    record: SessionRecord
    change: Change

    @property
    def use(self) -> Use:
        """Of the request that made the change."""
        return self.change.use


@dataclass(slots=True, repr=False)
class Replace:
    """End a session, even if others have changed it, and begin another one in its row:
    something was written after ``session.clear()``.
    """

    record: SessionRecord
    target: SessionRecord
    data: Mapping[Any, Any]
    use: Use


@dataclass(slots=True, repr=False)
class Clear:
    """End a session, even if others have changed it: ``session.clear()``."""

    record: SessionRecord
    use: Use


#: The plans that overwrite a row which other requests may have changed.
Contended: TypeAlias = Update | Empty | Replace | Clear
Plan: TypeAlias = Keep | Insert | Touch | Contended


class Planner:
    """Decides what to write, according to the settings."""

    def __init__(self, config: SessionConfig, serializer: Serializer) -> None:
        self._config = config
        self._serializer = serializer

    def plan(
        self,
        use: Use,
        record: SessionRecord | None,
        data: Mapping[Any, Any],
        *,
        empty: bool,
        cleared: bool,
        rotates: bool = False,
        can_differ: bool = True,
        sets: frozenset[str] = frozenset(),
        stale: Stale | None = None,
    ) -> Plan:
        """The plan for saving ``data`` over ``record``.

        :param empty: whether the application sees an empty session.
        :param cleared: whether the application has ended the loaded session.
        :param rotates: whether the application asked for a new token.
        :param can_differ: whether ``data`` can differ from what ``record`` holds.
        :param sets: the keys that belong to a login and that the application has set.
        :param stale: the token of the request, if it opens no session.
        :raises SessionValueError: a session cannot hold something in ``data``.
        :raises SessionTooLargeError: ``data`` is larger than ``SESSION_MAX_BYTES``.
        """
        if empty:
            if record is None:
                return Keep(None, data)
            if cleared:
                return Clear(record, use)
            return Empty(record, Change(record, data, use, rotates, sets))
        if record is not None and not (can_differ or rotates):
            return self._read(use, record, data)
        moves = rotates or cleared
        use, data = self._as_meant(use, record, data, sets, moves)
        rotates = rotates and use.can_tell
        try:
            payload = self._serializer.dumps(data)
        except SessionValueError:
            # A row from another version, or changed by hand, may be readable only.
            if record is not None and self._is_as_read(record, data):
                return Keep(record, data)
            raise
        if record is None:
            came_with = None if stale is None else stale.token
            target = self._begun(use, data, payload, came_with)
            return Insert(target, data, use, stale)
        if cleared:
            target = self._begun(use, data, payload, record.token, moves=True)
            return Replace(record, target, data, use)
        if rotates or payload != record.row.data:
            change = Change(record, data, use, rotates, sets)
            target = self._changed(change, record, data, payload)
            return Update(record, target, data, change)
        return self._read(use, record, data)

    def _as_meant(
        self,
        use: Use,
        record: SessionRecord | None,
        data: Mapping[Any, Any],
        sets: frozenset[str],
        moves: bool,
    ) -> tuple[Use, Mapping[Any, Any]]:
        """The use and the data of a request, adjusted for a login or logout in it.

        :param moves: whether the token changes even if the user does not.
        """
        is_usual = use.counts and use.can_tell and LOGIN_KEYS.isdisjoint(data)
        if record is None or is_usual:
            return use, data
        user_id = self.stored_user_id(data)
        before = self.user_before(record, user_id)
        if before not in (None, user_id):
            data = {k: data[k] for k in data if k not in LOGIN_KEYS - sets}
        if LIFETIME_KEY in sets or user_id not in (None, before):
            use = replace(use, counts=True)
        if not use.can_tell and (moves or user_id != before):
            # The next request with a response for the browser changes the token.
            data = {**data, MOVES_KEY: True}
        return use, data

    def _read(
        self, use: Use, record: SessionRecord, data: Mapping[Any, Any]
    ) -> Keep | Touch | Update:
        """The plan for a session that is unchanged since it was loaded."""
        row = record.row
        if (user_id := self.stored_user_id(data)) != row.user_id:
            # SESSION_USER_KEY has changed since the row was stored.
            row = row._replace(user_id=user_id)
            target = self._written(use, record, record.token, row, data)
            return Update(record, target, data, Change(record, data, use))
        config = use.config or self._config
        if not (use.counts and config.refresh_each_request):
            return Keep(record, data)
        end, used = self._moved_end(row, data, use), row.last_used_at
        # An end that the application has set does not move, but the last use does.
        lags = used is not None and use.now - used >= max(1, self._idle(use, data)[1])
        if end <= row.expires_at and not lags:
            return Keep(record, data)
        address, user_agent = use.client()
        row = row._replace(
            expires_at=max(row.expires_at, end),
            last_used_at=use.now,
            address=address,
            user_agent=user_agent,
        )
        return Touch(record, replace(record, row=row), data, use)

    def again(
        self, plan: Contended, record: SessionRecord, theirs: Mapping[Any, Any]
    ) -> Plan:
        """The next plan after another request has changed the row.

        :param record: what that request has stored.
        :param theirs: the data of ``record``.
        :raises SessionTooLargeError: both changes together are larger than
            ``SESSION_MAX_BYTES``.
        """
        if isinstance(plan, (Replace, Clear)):
            return replace(plan, record=record)
        change = plan.change
        data, overwritten = self._merged(change, theirs)
        user_id = self.stored_user_id(data)
        if self.user_before(record, user_id) not in (None, user_id):
            # What others have set belongs to the login that ends here.
            for key in LOGIN_KEYS - change.sets:
                data.pop(key, None)
        if not data.keys() - set(HIDDEN_KEYS):
            return Empty(record, change)
        payload = self._serializer.dumps(data)
        if payload == record.row.data and not change.rotates:
            return Keep(record, data)
        token = None
        if isinstance(plan, Update) and plan.target.token != record.token:
            token = plan.target.token
        target = self._changed(change, record, data, payload, token)
        return Update(record, target, data, change, overwritten)

    def alone(self, plan: Update | Replace) -> Insert:
        """Turn a plan for a row that is gone into one for a new session."""
        return Insert(self.anew(plan), plan.data, plan.use)

    def anew(self, plan: Insert | Update | Replace) -> SessionRecord:
        """The target of a plan as a new session with another token."""
        use, target = plan.use, plan.target
        token = self._new_token(use, target.row.user_id, target.token)
        row = target.row._replace(
            id=row_id(use.secrets[0], token), handle=new_handle(use.now), version=1
        )
        return replace(target, token=token, row=row)

    def _new_token(
        self, use: Use, user_id: str | None, before: str | None = None
    ) -> str:
        return new_token(self._config.id_length, use.secrets[0], user_id, before)

    def logs_in(self, plan: Update | Replace) -> bool:
        """Whether a plan logs a user in: the user differs from the row's, or is the
        same after ``session.clear()`` and the request itself had revoked the session
        before. If others have revoked it, what looks like a login may be a change of
        token made by hand. The plan has a new token in each case.
        """
        target = plan.target.row
        if target.user_id is None:
            return False
        if isinstance(plan, Replace) and plan.use.has_ended:
            return True
        return target.user_id != self.user_before(plan.record, target.user_id)

    # Rows to store.

    def _begun(
        self,
        use: Use,
        data: Mapping[Any, Any],
        payload: bytes,
        before: str | None,
        *,
        moves: bool = False,
    ) -> SessionRecord:
        """A new session.

        :param payload: ``data``, serialized.
        :param before: the token of the request, if any.
        :param moves: whether it replaces the session with this token in its row.
        """
        self._check_size(data, payload, 0)
        user_id = self.user_id(data)
        # A login shares a mark with running requests that have the earlier token, even
        # if that opens nothing. A new visitor does not: others may have this token.
        is_known = before is not None and (moves or user_id is not None)
        token = self._new_token(use, user_id, before if is_known else None)
        if moves and before is not None and not use.can_tell:
            token = before
        address, user_agent = use.client()
        row = StoredSession(
            id=row_id(use.secrets[0], token),
            handle=new_handle(use.now),
            user_id=user_id,
            data=payload,
            version=1,
            created_at=use.now,
            expires_at=self._ends_at(use.now, data, use, use.now),
            last_used_at=use.now,
            address=address,
            user_agent=user_agent,
            previous_id=_line_id(use, token) if is_known else None,
            label=data.get(LABEL_KEY),
        )
        return SessionRecord(token, row, True)

    def _changed(
        self,
        change: Change,
        record: SessionRecord,
        data: Mapping[Any, Any],
        payload: bytes,
        token: str | None = None,
    ) -> SessionRecord:
        """``record`` with new ``data``. It gets a new token if the user has changed
        (OWASP ASVS 5.0, 7.2.4) or the application asked for one, and the current
        secret always.

        :param payload: ``data``, serialized.
        :param token: the new token, if there is one already.
        """
        self._check_size(data, payload, len(record.row.data))
        user_id = self.user_id(data)
        before = self.user_before(record, user_id)
        stays = user_id == before and not change.rotates
        if stays or not change.use.can_tell:
            token = record.token
        row = record.row._replace(user_id=user_id, data=payload)
        if before is None and user_id is not None:
            # At a login the absolute lifetime begins again: it exists to require a
            # login from time to time (OWASP ASVS 5.0, 7.3.2).
            row = row._replace(created_at=change.use.now)
        token = token or self._new_token(change.use, user_id, record.token)
        return self._written(change.use, record, token, row, data)

    def _written(
        self,
        use: Use,
        record: SessionRecord,
        token: str,
        row: StoredSession,
        data: Mapping[Any, Any],
    ) -> SessionRecord:
        """``row`` as the successor of ``record``, used now, under the key for its token
        and the current secret.
        """
        place = row.id
        if token != record.token or not record.is_current:
            place = row_id(use.secrets[0], token)
        # If an event of Socket.IO changes the user, all but the token changes.
        moves = place != row.id or not use.can_tell
        address, user_agent = use.client()
        row = row._replace(
            id=place,
            version=row.version + 1,
            expires_at=self._moved_end(row, data, use),
            last_used_at=_latest(row, use),
            address=address,
            user_agent=user_agent,
            previous_id=_line_id(use, token) if moves else None,
            label=data.get(LABEL_KEY),
        )
        return SessionRecord(token, row, True)

    def _merged(
        self, change: Change, theirs: Mapping[Any, Any]
    ) -> tuple[dict[Any, Any], tuple[Any, ...]]:
        """The merged changes of this request and another one, and the overwritten keys.
        The values are encoded, except those of hidden keys.
        """
        base = self._serializer.split(change.base.row.data)
        before, mine, others = map(self._encoded, (base, change.data, theirs))
        merged = merge(before, mine, others, self._serializer)
        data: dict[Any, Any] = {key: Encoded(merged.data[key]) for key in merged.data}
        for key in HIDDEN_KEYS:  # at the end, where the session puts them
            if key in data:
                data[key] = self._serializer.decode(data.pop(key))
        hidden = {*HIDDEN_KEYS}
        return data, tuple(key for key in merged.overwritten if key not in hidden)

    def _encoded(self, data: Mapping[Any, Any]) -> dict[Any, bytes]:
        return {key: self._serializer.encode(value) for key, value in data.items()}

    # When a session ends.

    def _ends_at(
        self, created_at: int, data: Mapping[Any, Any], use: Use, now: int
    ) -> int:
        """When a session that is used ``now`` ends if it is not used again."""
        end = now + self._idle(use, data)[0]
        if self._config.absolute_lifetime is not None:
            end = min(end, created_at + self._config.absolute_lifetime)
        if EXPIRY_KEY in data:
            end = min(end, data[EXPIRY_KEY])
        return end

    def _idle(self, use: Use, data: Mapping[Any, Any]) -> tuple[int, int]:
        """The idle lifetime of the session and how far its end may lag behind, both in
        seconds. If the session has a lifetime of its own, the lag is at most a
        hundredth of that.
        """
        config = use.config or self._config
        if LIFETIME_KEY not in data:
            return config.lifetime, config.lag
        own: int = data[LIFETIME_KEY]
        return own, min(config.lag, own // 100)

    def _moved_end(self, row: StoredSession, data: Mapping[Any, Any], use: Use) -> int:
        """As :meth:`_ends_at`, but the end in ``row`` if that is near enough, so that
        not every request writes the row and the cookie.
        """
        now = _latest(row, use)
        end = self._ends_at(row.created_at, data, use, now)
        # An end that the application has set, and the absolute lifetime, are exact.
        idle, interval = self._idle(use, data)
        near_enough = end == now + idle and 0 <= end - row.expires_at < interval
        return row.expires_at if near_enough else end

    # Looking at data.

    def differs(self, record: SessionRecord | None, data: Mapping[Any, Any]) -> bool:
        """Whether ``data`` differs from what ``record`` holds."""
        if record is None:
            return bool(data)
        try:
            return self._serializer.dumps(data) != record.row.data
        except SessionValueError:
            return True

    def _is_as_read(self, record: SessionRecord, data: Mapping[Any, Any]) -> bool:
        values = {key: self._serializer.decode(data[key]) for key in data}
        return values == self._serializer.loads(record.row.data)

    def _check_size(self, data: Mapping[Any, Any], payload: bytes, stored: int) -> None:
        """Refuse data that are too large. A session that is too large already may stay,
        and may shrink.
        """
        if len(payload) > max(self._config.max_bytes, stored):
            shown = {key: data[key] for key in data if key not in HIDDEN_KEYS}
            largest = self.sizes(shown)[:_NAMED_KEYS]
            raise SessionTooLargeError(len(payload), self._config.max_bytes, largest)

    def sizes(self, data: Mapping[Any, Any]) -> list[tuple[object, int]]:
        """The keys of a session's data with the bytes that key and value take, the
        largest first.
        """
        empty = len(self._serializer.dumps({}))
        sizes = [
            (key, len(self._serializer.dumps({key: value})) - empty)
            for key, value in data.items()
        ]
        return sorted(sizes, key=lambda each: -each[1])

    def user_before(self, record: SessionRecord, user_id: str | None) -> str | None:
        """The user when ``record`` was stored; ``user_id`` if that is the same."""
        if record.row.user_id == user_id:
            return user_id
        # SESSION_USER_KEY may have changed since the column was written.
        return self.stored_user_id(self._serializer.split(record.row.data))

    def payload(self, data: Mapping[Any, Any]) -> bytes:
        """``data``, serialized.

        :raises SessionValueError: a session cannot hold something in it.
        """
        return self._serializer.dumps(data)

    def stored_user_id(self, data: Mapping[Any, Any]) -> str | None:
        """As :meth:`user_id`, for data that are stored already."""
        try:
            return self.user_id(data)
        except SessionValueError:
            return None  # the value there names nobody

    def user_id(self, data: Mapping[Any, Any]) -> str | None:
        """The user in the data.

        :raises SessionValueError: the value there cannot be a user.
        """
        key = self._config.user_key
        value = self._serializer.decode(data.get(key))
        if value is None or value is False or value == "":
            return None  # how some applications say "nobody"
        text = str(value)
        sound = text.replace("\0", "").encode(errors="ignore").decode()
        if len(text) > MAX_USER_ID or text != sound:
            raise SessionValueError(
                key,
                f"session[{key!r}]",
                type(value),
                f"says who is logged in (SESSION_USER_KEY), so it must be a text of at"
                f" most {MAX_USER_ID} characters without NUL or surrogates; it has"
                f" {len(text)} characters. Store a shorter name or a number there.",
            )
        return text


def _line_id(use: Use, token: str) -> bytes:
    (found,) = line_ids(use.secrets[:1], token)
    return found


def _latest(row: StoredSession, use: Use) -> int:
    """When a session was last used. It never moves back, although another host's clock
    may be ahead of this one.
    """
    if row.last_used_at is None:
        return use.now
    return max(use.now, row.last_used_at) if use.counts else row.last_used_at
