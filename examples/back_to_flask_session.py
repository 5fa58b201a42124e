"""Go back to Flask-Session without logging anybody out.

1. Export: flask sessions export --output sessions.jsonl
2. Fill Flask-Session's table: fill(app, "sessions.jsonl"), once.
3. Let Flask-Session find the sessions by the tokens that the browsers have:
   keep_tokens(app), after flask_session.Session(app), for good.

It needs Flask-Session 0.7 or 0.8, and the SECRET_KEY that the sessions were made with.
"""

import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask

from flask_sessionsql.formats.documents import to_value


def keep_tokens(app: Flask) -> None:
    """Store a session under the hash of what its browser has, as it was exported."""
    interface: Any = app.session_interface
    secret = app.config["SECRET_KEY"]
    key = secret.encode() if isinstance(secret, str) else secret

    def store_id(sid: str) -> str:
        prefix: str = interface.key_prefix
        return prefix + hmac.digest(key, sid.encode(), "sha256").hex()

    interface._get_store_id = store_id


def fill(app: Flask, path: str) -> int:
    """Write the exported sessions into Flask-Session's table, those that are there
    already left alone. How many were written.
    """
    interface: Any = app.session_interface
    written = 0
    with app.app_context(), Path(path).open(encoding="ascii") as lines:
        database, model = interface.client, interface.sql_session_model
        for document in map(json.loads, lines):
            session_id = interface.key_prefix + document["id"]
            if model.query.filter_by(session_id=session_id).first():
                continue
            data = {"_permanent": document["permanent"], **to_value(document["data"])}
            expiry = datetime.fromisoformat(document["expires_at"])
            naive = expiry.astimezone(UTC).replace(tzinfo=None)
            row = model(session_id, interface.serializer.encode(data), naive)
            database.session.add(row)
            written += 1
        database.session.commit()
    return written
