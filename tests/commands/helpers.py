"""How commands are run."""

from __future__ import annotations

import os
import pty
import sys
from unittest.mock import patch

from flask import Flask
from flask.cli import ScriptInfo


def with_progress(app: Flask, *arguments: str) -> tuple[str, str]:
    """What ``flask sessions`` prints on standard output, and what it shows on standard
    error, which is a terminal.
    """
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with os.fdopen(theirs, "w") as terminal:
        runner = app.test_cli_runner()
        with runner.isolation() as (stdout, *_), patch.object(sys, "stderr", terminal):
            app.cli.main(
                ["sessions", *arguments],
                obj=ScriptInfo(create_app=lambda: app),
                standalone_mode=False,
            )
            printed = stdout.getvalue().decode()
        shown = os.read(ours, 10_000).decode()
    os.close(ours)
    return printed, shown
