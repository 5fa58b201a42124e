"""The public names, used as an application would; checked by mypy and pyright, never
run.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from blinker import Signal
from flask import Flask
from flask.testing import FlaskClient

from flask_sessionsql import (
    FlaskSQLAlchemySessionInterface,
    NullSessionError,
    NullSessionInterface,
    ServerSideSession,
    Session,
    SessionConfigError,
    SessionConfigWarning,
    SessionConflictError,
    SessionCreated,
    SessionEnded,
    SessionError,
    SessionInfo,
    SessionLimitError,
    SessionMerged,
    SessionRefused,
    SessionRotated,
    SessionStoreUnavailableError,
    SessionTableError,
    SessionTooLargeError,
    SessionUnreadable,
    SessionValueError,
    UnreadableSessionError,
    session,
    session_created,
    session_ended,
    session_merged,
    session_refused,
    session_rotated,
    session_unreadable,
)
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.formats.serializers import MsgpackSerializer, Serializer
from flask_sessionsql.signals import EndReason
from flask_sessionsql.testing import (
    database_down,
    expire,
    log_in,
    revoke,
    session_transaction,
)

app = Flask(__name__)
assert_type(Session(app), Session)
sessions = Session()
assert_type(sessions.init_app(app), None)


@app.get("/")
def index() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


def with_our_type(opened: ServerSideSession) -> None:
    assert_type(opened.copy(), dict[Any, Any])
    assert_type(opened | {"a": 1}, dict[Any, Any])
    assert_type(opened.new, bool)
    assert_type(opened.permanent, bool)
    assert_type(opened.handle, str | None)
    assert_type(opened.created_at, datetime | None)
    assert_type(opened.expires_at, datetime | None)
    assert_type(opened.regenerate(), None)
    opened.set_expiry(datetime.now(UTC))
    opened.set_expiry(timedelta(hours=1))
    opened.set_expiry(None)
    opened.set_lifetime(timedelta(days=30))
    opened.set_lifetime(None)
    assert_type(opened.label, str | None)
    opened.label = "Work laptop"
    opened.label = None
    assert_type(opened.counts_as_use, bool)
    opened.counts_as_use = False
    opened["key"] = ("any", "value")
    del opened["key"]
    opened.clear()


def which(application: Flask) -> bool:
    return isinstance(
        application.session_interface,
        (FlaskSQLAlchemySessionInterface, NullSessionInterface),
    )


def errors() -> None:
    try:
        index()
    except SessionValueError as error:
        assert_type(error.path, str)
        assert_type(error.value_type, type)
    except SessionConfigError as error:
        assert_type(error.key, str)
    except SessionStoreUnavailableError as error:
        assert_type(error.reason, str)
    except SessionTooLargeError as error:
        assert_type(error.size, int)
        assert_type(error.limit, int)
        for key, size in error.largest:
            assert_type((key, size), tuple[object, int])
    except SessionLimitError as error:
        assert_type(error.limit, int)
    except (SessionConflictError, SessionTableError, UnreadableSessionError):
        raise
    except (NullSessionError, SessionError):
        raise


assert_type(session, ServerSideSession)
warning: type[UserWarning] = SessionConfigWarning


def lists_and_ends() -> None:
    for info in sessions.user_sessions("ann"):
        assert_type(info, SessionInfo)
        assert_type(info.handle, str)
        assert_type(info.created_at, datetime)
        assert_type(info.current, bool)
        assert_type(info.label, str | None)
        assert_type(sessions.revoke(info.handle), bool)
        assert_type(sessions.revoke(info.handle, user="ann"), bool)
    assert_type(sessions.read("a handle"), dict[str, Any] | None)
    assert_type(sessions.read("a handle", user="ann"), dict[str, Any] | None)
    assert_type(sessions.revoke_user("ann"), int)
    assert_type(sessions.revoke_others(), int)
    assert_type(sessions.revoke_all(), int)


assert_type(session_created, Signal)
signals: tuple[Signal, ...] = (
    *(session_rotated, session_merged, session_ended),
    *(session_refused, session_unreadable),
)


@session_ended.connect_via(app)
def note(sender: Flask, event: SessionEnded) -> None:
    assert_type(event.handle, str | None)
    assert_type(event.user_id, str | None)
    assert_type(event.reason, EndReason)


def events(
    event: SessionCreated
    | SessionRotated
    | SessionMerged
    | SessionRefused
    | SessionUnreadable,
) -> str | None:
    if isinstance(event, SessionRotated):
        assert_type(event.previous_user_id, str | None)
    if isinstance(event, SessionMerged):
        assert_type(event.overwritten, tuple[Any, ...])
    if isinstance(event, SessionRefused):
        return event.reason
    return event.user_id


config = SessionConfig.from_mapping(app.config)
assert_type(config, SessionConfig)
assert_type(config.max_bytes, int)
assert_type(config.encrypt, bool | str)
assert_type(config.absolute_lifetime, int | None)
assert_type(SessionConfig(max_bytes=5).record_client, bool)
assert_type(SessionConfig.table, str)
serializer: Serializer = MsgpackSerializer()
assert_type(serializer.dumps({"a": 1}), bytes)
assert_type(serializer.loads(b""), dict[Any, Any])


def tests_of_applications(client: FlaskClient) -> None:
    assert_type(log_in(client, "ann"), None)
    log_in(client, 42, theme="dark", _fresh=False)
    with session_transaction(client) as of_client:
        assert_type(of_client, ServerSideSession)
    assert_type(expire(client), None)
    expire(client, "absolute")
    expire(client, lifetime="idle")
    assert_type(revoke(client), None)
    with database_down(app) as nothing:
        assert_type(nothing, None)
    with database_down(client.application, read_only=True):
        pass
