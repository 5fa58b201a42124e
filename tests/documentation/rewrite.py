"""``python -m tests.documentation.rewrite PAGE ...`` runs pages and lets them show what
their commands print: ``PAGE`` is a name such as ``reference/commands``.

Output that a page shows with ``...`` stays if it is right so.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.pages import DOCS, page

from .running import failures, rewritten, run_page

#: A handle that a later command names is another one in the next run.
MOST_RUNS = 4


def rewrite(name: str) -> list[str]:
    """Rewrite a page; gives what is still wrong with it."""
    for _ in range(MOST_RUNS):
        with tempfile.TemporaryDirectory() as folder:
            ran = run_page(name, Path(folder))
        text = rewritten(page(name), ran)
        if text == page(name):
            break
        (DOCS / f"{name}.rst").write_text(text, "utf-8")
    return [*failures(ran)]


if __name__ == "__main__":
    wrong = [each for name in sys.argv[1:] for each in rewrite(name)]
    sys.exit("\n".join(wrong) or None)
