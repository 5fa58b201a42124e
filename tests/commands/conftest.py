"""Sites that move, for the commands that are about them."""

from __future__ import annotations

from tests.adopting.conftest import new_site, old_site

__all__ = ["new_site", "old_site"]
