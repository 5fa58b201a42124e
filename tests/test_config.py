from __future__ import annotations

import dataclasses
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_sessionsql import Session, SessionConfigError, SessionConfigWarning
from flask_sessionsql.config import SETTINGS, SessionConfig
from flask_sessionsql.sessions import HIDDEN_KEYS

DAY = 24 * 3600


def read(**config: Any) -> SessionConfig:
    return SessionConfig.from_mapping(config)


def warned(config: Mapping[str, Any]) -> list[str]:
    """What reading this configuration warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SessionConfig.from_mapping(config)
    assert {SessionConfigWarning} >= {warning.category for warning in caught}
    return [str(warning.message) for warning in caught]


def each(*given: Any) -> tuple[Any, ...]:
    return given


# Good values.

DEFAULTS = {
    "session_type": "null",
    "cookie_name": "session",
    "cookie_domain": None,
    "cookie_path": "/",
    "cookie_httponly": True,
    "cookie_secure": False,
    "cookie_samesite": None,
    "cookie_partitioned": False,
    "lifetime": 31 * DAY,
    "refresh_each_request": True,
    "refresh_interval": None,
    "absolute_lifetime": None,
    "purge_interval": 600,
    "permanent": True,
    "id_length": 32,
    "user_key": "_user_id",
    "max_per_user": None,
    "max_per_user_policy": "end-oldest",
    "record_client": False,
    "max_bytes": 1024**2,
    "encrypt": False,
    "table": "flask_sessionsql",
    "schema": None,
    "bind_key": None,
    "create_table": True,
    "database_timeout": 10,
    "sqlalchemy": None,
    "database_uri": "sqlite:///sessions.db",
    "echo": False,
    "adopt": None,
    "adopt_table": "sessions",
    "key_prefix": "session:",
    "use_signer": False,
}


@pytest.mark.parametrize(
    "config",
    [{}, Flask("shop").config, Flask("shop", root_path="/").config.copy()],
    ids=["nothing", "Flask's", "a copy of Flask's"],
)
def test_defaults(config: Mapping[str, Any]) -> None:
    """Without any setting, and with those that Flask has by itself, each setting is
    what its documentation says.
    """
    assert DEFAULTS == dataclasses.asdict(SessionConfig.from_mapping(config))
    assert SessionConfig() == SessionConfig.from_mapping(config)


db = SQLAlchemy()

#: The key, what is given, and the attribute with what is read.
GOOD: list[tuple[str, Any, str, Any]] = [
    *(
        ("SESSION_TYPE", name, "session_type", name)
        for name in ("null", "flask-sqlalchemy", "sqlalchemy")
    ),
    *(
        ("SESSION_COOKIE_NAME", name, "cookie_name", name)
        for name in ("s", "my_session", "a!#$%&'*+-.^_`|~9", "__Hosted", "__Secure")
    ),
    ("SESSION_COOKIE_NAME", "s" * 1024, "cookie_name", "s" * 1024),
    *(
        ("SESSION_COOKIE_DOMAIN", name, "cookie_domain", name)
        for name in each(
            *(".example.com", "localhost", "localhost:5000", "127.0.0.1", "a_b.test"),
            *("b\xfccher.example", "xn--bcher-kva.example", "x" * 63 + ".example"),
        )
    ),
    *(
        ("SESSION_COOKIE_PATH", path, "cookie_path", path)
        for path in each("/a b/caf\xe9", "/%7Eann", "/" + "x" * 1023)
    ),
    ("SESSION_COOKIE_DOMAIN", False, "cookie_domain", None),
    ("SESSION_COOKIE_PATH", "/shop", "cookie_path", "/shop"),
    ("APPLICATION_ROOT", "/shop", "cookie_path", "/shop"),
    *(
        (key, value, attribute, value)
        for key, attribute in [
            ("SESSION_COOKIE_HTTPONLY", "cookie_httponly"),
            ("SESSION_COOKIE_SECURE", "cookie_secure"),
            ("SESSION_COOKIE_PARTITIONED", "cookie_partitioned"),
            ("SESSION_REFRESH_EACH_REQUEST", "refresh_each_request"),
            ("SESSION_PERMANENT", "permanent"),
            ("SESSION_RECORD_CLIENT", "record_client"),
            ("SESSION_CREATE_TABLE", "create_table"),
            ("SESSION_USE_SIGNER", "use_signer"),
        ]
        for value in (True, False)
    ),
    *(("SESSION_ADOPT", kind, "adopt", kind) for kind in ("flask-session", "cookie")),
    *(("SESSION_KEY_PREFIX", text, "key_prefix", text) for text in ("", "s" * 200)),
    *(
        ("SESSION_COOKIE_SAMESITE", given, "cookie_samesite", expected)
        for given, expected in [
            *(("Lax", "Lax"), ("lax", "Lax"), ("LAX", "Lax")),
            *(("Strict", "Strict"), ("strict", "Strict")),
        ]
    ),
    *(
        (key, given, attribute, expected)
        for key, attribute in [
            ("PERMANENT_SESSION_LIFETIME", "lifetime"),
            ("SESSION_ABSOLUTE_LIFETIME", "absolute_lifetime"),
        ]
        for given, expected in [
            (1, 1),
            (3600, 3600),
            (timedelta(minutes=5), 300),
            (timedelta(seconds=1, microseconds=1), 2),
            (timedelta(microseconds=1), 1),
            (timedelta(days=366 * 100), 366 * 100 * DAY),
            (366 * 100 * DAY, 366 * 100 * DAY),
        ]
    ),
    *(
        ("SESSION_REFRESH_INTERVAL", given, "refresh_interval", expected)
        for given, expected in [
            (0, 0),
            (1, 1),
            (timedelta(0), 0),
            (timedelta(minutes=1), 60),
            (timedelta(milliseconds=1), 1),
            (31 * DAY - 1, 31 * DAY - 1),
        ]
    ),
    *(
        ("SESSION_PURGE_INTERVAL", given, "purge_interval", expected)
        for given, expected in [
            *((0, 0), (1, 1), (10**6, 10**6), (timedelta(0), 0)),
            *((timedelta(hours=1), 3600), (timedelta(microseconds=1), 1)),
        ]
    ),
    *(
        ("SESSION_DATABASE_TIMEOUT", given, "database_timeout", expected)
        for given, expected in [
            *((1, 1), (10, 10), (3600, 3600), (timedelta(hours=1), 3600)),
            (timedelta(milliseconds=1), 1),
        ]
    ),
    *(("SESSION_ID_LENGTH", n, "id_length", n) for n in (16, 32, 64, 256)),
    ("SESSION_USER_KEY", "user", "user_key", "user"),
    *(("SESSION_MAX_PER_USER", n, "max_per_user", n) for n in (1, 2, 10**6)),
    *(
        ("SESSION_MAX_PER_USER_POLICY", name, "max_per_user_policy", name)
        for name in ("end-oldest", "refuse")
    ),
    *(("SESSION_MAX_BYTES", n, "max_bytes", n) for n in (1, 4000, 1024**3)),
    *(("SESSION_ENCRYPT", given, "encrypt", given) for given in (True, False)),
    ("SESSION_ENCRYPT", "required", "encrypt", "required"),
    ("SESSION_SQLALCHEMY_TABLE", "t", "table", "t"),
    ("SESSION_SQLALCHEMY_TABLE", "t" * 63, "table", "t" * 63),
    ("SESSION_SQLALCHEMY_TABLE", "\xe4" * 24, "table", "\xe4" * 24),
    ("SESSION_SQLALCHEMY_SCHEMA", "web", "schema", "web"),
    ("SESSION_ADOPT_TABLE", "old", "adopt_table", "old"),
    ("SESSION_SQLALCHEMY_BIND_KEY", "users", "bind_key", "users"),
    ("SESSION_SQLALCHEMY", db, "sqlalchemy", db),
    *(
        ("SQLALCHEMY_DATABASE_URI", given, "database_uri", sa.make_url(given))
        for given in (
            "sqlite://",
            "sqlite:////tmp/app.db",
            "postgresql+psycopg://ann:pa55@localhost/app",
            "mysql+pymysql://ann@localhost:3307/app?charset=utf8mb4",
            sa.URL.create("sqlite", database="/tmp/app.db"),
        )
    ),
    ("SQLALCHEMY_ECHO", True, "echo", True),
    ("SQLALCHEMY_ECHO", False, "echo", False),
    ("SQLALCHEMY_ECHO", "debug", "echo", "debug"),
]


@pytest.mark.parametrize(("key", "given", "attribute", "expected"), GOOD)
def test_a_good_value(key: str, given: Any, attribute: str, expected: Any) -> None:
    """A good value is read, and nothing else than its own setting changes."""
    config = read(**{key: given})
    found = getattr(config, attribute)
    assert expected == found
    assert type(expected) is type(found)
    for field in dataclasses.fields(SessionConfig):
        if field.name != attribute:
            assert DEFAULTS[field.name] == getattr(config, field.name)


@pytest.mark.parametrize("key", sorted({key for key, *_ in GOOD}))
def test_none_is_the_default(key: str) -> None:
    """None stands for the default, of every setting."""
    assert SessionConfig() == read(**{key: None})


def test_every_setting_is_tried() -> None:
    """No setting is missing from the tables of good and wrong values."""
    fields = {field.name for field in dataclasses.fields(SessionConfig)}
    assert fields == set(DEFAULTS) == {attribute for _, _, attribute, _ in GOOD}
    assert {key for key, *_ in GOOD} == {key for key, *_ in WRONG}


def test_it_is_frozen() -> None:
    """A setting cannot be changed after it was read, and no new one be added."""
    config = read()
    for name in ("lifetime", "sqlalchemy", "unheard_of"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, 5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del config.lifetime


def test_it_does_not_follow_the_mapping() -> None:
    """Changing the configuration afterwards changes nothing that was read."""
    source = {"SESSION_ID_LENGTH": 20}
    config = SessionConfig.from_mapping(source)
    source["SESSION_ID_LENGTH"] = 40
    assert 20 == config.id_length


def test_one_setting_can_be_read_again() -> None:
    """What the configuration says by now is read like at the first time: checked, with
    a default, and with an error that names the key.
    """
    app = Flask("shop")
    setting = SETTINGS["SESSION_COOKIE_SAMESITE"]
    assert setting.read(app.config) is None
    app.config["SESSION_COOKIE_SAMESITE"] = "lax"
    assert "Lax" == setting.read(app.config)
    app.config["SESSION_COOKIE_SAMESITE"] = "some"
    with pytest.raises(SessionConfigError, match=r"^SESSION_COOKIE_SAMESITE: .*'some'"):
        setting.read(app.config)


def test_a_default_that_depends_on_others_can_be_read_again() -> None:
    """A default that other settings decide is what they say by now."""
    app = Flask("shop")
    app.config["APPLICATION_ROOT"] = "/shop"
    assert "/shop" == SETTINGS["SESSION_COOKIE_PATH"].read(app.config)


def test_flasks_settings_by_now() -> None:
    """Flask's own settings are read again, with all others as they were."""
    source = {"SESSION_COOKIE_NAME": "before", "SESSION_ID_LENGTH": 20}
    config = SessionConfig.from_mapping(source)
    later = {"SESSION_COOKIE_SECURE": True, "SESSION_ID_LENGTH": 40}
    expected = dataclasses.replace(config, cookie_name="session", cookie_secure=True)
    assert expected == config.now(later)
    with pytest.raises(SessionConfigError, match=r"^SESSION_COOKIE_NAME: .*'__Host-'"):
        config.now({"SESSION_COOKIE_NAME": "__Host-s"})


# Secret keys.


def test_secret_keys_are_not_kept() -> None:
    """The secret keys are read in every request, and stand in no SessionConfig."""
    assert SETTINGS["SECRET_KEY"].read({}) is None
    assert SETTINGS["SECRET_KEY_FALLBACKS"].read({}) is None
    secrets = {"SECRET_KEY": "hunter2", "SECRET_KEY_FALLBACKS": ["hunter2"]}
    assert "hunter2" not in repr(read(**secrets))


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("SECRET_KEY", "text", "text"),
        ("SECRET_KEY", b"\xff\0", b"\xff\0"),
        ("SECRET_KEY_FALLBACKS", "one", ["one"]),
        ("SECRET_KEY_FALLBACKS", b"one", [b"one"]),
        ("SECRET_KEY_FALLBACKS", ("one", b"two"), ["one", b"two"]),
        ("SECRET_KEY_FALLBACKS", [], []),
        ("SECRET_KEY_FALLBACKS", {"one"}, ["one"]),
    ],
)
def test_secret_keys(key: str, given: Any, expected: Any) -> None:
    """Keys are texts or bytes; a single fallback is a list of one."""
    read(**{key: given})
    assert expected == SETTINGS[key].read({key: given})


@pytest.mark.parametrize(
    ("key", "given"),
    [
        *(
            ("SECRET_KEY", given)
            for given in each(
                5, True, "", b"", ["hunter2"], bytearray(b"hunter2"), "hunter2\udc80"
            )
        ),
        *(
            ("SECRET_KEY_FALLBACKS", given)
            for given in each(
                5, "", True, {"hunter2": 1}, iter(["hunter2"]), ["hunter2", 5]
            )
        ),
        *(
            ("SECRET_KEY_FALLBACKS", [given])
            for given in each("", None, "hunter2\udc80")
        ),
    ],
)
def test_a_wrong_secret_key(key: str, given: Any) -> None:
    """What is no key is an error that names the setting, and shows none."""
    with pytest.raises(SessionConfigError) as caught:
        read(**{key: given})
    assert key == caught.value.key
    assert str(caught.value).startswith(f"{key}: expected a ")
    assert str(caught.value).endswith(f"; got {type(given).__name__}.")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, 1024**2), ({"max_bytes": 5}, 5), ({"lifetime": 60}, 1024**2)],
)
def test_it_can_be_made_without_a_mapping(given: dict[str, int], expected: int) -> None:
    """The attributes are the parameters, all of which have their defaults."""
    assert expected == SessionConfig(**given).max_bytes  # type: ignore[arg-type]
    assert 1024**2 == SessionConfig.max_bytes


@pytest.mark.parametrize(
    ("session", "root", "expected"),
    [
        (None, "/shop", "/shop"),
        ("/cart", "/shop", "/cart"),
        ("/", "/shop", "/"),
        (None, None, "/"),
        (None, "/", "/"),
    ],
)
def test_the_path_is_the_application_s_unless_set(
    session: str | None, root: str | None, expected: str
) -> None:
    """SESSION_COOKIE_PATH goes before APPLICATION_ROOT, and that before "/"."""
    config = read(SESSION_COOKIE_PATH=session, APPLICATION_ROOT=root)
    assert expected == config.cookie_path


@pytest.mark.parametrize(
    ("lifetime", "expected"),
    [(1, 0), (99, 0), (100, 1), (199, 1), (900, 9), (timedelta(days=1), 864)],
)
def test_the_refresh_interval_is_a_hundredth(lifetime: Any, expected: int) -> None:
    """Unless it is set, the refresh interval is a hundredth of the lifetime, rounded
    down; of the lifetime that there is by now.
    """
    assert expected == read(PERMANENT_SESSION_LIFETIME=lifetime).lag
    assert expected == read().now({"PERMANENT_SESSION_LIFETIME": lifetime}).lag


@pytest.mark.parametrize(
    ("lifetime", "expected"), [(DAY, 60), (61, 60), (60, 0), (2, 0)]
)
def test_a_refresh_interval_stays(lifetime: int, expected: int) -> None:
    """One that is set stays, unless the lifetime is set to as little later."""
    config = read(SESSION_REFRESH_INTERVAL=60)
    assert 60 == config.lag
    assert expected == config.now({"PERMANENT_SESSION_LIFETIME": lifetime}).lag


# Wrong values.


NO_FLAGS: list[Any] = ["true", "false", "", 0, 1, [], "yes"]
NO_TEXTS: list[Any] = ["", b"x", 5, True, ["x"], {}]
NAMES = [
    ("SESSION_SQLALCHEMY_TABLE", "table"),
    ("SESSION_SQLALCHEMY_SCHEMA", "schema"),
    ("SESSION_ADOPT_TABLE", "table"),
]

#: What stands under these is never shown.
SECRET = {"SQLALCHEMY_DATABASE_URI", "SESSION_ENCRYPT"}
#: Of anything else, the type is: a password may stand in it.
PLAIN = (str, bytes, int, float, timedelta)

#: The key, what is given, and a part of what is expected.
WRONG: list[tuple[str, Any, str]] = [
    *(
        ("SESSION_TYPE", given, "one of 'null', 'flask-sqlalchemy', 'sqlalchemy'")
        for given in each("", "NULL", 5, True, False, [], ["null"], {}, b"null")
    ),
    *(
        ("SESSION_COOKIE_NAME", given, "a cookie name: letters, digits and")
        for given in each(
            *("", "a b", "a=b", "a;b", "a,b", "a\n", "ä", '"a"', "a\0", 5, b"s"),
            "s" * 1025,
        )
    ),
    *(
        ("SESSION_COOKIE_DOMAIN", given, "a non-empty string")
        for given in each("", b"x", 5, True, ["x"])
    ),
    *(
        ("SESSION_COOKIE_DOMAIN", given, "a domain such as 'example.com'")
        for given in each(
            *("a..b", "a b", "a;b", "a,b", "a/b", "a\nb", "a.test\n", ".", "..", "a."),
            *("*.a.test", ":5000", "a:b", "[::1]", "x" * 64, ".".join(["x" * 62] * 5)),
            *("ü" * 63, "a。.b", "\u06dd", "xn--\xe9", "a\0b", "a\udc80"),
        )
    ),
    *(
        (key, given, "without ';', '?', '#', backslashes and control characters")
        for key in ("SESSION_COOKIE_PATH", "APPLICATION_ROOT")
        for given in each(
            *("/a;b", "/a\nb", "/a\0", "/?a", "/#a", "/a\\b", "/a\udc80", "/a\x7f"),
            *("/" + "x" * 1024, "/" + "ä" * 200),
        )
    ),
    *(
        (key, given, "a path that begins with '/'")
        for key in ("SESSION_COOKIE_PATH", "APPLICATION_ROOT")
        for given in each("", "shop", 5, b"/", False, ["/"])
    ),
    *(
        (key, given, "expected True or False;")
        for key in (
            "SESSION_COOKIE_HTTPONLY",
            "SESSION_COOKIE_SECURE",
            "SESSION_COOKIE_PARTITIONED",
            "SESSION_REFRESH_EACH_REQUEST",
            "SESSION_PERMANENT",
            "SESSION_RECORD_CLIENT",
            "SESSION_USE_SIGNER",
            "SESSION_CREATE_TABLE",
        )
        for given in NO_FLAGS
    ),
    *(
        ("SESSION_COOKIE_SAMESITE", given, "'Lax', 'Strict', 'None' or, for no")
        for given in each("", "Laxe", "no", True, False, 5, b"Lax", ["Lax"])
    ),
    *(
        (key, given, "a timedelta or whole seconds")
        for key in ("PERMANENT_SESSION_LIFETIME", "SESSION_ABSOLUTE_LIFETIME")
        for given in each("3600", "", 1.5, True, False, b"5", [], {"days": 1})
    ),
    *(
        (key, given, "above 0, at most 100 years")
        for key in ("PERMANENT_SESSION_LIFETIME", "SESSION_ABSOLUTE_LIFETIME")
        for given in each(
            *(0, -1, timedelta(0), timedelta(-1), timedelta(microseconds=-1)),
            *(366 * 100 * DAY + 1, timedelta(366 * 100, 0, 1), 10**30),
            *(timedelta.max, timedelta.min),
        )
    ),
    *(
        ("SESSION_REFRESH_INTERVAL", given, "a timedelta or whole seconds")
        for given in each("60", "", 1.5, True, False, [])
    ),
    *(
        (
            "SESSION_REFRESH_INTERVAL",
            given,
            "0 or more, and less than PERMANENT_SESSION_LIFETIME, 2678400 s",
        )
        for given in each(-1, 31 * DAY, timedelta(31), timedelta(-1), timedelta.max)
    ),
    *(
        ("SESSION_PURGE_INTERVAL", given, "a timedelta or whole seconds")
        for given in each(
            "60", "", 1.5, True, False, [], -1, timedelta(-1), 10**10, timedelta.max
        )
    ),
    *(
        ("SESSION_DATABASE_TIMEOUT", given, "a timedelta or whole seconds")
        for given in each("10", "", 1.5, True, False, [], 0, -1, 3601, timedelta.max)
    ),
    *(
        ("SESSION_MAX_PER_USER", given, "a whole number, 1 or more, or None for no")
        for given in each(0, -1, 1.0, "1", True, False, [], "", 2**63)
    ),
    *(
        ("SESSION_MAX_PER_USER_POLICY", given, "one of 'end-oldest', 'refuse'")
        for given in each("", "oldest", "REFUSE", 5, True, [], ["refuse"], b"refuse")
    ),
    *(
        ("SESSION_MAX_BYTES", given, "whole bytes, 1 to 1073741824")
        for given in each(0, -1, 1024**3 + 1, 1e6, "1000", True, False, [1])
    ),
    *(
        ("SESSION_ENCRYPT", given, "expected True, False or 'required';")
        for given in each("", "true", "Required", 0, 1, b"required", [], b"a key")
    ),
    *(
        ("SESSION_ID_LENGTH", given, "whole bytes, 16 to 256")
        for given in (15, 257, 0, -32, 32.0, "32", True, [32])
    ),
    *(("SESSION_USER_KEY", given, "a non-empty string") for given in NO_TEXTS),
    *(
        ("SESSION_USER_KEY", given, "a session key of the application's")
        for given in HIDDEN_KEYS
    ),
    *(
        (key, given, f"a {kind} name of 1 to 63 characters")
        for key, kind in NAMES
        for given in each("", "t" * 64, 5, b"t", True, ["t"])
    ),
    *(
        (key, given, f"a {kind} name without NUL, surrogates and spaces at its ends")
        for key, kind in NAMES
        for given in each("t\0", "t\udc80", " t", "t ", "t\n", "ä" * 25)
    ),
    *(
        ("SESSION_SQLALCHEMY_TABLE", given, "does not begin with 'sqlite_'")
        for given in each("sqlite_sessions", "SQLite_x")
    ),
    *(
        ("SESSION_ADOPT", given, "one of 'flask-session', 'cookie', or None")
        for given in each("", "redis", "cookies", True, 5, ["cookie"])
    ),
    *(
        ("SESSION_KEY_PREFIX", given, "a string of at most 200 characters, without NUL")
        for given in each("s" * 201, "a\0", "a\udc80", 5, b"s", True)
    ),
    *(
        ("SESSION_SQLALCHEMY_BIND_KEY", given, "a non-empty string")
        for given in NO_TEXTS
    ),
    *(
        ("SESSION_SQLALCHEMY", given, "a flask_sqlalchemy.SQLAlchemy object")
        for given in each("db", SQLAlchemy, True, 5, {})
    ),
    *(
        ("SQLALCHEMY_ECHO", given, "True, False or 'debug'")
        for given in each("true", "", 1, 0, "DEBUG", [])
    ),
    *(
        ("SQLALCHEMY_DATABASE_URI", given, "a database address such as 'sqlite:///app")
        for given in each(
            *("", "app.db", "/tmp/app.db", 5, b"sqlite://", True, ["sqlite://"]),
            *("sqlite:///a\0.db", "sqlite:///a\udc80.db"),
            sa.URL.create("postgresql+psycopg", "ann", "hunter\0", "localhost"),
            {"drivername": "postgresql+psycopg", "password": "hunter2"},
        )
    ),
]


def cut(given: Any) -> str:
    """How a value is shown: not the whole of one that is long."""
    whole = repr(given)
    return whole if len(whole) <= 80 else f"{whole[:38]}...{whole[-39:]}"


@pytest.mark.parametrize(("key", "given", "expected"), WRONG)
def test_a_wrong_value(key: str, given: Any, expected: str) -> None:
    """A wrong value is an error that names the key, what was given and what is
    expected.
    """
    with pytest.raises(SessionConfigError) as caught:
        read(**{key: given})
    message = str(caught.value)
    is_plain = isinstance(given, PLAIN) and key not in SECRET
    shown = cut(given) if is_plain else type(given).__name__
    assert isinstance(caught.value, ValueError)
    assert key == caught.value.key
    assert message.startswith(f"{key}: expected ")
    assert expected in message
    assert message.endswith(f"; got {shown}.")


@pytest.mark.parametrize(("key", "given", "expected"), WRONG)
def test_a_wrong_value_stops_init_app(key: str, given: Any, expected: str) -> None:
    """A wrong value is found by Session(app), and the application is left as it was."""
    app = Flask("shop")
    before = app.session_interface
    app.config[key] = given
    with pytest.raises(SessionConfigError, match=key):
        Session(app)
    assert before is app.session_interface


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("sqlalchem", "sqlalchemy"),
        ("SQLAlchemy", "sqlalchemy"),
        ("flask-sqlachemy", "flask-sqlalchemy"),
        ("flask_sqlalchemy", "flask-sqlalchemy"),
        ("Flask-SQLAlchemy", "flask-sqlalchemy"),
        ("nul", "null"),
    ],
)
def test_a_misspelt_type(given: str, meant: str) -> None:
    """A misspelt SESSION_TYPE is an error that says what was probably meant."""
    with pytest.raises(SessionConfigError, match=f"did you mean '{meant}'\\?"):
        read(SESSION_TYPE=given)


@pytest.mark.parametrize("given", ["redis", "filesystem", "", 5])
def test_another_type_suggests_nothing(given: Any) -> None:
    """A SESSION_TYPE that resembles none is an error without a guess."""
    with pytest.raises(SessionConfigError) as caught:
        read(SESSION_TYPE=given)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("given", [True, "required"])
def test_encryption_needs_its_package(
    given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turning encryption on without the package is an error that says what to install;
    leaving it off is none.
    """
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(SessionConfigError) as caught:
        read(SESSION_ENCRYPT=given)
    assert "SESSION_ENCRYPT" == caught.value.key
    assert 'pip install "Flask-SessionSql[encryption]"' in str(caught.value)
    assert read(SESSION_ENCRYPT=False).encrypt is False


# Database addresses.

ADDRESSES: dict[str, tuple[str, str]] = {
    "dialect renamed": (
        "postgres://ann:hunter2@localhost/app",
        "SQLAlchemy knows no 'postgres';",
    ),
    "dialect misspelt": ("sqlit:///app.db", "SQLAlchemy knows no 'sqlit';"),
    "driver unknown": (
        "postgresql+hunter://ann:hunter2@localhost/app",
        "SQLAlchemy knows no 'postgresql+hunter';",
    ),
    "driver missing": (
        "postgresql+hidden://ann:hunter2@localhost/app",
        "with its driver installed; 'postgresql+hidden' needs 'hidden_driver';",
    ),
    "no address": (
        "ann:hunter2@localhost",
        "'mysql+pymysql://user:password@host/name'",
    ),
    "port": ("postgresql+psycopg://ann:hunter2@localhost:x/app", "'sqlite:///app.db'"),
    "password with @": (
        "postgresql+psycopg://ann:hun@ter2:hunter2/app",
        "'sqlite:///app.db'",
    ),
    "two drivers": ("mysql+a+b://ann:hunter2@localhost/app", "'sqlite:///app.db'"),
}


@pytest.fixture
def hidden_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dialect whose driver is not installed."""
    from sqlalchemy.dialects import registry
    from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

    class Hidden(PGDialect_psycopg2):
        supports_statement_cache = True

        @classmethod
        def import_dbapi(cls) -> types.ModuleType:
            import hidden_driver  # type: ignore[import-not-found]

            return hidden_driver  # type: ignore[no-any-return]

    monkeypatch.setitem(registry.impls, "postgresql.hidden", lambda: Hidden)


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.usefixtures("hidden_driver")
def test_a_wrong_address(name: str) -> None:
    """An address with an unknown dialect, with a driver that is missing, or that is
    none, is an error that says which; it never shows the password.
    """
    given, expected = ADDRESSES[name]
    with pytest.raises(SessionConfigError) as caught:
        read(SQLALCHEMY_DATABASE_URI=given)
    message = str(caught.value)
    assert "SQLALCHEMY_DATABASE_URI" == caught.value.key
    assert message.startswith("SQLALCHEMY_DATABASE_URI: expected a database address")
    assert expected in message
    assert message.endswith("; got str.")
    assert "hunter2" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


ADDRESS = "postgresql://ann:hunter2@localhost/app"
#: The keys under which any text is taken.
TEXTS = {
    "SESSION_SQLALCHEMY_BIND_KEY",
    "SESSION_SQLALCHEMY_SCHEMA",
    "SESSION_SQLALCHEMY_TABLE",
    "SESSION_ADOPT_TABLE",
    "SESSION_KEY_PREFIX",
    "SESSION_USER_KEY",
}


@pytest.mark.parametrize(
    ("key", "given"),
    [
        (key, given)
        for key in sorted({key for key, *_ in GOOD} - {"SQLALCHEMY_DATABASE_URI"})
        for given in each(
            *(ADDRESS, [ADDRESS], {"users": ADDRESS}, sa.make_url(ADDRESS)),
            {"user": "ann", "secret": "hunter2", "host": "localhost"},
            *("ann:hunter2@localhost", "host=localhost password=hunter2"),
        )
        if key not in TEXTS or not isinstance(given, str)
    ],
)
def test_no_error_shows_a_password(key: str, given: Any) -> None:
    """A database address that stands under a wrong key is not shown either."""
    with pytest.raises(SessionConfigError) as caught:
        read(**{key: given})
    assert key == caught.value.key
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).endswith(f"; got {type(given).__name__}.")


@pytest.mark.parametrize(
    ("binds", "key", "kind"),
    [
        ([ADDRESS], "SQLALCHEMY_BINDS", "list"),
        (ADDRESS, "SQLALCHEMY_BINDS", "str"),
        ({"web": [ADDRESS]}, "SQLALCHEMY_BINDS", "list"),
        ({"web": {"url": {"password": "hunter2"}}}, "SQLALCHEMY_BINDS", "dict"),
        ({"web": "postgresql://ann:hun@ter2:hunter2/app"}, "SQLALCHEMY_BINDS", "str"),
        ({ADDRESS: "sqlite://"}, "SESSION_SQLALCHEMY_BIND_KEY", "'web'"),
        ({}, "SESSION_SQLALCHEMY_BIND_KEY", "'web'"),
        (None, "SESSION_SQLALCHEMY_BIND_KEY", "'web'"),
    ],
)
def test_no_error_shows_a_password_of_a_bind(binds: Any, key: str, kind: str) -> None:
    """An address among the binds that is none is an error that does not show it, and
    so is a bind that is not there.
    """
    config = {"SESSION_SQLALCHEMY_BIND_KEY": "web", "SQLALCHEMY_BINDS": binds}
    with pytest.raises(SessionConfigError) as caught:
        read(SESSION_TYPE="sqlalchemy", **config)
    assert key == caught.value.key
    assert f"got {kind}." in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert SessionConfig(bind_key="web") == read(**config)


def test_an_address_for_a_bind_key_is_not_shown() -> None:
    """SESSION_SQLALCHEMY_BIND_KEY takes a name, and somebody may give an address."""
    for given in (ADDRESS, "ann:hunter2@localhost/app", "password=hunter2"):
        with pytest.raises(SessionConfigError) as caught:
            read(SESSION_TYPE="sqlalchemy", SESSION_SQLALCHEMY_BIND_KEY=given)
        assert "SESSION_SQLALCHEMY_BIND_KEY" == caught.value.key
        assert "(none); got str." in str(caught.value)


REFUSED = [
    ("sqlite+aiosqlite:///x.db", "'sqlite+pysqlite'"),
    ("postgresql+psycopg_async://a:secret@h/d", "'postgresql+psycopg'"),
    ("postgresql+asyncpg://a:secret@h/d", "'postgresql+psycopg2'"),
    ("postgresql+psycopg2cffi://a:secret@h/d", "'postgresql+pg8000'"),
    ("mysql+aiomysql://a:secret@h/d", "'mysql+pymysql'"),
    ("mysql+mysqlconnector://a:secret@h/d", "'mysql+mysqldb'"),
    ("mariadb+asyncmy://a:secret@h/d", "'mariadb+mariadbconnector'"),
    ("mssql+pyodbc://a:secret@h/d", "SQLite, PostgreSQL, MariaDB or MySQL"),
    ("oracle+oracledb://a:secret@h/d", "SQLite, PostgreSQL, MariaDB or MySQL"),
]


@pytest.mark.parametrize(("address", "instead"), REFUSED)
def test_a_driver_that_was_never_tried(address: str, instead: str) -> None:
    """It is refused by name, where the sessions would use it, installed or not. The
    error says what to take, and shows no password.
    """
    at_all = {"SESSION_TYPE": "sqlalchemy", "SQLALCHEMY_DATABASE_URI": address}
    of_bind = {
        "SESSION_TYPE": "sqlalchemy",
        "SQLALCHEMY_BINDS": {"sessions": address, "b": {"url": address}},
    }
    for config, key in (
        (at_all, "SQLALCHEMY_DATABASE_URI"),
        ({**of_bind, "SESSION_SQLALCHEMY_BIND_KEY": "sessions"}, "SQLALCHEMY_BINDS"),
        ({**of_bind, "SESSION_SQLALCHEMY_BIND_KEY": "b"}, "SQLALCHEMY_BINDS"),
    ):
        with pytest.raises(SessionConfigError) as caught:
            SessionConfig.from_mapping(config)
        message = str(caught.value)
        assert message.startswith(key)
        assert instead in message
        assert address.partition(":")[0] in message
        assert "secret" not in message


def test_another_database_than_that_of_the_sessions() -> None:
    """It may be any: the application's own can be on one where sessions are not."""
    config = read(
        SESSION_TYPE="sqlalchemy",
        SQLALCHEMY_DATABASE_URI="mssql+pyodbc://a@h/d",
        SQLALCHEMY_BINDS={"sessions": "sqlite://"},
        SESSION_SQLALCHEMY_BIND_KEY="sessions",
    )
    assert config.bind_key == "sessions"


def test_binds_that_are_fine() -> None:
    """Whatever Flask-SQLAlchemy takes for a bind is taken."""
    url = sa.make_url("sqlite://")
    binds = {"a": url, "b": {"url": url}, "c": {"echo": True}, "d": "sqlite://"}
    config = {"SESSION_SQLALCHEMY_BIND_KEY": "c", "SQLALCHEMY_BINDS": binds}
    assert "c" == read(SESSION_TYPE="sqlalchemy", **config).bind_key


def test_a_number_that_is_too_long_to_be_written() -> None:
    """It is an error like any other."""
    with pytest.raises(SessionConfigError, match=r"^SESSION_MAX_BYTES: .* got int\.$"):
        read(SESSION_MAX_BYTES=10**5000)


# Values that only make sense together.


@pytest.mark.parametrize(
    "others",
    [
        {"SESSION_COOKIE_SECURE": True},
        {"SESSION_COOKIE_PARTITIONED": True},
        {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_PATH": "/"},
        {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_DOMAIN": False},
        {
            "SESSION_COOKIE_SECURE": True,
            "SESSION_COOKIE_PATH": "/",
            "APPLICATION_ROOT": "/shop",
        },
    ],
)
def test_prefixes_with_their_conditions(others: dict[str, Any]) -> None:
    """__Host- and __Secure- are taken where browsers take such a cookie."""
    for name in ("__Host-s", "__Secure-s"):
        assert name == read(SESSION_COOKIE_NAME=name, **others).cookie_name


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("__Secure-s", {}),
        ("__Secure-s", {"SESSION_COOKIE_SECURE": False}),
        ("__Host-s", {}),
        ("__Host-s", {"SESSION_COOKIE_PATH": "/"}),
        ("__Host-s", {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_PATH": "/shop"}),
        ("__Host-s", {"SESSION_COOKIE_SECURE": True, "APPLICATION_ROOT": "/shop"}),
        (
            "__Host-s",
            {"SESSION_COOKIE_SECURE": True, "SESSION_COOKIE_DOMAIN": "example.com"},
        ),
    ],
)
def test_prefixes_without_their_conditions(name: str, others: dict[str, Any]) -> None:
    """A prefix whose conditions are not met is an error that names the name, the
    conditions and the settings to change.
    """
    with pytest.raises(SessionConfigError) as caught:
        read(SESSION_COOKIE_NAME=name, **others)
    message = str(caught.value)
    assert "SESSION_COOKIE_NAME" == caught.value.key
    assert message.startswith(
        f"SESSION_COOKIE_NAME: {name!r} begins with '{name[:-1]}'"
    )
    assert "SESSION_COOKIE_SECURE = True" in message
    assert ("SESSION_COOKIE_PATH = '/'" in message) == name.startswith("__Host-")
    assert "or choose another name" in message


def test_secure_prefix_with_domain_and_path() -> None:
    """__Secure- asks for neither the path "/" nor a cookie without a domain."""
    config = read(
        SESSION_COOKIE_NAME="__Secure-s",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_DOMAIN="example.com",
        SESSION_COOKIE_PATH="/shop",
    )
    assert "example.com" == config.cookie_domain


def test_samesite_none_needs_secure() -> None:
    """SESSION_COOKIE_SAMESITE = "None" without a secure cookie is warned of, because
    browsers refuse it.
    """
    for given in each("None", "none"):
        config = {"SESSION_COOKIE_SAMESITE": given}
        [message] = warned(config)
        assert "SESSION_COOKIE_SAMESITE is 'None'" in message
        assert "Set SESSION_COOKIE_SECURE = True." in message
        assert [] == warned(config | {"SESSION_COOKIE_SECURE": True})
        assert [] == warned(config | {"SESSION_COOKIE_PARTITIONED": True})
    assert [] == warned({"SESSION_COOKIE_SAMESITE": "Lax"})
    assert [] == warned({"SESSION_COOKIE_SAMESITE": None})


# Keys that mean nothing.


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("SESSION_TYP", "SESSION_TYPE"),
        ("SESSION_COOKIE_NAMES", "SESSION_COOKIE_NAME"),
        ("SESSION_COOKIE_HTTP_ONLY", "SESSION_COOKIE_HTTPONLY"),
        ("SESSION_COOKIE_SAME_SITE", "SESSION_COOKIE_SAMESITE"),
        ("SESSION_PERMANANT", "SESSION_PERMANENT"),
        ("SESSION_SQLALCHEMY_TABLENAME", "SESSION_SQLALCHEMY_TABLE"),
        ("SESSION_SQLALCHEMY_BINDKEY", "SESSION_SQLALCHEMY_BIND_KEY"),
        ("SESSION_REFRESH_EACH_REQUESTS", "SESSION_REFRESH_EACH_REQUEST"),
    ],
)
def test_a_misspelt_key(key: str, meant: str) -> None:
    """A misspelt key is warned of, with the one that was probably meant."""
    expected = f"Flask-SessionSql does not know the key {key}: Did you mean {meant}?"
    assert [expected] == warned({key: 1})


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        (
            "SESSION_SERIALIZATION_FORMAT",
            "there is one format, and both of Flask-Session's are read when its"
            " sessions are adopted (SESSION_ADOPT); remove the key.",
        ),
        *(
            (
                f"SESSION_{key}",
                f"sessions are stored in SQL, and not in {store}; remove the key.",
            )
            for key, store in [
                *(("REDIS", "Redis"), ("MEMCACHED", "Memcached")),
                *(("FILE_DIR", "files"), ("FILE_THRESHOLD", "files")),
                *(("FILE_MODE", "files"), ("MONGODB", "MongoDB")),
                *(("MONGODB_DB", "MongoDB"), ("MONGODB_COLLECT", "MongoDB")),
                *(("CACHELIB", "CacheLib"), ("DYNAMODB", "DynamoDB")),
                ("DYNAMODB_TABLE", "DynamoDB"),
            ]
        ),
        ("SESSION_CLEANUP_N_REQUESTS", "set SESSION_PURGE_INTERVAL, in seconds."),
        ("SESSION_SQLALCHEMY_SEQUENCE", "the table has no sequence; remove the key."),
    ],
)
def test_keys_of_flask_session(key: str, advice: str) -> None:
    """A key of Flask-Session is warned of with what became of it."""
    [message] = warned({key: "value", "SESSION_TYPE": "sqlalchemy"})
    assert f"Flask-SessionSql does not know the key {key}: {advice}" == message


@pytest.mark.parametrize(
    "kind", ["redis", "memcached", "filesystem", "mongodb", "cachelib", "Redis"]
)
def test_other_stores_of_flask_session(kind: str) -> None:
    """A store that is no SQL is an error that says so, and what to do."""
    with pytest.raises(SessionConfigError, match="stores sessions in a SQL") as refused:
        read(SESSION_TYPE=kind)
    assert "stay with Flask-Session" in str(refused.value)
    assert "'Moving in'" in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SESSION_ADOPT_TABLE", "old"),
        ("SESSION_KEY_PREFIX", "shop:"),
        ("SESSION_USE_SIGNER", True),
    ],
)
def test_what_is_about_sessions_taken_over(key: str, value: object) -> None:
    """A setting about Flask-Session's table is warned of where nothing is taken over
    from it; SESSION_ADOPT gives it a meaning.
    """
    config = {"SESSION_TYPE": "sqlalchemy", key: value}
    [message] = warned(config)
    assert f"{key} has no effect, because SESSION_ADOPT is not" in message
    assert [message] == warned({**config, "SESSION_ADOPT": "cookie"})
    assert [] == warned({**config, "SESSION_ADOPT": "flask-session"})


def test_two_tables_of_one_name() -> None:
    """Flask-Session's table cannot be that of the sessions: it is the way back."""
    config = {"SESSION_TYPE": "sqlalchemy", "SESSION_ADOPT": "flask-session"}
    with pytest.raises(SessionConfigError, match="Remove SESSION_SQLALCHEMY_TABLE"):
        read(**config, SESSION_SQLALCHEMY_TABLE="sessions")
    read(**config, SESSION_SQLALCHEMY_TABLE="sessions", SESSION_ADOPT_TABLE="old")


@pytest.mark.parametrize("key", ["SESSION_REGIS", "SESSION_FILES", "SESSION_X"])
def test_an_unknown_key(key: str) -> None:
    """Any other key that begins with SESSION_ is warned of with those that there
    are.
    """
    [message] = warned({key: None})
    assert f"does not know the key {key}: It knows" in message
    for known in {key for key, *_ in GOOD if key.startswith("SESSION_")}:
        assert known in message


@pytest.mark.parametrize(
    "key",
    [
        *sorted({key for key, *_ in GOOD}),
        *("SESSION_PROTECTION", "REMEMBER_COOKIE_NAME", "SECRET_KEY", "SESSIONS"),
        *("session_type", "SQLALCHEMY_BINDS", "SQLALCHEMY_ENGINE_OPTIONS"),
    ],
)
def test_known_keys_are_not_warned_of(key: str) -> None:
    """Neither the package's own keys nor those of others are warned of."""
    assert [] == warned({key: None})


def test_each_unknown_key_is_warned_of() -> None:
    """Every unknown key has a warning of its own, in the order of the keys; they do
    not keep the rest from being read.
    """
    config = {"SESSION_ZZ": 1, "SESSION_AA": 1, "SESSION_ID_LENGTH": 20, 7: "odd"}
    first, second = warned(config)  # type: ignore[arg-type]
    assert "SESSION_AA" in first
    assert "SESSION_ZZ" in second


def test_a_warning_shows_no_value() -> None:
    """What stands under an unknown key is not shown: it may be a secret."""
    [message] = warned({"SESSION_REDIS": "redis://:hunter2@localhost"})
    assert "hunter2" not in message


def _from_mapping(app: Flask) -> int:
    SessionConfig.from_mapping(app.config)
    return _line() - 1


def _constructor(app: Flask) -> int:
    Session(app)
    return _line() - 1


def _init_app(app: Flask) -> int:
    Session().init_app(app)
    return _line() - 1


def _line() -> int:
    return sys._getframe(1).f_lineno


@pytest.mark.parametrize("set_up", [_from_mapping, _constructor, _init_app])
@pytest.mark.parametrize(
    "config", [{"SESSION_REDIS": 1}, {"SESSION_COOKIE_SAMESITE": "None"}]
)
def test_a_warning_points_at_the_application(
    set_up: Callable[[Flask], int], config: dict[str, Any]
) -> None:
    """A warning has the file and the line where the application set the sessions
    up.
    """
    app = Flask("shop")
    app.config.update(config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = set_up(app)
    [warning] = caught
    assert __file__ == warning.filename
    assert line == warning.lineno


def test_a_warning_points_at_a_package_of_a_similar_name() -> None:
    """An application whose package's name begins like this one's is not skipped."""
    code = compile("Session(app)\n", "/srv/flask_sessionsql_demo.py", "exec")
    app = Flask("shop")
    app.config["SESSION_REDIS"] = 1
    names = {"__name__": "flask_sessionsql_demo", "Session": Session, "app": app}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(code, names)
    assert "/srv/flask_sessionsql_demo.py" == caught[0].filename


def test_warnings_can_be_turned_into_errors() -> None:
    """The category is public, so an application can filter on it."""
    with pytest.warns(SessionConfigWarning, match="SESSION_REDIS"):
        read(SESSION_REDIS=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", SessionConfigWarning)
        with pytest.raises(SessionConfigWarning):
            read(SESSION_REDIS=1)
    assert issubclass(SessionConfigWarning, UserWarning)


def test_settings_from_a_subclass_of_int_and_text() -> None:
    """Numbers and texts of subclasses are taken like those of the base."""

    class Seconds(int):
        pass

    class Name(str):
        __slots__ = ()

    config = read(
        PERMANENT_SESSION_LIFETIME=Seconds(60), SESSION_SQLALCHEMY_TABLE=Name("t")
    )
    assert (60, "t") == (config.lifetime, config.table)
