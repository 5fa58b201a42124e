"""Sessions in real servers, with real processes."""

from __future__ import annotations

import http.client
import json
import sys
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from tests.helpers import at_once, gunicorn, run_together

APP = """
import os
from flask import Flask, session
from flask_sessionsql import Session

app = Flask(__name__)
app.config.update(
    SECRET_KEY="a key",
    SESSION_TYPE="flask-sqlalchemy",
    SQLALCHEMY_DATABASE_URI={uri!r},
)
Session(app)

@app.get("/me/<value>")
def me(value):
    session["me"] = session.get("me", value)
    session["visits"] = session.get("visits", 0) + 1
    return [session["me"], session["visits"], os.getpid()]

# Opens a connection in the process that will fork.
client = app.test_client()
assert client.get("/me/parent").status_code == 200
"""

CREATE = """
import sys
from flask import Flask, session
from flask_sessionsql import Session

app = Flask(__name__)
app.config.update(SECRET_KEY="k", SESSION_TYPE="flask-sqlalchemy")
app.config.update(SQLALCHEMY_DATABASE_URI=sys.argv[1])
Session(app)

@app.get("/")
def index():
    session["here"] = 1
    return "ok"

print("ready", flush=True)
sys.stdin.readline()
print(app.test_client().get("/").status)
"""


def visit(port: int, number: int, times: int) -> list[object]:
    """One browser, with a connection a visit, so that it meets every worker."""
    cookie = ""
    answers: list[object] = []
    for _ in range(times):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", f"/me/{number}", headers={"Cookie": cookie})
        response = connection.getresponse()
        body = response.read()
        header = response.getheader("Set-Cookie")
        if header is not None:
            cookie = header.partition(";")[0]
        answers.append(json.loads(body) if response.status == 200 else response.status)
        connection.close()
    return answers


def test_a_pre_forking_server(shared_database_uri: str, tmp_path: Path) -> None:
    """gunicorn --preload, with a connection opened before the fork: no worker uses the
    parent's or another's, no request fails, and nobody gets another's session.
    """
    (tmp_path / "app.py").write_text(APP.format(uri=shared_database_uri))
    with gunicorn(tmp_path, "--preload", "--workers=2", "--threads=2") as port:
        results = at_once([partial(visit, port, number, 25) for number in range(8)])
    workers = set()
    for number, answers in enumerate(results):
        told = [answer[:2] for answer in answers if isinstance(answer, list)]
        assert told == [[str(number), visit + 1] for visit in range(25)]
        workers |= {answer[2] for answer in answers if isinstance(answer, list)}
    assert len(workers) == 2


def test_many_processes_create_the_table_at_once(
    empty_database_uri: str, tmp_path: Path
) -> None:
    """Four processes that start together on an empty database all get their session."""
    script = tmp_path / "create.py"
    script.write_text(CREATE)
    arguments = [sys.executable, str(script), empty_database_uri]
    assert run_together([arguments] * 4) == ["200 OK\n"] * 4
    engine = sa.create_engine(empty_database_uri)
    with engine.connect() as connection:
        count = sa.text("SELECT count(*) FROM flask_sessionsql")
        assert connection.execute(count).scalar_one() == 4
        indexes = sa.inspect(connection).get_indexes("flask_sessionsql")
    engine.dispose()
    assert len(indexes) == 4
