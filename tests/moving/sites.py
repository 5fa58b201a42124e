"""The site that moves, as it was and as it is, each for processes of its own.

``python -m tests.moving.sites KIND ADDRESS NUMBER`` logs so many browsers in on the old
site, each with a basket, and prints their cookies as JSON. Every tenth logs out again,
after its cookie was noted.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from typing import Any

from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy


def pages(app: Flask) -> Flask:
    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["_user_id"] = name
        session["basket"] = [name]
        return name

    @app.get("/me")
    def me() -> str:
        return f"{session.get('_user_id', '-')} {' '.join(session.get('basket', []))}"

    @app.get("/put/<thing>")
    def put(thing: str) -> str:
        if "basket" in session:
            session["basket"] = [*session["basket"], thing]
        return str(session.get("_user_id", "-"))

    @app.get("/logout")
    def logout() -> str:
        session.clear()
        return "bye"

    return app


def old_site(kind: str, address: str) -> Flask:
    """The site with Flask-Session, or with Flask's own cookies."""
    app = Flask("shop")
    app.config["SECRET_KEY"] = "a key"
    if kind == "flask-session":
        import flask_session

        db = SQLAlchemy()
        app.config.update(
            SESSION_TYPE="sqlalchemy",
            SESSION_SQLALCHEMY=db,
            SQLALCHEMY_DATABASE_URI=address,
        )
        db.init_app(app)
        flask_session.Session(app)
        with app.app_context():
            db.create_all()
    return pages(app)


def new_site() -> Flask:
    """The site as it is now, as the environment says."""
    from flask_sessionsql import Session

    app = Flask("shop")
    app.config.update(
        SECRET_KEY="a key",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI=os.environ["SHOP_DATABASE"],
        SESSION_ADOPT=os.environ["SHOP_ADOPT"],
    )
    Session(app)
    return pages(app)


def main(kind: str, address: str, number: str) -> None:
    warnings.simplefilter("ignore")
    app, cookies = old_site(kind, address), []
    for place in range(int(number)):
        client: Any = app.test_client()
        client.get(f"/login/user{place}")
        cookies.append(client.get_cookie("session").value)
        if place % 10 == 9 and kind == "flask-session":
            client.get("/logout")
    json.dump(cookies, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
