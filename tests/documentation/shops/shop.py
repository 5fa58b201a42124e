"""The application of the page about commands."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask, request

from flask_sessionsql import Session, session

app = Flask(__name__)
app.config.update(
    SECRET_KEY="Zm9ydHktZWlnaHQgcmFuZG9tIGJ5dGVzIGFyZSBlbm91Z2g",
    SESSION_TYPE="flask-sqlalchemy",
    SQLALCHEMY_DATABASE_URI="sqlite:///shop.db",
    SQLALCHEMY_BINDS={"sessions": "sqlite:///sessions.db"},
    SESSION_SQLALCHEMY_BIND_KEY="sessions",
    SESSION_COOKIE_SECURE=True,
    SESSION_COOKIE_SAMESITE="Lax",
    SESSION_COOKIE_NAME="__Host-session",
    PERMANENT_SESSION_LIFETIME=timedelta(days=7),
    SESSION_ABSOLUTE_LIFETIME=timedelta(days=30),
)
Session(app)


@app.post("/")
def put() -> str:
    session.update(request.form)
    return "ok"
