"""A request that comes with a session of the site before: what saving it does first."""

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
from .base import Adopter, Opened

__all__ = ["Arrival"]

logger: logging.Logger = logging.getLogger(__name__)


class Arrival:
    """A request whose cookie has opened a session that was taken over, or is to be."""

    def __init__(self, adopter: Adopter, records: SessionRecords, opened: Opened):
        self._adopter = adopter
        self._records = records
        self._taking = opened.taking
        #: Whether the browser has to be told of the token.
        self.is_new: bool = opened.is_new
        #: The note of its session, if it has come with the token for the first time.
        self.confirms: bytes | None = opened.confirms
        self._only_confirms = False
        self._is_there = True

    def comes_back(self, *, changed: bool) -> bool:
        """Whether the browser has come with the token for the first time, which is to
        be noted in the session.

        :param changed: whether there is more to be stored.
        """
        self._only_confirms = self.confirms is not None and not changed
        return self.confirms is not None

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

    def take(self, *, wait: bool = True) -> bool:
        """Take the session over now, if it is not here yet. Whether it is here.

        :raises SessionStoreBusyError: as for :meth:`.SessionRecords.execute`.
        """
        if self._taking is not None:
            self._is_there = self._adopter.take(self._taking, wait=wait)
            self._taking = None
        return self._is_there

    def execute(self, plan: Plan, *, wait: bool = True) -> Outcome:
        """Take the session over, and carry out a plan on it.

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
            # As of a server that has become read-only. What the page has read is right,
            # and the browser comes with the same cookie again.
            if not may_fail:
                raise
            logger.info("A session could not be taken over yet: %s", error)
            data = self._records.foresee(plan).data
            return Outcome(None, data, is_elsewhere=True)
        if self.confirms is not None:
            # Only counted: what is stored is stored.
            with suppress(SessionStoreUnavailableError, SessionTableError):
                self._adopter.notes.confirm(self.confirms)
        return outcome
