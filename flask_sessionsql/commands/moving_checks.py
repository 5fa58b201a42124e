"""Checks of a move: how many sessions are not adopted yet, and when ``SESSION_ADOPT``
can be removed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from flask import Flask

from ..adopting import CookieAdopter, FlaskSessionAdopter
from ..exceptions import SessionTableError
from ..interfaces import FlaskSQLAlchemySessionInterface
from ..storage.adoption import ForeignTableError
from ..storage.tables import as_time
from .console import counted, readable_time
from .findings import Finding, error, warning

__all__ = ["check_moving"]


def check_moving(
    app: Flask, interface: FlaskSQLAlchemySessionInterface
) -> Iterator[Finding]:
    """The findings about a move that is not finished."""
    adopter = interface.adopter
    if isinstance(adopter, FlaskSessionAdopter):
        config = interface.config
        yield from _check_table(adopter, config.adopt_table, config.key_prefix)
    elif isinstance(adopter, CookieAdopter):
        yield _cookies(adopter, interface.current_config(app).lifetime)


def _check_table(
    adopter: FlaskSessionAdopter, table: str, prefix: str
) -> Iterator[Finding]:
    now = int(time.time())
    waiting, until = adopter.notes.waiting(now)
    try:
        left, last = adopter.table.count(now, prefix)
        adopter.table.check_rights()
    except SessionTableError as why:
        advice = "Sessions cannot be moved without it: a request that tries fails."
        yield error("SESSION_ADOPT_TABLE", str(why), advice)
        return
    except ForeignTableError as why:
        left, last = 0, None
        if not waiting:  # after moving all, the table may be dropped
            advice = (
                "Set SESSION_ADOPT_TABLE to its name. If its sessions were moved and it"
                " is dropped, remove SESSION_ADOPT."
            )
            yield error("SESSION_ADOPT_TABLE", str(why), advice)
            return
    if left:
        problem = (
            f"{counted(left, 'live session')} of Flask-Session's may be left in"
            f" {table!r}. The last of them ends at {_when(last)}."
        )
        advice = (
            "'flask sessions adopt' moves them now; those that it leaves end with their"
            " time. Leave the setting in either case: their browsers have their old"
            " cookies until they come."
        )
        yield warning("SESSION_ADOPT", problem, advice)
    elif waiting:
        problem = (
            f"No live session is left in {table!r}. The browsers of"
            f" {counted(waiting, 'session')} that came from there have not sent their"
            f" new cookies yet. The last of these sessions ends at {_when(until)}."
        )
        yield warning("SESSION_ADOPT", problem, "Leave the setting until then.")
    else:
        problem = (
            f"No live session is left in {table!r}, and every browser has sent its new"
            " cookie."
        )
        advice = (
            "Remove SESSION_ADOPT, SESSION_ADOPT_TABLE, SESSION_KEY_PREFIX and"
            " SESSION_USE_SIGNER, and drop the table when you need no way back."
        )
        yield warning("SESSION_ADOPT", problem, advice)


def _cookies(adopter: CookieAdopter, lifetime: int) -> Finding:
    number, last = adopter.notes.taken()
    problem = f"Signed cookies of Flask that were adopted lately: {number:,}."
    if last is not None:
        problem += f" The last of them would have been valid until {_when(last)}."
    advice = (
        f"Leave the setting for {counted(math.ceil(lifetime / 24 / 3600), 'day')}"
        " (PERMANENT_SESSION_LIFETIME) after the last server of the previous site has"
        " stopped. Then no signed cookie is valid any more: remove the setting."
    )
    return warning("SESSION_ADOPT", problem, advice)


def _when(seconds: int | None) -> str:
    return readable_time(as_time(seconds or 0))
