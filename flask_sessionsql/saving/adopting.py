"""Sessions of the site before, taken over when their browsers come: how nobody is
logged out by the move. What applications set for it is on the page :doc:`/moving`.

A request that comes with something that opens no session of ours **reads** the one that
it opens at the other place, and :meth:`Adopter.take` moves it when it is saved; from
then on it is one of ours, and saved like any other. Its token follows from what the
browser had (:func:`~flask_sessionsql.formats.tokens.adopted_token`), so that requests
at the same time come to the same session.

An id of Flask-Session's goes on leading there until the browser has come with the new
token: the answer that told it may have been lost. A signed cookie does not, since
others may have copied it: it opens a session once.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..config import SessionConfig
from ..exceptions import (
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
    SessionValueError,
    UnreadableSessionError,
)
from ..formats.foreign import (
    PickleError,
    flask_session_id,
    load_row,
    open_cookie,
)
from ..formats.tokens import (
    adopted_handle,
    adopted_token,
    former_token,
    is_token,
    line_ids,
    row_id,
)
from ..sessions import ADOPTED_KEY, HIDDEN_KEYS, PERMANENT_KEY
from ..signals import SessionCreated, SessionEnded, SessionUnreadable
from ..storage.adoption import (
    ForeignSession,
    ForeignTable,
    ForeignTableError,
    Notes,
    everybody_note,
    used_note,
    user_note,
)
from ..storage.outages import OnceAMinute
from ..storage.store import StoredSession
from .planning import (
    Clear,
    Empty,
    Keep,
    Plan,
    Secrets,
    SessionRecord,
    Touch,
)
from .records import Outcome, SessionRecords

__all__ = ["Adopter", "Arrival", "Opened", "Taking", "adopter_of"]

logger: logging.Logger = logging.getLogger(__name__)

#: Tokens of ours have at least so many characters. What is shorter is somebody else's.
_SHORTEST = 46
#: Seconds for which a table that is not there is not asked for again.
_PAUSE = 60.0

#: Why a session cannot be taken over.
Reason = Literal["pickle", "unreadable", "value", "empty", "ended"]


class NotAdoptedError(Exception):
    """A session cannot be taken over."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(slots=True, repr=False)
class Taking:
    """A session that a request has read elsewhere, and that is to be moved here."""

    #: What is to stand here. The data is not encrypted.
    target: SessionRecord
    secrets: Secrets
    #: Where it stands, of Flask-Session's.
    row: ForeignSession | None = None
    #: The note to leave, and until when, of a cookie.
    note: bytes = b""
    until: int = 0


@dataclass(slots=True, repr=False)
class Opened:
    """What a cookie has opened."""

    record: SessionRecord
    data: dict[Any, Any]
    #: What is still elsewhere.
    taking: Taking | None = None
    #: Whether the browser has to be told of the token.
    is_new: bool = False
    #: Whether the browser has come with the new token for the first time.
    confirms: bool = False


class Arrival:
    """A request whose cookie has opened a session that was taken over, or is to be."""

    def __init__(self, adopter: Adopter, records: SessionRecords, opened: Opened):
        self._adopter = adopter
        self._records = records
        self._taking = opened.taking
        #: Whether the browser has to be told of the token.
        self.is_new: bool = opened.is_new
        #: Whether it has come with the token for the first time.
        self.confirms: bool = opened.confirms
        self._only_confirms = False

    def plan(self, plan: Callable[[bool], Plan]) -> Plan:
        """What saving the session comes to.

        :param plan: gives that, with what notes that the browser has not come yet, or
            without.
        """
        if not self.confirms:
            return plan(False)
        self._only_confirms = isinstance(plan(True), (Keep, Touch))
        return plan(False)

    def says_nothing(self, plan: Plan, can_tell: bool) -> bool:
        """Whether nothing is stored and the browser is not told anything.

        :param can_tell: whether a response carries the cookie. Where none does, what
            opens a session only once is left for a page that can; to end the session
            needs no answer.
        """
        if self._taking is None or can_tell or not self._adopter.once:
            return isinstance(plan, Keep) and not self.is_new
        if isinstance(plan, (Empty, Clear)):
            return False
        if not isinstance(plan, (Keep, Touch)):
            self._records.untold()
        return True

    def execute(self, plan: Plan, *, wait: bool = True) -> Outcome:
        """Take the session over, and carry out a plan on it.

        :raises SessionStoreBusyError: as for :meth:`SessionRecords.execute`.
        """
        may_fail = self._only_confirms or isinstance(plan, (Keep, Touch))
        try:
            if self._taking is not None:
                is_there = self._adopter.take(self._taking, wait=wait)
                self._taking = None
                if not is_there and isinstance(plan, Keep):
                    return Outcome(None, {}, is_elsewhere=True)
            return self._records.execute(plan, wait=wait)
        except SessionStoreBusyError:
            raise
        except (SessionStoreUnavailableError, SessionTableError) as error:
            # As of a server that has become read-only. What the page has read is right,
            # and the browser comes with the same cookie again.
            if not may_fail:
                raise
            logger.info("A session could not be taken over yet: %s", error)
            data = {} if isinstance(plan, (Empty, Clear)) else plan.data
            return Outcome(None, data, is_elsewhere=True)


class Adopter(ABC):
    """Opens what the cookies of the site before opened.

    :param config: the settings.
    :param records: our sessions.
    """

    #: Whether what the browser has opens a session only once.
    once: bool

    def __init__(self, config: SessionConfig, records: SessionRecords) -> None:
        self._config = config
        self._records = records

    @cached_property
    def notes(self) -> Notes:
        """What is remembered of the sessions elsewhere."""
        return Notes(self._records.store.database)

    @abstractmethod
    def open(
        self, secrets: Secrets, cookie: str, now: int, lifetime: int
    ) -> Opened | None:
        """The session that a cookie opens, here or elsewhere; ``None`` for none.

        :param lifetime: ``PERMANENT_SESSION_LIFETIME``, in seconds.
        """

    @abstractmethod
    def former(self, secrets: Secrets, cookie: str, lifetime: int) -> str | None:
        """What stands for a cookie that has opened nothing; ``None`` where it never
        can have opened anything.
        """

    @abstractmethod
    def _move(self, taking: Taking, wait: bool) -> StoredSession | None:
        """Move a session here; ``None`` where another request has, or it is gone."""

    def take(self, taking: Taking, *, wait: bool = True) -> bool:
        """Move a session here, unless it is here already. Whether it is.

        :param wait: whether to wait for a SQLite file that is locked.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        """
        row = self._move(taking, wait)
        if row is None:
            # Another request of this browser has, or it was ended.
            return self._records.store.load(taking.target.row.id, 0) is not None
        return self.settle(row, wait=wait)

    def settle(self, row: StoredSession, *, wait: bool = True) -> bool:
        """What follows when a session was moved here. Whether it stays."""
        # Whoever ends sessions makes a note first, and then looks for rows: this order
        # leaves no gap between the two.
        if self.is_ended(row.user_id):
            self._records.store.delete(row.id, wait=wait)
            self._records.tell(SessionEnded(row.handle, row.user_id, "revoked"))
            return False
        logger.info("Session %r was taken over from the site before.", row.handle)
        self._records.tell(SessionCreated(row.handle, row.user_id))
        return True

    def is_ended(self, user_id: str | None, *more: bytes) -> bool:
        """Whether a user's sessions elsewhere were ended here.

        :param more: other notes that end it.
        """
        keys = [everybody_note(), *more]
        if user_id is not None:
            keys.append(user_note(user_id))
        return self.notes.any_of(keys)

    def _target(
        self,
        secrets: Secrets,
        name: str,
        data: Mapping[Any, Any],
        created_at: int,
        expires_at: int,
    ) -> SessionRecord:
        """The session as it is to stand here.

        :param name: what it is known by elsewhere.
        :param created_at: when it was written there last, which is the least that it is
            known to be old.
        :raises NotAdoptedError: it cannot be kept, or has had its absolute lifetime.
        """
        kept = {key: data[key] for key in data if key not in HIDDEN_KEYS}
        if not kept:
            raise NotAdoptedError("empty")
        permanent = data.get(PERMANENT_KEY, self._config.permanent)
        if permanent != self._config.permanent:
            kept[PERMANENT_KEY] = permanent
        if not self.once:
            kept[ADOPTED_KEY] = True
        token = adopted_token(secrets[0], name)
        try:
            payload = self._records.planner.payload(kept)
            user_id = self._records.planner.user_id(kept)
        except SessionValueError:
            raise NotAdoptedError("value") from None
        longest = self._config.absolute_lifetime
        if longest is not None:
            expires_at = min(expires_at, created_at + longest)
        row = StoredSession(
            id=row_id(secrets[0], token),
            handle=adopted_handle(secrets[0], name, created_at),
            user_id=user_id,
            data=payload,
            version=1,
            created_at=created_at,
            expires_at=expires_at,
            last_used_at=created_at,
            previous_id=line_ids(secrets[:1], token)[0],
        )
        return SessionRecord(token, row, True)

    def _opened(self, taking: Taking) -> Opened:
        record = taking.target
        return Opened(record, self._records.data(record.row), taking, is_new=True)


class FlaskSessionAdopter(Adopter):
    """Takes over sessions in the table of Flask-Session, 0.5 to 0.8."""

    once = False

    def __init__(self, config: SessionConfig, records: SessionRecords) -> None:
        super().__init__(config, records)
        self._not_read = OnceAMinute()
        self._not_there = OnceAMinute()
        self._ask_again = 0.0

    @cached_property
    def table(self) -> ForeignTable:
        """The table of Flask-Session."""
        return ForeignTable(self._records.store.database, self._config.adopt_table)

    def open(
        self, secrets: Secrets, cookie: str, now: int, lifetime: int
    ) -> Opened | None:
        name = flask_session_id(cookie, secrets, signed=self._config.use_signer)
        places: dict[bytes, tuple[str, str | bytes]] = {}
        if is_token(cookie):
            places = {row_id(secret, cookie): (cookie, secret) for secret in secrets}
        if name is not None:
            for secret in secrets:
                token = adopted_token(secret, name)
                # A session of an earlier key's moves to the current one when written.
                for key in (secret, secrets[0]):
                    places[row_id(key, token)] = (token, key)
        rows = self._records.store.load_any(places, now) if places else []
        for row in rows:
            token, secret = places[row.id]
            return self._ours(row, token, secret, secrets, now, token == cookie)
        return None if name is None else self._elsewhere(secrets, name, now, lifetime)

    def _ours(
        self,
        row: StoredSession,
        token: str,
        secret: str | bytes,
        secrets: Secrets,
        now: int,
        by_token: bool,
    ) -> Opened | None:
        """A session that is here.

        :param by_token: whether the browser has come with its token; otherwise, with
            what it had before.
        """
        found = self._records.opened(row, token, secret, secret == secrets[0], now)
        if found is None:
            return None
        record, data = found
        if by_token:
            confirms = data.pop(ADOPTED_KEY, None) is not None
            return Opened(record, data, confirms=confirms)
        if ADOPTED_KEY not in data:
            return None  # the browser has the new token
        return Opened(record, data, is_new=True)

    def _elsewhere(
        self, secrets: Secrets, name: str, now: int, lifetime: int
    ) -> Opened | None:
        """A session that is in the other table."""
        row = self._find(self._config.key_prefix + name, now)
        if row is None:
            return None
        try:
            target = self.convert(row, secrets, lifetime, now)
        except NotAdoptedError as error:
            self._tell(error.reason)
            return None
        if target.row.expires_at <= now or self.is_ended(target.row.user_id):
            return None
        return self._opened(Taking(target, secrets, row))

    def _find(self, session_id: str, now: int) -> ForeignSession | None:
        if time.monotonic() < self._ask_again:
            return None
        try:
            return self.table.find(session_id, now)
        except ForeignTableError as error:
            self._ask_again = time.monotonic() + _PAUSE
            if self._not_there.is_time():
                logger.warning(
                    "No session can be taken over: %s Set SESSION_ADOPT_TABLE to its"
                    " name, or remove SESSION_ADOPT.",
                    error,
                )
            return None

    def convert(
        self, row: ForeignSession, secrets: Secrets, lifetime: int, now: int
    ) -> SessionRecord:
        """A row as it is to stand here.

        :param lifetime: with what each write there moved the end, in seconds.
        :raises NotAdoptedError: it cannot.
        """
        name = row.session_id.removeprefix(self._config.key_prefix)
        written_at = min(now, row.expires_at - lifetime)
        try:
            data = load_row(row.data)
        except PickleError:
            raise NotAdoptedError("pickle") from None
        except UnreadableSessionError:
            raise NotAdoptedError("unreadable") from None
        return self._target(secrets, name, data, written_at, row.expires_at)

    def _tell(self, reason: Reason) -> None:
        if reason == "empty":
            return
        self._records.tell(SessionUnreadable(None, None))
        if self._not_read.is_time():
            logger.warning(
                "A session of Flask-Session's was not taken over, and is left in the"
                " table %r: %s. 'flask sessions adopt --dry-run' counts them. This is"
                " said once a minute, however many there are.",
                self._config.adopt_table,
                WHY[reason],
            )

    def _move(self, taking: Taking, wait: bool) -> StoredSession | None:
        seen, target = taking.row, taking.target
        assert seen is not None  # noqa: S101 -- for the type checker

        def convert(row: ForeignSession) -> StoredSession | None:
            # A server of the site before may have written it meanwhile. Then ours has
            # another version than the request knows, which merges its change.
            now, lifetime = int(time.time()), self._config.lifetime
            try:
                record = self.convert(row, taking.secrets, lifetime, now)
            except NotAdoptedError:
                return None
            version = 1 if row.data == seen.data else 2
            new = record.row._replace(version=version)
            if version == 1:
                new = target.row
            return self._records.sealed(new, taking.secrets)

        return next(iter(self.table.take([seen], convert, wait=wait)), None)

    def former(self, secrets: Secrets, cookie: str, lifetime: int) -> str | None:
        name = flask_session_id(cookie, secrets, signed=self._config.use_signer)
        if is_token(cookie) and (name is None or len(cookie) >= _SHORTEST):
            return cookie
        return None if name is None else former_token(secrets[0], name, None)


class CookieAdopter(Adopter):
    """Takes over sessions in signed cookies of Flask's own."""

    once = True

    def open(
        self, secrets: Secrets, cookie: str, now: int, lifetime: int
    ) -> Opened | None:
        if is_token(cookie):
            found = self._records.find(secrets, cookie, now)
            return None if found is None else Opened(*found)
        signed = open_cookie(cookie, secrets, lifetime)
        if signed is None:
            return None
        end = signed.signed_at + lifetime
        try:
            target = self._target(
                secrets, signed.name, signed.data, min(now, signed.signed_at), end
            )
        except NotAdoptedError:
            return None
        note = used_note(signed.name)
        if target.row.expires_at <= now or self.is_ended(target.row.user_id, note):
            return None
        return self._opened(Taking(target, secrets, note=note, until=end))

    def _move(self, taking: Taking, wait: bool) -> StoredSession | None:
        row = self._records.sealed(taking.target.row, taking.secrets)
        moved = self.notes.take(taking.note, row, taking.until, wait=wait)
        return row if moved else None

    def former(self, secrets: Secrets, cookie: str, lifetime: int) -> str | None:
        if is_token(cookie):
            return cookie
        signed = open_cookie(cookie, secrets, lifetime)
        if signed is None:
            return None
        user_id = self._records.planner.stored_user_id(signed.data)
        return former_token(secrets[0], signed.name, user_id)


#: Why a session cannot be taken over, in words.
WHY: dict[Reason, str] = {
    "pickle": "it is a pickle, as up to Flask-Session 0.6, which is never executed",
    "unreadable": "it is neither MessagePack nor JSON",
    "value": "it holds a value that cannot be kept",
    "empty": "it holds nothing",
    "ended": "it was ended here",
}

_ADOPTERS: dict[str, type[Adopter]] = {
    "flask-session": FlaskSessionAdopter,
    "cookie": CookieAdopter,
}


def adopter_of(config: SessionConfig, records: SessionRecords) -> Adopter | None:
    """What takes sessions over, by ``SESSION_ADOPT``."""
    kind = None if config.adopt is None else _ADOPTERS[config.adopt]
    return None if kind is None else kind(config, records)
