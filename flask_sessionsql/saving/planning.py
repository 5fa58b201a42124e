"""What saving a session comes to, decided without the database.

:meth:`Planner.plan` compares what a request made of its session with what it had
loaded, and gives a plan: one small type for each thing that can be done. Where another
request was faster, :meth:`Planner.again` gives the next plan.
:mod:`flask_sessionsql.saving.records` carries them out.
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

#: How many of its keys the error of a session that is too large names.
_NAMED_KEYS = 5

#: ``SECRET_KEY`` and its fallbacks, in this order.
Secrets: TypeAlias = Sequence[str | bytes]


class Client(NamedTuple):
    """What a session is used with, where that is recorded."""

    address: str | None = None
    user_agent: str | None = None


# What holds a token or a secret is no tuple: reporters of errors take sequences apart,
# whatever their repr says. What holds data has no repr of its fields.


@dataclass(slots=True)
class Stale:
    """A token that came with a request and opened nothing, and when the request came,
    in seconds since 1970.
    """

    token: str
    at: int

    def __repr__(self) -> str:
        """Without the token."""
        return f"<Stale at {self.at}>"


@dataclass(slots=True)
class SessionRecord:
    """A stored session and the token that opens it. The row's data is not encrypted
    here, whatever it is in the database.
    """

    token: str
    row: StoredSession
    #: Whether the row's key was made with the current ``SECRET_KEY``.
    is_current: bool = False

    def __repr__(self) -> str:
        """Without the token and the data."""
        return f"<SessionRecord {self.row.handle!r}>"


@dataclass(slots=True, repr=False)
class Use:
    """A request's use of a session: when, under which secrets, and from where."""

    #: Seconds since 1970, UTC.
    now: int
    secrets: Secrets
    #: Gives what the session is used with; called if something is written.
    client: Callable[[], Client] = Client
    #: Whether the request itself has ended the session that it had loaded.
    has_ended: bool = False
    #: Whether it lets the session live on.
    counts: bool = True
    #: Whether the browser can be told of a new token: a response carries the cookie.
    can_tell: bool = True
    #: What the settings are by now, where Flask's own may have changed since.
    config: SessionConfig | None = None


@dataclass(slots=True, repr=False)
class Change:
    """What a request made of a session that it had loaded."""

    #: As it was loaded.
    base: SessionRecord
    data: Mapping[Any, Any]
    use: Use
    #: Whether the application asked for a new token.
    rotates: bool = False
    #: Which of the keys that go with a login it has set.
    sets: frozenset[str] = frozenset()


# The plans. Each but Keep and Insert is for a row as it was loaded last: ``record``.
# ``target`` is what is to stand there, and ``data`` what that holds, decoded.


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
    """Note that a session was used; nothing else of it changes."""

    record: SessionRecord
    target: SessionRecord
    data: Mapping[Any, Any]
    use: Use


@dataclass(slots=True, repr=False)
class Update:
    """Store a change, along with what others have changed meanwhile."""

    record: SessionRecord
    target: SessionRecord
    data: Mapping[Any, Any]
    change: Change
    #: The keys whose values, stored by others meanwhile, give way to this change.
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
    """Delete a session whose last key the request took out, unless others have put
    something in meanwhile.
    """

    record: SessionRecord
    change: Change

    @property
    def use(self) -> Use:
        """Of the request that made the change."""
        return self.change.use


@dataclass(slots=True, repr=False)
class Replace:
    """End a session, whatever others have made of it, and begin another in its row:
    something was written after ``session.clear()``.
    """

    record: SessionRecord
    target: SessionRecord
    data: Mapping[Any, Any]
    use: Use


@dataclass(slots=True, repr=False)
class Clear:
    """End a session, whatever others have made of it: ``session.clear()``."""

    record: SessionRecord
    use: Use


#: What writes over a row that other requests may have written.
Contended: TypeAlias = Update | Empty | Replace | Clear
Plan: TypeAlias = Keep | Insert | Touch | Contended


class Planner:
    """Decides what is to be written, by the settings."""

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
        """What saving ``data`` over ``record`` comes to.

        :param empty: whether the application sees an empty session.
        :param cleared: whether the application ended the session that was loaded.
        :param rotates: whether the application asked for a new token.
        :param can_differ: whether ``data`` can differ from what ``record`` holds.
        :param sets: which of the keys that go with a login the application has set.
        :param stale: the token that came with the request and opened nothing, if any.
        :raises SessionValueError: something in ``data`` cannot be kept.
        :raises SessionTooLargeError: ``data`` is over ``SESSION_MAX_BYTES``.
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
            # A row that another version or hand wrote can be read and not written.
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
        """The use and the data of a request, by whose login begins or ends in it.

        :param moves: whether the token is to change, be the user another one or not.
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
            # The next request that can tell the browser of a new token is to do so.
            data = {**data, MOVES_KEY: True}
        return use, data

    def _read(
        self, use: Use, record: SessionRecord, data: Mapping[Any, Any]
    ) -> Keep | Touch | Update:
        """What a session that is as it was loaded comes to."""
        row = record.row
        if (user_id := self.stored_user_id(data)) != row.user_id:
            # SESSION_USER_KEY is another one than when the row was stored.
            row = row._replace(user_id=user_id)
            target = self._written(use, record, record.token, row, data)
            return Update(record, target, data, Change(record, data, use))
        config = use.config or self._config
        if not (use.counts and config.refresh_each_request):
            return Keep(record, data)
        end, used = self._moved_end(row, data, use), row.last_used_at
        # An end that is set does not move, and the last use goes on all the same.
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
        """What a plan comes to after another request has written its row.

        :param record: what that request has stored.
        :param theirs: the data of ``record``.
        :raises SessionTooLargeError: both changes together are over
            ``SESSION_MAX_BYTES``.
        """
        if isinstance(plan, (Replace, Clear)):
            return replace(plan, record=record)
        change = plan.change
        data, overwritten = self._merged(change, theirs)
        user_id = self.stored_user_id(data)
        if self.user_before(record, user_id) not in (None, user_id):
            # What others have set meanwhile was for the login that ends here.
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
        """A plan for a row that is gone, as one for a new session."""
        return Insert(self.anew(plan), plan.data, plan.use)

    def anew(self, plan: Insert | Update | Replace) -> SessionRecord:
        """What a plan is to store, as a new session under another token."""
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
        """Whether a plan is for another user than the row that it is for; or for the
        same one after ``session.clear()``, where the request itself has ended the
        session before. If others have, what looks like a login may be a change of token
        made by hand. It has a new token in each case.
        """
        target = plan.target.row
        if target.user_id is None:
            return False
        if isinstance(plan, Replace) and plan.use.has_ended:
            return True
        return target.user_id != self.user_before(plan.record, target.user_id)

    # What is to be stored.

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
        :param before: the token that came with the request, if any.
        :param moves: whether it takes the row of the session that had this token.
        """
        self._check_size(data, payload, 0)
        user_id = self.user_id(data)
        # A login is no stranger to requests that are under way with a token that has
        # opened nothing. A visitor is one: more of them may come with it.
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
        """``record`` with ``data``: under a new token if the user is another one
        (OWASP ASVS 5.0, 7.2.4) or the application asked for it, and always under the
        current secret.

        :param payload: ``data``, serialized.
        :param token: the new token, if one was made already.
        """
        self._check_size(data, payload, len(record.row.data))
        user_id = self.user_id(data)
        before = self.user_before(record, user_id)
        stays = user_id == before and not change.rotates
        if stays or not change.use.can_tell:
            token = record.token
        row = record.row._replace(user_id=user_id, data=payload)
        if before is None and user_id is not None:
            # A login: the absolute lifetime asks for one now and then, so it begins
            # with one (OWASP ASVS 5.0, 7.3.2).
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
        """``row`` in the place of ``record``, used now, where it belongs by its token
        and the current secret.
        """
        place = row.id
        if token != record.token or not record.is_current:
            place = row_id(use.secrets[0], token)
        # An event's change of the user is a move, but for the token.
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
        """What a request and another one made of the same session, with the values
        encoded, but for those of hidden keys; and the keys that are overwritten.
        """
        base = self._serializer.split(change.base.row.data)
        before, mine, others = map(self._encoded, (base, change.data, theirs))
        merged = merge(before, mine, others, self._serializer)
        data: dict[Any, Any] = {key: Encoded(merged.data[key]) for key in merged.data}
        for key in HIDDEN_KEYS:  # they stand last, where the session puts them
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
        """When a session used ``now`` ends if it is not used again."""
        end = now + self._idle(use, data)[0]
        if self._config.absolute_lifetime is not None:
            end = min(end, created_at + self._config.absolute_lifetime)
        if EXPIRY_KEY in data:
            end = min(end, data[EXPIRY_KEY])
        return end

    def _idle(self, use: Use, data: Mapping[Any, Any]) -> tuple[int, int]:
        """How long after its last use the session ends, and how far that end may lag
        behind, both in seconds. That of a lifetime of its own lags by a hundredth at
        most.
        """
        config = use.config or self._config
        if LIFETIME_KEY not in data:
            return config.lifetime, config.lag
        own: int = data[LIFETIME_KEY]
        return own, min(config.lag, own // 100)

    def _moved_end(self, row: StoredSession, data: Mapping[Any, Any], use: Use) -> int:
        """As :meth:`_ends_at`; the end that ``row`` has if that is near enough, so that
        neither the row nor the cookie is written for it in every request.
        """
        now = _latest(row, use)
        end = self._ends_at(row.created_at, data, use, now)
        # What the application has set, and the absolute lifetime, hold to the second.
        idle, interval = self._idle(use, data)
        near_enough = end == now + idle and 0 <= end - row.expires_at < interval
        return row.expires_at if near_enough else end

    # What the data say.

    def differs(self, record: SessionRecord | None, data: Mapping[Any, Any]) -> bool:
        """Whether ``data`` is not what ``record`` holds."""
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
        """A session that is too large already may stay so, and shrink."""
        if len(payload) > max(self._config.max_bytes, stored):
            shown = {key: data[key] for key in data if key not in HIDDEN_KEYS}
            largest = self.sizes(shown)[:_NAMED_KEYS]
            raise SessionTooLargeError(len(payload), self._config.max_bytes, largest)

    def sizes(self, data: Mapping[Any, Any]) -> list[tuple[object, int]]:
        """The keys of a session's data and how many bytes each takes with its value,
        the largest first.
        """
        empty = len(self._serializer.dumps({}))
        sizes = [
            (key, len(self._serializer.dumps({key: value})) - empty)
            for key, value in data.items()
        ]
        return sorted(sizes, key=lambda each: -each[1])

    def user_before(self, record: SessionRecord, user_id: str | None) -> str | None:
        """Who was logged in when ``record`` was stored, if it was not ``user_id``."""
        if record.row.user_id == user_id:
            return user_id
        # The column may lag behind SESSION_USER_KEY; the data do not.
        return self.stored_user_id(self._serializer.split(record.row.data))

    def payload(self, data: Mapping[Any, Any]) -> bytes:
        """The bytes for ``data``.

        :raises SessionValueError: something in it cannot be kept.
        """
        return self._serializer.dumps(data)

    def stored_user_id(self, data: Mapping[Any, Any]) -> str | None:
        """As :meth:`user_id`, of data that are stored already."""
        try:
            return self.user_id(data)
        except SessionValueError:
            return None  # what happens to stand there names nobody

    def user_id(self, data: Mapping[Any, Any]) -> str | None:
        """Who is logged in, by the data.

        :raises SessionValueError: what stands there cannot be a user's name.
        """
        key = self._config.user_key
        value = self._serializer.decode(data.get(key))
        if value is None or value is False or value == "":
            return None  # as hand-made logins have it for nobody
        text = str(value)
        sound = text.replace("\0", "").encode(errors="ignore").decode()
        if len(text) > MAX_USER_ID or text != sound:
            raise SessionValueError(
                key,
                f"session[{key!r}]",
                type(value),
                f"tells who is logged in (SESSION_USER_KEY), so it has to be at most"
                f" {MAX_USER_ID} characters of text without NUL; it has {len(text)}.",
            )
        return text


def _line_id(use: Use, token: str) -> bytes:
    (found,) = line_ids(use.secrets[:1], token)
    return found


def _latest(row: StoredSession, use: Use) -> int:
    """When a session was used last: another host's clock may be ahead of this one, and
    no use counts back.
    """
    if row.last_used_at is None:
        return use.now
    return max(use.now, row.last_used_at) if use.counts else row.last_used_at
