"""Go back to Flask's own sessions, in signed cookies, without logging anybody out.

``app.session_interface = CookiesAgain("sessions.jsonl")`` stands in the place of
``Session(app)`` for as long as a session lives; then remove it, and the file.

It needs the SECRET_KEY that the sessions were made with. Until the file is gone, a
token opens what was exported, also after a logout: Flask's cookies end nowhere else
than in the browser.
"""

import hmac
import json
import time
from datetime import datetime
from pathlib import Path

from flask import Flask, Request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from flask_sessionsql.formats.documents import to_value


class CookiesAgain(SecureCookieSessionInterface):
    """Signed cookies, and the exported session of a browser that has none yet."""

    def __init__(self, path: str) -> None:
        with Path(path).open(encoding="ascii") as lines:
            self._exported = {each["id"]: each for each in map(json.loads, lines)}

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Flask's own; if that is empty, the one that was exported."""
        session = super().open_session(app, request)
        if session is None or session:
            return session
        secret = app.config["SECRET_KEY"]
        key = secret.encode() if isinstance(secret, str) else secret
        token = request.cookies.get(self.get_cookie_name(app), "")
        found = self._exported.get(hmac.digest(key, token.encode(), "sha256").hex())
        if (
            found
            and time.time() < datetime.fromisoformat(found["expires_at"]).timestamp()
        ):
            session.permanent = found["permanent"]
            session.update(to_value(found["data"]))
        return session
