"""Show that the quickstart works: serve its code exactly as the documentation has it,
and visit it as a browser would.
"""

from __future__ import annotations

import argparse
import ast
import http.cookiejar
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

import flask_sessionsql
from flask_sessionsql.config import SessionConfig

#: What a browser visits, and what it is to see.
VISITS = (("/get/", "not set"), ("/set/", "ok"), ("/get/", "value"))

#: Seconds for the server to start, for one answer, and for the server to end.
PATIENCE = 30.0

_ADDRESS = re.compile(r"^SQLALCHEMY_DATABASE_URI = (.*)$", re.MULTILINE)


class QuickstartError(Exception):
    """The quickstart does not do what the documentation says."""


def quickstart_code(documentation: str) -> str:
    """The first block of ``testcode`` in a text, without its indentation."""
    _, found, rest = documentation.partition("\n.. testcode::")
    if not found:
        raise QuickstartError("The documentation has no block of testcode.")
    _, _, block = rest.partition("\n")
    lines: list[str] = []
    for line in block.splitlines():
        if line and not line.startswith(" "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join(lines)).strip("\n") + "\n"


def with_database(code: str, address: str) -> str:
    """``code`` with another ``SQLALCHEMY_DATABASE_URI``."""
    code, count = _ADDRESS.subn(
        lambda _: f"SQLALCHEMY_DATABASE_URI = {address!r}", code
    )
    if count != 1:
        raise QuickstartError("The quickstart does not set SQLALCHEMY_DATABASE_URI.")
    return code


def database_of(code: str) -> str:
    """The address of the database that ``code`` names."""
    found = _ADDRESS.search(code)
    if found is None:
        raise QuickstartError("The quickstart does not set SQLALCHEMY_DATABASE_URI.")
    return str(ast.literal_eval(found[1]))


def free_port() -> int:
    """A port on which nobody listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(folder: Path, log: Path) -> Iterator[str]:
    """A server with ``quickstart.py`` from a folder; gives its address."""
    port = free_port()
    command = (sys.executable, "-m", "flask", "--app", "quickstart", "run")
    # What the caller's own Flask is set to must not change what is shown.
    environment = {
        name: value for name, value in os.environ.items() if name[:6] != "FLASK_"
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(
            (*command, "--port", str(port)),
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as server,
    ):
        try:
            _await(server, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            try:
                server.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()


def _await(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server answers."""
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise QuickstartError("The server did not start.")


def visit(site: str) -> None:
    """Make the visits with one browser, and print what it sees."""
    browser = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
    )
    for path, expected in VISITS:
        try:
            with browser.open(site + path, timeout=PATIENCE) as response:
                answer = response.read().decode()
        except (urllib.error.URLError, OSError) as error:
            answer = str(error)
        print(f"GET {path} -> {answer}", flush=True)
        if answer != expected:
            raise QuickstartError(f"GET {path} should have answered {expected!r}.")


def sessions_in(address: str) -> int:
    """How many sessions a database holds."""
    table = sa.table(SessionConfig.table)
    engine = sa.create_engine(address, poolclass=sa.NullPool)
    with engine.connect() as connection:
        count: int = connection.execute(
            sa.select(sa.func.count()).select_from(table)
        ).scalar_one()
        return count


def run(code: str, folder: Path) -> None:
    """Serve ``code``, visit it, and print what happens."""
    (folder / "quickstart.py").write_text(code, encoding="utf-8")
    log = folder / "server.log"
    try:
        with serving(folder, log) as site:
            print(f"The quickstart is served at {site}", flush=True)
            visit(site)
    except QuickstartError as error:
        output = log.read_text(encoding="utf-8", errors="replace")
        raise QuickstartError(f"{error}\nThe server's output:\n{output}") from error
    address = database_of(code)
    shown = sa.make_url(address).render_as_string()
    count = sessions_in(address)
    if not count:
        raise QuickstartError(f"There is no session in {shown}.")
    print(f"The session is stored in the table {SessionConfig.table} of {shown}")
    print(f"Sessions in that table now: {count}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--database",
        metavar="URL",
        help="use this database in the place of the quickstart's own",
    )
    options = parser.parse_args(arguments)
    # Ended from outside, it still ends its server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        code = quickstart_code(flask_sessionsql.__doc__ or "")
        if options.database is not None:
            code = with_database(code, options.database)
        with tempfile.TemporaryDirectory() as folder:
            run(code, Path(folder))
    except QuickstartError as error:
        print(f"The quickstart does not work. {error}", file=sys.stderr)
        return 1
    print("The quickstart works.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
