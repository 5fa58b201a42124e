"""What has to be known of single pages."""

from __future__ import annotations

import re
from pathlib import Path

SHOPS = Path(__file__).parent / "shops"

#: What a reader does once, and the tests have done: nothing runs such a command.
SETTING_UP = re.compile(
    r"(python -m )?pip install .*|python -m venv .*|(\.|source) \S*/bin/activate"
)
_NOX = "It sets up environments of its own: .ci/run types it."
_BENCHMARKS = "It takes up to 45 minutes; test_benchmarks.py tries its arguments."

#: Blocks that nothing runs: the page, the first line, and why. A page of docstrings is
#: named by where they are shown.
NOT_RUN: list[tuple[str, str, str]] = [
    ("../README", "$ sh tools/nox.sh -s quickstart", _NOX),
    (
        "index",
        "$ flask --app quickstart run",
        "It serves until it is stopped: the session quickstart serves it.",
    ),
    (
        "index",
        "$ python -c 'import secrets; print(secrets.token_hex())'",
        "It prints something else each time.",
    ),
    ("project/contributing", "$ sh tools/nox.sh", _NOX),
    (
        "project/contributing",
        "$ sh tools/nox.sh -s tests-3.13 -- tests/storage/test_store.py",
        _NOX,
    ),
    (
        "project/contributing",
        "$ sh tools/nox.sh -R -s tests-3.13 -- tests/storage/test_store.py -k purge",
        _NOX,
    ),
    ("project/contributing", "$ sh tools/nox.sh -s docs_live", _NOX),
    (
        "project/contributing",
        "$ sh tools/nox.sh -s tests-3.13 -- tests/documentation/test_blocks.py"
        " -k sqlite",
        _NOX,
    ),
    (
        "explanations/costs",
        "$ sh tools/nox.sh -s benchmarks -- cost --profile read --database sqlite",
        _BENCHMARKS,
    ),
    ("explanations/measurements", "$ sh tools/nox.sh -s benchmarks", _BENCHMARKS),
    (
        "explanations/measurements",
        "$ sh tools/nox.sh -s benchmarks -- --help",
        _BENCHMARKS,
    ),
    (
        "explanations/measurements",
        "$ sh tools/nox.sh -s benchmarks -- cost --quick",
        _BENCHMARKS,
    ),
]

#: Commands that come before a page's own, in its folder, with the tests beside.
PREPARED: dict[str, list[str]] = {
    # Shops with visitors.
    "reference/commands": [
        f"cp {SHOPS}/*.py .",
        "mkdir instance",
        "python -m tests.moving.sites flask-session"
        " sqlite:////srv/shop/instance/moving.db 4 >/dev/null",
        "python visits.py",
        "python pickles.py",
    ],
    "guides/sign-out": [f"cp {SHOPS}/*.py .", "python visits.py"],
    # Browsers that are logged in on the old site.
    "guides/moving": [
        "mkdir instance",
        "python -m tests.moving.sites flask-session"
        " sqlite:////srv/shop/instance/shop.db 6 >/dev/null",
    ],
}


def sets_up(text: str) -> bool:
    """Whether a console block only makes an environment and a folder."""
    commands = [line for line in text.splitlines() if line.strip()]
    return any(SETTING_UP.fullmatch(line[2:]) for line in commands) and all(
        SETTING_UP.fullmatch(line[2:]) or line.startswith(("$ mkdir ", "$ cd "))
        for line in commands
    )


def not_run(page: str, text: str) -> bool:
    """Whether a block is on the list."""
    first = text.strip().partition("\n")[0].strip()
    return any((page, first) == (where, line) for where, line, _ in NOT_RUN)
