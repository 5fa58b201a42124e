"""One session's row, as one request knows it: found by its token, saved with the
version it had, against whatever other requests do meanwhile.

Saving has two steps. The :class:`~flask_sessionsql.saving.planning.Planner` decides
what is to be written, without the database; :meth:`SessionRecords.execute` writes it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import SessionConfig
from ..exceptions import (
    SessionConflictError,
    SessionValueError,
    UnreadableSessionError,
)
from ..formats.encryption import Encryption
from ..formats.serializers import Serializer
from ..formats.tokens import new_handle, row_id, row_ids
from ..sessions import EXPIRY_KEY, HIDDEN_KEYS
from ..signals import (
    EndReason,
    SessionCreated,
    SessionEnded,
    SessionMerged,
    SessionRefused,
    SessionRotated,
    SessionUnreadable,
    Tell,
)
from ..storage.limits import UserLimit
from ..storage.store import SessionStore, StoredSession
from .merging import merge
from .planning import Action, Keys, Plan, Planner, SessionRecord

__all__ = ["SessionRecords"]

logger: logging.Logger = logging.getLogger(__name__)

#: Each time a write gives way, another request's has succeeded. So many in a row
#: mean a fault, and must not become an endless loop.
MAX_TRIES = 1000

#: Seconds after a change of token for which a request with the one before is taken for
#: one that was under way.
LATE = 10

_INTEGER = frozenset({int})


class SessionRecords:
    """The stored sessions of one application.

    :param tell: told of what happens to them.
    """

    def __init__(
        self,
        config: SessionConfig,
        store: SessionStore,
        serializer: Serializer,
        tell: Tell = lambda event: None,
    ) -> None:
        self._config = config
        self.store = store
        self._serializer = serializer
        self.planner: Planner = Planner(config, serializer)
        self._encryption = Encryption(
            seals=bool(config.encrypt), required=config.encrypt == "required"
        )
        self.tell = tell

    def find(
        self, keys: Keys, token: str, now: int
    ) -> tuple[SessionRecord, dict[Any, Any]] | None:
        """The live session that ``token`` opens, and its data.

        :param keys: ``SECRET_KEY`` and its fallbacks, tried in this order.
        :return: ``None`` where there is none, and where it cannot be read: then
            the log names its handle, and the row is left as it is.
        """
        # The current key once more at the end, where there are others: another request
        # may have moved the row to it meanwhile.
        for key in keys if len(keys) == 1 else (*keys, keys[0]):
            row = self.store.load(row_id(key, token), now)
            if row is not None:
                return self._opened(row, token, key, key == keys[0], now)
        return None

    def _opened(
        self,
        row: StoredSession,
        token: str,
        key: str | bytes,
        is_current: bool,
        now: int,
    ) -> tuple[SessionRecord, dict[Any, Any]] | None:
        try:
            row = self.readable(row, [key])
            data = self.data(row)
        except UnreadableSessionError as error:
            logger.warning("Session %r cannot be read: %s", row.handle, error)
            self.tell(SessionUnreadable(row.handle, row.user_id))
            return None
        if self._outlived(row, data, now):
            return None
        return SessionRecord(token, row, is_current), data

    def readable(self, row: StoredSession, keys: Keys) -> StoredSession:
        """``row`` as it was loaded, with its data not encrypted.

        :param keys: the keys that its data could be encrypted with.
        :raises UnreadableSessionError: none of them opens it, or its columns are not
            what they have to be.
        """
        numbers = (row.version, row.created_at, row.expires_at, row.last_used_at or 0)
        if not _INTEGER.issuperset(map(type, numbers)):
            raise UnreadableSessionError("The row's numbers are not all integers.")
        error = UnreadableSessionError("There is no SECRET_KEY.")
        for key in keys:
            try:
                data = self._encryption.open(_as_bytes(row.data), key, row.id)
                return row if data is row.data else row._replace(data=data)
            except UnreadableSessionError as reason:
                error = reason
        raise error

    def data(self, row: StoredSession) -> dict[Any, Any]:
        """The data of a row that is readable, hidden keys included.

        :raises UnreadableSessionError: it is no session's.
        """
        data = self._serializer.loads(row.data)
        if not isinstance(data.get(EXPIRY_KEY, 0), int):
            raise UnreadableSessionError("The end set for the session is no number.")
        return data

    def _outlived(self, row: StoredSession, data: Mapping[Any, Any], now: int) -> bool:
        """Whether the session has had its absolute lifetime, or the one that the
        application has set. The row's end says so, too, unless the setting is newer.
        """
        longest = self._config.absolute_lifetime
        if longest is not None and row.created_at + longest <= now:
            return True
        return bool(data.get(EXPIRY_KEY, now + 1) <= now)

    def _sealed(self, row: StoredSession, keys: Keys) -> StoredSession:
        """``row`` as it is to be stored."""
        data = self._encryption.seal(row.data, keys[0], row.id)
        return row if data is row.data else row._replace(data=data)

    def differs(self, record: SessionRecord | None, data: Mapping[Any, Any]) -> bool:
        """Whether ``data`` is not what ``record`` holds."""
        if record is None:
            return bool(data)
        try:
            return self._serializer.dumps(data) != record.row.data
        except SessionValueError:
            return True

    # Writing.

    def execute(
        self, plan: Plan, keys: Keys, *, wait: bool = True
    ) -> tuple[SessionRecord | None, Mapping[Any, Any]] | None:
        """Write what was planned.

        :param wait: whether to wait for a SQLite file that is locked.
        :return: the record and the data that are stored now, ``None`` for the
            record where the session is ended; ``None`` for both where another
            request had ended or moved it, so that nothing was written.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        :raises SessionLimitError: its user may have no more sessions.
        :raises SessionConflictError: others changed it each time.
        """
        record, target = plan.record, plan.target
        if plan.action is Action.INSERT and target is not None:
            return self._insert(plan, keys, target, wait)
        if plan.action is Action.DELETE and plan.replaces and record is not None:
            return self._clear(plan, keys, record, wait)
        if plan.action is Action.TOUCH and record is not None and target is not None:
            moved = self.store.touch(target.row, plan.now, wait=wait)
            # Not moved: gone, or another request has moved it as far.
            return (target, plan.data) if moved else (record, plan.data)
        if plan.action in (Action.UPDATE, Action.DELETE) and record is not None:
            return self._update(plan, keys, record, target, wait)
        return record, plan.data

    def _clear(
        self, plan: Plan, keys: Keys, record: SessionRecord, wait: bool
    ) -> tuple[None, Mapping[Any, Any]] | None:
        """End a session, whatever became of it, as long as its token opens it."""
        for _ in range(MAX_TRIES):
            if self.store.delete(record.row.id, wait=wait):
                self._tell_ended(record, "cleared")
                return None, {}
            # Another request may have moved it to the current key.
            found = self.find(keys, record.token, plan.now)
            if found is None:
                return (None, {}) if self._follow(plan, record, None, wait) else None
            record, _theirs = found
        raise self._conflict(record)

    def _follow(
        self,
        plan: Plan,
        loaded: SessionRecord,
        target: SessionRecord | None,
        wait: bool,
    ) -> bool:
        """After the session was gone: if this request logs its user out, and another
        one has moved it to a new token, end it there. Whether it was there.
        """
        user_id = loaded.row.user_id
        left = None if target is None else target.row.user_id
        logs_out = plan.replaces or (user_id is not None and user_id != left)
        if not logs_out or not self.store.end(loaded.row, wait=wait):
            return False
        self._tell_ended(loaded, "cleared")
        return True

    def forget(self, keys: Keys, token: str, *, wait: bool = True) -> bool:
        """End what a token opens, be it readable or not. Whether there was anything."""
        places = row_ids(keys, token)
        gone = any(self.store.delete(place, wait=wait) for place in places)
        if gone:
            self.tell(SessionEnded(None, None, "cleared"))
        return gone

    def _insert(
        self, plan: Plan, keys: Keys, target: SessionRecord, wait: bool
    ) -> tuple[SessionRecord, Mapping[Any, Any]] | None:
        if plan.stale is not None and target.row.user_id is None:
            # The token may have opened the session that another request of this
            # browser has moved just now. Were a new session begun, its cookie would
            # take the place of the moved one's, and log the browser out. A login is
            # no accident: the answer to the one before may have been lost.
            ids = row_ids(keys, plan.stale.token)
            if self.store.is_late(ids, plan.now, plan.stale.at - LATE):
                self._drop(None, None)
                return None
        limit = self._limit(target, None, plan.now)
        self.store.insert(self._sealed(target.row, keys), limit, wait=wait)
        self.tell(SessionCreated(target.row.handle, target.row.user_id))
        self._tell_limited(limit, target)
        return target, plan.data

    def _update(
        self,
        plan: Plan,
        keys: Keys,
        loaded: SessionRecord,
        target: SessionRecord | None,
        wait: bool,
    ) -> tuple[SessionRecord | None, Mapping[Any, Any]] | None:
        """Put ``target`` in the place of ``loaded``, or nothing if it is ``None``."""
        base = loaded.row
        data: Mapping[Any, Any] = plan.data
        for tries in range(MAX_TRIES):
            if target is None:
                if self.store.delete(loaded.row.id, loaded.row.version, wait=wait):
                    self._tell_ended(loaded, "emptied")
                    return None, {}
            elif self._put(plan, keys, loaded, target, wait):
                self._tell_updated(plan, loaded, target, merged=tries > 0)
                return _following(target, loaded), data
            found = self.find(keys, loaded.token, plan.now)
            if found is None:
                own = self._own_move(keys, loaded, target, data, plan.now)
                return own or self._elsewhere(plan, keys, loaded, target, wait)
            loaded, theirs = found
            if plan.replaces:
                continue
            data = self._merge(self.data(base), plan.data, theirs)
            if not data.keys() - set(HIDDEN_KEYS):
                target = None
                continue
            payload = self._serializer.dumps(data)
            if payload == loaded.row.data and not plan.rotates:
                return loaded, data
            new = None if target is None else target.token
            if new == loaded.token:
                new = None
            target = self.planner.changed(keys, plan, loaded, data, payload, new)
        raise self._conflict(loaded)

    def _conflict(self, record: SessionRecord) -> SessionConflictError:
        return SessionConflictError(
            f"Session {record.row.handle!r} was changed by others at each of"
            f" {MAX_TRIES} tries to save it. It is as they left it."
        )

    def _put(
        self,
        plan: Plan,
        keys: Keys,
        loaded: SessionRecord,
        target: SessionRecord,
        wait: bool,
    ) -> bool:
        """Put ``target`` in the place of ``loaded``. Whether that was still there."""
        limit = self._limit(target, loaded, plan.now)
        row = self._sealed(target.row, keys)
        done = self.store.update(row, loaded.row, plan.now, limit, wait=wait)
        self._tell_limited(limit, target)
        return done

    def _limit(
        self, target: SessionRecord, loaded: SessionRecord | None, now: int
    ) -> UserLimit | None:
        """The limit for a session that becomes a user's; ``None`` for no limit."""
        most, user_id = self._config.max_per_user, target.row.user_id
        if most is None or user_id is None:
            return None
        if loaded is not None and (
            loaded.token == target.token or loaded.row.user_id == user_id
        ):
            return None  # no login
        longest = self._config.absolute_lifetime
        outlived = None if longest is None else now - longest
        refuses = self._config.max_per_user_policy == "refuse"
        return UserLimit(most, refuses, now, outlived)

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
        return None

    def _elsewhere(
        self,
        plan: Plan,
        keys: Keys,
        loaded: SessionRecord,
        target: SessionRecord | None,
        wait: bool,
    ) -> tuple[SessionRecord | None, Mapping[Any, Any]] | None:
        """Another request has ended the session, or moved it to a new token."""
        if self._follow(plan, loaded, target, wait):
            if target is None:
                return None, {}
            # What this request had read and made of it, and nothing of the moved one.
            target = _with(target, handle=new_handle(plan.now), version=1)
            alone = replace(plan, stale=None, target=target)
            return self._insert(alone, keys, target, wait)
        if target is not None:  # otherwise it is as this request would have it
            self._drop(loaded.row.handle, loaded.row.user_id)
        return None

    def _merge(
        self,
        base: Mapping[Any, Any],
        mine: Mapping[Any, Any],
        theirs: Mapping[Any, Any],
    ) -> dict[Any, Any]:
        data = merge(base, mine, theirs, self._same)
        for key in HIDDEN_KEYS:  # they stand last, where the session puts them
            if key in data:
                data[key] = data.pop(key)
        return data

    def _same(self, one: Any, other: Any) -> bool:
        return self._serializer.dumps({0: one}) == self._serializer.dumps({0: other})

    # Telling.

    def _drop(self, handle: str | None, user_id: str | None) -> None:
        """Nothing is written: the session is another request's to keep or to end."""
        logger.info(
            "Session %r was ended or moved by another request; what this one would have"
            " stored is dropped.",
            handle,
        )
        self.tell(SessionRefused(handle, user_id, "ended"))

    def _tell_ended(self, record: SessionRecord, reason: EndReason) -> None:
        self.tell(SessionEnded(record.row.handle, record.row.user_id, reason))

    def _tell_limited(self, limit: UserLimit | None, target: SessionRecord) -> None:
        for handle in () if limit is None else limit.ended:
            self.tell(SessionEnded(handle, target.row.user_id, "limit"))

    def _tell_updated(
        self, plan: Plan, loaded: SessionRecord, target: SessionRecord, *, merged: bool
    ) -> None:
        handle, user_id = target.row.handle, target.row.user_id
        if plan.replaces:
            self._tell_ended(loaded, "cleared")
            self.tell(SessionCreated(handle, user_id))
        elif merged:
            self.tell(SessionMerged(handle, user_id))
        if not plan.replaces and target.token != loaded.token:
            self.tell(SessionRotated(handle, user_id, loaded.row.user_id))


def _with(record: SessionRecord, **columns: Any) -> SessionRecord:
    """``record`` with other values in some columns of its row."""
    return replace(record, row=record.row._replace(**columns))


def _following(target: SessionRecord, loaded: SessionRecord) -> SessionRecord:
    """``target`` with the version that it has in the place of ``loaded``."""
    version = loaded.row.version + 1
    # A new session that takes an old one's row goes on counting where that was.
    return target if target.row.version == version else _with(target, version=version)


def _as_bytes(data: Any) -> bytes:
    """What the driver gave for the column, unless it is not binary at all."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, (memoryview, bytearray)):  # psycopg2, some MySQL drivers
        return bytes(data)
    raise UnreadableSessionError(f"The row's data is of type {type(data).__name__}.")
