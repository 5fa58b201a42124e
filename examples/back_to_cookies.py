"""Go back to Flask's own sessions, in signed cookies, without logging anybody out.

``app.session_interface = CookiesAgain("sessions.jsonl")`` stands in the place of
``Session(app)`` for as long as a session lives; then remove it, and the file.

It needs the SECRET_KEY that the sessions were made with, with its SECRET_KEY_FALLBACKS.
Until the file is gone, a token opens what was exported, also after a logout: Flask's
cookies end nowhere else than in the browser.
"""

import json
import logging
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from flask import Flask, Request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from flask_sessionsql.formats.documents import to_value
from flask_sessionsql.formats.tokens import row_id


class CookiesAgain(SecureCookieSessionInterface):
    """Signed cookies, and the exported session of a browser that has none yet."""

    def __init__(self, path: str) -> None:
        with Path(path).open(encoding="ascii") as lines:
            exported = {each["id"]: each for each in map(json.loads, lines)}
        for document in exported.values():
            document["data"] = self._kept(document)
        self._exported = exported

    def _kept(self, document: dict[str, Any]) -> dict[str, Any]:
        """The data that Flask can write into a cookie; the log names the others."""
        kept: dict[str, Any] = {}
        for key, value in to_value(document["data"]).items():
            try:
                self.serializer.dumps({key: value})
            except (TypeError, ValueError):
                logging.warning(
                    "A value of session %s is left: a cookie holds no %s.",
                    *(document["handle"], type(value).__name__),
                )
            else:
                kept[key] = value
        return kept

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Flask's own; if that is empty, the one that was exported."""
        session = super().open_session(app, request)
        if session is None or session:
            return session
        cookie = request.cookies.get(self.get_cookie_name(app), "")
        token = cookie.encode("ascii", "replace").decode()
        for secret in (
            app.config["SECRET_KEY"],
            *(app.config["SECRET_KEY_FALLBACKS"] or ()),
        ):
            found = self._exported.get(row_id(secret, token).hex())
            if found is None:
                continue
            expires_at = datetime.fromisoformat(found["expires_at"])
            if time.time() < expires_at.timestamp():
                session.permanent = found["permanent"]
                session.update(found["data"])
        return session
