"""The example, with pages besides that answer when a test tells them to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import request
from flask_login import current_user

from examples.devices.devices import app
from flask_sessionsql import session

FOLDER = Path(os.environ["SLOW_FOLDER"])
#: Seconds that a test may take.
PATIENCE = 20.0


def slow() -> str | None:
    """``/slow/early/NAME`` reads the session, waits, and writes to it;
    ``/slow/late/NAME`` waits first. It waits from when it makes the file
    ``NAME.begun`` until there is a file ``NAME.go``. The answer says who was logged in.
    """
    _, _, rest = request.path.partition("/slow/")
    if not rest:
        return None
    when, _, name = rest.partition("/")
    if when == "early":
        session.get("written")
    (FOLDER / f"{name}.begun").touch()
    until = time.monotonic() + PATIENCE
    while not (FOLDER / f"{name}.go").exists():
        if time.monotonic() > until:
            raise TimeoutError("no test told this page to go on")
        time.sleep(0.01)
    session["written"] = name
    return f"user {current_user.get_id()}"


# Before the example asks who is there: it is the browser's request that is looked at.
app.before_request_funcs[None].insert(0, slow)
