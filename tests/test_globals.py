from __future__ import annotations

import flask

import flask_sessionsql


def test_it_is_flask_s_session() -> None:
    """The same object, under another type."""
    assert flask.session is flask_sessionsql.session
