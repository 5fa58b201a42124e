"""Runs a page: writes its files, types its commands, and keeps what they print.

A page is run from top to bottom in an empty folder. A block with a ``:caption:`` is a
file of that name; a later one with the same name replaces it. One bash runs all
commands of the console blocks, with a clock and a random source that are frozen. From
one command to the next a minute passes, and as long as ``$ sleep 3600`` says, for which
nobody waits. A server that a command starts by a trailing ``&`` runs until the end.

``curl`` and browsers go by the real clock, and take cookies of this one for expired. A
page that needs them is walked through instead, by ``tests/tutorials/walk.py``.

So that pages can be run side by side and anywhere, some names stand for others: the
folder is ``/srv/shop`` where a page has it in a command, or a command prints it; the
ports 5000 and 8000 are any that are free.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.pages import DOCS

from .lists import PREPARED, SETTING_UP, not_run, sets_up
from .source import Block, Command, blocks_of, commands_of

ROOT = DOCS.parent
FROZEN = Path(__file__).parent / "frozen"
#: When the first command of a page is run: 2026-11-23 08:00:00 UTC.
BEGINNING = 1_795_420_800
#: What the page calls the folder, and the environment with its programs.
FOLDER, ENVIRONMENT = "/srv/shop", "/srv/shop/venv"
#: Ports on which servers listen unless told otherwise.
PORTS = (5000, 8000)
#: Seconds that one command may take, and a server to start.
PATIENCE = 120
#: Programs that pages use. Debian's packages have the same names.
NOT_EVERYWHERE = {"curl", "sqlite3"}
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


@dataclass(frozen=True)
class Ran:
    """A command that was run."""

    block: Block
    command: Command
    printed: list[str]
    status: int

    @property
    def where(self) -> str:
        return f"docs/{self.block.page}.rst:{self.command.line}"

    @property
    def as_shown(self) -> bool:
        """Whether the page shows what was printed."""
        return bool(_pattern(self.command.shown).fullmatch(_text(self.printed)))


#: What differs from run to run, and from one environment to the other: how long
#: something takes, and the versions that a server tells.
_VOLATILE = re.compile(r"(?<=\bin )[\d.]+s\b|(?<=(?:zeug|thon)/)[\d.]+")


def _text(lines: list[str]) -> str:
    return "".join(_VOLATILE.sub("0", f"{each}\n") for each in lines)


def _pattern(shown: list[str]) -> re.Pattern[str]:
    """Lines as a page shows them, where ``...`` stands for any."""
    parts = re.split(r"^\.\.\.\n", _text(shown), flags=re.MULTILINE)
    return re.compile("(?:.*\n)*?".join(map(re.escape, parts)))


def is_run(block: Block) -> bool:
    """Whether the runner has to do with a block: a file or a console."""
    if sets_up(block.text):
        return False
    if not_run(block.page, block.text):
        return False
    return block.language == "console" or is_file(block)


def is_file(block: Block) -> bool:
    """Whether it is a file of the folder."""
    return bool(block.caption) and not block.caption.startswith(("/", "~"))


def has_commands(page: str) -> bool:
    """Whether there is something to run on a page."""
    found = blocks_of(page)
    return any(block.language == "console" and is_run(block) for block in found)


def programs(page: str) -> list[str]:
    """The programs that a page's commands need, and not every machine has."""
    typed = {
        command.text.partition(" ")[0]
        for block in blocks_of(page)
        if block.language == "console" and is_run(block)
        for command in commands_of(block)
    }
    return sorted(typed & NOT_EVERYWHERE)


def run_page(page: str, folder: Path) -> list[Ran]:
    """Run a page, in a folder that is empty."""
    return run_blocks(blocks_of(page), folder)


def run_blocks(blocks: list[Block], folder: Path) -> list[Ran]:
    """Run blocks of one page."""
    ran: list[Ran] = []
    wanted = [block for block in blocks if is_run(block)]
    with Shell(folder, wanted[0].page if wanted else "") as shell:
        for line in PREPARED.get(shell.page, ()):
            shell.prepare(line)
        for block in wanted:
            if is_file(block):
                shell.write(block.caption, block.text)
                continue
            for command in commands_of(block):
                if SETTING_UP.fullmatch(command.text):
                    continue
                printed, status = shell.run(command.text)
                ran.append(Ran(block, command, printed, status))
    return ran


class Shell:
    """The bash of a page."""

    def __init__(self, folder: Path, page: str) -> None:
        self.page = page
        self._folder = folder / "shop"
        self._folder.mkdir()
        self._clock = folder / "clock"
        self._log = folder / "servers.log"
        self._now, self._status, self._typed = BEGINNING, 0, list[str]()
        self._ports = {port: _free_port() for port in PORTS}
        self._mark = secrets.token_hex()
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=self._folder,
            env=self._environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            # Its servers end with it.
            start_new_session=True,
        )

    def _environment(self, folder: Path) -> dict[str, str]:
        programs = str(Path(sys.executable).parent)
        given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        return {
            "PATH": os.pathsep.join([programs, os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(FROZEN), *given])),
            "PAGE_CLOCK": str(self._clock),
            "PAGE_SEED": "",
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONHASHSEED": "0",
            "FLASK_RUN_PORT": str(self._ports[5000]),
            "GUNICORN_CMD_ARGS": f"--bind=127.0.0.1:{self._ports[8000]}",
        }

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *args: object) -> None:
        for ending in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._bash.pid, ending)
            except ProcessLookupError:
                break
            # bash is gone at once; its servers end what they do.
            self._bash.wait(PATIENCE)
            time.sleep(0.2)
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            pipe.close()

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._in(text, r"(?<=:)"), "utf-8")
        # Python takes a file of the same second and size for the one it has compiled.
        self._now += 1
        os.utime(path, (self._now, self._now))

    def prepare(self, command: str) -> None:
        """Run a command that is not on the page, beside the tests."""
        printed, status = self.run(command, beside=ROOT)
        assert status == 0, (command, printed)

    def run(self, command: str, beside: Path | None = None) -> tuple[list[str], int]:
        """What a command prints, and its exit code.

        :param beside: a folder from which it may import, too.
        """
        pause = re.fullmatch(r"sleep (\d+)([smhd]?)", command)
        self._now += 60 + (int(pause[1]) * _UNITS[pause[2]] if pause else 0)
        self._clock.write_text(str(self._now * 10**9))
        if pause:
            return [], 0
        # Of the same command, whatever others a page has, the same handles come.
        self._typed.append(command)
        seed = f"{self.page} {command} {self._typed.count(command)}"
        self._type(f"export PAGE_SEED={shlex.quote(seed)}; (exit {self._status})")
        typed = self._in(command, r"(?<![\w.,])")
        if beside is not None:
            typed = f"PYTHONPATH=$PYTHONPATH:{shlex.quote(str(beside))} {typed}"
        with self._impatient(command):
            if typed.endswith(" &"):
                self._serve(typed)
            else:
                self._type(f"eval {shlex.quote(typed)} </dev/null")
            printed = self._answer()
        return printed, self._status

    def _type(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{text}\n")
        self._bash.stdin.flush()

    def _answer(self) -> list[str]:
        assert self._bash.stdout is not None
        self._type(f"printf '\\n%s %s\\n' {self._mark} $?")
        printed = ""
        for line in self._bash.stdout:
            if line.startswith(self._mark):
                self._status = int(line.split()[1])
                break
            printed += line
        else:
            raise AssertionError(f"The shell of {self.page} has ended.\n{printed}")
        lines = self._out(printed).splitlines()
        while lines and not lines[-1].strip():
            lines.pop()
        return [line.rstrip() for line in lines]

    def _serve(self, command: str) -> None:
        """Start a server; return when it answers."""
        named = [port for port in self._ports.values() if str(port) in command]
        usual = self._ports[8000 if "gunicorn" in command else 5000]
        log = shlex.quote(str(self._log))
        line = f"{command[:-2]} >>{log} 2>&1 </dev/null"
        self._type(f"eval {shlex.quote(line)} &")
        if not _answers(named[0] if named else usual):
            output = self._log.read_text("utf-8") if self._log.exists() else ""
            raise AssertionError(f"{command} does not answer.\n{output}")

    @contextmanager
    def _impatient(self, command: str) -> Iterator[None]:
        def end() -> None:
            print(f"It takes longer than {PATIENCE} seconds: {command}")
            os.killpg(self._bash.pid, signal.SIGKILL)

        timer = threading.Timer(PATIENCE, end)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    # What stands for what.

    def _in(self, text: str, before: str) -> str:
        text = text.replace(ENVIRONMENT, sys.prefix)
        text = text.replace(FOLDER, str(self._folder))
        for port, ours in self._ports.items():
            text = re.sub(rf"{before}{port}\b(?!,)", str(ours), text)
        return text

    def _out(self, text: str) -> str:
        text = text.replace(str(self._folder), FOLDER)
        text = text.replace(sys.prefix, ENVIRONMENT)
        for port, ours in self._ports.items():
            text = re.sub(rf"(?<![\w.,]){ours}\b", str(port), text)
        return text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    until = time.monotonic() + PATIENCE / 2
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def failures(ran: list[Ran]) -> Iterator[str]:
    """What a page shows wrongly, each with what there is to do."""
    for number, each in enumerate(ran):
        if not each.as_shown:
            yield _difference(each)
        elif each.status and not _says_so(each, ran[number + 1 :]):
            yield (
                f"{each.where}: '$ {each.command.text}' ends with exit code"
                f" {each.status}, and the page does not show it. Mend the command, or"
                " let '$ echo $?' follow."
            )


def _says_so(each: Ran, rest: list[Ran]) -> bool:
    if rest and "$?" in rest[0].command.text:
        return True
    words = ("error", "usage", "failed")
    return any(word in line.lower() for line in each.command.shown for word in words)


def _difference(each: Ran) -> str:
    shown = [f"  - {line}" for line in each.command.shown]
    printed = [f"  + {line}" for line in each.printed]
    return "\n".join(
        [
            f"{each.where}: '$ {each.command.text}' prints something else than the page"
            " shows. If it is right, let the page have it:",
            f"    python -m tests.documentation.rewrite {each.block.page}",
            *shown,
            *printed,
        ]
    )


def rewritten(text: str, ran: list[Ran]) -> str:
    """A page that shows what was printed. Its handles are changed wherever it names
    them.
    """
    lines = text.splitlines()
    renamed: dict[str, str] = {}
    for each in reversed(ran):
        if each.as_shown:
            continue
        start, command = each.command.line, each.command
        indent = " " * each.block.depth
        new = [f"{indent}{line}".rstrip() for line in each.printed]
        lines[start : start + len(command.shown)] = new
        renamed |= _renamed(command.shown, each.printed)
    result = "\n".join(lines) + "\n"
    for handle, other in renamed.items():
        result = re.sub(rf"\b{handle}\b", other, result)
    return result


def _renamed(shown: list[str], printed: list[str]) -> dict[str, str]:
    before, after = (
        re.findall(r"\b(?=[a-v]*\d)[0-9a-v]{16}\b", "\n".join(lines))
        for lines in (shown, printed)
    )
    pairs = zip(before, after, strict=False)
    return {old: new for old, new in pairs if old != new and old not in after}
