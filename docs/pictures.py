"""The directive that draws: ``.. picture:: request.svg`` puts a drawing of
``docs/_static/pictures`` into a page.

The drawing is part of the page's HTML, and not an image that the page loads. So its
text is text, and its colors change with the theme. Screen readers read its ``<title>``
and ``<desc>``. Formats without pictures have these two instead.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import SphinxDirective

#: Where the drawings are.
PICTURES = Path(__file__).parent / "_static" / "pictures"
SVG = "{http://www.w3.org/2000/svg}"


class PictureError(SphinxError):
    """A drawing cannot be put on a page. Says why."""

    category = "Picture"


class picture(nodes.General, nodes.Element):  # type: ignore[misc]  # noqa: N801
    """A drawing in a page: ``svg`` is what it looks like, ``alt`` what it says."""


def drawing(name: str) -> str:
    """The ``<svg>`` of a drawing, without what is before it in its file."""
    text = (PICTURES / name).read_text("utf-8")
    return text[text.index("<svg") :].strip()


def said(name: str) -> str:
    """What a drawing says, in words.

    :raises PictureError: it does not.
    """
    root = ElementTree.fromstring(drawing(name))  # noqa: S314 - it is our own
    words = [" ".join((root.findtext(SVG + tag) or "").split()) for tag in TEXTS]
    if not all(words):
        raise PictureError(f"{name} needs a <title> and a <desc>.")
    return "{}. {}".format(*words)


#: What a drawing says of itself, in this order.
TEXTS = ("title", "desc")


class Picture(SphinxDirective):
    """``.. picture:: NAME.svg`` puts a drawing into the page."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Read the drawing."""
        [name] = self.arguments
        if not (PICTURES / name).is_file():
            raise self.error(f"There is no {name!r} in {PICTURES}.")
        self.env.note_dependency(str(PICTURES / name))
        return [picture("", svg=drawing(name), alt=said(name))]


def visit_html(translator: Any, node: picture) -> None:
    """The drawing itself. What a file needs and a page does not is left out."""
    svg = re.sub(r' xmlns="[^"]*"', "", node["svg"], count=1)
    translator.body.append(f'<figure class="picture">\n{svg}\n</figure>\n')
    raise nodes.SkipNode


def visit_other(translator: Any, node: picture) -> None:
    """What the drawing says, in a format that has no pictures."""
    paragraph = nodes.paragraph("", "", nodes.Text(f"[{node['alt']}]"))
    paragraph.walkabout(translator)
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what this module has."""
    app.add_node(
        picture,
        html=(visit_html, None),
        text=(visit_other, None),
        latex=(visit_other, None),
        man=(visit_other, None),
        texinfo=(visit_other, None),
    )
    app.add_directive("picture", Picture)
    app.add_css_file("pictures.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
