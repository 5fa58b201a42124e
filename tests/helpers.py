"""What tests of every kind share."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sqlalchemy as sa
from flask import Flask, session

from flask_sessionsql import FlaskSQLAlchemySessionInterface
from flask_sessionsql.storage.store import SessionStore


def missing(message: str, required: str = "SESSIONSQL_REQUIRE_SERVERS") -> NoReturn:
    """Skip the test, because something is not there; or fail, where it is required.

    :param required: the variable of the environment that says so.
    """
    if os.environ.get(required):
        pytest.fail(message)
    pytest.skip(message)


def on(*cases: str | tuple[Any, ...]) -> list[Any]:
    """Parameters of a test or a fixture, each marked with the database that it needs:
    ``-m`` chooses tests by these markers.

    :param cases: names of databases, or tuples that begin with one.
    """
    params = []
    for case in cases:
        values = (case,) if isinstance(case, str) else case
        marker = getattr(pytest.mark, values[0].replace("-", "_"))
        params.append(pytest.param(*values, marks=marker))
    return params


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run all jobs in threads, which begin together; their results or errors."""
    barrier = threading.Barrier(len(jobs))
    results: list[Any] = [None] * len(jobs)

    def run(number: int) -> None:
        barrier.wait(30)
        try:
            results[number] = jobs[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=[n]) for n in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something is true, and fail if it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not true within {seconds} seconds"
        time.sleep(0.01)


@contextmanager
def statements_on(engine: sa.Engine) -> Iterator[list[str]]:
    """The statements that run on an engine meanwhile."""
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


@contextmanager
def locked_file(uri: str | sa.URL) -> Iterator[None]:
    """Somebody else is writing to a SQLite file meanwhile."""
    other = sa.create_engine(uri, poolclass=sa.NullPool)
    with other.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield


@contextmanager
def limited_user(uri: str, rights: str | None) -> Iterator[str]:
    """The address of a database for a user of its own meanwhile.

    :param uri: the address of one who may make users.
    :param rights: what it may do, as in ``SELECT ON sessions``; ``None`` for nothing.
    """
    url = sa.make_url(uri)
    name = f"sessionsql_{secrets.token_hex(6)}"
    is_mariadb = url.get_backend_name() == "mysql"
    who = f"'{name}'@'127.0.0.%%'" if is_mariadb else name
    make = f"CREATE {'USER' if is_mariadb else 'ROLE'} {who}"
    admin = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(make if is_mariadb else f"{make} LOGIN")
        try:
            if rights is not None:
                connection.exec_driver_sql(f"GRANT {rights} TO {who}")
            yield url.set(username=name).render_as_string(hide_password=False)
        finally:
            if not is_mariadb:
                connection.exec_driver_sql(f"DROP OWNED BY {who}")
            connection.exec_driver_sql(f"DROP {make.split()[1]} {who}")


@contextmanager
def told_by(signal: Any, sender: Any) -> Iterator[list[Any]]:
    """The events that a signal tells of an application meanwhile."""
    events: list[Any] = []

    def receive(sender: object, event: object) -> None:
        events.append(event)

    with signal.connected_to(receive, sender):
        yield events


def run_together(commands: list[list[str]]) -> list[str]:
    """Run programs that begin together: each prints "ready" and waits for a line. What
    they print then.
    """
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        for command in commands
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert not any(process.returncode for process in processes), outputs
    return outputs


@contextmanager
def gunicorn(
    folder: Path, *options: str, app: str = "app:app", **process: Any
) -> Iterator[int]:
    """A server of ``app.py`` in ``folder``, or of another application; gives its port.
    It ends without a traceback.

    :param process: how else it is to be started, such as in another folder.
    """
    log = folder / "gunicorn.log"
    # The port is free because it is ours: the server is handed the socket.
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", *options),
                *(f"--bind=fd://{listener.fileno()}", "--worker-tmp-dir", str(folder)),
                app,
            ],
            stdout=output,
            stderr=output,
            pass_fds=[listener.fileno()],
            **{"cwd": folder, **process},
        )
        try:
            begun = "Booting worker"
            wait_until(lambda: begun in log.read_text() or server.poll() is not None)
            assert server.poll() is None, log.read_text()
            yield listener.getsockname()[1]
        finally:
            server.terminate()
            server.wait(30)
            text = log.read_text()
            print(text)  # which is shown where a test fails
    assert "Traceback" not in text, text


class Cut:
    """Stands between an application and its database server, and can lose an answer:
    the server has run a statement, and the connection breaks before it can say so. It
    can also fall silent, as a server that was stopped: it accepts connections and
    statements, and keeps them to itself.
    """

    def __init__(self, uri: str, port: int = 0) -> None:
        self._server = sa.make_url(uri)
        self._word: bytes | None = None
        self._after, self._late = 0, 0.0
        self._silent_at: bytes | None = None
        self._speaks = threading.Event()
        self._speaks.set()
        self._threads: list[threading.Thread] = []
        self._clients: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        port = self._listener.getsockname()[1]
        #: The address to connect to.
        self.uri = self._server.set(host="127.0.0.1", port=port).render_as_string(False)
        self._start(self._accept)

    def lose_answer(self, word: str, after: int = 0, late: float = 0) -> None:
        """That to the next statement in which this word is, after so many others.

        :param late: seconds after which the server gets the statement; the connection
            has broken before.
        """
        self._word, self._after, self._late = word.encode(), after, late

    def fall_silent(self, at: str | None = None) -> None:
        """Forward nothing, neither way, until :meth:`speak` is called.

        :param at: begin with the next statement in which this word is.
        """
        if at is None:
            self._speaks.clear()
        else:
            self._silent_at = at.encode()

    def speak(self) -> None:
        """Forward what was kept back, and all that comes."""
        self._silent_at = None
        self._speaks.set()

    @property
    def is_silent(self) -> bool:
        """Whether nothing is forwarded."""
        return not self._speaks.is_set()

    @property
    def has_cut(self) -> bool:
        """Whether the answer was lost."""
        return self._word is None

    def close(self) -> None:
        self.speak()
        for each in (self._listener, *self._clients):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._clients.append(client)
                place = self._server.host or "127.0.0.1", self._server.port or 0
                self._start(self._serve, client, socket.create_connection(place))

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        asked = threading.Event()

        def answer() -> None:
            with suppress(OSError):
                while got := server.recv(65536):
                    # So that a test ends that is kept waiting.
                    self._speaks.wait(15)
                    if asked.is_set():
                        self._word = None
                        break
                    client.sendall(got)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

        with client, server:
            back = threading.Thread(target=answer, daemon=True)
            back.start()
            with suppress(OSError):
                while sent := client.recv(65536):
                    if self._silent_at is not None and self._silent_at in sent:
                        self._speaks.clear()
                    self._speaks.wait(15)
                    if self._word is not None and self._word in sent:
                        if self._after == 0:
                            asked.set()
                        self._after -= 1
                        if asked.is_set() and self._late:
                            self._word = None
                            client.shutdown(socket.SHUT_RDWR)
                            time.sleep(self._late)
                    server.sendall(sent)
                    if asked.is_set() and self._late:
                        time.sleep(0.2)  # so that it is run before its client is gone
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join(10)


class Clock:
    """Stands for the time of day."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def time(self) -> float:
        return self.now


# Applications of a test's own, which make_app does not close.


def store_of(app: Flask) -> SessionStore:
    """The store behind an application's sessions."""
    interface = app.session_interface
    assert isinstance(interface, FlaskSQLAlchemySessionInterface)
    return interface.records.store


def assert_sessions_work(app: Flask) -> None:
    """The sessions of the application work."""
    if "visits" not in app.view_functions:

        @app.get("/visits")
        def visits() -> str:
            session["visits"] = session.get("visits", 0) + 1
            return str(session["visits"])

    client = app.test_client()
    assert [client.get("/visits").text for _ in range(3)] == ["1", "2", "3"]


def configured(uri: str, **config: Any) -> Flask:
    app = Flask("shop")
    app.config.update(
        SECRET_KEY="a key",
        SESSION_TYPE="flask-sqlalchemy",
        SQLALCHEMY_DATABASE_URI=uri,
        **config,
    )
    return app


def close(*apps: Flask) -> None:
    for app in apps:
        store_of(app).dispose()
        db = app.extensions.get("sqlalchemy")
        if db is not None:
            with app.app_context():
                for engine in db.engines.values():
                    engine.dispose()


def tables_in(uri: str) -> set[str]:
    engine = sa.create_engine(uri)
    names = set(sa.inspect(engine).get_table_names())
    engine.dispose()
    return names
