"""The commands of ``flask sessions``.

The page :doc:`/reference/commands` has their options, output and exit codes.
"""

from __future__ import annotations

import time
from dataclasses import asdict

import click
from flask import current_app
from flask.cli import with_appcontext

from ..interfaces import secret_keys
from ..sessions import HIDDEN_KEYS
from ..storage.purging import count_expired, purge
from .adopting import adopt_command
from .base import (
    INTERRUPTED,
    TIME_OVER,
    TIMES_AND_SIZES,
    command_error,
    exit_codes,
    interface_of_app,
    json_option,
    pace_options,
    sessions_command,
    somebody,
    told_at_the_end,
)
from .checks import check_all
from .console import (
    counted,
    escaped,
    finding_text,
    info_document,
    keys_document,
    progress,
    readable_size,
    say,
    say_json,
    say_list,
    say_pairs,
    say_session,
    session_document,
    terminal_width,
)
from .exporting import export_command

__all__ = ["session_cleanup_command", "sessions_command"]

sessions_command.add_command(adopt_command)
sessions_command.add_command(export_command)

# list


@sessions_command.command(
    "list",
    short_help="List the live sessions.",
    epilog=exit_codes({0: "the list is printed, even if it is empty", 1: "an error"}),
)
@click.option(
    "--user",
    metavar="USER",
    callback=somebody,
    help="Only the sessions of this user, as session[SESSION_USER_KEY] has it.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    default=50,
    show_default=True,
    help="The maximum number; if there are more, standard error says so.",
)
@json_option(TIMES_AND_SIZES)
def list_command(user: str | None, limit: int, as_json: bool) -> None:
    """List the live sessions, the one that ends last first; with --user, the one used
    last first. Times are in UTC. Long values are cut; 'show' and --json have all of
    them. On a terminal, lines are at most as long as it is wide: standard error says
    what is left out for that.
    """
    administration = interface_of_app().administration
    if user is None:
        found = administration.all(limit + 1)
    else:
        found = administration.of_user(user, current=None)
    shown, more = found[:limit], len(found) > limit
    if as_json:
        say_json({"sessions": [*map(info_document, shown)], "more": more})
    elif shown:
        say_list(shown, terminal_width())
    else:
        say("There are no live sessions.", err=True)
    if more:
        say(f"There are more than these {limit:,}: see --limit.", err=True)


# show


@sessions_command.command(
    "show",
    short_help="Show a session's facts and keys.",
    epilog=exit_codes(
        {0: "the session is shown", 1: "there is none, or it cannot be read"}
    ),
)
@click.argument("handle")
@click.option(
    "--values",
    is_flag=True,
    help="Show the values, too. They are the user's: mind who sees your screen.",
)
@json_option(TIMES_AND_SIZES)
def show_command(handle: str, values: bool, as_json: bool) -> None:
    """Show what is known about the live session HANDLE, a handle from 'list', and its
    keys with the bytes that key and value take.
    """
    interface = interface_of_app()
    row = interface.administration.row(handle)
    if row is None:
        # Without the argument: it may be a token by mistake.
        raise command_error(
            "There is no live session of that handle. 'flask sessions list' shows the"
            " handles."
        )
    data = interface.records.whole(row, secret_keys(current_app))
    permanent = interface.config.permanent
    document = session_document(row, data, len(row.data), permanent=permanent)
    shown = {key: data[key] for key in data if key not in HIDDEN_KEYS}
    sizes = interface.records.planner.sizes(shown)
    if as_json:
        keys = keys_document(sizes, shown if values else None)
        say_json({**document, "keys": keys})
    else:
        say_session(document, sizes, shown if values else None)


# revoke


@sessions_command.command(
    "revoke",
    short_help="End sessions.",
    epilog=exit_codes(
        {
            0: "they are ended",
            1: "an error, no session of that handle, or not confirmed",
        }
    ),
)
@click.option("--handle", metavar="HANDLE", help="End the session of this handle.")
@click.option(
    "--user", metavar="USER", callback=somebody, help="End all sessions of this user."
)
@click.option(
    "--all",
    "everybody",
    is_flag=True,
    help="End all sessions of all users; asks first.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option()
def revoke_command(
    handle: str | None, user: str | None, everybody: bool, yes: bool, as_json: bool
) -> None:
    """End sessions: one, those of a user, or all. Give one of --handle, --user and
    --all. The sessions are dead at the next request of any process, and no running
    request brings them back.
    """
    if sum((handle is not None, user is not None, everybody)) != 1:
        raise click.UsageError("Give one of --handle, --user and --all.")
    administration = interface_of_app().administration
    if everybody and not yes:
        click.confirm("End all sessions of all users?", abort=True, err=True)
    if handle is not None:
        ended = int(administration.revoke(handle))
    elif user is not None:
        ended = administration.revoke_user(user)
    else:
        ended = administration.revoke_all()
    missing = handle is not None and not ended
    if as_json:
        say_json({"ended": ended})
    elif not missing:
        say(f"Ended {counted(ended, 'session')}.")
    if missing:
        raise command_error("There is no session of that handle.")


# purge


@sessions_command.command(
    "purge",
    short_help="Delete the rows of expired sessions.",
    epilog=exit_codes(
        {
            0: "nothing is left that had expired when it began (--dry-run: counted)",
            1: "an error; what was deleted until then is deleted",
            TIME_OVER: "the time was over, and some are left",
            INTERRUPTED: "interrupted; what was deleted until then is deleted",
        }
    ),
)
@pace_options("Look at")
@click.option("--dry-run", is_flag=True, help="Delete nothing; only count.")
@json_option()
@click.pass_context
def purge_command(
    ctx: click.Context,
    batch_size: int,
    pause: float,
    max_seconds: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete the rows of expired sessions, in batches. Nothing finds such rows any
    more, so this only frees space. It may run while the application runs, several times
    at once, and continues where the last run stopped. On a terminal it shows its
    progress. On SQLite each batch waits up to 60 seconds for its turn, even if a
    program writes to the file all the time. However it ends, it prints how many rows it
    has deleted.
    """
    records, now = interface_of_app().records, int(time.time())
    database = records.store.database
    if dry_run:
        _say_purged(0, count_expired(database, now), as_json, dry_run=True)
        return
    batches = purge(
        database,
        now,
        batch=batch_size,
        pause=pause,
        max_seconds=max_seconds,
        tell=records.tell,
    )
    total, seen, left = 0, batch_size, None

    def tell(failed: bool) -> None:
        if total or as_json or not failed:
            _say_purged(total, left, as_json)

    with told_at_the_end(ctx, tell):
        with progress("Purging", lambda: count_expired(database, now)) as advance:
            for done in batches:
                total, seen = total + done.deleted, done.seen
                advance(done.deleted)
        # Rows that the last batch did not find are being deleted by other processes.
        left = count_expired(database, now) if seen == batch_size else 0
    ctx.exit(TIME_OVER if left else 0)


def _say_purged(
    deleted: int, left: int | None, as_json: bool, *, dry_run: bool = False
) -> None:
    if as_json:
        say_json({"deleted": deleted, "left": left})
    elif dry_run:
        say(f"{counted(left or 0, 'expired session')} would be deleted.")
    else:
        rest = f" {left:,} are left." if left else ""
        say(f"Deleted {counted(deleted, 'expired session')}.{rest}")


# stats


@sessions_command.command(
    "stats",
    short_help="Count the sessions and their users.",
    epilog=exit_codes({0: "the counts are printed", 1: "an error"}),
)
@json_option(", with sizes in bytes")
def stats_command(as_json: bool) -> None:
    """Show how many sessions and users there are, and how large the sessions are. This
    reads the whole table.
    """
    stats = interface_of_app().administration.stats()
    if as_json:
        say_json(asdict(stats))
        return
    say_pairs(
        [
            ("Live sessions", f"{stats.live:,}"),
            ("Of users logged in", f"{stats.logged_in:,}"),
            ("Users logged in", f"{stats.users:,}"),
            ("Expired, not purged", f"{stats.expired:,}"),
            ("Data in all rows", readable_size(stats.data_bytes)),
            ("Largest session", readable_size(stats.largest_bytes)),
        ]
    )


# check


@sessions_command.command(
    "check",
    short_help="Check the table and the settings.",
    epilog=exit_codes({0: "nothing is wrong, or only warnings", 1: "an error"}),
)
@json_option()
@click.pass_context
def check_command(ctx: click.Context, as_json: bool) -> None:
    """Check the settings and the table in the database, and say what is wrong and what
    to do about it. Nothing is changed.
    """
    findings = check_all(current_app, interface_of_app())
    if as_json:
        say_json({"findings": [asdict(finding) for finding in findings]})
    elif findings:
        say("\n\n".join(map(finding_text, findings)))
    else:
        say("Nothing is wrong.")
    ctx.exit(int(any(finding.level == "error" for finding in findings)))


# create-table


@sessions_command.command(
    "create-table",
    short_help="Create the table, if it is missing.",
    epilog=exit_codes({0: "the table is there", 1: "an error"}),
)
def create_table_command() -> None:
    """Create the sessions table with its indexes, if it is missing. An application with
    migrations creates it in a migration instead.
    """
    database = interface_of_app().records.store.database
    name = escaped(database.table.fullname)
    if database.provide_table():
        say(f"Created the table {name}.")
    else:
        say(f"The table {name} was there already.")


# The name of Flask-Session's command


@click.command(
    "session_cleanup",
    hidden=True,
    help="Run 'flask sessions purge'; this is Flask-Session's name for it.",
)
@with_appcontext
@click.pass_context
def session_cleanup_command(ctx: click.Context) -> None:
    """Run ``purge``: a timer of the previous site may still use this name."""
    told = (
        "'flask session_cleanup' is Flask-Session's. Here it is called 'flask sessions"
    )
    say(f"{told} purge', which is run now.", err=True)
    code = sessions_command.main(["purge"], standalone_mode=False, obj=ctx.obj)
    ctx.exit(code or 0)
