"""The search of the site: the words that a page declares as what people search for.

``.. meta::`` with ``:keywords: nginx, behind a proxy`` makes these words lead to the
page. They are in the index that the browser loads, and ``scorer.js`` counts them.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx.addnodes import index
from sphinx.application import Sphinx


def keywords(doctree: Any) -> list[str]:
    """The words and phrases that a page declares."""
    declared = [
        meta["content"]
        for meta in doctree.findall(nodes.meta)
        if meta.get("name") == "keywords"
    ]
    phrases = [phrase.split() for text in declared for phrase in text.split(",")]
    return [" ".join(words) for words in phrases if words]


def declare_keywords(app: Sphinx, doctree: Any, docname: str) -> None:
    """Put them where Sphinx's search looks: each phrase as an entry of the index, and
    each word into the text. An index shows nothing on the page.
    """
    phrases = keywords(doctree)
    if app.builder.format != "html" or not phrases:
        return
    joined = [phrase.replace(" ", "") for phrase in phrases]  # log out, logout
    entries = [("single", phrase, "", "main", None) for phrase in phrases]
    text = nodes.Text(" ".join([*phrases, *joined]))
    doctree.append(index("", text, entries=entries))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what this module has."""
    app.connect("doctree-resolved", declare_keywords)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
