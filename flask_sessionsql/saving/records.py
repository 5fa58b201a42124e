"""One session's row, as one request knows it: found by its token, saved with the
version it had, against whatever other requests do meanwhile.

Saving has two steps. The :class:`~flask_sessionsql.saving.planning.Planner` decides
what is to be written, without the database; :meth:`SessionRecords.execute` writes it.
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

#: Each time a write gives way, another request's has succeeded. So many in a row
#: mean a fault, and must not become an endless loop.
MAX_TRIES = 1000

#: Seconds after the last use of a session within which a request that comes with an
#: earlier token is taken for one that was under way when the token changed.
GRACE = 10

_INTEGER = frozenset({int})
#: The times that the application can set, and the last that each can be.
_SET_TIMES = {EXPIRY_KEY: LAST_SECOND, LIFETIME_KEY: LONGEST_LIFETIME}


@dataclass(slots=True, repr=False)
class Outcome:
    """What saving a session came to."""

    #: What is stored now; ``None`` where nothing is.
    record: SessionRecord | None
    #: What that holds.
    data: Mapping[Any, Any]
    #: Another request has ended the session or moved it, so the browser's cookie is
    #: not this one's to change.
    is_elsewhere: bool = False


class SessionRecords:
    """The stored sessions of one application.

    :param open_store: gives the store at the first need.
    :param tell: told of what happens to them.
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
        #: The keys that each request asks for.
        self._asked_for = {config.user_key, *HIDDEN_KEYS}
        #: What carries out each plan; ``None`` from it means that the row is not as it
        #: was loaded any more.
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
        """The rows."""
        return self._open_store()

    # Reading.

    def find(
        self, secrets: Secrets, token: str, now: int
    ) -> tuple[SessionRecord, dict[Any, Any]] | None:
        """The live session that ``token`` opens, and its data.

        :param secrets: tried in this order.
        :return: ``None`` where there is none, and where it cannot be read: then
            the log names its handle, and the row is left as it is.
        """
        # The current one again at the end, where there are others: another request may
        # have moved the row to it meanwhile.
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
        """The session in a row that was loaded, and its data; ``None`` as for
        :meth:`find`.

        :param secret: under which ``token`` leads to the row.
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
        if LABEL_KEY in data:  # which has its column as well, that is not loaded
            row = row._replace(label=data[LABEL_KEY])
        return SessionRecord(token, row, is_current), data

    def readable(self, row: StoredSession, secrets: Secrets) -> StoredSession:
        """``row`` as it was loaded, with its data not encrypted.

        :param secrets: those that its data could be encrypted with.
        :raises UnreadableSessionError: none of them opens it, or its columns are not
            what they have to be.
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
        """The data of a row that is readable, with the values encoded, but for the user
        and for hidden keys, which each request asks for.

        :raises UnreadableSessionError: it is no session's.
        """
        data = self._serializer.split(row.data)
        for key in data.keys() & self._asked_for:
            data[key] = value = self._serializer.decode(data[key])
            if key == LABEL_KEY and not isinstance(value, str):
                raise UnreadableSessionError("The session's label is no text.")
            if (most := _SET_TIMES.get(key)) is None:
                continue
            if not isinstance(value, int):
                raise UnreadableSessionError("A time set for the session is no number.")
            data[key] = min(value, most)
        return data

    def decode(self, value: Any) -> Any:
        """A value of a session's data; as it is, if it is not encoded.

        :raises UnreadableSessionError: it is no value of a session's.
        """
        return self._serializer.decode(value)

    def whole(self, row: StoredSession, secrets: Secrets) -> dict[Any, Any]:
        """The data of a row, decoded, with hidden keys, for somebody else than its
        browser: the errors say what to do.

        :param secrets: those that its data could be encrypted with.
        :raises SessionConfigError: there are none.
        :raises UnreadableSessionError: it cannot be read.
        """
        if not secrets:
            raise SessionConfigError(
                "SECRET_KEY",
                "It is not set, and sessions are read with it. Use the configuration"
                " that the application runs with.",
            )
        try:
            data = self.data(self.readable(row, secrets))
            return {key: self.decode(value) for key, value in data.items()}
        except UnreadableSessionError as error:
            raise UnreadableSessionError(
                f"The session cannot be read: {error} To its browser it is an empty"
                " one. If SECRET_KEY has changed, put the one before into"
                " SECRET_KEY_FALLBACKS. Otherwise somebody has changed the row, or it"
                " is damaged; 'flask sessions revoke --handle"
                f" {row.handle}' deletes it."
            ) from error

    def tell_unreadable(
        self, row: StoredSession, error: UnreadableSessionError
    ) -> None:
        """Tell of a row that cannot be read, and is left as it is."""
        logger.warning("Session %r cannot be read: %s", row.handle, error)
        self.tell(SessionUnreadable(row.handle, row.user_id))

    def _outlived(self, row: StoredSession, data: Mapping[Any, Any], now: int) -> bool:
        """Whether the session has had its absolute lifetime, or the one that the
        application has set. The row's end says so, too, unless the setting is newer.
        """
        longest = self._config.absolute_lifetime
        if longest is not None and row.created_at + longest <= now:
            return True
        return bool(data.get(EXPIRY_KEY, now + 1) <= now)

    # Writing.

    def execute(self, plan: Plan, *, wait: bool = True) -> Outcome:
        """Write what was planned. Where another request has written the row meanwhile,
        the planner says what that leads to.

        :param wait: whether to wait for a SQLite file that is locked.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        :raises SessionLimitError: its user may have no more sessions.
        :raises SessionConflictError: others changed it each time.
        :raises SessionValueError: the database cannot keep the user's name or label.
        """
        try:
            return self._execute(plan, wait)
        except TextNotStorableError:
            raise self._not_storable(plan) from None

    def _not_storable(self, plan: Plan) -> SessionValueError:
        """The error of a text in a row that the database cannot keep: the application
        gives its user and its label. Where both are odd, the odder one is told.
        """
        key = self._config.user_key
        where, instead = f"session[{key!r}]", "keep the user's number in the session"
        row = plan.target.row if isinstance(plan, (Insert, Update, Replace)) else None
        if row and max(row.label or " ") > max(row.user_id or " "):
            key, where, instead = LABEL_KEY, "session.label", "refuse such labels"
        return SessionValueError(
            key,
            where,
            str,
            "the text has characters that the database, or the connection to it,"
            " cannot keep. Let both have all characters: on MariaDB and MySQL by"
            " '?charset=utf8mb4' in the address, on PostgreSQL by a database in"
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
            f"Session {record.row.handle!r} was changed by others at each of"
            f" {MAX_TRIES} tries to save it. It is as they left it."
        )

    def foresee(self, plan: Plan) -> Outcome:
        """What executing a plan comes to, unless another request is faster."""
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
            # The token has opened the session that other requests of this browser have
            # moved just now. Were a new session begun, its cookie would take the place
            # of the moved one's, and log the browser out. A login is no accident: the
            # answer to the one before may have been lost.
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
            # As of a server that has become read-only. What the page has read is right,
            # and another request notes the session's use.
            if self._not_noted.is_time():
                handle = plan.record.row.handle
                logger.warning(
                    "That session %r was used could not be noted. This is said once a"
                    " minute, whatever session it is.",
                    handle,
                )
            touched = False
        # If not: it is gone, or another request has moved its end as far.
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
        # A new session that takes an old one's row goes on counting where that was.
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
        """The token opens nothing any more: another request has ended the session, or
        moved it to a new token, or this one has and the answer was lost.
        """
        if isinstance(plan, (Update, Replace)):
            target = plan.target
            # A new token is random, so a row under it is our own.
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
        # Where it is not there, it is as this request would have it.
        is_elsewhere = not self._logged_out(plan, None, wait)
        return Outcome(None, {}, is_elsewhere)

    def _logged_in(self, plan: Update | Replace, wait: bool) -> Outcome:
        """Whoever is told "welcome" is logged in, whatever became of the session that
        they had before.
        """
        alone = self.planner.alone(plan)
        try:
            return self._insert(alone, wait)
        except SessionLimitError:
            # The one that is too many may be this browser's own: a double click.
            line = line_ids(plan.use.secrets, plan.record.token)
            user_id = alone.target.row.user_id or ""
            if not self.store.delete_line(line, user_id, wait=wait):
                raise
            self.tell(SessionEnded(None, user_id, "limit"))
            return self._insert(alone, wait)

    def _logged_out(self, plan: Contended, left: str | None, wait: bool) -> bool:
        """If this request logs its user out, and others have moved the session to a new
        token, end it there. Whether it was there. A login that has overtaken a visitor
        stays.

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
        """End what a token opens, be it readable or not, or opened a moment ago: the
        session that has moved on since, if it is the same user's. Whether there was
        anything.

        :param cleared: whether to end it also if it is nobody's.
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
            # One that is moved again meanwhile is looked for again.
            left = [row for row in ended if not self.store.delete(row.id, wait=wait)]
            for row in ended:
                if row not in left:
                    self.tell(SessionEnded(row.handle, row.user_id, "cleared"))
            if not left:
                return bool(ended)
        raise SessionConflictError(
            f"The session of a late logout was moved by others at each of {MAX_TRIES}"
            " tries to end it."
        )

    def _moved(self, secrets: Secrets, stale: Stale, now: int) -> list[MovedSession]:
        """The live sessions that have moved away from a token, and may have done so
        while the request was under way.
        """
        token = stale.token
        moved = self.store.moved(line_ids(secrets, token), now, stale.at - GRACE)
        # Not the one that it opens, and that cannot be read.
        return [row for row in moved if row.id not in row_ids(secrets, token)]

    def sealed(self, row: StoredSession, secrets: Secrets) -> StoredSession:
        """``row`` as it is to be stored."""
        data = self._encryption.seal(row.data, secrets[0], row.id)
        return row if data is row.data else row._replace(data=data)

    def _limit(
        self, target: SessionRecord, loaded: SessionRecord | None, now: int
    ) -> UserLimit | None:
        """The limit for a session that becomes a user's; ``None`` for no limit."""
        most, user_id = self._config.max_per_user, target.row.user_id
        if most is None or user_id is None:
            return None
        if loaded is not None and (
            self.planner.user_before(loaded, user_id) == user_id
        ):
            return None  # no login
        longest = self._config.absolute_lifetime
        outlived = None if longest is None else now - longest
        refuses = self._config.max_per_user_policy == "refuse"
        return UserLimit(most, refuses, now, outlived)

    # Telling.

    def _dropped(self, record: SessionRecord | None) -> Outcome:
        """Nothing is written: the session is another request's to keep or to end."""
        handle = None if record is None else record.row.handle
        logger.info(
            "Session %r was ended or moved by another request; what this one would have"
            " stored is dropped.",
            handle,
        )
        user_id = None if record is None else record.row.user_id
        self.tell(SessionRefused(handle, user_id, "ended"))
        return Outcome(None, {}, is_elsewhere=True)

    def untold(self) -> Outcome:
        """Nothing is written: nobody would come back with the token."""
        logger.warning(
            "A session was begun where no response carries a cookie, as in a handler of"
            " Socket.IO events, and is not stored: the browser would not get its token."
            " Begin it in a page, before."
        )
        self.tell(SessionRefused(None, None, "cookie"))
        return Outcome(None, {}, is_elsewhere=True)

    def _tell_ended(self, record: SessionRecord, reason: EndReason) -> None:
        self.tell(SessionEnded(record.row.handle, record.row.user_id, reason))

    def _tell_merged(self, row: StoredSession, overwritten: tuple[Any, ...]) -> None:
        if overwritten:
            logger.info(
                "Session %r: another request had changed the keys %s, too; they have"
                " the values of this one.",
                row.handle,
                ", ".join(map(reprlib.repr, overwritten)),
            )
        self.tell(SessionMerged(row.handle, row.user_id, overwritten))

    def _tell_limited(self, limit: UserLimit | None, row: StoredSession) -> None:
        for handle in () if limit is None else limit.ended:
            self.tell(SessionEnded(handle, row.user_id, "limit"))


def _as_bytes(data: Any) -> bytes:
    """What the driver gave for the column, unless it is not binary at all."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, (memoryview, bytearray)):  # psycopg2, some MySQL drivers
        return bytes(data)
    raise UnreadableSessionError(f"The row's data is of type {type(data).__name__}.")
