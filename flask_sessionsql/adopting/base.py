"""Adopting sessions of the previous site when their browsers come, so that the move
logs nobody out. The page :doc:`/guides/moving` says what applications set.

If a request's cookie opens no session here, the request reads the session of the other
site, and :meth:`Adopter.take` moves it when the request saves it. From then on it is a
session like any other. Its token is derived from what the browser had
(:func:`~flask_sessionsql.formats.tokens.adopted_token`), so that simultaneous requests
get the same session.

An id of Flask-Session works until the browser has come back with the new token, because
the response with the new cookie may have been lost. A signed cookie works only once,
because others may have copied it.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from ..config import SessionConfig
from ..exceptions import SessionValueError
from ..formats.tokens import adopted_handle, adopted_token, line_ids, row_id
from ..saving.planning import Secrets, SessionRecord
from ..saving.records import SessionRecords
from ..sessions import ADOPTED_KEY, HIDDEN_KEYS, PERMANENT_KEY
from ..signals import SessionCreated, SessionEnded
from ..storage.adoption import (
    ForeignSession,
    ForeignTableError,
    Notes,
    ending_notes,
    used_note,
)
from ..storage.errors import TextNotStorableError
from ..storage.outages import OnceAMinute
from ..storage.store import StoredSession

__all__ = ["ONCE", "WHY", "Adopter", "NotAdoptedError", "Opened", "Reason", "Taking"]

logger: logging.Logger = logging.getLogger(__name__)

#: Why a session cannot be adopted.
Reason = Literal["pickle", "unreadable", "value", "empty", "age", "prefix"]


class NotAdoptedError(Exception):
    """A session cannot be adopted."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


@dataclass(slots=True, repr=False)
class Taking:
    """A session that a request has read at the other site, to be moved here."""

    #: The session to store here. The data are not encrypted.
    target: SessionRecord
    secrets: Secrets
    #: Its row in the table of Flask-Session.
    row: ForeignSession | None = None
    #: The note to leave, and how long it is kept.
    note: bytes = b""
    until: int = 0
    #: ``PERMANENT_SESSION_LIFETIME`` at that time, in seconds.
    lifetime: int = 0


@dataclass(slots=True, repr=False)
class Opened:
    """The session that a cookie has opened."""

    record: SessionRecord
    data: dict[Any, Any]
    #: Set if the session still has to be moved here.
    taking: Taking | None = None
    #: Whether the browser needs a cookie with the new token.
    is_new: bool = False
    #: The note of the session, if this is the first request with the new token.
    confirms: bytes | None = None


#: Why a session cannot be adopted, in words.
WHY: dict[Reason, str] = {
    "pickle": "it is a pickle, as up to Flask-Session 0.6, which is never executed",
    "unreadable": "it is neither MessagePack nor JSON",
    "value": "it holds a value that cannot be kept",
    "empty": "it holds nothing",
    "age": "it has had its absolute lifetime",
    "prefix": "its key begins with another prefix than SESSION_KEY_PREFIX",
}


#: The message for a text that cannot be stored: that error has no message, because it
#: would contain the text.
_TEXT = (
    "Its user's name has characters that the connection to the database cannot hold: on"
    " MariaDB, add '?charset=utf8mb4' to the address."
)
#: Appended to log lines that would otherwise appear for each request.
ONCE = "This is logged once a minute, however many there are."


class Adopter(ABC):
    """Opens sessions with the cookies of the previous site.

    :param config: the settings.
    :param records: the sessions of this package.
    """

    #: Whether the browser's old cookie opens a session only once.
    once: bool

    def __init__(self, config: SessionConfig, records: SessionRecords) -> None:
        self._config = config
        self._records = records
        self._not_moved = OnceAMinute()

    @cached_property
    def notes(self) -> Notes:
        """The notes about sessions of the other site."""
        return Notes(self._records.store.database)

    @abstractmethod
    def open(
        self, secrets: Secrets, cookie: str, now: int, lifetime: int
    ) -> Opened | None:
        """The session that a cookie opens, here or at the other site, or ``None``.

        :param lifetime: ``PERMANENT_SESSION_LIFETIME``, in seconds.
        """

    @abstractmethod
    def former(self, secrets: Secrets, cookie: str, lifetime: int) -> str | None:
        """A token that represents a cookie which opened no session; ``None`` if it can
        never have opened one.
        """

    @abstractmethod
    def _move(self, taking: Taking, wait: bool) -> StoredSession | None:
        """Move a session here; ``None`` if another request has, or if it is gone."""

    def take(self, taking: Taking, *, wait: bool = True) -> bool:
        """Move a session here, unless it is here already. Returns whether it is here.

        :param wait: whether to wait for a SQLite file that is locked.
        :raises SessionStoreBusyError: the file is locked and ``wait`` is off.
        """
        row = taking.target.row
        try:
            moved = self._move(taking, wait)
        except (ForeignTableError, TextNotStorableError) as error:
            if self._not_moved.is_time():
                why = str(error) or _TEXT
                logger.warning("A session could not be adopted: %s %s", why, ONCE)
            return False
        if moved is None:
            # Another request of this browser has moved it, or it was ended.
            return self._records.store.load(row.id, 0) is not None
        return not self.settle([row], wait=wait)

    def settle(self, rows: Sequence[StoredSession], *, wait: bool = True) -> int:
        """Signal the sessions that were moved, and end those that somebody has revoked
        in the meantime. Returns how many those were.

        Revoking leaves a note first and then searches for rows. This looks for notes
        after the rows are there, so nothing slips between the two.
        """
        users = {row.user_id for row in rows}
        found = self.notes.those_of(set[bytes]().union(*map(ending_notes, users)))
        ended = 0
        for row in rows:
            if found.isdisjoint(ending_notes(row.user_id)):
                logger.info("Session %r was adopted.", row.handle)
                self._records.tell(SessionCreated(row.handle, row.user_id))
                continue
            ended += 1
            if self._records.store.delete_moved(row.handle, row.user_id, wait=wait):
                self._records.tell(SessionEnded(row.handle, row.user_id, "revoked"))
        return ended

    def _target(
        self,
        secrets: Secrets,
        name: str,
        data: Mapping[Any, Any],
        created_at: int,
        expires_at: int,
        used_at: int | None = None,
    ) -> SessionRecord:
        """The session to store here.

        :param name: its name at the other site.
        :param created_at: when it was last written there: it is at least that old.
        :param used_at: when the browser came; ``None`` if it has not come.
        :raises NotAdoptedError: a session here cannot hold its data.
        """
        kept = {key: data[key] for key in data if key not in HIDDEN_KEYS}
        if not kept:
            raise NotAdoptedError("empty")
        permanent = data.get(PERMANENT_KEY, self._config.permanent)
        if permanent != self._config.permanent:
            kept[PERMANENT_KEY] = permanent
        if not self.once:
            kept[ADOPTED_KEY] = used_note(name)
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
            # One second earlier, so that the use that follows is later.
            last_used_at=created_at if used_at is None else used_at - 1,
            previous_id=line_ids(secrets[:1], token)[0],
        )
        return SessionRecord(token, row, True)

    def _opened(self, taking: Taking) -> Opened:
        record = taking.target
        return Opened(record, self._records.data(record.row), taking, is_new=True)
