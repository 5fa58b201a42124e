"""A SQLAlchemy of another version, in which a private part has another name.

``python -m tests.storage.renaming PART URL`` renames it wherever SQLAlchemy has it,
uses sessions there, and prints which ways they took.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any


class Renaming(MetaPathFinder):
    """Gives SQLAlchemy's modules out with another name in the place of ``part``."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.pattern = rf"\b{part}\b"
        if part == "maxsize":  # which Python itself has, too
            self.pattern = r"(?<!sys\.)\bmaxsize\b(?!=)"

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "sqlalchemy":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            source = Path(spec.loader.path).read_text("utf-8")
            if self.part in source:
                renamed = re.sub(self.pattern, "_renamed", source)
                spec.loader = Renamed(spec.loader.path, renamed)
        return spec


class Renamed(SourceLoader):
    """A module with this source; nothing of it is kept."""

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.source = source

    def get_filename(self, fullname: str) -> str:
        return self.path

    def get_data(self, path: str) -> bytes:
        if path != self.path:
            raise OSError
        return self.source.encode()


def use_store(url: str) -> dict[str, Any]:
    """Every statement of the store, a lost connection and the limit of the pool."""
    import pytest
    import sqlalchemy as sa

    from flask_sessionsql.storage.driver import Connections, DirectWay, PlainConnection
    from flask_sessionsql.storage.engines import sessions_engine
    from flask_sessionsql.storage.store import SessionStore
    from flask_sessionsql.storage.tables import sessions_table
    from tests.storage.helpers import kill_connections, row_of

    source = sa.create_engine(url, pool_size=2, max_overflow=1, pool_timeout=0.01)
    engine = sessions_engine(source)
    store = SessionStore(engine, sessions_table(sa.MetaData(), "sessions"))
    row = row_of(1)
    assert store.insert(row)
    assert store.load(row.id, 0) is not None
    assert store.update(row._replace(data=b"new" * 50_000), row, 0)
    changed = store.load(row.id, 0)
    assert changed is not None
    assert changed.data == b"new" * 50_000
    assert store.touch(row_of(1, version=2, last_used_at=1_500), 0)
    connections = Connections(engine)
    taken = [connections.check_out() for _ in range(3)]
    with pytest.raises(sa.exc.TimeoutError, match=r"timeout 0\.01"):
        connections.check_out()
    for connection in taken:
        connection.close()
    if not store.locks_whole_database:
        kill_connections(store)
    assert store.delete(row.id)
    assert store.load(row.id, 0) is None
    found = {
        "direct": DirectWay(engine).is_open(),
        "plain": isinstance(taken[0], PlainConnection),
        "kept": sa.QueuePool.size(engine.pool),  # type: ignore[arg-type]
    }
    store.dispose()
    return found


def use_application(url: str) -> None:
    """A whole request that writes, and one that reads, beside the application's own."""
    import sqlalchemy as sa
    from flask import Flask
    from flask_sqlalchemy import SQLAlchemy

    from flask_sessionsql import Session, session

    app = Flask("shop")
    app.config.update(
        TESTING=True,
        SECRET_KEY="a key",
        SESSION_TYPE="flask-sqlalchemy",
        SESSION_PURGE_INTERVAL=0,
        SQLALCHEMY_DATABASE_URI=url,
    )
    db = SQLAlchemy(app)
    Session(app)
    notes = sa.Table("notes", db.metadata, sa.Column("n", sa.Integer, primary_key=True))

    @app.get("/<int:number>")
    def write(number: int) -> str:
        db.session.execute(sa.select(notes)).all()
        db.session.execute(sa.insert(notes), {"n": number})
        session["number"] = session.get("number", 0) + number
        return str(session["number"])

    client = app.test_client()
    with app.app_context():
        db.create_all()
    assert [client.get(f"/{number}").text for number in (1, 2)] == ["1", "3"]
    app.session_interface.records.store.dispose()  # type: ignore[attr-defined]
    with app.app_context():
        db.engine.dispose()


if __name__ == "__main__":
    part, url = sys.argv[1:]
    sys.meta_path.insert(0, Renaming(part))
    found = use_store(url)
    use_application(url)
    print(json.dumps(found))
