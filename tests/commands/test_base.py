"""What the commands of ``flask sessions`` have in common."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from flask_sessionsql.commands.base import (
    Seconds,
    command_error,
    exit_codes,
    pace_options,
    somebody,
)


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        ([], 0, "500 0.05 None"),
        (["--batch-size", "7", "--pause", "0"], 0, "7 0.0 None"),
        (["--max-seconds", "1.5"], 0, "500 0.05 1.5"),
        (["--batch-size", "0"], 2, "0 is not in the range"),
        (["--pause", "nan"], 2, "'nan' is not a number of seconds"),
        (["--max-seconds", "0"], 2, "is not in the range"),
        (["--user", ""], 2, "It is empty. Give the user's id."),
    ],
)
def test_options(options: list[str], code: int, told: str) -> None:
    """They have sane defaults, and refuse what cannot work."""

    @click.command()
    @pace_options("Look at")
    @click.option("--user", callback=somebody)
    def command(
        batch_size: int, pause: float, max_seconds: float | None, user: str | None
    ) -> None:
        click.echo(f"{batch_size} {pause} {max_seconds}")

    result = CliRunner().invoke(command, options)

    assert code == result.exit_code
    assert told in result.output


def test_errors_are_one_line() -> None:
    """An error is one line, in which no control character does anything."""
    assert "a b \\x1b" == command_error("a\n  b \x1b").message


def test_exit_codes_are_in_the_help() -> None:
    """They stand in the order of their numbers, with what all commands have."""
    lines = exit_codes({3: "late", 0: "done"}).splitlines()

    assert ["0", "2", "3"] == [line.split()[0] for line in lines[2:]]
    assert "seconds" == Seconds.name
