"""Blocks of pages that are tried by themselves: what they are for, they do."""

from __future__ import annotations

import re
from configparser import ConfigParser
from pathlib import Path
from typing import Any, cast

from flask_sessionsql import FlaskSQLAlchemySessionInterface
from flask_sessionsql.commands.base import TIME_OVER
from flask_sessionsql.commands.checks import check_all
from tests.conftest import MakeApp
from tests.integration.helpers import add_views, browser_with, token
from tests.pages import DOCS

from .lists import PREPARED
from .running import Shell
from .source import block


def test_first_page_of_all(tmp_path: Path) -> None:
    """The application in the README counts the visits of a browser."""
    code = block("../README", "from flask import Flask, session")
    names: dict[str, Any] = {"__name__": "shop"}
    exec(code.replace("sqlite:////tmp/", f"sqlite:///{tmp_path}/"), names)
    app = names["app"]
    browser, other = app.test_client(), app.test_client()

    assert f"sqlite:///{tmp_path}/test.db" == app.config["SQLALCHEMY_DATABASE_URI"]
    assert "Visit number 1." == browser.get("/").text
    assert "Visit number 2." == browser.get("/").text
    assert "Visit number 1." == other.get("/").text
    app.session_interface.records.store.dispose()


def test_keys_of_pages_are_known_to_the_check(make_app: MakeApp) -> None:
    """Who has copied one is told that everybody knows it, or that it is short."""
    texts = [path.read_text("utf-8") for path in sorted(DOCS.rglob("*.rst"))]
    found = re.findall(r"""SECRET_KEY(?:"\])? ?= ?"([^"]+)\"""", "\n".join(texts))
    keys = set(found) - {
        # They say what to put there, and those pages run the check.
        "replace this by a random text of your own",
        "the key that the site has already",
    }

    assert len(keys) > 3
    for key in keys:
        app = make_app("sqlite://", SECRET_KEY=key)
        interface = cast(FlaskSQLAlchemySessionInterface, app.session_interface)
        findings = check_all(app, interface)
        assert "SECRET_KEY" in {finding.subject for finding in findings}, key


def test_rotated_key(make_app: MakeApp, tmp_path: Path) -> None:
    """With the settings that the page about rotating shows, sessions of the old key
    are found.
    """
    settings: dict[str, Any] = {}
    exec(block("guides/secret-key", "config.py"), settings)
    [old] = settings["SECRET_KEY_FALLBACKS"]
    address = f"sqlite:///{tmp_path}/shop.db"
    before = add_views(make_app(address, SECRET_KEY=old)).test_client()
    before.get("/set/key/value")
    rotated = {name: settings[name] for name in ("SECRET_KEY", "SECRET_KEY_FALLBACKS")}
    after = browser_with(add_views(make_app(address, **rotated)), token(before))

    assert "'value'" == after.get("/get/key").text


def unit(text: str) -> ConfigParser:
    """A file of systemd's."""
    found = ConfigParser(interpolation=None)
    found.read_string(text)
    return found


def test_timers(tmp_path: Path) -> None:
    """What the timers of the page about commands run purges, from where they run it,
    and the exit code of a purge that was cut short is no failure.
    """
    line = block(
        "reference/commands",
        "15 3 * * *  cd /srv/shop && venv/bin/flask --app shop sessions purge"
        " --max-seconds 3600",
    )
    service = unit(
        block("reference/commands", "/etc/systemd/system/shop-purge.service")
    )
    site = unit(block("guides/production", "shop.service"))
    timer = unit(block("reference/commands", "/etc/systemd/system/shop-purge.timer"))
    with Shell(tmp_path, "reference/commands") as shell:
        for command in PREPARED[shell.page]:
            shell.prepare(command)
        shell.run('mkdir venv && ln -s "$(dirname "$(which python)")" venv/bin')
        from_cron = shell.run(f"(cd / && {line.split(maxsplit=5)[5].strip()})")
        started = service["Service"]["ExecStart"]
        from_systemd = shell.run(
            f"cd {service['Service']['WorkingDirectory']};{started}"
        )

    assert (["Deleted 12 expired sessions."], 0) == from_cron
    assert (["Deleted 0 expired sessions."], 0) == from_systemd
    environment = site["Service"]["EnvironmentFile"]
    assert environment == service["Service"]["EnvironmentFile"]
    assert str(TIME_OVER) == service["Service"]["SuccessExitStatus"]
    assert "timers.target" == timer["Install"]["WantedBy"]
    assert "hourly" == timer["Timer"]["OnCalendar"]
