"""Walks through a page as its reader does: writes its files, starts its servers in one
terminal, and types its other commands in a second one.

The clock and the random source are the real ones, as ``curl`` and browsers go by these.
What differs from run to run is compared by its form.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.documentation.running import is_run
from tests.documentation.source import Block, blocks_of, commands_of
from tests.helpers import wait_until

#: Where a page's servers are; a test has a port of its own.
PORT = "5000"
#: Seconds that a command may take.
PATIENCE = 180.0

_HANDLE = r"\b(?=[a-v]*\d)[0-9a-v]{16}\b"
#: What differs, and what stands for it.
_DIFFERENT = {
    r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ": "TIME",
    r"^[\w-]{67}$": "TOKEN",
    _HANDLE: "HANDLE",
}


class Walk:
    """A walk through a page, in an empty folder.

    :param settings: of the environment, beside that of the tests.
    """

    def __init__(self, blocks: list[Block], folder: Path, **settings: str) -> None:
        self._blocks = blocks
        self._folder = folder
        self._port = str(_free_port())
        programs = str(Path(sys.executable).parent)
        self._environment = {
            **{name: os.environ[name] for name in os.environ if name[:6] != "FLASK_"},
            "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
            "FLASK_RUN_PORT": self._port,
            "NO_COLOR": "1",
            "COLUMNS": "80",
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            # curl asks this machine, whatever is between it and others.
            "no_proxy": "*",
            **settings,
        }
        self._server: subprocess.Popen[bytes] | None = None
        #: The handles here, by those on the page.
        self._handles: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Of the page's server."""
        return f"http://127.0.0.1:{self._port}"

    def until(self, first: str | None = None) -> list[str]:
        """Go on to the block that begins with this line, or to the end of the page.
        What the page shows wrongly.
        """
        wrong: list[str] = []
        while self._blocks and self._blocks[0].first != first:
            wrong += self.next()
        assert first is None or self._blocks, f"no block begins with {first!r}"
        return wrong

    def next(self) -> list[str]:
        """Go on by one block. What the page shows wrongly of it."""
        block = self._blocks.pop(0)
        if block.language == "console":
            return [*self._type(block)]
        path = self._folder / block.caption
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")
        return []

    def _type(self, block: Block) -> Iterator[str]:
        if "pip install" in block.text:
            return  # the folder and the packages are there
        for command in commands_of(block):
            if re.fullmatch(r"flask --app \w+ run", command.text):
                self.start(command.text)
                continue
            printed, shown = self._run(command.text), "\n".join(command.shown)
            if not self._matches(shown, printed):
                where = f"docs/{block.page}.rst:{command.line}"
                yield f"{where}: {shown}\nis shown; printed is\n{printed}"

    def start(self, command: str) -> None:
        """Start the server in the first terminal, instead of the one before."""
        self.stop()
        with (self._folder / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                command.split(),
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        server = self._server
        wait_until(lambda: self._answers() or server.poll() is not None, PATIENCE)
        output = (self._folder / "server.log").read_text("utf-8")
        assert server.poll() is None, f"'{command}' has ended.\n{output}"

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self._port))) == 0

    def stop(self) -> None:
        """As Ctrl+C in the first terminal. A shell lets what it runs in the background
        ignore that, and the tests may be such, so it is another signal.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.terminate()
        try:
            server.wait(PATIENCE)
        finally:
            server.kill()
            server.wait()

    def _run(self, command: str) -> str:
        for theirs, ours in self._handles.items():
            command = command.replace(theirs, ours)
        done = subprocess.run(
            ["bash", "-c", command.replace(f":{PORT}", f":{self._port}")],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )
        return done.stdout.replace(f":{self._port}", f":{PORT}")

    def _matches(self, shown: str, printed: str) -> bool:
        theirs, ours = (re.findall(_HANDLE, text) for text in (shown, printed))
        self._handles |= dict(zip(theirs, ours, strict=False))
        parts = re.split(r"^\.\.\.\n", _by_form(shown), flags=re.MULTILINE)
        pattern = "(?:.*\n)*?".join(map(re.escape, parts))
        return bool(re.fullmatch(pattern, _by_form(printed)))


def walked(page: str) -> list[Block]:
    """The files and the console blocks of a page.

    Write the argument out: the inventory of all blocks looks for these calls.
    """
    return [each for each in blocks_of(page) if is_run(each)]


@contextmanager
def walking(blocks: list[Block], folder: Path, **settings: str) -> Iterator[Walk]:
    """A walk, whose server ends with it."""
    walk = Walk(blocks, folder, **settings)
    try:
        yield walk
    finally:
        walk.stop()


def _by_form(text: str) -> str:
    lines = "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())
    for pattern, name in _DIFFERENT.items():
        lines = re.sub(pattern, name, lines, flags=re.MULTILINE)
    # Columns are as wide as what is in them.
    return re.sub(" {2,}", "  ", lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
