"""An application that moves in from Flask-Session."""

from __future__ import annotations

from flask import Flask

from flask_sessionsql import Session

app = Flask(__name__)
app.config.update(
    SECRET_KEY="Zm9ydHktZWlnaHQgcmFuZG9tIGJ5dGVzIGFyZSBlbm91Z2g",
    SESSION_TYPE="sqlalchemy",
    SQLALCHEMY_DATABASE_URI="sqlite:///moving.db",
    SESSION_ADOPT="flask-session",
)
Session(app)
