"""Everybody can read the site, on a phone and on a large screen, in both themes."""

from __future__ import annotations

from importlib.resources import files
from itertools import product
from pathlib import Path

import pytest

from .conftest import Reader

#: The levels A and AA of WCAG 2.2.
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
#: What each theme is tried for: all rules in the one, and in the other those about what
#: differs there, its colors and its pictures. The rest would take as long again.
THEMES = {
    "light": {"type": "tag", "values": LEVELS},
    "dark": {
        "type": "rule",
        "values": [
            "color-contrast",
            "image-alt",
            "link-in-text-block",
            "link-name",
            "svg-img-alt",
        ],
    },
}
WIDTHS = [390, 1280]
LOOKS = list(product(THEMES, WIDTHS))

#: Marks some of the elements with text. Contrast, which takes axe longest to find, is
#: that of a color, a ground and a size: of the many elements that share them, such as
#: the words of code, axe looks at the first three.
SAMPLE = """() => {
  const grounds = new Map([[null, "none"]]);
  const ground = element => {
    if (!grounds.has(element)) {
      const color = getComputedStyle(element).backgroundColor;
      const clear = color === "rgba(0, 0, 0, 0)";
      grounds.set(element, clear ? ground(element.parentElement) : color);
    }
    return grounds.get(element);
  };
  const seen = {};
  for (const each of document.body.querySelectorAll("*")) {
    const texts = [...each.childNodes].filter(node => node.nodeType === Node.TEXT_NODE);
    if (!texts.some(text => text.data.trim()) && !each.matches("input")) continue;
    if (!each.checkVisibility({visibilityProperty: true, opacityProperty: true}))
      continue;
    const {color, fontSize, fontWeight, opacity} = getComputedStyle(each);
    const look = [color, fontSize, fontWeight, opacity, ground(each)].join();
    seen[look] = (seen[look] ?? 0) + 1;
    if (seen[look] <= 3) each.dataset.sample = "";
  }
  axe.configure({rules: [{id: "color-contrast", selector: "[data-sample]"}]});
}"""
#: What axe finds wrong: the rule, the element and how to mend it.
FIND = """async runOnly => {
  const found = await axe.run(document, {
    runOnly, resultTypes: ["violations"], iframes: false, preload: false,
  });
  return found.violations.flatMap(rule => rule.nodes.map(
    node => `${rule.id}: ${node.target.join(" ")}: ${node.failureSummary}`
  ));
}"""
#: By how many pixels a page is wider than the window, and what sticks out of it.
STICKING_OUT = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("body, body *")]
    .filter(each => each.getBoundingClientRect().right > width + 1)
    .map(each => each.outerHTML.slice(0, 120))
    .concat(["nothing, but it scrolls"])
    .slice(0, 3);
}"""


@pytest.fixture(scope="session")
def axe() -> str:
    """The program that looks for what keeps people from reading a page."""
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


def pages_of(html: Path) -> list[str]:
    return sorted(path.relative_to(html).as_posix() for path in html.rglob("*.html"))


def test_pages_never_scroll_sideways(reader: Reader, html: Path) -> None:
    """On no screen, from a small phone to a wide monitor."""
    names, wide = pages_of(html), list[str]()
    for name in names:
        reader.open(name)
        for width in (320, 390, 768, 1024, 1152, 1280, 1600):
            reader.resize(width)
            found: list[str] = reader.tab.evaluate(STICKING_OUT)
            wide += [f"{name}, {width} px: {each}" for each in found]

    assert len(names) > 40
    assert not wide, "\n".join(wide)


def show(reader: Reader, theme: str, width: int) -> None:
    """Let a reader choose a theme, which pages keep, and a width."""
    reader.context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    reader.resize(width)


@pytest.mark.parametrize(("theme", "width"), LOOKS)
def test_pages_are_accessible(
    reader: Reader, html: Path, axe: str, theme: str, width: int
) -> None:
    """No page breaks a rule of WCAG 2.2 AA."""
    show(reader, theme, width)
    reader.context.add_init_script(axe)
    names = pages_of(html)
    wrong: list[str] = []
    for name in names:
        reader.open(name)
        where = f"{name}, {theme}, {width} px"
        reader.tab.evaluate(SAMPLE)
        found: list[str] = reader.tab.evaluate(FIND, THEMES[theme])
        wrong += [f"{where}: {each}" for each in found]

    assert len(names) > 40
    assert not wrong, "\n".join(wrong)
