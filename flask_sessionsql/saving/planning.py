"""What saving a session comes to, decided without the database.

:meth:`Planner.plan` compares what a request made of its session with what it had
loaded, and says what is to be written, so that a response can be made before it is.
:mod:`flask_sessionsql.saving.records` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, NamedTuple

from ..config import SessionConfig
from ..exceptions import SessionTooLargeError, SessionValueError
from ..formats.serializers import Serializer
from ..formats.tokens import new_handle, new_token, row_id
from ..sessions import EXPIRY_KEY, HIDDEN_KEYS
from ..storage.store import StoredSession
from ..storage.tables import MAX_USER_ID

__all__ = ["Action", "Client", "Keys", "Plan", "Planner", "SessionRecord", "Stale"]

#: How many of its keys the error of a session that is too large names.
_NAMED_KEYS = 5

#: ``SECRET_KEY`` and its fallbacks.
Keys = Sequence[str | bytes]


class Client(NamedTuple):
    """What a session is used with, where that is recorded."""

    address: str | None = None
    user_agent: str | None = None


# What holds a token is no tuple: reporters of errors take sequences apart, whatever
# their repr says.


@dataclass(slots=True)
class Stale:
    """A token that came with a request and opened nothing, and when that was tried, in
    seconds since 1970.
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


class Action(Enum):
    """What saving a session comes to."""

    NOTHING = auto()
    INSERT = auto()
    UPDATE = auto()
    TOUCH = auto()
    DELETE = auto()


@dataclass(slots=True)
class Plan:
    """What is to be written."""

    action: Action
    data: Mapping[Any, Any]
    #: What was loaded, if anything was.
    record: SessionRecord | None = None
    #: What is to be stored.
    target: SessionRecord | None = None
    #: The application ended the old session: nothing of it is to be merged.
    replaces: bool = False
    #: The session moves to a new token, whoever its user is.
    rotates: bool = False
    stale: Stale | None = None
    client: Callable[[], Client] = Client
    now: int = 0

    def __repr__(self) -> str:
        """Without the data."""
        return f"<Plan {self.action.name}>"


class Planner:
    """Decides what is to be written, by the settings."""

    def __init__(self, config: SessionConfig, serializer: Serializer) -> None:
        self._config = config
        self._serializer = serializer

    def plan(
        self,
        keys: Keys,
        record: SessionRecord | None,
        data: Mapping[Any, Any],
        *,
        empty: bool,
        cleared: bool,
        now: int,
        rotates: bool = False,
        stale: Stale | None = None,
        client: Callable[[], Client] = Client,
    ) -> Plan:
        """What saving ``data`` over ``record`` comes to.

        :param empty: whether the application sees an empty session.
        :param cleared: whether the application ended the session that was loaded.
        :param now: seconds since 1970, UTC.
        :param rotates: whether the application asked for a new token.
        :param stale: the token that came with the request and opened nothing, if any.
        :param client: gives what the session is used with.
        :raises SessionValueError: something in ``data`` cannot be kept.
        :raises SessionTooLargeError: ``data`` is over ``SESSION_MAX_BYTES``.
        """
        plan = Plan(
            Action.NOTHING, data, record, None, cleared, rotates, stale, client, now
        )
        if empty:
            plan.action = Action.NOTHING if record is None else Action.DELETE
            return plan
        try:
            payload = self._serializer.dumps(data)
        except SessionValueError:
            # A row that another version or hand wrote can be read and not written.
            if record is not None and data == self._serializer.loads(record.row.data):
                return plan
            raise
        if record is None:
            plan.action = Action.INSERT
            plan.target = self._new(keys, plan, payload, None)
            return plan
        row = record.row
        if cleared:
            plan.target = self._new(keys, plan, payload, row.id)
        elif rotates or payload != row.data:
            plan.target = self.changed(keys, plan, record, data, payload)
        elif (user_id := self._user_id_in(data)) != row.user_id:
            # SESSION_USER_KEY is another one than when the row was stored.
            row = row._replace(user_id=user_id)
            plan.target = self._used(keys, plan, record, record.token, row, data)
        elif self._config.refresh_each_request and self._is_due(row, data, now):
            until = max(row.expires_at, self._expiry(row, data, now))
            address, user_agent = client()
            row = row._replace(
                expires_at=until,
                last_used_at=now,
                address=address,
                user_agent=user_agent,
            )
            plan.action = Action.TOUCH
            plan.target = replace(record, row=row)
            return plan
        else:
            return plan
        plan.action = Action.UPDATE
        return plan

    def changed(
        self,
        keys: Keys,
        plan: Plan,
        record: SessionRecord,
        data: Mapping[Any, Any],
        payload: bytes,
        new: str | None = None,
    ) -> SessionRecord:
        """``record`` with ``data``: under a new token if the user is another one
        (OWASP ASVS 5.0, 7.2.4) or the application asked for it, and always under the
        current key.

        :param payload: ``data``, serialized.
        :param new: the new token, if one was made already.
        """
        self._check_size(data, payload, len(record.row.data))
        token, user_id, before = record.token, self._user_id(data), record.row.user_id
        if before != user_id:
            # The column may lag behind SESSION_USER_KEY; the data do not.
            before = self._user_id_in(self._serializer.loads(record.row.data))
        if plan.rotates or user_id != before:
            token = new or new_token(self._config.id_length)
        row = record.row._replace(user_id=user_id, data=payload)
        if before is None and user_id is not None:
            # A login: the absolute lifetime asks for one now and then, so it begins
            # with one (OWASP ASVS 5.0, 7.3.2).
            row = row._replace(created_at=plan.now)
        return self._used(keys, plan, record, token, row, data)

    def _used(
        self,
        keys: Keys,
        plan: Plan,
        record: SessionRecord,
        token: str,
        row: StoredSession,
        data: Mapping[Any, Any],
    ) -> SessionRecord:
        """``row`` in the place of ``record``, used now, where it belongs by its token
        and the current key.
        """
        place = row.id
        if token != record.token or not record.is_current:
            place = row_id(keys[0], token)
        address, user_agent = plan.client()
        row = row._replace(
            id=place,
            version=row.version + 1,
            expires_at=self._expiry(row, data, plan.now),
            last_used_at=plan.now,
            address=address,
            user_agent=user_agent,
            previous_id=None if place == row.id else row.id,
        )
        return SessionRecord(token, row, True)

    def _new(
        self, keys: Keys, plan: Plan, payload: bytes, previous_id: bytes | None
    ) -> SessionRecord:
        self._check_size(plan.data, payload, 0)
        token = new_token(self._config.id_length)
        address, user_agent = plan.client()
        row = StoredSession(
            id=row_id(keys[0], token),
            handle=new_handle(plan.now),
            user_id=self._user_id(plan.data),
            data=payload,
            version=1,
            created_at=plan.now,
            expires_at=self._end(plan.now, plan.data, plan.now),
            last_used_at=plan.now,
            address=address,
            user_agent=user_agent,
            previous_id=previous_id,
        )
        return SessionRecord(token, row, True)

    # When a session ends.

    def _end(self, created_at: int, data: Mapping[Any, Any], now: int) -> int:
        """When a session used ``now`` ends if it is not used again."""
        end = now + self._config.lifetime
        if self._config.absolute_lifetime is not None:
            end = min(end, created_at + self._config.absolute_lifetime)
        if EXPIRY_KEY in data:
            end = min(end, data[EXPIRY_KEY])
        return end

    def _expiry(self, row: StoredSession, data: Mapping[Any, Any], now: int) -> int:
        """As :meth:`_end`; the end that ``row`` has if that is near enough, so that
        neither the row nor the cookie is written for it in every request.
        """
        until = self._end(row.created_at, data, now)
        # What the application has set, and the absolute lifetime, hold to the second.
        is_idle_end = until == now + self._config.lifetime
        lag = until - row.expires_at
        near_enough = is_idle_end and 0 <= lag < self._config.refresh_interval
        return row.expires_at if near_enough else until

    def _is_due(self, row: StoredSession, data: Mapping[Any, Any], now: int) -> bool:
        """Whether the row's end or last use lag behind further than they may."""
        if self._expiry(row, data, now) > row.expires_at:
            return True
        # An end that is set does not move, and the last use goes on all the same.
        used = row.last_used_at
        return used is not None and now - used >= max(1, self._config.refresh_interval)

    # What the data say.

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

    def _user_id_in(self, data: Mapping[Any, Any]) -> str | None:
        """As :meth:`_user_id`, of data that are stored already."""
        try:
            return self._user_id(data)
        except SessionValueError:
            return None  # what happens to stand there names nobody

    def _user_id(self, data: Mapping[Any, Any]) -> str | None:
        """Who is logged in, by the data.

        :raises SessionValueError: what stands there cannot be a user's name.
        """
        key = self._config.user_key
        value = data.get(key)
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
