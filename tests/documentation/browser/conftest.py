"""The site, served to a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browsers import browser, chromium, playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browser", "chromium", "playwright"]


class Handler(SimpleHTTPRequestHandler):
    """Gives out the files of a folder."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Not where tests print."""


class Reader:
    """Somebody who reads the site."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.address = address
        #: What the browser asked other hosts for.
        self.elsewhere: list[str] = []
        self.context = browser.new_context(reduced_motion="reduce")
        self.context.set_default_timeout(10_000)
        self.context.on("request", lambda request: self._note(request.url))
        self.tab: Page = self.context.new_page()

    def open(self, page: str) -> None:
        self.tab.goto(f"{self.address}/{page}")

    def resize(self, width: int) -> None:
        self.tab.set_viewport_size({"width": width, "height": 900})

    def _note(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(f"{self.tab.url} asks for {url}")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of the files in a folder meanwhile."""
    handler = partial(Handler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def address(html: Path) -> Iterator[str]:
    """Where the site is served."""
    with served(html) as address:
        yield address


@pytest.fixture
def reader(browser: Browser, address: str) -> Iterator[Reader]:
    """A reader, who has not been here before. No page asks other hosts for anything."""
    reader = Reader(browser, address)
    yield reader
    reader.context.close()
    assert [] == reader.elsewhere
