"""``flask sessions adopt``: adopts the sessions in Flask-Session's table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

import click
from flask import current_app

from ..adopting import FlaskSessionAdopter
from ..adopting.base import WHY, Reason
from ..interfaces import secret_keys
from ..storage.adoption import ForeignTableError
from .base import (
    INTERRUPTED,
    LEFT,
    TIME_OVER,
    command_error,
    exit_codes,
    interface_of_app,
    json_option,
    pace_options,
    sessions_command,
    told_at_the_end,
)
from .console import counted, escaped, progress, say, say_json, say_table

__all__ = ["adopt_command"]


@sessions_command.command(
    "adopt",
    short_help="Adopt what is left in Flask-Session's table.",
    epilog=exit_codes(
        {
            0: "nothing is left that is alive (--dry-run: nothing would be)",
            1: "an error; what was adopted until then is here",
            TIME_OVER: "the time was over, and some were not looked at",
            LEFT: "all were looked at, and some could not be adopted",
            INTERRUPTED: "interrupted; what was adopted until then is here",
        }
    ),
)
@pace_options("Adopt")
@click.option(
    "--dry-run", is_flag=True, help="Move nothing; say what would happen to each."
)
@json_option()
@click.pass_context
def adopt_command(
    ctx: click.Context,
    batch_size: int,
    pause: float,
    max_seconds: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Adopt the live sessions in Flask-Session's table, without waiting for their
    browsers. Each batch moves in one transaction, so the command may run while the
    application runs, be stopped at any time, and be run again. The browsers keep their
    old cookies until they come: leave SESSION_ADOPT set until 'check' says that it can
    be removed. A session that cannot be adopted stays where it is, and the report says
    why.
    """
    interface, secrets = interface_of_app(), secret_keys(current_app)
    adopter, table = interface.adopter, interface.config.adopt_table
    if not isinstance(adopter, FlaskSessionAdopter):
        raise command_error(
            f"SESSION_ADOPT is {interface.config.adopt!r}, and this command is for"
            " 'flask-session'. Signed cookies are in the browsers, and are adopted when"
            " those come."
        )
    if not secrets:
        raise command_error(
            "No SECRET_KEY is set, and tokens are made with it. Run the command with"
            " the configuration that the application runs with."
        )
    database = interface.records.store.database
    database.provide_table()
    total, ended, left = 0, 0, Counter[Reason]()
    lifetime, complete = interface.current_config(current_app).lifetime, False
    batches = adopter.all(
        secrets,
        lifetime,
        batch=batch_size,
        pause=pause,
        max_seconds=max_seconds,
        dry_run=dry_run,
    )

    def tell(failed: bool) -> None:
        if total or as_json or not failed:
            _say_adopted(total, ended, left, table, as_json, dry_run=dry_run)

    with (
        told_at_the_end(ctx, tell),
        progress(
            "Adopting", lambda: _count(adopter, interface.config.key_prefix)
        ) as advance,
    ):
        for done in batches:
            total, complete = total + done.taken, done.is_last
            ended += done.ended
            left.update(done.left)
            advance(done.seen)
    ctx.exit(_code(complete, left))


def _code(complete: bool, left: Mapping[Reason, int]) -> int:
    if not complete:
        return TIME_OVER
    return LEFT if any(left.values()) else 0


def _count(adopter: FlaskSessionAdopter, prefix: str) -> int:
    try:
        return adopter.table.count(int(time.time()), prefix)[0]
    except ForeignTableError:
        return 0  # the first batch says so


def _say_adopted(
    total: int,
    ended: int,
    left: Mapping[Reason, int],
    table: str,
    as_json: bool,
    *,
    dry_run: bool,
) -> None:
    if as_json:
        why = dict(sorted(left.items()))
        say_json({"taken": total, "ended": ended, "left": why})
        return
    if dry_run:
        say(f"{counted(total, 'session')} would be adopted.")
    else:
        say(f"Adopted {counted(total, 'session')}.")
    if ended:
        say(f"{counted(ended, 'session')} had been ended here, and stay so.")
    if left:
        number = sum(left.values())
        stay = "would be" if dry_run else "is" if number == 1 else "are"
        name = escaped(table)
        say(f"{counted(number, 'session')} {stay} left in the table {name}:")
        rows = [[f"{left[why]:,}", WHY[why]] for why in sorted(left)]
        say_table(["Rows", "Why"], rows, right=["Rows"])
