"""Visitors of the shops, some of them long ago: it moves the clock of the page."""

from __future__ import annotations

import os
import pickle
import sqlite3
import time
from pathlib import Path

from moving_shop import app as moving  # type: ignore[import-not-found]
from shop import app as shop

HOUR = 3600
CLOCK = Path(os.environ["PAGE_CLOCK"])


def visit(when: float, **values: str) -> None:
    """Somebody puts values into a new session."""
    CLOCK.write_text(str(int(when * 10**9)))
    assert shop.test_client().post("/", data=values).status_code == 200


def old_sessions(now: float) -> None:
    """Sessions as Flask-Session 0.6 and earlier leave them: pickles."""
    Path(moving.instance_path).mkdir(exist_ok=True)
    with sqlite3.connect(f"{moving.instance_path}/moving.db") as database:
        for number in range(2):
            row = (f"session:old{number}", pickle.dumps({"user": number}))
            database.execute(
                "INSERT INTO sessions (session_id, data, expiry) VALUES (?, ?, ?)",
                (*row, time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now + HOUR))),
            )


if __name__ == "__main__":
    now = time.time()
    for hours in range(12):
        visit(now - (200 + hours) * HOUR, cart="tea")
    visit(now - 26 * HOUR, _user_id="ann", theme="dark", cart="tea, milk, sugar")
    visit(now - 20 * HOUR, _user_id="bob")
    visit(now - 3 * HOUR, _user_id="ann")
    visit(now - HOUR, cart="coffee")
    CLOCK.write_text(str(int(now * 10**9)))
    old_sessions(now)
