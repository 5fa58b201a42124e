"""An application that has just begun: nothing is set, and there is no table."""

from __future__ import annotations

from flask import Flask

from flask_sessionsql import Session

app = Flask(__name__)
app.config.update(
    SECRET_KEY="Zm9ydHktZWlnaHQgcmFuZG9tIGJ5dGVzIGFyZSBlbm91Z2g",
    SESSION_TYPE="flask-sqlalchemy",
    SQLALCHEMY_DATABASE_URI="sqlite:///new.db",
)
Session(app)
