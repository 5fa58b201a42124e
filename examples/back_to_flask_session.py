"""Go back to Flask-Session without logging anybody out.

``keep_tokens(app)``, after ``flask_session.Session(app)``, lets Flask-Session find
sessions by the tokens that the browsers have. ``fill(app, "sessions.jsonl")``, once,
writes the exported sessions into its table.

It needs Flask-Session 0.7 or 0.8, and the SECRET_KEY that the sessions were made with.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask

from flask_sessionsql.formats.documents import to_value
from flask_sessionsql.formats.tokens import adopted_token, row_id


def keep_tokens(app: Flask) -> None:
    """Store a session under the hash of its token, as it was exported. A browser that
    has not come since ``flask sessions adopt`` has its old id, from which the token
    follows.
    """
    interface: Any = app.session_interface
    if interface.use_signer:
        raise RuntimeError("Tokens have no signature. Remove SESSION_USE_SIGNER.")
    secret, model = app.config["SECRET_KEY"], interface.sql_session_model

    def store_id(sid: str) -> str:
        tokens = [sid, adopted_token(secret, sid)]
        ids = [interface.key_prefix + row_id(secret, token).hex() for token in tokens]
        if not re.fullmatch("[0-9a-f]{64}", sid):  # or the table's ids would be cookies
            ids.append(interface.key_prefix + sid)  # of one that has never moved
        found = model.query.filter(model.session_id.in_(ids)).first()
        return ids[0] if found is None else str(found.session_id)

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
