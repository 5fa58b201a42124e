"""Sessions in the table of Flask-Session, one by one as their browsers come, and all of
them for the command.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ..config import SessionConfig
from ..exceptions import SessionTableError, UnreadableSessionError
from ..formats.foreign import PickleError, flask_session_id, load_row
from ..formats.tokens import adopted_token, former_token, is_token, row_id
from ..saving.planning import Secrets, SessionRecord
from ..saving.records import SessionRecords
from ..sessions import ADOPTED_KEY
from ..signals import SessionCreated, SessionEnded, SessionUnreadable
from ..storage.adoption import (
    ForeignSession,
    ForeignTable,
    ForeignTableError,
    everybody_note,
    user_note,
)
from ..storage.outages import OnceAMinute
from ..storage.store import StoredSession
from .base import WHY, Adopter, NotAdoptedError, Opened, Reason, Taking

__all__ = ["Adopted", "FlaskSessionAdopter"]

logger: logging.Logger = logging.getLogger(__name__)

#: Tokens of ours have at least so many characters. What is shorter is somebody else's.
_SHORTEST = 46
#: Seconds for which a table that is not there is not asked for again.
_PAUSE = 60.0


@dataclass(frozen=True)
class Adopted:
    """What a batch of sessions came to."""

    #: How many there were.
    seen: int
    #: How many of them are here now, or would be.
    taken: int
    #: How many had been ended here, before they came.
    ended: int
    #: How many are left there, and why.
    left: Mapping[Reason, int]
    #: Whether there are no more.
    is_last: bool = False


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
        """As :meth:`.Adopter.open`: by one SELECT here, and one there."""
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
        # Again, where another request has taken it over between the two looks.
        for _ in range(2):
            for row in self._records.store.load_any(places, now) if places else ():
                token, secret = places[row.id]
                return self._ours(row, token, secret, secrets, now, token == cookie)
            if name is None:
                break
            found, is_here = self._find(self._config.key_prefix + name, now, places)
            if found is not None:
                return self._elsewhere(found, secrets, now, lifetime)
            if not is_here:
                break
        return None

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
        self, row: ForeignSession, secrets: Secrets, now: int, lifetime: int
    ) -> Opened | None:
        """A session that is in the other table."""
        try:
            target = self.convert(row, secrets, lifetime, now)
        except NotAdoptedError as error:
            self._tell(error.reason)
            return None
        if target.row.expires_at <= now or self.is_ended(target.row.user_id):
            return None
        return self._opened(Taking(target, secrets, row))

    def _find(
        self, session_id: str, now: int, here: Iterable[bytes]
    ) -> tuple[ForeignSession | None, bool]:
        if time.monotonic() < self._ask_again:
            return None, False
        try:
            return self.table.find(session_id, now, here)
        except ForeignTableError as error:
            self._ask_again = time.monotonic() + _PAUSE
            if self._not_there.is_time():
                logger.warning(
                    "No session can be taken over: %s Set SESSION_ADOPT_TABLE to its"
                    " name, or remove SESSION_ADOPT.",
                    error,
                )
            return None, False

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

    def all(
        self,
        secrets: Secrets,
        lifetime: int,
        *,
        batch: int,
        pause: float = 0,
        max_seconds: float | None = None,
        dry_run: bool = False,
    ) -> Iterator[Adopted]:
        """Take over all live sessions, in batches; gives what each came to. Whoever
        asks for no more of them stops it, between two batches.

        :param batch: how many rows at once.
        :param pause: seconds between two batches, and at least as long as the last one
            took: others have the database then.
        :param max_seconds: begin no batch after that time, and make no pause that would
            end after it.
        :param dry_run: move nothing.
        :raises SessionTableError: the table is not there, or is not Flask-Session's.
        """
        end = math.inf if max_seconds is None else time.monotonic() + max_seconds
        after: int | None = None
        while True:
            start, now = time.monotonic(), int(time.time())
            try:
                rows = self.table.batch(after, batch, now)
                done = self._adopt(rows, secrets, lifetime, now, dry_run)
            except ForeignTableError as error:
                raise SessionTableError(
                    f"{error} Set SESSION_ADOPT_TABLE to its name."
                ) from None
            done = replace(done, is_last=len(rows) < batch)
            took = time.monotonic() - start
            yield done
            if done.is_last:
                return
            after, rest = rows[-1].id, pause and max(pause, took)
            if time.monotonic() + rest >= end:
                return
            time.sleep(rest)

    def _adopt(
        self,
        rows: Sequence[ForeignSession],
        secrets: Secrets,
        lifetime: int,
        now: int,
        dry_run: bool,
    ) -> Adopted:
        """Take over some sessions."""
        reasons: dict[int, Reason] = {}

        def convert(row: ForeignSession) -> StoredSession | None:
            # It may be called twice for one, after an answer that was lost.
            reasons.pop(row.id, None)
            try:
                target = self._wanted(row, secrets, lifetime, now)
            except NotAdoptedError as error:
                reasons[row.id] = error.reason
                return None
            return self._records.sealed(target.row, secrets)

        if dry_run:
            new = [*filter(None, map(convert, rows))]
        else:
            new = self.table.take(rows, convert)
        users = {row.user_id for row in new} - {None}
        notes = {user: user_note(user) for user in users if user is not None}
        found = self.notes.those_of([everybody_note(), *notes.values()])
        ended = [
            row
            for row in new
            if everybody_note() in found or notes.get(row.user_id or "") in found
        ]
        if not dry_run:
            self._settle_all(new, ended)
        left = Counter(reasons.values())
        return Adopted(len(rows), len(new) - len(ended), len(ended), left)

    def _wanted(
        self, row: ForeignSession, secrets: Secrets, lifetime: int, now: int
    ) -> SessionRecord:
        """As :meth:`convert`, of a row that nobody has asked for by its cookie."""
        if not row.session_id.startswith(self._config.key_prefix):
            raise NotAdoptedError("prefix")
        target = self.convert(row, secrets, lifetime, now)
        if target.row.expires_at <= now:
            raise NotAdoptedError("age")
        return target

    def _settle_all(
        self, new: Sequence[StoredSession], ended: Sequence[StoredSession]
    ) -> None:
        """As :meth:`settle`, of many at once."""
        gone = {row.id for row in ended}
        for row in new:
            if row.id in gone:
                self._records.store.delete(row.id)
                self._records.tell(SessionEnded(row.handle, row.user_id, "revoked"))
            else:
                self._records.tell(SessionCreated(row.handle, row.user_id))

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
        """As :meth:`.Adopter.former`."""
        name = flask_session_id(cookie, secrets, signed=self._config.use_signer)
        if is_token(cookie) and (name is None or len(cookie) >= _SHORTEST):
            return cookie
        return None if name is None else former_token(secrets[0], name, None)
