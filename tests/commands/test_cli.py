from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result
from flask import Flask
from flask.cli import ScriptInfo
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import (
    Session,
    SessionEnded,
    session,
    session_ended,
)
from flask_sessionsql.commands import base, cli
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer
from flask_sessionsql.formats.tokens import row_id
from flask_sessionsql.sessions import EXPIRY_KEY, LIFETIME_KEY, PERMANENT_KEY
from flask_sessionsql.storage.administration import SessionAdministration
from flask_sessionsql.storage.purging import BATCH, PAUSE
from flask_sessionsql.storage.store import StoredSession
from tests.commands.helpers import with_progress
from tests.conftest import MakeApp
from tests.helpers import locked_file, store_of, told_by, wait_until
from tests.integration.helpers import add_views, token, visit
from tests.pages import page
from tests.storage.test_turns import writer

NOW = int(time.time())
COMMANDS = (
    *("adopt", "check", "create-table", "export", "list", "purge", "revoke", "show"),
    "stats",
)

#: With these there is nothing that a check could complain about.
SAFE: dict[str, Any] = {
    "SECRET_KEY": "Zm9ydHktZWlnaHQgcmFuZG9tIGJ5dGVzIGFyZSBlbm91Z2g",
    "SESSION_COOKIE_SECURE": True,
    "SESSION_COOKIE_SAMESITE": "Lax",
    "SESSION_COOKIE_NAME": "__Host-session",
    "SESSION_ABSOLUTE_LIFETIME": timedelta(days=1),
    "PERMANENT_SESSION_LIFETIME": timedelta(hours=1),
    "SESSION_PURGE_INTERVAL": 600,
}


@pytest.fixture
def kept_table() -> str:
    return SessionConfig.table


def run(app: Flask, *arguments: str, input: str | None = None) -> Result:
    """``flask sessions`` with these arguments."""
    return app.test_cli_runner().invoke(args=["sessions", *arguments], input=input)


def document(app: Flask, *arguments: str) -> Any:
    """What a command prints with ``--json``."""
    result = run(app, *arguments, "--json")
    assert "" == result.stderr
    return json.loads(result.stdout)


def put(app: Flask, number: int, data: dict[Any, Any] | None = None, **row: Any) -> str:
    """Store a session; gives its handle."""
    stored = StoredSession(
        id=number.to_bytes(32, "big"),
        handle=f"{number:016x}",
        user_id=None,
        data=MsgpackSerializer().dumps({"key": "value"} if data is None else data),
        version=1,
        created_at=NOW - 10,
        expires_at=NOW + 1000 - number,
        last_used_at=NOW - number,
    )._replace(**row)
    store_of(app).insert(stored)
    return stored.handle


def put_expired(app: Flask, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        put(app, number, expires_at=NOW - 1, user_id="ann")


def handles(app: Flask) -> set[str]:
    store = store_of(app)
    with store.engine.connect() as connection:
        return set(connection.scalars(sa.select(store.table.c.handle)))


def set_data(app: Flask, data: bytes) -> None:
    store = store_of(app)
    with store.engine.connect() as connection:
        connection.execute(sa.update(store.table).values(data=data))


def utc(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%SZ}"


# list


def test_list(app: Flask) -> None:
    """``list`` shows the live sessions, the one that ends last first, with times in
    UTC, and no columns that nothing is in.
    """
    put(app, 1, user_id="ann")
    put(app, 2)
    put_expired(app, 1, first=3)

    result = run(app, "list")

    assert (0, "") == (result.exit_code, result.stderr)
    used = [utc(NOW - number) for number in (1, 2)]
    ends = [utc(NOW + 1000 - number) for number in (1, 2)]
    assert result.stdout.splitlines() == [
        "Handle            User  Created               Last used           "
        "  Expires               Size",
        f"0000000000000001  ann   {utc(NOW - 10)}  {used[0]}  {ends[0]}  14 B",
        f"0000000000000002  -     {utc(NOW - 10)}  {used[1]}  {ends[1]}  14 B",
    ]


def name_it() -> str:
    session.label = "Work laptop"
    return "ok"


def test_list_of_real_sessions(make_app: MakeApp, database_uri: str) -> None:
    """``list`` shows address and browser of sessions that requests have made, where
    they are recorded, and labels where they are set.
    """
    app = add_views(make_app(database_uri, SESSION_RECORD_CLIENT=True))
    client = app.test_client()
    client.get("/set/_user_id/ann", headers={"User-Agent": "Brave one"})

    header, line = run(app, "list").stdout.splitlines()

    assert header.endswith("  Size  Address    Browser")
    assert line.endswith(" B  127.0.0.1  Brave one")

    visit(client, name_it)
    put(app, 1)

    header, *lines = run(app, "list").stdout.splitlines()

    assert header.split()[-3:] == ["Address", "Browser", "Label"]
    assert sorted(line[-11:] for line in lines) == [" " * 10 + "-", "Work laptop"]


def test_list_as_json(make_app: MakeApp) -> None:
    """``list --json`` is one document, with times in ISO 8601 and sizes in bytes."""
    app = make_app("sqlite://")
    client: Any = {"address": "::1", "user_agent": "é" * 100, "label": "ö" * 100}
    put(app, 1, user_id="ann", last_used_at=None, **client)

    found = document(app, "list")

    assert found == {
        "sessions": [
            {
                "handle": "0000000000000001",
                "user_id": "ann",
                "created_at": utc(NOW - 10).replace(" ", "T"),
                "last_used_at": utc(NOW - 10).replace(" ", "T"),
                "expires_at": utc(NOW + 999).replace(" ", "T"),
                "address": "::1",
                "user_agent": "é" * 100,
                "label": "ö" * 100,
                "size": 14,
            }
        ],
        "more": False,
    }


def test_list_of_a_user(app: Flask) -> None:
    """``list --user`` shows the sessions of that user, the one used last first."""
    put(app, 1, user_id="ann", last_used_at=NOW - 5)
    put(app, 2, user_id="bob")
    put(app, 3, user_id="ann", last_used_at=NOW - 4)

    found = document(app, "list", "--user", "ann")["sessions"]

    assert ["0000000000000003", "0000000000000001"] == [row["handle"] for row in found]


@pytest.mark.parametrize("whose", [(), ("--user", "ann")], ids=["all", "user"])
def test_limit(make_app: MakeApp, whose: tuple[str, ...]) -> None:
    """``list --limit`` shows no more, and standard error says if there are more."""
    app = make_app("sqlite://")
    for number in (1, 2, 3):
        put(app, number, user_id="ann")

    two, three = (run(app, "list", *whose, "--limit", n) for n in ("2", "3"))

    assert ["Handle", "0000000000000001", "0000000000000002"] == [
        line.split()[0] for line in two.stdout.splitlines()
    ]
    assert two.stderr == "There are more than these 2: see --limit.\n"
    assert (4, "") == (len(three.stdout.splitlines()), three.stderr)
    as_json = run(app, "list", *whose, "--limit", "2", "--json")
    assert json.loads(as_json.stdout)["more"] is True
    assert as_json.stderr == two.stderr


@pytest.fixture
def on_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[list[str], str]]:
    """Gives what a command prints on a terminal so wide, and on standard error."""

    def shown(app: Flask, columns: int, *arguments: str) -> tuple[list[str], str]:
        ours, theirs = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
        with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patched:
            patched.delenv("COLUMNS", raising=False)
            patched.setattr(sys, "stdout", terminal)
            patched.setattr(sys, "__stdout__", terminal)
            app.cli.main(
                ["sessions", *arguments],
                obj=ScriptInfo(create_app=lambda: app),
                standalone_mode=False,
            )
        printed = b""
        with suppress(OSError):  # as Linux says that nobody writes to it any more
            while part := os.read(ours, 10_000):
                printed += part
        os.close(ours)
        return printed.decode().splitlines(), capsys.readouterr().err

    return shown


BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.mark.parametrize(
    ("columns", "header", "left_out"),
    [
        (
            120,
            "Handle User Created Last used Expires Size Address Browser",
            "the years and seconds of times",
        ),
        (
            80,
            "Handle User Last used Expires Size Address",
            "Browser, Created, the years and seconds of times",
        ),
        (
            40,
            "Handle User Last used",
            "Browser, Created, Size, Address, Expires, the years and seconds of times",
        ),
        (20, "Handle", "Browser, Created, Size, Address, Expires, Last used, User"),
    ],
)
def test_list_on_a_terminal(
    make_app: MakeApp,
    on_terminal: Callable[..., tuple[list[str], str]],
    columns: int,
    header: str,
    left_out: str,
) -> None:
    """Lines are no longer than it is wide; standard error says what is left out, and
    the handle is whole. Long users and browsers are cut.
    """
    app = make_app("sqlite://")
    user = "anna.maria.mayer@example.org"
    handle = put(app, 1, user_id=user, address="192.168.100.200", user_agent=BROWSER)
    put(app, 2, data={"key": "value" * 300})

    lines, told = on_terminal(app, columns, "list")

    assert header.split() == lines[0].split()
    assert 3 == len(lines)
    assert columns >= max(map(len, lines))
    assert handle == lines[1].split()[0]
    assert ("User" in header) == ("..." in lines[1])
    assert told == f"Left out for want of room: {left_out}. --json has all.\n"


@pytest.mark.parametrize(
    "client", [{}, {"address": "::1", "user_agent": "Brave one", "label": "Work"}]
)
def test_list_on_a_wide_terminal(
    make_app: MakeApp,
    on_terminal: Callable[..., tuple[list[str], str]],
    client: dict[str, Any],
) -> None:
    """All is there, as where it is no terminal, with nothing to say of it."""
    app = make_app("sqlite://")
    put(app, 1, user_id="ann", **client)

    lines, told = on_terminal(app, 200, "list")

    assert (run(app, "list").stdout.splitlines(), "") == (lines, told)


@pytest.mark.parametrize(
    ("columns", "header"),
    [
        (120, "Handle User Created Last used Expires Size Label"),
        (80, "Handle User Last used Expires Size Label"),
        (66, "Handle User Last used Expires Label"),
        (60, "Handle User Last used Label"),
    ],
)
def test_list_of_labels_on_a_narrow_terminal(
    make_app: MakeApp,
    on_terminal: Callable[..., tuple[list[str], str]],
    columns: int,
    header: str,
) -> None:
    """A label stays as long as there is room for its beginning."""
    app = make_app("sqlite://")
    put(app, 1, user_id="ann", label="A laptop with a name that is far too long")

    lines, _ = on_terminal(app, columns, "list")

    assert header.split() == lines[0].split()
    assert "  A laptop " in lines[1]
    assert "..." in lines[1]


def test_list_leaves_out_only_what_there_is(
    make_app: MakeApp, on_terminal: Callable[..., tuple[list[str], str]]
) -> None:
    """Where no browser is recorded, none is said to be missing."""
    app = make_app("sqlite://")
    put(app, 1, user_id="ann")
    _, told = on_terminal(app, 40, "list")
    assert "Created" in told
    assert "Browser" not in told


@pytest.mark.parametrize("columns", range(1, 200, 9))
def test_list_on_any_terminal(
    make_app: MakeApp,
    on_terminal: Callable[..., tuple[list[str], str]],
    columns: int,
) -> None:
    """It is never wider, but for the handle."""
    app = make_app("sqlite://")
    put(
        app,
        1,
        user_id="x" * 100,
        address="2001:db8::" + "1" * 30,
        user_agent="y" * 99,
        label="z" * 99,
    )
    put(app, 2, user_id="z")

    lines, _ = on_terminal(app, columns, "list")

    assert max(columns, 16) >= max(map(len, lines))
    assert ["0" * 15 + "1", "0" * 15 + "2"] == [line.split()[0] for line in lines[1:]]


def test_list_of_nothing(make_app: MakeApp) -> None:
    """Where there are no sessions, standard output is empty, and JSON is JSON."""
    app = make_app("sqlite://")

    result = run(app, "list")

    assert (0, "") == (result.exit_code, result.stdout)
    assert result.stderr == "There are no live sessions.\n"
    assert document(app, "list") == {"sessions": [], "more": False}


def test_terminals_are_safe(make_app: MakeApp) -> None:
    """Control characters that came from outside never reach the terminal, and long
    texts do not fill it.
    """
    app = make_app("sqlite://")
    wicked = "\x1b]0;title\x07\x9b2J\u202e\r\n\x00"
    data = {wicked: wicked, "_user_id": wicked}
    handle = put(
        app,
        1,
        data,
        user_id="u" + wicked,
        address=wicked,
        user_agent="x" * 99 + wicked,
        label=wicked + "z" * 99,
    )

    printed = [
        run(app, *arguments).output
        for arguments in (
            ["list"],
            ["list", "--json"],
            ["show", handle, "--values"],
            ["show", handle, "--values", "--json"],
        )
    ]

    assert [] == [
        (text, each)
        for text in printed
        for each in text
        if not (each.isprintable() or each == "\n")
    ]
    assert r"u\x1b]0;title\x07\x9b2J\u202e\r\n\x00" in printed[0]
    assert "x" * 57 + "...  " in printed[0]
    assert r"\x1b]0;title\x07\x9b2J\u202e\r\n\x00z..." in printed[0]
    assert "x" * 99 + r"\x1b]0;title" in printed[2]


# show


def test_show(app: Flask) -> None:
    """``show`` tells what the row says, and the keys with their sizes, the largest
    first, and no value.
    """
    data = {"a": 1, "cart": ["tea", "milk"], "_user_id": "ann"}
    handle = put(
        app,
        1,
        data,
        user_id="ann",
        version=7,
        address="::1",
        user_agent="Brave one",
        label="Work laptop",
    )

    result = run(app, "show", handle)

    assert (0, "") == (result.exit_code, result.stderr)
    assert result.stdout.splitlines() == [
        "Handle:      0000000000000001",
        "User:        ann",
        f"Created:     {utc(NOW - 10)}",
        f"Last used:   {utc(NOW - 1)}",
        f"Expires:     {utc(NOW + 999)}",
        "Set expiry:  none",
        "Lifetime:    as configured",
        "Permanent:   yes",
        "Address:     ::1",
        "Browser:     Brave one",
        "Label:       Work laptop",
        "Version:     7",
        "Size:        39 B",
        "",
        "Bytes  Key",
        "   17  'cart'",
        "   15  '_user_id'",
        "    5  'a'",
    ]


def test_show_values(make_app: MakeApp) -> None:
    """``show --values`` shows the values as Python writes them."""
    app = make_app("sqlite://")
    handle = put(app, 1, {"due": date(2026, 1, 2), 1: "a\nb"})

    result = run(app, "show", handle, "--values")

    assert result.stdout.splitlines()[-3:] == [
        "Bytes  Key    Value",
        "   19  'due'  datetime.date(2026, 1, 2)",
        r"    8  1      'a\nb'",
    ]


def test_show_as_json(make_app: MakeApp) -> None:
    """``show --json`` has what ``show`` has; values only with ``--values``."""
    app = make_app("sqlite://")
    data = {"cart": ["tea", {"sugar": 2}], "due": date(2026, 1, 2), 1: None}
    handle = put(app, 1, data, last_used_at=None)
    expected = {
        "handle": handle,
        "user_id": None,
        "created_at": utc(NOW - 10).replace(" ", "T"),
        "last_used_at": utc(NOW - 10).replace(" ", "T"),
        "expires_at": utc(NOW + 999).replace(" ", "T"),
        "set_expiry": None,
        "set_lifetime": None,
        "permanent": True,
        "address": None,
        "user_agent": None,
        "label": None,
        "version": 1,
        "size": len(MsgpackSerializer().dumps(data)),
    }
    values = [("cart", 20), ("due", 19), (1, 5)]

    assert {**expected, "keys": [{"key": k, "size": n} for k, n in values]} == document(
        app, "show", handle
    )
    assert [["tea", {"sugar": 2}], "datetime.date(2026, 1, 2)", None] == [
        key["value"] for key in document(app, "show", handle, "--values")["keys"]
    ]


def test_hidden_keys_are_facts(make_app: MakeApp) -> None:
    """What the application has set for the session as such is shown as that, and not
    as keys.
    """
    app = make_app("sqlite://")
    hidden = {PERMANENT_KEY: False, EXPIRY_KEY: NOW + 60, LIFETIME_KEY: 90_061}
    data = {"a": 1, **hidden}
    handle = put(app, 1, data)

    lines = run(app, "show", handle).stdout.splitlines()
    found = document(app, "show", handle)

    assert f"Set expiry:  {utc(NOW + 60)}" in lines
    assert "Permanent:   no" in lines
    assert "Lifetime:    1 day, 1:01:01" in lines
    assert ["Bytes  Key", "    5  'a'"] == lines[-2:]
    assert [{"key": "a", "size": 5}] == found["keys"]
    assert (False, utc(NOW + 60).replace(" ", "T")) == (
        found["permanent"],
        found["set_expiry"],
    )
    assert found["set_lifetime"] == 90_061


def test_permanent_unless_configured(make_app: MakeApp) -> None:
    """A session that says nothing is as ``SESSION_PERMANENT`` has it."""
    app = make_app("sqlite://", SESSION_PERMANENT=False)

    assert document(app, "show", put(app, 1))["permanent"] is False


def test_show_encrypted(make_app: MakeApp, database_uri: str) -> None:
    """``show`` opens a session that is encrypted, under the key that it was stored
    with.
    """
    app = add_views(make_app(database_uri, SESSION_ENCRYPT=True))
    app.test_client().get("/set/secret/word")
    handle = next(iter(handles(app)))
    app.secret_key, app.config["SECRET_KEY_FALLBACKS"] = "new", ["a key"]

    keys = document(app, "show", handle, "--values")["keys"]

    assert [{"key": "secret", "size": 14, "value": "word"}] == keys


def test_show_with_another_key(make_app: MakeApp, database_uri: str) -> None:
    """A session that does not open is an error which says what to do, and not a
    traceback.
    """
    app = add_views(make_app(database_uri, SESSION_ENCRYPT=True))
    app.test_client().get("/set/secret/word")
    handle = next(iter(handles(app)))
    app.secret_key = "another"

    result = run(app, "show", handle, "--values")

    assert (1, "") == (result.exit_code, result.stdout)
    assert result.stderr.startswith("Error: The session cannot be read: ")
    assert "SECRET_KEY_FALLBACKS" in result.stderr
    assert f"'flask sessions revoke --handle {handle}'" in result.stderr
    assert 1 == result.stderr.count("\n")


def test_show_a_damaged_row(make_app: MakeApp) -> None:
    """So is a row that was damaged."""
    app = make_app("sqlite://")
    handle = put(app, 1)
    set_data(app, b"\x01\xc1")

    result = run(app, "show", handle, "--json")

    assert (1, "") == (result.exit_code, result.stdout)
    assert "The stored session is damaged" in result.stderr


def test_show_without_secret_key(make_app: MakeApp) -> None:
    """Without ``SECRET_KEY``, ``show`` says that it is needed."""
    app = make_app("sqlite://", SECRET_KEY=None)

    result = run(app, "show", put(app, 1))

    assert 1 == result.exit_code
    assert result.stderr.startswith("Error: SECRET_KEY: it is not set")


def test_show_what_is_not_there(make_app: MakeApp) -> None:
    """A handle that is unknown or of an expired session is an error; what was given is
    not repeated, since it may be a token.
    """
    app = make_app("sqlite://")
    put_expired(app, 1)

    for handle in ("0000000000000001", "a-token"):
        result = run(app, "show", handle)

        assert (1, "") == (result.exit_code, result.stdout)
        assert result.stderr.startswith("Error: There is no live session of that")
        assert handle not in result.stderr


# revoke


def test_revoke_one(app: Flask) -> None:
    """``revoke --handle`` ends that session, tells the application's receivers, and is
    an error if there is none.
    """
    put(app, 1, user_id="ann")
    put(app, 2, user_id="ann")

    with told_by(session_ended, app) as events:
        first = run(app, "revoke", "--handle", "0000000000000001")
        second = run(app, "revoke", "--handle", "0000000000000001")

    assert (0, "Ended 1 session.\n", "") == (
        first.exit_code,
        first.stdout,
        first.stderr,
    )
    assert (1, "", "Error: There is no session of that handle.\n") == (
        second.exit_code,
        second.stdout,
        second.stderr,
    )
    assert {"0000000000000002"} == handles(app)
    assert [SessionEnded("0000000000000001", "ann", "revoked")] == events


def test_revoked_browser_is_out(make_app: MakeApp, database_uri: str) -> None:
    """A browser whose session is ended by the command is out at its next request."""
    app = add_views(make_app(database_uri))
    client = app.test_client()
    client.get("/set/key/value")

    assert document(app, "revoke", "--handle", next(iter(handles(app)))) == {"ended": 1}
    assert client.get("/get/key").text == "None"


def test_revoke_user(app: Flask) -> None:
    """``revoke --user`` ends that user's sessions, and none are no error."""
    put(app, 1, user_id="ann")
    put(app, 2, user_id="ann")
    put(app, 3, user_id="bob")

    result = run(app, "revoke", "--user", "ann")

    assert (0, "Ended 2 sessions.\n") == (result.exit_code, result.stdout)
    assert {"0000000000000003"} == handles(app)
    assert document(app, "revoke", "--user", "ann") == {"ended": 0}


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 2), ("", 1, 2)]
)
def test_revoke_all_asks(make_app: MakeApp, answer: str, code: int, left: int) -> None:
    """``revoke --all`` asks on standard error, and ends nothing unless confirmed."""
    app = make_app("sqlite://")
    put(app, 1)
    put(app, 2)

    result = run(app, "revoke", "--all", input=answer)

    assert "End all sessions of all users? [y/N]" in result.stderr
    assert code == result.exit_code
    assert ("" if left else "Ended 2 sessions.") == result.stdout.strip()
    assert left == len(handles(app))


def test_revoke_all_yes(app: Flask) -> None:
    """With ``--yes`` it does not ask."""
    put(app, 1)
    put(app, 2)

    assert document(app, "revoke", "--all", "--yes") == {"ended": 2}
    assert set() == handles(app)


@pytest.mark.parametrize(
    "arguments",
    [
        ("revoke",),
        ("revoke", "--yes"),
        ("revoke", "--all", "--user", "ann"),
        ("revoke", "--handle", "0000000000000001", "--user", "ann"),
        ("revoke", "--handle", "", "--all"),
        ("revoke", "--user", ""),
        ("list", "--user", ""),
        ("list", "--limit", "0"),
        ("show",),
        ("purge", "--batch-size", "0"),
        ("purge", "--batch-size", "10001"),
        ("purge", "--pause", "-1"),
        ("purge", "--pause", "nan"),
        ("purge", "--pause", "inf"),
        ("purge", "--max-seconds", "0"),
        ("burn",),
    ],
    ids=" ".join,
)
def test_wrong_calls(make_app: MakeApp, arguments: tuple[str, ...]) -> None:
    """A command that is called wrongly says how it is called, and does nothing."""
    app = make_app("sqlite://")
    put(app, 1, user_id="ann")

    result = run(app, *arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert "Usage: " in result.stderr
    assert 1 == len(handles(app))


# purge


def test_purge(app: Flask) -> None:
    """``purge`` deletes what has expired and nothing else, and the application's
    receivers hear of each.
    """
    put_expired(app, 5)
    put(app, 6)

    with told_by(session_ended, app) as events:
        result = run(app, "purge", "--batch-size", "2", "--pause", "0")

    assert (0, "Deleted 5 expired sessions.\n", "") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )
    assert {"0000000000000006"} == handles(app)
    assert {SessionEnded(f"{n:016x}", "ann", "expired") for n in range(1, 6)} == set(
        events
    )
    assert document(app, "purge") == {"deleted": 0, "left": 0}


def test_receivers_of_a_new_process(make_app: MakeApp, tmp_path: Path) -> None:
    """The application's receivers hear of it where the command is the first that uses
    the sessions in its process.
    """
    uri = f"sqlite:///{tmp_path / 'app.db'}"
    put_expired(make_app(uri), 1)
    app = make_app(uri)

    with told_by(session_ended, app) as events:
        run(app, "purge")

    assert [SessionEnded("0000000000000001", "ann", "expired")] == events


def test_purge_makes_pauses(make_app: MakeApp) -> None:
    """Between two batches there is a pause."""
    app = make_app("sqlite://")
    put_expired(app, 3)
    began = time.monotonic()

    run(app, "purge", "--batch-size", "1", "--pause", "0.1")

    assert time.monotonic() - began >= 0.3


def test_dry_run(make_app: MakeApp) -> None:
    """``purge --dry-run`` counts and deletes nothing."""
    app = make_app("sqlite://")
    put_expired(app, 3)
    put(app, 4)

    result = run(app, "purge", "--dry-run")

    assert (0, "3 expired sessions would be deleted.\n") == (
        result.exit_code,
        result.stdout,
    )
    assert document(app, "purge", "--dry-run") == {"deleted": 0, "left": 3}
    assert 4 == len(handles(app))


def test_max_seconds(app: Flask) -> None:
    """``purge --max-seconds`` stops between two batches with its own exit code, without
    a pause that would end after that time; the next run goes on.
    """
    put_expired(app, 5)
    stopping = ("--batch-size", "2", "--pause", "60", "--max-seconds", "50")
    began = time.monotonic()

    first = run(app, "purge", *stopping)
    second = run(app, "purge", *stopping, "--json")
    third = run(app, "purge", *stopping)

    assert (3, "Deleted 2 expired sessions. 3 are left.\n") == (
        first.exit_code,
        first.stdout,
    )
    assert (3, {"deleted": 2, "left": 1}) == (
        second.exit_code,
        json.loads(second.stdout),
    )
    assert (0, "Deleted 1 expired session.\n") == (third.exit_code, third.stdout)
    assert time.monotonic() - began < 50


def test_time_over_and_nothing_left(make_app: MakeApp) -> None:
    """If the last batch is full and in time, nothing is left, and the exit code says
    so.
    """
    app = make_app("sqlite://")
    put_expired(app, 2)

    result = run(
        app, "purge", "--batch-size", "2", "--pause", "9", "--max-seconds", "8"
    )

    assert (0, "Deleted 2 expired sessions.\n") == (result.exit_code, result.stdout)


def test_time_over_behind_sessions_that_live(make_app: MakeApp) -> None:
    """If the last batch is full of sessions that were used on, what is behind them is
    left, and told.
    """
    app = make_app("sqlite://")
    put_expired(app, 2)
    store = store_of(app)
    used_on = sa.update(store.table).values(expires_at=NOW + 1000, purge_at=1)
    with store.engine.connect() as connection:
        connection.execute(used_on)
    put_expired(app, 2, first=3)
    stopping = ("--batch-size", "2", "--pause", "9", "--max-seconds", "8")

    first, second = (run(app, "purge", *stopping) for _ in range(2))

    assert (3, "Deleted 0 expired sessions. 2 are left.\n") == (
        first.exit_code,
        first.stdout,
    )
    assert (0, "Deleted 2 expired sessions.\n") == (second.exit_code, second.stdout)


def test_time_is_enough(make_app: MakeApp) -> None:
    """With time enough all batches are deleted."""
    app = make_app("sqlite://")
    put_expired(app, 3)

    result = run(
        app, "purge", "--batch-size", "1", "--pause", "0", "--max-seconds", "60"
    )

    assert (0, "Deleted 3 expired sessions.\n") == (result.exit_code, result.stdout)


def test_interrupted(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in a pause, ``purge`` tells what it has done."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    app = make_app("sqlite://")
    put_expired(app, 3)
    monkeypatch.setattr("flask_sessionsql.storage.purging.time.sleep", interrupt)

    first = run(app, "purge", "--batch-size", "1")
    second = run(app, "purge", "--batch-size", "1", "--json")

    assert (130, "Deleted 1 expired session.\n") == (first.exit_code, first.stdout)
    assert (130, {"deleted": 1, "left": None}) == (
        second.exit_code,
        json.loads(second.stdout),
    )


def test_purge_fails_on_the_way(make_app: MakeApp, tmp_path: Path) -> None:
    """If the database fails after some batches, ``purge`` tells what it has done, and
    what has gone wrong.
    """
    app = make_app(f"sqlite:///{tmp_path / 'app.db'}")
    put_expired(app, 3)
    store_of(app).database.create_table = False

    def drop(sender: Flask, event: SessionEnded) -> None:
        with store_of(app).engine.connect() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS flask_sessionsql"))

    with session_ended.connected_to(drop, app):
        result = run(app, "purge", "--batch-size", "1")

    assert (1, "Deleted 1 expired session.\n") == (result.exit_code, result.stdout)
    assert "Error: There is no table 'flask_sessionsql'" in result.stderr


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_purge_beside_a_writer_that_never_rests(
    make_app: MakeApp, tmp_path: Path, mode: str
) -> None:
    """It gets its turn, however short a time the application would wait."""
    file = tmp_path / "app.db"
    # That it is the application's keeps its mode as it is.
    app = make_app(f"sqlite:///{file}?timeout=0.01", SQLAlchemy)
    put_expired(app, 3)
    store_of(app).dispose()

    with writer(file, mode):
        result = run(app, "purge")
        ended = run(app, "revoke", "--user", "bob")

    assert (0, "Deleted 3 expired sessions.\n", "") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )
    assert (0, "Ended 0 sessions.\n") == (ended.exit_code, ended.stdout)


def test_purge_without_a_turn(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it gets none for as long as it asks, it tells what it has done until then."""
    monkeypatch.setattr(base, "TURN", 0.05)
    app = make_app(f"sqlite:///{tmp_path / 'app.db'}")
    put_expired(app, 3)
    with ExitStack() as stack:

        def lock(sender: Flask, event: SessionEnded) -> None:
            stack.enter_context(locked_file(app.config["SQLALCHEMY_DATABASE_URI"]))

        with session_ended.connected_to(lock, app):
            result = run(app, "purge", "--batch-size", "1")

    assert (1, "Deleted 1 expired session.\n") == (result.exit_code, result.stdout)
    assert result.stderr == (
        "Error: The database cannot be used: database is locked. Somebody holds a lock"
        " for longer than is waited: look for a transaction that does not end.\n"
    )


def test_the_turn_is_documented(make_app: MakeApp) -> None:
    """The help says how long it asks, and the documentation."""
    told = f"up to {base.TURN} seconds"

    assert told in " ".join(
        run(make_app("sqlite://"), "purge", "--help").stdout.split()
    )
    assert told in " ".join(page("reference/commands").split())


def test_progress_bar(make_app: MakeApp) -> None:
    """On a terminal ``purge`` shows how far it is, of all that had expired; the result
    is on standard output all the same.
    """
    app = make_app("sqlite://")
    put_expired(app, 3)
    printed, shown = with_progress(app, "purge", "--batch-size", "1")

    assert "Deleted 3 expired sessions.\n" == printed
    assert "Purging  [" in shown
    assert ["0/3", "1/3", "2/3", "3/3"] == list(
        dict.fromkeys(re.findall(r"\d/3", shown))
    )


# stats


def test_stats(app: Flask) -> None:
    """``stats`` counts sessions and users, and adds up the bytes."""
    put(app, 1, user_id="ann")
    put(app, 2, {"key": "x" * 2000}, user_id="ann")
    put(app, 3)
    put_expired(app, 2, first=4)

    result = run(app, "stats")

    assert result.stdout.splitlines() == [
        "Live sessions:        3",
        "Of users logged in:   2",
        "Users logged in:      1",
        "Expired, not purged:  2",
        "Data in all rows:     2.0 KiB",
        "Largest session:      2.0 KiB",
    ]
    assert document(app, "stats") == {
        "live": 3,
        "logged_in": 2,
        "users": 1,
        "expired": 2,
        "data_bytes": 4 * 14 + 2012,
        "largest_bytes": 2012,
    }


# check


def test_check_finds_nothing(make_app: MakeApp, database_uri: str) -> None:
    """Where nothing is wrong, ``check`` says so."""
    app = make_app(database_uri, **SAFE)
    run(app, "create-table")

    result = run(app, "check")

    assert (0, "Nothing is wrong.\n", "") == (
        result.exit_code,
        result.stdout,
        result.stderr,
    )
    assert document(app, "check") == {"findings": []}


def test_warnings_are_no_errors(make_app: MakeApp) -> None:
    """Warnings are shown with advice, and the exit code is 0."""
    app = make_app("sqlite://", **{**SAFE, "SESSION_COOKIE_SAMESITE": None})
    run(app, "create-table")

    result = run(app, "check")

    assert 0 == result.exit_code
    subject, problem, advice = result.stdout.splitlines()
    assert subject == "warning: SESSION_COOKIE_SAMESITE"
    assert problem.startswith("    It is None")
    assert advice.startswith("    Set SESSION_COOKIE_SAMESITE = 'Lax'.")


def test_errors_are_errors(make_app: MakeApp) -> None:
    """With an error, the exit code is 1, as text and as JSON."""
    app = make_app("sqlite://", **{**SAFE, "SECRET_KEY": None})
    run(app, "create-table")

    result = run(app, "check")
    as_json = run(app, "check", "--json")

    assert (1, 1) == (result.exit_code, as_json.exit_code)
    assert result.stdout.startswith("error: SECRET_KEY\n    It is not set")
    [finding, *_] = json.loads(as_json.stdout)["findings"]
    assert ("error", "SECRET_KEY") == (finding["level"], finding["subject"])
    assert {"level", "subject", "problem", "advice"} == finding.keys()


# create-table


def test_create_table(make_app: MakeApp, empty_database_uri: str) -> None:
    """``create-table`` creates the table where that is not done by the first use, and
    says whether it did.
    """
    app = make_app(empty_database_uri, SESSION_CREATE_TABLE=False)

    before = run(app, "stats")
    first, second = run(app, "create-table"), run(app, "create-table")

    assert 1 == before.exit_code
    assert "flask sessions create-table" in before.stderr
    assert (0, "Created the table flask_sessionsql.\n") == (
        first.exit_code,
        first.stdout,
    )
    assert (0, "The table flask_sessionsql was there already.\n") == (
        second.exit_code,
        second.stdout,
    )
    assert 0 == run(app, "stats").exit_code


# Errors.

EACH: list[tuple[str, ...]] = [
    ("list",),
    ("show", "0000000000000001"),
    ("revoke", "--handle", "0000000000000001"),
    ("revoke", "--user", "ann"),
    ("revoke", "--all", "--yes"),
    ("purge",),
    ("purge", "--dry-run"),
    ("stats",),
    ("check",),
    ("create-table",),
]


@pytest.mark.parametrize("arguments", EACH, ids=" ".join)
def test_no_session_type(make_app: MakeApp, arguments: tuple[str, ...]) -> None:
    """Without ``SESSION_TYPE``, every command says what to set."""
    result = run(make_app(SESSION_TYPE="null"), *arguments)

    assert (1, "") == (result.exit_code, result.stdout)
    assert "Set SESSION_TYPE = 'flask-sqlalchemy'" in result.stderr


#: What a command prints of a SQLite file whose folder is missing.
NOT_OPENED = (
    "Error: The database cannot be used: unable to open database file. See that the"
    " file's folder is there, and that the user that the application runs as may open"
    " the file and write to the folder.\n"
)


@pytest.mark.parametrize(
    "arguments", [each for each in EACH if each != ("check",)], ids=" ".join
)
def test_no_database(make_app: MakeApp, arguments: tuple[str, ...]) -> None:
    """A database that cannot be reached is one line with its reason."""
    app = make_app("sqlite:///file:/nowhere/app.db?uri=true")

    result = run(app, *arguments)

    assert 1 == result.exit_code
    assert result.stderr == NOT_OPENED


def test_a_folder_that_is_missing(make_app: MakeApp) -> None:
    """So is a setting to correct."""
    result = run(make_app("sqlite:////nowhere/app.db"), "list")

    assert 1 == result.exit_code
    assert result.stderr.startswith("Error: SQLALCHEMY_DATABASE_URI: the SQLite file")
    assert result.stderr.count("\n") == 1


def test_database_refuses(make_app: MakeApp) -> None:
    """What else the database says is one line, too, without the statement and what it
    was given.
    """
    app = make_app("sqlite://")
    handle = put(app, 1)
    with store_of(app).engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER keep BEFORE DELETE ON flask_sessionsql"
            " BEGIN SELECT RAISE(ABORT, 'nothing is deleted'); END"
        )

    result = run(app, "revoke", "--handle", handle)

    assert (1, "Error: The database refuses: nothing is deleted\n") == (
        result.exit_code,
        result.output,
    )


def test_faults_are_not_hidden(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the program is not taken for an error of the operator's."""

    def fault(*arguments: object) -> None:
        raise ZeroDivisionError

    app = make_app("sqlite://")
    monkeypatch.setattr(SessionAdministration, "all", fault)

    assert isinstance(run(app, "list").exception, ZeroDivisionError)


def test_own_commands_stay() -> None:
    """An application that has commands of the name keeps them."""
    app = Flask("shop")

    @app.cli.command("sessions")
    def own() -> None:
        print("my own")

    Session(app)

    assert app.test_cli_runner().invoke(args=["sessions"]).output == "my own\n"


# What no command prints.


def test_no_command_prints_a_secret(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """No command prints the token of a session, the key of its row or ``SECRET_KEY``,
    whatever it is asked for.
    """
    secret = "no one may know this"
    app = add_views(make_app("sqlite://", SECRET_KEY=secret))
    clients = [app.test_client() for _ in range(4)]
    for client in clients:
        client.get("/set/_user_id/ann")
        client.get("/set/_user_id/bob")  # which moves it to a new token
        client.get("/set/key/value")
    tokens = [token(client) for client in clients]
    secrets = [secret, *tokens]
    secrets += [row_id(secret, each).hex() for each in tokens]
    secrets += [repr(row_id(secret, each)) for each in tokens]
    first, second, third, _ = sorted(handles(app))

    def everything() -> Iterator[tuple[str, ...]]:
        for tail in ((), ("--json",)):
            yield from [("list", *tail), ("list", "--user", "bob", *tail)]
            yield from [("show", first, *tail), ("show", first, "--values", *tail)]
            yield from [("show", tokens[0], *tail), ("stats", *tail)]
            yield from [("revoke", "--handle", tokens[0], *tail), ("check", *tail)]
            yield ("revoke", "--handle", second if tail else third, *tail)
        yield from [("purge",), ("purge", "--json"), ("purge", "--dry-run")]
        yield from [("revoke", "--user", "bob"), ("revoke", "--all", "--yes")]
        yield from [("create-table",), ("--help",)]
        yield from [(command, "--help") for command in COMMANDS]

    results = {arguments: run(app, *arguments) for arguments in everything()}

    assert "bob" in results["list",].output
    assert [] == [
        (arguments, text)
        for arguments, result in results.items()
        for text in secrets
        if text in result.output or text in str(result.exception)
    ]
    assert [] == [text for text in secrets if text in caplog.text]


# The documentation.


def options_in_help(app: Flask, command: str) -> dict[str, str | None]:
    """The options of a command, and the defaults that its help states."""
    text = run(app, command, "--help").stdout
    found = {}
    for part in re.split(r"\n  (?=--)", text.split("\n\n  Exit codes:")[0])[1:]:
        flat = " ".join(part.split())
        name = re.match(r"--[a-z-]+(?: [A-Z]+)?\b", flat)
        assert name, flat
        default = re.search(r"\[default: ([\d.]+)", flat)
        found[name[0]] = default and default[1]
    assert found.pop("--help") is None
    return found


def parts_of_documentation() -> dict[str, str]:
    """What the documentation has of each command."""
    parts = re.split(
        r"^flask sessions ([a-z-]+)(?: HANDLE)?\n-+\n",
        page("reference/commands").partition(".. _purging-from-a-timer:")[0],
        flags=re.MULTILINE,
    )
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def options_in_documentation() -> dict[str, dict[str, str | None]]:
    """The same, by command, as the documentation has them."""
    found: dict[str, dict[str, str | None]] = {}
    for command, part in parts_of_documentation().items():
        found[command] = {}
        for option, text in re.findall(
            r"^(--[a-z-]+(?: [A-Z]+)?)  +(.*(?:\n  .*)*)", part, re.MULTILINE
        ):
            default = re.search(r"\(default: ([\d.,]+)\)", text)
            found[command][option] = default and default[1]
    return found


def test_documented_options(make_app: MakeApp) -> None:
    """The documentation has every command with every option and default that the help
    has, and no other.
    """
    app = make_app("sqlite://")
    found = options_in_documentation()

    assert COMMANDS == tuple(sorted(found))
    assert COMMANDS == tuple(sorted(cli.sessions_command.commands))
    assert found == {command: options_in_help(app, command) for command in COMMANDS}
    purge = found["purge"]
    assert str(BATCH) == purge["--batch-size ROWS"]
    assert str(PAUSE) == purge["--pause SECONDS"]


def test_every_option_is_explained(make_app: MakeApp) -> None:
    """Every option has a text in the help, and every command its exit codes."""
    app = make_app("sqlite://")

    for name, command in cli.sessions_command.commands.items():
        assert command.help
        assert [] == [
            option.name
            for option in command.params
            if option.param_type_name == "option" and not getattr(option, "help", None)
        ]
        assert "Exit codes:\n    0 " in run(app, name, "--help").stdout


def test_documented_exit_codes(make_app: MakeApp) -> None:
    """The documentation has all exit codes that the help has, and no other."""
    app = make_app("sqlite://")
    documented = {
        command: re.findall(r"^(\d+) +\w", part, re.MULTILINE)
        for command, part in parts_of_documentation().items()
    }

    assert documented == {
        command: re.findall(
            r"^    (\d+) ", run(app, command, "--help").stdout, re.MULTILINE
        )
        for command in COMMANDS
    }


# The executable.

SHOP = """
import os
from flask import Flask
from flask_sessionsql import Session

def create_app():
    app = Flask("shop", instance_path=os.getcwd())
    app.config.update(
        SECRET_KEY="a key",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI=os.environ["SHOP_DATABASE"],
    )
    Session(app)
    return app
"""


@pytest.fixture
def flask(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts ``flask sessions`` with these arguments, as in a shell."""
    (tmp_path / "shop.py").write_text(SHOP)
    database = f"sqlite:///{tmp_path / 'app.db'}"

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "sessions", *arguments],
            cwd=tmp_path,
            env={
                **os.environ,
                "FLASK_APP": "shop",
                "SHOP_DATABASE": database,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Where the tests run in the background, an interrupt may be ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    return start


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def test_executable(
    flask: Callable[..., subprocess.Popen[str]], make_app: MakeApp, tmp_path: Path
) -> None:
    """``flask sessions`` works from a shell: with help, results, and errors in one line
    of standard error; a terminal that cannot show a character does not stop it.
    """
    app = make_app(f"sqlite:///{tmp_path / 'app.db'}")
    put(app, 1, user_id="änn")

    running = [
        flask("--help"),
        flask("list", PYTHONIOENCODING="ascii"),
        flask("stats", SHOP_DATABASE="sqlite:///file:/nowhere/app.db?uri=true"),
    ]
    (code, usage, _), listed, failed = map(finish, running)

    assert 0 == code
    assert list(COMMANDS) == re.findall(r"^  ([a-z][a-z-]+)  ", usage, re.MULTILINE)
    assert (0, "") == listed[::2]
    assert r"0000000000000001  \xe4nn  " in listed[1]
    assert failed == (
        1,
        "",
        NOT_OPENED,
    )


def test_executable_is_interrupted(
    flask: Callable[..., subprocess.Popen[str]], make_app: MakeApp, tmp_path: Path
) -> None:
    """Ctrl-C in a pause ends ``purge``, which tells what it has done."""
    app = make_app(f"sqlite:///{tmp_path / 'app.db'}")
    put_expired(app, 3)

    process = flask("purge", "--batch-size", "1", "--pause", "60")
    wait_until(lambda: len(handles(app)) < 3)
    time.sleep(0.1)  # from the deletion to the pause
    process.send_signal(signal.SIGINT)

    assert (130, "Deleted 1 expired session.\n", "") == finish(process)
    assert 2 == len(handles(app))
