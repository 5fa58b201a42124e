"""Adopting sessions in Flask's own signed cookies, when their browsers come."""

from __future__ import annotations

from ..formats.foreign import open_cookie
from ..formats.tokens import former_token, is_token, new_handle, new_token, row_id
from ..saving.planning import Secrets, SessionRecord
from ..storage.adoption import ending_notes, used_note
from ..storage.store import StoredSession
from .base import Adopter, NotAdoptedError, Opened, Taking

__all__ = ["CookieAdopter"]


class CookieAdopter(Adopter):
    """Adopts sessions in Flask's own signed cookies."""

    once = True

    def open(
        self, secrets: Secrets, cookie: str, now: int, lifetime: int
    ) -> Opened | None:
        """As :meth:`.Adopter.open`. A forged cookie costs no SQL."""
        if is_token(cookie):
            found = self._records.find(secrets, cookie, now)
            return None if found is None else Opened(*found)
        signed = open_cookie(cookie, secrets, lifetime)
        if signed is None:
            return None
        end = signed.signed_at + lifetime
        try:
            target = self._target(
                secrets, signed.name, signed.data, min(now, signed.signed_at), end, now
            )
        except NotAdoptedError:
            return None
        if target.row.user_id is None:
            # Two visitors can have the same cookie, letter by letter, such as one that
            # holds the language and was signed in the same second.
            before = former_token(secrets[0], signed.name, None)
            token = new_token(self._config.id_length, secrets[0], None, before)
            place, handle = row_id(secrets[0], token), new_handle(now)
            row = target.row._replace(id=place, handle=handle)
            target = SessionRecord(token, row, True)
        note = used_note(signed.name)
        ends = {note} | ending_notes(target.row.user_id)
        if target.row.expires_at <= now or self.notes.those_of(ends):
            return None
        return self._opened(Taking(target, secrets, note=note, until=end))

    def _move(self, taking: Taking, wait: bool) -> StoredSession | None:
        row = self._records.sealed(taking.target.row, taking.secrets)
        moved = self.notes.take(taking.note, row, taking.until, wait=wait)
        return row if moved else None

    def former(self, secrets: Secrets, cookie: str, lifetime: int) -> str | None:
        """As :meth:`.Adopter.former`."""
        if is_token(cookie):
            return cookie
        signed = open_cookie(cookie, secrets, lifetime)
        if signed is None:
            return None
        user_id = self._records.planner.stored_user_id(signed.data)
        return former_token(secrets[0], signed.name, user_id)
