"""Saving a session: deciding what to write, and writing it among other requests."""
