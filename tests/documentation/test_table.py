"""The page of the table says what the table is."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from flask_sessionsql import Session, session
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.storage import adoption
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import on
from tests.pages import page

from .source import block

#: The page's files, by SQLAlchemy's name of the database.
FILES = {
    "sqlite": block("reference/table", "sqlite.sql"),
    "postgresql": block("reference/table", "postgresql.sql"),
    "mysql": block("reference/table", "mariadb.sql"),
    "mariadb": block("reference/table", "mariadb.sql"),
}
DIALECTS = {
    "sqlite": sa.make_url("sqlite://").get_dialect()(),
    "postgresql": sa.make_url("postgresql+psycopg://").get_dialect()(),
    "mysql": sa.make_url("mysql+pymysql://").get_dialect()(),
    "mariadb": sa.make_url("mariadb+pymysql://").get_dialect()(),
}
TABLE = sessions_table(sa.MetaData(), SessionConfig.table)


def statements(database: str) -> list[str]:
    """The statements in the file that the page has for a database."""
    return [plain(each) for each in FILES[database].split(";\n") if each.strip()]


def plain(statement: str) -> str:
    """A statement without what makes no difference to a database."""
    words = " ".join(statement.split()).removesuffix(";")
    return words.replace("( ", "(").replace(" )", ")")


@pytest.mark.parametrize("database", [*FILES])
def test_the_page_has_the_statements_of_the_code(database: str) -> None:
    """The CREATE TABLE on the page is the one that the package runs."""
    dialect = DIALECTS[database]
    indexes = sorted(TABLE.indexes, key=lambda index: str(index.name))
    created: list[CreateTable | CreateIndex] = [CreateTable(TABLE)]
    created += map(CreateIndex, indexes)

    assert [plain(str(each.compile(dialect=dialect))) for each in created] == (
        statements(database)
    )


@pytest.mark.parametrize("kind", on("sqlite-file", "postgresql", "mariadb"))
def test_sessions_work_in_a_table_made_by_hand(
    kind: str, make_empty_database: MakeDatabase, make_app: MakeApp
) -> None:
    """An application without the right to create tables works with that table."""
    uri = make_empty_database(kind)
    engine = sa.create_engine(uri)
    with engine.begin() as connection:
        for statement in statements(engine.dialect.name):
            connection.exec_driver_sql(statement)
    engine.dispose()
    app = make_app(uri, SESSION_CREATE_TABLE=False)

    @app.get("/login")
    def login() -> str:
        session["_user_id"] = "ann"
        return "ok"

    assert "ok" == app.test_client().get("/login").text
    with app.app_context():
        assert 1 == len(Session().user_sessions("ann"))


def rows() -> dict[str, list[str]]:
    """The cells of the table of types, by column."""
    found = re.findall(r"^``(\w+)``  +(``.+)$", page("reference/table"), re.M)
    return {name: re.split("  +", cells.replace("``", "")) for name, cells in found}


def test_the_page_has_the_types_of_the_code() -> None:
    """The page has each column once, with its types, whether it may be null and whether
    it has an index.
    """
    partial = {"handle", "user_id", "previous_id"}
    indexed = {each.name for index in TABLE.indexes for each in index.columns}

    assert TABLE.columns.keys() == [*rows()]
    for column in TABLE.columns:
        types = [
            column.type.compile(dialect=DIALECTS[name]).partition(" CHARACTER")[0]
            for name in ("sqlite", "postgresql", "mysql")
        ]
        index = "yes" if column.name in indexed else "no"
        if column.name in partial or column.primary_key:
            index = "some" if column.name in partial else "key"
        null = "yes" if column.nullable else "no"
        assert [*types, null, index] == rows()[column.name]


def test_the_page_says_what_each_column_holds() -> None:
    """Every column has its meaning on the page."""
    meanings = re.findall(r"^   \* - ``(\w+)``$", page("reference/table"), re.M)

    assert TABLE.columns.keys() == meanings


def test_the_page_says_what_a_note_is_about() -> None:
    """The page has the version of each kind of note."""
    kinds = [
        adoption._ENDED,
        adoption._USED,
        adoption._MOVED,
        adoption._CONFIRMED,
    ]

    assert [str(each) for each in kinds] == re.findall(
        r"^``(\d)``  ", page("reference/table"), re.M
    )
