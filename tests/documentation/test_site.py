"""The site around the pages: the landing page, the navigation, and what readers,
search engines, previews of links and programs are given.
"""

from __future__ import annotations

import posixpath
import re
import runpy
import tomllib
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from flask_sessionsql.config import SETTINGS
from tests.pages import DOCS
from tools import quickstart

from .site import GROUPS, Build, Page

ROOT = DOCS.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
#: The pages that Sphinx makes by itself.
OF_SPHINX = {"404.html", "genindex.html", "search.html"}


def written(pages: dict[str, Page]) -> dict[str, Page]:
    """The pages that somebody has written."""
    return {name: each for name, each in pages.items() if name not in OF_SPHINX}


def addresses(html: str) -> list[str]:
    """The addresses that a piece of HTML links to."""
    return [unescape(found) for found in re.findall(r'<a [^>]*?href="([^"]*)"', html)]


# The landing page.


@pytest.fixture
def landing(pages: dict[str, Page]) -> str:
    """The HTML of the first screen."""
    html = pages["index.html"].html
    return html[html.index('class="landing') : html.index("Welcome to Flask-")]


def test_landing_page_has_eight_lines_of_code(landing: str) -> None:
    """The first code that a visitor sees has eight lines."""
    [code] = re.findall("<pre.*?</pre>", landing, re.DOTALL)
    code = re.sub("<[^>]*>", "", code)

    assert 8 == len([*filter(str.strip, code.splitlines())])
    assert "\nSession(app)\n" in code


def test_landing_page_installs_each_database(landing: str) -> None:
    """It has the command for SQLite, PostgreSQL and MariaDB, with extras that exist."""
    text = unescape(re.sub("<[^>]*>", "", landing))
    extras = re.findall(r'pip install "Flask-SessionSql\[(\w+)\]"', text)

    assert ["postgresql", "mariadb"] == extras
    assert {*extras} <= PROJECT["project"]["optional-dependencies"].keys()
    assert all(name in text for name in ("SQLite", "PostgreSQL", "MariaDB"))


def test_landing_page_proves_its_promises(landing: str) -> None:
    """Each promise links to the page that demonstrates it."""
    promises = landing[landing.index('class="promises') :]
    promised = addresses(promises[: promises.index("I want to")])

    assert [
        "explanations/merging.html",
        "explanations/security.html",
        "explanations/costs.html",
        "explanations/lifetimes.html",
    ] == promised


def test_landing_page_has_one_chart(landing: str) -> None:
    """It shows one chart, in a light and in a dark version."""
    assert 2 == landing.count("<img ")
    assert "cost-short-light.svg" in landing
    assert "cost-short-dark.svg" in landing


def test_landing_page_leads_to_every_job(landing: str) -> None:
    """It links to every tutorial and to every guide."""
    links = {*addresses(landing[landing.index("I want to") :])}

    assert (
        set()
        == {
            f"{folder}/{path.stem}.html"
            for folder in ("tutorials", "guides")
            for path in (DOCS / folder).glob("*.rst")
            if path.stem != "index"
        }
        - links
    )


def test_landing_page_has_no_internals(pages: dict[str, Page]) -> None:
    """What only the package itself calls is not on the landing page."""
    assert [] == [
        name
        for name in ("records", "holds_lock", "current_config", "save_session")
        if re.search(rf"\b{name}\b", pages["index.html"].text)
    ]


def test_quickstart_says_how_to_run_it(pages: dict[str, Page]) -> None:
    """It names the file, the command and what the browser shows, and all of them are
    what the session quickstart tries.
    """
    text = " ".join(pages["index.html"].text.split())
    start = text.index("create the Session object by passing it")
    _, _, text = text[start:].partition("Write this into a file ")

    assert text.startswith("quickstart.py")
    assert "$ flask --app quickstart run" in text
    assert "Open http://127.0.0.1:5000/get/ in a browser" in text
    assert " ".join(shown for _, shown in quickstart.VISITS) in text
    source = (ROOT / "tools/quickstart.py").read_text("utf-8")
    assert '"--app", "quickstart", "run"' in source


# The navigation.


def test_every_page_has_the_navigation(pages: dict[str, Page]) -> None:
    """The sidebar has the way home, the groups, the version and the changes."""
    for each in written(pages).values():
        folder = posixpath.dirname(each.name)
        sidebar = each.html[each.html.index("<aside") : each.html.index("</aside>")]
        links = {
            posixpath.normpath(posixpath.join(folder, link))
            for link in addresses(sidebar)
        } | {each.name}

        assert f"Version {PROJECT['project']['version']}" in sidebar, each.name
        assert ">Home</a>" in sidebar, each.name
        assert {
            "index.html",
            *(f"{group}/index.html" for group in GROUPS),
            "project/changes.html",
        } <= links, each.name


def test_source_is_linked_where_it_has_an_address(pages: dict[str, Page]) -> None:
    """The sidebar links to the source as soon as the project has an address for it."""
    urls = PROJECT["project"].get("urls", {})
    index = pages["index.html"].html
    sidebar = index[index.index("<aside") : index.index("</aside>")]

    assert ("Source" in urls) == (">Source</a>" in sidebar)
    template = (DOCS / "_templates/sidebar/links.html").read_text("utf-8")
    assert "project_links" in template


@pytest.mark.parametrize("group", GROUPS)
def test_contents_say_what_each_page_is_for(group: str, pages: dict[str, Page]) -> None:
    """The first page of a folder lists the others, with a line about each."""
    html = pages[f"{group}/index.html"].html
    body = html[html.index("<article") : html.index("</article>")]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    listed = {
        links[0]: re.sub("<[^>]*>", "", row.partition("</td>")[2]).strip()
        for row in rows
        if (links := addresses(row))
    }

    assert {
        f"{path.stem}.html"
        for path in (DOCS / group).glob("*.rst")
        if path.stem != "index"
    } == {link for link in listed if link.count("/") == 0}
    assert [] == [link for link, text in listed.items() if not text]


# What is around a page.


def test_pages_describe_themselves(pages: dict[str, Page]) -> None:
    """Every page has a title and a description of its own, and both are in the preview
    of a link to it (Open Graph).
    """
    seen: dict[str, str] = {}
    for each in pages.values():
        description = each.meta("description")
        assert description, f"{each.name} has no '.. meta::' with a description"
        assert description not in seen, f"as in {seen[description]}: {each.name}"
        seen[description] = each.name
        assert re.search(r"<title>\s*\S+", each.html), each.name
        assert each.meta("og:title"), each.name
        assert "Flask-SessionSql" == each.meta("og:site_name"), each.name
        assert description == each.meta("og:description"), each.name
        assert each.meta("og:type") in ("website", "article"), each.name


def test_pages_have_one_viewport(pages: dict[str, Page]) -> None:
    """Every page tells a telephone its width once."""
    assert [] == [
        each.name
        for each in pages.values()
        if 1 != sum(meta.get("name") == "viewport" for meta in each.metas)
    ]


def test_pages_have_an_icon(html: Path, pages: dict[str, Page]) -> None:
    """Every page has our icon, which is a drawing."""
    for each in pages.values():
        [icon] = [link for link in each.links if "icon" in (link.get("rel") or "")]
        assert (icon["href"] or "").split("?")[0].endswith("_static/favicon.svg")
    assert "<svg" in (html / "_static/favicon.svg").read_text("utf-8")


def test_pages_can_be_printed(html: Path, pages: dict[str, Page]) -> None:
    """Every page has a style for paper, which leaves the navigation out."""
    style = (html / "_static/print.css").read_text("utf-8")

    assert "@media print" in style
    assert ".sidebar-drawer" in style
    assert [] == [
        each.name
        for each in written(pages).values()
        if not any("print.css" in address for address in each.loaded)
    ]


def test_pages_are_small(html: Path, pages: dict[str, Page]) -> None:
    """No page is larger than 250 KB."""
    assert {} == {
        name: size
        for name in pages
        if (size := (html / name).stat().st_size) > 250 * 1024
    }


# For programs.


def test_llms_txt_lists_every_page(html: Path, pages: dict[str, Page]) -> None:
    """``llms.txt`` links to every page once, with its description, and to the text of
    all of them.
    """
    text = (html / "llms.txt").read_text("utf-8")
    links = re.findall(r"^- \[.+\]\((.+)\): (\S.*)$", text, re.MULTILINE)
    expected = {
        name: " ".join((each.meta("description") or "").split())
        for name, each in written(pages).items()
    }

    assert text.startswith("# Flask-SessionSql\n\n> ")
    assert "llms-full.txt" in text
    assert len(links) == len(dict(links))
    assert expected == dict(links)


def test_llms_full_txt_has_every_page(html: Path, pages: dict[str, Page]) -> None:
    """``llms-full.txt`` has the text of every page, and no HTML."""
    text = (html / "llms-full.txt").read_text("utf-8")
    begun = re.findall(r"^={88}\n(\S+)\n\n(.+)", text, re.MULTILINE)

    assert {*written(pages)} == {name for name, _ in begun}
    assert "Session(app)" in text
    assert [] == [key for key in SETTINGS if key not in text]
    assert "<div" not in text


def test_not_found_page_leads_back(html: Path, pages: dict[str, Page]) -> None:
    """The page for an address that there is not has links that lead to pages from any
    depth, and a search.
    """
    page = pages["404.html"].html
    links = addresses(page)

    assert '<base href="/">' in page
    assert len(links) > len(GROUPS)
    assert [] == [link for link in links if not (html / link).is_file()]
    assert 'action="search.html"' in page


# The address.

SMALL = """\
import sys
sys.path.insert(0, {root!r})
project = "Shop"
html_title = project
extensions = ["docs.site"]
html_theme = "basic"
templates_path = [{templates!r}]
html_baseurl = {address!r}
"""


@pytest.fixture
def small(build: Build, tmp_path: Path, address: str) -> Path:
    """A site of two pages at this address."""
    conf = SMALL.format(
        root=str(ROOT), templates=str(DOCS / "_templates"), address=address
    )
    (tmp_path / "conf.py").write_text(conf, "utf-8")
    about = ".. meta::\n   :description: A shop's {0}.\n\n{0}\n====="
    for name, rest in (("index", "\n\n.. toctree::\n\n   guides/a"), ("guides/a", "")):
        path = tmp_path / f"{name}.rst"
        path.parent.mkdir(exist_ok=True)
        path.write_text(about.format("pages") + rest + "\n", "utf-8")
    build(tmp_path, tmp_path / "site", "-b", "html")
    return tmp_path / "site"


@pytest.mark.parametrize("address", ["https://shop.example/en/stable/"])
def test_a_site_with_an_address(small: Path, address: str) -> None:
    """Where the address is known, pages and their previews name theirs, there is a
    sitemap, and the page for what is not found begins its links there.
    """
    inner = (small / "guides/a.html").read_text("utf-8")

    assert f'<link rel="canonical" href="{address}guides/a.html"' in inner
    assert f'<meta property="og:url" content="{address}guides/a.html">' in inner
    assert [f"{address}guides/a.html", f"{address}index.html"] == re.findall(
        "<loc>(.*)</loc>", (small / "sitemap.xml").read_text("utf-8")
    )
    assert f"({address}guides/a.html)" in (small / "llms.txt").read_text("utf-8")
    assert '<base href="/en/stable/">' in (small / "404.html").read_text("utf-8")


def test_a_site_without_an_address(html: Path, pages: dict[str, Page]) -> None:
    """Where the address is not known, nothing names one."""
    if "Documentation" in PROJECT["project"].get("urls", {}):
        pytest.skip("It has an address.")

    assert not (html / "sitemap.xml").exists()
    assert [] == [
        each.name
        for each in pages.values()
        if each.meta("og:url") or any(link["rel"] == "canonical" for link in each.links)
    ]


@pytest.mark.site
@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("https://shop.example/en/latest/", "https://shop.example/en/latest/"),
        ("https://shop.example/en/latest", "https://shop.example/en/latest/"),
        ("", PROJECT["project"].get("urls", {}).get("Documentation", "")),
    ],
)
def test_where_the_address_comes_from(
    given: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what the host of the documentation says, or what pyproject.toml says."""
    pytest.importorskip("sphinx", reason="the nox session docs installs it")
    monkeypatch.setenv("READTHEDOCS_CANONICAL_URL", given)
    conf = runpy.run_path(str(DOCS / "conf.py"), {"tags": set()})

    assert address == conf["html_baseurl"]
