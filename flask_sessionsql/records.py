"""One session's row, as one request knows it: found by its token, saved with the
version it had.

Saving has two steps. :meth:`SessionRecords.plan` decides, without the database,
what is to be written, so that a response can be made before it is.
:meth:`SessionRecords.execute` writes it, against whatever other requests do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from .config import SessionConfig
from .exceptions import (
    SessionConflictError,
    SessionValueError,
    UnreadableSessionError,
)
from .merging import merge
from .serializers import Serializer
from .session import PERMANENT_KEY
from .store import SessionStore, StoredSession
from .tables import MAX_USER_ID
from .tokens import new_handle, new_token, row_id, row_ids

__all__ = ["Action", "Plan", "SessionRecord", "SessionRecords"]

logger: logging.Logger = logging.getLogger(__name__)

#: Each time a write gives way, another request's has succeeded. So many in a row
#: mean a fault, and must not become an endless loop.
MAX_TRIES = 1000

Keys = Sequence[str | bytes]


@dataclass(frozen=True)
class SessionRecord:
    """A stored session and the token that opened it."""

    token: str
    row: StoredSession

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


@dataclass(frozen=True)
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
    now: int = 0

    def __repr__(self) -> str:
        """Without the data."""
        return f"<Plan {self.action.name}>"


class SessionRecords:
    """The stored sessions of one application."""

    def __init__(
        self, config: SessionConfig, store: SessionStore, serializer: Serializer
    ) -> None:
        self._config = config
        self.store = store
        self._serializer = serializer

    def find(
        self, keys: Keys, token: str, now: int
    ) -> tuple[SessionRecord, dict[Any, Any]] | None:
        """The live session that ``token`` opens, and its data.

        :param keys: ``SECRET_KEY`` and its fallbacks, tried in this order.
        :return: ``None`` where there is none, and where it cannot be read: then
            the log names its handle, and the row is left as it is.
        """
        places = row_ids(keys, token)
        if len(places) > 1:
            # Another request may have moved the row to the current key meanwhile.
            places.append(places[0])
        for place in places:
            row = self.store.load(place, now)
            if row is not None:
                try:
                    return SessionRecord(token, row), self._read(row)
                except UnreadableSessionError as error:
                    logger.warning("Session %r cannot be read: %s", row.handle, error)
                    return None
        return None

    def _read(self, row: StoredSession) -> dict[Any, Any]:
        numbers = (row.version, row.created_at, row.expires_at)
        if not all(isinstance(number, int) for number in numbers):
            raise UnreadableSessionError("The row's numbers are not all integers.")
        return self._serializer.loads(_as_bytes(row.data))

    def differs(self, record: SessionRecord | None, data: Mapping[Any, Any]) -> bool:
        """Whether ``data`` is not what ``record`` holds."""
        if record is None:
            return bool(data)
        try:
            return self._serializer.dumps(data) != _as_bytes(record.row.data)
        except SessionValueError:
            return True

    # Deciding.

    def plan(
        self,
        keys: Keys,
        record: SessionRecord | None,
        data: Mapping[Any, Any],
        *,
        empty: bool,
        cleared: bool,
        now: int,
    ) -> Plan:
        """What saving ``data`` over ``record`` comes to.

        :param empty: whether the application sees an empty session.
        :param cleared: whether the application ended the session that was loaded.
        :raises SessionValueError: something in ``data`` cannot be kept.
        """
        if empty:
            action = Action.NOTHING if record is None else Action.DELETE
            return Plan(action, data, record, None, cleared, now)
        try:
            payload = self._serializer.dumps(data)
        except SessionValueError:
            # A row that another version or hand wrote can be read and not written.
            if record is not None and data == self._read(record.row):
                return Plan(Action.NOTHING, data, record, now=now)
            raise
        if record is None:
            target = self._new(keys, data, payload, now)
            return Plan(Action.INSERT, data, None, target, now=now)
        if cleared:
            target = self._new(keys, data, payload, now)
            return Plan(Action.UPDATE, data, record, target, True, now)
        expires_at = self._expiry(record.row.expires_at, now)
        if payload != _as_bytes(record.row.data):
            target = self._changed(keys, record, None, data, payload, expires_at)
            return Plan(Action.UPDATE, data, record, target, now=now)
        if self._config.refresh_each_request and expires_at > record.row.expires_at:
            row = record.row._replace(expires_at=expires_at)
            return Plan(Action.TOUCH, data, record, replace(record, row=row), now=now)
        return Plan(Action.NOTHING, data, record, now=now)

    def _expiry(self, current: int, now: int) -> int:
        """When a session used ``now`` expires: the current time if that is near
        enough, so that the indexed column is not rewritten by every request.
        """
        until = now + self._config.lifetime
        near_enough = 0 <= until - current < self._config.refresh_interval
        return current if near_enough else until

    def _new(
        self, keys: Keys, data: Mapping[Any, Any], payload: bytes, now: int
    ) -> SessionRecord:
        token = new_token(self._config.id_length)
        row = StoredSession(
            id=row_id(keys[0], token),
            handle=new_handle(),
            user_id=self._user_id(data),
            data=payload,
            version=1,
            created_at=now,
            expires_at=now + self._config.lifetime,
        )
        return SessionRecord(token, row)

    def _changed(
        self,
        keys: Keys,
        record: SessionRecord,
        new: str | None,
        data: Mapping[Any, Any],
        payload: bytes,
        expires_at: int,
    ) -> SessionRecord:
        """``record`` with ``data``: under a new token if the user is another one
        (OWASP ASVS 5.0, 7.2.4), and always under the current key.

        :param new: the new token, if one was made already.
        """
        token, user_id = record.token, self._user_id(data)
        if user_id != record.row.user_id:
            token = new or new_token(self._config.id_length)
        row = record.row._replace(
            id=row_id(keys[0], token),
            user_id=user_id,
            data=payload,
            expires_at=expires_at,
        )
        return SessionRecord(token, row)

    def _user_id(self, data: Mapping[Any, Any]) -> str | None:
        key = self._config.user_key
        value = data.get(key)
        if value is None:
            return None
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

    # Writing.

    def execute(
        self, plan: Plan, keys: Keys, *, wait: bool = True
    ) -> tuple[SessionRecord | None, Mapping[Any, Any]] | None:
        """Write what was planned.

        :param wait: whether to wait for a SQLite file that is locked.
        :return: the record and the data that are stored now, ``None`` for the
            record where the session is ended; ``None`` for both where another
            request had ended it, so that nothing was written.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        """
        record, target = plan.record, plan.target
        if plan.action is Action.INSERT and target is not None:
            self.store.insert(target.row, wait=wait)
            return target, plan.data
        if plan.action is Action.DELETE and plan.replaces and record is not None:
            gone = not self.store.delete(record.row.id, wait=wait)
            return None if gone else (None, {})
        if plan.action is Action.TOUCH and record is not None and target is not None:
            until = target.row.expires_at
            moved = self.store.touch(record.row.id, until, plan.now, wait=wait)
            # Not moved: gone, or another request has moved it as far.
            return (target, plan.data) if moved else (record, plan.data)
        if plan.action in (Action.UPDATE, Action.DELETE) and record is not None:
            return self._update(plan, keys, record, target, wait)
        return record, plan.data

    def _update(
        self,
        plan: Plan,
        keys: Keys,
        loaded: SessionRecord,
        target: SessionRecord | None,
        wait: bool,
    ) -> tuple[SessionRecord | None, Mapping[Any, Any]] | None:
        """Put ``target`` in the place of ``loaded``, or nothing if it is ``None``."""
        base = self._serializer.loads(_as_bytes(loaded.row.data))
        data: Mapping[Any, Any] = plan.data
        for _ in range(MAX_TRIES):
            if target is None:
                if self.store.delete(loaded.row.id, loaded.row.version, wait=wait):
                    return None, {}
            elif self.store.update(target.row, loaded.row, plan.now, wait=wait):
                row = target.row._replace(version=loaded.row.version + 1)
                return replace(target, row=row), data
            found = self.find(keys, loaded.token, plan.now)
            if found is None:
                return self._own_move(keys, loaded, target, data, plan.now)
            loaded, theirs = found
            if plan.replaces:
                continue
            data = self._merge(base, plan.data, theirs)
            if not data.keys() - {PERMANENT_KEY}:
                target = None
                continue
            payload = self._serializer.dumps(data)
            if payload == _as_bytes(loaded.row.data):
                return loaded, data
            expires_at = self._expiry(loaded.row.expires_at, plan.now)
            new = None if target is None else target.token
            if new == loaded.token:
                new = None
            target = self._changed(keys, loaded, new, data, payload, expires_at)
        raise SessionConflictError(
            f"Session {loaded.row.handle!r} was changed by others at each of"
            f" {MAX_TRIES} tries to save it. It is as they left it."
        )

    def _own_move(
        self,
        keys: Keys,
        loaded: SessionRecord,
        target: SessionRecord | None,
        data: Mapping[Any, Any],
        now: int,
    ) -> tuple[SessionRecord, Mapping[Any, Any]] | None:
        """After a row was gone: it may have been this write that moved it, if the
        answer to a first try was lost with its connection. A new token is random,
        so a row under it is our own.
        """
        if target is not None and target.token != loaded.token:
            found = self.find(keys, target.token, now)
            if found is not None:
                return found[0], data
        logger.info(
            "Session %r was ended by another request; what this one would have"
            " stored is dropped.",
            loaded.row.handle,
        )
        return None

    def _merge(
        self,
        base: Mapping[Any, Any],
        mine: Mapping[Any, Any],
        theirs: Mapping[Any, Any],
    ) -> dict[Any, Any]:
        data = merge(base, mine, theirs, self._same)
        if PERMANENT_KEY in data:  # stands last, where the session puts it
            data[PERMANENT_KEY] = data.pop(PERMANENT_KEY)
        return data

    def _same(self, one: Any, other: Any) -> bool:
        return self._serializer.dumps({0: one}) == self._serializer.dumps({0: other})


def _as_bytes(data: Any) -> bytes:
    """What the driver gave for the column, unless it is not binary at all."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, (memoryview, bytearray)):  # psycopg2, some MySQL drivers
        return bytes(data)
    raise UnreadableSessionError(f"The row's data is of type {type(data).__name__}.")
