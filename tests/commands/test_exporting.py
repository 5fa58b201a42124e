"""``flask sessions export``, and the ways back to where the sessions were."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask, session
from markupsafe import Markup

from examples.back_to_cookies import CookiesAgain
from examples.back_to_flask_session import fill, keep_tokens
from flask_sessionsql.formats.documents import to_value
from tests.adopting.helpers import (
    DAY,
    Site,
    browser,
    cookie_of,
    logged_in,
    pages,
    rows_of,
    run,
)
from tests.conftest import MakeApp
from tests.helpers import Clock, store_of

#: What Flask-Session does, and newer Pythons warn of.
pytestmark = pytest.mark.filterwarnings(
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore:The 'use_signer' option:DeprecationWarning",
)

NAMES = [f"user{number}" for number in range(7)]


VALUES: dict[str, Any] = {
    "tuple": (1, ("a", b"\xff")),
    "sets": [{1}, frozenset({"a"})],
    "times": [
        datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        datetime(2026, 1, 2),
        date(2026, 1, 2),
        datetime(2026, 1, 2, 3, 4).time(),
        timedelta(-1, 2, 3),
    ],
    "numbers": [Decimal("1.10"), 2**20_000, float("inf"), 1.5, True, None],
    "texts": [Markup("<b>"), "\ud800\n\u2028", UUID(int=5)],
    "maps": {"a": {1: 2}, "b": {"$type": "tuple", "value": []}},
}


@pytest.fixture
def shop(make_app: MakeApp, shared_database_uri: str) -> Flask:
    app = pages(make_app(shared_database_uri))

    @app.get("/values")
    def values() -> str:
        session.update(VALUES)
        return "ok"

    return app


def test_export(shop: Flask, tmp_path: Path) -> None:
    """Each live session is a line, with all that it holds, each value of its type; the
    file is for its owner alone, and none is written over.
    """
    client, ended = shop.test_client(), shop.test_client()
    client.get("/login/ann")
    client.get("/values")
    ended.get("/login/ben")
    ended.get("/logout")
    file = tmp_path / "sessions.jsonl"
    done = run(shop, "export", "--output", str(file))
    again = run(shop, "export", "--output", str(file))

    assert (0, "Wrote 1 session.\n") == (done.exit_code, done.stderr)
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert (1, "") == (again.exit_code, again.stdout)
    assert "cannot be created" in again.stderr
    [line] = file.read_text("ascii").splitlines()
    document = json.loads(line)
    assert {"_user_id": "ann", "basket": [], **VALUES} == to_value(document["data"])
    assert cookie_of(client) not in line
    assert ("ann", True) == (document["user_id"], document["permanent"])


def test_export_of_a_user(shop: Flask) -> None:
    """Only the sessions of this user, on standard output."""
    for name in ("ann", "ben", "ann"):
        shop.test_client().get(f"/login/{name}")
    found = run(shop, "export", "--user", "ann").stdout.splitlines()

    assert ["ann", "ann"] == [json.loads(line)["user_id"] for line in found]
    assert "" == run(shop, "export", "--user", "cleo").stdout
    assert 2 == run(shop, "export", "--user", "").exit_code


def test_export_of_many(shop: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, whatever fits into one look; and what cannot be read is counted."""
    monkeypatch.setattr("flask_sessionsql.storage.administration.BATCH", 2)
    for name in NAMES[:5]:
        shop.test_client().get(f"/login/{name}")
    change = sa.text("UPDATE flask_sessionsql SET version = -1 WHERE user_id = 'user4'")
    spoil = sa.text("UPDATE flask_sessionsql SET data = :x WHERE user_id = 'user4'")
    with store_of(shop).engine.connect() as connection:
        connection.execute(change)
        connection.execute(
            spoil.bindparams(sa.bindparam("x", type_=sa.LargeBinary)), {"x": b"?"}
        )
    done = run(shop, "export")

    assert NAMES[:4] == sorted(
        json.loads(line)["user_id"] for line in done.stdout.splitlines()
    )
    assert 4 == done.exit_code
    assert "1 session could not be read" in done.stderr
    shop.config["SECRET_KEY"] = None
    assert "SECRET_KEY: it is not set" in run(shop, "export").stderr


def exported(app: Flask, path: Path, *names: str) -> tuple[str, list[str]]:
    """The exported sessions, and the cookies of their browsers."""
    cookies = logged_in(app, *names)
    file = str(path / "sessions.jsonl")
    assert 0 == run(app, "export", "--output", file).exit_code
    return file, cookies


def test_back_to_flask_session(old_site: Site, shop: Flask, tmp_path: Path) -> None:
    """Every browser is still logged in when the site has gone back to Flask-Session,
    and goes on; a logout holds.
    """
    file, cookies = exported(shop, tmp_path, *NAMES)
    back = old_site()
    keep_tokens(back)

    assert [7, 0] == [fill(back, file), fill(back, file)]
    browsers = [browser(back, cookie) for cookie in cookies]
    assert NAMES == [client.get("/me").text for client in browsers]
    assert {"tea milk"} == {client.get("/put/milk").text for client in browsers}
    browsers[0].get("/logout")
    assert ["nobody", *NAMES[1:]] == [
        browser(back, cookie).get("/me").text for cookie in cookies
    ]


def test_back_to_cookies(shop: Flask, tmp_path: Path) -> None:
    """Every browser is still logged in when the site has gone back to Flask's own
    sessions, and gets a signed cookie.
    """
    file, cookies = exported(shop, tmp_path, *NAMES)
    back = pages(Flask("shop"))
    back.config["SECRET_KEY"] = "a key"
    back.session_interface = CookiesAgain(file)
    browsers = [browser(back, cookie) for cookie in cookies]

    assert NAMES == [client.get("/me").text for client in browsers]
    back.session_interface = CookiesAgain(os.devnull)
    assert {"tea milk"} == {client.get("/put/milk").text for client in browsers}
    assert "nobody" == browser(back, "x" * 43).get("/me").text


def test_there_and_back(old_site: Site, new_site: Site, tmp_path: Path) -> None:
    """A site that has moved in and goes back logs nobody out."""
    cookies = logged_in(old_site(), *NAMES)
    new = new_site()
    browsers = [browser(new, cookie) for cookie in cookies]
    for client in browsers:
        client.get("/me")
    file = str(tmp_path / "sessions.jsonl")
    run(new, "export", "--output", file)
    back = old_site()
    keep_tokens(back)
    fill(back, file)

    assert NAMES == [
        browser(back, cookie_of(client)).get("/me").text for client in browsers
    ]


def back_again(
    old_site: Site, new: Flask, path: Path, **config: Any
) -> tuple[Flask, int]:
    """The site with Flask-Session again, and how many sessions were written there."""
    file = str(path / "sessions.jsonl")
    run(new, "export", "--output", file)
    back = old_site(**config)
    keep_tokens(back)
    return back, fill(back, file)


def test_in_again(old_site: Site, new_site: Site, tmp_path: Path) -> None:
    """A site that goes back, and then moves in again as it should have: nobody is
    logged out, whether the browser comes or the command moves it. What the table calls
    a session is nobody's cookie.
    """
    [early, late, new_there] = [logged_in(old_site(), name)[0] for name in NAMES[:3]]
    new = new_site()
    come = [browser(new, cookie) for cookie in (early, late)]
    for client in come:
        client.get("/me")
    back, _ = back_again(old_site, new, tmp_path)
    held = [*map(cookie_of, come), new_there]
    assert NAMES[:3] == [browser(back, cookie).get("/me").text for cookie in held]
    with store_of(new).engine.connect() as connection:
        connection.execute(sa.text("DELETE FROM flask_sessionsql"))
        ids = connection.scalars(sa.text("SELECT session_id FROM sessions")).all()
    again = new_site()

    names = [each.removeprefix("session:") for each in ids]
    assert {"nobody"} == {
        browser(again, name).get("/me").text for name in names if len(name) == 64
    }
    assert NAMES[0] == browser(again, held[0]).get("/me").text
    assert 0 == run(again, "adopt").exit_code
    assert NAMES[1:3] == [browser(again, each).get("/me").text for each in held[1:]]


def test_back_after_a_session_was_revoked(
    old_site: Site, new_site: Site, tmp_path: Path
) -> None:
    """One that had not moved when it was ended is not there again: the command, which
    the page says to run first, takes it out of the table of the site before.
    """
    cookies = logged_in(old_site(), *NAMES[:2])
    new = new_site()
    run(new, "revoke", "--user", NAMES[0])
    assert 0 == run(new, "adopt").exit_code
    back, written = back_again(old_site, new, tmp_path)

    assert 1 == written
    found = [browser(back, cookie).get("/me").text for cookie in cookies]
    assert ["nobody", NAMES[1]] == found


def test_back_with_values_of_every_type(
    old_site: Site, shop: Flask, tmp_path: Path
) -> None:
    """What MessagePack or a signed cookie lacks logs nobody out."""
    first, second = shop.test_client(), shop.test_client()
    for client, name in ((first, "ann"), (second, "ben")):
        client.get(f"/login/{name}")
    first.get("/values")
    back, written = back_again(old_site, shop, tmp_path)
    cookies = pages(Flask("shop"))
    cookies.config["SECRET_KEY"] = "a key"
    cookies.session_interface = CookiesAgain(str(tmp_path / "sessions.jsonl"))

    assert 2 == written
    for site in (back, cookies):
        held = [cookie_of(client) for client in (first, second)]
        found = [browser(site, cookie).get("/me") for cookie in held]
        assert ["ann", "ben"] == [page.text for page in found]


def test_back_with_a_session_that_cannot_be_written(
    old_site: Site,
    shop: Flask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others are, and the log names it."""
    file, cookies = exported(shop, tmp_path, "ann", "ben")
    back = old_site()
    keep_tokens(back)
    interface: Any = back.session_interface
    encode = interface.serializer.encode

    def fail(data: dict[str, Any]) -> bytes:
        if data["_user_id"] == "ann":
            raise TypeError
        return bytes(encode(data))

    monkeypatch.setattr(interface.serializer, "encode", fail)
    assert 1 == fill(back, file)
    monkeypatch.undo()

    documents = map(json.loads, Path(file).read_text("ascii").splitlines())
    [handle] = [each["handle"] for each in documents if each["user_id"] == "ann"]
    assert f"Session {handle} is not written" in caplog.text
    assert "ben" == browser(back, cookies[1]).get("/me").text


def test_back_after_the_key_was_rotated(
    old_site: Site, make_app: MakeApp, shared_database_uri: str, tmp_path: Path
) -> None:
    """Sessions under an earlier key go back, too."""
    [cookie] = logged_in(pages(make_app(shared_database_uri)), "ann")
    rotated = {"SECRET_KEY": "another key", "SECRET_KEY_FALLBACKS": ["a key"]}
    new = pages(make_app(shared_database_uri, **rotated))
    assert "ann" == browser(new, cookie).get("/me").text
    file = str(tmp_path / "sessions.jsonl")
    run(new, "export", "--output", file)
    cookies = pages(Flask("shop"))
    cookies.config.update(rotated)
    cookies.session_interface = CookiesAgain(file)
    back = old_site()
    back.config.update(rotated)
    keep_tokens(back)
    fill(back, file)

    for site in (cookies, back):
        assert "ann" == browser(site, cookie).get("/me").text


def test_back_from_signed_ids(old_site: Site, new_site: Site, tmp_path: Path) -> None:
    """Browsers that still have the signed id of the site before are logged in, moved
    by the command or not at all.
    """
    cookies = logged_in(old_site(SESSION_USE_SIGNER=True), *NAMES[:3])
    new = new_site(SESSION_USE_SIGNER=True)
    run(new, "adopt", "--batch-size", "2", "--max-seconds", "0.000001")
    back, written = back_again(old_site, new, tmp_path)

    assert 2 == written
    assert NAMES[:3] == [browser(back, cookie).get("/me").text for cookie in cookies]


def test_export_on_a_full_disk(
    shop: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says so, and no part of a file is left in the way of the next try."""
    if not Path("/dev/full").exists():
        pytest.skip("This system has no /dev/full.")
    logged_in(shop, "ann")
    file, opened = tmp_path / "sessions.jsonl", os.open

    def full(path: Any, *options: Any) -> int:
        if path != str(file):
            return opened(path, *options)
        file.symlink_to("/dev/full")
        return opened(path, os.O_WRONLY)

    monkeypatch.setattr(os, "open", full)
    done = run(shop, "export", "--output", str(file))

    assert 1 == done.exit_code
    assert "cannot be written: No space left on device" in done.stderr
    assert not file.is_symlink()


# What Flask-Session calls its own.


def test_names_of_flask_session(shop: Flask) -> None:
    """What applications call of Flask-Session's works, or says what to call."""

    @shop.get("/regenerate")
    def regenerate() -> str:
        shop.session_interface.regenerate(session)  # type: ignore[attr-defined]
        return "ok"

    @shop.get("/sid")
    def sid() -> str:
        with pytest.raises(AttributeError, match=r"Use session\.handle"):
            _ = session.sid  # type: ignore[attr-defined]
        return str(hasattr(session, "sid"))

    client = shop.test_client()
    client.get("/login/ann")
    before = cookie_of(client)
    client.get("/regenerate")

    assert before != cookie_of(client)
    assert "ann" == client.get("/me").text
    assert "False" == client.get("/sid").text


def test_session_cleanup(shop: Flask, clock: Clock) -> None:
    """A timer that still calls ``flask session_cleanup`` deletes what has expired, and
    is told the new name.
    """
    shop.test_client().get("/login/ann")
    clock.now += 400 * DAY
    done = shop.test_cli_runner().invoke(args=["session_cleanup"])

    assert (0, "Deleted 1 expired session.\n") == (done.exit_code, done.stdout)
    assert "flask sessions purge" in done.stderr
    assert 0 == rows_of(shop, "flask_sessionsql")


def test_back_before_every_browser_has_come(
    old_site: Site, new_site: Site, tmp_path: Path
) -> None:
    """Half of the browsers have come, some were moved by the command, and one not at
    all, when the site goes back: all of them are still logged in.
    """
    cookies = logged_in(old_site(), *NAMES[:6])
    new = new_site()
    come = [browser(new, cookie) for cookie in cookies[:3]]
    for client in come:
        client.get("/me")
    done = run(new, "adopt", "--batch-size", "2", "--max-seconds", "0.000001")
    assert "Adopted 2 sessions." in done.stdout
    file = str(tmp_path / "sessions.jsonl")
    run(new, "export", "--output", file)
    back = old_site()
    keep_tokens(back)
    fill(back, file)

    held = [*map(cookie_of, come), *cookies[3:]]
    assert NAMES[:6] == [browser(back, cookie).get("/me").text for cookie in held]


def test_back_to_a_table_with_a_name_of_its_own(
    old_site: Site, new_site: Site, tmp_path: Path
) -> None:
    """When a site goes back, and its table has its name again, browsers that have not
    moved stay logged in, as do those that have.
    """
    prefix = {"SESSION_KEY_PREFIX": "shop:"}
    names = {"SESSION_SQLALCHEMY_TABLE": "visits", **prefix}
    cookies = logged_in(old_site(**names), *NAMES[:4])
    new = new_site(SESSION_ADOPT_TABLE="visits", **prefix)
    come = [browser(new, cookie) for cookie in cookies[:2]]
    for client in come:
        client.get("/me")
    file = str(tmp_path / "sessions.jsonl")
    run(new, "export", "--output", file)
    back = old_site(**names)
    keep_tokens(back)

    assert 2 == fill(back, file)
    held = [*map(cookie_of, come), *cookies[2:]]
    assert NAMES[:4] == [browser(back, cookie).get("/me").text for cookie in held]


def test_back_with_signed_ids(old_site: Site) -> None:
    """Tokens have no signature: it says what to remove."""
    back = old_site(SESSION_USE_SIGNER=True)
    with pytest.raises(RuntimeError, match="Remove SESSION_USE_SIGNER"):
        keep_tokens(back)
