"""A load of HTTP requests over loopback, made by one light process.

Each connection is kept alive and sends one request after the other, without a rest,
for visitors of its own: no two connections ever speak for the same session at once.
A visitor sends the cookie that it was given last. Every answer is checked: its status
has to be 200, and its body what the caller says. What is parsed of it is only that.
"""

from __future__ import annotations

import random
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

#: How long an answer may take, or the workers to share the connections, in seconds.
PATIENCE = 30.0

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_COOKIE = re.compile(rb"\r\nset-cookie: *([^;\r]*)", re.IGNORECASE)


@dataclass(slots=True)
class Visitor:
    """Someone with a session: a cookie, and how often the session was changed."""

    cookie: bytes = b""
    changes: int = 0


#: Tells whether a body is right, and notes in the visitor what the request changed.
Check = Callable[[Visitor, bytes], bool]


class Connection:
    """A connection that is kept alive, and the visitors it speaks for."""

    def __init__(self, port: int) -> None:
        self.visitors: Sequence[Visitor] = ()
        self._port = port
        self.open()

    def open(self) -> None:
        """Connect, and again after the server has closed the connection."""
        self.socket = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, path: bytes, visitor: Visitor) -> None:
        """Send a request of this visitor's."""
        cookie = b"Cookie: " + visitor.cookie + b"\r\n" if visitor.cookie else b""
        self.socket.sendall(
            b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n" + cookie + b"\r\n"
        )

    def receive(self, visitor: Visitor) -> tuple[bytes, bytes]:
        """Wait for the answer: its status and its body. The visitor gets its cookie.

        :raises OSError: the server closed the connection, or is too slow.
        """
        received = b""
        while True:
            data = self.socket.recv(1 << 18)
            if not data:
                raise ConnectionResetError("the connection was closed")
            received += data
            head, end, body = received.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if end and length and len(body) >= int(length[1]):
                break
        if cookie := _COOKIE.search(head):
            visitor.cookie = cookie[1]
        return head[9:12], body


def connect(port: int, connections: int, workers: int, path: bytes) -> list[Connection]:
    """Open connections that are shared out evenly among the server's workers. Which of
    them accepts one is chance, and a worker with more than the others would be slower.

    :param path: where a worker answers with its own name.
    :raises OSError: the workers do not share them, or do not answer.
    """
    share = -(-connections // workers)
    of_worker: Counter[bytes] = Counter()
    kept: list[Connection] = []
    deadline = time.monotonic() + PATIENCE
    while len(kept) < connections:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the workers do not share: {of_worker}")
        # Many at once, so that no worker is ready for all of them.
        opened = [Connection(port) for _ in range(connections)]
        for connection in opened:
            connection.send(path, Visitor())
        for connection in opened:
            _, worker = connection.receive(Visitor())
            if len(kept) == connections or of_worker[worker] == share:
                connection.socket.close()
            else:
                kept.append(connection)
                of_worker[worker] += 1
    return kept


@dataclass
class Load:
    """What a load came to.

    :ivar rate: right answers in a second, and how long each took, in milliseconds.
    :ivar cpu: the share of one core that the load itself took.
    :ivar failures: what went wrong, with the warm-up.
    """

    rate: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def load(
    connections: Sequence[Connection],
    path: bytes,
    check: Check,
    *,
    seconds: float,
    warm_up: float,
    new: bool = False,
    seed: int = 0,
) -> Load:
    """Send requests for this path over all connections, and measure them.

    :param new: each request is that of a new visitor, who has to be given a cookie.
    :param seed: of the choice of the visitors.
    :raises OSError: the server does not answer.
    """
    measured = Load()
    chance = random.Random(seed)
    begun = time.process_time()
    begin = time.perf_counter() + warm_up
    end = begin + seconds

    def work(connection: Connection) -> None:
        now = 0.0
        while now < end:
            visitor = Visitor() if new else chance.choice(connection.visitors)
            sent = time.perf_counter()
            try:
                connection.send(path, visitor)
                status, body = connection.receive(visitor)
            except ConnectionError as error:
                status, body = b"none", str(error).encode()
            now = time.perf_counter()
            if status != b"200":
                # What a server fails to answer, it ends the connection after.
                connection.socket.close()
                connection.open()
            elif check(visitor, body) and visitor.cookie:
                if begin <= now < end:
                    measured.latencies.append(1000 * (now - sent))
                continue
            measured.failures.append(f"{status!r}: {body[:60]!r}")

    with ThreadPoolExecutor(len(connections)) as pool:
        list(pool.map(work, connections))
    measured.cpu = (time.process_time() - begun) / (seconds + warm_up)
    measured.rate = len(measured.latencies) / seconds
    return measured
