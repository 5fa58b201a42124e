"""``python -m benchmarks NAME``: run a benchmark by its name."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from benchmarks import frame

#: What each shows, in a line.
BENCHMARKS = {
    "cost": "what a request costs in one process, beside Flask's own sessions and"
    " those of others",
    "growth": "what a request costs as the table grows, and what a row takes",
    "server": "requests a second and their times on a whole server",
    "startup": "the time to import and set up, and memory over many requests",
    "purge": "what requests notice of a purge",
    "figures": "draw the documentation's pictures from the figures",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark. Its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Flask-SessionSql. Each benchmark has a --help of its own.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="benchmarks:\n"
        + "\n".join(f"  {name:10}{line}" for name, line in BENCHMARKS.items())
        + "\n\nexit code: the benchmark's; 2 if there is none of that name",
    )
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(arguments)
    module = import_module(f"benchmarks.{options.name}")
    return frame.main(module.BENCHMARK, options.options)


if __name__ == "__main__":
    sys.exit(main())
