"""Visitors of the shop, some of them long ago: it moves the clock of the page."""

from __future__ import annotations

import os
import time
from pathlib import Path

from shop import app as shop

HOUR = 3600
CLOCK = Path(os.environ["PAGE_CLOCK"])


def visit(when: float, **values: str) -> None:
    """Somebody puts values into a new session."""
    CLOCK.write_text(str(int(when * 10**9)))
    assert shop.test_client().post("/", data=values).status_code == 200


if __name__ == "__main__":
    now = time.time()
    for hours in range(12):
        visit(now - (200 + hours) * HOUR, cart="tea")
    visit(now - 26 * HOUR, _user_id="ann", theme="dark", cart="tea, milk, sugar")
    visit(now - 20 * HOUR, _user_id="bob")
    visit(now - 3 * HOUR, _user_id="ann")
    visit(now - HOUR, cart="coffee")
    CLOCK.write_text(str(int(now * 10**9)))
