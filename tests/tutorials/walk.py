"""Walks through a page as its reader does: writes its files, starts its servers in one
terminal, and types its other commands in a second one.

The clock and the random source are the real ones, as ``curl`` and browsers go by these.
What differs from run to run is compared by its form.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

from tests.helpers import wait_until
from tests.pages import DOCS, page

#: Where a page's servers are; a test has a port of its own.
PORT = "5000"
#: Seconds that a command may take.
PATIENCE = 60.0

_BLOCK = re.compile(
    r"^\.\. (?P<kind>code-block|literalinclude):: (?P<argument>.+)\n"
    r"(?P<options>(?: +:[\w-]+:.*\n)*)(?P<text>(?:\n| +.*\n)*)",
    re.MULTILINE,
)
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

    def __init__(self, name: str, folder: Path, **settings: str) -> None:
        self._blocks = _blocks(name)
        self._folder = folder
        self._port = str(_free_port())
        programs = str(Path(sys.executable).parent)
        self._environment = {
            **{name: os.environ[name] for name in os.environ if name[:6] != "FLASK_"},
            "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
            "FLASK_RUN_PORT": self._port,
            "NO_COLOR": "1",
            "TZ": "UTC",
            **settings,
        }
        self._server: subprocess.Popen[bytes] | None = None
        #: The handles here, by those on the page.
        self._handles: dict[str, str] = {}

    @property
    def address(self) -> str:
        """Of the page's server."""
        return f"http://127.0.0.1:{self._port}"

    def until(self, text: str | None = None) -> list[str]:
        """Go on to the block that begins with ``text``, or to the end of the page. What
        the page shows wrongly.
        """
        wrong: list[str] = []
        while self._blocks and not (text and self._blocks[0][1].startswith(text)):
            wrong += self.next()
        assert text is None or self._blocks, f"no block begins with {text!r}"
        return wrong

    def next(self) -> list[str]:
        """Go on by one block. What the page shows wrongly of it."""
        name, text = self._blocks.pop(0)
        if name == "console":
            return [*self._type(text)]
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return []

    def _type(self, block: str) -> Iterator[str]:
        for command, shown in _commands(block):
            if "pip install" in block:
                continue  # the folder and the packages are there
            if re.fullmatch(r"flask --app \w+ run", command):
                self._start(command)
                continue
            printed = self._run(command)
            if not self._matches(shown, printed):
                yield f"$ {command}\n{shown}\nis shown; printed is\n{printed}"

    def _start(self, command: str) -> None:
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
        wait_until(self._answers, PATIENCE)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self._port))) == 0

    def stop(self) -> None:
        """As Ctrl+C in the first terminal."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(PATIENCE)
            self._server = None

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
            timeout=PATIENCE,
        )
        return done.stdout.replace(f":{self._port}", f":{PORT}")

    def _matches(self, shown: str, printed: str) -> bool:
        theirs, ours = (re.findall(_HANDLE, text) for text in (shown, printed))
        self._handles |= dict(zip(theirs, ours, strict=False))
        parts = _by_form(shown).split("...\n")
        pattern = "(?:.*\n)*?".join(map(re.escape, parts))
        return bool(re.fullmatch(pattern, _by_form(printed)))


@contextmanager
def walking(name: str, folder: Path, **settings: str) -> Iterator[Walk]:
    """A walk, whose server ends with it."""
    walk = Walk(name, folder, **settings)
    try:
        yield walk
    finally:
        walk.stop()


def _blocks(name: str) -> list[tuple[str, str]]:
    """The files and the console blocks of a page: the name of the file or
    ``"console"``, and the text.
    """
    found = []
    for block in _BLOCK.finditer(page(name)):
        caption = re.search(r":caption: (.+)", block["options"])
        if block["kind"] == "literalinclude":
            path = (DOCS / name).parent / block["argument"]
            text = path.read_text("utf-8")
        else:
            text = dedent(block["text"]).strip() + "\n"
        if caption or block["argument"] == "console":
            found.append((caption[1] if caption else "console", text))
    return found


def _commands(block: str) -> list[tuple[str, str]]:
    """Commands, each with what is shown to come of it."""
    parts = re.split(r"^\$ (.+)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


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
