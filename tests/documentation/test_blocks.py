"""Every block of every page is executed, and a console shows what is printed."""

from __future__ import annotations

from collections import Counter
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from flask_sessionsql.commands.base import TIME_OVER
from tests.conftest import MakeApp
from tests.integration.helpers import add_views, browser_with, token
from tests.pages import DOCS
from tests.throwaway import program

from .inventory import Found, all_blocks, calls, is_walked, way_of
from .lists import NOT_RUN, PREPARED
from .running import Shell, failures, has_commands, programs, run_page
from .source import block, blocks_of

PAGES = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.rst")
)
RUN = [name for name in PAGES if has_commands(name) and not is_walked(name)]


@pytest.mark.parametrize("name", RUN)
def test_console(name: str, tmp_path: Path) -> None:
    """What is typed as a page says prints what the page shows."""
    for needed in programs(name):
        program(needed, needed)

    wrong = [*failures(run_page(name, tmp_path))]

    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)


@pytest.fixture(scope="session")
def found(html: Path) -> list[Found]:
    return [*all_blocks(html / ".doctrees")]


def test_every_block_is_run(found: list[Found]) -> None:
    """A build or a test runs every block of every page, of docstrings and of the
    README; few are on a list that says why nothing does.
    """
    ways = {each: way_of(each) for each in found}
    print(Counter(ways.values()))
    missing = [
        f"{each.where}: nothing runs this block"
        f" ({each.language or 'no language'}): {each.first}"
        for each, way in ways.items()
        if way is None
    ]

    assert {None} != {*ways.values()}
    if missing:
        pytest.fail("\n".join([*missing, ADVICE]), pytrace=False)


ADVICE = """
Python that shows itself: '.. testcode:: GROUP' and '.. testoutput:: GROUP', or '>>>'.
Commands: '.. code-block:: console', where commands begin with '$ ' and their output
follows. A file that they need: '.. code-block:: LANGUAGE' with ':caption: NAME'.
Anything else: let a test read it by block(PAGE, FIRST_LINE_OR_CAPTION), from
tests/documentation/source.py, and try it. Or name it in NOT_RUN of lists.py, and say
why nothing can run it."""


def test_lists_are_up_to_date(found: list[Found]) -> None:
    """What is said of single blocks and pages is said of some that are there."""
    blocks = {(each.page, each.first) for each in found}
    blocks |= {(name, each.caption) for name in PAGES for each in blocks_of(name)}

    assert [] == [line for line in NOT_RUN if line[:2] not in blocks]
    assert set() == calls("block") - blocks
    assert set() == {*PREPARED} - {*RUN}
    assert all(why for _, _, why in NOT_RUN)


# Blocks that are tried by themselves.


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
    assert str(TIME_OVER) == service["Service"]["SuccessExitStatus"]
    assert "timers.target" == timer["Install"]["WantedBy"]
    assert "hourly" == timer["Timer"]["OnCalendar"]
