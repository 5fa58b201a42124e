"""A small application, for the tests beside it."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_sessionsql import Session, session


class Base(DeclarativeBase):
    """The base of the tables."""


db = SQLAlchemy(model_class=Base)
sessions = Session()


class Order(db.Model):  # type: ignore[misc, name-defined]
    """What somebody has ordered."""

    id: Mapped[int] = mapped_column(primary_key=True)
    user: Mapped[str]
    goods: Mapped[str]


def create_app(**config: Any) -> Flask:
    """Make the application.

    :param config: settings in place of its own.
    """
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secrets.token_hex(),
        SQLALCHEMY_DATABASE_URI="sqlite:///shop.db",
        SESSION_TYPE="flask-sqlalchemy",
    )
    app.config.update(config)
    db.init_app(app)
    sessions.init_app(app)

    @app.get("/orders")
    def orders() -> Any:
        if "_user_id" not in session:
            return "Log in, please.", 401
        mine = sa.select(Order.goods).filter_by(user=session["_user_id"])
        return list(db.session.scalars(mine))

    @app.post("/orders")
    def order() -> str:
        db.session.add(Order(user=session["_user_id"], goods=request.form["goods"]))
        db.session.commit()
        session["ordered"] = session.get("ordered", 0) + 1
        return "Thank you."

    return app
