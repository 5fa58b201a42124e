"""The Python in the pages about other packages, run as it is written."""

from __future__ import annotations

import sys
from textwrap import dedent
from types import ModuleType
from typing import Any

from tests.pages import page

#: How a block begins.
DIRECTIVE = ".. code-block:: python"


def blocks(text: str) -> list[str]:
    """The blocks of a page, each without its indentation."""
    found, lines = [], iter([*text.splitlines(), "."])
    for line in lines:
        if line.strip() != DIRECTIVE:
            continue
        depth, inside = len(line) - len(line.lstrip()), []
        for each in lines:
            if each.strip() and len(each) - len(each.lstrip()) <= depth:
                break
            inside.append(each)
        found.append(dedent("\n".join(inside)).strip() + "\n")
    return found


def run_blocks(name: str) -> dict[str, Any]:
    """Run the Python blocks of ``docs/neighbours/<name>.rst``, one after the other, in
    one module. The names that it has then.
    """
    module = ModuleType(f"neighbours_{name.replace('-', '_')}")
    # Where extensions look for the application's folder.
    sys.modules[module.__name__] = module
    try:
        for number, block in enumerate(blocks(page(f"neighbours/{name}")), 1):
            exec(compile(block, f"{name}.rst, block {number}", "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    return vars(module)
