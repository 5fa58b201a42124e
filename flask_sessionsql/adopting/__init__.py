"""Adopting: taking over the sessions of the previous site, so nobody is logged out."""

from __future__ import annotations

from ..config import SessionConfig
from ..saving.records import SessionRecords
from .arrival import Arrival
from .base import Adopter
from .cookies import CookieAdopter
from .flask_session import FlaskSessionAdopter

__all__ = ["Adopter", "Arrival", "CookieAdopter", "FlaskSessionAdopter", "adopter_of"]

_ADOPTERS: dict[str, type[Adopter]] = {
    "flask-session": FlaskSessionAdopter,
    "cookie": CookieAdopter,
}


def adopter_of(config: SessionConfig, records: SessionRecords) -> Adopter | None:
    """The adopter for ``SESSION_ADOPT``; ``None`` if it is not set."""
    kind = None if config.adopt is None else _ADOPTERS[config.adopt]
    return None if kind is None else kind(config, records)
