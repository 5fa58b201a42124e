"""Flask's session, by its type.

Typed access
------------

:data:`flask.session` is typed as Flask's own. This is the same object, so that type
checkers and editors know what a session of ours has besides:

.. testcode:: globals

    from flask import Flask
    from flask_sessionsql import Session, session

    app = Flask("shop")
    app.config.update(
        SECRET_KEY="not so secret",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI="sqlite://",
    )
    Session(app)

    @app.get("/")
    def hello():
        known = not session.new
        session["visits"] = session.get("visits", 0) + 1
        return f"known: {known}, ends: {session.expires_at is not None}"

    browser = app.test_client()
    print(browser.get("/").text)
    print(browser.get("/").text)

.. testoutput:: globals

    known: False, ends: False
    known: True, ends: True

What it never has is the token. For a session's name, in a log or on a page, there is
:attr:`~flask_sessionsql.ServerSideSession.handle`, which the row has as well.
"""

from __future__ import annotations

from typing import cast

from flask import session as _session

from .sessions import ServerSideSession

__all__ = ["session"]

#: :data:`flask.session`, typed as :class:`ServerSideSession`.
session: ServerSideSession = cast(ServerSideSession, _session)
