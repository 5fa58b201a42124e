"""The public names, used as an application would; checked by mypy and pyright, never
run.
"""

from __future__ import annotations

from typing import Any, assert_type

from flask import Flask, session

from flask_sessionsql import (
    FlaskSQLAlchemySessionInterface,
    NullSessionError,
    NullSessionInterface,
    ServerSideSession,
    Session,
    SessionConfigError,
    SessionError,
    SessionStoreUnavailableError,
    SessionValueError,
)
from flask_sessionsql.config import SessionConfig
from flask_sessionsql.serializers import MsgpackSerializer, Serializer

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
    except (NullSessionError, SessionError):
        raise


assert_type(SessionConfig.from_mapping(app.config), SessionConfig)
serializer: Serializer = MsgpackSerializer()
assert_type(serializer.dumps({"a": 1}), bytes)
assert_type(serializer.loads(b""), dict[Any, Any])
