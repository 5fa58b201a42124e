"""Where you are logged in: a page on which users see their sessions, and end them.

It needs Flask-Login, and one user, whose password it asks for::

    $ pip install Flask-SessionSql Flask-Login
    $ flask --app examples/devices.py add-user ann
    $ flask --app examples/devices.py run

Settings come from the environment: ``FLASK_SQLALCHEMY_DATABASE_URI`` names another
database than a SQLite file, and ``FLASK_SECRET_KEY`` is needed as soon as there are
several processes, or a restart that logs nobody out.
"""

from __future__ import annotations

import hmac
import secrets

import click
import sqlalchemy as sa
from flask import Flask, flash, redirect, render_template, request, url_for
from flask_login import LoginManager, UserMixin, current_user, login_user, logout_user
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from werkzeug.security import check_password_hash, generate_password_hash
from werkzeug.wrappers import Response

from flask_sessionsql import Session, session

app = Flask(__name__, static_folder=None)
app.config.update(
    SECRET_KEY=secrets.token_hex(),
    SQLALCHEMY_DATABASE_URI="sqlite:///devices.db",  # in the instance folder
    SESSION_TYPE="flask-sqlalchemy",
    # Served by HTTPS, as it should be: SESSION_COOKIE_SECURE = True as well.
    SESSION_COOKIE_SAMESITE="Lax",
    # Users recognise a session by its browser and address. Both are personal data.
    SESSION_RECORD_CLIENT=True,
    # "Last used" is right to the minute.
    SESSION_REFRESH_INTERVAL=60,
)
app.config.from_prefixed_env()


# The users, by Flask-SQLAlchemy and Flask-Login as they are.


class Base(DeclarativeBase):
    """The base of the tables."""


db = SQLAlchemy(app, model_class=Base)
logins = LoginManager(app)
logins.login_view = "login"
logins.login_message = "You are not logged in here."
sessions = Session(app)


class User(UserMixin, db.Model):  # type: ignore[misc, name-defined]
    """Somebody who can log in."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(80), unique=True)
    password_hash: Mapped[str] = mapped_column(sa.String(255))


@app.cli.command("add-user")
@click.argument("name")
@click.password_option()
def add_user(name: str, password: str) -> None:
    """Create the tables, that of the sessions among them, and a user."""
    db.create_all()
    db.session.add(User(name=name, password_hash=generate_password_hash(password)))
    db.session.commit()


def load_user(id: str) -> User | None:
    """The user whose id is in the session."""
    return db.session.get(User, int(id))


logins.user_loader(load_user)

#: Nobody's password.
NO_HASH = generate_password_hash(secrets.token_hex())


def find_user(name: str, password: str) -> User | None:
    """The user of this name, if it is their password."""
    user = db.session.scalar(sa.select(User).where(User.name == name))
    # It takes as long if there is no such user: nobody finds out who has an account.
    right = check_password_hash(user.password_hash if user else NO_HASH, password)
    return user if right else None


# What holds for every page.


@app.template_global()
def form_token() -> str:
    """What only the forms on our own pages have: the session's own secret."""
    return str(session.setdefault("form_token", secrets.token_urlsafe()))


@app.before_request
def let_in() -> Response | None:
    """Only forms of our own do anything, and only the login is open to everybody."""
    if request.method == "POST":
        given, own = request.form.get("form_token", ""), session.get("form_token", "")
        if not own or not hmac.compare_digest(given.encode(), own.encode()):
            # Nothing is written to the session: the answer to another site's form
            # must not end it. Whose session has ended is asked to log in there.
            return to_devices()
    if request.endpoint != "login" and not current_user.is_authenticated:
        return logins.unauthorized()  # type: ignore[no-any-return]
    return None


@app.after_request
def protect(response: Response) -> Response:
    """No script runs, no other site shows the page in a frame and gets a click on it,
    and the Back button shows nothing after a logout.
    """
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:;"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    response.headers["Cache-Control"] = "no-store"
    return response


def to_devices() -> Response:
    """On to the list, whatever was sent here."""
    return redirect(url_for("devices"), 303)


# The pages.


@app.route("/login", methods=["GET", "POST"])
def login() -> Response | str:
    """Log in. The session moves to a new token by itself, because its user changes."""
    if request.method == "POST":
        user = find_user(request.form["name"], request.form["password"])
        if user is not None:
            # Whoever planted the session before knows its secret, too.
            del session["form_token"]
            login_user(user)
            return to_devices()
        flash("That name and password do not belong together.")
    return render_template("login.html")


@app.post("/logout")
def logout() -> Response:
    """Log out here. The session moves to a new token again."""
    logout_user()
    return to_devices()


@app.get("/")
def devices() -> str:
    """Where the user is logged in."""
    return render_template(
        "devices.html", devices=sessions.user_sessions(current_user.get_id())
    )


@app.post("/name")
def name_this() -> Response:
    """Give this session a name, for the list; an empty one removes it."""
    name = "".join(filter(str.isprintable, request.form["label"])).strip()
    session.label = name[:40]
    return to_devices()


@app.post("/end")
def end() -> Response:
    """End one session, if it is the user's own: the handle comes from a browser."""
    if sessions.revoke(request.form["handle"], user=current_user.get_id()):
        flash("That device is logged out.")
    else:
        flash("That device was logged out already.")
    return to_devices()


@app.post("/end-others")
def end_others() -> Response:
    """End all other sessions of the user."""
    flash(f"Logged out on other devices: {log_out_elsewhere()}.")
    return to_devices()


@app.post("/password")
def change_password() -> Response:
    """Change the password. Whoever got in with the old one is out."""
    new = request.form["new_password"]
    if not check_password_hash(current_user.password_hash, request.form["password"]):
        flash("That is not your password. Nothing has changed.")
    elif len(new) < 8:
        flash("A password has at least 8 characters. Nothing has changed.")
    else:
        current_user.password_hash = generate_password_hash(new)
        db.session.commit()
        log_out_elsewhere()
        flash("Your password is changed, and all other devices are logged out.")
    return to_devices()


def log_out_elsewhere() -> int:
    """End the user's other sessions, and give this one a new token, in case somebody
    shares it. How many others there were.
    """
    session.regenerate()
    return sessions.revoke_others()


@app.template_filter()
def device(user_agent: str | None) -> str:
    """What a browser calls itself, in words: a guess, since most imitate others."""
    given = user_agent or ""
    browsers = ("Firefox", "Edg", "OPR", "Chrome", "CriOS", "Safari")
    systems = ("Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux")
    browser = next((name for name in browsers if name in given), "a browser")
    system = next((name for name in systems if name in given), "an unknown system")
    names = {"Edg": "Edge", "OPR": "Opera", "CriOS": "Chrome", "Mac OS": "macOS"}
    return f"{names.get(browser, browser)} on {names.get(system, system)}"


# How they look. In an application of your own, these are files.

PAGE = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>{% block title %}{% endblock %}</title>
  <link rel="icon" href="data:,">
  <style>
    :root {
      color-scheme: light dark;
      --text: light-dark(#1c2430, #e4e8ee);
      --quiet: light-dark(#566170, #a3adba);
      --page: light-dark(#f3f5f8, #12161c);
      --card: light-dark(#fff, #1b2129);
      --line: light-dark(#d5dbe3, #343d49);
      --edge: light-dark(#7d8794, #76818f);
      --accent: light-dark(#1f57c3, #8db4ff);
      --on-accent: light-dark(#fff, #0d1a33);
      --note: light-dark(#e6eefc, #1d2b45);
    }
    * { box-sizing: border-box; }
    body {
      margin: 0; padding: clamp(1rem, 5vw, 3rem) 1rem;
      background: var(--page); color: var(--text);
      font: 1rem/1.5 system-ui, sans-serif;
    }
    main { max-width: 48rem; margin: auto; }
    main.narrow { max-width: 24rem; }
    h1 { margin: 0 0 1rem; font-size: 1.6rem; line-height: 1.2; }
    h2 { margin: 0 0 1rem; font-size: 1.15rem; }
    p { margin: 0 0 1rem; }
    section {
      margin-bottom: 1.5rem; padding: clamp(1rem, 4vw, 1.5rem);
      background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
    }
    [role=status] {
      padding: .75rem 1rem; background: var(--note);
      border-left: .25rem solid var(--accent); border-radius: .375rem;
    }
    table { width: 100%; margin-bottom: 1rem; border-collapse: collapse; }
    th, td { padding: .75rem .75rem .75rem 0; text-align: left; vertical-align: top; }
    th:last-child, td:last-child { padding-right: 0; text-align: right; }
    thead th { padding-top: 0; color: var(--quiet); font-size: .875rem; }
    tbody tr { border-top: 1px solid var(--line); }
    small { display: block; color: var(--quiet); font-weight: normal; }
    .address { overflow-wrap: anywhere; }
    .here { color: var(--accent); font-weight: 600; }
    time { font-variant-numeric: tabular-nums; }
    td button { white-space: nowrap; }
    label { display: block; margin-bottom: 1rem; font-weight: 600; }
    label input {
      display: block; width: 100%; margin-top: .25rem; padding: .5rem .75rem;
      color: inherit; background: var(--page); font: inherit;
      border: 1px solid var(--edge); border-radius: .375rem;
    }
    button {
      padding: .375rem .75rem; color: var(--accent); background: none; font: inherit;
      border: 1px solid currentColor; border-radius: .375rem; cursor: pointer;
    }
    button.main { color: var(--on-accent); background: var(--accent); }
    button:hover { text-decoration: underline; }
    :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
    [hidden] { display: none; }
    .hidden { position: absolute; clip-path: inset(50%); }
    @media (max-width: 30rem) {
      table, td button { font-size: .875rem; }
      td button { padding: .25rem .5rem; }
      th, td { padding-right: .625rem; }
    }
  </style>
</head>
<body>
<main class="{% block width %}{% endblock %}">
  {% block main %}{% endblock %}
</main>
</body>
</html>
"""

PARTS = """\
{% macro token() %}
  <input type="hidden" name="form_token" value="{{ form_token() }}">
{% endmacro %}

{% macro messages() %}
  {% for message in get_flashed_messages() %}
    <p role="status">{{ message }}</p>
  {% endfor %}
{% endmacro %}

{% macro time(when) %}
  <time datetime="{{ when.isoformat() }}">{{ when.strftime("%d %b %Y, %H:%M") }}</time>
{% endmacro %}
"""

LOGIN = """\
{% extends "page.html" %}
{% from "parts.html" import messages, token %}
{% block title %}Log in{% endblock %}
{% block width %}narrow{% endblock %}
{% block main %}
  <h1>Log in</h1>
  {{ messages() }}
  <section>
    <form method="post" action="{{ url_for('login') }}">
      {{ token() }}
      <label>Name
        <input name="name" autocomplete="username" autocapitalize="none" required>
      </label>
      <label>Password
        <input name="password" type="password" autocomplete="current-password"
          required>
      </label>
      <button class="main">Log in</button>
    </form>
  </section>
{% endblock %}
"""

DEVICES = """\
{% extends "page.html" %}
{% from "parts.html" import messages, time, token %}
{% block title %}Where you are logged in{% endblock %}
{% block main %}
  <h1>Where you are logged in</h1>
  {{ messages() }}
  <section>
    <table>
      <thead>
        <tr>
          <th scope="col">Device</th>
          <th scope="col">Signed in</th>
          <th scope="col">Last used</th>
          <th scope="col"><span class="hidden">Log out</span></th>
        </tr>
      </thead>
      <tbody>
      {% for one in devices | sort(attribute="current", reverse=true) %}
        {% set name = one.label or one.user_agent | device %}
        <tr>
          <th scope="row">{{ name }}
            {% if one.label %}<small>{{ one.user_agent | device }}</small>{% endif %}
            <small class="address">{{ one.address }}</small>
            {% if one.current %}<small class="here">This device</small>{% endif %}
          </th>
          <td>{{ time(one.created_at) }}</td>
          {% if one.current %}
          <td>Now</td>
          <td>
            <form method="post" action="{{ url_for('logout') }}">
              {{ token() }}
              <button aria-label="Log out here">Log out</button>
            </form>
          </td>
          {% else %}
          <td>{{ time(one.last_used_at) }}</td>
          <td>
            <form method="post" action="{{ url_for('end') }}">
              {{ token() }}
              <input type="hidden" name="handle" value="{{ one.handle }}">
              <button aria-label="Log out {{ name }}">Log out</button>
            </form>
          </td>
          {% endif %}
        </tr>
      {% endfor %}
      </tbody>
    </table>
    <p><small>Times are in UTC. A device that you do not know? Log it out, and change
      your password.</small></p>
    <form method="post" action="{{ url_for('end_others') }}">
      {{ token() }}
      <button>Log out everywhere else</button>
    </form>
  </section>
  <section>
    <h2>Name this device</h2>
    <form method="post" action="{{ url_for('name_this') }}">
      {{ token() }}
      <label>Name in the list
        <input name="label" value="{{ session.label or '' }}" maxlength="40"
          autocomplete="off">
      </label>
      <button>Name it</button>
    </form>
  </section>
  <section>
    <h2>Change your password</h2>
    <form method="post" action="{{ url_for('change_password') }}">
      {{ token() }}
      {# Password managers ask whose it is. #}
      <input hidden autocomplete="username" value="{{ current_user.name }}">
      <label>Current password
        <input name="password" type="password" autocomplete="current-password"
          required>
      </label>
      <label>New password, 8 characters or more
        <input name="new_password" type="password" autocomplete="new-password"
          minlength="8" required>
      </label>
      <button class="main">Change it, log out elsewhere</button>
    </form>
  </section>
{% endblock %}
"""

app.jinja_loader = DictLoader(
    {
        "page.html": PAGE,
        "parts.html": PARTS,
        "login.html": LOGIN,
        "devices.html": DEVICES,
    }
)
