"""Servers of a test's own, on loopback ports: for what no other test may see."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.helpers import missing, wait_until

#: Where Debian has what is not on everybody's path.
FOLDERS = ["/usr/sbin", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))]


def program(name: str, package: str) -> str:
    """Where a program is; the test is skipped, or fails, where it is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS])
    found = shutil.which(name, path=path)
    if found is None:
        missing(f"No {name} is on the path. Install it, as by Debian's '{package}'.")
    return found


def user(name: str) -> str | None:
    """Who is to run a server: most of them refuse to be root's."""
    return name if os.geteuid() == 0 else None


@contextmanager
def folder_of(owner: str | None) -> Iterator[Path]:
    """A folder for a server, which its user can reach."""
    with tempfile.TemporaryDirectory(prefix="sessionsql") as folder:
        if owner is not None:
            shutil.chown(folder, owner)
        yield Path(folder)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextmanager
def running(command: list[str], folder: Path, port: int, owner: str | None) -> Any:
    """A server, which answers on a port."""
    log = folder / "output"
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, user=owner)
        try:
            wait_until(lambda: answers(port) or server.poll() is not None)
            assert server.poll() is None, log.read_text()
            yield server
        finally:
            server.terminate()
            server.wait(30)


# PgBouncer.


@contextmanager
def pgbouncer(uri: str, **settings: object) -> Iterator[str]:
    """PgBouncer before a database, whose few connections all clients share; gives the
    address to connect to.

    :param uri: the database, on a server of PostgreSQL's.
    """
    command = program("pgbouncer", "pgbouncer")
    url, owner, port = sa.make_url(uri), user("postgres"), free_port()
    place = f"host={url.host} port={url.port or 5432} user={url.username}"
    if url.password:
        place += f" password='{url.password}'"
    with folder_of(owner) as folder:
        every = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": folder,
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": 2,
            **settings,
        }
        lines = ["[databases]", f"* = {place}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in every.items()]
        (folder / "pgbouncer.ini").write_text("\n".join(lines))
        with running([command, f"{folder}/pgbouncer.ini"], folder, port, owner):
            at = url.set(host="127.0.0.1", port=port)
            yield at.render_as_string(hide_password=False)


# Servers that can turn read-only.


class Primary:
    """A database server that takes writes, with one that follows it and is to take its
    place.
    """

    #: The address of either, for a user who is nobody special.
    first: str
    second: str

    def demote(self) -> None:
        """Let the first one take no writes any more. Connections stay open."""
        raise NotImplementedError

    def promote(self) -> None:
        """Let the second one take them, which has all that the first one has."""
        raise NotImplementedError


class PostgresPair(Primary):
    """A primary and its standby, which reads what the primary has written."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._owner = user("postgres")
        self._folder = folder
        ports = free_port(), free_port()
        self.first, self.second = (
            f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres" for port in ports
        )
        self._run("initdb", "-D", folder / "1", "-N", "-A", "trust", "-U", "postgres")
        self._start(stack, "1", ports[0])
        self._wait(self.first)
        self._run(
            *("pg_basebackup", "-D", folder / "2", "-R", "-N", "-c", "fast"),
            *("-h", "127.0.0.1", "-p", ports[0], "-U", "postgres"),
        )
        self._start(stack, "2", ports[1])
        self._wait(self.second)

    def _run(self, name: str, *arguments: object) -> None:
        path = program(name, "postgresql")
        command = [path, *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, user=self._owner)

    def _start(self, stack: ExitStack, name: str, port: int) -> None:
        command = [program("postgres", "postgresql"), "-D", f"{self._folder / name}"]
        command += ["-p", str(port), "-k", str(self._folder), "-c", "fsync=off"]
        stack.enter_context(running(command, self._folder, port, self._owner))

    def _ask(self, uri: str, statement: str) -> Any:
        engine = sa.create_engine(
            uri, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return result.scalar() if result.returns_rows else None

    def _wait(self, uri: str) -> None:
        def is_up() -> bool:
            with suppress(sa.exc.OperationalError):
                return bool(self._ask(uri, "SELECT 1"))
            return False

        wait_until(is_up)

    def demote(self) -> None:
        self._ask(self.first, "ALTER SYSTEM SET default_transaction_read_only = on")
        self._ask(self.first, "SELECT pg_reload_conf()")
        wait_until(
            lambda: self._ask(self.first, "SHOW default_transaction_read_only") == "on"
        )

    def promote(self) -> None:
        written = self._ask(self.first, "SELECT pg_current_wal_lsn()")
        behind = f"SELECT pg_last_wal_replay_lsn() < '{written}'"
        wait_until(lambda: not self._ask(self.second, behind))
        self._ask(self.second, "SELECT pg_promote()")
        wait_until(
            lambda: self._ask(self.second, "SHOW transaction_read_only") == "off"
        )


class MariaDBPair(Primary):
    """Two servers, of which the second one is given what the first one has."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        owner = user("mysql")
        install = program("mariadb-install-db", "mariadb-server")
        server = program("mariadbd", "mariadb-server")
        self._admins = []
        uris = []
        for name in ("1", "2"):
            data, port = folder / name, free_port()
            if name == "1":
                subprocess.run(
                    [
                        *(install, "--no-defaults", f"--datadir={data}"),
                        *("--auth-root-authentication-method=normal",),
                        "--skip-test-db",
                    ],
                    check=True,
                    capture_output=True,
                    user=owner,
                )
                shutil.copytree(data, folder / "2")
                if owner is not None:
                    for path in (folder / "2", *(folder / "2").rglob("*")):
                        shutil.chown(path, owner)
            command = [
                *(server, "--no-defaults", f"--datadir={data}", f"--port={port}"),
                *("--bind-address=127.0.0.1", f"--socket={data}.sock"),
                *(f"--pid-file={data}.pid", "--innodb-buffer-pool-size=8M"),
            ]
            stack.enter_context(running(command, folder, port, owner))
            admin = sa.create_engine(
                f"mysql+pymysql://root@/mysql?unix_socket={data}.sock",
                isolation_level="AUTOCOMMIT",
                poolclass=sa.NullPool,
            )
            self._admins.append(admin)
            for statement in (
                "CREATE DATABASE shop",
                "CREATE USER shop@'%%'",
                "GRANT ALL ON shop.* TO shop@'%%'",
            ):
                self._run(admin, statement)
            uris.append(f"mysql+pymysql://shop@127.0.0.1:{port}/shop")
        self.first, self.second = uris

    @staticmethod
    def _run(admin: sa.Engine, statement: str) -> None:
        with admin.connect() as connection:
            connection.exec_driver_sql(statement)

    def demote(self) -> None:
        for admin in self._admins:
            self._run(admin, "SET GLOBAL read_only = 1")

    def promote(self) -> None:
        first, second = self._admins
        with first.connect() as source, second.connect() as target:
            metadata = sa.MetaData(schema="shop")
            metadata.reflect(source)
            metadata.create_all(target)
            for table in metadata.sorted_tables:
                for row in source.execute(sa.select(table)).mappings():
                    target.execute(sa.insert(table), dict(row))
        self._run(second, "SET GLOBAL read_only = 0")


@contextmanager
def primary(backend: str) -> Iterator[Primary]:
    """A server of this kind, and one to take its place."""
    kind, name = (
        (PostgresPair, "postgres")
        if backend == "postgresql"
        else (MariaDBPair, "mysql")
    )
    with folder_of(user(name)) as folder, ExitStack() as stack:
        yield kind(folder, stack)


class Switch:
    """An address that leads to one server or to another one, as a proxy's does. Who is
    connected stays where they are.
    """

    def __init__(self, uri: str) -> None:
        #: How many connections it has made.
        self.count = 0
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        at = sa.make_url(uri).set(host="127.0.0.1", port=port)
        #: The address to connect to.
        self.uri = at.render_as_string(hide_password=False)
        self.lead_to(uri)
        self._start(self._accept)

    def lead_to(self, uri: str) -> None:
        """Connect to this server from now on."""
        url = sa.make_url(uri)
        self._place = (url.host, url.port)

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for end in (self._listener, *self._ends):
            end.close()

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._place)
                self.count += 1
                self._ends += [client, server]
                self._start(self._copy, client, server)
                self._start(self._copy, server, client)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while got := source.recv(65536):
                target.sendall(got)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
