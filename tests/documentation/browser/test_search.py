"""The search of the site, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pages import DOCS

from .conftest import Reader

#: What people type, and the page that they look for.
QUESTIONS = {
    "gunicorn": "guides/production",
    "503": "guides/database-down",
    "log out everywhere": "guides/sign-out",
    "Flask-Login": "neighbours/flask-login",
    "pytest": "guides/testing",
    "nginx": "guides/production",
    "Flask-Session": "guides/moving",
    "SESSION_MAX_BYTES": "reference/settings#setting-SESSION_MAX_BYTES",
    "remember me": "guides/stay-logged-in",
    '"remember me"': "guides/stay-logged-in",
    "postgresql": "guides/servers",
}

#: More of what people type.
MORE = {
    "alembic": "guides/migrations",
    "asvs": "explanations/asvs",
    "celery": "guides/sign-out",
    "cookie": "explanations/request",
    "cost": "explanations/costs",
    "csrf": "neighbours/flask-wtf",
    "csrf token": "neighbours/flask-wtf",
    "delete session": "guides/sign-out",
    "devices": "tutorials/devices",
    "docker": "guides/production",
    "encryption": "guides/encryption",
    "expire": "explanations/lifetimes",
    "faster": "explanations/costs",
    "flask session": "guides/moving",
    "how do I log out a user everywhere?": "guides/sign-out",
    "https": "guides/production",
    "list sessions": "guides/sign-out",
    "logout": "guides/sign-out",
    "max bytes": "reference/settings#setting-SESSION_MAX_BYTES",
    "migration": "guides/migrations",
    "owasp": "explanations/asvs",
    "pickle": "explanations/values",
    "redis": "guides/moving",
    "samesite": "reference/settings#setting-SESSION_COOKIE_SAMESITE",
    "secret key": "guides/secret-key",
    "SessionInfo": "reference/api#flask_sessionsql.SessionInfo",
    "sqlite locked": "guides/sqlite",
    "timeout": "explanations/lifetimes",
    "too large": "explanations/values",
    "user id": "explanations/users",
}


def keywords() -> list[tuple[str, str]]:
    """What each page declares that people search for, and the page."""
    declared = []
    for path in sorted(DOCS.rglob("*.rst")):
        text = path.read_text("utf-8")
        found = re.findall(r"^   :keywords: (.+\n(?:    +.+\n)*)", text, re.MULTILINE)
        words = " ".join("".join(found).split())
        page = path.relative_to(DOCS).with_suffix("").as_posix()
        declared += [(word.strip(), page) for word in words.split(",") if word.strip()]
    return declared


def page_of(link: str, address: str) -> str:
    """A page's name, and the place in it, of a link to it."""
    return link.removeprefix(f"{address}/").replace(".html", "")


@pytest.mark.parametrize(("question", "page"), QUESTIONS.items())
def test_questions_find_their_page_first(
    reader: Reader, question: str, page: str
) -> None:
    """What somebody types into the search box of a page leads to what they look for."""
    reader.open("index.html")
    reader.tab.get_by_role("search").get_by_label("Search").fill(question)
    reader.tab.keyboard.press("Enter")
    reader.tab.locator(
        "#search-results li > a, .search-summary:text('.')"
    ).first.wait_for()
    links = reader.tab.locator("#search-results li > a").all()
    found = [
        page_of(str(link.evaluate("link => link.href")), reader.address)
        for link in links[:5]
    ]

    assert page == (found[0] if found else None), found


#: The first result of each question, of which the browser's window shows none.
ASK = """questions => questions.map((question) => {
  history.replaceState(null, "", "?q=" + encodeURIComponent(question));
  const results = Search._performSearch(...Search._parseQuery(question));
  const [page, , anchor] = results.at(-1) ?? ["nothing", "", ""];
  return page + anchor;
})"""


def first_results(reader: Reader, questions: list[str]) -> list[str]:
    """The first results of many questions, without a page for each of them."""
    reader.open("search.html")
    found: list[str] = reader.tab.evaluate(ASK, questions)
    return found


def test_more_questions_find_their_page_first(reader: Reader) -> None:
    """Names, abbreviations, parts of names and whole questions lead to their page."""
    found = first_results(reader, [*MORE])

    assert MORE == dict(zip(MORE, found, strict=True))


def test_keywords_find_their_page_first(reader: Reader) -> None:
    """What a page declares that people search for leads to this page."""
    declared = keywords()
    found = first_results(reader, [word for word, _ in declared])

    assert len(declared) > 100
    assert [] == [
        f"{word!r}, a keyword of {page}, finds {first} first"
        for (word, page), first in zip(declared, found, strict=True)
        if page != first
    ]


def test_settings_find_their_entry_first(reader: Reader, html: Path) -> None:
    """The name of a setting, in capitals or not, leads to its entry."""
    text = (html / "reference/settings.html").read_text("utf-8")
    names = re.findall(r'id="setting-(SESSION_\w+)"', text)
    typed = [*names, *map(str.lower, names)]

    assert len(names) > 20
    assert [] == [
        f"{name} finds {first} first"
        for name, first in zip(typed, first_results(reader, typed), strict=True)
        if f"reference/settings#setting-{name.upper()}" != first
    ]
