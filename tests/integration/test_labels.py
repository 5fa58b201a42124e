"""What an application calls a session, for lists of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql import Session, SessionValueError, session
from flask_sessionsql.formats.serializers import MsgpackSerializer
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, on, statements_on, store_of
from tests.integration.helpers import (
    add_views,
    cookie,
    during,
    regenerate,
    rows,
    same_browser,
    token,
    visit,
)

SESSIONS = Session()
LABEL = "Käfer's laptop \N{BEETLE}"


def name(label: str | None, *steps: Callable[[], object]) -> Callable[[], str]:
    """A view that sets the session's label."""

    def view() -> str:
        session.label = label
        for step in steps:
            step()
        return "ok"

    return view


def doing(step: Callable[[], object]) -> Callable[[], str]:
    """A view that does something else."""

    def view() -> str:
        step()
        return "ok"

    return view


def named(client: FlaskClient) -> str:
    """What the session's own views see."""
    return visit(client, lambda: repr(session.label)).text


def labels(app: Flask) -> list[str | None]:
    """What the rows have, the one that began first at the top."""
    return [row.label for row in rows(app)]


def log_in(user: str | None = "ann") -> Callable[[], None]:
    return lambda: session.update(_user_id=user)


def log_out() -> None:
    session.pop("_user_id")


def begin_anew() -> None:
    session.clear()
    session["_user_id"] = "ann"


def test_a_label_is_in_lists(app: Flask, client: FlaskClient, clock: Clock) -> None:
    """Of the session that it was set for, and of no other, in the usual order; in its
    own requests; until it is removed.
    """
    phone = app.test_client()
    visit(phone, doing(log_in()))
    clock.now += 1
    visit(client, name(LABEL, log_in()))

    def listed() -> list[str | None]:
        with app.app_context():
            return [each.label for each in SESSIONS.user_sessions("ann")]

    assert [LABEL, None] == listed()
    assert (named(client), named(phone)) == (repr(LABEL), "None")
    assert client.get("/all").json == {"_user_id": "ann"}
    clock.now += 1
    visit(phone, name("Phone"))
    assert ["Phone", LABEL] == listed()
    visit(client, name(""))
    assert {"Phone", None} == set(listed())
    assert named(client) == "None"


def test_a_label_alone_begins_no_session(app: Flask, client: FlaskClient) -> None:
    """A visitor's session that holds nothing else is not stored, and one that is
    emptied goes.
    """
    response = visit(client, name(LABEL))
    assert (cookie(response), rows(app)) == (None, [])
    client.get("/set/a/1")
    assert labels(app) == [None]
    visit(client, name(LABEL, lambda: session.pop("a")))
    assert rows(app) == []


def test_a_label_that_is_all_that_changes_is_stored(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """By one UPDATE, which is the only one that writes the column; the same once more
    writes nothing, and no request reads the column.
    """
    client.get("/set/a/1")
    with statements_on(store_of(app).engine) as statements:
        visit(client, name(LABEL))
        visit(client, name(LABEL))
        client.get("/set/a/2")
        client.get("/get/a")
    assert ["SELECT", "UPDATE", "SELECT", "SELECT", "UPDATE", "SELECT"] == [
        text.split()[0] for text in statements
    ]
    assert ["label" in text for text in statements] == [False, True, *[False] * 4]
    assert (labels(app), client.get("/all").json) == ([LABEL], {"a": "2"})


@pytest.mark.parametrize(
    "end",
    [log_out, log_in(None), log_in("bob"), begin_anew],
    ids=["logout", "nobody", "another user", "clear"],
)
def test_a_label_ends_with_the_login(
    app: Flask, client: FlaskClient, end: Callable[[], None]
) -> None:
    """Whoever comes after has none, in the row and in the session; unless it is set for
    them as well.
    """
    visit(client, name(LABEL, log_in(), lambda: session.update(basket=1)))
    visit(client, doing(end))
    assert (labels(app), named(client)) == ([None], "None")

    visit(client, name(LABEL, log_in()))
    visit(client, doing(end))
    assert (labels(app), named(client)) == ([None], "None")

    def hand_over() -> str:
        end()
        session.label = "Theirs"
        return "ok"

    visit(client, name(LABEL, log_in()))
    visit(client, hand_over)
    assert (labels(app), named(client)) == (["Theirs"], "'Theirs'")


def test_a_visitor_s_label_stays_for_the_login(app: Flask, client: FlaskClient) -> None:
    """And through each change of token that is no logout."""
    visit(client, name(LABEL, lambda: session.update(basket=1)))
    before = token(client)
    visit(client, doing(log_in()))
    visit(client, regenerate)
    assert before != token(client)
    assert (labels(app), named(client)) == ([LABEL], repr(LABEL))


@pytest.mark.parametrize("last", ["data", "label"])
def test_a_label_is_merged_with_what_others_write(
    app: Flask, client: FlaskClient, last: str
) -> None:
    """One tab sets it and another one writes: both are kept, whoever is last."""
    visit(client, name("Old", log_in()))
    tab = same_browser(client)

    def write() -> str:
        session["basket"] = "tea"
        return "ok"

    views = [name(LABEL), write]
    if last == "label":
        views.reverse()
    during(client, views[1], lambda: visit(tab, views[0]))
    assert client.get("/all").json == {"_user_id": "ann", "basket": "tea"}
    assert (labels(app), named(client)) == ([LABEL], repr(LABEL))


def test_of_two_labels_the_last_one_stays(app: Flask, client: FlaskClient) -> None:
    """Be it none."""
    visit(client, name("Old", log_in()))
    tab = same_browser(client)
    for mine, theirs in (("Mine", "Theirs"), (None, "Theirs"), ("Mine", None)):
        during(client, name(mine), lambda: visit(tab, name(theirs)))  # noqa: B023
        assert (labels(app), named(client)) == ([mine], repr(mine))


@pytest.mark.parametrize("before", [None, "Old"])
def test_a_label_that_is_set_during_a_logout(
    app: Flask, client: FlaskClient, before: str | None
) -> None:
    """It was set for the login that ends, and goes with it."""
    visit(client, name(before, log_in(), lambda: session.update(basket=1)))
    tab = same_browser(client)

    during(client, doing(log_out), lambda: visit(tab, name(LABEL)))
    assert client.get("/all").json == {"basket": 1}
    assert (labels(app), named(client)) == ([None], "None")

    visit(client, name(before, log_in()))
    tab = same_browser(client)
    during(client, name("Theirs", log_out), lambda: visit(tab, name(LABEL)))
    assert (labels(app), named(client)) == (["Theirs"], "'Theirs'")


def test_a_label_brings_no_session_back(app: Flask, client: FlaskClient) -> None:
    """One that is set while the session is ended is dropped."""
    visit(client, name("Old", log_in()))

    def revoke() -> None:
        with app.app_context():
            assert SESSIONS.revoke_user("ann") == 1

    response = during(client, name(LABEL), revoke)
    assert (response.status_code, cookie(response), rows(app)) == (200, None, [])


def test_a_login_whose_session_has_gone_keeps_its_label(
    app: Flask, client: FlaskClient
) -> None:
    """It is stored as a new session, with all that the request has set."""
    client.get("/set/a/1")
    tab = same_browser(client)
    during(client, name(LABEL, log_in()), lambda: tab.get("/clear"))
    assert (labels(app), named(client)) == ([LABEL], repr(LABEL))


def test_a_request_that_does_not_count_names_its_session(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """It stores the label, and moves no end on."""
    visit(client, name("Old", log_in()))
    [before] = rows(app)
    clock.now += 24 * 3600

    def view() -> str:
        session.counts_as_use = False
        session.label = LABEL
        return "ok"

    visit(client, view)
    [after] = rows(app)
    assert after.label == LABEL
    assert before.expires_at == after.expires_at
    assert before.last_used_at == after.last_used_at


def test_a_label_is_set_where_no_response_carries_a_cookie(
    app: Flask, client: FlaskClient
) -> None:
    """As where a WebSocket is opened; it goes with a login that ends there."""
    visit(client, name("Old", log_in(), lambda: session.update(basket=1)))

    def socket(view: Callable[[], object]) -> None:
        app.extensions["view"] = doing(view)
        client.get("/run", headers={"Sec-WebSocket-Key": "eA=="})

    socket(name(LABEL))
    assert (labels(app), named(client)) == ([LABEL], repr(LABEL))
    socket(log_out)
    assert labels(app) == [None]
    assert (labels(app), named(client)) == ([None], "None")


def test_a_label_is_plain_text_beside_encrypted_data(
    make_app: MakeApp, database_uri: str
) -> None:
    """The lists of operators and users need no key. The session's own requests see it
    under a new ``SECRET_KEY`` as well.
    """
    app = add_views(make_app(database_uri, SESSION_ENCRYPT=True))
    client = app.test_client()
    visit(client, name(LABEL, log_in()))
    [row] = rows(app)
    assert row.label == LABEL
    assert LABEL.encode() not in bytes(row.data)
    app.secret_key, app.config["SECRET_KEY_FALLBACKS"] = "new", ["a key"]
    assert named(client) == repr(LABEL)
    client.get("/set/a/1")
    assert (labels(app), named(client)) == ([LABEL], repr(LABEL))


def test_a_label_that_somebody_has_written(app: Flask, client: FlaskClient) -> None:
    """In the data, what is no text is an unreadable session. In the column, it is in
    lists and nowhere else.
    """
    visit(client, name(LABEL, log_in()))
    store = store_of(app)

    def write(**values: Any) -> None:
        with store.engine.connect() as connection:
            connection.execute(sa.update(store.table).values(values))

    write(label="Another")
    assert (labels(app), named(client)) == (["Another"], repr(LABEL))
    write(data=MsgpackSerializer().dumps({"a": 1, "_sessionsql_label": 5}))
    assert client.get("/get/a").text == named(client) == "None"


@pytest.mark.parametrize(
    ("backend", "option"),
    on(("mariadb", "charset=latin1"), ("postgresql", "client_encoding=latin1")),
)
def test_a_label_that_the_connection_cannot_keep(
    make_app: MakeApp, make_database: MakeDatabase, backend: str, option: str
) -> None:
    """It is an error that names it and says what to do, and not the label."""
    url = sa.make_url(make_database(backend)).update_query_string(option)
    app = add_views(make_app(url.render_as_string(False)))
    client = app.test_client()
    visit(client, name("Laptop", log_in("käfer")))
    for steps in ([], [log_in("ann")]):
        with pytest.raises(SessionValueError, match=r"utf8mb4.*refuse such") as caught:
            visit(client, name(LABEL, *steps))
        assert caught.value.path == "session.label"
        assert "\N{BEETLE}" not in str(caught.value)
    with pytest.raises(SessionValueError, match="number in the session") as caught:
        visit(client, name("Käfer", log_in("ann\N{GRINNING FACE}")))
    assert caught.value.path == "session['_user_id']"
    assert (labels(app), named(client)) == (["Laptop"], "'Laptop'")
