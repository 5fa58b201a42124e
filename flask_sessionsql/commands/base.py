"""Code that the commands share."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy import exc as sa_exc

from ..exceptions import SessionError, SessionStoreUnavailableError
from ..interfaces import FlaskSQLAlchemySessionInterface
from ..storage.deadlines import patiently
from ..storage.outages import explained
from ..storage.purging import BATCH, PAUSE
from ..storage.turns import insisting
from .console import escaped

__all__ = [
    "INTERRUPTED",
    "LARGEST_BATCH",
    "LEFT",
    "TIMES_AND_SIZES",
    "TIME_OVER",
    "Seconds",
    "command_error",
    "exit_codes",
    "interface_of_app",
    "json_option",
    "pace_options",
    "sessions_command",
    "somebody",
    "told_at_the_end",
]

T = TypeVar("T", bound=Callable[..., Any])

#: How many rows one statement can name on every database.
LARGEST_BATCH = 10_000

#: How many seconds a command tries for the lock of a SQLite file, each time; the help
#: of ``purge`` says so.
TURN = 60

#: Exit code: the time was over, and some rows are left.
TIME_OVER = 3
#: Exit code of ``adopt`` and ``export``: some sessions could not be read.
LEFT = 4
#: Exit code after Ctrl-C, as shells report it.
INTERRUPTED = 130


class Seconds(click.FloatRange):
    """A number of seconds within a range, without "not a number"."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """``value`` as a number."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


class _Commands(AppGroup):
    """Reports an error in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        with _quiet_database(), _errors_told(), patiently(), insisting(TURN):
            return super().invoke(ctx)


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except SessionStoreUnavailableError as error:
        told = explained(error.reason, error.__cause__ or error)
        raise command_error(f"The database cannot be used: {told}") from error
    except SessionError as error:
        raise command_error(str(error)) from error
    except sa_exc.DBAPIError as error:
        # Not str(error), which has the statement and its parameters.
        raise command_error(f"The database refuses: {error.orig}") from error


@contextmanager
def _quiet_database() -> Iterator[None]:
    """Do not print an error twice if logging is not set up."""
    logger = logging.getLogger("flask_sessionsql.storage.outages")
    handler = logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def command_error(message: str) -> click.ClickException:
    """The error of a command, in one line."""
    # Messages of databases can have several lines.
    return click.ClickException(escaped(" ".join(message.split())))


def exit_codes(meanings: Mapping[int, str]) -> str:
    """The end of a command's help, which click must not reformat."""
    known = {**meanings, 2: "it was called wrongly"}
    lines = [f"  {code:<3}  {known[code]}" for code in sorted(known)]
    return "\n".join(["\b", "Exit codes:", *lines])


sessions_command: click.Group = _Commands(
    "sessions",
    short_help="Manage the sessions.",
    help="Manage the sessions: list, show, end and count them, delete expired ones,"
    " and check the table and the settings. No command prints a token.",
)


def json_option(told: str = "") -> Callable[[T], T]:
    """The option ``--json``.

    :param told: added to the help: the formats in the document.
    """
    text = f"Print one JSON document{told}."
    return click.option("--json", "as_json", is_flag=True, help=text)


#: For :func:`json_option`.
TIMES_AND_SIZES = ", with times in ISO 8601 and UTC, and sizes in bytes"


def pace_options(what: str) -> Callable[[T], T]:
    """The options of a command that works in batches.

    :param what: the verb: what one transaction does with the rows.
    """
    options = [
        click.option(
            "--batch-size",
            metavar="ROWS",
            type=click.IntRange(1, LARGEST_BATCH),
            default=BATCH,
            show_default=True,
            help=f"{what} this many rows at once.",
        ),
        click.option(
            "--pause",
            metavar="SECONDS",
            type=Seconds(min=0, max=3600),
            default=PAUSE,
            show_default=True,
            help="The pause between two batches; it is also at least as long as the"
            " last batch took, so that others can use the database. 0 for none.",
        ),
        click.option(
            "--max-seconds",
            metavar="SECONDS",
            type=Seconds(min=0, min_open=True),
            show_default="no limit",
            help="Begin no batch after that time, and make no pause that would end"
            " after it.",
        ),
    ]

    def add(command: T) -> T:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@contextmanager
def told_at_the_end(
    ctx: click.Context, tell: Callable[[bool], object]
) -> Iterator[None]:
    """Report what was done when the block ends, however it ends.

    :param tell: called with whether there was an error.
    """
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
    tell(isinstance(failure, Exception))
    if isinstance(failure, KeyboardInterrupt):
        ctx.exit(INTERRUPTED)
    if failure is not None:
        raise failure


def somebody(ctx: click.Context, option: click.Parameter, user: str | None) -> Any:
    """The callback of an option that names a user."""
    if user == "":
        raise click.BadParameter("It is empty. Give the user's id.")
    return user


def interface_of_app() -> FlaskSQLAlchemySessionInterface:
    """The session interface of the application that the command is for."""
    interface = current_app.extensions.get("sessionsql")
    if not isinstance(interface, FlaskSQLAlchemySessionInterface):
        raise command_error(
            "This application stores no sessions in a database. Set SESSION_TYPE ="
            " 'flask-sqlalchemy' in its configuration before Session(app) or"
            " init_app(app)."
        )
    return interface
