"""A load of HTTP requests over loopback, made by one light process.

Each connection is kept alive and sends one request after the other, without a rest,
for visitors of its own: no two connections ever speak for the same session at once.
A visitor sends the cookie that it was given last. Every answer is checked: its status
has to be 200, and its body what the caller says. What is parsed of it is only that.
"""

from __future__ import annotations

import random
import re
import selectors
import socket
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

#: How long an answer may take, or the workers to share the connections, in seconds.
PATIENCE = 30.0
#: How many kinds of failures are told apart.
EXAMPLES = 20

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_COOKIE = re.compile(rb"\r\nset-cookie: *([^;\r]*)", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class LoadError(Exception):
    """The server cannot be loaded at all."""


@dataclass(slots=True)
class Visitor:
    """Someone with a session: a cookie, and how often the session was changed."""

    cookie: bytes = b""
    changes: int = 0


#: Tells whether a body is right, and notes in the visitor what the request changed.
Check = Callable[[Visitor, bytes], bool]


@dataclass(slots=True)
class Answer:
    """What is known of an answer."""

    status: bytes
    body: bytes
    #: ``name=value``, if the answer sets one.
    cookie: bytes | None
    closes: bool


@dataclass
class Load:
    """What a load came to."""

    #: How long it was measured, and how long each answer took, in seconds.
    seconds: float
    latencies: array[float] = field(default_factory=lambda: array("d"))
    #: What went wrong, and how often, with the warm-up.
    failures: Counter[str] = field(default_factory=Counter)
    #: The share of one core that the load itself took.
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Right answers in a second."""
        return len(self.latencies) / self.seconds


class Connection:
    """A connection that is kept alive, and the visitors it speaks for."""

    __slots__ = ("port", "received", "sent", "socket", "visitor", "visitors")

    def __init__(self, port: int) -> None:
        self.port = port
        self.visitors: Sequence[Visitor] = ()
        self.visitor = Visitor()
        self.received = b""
        self.sent = 0.0
        self.socket = self._connected()

    def _connected(self) -> socket.socket:
        connected = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def reconnect(self) -> None:
        """Begin again, after the server has closed the connection."""
        self.socket.close()
        self.received = b""
        self.socket = self._connected()

    def send(self, path: bytes, visitor: Visitor) -> None:
        """Send a request of this visitor's. It fits into the socket's buffer."""
        self.visitor = visitor
        cookie = b"Cookie: " + visitor.cookie + b"\r\n" if visitor.cookie else b""
        self.sent = time.perf_counter()
        self.socket.sendall(
            b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + cookie + b"\r\n"
        )

    def receive(self) -> Answer | None:
        """Take what has come in. None as long as the answer is not complete.

        :raise ConnectionError: the server closed the connection.
        """
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionResetError("the connection was closed without an answer")
        self.received = self.received + data if self.received else data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return None
        self.received = b""
        cookie = _COOKIE.search(head)
        # Without a length, the end of the connection would be that of the body.
        closes = length is None or _CLOSES.search(head) is not None
        return Answer(head[9:12], body, cookie and cookie[1], closes)

    def ask(self, path: bytes, visitor: Visitor) -> Answer:
        """Send one request, and wait for the answer."""
        self.send(path, visitor)
        return self.wait()

    def wait(self) -> Answer:
        """Wait for the answer."""
        while (answer := self.receive()) is None:
            pass
        if answer.closes:
            self.reconnect()
        return answer


def connect(port: int, connections: int, workers: int, path: bytes) -> list[Connection]:
    """Open connections that are shared out evenly among the server's workers.

    Which worker accepts a connection is chance, and a connection stays with it. If one
    had more than the others, its requests would wait longer, and differently in each
    run.

    :param path: where a worker answers with its own name.
    """
    share = -(-connections // workers)
    of_worker: Counter[bytes] = Counter()
    kept: list[Connection] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        # Many at once, so that no worker is ready for all of them.
        opened = [Connection(port) for _ in range(connections)]
        for connection in opened:
            connection.send(path, Visitor())
        spare: list[Connection] = []
        for connection in opened:
            worker = connection.wait().body
            enough = len(kept) == connections or of_worker[worker] == share
            (spare if enough else kept).append(connection)
            of_worker[worker] += not enough
        close(spare)
        if len(kept) == connections:
            return kept
        # One of the workers may still be starting.
        time.sleep(0.05)
    close(kept)
    raise LoadError(
        f"The workers do not share {connections} connections:"
        f" {sorted(of_worker.values())}."
    )


def close(connections: Sequence[Connection]) -> None:
    """Close these connections."""
    for connection in connections:
        connection.socket.close()


def share_out(connections: Sequence[Connection], visitors: Sequence[Visitor]) -> None:
    """Give each connection visitors of its own."""
    for number, connection in enumerate(connections):
        connection.visitors = visitors[number :: len(connections)]


def load(
    connections: Sequence[Connection],
    path: str,
    check: Check,
    seconds: float,
    *,
    warm_up: float = 0.0,
    new: bool = False,
    chance: random.Random | None = None,
) -> Load:
    """Send requests for this path over all connections, and measure them.

    :param seconds: how long to measure.
    :param warm_up: how many seconds to go on before that.
    :param new: each request is that of a new visitor, who has to be given a cookie.
    :param chance: chooses the visitors.
    :raise LoadError: the server does not answer.
    """
    return _Run(connections, path.encode(), check, new, chance).run(seconds, warm_up)


class _Run:
    """A load that is under way."""

    def __init__(
        self,
        connections: Sequence[Connection],
        path: bytes,
        check: Check,
        new: bool,
        chance: random.Random | None,
    ) -> None:
        self.connections = connections
        self.path = path
        self.check = check
        self.new = new
        self.random = (chance or random.Random()).random
        self.selector = selectors.DefaultSelector()
        self.failures: Counter[str] = Counter()

    def run(self, seconds: float, warm_up: float) -> Load:
        """Load for that long, and wait for the answers that are due then."""
        measured = Load(seconds, failures=self.failures)
        started = time.process_time()
        begin = time.perf_counter() + warm_up
        end = begin + seconds
        with self.selector:
            for connection in self.connections:
                self._register(connection)
                self._send(connection)
            while self.selector.get_map():
                ready = self.selector.select(PATIENCE)
                if not ready:
                    raise LoadError(f"No answer within {PATIENCE:g} seconds.")
                for key, _ in ready:
                    connection = key.data
                    complete = self._receive(connection)
                    if complete is None:
                        continue
                    now = time.perf_counter()
                    if complete and begin <= now < end:
                        measured.latencies.append(now - connection.sent)
                    if now < end:
                        self._send(connection)
                    else:
                        self.selector.unregister(connection.socket)
        measured.cpu = (time.process_time() - started) / (seconds + warm_up)
        return measured

    def _register(self, connection: Connection) -> None:
        """Wait for what comes in on this connection."""
        self.selector.register(connection.socket, selectors.EVENT_READ, connection)

    def _send(self, connection: Connection) -> None:
        """Send the next request, on a new connection if the old one is closed."""
        if self.new:
            visitor = Visitor()
        else:
            visitors = connection.visitors
            visitor = visitors[int(self.random() * len(visitors))]
        try:
            connection.send(self.path, visitor)
        except ConnectionError as error:
            self._wrong(connection, str(error), closed=True)
            connection.send(self.path, visitor)

    def _receive(self, connection: Connection) -> bool | None:
        """Whether what came in is a right answer. None if there is more to come."""
        try:
            answer = connection.receive()
        except ConnectionError as error:
            return self._wrong(connection, str(error), closed=True)
        if answer is None:
            return None
        visitor = connection.visitor
        if answer.cookie is not None:
            visitor.cookie = answer.cookie
        if answer.status != b"200":
            problem = f"status {answer.status.decode(errors='replace')}"
        elif not self.check(visitor, answer.body):
            problem = "wrong body"
            if len(self.failures) < EXAMPLES:
                problem += f": {answer.body[:60]!r}"
        elif self.new and not visitor.cookie:
            problem = "a new session without a cookie"
        else:
            if answer.closes:
                self._reconnect(connection)
            return True
        return self._wrong(connection, problem, closed=answer.closes)

    def _wrong(self, connection: Connection, problem: str, *, closed: bool) -> bool:
        """Count what went wrong."""
        self.failures[problem] += 1
        if closed:
            self._reconnect(connection)
        return False

    def _reconnect(self, connection: Connection) -> None:
        """Go on with a new connection."""
        self.selector.unregister(connection.socket)
        try:
            connection.reconnect()
        except OSError as error:
            raise LoadError(f"The server is gone: {error}.") from error
        self._register(connection)
