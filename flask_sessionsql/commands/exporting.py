"""``flask sessions export``: the live sessions as JSON lines."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from flask import current_app

from ..exceptions import UnreadableSessionError
from ..formats.documents import from_value
from ..interfaces import FlaskSQLAlchemySessionInterface, secret_keys
from ..sessions import HIDDEN_KEYS
from ..storage.administration import ANYBODY
from ..storage.store import StoredSession
from .base import (
    LEFT,
    command_error,
    exit_codes,
    interface_of_app,
    sessions_command,
    somebody,
)
from .console import counted, progress, say, session_document

__all__ = ["export_command"]


@sessions_command.command(
    "export",
    short_help="Write live sessions as JSON lines.",
    epilog=exit_codes(
        {
            0: "all are written",
            1: "an error",
            LEFT: "some could not be read; the others are written",
        }
    ),
)
@click.option(
    "--user",
    metavar="USER",
    callback=somebody,
    help="Only the sessions of this user, as session[SESSION_USER_KEY] has it.",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write to this file, which must not exist; only its owner can read it. By"
    " default, write to standard output.",
)
@click.pass_context
def export_command(ctx: click.Context, user: str | None, output: str | None) -> None:
    """Write the live sessions with all their data, one JSON document a line: for a
    backup, for a user who asks for their data, or to go back to the previous site. A
    value that JSON lacks is written with the name of its type, as the page 'Moving in'
    of the documentation says. These are the users' data: mind where they go.
    """
    interface, secrets = interface_of_app(), secret_keys(current_app)
    administration, unread = interface.administration, list[str]()
    total = administration.stats if user is None else None
    written = 0
    with _opened(output) as write, _shown(output, total) as advance:
        for row in administration.rows(ANYBODY if user is None else user):
            try:
                document = _document(interface, row, secrets)
            except UnreadableSessionError:
                unread.append(row.handle)
            else:
                # In ASCII, so that no character in it ends the line.
                write(json.dumps(document, allow_nan=False))
                written += 1
            advance(1)
    say(f"Wrote {counted(written, 'session')}.", err=True)
    if unread:
        some, more = ", ".join(unread[:10]), " ..." if len(unread) > 10 else ""
        say(
            f"{counted(len(unread), 'session')} could not be read: {some}{more}. 'flask"
            " sessions show' says why.",
            err=True,
        )
    ctx.exit(LEFT if unread else 0)


def _document(
    interface: FlaskSQLAlchemySessionInterface,
    row: StoredSession,
    secrets: list[str | bytes],
) -> dict[str, Any]:
    """A session with all its data.

    :raises UnreadableSessionError: it cannot be read.
    """
    data = interface.records.whole(row, secrets)
    permanent = interface.config.permanent
    document = session_document(row, data, len(row.data), permanent=permanent)
    shown = {key: data[key] for key in data if key not in HIDDEN_KEYS}
    return {"id": row.id.hex(), **document, "data": from_value(shown)}


@contextmanager
def _opened(output: str | None) -> Iterator[Callable[[str], object]]:
    """A function that writes a line."""
    if output is None:
        yield say
        return
    try:
        # Nobody else can read it, from the first moment on.
        number = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise command_error(
            f"The file {output!r} cannot be created: {error.strerror}. Give --output"
            " the name of one that does not exist, in a folder where you may write."
        ) from error
    file = os.fdopen(number, "w", encoding="ascii")

    def write(line: str) -> None:
        with _writing(output):
            print(line, file=file)

    try:
        yield write
    finally:
        with _writing(output):
            file.close()


@contextmanager
def _writing(output: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # Or the next try would find a part of it there.
        Path(output).unlink(missing_ok=True)
        raise command_error(
            f"The file {output!r} cannot be written: {error.strerror}. It is removed."
            " Make room, or give --output the name of one elsewhere."
        ) from error


@contextmanager
def _shown(
    output: str | None, stats: Callable[[], Any] | None
) -> Iterator[Callable[[int], object]]:
    """A progress bar, unless the sessions go to the same terminal, or are few."""
    if stats is None or (output is None and sys.stdout.isatty()):
        yield lambda done: None
        return
    with progress("Exporting", lambda: int(stats().live)) as advance:
        yield advance
