"""The documentation against the specification: nothing in it was lost.

Both are read by Sphinx and turned into a list of facts: titles, sentences, lines of
code, rows of tables, notes and links, in their order. The documentation may say more
than the specification. Where it says something else, :data:`DEPARTURES` says why.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .site import Build

SPECIFICATION = Path(__file__).parent / "specification"


class Fact(NamedTuple):
    """One thing that a page says."""

    kind: str
    text: str
    #: The row of a table that it stands in.
    row: str = ""


@dataclass(frozen=True)
class Departure:
    """A fact of the specification that the documentation has not."""

    fact: Fact
    #: What stands in its place; ``None`` for nothing.
    instead: str | None
    reason: str

    @property
    def replacement(self) -> Fact | None:
        return None if self.instead is None else self.fact._replace(text=self.instead)


PIP_ONLY = "easy_install is gone; pip is what everybody has"
OLD_FLASK = "Flask 0.8 is from 2011, and that page is gone; 3.1.3 mends CVE-2026-27205"
DEAD_LINK = "flask.pocoo.org is gone"
OWN_NAME = "the specification names another extension by mistake"
SPELLING = "misspelt"
UNTRUE = "it was not true of this package"

DEPARTURES = (
    Departure(Fact("title", "Flask-Session"), "Flask-SessionSql", OWN_NAME),
    Departure(
        Fact(
            "sentence",
            "Flask 0.8 or newer is required, if you are using an older version, check"
            " Support for Old and New Sessions out.",
        ),
        "Flask 3.1.3 or newer is required.",
        OLD_FLASK,
    ),
    Departure(
        Fact("link", "Flask: http://flask.pocoo.org/"),
        "Flask: https://flask.palletsprojects.com/",
        DEAD_LINK,
    ),
    Departure(
        Fact(
            "link",
            "Support for Old and New Sessions: http://flask.pocoo.org/snippets/52/",
        ),
        None,
        OLD_FLASK,
    ),
    Departure(
        Fact("link", "Flask Documentation: http://flask.pocoo.org/docs/"),
        "Flask Documentation: https://flask.palletsprojects.com/",
        DEAD_LINK,
    ),
    Departure(Fact("code", "$ easy_install Flask-SessionSql"), None, PIP_ONLY),
    Departure(
        Fact("sentence", "or alternatively if you have pip installed:"), None, PIP_ONLY
    ),
    Departure(
        Fact("code", "from flask.ext.session import Session"),
        "from flask_sessionsql import Session",
        "Flask 1.0 removed flask.ext",
    ),
    Departure(
        Fact(
            "sentence",
            "Note that these values cannot be modified after the init_app was applyed"
            " so make sure to not modify them at runtime.",
        ),
        "Note that these values cannot be modified after the init_app was applied so"
        " make sure to not modify them at runtime.",
        SPELLING,
    ),
    Departure(
        Fact(
            "sentence",
            "They are all understood by Flask-Session, for example, you should use"
            " PERMANENT_SESSION_LIFETIME to control your session lifetime.",
        ),
        "They are all understood by Flask-SessionSql, for example, you should use"
        " PERMANENT_SESSION_LIFETIME to control your session lifetime.",
        OWN_NAME,
    ),
    Departure(
        Fact(
            "row",
            "the domain for the session cookie. If this is not set, the cookie will be"
            " valid for all subdomains of SERVER_NAME.",
            "SESSION_COOKIE_DOMAIN",
        ),
        "the domain for the session cookie. If this is not set, the cookie will be"
        " valid for the host that set it, and for no subdomain.",
        "since Flask 2.3 the domain of the cookie has nothing to do with SERVER_NAME",
    ),
    Departure(
        Fact(
            "row",
            "Specifies which type of session interface to use. Built-in session types:"
            " null: NullSessionInterface (default)"
            " flask-sqlalchemy: FlaskSQLAlchemySEssionInterface",
            "SESSION_TYPE",
        ),
        "Specifies which type of session interface to use. Built-in session types:"
        " null: NullSessionInterface (default)"
        " flask-sqlalchemy: FlaskSQLAlchemySessionInterface",
        SPELLING,
    ),
    Departure(
        Fact("row", "See Sql Alchemy doc", "SQLALCHEMY_ECHO"),
        "See SQLAlchemy doc",
        SPELLING,
    ),
    Departure(
        Fact(
            "sentence",
            "The Session instance is not used for direct access, you should always use"
            " flask.session:",
        ),
        "You read and write your session through flask.session; you need the Session"
        " instance only for calls on other sessions, such as revoke_user().",
        f"{UNTRUE}: it has the calls on sessions",
    ),
    Departure(
        Fact("sentence", "Basically you only need to configure SESSION_TYPE."),
        "Basically you only need to configure SESSION_TYPE and SECRET_KEY.",
        f"{UNTRUE}: without a secret key there is no session",
    ),
    Departure(
        Fact("note", "All non-null sessions in Flask-SessionSql are permanent."),
        "All non-null sessions in Flask-SessionSql are permanent, unless you set"
        " SESSION_PERMANENT or session.permanent to False.",
        f"{UNTRUE}: applications can decide otherwise",
    ),
)


# Reading.


def facts_of(doctrees: Path) -> list[Fact]:
    """The facts of the page ``index``, in their order."""
    with (doctrees / "index.doctree").open("rb") as file:
        return list(_joined(_walk(pickle.load(file))))


#: Nodes that are one fact. A class is documented under its name as under a title.
_KINDS = {
    "desc_name": "title",
    "note": "note",
    "paragraph": "sentence",
    "term": "sentence",
    "title": "title",
}


def _walk(node: Any) -> Iterator[Fact]:
    """The facts under a node; of prose, one for each block."""
    if node.tagname in _KINDS:
        yield Fact(_KINDS[node.tagname], _text(node))
        yield from _links(node)
    elif node.tagname == "literal_block":
        for line in node.astext().splitlines():
            if line.strip():
                yield Fact("code", line.rstrip())
    elif node.tagname == "row":
        name, *cells = node.children
        yield Fact("row", " ".join(map(_text, cells)), _text(name))
        yield from _links(node)
    elif node.tagname != "system_message":  # what Sphinx says about the page
        for child in node.children:
            yield from _walk(child)
        if node.tagname == "container":  # which ends a sentence
            yield Fact("container", "")


def _text(node: Any) -> str:
    """The text of a node, without its line breaks and without Sphinx's remarks."""
    if node.tagname == "system_message":
        return ""
    if not node.children:
        return " ".join(node.astext().split())
    if node.tagname in ("paragraph", "title", "desc_name", "term"):
        return " ".join(node.astext().split())
    return " ".join(filter(None, map(_text, node.children)))


def _links(node: Any) -> Iterator[Fact]:
    for link in node.findall(lambda inner: inner.tagname == "reference"):
        if link.get("refuri"):
            yield Fact("link", f"{_text(link)}: {link['refuri']}")


def _joined(facts: Iterator[Fact]) -> Iterator[Fact]:
    """Prose in sentences, however it is cut into blocks: the specification breaks off
    in the middle of one. Links follow the sentence that they stand in.
    """
    begun = ""
    links: list[Fact] = []
    for fact in facts:
        if fact.kind == "link":
            links.append(fact)
            continue
        if fact.kind != "sentence":
            if begun:
                yield Fact("sentence", begun)
            yield from links
            begun, links = "", []
            yield fact
            continue
        *whole, begun = re.split(r"(?<=[.:!?])\s+", f"{begun} {fact.text} ".lstrip())
        yield from (Fact("sentence", text) for text in whole)
        begun = begun.strip()
        if not begun:
            yield from links
            links = []
    if begun:
        yield Fact("sentence", begun)
    yield from links


# Comparing.


def says(ours: Fact, theirs: Fact) -> bool:
    """Whether one fact holds another. A row of a table may go on where the
    specification's ends.
    """
    if theirs.kind == "row" == ours.kind:
        return (ours.row, True) == (
            theirs.row,
            f"{ours.text} ".startswith((f"{theirs.text} ", f"{theirs.text}. ")),
        )
    return ours == theirs


def lost(
    specification: Sequence[Fact],
    documentation: Sequence[Fact],
    departures: Sequence[Departure] = DEPARTURES,
) -> list[str]:
    """What the documentation lacks, or has in another order."""
    departure_of = {departure.fact: departure for departure in departures}
    complaints = []
    position = 0
    for fact in specification:
        departure = departure_of.get(fact)
        wanted = departure.replacement if departure else fact
        if wanted is None:
            continue
        for index in range(position, len(documentation)):
            if says(documentation[index], wanted):
                position = index + 1
                break
        else:
            elsewhere = any(says(ours, wanted) for ours in documentation)
            complaints.append(f"{'out of order' if elsewhere else 'lost'}: {wanted}")
    return complaints


def stale(
    specification: Sequence[Fact],
    documentation: Sequence[Fact],
    departures: Sequence[Departure] = DEPARTURES,
) -> list[str]:
    """The departures that speak of nothing, or are none."""
    return [
        f"the specification does not say: {departure.fact}"
        for departure in departures
        if departure.fact not in specification
    ] + [
        f"the documentation says, too: {departure.fact}"
        for departure in departures
        if any(says(ours, departure.fact) for ours in documentation)
    ]


# The two pages.


class Read(NamedTuple):
    """A page that was read."""

    facts: list[Fact]
    complaints: str


@pytest.fixture(scope="module")
def specification(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Read:
    target = tmp_path_factory.mktemp("specification")
    options = ("-b", "dummy", "-C", "-d", str(target / "doctrees"))
    complaints = build(SPECIFICATION, target, *options)
    return Read(facts_of(target / "doctrees"), complaints)


@pytest.fixture(scope="module")
def documentation(html: Path) -> list[Fact]:
    return facts_of(html / ".doctrees")


def test_specification_is_read(specification: Read) -> None:
    """Every part of the specification is seen, in spite of the two places where its
    indentation is broken.
    """
    kinds = [fact.kind for fact in specification.facts]

    assert {
        "title": 6,
        "sentence": 22,
        "link": 3,
        "code": 23,
        "row": 9,
        "note": 1,
    } == {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    assert 2 == specification.complaints.count("index.rst:")


def test_nothing_is_lost(specification: Read, documentation: list[Fact]) -> None:
    """The documentation says all that the specification says, in the same order, but
    for the departures; and what stands in their place is there.
    """
    assert [] == lost(specification.facts, documentation)


def test_departures_are_departures(
    specification: Read, documentation: list[Fact]
) -> None:
    """Each departure is from something that the specification says and the
    documentation does not.
    """
    assert [] == stale(specification.facts, documentation)
    assert len(DEPARTURES) == len({departure.fact for departure in DEPARTURES})
    assert all(departure.reason for departure in DEPARTURES)


def test_comparison_sees_what_is_missing(
    specification: Read, documentation: list[Fact]
) -> None:
    """Were any one fact left out of the documentation, the comparison would tell."""
    replaced = {departure.fact: departure.replacement for departure in DEPARTURES}
    wanted = [replaced.get(fact, fact) for fact in specification.facts]

    for fact in filter(None, wanted):
        rest = [ours for ours in documentation if not says(ours, fact)]
        assert lost(specification.facts, rest), fact


def test_comparison_sees_another_order(
    specification: Read, documentation: list[Fact]
) -> None:
    """Were the documentation the other way round, the comparison would tell."""
    complaints = lost(specification.facts, documentation[::-1])

    assert any(complaint.startswith("out of order: ") for complaint in complaints)


def test_comparison_sees_stale_departures(
    specification: Read, documentation: list[Fact]
) -> None:
    """A departure from what is not in the specification is told, and so is one from
    what the documentation says as well.
    """
    invented = Departure(Fact("title", "Nowhere"), None, "made up")
    none = Departure(Fact("title", "Installation"), None, "made up")

    assert [
        f"the specification does not say: {invented.fact}",
        f"the documentation says, too: {none.fact}",
    ] == stale(specification.facts, documentation, [invented, none])
