"""Go back to Flask-Session without logging anybody out.

``keep_tokens(app)``, after ``flask_session.Session(app)``, lets Flask-Session find
sessions by the tokens that the browsers have. ``fill(app, "sessions.jsonl")``, once,
writes the exported sessions into its table.

It needs Flask-Session 0.7 or 0.8, and the SECRET_KEY that the sessions were made with,
with its SECRET_KEY_FALLBACKS.
"""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from flask_sessionsql.formats.documents import to_value
from flask_sessionsql.formats.foreign import flask_session_id
from flask_sessionsql.formats.tokens import adopted_token, row_id


def keep_tokens(app: Flask) -> None:
    """Store a session under the hash of its token, as it was exported. A browser that
    has not come since ``flask sessions adopt`` has its old id, from which the token
    follows.
    """
    interface: Any = app.session_interface
    if interface.use_signer:
        raise RuntimeError("Tokens have no signature. Remove SESSION_USE_SIGNER.")
    secrets = [app.config["SECRET_KEY"], *(app.config["SECRET_KEY_FALLBACKS"] or ())]
    model, prefix = interface.sql_session_model, interface.key_prefix

    def store_id(sid: str) -> str:
        sid = sid.encode("ascii", "replace").decode()
        # An id from before may have been signed.
        old = flask_session_id(sid, secrets, signed=True) or sid
        ids = [
            prefix + row_id(secret, token).hex()
            for secret in secrets
            for first in secrets
            for token in (sid, adopted_token(first, old))
        ]
        if not re.fullmatch("[0-9a-f]{64}", old):  # or the table's ids would be cookies
            ids.append(prefix + old)  # of one that has never moved
        found = model.query.filter(model.session_id.in_(ids)).first()
        return ids[0] if found is None else str(found.session_id)

    interface._get_store_id = store_id


def fill(app: Flask, path: str) -> int:
    """Write the exported sessions into Flask-Session's table, those that are there
    already left alone. How many were written; the log names those that cannot be.
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
            try:
                payload = interface.serializer.encode(plain(data))
                with database.session.begin_nested():
                    database.session.add(model(session_id, payload, naive))
            except (SQLAlchemyError, TypeError, ValueError) as error:
                why, handle = type(error).__name__, document["handle"]
                app.logger.warning("Session %s is not written: %s.", handle, why)
                continue
            written += 1
        database.session.commit()
    return written


def plain(value: Any) -> Any:
    """The value as MessagePack has it: text without marks and lone surrogates, and
    integers of 64 bits; larger ones become text, in hexadecimal.
    """
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return hex(value)
    return value
