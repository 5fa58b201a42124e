"""The site by keyboard, and on a phone."""

from __future__ import annotations

import pytest

from .conftest import Reader

#: What has the focus: what it is called, and whether it can be seen that it has.
FOCUS = """() => {
  const each = document.activeElement;
  const label = document.querySelector(`label[for="${each.id}"].nav-overlay-icon`)
    ?? [...document.querySelectorAll(`label[for="${each.id}"].toc-overlay-icon`)]
      .find(icon => icon.offsetWidth);
  const box = (each.matches(".sidebar-toggle") ? label : each);
  const place = box.getBoundingClientRect();
  const style = getComputedStyle(box);
  return {
    name: each.ariaLabel || each.dataset.tooltip || each.innerText || each.outerHTML,
    seen: style.outlineStyle !== "none" && style.opacity === "1"
      && style.visibility === "visible" && place.width > 1
      && place.right > 0 && place.left < innerWidth
      && place.bottom > 0 && place.top < innerHeight,
  };
}"""
THEME = "Toggle Light / Dark / Auto color theme"


def steps(reader: Reader) -> list[tuple[str, bool]]:
    """What has the focus after each press of the tabulator, once around the page."""
    found: list[tuple[str, bool]] = []
    while True:
        reader.tab.keyboard.press("Tab")
        if reader.tab.evaluate("document.activeElement === document.body"):
            return found
        focus = reader.tab.evaluate(FOCUS)
        found.append((str(focus["name"]).strip(), bool(focus["seen"])))


def test_skipping_to_the_text(reader: Reader) -> None:
    """The first thing that the keyboard reaches skips the menu."""
    reader.resize(1600)
    reader.open("guides/sqlite.html")
    reader.tab.keyboard.press("Tab")
    name = reader.tab.evaluate("document.activeElement.innerText")
    reader.tab.keyboard.press("Enter")
    reader.tab.keyboard.press("Tab")

    assert name == "Skip to content"
    assert reader.tab.url.endswith("#furo-main-content")
    assert reader.tab.evaluate(
        "document.querySelector('article').contains(document.activeElement)"
    )


@pytest.mark.parametrize("width", [390, 1280, 1600])
def test_focus_is_visible(reader: Reader, width: int) -> None:
    """Whatever the keyboard reaches is in the window, and shows that it was reached;
    the search is reached, the theme and each block that can be copied.
    """
    reader.resize(width)
    reader.open("guides/sqlite.html")
    reached = steps(reader)
    names = [name for name, _ in reached]

    assert [] == [name for name, seen in reached if not seen]
    assert THEME in names
    assert width == 390 or "Search" in names
    assert "Copy" in names


@pytest.mark.parametrize("means", ["tap", "keyboard"])
def test_menu_of_a_phone(reader: Reader, means: str) -> None:
    """On a phone the menu is out of the way until it is opened, and can be closed."""
    reader.resize(390)
    reader.open("guides/sqlite.html")
    search = reader.tab.get_by_role("search")
    before = search.is_visible()
    if means == "tap":
        reader.tab.locator(".nav-overlay-icon").click()
    else:
        reader.tab.get_by_label("Toggle site navigation sidebar").press(" ")
    search.wait_for(state="visible")
    opened = reader.tab.locator(".sidebar-drawer").bounding_box()
    if means == "tap":
        reader.tab.mouse.click(380, 600)  # beside the menu
    else:
        reader.tab.get_by_label("Toggle site navigation sidebar").press(" ")
    search.wait_for(state="hidden")

    assert not before
    assert opened is not None
    assert 0 <= opened["x"] + opened["width"] <= 390


def test_contents_of_a_page_on_a_phone(reader: Reader) -> None:
    """On a phone the contents of a page open beside it, and lead to a section."""
    reader.resize(390)
    reader.open("guides/sqlite.html")
    reader.tab.locator(".toc-header-icon").click()
    link = reader.tab.locator(".toc-tree li li a").first
    link.wait_for(state="visible")
    link.click()

    assert "#" in reader.tab.url


def test_theme_is_kept(reader: Reader) -> None:
    """The button for the theme has a name, and the next page is as it was left."""
    reader.open("index.html")
    reader.tab.get_by_role("button", name=THEME).first.click()
    chosen = reader.tab.evaluate("document.body.dataset.theme")
    reader.open("guides/sqlite.html")

    assert chosen in ("light", "dark")
    assert chosen == reader.tab.evaluate("document.body.dataset.theme")
