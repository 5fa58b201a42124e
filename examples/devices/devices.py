"""A login, and a page where users see where they are logged in, and end it."""

import click
import sqlalchemy as sa
from flask import Flask, flash, redirect, render_template, request, url_for
from flask_login import (
    LoginManager,
    UserMixin,
    current_user,
    login_required,
    login_user,
    logout_user,
)
from flask_sqlalchemy import SQLAlchemy
from flask_wtf.csrf import CSRFError, CSRFProtect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.wrappers import Response

from flask_sessionsql import Session, session

app = Flask(__name__, static_folder=None)
app.config.update(
    SECRET_KEY="not so secret",
    SESSION_TYPE="flask-sqlalchemy",
    SESSION_COOKIE_SAMESITE="Lax",
    SESSION_RECORD_CLIENT=True,  # users know a device by its browser and address
    SESSION_REFRESH_INTERVAL=60,  # "last used" is right to the minute
    SQLALCHEMY_DATABASE_URI="sqlite:///devices.db",  # in the folder "instance"
    WTF_CSRF_TIME_LIMIT=None,  # a form is valid for as long as its session
)
app.config.from_prefixed_env()  # FLASK_SECRET_KEY=... and so on


# The users: Flask-SQLAlchemy and Flask-Login, as without Flask-SessionSql.


class Base(DeclarativeBase):
    """The base of the tables."""


db = SQLAlchemy(app, model_class=Base)
sessions = Session(app)
CSRFProtect(app)  # every form needs a token
logins = LoginManager(app)
logins.login_view = "login"
logins.login_message = "You are not logged in here."


class User(UserMixin, db.Model):
    """Somebody who can log in."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    password_hash: Mapped[str] = mapped_column(sa.String(255))


@logins.user_loader
def load_user(id: str) -> User | None:
    """The user whose id is in the session."""
    return db.session.get(User, int(id))


@app.cli.command("add-user")
@click.argument("name")
@click.password_option()
def add_user(name: str, password: str) -> None:
    """Create the tables and a user."""
    db.create_all()
    db.session.add(User(name=name, password_hash=generate_password_hash(password)))
    db.session.commit()
    click.echo(f"Added {name}.")


# Login and logout. The session gets a new token by itself, because its user changes.


#: Nobody's. It takes as long to check a password for a name that nobody has.
NO_HASH = generate_password_hash("")


@app.route("/login", methods=["GET", "POST"])
def login() -> Response | str:
    """Ask for name and password."""
    if request.method == "POST":
        user = db.session.scalar(sa.select(User).filter_by(name=request.form["name"]))
        expected = user.password_hash if user else NO_HASH
        if check_password_hash(expected, request.form["password"]) and user:
            login_user(user)
            session.regenerate()  # a new token, even if the same user logs in again
            return to_devices()
        flash("That name and password do not belong together.")
    return render_template("login.html")


@app.post("/logout")
@login_required
def logout() -> Response:
    """Log out here."""
    logout_user()
    return to_devices()


# The devices.


@app.get("/")
@login_required
def devices() -> str:
    """Where the user is logged in."""
    found = sessions.user_sessions(current_user.get_id())
    return render_template("devices.html", devices=found)


@app.post("/name")
@login_required
def name_this() -> Response:
    """Give this device a name; an empty one removes it."""
    session.label = "".join(filter(str.isprintable, request.form["label"]))[:40]
    return to_devices()


@app.post("/end")
@login_required
def end() -> Response:
    """End one session, if it is the user's: the handle comes from a browser."""
    ended = sessions.revoke(request.form["handle"], user=current_user.get_id())
    flash(f"That device {'is' if ended else 'was already'} logged out.")
    return to_devices()


@app.post("/end-others")
@login_required
def end_others() -> Response:
    """End all sessions of the user but this one."""
    flash(f"Logged out on other devices: {log_out_elsewhere()}.")
    return to_devices()


@app.post("/password")
@login_required
def change_password() -> Response:
    """Change the password. Anyone who got in with the old one is out."""
    new = request.form["new_password"]
    if not check_password_hash(current_user.password_hash, request.form["password"]):
        flash("That is not your password. Nothing has changed.")
    elif len(new) < 8:
        flash("A password has at least 8 characters. Nothing has changed.")
    else:
        current_user.password_hash = generate_password_hash(new)
        db.session.commit()  # before sessions are ended: SQLite has one writer
        log_out_elsewhere()
        flash("Your password is changed, and all other devices are logged out.")
    return to_devices()


def log_out_elsewhere() -> int:
    """End the other sessions, and give this one a new token, in case somebody has a
    copy of its cookie. How many others there were.
    """
    session.regenerate()
    return sessions.revoke_others()


# What holds for every page.


def to_devices() -> Response:
    """On to the list."""
    return redirect(url_for("devices"), 303)


@app.errorhandler(CSRFError)
def not_our_form(error: CSRFError) -> Response:
    """The form is another site's, or its session has ended. Do nothing."""
    return to_devices()


@app.after_request
def protect(response: Response) -> Response:
    """No other site shows the page in a frame, and the Back button shows nothing after
    a logout.
    """
    response.headers["Content-Security-Policy"] = "frame-ancestors 'none'"
    response.headers["Cache-Control"] = "no-store"
    return response


#: What they call themselves, the one that others imitate last.
BROWSERS = {"Firefox": "Firefox", "Edg": "Edge", "OPR": "Opera"}
BROWSERS |= {"CriOS": "Chrome", "Chrome": "Chrome", "Safari": "Safari"}
SYSTEMS = ["Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux"]


@app.template_filter()
def device(user_agent: str | None) -> str:
    """What a browser calls itself, in words: a guess, since most imitate others."""
    given = user_agent or ""
    browser = next((name for name in BROWSERS if name in given), "A browser")
    system = next((name for name in SYSTEMS if name in given), "a device")
    return f"{BROWSERS.get(browser, browser)} on {system}"
