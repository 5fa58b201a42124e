"""The links within the site lead somewhere."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .site import Page


def links(page: Page) -> set[str]:
    """The addresses on a page that are within the site."""
    found = {unescape(link) for link in re.findall(r'\shref="([^"]*)"', page.html)}
    return {link for link in found if link and not re.match(r"[a-z]+:", link)}


def leads_nowhere(html: Path, pages: dict[str, Page], page: Page, link: str) -> bool:
    """Whether a link has no page, or no place on it."""
    address = urlsplit(link)
    folder = html if "<base " in page.html else (html / page.name).parent
    path = address.path or page.name.rpartition("/")[2]
    target = folder / unquote(path).removeprefix("/")
    if target.is_dir():
        target /= "index.html"
    name = target.resolve().relative_to(html.resolve()).as_posix()
    if name not in pages:
        return not target.is_file()
    # The top of a page has no name.
    place = unquote(address.fragment)
    return bool(place) and place not in pages[name].ids


def test_links_within_the_site_lead_somewhere(
    html: Path, pages: dict[str, Page]
) -> None:
    """Every link to a page is to one that exists, and to a place that is on it."""
    assert sum(len(links(page)) for page in pages.values()) > 1000
    assert [] == [
        f"{page.name} links to {link}"
        for page in pages.values()
        for link in sorted(links(page))
        if leads_nowhere(html, pages, page, link)
    ]
