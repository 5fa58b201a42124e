"""When sessions end: unused, at last, or when the application says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from flask_sessionsql import session
from flask_sessionsql.formats.serializers import MsgpackSerializer
from tests.conftest import MakeApp, MakeDatabase
from tests.helpers import Clock, statements_on, store_of
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

HOUR = 3600
DAY = 24 * HOUR
START = 1_900_000_000


@pytest.fixture
def make_shop(make_app: MakeApp, database_uri: str) -> Callable[..., Flask]:
    """Applications on one database, each with settings of its own."""

    def make(**settings: Any) -> Flask:
        return add_views(make_app(database_uri, **settings))

    return make


def cookie_end(response: TestResponse) -> int:
    """The cookie's Expires, in seconds since 1970."""
    found = cookie(response)
    assert found is not None
    date = found.partition("Expires=")[2].partition(";")[0]
    return int(parsedate_to_datetime(date).timestamp())


def set_expiry(when: datetime | timedelta | None) -> Callable[[], str]:
    def view() -> str:
        session.set_expiry(when)
        return "ok"

    return view


def nested(inner: Callable[[], object], key: str = "mine") -> Callable[[], str]:
    """A view that reads, lets something else happen, and then writes ``key``, if it is
    not empty.
    """

    def view() -> str:
        session.get("a")
        inner()
        if key:
            session[key] = "mine"
        return "ok"

    return view


# The idle lifetime.


def test_use_moves_the_end_once_in_an_interval(
    make_shop: Callable[..., Flask], clock: Clock
) -> None:
    """However many requests there are, reading writes once in a refresh interval."""
    app = make_shop(
        PERMANENT_SESSION_LIFETIME=HOUR, SESSION_REFRESH_INTERVAL=timedelta(minutes=1)
    )
    client = app.test_client()
    client.get("/set/a/1")
    ends = set()
    with statements_on(store_of(app).engine) as statements:
        for _ in range(13):
            client.get("/get/a")
            [row] = rows(app)
            ends.add(row.expires_at - START)
            clock.now += 10
    assert 2 == [text.split()[0] for text in statements].count("UPDATE")
    assert {HOUR, HOUR + 60, HOUR + 120} == ends


@pytest.mark.parametrize("second", [+30, -30], ids=["later", "earlier"])
def test_the_end_only_moves_forward(
    app: Flask, client: FlaskClient, clock: Clock, second: int
) -> None:
    """Of two requests that read at once, on hosts whose clocks differ, the later clock
    counts, whichever is saved last.
    """
    client.get("/set/a/1")
    clock.now += DAY
    other = same_browser(client, app)

    def meanwhile() -> None:
        clock.now += second
        other.get("/get/a")
        clock.now -= second

    visit(client, nested(meanwhile, ""))
    [row] = rows(app)
    latest = START + DAY + max(0, second)
    assert (latest + 31 * DAY, latest) == (row.expires_at, row.last_used_at)


@pytest.mark.parametrize(
    "view",
    [
        lambda: session.update(b="2"),
        lambda: session.update(_user_id="ann"),
        lambda: session.regenerate(),
        lambda: session.pop("a"),
    ],
    ids=["write", "login", "new token", "pop"],
)
def test_a_clock_that_is_behind_ends_nothing_sooner(
    view: Callable[[], object], make_shop: Callable[..., Flask], clock: Clock
) -> None:
    """A change by a host whose clock is an hour behind leaves the session its time."""
    client = make_shop(PERMANENT_SESSION_LIFETIME=2 * HOUR).test_client()
    client.get("/set/a/1")
    client.get("/set/c/3")
    clock.now -= HOUR
    visit(client, lambda: str(view()))
    [row] = rows(client.application)
    assert row.last_used_at == START
    clock.now = START + 2 * HOUR - 1
    assert {"c": "3"}.items() <= (client.get("/all").json or {}).items()
    clock.now += 2 * HOUR
    assert client.get("/all").json == {}


# The absolute lifetime.


def test_use_does_not_extend_the_absolute_lifetime(
    make_shop: Callable[..., Flask], clock: Clock
) -> None:
    """Neither reading nor writing nor a new token: it ends to the second, and the
    cookie says so.
    """
    app = make_shop(
        PERMANENT_SESSION_LIFETIME=HOUR,
        SESSION_REFRESH_INTERVAL=0,
        SESSION_ABSOLUTE_LIFETIME=2 * HOUR,
    )
    client = app.test_client()
    client.get("/set/a/1")
    for _ in range(3):
        clock.now += 1790
        client.get("/get/a")
        client.get(f"/set/time/{clock.now}")
        response = visit(client, regenerate)
    assert START + 2 * HOUR == cookie_end(response)
    assert {START + 2 * HOUR} == {row.expires_at for row in rows(app)}
    clock.now = START + 2 * HOUR - 1
    assert "'1'" == client.get("/get/a").text
    clock.now += 1
    assert "None" == client.get("/get/a").text


def test_the_absolute_lifetime_begins_with_the_login(
    make_shop: Callable[..., Flask], clock: Clock
) -> None:
    """It begins anew when somebody logs in where nobody was; not with another user,
    and not with a logout.
    """
    app = make_shop(SESSION_ABSOLUTE_LIFETIME=DAY)
    client = app.test_client()

    def began(address: str) -> int:
        clock.now += HOUR
        client.get(address)
        [row] = rows(app)
        assert row.created_at + DAY == row.expires_at
        return int(row.created_at - START)

    assert 1 * HOUR == began("/set/a/1")
    assert 2 * HOUR == began("/set/_user_id/ann")
    assert 2 * HOUR == began("/set/_user_id/bob")
    assert 2 * HOUR == began("/set/_user_id/bob")
    assert 2 * HOUR == began("/pop/_user_id")
    assert 6 * HOUR == began("/set/_user_id/ann")


def test_the_absolute_lifetime_holds_for_what_was_stored_before(
    make_app: MakeApp, shared_database_uri: str, clock: Clock
) -> None:
    """A session that was stored before the setting was made ends, too; one that is not
    as old is moved to its end at the next write.
    """
    client = add_views(make_app(shared_database_uri)).test_client()
    client.get("/set/a/1")
    app = add_views(make_app(shared_database_uri, SESSION_ABSOLUTE_LIFETIME=DAY))
    again = same_browser(client, app)
    clock.now += DAY - 1
    assert "'1'" == again.get("/get/a").text
    clock.now += 1
    assert "None" == again.get("/get/a").text
    again.get("/set/a/2")
    assert token(client) != token(again)
    assert START + 2 * DAY == max(row.created_at + DAY for row in rows(app))


# An end that the application sets.


@pytest.mark.parametrize(
    "when",
    [
        timedelta(hours=8),
        datetime.fromtimestamp(START + 8 * HOUR, UTC),
        datetime.fromtimestamp(START + 8 * HOUR, timezone(timedelta(hours=-5))),
        datetime.fromtimestamp(START + 8 * HOUR - 0.5, UTC),
    ],
    ids=["timedelta", "UTC", "elsewhere", "rounded up"],
)
def test_a_session_ends_when_it_was_set_to(
    app: Flask, client: FlaskClient, clock: Clock, when: datetime | timedelta
) -> None:
    """To the second; the row, the cookie and the session say so."""
    client.get("/set/a/1")
    response = visit(client, set_expiry(when))
    end = START + 8 * HOUR
    assert end == cookie_end(response)
    assert [end] == [row.expires_at for row in rows(app)]
    expected = str(datetime.fromtimestamp(end, UTC))
    assert expected == visit(client, lambda: str(session.expires_at)).text
    clock.now = end - 1
    assert "'1'" == client.get("/get/a").text
    clock.now = end
    assert "None" == client.get("/get/a").text


def test_an_end_that_is_set_stays(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """Through reading, writing, login, logout and a new token."""
    client.get("/set/a/1")
    visit(client, set_expiry(timedelta(hours=8)))
    for use in ("/get/a", "/set/a/2", "/set/_user_id/ann", "/pop/_user_id"):
        clock.now += HOUR
        client.get(use)
        assert [START + 8 * HOUR] == [row.expires_at for row in rows(app)]
    assert START + 8 * HOUR == cookie_end(visit(client, regenerate))
    assert {"a": "2"} == client.get("/all").json


def test_an_end_that_is_set_goes(app: Flask, client: FlaskClient, clock: Clock) -> None:
    """By None, the session lasts as the settings say again; and session.clear() begins
    a session without it.
    """
    client.get("/set/a/1")
    visit(client, set_expiry(timedelta(hours=8)))
    response = visit(client, set_expiry(None))
    assert START + 31 * DAY == cookie_end(response)
    visit(client, set_expiry(timedelta(hours=8)))
    client.get("/restart/1")
    assert [START + 31 * DAY] == [row.expires_at for row in rows(app)]


def test_an_end_that_is_set_is_never_past_the_others(
    make_shop: Callable[..., Flask], clock: Clock
) -> None:
    """The idle and the absolute lifetime hold all the same."""
    far = timedelta.max
    client = make_shop().test_client()
    visit(client, nested(set_expiry(far)))
    assert START + 31 * DAY == cookie_end(visit(client, regenerate))
    client = make_shop(SESSION_ABSOLUTE_LIFETIME=DAY).test_client()
    visit(client, nested(set_expiry(far)))
    assert START + DAY == cookie_end(visit(client, regenerate))


def test_an_end_is_merged_with_what_others_write(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """One request sets the end and another one a key: both are kept, whoever is saved
    last.
    """
    client.get("/set/a/1")
    other = same_browser(client, app)
    visit(client, nested(lambda: visit(other, set_expiry(timedelta(hours=8)))))
    assert [START + 8 * HOUR] == [row.expires_at for row in rows(app)]

    def view() -> str:
        session.set_expiry(timedelta(hours=4))
        other.get("/set/theirs/1")
        return "ok"

    assert START + 4 * HOUR == cookie_end(visit(client, view))
    assert [START + 4 * HOUR] == [row.expires_at for row in rows(app)]
    assert {"a", "mine", "theirs"} == set(client.get("/all").json or ())


def test_a_request_under_way_does_not_undo_an_end(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """One that only read, and whose use is due to be noted, saved after the end was
    set: the session ends as it was set.
    """
    client.get("/set/a/1")
    clock.now += DAY
    other = same_browser(client, app)

    def meanwhile() -> None:
        visit(other, set_expiry(timedelta(hours=8)))
        clock.now += 2

    visit(client, nested(meanwhile, ""))
    clock.now += 8 * HOUR - 3
    assert "'1'" == other.get("/get/a").text
    clock.now += 1
    assert "None" == other.get("/get/a").text


def test_an_end_shortly_after_the_row_s_is_reached(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """An end that is less than a refresh interval away from the row's holds to the
    second, for a session that is in use.
    """
    client.get("/set/a/1")
    end = START + 31 * DAY + HOUR
    visit(client, set_expiry(datetime.fromtimestamp(end, UTC)))
    for _ in range(31):
        clock.now += DAY - 1
        assert "'1'" == client.get("/get/a").text
    clock.now = end - 1
    assert "'1'" == client.get("/get/a").text
    clock.now = end
    assert "None" == client.get("/get/a").text


def test_the_last_use_is_noted_where_the_end_does_not_move(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """A session with an end of its own tells when it was last used as any other."""
    client.get("/set/a/1")
    visit(client, set_expiry(timedelta(days=2)))
    clock.now += DAY
    assert cookie(client.get("/get/a")) is None
    [row] = rows(app)
    assert (START + DAY, START + 2 * DAY) == (row.last_used_at, row.expires_at)


def test_only_use_counts(make_shop: Callable[..., Flask], clock: Clock) -> None:
    """Without SESSION_REFRESH_EACH_REQUEST, reading moves neither the end nor the last
    use.
    """
    app = make_shop(SESSION_REFRESH_EACH_REQUEST=False)
    client = app.test_client()
    client.get("/set/a/1")
    clock.now += DAY
    client.get("/get/a")
    [row] = rows(app)
    assert (START, START + 31 * DAY) == (row.last_used_at, row.expires_at)


# As an application shows it.


def shown_end() -> str:
    """A view that shows when its session ends."""
    assert session.expires_at is not None
    return str(int(session.expires_at.timestamp()))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"SESSION_REFRESH_INTERVAL": 0},
        {"SESSION_REFRESH_INTERVAL": DAY},
        {"SESSION_REFRESH_EACH_REQUEST": False},
        {"SESSION_ABSOLUTE_LIFETIME": 32 * DAY},
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "change",
    [
        lambda: None,
        lambda: session.update(b=1),
        lambda: session.update(_user_id="ann"),
        lambda: session.set_expiry(timedelta(days=4)),
        lambda: session.set_lifetime(timedelta(days=4)),
        lambda: session.set_lifetime(timedelta(days=300)),
        regenerate,
        lambda: setattr(session, "counts_as_use", False),
    ],
    ids=["read", "write", "login", "expiry", "short", "long", "regenerate", "no use"],
)
def test_the_end_that_is_shown_is_the_end(
    make_shop: Callable[..., Flask],
    clock: Clock,
    settings: dict[str, Any],
    change: Callable[[], object],
) -> None:
    """Whatever the request does to the session, and whenever it comes: what its page
    says is what the row has afterwards.
    """
    app = make_shop(**settings)
    client = app.test_client()
    client.get("/set/a/1")
    for seconds in (0, 60, 2 * DAY):
        clock.now += seconds

        def view() -> str:
            change()
            return shown_end()

        shown = visit(client, view).text
        assert shown == str(rows(app)[0].expires_at)


def test_the_end_is_shown_of_what_cannot_be_stored(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """A page that handles the error itself shows the end as it is."""
    client.get("/set/a/1")
    clock.now += DAY

    def view() -> str:
        session["bad"] = object()
        shown = shown_end()
        del session["bad"]
        return shown

    assert visit(client, view).text == str(START + 31 * DAY)
    assert rows(app)[0].expires_at == START + 32 * DAY


def test_what_is_cleared_shows_no_end(app: Flask, client: FlaskClient) -> None:
    """It has none any more; what is written then has one on the next page."""

    def view() -> str:
        session.clear()
        shown = repr(session.expires_at)
        session["b"] = 1
        return shown + repr(session.expires_at)

    client.get("/set/a/1")
    assert visit(client, view).text == "NoneNone"
    assert visit(client, shown_end).text == str(rows(app)[0].expires_at)


def no_use(*steps: Callable[[], object]) -> Callable[[], str]:
    """A view that does not count as use."""

    def view() -> str:
        session.counts_as_use = False
        for step in steps:
            step()
        return shown_end()

    return view


def test_polling_for_the_time_left_extends_nothing(
    make_shop: Callable[..., Flask], clock: Clock
) -> None:
    """A page asks every minute, and its user is logged out in time all the same; what
    a poll changes is stored, by whoever else it may be used.
    """
    app = make_shop(PERMANENT_SESSION_LIFETIME=HOUR, SESSION_RECORD_CLIENT=True)
    client = app.test_client()
    client.get("/set/a/1", headers={"User-Agent": "Lynx"})
    for minute in range(1, 60):
        clock.now += 60
        app.extensions["view"] = no_use(lambda: session.update(polls=minute))  # noqa: B023
        response = client.get("/run", headers={"User-Agent": "a script"})
        assert (response.text, cookie(response)) == (str(START + HOUR), None)
        [row] = rows(app)
        assert (row.expires_at, row.last_used_at) == (START + HOUR, START)
        assert row.user_agent == "Lynx"
    assert client.get("/get/polls").text == "59"
    clock.now = START + 2 * HOUR
    assert client.get("/all").json == {}


def test_a_poll_without_a_change_writes_nothing(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    client.get("/set/a/1")
    clock.now += 2 * DAY
    with statements_on(store_of(app).engine) as statements:
        visit(client, no_use())
    assert [text.split()[0] for text in statements] == ["SELECT"]


def test_a_poll_sets_the_end_that_it_asks_for(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """set_expiry() counts from its last use, set_lifetime() and a login are one."""
    client.get("/set/a/1")
    clock.now += DAY
    end = visit(client, no_use(lambda: session.set_expiry(timedelta(days=1)))).text
    assert end == str(START + 2 * DAY)
    end = visit(client, no_use(lambda: session.set_expiry(None))).text
    assert end == str(START + 31 * DAY)
    assert rows(app)[0].last_used_at == START
    for step in (
        lambda: session.set_lifetime(timedelta(days=31)),
        lambda: session.update(_user_id="ann"),
    ):
        clock.now += DAY
        assert visit(client, no_use(step)).text == str(int(clock.now) + 31 * DAY)
        assert rows(app)[0].last_used_at == clock.now


def test_a_poll_of_a_row_that_tells_no_last_use(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """As of one that was stored before the column was there."""
    client.get("/set/a/1")
    store = store_of(app)
    with store.engine.connect() as connection:
        connection.execute(store.table.update().values(last_used_at=None))
    clock.now += DAY
    visit(client, no_use(lambda: session.update(b=1)))
    assert rows(app)[0].last_used_at is None
    assert rows(app)[0].expires_at == clock.now + 31 * DAY


# A lifetime of its own.


def keep(lifetime: timedelta | None, *steps: Callable[[], object]) -> Callable[[], str]:
    """A view that sets the session's lifetime."""

    def view() -> str:
        for step in steps:
            step()
        session.set_lifetime(lifetime)
        return "ok"

    return view


def log_in(user: str) -> Callable[[], None]:
    return lambda: session.update(_user_id=user)


@pytest.mark.parametrize("days", [1, 90])
def test_a_session_keeps_its_own_lifetime(
    app: Flask, client: FlaskClient, clock: Clock, days: int
) -> None:
    """Shorter or longer than the setting, in the row and in the cookie; use moves its
    end on, and changes of token change nothing of it.
    """
    own = days * DAY
    response = visit(client, keep(timedelta(days=days), log_in("ann")))
    assert cookie_end(response) == rows(app)[0].expires_at == START + own
    for path in ("/get/a", "/set/a/1", "/run"):
        app.extensions["view"] = regenerate
        clock.now += own - 1
        response = client.get(path)
        assert cookie_end(response) == rows(app)[0].expires_at == clock.now + own
    clock.now += own
    assert client.get("/all").json == {}


def test_a_short_lifetime_is_extended_by_use(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """The interval of a setting of 31 days is many hours, and lets it not lapse."""
    visit(client, keep(timedelta(minutes=10), log_in("ann")))
    for _ in range(10):
        clock.now += 300
        assert client.get("/get/_user_id").text == "'ann'"
    clock.now += 601
    assert client.get("/get/_user_id").text == "None"


def test_a_lifetime_is_never_past_the_absolute_one(
    make_shop: Callable[..., Flask], clock: Clock
) -> None:
    """Nor past what set_expiry() was given."""
    app = make_shop(SESSION_ABSOLUTE_LIFETIME=60 * DAY)
    client = app.test_client()
    visit(client, keep(timedelta(days=90), log_in("ann")))
    assert rows(app)[0].expires_at == START + 60 * DAY
    visit(client, set_expiry(timedelta(days=7)))
    assert rows(app)[0].expires_at == START + 7 * DAY


def hand_over() -> None:
    session.update(_user_id="bob")


def begin_anew() -> None:
    session.clear()
    hand_over()


@pytest.mark.parametrize(
    ("end", "after"),
    [
        (lambda: session.pop("_user_id"), {"basket": 1}),
        (lambda: session.update(_user_id=None), {"basket": 1, "_user_id": None}),
        (hand_over, {"basket": 1, "_user_id": "bob"}),
        (begin_anew, {"_user_id": "bob"}),
    ],
    ids=["logout", "nobody", "another user", "clear"],
)
def test_a_lifetime_ends_with_the_login(
    app: Flask,
    client: FlaskClient,
    clock: Clock,
    end: Callable[[], object],
    after: dict[str, Any],
) -> None:
    """Whoever comes after has the setting's; unless it is set for them as well."""
    visit(client, keep(timedelta(days=90), log_in("ann"), lambda: put_basket()))
    assert visit(client, lambda: str(end())).status_code == 200
    assert client.get("/all").json == after
    assert rows(app)[0].expires_at == START + 31 * DAY
    visit(client, keep(timedelta(days=90), log_in("ann")))
    visit(client, keep(timedelta(days=90), end, hand_over))
    assert rows(app)[0].expires_at == START + 90 * DAY


def put_basket() -> None:
    session["basket"] = 1


def test_a_visitors_lifetime_stays_for_the_login(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """It can be set before the login, or on a page before; and be taken back."""
    visit(client, keep(timedelta(days=90), put_basket))
    visit(client, lambda: str(log_in("ann")()))
    assert rows(app)[0].expires_at == START + 90 * DAY
    visit(client, keep(None))
    assert rows(app)[0].expires_at == START + 31 * DAY


@pytest.mark.parametrize("last", ["write", "lifetime"])
def test_a_lifetime_is_merged_with_what_others_write(
    app: Flask, client: FlaskClient, clock: Clock, last: str
) -> None:
    """One tab sets it and another one writes: both are kept, whoever is last."""
    client.get("/set/a/1")
    tab, view = same_browser(client), keep(timedelta(days=90))
    if last == "write":
        visit(client, nested(lambda: visit(tab, view)))
    else:
        during(client, view, lambda: tab.get("/set/mine/mine"))
    assert client.get("/all").json == {"a": "1", "mine": "mine"}
    assert rows(app)[0].expires_at == START + 90 * DAY


def test_a_lifetime_that_is_set_during_a_logout(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """It was set for the login that ends, and goes with it."""
    visit(client, keep(None, log_in("ann"), put_basket))
    tab = same_browser(client)
    during(
        client,
        lambda: session.pop("_user_id"),
        lambda: visit(tab, keep(timedelta(days=90))),
    )
    assert client.get("/all").json == {"basket": 1}
    client.get("/set/a/1")
    assert rows(app)[0].expires_at == START + 31 * DAY


@pytest.mark.parametrize("given", ["soon", 10**12, 1.5])
def test_a_lifetime_that_somebody_has_written(
    app: Flask, client: FlaskClient, clock: Clock, given: Any
) -> None:
    """What is no number is an unreadable session, and what is too large is bounded."""
    client.get("/set/a/1")
    store = store_of(app)
    data = MsgpackSerializer().dumps({"a": 1, "_sessionsql_lifetime": given})
    with store.engine.connect() as connection:
        connection.execute(store.table.update().values(data=data))
    is_number = isinstance(given, int)
    assert client.get("/get/a").text == ("1" if is_number else "None")
    if is_number:
        client.get("/set/b/2")
        assert rows(app)[0].expires_at == START + 36_600 * DAY


def test_what_a_session_tells_of_itself(
    app: Flask, client: FlaskClient, clock: Clock
) -> None:
    """Its handle and two times, which are None and True for new while nothing is
    stored; never its token.
    """

    def facts() -> str:
        shown = (session.new, session.created_at, session.expires_at)
        assert (session.handle is None) == session.new
        told = [repr(session), str(session.handle), *map(repr, dir(session))]
        told += map(repr, vars(session).values())
        assert not [each for each in told if app.extensions["token"] in each]
        return repr(shown)

    app.extensions["token"] = "no token yet"
    assert "(True, None, None)" == visit(client, facts).text
    assert [] == rows(app)
    client.get("/set/a/1")
    app.extensions["token"] = token(client)
    begun = datetime.fromtimestamp(START, UTC)
    expected = (False, begun, begun + timedelta(days=31))
    assert repr(expected) == visit(client, facts).text
    [row] = rows(app)
    assert row.handle == visit(client, lambda: session.handle).text


def test_use_is_noted_after_the_lifetime_was_shortened(
    make_app: MakeApp, make_database: MakeDatabase, clock: Clock
) -> None:
    """The end stays until the session changes, and the last use goes on."""
    uri = make_database("sqlite-file")
    client = add_views(make_app(uri)).test_client()
    client.get("/set/a/1")
    app = add_views(make_app(uri, PERMANENT_SESSION_LIFETIME=3600))
    same = same_browser(client, app)
    [before] = rows(app)
    clock.now += 60
    same.get("/get/a")
    [after] = rows(app)
    assert (before.expires_at, clock.now) == (after.expires_at, after.last_used_at)
