"""The drawings: readable in both themes, on any screen, and by screen readers."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests.pages import DOCS

from .site import Build, Page

pytest.importorskip("sphinx", reason="Sphinx comes with `nox -s docs`")

from docs import pictures
from docs.pictures import PICTURES, SVG, PictureError, drawing, said

#: All of them: they read what Sphinx's extension says.
pytestmark = pytest.mark.site

NAMES = sorted(path.name for path in PICTURES.glob("*.svg"))
STYLE = (PICTURES.parent / "pictures.css").read_text("utf-8")
#: How wide a character is in a wide font, as a part of its height.
WIDTH = 0.62
#: The height of text, by its class; 16 for any other.
HEIGHT = {"small": 14, "code": 14}
#: What the text keeps clear of, at least: the edges of its box and of the drawing.
CLEAR = 3


class Box(NamedTuple):
    """An area of a drawing, and what it says."""

    left: float
    top: float
    right: float
    bottom: float
    text: str = ""

    def holds(self, other: Box, clear: float = 0) -> bool:
        """Whether the other one is in it, and so far away from its edges."""
        return (
            self.left + clear <= other.left
            and other.right <= self.right - clear
            and self.top <= other.top
            and other.bottom <= self.bottom
        )

    def overlaps(self, other: Box) -> bool:
        """Whether both have some place in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def root_of(name: str) -> Element:
    return ElementTree.fromstring(drawing(name))


def frame(root: Element) -> Box:
    """The whole drawing."""
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    return Box(left, top, width, height)


def texts(root: Element) -> list[Box]:
    """What is written in a drawing, and where, in a wide font."""
    found = []
    for each in root.iter(f"{SVG}text"):
        classes = each.get("class", "").split()
        height = min([HEIGHT.get(name, 16) for name in classes] or [16])
        text = each.text or ""
        width = WIDTH * height * len(text)
        shift = {"middle": width / 2, "end": width}
        left = float(each.attrib["x"]) - sum(shift.get(name, 0) for name in classes)
        line = float(each.attrib["y"])
        top, bottom = line - 0.75 * height, line + 0.2 * height
        found.append(Box(left, top, left + width, bottom, text))
    return found


def boxes(root: Element) -> list[Box]:
    """The rectangles of a drawing, the smallest first."""
    found = []
    for each in root.iter(f"{SVG}rect"):
        x, y, width, height = (
            float(each.attrib[key]) for key in ("x", "y", "width", "height")
        )
        found.append(Box(x, y, x + width, y + height))
    return sorted(
        found, key=lambda box: (box.right - box.left) * (box.bottom - box.top)
    )


def around(text: Box, root: Element) -> Box:
    """The smallest box that the middle of a text is in."""
    x, y = (text.left + text.right) / 2, (text.top + text.bottom) / 2
    middle = Box(x, y, x, y)
    return next((box for box in boxes(root) if box.holds(middle)), frame(root))


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_says_what_it_shows(name: str) -> None:
    """It is one image with a title and a description, which screen readers read."""
    root = root_of(name)
    labels = [root.find(SVG + tag) for tag in ("title", "desc")]

    assert "img" == root.get("role")
    assert root.get("aria-labelledby") == " ".join(
        label.attrib["id"] for label in labels if label is not None
    )
    assert len(said(name)) > 100


def test_ids_are_of_one_picture_only() -> None:
    """Two pictures on one page do not disturb each other."""
    ids = [
        (name, each.attrib["id"])
        for name in NAMES
        for each in root_of(name).iter()
        if "id" in each.attrib
    ]

    assert len(NAMES) >= 7
    assert [] == [
        (name, each)
        for name, each in ids
        if not each.startswith(f"picture-{name.removesuffix('.svg')}-")
    ]
    assert len(ids) == len({*ids})


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_has_the_colors_of_the_theme(name: str) -> None:
    """It names no color, so that it follows light and dark: the style sheet has one for
    each of its classes.
    """
    elements = [*root_of(name).iter()]
    named = {attribute for each in elements for attribute in each.attrib}
    classes = {word for each in elements for word in each.get("class", "").split()}

    assert set() == named & {"fill", "stroke", "color", "style", "opacity"}
    assert set() == classes - {*re.findall(r"\.([a-z]+)", STYLE)}


def test_the_style_sheet_takes_its_colors_from_the_theme() -> None:
    """Each color is a variable of the theme's, and else the browser's."""
    colors = re.findall(r"^  (?:fill|stroke|color|background): (.*);$", STYLE, re.M)
    variables = re.findall(r"^  --picture-\w+: (.*);$", STYLE, re.M)

    assert len(colors) > 10
    assert {*colors} <= {"none"} | {
        f"var(--picture-{name})" for name in re.findall(r"--picture-(\w+):", STYLE)
    }
    assert [] == [
        each
        for each in variables
        if not re.fullmatch(r"var\(--color-[a-z-]+, [A-Z][A-Za-z]+\)", each)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_text_fits(name: str) -> None:
    """In a wide font, too, no text is wider than its box or hits another one."""
    root = root_of(name)
    found = texts(root)

    assert [] == [
        text.text for text in found if not around(text, root).holds(text, CLEAR)
    ]
    assert [] == [
        (one.text, other.text)
        for one, other in combinations(found, 2)
        if one.overlaps(other)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_fits_a_phone(name: str) -> None:
    """Scaled to 340 pixels, its smallest text is still 9 pixels high."""
    assert 340 / frame(root_of(name)).right * min(HEIGHT.values()) >= 9


def test_every_picture_is_on_a_page(pages: dict[str, Page]) -> None:
    """And it is part of the page, not an image that the page loads."""
    titles = {name: f"picture-{name.removesuffix('.svg')}-title" for name in NAMES}

    assert [] == [
        name
        for name, title in titles.items()
        if not any(title in page.ids for page in pages.values())
    ]


# The directive.


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A documentation of one page with one picture."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "index.rst").write_text("A\n=\n\n.. picture:: clocks.svg\n", "utf-8")
    (folder / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(DOCS.parent)!r})\n"
        "extensions = ['docs.pictures']\nhtml_theme = 'basic'\n",
        "utf-8",
    )
    return folder


def test_in_html_it_is_drawn(build: Build, source: Path, tmp_path: Path) -> None:
    """The page has the drawing, with its text as text."""
    build(source, tmp_path, "-b", "html", "-W")
    page = (tmp_path / "index.html").read_text("utf-8")

    assert '<figure class="picture">\n<svg class="picture"' in page
    assert "idle lifetime: 1 hour</text>" in page


def test_in_text_it_is_described(build: Build, source: Path, tmp_path: Path) -> None:
    """Where there are no pictures, the text has what the picture says."""
    build(source, tmp_path, "-b", "text", "-W")
    text = (tmp_path / "index.txt").read_text("utf-8")

    assert said("clocks.svg") in " ".join(text.split())


def test_a_picture_without_words_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what it lacks."""
    monkeypatch.setattr(pictures, "PICTURES", tmp_path)
    (tmp_path / "mute.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg'><title>A</title></svg>", "utf-8"
    )

    with pytest.raises(PictureError, match=r"mute\.svg needs a <title> and a <desc>"):
        said("mute.svg")
