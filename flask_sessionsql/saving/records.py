"""The row of one session for one request: found by its token, and saved although other
requests may change it at the same time.

Saving has two steps. The :class:`~flask_sessionsql.saving.planning.Planner` decides
what to write, without the database; :meth:`SessionRecords.execute` writes it.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from ..config import SessionConfig
from ..exceptions import (
    SessionConfigError,
    SessionConflictError,
    SessionLimitError,
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
    SessionValueError,
    UnreadableSessionError,
)
from ..formats.encryption import Encryption
from ..formats.serializers import Serializer
from ..formats.tokens import is_of_user, line_ids, row_id, row_ids
from ..sessions import (
    EXPIRY_KEY,
    HIDDEN_KEYS,
    LABEL_KEY,
    LIFETIME_KEY,
    LONGEST_LIFETIME,
)
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
from ..storage.errors import TextNotStorableError
from ..storage.limits import UserLimit
from ..storage.outages import OnceAMinute
from ..storage.store import MovedSession, SessionStore, StoredSession
from ..storage.tables import LAST_SECOND
from .planning import (
    Clear,
    Contended,
    Empty,
    Insert,
    Keep,
    Plan,
    Planner,
    Replace,
    Secrets,
    SessionRecord,
    Stale,
    Touch,
    Update,
)

__all__ = ["Outcome", "SessionRecords"]

logger: logging.Logger = logging.getLogger(__name__)

#: Each time a write fails because the row has changed, another request's has succeeded.
#: So many in a row are a fault, and must not become an endless loop.
MAX_TRIES = 1000

#: For so many seconds after the last use of a session, a request with an earlier token
#: is taken for one that was running when the token changed.
GRACE = 10

_INTEGER = frozenset({int})
#: The times that the application can set, with their maximum.
_SET_TIMES = {EXPIRY_KEY: LAST_SECOND, LIFETIME_KEY: LONGEST_LIFETIME}


@dataclass(slots=True, repr=False)
class Outcome:
    """The result of saving a session."""

    #: What is stored now; ``None`` if nothing is.
    record: SessionRecord | None
    #: Its data.
    data: Mapping[Any, Any]
    #: Another request has ended or moved the session, so this one must not change the
    #: browser's cookie.
    is_elsewhere: bool = False


class SessionRecords:
    """The stored sessions of one application.

    :param open_store: returns the store when it is first needed.
    :param tell: called with an event for whatever happens to a session.
    """

    def __init__(
        self,
        config: SessionConfig,
        open_store: Callable[[], SessionStore],
        serializer: Serializer,
        tell: Tell = lambda event: None,
    ) -> None:
        self._config = config
        self._open_store = open_store
        self._serializer = serializer
        self.planner: Planner = Planner(config, serializer)
        self._encryption = Encryption(
            seals=bool(config.encrypt), required=config.encrypt == "required"
        )
        self.tell = tell
        self._not_noted = OnceAMinute()
        #: The keys that each request reads.
        self._asked_for = {config.user_key, *HIDDEN_KEYS}
        #: The method for each plan. It returns ``None`` if the row has changed since it
        #: was loaded.
        self._steps: dict[type, Callable[[Any, bool], Outcome | None]] = {
            Keep: self._keep,
            Insert: self._insert,
            Touch: self._touch,
            Update: self._update,
            Replace: self._update,
            Empty: self._empty,
            Clear: self._clear,
        }

    @cached_property
    def store(self) -> SessionStore:
        """The store of the rows."""
        return self._open_store()

    # Reading.

    def find(
        self, secrets: Secrets, token: str, now: int
    ) -> tuple[SessionRecord, dict[Any, Any]] | None:
        """The live session that ``token`` opens, and its data.

        :param secrets: the keys to try, in this order.
        :return: ``None`` if there is none, or if it cannot be read: then the log names
            its handle, and the row stays as it is.
        """
        # With fallbacks, the current key is tried again at the end: another request may
        # have moved the row to it in the meantime.
        for secret in secrets if len(secrets) == 1 else (*secrets, secrets[0]):
            row = self.store.load(row_id(secret, token), now)
            if row is not None:
                return self.opened(row, token, secret, secret == secrets[0], now)
        return None

    def opened(
        self,
        row: StoredSession,
        token: str,
        secret: str | bytes,
        is_current: bool,
        now: int,
    ) -> tuple[SessionRecord, dict[Any, Any]] | None:
        """The session in a loaded row, and its data; ``None`` as for :meth:`find`.

        :param secret: the key with which ``token`` leads to the row.
        :param is_current: whether that is the current ``SECRET_KEY``.
        """
        try:
            row = self.readable(row, [secret])
            data = self.data(row)
        except UnreadableSessionError as error:
            self.tell_unreadable(row, error)
            return None
        if self._outlived(row, data, now):
            return None
        if LABEL_KEY in data:  # the label has a column, too, which is not loaded
            row = row._replace(label=data[LABEL_KEY])
        return SessionRecord(token, row, is_current), data

    def readable(self, row: StoredSession, secrets: Secrets) -> StoredSession:
        """A loaded row with its data decrypted.

        :param secrets: the keys that its data may be encrypted with.
        :raises UnreadableSessionError: none of them decrypts the data, or a column has
            a wrong type.
        """
        numbers = (row.version, row.created_at, row.expires_at, row.last_used_at or 0)
        if not _INTEGER.issuperset(map(type, numbers)):
            raise UnreadableSessionError("The row's numbers are not all integers.")
        error = UnreadableSessionError("There is no SECRET_KEY.")
        for secret in secrets:
            try:
                data = self._encryption.open(_as_bytes(row.data), secret, row.id)
                return row if data is row.data else row._replace(data=data)
            except UnreadableSessionError as reason:
                error = reason
        raise error

    def data(self, row: StoredSession) -> dict[Any, Any]:
        """The data of a readable row. The values are encoded, except those of the user
        and of hidden keys, which each request reads.

        :raises UnreadableSessionError: they are not the data of a session.
        """
        data = self._serializer.split(row.data)
        for key in data.keys() & self._asked_for:
            data[key] = value = self._serializer.decode(data[key])
            if key == LABEL_KEY and not isinstance(value, str):
                raise UnreadableSessionError("The session's label is not a string.")
            if (most := _SET_TIMES.get(key)) is None:
                continue
            if not isinstance(value, int):
                raise UnreadableSessionError("A time in the session is not a number.")
            data[key] = min(value, most)
        return data

    def decode(self, value: Any) -> Any:
        """Decode a value of a session's data; a value that is not encoded is returned
        unchanged.

        :raises UnreadableSessionError: it is not a value of a session.
        """
        return self._serializer.decode(value)

    def whole(self, row: StoredSession, secrets: Secrets) -> dict[Any, Any]:
        """All data of a row, decoded, with hidden keys, for somebody else than its
        browser: the errors say what to do.

        :param secrets: the keys that its data may be encrypted with.
        :raises SessionConfigError: there are no keys.
        :raises UnreadableSessionError: the row cannot be read.
        """
        if not secrets:
            raise SessionConfigError(
                "SECRET_KEY",
                "it is not set, and sessions cannot be read without it. Use the"
                " configuration that the application runs with.",
            )
        try:
            data = self.data(self.readable(row, secrets))
            return {key: self.decode(value) for key, value in data.items()}
        except UnreadableSessionError as error:
            raise UnreadableSessionError(
                f"The session cannot be read: {error} Its browser gets an empty one. If"
                " SECRET_KEY has changed, put the earlier key into"
                " SECRET_KEY_FALLBACKS. Otherwise somebody has changed the row, or it"
                " is damaged; 'flask sessions revoke --handle"
                f" {row.handle}' deletes it."
            ) from error

    def tell_unreadable(
        self, row: StoredSession, error: UnreadableSessionError
    ) -> None:
        """Log and signal a row that cannot be read. The row stays as it is."""
        logger.warning("Session %r cannot be read: %s", row.handle, error)
        self.tell(SessionUnreadable(row.handle, row.user_id))

    def _outlived(self, row: StoredSession, data: Mapping[Any, Any], now: int) -> bool:
        """Whether the session is past its absolute lifetime or the end that the
        application has set. The row's end includes both, unless a setting is newer.
        """
        longest = self._config.absolute_lifetime
        if longest is not None and row.created_at + longest <= now:
            return True
        return bool(data.get(EXPIRY_KEY, now + 1) <= now)

    # Writing.

    def execute(self, plan: Plan, *, wait: bool = True) -> Outcome:
        """Carry out a plan. If another request has changed the row in the meantime, the
        planner makes the next plan.

        :param wait: whether to wait for a SQLite file that is locked.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        :raises SessionLimitError: the user may not have more sessions.
        :raises SessionConflictError: others changed the row at each try.
        :raises SessionValueError: the database cannot store the user or the label.
        """
        try:
            return self._execute(plan, wait)
        except TextNotStorableError:
            raise self._not_storable(plan) from None

    def _not_storable(self, plan: Plan) -> SessionValueError:
        """The error for a text that the database cannot store: the user or the label,
        which come from the application. It names the one with the rarer characters.
        """
        key = self._config.user_key
        where, instead = f"session[{key!r}]", "store the user's number in the session"
        row = plan.target.row if isinstance(plan, (Insert, Update, Replace)) else None
        if row and max(row.label or " ") > max(row.user_id or " "):
            key, where, instead = LABEL_KEY, "session.label", "refuse such labels"
        return SessionValueError(
            key,
            where,
            str,
            "the text has characters that the database, or the connection to it,"
            " cannot store. Allow all characters: on MariaDB and MySQL with"
            " '?charset=utf8mb4' in the address, on PostgreSQL with a database in"
            f" UTF8. Or {instead}.",
        )

    def _execute(self, plan: Plan, wait: bool) -> Outcome:
        for _ in range(MAX_TRIES):
            outcome = self._steps[type(plan)](plan, wait)
            if outcome is not None:
                return outcome
            missed = cast(Contended, plan)
            record, use = missed.record, missed.use
            found = self.find(use.secrets, record.token, use.now)
            if found is None:
                return self._gone(missed, wait)
            plan = self.planner.again(missed, *found)
        raise SessionConflictError(
            f"Other requests changed session {record.row.handle!r} at each of"
            f" {MAX_TRIES} tries to save it. It is as they stored it: look for a client"
            " that changes this session all the time."
        )

    def foresee(self, plan: Plan) -> Outcome:
        """What executing a plan will result in, unless another request is faster."""
        if isinstance(plan, Keep):
            return Outcome(plan.record, plan.data)
        if isinstance(plan, (Empty, Clear)):
            return Outcome(None, {})
        return Outcome(plan.target, plan.data)

    def _keep(self, plan: Keep, wait: bool) -> Outcome:
        return Outcome(plan.record, plan.data)

    def _insert(self, plan: Insert, wait: bool) -> Outcome:
        use, row = plan.use, plan.target.row
        if not use.can_tell:
            return self.untold()
        stale = plan.stale if row.user_id is None else None
        if stale is not None and self._moved(use.secrets, stale, use.now):
            # Other requests of this browser have just moved the session of this token.
            # A new session's cookie would replace the moved one's and log the browser
            # out. A login is stored: the answer to the one before may have been lost.
            return self._dropped(None)
        limit, target = self._limit(plan.target, None, use.now), plan.target

        def anew() -> StoredSession:
            nonlocal target
            target = self.planner.anew(plan)
            return self.sealed(target.row, use.secrets)

        row = self.sealed(row, use.secrets)
        self.store.insert(row, limit, wait=wait, anew=anew)
        row = target.row
        self.tell(SessionCreated(row.handle, row.user_id))
        self._tell_limited(limit, row)
        return Outcome(target, plan.data)

    def _touch(self, plan: Touch, wait: bool) -> Outcome:
        try:
            touched = self.store.touch(plan.target.row, plan.use.now, wait=wait)
        except SessionStoreBusyError:
            raise
        except (SessionStoreUnavailableError, SessionTableError):
            # A server that has become read-only, for example. What the page has read is
            # right, and a later request will record the use.
            if self._not_noted.is_time():
                handle = plan.record.row.handle
                logger.warning(
                    "The use of session %r could not be recorded. This is logged once a"
                    " minute for all sessions.",
                    handle,
                )
            touched = False
        # Not touched: it is gone, or another request has moved its end as far.
        return Outcome(plan.target if touched else plan.record, plan.data)

    def _update(self, plan: Update | Replace, wait: bool) -> Outcome | None:
        use, loaded, target = plan.use, plan.record, plan.target
        limit = self._limit(target, loaded, use.now)
        row = self.sealed(target.row, use.secrets)
        if not self.store.update(
            row,
            loaded.row,
            use.now,
            limit,
            used=use.counts,
            whole=not use.can_tell,
            wait=wait,
        ):
            return None
        row = target.row
        self._tell_limited(limit, row)
        if isinstance(plan, Replace):
            self._tell_ended(loaded, "cleared")
            self.tell(SessionCreated(row.handle, row.user_id))
        else:
            if plan.is_merged:
                self._tell_merged(row, plan.overwritten)
            is_other = row.user_id != loaded.row.user_id and not use.can_tell
            if target.token != loaded.token or is_other:
                self.tell(SessionRotated(row.handle, row.user_id, loaded.row.user_id))
        # A new session in an old one's row continues its version.
        version = loaded.row.version + 1
        if row.version != version:
            target = replace(target, row=row._replace(version=version))
        return Outcome(target, plan.data)

    def _empty(self, plan: Empty, wait: bool) -> Outcome | None:
        row = plan.record.row
        if not self.store.delete(row.id, row.version, wait=wait):
            return None
        self._tell_ended(plan.record, "emptied")
        return Outcome(None, {})

    def _clear(self, plan: Clear, wait: bool) -> Outcome | None:
        if not self.store.delete(plan.record.row.id, wait=wait):
            return None
        self._tell_ended(plan.record, "cleared")
        return Outcome(None, {})

    def _gone(self, plan: Contended, wait: bool) -> Outcome:
        """Continue when the token no longer opens a session: another request has ended
        it or moved it to a new token, or this one has and the answer was lost.
        """
        if isinstance(plan, (Update, Replace)):
            target = plan.target
            # A new token is random, so a row under it is this request's.
            if target.token != plan.record.token and (
                found := self.find(plan.use.secrets, target.token, plan.use.now)
            ):
                return Outcome(found[0], plan.data)
            ended = self._logged_out(plan, target.row.user_id, wait)
            if self.planner.logs_in(plan):
                return self._logged_in(plan, wait)
            if ended:
                return self._insert(self.planner.alone(plan), wait)
            return self._dropped(plan.record)
        # If it is gone, that is what this request wants.
        is_elsewhere = not self._logged_out(plan, None, wait)
        return Outcome(None, {}, is_elsewhere)

    def _logged_in(self, plan: Update | Replace, wait: bool) -> Outcome:
        """Store a login as a new session, whatever happened to the session before:
        somebody who sees the page "welcome" must be logged in.
        """
        alone = self.planner.alone(plan)
        try:
            return self._insert(alone, wait)
        except SessionLimitError:
            # The session beyond the limit may be this browser's own: a double click.
            line = line_ids(plan.use.secrets, plan.record.token)
            user_id = alone.target.row.user_id or ""
            if not self.store.delete_line(line, user_id, wait=wait):
                raise
            self.tell(SessionEnded(None, user_id, "limit"))
            return self._insert(alone, wait)

    def _logged_out(self, plan: Contended, left: str | None, wait: bool) -> bool:
        """If this request logs its user out and others have moved the session to a new
        token, end it there. Returns whether it was there. If a visitor's request was
        overtaken by the login, the login stays.

        :param left: the user after this request.
        """
        handle, user_id = plan.record.row.handle, plan.record.row.user_id
        logs_out = isinstance(plan, (Replace, Clear)) or user_id not in (None, left)
        if not (logs_out and self.store.delete_moved(handle, user_id, wait=wait)):
            return False
        self._tell_ended(plan.record, "cleared")
        return True

    def forget(
        self,
        secrets: Secrets,
        stale: Stale,
        now: int,
        *,
        cleared: bool = True,
        wait: bool = True,
    ) -> bool:
        """End the session that a token opens, readable or not, or that it opened a
        moment ago and that has moved since, if it belongs to the same user. Returns
        whether there was one.

        :param cleared: whether to end it even if nobody is logged in.
        """
        for place in row_ids(secrets, stale.token) if cleared else ():
            if self.store.delete(place, wait=wait):
                self.tell(SessionEnded(None, None, "cleared"))
                return True
        for _ in range(MAX_TRIES):
            ended = [
                row
                for row in self._moved(secrets, stale, now)
                if (
                    cleared
                    if row.user_id is None
                    else is_of_user(secrets, stale.token, row.user_id)
                )
            ]
            # Search again for one that has moved again in the meantime.
            left = [row for row in ended if not self.store.delete(row.id, wait=wait)]
            for row in ended:
                if row not in left:
                    self.tell(SessionEnded(row.handle, row.user_id, "cleared"))
            if not left:
                return bool(ended)
        raise SessionConflictError(
            f"Other requests moved the session of a late logout at each of {MAX_TRIES}"
            " tries to end it."
        )

    def _moved(self, secrets: Secrets, stale: Stale, now: int) -> list[MovedSession]:
        """The live sessions that have moved away from a token, possibly while the
        request was running.
        """
        token = stale.token
        moved = self.store.moved(line_ids(secrets, token), now, stale.at - GRACE)
        # Not the session that it opens and that cannot be read.
        return [row for row in moved if row.id not in row_ids(secrets, token)]

    def sealed(self, row: StoredSession, secrets: Secrets) -> StoredSession:
        """``row`` with its data encrypted, if they have to be."""
        data = self._encryption.seal(row.data, secrets[0], row.id)
        return row if data is row.data else row._replace(data=data)

    def _limit(
        self, target: SessionRecord, loaded: SessionRecord | None, now: int
    ) -> UserLimit | None:
        """The limit for a session in which a user logs in; ``None`` for no limit."""
        most, user_id = self._config.max_per_user, target.row.user_id
        if most is None or user_id is None:
            return None
        if loaded is not None and (
            self.planner.user_before(loaded, user_id) == user_id
        ):
            return None  # not a login
        longest = self._config.absolute_lifetime
        outlived = None if longest is None else now - longest
        refuses = self._config.max_per_user_policy == "refuse"
        return UserLimit(most, refuses, now, outlived)

    # Signals and logs.

    def _dropped(self, record: SessionRecord | None) -> Outcome:
        """Write nothing: another request has ended or moved the session."""
        handle = None if record is None else record.row.handle
        logger.info(
            "Another request has ended or moved session %r; the changes of this one are"
            " dropped.",
            handle,
        )
        user_id = None if record is None else record.row.user_id
        self.tell(SessionRefused(handle, user_id, "ended"))
        return Outcome(None, {}, is_elsewhere=True)

    def untold(self) -> Outcome:
        """Write nothing: no browser would get the token."""
        logger.warning(
            "A session was started where no response carries a cookie, as in a handler"
            " of Socket.IO events, and is not stored: the browser would not get its"
            " token. Start the session in a page first."
        )
        self.tell(SessionRefused(None, None, "cookie"))
        return Outcome(None, {}, is_elsewhere=True)

    def _tell_ended(self, record: SessionRecord, reason: EndReason) -> None:
        self.tell(SessionEnded(record.row.handle, record.row.user_id, reason))

    def _tell_merged(self, row: StoredSession, overwritten: tuple[Any, ...]) -> None:
        if overwritten:
            logger.info(
                "Session %r: another request had also changed the keys %s; they now"
                " have the values of this one.",
                row.handle,
                ", ".join(map(reprlib.repr, overwritten)),
            )
        self.tell(SessionMerged(row.handle, row.user_id, overwritten))

    def _tell_limited(self, limit: UserLimit | None, row: StoredSession) -> None:
        for handle in () if limit is None else limit.ended:
            self.tell(SessionEnded(handle, row.user_id, "limit"))


def _as_bytes(data: Any) -> bytes:
    """The value of a binary column as bytes.

    :raises UnreadableSessionError: it is not binary.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, (memoryview, bytearray)):  # psycopg2, some MySQL drivers
        return bytes(data)
    raise UnreadableSessionError(f"The row's data is of type {type(data).__name__}.")
