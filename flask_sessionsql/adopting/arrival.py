"""A request with a session of the previous site: what happens before it is saved."""

from __future__ import annotations

import logging
from contextlib import suppress

from ..exceptions import (
    SessionStoreBusyError,
    SessionStoreUnavailableError,
    SessionTableError,
)
from ..saving.planning import Clear, Empty, Keep, Plan, Touch
from ..saving.records import Outcome, SessionRecords
from ..sessions import ADOPTED_KEY
from .base import Adopter, Opened

__all__ = ["Arrival"]

logger: logging.Logger = logging.getLogger(__name__)


class Arrival:
    """A request whose cookie opens a session that was adopted, or is about to be."""

    def __init__(self, adopter: Adopter, records: SessionRecords, opened: Opened):
        self._adopter = adopter
        self._records = records
        self._taking = opened.taking
        #: Whether the browser needs a cookie with the new token.
        self.is_new: bool = opened.is_new
        #: The note of its session, if this is the first request with the new token.
        self.confirms: bytes | None = opened.confirms
        #: The note of its session, if the browser has sent its old cookie, and the end
        #: that the session had then, in seconds since 1970.
        self._waits: bytes | None = opened.data.get(ADOPTED_KEY)
        self._end = opened.record.row.expires_at
        self._only_confirms = False
        self._is_there = True

    def comes_back(self, *, changed: bool) -> bool:
        """Whether this is the first request with the new token, which the session has
        to record.

        :param changed: whether there is more to store.
        """
        self._only_confirms = self.confirms is not None and not changed
        return self.confirms is not None

    def says_nothing(self, plan: Plan, can_tell: bool) -> bool:
        """Whether there is nothing to store and no cookie to send.

        :param can_tell: whether a response carries the cookie. If not, a cookie that
            opens a session only once is left for a later page; ending the session
            needs no response.
        """
        if self._taking is None or can_tell or not self._adopter.once:
            return isinstance(plan, Keep) and not self.is_new
        if isinstance(plan, (Empty, Clear)):
            return False
        if not isinstance(plan, (Keep, Touch)):
            self._records.untold()
        return True

    def take(self, *, wait: bool = True) -> bool:
        """Adopt the session now, unless that has happened. Returns whether it is here.

        :raises SessionStoreBusyError: as for :meth:`.SessionRecords.execute`.
        """
        if self._taking is not None:
            self._is_there = self._adopter.take(self._taking, wait=wait)
            self._taking = None
        return self._is_there

    def execute(self, plan: Plan, *, wait: bool = True) -> Outcome:
        """Adopt the session, and carry out a plan on it.

        :raises SessionStoreBusyError: as for :meth:`.SessionRecords.execute`.
        """
        may_fail = self._only_confirms or isinstance(plan, (Keep, Touch))
        try:
            if not self.take(wait=wait) and isinstance(plan, Keep):
                return Outcome(None, {}, is_elsewhere=True)
            outcome = self._records.execute(plan, wait=wait)
        except SessionStoreBusyError:
            raise
        except (SessionStoreUnavailableError, SessionTableError) as error:
            # A server that has become read-only, for example. What the page has read is
            # right, and the browser will send the same cookie again.
            if not may_fail:
                raise
            logger.info("A session could not be adopted yet: %s", error)
            data = self._records.foresee(plan).data
            return Outcome(None, data, is_elsewhere=True)
        # This is only for counting, so a failure does not matter.
        with suppress(SessionStoreUnavailableError, SessionTableError):
            self._note(outcome)
        return outcome

    def _note(self, outcome: Outcome) -> None:
        """Note whether the browser has the new token, or how long it may come without
        it: as long as its session lives.
        """
        if self.confirms is not None:
            self._adopter.notes.confirm(self.confirms)
        elif self._waits is not None and outcome.record is not None:
            end = outcome.record.row.expires_at
            if end > self._end:
                self._adopter.notes.wait(self._waits, end)
