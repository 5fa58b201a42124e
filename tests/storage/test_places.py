"""A file, a folder or a schema that is not there: one error that says what to do."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, session
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session, SessionConfigError, SessionTableError
from flask_sessionsql.storage.places import check_folder
from tests.conftest import MakeApp
from tests.helpers import assert_sessions_work, close, configured, on, store_of


@contextmanager
def raises(key: str, *texts: str) -> Iterator[None]:
    with pytest.raises(SessionConfigError) as caught:
        yield
    assert caught.value.key == key
    for text in texts:
        assert text in str(caught.value)


@contextmanager
def without_rights() -> Iterator[None]:
    """Be somebody who may write to nothing that is not theirs."""
    is_root = os.geteuid() == 0
    if is_root:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)


URI = "SQLALCHEMY_DATABASE_URI"


def test_an_instance_folder_beneath_a_file(tmp_path: Path) -> None:
    """It can never be made, which Session(app) says."""
    (tmp_path / "file").touch()
    app = Flask("shop", instance_path=str(tmp_path / "file" / "a" / "instance"))
    app.config.update(SESSION_TYPE="sqlalchemy", SECRET_KEY="a key")
    with raises(URI, f"{str(tmp_path / 'file')!r} is not a folder", "Remove that"):
        Session(app)


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    """Neither can a SQLite file that is a folder."""
    with raises(URI, "is a folder", f"{str(tmp_path / 'sessions.db')!r}"):
        Session(configured(f"sqlite:///{tmp_path}"))


@pytest.mark.parametrize(
    "config",
    [
        {"SQLALCHEMY_ENGINE_OPTIONS": {"creator": lambda: None}},
        {"SQLALCHEMY_DATABASE_URI": "sqlite:///file:{}?uri=true"},
        {"SQLALCHEMY_DATABASE_URI": "sqlite:///:memory:"},
        {"SQLALCHEMY_DATABASE_URI": "postgresql+psycopg://localhost/{}"},
    ],
    ids=["creator", "URI", "memory", "another database"],
)
def test_what_only_the_driver_can_tell(config: dict[str, Any], tmp_path: Path) -> None:
    """What an address means to others is not judged by Session(app)."""
    app = configured(f"sqlite:///{tmp_path}")
    for key, value in config.items():
        text = isinstance(value, str)
        app.config[key] = value.format(tmp_path) if text else value
    Session(app)


@pytest.mark.parametrize("with_db", [True, False])
def test_a_folder_that_is_missing(
    make_app: MakeApp, tmp_path: Path, with_db: bool
) -> None:
    """It may still be made, so that the first use tells; the sessions work once it
    is there.
    """
    folder = tmp_path / "not" / "there"
    before = SQLAlchemy().init_app if with_db else lambda app: None
    app = make_app(f"sqlite:///{folder}/app.db", before)
    for _ in range(2):
        with raises(URI, f"there is no folder {str(folder)!r}", "Create it"):
            assert_sessions_work(app)
    folder.mkdir(parents=True)
    assert_sessions_work(app)


def test_the_folder_of_a_bind(make_app: MakeApp, tmp_path: Path) -> None:
    """A bind's address stands under another key."""
    app = make_app(
        SESSION_SQLALCHEMY_BIND_KEY="web",
        SQLALCHEMY_BINDS={"web": f"sqlite:///{tmp_path}/a/app.db"},
    )
    with raises("SQLALCHEMY_BINDS", "there is no folder"):
        assert_sessions_work(app)


def test_a_file_that_became_a_folder(make_app: MakeApp, tmp_path: Path) -> None:
    """What comes in its way later is told by the first use."""
    app = make_app(f"sqlite:///{tmp_path}/app.db")
    (tmp_path / "app.db").mkdir()
    with raises(URI, "is a folder"):
        assert_sessions_work(app)
    (tmp_path / "app.db").rmdir()
    assert_sessions_work(app)


def test_a_place_that_is_sound(tmp_path: Path) -> None:
    """Nothing is said of a file that is there, or can be made."""
    url = sa.make_url(f"sqlite:///{tmp_path}/app.db")
    check_folder(URI, url, "/nowhere")
    (tmp_path / "app.db").touch()
    check_folder(URI, url, "/nowhere")


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder that everybody finds and nobody may write to."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)


def test_a_folder_that_nobody_may_write_to(closed_folder: Path) -> None:
    """No file can be made there, and the error says that it is the rights."""
    app = configured(f"sqlite:///{closed_folder}/app.db", TESTING=True)
    Session(app)
    with without_rights(), raises(URI, "may not write to the folder"):
        assert_sessions_work(app)
    closed_folder.chmod(0o755)
    assert_sessions_work(app)
    close(app)


def test_an_instance_folder_that_nobody_may_make(closed_folder: Path) -> None:
    """Likewise the instance folder, which the first use makes."""
    app = Flask("shop", instance_path=f"{closed_folder}/instance")
    app.config.update(SESSION_TYPE="sqlalchemy", SECRET_KEY="a key", TESTING=True)
    Session(app)
    expected = f"the instance folder '{closed_folder}/instance'", "Permission denied"
    with without_rights(), raises(URI, *expected):
        assert_sessions_work(app)
    closed_folder.chmod(0o755)
    assert_sessions_work(app)
    close(app)


def test_a_file_that_cannot_be_opened_for_another_reason(closed_folder: Path) -> None:
    """Where the place is sound, it is an outage like any other: a 503."""
    app = configured(f"sqlite:///{closed_folder}/app.db", TESTING=True)
    (closed_folder / "app.db").touch(0)
    Session(app)
    app.add_url_rule("/", view_func=lambda: str(session.setdefault("key", "value")))
    with without_rights():
        assert app.test_client().get("/").status_code == 503
    close(app)


@pytest.mark.parametrize("backend", on("sqlite-file", "postgresql", "mariadb"))
@pytest.mark.parametrize("creates", [True, False])
def test_a_schema_that_is_missing(
    make_app: MakeApp, make_database: Callable[[str], str], backend: str, creates: bool
) -> None:
    """One error that names the schema and the setting, whoever creates the table."""
    app = make_app(
        make_database(backend),
        SESSION_SQLALCHEMY_SCHEMA="nowhere",
        SESSION_CREATE_TABLE=creates,
    )
    expected = "There is no schema 'nowhere'.*SESSION_SQLALCHEMY_SCHEMA"
    with pytest.raises(SessionTableError, match=expected) as caught:
        assert_sessions_work(app)
    assert caught.value.key == "SESSION_SQLALCHEMY_SCHEMA"
    with pytest.raises(SessionTableError, match=expected):
        store_of(app).database.provide_table()
    result = app.test_cli_runner().invoke(args=["sessions", "create-table"])
    assert result.exit_code == 1
    assert "Error: There is no schema 'nowhere'" in result.output
    result = app.test_cli_runner().invoke(args=["sessions", "check"])
    assert "error: SESSION_SQLALCHEMY_SCHEMA" in result.output
