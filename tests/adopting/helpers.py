"""Sites that move: as they were, and as they are now."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import sqlalchemy as sa
from click.testing import Result
from flask import Flask, session
from flask.testing import FlaskClient

from tests.helpers import store_of

DAY = 24 * 3600


def pages(app: Flask) -> Flask:
    """The pages that a site has, whatever keeps its sessions."""

    @app.get("/login/<name>")
    def login(name: str) -> str:
        session["_user_id"] = name
        session.setdefault("basket", [])
        return name

    @app.get("/me")
    def me() -> str:
        return str(session.get("_user_id", "nobody"))

    @app.get("/put/<thing>")
    def put(thing: str) -> str:
        session["basket"] = [*session.get("basket", []), thing]
        return " ".join(session["basket"])

    @app.get("/basket")
    def basket() -> str:
        return " ".join(session.get("basket", []))

    @app.get("/logout")
    def logout() -> str:
        session.clear()
        return "bye"

    @app.get("/nothing")
    def nothing() -> str:
        return "nothing"

    return app


Site = Callable[..., Flask]


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    return "" if cookie is None else cookie.value


def browser(app: Flask, cookie: str | None) -> FlaskClient:
    """A browser with a cookie of the site."""
    client = app.test_client()
    if cookie is not None:
        client.set_cookie("session", cookie)
    return client


def logged_in(app: Flask, *names: str) -> list[str]:
    """The cookies of browsers in which somebody is logged in."""
    clients = [app.test_client() for _ in names]
    for client, name in zip(clients, names, strict=True):
        client.get(f"/login/{name}")
        client.get("/put/tea")
    return [cookie_of(client) for client in clients]


def rows_of(app: Flask, table: str) -> int:
    """How many sessions there are in a table, without notes of what was moved."""
    where = " WHERE handle != ''" if table == "flask_sessionsql" else ""
    with store_of(app).engine.connect() as connection:
        found = connection.scalar(sa.text(f"SELECT COUNT(*) FROM {table}{where}"))
    return int(found or 0)


def notes_of(app: Flask) -> int:
    """How many notes there are of what was moved or ended."""
    notes = sa.text("SELECT COUNT(*) FROM flask_sessionsql WHERE handle = ''")
    with store_of(app).engine.connect() as connection:
        return int(connection.scalar(notes) or 0)


NAMES = [f"user{number}" for number in range(6)]


Moved = tuple[Flask, Flask, str]


def made(app: Flask) -> int:
    store_of(app).database.provide_table()
    return rows_of(app, "flask_sessionsql")


def stored(app: Flask) -> str:
    with store_of(app).engine.connect() as connection:
        data = connection.scalar(sa.text("SELECT data FROM sessions"))
    return bytes(data or b"").decode("latin-1")


PICKLED = pickle.dumps({"_user_id": "ann", "basket": []})


def variants(cookie: str) -> list[str]:
    """The ways to write a cookie that is as good as this one."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = digits.index(cookie[-1])
    return [cookie, *(cookie[:-1] + digits[last ^ bit] for bit in (1, 2, 3))]


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["sessions", *arguments])


def spoil(app: Flask, data: bytes) -> None:
    """Leave something else where sessions were, in Flask-Session's table."""
    change = sa.text("UPDATE sessions SET data = :data")
    typed = change.bindparams(sa.bindparam("data", type_=sa.LargeBinary))
    store_of(app).database.provide_table()
    with store_of(app).engine.connect() as connection:
        connection.execute(typed, {"data": data})
