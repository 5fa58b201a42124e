"""Sessions as Flask-Session 0.6 and earlier leave them, for the shop that moves in."""

from __future__ import annotations

import pickle
import sqlite3
import time

SESSIONS = [
    (
        f"session:old{number}",
        pickle.dumps({"user": number}),
        time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time.time() + 3600)),
    )
    for number in range(2)
]

if __name__ == "__main__":
    with sqlite3.connect("instance/moving.db") as database:
        database.executemany(
            "INSERT INTO sessions (session_id, data, expiry) VALUES (?, ?, ?)", SESSIONS
        )
