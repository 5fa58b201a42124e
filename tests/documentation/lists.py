"""What has to be known of single pages."""

from __future__ import annotations

from pathlib import Path

SHOPS = Path(__file__).parent / "shops"

_PIP = "It installs from a package index; what it installs, the tests run."
_NOX = "It sets up environments of its own: .ci/run types it."
_BENCHMARKS = "It takes up to 45 minutes; test_benchmarks.py tries its arguments."

#: Blocks that nothing runs: the page, the first line, and why. A page of docstrings is
#: named by where they are shown.
NOT_RUN: list[tuple[str, str, str]] = [
    ("../README", "$ pip install Flask-SessionSql", _PIP),
    ("../README", "$ sh tools/nox.sh -s quickstart", _NOX),
    ("guides/encryption", '$ pip install "Flask-SessionSql[encryption]"', _PIP),
    ("index", "$ pip install Flask-SessionSql", _PIP),
    ("index", '$ pip install "Flask-SessionSql[postgresql]"', _PIP),
    ("index", '$ pip install "Flask-SessionSql[mariadb]"', _PIP),
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

#: Shops with visitors.
_VISITED = [
    f"cp {SHOPS}/*.py .",
    "mkdir instance",
    "python -m tests.moving.sites flask-session"
    " sqlite:////srv/shop/instance/moving.db 4 >/dev/null",
    "python visits.py",
]

#: Commands that come before a page's own, in its folder, with the tests beside.
PREPARED: dict[str, list[str]] = {
    "reference/commands": _VISITED,
    "guides/sign-out": _VISITED,
    # Browsers that are logged in on the old site.
    "guides/moving": [
        "mkdir instance",
        "python -m tests.moving.sites flask-session"
        " sqlite:////srv/shop/instance/shop.db 6 >/dev/null",
    ],
}


def not_run(page: str, text: str) -> bool:
    """Whether a block is on the list."""
    first = text.strip().partition("\n")[0].strip()
    return any((page, first) == (where, line) for where, line, _ in NOT_RUN)
