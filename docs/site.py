"""What the site has beside its pages: what search engines, previews of links and
language models read, and the page for an address that there is not.

The public address is optional. Without one there is no canonical link and no sitemap.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes  # type: ignore[import-untyped]
from sphinx.addnodes import toctree
from sphinx.application import Sphinx
from sphinx.builders.text import TextBuilder
from sphinx.util.display import status_iterator
from sphinx.util.logging import suppress_logging
from sphinx.util.tags import Tags

#: Sphinx's own pages, which cannot describe themselves.
OF_SPHINX = {
    "404": "There is no page at this address of the documentation.",
    "genindex": "All settings, classes, functions, exceptions and commands by name.",
    "search": "Search the documentation by word.",
}
#: furo has one, and docutils writes another.
VIEWPORT = re.compile(r'<meta name="viewport"[^>]*>\s*')
DESCRIPTION = re.compile(r'<meta content="([^"]*)" name="description" */?>')


def describe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Give each page a description, the tags of the Open Graph and one viewport."""
    tags = VIEWPORT.sub("", context.get("metatags") or "")
    if page in OF_SPHINX:
        tags += f'<meta content="{escape(OF_SPHINX[page])}" name="description">\n'
    title = (
        unescape(re.sub("<[^>]*>", "", context.get("title") or ""))
        or app.config.project
    )
    found = DESCRIPTION.search(tags)
    graph = {
        "type": "website" if page == app.config.root_doc else "article",
        "site_name": app.config.project,
        "title": title or app.config.project,
        "description": unescape(found[1]) if found else "",
        "url": context.get("pageurl") or "",
    }
    context["metatags"] = tags + "".join(
        f'<meta property="og:{name}" content="{escape(text)}">\n'
        for name, text in graph.items()
        if text
    )
    context["site_path"] = urlsplit(app.config.html_baseurl).path or "/"


def not_found(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The page for an address that there is not. Its own address can be of any depth,
    so that its links begin at the root of the site.
    """
    groups = [
        {"title": app.env.titles[page].astext(), "address": f"{page}.html"}
        for page in app.env.toctree_includes[app.config.root_doc]
    ]
    yield "404", {"title": "Page not found", "groups": groups}, "404.html"


# For programs.


def write_for_programs(app: Sphinx, exception: Exception | None) -> None:
    """Write ``llms.txt``, ``llms-full.txt`` and, where the address is known,
    ``sitemap.xml``.
    """
    if exception is not None or app.builder.name != "html":
        return
    folder = Path(app.outdir)
    (folder / "llms.txt").write_text(contents(app), "utf-8")
    (folder / "llms-full.txt").write_text(full_text(app), "utf-8")
    if app.config.html_baseurl:
        (folder / "sitemap.xml").write_text(sitemap(app), "utf-8")


def in_order(app: Sphinx, page: str) -> Iterator[str]:
    """The names of a page and of those below it, as the sidebar has them."""
    yield page
    for below in app.env.toctree_includes.get(page, ()):
        if below in app.env.all_docs:
            yield from in_order(app, below)


def description(app: Sphinx, page: str) -> str:
    """What ``.. meta::`` says of a page."""
    for node in app.env.get_doctree(page).findall(nodes.meta):
        if node.get("name") == "description":
            return str(node["content"])
    return ""


def address(app: Sphinx, page: str) -> str:
    """The address of a page; without the site's, it is relative to its root."""
    return f"{app.config.html_baseurl}{app.builder.get_target_uri(page)}"


def contents(app: Sphinx) -> str:
    """A list of all pages, with what each is for (https://llmstxt.org)."""
    root = app.config.root_doc
    lines = [
        f"# {app.config.project}",
        "",
        f"> {description(app, root)}",
        "",
        f"The text of all pages: {app.config.html_baseurl}llms-full.txt",
        "",
        f"- [{app.config.project}]({address(app, root)}): {description(app, root)}",
    ]
    for group in app.env.toctree_includes.get(root, ()):
        lines += ["", f"## {app.env.titles[group].astext()}", ""]
        lines += [
            f"- [{app.env.titles[page].astext()}]({address(app, page)}):"
            f" {description(app, page)}"
            for page in in_order(app, group)
        ]
    return "\n".join(lines) + "\n"


def full_text(app: Sphinx) -> str:
    """All pages as plain text, one after the other."""
    builder = TextBuilder(app, app.env)
    builder.init()
    pages = [*dict.fromkeys(in_order(app, app.config.root_doc))]
    return "\n".join(
        f"{'=' * 88}\n{address(app, page)}\n\n{text_of(app, builder, page)}"
        for page in status_iterator(
            pages, "writing text... ", length=len(pages), verbosity=app.verbosity
        )
    )


def text_of(app: Sphinx, builder: TextBuilder, page: str) -> str:
    """A page as plain text."""
    doctree = app.env.get_doctree(page)
    for hidden in [*doctree.findall(toctree)]:
        hidden.parent.remove(hidden)
    tags = Tags(["text", "format_text", "builder_text"])
    with suppress_logging():  # what is wrong was said when the page was written
        resolved = app.env.get_and_resolve_doctree(
            page, builder, tags=tags, doctree=doctree
        )
    builder.current_docname = page
    builder.secnumbers = {}
    translator: Any = builder.create_translator(resolved, builder)
    resolved.walkabout(translator)
    return str(translator.body)


def sitemap(app: Sphinx) -> str:
    """The addresses of all pages (https://www.sitemaps.org)."""
    entries = "".join(
        f"<url><loc>{escape(address(app, page))}</loc></url>\n"
        for page in sorted(app.env.found_docs)
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n'
        f"{entries}</urlset>\n"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what this module has."""
    app.connect("html-page-context", describe)
    app.connect("html-collect-pages", not_found)
    app.connect("build-finished", write_for_programs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
