"""Sessions of the site before, taken over when their browsers come: how nobody is
logged out by the move. What applications set for it is on the page
:doc:`/guides/moving`.

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

#: Why a session cannot be taken over.
Reason = Literal["pickle", "unreadable", "value", "empty", "age", "prefix"]


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
    #: The note to leave, and until when.
    note: bytes = b""
    until: int = 0
    #: ``PERMANENT_SESSION_LIFETIME`` then, in seconds.
    lifetime: int = 0


@dataclass(slots=True, repr=False)
class Opened:
    """What a cookie has opened."""

    record: SessionRecord
    data: dict[Any, Any]
    #: What is still elsewhere.
    taking: Taking | None = None
    #: Whether the browser has to be told of the token.
    is_new: bool = False
    #: The note of its session, where the browser has come with the new token for the
    #: first time.
    confirms: bytes | None = None


#: Why a session cannot be taken over, in words.
WHY: dict[Reason, str] = {
    "pickle": "it is a pickle, as up to Flask-Session 0.6, which is never executed",
    "unreadable": "it is neither MessagePack nor JSON",
    "value": "it holds a value that cannot be kept",
    "empty": "it holds nothing",
    "age": "it has had its absolute lifetime",
    "prefix": "its key begins with another prefix than SESSION_KEY_PREFIX",
}


#: Of a text, whose error has no words, since it has the text.
_TEXT = (
    "Its user's name has characters that the connection to the database cannot keep: on"
    " MariaDB, add '?charset=utf8mb4' to the address."
)
#: What is said of all that could be said for each request.
ONCE = "This is said once a minute, however many there are."


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
        self._not_moved = OnceAMinute()

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
        row = taking.target.row
        try:
            moved = self._move(taking, wait)
        except (ForeignTableError, TextNotStorableError) as error:
            if self._not_moved.is_time():
                why = str(error) or _TEXT
                logger.warning("A session could not be taken over: %s %s", why, ONCE)
            return False
        if moved is None:
            # Another request of this browser has, or it was ended.
            return self._records.store.load(row.id, 0) is not None
        return not self.settle([row], wait=wait)

    def settle(self, rows: Sequence[StoredSession], *, wait: bool = True) -> int:
        """Tell of sessions that were moved, and end those that somebody has ended
        meanwhile. How many those were.

        Whoever ends sessions makes a note first, and then looks for rows: to look for
        the notes once the rows are there leaves no gap between the two.
        """
        users = {row.user_id for row in rows}
        found = self.notes.those_of(set[bytes]().union(*map(ending_notes, users)))
        ended = 0
        for row in rows:
            if found.isdisjoint(ending_notes(row.user_id)):
                logger.info("Session %r was taken over.", row.handle)
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
        """The session as it is to stand here.

        :param name: what it is known by elsewhere.
        :param created_at: when it was written there last, which is the least that it is
            known to be old.
        :param used_at: when the browser has come; ``None`` if it has not.
        :raises NotAdoptedError: it cannot be kept, or has had its absolute lifetime.
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
            # A moment ago: the use that follows is later.
            last_used_at=created_at if used_at is None else used_at - 1,
            previous_id=line_ids(secrets[:1], token)[0],
        )
        return SessionRecord(token, row, True)

    def _opened(self, taking: Taking) -> Opened:
        record = taking.target
        return Opened(record, self._records.data(record.row), taking, is_new=True)
