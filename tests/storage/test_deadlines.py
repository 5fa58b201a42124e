"""How long a call waits for a server that does not answer, and what is left of it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc as sa_exc

from flask_sessionsql import SessionStoreUnavailableError
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.storage.administration import SessionAdministration
from flask_sessionsql.storage.deadlines import Deadline, install, is_over, patiently
from flask_sessionsql.storage.engines import sessions_engine
from flask_sessionsql.storage.limits import UserLimit
from flask_sessionsql.storage.purging import purge_batch
from flask_sessionsql.storage.store import SessionStore
from flask_sessionsql.storage.tables import sessions_table
from tests.conftest import MakeDatabase
from tests.helpers import Cut, at_once, on, wait_until
from tests.storage.helpers import ROW, make_store, row_of

SERVERS = on("postgresql", "mariadb")

#: Seconds that a call has in these tests, and those after which it has had too many.
TIMEOUT = 0.5
TOO_LONG = 5.0


@pytest.fixture(params=SERVERS)
def cut(request: pytest.FixtureRequest, make_database: MakeDatabase) -> Iterator[Cut]:
    """To a database with two rows."""
    uri = make_database(request.param)
    store = make_store(uri)
    store.insert(ROW)
    store.insert(row_of(1))
    store.dispose()
    cut = Cut(uri)
    yield cut
    cut.close()


Open = Callable[..., SessionStore]


@pytest.fixture
def open_store(cut: Cut) -> Iterator[Open]:
    """Makes stores that have a connection in their pool."""
    stores: list[SessionStore] = []

    def make(timeout: float = TIMEOUT, **options: Any) -> SessionStore:
        source = sa.create_engine(cut.uri, **options)
        engine = sessions_engine(source, timeout=timeout)
        table = sessions_table(sa.MetaData(), "sessions")
        stores.append(SessionStore(engine, table, timeout=timeout))
        works_again(stores[-1])
        return stores[-1]

    yield make
    for store in stores:
        assert isinstance(store.engine.pool, sa.QueuePool)
        assert 0 == store.engine.pool.checkedout()
        store.dispose()


@pytest.fixture
def store(open_store: Open) -> SessionStore:
    return open_store()


def load(store: SessionStore) -> bool:
    return store.load(ROW.id, now=0) is not None


def works_again(store: SessionStore) -> None:
    """Now that the server answers; on a slow machine not within each time-out."""

    def tries() -> bool:
        with suppress(SessionStoreUnavailableError):
            return load(store)
        return False

    wait_until(tries)


def gives_up(work: Callable[[], object]) -> bool:
    """Whether a call fails in time, and says by which setting."""
    begun = time.monotonic()
    with pytest.raises(SessionStoreUnavailableError) as given_up:
        work()
    assert "SESSION_DATABASE_TIMEOUT" in given_up.value.reason
    return time.monotonic() - begun < TOO_LONG


def creator(uri: str) -> Callable[[], Any]:
    """What makes a connection as an application may do it by itself."""
    url = sa.make_url(uri)
    driver: Any = url.get_dialect().import_dbapi()
    name = "dbname" if url.get_backend_name() == "postgresql" else "database"
    arguments = {"host": url.host, "port": url.port, "user": url.username}
    return lambda: driver.connect(**arguments, **{name: url.database})


def sockets_to(uri: str) -> int:
    """How many sockets this process has to a server."""
    port, found = sa.make_url(uri).port, 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(number))) as each:
            found += each.getpeername()[1] == port
    return found


# What is waited for.


def test_a_statement(cut: Cut, store: SessionStore) -> None:
    """It is given up in time, the next one, too, for which the store has to connect,
    and when the server answers again so does the store.
    """
    cut.fall_silent()
    assert gives_up(lambda: load(store))
    assert gives_up(lambda: load(store))
    cut.speak()
    works_again(store)


def test_a_statement_by_way_of_sqlalchemy(cut: Cut, store: SessionStore) -> None:
    """Where somebody listens to the statements, likewise."""
    sa.event.listen(store.engine, "before_cursor_execute", lambda *_: None)
    cut.fall_silent()
    assert gives_up(lambda: load(store))
    assert gives_up(lambda: load(store))
    cut.speak()
    works_again(store)


def test_the_first_connection(cut: Cut) -> None:
    """Before anything is known of the server, and when the table is created."""
    store = make_store(cut.uri, "others", timeout=TIMEOUT)
    cut.fall_silent()
    assert gives_up(lambda: load(store))
    assert gives_up(store.database.provide_table)
    store.dispose()


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_network_that_loses_what_is_sent(driver: str) -> None:
    """Not even the first packet is answered."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(
            socket.create_server(("127.0.0.1", 0), backlog=0)
        )
        place = listener.getsockname()
        for _ in range(4):  # more than it lets wait
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(place)
        store = make_store(f"{driver}://ann@127.0.0.1:{place[1]}/shop", timeout=TIMEOUT)
        assert gives_up(lambda: load(store))
        store.dispose()


def test_a_connection_that_a_function_of_the_application_s_makes(
    cut: Cut, open_store: Open
) -> None:
    """Its statements have a deadline; how it connects is up to the function."""
    store = open_store(creator=creator(cut.uri))
    cut.fall_silent()
    assert gives_up(lambda: load(store))
    cut.speak()
    works_again(store)


@pytest.mark.parametrize("by_itself", [False, True])
def test_a_listener_s_statement(cut: Cut, by_itself: bool) -> None:
    """That which an application runs on each new connection."""

    def set_up(connection: Any, record: Any) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute("SELECT 'set up'")

    made = {"creator": creator(cut.uri)} if by_itself else {}
    source = sa.create_engine(cut.uri, **made)
    sa.event.listen(source, "connect", set_up)
    engine = sessions_engine(source, timeout=TIMEOUT)
    table = sessions_table(sa.MetaData(), "sessions")
    store = SessionStore(engine, table, timeout=TIMEOUT)
    cut.fall_silent(at="set up")
    assert gives_up(lambda: load(store))
    assert cut.is_silent
    store.dispose()


def test_a_ping(cut: Cut, open_store: Open) -> None:
    """With ``pool_pre_ping``, before a connection is given out."""
    store = open_store(pool_pre_ping=True)
    cut.fall_silent()
    assert gives_up(lambda: load(store))
    cut.speak()
    works_again(store)


@pytest.mark.parametrize("word", ["DELETE", "COMMIT"])
@pytest.mark.parametrize("kind", ["login", "purge", "revocation"])
def test_a_transaction(cut: Cut, store: SessionStore, kind: str, word: str) -> None:
    """Of several statements, one in the middle or the last. Of what was given up, no
    transaction is left, and no lock.
    """
    sessions = SessionAdministration(
        SessionConfig(), store.database, lambda event: None
    )
    work: Callable[[], object] = {
        "login": lambda: store.insert(row_of(2), UserLimit(1, refuses=False, now=0)),
        "purge": lambda: purge_batch(store.database, 5_000, 10),
        "revocation": lambda: sessions.revoke_user("ann"),
    }[kind]
    if word == "COMMIT":  # and not READ COMMITTED
        word = "COMMIT\0" if store.engine.dialect.name == "postgresql" else "\3COMMIT"
    cut.fall_silent(word)
    assert gives_up(work)
    assert cut.is_silent
    cut.speak()

    def tries() -> bool:
        with suppress(SessionStoreUnavailableError):
            work()
            return True
        return False

    wait_until(tries)


def test_a_second_try(cut: Cut, store: SessionStore) -> None:
    """The connection is lost, and the server does not answer to the next one."""
    cut.lose_answer("SELECT")
    cut.fall_silent(at=str(store.engine.url.database))
    assert gives_up(lambda: load(store))
    assert cut.has_cut
    assert cut.is_silent


def test_the_pool(cut: Cut, open_store: Open) -> None:
    """Of many threads, none waits longer for others than it may wait for the server,
    whatever the application's pool says.
    """
    store = open_store(pool_size=1, max_overflow=1, pool_timeout=60)
    with store.engine.connect(), store.engine.connect():
        assert gives_up(lambda: load(store))
    cut.fall_silent()
    begun = time.monotonic()
    results = at_once([lambda: load(store)] * 12)
    assert time.monotonic() - begun < TOO_LONG
    assert {SessionStoreUnavailableError} == {type(each) for each in results}
    cut.speak()
    works_again(store)


@pytest.mark.postgresql
def test_several_hosts(make_database: MakeDatabase) -> None:
    """Each has its share of the time, so that one that is silent hides no other."""
    url = sa.make_url(make_database("postgresql"))
    cut = Cut(url.render_as_string(hide_password=False))
    cut.fall_silent()
    hosts = [f"127.0.0.1:{port}" for port in (sa.make_url(cut.uri).port, url.port)]
    several = url.set(host=None, port=None).update_query_dict({"host": hosts})
    store = make_store(several.render_as_string(hide_password=False), timeout=6)
    assert store.insert(ROW)
    store.dispose()
    cut.close()


# What is left of it.


def test_nothing_is_left(cut: Cut, open_store: Open) -> None:
    """Neither threads nor sockets."""
    store = open_store(pool_size=8, max_overflow=0)
    threads = threading.active_count()
    at_once([lambda: load(store)] * 8)
    assert 1 <= sockets_to(cut.uri) <= 8
    cut.fall_silent()
    for _ in range(3):
        at_once([lambda: load(store)] * 12)
    assert 0 == sockets_to(cut.uri)
    cut.speak()
    works_again(store)
    assert 1 == sockets_to(cut.uri)
    # The proxy's own end, when they see that nobody is there.
    wait_until(lambda: threading.active_count() <= threads + 2)


def test_an_answer_that_comes_late_is_nobody_else_s(cut: Cut, open_store: Open) -> None:
    """It comes at about the time when it is given up, many times: whoever gets a row
    gets the one that was asked for.
    """
    store = open_store(0.25)
    rows = [row_of(number, data=bytes([number]) * 3) for number in range(10, 16)]
    inserts = make_store(cut.uri)
    for row in rows:
        inserts.insert(row)
    inserts.dispose()
    done = threading.Event()
    wrong: list[object] = []
    ends = {"found": 0, "given up": 0}

    def read(number: int) -> None:
        while not done.is_set():
            try:
                row = store.load(rows[number].id, now=0)
            except SessionStoreUnavailableError:
                ends["given up"] += 1
            else:
                ends["found"] += 1
                if row is None or bytes(row.data) != rows[number].data:
                    wrong.append(row)

    threads = [threading.Thread(target=read, args=[n]) for n in range(len(rows))]
    for thread in threads:
        thread.start()
    for number in range(24):
        cut.fall_silent()
        time.sleep(0.1 + number % 6 * 0.05)
        cut.speak()
        time.sleep(0.05)
    done.set()
    for thread in threads:
        thread.join(60)
    assert [] == wrong
    assert all(ends.values())


# What stays as it was.


def test_the_application_waits_as_it_did(cut: Cut, store: SessionStore) -> None:
    """Its connections are those of the driver, and have no other time-outs."""
    source = sa.create_engine(cut.uri)
    engine = sessions_engine(source, timeout=TIMEOUT)
    with engine.connect(), source.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert type(driver).__module__.startswith(("psycopg", "pymysql"))
        assert getattr(driver, "_read_timeout", None) is None
        if connection.dialect.name == "postgresql":
            assert "connect_timeout" not in driver.info.get_parameters()
    engine.dispose()
    source.dispose()


def test_listeners_of_the_application_s_connect(cut: Cut) -> None:
    """Those that it adds later, too: they set passwords, or make the connection."""
    source = sa.create_engine(cut.uri.replace("//", "//nobody-", 1))
    engine = sessions_engine(source)
    made: list[str] = []

    def set_user(dialect: Any, record: Any, cargs: Any, cparams: Any) -> None:
        made.append(cparams["user"])
        cparams["user"] = cparams["user"].removeprefix("nobody-")

    def connect(dialect: Any, record: Any, cargs: Any, cparams: Any) -> Any:
        made.append(cparams["user"])
        return dialect.connect(*cargs, **cparams)

    sa.event.listen(source, "do_connect", set_user)
    store = SessionStore(engine, sessions_table(sa.MetaData(), "sessions"))
    assert load(store)
    store.dispose()
    sa.event.listen(source, "do_connect", connect)
    assert load(store)
    store.dispose()
    assert made[0].startswith("nobody-")
    assert made[-1] == made[0].removeprefix("nobody-")
    assert 3 == len(made)


@pytest.mark.mariadb
def test_a_shorter_time_out_of_the_application_s(make_database: MakeDatabase) -> None:
    """What it set for its driver holds, if it is shorter."""
    cut = Cut(make_database("mariadb"))
    source = sa.create_engine(cut.uri, connect_args={"read_timeout": 1})
    engine = sessions_engine(source, timeout=60)
    store = SessionStore(engine, make_store(cut.uri).table, timeout=60)
    wait_until(lambda: store.insert(ROW))
    cut.fall_silent()
    begun = time.monotonic()
    with pytest.raises(SessionStoreUnavailableError) as caught:
        load(store)
    assert "timed out" in caught.value.reason
    assert "SESSION_DATABASE_TIMEOUT" not in caught.value.reason
    assert time.monotonic() - begun < 20
    store.dispose()
    cut.close()


def test_without_a_deadline(cut: Cut, store: SessionStore) -> None:
    """Who uses the engine by itself waits as long as it takes."""
    with store.engine.connect() as connection:
        cut.fall_silent()
        threading.Timer(3 * TIMEOUT, cut.speak).start()
        assert 1 == connection.scalar(sa.text("SELECT 1"))


# Other drivers.


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (
            "postgresql+psycopg2://ann@a/shop",
            {"connect_timeout": 9, "tcp_user_timeout": 9000},
        ),
        (
            "postgresql+psycopg2://ann@/shop?host=a:1&host=b:2",
            {"connect_timeout": 4, "tcp_user_timeout": 9000},
        ),
        (
            "postgresql+psycopg2://ann@a/shop?connect_timeout=3",
            {"connect_timeout": "3", "tcp_user_timeout": 9000},
        ),
        ("postgresql+pg8000://ann@a/shop", {"timeout": 9}),
        *(
            (
                f"{name}://ann@a/shop",
                {"connect_timeout": 9, "read_timeout": 9, "write_timeout": 9},
            )
            for name in ("mysql+mysqldb", "mariadb+mariadbconnector")
        ),
        ("mysql+cymysql://ann@a/shop", {}),
    ],
)
def test_time_outs_that_other_drivers_know(
    monkeypatch: pytest.MonkeyPatch, uri: str, expected: dict[str, int | str]
) -> None:
    """They are given to the driver when the sessions connect, except those that the
    application has set. It is not installed here.
    """
    given: list[dict[str, Any]] = []

    class ConnectedError(Exception):
        pass

    def connect(*args: Any, **kwargs: Any) -> None:
        given.append({key: kwargs[key] for key in kwargs if "timeout" in key})
        raise ConnectedError

    driver = SimpleNamespace(connect=connect, paramstyle="format", __version__="99.0")
    driver.Error = driver.OperationalError = sa_exc.DBAPIError
    driver.extensions = driver.extras = None
    monkeypatch.setitem(sys.modules, "psycopg2", driver)
    source = sa.create_engine(uri, module=driver)
    engine = sa.create_engine(uri, module=driver, pool=source.pool.recreate())
    install(source, engine, 9)
    with pytest.raises(ConnectedError), Deadline(9):
        engine.connect()
    with pytest.raises(ConnectedError):
        source.connect()
    assert given == [expected, {k: v for k, v in expected.items() if v == "3"}]


def test_an_error_of_the_socket_s(cut: Cut, store: SessionStore) -> None:
    """A driver may raise it as it comes, as pg8000 does: the connection is lost, and
    where it happens again, so is the database.
    """
    raised: list[OSError] = []

    def fail(*_: Any) -> None:
        raised.append(ConnectionResetError("The socket is closed."))
        raise raised[-1]

    sa.event.listen(store.engine, "before_cursor_execute", fail)
    with pytest.raises(SessionStoreUnavailableError):
        load(store)
    assert 2 == len(raised)
    assert 0 == sockets_to(cut.uri)
    sa.event.remove(store.engine, "before_cursor_execute", fail)
    works_again(store)

    def refuse(connection: Any, record: Any) -> None:
        connection.close()
        raise TimeoutError("timed out")

    others = make_store(cut.uri)
    sa.event.listen(others.engine, "before_cursor_execute", lambda *_: None)
    sa.event.listen(others.engine, "connect", refuse)
    with pytest.raises(SessionStoreUnavailableError) as caught:
        load(others)
    assert "timed out" == caught.value.reason
    others.dispose()


# The deadline.


def test_an_operator_can_wait(cut: Cut, store: SessionStore) -> None:
    """The commands have ten times as long."""
    cut.fall_silent()
    threading.Timer(2 * TIMEOUT, cut.speak).start()
    with patiently():
        assert load(store)
    cut.fall_silent()
    assert gives_up(lambda: load(store))


def test_a_deadline_is_a_thread_s_own() -> None:
    """And is over when what runs within it is."""
    assert not is_over()
    with Deadline(0):
        assert is_over()
        assert [False] == at_once([is_over])
    assert not is_over()


def test_no_time_is_left_to_connect(cut: Cut) -> None:
    """As for those who have waited for the pool: they do not begin to connect."""
    source = sa.create_engine(cut.uri)
    engine = sessions_engine(source)
    begun: list[object] = []
    sa.event.listen(engine, "connect", lambda *_: begun.append(1))
    with Deadline(0), pytest.raises(sa_exc.OperationalError, match="does not answer"):
        engine.connect()
    assert [] == begun
    engine.connect().close()
    engine.dispose()
