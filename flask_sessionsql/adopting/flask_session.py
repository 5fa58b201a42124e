"""Adopting sessions in the table of Flask-Session: one by one when their browsers come,
or all of them with the command.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from ..config import SessionConfig
from ..exceptions import SessionTableError, UnreadableSessionError
from ..formats.foreign import (
    PickleError,
    flask_session_id,
    is_session_id,
    load_row,
)
from ..formats.tokens import (
    adopted_token,
    former_token,
    is_marked,
    is_token,
    row_id,
)
from ..saving.planning import Secrets, SessionRecord
from ..saving.records import SessionRecords
from ..sessions import ADOPTED_KEY
from ..signals import SessionUnreadable
from ..storage.adoption import (
    Convert,
    ForeignSession,
    ForeignTable,
    ForeignTableError,
    Moving,
    ending_notes,
    used_note,
)
from ..storage.errors import TextNotStorableError
from ..storage.outages import OnceAMinute
from ..storage.store import StoredSession
from .base import ONCE, WHY, Adopter, NotAdoptedError, Opened, Reason, Taking

__all__ = ["Adopted", "FlaskSessionAdopter"]

logger: logging.Logger = logging.getLogger(__name__)

#: The token of a session here, and the secret with which the token leads to its row.
Place: TypeAlias = tuple[str, str | bytes]

#: For how many seconds a missing table is not queried again.
_PAUSE = 60.0
#: The hash of a token, as the way back writes it: 32 bytes in hexadecimal.
_HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Adopted:
    """The result of a batch of sessions."""

    #: How many there were.
    seen: int
    #: How many of them were adopted, or would be.
    taken: int
    #: How many had been revoked here before.
    ended: int
    #: How many are left in the table, by reason.
    left: Mapping[Reason, int]
    #: Whether there are no more.
    is_last: bool = False


class FlaskSessionAdopter(Adopter):
    """Adopts sessions in the table of Flask-Session 0.5 to 0.8."""

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
        """As :meth:`.Adopter.open`: one SELECT more if the cookie is not a token."""
        own = self._records.find(secrets, cookie, now) if is_token(cookie) else None
        if own is not None:
            record, data = own
            return Opened(record, data, confirms=data.pop(ADOPTED_KEY, None))
        names = self._names(cookie, secrets)
        if not names:
            return None
        places: dict[bytes, Place] = {}
        for name in names:
            places |= _places(secrets, name)
        ids = [self._config.key_prefix + name for name in names]
        found, is_here = self._find(ids, now, places)
        if found is not None:
            opened, is_here = self._elsewhere(found, secrets, now, lifetime)
            if opened is not None:
                return opened
        return self._moved(places, secrets, now) if is_here else None

    def _names(self, cookie: str, secrets: Secrets) -> list[str]:
        """What the session of a cookie may be called in the table: its id; or, if the
        cookie has a token, the hash that the way back has stored it under. That hash is
        nobody's cookie, or who has a copy of the table could use it.
        """
        signed = self._config.use_signer
        name = flask_session_id(cookie, secrets, signed=signed)
        names = [] if name is None or _HASH.fullmatch(name) else [name]
        if is_token(cookie) and not signed:
            names += [row_id(secret, cookie).hex() for secret in secrets]
        return names

    def _moved(
        self, places: Mapping[bytes, Place], secrets: Secrets, now: int
    ) -> Opened | None:
        """A session that has moved here, for a browser that sends its old id: only if
        no request has had the new token yet, because the browser may never have got it.
        """
        for row in self._records.store.load_any(places, now):
            token, secret = places[row.id]
            is_current = secret == secrets[0]
            opened = self._records.opened(row, token, secret, is_current, now)
            if opened is not None and ADOPTED_KEY in opened[1]:
                return Opened(*opened, is_new=True)
        return None

    def _elsewhere(
        self, row: ForeignSession, secrets: Secrets, now: int, lifetime: int
    ) -> tuple[Opened | None, bool]:
        """A session from the other table, and whether it has moved here before: either
        just now, or a late server of the previous site has written it again.
        """
        try:
            target = self.convert(row, secrets, lifetime, now, now)
        except NotAdoptedError as error:
            self._tell(error.reason)
            return None, False
        if target.row.expires_at <= now:
            return None, False
        note = used_note(self._name(row))
        notes = self.notes.those_of({note} | ending_notes(target.row.user_id))
        if notes:
            return None, note in notes
        return self._opened(Taking(target, secrets, row, lifetime=lifetime)), False

    def _find(
        self, session_ids: Sequence[str], now: int, here: Iterable[bytes]
    ) -> tuple[ForeignSession | None, bool]:
        """As :meth:`.ForeignTable.find`. If the table is missing, the session may be
        here: perhaps all sessions have moved and the table was dropped.
        """
        if time.monotonic() < self._ask_again:
            return None, True
        try:
            return self.table.find(session_ids, now, here)
        except ForeignTableError:
            # The statement uses both tables. This one creates ours if it is missing.
            self._records.store.load_any(here, now)
        try:
            return self.table.find(session_ids, now, here)
        except ForeignTableError as error:
            self._ask_again = time.monotonic() + _PAUSE
            if self._not_there.is_time():
                logger.warning(
                    "No session can be adopted: %s Set SESSION_ADOPT_TABLE to its name,"
                    " or remove SESSION_ADOPT. %s",
                    error,
                    ONCE,
                )
            return None, True

    def _name(self, row: ForeignSession) -> str:
        return row.session_id.removeprefix(self._config.key_prefix)

    def convert(
        self,
        row: ForeignSession,
        secrets: Secrets,
        lifetime: int,
        now: int,
        used_at: int | None = None,
    ) -> SessionRecord:
        """Convert a row into a session to store here.

        :param lifetime: how far each write at the other site moved the end, in seconds.
        :param used_at: when the browser came; ``None`` if it has not come.
        :raises NotAdoptedError: it cannot be adopted.
        """
        name = self._name(row)
        written_at = min(now, row.expires_at - lifetime)
        try:
            data = load_row(row.data)
        except PickleError:
            raise NotAdoptedError("pickle") from None
        except UnreadableSessionError:
            raise NotAdoptedError("unreadable") from None
        end = row.expires_at
        return self._target(secrets, name, data, written_at, end, used_at)

    def _moving(self, row: StoredSession, name: str, lifetime: int) -> Moving:
        # A late server of the previous site may write it for one more lifetime.
        return Moving(row, used_note(name), row.expires_at + lifetime)

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
        """Adopt all live sessions in batches, and yield the result of each. To stop it
        between two batches, do not ask for the next one.

        :param batch: how many rows at once.
        :param pause: minimum seconds between two batches. A pause is also at least as
            long as the last batch took, so that others can use the database.
        :param max_seconds: begin no batch after that time, and no pause that would end
            after it.
        :param dry_run: move nothing.
        :raises SessionTableError: the table is missing, or is not Flask-Session's.
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
        """Adopt some sessions."""
        reasons: dict[int, Reason | None] = {}

        def convert(row: ForeignSession) -> Moving | None:
            # It may be called twice for a row, if an answer was lost.
            reasons[row.id] = None
            try:
                target = self._wanted(row, secrets, lifetime, now)
            except NotAdoptedError as error:
                reasons[row.id] = error.reason
                return None
            sealed = self._records.sealed(target.row, secrets)
            return self._moving(sealed, self._name(row), lifetime)

        if dry_run:
            new = [each for each in map(convert, rows) if each is not None]
            notes = self.notes.those_of(set[bytes]().union(*(e.ends for e in new)))
            ended = sum(not notes.isdisjoint(each.ends) for each in new)
            taken = len(new) - ended
        else:
            moved, ended = self._take(rows, convert, reasons)
            late = self.settle(moved)
            taken, ended = len(moved) - late, ended + late
        left = Counter(reason for reason in reasons.values() if reason is not None)
        return Adopted(len(rows), taken, ended, left)

    def _take(
        self,
        rows: Sequence[ForeignSession],
        convert: Convert,
        reasons: dict[int, Reason | None],
    ) -> tuple[list[StoredSession], int]:
        """As :meth:`.ForeignTable.take`, without rows that cannot be written."""
        try:
            return self.table.take(rows, convert)
        except TextNotStorableError:
            if len(rows) == 1:
                reasons[rows[0].id] = "value"
                return [], 0
        # One of several: try each to find out which.
        parts = [self._take([row], convert, reasons) for row in rows]
        return [row for moved, _ in parts for row in moved], sum(n for _, n in parts)

    def _wanted(
        self,
        row: ForeignSession,
        secrets: Secrets,
        lifetime: int,
        now: int,
    ) -> SessionRecord:
        """As :meth:`convert`, for a row that no cookie has asked for."""
        if not row.session_id.startswith(self._config.key_prefix):
            raise NotAdoptedError("prefix")
        target = self.convert(row, secrets, lifetime, now)
        if not is_session_id(self._name(row)):
            raise NotAdoptedError("prefix")  # it begins with this one and is longer
        if target.row.expires_at <= now:
            raise NotAdoptedError("age")
        return target

    def _tell(self, reason: Reason) -> None:
        if reason == "empty":
            return
        self._records.tell(SessionUnreadable(None, None))
        if self._not_read.is_time():
            logger.warning(
                "A session of Flask-Session was not adopted and stays in the table %r:"
                " %s. 'flask sessions adopt --dry-run' counts such sessions. %s",
                self._config.adopt_table,
                WHY[reason],
                ONCE,
            )

    def _move(self, taking: Taking, wait: bool) -> StoredSession | None:
        seen, target = taking.row, taking.target
        assert seen is not None  # noqa: S101 -- for the type checker

        def convert(row: ForeignSession) -> Moving | None:
            # If a server of the previous site has written it in the meantime, the row
            # gets another version, so that the request merges its change.
            now, lifetime = int(time.time()), taking.lifetime
            try:
                record = self.convert(row, taking.secrets, lifetime, now, now)
            except NotAdoptedError:
                return None
            version = 1 if row.data == seen.data else 2
            new = record.row._replace(version=version)
            if version == 1:
                new = target.row
            sealed = self._records.sealed(new, taking.secrets)
            return self._moving(sealed, self._name(row), lifetime)

        moved, _ = self.table.take([seen], convert, wait=wait)
        return next(iter(moved), None)

    def former(self, secrets: Secrets, cookie: str, lifetime: int) -> str | None:
        """As :meth:`.Adopter.former`."""
        name = flask_session_id(cookie, secrets, signed=self._config.use_signer)
        if is_marked(cookie) or (name is None and is_token(cookie)):
            return cookie
        return None if name is None else former_token(secrets[0], name, None)


def _places(secrets: Secrets, name: str) -> dict[bytes, Place]:
    """The keys that the session of an id may have here."""
    tokens = {secret: adopted_token(secret, name) for secret in secrets}
    # A session under an earlier secret moves to the current one when it is written.
    return {
        row_id(key, token): (token, key)
        for secret, token in tokens.items()
        for key in (secret, secrets[0])
    }
