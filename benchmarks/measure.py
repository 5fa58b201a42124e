"""How the cost of a request is measured: batch by batch, in turn.

A round gives every contender one batch of each request, in an order that changes from
round to round, so that whatever else the machine does meets all alike. A batch begins
with the garbage collected and with some requests that are not timed, and every answer
is checked when the clock has stopped. The requests of a batch have different sessions,
all of them begun in this run.
"""

from __future__ import annotations

import gc
import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from werkzeug.test import EnvironBuilder

from benchmarks import terms
from benchmarks.frame import BrokenError, say
from benchmarks.peers import Peer, WSGIApplication
from benchmarks.terms import BASKET, LINE, LOGIN, NEW, READ, WRITE

#: So many batches have sessions of their own, or nearly so.
BATCHES = 8
#: Requests of a batch that are not timed: after the others, caches are cold.
WARM_UP = 3
_COOKIE = re.compile(r"session=([^;]*)")
ENVIRONS = {name: EnvironBuilder(f"/{name}").get_environ() for name in terms.views({})}


@dataclass
class Answer:
    """What an application answered."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    @property
    def cookie(self) -> str | None:
        """The session's new cookie, if it is set."""
        for name, value in self.headers:
            if name.lower() == "set-cookie" and (found := _COOKIE.match(value)):
                return found[1]
        return None


def call_all(wsgi: WSGIApplication, environs: Iterable[dict[str, Any]]) -> list[Answer]:
    """Send requests one after the other, as a server does. The answers."""
    answers: list[Answer] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], error: object = None
    ) -> None:
        answers.append(Answer(status, headers))

    for environ in environs:
        content: Any = wsgi(environ, start_response)
        answers[-1].body = b"".join(content)
        content.close()
    return answers


@dataclass
class Client:
    """A browser with a live session, unless it has no cookie yet.

    :ivar visits: how far its session counts: its visits, or the books of one line.
    """

    cookie: str | None = None
    visits: int = 1

    def environ(self, request: str) -> dict[str, Any]:
        """What the server gives to the application."""
        environ = ENVIRONS[request].copy()
        if self.cookie is not None and request not in {terms.ANONYMOUS, NEW}:
            environ["HTTP_COOKIE"] = f"session={self.cookie}"
        return environ


class Contender:
    """One application and its clients; ``batch`` requests are timed together."""

    def __init__(self, peer: Peer, batch: int) -> None:
        self.peer = peer
        self.batch = batch
        self.keeps = peer.name not in {terms.NOTHING, terms.DJANGO_NOTHING}
        self.clients: list[Client] = []

    def begin_sessions(self, number: int) -> list[Client]:
        """New sessions with the payload."""
        environs = [Client().environ(NEW) for _ in range(number)]
        answers = call_all(self.peer.wsgi, environs)
        if self.keeps and not all(answer.cookie for answer in answers):
            raise BrokenError(f"{self.peer.name}: a new session has no cookie")
        # One with no session of its own gets a cookie all the same.
        return [Client(answer.cookie or "x" * 43) for answer in answers]

    def time(self, request: str) -> float:
        """Microseconds that a request of a batch took."""
        number = WARM_UP + self.batch
        self.clients = self.clients or self.begin_sessions(BATCHES * number)
        clients = random.sample(self.clients, number)
        if request == LOGIN:
            clients = self.begin_sessions(number)
        environs = [client.environ(request) for client in clients]
        gc.collect()
        first = call_all(self.peer.wsgi, environs[:WARM_UP])
        rest = environs[WARM_UP:]
        start = time.perf_counter_ns()
        answers = call_all(self.peer.wsgi, rest)
        took = time.perf_counter_ns() - start
        for client, answer in zip(clients, first + answers, strict=True):
            self.check(request, client, answer)
        if self.keeps and request in {WRITE, NEW, LOGIN, LINE}:
            # Whether what was stored is there.
            kept = Client(answer.cookie) if request == NEW else client
            look = BASKET if request == LINE else READ
            [read] = call_all(self.peer.wsgi, [kept.environ(look)])
            self.check(look, kept, read)
        return took / 1000 / len(rest)

    def check(self, request: str, client: Client, answer: Answer) -> None:
        """Whether the answer is right."""
        expected = "ok"
        if request == READ:
            expected = f"Ann Example {client.visits}" if self.keeps else "None None"
        elif request == terms.KEY_OF_MANY:
            expected = "Ann Example, name..." if self.keeps else "None"
        elif request in {WRITE, LINE, BASKET}:
            client.visits += self.keeps and request != BASKET
            expected = str(client.visits)
        if answer.status != "200 OK" or answer.body.decode() != expected:
            raise BrokenError(
                f"{self.peer.name} answered /{request} with {answer.status} and"
                f" {answer.body[:80]!r} instead of {expected!r}"
            )
        in_cookie = self.peer.name == terms.COOKIE
        # Two of Flask's own cookies of one second with the same content are the same.
        same = answer.cookie == client.cookie and not in_cookie
        if self.keeps and request in {NEW, LOGIN} and (not answer.cookie or same):
            raise BrokenError(f"{self.peer.name}: /{request} set no new cookie")
        if request == LOGIN or (request in {WRITE, LINE} and in_cookie):
            client.cookie = answer.cookie


#: By the request's and the contender's names: microseconds a request in each round.
Times = dict[tuple[str, str], list[float]]


def measure(
    contenders: Sequence[Contender], requests: Sequence[str], seconds: float, least: int
) -> Times:
    """Time all contenders in turn.

    :param seconds: for how long, with all that is not timed.
    :param least: how many rounds there are at least.
    """
    names = [each.peer.name for each in contenders]
    times: Times = {(request, name): [] for request in requests for name in names}
    turn = 0
    begun = time.monotonic()
    try:
        while turn <= least or time.monotonic() - begun < seconds:
            for request in random.sample(requests, len(requests)):
                for contender in random.sample(contenders, len(contenders)):
                    took = contender.time(request)
                    # A first round does not count: pools, caches and prepared
                    # statements fill.
                    if turn:
                        times[request, contender.peer.name].append(took)
            if not turn:
                # What is there stays, and costs the collections between batches
                # nothing.
                gc.collect()
                gc.freeze()
                begun = time.monotonic()
            turn += 1
    finally:
        gc.unfreeze()
    say(f"  {turn - 1} rounds in {time.monotonic() - begun:.0f} s")
    return times
