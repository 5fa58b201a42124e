"""The frame that every benchmark plugs into: one way to parse, run, print and write.

A benchmark is a module with a :class:`Benchmark`. Its ``run`` yields documents, one for
each thing that it has finished, whose lists are put together. Each is printed at once,
as the tables that the documentation makes of it; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import results, tables
from benchmarks.blocks import as_text

Options = argparse.Namespace

SERVERS = """\
servers: SESSIONSQL_POSTGRESQL_URL, SESSIONSQL_MARIADB_URL and SESSIONSQL_REDIS_URL say
where they are, or they are the local ones. Each run has a database of its own there.

exit code: 0, whether aims are met or not; 1 if a request was answered wrongly, memory
grew or a server is missing; 2 if the options are wrong; 130 or 143 if interrupted
"""


class BrokenError(Exception):
    """What is measured did something else than it should: the exit code is 1."""


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark gives to the frame.

    :ivar name: its module's.
    :ivar text: says in its help what it does.
    :ivar run: measures, and yields a document after each part. What is wrong with the
        sessions stands in its ``faults``, and makes the exit code 1.
    :ivar databases: what ``--database`` can choose; nothing where there is no choice.
    :ivar options: its own options, as argparse has them.
    :ivar quick: what options are with ``--quick``, unless they are given.
    :ivar packages: whose versions are written down, besides those that all use.
    """

    name: str
    text: str
    run: Callable[[Options], Iterator[dict[str, Any]]]
    databases: Sequence[str] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    quick: Mapping[str, Any] = field(default_factory=dict)
    packages: Sequence[str] = ()


def amount(
    help: str, default: float | None, least: float = 1, **more: Any
) -> dict[str, Any]:
    """An option that is a number, as large as ``least`` or larger, of its type."""

    def convert(text: str) -> float:
        value = type(least)(text)
        if not least <= value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} is not from {least:g} to 1e9")
        return value

    shown = f" (default: {default:,})" if default is not None else ""
    return {"help": help + shown, "type": convert, "default": default, **more}


def parse(benchmark: Benchmark, arguments: Sequence[str] | None) -> Options:
    """The options of a run."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {benchmark.name}",
        description=benchmark.text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=SERVERS,
    )
    if benchmark.databases:
        parser.add_argument(
            "--database",
            action="append",
            choices=benchmark.databases,
            help="measure on this one; may be given more than once (default: all)",
        )
    for flag, option in benchmark.options.items():
        parser.add_argument(flag, **option)
    if benchmark.quick:
        parser.add_argument(
            "--quick", action="store_true", help="a try: its figures mean nothing"
        )
        parser.add_argument(
            "--json",
            type=Path,
            metavar="FILE",
            help="write the figures to this file, too; what it has of others is kept",
        )
    parser.set_defaults(quick=False, json=None)
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(**benchmark.quick)
        options = parser.parse_args(arguments)
    if benchmark.databases:
        chosen = options.database or benchmark.databases
        options.database = [name for name in benchmark.databases if name in chosen]
    return options


def main(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write. The exit code."""
    options = parse(benchmark, arguments)
    # Clean up when told to end, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    found: dict[str, Any] = {"quick": options.quick}
    code = 0
    try:
        for part in benchmark.run(options):
            for blocks in tables.PRINTED[benchmark.name]:
                print(as_text(blocks(part)), flush=True)
            for fault in part.pop("faults", ()):
                say(fault)
                code = 1
            found = results.merged(found, part)
    except KeyboardInterrupt:
        say("Interrupted; what the benchmark made is removed.")
        return 130
    except BrokenError as error:
        say(f"Broken off: {error}.")
        return 1
    if options.json and len(found) > 1:
        document = results.document(benchmark.name, found, benchmark.packages)
        results.write(options.json, document)
    return code


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def begin(stack: ExitStack, target: Callable[..., None], *arguments: Any) -> Connection:
    """Begin a process that imports everything anew, and ends with ``stack``.

    :param target: is called with the arguments, and the other end of the connection.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(*arguments, there))
    # Ctrl-C is for the benchmark, which then ends its processes.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.start()
    signal.signal(signal.SIGINT, before)
    stack.callback(process.join)
    stack.callback(process.kill)
    there.close()
    return here


def receive(pipe: Connection) -> Any:
    """What a process that was begun sends."""
    try:
        return pipe.recv()
    except EOFError:
        raise BrokenError("a process of the benchmark broke down") from None
