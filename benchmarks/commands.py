"""What the commands of the benchmarks share."""

from __future__ import annotations

import sys
from typing import NoReturn


def positive(text: str) -> int:
    """A number over 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def terminate(number: int, frame: object) -> NoReturn:
    """Clean up when told to end, as on Ctrl-C."""
    raise SystemExit(128 + number)
