"""The page about the OWASP Application Security Verification Standard: it has every
requirement, and each of the tests that it names is there.
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from tests.integration.helpers import browser_with, token
from tests.pages import DOCS, page

#: The requirements of ASVS 5.0.0 about sessions and about cookies, and their levels.
REQUIREMENTS = {
    **{"7.1.1": 2, "7.1.2": 2, "7.1.3": 2},
    **{"7.2.1": 1, "7.2.2": 1, "7.2.3": 1, "7.2.4": 1},
    **{"7.3.1": 2, "7.3.2": 2},
    **{"7.4.1": 1, "7.4.2": 1, "7.4.3": 2, "7.4.4": 2, "7.4.5": 2},
    **{"7.5.1": 2, "7.5.2": 2, "7.5.3": 3},
    **{"7.6.1": 2, "7.6.2": 2},
    **{"3.3.1": 1, "3.3.2": 2, "3.3.3": 2, "3.3.4": 2, "3.3.5": 3},
}
#: Of other chapters, those that a session has a part in.
OTHERS = {
    **{"1.5.2": 2, "14.2.1": 1, "14.3.1": 1, "14.3.2": 2},
    **{"16.2.5": 2, "16.4.1": 2, "16.5.1": 2, "16.5.3": 2},
}
WORKERS = {"package", "setting", "application", "provider"}

ROOT = DOCS.parent


def rows() -> list[list[str]]:
    """The cells of each row that begins with the number of a requirement."""
    found = re.findall(
        r"^   \* - (\d+\.\d\.\d\n(?:     .*\n|\n(?=     ))+)",
        page("explanations/asvs"),
        re.M,
    )
    return [[cell.strip() for cell in row.split("\n     - ")] for row in found]


def test_every_requirement_has_its_row() -> None:
    """Each requirement about sessions and cookies is there once, in the order of the
    standard and with its level.
    """
    asked = {row[0]: int(row[1]) for row in rows() if len(row) == 5}

    assert REQUIREMENTS | OTHERS == asked
    assert [*REQUIREMENTS, *OTHERS] == [row[0] for row in rows() if len(row) == 5]


def test_every_requirement_says_whose_work_it_is() -> None:
    """The package's, a setting's, the application's or the identity provider's."""
    who = {name for row in rows() if len(row) == 5 for name in row[3].split(", ")}

    assert WORKERS == who


def test_every_requirement_has_a_test_that_exists() -> None:
    """The tests that the page names are functions of those files."""
    shown = {row[0]: row[1] for row in rows() if len(row) == 2}

    assert {*REQUIREMENTS, *OTHERS} == {*shown}
    assert [] == [number for number, cell in shown.items() if "``test_" not in cell]
    assert [] == [test for cell in shown.values() for test in missing(cell)]


def missing(cell: str) -> list[str]:
    """The tests in a cell that are not there. It has files, each followed by the names
    of tests.
    """
    text, found = "", []
    for name in re.findall("``([^`]+)``", cell):
        if "/" in name:
            file = ROOT / name
            text = file.read_text("utf-8") if file.is_file() else ""
        elif f"\ndef {name}(" not in text:
            found.append(name)
    return found


def confirming() -> Flask:
    """The application in which a password is to be given again, as the page has it."""
    _, _, text = page("explanations/asvs").partition(".. testcode:: confirm\n")
    block, _, _ = text.partition("    browser = ")
    names: dict[str, Any] = {}
    exec(dedent(block), names)
    app: Flask = names["app"]
    return app


def status(browser: FlaskClient) -> int:
    return browser.post("/email").status_code


def test_a_confirmation_is_the_users_alone() -> None:
    """Who has a copy of the token from before the password was given again changes
    nothing, and neither does the next user of the browser (OWASP ASVS 5.0, 7.5.1).
    """
    app = confirming()
    browser = app.test_client()
    browser.post("/login")
    thief = browser_with(app, token(browser))
    assert 401 == status(thief) == status(browser)

    assert 403 == browser.post("/confirm", data={"password": "y"}).status_code
    assert 401 == status(browser)
    browser.post("/confirm", data={"password": "correct horse"})
    assert 200 == status(browser)
    assert 401 == status(thief)

    with browser.session_transaction() as opened:
        opened["_user_id"] = "bob"
    assert 401 == status(browser)
